//! Machines.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::{IntoParams, ToSchema};

/// A machine in a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AgentSummary {
    /// 16 hexadecimal digits.
    pub id: String,
    /// `enrolled`, `waiting`, `blocked`, `deleted`, `rekeying` (blacklisted: a new key is demanded) or `replaced` (it goes on
    /// under `successor`).
    pub state: String,
    /// The host name it told, if it told its facts.
    pub hostname: Option<String>,
    /// `service:label`, sorted.
    pub labels: Vec<String>,
    /// When it was first seen.
    pub created: String,
    /// When it was last in contact; while a stream is held, within minutes of now.
    pub last_contact: String,
    /// From where, as `ip:port`.
    pub last_address: String,
    /// Whether a server holds a stream of it.
    pub streaming: bool,
    /// When two machines were last seen to share its key.
    pub clone_suspected: Option<String>,
    /// Why it is in its state, for people: the reason of a block, or whom a machine that waits looks like.
    #[serde(default)]
    pub state_note: String,
    /// When it was asked for a new key that did not come yet.
    #[serde(default)]
    pub rekey_asked: Option<String>,
    /// The id that it had before, whose key vouched for this one.
    #[serde(default)]
    pub predecessor: Option<String>,
    /// The id under which it goes on.
    #[serde(default)]
    pub successor: Option<String>,
    /// When it said that it stops; absent since its next contact.
    #[serde(default)]
    pub left: Option<String>,
}

/// Everything about a machine.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AgentDetail {
    /// What lists show.
    #[serde(flatten)]
    pub summary: AgentSummary,
    /// Its public key, PEM.
    pub public_key: String,
    /// What its clock said at the last contact.
    pub last_clock: Option<String>,
    /// How often its chain of nonces split.
    pub nonce_splits: i64,
    /// How often a contact did not refer to the one before it.
    pub nonce_skips: i64,
    /// Messages on their way to it.
    pub pending_messages: u64,
    /// Its facts by name; empty when it told none.
    pub facts: BTreeMap<String, Value>,
    /// When the facts came.
    pub facts_at: Option<String>,
    /// Machines with the same machine id or the same host name, blocked ones first, at most 20.
    #[serde(default)]
    pub lookalikes: Vec<Lookalike>,
}

/// A machine that looks like another.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Lookalike {
    /// 16 hexadecimal digits.
    pub id: String,
    /// Its state, as in lists.
    pub state: String,
    /// Its host name, in lower case; empty when it told none.
    pub hostname: String,
    /// Whether it has the same machine id.
    pub same_machine_id: bool,
    /// Whether it has the same host name.
    pub same_hostname: bool,
    /// When it was last in contact.
    pub last_contact: String,
}

/// Asks a machine for a new key.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RekeyRequest {
    /// Why; may be empty.
    #[serde(default)]
    pub reason: String,
    /// Whether to ask also a machine that would not be let in under its new key.
    #[serde(default)]
    pub force: bool,
}

/// Which machines a list holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct AgentQuery {
    /// Only in this state; without it: any but deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only with all these labels, parted by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// Only where the id, the host name or the address contains this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Only with a contact after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact_after: Option<String>,
    /// Only where a clone is suspected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clones: Option<bool>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Rows on the page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// One contact.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ContactRow {
    /// When.
    pub at: String,
    /// From where.
    pub address: String,
    /// The nonce it was given, 16 hexadecimal digits.
    pub sent_nonce: String,
    /// The nonce it referred to.
    pub received_nonce: String,
}

/// A usage record.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UsageRow {
    /// `system` or the service.
    pub scope: String,
    /// Which process.
    pub pid: i64,
    /// When the server got it.
    pub received: Option<String>,
    /// Milliseconds of user processor time per second, mean.
    pub mean_user_cpu: f32,
    /// Peak.
    pub max_user_cpu: f32,
    /// System processor time, mean.
    pub mean_system_cpu: f32,
    /// Peak.
    pub max_system_cpu: f32,
    /// MiB, mean.
    pub mean_memory_mib: i32,
    /// MiB, peak.
    pub max_memory_mib: i32,
    /// Open files, mean.
    pub mean_fds: i32,
    /// Peak.
    pub max_fds: i32,
    /// Whether the process has ended.
    pub terminated: bool,
}

/// From when to when usage records are wanted.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// Received at or after this time; a day ago unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Received before this time; now unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Rows on the page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Which events a list holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Only of this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Only of this code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Rows on the page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Something at the agents' door that is worth a look: a refused contact, or what an honest machine does not do.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EventRow {
    /// When.
    pub at: String,
    /// Who, if that much was known.
    pub agent: Option<String>,
    /// From where.
    pub address: String,
    /// A word for what happened, such as `key_mismatch` or `clone`; docs/reference/metrics.md lists them.
    pub code: String,
    /// What happened, for people.
    pub reason: String,
}

/// A message that could not be accepted.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterRow {
    /// When.
    pub at: String,
    /// Whose.
    pub agent: String,
    /// Why it was not accepted.
    pub reason: String,
    /// SHA-256 of the message as it came.
    pub sha256: String,
    /// Its first bytes, base64.
    pub head: String,
}

/// A new enrolment token.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolTokenRequest {
    /// Its name.
    pub name: String,
    /// How many machines it lets in; 1 unless told.
    #[serde(default)]
    pub uses: Option<u64>,
    /// How long it lasts, such as `2h` or `30d`; without end unless told.
    #[serde(default)]
    pub expires_in: Option<String>,
    /// Labels that each machine is given.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// An enrolment token, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EnrolTokenRow {
    /// Its name.
    pub name: String,
    /// Machines it may still let in.
    pub uses_left: u64,
    /// Labels that each is given.
    pub labels: Vec<String>,
    /// When it was made.
    pub created: String,
    /// When it lapses.
    pub expires: Option<String>,
}

/// A secret, shown once.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// The name it belongs to.
    pub name: String,
    /// The secret itself. Only its hash is kept.
    pub token: String,
}
