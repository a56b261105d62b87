//! What is measured: a fresh server, started for the purpose.

use anyhow::{Result, bail};
use clap::ValueEnum;
use muster_harness::original::Original;
use muster_harness::postgres::{self, Durability, Postgres};
use muster_harness::server::{Server, Setup};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

const SERVICES: &str = "services { name: \"load\" factory: \"NOOP\" }\n";
/// All load comes from one network, which an enrolment limit would rightly slow down.
const CONFIG: &str = "[enrolment]\nper_minute = 0\n";

/// Which server on which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Kind {
    /// Ours on the embedded database
    Sqlite,
    /// Ours on PostgreSQL
    Postgres,
    /// The original on MariaDB
    Fleetspeak,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "muster, SQLite",
            Self::Postgres => "muster, PostgreSQL",
            Self::Fleetspeak => "fleetspeak, MariaDB",
        }
    }
}

/// A running server.
pub(super) struct Target {
    running: Running,
    start_time: Duration,
    resident_after_start: u64,
}

enum Running {
    Ours { server: Box<Server>, cluster: Option<Postgres>, directory: TempDir },
    Original(Box<Original>),
}

impl Target {
    pub(super) async fn start(kind: Kind) -> Result<Self> {
        if kind == Kind::Fleetspeak {
            let original = Original::start(SERVICES).await?;
            let (start_time, resident) = (original.start, original.process.resident_bytes()?);
            let running = Running::Original(Box::new(original));
            return Ok(Self { running, start_time, resident_after_start: resident });
        }
        let directory = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
        let mut setup = Setup::new(directory.path().join("server")).services(SERVICES).config(CONFIG);
        let mut cluster = None;
        if kind == Kind::Postgres {
            let started = Postgres::start(Durability::Full).await?;
            postgres::execute(&started.url("postgres"), "CREATE DATABASE bench").await?;
            setup.database = Some(started.url("bench"));
            cluster = Some(started);
        }
        // The first start makes keys and tables; the second is what a restart costs.
        let mut first = setup.start().await?;
        first.process.terminate()?;
        first.process.wait(Duration::from_secs(20)).await?;
        let began = Instant::now();
        first.restart().await?;
        let (start_time, resident) = (began.elapsed(), first.process.resident_bytes()?);
        let running = Running::Ours { server: Box::new(first), cluster, directory };
        Ok(Self { running, start_time, resident_after_start: resident })
    }

    /// Ends it, the server before its database.
    pub(super) fn stop(self) -> Result<()> {
        match self.running {
            Running::Ours { mut server, cluster, directory } => {
                server.process.kill()?;
                drop(cluster);
                directory.close()?;
            }
            Running::Original(mut original) => original.process.kill()?,
        }
        Ok(())
    }

    pub(super) fn start_time(&self) -> Duration {
        self.start_time
    }

    pub(super) fn resident_after_start(&self) -> f64 {
        bytes(self.resident_after_start)
    }

    pub(super) fn resident(&self) -> Result<f64> {
        Ok(bytes(match &self.running {
            Running::Ours { server, .. } => server.process.resident_bytes()?,
            Running::Original(original) => original.process.resident_bytes()?,
        }))
    }

    pub(super) fn agents(&self) -> SocketAddr {
        match &self.running {
            Running::Ours { server, .. } => server.addresses.agents,
            Running::Original(original) => original.agents,
        }
    }

    pub(super) fn admin(&self) -> String {
        match &self.running {
            Running::Ours { server, .. } => server.addresses.admin.to_string(),
            Running::Original(original) => original.admin.to_string(),
        }
    }

    /// Returns our server, for jobs that only exist for it.
    pub(super) fn ours(&self) -> Option<(&Server, &TempDir)> {
        match &self.running {
            Running::Ours { server, directory, .. } => Some((server, directory)),
            Running::Original(_) => None,
        }
    }

    /// Fails when the server has ended, with what it printed.
    pub(super) fn log_tail(&self) -> String {
        match &self.running {
            Running::Ours { server, .. } => server.process.log_tail(),
            Running::Original(original) => original.process.log_tail(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a process has far less than 2^53 bytes")]
fn bytes(count: u64) -> f64 {
    count as f64
}

/// Fails with what the server printed, when a job did.
pub(super) fn with_log<T>(result: Result<T>, target: &Target) -> Result<T> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => bail!("{error:#}; the server printed: {}", target.log_tail()),
    }
}
