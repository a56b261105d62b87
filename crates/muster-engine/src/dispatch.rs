//! Services of the server that live outside of the engine, and how messages reach them.

use async_trait::async_trait;
use muster_core::Message;

/// Why a service did not take a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// It may take it later: the message falls due again.
    #[error("{0}")]
    Passing(String),
    /// It never will: the message fails.
    #[error("{0}")]
    Permanent(String),
}

/// A service of the server.
#[async_trait]
pub trait Service: Send + Sync {
    /// Its name, which messages are addressed to.
    fn name(&self) -> &str;

    /// Calls under way at once, at most.
    fn parallelism(&self) -> u32;

    /// Whether every message is simply done with (NOOP); such messages are never dispatched.
    fn discards(&self) -> bool {
        false
    }

    /// Takes a message; may see the same message again (at least once). The caller bounds its time by
    /// [`muster_core::limits::SERVICE_CALL_MAX`].
    async fn process(&self, message: &Message) -> Result<(), ServiceError>;
}
