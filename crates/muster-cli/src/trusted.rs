//! Whose certificates are believed where a file says it: authorities, and servers' own certificates.
//!
//! Stays true: a server is believed whose certificate is signed by one in the file, or stands in the file itself, also when
//! it is that of an authority, as those are that `openssl req -x509` makes; either way its dates and its name must be right.

use crate::Failure;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// Returns settings of TLS by which only what the file at `path` holds is believed.
pub(crate) fn only(what: &str, path: &Path) -> Result<ClientConfig, Failure> {
    let pem = std::fs::read(path).map_err(|error| Failure::local(what, path.display(), &error))?;
    let wrong =
        |why: String| Failure::usage(what, why).on(path.display()).next("give a file of certificates in PEM form");
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(format!("it cannot be read as PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(wrong("it holds no certificate in PEM form".to_owned()));
    }
    let verifier = Verifier::new(certificates).map_err(wrong)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| wrong(error.to_string()))?;
    let verifier = Arc::new(verifier);
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Verifier {
    /// What is believed as it stands.
    own: Vec<CertificateDer<'static>>,
    signed: Arc<WebPkiServerVerifier>,
}

impl Verifier {
    fn new(own: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in &own {
            roots.add(certificate.clone()).map_err(|error| error.to_string())?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self { own, signed: signed.map_err(|error| error.to_string())? })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.own.iter().any(|own| own == end_entity) {
            return self.signed.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        in_date(end_entity, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

fn in_date(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    /// A certificate as `openssl req -x509` makes it: its own authority.
    fn made(name: &str, is_authority: bool) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        if is_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        (params.self_signed(&key).unwrap(), key)
    }

    #[test]
    fn a_self_signed_certificate_in_the_file_is_believed_for_its_name_and_time() {
        let at = |year: u64| {
            UnixTime::since_unix_epoch(std::time::Duration::from_secs((year - 1970) * 31_557_600 + 86_400 * 30))
        };
        let (other, _) = made("muster.example", true);
        for is_authority in [true, false] {
            let (certificate, _) = made("muster.example", is_authority);
            let verifier = Verifier::new(vec![certificate.der().clone()]).unwrap();
            let verify = |der: &CertificateDer<'_>, name: &str, year: u64| {
                let name = ServerName::try_from(name.to_owned()).unwrap();
                verifier.verify_server_cert(der, &[], &name, &[], at(year)).map(drop)
            };
            let der = certificate.der();
            assert_eq!(verify(der, "muster.example", 2030), Ok(()), "as an authority: {is_authority}");
            assert!(verify(der, "other.example", 2030).is_err());
            assert_eq!(verify(der, "muster.example", 2041), Err(CertificateError::Expired.into()));
            assert_eq!(verify(der, "muster.example", 2019), Err(CertificateError::NotValidYet.into()));
            assert!(verify(other.der(), "muster.example", 2030).is_err(), "another's of the same name");
        }
    }

    #[test]
    fn what_the_file_signed_is_believed_and_what_holds_no_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, made("x", true).0.pem()).unwrap();
        assert!(only("try", &path).is_ok());
        for text in ["", "hello", "-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(only("try", &path).is_err(), "{text}");
        }
        assert!(only("try", &dir.path().join("none")).is_err());
    }
}
