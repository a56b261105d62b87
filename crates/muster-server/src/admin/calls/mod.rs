//! The calls of `fleetspeak.server.Admin`, one file for each thing they are about.
//!
//! Stays true: what a request says is checked before anything is done, and a part that cannot be meant (a time that is
//! none, a field that only the server fills) is refused instead of passed over.

mod agents;
mod broadcasts;
mod files;
mod messages;

use super::status;
use futures_util::stream::BoxStream;
use muster_core::{AgentId, Clock, Timestamp};
use muster_engine::access::Caller;
use muster_engine::{Engine, Random};
use muster_proto::convert;
use muster_proto::wire::server::admin_server::Admin;
use muster_proto::wire::{EmptyMessage, Message, server as wire};
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// What the calls work on.
pub(super) struct AdminCalls {
    engine: Engine,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = BoxStream<'static, Result<T, Status>>;

impl AdminCalls {
    pub(super) fn new(engine: Engine, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { engine, clock, random }
    }

    fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes);
        bytes
    }
}

/// Returns who calls, as the gate found out, and what is asked for.
fn parts<T>(request: Request<T>) -> Result<(Caller, T), Status> {
    let (_, extensions, body) = request.into_parts();
    let caller = extensions.get::<Caller>().cloned();
    // Default deny: a call that came around the gate has no caller.
    caller.map(|caller| (caller, body)).ok_or_else(|| Status::unauthenticated("the caller is not known"))
}

/// Reads agents' ids, without repetitions, in their order.
fn agent_ids(ids: &[bytes::Bytes]) -> Result<Vec<AgentId>, Status> {
    let ids: Result<BTreeSet<_>, _> = ids.iter().map(|id| convert::agent_id_from_wire("client_id", id)).collect();
    ids.map(|ids| ids.into_iter().collect()).map_err(status::of_convert)
}

/// Reads a time that may be absent; one that is there must be a moment.
fn moment(field: &str, time: Option<&prost_types::Timestamp>) -> Result<Option<Timestamp>, Status> {
    match (time, convert::time_from_wire(time)) {
        (Some(_), None) => {
            Err(Status::invalid_argument(format!("{field} is no moment between the years 1678 and 2261")))
        }
        (_, moment) => Ok(moment),
    }
}

#[tonic::async_trait]
impl Admin for AdminCalls {
    type StreamClientIdsStream = Streamed<wire::StreamClientIdsResponse>;
    type StreamClientContactsStream = Streamed<wire::StreamClientContactsResponse>;

    async fn create_broadcast(&self, request: Request<wire::CreateBroadcastRequest>) -> Answer<EmptyMessage> {
        let (caller, request) = parts(request)?;
        self.broadcast_create(request, &caller).await.map(Response::new)
    }

    async fn list_active_broadcasts(
        &self,
        request: Request<wire::ListActiveBroadcastsRequest>,
    ) -> Answer<wire::ListActiveBroadcastsResponse> {
        self.broadcast_active(&parts(request)?.1).await.map(Response::new)
    }

    async fn disable_broadcasts(&self, request: Request<wire::DisableBroadcastsRequest>) -> Answer<EmptyMessage> {
        let (caller, request) = parts(request)?;
        self.broadcast_disable(&request, &caller).await.map(Response::new)
    }

    async fn list_clients(&self, request: Request<wire::ListClientsRequest>) -> Answer<wire::ListClientsResponse> {
        self.agent_list(&parts(request)?.1).await.map(Response::new)
    }

    async fn stream_client_ids(
        &self,
        request: Request<wire::StreamClientIdsRequest>,
    ) -> Answer<Self::StreamClientIdsStream> {
        self.agent_ids(&parts(request)?.1).map(Response::new)
    }

    async fn list_client_contacts(
        &self,
        request: Request<wire::ListClientContactsRequest>,
    ) -> Answer<wire::ListClientContactsResponse> {
        self.contact_list(&parts(request)?.1).await.map(Response::new)
    }

    async fn stream_client_contacts(
        &self,
        request: Request<wire::StreamClientContactsRequest>,
    ) -> Answer<Self::StreamClientContactsStream> {
        self.contact_stream(&parts(request)?.1).map(Response::new)
    }

    async fn get_message_status(
        &self,
        request: Request<wire::GetMessageStatusRequest>,
    ) -> Answer<wire::GetMessageStatusResponse> {
        self.message_status(&parts(request)?.1).await.map(Response::new)
    }

    async fn insert_message(&self, request: Request<Message>) -> Answer<EmptyMessage> {
        let (caller, message) = parts(request)?;
        self.message_insert(message, &caller).await.map(Response::new)
    }

    async fn delete_pending_messages(
        &self,
        request: Request<wire::DeletePendingMessagesRequest>,
    ) -> Answer<EmptyMessage> {
        let (caller, request) = parts(request)?;
        self.message_pending_delete(&request, &caller).await.map(Response::new)
    }

    async fn get_pending_messages(
        &self,
        request: Request<wire::GetPendingMessagesRequest>,
    ) -> Answer<wire::GetPendingMessagesResponse> {
        self.message_pending(&parts(request)?.1).await.map(Response::new)
    }

    async fn get_pending_message_count(
        &self,
        request: Request<wire::GetPendingMessageCountRequest>,
    ) -> Answer<wire::GetPendingMessageCountResponse> {
        self.message_pending_count(&parts(request)?.1).await.map(Response::new)
    }

    async fn store_file(&self, request: Request<wire::StoreFileRequest>) -> Answer<EmptyMessage> {
        let (caller, request) = parts(request)?;
        self.file_put(request, &caller).await.map(Response::new)
    }

    async fn delete_file(&self, request: Request<wire::DeleteFileRequest>) -> Answer<EmptyMessage> {
        let (caller, request) = parts(request)?;
        self.file_delete(&request, &caller).await.map(Response::new)
    }

    async fn keep_alive(&self, request: Request<EmptyMessage>) -> Answer<EmptyMessage> {
        parts(request)?;
        Ok(Response::new(EmptyMessage::default()))
    }

    async fn blacklist_client(&self, request: Request<wire::BlacklistClientRequest>) -> Answer<EmptyMessage> {
        let (caller, request) = parts(request)?;
        self.agent_blacklist(&request, &caller).await.map(Response::new)
    }

    async fn fetch_client_resource_usage_records(
        &self,
        request: Request<wire::FetchClientResourceUsageRecordsRequest>,
    ) -> Answer<wire::FetchClientResourceUsageRecordsResponse> {
        self.usage_list(&parts(request)?.1).await.map(Response::new)
    }
}
