//! Files of any size, in pieces.

use crate::StoreError;
use async_trait::async_trait;
use bytes::Bytes;
use muster_core::file::FileInfo;
use muster_core::{Cause, Timestamp};

/// What the store knows of files.
///
/// A file is put in pieces under a number of its own, and appears under its name all at once with the last step. What
/// was replaced or never finished is deleted by retention, an hour after.
#[async_trait]
pub trait FileStore: Send + Sync {
    /// Starts a new content and returns its number.
    async fn file_begin(&self, now: Timestamp) -> Result<i64, StoreError>;

    /// Adds piece `index` (0, 1, …), at most [`muster_core::limits::FILE_CHUNK_BYTES`]; all but the last are that long.
    async fn file_chunk_put(&self, content: i64, index: u32, bytes: Bytes) -> Result<(), StoreError>;

    /// Makes the content the file of its name, replacing an older one.
    async fn file_finish(&self, info: FileInfo, cause: &Cause) -> Result<(), StoreError>;

    /// Returns what is known of a file.
    async fn file_get(&self, service: &str, name: &str) -> Result<Option<FileInfo>, StoreError>;

    /// Returns piece `index` of a content; `None` when there is none.
    async fn file_chunk_get(&self, content: i64, index: u32) -> Result<Option<Bytes>, StoreError>;

    /// Deletes a file. `false`: there was none, which is no error.
    async fn file_delete(&self, service: &str, name: &str, now: Timestamp, cause: &Cause) -> Result<bool, StoreError>;

    /// Returns a page of files in the order of service and name.
    async fn file_page(
        &self,
        service: Option<&str>,
        after: Option<(String, String)>,
        limit: u32,
    ) -> Result<Vec<FileInfo>, StoreError>;
}
