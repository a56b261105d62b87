//! A machine as targets see it: the columns and documents of MIG's agent, made of facts and labels.
//!
//! Stays true: server and agent make them with these functions and no others, so that what a target matches on the
//! server it matches on the machine. Nothing in here holds a zero byte, which PostgreSQL cannot read out of JSON.

use crate::text::without_nul;
use crate::{AgentId, Facts, Timestamp, limits};
use serde_json::{Map, Value, json};

/// What a machine says of itself, in the words of targets. docs/reference/targets.md says where each comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Its full host name, else its host name, else its id.
    pub name: String,
    /// Its operating system and its id, such as `linux.0011223344556677`; `agent.…` before it told its facts.
    pub queueloc: String,
    /// `daemon` or `checkin`; empty when not told.
    pub mode: String,
    /// The agent's version; empty when not told.
    pub version: String,
    /// The agent's process.
    pub pid: Option<i64>,
    /// When that process started, by the machine's clock.
    pub started: Option<Timestamp>,
    /// What stands in `environment` under `os`, `arch`, `ident` and `init`.
    pub common: Common,
    /// MIG's environment: an object with `os`, `arch`, `ident`, `init`, `isproxied`, `proxy`, `addresses`, `modules`, `fleet`.
    pub environment: Value,
}

/// The parts of the environment that are asked often.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Common {
    /// The operating system in lower case, such as `linux`.
    pub os: Option<String>,
    /// The processor in Go's words, such as `amd64`.
    pub arch: Option<String>,
    /// The name of the distribution with its version.
    pub ident: Option<String>,
    /// What starts services, such as `systemd`.
    pub init: Option<String>,
}

impl Endpoint {
    /// Describes the machine `id` by its facts.
    pub fn observed(id: AgentId, facts: &Facts) -> Self {
        let common = Common {
            os: text(facts, "kernel").map(|kernel| kernel.to_lowercase()),
            arch: text(facts, "architecture").map(|machine| go_architecture(&machine).to_owned()),
            ident: text(facts, "os_name"),
            init: text(facts, "init"),
        };
        Self {
            name: text(facts, "fqdn").or_else(|| text(facts, "hostname")).unwrap_or_else(|| id.to_string()),
            queueloc: format!("{}.{id}", common.os.as_deref().unwrap_or("agent")),
            mode: text(facts, "agent_mode").unwrap_or_default(),
            version: text(facts, "agent_version").unwrap_or_default(),
            pid: facts.get("agent_pid").and_then(Value::as_i64),
            started: text(facts, "agent_start_time").and_then(|started| started.parse().ok()),
            environment: environment(&common, facts),
            common,
        }
    }
}

fn environment(common: &Common, facts: &Facts) -> Value {
    let mut environment = Map::new();
    let Common { os, arch, ident, init } = common;
    for (name, value) in [("os", os), ("arch", arch), ("ident", ident), ("init", init)] {
        if let Some(value) = value {
            environment.insert(name.to_owned(), value.as_str().into());
        }
    }
    if let Some(fleet) = text(facts, "agent_fleet") {
        environment.insert("fleet".to_owned(), fleet.into());
    }
    let proxy = text(facts, "agent_proxy").unwrap_or_default();
    environment.insert("isproxied".into(), (!proxy.is_empty()).into());
    environment.insert("proxy".into(), proxy.into());
    environment.insert("addresses".into(), texts(facts, "addresses"));
    environment.insert("modules".into(), texts(facts, "agent_modules"));
    Value::Object(environment)
}

/// A fact that is a text which is not empty, cut to what a column holds.
fn text(facts: &Facts, name: &str) -> Option<String> {
    let text = facts.get(name)?.as_str().filter(|text| !text.is_empty())?;
    Some(without_nul(text).chars().take(limits::TARGET_CHARS_MAX).collect())
}

fn texts(facts: &Facts, name: &str) -> Value {
    let list = facts.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(Value::as_str).map(without_nul).map(Value::from).collect()
}

/// Returns what Go calls a processor that the kernel calls `machine`, because targets were written for agents in Go.
fn go_architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i486" | "i586" | "i686" => "386",
        "armv5tel" | "armv6l" | "armv7l" | "armv8l" => "arm",
        "loongarch64" => "loong64",
        "mips64el" => "mips64le",
        other => other,
    }
}

/// Returns the tags of a machine: an object of texts, made of the labels it claims. `operator:IT` becomes the tag
/// `operator` with the value `IT`; a label without a colon has the value `true`. Of two labels that name one tag, the
/// last in their order counts.
pub fn tags<'a>(labels: impl IntoIterator<Item = &'a str>) -> Value {
    let mut labels: Vec<&str> = labels.into_iter().filter(|label| !label.contains('\0')).collect();
    labels.sort_unstable();
    let pairs = labels.into_iter().map(|label| label.split_once(':').unwrap_or((label, "true")));
    pairs.fold(json!({}), |mut tags, (name, value)| {
        tags[name] = value.into();
        tags
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> AgentId {
        AgentId::from_bytes([0, 17, 34, 51, 68, 85, 102, 119])
    }

    #[test]
    fn facts_become_the_words_of_mig() {
        let facts = Facts::from([
            ("fqdn".to_owned(), "web1.example.org".into()),
            ("kernel".to_owned(), "Linux".into()),
            ("architecture".to_owned(), "x86_64".into()),
            ("os_name".to_owned(), "Debian\0GNU/Linux".into()),
            ("agent_pid".to_owned(), 42.into()),
            ("agent_start_time".to_owned(), "2026-01-02T03:04:05Z".into()),
            ("addresses".to_owned(), json!(["10.0.0.1", 7, "10.0.0.2"])),
        ]);
        let endpoint = Endpoint::observed(id(), &facts);
        assert_eq!(endpoint.name, "web1.example.org");
        assert_eq!(endpoint.queueloc, "linux.0011223344556677");
        assert_eq!((endpoint.pid, endpoint.started), (Some(42), Some(Timestamp::from_secs(1_767_323_045))));
        let environment = json!({
            "os": "linux", "arch": "amd64", "ident": "Debian\u{fffd}GNU/Linux", "isproxied": false, "proxy": "",
            "addresses": ["10.0.0.1", "10.0.0.2"], "modules": [],
        });
        assert_eq!(endpoint.environment, environment);
    }

    #[test]
    fn a_machine_without_facts_has_a_name_all_the_same() {
        let endpoint = Endpoint::observed(id(), &Facts::new());
        assert_eq!(
            (endpoint.name.as_str(), endpoint.queueloc.as_str()),
            ("0011223344556677", "agent.0011223344556677")
        );
        assert_eq!((endpoint.pid, endpoint.started, endpoint.common), (None, None, Common::default()));
    }

    #[test]
    fn labels_become_tags() {
        let labels = ["linux", "operator:IT", "url:http://x", "operator:HR", "a\0b"];
        assert_eq!(tags(labels), json!({ "linux": "true", "operator": "IT", "url": "http://x" }));
        assert_eq!(tags([]), json!({}));
    }
}
