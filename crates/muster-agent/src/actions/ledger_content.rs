//! What the ledger of orders says, line after line, and what is forgotten of it.
//!
//! Stays true: only what lies before the time floor is forgotten, and what ended no later than the latest of that never
//! counts as new, whatever becomes of the floor. Not here: the file (ledger), the lines (ledger_line).

use super::ledger_line::{Header, Line, Order, OrderKey, Origin, RefusedOrder, read_line, write_line};
use super::recalls::{Objection, Recalls};
use muster_core::Timestamp;
use muster_trust::ledger::keep_until;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// Orders remembered longer than that, for the machine's owner.
pub(super) const ORDERS_KEPT: usize = 1000;
/// Refusals remembered.
pub(super) const REFUSALS_KEPT: usize = 200;
const SECOND: Duration = Duration::from_secs(1);

/// Everything that is in the file.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(super) header: Header,
    pub(super) orders: BTreeMap<u64, Order>,
    pub(super) by_key: HashMap<OrderKey, u64>,
    pub(super) next: u64,
    pub(super) refused: VecDeque<RefusedOrder>,
    pub(super) recalls: Recalls,
    pub(super) head: [u8; 32],
    pub(super) floor: Timestamp,
    /// The latest end of what was forgotten. It only rises: unlike the floor, no word about the clock lowers it.
    pub(super) forgotten_until: Timestamp,
    /// Bytes of the first line as it was read, with its end.
    pub(super) header_bytes: usize,
}

impl Content {
    pub(super) fn new(header: Header) -> Self {
        let (head, floor) = (header.head, header.floor);
        let forgotten_until = header.forgotten_until.unwrap_or(Timestamp::EPOCH);
        Self {
            header,
            orders: BTreeMap::new(),
            by_key: HashMap::new(),
            next: 0,
            refused: VecDeque::new(),
            recalls: Recalls::default(),
            head,
            floor,
            forgotten_until,
            header_bytes: 0,
        }
    }

    /// Reads the file. `None` when it is damaged or was cut; what was written last, and not yet
    /// promised, may be torn by a crash and does not count.
    /// Returns the bytes that are whole lines, too.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, usize)> {
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

    pub(super) fn take(&mut self, line: Line) {
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

    /// Forgets orders and cancellations whose end lies long before the floor, and orders that nobody needs to see. Their end
    /// is kept: what ends no later stays refused.
    pub(super) fn forget(&mut self) {
        while self.orders.len() > ORDERS_KEPT
            && let Some(oldest) = self.orders.first_entry()
            && oldest.get().outcome.is_some()
            && keep_until(oldest.get().expire_after) < self.floor
        {
            let order = oldest.remove();
            self.by_key.remove(&order.key);
            self.forgotten_until = self.forgotten_until.max(order.expire_after);
            self.header.head = chained(self.header.head, &order.key);
            self.header.forgotten += 1;
        }
        self.forget_recalls();
    }

    pub(super) fn forget_recalls(&mut self) {
        let latest = self.recalls.forget(self.floor).unwrap_or(Timestamp::EPOCH);
        self.forgotten_until = self.forgotten_until.max(latest);
    }

    /// Whether an order whose window ends at `expire_after` may be one that was run, or called back, and forgotten. What
    /// people sign are whole seconds.
    pub(crate) fn may_be_forgotten(&self, expire_after: Timestamp) -> bool {
        expire_after.to_parts().0 <= self.forgotten_until.to_parts().0
    }

    /// The latest end of what was forgotten; 1970 when nothing was.
    pub(crate) fn forgotten_until(&self) -> Timestamp {
        self.forgotten_until
    }

    /// Writes everything as a new file.
    pub(super) fn write(&mut self) -> Vec<u8> {
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
        self.header.forgotten_until = Some(self.forgotten_until);
        let head = self.first_line(0).len();
        let mut bytes = self.first_line((head + rest.len()) as u64);
        bytes.extend(rest);
        bytes
    }

    /// Whether the first line is as long as it was when it was read.
    pub(super) fn keeps_its_place(&mut self) -> bool {
        let promised = self.header.promised;
        self.first_line(promised).len() == self.header_bytes
    }

    /// Returns the first line, which is as long whatever was promised.
    pub(super) fn first_line(&mut self, promised: u64) -> Vec<u8> {
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
    pub(super) fn begin_at(&mut self, at: Timestamp) {
        let since = since(at, self.header.origin);
        self.header.since = self.header.since.min(since);
    }

    /// Returns the order with this key.
    pub(crate) fn order(&self, key: &OrderKey) -> Option<&Order> {
        self.orders.get(self.by_key.get(key)?)
    }
}

/// Returns since when a ledger that is made now tells everything. An order says from when it is valid in whole seconds.
pub(super) fn since(now: Timestamp, origin: Origin) -> Timestamp {
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
