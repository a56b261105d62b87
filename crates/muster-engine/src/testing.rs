//! A small world for tests: a real store on a file of its own, a clock that stands still until it is moved, randomness
//! with a seed, and doubles of what lies outside (payload codec, other servers, services).

use crate::actions::ActionOutcome;
use crate::engine::lock;
use crate::{
    ContactFrom, Engine, EngineConfig, Outside, Random, Service, ServiceError, SignedCancel, SystemCodec, WakeUp, Waker,
};
use async_trait::async_trait;
use bytes::Bytes;
use muster_core::action::{ActionId, CommandStatus};
use muster_core::contact::{ContactAnswer, ContactData, IncomingMessage};
use muster_core::system::{self, SystemMessage, SystemOrder};
use muster_core::{
    Address, AgentId, Cause, Clock, Facts, Handover, Introduction, Message, MessageId, Payload, ResourceUsage,
    Timestamp,
};
use muster_store::investigators::TrustTold;
use muster_store::messages::MessageRow;
use muster_store::{SqlStore, Store, StoreOptions};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A clock that is moved by hand.
#[derive(Debug)]
pub(crate) struct HandClock(AtomicI64);

impl HandClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// SplitMix64: the same numbers in every run.
#[derive(Debug)]
struct Seeded(AtomicU64);

impl Random for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Payloads of built-in services, in the simplest form that carries what they say.
#[derive(Debug)]
struct PlainCodec;

impl SystemCodec for PlainCodec {
    fn decode(&self, message: &Message) -> Result<SystemMessage, String> {
        let body = message.payload.as_ref().map(|payload| payload.value.clone()).ok_or("no payload")?;
        let text = || String::from_utf8(body.clone()).map_err(|error| error.to_string());
        let id = |bytes: &[u8]| MessageId::from_slice(bytes).map_err(|error| error.to_string());
        match message.message_type.as_str() {
            system::MESSAGE_ACK => Ok(SystemMessage::Ack(body.chunks(32).map(id).collect::<Result<_, _>>()?)),
            system::MESSAGE_ERROR => {
                let reason = String::from_utf8_lossy(&body[32..]).into_owned();
                Ok(SystemMessage::Error { id: id(&body[..32])?, reason })
            }
            system::CLIENT_INFO => Ok(SystemMessage::ClientInfo(text()?.lines().map(str::to_owned).collect())),
            system::RESOURCE_USAGE => {
                let at = Some(Timestamp::EPOCH);
                let usage = ResourceUsage { scope: text()?, process_start: at, measured: at, ..Default::default() };
                Ok(SystemMessage::Usage(Box::new(usage)))
            }
            system::KILL_NOTIFICATION => Ok(SystemMessage::Kill { service: text()?, reason: "memory".into() }),
            other => Err(format!("unknown message type {other:?}")),
        }
    }

    fn decode_facts(&self, message: &Message) -> Result<Facts, String> {
        let body = message.payload.as_ref().ok_or("no payload")?;
        serde_json::from_slice(&body.value).map_err(|error| error.to_string())
    }

    /// Facts as JSON; or `old` and the demand, whose handover holds when the new key is the old one plus one.
    fn decode_introduction(&self, body: &Bytes) -> Introduction {
        let said: serde_json::Value = serde_json::from_slice(body).unwrap();
        let facts = serde_json::from_value(said["facts"].clone()).unwrap_or_default();
        let handover = said["old"].as_u64().map(|old| Handover {
            old_key: vec![u8::try_from(old).unwrap(); 91],
            demand: said["demand"].as_str().unwrap().parse().unwrap(),
            made: Timestamp::EPOCH,
            signature: Vec::new(),
        });
        Introduction { facts, handover }
    }

    fn handover_holds(&self, handover: &Handover, new_key: &[u8]) -> bool {
        new_key[0] == handover.old_key[0] + 1
    }

    fn encode(&self, _: &SystemOrder) -> Option<Payload> {
        None
    }

    fn encode_action(&self, id: ActionId, json: &[u8]) -> Payload {
        Payload { type_url: id.to_string(), value: json.to_vec() }
    }

    fn encode_cancel(&self, id: ActionId, cancel: &SignedCancel<'_>) -> Payload {
        let SignedCancel { said, signature, reason } = cancel;
        let value = serde_json::json!({ "fleet": said.fleet, "signature": signature, "reason": reason });
        Payload { type_url: id.to_string(), value: value.to_string().into() }
    }

    fn encode_trust(&self, document: &[u8]) -> Payload {
        Payload { type_url: "trust".into(), value: document.to_vec() }
    }

    fn decode_trust_document(&self, payload: &Payload) -> Result<Vec<u8>, String> {
        Ok(payload.value.clone())
    }

    fn unpacked_bytes(&self, payload: &Payload) -> u64 {
        payload.value.len() as u64
    }

    fn decode_outcome(&self, message: &Message) -> Result<ActionOutcome, String> {
        let body = message.payload.as_ref().ok_or("no payload")?;
        let (action, status, results): (ActionId, CommandStatus, serde_json::Value) =
            serde_json::from_slice(&body.value).map_err(|error| error.to_string())?;
        Ok(ActionOutcome {
            action,
            status,
            refusal: None,
            results: results.to_string(),
            signature: Vec::new(),
            signed_as: None,
        })
    }

    fn decode_trust(&self, message: &Message) -> Result<TrustTold, String> {
        let body = message.payload.as_ref().ok_or("no payload")?;
        serde_json::from_slice(&body.value).map_err(|error| error.to_string())
    }
}

/// The network between servers: reaches engines by their wake-up URL, unless it is cut.
#[derive(Debug, Default)]
pub(crate) struct Network {
    servers: Mutex<HashMap<String, Engine>>,
    pub(crate) calls: Mutex<Vec<(String, WakeUp)>>,
    pub(crate) is_cut: AtomicBool,
}

#[async_trait]
impl Waker for Network {
    async fn wake(&self, url: &str, what: &WakeUp) {
        lock(&self.calls).push((url.to_owned(), what.clone()));
        let server = lock(&self.servers).get(url).cloned();
        if let (Some(server), false) = (server, self.is_cut.load(Ordering::SeqCst)) {
            server.wake_here(what);
        }
    }
}

/// How a service of the tests answers.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Take,
    Fail(ServiceError),
    Panic,
    /// Waits until the answer is another one.
    Wait,
}

/// A service that writes down what it gets.
pub(crate) struct TestService {
    name: &'static str,
    parallelism: u32,
    answer: Mutex<Answer>,
    pub(crate) got: Mutex<Vec<Message>>,
    pub(crate) under_way: AtomicU64,
    pub(crate) most: AtomicU64,
}

impl TestService {
    pub(crate) fn new(name: &'static str, parallelism: u32) -> Arc<Self> {
        Arc::new(Self {
            name,
            parallelism,
            answer: Mutex::new(Answer::Take),
            got: Mutex::default(),
            under_way: AtomicU64::new(0),
            most: AtomicU64::new(0),
        })
    }

    pub(crate) fn answers(&self, answer: Answer) {
        *lock(&self.answer) = answer;
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.got).len()
    }
}

#[async_trait]
impl Service for TestService {
    fn name(&self) -> &str {
        self.name
    }

    fn parallelism(&self) -> u32 {
        self.parallelism
    }

    fn discards(&self) -> bool {
        self.name == "noop"
    }

    async fn process(&self, message: &Message) -> Result<(), ServiceError> {
        lock(&self.got).push(message.clone());
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        loop {
            let answer = lock(&self.answer).clone();
            if !matches!(answer, Answer::Wait) {
                self.under_way.fetch_sub(1, Ordering::SeqCst);
            }
            match answer {
                Answer::Take => return Ok(()),
                Answer::Fail(error) => return Err(error),
                Answer::Panic => panic!("the test wants it"),
                Answer::Wait => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }
}

/// All of it together.
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<HandClock>,
    pub(crate) network: Arc<Network>,
    seeds: AtomicU64,
    _dir: tempfile::TempDir,
}

/// Worlds differ in what they draw, and are the same in every run.
static WORLDS: AtomicU64 = AtomicU64::new(0);

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("muster.db").display());
        SqlStore::migrate(&url).await.unwrap();
        let store = SqlStore::open(&url, &StoreOptions::default()).await.unwrap();
        let start = Timestamp::from_secs(1_800_000_000);
        let world = WORLDS.fetch_add(1, Ordering::SeqCst);
        Self {
            store: Arc::new(store),
            clock: Arc::new(HandClock(AtomicI64::new(start.as_nanos()))),
            network: Arc::default(),
            seeds: AtomicU64::new(1 + world * 1_000_000),
            _dir: dir,
        }
    }

    pub(crate) fn engine(&self, config: EngineConfig, services: &[&Arc<TestService>]) -> Engine {
        let services = services.iter().map(|service| Arc::clone(service) as Arc<dyn Service>).collect();
        let url = config.wake_url.clone();
        let outside = Outside {
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            random: Arc::new(Seeded(AtomicU64::new(self.seeds.fetch_add(1, Ordering::SeqCst)))),
            codec: Arc::new(PlainCodec),
            waker: Arc::clone(&self.network) as Arc<dyn Waker>,
        };
        let engine = Engine::new(Arc::clone(&self.store), outside, config, services);
        if !url.is_empty() {
            lock(&self.network.servers).insert(url, engine.clone());
        }
        engine
    }

    /// An engine with the documented defaults.
    pub(crate) fn plain(&self) -> Engine {
        self.engine(EngineConfig::default(), &[])
    }

    pub(crate) async fn row(&self, id: MessageId) -> MessageRow {
        self.store.message_get(&[id], true).await.unwrap().pop().expect("the message is known")
    }

    pub(crate) fn message_to(&self, number: u8, agent: AgentId, service: &str) -> Message {
        let mut id = [7; 32];
        id[31] = number;
        let ends = (Address::server("ops"), Address::agent(agent, service));
        Message::new(MessageId::from_bytes(id), ends.0, ends.1, self.clock.now())
    }
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) fn run(engine: &Engine) -> Running {
    let stop = CancellationToken::new();
    let (engine, token) = (engine.clone(), stop.clone());
    Running { stop, task: tokio::spawn(async move { engine.run(token).await }) }
}

impl Running {
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Somebody who may do everything.
pub(crate) fn caller() -> crate::access::Caller {
    crate::access::Caller::new("test", crate::access::Permissions::all(), "")
}

pub(crate) fn cause() -> Cause {
    Cause::new("test", "")
}

/// Machine number `number`.
pub(crate) fn machine(number: u8) -> ContactFrom {
    ContactFrom {
        key: vec![number; 91],
        address: format!("192.0.2.{number}:4000"),
        labels: Vec::new(),
        validation: BTreeMap::new(),
        introduction: Bytes::new(),
        leaving: false,
    }
}

/// Machine `number`, showing `introduction`.
pub(crate) fn showing(number: u8, introduction: &serde_json::Value) -> ContactFrom {
    ContactFrom { introduction: introduction.to_string().into(), ..machine(number) }
}

pub(crate) fn with_labels(number: u8, labels: &[&str]) -> ContactFrom {
    ContactFrom { labels: labels.iter().map(|label| (*label).to_owned()).collect(), ..machine(number) }
}

/// A message to `service` with the machine's own id `number`.
pub(crate) fn say(number: u8, service: &str, message_type: &str, body: &[u8]) -> IncomingMessage {
    let is_agents_own = [system::MUSTER, system::ACTIONS].contains(&service);
    IncomingMessage {
        source_service: if is_agents_own { service } else { "agent" }.into(),
        source_message_id: vec![number],
        has_destination: true,
        destination_service: service.into(),
        message_type: message_type.into(),
        payload: Some(Payload { type_url: "test".into(), value: body.to_vec() }),
        ..IncomingMessage::default()
    }
}

pub(crate) fn ack(number: u8, ids: &[MessageId]) -> IncomingMessage {
    let body: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
    say(number, "system", system::MESSAGE_ACK, &body)
}

pub(crate) fn data(messages: Vec<IncomingMessage>) -> ContactData {
    ContactData { messages, ..ContactData::default() }
}

/// Polls with nothing to say.
pub(crate) async fn poll(engine: &Engine, from: &ContactFrom) -> ContactAnswer {
    engine.contact_poll(from.clone(), data(Vec::new())).await.unwrap()
}

/// Polls with messages.
pub(crate) async fn tell(engine: &Engine, from: &ContactFrom, messages: Vec<IncomingMessage>) -> ContactAnswer {
    engine.contact_poll(from.clone(), data(messages)).await.unwrap()
}

pub(crate) fn ids(messages: &[Message]) -> Vec<MessageId> {
    messages.iter().map(|message| message.id).collect()
}

pub(crate) fn types(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.message_type.as_str()).collect()
}

/// Waits until `is_so`, for at most ten seconds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("it never came that {what}"));
}

impl crate::Engine {
    /// Accepts a message as from a program that may do everything.
    pub(crate) async fn message_insert(
        &self,
        message: muster_core::Message,
    ) -> Result<MessageId, crate::OperatorError> {
        self.message_send(message, crate::MessageOrigin::Program, &crate::access::Caller::server()).await
    }
}
