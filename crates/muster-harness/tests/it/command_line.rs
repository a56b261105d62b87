//! The command line, end to end, and the commands that the README shows.

use crate::scene::{CEILING, Scene};
use muster_harness::agent::Agent;
use muster_harness::client::enrolled;
use muster_harness::programs::{program, workspace};
use std::process::Command;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[tokio::test]
async fn a_machine_is_listed_shown_labelled_asked_and_blocked() {
    let scene = Scene::new().await;
    let _agent = Agent::start(&scene.server, &scene.path("agent")).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let muster = |args: &[&str]| scene.server.muster(args).unwrap();

    assert!(muster(&["agent", "list"]).contains(&id));
    assert!(muster(&["agent", "list", "--json"]).contains(&id));
    let answer = muster(&["message", "send", &id, "--service", "muster", "--type", "Echo", "--wait", "hello there"]);
    assert!(answer.contains("hello there"), "{answer}");
    let shown = json(&muster(&["agent", "show", &id, "--json"]));
    assert_eq!(shown["id"], id.as_str());
    muster(&["agent", "label", &id, "rack-7"]);
    assert!(muster(&["agent", "show", &id]).contains("rack-7"));
    muster(&["agent", "unlabel", &id, "rack-7"]);
    assert!(!muster(&["agent", "show", &id]).contains("rack-7"));
    assert!(muster(&["agent", "contacts", &id]).contains("127.0.0.1"));
    let noted = muster(&["agent", "minimum", &id, "2", "--module", "file", "--reason", "two people"]);
    assert!(noted.contains("file") && noted.contains('2'), "{noted}");
    assert_eq!(json(&muster(&["agent", "weights", &id, "--json"]))["items"][0]["minimum"], 2);
    muster(&["agent", "minimum", &id, "0", "--module", "file"]);
    assert_eq!(json(&muster(&["agent", "weights", &id, "--json"]))["items"], serde_json::json!([]));
    // Its host name stands for it, as long as no other machine has it.
    let host = shown["hostname"].as_str().unwrap().to_owned();
    assert_eq!(json(&muster(&["agent", "show", &host.to_uppercase(), "--json"]))["id"], id.as_str());
    muster(&["agent", "block", &id, "--reason", "under test"]);
    assert!(muster(&["agent", "show", &id]).contains("blocked"));
    muster(&["agent", "unblock", &id]);
    assert!(muster(&["journal", "list"]).contains("under test"));
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_put() {
    let scene = Scene::new().await;
    let (path, back) = (scene.path("big.bin"), scene.path("back.bin"));
    // Larger than one piece, and no multiple of one.
    let content: Vec<u8> = (0..3_000_001_u32).map(|number| (number % 251) as u8).collect();
    std::fs::write(&path, &content).unwrap();
    let (from, to) = (path.display().to_string(), back.display().to_string());
    scene.server.muster(&["file", "put", "sink", &from, "--name", "big.bin"]).unwrap();
    assert!(scene.server.muster(&["file", "list"]).unwrap().contains("big.bin"));
    scene.server.muster(&["file", "get", "sink", "big.bin", "--out", &to]).unwrap();
    assert!(std::fs::read(&back).unwrap() == content, "the file came back changed");
    scene.server.muster(&["file", "delete", "sink", "big.bin"]).unwrap();
    assert!(!scene.server.muster(&["file", "list"]).unwrap().contains("big.bin"));
}

#[tokio::test]
async fn what_is_not_there_is_said_with_its_exit_code() {
    let scene = Scene::new().await;
    let output = Command::new(program("muster").unwrap())
        .args(["agent", "show", "0123456789abcdef"])
        .env("MUSTER_URL", format!("http://{}", scene.server.addresses.operators))
        .env("MUSTER_TOKEN", &scene.server.token)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let output = Command::new(program("muster").unwrap())
        .args(["agent", "list"])
        .env("MUSTER_URL", "http://127.0.0.1:1")
        .env("MUSTER_TOKEN", "x")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let output = Command::new(program("muster").unwrap())
        .args(["agent", "list"])
        .env("MUSTER_URL", format!("http://{}", scene.server.addresses.operators))
        .env("MUSTER_TOKEN", "wrong")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}

#[tokio::test]
async fn a_backup_of_a_running_server_restores() {
    let scene = Scene::new().await;
    let _agent = Agent::start(&scene.server, &scene.path("agent")).unwrap();
    let id = enrolled(&scene.server, &[], CEILING).await.unwrap();
    let file = scene.path("backup.db");
    scene.server.muster(&["backup", "--out", &file.display().to_string()]).unwrap();
    let data = scene.path("restored");
    let output = Command::new(program("muster").unwrap())
        .args(["restore", &file.display().to_string(), "--data", &data.display().to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let restored = muster_harness::server::Setup::new(&data).start().await.unwrap();
    let known: Vec<String> = restored.rest.agents().await.unwrap().into_iter().map(|agent| agent.id).collect();
    assert_eq!(known, [id]);
}

#[tokio::test]
async fn the_doctor_finds_a_healthy_server_healthy() {
    let scene = Scene::new().await;
    let report = scene.server.muster(&["doctor", "--json"]).unwrap();
    assert!(!report.contains("\"failed\""), "{report}");
}

/// The README's two chores exist, and the commands it shows are understood.
fn help_of(words: &[&str]) -> String {
    let output = Command::new(program("muster").unwrap()).args(words).arg("--help").output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_readme_shows_commands_that_exist() {
    let readme = std::fs::read_to_string(workspace().join("README.md")).unwrap();
    for chore in ["cargo xtask demo", "cargo xtask test"] {
        assert!(readme.contains(chore), "the README does not open with {chore}");
    }
    let mut seen = 0;
    for line in readme.lines().filter_map(|line| line.strip_prefix("muster ")) {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        let commands = words
            .iter()
            .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-'));
        let help: Vec<&str> = commands.copied().collect();
        let mut text = help_of(&help);
        if help[0] == "ask" {
            // A question takes the module's flags, too.
            text.push_str(&help_of(&help[..1]));
        }
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            // Modules list their flags as MIG writes them, with one dash.
            assert!(text.contains(&flag[1..]), "{line}: no {flag} in its help:\n{text}");
        }
        seen += 1;
    }
    assert!(seen >= 3, "only {seen} commands were found in the README");
}
