//! The side that asks: starts a process for one question, feeds it, takes its answer, and leaves nothing behind.
//!
//! Stays true: a question ends within its time and with one [`Ended`]; whatever the process does, it and its group are
//! gone then, and so is all else that runs as its user when it has one of its own, or the answer says that something is
//! left. Nothing here waits for a process that does not want to end. Calls block: an asynchronous caller makes them in a
//! thread of their own.

use crate::child::{ARGUMENT, PROCESS_NAME};
use crate::foreign::Plan;
use crate::message::Message;
use crate::module::Stop;
use crate::result::ModuleResult;
use crate::user::{self, Users};
use muster_core::limits::{MODULE_NOISE_BYTES_MAX, MODULE_OUTPUT_BYTES_MAX, MODULE_TIME_S};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde_json::Value;
use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a wish to stop is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How long a module that was asked to stop may take to answer.
const STOP_TIME: Duration = Duration::from_secs(2);
/// How long a process may take to end after its answer.
const END_TIME: Duration = Duration::from_secs(1);
/// Bytes of memory that an answer may take once it is read: many small values take far more than their text.
const ANSWER_MEMORY_BYTES_MAX: usize = 192 * 1024 * 1024;
/// How long the system may take to do away with a process that was killed.
const GONE_TIME: Duration = Duration::from_secs(5);

/// The program that becomes a module when started with [`ARGUMENT`]: usually the asker's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The program.
    pub program: PathBuf,
    /// What stands before [`ARGUMENT`] on its command line.
    pub arguments: Vec<OsString>,
}

/// What the asker grants one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long it may take.
    pub time: Duration,
    /// Bytes of the answer, at most.
    pub output_bytes: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self { time: Duration::from_secs(MODULE_TIME_S), output_bytes: MODULE_OUTPUT_BYTES_MAX }
    }
}

/// How a question ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// With an answer, good or bad.
    Answered(ModuleResult),
    /// With an answer, after it was asked to end because its time was nearly over.
    AnsweredLate(ModuleResult),
    /// Its time was over.
    TimedOut(Duration),
    /// It was asked to stop, and gave no answer.
    Stopped,
    /// It wrote more than was granted.
    TooMuch(usize),
    /// It wrote more values than memory is given for, in bytes.
    TooMany(usize),
    /// It wrote what is no result, or nothing.
    Died {
        /// How the process ended.
        how: String,
        /// The first of what it wrote to standard error.
        noise: String,
    },
    /// It could not be started.
    NotStarted(String),
    /// In this way; but something that it started is still there.
    Left(Box<Ended>),
}

impl Ended {
    /// Returns the result to report for the module called `name`.
    pub fn into_result(self, name: &str) -> ModuleResult {
        let why = match self {
            Self::Answered(result) | Self::AnsweredLate(result) => return result,
            Self::TimedOut(time) => format!("did not answer within {}", crate::gotext::duration(rounded(time))),
            Self::Stopped => "was stopped".to_owned(),
            Self::TooMuch(bytes) => format!("answered with more than {bytes} bytes"),
            Self::TooMany(bytes) => format!("answered with more values than fit into {bytes} bytes of memory"),
            Self::Died { how, noise } if noise.is_empty() => format!("ended without an answer: {how}"),
            Self::Died { how, noise } => format!("ended without an answer: {how}: {noise}"),
            Self::NotStarted(why) => format!("could not be started: {why}"),
            Self::Left(ended) => {
                let left = format!("processes that module '{name}' started could not be ended");
                return ModuleResult { success: false, ..ended.into_result(name) }.with_errors(vec![left]);
            }
        };
        ModuleResult::failed(format!("module '{name}' {why}"))
    }
}

/// Rounds up to what matters to people.
fn rounded(time: Duration) -> Duration {
    let milliseconds = time.as_nanos().div_ceil(1_000_000);
    u64::try_from(milliseconds).map_or(time, Duration::from_millis)
}

impl Host {
    /// Returns this program as host of its own modules.
    ///
    /// # Errors
    /// The system does not tell which program this is.
    pub fn this_program() -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, arguments: Vec::new() })
    }

    /// Asks one question and waits for its end.
    pub fn ask(&self, plan: &Plan, parameters: &Value, patience: Patience, stop: &Stop) -> Ended {
        match Process::start(self, plan) {
            Err(error) => Ended::NotStarted(format!("{}: {}", self.program.display(), crate::gotext::reason(&error))),
            Ok(mut process) => {
                let ended = process.converse(parameters, patience, stop);
                process.end();
                if process.has_left { Ended::Left(Box::new(ended)) } else { ended }
            }
        }
    }
}

/// A running process, which ends with this value.
struct Process {
    child: Child,
    group: Pid,
    /// Becomes readable when the process has ended.
    exit: Option<OwnedFd>,
    /// How the process ended, once it was waited for.
    ended: Option<ExitStatus>,
    /// Nothing more is done to end it.
    is_over: bool,
    /// Something that it started could not be ended.
    has_left: bool,
    /// It is a program of others, and this is what helps to end it, which runs as one of these users.
    helper: Option<(Host, Users)>,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    stderr: Option<ChildStderr>,
    to_write: Vec<u8>,
    written: usize,
    answer: Vec<u8>,
    noise: Vec<u8>,
}

/// What a round of reading came to.
enum Heard {
    Goes,
    Line,
    Closed,
}

impl Process {
    fn start(host: &Host, plan: &Plan) -> io::Result<Self> {
        let helper = plan.foreign.as_ref().map(|_| (host.clone(), plan.users));
        let plan = serde_json::to_string(plan)?;
        let mut command = Command::new(&host.program);
        if let Ok(name) = PROCESS_NAME.to_str() {
            command.arg0(name);
        }
        command.args(&host.arguments).arg(ARGUMENT).arg(plan).current_dir("/").env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
        // A group of its own, so that all it starts can be ended with it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let taken = "every stream was asked for as a pipe";
        let (stdin, stdout) = (child.stdin.take().expect(taken), child.stdout.take().expect(taken));
        let stderr = child.stderr.take().expect(taken);
        let group = Pid::from_child(&child);
        let (stdin, stderr) = (Some(stdin), Some(stderr));
        let (to_write, written, answer, noise) = (Vec::new(), 0, Vec::new(), Vec::new());
        let (exit, ended, is_over, has_left) = (None, None, false, false);
        let mut process = Self {
            child,
            group,
            exit,
            ended,
            is_over,
            has_left,
            helper,
            stdin,
            stdout,
            stderr,
            to_write,
            written,
            answer,
            noise,
        };
        process.exit = Some(pidfd_open(group, PidfdFlags::empty())?);
        for stream in [process.stdin.as_ref().map(AsFd::as_fd), Some(process.stdout.as_fd())].into_iter().flatten() {
            fcntl_setfl(stream, OFlags::NONBLOCK)?;
        }
        if let Some(stderr) = &process.stderr {
            fcntl_setfl(stderr, OFlags::NONBLOCK)?;
        }
        Ok(process)
    }

    fn converse(&mut self, parameters: &Value, patience: Patience, stop: &Stop) -> Ended {
        self.to_write = Message::parameters(parameters.clone()).to_line().into_bytes();
        let begun = Instant::now();
        // A module that ends before its time is over can still say what it found.
        let early = STOP_TIME.min(patience.time / 2);
        let mut wished: Option<Instant> = None;
        let (mut is_stopping, mut is_late) = (false, false);
        loop {
            let Some(left) = patience.time.checked_sub(begun.elapsed()) else {
                return Ended::TimedOut(patience.time);
            };
            if wished.is_none() && stop.is_asked() {
                wished = Some(Instant::now());
            }
            if wished.is_some_and(|wished| wished.elapsed() >= STOP_TIME) {
                return Ended::Stopped;
            }
            if (wished.is_some() || left <= early) && !std::mem::replace(&mut is_stopping, true) {
                is_late = wished.is_none();
                self.to_write.extend_from_slice(Message::stop().to_line().as_bytes());
            }
            self.wait(left.min(LOOK));
            self.write();
            self.hear_noise();
            match self.read() {
                _ if self.answer.len() > patience.output_bytes => return Ended::TooMuch(patience.output_bytes),
                Heard::Goes => {}
                Heard::Line | Heard::Closed => {
                    return match self.close() {
                        Ended::Answered(result) if is_late => Ended::AnsweredLate(result),
                        ended => ended,
                    };
                }
            }
        }
    }

    /// Waits until something can be read or written, or the time is over.
    fn wait(&self, time: Duration) {
        let mut streams = vec![PollFd::new(&self.stdout, PollFlags::IN)];
        streams.extend(self.stderr.as_ref().map(|stderr| PollFd::new(stderr, PollFlags::IN)));
        let unsent = self.written < self.to_write.len();
        streams.extend(self.exit.as_ref().map(|exit| PollFd::new(exit, PollFlags::IN)));
        streams.extend(self.stdin.as_ref().filter(|_| unsent).map(|stdin| PollFd::new(stdin, PollFlags::OUT)));
        let time = Timespec::try_from(time).ok();
        // An interrupted wait is one that ended early.
        let _ = poll(&mut streams, time.as_ref());
    }

    fn write(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        while self.written < self.to_write.len() {
            match stdin.write(&self.to_write[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It reads no more; what it has to say is still heard.
                Err(_) => {
                    self.stdin = None;
                    return;
                }
            }
        }
    }

    fn read(&mut self) -> Heard {
        let mut buffer = [0; 16 * 1024];
        match self.stdout.read(&mut buffer) {
            Ok(0) => Heard::Closed,
            Ok(bytes) => {
                let line = buffer[..bytes].iter().position(|byte| *byte == b'\n');
                self.answer.extend_from_slice(&buffer[..line.unwrap_or(bytes)]);
                if line.is_some() { Heard::Line } else { Heard::Goes }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Heard::Goes,
            // What it started may hold the stream open after it has ended.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.has_ended_within(Duration::ZERO) => {
                Heard::Goes
            }
            Err(_) => Heard::Closed,
        }
    }

    fn hear_noise(&mut self) {
        let Some(stderr) = &mut self.stderr else { return };
        let mut buffer = [0; 8 * 1024];
        match stderr.read(&mut buffer) {
            Ok(0) => self.stderr = None,
            Ok(bytes) => {
                let room = MODULE_NOISE_BYTES_MAX.saturating_sub(self.noise.len());
                self.noise.extend_from_slice(&buffer[..bytes.min(room)]);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.stderr = None,
        }
    }

    /// Waits for the process to end, for `time` at most.
    fn has_ended_within(&self, time: Duration) -> bool {
        let Some(exit) = &self.exit else { return false };
        let time = Timespec::try_from(time).ok();
        poll(&mut [PollFd::new(exit, PollFlags::IN)], time.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Ends the process with its whole group, and takes it from the system's table. Twice is once.
    fn end(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        // The leader has not been waited for yet, so the group's number is still its own.
        let _ = kill_process_group(self.group, Signal::KILL);
        // What left the group is found by its user, which it cannot leave. It is ended before the leader is waited for,
        // which may itself be held up by one of them.
        self.has_left = self.helper.as_ref().is_some_and(|(helper, users)| {
            user::of(*users, self.group.as_raw_pid()).is_some_and(|user| !user::end_all(helper, *users, user))
        });
        if self.exit.is_none() || self.has_ended_within(GONE_TIME) {
            self.ended = self.child.wait().ok();
        } else {
            self.has_left = true;
        }
    }

    /// Lets the process end by itself for a moment, and judges its answer.
    fn close(&mut self) -> Ended {
        self.stdin = None;
        self.has_ended_within(END_TIME);
        self.hear_noise();
        self.end();
        if memory_bytes(&self.answer) > ANSWER_MEMORY_BYTES_MAX {
            return Ended::TooMany(ANSWER_MEMORY_BYTES_MAX);
        }
        let parsed = serde_json::from_slice(&self.answer);
        match parsed {
            Ok(result) => Ended::Answered(result),
            Err(error) => {
                let noise = String::from_utf8_lossy(&self.noise).trim().to_owned();
                let how = self.ended.map_or_else(|| "it vanished".to_owned(), how);
                let how =
                    if self.answer.is_empty() { how } else { format!("what it wrote is no result ({error}); {how}") };
                Ended::Died { how, noise }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns about how much memory the values of a JSON text take at most.
fn memory_bytes(json: &[u8]) -> usize {
    let mut bytes = json.len();
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in json {
        match (is_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (true, b'"') => is_text = false,
            (false, b'"') => {
                is_text = true;
                bytes += 32;
            }
            // An object has room for eleven fields from the first on, a list for four values.
            (false, b'{') => bytes += 640,
            (false, b'[') => bytes += 160,
            (false, b',') => bytes += 96,
            _ => {}
        }
    }
    bytes
}

fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("it was killed by signal {signal}"),
        (None, code) => format!("its exit code was {}", code.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_values_weigh_more_than_their_text_and_text_weighs_itself() {
        for (unit, at_least) in [("{\"\":0},", 640), ("[0],", 160), ("0,", 32)] {
            let json = format!("[{}0]", unit.repeat(1000));
            assert!(memory_bytes(json.as_bytes()) >= 1000 * at_least, "{unit}");
        }
        let text = serde_json::to_string(&format!("{{[,\"\\{}", "{".repeat(10_000))).unwrap();
        assert!(memory_bytes(text.as_bytes()) < 10_100);
        // The greatest answer an agent takes of a search: each file with its fields.
        let file = serde_json::json!({"file": "/usr/share/doc/x/changelog.Debian.gz", "search": {"name": ["x"]},
            "fileinfo": {"size": 1234.0, "mode": "-rw-r--r--", "lastmodified": "2026-11-20 13:39:47 +0000 UTC"}});
        let json = format!("[{}0]", format!("{file},").repeat(MODULE_OUTPUT_BYTES_MAX / 2 / file.to_string().len()));
        assert!(memory_bytes(json.as_bytes()) < ANSWER_MEMORY_BYTES_MAX, "{}", memory_bytes(json.as_bytes()));
    }
}
