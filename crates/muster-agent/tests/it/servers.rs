//! Servers that are of no use, refuse or mislead, and services that should not see everything.

use crate::agent::{AgentProcess, CEILING};
use crate::fleet::{Fleet, Kind};
use crate::machine::{Draft, Machine, ONE};
use muster_core::system;
use muster_proto::wire;
use muster_proto::wire::actions::ResultStatus;
use muster_proto::wire::stdinservice::{InputMessage, OutputMessage};
use prost::Message as _;

/// An agent whose first server is of this kind, and whose second is good.
fn two(first: &Fleet, second: &Fleet, mode: &str) -> AgentProcess {
    // Both authorities, the last without a line between.
    let pins = format!("{}{}", first.authority_pem().trim_end(), second.authority_pem());
    let servers = format!("servers = [\"{}\", \"{}\"]", first.address, second.address);
    AgentProcess::start(second, &format!("{servers}\ntrusted_certs = '''{pins}'''\nmode = {mode:?}"))
}

#[tokio::test]
async fn the_next_server_is_tried_when_the_first_shakes_hands_and_is_of_no_use() {
    for mode in ["stream", "poll"] {
        for kind in [Kind::Cuts, Kind::Fails, Kind::Babbles, Kind::Refuses] {
            let (first, second) = (Fleet::start(kind).await, Fleet::start(Kind::Plain).await);
            let mut agent = two(&first, &second, mode);
            second.wait_for(system::FACTS).await;
            assert!(kind == Kind::Refuses || first.seen().useless > 0, "{kind:?} {mode}: the first was not tried");
            assert_eq!(agent.stop().await, Some(0), "{kind:?} {mode}");
        }
    }
}

/// A scheduler that ends a call takes 0 for "all is delivered".
#[tokio::test]
async fn a_single_call_that_a_signal_ends_is_no_success() {
    let fleet = Fleet::start(Kind::NeverAcknowledges).await;
    let mut agent = AgentProcess::prepare(&fleet, "");
    agent.start_once();
    fleet.wait_for(system::FACTS).await;
    assert_eq!(agent.stop().await, Some(5), "the server has acknowledged less than it was sent");
    // Nobody answers at this address: the listener takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let mut agent = AgentProcess::prepare(&fleet, &format!("servers = [\"{address}\"]"));
    agent.start_once();
    let _held = tokio::task::spawn_blocking(move || silent.accept().unwrap()).await.unwrap();
    assert_eq!(agent.stop().await, Some(5), "there was no contact at all");
}

#[tokio::test]
async fn a_list_of_revoked_certificates_without_an_end_stops_no_contact() {
    for mode in ["stream", "poll"] {
        let fleet = Fleet::start(Kind::EndlessList).await;
        let agent = AgentProcess::start(&fleet, &format!("mode = {mode:?}"));
        fleet.wait_for(system::FACTS).await;
        assert_eq!(fleet.seen().revoked_asked, 1, "{mode}");
        agent.wait_for_file("standing.json").await;
        let (_, found) = agent.output(&["doctor"]).await;
        assert!(found.contains("list of revoked certificates is ignored"), "{found}");
    }
}

#[tokio::test]
async fn a_machine_that_is_refused_or_waits_is_seen_by_doctor_and_status() {
    for (kind, outcome, words) in
        [(Kind::Refuses, "failed", "this machine was deleted"), (Kind::LetsWait, "warning", "wait for approval")]
    {
        let fleet = Fleet::start(kind).await;
        let agent = AgentProcess::start(&fleet, "");
        agent.wait_for_file("standing.json").await;
        let seen = async {
            loop {
                let (code, shown) = agent.output(&["doctor", "--json"]).await;
                let checks: serde_json::Value = serde_json::from_str(&shown).unwrap();
                let contact = checks.as_array().unwrap().iter().find(|check| check["name"] == "contact").cloned();
                if let Some(contact) = contact.filter(|contact| contact["found"].as_str().unwrap().contains(words)) {
                    return (code, contact);
                }
            }
        };
        let (code, contact) = tokio::time::timeout(CEILING, seen).await.expect("it was never seen");
        assert_eq!(contact["outcome"], outcome);
        assert!(contact["advice"].is_string(), "{contact}");
        assert_eq!(code, Some(i32::from(outcome == "failed")));
        let (_, status) = agent.output(&["status"]).await;
        assert!(status.contains(words), "{status}");
    }
}

#[tokio::test]
async fn a_clock_apart_from_the_servers_is_measured() {
    let fleet = Fleet::start(Kind::Plain).await;
    let agent = AgentProcess::start(&fleet, "");
    fleet.wait_for(system::FACTS).await;
    let (_, shown) = agent.output(&["doctor", "--json"]).await;
    let checks: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let clock = checks.as_array().unwrap().iter().find(|check| check["name"] == "clock").unwrap();
    assert_eq!(clock["outcome"], "ok");
}

/// What a Stdin service wrote.
async fn output(fleet: &Fleet) -> String {
    let answer = fleet.wait_for("StdinServiceOutputMessage").await;
    String::from_utf8(OutputMessage::decode(&answer.body()[..]).unwrap().stdout.to_vec()).unwrap()
}

#[tokio::test]
async fn a_service_sees_nothing_of_the_agents_own_environment() {
    let fleet = Fleet::start(Kind::Plain).await;
    let mut agent = AgentProcess::prepare(&fleet, "services_dir = \"services\"\nservices_environment = [\"WANTED\"]");
    let services = agent.directory().join("services");
    std::fs::create_dir(&services).unwrap();
    let definition = "name: \"env\" factory: \"Stdin\" config: { \
                      [type.googleapis.com/fleetspeak.stdinservice.Config]: { cmd: \"env\" } }";
    std::fs::write(services.join("env.service"), definition).unwrap();
    agent.restart_with("MUSTER_AGENT_ENROL_TOKEN", "hunter2");
    fleet.wait_for(system::CLIENT_INFO).await;
    let value = InputMessage::default().encode_to_vec();
    let input = prost_types::Any { type_url: "type.googleapis.com/fleetspeak.stdinservice.InputMessage".into(), value };
    fleet.send("env", "StdinServiceInputMessage", Some(input));
    let shown = output(&fleet).await;
    assert!(shown.contains("PATH=") && !shown.contains("hunter2") && !shown.contains("MUSTER_AGENT"), "{shown}");
    assert!(fleet.seen().labels.contains(&format!("{}hunter2", system::ENROL_TOKEN_PREFIX)));
}

#[tokio::test]
async fn an_agent_that_calls_once_takes_what_waits_runs_it_delivers_and_ends() {
    let machine = Machine::prepared("").await;
    // A question: it is older than the machine's own memory, which begins with its first start.
    let answer = "{\"foundanything\":true,\"success\":true,\"elements\":\"here\"}";
    machine.script_with("asking", &format!("read line\necho '{answer}'"), "privilege = \"agent\"\neffect = \"reads\"");
    let order = Draft { module: "asking".into(), ..Draft::new("waits") }.signed(&[ONE]);
    let sent = machine.order(order, 7);
    assert_eq!(machine.agent.run_once().await, Some(0));
    let seen = machine.fleet.seen();
    assert!(seen.acknowledged.contains(&sent));
    let facts = seen.messages.iter().find(|seen| seen.message.message_type == system::FACTS).unwrap();
    let facts: Vec<u8> = prost::Message::decode(&facts.body()[..]).unwrap();
    let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
    assert_eq!(facts["agent_mode"], "checkin");
    let results = seen.messages.iter().filter(|seen| seen.message.message_type == system::ACTION_RESULT);
    let results: Vec<_> = results.map(|seen| wire::actions::ActionResult::decode(&seen.body()[..]).unwrap()).collect();
    assert_eq!(results.len(), 1);
    assert_eq!((results[0].status(), &results[0].refusal), (ResultStatus::Success, &None), "{:?}", results[0]);
    // Nothing waits: it ends as well.
    assert_eq!(machine.agent.run_once().await, Some(0));
    // Its last word is that it is gone.
    let seen = machine.fleet.seen();
    assert!(muster_proto::introduction::is_leaving(&seen.introductions.last().unwrap().1));
    let (_, status) = machine.agent.output(&["status"]).await;
    assert!(status.contains("does not run; it was in contact with"), "{status}");
}

#[tokio::test]
async fn an_agent_that_calls_once_and_waits_for_approval_says_so() {
    let fleet = Fleet::start(Kind::LetsWait).await;
    let agent = AgentProcess::prepare(&fleet, "");
    assert_eq!(agent.run_once().await, Some(3));
    let (_, status) = agent.output(&["status"]).await;
    assert!(status.contains("does not run;") && status.contains("let this machine wait for approval at"), "{status}");
    assert!(!status.contains("in contact"), "{status}");
}

#[tokio::test]
async fn an_agent_that_was_killed_is_not_in_contact() {
    let fleet = Fleet::start(Kind::Plain).await;
    let mut agent = AgentProcess::start(&fleet, "");
    fleet.wait_for(system::CLIENT_INFO).await;
    agent.wait_for_file("standing.json").await;
    let (_, status) = agent.output(&["status"]).await;
    assert!(status.contains(", runs\n") && status.contains("in contact with"), "{status}");
    agent.kill().await;
    let (_, status) = agent.output(&["status"]).await;
    assert!(status.contains(", does not run\n") && status.contains("it was in contact with"), "{status}");
    let (_, json) = agent.output(&["status", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["running"], false);
}

#[tokio::test]
async fn an_agent_that_calls_once_and_reaches_nobody_says_so() {
    let fleet = Fleet::start(Kind::Refuses).await;
    // Refused is another thing than not reached.
    assert_eq!(AgentProcess::prepare(&fleet, "").run_once().await, Some(4));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let agent = AgentProcess::prepare(&fleet, &format!("servers = [\"{nobody}\"]"));
    assert_eq!(agent.run_once().await, Some(1));
}

#[tokio::test]
async fn the_program_names_its_commit_and_a_reader_that_has_enough_ends_it_in_silence() {
    use std::process::{Command, Stdio};
    let program = env!("CARGO_BIN_EXE_muster-agent");
    let say = |argument: &str| {
        let output = Command::new(program).arg(argument).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(say("-V"), format!("muster-agent {version}\n"), "the module agentdestroy compares it");
    assert_eq!(say("--version"), format!("muster-agent {version} (commit {})\n", env!("MUSTER_COMMIT")));
    // Standard output whose reader is gone already.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ended = Command::new(program).arg("facts").stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr).unwrap().as_str()), (Some(0), ""));
}

/// Two new file systems in memory count their files alike. Needs root, in a container for instance: it mounts, where nobody
/// else sees it.
#[tokio::test]
async fn a_lock_on_a_file_of_the_same_number_elsewhere_makes_no_agent_look_alive() {
    assert!(
        rustix::process::geteuid().is_root(),
        "only root mounts: run the tests as root, in a container for instance"
    );
    let directory = tempfile::tempdir().unwrap();
    let script = r#"
        cd "$1" && mkdir state other && mount -t tmpfs -o mode=700 a state && mount -t tmpfs b other && touch state/lock other/lock &&
        test "$(stat -c %i state/lock)" = "$(stat -c %i other/lock)" || exit 100
        echo 'state_dir = "state"' > config.toml
        flock other/lock "$2" status --config config.toml; echo "--"
        flock state/lock "$2" status --config config.toml
    "#;
    let mut command = tokio::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(directory.path()).arg(env!("CARGO_BIN_EXE_muster-agent"));
    let output = tokio::time::timeout(CEILING, command.kill_on_drop(true).output()).await.unwrap().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let (elsewhere, own) = shown.split_once("--").unwrap_or_else(|| panic!("{shown}{:?}", output.stderr));
    assert!(elsewhere.contains("does not run"), "{shown}");
    assert!(!own.contains("does not run"), "the agent's own lock is seen: {shown}");
}
