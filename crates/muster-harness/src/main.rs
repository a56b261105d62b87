//! The program behind `cargo xtask demo`, `crash`, `bench`, `interop` and `openapi`.

mod bench;
mod crash;
mod demo;
mod interop;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use muster_harness::postgres::{Durability, Postgres, URL_VARIABLE};
use muster_harness::programs::workspace;
use muster_harness::server::Setup;
use std::path::PathBuf;
use std::process::Command;

#[derive(Debug, Parser)]
#[command(name = "muster-harness", about = "Drives real Muster processes")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Start a server and this machine's agent and show what the machine is
    Demo(demo::Args),
    /// Break real processes under load and count what is lost
    #[command(subcommand)]
    Crash(crash::Kind),
    /// Measure servers over the wire
    Bench(bench::Args),
    /// Measure signed actions on real processes
    BenchActions(bench::orders::Args),
    /// Run our agent against a peer
    #[command(subcommand)]
    Interop(interop::Peer),
    /// Write the OpenAPI document that a server gives out, and compare it with the one kept beside the code
    Openapi {
        /// Where to
        path: PathBuf,
    },
    /// Run a command with a private PostgreSQL, named by MUSTER_TEST_POSTGRES
    WithPostgres {
        /// Let it wait for its disk, as an installation does
        #[arg(long)]
        durable: bool,
        /// The command
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    match Args::parse().task {
        Task::Demo(args) => demo::run(args).await,
        Task::Crash(kind) => crash::run(kind).await,
        Task::Bench(args) => bench::run(args).await,
        Task::BenchActions(args) => bench::orders::run(args).await,
        Task::Interop(peer) => interop::run(peer).await,
        Task::Openapi { path } => openapi(path).await,
        Task::WithPostgres { durable, command } => with_postgres(durable, &command).await,
    }
}

async fn openapi(path: PathBuf) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let server = Setup::new(directory.path().join("server")).start().await?;
    let (status, text) = server.rest.outside("/api/openapi.json").await?;
    if !status.is_success() {
        bail!("/api/openapi.json was answered {status}: {text}");
    }
    let document: serde_json::Value = serde_json::from_str(&text).context("the document is not JSON")?;
    let routes = document["paths"].as_object().context("the document has no paths")?.len();
    std::fs::write(&path, &text).with_context(|| format!("writing {}", path.display()))?;
    println!("{}: {routes} routes", path.display());
    let kept = workspace().join("crates/muster-server/golden/openapi.json");
    if std::fs::read_to_string(&kept).with_context(|| format!("reading {}", kept.display()))? != text {
        bail!("{} is old: run the tests of muster-server with UPDATE_GOLDEN=1", kept.display());
    }
    Ok(())
}

async fn with_postgres(durable: bool, command: &[String]) -> Result<()> {
    let durability = if durable { Durability::Full } else { Durability::ProcessOnly };
    let cluster = Postgres::start(durability).await?;
    let mut child = Command::new(&command[0]);
    child.args(&command[1..]).env(URL_VARIABLE, cluster.url("postgres"));
    let status = child.status().with_context(|| format!("starting {}", command[0]))?;
    if !status.success() {
        bail!("{} ended with {status}", command.join(" "));
    }
    Ok(())
}
