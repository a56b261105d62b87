//! Which orders this machine has taken, so that none is taken twice: not after a crash, not when it comes again under
//! another number, not when the clock is set back.
//!
//! One file, one line for each event, each with its checksum. An order is found by the SHA-256 of the text that was
//! signed. It is on the disk before anything of it runs.
//! Stays true: what began is known for ever, or its window ended no later than [`Content::forgotten_until`], and nothing with
//! such an end begins any more, whatever the clock says later. A ledger that was lost, cut or damaged does not count as
//! empty: it refuses every order that was valid before it was made again.
//! Not here: what its lines say together (ledger_content), what an order may do (gate), running it (runner).

pub(crate) use super::ledger_content::Content;
pub(crate) use super::ledger_line::{Order, OrderKey, Origin, Outcome, RefusedOrder};

use super::ledger_content::since;
use super::ledger_line::{Header, Line, write_line};
use super::recalls::{Canceller, Objection};
use crate::durable::{self, Sync};
use muster_core::{Timestamp, limits};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file is written anew without what is forgotten when it is larger than this.
const FILE_BYTES: u64 = 8 * 1024 * 1024;
/// Refusals written in one life: whoever can send an order can be refused, and must not fill the disk.
const REFUSALS_WRITTEN_MAX: usize = 10_000;

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
    /// It may have been taken, or called back, before, and that was forgotten.
    Forgotten,
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
                if content.header.forgotten_until.is_none() && content.header.forgotten > 0 {
                    // An agent of before forgot orders without a word about their ends, which lay before the floor then.
                    content.forgotten_until = content.floor.min(now);
                }
                if whole as u64 > FILE_BYTES {
                    content.forget();
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
                    forgotten_until: Some(Timestamp::EPOCH),
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
        if self.content.may_be_forgotten(order.expire_after) {
            return Ok(Begun::Forgotten);
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
        self.append(Line::Finished { key, outcome })?;
        self.shrink()
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
        self.content.forget_recalls();
        let Some(line) = self.content.recalls.line(key, by, until) else { return Ok(()) };
        self.append(line)?;
        self.sync()?;
        self.shrink()
    }

    /// Raises the floor to `at`, if it lies below. It is on the disk when this returns.
    pub(crate) fn raise_floor(&mut self, at: Timestamp) -> io::Result<()> {
        if at <= self.content.floor {
            return Ok(());
        }
        self.append(Line::Floor { at })?;
        self.sync()?;
        self.shrink()
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
    /// tells everything, are moved back to it where they lie after it. What was forgotten stays refused. Only the machine's
    /// owner and its administrators may ask for that.
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
    fn shrink(&mut self) -> io::Result<()> {
        if self.bytes <= self.shrink_at {
            return Ok(());
        }
        self.rewrite(Content::forget)
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
