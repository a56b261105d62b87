//! Reading files that strangers own: pipes, devices, endless files and files that vanish.
//!
//! Stays true: opening never waits; only plain files are read; what is taken in whole has a ceiling.

use muster_core::limits::WHOLE_FILE_BYTES_MAX;
use rustix::fs::{Mode, OFlags};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;

/// Opens a plain file, following links. A pipe is not waited for, a device is not touched.
///
/// # Errors
/// It cannot be opened, or is not a plain file.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Without NONBLOCK, opening a pipe waits until somebody writes. NOCTTY keeps a terminal from becoming ours.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"));
    }
    Ok((file, metadata))
}

/// Reads a whole file of at most [`WHOLE_FILE_BYTES_MAX`] bytes.
pub(crate) fn whole(path: &Path) -> io::Result<Vec<u8>> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.take(WHOLE_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > WHOLE_FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than is read"));
    }
    Ok(bytes)
}

/// Reads a whole file as text; bytes that are no text become replacement characters.
pub(crate) fn text(path: &Path) -> io::Result<String> {
    whole(path)
        .map(|bytes| String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// Writes why a file could not be read, in Go's letters.
pub(crate) fn open_error(path: &Path, error: &io::Error) -> String {
    format!("open {}: {}", path.display(), crate::gotext::reason(error))
}
