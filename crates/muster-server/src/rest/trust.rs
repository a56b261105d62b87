//! Documents of trust, sent to machines; and what machines say that they believe.

use super::Rest;
use super::agents::{agent_id, label};
use super::input::{Args, Json as Body};
use super::problem::Failure;
use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use muster_api::Page;
use muster_api::trust::{TrustDocumentRequest, TrustDocumentSent, TrustQuery, TrustRevocations, TrustRow, TrustTold};
use muster_engine::TrustRecipients;
use muster_engine::access::Caller;
use muster_store::investigators::TrustGroup;

/// Every machine.
const ALL: &str = "true";

/// Sends a document of trust that administrators signed. The server vouches for nothing in it: machines judge it.
#[utoipa::path(post, path = "/api/v1/trust-documents", tag = "trust", request_body = TrustDocumentRequest,
    responses((status = 201, body = TrustDocumentSent)))]
pub(crate) async fn trust_document_send(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<TrustDocumentRequest>,
) -> Result<(StatusCode, Json<TrustDocumentSent>), Failure> {
    let recipients = match &request.agent {
        Some(_) if !request.labels.is_empty() => return Err(Failure::invalid("give either one machine or labels")),
        Some(agent) => TrustRecipients::Agent(agent_id(agent)?),
        None => TrustRecipients::Labels(request.labels.iter().map(|text| label(text)).collect::<Result<_, _>>()?),
    };
    let caller = caller.because(&request.reason);
    let sent = rest.engine.trust_send(request.document.as_bytes(), recipients, &caller).await?;
    let sent = TrustDocumentSent {
        kind: sent.document.kind.to_owned(),
        version: sent.document.version,
        expires: sent.document.expires.to_string(),
        message: sent.message.map(|id| id.to_string()),
        broadcast: sent.broadcast.map(|id| id.to_string()),
    };
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

fn show(group: TrustGroup) -> TrustRow {
    let told = group.told.map(|told| TrustTold {
        keyring_version: told.keyring_version,
        keyring: told.keyring,
        acl_version: told.acl_version,
        acl: told.acl,
        modules: told.modules.into_iter().map(|module| module.name).collect(),
        refusal: told.refusal,
        revocations: told.revocations.map(|revocations| TrustRevocations {
            version: revocations.version,
            serials: revocations.serials,
            fingerprints: revocations.fingerprints,
        }),
    });
    TrustRow { agents: group.agents, example: group.example.to_string(), told }
}
