//! Failures of a request, as RFC 9457 documents.
//!
//! Stays true: whatever goes wrong, the answer is a `Problem` with the request's id; it never holds a statement of SQL,
//! a path of the server, or a secret. The last layer (`layers`) writes the body, so that answers of the framework and of
//! handlers look alike.

use crate::observe::Chain;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use muster_engine::OperatorError;
use muster_engine::access::AccessDenied;
use muster_store::{ErrorKind, StoreError};
use std::time::Duration;

/// The kinds of problems: a stable word, its HTTP status, and its meaning.
pub(crate) const KINDS: [(&str, StatusCode, &str); 13] = [
    ("invalid_request", StatusCode::BAD_REQUEST, "The request is not what this route takes"),
    ("unauthorized", StatusCode::UNAUTHORIZED, "No valid token came with the request"),
    ("forbidden", StatusCode::FORBIDDEN, "The token does not allow this"),
    ("not_found", StatusCode::NOT_FOUND, "There is no such thing"),
    ("method_not_allowed", StatusCode::METHOD_NOT_ALLOWED, "This route does not take this method"),
    ("timeout", StatusCode::REQUEST_TIMEOUT, "The request came too slowly"),
    ("conflict", StatusCode::CONFLICT, "It contradicts what is there"),
    ("too_large", StatusCode::PAYLOAD_TOO_LARGE, "The request is too large"),
    ("unsupported_media_type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not of the kind this route takes"),
    ("signature_refused", StatusCode::UNPROCESSABLE_ENTITY, "A signature does not count"),
    ("too_many_requests", StatusCode::TOO_MANY_REQUESTS, "Too many wrong tokens from this address"),
    ("internal", StatusCode::INTERNAL_SERVER_ERROR, "The server failed"),
    ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "The server cannot do this now"),
];

/// Why a request was not done. Its text is for the person who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// One of [`KINDS`].
    pub(crate) kind: &'static str,
    /// What failed, on what, why, and what to do next.
    pub(crate) detail: String,
    /// When to come again, where that is known.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    fn new(kind: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None }
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new("invalid_request", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new("not_found", detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new("conflict", detail)
    }

    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new("unauthorized", detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new("forbidden", detail)
    }

    pub(crate) fn too_large(bytes_max: usize) -> Self {
        Self::new("too_large", format!("the body may have {bytes_max} bytes at most"))
    }

    pub(crate) fn timeout() -> Self {
        Self::new("timeout", "the body came too slowly, send it again")
    }

    pub(crate) fn method_not_allowed(allowed: &str) -> Self {
        Self::new("method_not_allowed", format!("this route takes {allowed}"))
    }

    pub(crate) fn unsupported(detail: impl Into<String>) -> Self {
        Self::new("unsupported_media_type", detail)
    }

    pub(crate) fn too_many(retry_after: Duration) -> Self {
        let detail = format!("too many wrong tokens came from this address, try again in {} s", retry_after.as_secs());
        Self { retry_after: Some(retry_after), ..Self::new("too_many_requests", detail) }
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self { retry_after: Some(Duration::from_secs(1)), ..Self::new("unavailable", detail) }
    }

    /// Logs `error` and says nothing of it but that the log has more.
    pub(crate) fn internal(doing: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %Chain(error), "could not {doing}");
        Self::new("internal", format!("could not {doing}; the server's log says why, under this request's id"))
    }

    /// Takes the failure of a framework's answer that has no problem of its own.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let kind = KINDS.iter().find(|(_, of, _)| *of == status).or_else(|| {
            let wanted = if status.is_server_error() { "internal" } else { "invalid_request" };
            KINDS.iter().find(|(kind, _, _)| *kind == wanted)
        });
        let (kind, _, title) = kind.expect("both kinds are listed");
        Self::new(kind, *title)
    }

    /// Status and meaning of its kind.
    pub(crate) fn status(&self) -> (StatusCode, &'static str) {
        let kind = KINDS.iter().find(|(kind, _, _)| *kind == self.kind);
        kind.map_or((StatusCode::INTERNAL_SERVER_ERROR, "The server failed"), |(_, status, title)| (*status, title))
    }

    /// Words a failure of the store while `doing` something.
    pub(crate) fn of_store(doing: &'static str, error: &StoreError) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::not_found(error.to_string()),
            ErrorKind::Exists | ErrorKind::Refused => Self::conflict(error.to_string()),
            ErrorKind::Invalid => Self::invalid(error.to_string()),
            ErrorKind::Full => {
                tracing::error!(error = %Chain(error), "could not {doing}");
                Self::unavailable(format!("could not {doing}: the disk of the database is full, make room"))
            }
            _ if error.is_passing() => {
                tracing::warn!(error = %Chain(error), "could not {doing}");
                Self::unavailable(format!("could not {doing}: the database cannot be used now, try again"))
            }
            _ => Self::internal(doing, error),
        }
    }
}

impl From<OperatorError> for Failure {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::Invalid(detail) => Self::invalid(detail),
            OperatorError::Denied(denied) => denied.into(),
            OperatorError::Signature(detail) => Self::new("signature_refused", detail),
            OperatorError::NotFound(detail) => Self::not_found(detail),
            OperatorError::Conflict(detail) => Self::conflict(detail),
            OperatorError::Store { doing, source } => Self::of_store(doing, &source),
        }
    }
}

impl From<AccessDenied> for Failure {
    fn from(denied: AccessDenied) -> Self {
        Self::forbidden(denied.to_string())
    }
}

impl IntoResponse for Failure {
    /// Leaves the body to the last layer, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status().0.into_response();
        if let Some(after) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if self.kind == "unauthorized" {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Adds what was tried to a store's failure.
pub(crate) trait Doing<T> {
    /// Words the failure of `doing`.
    fn doing(self, doing: &'static str) -> Result<T, Failure>;
}

impl<T> Doing<T> for Result<T, StoreError> {
    fn doing(self, doing: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::of_store(doing, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_status_of_its_own() {
        for (kind, status, _) in KINDS {
            assert_eq!(Failure::of_status(status).kind, kind);
        }
        assert_eq!(Failure::of_status(StatusCode::IM_A_TEAPOT).kind, "invalid_request");
        assert_eq!(Failure::of_status(StatusCode::BAD_GATEWAY).kind, "internal");
    }

    #[test]
    fn every_kind_is_explained() {
        let page = include_str!("../../../../docs/reference/errors.md");
        let headings: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, KINDS.map(|(kind, _, _)| kind));
        for (kind, status, _) in KINDS {
            assert!(page.contains(&format!("## {kind}\n\n{}. ", status.as_u16())), "{kind} has another status");
        }
    }

    #[test]
    fn a_failed_statement_is_not_shown() {
        let error = StoreError::Statement("syntax error near SELECT".into());
        let failure = Failure::of_store("list agents", &error);
        assert_eq!(failure.status().0, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!failure.detail.contains("SELECT"), "{}", failure.detail);
    }

    #[test]
    fn a_passing_failure_says_when_to_come_again() {
        let failure = Failure::of_store("list agents", &StoreError::Unavailable("gone".into()));
        assert_eq!(failure.into_response().headers()[header::RETRY_AFTER], "1");
    }
}
