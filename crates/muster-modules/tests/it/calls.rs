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

/// Makes calls in a module that reads only; returns the error of each, 0 for one that was done, and whether the program
/// could start others.
fn tried(network: bool, calls: &[Vec<i64>]) -> (Vec<i64>, bool) {
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
    *foreign = ForeignModule { privilege: Privilege::Agent, effect: Effect::Reads, network, ..foreign.clone() };
    let result = ask(&plan, &Value::Null, seconds(60)).into_result("script");
    assert!(result.success, "the tests need perl: {result:?}");
    (serde_json::from_value(result.elements[0].clone()).unwrap(), result.elements[1] == json!(true))
}

fn number(call: libc::c_long) -> Vec<i64> {
    // A pointer or a handle that is none.
    [call, 1, 1, 1, 1, 1, 1].to_vec()
}

const REFUSED: i64 = libc::EPERM as i64;

#[test]
fn every_call_that_no_module_makes_is_refused() {
    if !sandbox::support().calls {
        return;
    }
    let calls = [
        libc::SYS_acct,
        libc::SYS_add_key,
        libc::SYS_adjtimex,
        libc::SYS_bpf,
        libc::SYS_chroot,
        libc::SYS_clock_adjtime,
        libc::SYS_clock_settime,
        libc::SYS_delete_module,
        libc::SYS_finit_module,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fsopen,
        libc::SYS_fspick,
        libc::SYS_init_module,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_io_uring_setup,
        libc::SYS_kcmp,
        libc::SYS_kexec_load,
        libc::SYS_keyctl,
        libc::SYS_mount,
        libc::SYS_mount_setattr,
        libc::SYS_move_mount,
        libc::SYS_move_pages,
        libc::SYS_open_by_handle_at,
        libc::SYS_open_tree,
        libc::SYS_perf_event_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pivot_root,
        libc::SYS_process_madvise,
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
        libc::SYS_settimeofday,
        libc::SYS_swapoff,
        libc::SYS_swapon,
        libc::SYS_umount2,
        libc::SYS_unshare,
        libc::SYS_userfaultfd,
    ];
    let (errors, starts) = tried(true, &calls.map(number));
    assert!(starts, "what a program needs to start others is open to it");
    let open: Vec<_> = calls.iter().zip(&errors).filter(|(_, error)| **error != REFUSED).collect();
    assert_eq!(errors.len(), calls.len());
    assert!(open.is_empty(), "calls by their numbers, and what came of them: {open:?}");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_one_processor_and_numbers_of_its_other_table_are_refused() {
    if !sandbox::support().calls {
        return;
    }
    let here = [libc::SYS_ioperm, libc::SYS_iopl, libc::SYS_modify_ldt, libc::SYS_kexec_file_load, libc::SYS__sysctl];
    // Its own number, mount and ptrace, of the table for 32-bit pointers.
    let other = [libc::SYS_getpid, libc::SYS_mount, 521].map(|call| call | 0x4000_0000);
    let calls: Vec<_> = here.into_iter().chain(other).map(number).collect();
    assert_eq!(tried(true, &calls).0, vec![REFUSED; calls.len()]);
}

#[test]
fn a_namespace_is_refused_by_every_call_that_makes_one() {
    if !sandbox::support().calls {
        return;
    }
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
    if !sandbox::support().calls {
        return;
    }
    let socket =
        |family: i32, kind: i32, protocol: i32| vec![libc::SYS_socket, family.into(), kind.into(), protocol.into()];
    let (raw, stream) = (libc::SOCK_RAW, libc::SOCK_STREAM);
    let open = [
        socket(libc::AF_UNIX, stream, 0),
        socket(libc::AF_NETLINK, raw, libc::NETLINK_ROUTE),
        socket(libc::AF_NETLINK, raw, libc::NETLINK_SOCK_DIAG),
    ];
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
    let all: Vec<_> = open.iter().chain(&far).chain(&kept).cloned().collect();
    let want = |far: i64| [vec![0; 3], vec![far; 2], vec![REFUSED; 9]].concat();
    assert_eq!(tried(true, &all).0, want(0));
    assert_eq!(tried(false, &all).0, want(REFUSED));
}

#[test]
fn nothing_is_typed_into_a_terminal() {
    if !sandbox::support().calls {
        return;
    }
    let typed = |wish: i64| vec![libc::SYS_ioctl, 0, wish, 0];
    let (errors, _) = tried(true, &[typed(0x5412), typed(0x541C), typed(0x5401)]);
    assert_eq!(errors, [REFUSED, REFUSED, i64::from(libc::ENOTTY)]);
}
