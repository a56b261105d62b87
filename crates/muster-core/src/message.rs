//! Messages: what travels between a service on the server and a service on a machine.

use crate::{AgentId, MessageId, Timestamp, limits, text};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// One end of a message. Without an agent it is a service of the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Address {
    /// The machine, or `None` for the server.
    pub agent: Option<AgentId>,
    /// The service there.
    pub service: String,
}

impl Address {
    /// A service of the server.
    pub fn server(service: impl Into<String>) -> Self {
        Self { agent: None, service: service.into() }
    }

    /// A service on a machine.
    pub fn agent(agent: AgentId, service: impl Into<String>) -> Self {
        Self { agent: Some(agent), service: service.into() }
    }
}

/// A typed body (`google.protobuf.Any` on the wire).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Payload {
    /// What the bytes are, such as `type.googleapis.com/fleetspeak.MessageAckData`.
    pub type_url: String,
    /// The bytes.
    pub value: Vec<u8>,
}

/// How much a message hurries. The numbers are the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(i32)]
pub enum Priority {
    /// Unless told.
    #[default]
    Medium = 0,
    /// When nothing else waits.
    Low = 1,
    /// Before all else.
    High = 2,
}

impl Priority {
    /// Reads the wire's number; an unknown one is medium.
    pub fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Low,
            2 => Self::High,
            _ => Self::Medium,
        }
    }
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageResult {
    /// When it was done with.
    pub processed: Timestamp,
    /// Why it failed for good, at most [`limits::FAILED_REASON_CHARS_MAX`] characters; `None` when it did not.
    pub failure: Option<String>,
}

impl MessageResult {
    /// Done, at `now`.
    pub fn done(now: Timestamp) -> Self {
        Self { processed: now, failure: None }
    }

    /// Failed for good, at `now`. The reason is cut to its ceiling and freed of zero bytes.
    pub fn failed(now: Timestamp, reason: &str) -> Self {
        let reason = text::cut(&text::without_nul(reason), limits::FAILED_REASON_CHARS_MAX);
        Self { processed: now, failure: Some(reason) }
    }
}

/// A message, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its one name on the server.
    pub id: MessageId,
    /// Who sent it.
    pub source: Address,
    /// The sender's own name for it; empty when made on the server.
    pub source_message_id: Vec<u8>,
    /// Who shall have it.
    pub destination: Address,
    /// What it is, in the words of the two services.
    pub message_type: String,
    /// When it came into being, by the server's clock.
    pub created: Timestamp,
    /// Its body. Gone once there is a result.
    pub payload: Option<Payload>,
    /// What the contact's check said of its sender; empty unless a check is configured.
    pub validation: BTreeMap<String, String>,
    /// What became of it; `None` while it is on its way.
    pub result: Option<MessageResult>,
    /// How much it hurries.
    pub priority: Priority,
    /// Whether it may wait for a contact that happens anyway.
    pub background: bool,
    /// Pairs that its sender attached, in their order; a key may come twice.
    pub annotations: Vec<(String, String)>,
    /// Whether its sender was blocked when it came.
    pub from_blocked: bool,
    /// When it is given up and parked, if it still waits then.
    pub expires: Option<Timestamp>,
}

impl Message {
    /// Starts a message made on the server; the rest is filled by struct update.
    pub fn new(id: MessageId, source: Address, destination: Address, created: Timestamp) -> Self {
        Self {
            id,
            source,
            source_message_id: Vec::new(),
            destination,
            message_type: String::new(),
            created,
            payload: None,
            validation: BTreeMap::new(),
            result: None,
            priority: Priority::default(),
            background: false,
            annotations: Vec::new(),
            from_blocked: false,
            expires: None,
        }
    }

    /// Returns a short digest of what the message says: its ends, its type and its body. Two messages of one id and
    /// two digests are two messages, and the second is refused.
    pub fn digest(&self) -> i64 {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.source.service.as_bytes());
        part(self.destination.agent.as_ref().map_or(&[][..], |agent| agent.as_bytes()));
        part(self.destination.service.as_bytes());
        part(self.message_type.as_bytes());
        if let Some(payload) = &self.payload {
            part(payload.type_url.as_bytes());
            part(&payload.value);
        }
        let digest = hash.finalize();
        i64::from_le_bytes(digest[..8].try_into().expect("a SHA-256 has 32 bytes"))
    }

    /// Checks every text of the message against its ceiling.
    pub fn check_text(&self) -> Result<(), text::TextError> {
        text::name("source service", &self.source.service)?;
        text::name("destination service", &self.destination.service)?;
        text::free("message type", &self.message_type, limits::NAME_BYTES_MAX)?;
        if let Some(payload) = &self.payload {
            text::free("type URL", &payload.type_url, limits::MESSAGE_BYTES_MAX)?;
        }
        for (key, value) in self.validation.iter().chain(self.annotations.iter().map(|(k, v)| (k, v))) {
            // How long they may be, and how many, says the size of their message.
            text::free("annotation key", key, usize::MAX)?;
            text::free("annotation value", value, usize::MAX)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let ends = (Address::server("a"), Address::server("b"));
        Message::new(MessageId::from_bytes([1; 32]), ends.0, ends.1, Timestamp::EPOCH)
    }

    #[test]
    fn the_digest_tells_bodies_and_ends_apart() {
        let body = |value: &[u8]| Some(Payload { type_url: "t".into(), value: value.to_vec() });
        let one = Message { payload: body(b"x"), ..message() };
        assert_eq!(one.digest(), Message { created: Timestamp::MAX, ..one.clone() }.digest());
        assert_ne!(one.digest(), Message { payload: body(b"y"), ..message() }.digest());
        assert_ne!(one.digest(), Message { destination: Address::server("c"), ..one.clone() }.digest());
        assert_ne!(one.digest(), message().digest());
    }

    #[test]
    fn a_zero_byte_in_any_text_is_refused() {
        assert_eq!(message().check_text(), Ok(()));
        assert!(Message { message_type: "a\0".into(), ..message() }.check_text().is_err());
        assert!(Message { destination: Address::server(""), ..message() }.check_text().is_err());
        assert!(Message { annotations: vec![("k".into(), "\0".into())], ..message() }.check_text().is_err());
    }

    #[test]
    fn a_failure_keeps_a_bounded_reason() {
        let result = MessageResult::failed(Timestamp::EPOCH, &"x".repeat(2000));
        assert_eq!(result.failure.unwrap().len(), limits::FAILED_REASON_CHARS_MAX);
    }
}
