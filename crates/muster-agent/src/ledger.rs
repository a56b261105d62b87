//! Which messages of the server were taken already, so that one that comes again is acknowledged and not done again.
//!
//! Entries are appended to one file: kind, id, for some a time, CRC32C. A message is *begun* before something that must
//! not happen twice is done with it, and *done* afterwards; what was begun and not done when the agent ended is
//! reported as unknown after the next start.
//!
//! Of messages that were begun the latest are remembered apart from the others, so that none of these pushes them out. Of
//! those that are forgotten at last the latest time of making is kept: a message that was made by then may have been begun
//! before, and is not begun.
//!
//! Stays true: the file is bounded and damage costs no more than the damaged entries. A process that is killed loses
//! nothing; against a loss of power [`Ledger::sync_handle`] is waited for before acknowledgements leave.

use crate::durable;
use muster_core::Timestamp;
use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A message's name on the server.
pub(crate) type LedgerId = [u8; 32];

/// Messages remembered that were taken and not begun. A server repeats what it has no acknowledgement for after 15 minutes
/// at most.
const TAKEN_MAX: usize = 8192;
/// Messages remembered that were begun.
const BEGUN_MAX: usize = 16_384;
/// Bytes of an entry without a time, and with one.
const ENTRY_BYTES: usize = 37;
const TIMED_BYTES: usize = 45;
/// Kinds of entries without a time: an earlier version wrote all so.
const OLD_BEGUN: u8 = b'B';
const DONE: u8 = b'D';
/// Kinds of entries with a time: that of the message's making, or the latest of those that are forgotten.
const BEGUN: u8 = b'b';
const BEGUN_DONE: u8 = b'd';
const FORGOTTEN: u8 = b'f';

/// What is known of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Work on it began, and perhaps ended.
    Begun,
    /// It is done with.
    Done,
}

/// Why work on a message may not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    /// It was made when some were that are forgotten by now.
    #[error(
        "this message was made at {made}, and this machine has forgotten which messages of {forgotten} and before it ran; \
         send it as a new one"
    )]
    TooOld {
        /// When it was made.
        made: Timestamp,
        /// When the latest forgotten one was made.
        forgotten: Timestamp,
    },
    /// The disk.
    #[error("the ledger cannot be written: {0}")]
    Disk(#[from] io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    known: Known,
    /// When the message was made, of those that were begun.
    made: Option<Timestamp>,
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    file: File,
    /// Entries in the file.
    written: usize,
    known: HashMap<LedgerId, Entry>,
    taken: VecDeque<LedgerId>,
    begun: VecDeque<LedgerId>,
    /// When the latest was made of those that were begun and are forgotten.
    forgotten: Option<Timestamp>,
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
            written: 0,
            known: HashMap::new(),
            taken: VecDeque::new(),
            begun: VecDeque::new(),
            forgotten: None,
        };
        for read in entries(&bytes) {
            match read {
                Read::Forgotten(made) => ledger.forgotten = ledger.forgotten.max(Some(made)),
                Read::Entry(id, entry) => ledger.remember(id, entry),
            }
        }
        ledger.rewrite()?;
        let unknown = ledger.begun.iter().filter(|id| ledger.known[*id].known == Known::Begun).copied().collect();
        Ok((ledger, unknown))
    }

    /// Returns what is known of a message.
    pub(crate) fn get(&self, id: &LedgerId) -> Option<Known> {
        self.known.get(id).map(|entry| entry.known)
    }

    /// Writes that work begins on a message that was made at `made`, as the server says; without that it is as old as can
    /// be.
    pub(crate) fn begin(&mut self, id: LedgerId, made: Timestamp) -> Result<(), BeginError> {
        if let Some(forgotten) = self.forgotten.filter(|forgotten| made <= *forgotten) {
            return Err(BeginError::TooOld { made, forgotten });
        }
        Ok(self.write(id, Entry { known: Known::Begun, made: Some(made) })?)
    }

    /// Writes that a message is done with.
    pub(crate) fn finish(&mut self, id: LedgerId) -> io::Result<()> {
        let made = self.known.get(&id).and_then(|entry| entry.made);
        self.write(id, Entry { known: Known::Done, made })
    }

    /// Returns a handle on which to wait for the disk.
    pub(crate) fn sync_handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    fn write(&mut self, id: LedgerId, entry: Entry) -> io::Result<()> {
        let forgotten = self.forgotten;
        self.remember(id, entry);
        let mut bytes = encode(&id, entry);
        self.written += 1;
        if let Some(forgotten) = self.forgotten.filter(|now| Some(*now) > forgotten) {
            bytes.extend(encode_forgotten(forgotten));
            self.written += 1;
        }
        self.file.write_all(&bytes)?;
        if self.written > 3 * (TAKEN_MAX + BEGUN_MAX) { self.rewrite() } else { Ok(()) }
    }

    fn remember(&mut self, id: LedgerId, entry: Entry) {
        let (order, most) = match entry.made {
            None => (&mut self.taken, TAKEN_MAX),
            Some(_) => (&mut self.begun, BEGUN_MAX),
        };
        let before = self.known.insert(id, entry);
        // It may have been taken before and begun only now.
        if before.is_none_or(|before| before.made.is_some() != entry.made.is_some()) {
            order.push_back(id);
        }
        if order.len() > most
            && let Some(oldest) = order.pop_front()
            && self.known.get(&oldest).is_some_and(|known| known.made.is_some() == entry.made.is_some())
        {
            let forgotten = self.known.remove(&oldest);
            self.forgotten = self.forgotten.max(forgotten.and_then(|entry| entry.made));
        }
    }

    /// Exchanges the file for one with only what is remembered.
    fn rewrite(&mut self) -> io::Result<()> {
        let ids = self.taken.iter().chain(&self.begun);
        let mut bytes: Vec<u8> =
            ids.filter_map(|id| self.known.get(id).map(|entry| encode(id, *entry))).flatten().collect();
        bytes.extend(self.forgotten.map(encode_forgotten).into_iter().flatten());
        durable::replace(&self.path, &bytes, durable::Sync::Power)?;
        self.file = open_append(&self.path)?;
        self.written = self.known.len() + 1;
        Ok(())
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn encode(id: &LedgerId, entry: Entry) -> Vec<u8> {
    let kind = match (entry.known, entry.made) {
        (Known::Begun, None) => OLD_BEGUN,
        (Known::Done, None) => DONE,
        (Known::Begun, Some(_)) => BEGUN,
        (Known::Done, Some(_)) => BEGUN_DONE,
    };
    encode_as(kind, id, entry.made)
}

fn encode_forgotten(made: Timestamp) -> Vec<u8> {
    encode_as(FORGOTTEN, &[0; 32], Some(made))
}

fn encode_as(kind: u8, id: &LedgerId, made: Option<Timestamp>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(TIMED_BYTES);
    bytes.push(kind);
    bytes.extend(id);
    bytes.extend(made.map(|made| made.as_nanos().to_le_bytes()).into_iter().flatten());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// What stands in the file.
enum Read {
    Entry(LedgerId, Entry),
    Forgotten(Timestamp),
}

/// Reads entries, passing over what is damaged: behind it the next sound entry is looked for byte by byte.
fn entries(bytes: &[u8]) -> Vec<Read> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= ENTRY_BYTES) {
        match entry(rest) {
            Some((read, length)) => {
                found.push(read);
                at += length;
            }
            None => at += 1,
        }
    }
    found
}

/// Reads the entry at the beginning of `bytes`, if there is a sound one. Also returns its length.
fn entry(bytes: &[u8]) -> Option<(Read, usize)> {
    let kind = *bytes.first()?;
    let length = match kind {
        OLD_BEGUN | DONE => ENTRY_BYTES,
        BEGUN | BEGUN_DONE | FORGOTTEN => TIMED_BYTES,
        _ => return None,
    };
    let (content, sum) = bytes.get(..length)?.split_at(length - 4);
    if crc32c::crc32c(content).to_le_bytes() != sum {
        return None;
    }
    let id = content[1..33].try_into().ok()?;
    let made = content[33..].try_into().ok().map(|nanos| Timestamp::from_nanos(i64::from_le_bytes(nanos)));
    let known = if matches!(kind, OLD_BEGUN | BEGUN) { Known::Begun } else { Known::Done };
    let read = match (kind, made) {
        (FORGOTTEN, Some(made)) => Read::Forgotten(made),
        // What an earlier version began is remembered like what is begun now; it did not keep when it was made.
        (OLD_BEGUN, None) => Read::Entry(id, Entry { known, made: Some(Timestamp::EPOCH) }),
        (_, made) => Read::Entry(id, Entry { known, made }),
    };
    Some((read, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADE: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn number(number: u32) -> LedgerId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        id
    }

    #[test]
    fn what_was_done_is_known_after_a_restart_and_what_was_begun_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let (mut ledger, unknown) = Ledger::open(&path).unwrap();
        assert_eq!(unknown, [] as [LedgerId; 0]);
        ledger.begin([1; 32], MADE).unwrap();
        ledger.finish([1; 32]).unwrap();
        ledger.begin([2; 32], MADE).unwrap();
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
        for made in [None, Some(MADE)] {
            let length = if made.is_some() { TIMED_BYTES } else { ENTRY_BYTES };
            let done = |number| encode(&[number; 32], Entry { known: Known::Done, made });
            let whole: Vec<u8> = (1..=3).flat_map(done).collect();
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
                assert_eq!(ledger.known.len(), cut / length, "cut at {cut}");
            }
        }
    }

    #[test]
    fn what_was_begun_is_pushed_out_by_no_others_and_what_is_forgotten_does_not_begin_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let (mut ledger, _) = Ledger::open(&path).unwrap();
        let made = |seconds: u32| MADE.plus(std::time::Duration::from_secs(seconds.into()));
        ledger.begin([0xAA; 32], made(1)).unwrap();
        ledger.finish([0xAA; 32]).unwrap();
        for other in 0..30_000 {
            ledger.finish(number(other)).unwrap();
        }
        assert_eq!(ledger.get(&[0xAA; 32]), Some(Known::Done));
        let begun = u32::try_from(BEGUN_MAX).unwrap();
        for more in 0..begun {
            ledger.begin(number(100_000 + more), made(2 + more)).unwrap();
            ledger.finish(number(100_000 + more)).unwrap();
        }
        // By now it is forgotten, and with it that whatever is as old was not begun.
        let check = |ledger: &mut Ledger| {
            assert_eq!(ledger.get(&[0xAA; 32]), None);
            assert!(matches!(ledger.begin([0xAA; 32], made(1)), Err(BeginError::TooOld { .. })));
            assert!(matches!(ledger.begin([0xBB; 32], Timestamp::EPOCH), Err(BeginError::TooOld { .. })));
            assert_eq!(ledger.get(&number(100_000)), Some(Known::Done));
        };
        check(&mut ledger);
        let (mut ledger, unknown) = Ledger::open(&path).unwrap();
        assert!(unknown.is_empty());
        check(&mut ledger);
        ledger.begin([0xBB; 32], made(begun + 9)).unwrap();
    }

    #[test]
    fn a_ledger_of_an_earlier_version_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let entries = [encode_as(OLD_BEGUN, &[1; 32], None), encode_as(DONE, &[2; 32], None)].concat();
        assert_eq!(entries.len(), 2 * ENTRY_BYTES);
        std::fs::write(&path, entries).unwrap();
        let (ledger, unknown) = Ledger::open(&path).unwrap();
        assert_eq!(unknown, [[1; 32]]);
        assert_eq!([1, 2].map(|n| ledger.get(&[n; 32])), [Some(Known::Begun), Some(Known::Done)]);
    }

    #[test]
    fn file_and_memory_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let (mut ledger, _) = Ledger::open(&path).unwrap();
        for other in 0..100_000 {
            ledger.finish(number(other)).unwrap();
        }
        assert_eq!(ledger.known.len(), TAKEN_MAX);
        let bytes = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
        assert!(bytes <= (3 * (TAKEN_MAX + BEGUN_MAX) + 1) * ENTRY_BYTES, "{bytes} bytes");
    }
}
