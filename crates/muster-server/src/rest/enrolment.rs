//! Who may come in: enrolment tokens.

use super::Rest;
use super::input::{Json as Body, Names};
use super::orders::given;
use super::problem::{Doing, Failure};
use super::tokens::life;
use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use muster_api::Page;
use muster_api::agents::{EnrolTokenRequest, EnrolTokenRow, Secret};
use muster_core::text;
use muster_engine::access::{Caller, NewEnrolToken};

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
    Extension(caller): Extension<Caller>,
    Body(request): Body<EnrolTokenRequest>,
) -> Result<(StatusCode, Json<Secret>), Failure> {
    // Read here, so that a label means the same wherever it stands: `site:berlin` is label `berlin` of service `site`.
    let labels = request.labels.iter().map(|label| given(label)).collect::<Result<_, _>>()?;
    let (uses, life) = (request.uses.unwrap_or(1), life(request.expires_in.as_deref())?);
    let new = NewEnrolToken { name: request.name.clone(), uses, labels, life };
    let token = rest.engine.enrol_token_create(new, &caller).await?;
    Ok((StatusCode::CREATED, Json(Secret { name: request.name, token })))
}

/// Withdraws an enrolment token. Machines that it let in stay.
#[utoipa::path(delete, path = "/api/v1/enrol-tokens/{name}", tag = "enrolment", params(("name" = String, Path, description = "Its name")),
    responses((status = 204)))]
pub(crate) async fn enrol_token_delete(
    State(rest): State<Rest>,
    Names(name): Names<String>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Failure> {
    text::name("the token's name", &name).map_err(|error| Failure::invalid(error.to_string()))?;
    rest.engine.enrol_token_delete(&name, &caller).await?;
    Ok(StatusCode::NO_CONTENT)
}
