//! Who asks at MIG's API: investigators, by tokens that they sign or by API keys.
//!
//! Stays true: a signed token is believed once, by whichever server sees it first, unless its caller lets it be repeated,
//! and only near the time it names; of API keys only hashes are kept and compared, so no comparison gives a key away by
//! its time; who is disabled is nobody.
//! Not here: which route asks for which permission (the server).

use crate::engine::{Inner, OperatorError};
use crate::gates::Network;
use muster_core::action::{InvestigatorId, InvestigatorStatus, moment};
use muster_core::{Cause, Timestamp, limits};
use muster_store::StoreError;
use muster_store::investigators::{ApiKeyChange, InvestigatorChange, InvestigatorRow, TokenUse, TokenUsed};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Why a signed token is not believed.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefusal {
    /// Not of the one form that there is.
    #[error(
        "a token is written 1;TIME;NONCE;SIGNATURE, with a time such as 2026-01-02T03:04:05Z and a nonce of digits"
    )]
    Malformed,
    /// Too far from now.
    #[error("the token was made at {made}, and it is {now} here: make a new one, or set the clock")]
    Age {
        /// The time it names.
        made: Timestamp,
        /// The time by this server's clock.
        now: Timestamp,
    },
    /// The signature is not one of an active investigator over this token.
    #[error("{0}")]
    Signature(String),
    /// It was shown before.
    #[error("the token was used before, each is good for one request: make a new one")]
    Replayed,
    /// It could not be checked.
    #[error(transparent)]
    Unchecked(OperatorError),
}

/// How a signed token is judged.
#[derive(Debug, Clone, Copy)]
pub struct TokenRules {
    /// How far its time may be from this server's.
    pub window: Duration,
    /// Whether one that was believed before is believed again.
    pub may_repeat: bool,
    /// The digest of the request, if it only reads: MIG's programs make the same token twice when a person starts two of
    /// them within a second, and the same reading again is theirs.
    pub request: Option<[u8; 32]>,
}

/// What becomes of an investigator's API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKey {
    /// A new one takes the place of the old one.
    Issue,
    /// There is none any more.
    Withdraw,
}

/// What is changed of an investigator, all of it or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InvestigatorUpdate {
    /// Whether signatures are taken.
    pub status: Option<InvestigatorStatus>,
    /// What the person may do, as MIG's bits.
    pub permissions: Option<u32>,
    /// What becomes of the API key.
    pub api_key: Option<ApiKey>,
}

/// Digits of a nonce, at most.
const NONCE_DIGITS_MAX: usize = 64;

/// A token's parts.
struct Token<'a> {
    /// What is signed: the token without its signature, and a line break.
    text: String,
    made: Timestamp,
    signature: &'a str,
}

impl<'a> Token<'a> {
    fn parse(token: &'a str) -> Option<Self> {
        if token.len() > limits::MIG_TOKEN_BYTES_MAX {
            return None;
        }
        let mut parts = token.split(';');
        let ("1", time, nonce, signature, None) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next())
        else {
            return None;
        };
        let is_nonce = (1..=NONCE_DIGITS_MAX).contains(&nonce.len()) && nonce.bytes().all(|byte| byte.is_ascii_digit());
        let made = moment(time).filter(|_| is_nonce && time.ends_with('Z'))?;
        Some(Self { text: format!("1;{time};{nonce}\n"), made, signature })
    }
}

impl Inner {
    pub(crate) async fn investigator_by_token(
        &self,
        token: &str,
        address: &str,
        TokenRules { window, may_repeat, request }: TokenRules,
    ) -> Result<InvestigatorRow, TokenRefusal> {
        let now = self.now();
        let token = Token::parse(token).ok_or(TokenRefusal::Malformed)?;
        if now.since(token.made) > window || token.made.since(now) > window {
            return Err(TokenRefusal::Age { made: token.made, now });
        }
        let signatures = [token.signature.to_owned()];
        let verified = self.signatures_verify(&token.text, &signatures, now).await.map_err(TokenRefusal::Unchecked)?;
        let person = match (verified.problems.into_iter().next(), verified.signers.into_iter().next()) {
            (None, Some(person)) => person,
            (problem, _) => return Err(TokenRefusal::Signature(problem.unwrap_or_default())),
        };
        let mut hash = Sha256::new();
        hash.update(format!("muster token\n{}\n{}", person.id, token.text));
        // As long as any server whose clock is within the same window could believe it.
        let expires = token.made.plus(window.saturating_mul(2));
        let shown = TokenUse { digest: hash.finalize().into(), request };
        let used = self.store.signed_token_use(shown, expires, now).await;
        let used = used.map_err(|failure| TokenRefusal::Unchecked(self.operator_error("use the token", failure)))?;
        if used == TokenUsed::Other && !may_repeat {
            let text = format!("a token of investigator {} was shown a second time", person.id);
            self.person_event("token_replayed", address, &text).await;
            return Err(TokenRefusal::Replayed);
        }
        Ok(person)
    }

    pub(crate) async fn investigator_by_api_key(&self, key: &str) -> Result<Option<InvestigatorRow>, StoreError> {
        let found = self.store.investigator_find_api_key(Sha256::digest(key.as_bytes()).into()).await;
        let found = found.inspect_err(|failure| self.saw(failure))?;
        Ok(found.filter(|row| row.status == InvestigatorStatus::Active))
    }

    /// Reports something that an honest person's program does not do, and keeps it.
    async fn person_event(&self, code: &'static str, address: &str, text: &str) {
        self.security_log_of_person(code, address, text);
        if self.gates.event_row(Network::of(address)) {
            self.event_keep(None, address, code, text).await;
        }
    }

    pub(crate) async fn investigator_update(
        &self,
        id: InvestigatorId,
        update: InvestigatorUpdate,
        cause: &Cause,
    ) -> Result<Option<String>, OperatorError> {
        let key = (update.api_key == Some(ApiKey::Issue)).then(|| api_key(|| self.random()));
        let api_key = match (&key, update.api_key) {
            (Some(key), _) => ApiKeyChange::Set(Sha256::digest(key.as_bytes()).into()),
            (None, Some(_)) => ApiKeyChange::Withdraw,
            (None, None) => ApiKeyChange::Keep,
        };
        let change = InvestigatorChange { status: update.status, permissions: update.permissions, api_key };
        let changed = self.store.investigator_change(id, change, self.now(), cause).await;
        changed.map_err(|failure| self.operator_error("change the investigator", failure))?;
        Ok(key)
    }
}

const API_KEY_CHARS: usize = 32;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Draws a key of 32 letters and digits, each as likely as any other: 190 bits.
fn api_key(mut random: impl FnMut() -> [u8; 64]) -> String {
    let mut key = String::with_capacity(API_KEY_CHARS);
    while key.len() < API_KEY_CHARS {
        // Bytes beyond the last whole round of the alphabet would favour its head.
        let fair = random().into_iter().map(usize::from).filter(|byte| *byte < 256 / ALPHABET.len() * ALPHABET.len());
        let letters = fair.map(|byte| char::from(ALPHABET[byte % ALPHABET.len()]));
        key.extend(letters.take(API_KEY_CHARS - key.len()));
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_four_parts_of_known_form() {
        let token = Token::parse("1;2026-01-02T03:04:05Z;123;abc=defg").unwrap();
        assert_eq!(token.text, "1;2026-01-02T03:04:05Z;123\n");
        assert_eq!((token.made.to_string().as_str(), token.signature), ("2026-01-02T03:04:05Z", "abc=defg"));
        let long = format!("1;2026-01-02T03:04:05Z;123;{}", "a".repeat(limits::MIG_TOKEN_BYTES_MAX));
        for wrong in [
            "",
            "1",
            "2;2026-01-02T03:04:05Z;123;abc",
            "1;2026-01-02T03:04:05Z;123",
            "1;2026-01-02T03:04:05Z;123;abc;",
            "1;2026-01-02 03:04:05;123;abc",
            "1;2026-01-02T03:04:05+01:00;123;abc",
            "1;2026-01-02T03:04:05Z;;abc",
            "1;2026-01-02T03:04:05Z;12x;abc",
            "1;2026-01-02T03:04:05Z;12\n;abc",
            &long,
        ] {
            assert!(Token::parse(wrong).is_none(), "{wrong:.60}");
        }
    }

    #[test]
    fn a_key_is_32_letters_and_digits_and_never_the_same() {
        let mut next = 0_u8;
        let mut random = || {
            next = next.wrapping_add(41);
            std::array::from_fn(|place| next.wrapping_mul(u8::try_from(place).unwrap() | 1))
        };
        let (one, two) = (api_key(&mut random), api_key(&mut random));
        assert!(one.len() == 32 && one.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{one}");
        assert_ne!(one, two);
        assert_eq!(api_key(|| std::array::from_fn(|place| if place % 2 == 0 { 255 } else { 0 })), "A".repeat(32));
    }
}
