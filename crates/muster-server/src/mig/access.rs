//! What happens around every request: who asks, whether they may, and where the API is for them.
//!
//! Stays true: whether a route is there is told to anybody, as MIG does; what it holds only to an investigator who has
//! its permission; a wrong token counts against its address as at REST, one that was good before does not: it takes no
//! guessing, and MIG's programs make the same one twice when a person starts two of them within a second. Then the same
//! reading from the same address is let in again, and nothing else.

use super::envelope::{self, Refused};
use super::permission::{self, Need};
use crate::rest::Rest;
use crate::rest::layers::{OwnForm, Peer, RequestId};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode, Uri, header};
use muster_core::limits;
use muster_engine::access::{Caller, Permissions};
use muster_engine::{TokenRefusal, TokenRules};
use muster_store::investigators::InvestigatorRow;
use sha2::{Digest as _, Sha256};
use std::net::SocketAddr;

/// The headers that say who asks: a signed token, or an API key.
const TOKEN: &str = "x-pgpauthorization";
const API_KEY: &str = "x-migapikey";
const LOADER_KEY: &str = "x-loaderkey";

/// What is said where no route is, in the words of Go's servers.
pub(super) const NO_ROUTE: &str = "404 page not found\n";

/// The caller that an investigator is.
fn caller(row: &InvestigatorRow, request: &RequestId) -> Caller {
    let name = format!("investigator {} ({})", row.id, row.name);
    Caller::new(name, Permissions::of_mig(row.permissions), &request.0)
}

/// Where the API is for whoever asks.
#[derive(Debug, Clone)]
pub(super) struct Here {
    root: String,
    /// The address that was asked for.
    pub(super) href: String,
}

impl Here {
    fn of(rest: &Rest, uri: &Uri, headers: &HeaderMap) -> Self {
        let base = rest.config.mig.public_url.as_deref().map_or_else(
            || {
                let scheme = if rest.config.operators.certificate.is_some() { "https" } else { "http" };
                let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
                let host = host.filter(|host| host.parse::<Authority>().is_ok());
                let host = host.or_else(|| uri.authority().map(Authority::as_str)).unwrap_or("localhost");
                format!("{scheme}://{host}")
            },
            |url| url.trim_end_matches('/').to_owned(),
        );
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Self { root: format!("{base}{}", super::ROOT), href: format!("{base}{path}") }
    }

    /// The address of a route, with what comes after it.
    pub(super) fn at(&self, route: impl std::fmt::Display) -> String {
        format!("{}{route}", self.root)
    }
}

/// The layer of the API.
pub(super) async fn guard(State(rest): State<Rest>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let here = Here::of(&rest, &parts.uri, &parts.headers);
    let id = parts.extensions.get::<RequestId>().cloned().unwrap_or_else(|| RequestId(String::new()));
    parts.extensions.insert(here.clone());
    let mut response = match allowed(&rest, &parts, &id).await {
        Outcome::NoRoute => (StatusCode::NOT_FOUND, NO_ROUTE).into_response(),
        Outcome::Refused(refused) => refused.into_response(),
        Outcome::Anybody => next.run(Request::from_parts(parts, body)).await,
        Outcome::Caller(caller) => {
            parts.extensions.insert(caller);
            next.run(Request::from_parts(parts, body)).await
        }
    };
    envelope::write(&mut response, &here.href, &id);
    response.extensions_mut().insert(OwnForm);
    response
}

enum Outcome {
    NoRoute,
    Refused(Refused),
    Anybody,
    Caller(Caller),
}

async fn allowed(rest: &Rest, request: &Parts, id: &RequestId) -> Outcome {
    let path = request.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let path = path.and_then(|path| path.strip_prefix(super::ROOT));
    let Some(need) = path.and_then(|path| permission::find(&request.method, path)) else { return Outcome::NoRoute };
    match need {
        Need::Nothing => Outcome::Anybody,
        Need::Loader => Outcome::Refused(no_loader(&request.headers)),
        Need::Permission(permission) => match person(rest, request).await.map(|row| caller(&row, id)) {
            Err(refused) => Outcome::Refused(refused),
            Ok(caller) if caller.may(permission) => Outcome::Caller(caller),
            Ok(_) => Outcome::Refused(Refused::unauthorized("Insufficient permissions to access endpoint")),
        },
    }
}

fn no_loader(headers: &HeaderMap) -> Refused {
    let has_key = headers.contains_key(LOADER_KEY);
    Refused::unauthorized(if has_key { "Loader authorization failed" } else { "X-LOADERKEY header not found" })
}

/// The one value of a header. An error: it came twice, or is no text.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refused> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if value.len() <= limits::MIG_TOKEN_BYTES_MAX => {
            value.to_str().map(Some).map_err(|_| failed("the header is no text"))
        }
        _ => Err(failed("the header is too long, or came twice")),
    }
}

fn failed(error: impl std::fmt::Display) -> Refused {
    Refused::unauthorized(format!("Authorization verification failed with error '{error}'"))
}

async fn person(rest: &Rest, request: &Parts) -> Result<InvestigatorRow, Refused> {
    let Some(Peer(peer)) = request.extensions.get::<Peer>() else {
        return Err(failed("nobody knows where this request comes from"));
    };
    let missing = || Refused::unauthorized("Valid authentication header not found");
    match (only(&request.headers, TOKEN)?, only(&request.headers, API_KEY)?) {
        (Some(token), None) => by_token(rest, token, *peer, request).await,
        (None, Some(key)) => by_key(rest, key, *peer).await,
        (None, None) => Err(missing()),
        (Some(_), Some(_)) => Err(failed("send a token or an API key, not both")),
    }
}

async fn by_token(rest: &Rest, token: &str, peer: SocketAddr, request: &Parts) -> Result<InvestigatorRow, Refused> {
    let is_read = request.method == Method::GET;
    let now = rest.clock.now();
    rest.gate.may_try(token, peer.ip(), now).map_err(Refused::too_many)?;
    let rules = TokenRules {
        window: rest.config.mig.token_duration.0,
        may_repeat: rest.config.mig.repeated_reads && is_read,
        request: is_read.then(|| Sha256::digest(format!("{} GET {}", peer.ip(), request.uri)).into()),
    };
    match rest.engine.investigator_by_token(token, &peer.to_string(), rules).await {
        Ok(row) => Ok(row),
        Err(TokenRefusal::Unchecked(error)) => Err(error.into()),
        Err(refusal @ TokenRefusal::Replayed) => Err(failed(refusal)),
        Err(refusal) => {
            let shut_out = rest.gate.tried(token, peer.ip(), false, now);
            Err(shut_out.map_or_else(|| failed(refusal), Refused::too_many))
        }
    }
}

async fn by_key(rest: &Rest, key: &str, peer: SocketAddr) -> Result<InvestigatorRow, Refused> {
    let now = rest.clock.now();
    rest.gate.may_try(key, peer.ip(), now).map_err(Refused::too_many)?;
    let found = rest.engine.investigator_by_api_key(key).await;
    let found = found.map_err(|error| Refused::of_store("check the API key", &error))?;
    let shut_out = rest.gate.tried(key, peer.ip(), found.is_some(), now);
    let unknown = || failed("the API key is not known, or its owner is disabled");
    found.ok_or_else(|| shut_out.map_or_else(unknown, Refused::too_many))
}
