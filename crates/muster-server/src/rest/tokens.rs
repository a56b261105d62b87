//! Access tokens of operators and programs.

use super::Rest;
use super::input::{Json as Body, Names};
use super::layers::Caller;
use super::problem::{Doing, Failure};
use crate::admin::token;
use crate::config::words;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_api::Page;
use muster_api::agents::Secret;
use muster_api::server::{TokenRequest, TokenRow};
use muster_core::{Timestamp, text};
use muster_engine::access::Role;
use muster_store::cluster;

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
    caller: Caller,
    Body(request): Body<TokenRequest>,
) -> Result<(StatusCode, Json<Secret>), Failure> {
    text::name("the token's name", &request.name).map_err(|error| Failure::invalid(error.to_string()))?;
    let role = Role::from_word(&request.role)
        .ok_or_else(|| Failure::invalid(format!("role: {:?} is neither admin nor reader", request.role)))?;
    let now = rest.clock.now();
    let (token, sha256) = secret(&rest);
    let row = cluster::TokenRow {
        name: request.name.clone(),
        sha256,
        role: role.word().to_owned(),
        created: now,
        expires: ends(now, request.expires_in.as_deref())?,
    };
    rest.engine.store().token_put(row, &caller.cause("")).await.doing("make the token")?;
    Ok((StatusCode::CREATED, Json(Secret { name: request.name, token })))
}

/// Withdraws an access token; the next request with it is refused.
#[utoipa::path(delete, path = "/api/v1/tokens/{name}", tag = "tokens", params(("name" = String, Path, description = "Its name")),
    responses((status = 204)))]
pub(crate) async fn token_delete(
    State(rest): State<Rest>,
    Names(name): Names<String>,
    caller: Caller,
) -> Result<StatusCode, Failure> {
    text::name("the token's name", &name).map_err(|error| Failure::invalid(error.to_string()))?;
    let deleted = rest.engine.store().token_delete(&name, rest.clock.now(), &caller.cause("")).await;
    if deleted.doing("withdraw the token")? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Failure::not_found(format!("there is no token {name:?}")))
}

/// Draws a secret of 256 bits, and returns it with the hash that is kept.
pub(crate) fn secret(rest: &Rest) -> (String, [u8; 32]) {
    let token = token::draw(rest.random.as_ref());
    let hash = token::hash(&token);
    (token, hash)
}

/// Returns when something that lasts `life` from now on ends.
pub(crate) fn ends(now: Timestamp, life: Option<&str>) -> Result<Option<Timestamp>, Failure> {
    let Some(life) = life else { return Ok(None) };
    let life = words::duration(life).map_err(|error| Failure::invalid(format!("expires_in: {error}")))?;
    if life.is_zero() {
        return Err(Failure::invalid("expires_in: it would be over at once"));
    }
    Ok(Some(now.plus(life)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_lies_ahead() {
        let now = Timestamp::from_secs(100);
        assert_eq!(ends(now, None).unwrap(), None);
        assert_eq!(ends(now, Some("2h")).unwrap(), Some(Timestamp::from_secs(7300)));
        for life in ["0s", "-1h", "later"] {
            assert!(ends(now, Some(life)).unwrap_err().detail.starts_with("expires_in: "), "{life}");
        }
    }
}
