//! Mounted disks: where, of which kind, how large.

/// File systems that are on a disk, local or shared. Everything else is made up by the kernel.
const KINDS: [&str; 24] = [
    "9p", "bcachefs", "btrfs", "ceph", "cifs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "jfs",
    "nfs", "nfs4", "ntfs", "ntfs3", "overlay", "reiserfs", "smb3", "vfat", "virtiofs", "xfs", "zfs",
];
/// Those that are only asked for their name: asking for the size may hang when the other side is gone.
const REMOTE: [&str; 6] = ["9p", "ceph", "cifs", "nfs", "nfs4", "smb3"];

/// Returns `mount kind bytes` for each disk, sorted; without bytes for disks of other machines.
pub(super) fn list(mounts: &str, most: usize) -> Vec<String> {
    let mut disks = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(_), Some(mount), Some(kind)) = (fields.next(), fields.next(), fields.next()) else { continue };
        // Containers have overlays of layers everywhere; the one that counts is the root.
        if !KINDS.contains(&kind) || (kind == "overlay" && mount != "/") {
            continue;
        }
        let mount = unescape(mount);
        let size = if REMOTE.contains(&kind) { None } else { size(&mount) };
        let size = size.map(|bytes| format!(" {bytes}")).unwrap_or_default();
        disks.push(format!("{mount} {kind}{size}"));
    }
    disks.sort();
    disks.dedup();
    disks.truncate(most);
    disks
}

fn size(mount: &str) -> Option<u64> {
    let found = rustix::fs::statvfs(mount).ok()?;
    found.f_blocks.checked_mul(found.f_frsize)
}

/// Returns the bytes that are free for everybody.
pub(super) fn free(mount: &str) -> Option<u64> {
    let found = rustix::fs::statvfs(mount).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

/// Undoes how the kernel writes blanks and the like: a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_are_listed_and_blanks_are_blanks() {
        let mounts = "proc /proc proc rw 0 0\n/dev/sdz1 /no\\040such ext4 rw 0 0\noverlay /x overlay rw 0 0\n\
                      srv:/x /mnt/nfs nfs4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/sdz1 /no\\040such ext4 rw 0 0\nbad\n";
        assert_eq!(list(mounts, 9), ["/mnt/nfs nfs4", "/no such ext4"]);
        assert_eq!(list(mounts, 1).len(), 1);
    }

    #[test]
    fn a_disk_has_its_size() {
        let root = list("/dev/x / ext4 rw 0 0\n", 9);
        let bytes: u64 = root[0].strip_prefix("/ ext4 ").unwrap().parse().unwrap();
        assert!(bytes > 0 && free("/").unwrap() <= bytes);
    }
}
