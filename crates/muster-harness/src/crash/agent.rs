//! An agent of ours is killed at random moments while it answers; every accepted message gets exactly one answer.

use super::rig;
use super::{Load, Score};
use anyhow::{Result, bail};
use muster_api::messages::MessageRow;
use muster_harness::agent::Agent;
use muster_harness::rest::Rest;
use muster_harness::server::Setup;
use muster_harness::{client, wait};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use std::time::Duration;

/// Messages sent around each kill.
const MESSAGES: usize = 20;
const CEILING: Duration = Duration::from_secs(60);

/// Runs the cycles.
pub(super) async fn run(load: Load) -> Result<Score> {
    let seed = load.seed.unwrap_or_else(rand::random);
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let directory = tempfile::Builder::new().prefix("muster-crash-agent-").tempdir()?;
    let server = Setup::new(directory.path().join("server")).start().await?;
    let mut agent = Agent::start(&server, &directory.path().join("agent"))?;
    let id = client::enrolled(&server, &[], CEILING).await?;
    let mut score = Score::default();
    for cycle in 1..=load.cycles {
        let pause = Duration::from_micros(random.random_range(0..100_000));
        let outcome = one_cycle(&server.rest, &id, &mut agent, pause).await;
        let error = outcome.as_ref().err().map(|error| format!("{error:#}"));
        let figures = json!({"after_us": pause.as_micros(), "messages": MESSAGES, "error": error});
        rig::report("agent", cycle, &figures, None);
        score.cycle(outcome.is_ok(), Some(true));
    }
    Ok(score)
}

async fn one_cycle(rest: &Rest, id: &str, agent: &mut Agent, pause: Duration) -> Result<()> {
    let mut asked = Vec::new();
    for number in 0..MESSAGES {
        asked.push(rest.send(id, "muster", "Echo", number.to_string().as_bytes()).await?.id);
    }
    tokio::time::sleep(pause).await;
    agent.kill_and_restart()?;
    for message in &asked {
        let answers = wait::until("an answer", CEILING, async || {
            let answers: Vec<MessageRow> = rest.all(&format!("/messages/{message}/answers")).await?;
            Ok((!answers.is_empty()).then_some(answers))
        })
        .await?;
        if answers.len() > 1 {
            bail!("message {message} was answered {} times", answers.len());
        }
    }
    Ok(())
}
