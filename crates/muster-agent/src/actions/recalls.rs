//! Cancellations that people signed, as the ledger remembers them.
//!
//! Stays true: what is remembered is dropped when the order's window lies before the time floor, and never to make room.
//! Each signer has room for so many; where that is full, this signer's orders are refused, and nobody else's, until the last
//! of those that found no room is harmless. Not here: whose word counts against which order (gate), the file (ledger).

use super::ledger_line::{Line, OrderKey};
use muster_core::{Timestamp, limits};
use muster_trust::ledger::keep_until;
use std::collections::BTreeMap;

/// Cancellations remembered of all signers together: as many as all keys of a keyring may leave here. Only keyrings that
/// followed each other could leave more, and then each further signer has no room.
pub(super) const RECALLS_MAX: usize = limits::KEYRING_KEYS_MAX * limits::CANCELS_PER_SIGNER_MAX;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Recalls {
    /// By order and who signed. An empty signer stands for a time when a cancellation needed no signature.
    kept: BTreeMap<(OrderKey, String), Kept>,
    /// How many of them each signer has.
    counts: BTreeMap<String, usize>,
    /// Until when what these signers may call back does not run: a cancellation of theirs found no room. An empty one stands
    /// for a time when it was not written down whose it was.
    full: BTreeMap<String, Timestamp>,
}

/// A cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    /// Until when its order may begin.
    until: Timestamp,
    /// The greatest weight that its signer had.
    weight: u32,
}

/// Who calls an order back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Canceller<'a> {
    /// Fingerprint.
    pub(crate) signer: &'a str,
    /// The greatest weight that this key has here for any module.
    pub(crate) weight: u32,
}

/// Something remembered that speaks against an order, if its signer may call that order back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Objection {
    /// Who: a fingerprint, or nothing for a time when that was not written down.
    pub(crate) signer: String,
    /// What.
    pub(crate) what: Objects,
}

/// What speaks against an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Objects {
    /// The order was called back.
    Recalled {
        /// The greatest weight that the signer had then, 0 where that is not known.
        had: u32,
    },
    /// It may have been called back: a cancellation of this signer found no room.
    NoRoom {
        /// Until when.
        until: Timestamp,
    },
}

impl Recalls {
    /// Takes what a line of the ledger says, if it is about cancellations.
    pub(super) fn take(&mut self, line: &Line) {
        match line {
            Line::Recalled { key, signer, until, weight } => self.keep(*key, signer, *until, *weight),
            Line::RecallsFull { until, signer } => {
                let full = self.full.entry(signer.clone()).or_insert(*until);
                *full = (*full).max(*until);
            }
            Line::Cancelled { at, signed, .. } => {
                // As it was before: unsigned, and by number as well. Numbers are the server's, and mean nothing.
                if let Some(key) = hex::decode(signed).ok().and_then(|bytes| bytes.try_into().ok()) {
                    self.keep(key, "", at.plus(limits::ACTION_WINDOW_MAX), 0);
                }
            }
            _ => {}
        }
    }

    fn keep(&mut self, key: OrderKey, signer: &str, until: Timestamp, weight: u32) {
        if let Some(kept) = self.kept.get_mut(&(key, signer.to_owned())) {
            *kept = Kept { until: kept.until.max(until), weight: kept.weight.max(weight) };
            return;
        }
        self.kept.insert((key, signer.to_owned()), Kept { until, weight });
        *self.counts.entry(signer.to_owned()).or_default() += 1;
    }

    /// Returns the line that a cancellation makes; `None`: it is remembered already.
    pub(super) fn line(&self, key: OrderKey, by: Canceller<'_>, until: Timestamp) -> Option<Line> {
        let Canceller { signer, weight } = by;
        let known = self.kept.get(&(key, signer.to_owned()));
        if known.is_some_and(|kept| kept.until >= until && kept.weight >= weight) {
            return None;
        }
        let has_room = self.counts.get(signer).copied().unwrap_or_default() < limits::CANCELS_PER_SIGNER_MAX
            && self.kept.len() < RECALLS_MAX;
        if known.is_some() || has_room {
            return Some(Line::Recalled { key, signer: signer.to_owned(), until, weight });
        }
        (self.full.get(signer) < Some(&until)).then(|| Line::RecallsFull { until, signer: signer.to_owned() })
    }

    /// Forgets those whose orders could not begin any more under any clock that is believed. Returns the latest end of what
    /// is forgotten.
    pub(super) fn forget(&mut self, floor: Timestamp) -> Option<Timestamp> {
        let (counts, mut latest) = (&mut self.counts, None);
        let mut stays = |until: Timestamp| {
            let stays = keep_until(until) >= floor;
            if !stays {
                latest = latest.max(Some(until));
            }
            stays
        };
        self.kept.retain(|(_, signer), kept| {
            let stays = stays(kept.until);
            if !stays && let Some(count) = counts.get_mut(signer) {
                *count -= 1;
            }
            stays
        });
        counts.retain(|_, count| *count > 0);
        self.full.retain(|_, until| stays(*until));
        latest
    }

    /// Lets nothing of which it is not known whose it is keep orders from running for longer than until `until`. Says
    /// whether that changed anything.
    pub(super) fn cap_unsigned(&mut self, until: Timestamp) -> bool {
        let unsigned = self.full.get_mut("").filter(|full| **full > until);
        unsigned.map(|full| *full = until).is_some()
    }

    /// Returns everything as lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = Line> {
        let kept = self.kept.iter().map(|((key, signer), kept)| {
            let Kept { until, weight } = *kept;
            Line::Recalled { key: *key, signer: signer.clone(), until, weight }
        });
        let full = self.full.iter();
        kept.chain(full.map(|(signer, until)| Line::RecallsFull { until: *until, signer: signer.clone() }))
    }

    /// Returns all that speaks at `now` against the order, if its signer may call that order back.
    pub(super) fn objections(&self, key: &OrderKey, now: Timestamp) -> impl Iterator<Item = Objection> {
        let from = (*key, String::new());
        let those = self.kept.range(from..).take_while(move |((of, _), _)| of == key);
        let recalled = those.map(|((_, signer), kept)| Objection {
            signer: signer.clone(),
            what: Objects::Recalled { had: kept.weight },
        });
        let full = self.full(now);
        recalled.chain(full.map(|(signer, until)| Objection { signer: signer.into(), what: Objects::NoRoom { until } }))
    }

    /// Returns whose orders do not run at `now`, and until when, because a cancellation found no room.
    pub(super) fn full(&self, now: Timestamp) -> impl Iterator<Item = (&str, Timestamp)> {
        let full = self.full.iter().map(|(signer, until)| (signer.as_str(), *until));
        full.filter(move |(_, until)| now <= *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + seconds)
    }

    fn key(number: usize) -> OrderKey {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        key
    }

    fn put(recalls: &mut Recalls, number: usize, signer: &str, until: Timestamp) -> Option<Line> {
        let line = recalls.line(key(number), Canceller { signer, weight: 1 }, until);
        if let Some(line) = &line {
            recalls.take(line);
        }
        line
    }

    fn signers(recalls: &Recalls, number: usize, now: Timestamp) -> Vec<(String, bool)> {
        let is_full = |what| matches!(what, Objects::NoRoom { .. });
        recalls.objections(&key(number), now).map(|one| (one.signer, is_full(one.what))).collect()
    }

    #[test]
    fn later_ones_never_push_out_earlier_ones_and_a_full_signer_stops_its_own_orders_alone() {
        const MAX: usize = limits::CANCELS_PER_SIGNER_MAX;
        let mut recalls = Recalls::default();
        for number in 0..MAX {
            assert!(put(&mut recalls, number, "AB", at(100)).is_some());
        }
        assert_eq!(recalls.full(at(0)).count(), 0);
        assert_eq!(put(&mut recalls, 0, "AB", at(100)), None, "what is known takes no room");
        let full = |seconds| Some(Line::RecallsFull { until: at(seconds), signer: "AB".into() });
        assert_eq!(put(&mut recalls, 20_000, "AB", at(300)), full(300));
        assert_eq!(put(&mut recalls, 20_001, "AB", at(200)), None, "refused already until then");
        assert_eq!(recalls.full(at(300)).collect::<Vec<_>>(), [("AB", at(300))]);
        assert_eq!(recalls.full(at(301)).count(), 0);
        assert_eq!(signers(&recalls, 0, at(301)), [("AB".into(), false)], "the first is there");
        assert_eq!(signers(&recalls, 20_000, at(300)), [("AB".into(), true)]);
        // Somebody else has room as before.
        assert!(matches!(put(&mut recalls, 20_000, "CD", at(300)), Some(Line::Recalled { .. })));
        // Not before the danger is over, by the floor.
        assert_eq!(recalls.forget(keep_until(at(100))), None);
        assert_eq!(recalls.kept.len(), MAX + 1);
        assert_eq!(recalls.forget(keep_until(at(100)).plus(std::time::Duration::from_secs(1))), Some(at(100)));
        assert_eq!((recalls.kept.len(), recalls.full(at(0)).count()), (1, 1));
        // What is forgotten gives its room back.
        assert!(matches!(put(&mut recalls, 1, "AB", at(400)), Some(Line::Recalled { .. })));
    }

    #[test]
    fn an_order_is_called_back_by_each_who_signed_that() {
        let mut recalls = Recalls::default();
        put(&mut recalls, 1, "CD", at(100));
        put(&mut recalls, 1, "AB", at(100));
        put(&mut recalls, 2, "EF", at(100));
        assert_eq!(signers(&recalls, 1, at(0)), [("AB".into(), false), ("CD".into(), false)]);
        assert_eq!(put(&mut recalls, 1, "AB", at(90)), None);
        assert!(put(&mut recalls, 1, "AB", at(110)).is_some(), "a longer memory is kept");
        assert!(recalls.line(key(1), Canceller { signer: "AB", weight: 2 }, at(90)).is_some(), "so is more weight");
        recalls.take(&Line::RecallsFull { until: at(7), signer: "EF".into() });
        let mut again = Recalls::default();
        recalls.lines().for_each(|line| again.take(&line));
        assert_eq!(again, recalls);
    }

    #[test]
    fn numbers_of_before_mean_nothing_and_texts_of_before_are_kept() {
        let mut recalls = Recalls::default();
        recalls.take(&Line::Cancelled { at: at(0), action_id: 7, signed: String::new() });
        assert_eq!(recalls, Recalls::default());
        recalls.take(&Line::Cancelled { at: at(0), action_id: 7, signed: hex::encode(key(9)) });
        assert_eq!(signers(&recalls, 9, at(0)), [(String::new(), false)]);
    }

    #[test]
    fn what_filled_a_ledger_of_before_ends_soon() {
        let mut recalls = Recalls::default();
        recalls.take(&Line::RecallsFull { until: at(9000), signer: String::new() });
        assert!(recalls.cap_unsigned(at(100)) && !recalls.cap_unsigned(at(200)));
        assert_eq!(recalls.full(at(0)).collect::<Vec<_>>(), [("", at(100))]);
    }
}
