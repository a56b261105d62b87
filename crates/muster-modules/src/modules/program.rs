//! Programs of the machine that a module asks, such as rpm: found, read within limits, and ended with what they started.
//!
//! Stays true: no program is waited for longer than the module may take, nor longer than [`TIME_MAX`]; one that is ended
//! takes along whatever it started; what it wrote until then is kept, and why it was ended is said.

use crate::gotext;
use crate::module::Context;
use muster_core::limits::WHOLE_FILE_BYTES_MAX;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where programs lie that belong to a system.
const DIRECTORIES: &[&str] = &["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/run/current-system/sw/bin"];
/// How long one may take.
pub(super) const TIME_MAX: Duration = Duration::from_secs(60);
/// How long the output may stay open after the program has ended.
const LEFT_TIME: Duration = Duration::from_secs(1);
/// How often is looked whether the program has ended or the module should.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of its complaints that are kept.
const NOISE_BYTES_MAX: usize = 4096;
/// The variable by which all that a program started is known, wherever it goes.
const MARK: &str = "MUSTER_STARTED";
/// How often what was started is looked for, as some of it may be starting more.
const ROUNDS: usize = 5;

/// Programs that were started, for marks that differ.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// What a program wrote.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// What it wrote; when it failed, up to its last whole line.
    pub(super) bytes: Vec<u8>,
    /// Why that may not be all.
    pub(super) failure: Option<String>,
}

impl Said {
    fn nothing(failure: String) -> Self {
        Self { bytes: Vec::new(), failure: Some(failure) }
    }
}

/// Returns where a program lies: where systems have theirs, or where the module's own search path says.
pub(super) fn find(context: &Context, name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let given = std::env::split_paths(&path).filter(|directory| directory.is_absolute());
    let directories = DIRECTORIES.iter().map(PathBuf::from).chain(given);
    directories.map(|directory| context.path(directory).join(name)).find(|program| program.is_file())
}

/// Starts a program and reads what it writes.
pub(super) fn ask(program: &Path, arguments: &[&str], context: &Context) -> Said {
    if context.stop.is_asked() {
        return Said::nothing("it was not asked, because the time was over".to_owned());
    }
    context.progress.doing(|| format!("waiting for {} {}", program.display(), arguments.join(" ")));
    let mark = format!("{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
    let mut command = Command::new(program);
    command.args(arguments).env(MARK, &mark).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.spawn() {
        Err(error) => Said::nothing(gotext::reason(&error)),
        Ok(child) => Asked { child, mark, ended: None, bytes: Vec::new(), noise: Vec::new() }.hear(context),
    }
}

/// A program that was started. It ends with this value, with all that it started.
struct Asked {
    child: Child,
    mark: String,
    ended: Option<ExitStatus>,
    bytes: Vec<u8>,
    noise: Vec<u8>,
}

impl Asked {
    fn hear(mut self, context: &Context) -> Said {
        let taken = "the stream was asked for as a pipe";
        let streams = (self.child.stdout.take().expect(taken), self.child.stderr.take().expect(taken));
        let failure = self.listen(streams, context).err().or_else(|| self.complaint());
        let mut bytes = std::mem::take(&mut self.bytes);
        if failure.is_some() {
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            bytes.truncate(whole);
        }
        Said { bytes, failure }
    }

    /// Reads until the program has ended and wrote all.
    fn listen(&mut self, (stdout, stderr): (ChildStdout, ChildStderr), context: &Context) -> Result<(), String> {
        let set = |error: rustix::io::Errno| gotext::reason(&error.into());
        fcntl_setfl(&stdout, OFlags::NONBLOCK).and_then(|()| fcntl_setfl(&stderr, OFlags::NONBLOCK)).map_err(set)?;
        let (mut stdout, mut stderr) = (Some(stdout), Some(stderr));
        let begun = Instant::now();
        let mut gone: Option<Instant> = None;
        loop {
            read(&mut stdout, &mut self.bytes).map_err(|error| gotext::reason(&error))?;
            // What it complains of explains how it ended, and nothing else.
            let _ = read(&mut stderr, &mut self.noise);
            self.noise.truncate(NOISE_BYTES_MAX);
            if self.bytes.len() as u64 > WHOLE_FILE_BYTES_MAX {
                return Err(format!("it wrote more than {WHOLE_FILE_BYTES_MAX} bytes and was ended"));
            }
            if self.ended.is_none() {
                self.ended = self.child.try_wait().map_err(|error| gotext::reason(&error))?;
            }
            if self.ended.is_some() {
                let gone = *gone.get_or_insert_with(Instant::now);
                // A process that it left may hold the stream open for ever. All of the program's own is read by then.
                if stdout.is_none() || gone.elapsed() >= LEFT_TIME {
                    return Ok(());
                }
            }
            let time =
                gotext::duration(Duration::from_millis(u64::try_from(begun.elapsed().as_millis()).unwrap_or_default()));
            if context.stop.is_asked() {
                return Err(format!("it had not ended after {time}, when the time was over, and was ended"));
            }
            if begun.elapsed() >= TIME_MAX {
                return Err(format!("it had not ended after {time}, and was ended"));
            }
            wait(stdout.as_ref(), stderr.as_ref());
        }
    }

    /// Returns what a program says that ended by itself and failed.
    fn complaint(&self) -> Option<String> {
        let status = self.ended.filter(|status| !status.success())?;
        let noise = String::from_utf8_lossy(&self.noise);
        let line = noise.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
        Some(line.unwrap_or_else(|| match status.signal() {
            Some(signal) => format!("it was ended by signal {signal}"),
            None => format!("it ended with {status}"),
        }))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
        }
        end_marked(&self.mark);
        // One that the system does not let go of is not waited for.
        let begun = Instant::now();
        while self.ended.is_none() && begun.elapsed() < LEFT_TIME {
            self.ended = self.child.try_wait().ok().flatten();
            wait(None, None);
        }
    }
}

/// Reads what is there. Takes the stream away at its end.
fn read<S: Read>(stream: &mut Option<S>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(open) = stream else { return Ok(()) };
    let mut buffer = [0; 16 * 1024];
    loop {
        match open.read(&mut buffer) {
            Ok(0) => {
                *stream = None;
                return Ok(());
            }
            Ok(bytes) => into.extend_from_slice(&buffer[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        // The caller looks at the time and at the ceiling in between.
        if into.len() as u64 > WHOLE_FILE_BYTES_MAX {
            return Ok(());
        }
    }
}

/// Waits until something can be read, for a moment at most.
fn wait(stdout: Option<&ChildStdout>, stderr: Option<&ChildStderr>) {
    let mut streams: Vec<_> = stdout.map(|stream| PollFd::new(stream, PollFlags::IN)).into_iter().collect();
    streams.extend(stderr.map(|stream| PollFd::new(stream, PollFlags::IN)));
    let time = Timespec::try_from(LOOK).ok();
    // An interrupted wait is one that ended early.
    let _ = poll(&mut streams, time.as_ref());
}

/// Ends every process that was started under a mark.
fn end_marked(mark: &str) {
    let mark = format!("{MARK}={mark}");
    for _ in 0..ROUNDS {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        if numbers.filter_map(|number| end_if_marked(number, &mark)).count() == 0 {
            return;
        }
    }
}

fn end_if_marked(number: i32, mark: &str) -> Option<()> {
    let environment = format!("/proc/{number}/environ");
    let has_mark =
        || std::fs::read(&environment).is_ok_and(|e| e.split(|byte| *byte == 0).any(|v| v == mark.as_bytes()));
    if !has_mark() {
        return None;
    }
    let held = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
    // Looked at again while it is held: whoever has the number now is the one that is held, or that one is gone.
    has_mark().then(|| pidfd_send_signal(&held, Signal::KILL).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Stop;
    use crate::modules::testing::context;
    use std::os::unix::fs::PermissionsExt as _;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let program = dir.join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    fn said(text: &str, stop: Stop) -> (String, Option<String>) {
        let dir = tempfile::tempdir().unwrap();
        let context = Context { stop, ..context(dir.path()) };
        let said = ask(&script(dir.path(), text), &["a b"], &context);
        (String::from_utf8(said.bytes).unwrap(), said.failure)
    }

    /// Tells whether a process with this word in its command line is there.
    fn runs(word: &str) -> bool {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .any(|cmdline| cmdline.split(|byte| *byte == 0).any(|given| given == word.as_bytes()))
    }

    #[test]
    fn what_a_program_writes_is_read_with_how_it_ended() {
        assert_eq!(said("echo \"$1\"; printf x", Stop::default()), ("a b\nx".to_owned(), None));
        let (text, failure) = said("echo whole; printf part; echo why >&2; exit 3", Stop::default());
        assert_eq!((text.as_str(), failure.as_deref()), ("whole\n", Some("why")));
        assert_eq!(said("exit 3", Stop::default()).1.unwrap(), "it ended with exit status: 3");
        assert_eq!(said("kill -9 $$", Stop::default()).1.unwrap(), "it was ended by signal 9");
        let gone = ask(Path::new("/nonexistent/x"), &[], &context(Path::new("/")));
        assert_eq!(gone.failure.unwrap(), "no such file or directory");
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_what_it_started() {
        let begun = Instant::now();
        let (text, failure) =
            said("echo first; setsid sleep 1000.125 & sleep 1000.125", Stop::after(Duration::from_millis(500)));
        assert_eq!(text, "first\n");
        let failure = failure.unwrap();
        assert!(failure.starts_with("it had not ended after ") && failure.contains("the time was over"), "{failure}");
        assert!(begun.elapsed() < Duration::from_secs(20) && !runs("1000.125"));
        assert!(said("echo", Stop::after(Duration::ZERO)).1.unwrap().contains("was not asked"));
    }

    #[test]
    fn a_process_that_a_program_leaves_behind_is_ended_and_costs_nothing() {
        let begun = Instant::now();
        assert_eq!(said("echo all; sleep 1000.25 & exit 0", Stop::default()), ("all\n".to_owned(), None));
        assert!(begun.elapsed() < Duration::from_secs(20) && !runs("1000.25"));
    }
}
