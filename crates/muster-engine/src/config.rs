//! What an engine is told at its start.

use muster_core::limits;
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
    /// Part of what is left of a broadcast's limit that one server takes at a time, 0 to 1.
    pub broadcast_fraction: f32,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            enrolment: EnrolmentPolicy::Open,
            enrolment_labels: BTreeSet::new(),
            enrolments_per_minute: 600,
            required_label: String::new(),
            agent_messages_per_second: 0,
            wake_url: String::new(),
            stream_life: limits::STREAM_LIFE,
            message_life: limits::MESSAGE_LIFE,
            contact_retention: limits::CONTACT_RETENTION,
            message_retention: limits::MESSAGE_RETENTION,
            broadcast_fraction: 0.5,
        }
    }
}
