//! PostgreSQL goes away under running servers, in one of three ways, and comes back.

use super::rig::{self, Rig};
use super::{Backend, Load, Score};
use anyhow::{Context, Result, ensure};
use rand::RngExt as _;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// How soon acknowledgements flow again once the database answers. Goal: two seconds; the rest is for a busy machine.
const BACK_CEILING: Duration = Duration::from_secs(15);

/// Runs the cycles.
pub(super) async fn run(load: Load) -> Result<Score> {
    let mut rig = Rig::start(Backend::Postgres, load, None, &[]).await?;
    let mut score = Score::default();
    for cycle in 1..=load.cycles {
        let after = rig.any_moment().await;
        let way = ["killed", "disconnected"][rig.random.random_range(0..2)];
        let outcome = one_cycle(&mut rig, way).await;
        let checked = rig.check().await;
        let figures = json!({
            "after_ms": after, "way": way, "back_ms": outcome.as_ref().ok(),
            "error": outcome.as_ref().err().or(checked.as_ref().err()).map(|error| format!("{error:#}")),
        });
        rig::report("database", cycle, &figures, checked.as_ref().ok());
        score.cycle(outcome.is_ok(), Some(checked.is_ok_and(|findings| findings.sound())));
    }
    rig.close().await?;
    Ok(score)
}

/// Returns how many milliseconds after the database's return the first acknowledgement came.
async fn one_cycle(rig: &mut Rig, way: &str) -> Result<u128> {
    let cluster = rig.cluster.as_mut().context("this run has a PostgreSQL")?;
    if way == "killed" {
        cluster.kill()?;
        cluster.start_again().await?;
    } else {
        cluster.disconnect_all("muster").await?;
    }
    let back = Instant::now();
    rig.acknowledges_again(BACK_CEILING).await?;
    let elapsed = back.elapsed().as_millis();
    for server in &mut rig.servers {
        let ended = server.process.ended()?;
        ensure!(ended.is_none(), "a server ended with the database ({ended:?}): {}", server.process.log_tail());
    }
    Ok(elapsed)
}
