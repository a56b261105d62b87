//! Evaluating a target on the row of one machine.
//!
//! SQL has three truth values; a machine moreover does not know everything that the server knows of it. So a condition
//! is evaluated to the set of truth values that it may have. On the server's row that set has one member.

use super::interval::moved;
use super::{Case, Cell, Comparison, Operand, Row, Target, Test, like, regex};
use crate::Timestamp;
use std::borrow::Cow;
use std::cmp::Ordering;

/// Which truth values a condition may have; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truths {
    /// It may be true.
    pub may_hold: bool,
    /// It may be false.
    pub may_fail: bool,
    /// It may be neither, as in a comparison with NULL.
    pub may_be_null: bool,
}

/// What a machine, or the server, makes of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The machine is meant.
    Matches,
    /// As far as can be told from here it is meant; the rest only the server knows.
    MayMatch,
    /// The machine is not meant, whatever is true of what only the server knows.
    DoesNotMatch,
}

/// A question of a target, and its answer on one machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaf {
    /// The question, as it is printed.
    pub text: String,
    /// The answer.
    pub truths: Truths,
    /// What the machine has in its place: the value that was asked about. `None` for NULL, and for what is not known.
    pub value: Option<String>,
}

impl Truths {
    pub(super) const TRUE: Self = Self { may_hold: true, may_fail: false, may_be_null: false };
    pub(super) const FALSE: Self = Self { may_hold: false, may_fail: true, may_be_null: false };
    const NULL: Self = Self { may_hold: false, may_fail: false, may_be_null: true };
    /// Nothing is known.
    pub const ANY: Self = Self { may_hold: true, may_fail: true, may_be_null: true };

    fn of(truth: Option<bool>) -> Self {
        match truth {
            Some(true) => Self::TRUE,
            Some(false) => Self::FALSE,
            None => Self::NULL,
        }
    }

    pub(super) fn not(self) -> Self {
        Self { may_hold: self.may_fail, may_fail: self.may_hold, ..self }
    }

    fn not_if(self, negated: bool) -> Self {
        if negated { self.not() } else { self }
    }

    pub(super) fn and(self, other: Self) -> Self {
        let null = |one: Self, other: Self| one.may_be_null && (other.may_hold || other.may_be_null);
        Self {
            may_hold: self.may_hold && other.may_hold,
            may_fail: self.may_fail || other.may_fail,
            may_be_null: null(self, other) || null(other, self),
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }

    /// Returns what holds of a condition that is the one or the other.
    pub(super) fn either(self, other: Self) -> Self {
        Self {
            may_hold: self.may_hold || other.may_hold,
            may_fail: self.may_fail || other.may_fail,
            may_be_null: self.may_be_null || other.may_be_null,
        }
    }

    /// Whether there is one truth value that it can have.
    pub(super) fn is_certain(self) -> bool {
        [Self::TRUE, Self::FALSE, Self::NULL].contains(&self)
    }

    /// Returns what it means for a machine.
    pub fn verdict(self) -> Verdict {
        match self {
            Self { may_hold: false, .. } => Verdict::DoesNotMatch,
            Self { may_fail: false, may_be_null: false, .. } => Verdict::Matches,
            _ => Verdict::MayMatch,
        }
    }
}

impl Target {
    /// Returns which truth values this target may have on `row` at the moment `now`.
    pub fn evaluate(&self, row: &dyn Row, now: Timestamp) -> Truths {
        match self {
            Self::Literal(value) => Truths::of(Some(*value)),
            Self::And(parts) => parts.iter().fold(Truths::TRUE, |all, part| all.and(part.evaluate(row, now))),
            Self::Or(parts) => parts.iter().fold(Truths::FALSE, |any, part| any.or(part.evaluate(row, now))),
            Self::Not(part) => part.evaluate(row, now).not(),
            Self::Test(test) => test.evaluate(row, now),
        }
    }

    /// Returns each question with its answer on `row`, in the order in which they stand.
    pub fn explain(&self, row: &dyn Row, now: Timestamp) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        self.each_test(&mut |test| {
            let value = test.value().and_then(|operand| match value(operand, row, now) {
                Cell::Text(text) => Some(text.into_owned()),
                Cell::Number(number) => Some(number.to_string()),
                Cell::Time(moment) => Some(moment.to_string()),
                Cell::Null | Cell::Unseen => None,
            });
            leaves.push(Leaf { text: test.to_string(), truths: test.evaluate(row, now), value });
        });
        leaves
    }

    /// Returns how many parts of the target would have to become true for it to match the row: 0 where it matches.
    pub fn distance(&self, row: &dyn Row, now: Timestamp) -> usize {
        let each = |parts: &[Self]| parts.iter().map(|part| part.distance(row, now)).collect::<Vec<_>>();
        match self {
            Self::And(parts) => each(parts).iter().sum(),
            Self::Or(parts) => each(parts).into_iter().min().unwrap_or(0),
            part => usize::from(part.evaluate(row, now).verdict() != Verdict::Matches),
        }
    }

    /// Calls `look` for each question.
    pub fn each_test<'a>(&'a self, look: &mut dyn FnMut(&'a Test)) {
        match self {
            Self::Literal(_) => {}
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.each_test(look)),
            Self::Not(part) => part.each_test(look),
            Self::Test(test) => look(test),
        }
    }

    /// Returns the actions whose findings are asked for: number, and whether it must have found something.
    pub fn findings(&self) -> Vec<(u64, bool)> {
        let mut findings = Vec::new();
        self.each_test(&mut |test| {
            if let Test::Found { action, found, .. } = test {
                findings.push((*action, *found));
            }
        });
        findings
    }
}

impl Test {
    /// The value that is asked about: the first that is no literal.
    fn value(&self) -> Option<&Operand> {
        match self {
            Self::Compare { left, right, .. } if left.is_literal() => Some(right),
            Self::Compare { left, .. } => Some(left),
            Self::Between { value, .. }
            | Self::In { value, .. }
            | Self::IsNull { value, .. }
            | Self::Like { value, .. }
            | Self::Matches { value, .. } => Some(value),
            Self::Found { .. } => None,
        }
    }

    pub(super) fn evaluate(&self, row: &dyn Row, now: Timestamp) -> Truths {
        let of = |operand| value(operand, row, now);
        match self {
            Self::Compare { left, comparison, right } => compare(&of(left), *comparison, &of(right)),
            Self::Between { value, low, high, negated } => {
                let value = of(value);
                let above = compare(&value, Comparison::GreaterOrEqual, &of(low));
                above.and(compare(&value, Comparison::LessOrEqual, &of(high))).not_if(*negated)
            }
            Self::In { value, list, negated } => {
                let value = of(value);
                let same = list.iter().map(|item| compare(&value, Comparison::Equal, &of(item)));
                same.fold(Truths::FALSE, Truths::or).not_if(*negated)
            }
            Self::IsNull { value, negated } => match of(value) {
                Cell::Unseen => Truths { may_be_null: false, ..Truths::ANY },
                cell => Truths::of(Some((cell == Cell::Null) != *negated)),
            },
            Self::Like { value, pattern, case, negated } => {
                text(&of(value), |text| like(pattern, text, *case)).not_if(*negated)
            }
            Self::Matches { value, pattern, case, negated } => matches(&of(value), pattern, *case).not_if(*negated),
            Self::Found { action, found, negated } => match row.found(*action, *found) {
                Some(is_so) => Truths::of(Some(is_so != *negated)),
                None => Truths { may_be_null: false, ..Truths::ANY },
            },
        }
    }
}

impl Operand {
    /// Whether it is the same for every machine.
    pub fn is_literal(&self) -> bool {
        !matches!(self, Self::Column(_) | Self::Path(_) | Self::Cast(_))
    }

    /// Returns the moment that a literal is, if it is one.
    pub fn moment(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Now(shifts) => Some(moved(now, shifts)),
            Self::Moment(moment) => Some(*moment),
            _ => None,
        }
    }
}

/// Returns the number that `text` writes: at most 15 digits before a point and 15 after it, perhaps a minus before.
pub fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let fits = |digits: &str| (1..=15).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    (fits(whole) && fits(part)).then(|| text.parse().ok()).flatten()
}

fn value<'a>(operand: &'a Operand, row: &'a dyn Row, now: Timestamp) -> Cell<'a> {
    match operand {
        Operand::Column(column) => row.cell(*column),
        Operand::Path(path) => path.text(row.document(path.document)).map_or(Cell::Null, Cell::Text),
        Operand::Cast(inner) => match value(inner, row, now) {
            Cell::Text(text) => number(&text).map_or(Cell::Null, Cell::Number),
            other => other,
        },
        Operand::Text(text) => Cell::Text(Cow::Borrowed(text)),
        Operand::Number(number) => Cell::Number(*number),
        Operand::Now(shifts) => Cell::Time(moved(now, shifts)),
        Operand::Moment(moment) => Cell::Time(*moment),
    }
}

fn compare(left: &Cell<'_>, comparison: Comparison, right: &Cell<'_>) -> Truths {
    let order = match (left, right) {
        (Cell::Null, _) | (_, Cell::Null) => return Truths::NULL,
        (Cell::Unseen, _) | (_, Cell::Unseen) => return Truths::ANY,
        (Cell::Text(left), Cell::Text(right)) => left.as_bytes().cmp(right.as_bytes()),
        (Cell::Number(left), Cell::Number(right)) => left.partial_cmp(right).unwrap_or(Ordering::Equal),
        (Cell::Time(left), Cell::Time(right)) => left.cmp(right),
        // The parser compares nothing of different kinds.
        _ => return Truths::NULL,
    };
    Truths::of(Some(match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    }))
}

fn text(cell: &Cell<'_>, holds: impl Fn(&str) -> bool) -> Truths {
    match cell {
        Cell::Text(text) => Truths::of(Some(holds(text))),
        Cell::Unseen => Truths::ANY,
        _ => Truths::NULL,
    }
}

fn matches(cell: &Cell<'_>, pattern: &str, case: Case) -> Truths {
    // A pattern that does not compile was refused by the parser; a tree made by hand matches nothing with it.
    let Ok(regex) = regex(pattern, case) else { return Truths::NULL };
    text(cell, |text| regex.is_match(text))
}
