//! How the services of the server keep up with their messages.

use super::Rest;
use super::problem::{Doing, Failure};
use axum::Json;
use axum::extract::State;
use muster_api::messages::ServiceRow;
use muster_store::messages::ServiceBacklog;
use std::collections::BTreeMap;

/// Lists services: those of this server, and those that messages wait for in vain.
#[utoipa::path(get, path = "/api/v1/services", tag = "services", responses((status = 200, body = Vec<ServiceRow>)))]
pub(crate) async fn service_list(State(rest): State<Rest>) -> Result<Json<Vec<ServiceRow>>, Failure> {
    let backlog = rest.engine.store().message_backlog().await.doing("count waiting messages")?;
    let mut backlog: BTreeMap<_, _> = backlog.into_iter().map(|row| (row.service.clone(), row)).collect();
    let now = rest.clock.now();
    let row = |name: &str, kind: &str, backlog: Option<ServiceBacklog>| ServiceRow {
        name: name.to_owned(),
        kind: kind.to_owned(),
        pending: backlog.as_ref().map_or(0, |row| row.pending),
        lag_seconds: backlog.as_ref().and_then(|row| row.oldest).map(|oldest| now.since(oldest).as_secs_f64()),
        parked: backlog.as_ref().map_or(0, |row| row.parked),
        last_error: backlog.and_then(|row| row.last_error),
    };
    let mut rows: Vec<_> = rest.services.iter().map(|(name, kind)| row(name, kind, backlog.remove(name))).collect();
    rows.extend(backlog.into_iter().map(|(name, waiting)| row(&name, "unknown", Some(waiting))));
    Ok(Json(rows))
}
