//! Contacts: what they bring, what it does, what they take.

use crate::for_each_backend;
use crate::stage::*;
use muster_core::nonce::Link;
use muster_core::{AgentState, Contact, Facts, Label, MessageResult, Timestamp, limits};
use muster_store::agents::{
    AgentFilter, Claim, CloneSeen, ContactPut, ContactTaken, DeadLetter, DeadLetterCount, Effect, RecordPut, Taken,
};
use muster_store::cluster::Retention;
use muster_store::messages::MessageState;
use muster_store::{AgentStore, ClusterStore, MessageStore};
use std::collections::BTreeMap;

fn with(n: u8, now: Timestamp, effects: Vec<Effect>) -> ContactPut {
    let message = |(m, effect)| intake(to_server(m, agent(n), "system"), effect);
    ContactPut { intake: (100..).zip(effects).map(message).collect(), ..contact(n, now) }
}

fn letter(n: u8) -> DeadLetter {
    DeadLetter {
        at: at(1),
        agent: agent(1),
        service: "GRR".into(),
        reason: "too long".into(),
        sha256: [n; 32],
        head: vec![n; 2000],
    }
}

for_each_backend! {
    async fn only_a_known_agent_with_its_own_key_is_recorded(stage) {
        let put = async |put: ContactPut| stage.store.contact_put(put).await.unwrap();
        assert_eq!(put(contact(1, at(1))).await, ContactTaken::Unknown);
        let known = stage.agent(1).await;
        assert_eq!(put(ContactPut { key: key(2), ..contact(1, at(1)) }).await, ContactTaken::OtherKey);
        assert_eq!(stage.store.contact_page(known, None, 9).await.unwrap(), []);
        assert!(matches!(put(contact(1, at(1))).await, ContactTaken::Recorded(_)));
        stage.store.agent_state_set(known, AgentState::Deleted, at(2), &cause()).await.unwrap();
        assert_eq!(put(contact(1, at(3))).await, ContactTaken::Deleted);
        assert_eq!(put(ContactPut { key: key(2), ..contact(1, at(3)) }).await, ContactTaken::OtherKey);
    }

    async fn a_contact_leaves_its_marks(stage) {
        let one = stage.agent_in(1, AgentState::Enrolled, &[Label::client("linux")]).await;
        let address = "[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%eth01]:65535";
        let put = ContactPut {
            address: address.into(),
            streaming_to: "https://one:1".into(),
            sent_nonce: u64::MAX,
            received_nonce: 0,
            clock: Some(at(-5)),
            ..contact(1, at(10))
        };
        let recorded = stage.contact(put).await;
        assert_eq!((recorded.state, recorded.link), (AgentState::Enrolled, Link::Next));
        assert_eq!(recorded.labels, [Label::client("linux")]);
        let row = stage.store.agent_get(one).await.unwrap().unwrap();
        assert_eq!((row.created, row.last_contact, row.last_clock), (at(0), at(10), Some(at(-5))));
        assert_eq!((row.last_address.as_str(), row.streaming_to.as_str()), (address, "https://one:1"));
        let contacts = stage.store.contact_page(one, None, 9).await.unwrap();
        let sent = Contact { id: recorded.contact, at: at(10), sent_nonce: u64::MAX, received_nonce: 0, address: address.into() };
        assert_eq!(contacts, [sent]);
        // A poll ends the stream, and a clock that says nothing is forgotten.
        stage.contact(ContactPut { received_nonce: u64::MAX, ..contact(1, at(11)) }).await;
        let row = stage.store.agent_get(one).await.unwrap().unwrap();
        assert_eq!((row.last_clock, row.streaming_to.as_str(), row.nonce_skips), (None, "", 0));
    }

    async fn contacts_of_one_moment_are_told_apart(stage) {
        let one = stage.agent(1).await;
        for _ in 0..3 {
            stage.contact(contact(1, at(1))).await;
        }
        let contacts = stage.store.contact_page(one, None, 9).await.unwrap();
        let moments: Vec<_> = contacts.iter().map(|contact| contact.at.as_nanos() - at(1).as_nanos()).collect();
        assert_eq!(moments, [2, 1, 0]);
        let older = stage.store.contact_page(one, Some(contacts[1].id), 9).await.unwrap();
        assert_eq!(older, contacts[2..]);
        assert_eq!(stage.store.contact_page(one, None, 1).await.unwrap(), contacts[..1]);
    }

    async fn a_later_stream_is_not_ended_by_an_earlier_one(stage) {
        let one = stage.agent(1).await;
        let stream = |url: &str, ms| ContactPut { streaming_to: url.into(), ..contact(1, at(ms)) };
        let first = stage.contact(stream("https://one:1", 1)).await.contact;
        let second = stage.contact(stream("https://two:1", 2)).await.contact;
        stage.store.stream_end(one, first).await.unwrap();
        let to = async || stage.store.agent_get(one).await.unwrap().unwrap().streaming_to;
        assert_eq!(to().await, "https://two:1");
        stage.store.stream_end(one, second).await.unwrap();
        assert_eq!(to().await, "");
    }

    async fn contacts_that_come_after_all_were_swept_are_a_chain_of_their_own(stage) {
        let one = stage.agent(1).await;
        for n in 0..3 {
            stage.contact(contact(1, at(n))).await;
        }
        let old = Retention { clones_before: at(-1), contacts_before: at(9), contents_before: at(0), broadcasts_before: at(0) };
        assert_eq!(stage.store.retention_sweep(old, 100).await.unwrap(), 3);
        assert_eq!(stage.store.contact_page(one, None, 9).await.unwrap(), []);
        let mut since = Vec::new();
        for n in 10..14 {
            since.insert(0, stage.contact(contact(1, at(n))).await.contact);
        }
        let ids = async |before, limit| {
            let page = stage.store.contact_page(one, before, limit).await.unwrap();
            page.into_iter().map(|contact| contact.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(None, 99).await, since);
        assert_eq!(ids(Some(since[1]), 99).await, since[2..]);
        assert_eq!(ids(Some(since[3]), 99).await, []);
        stage.store.agent_state_set(one, AgentState::Deleted, at(20), &cause()).await.unwrap();
        assert_eq!(stage.store.contact_page(one, None, 9).await.unwrap(), []);
    }

    async fn a_machine_whose_stream_is_held_is_in_contact(stage) {
        let (one, two) = (stage.agent(1).await, stage.agent(2).await);
        stage.contact(ContactPut { streaming_to: "https://one:1".into(), ..contact(1, at(10)) }).await;
        stage.contact(contact(2, at(10))).await;
        let last = async |id| stage.store.agent_get(id).await.unwrap().unwrap().last_contact;
        stage.store.agents_heard(&[two, one, agent(9)], at(20)).await.unwrap();
        assert_eq!((last(one).await, last(two).await), (at(20), at(10)));
        stage.store.agents_heard(&[one], at(15)).await.unwrap();
        assert_eq!(last(one).await, at(20), "never back");
        stage.store.agents_heard(&[], at(30)).await.unwrap();
    }

    async fn what_a_contact_brings_is_stored_once(stage) {
        stage.agent(1).await;
        let deliver = || Effect::Deliver { due: at(50) };
        let first = stage.contact(with(1, at(1), vec![deliver(), Effect::Nothing, Effect::Fail("x\0y".into())])).await;
        assert_eq!(first.taken, [Taken::New, Taken::New, Taken::New]);
        let again = stage.contact(with(1, at(2), vec![deliver(), deliver(), deliver()])).await;
        assert_eq!(again.taken, [Taken::Again, Taken::Again, Taken::Again]);
        let mut other = with(1, at(3), vec![deliver()]);
        other.intake[0].message.payload = body("other");
        assert_eq!(stage.contact(other).await.taken, [Taken::Conflict]);

        let row = stage.row(id(100)).await;
        assert_eq!((row.state, row.due, row.contact), (MessageState::Pending, Some(at(50)), Some(first.contact)));
        assert_eq!(row.message, to_server(100, agent(1), "system"));
        let row = stage.row(id(101)).await;
        assert_eq!((row.state, row.message.payload, row.due), (MessageState::Done, None, None));
        assert_eq!(row.message.result, Some(MessageResult::done(at(1))));
        let row = stage.row(id(102)).await;
        assert_eq!(row.state, MessageState::Failed);
        assert_eq!(row.message.result.unwrap().failure.unwrap(), "x\u{fffd}y");
    }

    async fn an_answer_keeps_its_body_although_it_is_done(stage) {
        stage.agent(1).await;
        stage.contact(with(1, at(1), vec![Effect::Keep])).await;
        let row = stage.row(id(100)).await;
        assert_eq!((row.state, row.due, row.message.payload), (MessageState::Done, None, body("body 100")));
    }

    async fn one_contact_may_bring_a_message_twice(stage) {
        stage.agent(1).await;
        let one = intake(to_server(1, agent(1), "s"), Effect::Usage(Box::new(usage())));
        let put = ContactPut { intake: vec![one.clone(), one], ..contact(1, at(1)) };
        assert_eq!(stage.contact(put).await.taken, [Taken::New, Taken::Again]);
        assert_eq!(stage.store.usage_list(agent(1), at(0), at(9)).await.unwrap().len(), 1);
    }

    async fn acknowledgements_reach_own_messages_only(stage) {
        let (one, two) = (stage.agent(1).await, stage.agent(2).await);
        for n in 1..=4 {
            stage.put(to_agent(n, if n == 2 { two } else { one }, "s")).await;
        }
        stage.store.message_result_put(vec![(id(4), MessageResult::done(at(1)))]).await.unwrap();
        let acknowledge = Effect::Acknowledge(vec![id(1), id(2), id(77), id(4), id(1)]);
        let refuse = |n| Effect::Refuse { id: id(n), reason: "r".repeat(1000) };
        let recorded = stage.contact(with(1, at(9), vec![acknowledge.clone(), refuse(3), refuse(2), refuse(1)])).await;
        assert_eq!(recorded.foreign, [id(2)]);
        let result = async |n| stage.row(id(n)).await.message.result;
        assert_eq!(result(1).await, Some(MessageResult::done(at(9))));
        assert_eq!(result(2).await, None);
        let reason = result(3).await.unwrap().failure.unwrap();
        assert_eq!((reason.len(), &reason[897..]), (900, "..."));
        assert_eq!(result(4).await, Some(MessageResult::done(at(1))), "what was done stays as it was");
        assert_eq!(stage.row(id(1)).await.message.payload, None);
        // The same contact again does nothing, nor does another that names done ones.
        assert_eq!(stage.contact(with(1, at(10), vec![acknowledge])).await.taken, [Taken::Again]);
        assert_eq!(result(1).await, Some(MessageResult::done(at(9))));
    }

    async fn a_message_to_the_server_is_nobodys_to_acknowledge(stage) {
        let one = stage.agent(1).await;
        stage.put(to_server(1, one, "s")).await;
        let recorded = stage.contact(with(1, at(9), vec![Effect::Acknowledge(vec![id(1)])])).await;
        assert_eq!(recorded.foreign, [id(1)]);
        assert_eq!(stage.row(id(1)).await.state, MessageState::Pending);
    }

    async fn client_labels_become_exactly_these(stage) {
        let given = Label::new("operator", "web");
        stage.agent_in(1, AgentState::Enrolled, &[Label::client("old"), Label::client("kept"), given.clone()]).await;
        let labels = vec!["new".to_owned(), "kept".to_owned(), "new".to_owned()];
        let recorded = stage.contact(with(1, at(1), vec![Effect::ClientLabels(labels)])).await;
        assert_eq!(recorded.labels, [Label::client("kept"), Label::client("new"), given.clone()]);
        let none = with(1, at(2), vec![Effect::Nothing, Effect::ClientLabels(Vec::new())]);
        assert_eq!(stage.contact(none).await.labels, [given]);
    }

    async fn facts_and_usage_are_kept(stage) {
        let one = stage.agent(1).await;
        assert_eq!(stage.store.facts_get(one).await.unwrap(), None);
        let facts = |host: &str| -> Facts {
            BTreeMap::from([
                ("hostname".to_owned(), host.into()),
                ("addresses".to_owned(), serde_json::json!(["::1", "10.0.0.1"])),
                ("cpus".to_owned(), 2.into()),
                ("nul".to_owned(), "a\0b".into()),
            ])
        };
        let effects = vec![Effect::Facts(facts("Über-HOST")), Effect::Usage(Box::new(usage()))];
        stage.contact(with(1, at(5), effects)).await;
        assert_eq!(stage.store.facts_get(one).await.unwrap(), Some((facts("Über-HOST"), at(5))));
        assert_eq!(stage.store.fact_of(&[agent(9), one], "cpus").await.unwrap(), [(one, 2.into())]);
        assert_eq!(stage.store.fact_of(&[one], "absent").await.unwrap(), []);
        let found = async |text: &str| {
            let filter = AgentFilter { text: text.into(), ..AgentFilter::default() };
            stage.store.agent_page(filter, None, 9).await.unwrap().len()
        };
        assert_eq!((found("über").await, found("ÜBER-h").await, found("u_er").await, found("%").await), (1, 1, 0, 0));
        assert_eq!((found("127.0.0.1").await, found("00000001").await, found("00000002").await), (1, 1, 0));
        let usages = stage.store.usage_list(one, at(0), at(9)).await.unwrap();
        assert_eq!(usages, [muster_core::ResourceUsage { received: Some(at(5)), ..usage() }]);
        let mut again = with(1, at(6), vec![Effect::Facts(BTreeMap::new())]);
        again.intake[0].message.id = id(1);
        stage.contact(again).await;
        assert_eq!(stage.store.facts_get(one).await.unwrap(), Some((BTreeMap::new(), at(6))));
        assert_eq!(found("über").await, 0);
    }

    async fn a_usage_record_with_a_fault_fails_alone(stage) {
        let one = stage.agent(1).await;
        let faulty = [
            muster_core::ResourceUsage { measured: None, ..usage() },
            muster_core::ResourceUsage { max_user_cpu: f32::NAN, ..usage() },
        ];
        let mut effects: Vec<_> = faulty.into_iter().map(|usage| Effect::Usage(Box::new(usage))).collect();
        effects.push(Effect::Usage(Box::new(usage())));
        stage.contact(with(1, at(5), effects)).await;
        assert_eq!(stage.store.usage_list(one, at(0), at(9)).await.unwrap().len(), 1);
        let states = [stage.row(id(100)).await.state, stage.row(id(101)).await.state, stage.row(id(102)).await.state];
        assert_eq!(states, [MessageState::Failed, MessageState::Failed, MessageState::Done]);
    }

    async fn of_a_waiting_agent_only_the_contact_is_recorded(stage) {
        let one = stage.agent_in(1, AgentState::Waiting, &[]).await;
        stage.put(to_agent(1, one, "s")).await;
        let put = ContactPut { claim: Some(all()), rejected: vec![letter(1)], ..with(1, at(1), vec![Effect::Nothing]) };
        let recorded = stage.contact(put).await;
        assert_eq!((recorded.state, recorded.taken, recorded.claimed), (AgentState::Waiting, vec![], vec![]));
        assert_eq!(stage.store.contact_page(one, None, 9).await.unwrap().len(), 1);
        assert_eq!(stage.store.message_get(&[id(100)], true).await.unwrap(), []);
        assert_eq!(stage.store.dead_letter_page(None, 9).await.unwrap(), []);
    }

    async fn the_messages_of_an_agent_that_owes_a_key_are_flagged_and_do_little(stage) {
        let one = stage.agent(1).await;
        stage.put(to_agent(1, one, "s")).await;
        stage.put(to_agent(2, one, "s")).await;
        stage.store.agent_state_set(one, AgentState::Rekeying, at(1), &cause()).await.unwrap();
        let effects = vec![
            Effect::ClientLabels(vec!["x".into()]),
            Effect::Facts(BTreeMap::from([("hostname".into(), "h".into())])),
            Effect::Usage(Box::new(usage())),
            Effect::Acknowledge(vec![id(1)]),
            Effect::Refuse { id: id(2), reason: "no".into() },
            Effect::Deliver { due: at(3) },
        ];
        let recorded = stage.contact(ContactPut { claim: Some(all()), ..with(1, at(2), effects) }).await;
        assert_eq!((recorded.state, recorded.claimed, recorded.labels), (AgentState::Rekeying, vec![], vec![]));
        for n in 100..106 {
            assert!(stage.row(id(n)).await.message.from_blocked);
        }
        assert_eq!(stage.row(id(1)).await.state, MessageState::Done);
        assert_eq!(stage.row(id(2)).await.state, MessageState::Failed);
        assert_eq!(stage.store.facts_get(one).await.unwrap(), None);
        assert_eq!(stage.store.usage_list(one, at(0), at(99)).await.unwrap(), []);
    }

    async fn nothing_of_a_blocked_agent_is_stored(stage) {
        let one = stage.agent(1).await;
        let contact = stage.contact(with(1, at(1), vec![])).await.contact;
        stage.store.agent_state_set(one, AgentState::Blocked, at(2), &cause()).await.unwrap();
        let taken = stage.store.contact_put(with(1, at(3), vec![Effect::Nothing])).await.unwrap();
        assert_eq!(taken, ContactTaken::Blocked);
        assert_eq!(stage.store.contact_page(one, None, 9).await.unwrap().len(), 1);
        let record = RecordPut { agent: one, contact, at: at(4), intake: vec![intake(to_server(100, one, "s"), Effect::Nothing)], rejected: vec![letter(1)] };
        let recorded = stage.store.record_put(record).await.unwrap().unwrap();
        assert_eq!((recorded.state, recorded.taken), (AgentState::Blocked, vec![]));
        assert_eq!(stage.store.message_get(&[id(100)], true).await.unwrap(), []);
        assert_eq!(stage.store.dead_letter_page(None, 9).await.unwrap(), []);
    }

    async fn a_contact_claims_what_is_due(stage) {
        let one = stage.agent(1).await;
        stage.put(to_agent(1, one, "s")).await;
        stage.put(to_agent(2, one, "t")).await;
        let claim = Claim { per_service: Some(BTreeMap::from([("t".to_owned(), 1)])), ..all() };
        let recorded = stage.contact(ContactPut { claim: Some(claim), ..contact(1, at(1)) }).await;
        assert_eq!(recorded.claimed, [to_agent(2, one, "t")]);
        assert_eq!(stage.row(id(2)).await.contact, Some(recorded.contact));
        assert_eq!(stage.contact(contact(1, at(2))).await.claimed, []);
    }

    async fn what_a_lost_answer_handed_out_is_claimed_again_by_the_next_contact(stage) {
        let agent = stage.agent(1).await;
        let poll = |ms: i64, sent_nonce, received_nonce| {
            ContactPut { sent_nonce, received_nonce, claim: Some(all()), ..contact(1, at(ms)) }
        };
        let claimed = async |put| stage.contact(put).await.claimed.iter().map(|message| message.id).collect::<Vec<_>>();
        stage.put(to_agent(1, agent, "s")).await;
        assert_eq!(claimed(poll(10, 100, 0)).await, [id(1)]);
        // That answer arrived: the message is being worked on, and stays hidden.
        stage.put(to_agent(2, agent, "s")).await;
        assert_eq!(claimed(poll(20, 200, 100)).await, [id(2)]);
        // This one did not: the machine knows of the first answer only, so the second message comes again, and only it.
        assert_eq!(claimed(poll(30, 300, 100)).await, [id(2)]);
        assert_eq!(claimed(poll(40, 400, 300)).await, []);
        // Who refers to nothing, or to what was never given out, says nothing about what arrived.
        assert_eq!(claimed(poll(50, 500, 0)).await, []);
        assert_eq!(claimed(poll(60, 600, 999)).await, []);
    }

    async fn a_record_of_a_stream_is_taken_like_a_contact(stage) {
        let one = stage.agent_in(1, AgentState::Enrolled, &[Label::client("a")]).await;
        let stream = stage.contact(contact(1, at(1))).await.contact;
        let record = |effects| {
            let put = with(1, at(2), effects);
            RecordPut { agent: one, contact: stream, at: put.at, intake: put.intake, rejected: vec![letter(1)] }
        };
        let labels = Effect::ClientLabels(vec!["b".into()]);
        let recorded = stage.store.record_put(record(vec![labels])).await.unwrap().unwrap();
        assert_eq!((recorded.contact, recorded.taken.as_slice()), (stream, &[Taken::New][..]));
        assert_eq!((recorded.labels, recorded.link), (vec![Label::client("b")], Link::Next));
        assert_eq!(stage.row(id(100)).await.contact, Some(stream));
        stage.store.agent_state_set(one, AgentState::Deleted, at(3), &cause()).await.unwrap();
        assert_eq!(stage.store.record_put(record(vec![Effect::Nothing])).await.unwrap(), None);
        let nobody = RecordPut { agent: agent(9), ..record(vec![]) };
        assert_eq!(stage.store.record_put(nobody).await.unwrap(), None);
    }

    async fn traces_of_what_was_not_accepted_are_bounded(stage) {
        stage.agent(1).await;
        let put = |n| ContactPut { rejected: vec![letter(n), letter(n + 1)], ..contact(1, at(n.into())) };
        stage.contact(put(1)).await;
        stage.contact(put(3)).await;
        let letters = stage.store.dead_letter_page(None, 3).await.unwrap();
        let order: Vec<_> = letters.iter().map(|(_, letter)| letter.sha256[0]).collect();
        assert_eq!(order, [4, 3, 2]);
        assert_eq!(letters[0].1, DeadLetter { head: vec![4; limits::DEAD_LETTER_BYTES_MAX], ..letter(4) });
        let counts = stage.store.dead_letter_counts(at(0)).await.unwrap();
        let want = DeadLetterCount {
            service: "GRR".into(), letters: 4, machines: 1, last: at(1), reason: "too long".into(),
        };
        assert_eq!(counts, [want]);
        assert_eq!(stage.store.dead_letter_counts(at(2)).await.unwrap(), []);
        let rest = stage.store.dead_letter_page(Some(letters[2].0), 9).await.unwrap();
        assert_eq!(rest.iter().map(|(_, letter)| letter.sha256[0]).collect::<Vec<_>>(), [1]);
    }

    async fn one_machine_makes_one_chain_and_two_with_one_key_show(stage) {
        let one = stage.agent(1).await;
        let mut next = 100;
        let mut visit = async |received_nonce| {
            next += 1;
            let moment = at(i64::try_from(next).unwrap());
            let link = stage.contact(ContactPut { sent_nonce: next, received_nonce, ..contact(1, moment) }).await.link;
            (link, next)
        };
        let (link, a) = visit(0).await;
        assert_eq!(link, Link::Next);
        // An answer that was lost makes the machine refer to the same contact again; then all is well.
        assert_eq!(visit(a).await.0, Link::Next);
        let (link, b) = visit(a).await;
        assert_eq!(link, Link::Split);
        let (link, c) = visit(b).await;
        assert_eq!(link, Link::Next);
        let agent_row = async || stage.store.agent_get(one).await.unwrap().unwrap();
        assert_eq!((agent_row().await.nonce_splits, agent_row().await.clone_suspected), (1, None));
        // A request that arrives late, after the one that was sent in its place, is a skip after a split.
        let (link, timely) = visit(c).await;
        assert_eq!(link, Link::Next);
        assert_eq!(visit(c).await.0, Link::Split);
        let (link, image) = visit(timely).await;
        assert_eq!((link, agent_row().await.clone_suspected), (Link::Skip, None));
        // Now the image is copied. That both copies go on shows when the second speaks again.
        let (link, first) = visit(image).await;
        assert_eq!(link, Link::Next);
        let (link, second) = visit(image).await;
        assert_eq!(link, Link::Split);
        assert_eq!(visit(first).await.0, Link::Skip);
        assert_eq!(agent_row().await.clone_suspected, None);
        assert_eq!(visit(second).await.0, Link::Skip);
        assert!(agent_row().await.clone_suspected.is_some());
        assert_eq!((agent_row().await.nonce_splits, agent_row().await.nonce_skips), (3, 3));
        let clones = AgentFilter { clones: true, ..AgentFilter::default() };
        assert_eq!(stage.store.agent_page(clones, None, 9).await.unwrap().len(), 1);
        // A nonce that was never given out is another's.
        assert_eq!(visit(999_999).await.0, Link::Split);
        assert_eq!(visit(0).await.0, Link::Fresh);
    }

    async fn machines_that_share_a_key_from_the_start_are_news_once_an_hour(stage) {
        stage.agent(1).await;
        let mut next = 100;
        let mut visit = async |ms: i64, received_nonce| {
            next += 1;
            (stage.contact(ContactPut { sent_nonce: next, received_nonce, ..contact(1, at(ms)) }).await.clone, next)
        };
        let (_, a) = visit(1, 0).await;
        let (_, b) = visit(2, 0).await;
        let (clone, a) = visit(3, a).await;
        assert_eq!(clone, None);
        let (clone, b) = visit(4, b).await;
        assert_eq!(clone, Some(CloneSeen::News));
        let (clone, _) = visit(5, a).await;
        assert_eq!(clone, Some(CloneSeen::Again));
        let hour = i64::try_from(limits::CLONE_NEWS.as_millis()).unwrap();
        assert_eq!(visit(5 + hour, b).await.0, Some(CloneSeen::News));
    }

    async fn a_contact_that_cannot_be_kept_leaves_nothing(stage) {
        let one = stage.agent(1).await;
        let mut put = with(1, at(1), vec![Effect::Nothing]);
        put.intake[0].message.message_type = "a\0b".into();
        let error = stage.store.contact_put(put).await.unwrap_err();
        assert_eq!(error.kind(), muster_store::ErrorKind::Invalid);
        assert_eq!(stage.store.contact_page(one, None, 9).await.unwrap(), []);
        assert_eq!(stage.store.agent_get(one).await.unwrap().unwrap().last_contact, at(0));
    }
}
