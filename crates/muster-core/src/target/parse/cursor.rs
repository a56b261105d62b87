//! The tokens of a target, one after the other.

use super::super::TargetError;
use super::super::token::{Token, TokenKind};
use super::Result;
use crate::limits;

pub(super) struct Parser {
    pub(super) tokens: Vec<Token>,
    pub(super) next: usize,
    pub(super) depth: usize,
}

impl Parser {
    pub(super) fn peek(&self) -> &TokenKind {
        &self.tokens[self.next].kind
    }

    pub(super) fn position(&self) -> usize {
        self.tokens[self.next].position
    }

    /// Passes over a token; the last one stays.
    pub(super) fn pass(&mut self) -> TokenKind {
        let kind = self.peek().clone();
        if kind != TokenKind::End {
            self.next += 1;
        }
        kind
    }

    pub(super) fn error(&self, message: impl Into<String>) -> TargetError {
        TargetError::new(self.position(), message)
    }

    pub(super) fn unexpected(&self, wanted: &str) -> TargetError {
        let found = match self.peek() {
            TokenKind::Word(word) => format!("the word {word}"),
            TokenKind::Text(_) => "a text".to_owned(),
            TokenKind::Number(number) => format!("the number {number}"),
            TokenKind::Sign(sign) => (*sign).to_owned(),
            TokenKind::Named(name) => format!("the name @{name}"),
            TokenKind::End => "the end".to_owned(),
        };
        self.error(format!("here stands {found} where {wanted} must stand"))
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), TokenKind::Word(found) if found.eq_ignore_ascii_case(word))
    }

    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let is_there = self.is_word(word);
        self.next += usize::from(is_there);
        is_there
    }

    pub(super) fn take_sign(&mut self, sign: &str) -> bool {
        let is_there = matches!(self.peek(), TokenKind::Sign(found) if *found == sign);
        self.next += usize::from(is_there);
        is_there
    }

    pub(super) fn want_word(&mut self, word: &str) -> Result<()> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected(word)) }
    }

    pub(super) fn want_sign(&mut self, sign: &str) -> Result<()> {
        if self.take_sign(sign) { Ok(()) } else { Err(self.unexpected(sign)) }
    }

    pub(super) fn want_text(&mut self) -> Result<String> {
        if !matches!(self.peek(), TokenKind::Text(_)) {
            return Err(self.unexpected("a text between single quotes"));
        }
        let TokenKind::Text(text) = self.pass() else { unreachable!("it was looked at") };
        Ok(text)
    }

    pub(super) fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > limits::TARGET_DEPTH_MAX {
            return Err(self.error(format!("parentheses and NOT are nested deeper than {}", limits::TARGET_DEPTH_MAX)));
        }
        Ok(())
    }
}
