//! What an agent must be told to find and to trust this server: files for `muster-agent`, or for the original's
//! `fleetspeak-client`.
//!
//! Stays true: all that an agent keeps lies inside one directory; nothing in these files is secret, except an
//! enrolment token when one is given.

use muster_core::{limits, system, text};
use muster_proto::text as text_proto;
use muster_proto::wire;
use serde::Serialize;
use std::time::Duration;

/// Which program the files are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentFormat {
    /// `muster-agent`.
    Muster,
    /// `fleetspeak-client`.
    Fleetspeak,
}

impl std::str::FromStr for AgentFormat {
    type Err = AgentConfigError;
    fn from_str(text: &str) -> Result<Self, AgentConfigError> {
        match text {
            "muster" => Ok(Self::Muster),
            "fleetspeak" => Ok(Self::Fleetspeak),
            other => Err(AgentConfigError(format!("format must be muster or fleetspeak, not {other:?}"))),
        }
    }
}

/// How the agent shall be set up. What is `None` is left to the agent's own default.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// For which program.
    pub format: AgentFormat,
    /// Where the server is: `host:port`, in the order to try.
    pub servers: Vec<String>,
    /// The directory in which the files will lie and the agent will keep its state, on the agent's machine.
    pub directory: String,
    /// PEM: what to trust ([`crate::pki::Certificates::trust_pem`]).
    pub trust_pem: String,
    /// Whether to hold a stream instead of polling.
    pub streaming: Option<bool>,
    /// Labels to claim.
    pub labels: Vec<String>,
    /// Whether to deflate what is sent.
    pub deflate: Option<bool>,
    /// Whether to offer HTTP/2.
    pub http2: Option<bool>,
    /// The longest pause between two polls.
    pub poll_max: Option<Duration>,
    /// How long messages that do not hurry are gathered.
    pub buffer_max: Option<Duration>,
    /// The shortest pause after a failure.
    pub failure_delay_min: Option<Duration>,
    /// A token that lets the machine enrol.
    pub enrol_token: Option<String>,
}

impl AgentConfig {
    /// The least that must be said; the agent's defaults for the rest.
    pub fn new(format: AgentFormat, servers: Vec<String>, directory: String, trust_pem: String) -> Self {
        Self {
            format,
            servers,
            directory,
            trust_pem,
            streaming: None,
            labels: Vec::new(),
            deflate: None,
            http2: None,
            poll_max: None,
            buffer_max: None,
            failure_delay_min: None,
            enrol_token: None,
        }
    }
}

/// A file of an agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Its name below the directory; one that ends in `/` is an empty directory.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// Why there is no configuration; the text says what is wrong and what belongs there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AgentConfigError(pub String);

/// Writes the files. The first is the one to name when the agent is started.
pub fn agent_config(config: &AgentConfig) -> Result<Vec<ConfigFile>, AgentConfigError> {
    check(config)?;
    match config.format {
        AgentFormat::Muster => Ok(muster(config)),
        AgentFormat::Fleetspeak => Ok(fleetspeak(config)),
    }
}

fn check(config: &AgentConfig) -> Result<(), AgentConfigError> {
    let refuse = |problem: String| Err(AgentConfigError(problem));
    if config.servers.is_empty() {
        return refuse("at least one server must be given, as host:port".into());
    }
    if let Some(wrong) = config.servers.iter().find(|server| !is_host_port(server)) {
        return refuse(format!("a server must be written as host:port, not {wrong:?}"));
    }
    if !config.directory.starts_with('/') || config.directory.chars().any(char::is_control) {
        return refuse(format!("directory must be an absolute path, not {:?}", config.directory));
    }
    if config.labels.len() > limits::AGENT_LABELS_MAX {
        return refuse(format!("an agent claims at most {} labels", limits::AGENT_LABELS_MAX));
    }
    config.labels.iter().try_for_each(|label| text::name("a label", label)).map_err(|e| AgentConfigError(e.to_string()))
}

fn is_host_port(server: &str) -> bool {
    let Some((host, port)) = server.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_one = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => rustls_pki_types::ServerName::try_from(host).is_ok() && !host.contains(':'),
    };
    host_is_one && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn muster(config: &AgentConfig) -> Vec<ConfigFile> {
    #[derive(Serialize)]
    struct File<'a> {
        servers: &'a [String],
        state_dir: String,
        services_dir: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        mode: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        compression: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        http2: Option<bool>,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        labels: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        poll_max: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        buffer_max: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        failure_delay_min: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        enrol_token: Option<&'a str>,
        trusted_certs: &'a str,
    }
    let span = |length: Option<Duration>| length.map(|length| format!("{}s", length.as_secs().max(1)));
    let file = File {
        servers: &config.servers,
        state_dir: inside(config, "state"),
        services_dir: inside(config, "services"),
        mode: config.streaming.map(|streaming| if streaming { "stream" } else { "poll" }),
        compression: config.deflate.map(|deflate| if deflate { "deflate" } else { "none" }),
        http2: config.http2,
        labels: &config.labels,
        poll_max: span(config.poll_max),
        buffer_max: span(config.buffer_max),
        failure_delay_min: span(config.failure_delay_min),
        enrol_token: config.enrol_token.as_deref(),
        trusted_certs: &config.trust_pem,
    };
    let text = toml::to_string_pretty(&file).expect("texts, truth values and lists of texts are always TOML");
    vec![ConfigFile { name: "config.toml".into(), text }, directory("state/"), directory("services/")]
}

fn fleetspeak(config: &AgentConfig) -> Vec<ConfigFile> {
    use wire::client::generic::{Config, FilesystemHandler, config::PersistenceHandler};
    let handler = FilesystemHandler {
        configuration_directory: inside(config, "config"),
        state_file: inside(config, "client.state"),
    };
    // The original has no field for a token; it is claimed as a label, which the server takes off again.
    let token = config.enrol_token.iter().map(|token| format!("{}{token}", system::ENROL_TOKEN_PREFIX));
    let file = Config {
        trusted_certs: config.trust_pem.clone(),
        server: config.servers.clone(),
        client_label: config.labels.iter().cloned().chain(token).collect(),
        streaming: config.streaming.unwrap_or(true),
        persistence_handler: Some(PersistenceHandler::FilesystemHandler(handler)),
        ..Config::default()
    };
    let text = text_proto::write("fleetspeak.client.generic.Config", &file).expect("the type is one of ours");
    let mut files = vec![ConfigFile { name: "config.textproto".into(), text }, directory("config/")];
    files.extend([directory("config/services/"), directory("config/textservices/")]);
    files.extend(communicator(config));
    files
}

/// The original's settings of the connection; none when its defaults shall stand.
fn communicator(config: &AgentConfig) -> Option<ConfigFile> {
    let seconds = |length: Option<Duration>| {
        length.map_or(0, |length| i32::try_from(length.as_secs().max(1)).unwrap_or(i32::MAX))
    };
    let deflate = config.deflate.unwrap_or(false);
    let settings = wire::client::CommunicatorConfig {
        max_poll_delay_seconds: seconds(config.poll_max),
        max_buffer_delay_seconds: seconds(config.buffer_max),
        min_failure_delay_seconds: seconds(config.failure_delay_min),
        compression: i32::from(deflate),
        prefer_http2: config.http2.unwrap_or(false),
        ..Default::default()
    };
    if settings == wire::client::CommunicatorConfig::default() {
        return None;
    }
    let text = text_proto::write("fleetspeak.client.CommunicatorConfig", &settings).expect("the type is one of ours");
    Some(ConfigFile { name: "config/communicator.txt".into(), text })
}

fn inside(config: &AgentConfig, name: &str) -> String {
    format!("{}/{name}", config.directory.trim_end_matches('/'))
}

fn directory(name: &str) -> ConfigFile {
    ConfigFile { name: name.into(), text: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    fn config(format: AgentFormat) -> AgentConfig {
        AgentConfig::new(format, vec!["muster.example:4443".into()], "/opt/agent/".into(), PEM.into())
    }

    fn text<'a>(files: &'a [ConfigFile], name: &str) -> &'a str {
        &files.iter().find(|file| file.name == name).unwrap_or_else(|| panic!("no {name} in {files:?}")).text
    }

    #[test]
    fn the_originals_client_finds_everything_inside_its_directory() {
        let files = agent_config(&AgentConfig {
            deflate: Some(true),
            http2: Some(true),
            poll_max: Some(Duration::from_secs(2)),
            labels: vec!["blue".into()],
            enrol_token: Some("secret".into()),
            ..config(AgentFormat::Fleetspeak)
        })
        .unwrap();
        let read: wire::client::generic::Config =
            text_proto::parse("fleetspeak.client.generic.Config", text(&files, "config.textproto")).unwrap();
        assert_eq!(read.trusted_certs, PEM);
        assert!(read.streaming);
        assert_eq!(read.client_label, ["blue", "enrol-token:secret"]);
        let Some(wire::client::generic::config::PersistenceHandler::FilesystemHandler(handler)) =
            read.persistence_handler
        else {
            panic!("no place for its state")
        };
        assert_eq!(handler.configuration_directory, "/opt/agent/config");
        assert_eq!(handler.state_file, "/opt/agent/client.state");
        assert!(files.iter().any(|file| file.name == "config/"));
        let connection: wire::client::CommunicatorConfig =
            text_proto::parse("fleetspeak.client.CommunicatorConfig", text(&files, "config/communicator.txt")).unwrap();
        assert_eq!((connection.max_poll_delay_seconds, connection.compression, connection.prefer_http2), (2, 1, true));
    }

    #[test]
    fn without_wishes_the_originals_own_settings_stand() {
        let files = agent_config(&config(AgentFormat::Fleetspeak)).unwrap();
        assert!(files.iter().all(|file| file.name != "config/communicator.txt"), "{files:?}");
    }

    #[test]
    fn our_agent_is_told_the_same() {
        let files = agent_config(&AgentConfig { streaming: Some(false), ..config(AgentFormat::Muster) }).unwrap();
        let read: toml::Table = text(&files, "config.toml").parse().unwrap();
        assert_eq!(read["servers"].as_array().unwrap()[0].as_str(), Some("muster.example:4443"));
        assert_eq!(read["trusted_certs"].as_str(), Some(PEM));
        assert_eq!(read["mode"].as_str(), Some("poll"));
        assert_eq!(read["state_dir"].as_str(), Some("/opt/agent/state"));
        assert!(!read.contains_key("compression"));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let with = |servers: &[&str]| AgentConfig {
            servers: servers.iter().map(ToString::to_string).collect(),
            ..config(AgentFormat::Muster)
        };
        for wrong in [&[][..], &["host"], &["host:0"], &["host:99999"], &["a b:1"], &["https://host:1"], &["::1:1"]] {
            assert!(agent_config(&with(wrong)).is_err(), "{wrong:?}");
        }
        for right in [&["host:1"][..], &["10.0.0.1:4443", "[::1]:4443"]] {
            assert!(agent_config(&with(right)).is_ok(), "{right:?}");
        }
        let relative = AgentConfig { directory: "agent".into(), ..config(AgentFormat::Muster) };
        assert!(agent_config(&relative).is_err());
        let label = AgentConfig { labels: vec!["a\nb".into()], ..config(AgentFormat::Muster) };
        assert!(agent_config(&label).is_err());
    }
}
