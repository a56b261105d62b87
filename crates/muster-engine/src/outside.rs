//! What the engine is given of the world.

use async_trait::async_trait;
use muster_core::system::{SystemMessage, SystemOrder};
use muster_core::{AgentId, Clock, Facts, Message, Payload};
use std::fmt;
use std::sync::Arc;

/// Translates the payloads of built-in services.
pub trait SystemCodec: Send + Sync + fmt::Debug {
    /// Decodes a message to service `system`. The error is a reason for people; it fails the message for good.
    fn decode(&self, message: &Message) -> Result<SystemMessage, String>;
    /// Decodes a `Facts` message to service `muster`.
    fn decode_facts(&self, message: &Message) -> Result<Facts, String>;
    /// Encodes an order; its message type is the order's word in `muster_core::system`. A rekey has no payload.
    fn encode(&self, order: &SystemOrder) -> Option<Payload>;
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

/// Reaches other servers.
#[async_trait]
pub trait Waker: Send + Sync + fmt::Debug {
    /// Tells the server at `url` that something is due for `agents`; an empty list means that broadcasts changed. A
    /// wake-up may be lost: the sweep finds what it was about.
    async fn wake(&self, url: &str, agents: &[AgentId]);
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
