use super::streams::{end, event, is_quiet, messages, open};
use crate::engine::lock;
use crate::testing::{TestService, World, ack, caller, data, ids, machine, poll, run, say, tell, types, until};
use crate::{Engine, EngineConfig, OpenStream, StreamEnd, StreamEvent, WakeRefusal, WakeUp};
use muster_core::{Clock, MessageId, limits};
use muster_store::messages::MessageState;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn server(world: &World, url: &str, services: &[&std::sync::Arc<TestService>]) -> Engine {
    world.engine(EngineConfig { wake_url: url.to_owned(), ..EngineConfig::default() }, services)
}

#[tokio::test]
async fn a_message_stored_by_one_server_reaches_a_stream_of_another() {
    let world = World::new().await;
    let (one, other) = (server(&world, "https://one", &[]), server(&world, "https://other", &[]));
    let running = [run(&one), run(&other)];
    let mut stream = open(&one, 1).await;
    let id = other.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(ids(&messages(&mut stream.outgoing).await), [id]);
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(*lock(&world.network.calls), [("https://one".to_owned(), WakeUp::Messages(vec![machine(1).agent()]))]);
    for running in running {
        running.stop.cancel();
        drop(running);
    }
}

#[tokio::test]
async fn a_parked_message_that_is_sent_again_by_one_server_reaches_a_stream_of_another() {
    let world = World::new().await;
    let (one, other) = (server(&world, "https://one", &[]), server(&world, "https://other", &[]));
    let running = run(&other);
    poll(&one, &machine(1)).await;
    let expires = Some(world.clock.now());
    let message = muster_core::Message { expires, ..world.message_to(1, machine(1).agent(), "s") };
    let id = one.message_insert(message).await.unwrap();
    one.inner.park().await.unwrap();
    let mut stream = open(&one, 1).await;
    world.clock.advance(Duration::from_secs(1));
    assert!(other.message_unpark(id, &caller()).await.unwrap());
    let call = ("https://one".to_owned(), WakeUp::Messages(vec![machine(1).agent()]));
    until("the other server is woken", || async { lock(&world.network.calls).contains(&call) }).await;
    // The hand-moved clock stands still: a wake-up of the same instant finds it not due yet.
    world.clock.advance(Duration::from_nanos(1));
    one.wake_here(&WakeUp::Messages(vec![machine(1).agent()]));
    assert_eq!(ids(&messages(&mut stream.outgoing).await), [id]);
    running.end().await;
}

#[tokio::test]
async fn a_lost_wake_up_is_found_by_the_sweep() {
    let world = World::new().await;
    world.network.is_cut.store(true, Ordering::SeqCst);
    let (one, other) = (server(&world, "https://one", &[]), server(&world, "https://other", &[]));
    let running = run(&other);
    let mut stream = open(&one, 1).await;
    let id = other.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    until("the wake-up was sent", || async { !lock(&world.network.calls).is_empty() }).await;
    assert!(is_quiet(&mut stream.outgoing).await);
    one.inner.wake_sweep().await.unwrap();
    assert_eq!(ids(&messages(&mut stream.outgoing).await), [id]);
    running.end().await;
}

#[tokio::test]
async fn a_server_whose_clock_is_behind_hands_out_at_once() {
    let world = World::new().await;
    let engine = world.plain();
    let mut stream = open(&engine, 1).await;
    let ahead = muster_core::Message {
        created: world.clock.now().plus(Duration::from_secs(1)),
        ..world.message_to(1, machine(1).agent(), "s")
    };
    let id = engine.message_insert(ahead).await.unwrap();
    assert_eq!(ids(&messages(&mut stream.outgoing).await), [id]);
}

#[tokio::test]
async fn a_change_of_state_on_one_server_reaches_a_stream_of_another() {
    let world = World::new().await;
    let (one, other) = (server(&world, "https://one", &[]), server(&world, "https://other", &[]));
    let OpenStream { mut outgoing, mut incoming, .. } = open(&one, 1).await;
    let mut second = open(&one, 2).await;
    other.agent_blacklist(machine(1).agent(), &caller()).await.unwrap();
    other.agent_delete(machine(2).agent(), &caller()).await.unwrap();
    one.inner.states_sweep().await.unwrap();
    let demand = messages(&mut outgoing).await;
    assert_eq!(types(&demand), ["RekeyRequest"]);
    assert_eq!(end(&mut second.outgoing).await, StreamEnd::Gone);
    one.inner.states_sweep().await.unwrap();
    assert!(is_quiet(&mut outgoing).await);
    incoming.record(&machine(1), data(vec![ack(1, &ids(&demand))])).await.unwrap();
    assert_eq!(end(&mut outgoing).await, StreamEnd::Gone);
}

#[tokio::test]
async fn a_machine_whose_stream_is_held_is_heard_of() {
    let world = World::new().await;
    let one = server(&world, "https://one", &[]);
    let stream = open(&one, 1).await;
    poll(&one, &machine(2)).await;
    let before = world.clock.now();
    world.clock.advance(limits::HEARD_EVERY);
    one.inner.heard_note().await.unwrap();
    let last = async |number| world.store.agent_get(machine(number).agent()).await.unwrap().unwrap().last_contact;
    assert_eq!(last(1).await, before.plus(limits::HEARD_EVERY));
    assert!(last(2).await <= before);
    drop(stream);
    world.clock.advance(limits::HEARD_EVERY);
    one.inner.heard_note().await.unwrap();
    assert_eq!(last(1).await, before.plus(limits::HEARD_EVERY));
}

#[tokio::test]
async fn the_sweeps_run_by_themselves() {
    let world = World::new().await;
    let (one, other) = (server(&world, "https://one", &[]), server(&world, "https://other", &[]));
    let running = run(&one);
    let mut stream = open(&one, 1).await;
    let start = tokio::time::Instant::now();
    other.agent_blacklist(machine(1).agent(), &caller()).await.unwrap();
    assert_eq!(types(&messages(&mut stream.outgoing).await), ["RekeyRequest"]);
    assert!(start.elapsed() < Duration::from_secs(5));
    running.end().await;
}

#[tokio::test]
async fn a_stream_that_moved_to_another_server_keeps_what_it_was_handed_there() {
    let world = World::new().await;
    let (one, other) = (server(&world, "https://one", &[]), server(&world, "https://other", &[]));
    let running = run(&one);
    let before = open(&one, 1).await;
    let mut after = open(&other, 1).await;
    let id = other.message_insert(world.message_to(1, machine(1).agent(), "s")).await.unwrap();
    assert_eq!(ids(&messages(&mut after.outgoing).await), [id]);
    let due = world.row(id).await.due;
    drop(before);
    until("the end was noted", || async { one.inner.ends_open.load(Ordering::SeqCst) == 0 }).await;
    assert_eq!(world.row(id).await.due, due);
    let agent = world.store.agent_get(machine(1).agent()).await.unwrap().unwrap();
    assert_eq!(agent.streaming_to, "https://other");
    running.end().await;
}

#[tokio::test]
async fn another_server_takes_over_what_one_left_in_its_memory() {
    let world = World::new().await;
    let (dead, alive) = (TestService::new("s", 1), TestService::new("s", 1));
    let one = server(&world, "https://one", &[&dead]);
    tell(&one, &machine(1), vec![say(1, "s", "", b"")]).await;
    drop(one);
    let other = server(&world, "https://other", &[&alive]);
    let running = run(&other);
    world.clock.advance(Duration::from_secs(121));
    let id = MessageId::derive(machine(1).agent(), "agent", &[1]);
    until("it is done", || async { world.row(id).await.state == MessageState::Done }).await;
    assert_eq!((dead.count(), alive.count()), (0, 1));
    running.end().await;
}

#[tokio::test]
async fn wake_ups_are_told_apart_from_those_of_strangers() {
    let world = World::new().await;
    let (one, other) = (server(&world, "https://one", &[]), server(&world, "https://other", &[]));
    let now = world.clock.now();
    let authenticator = one.wake_authenticator("https://other", b"body").await.unwrap();
    let stranger = World::new().await;
    let stranger = server(&stranger, "https://other", &[]);
    for (server, body, authenticator) in [
        (&other, &b"other body"[..], &authenticator[..]),
        (&other, b"body", &authenticator[1..]),
        (&other, b"body", b""),
        (&one, b"body", &authenticator),
        (&stranger, b"body", &authenticator),
    ] {
        assert_eq!(server.wake_believe(now, body, authenticator).await, Err(WakeRefusal::Stranger));
    }
    assert_eq!(other.wake_believe(now, b"body", &authenticator).await, Ok(()));
    assert_eq!(other.wake_believe(now, b"body", &authenticator).await, Err(WakeRefusal::Replayed));
}

#[tokio::test]
async fn two_servers_give_each_message_to_a_racing_agent_once() {
    let world = World::new().await;
    let (one, other) = (server(&world, "https://one", &[]), server(&world, "https://other", &[]));
    poll(&one, &machine(1)).await;
    for number in 0..150 {
        one.message_insert(world.message_to(number, machine(1).agent(), "s")).await.unwrap();
    }
    let from = machine(1);
    let (a, b) = tokio::join!(poll(&one, &from), poll(&other, &from));
    let mut got = [ids(&a.messages), ids(&b.messages)].concat();
    got.sort_unstable();
    got.dedup();
    assert_eq!((got.len(), a.messages.len() + b.messages.len()), (150, 150));
}

#[tokio::test]
async fn only_one_server_has_a_job_at_a_time() {
    let world = World::new().await;
    let one = server(&world, "https://one", &[]);
    let now = world.clock.now();
    let lease = world.store.lease_claim("park", one.server(), limits::JOB_LEASE, now).await.unwrap().unwrap();
    let other = server(&world, "https://other", &[]);
    let expires = Some(now);
    poll(&one, &machine(1)).await;
    let message = muster_core::Message { expires, ..world.message_to(1, machine(1).agent(), "s") };
    let id = one.message_insert(message).await.unwrap();
    other.inner.park().await.unwrap();
    assert_eq!(world.row(id).await.state, MessageState::Pending);
    world.store.lease_release(&lease).await.unwrap();
    other.inner.park().await.unwrap();
    assert_eq!(world.row(id).await.state, MessageState::Parked);
}

#[tokio::test]
async fn many_streams_are_swept_and_woken() {
    let world = World::new().await;
    let engine = server(&world, "https://one", &[]);
    let mut streams = Vec::new();
    for number in 1..=200 {
        streams.push((number, open(&engine, number).await));
    }
    world.network.is_cut.store(true, Ordering::SeqCst);
    for number in 1..=200 {
        world
            .store
            .message_put(vec![world.message_to(number, machine(number).agent(), "s")], None, world.clock.now())
            .await
            .unwrap();
    }
    engine.inner.wake_sweep().await.unwrap();
    for (_, stream) in &mut streams {
        assert!(matches!(event(&mut stream.outgoing).await, StreamEvent::Messages(messages) if messages.len() == 1));
    }
}
