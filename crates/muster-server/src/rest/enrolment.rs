//! Who came in and who did not: enrolment tokens, refusals, messages that could not be accepted.

use super::Rest;
use super::input::{Args, Json as Body, Names};
use super::layers::Caller;
use super::pages::Paging;
use super::problem::{Doing, Failure};
use super::tokens::{ends, secret};
use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use muster_api::Page;
use muster_api::agents::{DeadLetterRow, EnrolTokenRequest, EnrolTokenRow, RefusalRow, Secret};
use muster_api::server::PageQuery;
use muster_core::{limits, text};
use muster_store::cluster;

/// Lists refused contacts, newest first.
#[utoipa::path(get, path = "/api/v1/refusals", tag = "enrolment", params(PageQuery), responses((status = 200, body = Page<RefusalRow>)))]
pub(crate) async fn refusal_list(
    State(rest): State<Rest>,
    Args(query): Args<PageQuery>,
) -> Result<Json<Page<RefusalRow>>, Failure> {
    let paging = Paging::new("refusals", query.cursor.as_deref(), query.limit)?;
    let rows = rest.engine.store().refusal_page(paging.after()?, paging.rows()).await.doing("list refusals")?;
    let page = paging.cut(rows, |row| row.number.to_string());
    Ok(Json(Paging::map(page, |row| RefusalRow {
        at: row.at.to_string(),
        agent: row.agent.map(|agent| agent.to_string()),
        address: row.address,
        code: row.code,
        reason: row.reason,
    })))
}

/// Lists messages that could not be accepted, newest first.
#[utoipa::path(get, path = "/api/v1/dead-letters", tag = "enrolment", params(PageQuery), responses((status = 200, body = Page<DeadLetterRow>)))]
pub(crate) async fn dead_letter_list(
    State(rest): State<Rest>,
    Args(query): Args<PageQuery>,
) -> Result<Json<Page<DeadLetterRow>>, Failure> {
    let paging = Paging::new("dead-letters", query.cursor.as_deref(), query.limit)?;
    let rows = rest.engine.store().dead_letter_page(paging.after()?, paging.rows()).await.doing("list dead letters")?;
    let page = paging.cut(rows, |(number, _)| number.to_string());
    Ok(Json(Paging::map(page, |(_, row)| DeadLetterRow {
        at: row.at.to_string(),
        agent: row.agent.to_string(),
        reason: row.reason,
        sha256: hex::encode(row.sha256),
        head: STANDARD.encode(row.head),
    })))
}

/// Lists enrolment tokens by name, without their secrets.
#[utoipa::path(get, path = "/api/v1/enrol-tokens", tag = "enrolment", responses((status = 200, body = Vec<EnrolTokenRow>)))]
pub(crate) async fn enrol_token_list(State(rest): State<Rest>) -> Result<Json<Vec<EnrolTokenRow>>, Failure> {
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
    for label in &request.labels {
        text::name("label", label).map_err(invalid)?;
    }
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
        labels: request.labels,
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
