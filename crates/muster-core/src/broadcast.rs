//! Broadcasts: one message for every machine with certain labels, up to a limit.

use crate::{Address, AllocationId, BroadcastId, Label, Payload, Timestamp};

/// How many machines a broadcast may reach. On the wire the highest signed number means all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BroadcastLimit {
    /// At most so many; 0 when it is switched off.
    Machines(u64),
    /// Every machine that matches.
    Unlimited,
}

impl BroadcastLimit {
    /// The wire's number for "no limit": 2^63 - 1.
    pub const UNLIMITED: u64 = i64::MAX as u64;

    /// Reads the wire's number. A number beyond 2^63 - 1 is `None`.
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            Self::UNLIMITED => Some(Self::Unlimited),
            n if n < Self::UNLIMITED => Some(Self::Machines(n)),
            _ => None,
        }
    }

    /// Writes the wire's number.
    pub fn to_number(self) -> u64 {
        match self {
            Self::Machines(n) => n,
            Self::Unlimited => Self::UNLIMITED,
        }
    }
}

/// A message for many machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast {
    /// Which.
    pub id: BroadcastId,
    /// The service that sends it.
    pub source: Address,
    /// The service on the machine; a broadcast names no machine.
    pub destination_service: String,
    /// What the message is.
    pub message_type: String,
    /// Labels that a machine must have, all of them, sorted.
    pub required_labels: Vec<Label>,
    /// When it ends, if ever.
    pub expires: Option<Timestamp>,
    /// The message's body.
    pub payload: Option<Payload>,
    /// A newer broadcast of the same group, source, destination and labels replaces this one. Empty: none does.
    pub group: String,
    /// How many machines it may reach.
    pub limit: BroadcastLimit,
    /// How many it is known to have reached, without the open allocations.
    pub sent: u64,
    /// How many are promised to open allocations.
    pub allocated: u64,
    /// When it was created.
    pub created: Timestamp,
}

/// A server's share of a broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Which; `None` for a broadcast without a limit, which needs no record.
    pub id: Option<AllocationId>,
    /// How many machines it allows.
    pub limit: BroadcastLimit,
    /// When it lapses.
    pub expires: Timestamp,
}

/// Returns how large a new share is: `fraction` of what is neither sent nor promised, at least 1, at most all of it,
/// and 0 when nothing is left.
///
/// The product is cut to a whole number in single precision, as the original's conformance cases have it.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the rule is defined in single precision; the result is clamped to the whole numbers around it"
)]
pub fn share(limit: u64, sent: u64, allocated: u64, fraction: f32) -> u64 {
    let left = limit.saturating_sub(sent.max(allocated));
    ((left as f32 * fraction) as u64).clamp(left.min(1), left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_eight_are_those_of_the_original() {
        assert_eq!(share(8, 0, 0, 0.5), 4);
        assert_eq!(share(8, 0, 4, 0.5), 2);
        assert_eq!(share(8, 0, 6, 0.1), 1);
        assert_eq!(share(8, 0, 7, 2.0), 1);
        assert_eq!(share(8, 0, 8, 2.0), 0);
        assert_eq!(share(8, 9, 0, 1.0), 0);
    }

    #[test]
    fn the_highest_signed_number_means_everybody() {
        assert_eq!(BroadcastLimit::from_number(u64::MAX), None);
        assert_eq!(BroadcastLimit::from_number(i64::MAX as u64), Some(BroadcastLimit::Unlimited));
        assert_eq!(BroadcastLimit::from_number(0), Some(BroadcastLimit::Machines(0)));
    }
}
