//! The original's own programs and Python connectors, which `cargo xtask test` installs.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release of the original that Muster is held against.
pub const VERSION: &str = "0.1.19";
/// Names another directory that holds the Python environment with the original's programs.
pub const DIRECTORY_VARIABLE: &str = "MUSTER_PEERS";

/// The Python environment with the original's programs.
#[derive(Debug, Clone)]
pub struct Peers {
    root: PathBuf,
}

impl Peers {
    /// Finds them in the user's cache folder.
    pub fn find() -> Result<Self> {
        let root = match std::env::var_os(DIRECTORY_VARIABLE) {
            Some(directory) => PathBuf::from(directory),
            None => cache()?.join("muster").join(format!("peers-{VERSION}")),
        };
        let peers = Self { root };
        for path in [peers.client(), peers.admin(), peers.server(), peers.config_tool(), peers.python()] {
            if !path.exists() {
                bail!("{} is missing: `cargo xtask test` installs the original's programs", path.display());
            }
        }
        Ok(peers)
    }

    /// `fleetspeak-client`.
    pub fn client(&self) -> PathBuf {
        self.root.join("fleetspeak-client-bin/usr/bin/fleetspeak-client")
    }

    /// `fleetspeak-server`.
    pub fn server(&self) -> PathBuf {
        self.root.join("fleetspeak-server-bin/usr/bin/fleetspeak-server")
    }

    /// `fleetspeak-admin`.
    pub fn admin(&self) -> PathBuf {
        self.root.join("fleetspeak-server-bin/usr/bin/fleetspeak-admin")
    }

    /// `fleetspeak-config`.
    pub fn config_tool(&self) -> PathBuf {
        self.root.join("fleetspeak-server-bin/usr/bin/fleetspeak-config")
    }

    /// A Python with the connectors.
    pub fn python(&self) -> PathBuf {
        self.root.join("bin/python")
    }

    /// Runs one command of `fleetspeak-admin` against `address` and returns what it printed.
    pub fn admin_run(&self, address: &str, args: &[&str]) -> Result<String> {
        // The tool waits for ever while nobody listens; `timeout` is part of every Debian.
        let mut command = Command::new("timeout");
        command.arg("20").arg(self.admin());
        Self::admin_output(command, address, args)
    }

    /// As [`Self::admin_run`], as another account of this machine (root alone can do that), with a copy of the tool below
    /// `directory`, which that account must be able to read.
    pub fn admin_run_as(&self, user: u32, directory: &Path, address: &str, args: &[&str]) -> Result<String> {
        let tool = directory.join("fleetspeak-admin");
        std::fs::copy(self.admin(), &tool).context("copying fleetspeak-admin")?;
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={user}"), format!("--regid={user}")]).args([
            "--clear-groups",
            "--",
            "timeout",
            "20",
        ]);
        command.arg(tool).current_dir("/");
        Self::admin_output(command, address, args)
    }

    fn admin_output(mut command: Command, address: &str, args: &[&str]) -> Result<String> {
        let output = command
            .args(["-logtostderr", "-admin_addr", address])
            .args(args)
            .output()
            .context("starting fleetspeak-admin")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("fleetspeak-admin {args:?} ended with {}:\n{text}{errors}", output.status);
        }
        Ok(text)
    }
}

fn cache() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("XDG_CACHE_HOME").filter(|directory| !directory.is_empty()) {
        return Ok(directory.into());
    }
    let home = std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache"))
}
