//! Machines: who they are, what they may do, when they were here.

use crate::StoreError;
use crate::actions::ResultPut;
use crate::investigators::TrustTold;
use async_trait::async_trait;
use muster_core::nonce::Link;
use muster_core::{
    Agent, AgentId, AgentState, Cause, Contact, ContactId, Facts, Label, Message, MessageId, ResourceUsage, Timestamp,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// A machine that asks to be known.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// Its id, which must be the one of `key`.
    pub id: AgentId,
    /// Its whole public key (DER SubjectPublicKeyInfo).
    pub key: Vec<u8>,
    /// Its first labels.
    pub labels: Vec<Label>,
    /// The state it starts in.
    pub state: AgentState,
    /// SHA-256 of the enrolment token it showed, which is spent in the same transaction; the token's labels are added.
    pub token: Option<[u8; 32]>,
    /// What it shows of itself; empty when it shows nothing.
    pub facts: Facts,
    /// Why it waits, if it does; for people.
    pub note: String,
}

/// A machine that shows a new key, and its old key's word for it, whose signature holds.
#[derive(Debug, Clone)]
pub struct Succession {
    /// The new key. Its state and token are not looked at: it is enrolled.
    pub enrolment: Enrolment,
    /// The whole old key.
    pub old_key: Vec<u8>,
    /// The demand that the old key names.
    pub demand: MessageId,
}

/// How a succession ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Succeeded {
    /// The machine goes on under its new key.
    Yes(Box<Agent>),
    /// The old key is blocked, and with it the machine. Nothing was changed.
    Blocked,
    /// The old key vouches for nobody: why, for people. Nothing was changed.
    Refused(&'static str),
}

/// How an enrolment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enrolled {
    /// The machine is known now, or was before with the same key.
    Yes(Box<Agent>),
    /// Another key has this id.
    OtherKey,
    /// The id was deleted and stays taken.
    Deleted,
    /// The token is not known, lapsed, withdrawn or used up.
    TokenRefused,
}

/// A message that came with a contact, and what it does.
#[derive(Debug, Clone, PartialEq)]
pub struct Intake {
    /// The message, with its derived id and its source set to the agent of the contact.
    pub message: Message,
    /// What it does, in the transaction that stores it, unless it was stored before.
    pub effect: Effect,
}

/// What a message does when it is stored for the first time. All but `Deliver` leave it done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// It waits for its service until `due`; whoever stored it usually delivers it from memory before.
    Deliver {
        /// When it falls due for any server.
        due: Timestamp,
    },
    /// Nothing.
    Nothing,
    /// Nothing, and its body stays until retention deletes the row, although it is done: an answer for operators to
    /// read.
    Keep,
    /// It failed for good, for this reason.
    Fail(String),
    /// The named messages were taken by this agent. Unknown ids, ids done before and ids of other agents are passed
    /// over; the last are reported.
    Acknowledge(Vec<MessageId>),
    /// The named message failed on this agent for good.
    Refuse {
        /// Which message.
        id: MessageId,
        /// Why.
        reason: String,
    },
    /// The labels of service `client` become exactly these; other services' labels stay.
    ClientLabels(Vec<String>),
    /// A usage record is kept.
    Usage(Box<ResourceUsage>),
    /// The facts of the machine become these.
    Facts(Facts),
    /// A command of the machine ended; see [`crate::ActionStore::command_result_put`].
    Result(Box<ResultPut>),
    /// What the machine believes and can do becomes this.
    Trust(Box<TrustTold>),
}

/// A message that could not be accepted, of which a trace is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// When.
    pub at: Timestamp,
    /// Whose.
    pub agent: AgentId,
    /// The service of the server that it was addressed to; empty when it said none.
    pub service: String,
    /// Why it was not accepted.
    pub reason: String,
    /// SHA-256 of the message as it came.
    pub sha256: [u8; 32],
    /// Its first bytes, at most [`muster_core::limits::DEAD_LETTER_BYTES_MAX`].
    pub head: Vec<u8>,
}

/// Messages to one service that could not be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterCount {
    /// The service that they were addressed to; empty when they said none.
    pub service: String,
    /// How many.
    pub letters: u64,
    /// Of how many machines.
    pub machines: u64,
    /// When the last one came.
    pub last: Timestamp,
    /// Why the last one was not accepted.
    pub reason: String,
}

/// What a contact asks for.
#[derive(Debug, Clone)]
pub struct Claim {
    /// How many messages at most.
    pub limit: u32,
    /// How many for each service at most (a service that is not named: none). `None`: no such limits.
    pub per_service: Option<BTreeMap<String, u64>>,
    /// How long the claimed messages are hidden.
    pub lease: Duration,
}

/// A contact: a poll, or the start of a stream.
#[derive(Debug, Clone)]
pub struct ContactPut {
    /// Who is in contact.
    pub agent: AgentId,
    /// The whole key that was proven in the handshake.
    pub key: Vec<u8>,
    /// When. Moved on by nanoseconds when the agent already has a contact at that moment.
    pub at: Timestamp,
    /// From where, as `ip:port`.
    pub address: String,
    /// The wake-up URL of the server that holds the stream; empty for a poll.
    pub streaming_to: String,
    /// The nonce that the answer will carry.
    pub sent_nonce: u64,
    /// The nonce the agent referred to.
    pub received_nonce: u64,
    /// What the agent's clock says, when it says a moment.
    pub clock: Option<Timestamp>,
    /// What it brings.
    pub intake: Vec<Intake>,
    /// What of it could not be accepted.
    pub rejected: Vec<DeadLetter>,
    /// What it wants; `None` for nothing.
    pub claim: Option<Claim>,
}

/// A further record of a stream.
#[derive(Debug, Clone)]
pub struct RecordPut {
    /// Whose stream.
    pub agent: AgentId,
    /// The contact that started the stream.
    pub contact: ContactId,
    /// When.
    pub at: Timestamp,
    /// What it brings.
    pub intake: Vec<Intake>,
    /// What of it could not be accepted.
    pub rejected: Vec<DeadLetter>,
}

/// How one message of a contact or of a put was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Stored; its effect was done.
    New,
    /// It was stored before, with the same content. Nothing was done, except that a result it brought may have
    /// completed the stored one.
    Again,
    /// A message of that id with other content was stored before. The stored one stays.
    Conflict,
}

/// How a contact ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContactTaken {
    /// The agent is not known: enrol it and come again. Nothing was stored.
    Unknown,
    /// The id belongs to another key. Nothing was stored.
    OtherKey,
    /// The id was deleted. Nothing was stored.
    Deleted,
    /// The id is blocked. Nothing was stored.
    Blocked,
    /// The contact is recorded.
    Recorded(Box<Recorded>),
}

/// What a recorded contact gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The contact's number.
    pub contact: ContactId,
    /// The state of the agent, as it was in the transaction. Of a waiting agent, only the contact is recorded. The messages of
    /// one that owes a new key are stored flagged, only its acknowledgements and refusals have an effect, and nothing is
    /// claimed for it.
    pub state: AgentState,
    /// Its labels.
    pub labels: Vec<Label>,
    /// How the contact continues the agent's chain of nonces. Its counters are updated.
    pub link: Link,
    /// Whether the contact is evidence of two machines under one key; then `clone_suspected` is its moment.
    pub clone: Option<CloneSeen>,
    /// One for each message of the intake, in its order; empty for a waiting agent.
    pub taken: Vec<Taken>,
    /// Ids that were acknowledged or refused but belong to other agents.
    pub foreign: Vec<MessageId>,
    /// What was claimed, oldest due first. When the agent refers to an earlier contact of its own than the last, the
    /// answers since then were lost: what they handed out and is not acknowledged is claimed again at once. (`Die` to `system` is claimed without regard to `per_service` and stored as
    /// done in the same transaction, because no agent lives to acknowledge it.)
    pub claimed: Vec<Message>,
    /// Broadcasts that this agent has had.
    pub broadcasts_had: Vec<muster_core::BroadcastId>,
}

/// A machine that looks like another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookalike {
    /// Which.
    pub id: AgentId,
    /// Its state.
    pub state: AgentState,
    /// The host name it told, in lower case.
    pub host_name: String,
    /// Whether it has the same machine id.
    pub same_machine_id: bool,
    /// Whether it has the same host name.
    pub same_host_name: bool,
    /// When it was last in contact.
    pub last_contact: Timestamp,
}

/// Evidence of two machines under one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneSeen {
    /// The first, or the first after [`muster_core::limits::CLONE_NEWS`] without any.
    News,
    /// More of what is known.
    Again,
}

/// Which agents a list holds.
#[derive(Debug, Clone, Default)]
pub struct AgentFilter {
    /// Only in this state. `None`: in any but deleted.
    pub state: Option<AgentState>,
    /// Only with all these labels.
    pub labels: Vec<Label>,
    /// Only with a contact after this moment (strictly).
    pub contact_after: Option<Timestamp>,
    /// Only where the id, the host name or the last address contains this text (without regard to case).
    pub text: String,
    /// Only where a clone is suspected.
    pub clones: bool,
}

/// Something at the agents' door that is worth a look: a refused contact, or two machines under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Its number; grows.
    pub number: i64,
    /// When.
    pub at: Timestamp,
    /// Who, if that much was known.
    pub agent: Option<AgentId>,
    /// From where.
    pub address: String,
    /// A word for what happened, such as `key_mismatch`.
    pub code: String,
    /// The reason, for people.
    pub reason: String,
}

/// Which events a list holds.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only of this machine.
    pub agent: Option<AgentId>,
    /// Only of this code.
    pub code: Option<String>,
}

/// What the store knows of machines.
#[async_trait]
pub trait AgentStore: Send + Sync {
    /// Makes a machine known. Twice is once: a machine that is known with the same key is returned as it is, and no
    /// token is spent.
    ///
    /// One whose facts bring the machine id of a blocked machine waits, whatever state was asked for, with that as its note.
    async fn agent_enrol(&self, enrolment: Enrolment, now: Timestamp) -> Result<Enrolled, StoreError>;

    /// Enrols a machine that goes on under a new key, and makes its old one [`AgentState::Replaced`]. It keeps the labels that
    /// it was given, what is noted of its weights, what waits for it and which broadcasts it had. The old key must be
    /// enrolled, with this demand open; or owe a new key and not have shown one. One succession for each demand.
    async fn agent_succeed(&self, succession: Succession, now: Timestamp) -> Result<Succeeded, StoreError>;

    /// Demands a new key of an enrolled machine: stores the message, notes it as the open demand and writes the journal. Not
    /// found: the agent; refused: it is in another state, which the text names.
    async fn agent_rekey(&self, demand: Message, now: Timestamp, cause: &Cause) -> Result<(), StoreError>;

    /// Returns machines that look like this one, because they have its machine id or its host name, but not those that were
    /// deleted or go on under another key: blocked ones first, then by id, at most [`muster_core::limits::LOOKALIKES_MAX`].
    async fn agent_lookalikes(&self, id: AgentId) -> Result<Vec<Lookalike>, StoreError>;

    /// Forgets that two machines seemed to share this key. Not found: the agent.
    async fn agent_clone_clear(&self, id: AgentId, now: Timestamp, cause: &Cause) -> Result<(), StoreError>;

    /// Returns a machine, deleted ones too.
    async fn agent_get(&self, id: AgentId) -> Result<Option<Agent>, StoreError>;

    /// Returns those of `ids` that are known and not deleted, in the order of their ids.
    async fn agent_list(&self, ids: &[AgentId]) -> Result<Vec<Agent>, StoreError>;

    /// Returns a page of the machines that `filter` picks, in the order of their ids, after `after`.
    async fn agent_page(
        &self,
        filter: AgentFilter,
        after: Option<AgentId>,
        limit: u32,
    ) -> Result<Vec<Agent>, StoreError>;

    /// Returns how many machines are in each state.
    async fn agent_count(&self) -> Result<BTreeMap<AgentStateKey, u64>, StoreError>;

    /// Gives a label. Twice is once. Not found: the agent.
    async fn agent_label_put(&self, id: AgentId, label: Label, now: Timestamp, cause: &Cause)
    -> Result<(), StoreError>;

    /// Takes a label away. A label that is not there is no error. Not found: the agent.
    async fn agent_label_delete(
        &self,
        id: AgentId,
        label: Label,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError>;

    /// Puts a machine into `state`, from any state but deleted. Twice is once. Not found: the agent; refused: it is
    /// deleted, or goes on under another key and should be enrolled. Into deleted: its labels, facts, pending messages,
    /// contacts and usage go, its open commands end as cancelled, its id and key stay. A blocked machine stays blocked
    /// when it should owe a new key: that would let it in under another. The reason of `cause` becomes its note.
    async fn agent_state_set(
        &self,
        id: AgentId,
        state: AgentState,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError>;

    /// Returns the states of those of `ids` that are known, for streams that must notice a block.
    async fn agent_states(&self, ids: &[AgentId]) -> Result<Vec<(AgentId, AgentState)>, StoreError>;

    /// Notes that these machines, whose streams are held, are in contact at `now`. One that has no stream is passed over.
    async fn agents_heard(&self, ids: &[AgentId], now: Timestamp) -> Result<(), StoreError>;

    /// Records a contact, stores what it brings with its effects, and claims what is due: one transaction.
    async fn contact_put(&self, contact: ContactPut) -> Result<ContactTaken, StoreError>;

    /// Stores what a further record of a stream brings, with its effects. `None`: the agent is gone or was deleted.
    /// In the answer, `claimed` and `broadcasts_had` are empty and `link` is [`Link::Next`]. Of a blocked agent nothing is
    /// stored.
    async fn record_put(&self, record: RecordPut) -> Result<Option<Recorded>, StoreError>;

    /// Notes that `agent` said in this contact that it stops: it counts as offline until its next contact. A later contact
    /// is not touched.
    async fn agent_left(&self, agent: AgentId, contact: ContactId, now: Timestamp) -> Result<(), StoreError>;

    /// Notes that no server holds a stream of `agent` any more, if `streaming_to` is still what it was told.
    async fn stream_end(&self, agent: AgentId, contact: ContactId) -> Result<(), StoreError>;

    /// Returns contacts of a machine, newest first, those before the contact `before`; none when that is not kept any
    /// more, because then none before it is.
    async fn contact_page(
        &self,
        id: AgentId,
        before: Option<ContactId>,
        limit: u32,
    ) -> Result<Vec<Contact>, StoreError>;

    /// Keeps a usage record. Invalid: a record without `process_start` or `measured`.
    async fn usage_put(&self, id: AgentId, usage: ResourceUsage, now: Timestamp) -> Result<(), StoreError>;

    /// Returns usage records received from `start` (included) to `end` (excluded). Invalid: `start` after `end`.
    async fn usage_list(&self, id: AgentId, start: Timestamp, end: Timestamp)
    -> Result<Vec<ResourceUsage>, StoreError>;

    /// Returns a page of these records with their numbers, in the order they were received, after the record `after`
    /// (its moment and number).
    async fn usage_page(
        &self,
        id: AgentId,
        span: std::ops::Range<Timestamp>,
        after: Option<(Timestamp, i64)>,
        limit: u32,
    ) -> Result<Vec<(i64, ResourceUsage)>, StoreError>;

    /// Returns a machine's facts and when they came.
    async fn facts_get(&self, id: AgentId) -> Result<Option<(Facts, Timestamp)>, StoreError>;

    /// Returns the fact `name` of those of `ids` that have it, for lists that show a host name.
    async fn fact_of(&self, ids: &[AgentId], name: &str) -> Result<Vec<(AgentId, serde_json::Value)>, StoreError>;

    /// Keeps an event; the oldest go when there are more than [`muster_core::limits::EVENTS_MAX`]. `number` is ignored.
    async fn event_put(&self, event: EventRow) -> Result<(), StoreError>;

    /// Returns the events that `filter` picks, newest first, below `before`.
    async fn event_page(
        &self,
        filter: EventFilter,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError>;

    /// Returns messages that could not be accepted, newest first, below the row number `before`, with their numbers.
    async fn dead_letter_page(&self, before: Option<i64>, limit: u32) -> Result<Vec<(i64, DeadLetter)>, StoreError>;

    /// Counts the kept messages that could not be accepted since a moment, by service; the services with most of them, at
    /// most [`muster_core::limits::DEAD_LETTER_SERVICES_MAX`].
    async fn dead_letter_counts(&self, since: Timestamp) -> Result<Vec<DeadLetterCount>, StoreError>;
}

/// A state as a key that sorts.
pub type AgentStateKey = &'static str;
