//! Small things that outlive the process: the nonce last given by a server, and revoked serial numbers.

use crate::durable::{self, Sync};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Serial numbers remembered, so that a server gone mad cannot fill the disk.
const REVOKED_MAX: usize = 10_000;

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
struct Content {
    nonce: u64,
    revoked: BTreeSet<String>,
}

/// The file. What it holds is also in memory.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    content: Mutex<Content>,
}

impl StateFile {
    /// Reads the file, if it is there. A damaged one is as none: the nonce starts anew, which a server only notes.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let content = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "the state file is damaged, starting with an empty one");
                Content::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.into(), content: Mutex::new(content) })
    }

    /// Returns the nonce to refer to; 0 for a machine without a past.
    pub(crate) fn nonce(&self) -> u64 {
        self.content().nonce
    }

    /// Keeps the nonce a server gave.
    pub(crate) fn set_nonce(&self, nonce: u64) {
        let mut content = self.content();
        if content.nonce != nonce {
            content.nonce = nonce;
            // Every contact brings one, and one that is lost is only a gap in the chain: the disk is not waited for.
            self.write(&content, Sync::Process);
        }
    }

    /// Returns the revoked serial numbers.
    pub(crate) fn revoked(&self) -> BTreeSet<Vec<u8>> {
        self.content().revoked.iter().filter_map(|serial| hex::decode(serial).ok()).collect()
    }

    /// Adds revoked serial numbers. Returns whether one is new.
    pub(crate) fn revoke(&self, serials: &[Vec<u8>]) -> bool {
        let mut content = self.content();
        let before = content.revoked.len();
        for serial in serials.iter().filter(|serial| !serial.is_empty() && serial.len() <= 64) {
            if content.revoked.len() < REVOKED_MAX {
                content.revoked.insert(hex::encode(serial));
            }
        }
        let grew = content.revoked.len() > before;
        if grew {
            self.write(&content, Sync::Power);
        }
        grew
    }

    fn write(&self, content: &Content, sync: Sync) {
        let bytes = serde_json::to_vec(content).expect("numbers and text are JSON");
        if let Err(error) = durable::replace(&self.path, &bytes, sync) {
            tracing::error!(%error, path = %self.path.display(), "cannot write the state file");
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonce_and_revoked_serials_outlive_the_process_and_damage_is_a_fresh_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let state = StateFile::open(&path).unwrap();
        state.set_nonce(u64::MAX);
        assert!(state.revoke(&[vec![1, 2]]));
        assert!(!state.revoke(&[vec![1, 2]]));
        let state = StateFile::open(&path).unwrap();
        assert_eq!((state.nonce(), state.revoked()), (u64::MAX, BTreeSet::from([vec![1, 2]])));
        std::fs::write(&path, "{\"nonce\":").unwrap();
        assert_eq!(StateFile::open(&path).unwrap().nonce(), 0);
    }
}
