//! Who is in and who is out: blocks that hold, new keys that lose no machine, copies that are calmed down.

use crate::scene::{CEILING, Scene};
use muster_api::agents::{AgentDetail, AgentSummary, ContactRow, EventRow};
use muster_api::messages::MessageRow;
use muster_harness::agent::Agent;
use muster_harness::client::{Client, Mode, enrolled};
use muster_harness::investigator::Investigator;
use muster_harness::server::{Server, Setup};
use muster_harness::wait;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// A server with an enrolment policy.
async fn server(directory: &Path, policy: &str) -> Server {
    let config = format!("[enrolment]\npolicy = \"{policy}\"\n");
    Setup::new(directory.join("server")).config(config).start().await.unwrap()
}

/// Starts an agent that shows an enrolment token.
fn start_with_token(server: &Server, directory: &Path, token: &str) -> Agent {
    let (address, out) = (server.addresses.agents.to_string(), directory.display().to_string());
    let args = ["agent", "config", "--format", "muster", "--server", &address, "--out", &out, "--enrol-token", token];
    server.muster(&args).unwrap();
    // More than one new key a day.
    let file = directory.join("config.toml");
    let config = std::fs::read_to_string(&file).unwrap() + "\n[server_may]\nrekey = \"always\"\n";
    std::fs::write(&file, config).unwrap();
    Agent::start_in(directory).unwrap()
}

/// Runs `muster` and returns all that it said.
fn output(server: &Server, args: &[&str]) -> Output {
    let mut command = Command::new(muster_harness::programs::program("muster").unwrap());
    server.operator(&mut command).args(args).output().unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits for a machine whose id is none of `known`, in whatever state.
async fn another(server: &Server, known: &[&str]) -> AgentSummary {
    wait::until("another machine", CEILING, async || {
        let agents = server.rest.agents().await?;
        Ok(agents.into_iter().find(|agent| !known.contains(&agent.id.as_str())))
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_blocked_machine_stays_out_also_under_a_new_key() {
    let scene = Scene::new().await;
    let mut agent = Agent::start(&scene.server, &scene.path("agent")).unwrap();
    let old = enrolled(&scene.server, &[], CEILING).await.unwrap();
    wait::until_true("its facts", CEILING, async || Ok(!scene.server.rest.agent(&old).await?.facts.is_empty()))
        .await
        .unwrap();
    scene.server.muster(&["agent", "block", &old, "--reason", "laptop stolen"]).unwrap();
    agent.process.printed("this machine is blocked", CEILING).await.unwrap();
    let all: Vec<AgentSummary> = scene.server.rest.agents().await.unwrap();
    assert_eq!(all.len(), 1, "no new key was asked of it: {all:?}");
    assert_eq!((all[0].state.as_str(), all[0].state_note.as_str()), ("blocked", "laptop stolen"));

    // Whoever holds the laptop makes a new key.
    agent.process.kill().unwrap();
    std::fs::remove_dir_all(scene.path("agent").join("state")).unwrap();
    let _agent = Agent::start_in(&scene.path("agent")).unwrap();
    let new = another(&scene.server, &[&old]).await;
    assert_eq!(new.state, "waiting");
    assert!(new.state_note.contains(&old) && new.state_note.contains("blocked"), "{}", new.state_note);
    // The event is written after the machine is known.
    let is_it = |event: &EventRow| event.code == "looks_blocked" && event.agent.as_deref() == Some(&new.id);
    wait::until_true("the event", CEILING, async || {
        let events: Vec<EventRow> = scene.server.rest.all("/events?").await?;
        Ok(events.iter().any(is_it))
    })
    .await
    .unwrap();

    // Whoever lets it in sees what it is.
    let shown = output(&scene.server, &["agent", "approve", &new.id, "--yes"]);
    let errors = said(&shown.stderr);
    assert!(shown.status.success() && errors.contains("machine_id") && errors.contains("LOOKS LIKE"), "{errors}");
    assert_eq!(scene.server.rest.agent(&new.id).await.unwrap().summary.state, "enrolled");
}

#[tokio::test]
async fn a_rekey_loses_no_machine_whose_token_is_spent() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path(), "token").await;
    let token = server.muster(&["enrol-token", "create", "one", "--uses", "1", "--label", "site:berlin"]).unwrap();
    let mut agent = start_with_token(&server, &directory.path().join("agent"), token.trim());
    let first = enrolled(&server, &[], CEILING).await.unwrap();
    assert!(server.muster(&["agent", "list", "--label", "site:berlin"]).unwrap().contains(&first));
    server.muster(&["agent", "label", &first, "web", "rack:7"]).unwrap();
    server.muster(&["agent", "minimum", &first, "2", "--module", "file"]).unwrap();
    let vouches = async || Ok(server.rest.agent(&first).await?.facts.get("agent_vouches") == Some(&Value::Bool(true)));
    wait::until_true("its facts", CEILING, vouches).await.unwrap();

    server.muster(&["agent", "rekey", &first, "--reason", "cloned image"]).unwrap();
    let second = enrolled(&server, std::slice::from_ref(&first), CEILING).await.unwrap();
    let detail: AgentDetail = server.rest.agent(&second).await.unwrap();
    assert_eq!(detail.summary.predecessor.as_deref(), Some(first.as_str()));
    for label in ["site:berlin", "operator:web", "rack:7"] {
        assert!(detail.summary.labels.iter().any(|have| have == label), "{label}: {:?}", detail.summary.labels);
    }
    assert!(server.muster(&["agent", "weights", &second]).unwrap().contains("file"));
    let listed = server.muster(&["agent", "list"]).unwrap();
    assert!(
        listed.contains(&format!("replaced by {second}")) && listed.contains(&format!("(was {first})")),
        "{listed}"
    );
    assert!(server.muster(&["agent", "show", &first]).unwrap().contains(&second));
    let events = server.muster(&["event", "list", "--agent", &first]).unwrap();
    assert!(events.contains("succession") && events.contains(&second), "{events}");
    assert!(server.muster(&["journal", "list"]).unwrap().contains("agent.succeed"));

    // Killed wherever it is by then, it comes back under the old key or under the new one, and goes on.
    server.muster(&["agent", "rekey", &second, "--reason", "again"]).unwrap();
    agent.kill_and_restart().unwrap();
    let third = enrolled(&server, &[first, second.clone()], CEILING).await.unwrap();
    assert_eq!(server.rest.agent(&third).await.unwrap().summary.predecessor, Some(second));
    let answer =
        server.muster(&["message", "send", &third, "--service", "muster", "--type", "Echo", "--wait", "still here"]);
    assert!(answer.unwrap().contains("still here"));
}

#[tokio::test]
async fn a_client_that_cannot_vouch_for_its_new_key_is_rekeyed_by_force_only() {
    let directory = tempfile::tempdir().unwrap();
    let server = server(directory.path(), "approval").await;
    let _client = Client::start(&server, &directory.path().join("client"), Mode::all().next().unwrap(), &[]).unwrap();
    let id = another(&server, &[]).await.id;
    server.muster(&["agent", "approve", &id]).unwrap();
    server.muster(&["agent", "label", &id, "web"]).unwrap();
    let refused = output(&server, &["agent", "rekey", &id, "--reason", "a copy"]);
    let errors = said(&refused.stderr);
    assert!(!refused.status.success() && errors.contains("operator:web") && errors.contains("force"), "{errors}");
    // It was asked for its facts, keys and weights when it was approved, and for nothing else.
    let asked = async || {
        let messages: Vec<MessageRow> = server.rest.all(&format!("/messages?agent={id}")).await.unwrap();
        let to_it = messages.into_iter().filter(|message| message.agent.as_deref() == Some(id.as_str()));
        let mut asked: Vec<_> = to_it.map(|message| message.message_type).collect();
        asked.sort();
        asked
    };
    assert_eq!(asked().await, ["FactsRequest", "TrustRequest"]);
    assert!(server.rest.agent(&id).await.unwrap().summary.rekey_asked.is_none());
    server.muster(&["agent", "rekey", &id, "--force", "--reason", "a copy"]).unwrap();
    assert_eq!(asked().await.iter().filter(|message_type| *message_type == "RekeyRequest").count(), 1);
    assert_eq!(another(&server, &[&id]).await.state, "waiting");
}

#[tokio::test]
async fn an_order_amid_a_rekey_is_answered_under_the_key_that_it_reached() {
    let scene = Scene::new().await;
    let alice = Investigator::new("Alice").unwrap();
    alice.join(&scene.server).unwrap();
    let (directory, go) = (scene.path("agent"), scene.path("go"));
    Agent::prepare(&scene.server, &directory, &[&alice], 1).unwrap();
    let program = directory.join("waiting");
    let answer = r#"{"foundanything":true,"success":true,"elements":"here"}"#;
    let script =
        format!("#!/bin/sh\nread line\nwhile [ ! -e {} ]; do sleep 0.05; done\necho '{answer}'\n", go.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = program.display();
    let module = format!("[waiting]\npath = \"{path}\"\nprivilege = \"agent\"\nweight_min = 1\neffect = \"reads\"\n");
    std::fs::write(directory.join("modules.toml"), module).unwrap();
    let config = directory.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("modules_file = \"modules.toml\"\n{text}")).unwrap();
    let mut agent = Agent::start_in(&directory).unwrap();
    let old = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let known = async || Ok(scene.server.rest.agent(&old).await?.facts.contains_key("agent_vouches"));
    wait::until_true("its facts", CEILING, known).await.unwrap();
    let file = scene.path("amid.json").display().to_string();
    let operation = r#"{"module":"waiting","parameters":{}}"#;
    let new = ["action", "new", "--name", "amid", "--target", "os='linux'", "--operation", operation, "--out", &file];
    alice.muster(&scene.server, &new).unwrap();
    alice.muster(&scene.server, &["action", "sign", &file]).unwrap();
    let launched = alice.muster(&scene.server, &["action", "launch", "--yes", &file]).unwrap();
    let id = launched.split_whitespace().next().unwrap();
    agent.process.printed("an order is run", CEILING).await.unwrap();

    scene.server.muster(&["agent", "rekey", &old, "--reason", "amid an order"]).unwrap();
    let new = enrolled(&scene.server, std::slice::from_ref(&old), CEILING).await.unwrap();
    assert_eq!(scene.server.rest.agent(&new).await.unwrap().summary.predecessor.as_deref(), Some(old.as_str()));
    std::fs::write(&go, "").unwrap();
    let completed = async || Ok(scene.server.muster(&["action", "show", id])?.contains("completed"));
    wait::until_true("the end of the action", CEILING, completed).await.unwrap();
    // Results whose proof does not hold are left out, and end with 1.
    let results = alice.muster(&scene.server, &["action", "results", id, "--format", "jsonl"]).unwrap();
    let row: Value = serde_json::from_str(results.lines().next().unwrap()).unwrap();
    assert_eq!((&row["agent"], &row["results"][0]["elements"]), (&Value::from(old), &Value::from("here")));
    assert!(row["proof"]["signature"].is_string(), "{row}");
}

#[tokio::test]
async fn case_11_two_agents_with_one_key_are_calmed_down() {
    let scene = Scene::new().await;
    let agent = Agent::start(&scene.server, &scene.path("one")).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    // A copy of a machine has its state, and its own lock.
    let copied = Command::new("cp").arg("-a").arg(scene.path("one")).arg(scene.path("two")).status().unwrap();
    assert!(copied.success());
    let (one, two) = (scene.path("one").display().to_string(), scene.path("two").display().to_string());
    for entry in std::fs::read_dir(scene.path("two")).unwrap().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            std::fs::write(entry.path(), text.replace(&one, &two)).unwrap();
        }
    }
    let copy = Agent::start_in(&scene.path("two")).unwrap();
    let waited = async || {
        let (_, metrics) = scene.server.rest.outside("/metrics").await?;
        let line =
            metrics.lines().find(|line| line.contains("muster_engine_refusals_total") && line.contains("clone_wait"));
        Ok(line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).is_some_and(|count| count >= 5.0))
    };
    wait::until_true("contacts that had to wait", CEILING * 4, waited).await.unwrap();
    let contacts: Vec<ContactRow> = scene.server.rest.all(&format!("/agents/{id}/contacts?")).await.unwrap();
    assert!(contacts.len() < 14, "{} contacts", contacts.len());
    assert!(scene.server.muster(&["agent", "list", "--clones"]).unwrap().contains("(cloned?)"));
    drop((agent, copy));
    scene.server.muster(&["agent", "clone-clear", &id, "--reason", "the copy is gone"]).unwrap();
    assert!(!scene.server.muster(&["agent", "list"]).unwrap().contains("(cloned?)"));
}

#[tokio::test]
async fn case_11_two_machines_of_one_name_are_doubles_and_a_restart_is_none() {
    let scene = Scene::new().await;
    let mut agent = Agent::start(&scene.server, &scene.path("one")).unwrap();
    let one = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let told = async |id: &str| {
        wait::until_true("its facts", CEILING, async || Ok(!scene.server.rest.agent(id).await?.facts.is_empty()))
            .await
            .unwrap();
    };
    told(&one).await;
    agent.kill_and_restart().unwrap();
    let restarted = async || {
        let detail: AgentDetail = scene.server.rest.agent(&one).await?;
        Ok(detail.facts.get("agent_pid") == Some(&agent.process.id().into()))
    };
    wait::until_true("the facts of its second start", CEILING, restarted).await.unwrap();
    assert!(!scene.server.muster(&["report", "double"]).unwrap().contains(&one));
    let _other = Agent::start(&scene.server, &scene.path("two")).unwrap();
    let two = enrolled(&scene.server, std::slice::from_ref(&one), CEILING).await.unwrap();
    told(&two).await;
    let report = scene.server.muster(&["report", "double"]).unwrap();
    assert!(report.contains(&one) && report.contains(&two), "{report}");
}

#[tokio::test]
async fn an_agent_that_stops_in_order_is_offline_at_once() {
    for mode in ["stream", "poll"] {
        let scene = Scene::new().await;
        let directory = scene.path("agent");
        Agent::prepare(&scene.server, &directory, &[], 1).unwrap();
        let mut files = std::fs::read_dir(&directory).unwrap().flatten().map(|entry| entry.path());
        let file = files.find(|path| path.extension().is_some_and(|extension| extension == "toml")).unwrap();
        let text: String = std::fs::read_to_string(&file).unwrap();
        let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("mode")).collect();
        std::fs::write(&file, format!("mode = \"{mode}\"\n{}\n", kept.join("\n"))).unwrap();
        let mut agent = Agent::start_in(&directory).unwrap();
        let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
        let online = || {
            let checked = scene.server.muster(&["target", "check", "status='online'", "--json"]).unwrap();
            serde_json::from_str::<serde_json::Value>(&checked).unwrap()["matched"] == 1
        };
        wait::until_true("it is online", CEILING, async || Ok(online())).await.unwrap();
        agent.process.terminate().unwrap();
        agent.process.wait(CEILING).await.unwrap();
        // Within moments, and not after the minutes for which a machine that said nothing counts as online.
        let what = format!("{mode}: it is offline");
        wait::until_true(&what, CEILING, async || Ok(!online())).await.unwrap();
        assert!(scene.server.rest.agent(&id).await.unwrap().summary.left.is_some());
    }
}
