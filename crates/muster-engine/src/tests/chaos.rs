//! Machines that come, go and lose answers at random, on two servers that lose wake-ups: in the end nothing is lost,
//! nothing is there twice, and no limit is passed. The seed of a failure is in its message.

use super::streams::open;
use crate::engine::lock;
use crate::testing::{TestService, World, ack, caller, data, ids, machine, poll, run, say, until};
use crate::{Engine, EngineConfig, OpenStream, StreamEvent};
use muster_core::{Address, Broadcast, BroadcastId, BroadcastLimit, Clock, MessageId, limits};
use muster_store::messages::MessageState;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

const MACHINES: u8 = 6;
const LIMIT: u64 = 4;

/// A small generator of its own, so that what the engine draws does not change what the test does.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn number(&mut self, bound: u8) -> u8 {
        u8::try_from(self.below(u64::from(bound))).unwrap()
    }
}

struct Play {
    world: World,
    engines: [Engine; 2],
    streams: BTreeMap<u8, OpenStream>,
    /// What each machine was handed and has not acknowledged.
    handed: BTreeMap<u8, BTreeSet<MessageId>>,
    broadcasts: BTreeMap<u8, u32>,
    inserted: Vec<MessageId>,
    said: u8,
    acknowledged: u8,
    dice: Dice,
}

impl Play {
    async fn step(&mut self) {
        let (number, server) = (1 + self.dice.number(MACHINES), self.dice.number(2));
        let engine = self.engines[usize::from(server)].clone();
        match self.dice.below(10) {
            0 => {
                let id = u8::try_from(self.inserted.len()).unwrap();
                let message = self.world.message_to(id, machine(number).agent(), "s");
                if self.world.store.agent_get(machine(number).agent()).await.unwrap().is_some() {
                    self.inserted.push(engine.message_insert(message).await.unwrap());
                }
            }
            1 => {
                let answer = poll(&engine, &machine(number)).await;
                self.take(number, &answer.messages);
            }
            2 => {
                // The answer is lost on its way.
                let _ = poll(&engine, &machine(number)).await;
            }
            3 => {
                let stream = open(&engine, number).await;
                self.take(number, &stream.answer.messages);
                self.streams.insert(number, stream);
            }
            4 => drop(self.streams.remove(&number)),
            5 => {
                self.said += 1;
                let message = || vec![say(self.said, "s", "", b"")];
                for _ in 0..=self.dice.below(2) {
                    engine.contact_poll(machine(number), data(message())).await.unwrap();
                }
            }
            6 => self.acknowledge(number, &engine).await,
            7 => self.world.clock.advance(Duration::from_secs(self.dice.below(400))),
            8 => self.hear(number).await,
            _ => {
                engine.inner.wake_sweep().await.unwrap();
                engine.inner.park().await.unwrap();
                engine.inner.broadcasts_refresh().await.unwrap();
                engine.inner.shares_end().await.unwrap();
            }
        }
    }

    fn take(&mut self, number: u8, messages: &[muster_core::Message]) {
        *self.broadcasts.entry(number).or_default() +=
            u32::try_from(messages.iter().filter(|message| message.message_type == "News").count()).unwrap();
        self.handed.entry(number).or_default().extend(ids(messages));
    }

    async fn hear(&mut self, number: u8) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if let Ok(StreamEvent::Messages(messages)) = timeout(Duration::from_millis(2), stream.outgoing.next()).await {
            self.take(number, &messages);
        }
    }

    async fn acknowledge(&mut self, number: u8, engine: &Engine) {
        let Some(handed) = self.handed.get_mut(&number).filter(|handed| !handed.is_empty()) else { return };
        self.acknowledged += 1;
        let taken: Vec<MessageId> = std::mem::take(handed).into_iter().collect();
        let mut message = ack(0, &taken);
        message.source_service = "acks".into();
        message.source_message_id = vec![self.acknowledged];
        let answer = engine.contact_poll(machine(number), data(vec![message])).await.unwrap();
        self.take(number, &answer.messages);
    }

    /// Goes on in peace until every machine has taken what there is for it.
    async fn settle(&mut self) {
        self.streams.clear();
        for _ in 0..3 {
            self.world.clock.advance(limits::AGENT_RETRY + Duration::from_secs(1));
            for number in 1..=MACHINES {
                let engine = self.engines[0].clone();
                let answer = poll(&engine, &machine(number)).await;
                self.take(number, &answer.messages);
                self.acknowledge(number, &engine).await;
            }
        }
    }
}

async fn play(seed: u64) {
    let world = World::new().await;
    world.network.is_cut.store(seed.is_multiple_of(2), Ordering::SeqCst);
    let service = TestService::new("s", 4);
    let server = |url: &str| {
        let config = EngineConfig { wake_url: url.to_owned(), ..EngineConfig::default() };
        world.engine(config, &[&service])
    };
    let engines = [server("https://one"), server("https://other")];
    let running = [run(&engines[0]), run(&engines[1])];
    let news = Broadcast {
        id: BroadcastId::from_bytes([1; 8]),
        source: Address::server("ops"),
        destination_service: "s".into(),
        message_type: "News".into(),
        required_labels: Vec::new(),
        expires: None,
        payload: None,
        group: String::new(),
        limit: BroadcastLimit::Machines(LIMIT),
        sent: 0,
        allocated: 0,
        created: world.clock.now(),
    };
    let id = engines[0].broadcast_create(news, &caller()).await.unwrap();
    let mut play = Play {
        world,
        engines,
        streams: BTreeMap::new(),
        handed: BTreeMap::new(),
        broadcasts: BTreeMap::new(),
        inserted: Vec::new(),
        said: 0,
        acknowledged: 0,
        dice: Dice(seed),
    };
    for _ in 0..150 {
        play.step().await;
        let sent = play.world.store.broadcast_get(id).await.unwrap().unwrap().sent;
        assert!(sent <= LIMIT, "seed {seed}: a broadcast reached {sent} machines");
    }
    play.settle().await;
    for id in &play.inserted {
        assert_eq!(play.world.row(*id).await.state, MessageState::Done, "seed {seed}: message {id}");
    }
    let said = usize::from(play.said);
    // A service may see a message again when its due time comes before its result is stored; a message is one row.
    let distinct = || ids(&lock(&service.got)).into_iter().collect::<BTreeSet<_>>().len();
    until("everything said was heard", || async { distinct() >= said }).await;
    for running in running {
        running.end().await;
    }
    assert_eq!(distinct(), said, "seed {seed}: what was sent twice is one message");
    let news = play.world.store.broadcast_get(id).await.unwrap().unwrap();
    assert!(news.sent <= LIMIT, "seed {seed}");
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_is_there_twice() {
    for seed in 0..8 {
        play(seed).await;
    }
}
