//! What modules share that list things of a machine: choosing by expressions, a ceiling for what is named, and what is
//! said of rows that cannot be read.
//!
//! Stays true: text that is not UTF-8 is matched and shown, a letter for each byte that is none; a row that cannot be read
//! costs itself, and is counted and named.

use crate::module::Refused;
use crate::pattern;
use muster_core::limits::{MODULE_FOUND_MAX, SEARCH_VALUES_MAX};
use regex::Regex;
use serde::Serialize;
use std::borrow::Cow;
use std::path::Path;

/// Expressions of which one must match; none given: everything does. A leading `!` turns an expression round.
#[derive(Debug)]
pub(super) struct Wanted(Vec<(bool, Regex)>);

impl Wanted {
    pub(super) fn new(expressions: &[String]) -> Result<Self, Refused> {
        if expressions.len() > SEARCH_VALUES_MAX {
            return Err(Refused(format!("there are more than {SEARCH_VALUES_MAX} values of one kind")));
        }
        expressions.iter().map(|expression| one(expression)).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn wants(&self, text: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|(inverse, regex)| regex.is_match(text) != *inverse)
    }

    /// Tells whether bytes are wanted that may be no text: as [`shown`] writes them, or with each byte that is no letter
    /// taken for the letter of Latin-1, so that `\xe9` and `é` find the byte 0xE9.
    pub(super) fn wants_bytes(&self, bytes: &[u8]) -> bool {
        self.0.is_empty() || self.0.iter().any(|(inverse, regex)| matches_bytes(regex, bytes) != *inverse)
    }
}

/// Tells whether an expression matches bytes that may be no text: as [`shown`] writes them, or with each byte that is no
/// letter taken for that of Latin-1.
pub(super) fn matches_bytes(regex: &Regex, bytes: &[u8]) -> bool {
    let shown = shown(bytes);
    regex.is_match(&shown) || (matches!(shown, Cow::Owned(_)) && regex.is_match(&letters(bytes, char::from)))
}

/// Returns bytes as text, with U+FFFD for each byte that belongs to no letter, as Go reads them.
pub(crate) fn shown(bytes: &[u8]) -> Cow<'_, str> {
    let whole = std::str::from_utf8(bytes).map(Cow::Borrowed);
    whole.unwrap_or_else(|_| Cow::Owned(letters(bytes, |_| char::REPLACEMENT_CHARACTER)))
}

fn letters(bytes: &[u8], odd: impl Fn(u8) -> char) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().copied().map(&odd));
    }
    text
}

fn one(expression: &str) -> Result<(bool, Regex), Refused> {
    if expression.is_empty() {
        return Err(Refused("Empty values are not permitted".to_owned()));
    }
    let (inverse, expression) = match expression.strip_prefix('!') {
        Some(rest) if !rest.is_empty() => (true, rest),
        _ => (false, expression),
    };
    let invalid = |why| {
        let shown: String = expression.chars().take(256).collect();
        Refused(format!("Invalid regexp '{shown}'. Must be a regexp. Compilation failed with '{why}'"))
    };
    pattern::compile_name(expression).map(|regex| (inverse, regex)).map_err(invalid)
}

/// Bytes of JSON that what is named may take. What hosts a module takes 8 MiB of answer, and nothing of a longer one.
const NAMED_BYTES_MAX: usize = 6 * 1024 * 1024;

/// Keeps as many as may be named, and returns what is said of the others: nothing when there are none.
pub(super) fn at_most<T: Serialize>(found: &mut Vec<T>) -> Option<String> {
    let mut bytes = 0_usize;
    let mut fits = |one: &T| {
        bytes += serde_json::to_string(one).map_or(0, |json| json.len() + 1);
        bytes <= NAMED_BYTES_MAX
    };
    let most = found.iter().take(MODULE_FOUND_MAX).take_while(|one| fits(one)).count();
    let more = found.len() - most;
    found.truncate(most);
    (more > 0).then(|| format!("{more} more were found and are not named: ask for fewer"))
}

/// Rows of a table that could not be read: all are counted, the first are named by the numbers of their lines.
#[derive(Debug, Default)]
pub(super) struct Unread {
    first: Vec<usize>,
    count: usize,
}

impl Unread {
    /// Lines that are named, at most.
    const NAMED_MAX: usize = 10;

    /// Returns what was left out when these lines were.
    pub(super) fn of(lines: &[usize]) -> Self {
        let mut unread = Self::default();
        for line in lines {
            unread.add(*line);
        }
        unread
    }

    /// Counts a row; `line` counts from 1.
    pub(super) fn add(&mut self, line: usize) {
        self.count += 1;
        if self.first.len() < Self::NAMED_MAX {
            self.first.push(line);
        }
    }

    /// Says how many of the rows of `table` were left out; nothing when all were read.
    pub(super) fn told(&self, table: &Path, rows: usize) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let lines: Vec<_> = self.first.iter().map(usize::to_string).collect();
        let were = if self.count == 1 { "was" } else { "were" };
        let line = if self.count == 1 { "line" } else { "lines" };
        let more = if self.count > self.first.len() { ", and more" } else { "" };
        let (table, count, lines) = (table.display(), self.count, lines.join(", "));
        Some(format!("{table}: {count} of {rows} rows could not be read and {were} left out: {line} {lines}{more}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(expression: &str) -> Wanted {
        Wanted::new(&[expression.to_owned()]).unwrap()
    }

    #[test]
    fn bytes_that_are_no_text_are_matched_and_shown() {
        let bytes = b"evil-\xe9";
        assert_eq!(shown(bytes), "evil-\u{fffd}");
        for (expression, want) in [
            ("^evil", true),
            ("^evil-.$", true),
            ("\\xe9$", true),
            ("é", true),
            ("!é", false),
            ("!^evil", false),
            ("x", false),
        ] {
            assert_eq!(wanted(expression).wants_bytes(bytes), want, "{expression}");
        }
        assert!(wanted("^caf.$").wants_bytes("café".as_bytes()) && !wanted("Ã").wants_bytes("café".as_bytes()));
    }

    #[test]
    fn rows_left_out_are_counted_and_the_first_are_named() {
        let (table, mut unread) = (Path::new("/t"), Unread::default());
        assert_eq!(unread.told(table, 3), None);
        unread.add(2);
        assert_eq!(unread.told(table, 3).unwrap(), "/t: 1 of 3 rows could not be read and was left out: line 2");
        (3..30).for_each(|line| unread.add(line));
        let told = unread.told(table, 99).unwrap();
        let want =
            "/t: 28 of 99 rows could not be read and were left out: lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, and more";
        assert_eq!(told, want);
    }
}
