//! Calls about machines, their contacts and what they use.

use super::{AdminCalls, Streamed, agent_ids, moment};
use crate::admin::status;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use muster_core::{Agent, AgentId, AgentState, Contact, ContactId, Timestamp, limits};
use muster_engine::Engine;
use muster_engine::access::Caller;
use muster_proto::convert;
use muster_proto::wire::EmptyMessage;
use muster_proto::wire::server as wire;
use muster_store::agents::AgentFilter;
use tonic::Status;

impl AdminCalls {
    /// All machines, or those of the ids that are known. One answer holds them all, as the wire has it; each page is
    /// read by itself.
    pub(super) async fn agent_list(
        &self,
        request: &wire::ListClientsRequest,
    ) -> Result<wire::ListClientsResponse, Status> {
        let agents: Vec<Agent> = if request.client_ids.is_empty() {
            agent_pages(self.engine.clone(), AgentFilter::default()).try_collect().await?
        } else {
            let ids = agent_ids(&request.client_ids)?;
            let mut agents = Vec::new();
            for page in ids.chunks(limits::PAGE_ROWS_MAX as usize) {
                let found = self.engine.store().agent_list(page).await;
                agents.extend(found.map_err(|error| status::of_store("list clients", &error))?);
            }
            agents
        };
        Ok(wire::ListClientsResponse { clients: agents.into_iter().map(convert::agent_to_wire).collect() })
    }

    /// The ids of machines, page by page.
    pub(super) fn agent_ids(
        &self,
        request: &wire::StreamClientIdsRequest,
    ) -> Result<Streamed<wire::StreamClientIdsResponse>, Status> {
        let contact_after = moment("last_contact_after", request.last_contact_after.as_ref())?;
        let blocked_too = request.include_blacklisted;
        let filter = AgentFilter { contact_after, ..AgentFilter::default() };
        let ids = agent_pages(self.engine.clone(), filter).try_filter_map(move |agent| async move {
            let wanted = blocked_too || !(agent.state == AgentState::Blocked || agent.state.owes_key());
            let client_id = Bytes::copy_from_slice(agent.id.as_bytes());
            Ok(wanted.then_some(wire::StreamClientIdsResponse { client_id }))
        });
        Ok(ids.boxed())
    }

    /// All contacts of a machine that are kept, oldest first; none for one that is not known.
    pub(super) async fn contact_list(
        &self,
        request: &wire::ListClientContactsRequest,
    ) -> Result<wire::ListClientContactsResponse, Status> {
        let id = agent_id(&request.client_id)?;
        let mut contacts: Vec<_> = contact_pages(self.engine.clone(), id).try_collect().await?;
        contacts.reverse();
        Ok(wire::ListClientContactsResponse { contacts: contacts.into_iter().map(convert::contact_to_wire).collect() })
    }

    /// The same, page by page, newest first.
    pub(super) fn contact_stream(
        &self,
        request: &wire::StreamClientContactsRequest,
    ) -> Result<Streamed<wire::StreamClientContactsResponse>, Status> {
        let contacts = contact_pages(self.engine.clone(), agent_id(&request.client_id)?);
        let answers = contacts
            .map_ok(|contact| wire::StreamClientContactsResponse { contact: Some(convert::contact_to_wire(contact)) });
        Ok(answers.boxed())
    }

    /// Blacklists a machine, as the original means it: a new key is demanded of it. The original says nothing when there is
    /// none of that id; somebody who mistyped it would believe the machine blacklisted.
    pub(super) async fn agent_blacklist(
        &self,
        request: &wire::BlacklistClientRequest,
        caller: &Caller,
    ) -> Result<EmptyMessage, Status> {
        let id = agent_id(&request.client_id)?;
        self.engine.agent_blacklist(id, caller).await.map_err(status::of_operator)?;
        Ok(EmptyMessage::default())
    }

    /// What processes of a machine used, by the time the server heard of it: from `start` (included) to `end`.
    pub(super) async fn usage_list(
        &self,
        request: &wire::FetchClientResourceUsageRecordsRequest,
    ) -> Result<wire::FetchClientResourceUsageRecordsResponse, Status> {
        let id = agent_id(&request.client_id)?;
        let start = required_moment("start_timestamp", request.start_timestamp.as_ref())?;
        let end = required_moment("end_timestamp", request.end_timestamp.as_ref())?;
        let usage = self.engine.store().usage_list(id, start, end).await;
        let usage = usage.map_err(|error| status::of_store("list usage records", &error))?;
        let records = usage.into_iter().map(convert::usage_to_wire).collect();
        Ok(wire::FetchClientResourceUsageRecordsResponse { records })
    }
}

fn agent_id(bytes: &[u8]) -> Result<AgentId, Status> {
    convert::agent_id_from_wire("client_id", bytes).map_err(status::of_convert)
}

fn required_moment(field: &'static str, time: Option<&prost_types::Timestamp>) -> Result<Timestamp, Status> {
    // The words before the colon are the original's.
    moment(field, time)?.ok_or_else(|| Status::invalid_argument(format!("proto: invalid nil Timestamp: {field}")))
}

/// All machines that `filter` picks, one page in memory at a time.
fn agent_pages(engine: Engine, filter: AgentFilter) -> impl Stream<Item = Result<Agent, Status>> + Send + 'static {
    let pages = stream::try_unfold(Some(None), move |after: Option<Option<AgentId>>| {
        let (engine, filter) = (engine.clone(), filter.clone());
        async move {
            let Some(after) = after else { return Ok::<_, Status>(None) };
            let page = engine.store().agent_page(filter, after, limits::PAGE_ROWS_MAX).await;
            let page = page.map_err(|error| status::of_store("list clients", &error))?;
            let next = page.last().map(|last| Some(last.id));
            Ok(Some((stream::iter(page).map(Ok), next)))
        }
    });
    pages.try_flatten()
}

/// All contacts of a machine, newest first, one page in memory at a time.
fn contact_pages(engine: Engine, id: AgentId) -> impl Stream<Item = Result<Contact, Status>> + Send + 'static {
    let pages = stream::try_unfold(Some(None), move |before: Option<Option<ContactId>>| {
        let engine = engine.clone();
        async move {
            let Some(before) = before else { return Ok::<_, Status>(None) };
            let page = engine.store().contact_page(id, before, limits::PAGE_ROWS_MAX).await;
            let page = page.map_err(|error| status::of_store("list contacts", &error))?;
            let next = page.last().map(|last| Some(last.id));
            Ok(Some((stream::iter(page).map(Ok), next)))
        }
    });
    pages.try_flatten()
}
