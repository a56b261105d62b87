//! agentdestroy: ends another agent of this machine, and removes its program when it is of the version meant.
//!
//! Stays true: the agent that asks is never ended; the process that is ended is the one that was looked at, also when
//! its number has been given to another meanwhile. The program that is asked for its version and removed is the very file
//! that this process runs, and only one that nobody but root or the agent's own user could have written: whoever gets the
//! number of an agent that has ended gets no program of theirs run.

use crate::arguments::{ArgumentError, Flag, Given};
use crate::gotext;
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, openat, openat2, statat, unlinkat};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) struct Agentdestroy;

/// The greatest number a process can have.
const PID_MAX: i64 = 4_194_304;
/// Bytes of a program's version that are read.
const VERSION_BYTES_MAX: u64 = 4096;
/// The user and group that own nothing.
const NOBODY: u32 = 65_534;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    pid: i64,
    version: String,
}

impl Typed for Agentdestroy {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "agentdestroy",
        summary: "ends another agent of the machine and removes its program",
        weight_min: 2,
        effect: Effect::Changes,
        privilege: Privilege::Agent,
        needs: Needs::ANYTHING,
    };
    const EXAMPLE: &'static str = "-pid 1234 -version 1.2.0";
    const FLAGS: &'static [Flag] = &[
        Flag::number("pid", "the process of the agent to end"),
        Flag::text("version", "TEXT", "the version of the agent to end, as the list of agents shows it"),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        if given.text("pid").is_none() {
            let why = "-pid is required: the process of the agent to end".to_owned();
            return Err(ArgumentError::Refused { module: Self::INFO.name, why });
        }
        #[expect(clippy::cast_possible_truncation, reason = "a cast saturates, and the range is checked")]
        let pid = given.number("pid", 0.0) as i64;
        Ok(Parameters { pid, version: given.text("version").unwrap_or_default() })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        // MIG ends at 65535, which was the greatest number of a process; the message stays known.
        if !(2..=PID_MAX).contains(&parameters.pid) {
            return Err(Refused(format!("PID '{}' is not in the range [2:65535]", parameters.pid)));
        }
        if parameters.version.is_empty() {
            return Err(Refused("parameter 'version' is empty. Expecting version.".to_owned()));
        }
        Ok(())
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let Parameters { pid, version } = parameters;
        let asker = context.asker.as_ref();
        let own = i64::from(std::process::id());
        if pid == own || asker.is_some_and(|asker| i64::from(asker.pid) == pid) {
            return Err(Refused(format!("PID '{pid}' is mine. Refusing to suicide.")));
        }
        let not_found = |why| Refused(format!("Executable path of PID '{pid}' not found: '{why}'"));
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| not_found("no number".into()))?;
        // Held from here on: what is looked at below is what is ended.
        let held =
            pidfd_open(process, PidfdFlags::empty()).map_err(|error| not_found(gotext::reason(&error.into())))?;
        let program = Program::of(pid, &held).map_err(|error| not_found(gotext::reason(&error)))?;
        let mut errors = Vec::new();
        let mut removed = String::new();
        if asker.is_some_and(|asker| asker.executable == program.path) {
            errors.push("Executable not removed because current agent uses it as well".to_owned());
        } else {
            program.ownership_check()?;
            program.version_check(&version)?;
            program.remove()?;
            removed = format!(" and its executable removed from {}", program.path.display());
        }
        pidfd_send_signal(&held, Signal::KILL).map_err(|error| {
            Refused(format!("PID '{pid}' not killed. Returned error '{}'", gotext::reason(&error.into())))
        })?;
        let text = format!("PID {pid} from agent {version} has been killed{removed}");
        Ok(ModuleResult::ran(false, text, ()).with_errors(errors))
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        let mut out: Vec<_> = result.elements.as_str().map(str::to_owned).into_iter().collect();
        if lines == Lines::Found {
            return out;
        }
        out.extend(result.errors().iter().map(|error| format!("[error] {error}")));
        let ended = if result.success { "succeeded" } else { "failed" };
        out.push(format!("agentdestroy module has {ended}"));
        out
    }
}

/// The program that a process runs: the file itself, and where it was when the process began.
struct Program {
    file: File,
    path: PathBuf,
}

impl Program {
    /// Returns the program of the process that is held.
    fn of(pid: i64, held: &OwnedFd) -> io::Result<Self> {
        let link = format!("/proc/{pid}/exe");
        let program = Self { file: File::open(&link)?, path: std::fs::read_link(&link)? };
        // As long as the process lives nobody else has its number, so what was opened is its own.
        let now = Timespec::default();
        if poll(&mut [PollFd::new(held, PollFlags::IN)], Some(&now))? > 0 {
            return Err(rustix::io::Errno::SRCH.into());
        }
        Ok(program)
    }

    /// Makes sure that nobody but root, or the user the agent runs as, could have written the program.
    fn ownership_check(&self) -> Result<(), Refused> {
        let shown = self.path.display();
        let failed = |error: io::Error| Refused(format!("Failed to look at executable '{shown}': {error}"));
        let metadata = self.file.metadata().map_err(failed)?;
        let is_ours = [0, geteuid().as_raw()].contains(&metadata.uid());
        if metadata.is_file() && is_ours && metadata.mode() & 0o022 == 0 {
            return Ok(());
        }
        Err(Refused(format!(
            "Executable '{shown}' is not run: it must be a file of root or of the agent's user that nobody else can write"
        )))
    }

    /// Asks the program for its version.
    fn version_check(&self, want: &str) -> Result<(), Refused> {
        let failed = |error: io::Error| Refused(format!("Failed to check agent version: '{}'", gotext::reason(&error)));
        let anybody_may_run_it = self.file.metadata().map_err(failed)?.mode() & 0o001 != 0;
        // By the file that was looked at, not by a name that could mean another one by now.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0(&self.path).arg("-V").stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
        if geteuid().is_root() && anybody_may_run_it {
            // Telling a version takes no privileges. The groups are left with the user.
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn().map_err(failed)?;
        let stdout = child.stdout.take().expect("the stream was asked for as a pipe");
        let mut have = String::new();
        let read = stdout.take(VERSION_BYTES_MAX).read_to_string(&mut have);
        child.wait().map_err(failed)?;
        read.map_err(failed)?;
        let have = have.trim_end();
        if is_version(have, want) {
            Ok(())
        } else {
            Err(Refused(format!("Version mismatch. Expected '{want}', found '{have}'")))
        }
    }

    /// Removes the program's name, if it still is the program's.
    fn remove(&self) -> Result<(), Refused> {
        let failed = |error: io::Error| {
            let shown = self.path.display();
            Refused(format!("Failed to remove executable '{shown}': '{}'", gotext::reason(&error)))
        };
        let removed = || {
            let no_name = || io::Error::from(io::ErrorKind::NotFound);
            let (parent, name) = (self.path.parent().ok_or_else(no_name)?, self.path.file_name().ok_or_else(no_name)?);
            // The directory is held, so that no other can take its place between the look and the removal.
            let directory = open_directory(parent)?;
            let (there, ours) = (statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?, rustix::fs::fstat(&self.file)?);
            if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) {
                return Err(io::Error::other("another file has its name by now"));
            }
            Ok(unlinkat(directory.as_fd(), name, AtFlags::empty())?)
        };
        removed().map_err(failed)
    }
}

/// Tells whether what a program says of itself means this version: all of it, or a word of its first line, as inventories
/// have it without the program's name.
fn is_version(told: &str, want: &str) -> bool {
    told == want || told.lines().next().is_some_and(|line| line.split_whitespace().skip(1).any(|word| word == want))
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // A kernel before 5.6.
        Err(rustix::io::Errno::NOSYS) => Ok(openat(CWD, path, flags | OFlags::NOFOLLOW, Mode::empty())?),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::{Asker, Module as _};
    use crate::modules::testing::{context, fixture};
    use serde_json::json;
    use std::os::unix::process::ExitStatusExt as _;

    fn destroy(pid: u32, version: &str, asker: Option<Asker>) -> ModuleResult {
        let context = Context { asker, ..context(Path::new("/")) };
        Agentdestroy.run(&json!({"pid": pid, "version": version}), &context)
    }

    #[test]
    fn numbers_that_no_agent_has_are_refused_in_migs_words() {
        assert_eq!(destroy(1, "x", None), fixture("agentdestroy_invalid"));
        assert_eq!(destroy(2, "", None).errors(), ["parameter 'version' is empty. Expecting version."]);
    }

    #[test]
    fn the_agent_that_asks_is_not_ended() {
        let own = std::process::id();
        let want = format!("PID '{own}' is mine. Refusing to suicide.");
        assert_eq!(destroy(own, "x", None).errors(), std::slice::from_ref(&want));
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        let asker = Asker { pid: i32::try_from(other.id()).unwrap(), executable: "/nonexistent".into() };
        assert!(destroy(other.id(), "x", Some(asker)).errors()[0].ends_with("Refusing to suicide."));
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_program_of_another_version_stays_with_its_process() {
        let (_dir, program) = agent();
        let mut other = Command::new(&program).arg("1000").spawn().unwrap();
        let result = destroy(other.id(), "1.0", None);
        assert!(result.errors()[0].starts_with("Version mismatch. Expected '1.0', found '"), "{result:?}");
        assert!(program.exists() && other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn another_agent_is_ended_and_its_program_removed() {
        let (_dir, program) = agent();
        // `sleep -V` tells no version: it ends with nothing on standard output, which is what is expected here.
        let mut other = Command::new(&program).arg("1000").spawn().unwrap();
        let same = Asker { pid: 2, executable: program.clone() };
        let result = destroy(other.id(), "1.0", Some(same));
        assert!(result.success, "{result:?}");
        assert_eq!(result.errors(), ["Executable not removed because current agent uses it as well"]);
        assert_eq!(result.elements, json!(format!("PID {} from agent 1.0 has been killed", other.id())));
        assert_eq!(other.wait().unwrap().signal(), Some(9));
        assert!(program.exists());
    }

    /// A program that tells a version with `-V`, and runs as long as its input is open.
    fn versioned() -> (tempfile::TempDir, PathBuf, std::process::Child, String) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("agent");
        std::fs::copy("/bin/gzip", &program).unwrap();
        let told = Command::new(&program).arg("-V").output().unwrap().stdout;
        let child = Command::new(&program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        (dir, program, child, String::from_utf8(told).unwrap().trim_end().to_owned())
    }

    #[test]
    fn an_agent_of_the_version_meant_is_ended_and_removed() {
        let (_dir, program, mut other, version) = versioned();
        assert!(!version.is_empty());
        let result = destroy(other.id(), &version, None);
        assert!(result.success && result.errors().is_empty(), "{result:?}");
        let removed = format!("and its executable removed from {}", program.display());
        assert!(result.elements.as_str().unwrap().ends_with(&removed), "{result:?}");
        assert_eq!(other.wait().unwrap().signal(), Some(9));
        assert!(!program.exists());
    }

    #[test]
    fn a_version_is_taken_as_inventories_show_it() {
        let told = "muster-agent 0.1.0 (0b4e9bc)\nbuilt 2026";
        for want in [told, "0.1.0"] {
            assert!(is_version(told, want), "{want}");
        }
        for want in ["muster-agent", "0.1", "0.1.0.1", "built", "2026", ""] {
            assert!(!is_version(told, want), "{want}");
        }
        let (_dir, program, mut other, version) = versioned();
        let number = version.lines().next().unwrap().split(' ').nth(1).unwrap();
        let result = destroy(other.id(), number, None);
        assert!(result.success && !program.exists(), "{result:?}");
        other.wait().unwrap();
    }

    #[test]
    fn a_program_that_others_could_have_written_is_neither_run_nor_removed() {
        let (_dir, program, mut other, version) = versioned();
        for mode in [0o775, 0o757, 0o777] {
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            let result = destroy(other.id(), &version, None);
            assert!(result.errors()[0].contains("is not run: it must be a file of root"), "{result:?}");
        }
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&program, Some(NOBODY), None).unwrap();
            assert!(destroy(other.id(), &version, None).errors()[0].contains("is not run"));
        }
        assert!(program.exists() && other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_file_that_took_the_programs_name_is_neither_asked_nor_removed() {
        let (_dir, program, mut other, version) = versioned();
        std::fs::rename(&program, program.with_file_name("moved")).unwrap();
        let held = pidfd_open(Pid::from_child(&other), PidfdFlags::empty()).unwrap();
        let mut looked = Program::of(other.id().into(), &held).unwrap();
        looked.path = program.clone();
        std::fs::write(&program, "#!/bin/sh\necho another\n").unwrap();
        looked.version_check(&version).unwrap();
        assert!(looked.remove().unwrap_err().0.ends_with("'another file has its name by now'"));
        assert!(program.exists());
        other.kill().unwrap();
        other.wait().unwrap();
        // An ended process has no program any more, whoever has its number.
        assert!(Program::of(std::process::id().into(), &held).is_err());
    }

    /// A program that runs until it is ended.
    fn agent() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("agent");
        std::fs::copy("/bin/sleep", &program).unwrap();
        (dir, program)
    }
}
