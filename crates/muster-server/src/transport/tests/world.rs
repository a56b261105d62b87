//! A server's door with everything behind it, and nothing beside it.

use crate::codec::WireCodec;
use crate::tls;
use crate::transport::{Door, Listener, Options};
use crate::world::{SystemClock, SystemRandom};
use async_trait::async_trait;
use muster_core::{AgentId, Clock, Message, MessageId, Timestamp};
use muster_engine::MessageOrigin;
use muster_engine::access::Caller;
use muster_engine::{Engine, EngineConfig, Outside, Service, ServiceError, WakeUp, Waker};
use muster_store::messages::MessageFilter;
use muster_store::{SqlStore, Store, StoreOptions};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Waits for something that must happen soon.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it happens soon")
}

/// A service that takes everything and does nothing.
struct Sink;

#[async_trait]
impl Service for Sink {
    fn name(&self) -> &'static str {
        "sink"
    }

    fn parallelism(&self) -> u32 {
        1
    }

    fn discards(&self) -> bool {
        true
    }

    async fn process(&self, _: &Message) -> Result<(), ServiceError> {
        Ok(())
    }
}

#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Waker for Nobody {
    async fn wake(&self, _: &str, _: &WakeUp) {}
}

pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) address: SocketAddr,
    pub(super) authority: CertificateDer<'static>,
    pub(super) stop: CancellationToken,
    pub(super) door: JoinHandle<()>,
    running: JoinHandle<()>,
    _data: TempDir,
}

pub(super) async fn world() -> World {
    world_with(Options::default(), EngineConfig::default()).await
}

pub(super) async fn world_with(options: Options, config: EngineConfig) -> World {
    let data = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", data.path().join("muster.db").display());
    SqlStore::migrate(&url).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(SqlStore::open(&url, &StoreOptions::default()).await.unwrap());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let outside = Outside {
        clock: Arc::clone(&clock),
        random: Arc::new(SystemRandom),
        codec: Arc::new(WireCodec),
        waker: Arc::new(Nobody),
    };
    let engine = Engine::new(store, outside, config, vec![Arc::new(Sink)]);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.run(stop).await }
    });

    let pair = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let authority = params.self_signed(&pair).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
    let certified = CertifiedKey::from_der(vec![authority.clone()], key, &tls::provider()).unwrap();
    let config = tls::agents_config(Arc::new(SingleCertAndKey::from(certified)));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let door = Door::new(engine.clone(), options, Arc::new(config), stop.clone());
    let door = tokio::spawn(async move { door.serve(Listener::Tcp(listener)).await });
    World { engine, address, authority, stop, door, running, _data: data }
}

impl World {
    /// The messages that the store has from or to an agent, as their types.
    pub(super) async fn messages_of(&self, agent: AgentId) -> Vec<Message> {
        let filter = MessageFilter { agent: Some(agent), ..MessageFilter::default() };
        let rows = self.engine.store().message_page(filter, None, 1000).await.unwrap();
        rows.into_iter().map(|row| row.message).collect()
    }

    /// Sends a message to service `client-service` of an agent.
    pub(super) async fn send(&self, agent: AgentId, text: &str) -> MessageId {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let id = MessageId::from_bytes([NEXT.fetch_add(1, Ordering::Relaxed); 32]);
        let ends = (muster_core::Address::server("sink"), muster_core::Address::agent(agent, "client-service"));
        let message = Message { message_type: text.into(), ..Message::new(id, ends.0, ends.1, now()) };
        self.engine.message_send(message, MessageOrigin::Program, &Caller::server()).await.unwrap()
    }

    /// Stops everything and says how long the door took.
    pub(super) async fn stopped(self) -> Duration {
        let started = tokio::time::Instant::now();
        self.stop.cancel();
        self.door.await.unwrap();
        let took = started.elapsed();
        self.running.await.unwrap();
        took
    }
}

pub(super) fn now() -> Timestamp {
    SystemClock.now()
}
