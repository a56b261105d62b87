//! One process, as the kernel shows it: bytes, not text.
//!
//! Stays true: a process that ends while it is looked at is left out; what may not be read is said, never guessed. One that
//! does not let itself be looked at, or says without end what it is, costs itself only. One whose first thread has ended is
//! what its other threads are.

use crate::module::Stop;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long one process may take to be looked at: its memory may be held by whoever hides in it.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// How often is looked whether the module should end.
const STOP_LOOK: Duration = Duration::from_millis(20);
/// Processes that are waited for so long, at most.
const STUCK_MAX: usize = 16;
/// Bytes of a command line that are read: a process says itself where its own ends.
const CMDLINE_READ_MAX: u64 = 8 * 1024 * 1024;
/// Threads that are looked at when the first one has ended.
const THREADS_MAX: usize = 64;

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
    threads: i64,
    /// Whether it is a thread of the kernel: it runs no program and has no command line, whoever may look.
    is_kernels: bool,
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
fn look(directory: &Path) -> io::Result<Option<Running>> {
    let Some(stat) = gone_is_none(std::fs::read(directory.join("stat")))? else { return Ok(None) };
    let mut running = parse(&stat).ok_or_else(|| io::Error::other("its stat is not what it should be"))?;
    let Some(status) = gone_is_none(std::fs::read(directory.join("status")))? else { return Ok(None) };
    running.uid = uid(&status).ok_or_else(|| io::Error::other("its status names no user"))?;
    if running.is_kernels {
        // Who may not look at processes of others is refused here, too, although there is nothing to see.
        return Ok(Some(Running { cmdline: Some(Vec::new()), ..running }));
    }
    running.exe = exe(directory);
    running.cmdline = match gone_is_none(cmdline(directory)) {
        Ok(Some(bytes)) => Some(joined(&bytes)),
        Ok(None) => return Ok(None),
        Err(_) => None,
    };
    if running.exe == Exe::None && running.threads > 1 {
        look_at_threads(directory, &mut running);
    }
    Ok(Some(running))
}

/// Looks at processes in their order, and hands in what came of each. Tells whether all were looked at, or waited for.
pub(super) fn look_all(
    directories: Vec<PathBuf>,
    stop: &Stop,
    mut see: impl FnMut(&Path, io::Result<Option<Running>>),
) -> bool {
    let directories = Arc::new(directories);
    let (mut at, mut stuck) = (0, 0);
    let mut looks = begin(&directories, at);
    let mut since = Instant::now();
    while at < directories.len() {
        if stop.is_asked() || stuck == STUCK_MAX {
            return false;
        }
        let looked = match looks.recv_timeout(STOP_LOOK) {
            Ok(looked) => looked,
            Err(RecvTimeoutError::Timeout) if since.elapsed() < LOOK_TIME => continue,
            Err(_) => {
                // That thread is left behind, and another goes on.
                stuck += 1;
                looks = begin(&directories, at + 1);
                let why = format!("it did not let itself be looked at within {} s", LOOK_TIME.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, why))
            }
        };
        see(&directories[at], looked);
        at += 1;
        since = Instant::now();
    }
    true
}

/// Looks at the processes from `at` on in a thread of its own.
fn begin(directories: &Arc<Vec<PathBuf>>, at: usize) -> Receiver<io::Result<Option<Running>>> {
    // The one who takes what comes is never far behind.
    let (give, looks) = mpsc::sync_channel(16);
    let directories = directories.clone();
    std::thread::spawn(move || {
        for directory in directories.iter().skip(at) {
            if give.send(look(directory)).is_err() {
                return;
            }
        }
    });
    looks
}

/// Reads the command line as far as is read of one.
fn cmdline(directory: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(directory.join("cmdline"))?.take(CMDLINE_READ_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Takes program and command line from a thread that still runs: the first one took them along when it ended.
fn look_at_threads(directory: &Path, running: &mut Running) {
    let threads = std::fs::read_dir(directory.join("task")).into_iter().flatten().flatten();
    for thread in threads.take(THREADS_MAX).map(|thread| thread.path()) {
        let program = exe(&thread);
        if program != Exe::None {
            running.exe = program;
            running.cmdline = cmdline(&thread).ok().map(|bytes| joined(&bytes));
            return;
        }
    }
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
        threads: number(20)?,
        is_kernels: is_kernels(number(9)?),
        ..Running::default()
    })
}

/// Whether the flags of a process are those of a thread of the kernel. A process cannot set this one.
fn is_kernels(flags: i64) -> bool {
    /// `PF_KTHREAD`.
    const KERNELS: i64 = 0x0020_0000;
    flags & KERNELS != 0
}

/// Whether the process whose directory this is is a thread of the kernel.
pub(in crate::modules) fn is_kernels_at(directory: &Path) -> bool {
    std::fs::read(directory.join("stat")).ok().and_then(|stat| parse(&stat)).is_some_and(|running| running.is_kernels)
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
    fn a_thread_of_the_kernel_has_no_program_that_could_be_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let directory = shown(dir.path(), 2, 1);
        let stat = std::fs::read_to_string(directory.join("stat")).unwrap();
        // Whoever may not look at it is refused: so the link would be, read through a file.
        std::fs::write(directory.join("exe"), "").unwrap();
        assert_eq!(look(&directory).unwrap().unwrap().exe, Exe::Hidden, "a program of somebody");
        assert!(!is_kernels_at(&directory));
        std::fs::write(directory.join("stat"), stat.replace("4194560", "69238880")).unwrap();
        let running = look(&directory).unwrap().unwrap();
        assert_eq!((running.exe, running.cmdline.as_deref()), (Exe::None, Some(&b""[..])));
        assert!(is_kernels_at(&directory));
    }

    /// The directory of a process that the kernel could show so.
    fn shown(dir: &Path, number: u32, threads: u32) -> PathBuf {
        let directory = dir.join(number.to_string());
        std::fs::create_dir_all(directory.join("task/9")).unwrap();
        let fields = format!("Z 1 2 3 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 {threads} 0 1234 9 77 18446744073709551615");
        std::fs::write(directory.join("stat"), format!("{number} (hides) {fields}\n")).unwrap();
        std::fs::write(directory.join("status"), "Uid:\t5\t5\t5\t5\n").unwrap();
        std::fs::write(directory.join("cmdline"), "").unwrap();
        std::os::unix::fs::symlink("/opt/hides", directory.join("task/9/exe")).unwrap();
        std::fs::write(directory.join("task/9/cmdline"), "hides\0here\0").unwrap();
        directory
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_is_what_the_others_are() {
        let dir = tempfile::tempdir().unwrap();
        let running = look(&shown(dir.path(), 7, 2)).unwrap().unwrap();
        assert_eq!(running.exe, Exe::At { path: b"/opt/hides".to_vec(), is_deleted: false });
        assert_eq!(running.cmdline.as_deref(), Some(&b"hides here"[..]));
        // One that has ended whole, and waits to be asked how, has none.
        assert_eq!(look(&shown(dir.path(), 8, 1)).unwrap().unwrap().exe, Exe::None);
    }

    #[test]
    fn a_process_that_hangs_whoever_looks_costs_itself_only() {
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<_> = (1..=3).map(|number| shown(dir.path(), number, 1)).collect();
        std::fs::remove_file(all[1].join("cmdline")).unwrap();
        let pipe = all[1].join("cmdline");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        let mut seen = Vec::new();
        let begun = Instant::now();
        let is_whole = look_all(all, &Stop::default(), |path, looked| {
            seen.push((path.file_name().unwrap().to_owned(), looked.map(|running| running.is_some())));
        });
        assert!(is_whole && begun.elapsed() < Duration::from_secs(30));
        let came: Vec<_> = seen.iter().map(|(_, looked)| looked.as_ref().ok().copied()).collect();
        assert_eq!(came, [Some(true), None, Some(true)], "{seen:?}");
        assert!(seen[1].1.as_ref().unwrap_err().to_string().contains("did not let itself be looked at"));
        let stopped = Stop::after(Duration::ZERO);
        assert!(!look_all(vec![dir.path().join("1")], &stopped, |_, _| panic!("it was stopped")));
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
