//! services: the units of systemd, whether they run, and whether they start with the machine.
//!
//! Stays true: names are those that systemd has, without marks; an odd letter costs one letter; what systemd does not say
//! is unknown, never inactive.

use super::list::{Unread, Wanted, at_most, shown};
use super::program;
use crate::arguments::{ArgumentError, Flag, Given};
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) struct Services;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Parameters {
    names: Vec<String>,
    /// `active`, `inactive`, `failed`, …
    states: Vec<String>,
    /// `enabled`, `disabled`, `masked`, `static`, …
    enablements: Vec<String>,
}

/// The state of a unit that nothing tells of.
const UNKNOWN: &str = "unknown";

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Elements {
    units: Vec<Unit>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Unit {
    name: String,
    load: String,
    active: String,
    sub: String,
    enabled: String,
    description: String,
}

impl Typed for Services {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "services",
        summary: "units of systemd: whether they run and start with the machine",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::None,
        needs: Needs::SYSTEM_SERVICES,
    };
    const EXAMPLE: &'static str = "-name '^ssh' -state '^active$'";
    const FLAGS: &'static [Flag] = &[
        Flag::texts("name", "REGEX", "the unit's name matches, such as ^ssh; !REGEX: it does not"),
        Flag::texts("state", "REGEX", "its state matches: active, inactive, failed, ...; unknown without systemd"),
        Flag::texts("enabled", "REGEX", "how it is started matches: enabled, disabled, masked, static, ..."),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        let [names, states, enablements] = ["name", "state", "enabled"].map(|flag| given.texts(flag));
        Ok(Parameters { names, states, enablements })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        let Parameters { names, states, enablements } = parameters;
        [names, states, enablements].into_iter().try_for_each(|list| Wanted::new(list).map(drop))
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let (names, states) = (Wanted::new(&parameters.names)?, Wanted::new(&parameters.states)?);
        let enablements = Wanted::new(&parameters.enablements)?;
        let mut errors = Vec::new();
        // The place that every system has is named when none has it.
        let program = program::find(context, "systemctl").unwrap_or_else(|| context.path("/usr/bin/systemctl"));
        let mut ask = |what: &[&str]| match systemctl(&program, what, context) {
            Ok(rows) => Some(rows),
            Err(error) => {
                errors.push(format!("systemctl {}: {error}", what[0]));
                None
            }
        };
        let files = ask(&["list-unit-files"]);
        let units = ask(&["list-units", "--all"]);
        // A unit may be in either list alone: without one of them nothing found does not mean that nothing is there.
        let success = files.is_some() && units.is_some();
        let mut units: Vec<_> = merge(files.as_deref(), units.as_deref(), &program, &mut errors)
            .into_values()
            .filter(|unit| names.wants(&unit.name) && states.wants(&unit.active) && enablements.wants(&unit.enabled))
            .collect();
        let cut = at_most(&mut units);
        let result = ModuleResult::ran(!units.is_empty(), Elements { units }, ());
        let result = result.with_cuts(cut.into_iter().collect()).with_errors(errors);
        Ok(ModuleResult { success, ..result })
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let line = |unit: &Unit| {
            let Unit { name, load, active, sub, enabled, description } = unit;
            let line = format!("{name} [load:{load}, active:{active}, sub:{sub}, enabled:{enabled}] {description}");
            line.trim_end().to_owned()
        };
        let mut out: Vec<_> = elements.units.iter().map(line).collect();
        if lines == Lines::All {
            out.extend(result.errors().iter().cloned());
        }
        out
    }
}

/// One row of what systemd says, as its columns: with names where it wrote JSON, in their order where it wrote text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Row {
    Named(BTreeMap<String, String>),
    Words(Vec<String>),
}

/// Asks systemd's own program, which speaks with whichever version is there.
fn systemctl(program: &Path, what: &[&str], context: &Context) -> Result<Vec<Row>, String> {
    // A version that writes no JSON here takes the wish and writes text.
    let how = ["--full", "--plain", "--no-legend", "--no-pager", "--output=json"];
    let said = program::ask(program, &[what, &how].concat(), context);
    if let Some(failure) = said.failure {
        return Err(failure);
    }
    let text = shown(&said.bytes);
    if text.trim_start().starts_with('[') {
        return named(&text);
    }
    let words = |line: &str| Row::Words(line.split_whitespace().map(str::to_owned).collect());
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(words).collect())
}

fn named(text: &str) -> Result<Vec<Row>, String> {
    let rows: Vec<BTreeMap<String, Value>> =
        serde_json::from_str(text).map_err(|error| format!("what it wrote cannot be read: {error}"))?;
    // What is null is not known, as a column of text would say it by a dash.
    let value = |value: Value| if let Value::String(text) = value { text } else { String::new() };
    Ok(rows.into_iter().map(|row| Row::Named(row.into_iter().map(|(name, v)| (name, value(v))).collect())).collect())
}

/// What systemd may be about to do with a unit: the words of a column that is there only when a unit has such a job.
const JOBS: &[&str] =
    &["start", "verify-active", "stop", "reload", "restart", "reload-or-start", "try-restart", "try-reload", "nop"];

impl Row {
    /// Returns the unit's name and how it is started.
    fn file(&self) -> Option<(String, String)> {
        match self {
            Self::Named(row) => Some((row.get("unit_file")?.clone(), row.get("state")?.clone())),
            Self::Words(words) => {
                let words = without_mark(words);
                Some((words.first()?.clone(), words.get(1)?.clone()))
            }
        }
    }

    /// Returns the unit, but how it is started.
    fn unit(&self) -> Option<Unit> {
        let (name, load, active, sub, description) = match self {
            Self::Named(row) => {
                let field = |name: &str| row.get(name).cloned();
                let description = field("description").unwrap_or_default();
                (field("unit")?, field("load")?, field("active")?, field("sub")?, description)
            }
            Self::Words(words) => {
                let words = without_mark(words);
                let word = |at: usize| words.get(at).cloned();
                let rest = words.get(4..).unwrap_or_default();
                let rest = if rest.len() > 1 && JOBS.contains(&rest[0].as_str()) { &rest[1..] } else { rest };
                (word(0)?, word(1)?, word(2)?, word(3)?, rest.join(" "))
            }
        };
        Some(Unit { name, load, active, sub, description, ..Unit::default() })
    }
}

/// Leaves out what stands in front of a unit that is not well or is changing. No unit's name is one letter.
fn without_mark(words: &[String]) -> &[String] {
    let has_mark = words.first().is_some_and(|word| word.chars().count() == 1);
    if has_mark { &words[1..] } else { words }
}

/// Puts together what systemd says of unit files and of units; `None` when it says nothing of them.
fn merge(
    files: Option<&[Row]>,
    units: Option<&[Row]>,
    program: &Path,
    errors: &mut Vec<String>,
) -> BTreeMap<String, Unit> {
    let mut merged = BTreeMap::new();
    // A unit that systemd has not loaded does not run. Whether it has, only systemd knows.
    let active = if units.is_some() { "inactive" } else { UNKNOWN };
    let mut unread = Unread::default();
    for (row, number) in files.unwrap_or_default().iter().zip(1..) {
        let Some((name, enabled)) = row.file() else {
            unread.add(number);
            continue;
        };
        let unit = Unit { name: name.clone(), active: active.into(), enabled, ..Unit::default() };
        merged.insert(name, unit);
    }
    errors.extend(unread.told(&program.join("list-unit-files"), files.unwrap_or_default().len()));
    let mut unread = Unread::default();
    for (row, number) in units.unwrap_or_default().iter().zip(1..) {
        let Some(unit) = row.unit() else {
            unread.add(number);
            continue;
        };
        let enabled = merged.remove(&unit.name).unwrap_or_default().enabled;
        merged.insert(unit.name.clone(), Unit { enabled, ..unit });
    }
    errors.extend(unread.told(&program.join("list-units"), units.unwrap_or_default().len()));
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Module as _;
    use crate::module::Stop;
    use crate::modules::testing::context;
    use crate::modules::testing::lay;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::{Duration, Instant};

    const SCRIPT: &str = "#!/bin/sh
case $1 in
list-unit-files) echo 'ssh.service enabled enabled'; echo 'old.service masked enabled'; echo;;
list-units) echo 'ssh.service loaded active running OpenBSD Secure Shell server'; echo '● bad.service loaded failed failed Bad';;
esac
";

    fn run(script: &str, parameters: &Value) -> ModuleResult {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("usr/bin/systemctl");
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Services.run(parameters, &context(dir.path()))
    }

    fn names(parameters: &Value) -> Vec<String> {
        let elements: Elements = serde_json::from_value(run(SCRIPT, parameters).elements).unwrap();
        elements.units.into_iter().map(|unit| unit.name).collect()
    }

    #[test]
    fn units_are_chosen_by_name_state_and_start() {
        assert_eq!(names(&json!({})), ["bad.service", "old.service", "ssh.service"]);
        assert_eq!(names(&json!({"states": ["^failed$"]})), ["bad.service"]);
        assert_eq!(names(&json!({"enablements": ["masked"]})), ["old.service"]);
        assert_eq!(names(&json!({"names": ["^ssh"], "states": ["^active$"]})), ["ssh.service"]);
        let result = run(SCRIPT, &json!({"names": ["ssh"]}));
        let want = "ssh.service [load:loaded, active:active, sub:running, enabled:enabled] OpenBSD Secure Shell server";
        assert_eq!(<Services as Typed>::lines(&result, Lines::All), [want]);
    }

    #[test]
    fn without_systemd_it_is_unknown_what_runs() {
        let script = "#!/bin/sh
case $1 in
list-unit-files) echo 'ssh.service enabled enabled';;
*) echo \"Can't operate\" >&2; exit 1;;
esac
";
        let result = run(script, &json!({}));
        assert!(!result.success && result.foundanything && result.errors().len() == 1, "{result:?}");
        let want = "ssh.service [load:, active:unknown, sub:, enabled:enabled]";
        assert_eq!(<Services as Typed>::lines(&result, Lines::Found), [want]);
        // Who asks is not told that no unit is such.
        for asked in [json!({"states": ["^inactive$"]}), json!({"names": ["^loaded-without-a-file"]})] {
            let result = run(script, &asked);
            assert!(!result.success && !result.foundanything, "{result:?}");
        }
        let loaded = script.replace("list-unit-files", "list-units");
        let result = run(&loaded, &json!({"names": ["^not-loaded"]}));
        assert!(!result.success && result.errors()[0].starts_with("systemctl list-unit-files: "), "{result:?}");
    }

    #[test]
    fn a_machine_without_systemd_says_so() {
        let result = run("#!/bin/sh\necho 'System has not been booted with systemd' >&2; exit 1", &json!({}));
        assert!(!result.success && !result.foundanything);
        assert_eq!(result.errors()[0], "systemctl list-unit-files: System has not been booted with systemd");
        let none = Services.run(&json!({}), &context(std::path::Path::new("/nonexistent")));
        assert_eq!(none.errors()[1], "systemctl list-units: no such file or directory");
        assert!(!none.success);
    }

    /// A machine with the stub that people met, in this directory.
    fn with_stub(directory: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let program = format!("{directory}/systemctl");
        lay(dir.path(), &program, "09-systemctl/systemctl-stub");
        std::fs::set_permissions(dir.path().join(program), std::fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    fn units(result: &ModuleResult) -> Vec<Unit> {
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap();
        elements.units
    }

    #[test]
    fn case_09_names_are_those_of_systemd_without_marks_and_columns() {
        let dir = with_stub("bin");
        let result = Services.run(&json!({}), &context(dir.path()));
        assert!(result.success && result.errors().is_empty(), "{result:?}");
        let units = units(&result);
        let find =
            |name: &str| units.iter().find(|unit| unit.name == name).unwrap_or_else(|| panic!("{name} in {units:#?}"));
        for (name, active, description) in [
            ("bad.service", "failed", "A service that failed"),
            ("again.service", "reloading", "Being reloaded"),
            ("asleep.service", "inactive", "A white dot in front"),
            ("gone.service", "failed", "gone.service"),
            ("ascii.service", "failed", "A star in front"),
            ("systemd-fsck@dev-disk-by\\x2duuid-AB\\x2dCD.service", "active", "Check of /dev/disk/by-uuid/AB-CD"),
            ("two-jobs.service", "activating", "A job is told in a column of its own"),
            ("-.mount", "active", "Root Mount"),
            ("namé.service", "inactive", ""),
        ] {
            assert_eq!((find(name).active.as_str(), find(name).description.as_str()), (active, description), "{name}");
        }
        assert_eq!(
            (find("ssh.service").enabled.as_str(), find("no-preset.service").enabled.as_str()),
            ("enabled", "transient")
        );
        assert!(units.iter().all(|unit| unit.name.contains('.')), "{units:#?}");
    }

    #[test]
    fn case_09_an_odd_letter_costs_one_letter() {
        let dir = with_stub("usr/bin");
        let program = dir.path().join("usr/bin/systemctl");
        let script = std::fs::read_to_string(&program).unwrap().replace("${LATIN:-}", "1");
        std::fs::write(&program, script).unwrap();
        let result = Services.run(&json!({"names": ["^kiosk"]}), &context(dir.path()));
        assert_eq!(units(&result)[0].description, "Caf\u{fffd} kiosk", "{result:?}");
        assert_eq!((units(&result)[0].active.as_str(), result.errors().len()), ("active", 0));
    }

    #[test]
    fn case_09_a_program_that_never_ends_is_ended() {
        let dir = with_stub("usr/bin");
        std::fs::write(dir.path().join("usr/bin/systemctl"), "#!/bin/sh\nexec sleep 60\n").unwrap();
        let begun = Instant::now();
        let context = Context { stop: Stop::after(Duration::from_millis(500)), ..context(dir.path()) };
        let result = Services.run(&json!({}), &context);
        assert!(begun.elapsed() < Duration::from_secs(20) && !result.success, "{result:?}");
        assert!(result.errors()[0].starts_with("systemctl list-unit-files: it had not ended after "), "{result:?}");
        assert!(result.errors()[1].contains("was not asked"), "{result:?}");
    }

    #[test]
    fn case_09_what_newer_versions_write_is_read_too() {
        let script = "#!/bin/sh
case $1 in
list-unit-files) echo '[{\"unit_file\":\"ssh.service\",\"state\":\"enabled\",\"preset\":null}]';;
list-units) echo '[{\"unit\":\"ssh.service\",\"load\":\"loaded\",\"active\":\"active\",\"sub\":\"running\",\"description\":\"start  it\"},{}]';;
esac
";
        let result = run(script, &json!({}));
        let ssh = &units(&result)[0];
        assert_eq!(
            (ssh.enabled.as_str(), ssh.sub.as_str(), ssh.description.as_str()),
            ("enabled", "running", "start  it")
        );
        assert!(result.errors()[0].ends_with("1 of 2 rows could not be read and was left out: line 2"), "{result:?}");
    }
}
