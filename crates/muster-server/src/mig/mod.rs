//! MIG's API under `/mig/api/v1` of the operators' door, for MIG's own programs: the routes, envelopes, words and
//! permissions that they know, on what Muster remembers.
//!
//! Stays true: a route that is not in the permission table is not there; nobody is let in without the signature or the
//! API key of an active investigator, however few of them there are; an action takes the same way as over REST; a
//! question never fails for what it holds. Not here: rules (the engine), rows (the store).

mod absent;
mod access;
mod actions;
mod agents;
mod body;
mod dashboard;
mod envelope;
mod heartbeat;
mod people;
mod permission;
mod query;
mod search;
mod show;

#[cfg(test)]
mod tests;

use crate::rest::Rest;
use axum::Router;
use axum::routing::{any, get, post};

/// Where the API begins.
const ROOT: &str = "/mig/api/v1";

/// All routes with their layer; none when the API is switched off.
pub(crate) fn router(rest: &Rest) -> Router<Rest> {
    if !rest.config.mig.enabled {
        return Router::new();
    }
    let at = |path: &str| format!("{ROOT}{path}");
    Router::new()
        .route(&at("/"), get(heartbeat::greet))
        .route(&at("/heartbeat"), get(heartbeat::greet).post(heartbeat::take))
        .route(&at("/ip"), get(heartbeat::address))
        .route(&at("/publickey/{fingerprint}"), get(people::public_key))
        .route(&at("/dashboard"), get(dashboard::dashboard))
        .route(&at("/action"), get(actions::action))
        .route(&at("/action/create/"), post(actions::create))
        .route(&at("/command"), get(actions::command))
        .route(&at("/agent"), get(agents::agent))
        .route(&at("/search"), get(search::search))
        .route(&at("/investigator"), get(people::investigator))
        .route(&at("/investigator/create/"), post(people::create))
        .route(&at("/investigator/update/"), post(people::update))
        .route(&at("/loader"), get(absent::loader))
        .route(&at("/loader/new/"), post(absent::create))
        .route(&at("/loader/status/"), post(absent::loader_change))
        .route(&at("/loader/expect/"), post(absent::loader_change))
        .route(&at("/loader/key/"), post(absent::loader_change))
        .route(&at("/manifest"), get(absent::manifest))
        .route(&at("/manifest/new/"), post(absent::create))
        .route(&at("/manifest/sign/"), post(absent::manifest_change))
        .route(&at("/manifest/status/"), post(absent::manifest_change))
        .route(&at("/manifest/loaders/"), get(absent::manifest_loaders))
        .route(&at("/manifest/agent/"), post(absent::never))
        .route(&at("/manifest/fetch/"), post(absent::never))
        .route(&at("/{*rest}"), any(absent::never))
        .layer(axum::middleware::from_fn_with_state(rest.clone(), access::guard))
}
