//! Who is in and who is out: blocks that hold under another key, and new keys for which old ones vouch.

use crate::actions::{launch, order, work};
use crate::for_each_backend;
use crate::stage::*;
use muster_core::action::{ActionId, ActionStatus, CommandStatus};
use muster_core::{Address, AgentId, AgentState, Facts, Label, Message, MessageId, system};
use muster_store::actions::{CommandFilter, ResultPut};
use muster_store::agents::{Effect, Enrolled, Enrolment, Lookalike, Succeeded, Succession};
use muster_store::cluster::EnrolTokenRow;
use muster_store::{ActionStore, AgentStore, ClusterStore, ErrorKind, InvestigatorStore, MessageStore};

fn facts(host: &str, machine: &str) -> Facts {
    Facts::from([("hostname".to_owned(), host.into()), ("machine_id".to_owned(), machine.into())])
}

async fn enrol(stage: &Stage, enrolment: Enrolment, ms: i64) -> muster_core::Agent {
    match stage.store.agent_enrol(enrolment, at(ms)).await.unwrap() {
        Enrolled::Yes(agent) => *agent,
        other => panic!("{other:?}"),
    }
}

async fn state(stage: &Stage, id: AgentId) -> AgentState {
    stage.store.agent_get(id).await.unwrap().unwrap().state
}

/// The whole key whose id is the agent's, as a succession names it.
fn old_key(n: u8) -> Vec<u8> {
    vec![n; 91]
}

/// An agent whose id follows from its key, enrolled.
async fn agent_of_key(stage: &Stage, n: u8, labels: &[Label]) -> AgentId {
    let id = AgentId::of_key(&old_key(n));
    let facts = facts("host", "board");
    enrol(stage, Enrolment { id, facts, ..enrolment(n, AgentState::Enrolled, labels) }, 0).await.id
}

/// Demands a new key, as message `n`.
async fn demand(stage: &Stage, agent: AgentId, n: u8, ms: i64) -> Result<MessageId, ErrorKind> {
    let ends = (Address::server(system::SERVICE), Address::agent(agent, system::SERVICE));
    let message = Message { message_type: system::REKEY_REQUEST.into(), ..Message::new(id(n), ends.0, ends.1, at(ms)) };
    let demanded = stage.store.agent_rekey(message, at(ms), &cause()).await;
    demanded.map(|()| id(n)).map_err(|error| error.kind())
}

async fn succeed(stage: &Stage, old: u8, new: u8, demand: MessageId) -> Succeeded {
    let enrolment = Enrolment {
        id: AgentId::of_key(&old_key(new)),
        facts: facts("host", "board"),
        ..enrolment(new, AgentState::Waiting, &[Label::client("linux")])
    };
    let succession = Succession { enrolment, old_key: old_key(old), demand };
    stage.store.agent_succeed(succession, at(50)).await.unwrap()
}

async fn commands(stage: &Stage, action: ActionId) -> Vec<(AgentId, CommandStatus)> {
    let filter = CommandFilter { action: Some(action), ..CommandFilter::default() };
    let page = stage.store.command_page(filter, None, 99, false).await.unwrap();
    page.commands.iter().map(|command| (command.agent, command.status)).collect()
}

async fn running(stage: &Stage, n: u8) -> ActionId {
    let who = crate::actions::investigator(stage, n).await;
    let action = launch(stage, order(stage, n, &[who]).await).await;
    work(&stage.store, at(1)).await;
    action
}

for_each_backend! {
    async fn a_new_key_of_a_blocked_machine_waits_whatever_it_asked_for(stage) {
        enrol(&stage, Enrolment { facts: facts("Laptop", "m1"), ..enrolment(1, AgentState::Enrolled, &[]) }, 0).await;
        stage.store.agent_state_set(agent(1), AgentState::Blocked, at(5), &cause()).await.unwrap();
        assert_eq!(stage.store.agent_get(agent(1)).await.unwrap().unwrap().state_note, "a reason");
        let back = enrol(&stage, Enrolment { facts: facts("other", "m1"), ..enrolment(2, AgentState::Enrolled, &[]) }, 6).await;
        assert_eq!(back.state, AgentState::Waiting);
        assert!(back.state_note.contains("0000000000000001 (laptop)"), "{}", back.state_note);
        // A host name alone is no proof, only a hint.
        let named = enrol(&stage, Enrolment { facts: facts("laptop", "m3"), ..enrolment(3, AgentState::Enrolled, &[]) }, 6).await;
        assert_eq!(named.state, AgentState::Enrolled);
        let alike = |id, state, host: &str, same_machine_id, ms| Lookalike {
            id, state, host_name: host.into(), same_machine_id, same_host_name: !same_machine_id, last_contact: at(ms),
        };
        assert_eq!(stage.store.agent_lookalikes(agent(1)).await.unwrap(), [
            alike(agent(2), AgentState::Waiting, "other", true, 6),
            alike(agent(3), AgentState::Enrolled, "laptop", false, 6),
        ]);
        // Approved by a person, it stays so whatever it tells again.
        stage.store.agent_state_set(agent(2), AgentState::Enrolled, at(7), &cause()).await.unwrap();
        let tell = |n: u8, m: u8, host: &str| intake(to_server(m, agent(n), "s"), Effect::Facts(facts(host, "m1")));
        stage.contact(muster_store::agents::ContactPut { intake: vec![tell(2, 90, "other")], ..contact(2, at(8)) }).await;
        assert_eq!(state(&stage, agent(2)).await, AgentState::Enrolled);
    }

    async fn deleting_a_blocked_machine_does_not_let_it_in_under_another_key(stage) {
        for (old, new, machine_id, blocked) in [(1, 2, "m1", true), (3, 4, "m2", false)] {
            let shows = |n, host: &str| Enrolment { facts: facts(host, machine_id), ..enrolment(n, AgentState::Enrolled, &[]) };
            enrol(&stage, shows(old, "laptop"), 0).await;
            if blocked {
                stage.store.agent_state_set(agent(old), AgentState::Blocked, at(5), &cause()).await.unwrap();
            }
            stage.store.agent_state_set(agent(old), AgentState::Deleted, at(6), &cause()).await.unwrap();
            let back = enrol(&stage, shows(new, "other"), 7).await;
            let (state, note) = if blocked {
                (AgentState::Waiting, "it has the machine id of agent 0000000000000001, which was blocked and then deleted")
            } else {
                (AgentState::Enrolled, "")
            };
            assert_eq!((back.state, back.state_note.as_str()), (state, note));
        }
    }

    async fn a_new_key_that_shows_its_machine_id_late_waits_then_and_older_keys_do_not(stage) {
        let tell = |n: u8| intake(to_server(n, agent(n), "s"), Effect::Facts(facts("h", "m1")));
        let told = |n: u8, ms| muster_store::agents::ContactPut { intake: vec![tell(n)], ..contact(n, at(ms)) };
        for n in [1, 2] {
            stage.agent(n).await;
            stage.contact(told(n, 1)).await;
        }
        stage.store.agent_state_set(agent(1), AgentState::Blocked, at(5), &cause()).await.unwrap();
        stage.contact(muster_store::agents::ContactPut { intake: vec![intake(to_server(60, agent(2), "s"), Effect::Facts(facts("h2", "m1")))], ..contact(2, at(6)) }).await;
        assert_eq!(state(&stage, agent(2)).await, AgentState::Enrolled, "it was there before: two boards of one maker");
        enrol(&stage, enrolment(3, AgentState::Enrolled, &[]), 7).await;
        stage.contact(told(3, 8)).await;
        assert_eq!(state(&stage, agent(3)).await, AgentState::Waiting);
    }

    async fn a_block_is_not_loosened_by_a_demand_for_a_new_key(stage) {
        stage.agent(1).await;
        for (to, then) in [(AgentState::Blocked, AgentState::Blocked), (AgentState::Rekeying, AgentState::Blocked), (AgentState::Enrolled, AgentState::Enrolled), (AgentState::Rekeying, AgentState::Rekeying)] {
            stage.store.agent_state_set(agent(1), to, at(1), &cause()).await.unwrap();
            assert_eq!(state(&stage, agent(1)).await, then);
        }
        let journal = stage.store.journal_page(None, 9).await.unwrap();
        let actions: Vec<_> = journal.iter().rev().map(|row| row.action.as_str()).collect();
        assert_eq!(actions, ["agent.block", "agent.unblock", "agent.blacklist"]);
    }

    async fn a_new_key_for_which_the_old_one_vouches_keeps_what_the_machine_had(stage) {
        let old = agent_of_key(&stage, 1, &[Label::client("old"), Label::new("operator", "web")]).await;
        let new = AgentId::of_key(&old_key(2));
        stage.put(to_agent(80, old, "s")).await;
        stage.store.module_minimum_set(old, "file", Some(3), at(0), &cause()).await.unwrap();
        let action = running(&stage, 7).await;
        assert_eq!(commands(&stage, action).await, [(old, CommandStatus::Sent)]);
        let asked = demand(&stage, old, 70, 10).await.unwrap();
        assert_eq!(stage.store.agent_get(old).await.unwrap().unwrap().rekey_asked, Some(at(10)));

        assert_eq!(succeed(&stage, 1, 2, id(71)).await, Succeeded::Refused("no new key was asked of the old one, or it vouched for one already"));
        let Succeeded::Yes(agent) = succeed(&stage, 1, 2, asked).await else { panic!("refused") };
        assert_eq!((agent.state, agent.predecessor), (AgentState::Enrolled, Some(old)));
        assert_eq!(agent.labels, [Label::client("linux"), Label::new("operator", "web")]);
        assert_eq!(stage.store.agent_lookalikes(new).await.unwrap(), [], "it does not look like itself");
        let before = stage.store.agent_get(old).await.unwrap().unwrap();
        assert_eq!((before.state, before.successor, before.rekey_asked), (AgentState::Replaced, Some(new), None));
        assert_eq!(stage.row(id(80)).await.message.destination.agent, Some(new), "what waits follows the machine");
        assert_eq!(stage.row(asked).await.message.destination.agent, Some(old), "the demand does not");
        assert_eq!(commands(&stage, action).await, [(new, CommandStatus::Sent)]);
        let rules = stage.store.module_rules(&[new]).await.unwrap();
        assert_eq!(rules.len(), 1);
        let journal = stage.store.journal_page(None, 1).await.unwrap().remove(0);
        assert_eq!((journal.action.as_str(), journal.subject), ("agent.succeed", new.to_string()));
        assert!(journal.details.contains(&old.to_string()), "{}", journal.details);

        // The same again is the same; another key is not let in by the same demand.
        assert!(matches!(succeed(&stage, 1, 2, asked).await, Succeeded::Yes(_)));
        assert_eq!(succeed(&stage, 1, 3, asked).await, Succeeded::Refused("the old key vouched for another one already"));
        assert_eq!(stage.store.agent_get(AgentId::of_key(&old_key(3))).await.unwrap(), None);
    }

    async fn who_is_blocked_deleted_or_waiting_vouches_for_nobody(stage) {
        let one = agent_of_key(&stage, 1, &[]).await;
        let asked = demand(&stage, one, 70, 1).await.unwrap();
        stage.store.agent_state_set(one, AgentState::Blocked, at(2), &cause()).await.unwrap();
        assert_eq!(succeed(&stage, 1, 2, asked).await, Succeeded::Blocked);
        assert_eq!(demand(&stage, one, 71, 3).await, Err(ErrorKind::Refused));
        stage.store.agent_state_set(one, AgentState::Enrolled, at(4), &cause()).await.unwrap();
        assert!(matches!(succeed(&stage, 1, 2, asked).await, Succeeded::Refused(_)), "the block took the demand back");
        let asked = demand(&stage, one, 72, 5).await.unwrap();
        stage.store.agent_state_set(one, AgentState::Deleted, at(6), &cause()).await.unwrap();
        assert_eq!(succeed(&stage, 1, 2, asked).await, Succeeded::Refused("the old key was deleted"));
        assert_eq!(succeed(&stage, 9, 2, asked).await, Succeeded::Refused("the old key is not known"));
        assert_eq!(stage.store.agent_get(AgentId::of_key(&old_key(2))).await.unwrap(), None);
    }

    async fn a_blacklisted_key_vouches_once(stage) {
        let one = agent_of_key(&stage, 1, &[]).await;
        stage.store.agent_state_set(one, AgentState::Rekeying, at(2), &cause()).await.unwrap();
        assert!(matches!(succeed(&stage, 1, 2, id(1)).await, Succeeded::Yes(_)));
        assert!(matches!(succeed(&stage, 1, 3, id(1)).await, Succeeded::Refused(_)));
        let error = stage.store.agent_state_set(one, AgentState::Enrolled, at(3), &cause()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }

    async fn an_order_is_answered_under_the_key_that_it_reached(stage) {
        let old = agent_of_key(&stage, 1, &[]).await;
        let action = running(&stage, 7).await;
        let lost = running(&stage, 8).await;
        let claimed = stage.store.message_claim_due(old, all(), None, at(2)).await.unwrap();
        assert_eq!(claimed.len(), 2, "both orders are handed out under the old key");
        let asked = demand(&stage, old, 70, 10).await.unwrap();
        assert!(matches!(succeed(&stage, 1, 2, asked).await, Succeeded::Yes(_)));
        let new = AgentId::of_key(&old_key(2));
        assert_eq!(commands(&stage, action).await, [(old, CommandStatus::Sent)]);
        let answer = |m: u8, action, signed_by| {
            let put = ResultPut {
                action, agent: signed_by, status: CommandStatus::Success, found: false, results: "[]".into(), signature: vec![],
            };
            let told = intake(to_server(m, new, "actions"), Effect::Result(Box::new(put)));
            let contact = contact(2, at(60));
            muster_store::agents::ContactPut { agent: new, intake: vec![told], ..contact }
        };
        // Whoever claims to have been somebody else is itself, and has no such command.
        let stranger = stage.agent(5).await;
        stage.contact(answer(91, action, stranger)).await;
        stage.contact(answer(92, action, old)).await;
        assert_eq!(commands(&stage, action).await, [(new, CommandStatus::Success)], "a result under the new key moves the command");
        stage.contact(answer(93, lost, old)).await;
        assert_eq!(commands(&stage, lost).await, [(old, CommandStatus::Success)]);
    }

    async fn a_deleted_machines_open_commands_end_and_actions_complete(stage) {
        for n in [1, 2] {
            stage.agent(n).await;
        }
        let action = running(&stage, 7).await;
        stage.store.message_claim_due(agent(1), all(), None, at(2)).await.unwrap();
        let answer = ResultPut {
            action, agent: agent(2), status: CommandStatus::Success, found: false, results: "[]".into(), signature: vec![],
        };
        stage.store.command_result_put(vec![answer], at(3)).await.unwrap();
        stage.store.agent_state_set(agent(1), AgentState::Deleted, at(4), &cause()).await.unwrap();
        assert_eq!(commands(&stage, action).await, [(agent(1), CommandStatus::Cancelled), (agent(2), CommandStatus::Success)]);
        work(&stage.store, at(5)).await;
        let row = stage.store.action_get(action).await.unwrap().unwrap();
        assert_eq!((row.status, row.counters.cancelled, row.counters.success), (ActionStatus::Completed, 1, 1));
    }

    async fn a_label_of_a_token_belongs_to_the_service_that_it_names(stage) {
        let token = EnrolTokenRow {
            name: "t".into(), sha256: [5; 32], uses_left: 1, labels: vec!["site:berlin".into(), "web".into()], created: at(0), expires: None,
        };
        stage.store.enrol_token_put(token, &cause()).await.unwrap();
        let row = enrol(&stage, Enrolment { token: Some([5; 32]), ..enrolment(1, AgentState::Enrolled, &[]) }, 1).await;
        assert_eq!(row.labels, [Label::new("operator", "web"), Label::new("site", "berlin")]);
    }

    async fn a_clone_that_is_gone_is_forgotten_at_last_or_by_a_person(stage) {
        let one = stage.agent(1).await;
        let pair = async |ms| {
            for (n, (sent, received)) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 3)].into_iter().enumerate() {
                let at = at(ms + i64::try_from(n).unwrap());
                stage.contact(muster_store::agents::ContactPut { sent_nonce: sent, received_nonce: received, ..contact(1, at) }).await;
            }
        };
        let suspected = async || stage.store.agent_get(one).await.unwrap().unwrap().clone_suspected.is_some();
        pair(0).await;
        assert!(suspected().await);
        stage.store.agent_clone_clear(one, at(9), &cause()).await.unwrap();
        assert!(!suspected().await);
        assert_eq!(stage.store.journal_page(None, 1).await.unwrap()[0].action, "agent.clone_clear");
        pair(100).await;
        let sweep = async |before| {
            let old = muster_store::cluster::Retention { contacts_before: at(-1), contents_before: at(-1), broadcasts_before: at(-1), clones_before: at(before) };
            stage.store.retention_sweep(old, 9).await.unwrap();
        };
        sweep(100).await;
        assert!(suspected().await);
        sweep(200).await;
        assert!(!suspected().await);
        assert_eq!(stage.store.agent_clone_clear(agent(9), at(1), &cause()).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
