//! The real program as a process, with a directory of its own.

use crate::fleet::Fleet;
use rustix::process::{Pid, Signal, kill_process};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long anything may take before a test fails.
pub(crate) const CEILING: Duration = Duration::from_secs(30);

pub(crate) struct AgentProcess {
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl AgentProcess {
    /// Writes a configuration for `fleet`; `settings` are further lines of it, which win.
    pub(crate) fn prepare(fleet: &Fleet, settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let trusted = if settings.contains("trusted_certs") {
            String::new()
        } else {
            format!("trusted_certs = '''{}'''\n", fleet.authority_pem())
        };
        let servers =
            if settings.contains("servers") { String::new() } else { format!("servers = [\"{}\"]\n", fleet.address) };
        let config = format!(
            "{servers}state_dir = \"state\"\nfailure_delay_min = \"100ms\"\nfailure_delay_max = \"200ms\"\n\
             poll_max = \"1s\"\nbuffer_max = \"100ms\"\nlog_level = \"debug\"\n{trusted}{settings}\n"
        );
        std::fs::write(directory.path().join("config.toml"), config).unwrap();
        Self { directory, child: None }
    }

    pub(crate) fn start(fleet: &Fleet, settings: &str) -> Self {
        let mut agent = Self::prepare(fleet, settings);
        agent.restart();
        agent
    }

    pub(crate) fn restart(&mut self) {
        self.child = Some(self.command(&["run"]).spawn().unwrap());
    }

    /// The same, with a variable in the agent's environment.
    pub(crate) fn restart_with(&mut self, variable: &str, value: &str) {
        self.child = Some(self.command(&["run"]).env(variable, value).spawn().unwrap());
    }

    /// Runs the program in one go.
    pub(crate) async fn run_once(&self) -> Option<i32> {
        let run = self.command(&["run", "--once"]).status();
        tokio::time::timeout(CEILING, run).await.expect("it never ended").unwrap().code()
    }

    /// Starts a single call, to be ended by a signal.
    pub(crate) fn start_once(&mut self) {
        self.child = Some(self.command(&["run", "--once"]).spawn().unwrap());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster-agent"));
        let config = self.directory.path().join("config.toml");
        command.args(arguments).arg("--config").arg(config).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs another command of the program to its end.
    pub(crate) async fn output(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(arguments).output();
        let output = tokio::time::timeout(CEILING, output).await.expect("the command never ended").unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    /// Ends the program at once.
    pub(crate) async fn kill(&mut self) {
        self.child.take().unwrap().kill().await.unwrap();
    }

    /// Asks the program to end, and returns its exit code.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended().await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id().unwrap();
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits until the agent's state has this file.
    pub(crate) async fn wait_for_file(&self, name: &str) {
        let path = self.directory.path().join("state").join(name);
        let waiting = async {
            while !path.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(CEILING, waiting).await.expect("the state never came");
    }

    /// The directory of its configuration.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Waits for the program to end.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        tokio::time::timeout(CEILING, child.wait()).await.expect("the agent never ended").unwrap().code()
    }
}
