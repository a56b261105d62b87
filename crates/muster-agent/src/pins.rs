//! The certificates that a machine's owner pinned, read as people write them down.
//!
//! Stays true: each certificate that cannot be used is named, and one of them makes all refused: whoever pinned it meant it.

use base64::Engine as _;
use muster_core::text;
use rustls_pki_types::CertificateDer;

/// The mark that editors of other systems put in front of text.
const BYTE_ORDER_MARK: &str = "\u{feff}";
const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
/// The names of a certificate in such a text.
const CERTIFICATES: [&str; 2] = ["CERTIFICATE", "X509 CERTIFICATE"];

/// Why the pinned certificates cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PinError {
    /// There is no certificate in the text.
    #[error(
        "trusted_certs holds no certificate: it must be the text from {BEGIN}CERTIFICATE{DASHES} to {END}CERTIFICATE{DASHES}, or \
         the path of a file with it"
    )]
    Empty,
    /// Some of them are none that can be pinned.
    #[error("{}", .0.join("; "))]
    Certificates(Vec<String>),
}

impl PinError {
    /// One certificate, counted from 1, cannot be used.
    pub(crate) fn one(number: usize, reason: impl std::fmt::Display) -> Self {
        Self::Certificates(vec![format!("certificate {number} of trusted_certs cannot be used: {reason}")])
    }
}

/// Reads certificates from PEM text, also when it was indented, put on one line, given `\n` for its line ends or a mark in
/// front. All that are wrong are named at once.
pub(crate) fn read_pins(pem: &str) -> Result<Vec<CertificateDer<'static>>, PinError> {
    let plain = pem.trim_start_matches(BYTE_ORDER_MARK).replace("\\r", "\n").replace("\\n", "\n");
    let (mut pins, mut wrong) = (Vec::new(), Vec::new());
    let parts = plain.split(BEGIN).skip(1);
    for (index, part) in parts.enumerate() {
        match certificate(part) {
            Ok(pin) => pins.push(pin),
            Err(reason) => wrong.push(format!("certificate {} of trusted_certs cannot be used: {reason}", index + 1)),
        }
    }
    match (pins.is_empty(), wrong.is_empty()) {
        (true, true) => Err(PinError::Empty),
        (_, false) => Err(PinError::Certificates(wrong)),
        (false, true) => Ok(pins),
    }
}

/// Reads one certificate from what follows the word BEGIN.
fn certificate(part: &str) -> Result<CertificateDer<'static>, String> {
    let cut_off = || "it has no end: the line -----END CERTIFICATE----- is missing".to_owned();
    let (name, rest) = part.split_once(DASHES).ok_or_else(cut_off)?;
    if name.contains("PRIVATE KEY") {
        return Err("it is a private key, which belongs on no other machine; give the certificate alone".to_owned());
    }
    if !CERTIFICATES.contains(&name) {
        return Err(format!("it is a {:?} and not a certificate", text::cut(name, 40)));
    }
    let (body, _) = rest.split_once(&format!("{END}{name}{DASHES}")).ok_or_else(cut_off)?;
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let der = base64::engine::general_purpose::STANDARD
        .decode(&body)
        .map_err(|_| "the text between its first and last line is not base64: was it cut or changed?".to_owned())?;
    let der = CertificateDer::from(der);
    let is_whole = matches!(x509_parser::parse_x509_certificate(&der), Ok(([], _)));
    let usable = webpki::anchor_from_trusted_cert(&der).is_ok();
    if is_whole && usable { Ok(der) } else { Err("it is not a certificate: was it cut or changed?".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca() -> String {
        rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap().cert.pem()
    }

    #[test]
    fn case_19_certificates_are_read_as_people_have_them_or_refused_by_what_is_wrong() {
        let one = ca().trim_end().replace("\r\n", "\n");
        let lines = |change: fn(&str) -> String| one.lines().map(change).collect::<String>();
        for (form, good) in [
            ("as it is", format!("{one}\n")),
            ("without a line end", one.clone()),
            ("with carriage returns", one.replace('\n', "\r\n")),
            ("indented", lines(|line| format!("   {line}\n"))),
            ("with text before", format!("subject=CN = x\n{one}\n")),
            ("on one line", one.replace('\n', " ")),
            ("with a backslash and n", one.replace('\n', "\\n")),
            ("with a byte order mark", format!("\u{feff}{one}\n")),
        ] {
            assert_eq!(read_pins(&good).map(|pins| pins.len()), Ok(1), "{form}");
        }
        assert_eq!(read_pins(&format!("{one}\n{one}\n")).unwrap().len(), 2);
        assert_eq!(read_pins(&format!("{one}{one}")).unwrap().len(), 2, "no line between");

        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (form, text, why) in [
            ("a bad one", format!("{one}\n{bad}"), "certificate 2 of trusted_certs cannot be used: it is not a"),
            ("cut off", one[..one.len() - 40].to_owned(), "has no end"),
            ("a key", key.to_owned(), "private key"),
            ("changed", one.replacen("MII", "M!I", 1), "not base64"),
            ("a placeholder", "PUT_CERTIFICATE_HERE".to_owned(), "holds no certificate"),
            ("nothing", String::new(), "holds no certificate"),
        ] {
            let error = read_pins(&text).unwrap_err().to_string();
            assert!(error.contains(why), "{form}: {error}");
        }
        // Each bad one is named.
        let error = read_pins(&format!("{bad}{one}\n{bad}{key}")).unwrap_err().to_string();
        assert!(["certificate 1 ", "certificate 3 ", "certificate 4 "].iter().all(|n| error.contains(n)), "{error}");
    }
}
