//! MIG's API with a server around it, asked as MIG's programs ask.

use crate::rest::tests::live::Live;
use crate::world::SystemClock;
use muster_api::investigators::InvestigatorRow;
use muster_core::action::Action;
use muster_core::{Address, AgentId, Clock, Facts, Message, MessageId, Timestamp};
use muster_store::agents::{ContactPut, ContactTaken, Effect, Intake};
use muster_store::{AgentStore, ReportStore};
use muster_trust::{SecretKey, signed_text};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

mod doors;
mod flow;
mod hostile;
mod people;
mod recorded;

const CEILING: Duration = Duration::from_secs(20);
const ALL: u32 = 524_287;
/// Somebody's keys, secret and public, made by `gpg` for these tests.
const FIRST: (&str, &str) = (include_str!("tests/fixtures/first.key"), include_str!("tests/fixtures/first.asc"));
const SECOND: (&str, &str) = (include_str!("tests/fixtures/second.key"), include_str!("tests/fixtures/second.asc"));

fn now() -> Timestamp {
    SystemClock.now()
}

fn sign(key: (&str, &str), text: &str) -> String {
    SecretKey::open(key.0.as_bytes(), None, now()).unwrap().sign(text.as_bytes(), now()).unwrap()
}

/// A token that was never shown.
fn token(key: (&str, &str)) -> String {
    static NONCES: AtomicU64 = AtomicU64::new(1);
    let (secs, _) = now().to_parts();
    let text = format!("1;{};{}", Timestamp::from_secs(secs), NONCES.fetch_add(1, Ordering::Relaxed));
    let signature = sign(key, &format!("{text}\n"));
    format!("{text};{signature}")
}

/// An action as its author writes it, valid from a minute ago for ten minutes.
fn draft(name: &str, target: &str) -> Value {
    json!({ "id": 0, "name": name, "target": target, "syntaxversion": 2,
        "description": { "author": "x", "revision": 201 }, "threat": { "family": "test" },
        "validfrom": now().minus(Duration::from_mins(1)).to_string(),
        "expireafter": now().plus(Duration::from_mins(10)).to_string(),
        "operations": [{ "module": "file", "parameters": { "searches": { "s1": {
            "names": ["^hello"], "contents": ["a&b|hello"], "paths": ["/srv/sample"], "sizes": ["<10k"],
            "options": { "matchall": true, "matchlimit": 1000, "maxdepth": 3 } } } } }],
        "pgpsignatures": ["none"] })
}

/// The same, signed by these people.
fn signed(mut draft: Value, signers: &[(&str, &str)]) -> Value {
    let text = signed_text(&Action::parse(draft.to_string().as_bytes()).unwrap()).unwrap();
    draft["pgpsignatures"] = signers.iter().map(|key| sign(*key, &text)).collect();
    draft
}

/// A server, and an investigator with every permission who signs a token for each request.
struct Lab {
    live: Live,
}

impl Lab {
    async fn start() -> Self {
        Self::with("").await
    }

    async fn with(config: &str) -> Self {
        let live = Live::with(config).await;
        let lab = Self { live };
        lab.add("ops", FIRST, ALL).await;
        lab
    }

    async fn add(&self, name: &str, key: (&str, &str), permissions: u32) -> i64 {
        let body = json!({ "name": name, "public_key": key.1, "permissions": permissions });
        let row: InvestigatorRow = self.live.post("/api/v1/investigators", body).await;
        row.id
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.live.anonymous(method, &format!("{}{path}", super::ROOT))
    }

    fn asked(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).header("X-PGPAUTHORIZATION", token(FIRST))
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.asked(Method::GET, path)).await
    }

    /// Gets what must be there.
    async fn got(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, Value) {
        answer(form_of(self.asked(Method::POST, path), form)).await
    }

    async fn create(&self, action: &Value) -> (StatusCode, Value) {
        self.post("/action/create/", &[("action", &action.to_string())]).await
    }

    /// Makes a machine known that was in contact just now.
    async fn machine(&self, name: &str, more: Vec<Effect>) -> AgentId {
        let key = name.as_bytes();
        let agent = self.live.an_agent(key).await;
        let facts: Facts = [
            ("fqdn", json!(name)),
            ("kernel", json!("Linux")),
            ("architecture", json!("x86_64")),
            ("os_name", json!("Debian 12")),
            ("init", json!("systemd")),
            ("addresses", json!(["192.0.2.2/24"])),
            ("agent_modules", json!(["file"])),
            ("agent_version", json!("1.0")),
            ("agent_mode", json!("daemon")),
            ("agent_pid", json!(30065)),
            ("agent_start_time", json!(now().to_string())),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let effects = [Effect::Facts(facts), Effect::ClientLabels(vec!["operator:ops".into()])];
        let intake = (1..).zip(effects.into_iter().chain(more)).map(|(n, effect)| {
            let mut id = [n; 32];
            id[..8].copy_from_slice(agent.as_bytes());
            let ends = (Address::agent(agent, "agent"), Address::server("muster"));
            Intake { message: Message::new(MessageId::from_bytes(id), ends.0, ends.1, now()), effect }
        });
        let put = ContactPut {
            agent,
            key: key.to_vec(),
            at: now(),
            address: "127.0.0.1:4443".into(),
            streaming_to: String::new(),
            sent_nonce: 1,
            received_nonce: 0,
            clock: None,
            intake: intake.collect(),
            rejected: Vec::new(),
            claim: None,
        };
        let taken = self.live.store().contact_put(put).await.unwrap();
        assert!(matches!(taken, ContactTaken::Recorded(_)), "{taken:?}");
        agent
    }

    /// The machine's number, which MIG calls its id.
    async fn number(&self, agent: AgentId) -> i64 {
        self.live.store().agent_numbers(&[agent]).await.unwrap()[0].1
    }

    async fn stop(self) {
        self.live.server.stop().await;
    }
}

fn form_of(request: RequestBuilder, form: &[(&str, &str)]) -> RequestBuilder {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    request.header("content-type", "application/x-www-form-urlencoded").body(body)
}

/// Sends a request and reads an answer that is never the server's failure, and always in the envelope.
async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let text = response.text().await.unwrap();
    assert!(!status.is_server_error(), "{status}: {text}");
    assert_eq!(kind.as_deref(), Some("application/json"), "{status}: {text}");
    let body: Value = serde_json::from_str(&text).unwrap();
    let collection = &body["collection"];
    assert_eq!((&collection["version"], &collection["template"]), (&json!("1.0"), &json!({})), "{body}");
    assert_eq!(status.is_success(), collection["error"] == json!({}), "{status}: {body}");
    (status, body)
}

/// What an item of an answer holds under its first name.
fn value(body: &Value, item: usize) -> &Value {
    &body["collection"]["items"][item]["data"][0]["value"]
}

fn message(body: &Value) -> &str {
    body["collection"]["error"]["message"].as_str().unwrap()
}
