//! Standing actions: every machine that comes to match while the window is open, whatever kept it out before.

use super::{LIFE_MS, answer, commands, investigator, launch, launched, order, result, status, work};
use crate::for_each_backend;
use crate::stage::*;
use muster_core::action::{Action, ActionId, ActionStatus, CommandStatus};
use muster_core::target::Target;
use muster_core::{Address, AgentId, AgentState, Facts, Message, system};
use muster_store::actions::{ActionPut, Spread};
use muster_store::agents::{ContactPut, Effect, Enrolment, Succeeded, Succession};
use muster_store::targets::TargetStates;
use muster_store::{ActionStore, AgentStore, TargetStore};

/// How often work is done until all machines of a case were looked at: two of them each time, and a round of ten is five.
const ROUND: i64 = 6;

fn standing() -> Spread {
    Spread { standing: true, ..Spread::default() }
}

/// Works through a round from `from_ms` on. Returns who was given the action in it.
async fn round(stage: &Stage, id: ActionId, from_ms: i64) -> Vec<u8> {
    let before = given(stage, id).await;
    for n in 0..ROUND {
        work(&stage.store, at(from_ms + n * 2_000)).await;
    }
    given(stage, id).await.into_iter().filter(|n| !before.contains(n)).collect()
}

async fn given(stage: &Stage, id: ActionId) -> Vec<u8> {
    commands(stage, id).await.into_iter().map(|(n, _)| n).collect()
}

async fn set(stage: &Stage, n: u8, to: AgentState, ms: i64) {
    stage.store.agent_state_set(agent(n), to, at(ms), &cause()).await.unwrap();
}

/// Launches action 1 for machines that match `target`.
async fn for_target(stage: &Stage, target: &str, spread: Spread) -> ActionId {
    let who = investigator(stage, 1).await;
    let put = order(stage, 1, &[who]).await;
    launch(stage, ActionPut { action: Action { target: target.into(), ..put.action.clone() }, spread, ..put }).await
}

/// Brings a name and a claimed label of agent `n`; once in twenty seconds.
async fn tell(stage: &Stage, n: u8, name: &str, label: &str, ms: i64) {
    let facts = Facts::from([("fqdn".to_owned(), name.into())]);
    let effects = [Effect::Facts(facts), Effect::ClientLabels(vec![label.to_owned()])];
    let number = |k: usize| u8::try_from(k).unwrap() + 2 * n + 20 * u8::try_from(ms / 20_000).unwrap();
    let message = |(k, effect)| intake(to_server(number(k), agent(n), "system"), effect);
    let intake = effects.into_iter().enumerate().map(message).collect();
    stage.contact(ContactPut { intake, ..contact(n, at(ms)) }).await;
}

fn key_of(n: u8) -> Vec<u8> {
    vec![n; 91]
}

/// Demands a new key of the machine with key `old`, and lets it come back with `new`.
async fn rekey(stage: &Stage, old: u8, new: u8, ms: i64) -> AgentId {
    let agent = AgentId::of_key(&key_of(old));
    let ends = (Address::server(system::SERVICE), Address::agent(agent, system::SERVICE));
    let demand = id(100 + new);
    let message =
        Message { message_type: system::REKEY_REQUEST.into(), ..Message::new(demand, ends.0, ends.1, at(ms)) };
    stage.store.agent_rekey(message, at(ms), &cause()).await.unwrap();
    let enrolment = Enrolment { id: AgentId::of_key(&key_of(new)), ..enrolment(new, AgentState::Waiting, &[]) };
    let succession = Succession { enrolment, old_key: key_of(old), demand };
    let Succeeded::Yes(agent) = stage.store.agent_succeed(succession, at(ms)).await.unwrap() else { panic!("refused") };
    agent.id
}

for_each_backend! {
    async fn machines_that_are_approved_or_unblocked_later_are_given_it(stage) {
        stage.agent(1).await;
        stage.agent_in(2, AgentState::Waiting, &[]).await;
        stage.agent_in(3, AgentState::Blocked, &[]).await;
        stage.agent(4).await;
        stage.agent_in(5, AgentState::Waiting, &[]).await;
        let id = launched(&stage, 1, standing()).await;
        assert_eq!(round(&stage, id, 1).await, [1, 4]);
        set(&stage, 2, AgentState::Enrolled, 20_000).await;
        assert_eq!(round(&stage, id, 20_001).await, [2]);
        set(&stage, 3, AgentState::Enrolled, 40_000).await;
        // What was given before is not given again, whatever became of the machine in between.
        set(&stage, 4, AgentState::Blocked, 40_000).await;
        set(&stage, 4, AgentState::Enrolled, 40_001).await;
        assert_eq!(round(&stage, id, 40_002).await, [3]);
        let row = stage.store.action_get(id).await.unwrap().unwrap();
        assert_eq!((row.status, row.counters.sent), (ActionStatus::Inflight, 4));
        assert_eq!(round(&stage, id, 60_000).await, Vec::<u8>::new());
        // After its window nobody is given it any more.
        work(&stage.store, at(LIFE_MS)).await;
        set(&stage, 5, AgentState::Enrolled, LIFE_MS).await;
        assert_eq!(round(&stage, id, LIFE_MS + 1).await, Vec::<u8>::new());
        assert_eq!(status(&stage, id).await, ActionStatus::Completed);
    }

    async fn machines_that_come_to_match_later_are_given_it(stage) {
        for n in 1..=4 {
            stage.agent(n).await;
        }
        tell(&stage, 1, "linux", "web", 1).await;
        tell(&stage, 2, "linux", "mail", 1).await;
        tell(&stage, 3, "plan9", "web", 1).await;
        let id = for_target(&stage, "name = 'linux' AND tags->>'web' = 'true'", standing()).await;
        assert_eq!(round(&stage, id, 2).await, [1]);
        tell(&stage, 2, "linux", "web", 20_000).await;
        tell(&stage, 3, "linux", "web", 20_000).await;
        assert_eq!(round(&stage, id, 20_001).await, [2, 3]);
        // One that is enrolled first and says what it is afterwards.
        stage.agent(5).await;
        assert_eq!(round(&stage, id, 40_000).await, Vec::<u8>::new());
        tell(&stage, 5, "linux", "web", 60_000).await;
        assert_eq!(round(&stage, id, 60_001).await, [5]);
    }

    async fn a_machine_under_a_new_key_is_given_it_once(stage) {
        for n in [1, 2] {
            let of_key = Enrolment { id: AgentId::of_key(&key_of(n)), ..enrolment(n, AgentState::Enrolled, &[]) };
            stage.store.agent_enrol(of_key, at(0)).await.unwrap();
        }
        let one = AgentId::of_key(&key_of(1));
        let id = for_target(&stage, &format!("agentid <> '{}'", AgentId::of_key(&key_of(2))), standing()).await;
        assert_eq!(round(&stage, id, 1).await.len(), 1);
        answer(&stage, vec![result(id, one, CommandStatus::Success, "x")], at(15_000)).await;
        // What it ran under its first key, it is given neither under the second nor under the third.
        rekey(&stage, 1, 3, 20_000).await;
        assert_eq!(round(&stage, id, 20_001).await, Vec::<u8>::new());
        rekey(&stage, 3, 4, 40_000).await;
        assert_eq!(round(&stage, id, 40_001).await, Vec::<u8>::new());
        // The other one did not match under its first key, and does under its second.
        let two = rekey(&stage, 2, 5, 60_000).await;
        assert_eq!(round(&stage, id, 60_001).await, [two.as_bytes()[7]]);
        assert_eq!(stage.store.action_get(id).await.unwrap().unwrap().counters.sent, 2);
    }

    async fn limits_and_shares_hold_for_machines_that_come_later(stage) {
        stage.agent(1).await;
        for n in 2..=6 {
            stage.agent_in(n, AgentState::Waiting, &[]).await;
        }
        let id = launched(&stage, 1, Spread { hosts_max: Some(3), ..standing() }).await;
        assert_eq!(round(&stage, id, 1).await, [1]);
        for n in 2..=6 {
            set(&stage, n, AgentState::Enrolled, 20_000).await;
        }
        assert_eq!(round(&stage, id, 20_001).await.len(), 2, "there may be three");
        assert_eq!(round(&stage, id, 40_000).await, Vec::<u8>::new());

        // Of six machines the first share is one: the others, and who comes now, wait for what it says.
        let halts = Spread { rings: vec![1], halt_percent: 0, ..standing() };
        let id = launched(&stage, 2, halts).await;
        let first = round(&stage, id, 60_000).await;
        assert_eq!(first, [1]);
        stage.agent(7).await;
        assert_eq!(round(&stage, id, 80_000).await, Vec::<u8>::new());
        answer(&stage, vec![result(id, agent(1), CommandStatus::Failed, "x")], at(99_000)).await;
        assert_eq!(round(&stage, id, 100_000).await, Vec::<u8>::new());
        assert!(stage.store.action_get(id).await.unwrap().unwrap().halted.is_some());
        stage.store.action_resume(id, at(120_000), &cause()).await.unwrap();
        assert_eq!(round(&stage, id, 120_001).await, [2, 3, 4, 5, 6, 7]);
    }

    async fn shares_that_nobody_is_in_wait_for_machines_that_come_later(stage) {
        for n in 1..=9 {
            stage.agent_in(n, AgentState::Waiting, &[]).await;
        }
        let spread = Spread { rings: vec![1, 30], halt_percent: 40, ..standing() };
        let id = launched(&stage, 1, spread).await;
        assert_eq!(round(&stage, id, 1).await, Vec::<u8>::new());
        assert_eq!(status(&stage, id).await, ActionStatus::Inflight);
        for n in 1..=7 {
            set(&stage, n, AgentState::Enrolled, 20_000).await;
        }
        let first = round(&stage, id, 20_001).await;
        assert_eq!(first.len(), 1, "the first share is one machine: {first:?}");
        assert_eq!(round(&stage, id, 40_000).await, Vec::<u8>::new(), "it did not answer");
        answer(&stage, vec![result(id, agent(first[0]), CommandStatus::Success, "x")], at(59_000)).await;
        let second = round(&stage, id, 60_000).await;
        assert_eq!(second.len(), 2, "thirty per cent of seven are three: {second:?}");
        // The halt rule holds for them.
        let failed = second.iter().map(|n| result(id, agent(*n), CommandStatus::Failed, "x")).collect();
        answer(&stage, failed, at(79_000)).await;
        assert_eq!(round(&stage, id, 80_000).await, Vec::<u8>::new());
        assert!(stage.store.action_get(id).await.unwrap().unwrap().halted.is_some());
        stage.store.action_resume(id, at(100_000), &cause()).await.unwrap();
        assert_eq!(round(&stage, id, 100_001).await.len(), 4);
        // After its last share it goes to new ones at once.
        set(&stage, 8, AgentState::Enrolled, 120_000).await;
        assert_eq!(round(&stage, id, 120_001).await, [8]);
    }

    async fn a_share_between_waits_for_its_first_machine_also_after_a_halt(stage) {
        stage.agent(1).await;
        let id = launched(&stage, 1, Spread { rings: vec![1, 10, 20], halt_percent: 0, ..standing() }).await;
        assert_eq!(round(&stage, id, 1).await, [1]);
        answer(&stage, vec![result(id, agent(1), CommandStatus::Failed, "x")], at(15_000)).await;
        assert_eq!(round(&stage, id, 20_000).await, Vec::<u8>::new());
        stage.store.action_resume(id, at(40_000), &cause()).await.unwrap();
        assert_eq!(round(&stage, id, 40_001).await, Vec::<u8>::new());
        assert_eq!(stage.store.action_get(id).await.unwrap().unwrap().halted, None, "nothing failed since");
        for n in 2..=6 {
            stage.agent(n).await;
        }
        let next = round(&stage, id, 60_000).await;
        assert_eq!(next.len(), 1, "{next:?}");
        answer(&stage, vec![result(id, agent(next[0]), CommandStatus::Failed, "x")], at(79_000)).await;
        assert_eq!(round(&stage, id, 80_000).await, Vec::<u8>::new());
        assert!(stage.store.action_get(id).await.unwrap().unwrap().halted.is_some());
    }

    async fn a_share_of_machines_that_left_is_not_passed_by_those_before_it(stage) {
        for n in 1..=4 {
            stage.agent(n).await;
        }
        let id = launched(&stage, 1, Spread { rings: vec![50, 60], ..standing() }).await;
        assert_eq!(round(&stage, id, 1).await, [1, 2]);
        for n in [3, 4] {
            set(&stage, n, AgentState::Blocked, 10_000).await;
        }
        let results = [1, 2].map(|n| result(id, agent(n), CommandStatus::Success, "x"));
        answer(&stage, results.to_vec(), at(15_000)).await;
        assert_eq!(round(&stage, id, 20_000).await, Vec::<u8>::new());
        for n in [3, 4] {
            set(&stage, n, AgentState::Enrolled, 40_000).await;
        }
        assert_eq!(round(&stage, id, 40_001).await.len(), 1);
    }

    async fn an_action_that_reaches_nobody_says_who_was_beyond_its_reach(stage) {
        stage.agent_in(1, AgentState::Waiting, &[]).await;
        stage.agent_in(2, AgentState::Waiting, &[]).await;
        stage.agent_in(3, AgentState::Blocked, &[]).await;
        let reason = async |spread: Spread, n, ms| {
            let id = launched(&stage, n, spread).await;
            work(&stage.store, at(ms)).await;
            let row = stage.store.action_get(id).await.unwrap().unwrap();
            assert_eq!(row.status, ActionStatus::Invalid);
            row.reason
        };
        let why = "given to no machine: all that match its target are beyond its reach (waiting for approval: 2, blocked: 1)";
        assert_eq!(reason(Spread::default(), 1, 1).await, why);
        // Before the shares are counted it says the same.
        assert_eq!(reason(Spread { rings: vec![10], ..Spread::default() }, 2, 2).await, why);
        set(&stage, 3, AgentState::Deleted, 3).await;
        let all = Target::parse("name LIKE '%'").unwrap();
        let states = stage.store.target_states(all.clone(), at(3)).await.unwrap();
        assert_eq!(states, TargetStates { waiting: 2, ..TargetStates::default() });
        set(&stage, 1, AgentState::Enrolled, 4).await;
        let states = stage.store.target_states(all.clone(), at(5)).await.unwrap();
        assert_eq!(states, TargetStates { active: 1, waiting: 1, ..TargetStates::default() });
        let two_hours = 2 * 3_600_000;
        let states = stage.store.target_states(all, at(two_hours)).await.unwrap();
        assert_eq!(states, TargetStates { offline: 1, waiting: 1, ..TargetStates::default() });
        let none = stage.store.target_states(Target::parse("name = 'x'").unwrap(), at(5)).await.unwrap();
        assert_eq!(none, TargetStates::default());
    }
}
