//! Servers and agents are killed at random moments of an action's life: each machine runs it once, or says that it ended
//! in the middle; the action is completed, and its counters and the journal are right.
//!
//! What ran is counted by a module that writes down its own starts, never by what agents or servers say.

use super::rig;
use super::{Backend, Score};
use anyhow::{Context, Result, bail, ensure};
use muster_api::actions::{ActionDetail, ActionLaunched, ActionRequest, CommandRow, Preview};
use muster_core::Timestamp;
use muster_harness::agent::Agent;
use muster_harness::investigator::Investigator;
use muster_harness::postgres::Postgres;
use muster_harness::recorder::{MODULE, Recorder, SETTING};
use muster_harness::rest::Rest;
use muster_harness::server::Server;
use muster_harness::{client, wait};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::time::Instant;

/// How long anything may take.
const CEILING: Duration = Duration::from_secs(60);
/// Cycles between two looks at the whole journal.
const VERIFY_EVERY: u32 = 10;
/// An action's life is over within this when nothing disturbs it.
const LIFE_MS: u64 = 100;
/// How much and how often.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Args {
    /// On which database; on PostgreSQL there are two servers
    #[arg(long, value_enum, default_value_t = Backend::Sqlite)]
    backend: Backend,
    /// How many actions; of three, one has a server killed, one an agent, one both
    #[arg(long, default_value_t = 60)]
    cycles: u32,
    /// Where the random moments come from; drawn and printed unless told
    #[arg(long)]
    seed: Option<u64>,
    /// How many real agents
    #[arg(long, default_value_t = 4)]
    agents: usize,
}

/// A machine of the run.
struct Machine {
    id: String,
    agent: Agent,
    recorder: Recorder,
}

/// Everything that runs.
struct Story {
    random: StdRng,
    person: Investigator,
    servers: Vec<Server>,
    machines: Vec<Machine>,
    cluster: Option<Postgres>,
    backend: Backend,
    // Last, so that everything in it is closed before it goes.
    directory: TempDir,
}

/// What is killed in a cycle.
#[derive(Debug, Clone, Copy, Default)]
struct Victims {
    server: Option<usize>,
    machine: Option<usize>,
}

/// Runs the cycles.
pub(super) async fn run(args: Args) -> Result<Score> {
    let seed = args.seed.unwrap_or_else(rand::random);
    eprintln!("seed {seed}");
    let mut story = Story::begin(&args, seed).await?;
    let kind = if args.backend == Backend::Sqlite { "actions-sqlite" } else { "actions-postgres" };
    let (mut score, mut kills) = (Score::default(), 0);
    for cycle in 1..=args.cycles {
        let victims = story.victims(cycle);
        kills += u32::from(victims.server.is_some()) + u32::from(victims.machine.is_some());
        let after = Duration::from_micros(story.random.random_range(0..LIFE_MS * 1000));
        let name = format!("cycle {cycle} of seed {seed}");
        let begun = Instant::now();
        let mut outcome = story.one_cycle(&name, victims, after).await;
        if outcome.is_ok() && (cycle % VERIFY_EVERY == 0 || cycle == args.cycles) {
            outcome = story.verify_journal().map(|()| outcome.unwrap_or_default());
        }
        let figures = json!({
            "server": victims.server, "machine": victims.machine, "after_us": after.as_micros(),
            "took_ms": begun.elapsed().as_millis(), "interrupted": outcome.as_ref().ok(),
            "error": outcome.as_ref().err().map(|error| format!("{error:#}")),
        });
        rig::report(kind, cycle, &figures, None);
        score.cycle(outcome.is_ok(), Some(true));
    }
    let starts: usize = story.machines.iter().map(|machine| machine.recorder.starts()).sum();
    println!("{kills} kills; {starts} runs of {} actions on {} machines", args.cycles, story.machines.len());
    story.end().await?;
    Ok(score)
}

impl Story {
    async fn begin(args: &Args, seed: u64) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("muster-crash-actions-").tempdir()?;
        let (cluster, servers) = rig::servers(args.backend, directory.path(), None, &[]).await?;
        let person = Investigator::new("Kelso")?;
        person.join(&servers[0])?;
        let mut story = Self {
            random: StdRng::seed_from_u64(seed),
            person,
            servers,
            machines: Vec::new(),
            cluster,
            backend: args.backend,
            directory,
        };
        for number in 0..args.agents {
            story.add_machine(number).await?;
        }
        let action = story.signed("are you there")?;
        wait::until_true("every machine to be willing", CEILING, async || {
            let request = ActionRequest { action: action.clone(), ..ActionRequest::default() };
            let preview: Preview = story.servers[0].rest.post("/actions/preview", &request).await?;
            ensure!(preview.willing == story.machines.len() as u64, "{preview:?}");
            Ok(true)
        })
        .await?;
        Ok(story)
    }

    async fn add_machine(&mut self, number: usize) -> Result<()> {
        let directory = self.directory.path().join(format!("machine-{number}"));
        let out = directory.display().to_string();
        let mut doors: Vec<String> = self.servers.iter().map(|server| server.addresses.agents.to_string()).collect();
        let count = doors.len();
        doors.rotate_left(number % count);
        let key = self.person.public_key().display().to_string();
        let mut args =
            vec!["agent", "config", "--format", "muster", "--out", &out, "--trust", &key, "--trust-min", "1"];
        args.extend(doors.iter().flat_map(|door| ["--server", door.as_str()]));
        self.servers[0].muster(&args)?;
        let recorder = Recorder::install(&directory)?;
        let config = directory.join("config.toml");
        let text = std::fs::read_to_string(&config).with_context(|| format!("reading {}", config.display()))?;
        let pace = "failure_delay_min = \"100ms\"\nfailure_delay_max = \"500ms\"\n";
        std::fs::write(&config, format!("{pace}{SETTING}{text}"))?;
        let known: Vec<String> = self.machines.iter().map(|machine| machine.id.clone()).collect();
        let agent = Agent::start_in(&directory)?;
        let id = client::enrolled(&self.servers[0], &known, CEILING).await?;
        self.machines.push(Machine { id, agent, recorder });
        Ok(())
    }

    /// Writes an action and has it signed, as an investigator does it: by the program and `gpg`.
    fn signed(&self, name: &str) -> Result<String> {
        let path = self.directory.path().join("action.json");
        let (from, until) = (now(), now().plus(Duration::from_secs(3600)));
        let action = json!({
            "name": name, "target": "environment->>'os' = 'linux'", "syntaxversion": 2, "pgpsignatures": [],
            "validfrom": from.to_string(), "expireafter": until.to_string(),
            "operations": [{"module": MODULE, "parameters": {"action": name}}],
        });
        std::fs::write(&path, action.to_string())?;
        self.person.muster(&self.servers[0], &["action", "sign", &path.display().to_string()])?;
        std::fs::read_to_string(&path).context("reading the signed action")
    }

    fn victims(&mut self, cycle: u32) -> Victims {
        let server = self.random.random_range(0..self.servers.len());
        let machine = self.random.random_range(0..self.machines.len());
        match cycle % 3 {
            0 => Victims { server: Some(server), machine: Some(machine) },
            1 => Victims { server: Some(server), machine: None },
            _ => Victims { server: None, machine: Some(machine) },
        }
    }

    /// Returns how many machines said that they ended in the middle.
    async fn one_cycle(&mut self, name: &str, victims: Victims, after: Duration) -> Result<usize> {
        // All machines at once, or a quarter of them first; failures of those that are killed halt nothing.
        let rings = [vec![100], vec![25]][self.random.random_range(0..2)].clone();
        let action = self.signed(name)?;
        let request = ActionRequest { action, rings, halt_percent: Some(100), ..ActionRequest::default() };
        let rests: Vec<Rest> = self.servers.iter().map(|server| server.rest.clone()).collect();
        let first = self.random.random_range(0..rests.len());
        let (launched, struck) = tokio::join!(launch(rests, first, request), self.strike(victims, after));
        let id = launched?;
        struck?;
        let detail = self.completed(id).await?;
        let counters = detail.summary.counters;
        let machines = self.machines.len() as u64;
        let is_right = counters.sent == machines
            && counters.done == machines
            && counters.inflight == 0
            && counters.success + counters.failed == machines
            && detail.summary.late == 0;
        ensure!(is_right, "action {id} has {counters:?}, {} late results, on {machines} machines", detail.summary.late);
        let rows: Vec<CommandRow> = self.servers[0].rest.all(&format!("/actions/{id}/commands?results=false")).await?;
        ensure!(rows.len() == self.machines.len(), "action {id} has {} commands", rows.len());
        self.interrupted(name, victims, &rows)
    }

    /// Kills the victims after a while and starts them again.
    async fn strike(&mut self, victims: Victims, after: Duration) -> Result<()> {
        tokio::time::sleep(after).await;
        if let Some(victim) = victims.machine {
            self.machines[victim].agent.kill_and_restart()?;
        }
        if let Some(victim) = victims.server {
            self.servers[victim].kill_and_restart().await?;
        }
        Ok(())
    }

    async fn completed(&self, id: i64) -> Result<ActionDetail> {
        let what = format!("action {id} to be completed");
        wait::until(&what, CEILING, async || {
            let detail: ActionDetail = self.servers[0].rest.get(&format!("/actions/{id}")).await?;
            if detail.summary.status != "completed" {
                bail!("it is {}: {:?}", detail.summary.status, detail.summary.counters);
            }
            Ok(Some(detail))
        })
        .await
    }

    /// Holds what each machine says against what its module wrote down.
    fn interrupted(&self, name: &str, victims: Victims, rows: &[CommandRow]) -> Result<usize> {
        let mut interrupted = 0;
        // As the parameters have it, so that "cycle 1" is not found in "cycle 10".
        let words = format!("\"{name}\"");
        for (number, machine) in self.machines.iter().enumerate() {
            let mut of_it = rows.iter().filter(|row| row.agent == machine.id);
            let row = of_it.next().with_context(|| format!("machine {number} was not asked"))?;
            ensure!(of_it.next().is_none(), "machine {number} was asked twice");
            let told = machine.recorder.told(&words);
            match row.status.as_str() {
                "success" => ensure!(told == 1, "machine {number} ran it {told} times, and says that all is well"),
                // What was cut short is reported as such, and is never begun again.
                "failed" if victims.machine == Some(number) => {
                    ensure!(told <= 1, "machine {number} was killed, and ran it {told} times");
                    interrupted += 1;
                }
                status => bail!("machine {number} says {status}, and was not killed"),
            }
        }
        Ok(interrupted)
    }

    fn verify_journal(&self) -> Result<()> {
        let said = self.servers[0].muster(&["journal", "verify"]).context("the journal does not hold")?;
        ensure!(!said.trim().is_empty(), "nothing was said of the journal");
        Ok(())
    }

    async fn end(mut self) -> Result<()> {
        self.machines.clear();
        rig::stop(&mut self.servers).await?;
        rig::check_database(self.backend, &self.servers, self.cluster.as_ref()).await
    }
}

/// Launches an action by whichever server answers, as often as it takes: the same bytes are the same action.
async fn launch(rests: Vec<Rest>, first: usize, request: ActionRequest) -> Result<i64> {
    let mut tries = 0;
    wait::until("the action to be taken", CEILING, async || {
        let rest = &rests[(first + tries) % rests.len()];
        tries += 1;
        let launched: ActionLaunched = rest.post("/actions", &request).await?;
        Ok(Some(launched.action.summary.id))
    })
    .await
}

#[expect(
    clippy::disallowed_methods,
    reason = "actions are signed for real servers and agents, which have no other clock"
)]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_secs(since.as_secs().try_into().unwrap_or(i64::MAX))
}
