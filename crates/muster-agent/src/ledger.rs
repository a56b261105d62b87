//! Which messages of the server were taken already, so that one that comes again is acknowledged and not done again.
//!
//! Entries are appended to one file, 37 bytes each: kind, id, CRC32C. A message is *begun* before something that must
//! not happen twice is done with it, and *done* afterwards; what was begun and not done when the agent ended is
//! reported as unknown after the next start.
//!
//! Stays true: the file is bounded and damage costs no more than the damaged entries. A process that is killed loses
//! nothing; against a loss of power [`Ledger::sync`] is called before acknowledgements leave.

use crate::durable;
use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A message's name on the server.
pub(crate) type LedgerId = [u8; 32];

/// Messages remembered. A server repeats what it has no acknowledgement for after 15 minutes at most.
const REMEMBERED_MAX: usize = 8192;
const ENTRY_BYTES: usize = 37;
const BEGUN: u8 = b'B';
const DONE: u8 = b'D';

/// What is known of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Work on it began, and perhaps ended.
    Begun,
    /// It is done with.
    Done,
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    file: File,
    entries: usize,
    known: HashMap<LedgerId, Known>,
    order: VecDeque<LedgerId>,
}

impl Ledger {
    /// Opens the ledger at `path`. Also returns what was begun and not done in the life before.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Vec<LedgerId>)> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut ledger = Self {
            path: path.into(),
            file: open_append(path)?,
            entries: 0,
            known: HashMap::new(),
            order: VecDeque::new(),
        };
        for (id, known) in entries(&bytes) {
            ledger.remember(id, known);
        }
        ledger.rewrite()?;
        let unknown = ledger.order.iter().filter(|id| ledger.known[*id] == Known::Begun).copied().collect();
        Ok((ledger, unknown))
    }

    /// Returns what is known of a message.
    pub(crate) fn get(&self, id: &LedgerId) -> Option<Known> {
        self.known.get(id).copied()
    }

    /// Writes that work on a message begins.
    pub(crate) fn begin(&mut self, id: LedgerId) -> io::Result<()> {
        self.write(id, Known::Begun)
    }

    /// Writes that a message is done with.
    pub(crate) fn finish(&mut self, id: LedgerId) -> io::Result<()> {
        self.write(id, Known::Done)
    }

    /// Returns a handle on which to wait for the disk.
    pub(crate) fn sync_handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    fn write(&mut self, id: LedgerId, known: Known) -> io::Result<()> {
        self.remember(id, known);
        self.file.write_all(&encode(&id, known))?;
        self.entries += 1;
        if self.entries > 3 * REMEMBERED_MAX { self.rewrite() } else { Ok(()) }
    }

    fn remember(&mut self, id: LedgerId, known: Known) {
        if self.known.insert(id, known).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Exchanges the file for one with only what is remembered.
    fn rewrite(&mut self) -> io::Result<()> {
        let bytes: Vec<u8> = self.order.iter().flat_map(|id| encode(id, self.known[id])).collect();
        durable::replace(&self.path, &bytes, durable::Sync::Power)?;
        self.file = open_append(&self.path)?;
        self.entries = self.order.len();
        Ok(())
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn encode(id: &LedgerId, known: Known) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    entry[0] = match known {
        Known::Begun => BEGUN,
        Known::Done => DONE,
    };
    entry[1..33].copy_from_slice(id);
    let sum = crc32c::crc32c(&entry[..33]);
    entry[33..].copy_from_slice(&sum.to_le_bytes());
    entry
}

/// Reads entries, passing over what is damaged: behind it the next sound entry is looked for byte by byte.
fn entries(bytes: &[u8]) -> Vec<(LedgerId, Known)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(entry) = bytes.get(at..at + ENTRY_BYTES) {
        let sum = u32::from_le_bytes(entry[33..].try_into().expect("four bytes are four bytes"));
        let known = match entry[0] {
            BEGUN => Some(Known::Begun),
            DONE => Some(Known::Done),
            _ => None,
        };
        match known {
            Some(known) if crc32c::crc32c(&entry[..33]) == sum => {
                found.push((entry[1..33].try_into().expect("32 bytes are 32 bytes"), known));
                at += ENTRY_BYTES;
            }
            _ => at += 1,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_known_after_a_restart_and_what_was_begun_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let (mut ledger, unknown) = Ledger::open(&path).unwrap();
        assert_eq!(unknown, [] as [LedgerId; 0]);
        ledger.begin([1; 32]).unwrap();
        ledger.finish([1; 32]).unwrap();
        ledger.begin([2; 32]).unwrap();
        ledger.finish([3; 32]).unwrap();
        // Killed here: nothing is closed in order.
        let (ledger, unknown) = Ledger::open(&path).unwrap();
        assert_eq!(unknown, [[2; 32]]);
        let known = [1, 2, 3, 4].map(|number| ledger.get(&[number; 32]));
        assert_eq!(known, [Some(Known::Done), Some(Known::Begun), Some(Known::Done), None]);
    }

    #[test]
    fn damage_costs_the_damaged_entries_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let whole: Vec<u8> = (1..=3).flat_map(|number| encode(&[number; 32], Known::Done)).collect();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            std::fs::write(&path, &bytes).unwrap();
            let (ledger, _) = Ledger::open(&path).unwrap();
            let kept = (1..=3).filter(|number| ledger.get(&[*number; 32]).is_some()).count();
            assert_eq!(kept, 2, "byte {at}");
        }
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (ledger, _) = Ledger::open(&path).unwrap();
            assert_eq!(ledger.known.len(), cut / ENTRY_BYTES, "cut at {cut}");
        }
    }

    #[test]
    fn file_and_memory_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let (mut ledger, _) = Ledger::open(&path).unwrap();
        for number in 0..30_000_u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            ledger.finish(id).unwrap();
        }
        assert_eq!(ledger.known.len(), REMEMBERED_MAX);
        let bytes = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
        assert!(bytes <= (3 * REMEMBERED_MAX + 1) * ENTRY_BYTES, "{bytes} bytes");
    }
}
