//! A real agent, with a module that writes down each of its starts before anything else.

use super::Evil;
use crate::agent::Agent;
use crate::programs;
use crate::recorder::{Recorder, SETTING};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The fleet that the machine belongs to.
pub const FLEET: &str = "lab";

/// Whom the machine believes.
#[derive(Debug, Default)]
pub struct Belief {
    /// Keys of people, armored, each with the name of its file.
    pub keys: Vec<(String, String)>,
    /// What they are worth, as `acl.cfg` has it.
    pub weights: Value,
    /// Keys of administrators.
    pub administrators: Vec<(String, String)>,
    /// How many of them must sign.
    pub administrators_min: usize,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    directory: PathBuf,
    agent: Option<Agent>,
    recorder: Recorder,
}

impl Machine {
    /// Writes the configuration of an agent that pins `evil`'s authority. `mode` is `stream` or `poll`.
    pub fn prepare(directory: &Path, evil: &Evil, mode: &str, belief: &Belief) -> Result<Self> {
        let recorder = Recorder::install(directory)?;
        for (folder, keys) in [("agentkeys", &belief.keys), ("administrators", &belief.administrators)] {
            let folder = directory.join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
            for (name, key) in keys {
                std::fs::write(folder.join(name), key)?;
            }
        }
        std::fs::write(directory.join("acl.cfg"), belief.weights.to_string())?;
        let config = format!(
            "servers = [\"{}\"]\ntrusted_certs = '''{}'''\nstate_dir = \"state\"\nmode = \"{mode}\"\n\
             compression = \"none\"\nhttp2 = false\nfailure_delay_min = \"100ms\"\nfailure_delay_max = \"200ms\"\n\
             poll_max = \"1s\"\nbuffer_max = \"100ms\"\nfleet = \"{FLEET}\"\n{SETTING}\
             administrators_min = {}\nlog_level = \"debug\"\n",
            evil.address,
            evil.authority,
            belief.administrators_min.max(1),
        );
        std::fs::write(directory.join("agent.toml"), config)?;
        Ok(Self { directory: directory.to_owned(), agent: None, recorder })
    }

    /// Starts the agent, and waits until it calls the server.
    pub async fn start(&mut self, evil: &Evil) -> Result<()> {
        let told = |seen: &super::Seen| seen.trust.len();
        let before = told(&evil.seen());
        self.agent = Some(Agent::start_in(&self.directory)?);
        evil.wait("the agent's word of whom it believes", |seen| (told(seen) > before).then_some(())).await
    }

    /// Starts the agent, and does not wait for it.
    pub fn start_only(&mut self) -> Result<()> {
        self.agent = Some(Agent::start_in(&self.directory)?);
        Ok(())
    }

    /// Asks the agent to look again (SIGHUP).
    pub fn reload(&self) -> Result<()> {
        self.agent.as_ref().context("the agent does not run")?.process.reload()
    }

    /// Everything that agents of this machine printed since the harness keeps it.
    pub fn log(&self) -> String {
        self.agent.as_ref().map_or_else(String::new, |agent| agent.process.log())
    }

    /// Runs another command of the agent's program on this machine. Returns its exit code and what it printed.
    pub async fn output(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        // The server that it asks is in this very process.
        let mut command = tokio::process::Command::new(programs::program("muster-agent")?);
        let output = command.args(arguments).arg("--config").arg(self.directory.join("agent.toml")).output().await?;
        Ok((output.status.code(), String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?))
    }

    /// Writes a file beside the configuration.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        std::fs::create_dir_all(path.parent().context("a file lies in a directory")?)?;
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Kills the agent (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        self.agent.take().map_or(Ok(()), |mut agent| agent.process.kill())
    }

    /// Ends the agent in order. Returns its exit code.
    pub async fn stop(&mut self) -> Result<Option<i32>> {
        let agent = self.agent.as_ref().context("the agent does not run")?;
        agent.process.terminate()?;
        self.ended().await
    }

    /// Waits until the agent ends by itself. Returns its exit code.
    pub async fn ended(&mut self) -> Result<Option<i32>> {
        let mut agent = self.agent.take().context("the agent does not run")?;
        Ok(agent.process.wait(super::CEILING).await?.code())
    }

    /// Returns whether the agent's process is there.
    pub fn is_alive(&mut self) -> Result<bool> {
        self.agent.as_mut().map_or(Ok(false), |agent| Ok(agent.process.ended()?.is_none()))
    }

    /// How often the module was started ever, as it wrote itself.
    pub fn runs(&self) -> usize {
        self.recorder.starts()
    }

    /// A file of the agent's own state.
    pub fn state(&self, name: &str) -> PathBuf {
        self.directory.join("state").join(name)
    }

    /// Changes the configuration; it counts from the next start on.
    pub fn configure(&self, old: &str, new: &str) -> Result<()> {
        let path = self.directory.join("agent.toml");
        let text = std::fs::read_to_string(&path)?;
        anyhow::ensure!(text.contains(old), "{} does not hold {old:?}", path.display());
        Ok(std::fs::write(&path, text.replace(old, new))?)
    }

    /// Everything that says what this machine runs and for whom: configuration, keys, weights, modules, documents. No
    /// server may change a byte of it.
    pub fn trust_files(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut files = Vec::new();
        for folder in [".", "agentkeys", "administrators", "modules"] {
            for entry in std::fs::read_dir(self.directory.join(folder))? {
                let path = entry?.path();
                let is_output =
                    path.extension().is_some_and(|extension| extension == "log") || path == self.recorder.path();
                if path.is_file() && !is_output {
                    files.push((path.clone(), std::fs::read(&path)?));
                }
            }
        }
        let documents = self.state("documents.json");
        files.push((documents.clone(), std::fs::read(documents).unwrap_or_default()));
        files.sort();
        Ok(files)
    }
}
