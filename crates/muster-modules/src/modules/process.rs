//! process: which processes run, by name, program, command line, user or number.
//!
//! Stays true: command lines are told only when asked for, because they hold secrets; a process that ends while it is
//! looked at is left out.

use super::list::{Wanted, at_most};
use crate::arguments::{ArgumentError, Flag, Given};
use crate::gotext;
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::reading;
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use muster_core::Timestamp;
use muster_core::limits::SEARCH_VALUES_MAX;
use procfs::process::{Process as Running, all_processes_with_root};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(crate) struct Process;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Parameters {
    names: Vec<String>,
    exes: Vec<String>,
    cmdlines: Vec<String>,
    users: Vec<String>,
    pids: Vec<i32>,
    /// Only processes whose program is no longer on the disk.
    deleted: bool,
    returncmdline: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Elements {
    processes: Vec<Found>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Found {
    pid: i32,
    ppid: i32,
    name: String,
    exe: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    cmdline: String,
    uid: u32,
    user: String,
    starttime: String,
    memory_bytes: u64,
    deleted: bool,
}

impl Typed for Process {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "process",
        summary: "running processes by name, program, command line or user",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::ReadProcesses,
        needs: Needs::SYSTEM,
    };
    const EXAMPLE: &'static str = "-name '^sshd$'";
    const FLAGS: &'static [Flag] = &[
        Flag::texts("name", "REGEX", "the process's name matches; !REGEX: it does not"),
        Flag::texts("exe", "REGEX", "the path of its program matches"),
        Flag::texts("cmdline", "REGEX", "its command line matches"),
        Flag::texts("user", "REGEX", "its user's name or number matches"),
        Flag::texts("pid", "N", "its number"),
        Flag::switch("deleted", "only processes whose program is no longer on the disk"),
        Flag::switch("returncmdline", "return the command lines, which may hold secrets"),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        let [names, exes, cmdlines, users] = ["name", "exe", "cmdline", "user"].map(|flag| given.texts(flag));
        let number = |text: String| {
            text.parse().map_err(|_| ArgumentError::WrongValue { flag: "pid", wants: "a number", given: text })
        };
        let pids = given.texts("pid").into_iter().map(number).collect::<Result<_, _>>()?;
        let (deleted, returncmdline) = (given.is_on("deleted"), given.is_on("returncmdline"));
        Ok(Parameters { names, exes, cmdlines, users, pids, deleted, returncmdline })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        let Parameters { names, exes, cmdlines, users, pids, .. } = parameters;
        if pids.len() > SEARCH_VALUES_MAX {
            return Err(Refused(format!("there are more than {SEARCH_VALUES_MAX} values of one kind")));
        }
        [names, exes, cmdlines, users].into_iter().try_for_each(|list| Wanted::new(list).map(drop))
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let begun = Instant::now();
        let (names, exes) = (Wanted::new(&parameters.names)?, Wanted::new(&parameters.exes)?);
        let (cmdlines, users) = (Wanted::new(&parameters.cmdlines)?, Wanted::new(&parameters.users)?);
        let accounts = accounts(context);
        let booted = booted(context);
        let table = context.path("/proc");
        let running = all_processes_with_root(&table).map_err(|error| Refused(error.to_string()))?;
        let (mut processes, mut errors, mut examined) = (Vec::new(), Vec::new(), 0_u64);
        for process in running {
            if context.stop.is_asked() {
                errors.push("the search was stopped before its end".to_owned());
                break;
            }
            let Some(mut found) = process.ok().and_then(|process| look(&process, &accounts, booted)) else { continue };
            examined += 1;
            let wanted = names.wants(&found.name)
                && exes.wants(&found.exe)
                && cmdlines.wants(&found.cmdline)
                && (users.wants(&found.user) || users.wants(&found.uid.to_string()))
                && (parameters.pids.is_empty() || parameters.pids.contains(&found.pid))
                && (found.deleted || !parameters.deleted);
            if wanted {
                if !parameters.returncmdline {
                    found.cmdline.clear();
                }
                processes.push(found);
            }
        }
        at_most(&mut processes, &mut errors);
        let statistics = json!({"examined": examined, "exectime": gotext::duration(begun.elapsed())});
        Ok(ModuleResult::ran(!processes.is_empty(), Elements { processes }, statistics).with_errors(errors))
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let mut out: Vec<_> = elements.processes.iter().map(Found::line).collect();
        if lines == Lines::All {
            out.extend(result.errors().iter().cloned());
            let examined = &result.statistics["examined"];
            let time = result.statistics["exectime"].as_str().unwrap_or_default();
            out.push(format!("Statistics: {examined} processes examined, ran in {time}."));
        }
        out
    }
}

impl Found {
    fn line(&self) -> String {
        let Self { pid, ppid, name, exe, user, starttime, .. } = self;
        let deleted = if self.deleted { " (deleted)" } else { "" };
        let line = format!("{name} [pid:{pid}, ppid:{ppid}, user:{user}, exe:{exe}{deleted}, started:{starttime}]");
        if self.cmdline.is_empty() { line } else { format!("{line} {}", self.cmdline) }
    }
}

/// Looks at one process. `None` when it ended meanwhile.
fn look(process: &Running, accounts: &BTreeMap<u32, String>, booted: Option<Timestamp>) -> Option<Found> {
    let stat = process.stat().ok()?;
    let uid = process.uid().ok()?;
    // Threads of the kernel have no program.
    let exe = process.exe().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let deleted = exe.ends_with(" (deleted)");
    let ticks = procfs::ticks_per_second().max(1);
    let after_boot = Duration::from_millis(stat.starttime.saturating_mul(1000) / ticks);
    Some(Found {
        pid: stat.pid,
        ppid: stat.ppid,
        name: stat.comm,
        exe: exe.trim_end_matches(" (deleted)").to_owned(),
        cmdline: process.cmdline().map(|words| words.join(" ")).unwrap_or_default(),
        uid,
        user: accounts.get(&uid).cloned().unwrap_or_else(|| uid.to_string()),
        starttime: booted.map(|booted| booted.plus(after_boot).to_string()).unwrap_or_default(),
        memory_bytes: stat.rss.saturating_mul(procfs::page_size()),
        deleted,
    })
}

fn accounts(context: &Context) -> BTreeMap<u32, String> {
    let text = reading::text(&context.path("/etc/passwd")).unwrap_or_default();
    let account = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
    };
    // Of several names for one number, the first counts, as everywhere.
    let mut accounts = BTreeMap::new();
    text.lines().filter_map(account).for_each(|(uid, name)| {
        accounts.entry(uid).or_insert(name);
    });
    accounts
}

fn booted(context: &Context) -> Option<Timestamp> {
    let text = reading::text(&context.path("/proc/stat")).ok()?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(Timestamp::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Module as _;
    use crate::modules::testing::context;
    use std::path::Path;
    use std::process::Command;

    fn run(parameters: &serde_json::Value) -> ModuleResult {
        Process.run(parameters, &context(Path::new("/")))
    }

    #[test]
    fn a_running_process_is_found_by_what_it_is() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        for choice in [
            json!({"names": ["^sleep$"]}),
            json!({"exes": ["/(sleep|coreutils|busybox)$"]}),
            json!({"cmdlines": ["^sleep 1000"]}),
            json!({"users": ["."]}),
        ] {
            let mut parameters = choice.clone();
            parameters["pids"] = json!([pid]);
            let result = run(&parameters);
            assert_eq!(result.elements["processes"][0]["pid"], json!(pid), "{choice}");
            assert_eq!(result.elements["processes"][0].get("cmdline"), None, "a command line is told when asked for");
        }
        let told = run(&json!({"pids": [pid], "returncmdline": true}));
        assert_eq!(told.elements["processes"][0]["cmdline"], json!("sleep 1000"));
        assert!(!run(&json!({"pids": [pid], "names": ["!^sleep$"]})).foundanything);
        assert!(!run(&json!({"pids": [pid], "deleted": true})).foundanything);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!run(&json!({"pids": [pid]})).foundanything);
    }

    #[test]
    fn a_program_that_was_removed_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("gone");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program).arg("1000").spawn().unwrap();
        std::fs::remove_file(&program).unwrap();
        let result = run(&json!({"pids": [child.id()], "deleted": true}));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(result.elements["processes"][0]["exe"], json!(program.to_str()));
        let line = &<Process as Typed>::lines(&result, Lines::All)[0];
        assert!(line.starts_with("gone [pid:") && line.contains(" (deleted), started:"), "{line}");
    }

    #[test]
    fn what_is_no_choice_is_refused() {
        assert!(Process.validate(&json!({"names": ["("]})).is_err());
        assert!(Process.validate(&json!({"pids": vec![1; 1001]})).is_err());
        let error = crate::params_from_args("process", &["-pid", "x"].map(String::from)).unwrap_err();
        assert_eq!(error.to_string(), "-pid takes a number, not \"x\"");
    }
}
