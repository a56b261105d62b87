//! The token that lets a machine enrol, as a person gives it to `muster agent config`.
//!
//! Stays true: what is written into a configuration has the form of a token; whatever else was given, a key above all, is
//! neither written nor shown. Not here: whether the server knows the token.

use crate::Failure;
use crate::signing::read_file;
use std::path::Path;

const WHAT: &str = "could not take the enrolment token";
/// What every token begins with.
const PREFIX: &str = "muster_";
/// Hexadecimal digits of a token, in lower case.
const DIGITS: usize = 64;
/// Bytes of a file with a token. One has a line of 71 bytes, and people add blanks.
const FILE_BYTES_MAX: usize = 4096;

/// Reads a token: the text itself, or `@FILE` for the only line of a file.
///
/// # Errors
/// What it is instead, and where tokens come from.
pub(super) fn token(given: &str) -> Result<String, Failure> {
    let Some(path) = given.strip_prefix('@') else {
        return parse(given).map_err(|why| refused(why).on("--enrol-token"));
    };
    let bytes = read_file(WHAT, Path::new(path), FILE_BYTES_MAX).map_err(|failure| failure.next(FROM))?;
    let text = String::from_utf8(bytes).map_err(|_| "it is no text".to_owned());
    text.and_then(|text| parse(&text)).map_err(|why| refused(why).on(path))
}

/// Where tokens come from.
pub(super) const FROM: &str =
    "give the file that `muster enrol-token create NAME > FILE` wrote, or the line that it printed";

fn refused(why: String) -> Failure {
    Failure::usage(WHAT, why).next(FROM)
}

fn parse(text: &str) -> Result<String, String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
    let token = text.trim();
    if token.is_empty() {
        return Err("it is empty".to_owned());
    }
    if token.contains("-----BEGIN") {
        return Err("it is a key or a certificate (PEM), and no token".to_owned());
    }
    if lines > 1 {
        return Err(format!("it has {lines} lines, and a token is one"));
    }
    let digits = token.strip_prefix(PREFIX).unwrap_or_default();
    let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != DIGITS || !digits.bytes().all(is_digit) {
        return Err(format!("a token is {PREFIX} and {DIGITS} hexadecimal digits in lower case, and this is not"));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_from_a_line_or_a_file_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let right = format!("{PREFIX}{}", "0123456789abcdef".repeat(4));
        let file = |text: &str| {
            let path = dir.path().join("token");
            std::fs::write(&path, text).unwrap();
            format!("@{}", path.display())
        };
        for given in [right.clone(), file(&right), file(&format!("{right}\n")), file(&format!("\n {right}\r\n\n"))] {
            assert_eq!(token(&given).unwrap(), right, "{given}");
        }
        let pem = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        for (text, word) in [
            ("", "empty"),
            (" \n", "empty"),
            (pem, "PEM"),
            ("hunter2", "64 hexadecimal digits"),
            (&right[..70], "64 hexadecimal digits"),
            (&right.to_uppercase(), "64 hexadecimal digits"),
            (&format!("{right}x"), "64 hexadecimal digits"),
            (&format!("{right}\n{right}"), "2 lines"),
        ] {
            for given in [text.to_owned(), file(text)] {
                let failure = token(&given).unwrap_err();
                assert!(failure.why.contains(word) && failure.next.contains("enrol-token create"), "{text}: {failure}");
                let shown = failure.to_string();
                assert!(
                    !shown.contains("hunter2") && !shown.contains("c2VjcmV0") && !shown.contains("0123"),
                    "{shown}"
                );
            }
        }
        std::fs::write(dir.path().join("large"), vec![b'm'; 1024 * 1024]).unwrap();
        let large = token(&format!("@{}", dir.path().join("large").display())).unwrap_err();
        assert!(large.why.contains("4096 bytes"), "{large}");
        std::fs::write(dir.path().join("binary"), [0xff, 0xfe]).unwrap();
        assert!(token(&format!("@{}", dir.path().join("binary").display())).unwrap_err().why.contains("no text"));
        assert!(token(&format!("@{}", dir.path().join("none").display())).is_err());
    }
}
