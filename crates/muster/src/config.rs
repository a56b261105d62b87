//! `muster config`: the server's configuration.

use crate::serve::ConfigFile;
use muster_api::server::Check;
use muster_cli::connect::{self, Addresses};
use muster_cli::{Exit, Failure, Globals, Output};
use muster_server::Config;
use muster_server::config::{ConfigErrors, DEFAULT_FILE, Overrides, Purpose};
use std::path::{Path, PathBuf};

/// `muster config`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster config show --defaults > /etc/muster/muster.toml
  muster config check --config /etc/muster/muster.toml
  muster config show")]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check the configuration as `muster serve` would read it, environment and the files that it names included
    Check(ConfigFile),
    /// Show the configuration as `muster serve` would read it, with every key explained
    Show {
        /// Which
        #[command(flatten)]
        file: ConfigFile,
        /// Show the defaults instead: a file to start from
        #[arg(long)]
        defaults: bool,
    },
}

impl ConfigArgs {
    /// Runs the command.
    pub(crate) fn run(self, globals: &Globals) -> Result<(), Failure> {
        let out = Output::new(globals.json);
        let flags = Overrides { data: globals.data.clone(), purpose: Purpose::Look, ..Overrides::default() };
        match self.command {
            Command::Check(file) => {
                let config = load(&file, &flags)?;
                let problems = muster_server::config::files::problems_now(&config);
                if !problems.is_empty() {
                    return Err(refused(file_read(&file).as_deref(), &ConfigErrors(problems)));
                }
                let read = file_read(&file).map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
                if out.json {
                    return out.json(&std::collections::BTreeMap::from([("ok", read)]));
                }
                out.line(&format!("ok ({read})"))
            }
            Command::Show { defaults: true, .. } if out.json => out.json(&Config::default()),
            Command::Show { defaults: true, .. } => out.bytes(Config::defaults_text().as_bytes()),
            Command::Show { file, .. } => {
                let config = load(&file, &flags)?;
                if out.json { out.json(&config) } else { out.bytes(config.to_text().as_bytes()) }
            }
        }
    }
}

/// `muster doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Where the configuration of the server on this machine stands
    #[command(flatten)]
    file: ConfigFile,
}

impl DoctorArgs {
    /// Looks at a server of this machine that does not answer: its configuration, directory, disk and ports.
    pub(crate) fn offline(&self, globals: &Globals) -> Vec<Check> {
        let mut flags = Overrides { data: globals.data.clone(), purpose: Purpose::Look, ..Overrides::default() };
        // Of a server that is known by its directory alone, only that says where it listens; the usual ports are others'.
        let named = globals.data.as_deref().filter(|_| file_read(&self.file).is_none());
        let left = named.map(|data| connect::data_check(data).and_then(|()| Addresses::read(data)));
        if let Some(Ok(left)) = &left {
            let address = |name| left.door(name).map(str::to_owned);
            (flags.agents, flags.operators, flags.admin) = (address("agents"), address("operators"), address("admin"));
        }
        match load(&self.file, &flags) {
            Ok(config) => {
                let mut checks = muster_server::doctor::offline(&config);
                if let Some(Err(_)) = left {
                    checks.retain(|check| !check.name.ends_with(" door"));
                    checks.push(ports_unknown());
                }
                checks
            }
            Err(failure) => vec![Check {
                name: "configuration".to_owned(),
                outcome: "failed".to_owned(),
                found: failure.why,
                advice: Some(failure.next),
            }],
        }
    }
}

/// Says why no port is looked at.
fn ports_unknown() -> Check {
    Check {
        name: "ports".to_owned(),
        outcome: "warning".to_owned(),
        found: "the directory does not say where its server listens".to_owned(),
        advice: Some("Name the server's configuration with --config, and its ports are looked at.".to_owned()),
    }
}

/// Returns the file that is read: the one that was named, or the usual one if it is there.
fn file_read(file: &ConfigFile) -> Option<PathBuf> {
    let usual = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
    file.config.clone().or_else(usual)
}

/// Reads the configuration from its file, the environment and flags.
pub(crate) fn load(file: &ConfigFile, flags: &Overrides) -> Result<Config, Failure> {
    let path = file_read(file);
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with("MUSTER_"))?;
        Some((name, value.into_string().ok()?))
    });
    Config::load(path.as_deref(), environment, flags).map_err(|errors| refused(path.as_deref(), &errors))
}

fn refused(path: Option<&Path>, errors: &ConfigErrors) -> Failure {
    let on = path.map_or_else(|| "environment and flags".to_owned(), |path| path.display().to_string());
    let why: Vec<_> = errors.0.iter().map(ToString::to_string).collect();
    let next = "correct it, then `muster config check`; `muster config show --defaults` explains every key";
    Failure::new(Exit::Usage, "the configuration is not valid", why.join(" | ")).on(on).next(next)
}
