//! The jobs: each drives one server as hard as it answers, and counts.

use super::target::{Target, with_log};
use anyhow::{Context, Result, bail};
use muster_api::Page;
use muster_api::messages::MessageRow;
use muster_harness::admin::Admin;
use muster_harness::agent::Agent;
use muster_harness::client::enrolled;
use muster_harness::identity::Identity;
use muster_harness::link::{Down, Link, Up};
use muster_harness::wait;
use muster_harness::wire::{self, Address, ContactData, Message};
use std::collections::HashMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const SERVICE: &str = "load";
const BODY_BYTES: usize = 200;
const CEILING: Duration = Duration::from_secs(60);
/// Handshakes under way at once while streams are opened; more would time out behind each other.
const OPENING_AT_ONCE: usize = 32;
/// Requests of the latency job.
const REQUESTS: usize = 300;

fn message(number: u64) -> Message {
    let end = || Some(Address { client_id: Vec::new(), service_name: SERVICE.to_owned() });
    Message {
        source: end(),
        destination: end(),
        source_message_id: number.to_be_bytes().to_vec(),
        message_type: "Load".to_owned(),
        data: Some(wire::any("google.protobuf.BytesValue", &vec![7_u8; BODY_BYTES])),
        ..Message::default()
    }
}

#[expect(clippy::cast_precision_loss, reason = "nothing here is counted to 2^53")]
fn rate(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

/// Polls with `batch` new messages each over `connections` connections; returns contacts per second.
pub(super) async fn contacts(target: &Target, connections: usize, batch: u64, time: Duration) -> Result<f64> {
    let mut tasks: JoinSet<Result<u64>> = JoinSet::new();
    let mut links = Vec::new();
    for _ in 0..connections {
        let identity = Identity::fresh()?;
        let mut link = Link::open(target.agents(), &identity.tls).await?;
        link.poll(&ContactData::default(), &[]).await?;
        links.push(link);
    }
    let began = Instant::now();
    for mut link in links {
        tasks.spawn(async move {
            let (mut count, mut number) = (0, 0);
            while began.elapsed() < time {
                let messages = (number..number + batch).map(message).collect();
                number += batch;
                link.poll(&ContactData { messages, ..ContactData::default() }, &[]).await?;
                count += 1;
            }
            Ok(count)
        });
    }
    let total = with_log(sum(tasks).await, target)?;
    Ok(rate(total, began.elapsed()))
}

/// Inserts messages for one machine from `callers` connections; returns calls per second.
pub(super) async fn inserts(target: &Target, callers: usize, time: Duration) -> Result<f64> {
    let identity = Identity::fresh()?;
    Link::open(target.agents(), &identity.tls).await?.poll(&ContactData::default(), &[]).await?;
    let mut admins = Vec::new();
    for _ in 0..callers {
        admins.push(Admin::connect(&target.admin()).await?);
    }
    let began = Instant::now();
    let mut tasks: JoinSet<Result<u64>> = JoinSet::new();
    for mut admin in admins {
        tasks.spawn(async move {
            let mut count = 0;
            while began.elapsed() < time {
                admin.insert(to_agent(identity.id, rand::random())).await?;
                count += 1;
            }
            Ok(count)
        });
    }
    let total = with_log(sum(tasks).await, target)?;
    Ok(rate(total, began.elapsed()))
}

fn to_agent(id: muster_core::AgentId, message_id: [u8; 32]) -> Message {
    let destination = Address { client_id: id.as_bytes().to_vec(), service_name: SERVICE.to_owned() };
    let made = Message { destination: Some(destination), message_id: message_id.to_vec(), ..message(0) };
    Message { source_message_id: Vec::new(), ..made }
}

async fn sum(mut tasks: JoinSet<Result<u64>>) -> Result<u64> {
    let mut total = 0;
    while let Some(count) = tasks.join_next().await {
        total += count.context("a task of the load panicked")??;
    }
    Ok(total)
}

fn tokens(count: u64) -> HashMap<String, u64> {
    HashMap::from([(SERVICE.to_owned(), count), ("system".to_owned(), count)])
}

/// Inserts `count` messages for a machine that holds a stream and answers each; returns answers per second, from the
/// first insert to the acknowledgement of the last answer.
pub(super) async fn down_one_stream(target: &Target, count: u64) -> Result<f64> {
    let identity = Identity::fresh()?;
    let first = ContactData { allowed_messages: tokens(100), ..ContactData::default() };
    let link = Link::open(target.agents(), &identity.tls).await?;
    let (up, down, _) = link.stream(&first, &[]).await?;
    let began = Instant::now();
    let id = identity.id;
    let mut inserting: JoinSet<Result<u64>> = JoinSet::new();
    for _ in 0..8 {
        let mut admin = Admin::connect(&target.admin()).await?;
        inserting.spawn(async move {
            for _ in 0..count / 8 {
                admin.insert(to_agent(id, rand::random())).await?;
            }
            Ok(count / 8)
        });
    }
    let answered = timeout(CEILING, answer_all(up, down, count / 8 * 8));
    let (total, answered) = tokio::join!(sum(inserting), answered);
    answered.context("the answers took more than a minute")??;
    let total = with_log(total, target)?;
    Ok(rate(total, began.elapsed()))
}

async fn answer_all(mut up: Up, mut down: Down, count: u64) -> Result<()> {
    let (mut answered, mut open_records) = (0, 0_u32);
    while answered < count || open_records > 0 {
        let Some(record) = down.next().await? else { bail!("the stream ended after {answered} answers") };
        if record.ack_index != 0 {
            open_records -= 1;
        }
        if record.messages.is_empty() {
            continue;
        }
        let got = record.messages.len() as u64;
        let messages = (answered..answered + got).map(message).collect();
        answered += got;
        up.send(&ContactData { messages, allowed_messages: tokens(got), ..ContactData::default() }).await?;
        open_records += 1;
    }
    Ok(())
}

/// Opens `count` streams of as many machines and returns the bytes of memory that each costs the server.
pub(super) async fn idle_streams(target: &Target, count: usize) -> Result<f64> {
    let before = target.resident()?;
    let (mut opening, mut open) = (JoinSet::new(), Vec::with_capacity(count));
    let mut left = count;
    while open.len() < count {
        while left > 0 && opening.len() < OPENING_AT_ONCE {
            left -= 1;
            let door = target.agents();
            opening.spawn(async move {
                let identity = Identity::fresh()?;
                let first = ContactData { allowed_messages: tokens(100), ..ContactData::default() };
                Link::open(door, &identity.tls).await?.stream(&first, &[]).await
            });
        }
        let opened = opening.join_next().await.context("no stream is being opened")?;
        open.push(with_log(opened.context("opening a stream panicked")?, target)?);
    }
    let after = target.resident()?;
    drop(open);
    Ok((after - before) / f64::from(u32::try_from(count)?))
}

/// Asks our agent over REST again and again; returns the given part of the sorted times in milliseconds.
pub(super) async fn request_to_answer(target: &Target, part: f64) -> Result<Option<f64>> {
    let Some((server, directory)) = target.ours() else { return Ok(None) };
    let known: Vec<String> = server.rest.agents().await?.into_iter().map(|agent| agent.id).collect();
    let home = directory.path().join(format!("agent-{part}"));
    let _agent = Agent::start(server, &home)?;
    let id = enrolled(server, &known, CEILING).await?;
    wait::until_true("the agent's stream", CEILING, async || Ok(server.rest.agent(&id).await?.summary.streaming))
        .await?;
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let sent = Instant::now();
        let asked = server.rest.send(&id, "muster", "Echo", b"x").await?;
        let path = format!("/messages/{}/answers", asked.id);
        // Looked at without a pause: a pause would be part of the figure.
        while server.rest.get::<Page<MessageRow>>(&path).await?.items.is_empty() {
            if sent.elapsed() > CEILING {
                bail!("an answer took more than a minute");
            }
        }
        times.push(sent.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_unstable_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "300 times"
    )]
    let at = ((times.len() as f64 * part) as usize).min(times.len() - 1);
    Ok(Some(times[at]))
}
