//! The real program: by hand, as a module that another program starts, and under the hosts that agents use.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use muster_modules::confine::Limits;
use muster_modules::foreign::{Catalogue, ForeignModule};
use muster_modules::host::{Ended, Host, Patience};
use muster_modules::{Effect, ModuleResult, Privilege, Stop};
use serde_json::{Value, json};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_muster-yara");
const RULES: &str = "rule needle { strings: $a = \"needle\" condition: $a }";

/// Files of which one holds what the rules look for, and nobody but their owner may read any.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("found", "a needle"), ("other", "hay"), ("rules.yar", RULES)] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    dir
}

fn run(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that only explains itself does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn question(dir: &Path) -> Value {
    json!({"yara": RULES, "filesearch": format!("-path {} -name !rules", dir.display())})
}

fn want(dir: &Path) -> Value {
    json!({"Matches": [{"Object": dir.join("found"), "MatchedRules": ["needle"]}]})
}

#[test]
fn one_line_of_parameters_is_answered_with_one_line_of_result() {
    let dir = tree();
    let line = json!({"class": "parameters", "parameters": question(dir.path())}).to_string();
    for arguments in [&[][..], &["-m", "yara"]] {
        let output = run(arguments, &format!("{line}\n"));
        assert!(output.status.success());
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let whole = json!({"foundanything": true, "success": true, "elements": want(dir.path()), "statistics": null,
            "errors": null});
        assert_eq!(answer, whole);
        assert!(output.stdout.ends_with(b"}\n"));
    }
    let output = run(&[], "{\"class\":\"parameters\",\"parameters\":{\"yara\":\"rule\"}}\n");
    let answer: ModuleResult = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!answer.success && answer.errors()[0].contains("cannot be compiled"), "{answer:?}");
}

#[test]
fn by_hand_it_searches_and_writes_operations() {
    let dir = tree();
    let rules = dir.path().join("rules.yar");
    let files = format!("-path {} -name !rules", dir.path().display());
    let flags = ["-rules", rules.to_str().unwrap(), "-files", &files];
    let output = run(&[&["run"], &flags[..]].concat(), "");
    assert_eq!(text(&output.stdout), format!("{} [needle]\n", dir.path().join("found").display()));
    let output = run(&[&["operation"], &flags[..]].concat(), "");
    let operation: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(operation, json!({"module": "yara", "parameters": question(dir.path())}));
    let output = run(&["help"], "");
    assert!(output.status.success() && text(&output.stdout).contains("-rules FILE"), "{output:?}");
    for (arguments, why) in [
        (&["run", "-rules", "/nonexistent", "-files", "-path /"][..], "could not use /nonexistent"),
        (&["operation", "-files", "-path /"], "-rules FILE is missing"),
        (&["nonsense"], "muster-yara run"),
        (&["-m", "file"], "muster-yara run"),
    ] {
        let output = run(arguments, "");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(why) && output.stdout.is_empty(), "{output:?}");
    }
}

/// The program that hosts modules without an agent. It lies beside this one when the workspace was built.
fn host() -> Host {
    let program = PathBuf::from(PROGRAM).with_file_name("muster-module");
    assert!(program.is_file(), "muster-module is not built: run `cargo build --workspace --bins` first");
    Host { program, arguments: Vec::new() }
}

fn asked(module: ForeignModule, parameters: &Value) -> ModuleResult {
    let catalogue = Catalogue::new(BTreeMap::from([("yara".to_owned(), module)])).unwrap();
    let plan = catalogue.plan("yara", Limits::default(), None).unwrap();
    match host().ask(&plan, parameters, Patience::default(), &Stop::default()) {
        Ended::Answered(result) => result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn hosted_it_reads_what_only_its_owner_may_as_a_user_who_owns_nothing() {
    let dir = tree();
    let module = ForeignModule {
        path: PROGRAM.into(),
        arguments: Vec::new(),
        sha256: Some(hex::encode(sha2::Sha256::digest(std::fs::read(PROGRAM).unwrap()))),
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::ReadFiles,
        reads: None,
        network: false,
        local_sockets: false,
    };
    let result = asked(module.clone(), &question(dir.path()));
    assert_eq!((result.success, &result.elements), (true, &want(dir.path())), "{result:?}");
    // Without that one privilege it sees what anybody sees.
    let blind = asked(ForeignModule { privilege: Privilege::None, ..module.clone() }, &question(dir.path()));
    if rustix::process::geteuid().is_root() {
        assert!(!blind.foundanything && blind.errors()[0].contains("permission denied"), "{blind:?}");
    }
    let exchanged = asked(ForeignModule { sha256: Some("0".repeat(64)), ..module }, &question(dir.path()));
    assert!(exchanged.errors()[0].contains("not the program that was configured"), "{exchanged:?}");
}
