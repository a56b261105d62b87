//! Machines as the server remembers them.

use crate::{AgentId, ContactId, Label, Timestamp};
use std::collections::BTreeMap;

/// What a machine may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(i32)]
pub enum AgentState {
    /// Known and trusted with its own messages.
    Enrolled = 0,
    /// Known, but nothing of it is processed and nothing sent until somebody approves it.
    Waiting = 1,
    /// Kept out: whoever comes with this key is refused, and nothing is asked of it.
    Blocked = 2,
    /// Gone. The id stays taken, so that no other machine inherits it.
    Deleted = 3,
    /// Fleetspeak's blacklist: its messages are flagged, and all it is given is the demand for a new key.
    Rekeying = 4,
    /// The machine showed a new key and goes on under another id. Whoever still comes with this key has a copy of it, and
    /// is treated as one that is [`Self::Rekeying`].
    Replaced = 5,
}

impl AgentState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Enrolled, Self::Waiting, Self::Blocked, Self::Deleted, Self::Rekeying, Self::Replaced];

    /// Reads the stored number.
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i64 == number)
    }

    /// Whether all that it is given is the demand for a new key, and its messages are flagged.
    pub fn owes_key(self) -> bool {
        matches!(self, Self::Rekeying | Self::Replaced)
    }

    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Deleted => "deleted",
            Self::Rekeying => "rekeying",
            Self::Replaced => "replaced",
        }
    }
}

impl std::fmt::Display for AgentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Which.
    pub id: AgentId,
    /// Its whole public key, as DER SubjectPublicKeyInfo.
    pub key: Vec<u8>,
    /// What it may do.
    pub state: AgentState,
    /// Its labels, sorted.
    pub labels: Vec<Label>,
    /// When it was first seen.
    pub created: Timestamp,
    /// When it was last in contact (its creation, before the first contact), or a server noted that it holds its stream.
    pub last_contact: Timestamp,
    /// From where, as `ip:port`; empty before the first contact.
    pub last_address: String,
    /// What its own clock said then, if it said something that is a time.
    pub last_clock: Option<Timestamp>,
    /// Where the server that holds its stream can be woken (its wake-up URL); empty for a machine that polls.
    pub streaming_to: String,
    /// How often the chain of contacts split: a nonce that two later contacts refer to.
    pub nonce_splits: i64,
    /// How often a contact did not refer to the one just before it.
    pub nonce_skips: i64,
    /// When it was last evident that two machines share this key, if lately ([`crate::nonce::two_branches`]).
    pub clone_suspected: Option<Timestamp>,
    /// Why it is in its state, for people: the reason of a block, or whom a machine that waits looks like.
    pub state_note: String,
    /// When an operator asked for a new key that did not come yet.
    pub rekey_asked: Option<Timestamp>,
    /// Whose key vouched for this one: the id that the machine had before.
    pub predecessor: Option<AgentId>,
    /// The id under which the machine goes on.
    pub successor: Option<AgentId>,
    /// When it said that it stops; `None` since its next contact.
    pub left: Option<Timestamp>,
}

/// One contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Its number.
    pub id: ContactId,
    /// When. No two contacts of one machine in a row share a moment.
    pub at: Timestamp,
    /// The nonce the server gave out.
    pub sent_nonce: u64,
    /// The nonce the machine referred to; 0 for a machine without a past.
    pub received_nonce: u64,
    /// From where, as `ip:port`.
    pub address: String,
}

/// How much a process on a machine used over a while.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResourceUsage {
    /// `system` for the agent itself, else the service.
    pub scope: String,
    /// Which process.
    pub pid: i64,
    /// When it started, by the machine's clock.
    pub process_start: Option<Timestamp>,
    /// When it was measured, by the machine's clock.
    pub measured: Option<Timestamp>,
    /// When the server got it; set by the store.
    pub received: Option<Timestamp>,
    /// Milliseconds of processor time per second: user, mean.
    pub mean_user_cpu: f32,
    /// User, peak.
    pub max_user_cpu: f32,
    /// System, mean.
    pub mean_system_cpu: f32,
    /// System, peak.
    pub max_system_cpu: f32,
    /// Resident memory, mean, in whole MiB.
    pub mean_memory_mib: i32,
    /// Resident memory, peak, in whole MiB.
    pub max_memory_mib: i32,
    /// Open files, mean, cut to a whole number.
    pub mean_fds: i32,
    /// Open files, peak.
    pub max_fds: i32,
    /// Whether this is the last word of a process that ended.
    pub terminated: bool,
}

/// What was observed on a machine, by name. Values are text, numbers, truth values and lists of these; names are those
/// of docs/reference/facts.md.
pub type Facts = BTreeMap<String, serde_json::Value>;
