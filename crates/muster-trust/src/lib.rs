//! Who may order what: OpenPGP keys and signatures, the bytes that are signed, weights, and the one judgement by which
//! a machine decides whether to act.
//!
//! Stays true: nothing here does I/O or reads a clock; what a signature covers is exactly what a module is given; no key
//! and no person counts twice; what is not permitted is refused, each refusal with a code of its own. This is the only
//! room that names the OpenPGP library. Not here: files, ledgers on disk, targets and their meaning, modules.

mod armor;
pub mod cancel;
pub mod canonical;
pub mod certificate;
pub mod document;
pub mod judge;
pub mod keyring;
pub mod ledger;
mod packets;
mod policy;
pub mod refusal;
pub mod sign;
pub mod signature;
pub mod weights;

pub use armor::ArmorError;
pub use cancel::{Cancellation, may_cancel};
pub use canonical::{CanonicalError, go_json, signed_text};
pub use certificate::{Certificate, CertificateError};
pub use judge::{Accepted, Authority, Module, TargetMatch, World, is_signed, judge};
pub use keyring::{Keyring, KeyringError};
pub use ledger::{LedgerKey, Seen};
pub use refusal::{Refusal, RefusalCode};
pub use sign::{SecretKey, SignError};
pub use signature::{SignatureError, Signed, verify};
pub use weights::{Acl, AclError, Assessment, WeightError};

#[cfg(test)]
mod testing;
