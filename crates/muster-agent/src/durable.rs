//! Small files that are replaced whole: after a crash there is the old content or the new one, never a mixture.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Whether a write waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// The content survives a loss of power.
    Power,
    /// The content survives the end of this process; a loss of power may bring the old content back.
    Process,
}

/// Replaces `path` by `content`, readable and writable by its owner only.
pub(crate) fn replace(path: &Path, content: &[u8], sync: Sync) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path has no file name"))?;
    let mut temporary = name.to_owned();
    temporary.push(".tmp");
    let temporary = path.with_file_name(temporary);
    // A leftover of a crash is no obstacle; a symbolic link in its place is never followed.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    if sync == Sync::Power {
        file.sync_all()?;
    }
    std::fs::rename(&temporary, path)?;
    if sync == Sync::Power {
        sync_directory_of(path)?;
    }
    Ok(())
}

/// Renames, and waits until the disk has it.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    sync_directory_of(to)
}

/// Makes a directory that only its owner can enter, with its parents, if it is not there.
pub(crate) fn make_private_directory(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Waits until the disk has the names in the directory that holds `path`.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        std::fs::write(directory.path().join("state.tmp"), "left by a crash").unwrap();
        replace(&path, b"one", Sync::Power).unwrap();
        replace(&path, b"two", Sync::Process).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!directory.path().join("state.tmp").exists());
    }
}
