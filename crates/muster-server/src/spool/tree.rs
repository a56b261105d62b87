//! The spool's directories, and all that is done with files in them.
//!
//! Stays true: every file is named by a directory that was opened and a single name in it, so that no link and no path
//! leads elsewhere; a file appears whole or not at all. Everything here blocks.

use muster_core::Timestamp;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// A directory of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Actions that did not begin; here files are dropped.
    New,
    /// Actions that wait for results.
    Inflight,
    /// Actions that are done with.
    Done,
    /// Actions that never began, and files that are no actions.
    Invalid,
    /// Commands that no machine was handed yet.
    CommandReady,
    /// Commands that a machine was handed.
    CommandInflight,
    /// Commands with a result, of actions that still wait for others.
    CommandReturned,
    /// Commands of actions that are done with, and those that ended without a result.
    CommandDone,
}

impl Place {
    pub(super) const ALL: [Self; 8] = [
        Self::New,
        Self::Inflight,
        Self::Done,
        Self::Invalid,
        Self::CommandReady,
        Self::CommandInflight,
        Self::CommandReturned,
        Self::CommandDone,
    ];
    pub(super) const ACTIONS: [Self; 4] = [Self::New, Self::Inflight, Self::Done, Self::Invalid];
    pub(super) const COMMANDS: [Self; 4] =
        [Self::CommandReady, Self::CommandInflight, Self::CommandReturned, Self::CommandDone];

    /// Its two names: below the spool, and there.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::New => ("action", "new"),
            Self::Inflight => ("action", "inflight"),
            Self::Done => ("action", "done"),
            Self::Invalid => ("action", "invalid"),
            Self::CommandReady => ("command", "ready"),
            Self::CommandInflight => ("command", "inflight"),
            Self::CommandReturned => ("command", "returned"),
            Self::CommandDone => ("command", "done"),
        }
    }
}

/// What tells one content of a file from another, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    pub(super) bytes: u64,
    modified: (i64, u64),
    is_file: bool,
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            bytes: stat.st_size.cast_unsigned(),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            is_file: FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
        }
    }

    /// Whether it is a file at all, and no link, directory, pipe or device.
    pub(super) fn is_file(&self) -> bool {
        self.is_file
    }

    /// When it was written.
    pub(super) fn modified(&self) -> Timestamp {
        let (secs, nanos) = self.modified;
        Timestamp::from_secs(secs).plus(Duration::from_nanos(nanos))
    }
}

/// The directories, open.
#[derive(Debug)]
pub(super) struct Tree {
    /// In the order of [`Place::ALL`].
    places: Vec<OwnedFd>,
    /// Where files are written before they are renamed.
    temporary: OwnedFd,
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o750);
const FILE_MODE: Mode = Mode::from_raw_mode(0o640);
/// The file that is being written. There is one at a time, because one server has the spool.
const NEXT: &str = "next";
const LOCK: &str = "spool.lock";

fn sub(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    match fs::mkdirat(parent, name, DIRECTORY_MODE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(fs::openat(parent, name, DIRECTORY, Mode::empty())?)
}

fn root(path: &Path) -> io::Result<OwnedFd> {
    // The way to the spool is the operator's to choose, links included.
    Ok(fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

impl Tree {
    /// Takes the spool for this process, and makes its root. Refused: another process has it.
    pub(super) fn claim(path: &Path) -> io::Result<File> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path)?;
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = File::from(fs::openat(root(path)?, LOCK, flags, FILE_MODE)?);
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::other("another server uses it: each server has a spool of its own"))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Opens the directories, and makes those that are missing.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let root = root(path)?;
        let (action, command) = (sub(root.as_fd(), "action")?, sub(root.as_fd(), "command")?);
        let of = |place: Place| {
            let (parent, name) = place.names();
            sub(if parent == "action" { action.as_fd() } else { command.as_fd() }, name)
        };
        let places = Place::ALL.into_iter().map(of).collect::<io::Result<_>>()?;
        Ok(Self { places, temporary: sub(root.as_fd(), "tmp")? })
    }

    fn at(&self, place: Place) -> BorrowedFd<'_> {
        self.places[place as usize].as_fd()
    }

    /// Returns up to `limit` names in a directory, those that begin with a dot left out.
    pub(super) fn names(&self, place: Place, limit: usize) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.at(place))? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name.starts_with(b".") {
                continue;
            }
            if names.len() == limit {
                break;
            }
            names.push(OsString::from_vec(name.to_vec()));
        }
        Ok(names)
    }

    /// Looks at a file without following a link. `None`: there is none.
    pub(super) fn look(&self, place: Place, name: &OsStr) -> io::Result<Option<Identity>> {
        match fs::statat(self.at(place), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Identity::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a file, `bytes_max` bytes and one more at most. A pipe is not waited for.
    pub(super) fn read(&self, place: Place, name: &OsStr, bytes_max: usize) -> io::Result<(Identity, Vec<u8>)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(fs::openat(self.at(place), name, flags, Mode::empty())?);
        let identity = Identity::of(&fs::fstat(&file)?);
        if !identity.is_file {
            return Ok((identity, Vec::new()));
        }
        let mut content = Vec::new();
        file.take(bytes_max as u64 + 1).read_to_end(&mut content)?;
        Ok((identity, content))
    }

    /// Writes a file, in the place of one of the same name, and dates it `now`. It is not forced to the disk: what
    /// stands in it stands in the database too.
    pub(super) fn write(&self, place: Place, name: &OsStr, content: &[u8], now: Timestamp) -> io::Result<Identity> {
        absent_is_fine(fs::unlinkat(&self.temporary, NEXT, AtFlags::empty()))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(fs::openat(&self.temporary, NEXT, flags, FILE_MODE)?);
        // Whatever the process masks: the group may read, others not.
        fs::fchmod(&file, FILE_MODE)?;
        file.write_all(content)?;
        let since = Duration::from_nanos(u64::try_from(now.as_nanos()).unwrap_or(0));
        file.set_modified(UNIX_EPOCH + since)?;
        let identity = Identity::of(&fs::fstat(&file)?);
        fs::renameat(&self.temporary, NEXT, self.at(place), name)?;
        Ok(identity)
    }

    /// Removes a file or an empty directory; one that is not there is removed already.
    pub(super) fn remove(&self, place: Place, name: &OsStr) -> io::Result<()> {
        match fs::unlinkat(self.at(place), name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => absent_is_fine(fs::unlinkat(self.at(place), name, AtFlags::REMOVEDIR)),
            other => absent_is_fine(other),
        }
    }

    /// Renames a file, whatever it is. `false`: the new name is taken.
    pub(super) fn rename(&self, from: (Place, &OsStr), to: (Place, &OsStr)) -> io::Result<bool> {
        let renamed = fs::renameat_with(self.at(from.0), from.1, self.at(to.0), to.1, RenameFlags::NOREPLACE);
        match renamed {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn absent_is_fine(done: Result<(), Errno>) -> io::Result<()> {
    match done {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns `name` with `end` behind it.
pub(super) fn with(name: &OsStr, end: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(end);
    name
}

/// Returns a name for people and logs.
pub(super) fn shown(name: &OsStr) -> String {
    let clean: String =
        String::from_utf8_lossy(name.as_bytes()).chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    muster_core::text::cut(&clean, muster_core::limits::NAME_BYTES_MAX)
}
