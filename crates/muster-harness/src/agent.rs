//! A real `muster-agent`.

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
        let (address, out) = (server.addresses.agents.to_string(), directory.display().to_string());
        server.muster(&["agent", "config", "--format", "muster", "--server", &address, "--out", &out])?;
        Self::start_in(directory)
    }

    /// Starts an agent with the configuration that lies in `directory`.
    pub fn start_in(directory: &Path) -> Result<Self> {
        let config = config_file(directory)?;
        let program = Program::new("muster-agent", programs::program("muster-agent")?, directory);
        let process = program.args(["run".into(), "--config".into(), config]).start()?;
        Ok(Self { process, directory: directory.to_owned() })
    }

    /// Kills it and starts it again on what it left.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        *self = Self::start_in(&self.directory)?;
        Ok(())
    }
}

fn config_file(directory: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
    let mut files = entries.flatten().map(|entry| entry.path());
    files
        .find(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .with_context(|| format!("`muster agent config` wrote no .toml file to {}", directory.display()))
}
