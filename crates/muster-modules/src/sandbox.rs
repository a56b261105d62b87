//! What the kernel keeps a module's process from, beyond users and limits: files it has no business with, programs, other
//! machines, and calls that no module makes.
//!
//! Stays true: what a module needs is declared with it ([`Needs`]); what is not declared is denied where the kernel can
//! (Landlock since Linux 5.13, more of it since 6.7 and 6.12; seccomp for a long time); a kernel that cannot is no error,
//! and [`support`] says so. What a kernel can and refuses all the same ends the process.

mod calls;

use calls::Kept;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, Scope, path_beneath_rules,
};
use seccompiler::TargetArch;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The kernel whose kinds of access are known here. Kinds that it does not know are left out; newer ones are not asked
/// for, so that a new kernel takes nothing away unseen.
const ABI_KNOWN: ABI = ABI::V6;

/// Where systems keep what describes them, and their programs and libraries.
const SYSTEM: &[&str] = &[
    "/bin",
    "/etc",
    "/gnu/store",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var",
];
/// Where systems keep their programs and what those are loaded with.
const PROGRAMS: &[&str] =
    &["/bin", "/gnu/store", "/lib", "/lib32", "/lib64", "/nix/store", "/run/current-system", "/sbin", "/usr"];
/// What every module reads of devices: such as hold nothing of the machine.
const DEVICES: &[&str] = &["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];
/// What programs of others read of the kernel's own files, beside what they declare: themselves, and what libraries ask to
/// fit a program to the machine. No memory, no log, nothing of other processes.
const KERNEL: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/self",
    "/proc/stat",
    "/proc/sys/fs/file-max",
    "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/ngroups_max",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/ostype",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/random",
    "/proc/sys/kernel/version",
    "/proc/sys/net/core/somaxconn",
    "/proc/sys/vm/overcommit_memory",
    "/proc/uptime",
    "/proc/version",
];
/// What may be written to although a module writes nothing: where programs that it starts put what nobody reads.
const SINK: &str = "/dev/null";

/// Which files a module reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// What describes the system, and nobody's own files: no homes, no data of services elsewhere.
    System,
    /// Every file that its privilege lets it.
    Everything,
    /// What the kernel shows of other processes. Landlock keeps that from whoever it confines, whatever the rules say
    /// (landlock(7), ptrace restrictions), so it is not used; users, capabilities and seccomp are.
    Processes,
}

/// What a module needs of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "a module needs any of them without the others")]
pub struct Needs {
    /// Which files it reads.
    pub reads: Reads,
    /// Whether it starts programs of the system.
    pub programs: bool,
    /// Whether it speaks with other machines.
    pub network: bool,
    /// Whether it connects to Unix sockets of this machine, such as those of D-Bus and of services that resolve names.
    pub local_sockets: bool,
    /// It changes the machine in ways that cannot be told before: nothing of this is kept from it.
    pub anything: bool,
}

impl Needs {
    /// Reads what describes the system.
    pub const SYSTEM: Self =
        Self { reads: Reads::System, programs: false, network: false, local_sockets: false, anything: false };
    /// Reads what describes the system, and asks programs of it.
    pub const SYSTEM_PROGRAMS: Self = Self { programs: true, ..Self::SYSTEM };
    /// Reads what describes the system, and asks programs of it that ask services over D-Bus.
    pub const SYSTEM_SERVICES: Self = Self { local_sockets: true, ..Self::SYSTEM_PROGRAMS };
    /// Looks at other processes.
    pub const PROCESSES: Self = Self { reads: Reads::Processes, ..Self::SYSTEM };
    /// Reads what describes the system, and speaks with other machines, whose names it may have to resolve by a service of
    /// this one (systemd-resolved, nscd, Avahi): without that it would report a name as unknown that is known.
    pub const NETWORK: Self = Self { network: true, local_sockets: true, ..Self::SYSTEM };
    /// Reads every file.
    pub const FILES: Self = Self { reads: Reads::Everything, ..Self::SYSTEM };
    /// Reads every file, and asks programs of the system.
    pub const FILES_PROGRAMS: Self = Self { programs: true, ..Self::FILES };
    /// Whatever its privilege lets it.
    pub const ANYTHING: Self =
        Self { reads: Reads::Everything, programs: true, network: true, local_sockets: true, anything: true };
}

/// What is kept from a process.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is kept from a process without the others")]
pub(crate) struct Walls {
    /// Below which paths files may be read; `None`: all.
    reads: Option<Vec<PathBuf>>,
    /// Below which paths programs may be executed; `None`: all.
    executes: Option<Vec<PathBuf>>,
    /// Whether Landlock is used.
    landlock: bool,
    /// Whether files may be written.
    writes: bool,
    network: bool,
    /// Whether it connects to Unix sockets that have a path.
    local_sockets: bool,
    /// Whether its signals reach its own processes alone without any wall, because no other process has its user.
    is_alone: bool,
}

/// What a program of others said that it needs.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "a program needs any of them without the others")]
pub(crate) struct ForeignNeeds<'a> {
    /// Below which paths it reads and executes files, beside its own and those that programs are loaded with; `None`: all.
    pub(crate) reads: Option<&'a [PathBuf]>,
    /// Whether it writes files.
    pub(crate) writes: bool,
    /// Whether it speaks with other machines.
    pub(crate) network: bool,
    /// Whether it connects to Unix sockets of this machine.
    pub(crate) local_sockets: bool,
    /// Whether it runs as a user that no other process has.
    pub(crate) is_alone: bool,
}

fn paths(of: &[&str]) -> Vec<PathBuf> {
    of.iter().map(PathBuf::from).collect()
}

impl Walls {
    /// Returns what is kept from a module of this program; `None` for one that needs anything.
    pub(crate) fn of_ours(needs: Needs) -> Option<Self> {
        let reads = (needs.reads == Reads::System).then(|| [paths(SYSTEM), paths(DEVICES)].concat());
        let executes = if needs.programs { paths(PROGRAMS) } else { Vec::new() };
        let landlock = needs.reads != Reads::Processes;
        let Needs { network, local_sockets, .. } = needs;
        let (executes, writes, is_alone) = (Some(executes), false, false);
        (!needs.anything).then_some(Self { reads, executes, landlock, writes, network, local_sockets, is_alone })
    }

    /// Returns what is kept from the program at `program`, which needs this.
    pub(crate) fn of_foreign(program: &Path, needs: ForeignNeeds<'_>) -> Self {
        let ForeignNeeds { reads, writes, network, local_sockets, is_alone } = needs;
        let reads = reads.map(|reads| {
            let own = [program.to_owned()].into_iter().chain(reads.iter().cloned());
            let every = [PROGRAMS, DEVICES, KERNEL, &["/etc"]].into_iter().flat_map(paths);
            own.chain(every).collect::<Vec<_>>()
        });
        Self { executes: reads.clone(), reads, landlock: true, writes, network, local_sockets, is_alone }
    }

    /// Puts them up around this thread and what it starts. Called while the process has one thread, when it can gain no
    /// privileges any more.
    pub(crate) fn put_up(&self) -> Result<(), String> {
        self.landlock().map_err(|error| format!("could not confine a module's process to its files: {error}"))?;
        self.seccomp().map_err(|error| format!("could not keep calls from a module's process: {error}"))
    }

    fn landlock(&self) -> Result<(), landlock::RulesetError> {
        if !self.landlock {
            return Ok(());
        }
        let write: BitFlags<AccessFs> = AccessFs::from_write(ABI_KNOWN);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let mut handled: BitFlags<AccessFs> = BitFlags::empty();
        for (is_handled, access) in
            [(self.reads.is_some(), read), (self.executes.is_some(), AccessFs::Execute.into()), (!self.writes, write)]
        {
            if is_handled {
                handled |= access;
            }
        }
        let mut rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
        if self.writes && !handled.is_empty() {
            // Moving from one directory to another is denied as soon as anything is.
            handled |= AccessFs::Refer;
        }
        if !handled.is_empty() {
            rules = rules.handle_access(handled)?;
        }
        if !self.network {
            rules = rules.handle_access(AccessNet::from_all(ABI_KNOWN))?;
        }
        if self.writes && self.is_alone && handled.is_empty() && self.network {
            // There is nothing to keep from it, and what Landlock confines sees no other process.
            return Ok(());
        }
        // Nobody outside of what it starts gets a signal or a connection to a socket without a path of it, whether it writes
        // files or not: the agent may have the same user.
        rules = rules.scope(Scope::from_all(ABI_KNOWN))?;
        let mut rules = rules.create()?;
        if self.writes && !handled.is_empty() {
            rules = rules.add_rules(path_beneath_rules(["/"], handled & AccessFs::Refer))?;
        }
        for (paths, access) in [(&self.reads, read), (&self.executes, AccessFs::Execute.into())] {
            // Paths that are not there are passed over.
            rules = rules.add_rules(path_beneath_rules(paths.iter().flatten(), access))?;
        }
        if !self.writes {
            rules = rules.add_rules(path_beneath_rules([SINK], AccessFs::WriteFile | AccessFs::Truncate))?;
        }
        rules.restrict_self().map(drop)
    }

    fn seccomp(&self) -> Result<(), String> {
        let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(()) };
        if !has_seccomp() {
            return Ok(());
        }
        let executes = self.executes.as_ref().is_none_or(|paths| !paths.is_empty());
        let kept = Kept { executes, writes: self.writes, network: self.network, local_sockets: self.local_sockets };
        let filters = calls::filters(kept, architecture).map_err(|error| error.to_string())?;
        filters.iter().try_for_each(|filter| seccompiler::apply_filter(filter).map_err(|error| error.to_string()))
    }
}

/// Returns the numbers of the calls that are refused to every confined module, whatever their arguments, in the table of
/// this processor.
pub fn calls_refused() -> Vec<i64> {
    calls::NEVER.iter().chain(calls::NEVER_HERE).copied().collect()
}

/// Returns the numbers of the calls that are refused, beside [`calls_refused`], to every confined module that only reads,
/// whatever their arguments, in the table of this processor.
pub fn calls_refused_to_readers() -> Vec<i64> {
    calls::CHANGES.iter().chain(calls::CHANGES_HERE).copied().collect()
}

/// What this kernel can keep from a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "a kernel has any of them without the others")]
pub struct Support {
    /// Files and programs.
    pub files: bool,
    /// Connections to other machines, by Landlock. Sockets to them are kept by seccomp too.
    pub connections: bool,
    /// Signals to what is outside.
    pub signals: bool,
    /// Calls of the kernel.
    pub calls: bool,
}

impl Support {
    /// Tells what is not kept from modules on this machine, in words; `None` when nothing is missing.
    pub fn missing(self) -> Option<String> {
        let all = [
            (self.files, "files and programs (Landlock, Linux 5.13)"),
            (self.connections, "connections (Landlock, Linux 6.7)"),
            (self.signals, "signals (Landlock, Linux 6.12)"),
            (self.calls, "calls of the kernel (seccomp)"),
        ];
        let missing: Vec<_> = all.into_iter().filter(|(has, _)| !has).map(|(_, what)| what).collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }
}

/// Asks the kernel what it can keep from a process. Nothing is kept from this one.
pub fn support() -> Support {
    let rules = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let has = |ruleset: Result<Ruleset, landlock::RulesetError>| ruleset.and_then(Ruleset::create).is_ok();
    Support {
        files: has(rules().handle_access(AccessFs::Execute)),
        connections: has(rules().handle_access(AccessNet::ConnectTcp)),
        signals: has(rules().scope(Scope::Signal)),
        calls: has_seccomp() && TargetArch::try_from(std::env::consts::ARCH).is_ok(),
    }
}

/// A kernel that has seccomp says so of every process.
fn has_seccomp() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nSeccomp:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_lacks_is_said_in_words() {
        let all = Support { files: true, connections: true, signals: true, calls: true };
        assert_eq!(all.missing(), None);
        let old = Support { connections: false, signals: false, ..all };
        assert_eq!(old.missing().unwrap(), "connections (Landlock, Linux 6.7), signals (Landlock, Linux 6.12)");
    }

    /// Runs in a thread of its own: walls are around that thread and what it starts.
    fn inside<T: Send + 'static>(walls: Walls, run: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(move || {
            walls.put_up().unwrap();
            run()
        });
        thread.join().unwrap()
    }

    #[test]
    fn a_module_reaches_what_it_declared_and_nothing_else() {
        let support = support();
        let dir = tempfile::tempdir().unwrap();
        let (file, new) = (dir.path().join("private"), dir.path().join("new"));
        std::fs::write(&file, "x").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let local = dir.path().join("socket");
        let _local = std::os::unix::net::UnixListener::bind(&local).unwrap();
        let tried = move |needs: Needs| {
            let (file, new, local) = (file.clone(), new.clone(), local.clone());
            inside(Walls::of_ours(needs).unwrap(), move || {
                let is_there = std::fs::read("/etc/passwd").is_ok() && std::fs::read_dir("/proc").is_ok();
                let program = std::process::Command::new("/usr/bin/true").stdout(std::process::Stdio::null()).status();
                let tried = [
                    std::fs::read(&file).is_ok(),
                    std::fs::write(&new, "x").is_ok(),
                    program.is_ok_and(|status| status.success()),
                    std::net::TcpStream::connect(address).is_ok(),
                    rustix::process::chroot("/").is_ok(),
                    std::os::unix::net::UnixStream::connect(&local).is_ok(),
                ];
                let pair = std::os::unix::net::UnixStream::pair().is_ok();
                assert!(
                    is_there && pair,
                    "what describes the system, and what a process says to itself, is open to all"
                );
                tried
            })
        };
        let (files, calls) = (!support.files, !support.calls && rustix::process::geteuid().is_root());
        let connections = calls && !support.connections;
        // Reads a private file, writes one, starts a program, connects, makes a call that no module makes, connects to a
        // socket of this machine.
        for (needs, want) in [
            (Needs::SYSTEM, [files, files, files && calls, connections, calls, !support.calls]),
            (Needs::SYSTEM_PROGRAMS, [files, files, true, connections, calls, !support.calls]),
            (Needs::SYSTEM_SERVICES, [files, files, true, connections, calls, true]),
            (Needs::NETWORK, [files, files, files && calls, true, calls, true]),
            (Needs::FILES, [true, files, files && calls, connections, calls, !support.calls]),
            (Needs::FILES_PROGRAMS, [true, files, true, connections, calls, !support.calls]),
        ] {
            assert_eq!(tried(needs), want, "{needs:?} with {support:?}");
        }
    }
}
