//! sysinfo: what a machine is: its system, kernel, processors, memory, and since when it runs.

use crate::arguments::{ArgumentError, Flag, Given};
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::reading;
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use muster_core::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) struct Sysinfo;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Parameters {}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Elements {
    hostname: String,
    os: Os,
    kernel: String,
    arch: String,
    cpus: usize,
    memory_bytes: u64,
    memory_available_bytes: u64,
    swap_bytes: u64,
    /// When the machine was started, RFC 3339; empty, and no uptime, when that is not known.
    boottime: String,
    uptime_s: u64,
    load: [f64; 3],
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Os {
    id: String,
    name: String,
    version: String,
}

impl Typed for Sysinfo {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "sysinfo",
        summary: "system, kernel, processors, memory and uptime",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::None,
        needs: Needs::SYSTEM,
    };
    const EXAMPLE: &'static str = "";
    const FLAGS: &'static [Flag] = &[];

    fn from_flags(_: &Given) -> Result<Parameters, ArgumentError> {
        Ok(Parameters {})
    }

    fn validate(_: &Parameters) -> Result<(), Refused> {
        Ok(())
    }

    fn answer(_: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let mut errors = Vec::new();
        let mut read = |path: &str, otherwise: &str, has: &str| {
            let paths = [path, otherwise].map(|path| context.path(path));
            let text = reading::text(&paths[0]).or_else(|error| reading::text(&paths[1]).map_err(|_| error));
            let text = text.unwrap_or_else(|error| {
                errors.push(reading::open_error(&paths[0], &error));
                has.to_owned()
            });
            if !text.contains(has) {
                errors.push(format!("{}: it does not say {}", paths[0].display(), has.trim_end_matches([' ', ':'])));
            }
            text
        };
        let release = assignments(&read("/etc/os-release", "/usr/lib/os-release", "ID="));
        let meminfo = read("/proc/meminfo", "/proc/meminfo", "MemTotal:");
        let memory = memory(&meminfo);
        let boot = number_after(&read("/proc/stat", "/proc/stat", "btime "), "btime ");
        let load = load(&read("/proc/loadavg", "/proc/loadavg", ""));
        let name = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let booted = boot.and_then(|seconds| i64::try_from(seconds).ok()).map(Timestamp::from_secs);
        let field = |name: &str| release.get(name).cloned().unwrap_or_default();
        let kilobytes = |name: &str| memory.get(name).copied().unwrap_or_default().saturating_mul(1024);
        let elements = Elements {
            hostname: text(name.nodename()),
            os: Os { id: field("ID"), name: field("PRETTY_NAME"), version: field("VERSION_ID") },
            kernel: text(name.release()),
            arch: text(name.machine()),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: kilobytes("MemTotal"),
            memory_available_bytes: kilobytes("MemAvailable"),
            swap_bytes: kilobytes("SwapTotal"),
            boottime: booted.map(|booted| booted.to_string()).unwrap_or_default(),
            uptime_s: booted.map(|booted| context.clock.now().since(booted).as_secs()).unwrap_or_default(),
            load,
        };
        Ok(ModuleResult::ran(true, elements, ()).with_errors(errors))
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        // Without elements nothing is known of the machine.
        let elements: Option<Elements> = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let mut out: Vec<_> = elements.iter().map(Elements::line).collect();
        if lines == Lines::All {
            out.extend(result.errors().iter().cloned());
        }
        out
    }
}

impl Elements {
    fn line(&self) -> String {
        let Self { hostname, os, kernel, arch, cpus, memory_bytes, boottime, load: [one, five, fifteen], .. } = self;
        format!(
            "{hostname} [os:{}, kernel:{kernel}, arch:{arch}, cpus:{cpus}, memory:{memory_bytes}] booted {boottime} load {one} {five} {fifteen}",
            os.name
        )
    }
}

fn assignments(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned())).collect()
}

fn memory(text: &str) -> BTreeMap<&str, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.filter_map(|(name, value)| Some((name, value.split_whitespace().next()?.parse().ok()?))).collect()
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

fn load(text: &str) -> [f64; 3] {
    let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap_or_default());
    [(); 3].map(|()| numbers.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Module as _;
    use crate::modules::testing::context;
    use serde_json::json;

    #[test]
    fn a_machine_tells_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian 12\"\nVERSION_ID='12'\n");
        write("proc/meminfo", "MemTotal:  100 kB\nMemAvailable: 50 kB\nodd\n");
        write("proc/stat", "cpu 1 2\nbtime 1795181887\n");
        let result = Sysinfo.run(&json!({}), &context(dir.path()));
        let elements = &result.elements;
        assert_eq!(elements["os"], json!({"id": "debian", "name": "Debian 12", "version": "12"}));
        assert_eq!(elements["memory_bytes"], json!(102_400));
        assert_eq!((&elements["boottime"], &elements["uptime_s"]), (&json!("2026-11-20T13:38:07Z"), &json!(100)));
        // What could not be read is an error that ends nothing.
        assert!(result.success && result.errors().len() == 1, "{result:?}");
        assert!(<Sysinfo as Typed>::lines(&result, Lines::Found)[0].contains("os:Debian 12"));
    }

    #[test]
    fn what_is_not_known_is_no_moment_long_ago() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc")).unwrap();
        std::fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
        std::fs::write(dir.path().join("usr/lib/os-release"), "ID=alpine\n").unwrap();
        std::fs::write(dir.path().join("proc/stat"), "cpu 1 2\n").unwrap();
        let result = Sysinfo.run(&json!({}), &context(dir.path()));
        assert_eq!((&result.elements["boottime"], &result.elements["uptime_s"]), (&json!(""), &json!(0)));
        assert_eq!(result.elements["os"]["id"], json!("alpine"));
        let errors = result.errors();
        assert!(errors.len() == 3 && errors[1].ends_with("/proc/stat: it does not say btime"), "{errors:?}");
    }

    #[test]
    fn it_takes_no_parameters() {
        assert!(Sysinfo.validate(&json!({"a": 1})).is_err());
        assert_eq!(crate::params_from_args("sysinfo", &[]), Ok(json!({})));
    }

    #[test]
    fn a_result_without_elements_prints_nothing_that_was_not_measured() {
        crate::modules::testing::prints_no_more_than_errors::<Sysinfo>(&[]);
    }
}
