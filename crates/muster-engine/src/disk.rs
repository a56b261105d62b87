//! Disk: whether the database has room to write.
//!
//! Stays true: a write that found no room makes the database count as full, whoever tried it, for as long as such writes
//! come and until there is room again. Not here: databases that cannot be reached at all.

use crate::engine::{Chain, Engine, Inner, lock};
use crate::pace::Pace;
use metrics::gauge;
use muster_core::{Timestamp, limits};
use muster_store::{ErrorKind, StoreError};
use std::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, error, info};

/// What is known of the room on the database's disk.
#[derive(Debug)]
pub(crate) struct Disk {
    full: Mutex<Option<Full>>,
    lines: Pace<()>,
}

#[derive(Debug, Clone)]
struct Full {
    since: Timestamp,
    /// When a write found no room last.
    last: Instant,
    reason: String,
}

impl Default for Disk {
    fn default() -> Self {
        Self { full: Mutex::default(), lines: Pace::new(limits::LINE_EVERY) }
    }
}

impl Inner {
    /// Takes note of a write that found no room.
    pub(crate) fn disk_full_note(&self, failure: &StoreError) {
        let reason = Chain(failure).to_string();
        let mut full = lock(&self.disk.full);
        let since = full.as_ref().map_or_else(|| self.now(), |full| full.since);
        *full = Some(Full { since, last: Instant::now(), reason: reason.clone() });
        drop(full);
        gauge!("muster_engine_database_full").set(1.0);
        if let Some(more) = self.disk.lines.line(()) {
            error!(more, "{reason}: nothing can be stored, contacts are refused and come again; make room");
        }
    }

    /// Looks whether there is room, also when nobody writes.
    pub(crate) async fn room_look(&self) -> Result<(), StoreError> {
        match self.store.room_check().await {
            Ok(()) => self.disk_room_note(),
            Err(failure) if failure.kind() == ErrorKind::Full => self.disk_full_note(&failure),
            // Where it cannot be asked, the writes themselves tell.
            Err(failure) => {
                debug!(error = %Chain(&failure), "could not look how much room the database has");
                self.disk_room_note();
            }
        }
        Ok(())
    }

    /// Takes note that nothing speaks for a full disk any more, unless a write found no room just now.
    fn disk_room_note(&self) {
        let past = {
            let mut full = lock(&self.disk.full);
            full.take_if(|full| full.last.elapsed() >= limits::FULL_FOR)
        };
        if let Some(full) = past {
            gauge!("muster_engine_database_full").set(0.0);
            let seconds = self.now().since(full.since).as_secs();
            info!(seconds, "the disk of the database has room again, after {seconds} s");
        }
    }

    /// Why nothing can be stored, if that is so.
    pub(crate) async fn database_full(&self) -> Option<String> {
        // It never fails: what it finds is noted.
        let _ = self.room_look().await;
        let full = lock(&self.disk.full).clone()?;
        Some(format!("{} (since {})", full.reason, full.since))
    }
}

impl Engine {
    /// Why nothing can be stored for want of room on the disk of the database; `None` when there is room.
    pub async fn database_full(&self) -> Option<String> {
        self.inner.database_full().await
    }
}
