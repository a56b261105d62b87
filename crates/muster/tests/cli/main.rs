//! The program as people and scripts meet it: a real server, real commands, their output and exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod files;
mod questions;
mod server;

use crate::server::*;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn a_hangup_changes_the_log_level_and_names_what_it_cannot_change() {
    let server = Server::start();
    let config = server.directory.path().join("muster.toml");
    let hangup = |text: &str, wanted: &str| {
        std::fs::write(&config, text).unwrap();
        let pid = server.process.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
        wait_for(wanted, || {
            let log = std::fs::read_to_string(server.directory.path().join("log")).unwrap();
            log.contains(wanted).then_some(log)
        })
    };
    let log = hangup("[logs]\nlevel = \"warn\"\n[limits]\nmessage_life = \"2d\"\n", "from the next start");
    assert!(log.contains("the next start: limits.message_life, services"), "{log}");
    hangup("[logs]\nlevel = \"a=b=c\"\n", "everything stays as it was: ");
    let log = hangup("[nonsense]\n", "nonsense");
    assert!(!log.contains("the log level is now warn"), "it was said at level info, which is no longer logged: {log}");
    hangup("[logs]\nlevel = \"debug\"\n", "the log level is now debug");
    server.text(&["server", "status"]);
}

#[test]
fn a_fresh_server_is_found_by_its_data_directory_and_shows_itself() {
    let server = Server::start();
    let status = server.json(&["server", "status"]);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["database"], "sqlite");
    assert!(server.text(&["server", "status"]).contains("sqlite"));
    for list in [
        "agent list",
        "message list",
        "broadcast list",
        "file list",
        "event list",
        "agent dead-letters",
        "action list",
        "investigator list",
        "journal list",
        "report offline",
        "target list",
        "service list",
        "token list",
        "enrol-token list",
        "trust status",
        "module list",
    ] {
        let args: Vec<_> = list.split(' ').collect();
        assert!(server.json(&args)["items"].is_array(), "{list}");
        server.run(&args);
    }
    assert!(server.text(&["service", "list"]).contains("Sink"));
    let doctor = server.run(&["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("admin token"), "{doctor:?}");
    let doctor: Value = serde_json::from_slice(&server.run(&["--json", "doctor"]).stdout).unwrap();
    assert!(doctor["items"][0]["name"].is_string(), "{doctor}");
}

#[test]
fn doctor_looks_at_no_ports_that_a_directory_does_not_name() {
    let data = tempfile::tempdir().unwrap();
    let looked = || {
        let output = muster().args(["--json", "doctor", "--data"]).arg(data.path()).output().unwrap();
        let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
        let names = checks["items"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap().to_owned());
        (names.collect::<Vec<_>>(), checks.to_string())
    };
    let (names, text) = looked();
    assert!(names.iter().any(|name| name == "ports") && !names.iter().any(|name| name.ends_with(" door")), "{text}");
    // What a server that ended left there says where it listened.
    let addresses = r#"{"agents": "127.0.0.1:9", "operators": "127.0.0.1:11", "admin": "127.0.0.1:13"}"#;
    std::fs::write(data.path().join("addresses.json"), addresses).unwrap();
    let (names, text) = looked();
    assert!(names.iter().any(|name| name == "agents' door") && !names.iter().any(|name| name == "ports"), "{text}");
    assert!(text.contains("127.0.0.1:9") && !text.contains(":4443"), "{text}");
}

#[test]
fn each_kind_of_failure_has_its_exit_code_and_says_what_to_do() {
    let server = Server::start();
    let unknown = "00000000000000aa";
    for (code, wanted, args) in [
        (2, "Usage", &["agent", "lst"] as &[&str]),
        (2, "hexadecimal", &["agent", "show", "web 1"]),
        (3, "host name", &["agent", "show", "web-1"]),
        (2, "whole number", &["agent", "list", "--limit", "x"]),
        (2, "at least 1", &["agent", "list", "--limit", "0"]),
        (2, "--token-in-clear", &["--url", "http://muster.example", "--token", "t", "agent", "list"]),
        (3, unknown, &["agent", "show", unknown]),
        (3, "agent list", &["agent", "show", "00aa"]),
        (3, "no file", &["file", "delete", "Updates", "nothing"]),
        (4, "token create", &["--token", "wrong", "agent", "list"]),
        (5, "doctor", &["--url", "http://127.0.0.1:1", "agent", "list"]),
    ] {
        let (exit, said) = server.fails(args);
        assert_eq!(exit, code, "{args:?}: {said}");
        assert!(said.contains(wanted), "{args:?}: {said}");
    }
    server.text(&["token", "create", "twice", "--role", "reader"]);
    let (exit, said) = server.fails(&["token", "create", "twice", "--role", "reader"]);
    assert_eq!(exit, 6, "{said}");
    let (exit, said) = server.fails(&["--json", "agent", "show", unknown]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((exit, &said["error"]["exit"]), (3, &Value::from(3)));
}

#[test]
fn a_program_that_asks_for_json_gets_json_whatever_goes_wrong() {
    let run = |words: &[&str]| muster().args(words).output().unwrap();
    for words in [
        &["--json", "agent", "lst"][..],
        &["agent", "list", "--limit", "x", "--json"],
        &["--json"],
        &["--json", "module", "help", "nosuch"],
        &["--json", "module", "run", "nosuch"],
    ] {
        let output = run(words);
        let error: Value = serde_json::from_slice(&output.stderr).unwrap_or_else(|_| panic!("{words:?}: {output:?}"));
        let code = output.status.code().unwrap();
        assert!([2, 3].contains(&code) && error["error"]["exit"] == code, "{words:?}: {error}");
        assert!(!error["error"]["why"].as_str().unwrap().is_empty(), "{words:?}: {error}");
    }
    for (words, wanted) in [
        (&["--json", "module", "help", "file"][..], "-path"),
        (&["module", "run", "file", "help", "--json"], "-path"),
        (&["--json", "agent", "--help"], "Usage"),
        (&["--json", "help", "agent"], "Usage"),
    ] {
        let output = run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        let help: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{words:?}: {output:?}"));
        assert!(help["help"].as_str().unwrap().contains(wanted), "{words:?}: {help}");
    }
    let version: Value = serde_json::from_slice(&run(&["--json", "--version"]).stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    let plain = run(&["agent", "lst"]);
    assert!(
        plain.status.code() == Some(2) && String::from_utf8_lossy(&plain.stderr).starts_with("error: "),
        "{plain:?}"
    );
}

#[test]
fn without_a_server_it_is_said_where_was_looked() {
    let empty = tempfile::tempdir().unwrap();
    let (exit, said) = failed(&muster().arg("--data").arg(empty.path()).args(["agent", "list"]).output().unwrap());
    assert_eq!(exit, 5);
    for wanted in ["error: ", "on: ", "why: ", "next:", "addresses.json", "MUSTER_URL"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

#[test]
fn a_reader_looks_and_may_not_change() {
    let server = Server::start();
    let token = server.text(&["token", "create", "grafana", "--role", "reader", "--expires-in", "1h"]);
    let token = token.trim();
    server.text(&["--token", token, "agent", "list"]);
    let (exit, said) = server.fails(&["--token", token, "enrol-token", "create", "x"]);
    assert_eq!(exit, 4, "{said}");
    assert!(said.contains("enrolment.write") && said.contains("role operator or admin"), "{said}");
    server.text(&["token", "delete", "grafana"]);
    // A server may believe a withdrawn token for the moment for which it remembers to have checked it.
    wait_for("the end of the token", || {
        (server.run(&["--token", token, "agent", "list"]).status.code() == Some(4)).then_some(())
    });
    let journal = server.text(&["journal", "list"]);
    assert!(journal.contains("grafana"), "{journal}");
}

#[test]
fn a_message_to_a_service_is_taken_and_shown() {
    let server = Server::start();
    let sent = server.json(&["message", "send", "server", "--service", "Sink", "--type", "T", "--wait", "hello"]);
    assert_eq!(sent["message"]["state"], "done");
    let id = server.text(&["message", "send", "server", "--service", "Sink", "--type", "T", "hello"]);
    let id = id.trim();
    assert_eq!(id.len(), 64);
    wait_for("the message", || (server.json(&["message", "show", id])["state"] == "done").then_some(()));
    assert_eq!(server.json(&["message", "list", "--service", "Sink"])["items"].as_array().unwrap().len(), 2);
    assert!(server.text(&["message", "show", &id[..24]]).contains("Sink"));
    assert!(server.text(&["message", "list", "--limit", "1"]).lines().count() == 2);
}

#[test]
fn a_wait_that_runs_out_has_its_own_exit_code() {
    let server = Server::start();
    let args = ["message", "send", "server", "--service", "Sink", "--answer", "--wait-max", "200ms", "hello"];
    let (exit, said) = server.fails(&args);
    assert_eq!(exit, 7, "{said}");
    assert!(said.contains("no answer came") && said.contains("--wait-max"), "{said}");
}

#[test]
fn dev_starts_everything_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut dev = muster();
    dev.env("HOME", home.path()).env_remove("XDG_STATE_HOME").env("TMPDIR", home.path());
    let output = dev.args(["dev", "--no-agent", "--once", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(told["url"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{told}");
    assert!(!Path::new(told["data"].as_str().unwrap()).exists());
    assert!(!home.path().join(".local/state/muster/dev").exists());
}

#[test]
fn a_broadcast_is_made_listed_and_switched_off() {
    let server = Server::start();
    let args = ["broadcast", "create", "--service", "muster", "--type", "FactsRequest", "--limit", "3", "--label", "x"];
    let id = server.text(&args);
    let id = id.trim();
    let row = server.json(&["broadcast", "show", &id[..6]]);
    assert_eq!((row["active"].as_bool(), row["limit"].as_u64()), (Some(true), Some(3)));
    assert_eq!(row["labels"][0], "operator:x");
    server.text(&["broadcast", "disable", id]);
    assert_eq!(server.json(&["broadcast", "show", id])["active"], false);
}

#[test]
fn a_server_ends_in_order_when_it_is_told_to() {
    let mut server = Server::start();
    let pid = rustix::process::Pid::from_child(&server.process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = wait_for("the end", || server.process.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(!server.data().join("addresses.json").exists());
}

#[test]
fn a_configuration_is_checked_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let config = in_directory(directory.path(), "muster.toml", b"[agents]\nadress = \"127.0.0.1:0\"\n");
    for args in [&["config", "check", "--config", &config] as &[&str], &["serve", "--config", &config]] {
        let (exit, said) = failed(&muster().args(args).output().unwrap());
        assert_eq!(exit, 2, "{said}");
        assert!(said.contains("muster.toml:2") && said.contains("adress"), "{said}");
    }
    let defaults = muster().args(["config", "show", "--defaults"]).output().unwrap();
    let config = in_directory(directory.path(), "defaults.toml", &defaults.stdout);
    assert!(muster().args(["config", "check", "--config", &config]).status().unwrap().success());
    let (exit, said) = failed(&muster().env("MUSTER_LIMITS_ODD", "1").args(["config", "check"]).output().unwrap());
    assert_eq!(exit, 2, "{said}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = muster().args(["reference"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
