//! What a module's process cannot do, whatever it is: looked at from outside while it waits, and tried by hostile ones.
//!
//! Run as root, as agents run, these show what is given up. Run as another user, most of them would show nothing, and fail.

use crate::{Script, ask, built_in, host, is_open_somewhere, need_root, seconds};
use muster_modules::foreign::{ForeignModule, Plan};
use muster_modules::host::{Ended, Patience};
use muster_modules::user::Users;
use muster_modules::{Effect, ModuleResult, Needs, Privilege, Stop, registry, sandbox};
use rustix::thread::CapabilitySet;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What `/proc` says of a process, by field.
fn status(text: &str) -> BTreeMap<String, Vec<String>> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, values)| (name.to_owned(), values.split_whitespace().map(str::to_owned).collect())).collect()
}

fn capabilities(privilege: Privilege) -> CapabilitySet {
    match privilege {
        Privilege::None => CapabilitySet::empty(),
        Privilege::ReadFiles => CapabilitySet::DAC_READ_SEARCH,
        Privilege::ReadProcesses => CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_PTRACE,
        Privilege::RawSockets => CapabilitySet::NET_RAW,
        Privilege::Agent => rustix::thread::capabilities(None).unwrap().permitted,
    }
}

fn set(fields: &BTreeMap<String, Vec<String>>, name: &str) -> CapabilitySet {
    CapabilitySet::from_bits_retain(u64::from_str_radix(&fields[name][0], 16).unwrap())
}

/// A module's process that has lowered itself and waits for its parameters.
struct Waiting {
    child: Child,
    name: &'static str,
}

impl Waiting {
    /// `before` is what the program is started through, such as one that takes capabilities away.
    fn start(name: &'static str, before: &[String]) -> Self {
        let mut words = before.to_vec();
        words.extend([host().program.display().to_string(), "module-process".to_owned()]);
        words.push(serde_json::to_string(&built_in(name)).unwrap());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let waiting = Self { child: command.spawn().unwrap(), name };
        let until = Instant::now() + Duration::from_secs(20);
        while waiting.status().get("NoNewPrivs").is_none_or(|field| field[0] != "1") {
            assert!(Instant::now() < until, "{name} never lowered itself");
            std::thread::yield_now();
        }
        waiting
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    fn status(&self) -> BTreeMap<String, Vec<String>> {
        status(&self.read("status"))
    }

    /// Returns a soft and a hard limit.
    fn limit(&self, name: &str) -> (String, String) {
        let limits = self.read("limits");
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap())
    }

    /// Says nothing more to it, and returns its answer.
    fn answer(mut self) -> ModuleResult {
        drop(self.child.stdin.take());
        let output = self.child.wait_with_output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

#[test]
fn every_module_built_in_gives_up_what_it_does_not_need_before_it_reads_a_word() {
    for module in registry::built_in() {
        let info = module.info();
        let waiting = Waiting::start(info.name, &[]);
        let limit = |name: &str| waiting.limit(name);
        let both = |value: &str| (value.to_owned(), value.to_owned());
        assert_eq!(limit("Max address space"), both("1073741824"), "{}", info.name);
        assert_eq!(limit("Max cpu time"), both("300"), "{}", info.name);
        assert_eq!(limit("Max open files"), both("256"), "{}", info.name);
        assert_eq!(limit("Max core file size"), both("0"), "{}", info.name);
        assert_eq!(limit("Max file size") == both("0"), info.effect == Effect::Reads, "{}", info.name);
        assert_eq!(waiting.read("oom_score_adj").trim(), "1000", "{}", info.name);
        let fields = waiting.status();
        if sandbox::support().calls && info.needs != Needs::ANYTHING {
            let until = Instant::now() + Duration::from_secs(20);
            while waiting.status()["Seccomp"] != ["2"] {
                assert!(Instant::now() < until, "calls are not kept from {}", info.name);
                std::thread::yield_now();
            }
        }
        assert_eq!(waiting.read("comm").trim(), "muster-module", "{}", info.name);
        if rustix::process::geteuid().is_root() {
            let keeps = capabilities(info.privilege);
            for held in ["CapEff", "CapPrm"] {
                assert_eq!(set(&fields, held), keeps, "{held} of {}", info.name);
            }
            for never in ["CapInh", "CapAmb"] {
                assert!(set(&fields, never).is_empty(), "{never} of {}", info.name);
            }
            let user = if info.privilege == Privilege::Agent { "0" } else { "65534" };
            assert!(fields["Uid"].iter().chain(&fields["Gid"]).all(|id| id == user), "{}: {fields:?}", info.name);
            assert!(info.privilege == Privilege::Agent || fields["Groups"].is_empty(), "{}: {fields:?}", info.name);
        }
        assert_eq!(waiting.answer().errors(), ["ReadInputParameters() -> ReadInput() -> EOF"], "{}", info.name);
    }
}

#[test]
fn the_packaged_service_leaves_the_agent_what_its_modules_need() {
    need_root();
    let unit = include_str!("../../../../packaging/muster-agent.service");
    let bound = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let bound: Vec<String> =
        bound.split_whitespace().map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase())).collect();
    let before = ["setpriv".to_owned(), format!("--bounding-set=-all,{}", bound.join(","))];
    for module in registry::built_in() {
        let info = module.info();
        let waiting = Waiting::start(info.name, &before);
        let held = set(&waiting.status(), "CapEff");
        if info.privilege == Privilege::Agent {
            assert!(held.contains(CapabilitySet::KILL), "{} ends processes of others", info.name);
        } else {
            assert_eq!(held, capabilities(info.privilege), "{}", info.name);
        }
        assert!(waiting.answer().errors()[0].ends_with("EOF"), "{}", info.name);
    }
}

#[test]
fn a_module_in_an_agent_that_was_given_little_keeps_no_more_than_that() {
    need_root();
    let before = ["setpriv".to_owned(), "--bounding-set=-all,+setuid,+setgid".to_owned()];
    for name in ["file", "ping", "process"] {
        let waiting = Waiting::start(name, &before);
        assert!(set(&waiting.status(), "CapEff").is_empty(), "{name}");
        assert!(waiting.answer().errors()[0].ends_with("EOF"), "{name}");
    }
}

/// A foreign module of this privilege, which reads only.
fn keeping(script: &Script, privilege: Privilege, text: &str) -> Plan {
    let mut plan = script.plan(text);
    let foreign = plan.foreign.as_mut().unwrap();
    *foreign = ForeignModule { privilege, effect: Effect::Reads, ..foreign.clone() };
    plan
}

#[test]
fn a_program_of_others_keeps_only_what_its_configuration_says() {
    let script = Script::new();
    let tell = "printf '{\"success\":true,\"elements\":\"'; tr '\\n\\t' '| ' < /proc/self/status; echo '\"}'";
    for privilege in [Privilege::None, Privilege::ReadFiles, Privilege::ReadProcesses, Privilege::RawSockets] {
        let Ended::Answered(result) = ask(&keeping(&script, privilege, tell), &Value::Null, seconds(30)) else {
            panic!()
        };
        let fields = status(&result.elements.as_str().unwrap().replace('|', "\n"));
        assert_eq!(fields["NoNewPrivs"], ["1"]);
        need_root();
        for held in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(set(&fields, held), capabilities(privilege), "{held} with {privilege:?}");
        }
        let user: u32 = fields["Uid"][0].parse().unwrap();
        assert!(Users::default().contains(user) && fields["Groups"].is_empty(), "{fields:?}");
        assert!(fields["Uid"].iter().chain(&fields["Gid"]).all(|id| *id == user.to_string()), "{fields:?}");
    }
}

/// What the machine lets a program of others do that said what it needs.
#[test]
fn a_program_of_others_reaches_what_its_configuration_says() {
    let support = sandbox::support();
    let (script, others) = (Script::new(), Script::new());
    let secret = others.left();
    std::fs::write(&secret, "x").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = others.directory.path().join("socket");
    let _local = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let text = format!(
        "can() {{ if \"$@\" > /dev/null 2>&1; then printf y; else printf n; fi; }}
         printf '{{\"success\":true,\"elements\":\"'
         can cat {secret}; can cat /etc/passwd; can bash -c ': <> /dev/tcp/127.0.0.1/{port}'; can unshare --fork true
         can kill -0 {own}; can perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Peer => shift) or exit 1' {socket}
         can prlimit --pid {own} --nofile; can renice -n 0 -p $$; echo '\"}}'",
        secret = secret.display(),
        socket = socket.display(),
        own = std::process::id(),
    );
    let tried = |change: fn(&mut ForeignModule)| {
        let mut plan = script.plan(&text);
        let foreign = plan.foreign.as_mut().unwrap();
        (foreign.effect, foreign.privilege) = (Effect::Reads, Privilege::None);
        change(foreign);
        let result = ask(&plan, &Value::Null, seconds(30)).into_result("script");
        result.elements.as_str().unwrap_or_else(|| panic!("{result:?}")).to_owned()
    };
    need_root();
    assert_eq!(support.missing(), None, "this test shows nothing on a kernel that keeps less from a module");
    // Reads a private file and a public one, connects to a machine, makes a namespace, signals this process, connects to a
    // socket of this machine, sets limits of this process, sets priorities.
    assert_eq!(tried(|_| {}), "yyynnnnn");
    assert_eq!(tried(|module| module.reads = Some(Vec::new())), "nyynnnnn");
    assert_eq!(tried(|module| module.network = false), "yynnnnnn");
    assert_eq!(tried(|module| module.local_sockets = true), "yyynnynn");
    assert_eq!(tried(|module| module.effect = Effect::Changes), "yyynnnnn");
    // With the agent's own user only walls keep the agent from it.
    assert_eq!(tried(|module| module.privilege = Privilege::Agent), "yyynnnnn");
    let writes = tried(|module| {
        (module.effect, module.privilege, module.network) = (Effect::Changes, Privilege::Agent, false);
    });
    assert_eq!(writes, "yynnnnnn", "one that writes and said what it needs");
    let free = tried(|module| (module.effect, module.privilege) = (Effect::Changes, Privilege::Agent));
    assert_eq!(free, "yyyyyyyy", "one that changes with all that the agent may is trusted with it");
}

/// The owner of a file, and the keeper of an interface, needs none of what Landlock looks at to change them.
#[test]
fn a_program_that_says_it_only_reads_changes_nothing_as_root_either() {
    let (script, others) = (Script::new(), Script::new());
    let left = others.left();
    std::fs::write(&left, "x").unwrap();
    let before = left.metadata().unwrap();
    let text = format!(
        "can() {{ if \"$@\" > /dev/null 2>&1; then printf y; else printf n; fi; }}
         printf '{{\"success\":true,\"elements\":\"'
         can chmod 4777 {left}; can chown 2002 {left}; can touch -d 2001-01-01 {left}
         can perl -e 'shmget(0, 4096, 01600) // exit 1'; can perl -e 'syscall({syslog}, 10, 0, 0) >= 0 or exit 1'
         printf ' '; can head -c 0 /dev/null; can head -c 0 /dev/kmsg; can head -c 0 /proc/kmsg; can head -c 0 /proc/1/status
         while read -r name value; do case $name in CapEff:|CapPrm:|CapAmb:) printf \" $value\";; esac; done < /proc/self/status
         echo '\"}}'",
        left = left.display(),
        syslog = libc::SYS_syslog,
    );
    need_root();
    assert_eq!(sandbox::support().missing(), None, "this test shows nothing on a kernel that keeps less from a module");
    let mut plan = keeping(&script, Privilege::Agent, &text);
    plan.foreign.as_mut().unwrap().reads = Some(Vec::new());
    let result = ask(&plan, &Value::Null, seconds(30)).into_result("script");
    let said = result.elements.as_str().unwrap_or_else(|| panic!("{result:?}"));
    let words: Vec<_> = said.split(' ').collect();
    assert_eq!(words[..2], ["nnnnn", "ynnn"], "{said}");
    let most = CapabilitySet::DAC_READ_SEARCH | CapabilitySet::SYS_PTRACE;
    let own = rustix::thread::capabilities(None).unwrap().permitted & most;
    let held: Vec<_> = words[2..].iter().map(|bits| u64::from_str_radix(bits, 16).unwrap()).collect();
    assert_eq!(held, [own.bits(); 3], "{said}");
    let after = left.metadata().unwrap();
    let all = |found: &std::fs::Metadata| (found.mode(), found.uid(), found.mtime());
    assert_eq!(all(&before), all(&after));
}

#[test]
fn a_program_that_says_it_only_reads_writes_no_file() {
    let script = Script::new();
    let left = script.left();
    std::fs::set_permissions(&left, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let text = format!("head -c 10 /dev/zero > {}; echo '{{\"success\":true}}'", left.display());
    let Ended::Answered(result) = ask(&keeping(&script, Privilege::None, &text), &Value::Null, seconds(30)) else {
        panic!()
    };
    assert!(result.success, "{result:?}");
    assert_eq!(left.metadata().unwrap().len(), 0);
    let Ended::Answered(_) = ask(&script.plan(&text), &Value::Null, seconds(30)) else { panic!() };
    assert_eq!(left.metadata().unwrap().len(), 10, "one that changes something does");
}

#[test]
fn a_fork_bomb_is_bounded_and_gone_with_its_time() {
    let script = Script::new();
    let left = script.left();
    let bomb = script.plan(&format!("exec < {}; bomb() {{ bomb | bomb & }}; bomb; exec sleep 1000", left.display()));
    let time = Duration::from_secs(2);
    let begun = Instant::now();
    let ended = ask(&bomb, &Value::Null, Patience { time, ..Patience::default() });
    assert_eq!(ended, Ended::TimedOut(time));
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(!is_open_somewhere(&left), "what the module started is still there");
    need_root();
    // As a user of its own it has so many processes and no more.
    let many = script.plan(&format!("while sleep 1000 < {} & do :; done", left.display()));
    let Ended::Died { how, noise } = ask(&many, &Value::Null, seconds(60)) else { panic!() };
    assert!(noise.to_lowercase().contains("fork"), "{how}: {noise}");
    assert!(!is_open_somewhere(&left));
}

#[test]
fn what_a_program_started_outside_of_its_group_is_ended_with_it() {
    need_root();
    let script = Script::new();
    let left = script.left();
    let hide = format!("setsid setsid sleep 1000 < {} > /dev/null 2>&1 &", left.display());
    let answers = script.plan(&format!("{hide} echo '{{\"success\":true}}'"));
    let Ended::Answered(result) = ask(&answers, &Value::Null, seconds(30)) else { panic!() };
    assert!(result.success);
    assert!(!is_open_somewhere(&left), "it outlived its answer");
    let dies = script.plan(&format!("{hide} kill -9 $$"));
    assert!(matches!(ask(&dies, &Value::Null, seconds(30)), Ended::Died { .. }));
    assert!(!is_open_somewhere(&left), "it outlived the death of the module");
}

#[test]
fn a_program_that_fights_whoever_would_end_it_is_gone_in_a_moment() {
    need_root();
    let script = Script::new();
    let left = script.left();
    for signal in ["STOP", "KILL"] {
        // Each of them outside of the group, each against all others of its user.
        let fight = format!("exec < {} > /dev/null 2>&1; while :; do kill -s {signal} -- -1; done", left.display());
        let hostile = format!("for each in 1 2 3; do setsid sh -c '{fight}' & done; exec sleep 1000");
        let time = Duration::from_secs(2);
        let begun = Instant::now();
        let ended = ask(&script.plan(&hostile), &Value::Null, Patience { time, ..Patience::default() });
        assert!(matches!(ended, Ended::TimedOut(_) | Ended::Died { .. }), "{signal}: {ended:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{signal}: {:?}", begun.elapsed());
        assert!(!is_open_somewhere(&left), "{signal}: it is still there");
    }
}

#[test]
fn a_program_that_flees_from_process_to_process_is_caught() {
    need_root();
    let script = Script::new();
    let left = script.left();
    let flee = format!("exec < {}; flee() {{ (flee) & exit; }}; setsid sh -c : ; flee", left.display());
    let time = Duration::from_secs(1);
    let ended = ask(&script.plan(&flee), &Value::Null, Patience { time, ..Patience::default() });
    assert!(!matches!(ended, Ended::Left(_)), "{ended:?}");
    assert!(!is_open_somewhere(&left), "it is still there");
}

#[test]
fn ten_gigabytes_of_answer_or_of_noise_are_neither_kept_nor_waited_for() {
    let script = Script::new();
    let begun = Instant::now();
    let much = ask(&script.plan("exec head -c 10G /dev/zero"), &Value::Null, seconds(60));
    assert_eq!(much, Ended::TooMuch(Patience::default().output_bytes));
    let time = Duration::from_secs(1);
    let noisy = script.plan("exec head -c 10G /dev/zero >&2");
    let noisy = ask(&noisy, &Value::Null, Patience { time, ..Patience::default() });
    assert!(matches!(noisy, Ended::TimedOut(_) | Ended::Died { .. }), "{noisy:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn a_program_that_is_deaf_to_signals_is_ended_all_the_same() {
    let script = Script::new();
    let deaf = script.plan("trap '' TERM INT HUP QUIT PIPE; while :; do sleep 1000; done");
    let stop = Stop::default();
    stop.ask();
    let begun = Instant::now();
    assert_eq!(host().ask(&deaf, &Value::Null, seconds(60), &stop), Ended::Stopped);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_crash_leaves_no_core_and_is_said() {
    let script = Script::new();
    let crash = ask(&script.plan("ulimit -c unlimited 2>/dev/null; kill -SEGV $$"), &Value::Null, seconds(30));
    assert_eq!(crash.into_result("x").errors(), ["module 'x' ended without an answer: it was killed by signal 11"]);
    assert!(!script.directory.path().join("core").exists());
}

#[test]
fn memory_that_is_not_there_ends_the_module_and_nothing_else() {
    let script = Script::new();
    let mut hog = script.plan("exec tail -n 1 /dev/zero");
    hog.limits.memory_bytes = 256 * 1024 * 1024;
    let Ended::Died { noise, .. } = ask(&hog, &Value::Null, seconds(60)) else { panic!() };
    assert!(noise.contains("memory"), "{noise}");
    // A module built in that has none left for its question dies, and that is said.
    let mut plan = built_in("file");
    plan.limits.memory_bytes = 1024 * 1024;
    let search = json!({"searches": {"s": {"paths": ["/etc"], "contents": ["x"]}}});
    let result = ask(&plan, &search, seconds(60)).into_result("file");
    assert!(!result.success && !result.errors().is_empty(), "{result:?}");
}
