//! What the engine is given of the world.

use crate::actions::ActionOutcome;
use async_trait::async_trait;
use bytes::Bytes;
use muster_core::action::ActionId;
use muster_core::system::{SystemMessage, SystemOrder};
use muster_core::{AgentId, Clock, Facts, Handover, Introduction, Message, Payload};
use muster_store::investigators::TrustTold;
use std::fmt;
use std::sync::Arc;

/// A cancellation that somebody signed.
#[derive(Debug, Clone, Copy)]
pub struct SignedCancel<'a> {
    /// What was signed: fleet, order, end.
    pub said: muster_trust::Cancellation<'a>,
    /// The signature, as a line.
    pub signature: &'a str,
    /// For people.
    pub reason: &'a str,
}

/// Translates the payloads of built-in services.
pub trait SystemCodec: Send + Sync + fmt::Debug {
    /// Decodes a message to service `system`. The error is a reason for people; it fails the message for good.
    fn decode(&self, message: &Message) -> Result<SystemMessage, String>;
    /// Decodes a `Facts` message to service `muster`.
    fn decode_facts(&self, message: &Message) -> Result<Facts, String>;
    /// Reads what a machine shows of itself; what cannot be read is left out.
    fn decode_introduction(&self, body: &Bytes) -> Introduction;
    /// Whether the old key of `handover` signed that `new_key` (whole, DER SubjectPublicKeyInfo) takes its place.
    fn handover_holds(&self, handover: &Handover, new_key: &[u8]) -> bool;
    /// Encodes an order; its message type is the order's word in `muster_core::system`. A rekey has no payload.
    fn encode(&self, order: &SystemOrder) -> Option<Payload>;
    /// Encodes a signed action for the machines it means. `json` is the action with its signatures.
    fn encode_action(&self, id: ActionId, json: &[u8]) -> Payload;
    /// Encodes that an action is called back by somebody who signed that.
    fn encode_cancel(&self, id: ActionId, cancel: &SignedCancel<'_>) -> Payload;
    /// Encodes a document of trust as it was signed.
    fn encode_trust(&self, document: &[u8]) -> Payload;
    /// Decodes what [`Self::encode_trust`] made.
    fn decode_trust_document(&self, payload: &Payload) -> Result<Vec<u8>, String>;
    /// Returns how many bytes the results in an `ActionResult` take once unpacked. Decoding it takes no more.
    fn unpacked_bytes(&self, payload: &Payload) -> u64;
    /// Decodes an `ActionResult` message to service `actions`. Results are [`muster_core::limits::RESULT_BYTES_MAX`] at
    /// most.
    fn decode_outcome(&self, message: &Message) -> Result<ActionOutcome, String>;
    /// Decodes an `AgentTrust` message to service `actions`.
    fn decode_trust(&self, message: &Message) -> Result<TrustTold, String>;
}

/// Draws random bytes.
pub trait Random: Send + Sync + fmt::Debug {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);

    /// Draws a number from 0 (included) to 1 (excluded).
    fn unit(&self) -> f64 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }
}

/// What one server tells another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeUp {
    /// Messages are due for these agents.
    Messages(Vec<AgentId>),
    /// The labels of these agents changed, and with them which broadcasts are theirs.
    Labels(Vec<AgentId>),
    /// Broadcasts changed.
    Broadcasts,
}

/// Reaches other servers.
#[async_trait]
pub trait Waker: Send + Sync + fmt::Debug {
    /// Tells the server at `url`. A wake-up may be lost: sweeps find messages and broadcasts, and labels are read again
    /// when an agent opens its next stream.
    async fn wake(&self, url: &str, what: &WakeUp);
}

/// Why a wake-up was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WakeRefusal {
    /// It does not carry the authenticator of a server of this cluster, or was meant for another one.
    #[error("the wake-up is not from a server of this cluster to this one")]
    Stranger,
    /// It was sent too long ago, or in the future.
    #[error("the wake-up is too old: compare the clocks of the servers")]
    Old,
    /// It came before.
    #[error("the wake-up came before")]
    Replayed,
}

/// All of it together.
#[derive(Debug, Clone)]
pub struct Outside {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where random bytes come from.
    pub random: Arc<dyn Random>,
    /// How built-in payloads are read.
    pub codec: Arc<dyn SystemCodec>,
    /// How other servers are woken.
    pub waker: Arc<dyn Waker>,
}
