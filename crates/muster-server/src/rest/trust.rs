//! Documents of trust, sent to machines; and what machines say that they believe.

use super::Rest;
use super::agents::{agent_id, label};
use super::input::{Args, Json as Body};
use super::layers::Caller;
use super::messages::journal;
use super::problem::Failure;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_api::Page;
use muster_api::trust::{TrustDocumentRequest, TrustDocumentSent, TrustQuery, TrustRow, TrustTold};
use muster_core::{
    Address, AgentId, Broadcast, BroadcastId, BroadcastLimit, Label, Message, MessageId, limits, system,
};
use muster_engine::TrustDocument;
use muster_store::investigators::TrustGroup;

/// Every machine.
const ALL: &str = "true";

/// Sends a document of trust that administrators signed. The server vouches for nothing in it: machines judge it.
#[utoipa::path(post, path = "/api/v1/trust-documents", tag = "trust", request_body = TrustDocumentRequest,
    responses((status = 201, body = TrustDocumentSent)))]
pub(crate) async fn trust_document_send(
    State(rest): State<Rest>,
    caller: Caller,
    Body(request): Body<TrustDocumentRequest>,
) -> Result<(StatusCode, Json<TrustDocumentSent>), Failure> {
    let document = rest.engine.trust_document(request.document.as_bytes())?;
    let mut sent = TrustDocumentSent {
        kind: document.kind.to_owned(),
        version: document.version,
        expires: document.expires.to_string(),
        message: None,
        broadcast: None,
    };
    let cause = caller.cause(&request.reason);
    if let Some(agent) = &request.agent {
        if !request.labels.is_empty() {
            return Err(Failure::invalid("give either one machine or labels"));
        }
        let agent = agent_id(agent)?;
        let details = serde_json::json!({ "kind": sent.kind, "version": sent.version });
        let id = rest.engine.message_insert(message(&rest, document, agent)).await?;
        journal(&rest, cause, "trust.send", agent.to_string(), &details).await?;
        sent.message = Some(id.to_string());
    } else {
        let labels = required(&request.labels)?;
        rest.engine.trust_not_older(&document, &labels).await?;
        let broadcast = broadcast(&rest, document, labels);
        sent.broadcast = Some(rest.engine.broadcast_create(broadcast, &cause).await?.to_string());
    }
    Ok((StatusCode::CREATED, Json(sent)))
}

/// Says what machines believe, grouped by what they say, most machines first.
#[utoipa::path(get, path = "/api/v1/trust", tag = "trust", params(TrustQuery), responses((status = 200, body = Page<TrustRow>)))]
pub(crate) async fn trust_status(
    State(rest): State<Rest>,
    Args(query): Args<TrustQuery>,
) -> Result<Json<Page<TrustRow>>, Failure> {
    let groups = rest.engine.trust_status(query.target.as_deref().unwrap_or(ALL)).await?;
    Ok(Json(groups.into_iter().map(show).collect()))
}

fn message(rest: &Rest, document: TrustDocument, agent: AgentId) -> Message {
    let (now, mut random) = (rest.clock.now(), [0; 24]);
    rest.random.fill(&mut random);
    let (from, to) = (Address::server(system::ACTIONS), Address::agent(agent, system::ACTIONS));
    Message {
        message_type: system::TRUST_DOCUMENT.to_owned(),
        payload: Some(document.payload),
        expires: Some(document.expires),
        ..Message::new(MessageId::ordered(now, random), from, to, now)
    }
}

fn required(labels: &[String]) -> Result<Vec<Label>, Failure> {
    let mut required = labels.iter().map(|text| label(text)).collect::<Result<Vec<_>, _>>()?;
    required.sort();
    required.dedup();
    if required.len() > limits::AGENT_LABELS_MAX {
        return Err(Failure::invalid(format!("at most {} labels can be asked for", limits::AGENT_LABELS_MAX)));
    }
    Ok(required)
}

/// A broadcast reaches machines that enrol later, too; a newer one of its kind takes its place.
fn broadcast(rest: &Rest, document: TrustDocument, required_labels: Vec<Label>) -> Broadcast {
    let mut id = [0; BroadcastId::BYTES];
    rest.random.fill(&mut id);
    Broadcast {
        id: BroadcastId::from_bytes(id),
        source: Address::server(system::ACTIONS),
        destination_service: system::ACTIONS.to_owned(),
        message_type: system::TRUST_DOCUMENT.to_owned(),
        required_labels,
        expires: Some(document.expires),
        group: document.group(),
        payload: Some(document.payload),
        limit: BroadcastLimit::Unlimited,
        sent: 0,
        allocated: 0,
        created: rest.clock.now(),
    }
}

fn show(group: TrustGroup) -> TrustRow {
    let told = group.told.map(|told| TrustTold {
        keyring_version: told.keyring_version,
        keyring: told.keyring,
        acl_version: told.acl_version,
        acl: told.acl,
        modules: told.modules.into_iter().map(|module| module.name).collect(),
        refusal: told.refusal,
    });
    TrustRow { agents: group.agents, example: group.example.to_string(), told }
}
