//! The keys of everybody whose signatures are looked at.

use crate::certificate::{Certificate, CertificateError};
use muster_core::action::Fingerprint;
use muster_core::limits;
use sequoia_openpgp as openpgp;
use sequoia_openpgp::KeyHandle;
use std::collections::{BTreeMap, BTreeSet};

/// Why keys do not make a keyring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// The same key stands in the certificates of two owners, or copies of one are too long to be put together.
    #[error("the key {0} stands in two certificates of the keyring: keep one of them")]
    Twice(Fingerprint),
    /// More than the ceiling allows.
    #[error("the keyring has {have} keys, at most {max} are allowed", max = limits::KEYRING_KEYS_MAX)]
    TooMany {
        /// How many.
        have: usize,
    },
}

/// Certificates, found by the keys in them. No key belongs to two of them.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    certificates: Vec<Certificate>,
    /// Of every key in every certificate: its place, by key id (two keys may share one by accident).
    by_id: BTreeMap<Vec<u8>, Vec<(usize, openpgp::Fingerprint)>>,
}

impl Keyring {
    /// Takes certificates. Copies of one are put together, so that a key that was renewed counts as renewed beside its old
    /// copy, and one that was revoked as revoked.
    pub fn new(certificates: Vec<Certificate>) -> Result<Self, KeyringError> {
        if certificates.len() > limits::KEYRING_KEYS_MAX {
            return Err(KeyringError::TooMany { have: certificates.len() });
        }
        let certificates = merged(certificates)?;
        let mut by_id = BTreeMap::<_, Vec<_>>::new();
        let mut seen = BTreeSet::new();
        for (at, certificate) in certificates.iter().enumerate() {
            for key in certificate.cert().keys() {
                let fingerprint = key.key().fingerprint();
                if !seen.insert(fingerprint.clone()) {
                    return Err(KeyringError::Twice(certificate.fingerprint().clone()));
                }
                by_id
                    .entry(openpgp::KeyID::from(&fingerprint).as_bytes().to_vec())
                    .or_default()
                    .push((at, fingerprint));
            }
        }
        Ok(Self { certificates, by_id })
    }

    /// Takes the files of MIG's directory `agentkeys`, each with its name: one key in each. Files that are no key are
    /// passed over and returned with the reason.
    pub fn from_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> (Self, Vec<(String, FileError)>) {
        let (mut keyring, mut problems) = (Self::default(), Vec::new());
        for (name, bytes) in files {
            let outcome = Certificate::parse(bytes).map_err(FileError::from).and_then(|certificate| {
                let all = keyring.certificates.iter().cloned().chain([certificate]).collect();
                Self::new(all).map_err(FileError::from)
            });
            match outcome {
                Ok(longer) => keyring = longer,
                Err(error) => problems.push((name.to_owned(), error)),
            }
        }
        (keyring, problems)
    }

    /// Returns the certificate whose primary key has this fingerprint.
    pub fn get(&self, fingerprint: &Fingerprint) -> Option<&Certificate> {
        self.certificates.iter().find(|certificate| certificate.fingerprint() == fingerprint)
    }

    /// Returns the certificate that holds the key with this fingerprint or key id, primary or below it; `None` when there
    /// is none, or more than one that it may mean.
    pub fn owner(&self, handle: &str) -> Option<&Certificate> {
        let handle: KeyHandle = handle.parse().ok()?;
        let (known, _) = self.candidates(std::slice::from_ref(&handle));
        let mut owners = known.into_iter().map(|(certificate, _)| certificate);
        let owner = owners.next()?;
        owners.all(|other| other.fingerprint() == owner.fingerprint()).then_some(owner)
    }

    /// Returns every certificate, in the order given.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Returns the keys that all of `issuers` may mean, and whether any of them means one at all.
    pub(crate) fn candidates(&self, issuers: &[KeyHandle]) -> (Vec<(&Certificate, openpgp::Fingerprint)>, bool) {
        let mut known = Vec::new();
        for issuer in issuers {
            let id = openpgp::KeyID::from(issuer.clone());
            known.extend(self.by_id.get(id.as_bytes()).into_iter().flatten().filter(|(_, key)| means(issuer, key)));
        }
        let any = !known.is_empty();
        known.retain(|(_, key)| issuers.iter().all(|issuer| means(issuer, key)));
        known.sort();
        known.dedup();
        (known.into_iter().map(|(at, key)| (&self.certificates[*at], key.clone())).collect(), any)
    }
}

/// Puts the copies of each key together, at the place of the first.
fn merged(certificates: Vec<Certificate>) -> Result<Vec<Certificate>, KeyringError> {
    let mut all: Vec<Certificate> = Vec::with_capacity(certificates.len());
    let mut places = BTreeMap::new();
    for certificate in certificates {
        match places.get(certificate.fingerprint()) {
            None => {
                places.insert(certificate.fingerprint().clone(), all.len());
                all.push(certificate);
            }
            Some(&at) => {
                let both = all[at].merged(&certificate);
                all[at] = both.ok_or_else(|| KeyringError::Twice(certificate.fingerprint().clone()))?;
            }
        }
    }
    Ok(all)
}

fn means(issuer: &KeyHandle, key: &openpgp::Fingerprint) -> bool {
    issuer.aliases(KeyHandle::from(key))
}

/// Why a file of the keyring is passed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is no key.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// It is one too many.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

#[cfg(test)]
mod tests;
