//! Keyrings and weights that travel: documents that administrators sign, with a fleet, a target, a version and an end.
//!
//! Stays true: a document counts when enough administrators signed its very bytes, when it is for this fleet and this
//! machine, when it has not expired, and when it is newer than what is in force; whatever is refused leaves no trace. Keys
//! and what they weigh are one document, so that no server can put those of one day beside those of another. Not here:
//! where documents are kept, what a target means.
//!
//! On the wire a document is one JSON object, `{"payload": TEXT, "signatures": [LINE, …]}`. The payload is carried as the
//! text that was signed and never written anew. What is signed is [`signing_text`], which begins with a prefix of its own,
//! so that no signature over an order is one over a document, nor the other way round. The payload is
//! `{"kind": "investigators" | "administrators" | "clock" | "revocations", "version": N, "fleet": NAME, "target": EXPRESSION,
//! "issued": TIME, "expires": TIME, "content": …}`:
//!
//! - investigators: `{"keys": [ARMORED, …], "weights": the object of acl.cfg}`
//! - administrators: `{"keys": [ARMORED, …], "threshold": N}`, signed by enough of the old ones and enough of the new.
//! - clock: `{}`: what machines remember of later times than their clock's is forgotten.
//! - revocations: `{"serials": [HEX, …], "fingerprints": [HEX, …], "cuts_off": false}`: certificates of servers and
//!   authorities that machines never trust again, those that were pinned among them.
//!
//! Documents of before had the kinds `keyring` and `acl` and named neither fleet nor target. None is taken any more; one
//! that a machine took then is read again ([`reread`]) until a newer document takes its place.

use crate::canonical::go_json;
use crate::certificate::Certificate;
use crate::judge::TargetMatch;
use crate::keyring::Keyring;
use crate::signature::verify;
use crate::weights::Acl;
use muster_core::action::{Json, moment};
use muster_core::{Timestamp, limits};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

mod draft;
mod error;
mod revocations;
#[cfg(test)]
mod tests;

pub use draft::{Draft, Look, administrators_content, investigators_content, look, payload};
pub use error::DocumentError;
pub use revocations::Revocations;

/// How far a version may run ahead of the one in force: enough for any real gap, and too little for somebody with one
/// stolen signing session to use up all versions there are.
pub const VERSION_STEP_MAX: u64 = 1_000_000;

/// What a document is about. Each kind has its own versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Whose signatures on orders are looked at, and what they are worth.
    Investigators,
    /// Who signs documents.
    Administrators,
    /// That the clock is right again, after it was ahead.
    Clock,
    /// Which certificates of servers and authorities are never trusted again.
    Revocations,
    /// Keys alone, as before. None is taken any more.
    Keyring,
    /// Weights alone, as before. None is taken any more.
    Acl,
}

impl Kind {
    /// Returns its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Investigators => "investigators",
            Self::Administrators => "administrators",
            Self::Clock => "clock",
            Self::Revocations => "revocations",
            Self::Keyring => "keyring",
            Self::Acl => "acl",
        }
    }
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

    /// Returns when the latest of the signatures that count was made, by its signer's clock.
    fn quorum_check(&self, payload: &str, signatures: &[String], now: Timestamp) -> Result<Timestamp, DocumentError> {
        let text = signing_text(payload);
        let (mut signers, mut problem) = (BTreeSet::new(), None);
        let mut made = Timestamp::EPOCH;
        for signature in signatures {
            match verify(&self.keyring, signature, text.as_bytes(), now) {
                Ok(signed) => {
                    made = made.max(signed.made);
                    signers.insert(signed.signer);
                }
                // Others than these administrators may have signed too, as when administrators change.
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        if signers.len() < self.threshold {
            return Err(DocumentError::Quorum { have: signers.len(), need: self.threshold, problem });
        }
        Ok(made)
    }

    /// Says how many different administrators signed a document, and how many must: whoever sends it is told before any
    /// machine refuses it.
    pub fn signers_check(&self, look: &Look, now: Timestamp) -> Result<(), DocumentError> {
        self.quorum_check(&look.payload, &look.signatures, now).map(drop)
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
    /// The latest moment that its administrators vouch for and that is past: no clock behind it is right.
    pub floor: Timestamp,
    /// What it says.
    pub content: Content,
}

/// What a document says.
#[derive(Debug, Clone)]
pub enum Content {
    /// Keys, and what they weigh.
    Investigators(Keyring, Acl),
    /// Signers of documents.
    Administrators(Administrators),
    /// Nothing more.
    Clock,
    /// Certificates.
    Revocations(Revocations),
    /// Keys alone, as before.
    Keyring(Keyring),
    /// Weights alone, as before.
    Acl(Acl),
}

/// Whom a document must be for.
#[derive(Clone, Copy)]
pub struct Receiver<'a> {
    /// The fleet that the machine belongs to; empty: none.
    pub fleet: &'a str,
    /// Whether a target means the machine, as far as it knows itself.
    pub target: &'a dyn Fn(&str) -> TargetMatch,
}

impl Receiver<'_> {
    fn check(&self, fleet: &str, target: &str) -> Result<(), DocumentError> {
        if self.fleet.is_empty() {
            return Err(DocumentError::NoFleet(fleet.to_owned()));
        }
        if self.fleet != fleet {
            return Err(DocumentError::Fleet { document: fleet.to_owned(), machine: self.fleet.to_owned() });
        }
        match (self.target)(target) {
            TargetMatch::Matches => Ok(()),
            TargetMatch::Other => Err(DocumentError::Other(muster_core::text::cut(target, 200))),
            TargetMatch::Open(questions) => Err(DocumentError::Open(questions)),
            TargetMatch::Invalid(problem) => Err(DocumentError::Target(problem)),
        }
    }
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
    #[serde(default)]
    fleet: Option<String>,
    #[serde(default)]
    target: Option<String>,
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
struct ClockContent {}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct InvestigatorsContent {
    keys: Vec<String>,
    weights: Json,
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

/// Accepts a document that may replace what is in force of its kind, on the machine that `receiver` describes.
///
/// The caller keeps [`Document::in_force`] durably together with the content before it is used. What is in force already
/// is accepted again, byte for byte. `in_force` says what there is of each kind.
pub fn accept(
    json: &[u8],
    administrators: &Administrators,
    in_force: impl Fn(Kind) -> Option<InForce>,
    receiver: &Receiver<'_>,
    now: Timestamp,
) -> Result<Document, DocumentError> {
    let signed = Signed::open(json, administrators, now)?;
    let (fleet, target) = signed.read.addressed()?;
    receiver.check(fleet, target)?;
    signed.document(in_force, now)
}

/// Accepts again what was accepted on this machine at the moment `at`, also documents of before. Whom it is for was asked
/// then; a machine that was given to another `fleet` since believes nothing that was signed for the one before.
pub fn reread(
    json: &[u8],
    administrators: &Administrators,
    in_force: &InForce,
    fleet: &str,
    at: Timestamp,
) -> Result<Document, DocumentError> {
    let signed = Signed::open(json, administrators, at)?;
    if let Some(document) = signed.read.fleet.as_deref().filter(|document| *document != fleet) {
        return Err(DocumentError::Fleet { document: document.to_owned(), machine: fleet.to_owned() });
    }
    signed.document(|_| Some(in_force.clone()), at)
}

/// A document that enough administrators signed.
struct Signed {
    envelope: Envelope,
    read: Payload,
    /// When the last of them signed.
    made: Timestamp,
}

impl Signed {
    fn open(json: &[u8], administrators: &Administrators, now: Timestamp) -> Result<Self, DocumentError> {
        let envelope = open(json)?;
        // What nobody vouches for is not looked into.
        let made = administrators.quorum_check(&envelope.payload, &envelope.signatures, now)?;
        let read = read(envelope.payload.as_bytes())?;
        Ok(Self { envelope, read, made })
    }

    fn document(self, in_force: impl Fn(Kind) -> Option<InForce>, now: Timestamp) -> Result<Document, DocumentError> {
        let Self { envelope: Envelope { payload, signatures }, read, made } = self;
        let digest = hex::encode(Sha256::digest(payload.as_bytes()));
        version_check(read.version, &digest, in_force(read.kind).as_ref())?;
        let [issued, expires] = times_check(&read, now)?;
        let content = content(&read)?;
        if let Content::Administrators(new) = &content {
            // The new ones show that they have their keys, before the old ones lose their say.
            new.quorum_check(&payload, &signatures, now)?;
        }
        let floor = [issued, made].into_iter().filter(|moment| *moment <= now).max().unwrap_or(Timestamp::EPOCH);
        Ok(Document { kind: read.kind, in_force: InForce { version: read.version, digest }, expires, floor, content })
    }
}

impl Payload {
    /// Returns the fleet and the target; refuses documents of before.
    fn addressed(&self) -> Result<(&str, &str), DocumentError> {
        if matches!(self.kind, Kind::Keyring | Kind::Acl) {
            return Err(DocumentError::Apart);
        }
        let (Some(fleet), Some(target)) = (&self.fleet, &self.target) else { return Err(DocumentError::Unaddressed) };
        muster_core::text::fleet(fleet)?;
        Ok((fleet, target))
    }
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

/// Returns when the document was issued and when it expires.
fn times_check(read: &Payload, now: Timestamp) -> Result<[Timestamp; 2], DocumentError> {
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
    Ok([issued, expires])
}

fn content(read: &Payload) -> Result<Content, DocumentError> {
    let json = read.content.as_str();
    let malformed = |error: serde_json::Error| DocumentError::Malformed(error.to_string());
    Ok(match read.kind {
        Kind::Investigators => {
            let InvestigatorsContent { keys, weights } = serde_json::from_str(json).map_err(malformed)?;
            Content::Investigators(keyring(&keys)?, Acl::parse(weights.as_str().as_bytes())?)
        }
        Kind::Clock => {
            let ClockContent {} = serde_json::from_str(json).map_err(malformed)?;
            Content::Clock
        }
        Kind::Revocations => Content::Revocations(Revocations::parse(json)?),
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
