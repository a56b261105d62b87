//! What all fault runs on servers share: servers, load, an operator who sends commands, and the check at the end.

use super::{Backend, Load};
use anyhow::{Context, Result, ensure};
use muster_api::agents::UsageRow;
use muster_api::messages::MessageRow;
use muster_core::{AgentId, MessageId};
use muster_harness::ledger::{Findings, Ledger, Stored};
use muster_harness::postgres::{self, Durability, Postgres};
use muster_harness::rest::Rest;
use muster_harness::server::{Server, Setup};
use muster_harness::swarm::{self, Forgetful, Plan, Swarm};
use muster_harness::wait;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// After a fault, everything held must be delivered within this.
const DRAIN_CEILING: Duration = Duration::from_secs(90);
const CONNECT_CEILING: Duration = Duration::from_secs(60);
/// The swarm comes from one network at once, which an enrolment limit would rightly slow down.
const CONFIG: &str = "[enrolment]\nper_minute = 0\n";
const CLUSTER: &str = "[cluster]\naddress = \"127.0.0.1:0\"\n";
const DATABASE: &str = "muster";

/// A running set-up under load.
pub(super) struct Rig {
    /// Where random moments come from.
    pub(super) random: StdRng,
    /// All servers.
    pub(super) servers: Vec<Server>,
    /// The private PostgreSQL, if the run is on one.
    pub(super) cluster: Option<Postgres>,
    /// What was sent, acknowledged and run.
    pub(super) ledger: Arc<Ledger>,
    swarm: Option<Swarm>,
    operator: Option<JoinHandle<()>>,
    backend: Backend,
    // Last, so that everything in it is closed before it goes.
    _directory: TempDir,
}

impl Rig {
    /// Starts servers and load and waits until every agent is in contact. `data` is where the first server's data
    /// directory shall be, and `wrapper` a program in front of it.
    pub(super) async fn start(backend: Backend, load: Load, data: Option<PathBuf>, wrapper: &[&str]) -> Result<Self> {
        let seed = load.seed.unwrap_or_else(rand::random);
        eprintln!("seed {seed}");
        let directory = tempfile::Builder::new().prefix("muster-crash-").tempdir()?;
        let (cluster, servers) = servers(backend, directory.path(), data, wrapper).await?;
        let ledger = Arc::new(Ledger::create(&ledger_path(directory.path()))?);
        let plan = Plan {
            polling: load.polling,
            streaming: load.streaming,
            doors: servers.iter().map(|server| server.addresses.agents).collect(),
            batch: 3,
            pace: Duration::from_millis(200),
            forgetful: Forgetful::default(),
        };
        let swarm = Swarm::start(plan, Arc::clone(&ledger))?;
        let all = load.polling + load.streaming;
        wait::until_true("every agent to be in contact", CONNECT_CEILING, async || {
            let connected = swarm.connected();
            ensure!(connected >= all, "{connected} of {all} are");
            Ok(true)
        })
        .await?;
        let mut rig = Self {
            random: StdRng::seed_from_u64(seed),
            servers,
            cluster,
            ledger,
            swarm: Some(swarm),
            operator: None,
            backend,
            _directory: directory,
        };
        rig.command_at_random();
        Ok(rig)
    }

    fn swarm(&mut self) -> &mut Swarm {
        self.swarm.as_mut().expect("the swarm runs until the rig is closed")
    }

    /// Lets an operator send commands to random agents through random servers.
    fn command_at_random(&mut self) {
        let ids = self.swarm().ids().to_vec();
        let rests: Vec<Rest> = self.servers.iter().map(|server| server.rest.clone()).collect();
        let (ledger, mut random) = (Arc::clone(&self.ledger), StdRng::seed_from_u64(self.random.next_u64()));
        self.operator = Some(tokio::spawn(async move {
            loop {
                let agent = ids[random.random_range(0..ids.len())].to_string();
                let rest = &rests[random.random_range(0..rests.len())];
                // A refused or broken call is no promise, so nothing is written down.
                if let Ok(row) = rest.send(&agent, swarm::SERVICE, "Command", b"run").await {
                    let id = row.id.parse().expect("the server gives out ids that are ids");
                    ledger.command_accepted(id).expect("the ledger can be written");
                }
                tokio::time::sleep(Duration::from_millis(random.random_range(5..50))).await;
            }
        }));
    }

    /// Waits a random time, so that the fault comes at a random moment of the load.
    pub(super) async fn any_moment(&mut self) -> u64 {
        let millis = self.random.random_range(100..1000);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        millis
    }

    /// Waits until something more is acknowledged than was before.
    pub(super) async fn acknowledges_again(&self, ceiling: Duration) -> Result<()> {
        let (_, before) = self.ledger.progress();
        let ledger = &self.ledger;
        wait::until_true("a new acknowledgement", ceiling, async || Ok(ledger.progress().1 > before)).await
    }

    /// Stops making load, waits until everything is delivered, and holds the ledger against the servers.
    pub(super) async fn check(&mut self) -> Result<Findings> {
        if let Some(operator) = self.operator.take() {
            operator.abort();
            // Its end is awaited, so that no command is accepted behind the check's back.
            drop(operator.await);
        }
        self.swarm().drain(DRAIN_CEILING).await?;
        let ids = self.swarm().ids().to_vec();
        let acked = self.ledger.acknowledged();
        let stored = stored(&self.servers[0].rest, &ids).await?;
        let findings = self.ledger.check(&acked, &stored);
        self.swarm().resume();
        self.command_at_random();
        Ok(findings)
    }

    /// Ends load and servers and checks the database itself.
    pub(super) async fn close(mut self) -> Result<()> {
        if let Some(operator) = self.operator.take() {
            operator.abort();
        }
        if let Some(swarm) = self.swarm.take() {
            swarm.stop().await?;
        }
        stop(&mut self.servers).await?;
        check_database(self.backend, &self.servers, self.cluster.as_ref()).await
    }
}

/// Starts the servers of a run: one on the embedded database, two on a private PostgreSQL. `data` is where the database
/// shall lie (embedded, it is in the server's data directory), and `wrapper` a program in front of them.
pub(super) async fn servers(
    backend: Backend,
    directory: &Path,
    data: Option<PathBuf>,
    wrapper: &[&str],
) -> Result<(Option<Postgres>, Vec<Server>)> {
    let (cluster, count) = match backend {
        Backend::Sqlite => (None, 1),
        Backend::Postgres => {
            let cluster = Postgres::start(Durability::Full).await?;
            match &data {
                Some(place) => cluster.database_at(DATABASE, place).await?,
                None => {
                    postgres::execute(&cluster.url("postgres"), &format!("CREATE DATABASE {DATABASE}")).await?;
                }
            }
            (Some(cluster), 2)
        }
    };
    let mut servers = Vec::new();
    for number in 0..count {
        let path = data.clone().filter(|_| backend == Backend::Sqlite);
        let mut setup = Setup::new(path.unwrap_or_else(|| directory.join(format!("server-{number}"))));
        setup.database = cluster.as_ref().map(|cluster| cluster.url(DATABASE));
        setup.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        let config = if backend == Backend::Postgres { format!("{CONFIG}{CLUSTER}") } else { CONFIG.to_owned() };
        let services = format!("services {{ name: {:?} factory: \"NOOP\" }}\n", swarm::SERVICE);
        servers.push(setup.config(config).services(services).start().await?);
    }
    Ok((cluster, servers))
}

/// Stops servers in order.
pub(super) async fn stop(servers: &mut [Server]) -> Result<()> {
    for server in servers {
        server.process.terminate()?;
        server.process.wait(Duration::from_secs(20)).await?;
    }
    Ok(())
}

/// Checks the database itself, once its servers are stopped.
pub(super) async fn check_database(backend: Backend, servers: &[Server], cluster: Option<&Postgres>) -> Result<()> {
    match (backend, cluster) {
        (Backend::Postgres, Some(cluster)) => check_postgres(&cluster.url(DATABASE)).await,
        _ => check_sqlite(&servers[0].data().join("muster.db")),
    }
}

/// Prints one cycle.
pub(super) fn report(kind: &str, cycle: u32, figures: &serde_json::Value, findings: Option<&Findings>) {
    println!("{}", serde_json::json!({"kind": kind, "cycle": cycle, "figures": figures, "findings": findings}));
}

/// The ledgers that this run has begun, one for each rig.
static LEDGERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The ledger goes where a full disk under the server cannot reach it.
fn ledger_path(fallback: &Path) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { memory } else { fallback };
    let mut ledgers = LEDGERS.lock().unwrap_or_else(PoisonError::into_inner);
    let path = directory.join(format!("muster-ledger-{}-{}", std::process::id(), ledgers.len()));
    ledgers.push(path.clone());
    path
}

/// Removes the ledgers of a run that was sound, or says where those of one that was not are.
pub(super) fn ledgers_end(is_sound: bool) {
    for path in LEDGERS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        if !is_sound {
            eprintln!("the ledger stays in {}", path.display());
        } else if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("the ledger {} cannot be removed: {error}", path.display());
        }
    }
}

/// Reads what the server has of the swarm's messages and their effects.
async fn stored(rest: &Rest, agents: &[AgentId]) -> Result<Stored> {
    let mut stored = Stored::default();
    for service in [swarm::SERVICE, "system"] {
        let rows: Vec<MessageRow> = rest.all(&format!("/messages?service={service}")).await?;
        // Commands to agents carry the name of the same service; only what came from agents counts here.
        for row in rows.iter().filter(|row| row.source_agent.is_some() && row.agent.is_none()) {
            *stored.messages.entry(row.id.parse::<MessageId>()?).or_default() += 1;
        }
    }
    for agent in agents {
        let rows: Vec<UsageRow> = rest.all(&format!("/agents/{agent}/usage?")).await?;
        for row in rows.into_iter().filter(|row| row.scope == swarm::SERVICE) {
            *stored.effects.entry((*agent, row.pid)).or_default() += 1;
        }
    }
    Ok(stored)
}

fn check_sqlite(path: &Path) -> Result<()> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = rusqlite::Connection::open_with_flags(path, flags);
    let database = database.with_context(|| format!("opening {}", path.display()))?;
    let verdict: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(verdict == "ok", "the database is damaged: {verdict}");
    Ok(())
}

async fn check_postgres(url: &str) -> Result<()> {
    let client = postgres::connect(url).await?;
    client.batch_execute("CREATE EXTENSION IF NOT EXISTS amcheck").await?;
    let sql = "SELECT count(bt_index_check(c.oid, true)::text) FROM pg_class c \
               JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_am a ON a.oid = c.relam \
               JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE a.amname = 'btree' AND c.relkind = 'i' AND n.nspname NOT LIKE 'pg\\_%'";
    client.query_one(sql, &[]).await.context("the indexes of the database do not match its tables")?;
    Ok(())
}
