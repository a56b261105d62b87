//! A machine that asks itself whether it is meant, under every id that it ever had.
//!
//! A machine's id is the hash of its key, and a server may have it make another key without anybody's signature. An order
//! for all machines but X would otherwise run on X, once X has another id. So a target counts as decided only where the
//! answer is the same under all of them, and where it does not hang on what another start of the agent changes.
//!
//! Stays true: a machine that is [`OwnAnswer::Meant`] is meant whatever its server says or has it do; one that is not meant
//! under its present id is [`OwnAnswer::NotMeant`]. Not here: remembering the ids (the agent).

use super::{Cell, Column, Document, Endpoint, OwnRow, Row, Target, Test, Truths, Verdict, tags};
use crate::{AgentId, Facts, Timestamp};
use serde_json::Value;

/// Ids that are named for people with a question; the rest is counted.
const NAMED_MAX: usize = 4;

/// What a machine makes of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnAnswer {
    /// It is meant.
    Meant,
    /// It may be meant: the whole hangs on these questions, whose answers only the server knows or can change.
    Open(Vec<String>),
    /// It is not meant.
    NotMeant,
}

/// Which ids a machine had beside its present one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormerIds {
    /// These; the present one may be among them.
    Known(Vec<AgentId>),
    /// What kept them cannot be read: the machine may have had any.
    Unknown,
}

/// A machine as it knows itself, under each of its ids.
#[derive(Debug)]
pub struct OwnMachine {
    /// Under its present id, which comes first, and under each former one.
    rows: Vec<OwnRow>,
    is_past_known: bool,
}

impl OwnMachine {
    /// Describes the machine whose id is `present` by its facts and the labels that it claims.
    pub fn observed<'a>(
        present: AgentId,
        former: &FormerIds,
        facts: &Facts,
        labels: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let tags = tags(labels);
        let former_ids = match former {
            FormerIds::Known(ids) => ids.as_slice(),
            FormerIds::Unknown => &[],
        };
        let others = former_ids.iter().copied().filter(|id| *id != present);
        let row = |id| OwnRow { id, endpoint: Endpoint::observed(id, facts), tags: tags.clone() };
        let rows = std::iter::once(present).chain(others).map(row).collect();
        Self { rows, is_past_known: *former != FormerIds::Unknown }
    }

    /// Returns whether `target` means this machine at the moment `now`.
    pub fn answer(&self, target: &Target, now: Timestamp) -> OwnAnswer {
        // Refused exactly: what is known of the present moment is enough for a no.
        if self.rows.first().is_none_or(|row| target.evaluate(row, now).verdict() == Verdict::DoesNotMatch) {
            return OwnAnswer::NotMeant;
        }
        let everywhere = self.everywhere(|row| target.evaluate(row, now));
        if everywhere.verdict() == Verdict::Matches {
            return OwnAnswer::Meant;
        }
        let mut open = Vec::new();
        target.each_test(&mut |test| {
            if !self.everywhere(|row| test.evaluate(row, now)).is_certain() {
                open.push(self.named(test));
            }
        });
        open.dedup();
        OwnAnswer::Open(open)
    }

    /// Which truth values something may have under one id or another.
    fn everywhere(&self, evaluate: impl Fn(&Lasting<'_>) -> Truths) -> Truths {
        let rows = self.rows.iter().map(|row| evaluate(&Lasting { row, is_id_known: self.is_past_known }));
        rows.reduce(Truths::either).unwrap_or(Truths::ANY)
    }

    /// Writes an open question, with the ids of this machine where they are what leaves it open.
    fn named(&self, test: &Test) -> String {
        if test.is_undecidable() {
            return test.to_string();
        }
        if !self.is_past_known {
            return format!("{test} (which ids this machine had before cannot be read)");
        }
        let ids: Vec<_> = self.rows.iter().take(NAMED_MAX).map(|row| row.id.to_string()).collect();
        let more = self.rows.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{test} (the ids of this machine are, or were, {}{more})", ids.join(", "))
    }
}

/// A machine without what another start of its agent changes.
struct Lasting<'a> {
    row: &'a OwnRow,
    /// Whether the ids that the machine had are known.
    is_id_known: bool,
}

impl Row for Lasting<'_> {
    fn cell(&self, column: Column) -> Cell<'_> {
        let is_of_id = match column {
            Column::AgentId | Column::QueueLoc => true,
            Column::Name => self.row.endpoint.name == self.row.id.to_string(),
            _ => false,
        };
        if column.is_fleeting() || (is_of_id && !self.is_id_known) { Cell::Unseen } else { self.row.cell(column) }
    }

    fn document(&self, document: Document) -> &Value {
        self.row.document(document)
    }

    fn found(&self, action: u64, found: bool) -> Option<bool> {
        self.row.found(action, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_767_323_045);
    const X: AgentId = AgentId::from_bytes([0x11; 8]);
    const Y: AgentId = AgentId::from_bytes([0x22; 8]);

    fn facts(is_named: bool) -> Facts {
        let mut facts = Facts::from([
            ("kernel".to_owned(), "Linux".into()),
            ("agent_pid".to_owned(), 42.into()),
            ("agent_start_time".to_owned(), "2026-01-01T00:00:00Z".into()),
        ]);
        if is_named {
            facts.insert("fqdn".to_owned(), "web1.example.org".into());
        }
        facts
    }

    fn answer(former: &FormerIds, is_named: bool, target: &str) -> OwnAnswer {
        let machine = OwnMachine::observed(Y, former, &facts(is_named), ["web"]);
        machine.answer(&Target::parse(target).unwrap_or_else(|error| panic!("{target}: {error}")), NOW)
    }

    fn is_open(answer: &OwnAnswer) -> bool {
        matches!(answer, OwnAnswer::Open(_))
    }

    #[test]
    fn a_machine_that_had_another_id_does_not_decide_by_one_of_them() {
        let was_x = FormerIds::Known(vec![X, Y]);
        for open in [
            "agentid <> '1111111111111111'",
            "NOT agentid = '1111111111111111'",
            "agentid NOT IN ('1111111111111111', '3333333333333333')",
            "agentid = '2222222222222222'",
            "agentid > '2'",
            "agentid LIKE '2%'",
            "agentid !~ '^1'",
            "queueloc <> 'linux.1111111111111111'",
            "queueloc LIKE '%.2222222222222222'",
            "name = 'web1.example.org' AND agentid <> '1111111111111111'",
            "agentid = name OR agentid <> '1111111111111111'",
        ] {
            let found = answer(&was_x, true, open);
            assert!(is_open(&found), "{open}: {found:?}");
            assert!(format!("{found:?}").contains("1111111111111111"), "{open}: {found:?}");
            // One that never was X decides the same by itself.
            assert!(!is_open(&answer(&FormerIds::Known(vec![]), true, open)), "{open}");
            assert!(is_open(&answer(&FormerIds::Unknown, true, open)), "{open}");
        }
        for meant in [
            "agentid IN ('1111111111111111', '2222222222222222')",
            "agentid = '2222222222222222' OR agentid = '1111111111111111'",
            "agentid <> '3333333333333333'",
            "name = 'web1.example.org'",
            "queueloc LIKE 'linux.%'",
            "tags->>'web' = 'true'",
            "true OR agentid = '1111111111111111'",
        ] {
            assert_eq!(answer(&was_x, true, meant), OwnAnswer::Meant, "{meant}");
        }
        for not_meant in ["agentid = '1111111111111111'", "agentid <> '2222222222222222'", "name = 'x'"] {
            assert_eq!(answer(&was_x, true, not_meant), OwnAnswer::NotMeant, "{not_meant}");
        }
    }

    #[test]
    fn a_name_that_is_only_the_id_goes_with_it() {
        let was_x = FormerIds::Known(vec![X]);
        assert!(is_open(&answer(&was_x, false, "name <> '1111111111111111'")));
        assert!(is_open(&answer(&FormerIds::Unknown, false, "name <> '1111111111111111'")));
        assert_eq!(answer(&was_x, true, "name <> '1111111111111111'"), OwnAnswer::Meant);
        assert_eq!(answer(&FormerIds::Unknown, true, "name <> '1111111111111111'"), OwnAnswer::Meant);
    }

    #[test]
    fn what_another_start_changes_decides_nothing_and_still_refuses() {
        let one = FormerIds::Known(vec![Y]);
        for open in ["pid = 42", "pid <> 7", "pid IS NOT NULL", "starttime < NOW()", "starttime = '2026-01-01'"] {
            assert!(is_open(&answer(&one, true, open)), "{open}");
            assert!(!Target::parse(open).unwrap().open_questions().is_empty(), "{open}");
        }
        for not_meant in ["pid = 7", "starttime > NOW()"] {
            assert_eq!(answer(&one, true, not_meant), OwnAnswer::NotMeant, "{not_meant}");
        }
        assert_eq!(answer(&one, true, "pid = 42 OR name LIKE 'web%'"), OwnAnswer::Meant);
    }
}
