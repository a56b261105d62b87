//! mounts: what file systems are mounted where, of which kind, with which options, and how full they are.

use super::list::{Unread, Wanted, at_most, shown};
use crate::arguments::{ArgumentError, Flag, Given};
use crate::filesystems::{self, Table};
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::reading;
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use serde::{Deserialize, Serialize};
use std::os::unix::ffi::OsStrExt as _;

pub(crate) struct Mounts;

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
        let path = context.path("/proc/self/mountinfo");
        let table = Table::read(&path).map_err(|error| Refused(reading::open_error(&path, &error)))?;
        let mut errors = Vec::new();
        let mut mounts = Vec::new();
        errors.extend(Unread::of(&table.unread).told(&path, table.rows.len() + table.unread.len()));
        for row in &table.rows {
            let wanted = paths.wants_bytes(row.path.as_os_str().as_bytes())
                && types.wants(&row.kind)
                && devices.wants_bytes(&row.device)
                && (parameters.options.is_empty() || row.options.iter().any(|option| options.wants_bytes(option)));
            if wanted {
                mounts.push(Mount::new(row).measured(row, &table, context));
            }
        }
        let cut = at_most(&mut mounts);
        let result = ModuleResult::ran(!mounts.is_empty(), Elements { mounts }, ());
        Ok(result.with_cuts(cut.into_iter().collect()).with_errors(errors))
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
    fn new(row: &filesystems::Mount) -> Self {
        Self {
            path: shown(row.path.as_os_str().as_bytes()).into_owned(),
            device: shown(&row.device).into_owned(),
            kind: row.kind.clone(),
            options: row.options.iter().map(|option| shown(option).into_owned()).collect(),
            ..Self::default()
        }
    }

    /// Adds the sizes, unless asking for them may take for ever.
    fn measured(mut self, row: &filesystems::Mount, table: &Table, context: &Context) -> Self {
        let may_hang = filesystems::Mount::may_hang;
        let is_user_space = row.kind == "fuse" || row.kind.starts_with("fuse.");
        if is_user_space || may_hang(row) || table.on_the_way(&row.path, may_hang).is_some() {
            return self;
        }
        context.progress.doing(|| format!("asking how full {} is", row.path.display()));
        if let Ok(sizes) = rustix::fs::statvfs(context.path(&row.path)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Module as _;
    use crate::modules::testing::{context, lay};
    use serde_json::{Value, json};

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
        assert!(result.errors()[0].ends_with("/mountinfo: 1 of 4 rows could not be read and was left out: line 4"));
        let lines = <Mounts as Typed>::lines(&result, Lines::Found);
        assert_eq!(lines[1], "/net [device:server:/export, type:nfs4] options rw,nosuid,vers=4.2");
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        assert!(Mounts.validate(&json!({"types": ["("]})).unwrap_err().0.starts_with("Invalid regexp '('"));
        assert!(Mounts.validate(&json!({"nosuch": []})).is_err(), "a module of our own refuses what it does not know");
    }

    fn case(parameters: &Value) -> ModuleResult {
        let dir = tempfile::tempdir().unwrap();
        lay(dir.path(), "proc/self/mountinfo", "03-mountinfo/mountinfo");
        Mounts.run(parameters, &context(dir.path()))
    }

    /// Returns a field of the one mount whose path ends so.
    fn field(path: &str, field: &str) -> Value {
        let result = case(&json!({"paths": [format!("{path}$")]}));
        let mounts = result.elements["mounts"].as_array().unwrap();
        assert_eq!(mounts.len(), 1, "{path}: {result:#?}");
        mounts[0][field].clone()
    }

    #[test]
    fn case_03_every_row_is_read() {
        let result = case(&json!({}));
        assert_eq!(result.elements["mounts"].as_array().unwrap().len(), 21, "{result:#?}");
        assert!(result.errors().is_empty(), "{result:?}");
    }

    #[test]
    fn case_03_every_field_is_undone_of_all_escapes() {
        for (path, device) in [
            ("/srv/with blank", "tmpfs"),
            ("/srv/with\ttab\nline\\\\back", "tmpfs"),
            ("/srv/with#hash", "tmp#fs"),
            ("/mnt/c", "C:\\"),
            ("/srv/empty-source", ""),
            ("/srv/none-source", "none"),
            ("/srv/dash-source", "-"),
            ("/srv/name-dash - x", "tmpfs"),
            ("/srv/minus-in-optional", "tmpfs"),
            ("/srv/caf.", "tmpfs"),
        ] {
            if path == "/srv/caf." {
                let result = case(&json!({"paths": ["/srv/caf.$"]}));
                let paths = ["/srv/café", "/srv/caf\u{fffd}"].map(|path| json!(path));
                assert_eq!([0, 1].map(|at| result.elements["mounts"][at]["path"].clone()), paths);
                continue;
            }
            assert_eq!(field(path, "device"), json!(device), "{path}");
        }
        assert_eq!(field("/srv/big-device", "device"), json!("/dev/vdd1"));
    }

    #[test]
    fn case_03_options_are_whole_each_one_and_in_order() {
        for (path, options) in [
            (
                "/mnt/d",
                json!([
                    "rw",
                    "noatime",
                    "dirsync",
                    "aname=drvfs;path=D:\\;uid=1000;label=my disk;symlinkroot=/mnt/",
                    "access=client"
                ]),
            ),
            ("/srv/many-lower", json!(["rw", "lowerdir+=/a", "lowerdir+=/b", "datadir+=/c", "upperdir=/u"])),
            ("/srv/option-escape", json!(["rw", "lowerdir=/with blank:/with,comma", "upperdir=/u"])),
            ("/srv/context", json!(["rw", "context=\"system_u:object_r:x_t:s0:c1,c2\"", "attr2"])),
            ("/srv/no-super-options", json!(["rw"])),
            ("/srv/empty-source", json!(["rw", "size=4k"])),
            ("^/", json!(["rw", "relatime", "errors=remount-ro"])),
        ] {
            assert_eq!(field(path, "options"), options, "{path}");
        }
        assert!(case(&json!({"options": ["^access=client$"]})).elements["mounts"].as_array().unwrap().len() == 2);
    }
}
