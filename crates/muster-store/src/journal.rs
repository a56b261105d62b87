//! The journal's chain: each line holds the SHA-256 of the line before and of itself, so that a line that was changed,
//! removed or moved shows.

use crate::StoreError;
use async_trait::async_trait;

/// Where verifying goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalPoint {
    /// The number of the last line that was verified.
    pub number: i64,
    /// Its hash.
    pub hash: Vec<u8>,
}

/// A line that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalFault {
    /// The number of the line, or of the line that is missing.
    pub number: i64,
    /// What is wrong with it.
    pub what: String,
}

/// What verifying a page of the journal found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalVerified {
    /// Lines that were verified.
    pub lines: u64,
    /// Lines from before there was a chain; only told with the first page.
    pub unchained: u64,
    /// The first fault. Nothing behind it was verified.
    pub fault: Option<JournalFault>,
    /// Where to go on; `None` at the end.
    pub next: Option<JournalPoint>,
    /// The end of the chain as the database has it. Kept elsewhere, it shows later whether the whole was replaced.
    pub head: JournalPoint,
}

/// The journal's chain.
#[async_trait]
pub trait JournalStore: Send + Sync {
    /// Verifies up to `limit` lines of the journal after `after`; from its beginning without it.
    async fn journal_verify(&self, after: Option<JournalPoint>, limit: u32) -> Result<JournalVerified, StoreError>;
}
