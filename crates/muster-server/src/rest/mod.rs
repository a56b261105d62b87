//! The operators' door: the REST API, its OpenAPI document, metrics and health. MIG's API (`mig`) stands beside it.
//!
//! Stays true: a route that is not in the permission table is closed; every answer that is no success is a problem
//! document; what a request may hold and what an answer shows are the types of muster-api and no others; every change
//! carries its cause into the journal. Not here: rules (the engine), rows (the store), sockets (`door`).

mod actions;
mod agents;
mod broadcasts;
mod enrolment;
mod events;
mod files;
mod health;
mod host;
pub(crate) mod input;
mod investigators;
pub(crate) mod layers;
mod messages;
mod openapi;
mod orders;
mod pages;
mod patience;
mod permission;
pub(crate) mod problem;
mod reports;
mod results;
mod server;
mod services;
mod targets;
mod tokens;
mod trust;

#[cfg(test)]
pub(crate) mod tests;

pub(crate) mod door;

pub use health::{CertificateDates, Health};
pub(crate) use server::copies_sweep;

/// How each part of the server stands: its name, and why it is not ready.
pub(crate) async fn health_parts(rest: &Rest) -> Vec<(&'static str, Option<String>)> {
    health::parts(rest).await.into_iter().map(|part| (part.name, part.failure)).collect()
}

use crate::auth::Gate;
use crate::config::Config;
use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use muster_core::{Clock, Timestamp};
use muster_engine::{Engine, Random};
use std::ops::Deref;
use std::sync::Arc;

/// What the routes work with.
#[derive(Clone)]
pub struct Rest(Arc<Parts>);

/// See [`Rest`].
pub struct Parts {
    /// What the server does.
    pub engine: Engine,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where random bytes come from.
    pub random: Arc<dyn Random>,
    /// How the server was configured.
    pub config: Arc<Config>,
    /// Names and kinds of the services of this server, built-in ones first.
    pub services: Vec<(String, &'static str)>,
    /// Renders the metrics page.
    pub metrics: PrometheusHandle,
    /// How the server stands.
    pub health: Health,
    /// The certificate of the authority that agents trust, PEM.
    pub trust_pem: String,
    /// When this server started.
    pub started: Timestamp,
    /// What `GET /doctor` looks at.
    pub doctor: crate::doctor::Doctor,
    /// Counts wrong tokens.
    pub(crate) gate: Gate,
    /// Held while a backup is written.
    pub(crate) backup: tokio::sync::Mutex<()>,
}

impl Deref for Rest {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Rest {
    /// Shares the parts among requests.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// All routes with their layers.
    pub fn router(&self) -> Router {
        let (router, document) = openapi::routes();
        let router = router
            .merge(openapi::document_route(&document))
            .layer(axum::middleware::from_fn_with_state(self.clone(), layers::guard));
        // Of two routers that are merged, the second says what becomes of paths that are no route.
        crate::mig::router(self)
            .merge(router)
            .layer(axum::middleware::from_fn_with_state(self.clone(), host::check))
            .layer(axum::middleware::from_fn_with_state(self.clone(), layers::observe))
            .with_state(self.clone())
    }

    /// Draws `N` random bytes, as hexadecimal digits.
    fn random_hex<const N: usize>(&self) -> String {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes);
        hex::encode(bytes)
    }
}
