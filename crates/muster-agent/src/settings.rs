//! Where the agent's configuration comes from: a file, over which environment variables and flags lie.

use crate::config::{Compression, Config, DEFAULT_PATH, LogFormat, Mode, Secret, Span};
use crate::places;
use crate::server_may::{Absence, Allowance};
use clap::Args;
use std::path::{Path, PathBuf};

/// Where the configuration is, and what lies over it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Settings {
    /// Configuration file.
    #[arg(long, env = "MUSTER_AGENT_CONFIG", default_value = DEFAULT_PATH, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Servers as HOST:PORT, instead of those in the file.
    #[arg(long = "server", env = "MUSTER_AGENT_SERVERS", value_delimiter = ',', value_name = "HOST:PORT")]
    servers: Vec<String>,
    /// Certificates of the server's authority: PEM text or a file.
    #[arg(long, env = "MUSTER_AGENT_TRUSTED_CERTS", value_name = "PEM")]
    trusted_certs: Option<String>,
    /// Name the server's certificate must carry.
    #[arg(long, env = "MUSTER_AGENT_SERVER_NAME", value_name = "NAME")]
    server_name: Option<String>,
    /// Directory of key, spool and ledger.
    #[arg(long, env = "MUSTER_AGENT_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Hold a stream open, or poll.
    #[arg(long, env = "MUSTER_AGENT_MODE")]
    mode: Option<Mode>,
    /// How what is sent is made smaller.
    #[arg(long, env = "MUSTER_AGENT_COMPRESSION")]
    compression: Option<Compression>,
    /// Whether HTTP/2 is offered.
    #[arg(long, env = "MUSTER_AGENT_HTTP2", value_name = "BOOL")]
    http2: Option<bool>,
    /// Labels this machine claims, instead of those in the file.
    #[arg(long = "label", env = "MUSTER_AGENT_LABELS", value_delimiter = ',', value_name = "LABEL")]
    labels: Vec<String>,
    /// Name of the fleet that this machine belongs to
    #[arg(long, env = "MUSTER_AGENT_FLEET", value_name = "NAME")]
    fleet: Option<String>,
    /// Token that allows this machine to enrol; better given in the environment than as a flag, which others can see.
    #[arg(long, env = "MUSTER_AGENT_ENROL_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    enrol_token: Option<String>,
    /// Longest pause between polls, such as 5m.
    #[arg(long, env = "MUSTER_AGENT_POLL_MAX", value_name = "TIME")]
    poll_max: Option<Span>,
    /// How long background messages wait for a poll that happens anyway.
    #[arg(long, env = "MUSTER_AGENT_BUFFER_MAX", value_name = "TIME")]
    buffer_max: Option<Span>,
    /// First pause after a failure.
    #[arg(long, env = "MUSTER_AGENT_FAILURE_DELAY_MIN", value_name = "TIME")]
    failure_delay_min: Option<Span>,
    /// Longest pause after failures.
    #[arg(long, env = "MUSTER_AGENT_FAILURE_DELAY_MAX", value_name = "TIME")]
    failure_delay_max: Option<Span>,
    /// Directory of service definitions.
    #[arg(long, env = "MUSTER_AGENT_SERVICES_DIR", value_name = "DIR")]
    services_dir: Option<PathBuf>,
    /// Proxy that can CONNECT, as http://HOST:PORT.
    #[arg(long, env = "MUSTER_AGENT_PROXY", value_name = "URL")]
    proxy: Option<String>,
    /// Request header that carries the agent's certificate.
    #[arg(long, env = "MUSTER_AGENT_CLIENT_CERTIFICATE_HEADER", value_name = "NAME")]
    client_certificate_header: Option<String>,
    /// Bytes of unsent messages kept.
    #[arg(long, env = "MUSTER_AGENT_SPOOL_BYTES_MAX", value_name = "BYTES")]
    spool_bytes_max: Option<u64>,
    /// Number of unsent messages kept.
    #[arg(long, env = "MUSTER_AGENT_SPOOL_MESSAGES_MAX", value_name = "NUMBER")]
    spool_messages_max: Option<usize>,
    /// How often facts are looked at again.
    #[arg(long, env = "MUSTER_AGENT_FACTS_EVERY", value_name = "TIME")]
    facts_every: Option<Span>,
    /// How long one command of a Stdin service may run.
    #[arg(long, env = "MUSTER_AGENT_STDIN_TIMEOUT", value_name = "TIME")]
    stdin_timeout: Option<Span>,
    /// Directory of investigators' public keys, one in each file.
    #[arg(long, env = "MUSTER_AGENT_KEYRING_DIR", value_name = "DIR")]
    keyring_dir: Option<PathBuf>,
    /// What their signatures are worth, in the format of MIG's acl.cfg.
    #[arg(long, env = "MUSTER_AGENT_ACL_FILE", value_name = "FILE")]
    acl_file: Option<PathBuf>,
    /// Directory of the public keys of those who sign documents of trust.
    #[arg(long, env = "MUSTER_AGENT_ADMINISTRATORS_DIR", value_name = "DIR")]
    administrators_dir: Option<PathBuf>,
    /// How many of them must sign a document.
    #[arg(long, env = "MUSTER_AGENT_ADMINISTRATORS_MIN", value_name = "NUMBER")]
    administrators_min: Option<usize>,
    /// Programs of others that are modules.
    #[arg(long, env = "MUSTER_AGENT_MODULES_FILE", value_name = "FILE")]
    modules_file: Option<PathBuf>,
    /// Numbers of users that programs of others run as, such as 60706-60944; nobody else may have them.
    #[arg(long, env = "MUSTER_AGENT_MODULE_USERS", value_name = "FIRST-LAST")]
    module_users: Option<String>,
    /// How long one operation of an order may run.
    #[arg(long, env = "MUSTER_AGENT_MODULE_TIMEOUT", value_name = "TIME")]
    module_timeout: Option<Span>,
    /// Whether results keep the names of this machine's files to themselves.
    #[arg(long, env = "MUSTER_AGENT_EXTRA_PRIVACY_MODE", value_name = "BOOL")]
    extra_privacy_mode: Option<bool>,
    /// Address of the page of this machine, such as 127.0.0.1:51664.
    #[arg(long, env = "MUSTER_AGENT_STATUS_PAGE", value_name = "IP:PORT")]
    status_page: Option<String>,
    /// Variables that services have of the agent's environment, besides the usual ones.
    #[arg(long, env = "MUSTER_AGENT_SERVICES_ENVIRONMENT", value_delimiter = ',', value_name = "NAME")]
    services_environment: Vec<String>,
    /// How often the server may start one service again: "never", "always", or rates.
    #[arg(long, env = "MUSTER_AGENT_SERVER_MAY_RESTART_SERVICES", value_name = "RATES")]
    server_may_restart_services: Option<Allowance>,
    /// How often the server may demand a new key: "never", "always", or rates.
    #[arg(long, env = "MUSTER_AGENT_SERVER_MAY_REKEY", value_name = "RATES")]
    server_may_rekey: Option<Allowance>,
    /// How long the agent stays away when the server tells it to end: "never", "until-boot", or a time.
    #[arg(long, env = "MUSTER_AGENT_SERVER_MAY_DIE", value_name = "TIME")]
    server_may_die: Option<Absence>,
    /// How log lines look.
    #[arg(long, env = "MUSTER_AGENT_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, trace, or directives.
    #[arg(long, env = "MUSTER_AGENT_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Settings {
    /// Returns the configuration in force. Without a file, all must stand in the environment or in flags.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        let mut config = match Config::read(&self.config) {
            Err(_) if self.stands_alone() => {
                // Whose orders count must not depend on the directory in which somebody starts the program.
                Config::default().below(Path::new(DEFAULT_PATH).parent().unwrap_or(Path::new("/")))
            }
            other => other?,
        };
        self.lie_over(&mut config);
        Ok(config)
    }

    /// Returns the configuration in force, and refuses what cannot work or what others could change.
    pub(crate) fn checked(&self) -> anyhow::Result<Config> {
        let config = self.load()?;
        config.check()?;
        places::check(&config)?;
        Ok(config)
    }

    /// Whether flags and environment say enough, so that the file in the usual place may be missing.
    fn stands_alone(&self) -> bool {
        let nothing_there = self.config == Path::new(DEFAULT_PATH) && !self.config.exists();
        nothing_there && !self.servers.is_empty() && self.trusted_certs.is_some()
    }

    fn lie_over(&self, config: &mut Config) {
        macro_rules! lie {
            ($($key:ident),*) => { $(if let Some(value) = &self.$key { config.$key = value.clone(); })* };
        }
        lie!(
            trusted_certs,
            server_name,
            state_dir,
            mode,
            compression,
            http2,
            poll_max,
            buffer_max,
            failure_delay_min,
            failure_delay_max,
            services_dir,
            proxy,
            client_certificate_header,
            spool_bytes_max,
            spool_messages_max,
            facts_every,
            stdin_timeout,
            keyring_dir,
            acl_file,
            fleet,
            administrators_dir,
            administrators_min,
            modules_file,
            module_users,
            module_timeout,
            extra_privacy_mode,
            status_page,
            log_format,
            log_level
        );
        if let Some(token) = &self.enrol_token {
            config.enrol_token = Secret(token.clone());
        }
        if let Some(allowance) = &self.server_may_restart_services {
            config.server_may.restart_services.clone_from(allowance);
        }
        if let Some(allowance) = &self.server_may_rekey {
            config.server_may.rekey.clone_from(allowance);
        }
        if let Some(absence) = self.server_may_die {
            config.server_may.die = absence;
        }
        for (given, list) in [
            (&self.servers, &mut config.servers),
            (&self.labels, &mut config.labels),
            (&self.services_environment, &mut config.services_environment),
        ] {
            if !given.is_empty() {
                list.clone_from(given);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::keys;
    use clap::FromArgMatches;

    fn settings(arguments: &[&str]) -> Settings {
        let command = Settings::augment_args(clap::Command::new("run"));
        let matches = command.try_get_matches_from([&["run"], arguments].concat()).unwrap();
        Settings::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn every_key_is_a_flag_and_every_flag_an_environment_variable() {
        let run = Settings::augment_args(clap::Command::new("run"));
        let variables: Vec<String> = run
            .get_arguments()
            .filter(|argument| argument.get_id() != "help")
            .map(|argument| argument.get_env().expect("a flag without a variable").to_str().unwrap().to_owned())
            .collect();
        let keys = keys(&toml::Table::try_from(Config::default()).unwrap());
        for key in &keys {
            let variable = format!("MUSTER_AGENT_{}", key.to_uppercase().replace('.', "_"));
            assert!(variables.contains(&variable), "{variable} is missing");
        }
        assert_eq!(variables.len(), keys.len() + 1);
    }

    #[test]
    fn flags_lie_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, "servers = [\"a:1\"]\ntrusted_certs = \"ca.pem\"\nmode = \"stream\"\n").unwrap();
        let path = file.to_str().unwrap();
        let config = settings(&["--config", path, "--mode", "poll", "--server", "b:2", "--poll-max", "2s"]).load();
        let config = config.unwrap();
        assert_eq!((config.mode, config.poll_max), (Mode::Poll, Span::seconds(2)));
        assert_eq!(config.servers, ["b:2"]);
        assert_eq!(config.trusted_certs, directory.path().join("ca.pem").to_str().unwrap());
    }

    #[test]
    fn a_missing_file_is_an_error_that_says_which() {
        let error = settings(&["--config", "/no/such.toml", "--server", "a:1"]).load().unwrap_err();
        assert!(error.to_string().contains("/no/such.toml"), "{error}");
    }
}
