//! How the services of the server keep up with their messages.

use super::Rest;
use super::problem::{Doing, Failure};
use axum::Json;
use axum::extract::State;
use muster_api::Page;
use muster_api::messages::ServiceRow;
use muster_core::{Timestamp, limits};
use muster_engine::ServiceState;
use muster_store::agents::DeadLetterCount;
use muster_store::messages::ServiceBacklog;
use std::collections::BTreeMap;

/// Lists services: those of this server, and those that messages wait for in vain.
#[utoipa::path(get, path = "/api/v1/services", tag = "services", responses((status = 200, body = Page<ServiceRow>)))]
pub(crate) async fn service_list(State(rest): State<Rest>) -> Result<Json<Page<ServiceRow>>, Failure> {
    let backlog = rest.engine.store().message_backlog().await.doing("count waiting messages")?;
    let mut backlog: BTreeMap<_, _> = backlog.into_iter().map(|row| (row.service.clone(), row)).collect();
    let now = rest.clock.now();
    let lost = rest.engine.store().dead_letter_counts(now.minus(limits::DEAD_LETTERS_NEWS)).await;
    let lost = lost.doing("count lost messages")?;
    let mut lost: BTreeMap<_, _> = lost.into_iter().map(|row| (row.service.clone(), row)).collect();
    let mut states: BTreeMap<_, _> =
        rest.engine.service_states().into_iter().map(|state| (state.service.clone(), state)).collect();
    let mut row = |name: &str, kind: &str, backlog: Option<ServiceBacklog>| {
        Known { backlog, state: states.remove(name), lost: lost.remove(name) }.row(name, kind, now)
    };
    let mut rows: Vec<_> = rest.services.iter().map(|(name, kind)| row(name, kind, backlog.remove(name))).collect();
    rows.extend(backlog.into_iter().map(|(name, waiting)| row(&name, "unknown", Some(waiting))));
    // What named no service at all is among the dead letters only.
    let strangers = lost.into_iter().filter(|(name, _)| !name.is_empty());
    rows.extend(
        strangers.map(|(name, lost)| Known { backlog: None, state: None, lost: Some(lost) }.row(&name, "unknown", now)),
    );
    Ok(Json(rows.into_iter().collect()))
}

/// What is known of one service.
struct Known {
    backlog: Option<ServiceBacklog>,
    state: Option<ServiceState>,
    lost: Option<DeadLetterCount>,
}

impl Known {
    fn row(self, name: &str, kind: &str, now: Timestamp) -> ServiceRow {
        let Self { backlog, state, lost } = self;
        ServiceRow {
            name: name.to_owned(),
            kind: kind.to_owned(),
            pending: backlog.as_ref().map_or(0, |row| row.pending),
            lag_seconds: backlog.as_ref().and_then(|row| row.oldest).map(|oldest| now.since(oldest).as_secs_f64()),
            parked: backlog.as_ref().map_or(0, |row| row.parked),
            last_error: backlog.and_then(|row| row.last_error),
            state: state.as_ref().map(|state| state.condition.word().to_owned()),
            since: state.and_then(|state| state.since).map(|since| since.to_string()),
            lost: lost.as_ref().map_or(0, |lost| lost.letters),
            lost_reason: lost.map(|lost| lost.reason),
        }
    }
}
