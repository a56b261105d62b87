//! Calls about files. One call carries a whole file, so these are small ones; REST takes files of any size.

use super::AdminCalls;
use crate::admin::status;
use muster_core::text;
use muster_engine::access::Caller;
use muster_proto::wire::EmptyMessage;
use muster_proto::wire::server as wire;
use tonic::Status;

impl AdminCalls {
    pub(super) async fn file_put(
        &self,
        request: wire::StoreFileRequest,
        caller: &Caller,
    ) -> Result<EmptyMessage, Status> {
        check_names(&request.service_name, &request.file_name)?;
        let begun = self.engine.file_begin(&request.service_name, &request.file_name, caller).await;
        let mut upload = begun.map_err(status::of_operator)?;
        upload.push(&request.data).await.map_err(status::of_operator)?;
        upload.finish().await.map_err(status::of_operator)?;
        Ok(EmptyMessage::default())
    }

    /// Deletes a file; one that is not there is no error.
    pub(super) async fn file_delete(
        &self,
        request: &wire::DeleteFileRequest,
        caller: &Caller,
    ) -> Result<EmptyMessage, Status> {
        check_names(&request.service_name, &request.file_name)?;
        let deleted = self.engine.file_delete(&request.service_name, &request.file_name, caller).await;
        deleted.map_err(status::of_operator)?;
        Ok(EmptyMessage::default())
    }
}

fn check_names(service: &str, file: &str) -> Result<(), Status> {
    let checked = text::name("service name", service).and_then(|()| text::file_name(file));
    checked.map_err(|error| Status::invalid_argument(error.to_string()))
}
