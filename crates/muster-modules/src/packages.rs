//! Lists of packages as package managers keep them, for whoever names packages and for whoever counts them.
//!
//! Stays true: a package is one that has files on the disk, whatever its state; the state is told when it is not simply
//! installed. A stanza that cannot be read costs itself and is counted.
//! Not here: where the lists lie, and programs that must be asked.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where rpm keeps its database, newest form first.
pub const RPM_DATABASES: [&str; 6] = [
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/var/lib/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/Packages.db",
    "/var/lib/rpm/Packages.db",
    "/usr/lib/sysimage/rpm/Packages",
    "/var/lib/rpm/Packages",
];
/// dpkg's list.
pub const DPKG_STATUS: &str = "/var/lib/dpkg/status";
/// Where images without a package manager list what they are made of, a file for each package.
pub const DPKG_PARTS: &str = "/var/lib/dpkg/status.d";
/// Where apk has its list: the newer place, which version 3 moves it to, and the older one.
const APK_INSTALLED: [&str; 2] = ["/usr/lib/apk/db/installed", "/lib/apk/db/installed"];

/// Returns apk's list, as `at` makes paths of names: the first that is there, else the older place.
pub fn apk_list(at: impl Fn(&str) -> PathBuf) -> PathBuf {
    let [newer, older] = APK_INSTALLED.map(at);
    if newer.exists() { newer } else { older }
}

/// One package that has files on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, as the package manager writes it.
    pub version: String,
    /// `dpkg`, `rpm` or `apk`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The architecture it is for.
    pub arch: String,
    /// dpkg's words, such as `hold ok installed`; empty when it is installed and nothing is special.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
}

/// What a list holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// The packages, in the list's order.
    pub packages: Vec<Package>,
    /// Lines, counted from 1, that could not be read or begin a stanza that could not.
    pub unread: Vec<usize>,
    /// Stanzas in all.
    pub stanzas: usize,
}

/// Which of dpkg's lists it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DpkgList {
    /// [`DPKG_STATUS`]: each package has a state.
    Status,
    /// One below [`DPKG_PARTS`]: the image is what it is, and no state is written.
    Part,
}

/// Reads one of dpkg's lists: names of fields in any case, with or without a blank behind the colon, lines that end in
/// any way, as dpkg itself does.
pub fn dpkg(list: &[u8], of: DpkgList) -> Listed {
    stanzas(list, |fields, listed, line| {
        let Some(name) = fields.get("package") else { return listed.unread.push(line) };
        let words: Vec<_> = fields.get("status").unwrap_or_default().split_whitespace().collect();
        let state = match words[..] {
            [_, _, "not-installed" | "config-files"] => return,
            ["install", "ok", "installed"] => String::new(),
            [_, _, _] => words.join(" "),
            // A state that cannot be read is no reason to keep a package quiet.
            [] if of == DpkgList::Part => String::new(),
            _ => {
                listed.unread.push(line);
                "unknown".to_owned()
            }
        };
        let version = fields.get("version").unwrap_or_default();
        // Nothing else has files and no version.
        if version.is_empty() && !state.ends_with(" half-installed") {
            listed.unread.push(line);
        }
        let arch = fields.get("architecture").unwrap_or_default();
        listed.packages.push(Package {
            name: name.into(),
            version: version.into(),
            kind: "dpkg".into(),
            arch: arch.into(),
            state,
        });
    })
}

/// Reads apk's list.
pub fn apk(list: &[u8]) -> Listed {
    stanzas(list, |fields, listed, line| {
        let field = |name| fields.get(name).unwrap_or_default().to_owned();
        let (name, version, arch) = (field("p"), field("v"), field("a"));
        if name.is_empty() || version.is_empty() {
            listed.unread.push(line);
        }
        if !name.is_empty() {
            listed.packages.push(Package { name, version, kind: "apk".to_owned(), arch, ..Package::default() });
        }
    })
}

/// The fields of a stanza whose names matter here. Of several of one name the first counts.
#[derive(Debug, Default)]
struct Fields(Vec<(String, String)>);

/// Fields that are kept.
const KEPT: [&str; 7] = ["package", "status", "version", "architecture", "p", "v", "a"];

impl Fields {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn put(&mut self, name: &str, value: &[u8]) {
        if let Some(known) = KEPT.iter().find(|known| known.eq_ignore_ascii_case(name)) {
            let value = crate::modules::list::shown(value.trim_ascii()).into_owned();
            self.0.push(((*known).to_owned(), value));
        }
    }
}

/// Hands in the fields of each stanza, with the number of its first line.
fn stanzas(list: &[u8], mut take: impl FnMut(&Fields, &mut Listed, usize)) -> Listed {
    let mut listed = Listed::default();
    let mut open: Option<(usize, Fields)> = None;
    let mut end = |open: &mut Option<(usize, Fields)>, listed: &mut Listed| {
        if let Some((line, fields)) = open.take() {
            listed.stanzas += 1;
            take(&fields, listed, line);
        }
    };
    for (line, number) in list.split(|byte| *byte == b'\n').zip(1..) {
        let is_continued = line.starts_with(b" ") || line.starts_with(b"\t");
        let text = line.trim_ascii();
        if text.is_empty() {
            end(&mut open, &mut listed);
            continue;
        }
        let (_, fields) = open.get_or_insert_with(|| (number, Fields::default()));
        if is_continued {
            continue;
        }
        let colon = text.iter().position(|byte| *byte == b':');
        match colon.map(|at| (std::str::from_utf8(&text[..at]), &text[at + 1..])) {
            Some((Ok(name), value)) => fields.put(name.trim_end(), value),
            Some((Err(_), _)) | None => listed.unread.push(number),
        }
    }
    end(&mut open, &mut listed);
    listed.unread.sort_unstable();
    listed.unread.dedup();
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(listed: &Listed) -> Vec<&str> {
        listed.packages.iter().map(|package| package.name.as_str()).collect()
    }

    #[test]
    fn a_stanza_that_cannot_be_read_costs_itself_and_is_counted() {
        let list = b"Package: a\nStatus: install ok installed\nVersion: 1\n\nVersion: 2\nStatus: install ok installed\n\n\
                     no field\nPackage: b\nStatus: install ok installed\nVersion: 3\n\nPackage: c\nStatus: odd\nVersion: 4\n\n\
                     Package: d\nStatus: install ok installed";
        let listed = dpkg(list, DpkgList::Status);
        assert_eq!(names(&listed), ["a", "b", "c", "d"]);
        assert_eq!((&listed.unread[..], listed.stanzas), (&[5, 8, 13, 17][..], 5));
        assert_eq!(listed.packages[2].state, "unknown");
    }

    #[test]
    fn a_state_that_is_new_is_told() {
        let listed = dpkg(b"Package: a\nStatus: install ok half-baked\nVersion: 1\n", DpkgList::Status);
        assert_eq!(listed.packages[0].state, "install ok half-baked");
        let bare = b"Package: a\nVersion: 1\n";
        assert_eq!((dpkg(bare, DpkgList::Part).unread.len(), dpkg(bare, DpkgList::Status).unread.len()), (0, 1));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = (dpkg(&bytes, DpkgList::Status), apk(&bytes));
        }
    }
}
