//! Which orders this machine has taken, so that none is taken twice: not after a crash, not when it comes again under
//! another number, not when the clock is set back.
//!
//! One file, one line for each event, each with its checksum. An order is found by the SHA-256 of the text that was
//! signed. It is on the disk before anything of it runs.
//! Stays true: what began is known for ever, or its end lies before the time floor; the floor only rises. A ledger that
//! was lost, cut or damaged does not count as empty: it refuses every order that was valid before it was made anew.
//! Not here: what an order may do (gate), running it (runner).

pub(crate) use super::ledger_line::{Order, OrderKey, Origin, Outcome, RefusedOrder};

use super::ledger_line::{Header, Line, read_line, write_line};
use super::recalls::{Canceller, Objection, Recalls};
use crate::durable::{self, Sync};
use muster_core::{Timestamp, limits};
use muster_trust::ledger::keep_until;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Orders remembered longer than that, for the machine's owner.
const ORDERS_KEPT: usize = 1000;
/// Refusals remembered.
const REFUSALS_KEPT: usize = 200;
/// The file is written anew without what is forgotten when it is larger than this.
const FILE_BYTES: u64 = 8 * 1024 * 1024;
const SECOND: Duration = Duration::from_secs(1);
/// Refusals written in one life: whoever can send an order can be refused, and must not fill the disk.
const REFUSALS_WRITTEN_MAX: usize = 10_000;

/// Everything that is in the file.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    header: Header,
    orders: BTreeMap<u64, Order>,
    by_key: HashMap<OrderKey, u64>,
    next: u64,
    refused: VecDeque<RefusedOrder>,
    recalls: Recalls,
    head: [u8; 32],
    floor: Timestamp,
    /// Bytes of the first line as it was read, with its end.
    header_bytes: usize,
}

/// The ledger.
#[derive(Debug)]
pub(crate) struct OrderLedger {
    path: PathBuf,
    /// `None` after the file was replaced: it is opened again by its name.
    file: Option<File>,
    /// Bytes of whole lines in the file.
    bytes: u64,
    /// A failed write may have left half a line behind them.
    is_torn: bool,
    /// The file is written anew when it is larger than this.
    shrink_at: u64,
    refusals_written: usize,
    content: Content,
}

/// What came of beginning an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It is taken now.
    Now,
    /// It was taken before.
    Before,
    /// It was called back before it came, or may have been.
    CalledBack(Objection),
}

/// Why there is no usable ledger.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// The disk.
    #[error("cannot use the ledger of orders {}", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Content {
    fn new(header: Header) -> Self {
        let (head, floor) = (header.head, header.floor);
        Self {
            header,
            orders: BTreeMap::new(),
            by_key: HashMap::new(),
            next: 0,
            refused: VecDeque::new(),
            recalls: Recalls::default(),
            head,
            floor,
            header_bytes: 0,
        }
    }

    /// Reads the file. `None` when it is damaged or was cut; what was written last, and not yet
    /// promised, may be torn by a crash and does not count.
    /// Returns the bytes that are whole lines, too.
    fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
        let mut lines = bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(read_line);
        let Some(Some(Line::Header(header))) = lines.next() else { return None };
        if (whole as u64) < header.promised {
            return None;
        }
        let mut content = Self::new(header);
        content.header_bytes = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |place| place + 1);
        for line in lines {
            content.take(line?);
        }
        Some((content, whole))
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::Header(_) => {}
            Line::Begun(order) => {
                self.head = chained(self.head, &order.key);
                self.floor = self.floor.max(order.floor);
                self.by_key.insert(order.key, self.next);
                self.orders.insert(self.next, order);
                self.next += 1;
            }
            Line::Finished { key, outcome } => {
                if let Some(order) = self.by_key.get(&key).and_then(|number| self.orders.get_mut(number)) {
                    order.outcome = Some(outcome);
                }
            }
            Line::Refused(refused) => {
                self.refused.push_back(refused);
                if self.refused.len() > REFUSALS_KEPT {
                    self.refused.pop_front();
                }
            }
            Line::Floor { at } => self.floor = self.floor.max(at),
            line @ (Line::Recalled { .. } | Line::RecallsFull { .. } | Line::Cancelled { .. }) => {
                self.recalls.take(&line);
            }
        }
    }

    /// Forgets orders whose end is long over and that nobody needs to see. Forgetting raises the floor past their end,
    /// at which they still count as valid, so that they stay refused.
    fn forget(&mut self, now: Timestamp) {
        while self.orders.len() > ORDERS_KEPT
            && let Some(oldest) = self.orders.first_entry()
            && oldest.get().outcome.is_some()
            && keep_until(oldest.get().expire_after) < now
        {
            let order = oldest.remove();
            self.by_key.remove(&order.key);
            self.floor = self.floor.max(order.expire_after.plus(SECOND));
            self.header.head = chained(self.header.head, &order.key);
            self.header.forgotten += 1;
        }
        self.recalls.forget(self.floor);
    }

    /// Writes everything as a new file.
    fn write(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        for line in self.recalls.lines() {
            rest.extend(write_line(&line));
        }
        for refused in &self.refused {
            rest.extend(write_line(&Line::Refused(refused.clone())));
        }
        for order in self.orders.values() {
            rest.extend(write_line(&Line::Begun(order.clone())));
        }
        self.header.floor = self.floor;
        let head = self.first_line(0).len();
        let mut bytes = self.first_line((head + rest.len()) as u64);
        bytes.extend(rest);
        bytes
    }

    /// Whether the first line is as long as it was when it was read.
    fn keeps_its_place(&mut self) -> bool {
        let promised = self.header.promised;
        self.first_line(promised).len() == self.header_bytes
    }

    /// Returns the first line, which is as long whatever was promised.
    fn first_line(&mut self, promised: u64) -> Vec<u8> {
        self.header.promised = promised;
        write_line(&Line::Header(self.header.clone()))
    }

    /// Orders, oldest first.
    pub(crate) fn orders(&self) -> impl DoubleEndedIterator<Item = &Order> {
        self.orders.values()
    }

    /// Refusals, oldest first.
    pub(crate) fn refused(&self) -> impl DoubleEndedIterator<Item = &RefusedOrder> {
        self.refused.iter()
    }

    /// The time before which no clock is believed; 1970 when there is none yet.
    pub(crate) fn floor(&self) -> Timestamp {
        self.floor
    }

    /// Since when there is this ledger, and why.
    pub(crate) fn since(&self) -> (Timestamp, Origin) {
        (self.header.since, self.header.origin)
    }

    /// How many orders there were ever, and a hash over them.
    pub(crate) fn head(&self) -> (u64, [u8; 32]) {
        (self.header.forgotten + self.orders.len() as u64, self.head)
    }

    /// Returns all cancellations that speak at `now` against an order, if those who signed them may call it back.
    pub(crate) fn objections(&self, key: &OrderKey, now: Timestamp) -> impl Iterator<Item = Objection> {
        self.recalls.objections(key, now)
    }

    /// Returns whose orders do not run at `now`, and until when, because a cancellation found no room: fingerprints, or
    /// nothing for a time when that was not written down.
    pub(crate) fn without_room(&self, now: Timestamp) -> impl Iterator<Item = (&str, Timestamp)> {
        self.recalls.full(now)
    }

    /// Whether a server was ever reached since this ledger began.
    pub(crate) fn was_in_contact(&self) -> bool {
        self.header.in_contact
    }

    /// Begins to remember at `at`, if the clock was ahead of it when the ledger was made.
    fn begin_at(&mut self, at: Timestamp) {
        let since = since(at, self.header.origin);
        self.header.since = self.header.since.min(since);
    }

    /// Returns the order with this key.
    pub(crate) fn order(&self, key: &OrderKey) -> Option<&Order> {
        self.orders.get(self.by_key.get(key)?)
    }
}

/// Reads a ledger without using it. `None` when there is none yet or it is damaged.
pub(crate) fn look(path: &Path) -> io::Result<Option<Content>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Content::read(&bytes).map(|(content, _)| content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl OrderLedger {
    /// Opens the ledger at `path`. `known_before`: whether this machine had an identity before this start.
    pub(crate) fn open(path: &Path, known_before: bool, now: Timestamp) -> Result<Self, LedgerError> {
        let disk = |source| LedgerError::Disk { path: path.into(), source };
        let found = match std::fs::read(path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(disk(error)),
        };
        let content = match found.as_deref().map(Content::read) {
            Some(Some((mut content, whole))) => {
                let bytes = found.map_or(0, |bytes| bytes.len());
                if bytes > whole {
                    // A crash tore the last line: nothing of it had begun.
                    File::options().write(true).open(path).and_then(|file| file.set_len(whole as u64)).map_err(disk)?;
                }
                // The first line is written again in its place: one of an earlier form is shorter, and has no room for that.
                let latest = now.max(content.floor).plus(limits::CANCEL_AHEAD_MAX);
                let is_of_before = content.recalls.cap_unsigned(latest) | !content.keeps_its_place();
                if whole as u64 > FILE_BYTES {
                    content.forget(now);
                }
                if is_of_before || whole as u64 > FILE_BYTES {
                    durable::replace(path, &content.write(), Sync::Power).map_err(disk)?;
                }
                content
            }
            damaged_or_missing => {
                if damaged_or_missing.is_some() {
                    let aside = path.with_extension("damaged");
                    tracing::error!(
                        kept = %aside.display(),
                        "the ledger of orders is damaged; orders that were valid before now are refused"
                    );
                    durable::rename(path, &aside).map_err(disk)?;
                }
                let origin = if known_before || damaged_or_missing.is_some() { Origin::Lost } else { Origin::New };
                let (floor, since) = (Timestamp::EPOCH, since(now, origin));
                let header = Header {
                    version: 1,
                    since,
                    origin,
                    floor,
                    forgotten: 0,
                    head: [0; 32],
                    promised: 0,
                    in_contact: false,
                };
                let mut content = Content::new(header);
                durable::replace(path, &content.write(), Sync::Power).map_err(disk)?;
                content
            }
        };
        let file = OpenOptions::new().append(true).mode(0o600).open(path).map_err(disk)?;
        let bytes = file.metadata().map_err(disk)?.len();
        let shrink_at = FILE_BYTES.max(2 * bytes);
        let file = Some(file);
        Ok(Self { path: path.into(), file, bytes, is_torn: false, shrink_at, refusals_written: 0, content })
    }

    /// Raises the floor to what certificates and this program vouch for.
    pub(crate) fn vouched(mut self, at: Timestamp) -> Result<Self, LedgerError> {
        self.raise_floor(at).map_err(|source| LedgerError::Disk { path: self.path.clone(), source })?;
        Ok(self)
    }

    /// What is in it.
    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    /// Takes an order: when this returns [`Begun::Now`] it is on the disk, and nobody else took it.
    /// `counts` says whether what is remembered of cancellations counts against it: all of it is asked in this one step,
    /// so that none comes in between.
    pub(crate) fn begin(
        &mut self,
        order: Order,
        now: Timestamp,
        counts: &dyn Fn(&Objection) -> bool,
    ) -> io::Result<Begun> {
        if self.content.order(&order.key).is_some() {
            return Ok(Begun::Before);
        }
        if let Some(objection) = self.content.objections(&order.key, now).find(counts) {
            return Ok(Begun::CalledBack(objection));
        }
        self.append(Line::Begun(order))?;
        self.sync()?;
        Ok(Begun::Now)
    }

    /// Writes what came of an order.
    pub(crate) fn finish(&mut self, key: OrderKey, outcome: Outcome) -> io::Result<()> {
        let at = outcome.at;
        self.append(Line::Finished { key, outcome })?;
        self.shrink(at)
    }

    /// Writes that an order was refused. It need not survive a loss of power.
    pub(crate) fn refuse(&mut self, refused: RefusedOrder) -> io::Result<()> {
        if self.refusals_written >= REFUSALS_WRITTEN_MAX {
            self.content.take(Line::Refused(refused));
            return Ok(());
        }
        self.refusals_written += 1;
        self.append(Line::Refused(refused))
    }

    /// Writes that somebody called an order back, which may begin until `until`. It is on the disk when this returns; where
    /// the signer has no room for it, nothing that this signer may call back runs until then.
    pub(crate) fn recall(&mut self, key: OrderKey, by: Canceller<'_>, until: Timestamp) -> io::Result<()> {
        self.content.recalls.forget(self.content.floor);
        let Some(line) = self.content.recalls.line(key, by, until) else { return Ok(()) };
        self.append(line)?;
        self.sync()?;
        self.shrink(self.content.floor)
    }

    /// Raises the floor to `at`, if it lies below. It is on the disk when this returns.
    pub(crate) fn raise_floor(&mut self, at: Timestamp) -> io::Result<()> {
        if at <= self.content.floor {
            return Ok(());
        }
        self.append(Line::Floor { at })?;
        self.sync()?;
        self.shrink(at)
    }

    /// Notes that a server was `reached` for the first time: by its certificate the clock could be believed then, and a later
    /// moment at which this ledger was made cannot.
    pub(crate) fn first_contact(&mut self, reached: Timestamp) -> io::Result<()> {
        self.rewrite(|content| {
            content.header.in_contact = true;
            // What has run was told of: its ledger does not begin anew.
            if content.orders.is_empty() && content.header.origin == Origin::New {
                content.begin_at(reached);
            }
        })
    }

    /// Believes the clock as it is `now`, whatever was seen of it before: the floor, and the moment since when this ledger
    /// tells everything, are moved back to it where they lie after it. Only the machine's owner and its administrators may
    /// ask for that.
    pub(crate) fn reset_clock(&mut self, now: Timestamp) -> io::Result<()> {
        self.rewrite(|content| {
            content.floor = content.floor.min(now);
            for order in content.orders.values_mut() {
                order.floor = order.floor.min(now);
            }
            let since = since(now, Origin::Lost);
            content.header.since = content.header.since.min(since);
        })
    }

    /// Changes what is in the file, all of it or nothing.
    fn rewrite(&mut self, change: impl FnOnce(&mut Content)) -> io::Result<()> {
        // On a copy: should the disk fail, the first line in memory must stay the one that is in the file.
        let mut content = self.content.clone();
        change(&mut content);
        let bytes = content.write();
        // Whether the file is replaced or not, what is written next goes to the one that has the name.
        self.file = None;
        durable::replace(&self.path, &bytes, Sync::Power)?;
        self.content = content;
        (self.bytes, self.is_torn) = (bytes.len() as u64, false);
        // Should all of it be needed, the next time is when it has doubled.
        self.shrink_at = FILE_BYTES.max(2 * self.bytes);
        Ok(())
    }

    fn append(&mut self, line: Line) -> io::Result<()> {
        let bytes = write_line(&line);
        let (whole, is_torn) = (self.bytes, self.is_torn);
        let file = self.file()?;
        if is_torn {
            // Half a line would damage what follows.
            file.set_len(whole)?;
        }
        let written = file.write_all(&bytes);
        self.is_torn = written.is_err();
        written?;
        self.bytes += bytes.len() as u64;
        self.content.take(line);
        Ok(())
    }

    /// Waits until the disk has what was written, and the first line says so. Whoever finds fewer bytes than were promised
    /// knows that they were cut off. (A loss of power before this returns may look so, too; nothing had begun then, and
    /// refusing is safe.)
    fn sync(&mut self) -> io::Result<()> {
        let first = self.content.first_line(self.bytes);
        OpenOptions::new().write(true).open(&self.path)?.write_all_at(&first, 0)?;
        self.file()?.sync_data()
    }

    fn file(&mut self) -> io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new().append(true).open(&self.path)?,
        };
        Ok(self.file.insert(file))
    }

    /// Writes the file anew without what is forgotten, once it has grown enough.
    fn shrink(&mut self, now: Timestamp) -> io::Result<()> {
        if self.bytes <= self.shrink_at {
            return Ok(());
        }
        self.rewrite(|content| content.forget(now))
    }
}

/// Returns since when a ledger that is made now tells everything. An order says from when it is valid in whole seconds.
fn since(now: Timestamp, origin: Origin) -> Timestamp {
    let (seconds, nanoseconds) = now.to_parts();
    let second = Timestamp::from_secs(seconds);
    match origin {
        // What was valid from the present second on may have run in its first half, before the ledger was lost.
        Origin::Lost if nanoseconds > 0 => second.plus(SECOND),
        // A machine that had no identity has not run anything in this second either: setting it up takes longer.
        Origin::Lost | Origin::New => second,
    }
}

fn chained(head: [u8; 32], key: &OrderKey) -> [u8; 32] {
    Sha256::new().chain_update(head).chain_update(key).finalize().into()
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
