//! What the service `actions` of both ends says, written by hand a second time.

use prost_types::Timestamp;

/// The service on both ends.
pub const SERVICE: &str = "actions";
/// Server to agent: an order.
pub const ORDER: &str = "Action";
/// Server to agent: an order is called back.
pub const CANCEL: &str = "Cancel";
/// Server to agent: a document that administrators signed.
pub const DOCUMENT: &str = "TrustDocument";
/// Agent to server: what came of an order.
pub const RESULT: &str = "ActionResult";
/// Agent to server: whom the machine believes.
pub const TRUST: &str = "AgentTrust";

/// The status of a result whose every operation succeeded.
pub const SUCCESS: i32 = 1;

/// An order.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ActionOrder {
    /// JSON, as it was signed.
    #[prost(bytes = "vec", tag = "1")]
    pub action: Vec<u8>,
    /// The server's number for it.
    #[prost(int64, tag = "2")]
    pub action_id: i64,
    /// The server's number for the machine's copy.
    #[prost(int64, tag = "3")]
    pub command_id: i64,
}

/// An order is called back.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ActionCancel {
    /// Which, by its number.
    #[prost(int64, tag = "1")]
    pub action_id: i64,
    /// Which, by the SHA-256 of its signed text.
    #[prost(bytes = "vec", tag = "2")]
    pub signed_sha256: Vec<u8>,
    /// In which fleet; empty: in every one.
    #[prost(string, tag = "4")]
    pub fleet: String,
    /// Until when the order may begin, in seconds since 1970.
    #[prost(int64, tag = "5")]
    pub until: i64,
    /// Of somebody who may call it back.
    #[prost(string, tag = "6")]
    pub signature: String,
}

/// A document that administrators signed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TrustDocument {
    /// Its envelope.
    #[prost(bytes = "vec", tag = "1")]
    pub document: Vec<u8>,
}

/// Why a machine did not act.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Refusal {
    /// A word.
    #[prost(string, tag = "1")]
    pub code: String,
    /// A sentence.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// What came of an order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ActionResult {
    /// As in the order.
    #[prost(int64, tag = "1")]
    pub action_id: i64,
    /// As in the order.
    #[prost(int64, tag = "2")]
    pub command_id: i64,
    /// The message that the order came in.
    #[prost(bytes = "vec", tag = "3")]
    pub order_message_id: Vec<u8>,
    /// SHA-256 of the signed text.
    #[prost(bytes = "vec", tag = "4")]
    pub signed_sha256: Vec<u8>,
    /// [`SUCCESS`] or another number.
    #[prost(int32, tag = "5")]
    pub status: i32,
    /// Why not.
    #[prost(message, optional, tag = "6")]
    pub refusal: Option<Refusal>,
    /// A JSON array, packed.
    #[prost(bytes = "vec", tag = "7")]
    pub results: Vec<u8>,
    /// 0 plain, 1 zlib.
    #[prost(int32, tag = "8")]
    pub results_packing: i32,
    /// Bytes before packing.
    #[prost(uint64, tag = "9")]
    pub results_bytes: u64,
    /// When the first operation began; absent when nothing ran.
    #[prost(message, optional, tag = "11")]
    pub started: Option<Timestamp>,
    /// Whose signatures held.
    #[prost(string, repeated, tag = "13")]
    pub signers: Vec<String>,
    /// What went wrong besides.
    #[prost(string, tag = "14")]
    pub problem: String,
}

/// Whom a machine believes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentTrust {
    /// 0: files.
    #[prost(uint64, tag = "1")]
    pub keyring_version: u64,
    /// Fingerprints.
    #[prost(string, repeated, tag = "2")]
    pub keyring: Vec<String>,
    /// 0: a file.
    #[prost(uint64, tag = "3")]
    pub acl_version: u64,
    /// The weights in force.
    #[prost(bytes = "vec", tag = "4")]
    pub acl: Vec<u8>,
    /// Before which no clock is believed.
    #[prost(message, optional, tag = "6")]
    pub time_floor: Option<Timestamp>,
    /// Orders in the ledger.
    #[prost(uint64, tag = "7")]
    pub ledger_entries: u64,
    /// Why the last document was not taken.
    #[prost(message, optional, tag = "9")]
    pub document_refusal: Option<Refusal>,
}

/// Server to agent, service `system`: end.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DieRequest {
    /// Without an orderly stop.
    #[prost(bool, tag = "1")]
    pub force: bool,
}

/// Server to agent, service `system`: stop and start a service.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RestartServiceRequest {
    /// Which.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Agent to server, service `system`: a message failed for good.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct MessageErrorData {
    /// Which.
    #[prost(bytes = "vec", tag = "1")]
    pub message_id: Vec<u8>,
    /// Why.
    #[prost(string, tag = "2")]
    pub error: String,
}
