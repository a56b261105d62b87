//! Signing on the investigator's own machine, by `gpg` or by a key file.
//!
//! Stays true: no secret key and no passphrase leaves this machine; a signature that a machine would not accept (a weak
//! hash, a revoked or expired key) is not handed on. Not here: what is signed (muster-trust), who counts how much.

mod gpg;
mod key_file;

pub(crate) use gpg::public_keys;

use crate::{Exit, Failure, values};
use muster_core::Timestamp;
use muster_core::action::Fingerprint;
use muster_trust::{Certificate, Keyring, verify};
use std::path::{Path, PathBuf};

pub(crate) const WHAT: &str = "could not sign";

/// With which key to sign.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SignArgs {
    /// Sign with this key of gpg: a fingerprint, or a part of its owner's name; gpg's default key unless told
    #[arg(long, short = 'u', env = "MUSTER_SIGN_LOCAL_USER", value_name = "USER", conflicts_with = "key")]
    pub(crate) local_user: Option<String>,
    /// Sign with the secret key in this file instead of gpg
    #[arg(long, env = "MUSTER_SIGN_KEY", value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// The file with the passphrase of the key file; asked for at the terminal unless told
    #[arg(long, env = "MUSTER_SIGN_PASSPHRASE_FILE", value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// The gpg program; its agent or smartcard holds the key
    #[arg(long, env = "MUSTER_SIGN_GPG", value_name = "PROGRAM", default_value = "gpg")]
    pub(crate) gpg: PathBuf,
}

/// A signature that was just made, and verified.
#[derive(Debug)]
pub(crate) struct Made {
    /// The signature as one line.
    pub(crate) line: String,
    /// Whose it is, for people: the name in the key and its fingerprint.
    pub(crate) signer: String,
}

impl SignArgs {
    /// Signs `text`, unless one of the signatures in `before` is by the same person, who is then told what comes `after`.
    pub(crate) async fn sign(&self, text: &str, before: &[String], after: &str) -> Result<Made, Failure> {
        let now = values::now();
        let (line, certificate) = match &self.key {
            Some(path) => key_file::sign(path, self.passphrase_file.as_deref(), text, now).await?,
            None => gpg::sign(&self.gpg, self.local_user.as_deref(), text).await?,
        };
        self.accept(line, certificate, text, before).map_err(|failure| match failure.exit {
            Exit::Conflict => failure.next(after),
            _ => failure,
        })
    }

    fn accept(&self, line: String, certificate: Certificate, text: &str, before: &[String]) -> Result<Made, Failure> {
        let signer = name_of(&certificate);
        let failure = |why: String| Failure::new(Exit::Failed, WHAT, why).on(&signer);
        let keyring = Keyring::new(vec![certificate]).map_err(|error| failure(error.to_string()))?;
        let good = |line: &str, now: Timestamp| verify(&keyring, line, text.as_bytes(), now);
        // The clock is read again: a passphrase or a smartcard may have taken its time.
        let now = values::now();
        if before.iter().any(|line| good(line, now).is_ok()) {
            return Err(
                Failure::new(Exit::Conflict, WHAT, "this key has signed it already: nobody counts twice").on(&signer)
            );
        }
        match good(&line, now) {
            Ok(_) => Ok(Made { line, signer }),
            Err(error) => {
                Err(failure(format!("no machine would accept the signature: {error}")).next(match &self.key {
                    Some(_) => "sign with another key: --key or --local-user",
                    None => "see `gpg --list-keys` and gpg.conf, or sign with another key: --local-user or --key",
                }))
            }
        }
    }
}

/// Returns how a key's owner is shown.
pub(crate) fn name_of(certificate: &Certificate) -> String {
    shown(certificate.user_ids().first().map(String::as_str), certificate.fingerprint())
}

fn shown(name: Option<&str>, fingerprint: &Fingerprint) -> String {
    match name {
        Some(name) if !name.is_empty() => format!("{name} ({fingerprint})"),
        _ => fingerprint.to_string(),
    }
}

/// Reads at most `most` bytes of a file.
pub(crate) fn read_file(what: &str, path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::local(what, path.display(), &error))?;
    if bytes.len() > most {
        return Err(Failure::usage(what, format!("it has more than {most} bytes")).on(path.display()));
    }
    Ok(bytes)
}
