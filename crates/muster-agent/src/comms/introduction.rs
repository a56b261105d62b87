//! What this machine shows of itself with its first contacts, until a server has taken its key.
//!
//! Stays true: a server that answers has taken the key, and is not told again; one that refuses is told at the next contact.

use crate::facts::Observer;
use crate::keys::{self, Identity};
use bytes::Bytes;
use muster_core::handover::INTRODUCED;
use muster_core::{AgentId, Facts, Introduction};
use muster_proto::introduction;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// So many refusals in a row, and a new key that no server took is given up for the old one.
const REFUSALS_MAX: u32 = 3;

/// Who this machine is for servers.
#[derive(Debug)]
pub(crate) struct Introducer {
    directory: PathBuf,
    facts: Facts,
    identity: watch::Sender<Arc<Identity>>,
    /// The id of the key that a server has taken.
    taken: Mutex<Option<AgentId>>,
    refusals: AtomicU32,
}

impl Introducer {
    /// Puts one together; looks at the machine once. `directory` is where the keys are.
    pub(crate) fn new(directory: &Path, observer: &Observer, identity: watch::Sender<Arc<Identity>>) -> Self {
        let mut facts = observer.observe();
        facts.retain(|name, _| INTRODUCED.contains(&name.as_str()));
        Self { directory: directory.into(), facts, identity, taken: Mutex::default(), refusals: AtomicU32::new(0) }
    }

    /// Returns what is shown in the next contact; nothing once a server has taken the key.
    pub(crate) fn words(&self) -> Bytes {
        let identity = Arc::clone(&self.identity.borrow());
        if *self.taken() == Some(identity.id) {
            return Bytes::new();
        }
        let handover = keys::handover(&self.directory, &identity);
        introduction::encode(&Introduction { facts: self.facts.clone(), handover }, false)
    }

    /// Returns what is said by an agent that stops.
    pub(crate) fn last_words() -> Bytes {
        introduction::encode(&Introduction::default(), true)
    }

    /// Notes that a server answered a contact under the key `id`.
    pub(crate) fn is_taken(&self, id: AgentId) {
        self.refusals.store(0, Ordering::Relaxed);
        let mut taken = self.taken();
        if *taken != Some(id) {
            *taken = Some(id);
            keys::taken(&self.directory, id);
        }
    }

    /// Notes that a server refused this machine. A new key that was never taken is given up when that happens again and
    /// again: the old one may still be welcome, and without it the machine would be lost.
    pub(crate) fn is_refused(&self) {
        *self.taken() = None;
        if self.refusals.fetch_add(1, Ordering::Relaxed) + 1 < REFUSALS_MAX {
            return;
        }
        match keys::fall_back(&self.directory) {
            Ok(Some(old)) => {
                tracing::error!(agent = %old.id, "no server takes the new key of this machine, it goes on under its old one");
                self.refusals.store(0, Ordering::Relaxed);
                self.identity.send_replace(Arc::new(old));
            }
            Ok(None) => {}
            Err(error) => tracing::error!(error = %crate::chain::Chain(&error), "cannot go back to the old key"),
        }
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Option<AgentId>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
