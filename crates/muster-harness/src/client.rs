//! A real `fleetspeak-client`, in each of the ways it can speak.

use crate::peers::Peers;
use crate::process::{Process, Program};
use crate::server::Server;
use crate::wait;
use anyhow::{Context, Result};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Holds a stream, else polls.
    pub streaming: bool,
    /// Deflates what it sends.
    pub deflate: bool,
    /// Speaks HTTP/2.
    pub http2: bool,
}

impl Mode {
    /// Every combination.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|bits| Self { streaming: bits & 1 != 0, deflate: bits & 2 != 0, http2: bits & 4 != 0 })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |flag, yes, no| if flag { yes } else { no };
        let (kind, packing) = (word(self.streaming, "stream", "poll"), word(self.deflate, "deflate", "plain"));
        write!(f, "{kind}-{packing}-{}", word(self.http2, "h2", "h1"))
    }
}

/// A running client.
#[derive(Debug)]
pub struct Client {
    /// Its process.
    pub process: Process,
    directory: PathBuf,
    peers: Peers,
}

/// A stdin service: what it is sent goes to a command, what that prints comes back.
pub fn stdin_service(name: &str, command: &str, args: &[&str]) -> (String, String) {
    let args: Vec<String> = args.iter().map(|arg| format!("    args: {arg:?}\n")).collect();
    let args = args.concat();
    let text = format!(
        "name: {name:?}\nfactory: \"Stdin\"\nconfig {{\n  [type.googleapis.com/fleetspeak.stdinservice.Config] {{\n    cmd: {command:?}\n{args}  }}\n}}\n"
    );
    (format!("{name}.textproto"), text)
}

/// A daemon service: a program that the client starts and talks to over pipes.
pub fn daemon_service(name: &str, argv: &[String]) -> (String, String) {
    let argv: Vec<String> = argv.iter().map(|arg| format!("    argv: {arg:?}\n")).collect();
    let argv = argv.concat();
    let text = format!(
        "name: {name:?}\nfactory: \"Daemon\"\nconfig {{\n  [type.googleapis.com/fleetspeak.daemonservice.Config] {{\n{argv}  }}\n}}\n"
    );
    (format!("{name}.textproto"), text)
}

impl Client {
    /// Makes a configuration with `muster agent config --format fleetspeak`, shortens its pauses, adds the services,
    /// starts.
    pub fn start(server: &Server, directory: &Path, mode: Mode, services: &[(String, String)]) -> Result<Self> {
        let (address, out) = (server.addresses.agents.to_string(), directory.display().to_string());
        let mut args = vec!["agent", "config", "--format", "fleetspeak", "--server", &address, "--out", &out];
        args.extend((!mode.streaming).then_some("--polling"));
        args.extend(["--compression", if mode.deflate { "deflate" } else { "none" }]);
        args.extend(mode.http2.then_some("--http2"));
        server.muster(&args)?;
        let config = directory.join("config.textproto");
        let text = std::fs::read_to_string(&config).with_context(|| format!("reading {}", config.display()))?;
        let quoted = text.lines().find_map(|line| line.trim().strip_prefix("configuration_directory:"));
        let home = PathBuf::from(quoted.context("the configuration names no directory")?.trim().trim_matches('"'));
        // The shortest pauses the client knows, so that a test does not wait for a fleet's politeness.
        let pace = ["max_poll_delay_seconds: 2", "max_buffer_delay_seconds: 1", "min_failure_delay_seconds: 1"];
        let keys = pace.map(|line| line.split(':').next().unwrap_or_default());
        let communicator = home.join("communicator.txt");
        let written = std::fs::read_to_string(&communicator).unwrap_or_default();
        let kept = written.lines().filter(|line| !keys.iter().any(|key| line.trim().starts_with(key)));
        std::fs::write(&communicator, kept.chain(pace).collect::<Vec<_>>().join("\n"))?;
        std::fs::create_dir_all(home.join("textservices"))?;
        std::fs::create_dir_all(home.join("services"))?;
        for (name, text) in services {
            std::fs::write(home.join("textservices").join(name), text)?;
        }
        let peers = Peers::find()?;
        let process = start(&peers, directory)?;
        Ok(Self { process, directory: directory.to_owned(), peers })
    }

    /// Kills it and starts it again with the key it kept.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = start(&self.peers, &self.directory)?;
        Ok(())
    }
}

fn start(peers: &Peers, directory: &Path) -> Result<Process> {
    let config = directory.join("config.textproto");
    Program::new("fleetspeak-client", peers.client(), directory)
        .args(["-logtostderr", "-v", "1", "-config"])
        .args([config])
        .start()
}

/// Waits until `server` knows one machine more than `known`, and returns its id.
pub async fn enrolled(server: &Server, known: &[String], ceiling: Duration) -> Result<String> {
    wait::until("a new machine", ceiling, async || {
        let agents = server.rest.agents().await?;
        Ok(agents.into_iter().map(|agent| agent.id).find(|id| !known.contains(id)))
    })
    .await
}
