//! What happens around every request: its id, its log line and figures, who may, and the form of failures.
//!
//! Stays true: a path that does not exist and one that is not allowed look alike to somebody without a token; a request
//! id is made here and never taken from outside.

use super::Rest;
use super::permission::{self, Need};
use super::problem::Failure;
use crate::auth::Denied;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use muster_api::Problem;
use muster_engine::access::{Caller, Freshness, Permission, Principal};
use std::net::SocketAddr;
use std::time::Instant;
use tracing::Instrument;

/// Where a request comes from; put there by the door.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The id of a request, as log lines, answers and the journal have it.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// The outer layer.
pub(crate) async fn observe(State(rest): State<Rest>, mut request: Request, next: Next) -> Response {
    let id = RequestId(rest.random_hex::<8>());
    request.extensions_mut().insert(id.clone());
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = path.unwrap_or_else(|| "unmatched".to_owned());
    let method = known_method(request.method());
    let span = tracing::info_span!("request", id = %id.0, method, route);
    let begun = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    finish(&mut response, &id);
    let took = begun.elapsed();
    span.in_scope(|| {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if method == "GET" || method == "HEAD" {
            tracing::debug!(status, took_ms, "answered {status}");
        } else {
            tracing::info!(status, took_ms, "answered {status}");
        }
    });
    let labels = [("method", method.to_owned()), ("route", route), ("status", status.to_string())];
    metrics::counter!("muster_rest_requests_total", &labels).increment(1);
    metrics::histogram!("muster_rest_request_duration_seconds", &labels[1..2]).record(took.as_secs_f64());
    response
}

/// A method as a label: a bounded set.
fn known_method(method: &Method) -> &'static str {
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]
        .into_iter()
        .find(|known| *known == method.as_str())
        .unwrap_or("other")
}

/// Marks an answer that has its own form for failures, too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnForm;

/// Headers of every answer, and the body of failures.
fn finish(response: &mut Response, id: &RequestId) {
    let failure = response.extensions_mut().remove::<Failure>();
    let has_own_form = response.extensions_mut().remove::<OwnForm>().is_some();
    let status = response.status();
    let failed = !has_own_form && (status.is_client_error() || status.is_server_error());
    if let Some(failure) = failure.or_else(|| failed.then(|| Failure::of_status(status))) {
        let (status, title) = failure.status();
        let problem = Problem {
            kind: failure.kind.to_owned(),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: failure.detail,
            request: id.0.clone(),
        };
        let body = serde_json::to_vec(&problem).expect("a problem is plain text and a number");
        *response.body_mut() = Body::from(body);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    }
    let headers = response.headers_mut();
    for (name, value) in ANSWER_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(REQUEST_ID, HeaderValue::from_str(&id.0).expect("hexadecimal digits are a header's value"));
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What every answer carries: it is not kept, not guessed at, not framed, and runs nothing.
pub(crate) const ANSWER_HEADERS: [(HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// The inner layer: who may.
pub(crate) async fn guard(State(rest): State<Rest>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match allowed(&rest, &parts).await {
        Err(failure) => return failure.into_response(),
        Ok(None) => {}
        Ok(Some(caller)) => {
            parts.extensions.insert(caller);
        }
    }
    next.run(Request::from_parts(parts, body)).await
}

async fn allowed(rest: &Rest, request: &Parts) -> Result<Option<Caller>, Failure> {
    let path = request.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let need = path.and_then(|path| permission::find(&request.method, path));
    let need = if path == Some("/metrics") && rest.config.metrics.token {
        need.and(Some(Need::Permission(Permission::ServerRead)))
    } else {
        need
    };
    if need == Some(Need::Nothing) {
        return Ok(None);
    }
    let request_id = request.extensions.get::<RequestId>().map_or("", |id| id.0.as_str());
    let caller = authenticated(rest, request).await?.caller(request_id);
    let Some(path) = path else {
        return Err(Failure::not_found(format!("there is no {}, see /api/openapi.json", request.uri.path())));
    };
    let Some(need) = need else {
        // A route that somebody forgot to put into the table is closed to everybody.
        return Err(match permission::methods(path) {
            Some(methods) => Failure::method_not_allowed(&methods),
            None => Failure::not_found("this route is closed"),
        });
    };
    if let Need::Permission(permission) = need {
        caller.require(permission)?;
    }
    if !request.method.is_safe() && from_elsewhere(&request.headers) {
        return Err(Failure::forbidden("a page of another site asked for this"));
    }
    Ok(Some(caller))
}

async fn authenticated(rest: &Rest, request: &Parts) -> Result<Principal, Failure> {
    let Some(Peer(peer)) = request.extensions.get::<Peer>() else {
        return Err(Failure::unauthorized("nobody knows where this request comes from"));
    };
    let freshness = if request.method.is_safe() { Freshness::Remembered } else { Freshness::Now };
    let from = (peer.ip(), rest.clock.now());
    let checked = rest.gate.check(&rest.engine, &request.headers, from, freshness).await;
    checked.map_err(|denied| match denied {
        Denied::Missing(detail) => Failure::unauthorized(detail),
        Denied::Wrong => Failure::unauthorized("the token is not known or has lapsed: ask an administrator for one"),
        Denied::TooMany(after) => Failure::too_many(after),
        Denied::Store(error) => Failure::of_store("check the token", &error),
    })
}

/// Whether a browser says that another site's page is behind the request. Programs say nothing, and need a token.
fn from_elsewhere(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("null"));
    let site = headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or("cross-site"));
    if site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return true;
    }
    let host = text(header::HOST);
    text(header::ORIGIN).is_some_and(|origin| origin.split_once("://").map(|(_, rest)| rest) != host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_site_is_recognised() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
        };
        assert!(!from_elsewhere(&of(&[("host", "a:1")])));
        assert!(!from_elsewhere(&of(&[("host", "a:1"), ("origin", "http://a:1")])));
        assert!(!from_elsewhere(&of(&[("sec-fetch-site", "same-origin")])));
        assert!(from_elsewhere(&of(&[("host", "a:1"), ("origin", "http://b:1")])));
        assert!(from_elsewhere(&of(&[("host", "a:1"), ("origin", "null")])));
        assert!(from_elsewhere(&of(&[("sec-fetch-site", "cross-site")])));
    }
}
