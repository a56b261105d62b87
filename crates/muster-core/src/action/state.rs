//! States of actions, commands, agents and investigators, in the words that MIG's programs and users know.

use std::fmt;
use std::str::FromStr;

/// A word that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no status of {kind}; there are: {known}")]
pub struct StatusError {
    kind: &'static str,
    text: String,
    known: String,
}

macro_rules! status {
    ($(#[$doc:meta])* $name:ident, $kind:literal, { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// Every one, in the order of life.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the word for it, which is also what the database holds.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = StatusError;
            fn from_str(text: &str) -> Result<Self, StatusError> {
                Self::ALL.iter().copied().find(|status| status.as_str() == text).ok_or_else(|| StatusError {
                    kind: $kind,
                    text: text.chars().take(64).collect(),
                    known: Self::ALL.iter().map(|status| status.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

status!(
    /// Where an action stands.
    ActionStatus, "an action", {
        /// Signed, but by too few: it waits for more signatures.
        Waiting = "waiting",
        /// Accepted; its window may not have begun.
        Pending = "pending",
        /// A server has taken it up.
        Scheduled = "scheduled",
        /// Its target is being expanded into commands.
        Preparing = "preparing",
        /// Every command exists; some are not done.
        Inflight = "inflight",
        /// The last command is done.
        Completed = "completed",
        /// Expired before it began, or nobody matched.
        Invalid = "invalid",
        /// Called back.
        Cancelled = "cancelled",
    }
);

impl ActionStatus {
    /// Returns whether nothing more happens to it.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Invalid | Self::Cancelled)
    }
}

status!(
    /// Where one agent's copy of an action stands.
    CommandStatus, "a command", {
        /// Waits for the agent, or runs there.
        Sent = "sent",
        /// Every operation succeeded.
        Success = "success",
        /// Called back before it ran.
        Cancelled = "cancelled",
        /// The action's window ended without a result.
        Expired = "expired",
        /// The agent refused it, or an operation failed.
        Failed = "failed",
        /// An operation took longer than it may.
        Timeout = "timeout",
    }
);

impl CommandStatus {
    /// Returns whether it counts as done.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Sent)
    }
}

status!(
    /// What is thought of an agent from its heartbeats.
    AgentStatus, "an agent", {
        /// Heard of lately.
        Online = "online",
        /// Not heard of for a while; still a target.
        Idle = "idle",
        /// Not heard of for long: no longer a target.
        Offline = "offline",
        /// Ordered to end itself.
        Destroyed = "destroyed",
    }
);

impl AgentStatus {
    /// Returns whether actions may be meant for it.
    pub const fn is_target(self) -> bool {
        matches!(self, Self::Online | Self::Idle)
    }
}

status!(
    /// Whether an investigator's signatures are taken.
    InvestigatorStatus, "an investigator", {
        /// They are.
        Active = "active",
        /// They are not.
        Disabled = "disabled",
    }
);

/// How many commands of an action stand where. MIG leaves out what is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Counters {
    /// All.
    #[serde(skip_serializing_if = "is_zero")]
    pub sent: u64,
    /// All but those in flight.
    #[serde(skip_serializing_if = "is_zero")]
    pub done: u64,
    /// Without a result.
    #[serde(skip_serializing_if = "is_zero")]
    pub inflight: u64,
    /// Succeeded.
    #[serde(skip_serializing_if = "is_zero")]
    pub success: u64,
    /// Called back.
    #[serde(skip_serializing_if = "is_zero")]
    pub cancelled: u64,
    /// Not answered in time.
    #[serde(skip_serializing_if = "is_zero")]
    pub expired: u64,
    /// Refused or failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: u64,
    /// Cut off.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Counters {
    /// Counts `count` more commands of one status; the sums follow.
    pub fn add(&mut self, status: CommandStatus, count: u64) {
        let counter = match status {
            CommandStatus::Sent => &mut self.inflight,
            CommandStatus::Success => &mut self.success,
            CommandStatus::Cancelled => &mut self.cancelled,
            CommandStatus::Expired => &mut self.expired,
            CommandStatus::Failed => &mut self.failed,
            CommandStatus::Timeout => &mut self.timeout,
        };
        *counter = counter.saturating_add(count);
        self.sent = self.sent.saturating_add(count);
        if status.is_final() {
            self.done = self.done.saturating_add(count);
        }
    }
}
