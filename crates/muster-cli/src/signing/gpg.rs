//! Signing by the `gpg` program, which asks its agent or a smartcard.

use super::WHAT;
use crate::{Exit, Failure};
use muster_trust::{Certificate, signature};
use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::{Output, Stdio};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Lines on standard error with which gpg speaks to programs.
const STATUS: &str = "[GNUPG:] ";

/// A file that there cannot be. gpg chooses the key before it opens what it shall sign.
const NOTHING: &str = "/dev/null/nothing-to-sign";

/// Says which key would sign: gpg chooses one, as its configuration has it, and then finds nothing to sign.
pub(super) async fn signer(program: &Path, user: Option<&str>) -> Result<Certificate, Failure> {
    let mut arguments = vec!["--status-fd=2", "--output=-"];
    arguments.extend(user.into_iter().flat_map(|user| ["--local-user", user]));
    arguments.extend(["--detach-sign", "--", NOTHING]);
    let answer = answer(program, &arguments, b"").await?;
    let Some(key) = considered(&answer.stderr) else { return Err(failed(program, &answer)) };
    let export = run(program, &["--no-armor", "--export-options=export-minimal", "--export", &key], b"").await?;
    Certificate::parse(&export.stdout)
        .map_err(|error| Failure::new(Exit::Failed, WHAT, error.to_string()).on(format!("key {key}")))
}

/// Signs `text` with the key of this fingerprint; returns the signature as one line.
pub(super) async fn sign(program: &Path, key: &str, text: &str) -> Result<String, Failure> {
    // Settings of a person's own gpg.conf that would make a signature of another kind are overruled.
    let mut arguments = vec!["--status-fd=2", "--no-armor", "--no-textmode", "--digest-algo=SHA256", "--output=-"];
    arguments.extend(["--local-user", key, "--detach-sign"]);
    let answer = run(program, &arguments, text.as_bytes()).await?;
    signature::one_line(&answer.stdout).map_err(|error| {
        Failure::new(Exit::Failed, WHAT, format!("gpg made something else than one signature: {error}"))
            .on(program.display())
            .next("does gpg.conf name several keys? choose one with --local-user")
    })
}

async fn run(program: &Path, arguments: &[&str], input: &[u8]) -> Result<Output, Failure> {
    let answer = answer(program, arguments, input).await?;
    if answer.status.success() { Ok(answer) } else { Err(failed(program, &answer)) }
}

/// Runs gpg, and returns what it said however it ended.
async fn answer(program: &Path, arguments: &[&str], input: &[u8]) -> Result<Output, Failure> {
    let mut command = Command::new(program);
    // Who interrupts the command is not kept waiting by a question for a passphrase.
    command.kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if !std::io::stdin().is_terminal() {
        command.env_remove("GPG_TTY").arg("--batch");
    } else if std::env::var_os("GPG_TTY").is_none() {
        // gpg's standard input is a pipe here; without this its agent would not know where to ask for a passphrase.
        if let Ok(terminal) = std::fs::read_link("/proc/self/fd/0") {
            command.env("GPG_TTY", terminal);
        }
    }
    let started = command.args(arguments).spawn().map_err(|error| {
        Failure::local(WHAT, program.display(), &error)
            .next("install GnuPG, name the program with --gpg, or sign with a key file: --key FILE")
    });
    let mut child = started?;
    if let Some(mut pipe) = child.stdin.take() {
        // A gpg that ends before it has read says why itself.
        let _ = pipe.write_all(input).await;
    }
    child.wait_with_output().await.map_err(|error| Failure::local(WHAT, program.display(), &error))
}

fn failed(program: &Path, answer: &Output) -> Failure {
    let said = String::from_utf8_lossy(&answer.stderr);
    let said: Vec<_> = said.lines().filter(|line| !line.starts_with(STATUS)).collect();
    let why = if said.is_empty() { format!("it ended with {}", answer.status) } else { said.join("; ") };
    Failure::new(Exit::Failed, WHAT, why)
        .on(program.display())
        .next("`gpg --list-secret-keys` shows the keys there are; choose one with --local-user")
}

/// Returns the fingerprint of the key that gpg came to in the end, unless it found none that can sign.
fn considered(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let mut said = text.lines().filter_map(|line| line.strip_prefix(STATUS));
    if said.clone().any(|line| line.starts_with("INV_SGNR ")) {
        return None;
    }
    let key = said.rfind(|line| line.starts_with("KEY_CONSIDERED "))?.split_whitespace().nth(1)?;
    key.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| key.to_owned())
}

/// Returns the public keys that gpg has of these owners; those that it has not are left out.
pub(crate) async fn keys_of(program: &Path, owners: &[String]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut keys = Vec::new();
    for owner in owners {
        let arguments = ["--no-armor", "--export-options=export-minimal", "--export", &format!("0x{owner}")];
        keys.extend(Some(answer(program, &arguments, b"").await?.stdout).filter(|key| !key.is_empty()));
    }
    Ok(keys)
}

/// Returns every public key that gpg has, one by one.
pub(crate) async fn public_keys(program: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let listed = run(program, &["--with-colons", "--list-keys"], b"").await?;
    let text = String::from_utf8_lossy(&listed.stdout);
    let mut keys = Vec::new();
    let mut primary = false;
    for line in text.lines() {
        let mut fields = line.split(':');
        match fields.next() {
            Some("pub") => primary = true,
            Some("fpr") if std::mem::take(&mut primary) => keys.extend(fields.nth(8).map(OsStr::new)),
            _ => {}
        }
    }
    let mut exported = Vec::new();
    for key in keys {
        let key = key.to_string_lossy();
        let answer = run(program, &["--no-armor", "--export-options=export-minimal", "--export", &key], b"").await?;
        exported.push(answer.stdout);
    }
    Ok(exported)
}
