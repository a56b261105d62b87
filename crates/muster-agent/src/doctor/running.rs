//! Whether an agent runs, as the kernel's list of locks shows it.
//!
//! Stays true: another account cannot make an agent look alive by a lock on a file of its own, whose inode may have the
//! same number on another file system. What is in doubt does not run.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The kernel's list of locks on files.
const LOCKS: &str = "/proc/locks";

/// Returns whether a process of root or of the directory's owner holds the lock of the state directory; `None` when the
/// kernel does not show locks. Looked up and not tried: an agent that starts just then must get it.
pub(crate) fn is_running(directory: &Path) -> Option<bool> {
    let (Ok(found), Ok(owner)) = (std::fs::metadata(directory.join("lock")), std::fs::metadata(directory)) else {
        return Some(false);
    };
    let locks = std::fs::read_to_string(LOCKS).ok()?;
    Some(locks.lines().filter_map(Lock::read).any(|lock| lock.inode == found.ino() && lock.is_of(&found, owner.uid())))
}

/// A lock on a whole file.
#[derive(Debug, PartialEq, Eq)]
struct Lock {
    process: u32,
    device: (u32, u32),
    inode: u64,
}

impl Lock {
    /// Reads a line such as `1: FLOCK  ADVISORY  WRITE 812 fe:00:14057668 0 EOF`; `None` for locks of other kinds, and for
    /// those that are waited for (`1: -> FLOCK …`).
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().skip(1);
        if [words.next()?, words.next()?, words.next()?] != ["FLOCK", "ADVISORY", "WRITE"] {
            return None;
        }
        let process = words.next()?.parse().ok()?;
        let (device, inode) = words.next()?.rsplit_once(':')?;
        let (major, minor) = device.split_once(':')?;
        let hex = |text| u32::from_str_radix(text, 16).ok();
        Some(Self { process, device: (hex(major)?, hex(minor)?), inode: inode.parse().ok()? })
    }

    /// Whether it is this file that is locked, by a process of root or of `owner`. The process's open files are what
    /// proves it: some file systems (btrfs, overlays) have other device numbers in the list than a file has. Where those
    /// cannot be looked at, the numbers must be the same.
    fn is_of(&self, file: &Metadata, owner: u32) -> bool {
        let process = Path::new("/proc").join(self.process.to_string());
        let is_trusted = std::fs::metadata(&process).is_ok_and(|found| [0, owner].contains(&found.uid()));
        let same_device = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev())) == self.device;
        is_trusted
            && match std::fs::read_dir(process.join("fd")) {
                Ok(open) => open
                    .flatten()
                    .filter_map(|entry| std::fs::metadata(entry.path()).ok())
                    .any(|open| (open.dev(), open.ino()) == (file.dev(), file.ino())),
                Err(_) => same_device,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_read_as_the_kernel_lists_them() {
        let lock = Lock::read("1: FLOCK  ADVISORY  WRITE 812 fe:0a:14057668 0 EOF");
        assert_eq!(lock, Some(Lock { process: 812, device: (0xfe, 0x0a), inode: 14_057_668 }));
        for other in [
            "1: -> FLOCK  ADVISORY  WRITE 812 fe:00:14057668 0 EOF",
            "2: POSIX  ADVISORY  WRITE 812 fe:00:14057668 0 EOF",
            "3: FLOCK  ADVISORY  READ  812 fe:00:14057668 0 EOF",
            "4: FLOCK  ADVISORY  WRITE 812 fe:00",
            "",
        ] {
            assert_eq!(Lock::read(other), None, "{other}");
        }
    }

    #[test]
    fn a_lock_counts_for_its_own_file_and_a_trusted_process() {
        let directory = tempfile::tempdir().unwrap();
        let [ours, other] = ["lock", "other"].map(|name| directory.path().join(name));
        let held = std::fs::File::create(&ours).unwrap();
        std::fs::write(&other, "").unwrap();
        assert_eq!(is_running(directory.path()), Some(false));
        rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(is_running(directory.path()), Some(true));
        let (file, owner) = (ours.metadata().unwrap(), rustix::process::geteuid().as_raw());
        let lock = Lock { process: std::process::id(), device: (0, 0), inode: file.ino() };
        assert!(lock.is_of(&file, owner), "what the process has open proves it, whatever device the list shows");
        // As a file with that inode's number elsewhere would be: this process does not have this one open.
        assert!(!lock.is_of(&other.metadata().unwrap(), owner));
        assert!(!Lock { process: u32::MAX, ..lock }.is_of(&file, owner), "a process that is gone");
    }
}
