//! Which machines a target picks, and targets kept under a name.

use crate::StoreError;
use async_trait::async_trait;
use muster_core::target::{FleetRow, Target};
use muster_core::{AgentId, Cause, Timestamp};
use std::fmt;

/// Which machines are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Enrolled ones that are online or idle, as MIG's scheduler does.
    Active,
    /// All that are enrolled.
    Enrolled,
}

/// How the machines stand that a target picks, whether actions reach them or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TargetStates {
    /// Enrolled, and online or idle.
    pub active: u64,
    /// Enrolled, and not heard of for longer.
    pub offline: u64,
    /// Waiting for approval.
    pub waiting: u64,
    /// Blocked.
    pub blocked: u64,
    /// Not let in before they come with a new key.
    pub rekeying: u64,
}

/// Why an action that is not standing was given to none of them.
impl fmt::Display for TargetStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.waiting, "waiting for approval"),
            (self.blocked, "blocked"),
            (self.rekeying, "asked for a new key"),
            (self.offline, "offline"),
            // They became so after it had looked at them.
            (self.active, "online by now, and not when it was started"),
        ];
        let kinds: Vec<_> =
            kinds.iter().filter(|(agents, _)| *agents > 0).map(|(agents, word)| format!("{word}: {agents}")).collect();
        match &kinds[..] {
            [] => f.write_str("given to no machine: no agent matches its target"),
            kinds => {
                write!(f, "given to no machine: all that match its target are beyond its reach ({})", kinds.join(", "))
            }
        }
    }
}

/// A target at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetQuery {
    /// The condition.
    pub target: Target,
    /// What NOW() is, and by what machines are online or not.
    pub now: Timestamp,
    /// Which machines are looked at.
    pub reach: Reach,
}

/// A target kept under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTarget {
    /// Its name, without the at sign.
    pub name: String,
    /// The condition. Holds no names.
    pub expression: String,
    /// What it is for.
    pub description: String,
    /// When it was last put.
    pub changed: Timestamp,
    /// By whom.
    pub changed_by: String,
}

/// What the store knows of targets. A target that takes longer than [`muster_core::limits::TARGET_TIME_MAX`] is refused.
#[async_trait]
pub trait TargetStore: Send + Sync {
    /// Returns a page of the machines that a target picks, in the order of their numbers, after the number `after`.
    async fn target_page(&self, query: TargetQuery, after: i64, limit: u32) -> Result<Vec<(i64, AgentId)>, StoreError>;

    /// Returns how many machines a target picks.
    async fn target_count(&self, query: TargetQuery) -> Result<u64, StoreError>;

    /// Returns how all machines stand at `now` that a target picks, but for deleted and replaced ones.
    async fn target_states(&self, target: Target, now: Timestamp) -> Result<TargetStates, StoreError>;

    /// Returns a machine that is not deleted as targets see it at `now`, with what the actions in `findings` found there.
    async fn target_row(
        &self,
        id: AgentId,
        findings: Vec<(u64, bool)>,
        now: Timestamp,
    ) -> Result<Option<FleetRow>, StoreError>;

    /// Keeps a target under a name, in the place of an older one. Refused: there are
    /// [`muster_core::limits::NAMED_TARGETS_MAX`] already.
    async fn named_target_put(&self, target: NamedTarget, cause: &Cause) -> Result<(), StoreError>;

    /// Returns all targets that have names, by name.
    async fn named_target_list(&self) -> Result<Vec<NamedTarget>, StoreError>;

    /// Deletes a named target. `false`: there was none, which is no error.
    async fn named_target_delete(&self, name: &str, now: Timestamp, cause: &Cause) -> Result<bool, StoreError>;
}
