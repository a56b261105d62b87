//! Errors as gRPC says them.

use http::{HeaderValue, Response};
use muster_engine::OperatorError;
use muster_proto::convert::ConvertError;
use muster_store::{ErrorKind, StoreError};
use std::error::Error;
use tonic::body::Body;
use tonic::{Code, Status};

/// What the gRPC library says of a request that does not decode.
const DECODE_FAILED: &str = "failed%20to%20decode%20Protobuf%20message";

/// An error with all its causes, for the log.
struct Chain<'a>(&'a dyn Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Says why the store did not `doing` it. What a caller cannot help is logged here and shown without its causes.
pub(super) fn of_store(doing: &str, error: &StoreError) -> Status {
    let code = match error.kind() {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Exists => Code::AlreadyExists,
        ErrorKind::Refused => Code::FailedPrecondition,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Unavailable | ErrorKind::Unknown => Code::Unavailable,
        ErrorKind::Full => Code::ResourceExhausted,
        ErrorKind::Broken | ErrorKind::Schema | ErrorKind::Inconsistent | ErrorKind::Statement => Code::Internal,
    };
    match code {
        Code::Unavailable | Code::ResourceExhausted => {
            tracing::warn!(error = %Chain(error), "admin: could not {doing}");
            Status::new(code, format!("could not {doing}: {error}; try again later"))
        }
        Code::Internal => {
            tracing::error!(error = %Chain(error), "admin: could not {doing}");
            Status::new(code, format!("could not {doing}: see the server's log"))
        }
        _ => Status::new(code, error.to_string()),
    }
}

/// Says why the engine did not do what an operator asked.
pub(super) fn of_operator(error: OperatorError) -> Status {
    match error {
        OperatorError::Invalid(text) | OperatorError::Signature(text) => Status::invalid_argument(text),
        OperatorError::Denied(denied) => Status::permission_denied(denied.to_string()),
        OperatorError::NotFound(text) => Status::not_found(text),
        OperatorError::Conflict(text) => Status::already_exists(text),
        OperatorError::Store { doing, source } => of_store(doing, &source),
    }
}

/// Says what is wrong with a request. The form of the text about an id is the original's.
pub(super) fn of_convert(error: ConvertError) -> Status {
    Status::invalid_argument(match error {
        ConvertError::Id { field, source } => format!("error parsing {field} ({source})"),
        other => other.to_string(),
    })
}

/// Replaces codes of the gRPC library by those that other implementations answer with: a request that is too long is
/// `RESOURCE_EXHAUSTED` everywhere else, and one that does not decode is the caller's mistake, not ours.
pub(super) fn corrected(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    let code = headers.get("grpc-status").map(HeaderValue::as_bytes);
    let text = headers.get("grpc-message").map(HeaderValue::as_bytes).unwrap_or_default();
    let correct = match code {
        Some(b"11") => Some(Code::ResourceExhausted),
        Some(b"13") if text.starts_with(DECODE_FAILED.as_bytes()) => Some(Code::InvalidArgument),
        _ => None,
    };
    if let Some(code) = correct {
        headers.insert("grpc-status", HeaderValue::from(code as i32));
    }
    response
}

/// Returns the code of an answer, as a word for metrics. A stream that breaks later still counts as begun.
pub(super) fn code_of(response: &Response<Body>) -> &'static str {
    let Some(code) = response.headers().get("grpc-status") else { return "ok" };
    match Code::from_bytes(code.as_bytes()) {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::Unauthenticated => "unauthenticated",
        Code::Aborted | Code::OutOfRange | Code::DataLoss | Code::Unknown => "other",
    }
}
