//! What an engine is told at its start.

use muster_core::label::LabelPattern;
use muster_core::limits;
use muster_store::reports::AgentTimes;
use std::collections::BTreeSet;
use std::time::Duration;

/// Who may become an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnrolmentPolicy {
    /// Every key that reaches the door.
    Open,
    /// Keys that show an enrolment token (a claimed label `enrol-token:…`).
    Token,
    /// Keys that claim one of `enrolment_labels`.
    Label,
    /// Every key is known, but waits until somebody approves it.
    Approval,
    /// None: only machines that are known already.
    Closed,
}

/// What an engine is told at its start. `Default` gives the documented defaults.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Who may become an agent.
    pub enrolment: EnrolmentPolicy,
    /// Labels of which one must be claimed under [`EnrolmentPolicy::Label`].
    pub enrolment_labels: BTreeSet<String>,
    /// Expressions of which one that is claimed is enough, too.
    pub enrolment_label_patterns: Vec<LabelPattern>,
    /// New machines per minute from one network (an IPv4 /24 or an IPv6 /64). 0: no limit.
    pub enrolments_per_minute: u32,
    /// A label that every contact must claim, or it is refused (Fleetspeak's `required_label`). Empty: none.
    pub required_label: String,
    /// Messages per second that one agent may send, with bursts of ten times as many. 0: no limit.
    pub agent_messages_per_second: u32,
    /// Where other servers can wake this one; empty for a server alone.
    pub wake_url: String,
    /// How long a stream lives.
    pub stream_life: Duration,
    /// How long a message waits before it is parked, unless it says itself.
    pub message_life: Duration,
    /// How long contacts and usage records are kept.
    pub contact_retention: Duration,
    /// How long finished messages are kept.
    pub message_retention: Duration,
    /// After how long without a contact agents are idle and offline, for all servers of the database.
    pub agent_times: AgentTimes,
    /// How often the fleet is counted.
    pub statistics_every: Duration,
    /// How long commands of actions that are done with are kept.
    pub command_retention: Duration,
    /// How long their results are kept; not longer than the commands.
    pub result_retention: Duration,
    /// How long sessions of agents that ended are kept.
    pub session_retention: Duration,
    /// How long statistics are kept.
    pub statistics_retention: Duration,
    /// Part of what is left of a broadcast's limit that one server takes at a time, 0 to 1.
    pub broadcast_fraction: f32,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            enrolment: EnrolmentPolicy::Open,
            enrolment_labels: BTreeSet::new(),
            enrolment_label_patterns: Vec::new(),
            enrolments_per_minute: 600,
            required_label: String::new(),
            agent_messages_per_second: 0,
            wake_url: String::new(),
            stream_life: limits::STREAM_LIFE,
            message_life: limits::MESSAGE_LIFE,
            contact_retention: limits::CONTACT_RETENTION,
            message_retention: limits::MESSAGE_RETENTION,
            agent_times: AgentTimes::default(),
            statistics_every: limits::STATISTICS_EVERY,
            command_retention: limits::COMMAND_RETENTION,
            result_retention: limits::COMMAND_RETENTION,
            session_retention: limits::SESSION_RETENTION,
            statistics_retention: limits::STATISTICS_RETENTION,
            broadcast_fraction: 0.5,
        }
    }
}
