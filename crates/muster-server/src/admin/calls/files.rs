//! Calls about files. One call carries a whole file, so these are small ones; REST takes files of any size.

use super::AdminCalls;
use crate::admin::status;
use bytes::Bytes;
use muster_core::file::FileInfo;
use muster_core::{Cause, limits, text};
use muster_proto::wire::EmptyMessage;
use muster_proto::wire::server as wire;
use muster_store::StoreError;
use sha2::{Digest, Sha256};
use tonic::Status;

impl AdminCalls {
    pub(super) async fn file_put(
        &self,
        request: wire::StoreFileRequest,
        cause: &Cause,
    ) -> Result<EmptyMessage, Status> {
        check_names(&request.service_name, &request.file_name)?;
        let stored = self.file_store(request, cause).await;
        stored.map_err(|error| status::of_store("store the file", &error))?;
        Ok(EmptyMessage::default())
    }

    async fn file_store(&self, request: wire::StoreFileRequest, cause: &Cause) -> Result<(), StoreError> {
        let store = self.engine.store();
        let now = self.clock.now();
        let content = store.file_begin(now).await?;
        let bytes: Bytes = request.data;
        let starts = (0..bytes.len()).step_by(limits::FILE_CHUNK_BYTES);
        for (index, start) in (0..).zip(starts) {
            let end = bytes.len().min(start + limits::FILE_CHUNK_BYTES);
            store.file_chunk_put(content, index, bytes.slice(start..end)).await?;
        }
        let info = FileInfo {
            service: request.service_name,
            name: request.file_name,
            bytes: bytes.len() as u64,
            sha256: Sha256::digest(&bytes).into(),
            modified: now,
            content,
        };
        store.file_finish(info, cause).await
    }

    /// Deletes a file; one that is not there is no error.
    pub(super) async fn file_delete(
        &self,
        request: &wire::DeleteFileRequest,
        cause: &Cause,
    ) -> Result<EmptyMessage, Status> {
        check_names(&request.service_name, &request.file_name)?;
        let now = self.clock.now();
        let deleted = self.engine.store().file_delete(&request.service_name, &request.file_name, now, cause).await;
        deleted.map_err(|error| status::of_store("delete the file", &error))?;
        Ok(EmptyMessage::default())
    }
}

fn check_names(service: &str, file: &str) -> Result<(), Status> {
    let checked = text::name("service name", service).and_then(|()| text::file_name(file));
    checked.map_err(|error| Status::invalid_argument(error.to_string()))
}
