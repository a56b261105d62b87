//! process: which processes run, by name, program, command line, user or number.
//!
//! Stays true: command lines are told only when asked for, because they hold secrets; a process that ends while it is
//! looked at is left out; names and command lines are searched whatever bytes they have; processes that could not be
//! looked at are counted.

mod look;

pub(super) use look::is_kernels_at;

use super::list::{Wanted, at_most, shown};
use crate::arguments::{ArgumentError, Flag, Given};
use crate::gotext;
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::reading;
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use look::{Exe, Running, look_all};
use muster_core::Timestamp;
use muster_core::limits::SEARCH_VALUES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) struct Process;

/// Bytes of a command line that are returned; more of it is searched.
const CMDLINE_BYTES_MAX: usize = 4096;
/// How often the processes are listed.
const ROUNDS: usize = 2;

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
        needs: Needs::PROCESSES,
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
        let mut errors = Vec::new();
        let mut search = Search::new(&parameters, context, &mut errors)?;
        let mut is_whole = true;
        let mut seen = BTreeSet::new();
        // Looked at again for those that began meanwhile: one may flee from process to process.
        for _ in 0..ROUNDS {
            context.progress.doing(|| "listing the processes".to_owned());
            let new: Vec<_> = directories(context)?.into_iter().filter(|path| seen.insert(path.clone())).collect();
            is_whole &= look_all(new, &context.stop, |directory, looked| match looked {
                Ok(Some(running)) => search.see(&running),
                Ok(None) => search.unread.gone += 1,
                Err(error) => search.unread.failed(directory, &error),
            });
        }
        if !is_whole {
            errors.push("the search was stopped before its end".to_owned());
        }
        let Search { mut processes, examined, unread, .. } = search;
        unread.report(&parameters, &mut errors);
        let cuts = at_most(&mut processes).into_iter().chain(unread.cuts());
        let statistics =
            json!({"examined": examined, "gone": unread.gone, "exectime": gotext::duration(begun.elapsed())});
        let result = ModuleResult::ran(!processes.is_empty(), Elements { processes }, statistics);
        let result = result.with_cuts(cuts.collect()).with_errors(errors);
        Ok(ModuleResult { success: is_whole, ..result })
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

/// What is looked for, and what was found.
struct Search<'a> {
    parameters: &'a Parameters,
    names: Wanted,
    exes: Wanted,
    cmdlines: Wanted,
    users: Wanted,
    accounts: BTreeMap<u32, String>,
    booted: Option<Timestamp>,
    processes: Vec<Found>,
    examined: u64,
    unread: Unread,
}

impl<'a> Search<'a> {
    fn new(parameters: &'a Parameters, context: &Context, errors: &mut Vec<String>) -> Result<Self, Refused> {
        Ok(Self {
            parameters,
            names: Wanted::new(&parameters.names)?,
            exes: Wanted::new(&parameters.exes)?,
            cmdlines: Wanted::new(&parameters.cmdlines)?,
            users: Wanted::new(&parameters.users)?,
            accounts: accounts(context, errors),
            booted: booted(context, errors),
            processes: Vec::new(),
            examined: 0,
            unread: Unread::default(),
        })
    }

    fn see(&mut self, running: &Running) {
        let asked = self.parameters;
        self.examined += 1;
        let (exe, deleted) = match &running.exe {
            Exe::At { path, is_deleted } => (&path[..], *is_deleted),
            Exe::None | Exe::Hidden => (&[][..], false),
        };
        self.unread.exes += u64::from(running.exe == Exe::Hidden);
        self.unread.cmdlines += u64::from(running.cmdline.is_none());
        let user = self.accounts.get(&running.uid).cloned().unwrap_or_else(|| running.uid.to_string());
        let wanted = self.names.wants_bytes(&running.name)
            && self.exes.wants_bytes(exe)
            && self.cmdlines.wants_bytes(running.cmdline.as_deref().unwrap_or_default())
            && (self.users.wants(&user) || self.users.wants(&running.uid.to_string()))
            && (asked.pids.is_empty() || asked.pids.contains(&running.pid))
            && (deleted || !asked.deleted);
        if wanted {
            let cmdline = running.cmdline.as_deref().filter(|_| asked.returncmdline).unwrap_or_default();
            self.unread.long += u64::from(cmdline.len() > CMDLINE_BYTES_MAX);
            let cmdline = shown(&cmdline[..cmdline.len().min(CMDLINE_BYTES_MAX)]).into_owned();
            let exe = shown(exe).into_owned();
            self.processes.push(Found { exe, cmdline, user, deleted, ..Found::of(running, self.booted) });
        }
    }
}

/// What could not be read of processes.
#[derive(Debug, Default)]
struct Unread {
    /// Processes of which nothing is known, and why of the first.
    processes: u64,
    first: String,
    /// Processes whose program is not known.
    exes: u64,
    /// Processes whose command line is not known.
    cmdlines: u64,
    /// Processes whose command line is longer than what is returned of one.
    long: u64,
    /// Processes that ended before they were looked at.
    gone: u64,
}

impl Unread {
    fn failed(&mut self, directory: &Path, error: &io::Error) {
        if self.processes == 0 {
            self.first = format!("{}: {}", directory.display(), gotext::reason(error));
        }
        self.processes += 1;
    }

    fn cuts(&self) -> Option<String> {
        let long = self.long;
        (long > 0).then(|| format!("{long} command lines were cut to {CMDLINE_BYTES_MAX} bytes"))
    }

    /// Says what was asked about and could not be read.
    fn report(&self, asked: &Parameters, errors: &mut Vec<String>) {
        let &Self { processes, ref first, exes, cmdlines, .. } = self;
        if processes > 0 {
            errors.push(format!("{processes} processes could not be looked at, the first of them {first}"));
        }
        if exes > 0 && (asked.deleted || !asked.exes.is_empty()) {
            errors.push(format!(
                "{exes} processes did not let their program be read, and may be others that were asked for"
            ));
        }
        if cmdlines > 0 && (asked.returncmdline || !asked.cmdlines.is_empty()) {
            errors.push(format!(
                "{cmdlines} processes did not let their command line be read, and may be others that were asked for"
            ));
        }
    }
}

impl Found {
    /// Returns what everybody may know of a process.
    fn of(running: &Running, booted: Option<Timestamp>) -> Self {
        let ticks = procfs::ticks_per_second().max(1);
        let after_boot = Duration::from_millis(running.start_ticks.saturating_mul(1000) / ticks);
        let page_bytes = procfs::page_size();
        Self {
            pid: running.pid,
            ppid: running.ppid,
            name: shown(&running.name).into_owned(),
            uid: running.uid,
            starttime: booted.map(|booted| booted.plus(after_boot).to_string()).unwrap_or_default(),
            memory_bytes: running.memory_pages.saturating_mul(page_bytes),
            ..Self::default()
        }
    }

    fn line(&self) -> String {
        let Self { pid, ppid, name, exe, user, starttime, .. } = self;
        let deleted = if self.deleted { " (deleted)" } else { "" };
        let line = format!("{name} [pid:{pid}, ppid:{ppid}, user:{user}, exe:{exe}{deleted}, started:{starttime}]");
        if self.cmdline.is_empty() { line } else { format!("{line} {}", self.cmdline) }
    }
}

/// Returns the directories of all processes, in the order of their numbers.
fn directories(context: &Context) -> Result<Vec<PathBuf>, Refused> {
    let table = context.path("/proc");
    let entries = std::fs::read_dir(&table).map_err(|error| Refused(reading::open_error(&table, &error)))?;
    let mut numbers: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers.iter().map(|number| table.join(number.to_string())).collect())
}

fn accounts(context: &Context, errors: &mut Vec<String>) -> BTreeMap<u32, String> {
    let path = context.path("/etc/passwd");
    let text = reading::text(&path).unwrap_or_else(|error| {
        // Users keep their numbers then.
        errors.push(reading::open_error(&path, &error));
        String::new()
    });
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

fn booted(context: &Context, errors: &mut Vec<String>) -> Option<Timestamp> {
    let path = context.path("/proc/stat");
    let seconds = reading::text(&path).ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
        line.trim().parse().ok()
    });
    if seconds.is_none() {
        errors.push(format!("{}: it does not say when the machine started", path.display()));
    }
    seconds.map(Timestamp::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Module as _;
    use crate::modules::testing::context;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command};

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

    #[test]
    fn a_long_command_line_is_searched_whole_and_returned_in_part() {
        let word = format!("{}needle", "x".repeat(20_000));
        let mut child =
            Command::new("sh").args(["-c", "read x", &word]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let result = run(&json!({"pids": [child.id()], "cmdlines": ["needle$"], "returncmdline": true}));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(result.elements["processes"][0]["cmdline"].as_str().unwrap().len(), CMDLINE_BYTES_MAX);
        let cut = format!("1 command lines were cut to {CMDLINE_BYTES_MAX} bytes");
        assert!(result.errors().contains(&cut) && result.statistics["cut"] == json!([cut]), "{:?}", result.errors());
    }

    /// A sleeping process, which ends with this value.
    struct Sleeper(Child);

    impl Sleeper {
        /// `word` is the first of its command line.
        fn start(program: &Path, word: &[u8]) -> Self {
            let mut command = Command::new(program);
            Self(command.arg0(OsStr::from_bytes(word)).arg("1000").spawn().unwrap())
        }

        fn found(&self, mut parameters: serde_json::Value) -> Option<serde_json::Value> {
            parameters["pids"] = json!([self.0.id()]);
            parameters["returncmdline"] = json!(true);
            run(&parameters).elements["processes"].get(0).cloned()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Starts a copy of `sleep` of this name.
    fn copy(dir: &Path, name: &[u8]) -> (PathBuf, Sleeper) {
        let program = dir.join(OsStr::from_bytes(name));
        std::fs::copy("/bin/sleep", &program).unwrap();
        let sleeper = Sleeper::start(&program, program.as_os_str().as_bytes());
        (program, sleeper)
    }

    #[test]
    fn case_06_command_lines_are_searched_as_bytes() {
        let evil = Sleeper::start(Path::new("/bin/sleep"), b"evil-\xe9");
        for (expression, want) in
            [("^evil", true), ("^evil-.", true), ("\\xe9", true), ("!evil", false), ("^vil", false)]
        {
            assert_eq!(evil.found(json!({"cmdlines": [expression]})).is_some(), want, "{expression}");
        }
        assert_eq!(evil.found(json!({})).unwrap()["cmdline"], json!("evil-\u{fffd} 1000"));
        let empty = Sleeper::start(Path::new("/bin/sleep"), b"");
        assert_eq!(empty.found(json!({"cmdlines": ["^ "]})).unwrap()["cmdline"], json!(" 1000"));
    }

    #[test]
    fn case_06_a_name_that_ends_like_the_mark_of_a_removed_program_is_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let (honest, there) = copy(dir.path(), b"honest (deleted)");
        let found = there.found(json!({})).unwrap();
        assert_eq!((&found["exe"], &found["deleted"]), (&json!(honest.to_str()), &json!(false)));
        assert_eq!(there.found(json!({"deleted": true})), None);
        let ((plain, one), (marked, other)) = (copy(dir.path(), b"gone"), copy(dir.path(), b"gone (deleted)"));
        for program in [&plain, &marked] {
            std::fs::remove_file(program).unwrap();
        }
        for (sleeper, program) in [(&one, &plain), (&other, &marked)] {
            let found = sleeper.found(json!({"deleted": true})).unwrap();
            assert_eq!((&found["exe"], &found["deleted"]), (&json!(program.to_str()), &json!(true)));
        }
        // Another file at the place of the one that runs is not the one that runs.
        let (replaced, sleeper) = copy(dir.path(), b"new (deleted)");
        std::fs::rename(&honest, &replaced).unwrap();
        assert_eq!(sleeper.found(json!({})).unwrap()["deleted"], json!(true));
    }

    #[test]
    fn case_06_names_with_odd_letters_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for (name, expression) in [
            (&b" lead"[..], "^ lead$"),
            (b") R 1 1 (x", "^\\) R 1 1 \\(x$"),
            (b"two\nlines", "^two\nlines$"),
            (b"latin\xe9", "^latin.$"),
            (b"esc\x1b[31mred", "31mred$"),
        ] {
            let (_, sleeper) = copy(dir.path(), name);
            assert!(sleeper.found(json!({"names": [expression]})).is_some(), "{expression}");
            assert!(sleeper.found(json!({"exes": [expression.trim_start_matches('^')]})).is_some(), "{expression}");
        }
    }

    #[test]
    fn what_cannot_be_looked_at_is_counted_and_the_rest_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let process = |number: &str, stat: &str| {
            let directory = dir.path().join("proc").join(number);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("stat"), stat).unwrap();
            std::fs::write(directory.join("status"), "Name:\tx\nUid:\t7\t0\t0\t0\n").unwrap();
            std::fs::write(directory.join("cmdline"), "x\0").unwrap();
        };
        process("5", "5 (x) S 1 2 3 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 1234 9 77 1");
        process("6", "6 (x");
        let result = Process.run(&json!({"names": ["x"]}), &context(dir.path()));
        assert_eq!(result.elements["processes"].as_array().unwrap().len(), 1, "{result:?}");
        assert_eq!(
            (&result.elements["processes"][0]["uid"], &result.elements["processes"][0]["starttime"]),
            (&json!(7), &json!(""))
        );
        assert!(result.errors()[2].starts_with("1 processes could not be looked at, the first of them "), "{result:?}");
    }
}
