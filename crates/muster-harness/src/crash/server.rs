//! A server is killed at a random moment under load, and started again.

use super::rig::{self, Rig};
use super::{Backend, Load, Score};
use anyhow::Result;
use muster_harness::ledger::Findings;
use rand::RngExt as _;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Cycles between two checks: a check reads everything, a cycle takes a second.
const CHECK_EVERY: u32 = 5;
/// How soon acknowledgements flow again after a restart.
const BACK_CEILING: Duration = Duration::from_secs(20);

/// Runs the cycles.
pub(super) async fn run(backend: Backend, load: Load) -> Result<Score> {
    let mut rig = Rig::start(backend, load, None, &[]).await?;
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
