//! pkg: which packages are installed, by name and version.

use super::list::at_most;
use super::packages::{Package, installed};
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
    fn names(&self) -> Result<Vec<Regex>, Refused> {
        if self.pkgmatch.matches.is_empty() {
            return Err(Refused("must specify at least one package to match".to_owned()));
        }
        if self.pkgmatch.matches.len() > SEARCH_VALUES_MAX {
            return Err(Refused(format!("there are more than {SEARCH_VALUES_MAX} packages to match")));
        }
        self.pkgmatch.matches.iter().map(|name| pattern::compile(name).map_err(Refused)).collect()
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
        summary: "installed packages of dpkg and rpm, by name and version",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::None,
        needs: Needs::SYSTEM_PROGRAMS,
    };
    const EXAMPLE: &'static str = "-name '^openssl$' -version '^1\\.'";
    const FLAGS: &'static [Flag] = &[
        Flag::texts("name", "REGEX", "the package's name matches"),
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
        let mut errors = Vec::new();
        let installed = installed(context, &mut errors);
        let mut packages = Vec::new();
        for name in &names {
            let right = |package: &&Package| {
                let version = version.as_ref();
                name.is_match(&package.name)
                    && version.is_none_or(|(inverse, regex)| regex.is_match(&package.version) != *inverse)
            };
            packages.extend(installed.iter().filter(right).cloned());
        }
        at_most(&mut packages, &mut errors);
        let found = !packages.is_empty();
        let statistics = json!({"execruntime": gotext::duration(begun.elapsed())});
        Ok(ModuleResult::ran(found, Elements { packages }, statistics).with_errors(errors))
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let line = |Package { name, version, kind, arch }: &Package| {
            format!("pkgmatch name={name} version={version} type={kind} arch={arch}")
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
    use crate::modules::testing::{context, fixture, same_form};
    use serde_json::Value;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

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
        assert!(result.success && result.errors()[0].contains("exit status: 3"), "{result:?}");
    }

    #[test]
    fn what_names_no_package_is_refused() {
        let refused = |parameters: Value| Pkg.validate(&parameters).unwrap_err().0;
        assert_eq!(refused(json!({})), "must specify at least one package to match");
        assert!(refused(json!({"pkgmatch": {"matches": ["("]}})).contains("unclosed group"));
        assert!(refused(json!({"pkgmatch": {"matches": ["a"]}, "vermatch": "!("})).contains("unclosed group"));
    }
}
