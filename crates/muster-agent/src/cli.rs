//! The command line of `muster-agent`.

use crate::actions::Believed;
use crate::actions::status::Remembered;
use crate::actions::status::{Report, Show};
use crate::config::{Compression, Config, DEFAULT_PATH, LogFormat, Mode, SAMPLE, Secret, Span};
use crate::doctor::{self, Verdict};
use crate::keys;
use crate::world::{Random, SystemClock};
use crate::{facts, run};
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use muster_core::Clock as _;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// The program went wrong.
const EXIT_FAILED: u8 = 1;

/// Agent of Muster: keeps this machine in touch with its server.
///
/// Exit codes: 0 done, 1 failed, 2 wrong use, 7 ended by order of the server.
#[derive(Debug, Parser)]
#[command(name = "muster-agent", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep in touch with the server until stopped.
    Run(Settings),
    /// Look at everything that must be right, and say what is not.
    Doctor {
        #[command(flatten)]
        settings: Settings,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print what this machine is, as the server is told.
    Facts {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print what this machine ran and refused: when, by whose order, with what result.
    Status {
        #[command(flatten)]
        settings: Settings,
        /// Print all that is remembered, not only the latest.
        #[arg(long)]
        all: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Be a module: read one line of parameters, write one line of result, as MIG's modules do.
    Module {
        /// Which module.
        name: String,
    },
    /// What this machine remembers of the time, and how to make it forget a clock that was ahead.
    #[command(subcommand)]
    Clock(ClockCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the id of this machine.
    Id {
        #[command(flatten)]
        settings: Settings,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the version.
    Version {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum ClockCommand {
    /// Print the clock, and what is known to be past.
    Show {
        #[command(flatten)]
        settings: Settings,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Believe the clock as it is now, after it was ahead; the agent must be stopped.
    Reset(Settings),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read the configuration and say what is wrong with it.
    Check(Settings),
    /// Print the configuration in force; secrets are hidden.
    Show {
        #[command(flatten)]
        settings: Settings,
        /// Print every key with its default and what it is for instead.
        #[arg(long)]
        defaults: bool,
        /// Print JSON.
        #[arg(long, conflicts_with = "defaults")]
        json: bool,
    },
}

/// Where the configuration is, and what lies over it.
#[derive(Debug, Clone, Args)]
struct Settings {
    /// Configuration file.
    #[arg(long, env = "MUSTER_AGENT_CONFIG", default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
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
    /// Address of the page of this machine, such as 127.0.0.1:51664.
    #[arg(long, env = "MUSTER_AGENT_STATUS_PAGE", value_name = "IP:PORT")]
    status_page: Option<String>,
    /// How log lines look.
    #[arg(long, env = "MUSTER_AGENT_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, trace, or directives.
    #[arg(long, env = "MUSTER_AGENT_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Settings {
    /// Returns the configuration in force. Without a file, all must stand in the environment or in flags.
    fn load(&self) -> anyhow::Result<Config> {
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

    fn checked(&self) -> anyhow::Result<Config> {
        let config = self.load()?;
        config.check()?;
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
            status_page,
            log_format,
            log_level
        );
        if let Some(token) = &self.enrol_token {
            config.enrol_token = Secret(token.clone());
        }
        for (given, list) in [(&self.servers, &mut config.servers), (&self.labels, &mut config.labels)] {
            if !given.is_empty() {
                list.clone_from(given);
            }
        }
    }
}

/// Reads the command line, does what it says, and returns the exit code.
pub fn main() -> ExitCode {
    // Before anything else: a module's process gives up what it does not need while it has one thread.
    if let Some(code) = muster_modules::child::entry(std::env::args_os(), Arc::new(SystemClock)) {
        return code;
    }
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("muster-agent: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match command {
        Command::Run(settings) => return run_agent(&settings),
        Command::Doctor { settings, json } => return run_doctor(&settings, json),
        Command::Facts { json } => print_facts(&mut out, json)?,
        Command::Status { settings, all, json } => {
            let show = if all { Show::All } else { Show::Latest };
            let report = Report::read(&settings.load()?, show)?;
            let text = if json { serde_json::to_string_pretty(&report)? + "\n" } else { report.text() };
            write!(out, "{text}")?;
        }
        Command::Module { name } => {
            drop(out);
            return run_module(&name);
        }
        Command::Clock(ClockCommand::Show { settings, json }) => {
            let clock = Remembered::read(&settings.load()?, SystemClock.now())?;
            let text = if json { serde_json::to_string_pretty(&clock)? + "\n" } else { clock.text() };
            write!(out, "{text}")?;
        }
        Command::Clock(ClockCommand::Reset(settings)) => {
            let clock = crate::run::reset_clock(&settings.load()?, SystemClock.now())?;
            write!(out, "{}", clock.text())?;
        }
        Command::Config(ConfigCommand::Check(settings)) => {
            let config = settings.checked()?;
            crate::pinned::read_pins(&config.trusted_pem()?)?;
            // The configuration alone: documents that were accepted are the state of this machine.
            let problems = Believed::load(&config, Path::new("")).problems;
            let (grave, small): (Vec<_>, Vec<_>) = problems.into_iter().partition(|problem| problem.is_grave);
            for problem in small {
                writeln!(out, "warning: {}", problem.text)?;
            }
            if !grave.is_empty() {
                let texts: Vec<_> = grave.into_iter().map(|problem| problem.text).collect();
                anyhow::bail!("{}", texts.join("\nmuster-agent: "));
            }
            writeln!(out, "{} is valid", settings.config.display())?;
        }
        Command::Config(ConfigCommand::Show { defaults: true, .. }) => write!(out, "{SAMPLE}")?,
        Command::Config(ConfigCommand::Show { settings, json, .. }) => {
            let config = settings.load()?;
            let text = if json { serde_json::to_string_pretty(&config)? + "\n" } else { toml::to_string(&config)? };
            write!(out, "{text}")?;
        }
        Command::Id { settings, json } => {
            let config = settings.load()?;
            let missing = || {
                format!("there is no key in {} yet; the agent makes one at its first start", config.state_dir.display())
            };
            let id = keys::look(&config.state_dir)?.with_context(missing)?.id;
            if json { writeln!(out, "{}", serde_json::json!({ "id": id }))? } else { writeln!(out, "{id}")? }
        }
        Command::Version { json } => {
            let version = env!("CARGO_PKG_VERSION");
            if json {
                writeln!(out, "{}", serde_json::json!({ "version": version }))?;
            } else {
                writeln!(out, "muster-agent {version}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Stack of a thread that blocks. What strangers write is read there, nested as deep as the limits allow, before anybody
/// knows who signed it. Only what is used of it is taken from memory.
const STACK_BYTES: usize = 4 * 1024 * 1024;

/// One thread for everything that only waits; a few more come and go for what blocks.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .thread_stack_size(STACK_BYTES)
        .build()
        .context("cannot start the runtime")
}

fn run_agent(settings: &Settings) -> anyhow::Result<ExitCode> {
    let config = settings.checked()?;
    start_logging(&config)?;
    let random = Arc::new(Random::from_system().context("cannot get random numbers from the system")?);
    let reread = || settings.checked();
    let runtime = runtime()?;
    let code = runtime.block_on(run::run(config, Arc::new(SystemClock), random, reread));
    // Whatever still blocks has nothing to say any more.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    code
}

fn run_module(name: &str) -> anyhow::Result<ExitCode> {
    let module = muster_modules::registry::find(name).with_context(|| muster_modules::registry::missing(name))?;
    let context = muster_modules::Context::new(Arc::new(SystemClock));
    let result = muster_modules::run(module, std::io::stdin(), std::io::stdout().lock(), &context)?;
    Ok(if result.success { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

fn run_doctor(settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let config = settings.load();
    let findings = runtime()?.block_on(doctor::examine(config, Arc::new(SystemClock)));
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        for finding in &findings {
            writeln!(out, "{:4}  {:<12}  {}", finding.verdict.word(), finding.what, finding.says)?;
        }
    }
    let bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    Ok(if bad { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS })
}

fn print_facts(out: &mut impl Write, json: bool) -> anyhow::Result<()> {
    let facts = facts::Observer::new(Arc::new(SystemClock)).observe();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&facts)?)?;
        return Ok(());
    }
    let width = facts.keys().map(String::len).max().unwrap_or_default();
    for (name, value) in &facts {
        let values = match value {
            serde_json::Value::Array(values) => values.clone(),
            other => vec![other.clone()],
        };
        for (number, value) in values.iter().enumerate() {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            writeln!(out, "{:width$}  {text}", if number == 0 { name } else { "" })?;
        }
    }
    Ok(())
}

fn start_logging(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_level)
        .with_context(|| format!("`log_level` in the configuration: {:?} is no level", config.log_level))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn settings(arguments: &[&str]) -> Settings {
        match Cli::try_parse_from([&["muster-agent", "run"], arguments].concat()).unwrap().command {
            Command::Run(settings) => settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_key_is_a_flag_and_every_flag_an_environment_variable() {
        let cli = Cli::command();
        let run = cli.find_subcommand("run").unwrap();
        let variables: Vec<String> = run
            .get_arguments()
            .filter(|argument| argument.get_id() != "help")
            .map(|argument| argument.get_env().expect("a flag without a variable").to_str().unwrap().to_owned())
            .collect();
        for key in toml::Table::try_from(Config::default()).unwrap().keys() {
            let variable = format!("MUSTER_AGENT_{}", key.to_uppercase());
            assert!(variables.contains(&variable), "{variable} is missing");
        }
        assert_eq!(variables.len(), toml::Table::try_from(Config::default()).unwrap().len() + 1);
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
