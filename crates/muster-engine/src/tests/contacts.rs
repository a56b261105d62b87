use crate::engine::lock;
use crate::testing::{Answer, TestService};
use crate::testing::{World, ack, data, ids, machine, poll, run, say, tell, types, until, with_labels};
use crate::{EngineConfig, RefusalCode};
use muster_core::contact::{ContactData, IncomingMessage};
use muster_core::{Address, Label, MessageId, Timestamp, limits};
use muster_store::StoreError;
use muster_store::agents::EventFilter;
use muster_store::messages::MessageState;
use std::time::Duration;

#[tokio::test]
async fn an_empty_poll_enrols_and_is_given_a_nonce() {
    let world = World::new().await;
    let engine = world.plain();
    let from = with_labels(1, &["linux", "enrol-token:secret", "linux"]);
    let answer = poll(&engine, &from).await;
    assert_ne!(answer.nonce, 0);
    assert_eq!(answer.messages, []);
    let agent = world.store.agent_get(from.agent()).await.unwrap().unwrap();
    assert_eq!(agent.key, from.key);
    assert_eq!(agent.labels, [Label::client("linux")]);
    assert_eq!(agent.last_address, from.address);
    assert_ne!(poll(&engine, &from).await.nonce, answer.nonce);
}

#[tokio::test]
async fn a_message_sent_three_times_reaches_its_service_once() {
    let world = World::new().await;
    let service = TestService::new("inventory", 10);
    let engine = world.engine(EngineConfig::default(), &[&service]);
    let running = run(&engine);
    let (from, message) = (machine(1), say(1, "inventory", "Disks", b"two"));
    tell(&engine, &from, vec![message.clone(), message.clone()]).await;
    tell(&engine, &from, vec![message.clone()]).await;
    let id = MessageId::derive(from.agent(), "agent", &[1]);
    until("the message is done", || async { world.row(id).await.state == MessageState::Done }).await;
    let got = lock(&service.got).clone();
    assert_eq!(ids(&got), [id]);
    assert_eq!(got[0].source, Address::agent(from.agent(), "agent"));
    assert_eq!(got[0].payload, message.payload);
    assert_eq!(world.row(id).await.message.payload, None);
    running.end().await;
}

#[tokio::test]
async fn a_slow_service_holds_no_contact() {
    let world = World::new().await;
    let service = TestService::new("slow", 1);
    service.answers(Answer::Wait);
    let engine = world.engine(EngineConfig::default(), &[&service]);
    let running = run(&engine);
    for number in 0..100 {
        tell(&engine, &machine(1), vec![say(number, "slow", "", b"")]).await;
    }
    assert!(service.count() <= 1);
    service.answers(Answer::Take);
    until("all are done", || async { service.count() == 100 }).await;
    running.end().await;
}

#[tokio::test]
async fn bad_messages_become_dead_letters_and_the_rest_goes_on() {
    let world = World::new().await;
    let engine = world.plain();
    let from = machine(1);
    let bad = |number| say(number, "muster", "Note", b"x");
    let messages = vec![
        IncomingMessage { has_destination: false, ..bad(1) },
        IncomingMessage { destination_agent: vec![1; 8], ..bad(2) },
        IncomingMessage { source_service: String::new(), ..bad(3) },
        IncomingMessage { source_message_id: vec![], ..bad(4) },
        IncomingMessage { source_message_id: vec![0; 129], ..bad(5) },
        IncomingMessage { destination_service: "client".into(), ..bad(6) },
        IncomingMessage { message_type: "a\0b".into(), ..bad(7) },
        IncomingMessage { source_service: "x".repeat(limits::NAME_BYTES_MAX + 1), ..bad(8) },
        IncomingMessage { annotations: vec![("k".into(), "v\0".into())], ..bad(9) },
        bad(10),
    ];
    tell(&engine, &from, messages).await;
    let letters = world.store.dead_letter_page(None, 100).await.unwrap();
    assert_eq!(letters.len(), 9);
    assert!(letters.iter().all(|(_, letter)| letter.agent == from.agent() && !letter.reason.is_empty()));
    assert_eq!(world.row(MessageId::derive(from.agent(), "muster", &[10])).await.state, MessageState::Done);
    let counts = world.store.dead_letter_counts(Timestamp::EPOCH).await.unwrap();
    assert_eq!(counts.iter().map(|count| count.letters).sum::<u64>(), 9);
    assert_eq!((counts[0].service.as_str(), counts[0].machines), ("muster", 1));
}

#[tokio::test]
async fn a_message_of_a_hundred_or_a_thousand_annotations_reaches_its_service() {
    let world = World::new().await;
    let service = TestService::new("GRR", 10);
    let engine = world.engine(EngineConfig::default(), &[&service]);
    let running = run(&engine);
    let data_id = |n| ("data_ids".to_owned(), format!("F00000000:{n:08x}:00000000"));
    for (number, count) in [(1, 65), (2, 100), (3, 1000)] {
        let annotations: Vec<_> = (0..count).map(data_id).collect();
        let message = IncomingMessage { annotations: annotations.clone(), ..say(number, "GRR", "MessageList", b"x") };
        tell(&engine, &machine(1), vec![message]).await;
        until("it is there", || async { service.count() == usize::from(number) }).await;
        let got = lock(&service.got).last().unwrap().annotations.clone();
        assert_eq!(got, annotations);
    }
    running.end().await;
    assert_eq!(world.store.dead_letter_page(None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_lost_message_is_news_once_for_each_machine_and_reason() {
    let world = World::new().await;
    let engine = world.plain();
    let codes = async || {
        let rows = world.store.event_page(EventFilter::default(), None, 100).await.unwrap();
        rows.into_iter().rev().map(|row| (row.agent.unwrap(), row.code)).collect::<Vec<_>>()
    };
    let nameless = || IncomingMessage { source_message_id: vec![], ..say(1, "GRR", "", b"") };
    let (one, two) = (machine(1), machine(2));
    tell(&engine, &one, vec![nameless(), nameless(), say(2, "nosuch", "", b"")]).await;
    tell(&engine, &one, vec![nameless(), say(3, "nosuch", "", b"")]).await;
    tell(&engine, &two, vec![nameless()]).await;
    let [first, second] = [one.agent(), two.agent()];
    let dead = "dead_letter".to_owned();
    assert_eq!(codes().await, [(first, dead.clone()), (first, "message_failed".into()), (second, dead)]);
    let rows = world.store.event_page(EventFilter::default(), None, 1).await.unwrap();
    assert!(rows[0].reason.contains("GRR") && rows[0].reason.contains("no id"), "{}", rows[0].reason);
    let counts = world.store.dead_letter_counts(Timestamp::EPOCH).await.unwrap();
    assert_eq!((counts.len(), counts[0].letters, counts[0].machines), (1, 4, 2));
}

#[tokio::test]
async fn a_message_to_an_unknown_service_fails_where_everybody_sees_it() {
    let world = World::new().await;
    let engine = world.plain();
    tell(&engine, &machine(1), vec![say(1, "nosuch", "", b"")]).await;
    let row = world.row(MessageId::derive(machine(1).agent(), "agent", &[1])).await;
    assert_eq!(row.state, MessageState::Failed);
    assert_eq!(row.message.result.unwrap().failure.unwrap(), "unknown service \"nosuch\"");
}

#[tokio::test]
async fn the_claimed_source_of_a_message_is_overwritten() {
    let world = World::new().await;
    let engine = world.plain();
    let lie = IncomingMessage { claimed_agent: vec![9; 8], ..say(1, "muster", "Note", b"") };
    tell(&engine, &machine(1), vec![lie]).await;
    let row = world.row(MessageId::derive(machine(1).agent(), "muster", &[1])).await;
    assert_eq!(row.message.source.agent, Some(machine(1).agent()));
}

#[tokio::test]
async fn a_contact_beyond_its_limits_is_malformed_and_leaves_nothing() {
    let world = World::new().await;
    let engine = world.plain();
    let many = (0..101).map(|number| say(number, "muster", "Note", b"")).collect();
    let refusal = engine.contact_poll(machine(1), data(many)).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Malformed);
    let allowed = Some((0..1025).map(|n| (n.to_string(), 1)).collect());
    let services = ContactData { allowed, ..ContactData::default() };
    assert_eq!(engine.contact_poll(machine(1), services).await.unwrap_err().code, RefusalCode::Malformed);
    assert_eq!(world.store.agent_get(machine(1).agent()).await.unwrap(), None);
    let rows = world.store.event_page(EventFilter::default(), None, 10).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.code.as_str()).collect::<Vec<_>>(), ["malformed", "malformed"]);
    assert_eq!(rows[0].agent, Some(machine(1).agent()));
}

#[tokio::test]
async fn acknowledged_messages_are_done_and_those_of_others_stay() {
    let world = World::new().await;
    let engine = world.plain();
    for number in [1, 2] {
        poll(&engine, &machine(number)).await;
    }
    let mine = engine.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    let other = engine.message_insert(world.message_to(2, machine(2).agent(), "s")).await.unwrap();
    assert_eq!(ids(&poll(&engine, &machine(1)).await.messages), [mine]);
    assert_eq!(poll(&engine, &machine(1)).await.messages, [], "what was handed out is hidden");
    let unknown = MessageId::from_bytes([0; 32]);
    tell(&engine, &machine(1), vec![ack(1, &[mine, other, unknown])]).await;
    assert_eq!(world.row(mine).await.state, MessageState::Done);
    assert_eq!(world.row(other).await.state, MessageState::Pending);
}

#[tokio::test]
async fn a_refused_message_fails_with_the_reason_of_the_machine() {
    let world = World::new().await;
    let engine = world.plain();
    poll(&engine, &machine(1)).await;
    let id = engine.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    let body = [&id.as_bytes()[..], b"no such\0service"].concat();
    tell(&engine, &machine(1), vec![say(1, "system", "MessageError", &body)]).await;
    let row = world.row(id).await;
    assert_eq!(row.state, MessageState::Failed);
    assert_eq!(row.message.result.unwrap().failure.unwrap(), "no such\u{FFFD}service");
}

#[tokio::test]
async fn no_other_program_of_a_machine_speaks_for_its_agent() {
    let world = World::new().await;
    let engine = world.plain();
    let from = machine(1);
    let messages = ["muster", "actions"].into_iter().zip(1..).map(|(service, number)| IncomingMessage {
        source_service: "daemon".into(),
        ..say(number, service, "Facts", br#"{"hostname": "db1"}"#)
    });
    tell(&engine, &from, messages.collect()).await;
    assert_eq!(world.store.facts_get(from.agent()).await.unwrap(), None);
    for number in 1..=2 {
        let row = world.row(MessageId::derive(from.agent(), "daemon", &[number])).await;
        assert!(row.message.result.unwrap().failure.unwrap().contains("not to \"daemon\""));
    }
}

#[tokio::test]
async fn labels_facts_and_usage_are_kept_and_a_wrong_body_fails_its_message_only() {
    let world = World::new().await;
    let engine = world.plain();
    let from = with_labels(1, &["old"]);
    let messages = vec![
        say(1, "system", "ClientInfo", b"linux\nenrol-token:x\namd64"),
        say(2, "muster", "Facts", br#"{"hostname": "db1"}"#),
        say(3, "system", "ResourceUsage", b"system"),
        say(4, "system", "KillNotification", b"daemon"),
        say(5, "muster", "Facts", b"no JSON"),
        say(6, "system", "Nonsense", b""),
        say(7, "system", "ClientInfo", (0..1025).map(|n| n.to_string()).collect::<Vec<_>>().join("\n").as_bytes()),
    ];
    tell(&engine, &from, messages).await;
    let agent = world.store.agent_get(from.agent()).await.unwrap().unwrap();
    assert_eq!(agent.labels, [Label::client("amd64"), Label::client("linux")]);
    let (facts, _) = world.store.facts_get(from.agent()).await.unwrap().unwrap();
    assert_eq!(facts["hostname"], "db1");
    let usage = world.store.usage_list(from.agent(), Timestamp::EPOCH, Timestamp::MAX).await.unwrap();
    assert_eq!(usage.len(), 1);
    for (number, source, state) in
        [(1, "agent", MessageState::Done), (4, "agent", MessageState::Done), (5, "muster", MessageState::Failed)]
    {
        assert_eq!(world.row(MessageId::derive(from.agent(), source, &[number])).await.state, state, "{number}");
    }
    for number in [6, 7] {
        let row = world.row(MessageId::derive(from.agent(), "agent", &[number])).await;
        assert_eq!(row.state, MessageState::Failed, "{number}");
    }
}

#[tokio::test]
async fn tokens_bound_what_a_poll_takes_home() {
    let world = World::new().await;
    let engine = world.plain();
    poll(&engine, &machine(1)).await;
    for (number, service) in [(1, "a"), (2, "a"), (3, "b"), (4, "c")] {
        engine.message_insert(world.message_to(number, machine(1).agent(), service)).await.unwrap();
    }
    let allowed = |tokens: &[(&str, u64)]| ContactData {
        allowed: Some(tokens.iter().map(|(service, n)| ((*service).to_owned(), *n)).collect()),
        ..ContactData::default()
    };
    let first = engine.contact_poll(machine(1), allowed(&[("a", 1), ("b", u64::MAX)])).await.unwrap();
    let mut services: Vec<_> = first.messages.iter().map(|m| m.destination.service.as_str()).collect();
    services.sort_unstable();
    assert_eq!(services, ["a", "b"]);
    let rest = poll(&engine, &machine(1)).await.messages;
    assert_eq!(rest.len(), 2, "without a map there are no limits");
}

#[tokio::test]
async fn an_unacknowledged_message_comes_again_after_its_lease() {
    let world = World::new().await;
    let engine = world.plain();
    poll(&engine, &machine(1)).await;
    let id = engine.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    assert_eq!(ids(&poll(&engine, &machine(1)).await.messages), [id]);
    world.clock.advance(Duration::from_secs(15 * 60 + 1));
    assert_eq!(ids(&poll(&engine, &machine(1)).await.messages), [id]);
}

#[tokio::test]
async fn a_contact_without_the_required_label_is_not_authorized() {
    let world = World::new().await;
    let config = EngineConfig { required_label: "linux".into(), ..EngineConfig::default() };
    let engine = world.engine(config, &[]);
    let refusal = engine.contact_poll(machine(1), data(vec![])).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::NotAuthorized);
    poll(&engine, &with_labels(1, &["x", "linux"])).await;
}

#[tokio::test]
async fn an_agent_that_sends_too_much_is_held_back_alone() {
    let world = World::new().await;
    let config = EngineConfig { agent_messages_per_second: 10, ..EngineConfig::default() };
    let engine = world.engine(config, &[]);
    let hundred = |from: u8| (0..100).map(|n| say(n, "muster", &format!("{from}"), b"")).collect::<Vec<_>>();
    tell(&engine, &machine(1), hundred(1)).await;
    let refusal = engine.contact_poll(machine(1), data(hundred(2))).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::AgentRate);
    assert!(refusal.retry_after.unwrap() > Duration::ZERO);
    tell(&engine, &machine(2), hundred(1)).await;
}

#[tokio::test]
async fn die_is_handed_out_without_a_token_and_done_at_once() {
    let world = World::new().await;
    let engine = world.plain();
    poll(&engine, &machine(1)).await;
    let die = world.message_to(1, machine(1).agent(), "system");
    let id = engine.message_insert(muster_core::Message { message_type: "Die".into(), ..die }).await.unwrap();
    let none = ContactData { allowed: Some([("system".to_owned(), 0)].into()), ..ContactData::default() };
    let answer = engine.contact_poll(machine(1), none).await.unwrap();
    assert_eq!(types(&answer.messages), ["Die"]);
    assert_eq!(world.row(id).await.state, MessageState::Done);
}

#[tokio::test]
async fn a_contact_is_refused_while_the_server_stops() {
    let world = World::new().await;
    let engine = world.plain();
    run(&engine).end().await;
    let refusal = engine.contact_poll(machine(1), data(vec![])).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Stopping);
    assert_eq!(world.store.event_page(EventFilter::default(), None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_message_that_its_service_never_takes_is_parked_in_the_end() {
    let world = World::new().await;
    let service = TestService::new("s", 1);
    let config = EngineConfig { message_life: Duration::from_hours(1), ..EngineConfig::default() };
    let engine = world.engine(config, &[&service]);
    tell(&engine, &machine(1), vec![say(1, "s", "", b"x")]).await;
    let id = MessageId::derive(machine(1).agent(), "agent", &[1]);
    engine.inner.park().await.unwrap();
    assert_eq!(world.row(id).await.state, MessageState::Pending);
    world.clock.advance(Duration::from_hours(1));
    engine.inner.park().await.unwrap();
    let row = world.row(id).await;
    assert_eq!(row.state, MessageState::Parked);
    assert_eq!(row.message.payload.unwrap().value, b"x", "what is parked can be sent again");
}

#[tokio::test]
async fn errors_of_the_store_become_a_refusal_and_a_broken_one_ends_the_server() {
    let world = World::new().await;
    let engine = world.plain();
    let refusal = engine.inner.refusal_of("test", &StoreError::Full("no room".into()));
    assert_eq!(refusal.code, RefusalCode::Unavailable);
    assert!(!refusal.reason.contains("no room"), "the agent is not told what goes on here");
    assert!(tokio::time::timeout(Duration::from_millis(20), engine.broken()).await.is_err());
    let refusal = engine.inner.refusal_of("test", &StoreError::Broken("sync failed".into()));
    assert_eq!(refusal.code, RefusalCode::Unavailable);
    engine.broken().await;
}

#[tokio::test]
async fn an_answer_to_an_operator_stays_readable() {
    let world = World::new().await;
    let engine = world.plain();
    tell(&engine, &machine(1), vec![say(1, "muster", "EchoReply", b"hello")]).await;
    let row = world.row(MessageId::derive(machine(1).agent(), "muster", &[1])).await;
    assert_eq!(row.state, MessageState::Done);
    assert_eq!(row.message.payload.unwrap().value, b"hello");
}
