//! A server gone bad while a machine is set up: it names the certificate of an authority, and nothing else that it says is
//! in what the machine will read.

use muster_harness::agent::Agent;
use muster_harness::evil::{Asked, Evil, Impostor};
use muster_harness::investigator::Investigator;
use muster_harness::programs;
use serde_json::json;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

/// What it would like to have on the machine.
const PLANTED: &str = "planted-by-the-server";

/// A server that answers every question about set-up with all that it has.
async fn impostor(authority: &str) -> Impostor {
    let pem = format!("{authority}\n'''\nservices_dir = '/{PLANTED}'\nadministrators_min = 0\n");
    let service = format!("name: \"{PLANTED}\" factory: \"Stdin\" config {{ cmd: \"/bin/sh\" }}");
    let files = json!([
        {"name": "config.toml", "text": format!("services_dir = '/{PLANTED}'")},
        {"name": "config.textproto", "text": format!("server: '{PLANTED}'")},
        {"name": "services/evil.textproto", "text": service},
        {"name": "config/textservices/evil.textproto", "text": service},
        {"name": "agentkeys/mallory.asc", "text": PLANTED},
        {"name": "acl.cfg", "text": format!("{{\"default\": {{\"minimumweight\": 0, \"{PLANTED}\": 1}}}}")},
    ]);
    let answer = move |asked: &Asked| match asked.line.as_str() {
        "GET /api/v1/agent-trust" => Some(pem.clone()),
        line if line.contains("/api/v1/") => Some(files.to_string()),
        _ => None,
    };
    Impostor::start(answer).await.unwrap()
}

async fn muster(url: &str, words: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(programs::program("muster").unwrap());
    command.env("MUSTER_URL", url).env("MUSTER_TOKEN", "x").args(["agent", "config"]).args(words);
    command.stdin(std::process::Stdio::null()).output().await.unwrap()
}

fn said(output: &Output) -> String {
    let [text, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{text}{errors}")
}

/// Everything that lies below a directory, by name.
fn files(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(directory).unwrap().display().to_string();
                found.insert(name, std::fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    found
}

struct Stage {
    evil: Evil,
    impostor: Impostor,
    alice: Investigator,
    bob: Investigator,
    directory: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let evil = Evil::start().await.unwrap();
        let impostor = impostor(&evil.authority).await;
        let [alice, bob] = ["Alice", "Bob"].map(|name| Investigator::new(name).unwrap());
        Self { evil, impostor, alice, bob, directory: tempfile::tempdir().unwrap() }
    }

    fn out(&self) -> std::path::PathBuf {
        self.directory.path().join("agent")
    }

    async fn config(&self, format: &str, more: &[&str]) -> Output {
        let (server, out) = (self.evil.address.to_string(), self.out().display().to_string());
        let words = ["--format", format, "--server", &server, "--out", &out];
        muster(&self.impostor.url, &[&words[..], more].concat()).await
    }
}

#[tokio::test]
async fn a_server_that_sets_a_machine_up_plants_no_service_no_key_and_no_weight() {
    let stage = Stage::new().await;
    let key = stage.alice.public_key().display().to_string();
    let output = stage.config("muster", &["--trust", &key, "--compression", "none"]).await;
    assert!(output.status.success(), "{}", said(&output));
    let fingerprint = stage.alice.fingerprint().unwrap();
    let found = files(&stage.out());
    let names: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["acl.cfg", &format!("agentkeys/{fingerprint}.asc"), "config.toml"]);
    assert!(found.values().all(|text| !text.contains(PLANTED)), "{found:?}");
    let asked: Vec<_> = stage.impostor.asked().into_iter().map(|asked| asked.line).collect();
    assert_eq!(asked, ["GET /api/v1/agent-trust"], "one datum is asked for");
    assert!(said(&output).contains("SHA-256"), "its fingerprint is shown: {}", said(&output));
    // The machine reads it, and calls.
    let _agent = Agent::start_in(&stage.out()).unwrap();
    stage.evil.wait("the agent's word of whom it believes", |seen| seen.trust.first().map(|_| ())).await.unwrap();
}

#[tokio::test]
async fn a_server_that_sets_an_original_client_up_plants_no_service() {
    let stage = Stage::new().await;
    let output = stage.config("fleetspeak", &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    let found = files(&stage.out());
    let names: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["config.textproto", "config/communicator.txt"]);
    assert!(found.values().all(|text| !text.contains(PLANTED)), "{found:?}");
    assert!(found["config/communicator.txt"].contains("min_failure_delay_seconds: 10"));
}

#[tokio::test]
async fn an_authority_with_another_fingerprint_than_the_persons_sets_nothing_up() {
    let stage = Stage::new().await;
    let output = stage.config("muster", &["--ca-sha256", &"AB".repeat(32)]).await;
    assert!(!output.status.success() && said(&output).contains("not the authority"), "{}", said(&output));
    assert!(!stage.out().exists());
    // What is no certificate is none, whatever stands around it.
    let liar = Impostor::start(|_| Some(format!("services_dir = '/{PLANTED}'"))).await.unwrap();
    let out = stage.out().display().to_string();
    let output = muster(&liar.url, &["--format", "muster", "--server", "a:1", "--out", &out]).await;
    assert!(!output.status.success() && !stage.out().exists(), "{}", said(&output));
}

#[tokio::test]
async fn with_the_authority_as_a_file_no_server_is_asked_at_all() {
    let stage = Stage::new().await;
    let file = stage.directory.path().join("ca.pem");
    std::fs::write(&file, &stage.evil.authority).unwrap();
    let output = stage.config("muster", &["--ca-file", file.to_str().unwrap()]).await;
    assert!(output.status.success() && stage.impostor.asked().is_empty(), "{}", said(&output));
}

#[tokio::test]
async fn what_lies_in_the_directory_already_is_not_set_up_along() {
    let stage = Stage::new().await;
    for name in ["services/evil.textproto", "agentkeys/mallory.asc", "administrators/mallory.asc", "modules.toml"] {
        let path = stage.out().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, PLANTED).unwrap();
        for more in [&[][..], &["--replace"]] {
            let output = stage.config("muster", more).await;
            assert_eq!(output.status.code(), Some(6), "{name}: {}", said(&output));
            assert!(said(&output).contains(name), "{name}: {}", said(&output));
            assert!(!stage.out().join("config.toml").exists(), "{name}");
        }
        std::fs::remove_file(path).unwrap();
    }
}

/// Runs a command of the agent's program on what was set up. Returns its exit code and all that it said.
async fn agent(stage: &Stage, words: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(programs::program("muster-agent").unwrap());
    let output = command.args(words).arg("--config").arg(stage.out().join("config.toml")).output().await.unwrap();
    (output.status.code(), said(&output))
}

#[tokio::test]
async fn a_directory_that_others_can_change_is_set_up_by_nobody_and_obeyed_by_no_agent() {
    let stage = Stage::new().await;
    let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let key = stage.alice.public_key().display().to_string();
    let out = stage.out();
    std::fs::create_dir(&out).unwrap();
    for mode in [0o777, 0o1777] {
        set(&out, mode);
        let output = stage.config("muster", &["--trust", &key]).await;
        assert_eq!(output.status.code(), Some(6), "{}", said(&output));
        assert!(said(&output).contains(&format!("mode {mode:04o}")) && files(&out).is_empty(), "{}", said(&output));
    }
    set(&out, 0o700);
    assert!(stage.config("muster", &["--trust", &key]).await.status.success());
    for name in ["config.toml", "acl.cfg", "agentkeys", "services", ""] {
        let path = out.join(name);
        let right = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        set(&path, right | 0o002);
        for words in [&["run"][..], &["run", "--once"], &["config", "check"], &["doctor"]] {
            let (code, text) = agent(&stage, words).await;
            assert_eq!(code, Some(1), "{name}: {words:?}: {text}");
            assert!(text.contains("can be written by others") && text.contains(name), "{name}: {words:?}: {text}");
        }
        set(&path, right);
    }
    assert!(stage.evil.seen().agents.is_empty(), "an agent called");
    let (code, text) = agent(&stage, &["config", "check"]).await;
    assert_eq!(code, Some(0), "{text}");
    // The state of an agent that was here is not taken over unasked.
    std::fs::create_dir_all(out.join("state")).unwrap();
    std::fs::write(out.join("state/documents.json"), "[]").unwrap();
    let again = stage.config("muster", &["--trust", &key, "--replace"]).await;
    assert!(again.status.code() == Some(6) && said(&again).contains("documents.json"), "{}", said(&again));
    let again = stage.config("muster", &["--trust", &key, "--replace", "--keep-state"]).await;
    assert!(again.status.success(), "{}", said(&again));
}

#[tokio::test]
async fn whoever_is_not_trusted_any_more_has_no_key_left_on_the_machine() {
    let stage = Stage::new().await;
    let [alice, bob] = [&stage.alice, &stage.bob].map(|person| person.public_key().display().to_string());
    let output = stage.config("muster", &["--trust", &alice, "--trust", &bob]).await;
    assert!(output.status.success(), "{}", said(&output));
    let fewer = stage.config("muster", &["--trust", &alice]).await;
    assert!(fewer.status.code() == Some(6) && said(&fewer).contains("--replace"), "{}", said(&fewer));
    let fewer = stage.config("muster", &["--trust", &alice, "--replace"]).await;
    assert!(fewer.status.success(), "{}", said(&fewer));
    let left = stage.bob.fingerprint().unwrap();
    assert!(files(&stage.out()).keys().all(|name| !name.contains(&left)));
}
