//! Unsent messages on the disk: a message that was accepted is kept until a server has it, through crashes.
//!
//! Segments are files that only grow. A record is `mark · length · CRC32C · id · kind · body`; the mark is random per
//! segment and stands in the file's name, so that reading finds the next record behind a damaged one, and no message
//! can hold bytes that pass for a record. A record of kind [`ACKNOWLEDGED`] lists ids that a server has.
//!
//! Stays true: every intact record that is not acknowledged is handed out once at a time, HIGH before MEDIUM before
//! LOW, oldest first; damaged bytes are set aside and counted, and stop nothing. Not here: threads and waiting
//! (outbox), what the bytes say.

use crate::durable;
use crate::spool_record::{self as record, ACKNOWLEDGED, HEADER_BYTES};
use crate::world::Random;
use muster_core::Priority;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A message's own name: 16 bytes that sort by time.
pub(crate) type SpoolId = [u8; 16];

/// Bytes after which a segment is closed and the next begun.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes of dead records that an empty spool may keep before its file is exchanged for a new one.
const IDLE_BYTES_MAX: u64 = 256 * 1024;
/// Damaged ranges kept for people to look at; more are only counted.
const QUARANTINE_FILES_MAX: usize = 16;
/// Set in a record's kind when the message may wait for a contact that happens anyway.
const BACKGROUND: u8 = 0x10;

/// How much the spool holds at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpoolLimits {
    /// Bytes of bodies.
    pub(crate) bytes_max: u64,
    /// Messages.
    pub(crate) messages_max: usize,
}

/// What went wrong so far, since the directory was made or the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpoolCounts {
    /// Messages given up because there was no room.
    pub(crate) dropped: u64,
    /// Damaged ranges set aside.
    pub(crate) damaged: u64,
}

/// Why a message was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// There is no room, even after what is less important was given up.
    #[error("the spool is full ({messages} messages, {bytes} bytes wait for a server)")]
    Full {
        /// Messages waiting.
        messages: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// The message is larger than any server takes.
    #[error("a message of {bytes} bytes is larger than the {max} that may travel")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// The disk refused.
    #[error("cannot write to the spool {}", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent is stopping.
    #[error("the spool is closed")]
    Closed,
}

/// A message on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// Its own name.
    pub(crate) id: SpoolId,
    /// How much it hurries.
    pub(crate) priority: Priority,
    /// Whether it may wait for a contact that happens anyway.
    pub(crate) background: bool,
    /// The message as it travels.
    pub(crate) body: Vec<u8>,
}

/// Where a message is: by hurry, then by age.
type Place = (u8, u64);
/// Where its record is: which segment, and how many bytes into it.
type Spot = (u64, u64);

#[derive(Debug)]
struct Stored {
    id: SpoolId,
    segment: u64,
    offset: u64,
    bytes: u32,
    background: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Written, but not yet known to be on the disk.
    Unsure,
    /// To be sent.
    Ready,
    /// Being sent.
    Away,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: Arc<File>,
    mark: [u8; 8],
    bytes: u64,
    live: usize,
}

/// The spool.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: PathBuf,
    limits: SpoolLimits,
    segments: BTreeMap<u64, Segment>,
    active: u64,
    index: BTreeMap<Place, Stored>,
    by_id: HashMap<SpoolId, Place>,
    next_sequence: u64,
    live_bytes: u64,
    counts: SpoolCounts,
    random: Arc<Random>,
}

impl Spool {
    /// Opens the spool in `directory`, which is made if it is not there.
    pub(crate) fn open(directory: &Path, limits: SpoolLimits, random: Arc<Random>) -> Result<Self, SpoolError> {
        let disk = |source| SpoolError::Disk { path: directory.into(), source };
        durable::make_private_directory(&directory.join("quarantine")).map_err(disk)?;
        let mut spool = Self {
            directory: directory.into(),
            limits,
            segments: BTreeMap::new(),
            active: 0,
            index: BTreeMap::new(),
            by_id: HashMap::new(),
            next_sequence: 0,
            live_bytes: 0,
            counts: SpoolCounts::default(),
            random,
        };
        let mut files = spool.segment_files().map_err(disk)?;
        files.sort();
        spool.active = files.last().map_or(0, |(number, ..)| *number);
        let mut damaged = Vec::new();
        let mut acknowledged = Vec::new();
        for (number, mark, path) in files {
            if spool.load(number, mark, &path, &mut acknowledged).map_err(disk)? {
                damaged.push(number);
            }
        }
        for id in acknowledged {
            spool.forget(&id);
        }
        // Nothing is ever appended to a file of an earlier life: its end may be torn.
        spool.begin_segment().map_err(disk)?;
        for number in damaged {
            // What is left of it moves, so that the damage is met and counted once.
            spool.move_segment(number).map_err(disk)?;
        }
        spool.drop_empty_segments();
        Ok(spool)
    }

    /// Writes a message, without waiting for the disk. It is handed out once [`Spool::confirm`] was told so; until
    /// then [`Spool::withdraw`] takes it back.
    pub(crate) fn append(&mut self, message: &Outgoing) -> Result<(), SpoolError> {
        let max = muster_core::limits::MESSAGE_BYTES_MAX;
        if message.body.len() > max {
            return Err(SpoolError::TooLarge { bytes: message.body.len(), max });
        }
        if self.by_id.contains_key(&message.id) {
            return Ok(());
        }
        self.make_room(message)?;
        let kind = rank(message.priority) | if message.background { BACKGROUND } else { 0 };
        let spot = self.write(&message.id, kind, &message.body)?;
        self.remember(message.id, kind, spot, message.body.len(), State::Unsure);
        Ok(())
    }

    /// Returns the file that must reach the disk before what was appended counts as accepted.
    pub(crate) fn active_file(&self) -> Arc<File> {
        Arc::clone(&self.segments[&self.active].file)
    }

    /// Takes note that messages are accepted, and hands them out from now on.
    pub(crate) fn confirm(&mut self, ids: &[SpoolId]) {
        for id in ids {
            if let Some(stored) = self.by_id.get(id).and_then(|place| self.index.get_mut(place))
                && stored.state == State::Unsure
            {
                stored.state = State::Ready;
            }
        }
    }

    /// Takes back messages that the disk did not confirm, and leaves the file that cannot be trusted any more.
    pub(crate) fn withdraw(&mut self, ids: &[SpoolId]) {
        for id in ids {
            self.forget(id);
        }
        if let Err(error) = self.begin_segment() {
            tracing::error!(%error, "cannot begin a new spool file");
        }
    }

    /// Takes messages to send: at most `messages_max` of them and `bytes_max` bytes (one is always taken).
    pub(crate) fn take(&mut self, messages_max: usize, bytes_max: usize) -> Vec<Outgoing> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let mut unreadable = Vec::new();
        for ((rank, _), stored) in &mut self.index {
            if stored.state != State::Ready {
                continue;
            }
            if taken.len() >= messages_max || (!taken.is_empty() && bytes + stored.bytes as usize > bytes_max) {
                break;
            }
            let mut body = vec![0; stored.bytes as usize];
            let file = &self.segments[&stored.segment].file;
            if let Err(error) = file.read_exact_at(&mut body, stored.offset + HEADER_BYTES as u64) {
                tracing::error!(%error, "cannot read a message back from the spool, it is lost");
                unreadable.push(stored.id);
                continue;
            }
            stored.state = State::Away;
            bytes += body.len();
            taken.push(Outgoing { id: stored.id, priority: priority(*rank), background: stored.background, body });
        }
        for id in unreadable {
            self.counts.damaged += 1;
            self.forget(&id);
        }
        taken
    }

    /// Gives back messages that were taken and not delivered.
    pub(crate) fn release(&mut self, ids: &[SpoolId]) {
        for id in ids {
            if let Some(stored) = self.by_id.get(id).and_then(|place| self.index.get_mut(place))
                && stored.state == State::Away
            {
                stored.state = State::Ready;
            }
        }
    }

    /// Forgets messages that a server has. Does not wait for the disk: after a loss of power some may be sent again,
    /// which the server knows by their ids.
    pub(crate) fn acknowledge(&mut self, ids: &[SpoolId]) {
        let mut body = Vec::with_capacity(ids.len() * 16);
        for id in ids.iter().filter(|id| self.forget(id)) {
            body.extend_from_slice(id);
        }
        if body.is_empty() {
            return;
        }
        if let Err(error) = self.write(&[0; 16], ACKNOWLEDGED, &body) {
            tracing::warn!(error = %crate::chain::Chain(&error), "cannot note in the spool what was delivered; after a restart it is sent again");
        }
        self.drop_empty_segments();
        if let Err(error) = self.tidy() {
            tracing::warn!(%error, "cannot make the spool smaller");
        }
    }

    /// Returns how many messages wait or are on their way.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether a message is to be sent; `urgent_only` leaves out those that may wait for a contact anyway.
    pub(crate) fn has_ready(&self, urgent_only: bool) -> bool {
        self.index.values().any(|stored| stored.state == State::Ready && !(urgent_only && stored.background))
    }

    /// Returns what went wrong so far.
    pub(crate) fn counts(&self) -> SpoolCounts {
        self.counts
    }

    /// Takes note of a message that was given up outside, for want of room here.
    pub(crate) fn count_dropped(&mut self) {
        self.counts.dropped += 1;
    }

    fn segment_files(&self) -> io::Result<Vec<(u64, [u8; 8], PathBuf)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if let Some((number, mark)) = parse_segment_name(name) {
                files.push((number, mark, path));
            }
        }
        Ok(files)
    }

    /// Reads a file of an earlier life. Returns whether something in it was damaged.
    fn load(&mut self, number: u64, mark: [u8; 8], path: &Path, done: &mut Vec<SpoolId>) -> io::Result<bool> {
        let bytes = std::fs::read(path)?;
        let file = Arc::new(File::open(path)?);
        self.segments.insert(number, Segment { path: path.into(), file, mark, bytes: bytes.len() as u64, live: 0 });
        let scan = record::scan(&bytes, mark);
        for found in scan.records {
            if found.kind == ACKNOWLEDGED {
                done.extend(found.body.chunks_exact(16).map(|id| SpoolId::try_from(id).expect("a chunk of 16 is 16")));
            } else if !self.by_id.contains_key(&found.id) {
                let spot = (number, found.offset as u64);
                self.remember(found.id, found.kind, spot, found.body.len(), State::Ready);
            }
        }
        for range in &scan.damaged {
            self.counts.damaged += 1;
            self.set_aside(number, range.start, &bytes[range.clone()]);
        }
        Ok(!scan.damaged.is_empty())
    }

    fn set_aside(&self, number: u64, offset: usize, bytes: &[u8]) {
        let directory = self.directory.join("quarantine");
        let kept = std::fs::read_dir(&directory).map_or(usize::MAX, Iterator::count);
        tracing::warn!(segment = number, offset, bytes = bytes.len(), "a damaged part of the spool was set aside");
        if kept < QUARANTINE_FILES_MAX {
            let path = directory.join(format!("{number:016x}-{offset}.bad"));
            if let Err(error) = durable::replace(&path, bytes, durable::Sync::Process) {
                tracing::warn!(%error, "cannot keep the damaged part");
            }
        }
    }

    fn remember(&mut self, id: SpoolId, kind: u8, (segment, offset): Spot, bytes: usize, state: State) {
        let place = (kind & 0x0f, self.next_sequence);
        self.next_sequence += 1;
        self.live_bytes += bytes as u64;
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.live += 1;
        }
        let bytes = u32::try_from(bytes).expect("a message is at most 2 MiB");
        self.index.insert(place, Stored { id, segment, offset, bytes, background: kind & BACKGROUND != 0, state });
        self.by_id.insert(id, place);
    }

    /// Drops a message from the index. Returns whether it was there.
    fn forget(&mut self, id: &SpoolId) -> bool {
        let Some(stored) = self.by_id.remove(id).and_then(|place| self.index.remove(&place)) else { return false };
        self.live_bytes -= u64::from(stored.bytes);
        if let Some(segment) = self.segments.get_mut(&stored.segment) {
            segment.live -= 1;
        }
        true
    }

    fn make_room(&mut self, message: &Outgoing) -> Result<(), SpoolError> {
        let need = message.body.len() as u64;
        loop {
            if self.index.len() < self.limits.messages_max && self.live_bytes + need <= self.limits.bytes_max {
                return Ok(());
            }
            // The least important goes first, and never for one that is no more important than itself.
            let victim = (rank(message.priority) + 1..=rank(Priority::Low)).rev().find_map(|rank| {
                let mut same = self.index.range((rank, 0)..(rank + 1, 0));
                same.find(|(_, stored)| stored.state == State::Ready).map(|(_, stored)| stored.id)
            });
            let Some(victim) = victim else {
                return Err(SpoolError::Full { messages: self.index.len(), bytes: self.live_bytes });
            };
            self.counts.dropped += 1;
            self.acknowledge(&[victim]);
        }
    }

    /// Appends a record to the active segment. Returns where it is.
    fn write(&mut self, id: &SpoolId, kind: u8, body: &[u8]) -> Result<Spot, SpoolError> {
        let failed = |path: &Path, source| SpoolError::Disk { path: path.into(), source };
        if self.segments[&self.active].bytes >= SEGMENT_BYTES {
            // What is in the old file must be on the disk before its end is out of sight.
            let old = &self.segments[&self.active];
            old.file.sync_data().map_err(|source| failed(&old.path, source))?;
            self.begin_segment().map_err(|source| failed(&self.directory, source))?;
        }
        let segment = self.segments.get_mut(&self.active).expect("there is always an active segment");
        let bytes = record::encode(segment.mark, id, kind, body);
        let offset = segment.bytes;
        if let Err(source) = segment.file.write_all_at(&bytes, offset) {
            // Half a record at the end is overwritten by the next one, or cut off here.
            let _ = segment.file.set_len(offset);
            return Err(failed(&segment.path, source));
        }
        segment.bytes += bytes.len() as u64;
        Ok((self.active, offset))
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let number = self.active + 1;
        let mark = self.random.bytes::<8>();
        let path = self.directory.join(format!("{number:016x}-{}.seg", hex::encode(mark)));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        durable::sync_directory_of(&path)?;
        self.segments.insert(number, Segment { path, file: Arc::new(file), mark, bytes: 0, live: 0 });
        self.active = number;
        Ok(())
    }

    /// Removes files from the oldest on, as long as nothing in them is needed. A file in the middle stays, because it
    /// may say what of an older one is delivered.
    fn drop_empty_segments(&mut self) {
        while let Some(entry) = self.segments.first_entry() {
            if *entry.key() == self.active || entry.get().live > 0 {
                break;
            }
            let segment = entry.remove();
            if let Err(error) = std::fs::remove_file(&segment.path) {
                tracing::warn!(%error, path = %segment.path.display(), "cannot remove a spool file");
            }
        }
    }

    /// Keeps what the files hold in proportion to what is needed of them.
    fn tidy(&mut self) -> io::Result<()> {
        if self.index.is_empty() && self.segments[&self.active].bytes > IDLE_BYTES_MAX {
            self.begin_segment()?;
            self.drop_empty_segments();
        }
        let on_disk: u64 = self.segments.values().map(|segment| segment.bytes).sum();
        if self.segments.len() > 2 && on_disk > 2 * self.live_bytes + 4 * SEGMENT_BYTES {
            let oldest = *self.segments.keys().next().expect("there is always a segment");
            self.move_segment(oldest)?;
            self.drop_empty_segments();
        }
        Ok(())
    }

    /// Copies what is needed of a segment to the end of the active one, so that its file can go.
    fn move_segment(&mut self, number: u64) -> io::Result<()> {
        let places: Vec<Place> =
            self.index.iter().filter(|(_, stored)| stored.segment == number).map(|(place, _)| *place).collect();
        for place in places {
            let stored = &self.index[&place];
            let (id, background) = (stored.id, stored.background);
            let mut body = vec![0; stored.bytes as usize];
            self.segments[&number].file.read_exact_at(&mut body, stored.offset + HEADER_BYTES as u64)?;
            let kind = place.0 | if background { BACKGROUND } else { 0 };
            let (segment, offset) = self.write(&id, kind, &body).map_err(io::Error::other)?;
            let stored = self.index.get_mut(&place).expect("it was there a moment ago");
            (stored.segment, stored.offset) = (segment, offset);
            self.segments.get_mut(&segment).expect("it was just written to").live += 1;
            self.segments.get_mut(&number).expect("it was just read from").live -= 1;
        }
        self.active_file().sync_data()?;
        if number != self.active
            && let Some(segment) = self.segments.remove(&number)
        {
            std::fs::remove_file(&segment.path)?;
        }
        Ok(())
    }
}

/// Lower is sent earlier.
fn rank(priority: Priority) -> u8 {
    match priority {
        Priority::High => 0,
        Priority::Medium => 1,
        Priority::Low => 2,
    }
}

fn priority(rank: u8) -> Priority {
    match rank {
        0 => Priority::High,
        1 => Priority::Medium,
        _ => Priority::Low,
    }
}

fn parse_segment_name(name: &str) -> Option<(u64, [u8; 8])> {
    let (number, mark) = name.strip_suffix(".seg")?.split_once('-')?;
    let mut bytes = [0; 8];
    hex::decode_to_slice(mark, &mut bytes).ok()?;
    Some((u64::from_str_radix(number, 16).ok()?, bytes))
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
