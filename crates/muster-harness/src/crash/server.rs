//! A server is killed at a random moment under load, and started again.

use super::rig::{self, Rig};
use super::{Backend, Load, Score};
use anyhow::{Context as _, Result};
use muster_harness::ledger::Findings;
use muster_harness::postgres;
use muster_harness::server::Server;
use rand::RngExt as _;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Cycles between two checks: a check reads everything, a cycle takes a second.
const CHECK_EVERY: u32 = 5;
/// How soon acknowledgements flow again after a restart.
const BACK_CEILING: Duration = Duration::from_secs(20);

/// A row of [`fill`] takes a little more than its body of 1,024 bytes.
const ROWS_PER_MIB: u64 = 800;
/// Rows of one statement: the server waits for it.
const ROWS_AT_ONCE: u64 = 10_000;
const COLUMNS: &str = "message_id, state, attempts, digest, source_service, source_message_id, destination_service, \
     message_type, created, type_url, data, priority, background, from_blocked";
/// How long the server may hold the embedded database's lock.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Puts messages that are done with into the database, past the server, which would take its time to receive them.
async fn fill(server: &Server, mib: u64) -> Result<()> {
    let row = |id: &str, now: &str, body: &str| {
        format!(
            "SELECT {id}, 1, 1, 0, 's', {id}, 's', 't', CAST({now} * 1e9 AS BIGINT), 'type', {body}, 1, 0, 0 FROM n"
        )
    };
    let batches = (mib * ROWS_PER_MIB).div_ceil(ROWS_AT_ONCE);
    if let Some(url) = server.database() {
        let rows = row(
            "sha256(uuid_send(gen_random_uuid()))",
            "extract(epoch FROM now())",
            "decode(repeat('5a', 1024), 'hex')",
        );
        for _ in 0..batches {
            let series = format!("WITH n AS (SELECT i FROM generate_series(1, {ROWS_AT_ONCE}) AS i)");
            postgres::execute(url, &format!("INSERT INTO messages ({COLUMNS}) {series} {rows}")).await?;
        }
        return Ok(());
    }
    let path = server.data().join("muster.db");
    let connection = rusqlite::Connection::open(&path).with_context(|| format!("opening {}", path.display()))?;
    connection.busy_timeout(LOCK_WAIT).context("setting how long to wait for the lock")?;
    let series = format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS_AT_ONCE})");
    let insert = format!(
        "INSERT INTO messages ({COLUMNS}) {series} {}",
        row("randomblob(32)", "unixepoch('subsec')", "randomblob(1024)")
    );
    for _ in 0..batches {
        connection.execute(&insert, []).with_context(|| format!("filling {}", path.display()))?;
    }
    Ok(())
}

/// Runs the cycles, on a database that holds `filled` MiB at first.
pub(super) async fn run(backend: Backend, filled: u64, load: Load) -> Result<Score> {
    let mut rig = Rig::start(backend, load, None, &[]).await?;
    fill(&rig.servers[0], filled).await?;
    let mut score = Score::default();
    let mut recoveries = Vec::new();
    let kind = if backend == Backend::Sqlite { "server-sqlite" } else { "server-postgres" };
    for cycle in 1..=load.cycles {
        let after = rig.any_moment().await;
        let victim = rig.random.random_range(0..rig.servers.len());
        let killed = Instant::now();
        rig.servers[victim].kill_and_restart().await?;
        let recovery = u64::try_from(killed.elapsed().as_millis())?;
        recoveries.push(recovery);
        let back = rig.acknowledges_again(BACK_CEILING).await;
        let checked = if cycle % CHECK_EVERY == 0 || cycle == load.cycles { Some(rig.check().await) } else { None };
        let findings = checked.as_ref().and_then(|result| result.as_ref().ok());
        let (sent, acked) = rig.ledger.progress();
        let error = back.as_ref().err().or(checked.as_ref().and_then(|result| result.as_ref().err()));
        let error = error.map(|error| format!("{error:#}"));
        let figures = json!({
            "after_ms": after, "victim": victim, "ready_again_ms": recovery, "sent": sent, "acked": acked, "error": error,
        });
        rig::report(kind, cycle, &figures, findings);
        let sound = checked.as_ref().map(|result| result.as_ref().is_ok_and(Findings::sound));
        score.cycle(back.is_ok(), sound);
    }
    recoveries.sort_unstable();
    let at = |percent: usize| recoveries.get((recoveries.len() * percent / 100).min(recoveries.len() - 1)).copied();
    println!("ready again after a kill: p50 {:?} ms, p99 {:?} ms", at(50).unwrap_or(0), at(99).unwrap_or(0));
    rig.close().await?;
    Ok(score)
}
