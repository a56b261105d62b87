//! agentdestroy: ends another agent of this machine, and removes its program when it is of the version meant.
//!
//! Stays true: the agent that asks is never ended; the process that is ended is the one that was looked at, also when
//! its number has been given to another meanwhile.

use crate::arguments::{ArgumentError, Flag, Given};
use crate::gotext;
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::result::ModuleResult;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

pub(crate) struct Agentdestroy;

/// The greatest number a process can have.
const PID_MAX: i64 = 4_194_304;
/// Bytes of a program's version that are read.
const VERSION_BYTES_MAX: u64 = 4096;

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
    };
    const EXAMPLE: &'static str = "-pid 1234 -version 1.2.0";
    const FLAGS: &'static [Flag] = &[
        Flag::number("pid", "the process of the agent to end"),
        Flag::text("version", "TEXT", "the version of the agent to end, as its program tells with -V"),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
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
        let link = format!("/proc/{pid}/exe");
        let executable = std::fs::read_link(&link).map_err(|error| not_found(gotext::reason(&error)))?;
        let mut errors = Vec::new();
        let mut removed = String::new();
        if asker.is_some_and(|asker| asker.executable == executable) {
            errors.push("Executable not removed because current agent uses it as well".to_owned());
        } else {
            remove(&executable, &version)?;
            removed = format!(" and its executable removed from {}", executable.display());
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

fn remove(executable: &Path, want: &str) -> Result<(), Refused> {
    let failed =
        |error: std::io::Error| Refused(format!("Failed to check agent version: '{}'", gotext::reason(&error)));
    let mut command = Command::new(executable);
    command.arg("-V").stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let stdout = child.stdout.take().expect("the stream was asked for as a pipe");
    let mut have = String::new();
    let read = stdout.take(VERSION_BYTES_MAX).read_to_string(&mut have);
    child.wait().map_err(failed)?;
    read.map_err(failed)?;
    let have = have.trim_end();
    if have != want {
        return Err(Refused(format!("Version mismatch. Expected '{want}', found '{have}'")));
    }
    std::fs::remove_file(executable).map_err(|error| {
        let shown = executable.display();
        Refused(format!("Failed to remove executable '{shown}': '{}'", gotext::reason(&error)))
    })
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
        let script = program.with_file_name("versioned");
        std::fs::write(&script, "#!/bin/sh\necho 2.0\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        assert!(remove(&script, "1.0").unwrap_err().0.contains("found '2.0'"));
        remove(&script, "2.0").unwrap();
        assert!(!script.exists());
    }

    /// A program that runs until it is ended.
    fn agent() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("agent");
        std::fs::copy("/bin/sleep", &program).unwrap();
        (dir, program)
    }
}
