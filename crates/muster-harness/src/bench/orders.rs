//! Measurements of signed actions on real processes: how long an order takes from the request to its result on a machine
//! that is connected, and what a large fleet costs: spreading an action over it, and having all its commands open.
//!
//! Prints a JSON line for each figure, with its goal where there is one. A figure is what came out; nothing here fails
//! because it falls short. Not here: what the store and the signatures alone cost (their examples).

use super::fleet;
use super::target::{Kind, Target, with_log};
use anyhow::{Context, Result, bail};
use muster_api::actions::{ActionDetail, ActionLaunched, ActionRequest, Preview};
use muster_core::Timestamp;
use muster_harness::agent::Agent;
use muster_harness::client::enrolled;
use muster_harness::investigator::Investigator;
use muster_harness::server::Server;
use muster_harness::wait;
use reqwest::Method;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

const CEILING: Duration = Duration::from_secs(60);
/// The module of the orders whose way is measured: it reads the clock.
const MODULE: &str = "timedrift";

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Machines in the database
    #[arg(long, default_value_t = 100_000)]
    agents: u64,
    /// Orders whose time from the request to the result is taken
    #[arg(long, default_value_t = 100)]
    orders: usize,
    /// How many seconds an idle server is watched
    #[arg(long, default_value_t = 10)]
    idle_seconds: u64,
    /// Only these targets
    #[arg(long = "target", value_enum)]
    targets: Vec<Kind>,
}

/// Measures and prints.
pub(crate) async fn run(args: Args) -> Result<()> {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        if !args.targets.is_empty() && !args.targets.contains(&kind) {
            continue;
        }
        one_machine(kind, args.orders).await?;
        fleet_of_rows(kind, &args).await?;
    }
    Ok(())
}

fn print(kind: Kind, job: &str, value: f64, unit: &str, goal: &str) {
    println!("{}", json!({"job": job, "target": kind.name(), "value": value, "unit": unit, "goal": goal}));
}

#[expect(clippy::disallowed_methods, reason = "orders are signed and machines seen now")]
fn now() -> Result<Timestamp> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(Timestamp::EPOCH.plus(since))
}

/// Writes and signs an action as an investigator does, on this machine.
fn sign(server: &Server, person: &Investigator, directory: &Path, name: &str, valid_from: Timestamp) -> Result<String> {
    let file = directory.join("action.json");
    let file_name = file.display().to_string();
    let from = Timestamp::from_secs(valid_from.to_parts().0).to_string();
    let new = ["action", "new", "--name", name, "--target", "name LIKE '%'", "--valid-from", &from];
    person.muster(server, &[&new[..], &["--out", &file_name, MODULE]].concat())?;
    person.muster(server, &["action", "sign", &file_name])?;
    std::fs::read_to_string(&file).context("reading the signed action")
}

fn request(action: String) -> ActionRequest {
    ActionRequest { action, ..ActionRequest::default() }
}

/// Starts an agent that believes a person, and waits until it holds a stream and has said so.
async fn believing_agent(server: &Server, person: &Investigator, directory: &Path) -> Result<Agent> {
    let agent = Agent::start_trusting(server, &directory.join("agent"), &[person], 1)?;
    let id = enrolled(server, &[], CEILING).await?;
    wait::until_true("the agent's stream", CEILING, async || Ok(server.rest.agent(&id).await?.summary.streaming))
        .await?;
    let probe = request(sign(server, person, directory, "probe", now()?)?);
    wait::until_true("the agent's word that it would run it", CEILING, async || {
        let preview: Preview = server.rest.post("/actions/preview", &probe).await?;
        Ok(preview.willing == 1)
    })
    .await?;
    Ok(agent)
}

/// Launches orders one after the other and takes the time until the result of each can be read.
async fn one_machine(kind: Kind, orders: usize) -> Result<()> {
    let target = Target::start(kind).await?;
    let (server, directory) = target.ours().context("orders are given by our server")?;
    let person = Investigator::new("Bench")?;
    person.join(server)?;
    let agent = believing_agent(server, &person, directory.path()).await?;
    // Later than the birth of the agent's ledger, before which nothing may have begun.
    let valid_from = now()?.plus(Duration::from_secs(1));
    let mut signed = Vec::with_capacity(orders);
    for number in 0..orders {
        signed.push(sign(server, &person, directory.path(), &format!("order {number}"), valid_from)?);
    }
    wait::until_true("the orders' first second", CEILING, async || Ok(now()? >= valid_from)).await?;
    let (mut posts, mut times) = (Vec::with_capacity(orders), Vec::with_capacity(orders));
    for action in signed {
        let (post, whole) = with_log(order(server, action).await, &target)?;
        posts.push(post);
        times.push(whole);
    }
    for (job, mut times, goal) in [("post-answered", posts, ""), ("post-to-result", times, "p50 ≤ 100 ms")] {
        times.sort_unstable();
        for (part, name) in [(50, "p50"), (99, "p99")] {
            let time = times[(times.len() * part / 100).min(times.len() - 1)];
            print(kind, &format!("{job}-{name}"), time.as_secs_f64() * 1000.0, "ms", goal);
        }
    }
    drop(agent);
    target.stop()
}

/// Launches an order; returns when it was taken and when its result was there.
async fn order(server: &Server, action: String) -> Result<(Duration, Duration)> {
    let sent = Instant::now();
    let launched: ActionLaunched = server.rest.post("/actions", &request(action)).await?;
    let post = sent.elapsed();
    let path = format!("/actions/{}/results", launched.action.summary.id);
    loop {
        // Looked at without a pause: a pause would be part of the figure.
        let answer = server.rest.raw(Method::GET, &path, None).await?;
        let text = answer.text().await.context("reading the results")?;
        if !text.is_empty() {
            if !text.contains("\"status\":\"success\"") {
                bail!("the order did not succeed: {text}");
            }
            return Ok((post, sent.elapsed()));
        }
        if sent.elapsed() > CEILING {
            bail!("a result took more than a minute");
        }
    }
}

/// Spreads an action over machines that nobody answers for, and watches the server before and after.
async fn fleet_of_rows(kind: Kind, args: &Args) -> Result<()> {
    let target = Target::start(kind).await?;
    let (server, directory) = target.ours().context("a fleet of rows is for our server")?;
    let person = Investigator::new("Bench")?;
    person.join(server)?;
    fleet::furnish(server, args.agents, now()?.as_nanos()).await?;
    let before = idle(server, args.idle_seconds).await?;
    let signed = request(sign(server, &person, directory.path(), "all", now()?)?);
    let asked = Instant::now();
    let preview: Preview = server.rest.post("/actions/preview", &signed).await?;
    print(kind, "preview-of-fleet", asked.elapsed().as_secs_f64() * 1000.0, "ms", "");
    if preview.matched != args.agents {
        bail!("the target matches {} machines, not {}", preview.matched, args.agents);
    }
    let sent = Instant::now();
    let launched: ActionLaunched = server.rest.post("/actions", &signed).await?;
    let path = format!("/actions/{}", launched.action.summary.id);
    loop {
        let detail: ActionDetail = server.rest.get(&path).await?;
        if detail.summary.counters.sent == args.agents {
            break;
        }
        if sent.elapsed() > CEILING {
            bail!("the action was given to {} machines in a minute", detail.summary.counters.sent);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a fleet is far smaller than 2^53")]
    let rate = args.agents as f64 / sent.elapsed().as_secs_f64();
    let goal = if kind == Kind::Sqlite { "≥ 300000/s" } else { "≥ 100000/s" };
    print(kind, "post-to-all-commands", rate, "commands/s", goal);
    let after = idle(server, args.idle_seconds).await?;
    print(kind, "idle-without-commands", before, "ms of processor time per second", "");
    print(kind, "idle-with-all-commands-open", after, "ms of processor time per second", "as without");
    target.stop()
}

/// Returns the milliseconds of processor time that an idle server uses in a second.
async fn idle(server: &Server, seconds: u64) -> Result<f64> {
    let time = Duration::from_secs(seconds.max(1));
    let (before, began) = (server.process.processor_time()?, Instant::now());
    tokio::time::sleep(time).await;
    let used = server.process.processor_time()?.saturating_sub(before);
    Ok(used.as_secs_f64() * 1000.0 / began.elapsed().as_secs_f64())
}
