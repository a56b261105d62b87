//! The agent's configuration: one TOML file, over which environment variables and flags lie.
//!
//! Stays true: an unknown key is refused by name; a value that cannot work is refused before anything starts. Not here: which
//! values can work (`check`), how a proxy is written (`proxy`), who may own what is named (`places`).

mod check;
mod proxy;

pub(crate) use proxy::{Proxy, split_host_port};

use crate::server_may::ServerMay;
use muster_core::text;
use muster_modules::user::Users;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the file is unless told.
pub(crate) const DEFAULT_PATH: &str = "/etc/muster-agent/config.toml";

/// The file with every key, its default and what it is for.
pub(crate) const SAMPLE: &str = include_str!("config.sample.toml");

/// Everything that can be configured. The sample file says what each key is for.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Servers as `host:port`, tried in order.
    pub(crate) servers: Vec<String>,
    /// PEM text, or the path of a file with it.
    pub(crate) trusted_certs: String,
    /// The name the server's certificate must carry; empty: the host it was reached by.
    pub(crate) server_name: String,
    /// Where key, spool and ledger are.
    pub(crate) state_dir: PathBuf,
    /// Stream or poll.
    pub(crate) mode: Mode,
    /// Of what is sent.
    pub(crate) compression: Compression,
    /// Whether HTTP/2 is offered.
    pub(crate) http2: bool,
    /// Labels this machine claims.
    pub(crate) labels: Vec<String>,
    /// The fleet that this machine belongs to: documents of trust name theirs, and count in no other. Empty: none.
    pub(crate) fleet: String,
    /// Shown at enrolment; empty: none.
    pub(crate) enrol_token: Secret,
    /// Longest pause between polls, times 1 to 1.5.
    pub(crate) poll_max: Span,
    /// How long background messages wait for a poll that happens anyway.
    pub(crate) buffer_max: Span,
    /// First pause after a failure.
    pub(crate) failure_delay_min: Span,
    /// Longest pause after failures.
    pub(crate) failure_delay_max: Span,
    /// Where services are defined; empty: none.
    pub(crate) services_dir: PathBuf,
    /// `http://host:port` of a proxy that can CONNECT, with a login if it wants one ([`Proxy::read`]); empty: none.
    #[serde(serialize_with = "proxy::without_login")]
    pub(crate) proxy: String,
    /// Name of a request header for the certificate, for servers behind a proxy that ends TLS; empty: none.
    pub(crate) client_certificate_header: String,
    /// Bytes of unsent messages kept.
    pub(crate) spool_bytes_max: u64,
    /// Number of unsent messages kept.
    pub(crate) spool_messages_max: usize,
    /// How often facts are looked at again.
    pub(crate) facts_every: Span,
    /// How long one command of a Stdin service may run.
    pub(crate) stdin_timeout: Span,
    /// Where the keys of investigators are; empty: none.
    pub(crate) keyring_dir: PathBuf,
    /// What their signatures are worth, in the format of MIG's `acl.cfg`; empty: nothing.
    pub(crate) acl_file: PathBuf,
    /// Where the keys of those are who sign documents of trust; empty: none.
    pub(crate) administrators_dir: PathBuf,
    /// How many of them must sign.
    pub(crate) administrators_min: usize,
    /// Which programs of others are modules; empty: none.
    pub(crate) modules_file: PathBuf,
    /// The numbers of users that programs of others run as.
    pub(crate) module_users: String,
    /// How long one operation may run.
    pub(crate) module_timeout: Span,
    /// Whether results keep the names of this machine's files to themselves.
    pub(crate) extra_privacy_mode: bool,
    /// `host:port` of the page of this machine; empty: none.
    pub(crate) status_page: String,
    /// Variables that services have of the agent's environment, besides the usual ones.
    pub(crate) services_environment: Vec<String>,
    /// How logs look.
    pub(crate) log_format: LogFormat,
    /// What is logged.
    pub(crate) log_level: String,
    /// What the server may ask without a signature.
    pub(crate) server_may: ServerMay,
    /// The file that was read; `None` when all stood in flags and the environment.
    #[serde(skip)]
    pub(crate) file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            trusted_certs: String::new(),
            server_name: String::new(),
            state_dir: "/var/lib/muster-agent".into(),
            mode: Mode::Stream,
            compression: Compression::Deflate,
            http2: true,
            labels: Vec::new(),
            fleet: String::new(),
            enrol_token: Secret::default(),
            poll_max: Span::seconds(300),
            buffer_max: Span::seconds(5),
            failure_delay_min: Span::seconds(1),
            failure_delay_max: Span::seconds(300),
            services_dir: PathBuf::new(),
            proxy: String::new(),
            client_certificate_header: String::new(),
            spool_bytes_max: 64 * 1024 * 1024,
            spool_messages_max: 50_000,
            facts_every: Span::seconds(600),
            stdin_timeout: Span::seconds(3600),
            keyring_dir: "agentkeys".into(),
            acl_file: "acl.cfg".into(),
            administrators_dir: "administrators".into(),
            administrators_min: 2,
            modules_file: PathBuf::new(),
            module_users: Users::default().to_string(),
            module_timeout: Span::seconds(muster_core::limits::MODULE_TIME_S),
            extra_privacy_mode: false,
            status_page: String::new(),
            services_environment: Vec::new(),
            log_format: LogFormat::Text,
            log_level: "info".into(),
            server_may: ServerMay::default(),
            file: None,
        }
    }
}

/// How the agent keeps in touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// One connection held open; messages arrive at once.
    Stream,
    /// A connection now and then.
    Poll,
}

/// How what is sent is made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    /// Not at all.
    None,
    /// zlib.
    Deflate,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For programs, one object a line.
    Json,
}

/// A length of time, written like `5m` or `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    /// Whole seconds.
    pub(crate) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl std::str::FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("a length of time must be written like 30s, 5m or 1h30m, not {text:?}");
        let span: jiff::SignedDuration = text.parse().map_err(|_| error())?;
        Duration::try_from(span).map(Self).map_err(|_| error())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = jiff::SignedDuration::try_from(self.0).map_err(|_| fmt::Error)?;
        write!(f, "{span:#}")
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(none)" } else { "(hidden)" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "(hidden)" })
    }
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}; name another file with --config or MUSTER_AGENT_CONFIG", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it must be.
    #[error("the configuration {} is not valid", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key has a value that cannot work.
    #[error("`{key}` in the configuration: {reason}")]
    Value {
        /// Which key.
        key: &'static str,
        /// Why not, and what to write.
        reason: String,
    },
}

impl Config {
    /// Reads the file at `path`. Values are not yet checked ([`Config::check`]).
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })?;
        config.file = Some(path.to_owned());
        // A path in the file is meant from where the file is, not from where the agent was started.
        let base = path.parent().unwrap_or(Path::new("."));
        if !config.trusted_certs.is_empty() && !config.trusted_certs.contains("-----BEGIN") {
            config.trusted_certs = base.join(&config.trusted_certs).to_string_lossy().into_owned();
        }
        Ok(config.below(base))
    }

    /// Makes paths that are relative begin at `base`.
    pub(crate) fn below(mut self, base: &Path) -> Self {
        for path in [
            &mut self.services_dir,
            &mut self.keyring_dir,
            &mut self.acl_file,
            &mut self.administrators_dir,
            &mut self.modules_file,
        ] {
            if !path.as_os_str().is_empty() {
                *path = base.join(&*path);
            }
        }
        self.state_dir = base.join(&self.state_dir);
        self
    }

    /// Returns where the page of this machine is, if it is to be there: on the loopback interface and nowhere else.
    pub(crate) fn status_page_address(&self) -> Option<std::net::SocketAddr> {
        self.status_page.parse().ok().filter(|address: &std::net::SocketAddr| address.ip().is_loopback())
    }

    /// Returns the PEM text of the trusted certificates, reading the file if a path was given.
    pub(crate) fn trusted_pem(&self) -> Result<String, ConfigError> {
        if self.trusted_certs.contains("-----BEGIN") {
            return Ok(self.trusted_certs.clone());
        }
        let refused = |reason: String| ConfigError::Value { key: "trusted_certs", reason };
        let shown = text::cut(&self.trusted_certs, 200);
        let bytes = std::fs::read(&self.trusted_certs).map_err(|error| {
            refused(format!("cannot read {shown}: {error}; give the certificate as PEM text, or the path of a file"))
        })?;
        String::from_utf8(bytes).map_err(|_| {
            refused(format!(
                "{shown} is not text; `openssl x509 -inform DER -in FILE` makes text of a certificate in DER"
            ))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The names of all keys; those in sections with the section's name in front.
    pub(crate) fn keys(table: &toml::Table) -> Vec<String> {
        let inner = |(key, value): (&String, &toml::Value)| match value {
            toml::Value::Table(inner) => inner.keys().map(|inner| format!("{key}.{inner}")).collect(),
            _ => vec![key.clone()],
        };
        table.iter().flat_map(inner).collect()
    }

    #[test]
    fn the_sample_has_every_key_with_its_default_and_a_line_about_it() {
        let sample: toml::Table = toml::from_str(SAMPLE).unwrap();
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        assert_eq!(keys(&sample), keys(&defaults));
        assert_eq!(toml::from_str::<Config>(SAMPLE).unwrap(), Config::default());
        for key in keys(&defaults) {
            let key = key.rsplit('.').next().unwrap();
            let before = SAMPLE.split(&format!("\n{key} = ")).next().unwrap();
            assert!(before.lines().last().unwrap().starts_with("# "), "{key} has no line about it");
        }
    }

    #[test]
    fn the_reference_page_names_every_key() {
        let page = include_str!("../../../docs/reference/agent-config.md");
        for key in keys(&toml::Table::try_from(Config::default()).unwrap()) {
            assert!(page.contains(&format!("| `{key}` |")), "docs/reference/agent-config.md lacks {key}");
        }
    }

    #[test]
    fn the_packaged_unit_and_the_documented_set_up_agree_with_the_defaults() {
        let unit = include_str!("../../../packaging/muster-agent.service");
        let setting = |name: &str| {
            let line = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_else(|| panic!("the unit lacks {name}"))
        };
        // Without a path systemd finds it where either a package or the documented set-up puts it.
        assert_eq!(setting("ExecStart"), format!("muster-agent run --config {DEFAULT_PATH}"));
        assert_eq!(setting("ConditionPathExists"), DEFAULT_PATH);
        let state = Path::new("/var/lib").join(setting("StateDirectory"));
        assert_eq!(state, Config::default().state_dir);
        assert_eq!((setting("StateDirectoryMode"), setting("Restart")), ("0700", "always"));
        assert!(!unit.contains("RestartPreventExitStatus"), "a server would keep the agent down for good");
        assert!(!setting("MemoryMax").is_empty() && setting("OOMPolicy") == "continue");
        let page = include_str!("../../../docs/operate/install.md");
        for words in
            ["target/release/muster-agent /usr/local/bin/", "packaging/muster-agent.service", "/var/lib/muster-agent"]
        {
            assert!(page.contains(words), "docs/operate/install.md lacks {words}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = toml::from_str::<Config>("serverz = []").unwrap_err().to_string();
        assert!(error.contains("serverz"), "{error}");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let config = Config { enrol_token: Secret("hunter2".into()), ..Config::default() };
        assert!(!format!("{config:?}{}", toml::to_string(&config).unwrap()).contains("hunter2"));
    }

    #[test]
    fn spans_are_read_and_written() {
        for (text, seconds) in [("30s", 30), ("5m", 300), ("1h30m", 5400), ("1h 30m", 5400)] {
            assert_eq!(text.parse(), Ok(Span::seconds(seconds)));
        }
        assert_eq!(Span::seconds(300).to_string().parse(), Ok(Span::seconds(300)));
        assert!("soon".parse::<Span>().is_err() && "-5s".parse::<Span>().is_err());
    }
}
