//! Access tokens of operators and programs.

use super::Rest;
use super::input::{Json as Body, Names};
use super::problem::{Doing, Failure};
use crate::config::words;
use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use muster_api::Page;
use muster_api::agents::Secret;
use muster_api::server::{TokenRequest, TokenRow};
use muster_core::text;
use muster_engine::access::{Caller, GrantError, NewToken};
use std::time::Duration;

/// Lists access tokens by name, without their secrets.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", responses((status = 200, body = Page<TokenRow>)))]
pub(crate) async fn token_list(State(rest): State<Rest>) -> Result<Json<Page<TokenRow>>, Failure> {
    let rows = rest.engine.store().token_list().await.doing("list tokens")?;
    Ok(Json(
        rows.into_iter()
            .map(|row| TokenRow {
                name: row.name,
                role: row.role,
                created: row.created.to_string(),
                expires: row.expires.map(|at| at.to_string()),
            })
            .collect(),
    ))
}

/// Makes an access token. Its secret is shown this once.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = TokenRequest, responses((status = 201, body = Secret)))]
pub(crate) async fn token_create(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<TokenRequest>,
) -> Result<(StatusCode, Json<Secret>), Failure> {
    let grant = request.role.parse().map_err(|error: GrantError| Failure::invalid(format!("role: {error}")))?;
    let new = NewToken { name: request.name.clone(), grant, life: life(request.expires_in.as_deref())? };
    let token = rest.engine.token_create(new, &caller).await?;
    Ok((StatusCode::CREATED, Json(Secret { name: request.name, token })))
}

/// Withdraws an access token; the next request with it is refused.
#[utoipa::path(delete, path = "/api/v1/tokens/{name}", tag = "tokens", params(("name" = String, Path, description = "Its name")),
    responses((status = 204)))]
pub(crate) async fn token_delete(
    State(rest): State<Rest>,
    Names(name): Names<String>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Failure> {
    text::name("the token's name", &name).map_err(|error| Failure::invalid(error.to_string()))?;
    rest.engine.token_delete(&name, &caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads how long something lasts.
pub(crate) fn life(text: Option<&str>) -> Result<Option<Duration>, Failure> {
    let life =
        text.map(words::duration).transpose().map_err(|error| Failure::invalid(format!("expires_in: {error}")))?;
    if life.is_some_and(|life| life.is_zero()) {
        return Err(Failure::invalid("expires_in must be greater than zero"));
    }
    Ok(life)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_longer_than_nothing() {
        assert_eq!(life(None).unwrap(), None);
        assert_eq!(life(Some("2h")).unwrap(), Some(Duration::from_hours(2)));
        for wrong in ["0s", "-1h", "later"] {
            assert!(life(Some(wrong)).unwrap_err().detail.starts_with("expires_in"), "{wrong}");
        }
    }
}
