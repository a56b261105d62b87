//! What an agent of the original is on the wire: a P-256 key and a certificate it signed itself, dated in the year 1.

use anyhow::{Context, Result};
use muster_core::AgentId;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use std::sync::Arc;

/// A machine's key with its certificate, ready to connect.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The id that follows from the key.
    pub id: AgentId,
    /// How it connects.
    pub tls: Arc<ClientConfig>,
}

impl Identity {
    /// Draws a new key.
    pub fn fresh() -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("drawing a P-256 key")?;
        let (id, certificate) = certificate(&key)?;
        Self::with(id, vec![certificate], &key)
    }

    /// Shows no certificate at all; its id is none that anybody has.
    pub fn anonymous() -> Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("choosing TLS versions")?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
            .with_no_client_auth();
        Ok(Self { id: AgentId::from_bytes([0; 8]), tls: Arc::new(tls) })
    }

    /// Shows `chain` and signs with `key`, whether they belong together or not.
    pub fn with(id: AgentId, chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = provider.key_provider.load_private_key(secret).context("loading the key")?;
        let shown = Arc::new(rustls::sign::CertifiedKey::new(chain, signer));
        let mut tls = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("choosing TLS versions")?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
        tls.resumption = rustls::client::Resumption::disabled();
        Ok(Self { id, tls: Arc::new(tls) })
    }
}

/// Makes the certificate of a key and says its id.
pub fn certificate(key: &KeyPair) -> Result<(AgentId, CertificateDer<'static>)> {
    let id = AgentId::of_key(&rcgen::PublicKeyData::subject_public_key_info(key));
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, id.to_string());
    params.serial_number = Some(1_u64.into());
    params.not_before = rcgen::date_time_ymd(1, 1, 1);
    params.not_after = rcgen::date_time_ymd(1, 1, 1);
    let certificate = params.self_signed(key).context("signing the certificate")?;
    Ok((id, certificate.der().clone()))
}

/// Takes any server that owns the key it shows. Whether agents check the server's name is tested with real agents;
/// here it would only keep the load program from driving the original, whose certificates claim to be authorities.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_the_one_the_original_makes() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let (id, der) = certificate(&key).unwrap();
        let has = |part: &[u8]| der.windows(part.len()).any(|window| window == part);
        assert!(has(b"00010101000000Z"), "not dated in the year 1");
        assert!(has(id.to_string().as_bytes()));
        assert!((280..320).contains(&der.len()), "{} bytes", der.len());
    }
}
