//! Calls about broadcasts.

use super::{AdminCalls, moment};
use crate::admin::status;
use muster_core::BroadcastId;
use muster_engine::access::Caller;
use muster_proto::convert;
use muster_proto::wire::EmptyMessage;
use muster_proto::wire::server as wire;
use tonic::Status;

impl AdminCalls {
    pub(super) async fn broadcast_create(
        &self,
        request: wire::CreateBroadcastRequest,
        caller: &Caller,
    ) -> Result<EmptyMessage, Status> {
        let broadcast = request.broadcast.ok_or_else(|| Status::invalid_argument("there is no broadcast"))?;
        // One that never ends is not what somebody means who names an end.
        moment("expiration_time", broadcast.expiration_time.as_ref())?;
        let id = BroadcastId::from_bytes(self.random());
        let broadcast = convert::broadcast_from_wire(broadcast, request.limit, id, self.clock.now());
        let broadcast = broadcast.map_err(status::of_convert)?;
        self.engine.broadcast_create(broadcast, caller).await.map_err(status::of_operator)?;
        Ok(EmptyMessage::default())
    }

    pub(super) async fn broadcast_active(
        &self,
        request: &wire::ListActiveBroadcastsRequest,
    ) -> Result<wire::ListActiveBroadcastsResponse, Status> {
        let source = Some(request.service_name.as_str()).filter(|name| !name.is_empty());
        let active = self.engine.store().broadcast_active(source, self.clock.now()).await;
        let active = active.map_err(|error| status::of_store("list broadcasts", &error))?;
        let broadcasts = active.into_iter().map(convert::broadcast_to_wire).collect();
        Ok(wire::ListActiveBroadcastsResponse { broadcasts })
    }

    pub(super) async fn broadcast_disable(
        &self,
        request: &wire::DisableBroadcastsRequest,
        caller: &Caller,
    ) -> Result<EmptyMessage, Status> {
        let ids = request.broadcast_ids.iter().map(|id| convert::broadcast_id_from_wire("broadcast_id", id));
        let ids: Vec<_> = ids.collect::<Result<_, _>>().map_err(status::of_convert)?;
        if !ids.is_empty() {
            self.engine.broadcast_disable(&ids, caller).await.map_err(status::of_operator)?;
        }
        Ok(EmptyMessage::default())
    }
}
