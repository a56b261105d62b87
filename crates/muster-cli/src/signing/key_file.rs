//! Signing with a secret key in a file.

use super::{WHAT, read_file};
use crate::{Exit, Failure};
use muster_core::Timestamp;
use muster_core::limits::PGP_KEY_BYTES_MAX;
use muster_trust::{Certificate, SecretKey, SignError};
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Bytes that a passphrase may have.
const PASSPHRASE_BYTES_MAX: usize = 4096;

/// Signs `text`; returns the signature as one line, and whose it is.
pub(super) fn sign(
    path: &Path,
    passphrase: Option<&Path>,
    text: &str,
    now: Timestamp,
) -> Result<(String, Certificate), Failure> {
    let bytes = read_file(WHAT, path, PGP_KEY_BYTES_MAX)?;
    let failure = |error: SignError| {
        let next = match &error {
            SignError::PassphraseMissing => "give --passphrase-file FILE, or run the command at a terminal",
            SignError::PassphraseWrong => "try again; the file must hold the passphrase alone on its first line",
            _ => "export the key with `gpg --armor --export-secret-keys`, or sign by gpg: without --key",
        };
        Failure::new(Exit::Failed, WHAT, error.to_string()).on(path.display()).next(next)
    };
    let given = passphrase.map(of_file).transpose()?;
    let opened = match SecretKey::open(&bytes, given.as_deref(), now) {
        Err(SignError::PassphraseMissing) if std::io::stdin().is_terminal() => {
            let typed = ask(&format!("Passphrase of {}: ", path.display()))?;
            SecretKey::open(&bytes, Some(&typed), now)
        }
        other => other,
    };
    let mut key = opened.map_err(failure)?;
    let line = key.sign(text.as_bytes(), now).map_err(failure)?;
    Ok((line, key.certificate().clone()))
}

fn of_file(path: &Path) -> Result<String, Failure> {
    const WHAT: &str = "could not read the passphrase";
    let bytes = read_file(WHAT, path, PASSPHRASE_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|error| Failure::local(WHAT, path.display(), &error))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Asks at the terminal, which does not show the answer.
fn ask(question: &str) -> Result<String, Failure> {
    let _ = write!(std::io::stderr(), "{}", crate::output::safe(question));
    let hidden = Hidden::new();
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    drop(hidden);
    let _ = writeln!(std::io::stderr());
    read.map_err(|error| Failure::local("could not read the passphrase", "the terminal", &error))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// As long as it lives, the terminal does not show what is typed.
struct Hidden;

impl Hidden {
    fn new() -> Self {
        echo("-echo");
        Self
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        echo("echo");
    }
}

/// A terminal that cannot be switched shows what is typed; that is no reason to fail.
fn echo(mode: &str) {
    let _ = Command::new("stty").arg(mode).stdin(Stdio::inherit()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
