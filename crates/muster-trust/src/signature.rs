//! Detached signatures: one packet, of type binary, by a key that might sign then and may sign now.

use crate::armor::{self, ArmorError};
use crate::certificate::{Certificate, fingerprint_of, key_at};
use crate::keyring::Keyring;
use crate::packets;
use crate::policy::{is_strong, policy, system_time, timestamp};
use muster_core::action::Fingerprint;
use muster_core::{Timestamp, limits};
use sequoia_openpgp as openpgp;
use sequoia_openpgp::packet::Signature;
use sequoia_openpgp::packet::signature::subpacket::SubpacketTag;
use sequoia_openpgp::parse::Parse;
use sequoia_openpgp::types::SignatureType;
use sequoia_openpgp::{Packet, PacketPile};

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Longer than a signature may be.
    #[error("the signature has {have} bytes, at most {max} are allowed", max = limits::PGP_SIGNATURE_BYTES_MAX)]
    TooLong {
        /// Bytes found.
        have: usize,
    },
    /// Its text is damaged.
    #[error("the signature's text cannot be read: {0}")]
    Armor(#[from] ArmorError),
    /// Not exactly one signature packet.
    #[error("the signature is not exactly one OpenPGP signature packet")]
    Malformed,
    /// A version without a place for what must be signed with the data, or one that is not known.
    #[error("the signature has version {0}; versions 4 and 6 are accepted")]
    Version(u8),
    /// Over text, over a key, over nothing.
    #[error("the signature is of another type than binary: sign with --detach-sign and without --textmode")]
    Type,
    /// SHA-1, MD5 and the like.
    #[error("the signature uses a weak hash: sign with SHA-256 or better")]
    HashWeak,
    /// It demands that its reader understands something that this one does not.
    #[error("the signature holds something critical that is not known here")]
    Critical,
    /// By a key that is not in the keyring, or by nobody it names.
    #[error("the signature is by a key that is not in the keyring")]
    UnknownKey,
    /// It names two different keys.
    #[error("the signature contradicts itself about who made it")]
    Issuer,
    /// The key or what binds it is of an algorithm that is too weak.
    #[error("the key is too weak: RSA of 2048 bits or more, ECDSA and Ed25519 with SHA-256 or better are accepted")]
    KeyWeak,
    /// Of an algorithm that signs no orders, named.
    #[error(
        "the key is of {0}: RSA of 2048 bits or more, ECDSA on NIST's curves and Ed25519 are accepted; make one with `gpg --quick-generate-key NAME ed25519 sign`"
    )]
    KeyAlgorithm(String),
    /// It certified itself with a weak hash only.
    #[error(
        "the key certifies itself with a weak hash: its owner sets its expiry anew with a current gpg (SHA-256 or better) and exports it again"
    )]
    KeyHashWeak,
    /// It demands that its reader understands something that this one does not.
    #[error("the key demands that {0} is understood, which is not known here: certify its name again without it")]
    KeyCritical(String),
    /// Servers of keys leave names out.
    #[error(
        "the key has no name, and so nothing says what it is for: its owner exports it (`gpg --armor --export`), as servers of keys leave names out"
    )]
    KeyNameless,
    /// Names, but none that the key certified.
    #[error("the key certified none of its names: its owner exports it again (`gpg --armor --export`)")]
    KeyNameUnsigned,
    /// Nothing valid binds it to its certificate.
    #[error("the key is not validly bound to its certificate")]
    KeyUnbound,
    /// For encrypting or certifying only.
    #[error("the key is not for signing")]
    NotForSigning,
    /// Over, when the signature was made or now.
    #[error("the key has expired")]
    KeyExpired,
    /// Withdrawn.
    #[error("the key has been revoked")]
    KeyRevoked,
    /// Made after the signature, so it says.
    #[error("the key is younger than the signature, or the clock stands behind it")]
    KeyTooYoung,
    /// It set itself an end.
    #[error("the signature has expired")]
    Expired,
    /// Not made yet, so it says.
    #[error("the signature was made in the future: a clock is wrong")]
    Future,
    /// Another key, or other data.
    #[error("the signature does not fit the data")]
    Mismatch,
}

/// A good signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The primary key that names the signer.
    pub signer: Fingerprint,
    /// The key that signed: the primary one or one below it.
    pub key: Fingerprint,
    /// When, to the second, as the signer's clock said.
    pub made: Timestamp,
}

/// Says who signed `data`, if the signature, as one line or armored, is good at `now`.
///
/// The key must have been fit to sign when the signature was made, and be so now: a key that was revoked or has expired
/// since orders nothing any more.
pub fn verify(keyring: &Keyring, signature: &str, data: &[u8], now: Timestamp) -> Result<Signed, SignatureError> {
    let bytes = decode(signature)?;
    // The library has had panics on hostile packets; one here is a refusal and must not end the process.
    std::panic::catch_unwind(|| verify_packet(keyring, &bytes, data, now)).unwrap_or(Err(SignatureError::Malformed))
}

/// Returns the packet of a signature that is one line, as MIG writes it, or armored.
pub fn decode(signature: &str) -> Result<Vec<u8>, SignatureError> {
    if signature.len() > limits::PGP_SIGNATURE_BYTES_MAX {
        return Err(SignatureError::TooLong { have: signature.len() });
    }
    if armor::is_armored(signature) {
        return Ok(armor::decode(armor::SIGNATURE, signature)?);
    }
    Ok(armor::decode_line(signature)?)
}

/// Writes a signature packet as one line, as MIG keeps it: base64, an equals sign, four characters of checksum.
pub fn encode(packet: &[u8]) -> String {
    armor::encode_line(packet)
}

/// Turns a signature as `gpg --detach-sign` writes it, armored or binary, into one line. Nothing is verified.
pub fn one_line(signature: &[u8]) -> Result<String, SignatureError> {
    let bytes = match std::str::from_utf8(signature) {
        Ok(text) => decode(text)?,
        Err(_) => signature.to_vec(),
    };
    parse(&bytes)?;
    Ok(encode(&bytes))
}

/// Returns the keys that a signature says it is by: fingerprints or key ids, in hexadecimal. Nothing is verified.
pub fn issuers(signature: &str) -> Result<Vec<String>, SignatureError> {
    let bytes = decode(signature)?;
    let read = std::panic::catch_unwind(|| parse(&bytes).map(|signature| signature.get_issuers()));
    let issuers = read.unwrap_or(Err(SignatureError::Malformed))?;
    // The fingerprint says more than the key id that stands beside it.
    let mut issuers: Vec<String> = issuers.iter().map(|issuer| format!("{issuer:X}")).collect();
    issuers.sort_by_key(|issuer| std::cmp::Reverse(issuer.len()));
    Ok(issuers)
}

fn verify_packet(keyring: &Keyring, bytes: &[u8], data: &[u8], now: Timestamp) -> Result<Signed, SignatureError> {
    let signature = parse(bytes)?;
    form_check(&signature)?;
    age_check(&signature, now)?;
    let (candidates, any_known) = keyring.candidates(&signature.get_issuers());
    let mut outcome = Err(if any_known { SignatureError::Issuer } else { SignatureError::UnknownKey });
    for (certificate, key) in candidates {
        outcome = verify_key(certificate, &key, &signature, data, now);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Accepts exactly one packet that is a signature, and nothing after it.
fn parse(bytes: &[u8]) -> Result<Signature, SignatureError> {
    if !is_one_signature_packet(bytes) {
        return Err(SignatureError::Malformed);
    }
    let pile = PacketPile::from_bytes(&packets::exact(bytes)).map_err(|_| SignatureError::Malformed)?;
    let mut packets = pile.into_children();
    match (packets.next(), packets.next()) {
        (Some(Packet::Signature(signature)), None) => Ok(signature),
        _ => Err(SignatureError::Malformed),
    }
}

/// Compares the length in the first packet's header with the length there is.
fn is_one_signature_packet(bytes: &[u8]) -> bool {
    let header = packets::header(bytes).filter(|header| header.tag == packets::SIGNATURE);
    header.is_some_and(|header| bytes.len() == header.bytes + header.body)
}

fn form_check(signature: &Signature) -> Result<(), SignatureError> {
    if !matches!(signature.version(), 4 | 6) {
        return Err(SignatureError::Version(signature.version()));
    }
    if signature.typ() != SignatureType::Binary {
        return Err(SignatureError::Type);
    }
    if !is_strong(signature.hash_algo()) {
        return Err(SignatureError::HashWeak);
    }
    let known = |tag| {
        use SubpacketTag::{Issuer, IssuerFingerprint, SignatureCreationTime, SignatureExpirationTime, SignersUserID};
        matches!(tag, SignatureCreationTime | SignatureExpirationTime | Issuer | IssuerFingerprint | SignersUserID)
    };
    if signature.hashed_area().iter().any(|subpacket| subpacket.critical() && !known(subpacket.tag())) {
        return Err(SignatureError::Critical);
    }
    Ok(())
}

/// Refuses a signature that is not made yet, or is over.
fn age_check(signature: &Signature, now: Timestamp) -> Result<(), SignatureError> {
    let made = made(signature)?;
    if made > now.plus(limits::SIGNATURE_SKEW) {
        return Err(SignatureError::Future);
    }
    // A period of zero means that there is no end.
    let life = signature.signature_validity_period().filter(|life| !life.is_zero());
    if life.is_some_and(|life| made.plus(life) <= now) {
        return Err(SignatureError::Expired);
    }
    Ok(())
}

fn made(signature: &Signature) -> Result<Timestamp, SignatureError> {
    signature.signature_creation_time().map(timestamp).ok_or(SignatureError::Malformed)
}

fn verify_key(
    certificate: &Certificate,
    key: &openpgp::Fingerprint,
    signature: &Signature,
    data: &[u8],
    now: Timestamp,
) -> Result<Signed, SignatureError> {
    let (policy, cert) = (policy(now), certificate.cert());
    let made = made(signature)?;
    // A signer's clock may run ahead of ours; then the key is looked at as it will be.
    key_at(cert, &policy, key, system_time(now.max(made)))?;
    let key = key_at(cert, &policy, key, system_time(made))?;
    signature.verify_message(key.key(), data).map_err(|_| SignatureError::Mismatch)?;
    let fingerprint = fingerprint_of(&key.key().fingerprint()).ok_or(SignatureError::KeyUnbound)?;
    Ok(Signed { signer: certificate.fingerprint().clone(), key: fingerprint, made })
}

#[cfg(test)]
mod tests;
