//! The texts of an agent's configuration: of `muster-agent`, or of the original's `fleetspeak-client`.
//!
//! Stays true: they are composed here, of what a person gave and of certificates that were parsed; all that an agent
//! keeps lies in one directory, but for the state of an installed one.

use super::directory::Plan;
use crate::Failure;
use muster_core::{limits, system, text};
use serde::Serialize;
use std::fmt::Write as _;

const WHAT: &str = "could not write the agent's configuration";
/// The configuration of our agent.
pub(super) const CONFIG: &str = "config.toml";
/// That of the original's client.
pub(super) const CONFIG_FLEETSPEAK: &str = "config.textproto";
/// How the original's client keeps in touch.
pub(super) const COMMUNICATOR: &str = "config/communicator.txt";
/// Where the packaged unit looks for the configuration, and where it lets the agent write.
const PACKAGED: (&str, &str) = ("/etc/muster-agent", "/var/lib/muster-agent");
/// How soon the original's client tries again after a failure, in seconds. Its own default of five minutes keeps a fleet
/// away for up to seven and a half after each restart of a server.
const FAILURE_DELAY_SECONDS: u32 = 10;

/// Which program the files are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum AgentFormat {
    /// `muster-agent`
    Muster,
    /// The original's `fleetspeak-client`
    Fleetspeak,
}

/// How an agent shall be set up. What is `None` is left to the agent's own default.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// For which program.
    pub(super) format: AgentFormat,
    /// Where the server is: `host:port`, in the order to try.
    pub(super) servers: Vec<String>,
    /// The directory in which the files will lie, on the agent's machine.
    pub(super) directory: String,
    /// Where the agent keeps its state; beside the files, or where the packaged unit lets it write, unless told.
    pub(super) state: Option<String>,
    /// PEM: what to trust.
    pub(super) trust_pem: String,
    /// The fleet whose documents of trust count.
    pub(super) fleet: Option<String>,
    /// Whether to hold a stream instead of polling.
    pub(super) is_streaming: bool,
    /// Labels to claim.
    pub(super) labels: Vec<String>,
    /// Whether to deflate what is sent.
    pub(super) deflate: Option<bool>,
    /// Whether to offer HTTP/2.
    pub(super) http2: Option<bool>,
    /// A token that lets the machine enrol.
    pub(super) enrol_token: Option<String>,
}

impl Setup {
    /// Returns the files; the first is the one to name when the agent is started.
    pub(super) fn plan(&self) -> Result<Plan, Failure> {
        self.check()?;
        Ok(match self.format {
            AgentFormat::Muster => self.muster(),
            AgentFormat::Fleetspeak => self.fleetspeak(),
        })
    }

    /// Returns the file to start with, as the machine will name it.
    pub(super) fn config_path(&self) -> String {
        self.inside(match self.format {
            AgentFormat::Muster => CONFIG,
            AgentFormat::Fleetspeak => CONFIG_FLEETSPEAK,
        })
    }

    fn check(&self) -> Result<(), Failure> {
        let refuse = |problem: String| Err(Failure::usage(WHAT, problem));
        if let Some(wrong) = self.servers.iter().find(|server| !is_host_port(server)) {
            return refuse(format!("a server must be written as host:port, not {wrong:?}"));
        }
        for directory in [Some(&self.directory), self.state.as_ref()].into_iter().flatten() {
            if !directory.starts_with('/') || directory.chars().any(text::steers) {
                return refuse(format!("a directory must be an absolute path, not {directory:?}"));
            }
        }
        if self.labels.len() > limits::AGENT_LABELS_MAX {
            return refuse(format!("an agent claims at most {} labels", limits::AGENT_LABELS_MAX));
        }
        let labels = self.labels.iter().map(|label| text::name("a label", label));
        let fleet = self.fleet.iter().map(|fleet| text::fleet(fleet));
        labels.chain(fleet).collect::<Result<(), _>>().map_err(|error| Failure::usage(WHAT, error.to_string()))
    }

    fn muster(&self) -> Plan {
        #[derive(Serialize)]
        struct File<'a> {
            servers: &'a [String],
            #[serde(skip_serializing_if = "Option::is_none")]
            fleet: Option<&'a str>,
            state_dir: String,
            services_dir: String,
            mode: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            compression: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            http2: Option<bool>,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            labels: &'a [String],
            #[serde(skip_serializing_if = "Option::is_none")]
            enrol_token: Option<&'a str>,
            trusted_certs: &'a str,
        }
        let state = self.state_dir();
        let is_beside = state == self.inside("state");
        let file = File {
            servers: &self.servers,
            fleet: self.fleet.as_deref(),
            state_dir: state,
            services_dir: self.inside("services"),
            mode: if self.is_streaming { "stream" } else { "poll" },
            compression: self.deflate.map(|deflate| if deflate { "deflate" } else { "none" }),
            http2: self.http2,
            labels: &self.labels,
            enrol_token: self.enrol_token.as_deref(),
            trusted_certs: &self.trust_pem,
        };
        let text = toml::to_string_pretty(&file).expect("texts, truth values and lists of texts are always TOML");
        Plan {
            files: vec![(CONFIG.to_owned(), text)],
            directories: ["services"].into_iter().chain(is_beside.then_some("state")).map(str::to_owned).collect(),
            kept: is_beside.then(|| "state".to_owned()).into_iter().collect(),
            state: (!is_beside).then(|| self.state_dir().into()),
        }
    }

    fn state_dir(&self) -> String {
        let (etc, state) = PACKAGED;
        match &self.state {
            Some(state) => state.clone(),
            None if self.directory.trim_end_matches('/') == etc => state.to_owned(),
            None => self.inside("state"),
        }
    }

    fn fleetspeak(&self) -> Plan {
        // The original has no field for a token; it is claimed as a label, which the server takes off again.
        let token = self.enrol_token.iter().map(|token| format!("{}{token}", system::ENROL_TOKEN_PREFIX));
        let mut config = String::new();
        let mut line = |indent: &str, name: &str, value: &str| {
            let _ = writeln!(config, "{indent}{name}: {}", quoted(value));
        };
        line("", "trusted_certs", &self.trust_pem);
        self.servers.iter().for_each(|server| line("", "server", server));
        self.labels.iter().cloned().chain(token).for_each(|label| line("", "client_label", &label));
        config.push_str("filesystem_handler {\n");
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(config, "  {name}: {}", quoted(value));
        };
        line("configuration_directory", &self.inside("config"));
        let state = self.state.as_ref().map(|state| format!("{}/client.state", state.trim_end_matches('/')));
        line("state_file", &state.unwrap_or_else(|| self.inside("client.state")));
        let _ = writeln!(config, "}}\nstreaming: {}", self.is_streaming);
        let mut communicator = format!("min_failure_delay_seconds: {FAILURE_DELAY_SECONDS}\n");
        if self.deflate == Some(true) {
            communicator.push_str("compression: 1\n");
        }
        if self.http2 == Some(true) {
            communicator.push_str("prefer_http2: true\n");
        }
        Plan {
            files: vec![(CONFIG_FLEETSPEAK.to_owned(), config), (COMMUNICATOR.to_owned(), communicator)],
            directories: ["config", "config/services", "config/textservices"].map(str::to_owned).into(),
            kept: vec!["client.state".to_owned()],
            state: self.state.as_ref().map(|state| format!("{}/client.state", state.trim_end_matches('/')).into()),
        }
    }

    fn inside(&self, name: &str) -> String {
        format!("{}/{name}", self.directory.trim_end_matches('/'))
    }
}

/// Writes a text as the text form of protocol buffers has it.
fn quoted(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => _ = write!(quoted, "\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether a text names a host, by name or address, and a port.
pub(super) fn is_host_port(server: &str) -> bool {
    let Some((host, port)) = server.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => rustls::pki_types::ServerName::try_from(host).is_ok() && !host.contains(':'),
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    fn setup(format: AgentFormat) -> Setup {
        Setup {
            format,
            servers: vec!["muster.example:4443".into()],
            directory: "/opt/agent/".into(),
            state: None,
            trust_pem: PEM.into(),
            fleet: None,
            is_streaming: true,
            labels: Vec::new(),
            deflate: None,
            http2: None,
            enrol_token: None,
        }
    }

    fn table(setup: &Setup) -> toml::Table {
        setup.plan().unwrap().files[0].1.parse().unwrap()
    }

    #[test]
    fn our_agent_is_told_what_was_said_and_nothing_else() {
        let plain = table(&Setup { is_streaming: false, ..setup(AgentFormat::Muster) });
        assert_eq!(plain["servers"].as_array().unwrap()[0].as_str(), Some("muster.example:4443"));
        assert_eq!(plain["trusted_certs"].as_str(), Some(PEM));
        assert_eq!((plain["mode"].as_str(), plain["state_dir"].as_str()), (Some("poll"), Some("/opt/agent/state")));
        let keys: Vec<_> = plain.keys().map(String::as_str).collect();
        assert_eq!(keys, ["mode", "servers", "services_dir", "state_dir", "trusted_certs"]);
        let labels = vec!["blue\"\nservices_dir = \"/planted".to_owned()];
        assert!(Setup { labels, ..setup(AgentFormat::Muster) }.plan().is_err());
        let fleet = table(&Setup { fleet: Some("prod".into()), ..setup(AgentFormat::Muster) });
        assert_eq!(fleet["fleet"].as_str(), Some("prod"));
        for wrong in ["", "two words", "pröd", &"x".repeat(65)] {
            let named = Setup { fleet: Some(wrong.to_owned()), ..setup(AgentFormat::Muster) };
            assert!(named.plan().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_state_lies_where_the_packaged_unit_lets_the_agent_write() {
        let installed = Setup { directory: "/etc/muster-agent".into(), ..setup(AgentFormat::Muster) };
        assert_eq!(table(&installed)["state_dir"].as_str(), Some("/var/lib/muster-agent"));
        assert!(installed.plan().unwrap().kept.is_empty());
        let unit = include_str!("../../../../../packaging/muster-agent.service");
        assert!(
            unit.contains("StateDirectory=muster-agent") && unit.contains("--config /etc/muster-agent/config.toml")
        );
        let told = Setup { state: Some("/srv/state".into()), ..installed };
        assert_eq!(table(&told)["state_dir"].as_str(), Some("/srv/state"));
    }

    #[test]
    fn the_originals_client_finds_everything_inside_its_directory_and_comes_back_soon() {
        let setup = Setup {
            deflate: Some(true),
            http2: Some(true),
            labels: vec!["blue \"x\"".into()],
            enrol_token: Some("secret".into()),
            ..setup(AgentFormat::Fleetspeak)
        };
        let plan = setup.plan().unwrap();
        let config = &plan.files[0].1;
        for line in [
            "trusted_certs: \"-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n\"",
            "client_label: \"blue \\\"x\\\"\"",
            "client_label: \"enrol-token:secret\"",
            "  configuration_directory: \"/opt/agent/config\"",
            "  state_file: \"/opt/agent/client.state\"",
            "streaming: true",
        ] {
            assert!(config.lines().any(|have| have == line), "{line}: {config}");
        }
        let communicator = &plan.files[1];
        assert_eq!(communicator.0, "config/communicator.txt");
        assert_eq!(communicator.1, "min_failure_delay_seconds: 10\ncompression: 1\nprefer_http2: true\n");
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let with = |server: &str| Setup { servers: vec![server.to_owned()], ..setup(AgentFormat::Muster) };
        for wrong in ["host", "host:0", "host:99999", "a b:1", "https://host:1", "::1:1", ":1", ""] {
            assert!(with(wrong).plan().is_err(), "{wrong:?}");
        }
        for right in ["host:1", "10.0.0.1:4443", "[::1]:4443"] {
            assert!(with(right).plan().is_ok(), "{right:?}");
        }
        let relative = Setup { directory: "agent".into(), ..setup(AgentFormat::Muster) };
        assert!(relative.plan().is_err());
        let label = Setup { labels: vec!["a\u{202e}b".into()], ..setup(AgentFormat::Muster) };
        assert!(label.plan().is_err());
    }
}
