//! Orders that run and are called back: real server, real agent, real command line, and others who call back as well.

use crate::investigations::unix_now;
use crate::scene::{CEILING, Scene};
use muster_api::messages::MessageRow;
use muster_harness::agent::Agent;
use muster_harness::client::enrolled;
use muster_harness::investigator::Investigator;
use muster_harness::server::Server;
use muster_harness::wait;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Gives the machine of `directory` a module `endless` that writes its process id into `pid` and never ends by itself.
fn endless_module(directory: &Path, pid: &Path) {
    let program = directory.join("endless");
    let script = format!("#!/bin/sh\necho $$ > {0}.new\nmv {0}.new {0}\nexec sleep 1000\n", pid.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = program.display();
    let module = format!("[endless]\npath = \"{path}\"\nprivilege = \"agent\"\nweight_min = 1\neffect = \"changes\"\n");
    std::fs::write(directory.join("modules.toml"), module).unwrap();
    let config = directory.join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("modules_file = \"modules.toml\"\n{text}")).unwrap();
}

/// Waits until the machine has refused `count` cancellations.
async fn refused(server: &Server, agent: &str, count: usize) {
    wait::until_true("the machine's refusals", CEILING, async || {
        let rows: Vec<MessageRow> = server.rest.all(&format!("/messages?agent={agent}")).await?;
        let refusals = rows.iter().filter(|row| row.message_type == "Cancel" && row.state == "failed");
        Ok(refusals.count() == count)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_order_is_called_back_by_who_signed_it_though_others_called_it_back_before() {
    let scene = Scene::new().await;
    let server = &scene.server;
    let (alice, mallory) = (Investigator::new("Alice").unwrap(), Investigator::new("Mallory").unwrap());
    alice.join(server).unwrap();
    mallory.join(server).unwrap();
    let (directory, pid) = (scene.path("agent"), scene.path("pid"));
    // Mallory has no weight on the machine.
    Agent::prepare(server, &directory, &[&alice], 1).unwrap();
    endless_module(&directory, &pid);
    let _agent = Agent::start_in(&directory).unwrap();
    let machine = enrolled(server, &[], CEILING).await.unwrap();
    let known = async || Ok(server.rest.agent(&machine).await?.facts.contains_key("agent_vouches"));
    wait::until_true("its facts", CEILING, known).await.unwrap();
    // Windows are whole seconds, and the machine takes no order from before its ledger.
    let enrolled_in = unix_now();
    wait::until_true("the next second", CEILING, async || Ok(unix_now() > enrolled_in)).await.unwrap();
    let file = scene.path("endless.json").display().to_string();
    let operation = r#"{"module":"endless","parameters":{}}"#;
    let new =
        ["action", "new", "--name", "endless", "--target", "os='linux'", "--operation", operation, "--out", &file];
    let from = muster_core::Timestamp::from_secs(i64::try_from(unix_now()).unwrap()).to_string();
    alice.muster(server, &[&new[..], &["--valid-from", &from]].concat()).unwrap();
    alice.muster(server, &["action", "sign", &file]).unwrap();
    let launched = alice.muster(server, &["action", "launch", "--yes", &file]).unwrap();
    let id = launched.split_whitespace().next().unwrap();
    wait::until_true("the module's start", CEILING, async || Ok(pid.exists())).await.unwrap();
    let process = std::fs::read_to_string(&pid).unwrap();
    let process = Path::new("/proc").join(process.trim());

    let detail: Value = server.rest.get(&format!("/actions/{id}")).await.unwrap();
    let digest = detail["signed_sha256"].as_str().unwrap();
    let cancel = ["action", "cancel", id, "--digest", digest];
    let said = mallory.muster_output(server, &cancel).unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    refused(server, &machine, 1).await;
    // Nor does Alice's own slip keep her from calling it back.
    alice.muster(server, &[&cancel[..], &["--fleet", "elsewhere"]].concat()).unwrap();
    refused(server, &machine, 2).await;
    assert!(process.exists(), "what nobody who may called back goes on");
    let unsigned = server.muster(&["action", "cancel", id, "--server-only"]).unwrap_err().to_string();
    assert!(unsigned.contains("may still run it"), "{unsigned}");
    alice.muster(server, &cancel).unwrap();
    wait::until_true("the end of the module", CEILING, async || Ok(!process.exists())).await.unwrap();
}
