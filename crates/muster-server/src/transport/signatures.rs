//! Extra signatures over a contact: which hold, and whose they are.
//!
//! Some builds of Fleetspeak's client sign their contacts with keys of their own, such as one in a TPM. Stays true: a
//! signature counts as valid only if the key of its first certificate made it over exactly the bytes that came, and as
//! trusted only if that certificate was also issued by an authority that the configuration names; one that does not
//! hold is noted and refuses nothing, unless the configuration demands one that is trusted. Not here: how many there
//! may be and how long (muster-proto).
//!
//! What is found out travels with every message of the contact as its validation, for the services:
//!
//! | tag | value |
//! |---|---|
//! | `signature.1` | `invalid`, `valid` (whoever has the certificate's key signed) or `trusted` (an authority vouches for it) |
//! | `signature.1.certificate` | SHA-256 of the certificate in hexadecimal; missing when invalid |

use bytes::Bytes;
use muster_core::Timestamp;
use muster_proto::wire::Signature;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::public_key_to_spki;
use rustls::{RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Numbers of signature algorithms that the wire knows (those of Go's x509 package).
const ALGORITHMS: std::ops::RangeInclusive<i32> = 1..=15;

/// Who vouches for the certificates of extra signatures.
#[derive(Debug, Clone)]
pub struct Signers {
    authorities: Arc<dyn ClientCertVerifier>,
    /// Whether a contact without a trusted signature is refused.
    pub required: bool,
}

impl Signers {
    /// Reads the authorities from PEM text. The error is a reason for people.
    pub fn of_pem(pem: &[u8], required: bool) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
            roots.add(certificate).map_err(|error| format!("a certificate in it cannot be used: {error}"))?;
        }
        if roots.is_empty() {
            return Err("there is no certificate in it".into());
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crate::tls::provider());
        let authorities = builder.build().map_err(|error| format!("it cannot be used: {error}"))?;
        Ok(Self { authorities, required })
    }

    fn vouch_for(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let Some((first, others)) = chain.split_first() else { return false };
        self.authorities.verify_client_cert(first, others, now).is_ok()
    }
}

/// Why a contact is refused for its signatures.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SignatureError {
    /// An algorithm's number means nothing.
    #[error("signature algorithm {0} is not known")]
    Algorithm(i32),
    /// A certificate is none.
    #[error("a certificate of a signature cannot be read")]
    Certificate,
    /// The configuration demands a trusted one.
    #[error("not authorized: the contact carries no signature of a trusted authority")]
    Missing,
}

/// What one signature turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Invalid,
    Valid,
    Trusted,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Valid => "valid",
            Self::Trusted => "trusted",
        }
    }
}

/// Judges the extra signatures of a contact and returns the tags for its messages. Takes milliseconds when there are
/// signatures and the contact is large.
pub(super) fn judge(
    signers: Option<&Signers>,
    signatures: &[Signature],
    signed: &Bytes,
    now: Timestamp,
) -> Result<BTreeMap<String, String>, SignatureError> {
    let mut tags = BTreeMap::new();
    let mut is_trusted = false;
    for (index, signature) in signatures.iter().enumerate() {
        let verdict = judge_one(signers, signature, signed, now)?;
        is_trusted |= verdict == Verdict::Trusted;
        metrics::counter!("muster_transport_signatures_total", "verdict" => verdict.word()).increment(1);
        let name = format!("signature.{}", index + 1);
        if verdict != Verdict::Invalid {
            let certificate = hex::encode(Sha256::digest(&signature.certificate[0]));
            tags.insert(format!("{name}.certificate"), certificate);
        }
        tags.insert(name, verdict.word().to_owned());
    }
    if signers.is_some_and(|signers| signers.required) && !is_trusted {
        return Err(SignatureError::Missing);
    }
    Ok(tags)
}

fn judge_one(
    signers: Option<&Signers>,
    signature: &Signature,
    signed: &[u8],
    now: Timestamp,
) -> Result<Verdict, SignatureError> {
    if !ALGORITHMS.contains(&signature.algorithm) {
        return Err(SignatureError::Algorithm(signature.algorithm));
    }
    let chain: Vec<_> = signature.certificate.iter().map(|der| CertificateDer::from(&der[..])).collect();
    let mut parsed = Vec::with_capacity(chain.len());
    for certificate in &chain {
        parsed.push(ParsedCertificate::try_from(certificate).map_err(|_| SignatureError::Certificate)?);
    }
    let first = parsed.first().ok_or(SignatureError::Certificate)?;
    if !holds(signature, &first.subject_public_key_info(), signed) {
        return Ok(Verdict::Invalid);
    }
    let seconds = u64::try_from(now.as_nanos()).unwrap_or(0) / 1_000_000_000;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let is_trusted = signers.is_some_and(|signers| signers.vouch_for(&chain, now));
    Ok(if is_trusted { Verdict::Trusted } else { Verdict::Valid })
}

/// Whether the owner of `key` (DER SubjectPublicKeyInfo) has signed `signed`.
fn holds(signature: &Signature, key: &[u8], signed: &[u8]) -> bool {
    let Some(scheme) = scheme(signature.algorithm) else { return false };
    let Ok((_, info)) = SubjectPublicKeyInfo::from_der(key) else { return false };
    let point = &info.subject_public_key.data;
    let provider = crate::tls::provider();
    let known = provider.signature_verification_algorithms.mapping.iter().find(|(known, _)| *known == scheme);
    let algorithms = known.map_or(&[][..], |(_, algorithms)| *algorithms);
    // The wire names the hash; which curve it is, the key says.
    let fitting = algorithms.iter().find(|one| public_key_to_spki(&one.public_key_alg_id(), point).as_ref() == key);
    fitting.is_some_and(|one| one.verify_signature(point, signed, &signature.signature).is_ok())
}

/// What a number of Go's x509 package means. MD2, MD5, SHA-1 and DSA are numbers that the wire knows and that prove
/// nothing any more.
fn scheme(number: i32) -> Option<SignatureScheme> {
    Some(match number {
        4 => SignatureScheme::RSA_PKCS1_SHA256,
        5 => SignatureScheme::RSA_PKCS1_SHA384,
        6 => SignatureScheme::RSA_PKCS1_SHA512,
        10 => SignatureScheme::ECDSA_NISTP256_SHA256,
        11 => SignatureScheme::ECDSA_NISTP384_SHA384,
        12 => SignatureScheme::ECDSA_NISTP521_SHA512,
        13 => SignatureScheme::RSA_PSS_SHA256,
        14 => SignatureScheme::RSA_PSS_SHA384,
        15 => SignatureScheme::RSA_PSS_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
    const SIGNED: &[u8] = b"what the machine said";

    /// Signs as the algorithms' numbers say, with a key of either kind.
    fn sign(key: &KeyPair, scheme: SignatureScheme, bytes: &[u8]) -> Bytes {
        let der = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = crate::tls::provider().key_provider.load_private_key(der).unwrap();
        key.choose_scheme(&[scheme]).unwrap().sign(bytes).unwrap().into()
    }

    fn signature(chain: &[&CertificateDer<'_>], algorithm: i32, signature: Bytes) -> Signature {
        let certificate = chain.iter().map(|der| Bytes::copy_from_slice(der)).collect();
        Signature { certificate, algorithm, signature }
    }

    fn self_signed(key: &KeyPair) -> CertificateDer<'static> {
        CertificateParams::default().self_signed(key).unwrap().der().clone()
    }

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn issued(by: &CertifiedIssuer<'static, KeyPair>, key: &KeyPair, last_year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        params.signed_by(key, by).unwrap().der().clone()
    }

    fn verdict(signers: Option<&Signers>, signature: Signature) -> Result<String, SignatureError> {
        let tags = judge(signers, &[signature], &Bytes::from_static(SIGNED), NOW)?;
        assert_eq!(tags.contains_key("signature.1.certificate"), tags["signature.1"] != "invalid");
        Ok(tags["signature.1"].clone())
    }

    #[test]
    fn a_signature_holds_for_its_key_its_algorithm_and_its_bytes_only() {
        for (kind, scheme, number) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256, 10),
            (&rcgen::PKCS_ECDSA_P384_SHA384, SignatureScheme::ECDSA_NISTP384_SHA384, 11),
            (&rcgen::PKCS_ECDSA_P521_SHA512, SignatureScheme::ECDSA_NISTP521_SHA512, 12),
        ] {
            let (key, other) = (KeyPair::generate_for(kind).unwrap(), KeyPair::generate_for(kind).unwrap());
            let (certificate, of_other) = (self_signed(&key), self_signed(&other));
            let good = sign(&key, scheme, SIGNED);
            let ask = |chain: &[&CertificateDer<'_>], number, bytes: &Bytes| {
                verdict(None, signature(chain, number, bytes.clone()))
            };
            assert_eq!(ask(&[&certificate], number, &good).as_deref(), Ok("valid"), "{kind:?}");
            // Only the first certificate signs; what follows it is its chain.
            assert_eq!(ask(&[&of_other, &certificate], number, &good).as_deref(), Ok("invalid"));
            assert_eq!(ask(&[&certificate], number, &sign(&key, scheme, b"else")).as_deref(), Ok("invalid"));
            for wrong in (1..=15).filter(|wrong| *wrong != number) {
                assert_eq!(ask(&[&certificate], wrong, &good).as_deref(), Ok("invalid"), "{kind:?} as {wrong}");
            }
            for at in 0..good.len() {
                let mut bytes = good.to_vec();
                bytes[at] ^= 1;
                assert_eq!(ask(&[&certificate], number, &bytes.into()).as_deref(), Ok("invalid"), "{kind:?} at {at}");
            }
            assert_eq!(ask(&[&certificate], number, &Bytes::new()).as_deref(), Ok("invalid"));
        }
    }

    #[test]
    fn rsa_signs_in_both_paddings() {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let certificate = self_signed(&key);
        for (scheme, number) in [
            (SignatureScheme::RSA_PKCS1_SHA256, 4),
            (SignatureScheme::RSA_PKCS1_SHA384, 5),
            (SignatureScheme::RSA_PKCS1_SHA512, 6),
            (SignatureScheme::RSA_PSS_SHA256, 13),
            (SignatureScheme::RSA_PSS_SHA384, 14),
            (SignatureScheme::RSA_PSS_SHA512, 15),
        ] {
            let good = sign(&key, scheme, SIGNED);
            for claimed in 1..=15 {
                let want = if claimed == number { "valid" } else { "invalid" };
                let found = verdict(None, signature(&[&certificate], claimed, good.clone()));
                assert_eq!(found.as_deref(), Ok(want), "{scheme:?} as {claimed}");
            }
        }
    }

    #[test]
    fn an_authority_makes_a_valid_signature_a_trusted_one() {
        let (ours, other, key) = (authority(), authority(), KeyPair::generate().unwrap());
        let signers = Signers::of_pem(ours.pem().as_bytes(), false).unwrap();
        let scheme = SignatureScheme::ECDSA_NISTP256_SHA256;
        let ask = |chain: &[&CertificateDer<'_>], bytes: &[u8]| {
            verdict(Some(&signers), signature(chain, 10, sign(&key, scheme, bytes)))
        };
        let good = issued(&ours, &key, 2100);
        assert_eq!(ask(&[&good], SIGNED).as_deref(), Ok("trusted"));
        assert_eq!(ask(&[&good], b"else").as_deref(), Ok("invalid"));
        assert_eq!(ask(&[&issued(&other, &key, 2100)], SIGNED).as_deref(), Ok("valid"));
        assert_eq!(ask(&[&issued(&ours, &key, 2020)], SIGNED).as_deref(), Ok("valid"));
        assert_eq!(ask(&[&self_signed(&key), &good], SIGNED).as_deref(), Ok("valid"));

        let key_of_middle = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let middle = CertifiedIssuer::signed_by(params, key_of_middle, &ours).unwrap();
        let leaf = issued(&middle, &key, 2100);
        assert_eq!(ask(&[&leaf, middle.der()], SIGNED).as_deref(), Ok("trusted"));
        assert_eq!(ask(&[&leaf], SIGNED).as_deref(), Ok("valid"));
    }

    #[test]
    fn who_demands_a_trusted_signature_takes_nothing_less() {
        let (ours, key) = (authority(), KeyPair::generate().unwrap());
        let signers = Signers::of_pem(ours.pem().as_bytes(), true).unwrap();
        let scheme = SignatureScheme::ECDSA_NISTP256_SHA256;
        let trusted = signature(&[&issued(&ours, &key, 2100)], 10, sign(&key, scheme, SIGNED));
        let valid = signature(&[&self_signed(&key)], 10, sign(&key, scheme, SIGNED));
        let signed = Bytes::from_static(SIGNED);
        let ask = |signatures: &[Signature]| judge(Some(&signers), signatures, &signed, NOW);
        assert_eq!(ask(&[]), Err(SignatureError::Missing));
        assert_eq!(ask(std::slice::from_ref(&valid)), Err(SignatureError::Missing));
        let tags = ask(&[valid, trusted]).unwrap();
        assert_eq!((tags["signature.1"].as_str(), tags["signature.2"].as_str()), ("valid", "trusted"));
    }

    #[test]
    fn what_is_no_signature_at_all_refuses_the_contact() {
        let certificate = self_signed(&KeyPair::generate().unwrap());
        let bytes = Bytes::from_static(b"s");
        for number in [i32::MIN, -1, 0, 16, i32::MAX] {
            let refused = verdict(None, signature(&[&certificate], number, bytes.clone()));
            assert_eq!(refused, Err(SignatureError::Algorithm(number)));
        }
        let garbage = CertificateDer::from(&b"garbage"[..]);
        for chain in [&[&garbage][..], &[&certificate, &garbage]] {
            assert_eq!(verdict(None, signature(chain, 10, bytes.clone())), Err(SignatureError::Certificate));
        }
        for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"] {
            assert!(Signers::of_pem(pem.as_bytes(), false).is_err(), "{pem}");
        }
    }
}
