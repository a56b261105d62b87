//! Files by which a person says what counts: they are read only where nobody else could have written them.

use crate::{Exit, Failure};
use muster_modules::place::{Absent, place_check};
use std::path::Path;

/// Refuses a file that another account owns or can change, or that lies where another account could exchange it; root's are
/// fine. One that is not there may be missing.
///
/// # Errors
/// What others could change, with its owner and mode, and what to do about it.
pub(crate) fn check(what: &str, path: &Path) -> Result<(), Failure> {
    place_check(path, Absent::Made).map_err(|error| {
        let next = "what it says would be another account's word: do as it says, look through the file, and try again";
        Failure::new(Exit::Refused, what, error.to_string()).on(path.display()).next(next)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, chown};

    /// Spoils the file at `path`, and the directory that it lies in, in every way, and expects `read` to refuse it each time.
    pub(crate) fn refuses_what_others_wrote(path: &Path, read: &dyn Fn() -> Result<(), Failure>) {
        let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = |why: &str| {
            let failure = read().unwrap_err();
            assert!(failure.exit == Exit::Refused && failure.why.contains(why), "{failure}");
        };
        let directory = path.parent().unwrap();
        set(path, 0o600);
        read().unwrap();
        set(path, 0o666);
        refused("can be written by others");
        set(path, 0o600);
        set(directory, 0o777);
        refused("can be written by others");
        set(directory, 0o700);
        // Only root gives files to others.
        if rustix::process::geteuid().is_root() {
            chown(path, Some(2002), None).unwrap();
            refused("belongs to user 2002");
            chown(path, Some(0), None).unwrap();
        }
        read().unwrap();
        std::fs::remove_file(path).unwrap();
        read().unwrap();
    }
}
