//! The engine: one per server, shared by all doors.

use crate::access::Principal;
use crate::contact::{ContactFrom, OpenStream, Refusal};
use crate::{EngineConfig, Outside, Service};
use muster_core::contact::{ContactAnswer, ContactData};
use muster_core::{AgentId, Broadcast, BroadcastId, Cause, Message, MessageId};
use muster_store::{Store, StoreError};
use std::sync::Arc;

/// Why an operator's request was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The request itself is wrong; the text says what and what to do.
    #[error("{0}")]
    Invalid(String),
    /// What it is about is not there.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// The store failed.
    #[error("could not {doing}")]
    Store {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: StoreError,
    },
}

/// What the server does.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    #[expect(dead_code)]
    store: Arc<dyn Store>,
}

#[expect(unused_variables, reason = "bodies follow")]
impl Engine {
    /// Puts an engine together. Nothing runs until [`Engine::run`].
    pub fn new(store: Arc<dyn Store>, outside: Outside, config: EngineConfig, services: Vec<Arc<dyn Service>>) -> Self {
        Self { inner: Arc::new(Inner { store }) }
    }

    /// The store, for reading what needs no rule (pages of agents, messages, broadcasts, files).
    pub fn store(&self) -> &Arc<dyn Store> {
        todo!()
    }

    /// Runs everything that happens without a request (dispatch of overdue messages, sweeps for lost wake-ups,
    /// broadcasts, retention, heartbeats) until `stop` resolves, then drains.
    pub async fn run(&self, stop: tokio_util::sync::CancellationToken) {
        todo!()
    }

    /// Handles a poll.
    pub async fn contact_poll(&self, from: ContactFrom, data: ContactData) -> Result<ContactAnswer, Refusal> {
        todo!()
    }

    /// Handles the first record of a stream and registers it; an older stream of the same agent ends.
    pub async fn stream_open(&self, from: ContactFrom, data: ContactData) -> Result<OpenStream, Refusal> {
        todo!()
    }

    /// Notes a contact that the edge refused before the engine saw it (no certificate, unreadable body).
    pub async fn refusal_note(&self, agent: Option<AgentId>, address: &str, refusal: &Refusal) {
        todo!()
    }

    /// Wakes the streams of these agents that this server holds; an empty list: all, because broadcasts changed.
    pub fn wake_here(&self, agents: &[AgentId]) {
        todo!()
    }

    /// Checks the authenticator of a wake-up from another server (HMAC-SHA256 over `body` with the cluster's secret).
    pub async fn wake_authentic(&self, body: &[u8], authenticator: &[u8]) -> bool {
        todo!()
    }

    /// Makes the authenticator for a wake-up to another server.
    pub async fn wake_authenticator(&self, body: &[u8]) -> Result<Vec<u8>, StoreError> {
        todo!()
    }

    /// How many streams this server holds.
    pub fn streams_open(&self) -> usize {
        todo!()
    }

    /// Checks a bearer token. `None`: unknown or lapsed.
    pub async fn token_check(&self, token: &str) -> Result<Option<Principal>, StoreError> {
        todo!()
    }

    /// Accepts a message from an operator or a service: checks it, stores it, wakes the agent's stream or hands it to
    /// its service at once. A message of the same id and content again is accepted again.
    pub async fn message_insert(&self, message: Message) -> Result<MessageId, OperatorError> {
        todo!()
    }

    /// Blocks an agent; its open stream learns of it within 5 s, on whichever server.
    pub async fn agent_block(&self, id: AgentId, cause: &Cause) -> Result<(), OperatorError> {
        todo!()
    }

    /// Takes a block back.
    pub async fn agent_unblock(&self, id: AgentId, cause: &Cause) -> Result<(), OperatorError> {
        todo!()
    }

    /// Approves an agent that waits.
    pub async fn agent_approve(&self, id: AgentId, cause: &Cause) -> Result<(), OperatorError> {
        todo!()
    }

    /// Deletes an agent and leaves a tombstone.
    pub async fn agent_delete(&self, id: AgentId, cause: &Cause) -> Result<(), OperatorError> {
        todo!()
    }

    /// Asks an agent for a new key (it comes back as a new agent). Returns the order's message id.
    pub async fn agent_rekey(&self, id: AgentId, cause: &Cause) -> Result<MessageId, OperatorError> {
        todo!()
    }

    /// Creates a broadcast and tells every server.
    pub async fn broadcast_create(&self, broadcast: Broadcast, cause: &Cause) -> Result<BroadcastId, OperatorError> {
        todo!()
    }

    /// Switches broadcasts off.
    pub async fn broadcast_disable(&self, ids: &[BroadcastId], cause: &Cause) -> Result<(), OperatorError> {
        todo!()
    }
}
