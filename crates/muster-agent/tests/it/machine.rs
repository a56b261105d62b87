//! A machine whose agent believes two keys and has modules to run, and orders for it.

use crate::agent::{AgentProcess, CEILING};
use crate::fleet::{Fleet, Kind, Received, Seen};
use bytes::Bytes;
use muster_core::{Action, Timestamp, system};
use muster_proto::wire::actions::{self as wire, ResultStatus};
use muster_trust::{SecretKey, signed_text};
use prost::Message as _;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

pub(crate) const ONE: (&str, &str) = (include_str!("keys/one.asc"), include_str!("keys/one.secret.asc"));
pub(crate) const TWO: (&str, &str) = (include_str!("keys/two.asc"), include_str!("keys/two.secret.asc"));
pub(crate) const STRANGER: (&str, &str) = (include_str!("keys/stranger.asc"), include_str!("keys/stranger.secret.asc"));

#[expect(clippy::disallowed_methods, reason = "signatures are made now")]
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_secs(since.as_secs().try_into().unwrap())
}

pub(crate) fn key(of: (&str, &str)) -> SecretKey {
    SecretKey::open(of.1.as_bytes(), None, now()).unwrap()
}

/// An order and who signs it.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) module: String,
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
}

impl Draft {
    pub(crate) fn new(name: &str) -> Self {
        let (from, until) = (now(), now().plus(Duration::from_mins(5)));
        Self {
            name: name.into(),
            target: "environment->>'os' = 'linux'".into(),
            module: "counting".into(),
            from,
            until,
        }
    }

    pub(crate) fn signed(&self, signers: &[(&str, &str)]) -> Vec<u8> {
        self.signed_with(&json!([{"module": self.module, "parameters": {"who": "asks"}}]), signers)
    }

    pub(crate) fn signed_with(&self, operations: &serde_json::Value, signers: &[(&str, &str)]) -> Vec<u8> {
        let mut json = json!({
            "name": self.name, "target": self.target, "syntaxversion": 2, "pgpsignatures": [],
            "validfrom": self.from.to_string(), "expireafter": self.until.to_string(), "operations": operations,
        });
        let text = signed_text(&Action::parse(json.to_string().as_bytes()).unwrap()).unwrap();
        let sign = |of: &(&str, &str)| key(*of).sign(text.as_bytes(), now()).unwrap();
        json["pgpsignatures"] = signers.iter().map(sign).collect::<Vec<_>>().into();
        json.to_string().into_bytes()
    }
}

/// An agent that believes key one with weight 2 and key two with weight 1, and has a module that counts its runs.
pub(crate) struct Machine {
    pub(crate) fleet: Fleet,
    pub(crate) agent: AgentProcess,
}

impl Machine {
    pub(crate) async fn new(settings: &str) -> Self {
        let machine = Self::prepared(settings).await;
        machine.started().await
    }

    pub(crate) async fn prepared(settings: &str) -> Self {
        let fleet = Fleet::start(Kind::Plain).await;
        let agent = AgentProcess::prepare(&fleet, &format!("modules_file = \"modules.toml\"\n{settings}"));
        let machine = Self { fleet, agent };
        let directory = machine.agent.directory();
        std::fs::create_dir(directory.join("agentkeys")).unwrap();
        for (name, (public, _)) in [("one", ONE), ("two", TWO)] {
            std::fs::write(directory.join("agentkeys").join(name), public).unwrap();
        }
        let weights = json!({"default": {"minimumweight": 2, "investigators": {
            "one": {"fingerprint": key(ONE).signer(), "weight": 2},
            "two": {"fingerprint": key(TWO).signer(), "weight": 1},
        }}});
        std::fs::write(directory.join("acl.cfg"), weights.to_string()).unwrap();
        let runs = machine.runs_file();
        let answer = "{\"foundanything\":true,\"success\":true,\"elements\":\"here\"}";
        machine.script("counting", &format!("read line\necho \"$line\" >> {}\necho '{answer}'", runs.display()));
        machine.script("hanging", &format!("echo $$ >> {}\nexec sleep 1000", runs.display()));
        machine.script("dying", &format!("echo x >> {}\nkill -9 $$", runs.display()));
        machine.script("flooding", &format!("echo x >> {}\nexec cat /dev/zero", runs.display()));
        machine
    }

    pub(crate) async fn started(mut self) -> Self {
        self.agent.restart();
        self.fleet.wait_for(system::AGENT_TRUST).await;
        self
    }

    pub(crate) fn runs_file(&self) -> PathBuf {
        self.agent.directory().join("runs")
    }

    /// Makes a program a module that keeps the agent's privileges.
    pub(crate) fn script(&self, name: &str, body: &str) {
        self.script_with(name, body, "privilege = \"agent\"");
    }

    pub(crate) fn script_with(&self, name: &str, body: &str, settings: &str) {
        let path = self.agent.directory().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let table = format!("[{name}]\npath = \"{}\"\n{settings}\nweight_min = 1\n", path.display());
        let file = self.agent.directory().join("modules.toml");
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::write(file, before + &table).unwrap();
    }

    /// Starts the agent again and waits until it has a stream: what is sent before may go to the one of the agent that
    /// ended, and only a real server would send it again.
    pub(crate) async fn restart(&mut self) {
        let told =
            |seen: &Seen| seen.messages.iter().filter(|one| one.message.message_type == system::AGENT_TRUST).count();
        let before = told(&self.fleet.seen());
        self.agent.restart();
        self.fleet.wait_until(|seen| told(seen) > before).await;
    }

    pub(crate) fn runs(&self) -> usize {
        std::fs::read_to_string(self.runs_file()).unwrap_or_default().lines().count()
    }

    pub(crate) fn order(&self, action: Vec<u8>, action_id: i64) -> Bytes {
        let order = wire::ActionOrder { action: action.into(), action_id, command_id: 0 };
        self.fleet.send(system::ACTIONS, system::ACTION, Some(any("ActionOrder", &order)))
    }

    /// Waits for the answer to the order that came in this message.
    pub(crate) async fn answer(&self, message: &Bytes) -> wire::ActionResult {
        let result = |seen: &Received| {
            let is_result = seen.message.message_type == system::ACTION_RESULT;
            is_result.then(|| wire::ActionResult::decode(&seen.body()[..]).unwrap())
        };
        let is_it = |seen: &Received| result(seen).is_some_and(|result| result.order_message_id == *message);
        self.fleet.wait_until(|seen| seen.messages.iter().any(is_it)).await;
        let seen = self.fleet.seen();
        let answer = seen.messages.iter().find(|seen| is_it(seen)).unwrap();
        result(answer).unwrap()
    }

    pub(crate) async fn asked(&self, action: Vec<u8>) -> wire::ActionResult {
        self.answer(&self.order(action, 7)).await
    }

    pub(crate) async fn refused(&self, action: Vec<u8>) -> String {
        let answer = self.asked(action).await;
        assert!(answer.results.is_empty() && answer.started.is_none());
        answer.refusal.expect("it was not refused").code
    }

    pub(crate) async fn wait_for_runs(&self, number: usize) {
        let waiting = async {
            while self.runs() < number {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(CEILING, waiting).await.expect("it was never run");
    }
}

pub(crate) fn any(name: &str, message: &impl prost::Message) -> prost_types::Any {
    let type_url = format!("type.googleapis.com/muster.actions.{name}");
    prost_types::Any { type_url, value: message.encode_to_vec() }
}

pub(crate) fn status(result: &wire::ActionResult) -> ResultStatus {
    result.status()
}

/// Waits until an order was valid before the present second.
pub(crate) async fn later_than(order: &[u8]) {
    second_over(Action::parse(order).unwrap().valid_from).await;
}

/// Waits until the second that begins at this moment is over.
pub(crate) async fn second_over(second: Timestamp) {
    let waiting = async {
        while now() <= second {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(CEILING, waiting).await.expect("the clock stands still");
}
