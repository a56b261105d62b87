//! Whether anybody but root and this process's user could exchange a file: by writing to it, or by exchanging it, a
//! directory above it, or a symbolic link on the way to it.
//!
//! Stays true: every step of a path is looked at, as the kernel takes them; nothing is changed. A directory with the sticky
//! bit, as `/tmp`, may stand above a file: nobody exchanges in it what others own, and what lies in it is looked at as well.
//! Where there is an access list (POSIX ACL), the group's rights of the mode are the most that anybody on it gets, so they
//! count as everybody's. Not here: lists of other kinds (NFSv4), accounts that are in no file of this machine (LDAP), and who
//! may read.

mod group;
mod keeper;

pub use group::group_is_ours;
pub use keeper::{Keeper, account_name, run_as};

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

/// Symbolic links on one way (Linux: 40).
const LINKS_MAX: usize = 40;

/// Why a place is not this process's alone.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It cannot be looked at, or is not there.
    #[error("cannot look at {}: {source}", path.display())]
    Look {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else owns it.
    #[error(
        "{} belongs to {} (mode {mode:04o}): if it is right, make it yours with `chown {us} {}`, else use another place",
        path.display(),
        account_name(*owner),
        path.display()
    )]
    Owner {
        /// What: the path itself, or a directory or a link on the way to it.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Its mode, without the kind of file.
        mode: u32,
        /// Who should.
        us: u32,
    },
    /// Others can write to it.
    #[error(
        "{} can be written by others{by} (owner {owner}, group {group}, mode {mode:04o}): `chmod go-w {}`, or use another place",
        path.display(),
        path.display()
    )]
    Writable {
        /// What: the path itself, or a directory on the way to it.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Its group.
        group: u32,
        /// Its mode, without the kind of file.
        mode: u32,
        /// By what they can.
        by: Writers,
    },
    /// It is not there, and others could put it there.
    #[error(
        "{} is not there, and others could put it there: {} can be written by others (owner {owner}, mode {mode:04o}); use \
         another place",
        path.display(),
        directory.display()
    )]
    Missing {
        /// What is missing.
        path: PathBuf,
        /// Where others could put it.
        directory: PathBuf,
        /// Who owns the directory.
        owner: u32,
        /// Its mode, without the kind of file.
        mode: u32,
    },
}

/// By what others than root and this process's user can write to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Everybody can.
    Everybody,
    /// Its group can, and has other members.
    Group,
    /// An access list can let them.
    List,
}

impl fmt::Display for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Everybody => "",
            Self::Group => ", who are in its group",
            Self::List => ", whom its access list (ACL) may name",
        })
    }
}

impl PlaceError {
    /// Whether it is about something that is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Look { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What is to be said of a path that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It is wrong.
    Refused,
    /// It is right where nobody else can put it there.
    IfOurs,
    /// It is right: the caller makes it and asks again.
    Made,
}

/// Makes sure that nobody but root and this process's user can exchange what lies at `path`, an absolute path or one below
/// the present directory. What lies there itself, if it is a directory, may have no sticky bit in the place of rights: others
/// could add to it.
///
/// # Errors
/// What others could change, with its owner and mode, and what to do about it.
pub fn place_check(path: &Path, absent: Absent) -> Result<(), PlaceError> {
    place_check_for(&Keeper::this_process(), path, absent)
}

/// As [`place_check`], with the place of an account that this process only looks at: what is that account's is right as well,
/// but no symbolic link of it, which could lead this process to what the account itself may not read.
///
/// # Errors
/// What others could change, with its owner and mode, and what to do about it.
pub fn place_check_for(keeper: &Keeper, path: &Path, absent: Absent) -> Result<(), PlaceError> {
    walk(keeper, path, absent)?.map_or(Ok(()), |(here, found)| writable_check(keeper, &here, &found))
}

/// Makes sure that nobody but root and this process's user can exchange a directory on the way to `path`, or a link that
/// stands in its place. What lies there is not looked at; what is not there yet may be missing.
///
/// # Errors
/// What others could change, with its owner and mode, and what to do about it.
pub fn way_check(path: &Path) -> Result<(), PlaceError> {
    let path = std::path::absolute(path).map_err(|source| PlaceError::Look { path: path.to_owned(), source })?;
    let keeper = Keeper::this_process();
    if let Some(above) = path.parent() {
        walk(&keeper, above, Absent::Made)?;
    }
    let is_link = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
    if is_link { walk(&keeper, &path, Absent::Made).map(drop) } else { Ok(()) }
}

/// Takes a path step by step, and refuses the first that is not safe. Returns what lies at its end; `None` for what is
/// missing and may be.
fn walk(keeper: &Keeper, path: &Path, absent: Absent) -> Result<Option<(PathBuf, Metadata)>, PlaceError> {
    let look = |path: &Path, source| PlaceError::Look { path: path.to_owned(), source };
    let path = std::path::absolute(path).map_err(|source| look(path, source))?;
    let mut steps: VecDeque<OsString> = steps_of(&path);
    let mut here = PathBuf::from("/");
    let mut found = std::fs::symlink_metadata(&here).map_err(|source| look(&here, source))?;
    owner_check_for(keeper, &here, &found)?;
    let mut links = 0;
    while let Some(step) = steps.pop_front() {
        if step == ".." {
            here.pop();
            found = std::fs::symlink_metadata(&here).map_err(|source| look(&here, source))?;
            continue;
        }
        let next = here.join(&step);
        let at = match std::fs::symlink_metadata(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && absent != Absent::Refused => {
                return absent_check(keeper, (&path, absent), &here, &found).map(|()| None);
            }
            other => other.map_err(|source| look(&next, source))?,
        };
        if at.is_symlink() {
            links += 1;
            if links > LINKS_MAX {
                return Err(look(&path, io::Error::other("too many symbolic links")));
            }
            // Where it leads to is its owner's word; it cannot be written to.
            user_check(&keeper.of_links(), &next, &at)?;
            let target = std::fs::read_link(&next).map_err(|source| look(&next, source))?;
            if target.is_absolute() {
                here = PathBuf::from("/");
                found = std::fs::symlink_metadata(&here).map_err(|source| look(&here, source))?;
            }
            steps = steps_of(&target).into_iter().chain(steps).collect();
            continue;
        }
        owner_check_for(keeper, &next, &at)?;
        (here, found) = (next, at);
    }
    Ok(Some((here, found)))
}

/// The names of a path's steps, `..` among them.
fn steps_of(path: &Path) -> VecDeque<OsString> {
    let step = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(step).collect()
}

/// Whether something that is missing below `directory` may be missing.
fn absent_check(
    keeper: &Keeper,
    (path, absent): (&Path, Absent),
    directory: &Path,
    found: &Metadata,
) -> Result<(), PlaceError> {
    if absent == Absent::Made || writable_check(keeper, directory, found).is_ok() {
        return Ok(());
    }
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    Err(PlaceError::Missing { path: path.to_owned(), directory: directory.to_owned(), owner, mode })
}

/// Refuses what somebody else than root and this process's user owns or can write to. A directory with the sticky bit is
/// taken for one on the way to something.
///
/// # Errors
/// Who owns it, or that others can write to it.
pub fn owner_check(path: &Path, found: &Metadata) -> Result<(), PlaceError> {
    owner_check_for(&Keeper::this_process(), path, found)
}

fn owner_check_for(keeper: &Keeper, path: &Path, found: &Metadata) -> Result<(), PlaceError> {
    user_check(keeper, path, found)?;
    let is_sticky = found.is_dir() && found.mode() & 0o1000 != 0;
    if is_sticky { Ok(()) } else { writable_check(keeper, path, found) }
}

fn user_check(keeper: &Keeper, path: &Path, found: &Metadata) -> Result<(), PlaceError> {
    let this = Keeper::this_process();
    if is_ours(found.uid(), keeper.user()) || found.uid() == this.user() {
        return Ok(());
    }
    let (owner, mode, us) = (found.uid(), found.mode() & 0o7777, keeper.user());
    Err(PlaceError::Owner { path: path.to_owned(), owner, mode, us })
}

/// Whether what `owner` owns is safe for a process of `us`: root could do whatever it likes anyway.
fn is_ours(owner: u32, us: u32) -> bool {
    [0, us].contains(&owner)
}

fn writable_check(keeper: &Keeper, path: &Path, found: &Metadata) -> Result<(), PlaceError> {
    let by = if found.mode() & 0o002 != 0 {
        Writers::Everybody
    } else if found.mode() & 0o020 == 0 || group_is_ours(keeper, path, found)? {
        return Ok(());
    } else if group::has_list(path)? {
        Writers::List
    } else {
        Writers::Group
    };
    let (owner, group, mode) = (found.uid(), found.gid(), found.mode() & 0o7777);
    Err(PlaceError::Writable { path: path.to_owned(), owner, group, mode, by })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::geteuid;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn why(path: &Path, absent: Absent) -> String {
        place_check(path, absent).unwrap_err().to_string()
    }

    #[test]
    fn every_step_to_a_file_is_looked_at_and_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (inner, file) = (dir.join("inner"), dir.join("inner/file"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(&file, "x").unwrap();
        set(&inner, 0o755);
        set(&file, 0o644);
        place_check(&file, Absent::Refused).unwrap();
        for (path, mode) in [(&file, 0o646), (&inner, 0o777), (&inner, 0o757)] {
            set(path, mode);
            let why = why(&file, Absent::Refused);
            assert!(why.contains(&format!("{} can be written", path.display())), "{why}");
            assert!(why.contains(&format!("mode {mode:04o}")) && why.contains("chmod go-w"), "{why}");
            set(path, if path == &file { 0o644 } else { 0o755 });
        }
        // Above a file the sticky bit is enough; of a directory to which others add it is not.
        set(&inner, 0o1777);
        place_check(&file, Absent::Refused).unwrap();
        assert!(why(&inner, Absent::Refused).contains("can be written"));
        assert!(why(&inner.join("missing"), Absent::IfOurs).contains("others could put it there"));
        place_check(&inner.join("missing/further"), Absent::Made).unwrap();
        set(&inner, 0o755);
        place_check(&inner.join("missing"), Absent::IfOurs).unwrap();
        assert!(place_check(&inner.join("missing"), Absent::Refused).unwrap_err().is_absent());
        way_check(&inner.join("missing/further")).unwrap();
        set(&inner, 0o777);
        assert!(way_check(&inner.join("missing")).is_err() && way_check(&inner).is_ok());
        set(&inner, 0o755);
        // A way over a link: both ends are looked at.
        let (other, link) = (dir.join("other"), dir.join("other/link"));
        std::fs::create_dir(&other).unwrap();
        symlink("../inner", &link).unwrap();
        place_check(&link.join("file"), Absent::Refused).unwrap();
        set(&other, 0o777);
        assert!(why(&link.join("file"), Absent::Refused).contains("other can be written"), "the link can be exchanged");
        set(&other, 0o755);
        set(&inner, 0o777);
        assert!(why(&link.join("file"), Absent::Refused).contains("inner can be written"));
        symlink(&link, dir.join("loop")).unwrap();
        std::fs::remove_file(&link).unwrap();
        symlink(dir.join("loop"), &link).unwrap();
        assert!(why(&link, Absent::Refused).contains("too many"));
    }

    #[test]
    fn what_others_own_is_theirs_wherever_it_stands() {
        assert!(is_ours(0, 1000) && is_ours(1000, 1000) && !is_ours(1001, 1000) && !is_ours(1000, 0));
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (inner, file, link) = (dir.join("inner"), dir.join("inner/file"), dir.join("link"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(&file, "x").unwrap();
        place_check(&file, Absent::Refused).unwrap();
        // Only root gives files to others.
        assert!(
            geteuid().is_root(),
            "only root gives files to others: run the tests as root, in a container for instance"
        );
        for path in [&file, &inner] {
            chown(path, Some(1000), None).unwrap();
            let why = why(&file, Absent::Refused);
            assert!(why.contains(&format!("{} belongs to user 1000", path.display())), "{why}");
            chown(path, Some(0), None).unwrap();
        }
        symlink(&file, &link).unwrap();
        place_check(&link, Absent::Refused).unwrap();
        std::os::unix::fs::lchown(&link, Some(1000), None).unwrap();
        assert!(why(&link, Absent::Refused).contains("link belongs to user 1000"));
        set(&file, 0o664);
        place_check(&file, Absent::Refused).unwrap();
        chown(&file, None, Some(1000)).unwrap();
        assert!(why(&file, Absent::Refused).contains("group 1000"));
    }

    /// An access list that lets user 1000 write, in the kernel's form: a version, then kind, rights and number of each.
    fn list() -> Vec<u8> {
        let entry = |kind: u16, rights: u16, number: u32| {
            [&kind.to_le_bytes()[..], &rights.to_le_bytes(), &number.to_le_bytes()].concat()
        };
        let none = u32::MAX;
        let entries =
            [entry(1, 6, none), entry(2, 6, 1000), entry(4, 4, none), entry(16, 6, none), entry(32, 4, none)].concat();
        [&2_u32.to_le_bytes()[..], &entries].concat()
    }

    #[test]
    fn whoever_an_access_list_may_let_write_counts_whatever_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let file = dir.join("file");
        std::fs::write(&file, "x").unwrap();
        for (path, right) in [(&file, 0o644), (&dir, 0o755)] {
            set(path, right);
            place_check(&file, Absent::Refused).unwrap();
            let set_list =
                rustix::fs::setxattr(path, "system.posix_acl_access", &list(), rustix::fs::XattrFlags::empty());
            set_list.expect("the tests need a file system with access lists below TMPDIR");
            let why = why(&file, Absent::Refused);
            assert!(
                why.contains(&format!("{} can be written by others, whom its access list", path.display())),
                "{why}"
            );
            // As the message says, taking the group's right away takes everybody's on the list.
            set(path, right);
            place_check(&file, Absent::Refused).unwrap();
            rustix::fs::removexattr(path, "system.posix_acl_access").unwrap();
        }
    }

    #[test]
    fn the_own_group_counts_as_others_when_it_has_other_members() {
        assert!(
            geteuid().is_root(),
            "only root becomes another user: run the tests as root, in a container for instance"
        );
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        set(&dir, 0o755);
        // A user and a group that no file knows; and the group in which the account `nobody` begins.
        let (user, own) = (64_123, 64_124);
        let shared = group_of("nobody");
        let look = |group: u32| {
            let file = dir.join(group.to_string());
            std::fs::write(&file, "x").unwrap();
            chown(&file, Some(user), Some(group)).unwrap();
            set(&file, 0o664);
            // A thread has a user and a group of its own.
            let become_them = move || {
                use rustix::thread::{Gid, Uid, set_thread_res_gid, set_thread_res_uid};
                let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
                set_thread_res_gid(group, group, group).unwrap();
                set_thread_res_uid(user, user, user).unwrap();
                place_check(&file, Absent::Refused).map_err(|error| error.to_string())
            };
            std::thread::spawn(become_them).join().unwrap()
        };
        look(own).unwrap();
        let why = look(shared).unwrap_err();
        assert!(why.contains("can be written by others, who are in its group"), "{why}");
    }

    fn group_of(account: &str) -> u32 {
        let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
        let line =
            accounts.lines().find(|line| line.starts_with(&format!("{account}:"))).expect("there is that account");
        line.split(':').nth(3).unwrap().parse().unwrap()
    }
}
