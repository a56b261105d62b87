//! Our agent against a real server of the original.

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use muster_core::MessageId;
use muster_harness::admin::Admin;
use muster_harness::ledger::Ledger;
use muster_harness::original::Original;
use muster_harness::peers::Peers;
use muster_harness::process::Program;
use muster_harness::swarm::{self, Forgetful, Plan, Swarm};
use muster_harness::wire::{Address, Message};
use muster_harness::{programs, wait};
use std::sync::Arc;
use std::time::Duration;

const CEILING: Duration = Duration::from_secs(60);
const SERVICES: &str =
    "services { name: \"muster\" factory: \"NOOP\" }\nservices { name: \"load\" factory: \"NOOP\" }\n";

/// Against whom.
#[derive(Debug, Subcommand)]
pub(crate) enum Peer {
    /// The original's server, on MariaDB
    FleetspeakServer,
}

/// Runs it in both modes, and the load program too; prints one line each and the sum.
pub(crate) async fn run(peer: Peer) -> Result<()> {
    let Peer::FleetspeakServer = peer;
    let results = [
        ("load program", load_program().await),
        ("agent, stream", enrol_and_stay("stream").await),
        ("agent, poll", enrol_and_stay("poll").await),
    ];
    for (name, result) in &results {
        match result {
            Ok(line) => println!("{name}: {line}"),
            Err(error) => println!("{name}: {error:#}"),
        }
    }
    let failed = results.iter().filter(|(_, result)| result.is_err()).count();
    println!("{} passed, {failed} failed", results.len() - failed);
    ensure!(failed == 0, "our agent does not get along with the original's server");
    Ok(())
}

/// The load program must get along with the original, or what it finds with ours means nothing.
async fn load_program() -> Result<String> {
    let original = Original::start(SERVICES).await?;
    let directory = tempfile::tempdir()?;
    let ledger = Arc::new(Ledger::create(&directory.path().join("ledger"))?);
    let plan = Plan {
        polling: 4,
        streaming: 4,
        doors: vec![original.agents],
        batch: 3,
        pace: Duration::from_millis(50),
        forgetful: Forgetful::default(),
    };
    let mut swarm = Swarm::start(plan, Arc::clone(&ledger))?;
    wait::until_true("every agent of the swarm to be in contact", CEILING, async || Ok(swarm.connected() == 8)).await?;
    let mut admin = Admin::connect(&original.admin.to_string()).await?;
    let mut sent_ids = Vec::new();
    for (number, agent) in swarm.ids().iter().enumerate() {
        let id = [u8::try_from(number)?; 32];
        let end =
            |client_id: &[u8]| Some(Address { client_id: client_id.to_vec(), service_name: swarm::SERVICE.into() });
        let message = Message {
            source: end(&[]),
            destination: end(agent.as_bytes()),
            message_id: id.to_vec(),
            ..Message::default()
        };
        admin.insert(message).await?;
        sent_ids.push(MessageId::from_bytes(id));
    }
    swarm.drain(CEILING).await?;
    let (sent, acked) = ledger.progress();
    let ran = sent_ids.iter().filter(|id| ledger.has_run(**id)).count();
    // Not all: the original may hand one message to a contact twice, fail the contact, and try again in 15 minutes.
    ensure!(ran > 0, "no command has run");
    swarm.stop().await?;
    ensure!(acked > 0 && sent == acked, "{sent} messages were sent and {acked} acknowledged");
    Ok(format!("{acked} messages acknowledged, {ran} of {} commands run", sent_ids.len()))
}

/// The agent enrols, tells its labels, is asked to restart a service and acknowledges it.
async fn enrol_and_stay(mode: &str) -> Result<String> {
    let original = Original::start(SERVICES).await?;
    let peers = Peers::find()?;
    let directory = tempfile::tempdir()?;
    let certificate = std::fs::read_to_string(original.trusted_certificate()).context("reading the authority")?;
    let config = format!(
        "servers = [\"{}\"]\ntrusted_certs = '''\n{certificate}'''\nstate_dir = \"state\"\nmode = \"{mode}\"\npoll_max = \"2s\"\n",
        original.agents
    );
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, config)?;
    let mut agent = Program::new("muster-agent", programs::program("muster-agent")?, directory.path())
        .args(["run".into(), "--config".into(), path])
        .start()?;
    let admin = original.admin.to_string();
    let id = wait::until("the agent among the original's clients", CEILING, async || {
        let listed = peers.admin_run(&admin, &["listclients"])?;
        let words =
            listed.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_ascii_hexdigit()).to_owned());
        let mut ids = words.filter(|word| word.len() == 16 && u64::from_str_radix(word, 16).is_ok());
        // The labels come with the agent's first messages, which the server has accepted then.
        Ok(ids.next().filter(|_| listed.contains("linux")))
    })
    .await;
    let id = id.with_context(|| format!("the agent printed:\n{}", agent.log_tail()))?;
    ensure!(agent.ended()?.is_none(), "the agent ended: {}", agent.log_tail());
    Ok(format!("enrolled as {id}, labels known"))
}
