//! The command line of `muster-agent`.

use crate::actions::status::{Remembered, Report, Show};
use crate::config::{Config, LogFormat, SAMPLE};
use crate::doctor::{self, Outcome};
use crate::keys;
use crate::presence::Presence;
use crate::settings::Settings;
use crate::world::{Random, SystemClock};
use crate::{book, facts, ids, run};
use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use muster_core::{Clock, text};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// The version with the commit it was built from. `-V` prints the version alone: the module agentdestroy compares it.
const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("MUSTER_COMMIT"), ")");
/// The program went wrong.
const EXIT_FAILED: u8 = 1;

/// Agent of Muster: keeps this machine in touch with its server.
///
/// Exit codes: 0 done, 1 failed, 2 wrong use, 7 ended by order of the server.
#[derive(Debug, Parser)]
#[command(name = "muster-agent", version, long_version = LONG_VERSION, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep in touch with the server until stopped.
    Run {
        #[command(flatten)]
        settings: Settings,
        /// Call once: enrol, take what waits, run it, deliver the results, and end; for machines that cannot keep a program
        /// running. Ends with 1 when there was no contact, 3 when the machine waits for approval, 4 when the server
        /// refuses it.
        #[arg(long)]
        once: bool,
    },
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
        /// Print JSON, with every id that the machine ever had.
        #[arg(long)]
        json: bool,
    },
    /// Print the completion script for a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Write the man pages.
    Man {
        /// The directory to write into; it is made if need be.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
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

/// Reads the command line, does what it says, and returns the exit code.
pub fn main() -> ExitCode {
    // Before anything else: a module's process gives up what it does not need while it has one thread.
    if let Some(code) = muster_modules::child::entry(std::env::args_os(), Arc::new(SystemClock)) {
        return code;
    }
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) if is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("muster-agent: {}", text::plain(&format!("{error:#}")));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Whether whoever read the output has read enough, as `head` does.
fn is_reader_gone(error: &anyhow::Error) -> bool {
    let io = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.into_iter().any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match command {
        Command::Run { settings, once } => {
            drop(out);
            return run_agent(&settings, if once { Presence::CheckIn } else { Presence::Daemon });
        }
        Command::Doctor { settings, json } => return run_doctor(&settings, json),
        Command::Facts { json } => print_facts(&mut out, json)?,
        Command::Status { settings, all, json } => {
            let show = if all { Show::All } else { Show::Latest };
            let report = Report::read(&settings.load()?, show)?;
            let text = if json { report.json() } else { report.text() };
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
        Command::Config(ConfigCommand::Check(settings)) => check_config(&mut out, &settings)?,
        Command::Config(ConfigCommand::Show { defaults: true, .. }) => write!(out, "{SAMPLE}")?,
        Command::Config(ConfigCommand::Show { settings, json, .. }) => {
            let config = settings.load()?;
            let text = if json { serde_json::to_string_pretty(&config)? + "\n" } else { toml::to_string(&config)? };
            write!(out, "{text}")?;
        }
        Command::Id { settings, json } => print_id(&mut out, &settings.load()?, json)?,
        Command::Completion { shell } => out.write_all(&book::completion(Cli::command(), shell))?,
        Command::Man { out: directory } => {
            let pages = book::man(Cli::command(), &directory)?;
            writeln!(out, "{pages} pages in {}", directory.display())?;
        }
        Command::Version { json } => {
            if json {
                let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("MUSTER_COMMIT"));
                writeln!(out, "{}", serde_json::json!({ "version": version, "commit": commit }))?;
            } else {
                writeln!(out, "muster-agent {LONG_VERSION}")?;
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

fn run_agent(settings: &Settings, presence: Presence) -> anyhow::Result<ExitCode> {
    let config = settings.checked()?;
    start_logging(&config)?;
    let random = Arc::new(Random::from_system().context("cannot get random numbers from the system")?);
    let reread = || settings.checked();
    let runtime = runtime()?;
    let code = runtime.block_on(run::run(config, presence, Arc::new(SystemClock), random, reread));
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
    let checks = runtime()?.block_on(doctor::examine(config, Arc::new(SystemClock)));
    let text = if json { doctor::json(&checks) } else { doctor::shown(&checks) };
    write!(std::io::stdout().lock(), "{text}")?;
    Ok(if doctor::has_failed(&checks) { ExitCode::from(EXIT_FAILED) } else { ExitCode::SUCCESS })
}

/// Prints what is wrong with the configuration. An error when something must be changed.
fn check_config(out: &mut impl Write, settings: &Settings) -> anyhow::Result<()> {
    let config = settings.load()?;
    config.check()?;
    let checks = doctor::configured(&config, SystemClock.now());
    let wrong: Vec<_> = checks.into_iter().filter(|check| check.outcome != Outcome::Ok).collect();
    write!(out, "{}", doctor::shown(&wrong))?;
    if doctor::has_failed(&wrong) {
        anyhow::bail!("{} is not valid: the lines above say why", settings.config.display());
    }
    writeln!(out, "{} is valid", settings.config.display())?;
    Ok(())
}

/// Prints the machine's id; as JSON with every id that it ever had.
fn print_id(out: &mut impl Write, config: &Config, json: bool) -> anyhow::Result<()> {
    let missing =
        || format!("there is no key in {} yet; the agent makes one at its first start", config.state_dir.display());
    let id = keys::look(&config.state_dir)?.with_context(missing)?.id;
    if !json {
        writeln!(out, "{id}")?;
        return Ok(());
    }
    let mut ids = ids::list(&config.state_dir)?;
    if !ids.contains(&id) {
        // The agent of this version was not started yet.
        ids.push(id);
    }
    writeln!(out, "{}", serde_json::json!({ "id": id, "ids": ids }))?;
    Ok(())
}

fn print_facts(out: &mut impl Write, json: bool) -> anyhow::Result<()> {
    let facts = facts::Observer::new(Arc::new(SystemClock)).observe();
    if json {
        writeln!(out, "{}", text::json_escaped(&serde_json::to_string_pretty(&facts)?))?;
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
            writeln!(out, "{:width$}  {}", if number == 0 { name } else { "" }, text::plain(&text))?;
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

    #[test]
    fn every_help_fits_a_terminal_of_eighty_columns() {
        fn look(command: &clap::Command, wide: &mut Vec<String>) {
            for text in [command.clone().render_help(), command.clone().render_long_help()] {
                // A word that is longer than a line is broken nowhere, nor is the line of usage.
                let is_whole = |line: &str| line.starts_with("Usage: ") || !line.trim().contains(' ');
                let is_wide = |line: &&str| line.chars().count() > 80 && !is_whole(line);
                wide.extend(text.to_string().lines().filter(is_wide).map(str::to_owned));
            }
            command.get_subcommands().for_each(|sub| look(sub, wide));
        }
        let (mut command, mut wide) = (Cli::command(), Vec::new());
        command.build();
        look(&command, &mut wide);
        assert!(wide.is_empty(), "{wide:#?}");
    }

    #[test]
    fn man_pages_and_completions_are_made_for_every_command() {
        let directory = tempfile::tempdir().unwrap();
        let pages = book::man(Cli::command(), directory.path()).unwrap();
        assert_eq!(pages, std::fs::read_dir(directory.path()).unwrap().count());
        for page in ["muster-agent.1", "muster-agent-run.1", "muster-agent-config-check.1"] {
            assert!(std::fs::read_to_string(directory.path().join(page)).unwrap().contains(".TH"), "{page}");
        }
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(book::completion(Cli::command(), shell)).unwrap();
            assert!(script.contains("doctor"), "{shell}");
        }
    }
}
