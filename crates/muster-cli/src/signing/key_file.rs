//! Signing with a secret key in a file.

use super::{WHAT, read_file};
use crate::{Exit, Failure, terminal};
use muster_core::Timestamp;
use muster_core::limits::PGP_KEY_BYTES_MAX;
use muster_trust::{Certificate, SecretKey, SignError};
use std::io::IsTerminal as _;
use std::path::Path;

/// Bytes that a passphrase may have.
const PASSPHRASE_BYTES_MAX: usize = 4096;

/// Returns the public half of the key in a file, which needs no passphrase.
pub(super) fn certificate(path: &Path, now: Timestamp) -> Result<Certificate, Failure> {
    let bytes = read_file(WHAT, path, PGP_KEY_BYTES_MAX)?;
    muster_trust::sign::public_of(&bytes, now).map_err(|error| failure(path, &error))
}

/// Signs `text`; returns the signature as one line.
pub(super) async fn sign(
    path: &Path,
    passphrase: Option<&Path>,
    text: &str,
    now: Timestamp,
) -> Result<String, Failure> {
    let bytes = read_file(WHAT, path, PGP_KEY_BYTES_MAX)?;
    let failure = |error: SignError| failure(path, &error);
    let given = passphrase.map(of_file).transpose()?;
    let opened = match SecretKey::open(&bytes, given.as_deref(), now) {
        Err(SignError::PassphraseMissing) if std::io::stdin().is_terminal() => {
            let typed = terminal::ask_hidden(&format!("Passphrase of {}: ", path.display()))
                .await
                .map_err(|error| Failure::local("could not read the passphrase", "the terminal", &error))?;
            SecretKey::open(&bytes, Some(&typed), now)
        }
        other => other,
    };
    let mut key = opened.map_err(failure)?;
    key.sign(text.as_bytes(), now).map_err(failure)
}

fn failure(path: &Path, error: &SignError) -> Failure {
    if *error == SignError::NoSecret {
        // Which of these it is cannot be told from a key that may not sign.
        let why = "the file holds no secret key that can sign now: it holds a public key, or the key has expired or was \
                   revoked";
        let next = format!(
            "`gpg --show-keys {}` says when it expires; `gpg --armor --export-secret-keys` exports a secret key",
            path.display()
        );
        return Failure::new(Exit::Failed, WHAT, why).on(path.display()).next(next);
    }
    let next = match error {
        SignError::PassphraseMissing => "give --passphrase-file FILE, or run the command at a terminal",
        SignError::PassphraseWrong => "try again; the file must hold the passphrase alone on its first line",
        _ => "export the key with `gpg --armor --export-secret-keys`, or sign by gpg: without --key",
    };
    Failure::new(Exit::Failed, WHAT, error.to_string()).on(path.display()).next(next)
}

fn of_file(path: &Path) -> Result<String, Failure> {
    const WHAT: &str = "could not read the passphrase";
    let bytes = read_file(WHAT, path, PASSPHRASE_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|error| Failure::local(WHAT, path.display(), &error))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
