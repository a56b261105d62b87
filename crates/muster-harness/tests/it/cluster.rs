//! Two servers on one PostgreSQL are one server.

use crate::scene::CEILING;
use muster_api::broadcasts::{BroadcastRequest, BroadcastRow};
use muster_harness::identity::Identity;
use muster_harness::link::{Down, Link, Up};
use muster_harness::postgres::Database;
use muster_harness::server::{Server, Setup};
use muster_harness::wire::ContactData;
use reqwest::Method;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const WAKEUPS: &str = "[cluster]\naddress = \"127.0.0.1:0\"\n";
/// Nobody listens there, so that every wake-up to this server is lost.
const NO_WAKEUPS: &str = "[cluster]\naddress = \"127.0.0.1:0\"\nwake_url = \"http://127.0.0.1:1/\"\n";

async fn two_servers(directory: &Path, second: &str) -> (Database, Server, Server) {
    two_servers_of(directory, [WAKEUPS, second]).await
}

async fn two_servers_of(directory: &Path, configs: [&str; 2]) -> (Database, Server, Server) {
    let database = Database::fresh().await.unwrap();
    let start = async |name: &str, config: &str| {
        Setup::new(directory.join(name)).on(&database).config(config).start().await.unwrap()
    };
    let (a, b) = (start("a", configs[0]).await, start("b", configs[1]).await);
    (database, a, b)
}

async fn stream(server: &Server, identity: &Identity) -> (Up, Down) {
    let first = ContactData { allowed_messages: HashMap::from([("load".to_owned(), 100)]), ..ContactData::default() };
    let link = Link::open(server.addresses.agents, &identity.tls).await.unwrap();
    let (up, down, _) = link.stream(&first, &[]).await.unwrap();
    (up, down)
}

/// Sends through `a` and returns how long it took to come down the stream that `b` holds.
async fn through(a: &Server, identity: &Identity, down: &mut Down) -> Duration {
    let sent = Instant::now();
    let row = a.rest.send(&identity.id.to_string(), "load", "Command", b"x").await.unwrap();
    loop {
        let record = timeout(CEILING, down.next()).await.unwrap().unwrap().expect("the stream stays open");
        if record.messages.iter().any(|message| hex::encode(&message.message_id) == row.id) {
            return sent.elapsed();
        }
    }
}

#[tokio::test]
async fn a_message_put_on_one_server_reaches_a_stream_of_the_other_within_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let (_database, a, b) = two_servers(directory.path(), WAKEUPS).await;
    let identity = Identity::fresh().unwrap();
    let (_up, mut down) = stream(&b, &identity).await;
    for _ in 0..5 {
        let took = through(&a, &identity, &mut down).await;
        assert!(took < Duration::from_secs(1), "it took {took:?}");
    }
}

#[tokio::test]
async fn servers_that_are_told_nothing_of_each_other_wake_each_other_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let (_database, a, b) = two_servers_of(directory.path(), ["", ""]).await;
    let servers = a.rest.server().await.unwrap().servers;
    let urls: Vec<_> = servers.iter().map(|server| server.wake_url.as_str()).collect();
    assert!(urls.contains(&format!("https://{}/", b.addresses.agents).as_str()), "{urls:?}");
    let identity = Identity::fresh().unwrap();
    let (_up, mut down) = stream(&b, &identity).await;
    for _ in 0..5 {
        let took = through(&a, &identity, &mut down).await;
        assert!(took < Duration::from_secs(1), "it took {took:?}");
    }
}

#[tokio::test]
async fn a_label_given_through_one_server_brings_a_stream_of_the_other_its_broadcasts() {
    let directory = tempfile::tempdir().unwrap();
    let (_database, a, b) = two_servers(directory.path(), WAKEUPS).await;
    let identity = Identity::fresh().unwrap();
    let (_up, mut down) = stream(&b, &identity).await;
    let broadcast = BroadcastRequest {
        service: "load".to_owned(),
        message_type: "News".to_owned(),
        labels: vec!["operator:web".to_owned()],
        ..BroadcastRequest::default()
    };
    let _: BroadcastRow = b.rest.post("/broadcasts", &broadcast).await.unwrap();
    // What is for this stream already comes down it before the label does its work.
    through(&a, &identity, &mut down).await;
    let given = Instant::now();
    a.rest.done(Method::PUT, &format!("/agents/{}/labels/web", identity.id), None).await.unwrap();
    loop {
        let record = timeout(CEILING, down.next()).await.unwrap().unwrap().expect("the stream stays open");
        if record.messages.iter().any(|message| message.message_type == "News") {
            break;
        }
    }
    assert!(given.elapsed() < Duration::from_secs(5), "it took {:?}", given.elapsed());
}

#[tokio::test]
async fn a_message_whose_wake_up_is_lost_arrives_within_ten_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let (_database, a, b) = two_servers(directory.path(), NO_WAKEUPS).await;
    let identity = Identity::fresh().unwrap();
    let (_up, mut down) = stream(&b, &identity).await;
    let took = through(&a, &identity, &mut down).await;
    assert!(took < Duration::from_secs(10), "it took {took:?}");
}

#[tokio::test]
async fn an_agent_moves_to_the_other_server_with_everything_it_is_owed() {
    let directory = tempfile::tempdir().unwrap();
    let (_database, mut a, b) = two_servers(directory.path(), WAKEUPS).await;
    let identity = Identity::fresh().unwrap();
    let (up, down) = stream(&a, &identity).await;
    a.process.kill().unwrap();
    drop((up, down));
    b.rest.send(&identity.id.to_string(), "load", "Command", b"x").await.unwrap();
    let first = ContactData { allowed_messages: HashMap::from([("load".to_owned(), 100)]), ..ContactData::default() };
    let answer = Link::open(b.addresses.agents, &identity.tls).await.unwrap().poll(&first, &[]).await.unwrap();
    assert_eq!(answer.messages.len(), 1);
    assert_eq!(b.rest.agents().await.unwrap().len(), 1);
}

#[tokio::test]
async fn both_servers_know_each_other_and_share_their_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let (_database, a, b) = two_servers(directory.path(), WAKEUPS).await;
    muster_harness::wait::until_true("both servers in the list", CEILING, async || {
        let status: muster_api::server::ServerStatus = a.rest.get("/server").await?;
        Ok(status.servers.len() == 2)
    })
    .await
    .unwrap();
    // The token made by the first opens the second: nothing that identifies people is in a data directory alone.
    b.rest.with_token(&a.token).get::<muster_api::server::ServerStatus>("/server").await.unwrap();
}

#[tokio::test]
async fn the_commands_on_a_database_work_on_postgresql() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (Database::fresh().await.unwrap(), Database::fresh().await.unwrap());
    let copy = directory.path().join("copy.db").display().to_string();
    let run = |args: &[&str], database: &Database| {
        let mut command = std::process::Command::new(muster_harness::programs::program("muster").unwrap());
        let output = command.args(args).args(["--database", database.url()]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&["db", "status"], &one).0, Some(1), "an empty database is not ready");
    for _ in 0..2 {
        assert_eq!(run(&["db", "migrate"], &one).0, Some(0));
    }
    assert_eq!(run(&["db", "status"], &one).0, Some(0));

    let identity = Identity::fresh().unwrap();
    let server = Setup::new(directory.path().join("a")).on(&one).start().await.unwrap();
    let _stream = stream(&server, &identity).await;
    // PostgreSQL needs no server to stop for a copy of one moment.
    let (exit, said) = run(&["backup", "--offline", "--out", &copy], &one);
    assert_eq!(exit, Some(0), "{said}");
    let (exit, said) = run(&["restore", &copy], &one);
    assert_eq!(exit, Some(6), "{said}");
    assert!(said.contains("is not empty"), "{said}");

    let (exit, said) = run(&["restore", &copy], &two);
    assert_eq!(exit, Some(0), "{said}");
    let restored = Setup::new(directory.path().join("b")).on(&two).start().await.unwrap();
    let agents = restored.muster(&["agent", "list"]).unwrap();
    assert!(agents.contains(&identity.id.to_string()), "{agents}");
}
