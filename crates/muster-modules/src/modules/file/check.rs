//! One check of one search: what a file must be like.

use super::hashes::Algorithm;
use super::parameters::{Search, inverted};
use crate::module::Refused;
use crate::pattern;
use muster_core::Timestamp;
use regex::Regex;
use std::time::Duration;

/// What a check looks at. Their order is that of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Content,
    Name,
    Size,
    Mode,
    Mtime,
    Md5,
    Sha1,
    Sha2,
    Sha3,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Name => "name",
            Self::Size => "size",
            Self::Mode => "mode",
            Self::Mtime => "mtime",
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha2 => "sha2",
            Self::Sha3 => "sha3",
        }
    }

    /// Puts `value` where a search holds values of this kind.
    pub(super) fn put(self, search: &mut Search, value: &str) {
        let values = match self {
            Self::Content => &mut search.contents,
            Self::Name => &mut search.names,
            Self::Size => &mut search.sizes,
            Self::Mode => &mut search.modes,
            Self::Mtime => &mut search.mtimes,
            Self::Md5 => &mut search.md5,
            Self::Sha1 => &mut search.sha1,
            Self::Sha2 => &mut search.sha2,
            Self::Sha3 => &mut search.sha3,
        };
        values.push(value.to_owned());
    }
}

/// What is compared.
#[derive(Debug, Clone)]
pub(super) enum Test {
    Content(Regex),
    Name(Regex),
    Mode(Regex),
    /// Bytes, both ends included.
    Size(u64, u64),
    /// Moments, both ends excluded.
    Mtime(Option<Timestamp>, Option<Timestamp>),
    Hash(Algorithm, String),
}

/// One check.
#[derive(Debug, Clone)]
pub(super) struct Check {
    pub(super) kind: Kind,
    pub(super) test: Test,
    /// The value as it was given, for the result.
    pub(super) value: String,
    /// It began with `!`.
    pub(super) inverse: bool,
    /// The search turns this kind of check round.
    pub(super) mismatch: bool,
}

impl Check {
    /// Tells whether a file is wanted that matched, or did not.
    pub(super) fn wants(&self, matched: bool) -> bool {
        matched ^ self.inverse ^ self.mismatch
    }
}

/// Makes the checks of a search.
pub(super) fn checks(search: &Search, now: Timestamp) -> Result<Vec<Check>, Refused> {
    let mut checks = Vec::new();
    let mismatch = search.options.mismatch.as_deref().unwrap_or_default();
    let mut add = |kind: Kind, value: &str, inverse: bool, test: Test| {
        let mismatch = mismatch.iter().any(|name| name == kind.name());
        checks.push(Check { kind, test, value: value.to_owned(), inverse, mismatch });
    };
    for value in &search.contents {
        let (inverse, expression) = inverted(value);
        add(Kind::Content, value, inverse, Test::Content(compile(expression)?));
    }
    for value in &search.names {
        let (inverse, expression) = inverted(value);
        add(Kind::Name, value, inverse, Test::Name(pattern::compile_name(expression).map_err(Refused)?));
    }
    for value in &search.sizes {
        let (least, most) = size(value)?;
        add(Kind::Size, value, false, Test::Size(least, most));
    }
    for value in &search.modes {
        // A leading `!` of a mode is a letter that no mode has, so that nothing matches; MIG's users invert by mismatch.
        add(Kind::Mode, value, false, Test::Mode(compile(value)?));
    }
    for value in &search.mtimes {
        let (within, length) = time(value)?;
        let then = now.minus(length);
        let (after, before) = if within { (Some(then), None) } else { (None, Some(then)) };
        add(Kind::Mtime, value, false, Test::Mtime(after, before));
    }
    for (kind, values) in
        [(Kind::Md5, &search.md5), (Kind::Sha1, &search.sha1), (Kind::Sha2, &search.sha2), (Kind::Sha3, &search.sha3)]
    {
        for value in values {
            let value = value.to_uppercase();
            let algorithm = Algorithm::of(kind, value.len())
                .ok_or_else(|| Refused(format!("Invalid hash length for hash '{value}'")))?;
            add(kind, &value, false, Test::Hash(algorithm, value.clone()));
        }
    }
    Ok(checks)
}

fn compile(expression: &str) -> Result<Regex, Refused> {
    pattern::compile(expression).map_err(Refused)
}

/// Reads a size: the least and the most bytes.
pub(super) fn size(text: &str) -> Result<(u64, u64), Refused> {
    let read = || {
        let (compare, rest) = match text.as_bytes().first()? {
            b'<' => (-1, &text[1..]),
            b'>' => (1, &text[1..]),
            _ => (0, text),
        };
        let unit = rest.chars().last().and_then(|last| "kmgt".find(last));
        let digits = if unit.is_some() { &rest[..rest.len() - 1] } else { rest };
        let power = unit.map_or(0, |unit| u32::try_from(unit).expect("one of four") + 1);
        let bytes = digits_only(digits)?.checked_mul(1024_u64.pow(power))?;
        Some(match compare {
            -1 => (0, bytes),
            1 => (bytes, u64::MAX),
            _ => (bytes, bytes),
        })
    };
    read().ok_or_else(|| {
        let form = "^(<|>)?[0-9]*(k|m|g|t)?$";
        Refused(format!("Invalid size format for size '{}'. Must match regex {form}", short(text)))
    })
}

/// Reads a time: whether it is meant as "within", and how long ago.
pub(super) fn time(text: &str) -> Result<(bool, Duration), Refused> {
    let read = || {
        let within = match text.as_bytes().first()? {
            b'<' => true,
            b'>' => false,
            _ => return None,
        };
        let seconds = match text.chars().last()? {
            'd' => 86_400,
            'h' => 3600,
            'm' => 60,
            _ => return None,
        };
        let count = digits_only(text.get(1..text.len() - 1)?)?;
        Some((within, Duration::from_secs(count.checked_mul(seconds)?)))
    };
    read().ok_or_else(|| {
        let form = "^(<|>)[0-9]*(d|h|m)$";
        Refused(format!("Invalid mtime format for mtime '{}'. Must match regex {form}", short(text)))
    })
}

fn digits_only(text: &str) -> Option<u64> {
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok())?
}

fn short(text: &str) -> String {
    text.chars().take(256).collect()
}
