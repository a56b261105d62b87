//! Rows of rpm's two older databases, counted without the libraries that write them.
//!
//! `Packages.db` (ndb) begins with a table of slots, one for each package. `Packages` is a hash of Berkeley DB: pages with
//! pairs of entries, one pair for each package and one more that says which number the next package gets.
//! Stays true: a damaged file is no count; what is read is bounded by the file's size. Not here: the form in SQLite.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const NDB_MAGIC: &[u8] = b"RpmP";
const NDB_SLOT_MAGIC: &[u8] = b"Slot";
const NDB_PAGE_BYTES: usize = 4096;
const NDB_SLOT_BYTES: usize = 16;
/// Bytes before the first slot.
const NDB_HEADER_BYTES: usize = 32;

const BDB_HASH_MAGIC: u32 = 0x0006_1561;
/// Bytes of a page before the places of its entries.
const BDB_HEADER_BYTES: usize = 26;
/// Types of page that hold entries: the older one and the sorted one.
const BDB_ENTRIES: [u8; 2] = [2, 13];
/// Type of an entry that is on its page whole.
const BDB_ON_PAGE: u8 = 1;

/// Counts the packages of an ndb file.
pub(super) fn count_ndb(path: &Path) -> Option<u64> {
    let file = File::open(path).ok()?;
    let mut page = vec![0; NDB_PAGE_BYTES];
    file.read_exact_at(&mut page, 0).ok()?;
    let version = little(&page, 4)?;
    if !page.starts_with(NDB_MAGIC) || version != 0 {
        return None;
    }
    let pages = u64::from(little(&page, 12)?);
    if pages == 0 || pages * NDB_PAGE_BYTES as u64 > file.metadata().ok()?.len() {
        return None;
    }
    let mut count = 0;
    for number in 0..pages {
        file.read_exact_at(&mut page, number * NDB_PAGE_BYTES as u64).ok()?;
        let slots = &page[if number == 0 { NDB_HEADER_BYTES } else { 0 }..];
        for slot in slots.chunks_exact(NDB_SLOT_BYTES) {
            if !slot.starts_with(NDB_SLOT_MAGIC) {
                return None;
            }
            // A slot that is free names no package or no place.
            count += u64::from(little(slot, 4)? != 0 && little(slot, 8)? != 0);
        }
    }
    Some(count)
}

fn little(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Counts the packages of a Berkeley DB hash.
pub(super) fn count_bdb(path: &Path) -> Option<u64> {
    Hash::open(path).ok()??.count().ok()?
}

struct Hash {
    file: File,
    page_bytes: usize,
    last_page: u32,
    /// Whether it was written on a machine with the other order of bytes.
    big: bool,
}

impl Hash {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let mut header = [0; 72];
        file.read_exact_at(&mut header, 0)?;
        let mut hash = Self { file, page_bytes: 0, last_page: 0, big: false };
        if hash.u32(&header, 12) != BDB_HASH_MAGIC {
            hash.big = true;
        }
        let page_bytes = hash.u32(&header, 20);
        let last_page = hash.u32(&header, 32);
        let is_known = hash.u32(&header, 12) == BDB_HASH_MAGIC && page_bytes.is_power_of_two();
        // Bytes 24 and 48: encryption, and flags of which the first says the same.
        if !is_known || !(512..=65_536).contains(&page_bytes) || header[24] != 0 {
            return Ok(None);
        }
        let bytes = hash.file.metadata()?.len();
        if (u64::from(last_page) + 1) * u64::from(page_bytes) > bytes {
            return Ok(None);
        }
        (hash.page_bytes, hash.last_page) = (page_bytes as usize, last_page);
        Ok(Some(hash))
    }

    /// Visits every page: most are parts of a package's description, of which only the head is read.
    fn count(&self) -> io::Result<Option<u64>> {
        let mut count = 0;
        let mut page = vec![0; self.page_bytes];
        for number in 1..=u64::from(self.last_page) {
            let at = number * self.page_bytes as u64;
            self.file.read_exact_at(&mut page[..BDB_HEADER_BYTES], at)?;
            if !BDB_ENTRIES.contains(&page[25]) {
                continue;
            }
            self.file.read_exact_at(&mut page, at)?;
            let Some(packages) = self.packages_on(&page) else { return Ok(None) };
            count += packages;
        }
        Ok(Some(count))
    }

    fn packages_on(&self, page: &[u8]) -> Option<u64> {
        let entries = usize::from(self.u16(page, 20)?);
        let mut packages = 0;
        for key in (0..entries).step_by(2) {
            let at = usize::from(self.u16(page, BDB_HEADER_BYTES + 2 * key)?);
            // A package's key is its number; the pair with number 0 counts packages.
            let entry = page.get(at..at + 5)?;
            packages += u64::from(entry != [BDB_ON_PAGE, 0, 0, 0, 0]);
        }
        Some(packages)
    }

    fn u32(&self, bytes: &[u8; 72], at: usize) -> u32 {
        let bytes = bytes[at..at + 4].try_into().expect("four bytes are four bytes");
        if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    fn u16(&self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(if self.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn ndb(packages: u32) -> Vec<u8> {
        let mut bytes = vec![0; 2 * NDB_PAGE_BYTES + 100];
        for slot in bytes[..2 * NDB_PAGE_BYTES].chunks_exact_mut(NDB_SLOT_BYTES) {
            slot[..4].copy_from_slice(NDB_SLOT_MAGIC);
        }
        bytes[..NDB_HEADER_BYTES].fill(0);
        bytes[..4].copy_from_slice(NDB_MAGIC);
        bytes[12] = 2;
        for number in 1..=packages {
            // Every other slot is free.
            let at = NDB_HEADER_BYTES + 2 * NDB_SLOT_BYTES * number as usize;
            bytes[at + 4..at + 8].copy_from_slice(&number.to_le_bytes());
            bytes[at + 8..at + 12].copy_from_slice(&(number + 512).to_le_bytes());
        }
        bytes
    }

    #[test]
    fn ndb_counts_its_used_slots() {
        assert_eq!(count_ndb(file(&ndb(200)).path()), Some(200));
        assert_eq!(count_ndb(file(&ndb(0)).path()), Some(0));
    }

    #[test]
    fn a_damaged_ndb_is_no_count() {
        let whole = ndb(3);
        for (at, value) in
            [(0, b'X'), (4, 1), (12, 0), (12, 9), (15, 0xff), (NDB_HEADER_BYTES, b'X'), (NDB_PAGE_BYTES, b'X')]
        {
            let mut bytes = whole.clone();
            bytes[at] = value;
            assert_eq!(count_ndb(file(&bytes).path()), None, "byte {at}");
        }
        assert_eq!(count_ndb(file(&whole[..NDB_PAGE_BYTES]).path()), None);
    }

    /// A hash with one page of entries, one of a package's description, and another of entries.
    fn bdb(packages: [u8; 2]) -> Vec<u8> {
        let mut bytes = vec![0; 4 * 512];
        bytes[12..16].copy_from_slice(&BDB_HASH_MAGIC.to_le_bytes());
        bytes[20..24].copy_from_slice(&512_u32.to_le_bytes());
        bytes[32] = 3;
        // Looks like entries, but is no such page.
        bytes[2 * 512 + 20] = 9;
        bytes[2 * 512 + 25] = 7;
        for (page, kind, packages, first) in [(1, 13, packages[0], 0), (3, 2, packages[1], 100)] {
            let page = &mut bytes[512 * page..512 * (page + 1)];
            page[20] = packages * 2;
            page[25] = kind;
            for number in 0..packages {
                let at = 500 - 8 * usize::from(number);
                for (entry, value) in [(0, [BDB_ON_PAGE, number + first, 0, 0, 0]), (1, [3, 0, 0, 0, 0])] {
                    let place = BDB_HEADER_BYTES + 2 * (2 * usize::from(number) + entry);
                    page[place..place + 2].copy_from_slice(&u16::try_from(at).unwrap().to_le_bytes());
                    if entry == 0 {
                        page[at..at + 5].copy_from_slice(&value);
                    }
                }
            }
        }
        bytes
    }

    #[test]
    fn bdb_counts_its_pairs_without_the_one_that_counts() {
        assert_eq!(count_bdb(file(&bdb([5, 4])).path()), Some(8));
    }

    #[test]
    fn a_damaged_bdb_is_no_count() {
        let whole = bdb([5, 4]);
        for (at, value) in [(12, 0), (20, 1), (24, 1), (33, 1), (512 + 21, 0xff)] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            assert_eq!(count_bdb(file(&bytes).path()), None, "byte {at}");
        }
        for cut in [0, 71, 512, 4 * 512 - 1] {
            assert_eq!(count_bdb(file(&whole[..cut]).path()), None, "cut at {cut}");
        }
    }
}
