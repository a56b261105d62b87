//! Calls of the kernel that are kept from a module's process, each made for real by a program that tries.
//!
//! The program keeps all that the agent may, so what refuses is the filter and nothing else; the arguments are such that
//! the kernel itself would refuse every one of them for another reason, so nothing happens where the filter is missing.

use crate::{Script, ask, seconds};
use muster_modules::foreign::ForeignModule;
use muster_modules::{Effect, Privilege, sandbox};
use serde_json::{Value, json};

/// `CLONE_SIGHAND` without `CLONE_VM`, which no kernel does.
const NEVER_DONE: i64 = 0x800;

/// As [`tried_by`] a module that says of its needs only whether it speaks with other machines.
fn tried(network: bool, calls: &[Vec<i64>]) -> (Vec<i64>, bool) {
    tried_by(|module| module.network = network, calls)
}

/// Makes calls in a module that may change files and keeps all capabilities, but is confined; returns the error of each, 0 for one that was done, and whether the program
/// could start others.
fn tried_by(change: impl FnOnce(&mut ForeignModule), calls: &[Vec<i64>]) -> (Vec<i64>, bool) {
    let script = Script::new();
    let calls: Vec<_> =
        calls.iter().map(|call| call.iter().map(i64::to_string).collect::<Vec<_>>().join(",")).collect();
    let text = format!(
        r#"exec perl -e 'my @errors = map {{ my @call = split /,/; my $done = syscall($call[0], map {{ 0 + $_ }} @call[1 .. $#call]);
$done == -1 ? $! + 0 : 0 }} qw({calls}); my $starts = system("true") == 0 ? "true" : "false";
print "{{\"success\":true,\"elements\":[[" . join(",", @errors) . "],$starts]}}\n"'"#,
        calls = calls.join(" "),
    );
    let mut plan = script.plan(&text);
    let foreign = plan.foreign.as_mut().unwrap();
    (foreign.privilege, foreign.effect) = (Privilege::Agent, Effect::Changes);
    foreign.reads = Some(vec!["/".into()]);
    change(foreign);
    let result = ask(&plan, &Value::Null, seconds(60)).into_result("script");
    assert!(result.success, "the tests need perl: {result:?}");
    (serde_json::from_value(result.elements[0].clone()).unwrap(), result.elements[1] == json!(true))
}

/// Fails where the kernel has no filters of calls: such a test would show nothing.
fn need_calls() {
    assert!(sandbox::support().calls, "this test needs a kernel with seccomp");
}

fn number(call: libc::c_long) -> Vec<i64> {
    // A pointer or a handle that is none; for a priority, nobody whose it is.
    let first = if call == libc::SYS_setpriority { 9 } else { 1 };
    [call, first, 1, 1, 1, 1, 1].to_vec()
}

const REFUSED: i64 = libc::EPERM as i64;

#[test]
fn every_call_that_no_module_makes_is_refused() {
    need_calls();
    // The list itself is read here, so that a call that joins it is tried too; these are the reasons why it is there.
    let calls = sandbox::calls_refused();
    for needed in [libc::SYS_ptrace, libc::SYS_mount, libc::SYS_bpf, libc::SYS_unshare, libc::SYS_setpriority] {
        assert!(calls.contains(&needed), "{needed}");
    }
    let (errors, starts) = tried(true, &calls.iter().copied().map(number).collect::<Vec<_>>());
    assert!(starts, "what a program needs to start others is open to it");
    let open: Vec<_> = calls.iter().zip(&errors).filter(|(_, error)| **error != REFUSED).collect();
    assert_eq!(errors.len(), calls.len());
    assert!(open.is_empty(), "calls by their numbers, and what came of them: {open:?}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_one_processor_and_numbers_of_its_other_table_are_refused() {
    need_calls();
    let here = [libc::SYS_ioperm, libc::SYS_iopl, libc::SYS_modify_ldt, libc::SYS_kexec_file_load, libc::SYS__sysctl];
    assert!(here.iter().all(|call| sandbox::calls_refused().contains(call)));
    // Its own number, mount and ptrace, of the table for 32-bit pointers.
    let other = [libc::SYS_getpid, libc::SYS_mount, 521].map(|call| call | 0x4000_0000);
    let calls: Vec<_> = here.into_iter().chain(other).map(number).collect();
    assert_eq!(tried(true, &calls).0, vec![REFUSED; calls.len()]);
}

#[test]
fn a_namespace_is_refused_by_every_call_that_makes_one() {
    need_calls();
    let made = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let clones = made.map(|flag| vec![libc::SYS_clone, i64::from(flag) | NEVER_DONE, 0, 0, 0, 0]);
    let unshared = made.map(|flag| vec![libc::SYS_unshare, i64::from(flag)]);
    let calls: Vec<_> = clones.into_iter().chain(unshared).collect();
    assert_eq!(tried(true, &calls).0, vec![REFUSED; calls.len()]);
    // What a filter cannot look into is not there, so that libraries take the call that it can; without a namespace that
    // one is the kernel's to answer.
    let plain = vec![libc::SYS_clone, NEVER_DONE, 0, 0, 0, 0];
    let (errors, starts) = tried(true, &[number(libc::SYS_clone3), plain]);
    assert_eq!(errors, [i64::from(libc::ENOSYS), i64::from(libc::EINVAL)]);
    assert!(starts);
}

#[test]
fn sockets_are_those_that_a_module_needs() {
    need_calls();
    let socket =
        |family: i32, kind: i32, protocol: i32| vec![libc::SYS_socket, family.into(), kind.into(), protocol.into()];
    let (raw, stream) = (libc::SOCK_RAW, libc::SOCK_STREAM);
    let local = [
        socket(libc::AF_UNIX, stream, 0),
        socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0),
        socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0),
    ];
    let open =
        [socket(libc::AF_NETLINK, raw, libc::NETLINK_ROUTE), socket(libc::AF_NETLINK, raw, libc::NETLINK_SOCK_DIAG)];
    let far = [socket(libc::AF_INET, stream, 0), socket(libc::AF_INET, libc::SOCK_DGRAM, 0)];
    let kept = [
        socket(libc::AF_NETLINK, raw, libc::NETLINK_AUDIT),
        socket(libc::AF_NETLINK, raw, libc::NETLINK_GENERIC),
        socket(libc::AF_NETLINK, raw, libc::NETLINK_NETFILTER),
        socket(libc::AF_NETLINK, raw, libc::NETLINK_KOBJECT_UEVENT),
        socket(libc::AF_NETLINK, raw, libc::NETLINK_XFRM),
        socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        socket(libc::AF_VSOCK, stream, 0),
        socket(libc::AF_KEY, raw, 2),
        socket(libc::AF_BLUETOOTH, raw, 1),
    ];
    let all: Vec<_> = local.iter().chain(&open).chain(&far).chain(&kept).cloned().collect();
    let want = |local: i64, far: i64| [vec![local; 3], vec![0; 2], vec![far; 2], vec![REFUSED; 9]].concat();
    assert_eq!(tried(true, &all).0, want(REFUSED, 0));
    assert_eq!(tried(false, &all).0, want(REFUSED, REFUSED));
    let declared = tried_by(|module| (module.network, module.local_sockets) = (false, true), &all);
    assert_eq!(declared.0, want(0, REFUSED));
}

#[test]
fn a_pair_of_sockets_is_a_modules_own_unless_an_end_could_be_connected_anew() {
    need_calls();
    // The kernel cannot write the pair to where this points.
    let pair = |kind: i32| vec![libc::SYS_socketpair, libc::AF_UNIX.into(), kind.into(), 0, 1];
    let calls = [
        pair(libc::SOCK_STREAM),
        pair(libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC),
        pair(libc::SOCK_DGRAM),
        pair(libc::SOCK_DGRAM | libc::SOCK_NONBLOCK),
        pair(libc::SOCK_RAW),
    ];
    let made = i64::from(libc::EFAULT);
    assert_eq!(tried(true, &calls).0, [made, made, REFUSED, REFUSED, REFUSED]);
    let declared = tried_by(|module| module.local_sockets = true, &calls);
    assert_eq!(declared.0, [made; 5]);
}

/// `IOPRIO_WHO_PROCESS`, `IOPRIO_WHO_PGRP` and `IOPRIO_WHO_USER`.
const PRIORITY_OF: [i64; 3] = [1, 2, 3];
/// What `prctl` is asked to share a processor's core with another process.
const PR_SCHED_CORE: i64 = 62;
/// A priority of a class that there is none of.
const NO_PRIORITY: i64 = 7 << 13;

#[test]
fn no_other_process_is_given_limits_processors_or_priorities() {
    need_calls();
    // This process has the module's user, as an agent may have.
    let other = i64::from(std::process::id());
    let [process, group, user] = PRIORITY_OF;
    let calls = |pid: i64| {
        [
            vec![libc::SYS_prlimit64, pid, libc::RLIMIT_NOFILE.into(), 0, 0],
            vec![libc::SYS_sched_setaffinity, pid, 0, 0],
            vec![libc::SYS_sched_setscheduler, pid, -1, 0],
            vec![libc::SYS_sched_setparam, pid, 0],
            vec![libc::SYS_sched_setattr, pid, 0, 0],
            vec![libc::SYS_ioprio_set, process, pid, NO_PRIORITY],
        ]
    };
    assert_eq!(tried(true, &calls(other)).0, [REFUSED; 6]);
    // For itself a process may ask; what is asked for here the kernel does not have.
    let wrong = i64::from(libc::EINVAL);
    assert_eq!(tried(true, &calls(0)).0, [0, wrong, wrong, wrong, wrong, wrong]);
    let all_of_them = [
        vec![libc::SYS_ioprio_set, group, 0, NO_PRIORITY],
        vec![libc::SYS_ioprio_set, user, 0, NO_PRIORITY],
        vec![libc::SYS_prctl, PR_SCHED_CORE, 0, other, 0, 0],
        vec![libc::SYS_prctl, libc::PR_GET_NO_NEW_PRIVS.into(), 0, 0, 0, 0],
    ];
    assert_eq!(tried(true, &all_of_them).0, [REFUSED, REFUSED, REFUSED, 0]);
}

#[test]
fn nothing_is_typed_into_a_terminal() {
    need_calls();
    let typed = |wish: i64| vec![libc::SYS_ioctl, 0, wish, 0];
    let (errors, _) = tried(true, &[typed(0x5412), typed(0x541C), typed(0x5401)]);
    assert_eq!(errors, [REFUSED, REFUSED, i64::from(libc::ENOTTY)]);
}

#[test]
fn a_module_that_reads_changes_no_files_and_nothing_that_processes_share() {
    need_calls();
    let calls = sandbox::calls_refused_to_readers();
    for needed in [libc::SYS_fchmod, libc::SYS_fchownat, libc::SYS_fsetxattr, libc::SYS_utimensat, libc::SYS_shmat] {
        assert!(calls.contains(&needed), "{needed}");
    }
    // The kernel finds no file and no queue by these numbers, and knows no such wish: only a filter answers so.
    let numbers: Vec<_> = calls.iter().copied().map(|call| vec![call, -1, -1, -1, -1, -1]).collect();
    let (errors, starts) = tried_by(|module| module.effect = Effect::Reads, &numbers);
    assert!(starts, "what a program needs to start others is open to it");
    assert_eq!(errors, vec![REFUSED; calls.len()], "{calls:?}");
    let (errors, _) = tried(true, &numbers);
    let refused: Vec<_> = calls.iter().zip(&errors).filter(|(_, error)| **error == REFUSED).collect();
    assert!(refused.is_empty(), "one that changes something may: {refused:?}");
}

#[test]
fn a_module_that_reads_asks_of_open_files_what_libraries_ask() {
    need_calls();
    let asked = |wish: i64| vec![libc::SYS_ioctl, -1, wish, 0];
    let no_file = i64::from(libc::EBADF);
    // Terminals, what waits, how this process uses the file, and the index of a network interface.
    let open = [0x5401, 0x541B, 0x5421, 0x5450, 0x5451, 0x8933].map(asked);
    // FIFREEZE, FITHAW, FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, LOOP_SET_FD, BLKROSET, TIOCSTI, SIOCSIFFLAGS.
    let kept = [0xC004_5877, 0xC004_5878, 0x4008_6602, 0x401C_5820, 0x4C00, 0x125D, 0x5412, 0x8914].map(asked);
    let all: Vec<_> = open.iter().chain(&kept).cloned().collect();
    let (errors, _) = tried_by(|module| module.effect = Effect::Reads, &all);
    assert_eq!(errors, [vec![no_file; open.len()], vec![REFUSED; kept.len()]].concat());
}
