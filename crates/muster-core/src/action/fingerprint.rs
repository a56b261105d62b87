//! A key's fingerprint, in one spelling.

use std::fmt;
use std::str::FromStr;

/// The fingerprint of an OpenPGP primary key: 20 bytes (version 4) or 32 (version 6), written as upper-case hexadecimal.
///
/// People write them in lower case, in groups, with `0x` in front; all these are one value here, so that no key is
/// counted twice for being spelled twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(Vec<u8>);

/// Why a text is not a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key's fingerprint must be 40 or 64 hexadecimal digits, not {0:?}")]
pub struct FingerprintError(String);

impl Fingerprint {
    /// Takes the 20 or 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, FingerprintError> {
        if matches!(bytes.len(), 20 | 32) {
            return Ok(Self(bytes.to_vec()));
        }
        Err(FingerprintError(hex::encode(&bytes[..bytes.len().min(32)])))
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode_upper(&self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;
    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let error = || FingerprintError(text.chars().take(80).collect());
        let digits: String = text.chars().filter(|c| !matches!(c, ' ' | ':' | '\t' | '\u{a0}')).collect();
        let digits = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")).unwrap_or(&digits);
        let bytes = hex::decode(digits).map_err(|_| error())?;
        Self::from_slice(&bytes).map_err(|_| error())
    }
}

impl serde::Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Fingerprint;

    #[test]
    fn every_spelling_is_one_fingerprint() {
        let want: Fingerprint = "8894E30A79A7CC6BBDCB080E5CA8F578DCAF275C".parse().unwrap();
        for text in [
            "8894e30a79a7cc6bbdcb080e5ca8f578dcaf275c",
            "0x8894E30A79A7CC6BBDCB080E5CA8F578DCAF275C",
            "0X8894e30a79A7cc6bbdcb080e5ca8f578dcaf275c",
            "8894 E30A 79A7 CC6B BDCB  080E 5CA8 F578 DCAF 275C",
            "88:94:e3:0a:79:a7:cc:6b:bd:cb:08:0e:5c:a8:f5:78:dc:af:27:5c",
        ] {
            assert_eq!(text.parse(), Ok(want.clone()), "{text}");
        }
        assert_eq!(want.to_string(), "8894E30A79A7CC6BBDCB080E5CA8F578DCAF275C");
    }

    #[test]
    fn a_key_id_is_no_fingerprint() {
        for text in [
            "",
            "5CA8F578DCAF275C",
            "8894E30A79A7CC6BBDCB080E5CA8F578DCAF275",
            "8894E30A79A7CC6BBDCB080E5CA8F578DCAF275G",
        ] {
            assert!(text.parse::<Fingerprint>().is_err(), "{text}");
        }
    }
}
