//! The mailbox: messages on their way, and what became of them.

use crate::StoreError;
use crate::agents::{Claim, Taken};
use crate::cluster::JournalRow;
use async_trait::async_trait;
use muster_core::{AgentId, Cause, ContactId, Message, MessageId, MessageResult, Timestamp};

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum MessageState {
    /// On its way: waiting, or handed out and not acknowledged.
    Pending = 0,
    /// Done.
    Done = 1,
    /// Failed for good.
    Failed = 2,
    /// Given up after its time; keeps its body and can be sent again.
    Parked = 3,
}

/// A message as operators see it.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageRow {
    /// The message. Its payload is there only when asked for and not yet dropped.
    pub message: Message,
    /// Where it stands.
    pub state: MessageState,
    /// How often it was handed out or tried.
    pub attempts: u32,
    /// When it falls due (again); `None` once it is not pending.
    pub due: Option<Timestamp>,
    /// What the last try said, if it failed for the time being.
    pub last_error: Option<String>,
    /// The contact it last travelled with.
    pub contact: Option<ContactId>,
    /// Its number: of two messages, the one that came later to the database has the greater one.
    pub number: i64,
}

/// What a put says of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// How it was taken.
    pub taken: Taken,
    /// Where the server that holds the stream of its agent can be woken, if one does.
    pub streaming_to: Option<String>,
}

/// Which messages a list holds. Empty: all.
#[derive(Debug, Clone, Default)]
pub struct MessageFilter {
    /// Only from or to this agent.
    pub agent: Option<AgentId>,
    /// Only to this service.
    pub service: Option<String>,
    /// Only in this state.
    pub state: Option<MessageState>,
}

/// How one service of the server stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceBacklog {
    /// The service.
    pub service: String,
    /// Messages that wait for it.
    pub pending: u64,
    /// When the oldest of them was created.
    pub oldest: Option<Timestamp>,
    /// Messages that were given up.
    pub parked: u64,
    /// What the last failed try of a waiting message said.
    pub last_error: Option<String>,
}

/// A try of a message to a service that ended without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TryFailed {
    /// The message.
    pub id: MessageId,
    /// The number of the try: how often the message was claimed. What was claimed since is left as it is.
    pub attempts: u32,
    /// What the service said.
    pub reason: String,
    /// When the next try is due.
    pub due: Timestamp,
}

/// The mailbox.
#[async_trait]
pub trait MessageStore: Send + Sync {
    /// Stores messages, all or none. By id, twice is once; of two results a success replaces anything and a failure
    /// replaces only "none"; anything else of a known message is left as it was. A payload is kept only while there is
    /// no result. With a contact, all are linked to it. Messages to agents fall due at once, messages to services of
    /// the server at `server_due`. Not found: an agent that is addressed and not known, or deleted.
    async fn message_put(
        &self,
        messages: Vec<Message>,
        contact: Option<ContactId>,
        server_due: Timestamp,
    ) -> Result<Vec<Put>, StoreError>;

    /// Stores one message as [`MessageStore::message_put`] does, and in the same transaction `line` in the journal when
    /// the message is new. (The number of `line` is given by the store.)
    async fn message_send(&self, message: Message, server_due: Timestamp, line: JournalRow) -> Result<Put, StoreError>;

    /// Returns those of `ids` that are known, in the order of their ids, failures included.
    async fn message_get(&self, ids: &[MessageId], want_data: bool) -> Result<Vec<MessageRow>, StoreError>;

    /// Returns a page of messages, the latest to come first: those with a number below `before`.
    async fn message_page(
        &self,
        filter: MessageFilter,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<MessageRow>, StoreError>;

    /// Sets results by the rules of [`MessageStore::message_put`]: the payload goes, the message is no longer due. Unknown ids are passed over.
    async fn message_result_put(&self, results: Vec<(MessageId, MessageResult)>) -> Result<(), StoreError>;

    /// Takes up to `claim.limit` messages that are due for `agent` (due before `now`) and hides them for the lease.
    ///
    /// Twice in a row gives disjoint sets. Oldest due first. `contact` is linked. Nothing for an agent that is not
    /// enrolled. `Die` to `system` is done as it is claimed.
    async fn message_claim_due(
        &self,
        agent: AgentId,
        claim: Claim,
        contact: Option<ContactId>,
        now: Timestamp,
    ) -> Result<Vec<Message>, StoreError>;

    /// Takes up to `limit` messages that are due for services of the server and of `services`, and hides each until
    /// [`muster_core::retry::service_due`] with its number of attempts and `jitter`. Oldest due first. With the
    /// number of attempts before this one.
    async fn message_claim_overdue(
        &self,
        services: &[String],
        limit: u32,
        jitter: f64,
        now: Timestamp,
    ) -> Result<Vec<(Message, u32)>, StoreError>;

    /// Notes why tries failed for the time being; the messages stay due when they were.
    async fn message_try_failed(&self, failures: Vec<TryFailed>) -> Result<(), StoreError>;

    /// Lets the messages that `agent` was handed and did not acknowledge fall due at `due`, where that is earlier.
    /// Returns how many. For an agent whose stream broke.
    async fn message_release(&self, agent: AgentId, due: Timestamp) -> Result<u64, StoreError>;

    /// Lets messages fall due at `due` that `contact` claimed for an agent and that certainly did not reach it. What another
    /// contact has claimed since stays with that one. Returns how many.
    async fn message_unclaim(
        &self,
        agent: AgentId,
        contact: ContactId,
        ids: Vec<MessageId>,
        due: Timestamp,
    ) -> Result<u64, StoreError>;

    /// Keeps messages to services for whoever has them in memory: `held` names each with the number of its last try, and
    /// those of which that is still so fall due at `due`. Returns them; the others are done, or somebody else has them.
    async fn message_service_keep(
        &self,
        held: Vec<(MessageId, u32)>,
        due: Timestamp,
    ) -> Result<Vec<MessageId>, StoreError>;

    /// Makes up to `limit` messages due now that wait for a service since it did not take them, the next of them first.
    /// What somebody has in memory is not among them. Returns how many.
    async fn message_service_wake(&self, service: &str, limit: u32, now: Timestamp) -> Result<u64, StoreError>;

    /// Returns pending messages to the agents, in the order of their ids. `limit` 0 means all. Invalid: an offset
    /// without a limit.
    async fn message_pending(
        &self,
        agents: &[AgentId],
        offset: u64,
        limit: u64,
        want_data: bool,
    ) -> Result<Vec<Message>, StoreError>;

    /// Returns how many messages are pending to the agents together.
    async fn message_pending_count(&self, agents: &[AgentId]) -> Result<u64, StoreError>;

    /// Fails the pending messages to the agents with the reason `Removed by admin action.`, but for those to the services
    /// `keep`. Returns how many.
    async fn message_pending_delete(
        &self,
        agents: &[AgentId],
        keep: &[&str],
        now: Timestamp,
        cause: &Cause,
    ) -> Result<u64, StoreError>;

    /// Fails one pending or parked message with the reason `Removed by admin action.`. `false`: it was done before.
    /// Not found: the message.
    async fn message_cancel(&self, id: MessageId, now: Timestamp, cause: &Cause) -> Result<bool, StoreError>;

    /// Makes a parked message pending again, due at `now`, to expire at `expires`. `false`: it is not parked.
    /// Not found: the message.
    async fn message_unpark(
        &self,
        id: MessageId,
        expires: Timestamp,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<bool, StoreError>;

    /// Parks up to `limit` pending messages whose time is over, saying so in their results. Returns how many.
    async fn message_park_expired(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Returns which of `agents` have messages due before `now`, for wake-ups that were lost.
    async fn message_agents_due(&self, agents: &[AgentId], now: Timestamp) -> Result<Vec<AgentId>, StoreError>;

    /// Returns how each service stands that messages wait for or were parked for.
    async fn message_backlog(&self) -> Result<Vec<ServiceBacklog>, StoreError>;
}
