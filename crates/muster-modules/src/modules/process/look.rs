//! One process, as the kernel shows it: bytes, not text.
//!
//! Stays true: a process that ends while it is looked at is left out; what may not be read is said, never guessed.

use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What the kernel puts behind the path of a program that was removed.
const DELETED: &[u8] = b" (deleted)";

/// A process.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Running {
    pub(super) pid: i32,
    pub(super) ppid: i32,
    /// The name, at most 15 bytes.
    pub(super) name: Vec<u8>,
    pub(super) exe: Exe,
    /// The words of the command line with a blank between two; `None` when it may not be read.
    pub(super) cmdline: Option<Vec<u8>>,
    pub(super) uid: u32,
    /// Ticks of the clock between the machine's start and its own.
    pub(super) start_ticks: u64,
    pub(super) memory_pages: u64,
}

/// The program of a process.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) enum Exe {
    /// It has none: a thread of the kernel, or one that has ended.
    #[default]
    None,
    /// It may not be read.
    Hidden,
    /// It lies, or lay, there.
    At { path: Vec<u8>, is_deleted: bool },
}

/// Looks at the process whose directory this is. `None` when it ended meanwhile.
///
/// # Errors
/// What the kernel shows of it may not be read, or is not what it should be.
pub(super) fn look(directory: &Path) -> io::Result<Option<Running>> {
    let Some(stat) = gone_is_none(std::fs::read(directory.join("stat")))? else { return Ok(None) };
    let mut running = parse(&stat).ok_or_else(|| io::Error::other("its stat is not what it should be"))?;
    let Some(status) = gone_is_none(std::fs::read(directory.join("status")))? else { return Ok(None) };
    running.uid = uid(&status).ok_or_else(|| io::Error::other("its status names no user"))?;
    running.exe = exe(directory);
    running.cmdline = match gone_is_none(std::fs::read(directory.join("cmdline"))) {
        Ok(Some(bytes)) => Some(joined(&bytes)),
        Ok(None) => return Ok(None),
        Err(_) => None,
    };
    Ok(Some(running))
}

fn gone_is_none<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || number == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Reads `/proc/PID/stat`. The name may hold whatever stands around it, so it ends at the last parenthesis.
fn parse(stat: &[u8]) -> Option<Running> {
    let (open, close) = (stat.iter().position(|b| *b == b'(')?, stat.iter().rposition(|b| *b == b')')?);
    let name = stat.get(open + 1..close)?.to_vec();
    let pid = std::str::from_utf8(&stat[..open]).ok()?.trim().parse().ok()?;
    let fields: Vec<&str> = std::str::from_utf8(&stat[close + 1..]).ok()?.split_ascii_whitespace().collect();
    // The first behind the name is number 3 of the fields in proc(5).
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    Some(Running {
        pid,
        ppid: i32::try_from(number(4)?).ok()?,
        name,
        start_ticks: fields.get(22 - 3)?.parse().ok()?,
        memory_pages: u64::try_from(number(24)?).unwrap_or_default(),
        ..Running::default()
    })
}

/// Returns the real user. The owner of the directory is root for programs that hide their memory.
fn uid(status: &[u8]) -> Option<u32> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// Puts a blank between the words. An empty word is one too; what pads the end is none.
fn joined(cmdline: &[u8]) -> Vec<u8> {
    let end = cmdline.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    cmdline[..end].iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect()
}

fn exe(directory: &Path) -> Exe {
    let link = directory.join("exe");
    let path = match std::fs::read_link(&link) {
        Ok(path) => path.into_os_string().into_vec(),
        Err(error) if is_gone(&error) => return Exe::None,
        Err(_) => return Exe::Hidden,
    };
    // The kernel says that a program was removed by words behind its path, which may as well be a part of its name.
    let Some(shorter) = path.strip_suffix(DELETED) else { return Exe::At { path, is_deleted: false } };
    let is_there = std::fs::metadata(&link).is_ok_and(|run| {
        let from_root = path.strip_prefix(b"/").unwrap_or(&path);
        let named = directory.join("root").join(std::ffi::OsStr::from_bytes(from_root));
        run.nlink() > 0
            && std::fs::metadata(named).is_ok_and(|named| (named.dev(), named.ino()) == (run.dev(), run.ino()))
    });
    if is_there { Exe::At { path, is_deleted: false } } else { Exe::At { path: shorter.to_vec(), is_deleted: true } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_what_stands_around_it() {
        let fields = "S 1 2 3 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 1234 9 77 18446744073709551615";
        for name in [&b"sleep"[..], b") R 1 1 (x", b"two\nlines", b"latin\xe9", b"", b"a)b(c"] {
            let stat = [b"42 (", name, b") ", fields.as_bytes(), b"\n"].concat();
            let running = parse(&stat).unwrap();
            assert_eq!((running.pid, running.ppid, &running.name[..]), (42, 1, name));
            assert_eq!((running.start_ticks, running.memory_pages), (1234, 77));
        }
        for cut in ["", "42", "42 (x", "42 (x) S", "42 )x(", "x (x) S 1"] {
            assert_eq!(parse(cut.as_bytes()), None, "{cut}");
        }
    }

    #[test]
    fn words_are_kept_with_the_empty_ones_and_without_padding() {
        for (bytes, want) in [
            (&b"sleep\x001000\x00"[..], "sleep 1000"),
            (b"\x0078\x00", " 78"),
            (b"a\x00\x00b\x00", "a  b"),
            (b"nginx: master\x00\x00\x00\x00", "nginx: master"),
            (b"", ""),
            (b"\x00", ""),
            (b"no end", "no end"),
        ] {
            assert_eq!(joined(bytes), want.as_bytes());
        }
    }
}
