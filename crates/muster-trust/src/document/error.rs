//! Why a document does not count, in words that say what to do.

use super::VERSION_STEP_MAX;
use crate::certificate::CertificateError;
use crate::keyring::KeyringError;
use crate::signature::SignatureError;
use crate::weights::AclError;
use muster_core::text::TextError;
use muster_core::{Timestamp, limits};

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
    /// It names no fleet or no target.
    #[error(
        "the document does not say for which fleet and which machines it is, as documents of before did not: make it again \
         with `muster trust new investigators --fleet NAME`"
    )]
    Unaddressed,
    /// Keys or weights alone.
    #[error(
        "the document holds a keyring or weights alone, which could be put beside others of another day: make one of both \
         with `muster trust new investigators --fleet NAME --acl FILE KEY…`"
    )]
    Apart,
    /// The name of its fleet.
    #[error(transparent)]
    FleetName(#[from] TextError),
    /// The machine belongs to no fleet.
    #[error(
        "the document is for the fleet {0}, and this machine's configuration does not say which fleet it belongs to: if it is \
         that one, write fleet = \"{0}\" there"
    )]
    NoFleet(String),
    /// It is for another fleet.
    #[error("the document is for the fleet {document}, and this machine belongs to {machine}")]
    Fleet {
        /// The document's.
        document: String,
        /// The machine's.
        machine: String,
    },
    /// It is for other machines.
    #[error("the document is for the machines that match {0:?}, and this one does not")]
    Other(String),
    /// Whether the machine is meant only the server knows.
    #[error(
        "whether the document is for a machine only the server could say, or could change ({}): choose machines by name, tags \
         or agentid, with every id that they had",
        .0.join(", ")
    )]
    Open(Vec<String>),
    /// Its target is no expression.
    #[error("the document's target cannot be read: {0}")]
    Target(String),
    /// Something in it names no certificate.
    #[error("the document cannot be used: {0}")]
    Revocation(String),
    /// It names more certificates than are kept.
    #[error("the document names {have} certificates, at most {max} are allowed", max = limits::REVOCATIONS_MAX)]
    TooManyRevocations {
        /// How many.
        have: usize,
    },
    /// Its keys do not make a keyring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// Its weights cannot be used.
    #[error(transparent)]
    Acl(#[from] AclError),
}
