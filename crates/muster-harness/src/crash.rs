//! Fault runs: real servers and agents under load, broken on purpose, and the ledger held against what is left.
//!
//! Each cycle prints a JSON line, each run ends with `N passed, M failed`. A cycle passes when the fault was survived as
//! promised and the next check of the ledger found nothing lost and nothing twice.

mod actions;
mod agent;
mod database;
mod disk;
mod rig;
mod server;

use anyhow::{Result, ensure};
use clap::{Subcommand, ValueEnum};

/// What is broken.
#[derive(Debug, Subcommand)]
pub(crate) enum Kind {
    /// Kill a server at a random moment
    Server {
        /// On which database; on PostgreSQL there are two servers
        #[arg(long, value_enum, default_value_t = Backend::Sqlite)]
        backend: Backend,
        /// Begin with so many MiB of messages in the database
        #[arg(long, value_name = "MIB", default_value_t = 0)]
        filled: u64,
        #[command(flatten)]
        load: Load,
    },
    /// Kill PostgreSQL, or all connections to it, under a running server
    Database(#[command(flatten)] Load),
    /// Fill the disk under a running server
    DiskFull(#[command(flatten)] Load),
    /// Let a write to the disk fail
    Fsync(#[command(flatten)] Load),
    /// Kill an agent at a random moment
    Agent(#[command(flatten)] Load),
    /// Kill servers and agents at random moments of an action's life
    Actions(#[command(flatten)] actions::Args),
}

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// The embedded one
    Sqlite,
    /// A private PostgreSQL
    Postgres,
}

/// How much and how often.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Load {
    /// How often it is broken
    #[arg(long, default_value_t = 60)]
    pub(crate) cycles: u32,
    /// Where the random moments come from; drawn and printed unless told
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Agents that poll
    #[arg(long, default_value_t = 100)]
    pub(crate) polling: usize,
    /// Agents that hold a stream
    #[arg(long, default_value_t = 100)]
    pub(crate) streaming: usize,
}

/// How a run went.
#[derive(Debug, Default)]
pub(crate) struct Score {
    passed: u32,
    failed: u32,
    /// Cycles since the last check.
    unchecked: u32,
}

impl Score {
    /// Counts a cycle, and settles those before it when a check was made.
    fn cycle(&mut self, survived: bool, checked: Option<bool>) {
        if survived {
            self.unchecked += 1;
        } else {
            self.failed += 1;
        }
        match checked {
            Some(true) => self.passed += std::mem::take(&mut self.unchecked),
            Some(false) => self.failed += std::mem::take(&mut self.unchecked),
            None => {}
        }
    }
}

/// Runs it.
pub(crate) async fn run(kind: Kind) -> Result<()> {
    let score = match kind {
        Kind::Server { backend, filled, load } => server::run(backend, filled, load).await,
        Kind::Database(load) => database::run(load).await,
        Kind::DiskFull(load) => disk::full(load).await,
        Kind::Fsync(load) => disk::failing_sync(load).await,
        Kind::Agent(load) => agent::run(load).await,
        Kind::Actions(args) => actions::run(args).await,
    };
    rig::ledgers_end(score.as_ref().is_ok_and(|score| score.failed == 0 && score.passed > 0));
    let score = score?;
    println!("{} passed, {} failed", score.passed, score.failed);
    ensure!(score.failed == 0 && score.passed > 0, "not every cycle passed");
    Ok(())
}
