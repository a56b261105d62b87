//! Calls of the kernel that no module makes, and the filters that keep them from a module's process.
//!
//! Stays true: what is refused is refused however it is written: a namespace by `clone` as by `unshare`, a call by the
//! numbers of another table as by its own. A call whose request lies where a filter cannot look (`clone3`) is answered as
//! by a kernel that does not know it, so that libraries ask by the call that can be looked at.
//! Not here: files and connections, which Landlock keeps ([`super`]).

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use std::collections::BTreeMap;

/// Calls that no module makes: they look into other processes or change what those may use, change what the machine is, or
/// reach parts of the kernel in which defects are found again and again.
pub(super) const NEVER: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_get_robust_list,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    KEXEC_FILE_LOAD,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_setpriority,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];
/// Those that processors of this kind have alone.
#[cfg(target_arch = "x86_64")]
pub(super) const NEVER_HERE: &[i64] =
    &[libc::SYS_ioperm, libc::SYS_iopl, libc::SYS_modify_ldt, libc::SYS_uselib, libc::SYS__sysctl];
/// Those that processors of this kind have alone: none.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const NEVER_HERE: &[i64] = &[];
/// Calls that change files, the kernel's log, or memory, queues and semaphores that processes share: kept from a module
/// that only reads. Landlock does not know them, and whoever owns a file, as root owns most, needs no capability for them.
pub(super) const CHANGES: &[i64] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    REMOVEXATTRAT,
    FILE_SETATTR,
    libc::SYS_utimensat,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_notify,
    libc::SYS_mq_getsetattr,
    libc::SYS_syslog,
];
/// Those of them that processors of this kind have alone.
#[cfg(target_arch = "x86_64")]
pub(super) const CHANGES_HERE: &[i64] =
    &[libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat];
/// Those of them that processors of this kind have alone: none.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const CHANGES_HERE: &[i64] = &[];
/// `fchmodat2`, since Linux 6.6.
const FCHMODAT2: i64 = 452;
/// `setxattrat`, since Linux 6.13.
const SETXATTRAT: i64 = 463;
/// `removexattrat`, since Linux 6.13.
const REMOVEXATTRAT: i64 = 466;
/// `file_setattr`, since Linux 6.17.
const FILE_SETATTR: i64 = 469;
/// `kexec_file_load`, which the library has no number of for every processor.
const KEXEC_FILE_LOAD: i64 = if cfg!(target_arch = "x86_64") { 320 } else { 294 };
/// `open_tree_attr`, since Linux 6.15; newer calls have one number everywhere.
const OPEN_TREE_ATTR: i64 = 467;

/// What `clone` makes anew for a process: mounts, control groups, names, queues, users, processes and networks.
const NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// What puts letters into a terminal as if somebody had typed them.
const TYPING: &[libc::c_int] = &[0x5412, 0x541C];
/// All that a module which only reads asks of an open file by `ioctl`: whether it is a terminal, whose and how large
/// (`TCGETS`, `TCGETS2`, `TIOCGPGRP`, `TIOCGWINSZ`), what waits in it (`FIONREAD`), how this process itself uses it
/// (`FIONBIO`, `FIONCLEX`, `FIOCLEX`), and names, flags and addresses of network interfaces (`SIOCGIF…`). Others freeze
/// file systems (`FIFREEZE`), make files immutable (`FS_IOC_SETFLAGS`) or drive devices, on files opened for reading.
const ASKED: &[u32] = &[
    0x5401,
    0x802C_542A,
    0x540F,
    0x5413,
    0x541B,
    0x5421,
    0x5450,
    0x5451,
    0x8910,
    0x8912,
    0x8913,
    0x8915,
    0x8919,
    0x891B,
    0x8921,
    0x8927,
    0x8933,
];
/// Numbers of x86-64 with this bit are those of the table for 32-bit pointers, which no program here is made for.
const X32_BIT: u32 = 0x4000_0000;
/// Calls that take the number of a process first, and change what that one may use. 0 is the process itself; a thread's own
/// number is refused as well, since a filter cannot know it.
const OF_A_PROCESS: &[i64] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
];
/// What `prctl` is asked to share a processor's core with another process; the library has no number of it everywhere.
const PR_SCHED_CORE: libc::c_int = 62;
/// `IOPRIO_WHO_PROCESS`: a priority for one process, not for a group or for a user.
const ONE_PROCESS: libc::c_int = 1;
/// The bits of a socket's kind that say which kind it is; the others are flags.
const KIND_BITS: u64 = 0xf;
/// Kinds of pairs of Unix sockets whose ends can still be connected to another socket: the kernel takes raw ones for
/// datagrams.
const KINDS_LOOSE: &[libc::c_int] = &[libc::SOCK_DGRAM, libc::SOCK_RAW];
/// Kinds of sockets to the kernel of this machine.
const FAMILIES_HERE: &[libc::c_int] = &[libc::AF_NETLINK];
/// Kinds of sockets to other machines. Raw packets need a capability beside.
const FAMILIES_FAR: &[libc::c_int] = &[libc::AF_INET, libc::AF_INET6, libc::AF_PACKET];
/// What the kernel may be asked over a socket: addresses and routes, and which sockets there are.
const NETLINK: &[libc::c_int] = &[libc::NETLINK_ROUTE, libc::NETLINK_SOCK_DIAG];

/// What of the calls is kept from a process beside [`NEVER`].
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "a module needs any of them without the others")]
pub(super) struct Kept {
    /// Whether programs are executed.
    pub(super) executes: bool,
    /// Whether it may change files and what processes share.
    pub(super) writes: bool,
    /// Whether other machines are reached.
    pub(super) network: bool,
    /// Whether Unix sockets of this machine are connected to.
    pub(super) local_sockets: bool,
}

/// Returns the filters; each is put up beside the others, and the strictest answer counts.
pub(super) fn filters(kept: Kept, architecture: TargetArch) -> Result<Vec<BpfProgram>, BackendError> {
    let mut filters = vec![denied(kept, architecture)?, unknown(architecture)?];
    if architecture == TargetArch::x86_64 {
        filters.push(other_table());
    }
    Ok(filters)
}

/// Refuses what a module has no business with.
fn denied(kept: Kept, architecture: TargetArch) -> Result<BpfProgram, BackendError> {
    let never = NEVER.iter().chain(NEVER_HERE);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = never.map(|call| (*call, Vec::new())).collect();
    if !kept.executes {
        rules.extend([libc::SYS_execve, libc::SYS_execveat].map(|call| (call, Vec::new())));
    }
    if !kept.writes {
        rules.extend(CHANGES.iter().chain(CHANGES_HERE).map(|call| (*call, Vec::new())));
    }
    rules.insert(libc::SYS_clone, NAMESPACES.iter().map(|flag| rule([has(0, *flag)?])).collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_ioctl, wishes(kept)?);
    // Who shares groups and processes with this one cannot be seen from the arguments: a call for itself alone is let pass.
    let other_process = |call: &i64| Ok((*call, vec![rule([other(0, 0)?])?]));
    rules.extend(OF_A_PROCESS.iter().map(other_process).collect::<Result<Vec<_>, BackendError>>()?);
    rules.insert(libc::SYS_ioprio_set, vec![rule([other(0, ONE_PROCESS)?])?, rule([other(1, 0)?])?]);
    rules.insert(libc::SYS_prctl, vec![rule([equal(0, PR_SCHED_CORE)?])?]);
    rules.extend(sockets(kept)?);
    let action = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, action, architecture)?.try_into()
}

/// Refuses wishes to open files: to a module that reads all but those in [`ASKED`], to others those that type.
fn wishes(kept: Kept) -> Result<Vec<SeccompRule>, BackendError> {
    if kept.writes {
        return TYPING.iter().map(|wish| rule([equal(1, *wish)?])).collect();
    }
    let not_asked = ASKED.iter().map(|wish| other(1, wish.cast_signed())).collect::<Result<Vec<_>, _>>()?;
    Ok(vec![rule(not_asked)?])
}

/// Refuses sockets of all kinds but those that a module needs. A pair of Unix sockets is a process's own, unless one end of
/// it can be connected anew.
fn sockets(kept: Kept) -> Result<Vec<(i64, Vec<SeccompRule>)>, BackendError> {
    let far = FAMILIES_FAR.iter().filter(|_| kept.network);
    let local = [libc::AF_UNIX].into_iter().filter(|_| kept.local_sockets);
    let families = FAMILIES_HERE.iter().chain(far).copied().chain(local);
    let other_family: Vec<_> = families.map(|family| other(0, family)).collect::<Result<_, _>>()?;
    let other_netlink = NETLINK.iter().map(|protocol| other(2, *protocol));
    let netlink = [equal(0, libc::AF_NETLINK)].into_iter().chain(other_netlink).collect::<Result<Vec<_>, _>>()?;
    let mut rules = vec![(libc::SYS_socket, vec![rule(other_family)?, rule(netlink)?])];
    if !kept.local_sockets {
        let kind = |kind: &libc::c_int| rule([condition(1, SeccompCmpOp::MaskedEq(KIND_BITS), *kind)?]);
        rules.push((libc::SYS_socketpair, KINDS_LOOSE.iter().map(kind).collect::<Result<_, _>>()?));
    }
    Ok(rules)
}

/// Answers as a kernel that does not know the call.
fn unknown(architecture: TargetArch) -> Result<BpfProgram, BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let action = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, action, architecture)?.try_into()
}

/// Refuses every call by a number of the table for 32-bit pointers: the kernel takes it for the same processor, and its
/// numbers are in no list.
fn other_table() -> BpfProgram {
    let instruction = |code: u32, jt, jf, k| sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k };
    let returns = libc::BPF_RET | libc::BPF_K;
    vec![
        // The number is the first field of what is handed to a filter.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32_BIT),
        instruction(returns, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()),
        instruction(returns, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

fn rule(conditions: impl Into<Vec<SeccompCondition>>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into())
}

fn condition(argument: u8, how: SeccompCmpOp, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    // The kernel itself looks at the lower half of these arguments alone.
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, u64::from(value.cast_unsigned()))
}

fn equal(argument: u8, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn other(argument: u8, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
    condition(argument, SeccompCmpOp::Ne, value)
}

fn has(argument: u8, flag: libc::c_int) -> Result<SeccompCondition, BackendError> {
    condition(argument, SeccompCmpOp::MaskedEq(u64::from(flag.cast_unsigned())), flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_made_for_every_processor() {
        for architecture in [TargetArch::x86_64, TargetArch::aarch64] {
            for all in [false, true] {
                let kept = Kept { executes: all, writes: all, network: all, local_sockets: all };
                let filters = filters(kept, architecture).unwrap();
                assert_eq!(filters.len(), if architecture == TargetArch::x86_64 { 3 } else { 2 });
                assert!((NEVER.len()..4096).contains(&filters[0].len()), "{}", filters[0].len());
            }
        }
    }
}
