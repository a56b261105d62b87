mod agents;
mod doors;
mod hostile;
mod messages;
mod things;

use super::*;
use crate::codec::WireCodec;
use crate::world::SystemRandom;
use async_trait::async_trait;
use bytes::Bytes;
use muster_core::{AgentId, AgentState, Cause, Label, Timestamp};
use muster_engine::{EngineConfig, Outside, WakeUp, Waker};
use muster_proto::wire::server::admin_client::AdminClient;
use muster_store::agents::{Enrolled, Enrolment};
use muster_store::cluster::{JournalRow, TokenRow};
use muster_store::{SqlStore, Store, StoreOptions};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A clock that stands still.
#[derive(Debug)]
struct Fixed;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        NOW
    }
}

/// There are no other servers.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Waker for Nobody {
    async fn wake(&self, _: &str, _: &WakeUp) {}
}

/// A store with an engine and an open admin door.
struct Door {
    store: Arc<dyn Store>,
    address: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<Result<(), AdminError>>,
    directory: tempfile::TempDir,
}

fn options() -> AdminOptions {
    AdminOptions::new(Arc::new(Fixed), Arc::new(SystemRandom))
}

impl Door {
    async fn open(options: AdminOptions) -> Self {
        Self::with_socket(options, None).await
    }

    /// Opens the door also at a socket in the file system; `socket` says who needs no token there.
    async fn with_socket(options: AdminOptions, socket: Option<Local>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("muster.db").display());
        SqlStore::migrate(&url).await.unwrap();
        let store: Arc<dyn Store> = Arc::new(SqlStore::open(&url, &StoreOptions::default()).await.unwrap());
        let outside = Outside {
            clock: Arc::new(Fixed),
            random: Arc::new(SystemRandom),
            codec: Arc::new(WireCodec),
            waker: Arc::new(Nobody),
        };
        let engine = Engine::new(Arc::clone(&store), outside, EngineConfig::default(), Vec::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let unix = socket.map(|local| (UnixListener::bind(directory.path().join("admin.sock")).unwrap(), local));
        let sockets = AdminSockets { tcp: Some(listener), unix };
        let served = tokio::spawn(serve(sockets, engine, options, stop.clone()));
        Self { store, address, stop, served, directory }
    }

    async fn local() -> Self {
        Self::open(options()).await
    }

    fn channel(&self) -> Channel {
        tonic::transport::Endpoint::new(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    fn client(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel())
    }

    async fn agent(&self, number: u16) -> AgentId {
        let key = number.to_be_bytes().to_vec();
        let id = AgentId::of_key(&key);
        let labels = vec![Label::client("linux")];
        let enrolment = Enrolment {
            id,
            key,
            labels,
            state: AgentState::Enrolled,
            token: None,
            facts: muster_core::Facts::new(),
            note: String::new(),
        };
        assert!(matches!(self.store.agent_enrol(enrolment, NOW).await.unwrap(), Enrolled::Yes(_)));
        id
    }

    async fn token(&self, name: &str, role: &str, expires: Option<Timestamp>) -> String {
        let token = format!("token-of-{name}");
        let sha256 = token::hash(&token);
        let row = TokenRow { name: name.into(), sha256, role: role.into(), created: NOW, expires };
        self.store.token_put(row, &Cause::server()).await.unwrap();
        token
    }

    async fn journal(&self) -> Vec<JournalRow> {
        self.store.journal_page(None, 100).await.unwrap()
    }
}

fn id_bytes(id: AgentId) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

/// Returns the refusal of a call that must not succeed.
fn refused<T: std::fmt::Debug>(outcome: Result<tonic::Response<T>, Status>, code: Code, text: &str) {
    let status = outcome.expect_err("the call was answered");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(text), "{:?} does not say {text:?}", status.message());
}
