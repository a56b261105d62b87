//! Whose a place is: this process's user, or an account to which it was given and whose place this process only reads.
//!
//! Stays true: an account is taken for the keeper of a place only where root, or this process's user, has all that is above it,
//! so that nobody but these can have given it away. Not here: what lies in the place.

use super::group::ACCOUNTS;
use super::{Absent, PlaceError, place_check};
use rustix::process::{getegid, geteuid};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Who may own what lies in a place, beside root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeper {
    user: u32,
    group: Option<u32>,
}

impl Keeper {
    /// Returns this process's user, with its group.
    pub fn this_process() -> Self {
        Self { user: geteuid().as_raw(), group: Some(getegid().as_raw()) }
    }

    /// Returns whose a file or directory is that this process only reads: its own user's where nobody else but root can change
    /// it, else the account that it belongs to, if nobody but that account can write it and what is above it, on every way to
    /// it, is root's or this user's alone. Who writes there, or runs what lies there, asks for [`Keeper::this_process`].
    ///
    /// # Errors
    /// Who else could have put it there or could change it, and what to do about it.
    pub fn of(path: &Path) -> Result<Self, PlaceError> {
        let Err(refused) = place_check(path, Absent::Refused) else { return Ok(Self::this_process()) };
        let given = || {
            let absolute = std::path::absolute(path).ok()?;
            let real = std::fs::canonicalize(path).ok()?;
            let is_safe = |path: &Path| path.parent().is_some_and(|above| place_check(above, Absent::Refused).is_ok());
            let found = std::fs::symlink_metadata(&real).ok()?;
            (is_safe(&absolute) && is_safe(&real) && found.mode() & 0o022 == 0).then(|| Self::account(found.uid()))
        };
        given().ok_or(refused)
    }

    fn account(user: u32) -> Self {
        Self { user, group: account(user).and_then(|fields| fields.get(3)?.parse().ok()) }
    }

    /// Returns the number of the user.
    pub fn user(&self) -> u32 {
        self.user
    }

    pub(super) fn group(&self) -> Option<u32> {
        self.group
    }

    /// Returns whether it is another account than this process's user.
    pub fn is_other(&self) -> bool {
        self.user != geteuid().as_raw()
    }

    /// Returns who may own symbolic links: root and this process's user alone.
    pub(super) fn of_links(&self) -> Self {
        if self.is_other() { Self::this_process() } else { *self }
    }
}

/// Returns a user for people: its number, with its name where this machine's file of accounts knows it.
pub fn account_name(user: u32) -> String {
    name_of(user).map_or_else(|| format!("user {user}"), |name| format!("user {user} ({name})"))
}

/// Returns what root writes before a command to run it as a user: by its name, or by its number where it has none.
pub fn run_as(user: u32) -> String {
    name_of(user).map_or_else(
        || format!("setpriv --reuid {user} --regid {user} --clear-groups --"),
        |name| format!("runuser -u {name} --"),
    )
}

fn name_of(user: u32) -> Option<String> {
    account(user).and_then(|fields| fields.into_iter().next())
}

/// Returns the fields of a user's line in the file of accounts.
fn account(user: u32) -> Option<Vec<String>> {
    let accounts = std::fs::read_to_string(ACCOUNTS).ok()?;
    let number = user.to_string();
    let mut lines = accounts.lines().map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>());
    lines.find(|fields| fields.get(2) == Some(&number) && !fields[0].is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::place_check_for;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

    const ACCOUNT: u32 = 64_123;

    #[test]
    fn what_root_gave_to_an_account_is_that_accounts_and_nothing_else_is() {
        assert!(
            geteuid().is_root(),
            "only root gives files to others: run the tests as root, in a container for instance"
        );
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (data, file, link) = (dir.join("data"), dir.join("data/file"), dir.join("data/link"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(&file, "x").unwrap();
        let set = |path: &Path, mode: u32| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set(&data, 0o700);
        set(&file, 0o600);
        assert_eq!(Keeper::of(&data).unwrap(), Keeper::this_process());
        chown(&data, Some(ACCOUNT), None).unwrap();
        let keeper = Keeper::of(&data).unwrap();
        assert!(keeper.user() == ACCOUNT && keeper.is_other());
        let look = |path: &Path| place_check_for(&keeper, path, Absent::Refused).map_err(|error| error.to_string());
        for owner in [0, ACCOUNT] {
            chown(&file, Some(owner), None).unwrap();
            look(&file).unwrap();
        }
        // A third account's, and a link by which the account could lead root to a file of root's.
        chown(&file, Some(ACCOUNT + 1), None).unwrap();
        assert!(look(&file).unwrap_err().contains(&format!("belongs to user {}", ACCOUNT + 1)));
        symlink("/etc/passwd", &link).unwrap();
        look(&link).unwrap();
        lchown(&link, Some(ACCOUNT), None).unwrap();
        assert!(look(&link).unwrap_err().contains(&format!("belongs to user {ACCOUNT}")));
        for (path, mode) in [(&data, 0o770), (&data, 0o707), (&dir, 0o777)] {
            set(path, mode);
            Keeper::of(&data).unwrap_err();
            set(path, 0o700);
        }
        chown(&dir, Some(ACCOUNT), None).unwrap();
        Keeper::of(&data).expect_err("the account itself could have put it there");
    }

    #[test]
    fn an_account_is_named_where_the_machine_knows_it() {
        assert_eq!((account_name(0).as_str(), run_as(0).as_str()), ("user 0 (root)", "runuser -u root --"));
        assert_eq!(account_name(ACCOUNT), format!("user {ACCOUNT}"));
        assert!(run_as(ACCOUNT).starts_with(&format!("setpriv --reuid {ACCOUNT} ")));
    }
}
