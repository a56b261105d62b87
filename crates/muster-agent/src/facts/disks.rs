//! Mounted disks: where, of which kind, how large.

use muster_modules::filesystems::{Mount, Table};
use std::path::Path;

/// File systems that are on a disk, local or shared. Everything else is made up by the kernel.
const KINDS: [&str; 24] = [
    "9p", "bcachefs", "btrfs", "ceph", "cifs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "jfs",
    "nfs", "nfs4", "ntfs", "ntfs3", "overlay", "reiserfs", "smb3", "vfat", "virtiofs", "xfs", "zfs",
];
/// Returns `mount kind bytes` for each disk, sorted; without bytes for disks of other machines, and for those behind one,
/// because asking for the size may hang when the other side is gone. `table` is the kernel's table of mounts.
pub(super) fn list(table: &[u8], most: usize) -> Vec<String> {
    let table = Table::of(table);
    let mut disks = Vec::new();
    for mount in &table.rows {
        // Containers have overlays of layers everywhere; the one that counts is the root.
        let kind = mount.kind.as_str();
        if !KINDS.contains(&kind) || (kind == "overlay" && mount.path != Path::new("/")) {
            continue;
        }
        let is_away = mount.may_hang() || table.on_the_way(&mount.path, Mount::may_hang).is_some();
        let size = if is_away { None } else { size(&mount.path) };
        let size = size.map(|bytes| format!(" {bytes}")).unwrap_or_default();
        disks.push(format!("{} {kind}{size}", mount.path.display()));
    }
    disks.sort();
    disks.dedup();
    disks.truncate(most);
    disks
}

fn size(mount: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(mount).ok()?;
    found.f_blocks.checked_mul(found.f_frsize)
}

/// Returns the bytes that are free for everybody.
pub(super) fn free(mount: &str) -> Option<u64> {
    let found = rustix::fs::statvfs(mount).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_are_listed_and_blanks_are_blanks() {
        let table = b"1 0 0:1 / /proc rw - proc proc rw\n2 0 8:1 / /no\\040such ext4 rw - ext4 /dev/sdz1 rw\n\
                      3 0 0:2 / /x rw - overlay overlay rw\n4 0 0:3 / /mnt/nfs rw - nfs4 srv:/x rw\n\
                      5 0 0:4 / /tmp rw - tmpfs tmpfs rw\n6 0 8:1 / /no\\040such ext4 rw - ext4 /dev/sdz1 rw\nbad\n";
        assert_eq!(list(table, 9), ["/mnt/nfs nfs4", "/no such ext4"]);
        assert_eq!(list(table, 1).len(), 1);
    }

    #[test]
    fn case_03_disks_are_listed_whatever_their_names_and_those_behind_far_ones_are_not_asked() {
        let cases =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../muster-modules/fixtures/cases/03-mountinfo/mountinfo");
        let disks = list(&std::fs::read(cases).unwrap(), 99);
        let names: Vec<_> = disks.iter().map(|disk| disk.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            names,
            ["/ ext4", "/mnt/c 9p", "/mnt/d 9p", "/srv/big-device xfs", "/srv/context xfs", "/srv/root-outside ext4"]
        );
        let behind = b"1 0 0:1 / /far rw - nfs srv:/ rw\n2 1 8:1 / /far/near rw - ext4 /dev/sdz1 rw\n";
        assert_eq!(list(behind, 9), ["/far nfs", "/far/near ext4"]);
    }

    #[test]
    fn a_disk_has_its_size() {
        let root = list(b"1 0 8:1 / / rw - ext4 /dev/x rw\n", 9);
        let bytes: u64 = root[0].strip_prefix("/ ext4 ").unwrap().parse().unwrap();
        assert!(bytes > 0 && free("/").unwrap() <= bytes);
    }
}
