//! JSON by the letter of RFC 8259, with nothing that two readers could take differently.

use muster_core::limits;
use std::collections::BTreeMap;

/// One JSON value, its numbers as doubles.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Array(Vec<Value>),
    Object(BTreeMap<String, Value>),
}

/// Why parameters cannot be signed or checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the parameters are not JSON that can be signed: {problem} at byte {at}")]
pub struct CanonicalError {
    /// Counted from 0, in the parameters' text.
    pub at: usize,
    /// What is wrong there.
    pub problem: &'static str,
}

/// Reads one value and nothing after it.
pub(super) fn read(json: &str) -> Result<Value, CanonicalError> {
    let mut reader = Reader { bytes: json.as_bytes(), text: json, at: 0, depth: 0 };
    reader.blanks();
    let value = reader.value()?;
    reader.blanks();
    if reader.at < json.len() {
        return Err(reader.error("something stands after the value"));
    }
    Ok(value)
}

struct Reader<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn error(&self, problem: &'static str) -> CanonicalError {
        CanonicalError { at: self.at, problem }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Passes over `byte` if it is next.
    fn eat(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn value(&mut self) -> Result<Value, CanonicalError> {
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Result<Value, CanonicalError> {
        for (word, value) in [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))] {
            if self.bytes[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.error("no value begins here"))
    }

    fn nested(&mut self, read: fn(&mut Self) -> Result<Value, CanonicalError>) -> Result<Value, CanonicalError> {
        if self.depth >= limits::ACTION_DEPTH_MAX {
            return Err(self.error("the nesting is too deep"));
        }
        self.depth += 1;
        self.at += 1;
        self.blanks();
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn array(&mut self) -> Result<Value, CanonicalError> {
        let mut items = Vec::new();
        if self.eat(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            if self.ends(b']')? {
                return Ok(Value::Array(items));
            }
        }
    }

    fn object(&mut self) -> Result<Value, CanonicalError> {
        let mut members = BTreeMap::new();
        if self.eat(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.error("a key is missing"));
            }
            let key = self.string()?;
            if members.contains_key(&key) {
                return Err(self.error("a key stands twice"));
            }
            self.blanks();
            if !self.eat(b':') {
                return Err(self.error("a colon is missing"));
            }
            self.blanks();
            let value = self.value()?;
            members.insert(key, value);
            if self.ends(b'}')? {
                return Ok(Value::Object(members));
            }
        }
    }

    /// Passes over a comma or the closing bracket; returns whether it was the bracket.
    fn ends(&mut self, close: u8) -> Result<bool, CanonicalError> {
        self.blanks();
        if self.eat(close) {
            return Ok(true);
        }
        if !self.eat(b',') {
            return Err(self.error("a comma or a closing bracket is missing"));
        }
        self.blanks();
        Ok(false)
    }

    fn digits(&mut self) -> Result<(), CanonicalError> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == from { Err(self.error("a digit is missing")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Value, CanonicalError> {
        let from = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            if !self.eat(b'+') {
                self.eat(b'-');
            }
            self.digits()?;
        }
        let number: f64 = self.text[from..self.at].parse().map_err(|_| self.error("this is no number"))?;
        if number.is_finite() { Ok(Value::Number(number)) } else { Err(self.error("the number is too large")) }
    }

    fn string(&mut self) -> Result<String, CanonicalError> {
        let mut text = String::new();
        // Steps over the opening quote.
        self.at += 1;
        loop {
            let from = self.at;
            while self.peek().is_some_and(|byte| byte != b'"' && byte != b'\\' && byte >= 0x20) {
                self.at += 1;
            }
            // Both ends lie beside ASCII, so on the edge of characters.
            text.push_str(&self.text[from..self.at]);
            if self.eat(b'"') {
                return Ok(text);
            }
            if !self.eat(b'\\') {
                return Err(self.error("a text does not end, or holds a control character"));
            }
            text.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char, CanonicalError> {
        let Some(byte) = self.peek() else { return Err(self.error("a text does not end")) };
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(self.error("there is no such escape")),
        })
    }

    fn unicode(&mut self) -> Result<char, CanonicalError> {
        let high = self.hex4()?;
        if !(0xD800..0xDC00).contains(&high) {
            return char::from_u32(high).ok_or_else(|| self.error("half of a surrogate pair"));
        }
        if !(self.eat(b'\\') && self.eat(b'u')) {
            return Err(self.error("half of a surrogate pair"));
        }
        let low = self.hex4()?;
        if !(0xDC00..0xE000).contains(&low) {
            return Err(self.error("half of a surrogate pair"));
        }
        char::from_u32(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
            .ok_or_else(|| self.error("half of a surrogate pair"))
    }

    fn hex4(&mut self) -> Result<u32, CanonicalError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.error("four hexadecimal digits are missing"))?;
            self.at += 1;
        }
        Ok(code)
    }
}
