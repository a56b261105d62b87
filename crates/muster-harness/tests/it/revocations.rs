//! Certificates that administrators revoke: a real server, whose authority a real agent trusts until then.

use crate::scene::{CEILING, Scene};
use muster_harness::agent::Agent;
use muster_harness::client::enrolled;
use muster_harness::investigator::Investigator;
use muster_harness::{programs, wait};
use std::path::Path;
use std::process::Command;

/// Runs another command of the agent, and returns what it prints.
fn agent_says(directory: &Path, command: &str) -> String {
    let program = programs::program("muster-agent").unwrap();
    let config = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let config = config.into_iter().find(|path| path.extension().is_some_and(|end| end == "toml")).unwrap();
    let output = Command::new(program).arg(command).arg("--config").arg(config).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_server_whose_authority_administrators_revoked_is_never_trusted_again() {
    let scene = Scene::new().await;
    let server = &scene.server;
    let (ann, ben) = (Investigator::new("Ann").unwrap(), Investigator::new("Ben").unwrap());
    let directory = scene.path("agent");
    let key = |person: &Investigator| person.public_key().display().to_string();
    let (address, out) = (server.addresses.agents.to_string(), directory.display().to_string());
    let config = ["agent", "config", "--format", "muster", "--server", &address, "--out", &out, "--fleet", "lab"];
    let trust = ["--trust", &key(&ann), "--administrator", &key(&ann), "--administrator", &key(&ben)];
    server.muster(&[&config[..], &trust].concat()).unwrap();
    let mut agent = Agent::start_in(&directory).unwrap();
    enrolled(server, &[], CEILING).await.unwrap();
    let authority = server.data().join("ca.pem").display().to_string();
    let send = |version: &str, more: &[&str]| {
        let file = scene.path(&format!("revoked-{version}.json")).display().to_string();
        let new = ["trust", "new", "revocations", "--fleet", "lab", "--version", version, "--out", &file, &authority];
        server.muster(&[&new[..], more].concat()).unwrap();
        ann.muster(server, &["trust", "sign", &file]).unwrap();
        ben.muster(server, &["trust", "sign", &file]).unwrap();
        server.muster(&["trust", "send", &file]).unwrap();
    };
    // It would leave the machine nobody that it trusts, and does not say that this is meant.
    send("1", &[]);
    wait::until_true("the machine's refusal", CEILING, async || {
        Ok(server.muster(&["trust", "status", "--json"])?.contains("would cut it off"))
    })
    .await
    .unwrap();
    let told = server.muster(&["trust", "status", "--json"]).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let revocations = &told["items"][0]["told"]["revocations"];
    assert_eq!(
        *revocations,
        serde_json::json!({"version": 0, "serials": 0, "fingerprints": 0}),
        "nothing is revoked there"
    );
    assert!(agent_says(&directory, "status").contains("in contact with"), "it went away all the same");

    send("2", &["--cut-off"]);
    let why = "a document of administrators revoked its certificate";
    for again in 0..2 {
        wait::until_true("the end of the contact", CEILING, async || {
            Ok(agent_says(&directory, "status").contains("no contact since"))
        })
        .await
        .unwrap();
        let shown = agent_says(&directory, "status");
        assert!(shown.contains(why) && shown.contains("1 certificates, by version 2"), "{again}: {shown}");
        let found = agent_says(&directory, "doctor");
        for words in [why, "no server is trusted", "administrators revoked it for good"] {
            assert!(found.contains(words), "{again}: {found}");
        }
        // Nor after a restart.
        agent.kill_and_restart().unwrap();
    }
}
