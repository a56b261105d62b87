//! Why a machine does not act: one code for each reason, so that fleets can be counted by it.

use crate::document::DocumentError;
use crate::signature::SignatureError;
use std::fmt;

/// A refusal: its code, and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The reason.
    pub code: RefusalCode,
    /// What failed, on what, why.
    pub text: String,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        /// A reason to refuse an order. The words are part of the interface: they are stored, counted and compared.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RefusalCode {
            $($(#[$doc])* $variant,)*
        }

        impl RefusalCode {
            /// Every one, in the order in which an agent finds them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns its word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

codes!(
    /// Longer than an order may be.
    TooLarge = "too-large",
    /// Not an action's JSON.
    Malformed = "malformed",
    /// An action that breaks a rule of the format.
    Invalid = "invalid",
    /// Its name or target could be read in two ways under the same signature.
    Ambiguous = "ambiguous",
    /// Its parameters are not JSON that can be signed.
    Parameters = "parameters",
    /// The weights or the keyring in force have expired, and none newer came.
    TrustExpired = "trust-expired",
    /// The machine's clock stands behind what it knows to be past.
    ClockBehind = "clock-behind",
    /// Its window is over.
    Expired = "expired",
    /// Its window has not begun.
    NotYetValid = "not-yet-valid",
    /// Its window is longer than allowed.
    WindowTooLong = "window-too-long",
    /// It was run before, or begun.
    AlreadyRun = "already-run",
    /// It was called back, or may have been: a cancellation found no room.
    Cancelled = "cancelled",
    /// It may have run before the ledger began, or be among what the ledger forgot.
    BeforeLedger = "before-ledger",
    /// The ledger cannot be read.
    LedgerUnreadable = "ledger-unreadable",
    /// Its target is no expression.
    TargetInvalid = "target-invalid",
    /// Its target does not mean this machine.
    NotForThisAgent = "not-for-this-agent",
    /// One of its modules does not exist here.
    UnknownModule = "unknown-module",
    /// It changes the machine, and whether this machine is meant only the server could say, or could change.
    TargetUndecidable = "target-undecidable",
    /// A signature is damaged, or not exactly one detached signature.
    SignatureMalformed = "signature-malformed",
    /// A signature of another type, version, or with unknown demands.
    SignatureUnacceptable = "signature-unacceptable",
    /// A signature with a weak hash.
    SignatureWeak = "signature-weak",
    /// A signature by a key that is not in the keyring.
    KeyUnknown = "key-unknown",
    /// A key that is too weak.
    KeyWeak = "key-weak",
    /// A key that may not sign, or is not bound to its certificate.
    KeyNotForSigning = "key-not-for-signing",
    /// A key that has expired.
    KeyExpired = "key-expired",
    /// A key that has been revoked.
    KeyRevoked = "key-revoked",
    /// A signature that has expired.
    SignatureExpired = "signature-expired",
    /// A signature or key from the future.
    SignatureFuture = "signature-future",
    /// A signature over other data.
    SignatureMismatch = "signature-mismatch",
    /// Too little weight behind an operation.
    Weight = "weight",
    /// A document of trust that was refused.
    Document = "document",
);

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for RefusalCode {
    type Err = UnknownCode;
    fn from_str(word: &str) -> Result<Self, UnknownCode> {
        Self::ALL.iter().copied().find(|code| code.as_str() == word).ok_or_else(|| UnknownCode(word.to_owned()))
    }
}

/// A word that is no refusal's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no code of a refusal")]
pub struct UnknownCode(String);

impl SignatureError {
    /// Returns the code under which an order with such a signature is refused.
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::TooLong { .. } | Self::Armor(_) | Self::Malformed => RefusalCode::SignatureMalformed,
            Self::Version(_) | Self::Type | Self::Critical => RefusalCode::SignatureUnacceptable,
            Self::HashWeak => RefusalCode::SignatureWeak,
            Self::UnknownKey | Self::Issuer => RefusalCode::KeyUnknown,
            Self::KeyWeak | Self::KeyAlgorithm(_) | Self::KeyHashWeak => RefusalCode::KeyWeak,
            Self::KeyUnbound
            | Self::KeyCritical(_)
            | Self::KeyNameless
            | Self::KeyNameUnsigned
            | Self::NotForSigning => RefusalCode::KeyNotForSigning,
            Self::KeyExpired => RefusalCode::KeyExpired,
            Self::KeyRevoked => RefusalCode::KeyRevoked,
            Self::Expired => RefusalCode::SignatureExpired,
            Self::KeyTooYoung | Self::Future => RefusalCode::SignatureFuture,
            Self::Mismatch => RefusalCode::SignatureMismatch,
        }
    }
}

impl From<DocumentError> for Refusal {
    fn from(error: DocumentError) -> Self {
        Self { code: RefusalCode::Document, text: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::RefusalCode;

    #[test]
    fn every_code_has_a_word_of_its_own() {
        let words: std::collections::BTreeSet<_> = RefusalCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), RefusalCode::ALL.len());
        for code in RefusalCode::ALL {
            assert_eq!(code.to_string().parse(), Ok(*code));
        }
        assert_eq!("nope".parse::<RefusalCode>().unwrap_err().to_string(), "\"nope\" is no code of a refusal");
    }

    #[test]
    fn the_documentation_lists_every_code_in_this_order() {
        let page = include_str!("../../../docs/reference/trust.md");
        let (_, section) = page.split_once("## Why an order is refused").expect("the page has that section");
        let lines = section.lines().take_while(|line| !line.starts_with("## "));
        let rows = lines.filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let listed: Vec<&str> = rows.map(|(word, _)| word).collect();
        assert_eq!(listed, RefusalCode::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>());
    }
}
