//! MIG's API: what the `mig` command does, in its order, with keys and signatures of plain `gpg` and the answer of a real
//! machine.

use crate::scene::{CEILING, Scene};
use muster_core::Timestamp;
use muster_harness::agent::Agent;
use muster_harness::client::enrolled;
use muster_harness::wait;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use tempfile::TempDir;

/// The permissions that MIG gives by default: searching, actions, commands, agents, dashboard.
const DEFAULT_PERMISSIONS: &str = "63";

fn unix_now() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "signatures are made now, and a real machine judges them now")]
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

/// A person with a key in a `gpg` of their own.
struct Person {
    home: TempDir,
}

impl Person {
    fn new() -> Self {
        // Short, because the path of its agent's socket must be.
        let person = Self { home: tempfile::tempdir_in("/tmp").unwrap() };
        let words = ["--passphrase", "", "--quick-generate-key", "Ops <ops@example.net>", "ed25519", "sign", "never"];
        person.gpg(&words, b"");
        person
    }

    fn gpg(&self, words: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.home.path()).args(["--batch", "--quiet"]).args(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let answer = child.wait_with_output().unwrap();
        assert!(answer.status.success(), "gpg {words:?} ended with {}", answer.status);
        answer.stdout
    }

    fn public_key(&self) -> String {
        String::from_utf8(self.gpg(&["--armor", "--export"], b"")).unwrap()
    }

    fn fingerprint(&self) -> String {
        let listed = String::from_utf8(self.gpg(&["--with-colons", "--list-keys"], b"")).unwrap();
        let line = listed.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    /// Signs, and writes the signature as MIG does: what lies between the first empty line and the end, without breaks.
    fn sign(&self, text: &str) -> String {
        let armored = String::from_utf8(self.gpg(&["--armor", "--detach-sign"], text.as_bytes())).unwrap();
        armored.split_once("\n\n").unwrap().1.split_once("-----END").unwrap().0.replace('\n', "")
    }

    /// A token that was never shown.
    fn token(&self) -> String {
        static NONCES: AtomicU64 = AtomicU64::new(7);
        let text = format!("1;{};{}", Timestamp::from_secs(unix_now()), NONCES.fetch_add(1, Ordering::Relaxed));
        let signature = self.sign(&format!("{text}\n"));
        format!("{text};{signature}")
    }

    /// An action as MIG's documents describe it: nothing here is Muster's.
    fn action(&self, target: &str, directory: &Path) -> String {
        let (from, until) = (unix_now() - 60, unix_now() + 360);
        let operations = format!(
            r#"[{{"module":"file","parameters":{{"searches":{{"s1":{{"names":["^hello"],"options":{{"matchall":true,"maxdepth":2}},"paths":["{}"]}}}}}}}}]"#,
            directory.display()
        );
        let text = format!(
            "name=where is hello;target={target};validfrom={from};expireafter=%!s(int64={until});operations={operations};"
        );
        let operations: Value = serde_json::from_str(&operations).unwrap();
        let time = |secs| Timestamp::from_secs(secs).to_string();
        json!({ "id": 0, "name": "where is hello", "target": target, "syntaxversion": 2, "operations": operations,
            "validfrom": time(from), "expireafter": time(until), "pgpsignatures": [self.sign(&text)] })
        .to_string()
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        // The agent that gpg started for this home and no other.
        let _ = Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "gpg-agent"]).status();
    }
}

/// The `mig` command.
struct Mig<'a> {
    http: reqwest::Client,
    root: String,
    person: &'a Person,
}

impl<'a> Mig<'a> {
    fn new(scene: &Scene, person: &'a Person) -> Self {
        let http = reqwest::Client::builder().timeout(CEILING).no_proxy().build().unwrap();
        Self { http, root: format!("http://{}/mig/api/v1/", scene.server.addresses.operators), person }
    }

    async fn ask(&self, request: RequestBuilder, token: &str) -> (StatusCode, Value) {
        let answer = request.header("X-PGPAUTHORIZATION", token).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask(self.http.request(Method::GET, format!("{}{path}", self.root)), &self.person.token()).await
    }

    async fn create(&self, action: &str) -> (StatusCode, Value) {
        let request = self.http.post(format!("{}action/create/", self.root));
        let body = format!("action={}", encoded(action));
        let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
        self.ask(request, &self.person.token()).await
    }
}

/// Writes a text as a value of a form.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// What the items of an answer hold under `name`.
fn values<'a>(body: &'a Value, name: &str) -> Vec<&'a Value> {
    let items = body["collection"]["items"].as_array().map_or(&[][..], Vec::as_slice);
    let named = items.iter().map(|item| &item["data"][0]).filter(|data| data["name"].as_str() == Some(name));
    named.map(|data| &data["value"]).collect()
}

/// Starts an agent that believes the person.
fn trusting(scene: &Scene, person: &Person) -> Agent {
    let directory = scene.path("agent");
    let (address, out) = (scene.server.addresses.agents.to_string(), directory.display().to_string());
    scene.server.muster(&["agent", "config", "--format", "muster", "--server", &address, "--out", &out]).unwrap();
    let keys = directory.join("agentkeys");
    std::fs::create_dir_all(&keys).unwrap();
    std::fs::write(keys.join("ops"), person.public_key()).unwrap();
    let acl = json!({ "default": { "minimumweight": 1, "investigators": {
        "ops": { "fingerprint": person.fingerprint(), "weight": 1 } } } });
    std::fs::write(directory.join("acl.cfg"), acl.to_string()).unwrap();
    Agent::start_in(&directory).unwrap()
}

#[tokio::test]
async fn the_mig_command_asks_a_machine_and_prints_its_answer() {
    let scene = Scene::new().await;
    let person = Person::new();
    let key = scene.path("ops.asc").display().to_string();
    std::fs::write(&key, person.public_key()).unwrap();
    let add = ["investigator", "add", "ops", "--key", &key, "--permissions", DEFAULT_PERMISSIONS];
    scene.server.muster(&add).unwrap();
    let _agent = trusting(&scene, &person);
    enrolled(&scene.server, &[], CEILING).await.unwrap();
    let mig = Mig::new(&scene, &person);

    let target = "environment->>'os'='linux' AND status='online'";
    let search = format!("search?type=agent&limit=1000000&target={}", encoded(target));
    let agents = wait::until("the machine in a search", CEILING, async || {
        let (status, body) = mig.get(&search).await;
        Ok((status == StatusCode::OK).then_some(body))
    });
    let agents = agents.await.unwrap();
    assert_eq!(values(&agents, "agent").len(), 1, "{agents}");

    let searched = scene.path("searched");
    std::fs::create_dir(&searched).unwrap();
    std::fs::write(searched.join("hello.txt"), "hello").unwrap();
    let (status, created) = mig.create(&person.action(target, &searched)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{created}");
    let id = created["collection"]["items"][0]["data"][0]["value"]["id"].as_i64().unwrap();

    wait::until_true("the end of the action", CEILING, async || {
        let (_, body) = mig.get(&format!("action?actionid={id}")).await;
        let counters = &values(&body, "action")[0]["counters"];
        let number = |name: &str| counters[name].as_u64().unwrap_or(0);
        Ok(number("done") >= number("sent") && number("sent") > 0)
    })
    .await
    .unwrap();

    let page = |k: u32| format!("search?type=command&limit=37&offset={}&actionid={id}&foundanything=true", k * 37);
    let (_, found) = mig.get(&page(0)).await;
    let commands = values(&found, "command");
    assert_eq!((commands.len(), &commands[0]["status"]), (1, &json!("success")), "{found}");
    let file = &commands[0]["results"][0]["elements"]["s1"][0]["file"];
    assert_eq!(file.as_str().unwrap(), searched.join("hello.txt").display().to_string(), "{found}");
    assert_eq!(mig.get(&page(1)).await.0, StatusCode::NOT_FOUND);
    for status in ["cancelled", "expired", "failed", "timeout"] {
        let path = format!("search?type=command&limit=37&offset=0&actionid={id}&status={status}");
        assert_eq!(mig.get(&path).await.0, StatusCode::NOT_FOUND, "{status}");
    }
    let token = person.token();
    let ask = |route: &str| mig.ask(mig.http.get(format!("{}{route}", mig.root)), &token);
    // Two programs that a person starts within a second make the same token, and ask the same.
    for _ in 0..3 {
        assert_eq!(ask("dashboard").await.0, StatusCode::OK);
    }
    assert_eq!(ask("search?type=agent").await.0, StatusCode::UNAUTHORIZED, "a token is good for one request");
    let events = scene.server.muster(&["event", "list"]).unwrap();
    assert!(events.contains("token_replayed"), "{events}");
}
