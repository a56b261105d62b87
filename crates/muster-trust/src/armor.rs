//! ASCII armor, strictly: one block, nothing beside it, a checksum that fits if there is one. And MIG's form of it, where
//! a signature is one line without header and footer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Why a text is not armor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArmorError {
    /// No such block, or something beside it.
    #[error("there is not exactly one block of the kind {0:?}")]
    Block(&'static str),
    /// A line between the first one and the empty line is no header.
    #[error("a header line is malformed, or the empty line after the headers is missing")]
    Header,
    /// Not base64.
    #[error("the body is not base64")]
    Base64,
    /// Damaged on the way.
    #[error("the checksum does not fit: the text was damaged or cut")]
    Checksum,
    /// There is no data.
    #[error("it is empty")]
    Empty,
}

pub(crate) const SIGNATURE: &str = "PGP SIGNATURE";
pub(crate) const PUBLIC_KEY: &str = "PGP PUBLIC KEY BLOCK";
pub(crate) const PRIVATE_KEY: &str = "PGP PRIVATE KEY BLOCK";

/// Returns whether `text` begins with an armored block, after blanks.
pub(crate) fn is_armored(text: &str) -> bool {
    text.trim_start().starts_with("-----BEGIN ")
}

/// Returns the bytes of the one block of this kind.
pub(crate) fn decode(kind: &'static str, text: &str) -> Result<Vec<u8>, ArmorError> {
    let block = ArmorError::Block(kind);
    let mut lines = text.trim().lines().map(str::trim_end);
    if lines.next() != Some(&format!("-----BEGIN {kind}-----")) {
        return Err(block);
    }
    for line in lines.by_ref() {
        if line.is_empty() {
            let (body, last) = body(lines);
            return if last == Some(format!("-----END {kind}-----")) { decode_line(&body) } else { Err(block) };
        }
        if !line.contains(": ") {
            return Err(ArmorError::Header);
        }
    }
    Err(ArmorError::Header)
}

/// Joins the lines before the first that begins with a dash, and returns that one if it is the last of all.
fn body<'a>(lines: impl Iterator<Item = &'a str>) -> (String, Option<String>) {
    let mut body = String::new();
    let mut lines = lines.skip_while(|line| {
        let in_body = !line.starts_with('-');
        if in_body {
            body.push_str(line);
        }
        in_body
    });
    let footer = lines.next().map(str::to_owned);
    let beside = lines.next().is_some();
    drop(lines);
    (body, footer.filter(|_| !beside))
}

/// Returns the bytes of base64 with `=` and four characters of checksum after it, or without. It may be wrapped, also with
/// line breaks that were escaped once more than needed, as programs that write JSON by hand do.
pub(crate) fn decode_line(text: &str) -> Result<Vec<u8>, ArmorError> {
    let text = text.replace("\\r", "").replace("\\n", "");
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    // The last equals sign begins the checksum, unless it ends the text: then it is padding.
    let (body, checksum) = match text.rsplit_once('=') {
        Some((body, checksum)) if !checksum.is_empty() => (body, Some(checksum)),
        _ => (text.as_str(), None),
    };
    let bytes = STANDARD.decode(body).map_err(|_| ArmorError::Base64)?;
    if bytes.is_empty() {
        return Err(ArmorError::Empty);
    }
    if checksum.is_some_and(|checksum| checksum != checksum_of(&bytes)) {
        return Err(ArmorError::Checksum);
    }
    Ok(bytes)
}

/// Writes bytes as one line with a checksum, as MIG keeps signatures.
pub(crate) fn encode_line(bytes: &[u8]) -> String {
    format!("{}={}", STANDARD.encode(bytes), checksum_of(bytes))
}

/// Writes bytes as a block.
pub(crate) fn encode(kind: &str, bytes: &[u8]) -> String {
    let body = STANDARD.encode(bytes);
    let mut text = format!("-----BEGIN {kind}-----\n\n");
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + &format!("={}\n-----END {kind}-----\n", checksum_of(bytes))
}

/// The CRC-24 of RFC 9580 section 6.1, as four characters.
fn checksum_of(bytes: &[u8]) -> String {
    let mut crc: u32 = 0x00B7_04CE;
    for byte in bytes {
        crc ^= u32::from(*byte) << 16;
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x0100_0000 != 0 {
                crc ^= 0x0186_4CFB;
            }
        }
    }
    STANDARD.encode(&crc.to_be_bytes()[1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str =
        "-----BEGIN PGP SIGNATURE-----\nComment: x\n\naGVsbG8gd29ybGQ=\n=9Dr3\n-----END PGP SIGNATURE-----\n";

    fn hello() -> String {
        encode(SIGNATURE, b"hello world").replace("-----\n\n", "-----\nComment: x\n\n")
    }

    #[test]
    fn a_block_reads_back() {
        assert_eq!(decode(SIGNATURE, &hello()), Ok(b"hello world".to_vec()));
        assert_eq!(
            decode(SIGNATURE, &format!("\r\n\n{}\n\n", hello().replace('\n', "\r\n"))),
            Ok(b"hello world".to_vec())
        );
        let long: Vec<u8> = (0..=255).collect();
        let text = encode(PUBLIC_KEY, &long);
        assert!(text.lines().all(|line| line.len() <= 64));
        assert_eq!(decode(PUBLIC_KEY, &text), Ok(long));
    }

    #[test]
    fn what_stands_beside_a_block_is_refused() {
        let block = Err(ArmorError::Block(SIGNATURE));
        assert_eq!(decode(SIGNATURE, &format!("x\n{}", hello())), block);
        assert_eq!(decode(SIGNATURE, &format!("{}x\n", hello())), block);
        assert_eq!(decode(SIGNATURE, &format!("{}{}", hello(), hello())), block);
        assert_eq!(decode(SIGNATURE, &hello().replace("END PGP", "END OF PGP")), block);
        assert_eq!(decode(SIGNATURE, &hello().replace("-----END PGP SIGNATURE-----\n", "")), block);
        assert_eq!(decode(SIGNATURE, &encode(PUBLIC_KEY, b"x")), block);
        assert_eq!(decode(SIGNATURE, &hello().replace("Comment: x\n\n", "Comment: x\n")), Err(ArmorError::Header));
        assert_eq!(decode(SIGNATURE, "-----BEGIN PGP SIGNATURE-----\nComment: x"), Err(ArmorError::Header));
        assert_eq!(decode(SIGNATURE, HELLO), Err(ArmorError::Checksum));
    }

    #[test]
    fn a_line_reads_back_with_or_without_checksum_and_wrapped() {
        // The check value of this CRC for the digits 1 to 9 is 21CF02 (RFC 9580's own polynomial and start).
        assert_eq!(encode_line(b"123456789"), "MTIzNDU2Nzg5=Ic8C");
        for bytes in [&b"a"[..], b"ab", b"abc"] {
            let line = encode_line(bytes);
            assert_eq!(decode_line(&line), Ok(bytes.to_vec()), "{line}");
            assert_eq!(decode_line(&line[..4]), Ok(bytes.to_vec()), "{line}");
            assert_eq!(decode_line(&format!(" {}\n{}\n", &line[..2], &line[2..])), Ok(bytes.to_vec()));
        }
        let long: Vec<u8> = (0..200).collect();
        let block = encode(SIGNATURE, &long);
        let (_, wrapped) = block.split_once("\n\n").unwrap();
        let wrapped = wrapped.split_once("\n-----END").unwrap().0;
        let bare = wrapped.rsplit_once("\n=").unwrap().0;
        for text in [wrapped, bare] {
            for end in ["\n", "\r\n", "\\n", "\\r\\n"] {
                assert_eq!(decode_line(&text.replace('\n', end)), Ok(long.clone()), "{end:?}");
            }
        }
    }

    #[test]
    fn a_damaged_line_is_refused() {
        assert_eq!(decode_line("MTIzNDU2Nzg5=Ic8D"), Err(ArmorError::Checksum));
        assert_eq!(decode_line("MTIzNDU2Nzg5=Ic8"), Err(ArmorError::Checksum));
        assert_eq!(decode_line("MTIzNDU2Nzg5=Ic8CAAAA"), Err(ArmorError::Checksum));
        assert_eq!(decode_line("MTIzNDU2Nzg5A"), Err(ArmorError::Base64));
        assert_eq!(decode_line("MTIzNDU2Nzg5é"), Err(ArmorError::Base64));
        assert_eq!(decode_line("YR=="), Err(ArmorError::Base64), "bits beyond the last byte");
        for text in ["", " ", "=", "=AAAA"] {
            assert!(decode_line(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_block_is_told_from_a_line() {
        assert!(is_armored(&hello()));
        assert!(is_armored("\n -----BEGIN "));
        assert!(!is_armored("wsBc=Fzi+"));
    }
}
