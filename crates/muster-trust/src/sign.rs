//! Signing with a key file, on the investigator's own machine. No server and no agent calls this.
//!
//! The library's RSA is not guarded against whoever can measure how long it takes (RUSTSEC-2023-0071), which is why a
//! key is used where its owner sits, once per order, and why `gpg` with its agent or a smartcard is the better way.

use crate::armor;
use crate::certificate::Certificate;
use crate::packets;
use crate::policy::{policy, system_time};
use crate::signature;
use muster_core::action::Fingerprint;
use muster_core::{Timestamp, limits};
use sequoia_openpgp::Cert;
use sequoia_openpgp::crypto::KeyPair;
use sequoia_openpgp::packet::signature::SignatureBuilder;
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::policy::Policy;
use sequoia_openpgp::serialize::SerializeInto;
use sequoia_openpgp::types::{HashAlgorithm, SignatureType};
use sequoia_openpgp::{Fingerprint as KeyFingerprint, Packet};
use std::fmt;

/// Why a key file cannot sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Not one OpenPGP key.
    #[error("this is no OpenPGP secret key: {0}")]
    Malformed(String),
    /// Only the public half.
    #[error("the file holds no secret key that can sign: export it with gpg --export-secret-keys")]
    NoSecret,
    /// Locked, and no passphrase was given.
    #[error("the key is protected by a passphrase: give it")]
    PassphraseMissing,
    /// Locked, and the passphrase does not open it.
    #[error("the passphrase does not open the key")]
    PassphraseWrong,
    /// The library failed.
    #[error("signing failed: {0}")]
    Failed(String),
}

/// A secret key that is ready to sign. Its secret never shows in debug output.
pub struct SecretKey {
    pair: KeyPair,
    signer: Fingerprint,
    /// The public half, as its owner hands it out.
    public: Certificate,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("signer", &self.signer.to_string()).finish_non_exhaustive()
    }
}

/// Returns the public half of a secret key that could sign at `now`. It needs no passphrase, and nothing is signed.
pub fn public_of(bytes: &[u8], now: Timestamp) -> Result<Certificate, SignError> {
    let cert = read(bytes)?;
    signing_key(&cert, &policy(now), now)?;
    public_half(cert)
}

fn public_half(cert: Cert) -> Result<Certificate, SignError> {
    let malformed = |error: &dyn fmt::Display| SignError::Malformed(error.to_string());
    let public = cert.strip_secret_key_material().to_vec().map_err(|error| malformed(&error))?;
    Certificate::parse(&public).map_err(|error| malformed(&error))
}

impl SecretKey {
    /// Reads a secret key, armored or binary, and opens it with `passphrase` if it is locked.
    ///
    /// Like MIG's programs, it signs with the first subkey that may sign at `now`, else with the primary key.
    pub fn open(bytes: &[u8], passphrase: Option<&str>, now: Timestamp) -> Result<Self, SignError> {
        let cert = read(bytes)?;
        let signer = crate::certificate::fingerprint_of(&cert.fingerprint())
            .ok_or_else(|| SignError::Malformed("its version is not supported".to_owned()))?;
        let policy = policy(now);
        let key = signing_key(&cert, &policy, now)?;
        let secret = cert.keys().secret().find(|have| have.key().fingerprint() == key).ok_or(SignError::NoSecret)?;
        let mut secret = secret.key().clone();
        if secret.secret().is_encrypted() {
            let passphrase = passphrase.ok_or(SignError::PassphraseMissing)?;
            secret = secret.decrypt_secret(&passphrase.into()).map_err(|_| SignError::PassphraseWrong)?;
        }
        let pair = secret.into_keypair().map_err(|error| SignError::Malformed(error.to_string()))?;
        Ok(Self { pair, signer, public: public_half(cert)? })
    }

    /// Returns the public half of the key.
    pub fn certificate(&self) -> &Certificate {
        &self.public
    }

    /// Returns the primary key's fingerprint.
    pub fn signer(&self) -> &Fingerprint {
        &self.signer
    }

    /// Signs `data`: detached, binary, SHA-256, as one line.
    pub fn sign(&mut self, data: &[u8], now: Timestamp) -> Result<String, SignError> {
        let failed = |error: sequoia_openpgp::anyhow::Error| SignError::Failed(error.to_string());
        let signature = SignatureBuilder::new(SignatureType::Binary)
            .set_hash_algo(HashAlgorithm::SHA256)
            .set_signature_creation_time(system_time(now))
            .and_then(|builder| builder.sign_message(&mut self.pair, data))
            .map_err(failed)?;
        Ok(signature::encode(&Packet::from(signature).to_vec().map_err(failed)?))
    }
}

fn read(bytes: &[u8]) -> Result<Cert, SignError> {
    if bytes.len() > limits::PGP_KEY_BYTES_MAX {
        return Err(SignError::Malformed("it is too long".to_owned()));
    }
    let binary = match std::str::from_utf8(bytes) {
        Ok(text) if text.trim_start().starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----") => {
            return Err(SignError::NoSecret);
        }
        // The bytes of a key are random for the most part, and so are never text by chance.
        Ok(text) => armor::decode(armor::PRIVATE_KEY, text).map_err(|error| SignError::Malformed(error.to_string()))?,
        Err(_) => bytes.to_vec(),
    };
    Cert::from_bytes(&*packets::exact(&binary)).map_err(|error| SignError::Malformed(error.to_string()))
}

/// Returns the first subkey with a secret that may sign, else the primary key if it may.
fn signing_key(cert: &Cert, policy: &dyn Policy, now: Timestamp) -> Result<KeyFingerprint, SignError> {
    let primary = cert.fingerprint();
    let secrets = || cert.keys().secret().map(|key| key.key().fingerprint());
    let may = |key: &KeyFingerprint| crate::certificate::key_at(cert, policy, key, system_time(now)).is_ok();
    let mut subkeys = secrets().filter(|key| *key != primary);
    subkeys.find(may).or_else(|| secrets().find(|key| *key == primary).filter(may)).ok_or(SignError::NoSecret)
}

#[cfg(test)]
mod tests;
