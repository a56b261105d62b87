//! Whom an action reaches and when: standing ones, machines that are offline, share by share.

use super::{LIFE_MS, agents, answer, commands, investigator, launch, launched, order, result, status, work};
use crate::for_each_backend;
use crate::stage::*;
use muster_core::action::{Action, ActionStatus, CommandStatus};
use muster_store::ActionStore;
use muster_store::actions::{ActionPut, Spread};

for_each_backend! {
    async fn a_standing_action_reaches_machines_that_come_later(stage) {
        stage.agent(1).await;
        let spread = Spread { standing: true, hosts_max: Some(4), ..Spread::default() };
        let id = launched(&stage, 1, spread).await;
        // Agent 1 has not been heard of for two hours: a standing action is for it all the same.
        assert_eq!(work(&stage.store, at(1)).await, 1);
        assert_eq!(work(&stage.store, at(10_000)).await, 0);
        for n in 2..=3 {
            stage.agent(n).await;
        }
        assert_eq!(work(&stage.store, at(20_000)).await, 2);
        for n in 4..=9 {
            stage.agent(n).await;
        }
        assert_eq!(work(&stage.store, at(30_000)).await, 1, "there may be four");
        for n in 1..=4 {
            answer(&stage, vec![result(id, agent(n), CommandStatus::Success, "x")], at(31_000)).await;
        }
        assert_eq!(status(&stage, id).await, ActionStatus::Inflight);
        work(&stage.store, at(LIFE_MS)).await;
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!((row.status, row.counters.sent, row.counters.success), (ActionStatus::Completed, 4, 4));
    }

    async fn agents_that_are_offline_are_given_only_standing_actions(stage) {
        agents(&stage, 2).await;
        let two_hours = 2 * 3_600_000;
        stage.contact(contact(2, at(two_hours))).await;
        let who = investigator(&stage, 1).await;
        let put = order(&stage, 1, &[who]).await;
        let put = ActionPut { action: Action { expire_after: at(2 * two_hours), ..put.action.clone() }, ..put };
        let id = launch(&stage, put.clone()).await;
        assert_eq!(work(&stage.store, at(two_hours + 1)).await, 1);
        assert_eq!(commands(&stage, id).await, [(2, CommandStatus::Sent)]);
        let standing = Spread { standing: true, ..Spread::default() };
        let action = Action { id: Some(stage.store.action_id_take().await.unwrap()), ..put.action.clone() };
        launch(&stage, ActionPut { action, signed: [2; 32], spread: standing, ..put }).await;
        assert_eq!(work(&stage.store, at(two_hours + 2)).await, 2);
    }

    async fn shares_come_one_after_the_other_and_halt(stage) {
        let agents = agents(&stage, 20).await;
        let spread = Spread { rings: vec![5, 25], halt_percent: 20, ..Spread::default() };
        let id = launched(&stage, 1, spread.clone()).await;
        assert_eq!(work(&stage.store, at(1)).await, 1);
        assert_eq!(work(&stage.store, at(5_000)).await, 0, "the first share is not done");
        answer(&stage, vec![result(id, agents[0], CommandStatus::Success, "x")], at(6_000)).await;
        assert_eq!(status(&stage, id).await, ActionStatus::Inflight);
        assert_eq!(work(&stage.store, at(8_000)).await, 4);
        let mut results: Vec<_> = agents[1..5].iter().map(|agent| result(id, *agent, CommandStatus::Success, "x")).collect();
        results[0].status = CommandStatus::Failed;
        results[1].status = CommandStatus::Timeout;
        answer(&stage, results, at(9_000)).await;
        assert_eq!(work(&stage.store, at(12_000)).await, 0);
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!((row.halted, row.matched, row.status), (Some(at(12_000)), 20, ActionStatus::Inflight));
        assert!(row.reason.contains("2 of 5"), "{}", row.reason);
        assert!(stage.store.action_resume(id, at(13_000), &cause()).await.unwrap());
        assert!(!stage.store.action_resume(id, at(13_000), &cause()).await.unwrap());
        assert_eq!(work(&stage.store, at(14_000)).await, 15);
        let results = agents[5..].iter().map(|agent| result(id, *agent, CommandStatus::Success, "x")).collect();
        answer(&stage, results, at(15_000)).await;
        assert_eq!(status(&stage, id).await, ActionStatus::Completed);
    }

    async fn a_share_that_adds_nobody_is_passed_over_and_the_last_machine_halts_nothing(stage) {
        let agents = agents(&stage, 3).await;
        let spread = Spread { rings: vec![1, 10], halt_percent: 10, ..Spread::default() };
        let id = launched(&stage, 1, spread.clone()).await;
        assert_eq!(work(&stage.store, at(1)).await, 1);
        answer(&stage, vec![result(id, agents[0], CommandStatus::Failed, "x")], at(2)).await;
        assert_eq!(work(&stage.store, at(5_000)).await, 0);
        assert!(stage.store.action_get(id).await.unwrap().unwrap().halted.is_some());
        // Ten per cent of three machines is the one that failed: to go on means the others.
        assert!(stage.store.action_resume(id, at(6_000), &cause()).await.unwrap());
        assert_eq!(work(&stage.store, at(7_000)).await, 2);
        let results = agents[1..].iter().map(|agent| result(id, *agent, CommandStatus::Failed, "x")).collect();
        answer(&stage, results, at(8_000)).await;
        assert_eq!(status(&stage, id).await, ActionStatus::Completed);

        // Of one machine, the first share is all of it.
        let who = investigator(&stage, 2).await;
        let put = order(&stage, 2, &[who]).await;
        let action = Action { target: "id = 1".into(), ..put.action.clone() };
        let id = launch(&stage, ActionPut { action, spread, ..put }).await;
        assert_eq!(work(&stage.store, at(9_000)).await, 1);
        answer(&stage, vec![result(id, agents[0], CommandStatus::Failed, "x")], at(9_500)).await;
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!((row.status, row.halted), (ActionStatus::Completed, None));
    }

    async fn an_action_that_nobody_can_run_is_invalid_and_says_why(stage) {
        let nobody = launched(&stage, 1, Spread::default()).await;
        work(&stage.store, at(1)).await;
        let reason = async |id| stage.store.action_get(id).await.unwrap().unwrap().reason;
        assert_eq!(status(&stage, nobody).await, ActionStatus::Invalid);
        assert_eq!(reason(nobody).await, "given to no machine: no agent matches its target");
        agents(&stage, 3).await;
        let who = investigator(&stage, 2).await;
        let put = order(&stage, 2, &[who]).await;
        let unread = ActionPut { action: Action { target: "name LIKE".into(), ..put.action.clone() }, ..put };
        let unread = launch(&stage, unread).await;
        let put = order(&stage, 3, &[who]).await;
        let many = launch(&stage, ActionPut { spread: Spread { hosts_max: Some(2), ..Spread::default() }, ..put }).await;
        let put = order(&stage, 4, &[who]).await;
        let late = ActionPut { action: Action { expire_after: at(1), ..put.action.clone() }, ..put };
        let late = launch(&stage, late).await;
        assert_eq!(work(&stage.store, at(1)).await, 0);
        for id in [unread, many, late] {
            assert_eq!(status(&stage, id).await, ActionStatus::Invalid);
            assert!(!reason(id).await.is_empty());
        }
        assert!(reason(many).await.contains("3 machines match"), "{}", reason(many).await);
        let put = order(&stage, 5, &[who]).await;
        let early = ActionPut { action: Action { valid_from: at(100), ..put.action.clone() }, ..put };
        let early = launch(&stage, early).await;
        assert_eq!(work(&stage.store, at(99)).await, 0);
        assert_eq!(status(&stage, early).await, ActionStatus::Pending);
        assert_eq!(work(&stage.store, at(100)).await, 3);
    }
}
