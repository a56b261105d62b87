use crate::testing::{World, ack, caller, data, ids, machine, poll, run, say, types, until};
use crate::{Engine, EngineConfig, OpenStream, RefusalCode, StreamEnd, StreamEvent, StreamOut};
use muster_core::contact::{ContactData, IncomingMessage};
use muster_core::{AgentState, Clock as _, Message, MessageId, limits};
use muster_store::messages::MessageState;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

/// Opens a stream of machine `number` that speaks of no tokens, and remembers what it was given.
pub(super) async fn open(engine: &Engine, number: u8) -> OpenStream {
    engine.stream_open(machine(number), remembering(Vec::new())).await.unwrap()
}

fn remembering(messages: Vec<IncomingMessage>) -> ContactData {
    ContactData { remembers: true, ..data(messages) }
}

/// The same of a machine that remembers nothing and refers to `nonce`, as Fleetspeak's client.
async fn open_forgetful(engine: &Engine, number: u8, nonce: u64) -> OpenStream {
    engine.stream_open(machine(number), ContactData { nonce, ..data(Vec::new()) }).await.unwrap()
}

pub(super) async fn event(outgoing: &mut StreamOut) -> StreamEvent {
    timeout(Duration::from_secs(10), outgoing.next()).await.expect("something must come")
}

pub(super) async fn messages(outgoing: &mut StreamOut) -> Vec<Message> {
    match event(outgoing).await {
        StreamEvent::Messages(messages) => messages,
        StreamEvent::End(end) => panic!("the stream ended: {end:?}"),
    }
}

pub(super) async fn end(outgoing: &mut StreamOut) -> StreamEnd {
    match event(outgoing).await {
        StreamEvent::End(end) => end,
        StreamEvent::Messages(messages) => panic!("messages came: {:?}", types(&messages)),
    }
}

/// Whether nothing comes for a while.
pub(super) async fn is_quiet(outgoing: &mut StreamOut) -> bool {
    timeout(Duration::from_millis(100), outgoing.next()).await.is_err()
}

fn tokens(tokens: &[(&str, u64)]) -> ContactData {
    let allowed = tokens.iter().map(|(service, count)| ((*service).to_owned(), *count)).collect();
    ContactData { allowed: Some(allowed), ..ContactData::default() }
}

#[tokio::test]
async fn a_stream_is_given_what_waited_and_then_what_comes() {
    let world = World::new().await;
    let engine = world.plain();
    poll(&engine, &machine(1)).await;
    let waited = engine.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    let OpenStream { answer, mut outgoing, .. } = open(&engine, 1).await;
    assert_eq!(ids(&answer.messages), [waited]);
    assert_ne!(answer.nonce, 0);
    assert_eq!(engine.streams_open(), 1);
    assert!(is_quiet(&mut outgoing).await);
    let came = engine.message_insert(world.message_to(2, machine(1).agent(), "s")).await.unwrap();
    assert_eq!(ids(&messages(&mut outgoing).await), [came]);
}

#[tokio::test]
async fn a_wait_that_is_given_up_loses_nothing() {
    let world = World::new().await;
    let engine = world.plain();
    let OpenStream { mut outgoing, .. } = open(&engine, 1).await;
    let mut got = Vec::new();
    for number in 1..=20 {
        engine.message_insert(world.message_to(number, machine(1).agent(), "s")).await.unwrap();
        for _ in 0..3 {
            if let Ok(StreamEvent::Messages(messages)) = timeout(Duration::from_micros(50), outgoing.next()).await {
                got.extend(ids(&messages));
            }
        }
    }
    while got.len() < 20 {
        got.extend(ids(&messages(&mut outgoing).await));
    }
    got.dedup();
    assert_eq!(got.len(), 20);
}

#[tokio::test]
async fn more_than_a_hundred_come_in_portions() {
    let world = World::new().await;
    let engine = world.plain();
    poll(&engine, &machine(1)).await;
    for number in 0..250 {
        engine.message_insert(world.message_to(number, machine(1).agent(), "s")).await.unwrap();
    }
    let OpenStream { answer, mut outgoing, .. } = open(&engine, 1).await;
    let (second, third) = (messages(&mut outgoing).await, messages(&mut outgoing).await);
    assert_eq!([answer.messages.len(), second.len(), third.len()], [100, 100, 50]);
}

#[tokio::test]
async fn tokens_hold_messages_back_until_more_are_allowed() {
    let world = World::new().await;
    let engine = world.plain();
    poll(&engine, &machine(1)).await;
    for (number, service) in [(1, "a"), (2, "a"), (3, "b")] {
        engine.message_insert(world.message_to(number, machine(1).agent(), service)).await.unwrap();
    }
    let opened = engine.stream_open(machine(1), tokens(&[("a", 1)])).await.unwrap();
    let OpenStream { answer, mut incoming, mut outgoing } = opened;
    assert_eq!(answer.messages.len(), 1);
    assert!(is_quiet(&mut outgoing).await);
    incoming.record(&machine(1), tokens(&[("a", u64::MAX), ("b", 1)])).await.unwrap();
    assert_eq!(messages(&mut outgoing).await.len(), 2);
    incoming.record(&machine(1), tokens(&[("a", u64::MAX)])).await.unwrap();
    let many = ContactData { allowed: Some((0..1025).map(|n| (n.to_string(), 1)).collect()), ..Default::default() };
    assert_eq!(incoming.record(&machine(1), many).await.unwrap_err().code, RefusalCode::Malformed);
}

#[tokio::test]
async fn records_are_stored_before_they_return() {
    let world = World::new().await;
    let engine = world.plain();
    let OpenStream { mut incoming, .. } = open(&engine, 1).await;
    incoming.record(&machine(1), data(vec![say(1, "muster", "Note", b"x")])).await.unwrap();
    let id = MessageId::derive(machine(1).agent(), "muster", &[1]);
    assert_eq!(world.row(id).await.state, MessageState::Done);
    let many = (0..101).map(|number| say(number, "muster", "Note", b"")).collect();
    assert_eq!(incoming.record(&machine(1), data(many)).await.unwrap_err().code, RefusalCode::Malformed);
    let other = incoming.record(&machine(2), data(vec![say(1, "muster", "Note", b"")])).await;
    assert_eq!(other.unwrap_err().code, RefusalCode::KeyMismatch);
}

#[tokio::test]
async fn the_newest_stream_of_an_agent_is_the_one() {
    let world = World::new().await;
    let engine = world.plain();
    let mut older = open(&engine, 1).await;
    let mut newer = open(&engine, 1).await;
    assert_eq!(end(&mut older.outgoing).await, StreamEnd::Replaced);
    drop(older);
    assert_eq!(engine.streams_open(), 1);
    engine.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    assert_eq!(messages(&mut newer.outgoing).await.len(), 1);
}

#[tokio::test]
async fn what_a_broken_stream_was_handed_comes_again_within_ten_seconds_to_one_that_remembers() {
    let world = World::new().await;
    let engine = world.plain();
    let running = run(&engine);
    let mut stream = open(&engine, 1).await;
    let id = engine.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    assert_eq!(ids(&messages(&mut stream.outgoing).await), [id]);
    stream.outgoing.handed().note();
    drop(stream);
    assert_eq!(engine.streams_open(), 0);
    let soon = world.row(id).await.message.created.plus(limits::STREAM_RELEASE);
    until("it is released", || async { world.row(id).await.due.unwrap() <= soon }).await;
    let agent = world.store.agent_get(machine(1).agent()).await.unwrap().unwrap();
    assert_eq!(agent.streaming_to, "");
    let mut again = open(&engine, 1).await;
    assert_eq!(again.answer.messages, []);
    world.clock.advance(limits::STREAM_RELEASE + Duration::from_secs(1));
    engine.inner.wake_sweep().await.unwrap();
    assert_eq!(ids(&messages(&mut again.outgoing).await), [id]);
    running.end().await;
}

#[tokio::test]
async fn one_that_remembers_nothing_is_handed_nothing_twice_while_it_may_be_running_it() {
    let world = World::new().await;
    let engine = world.plain();
    let running = run(&engine);
    let mut stream = open_forgetful(&engine, 1, 0).await;
    let id = engine.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    assert_eq!(ids(&messages(&mut stream.outgoing).await), [id]);
    stream.outgoing.handed().note();
    // Renewed again and again, by another server at last; each time it says that it got all answers so far.
    let mut nonce = stream.answer.nonce;
    drop(stream);
    let other = world.plain();
    for (round, engine) in [&engine, &engine, &other].into_iter().enumerate() {
        until("the end is stored", || async { engine.inner.ends_open.load(Ordering::Acquire) == 0 }).await;
        world.clock.advance(Duration::from_mins(4));
        let mut renewed = open_forgetful(engine, 1, nonce).await;
        assert_eq!(renewed.answer.messages, [], "round {round}");
        engine.inner.wake_sweep().await.unwrap();
        assert!(is_quiet(&mut renewed.outgoing).await, "round {round}");
        nonce = renewed.answer.nonce;
    }
    // After the client's own time for a retry, as the original.
    world.clock.advance(Duration::from_mins(4));
    assert_eq!(ids(&open_forgetful(&other, 1, nonce).await.answer.messages), [id]);
    running.end().await;
}

#[tokio::test]
async fn what_never_left_is_given_again_at_once_and_nothing_else() {
    let world = World::new().await;
    let engine = world.plain();
    let running = run(&engine);
    let mut stream = open_forgetful(&engine, 1, 0).await;
    let [sent, unsent] = [1, 2].map(|number| world.message_to(number, machine(1).agent(), "s"));
    engine.message_insert(sent.clone()).await.unwrap();
    assert_eq!(ids(&messages(&mut stream.outgoing).await), [sent.id]);
    stream.outgoing.handed().note();
    engine.message_insert(unsent.clone()).await.unwrap();
    assert_eq!(ids(&messages(&mut stream.outgoing).await), [unsent.id]);
    let nonce = stream.answer.nonce;
    drop(stream);
    until("it is given back", || async { world.row(unsent.id).await.due.unwrap() < world.clock.now() }).await;
    assert_eq!(ids(&open_forgetful(&engine, 1, nonce).await.answer.messages), [unsent.id]);
    running.end().await;
}

#[tokio::test]
async fn what_was_taken_for_a_stream_that_ended_meanwhile_is_given_again() {
    let world = World::new().await;
    let engine = world.plain();
    let running = run(&engine);
    let mut inserted = Vec::new();
    for number in 1..=20 {
        let mut stream = open_forgetful(&engine, 1, 0).await;
        inserted.push(engine.message_insert(world.message_to(number, machine(1).agent(), "s")).await.unwrap());
        // The wait is given up at some moment of the claim, and the stream with it.
        let _ = timeout(Duration::from_micros(50), stream.outgoing.next()).await;
        drop(stream);
        until("it is over", || async {
            engine.streams_open() == 0 && engine.inner.ends_open.load(Ordering::Acquire) == 0
        })
        .await;
    }
    let last = open_forgetful(&engine, 1, 0).await;
    let mut given = ids(&last.answer.messages);
    given.sort_unstable();
    assert_eq!(given, inserted);
    drop(last);
    running.end().await;
}

#[tokio::test]
async fn a_first_answer_that_was_lost_is_given_again_when_the_nonce_says_so() {
    let world = World::new().await;
    let engine = world.plain();
    let first = open_forgetful(&engine, 1, 0).await;
    let nonce = first.answer.nonce;
    drop(first);
    let id = engine.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    let lost = open_forgetful(&engine, 1, nonce).await;
    assert_eq!(ids(&lost.answer.messages), [id]);
    lost.outgoing.handed().note();
    drop(lost);
    // It refers to the answer before: the last one never arrived.
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(ids(&open_forgetful(&engine, 1, nonce).await.answer.messages), [id]);
}

#[tokio::test]
async fn what_a_poll_was_handed_comes_again_on_a_stream_unless_its_first_record_acknowledges_it() {
    let world = World::new().await;
    let engine = world.plain();
    poll(&engine, &machine(1)).await;
    let mut inserted = Vec::new();
    for number in 1..=2 {
        inserted.push(engine.message_insert(world.message_to(number, machine(1).agent(), "s")).await.unwrap());
    }
    assert_eq!(poll(&engine, &machine(1)).await.messages.len(), 2);
    let first = remembering(vec![ack(1, &inserted[..1])]);
    let OpenStream { answer, mut outgoing, incoming: _incoming } = engine.stream_open(machine(1), first).await.unwrap();
    assert_eq!(answer.messages, []);
    world.clock.advance(limits::STREAM_RELEASE + Duration::from_nanos(1));
    engine.inner.wake_sweep().await.unwrap();
    assert_eq!(ids(&messages(&mut outgoing).await), inserted[1..]);
}

#[tokio::test]
async fn a_blacklisted_stream_gets_one_demand_and_ends_when_it_is_taken() {
    let world = World::new().await;
    let engine = world.plain();
    let OpenStream { mut incoming, mut outgoing, .. } = open(&engine, 1).await;
    engine.agent_blacklist(machine(1).agent(), &caller()).await.unwrap();
    let demand = messages(&mut outgoing).await;
    assert_eq!(types(&demand), ["RekeyRequest"]);
    engine.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    assert!(is_quiet(&mut outgoing).await);
    incoming.record(&machine(1), data(vec![ack(1, &ids(&demand))])).await.unwrap();
    assert_eq!(end(&mut outgoing).await, StreamEnd::Gone);
}

#[tokio::test]
async fn a_stream_that_starts_blacklisted_gets_the_demand_first() {
    let world = World::new().await;
    let engine = world.plain();
    poll(&engine, &machine(1)).await;
    engine.agent_blacklist(machine(1).agent(), &caller()).await.unwrap();
    let OpenStream { answer, mut incoming, mut outgoing } = open(&engine, 1).await;
    assert_eq!(types(&answer.messages), ["RekeyRequest"]);
    incoming.record(&machine(1), data(vec![ack(1, &ids(&answer.messages))])).await.unwrap();
    assert_eq!(end(&mut outgoing).await, StreamEnd::Gone);
}

#[tokio::test]
async fn an_unblocked_stream_goes_on() {
    let world = World::new().await;
    let engine = world.plain();
    let OpenStream { mut outgoing, incoming: _incoming, .. } = open(&engine, 1).await;
    engine.agent_blacklist(machine(1).agent(), &caller()).await.unwrap();
    assert_eq!(types(&messages(&mut outgoing).await), ["RekeyRequest"]);
    engine.agent_unblock(machine(1).agent(), &caller()).await.unwrap();
    let id = engine.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    assert_eq!(ids(&messages(&mut outgoing).await), [id]);
}

#[tokio::test]
async fn a_taken_rekey_ends_the_stream_of_an_agent_that_is_not_blocked() {
    let world = World::new().await;
    let engine = world.plain();
    let OpenStream { mut incoming, mut outgoing, .. } = open(&engine, 1).await;
    let id = engine.agent_rekey(machine(1).agent(), false, &caller()).await.unwrap();
    assert_eq!(ids(&messages(&mut outgoing).await), [id]);
    incoming.record(&machine(1), data(vec![ack(1, &[id])])).await.unwrap();
    assert_eq!(end(&mut outgoing).await, StreamEnd::Gone);
}

#[tokio::test]
async fn a_blocked_agents_stream_is_over_at_once() {
    let world = World::new().await;
    let engine = world.plain();
    let OpenStream { mut incoming, mut outgoing, .. } = open(&engine, 1).await;
    engine.agent_block(machine(1).agent(), &caller()).await.unwrap();
    assert_eq!(end(&mut outgoing).await, StreamEnd::Gone);
    let refusal = incoming.record(&machine(1), data(vec![say(1, "muster", "Note", b"")])).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Blocked);
}

#[tokio::test]
async fn a_deleted_agents_stream_is_over() {
    let world = World::new().await;
    let engine = world.plain();
    let OpenStream { mut incoming, mut outgoing, .. } = open(&engine, 1).await;
    engine.agent_delete(machine(1).agent(), &caller()).await.unwrap();
    assert_eq!(end(&mut outgoing).await, StreamEnd::Gone);
    let refusal = incoming.record(&machine(1), data(vec![say(1, "muster", "Note", b"")])).await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Deleted);
}

#[tokio::test]
async fn an_approval_reaches_a_stream_that_waits() {
    let world = World::new().await;
    let config = EngineConfig { enrolment: crate::EnrolmentPolicy::Approval, ..EngineConfig::default() };
    let engine = world.engine(config, &[]);
    let OpenStream { answer, mut outgoing, incoming: _incoming } = open(&engine, 1).await;
    assert_eq!(answer.messages, []);
    let id = engine.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    assert!(is_quiet(&mut outgoing).await);
    engine.agent_approve(machine(1).agent(), &caller()).await.unwrap();
    let messages = messages(&mut outgoing).await;
    assert!(ids(&messages).contains(&id) && types(&messages).contains(&"FactsRequest"), "{messages:?}");
}

#[tokio::test]
async fn a_stream_ends_when_its_life_is_over() {
    let world = World::new().await;
    let engine = world.engine(EngineConfig { stream_life: Duration::from_millis(50), ..EngineConfig::default() }, &[]);
    let OpenStream { mut outgoing, .. } = open(&engine, 1).await;
    assert_eq!(end(&mut outgoing).await, StreamEnd::Life);
}

#[tokio::test]
async fn a_stop_ends_all_streams_and_takes_their_last_records() {
    let world = World::new().await;
    let engine = world.plain();
    let running = run(&engine);
    let mut streams = Vec::new();
    for number in 1..=50 {
        streams.push(open(&engine, number).await);
    }
    running.stop.cancel();
    for (number, mut stream) in (1..).zip(streams) {
        assert_eq!(end(&mut stream.outgoing).await, StreamEnd::Stopping);
        stream.incoming.record(&machine(number), data(vec![say(1, "muster", "Note", b"")])).await.unwrap();
    }
    let start = tokio::time::Instant::now();
    running.task.await.unwrap();
    assert!(start.elapsed() < limits::DRAIN);
    for number in 1..=50 {
        let agent = machine(number).agent();
        assert_eq!(world.row(MessageId::derive(agent, "muster", &[1])).await.state, MessageState::Done);
        assert_eq!(world.store.agent_get(agent).await.unwrap().unwrap().streaming_to, "");
    }
}

#[tokio::test]
async fn an_agent_that_sends_too_much_on_a_stream_is_made_to_wait() {
    let world = World::new().await;
    let config = EngineConfig { agent_messages_per_second: 100, ..EngineConfig::default() };
    let engine = world.engine(config, &[]);
    let OpenStream { mut incoming, .. } = open(&engine, 1).await;
    let start = tokio::time::Instant::now();
    for round in 0..11 {
        let record = (0..100).map(|number| say(number, "muster", &format!("{round}"), b"")).collect();
        incoming.record(&machine(1), data(record)).await.unwrap();
    }
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_idle_stream_costs_little() {
    let world = World::new().await;
    let engine = world.plain();
    let stream = open(&engine, 1).await;
    let each = std::mem::size_of_val(&stream.outgoing)
        + std::mem::size_of_val(&stream.incoming)
        + std::mem::size_of::<crate::registry::Stream>()
        + std::mem::size_of::<crate::registry::Held>();
    assert!(each <= 400, "{each} bytes");
    let agent = world.store.agent_get(machine(1).agent()).await.unwrap().unwrap();
    assert_eq!((agent.state, agent.streaming_to.as_str()), (AgentState::Enrolled, "local"));
}
