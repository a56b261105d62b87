//! The original's messages as far as the load program needs them, written by hand from the numbers on the wire.
//!
//! Field numbers: docs/reference of the protocol. Kept apart from muster-proto on purpose.

pub mod actions;

use prost::Message as _;
use std::collections::HashMap;

/// What opens a stream, and every frame of the local channel.
pub const MAGIC: [u8; 4] = [0x01, 0x10, 0xEE, 0xF1];
/// The prefix of every type's name in an `Any`.
pub const TYPE_PREFIX: &str = "type.googleapis.com/";

/// One end of a message.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Address {
    /// Empty for a service of the server.
    #[prost(bytes = "vec", tag = "1")]
    pub client_id: Vec<u8>,
    /// The service.
    #[prost(string, tag = "2")]
    pub service_name: String,
}

/// A message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    /// 32 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub message_id: Vec<u8>,
    /// From.
    #[prost(message, optional, tag = "2")]
    pub source: Option<Address>,
    /// The sender's own name for it.
    #[prost(bytes = "vec", tag = "3")]
    pub source_message_id: Vec<u8>,
    /// To.
    #[prost(message, optional, tag = "4")]
    pub destination: Option<Address>,
    /// What it is.
    #[prost(string, tag = "5")]
    pub message_type: String,
    /// When it came into being.
    #[prost(message, optional, tag = "6")]
    pub creation_time: Option<prost_types::Timestamp>,
    /// Its body.
    #[prost(message, optional, tag = "7")]
    pub data: Option<prost_types::Any>,
    /// 0 medium, 1 low, 2 high.
    #[prost(int32, tag = "10")]
    pub priority: i32,
    /// Whether it may wait.
    #[prost(bool, tag = "11")]
    pub background: bool,
    /// Pairs that its sender attached.
    #[prost(message, optional, tag = "12")]
    pub annotations: Option<Annotations>,
}

/// Pairs on a message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Annotations {
    /// Any number of them.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Annotation>,
}

/// A pair on a message.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Annotation {
    /// The first.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The second.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// What both sides say in a contact.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContactData {
    /// The chain of nonces.
    #[prost(uint64, tag = "1")]
    pub sequencing_nonce: u64,
    /// At most 100.
    #[prost(message, repeated, tag = "2")]
    pub messages: Vec<Message>,
    /// The agent's clock.
    #[prost(message, optional, tag = "3")]
    pub client_clock: Option<prost_types::Timestamp>,
    /// Which record of a stream this acknowledges.
    #[prost(uint64, tag = "4")]
    pub ack_index: u64,
    /// Whether the server has said everything.
    #[prost(bool, tag = "5")]
    pub done_sending: bool,
    /// How many messages each service can take.
    #[prost(map = "string, uint64", tag = "6")]
    pub allowed_messages: HashMap<String, u64>,
    /// Whether the agent knows what it was given before.
    #[prost(bool, tag = "1001")]
    pub remembers: bool,
}

/// A contact as it travels.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WrappedContactData {
    /// A serialised [`ContactData`].
    #[prost(bytes = "vec", tag = "1")]
    pub contact_data: Vec<u8>,
    /// Labels the agent claims.
    #[prost(string, repeated, tag = "3")]
    pub client_labels: Vec<String>,
}

/// The ids of messages that services of an agent are done with.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MessageAckData {
    /// 32 bytes each.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub message_ids: Vec<Vec<u8>>,
}

/// A report of used resources. The crash runs count these: each makes one row, and nothing merges rows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceUsageData {
    /// `system` or a service.
    #[prost(string, tag = "1")]
    pub scope: String,
    /// Which process. The load program puts a running number here.
    #[prost(int64, tag = "2")]
    pub pid: i64,
    /// Since when.
    #[prost(message, optional, tag = "3")]
    pub process_start_time: Option<prost_types::Timestamp>,
    /// When it was measured.
    #[prost(message, optional, tag = "4")]
    pub data_timestamp: Option<prost_types::Timestamp>,
    /// The measurements.
    #[prost(message, optional, tag = "5")]
    pub resource_usage: Option<AggregatedResourceUsage>,
}

/// Measurements.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AggregatedResourceUsage {
    /// Milliseconds of user processor time per second.
    #[prost(double, tag = "1")]
    pub mean_user_cpu_rate: f64,
    /// Peak memory in bytes.
    #[prost(int64, tag = "6")]
    pub max_resident_memory: i64,
}

/// Nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

/// Packs a message under its full name.
pub fn any(name: &str, message: &impl prost::Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("{TYPE_PREFIX}{name}"), value: message.encode_to_vec() }
}

/// Wraps a contact for the way.
pub fn wrap(contact: &ContactData, labels: &[String]) -> Vec<u8> {
    WrappedContactData { contact_data: contact.encode_to_vec(), client_labels: labels.to_vec() }.encode_to_vec()
}

/// Puts a length before a record, as streams do.
pub fn framed(record: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(record.len() + 10);
    prost::encoding::encode_varint(record.len() as u64, &mut bytes);
    bytes.extend_from_slice(record);
    bytes
}
