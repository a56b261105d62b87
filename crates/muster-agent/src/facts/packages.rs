//! How many packages are installed, counted in the package managers' own files.
//!
//! Stays true: lists are read by the same parser as the modules', so that the count is how many packages `pkg` names.

#[path = "rpm.rs"]
mod rpm;

use muster_modules::packages::{DPKG_PARTS, DPKG_STATUS, DpkgList, Listed, apk, apk_list, dpkg};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a list that are read; larger ones have no count.
const LIST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Counts the packages in a file; `None` when it cannot be read.
type Count = fn(&Path) -> Option<u64>;

/// Files of rpm's database, newest form first, with what counts each.
const RPM: [(&str, Count); 6] = [
    ("usr/lib/sysimage/rpm/rpmdb.sqlite", count_sqlite),
    ("var/lib/rpm/rpmdb.sqlite", count_sqlite),
    ("usr/lib/sysimage/rpm/Packages.db", rpm::count_ndb),
    ("var/lib/rpm/Packages.db", rpm::count_ndb),
    ("usr/lib/sysimage/rpm/Packages", rpm::count_bdb),
    ("var/lib/rpm/Packages", rpm::count_bdb),
];

/// Returns the kind of the first package database with packages in it, and how many: `None` when that cannot be told. A
/// machine may have the tools of a package manager that is not its own, whose database is empty.
pub(super) fn count(root: &Path) -> Option<(&'static str, Option<u64>)> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let status = || listed(&at(DPKG_STATUS), |bytes| dpkg(bytes, DpkgList::Status));
    let dpkg = || status().into_iter().chain(parts(&at(DPKG_PARTS))).reduce(|one, other| one + other);
    let apk = || listed(&apk_list(at), apk);
    let of = |kind, count: Option<u64>| count.filter(|count| *count > 0).map(|count| (kind, Some(count)));
    of("dpkg", dpkg()).or_else(|| of("apk", apk())).or_else(|| {
        let found: Vec<_> = RPM.iter().map(|(path, count)| (root.join(path), count)).collect();
        let present: Vec<_> = found.iter().filter(|(path, _)| path.is_file()).collect();
        let count = present.iter().find_map(|(path, count)| count(path)).filter(|count| *count > 0);
        (!present.is_empty()).then_some(("rpm", count))
    })
}

fn count_sqlite(path: &Path) -> Option<u64> {
    count_rows(path, "Packages")
}

/// Counts the packages of a list; `None` when it cannot be read whole.
fn listed(path: &Path, parse: impl Fn(&[u8]) -> Listed) -> Option<u64> {
    let bytes = super::read_whole(path, LIST_BYTES_MAX)?;
    u64::try_from(parse(&bytes).packages.len()).ok()
}

/// Counts what an image without a package manager is made of; `None` when there is no such list.
fn parts(directory: &Path) -> Option<u64> {
    let files = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    let lists = files.filter(|file| file.extension().is_none_or(|extension| extension != "md5sums"));
    Some(lists.filter_map(|file| listed(&file, |bytes| dpkg(bytes, DpkgList::Part))).sum())
}

/// Counts the rows of a table in an SQLite file, by walking its tree of pages. What is in a write-ahead log beside it
/// is not seen; the package manager empties that at its end.
fn count_rows(path: &Path, table: &str) -> Option<u64> {
    let database = Database::open(path).ok()??;
    let root = database.root_of(table).ok()??;
    database.rows(root).ok()
}

struct Database {
    file: File,
    page_bytes: u32,
    pages: u64,
}

/// A page of a table: its cells, and the page behind the last one when it is not a leaf.
struct Page {
    bytes: Vec<u8>,
    header: usize,
    is_leaf: bool,
}

impl Database {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let mut header = [0; 100];
        file.read_exact_at(&mut header, 0)?;
        let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 65_536,
            bytes => u32::from(bytes),
        };
        let known = &header[..16] == b"SQLite format 3\0" && page_bytes.is_power_of_two() && page_bytes >= 512;
        if !known {
            return Ok(None);
        }
        let pages = file.metadata()?.len() / u64::from(page_bytes);
        Ok(Some(Self { file, page_bytes, pages }))
    }

    fn page(&self, number: u32) -> io::Result<Page> {
        let mut bytes = vec![0; self.page_bytes as usize];
        let before = number.checked_sub(1).ok_or_else(broken)?;
        self.file.read_exact_at(&mut bytes, u64::from(before) * u64::from(self.page_bytes))?;
        let header = if number == 1 { 100 } else { 0 };
        let is_leaf = match bytes[header] {
            0x0d => true,
            0x05 => false,
            _ => return Err(broken()),
        };
        Ok(Page { bytes, header, is_leaf })
    }

    /// Visits every leaf below `root`. A damaged tree may lead back to itself; it is left after as many pages as there
    /// are.
    fn leaves(&self, root: u32, mut visit: impl FnMut(&Page) -> io::Result<()>) -> io::Result<()> {
        let mut waiting = vec![root];
        let mut seen = 0;
        while let Some(number) = waiting.pop() {
            seen += 1;
            if seen > self.pages {
                return Err(broken());
            }
            let page = self.page(number)?;
            if page.is_leaf {
                visit(&page)?;
                continue;
            }
            waiting.push(page.u32(page.header + 8)?);
            for cell in 0..page.cells() {
                let at = page.cell(cell)?;
                waiting.push(page.u32(at)?);
            }
        }
        Ok(())
    }

    fn rows(&self, root: u32) -> io::Result<u64> {
        let mut count = 0;
        self.leaves(root, |page| {
            count += u64::from(page.cells());
            Ok(())
        })?;
        Ok(count)
    }

    /// Finds a table's first page in the schema, whose rows are (type, name, table, page, text).
    fn root_of(&self, table: &str) -> io::Result<Option<u32>> {
        let mut found = None;
        self.leaves(1, |page| {
            for cell in 0..page.cells() {
                let record = page.record(page.cell(cell)?)?;
                if record.first().copied() == Some(b"table") && record.get(1).copied() == Some(table.as_bytes()) {
                    let number = record.get(3).ok_or_else(broken)?;
                    found = Some(number.iter().fold(0_u32, |number, byte| (number << 8) | u32::from(*byte)));
                }
            }
            Ok(())
        })?;
        Ok(found)
    }
}

impl Page {
    fn cells(&self) -> u16 {
        u16::from_be_bytes([self.bytes[self.header + 3], self.bytes[self.header + 4]])
    }

    fn cell(&self, index: u16) -> io::Result<usize> {
        let pointers = self.header + if self.is_leaf { 8 } else { 12 };
        let at = pointers + 2 * usize::from(index);
        let pointer = self.bytes.get(at..at + 2).ok_or_else(broken)?;
        Ok(usize::from(u16::from_be_bytes([pointer[0], pointer[1]])))
    }

    fn u32(&self, at: usize) -> io::Result<u32> {
        let bytes = self.bytes.get(at..at + 4).ok_or_else(broken)?;
        Ok(u32::from_be_bytes(bytes.try_into().expect("four bytes are four bytes")))
    }

    /// Reads the columns of a leaf's cell as bytes, as far as they are on the page.
    fn record(&self, at: usize) -> io::Result<Vec<&[u8]>> {
        let mut reader = Varints { bytes: self.bytes.get(at..).ok_or_else(broken)?, at: 0 };
        reader.next()?; // Bytes of the record.
        reader.next()?; // The row's number.
        let start = reader.at;
        let head_bytes = usize::try_from(reader.next()?).map_err(|_| broken())?;
        let mut sizes = Vec::new();
        while reader.at < start + head_bytes {
            sizes.push(column_bytes(reader.next()?)?);
        }
        let mut columns = Vec::new();
        let mut from = start + head_bytes;
        for size in sizes {
            let Some(column) = from.checked_add(size).and_then(|end| reader.bytes.get(from..end)) else { break };
            columns.push(column);
            from += size;
        }
        Ok(columns)
    }
}

struct Varints<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Varints<'_> {
    fn next(&mut self) -> io::Result<u64> {
        let mut value = 0_u64;
        for place in 0..9 {
            let byte = *self.bytes.get(self.at).ok_or_else(broken)?;
            self.at += 1;
            if place == 8 {
                return Ok((value << 8) | u64::from(byte));
            }
            value = (value << 7) | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(value)
    }
}

/// Returns how many bytes a column of this serial type takes.
fn column_bytes(kind: u64) -> io::Result<usize> {
    let bytes = match kind {
        0 | 8 | 9 => 0,
        1..=4 => kind,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return Err(broken()),
        even if even % 2 == 0 => (even - 12) / 2,
        odd => (odd - 13) / 2,
    };
    usize::try_from(bytes).map_err(|_| broken())
}

fn broken() -> io::Error {
    io::Error::other("the package database is not what it should be")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with(file: &str, content: &[u8]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        root
    }

    #[test]
    fn dpkg_counts_what_is_installed_and_not_what_was() {
        let status = "Package: a\nStatus: install ok installed\n\nPackage: b\nStatus: deinstall ok config-files\n\n\
                      Package: c\nStatus: install ok installed\n";
        let root = root_with("var/lib/dpkg/status", status.as_bytes());
        assert_eq!(count(root.path()), Some(("dpkg", Some(2))));
        std::fs::create_dir(root.path().join("var/lib/dpkg/status.d")).unwrap();
        std::fs::write(root.path().join("var/lib/dpkg/status.d/base"), "Package: base\nVersion: 1\n").unwrap();
        std::fs::write(root.path().join("var/lib/dpkg/status.d/base.md5sums"), "0 x\n").unwrap();
        assert_eq!(count(root.path()), Some(("dpkg", Some(3))));
    }

    #[test]
    fn case_01_the_count_is_how_many_packages_the_module_names() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../muster-modules/fixtures/cases/01-dpkg-states");
        for (list, want) in [("status", 9), ("status-odd", 6), ("status-crlf", 3)] {
            let root = root_with("var/lib/dpkg/status", &std::fs::read(cases.join(list)).unwrap());
            assert_eq!(count(root.path()), Some(("dpkg", Some(want))), "{list}");
            let clock = std::sync::Arc::new(crate::world::SystemClock);
            let context =
                muster_modules::Context { root: root.path().to_owned(), ..muster_modules::Context::new(clock) };
            let all = serde_json::json!({"pkgmatch": {"matches": ["."]}});
            let result = muster_modules::registry::find("pkg").unwrap().run(&all, &context);
            assert_eq!(result.elements["packages"].as_array().unwrap().len() as u64, want, "{list}");
        }
    }

    #[test]
    fn apk_counts_its_packages() {
        for list in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
            let root = root_with(list, b"C:Q1\nP:musl\nV:1\n\nC:Q2\nP:zlib\nV:2\n");
            assert_eq!(count(root.path()), Some(("apk", Some(2))), "{list}");
        }
    }

    #[test]
    fn a_machine_without_a_known_package_manager_has_no_count() {
        assert_eq!(count(tempfile::tempdir().unwrap().path()), None);
    }

    #[test]
    fn the_empty_database_of_another_package_manager_is_passed_over() {
        let root = root_with("var/lib/dpkg/status", b"");
        assert_eq!(count(root.path()), None);
        std::fs::create_dir_all(root.path().join("var/lib/rpm")).unwrap();
        std::fs::write(root.path().join("var/lib/rpm/rpmdb.sqlite"), database(1, 3)).unwrap();
        assert_eq!(count(root.path()), Some(("rpm", Some(3))));
    }

    /// A database of one schema page and a table of `leaves` pages with `cells` rows each below one inner page.
    fn database(leaves: u8, cells: u8) -> Vec<u8> {
        const PAGE: usize = 512;
        let mut bytes = vec![0; PAGE * (2 + usize::from(leaves))];
        bytes[..16].copy_from_slice(b"SQLite format 3\0");
        bytes[16..18].copy_from_slice(&512_u16.to_be_bytes());
        // The schema: one row, ("table", "Packages", "Packages", 2, "").
        let record = [&[6, 23, 29, 29, 1, 13][..], b"table", b"Packages", b"Packages", &[2]].concat();
        let cell = [&[u8::try_from(record.len()).unwrap(), 1][..], &record].concat();
        let at = PAGE - cell.len();
        bytes[at..PAGE].copy_from_slice(&cell);
        bytes[100] = 0x0d;
        bytes[104] = 1;
        bytes[108..110].copy_from_slice(&u16::try_from(at).unwrap().to_be_bytes());
        // The inner page: all leaves but the last in cells, the last in its header.
        let inner = PAGE;
        bytes[inner] = 0x05;
        bytes[inner + 4] = leaves - 1;
        bytes[inner + 11] = 2 + leaves;
        for leaf in 0..leaves - 1 {
            let cell = 200 + 8 * usize::from(leaf);
            let pointer = inner + 12 + 2 * usize::from(leaf);
            bytes[pointer..pointer + 2].copy_from_slice(&u16::try_from(cell).unwrap().to_be_bytes());
            bytes[inner + cell + 3] = 3 + leaf;
        }
        for leaf in 0..usize::from(leaves) {
            bytes[PAGE * (2 + leaf)] = 0x0d;
            bytes[PAGE * (2 + leaf) + 4] = cells;
        }
        bytes
    }

    #[test]
    fn rpm_counts_the_rows_of_its_database() {
        let root = root_with("usr/lib/sysimage/rpm/rpmdb.sqlite", &database(5, 7));
        assert_eq!(count(root.path()), Some(("rpm", Some(35))));
    }

    #[test]
    fn a_damaged_database_is_no_count_and_no_crash() {
        let whole = database(3, 2);
        let root = root_with("var/lib/rpm/rpmdb.sqlite", &whole);
        let path = root.path().join("var/lib/rpm/rpmdb.sqlite");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            std::fs::write(&path, &bytes).unwrap();
            // Whatever comes of it comes at once: a tree that leads back to itself is left.
            let counted = count(root.path()).and_then(|(_, count)| count);
            assert!(counted.is_none_or(|count| count < 1_000_000), "byte {at}");
        }
        for cut in [0, 50, 100, 511, 513, 1500] {
            let root = root_with("var/lib/rpm/rpmdb.sqlite", &whole[..cut]);
            // That it is there is known, how many is not.
            assert_eq!(count(root.path()), Some(("rpm", None)), "cut at {cut}");
        }
    }
}
