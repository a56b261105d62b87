//! What an agent has run: the name of an order there, how long it is kept, and what a gap in memory means.
//!
//! An order is named by what was signed and by nothing else: another id, another order of signatures or another
//! description does not make it another one. Not here: the file (muster-agent).

use muster_core::{Timestamp, limits};
use sha2::{Digest, Sha256};
use std::fmt;

/// The name of an order: SHA-256 of its signed text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerKey([u8; 32]);

impl LedgerKey {
    /// Returns the name of the order whose signed text this is.
    pub fn of(signed_text: &str) -> Self {
        Self(Sha256::digest(signed_text.as_bytes()).into())
    }

    /// Returns the bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for LedgerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for LedgerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LedgerKey({self})")
    }
}

/// What the ledger says of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It was not taken up since `since`, when this ledger began; `None` when the ledger reaches back to where nothing
    /// can have run, because the machine itself is that new. An order that was valid before the ledger began may have run
    /// before it, and is refused.
    Never {
        /// When the ledger began.
        since: Option<Timestamp>,
    },
    /// It was taken up, and may or may not have come to an end.
    Started,
    /// It came to an end, whatever that was.
    Finished,
    /// It was called back before it ran.
    Cancelled,
    /// The ledger cannot be read.
    Unreadable,
}

/// Returns until when an order must be remembered: long enough past its window that a clock set back within what the
/// time floor allows cannot bring it to life again.
pub fn keep_until(expire_after: Timestamp) -> Timestamp {
    expire_after.plus(limits::LEDGER_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_named_by_the_hash_of_its_text() {
        let key = LedgerKey::of("abc");
        assert_eq!(key.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(format!("{key:?}"), format!("LedgerKey({key})"));
        assert_eq!(hex::encode(key.as_bytes()), key.to_string());
        assert_ne!(key, LedgerKey::of("abd"));
    }

    #[test]
    fn an_order_is_remembered_for_eight_days_beyond_its_window() {
        assert_eq!(keep_until(Timestamp::from_secs(1000)), Timestamp::from_secs(1000 + 8 * 86_400));
    }
}
