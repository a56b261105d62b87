//! Text protos of a newer program: what this one does not know is taken out before the text is read, and named.
//!
//! Stays true: only whole fields are taken out, and lines stay where they were; a text that cannot be followed is left as
//! it is, so that the strict reader says what is wrong with it.

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use std::ops::Range;

/// Messages inside each other that are followed; what lies deeper is left to the strict reader.
const DEPTH_MAX: usize = 32;
/// Changes of letters by which a type's name may be misspelt to be known all the same.
const MISSPELT_MAX: usize = 2;

/// A text without what is not known, and what that was.
pub(super) struct Known {
    pub(super) text: String,
    pub(super) notes: Vec<String>,
}

/// Takes out of `text`, a message of the type `descriptor`, what is not known.
pub(super) fn known(pool: &DescriptorPool, descriptor: &MessageDescriptor, text: &str) -> Known {
    let mut walk = Walk { pool, text, at: 0, changes: Vec::new(), notes: Vec::new() };
    if walk.fields(Some(descriptor), None, 0).is_none() {
        return Known { text: text.to_owned(), notes: Vec::new() };
    }
    let (notes, mut out) = (walk.notes, text.to_owned());
    for (range, new) in walk.changes.into_iter().rev() {
        // Lines keep their numbers, which errors name.
        let kept: String = out[range.clone()].chars().filter(|c| *c == '\n').collect();
        out.replace_range(range, &format!("{new}{kept}"));
    }
    Known { text: out, notes }
}

struct Walk<'a> {
    pool: &'a DescriptorPool,
    text: &'a str,
    at: usize,
    changes: Vec<(Range<usize>, String)>,
    notes: Vec<String>,
}

impl<'a> Walk<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Skips blanks and comments; returns what comes next.
    fn peek(&mut self) -> Option<char> {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            let rest = self.rest();
            if !rest.starts_with('#') {
                return rest.chars().next();
            }
            self.at += rest.find('\n').unwrap_or(rest.len());
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        let is_there = self.peek() == Some(wanted);
        self.at += if is_there { wanted.len_utf8() } else { 0 };
        is_there
    }

    /// Takes letters, digits and what numbers and names hold besides.
    fn word(&mut self) -> Option<&'a str> {
        self.peek()?;
        let rest = self.rest();
        let is_of_word = |c: char| c.is_alphanumeric() || "_.+-".contains(c);
        let length = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
        self.at += length;
        (length > 0).then(|| &rest[..length])
    }

    fn string(&mut self) -> Option<()> {
        let quote = self.peek().filter(|c| matches!(c, '"' | '\''))?;
        let mut escaped = false;
        for (at, c) in self.rest().char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == quote => {
                    self.at += at + 1;
                    return Some(());
                }
                _ => {}
            }
        }
        None
    }

    /// Follows fields up to `end`. Without a type, everything is skipped.
    fn fields(&mut self, of: Option<&MessageDescriptor>, end: Option<char>, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        loop {
            while self.take(';') || self.take(',') {}
            match (self.peek(), end) {
                (None, None) => return Some(()),
                (None, Some(_)) => return None,
                (Some(next), Some(end)) if next == end => {
                    self.at += end.len_utf8();
                    return Some(());
                }
                _ => self.field(of, depth)?,
            }
        }
    }

    fn field(&mut self, of: Option<&MessageDescriptor>, depth: usize) -> Option<()> {
        self.peek()?;
        let start = self.at;
        if self.take('[') {
            return self.any(of, depth);
        }
        let name = self.word()?;
        let field = of.and_then(|of| of.get_field_by_name(name));
        self.take(':');
        let kind = field.as_ref().map(FieldDescriptor::kind);
        self.value(kind.as_ref().and_then(Kind::as_message), depth)?;
        if let Some(of) = of.filter(|_| field.is_none()) {
            self.changes.push((start..self.at, String::new()));
            self.notes.push(format!("{name}, which {} does not have here", of.name()));
        }
        Some(())
    }

    /// Follows the content of an `Any`, behind the bracket before its type.
    fn any(&mut self, of: Option<&MessageDescriptor>, depth: usize) -> Option<()> {
        let start = self.at;
        let length = self.rest().find(']')?;
        let url = self.rest()[..length].trim();
        self.at += length + 1;
        self.take(':');
        let (prefix, name) = url.rsplit_once('/').unwrap_or(("", url));
        let mut known = self.pool.get_message_by_name(name);
        if known.is_none() && of.is_some() {
            let right = nearest(self.pool, name)?;
            known = self.pool.get_message_by_name(&right);
            self.changes.push((start..start + length, format!("{prefix}/{right}")));
            self.notes.push(format!("the type {name}, which is taken for {right}"));
        }
        self.value(known.as_ref(), depth)
    }

    fn value(&mut self, of: Option<&MessageDescriptor>, depth: usize) -> Option<()> {
        match self.peek()? {
            '{' => {
                self.at += 1;
                self.fields(of, Some('}'), depth + 1)
            }
            '<' => {
                self.at += 1;
                self.fields(of, Some('>'), depth + 1)
            }
            '[' if depth < DEPTH_MAX => {
                self.at += 1;
                while !self.take(']') {
                    self.value(of, depth + 1)?;
                    self.take(',');
                }
                Some(())
            }
            '"' | '\'' => {
                // Strings beside each other are one.
                while matches!(self.peek(), Some('"' | '\'')) {
                    self.string()?;
                }
                Some(())
            }
            _ => self.word().map(drop),
        }
    }
}

/// Returns the one known type whose name is nearly `name`.
fn nearest(pool: &DescriptorPool, name: &str) -> Option<String> {
    let is_near = |message: &MessageDescriptor| distance(message.full_name(), name) <= MISSPELT_MAX;
    let mut found = pool.all_messages().filter(is_near);
    let first = found.next()?;
    found.next().is_none().then(|| first.full_name().to_owned())
}

/// How many letters must be changed, put in or left out to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, left) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (at, right) in other.iter().enumerate() {
            let changed = diagonal + usize::from(left != *right);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{parse, parse_known};
    use crate::wire::server::ServerConfig;

    const TYPE: &str = "fleetspeak.server.ServerConfig";

    fn read(text: &str) -> (ServerConfig, Vec<String>) {
        parse_known(TYPE, text).unwrap()
    }

    #[test]
    fn words_are_as_far_apart_as_letters_must_change() {
        for (one, other, want) in [("abc", "abc", 0), ("service", "servce", 1), ("", "ab", 2), ("ab", "ba", 2)] {
            assert_eq!((distance(one, other), distance(other, one)), (want, want), "{one} {other}");
        }
    }

    #[test]
    fn what_is_not_known_is_passed_over_and_named() {
        let text = "services { name: 'a' factory: \"NOOP\" newer: [1, { x: 2 }] # newest: 1\n even_newer < y: 'q}' > }\n later: -1;";
        let (config, notes) = read(text);
        assert_eq!((config.services.len(), config.services[0].name.as_str()), (1, "a"));
        let names: Vec<_> = notes.iter().map(|note| note.split(',').next().unwrap()).collect();
        assert_eq!(names, ["newer", "even_newer", "later"]);
        assert!(parse::<ServerConfig>(TYPE, text).is_err(), "elsewhere it is an error");
        let plain = "\u{feff}services { name: \"a\" }\r\n";
        assert_eq!(parse::<ServerConfig>(TYPE, plain).unwrap(), read(plain).0, "a byte order mark is no part of it");
    }

    #[test]
    fn what_cannot_be_followed_is_refused_as_it_was() {
        for broken in
            ["services {", "services { name: \"a }", "services ]", "[", "services { [x.y/nothing.Like] { a: 1 } }"]
        {
            let strict = parse::<ServerConfig>(TYPE, broken).unwrap_err();
            assert_eq!(parse_known::<ServerConfig>(TYPE, broken).unwrap_err(), strict, "{broken}");
        }
        let deep = format!("services {}{}", "{ x ".repeat(10_000), "}".repeat(10_000));
        assert!(parse_known::<ServerConfig>(TYPE, &deep).is_err());
    }
}
