//! Calls about messages.

use super::{AdminCalls, agent_ids, moment};
use crate::admin::status;
use muster_core::{MessageId, limits};
use muster_engine::access::Caller;
use muster_engine::{MessageOrigin, OperatorError};
use muster_proto::convert::{self, Lacking};
use muster_proto::wire;
use muster_proto::wire::server as admin;
use prost::Message as _;
use tonic::{Code, Status};

impl AdminCalls {
    /// Accepts a message. The same one again, by id and content, is accepted again: callers repeat what they are not
    /// sure of.
    pub(super) async fn message_insert(
        &self,
        message: wire::Message,
        caller: &Caller,
    ) -> Result<wire::EmptyMessage, Status> {
        check_callers_fields(&message)?;
        let size = message.encoded_len();
        let now = self.clock.now();
        let lacking = Lacking { id: Some(MessageId::ordered(now, self.random())), now };
        let message = convert::message_from_wire(message, lacking).map_err(status::of_convert)?;
        if message.destination.agent.is_some() && size > limits::MESSAGE_BYTES_MAX {
            let max = limits::MESSAGE_BYTES_MAX;
            let text = format!("message size of {size} bytes exceeds the {max}-byte limit");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        self.engine.message_send(message, MessageOrigin::Program, caller).await.map_err(|error| match error {
            // The words before the bracket are the original's.
            OperatorError::NotFound(text) => {
                Status::not_found(format!("expected 1 destination client result, got 0 ({text})"))
            }
            other => status::of_operator(other),
        })?;
        Ok(wire::EmptyMessage::default())
    }

    /// Where a message stands; nothing for one that is not known, which is no error.
    pub(super) async fn message_status(
        &self,
        request: &admin::GetMessageStatusRequest,
    ) -> Result<admin::GetMessageStatusResponse, Status> {
        let id = convert::message_id_from_wire("message_id", &request.message_id).map_err(status::of_convert)?;
        let rows = self.engine.store().message_get(&[id], false).await;
        let rows = rows.map_err(|error| status::of_store("read the message", &error))?;
        let Some(row) = rows.into_iter().next() else { return Ok(admin::GetMessageStatusResponse::default()) };
        Ok(admin::GetMessageStatusResponse {
            creation_time: Some(convert::time_to_wire(row.message.created)),
            result: row.message.result.map(convert::result_to_wire),
        })
    }

    pub(super) async fn message_pending_delete(
        &self,
        request: &admin::DeletePendingMessagesRequest,
        caller: &Caller,
    ) -> Result<wire::EmptyMessage, Status> {
        let ids = agent_ids(&request.client_ids)?;
        if !ids.is_empty() {
            self.engine.message_pending_delete(&ids, caller).await.map_err(status::of_operator)?;
        }
        Ok(wire::EmptyMessage::default())
    }

    pub(super) async fn message_pending(
        &self,
        request: &admin::GetPendingMessagesRequest,
    ) -> Result<admin::GetPendingMessagesResponse, Status> {
        if request.offset > 0 && request.limit == 0 {
            return Err(Status::invalid_argument("an offset needs a limit"));
        }
        let ids = agent_ids(&request.client_ids)?;
        let pending = self.engine.store().message_pending(&ids, request.offset, request.limit, request.want_data).await;
        let pending = pending.map_err(|error| status::of_store("list pending messages", &error))?;
        let messages = pending.into_iter().map(convert::message_to_wire).collect();
        Ok(admin::GetPendingMessagesResponse { messages })
    }

    pub(super) async fn message_pending_count(
        &self,
        request: &admin::GetPendingMessageCountRequest,
    ) -> Result<admin::GetPendingMessageCountResponse, Status> {
        let ids = agent_ids(&request.client_ids)?;
        let count = self.engine.store().message_pending_count(&ids).await;
        let count = count.map_err(|error| status::of_store("count pending messages", &error))?;
        Ok(admin::GetPendingMessageCountResponse { count })
    }
}

/// Refuses what only the server may say of a message: where it was checked, what became of it, that a machine sent it.
fn check_callers_fields(message: &wire::Message) -> Result<(), Status> {
    let of_machine = message.source.as_ref().is_some_and(|source| !source.client_id.is_empty());
    let wrong = match () {
        () if of_machine => "source.client_id",
        () if message.result.is_some() => "result",
        () if message.validation_info.is_some() => "validation_info",
        () if message.is_blocklisted_source => "is_blocklisted_source",
        () => return moment("creation_time", message.creation_time.as_ref()).map(drop),
    };
    Err(Status::invalid_argument(format!("{wrong} must not be set: only the server fills it")))
}
