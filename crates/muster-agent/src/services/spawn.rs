//! Starting processes, and ending them with all they started.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long a process may take to end after it was asked to.
const TERM_GRACE: Duration = Duration::from_secs(3);

/// Held while descriptors are open for children: another child started just then would inherit them too.
static SPAWNING: Mutex<()> = Mutex::new(());

/// Starts `command` in a process group of its own. `inherited` stay open in the child under their own numbers, and in
/// no other.
pub(super) fn spawn(command: &mut Command, inherited: &[BorrowedFd<'_>]) -> io::Result<Child> {
    command.process_group(0).kill_on_drop(true);
    let guard = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = set_inherited(inherited, rustix::io::FdFlags::empty());
    let child = opened.and_then(|()| command.spawn());
    let closed = set_inherited(inherited, rustix::io::FdFlags::CLOEXEC);
    drop(guard);
    closed?;
    child
}

fn set_inherited(descriptors: &[BorrowedFd<'_>], flags: rustix::io::FdFlags) -> io::Result<()> {
    for descriptor in descriptors {
        rustix::io::fcntl_setfd(descriptor, flags)?;
    }
    Ok(())
}

/// Returns the two ends of a new pipe, reading end first.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// Returns the number of a descriptor, for the environment of a child.
pub(super) fn number_of(descriptor: &impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    descriptor.as_fd().as_raw_fd().to_string()
}

/// Ends a process and all of its group, at once.
pub(super) fn kill_group(pid: u32) {
    signal_group(pid, rustix::process::Signal::KILL);
}

/// Asks a process to end, and ends it when it does not.
pub(super) async fn end(child: &mut Child) {
    let Some(pid) = child.id() else { return };
    signal_group(pid, rustix::process::Signal::TERM);
    if tokio::time::timeout(TERM_GRACE, child.wait()).await.is_err() {
        kill_group(pid);
        // It is dead now; what remains is to collect it.
        let _ = child.wait().await;
    }
}

fn signal_group(pid: u32, signal: rustix::process::Signal) {
    let group = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group
        && let Err(error) = rustix::process::kill_process_group(group, signal)
        && error != rustix::io::Errno::SRCH
    {
        tracing::warn!(pid, %error, "cannot signal a process");
    }
}
