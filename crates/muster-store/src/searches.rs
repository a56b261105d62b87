//! Searching what is remembered, with the questions that MIG's programs ask: patterns, numbers, spans of time.
//!
//! Stays true: a search changes nothing, takes [`limits::SEARCH_TIME_MAX`] at most and gives a bounded number of rows;
//! patterns mean the same on both databases; what belongs to the rows that are found (signers, actions) comes with them
//! in the same transaction, in a fixed number of statements. Not here: how an answer is written.

use crate::StoreError;
use crate::actions::{ActionRow, CommandRow};
use crate::investigators::InvestigatorRow;
use crate::targets::TargetQuery;
use async_trait::async_trait;
use muster_core::action::{ActionStatus, AgentStatus, CommandStatus, InvestigatorStatus};
use muster_core::target::{Case, FleetRow, like};
use muster_core::{Timestamp, limits};

/// A pattern of LIKE: `%` is any text, `_` one character, a backslash takes the meaning from what follows. The case of A
/// to Z does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Takes a pattern of at most [`limits::SEARCH_PATTERN_CHARS_MAX`] characters. Invalid: it is longer, or holds a
    /// zero byte. A lone backslash at its end stands for itself.
    pub fn new(text: &str) -> Result<Self, StoreError> {
        if text.chars().count() > limits::SEARCH_PATTERN_CHARS_MAX {
            let max = limits::SEARCH_PATTERN_CHARS_MAX;
            return Err(StoreError::Invalid(format!("a pattern must have at most {max} characters")));
        }
        if text.contains('\0') {
            return Err(StoreError::Invalid("a pattern must not hold a zero byte".to_owned()));
        }
        let backslashes = text.bytes().rev().take_while(|byte| *byte == b'\\').count();
        let missing = if backslashes.is_multiple_of(2) { "" } else { "\\" };
        Ok(Self(format!("{text}{missing}")))
    }

    /// Returns the pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns those of `words` that are like the pattern.
    fn of<T: Copy>(&self, words: &[T], word: impl Fn(T) -> &'static str) -> Vec<T> {
        let is_like = |one: &&T| like(&self.0, word(**one), Case::Ignored);
        words.iter().filter(is_like).copied().collect()
    }

    /// Returns the states of actions whose words are like the pattern. What MIG has no word for counts under the word
    /// that is shown for it.
    pub fn action_states(&self) -> Vec<ActionStatus> {
        self.of(ActionStatus::ALL, mig_word)
    }

    /// Returns the states of commands whose words are like the pattern.
    pub fn command_states(&self) -> Vec<CommandStatus> {
        self.of(CommandStatus::ALL, CommandStatus::as_str)
    }

    /// Returns the states of agents whose words are like the pattern.
    pub fn agent_states(&self) -> Vec<AgentStatus> {
        self.of(AgentStatus::ALL, AgentStatus::as_str)
    }

    /// Returns the states of investigators whose words are like the pattern.
    pub fn investigator_states(&self) -> Vec<InvestigatorStatus> {
        self.of(InvestigatorStatus::ALL, InvestigatorStatus::as_str)
    }
}

/// Returns the word for a state among those that MIG's programs know: an action that waits for signatures is pending.
pub fn mig_word(status: ActionStatus) -> &'static str {
    if status == ActionStatus::Waiting { ActionStatus::Pending.as_str() } else { status.as_str() }
}

/// What a search looks for. Every condition that is set must hold; those about another kind of row hold for a row that
/// belongs to this one (the commands of an action, its signers, the actions of a machine).
#[derive(Debug, Clone, Default)]
pub struct SearchFilter {
    /// The number of an action.
    pub action: Option<i64>,
    /// The number of a command.
    pub command: Option<i64>,
    /// The number of a machine.
    pub agent: Option<i64>,
    /// The number of an investigator.
    pub investigator: Option<i64>,
    /// The name of an action.
    pub action_name: Option<Pattern>,
    /// The name of a machine.
    pub agent_name: Option<Pattern>,
    /// The version of a machine's agent.
    pub agent_version: Option<Pattern>,
    /// The name of an investigator.
    pub investigator_name: Option<Pattern>,
    /// The family of what an action looks for.
    pub threat_family: Option<Pattern>,
    /// The status of the rows themselves.
    pub status: Option<Pattern>,
    /// Commands that succeeded and found something, or nothing.
    pub found: Option<bool>,
    /// Not before this moment: an action's window, a machine's last contact, the start of a command, the last change of
    /// an investigator.
    pub after: Option<Timestamp>,
    /// Not after this moment.
    pub before: Option<Timestamp>,
    /// Rows to pass over.
    pub offset: u64,
    /// Rows to give, [`limits::SEARCH_ROWS_MAX`] at most.
    pub limit: u32,
}

/// Actions with the people who signed them.
#[derive(Debug, Clone, Default)]
pub struct ActionsFound {
    /// Latest beginning first, then latest number.
    pub actions: Vec<ActionRow>,
    /// Each signer of these once, by id.
    pub signers: Vec<InvestigatorRow>,
}

/// A command with its machine.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandFound {
    /// The command with its results, but for those that are too much: see `left_out_bytes`.
    pub command: CommandRow,
    /// How long results are that were left out because the answer holds [`limits::SEARCH_RESULT_BYTES_MAX`] already.
    pub left_out_bytes: Option<u64>,
    /// The machine's name as targets see it.
    pub name: String,
    /// MIG's name of the place.
    pub queueloc: String,
    /// `daemon` or `checkin`; empty when not told.
    pub mode: String,
    /// The agent's version; empty when not told.
    pub version: String,
    /// Its environment.
    pub environment: serde_json::Value,
    /// Its tags.
    pub tags: serde_json::Value,
}

/// Commands with their actions.
#[derive(Debug, Clone, Default)]
pub struct CommandsFound {
    /// Latest action first, in an action the latest machine.
    pub commands: Vec<CommandFound>,
    /// Each action of these once, with its signers.
    pub of: ActionsFound,
}

/// Searches. Refused: one that takes longer than [`limits::SEARCH_TIME_MAX`].
#[async_trait]
pub trait SearchStore: Send + Sync {
    /// Returns actions.
    async fn action_search(&self, filter: SearchFilter) -> Result<ActionsFound, StoreError>;

    /// Returns commands with their results.
    async fn command_search(&self, filter: SearchFilter) -> Result<CommandsFound, StoreError>;

    /// Returns machines that are not deleted and do not wait for approval, last heard of first, as they are at `now`.
    async fn agent_search(&self, filter: SearchFilter, now: Timestamp) -> Result<Vec<FleetRow>, StoreError>;

    /// Returns machines that a target picks, in the order of their numbers: after the number `after`, and `offset`
    /// of them passed over.
    async fn agent_search_target(
        &self,
        query: TargetQuery,
        after: i64,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<FleetRow>, StoreError>;

    /// Returns investigators in the order of their ids.
    async fn investigator_search(&self, filter: SearchFilter) -> Result<Vec<InvestigatorRow>, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_bounded_and_ends_whole() {
        assert_eq!(Pattern::new("a%\\").unwrap().as_str(), "a%\\\\");
        assert_eq!(Pattern::new("a\\\\").unwrap().as_str(), "a\\\\");
        assert!(Pattern::new("a\0").is_err());
        assert!(Pattern::new(&"a".repeat(limits::SEARCH_PATTERN_CHARS_MAX + 1)).is_err());
        assert!(Pattern::new(&"é".repeat(limits::SEARCH_PATTERN_CHARS_MAX)).is_ok());
    }

    #[test]
    fn states_are_picked_by_the_words_that_are_shown() {
        let states = |text: &str| Pattern::new(text).unwrap().action_states();
        assert_eq!(states("PEND%"), [ActionStatus::Waiting, ActionStatus::Pending]);
        assert_eq!(states("waiting"), []);
        assert_eq!(states("%").len(), ActionStatus::ALL.len());
        assert_eq!(Pattern::new("_dle").unwrap().agent_states(), [AgentStatus::Idle]);
        assert_eq!(Pattern::new("success").unwrap().command_states(), [CommandStatus::Success]);
        assert_eq!(Pattern::new("dis%").unwrap().investigator_states(), [InvestigatorStatus::Disabled]);
    }
}
