//! Questions and actions: what is asked before anything is signed, and how they end.

use crate::server::*;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

#[test]
fn a_named_target_is_written_out_before_anything_is_signed() {
    let server = Server::start();
    let (home, nobody) = (server.directory.path().join("config"), "http://127.0.0.1:1");
    // What a person keeps is kept on the person's machine: no server is asked, nor needed.
    let here = |words: &[&str]| {
        let mut command = muster();
        command.env("XDG_CONFIG_HOME", &home).args(["--url", nobody]).args(words).output().unwrap()
    };
    assert!(here(&["target", "save", "linux", "os='linux'"]).status.success());
    let file = server.directory.path().join("q.json").display().to_string();
    let new = |target: &'static str| {
        ["action", "new", "--replace", "--name", "q", "--target", target, "--out", &file, "timedrift"]
    };
    assert!(here(&new("@linux AND status='online'")).status.success());
    let action: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(action["target"], "(os='linux') AND status='online'");
    let (code, text) = server.fails(&new("@missing OR true"));
    assert!(code == 2 && text.contains("no target has the name \"missing\""), "{code}: {text}");
    // An at sign in a text is no name.
    let alone = here(&new("name = 'a@linux'"));
    assert!(alone.status.success(), "{alone:?}");
    // What the server means by a name is the server's word, and there is nobody here to agree to it.
    server.text(&["target", "put", "theirs", "os='linux'"]);
    let (code, text) = server.fails(&new("@theirs"));
    assert!(code == 2 && text.contains("The server says that @theirs means: os='linux'"), "{code}: {text}");
    // A name means the same when it is only checked: the person's meaning first, then the server's, which is no question there.
    server.text(&["target", "put", "linux", "os='bsd'"]);
    for (name, meaning) in [("@linux", "(os='linux')"), ("@theirs", "The server says that @theirs means: os='linux'")] {
        let checked = server.command(&["target", "check", name]).env("XDG_CONFIG_HOME", &home).output().unwrap();
        let text = String::from_utf8(checked.stderr).unwrap();
        assert!(checked.status.success() && text.contains(meaning) && !text.contains("bsd"), "{name}: {text}");
    }
    let saved = here(&["--json", "target", "save", "linux", "os='linux'"]);
    let saved: Value = serde_json::from_slice(&saved.stdout).unwrap();
    assert_eq!(saved, serde_json::json!({"name": "linux", "target": "os='linux'"}));
    // With a fleet, what is signed is for its machines alone.
    let fleet = [&new("@linux OR true")[..5], &["--fleet", "lab"], &new("@linux OR true")[5..]].concat();
    assert!(here(&fleet).status.success());
    let action: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(action["target"], "((os='linux') OR true) AND fleet = 'lab'");
    // What is shown before it is signed is what will be signed.
    server.text(&["investigator", "add", "Ann", "--key", &key("first.asc")]);
    let ask = ["ask", "--key", &key("first.key"), "--target", "@linux", "--yes", "timedrift"];
    let (code, text) = failed(&server.command(&ask).env("XDG_CONFIG_HOME", &home).output().unwrap());
    assert!(code == 3 && text.contains("Target      (os='linux')"), "{code}: {text}");
}

#[test]
fn an_action_that_nobody_signed_is_previewed() {
    let server = Server::start();
    let file = server.directory.path().join("q.json").display().to_string();
    server.text(&["action", "new", "--name", "q", "--target", "true", "--out", &file, "timedrift"]);
    let output = server.run(&["action", "preview", &file]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && text.contains("Signed by nobody yet."), "{text}");
    assert!(text.contains("needs signatures before it can be launched"), "{text}");
    let preview = server.json(&["action", "preview", &file]);
    assert_eq!((&preview["ready"], &preview["matched"]), (&Value::Bool(false), &Value::from(0)));
    let (code, text) = server.fails(&["action", "launch", &file, "--yes"]);
    assert!(code == 2 && text.contains("nobody has signed it"), "{code}: {text}");
}

/// Runs a command with something on standard input, which is no terminal.
fn told(mut command: Command, input: &str) -> (i32, String) {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // A command that does not read ends before it is told anything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    failed(&child.wait_with_output().unwrap())
}

#[test]
fn without_a_terminal_a_no_is_a_no_and_machines_are_changed_only_with_yes() {
    let server = Server::start();
    let (code, text) = server.fails(&["agent", "delete", "00000000000000aa"]);
    assert!(code == 2 && text.contains("pass --yes"), "{code}: {text}");
    let (code, text) = told(server.command(&["agent", "delete", "00000000000000aa"]), "y\n");
    assert!(code == 2 && text.contains("pass --yes"), "{code}: {text}");
    // With --yes it is tried, and there is no such machine.
    assert_eq!(server.fails(&["agent", "delete", "00000000000000aa", "--yes"]).0, 3);

    let delete = || server.command(&["target", "delete", "web"]);
    server.text(&["target", "put", "web", "true"]);
    for no in ["n\n", "no", "\n"] {
        let (code, text) = told(delete(), no);
        assert!(code == 1 && text.contains("not confirmed"), "{no:?}: {code}: {text}");
    }
    assert!(server.text(&["target", "list"]).contains("web"));
    assert_eq!(told(delete(), "y\n").0, 0);
    server.text(&["target", "put", "web", "true"]);
    server.text(&["target", "delete", "web"]);
}

#[test]
fn an_action_that_would_be_refused_is_previewed_so() {
    let server = Server::start();
    let file = server.directory.path().join("q.json").display().to_string();
    server.text(&["action", "new", "--name", "q", "--target", "true", "--out", &file, "timedrift"]);
    server.text(&["action", "sign", &file, "--key", &key("first.key")]);
    let text = String::from_utf8(server.run(&["action", "preview", &file]).stderr).unwrap();
    assert!(text.contains("Launching it would be refused: the key ") && text.contains("of no investigator"), "{text}");
    assert!(!text.contains("wait for more"), "{text}");
    // Nobody is asked whether to launch what would be refused.
    let (code, text) = server.fails(&["action", "launch", &file]);
    assert!(code == 4 && text.contains("of no investigator") && !text.contains("--yes"), "{code}: {text}");
}

/// A server with an investigator, and how she asks.
fn asked_by_ann(server: &Server) -> Vec<String> {
    server.text(&["investigator", "add", "Ann", "--key", &key("first.asc")]);
    let words = ["ask", "--standing", "--target", "true", "--key", &key("first.key"), "timedrift"];
    words.map(str::to_owned).to_vec()
}

/// Interrupts a command as soon as it has said something, and returns how it ended.
fn interrupted(mut command: Command, wanted: &str, file: &Path) -> (i32, String) {
    let said = std::fs::File::create(file).unwrap();
    // Standard input stays open and says nothing.
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(said).spawn().unwrap();
    wait_for(wanted, || std::fs::read_to_string(file).unwrap().contains(wanted).then_some(()));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let stdin = child.stdin.take();
    let status = child.wait().unwrap();
    drop(stdin);
    (status.code().unwrap(), std::fs::read_to_string(file).unwrap())
}

#[test]
fn a_question_in_a_loop_leaves_standard_input_to_the_loop() {
    let server = Server::start();
    let words = asked_by_ann(&server);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    // What stands there are the loop's next words, no answer; and the second question is not the first one again.
    for _ in 0..2 {
        let (code, text) = told(server.command(&[&words[..], &["--wait", "0s"]].concat()), "pkg\nmemory\n");
        assert!(code == 7 && !text.contains("was launched before"), "{code}: {text}");
    }
    assert_eq!(server.json(&["action", "list"])["items"].as_array().unwrap().len(), 2);
    // A lone no is one.
    let (code, text) = told(server.command(&words), "n\n");
    assert!(code == 1 && text.contains("not confirmed"), "{code}: {text}");
    assert_eq!(server.json(&["action", "list"])["items"].as_array().unwrap().len(), 2);
    let (code, text) = server.fails(&["--json", "action", "results", "1", "--format", "csv"]);
    assert!(code == 2 && text.contains("contradict"), "{code}: {text}");
}

#[test]
fn an_interrupt_ends_a_wait_at_once_and_says_how_to_go_on() {
    let server = Server::start();
    let words = asked_by_ann(&server);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let file = server.directory.path().join("said");
    let (code, text) = interrupted(server.command(&[&words[..1], &["--yes"], &words[1..]].concat()), "action 1", &file);
    assert!(code == 130 && text.contains("muster action watch 1"), "{code}: {text}");
    assert!(text.contains("muster action cancel 1"), "{text}");
}

#[test]
fn a_standing_action_without_machines_is_told_as_one_and_its_csv_has_a_head() {
    let server = Server::start();
    let words = asked_by_ann(&server);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let output = server.run(&[&words[..], &["--wait", "0s", "--format", "csv", "-y"]].concat());
    let (code, text) = failed(&output);
    assert!(code == 7 && text.contains("it is standing") && !text.contains("0 of 0 machines"), "{code}: {text}");
    assert_eq!(output.stdout, b"agent,hostname,status,found,value,known\r\n");
    let keys = key("first.asc");
    let results = ["action", "results", "1", "--format", "csv", "--keyring", &keys];
    assert_eq!(server.text(&results), "agent,hostname,status,found,value,known\r\n");
    server.text(&["action", "cancel", "1", "--server-only"]);
}

#[test]
fn case_08_a_limit_ends_a_module_that_hangs_and_keeps_what_it_found() {
    let id = Command::new("id").arg("-u").output().unwrap();
    // Only root lays one file over another: who is not root becomes so in a namespace of users.
    let namespaces: &[&str] = if id.stdout == b"0\n" { &["-m"] } else { &["-r", "-m"] };
    // A program that never ends stands for whatever hangs.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("systemctl");
    std::fs::write(&program, "#!/bin/sh\necho 'half.service enabled'\nsleep 1000.0625\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let begun = Instant::now();
    let output = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", r#"mount --bind "$1" /usr/bin/systemctl; shift; exec "$@""#, "sh"])
        .args([program.as_os_str(), PROGRAM.as_ref()])
        .args(["module", "run", "--limit", "1s", "services"])
        .output()
        .unwrap();
    assert!(begun.elapsed() < CEILING);
    let told = String::from_utf8(output.stdout).unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let hung = told.lines().find(|line| line.starts_with("systemctl list-unit-files: it had not ended after "));
    assert!(hung.is_some_and(|line| line.ends_with("when the time was over, and was ended")), "{told}{complaint}");
    assert!(!output.status.success(), "{told}");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let left = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    assert_eq!(left.filter(|words| words.windows(9).any(|word| word == b"1000.0625")).count(), 0);
}
