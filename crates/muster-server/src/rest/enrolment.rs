//! Who may come in: enrolment tokens.

use super::Rest;
use super::input::{Json as Body, Names};
use super::layers::Caller;
use super::orders::given;
use super::problem::{Doing, Failure};
use super::tokens::{ends, secret};
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_api::Page;
use muster_api::agents::{EnrolTokenRequest, EnrolTokenRow, Secret};
use muster_core::{limits, text};
use muster_store::cluster;

/// Lists enrolment tokens by name, without their secrets.
#[utoipa::path(get, path = "/api/v1/enrol-tokens", tag = "enrolment", responses((status = 200, body = Page<EnrolTokenRow>)))]
pub(crate) async fn enrol_token_list(State(rest): State<Rest>) -> Result<Json<Page<EnrolTokenRow>>, Failure> {
    let rows = rest.engine.store().enrol_token_list().await.doing("list enrolment tokens")?;
    Ok(Json(
        rows.into_iter()
            .map(|row| EnrolTokenRow {
                name: row.name,
                uses_left: row.uses_left,
                labels: row.labels,
                created: row.created.to_string(),
                expires: row.expires.map(|at| at.to_string()),
            })
            .collect(),
    ))
}

/// Makes a token that lets machines enrol. Its secret is shown this once.
#[utoipa::path(post, path = "/api/v1/enrol-tokens", tag = "enrolment", request_body = EnrolTokenRequest, responses((status = 201, body = Secret)))]
pub(crate) async fn enrol_token_create(
    State(rest): State<Rest>,
    caller: Caller,
    Body(request): Body<EnrolTokenRequest>,
) -> Result<(StatusCode, Json<Secret>), Failure> {
    let invalid = |error: text::TextError| Failure::invalid(error.to_string());
    text::name("the token's name", &request.name).map_err(invalid)?;
    // Written out, so that a label means the same wherever it stands: `site:berlin` is label `berlin` of service `site`.
    let labels = request.labels.iter().map(|label| Ok::<_, Failure>(given(label)?.to_string()));
    let labels = labels.collect::<Result<Vec<_>, _>>()?;
    if request.labels.len() > limits::AGENT_LABELS_MAX {
        return Err(Failure::invalid(format!("at most {} labels can be given", limits::AGENT_LABELS_MAX)));
    }
    let uses_left = request.uses.unwrap_or(1);
    if uses_left == 0 {
        return Err(Failure::invalid("a token with 0 uses lets nobody in: leave `uses` out for 1"));
    }
    let now = rest.clock.now();
    let (token, sha256) = secret(&rest);
    let row = cluster::EnrolTokenRow {
        name: request.name.clone(),
        sha256,
        uses_left,
        labels,
        created: now,
        expires: ends(now, request.expires_in.as_deref())?,
    };
    rest.engine.store().enrol_token_put(row, &caller.cause("")).await.doing("make the enrolment token")?;
    Ok((StatusCode::CREATED, Json(Secret { name: request.name, token })))
}

/// Withdraws an enrolment token. Machines that it let in stay.
#[utoipa::path(delete, path = "/api/v1/enrol-tokens/{name}", tag = "enrolment", params(("name" = String, Path, description = "Its name")),
    responses((status = 204)))]
pub(crate) async fn enrol_token_delete(
    State(rest): State<Rest>,
    Names(name): Names<String>,
    caller: Caller,
) -> Result<StatusCode, Failure> {
    text::name("the token's name", &name).map_err(|error| Failure::invalid(error.to_string()))?;
    let deleted = rest.engine.store().enrol_token_delete(&name, rest.clock.now(), &caller.cause("")).await;
    if deleted.doing("withdraw the enrolment token")? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Failure::not_found(format!("there is no enrolment token {name:?}")))
}
