//! Whether the server lives, whether it can do its work, and its figures.

use super::Rest;
use super::problem::Failure;
use crate::listener_certificates::Presented;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use muster_core::Timestamp;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use utoipa::ToSchema;

/// How long the database may take to answer a question about its health.
const PING_MAX: Duration = Duration::from_secs(2);

/// Returns from when to when the certificate of the agents' door is valid; `None` when it has none.
pub type CertificateDates = Arc<dyn Fn() -> Option<(Timestamp, Timestamp)> + Send + Sync>;

/// What is asked about the server's health.
#[derive(Clone)]
pub struct Health {
    /// Whether everything is started and nothing has broken.
    pub running: Arc<AtomicBool>,
    /// When the certificate of the agents' door is valid.
    pub certificate: CertificateDates,
    /// What the listeners present.
    pub presented: Arc<dyn Fn() -> Vec<Presented> + Send + Sync>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("running", &self.running).finish_non_exhaustive()
    }
}

/// How one part of the server stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Part {
    /// `engine`, `database` or `certificate`.
    pub(crate) name: &'static str,
    /// Why it is not ready; absent when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
}

/// Says that the process lives, nothing more.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, description = "It lives", body = String)))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Says whether the server can do its work: engine, database with its schema, and certificate; 503 with what fails.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, description = "It is ready", body = Vec<Part>)))]
pub(crate) async fn readyz(State(rest): State<Rest>) -> Result<Response, Failure> {
    let parts = parts(&rest).await;
    let failed: Vec<_> =
        parts.iter().filter_map(|part| Some(format!("{}: {}", part.name, part.failure.as_ref()?))).collect();
    if failed.is_empty() {
        return Ok(axum::Json(parts).into_response());
    }
    Err(Failure::unavailable(failed.join("; ")))
}

/// Looks at each part.
pub(crate) async fn parts(rest: &Rest) -> Vec<Part> {
    let running = rest.health.running.load(Ordering::Relaxed);
    let engine = (!running).then(|| "it is starting, stopping or broken".to_owned());
    let database = match tokio::time::timeout(PING_MAX, rest.engine.store().ping()).await {
        Err(_) => Some(format!("it did not answer within {} s", PING_MAX.as_secs())),
        Ok(Err(error)) => Some(error.to_string()),
        Ok(Ok(())) => full(rest).await,
    };
    let certificate = (rest.health.certificate)().and_then(|dates| invalid(dates, rest.clock.now()));
    vec![
        Part { name: "engine", failure: engine },
        Part { name: "database", failure: database },
        Part { name: "certificate", failure: certificate },
    ]
}

/// Why nothing can be stored for want of room. What the database cannot say in time is no reason: it answered just now.
async fn full(rest: &Rest) -> Option<String> {
    tokio::time::timeout(PING_MAX, rest.engine.database_full()).await.ok().flatten()
}

fn invalid((from, until): (Timestamp, Timestamp), now: Timestamp) -> Option<String> {
    if now < from {
        return Some(format!("it is valid from {from}, look at the clock of this machine"));
    }
    (now >= until).then(|| format!("it ended {until}, restart the server to get a new one"))
}

/// The figures of this server, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, description = "Text format 0.0.4", body = String)))]
pub(crate) async fn metrics(State(rest): State<Rest>) -> Response {
    crate::observe::process_figures();
    for Presented { section, dates: (_, until), failure, .. } in (rest.health.presented)() {
        let remaining = until.since(rest.clock.now()).as_secs_f64();
        metrics::gauge!("muster_certificate_remaining_seconds", "listener" => section).set(remaining);
        let failed = if failure.is_some() { 1.0 } else { 0.0 };
        metrics::gauge!("muster_certificate_reload_failed", "listener" => section).set(failed);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], rest.metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_valid_between_its_dates() {
        let dates = (Timestamp::from_secs(10), Timestamp::from_secs(20));
        assert!(invalid(dates, Timestamp::from_secs(9)).unwrap().contains("clock"));
        assert_eq!(invalid(dates, Timestamp::from_secs(10)), None);
        assert!(invalid(dates, Timestamp::from_secs(20)).unwrap().contains("ended"));
    }
}
