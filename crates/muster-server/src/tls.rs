//! TLS of the agents' door: whoever has a key may come in, and proves in the handshake that it is theirs.
//!
//! Stays true: the handshake's signature is verified against the key of the certificate, by the same parser that
//! identity is read with afterwards; nothing else in the certificate matters (dates, names, issuer). Not here: whose key
//! it is and what they may do (transport, muster-engine), where the server's own certificate comes from.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme, version,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::sync::Arc;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Bits of an RSA key, at least and at most.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a certificate gives no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not an X.509 certificate.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// Its key cannot be read.
    #[error("the certificate's key cannot be read")]
    Key,
    /// Its key is of a kind or size that is not accepted.
    #[error("the certificate's key is {0}; accepted are P-256, P-384, P-521, Ed25519, and RSA from 2048 bits")]
    Kind(String),
}

/// Returns the public key of a certificate as DER SubjectPublicKeyInfo, if it is of a kind that is accepted.
pub fn certificate_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, KeyError> {
    let parsed = ParsedCertificate::try_from(certificate).map_err(|error| KeyError::Certificate(error.to_string()))?;
    let key = parsed.subject_public_key_info().as_ref().to_vec();
    key_check(&key)?;
    Ok(key)
}

/// Checks that a key (DER SubjectPublicKeyInfo) is of a kind that is accepted.
pub fn key_check(key: &[u8]) -> Result<(), KeyError> {
    let (rest, info) = SubjectPublicKeyInfo::from_der(key).map_err(|_| KeyError::Key)?;
    if !rest.is_empty() {
        return Err(KeyError::Key);
    }
    let algorithm = &info.algorithm.algorithm;
    if *algorithm == OID_SIG_ED25519 {
        return if info.subject_public_key.data.len() == 32 { Ok(()) } else { Err(KeyError::Key) };
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        return curve_check(&info);
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let Ok(PublicKey::RSA(rsa)) = info.parsed() else { return Err(KeyError::Key) };
        let bits = rsa.key_size();
        return if RSA_BITS.contains(&bits) { Ok(()) } else { Err(KeyError::Kind(format!("RSA of {bits} bits"))) };
    }
    Err(KeyError::Kind(format!("of type {algorithm}")))
}

fn curve_check(info: &SubjectPublicKeyInfo<'_>) -> Result<(), KeyError> {
    let curve: Option<Oid<'_>> = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    let Some(curve) = curve else { return Err(KeyError::Key) };
    // An uncompressed point: a byte 4 and two coordinates.
    let point_bytes = [(OID_EC_P256, 65), (OID_NIST_EC_P384, 97), (OID_NIST_EC_P521, 133)];
    let Some((_, bytes)) = point_bytes.into_iter().find(|(known, _)| *known == curve) else {
        return Err(KeyError::Kind(format!("on the curve {curve}")));
    };
    let point = &info.subject_public_key.data;
    if point.len() == bytes && point[0] == 4 { Ok(()) } else { Err(KeyError::Key) }
}

/// The one provider of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Returns the settings of the agents' door: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, a client certificate asked for and
/// not demanded, no session tickets (an agent stays connected or comes back after minutes).
pub fn agents_config(certificate: Arc<dyn ResolvesServerCert>) -> ServerConfig {
    let provider = provider();
    let verifier = AnyKey { algorithms: provider.signature_verification_algorithms };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .expect("the provider speaks both versions")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config
}

/// Accepts every certificate whose key is of an accepted kind, once its owner has signed the handshake with it.
#[derive(Debug)]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        // More than one certificate is answered over HTTP, where the reason can be told.
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match certificate_key(end_entity) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(KeyError::Kind(_)) => Err(CertificateError::ApplicationVerificationFailure.into()),
            Err(_) => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::AgentId;
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    fn certificate(key: &KeyPair) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(1, 1, 1);
        params.not_after = rcgen::date_time_ymd(1, 1, 1);
        params.self_signed(key).unwrap().der().clone()
    }

    #[test]
    fn the_key_of_a_certificate_of_year_one_is_its_owners_name() {
        let pair = KeyPair::generate().unwrap();
        let key = certificate_key(&certificate(&pair)).unwrap();
        assert_eq!(key, pair.subject_public_key_info());
        assert_eq!(AgentId::of_key(&key), AgentId::of_key(&pair.subject_public_key_info()));
    }

    #[test]
    fn s07_common_keys_are_accepted_and_weak_or_rare_ones_refused() {
        let accepted = [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ECDSA_P521_SHA512,
            &rcgen::PKCS_ED25519,
        ];
        for algorithm in accepted {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(certificate_key(&certificate(&pair)), Ok(pair.subject_public_key_info()), "{algorithm:?}");
        }
        assert_eq!(key_check(&rsa_key(2048)), Ok(()));
        assert_eq!(key_check(&rsa_key(4096)), Ok(()));
        assert!(matches!(key_check(&rsa_key(1024)), Err(KeyError::Kind(text)) if text.contains("1024")));
        assert!(matches!(key_check(&rsa_key(16384)), Err(KeyError::Kind(_))));
        // secp256k1 (1.3.132.0.10), and DSA (1.2.840.10040.4.1).
        let secp256k1 = hex::decode(format!("3056301006072a8648ce3d020106052b8104000a03420004{}", "11".repeat(64)));
        assert!(matches!(key_check(&secp256k1.unwrap()), Err(KeyError::Kind(text)) if text.contains("1.3.132.0.10")));
        let dsa = hex::decode("300f300906072a8648ce38040103020001").unwrap();
        assert!(matches!(key_check(&dsa), Err(KeyError::Kind(_))));
    }

    #[test]
    fn broken_keys_are_refused() {
        let good = KeyPair::generate().unwrap().subject_public_key_info();
        assert_eq!(key_check(&good), Ok(()));
        assert_eq!(key_check(&good[..good.len() - 1]), Err(KeyError::Key));
        assert_eq!(key_check(&[&good[..], b"x"].concat()), Err(KeyError::Key));
        assert_eq!(key_check(&[]), Err(KeyError::Key));
        let compressed =
            hex::decode(format!("3039301306072a8648ce3d020106082a8648ce3d03010703220002{}", "11".repeat(32)));
        assert_eq!(key_check(&compressed.unwrap()), Err(KeyError::Key));
        assert!(matches!(certificate_key(&CertificateDer::from(vec![0x30, 0])), Err(KeyError::Certificate(_))));
    }

    /// A key of `bits` bits in its encoding; nobody needs to own it.
    fn rsa_key(bits: usize) -> Vec<u8> {
        let der = |tag: u8, body: &[u8]| {
            let length = u16::try_from(body.len()).unwrap().to_be_bytes();
            [&[tag, 0x82][..], &length, body].concat()
        };
        let mut modulus = vec![0];
        modulus.extend(vec![0xd5; bits / 8]);
        let key = der(0x30, &[der(0x02, &modulus), vec![2, 3, 1, 0, 1]].concat());
        let algorithm = hex::decode("300d06092a864886f70d0101010500").unwrap();
        der(0x30, &[algorithm, der(0x03, &[vec![0], key].concat())].concat())
    }
}
