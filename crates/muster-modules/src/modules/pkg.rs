//! pkg: which packages are installed, by name and version.
//!
//! Stays true: whatever has files on the disk is named, with its state; a machine whose packages cannot be read is no
//! machine without packages.

use super::list::at_most;
use super::packages::{Inventory, NameRegex, Package};
use crate::arguments::{ArgumentError, Flag, Given};
use crate::gotext;
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::pattern;
use crate::result::ModuleResult;
use crate::sandbox::Needs;
use muster_core::limits::SEARCH_VALUES_MAX;
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Instant;

pub(crate) struct Pkg;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    pkgmatch: Match,
    vermatch: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Match {
    matches: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Elements {
    packages: Vec<Package>,
}

impl Parameters {
    fn names(&self) -> Result<Vec<NameRegex>, Refused> {
        if self.pkgmatch.matches.is_empty() {
            return Err(Refused("must specify at least one package to match".to_owned()));
        }
        if self.pkgmatch.matches.len() > SEARCH_VALUES_MAX {
            return Err(Refused(format!("there are more than {SEARCH_VALUES_MAX} packages to match")));
        }
        self.pkgmatch.matches.iter().map(|name| NameRegex::compile(name).map_err(Refused)).collect()
    }

    /// Returns the expression for versions, and whether it is turned round.
    fn version(&self) -> Result<Option<(bool, Regex)>, Refused> {
        if self.vermatch.is_empty() {
            return Ok(None);
        }
        let (inverse, expression) = self.vermatch.strip_prefix('!').map_or((false, &*self.vermatch), |e| (true, e));
        pattern::compile(expression).map(|regex| Some((inverse, regex))).map_err(Refused)
    }
}

impl Typed for Pkg {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "pkg",
        summary: "installed packages of dpkg, rpm and apk, by name and version",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::None,
        needs: Needs::SYSTEM_PROGRAMS,
    };
    const EXAMPLE: &'static str = "-name '^openssl$' -version '^1\\.'";
    const FLAGS: &'static [Flag] = &[
        Flag::texts(
            "name",
            "REGEX",
            "the package's name matches, or where the expression has a colon, the name with its architecture: ^libc6:amd64$",
        ),
        Flag::text("version", "REGEX", "the package's version matches; !REGEX: it does not"),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        let vermatch = given.text("version").unwrap_or_default();
        Ok(Parameters { pkgmatch: Match { matches: given.texts("name") }, vermatch })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        parameters.names()?;
        parameters.version().map(drop)
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let begun = Instant::now();
        let (names, version) = (parameters.names()?, parameters.version()?);
        let Inventory { packages: installed, errors, is_known } = Inventory::read(context);
        let mut packages = Vec::new();
        for name in &names {
            let right = |package: &&Package| {
                let version = version.as_ref();
                name.name_of(package).is_some()
                    && version.is_none_or(|(inverse, regex)| regex.is_match(&package.version) != *inverse)
            };
            packages.extend(installed.iter().filter(right).cloned());
        }
        let cut = at_most(&mut packages);
        let found = !packages.is_empty();
        let statistics = json!({"execruntime": gotext::duration(begun.elapsed())});
        let result = ModuleResult::ran(found, Elements { packages }, statistics);
        let result = result.with_cuts(cut.into_iter().collect()).with_errors(errors);
        Ok(ModuleResult { success: is_known, ..result })
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let line = |Package { name, version, kind, arch, state }: &Package| {
            let state = if state.is_empty() { String::new() } else { format!(" state=\"{state}\"") };
            format!("pkgmatch name={name} version={version} type={kind} arch={arch}{state}")
        };
        let mut out: Vec<_> = elements.packages.iter().map(line).collect();
        if lines == Lines::All {
            out.extend(result.errors().iter().cloned());
            let runtime = result.statistics["execruntime"].as_str().unwrap_or_default();
            out.push(format!("Statistics: runtime {runtime}"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Module as _;
    use crate::module::Stop;
    use crate::modules::testing::{case, context, fixture, lay, same_form};
    use serde_json::Value;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    const STATUS: &str = "\
Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2+b8
Description: shell
 Package: not this one

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: libc6
Status: hold ok installed
Multi-Arch: same
Version: 2.36-9
Architecture: i386
";

    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("var/lib/dpkg/status.d")).unwrap();
        fs::write(dir.path().join("var/lib/dpkg/status"), STATUS).unwrap();
        fs::write(dir.path().join("var/lib/dpkg/status.d/base"), "Package: base\nVersion: 12.4\n").unwrap();
        dir
    }

    fn names(dir: &tempfile::TempDir, parameters: &Value) -> Vec<String> {
        let result = Pkg.run(parameters, &context(dir.path()));
        assert!(result.success, "{result:?}");
        let elements: Elements = serde_json::from_value(result.elements).unwrap();
        elements.packages.iter().map(|package| format!("{} {}", package.name, package.version)).collect()
    }

    #[test]
    fn installed_packages_are_found_by_name_and_version() {
        let dir = machine();
        let find = |matches: &[&str], version: &str| {
            names(&dir, &json!({"pkgmatch": {"matches": matches}, "vermatch": version}))
        };
        assert_eq!(find(&["^bash$"], ""), ["bash 5.2.15-2+b8"]);
        assert_eq!(find(&["."], ""), ["bash 5.2.15-2+b8", "libc6 2.36-9", "base 12.4"]);
        assert_eq!(find(&["."], "^2\\."), ["libc6 2.36-9"]);
        assert_eq!(find(&["."], "!^2\\."), ["bash 5.2.15-2+b8", "base 12.4"]);
        assert!(find(&["gone"], "").is_empty());
    }

    #[test]
    fn a_name_with_an_architecture_means_that_architecture() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("var/lib/dpkg")).unwrap();
        let one = |name: &str, arch: &str, version: &str| {
            format!("Package: {name}\nStatus: install ok installed\nArchitecture: {arch}\nVersion: {version}\n\n")
        };
        let list = [one("libc6", "amd64", "2"), one("libc6", "i386", "1"), one("tzdata", "all", "3")].concat();
        fs::write(dir.path().join("var/lib/dpkg/status"), list).unwrap();
        let find =
            |name: &str, version: &str| names(&dir, &json!({"pkgmatch": {"matches": [name]}, "vermatch": version}));
        for (name, want) in [
            ("libc6:amd64", &["libc6 2"][..]),
            ("^libc6:i386$", &["libc6 1"]),
            ("^tzdata:all$", &["tzdata 3"]),
            (":(amd64|all)$", &["libc6 2", "tzdata 3"]),
            ("^libc6:arm64$", &[]),
            ("^libc6$", &["libc6 2", "libc6 1"]),
            // A colon of the expression's own grammar asks for none.
            ("^(?:lib).*64$", &[]),
            ("(?i:AMD64)", &[]),
            ("^[[:alpha:]]+$", &["tzdata 3"]),
        ] {
            assert_eq!(find(name, ""), want, "{name}");
        }
        assert!(find("^libc6:amd64$", "^1").is_empty());
    }

    #[test]
    fn the_result_and_its_lines_are_those_of_the_original() {
        let dir = machine();
        let result = Pkg.run(&json!({"pkgmatch": {"matches": ["^bash$"]}}), &context(dir.path()));
        let want = fixture("pkg");
        same_form(&result, &want);
        assert_eq!(result.elements, want.elements);
        let lines = <Pkg as Typed>::lines(&want, Lines::All);
        assert_eq!(
            lines,
            ["pkgmatch name=bash version=5.2.15-2+b8 type=dpkg arch=amd64", "Statistics: runtime 11.400513ms"]
        );
    }

    #[test]
    fn rpm_is_asked_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let rpm = dir.path().join("usr/bin/rpm");
        fs::create_dir_all(rpm.parent().unwrap()).unwrap();
        let write = |text: &str| {
            fs::write(&rpm, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&rpm, fs::Permissions::from_mode(0o755)).unwrap();
        };
        write("echo 'bash 5.1.8-9.el9 x86_64'; echo 'gpg-pubkey 1-2 (none)'; echo");
        let parameters = json!({"pkgmatch": {"matches": ["."]}});
        assert_eq!(names(&dir, &parameters), ["bash 5.1.8-9.el9", "gpg-pubkey 1-2"]);
        write("exit 3");
        let result = Pkg.run(&parameters, &context(dir.path()));
        assert!(!result.success && result.errors()[0].contains("exit status: 3"), "{result:?}");
    }

    #[test]
    fn what_names_no_package_is_refused() {
        let refused = |parameters: Value| Pkg.validate(&parameters).unwrap_err().0;
        assert_eq!(refused(json!({})), "must specify at least one package to match");
        assert!(refused(json!({"pkgmatch": {"matches": ["("]}})).contains("unclosed group"));
        assert!(refused(json!({"pkgmatch": {"matches": ["a"]}, "vermatch": "!("})).contains("unclosed group"));
    }

    /// Asks a machine for all its packages; returns each with its state, and the whole result.
    fn all(dir: &tempfile::TempDir, stop: Stop) -> (Vec<String>, ModuleResult) {
        let context = Context { stop, ..context(dir.path()) };
        let result = Pkg.run(&json!({"pkgmatch": {"matches": ["."]}}), &context);
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap();
        let text =
            |Package { name, version, state, .. }: &Package| format!("{name} {version} {state}").trim_end().to_owned();
        (elements.packages.iter().map(text).collect(), result)
    }

    fn with_list(to: &str, from: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        lay(dir.path(), to, from);
        dir
    }

    #[test]
    fn case_01_whatever_has_files_is_named_with_its_state() {
        let dir = with_list("var/lib/dpkg/status", "01-dpkg-states/status");
        let (packages, result) = all(&dir, Stop::default());
        assert_eq!(
            packages,
            [
                "normal-one 1.0-1",
                "held-one 2:5.4-3 hold ok installed",
                "waits-for-triggers 1.1-1 install ok triggers-awaited",
                "has-triggers 1.2-1 install ok triggers-pending",
                "half-done 3.0-2 install ok half-configured",
                "only-unpacked 3.1-2 install ok unpacked",
                "needs-again 0.9-1 install reinstreq half-installed",
                "to-be-removed 4.0 deinstall ok installed",
                "to-be-purged 4.1 purge ok installed",
            ]
        );
        assert!(result.success && result.errors().is_empty(), "{result:?}");
        let line = &<Pkg as Typed>::lines(&result, Lines::Found)[1];
        assert!(line.ends_with(" arch=amd64 state=\"hold ok installed\""), "{line}");
    }

    #[test]
    fn case_01_the_list_is_read_as_dpkg_reads_it() {
        let dir = with_list("var/lib/dpkg/status", "01-dpkg-states/status-odd");
        let (packages, result) = all(&dir, Stop::default());
        let names: Vec<_> = packages.iter().map(|package| package.split(' ').next().unwrap()).collect();
        let want = [
            "plain",
            "latin1-maintainer",
            "lower-case-fields",
            "no-space-after-colon",
            "after-three-blank-lines",
            "last-without-line-end",
        ];
        assert_eq!(names, want);
        assert!(result.errors().is_empty(), "{result:?}");
        let dir = with_list("var/lib/dpkg/status", "01-dpkg-states/status-crlf");
        assert_eq!(all(&dir, Stop::default()).0, ["crlf-1 1.0", "crlf-2 2.0", "crlf-3 3.0"]);
    }

    #[test]
    fn case_01_what_dpkg_has_not_written_down_yet_is_said() {
        let dir = with_list("var/lib/dpkg/status", "01-dpkg-states/status");
        let updates = dir.path().join("var/lib/dpkg/updates");
        fs::create_dir(&updates).unwrap();
        fs::write(updates.join("tmp.i"), "").unwrap();
        assert!(all(&dir, Stop::default()).1.errors().is_empty(), "what dpkg has not finished writing is none");
        fs::write(updates.join("0000"), "Package: new\n").unwrap();
        let result = all(&dir, Stop::default()).1;
        assert!(result.success && result.errors()[0].contains("1 changes are not in dpkg's list yet"), "{result:?}");
    }

    #[test]
    fn case_02_a_database_that_nothing_reads_is_an_error_that_names_it() {
        let dir = with_list("var/lib/rpm/rpmdb.sqlite", "02-rpm-without-rpm/rpmdb/rpmdb.sqlite");
        let (packages, result) = all(&dir, Stop::default());
        assert!(packages.is_empty() && !result.success && result.errors().len() == 1, "{result:?}");
        assert!(result.errors()[0].contains("/var/lib/rpm/rpmdb.sqlite: there is no rpm"), "{result:?}");
        // dpkg is answered beside it.
        fs::create_dir_all(dir.path().join("var/lib/dpkg")).unwrap();
        fs::write(dir.path().join("var/lib/dpkg/status"), STATUS).unwrap();
        let (packages, result) = all(&dir, Stop::default());
        assert!(packages.len() == 2 && result.success && result.errors().len() == 1, "{result:?}");
        let none = all(&tempfile::tempdir().unwrap(), Stop::default()).1;
        assert!(!none.success && none.errors()[0].contains("none of dpkg, rpm or apk"), "{none:?}");
    }

    #[test]
    fn case_02_an_rpm_that_names_nothing_beside_a_database_is_an_error() {
        let dir = with_list("var/lib/rpm/Packages", "02-rpm-without-rpm/apk/installed");
        let rpm = dir.path().join("usr/bin/rpm");
        fs::create_dir_all(rpm.parent().unwrap()).unwrap();
        fs::write(&rpm, "#!/bin/sh\necho cannot open Packages >&2\nexit 0\n").unwrap();
        fs::set_permissions(&rpm, fs::Permissions::from_mode(0o755)).unwrap();
        let (packages, result) = all(&dir, Stop::default());
        assert!(packages.is_empty() && !result.success, "{result:?}");
        assert!(result.errors()[0].contains("it named no package, although there is the database"), "{result:?}");
    }

    #[test]
    fn case_02_the_list_of_apk_is_read() {
        for list in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
            let dir = with_list(list, "02-rpm-without-rpm/apk/installed");
            let (packages, result) = all(&dir, Stop::default());
            assert_eq!(packages, ["musl 1.2.4-r2", "busybox 1.36.1-r5"], "{list}");
            assert!(result.success && result.errors().is_empty(), "{result:?}");
            assert_eq!(result.elements["packages"][0]["type"], json!("apk"));
        }
    }

    /// A machine with dpkg's list and this stub for rpm, in this directory.
    fn with_rpm(stub: &str, directory: &str) -> tempfile::TempDir {
        let dir = with_list(&format!("{directory}/rpm"), &format!("02-rpm-without-rpm/stubs/{stub}"));
        fs::create_dir_all(dir.path().join("var/lib/dpkg")).unwrap();
        fs::write(dir.path().join("var/lib/dpkg/status"), STATUS).unwrap();
        let rpm = dir.path().join(directory).join("rpm");
        fs::set_permissions(rpm, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(case("02-rpm-without-rpm/stubs").join(stub).exists());
        dir
    }

    #[test]
    fn case_02_an_odd_letter_costs_one_letter_and_no_epoch_is_none() {
        let (packages, result) = all(&with_rpm("rpm-latin1", "usr/bin"), Stop::default());
        assert_eq!(packages[..3], ["bash 5.1-1", "m\u{fffd}decin 1.0-1", "zsh 5.8-1"]);
        assert!(packages.len() == 5 && result.errors().is_empty(), "{result:?}");
        let (packages, result) = all(&with_rpm("rpm-odd-words", "bin"), Stop::default());
        assert_eq!(
            packages[..4],
            ["gpg-pubkey 0123abcd-5f5f5f5f", "kernel 0:5.14.0-1", "kernel 0:5.14.0-2", "bash 5.1-1"]
        );
        assert!(packages.len() == 6 && result.errors().is_empty(), "{result:?}");
    }

    #[test]
    fn case_02_an_rpm_that_dies_is_named_and_what_it_said_is_kept() {
        let (packages, result) = all(&with_rpm("rpm-dies", "usr/bin"), Stop::default());
        assert_eq!(packages, ["bash 5.1-1", "bash 5.2.15-2+b8", "libc6 2.36-9 hold ok installed"]);
        let error = &result.errors()[0];
        assert!(error.contains("usr/bin/rpm -qa: it was ended by signal 9: packages of rpm may be missing"), "{error}");
    }

    #[test]
    fn case_02_an_rpm_that_hangs_is_ended_and_dpkg_is_answered() {
        let begun = Instant::now();
        let (packages, result) = all(&with_rpm("rpm-hangs", "usr/bin"), Stop::after(Duration::from_millis(700)));
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(packages, ["bash 5.2.15-2+b8", "libc6 2.36-9 hold ok installed"]);
        let error = &result.errors()[0];
        assert!(
            error.contains("/rpm -qa: it had not ended after ") && error.contains("no package of rpm is known"),
            "{error}"
        );
        let (packages, result) = all(&with_rpm("rpm-leaves-child", "usr/bin"), Stop::default());
        assert!(
            packages.len() == 3 && result.errors().is_empty(),
            "what it left is ended, what it said is whole: {result:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
