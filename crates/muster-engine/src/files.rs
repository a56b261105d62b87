//! Files that agents fetch: stored piece by piece, and seen only when they are complete.

use crate::access::{Caller, Permission};
use crate::engine::{Engine, OperatorError};
use bytes::BytesMut;
use muster_core::file::FileInfo;
use muster_core::{Cause, limits, system};
use sha2::{Digest, Sha256};

/// A file on its way in. Nothing is seen of it until [`FileUpload::finish`]; one that is dropped before is swept away.
#[derive(Debug)]
pub struct FileUpload {
    engine: Engine,
    cause: Cause,
    service: String,
    name: String,
    content: i64,
    /// The number of the next piece.
    index: u32,
    bytes: u64,
    hash: Sha256,
    waiting: BytesMut,
}

/// What storing or deleting a file needs: the list of revoked certificates makes agents leave a server.
fn needed(service: &str, name: &str) -> Permission {
    if (service, name) == system::REVOKED_LIST { Permission::TrustWrite } else { Permission::FilesWrite }
}

impl Engine {
    /// Begins to store a file.
    ///
    /// # Errors
    ///
    /// When the caller may not store files, or the store fails.
    pub async fn file_begin(&self, service: &str, name: &str, caller: &Caller) -> Result<FileUpload, OperatorError> {
        let cause = caller.require(needed(service, name))?.clone();
        let (service, name) = (service.to_owned(), name.to_owned());
        let content = self.inner.store.file_begin(self.now()).await;
        let content = content.map_err(|failure| self.inner.operator_error("begin the file", failure))?;
        let (waiting, hash) = (BytesMut::with_capacity(limits::FILE_CHUNK_BYTES), Sha256::new());
        Ok(FileUpload { engine: self.clone(), cause, service, name, content, index: 0, bytes: 0, hash, waiting })
    }

    /// Deletes a file. `false`: there was none.
    ///
    /// # Errors
    ///
    /// When the caller may not, or the store fails.
    pub async fn file_delete(&self, service: &str, name: &str, caller: &Caller) -> Result<bool, OperatorError> {
        let cause = caller.require(needed(service, name))?;
        let deleted = self.inner.store.file_delete(service, name, self.now(), cause).await;
        deleted.map_err(|failure| self.inner.operator_error("delete the file", failure))
    }
}

impl FileUpload {
    /// Adds bytes at the end.
    ///
    /// # Errors
    ///
    /// When the store fails, or the file has more pieces than can be numbered.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), OperatorError> {
        self.waiting.extend_from_slice(bytes);
        while self.waiting.len() >= limits::FILE_CHUNK_BYTES {
            self.piece_put(limits::FILE_CHUNK_BYTES).await?;
        }
        Ok(())
    }

    async fn piece_put(&mut self, bytes: usize) -> Result<(), OperatorError> {
        let piece = self.waiting.split_to(bytes).freeze();
        self.hash.update(&piece);
        self.bytes += piece.len() as u64;
        let inner = &self.engine.inner;
        let put = inner.store.file_chunk_put(self.content, self.index, piece).await;
        put.map_err(|failure| inner.operator_error("keep a piece of the file", failure))?;
        let next = self.index.checked_add(1);
        self.index = next.ok_or_else(|| OperatorError::Invalid("the file has too many pieces".into()))?;
        Ok(())
    }

    /// Puts the file under its name, in the place of an older one.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn finish(mut self) -> Result<FileInfo, OperatorError> {
        if !self.waiting.is_empty() {
            self.piece_put(self.waiting.len()).await?;
        }
        let (sha256, modified) = (self.hash.finalize().into(), self.engine.now());
        let Self { engine, cause, service, name, content, bytes, .. } = self;
        let info = FileInfo { service, name, bytes, sha256, modified, content };
        let inner = &engine.inner;
        let finished = inner.store.file_finish(info.clone(), &cause).await;
        finished.map_err(|failure| inner.operator_error("keep the file", failure))?;
        Ok(info)
    }
}
