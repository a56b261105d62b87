//! Results that came after their command had ended: after the action was called back, or after its window.
//!
//! Stays true: what came late is verified as every other result is; what no machine signed is the server's word, and one whose
//! signature does not hold is left out.

use super::Sink;
use crate::proof::{self, Proof};
use muster_api::actions::{CommandRow, LateResultRow};
use muster_core::AgentId;
use serde::{Deserialize, Serialize};
use std::collections::btree_map::Entry;

/// What a machine said after its command had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Late {
    /// What it says that it did.
    pub(crate) status: String,
    /// When that came, by the server's word.
    pub(crate) received: String,
    /// Whether it refused: then it ran nothing.
    #[serde(rename = "refused")]
    pub(crate) is_refused: bool,
    /// Whether its machine signed it; else it is the server's word.
    #[serde(rename = "proven")]
    pub(crate) is_proven: bool,
}

impl Sink {
    /// The same, for results that came late: a machine may have sent several.
    pub(crate) fn of_late(self) -> Self {
        Self { is_late: true, ..self }
    }

    /// Takes what machines said after their commands had ended, newest first; beside it those commands are shown. Of each
    /// machine the first word that it signed counts, else the first one that is said to be its.
    pub(crate) fn came_late(&mut self, rows: Vec<LateResultRow>) {
        for row in rows.into_iter().rev() {
            let row = of_command(row);
            let Some(is_proven) = self.verified_late(&row) else { continue };
            let late = Late {
                status: row.status,
                received: row.finished.unwrap_or_default(),
                is_refused: row.results.as_ref().is_some_and(|results| is_refused(results.get())),
                is_proven,
            };
            match self.late.entry(row.agent) {
                Entry::Vacant(entry) => _ = entry.insert(late),
                Entry::Occupied(mut entry) if is_proven && !entry.get().is_proven => _ = entry.insert(late),
                Entry::Occupied(_) => {}
            }
        }
    }

    /// Whether its machine signed it; `None` when it is left out.
    fn verified_late(&mut self, row: &CommandRow) -> Option<bool> {
        let order = self.order.digest?;
        let is_meant = row.agent.parse::<AgentId>().is_ok_and(|id| !self.order.excludes(id));
        let why = match proof::check(row, &order) {
            Proof::Holds if !is_meant => "the action that people signed is not for this machine",
            Proof::Holds if !self.has_known_key(row) => {
                "its key is another than the one that your book of machines has for this id"
            }
            Proof::Holds => return Some(true),
            Proof::None | Proof::Copy(_) => return Some(false),
            Proof::Broken(why) => why,
        };
        self.leave_out(row, why);
        None
    }
}

/// Returns it as the answer to a command, of which the server says no more than that.
pub(crate) fn of_command(row: LateResultRow) -> CommandRow {
    let LateResultRow { agent, status, received, results, proof } = row;
    CommandRow {
        id: 0,
        action: 0,
        agent,
        hostname: None,
        status,
        handed_out: true,
        started: String::new(),
        finished: Some(received),
        found: None,
        results: Some(results),
        proof,
    }
}

/// Whether results are those of a machine that refused: it ran nothing.
fn is_refused(results: &str) -> bool {
    #[derive(Deserialize)]
    struct Refused {
        errors: Option<Vec<String>>,
    }
    let all: Vec<Refused> = serde_json::from_str(results).unwrap_or_default();
    matches!(all.as_slice(), [Refused { errors: Some(errors) }] if errors.iter().any(|error| error.starts_with("refused (")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_an_answer() {
        assert!(is_refused(&muster_core::action::refused_results("expired", "its time is over")));
        for answer in ["[]", "x", r#"[{"errors": null}]"#, r#"[{"errors": ["no such file"]}]"#] {
            assert!(!is_refused(answer), "{answer}");
        }
    }
}
