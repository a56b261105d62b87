use crate::engine::lock;
use crate::testing::{Answer, TestService, World, caller, ids, machine, poll, run, say, tell, until};
use crate::{Condition, EngineConfig, OperatorError, ServiceError};
use muster_core::{Address, Clock, Message, MessageId, Payload, Timestamp, limits};
use muster_store::messages::{MessageRow, MessageState};
use std::sync::atomic::Ordering;
use std::time::Duration;

fn to_server(world: &World, number: u8, service: &str) -> Message {
    let message = world.message_to(number, machine(1).agent(), service);
    Message { destination: Address::server(service), ..message }
}

fn failure(row: MessageRow) -> String {
    row.message.result.unwrap().failure.unwrap()
}

#[tokio::test]
async fn what_a_service_refuses_for_good_fails_with_its_reason() {
    let world = World::new().await;
    let service = TestService::new("s", 10);
    service.answers(Answer::Fail(ServiceError::Permanent("x".repeat(2000))));
    let engine = world.engine(EngineConfig::default(), &[&service]);
    let running = run(&engine);
    let id = engine.message_insert(to_server(&world, 1, "s")).await.unwrap();
    until("it failed", || async { world.row(id).await.state == MessageState::Failed }).await;
    assert_eq!(failure(world.row(id).await).chars().count(), limits::FAILED_REASON_CHARS_MAX);
    running.end().await;
}

#[tokio::test]
async fn what_a_service_cannot_take_now_comes_again_in_a_minute_or_two() {
    let world = World::new().await;
    let service = TestService::new("s", 10);
    service.answers(Answer::Fail(ServiceError::Passing("busy".into())));
    let engine = world.engine(EngineConfig::default(), &[&service]);
    let running = run(&engine);
    let id = engine.message_insert(to_server(&world, 1, "s")).await.unwrap();
    until("the reason is kept", || async { world.row(id).await.last_error.is_some() }).await;
    let row = world.row(id).await;
    assert_eq!((row.state, row.last_error.as_deref()), (MessageState::Pending, Some("busy")));
    let wait = row.due.unwrap().since(row.message.created);
    assert!((60..=120).contains(&wait.as_secs()), "{wait:?}");
    assert_eq!(engine.inner.overdue_scan().await.unwrap(), 0);
    service.answers(Answer::Take);
    world.clock.advance(Duration::from_secs(121));
    until("it is done", || async { world.row(id).await.state == MessageState::Done }).await;
    assert_eq!(service.count(), 2);
    running.end().await;
}

#[tokio::test]
async fn a_service_that_panics_spoils_only_the_one_call() {
    let world = World::new().await;
    let service = TestService::new("s", 1);
    service.answers(Answer::Panic);
    let engine = world.engine(EngineConfig::default(), &[&service]);
    let running = run(&engine);
    let id = engine.message_insert(to_server(&world, 1, "s")).await.unwrap();
    until("the reason is kept", || async { world.row(id).await.last_error.is_some() }).await;
    service.answers(Answer::Take);
    let next = engine.message_insert(to_server(&world, 2, "s")).await.unwrap();
    until("the next is done", || async { world.row(next).await.state == MessageState::Done }).await;
    running.end().await;
}

#[tokio::test]
async fn calls_under_way_are_bounded() {
    let world = World::new().await;
    let service = TestService::new("s", 3);
    service.answers(Answer::Wait);
    let engine = world.engine(EngineConfig::default(), &[&service]);
    let running = run(&engine);
    tell(&engine, &machine(1), (0..20).map(|number| say(number, "s", "", b"")).collect()).await;
    until("three are under way", || async { service.under_way.load(Ordering::SeqCst) == 3 }).await;
    service.answers(Answer::Take);
    until("all were called", || async { service.count() == 20 }).await;
    assert_eq!(service.most.load(Ordering::SeqCst), 3);
    running.end().await;
}

#[tokio::test]
async fn what_finds_no_room_in_memory_is_taken_from_the_store() {
    let world = World::new().await;
    let service = TestService::new("s", 10);
    let engine = world.engine(EngineConfig::default(), &[&service]);
    let big = to_server(&world, 1, "s");
    let payload = Some(Payload { type_url: String::new(), value: vec![0; limits::DISPATCH_BYTES_MAX] });
    let place = engine.inner.dispatch.reserve(&Message { payload, ..big }, Timestamp::MAX).unwrap();
    let id = engine.message_insert(to_server(&world, 2, "s")).await.unwrap();
    tell(&engine, &machine(1), vec![say(1, "s", "", b"")]).await;
    let said = MessageId::derive(machine(1).agent(), "agent", &[1]);
    world.clock.advance(Duration::from_nanos(1));
    assert_eq!(engine.inner.overdue_scan().await.unwrap(), 0, "there is still no room");
    drop(place);
    let running = run(&engine);
    for id in [id, said] {
        until("it is done", || async { world.row(id).await.state == MessageState::Done }).await;
    }
    running.end().await;
}

#[tokio::test]
async fn a_message_in_memory_is_not_called_twice_when_it_falls_due() {
    let world = World::new().await;
    let service = TestService::new("s", 1);
    service.answers(Answer::Wait);
    let engine = world.engine(EngineConfig::default(), &[&service]);
    let running = run(&engine);
    for number in 1..=2 {
        engine.message_insert(to_server(&world, number, "s")).await.unwrap();
    }
    until("one is under way", || async { service.count() == 1 }).await;
    world.clock.advance(Duration::from_mins(5));
    until("they were found overdue", || async {
        let rows = [world.row(world.message_to(1, machine(1).agent(), "s").id).await];
        rows.iter().all(|row| row.attempts > 0)
    })
    .await;
    service.answers(Answer::Take);
    until("both are done", || async { engine.inner.dispatch.is_idle() }).await;
    assert_eq!(service.count(), 2);
    running.end().await;
}

#[tokio::test]
async fn what_waits_in_one_servers_memory_is_not_given_by_another() {
    let world = World::new().await;
    let (slow, other) = (TestService::new("s", 1), TestService::new("s", 1));
    slow.answers(Answer::Wait);
    let (here, there) =
        (world.engine(EngineConfig::default(), &[&slow]), world.engine(EngineConfig::default(), &[&other]));
    // Only its dispatch, so that the clock is looked at when this test says so.
    here.inner.dispatch_start(&here.inner.stopping);
    for number in 1..=5 {
        here.message_insert(to_server(&world, number, "s")).await.unwrap();
    }
    until("one is under way", || async { slow.count() == 1 }).await;
    // Ten minutes with a service that takes its time, and the other server looks all the while.
    for _ in 0..60 {
        here.inner.services_keep().await.unwrap();
        world.clock.advance(Duration::from_secs(10));
        assert_eq!(there.inner.overdue_scan().await.unwrap(), 0);
    }
    slow.answers(Answer::Take);
    until("all were given", || async { here.inner.dispatch.is_idle() }).await;
    assert_eq!((slow.count(), other.count()), (5, 0));
}

#[tokio::test]
async fn what_another_server_has_taken_is_dropped_from_memory() {
    let world = World::new().await;
    let (slow, other) = (TestService::new("s", 1), TestService::new("s", 10));
    slow.answers(Answer::Wait);
    let (here, there) =
        (world.engine(EngineConfig::default(), &[&slow]), world.engine(EngineConfig::default(), &[&other]));
    here.inner.dispatch_start(&here.inner.stopping);
    for number in 1..=3 {
        here.message_insert(to_server(&world, number, "s")).await.unwrap();
    }
    until("one is under way", || async { slow.count() == 1 }).await;
    // This server is cut off from the database for so long that what it has falls due.
    world.clock.advance(Duration::from_secs(121));
    there.inner.dispatch_start(&there.inner.stopping);
    assert_eq!(there.inner.overdue_scan().await.unwrap(), 3);
    here.inner.services_keep().await.unwrap();
    slow.answers(Answer::Take);
    until("nothing is left in memory", || async { here.inner.dispatch.is_idle() && there.inner.dispatch.is_idle() })
        .await;
    // What was under way cannot be taken back; what waited was given by one server only.
    assert_eq!((slow.count(), other.count()), (1, 3));
}

#[tokio::test]
async fn a_service_that_is_back_gets_what_waits_at_once() {
    let world = World::new().await;
    let service = TestService::new("s", 10);
    service.answers(Answer::Fail(ServiceError::Passing("connection refused".into())));
    let engine = world.engine(EngineConfig::default(), &[&service]);
    let running = run(&engine);
    let waiting: Vec<_> = (1..=20).map(|number| to_server(&world, number, "s")).collect();
    for message in &waiting {
        engine.message_insert(message.clone()).await.unwrap();
    }
    until("all were tried", || async { engine.inner.dispatch.is_idle() && service.count() >= 20 }).await;
    let states = engine.service_states();
    assert_eq!((states[0].service.as_str(), states[0].condition), ("s", Condition::Refusing));
    assert_eq!((states[0].since, states[0].reason.as_deref()), (Some(world.clock.now()), Some("connection refused")));
    service.answers(Answer::Take);
    // Any call that succeeds says that it is back; the clock stands still, so nothing falls due by itself.
    let next = engine.message_insert(to_server(&world, 21, "s")).await.unwrap();
    world.clock.advance(Duration::from_nanos(2));
    until("all are done", || async {
        let mut done = world.row(next).await.state == MessageState::Done;
        for message in &waiting {
            done &= world.row(message.id).await.state == MessageState::Done;
        }
        done
    })
    .await;
    assert_eq!(engine.service_states()[0].condition, Condition::Ok);
    running.end().await;
}

#[tokio::test]
async fn a_service_without_new_messages_is_tried_with_one_that_waits() {
    let world = World::new().await;
    let service = TestService::new("s", 10);
    service.answers(Answer::Fail(ServiceError::Passing("busy".into())));
    let engine = world.engine(EngineConfig::default(), &[&service]);
    engine.inner.dispatch_start(&engine.inner.stopping);
    for number in 1..=3 {
        engine.message_insert(to_server(&world, number, "s")).await.unwrap();
    }
    until("all were tried", || async { engine.inner.dispatch.is_idle() && service.count() == 3 }).await;
    world.clock.advance(Duration::from_nanos(2));
    assert_eq!(engine.inner.overdue_scan().await.unwrap(), 0);
    engine.inner.services_try().await.unwrap();
    world.clock.advance(Duration::from_nanos(2));
    assert_eq!(engine.inner.overdue_scan().await.unwrap(), 1, "one, and no more");
    until("it was tried", || async { engine.inner.dispatch.is_idle() && service.count() == 4 }).await;
    service.answers(Answer::Take);
    engine.inner.services_try().await.unwrap();
    world.clock.advance(Duration::from_nanos(2));
    assert_eq!(engine.inner.overdue_scan().await.unwrap(), 1);
    until("the others were woken", || async {
        world.clock.advance(Duration::from_nanos(2));
        engine.inner.overdue_scan().await.unwrap();
        service.count() == 7
    })
    .await;
}

#[tokio::test]
async fn services_that_discard_and_those_that_are_not_there() {
    let world = World::new().await;
    let noop = TestService::new("noop", 1);
    let engine = world.engine(EngineConfig::default(), &[&noop]);
    let done = engine.message_insert(to_server(&world, 1, "noop")).await.unwrap();
    let unknown = engine.message_insert(to_server(&world, 2, "nosuch")).await.unwrap();
    let system = engine.message_insert(to_server(&world, 3, "system")).await.unwrap();
    tell(&engine, &machine(1), vec![say(1, "noop", "", b"")]).await;
    assert_eq!(world.row(done).await.state, MessageState::Done);
    assert_eq!(failure(world.row(unknown).await), "unknown service \"nosuch\"");
    assert!(failure(world.row(system).await).contains("agents only"));
    let said = MessageId::derive(machine(1).agent(), "agent", &[1]);
    assert_eq!(world.row(said).await.state, MessageState::Done);
    assert_eq!(noop.count(), 0);
}

#[tokio::test]
async fn an_insert_is_checked_and_twice_is_once() {
    let world = World::new().await;
    let engine = world.plain();
    let agent = machine(1).agent();
    let insert = async |message| engine.message_insert(message).await;
    assert!(matches!(insert(world.message_to(1, agent, "s")).await, Err(OperatorError::NotFound(_))));
    poll(&engine, &machine(1)).await;
    let good = world.message_to(1, agent, "s");
    insert(good.clone()).await.unwrap();
    insert(good.clone()).await.unwrap();
    let other = Message { message_type: "other".into(), ..good.clone() };
    assert!(matches!(insert(other).await, Err(OperatorError::Conflict(_))));
    let row = world.row(good.id).await;
    assert_eq!(row.message.expires, Some(good.created.plus(limits::MESSAGE_LIFE)));
    let of = |bytes| Some(Payload { type_url: "t".into(), value: vec![0; bytes] });
    for wrong in [
        Message { source: Address::agent(agent, "s"), ..good.clone() },
        Message { source: Address::server(""), ..good.clone() },
        Message { destination: Address::agent(agent, ""), ..good.clone() },
        Message { message_type: "\0".into(), ..good.clone() },
        Message { payload: of(limits::MESSAGE_BYTES_MAX), ..good.clone() },
    ] {
        assert!(matches!(insert(wrong).await, Err(OperatorError::Invalid(_))));
    }
    let largest = Message { payload: of(limits::MESSAGE_BYTES_MAX - 1024), ..world.message_to(2, agent, "s") };
    insert(largest).await.unwrap();
}

#[tokio::test]
async fn a_message_that_nobody_takes_is_parked_and_can_be_sent_again() {
    let world = World::new().await;
    let engine = world.plain();
    let agent = machine(1).agent();
    poll(&engine, &machine(1)).await;
    let expires = Some(muster_core::Clock::now(&*world.clock).plus(Duration::from_mins(1)));
    let id = engine.message_insert(Message { expires, ..world.message_to(1, agent, "s") }).await.unwrap();
    assert!(!engine.message_unpark(id, &caller()).await.unwrap());
    world.clock.advance(Duration::from_secs(61));
    engine.inner.park().await.unwrap();
    assert_eq!(world.row(id).await.state, MessageState::Parked);
    assert_eq!(poll(&engine, &machine(1)).await.messages, []);
    assert!(engine.message_unpark(id, &caller()).await.unwrap());
    world.clock.advance(Duration::from_nanos(1));
    assert_eq!(ids(&poll(&engine, &machine(1)).await.messages), [id]);
}

#[tokio::test]
async fn finished_messages_and_old_contacts_go_and_waiting_messages_stay() {
    let world = World::new().await;
    let engine = world.plain();
    let agent = machine(1).agent();
    poll(&engine, &machine(1)).await;
    let waiting = engine.message_insert(world.message_to(1, agent, "s")).await.unwrap();
    tell(&engine, &machine(1), vec![say(1, "muster", "Note", b"")]).await;
    let done = MessageId::derive(agent, "agent", &[1]);
    world.clock.advance(limits::MESSAGE_RETENTION + Duration::from_secs(1));
    engine.inner.retention().await.unwrap();
    assert_eq!(world.store.message_get(&[done], false).await.unwrap(), []);
    assert_eq!(world.row(waiting).await.state, MessageState::Pending);
    assert_eq!(world.store.contact_page(agent, None, 10).await.unwrap(), []);
    engine.inner.retention().await.unwrap();
}

#[tokio::test]
async fn a_stop_lets_calls_under_way_finish() {
    let world = World::new().await;
    let service = TestService::new("s", 1);
    service.answers(Answer::Wait);
    let engine = world.engine(EngineConfig::default(), &[&service]);
    let running = run(&engine);
    let id = engine.message_insert(to_server(&world, 1, "s")).await.unwrap();
    until("it is under way", || async { service.count() == 1 }).await;
    running.stop.cancel();
    until("it stops", || async { engine.inner.stopping.is_cancelled() }).await;
    service.answers(Answer::Take);
    running.task.await.unwrap();
    assert_eq!(world.row(id).await.state, MessageState::Done);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_service_that_hangs() {
    let world = World::new().await;
    let service = TestService::new("s", 1);
    service.answers(Answer::Wait);
    let engine = world.engine(EngineConfig::default(), &[&service]);
    let running = run(&engine);
    let id = engine.message_insert(to_server(&world, 1, "s")).await.unwrap();
    until("it is under way", || async { service.count() == 1 }).await;
    let start = tokio::time::Instant::now();
    running.end().await;
    assert!(start.elapsed() <= limits::DRAIN + Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(world.row(id).await.state, MessageState::Pending);
    assert_eq!(lock(&service.got).len(), 1);
}
