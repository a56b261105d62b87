//! Regular expressions that mean the same to PostgreSQL and to us.
//!
//! Both engines take more than what is accepted here, but differ in it. Accepted: letters, `.`, `^`, `$`, `|`, groups
//! `( )` and `(?: )`, `* + ? {n} {n,} {n,m}` after something that can be repeated, classes `[a-z]` and `[^a-z]` with
//! `[:alpha:]` and the like, `\d \w \s` and their opposites, `\n \t \r \f \v`, and a backslash before any sign. Classes and
//! case are those of ASCII. Matching takes time in proportion to the text.

use super::Case;
use crate::limits;
use std::iter::Peekable;
use std::str::Chars;

/// The greatest number in a repetition, PostgreSQL's.
const REPEAT_MAX: u32 = 255;
const DEPTH_MAX: u32 = 16;
const CLASSES: [&str; 9] = ["alnum", "alpha", "blank", "digit", "lower", "punct", "space", "upper", "xdigit"];

/// Why a regular expression is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the regular expression cannot be used: {0}")]
pub struct RegexError(String);

/// Compiles a regular expression, which is found anywhere in a text.
pub fn regex(pattern: &str, case: Case) -> Result<regex_lite::Regex, RegexError> {
    check(pattern)?;
    regex_lite::RegexBuilder::new(pattern)
        .case_insensitive(case == Case::Ignored)
        .dot_matches_new_line(true)
        .build()
        .map_err(|error| RegexError(error.to_string()))
}

/// Accepts what both engines understand alike.
pub(super) fn check(pattern: &str) -> Result<(), RegexError> {
    let mut reader = Reader { letters: pattern.chars().peekable(), depth: 0 };
    let nodes = reader.alternatives()?;
    if reader.letters.peek().is_some() {
        return refuse("a ) has no (");
    }
    let max = u64::try_from(limits::TARGET_REGEX_NODES_MAX).unwrap_or(u64::MAX);
    if nodes > max {
        return refuse(&format!("with its repetitions written out it has {nodes} parts, at most {max} are taken"));
    }
    Ok(())
}

fn refuse<T>(why: &str) -> Result<T, RegexError> {
    Err(RegexError(why.to_owned()))
}

struct Reader<'a> {
    letters: Peekable<Chars<'a>>,
    depth: u32,
}

/// What was read, as far as what follows depends on it.
enum Piece {
    /// Can be repeated; so many nodes.
    Atom(u64),
    /// Cannot: `^` and `$`.
    Anchor,
}

impl Reader<'_> {
    /// Reads up to a closing parenthesis or the end, and counts nodes.
    fn alternatives(&mut self) -> Result<u64, RegexError> {
        let mut nodes = 0_u64;
        loop {
            nodes = nodes.saturating_add(self.sequence()?);
            if self.letters.next_if_eq(&'|').is_none() {
                return Ok(nodes);
            }
        }
    }

    fn sequence(&mut self) -> Result<u64, RegexError> {
        let mut nodes = 0_u64;
        while let Some(letter) = self.letters.next_if(|letter| !matches!(letter, '|' | ')')) {
            let piece = self.piece(letter)?;
            let times = self.times()?;
            nodes = nodes.saturating_add(match (piece, times) {
                (Piece::Anchor, Some(_)) => return refuse("^ and $ cannot be repeated"),
                (Piece::Anchor, None) => 1,
                (Piece::Atom(each), times) => each.saturating_mul(times.unwrap_or(1)),
            });
        }
        if nodes == 0 { refuse("a part of it is empty") } else { Ok(nodes) }
    }

    fn piece(&mut self, letter: char) -> Result<Piece, RegexError> {
        match letter {
            '^' | '$' => Ok(Piece::Anchor),
            '(' => self.group().map(Piece::Atom),
            '[' => self.class().map(Piece::Atom),
            '\\' => self.escape().map(|()| Piece::Atom(1)),
            '*' | '+' | '?' => refuse(&format!("{letter} has nothing to repeat")),
            '{' | '}' | ']' => refuse(&format!("{letter} stands alone: write \\{letter} for the sign itself")),
            _ => Ok(Piece::Atom(1)),
        }
    }

    fn group(&mut self) -> Result<u64, RegexError> {
        if self.letters.next_if_eq(&'?').is_some() && self.letters.next() != Some(':') {
            return refuse("of groups that begin with (? only (?: is known");
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return refuse(&format!("groups are nested deeper than {DEPTH_MAX}"));
        }
        let nodes = self.alternatives()?;
        self.depth -= 1;
        if self.letters.next() == Some(')') { Ok(nodes.saturating_add(1)) } else { refuse("a ( has no )") }
    }

    /// Reads how often something is repeated. What is repeated without end counts twice.
    fn times(&mut self) -> Result<Option<u64>, RegexError> {
        let times = match self.letters.peek() {
            Some('*' | '+' | '?') => {
                self.letters.next();
                2
            }
            Some('{') => {
                self.letters.next();
                self.bounds()?
            }
            _ => return Ok(None),
        };
        match self.letters.peek() {
            Some('*' | '+' | '?' | '{') => refuse("what is repeated cannot be repeated again without a group"),
            _ => Ok(Some(times)),
        }
    }

    fn bounds(&mut self) -> Result<u64, RegexError> {
        let least = self.number()?;
        let most = match self.letters.next() {
            Some('}') => return Ok(u64::from(least.max(1))),
            Some(',') if self.letters.next_if_eq(&'}').is_some() => return Ok(u64::from(least) + 1),
            Some(',') => self.number()?,
            _ => return refuse("a repetition is written {2}, {2,} or {2,3}"),
        };
        if self.letters.next() != Some('}') || most < least {
            return refuse("a repetition is written {2}, {2,} or {2,3}, the smaller number first");
        }
        Ok(u64::from(most.max(1)))
    }

    fn number(&mut self) -> Result<u32, RegexError> {
        let mut digits = String::new();
        while let Some(digit) = self.letters.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        match digits.parse() {
            Ok(number) if number <= REPEAT_MAX && digits.len() <= 3 => Ok(number),
            _ => refuse(&format!("a repetition's numbers are 0 to {REPEAT_MAX}")),
        }
    }

    fn escape(&mut self) -> Result<(), RegexError> {
        match self.letters.next() {
            Some('d' | 'D' | 'w' | 'W' | 's' | 'S' | 'n' | 't' | 'r' | 'f' | 'v') => Ok(()),
            Some(sign) if sign.is_ascii_punctuation() => Ok(()),
            Some(other) => refuse(&format!("\\{other} is not known")),
            None => refuse("it ends in a backslash"),
        }
    }

    fn class(&mut self) -> Result<u64, RegexError> {
        self.letters.next_if_eq(&'^');
        let mut members = 0_u64;
        loop {
            match self.letters.next() {
                None => return refuse("a [ has no ]"),
                Some(']') if members > 0 => return Ok(1),
                Some(']') => return refuse("a class is empty: write \\] for the sign itself"),
                Some('[') => self.named_class()?,
                Some('\\') => match self.letters.peek() {
                    Some('D' | 'W' | 'S') => return refuse("\\D, \\W and \\S cannot stand in a class"),
                    Some('d' | 'w' | 's') => {
                        self.letters.next();
                    }
                    _ => {
                        self.escape()?;
                        if self.letters.peek() == Some(&'-') {
                            return refuse("a range begins and ends with a letter or a digit");
                        }
                    }
                },
                Some(start) => self.range(start)?,
            }
            members += 1;
        }
    }

    fn named_class(&mut self) -> Result<(), RegexError> {
        let mut name = String::new();
        if self.letters.next() == Some(':') {
            while let Some(letter) = self.letters.next_if(char::is_ascii_lowercase) {
                name.push(letter);
            }
            if self.letters.next() == Some(':') && self.letters.next() == Some(']') && CLASSES.contains(&&*name) {
                return Ok(());
            }
        }
        refuse(
            "of [ inside a class only [:alnum:], [:alpha:], [:digit:] and the like are known: write \\[ for the sign",
        )
    }

    fn range(&mut self, start: char) -> Result<(), RegexError> {
        if matches!(start, '-' | '&' | '~' | '^') {
            return refuse(&format!("write \\{start} in a class"));
        }
        if self.letters.next_if_eq(&'-').is_none() {
            return Ok(());
        }
        match self.letters.next() {
            Some(end) if start.is_ascii_alphanumeric() && end.is_ascii_alphanumeric() && start <= end => Ok(()),
            _ => refuse("a range begins and ends with a letter or a digit, the smaller first"),
        }
    }
}
