//! Cancellations that people signed, as the ledger remembers them.
//!
//! Stays true: what is remembered is dropped when the order's window lies before the time floor, and never to make room;
//! where no room is left, every order is refused until the last of those that found none is harmless. Nobody but people
//! whose keys this machine knows can fill it. Not here: whose word counts against which order (gate), the file (ledger).

use super::ledger_line::{Line, OrderKey};
use muster_core::{Timestamp, limits};
use muster_trust::ledger::keep_until;
use std::collections::BTreeMap;

/// Cancellations of orders that did not come yet.
pub(super) const RECALLS_MAX: usize = 10_000;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Recalls {
    /// Until when its order may begin, by order and who signed. An empty signer stands for a time when a cancellation
    /// needed no signature.
    kept: BTreeMap<(OrderKey, String), Timestamp>,
    /// No order runs until then: a cancellation found no room.
    full_until: Option<Timestamp>,
}

impl Recalls {
    /// Takes what a line of the ledger says, if it is about cancellations.
    pub(super) fn take(&mut self, line: &Line) {
        match line {
            Line::Recalled { key, signer, until } => {
                let kept = self.kept.entry((*key, signer.clone())).or_insert(*until);
                *kept = (*kept).max(*until);
            }
            Line::RecallsFull { until } => self.full_until = self.full_until.max(Some(*until)),
            Line::Cancelled { at, signed, .. } => {
                // As it was before: unsigned, and by number as well. Numbers are the server's, and mean nothing.
                if let Some(key) = hex::decode(signed).ok().and_then(|bytes| bytes.try_into().ok()) {
                    self.kept.insert((key, String::new()), at.plus(limits::ACTION_WINDOW_MAX));
                }
            }
            _ => {}
        }
    }

    /// Returns the line that a cancellation makes; `None`: it is remembered already.
    pub(super) fn line(&self, key: OrderKey, signer: &str, until: Timestamp) -> Option<Line> {
        let known = self.kept.get(&(key, signer.to_owned()));
        if known.is_some_and(|kept| *kept >= until) {
            return None;
        }
        if known.is_some() || self.kept.len() < RECALLS_MAX {
            return Some(Line::Recalled { key, signer: signer.to_owned(), until });
        }
        (self.full_until < Some(until)).then_some(Line::RecallsFull { until })
    }

    /// Forgets those whose orders could not begin any more under any clock that is believed.
    pub(super) fn forget(&mut self, floor: Timestamp) {
        self.kept.retain(|_, until| keep_until(*until) >= floor);
        self.full_until = self.full_until.filter(|until| keep_until(*until) >= floor);
    }

    /// Returns everything as lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = Line> {
        let kept = self.kept.iter();
        let kept =
            kept.map(|((key, signer), until)| Line::Recalled { key: *key, signer: signer.clone(), until: *until });
        kept.chain(self.full_until.map(|until| Line::RecallsFull { until }))
    }

    /// Returns who called an order back.
    pub(super) fn signers(&self, key: &OrderKey) -> impl Iterator<Item = &str> {
        let from = (*key, String::new());
        let those = self.kept.range(from..).take_while(move |((of, _), _)| of == key);
        those.map(|((_, signer), _)| signer.as_str())
    }

    /// Returns until when no order runs, because a cancellation found no room, if that is still to come at `now`.
    pub(super) fn full_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.full_until.filter(|until| now <= *until)
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
        let line = recalls.line(key(number), signer, until);
        if let Some(line) = &line {
            recalls.take(line);
        }
        line
    }

    #[test]
    fn later_ones_never_push_out_earlier_ones_and_without_room_nothing_runs() {
        let mut recalls = Recalls::default();
        for number in 0..RECALLS_MAX {
            assert!(put(&mut recalls, number, "AB", at(100)).is_some());
        }
        assert_eq!(recalls.full_until(at(0)), None);
        assert_eq!(put(&mut recalls, 0, "AB", at(100)), None, "what is known takes no room");
        assert_eq!(put(&mut recalls, 20_000, "AB", at(300)), Some(Line::RecallsFull { until: at(300) }));
        assert_eq!(put(&mut recalls, 20_001, "AB", at(200)), None, "refused already until then");
        assert_eq!((recalls.full_until(at(300)), recalls.full_until(at(301))), (Some(at(300)), None));
        assert_eq!(recalls.signers(&key(0)).collect::<Vec<_>>(), ["AB"], "the first is there");
        assert_eq!(recalls.signers(&key(20_000)).count(), 0);
        // Not before the danger is over, by the floor.
        recalls.forget(keep_until(at(100)));
        assert_eq!(recalls.kept.len(), RECALLS_MAX);
        recalls.forget(keep_until(at(100)).plus(std::time::Duration::from_secs(1)));
        assert_eq!((recalls.kept.len(), recalls.full_until(at(0))), (0, Some(at(300))));
    }

    #[test]
    fn an_order_is_called_back_by_each_who_signed_that() {
        let mut recalls = Recalls::default();
        put(&mut recalls, 1, "CD", at(100));
        put(&mut recalls, 1, "AB", at(100));
        put(&mut recalls, 2, "EF", at(100));
        assert_eq!(recalls.signers(&key(1)).collect::<Vec<_>>(), ["AB", "CD"]);
        assert_eq!(put(&mut recalls, 1, "AB", at(90)), None);
        assert!(put(&mut recalls, 1, "AB", at(110)).is_some(), "a longer memory is kept");
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
        assert_eq!(recalls.signers(&key(9)).collect::<Vec<_>>(), [""]);
    }
}
