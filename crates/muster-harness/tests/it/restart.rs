//! A server that is killed, stopped or starved keeps what it acknowledged.

use crate::scene::{CEILING, Scene};
use muster_harness::identity::Identity;
use muster_harness::ledger::Ledger;
use muster_harness::link::Link;
use muster_harness::swarm::{self, Forgetful, Plan, Swarm};
use muster_harness::wait;
use muster_harness::wire::{self, Address, ContactData, Message};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The promise: a server with 200 streams is gone three seconds after it was asked to stop.
const STOP_CEILING: Duration = Duration::from_secs(3);

fn contact(numbers: std::ops::Range<u64>) -> ContactData {
    let end = |service: &str| Some(Address { client_id: Vec::new(), service_name: service.into() });
    let message = |number: u64| Message {
        source: end("sink"),
        destination: end("sink"),
        source_message_id: number.to_be_bytes().to_vec(),
        data: Some(wire::any("google.protobuf.BytesValue", &vec![7_u8; 20])),
        ..Message::default()
    };
    ContactData { messages: numbers.map(message).collect(), ..ContactData::default() }
}

#[tokio::test]
async fn everything_acknowledged_is_there_after_a_kill_and_what_comes_twice_is_kept_once() {
    let mut scene = Scene::new().await;
    let identity = Identity::fresh().unwrap();
    let door = scene.server.addresses.agents;
    for round in 0..5 {
        let mut link = Link::open(door, &identity.tls).await.unwrap();
        // Each round repeats half of the one before, as an agent does that missed an answer.
        let first = round * 50;
        link.poll(&contact(first..first + 100), &[]).await.unwrap();
        scene.server.kill_and_restart().await.unwrap();
    }
    let rows: Vec<muster_api::messages::MessageRow> = scene.server.rest.all("/messages?service=sink").await.unwrap();
    assert_eq!(rows.len(), 300);
    assert!(rows.iter().all(|row| row.state == "done"));
    assert_eq!(scene.server.rest.agents().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_message_for_an_agent_survives_a_kill() {
    let mut scene = Scene::new().await;
    let identity = Identity::fresh().unwrap();
    let door = scene.server.addresses.agents;
    Link::open(door, &identity.tls).await.unwrap().poll(&ContactData::default(), &[]).await.unwrap();
    let sent = scene.server.rest.send(&identity.id.to_string(), "load", "Command", b"x").await.unwrap();
    scene.server.kill_and_restart().await.unwrap();
    let answer = Link::open(door, &identity.tls).await.unwrap().poll(&ContactData::default(), &[]).await.unwrap();
    let ids: Vec<String> = answer.messages.iter().map(|message| hex::encode(&message.message_id)).collect();
    assert_eq!(ids, [sent.id]);
}

#[tokio::test]
async fn a_stop_drains_two_hundred_streams_within_three_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let setup = muster_harness::server::Setup::new(directory.path().join("server"));
    let services = "services { name: \"load\" factory: \"NOOP\" }\n";
    let mut server = setup.config("[enrolment]\nper_minute = 0\n").services(services).start().await.unwrap();
    let ledger = Arc::new(Ledger::create(&directory.path().join("ledger")).unwrap());
    let doors = vec![server.addresses.agents];
    let plan = Plan {
        polling: 0,
        streaming: 200,
        doors,
        batch: 1,
        pace: Duration::from_millis(500),
        forgetful: Forgetful::default(),
    };
    let mut swarm = Swarm::start(plan, Arc::clone(&ledger)).unwrap();
    wait::until_true("200 streams", Duration::from_secs(60), async || Ok(swarm.connected() == 200)).await.unwrap();
    let told = Instant::now();
    server.process.terminate().unwrap();
    let exit = server.process.wait(CEILING).await.unwrap();
    let took = told.elapsed();
    assert!(exit.success(), "{exit}: {}", server.process.log_tail());
    assert!(took < STOP_CEILING, "the stop took {took:?}");
    // Every record that was acknowledged before the end is there, and nothing twice.
    server.restart().await.unwrap();
    swarm.drain(Duration::from_secs(60)).await.unwrap();
    let (sent, acked) = ledger.progress();
    assert_eq!(sent, acked);
    swarm.stop().await.unwrap();
}

/// Commands that take longer than a stream lives, given to agents that remember nothing of what they were given.
#[tokio::test]
async fn slow_commands_run_once_over_renewed_streams_and_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let setup = muster_harness::server::Setup::new(directory.path().join("server"));
    let services = "services { name: \"load\" factory: \"NOOP\" }\n";
    let mut server = setup.config("[enrolment]\nper_minute = 0\n").services(services).start().await.unwrap();
    let ledger = Arc::new(Ledger::create(&directory.path().join("ledger")).unwrap());
    let plan = Plan {
        polling: 10,
        streaming: 20,
        doors: vec![server.addresses.agents],
        batch: 1,
        pace: Duration::from_millis(200),
        forgetful: Forgetful { each: 8, work: Duration::from_secs(20), renew: Duration::from_secs(3) },
    };
    let mut swarm = Swarm::start(plan, Arc::clone(&ledger)).unwrap();
    wait::until_true("every agent", Duration::from_secs(60), async || Ok(swarm.connected() == 30)).await.unwrap();
    let mut commands = Vec::new();
    for id in swarm.ids() {
        for _ in 0..3 {
            let row = server.rest.send(&id.to_string(), swarm::SERVICE, "Command", b"run").await.unwrap();
            commands.push(row.id.parse().unwrap());
            ledger.command_accepted(commands[commands.len() - 1]).unwrap();
        }
    }
    // What an agent has is running; then servers come and go, in order and not, and streams are renewed all the while.
    wait::until_true("every command to arrive", CEILING, async || Ok(ledger.deliveries() >= commands.len()))
        .await
        .unwrap();
    for round in 0..3 {
        if round == 1 {
            server.kill_and_restart().await.unwrap();
        } else {
            server.process.terminate().unwrap();
            server.process.wait(CEILING).await.unwrap();
            server.restart().await.unwrap();
        }
        wait::until_true("every agent again", CEILING, async || Ok(swarm.connected() == 30)).await.unwrap();
    }
    swarm.drain(Duration::from_secs(60)).await.unwrap();
    let findings = ledger.check(&std::collections::HashSet::new(), &muster_harness::ledger::Stored::default());
    swarm.stop().await.unwrap();
    assert_eq!((findings.commands, findings.commands_lost.len()), (90, 0));
    assert_eq!(findings.commands_twice, [""; 0]);
}

#[tokio::test]
async fn a_second_server_on_the_same_embedded_database_is_refused() {
    let scene = Scene::new().await;
    let second = muster_harness::server::Setup::new(scene.path("server-2"));
    let database = scene.path("server").join("muster.db");
    let second = muster_harness::server::Setup { database: Some(format!("sqlite://{}", database.display())), ..second };
    let error = second.start().await.unwrap_err().to_string();
    assert!(error.contains("ended before"), "{error}");
}
