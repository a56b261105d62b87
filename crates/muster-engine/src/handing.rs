//! Handing over: whether messages that were claimed for a stream got as far as its connection.
//!
//! An agent that does not remember what it was given must not be given it twice, so what may have arrived is left alone for
//! its whole lease. Stays true: only what certainly did not arrive is given back, and all of that; who claimed it names the
//! contact, so that nothing is taken from a newer one.

use crate::engine::lock;
use crate::registry::Held;
use muster_core::{AgentId, ContactId, Message, MessageId};
use std::sync::{Arc, Mutex};

/// A mark for messages on their way to a stream's connection.
///
/// Whoever gives their bytes to the connection sets it, at that very moment: from then on they may have arrived.
#[derive(Debug, Clone, Default)]
pub struct Handed(Arc<Mutex<Vec<MessageId>>>);

impl Handed {
    /// Says that the bytes are the connection's now.
    pub fn note(&self) {
        *lock(&self.0) = Vec::new();
    }

    pub(crate) fn is_noted(&self) -> bool {
        lock(&self.0).is_empty()
    }
}

/// Messages that a stream was given back because they never left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsent {
    pub(crate) agent: AgentId,
    pub(crate) contact: ContactId,
    pub(crate) ids: Vec<MessageId>,
}

/// Messages that were claimed for a stream. Dropped before [`Handed::note`], they are given back.
pub(crate) struct Claimed {
    held: Arc<Held>,
    pub(crate) handed: Handed,
}

impl Claimed {
    pub(crate) fn new(held: &Arc<Held>, messages: &[Message]) -> Self {
        let ids = messages.iter().map(|message| message.id).collect();
        Self { held: Arc::clone(held), handed: Handed(Arc::new(Mutex::new(ids))) }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let ids = std::mem::take(&mut *lock(&self.handed.0));
        if ids.is_empty() {
            return;
        }
        let Held { inner, stream } = &*self.held;
        inner.unsent_give_back(Unsent { agent: stream.agent, contact: stream.contact, ids });
    }
}

impl std::fmt::Debug for Claimed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claimed").field("handed", &self.handed).finish_non_exhaustive()
    }
}
