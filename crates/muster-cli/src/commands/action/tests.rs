//! Actions written, signed by the real `gpg` and by key files, and verified, without a server.

use super::*;
use crate::Exit;
use clap::Parser as _;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command as Program;

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(flatten)]
    args: Args,
}

async fn run(words: &[&str]) -> Result<(), Failure> {
    let cli = Cli::try_parse_from(["action"].iter().chain(words)).unwrap_or_else(|error| panic!("{error}"));
    cli.args.run(&cli.globals).await
}

/// A gpg of its own, with one key.
struct Gpg {
    dir: tempfile::TempDir,
}

impl Gpg {
    fn new(who: &str) -> Self {
        Self::locked(who, "")
    }

    fn locked(who: &str, passphrase: &str) -> Self {
        Self::made(who, passphrase, &[], "never")
    }

    fn made(who: &str, passphrase: &str, more: &[&str], ends: &str) -> Self {
        let gpg = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::set_permissions(gpg.dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let script = format!("#!/bin/sh\nexec gpg --homedir '{}' \"$@\"\n", gpg.dir.path().display());
        std::fs::write(gpg.program(), script).unwrap();
        std::fs::set_permissions(gpg.program(), PermissionsExt::from_mode(0o700)).unwrap();
        gpg.keep("passphrase", passphrase.as_bytes());
        let with = gpg.given();
        let with = with.each_ref().map(String::as_str);
        gpg.call(&[&with[..], more, &["--quick-generate-key", who, "ed25519", "sign", ends]].concat());
        gpg
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("gpg.sh")
    }

    fn call(&self, words: &[&str]) -> Vec<u8> {
        let done = Program::new(self.program()).args(words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }

    fn given(&self) -> [String; 5] {
        let file = text(&self.dir.path().join("passphrase"));
        ["--batch", "--pinentry-mode", "loopback", "--passphrase-file", &file].map(str::to_owned)
    }

    /// Writes the public key, and returns where.
    fn public(&self) -> String {
        self.keep("public.asc", &self.call(&["--armor", "--export"]))
    }

    /// Writes the secret key, and returns where.
    fn secret(&self) -> String {
        let with = self.given();
        let words = [&with.each_ref().map(String::as_str)[..], &["--armor", "--export-secret-keys"]].concat();
        self.keep("secret.asc", &self.call(&words))
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        text(&path)
    }

    fn fingerprint(&self) -> String {
        let listed = String::from_utf8(self.call(&["--with-colons", "--list-keys"])).unwrap();
        listed.lines().find_map(|line| line.strip_prefix("fpr:")).unwrap().trim_matches(':').to_owned()
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // gpg started an agent for this directory.
        let _ = Program::new("gpgconf").arg("--homedir").arg(self.dir.path()).args(["--kill", "all"]).output();
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Writes a question into a directory, and returns where.
async fn question(dir: &Path) -> String {
    let path = text(&dir.join("q.json"));
    run(&[
        "new",
        "--replace",
        "--name",
        "q",
        "--target",
        "os='linux'",
        "--out",
        &path,
        "file",
        "-path",
        "/etc",
        "-name",
        "^passwd$",
    ])
    .await
    .unwrap();
    path
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn edit(path: &str, change: impl FnOnce(&mut Value)) {
    let mut action = json(path);
    change(&mut action);
    std::fs::write(path, action.to_string()).unwrap();
}

#[tokio::test]
async fn a_new_action_is_migs_version_two_with_the_modules_parameters() {
    let dir = tempfile::tempdir().unwrap();
    let path = text(&dir.path().join("q.json"));
    let operation = r#"{"module": "memory", "parameters": {"searches": {"s": {}}}}"#;
    let words = ["--expires-in", "2h", "--valid-from", "2040-01-02T03:04:05.7Z", "--author", "Alice", "--operation"];
    let new = [&["new", "--name", "q", "--target", "os='linux'", "--out", &path][..], &words, &[operation]].concat();
    run(&[&new[..], &["file", "-path", "/etc", "-name", "^x$", "--", "timedrift"]].concat()).await.unwrap();
    let action = json(&path);
    assert_eq!(action["syntaxversion"], 2);
    assert_eq!((&action["name"], &action["target"]), (&"q".into(), &"os='linux'".into()));
    assert_eq!(action["validfrom"], "2040-01-02T03:04:05Z");
    assert_eq!(action["expireafter"], "2040-01-02T05:04:05Z");
    assert_eq!(action["description"]["author"], "Alice");
    let modules: Vec<_> = action["operations"].as_array().unwrap().iter().map(|one| &one["module"]).collect();
    assert_eq!(modules, ["memory", "file", "timedrift"]);
    assert_eq!(action["operations"][1]["parameters"]["searches"]["s1"]["names"][0], "^x$");
}

#[tokio::test]
async fn what_no_machine_would_take_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = text(&dir.path().join("q.json"));
    let new = |name: &'static str, target: &'static str, rest: &'static [&'static str]| {
        let words = [&["new", "--out", &path, "--name", name, "--target", target], rest].concat();
        async move { run(&words).await.unwrap_err() }
    };
    for failure in [
        new("x", "os='linux'", &[]).await,
        new("x", "no such thing", &["timedrift"]).await,
        new("x;target=y", "os='linux'", &["timedrift"]).await,
        new("x", "os='linux'", &["file", "-nosuch", "x"]).await,
        new("x", "os='linux'", &["--operation", "{}"]).await,
        new("x", "os='linux'", &["--operation", r#"{"module": "file", "parameters": {"searches": 1}}"#]).await,
        new("x", "os='linux'", &["--valid-from", "2001-01-01T00:00:00Z", "--expires-in", "0s", "--", "ping"]).await,
    ] {
        assert_eq!(failure.exit, Exit::Usage, "{failure}");
    }
    assert_eq!(new("x", "os='linux'", &["nosuch"]).await.exit, Exit::NotFound);
    assert!(!Path::new(&path).exists());
}

#[tokio::test]
async fn gpg_signs_and_a_machine_would_take_it() {
    let alice = Gpg::new("Alice <alice@example.com>");
    let path = question(alice.dir.path()).await;
    let program = text(&alice.program());
    assert_eq!(run(&["verify", &path, "--keyring", &alice.public()]).await.unwrap_err().exit, Exit::Failed);
    run(&["sign", &path, "--gpg", &program, "--local-user", "alice@example.com"]).await.unwrap();
    assert_eq!(json(&path)["pgpsignatures"].as_array().unwrap().len(), 1);
    run(&["verify", &path, "--keyring", &alice.public()]).await.unwrap();
    run(&["verify", &path, "--gpg", &program]).await.unwrap();
    let twice = run(&["sign", &path, "--gpg", &program]).await.unwrap_err();
    assert_eq!(twice.exit, Exit::Conflict, "{twice}");
    let nobody = run(&["sign", &path, "--gpg", &program, "-u", "nobody@example.com"]).await.unwrap_err();
    assert!(nobody.exit == Exit::Failed && nobody.why.contains("nobody@example.com"), "{nobody}");
    let missing = run(&["sign", &path, "--gpg", "/nonexistent/gpg"]).await.unwrap_err();
    assert!(missing.next.contains("--key"), "{missing}");
}

#[tokio::test]
async fn settings_in_gpg_conf_do_not_spoil_a_signature_and_a_revoked_key_signs_nothing() {
    let alice = Gpg::new("Alice <alice@example.com>");
    let (path, program) = (question(alice.dir.path()).await, text(&alice.program()));
    alice.keep("gpg.conf", b"armor\ntextmode\ndigest-algo SHA1\ncomment x\n");
    run(&["sign", &path, "--gpg", &program]).await.unwrap();
    run(&["verify", &path, "--keyring", &alice.public()]).await.unwrap();
    let revocations = alice.dir.path().join("openpgp-revocs.d").join(format!("{}.rev", alice.fingerprint()));
    let revocation = std::fs::read_to_string(revocations).unwrap().replace(":-----BEGIN", "-----BEGIN");
    alice.call(&["--batch", "--import", &alice.keep("revocation.asc", revocation.as_bytes())]);
    assert_eq!(run(&["verify", &path, "--keyring", &alice.public()]).await.unwrap_err().exit, Exit::Failed);
    let other = question(alice.dir.path()).await;
    assert_eq!(run(&["sign", &other, "--gpg", &program]).await.unwrap_err().exit, Exit::Failed);
    assert!(json(&other)["pgpsignatures"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_key_file_signs_with_its_passphrase() {
    let bob = Gpg::new("Bob <bob@example.com>");
    let path = question(bob.dir.path()).await;
    let (open, public) = (bob.secret(), bob.public());
    let signed = text(&bob.dir.path().join("signed.json"));
    run(&["sign", &path, "--key", &open, "--out", &signed]).await.unwrap();
    run(&["verify", &signed, "--keyring", &public]).await.unwrap();
    assert!(json(&path)["pgpsignatures"].as_array().unwrap().is_empty(), "--out leaves the file as it was");
    assert_eq!(run(&["sign", &signed, "--key", &open]).await.unwrap_err().exit, Exit::Conflict);
    assert_eq!(run(&["sign", &path, "--key", &public]).await.unwrap_err().exit, Exit::Failed);

    let carol = Gpg::locked("Carol <carol@example.com>", "open sesame");
    let locked = carol.secret();
    let wrong = carol.keep("wrong", b"open barley\n");
    let right = carol.keep("right", b"open sesame\nsecond line\n");
    let refused = run(&["sign", &path, "--key", &locked, "--passphrase-file", &wrong]).await.unwrap_err();
    assert!(refused.why.contains("passphrase"), "{refused}");
    run(&["sign", &path, "--key", &locked, "--passphrase-file", &right]).await.unwrap();
}

#[tokio::test]
async fn a_signature_counts_only_for_what_was_signed_and_by_its_weight() {
    let (alice, bob) = (Gpg::new("Alice <alice@example.com>"), Gpg::new("Bob <bob@example.com>"));
    let path = question(alice.dir.path()).await;
    run(&["sign", &path, "--gpg", &text(&alice.program())]).await.unwrap();
    let acl = format!(
        r#"{{"file": {{"minimumweight": 2, "investigators": {{
            "a": {{"fingerprint": "{}", "weight": 1}}, "b": {{"fingerprint": "{}", "weight": 1}}}}}}}}"#,
        alice.fingerprint(),
        bob.fingerprint()
    );
    let acl = alice.keep("acl.cfg", acl.as_bytes());
    let both = [std::fs::read(alice.public()).unwrap(), std::fs::read(bob.public()).unwrap()].concat();
    let both = alice.keep("both.asc", &both);
    let verify = ["verify", &path, "--keyring", &both, "--acl", &acl];
    let light = run(&verify).await.unwrap_err();
    assert!(light.why.contains("needs a weight of 2, the signatures have 1"), "{light}");
    run(&["sign", &path, "--gpg", &text(&bob.program())]).await.unwrap();
    run(&verify).await.unwrap();
    run(&["--json", "verify", &path, "--keyring", &both]).await.unwrap();
    run(&["verify", &path, "--keyring", &bob.public()]).await.unwrap();

    edit(&path, |action| action["target"] = "os='windows'".into());
    assert!(run(&verify).await.unwrap_err().why.contains("none of its signatures"));
    edit(&path, |action| action["target"] = "os='linux'".into());
    run(&verify).await.unwrap();
    edit(&path, |action| action["operations"][0]["parameters"]["searches"]["s1"]["names"] = vec!["shadow"].into());
    assert_eq!(run(&verify).await.unwrap_err().exit, Exit::Failed);
}

/// An action as published, as the case from the field has it.
fn case_15(dir: &Path, name: &str) -> String {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases/15-mig-actions-published");
    let copy = dir.join(name);
    std::fs::copy(cases.join(name), &copy).unwrap();
    text(&copy)
}

#[tokio::test]
async fn case_15_published_actions_are_signed_with_a_window_filled_in() {
    let alice = Gpg::new("Alice <alice@example.com>");
    let (dir, program) = (alice.dir.path(), text(&alice.program()));
    for name in [
        "c-module-that-is-gone.json",
        "d-year-one-and-null-signatures.json",
        "f-lower-case-target.json",
        "g-in-and-mode.json",
    ] {
        let path = case_15(dir, name);
        let without = run(&["sign", &path, "--gpg", &program]).await.unwrap_err();
        assert!(without.why.contains("no window") && without.next.contains("--expires-in"), "{name}: {without}");
        run(&["sign", &path, "--gpg", &program, "--expires-in", "2h"]).await.unwrap();
        run(&["verify", &path, "--keyring", &alice.public()]).await.unwrap();
        let time = |key: &str| json(&path)[key].as_str().unwrap().parse::<muster_core::Timestamp>().unwrap();
        assert_eq!(time("expireafter").since(time("validfrom")).as_secs(), 2 * 3600 + 60, "{name}");
        let again = run(&["sign", &path, "--gpg", &program, "--expires-in", "9h"]).await.unwrap_err();
        assert!(again.why.contains("its signatures cover the window"), "{again}");
    }
}

#[tokio::test]
async fn case_15_actions_that_mean_nothing_are_refused_by_name() {
    let alice = Gpg::new("Alice <alice@example.com>");
    let (dir, program) = (alice.dir.path(), text(&alice.program()));
    for (name, why) in [
        ("a-old-key-of-searches.json", "there is no key \"regexes\"; it is called \"contents\" now"),
        ("b-no-searches-level.json", "there is no key \"passwd\"; there are searches"),
        ("i-numbers-as-words.json", "searches: s: "),
        ("j-no-target.json", "target is empty"),
        ("k-version-one.json", "syntax version"),
        ("l-relative-and-empty.json", "must begin with /"),
    ] {
        let refused = run(&["sign", &case_15(dir, name), "--gpg", &program, "--expires-in", "1h"]).await.unwrap_err();
        assert!(refused.exit == Exit::Usage && refused.why.contains(why), "{name}: {refused}");
    }
}

#[tokio::test]
async fn case_14_a_large_document_is_signed_packed_and_is_still_looked_at() {
    let alice = Gpg::new("Alice <alice@example.com>");
    let program = text(&alice.program());
    let path = question(alice.dir.path()).await;
    let tests: Vec<_> =
        (0..2700).map(|n| serde_json::json!({"test": n.to_string(), "description": "D".repeat(1000)})).collect();
    edit(&path, |action| {
        action["operations"] = serde_json::json!([{"module": "scribe", "parameters": {"scribedoc": {"tests": tests}}}]);
    });
    assert!(std::fs::metadata(&path).unwrap().len() > 2_000_000);
    run(&["sign", &path, "--gpg", &program]).await.unwrap();
    run(&["verify", &path, "--keyring", &alice.public()]).await.unwrap();
    let signed = json(&path);
    assert_eq!(signed["operations"][0]["is_compressed"], true);
    assert!(std::fs::metadata(&path).unwrap().len() < 200_000);
    let bad = question(alice.dir.path()).await;
    let packed = muster_modules::message::packed(r#"{"searches":{"s":{"paths":["/"],"regexes":["x"]}}}"#);
    edit(&bad, |action| {
        action["operations"] = serde_json::json!([{"module": "file", "is_compressed": true, "parameters": packed}]);
    });
    let refused = run(&["sign", &bad, "--gpg", &program]).await.unwrap_err();
    assert!(refused.why.contains("there is no key \"regexes\""), "{refused}");
}

#[tokio::test]
async fn what_is_no_action_is_not_signed() {
    let dir = tempfile::tempdir().unwrap();
    let path = question(dir.path()).await;
    edit(&path, |action| action["operations"][0]["parameters"]["searches"] = 1.into());
    assert_eq!(run(&["sign", &path]).await.unwrap_err().exit, Exit::Usage);
    std::fs::write(&path, "{").unwrap();
    assert_eq!(run(&["sign", &path]).await.unwrap_err().exit, Exit::Usage);
    assert_eq!(run(&["verify", "/nonexistent"]).await.unwrap_err().exit, Exit::Failed);
}

#[tokio::test]
async fn a_target_that_no_machine_can_read_is_neither_signed_nor_called_good() {
    let alice = Gpg::new("Alice <alice@example.com>");
    let (path, program) = (question(alice.dir.path()).await, text(&alice.program()));
    for target in ["status='online'; DROP TABLE agents", "@web", "@web AND status='online'"] {
        edit(&path, |action| action["target"] = target.into());
        let refused = run(&["sign", &path, "--gpg", &program]).await.unwrap_err();
        assert!(refused.exit == Exit::Usage && refused.what.contains("target"), "{refused}");
        assert!(json(&path)["pgpsignatures"].as_array().unwrap().is_empty());
        let bad = run(&["verify", &path, "--gpg", &program]).await.unwrap_err();
        assert!(bad.exit == Exit::Failed && bad.why.contains("no machine can read its target"), "{bad}");
    }
}

#[tokio::test]
async fn a_key_that_has_expired_is_not_called_a_public_one_alone() {
    let long_ago = ["--faked-system-time", "20200101T000000"];
    let alice = Gpg::made("Alice <alice@example.com>", "", &long_ago, "2020-02-01");
    let path = question(alice.dir.path()).await;
    let refused = run(&["sign", &path, "--key", &alice.secret()]).await.unwrap_err();
    assert!(refused.why.contains("expired") && refused.next.contains("--show-keys"), "{refused}");
}

#[test]
fn a_number_is_the_servers_and_all_else_a_file() {
    use file::Place;
    assert_eq!(Place::of("12"), Place::Server(12));
    assert_eq!(Place::of("./12"), Place::File("./12".into()));
    assert_eq!([Place::of("-"), Place::of("-1")], [Place::Standard, Place::File("-1".into())]);
}
