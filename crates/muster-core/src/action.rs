//! Signed orders: an action, its operations, and the states of what comes of it. MIG's format of version 2.
//!
//! Stays true: what was signed keeps its text; nothing is filled in that its author did not write; what only the server
//! knows (states, times, counters) is never taken from a stranger's JSON. Not here: signatures and what they are worth
//! (muster-trust), targets and what they mean, parameters and what they mean.

mod check;
mod fingerprint;
mod json;
mod number_id;
mod read;
mod result_text;
mod state;
#[cfg(test)]
mod tests;
mod time;
mod write;

pub use check::{MARKERS, name_check, target_check};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use json::Json;
pub use number_id::{ActionId, CommandId, InvestigatorId, NumberIdError};
pub use result_text::{refusal_of, refusal_text, refused_results, result_text};
pub use state::{ActionStatus, AgentStatus, CommandStatus, Counters, InvestigatorStatus, StatusError};
pub use time::{DESTRUCTION_NONE, FINISH_NONE, START_NONE, UNSET, moment};

use crate::Timestamp;

/// The only version of the format that there is.
pub const SYNTAX_VERSION: u16 = 2;

/// A signed order to every machine that matches its target.
///
/// The signatures cover name, target, both times (to the second) and the operations, and nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// Given by the server; `None` as long as it is not.
    pub id: Option<ActionId>,
    /// What it is for, in its author's words. Signed.
    pub name: String,
    /// Which machines it is for: an expression over what is known of them. Signed.
    pub target: String,
    /// Who wrote it. Not signed.
    pub description: Description,
    /// What it looks for. Not signed.
    pub threat: Threat,
    /// No machine runs it earlier. Signed, in whole seconds.
    pub valid_from: Timestamp,
    /// No machine starts it later. Signed, in whole seconds.
    pub expire_after: Timestamp,
    /// What is run, in parallel. Signed.
    pub operations: Vec<Operation>,
    /// Detached OpenPGP signatures, one line each, as MIG writes them.
    pub pgp_signatures: Vec<String>,
    /// Must be [`SYNTAX_VERSION`]. Not signed.
    pub syntax_version: u16,
}

/// Who wrote an action; every part may be empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Description {
    /// A person's name.
    pub author: String,
    /// Where to ask.
    pub email: String,
    /// Where to read on.
    pub url: String,
    /// Which version of the file it is.
    pub revision: f64,
}

/// What an action looks for; every part may be empty. Its family `compliance` marks a question of compliance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Threat {
    /// What it is called elsewhere.
    pub reference: String,
    /// How bad it is.
    pub level: String,
    /// Its family.
    pub family: String,
    /// Its type.
    pub kind: String,
}

/// One call of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Which module.
    pub module: String,
    /// What the module is told, as its author wrote it; `null` when nothing was said.
    ///
    /// What a module is given comes from `muster-trust`, which hands out what was signed: this text can say more than
    /// the signature covers (a number's last digits, a key written twice).
    pub parameters: Json,
    /// The parameters are a text: base64 of gzip of JSON.
    pub is_compressed: bool,
    /// The author's program is to compress the parameters before it signs.
    pub want_compressed: bool,
}

/// Why an action cannot be taken. The first seven have MIG's words, which its users and their scripts know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// Without a name.
    #[error("action name is empty")]
    NameEmpty,
    /// Without a target.
    #[error("action target is empty")]
    TargetEmpty,
    /// Of another version.
    #[error("wring syntax version, expected 2")]
    SyntaxVersion,
    /// Ends before it begins.
    #[error("action expireafter is set before action validfrom")]
    WindowReversed,
    /// Over already.
    #[error("action expireafter is in the past")]
    Expired,
    /// Nothing to do, or `null`.
    #[error("action operations is empty")]
    OperationsEmpty,
    /// Signed by nobody.
    #[error("action pgpsignatures is empty")]
    SignaturesEmpty,
    /// Not yet.
    #[error("action validfrom is in the future")]
    TooEarly,
    /// Its window is longer than allowed.
    #[error("action is valid for {have_secs} s, at most {max_secs} s are allowed: choose an earlier expireafter")]
    WindowTooLong {
        /// Seconds from validfrom to expireafter.
        have_secs: u64,
        /// Seconds allowed.
        max_secs: u64,
    },
    /// A name or target after which the signed text could be read in two ways.
    #[error("action {field} must not hold {marker:?}: it parts the fields of the signed text")]
    Ambiguous {
        /// Which field.
        field: &'static str,
        /// What it holds.
        marker: &'static str,
    },
    /// A text is too long or holds what no text may.
    #[error("action {field} {problem}")]
    Text {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// More than the ceiling allows.
    #[error("action has {have} {what}, at most {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        have: usize,
        /// How many may be.
        max: usize,
    },
    /// Not JSON of an action.
    #[error("action is not JSON of the expected form: {problem}")]
    Json {
        /// Where and what.
        problem: String,
    },
}
