//! The program as people and scripts meet it: a real server, real commands, their output and exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_muster");
/// How long a server may take to start or end.
const CEILING: Duration = Duration::from_secs(30);

/// The program without whatever the environment says.
fn muster() -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Looks again and again until there is something.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < CEILING, "{what} did not come");
        std::thread::yield_now();
    }
}

/// A server in a directory of its own, ended with the test.
struct Server {
    process: Child,
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("muster.toml");
        std::fs::write(&config, "[[services]]\nname = \"Sink\"\nkind = \"noop\"\n").unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut process = muster()
            .args(["serve", "--agents", "127.0.0.1:0", "--operators", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args([
                "--config".as_ref(),
                config.as_os_str(),
                "--data".as_ref(),
                directory.path().join("data").as_os_str(),
            ])
            .stderr(log)
            .spawn()
            .unwrap();
        let addresses = directory.path().join("data/addresses.json");
        wait_for("the server", || {
            if let Some(status) = process.try_wait().unwrap() {
                let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
                panic!("the server ended with {status}: {log}");
            }
            addresses.exists().then_some(())
        });
        Self { process, directory }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = muster();
        command.env("XDG_CONFIG_HOME", self.directory.path().join("config"));
        command.arg("--data").arg(self.data()).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must work, and returns what it wrote.
    fn text(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// As [`Server::text`], with `--json`.
    fn json(&self, args: &[&str]) -> Value {
        let mut with = vec!["--json"];
        with.extend(args);
        serde_json::from_str(&self.text(&with)).unwrap()
    }

    /// Runs a command that must fail, and returns its exit code and what it said.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        failed(&self.run(args))
    }
}

fn failed(output: &Output) -> (i32, String) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    (output.status.code().unwrap(), said)
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that has ended already is no trouble here.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn in_directory(path: &Path, name: &str, bytes: &[u8]) -> String {
    let path = path.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

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
    assert!(said.contains("role admin"), "{said}");
    server.text(&["token", "delete", "grafana"]);
    // A server may believe a withdrawn token for the moment for which it remembers to have checked it.
    wait_for("the end of the token", || {
        (server.run(&["--token", token, "agent", "list"]).status.code() == Some(4)).then_some(())
    });
    let journal = server.text(&["journal", "list"]);
    assert!(journal.contains("grafana"), "{journal}");
}

#[test]
fn files_of_any_bytes_go_in_and_come_out() {
    let server = Server::start();
    let here = server.directory.path();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect();
    let path = in_directory(here, "rules.bin", &bytes);
    server.text(&["file", "put", "Updates", &path]);
    let out = here.join("copy").display().to_string();
    server.text(&["file", "get", "Updates", "rules.bin", "--out", &out]);
    assert_eq!(std::fs::read(&out).unwrap(), bytes);
    assert_eq!(server.run(&["file", "get", "Updates", "rules.bin", "--out", "-"]).stdout, bytes);

    let odd = "a b/ü?#%2e..";
    let mut put = server.command(&["file", "put", "Updates", "-", "--name", odd]);
    let mut put = put.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    assert!(put.wait().unwrap().success());
    assert_eq!(server.run(&["file", "get", "Updates", odd, "--out", "-"]).stdout, b"from a pipe");
    let names: Vec<_> = server.json(&["file", "list", "--service", "Updates"])["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, [odd, "rules.bin"]);
    server.text(&["file", "delete", "Updates", odd]);
    assert_eq!(server.fails(&["file", "get", "Updates", odd, "--out", "-"]).0, 3);
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
fn a_services_file_and_components_become_a_configuration_that_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["muster.example".to_owned()]).unwrap();
    let (certificate, key) = (cert.pem(), signing_key.serialize_pem());
    let text = format!("https_config {{ listen_address: \":4443\" certificates: {certificate:?} key: {key:?} }}");
    let components = in_directory(here, "components", text.as_bytes());
    let services = in_directory(here, "services", b"services { name: \"Sink\" factory: \"NOOP\" }");
    let out = here.join("muster.toml").display().to_string();
    let run = || {
        let args = ["import", "fleetspeak", "--components", &components, "--services", &services, "--out", &out];
        muster().args(args).output().unwrap()
    };
    let first = run();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert!(muster().args(["config", "check", "--config", &out]).status().unwrap().success());
    assert_eq!(std::fs::read_to_string(here.join("agents.key")).unwrap(), key);
    assert_eq!(failed(&run()).0, 6);
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
fn an_agents_configuration_is_written_for_both_programs() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = Server::start();
    for format in ["muster", "fleetspeak"] {
        let out = server.directory.path().join(format);
        let dir = out.display().to_string();
        let args = ["agent", "config", "--format", format, "--server", "muster.example:4443", "--out", &dir];
        let written = server.json(&args)["written"].as_array().unwrap().clone();
        let first = PathBuf::from(written[0].as_str().unwrap());
        let text = std::fs::read_to_string(&first).unwrap();
        assert!(text.contains("muster.example:4443"), "{text}");
        assert_eq!(std::fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // What is there is not overwritten unasked.
    let (out, other) = (server.directory.path().join("muster").display().to_string(), "other.example:4443");
    let args = ["agent", "config", "--format", "muster", "--server", other, "--out", &out];
    let (code, text) = server.fails(&args);
    assert!(code == 6 && text.contains("config.toml") && text.contains("--replace"), "{code}: {text}");
    server.text(&[&args[..], &["--replace"]].concat());
    let config = server.directory.path().join("fleetspeak/config.textproto");
    assert!(std::fs::read_to_string(config).unwrap().contains("BEGIN CERTIFICATE"));
}

#[test]
fn out_replaces_nothing_in_silence_and_no_pipe_or_device_at_all() {
    use std::os::unix::fs::FileTypeExt as _;
    let server = Server::start();
    let at = |name: &str| server.directory.path().join(name).display().to_string();
    std::fs::write(at("r"), "rules").unwrap();
    server.text(&["file", "put", "S", &at("r")]);
    let new =
        |out: &str| ["action", "new", "--name", "q", "--target", "true", "--out", out, "mounts"].map(str::to_owned);
    let get = |out: &str| ["file", "get", "S", "r", "--out", out].map(str::to_owned);
    let trust = |out: &str| {
        let about = ["trust", "new", "administrators", "--fleet", "lab", "--threshold", "1", "--version", "1"];
        [&about.map(str::to_owned)[..], &["--out", out, &key("first.asc")].map(str::to_owned)].concat()
    };
    let backup = |out: &str| ["backup", "--out", out].map(str::to_owned);
    std::fs::write(at("mine"), "mine").unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/full", at("full")).unwrap();
    let commands = |out: &str| [&new(out)[..], &get(out), &trust(out), &backup(out)].map(<[String]>::to_vec);
    for command in commands(&at("mine")) {
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        let (code, text) = server.fails(&command);
        assert!(code == 6 && text.contains("--replace") && text.contains("mine"), "{command:?}: {code}: {text}");
        assert_eq!(std::fs::read(at("mine")).unwrap(), b"mine", "{command:?}");
    }
    for command in commands(&at("full")) {
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        let (code, text) = server.fails(&command);
        assert!(code == 1 && text.contains("No space left"), "{command:?}: {code}: {text}");
    }
    for command in commands(&at("pipe")) {
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        let mut child = server.command(&command).spawn().unwrap();
        assert!(!std::fs::read(at("pipe")).unwrap().is_empty(), "{command:?}");
        assert!(child.wait().unwrap().success(), "{command:?}");
        assert!(std::fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
    }
    for command in commands("-").iter().chain(&commands("/dev/stdout")) {
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        let output = server.run(&command);
        assert!(output.status.success() && !output.stdout.is_empty(), "{command:?}");
    }
    assert!(!Path::new("-").exists());
    server.text(&["action", "new", "--replace", "--name", "q", "--target", "true", "--out", &at("mine"), "mounts"]);
    assert!(std::fs::read_to_string(at("mine")).unwrap().contains("mounts"));
}

#[test]
fn a_backup_restores_into_another_directory() {
    let server = Server::start();
    let path = in_directory(server.directory.path(), "f", b"kept");
    server.text(&["file", "put", "S", &path]);
    let copy = server.directory.path().join("copy.db").display().to_string();
    server.text(&["backup", "--out", &copy]);
    let second = server.directory.path().join("second.db").display().to_string();
    let (exit, said) = server.fails(&["backup", "--offline", "--out", &second]);
    assert_eq!(exit, 6, "{said}");

    let other = server.directory.path().join("other").display().to_string();
    let run = |args: &[&str]| muster().args(["--data", &other]).args(args).output().unwrap();
    assert_eq!(run(&["db", "status"]).status.code(), Some(1));
    let restored = run(&["restore", &copy]);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert!(run(&["db", "status"]).status.success());
    let again = server.directory.path().join("again.db").display().to_string();
    assert!(run(&["backup", "--offline", "--out", &again]).status.success());
    assert_eq!(run(&["restore", "/no/such/file"]).status.code(), Some(3));
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

/// A key that was made for tests, secret or public.
fn key(name: &str) -> String {
    format!("{}/../muster-engine/src/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_named_target_is_written_out_before_anything_is_signed() {
    let server = Server::start();
    let (home, nobody) = (server.directory.path().join("config"), "http://127.0.0.1:1");
    // What a person keeps is kept on the person's machine: no server is asked, nor needed.
    let here = |words: &[&str]| {
        let mut command = muster();
        command.env("XDG_CONFIG_HOME", &home).args(["--url", nobody]).args(words).output().unwrap()
    };
    assert!(here(&["target", "save", "linux", "os='linux'"]).status.success());
    let file = server.directory.path().join("q.json").display().to_string();
    let new = |target: &'static str| {
        ["action", "new", "--replace", "--name", "q", "--target", target, "--out", &file, "timedrift"]
    };
    assert!(here(&new("@linux AND status='online'")).status.success());
    let action: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(action["target"], "(os='linux') AND status='online'");
    let (code, text) = server.fails(&new("@missing OR true"));
    assert!(code == 2 && text.contains("no target has the name \"missing\""), "{code}: {text}");
    // An at sign in a text is no name.
    let alone = here(&new("name = 'a@linux'"));
    assert!(alone.status.success(), "{alone:?}");
    // What the server means by a name is the server's word, and there is nobody here to agree to it.
    server.text(&["target", "put", "theirs", "os='linux'"]);
    let (code, text) = server.fails(&new("@theirs"));
    assert!(code == 2 && text.contains("The server says that @theirs means: os='linux'"), "{code}: {text}");
    // A name means the same when it is only checked: the person's meaning first, then the server's, which is no question there.
    server.text(&["target", "put", "linux", "os='bsd'"]);
    for (name, meaning) in [("@linux", "(os='linux')"), ("@theirs", "The server says that @theirs means: os='linux'")] {
        let checked = server.command(&["target", "check", name]).env("XDG_CONFIG_HOME", &home).output().unwrap();
        let text = String::from_utf8(checked.stderr).unwrap();
        assert!(checked.status.success() && text.contains(meaning) && !text.contains("bsd"), "{name}: {text}");
    }
    let saved = here(&["--json", "target", "save", "linux", "os='linux'"]);
    let saved: Value = serde_json::from_slice(&saved.stdout).unwrap();
    assert_eq!(saved, serde_json::json!({"name": "linux", "target": "os='linux'"}));
    // With a fleet, what is signed is for its machines alone.
    let fleet = [&new("@linux OR true")[..5], &["--fleet", "lab"], &new("@linux OR true")[5..]].concat();
    assert!(here(&fleet).status.success());
    let action: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(action["target"], "((os='linux') OR true) AND fleet = 'lab'");
    // What is shown before it is signed is what will be signed.
    server.text(&["investigator", "add", "Ann", "--key", &key("first.asc")]);
    let ask = ["ask", "--key", &key("first.key"), "--target", "@linux", "--yes", "timedrift"];
    let (code, text) = failed(&server.command(&ask).env("XDG_CONFIG_HOME", &home).output().unwrap());
    assert!(code == 3 && text.contains("Target      (os='linux')"), "{code}: {text}");
}

#[test]
fn an_action_that_nobody_signed_is_previewed() {
    let server = Server::start();
    let file = server.directory.path().join("q.json").display().to_string();
    server.text(&["action", "new", "--name", "q", "--target", "true", "--out", &file, "timedrift"]);
    let output = server.run(&["action", "preview", &file]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && text.contains("Signed by nobody yet."), "{text}");
    assert!(text.contains("needs signatures before it can be launched"), "{text}");
    let preview = server.json(&["action", "preview", &file]);
    assert_eq!((&preview["ready"], &preview["matched"]), (&Value::Bool(false), &Value::from(0)));
    let (code, text) = server.fails(&["action", "launch", &file, "--yes"]);
    assert!(code == 2 && text.contains("nobody has signed it"), "{code}: {text}");
}

/// Runs a command with something on standard input, which is no terminal.
fn told(mut command: Command, input: &str) -> (i32, String) {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // A command that does not read ends before it is told anything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    failed(&child.wait_with_output().unwrap())
}

#[test]
fn without_a_terminal_a_no_is_a_no_and_machines_are_changed_only_with_yes() {
    let server = Server::start();
    let (code, text) = server.fails(&["agent", "delete", "00000000000000aa"]);
    assert!(code == 2 && text.contains("pass --yes"), "{code}: {text}");
    let (code, text) = told(server.command(&["agent", "delete", "00000000000000aa"]), "y\n");
    assert!(code == 2 && text.contains("pass --yes"), "{code}: {text}");
    // With --yes it is tried, and there is no such machine.
    assert_eq!(server.fails(&["agent", "delete", "00000000000000aa", "--yes"]).0, 3);

    let delete = || server.command(&["target", "delete", "web"]);
    server.text(&["target", "put", "web", "true"]);
    for no in ["n\n", "no", "\n"] {
        let (code, text) = told(delete(), no);
        assert!(code == 1 && text.contains("not confirmed"), "{no:?}: {code}: {text}");
    }
    assert!(server.text(&["target", "list"]).contains("web"));
    assert_eq!(told(delete(), "y\n").0, 0);
    server.text(&["target", "put", "web", "true"]);
    server.text(&["target", "delete", "web"]);
}

#[test]
fn an_action_that_would_be_refused_is_previewed_so() {
    let server = Server::start();
    let file = server.directory.path().join("q.json").display().to_string();
    server.text(&["action", "new", "--name", "q", "--target", "true", "--out", &file, "timedrift"]);
    server.text(&["action", "sign", &file, "--key", &key("first.key")]);
    let text = String::from_utf8(server.run(&["action", "preview", &file]).stderr).unwrap();
    assert!(text.contains("Launching it would be refused: the key ") && text.contains("of no investigator"), "{text}");
    assert!(!text.contains("wait for more"), "{text}");
    // Nobody is asked whether to launch what would be refused.
    let (code, text) = server.fails(&["action", "launch", &file]);
    assert!(code == 4 && text.contains("of no investigator") && !text.contains("--yes"), "{code}: {text}");
}

/// A server with an investigator, and how she asks.
fn asked_by_ann(server: &Server) -> Vec<String> {
    server.text(&["investigator", "add", "Ann", "--key", &key("first.asc")]);
    let words = ["ask", "--standing", "--target", "true", "--key", &key("first.key"), "timedrift"];
    words.map(str::to_owned).to_vec()
}

/// Interrupts a command as soon as it has said something, and returns how it ended.
fn interrupted(mut command: Command, wanted: &str, file: &Path) -> (i32, String) {
    let said = std::fs::File::create(file).unwrap();
    // Standard input stays open and says nothing.
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(said).spawn().unwrap();
    wait_for(wanted, || std::fs::read_to_string(file).unwrap().contains(wanted).then_some(()));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let stdin = child.stdin.take();
    let status = child.wait().unwrap();
    drop(stdin);
    (status.code().unwrap(), std::fs::read_to_string(file).unwrap())
}

#[test]
fn a_question_in_a_loop_leaves_standard_input_to_the_loop() {
    let server = Server::start();
    let words = asked_by_ann(&server);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    // What stands there are the loop's next words, no answer; and the second question is not the first one again.
    for _ in 0..2 {
        let (code, text) = told(server.command(&[&words[..], &["--wait", "0s"]].concat()), "pkg\nmemory\n");
        assert!(code == 7 && !text.contains("was launched before"), "{code}: {text}");
    }
    assert_eq!(server.json(&["action", "list"])["items"].as_array().unwrap().len(), 2);
    // A lone no is one.
    let (code, text) = told(server.command(&words), "n\n");
    assert!(code == 1 && text.contains("not confirmed"), "{code}: {text}");
    assert_eq!(server.json(&["action", "list"])["items"].as_array().unwrap().len(), 2);
    let (code, text) = server.fails(&["--json", "action", "results", "1", "--format", "csv"]);
    assert!(code == 2 && text.contains("contradict"), "{code}: {text}");
}

#[test]
fn an_interrupt_ends_a_wait_at_once_and_says_how_to_go_on() {
    let server = Server::start();
    let words = asked_by_ann(&server);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let file = server.directory.path().join("said");
    let (code, text) = interrupted(server.command(&[&words[..1], &["--yes"], &words[1..]].concat()), "action 1", &file);
    assert!(code == 130 && text.contains("muster action watch 1"), "{code}: {text}");
    assert!(text.contains("muster action cancel 1"), "{text}");
}

#[test]
fn a_standing_action_without_machines_is_told_as_one_and_its_csv_has_a_head() {
    let server = Server::start();
    let words = asked_by_ann(&server);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let output = server.run(&[&words[..], &["--wait", "0s", "--format", "csv", "-y"]].concat());
    let (code, text) = failed(&output);
    assert!(code == 7 && text.contains("it is standing") && !text.contains("0 of 0 machines"), "{code}: {text}");
    assert_eq!(output.stdout, b"agent,hostname,status,found,value,known\r\n");
    let keys = key("first.asc");
    let results = ["action", "results", "1", "--format", "csv", "--keyring", &keys];
    assert_eq!(server.text(&results), "agent,hostname,status,found,value,known\r\n");
    server.text(&["action", "cancel", "1", "--server-only"]);
}

#[test]
fn case_08_a_limit_ends_a_module_that_hangs_and_keeps_what_it_found() {
    let id = Command::new("id").arg("-u").output().unwrap();
    // Only root lays one file over another: who is not root becomes so in a namespace of users.
    let namespaces: &[&str] = if id.stdout == b"0\n" { &["-m"] } else { &["-r", "-m"] };
    // A program that never ends stands for whatever hangs.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("systemctl");
    std::fs::write(&program, "#!/bin/sh\necho 'half.service enabled'\nsleep 1000.0625\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let begun = Instant::now();
    let output = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", r#"mount --bind "$1" /usr/bin/systemctl; shift; exec "$@""#, "sh"])
        .args([program.as_os_str(), PROGRAM.as_ref()])
        .args(["module", "run", "--limit", "1s", "services"])
        .output()
        .unwrap();
    assert!(begun.elapsed() < CEILING);
    let told = String::from_utf8(output.stdout).unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let hung = told.lines().find(|line| line.starts_with("systemctl list-unit-files: it had not ended after "));
    assert!(hung.is_some_and(|line| line.ends_with("when the time was over, and was ended")), "{told}{complaint}");
    assert!(!output.status.success(), "{told}");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let left = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    assert_eq!(left.filter(|words| words.windows(9).any(|word| word == b"1000.0625")).count(), 0);
}
