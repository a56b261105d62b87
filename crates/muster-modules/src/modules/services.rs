//! services: the units of systemd, whether they run, and whether they start with the machine.

use super::list::{Wanted, at_most};
use crate::arguments::{ArgumentError, Flag, Given};
use crate::gotext;
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use muster_core::limits::WHOLE_FILE_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::process::{Command, Stdio};

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
        needs: Needs::SYSTEM_PROGRAMS,
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
        let mut ask = |what: &[&str]| match systemctl(context, what) {
            Ok(text) => Some(text),
            Err(error) => {
                errors.push(format!("systemctl {}: {}", what[0], gotext::reason(&error)));
                None
            }
        };
        let files = ask(&["list-unit-files"]);
        let units = ask(&["list-units", "--all"]);
        // What was asked for must be known; the rest may be missing.
        let is_known =
            (units.is_some() || parameters.states.is_empty()) && (files.is_some() || parameters.enablements.is_empty());
        let success = is_known && (files.is_some() || units.is_some());
        let mut units: Vec<_> = merge(files.as_deref(), units.as_deref())
            .into_values()
            .filter(|unit| names.wants(&unit.name) && states.wants(&unit.active) && enablements.wants(&unit.enabled))
            .collect();
        at_most(&mut units, &mut errors);
        let mut result = ModuleResult::ran(!units.is_empty(), Elements { units }, ()).with_errors(errors);
        result.success = success;
        Ok(result)
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

/// Asks systemd's own program, which speaks with whichever version is there.
fn systemctl(context: &Context, what: &[&str]) -> io::Result<String> {
    let mut command = Command::new(context.path("/usr/bin/systemctl"));
    command.args(what).args(["--full", "--plain", "--no-legend", "--no-pager"]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let taken = "the stream was asked for as a pipe";
    let mut text = String::new();
    let read = child.stdout.take().expect(taken).take(WHOLE_FILE_BYTES_MAX).read_to_string(&mut text);
    let mut noise = String::new();
    // It writes a line or none here; what it wrote explains how it ended.
    let _ = child.stderr.take().expect(taken).take(4096).read_to_string(&mut noise);
    let ended = child.wait()?;
    read?;
    if ended.success() {
        return Ok(text);
    }
    Err(io::Error::other(noise.lines().next().map_or_else(|| ended.to_string(), str::to_owned)))
}

/// Puts together what systemd says of unit files and of units; `None` when it says nothing of them.
fn merge(files: Option<&str>, units: Option<&str>) -> BTreeMap<String, Unit> {
    let mut merged = BTreeMap::new();
    // A unit that systemd has not loaded does not run. Whether it has, only systemd knows.
    let active = if units.is_some() { "inactive" } else { UNKNOWN };
    for line in files.unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(enabled)) = (words.next(), words.next()) else { continue };
        let unit = Unit { name: name.into(), active: active.into(), enabled: enabled.into(), ..Unit::default() };
        merged.insert(name.to_owned(), unit);
    }
    for line in units.unwrap_or_default().lines() {
        // A unit that is not well has a dot in front.
        let mut words = line.trim_start_matches(['●', '*', '×', ' ']).split_whitespace();
        let (Some(name), Some(load), Some(active), Some(sub)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let unit: &mut Unit = merged.entry(name.to_owned()).or_default();
        name.clone_into(&mut unit.name);
        load.clone_into(&mut unit.load);
        active.clone_into(&mut unit.active);
        sub.clone_into(&mut unit.sub);
        unit.description = words.collect::<Vec<_>>().join(" ");
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Module as _;
    use crate::modules::testing::context;
    use serde_json::{Value, json};
    use std::os::unix::fs::PermissionsExt as _;

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
        assert!(result.success && result.foundanything && result.errors().len() == 1, "{result:?}");
        let want = "ssh.service [load:, active:unknown, sub:, enabled:enabled]";
        assert_eq!(<Services as Typed>::lines(&result, Lines::Found), [want]);
        // Who asks for a state is not told that no unit has it.
        let result = run(script, &json!({"states": ["^inactive$"]}));
        assert!(!result.success && !result.foundanything, "{result:?}");
    }

    #[test]
    fn a_machine_without_systemd_says_so() {
        let result = run("#!/bin/sh\necho 'System has not been booted with systemd' >&2; exit 1", &json!({}));
        assert!(!result.success && !result.foundanything);
        assert_eq!(result.errors()[0], "systemctl list-unit-files: system has not been booted with systemd");
        let none = Services.run(&json!({}), &context(std::path::Path::new("/nonexistent")));
        assert_eq!(none.errors()[1], "systemctl list-units: no such file or directory");
    }
}
