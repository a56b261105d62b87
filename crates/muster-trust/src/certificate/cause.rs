//! Why a key that the library does not take is not taken, in words that its owner can act on.
//!
//! The library says "no binding signature" of a key without a name, of one of an algorithm that it does not know, and of a
//! damaged one. Stays true: nothing here makes a key good; it only words a refusal that stands already.

use super::key_named;
use crate::policy::is_strong;
use crate::signature::SignatureError;
use sequoia_openpgp as openpgp;
use sequoia_openpgp::Cert;
use sequoia_openpgp::crypto::mpi::PublicKey;
use sequoia_openpgp::packet::Signature;
use sequoia_openpgp::packet::signature::subpacket::{Subpacket, SubpacketValue};
use sequoia_openpgp::policy::StandardPolicy;
use sequoia_openpgp::types::{Curve, PublicKeyAlgorithm};

/// Bits that an RSA key must have.
const RSA_BITS_MIN: usize = 2048;
/// The object identifier of secp256k1, which the library does not name.
const SECP256K1: [u8; 5] = [0x2B, 0x81, 0x04, 0x00, 0x0A];

/// Says why a key of a certificate, of which the library says nothing better than `error`, is not taken.
pub(super) fn cause(cert: &Cert, fingerprint: &openpgp::Fingerprint, error: SignatureError) -> SignatureError {
    let primary = cert.primary_key();
    let keys = [Some(primary.key().role_as_unspecified()), key_named(cert, fingerprint).map(|key| key.key())];
    if let Some(name) = keys.into_iter().flatten().find_map(|key| foreign(key.pk_algo(), key.mpis())) {
        return SignatureError::KeyAlgorithm(name);
    }
    let own = || bindings(cert, fingerprint);
    if let Some(name) = own().find_map(critical) {
        return SignatureError::KeyCritical(name);
    }
    if own().next().is_some() && own().all(|signature| !is_strong(signature.hash_algo())) {
        return SignatureError::KeyHashWeak;
    }
    if cert.userids().next().is_none() {
        return SignatureError::KeyNameless;
    }
    if !cert.userids().any(|name| name.self_signatures().next().is_some()) {
        return SignatureError::KeyNameUnsigned;
    }
    error
}

/// What the certificate signed about itself and about this key.
fn bindings<'a>(cert: &'a Cert, fingerprint: &openpgp::Fingerprint) -> impl Iterator<Item = &'a Signature> + use<'a> {
    let of_names = cert.userids().flat_map(|name| name.self_signatures().collect::<Vec<_>>());
    let of_primary = cert.primary_key().self_signatures();
    let of_key = key_named(cert, fingerprint).map(|key| key.self_signatures().collect::<Vec<_>>());
    of_names.chain(of_primary).chain(of_key.into_iter().flatten())
}

/// Returns the name of an algorithm that signs no orders here.
fn foreign(algorithm: PublicKeyAlgorithm, key: &PublicKey) -> Option<String> {
    let curve = |curve: &Curve| match curve {
        Curve::NistP256 | Curve::NistP384 | Curve::NistP521 | Curve::Ed25519 => None,
        Curve::BrainpoolP256 => Some("ECDSA on brainpoolP256r1".to_owned()),
        Curve::BrainpoolP384 => Some("ECDSA on brainpoolP384r1".to_owned()),
        Curve::BrainpoolP512 => Some("ECDSA on brainpoolP512r1".to_owned()),
        Curve::Unknown(oid) if **oid == SECP256K1 => Some("ECDSA on secp256k1".to_owned()),
        other => Some(format!("ECDSA on {other:#}")),
    };
    match (algorithm, key) {
        (PublicKeyAlgorithm::Unknown(number) | PublicKeyAlgorithm::Private(number), _) => {
            Some(format!("algorithm number {number}, which is not known here"))
        }
        (_, PublicKey::RSA { n, .. }) if n.bits() < RSA_BITS_MIN => Some(format!("RSA of {} bits", n.bits())),
        (_, PublicKey::DSA { p, .. }) => Some(format!("DSA of {} bits", p.bits())),
        (_, PublicKey::ElGamal { .. }) => Some("ElGamal".to_owned()),
        (_, PublicKey::ECDSA { curve: of, .. } | PublicKey::EdDSA { curve: of, .. }) => curve(of),
        (_, PublicKey::Ed448 { .. }) => Some("Ed448".to_owned()),
        // What encrypts is said to be not for signing.
        _ => None,
    }
}

/// Returns the name of something in a signature that demands to be understood and is not.
fn critical(signature: &Signature) -> Option<String> {
    let policy = StandardPolicy::new();
    let unknown = |subpacket: &&Subpacket| {
        let is_notation = matches!(subpacket.value(), SubpacketValue::NotationData(_));
        subpacket.critical() && (is_notation || policy.critical_subpacket_cutoff(subpacket.tag()).is_some())
    };
    let found = signature.hashed_area().iter().find(unknown)?;
    Some(match found.value() {
        SubpacketValue::NotationData(notation) => format!("the notation {}", notation.name()),
        _ => format!("subpacket {}", u8::from(found.tag())),
    })
}
