//! Cancellations that several people sign, again, for other fleets, late, and too many.

use super::*;
use muster_core::limits;

/// What an agent is sent of cancellations, in order of the texts.
async fn sent(stage: &Stage, agent: AgentId, ms: i64) -> Vec<String> {
    let messages = claimed(stage, agent, at(ms)).await;
    assert!(messages.iter().all(|message| message.message_type == system::ACTION_CANCEL), "{messages:?}");
    let text = |message: Message| String::from_utf8(message.payload.unwrap().value).unwrap();
    let mut texts: Vec<_> = messages.into_iter().map(text).collect();
    texts.sort();
    texts
}

/// Launches action 1, and hands it out to all the agents.
async fn handed_out(stage: &Stage, agents: &[AgentId]) -> (ActionId, InvestigatorId) {
    let (id, who) = launched_by(stage, 1).await;
    work(&stage.store, at(1)).await;
    for agent in agents {
        assert_eq!(claimed(stage, *agent, at(2)).await.len(), 1);
    }
    (id, who)
}

for_each_backend! {
    async fn what_nobody_signed_tells_no_agent_and_can_be_signed_afterwards(stage) {
        let agents = agents(&stage, 3).await;
        let (id, who) = launched_by(&stage, 1).await;
        work(&stage.store, at(1)).await;
        assert_eq!(claimed(&stage, agents[0], at(2)).await.len(), 1);
        assert_eq!(cancelled(&stage, id, None, 3).await, CancelTaken::Taken);
        work(&stage.store, at(3)).await;
        for agent in &agents {
            assert_eq!(claimed(&stage, *agent, at(4)).await, [], "no word, and no order any more");
        }
        assert_eq!(cancelled(&stage, id, None, 5).await, CancelTaken::Known);
        assert_eq!(cancelled(&stage, id, Some(cancel_put(who, "", 5, "signed")), 5).await, CancelTaken::Taken);
        work(&stage.store, at(6)).await;
        let told = claimed(&stage, agents[0], at(7)).await;
        assert_eq!(told.iter().map(|told| told.payload.clone()).collect::<Vec<_>>(), [Some(payload("signed"))]);
        let counters = stage.store.action_get(id).await.unwrap().unwrap().counters;
        assert_eq!((counters.cancelled, counters.inflight), (3, 0), "counted once");
        assert_eq!(take(&stage.store, SERVER, Timestamp::MAX).await, None);
        // What came to its end is not called back, whoever signs that.
        let done = launched(&stage, 2, Spread::default()).await;
        work(&stage.store, at(9)).await;
        let results = agents.iter().map(|agent| result(done, *agent, CommandStatus::Success, "x")).collect();
        answer(&stage, results, at(10)).await;
        assert_eq!(status(&stage, done).await, ActionStatus::Completed);
        let late = cancel_put(who, "", 11, "late");
        assert_eq!(cancelled(&stage, done, Some(late), 11).await, CancelTaken::Over);
    }

    async fn a_cancellation_that_machines_refuse_as_too_early_is_signed_again_later(stage) {
        const DAY_MS: i64 = 86_400_000;
        let agents = agents(&stage, 2).await;
        let who = investigator(&stage, 1).await;
        let put = order(&stage, 1, &[who]).await;
        let ends = at(9 * DAY_MS);
        let id = launch(&stage, ActionPut { action: Action { expire_after: ends, ..put.action.clone() }, ..put }).await;
        work(&stage.store, at(1)).await;
        assert_eq!(claimed(&stage, agents[0], at(2)).await.len(), 1);
        let cancel = async |word: &str, ms| cancelled(&stage, id, Some(cancel_put(who, "", ms, word)), ms).await;
        let told = async |ms| {
            work(&stage.store, at(ms)).await;
            let told = claimed(&stage, agents[0], at(ms + 1)).await;
            told.iter().map(|told| told.payload.clone()).collect::<Vec<_>>()
        };
        assert_eq!(cancel("early", 3).await, CancelTaken::Taken);
        assert_eq!(told(4).await, [Some(payload("early"))]);
        assert_eq!(cancel("in time", DAY_MS).await, CancelTaken::Taken);
        assert!(told(DAY_MS + 1).await.contains(&Some(payload("in time"))));
    }

    async fn one_persons_cancellation_keeps_no_other_from_the_machines(stage) {
        let agents = agents(&stage, 5).await;
        let (id, alice) = handed_out(&stage, &agents).await;
        let mallory = investigator(&stage, 2).await;
        assert_eq!(cancelled(&stage, id, Some(cancel_put(mallory, "", 3, "mallory")), 3).await, CancelTaken::Taken);
        work(&stage.store, at(3)).await;
        for agent in &agents {
            assert_eq!(sent(&stage, *agent, 4).await, ["mallory"]);
        }
        assert_eq!(cancelled(&stage, id, Some(cancel_put(alice, "lab", 5, "wrong fleet")), 5).await, CancelTaken::Taken);
        // While the first are still being sent, in steps, one more comes.
        let job = take(&stage.store, SERVER, at(5)).await.unwrap();
        stage.store.action_work(job, ROWS, at(5)).await.unwrap();
        assert_eq!(cancelled(&stage, id, Some(cancel_put(alice, "", 6, "alice")), 6).await, CancelTaken::Taken);
        work(&stage.store, at(60_000)).await;
        for agent in &agents {
            let texts = sent(&stage, *agent, 70_000).await;
            assert!(texts.contains(&"alice".to_owned()) && texts.contains(&"wrong fleet".to_owned()), "{texts:?}");
        }
        let counters = stage.store.action_get(id).await.unwrap().unwrap().counters;
        assert_eq!((counters.cancelled, counters.inflight), (5, 0), "counted once");
        assert_eq!(take(&stage.store, SERVER, Timestamp::MAX).await, None);
    }

    async fn what_is_signed_again_replaces_what_was_signed_before_and_never_the_other_way_round(stage) {
        let agents = agents(&stage, 2).await;
        let (id, alice) = handed_out(&stage, &agents).await;
        cancelled(&stage, id, Some(cancel_put(alice, "", 10, "first")), 10).await;
        work(&stage.store, at(10)).await;
        assert_eq!(cancelled(&stage, id, Some(cancel_put(alice, "", 20, "second")), 20).await, CancelTaken::Taken);
        work(&stage.store, at(20)).await;
        for agent in &agents {
            assert_eq!(sent(&stage, *agent, 21).await, ["second"], "the first, which waited, is not sent any more");
        }
        for again in [cancel_put(alice, "", 10, "first"), cancel_put(alice, "", 20, "second, and other words around it")] {
            assert_eq!(cancelled(&stage, id, Some(again), 22).await, CancelTaken::Known);
        }
        assert_eq!(take(&stage.store, SERVER, Timestamp::MAX).await, None, "nothing is sent for it");
    }

    async fn strangers_fill_their_own_room_and_no_signers(stage) {
        let agents = agents(&stage, 1).await;
        let (id, alice) = handed_out(&stage, &agents).await;
        let per = limits::ACTION_CANCELS_PER_SIGNER_MAX;
        let others = limits::ACTION_CANCELS_OF_OTHERS_MAX / per;
        let mut strangers = Vec::new();
        for n in 0..=others {
            strangers.push(investigator(&stage, 2 + u8::try_from(n).unwrap()).await);
        }
        // More fleets than one person may name take the place of the same person's.
        for fleet in 0..=i64::try_from(per).unwrap() {
            for who in &strangers[..others] {
                let put = cancel_put(*who, &format!("f{fleet}"), 10 + fleet, &format!("{who} {fleet}"));
                assert_eq!(cancelled(&stage, id, Some(put), 100).await, CancelTaken::Taken);
            }
        }
        let refuse = async |put: CancelPut| stage.store.action_cancel(id, Some(put), at(100), &cause()).await.unwrap_err();
        let older = refuse(cancel_put(strangers[0], "f0", 9, "older")).await;
        assert!(older.kind() == ErrorKind::Refused && older.to_string().contains("sign it again"), "{older}");
        let full = refuse(cancel_put(strangers[others], "", 50, "one too many")).await;
        assert!(full.kind() == ErrorKind::Refused && full.to_string().contains("those who signed it"), "{full}");
        assert_eq!(cancelled(&stage, id, Some(cancel_put(alice, "", 50, "alice")), 100).await, CancelTaken::Taken);
        work(&stage.store, at(100)).await;
        let mut texts = Vec::new();
        for round in 1..40 {
            texts.extend(sent(&stage, agents[0], 100 + round).await);
        }
        assert!(texts.contains(&"alice".to_owned()), "{texts:?}");
        assert_eq!(texts.len(), limits::ACTION_CANCELS_OF_OTHERS_MAX + 1);
    }

    async fn who_is_not_active_leaves_no_cancellation(stage) {
        let agents = agents(&stage, 1).await;
        let (id, _) = handed_out(&stage, &agents).await;
        let nobody = InvestigatorId::new(77).unwrap();
        let put = cancel_put(nobody, "", 3, "nobody");
        let refused = stage.store.action_cancel(id, Some(put), at(3), &cause()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused);
        assert_eq!(status(&stage, id).await, ActionStatus::Inflight, "nothing was done");
    }

    async fn what_may_still_run_when_the_window_is_over_is_called_back(stage) {
        let agents = agents(&stage, 3).await;
        let (id, alice) = handed_out(&stage, &agents[..1]).await;
        answer(&stage, vec![result(id, agents[1], CommandStatus::Success, "x")], at(5)).await;
        work(&stage.store, at(LIFE_MS)).await;
        assert_eq!(status(&stage, id).await, ActionStatus::Completed);
        assert_eq!(cancelled(&stage, id, None, LIFE_MS).await, CancelTaken::Known, "a machine may have it");
        let put = cancel_put(alice, "", LIFE_MS, "late");
        assert_eq!(cancelled(&stage, id, Some(put), LIFE_MS + 1).await, CancelTaken::Taken);
        work(&stage.store, at(LIFE_MS + 1)).await;
        assert_eq!(sent(&stage, agents[0], LIFE_MS + 2).await, ["late"]);
        assert_eq!(sent(&stage, agents[1], LIFE_MS + 2).await, NO_TEXTS, "it has answered");
        assert_eq!(status(&stage, id).await, ActionStatus::Completed);
        assert_eq!(take(&stage.store, SERVER, Timestamp::MAX).await, None);
        // Until no machine would take it any more.
        let memory = i64::try_from(limits::LEDGER_MEMORY.as_millis()).unwrap();
        let put = cancel_put(alice, "", LIFE_MS + memory, "too late");
        assert_eq!(cancelled(&stage, id, Some(put), LIFE_MS + memory).await, CancelTaken::Over);
    }
}

const NO_TEXTS: [&str; 0] = [];
