//! Whether a target cannot mean a machine, by nothing but the machine's id.
//!
//! Who reads a result knows of its machine for certain only the id, which follows from the key that signed it. A target
//! that names machines by their ids excludes all others, whatever a server makes up about them.
//!
//! Stays true: a machine that runs an order is never excluded by its target; what hangs on anything but the id, the
//! present moment among it, stays open. Not here: what a machine knows of itself ([`super::OwnRow`]).

use super::{Cell, Column, Document, Operand, Row, Target, Test, Truths, Verdict};
use crate::{AgentId, Timestamp};
use serde_json::Value;
use std::borrow::Cow;

/// A machine of which nothing is known but its id.
struct IdRow(String);

impl Row for IdRow {
    fn cell(&self, column: Column) -> Cell<'_> {
        if column == Column::AgentId { Cell::Text(Cow::Borrowed(&self.0)) } else { Cell::Unseen }
    }

    fn document(&self, _document: Document) -> &Value {
        // No question about a document is put to this row.
        &Value::Null
    }

    fn found(&self, _action: u64, _found: bool) -> Option<bool> {
        None
    }
}

impl Target {
    /// Whether no machine with this id is meant, whatever else is true of it.
    ///
    /// `false` does not say that it is meant: what the target asks besides the id is not known here.
    pub fn excludes(&self, id: AgentId) -> bool {
        self.of_id(&IdRow(id.to_string())).verdict() == Verdict::DoesNotMatch
    }

    fn of_id(&self, row: &IdRow) -> Truths {
        match self {
            Self::And(parts) => parts.iter().fold(Truths::TRUE, |all, part| all.and(part.of_id(row))),
            Self::Or(parts) => parts.iter().fold(Truths::FALSE, |any, part| any.or(part.of_id(row))),
            Self::Not(part) => part.of_id(row).not(),
            Self::Test(test) if !test.is_about_id() => Truths::ANY,
            // No moment is asked for: any will do.
            Self::Literal(_) | Self::Test(_) => self.evaluate(row, Timestamp::EPOCH),
        }
    }
}

impl Test {
    /// Whether the id alone answers it.
    fn is_about_id(&self) -> bool {
        match self {
            Self::Compare { left, right, .. } => left.is_about_id() && right.is_about_id(),
            Self::Between { value, low, high, .. } => [value, low, high].into_iter().all(Operand::is_about_id),
            Self::In { value, list, .. } => value.is_about_id() && list.iter().all(Operand::is_about_id),
            Self::IsNull { value, .. } | Self::Like { value, .. } | Self::Matches { value, .. } => value.is_about_id(),
            Self::Found { .. } => false,
        }
    }
}

impl Operand {
    /// Whether it is the id, or the same for every machine and at every moment.
    fn is_about_id(&self) -> bool {
        match self {
            Self::Column(column) => *column == Column::AgentId,
            Self::Cast(inner) => inner.is_about_id(),
            Self::Text(_) | Self::Number(_) | Self::Moment(_) => true,
            Self::Path(_) | Self::Now(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Endpoint, OwnRow};
    use super::*;
    use crate::Facts;

    const ID: [u8; 8] = [0x11; 8];

    fn excludes(text: &str) -> bool {
        let target = Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        target.excludes(AgentId::from_bytes(ID))
    }

    #[test]
    fn a_target_that_names_other_ids_excludes_a_machine() {
        for text in [
            "agentid = '0011223344556677'",
            "agentid = '0011223344556677' AND os = 'linux'",
            "agentid IN ('0011223344556677', '8899aabbccddeeff') OR false",
            "agentid <> '1111111111111111'",
            "NOT agentid LIKE '11%'",
            "agentid ~ '^00'",
            "agentid IS NULL",
            "(agentid < '1000000000000000' OR agentid = '2200000000000000') AND NOW() > starttime",
            "false",
        ] {
            assert!(excludes(text), "{text}");
        }
    }

    #[test]
    fn what_hangs_on_anything_else_stays_open() {
        for text in [
            "true",
            "agentid = '1111111111111111'",
            "agentid = '1111111111111111' AND os = 'linux'",
            "agentid = '0011223344556677' OR name = 'web'",
            "agentid = name",
            "queueloc = 'linux.0011223344556677'",
            "environment->>'os' IS NULL",
            "tags->>'site' = 'berlin'",
            "id = 7",
            "starttime < '2026-01-02'",
            // It may have been so when the machine ran it.
            "NOW() < '2020-01-01'",
        ] {
            assert!(!excludes(text), "{text}");
        }
    }

    #[test]
    fn no_machine_that_may_run_an_order_is_excluded_by_its_target() {
        let id = AgentId::from_bytes(ID);
        let facts = Facts::from([("hostname".to_owned(), "web".into()), ("kernel".to_owned(), "Linux".into())]);
        let row = OwnRow { id, endpoint: Endpoint::observed(id, &facts), tags: serde_json::json!({"a": "b"}) };
        let ids = ["agentid = '1111111111111111'", "agentid = '0011223344556677'", "agentid LIKE '%1'", "true"];
        let others = ["name = 'web'", "os IS NULL", "pid > 5", "tags->>'a' = 'b'", "starttime < NOW()", "false"];
        for one in ids {
            for other in others {
                for text in [
                    format!("{one} AND {other}"),
                    format!("{one} OR {other}"),
                    format!("NOT ({one} OR NOT {other})"),
                    format!("NOT {one} AND NOT {other}"),
                ] {
                    let target = Target::parse(&text).unwrap();
                    let runs = target.evaluate(&row, Timestamp::from_secs(7)).verdict() != Verdict::DoesNotMatch;
                    assert!(!(runs && target.excludes(id)), "{text}");
                }
            }
        }
    }
}
