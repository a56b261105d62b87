//! Short answers: a status and a line of text for people.

use super::body::Body;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use muster_engine::{Refusal, RefusalCode};
use std::time::Duration;

/// An answer without a payload, usually a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) text: String,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
    /// Whether the connection is of no more use: part of a request is still on its way.
    close: bool,
}

impl Answer {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), retry_after: None, allow: None, close: false }
    }

    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// The same, and the connection closed after it.
    pub(super) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The same, with the methods that would have been right.
    pub(super) fn allowing(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    pub(super) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.code {
            RefusalCode::KeyMismatch | RefusalCode::Deleted | RefusalCode::Blocked | RefusalCode::EnrolmentRefused => {
                StatusCode::FORBIDDEN
            }
            RefusalCode::EnrolmentRate | RefusalCode::AgentRate | RefusalCode::CloneWait => {
                StatusCode::TOO_MANY_REQUESTS
            }
            RefusalCode::NotAuthorized | RefusalCode::Unavailable | RefusalCode::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            RefusalCode::Malformed => StatusCode::BAD_REQUEST,
        };
        Self { retry_after: refusal.retry_after, ..Self::new(status, refusal.reason) }
    }
}

impl From<Answer> for Response<Body> {
    fn from(answer: Answer) -> Self {
        let mut response = Response::new(Body::full(format!("{}\n", answer.text)));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(wait) = answer.retry_after {
            // Rounded up: coming a moment too early would only be refused again.
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)));
        }
        if let Some(methods) = answer.allow {
            headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        if answer.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_status() {
        let status = |code| Answer::from(Refusal { code, reason: String::new(), retry_after: None }).status.as_u16();
        assert_eq!(status(RefusalCode::KeyMismatch), 403);
        assert_eq!(status(RefusalCode::Deleted), 403);
        assert_eq!(status(RefusalCode::Blocked), 403);
        assert_eq!(status(RefusalCode::CloneWait), 429);
        assert_eq!(status(RefusalCode::EnrolmentRefused), 403);
        assert_eq!(status(RefusalCode::EnrolmentRate), 429);
        assert_eq!(status(RefusalCode::AgentRate), 429);
        assert_eq!(status(RefusalCode::NotAuthorized), 503);
        assert_eq!(status(RefusalCode::Malformed), 400);
        assert_eq!(status(RefusalCode::Unavailable), 503);
        assert_eq!(status(RefusalCode::Stopping), 503);
    }

    #[test]
    fn a_wait_is_rounded_up() {
        let refusal = Refusal {
            code: RefusalCode::AgentRate,
            reason: "slow down".into(),
            retry_after: Some(Duration::from_millis(1001)),
        };
        let response = Response::from(Answer::from(refusal));
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }
}
