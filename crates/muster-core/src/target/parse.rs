//! Reading a target.
//!
//! NOT binds closer than AND, AND closer than OR; a test closer than NOT. Depth is counted, so that no text makes the
//! reader run out of stack.

use super::token::{TokenKind, tokens};
use super::{Case, Column, Comparison, Operand, Target, TargetError, Test, check, like, regex};
use crate::limits;

mod cursor;
mod found;
mod value;

use cursor::Parser;

type Result<T> = std::result::Result<T, TargetError>;

/// What stands where a condition or a value may stand.
enum Node {
    Condition(Target),
    Value(Operand),
}

/// Reads a text of at most `chars_max` characters.
pub(super) fn parse(text: &str, chars_max: usize) -> Result<Target> {
    let chars = text.chars().count();
    if chars > chars_max {
        let error =
            TargetError::new(chars_max, format!("a target has at most {chars_max} characters, this one {chars}"));
        return Err(error.hint("keep a part of it under a name, or tag the machines"));
    }
    let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0 };
    let target = parser.condition()?;
    match parser.peek() {
        TokenKind::End => Ok(target),
        TokenKind::Sign(")") => Err(parser.error("this ) has no (")),
        _ => Err(parser.unexpected("AND, OR or the end")),
    }
}

impl Parser {
    fn condition(&mut self) -> Result<Target> {
        let position = self.position();
        match self.or()? {
            Node::Condition(target) => Ok(target),
            Node::Value(operand) => Err(lonely(position, &operand)),
        }
    }

    fn or(&mut self) -> Result<Node> {
        self.row("OR", Self::and, Target::Or)
    }

    fn and(&mut self) -> Result<Node> {
        self.row("AND", Self::not, Target::And)
    }

    fn row(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Node>,
        whole: fn(Vec<Target>) -> Target,
    ) -> Result<Node> {
        let position = self.position();
        let first = part(self)?;
        if !self.is_word(word) {
            return Ok(first);
        }
        let mut parts = vec![is_condition(position, first)?];
        while self.take_word(word) {
            let position = self.position();
            let next = part(self)?;
            parts.push(is_condition(position, next)?);
        }
        Ok(Node::Condition(whole(parts)))
    }

    fn not(&mut self) -> Result<Node> {
        if !self.take_word("NOT") {
            return self.test();
        }
        self.deeper()?;
        let position = self.position();
        let inner = self.not()?;
        self.depth -= 1;
        Ok(Node::Condition(Target::Not(Box::new(is_condition(position, inner)?))))
    }

    fn test(&mut self) -> Result<Node> {
        let left = match self.value()? {
            Node::Value(left) => left,
            condition @ Node::Condition(_) => return Ok(condition),
        };
        let position = self.position();
        if let TokenKind::Sign(sign) = self.peek() {
            let sign = *sign;
            if let Some(comparison) = comparison(sign) {
                self.pass();
                return self.compare(position, left, comparison).map(test);
            }
            if sign.contains('~') {
                self.pass();
                return self.matches(position, left, sign).map(test);
            }
            return Ok(Node::Value(left));
        }
        if self.take_word("IS") {
            let negated = self.take_word("NOT");
            self.want_word("NULL")?;
            return Ok(test(Test::IsNull { value: left, negated }));
        }
        let negated = self.take_word("NOT");
        if self.take_word("BETWEEN") {
            return self.between(position, left, negated).map(test);
        }
        if self.take_word("IN") {
            return self.is_in(position, left, negated).map(test);
        }
        for (word, case) in [("LIKE", Case::Counts), ("ILIKE", Case::Ignored)] {
            if self.take_word(word) {
                return self.is_like(position, left, case, negated).map(test);
            }
        }
        if negated { Err(self.unexpected("LIKE, ILIKE, IN or BETWEEN")) } else { Ok(Node::Value(left)) }
    }

    fn compare(&mut self, position: usize, mut left: Operand, comparison: Comparison) -> Result<Test> {
        if self.is_word("NULL") {
            return Err(self.error("nothing is equal to NULL").hint("write IS NULL or IS NOT NULL"));
        }
        let mut right = self.operand()?;
        check::pair(position, &mut left, &mut right)?;
        if matches!(comparison, Comparison::Equal | Comparison::NotEqual) {
            check::agent_id(position, &left, &right)?;
            check::agent_id(position, &right, &left)?;
        }
        Ok(Test::Compare { left, comparison, right })
    }

    fn between(&mut self, position: usize, mut value: Operand, negated: bool) -> Result<Test> {
        let mut low = self.operand()?;
        self.want_word("AND")?;
        let mut high = self.operand()?;
        // Once more for the first pair: the second may have given the value its kind.
        check::pair(position, &mut value, &mut low)?;
        check::pair(position, &mut value, &mut high)?;
        check::pair(position, &mut value, &mut low)?;
        Ok(Test::Between { value, low, high, negated })
    }

    fn is_in(&mut self, position: usize, mut value: Operand, negated: bool) -> Result<Test> {
        self.want_sign("(")?;
        if self.is_word("SELECT") {
            if value != Operand::Column(Column::Id) {
                return Err(TargetError::new(position, "only id can be looked for in what a SELECT gives"));
            }
            let (action, found) = self.found()?;
            return Ok(Test::Found { action, found, negated });
        }
        let mut list = Vec::new();
        loop {
            let place = self.position();
            let mut item = self.operand()?;
            if !matches!(item, Operand::Text(_) | Operand::Number(_)) {
                return Err(TargetError::new(place, "a list holds texts and numbers only"));
            }
            check::pair(place, &mut value, &mut item)?;
            check::agent_id(place, &value, &item)?;
            list.push(item);
            if list.len() > limits::TARGET_LIST_MAX {
                return Err(TargetError::new(
                    place,
                    format!("a list holds at most {} values", limits::TARGET_LIST_MAX),
                ));
            }
            if !self.take_sign(",") {
                break;
            }
        }
        // Once more: a later item may have given the value its kind.
        list.iter_mut().try_for_each(|item| check::pair(position, &mut value, item))?;
        self.want_sign(")")?;
        Ok(Test::In { value, list, negated })
    }

    fn is_like(&mut self, position: usize, value: Operand, case: Case, negated: bool) -> Result<Test> {
        check::text(position, &value)?;
        let place = self.position();
        let text = self.want_text()?;
        let mut escape = Some('\\');
        if self.take_word("ESCAPE") {
            let place = self.position();
            let sign = self.want_text()?;
            if sign.chars().count() > 1 {
                return Err(TargetError::new(place, "an escape is one character, or none"));
            }
            escape = sign.chars().next();
        }
        let pattern = like::with_backslashes(&text, escape).ok_or_else(|| {
            TargetError::new(place, "this pattern ends in its escape character").hint("write it twice for itself")
        })?;
        Ok(Test::Like { value, pattern, case, negated })
    }

    fn matches(&mut self, position: usize, value: Operand, sign: &str) -> Result<Test> {
        check::text(position, &value)?;
        let place = self.position();
        let pattern = self.want_text()?;
        let case = if sign.ends_with('*') { Case::Ignored } else { Case::Counts };
        regex::regex(&pattern, case).map_err(|error| {
            TargetError::new(place, error.to_string()).hint("docs/reference/targets.md lists what is known")
        })?;
        Ok(Test::Matches { value, pattern, case, negated: sign.starts_with('!') })
    }
}

fn test(test: Test) -> Node {
    Node::Condition(Target::Test(test))
}

fn is_condition(position: usize, node: Node) -> Result<Target> {
    match node {
        Node::Condition(target) => Ok(target),
        Node::Value(operand) => Err(lonely(position, &operand)),
    }
}

fn lonely(position: usize, operand: &Operand) -> TargetError {
    let error = TargetError::new(position, "a value alone is no condition");
    match operand {
        Operand::Column(_) | Operand::Path(_) => error.hint(format!("compare it: {operand} = '…'")),
        _ => error,
    }
}

fn comparison(sign: &str) -> Option<Comparison> {
    Some(match sign {
        "=" => Comparison::Equal,
        "<>" | "!=" => Comparison::NotEqual,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        _ => return None,
    })
}
