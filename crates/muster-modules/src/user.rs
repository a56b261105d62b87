//! Users of their own for programs of others, and the end of all that runs as one.
//!
//! Stays true: a program cannot get rid of its user, wherever it hides from its process group, so whatever it started is
//! found and ended; nobody else's processes have such a user; whoever ends them can be neither stopped nor ended by them,
//! and is not waited for longer than a moment. Only root can change users: an agent of another user ends a module's
//! process group and no more.

use crate::host::Host;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, getuid, kill_process_group, pidfd_open, pidfd_send_signal};
use rustix::thread::{CapabilitySet, CapabilitySets, Uid, capabilities, set_capabilities, set_thread_res_uid};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Numbers that distributions give to nobody: above those that systemd lends to greeters, below those that it lends to
/// services. The numbers behind them, as many again, are those of [`ender`].
pub const USERS: RangeInclusive<u32> = 60_706..=60_944;
/// The first argument of a process that is to end all processes of a user; the second is the user.
pub(crate) const END_ARGUMENT: &str = "module-end";

/// How often ending what is left is tried.
const TRIES: usize = 5;
/// How long one step of a try may take.
const STEP_TIME: Duration = Duration::from_secs(1);
/// How often all are stopped and ended one by one in one try.
const ROUNDS: usize = 20;

/// Returns a user of [`USERS`] that no process has. Called by the process that is to have it.
pub(crate) fn free() -> u32 {
    let used: Vec<u32> = processes().filter_map(|process| Some(read(process)?.user)).collect();
    // Processes that look at the same moment have different numbers, so they begin in different places.
    let (first, count) = (*USERS.start(), count());
    let from = std::process::id() % count;
    let mut users = (0..count).map(|step| first + (from + step) % count);
    users.find(|user| !used.contains(user)).unwrap_or(first + from)
}

/// Returns the user of [`USERS`] that a process has.
pub(crate) fn of(process: i32) -> Option<u32> {
    Some(read(process)?.user).filter(|user| USERS.contains(user))
}

/// Ends every process of a user of [`USERS`]. Returns whether none is left. `host` is the program that helps.
pub(crate) fn end_all(host: &Host, user: u32) -> bool {
    (0..TRIES).any(|_| {
        // All of them in one call of the system, which none can outrun by starting others. Looking first would miss one
        // that is just being started.
        let told = tell_to_end(host, user);
        if !told || !are_gone_within(user, STEP_TIME) {
            end_one_by_one(user);
        }
        told && are_gone_within(user, STEP_TIME)
    })
}

fn count() -> u32 {
    USERS.end() - USERS.start() + 1
}

/// Returns the user that ends all processes of `user`. Nobody else ever is that user.
fn ender(user: u32) -> u32 {
    user + count()
}

/// Has a process end all others of the user. Returns whether it did.
fn tell_to_end(host: &Host, user: u32) -> bool {
    let mut command = Command::new(&host.program);
    command.args(&host.arguments).arg(END_ARGUMENT).arg(user.to_string()).env_clear().current_dir("/");
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(mut helper) = started else { return false };
    let exit = pidfd_open(Pid::from_child(&helper), PidfdFlags::empty());
    let has_ended = exit.is_ok_and(|exit| has_ended_within(&exit, STEP_TIME));
    if !has_ended {
        // It has this program's own user, or one that nobody else may end: nothing keeps it.
        let _ = helper.kill();
    }
    helper.wait().is_ok_and(|status| has_ended && status.success())
}

/// Becomes the process that ends all others of a user.
pub(crate) fn be_ender(user: Option<OsString>) -> ExitCode {
    let user = user.and_then(|user| user.to_str()?.parse().ok()).filter(|user| USERS.contains(user));
    let ended = user.is_some_and(|user| end_as(user).is_ok());
    if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn end_as(user: u32) -> Result<(), Errno> {
    let (theirs, own) = (Uid::from_raw(user), Uid::from_raw(ender(user)));
    // Who acts is asked for the effective user, who is acted upon for the real and the saved one. So this process can
    // end theirs, and theirs can neither stop nor end it.
    set_thread_res_uid(own, theirs, own)?;
    let nothing = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing })?;
    // The next call ends every process that it may: it is made only when those are certain to be theirs alone.
    let held = capabilities(None)?;
    let is_harmless = held.effective.is_empty() && held.permitted.is_empty();
    if getuid() != own || geteuid() != theirs || !is_harmless {
        return Err(Errno::PERM);
    }
    match kill_process_group(Pid::INIT, Signal::KILL) {
        // There was none.
        Err(Errno::SRCH) => Ok(()),
        other => other,
    }
}

/// Waits until no process of the user is left, for `time` at most.
fn are_gone_within(user: u32, time: Duration) -> bool {
    let begun = Instant::now();
    loop {
        let Some(process) = alive(user).next() else { return true };
        let Some(left) = time.checked_sub(begun.elapsed()) else { return false };
        let held = Pid::from_raw(process).and_then(|process| pidfd_open(process, PidfdFlags::empty()).ok());
        // One that cannot be held is gone already.
        if let Some(held) = held {
            has_ended_within(&held, left);
        }
    }
}

/// Waits for the end of a process, for `time` at most.
fn has_ended_within(process: &OwnedFd, time: Duration) -> bool {
    let time = Timespec::try_from(time).ok();
    poll(&mut [PollFd::new(process, PollFlags::IN)], time.as_ref()).is_ok_and(|ready| ready > 0)
}

/// Stops and ends each process of the user by its number, for when all at once did not do it.
fn end_one_by_one(user: u32) {
    for _ in 0..ROUNDS {
        // Stopped first, so that fewer are left to start others.
        let stopped: Vec<_> = alive(user).filter_map(|process| send(process, user, Signal::STOP)).collect();
        let ended = alive(user).filter_map(|process| send(process, user, Signal::KILL)).count();
        if stopped.is_empty() && ended == 0 {
            return;
        }
    }
}

/// Sends a signal to a process, unless its number belongs to another user's by now.
fn send(process: i32, user: u32, signal: Signal) -> Option<()> {
    let held = pidfd_open(Pid::from_raw(process)?, PidfdFlags::empty()).ok()?;
    // Looked at again while it is held: whoever has the number now is the one that is held, or the held one is gone.
    (of(process)? == user).then(|| pidfd_send_signal(&held, signal).ok())?
}

/// Processes of the user that run. Those that have ended and wait to be asked how hold nothing any more.
fn alive(user: u32) -> impl Iterator<Item = i32> {
    processes().filter(move |process| read(*process).is_some_and(|status| status.user == user && status.runs))
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What is read of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    user: u32,
    runs: bool,
}

fn read(process: i32) -> Option<Status> {
    parse(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

fn parse(status: &str) -> Option<Status> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next();
    Some(Status { user: field("Uid:")?.parse().ok()?, runs: !matches!(field("State:")?, "Z" | "X") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_with_its_user() {
        let zombie = "Name:\tUid: 1\nState:\tZ (zombie)\nUid:\t60800\t0\t0\t0\n";
        assert_eq!(parse(zombie), Some(Status { user: 60_800, runs: false }));
        let runs = zombie.replace('Z', "R");
        assert_eq!(parse(&runs), Some(Status { user: 60_800, runs: true }));
        assert!(parse("Name:\tx\n").is_none() && read(0).is_none());
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(read(own), Some(Status { user: getuid().as_raw(), runs: true }));
        assert_eq!(of(own), None, "tests run as somebody else");
        assert_eq!(send(own, 60_800, Signal::KILL), None, "and are not ended");
    }

    #[test]
    fn a_user_that_nobody_has_is_free_and_has_an_ender_that_is_no_module() {
        let user = free();
        assert!(USERS.contains(&user) && alive(user).next().is_none());
        for user in USERS {
            assert!(!USERS.contains(&ender(user)) && ender(user) <= 61_183, "{user}");
        }
    }

    #[test]
    fn nobody_is_ended_for_a_user_of_another_range() {
        for user in ["0", "1000", "60705", "60945", "61184", "-1", "x"] {
            assert_eq!(be_ender(Some(user.into())), ExitCode::FAILURE, "{user}");
        }
        assert_eq!(be_ender(None), ExitCode::FAILURE);
    }
}
