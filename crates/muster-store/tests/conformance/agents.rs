//! Machines.

use crate::for_each_backend;
use crate::stage::*;
use muster_core::{Agent, AgentState, Label, ResourceUsage};
use muster_store::agents::{AgentFilter, ContactPut, Effect, Enrolled, Enrolment, EventFilter, EventRow};
use muster_store::cluster::EnrolTokenRow;
use muster_store::{AgentStore, ClusterStore, ErrorKind, MessageStore};
use std::collections::BTreeMap;
use std::time::Duration;

fn labels(names: &[&str]) -> Vec<Label> {
    names.iter().map(|name| Label::parse(name).unwrap()).collect()
}

for_each_backend! {
    async fn an_agent_comes_back_as_it_was_enrolled(stage) {
        assert_eq!(stage.store.agent_get(agent(1)).await.unwrap(), None);
        let one = stage.agent_in(1, AgentState::Enrolled, &labels(&["b", "client:a", "b"])).await;
        let row = stage.store.agent_get(one).await.unwrap().unwrap();
        let wanted = Agent {
            id: one,
            key: key(1),
            state: AgentState::Enrolled,
            labels: labels(&["client:a", "operator:b"]),
            created: at(0),
            last_contact: at(0),
            last_address: String::new(),
            last_clock: None,
            streaming_to: String::new(),
            nonce_splits: 0,
            nonce_skips: 0,
            clone_suspected: None,
            state_note: String::new(),
            rekey_asked: None,
            predecessor: None,
            successor: None,
            left: None,
        };
        assert_eq!(row, wanted);
        let two = stage.agent_in(2, AgentState::Blocked, &[]).await;
        let row = stage.store.agent_get(two).await.unwrap().unwrap();
        assert_eq!((row.state, row.labels), (AgentState::Blocked, vec![]));
    }

    async fn enrolling_twice_is_enrolling_once(stage) {
        let one = stage.agent_in(1, AgentState::Waiting, &labels(&["a"])).await;
        let again = enrolment(1, AgentState::Enrolled, &labels(&["b"]));
        let Enrolled::Yes(row) = stage.store.agent_enrol(again, at(9)).await.unwrap() else { panic!("refused") };
        assert_eq!((row.state, row.labels, row.created), (AgentState::Waiting, labels(&["a"]), at(0)));
        let other = Enrolment { key: key(2), ..enrolment(1, AgentState::Enrolled, &[]) };
        assert_eq!(stage.store.agent_enrol(other, at(9)).await.unwrap(), Enrolled::OtherKey);
        stage.store.agent_state_set(one, AgentState::Deleted, at(9), &cause()).await.unwrap();
        let again = enrolment(1, AgentState::Enrolled, &[]);
        assert_eq!(stage.store.agent_enrol(again, at(10)).await.unwrap(), Enrolled::Deleted);
    }

    async fn a_token_lets_in_as_many_as_it_says(stage) {
        let token = EnrolTokenRow {
            name: "t".into(),
            sha256: [5; 32],
            uses_left: 2,
            labels: vec!["site-a".into()],
            created: at(0),
            expires: Some(at(100)),
        };
        stage.store.enrol_token_put(token.clone(), &cause()).await.unwrap();
        let enrol = async |n, sha: u8, ms| {
            let enrolment = Enrolment { token: Some([sha; 32]), ..enrolment(n, AgentState::Enrolled, &labels(&["client:c"])) };
            stage.store.agent_enrol(enrolment, at(ms)).await.unwrap()
        };
        assert_eq!(enrol(1, 6, 1).await, Enrolled::TokenRefused);
        assert_eq!(stage.store.agent_get(agent(1)).await.unwrap(), None);
        assert_eq!(enrol(1, 5, 100).await, Enrolled::TokenRefused, "it has lapsed");
        let Enrolled::Yes(row) = enrol(1, 5, 99).await else { panic!("refused") };
        assert_eq!(row.labels, labels(&["client:c", "operator:site-a"]));
        assert!(matches!(enrol(1, 5, 99).await, Enrolled::Yes(_)), "who is known spends nothing");
        assert!(matches!(enrol(2, 5, 99).await, Enrolled::Yes(_)));
        assert_eq!(enrol(3, 5, 99).await, Enrolled::TokenRefused);
        assert_eq!(stage.store.enrol_token_list().await.unwrap()[0].uses_left, 0);
    }

    async fn agents_are_listed_with_their_labels(stage) {
        for (n, state) in [(1, AgentState::Enrolled), (2, AgentState::Blocked), (3, AgentState::Enrolled)] {
            stage.agent_in(n, state, &labels(&["client:x"])).await;
        }
        let list = stage.store.agent_list(&[agent(3), agent(9), agent(1)]).await.unwrap();
        assert_eq!(list.iter().map(|row| row.id).collect::<Vec<_>>(), [agent(1), agent(3)]);
        assert!(list.iter().all(|row| row.labels == labels(&["client:x"]) && row.last_contact == at(0)));
        assert_eq!(stage.store.agent_list(&[]).await.unwrap(), []);
        stage.store.agent_state_set(agent(3), AgentState::Deleted, at(1), &cause()).await.unwrap();
        assert_eq!(stage.store.agent_list(&[agent(3)]).await.unwrap(), []);
        assert_eq!(stage.store.agent_get(agent(3)).await.unwrap().unwrap().state, AgentState::Deleted);
        let count = stage.store.agent_count().await.unwrap();
        assert_eq!(count, BTreeMap::from([("enrolled", 1), ("blocked", 1), ("deleted", 1)]));
        let states = stage.store.agent_states(&[agent(3), agent(2), agent(9)]).await.unwrap();
        assert_eq!(states, [(agent(2), AgentState::Blocked), (agent(3), AgentState::Deleted)]);
    }

    async fn pages_of_agents_add_up(stage) {
        for n in (0..30).rev() {
            stage.agent(n).await;
        }
        for limit in [1, 7, 30, 100] {
            let mut seen = Vec::new();
            let mut after = None;
            loop {
                let page = stage.store.agent_page(AgentFilter::default(), after, limit).await.unwrap();
                let Some(last) = page.last() else { break };
                after = Some(last.id);
                seen.extend(page.iter().map(|row| row.id));
            }
            assert_eq!(seen, (0..30).map(agent).collect::<Vec<_>>());
        }
    }

    async fn filters_pick_by_state_labels_and_contact(stage) {
        stage.agent_in(1, AgentState::Enrolled, &labels(&["a", "b"])).await;
        stage.agent_in(2, AgentState::Rekeying, &labels(&["a"])).await;
        stage.agent_in(3, AgentState::Enrolled, &labels(&["client:a"])).await;
        stage.agent_in(4, AgentState::Enrolled, &[]).await;
        stage.store.agent_state_set(agent(4), AgentState::Deleted, at(1), &cause()).await.unwrap();
        for (n, ms) in [(1, 1_000), (2, 2_000), (3, 3_000)] {
            stage.contact(contact(n, at(ms))).await;
        }
        let page = async |filter| {
            let page = stage.store.agent_page(filter, None, 9).await.unwrap();
            page.iter().map(|row| row.id.as_bytes()[7]).collect::<Vec<_>>()
        };
        let any = AgentFilter::default;
        assert_eq!(page(any()).await, [1, 2, 3]);
        assert_eq!(page(AgentFilter { labels: labels(&["a"]), ..any() }).await, [1, 2]);
        assert_eq!(page(AgentFilter { labels: labels(&["a", "b"]), ..any() }).await, [1]);
        assert_eq!(page(AgentFilter { state: Some(AgentState::Enrolled), ..any() }).await, [1, 3]);
        assert_eq!(page(AgentFilter { state: Some(AgentState::Deleted), ..any() }).await, [4]);
        assert_eq!(page(AgentFilter { contact_after: Some(at(2_000)), ..any() }).await, [3]);
        let earlier = at(2_000).minus(Duration::from_nanos(1));
        assert_eq!(page(AgentFilter { contact_after: Some(earlier), ..any() }).await, [2, 3]);
        assert_eq!(page(AgentFilter { clones: true, ..any() }).await, NONE);
    }

    async fn a_label_can_be_given_again_and_taken_twice(stage) {
        let one = stage.agent(1).await;
        let label = Label::new("operator", "web");
        for _ in 0..2 {
            stage.store.agent_label_put(one, label.clone(), at(1), &cause()).await.unwrap();
        }
        assert_eq!(stage.store.agent_get(one).await.unwrap().unwrap().labels, std::slice::from_ref(&label));
        for _ in 0..2 {
            stage.store.agent_label_delete(one, label.clone(), at(2), &cause()).await.unwrap();
        }
        assert_eq!(stage.store.agent_get(one).await.unwrap().unwrap().labels, []);
        stage.store.agent_label_put(one, label.clone(), at(3), &cause()).await.unwrap();
        assert_eq!(stage.store.agent_get(one).await.unwrap().unwrap().labels, std::slice::from_ref(&label));
        let actions: Vec<_> = stage.store.journal_page(None, 9).await.unwrap().into_iter().map(|line| line.action).collect();
        assert_eq!(actions, ["agent.label", "agent.unlabel", "agent.label"]);
        let error = stage.store.agent_label_put(agent(9), label.clone(), at(1), &cause()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = stage.store.agent_label_delete(agent(9), label, at(1), &cause()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    async fn blocking_keeps_key_and_labels(stage) {
        let one = stage.agent_in(1, AgentState::Enrolled, &labels(&["a"])).await;
        let set = async |state| stage.store.agent_state_set(one, state, at(1), &cause()).await;
        set(AgentState::Blocked).await.unwrap();
        set(AgentState::Blocked).await.unwrap();
        let row = stage.store.agent_get(one).await.unwrap().unwrap();
        assert_eq!((row.state, row.key, row.labels), (AgentState::Blocked, key(1), labels(&["a"])));
        set(AgentState::Enrolled).await.unwrap();
        let lines = stage.store.journal_page(None, 9).await.unwrap();
        assert_eq!(lines.iter().map(|line| line.action.as_str()).collect::<Vec<_>>(), ["agent.unblock", "agent.block"]);
        assert_eq!((&lines[0].cause, lines[0].subject.as_str()), (&cause(), "0000000000000001"));
        let error = stage.store.agent_state_set(agent(9), AgentState::Blocked, at(1), &cause()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    async fn a_deleted_agent_leaves_only_its_id(stage) {
        let one = stage.agent_in(1, AgentState::Enrolled, &labels(&["a"])).await;
        stage.put(to_agent(1, one, "s")).await;
        let facts = Effect::Facts(BTreeMap::from([("hostname".into(), "secret".into())]));
        let put = ContactPut { intake: vec![intake(to_server(2, one, "s"), facts)], ..contact(1, at(1)) };
        stage.contact(put).await;
        stage.store.usage_put(one, usage(), at(1)).await.unwrap();
        stage.store.agent_state_set(one, AgentState::Deleted, at(2), &cause()).await.unwrap();
        let row = stage.store.agent_get(one).await.unwrap().unwrap();
        assert_eq!((row.key, row.labels, row.last_address.as_str()), (key(1), vec![], ""));
        assert_eq!(stage.store.contact_page(one, None, 9).await.unwrap(), []);
        assert_eq!(stage.store.usage_list(one, at(0), at(9)).await.unwrap(), []);
        assert_eq!(stage.store.facts_get(one).await.unwrap(), None);
        assert_eq!(stage.store.message_pending_count(&[one]).await.unwrap(), 0);
        let error = stage.store.agent_state_set(one, AgentState::Enrolled, at(3), &cause()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        let error = stage.store.agent_label_put(one, Label::client("x"), at(3), &cause()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = stage.store.message_put(vec![to_agent(3, one, "s")], NO_CONTACT, at(3)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    async fn usage_is_found_by_when_it_came(stage) {
        let one = stage.agent(1).await;
        let nano = Duration::from_nanos(1);
        stage.store.usage_put(one, usage(), at(5)).await.unwrap();
        let list = async |start, end| stage.store.usage_list(one, start, end).await;
        assert_eq!(list(at(5).minus(nano), at(5)).await.unwrap(), []);
        assert_eq!(list(at(5), at(5).plus(nano)).await.unwrap(), [ResourceUsage { received: Some(at(5)), ..usage() }]);
        assert_eq!(list(at(6), at(5)).await.unwrap_err().kind(), ErrorKind::Invalid);
        for faulty in [
            ResourceUsage { process_start: None, ..usage() },
            ResourceUsage { measured: None, ..usage() },
            ResourceUsage { mean_system_cpu: f32::INFINITY, ..usage() },
        ] {
            assert_eq!(stage.store.usage_put(one, faulty, at(5)).await.unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    async fn usage_comes_in_pages_that_add_up(stage) {
        let one = stage.agent(1).await;
        for moment in [5, 5, 5, 6, 7] {
            stage.store.usage_put(one, usage(), at(moment)).await.unwrap();
        }
        let (mut after, mut sizes, mut moments) = (None, Vec::new(), Vec::new());
        loop {
            let page = stage.store.usage_page(one, at(5)..at(7), after, 2).await.unwrap();
            let Some((number, last)) = page.last() else { break };
            after = Some((last.received.unwrap(), *number));
            sizes.push(page.len());
            moments.extend(page.iter().map(|(_, usage)| usage.received.unwrap()));
        }
        assert_eq!((sizes, moments), (vec![2, 2], vec![at(5), at(5), at(5), at(6)]));
        let error = stage.store.usage_page(one, at(6)..at(5), None, 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    async fn events_are_kept_newest_first_and_picked_by_agent_and_code(stage) {
        let event = |n: i64| EventRow {
            number: 77,
            at: at(n),
            agent: (n > 1).then(|| agent(1)),
            address: "[::1]:1".into(),
            code: if n > 2 { "clone" } else { "key_mismatch" }.into(),
            reason: format!("reason {n}"),
        };
        for n in 1..=3 {
            stage.store.event_put(event(n)).await.unwrap();
        }
        let page = stage.store.event_page(EventFilter::default(), None, 2).await.unwrap();
        assert_eq!(page.iter().map(|row| row.at).collect::<Vec<_>>(), [at(3), at(2)]);
        let rest = stage.store.event_page(EventFilter::default(), Some(page[1].number), 9).await.unwrap();
        assert_eq!(rest, [EventRow { number: rest[0].number, ..event(1) }]);
        let picked = async |agent, code: Option<&str>| {
            let filter = EventFilter { agent, code: code.map(str::to_owned) };
            let rows = stage.store.event_page(filter, None, 9).await.unwrap();
            rows.iter().map(|row| row.at).collect::<Vec<_>>()
        };
        assert_eq!(picked(Some(agent(1)), None).await, [at(3), at(2)]);
        assert_eq!(picked(None, Some("key_mismatch")).await, [at(2), at(1)]);
        assert_eq!(picked(Some(agent(1)), Some("key_mismatch")).await, [at(2)]);
        assert_eq!(picked(Some(agent(2)), None).await, []);
    }
}
