//! Files that agents fetch: rows, never paths.

use crate::Timestamp;

/// What is known of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// The service it belongs to.
    pub service: String,
    /// Its name there. Any text without control characters; it never becomes a path.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole.
    pub sha256: [u8; 32],
    /// When it was put.
    pub modified: Timestamp,
    /// Names the stored content; a file that is put again has another one, so a download in progress keeps the old.
    pub content: i64,
}
