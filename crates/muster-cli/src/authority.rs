//! The certificates by which a machine knows its servers: the one datum of a machine's configuration that a server may
//! name.
//!
//! Stays true: what is handed on was parsed here and is written out of what was parsed, so that nothing else rides along;
//! whoever uses it can show a person the fingerprints to compare.

use crate::output::safe;
use crate::{Context, Failure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::path::Path;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const WHAT: &str = "could not read the authority's certificate";
/// Bytes of a file, or of a server's answer, with certificates.
const PEM_BYTES_MAX: usize = 256 * 1024;
/// Certificates that one machine is given: an authority and those that follow it.
const CERTIFICATES_MAX: usize = 8;
/// Characters of a line of PEM.
const PEM_LINE: usize = 64;

/// Certificates that machines are to believe.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    certificates: Vec<Trusted>,
}

/// One of them, as people see it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Trusted {
    /// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` prints it.
    pub(crate) sha256: String,
    /// Whose it is, by its own word.
    pub(crate) subject: String,
    /// When it ends.
    pub(crate) not_after: String,
    #[serde(skip)]
    der: Vec<u8>,
}

impl Authority {
    /// Reads them from a file.
    pub(crate) fn of_file(path: &Path) -> Result<Self, Failure> {
        let pem = crate::signing::read_file(WHAT, path, PEM_BYTES_MAX)?;
        Self::parse(&pem).map_err(|why| Failure::usage(WHAT, why).on(path.display()))
    }

    /// Asks the server for them, and for nothing else.
    pub(crate) async fn of_server(context: &Context) -> Result<Self, Failure> {
        let mut pieces = context.api.lines(WHAT, &["agent-trust"], &()).await?.bytes_stream();
        let failed = |why: String| Failure::new(crate::Exit::Failed, WHAT, why).on(context.api.url());
        let mut pem = Vec::new();
        while let Some(piece) = pieces.next().await {
            pem.extend_from_slice(&piece.map_err(|error| failed(crate::failure::chain(&error)))?);
            if pem.len() > PEM_BYTES_MAX {
                return Err(failed(format!("the answer has more than {PEM_BYTES_MAX} bytes")));
            }
        }
        Self::parse(&pem).map_err(|why| failed(why).next("is it really your server? or give the file: --ca-file"))
    }

    fn parse(pem: &[u8]) -> Result<Self, String> {
        let mut certificates = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem) {
            let der = der.map_err(|error| format!("it is no PEM: {error}"))?;
            certificates.push(Trusted::parse(&der)?);
        }
        match certificates.len() {
            0 => Err("it holds no certificate in PEM form".to_owned()),
            1..=CERTIFICATES_MAX => Ok(Self { certificates }),
            many => Err(format!("it holds {many} certificates, at most {CERTIFICATES_MAX} are taken")),
        }
    }

    /// Refuses certificates that are not among those that somebody `expected`. Nothing expected: every one will do.
    pub(crate) fn expect(&self, expected: &[String]) -> Result<(), Failure> {
        let bare = |text: &str| text.replace(':', "").to_ascii_lowercase();
        let is_expected = |one: &&Trusted| expected.iter().any(|wanted| bare(wanted) == bare(&one.sha256));
        match self.certificates.iter().find(|one| !expected.is_empty() && !is_expected(one)) {
            None => Ok(()),
            Some(other) => Err(Failure::new(
                crate::Exit::Failed,
                "this is not the authority that you expect",
                format!("its certificate has the SHA-256 {}", other.sha256),
            )
            .on(safe(&other.subject))
            .next("nothing was written; who answered may not be your server")),
        }
    }

    /// Returns them for people and programs.
    pub(crate) fn certificates(&self) -> &[Trusted] {
        &self.certificates
    }

    /// Returns them as PEM, written from what was parsed.
    pub(crate) fn pem(&self) -> String {
        self.certificates.iter().map(|one| pem(&one.der)).collect()
    }
}

impl Trusted {
    fn parse(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("it holds what is no certificate: {error}"))?;
        if !rest.is_empty() {
            return Err("bytes follow a certificate in it".to_owned());
        }
        let digest = Sha256::digest(der);
        let pairs: Vec<_> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        let ends = certificate.validity().not_after.timestamp();
        Ok(Self {
            sha256: pairs.join(":"),
            subject: certificate.subject().to_string(),
            not_after: muster_core::Timestamp::from_secs(ends).to_string(),
            der: der.to_vec(),
        })
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(PEM_LINE) {
        let _ = writeln!(pem, "{}", String::from_utf8_lossy(line));
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A certificate that OpenSSL made.
    pub(crate) const CA: &str = include_str!("authority/ca.pem");
    const SHA256: &str = include_str!("authority/ca.sha256");

    #[test]
    fn what_is_handed_on_is_the_certificate_and_nothing_beside_it() {
        let around = format!("services_dir = \"/planted\"\n{CA}\n'''\nmodules_file = \"x\"\n");
        let authority = Authority::parse(around.as_bytes()).unwrap();
        assert_eq!(authority.pem().trim(), CA.trim());
        assert_eq!(authority.certificates()[0].sha256, SHA256.trim());
        assert!(authority.certificates()[0].subject.contains("Muster"), "{authority:?}");
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for wrong in ["", "x", garbage, &CA.repeat(9)] {
            assert!(Authority::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn another_authority_than_the_expected_one_is_refused() {
        let authority = Authority::parse(CA.as_bytes()).unwrap();
        authority.expect(&[]).unwrap();
        authority.expect(&[SHA256.trim().to_owned()]).unwrap();
        authority.expect(&[SHA256.trim().replace(':', "").to_lowercase()]).unwrap();
        assert!(authority.expect(&["00".repeat(32)]).unwrap_err().why.contains(SHA256.trim()));
    }
}
