//! What every case stands on: an empty store, and short words for what cases say.

use muster_core::{
    Address, AgentId, AgentState, Cause, ContactId, Facts, Label, Message, MessageId, Payload, ResourceUsage, Timestamp,
};
use muster_store::agents::{Claim, ContactPut, ContactTaken, Effect, Enrolled, Enrolment, Intake, Recorded};
use muster_store::{AgentStore, MessageStore, SqlStore, StoreOptions};
use std::future::Future;
use std::time::Duration;

/// A database of its own for one case.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) store: SqlStore,
    pub(crate) url: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

/// Makes each case a test on SQLite and a test on PostgreSQL.
#[macro_export]
macro_rules! for_each_backend {
    ($(async fn $name:ident($stage:ident) $body:block)*) => {$(
        mod $name {
            use super::*;

            async fn case($stage: $crate::stage::Stage) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                $crate::stage::run($crate::stage::Backend::Sqlite, case).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                $crate::stage::run($crate::stage::Backend::Postgres, case).await;
            }
        }
    )*};
}

/// A place without a database in it, removed when dropped or with [`Place::remove`].
pub(crate) struct Place {
    pub(crate) url: String,
    _folder: Option<tempfile::TempDir>,
    schema: Option<String>,
}

impl Place {
    pub(crate) async fn new(backend: Backend) -> Self {
        match backend {
            Backend::Sqlite => {
                let folder = folder();
                let url = format!("sqlite:{}", folder.path().join("muster.db").display());
                Self { url, _folder: Some(folder), schema: None }
            }
            Backend::Postgres => {
                let schema = format!("case_{}_{}", std::process::id(), number());
                admin(&format!("CREATE SCHEMA {schema}")).await;
                let base = crate::postgres::url();
                let sign = if base.contains('?') { '&' } else { '?' };
                let url = format!("{base}{sign}options=-c%20search_path%3D{schema}");
                Self { url, _folder: None, schema: Some(schema) }
            }
        }
    }

    pub(crate) async fn remove(self) {
        if let Some(schema) = &self.schema {
            admin(&format!("DROP SCHEMA {schema} CASCADE")).await;
        }
    }
}

/// A directory in memory if there is one: nothing here tests the disk.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory can be made")
}

fn number() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Runs statements on the test server, past the store.
pub(crate) async fn admin(sql: &str) {
    admin_at(&crate::postgres::url(), sql).await;
}

pub(crate) async fn admin_at(url: &str, sql: &str) {
    let config: tokio_postgres::Config = url.parse().unwrap();
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

pub(crate) async fn run<F>(backend: Backend, case: fn(Stage) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    run_with(backend, case).await;
}

/// Runs a case on an empty database, and removes the database whatever became of the case.
pub(crate) async fn run_with<F>(backend: Backend, case: impl FnOnce(Stage) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let place = Place::new(backend).await;
    assert_eq!(SqlStore::migrate(&place.url).await.unwrap(), None);
    let stage = Stage { store: open(&place.url).await, url: place.url.clone() };
    let ended = tokio::time::timeout(Duration::from_mins(1), tokio::spawn(case(stage))).await;
    place.remove().await;
    match ended.expect("a case ends within a minute") {
        Ok(()) => {}
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

pub(crate) async fn open(url: &str) -> SqlStore {
    SqlStore::open(url, &StoreOptions { connections: 10, ..StoreOptions::default() }).await.unwrap()
}

impl Stage {
    pub(crate) fn backend(&self) -> Backend {
        if self.url.starts_with("sqlite") { Backend::Sqlite } else { Backend::Postgres }
    }

    /// A second server on the same database; on SQLite, which has one, the same store again.
    pub(crate) async fn second(&self) -> SqlStore {
        match self.backend() {
            Backend::Sqlite => self.store.clone(),
            Backend::Postgres => open(&self.url).await,
        }
    }

    /// Enrols agent `n`.
    pub(crate) async fn agent(&self, n: u8) -> AgentId {
        self.agent_in(n, AgentState::Enrolled, &[]).await
    }

    pub(crate) async fn agent_in(&self, n: u8, state: AgentState, labels: &[Label]) -> AgentId {
        let enrolled = self.store.agent_enrol(enrolment(n, state, labels), at(0)).await.unwrap();
        assert!(matches!(enrolled, Enrolled::Yes(_)), "{enrolled:?}");
        agent(n)
    }

    pub(crate) async fn put(&self, message: Message) {
        self.store.message_put(vec![message], None, at(0)).await.unwrap();
    }

    /// Claims without limits and returns the messages' numbers.
    pub(crate) async fn claim(&self, agent: AgentId, now: Timestamp) -> Vec<u8> {
        let claimed = self.store.message_claim_due(agent, all(), None, now).await.unwrap();
        claimed.iter().map(|message| message.id.as_bytes()[31]).collect()
    }

    pub(crate) async fn row(&self, id: MessageId) -> muster_store::messages::MessageRow {
        let mut rows = self.store.message_get(&[id], true).await.unwrap();
        rows.pop().expect("the message is known")
    }

    /// Records a contact that is not refused.
    pub(crate) async fn contact(&self, put: ContactPut) -> Recorded {
        match self.store.contact_put(put).await.unwrap() {
            ContactTaken::Recorded(recorded) => *recorded,
            other => panic!("{other:?}"),
        }
    }
}

/// `ms` milliseconds after the case began.
pub(crate) fn at(ms: i64) -> Timestamp {
    Timestamp::from_nanos(1_700_000_000_000_000_000 + ms * 1_000_000)
}

pub(crate) fn agent(n: u8) -> AgentId {
    AgentId::from_bytes([0, 0, 0, 0, 0, 0, 0, n])
}

pub(crate) fn key(n: u8) -> Vec<u8> {
    vec![n; 91]
}

pub(crate) fn enrolment(n: u8, state: AgentState, labels: &[Label]) -> Enrolment {
    let note = String::new();
    Enrolment { id: agent(n), key: key(n), labels: labels.to_vec(), state, token: None, facts: Facts::new(), note }
}

pub(crate) fn id(n: u8) -> MessageId {
    let mut bytes = [7; 32];
    bytes[31] = n;
    MessageId::from_bytes(bytes)
}

#[expect(clippy::unnecessary_wraps, reason = "it is the value of a field that may be empty")]
pub(crate) fn body(text: &str) -> Option<Payload> {
    Some(Payload { type_url: "type.googleapis.com/test".into(), value: text.as_bytes().to_vec() })
}

/// Message `n` to service `to` of an agent.
pub(crate) fn to_agent(n: u8, agent: AgentId, to: &str) -> Message {
    let ends = (Address::server("sender"), Address::agent(agent, to));
    Message { payload: body(&format!("body {n}")), ..Message::new(id(n), ends.0, ends.1, at(0)) }
}

/// Message `n` from an agent to service `to` of the server.
pub(crate) fn to_server(n: u8, agent: AgentId, to: &str) -> Message {
    let ends = (Address::agent(agent, "source"), Address::server(to));
    Message { payload: body(&format!("body {n}")), ..Message::new(id(n), ends.0, ends.1, at(0)) }
}

pub(crate) fn all() -> Claim {
    Claim { limit: 100, per_service: None, lease: LEASE }
}

pub(crate) const LEASE: Duration = Duration::from_mins(15);

pub(crate) fn contact(n: u8, now: Timestamp) -> ContactPut {
    ContactPut {
        agent: agent(n),
        key: key(n),
        at: now,
        address: "127.0.0.1:4443".into(),
        streaming_to: String::new(),
        sent_nonce: 1,
        received_nonce: 0,
        clock: None,
        intake: Vec::new(),
        rejected: Vec::new(),
        claim: None,
    }
}

pub(crate) fn intake(message: Message, effect: Effect) -> Intake {
    Intake { message, effect }
}

pub(crate) fn cause() -> Cause {
    Cause { actor: "admin".into(), request: "request-1".into(), reason: "a reason".into() }
}

pub(crate) fn usage() -> ResourceUsage {
    ResourceUsage {
        scope: "system".into(),
        pid: 1234,
        process_start: Some(at(-60_000)),
        measured: Some(at(-1)),
        received: None,
        mean_user_cpu: 50.5,
        max_user_cpu: 60.25,
        mean_system_cpu: 30.125,
        max_system_cpu: 40.0,
        mean_memory_mib: 20,
        max_memory_mib: 30,
        mean_fds: 13,
        max_fds: 15,
        terminated: false,
    }
}

pub(crate) const NO_CONTACT: Option<ContactId> = None;

/// No message's number.
pub(crate) const NONE: [u8; 0] = [];
