//! The packages that are installed, as dpkg, rpm and apk know them.
//!
//! Stays true: each package manager is asked by itself, so one that hangs or is damaged costs no other's packages; a
//! database that nothing here can read is named, never taken for an empty one.

use super::list::{Unread, shown};
use super::program;
use crate::module::Context;
pub(super) use crate::packages::Package;
use crate::packages::{DPKG_PARTS, DPKG_STATUS, DpkgList, Listed, RPM_DATABASES, apk, apk_list, dpkg};
use crate::{pattern, reading};
use regex::Regex;
use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// An expression over names of packages. Where it has a colon, it is held against names with their architectures too, as dpkg
/// writes them: `libc6:amd64`.
#[derive(Debug)]
pub(super) struct NameRegex {
    regex: Regex,
    has_colon: bool,
}

impl NameRegex {
    /// Reads an expression.
    ///
    /// # Errors
    /// It is none; the text says why.
    pub(super) fn compile(expression: &str) -> Result<Self, String> {
        // What stands for itself: no colon of `(?:`, `(?i:` or `[[:alpha:]]`.
        let bare = Regex::new(r"\(\?[a-zA-Z-]*:|\[:\^?[a-z]+:\]").map_err(|error| error.to_string())?;
        let has_colon = bare.replace_all(expression, "").contains(':');
        Ok(Self { regex: pattern::compile(expression)?, has_colon })
    }

    /// Returns the name of the package by which the expression means it; `None` when it means another.
    pub(super) fn name_of<'a>(&self, package: &'a Package) -> Option<Cow<'a, str>> {
        if self.regex.is_match(&package.name) {
            return Some(Cow::Borrowed(&package.name));
        }
        let full = full_name(package);
        (self.has_colon && self.regex.is_match(&full)).then_some(Cow::Owned(full))
    }
}

/// Returns a package's name with its architecture, as dpkg writes it.
pub(super) fn full_name(package: &Package) -> String {
    format!("{}:{}", package.name, package.arch)
}

/// Where dpkg keeps what it has not yet written into its list.
const DPKG_UPDATES: &str = "/var/lib/dpkg/updates";

/// What a machine has.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) packages: Vec<Package>,
    pub(super) errors: Vec<String>,
    /// At least one list of packages could be read.
    pub(super) is_known: bool,
}

impl Inventory {
    /// Reads what is installed: rpm's packages, then dpkg's, then apk's.
    pub(super) fn read(context: &Context) -> Self {
        let mut inventory = Self::default();
        inventory.ask_rpm(context);
        inventory.read_list(&context.path(DPKG_STATUS), |bytes| dpkg(bytes, DpkgList::Status));
        inventory.read_dpkg_parts(&context.path(DPKG_PARTS));
        inventory.look_at_updates(&context.path(DPKG_UPDATES));
        inventory.read_list(&apk_list(|path| context.path(path)), apk);
        if !inventory.is_known && inventory.errors.is_empty() {
            let why = "no list of packages is known here: there is none of dpkg, rpm or apk".to_owned();
            inventory.errors.push(why);
        }
        inventory
    }

    fn read_list(&mut self, path: &Path, parse: impl FnOnce(&[u8]) -> Listed) {
        match reading::whole(path) {
            Ok(bytes) => {
                let listed = parse(&bytes);
                self.is_known = true;
                self.note_unread(path, &listed.unread, listed.stanzas);
                self.packages.extend(listed.packages);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.errors.push(reading::open_error(path, &error)),
        }
    }

    fn note_unread(&mut self, path: &Path, lines: &[usize], rows: usize) {
        self.errors.extend(Unread::of(lines).told(path, rows));
    }

    /// Says that dpkg has not written its list anew yet: it was interrupted, or is at work.
    fn look_at_updates(&mut self, directory: &Path) {
        let is_update = |name: &str| !name.is_empty() && name.bytes().all(|digit| digit.is_ascii_digit());
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let count = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_update)).count();
        if count > 0 {
            let shown = directory.display();
            self.errors.push(format!("{shown}: {count} changes are not in dpkg's list yet: packages may be missing"));
        }
    }

    fn read_dpkg_parts(&mut self, directory: &Path) {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.errors.push(reading::open_error(directory, &error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) => files.push(entry.path()),
                Err(error) => return self.errors.push(reading::open_error(directory, &error)),
            }
        }
        files.sort();
        // Beside each list may lie one of what its files hash to.
        for file in files.iter().filter(|file| file.extension().is_none_or(|extension| extension != "md5sums")) {
            self.read_list(file, |bytes| dpkg(bytes, DpkgList::Part));
        }
    }

    fn ask_rpm(&mut self, context: &Context) {
        let is_there =
            |path: &PathBuf| std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0);
        let database = RPM_DATABASES.iter().map(|path| context.path(path)).find(is_there);
        let Some(program) = program::find(context, "rpm") else {
            if let Some(database) = database {
                let why = "there is no rpm on this machine to read it, so its packages are not known";
                self.errors.push(format!("{}: {why}", database.display()));
            }
            return;
        };
        let said = program::ask(&program, &["-qa", "--queryformat", "%{NAME} %{EVR} %{ARCH}\\n"], context);
        let (mut rows, mut unread) = (0, Vec::new());
        for (line, number) in said.bytes.split(|byte| *byte == b'\n').zip(1..) {
            if line.trim_ascii().is_empty() {
                continue;
            }
            rows += 1;
            match rpm_line(&shown(line)) {
                Some(package) => self.packages.push(package),
                None => unread.push(number),
            }
        }
        self.note_unread(&program, &unread, rows);
        // An old rpm that cannot read its database says so and ends well.
        let is_silent = rows == 0 && said.failure.is_none() && database.is_some();
        self.is_known |= (said.failure.is_none() && !is_silent) || rows > 0;
        if let (true, Some(database)) = (is_silent, &database) {
            let why = "it named no package, although there is the database";
            self.errors.push(format!(
                "{} -qa: {why} {}: no package of rpm is known",
                program.display(),
                database.display()
            ));
        }
        if let Some(why) = said.failure {
            let database = database.map(|path| format!("; the database is {}", path.display())).unwrap_or_default();
            let packages = if rows == 0 { "no package of rpm is known" } else { "packages of rpm may be missing" };
            self.errors.push(format!("{} -qa: {why}: {packages}{database}", program.display()));
        }
    }
}

fn rpm_line(line: &str) -> Option<Package> {
    let mut words = line.split_whitespace();
    let (name, version, arch) = (words.next()?, words.next()?, words.next().unwrap_or_default());
    // A package without an epoch has none, whatever an old rpm writes.
    let version = version.strip_prefix("(none):").unwrap_or(version);
    // Keys are kept as packages that no machine can run.
    let arch = if arch == "(none)" { "" } else { arch };
    let (name, version, arch) = (name.to_owned(), version.to_owned(), arch.to_owned());
    Some(Package { name, version, kind: "rpm".to_owned(), arch, ..Package::default() })
}
