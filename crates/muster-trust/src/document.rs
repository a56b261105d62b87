//! Keyrings and weights that travel: documents that administrators sign, with a version and an end.
//!
//! Stays true: a document counts when enough administrators signed its very bytes, when it has not expired, and when it
//! is newer than what is in force; whatever is refused leaves no trace. Not here: where they are kept.
//!
//! On the wire a document is one JSON object, `{"payload": TEXT, "signatures": [LINE, …]}`. The payload is carried as the
//! text that was signed and never written anew. What is signed is [`signing_text`], which begins with a prefix of its own,
//! so that no signature over an order is one over a document, nor the other way round. The payload is
//! `{"kind": "keyring" | "acl" | "administrators", "version": N, "issued": TIME, "expires": TIME, "content": …}`:
//!
//! - keyring: `{"keys": [ARMORED, …]}`
//! - acl: the object of `acl.cfg`
//! - administrators: `{"keys": [ARMORED, …], "threshold": N}`, signed by enough of the old ones and enough of the new.

use crate::canonical::go_json;
use crate::certificate::{Certificate, CertificateError};
use crate::keyring::{Keyring, KeyringError};
use crate::signature::{SignatureError, verify};
use crate::weights::{Acl, AclError};
use muster_core::action::{Json, moment};
use muster_core::{Timestamp, limits};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

mod draft;
#[cfg(test)]
mod tests;

pub use draft::{Look, administrators_content, keyring_content, look, payload};

/// How far a version may run ahead of the one in force: enough for any real gap, and too little for somebody with one
/// stolen signing session to use up all versions there are.
pub const VERSION_STEP_MAX: u64 = 1_000_000;

/// What a document is about. Each kind has its own versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Whose signatures on orders are looked at.
    Keyring,
    /// What they are worth.
    Acl,
    /// Who signs documents.
    Administrators,
}

/// Who signs documents, and how many of them it takes.
#[derive(Debug, Clone)]
pub struct Administrators {
    keyring: Keyring,
    threshold: usize,
}

impl Administrators {
    /// Takes their keys and how many different ones must sign, from 1.
    pub fn new(keyring: Keyring, threshold: usize) -> Result<Self, DocumentError> {
        if threshold == 0 || threshold > keyring.certificates().len() {
            return Err(DocumentError::Threshold { threshold, keys: keyring.certificates().len() });
        }
        Ok(Self { keyring, threshold })
    }

    /// Returns their keys.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    fn quorum_check(&self, payload: &str, signatures: &[String], now: Timestamp) -> Result<(), DocumentError> {
        let text = signing_text(payload);
        let (mut signers, mut problem) = (BTreeSet::new(), None);
        for signature in signatures {
            match verify(&self.keyring, signature, text.as_bytes(), now) {
                Ok(signed) => drop(signers.insert(signed.signer)),
                // Others than these administrators may have signed too, as when administrators change.
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        if signers.len() < self.threshold {
            return Err(DocumentError::Quorum { have: signers.len(), need: self.threshold, problem });
        }
        Ok(())
    }
}

/// Which document of a kind is in force.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InForce {
    /// Its version.
    pub version: u64,
    /// SHA-256 of its payload, as hexadecimal.
    pub digest: String,
}

/// A document that was accepted.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it is about.
    pub kind: Kind,
    /// To be kept, so that nothing older comes back.
    pub in_force: InForce,
    /// When it stops counting.
    pub expires: Timestamp,
    /// What it says.
    pub content: Content,
}

/// What a document says.
#[derive(Debug, Clone)]
pub enum Content {
    /// Keys.
    Keyring(Keyring),
    /// Weights.
    Acl(Acl),
    /// Signers of documents.
    Administrators(Administrators),
}

/// Why a document does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Longer than it may be.
    #[error("the document has {have} bytes, at most {max} are allowed", max = limits::TRUST_DOCUMENT_BYTES_MAX)]
    TooLong {
        /// Bytes found.
        have: usize,
    },
    /// Not of the form of this module's head.
    #[error("the document cannot be read: {0}")]
    Malformed(String),
    /// More signatures than are looked at.
    #[error("the document has {have} signatures, at most {max} are allowed", max = limits::ACTION_SIGNATURES_MAX)]
    TooManySignatures {
        /// How many.
        have: usize,
    },
    /// Too few administrators signed.
    #[error("{have} of {need} needed administrators signed the document{}", problem.as_ref().map(|problem| format!(" ({problem})")).unwrap_or_default())]
    Quorum {
        /// Different administrators with a good signature.
        have: usize,
        /// How many it takes.
        need: usize,
        /// What is wrong with the first signature that does not count.
        problem: Option<SignatureError>,
    },
    /// A version of 0, too far ahead, or beyond what JSON's readers hold.
    #[error("the document's version {have} is out of range: {in_force} is in force, and at most {max} more is believed", max = VERSION_STEP_MAX)]
    Version {
        /// The document's.
        have: u64,
        /// The version in force, 0 if there is none.
        in_force: u64,
    },
    /// Older than what is in force.
    #[error("the document has version {have}, but {in_force} is in force: nothing older is taken back")]
    Older {
        /// The document's.
        have: u64,
        /// The version in force.
        in_force: u64,
    },
    /// The same version with other bytes.
    #[error("version {0} is in force already and says something else: give the document a higher version")]
    Fork(u64),
    /// Over.
    #[error("the document expired at {0}")]
    Expired(Timestamp),
    /// Not yet made, so it says, or it ends before it began.
    #[error("the document says that it was issued at {0}: a clock is wrong, or its times are reversed")]
    Issued(Timestamp),
    /// A threshold that nobody, or nobody who is there, can meet.
    #[error("the threshold {threshold} does not fit {keys} administrators")]
    Threshold {
        /// How many must sign.
        threshold: usize,
        /// How many there are.
        keys: usize,
    },
    /// A key in it cannot be used.
    #[error("key {at} of the document cannot be used: {source}")]
    Key {
        /// Counted from 1.
        at: usize,
        /// Why.
        source: CertificateError,
    },
    /// Its keys do not make a keyring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// Its weights cannot be used.
    #[error(transparent)]
    Acl(#[from] AclError),
}

#[derive(serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    payload: String,
    signatures: Vec<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    kind: Kind,
    version: u64,
    issued: String,
    expires: String,
    content: Json,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyringContent {
    keys: Vec<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct AdministratorsContent {
    keys: Vec<String>,
    threshold: usize,
}

/// Returns what the signers of a document sign: the encoding of DSSE, which holds the lengths of its parts, so that no
/// two pairs of type and payload share their bytes.
pub fn signing_text(payload: &str) -> String {
    const TYPE: &str = "application/vnd.muster.trust.v1+json";
    format!("DSSEv1 {} {TYPE} {} {payload}", TYPE.len(), payload.len())
}

/// Puts a payload and its signatures together, as they travel.
pub fn envelope(payload: &str, signatures: &[String]) -> String {
    let envelope = Envelope { payload: payload.to_owned(), signatures: signatures.to_vec() };
    serde_json::to_string(&envelope).expect("texts can always be written as JSON")
}

/// Accepts a document that may replace what is in force of its kind.
///
/// The caller keeps [`Document::in_force`] durably together with the content before it is used. What is in force already
/// is accepted again, byte for byte. `in_force` says what there is of each kind.
pub fn accept(
    json: &[u8],
    administrators: &Administrators,
    in_force: impl Fn(Kind) -> Option<InForce>,
    now: Timestamp,
) -> Result<Document, DocumentError> {
    let Envelope { payload, signatures } = open(json)?;
    // What nobody vouches for is not looked into.
    administrators.quorum_check(&payload, &signatures, now)?;
    let read: Payload = read(payload.as_bytes())?;
    let digest = hex::encode(Sha256::digest(payload.as_bytes()));
    version_check(read.version, &digest, in_force(read.kind).as_ref())?;
    let expires = times_check(&read, now)?;
    let content = content(&read)?;
    if let Content::Administrators(new) = &content {
        // The new ones show that they have their keys, before the old ones lose their say.
        new.quorum_check(&payload, &signatures, now)?;
    }
    Ok(Document { kind: read.kind, in_force: InForce { version: read.version, digest }, expires, content })
}

/// Takes a document out of its envelope.
fn open(json: &[u8]) -> Result<Envelope, DocumentError> {
    if json.len() > limits::TRUST_DOCUMENT_BYTES_MAX {
        return Err(DocumentError::TooLong { have: json.len() });
    }
    let envelope: Envelope = read(json)?;
    if envelope.signatures.len() > limits::ACTION_SIGNATURES_MAX {
        return Err(DocumentError::TooManySignatures { have: envelope.signatures.len() });
    }
    Ok(envelope)
}

/// Reads JSON in which no key stands twice.
fn read<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, DocumentError> {
    let malformed = |problem: String| DocumentError::Malformed(problem);
    let text = std::str::from_utf8(json).map_err(|error| malformed(error.to_string()))?;
    go_json(text).map_err(|error| malformed(format!("{} at byte {}", error.problem, error.at)))?;
    serde_json::from_str(text).map_err(|error| malformed(error.to_string()))
}

fn version_check(have: u64, digest: &str, in_force: Option<&InForce>) -> Result<(), DocumentError> {
    let current = in_force.map_or(0, |in_force| in_force.version);
    if have == 0 || have > current.saturating_add(VERSION_STEP_MAX) {
        return Err(DocumentError::Version { have, in_force: current });
    }
    if have < current {
        return Err(DocumentError::Older { have, in_force: current });
    }
    if in_force.is_some_and(|in_force| in_force.version == have && in_force.digest != digest) {
        return Err(DocumentError::Fork(have));
    }
    Ok(())
}

/// Returns when the document expires.
fn times_check(read: &Payload, now: Timestamp) -> Result<Timestamp, DocumentError> {
    let time = |text: &str| {
        moment(text).ok_or_else(|| DocumentError::Malformed("its times must look like 2026-01-02T03:04:05Z".to_owned()))
    };
    let (issued, expires) = (time(&read.issued)?, time(&read.expires)?);
    if issued > now.plus(limits::SIGNATURE_SKEW) || issued > expires {
        return Err(DocumentError::Issued(issued));
    }
    if now > expires {
        return Err(DocumentError::Expired(expires));
    }
    Ok(expires)
}

fn content(read: &Payload) -> Result<Content, DocumentError> {
    let json = read.content.as_str();
    let malformed = |error: serde_json::Error| DocumentError::Malformed(error.to_string());
    Ok(match read.kind {
        Kind::Acl => Content::Acl(Acl::parse(json.as_bytes())?),
        Kind::Keyring => {
            let KeyringContent { keys } = serde_json::from_str(json).map_err(malformed)?;
            Content::Keyring(keyring(&keys)?)
        }
        Kind::Administrators => {
            let AdministratorsContent { keys, threshold } = serde_json::from_str(json).map_err(malformed)?;
            Content::Administrators(Administrators::new(keyring(&keys)?, threshold)?)
        }
    })
}

fn keyring(keys: &[String]) -> Result<Keyring, DocumentError> {
    let certificates = keys.iter().enumerate().map(|(at, key)| {
        Certificate::parse(key.as_bytes()).map_err(|source| DocumentError::Key { at: at + 1, source })
    });
    Ok(Keyring::new(certificates.collect::<Result<_, _>>()?)?)
}
