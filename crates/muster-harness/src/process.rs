//! A process that ends with its guard.
//!
//! Stays true: it is ended by its own process group, never by a name; the kernel ends it too when the test's thread
//! dies without running destructors; what it printed is shown when the test fails.

use crate::wait;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How much of a log is shown when a test fails.
const LOG_TAIL_BYTES: usize = 6000;

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

/// What to start.
#[derive(Debug)]
pub struct Program {
    name: String,
    command: Command,
    log: PathBuf,
}

impl Program {
    /// Prepares `path`; what it prints goes to `directory/NAME.log`, to the end if that is there already.
    ///
    /// It is started through `setpriv --pdeathsig`, because a killed test runs no destructors.
    pub fn new(name: &str, path: impl AsRef<OsStr>, directory: &Path) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(path);
        Self { name: name.to_owned(), command, log: directory.join(format!("{name}.log")) }
    }

    /// The same, with `wrapper` in front of it: a program such as a tracer, with its arguments; none if it is empty.
    pub fn behind(wrapper: &[String], name: &str, path: impl AsRef<OsStr>, directory: &Path) -> Self {
        match wrapper {
            [] => Self::new(name, path, directory),
            [wrapper, args @ ..] => Self::new(name, wrapper, directory).args(args).args([path]),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Result<Process> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("opening the log {}", self.log.display()))?;
        let errors = log.try_clone().context("sharing the log")?;
        self.command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        let child = self.command.spawn().with_context(|| format!("starting {}: {:?}", self.name, self.command))?;
        Ok(Process { name: self.name, child, log: self.log, ended: None })
    }
}

impl Process {
    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns everything it has printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id is a positive 32-bit number"))
            .expect("a process id is not zero")
    }

    /// Returns how it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| format!("asking after {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Asks it to look again (SIGHUP).
    pub fn reload(&self) -> Result<()> {
        kill_process(self.pid(), Signal::HUP).with_context(|| format!("waking {}", self.name))
    }

    /// Asks it to stop (SIGTERM).
    pub fn terminate(&self) -> Result<()> {
        kill_process(self.pid(), Signal::TERM).with_context(|| format!("stopping {}", self.name))
    }

    /// Ends it and its children at once (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            // The group may be gone already between the two lines; waiting tells.
            let _ = kill_process_group(self.pid(), Signal::KILL);
            self.ended = Some(self.child.wait().with_context(|| format!("waiting for the end of {}", self.name))?);
        }
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub async fn wait(&mut self, ceiling: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait::until(&what, ceiling, async || self.ended()).await
    }

    /// Waits until `look` finds something; fails at once when the process ends before.
    pub async fn ready<T>(
        &mut self,
        what: &str,
        ceiling: Duration,
        mut look: impl AsyncFnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let what = format!("{what} of {}", self.name);
        let found = wait::until(&what, ceiling, async || match self.ended()? {
            Some(status) => Ok(Some(Err(status))),
            None => Ok(look().await?.map(Ok)),
        });
        match found.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(status)) => bail!("{} ended before {what} ({status}); it printed:\n{}", self.name, self.log_tail()),
            Err(error) => Err(error.context(format!("{} printed:\n{}", self.name, self.log_tail()))),
        }
    }

    /// Waits until it has printed `text`.
    pub async fn printed(&mut self, text: &str, ceiling: Duration) -> Result<()> {
        let log = self.log.clone();
        self.ready(&format!("the line {text:?}"), ceiling, async || {
            Ok(String::from_utf8_lossy(&std::fs::read(&log)?).contains(text).then_some(()))
        })
        .await
    }

    /// Returns the last few kilobytes that it printed.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let mut start = log.len().saturating_sub(LOG_TAIL_BYTES);
        while !log.is_char_boundary(start) {
            start += 1;
        }
        log[start..].to_owned()
    }

    /// Returns the bytes of memory that it holds (resident set).
    pub fn resident_bytes(&self) -> Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// Returns the most bytes of memory that it ever held at once.
    pub fn resident_bytes_peak(&self) -> Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// Returns the processor time that its threads have used, those that have ended left out.
    pub fn processor_time(&self) -> Result<Duration> {
        let tasks = format!("/proc/{}/task", self.id());
        let mut nanos = 0;
        for task in std::fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))? {
            let path = task.context("listing threads")?.path().join("schedstat");
            // A thread may end between the two looks.
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let used = text.split(' ').next().and_then(|number| number.parse::<u64>().ok());
            nanos += used.with_context(|| format!("{} holds no time", path.display()))?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    fn status_bytes(&self, key: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("no {key} in {path}"))? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} printed (last part):\n{}\n---", self.name, self.log_tail());
        }
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CEILING: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_guard_ends_what_it_started_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let script = "sleep 600 & echo child $!; wait";
        let mut process = Program::new("sh", "sh", directory.path()).args(["-c", script]).start().unwrap();
        process.printed("child ", CEILING).await.unwrap();
        let child: u32 = process.log().trim().strip_prefix("child ").unwrap().parse().unwrap();
        assert!(Path::new(&format!("/proc/{child}")).exists());
        drop(process);
        wait::until_true("the end of the child", CEILING, async || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat"));
            Ok(stat.map_or(true, |stat| stat.contains(") Z ")))
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_program_that_ends_too_early_is_reported_with_its_words() {
        let directory = tempfile::tempdir().unwrap();
        let script = "echo no such database; exit 3";
        let mut process = Program::new("sh", "sh", directory.path()).args(["-c", script]).start().unwrap();
        let error = process.printed("ready", CEILING).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such database"), "{error}");
    }
}
