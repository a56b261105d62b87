//! A program that runs as a child of `muster dev`, in a process group of its own, so that Ctrl-C reaches only the
//! parent, who ends its children in order.

use muster_cli::{Exit, Failure};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::Command;

/// Last lines of a log that are shown when a child ended by itself.
const LOG_LINES_SHOWN: usize = 5;

/// A running child and its log.
pub(super) struct Child {
    name: &'static str,
    process: tokio::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts `program`; what it writes goes to the file `log`.
    pub(super) fn start(name: &'static str, program: &Path, args: &[OsString], log: PathBuf) -> Result<Self, Failure> {
        let what = format!("could not start the {name}");
        let failed = |on: &Path, error: std::io::Error| Failure::local(&what, on.display(), &error);
        let file =
            std::fs::File::options().create(true).append(true).open(&log).map_err(|error| failed(&log, error))?;
        let errors = file.try_clone().map_err(|error| failed(&log, error))?;
        let mut command = Command::new(program);
        // What the environment says of an installed server or agent is not meant for these two.
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUSTER_")) {
            command.env_remove(variable);
        }
        let process = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(program, error))?;
        Ok(Self { name, process, log })
    }

    /// Fails if the child has ended.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        match self.process.try_wait() {
            Ok(Some(status)) => Err(self.gone(Some(status))),
            _ => Ok(()),
        }
    }

    /// Waits until the child ends by itself, and says so.
    pub(super) async fn ended(&mut self) -> Failure {
        let status = self.process.wait().await.ok();
        self.gone(status)
    }

    fn gone(&self, status: Option<ExitStatus>) -> Failure {
        let how = status.map_or_else(|| "ended".to_owned(), |status| format!("ended with {status}"));
        Failure::new(Exit::Failed, format!("the {} {how}", self.name), self.last_lines())
            .on(self.log.display())
            .next("read its log; --keep keeps the directory")
    }

    /// The child took too long.
    pub(super) fn late(&self, what: &str) -> Failure {
        Failure::new(Exit::TimedOut, format!("the {} took too long: {what}", self.name), self.last_lines())
            .on(self.log.display())
            .next("allow more time with --ready-max; --keep keeps the directory")
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        if shown.is_empty() { "its log is empty".to_owned() } else { shown.join(" | ") }
    }

    /// Asks the child to end, and ends it if it does not within `most`.
    pub(super) async fn end(mut self, most: Duration) -> Result<(), Failure> {
        let pid = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let Some(pid) = pid else { return Ok(()) };
        // A child that has ended in the meantime needs no signal.
        let _ = kill_process(pid, Signal::TERM);
        if tokio::time::timeout(most, self.process.wait()).await.is_ok() {
            return Ok(());
        }
        // It is gone either way; what is told is that it did not end by itself.
        let _ = self.process.kill().await;
        let why = format!("it did not end within {} s and was ended", most.as_secs());
        Err(Failure::new(Exit::Failed, format!("the {} hung", self.name), why).on(self.log.display()))
    }
}
