//! A person's public key: the primary key that names the person, and the keys below it.

mod cause;

use crate::armor::{self, ArmorError};
use crate::packets;
use crate::policy::{policy, system_time};
use crate::signature::SignatureError;
use muster_core::Timestamp;
use muster_core::action::Fingerprint;
use muster_core::limits;
use sequoia_openpgp as openpgp;
use sequoia_openpgp::Cert;
use sequoia_openpgp::cert::CertParser;
use sequoia_openpgp::cert::amalgamation::key::{ErasedKeyAmalgamation, ValidErasedKeyAmalgamation};
use sequoia_openpgp::cert::amalgamation::{ValidAmalgamation, ValidateAmalgamation};
use sequoia_openpgp::packet::key::PublicParts;
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::policy::Policy;
use sequoia_openpgp::serialize::SerializeInto;
use sequoia_openpgp::types::RevocationStatus;
use std::time::SystemTime;

/// Why bytes are not one public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Longer than a key may be.
    #[error("the key has {have} bytes, at most {max} are allowed: export it without signatures of others", max = limits::PGP_KEY_BYTES_MAX)]
    TooLong {
        /// Bytes found.
        have: usize,
    },
    /// Its armor is damaged.
    #[error("the key's armor cannot be read: {0}")]
    Armor(#[from] ArmorError),
    /// A secret key, where only public ones belong.
    #[error("this is a secret key: export the public one, and keep this one at home")]
    Secret,
    /// More than one, or none.
    #[error("there must be exactly one key, not {0}")]
    Count(usize),
    /// Of a version that is not read here.
    #[error(
        "the key has version {0}; version 4 is accepted: make one with `gpg --quick-generate-key NAME ed25519 sign`"
    )]
    Version(u8),
    /// Not OpenPGP.
    #[error("this is no OpenPGP key: {0}")]
    Malformed(String),
}

/// One OpenPGP certificate, without secrets.
#[derive(Debug, Clone)]
pub struct Certificate {
    cert: Cert,
    fingerprint: Fingerprint,
}

impl Certificate {
    /// Reads exactly one public key, armored or binary.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > limits::PGP_KEY_BYTES_MAX {
            return Err(CertificateError::TooLong { have: bytes.len() });
        }
        match std::str::from_utf8(bytes) {
            Ok(text) if armor::is_armored(text) => {
                if text.trim_start().starts_with("-----BEGIN PGP PRIVATE KEY BLOCK-----") {
                    return Err(CertificateError::Secret);
                }
                Self::parse_binary(&armor::decode(armor::PUBLIC_KEY, text)?)
            }
            _ => Self::parse_binary(bytes),
        }
    }

    fn parse_binary(bytes: &[u8]) -> Result<Self, CertificateError> {
        if let Some(version) = version(bytes).filter(|version| *version != VERSION) {
            return Err(CertificateError::Version(version));
        }
        // The library has had panics on hostile packets; one here must not end the process.
        let parsed = std::panic::catch_unwind(|| {
            let bytes = packets::exact(bytes);
            let certs = CertParser::from_bytes(&*bytes).map_err(malformed)?;
            certs.take(limits::KEYRING_KEYS_MAX).collect::<Result<Vec<_>, _>>().map_err(malformed)
        });
        let mut certs = parsed.unwrap_or_else(|_| Err(CertificateError::Malformed("its reader gave up".to_owned())))?;
        let Some(cert) = certs.pop() else { return Err(CertificateError::Count(0)) };
        if !certs.is_empty() {
            return Err(CertificateError::Count(certs.len() + 1));
        }
        if cert.is_tsk() {
            return Err(CertificateError::Secret);
        }
        Self::of(cert)
    }

    fn of(cert: Cert) -> Result<Self, CertificateError> {
        let version = cert.primary_key().key().version();
        let fingerprint = fingerprint_of(&cert.fingerprint()).ok_or(CertificateError::Version(version))?;
        Ok(Self { cert, fingerprint })
    }

    /// Puts two copies of one key together: what either says counts, such as an end that was put off, or a revocation.
    /// `None`: they are copies of different keys, or together longer than a key may be.
    pub fn merged(&self, other: &Self) -> Option<Self> {
        if self.fingerprint != other.fingerprint {
            return None;
        }
        let cert = self.cert.clone().merge_public(other.cert.clone()).ok()?;
        let is_short = cert.to_vec().is_ok_and(|bytes| bytes.len() <= limits::PGP_KEY_BYTES_MAX);
        is_short.then(|| Self::of(cert).ok()).flatten()
    }

    /// Returns the primary key's fingerprint, which names its owner.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Returns what the key says of its owner. Whoever made the key wrote it: shown to people, never compared.
    pub fn user_ids(&self) -> Vec<String> {
        self.cert.userids().map(|id| String::from_utf8_lossy(id.userid().value()).into_owned()).collect()
    }

    /// Returns the public key, armored.
    pub fn to_armored(&self) -> String {
        let bytes = self.cert.to_vec().expect("a certificate that was read can be written into memory");
        armor::encode(armor::PUBLIC_KEY, &bytes)
    }

    /// Returns the fingerprints of the keys that may sign at `now`; an error says why none may.
    pub fn signing_keys(&self, now: Timestamp) -> Result<Vec<Fingerprint>, SignatureError> {
        let mut usable = Vec::new();
        let mut problem = SignatureError::NotForSigning;
        for key in self.cert.keys().filter(|key| key.key().pk_algo().for_signing()) {
            let fingerprint = key.key().fingerprint();
            match key_at(&self.cert, &policy(now), &fingerprint, system_time(now)) {
                Ok(_) => usable.extend(fingerprint_of(&fingerprint)),
                // What is wrong with the whole certificate says more than that one key is for something else.
                Err(SignatureError::NotForSigning) => {}
                Err(error) => problem = error,
            }
        }
        if !usable.is_empty() {
            return Ok(usable);
        }
        if problem == SignatureError::NotForSigning {
            // Of a key whose algorithm is unknown nobody knows what it is for.
            let primary = self.cert.primary_key().key().fingerprint();
            problem = cause::cause(&self.cert, &primary, problem);
        }
        Err(problem)
    }

    pub(crate) fn cert(&self) -> &Cert {
        &self.cert
    }
}

/// Finds one key of a certificate and says whether it may sign at `time`.
pub(crate) fn key_at<'a>(
    cert: &'a Cert,
    policy: &'a dyn Policy,
    fingerprint: &openpgp::Fingerprint,
    time: SystemTime,
) -> Result<ValidErasedKeyAmalgamation<'a, PublicParts>, SignatureError> {
    let key = key_named(cert, fingerprint).ok_or(SignatureError::UnknownKey)?;
    let unbound = |error| cause::cause(cert, fingerprint, unbound(&error));
    if is_revoked(&cert.revocation_status(policy, time)) {
        return Err(SignatureError::KeyRevoked);
    }
    if time < cert.primary_key().key().creation_time() || time < key.key().creation_time() {
        return Err(SignatureError::KeyTooYoung);
    }
    let valid = cert.with_policy(policy, time).map_err(unbound)?;
    let key = key.with_policy(policy, time).map_err(unbound)?;
    if is_revoked(&key.revocation_status()) {
        return Err(SignatureError::KeyRevoked);
    }
    if valid.alive().is_err() || key.alive().is_err() {
        return Err(SignatureError::KeyExpired);
    }
    if !key.for_signing() {
        return Err(SignatureError::NotForSigning);
    }
    Ok(key)
}

fn key_named<'a>(cert: &'a Cert, fingerprint: &openpgp::Fingerprint) -> Option<ErasedKeyAmalgamation<'a, PublicParts>> {
    cert.keys().find(|key| key.key().fingerprint() == *fingerprint)
}

/// The version of keys that are read here.
const VERSION: u8 = 4;

/// Returns the version that the first packet says it has, if it is a public key.
fn version(bytes: &[u8]) -> Option<u8> {
    const PUBLIC_KEY: u8 = 6;
    let header = packets::header(bytes).filter(|header| header.tag == PUBLIC_KEY)?;
    bytes.get(header.bytes).copied()
}

fn is_revoked(status: &RevocationStatus) -> bool {
    matches!(status, RevocationStatus::Revoked(_))
}

/// Tells a key that is too weak from one that nothing binds to its certificate.
fn unbound(error: &openpgp::anyhow::Error) -> SignatureError {
    let weak = error
        .chain()
        .any(|cause| matches!(cause.downcast_ref::<openpgp::Error>(), Some(openpgp::Error::PolicyViolation(..))));
    if weak { SignatureError::KeyWeak } else { SignatureError::KeyUnbound }
}

pub(crate) fn fingerprint_of(fingerprint: &openpgp::Fingerprint) -> Option<Fingerprint> {
    Fingerprint::from_slice(fingerprint.as_bytes()).ok()
}

fn malformed(error: impl std::fmt::Display) -> CertificateError {
    CertificateError::Malformed(format!("{error:#}").chars().take(200).collect())
}

#[cfg(test)]
mod tests;
