//! The demonstration: a server with its embedded database, this machine's agent, and what the one knows of the other.

use anyhow::{Context, Result};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use muster_api::agents::AgentDetail;
use muster_api::broadcasts::{BroadcastRequest, BroadcastRow};
use muster_api::messages::MessageRow;
use muster_harness::agent::Agent;
use muster_harness::investigator::Investigator;
use muster_harness::rest::{self, Rest};
use muster_harness::server::{Server, Setup};
use muster_harness::{client, wait};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

const CEILING: Duration = Duration::from_secs(30);
/// Longer values, such as lists of disks, are cut to keep the table readable.
const VALUE_CHARS_MAX: usize = 96;

/// How the demonstration ends.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// End after showing instead of leaving the server open
    #[arg(long)]
    no_wait: bool,
}

/// Shows it.
pub(crate) async fn run(args: Args) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("muster-demo-").tempdir()?;
    let started = Instant::now();
    let server = Setup::new(directory.path().join("server")).start().await?;
    println!("Server ready after {} ms, everything in {}", started.elapsed().as_millis(), directory.path().display());
    let alice = Investigator::new("Alice")?;
    alice.join(&server)?;
    let agent = Agent::start_trusting(&server, &directory.path().join("agent"), &[&alice], 1)?;
    let id = client::enrolled(&server, &[], CEILING).await?;
    println!(
        "This machine's agent enrolled as {id}, {} ms after the server was started\n",
        started.elapsed().as_millis()
    );
    let machine = wait::until("the machine's facts", CEILING, async || {
        let machine = server.rest.agent(&id).await?;
        Ok((!machine.facts.is_empty()).then_some(machine))
    })
    .await?;
    println!("{}\n", facts_table(&machine));
    echo(&server.rest, &id).await?;
    broadcast(&server.rest, &id).await?;
    question(&server, &alice)?;
    println!("\nREST API:    http://{}/api/v1", server.addresses.operators);
    println!("Token:       {}", server.data().join("admin.token").display());
    println!("Admin gRPC:  {}", server.addresses.admin);
    if !args.no_wait {
        println!("\nOpen until Ctrl-C. Try, in another terminal:");
        let url = format!("http://{}", server.addresses.operators);
        println!("  export MUSTER_URL={url} MUSTER_TOKEN={}", server.token);
        let muster = muster_harness::programs::program("muster")?;
        println!("  {} agent show {id}", muster.display());
        println!("  GNUPGHOME={} {} ask pkg --name '^openssl'", alice.home().display(), muster.display());
        tokio::signal::ctrl_c().await.context("waiting for Ctrl-C")?;
    }
    drop(agent);
    Ok(())
}

fn facts_table(machine: &AgentDetail) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["Fact of this machine", "Value"]);
    table.add_row(["agent id", &machine.summary.id]);
    table.add_row(["address", &machine.summary.last_address]);
    table.add_row(["labels", &machine.summary.labels.join(", ")]);
    for (name, value) in &machine.facts {
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let cut: String = text.chars().take(VALUE_CHARS_MAX).collect();
        table.add_row([name.clone(), if cut.len() < text.len() { cut + "…" } else { cut }]);
    }
    table
}

/// Sends a message and waits for the answer to it.
async fn echo(rest: &Rest, id: &str) -> Result<()> {
    let sent = Instant::now();
    let asked = rest.send(id, "muster", "Echo", b"Is anybody there?").await?;
    let answer = wait::until("the answer", CEILING, async || {
        let answers: Vec<MessageRow> = rest.all(&format!("/messages/{}/answers", asked.id)).await?;
        Ok(answers.into_iter().find(|answer| answer.data.is_some()))
    })
    .await?;
    let text = String::from_utf8_lossy(&rest::data(&answer)?).into_owned();
    println!("Message {}… said {:?}, answer after {} ms", &asked.id[..12], text, sent.elapsed().as_millis());
    Ok(())
}

/// Sends a broadcast that asks for facts, and waits until the machine has sent them anew.
async fn broadcast(rest: &Rest, id: &str) -> Result<()> {
    let before = rest.agent(id).await?.facts_at;
    let sent = Instant::now();
    let request = BroadcastRequest {
        service: "muster".to_owned(),
        message_type: "FactsRequest".to_owned(),
        limit: Some(10),
        expires_in: Some("1h".to_owned()),
        ..BroadcastRequest::default()
    };
    let made: BroadcastRow = rest.post("/broadcasts", &request).await?;
    wait::until_true("the machine's answer to the broadcast", CEILING, async || {
        let machine = rest.agent(id).await?;
        Ok(machine.facts_at != before)
    })
    .await?;
    let elapsed = sent.elapsed().as_millis();
    let reached: BroadcastRow = rest.get(&format!("/broadcasts/{}", made.id)).await?;
    println!("Broadcast {} reached {} machine, which answered after {elapsed} ms", made.id, reached.sent);
    Ok(())
}

/// Asks the machine a question that Alice signs with `gpg`, and shows what she would see.
fn question(server: &Server, alice: &Investigator) -> Result<()> {
    let words = ["ask", "--yes", "file", "--path", "/etc", "--maxdepth", "1", "--name", "^(passwd|hosts)$"];
    let asked = Instant::now();
    let answer = alice.muster(server, &words)?;
    let elapsed = asked.elapsed().as_millis();
    println!("\nAlice signed a question with gpg, and had the answer after {elapsed} ms:");
    println!("  muster {}\n", words.map(quoted).join(" "));
    println!("{}", answer.trim_end());
    Ok(())
}

/// Quotes what a shell would read otherwise.
fn quoted(word: &str) -> String {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_/.=".contains(c));
    if plain { word.to_owned() } else { format!("'{word}'") }
}
