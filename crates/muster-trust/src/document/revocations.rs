//! Certificates that administrators revoke for good.
//!
//! Stays true: what is written is what is compared, byte for byte; a certificate is named by its whole fingerprint, or by its
//! serial number whoever issued it. Not here: certificates themselves, and what follows on a machine (muster-agent).

use super::DocumentError;
use muster_core::limits;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// Bytes of a certificate's serial number (RFC 5280: 20), and a few more for those who do not keep to it.
const SERIAL_BYTES_MAX: usize = 32;

/// Certificates of servers and authorities that a machine never trusts again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    serials: BTreeSet<Vec<u8>>,
    fingerprints: BTreeSet<[u8; 32]>,
    cuts_off: bool,
}

#[derive(serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    serials: Vec<String>,
    #[serde(default)]
    fingerprints: Vec<String>,
    #[serde(default)]
    cuts_off: bool,
}

impl Revocations {
    /// Takes serial numbers and SHA-256 fingerprints, both in hexadecimal as people have them: capitals and colons between
    /// bytes are passed over. `cuts_off`: machines take it even where it leaves them no authority that they trust.
    pub fn new(serials: &[String], fingerprints: &[String], cuts_off: bool) -> Result<Self, DocumentError> {
        let have = serials.len() + fingerprints.len();
        if have > limits::REVOCATIONS_MAX {
            return Err(DocumentError::TooManyRevocations { have });
        }
        let wrong = |what: &str, text: &str| {
            let text = muster_core::text::cut(text, 100);
            DocumentError::Revocation(format!("{text:?} is no {what}"))
        };
        let serial = |text: &String| {
            let bytes = bytes_of(text).filter(|bytes| bytes.len() <= SERIAL_BYTES_MAX);
            let serial = bytes.map(|bytes| significant(&bytes).to_vec()).filter(|serial| !serial.is_empty());
            serial.ok_or_else(|| wrong("serial number of a certificate, in hexadecimal", text))
        };
        let fingerprint = |text: &String| {
            let bytes = bytes_of(text).and_then(|bytes| bytes.try_into().ok());
            bytes.ok_or_else(|| wrong("SHA-256 of a certificate, in hexadecimal", text))
        };
        Ok(Self {
            serials: serials.iter().map(serial).collect::<Result<_, _>>()?,
            fingerprints: fingerprints.iter().map(fingerprint).collect::<Result<_, _>>()?,
            cuts_off,
        })
    }

    pub(super) fn parse(json: &str) -> Result<Self, DocumentError> {
        // An object and no list, which would be taken for one without members.
        let content = serde_json::from_str(json).and_then(|object: serde_json::Map<_, _>| {
            serde_json::from_value::<Content>(serde_json::Value::Object(object))
        });
        let content = content.map_err(|error| DocumentError::Malformed(error.to_string()))?;
        Self::new(&content.serials, &content.fingerprints, content.cuts_off)
    }

    /// Writes it as the content of a document.
    pub fn to_json(&self) -> String {
        let content = Content {
            serials: self.serials().collect(),
            fingerprints: self.fingerprints().collect(),
            cuts_off: self.cuts_off,
        };
        serde_json::to_string(&content).expect("texts can always be written as JSON")
    }

    /// Whether it names the certificate with this serial number, as it stands in DER, and this whole encoding.
    pub fn names(&self, serial: &[u8], der: &[u8]) -> bool {
        let fingerprint: [u8; 32] = Sha256::digest(der).into();
        self.serials.contains(significant(serial)) || self.fingerprints.contains(&fingerprint)
    }

    /// The serial numbers, in hexadecimal.
    pub fn serials(&self) -> impl Iterator<Item = String> {
        self.serials.iter().map(hex::encode)
    }

    /// The SHA-256 fingerprints, in hexadecimal.
    pub fn fingerprints(&self) -> impl Iterator<Item = String> {
        self.fingerprints.iter().map(hex::encode)
    }

    /// How many serial numbers and fingerprints it names.
    pub fn len(&self) -> usize {
        self.serials.len() + self.fingerprints.len()
    }

    /// Whether it names none: then whatever an earlier one revoked is trusted again.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a machine takes it even where it leaves no authority that the machine trusts.
    pub fn cuts_off(&self) -> bool {
        self.cuts_off
    }
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let digits = text.replace(':', "");
    let whole = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits };
    hex::decode(whole).ok()
}

/// Drops the leading zeros that DER puts before a number's high bit.
fn significant(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    &serial[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn certificates_are_named_as_people_write_them_and_read_back_the_same() {
        let fingerprint = hex::encode_upper(Sha256::digest(b"der"));
        let with_colons = fingerprint.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).unwrap());
        let with_colons = with_colons.collect::<Vec<_>>().join(":");
        let serials = texts(&["00C0:FF:EE", "c0ffee", "7"]);
        let named = Revocations::new(&serials, &[with_colons, fingerprint], false).unwrap();
        assert_eq!((named.len(), named.is_empty(), named.cuts_off()), (3, false, false));
        assert!(named.names(&[0, 0xc0, 0xff, 0xee], b"x") && named.names(&[7], b"x") && named.names(&[1], b"der"));
        assert!(!named.names(&[0x70], b"x") && !named.names(&[], b"x") && !named.names(&[0], b"x"));
        assert_eq!(Revocations::parse(&named.to_json()), Ok(named));
        let all = Revocations::new(&[], &[], true).unwrap();
        assert_eq!(Revocations::parse(&all.to_json()), Ok(all));
        assert_eq!(Revocations::parse("{}"), Ok(Revocations::default()));
    }

    #[test]
    fn what_names_no_certificate_is_refused() {
        for serial in ["", "0", "00:00", "xy", "serial=7", &"1".repeat(66)] {
            let error = Revocations::new(&texts(&[serial]), &[], false).unwrap_err();
            assert!(matches!(error, DocumentError::Revocation(_)), "{serial}");
        }
        for fingerprint in ["", "12", &"g".repeat(64), &"1".repeat(66)] {
            let error = Revocations::new(&[], &texts(&[fingerprint]), false).unwrap_err();
            assert!(error.to_string().contains("SHA-256"), "{error}");
        }
        let many = vec!["7".to_owned(); limits::REVOCATIONS_MAX + 1];
        let error = Revocations::new(&many, &[], false).unwrap_err();
        assert!(matches!(error, DocumentError::TooManyRevocations { .. }));
        assert!(Revocations::new(&many[1..], &[], false).is_ok());
        for json in ["[]", r#"{"serial":["7"]}"#, r#"{"serials":"7"}"#] {
            assert!(Revocations::parse(json).is_err(), "{json}");
        }
    }
}
