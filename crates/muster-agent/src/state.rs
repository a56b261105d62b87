//! What outlives the process and may be lost: the nonce last given by a server.

use crate::durable::{self, Sync};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
struct Content {
    nonce: u64,
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
            self.write(&content);
        }
    }

    fn write(&self, content: &Content) {
        let bytes = serde_json::to_vec(content).expect("numbers and text are JSON");
        // Every contact brings one, and one that is lost is only a gap in the chain: the disk is not waited for.
        if let Err(error) = durable::replace(&self.path, &bytes, Sync::Process) {
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
    fn the_nonce_outlives_the_process_and_damage_is_a_fresh_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let state = StateFile::open(&path).unwrap();
        state.set_nonce(u64::MAX);
        assert_eq!(StateFile::open(&path).unwrap().nonce(), u64::MAX);
        // An earlier version kept what a server revoked here, and for ever.
        std::fs::write(&path, "{\"nonce\":7,\"revoked\":[\"d7\"]}").unwrap();
        assert_eq!(StateFile::open(&path).unwrap().nonce(), 7);
        std::fs::write(&path, "{\"nonce\":").unwrap();
        assert_eq!(StateFile::open(&path).unwrap().nonce(), 0);
    }
}
