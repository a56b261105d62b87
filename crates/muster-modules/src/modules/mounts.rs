//! mounts: what file systems are mounted where, of which kind, with which options, and how full they are.

use super::list::{Wanted, at_most};
use crate::arguments::{ArgumentError, Flag, Given};
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::reading;
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use procfs::process::MountInfo;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

pub(crate) struct Mounts;

/// File systems on a network: asking one whose server is gone would wait for ever.
const REMOTE: &[&str] = &["nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "afs", "9p", "ncpfs"];

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Parameters {
    paths: Vec<String>,
    types: Vec<String>,
    devices: Vec<String>,
    options: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Elements {
    mounts: Vec<Mount>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Mount {
    path: String,
    device: String,
    #[serde(rename = "type")]
    kind: String,
    options: Vec<String>,
    /// Bytes in all, when the file system is of this machine.
    total_bytes: Option<u64>,
    /// Bytes that anybody may still fill.
    free_bytes: Option<u64>,
}

impl Typed for Mounts {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "mounts",
        summary: "mounted file systems, by path, type, device or option",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::None,
        needs: Needs::SYSTEM,
    };
    const EXAMPLE: &'static str = "-option '^rw$' -type '^(ext4|xfs)$'";
    const FLAGS: &'static [Flag] = &[
        Flag::texts("path", "REGEX", "where it is mounted matches; !REGEX: it does not"),
        Flag::texts("type", "REGEX", "the kind of file system matches, such as ^(ext4|xfs)$"),
        Flag::texts("device", "REGEX", "the device matches"),
        Flag::texts("option", "REGEX", "one of its options matches, such as ^rw$"),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        let [paths, types, devices, options] = ["path", "type", "device", "option"].map(|flag| given.texts(flag));
        Ok(Parameters { paths, types, devices, options })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        let Parameters { paths, types, devices, options } = parameters;
        [paths, types, devices, options].into_iter().try_for_each(|list| Wanted::new(list).map(drop))
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let (paths, types) = (Wanted::new(&parameters.paths)?, Wanted::new(&parameters.types)?);
        let (devices, options) = (Wanted::new(&parameters.devices)?, Wanted::new(&parameters.options)?);
        let table = context.path("/proc/self/mountinfo");
        let text = reading::text(&table).map_err(|error| Refused(reading::open_error(&table, &error)))?;
        let mut errors = Vec::new();
        let mut mounts = Vec::new();
        for line in text.lines() {
            let Ok(info) = MountInfo::from_line(line) else {
                errors.push(format!("{}: a line cannot be read: {line}", table.display()));
                continue;
            };
            let mount = Mount::new(info);
            let wanted = paths.wants(&mount.path) && types.wants(&mount.kind) && devices.wants(&mount.device);
            if wanted && mount.options.iter().any(|option| options.wants(option)) {
                mounts.push(mount.measured(context));
            }
        }
        at_most(&mut mounts, &mut errors);
        Ok(ModuleResult::ran(!mounts.is_empty(), Elements { mounts }, ()).with_errors(errors))
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let mut out: Vec<_> = elements.mounts.iter().map(Mount::line).collect();
        if lines == Lines::All {
            out.extend(result.errors().iter().cloned());
        }
        out
    }
}

impl Mount {
    fn new(info: MountInfo) -> Self {
        let options = info.mount_options.into_iter().chain(info.super_options);
        let options: BTreeSet<String> =
            options.map(|(option, value)| value.map_or(option.clone(), |value| format!("{option}={value}"))).collect();
        Self {
            path: unescaped(&info.mount_point.to_string_lossy()),
            device: unescaped(&info.mount_source.unwrap_or_default()),
            kind: info.fs_type,
            options: options.into_iter().collect(),
            ..Self::default()
        }
    }

    fn measured(mut self, context: &Context) -> Self {
        let remote = REMOTE.contains(&self.kind.as_str()) || self.kind.starts_with("fuse") || self.kind == "autofs";
        if !remote && let Ok(sizes) = rustix::fs::statvfs(context.path(&self.path)) {
            self.total_bytes = Some(sizes.f_blocks.saturating_mul(sizes.f_frsize));
            self.free_bytes = Some(sizes.f_bavail.saturating_mul(sizes.f_frsize));
        }
        self
    }

    fn line(&self) -> String {
        let Self { path, device, kind, options, .. } = self;
        let sizes = match (self.total_bytes, self.free_bytes) {
            (Some(total), Some(free)) if total > 0 => format!(", total:{total}, free:{free}"),
            _ => String::new(),
        };
        format!("{path} [device:{device}, type:{kind}{sizes}] options {}", options.join(","))
    }
}

/// Reads what the kernel writes for blanks, line ends and backslashes, so that a line stays a line.
fn unescaped(text: &str) -> String {
    let pairs = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    pairs.iter().fold(text.to_owned(), |text, (escape, letter)| text.replace(escape, letter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Module as _;
    use crate::modules::testing::context;
    use serde_json::json;

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
23 22 0:21 / /net rw,nosuid - nfs4 server:/export rw,vers=4.2
24 22 0:22 / /odd\\040name ro - tmpfs tmpfs rw
damaged
";

    fn run(parameters: &serde_json::Value) -> ModuleResult {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        std::fs::write(dir.path().join("proc/self/mountinfo"), TABLE).unwrap();
        Mounts.run(parameters, &context(dir.path()))
    }

    fn paths(parameters: &serde_json::Value) -> Vec<String> {
        let elements: Elements = serde_json::from_value(run(parameters).elements).unwrap();
        elements.mounts.into_iter().map(|mount| mount.path).collect()
    }

    #[test]
    fn mounts_are_chosen_by_what_they_are() {
        assert_eq!(paths(&json!({})), ["/", "/net", "/odd name"]);
        assert_eq!(paths(&json!({"types": ["^nfs"]})), ["/net"]);
        assert_eq!(paths(&json!({"devices": ["^/dev/"]})), ["/"]);
        assert_eq!(paths(&json!({"options": ["^ro$", "nosuid"]})), ["/net", "/odd name"]);
        assert_eq!(paths(&json!({"paths": ["!^/$"], "types": ["tmpfs"]})), ["/odd name"]);
    }

    #[test]
    fn a_network_file_system_is_not_asked_how_full_it_is() {
        let result = run(&json!({}));
        assert!(result.elements["mounts"][0]["total_bytes"].is_u64());
        assert!(result.elements["mounts"][1]["total_bytes"].is_null());
        assert!(result.errors()[0].ends_with("a line cannot be read: damaged"));
        let lines = <Mounts as Typed>::lines(&result, Lines::Found);
        assert_eq!(lines[1], "/net [device:server:/export, type:nfs4] options nosuid,rw,vers=4.2");
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        assert!(Mounts.validate(&json!({"types": ["("]})).unwrap_err().0.starts_with("Invalid regexp '('"));
        assert!(Mounts.validate(&json!({"nosuch": []})).is_err(), "a module of our own refuses what it does not know");
    }
}
