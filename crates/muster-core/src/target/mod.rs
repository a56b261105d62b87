//! Targets: expressions that pick machines, in a part of SQL's words.
//!
//! A text becomes a tree ([`Target::parse`]) or an error with its place and a hint. The tree is printed back, turned into
//! SQL with bound values by the store, and evaluated here on the row of one machine, with SQL's three truth values.
//! docs/reference/targets.md is the reference.
//!
//! Stays true: parsing a printed tree gives the same tree; evaluating agrees with both databases; text is compared byte
//! by byte, and where case does not count only the letters A to Z have case. Not here: SQL, rows, time of its own.

mod check;
mod decidable;
pub mod endpoint;
mod error;
mod evaluate;
mod excludes;
mod interval;
mod like;
mod named;
mod own;
mod parse;
mod path;
mod print;
mod regex;
mod row;
mod token;

#[cfg(test)]
mod tests;

pub use endpoint::{Endpoint, tags};
pub use error::TargetError;
pub use evaluate::{Leaf, Truths, Verdict, number};
pub use interval::Interval;
pub use like::{Like, like};
pub use named::{check_name, expand};
pub use own::{FormerIds, OwnAnswer, OwnMachine};
pub use path::{Form, Path, Step, read as path_read, take as path_text};
pub use regex::{RegexError, regex};
pub use row::{Cell, FleetRow, OwnRow, Row};

use crate::Timestamp;

/// A condition that a machine fulfils or not.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// `true` or `false`.
    Literal(bool),
    /// All of at least two.
    And(Vec<Target>),
    /// One of at least two.
    Or(Vec<Target>),
    /// The opposite.
    Not(Box<Target>),
    /// A question about one value.
    Test(Test),
}

/// A question about one value.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// `left = right` and the like. Both sides are of one kind.
    Compare {
        /// What stands before the sign.
        left: Operand,
        /// The sign.
        comparison: Comparison,
        /// What stands after it.
        right: Operand,
    },
    /// `value BETWEEN low AND high`, both included.
    Between {
        /// Which value.
        value: Operand,
        /// The least.
        low: Operand,
        /// The greatest.
        high: Operand,
        /// Whether NOT stands before.
        negated: bool,
    },
    /// `value IN (list)`. The list holds literals of the value's kind.
    In {
        /// Which value.
        value: Operand,
        /// At least one.
        list: Vec<Operand>,
        /// Whether NOT stands before.
        negated: bool,
    },
    /// `value IS NULL`.
    IsNull {
        /// Which value.
        value: Operand,
        /// Whether NOT stands before.
        negated: bool,
    },
    /// `value LIKE pattern`: `%` is any text, `_` one character, a backslash takes the meaning from what follows.
    Like {
        /// Which value, a text.
        value: Operand,
        /// Does not end in a lone backslash.
        pattern: String,
        /// Whether case counts.
        case: Case,
        /// Whether NOT stands before.
        negated: bool,
    },
    /// `value ~ pattern`: the pattern is found in the value.
    Matches {
        /// Which value, a text.
        value: Operand,
        /// A regular expression that [`regex`] accepts.
        pattern: String,
        /// Whether case counts.
        case: Case,
        /// Whether the sign starts with an exclamation mark.
        negated: bool,
    },
    /// `id IN (select agentid from commands, …)`: an operation of an action found something on this machine, or did not.
    Found {
        /// The action's number.
        action: u64,
        /// What an operation must have said.
        found: bool,
        /// Whether NOT stands before.
        negated: bool,
    },
}

/// Whether case counts. Where it does not, only A to Z have case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// It counts.
    Counts,
    /// It does not.
    Ignored,
}

/// A sign between two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A column.
    Column(Column),
    /// A place in a document.
    Path(Path),
    /// A text, read as a number; NULL when it is none.
    Cast(Box<Operand>),
    /// A text.
    Text(String),
    /// A number, finite.
    Number(f64),
    /// The present moment, moved.
    Now(Vec<Shift>),
    /// A moment, written as a text beside a column that is a time.
    Moment(Timestamp),
}

/// A step from one moment to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shift {
    /// Whether it leads into the past.
    pub back: bool,
    /// How far.
    pub interval: Interval,
}

/// A column that is no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "docs/reference/targets.md")]
pub enum Column {
    Id,
    /// The hash of the machine's key, which is its identity, as 16 hexadecimal digits in lower case.
    AgentId,
    Name,
    QueueLoc,
    Mode,
    Version,
    Pid,
    StartTime,
    DestructionTime,
    HeartbeatTime,
    RefreshTime,
    Status,
    LoaderName,
    /// `environment->>'publicip'`, which no document holds.
    PublicIp,
}

/// A column that is a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "docs/reference/targets.md")]
pub enum Document {
    Environment,
    Tags,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A number.
    Number,
    /// A moment.
    Time,
    /// A piece of a document, which cannot be compared.
    Json,
}

impl Column {
    /// All that have a name.
    pub const NAMED: [(Self, &'static str); 13] = [
        (Self::Id, "id"),
        (Self::AgentId, "agentid"),
        (Self::Name, "name"),
        (Self::QueueLoc, "queueloc"),
        (Self::Mode, "mode"),
        (Self::Version, "version"),
        (Self::Pid, "pid"),
        (Self::StartTime, "starttime"),
        (Self::DestructionTime, "destructiontime"),
        (Self::HeartbeatTime, "heartbeattime"),
        (Self::RefreshTime, "refreshtime"),
        (Self::Status, "status"),
        (Self::LoaderName, "loadername"),
    ];

    /// Returns what it holds.
    pub fn kind(self) -> Kind {
        match self {
            Self::Id | Self::Pid => Kind::Number,
            Self::StartTime | Self::DestructionTime | Self::HeartbeatTime | Self::RefreshTime => Kind::Time,
            _ => Kind::Text,
        }
    }
}

impl Document {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::Tags => "tags",
        }
    }
}

impl Operand {
    /// Returns what it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Column(column) => column.kind(),
            Self::Path(path) if path.form == Form::Json => Kind::Json,
            Self::Path(_) | Self::Text(_) => Kind::Text,
            Self::Cast(_) | Self::Number(_) => Kind::Number,
            Self::Now(_) | Self::Moment(_) => Kind::Time,
        }
    }
}

impl Target {
    /// Reads a target of at most [`crate::limits::TARGET_CHARS_MAX`] characters.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        parse::parse(text, crate::limits::TARGET_CHARS_MAX)
    }
}

impl std::str::FromStr for Target {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, TargetError> {
        Self::parse(text)
    }
}
