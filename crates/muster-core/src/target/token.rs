//! Words, signs and literals of a target.
//!
//! Stays true: what could end a statement, hide text or name something else than a column is refused here.

use super::TargetError;

/// A piece of text with its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    /// Characters before it.
    pub(super) position: usize,
    /// Bytes before it, and before what follows it.
    pub(super) bytes: std::ops::Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// A word, as it was written.
    Word(String),
    /// What stands between single quotes.
    Text(String),
    /// Digits, perhaps with a point.
    Number(String),
    Sign(&'static str),
    /// A name after an at sign.
    Named(String),
    End,
}

/// Longer signs come before their own beginnings.
const SIGNS: [&str; 21] = [
    "->>", "#>>", "!~*", "->", "!~", "~*", "!=", "<>", "<=", ">=", "::", "(", ")", ",", ".", "=", "<", ">", "~", "+",
    "-",
];
/// What is refused by itself, and what to do.
const REFUSED: [(&str, &str); 13] = [
    (";", "a target is one condition"),
    ("--", "a target has no comments"),
    ("/*", "a target has no comments"),
    ("\"", "write texts between single quotes, 'like this', and columns without any"),
    ("`", "write texts between single quotes, 'like this'"),
    ("\u{2018}", "write texts between plain single quotes, 'like this'"),
    ("\u{2019}", "write texts between plain single quotes, 'like this'"),
    ("\u{201c}", "write texts between plain single quotes, 'like this'"),
    ("\u{201d}", "write texts between plain single quotes, 'like this'"),
    ("$", "a target has no parameters"),
    ("||", "texts cannot be joined"),
    ("==", "equality is one sign: ="),
    ("&&", "write AND"),
];

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, TargetError> {
    let mut tokens = Vec::new();
    let mut at = At { text, bytes: 0, position: 0 };
    loop {
        while let Some(space) = at.rest().chars().next().filter(char::is_ascii_whitespace) {
            at.pass(space.len_utf8());
        }
        let (position, start) = (at.position, at.bytes);
        let kind = at.token()?;
        let is_end = kind == TokenKind::End;
        tokens.push(Token { kind, position, bytes: start..at.bytes });
        if is_end {
            return Ok(tokens);
        }
    }
}

struct At<'a> {
    text: &'a str,
    bytes: usize,
    position: usize,
}

impl<'a> At<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.bytes..]
    }

    /// Passes over `bytes` and returns them.
    fn pass(&mut self, bytes: usize) -> &'a str {
        let passed = &self.rest()[..bytes];
        self.bytes += bytes;
        self.position += passed.chars().count();
        passed
    }

    fn while_(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        self.pass(rest.find(|letter| !fits(letter)).unwrap_or(rest.len()))
    }

    fn token(&mut self) -> Result<TokenKind, TargetError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(TokenKind::End) };
        if first == '\'' {
            return self.quoted();
        }
        if first.is_ascii_digit() {
            return self.number();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let word = self.while_(|letter| letter.is_ascii_alphanumeric() || letter == '_');
            return Ok(TokenKind::Word(word.to_owned()));
        }
        if first == '@' {
            self.pass(1);
            let name = self.while_(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.'));
            return Ok(TokenKind::Named(name.to_owned()));
        }
        if let Some((sign, hint)) = REFUSED.iter().find(|(sign, _)| rest.starts_with(sign)) {
            return Err(TargetError::new(self.position, format!("{sign} has no place in a target")).hint(*hint));
        }
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            self.pass(sign.len());
            return Ok(TokenKind::Sign(sign));
        }
        Err(TargetError::new(self.position, format!("the character {first:?} has no place in a target")))
    }

    fn quoted(&mut self) -> Result<TokenKind, TargetError> {
        let start = self.position;
        self.pass(1);
        let mut text = String::new();
        loop {
            text.push_str(self.while_(|letter| letter != '\''));
            if self.rest().is_empty() {
                let error = TargetError::new(start, "this text has no end");
                return Err(error.hint("close it with a single quote; a quote inside is written twice"));
            }
            self.pass(1);
            if !self.rest().starts_with('\'') {
                break;
            }
            self.pass(1);
            text.push('\'');
        }
        if text.contains('\0') {
            return Err(TargetError::new(start, "a text must not hold a zero byte"));
        }
        Ok(TokenKind::Text(text))
    }

    fn number(&mut self) -> Result<TokenKind, TargetError> {
        let start = self.position;
        let mut number = self.while_(|letter| letter.is_ascii_digit()).to_owned();
        if self.rest().starts_with('.') {
            self.pass(1);
            number.push('.');
            number.push_str(self.while_(|letter| letter.is_ascii_digit()));
        }
        let touches = self.rest().chars().next().is_some_and(|next| next.is_alphanumeric() || next == '_');
        if touches || number.ends_with('.') {
            return Err(TargetError::new(start, "this is neither a number nor a word"));
        }
        Ok(TokenKind::Number(number))
    }
}
