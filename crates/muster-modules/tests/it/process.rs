//! Modules as processes: what a host makes of a good, a hanging, a loud and a dying one.

use crate::{Script, ask, built_in, host, is_open_somewhere, plan_of, seconds};
use muster_modules::confine::Limits;
use muster_modules::host::{Ended, Host, Patience};
use muster_modules::user::Users;
use muster_modules::{ModuleResult, Stop};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[test]
fn a_module_built_in_answers_from_a_process_of_its_own() {
    let Ended::Answered(result) = ask(&built_in("timedrift"), &json!({"drift": ""}), seconds(30)) else { panic!() };
    assert!(result.success && result.foundanything, "{result:?}");
    assert!(result.elements["localtime"].is_string());
}

#[test]
fn parameters_that_are_wrong_are_an_answer() {
    let Ended::Answered(result) = ask(&built_in("timedrift"), &json!({"drift": "soon"}), seconds(30)) else { panic!() };
    assert_eq!(result.errors(), ["time: invalid duration \"soon\""]);
}

#[test]
fn a_script_is_a_module() {
    let script = Script::new();
    let plan = script.plan(r#"read line; printf '{"success":true,"foundanything":true,"elements":%s}\n' "$line""#);
    let Ended::Answered(result) = ask(&plan, &json!({"a": [1, 2]}), seconds(30)) else { panic!() };
    assert_eq!(result.elements, json!({"class": "parameters", "parameters": {"a": [1, 2]}}));
}

#[test]
fn a_foreign_module_keeps_no_privileges() {
    let script = Script::new();
    let plan = script.plan(r#"printf '{"success":true,"elements":"%s %s"}\n' "$(id -u)" "$(ulimit -n)""#);
    let Ended::Answered(result) = ask(&plan, &Value::Null, seconds(30)) else { panic!() };
    let (user, files) = result.elements.as_str().unwrap().split_once(' ').unwrap();
    let user: u32 = user.parse().unwrap();
    let own = rustix::process::getuid();
    assert!(if own.is_root() { Users::default().contains(user) } else { user == own.as_raw() }, "{result:?}");
    assert_eq!(files, "256");
}

#[test]
fn a_program_that_was_exchanged_is_not_run() {
    let script = Script::new();
    let mut plan = script.plan("echo '{\"success\":true}'");
    plan.foreign.as_mut().unwrap().sha256 = Some("0".repeat(64));
    let Ended::Answered(result) = ask(&plan, &Value::Null, seconds(30)) else { panic!() };
    assert!(!result.success && result.errors()[0].contains("not the program that was configured"), "{result:?}");
}

#[test]
fn a_module_that_hangs_ends_with_all_it_started() {
    let script = Script::new();
    let left = script.directory.path().join("left");
    std::fs::File::create(&left).unwrap();
    let plan = script.plan(&format!("sleep 1000 < {} & exec sleep 1000", left.display()));
    let begun = Instant::now();
    let time = Duration::from_millis(700);
    let ended = ask(&plan, &Value::Null, Patience { time, ..Patience::default() });
    assert_eq!(ended, Ended::TimedOut(time));
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(!is_open_somewhere(&left), "what the module started is still there");
}

#[test]
fn a_module_that_was_stopped_answers_or_is_ended() {
    let script = Script::new();
    let stop = Stop::default();
    stop.ask();
    let polite = script.plan(r#"read a; read b; printf '{"success":true,"elements":%s}\n' "$b""#);
    let Ended::Answered(result) = host().ask(&polite, &Value::Null, seconds(30), &stop) else { panic!() };
    assert_eq!(result.elements, json!({"class": "stop"}));
    let deaf = script.plan("exec sleep 1000");
    assert_eq!(host().ask(&deaf, &Value::Null, seconds(30), &stop), Ended::Stopped);
}

#[test]
fn a_module_that_talks_too_much_is_ended() {
    let script = Script::new();
    let patience = Patience { output_bytes: 100_000, ..seconds(30) };
    assert_eq!(ask(&script.plan("exec cat /dev/zero"), &Value::Null, patience), Ended::TooMuch(100_000));
    // A megabyte of noise neither blocks the module nor is kept.
    let loud = script.plan("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 3");
    let Ended::Died { how, noise } = ask(&loud, &Value::Null, seconds(30)) else { panic!() };
    assert_eq!((how.as_str(), noise.len()), ("its exit code was 3", 16 * 1024));
}

#[test]
fn a_module_that_dies_says_how() {
    let script = Script::new();
    let killed = ask(&script.plan("kill -9 $$"), &Value::Null, seconds(30)).into_result("script");
    assert_eq!(killed, ModuleResult::failed("module 'script' ended without an answer: it was killed by signal 9"));
    let garbage = ask(&script.plan("echo hello"), &Value::Null, seconds(30)).into_result("script");
    assert!(garbage.errors()[0].contains("what it wrote is no result"), "{garbage:?}");
    let gone = plan_of(Path::new("/nonexistent/module"), Limits::default());
    let gone = ask(&gone, &Value::Null, seconds(30)).into_result("script");
    assert_eq!(gone.errors(), ["open /nonexistent/module: no such file or directory"]);
    let program = Host { program: PathBuf::from("/nonexistent/host"), arguments: Vec::new() };
    let ended = program.ask(&built_in("timedrift"), &Value::Null, seconds(30), &Stop::default());
    assert_eq!(ended, Ended::NotStarted("/nonexistent/host: no such file or directory".into()));
}

#[test]
fn a_module_that_takes_all_memory_or_time_is_ended_by_the_system() {
    let script = Script::new();
    let hungry = "dd if=/dev/zero of=/dev/null bs=300M count=1 2>/dev/null || echo '{\"elements\":\"refused\"}'";
    let mut plan = script.plan(hungry);
    plan.limits.memory_bytes = 200 * 1024 * 1024;
    let Ended::Answered(result) = ask(&plan, &Value::Null, seconds(30)) else { panic!() };
    assert_eq!(result.elements, json!("refused"));
    let mut plan = script.plan("while :; do :; done");
    plan.limits.processor_s = 1;
    let Ended::Died { how, .. } = ask(&plan, &Value::Null, seconds(60)) else { panic!() };
    assert!(how.starts_with("it was killed by signal"), "{how}");
}

#[test]
fn a_giant_question_to_a_module_that_does_not_read_ends() {
    let script = Script::new();
    let parameters = json!({"text": "x".repeat(3_000_000)});
    let deaf = script.plan("echo '{\"success\":true}'");
    let Ended::Answered(result) = ask(&deaf, &parameters, seconds(30)) else { panic!() };
    assert!(result.success);
}

#[test]
fn a_module_built_in_keeps_only_what_it_needs() {
    // Nobody but the owner may read this; the module reads it with one capability, as nobody.
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "treasure\n").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let search = json!({"searches": {"s": {"paths": [dir.path()], "contents": ["^treasure$"]}}});
    let Ended::Answered(result) = ask(&built_in("file"), &search, seconds(60)) else { panic!() };
    assert!(result.foundanything, "{result:?}");

    let itself = json!({"cmdlines": ["module-process .*\"module\":\"process\""]});
    let Ended::Answered(result) = ask(&built_in("process"), &itself, seconds(60)) else { panic!() };
    let processes = result.elements["processes"].as_array().unwrap();
    let own = processes.iter().find(|process| process["name"] == json!("muster-module"));
    let user = rustix::process::getuid();
    let user = if user.is_root() { 65_534 } else { user.as_raw() };
    assert_eq!(own.unwrap_or_else(|| panic!("{result:#?}"))["uid"], json!(user));
}

#[test]
fn an_answer_of_very_many_values_is_not_taken_into_memory() {
    let script = Script::new();
    let objects =
        "printf '{\"success\":true,\"elements\":['; yes '{\"\":0},' | head -n 300000 | tr -d '\\n'; echo '0]}'";
    let ended = ask(&script.plan(objects), &Value::Null, seconds(30));
    assert!(matches!(ended, Ended::TooMany(_)), "{ended:?}");
    let why = &ended.into_result("x").errors.unwrap()[0];
    assert_eq!(why, "module 'x' answered with more values than fit into 201326592 bytes of memory");
}
