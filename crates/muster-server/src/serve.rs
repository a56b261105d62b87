//! A server's life: everything is put together here, in one flat list, and taken apart again at the end.

use crate::Config;

/// The file of the data directory that names the addresses of a running server.
pub const ADDRESSES: &str = "addresses.json";

/// Why a server did not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[error("could not {doing}")]
pub struct ServeError {
    /// What was tried.
    pub doing: String,
    /// Why it failed.
    #[source]
    pub source: anyhow::Error,
}

/// Runs a server until SIGTERM or SIGINT; returns once everything that was acknowledged is durable and every door is
/// closed. The addresses that were bound stand in `DATA/addresses.json` while it runs.
///
/// Needs a running tokio runtime, and a process-wide rustls provider (aws-lc-rs), which it installs when there is none.
pub async fn run(config: Config) -> Result<(), ServeError> {
    let _ = config;
    Err(ServeError { doing: "start".into(), source: anyhow::anyhow!("the engine is not wired in yet") })
}
