//! Users of their own for programs of others, and the end of all that runs as one.
//!
//! Stays true: a program cannot get rid of its user, wherever it hides from its process group, so whatever it started is
//! found and ended; nobody else's processes have such a user. Only root can change users: an agent of another user ends
//! a module's process group and no more.

use std::ops::RangeInclusive;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// Numbers that distributions give to nobody: above those of people, below those that systemd lends to services.
pub const USERS: RangeInclusive<u32> = 60_578..=61_183;
/// How often ending what is left is tried when it ends whoever tries.
const TRIES: usize = 50;

/// Returns a user of [`USERS`] that no process has. Called by the process that is to have it.
pub(crate) fn free() -> u32 {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let used: Vec<u32> = entries.filter_map(|entry| read(entry.file_name().to_str()?)).collect();
    // Processes that look at the same moment have different numbers, so they begin in different places.
    let (first, count) = (*USERS.start(), USERS.end() - USERS.start() + 1);
    let from = std::process::id() % count;
    let mut users = (0..count).map(|step| first + (from + step) % count);
    users.find(|user| !used.contains(user)).unwrap_or(first + from)
}

/// Returns the user of [`USERS`] that a process has.
pub(crate) fn of(process: i32) -> Option<u32> {
    read(&process.to_string()).filter(|user| USERS.contains(user))
}

/// Ends every process of a user of [`USERS`]. Returns whether that was done.
pub(crate) fn end_all(user: u32) -> bool {
    // All of them in one call of the system, which none can outrun by starting others, and which only the user itself
    // has. Looking first would miss one that is just being started. Whether there was any is its exit code.
    let ended = (0..TRIES).find_map(|_| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "kill -KILL -1"]).uid(user).gid(user).env_clear().current_dir("/");
        let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        // Ended by a signal, it met others of the user that were faster with the same call.
        ended.map_or(Some(false), |status| status.code().map(|_| true))
    });
    ended.unwrap_or(false)
}

/// Returns the user of a process, named by its number.
fn read(process: &str) -> Option<u32> {
    let is_number = process.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| parse(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?))?
}

fn parse(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_with_its_user() {
        assert_eq!(parse("Name:\tUid: 1\nState:\tZ (zombie)\nUid:\t60600\t0\t0\t0\n"), Some(60_600));
        assert!(parse("Name:\tx\n").is_none() && read("self").is_none() && read("0").is_none());
        let own = std::process::id();
        assert_eq!(read(&own.to_string()), Some(rustix::process::getuid().as_raw()));
        assert_eq!(of(i32::try_from(own).unwrap()), None, "tests run as somebody else");
    }

    #[test]
    fn a_user_that_nobody_has_is_free_and_has_nothing_to_end() {
        let user = free();
        assert!(USERS.contains(&user));
        assert_eq!(end_all(user), rustix::process::geteuid().is_root());
    }
}
