//! Whether a machine can decide a target by itself.
//!
//! A machine that receives an order knows its facts, its labels and its key. What only the server knows of it (its number,
//! its state, its contacts, what actions found) is the server's word, and a server may have been taken over. What another
//! start of the agent changes (its process, when it began) a server can change as well, since it can have the agent end. So
//! before something that changes machines is signed, it is asked whether any machine could come to "perhaps".
//!
//! Stays true: where no question is named, no machine that always had one id comes to "perhaps" ([`super::OwnMachine`]);
//! questions may be named although no machine would ever get so far, because each is taken to be independent of the others.
//! Not here: what follows; ids that a machine had before, which only that machine knows.

use super::{Column, Operand, Target, Test, Truths, Verdict};

/// Sets of truth values that a condition may have on one machine or another: a bit for each of the seven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcomes(u8);

impl Outcomes {
    /// Whatever is asked, a machine answers it with one of these.
    const ANSWERED: Self = Self(1 << 1 | 1 << 2 | 1 << 4);
    /// A machine may be left with any uncertainty.
    const OPEN: Self = Self(0b1111_1110);

    fn only(truths: Truths) -> Self {
        Self(1 << index(truths))
    }

    fn each(self) -> impl Iterator<Item = Truths> {
        (1..8_u8).filter(move |index| self.0 & (1 << index) != 0).map(|index| Truths {
            may_hold: index & 1 != 0,
            may_fail: index & 2 != 0,
            may_be_null: index & 4 != 0,
        })
    }

    fn map(self, change: impl Fn(Truths) -> Truths) -> Self {
        Self(self.each().fold(0, |all, one| all | 1 << index(change(one))))
    }

    fn with(self, other: Self, join: impl Fn(Truths, Truths) -> Truths) -> Self {
        Self(self.each().fold(0, |all, one| all | other.map(|two| join(one, two)).0))
    }
}

fn index(truths: Truths) -> u8 {
    u8::from(truths.may_hold) | u8::from(truths.may_fail) << 1 | u8::from(truths.may_be_null) << 2
}

impl Column {
    /// Whether only the server knows what stands in it, so that a machine that is asked about it cannot say.
    pub fn is_of_server(self) -> bool {
        match self {
            Self::Id
            | Self::Status
            | Self::DestructionTime
            | Self::HeartbeatTime
            | Self::RefreshTime
            | Self::PublicIp => true,
            Self::AgentId
            | Self::Name
            | Self::QueueLoc
            | Self::Mode
            | Self::Version
            | Self::Pid
            | Self::StartTime
            | Self::LoaderName => false,
        }
    }

    /// Whether another start of the agent changes it.
    pub fn is_fleeting(self) -> bool {
        matches!(self, Self::Pid | Self::StartTime)
    }

    /// Whether a machine cannot rely on it: only the server knows it, or can change it.
    fn is_undecidable(self) -> bool {
        self.is_of_server() || self.is_fleeting()
    }
}

impl Target {
    /// Returns the questions that a machine cannot answer by itself, as they are printed, if the whole may hang on them
    /// on any machine. Empty: every machine decides this target by itself.
    pub fn open_questions(&self) -> Vec<String> {
        if !self.outcomes().each().any(|truths| truths.verdict() == Verdict::MayMatch) {
            return Vec::new();
        }
        let mut open = Vec::new();
        self.each_test(&mut |test| {
            if test.is_undecidable() {
                open.push(test.to_string());
            }
        });
        open.dedup();
        open
    }

    fn outcomes(&self) -> Outcomes {
        match self {
            Self::Literal(true) => Outcomes::only(Truths::TRUE),
            Self::Literal(false) => Outcomes::only(Truths::FALSE),
            Self::And(parts) => {
                parts.iter().fold(Outcomes::only(Truths::TRUE), |all, part| all.with(part.outcomes(), Truths::and))
            }
            Self::Or(parts) => {
                parts.iter().fold(Outcomes::only(Truths::FALSE), |any, part| any.with(part.outcomes(), Truths::or))
            }
            Self::Not(part) => part.outcomes().map(Truths::not),
            Self::Test(test) if test.is_undecidable() => Outcomes::OPEN,
            Self::Test(_) => Outcomes::ANSWERED,
        }
    }
}

impl Test {
    /// Whether it asks for what only the server knows or can change.
    pub(super) fn is_undecidable(&self) -> bool {
        match self {
            Self::Compare { left, right, .. } => left.is_undecidable() || right.is_undecidable(),
            Self::Between { value, low, high, .. } => [value, low, high].into_iter().any(Operand::is_undecidable),
            Self::In { value, list, .. } => value.is_undecidable() || list.iter().any(Operand::is_undecidable),
            Self::IsNull { value, .. } | Self::Like { value, .. } | Self::Matches { value, .. } => {
                value.is_undecidable()
            }
            Self::Found { .. } => true,
        }
    }
}

impl Operand {
    fn is_undecidable(&self) -> bool {
        match self {
            Self::Column(column) => column.is_undecidable(),
            Self::Cast(inner) => inner.is_undecidable(),
            Self::Path(_) | Self::Text(_) | Self::Number(_) | Self::Now(_) | Self::Moment(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cell, Endpoint, OwnRow, Row};
    use super::*;
    use crate::{AgentId, Facts, Timestamp};

    fn open(text: &str) -> Vec<String> {
        Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).open_questions()
    }

    #[test]
    fn what_a_machine_knows_it_decides() {
        for text in [
            "agentid = '0011223344556677'",
            "agentid IN ('0011223344556677', '8899aabbccddeeff')",
            "name LIKE 'web%' AND NOT tags->>'site' = 'berlin'",
            "environment->>'os' = 'linux' OR version LIKE '0.%'",
            "mode = 'daemon'",
            "fleet = 'one'",
            "true",
            // The server's word changes nothing here.
            "status = 'online' OR true",
            "id = 7 AND false",
        ] {
            assert_eq!(open(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn what_only_the_server_knows_is_named() {
        let found = "id IN (SELECT agentid FROM commands, json_array_elements(commands.results) AS r \
                     WHERE actionid = 5 AND r#>>'{foundanything}' = 'true')";
        for (text, questions) in [
            ("id = 7", &["id = 7"][..]),
            ("id::numeric = 7", &["id = 7"]),
            ("name = 'x' AND status = 'online'", &["status = 'online'"]),
            ("NOT (name = 'x' OR id <> 7)", &["id <> 7"]),
            ("agentid = '0011223344556677' AND status = 'offline'", &["status = 'offline'"]),
            ("heartbeattime > NOW() AND refreshtime < NOW()", &["heartbeattime > NOW()", "refreshtime < NOW()"]),
            ("destructiontime IS NULL", &["destructiontime IS NULL"]),
            ("environment->>'publicip' = name", &["environment->>'publicip' = name"]),
            ("status LIKE 'on%'", &["status LIKE 'on%'"]),
            ("status ~ 'on'", &["status ~ 'on'"]),
            ("pid = 7", &["pid = 7"]),
            ("NOT starttime < NOW()", &["starttime < NOW()"]),
            ("pid BETWEEN 1 AND id", &["pid BETWEEN 1 AND id"]),
            (found, &[found]),
        ] {
            let printed = open(text);
            let wanted: Vec<String> = questions.iter().map(|question| (*question).to_owned()).collect();
            assert_eq!(printed, wanted, "{text}");
        }
    }

    #[test]
    fn a_machine_does_not_see_what_is_the_servers_and_sees_the_rest() {
        let facts = Facts::from([("agent_start_time".to_owned(), "2026-01-02T03:04:05Z".into())]);
        let id = AgentId::from_bytes([1; 8]);
        let row = OwnRow { id, endpoint: Endpoint::observed(id, &facts), tags: serde_json::json!({}) };
        let columns = Column::NAMED.iter().map(|(column, _)| *column).chain([Column::PublicIp]);
        for column in columns {
            assert_eq!(row.cell(column) == Cell::Unseen, column.is_of_server(), "{column:?}");
        }
        let now = Timestamp::from_secs(1_767_323_045);
        let verdict = |text: &str| Target::parse(text).unwrap().evaluate(&row, now).verdict();
        assert_eq!(verdict("agentid = '0101010101010101'"), Verdict::Matches);
        assert_eq!(verdict("agentid = '0101010101010102'"), Verdict::DoesNotMatch);
        assert_eq!(verdict("id = 7"), Verdict::MayMatch);
    }
}
