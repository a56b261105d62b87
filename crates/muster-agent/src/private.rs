//! Whether the state directory is this agent's alone: it holds the key that is this machine.

use crate::durable;
use anyhow::Context;
use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Checks owner and mode of a directory that is there. The error says what is wrong and what to do.
pub(crate) fn check(directory: &Path) -> Result<(), String> {
    let shown = directory.display();
    let found = std::fs::metadata(directory).map_err(|error| format!("cannot look at {shown}: {error}"))?;
    if !found.is_dir() {
        return Err(format!("{shown} is not a directory: name one in state_dir"));
    }
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us {
        return Err(format!(
            "{shown} belongs to user {}, and the agent runs as user {us}: whoever owns it can take this machine's key. \
             Run the agent as its owner, or `chown {us} {shown}`",
            found.uid()
        ));
    }
    let others = found.mode() & 0o077;
    if others != 0 {
        return Err(format!(
            "{shown} has mode {:03o}, so that others can get at this machine's key: `chmod 700 {shown}`",
            found.mode() & 0o777
        ));
    }
    Ok(())
}

/// Whether a directory that [`check`] refuses is made right when the agent starts.
pub(crate) fn is_made_right(directory: &Path) -> bool {
    let Ok(found) = std::fs::metadata(directory) else { return false };
    let is_ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    // What lies in a directory that others could write into may be theirs.
    let is_empty = || std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    is_ours && (found.mode() & 0o022 == 0 || is_empty())
}

/// Makes a state directory that is there the agent's alone. One that others could write into is refused unless it is
/// empty: what lies in it may be theirs.
pub(crate) fn make(directory: &Path) -> Result<(), String> {
    let Err(problem) = check(directory) else { return Ok(()) };
    if !is_made_right(directory) {
        return Err(problem);
    }
    std::fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(|_| problem.clone())?;
    tracing::warn!("{problem}: done");
    Ok(())
}

/// Makes the state directory, checks that it is this agent's alone, and takes it for this process.
pub(crate) fn take(directory: &Path) -> anyhow::Result<File> {
    durable::make_private_directory(directory)
        .with_context(|| format!("cannot make the state directory {}", directory.display()))?;
    make(directory).map_err(anyhow::Error::msg)?;
    lock(directory)
}

/// Takes a state directory for this process, as long as the file is open.
pub(crate) fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).with_context(|| {
        format!(
            "another agent runs with the state directory {}; stop it, or choose another state_dir",
            directory.display()
        )
    })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_that_others_can_enter_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |mode| std::fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
        mode(0o700);
        assert_eq!(check(directory.path()), Ok(()));
        for wrong in [0o750, 0o701, 0o777, 0o1777] {
            mode(wrong);
            assert!(check(directory.path()).unwrap_err().contains("chmod 700"), "{wrong:o}");
            // It is empty, so that nothing in it is anybody else's.
            make(directory.path()).unwrap();
            assert_eq!(check(directory.path()), Ok(()));
        }
        std::fs::write(directory.path().join("agent.key"), "x").unwrap();
        mode(0o755);
        make(directory.path()).unwrap();
        mode(0o770);
        assert!(make(directory.path()).is_err());
        assert!(check(&directory.path().join("none")).unwrap_err().contains("cannot look"));
        // Another user's directory, unless the test runs as everybody's.
        if rustix::process::geteuid().as_raw() == 0 {
            mode(0o700);
            std::os::unix::fs::chown(directory.path(), Some(65534), None).unwrap();
            assert!(check(directory.path()).unwrap_err().contains("belongs to user 65534"));
        }
    }
}
