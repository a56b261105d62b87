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
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The numbers of users for programs of others, written `60706-60944`. As many numbers behind them are those of
/// [`Users::ender`].
///
/// Every process with such a number is ended sooner or later, so nobody else may have one. Unless configured otherwise they
/// are numbers that distributions give to nobody: above those that systemd lends to greeters, below those that it lends to
/// services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Users {
    first: u32,
    last: u32,
}

/// Numbers below are those of the system and of its people.
const FIRST_MIN: u32 = 1000;
/// Fewer would not be enough for what runs at once.
const COUNT_MIN: u32 = 16;
/// Numbers at the end that mean something: nobody, and none.
const RESERVED: [u32; 3] = [NOBODY, u16::MAX as u32, u32::MAX];
/// The user that owns nothing.
const NOBODY: u32 = 65_534;

/// Why numbers cannot be those of [`Users`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} cannot be the users of modules: {why}")]
pub struct UsersError {
    given: String,
    why: String,
}

impl Default for Users {
    fn default() -> Self {
        Self { first: 60_706, last: 60_944 }
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl From<Users> for String {
    fn from(users: Users) -> Self {
        users.to_string()
    }
}

impl TryFrom<String> for Users {
    type Error = UsersError;

    fn try_from(text: String) -> Result<Self, UsersError> {
        text.parse()
    }
}

impl FromStr for Users {
    type Err = UsersError;

    fn from_str(text: &str) -> Result<Self, UsersError> {
        let error = |why: String| UsersError { given: muster_core::text::cut(text, 64), why };
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let numbers = text.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)));
        let Some((first, last)) = numbers else {
            return Err(error(format!("write two numbers, such as {}", Self::default())));
        };
        let count = u64::from(last) + 1 - u64::from(first.min(last));
        if first < FIRST_MIN || first > last || count < u64::from(COUNT_MIN) {
            return Err(error(format!("there must be at least {COUNT_MIN} numbers, from {FIRST_MIN} on")));
        }
        // With those that end them.
        let end = u64::from(last) + count;
        let taken = RESERVED.into_iter().find(|taken| (u64::from(first)..=end).contains(&u64::from(*taken)));
        match taken {
            Some(taken) => Err(error(format!("they are used up to {end}, and {taken} is the system's own"))),
            None if end > u64::from(u32::MAX) => Err(error("they are used up to a number that no user has".to_owned())),
            None => Ok(Self { first, last }),
        }
    }
}

impl Users {
    /// Tells whether a number is one of these.
    pub fn contains(self, user: u32) -> bool {
        (self.first..=self.last).contains(&user)
    }

    fn count(self) -> u32 {
        self.last - self.first + 1
    }

    /// Returns the user that ends all processes of `user`. Nobody else ever is that user.
    fn ender(self, user: u32) -> u32 {
        user + self.count()
    }
}

/// The first argument of a process that is to end all processes of a user; the second is the user.
pub(crate) const END_ARGUMENT: &str = "module-end";

/// How often ending what is left is tried.
const TRIES: usize = 5;
/// How long one step of a try may take.
const STEP_TIME: Duration = Duration::from_secs(1);
/// How often all are stopped and ended one by one in one try.
const ROUNDS: usize = 20;

/// Returns a user of these that no process has. Called by the process that is to have it.
pub(crate) fn free(users: Users) -> u32 {
    let used: Vec<u32> = processes().filter_map(|process| Some(read(process)?.user)).collect();
    // Processes that look at the same moment have different numbers, so they begin in different places.
    let (first, count) = (users.first, users.count());
    let from = std::process::id() % count;
    let mut users = (0..count).map(|step| first + (from + step) % count);
    users.find(|user| !used.contains(user)).unwrap_or(first + from)
}

/// Returns the user of these that a process has.
pub(crate) fn of(users: Users, process: i32) -> Option<u32> {
    Some(read(process)?.user).filter(|user| users.contains(*user))
}

/// Ends every process of a user of these. Returns whether none is left. `host` is the program that helps.
pub(crate) fn end_all(host: &Host, users: Users, user: u32) -> bool {
    (0..TRIES).any(|_| {
        // All of them in one call of the system, which none can outrun by starting others. Looking first would miss one
        // that is just being started.
        let told = tell_to_end(host, users, user);
        if !told || !are_gone_within(user, STEP_TIME) {
            end_one_by_one(user);
        }
        told && are_gone_within(user, STEP_TIME)
    })
}

/// Has a process end all others of the user. Returns whether it did.
fn tell_to_end(host: &Host, users: Users, user: u32) -> bool {
    let mut command = Command::new(&host.program);
    command.args(&host.arguments).arg(END_ARGUMENT).arg(user.to_string()).arg(users.to_string());
    command.env_clear().current_dir("/");
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
pub(crate) fn be_ender(user: Option<OsString>, users: Option<OsString>) -> ExitCode {
    let users = users.and_then(|users| users.to_str()?.parse().ok());
    let user = user.and_then(|user| user.to_str()?.parse().ok());
    let ended = match (users, user) {
        (Some(users), Some(user)) if Users::contains(users, user) => end_as(user, users.ender(user)).is_ok(),
        _ => false,
    };
    if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn end_as(user: u32, ender: u32) -> Result<(), Errno> {
    let (theirs, own) = (Uid::from_raw(user), Uid::from_raw(ender));
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
    (read(process)?.user == user).then(|| pidfd_send_signal(&held, signal).ok())?
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
        assert_eq!(of(Users::default(), own), None, "tests run as somebody else");
        assert_eq!(send(own, 60_800, Signal::KILL), None, "and are not ended");
    }

    #[test]
    fn a_user_that_nobody_has_is_free_and_has_an_ender_that_is_no_module() {
        let users = Users::default();
        let user = free(users);
        assert!(users.contains(user) && alive(user).next().is_none());
        for user in users.first..=users.last {
            assert!(!users.contains(users.ender(user)) && users.ender(user) <= 61_183, "{user}");
        }
    }

    #[test]
    fn users_of_modules_are_numbers_that_nobody_else_can_have() {
        let users: Users = "200000-200063".parse().unwrap();
        assert!(users.contains(200_000) && users.contains(200_063) && !users.contains(200_064));
        assert_eq!((users.to_string().as_str(), users.ender(200_063)), ("200000-200063", 200_127));
        assert!(users.contains(free(users)));
        for wrong in [
            "",
            "5",
            "0-100",
            "999-2000",
            "2000-1000",
            "2000-2010",
            "65500-65600",
            "65000-65300",
            "4294967000-4294967290",
            "a-b",
            "-1-9",
        ] {
            let error = wrong.parse::<Users>().unwrap_err().to_string();
            assert!(error.contains("cannot be the users of modules"), "{error}");
        }
    }

    #[test]
    fn nobody_is_ended_for_a_user_of_another_range() {
        let users = || Some(Users::default().to_string().into());
        for user in ["0", "1000", "60705", "60945", "61184", "-1", "x"] {
            assert_eq!(be_ender(Some(user.into()), users()), ExitCode::FAILURE, "{user}");
        }
        assert_eq!(be_ender(None, users()), ExitCode::FAILURE);
        assert_eq!(be_ender(Some("60800".into()), None), ExitCode::FAILURE);
        assert_eq!(be_ender(Some("0".into()), Some("0-100".into())), ExitCode::FAILURE);
    }
}
