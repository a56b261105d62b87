//! Contacts: what happens between an agent's request and the answer, and while a stream is open.
//!
//! A contact is judged in this order: rate of its agent, required label, known or to be enrolled, key equal to the
//! stored one, state. What it brings is stored with its effects, and what is due for it is claimed, in one transaction.

use muster_core::contact::{ContactAnswer, ContactData};
use muster_core::{AgentId, Message};
use std::collections::BTreeMap;
use std::time::Duration;

/// Who is in contact, and how.
#[derive(Debug, Clone)]
pub struct ContactFrom {
    /// The whole public key that was proven (DER SubjectPublicKeyInfo).
    pub key: Vec<u8>,
    /// From where, as `ip:port` (IPv6 in brackets).
    pub address: String,
    /// Labels it claims, as they came; enrolment tokens among them.
    pub labels: Vec<String>,
    /// What the edge found out about extra signatures, put on each message as its validation.
    pub validation: BTreeMap<String, String>,
}

impl ContactFrom {
    /// Returns whose key it is.
    pub fn agent(&self) -> AgentId {
        AgentId::of_key(&self.key)
    }
}

/// What kind of refusal; each has one HTTP status at the edge and one word in logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// Another key has this id (403, a security event).
    KeyMismatch,
    /// The id was deleted (403).
    Deleted,
    /// Enrolment is closed to this key: no token, no label (403).
    EnrolmentRefused,
    /// Too many new machines from one network (429).
    EnrolmentRate,
    /// The agent sends more than it may (429).
    AgentRate,
    /// The required label is missing (503, as the original answers).
    NotAuthorized,
    /// The contact breaks a limit or a rule (400).
    Malformed,
    /// The database cannot be reached or is full (503).
    Unavailable,
    /// The server is stopping (503).
    Stopping,
}

impl RefusalCode {
    /// The word in logs, metrics and refusal rows.
    pub fn word(self) -> &'static str {
        match self {
            Self::KeyMismatch => "key_mismatch",
            Self::Deleted => "deleted",
            Self::EnrolmentRefused => "enrolment_refused",
            Self::EnrolmentRate => "enrolment_rate",
            Self::AgentRate => "agent_rate",
            Self::NotAuthorized => "not_authorized",
            Self::Malformed => "malformed",
            Self::Unavailable => "unavailable",
            Self::Stopping => "stopping",
        }
    }
}

/// Why a contact was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What kind.
    pub code: RefusalCode,
    /// For people; says nothing that the agent should not know.
    pub reason: String,
    /// When to come again, where that is known.
    pub retry_after: Option<Duration>,
}

/// What a stream has to send.
#[derive(Debug)]
pub enum StreamEvent {
    /// Messages for the agent, at most 100.
    Messages(Vec<Message>),
    /// The stream must end: say `done_sending`, wait for outstanding records, close.
    End(StreamEnd),
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// Its time is over.
    Life,
    /// The server stops.
    Stopping,
    /// Another stream of the same agent has taken its place.
    Replaced,
    /// The agent was deleted, or blocked and has acknowledged its new key: close at once.
    Gone,
}

/// An open stream, as [`crate::Engine::stream_open`] gives it.
#[derive(Debug)]
pub struct OpenStream {
    /// The first answer.
    pub answer: ContactAnswer,
    /// For the side that reads.
    pub incoming: StreamIn,
    /// For the side that writes.
    pub outgoing: StreamOut,
}

/// The reading side of a stream. Dropping both sides ends the stream for the engine.
#[derive(Debug)]
pub struct StreamIn {}

impl StreamIn {
    /// Stores a further record; acknowledge it only when this returns `Ok`, and close the stream when it does not.
    pub async fn record(&mut self, from: &ContactFrom, data: ContactData) -> Result<(), Refusal> {
        let _ = (from, data);
        todo!()
    }
}

/// The writing side of a stream.
#[derive(Debug)]
pub struct StreamOut {}

impl StreamOut {
    /// Waits until there is something to send. Dropping the future loses nothing.
    pub async fn next(&mut self) -> StreamEvent {
        todo!()
    }
}
