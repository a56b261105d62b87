//! Signing on the investigator's own machine, by `gpg` or by a key file.
//!
//! Stays true: whose key will sign is known before anything is signed, and no other signs then; no secret key and no
//! passphrase leaves this machine; a signature that a machine would not accept (a weak hash, a revoked or expired key) is
//! not handed on. Not here: what is signed (muster-trust), who counts how much.

mod gpg;
mod key_file;

pub(crate) use gpg::{keys_of, public_keys};

use crate::{Exit, Failure, values};
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

/// Whoever will sign, or signed: known before anything is signed.
#[derive(Debug, Clone)]
pub(crate) struct Signer {
    certificate: Certificate,
}

impl Signer {
    /// Returns the fingerprint of the key.
    pub(crate) fn fingerprint(&self) -> String {
        self.certificate.fingerprint().to_string()
    }

    /// Returns how people are shown it: the name in the key and its fingerprint.
    pub(crate) fn name(&self) -> String {
        name_of(&self.certificate)
    }
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
    /// Says whose key would sign. Nothing is signed, and no passphrase is asked for.
    pub(crate) async fn signer(&self) -> Result<Signer, Failure> {
        let certificate = match &self.key {
            Some(path) => key_file::certificate(path, values::now())?,
            None => gpg::signer(&self.gpg, self.local_user.as_deref()).await?,
        };
        Ok(Signer { certificate })
    }

    /// Signs `text`, unless one of the signatures in `before` is by the same person, who is then told what comes `after`.
    pub(crate) async fn sign(&self, text: &str, before: &[String], after: &str) -> Result<Made, Failure> {
        let signer = self.signer().await?;
        self.sign_as(&signer, text, before, after).await
    }

    /// Signs as [`Self::sign`] does, by the key that was announced and no other.
    pub(crate) async fn sign_as(
        &self,
        signer: &Signer,
        text: &str,
        before: &[String],
        after: &str,
    ) -> Result<Made, Failure> {
        let keyring = signer.keyring()?;
        // Whoever has signed is not asked for a passphrase.
        let now = values::now();
        if before.iter().any(|line| verify(&keyring, line, text.as_bytes(), now).is_ok()) {
            let why = "this key has signed it already: nobody counts twice";
            return Err(Failure::new(Exit::Conflict, WHAT, why).on(signer.name()).next(after));
        }
        let made = match &self.key {
            Some(path) => key_file::sign(path, self.passphrase_file.as_deref(), text, now).await?,
            None => gpg::sign(&self.gpg, &signer.fingerprint(), text).await?,
        };
        // The clock is read again: a passphrase or a smartcard may have taken its time.
        match verify(&keyring, &made, text.as_bytes(), values::now()) {
            Ok(_) => Ok(Made { line: made, signer: signer.name() }),
            Err(error) => {
                Err(Failure::new(Exit::Failed, WHAT, format!("no machine would accept the signature: {error}"))
                    .on(signer.name())
                    .next(match &self.key {
                        Some(_) => "sign with another key: --key or --local-user",
                        None => "see `gpg --list-keys` and gpg.conf, or sign with another key: --local-user or --key",
                    }))
            }
        }
    }
}

impl Signer {
    fn keyring(&self) -> Result<Keyring, Failure> {
        Keyring::new(vec![self.certificate.clone()])
            .map_err(|error| Failure::new(Exit::Failed, WHAT, error.to_string()).on(self.name()))
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
