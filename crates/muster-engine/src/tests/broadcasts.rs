use super::streams::{is_quiet, messages, open};
use crate::engine::lock;
use crate::testing::{World, caller, data, machine, poll, run, say, tell, types, until, with_labels};
use crate::{Engine, EngineConfig, OperatorError, WakeUp};
use muster_core::{Address, Broadcast, BroadcastId, BroadcastLimit, Clock, Label, limits};
use std::time::Duration;

fn broadcast(world: &World, number: u8, limit: BroadcastLimit) -> Broadcast {
    Broadcast {
        id: BroadcastId::from_bytes([number; 8]),
        source: Address::server("ops"),
        destination_service: "web".into(),
        message_type: format!("News{number}"),
        required_labels: Vec::new(),
        expires: None,
        payload: None,
        group: String::new(),
        limit,
        sent: 0,
        allocated: 0,
        created: world.clock.now(),
    }
}

async fn create(engine: &Engine, broadcast: Broadcast) -> BroadcastId {
    let id = engine.broadcast_create(broadcast, &caller()).await.unwrap();
    engine.inner.broadcasts_refresh().await.unwrap();
    id
}

async fn sent(world: &World, id: BroadcastId) -> (u64, u64) {
    let broadcast = world.store.broadcast_get(id).await.unwrap().unwrap();
    (broadcast.sent, broadcast.allocated)
}

fn server(world: &World, url: &str, fraction: f32) -> Engine {
    let config = EngineConfig { wake_url: url.to_owned(), broadcast_fraction: fraction, ..EngineConfig::default() };
    world.engine(config, &[])
}

#[tokio::test]
async fn a_poll_takes_each_broadcast_home_once() {
    let world = World::new().await;
    let engine = world.plain();
    create(&engine, broadcast(&world, 1, BroadcastLimit::Unlimited)).await;
    let first = poll(&engine, &machine(1)).await.messages;
    assert_eq!(types(&first), ["News1"]);
    assert_eq!(first[0].source, Address::server("ops"));
    assert_eq!(first[0].destination, Address::agent(machine(1).agent(), "web"));
    assert_eq!(poll(&engine, &machine(1)).await.messages, []);
    assert_eq!(types(&poll(&engine, &machine(2)).await.messages), ["News1"]);
}

#[tokio::test]
async fn only_machines_with_all_labels_are_reached_and_new_labels_count_at_once() {
    let world = World::new().await;
    let engine = world.plain();
    let required_labels = vec![Label::client("linux"), Label::new("operator", "web")];
    create(&engine, Broadcast { required_labels, ..broadcast(&world, 1, BroadcastLimit::Unlimited) }).await;
    let from = with_labels(1, &["linux"]);
    let mut stream = engine.stream_open(from.clone(), data(vec![])).await.unwrap();
    assert!(is_quiet(&mut stream.outgoing).await);
    engine.agent_label_put(from.agent(), Label::new("operator", "web"), &caller()).await.unwrap();
    assert_eq!(types(&messages(&mut stream.outgoing).await), ["News1"]);
    let mut other = open(&engine, 2).await;
    engine.agent_label_put(machine(2).agent(), Label::new("operator", "web"), &caller()).await.unwrap();
    assert!(is_quiet(&mut other.outgoing).await);
    let info = say(1, "system", "ClientInfo", b"linux");
    other.incoming.record(&machine(2), data(vec![info])).await.unwrap();
    assert_eq!(types(&messages(&mut other.outgoing).await), ["News1"]);
}

#[tokio::test]
async fn a_label_given_by_one_server_counts_for_a_stream_of_another() {
    let world = World::new().await;
    let (one, other) = (server(&world, "https://one", 0.5), server(&world, "https://other", 0.5));
    let running = run(&other);
    let required_labels = vec![Label::new("operator", "web")];
    create(&one, Broadcast { required_labels, ..broadcast(&world, 1, BroadcastLimit::Unlimited) }).await;
    let mut stream = open(&one, 1).await;
    assert!(is_quiet(&mut stream.outgoing).await);
    other.agent_label_put(machine(1).agent(), Label::new("operator", "web"), &caller()).await.unwrap();
    assert_eq!(types(&messages(&mut stream.outgoing).await), ["News1"]);
    assert_eq!(*lock(&world.network.calls), [("https://one".to_owned(), WakeUp::Labels(vec![machine(1).agent()]))]);
    running.end().await;
}

#[tokio::test]
async fn a_new_broadcast_reaches_the_open_streams_of_all_servers_within_seconds() {
    let world = World::new().await;
    let (one, other) = (server(&world, "https://one", 0.5), server(&world, "https://other", 0.5));
    let running = [run(&one), run(&other)];
    for engine in [&one, &other] {
        until("it knows both", || async {
            let _ = engine.inner.server_beat().await;
            engine.inner.broadcasts.servers().len() == 2
        })
        .await;
    }
    let mut streams = Vec::new();
    for number in 1..=40 {
        streams.push(open(if number % 2 == 0 { &one } else { &other }, number).await);
    }
    let start = tokio::time::Instant::now();
    one.broadcast_create(broadcast(&world, 1, BroadcastLimit::Unlimited), &caller()).await.unwrap();
    for stream in &mut streams {
        assert_eq!(types(&messages(&mut stream.outgoing).await), ["News1"]);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(lock(&world.network.calls).contains(&("https://other".to_owned(), WakeUp::Broadcasts)));
    drop(streams);
    for running in running {
        running.end().await;
    }
}

#[tokio::test]
async fn two_servers_together_never_pass_a_limit_and_reach_it() {
    for fraction in [0.1, 0.5, 1.0] {
        let world = World::new().await;
        let engines = [server(&world, "https://one", fraction), server(&world, "https://other", fraction)];
        let id = create(&engines[0], broadcast(&world, 1, BroadcastLimit::Machines(23))).await;
        engines[1].inner.broadcasts_refresh().await.unwrap();
        let mut reached = 0;
        for round in 0..10_u8 {
            let polls = (0..6).map(|k| {
                let number = round * 6 + k;
                let engine = &engines[usize::from(k % 2)];
                async move { poll(engine, &machine(number)).await.messages.len() }
            });
            reached += futures_util::future::join_all(polls).await.iter().sum::<usize>();
            let broadcast = world.store.broadcast_get(id).await.unwrap().unwrap();
            assert!(broadcast.sent <= 23, "{fraction}: {} sent", broadcast.sent);
            for engine in &engines {
                engine.inner.shares_end().await.unwrap();
            }
        }
        for engine in &engines {
            engine.inner.shares_end_all().await.unwrap();
            engine.inner.broadcasts_refresh().await.unwrap();
        }
        for number in 60..90 {
            reached += poll(&engines[usize::from(number % 2)], &machine(number)).await.messages.len();
        }
        assert_eq!(reached, 23, "fraction {fraction}");
        for engine in &engines {
            engine.inner.shares_end_all().await.unwrap();
        }
        assert_eq!(sent(&world, id).await, (23, 0), "fraction {fraction}");
    }
}

#[tokio::test]
async fn streams_that_found_nothing_left_are_asked_again_when_a_dead_servers_share_comes_back() {
    let world = World::new().await;
    let (dead, alive) = (server(&world, "https://dead", 1.0), server(&world, "https://alive", 1.0));
    let id = create(&dead, broadcast(&world, 1, BroadcastLimit::Machines(2))).await;
    assert_eq!(poll(&dead, &machine(1)).await.messages.len(), 1);
    drop(dead);
    let mut stream = open(&alive, 2).await;
    alive.inner.broadcasts_refresh().await.unwrap();
    assert!(is_quiet(&mut stream.outgoing).await, "the whole limit is promised to the dead server");
    world.clock.advance(limits::ALLOCATION_LIFE + Duration::from_secs(1));
    alive.inner.park().await.unwrap();
    alive.inner.broadcasts_refresh().await.unwrap();
    assert_eq!(types(&messages(&mut stream.outgoing).await), ["News1"]);
    alive.inner.shares_end_all().await.unwrap();
    assert_eq!(sent(&world, id).await, (2, 0));
}

#[tokio::test]
async fn a_share_that_lapsed_is_replaced() {
    let world = World::new().await;
    let engine = server(&world, "", 0.5);
    let id = create(&engine, broadcast(&world, 1, BroadcastLimit::Machines(10))).await;
    assert_eq!(poll(&engine, &machine(1)).await.messages.len(), 1);
    world.clock.advance(limits::ALLOCATION_LIFE);
    assert_eq!(poll(&engine, &machine(2)).await.messages.len(), 1);
    engine.inner.shares_end_all().await.unwrap();
    assert_eq!(sent(&world, id).await, (2, 0));
}

#[tokio::test]
async fn a_broadcast_that_is_switched_off_reaches_nobody_more() {
    let world = World::new().await;
    let (one, other) = (server(&world, "https://one", 0.5), server(&world, "https://other", 0.5));
    for (number, limit) in [(1, BroadcastLimit::Unlimited), (2, BroadcastLimit::Machines(10))] {
        let id = create(&one, broadcast(&world, number, limit)).await;
        other.inner.broadcasts_refresh().await.unwrap();
        assert_eq!(poll(&one, &machine(1)).await.messages.len(), 1);
        other.broadcast_disable(&[id], &caller()).await.unwrap();
        assert_eq!(poll(&one, &machine(2)).await.messages, [], "before it is told");
        one.inner.broadcasts_refresh().await.unwrap();
        assert_eq!(poll(&one, &machine(3)).await.messages, []);
        one.inner.shares_end_all().await.unwrap();
        assert_eq!(sent(&world, id).await, (1, 0));
    }
}

#[tokio::test]
async fn a_newer_broadcast_of_a_group_takes_the_place_of_the_older() {
    let world = World::new().await;
    let engine = world.plain();
    for number in [1, 2] {
        let news = broadcast(&world, number, BroadcastLimit::Unlimited);
        create(&engine, Broadcast { group: "news".into(), ..news }).await;
    }
    assert_eq!(types(&poll(&engine, &machine(1)).await.messages), ["News2"]);
}

#[tokio::test]
async fn an_expired_broadcast_reaches_nobody() {
    let world = World::new().await;
    let engine = world.plain();
    let expires = Some(world.clock.now().plus(Duration::from_secs(10)));
    create(&engine, Broadcast { expires, ..broadcast(&world, 1, BroadcastLimit::Unlimited) }).await;
    assert_eq!(poll(&engine, &machine(1)).await.messages.len(), 1);
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(poll(&engine, &machine(2)).await.messages, []);
}

#[tokio::test]
async fn a_machine_that_owes_a_key_gets_no_broadcast() {
    let world = World::new().await;
    let engine = world.plain();
    poll(&engine, &machine(1)).await;
    let mut stream = open(&engine, 2).await;
    for number in [1, 2] {
        engine.agent_blacklist(machine(number).agent(), &caller()).await.unwrap();
    }
    create(&engine, broadcast(&world, 1, BroadcastLimit::Unlimited)).await;
    assert_eq!(types(&poll(&engine, &machine(1)).await.messages), ["RekeyRequest"]);
    assert_eq!(types(&messages(&mut stream.outgoing).await), ["RekeyRequest"]);
    assert!(is_quiet(&mut stream.outgoing).await);
}

#[tokio::test]
async fn more_broadcasts_than_fit_come_in_portions() {
    let world = World::new().await;
    let engine = world.plain();
    for number in 0..105 {
        let id = BroadcastId::from_bytes([number; 8]);
        let news = Broadcast { id, ..broadcast(&world, number, BroadcastLimit::Unlimited) };
        engine.broadcast_create(news, &caller()).await.unwrap();
    }
    let mut stream = open(&engine, 1).await;
    engine.inner.broadcasts_refresh().await.unwrap();
    assert_eq!(messages(&mut stream.outgoing).await.len(), 100);
    assert_eq!(messages(&mut stream.outgoing).await.len(), 5);
    assert_eq!(tell(&engine, &machine(2), vec![]).await.messages.len(), 100);
    assert_eq!(tell(&engine, &machine(2), vec![]).await.messages.len(), 5);
}

#[tokio::test]
async fn the_same_broadcast_again_is_accepted_and_another_of_its_id_is_not() {
    let world = World::new().await;
    let engine = world.plain();
    let news = broadcast(&world, 1, BroadcastLimit::Machines(1));
    create(&engine, news.clone()).await;
    create(&engine, news.clone()).await;
    let other = Broadcast { message_type: "Other".into(), ..news.clone() };
    assert!(matches!(engine.broadcast_create(other, &caller()).await, Err(OperatorError::Conflict(_))));
    let wrong = Broadcast { source: Address::server(""), ..news };
    assert!(matches!(engine.broadcast_create(wrong, &caller()).await, Err(OperatorError::Invalid(_))));
}

#[tokio::test]
async fn streams_whose_writers_are_stuck_hold_up_nobody() {
    let world = World::new().await;
    let engine = world.plain();
    let mut stuck = Vec::new();
    for number in 1..=u8::try_from(limits::BROADCAST_SENDS_MAX).unwrap() {
        stuck.push(open(&engine, number).await);
    }
    create(&engine, broadcast(&world, 1, BroadcastLimit::Machines(1000))).await;
    for stream in &mut stuck {
        // They begin to take it, and then nobody asks them any more.
        let _ = tokio::time::timeout(Duration::ZERO, stream.outgoing.next()).await;
    }
    let mut other = open(&engine, 200).await;
    assert_eq!(types(&messages(&mut other.outgoing).await), ["News1"]);
}
