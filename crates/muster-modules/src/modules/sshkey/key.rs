//! One key: its public half in the form SSH hashes, from whichever form it is kept in.

use super::der::{BIT_STRING, CONTEXT_0, CONTEXT_1, Der, INTEGER, OBJECT, OCTET_STRING, SEQUENCE};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use md5::Md5;
use sha2::{Digest as _, Sha256};

/// What is seen of a private key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Private {
    /// The public half, when it can be seen.
    pub(super) public: Option<Vec<u8>>,
    pub(super) encrypted: bool,
}

/// Curves by the bytes of their object identifiers.
const CURVES: &[(&[u8], &str)] = &[
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], "nistp256"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x22], "nistp384"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], "nistp521"),
];

/// Returns the fingerprints of a public key, as MD5 and as SHA-256, as SSH writes them.
pub(super) fn fingerprints(public: &[u8]) -> (String, String) {
    let md5: Vec<_> = Md5::digest(public).iter().map(|byte| format!("{byte:02x}")).collect();
    (md5.join(":"), format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(public))))
}

/// Reads the public key of a line, which may have options in front and a comment behind.
pub(super) fn public(line: &str) -> Option<Vec<u8>> {
    let mut words = Words(line);
    // The kind of key is the first word, or the second after options.
    for _ in 0..2 {
        let kind = words.next()?;
        let is_kind = ["ssh-", "ecdsa-", "sk-"].iter().any(|begin| kind.starts_with(begin));
        if is_kind {
            let bytes = STANDARD.decode(words.next()?).ok()?;
            let (named, rest) = string(&bytes)?;
            return (named == kind.as_bytes() && !rest.is_empty()).then_some(bytes);
        }
    }
    None
}

/// Words between blanks; blanks in quotes belong to their word.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start_matches([' ', '\t']);
        let (mut quoted, mut escaped) = (false, false);
        let end = text.find(|letter: char| {
            let ends = !quoted && matches!(letter, ' ' | '\t');
            quoted ^= letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            ends
        });
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

/// Reads a file as a private key. `None` when it is none.
pub(super) fn private(text: &str) -> Option<Private> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (kind, rest) = rest.split_once("PRIVATE KEY-----")?;
    // The beginning and the kind are in one line.
    if kind.contains('\n') {
        return None;
    }
    let body = rest.split("-----END").next().unwrap_or_default();
    let encrypted = kind.trim() == "ENCRYPTED" || body.contains("ENCRYPTED");
    if encrypted {
        return Some(Private { public: None, encrypted });
    }
    let encoded: String = body.lines().filter(|line| !line.contains(':')).map(str::trim).collect();
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    if kind.trim() == "OPENSSH" {
        return Some(openssh(&bytes).unwrap_or(Private { public: None, encrypted: false }));
    }
    let public = match kind.trim() {
        "RSA" => rsa(&bytes),
        "DSA" => dsa(&bytes),
        "EC" => ec(&bytes, None),
        _ => pkcs8(&bytes),
    };
    Some(Private { public, encrypted })
}

/// OpenSSH's own form tells the public half also of a locked key.
fn openssh(bytes: &[u8]) -> Option<Private> {
    let rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    let (cipher, rest) = string(rest)?;
    let (_derivation, rest) = string(rest)?;
    let (_options, rest) = string(rest)?;
    let (_count, rest) = rest.split_at_checked(4)?;
    let (public, _) = string(rest)?;
    Some(Private { public: Some(public.to_owned()), encrypted: cipher != b"none" })
}

fn rsa(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Der(Der(bytes).take(SEQUENCE)?);
    let [_version, modulus, exponent] = [(); 3].map(|()| fields.take(INTEGER));
    Some(blob(&[b"ssh-rsa", exponent?, modulus?]))
}

fn dsa(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Der(Der(bytes).take(SEQUENCE)?);
    let [_version, p, q, g, y] = [(); 5].map(|()| fields.take(INTEGER));
    Some(blob(&[b"ssh-dss", p?, q?, g?, y?]))
}

/// A key on a curve, which names it unless it was named around the key.
fn ec(bytes: &[u8], curve: Option<&[u8]>) -> Option<Vec<u8>> {
    let fields = Der(Der(bytes).take(SEQUENCE)?);
    let inside = || Der({ fields }.find(CONTEXT_0)?).take(OBJECT);
    let curve = curve.or_else(inside)?;
    let point = Der({ fields }.find(CONTEXT_1)?).take(BIT_STRING)?;
    let name = CURVES.iter().find(|(object, _)| *object == curve)?.1;
    let kind = format!("ecdsa-sha2-{name}");
    // The first byte of a string of bits tells how many of the last are unused: none.
    Some(blob(&[kind.as_bytes(), name.as_bytes(), point.get(1..)?]))
}

fn pkcs8(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Der(Der(bytes).take(SEQUENCE)?);
    fields.take(INTEGER)?;
    let mut algorithm = Der(fields.take(SEQUENCE)?);
    algorithm.take(OBJECT)?;
    let curve = algorithm.take(OBJECT);
    let key = fields.take(OCTET_STRING)?;
    curve.map_or_else(|| rsa(key), |curve| ec(key, Some(curve)))
}

/// Takes a string of SSH: its length in four bytes, then its bytes.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

fn blob(strings: &[&[u8]]) -> Vec<u8> {
    let mut blob = Vec::new();
    for string in strings {
        let length = u32::try_from(string.len()).expect("parts of a file of a megabyte are shorter than 4 GiB");
        blob.extend_from_slice(&length.to_be_bytes());
        blob.extend_from_slice(string);
    }
    blob
}
