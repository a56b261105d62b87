//! `muster trust new revocations`: certificates of servers and authorities that machines never trust again.
//!
//! Stays true: a certificate is named by its file, its SHA-256 or its serial number, and what is signed shows each; a document
//! that leaves machines no authority is written only where that was said. Not here: what machines do with it (muster-agent).

use super::NEW;
use crate::Failure;
use crate::signing::read_file;
use muster_core::limits;
use muster_trust::document::Revocations;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Which certificates are revoked, beside those whose files are given.
#[derive(Debug, Default, clap::Args)]
pub(super) struct RevokeArgs {
    /// Revoke the certificate with this SHA-256 fingerprint, as `openssl x509 -noout -fingerprint -sha256` prints it
    #[arg(long = "fingerprint", value_name = "SHA256")]
    fingerprints: Vec<String>,
    /// Revoke each certificate with this serial number, whoever issued it, as `openssl x509 -noout -serial` prints it
    #[arg(long = "serial", value_name = "HEX")]
    serials: Vec<String>,
    /// Have machines take it even where it revokes all authorities that they trust: they reach no server again until
    /// somebody gives them another on the machine
    #[arg(long)]
    pub(super) cut_off: bool,
}

impl RevokeArgs {
    /// Whether any of it is given.
    pub(super) fn is_given(&self) -> bool {
        self.cut_off || !self.fingerprints.is_empty() || !self.serials.is_empty()
    }

    /// Writes the content of the document; `files` hold certificates. Without any certificate it takes all earlier
    /// revocations back.
    pub(super) fn content(&self, files: &[PathBuf]) -> Result<String, Failure> {
        let mut fingerprints = self.fingerprints.clone();
        for file in files {
            fingerprints.extend(fingerprints_of(file)?);
        }
        let serials: Vec<String> = self.serials.iter().map(|one| value(one).to_owned()).collect();
        let fingerprints: Vec<String> = fingerprints.iter().map(|one| value(one).to_owned()).collect();
        let revocations = Revocations::new(&serials, &fingerprints, self.cut_off);
        Ok(revocations.map_err(|error| Failure::usage(NEW, error.to_string()))?.to_json())
    }
}

/// Drops what OpenSSL writes before a number: `serial=`, `sha256 Fingerprint=`.
fn value(text: &str) -> &str {
    text.rsplit_once('=').map_or(text, |(_, value)| value).trim()
}

/// Returns the SHA-256 of each certificate in a file, in PEM or in DER.
fn fingerprints_of(file: &Path) -> Result<Vec<String>, Failure> {
    let wrong = |why: &str| {
        Failure::usage(NEW, why)
            .on(file.display())
            .next("give certificates in PEM or DER, such as the ca.pem of a server")
    };
    let bytes = read_file(NEW, file, limits::TRUST_DOCUMENT_BYTES_MAX)?;
    let mut ders = Vec::new();
    if bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        for pem in x509_parser::pem::Pem::iter_from_buffer(&bytes) {
            let pem = pem.map_err(|error| wrong(&format!("it cannot be read as PEM: {error}")))?;
            if pem.label != "CERTIFICATE" {
                return Err(wrong("it holds something that is no certificate"));
            }
            ders.push(pem.contents);
        }
    } else {
        ders.push(bytes);
    }
    let is_certificate = |der: &Vec<u8>| matches!(x509_parser::parse_x509_certificate(der), Ok(([], _)));
    if ders.is_empty() || !ders.iter().all(is_certificate) {
        return Err(wrong("it holds no certificate, or something that is none"));
    }
    Ok(ders.iter().map(|der| hex::encode(Sha256::digest(der))).collect())
}

/// Says what a document revokes, one line for each certificate.
pub(super) fn lines(revocations: &Revocations) -> Vec<String> {
    let serials =
        revocations.serials().map(|serial| format!("never trusted again: serial {serial}, whoever issued it"));
    let prints = revocations.fingerprints().map(|print| format!("never trusted again: SHA-256 {print}"));
    let mut lines: Vec<String> = serials.chain(prints).collect();
    if lines.is_empty() {
        lines.push("nothing is revoked: what an earlier document revoked is trusted again".to_owned());
    }
    if revocations.cuts_off() {
        lines.push("machines take it even where they reach no server any more after it".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate that OpenSSL made, and its SHA-256 as OpenSSL prints it.
    const PEM: &str = include_str!("revoked.pem");
    const FINGERPRINT: &str = include_str!("revoked.sha256");

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn certificates_are_revoked_by_file_fingerprint_or_serial() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, PEM).unwrap();
        let by_file = RevokeArgs::default().content(std::slice::from_ref(&path)).unwrap();
        let by_print = RevokeArgs { fingerprints: texts(&[FINGERPRINT]), ..RevokeArgs::default() };
        assert_eq!(by_print.content(&[]).unwrap(), by_file);
        let der = x509_parser::pem::parse_x509_pem(PEM.as_bytes()).unwrap().1.contents;
        std::fs::write(&path, &der).unwrap();
        assert_eq!(RevokeArgs::default().content(std::slice::from_ref(&path)).unwrap(), by_file);
        let all = RevokeArgs { serials: texts(&["serial=0A1B"]), cut_off: true, ..RevokeArgs::default() };
        let json: serde_json::Value = serde_json::from_str(&all.content(&[path]).unwrap()).unwrap();
        assert_eq!((&json["serials"][0], &json["cuts_off"]), (&"0a1b".into(), &true.into()));
        assert_eq!(json["fingerprints"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_certificate_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (text, why) in
            [("x", "no certificate"), ("", "no certificate"), (key, "no certificate"), (&PEM[..90], "PEM")]
        {
            std::fs::write(&path, text).unwrap();
            let failure = RevokeArgs::default().content(std::slice::from_ref(&path)).unwrap_err();
            assert!(failure.why.contains(why) && failure.on.ends_with('x'), "{text:?}: {failure}");
        }
    }
}
