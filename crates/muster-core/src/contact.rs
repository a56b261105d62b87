//! Contacts as they come in and as they are answered, free of any wire format.

use crate::{AgentState, Message, Payload, Priority, Timestamp};
use std::collections::BTreeMap;

/// What a machine says in one contact, or in one record of a stream. Nothing in it is believed but its content: the
/// machine's identity comes from the key that it proved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContactData {
    /// The nonce it was given last; 0 when it has none.
    pub nonce: u64,
    /// What its clock says, when that is a moment.
    pub clock: Option<Timestamp>,
    /// How many more messages each of its services takes. `None` when it said nothing of it: no limits.
    pub allowed: Option<BTreeMap<String, u64>>,
    /// What it sends.
    pub messages: Vec<IncomingMessage>,
    /// Whether it knows a message that it was given before. Fleetspeak's client does not: what it is given twice, it runs
    /// twice.
    pub remembers: bool,
}

/// A message as a machine sent it, before anything about it is believed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IncomingMessage {
    /// The agent id it claims to come from, as raw bytes; empty is usual.
    pub claimed_agent: Vec<u8>,
    /// The service it comes from.
    pub source_service: String,
    /// The machine's own name for it.
    pub source_message_id: Vec<u8>,
    /// Whether it says where it goes at all.
    pub has_destination: bool,
    /// The agent id it is addressed to, as raw bytes; anything but empty is refused.
    pub destination_agent: Vec<u8>,
    /// The service of the server it is addressed to.
    pub destination_service: String,
    /// What it is.
    pub message_type: String,
    /// Its body.
    pub payload: Option<Payload>,
    /// How much it hurries.
    pub priority: Priority,
    /// Whether it could have waited.
    pub background: bool,
    /// Pairs that its sender attached.
    pub annotations: Vec<(String, String)>,
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactAnswer {
    /// The nonce that the next contact must refer to.
    pub nonce: u64,
    /// Messages for the machine, at most [`crate::limits::CONTACT_MESSAGES_MAX`].
    pub messages: Vec<Message>,
    /// What the machine is to the server; one that waits for approval is answered as any other, and would not know.
    pub state: AgentState,
}
