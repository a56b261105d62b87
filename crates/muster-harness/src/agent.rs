//! A real `muster-agent`.

use crate::investigator::Investigator;
use crate::process::{Process, Program};
use crate::programs;
use crate::server::Server;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// A running agent of ours.
#[derive(Debug)]
pub struct Agent {
    /// Its process.
    pub process: Process,
    directory: PathBuf,
}

impl Agent {
    /// Makes a configuration for `server` in `directory` and starts an agent with it.
    pub fn start(server: &Server, directory: &Path) -> Result<Self> {
        Self::start_trusting(server, directory, &[], 1)
    }

    /// The same, for an agent that runs what at least `signers_min` of these people signed.
    pub fn start_trusting(
        server: &Server,
        directory: &Path,
        people: &[&Investigator],
        signers_min: usize,
    ) -> Result<Self> {
        Self::prepare(server, directory, people, signers_min)?;
        Self::start_in(directory)
    }

    /// Makes the configuration of such an agent, and starts nothing.
    pub fn prepare(server: &Server, directory: &Path, people: &[&Investigator], signers_min: usize) -> Result<()> {
        let (address, out) = (server.addresses.agents.to_string(), directory.display().to_string());
        let keys: Vec<String> = people.iter().map(|person| person.public_key().display().to_string()).collect();
        let signers_min = signers_min.to_string();
        let mut args = vec!["agent", "config", "--format", "muster", "--server", &address, "--out", &out];
        args.extend(["--replace", "--keep-state"]);
        args.extend(keys.iter().flat_map(|key| ["--trust", key]));
        if !people.is_empty() {
            args.extend(["--trust-min", &signers_min]);
        }
        server.muster(&args).map(drop)
    }

    /// Starts an agent with the configuration that lies in `directory`.
    pub fn start_in(directory: &Path) -> Result<Self> {
        Self::start_behind(&[], directory)
    }

    /// The same, with a program in front of it, such as one that moves its clock, with its arguments.
    pub fn start_behind(wrapper: &[String], directory: &Path) -> Result<Self> {
        let config = config_file(directory)?;
        let program = Program::behind(wrapper, "muster-agent", programs::program("muster-agent")?, &logs(directory)?);
        let process = program.args(["run".into(), "--config".into(), config]).start()?;
        Ok(Self { process, directory: directory.to_owned() })
    }

    /// Starts an agent that calls once and ends.
    pub fn start_once(directory: &Path) -> Result<Self> {
        let config = config_file(directory)?;
        let program = Program::new("muster-agent", programs::program("muster-agent")?, &logs(directory)?);
        let process = program.args(["run".into(), "--once".into(), "--config".into(), config]).start()?;
        Ok(Self { process, directory: directory.to_owned() })
    }

    /// Kills it and starts it again on what it left.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        *self = Self::start_in(&self.directory)?;
        Ok(())
    }
}

/// Where an agent's log lies: beside its directory, in which set-up suffers nothing but its own files.
fn logs(directory: &Path) -> Result<PathBuf> {
    let logs = directory.with_extension("log");
    std::fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
    Ok(logs)
}

fn config_file(directory: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    let mut files = entries.flatten().map(|entry| entry.path());
    files
        .find(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .with_context(|| format!("`muster agent config` wrote no .toml file to {}", directory.display()))
}
