//! What is mounted where, as the kernel's table has it, and which file systems a search stays out of.
//!
//! Stays true: every field is undone of all octal escapes; options are whole, each one, in their order; a row that cannot
//! be read costs itself. Asking about a path here touches no file system but those on the way to it, and never one that
//! the asker stays out of.

use crate::reading;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

/// Links that are followed on one way.
const LINKS_MAX: usize = 40;
/// File systems of another machine: one whose server is away makes whoever asks it wait for ever.
const FAR: &[&str] = &[
    "9p",
    "acfs",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "gfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "panfs",
    "pvfs2",
    "smb3",
    "smbfs",
];
/// File systems in user space that are of this machine. All others may be of another.
const NEAR_FUSE: &[&str] = &[
    "bindfs",
    "cryfs",
    "encfs",
    "exfat",
    "exfat-fuse",
    "fuse-overlayfs",
    "gocryptfs",
    "lxcfs",
    "mergerfs",
    "ntfs-3g",
    "overlayfs",
    "snapfuse",
    "squashfuse",
    "unionfs",
    "unionfs-fuse",
    "zfs-fuse",
];
/// File systems that the kernel makes up: their files are questions to it.
const KERNEL: &[&str] = &[
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cpuset",
    "debugfs",
    "devpts",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];

/// What a file system is to somebody who walks through the machine's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Files of this machine.
    Near,
    /// The kernel makes its files up.
    Kernel,
    /// Another machine has its files.
    Far,
    /// Looking into it mounts what it stands for.
    Automounted,
}

/// One row of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub path: PathBuf,
    /// What is mounted: a device, a server's directory, or whatever was written there.
    pub device: Vec<u8>,
    /// The kind of file system, such as `ext4`.
    pub kind: String,
    /// The options of the mount, then those of the file system that the mount has not.
    pub options: Vec<Vec<u8>>,
}

impl Mount {
    /// Reads a row of `/proc/PID/mountinfo`; see proc(5). `None` when it is none. A row may lack the last field.
    pub fn of_row(row: &[u8]) -> Option<Self> {
        let mut fields = row.split(|byte| *byte == b' ');
        let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        let [id, parent, device] = [fields.next()?, fields.next()?, fields.next()?];
        let [_root, path, options] = [fields.next()?, fields.next()?, fields.next()?];
        if !(is_number(id) && is_number(parent) && device.contains(&b':') && path.starts_with(b"/")) {
            return None;
        }
        // Any number of fields stand between, each with a meaning of its own.
        fields.by_ref().find(|field| *field == b"-")?;
        let (kind, source) = (fields.next().filter(|kind| !kind.is_empty())?, fields.next()?);
        // Some file systems write blanks into the last field.
        let rest = fields.collect::<Vec<_>>().join(&b' ');
        let mut all = split_options(options);
        let own: Vec<_> = split_options(&rest).into_iter().filter(|option| !all.contains(option)).collect();
        all.extend(own);
        Some(Self {
            path: PathBuf::from(OsString::from_vec(unescaped(path))),
            device: unescaped(source),
            kind: String::from_utf8_lossy(&unescaped(kind)).into_owned(),
            options: all,
        })
    }

    /// Returns what the file system is to somebody who walks.
    pub fn class(&self) -> Class {
        let kind = self.kind.as_str();
        let is_far_fuse = || {
            let near = kind.strip_prefix("fuse.").is_some_and(|kind| NEAR_FUSE.contains(&kind));
            // Its kind and its device are what whoever mounted it says; whose it is, the kernel says.
            let is_of_a_user =
                self.options.iter().any(|option| option.strip_prefix(b"user_id=").is_some_and(|user| user != b"0"));
            let is_near = near || self.device.starts_with(b"/dev/");
            (kind == "fuse" || kind == "fuseblk" || kind.starts_with("fuse.")) && (is_of_a_user || !is_near)
        };
        // Whatever the root is made of, it is the machine's own.
        if self.path == Path::new("/") {
            Class::Near
        } else if kind == "autofs" {
            Class::Automounted
        } else if FAR.contains(&kind) || is_far_fuse() {
            Class::Far
        } else if KERNEL.contains(&kind) {
            Class::Kernel
        } else {
            Class::Near
        }
    }

    /// Tells whether whoever asks the file system may have to wait for ever.
    pub fn may_hang(&self) -> bool {
        matches!(self.class(), Class::Far | Class::Automounted)
    }
}

/// Undoes how the kernel writes blanks, line ends and the like: a backslash and three octal digits.
pub fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\'
            && let Some(byte) = tail.get(..3).and_then(octal)
        {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    bytes
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| matches!(byte, b'0'..=b'7').then(|| u32::from(byte - b'0'));
    let number = digits.iter().try_fold(0_u32, |number, byte| Some(number * 8 + digit(byte)?))?;
    u8::try_from(number).ok()
}

/// Splits options at commas that do not stand in quotes, and undoes the escapes of each.
fn split_options(text: &[u8]) -> Vec<Vec<u8>> {
    let mut options = Vec::new();
    let (mut from, mut at) = (0, 0);
    while at < text.len() {
        match text[at] {
            b'"' => {
                // A quote that nothing closes is a letter.
                let closed = text[at + 1..].iter().position(|byte| *byte == b'"');
                at += closed.map_or(0, |length| length + 1);
            }
            b',' => {
                options.push(unescaped(&text[from..at]));
                from = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    options.push(unescaped(&text[from..]));
    options.retain(|option| !option.is_empty());
    options
}

/// The table of all mounts.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// The rows, in the table's order.
    pub rows: Vec<Mount>,
    /// Lines that are no rows, counted from 1.
    pub unread: Vec<usize>,
    /// For each path the row that is on top.
    top: BTreeMap<PathBuf, usize>,
}

/// Why the way to a path was not followed to its end.
#[derive(Debug)]
pub enum Blocked<'a> {
    /// It leads into this mount, which was not to be entered.
    By(&'a Mount),
    /// Something on the way could not be looked at.
    Failed(io::Error),
}

impl Table {
    /// Reads the table of a process, which is called `mountinfo`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        reading::whole(path).map(|bytes| Self::of(&bytes))
    }

    /// Reads the rows of a table.
    pub fn of(bytes: &[u8]) -> Self {
        let mut table = Self::default();
        for (line, number) in bytes.split(|byte| *byte == b'\n').zip(1..) {
            match Mount::of_row(line) {
                Some(mount) => {
                    table.top.insert(mount.path.clone(), table.rows.len());
                    table.rows.push(mount);
                }
                None if line.is_empty() => {}
                None => table.unread.push(number),
            }
        }
        table
    }

    /// Returns what is mounted at exactly this path.
    pub fn at(&self, path: &Path) -> Option<&Mount> {
        self.top.get(path).map(|&row| &self.rows[row])
    }

    /// Returns the mount that a path without links lies in.
    pub fn holding(&self, path: &Path) -> Option<&Mount> {
        path.ancestors().find_map(|path| self.at(path))
    }

    /// Returns the first mount on the way to a path without links that `stays_out` names.
    pub fn on_the_way(&self, path: &Path, stays_out: impl Fn(&Mount) -> bool) -> Option<&Mount> {
        let mut ways: Vec<_> = path.ancestors().collect();
        ways.reverse();
        ways.into_iter().filter_map(|path| self.at(path)).find(|mount| stays_out(mount))
    }

    /// Returns the path behind all links of an absolute path, and touches nothing of the mounts that `stays_out` names.
    ///
    /// # Errors
    /// The way leads into such a mount, or something on it cannot be looked at.
    pub fn real_path(&self, path: &Path, stays_out: impl Fn(&Mount) -> bool) -> Result<PathBuf, Blocked<'_>> {
        let mut real = PathBuf::from("/");
        let mut ahead: VecDeque<OsString> = names(path);
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&name);
            if let Some(mount) = self.at(&next).filter(|mount| stays_out(mount)) {
                return Err(Blocked::By(mount));
            }
            let metadata = std::fs::symlink_metadata(&next).map_err(Blocked::Failed)?;
            if !metadata.is_symlink() {
                real = next;
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(Blocked::Failed(rustix::io::Errno::LOOP.into()));
            }
            let target = std::fs::read_link(&next).map_err(Blocked::Failed)?;
            if target.is_absolute() {
                real = PathBuf::from("/");
            }
            for name in names(&target).into_iter().rev() {
                ahead.push_front(name);
            }
        }
        Ok(real)
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(rest: &str) -> Mount {
        Mount::of_row(format!("30 22 0:40 / {rest}").as_bytes()).unwrap()
    }

    #[test]
    fn escapes_are_undone_and_what_is_none_stays() {
        for (text, want) in [
            (r"a\040b\011c\012d\134e\043f", "a b\tc\nd\\e#f"),
            (r"C:\;uid", r"C:\;uid"),
            (r"\", r"\"),
            (r"\04", r"\04"),
            (r"\400\+12\089", r"\400\+12\089"),
            (r"caf\303\251", "café"),
        ] {
            assert_eq!(unescaped(text.as_bytes()), want.as_bytes(), "{text}");
        }
    }

    #[test]
    fn what_a_file_system_is_decides_who_stays_out() {
        for (mount, want) in [
            ("/ rw - 9p rootfs rw", Class::Near),
            ("/home rw - autofs auto.home rw,fd=7", Class::Automounted),
            ("/net rw - nfs4 srv:/x rw", Class::Far),
            ("/mnt rw - fuse.sshfs kim@srv:/ rw", Class::Far),
            ("/mnt rw - fuse.unheard-of x rw", Class::Far),
            ("/mnt rw - fuse.mergerfs a:b rw", Class::Near),
            ("/mnt rw - fuse.mergerfs a:b rw,user_id=0,group_id=0", Class::Near),
            ("/srv/eve/m rw - fuse.mergerfs a:b rw,user_id=1000,group_id=1000", Class::Far),
            ("/srv/eve/m rw - fuse /dev/sda1 rw,user_id=1000,group_id=0", Class::Far),
            ("/srv/eve/m rw - fuseblk /dev/sda1 rw,user_id=1000", Class::Far),
            ("/mnt rw - fuseblk /dev/sdb1 rw", Class::Near),
            ("/proc rw - proc proc rw", Class::Kernel),
            ("/dev rw - devtmpfs udev rw", Class::Near),
            ("/dev/shm rw - tmpfs tmpfs rw", Class::Near),
            ("/x rw - overlay overlay rw", Class::Near),
        ] {
            assert_eq!(row(mount).class(), want, "{mount}");
        }
    }

    #[test]
    fn what_lies_on_top_of_a_path_counts() {
        let table = b"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /boot rw - autofs systemd-1 rw\n\
                      3 2 8:2 / /boot rw - vfat /dev/b rw\n4 1 0:8 / /net/x rw - nfs srv:/ rw\ndamaged\n";
        let table = Table::of(table);
        assert_eq!((table.rows.len(), &table.unread[..]), (4, &[5][..]));
        assert_eq!(table.at(Path::new("/boot")).unwrap().kind, "vfat");
        assert_eq!(table.holding(Path::new("/boot/efi/x")).unwrap().kind, "vfat");
        assert_eq!(table.holding(Path::new("/usr/bin")).unwrap().kind, "ext4");
        assert_eq!(table.on_the_way(Path::new("/net/x/y"), Mount::may_hang).unwrap().kind, "nfs");
        assert!(table.on_the_way(Path::new("/net"), Mount::may_hang).is_none());
    }

    #[test]
    fn links_are_followed_but_not_into_what_one_stays_out_of() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["a", "far", "a/b"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let link = |name: &str, to: &str| std::os::unix::fs::symlink(to, root.join(name)).unwrap();
        link("there", "a/./b/../b");
        link("round", "round");
        link("away", "far/x/y");
        link("absolute", root.join("there").to_str().unwrap());
        let row = format!("4 1 0:8 / {} rw - nfs srv:/ rw\n", root.join("far").display());
        let table = Table::of(row.as_bytes());
        let real = |name: &str| table.real_path(&root.join(name), Mount::may_hang);
        assert_eq!(real("there").unwrap(), root.join("a/b"));
        assert_eq!(real("absolute").unwrap(), root.join("a/b"));
        assert!(matches!(real("round"), Err(Blocked::Failed(_))) && matches!(real("none"), Err(Blocked::Failed(_))));
        assert!(matches!(real("away"), Err(Blocked::By(mount)) if mount.kind == "nfs"));
        assert!(matches!(real("far/z"), Err(Blocked::By(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Table::of(&bytes);
            let _ = split_options(&bytes);
        }
    }
}
