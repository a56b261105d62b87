//! Signed actions: what was ordered, on which machines, and what came back.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

/// An action to launch, or to look at before it is launched.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    /// The action's file as a text: JSON in MIG's format of version 2, with its signatures.
    pub action: String,
    /// Also for machines that are offline now, and for those that are first seen before it expires.
    #[serde(default)]
    pub standing: bool,
    /// If it matches more machines than this, it is refused (a standing one stops there).
    #[serde(default)]
    pub hosts_max: Option<u64>,
    /// Shares of the matching machines, in rising per cent, that get it one after the other, such as `[1, 10]`; all the
    /// others come last. Unless told, `[1, 10]` for modules that change something and none for others; `[100]`: none.
    #[serde(default)]
    pub rings: Vec<u8>,
    /// Halts before the next share when more than so many per cent of what is done has failed; 10 unless told.
    #[serde(default)]
    pub halt_percent: Option<u8>,
    /// Why; kept in the journal.
    #[serde(default)]
    pub reason: String,
}

/// An action to look at before anybody has signed it, or before it is launched.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewRequest {
    /// The action's file as a text: JSON in MIG's format of version 2. It needs no signatures, and whoever sends one
    /// gives it away.
    pub action: String,
    /// Who will sign, or has signed: fingerprints or key ids in hexadecimal. They are believed here, and nowhere else.
    #[serde(default)]
    pub signers: Vec<String>,
    /// As for a launch.
    #[serde(default)]
    pub standing: bool,
    /// As for a launch: more matching machines than this are a problem.
    #[serde(default)]
    pub hosts_max: Option<u64>,
    /// As for a launch.
    #[serde(default)]
    pub rings: Vec<u8>,
    /// As for a launch.
    #[serde(default)]
    pub halt_percent: Option<u8>,
    /// Not kept.
    #[serde(default)]
    pub reason: String,
}

/// A further signature for an action that waits for signatures.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignatureRequest {
    /// A detached OpenPGP signature of the text that `signed_text` shows: armored, or as MIG's one line.
    pub signature: String,
    /// Why; kept in the journal.
    #[serde(default)]
    pub reason: String,
}

/// A demand to call an action back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// Why; kept in the journal.
    #[serde(default)]
    pub reason: String,
    /// A detached OpenPGP signature over the cancellation (docs/reference/trust.md), by one of those who signed the action or
    /// somebody of their weight. Without one the server only hands the action out no more: machines that have it run it.
    #[serde(default)]
    pub signature: String,
    /// The fleet that the cancellation names; empty: none.
    #[serde(default)]
    pub fleet: String,
}

/// Who signed an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Signer {
    /// The investigator's number.
    pub investigator: i64,
    /// The investigator's name.
    pub name: String,
    /// The fingerprint of the investigator's key, in hexadecimal.
    pub fingerprint: String,
}

/// How the commands of an action stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActionCounters {
    /// All commands.
    pub sent: u64,
    /// All but those in flight.
    pub done: u64,
    /// Without a result.
    pub inflight: u64,
    /// Every operation succeeded.
    pub success: u64,
    /// Called back.
    pub cancelled: u64,
    /// Not answered in time.
    pub expired: u64,
    /// Refused, or an operation failed.
    pub failed: u64,
    /// An operation took too long.
    pub timeout: u64,
}

/// An action in a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ActionSummary {
    /// Its number.
    pub id: i64,
    /// What it is for.
    pub name: String,
    /// Which machines it is for.
    pub target: String,
    /// `waiting` (for signatures), `pending`, `scheduled`, `preparing`, `inflight`, `completed`, `invalid` or
    /// `cancelled`.
    pub status: String,
    /// Why it is invalid, cancelled or halted; empty otherwise.
    pub reason: String,
    /// No machine runs it earlier.
    pub valid_from: String,
    /// No machine starts it later.
    pub expire_after: String,
    /// When it came in.
    pub created: String,
    /// When its target was expanded.
    pub started: Option<String>,
    /// When it reached its last status.
    pub finished: Option<String>,
    /// When anything of it changed last.
    pub updated: String,
    /// When it halted between two shares, if it stands still now.
    pub halted: Option<String>,
    /// How many machines matched when it was started, as far as that was counted.
    pub matched: u64,
    /// How its commands stand.
    pub counters: ActionCounters,
    /// Results that came after the first one of their command, or after its end.
    pub late: u64,
}

/// Everything about an action.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ActionDetail {
    /// What lists show.
    #[serde(flatten)]
    pub summary: ActionSummary,
    /// Who signed.
    pub signers: Vec<Signer>,
    /// Whether it is also for machines that are offline or first seen later.
    pub standing: bool,
    /// More machines than this are not given it.
    pub hosts_max: Option<u64>,
    /// Shares of the matching machines, in per cent.
    pub rings: Vec<u8>,
    /// More failures than so many per cent halt it between two shares.
    pub halt_percent: u8,
    /// The action as JSON, with all signatures.
    pub action: String,
    /// The text that signatures cover.
    pub signed_text: String,
    /// SHA-256 of that text.
    pub signed_sha256: String,
}

/// What came of launching an action.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ActionLaunched {
    /// The same bytes were signed and launched before: nothing was done.
    pub again: bool,
    /// The action.
    pub action: ActionDetail,
}

/// Which actions a list holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ActionQuery {
    /// Only with this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Only signed by the investigator with this number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub investigator: Option<i64>,
    /// Only with a name that holds this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Rows on the page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// What would come of an action if it were launched now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Preview {
    /// Who signed.
    pub signers: Vec<Signer>,
    /// Why it would not be taken: signatures that do not count, too many machines, weights that nobody reaches. One
    /// sentence each.
    pub problems: Vec<String>,
    /// The number of the action with the same signed text, if it was launched before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<i64>,
    /// Machines that match its target and are reached (online, idle, or any if it is standing).
    pub matched: u64,
    /// How those stand that match its target and are not reached; of a standing action only where none is reached.
    #[serde(default)]
    pub beyond: Beyond,
    /// Of these, how many were asked for what they would say: at most some thousands.
    pub asked: u64,
    /// Of these, how many would run it, as far as the server knows.
    pub willing: u64,
    /// Of these, how many never told what they demand.
    pub unknown: u64,
    /// Of these, of how many the server notes something itself; at most 1000 are looked at.
    #[serde(default)]
    pub noted: u64,
    /// Of these, who would refuse it, most machines first.
    pub refusals: Vec<PreviewRefusal>,
    /// Which weights its operations need: what machines said that have its modules, then what the server notes of those
    /// that never said. Most machines first, at most 50.
    #[serde(default)]
    pub demands: Vec<PreviewDemand>,
    /// Whether it would start at once; otherwise it would wait for more signatures.
    pub ready: bool,
    /// Whether it changes machines, as they say: then it reaches a few of them first.
    #[serde(default)]
    pub changes: bool,
}

/// Machines that an action means and does not reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Beyond {
    /// Enrolled, and not heard of for long: a standing action reaches them.
    pub offline: u64,
    /// Waiting for approval: a standing action reaches those that are approved in its window.
    pub waiting: u64,
    /// Blocked: a standing action reaches those that are unblocked in its window.
    pub blocked: u64,
    /// Not let in before they come with a new key.
    pub rekeying: u64,
}

/// Machines that demand the same weights of an action's operations.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PreviewDemand {
    /// Whose word it is: `machines`, who said so themselves, or `server`, whose notes a machine need not share.
    pub said_by: String,
    /// Whether the signatures weigh enough for all operations.
    pub met: bool,
    /// How many machines.
    pub agents: u64,
    /// Some of them.
    pub examples: Vec<String>,
    /// Each operation, in their order.
    pub operations: Vec<OperationDemand>,
}

/// What one operation needs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OperationDemand {
    /// Its module.
    pub module: String,
    /// The least weight; absent when nothing permits the module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub need: Option<u64>,
    /// What the signatures weigh.
    pub have: u64,
}

/// Machines that would refuse an action for the same reason.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PreviewRefusal {
    /// A word for the reason, such as `weight`.
    pub code: String,
    /// The reason in words.
    pub reason: String,
    /// How many machines.
    pub agents: u64,
    /// Some of them.
    pub examples: Vec<String>,
}

/// One machine's copy of an action, with its result. Also a line of `GET /api/v1/actions/{id}/results`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CommandRow {
    /// Its number.
    pub id: i64,
    /// The action's number.
    pub action: i64,
    /// The machine, 16 hexadecimal digits.
    pub agent: String,
    /// The machine's host name, if it told one.
    pub hostname: Option<String>,
    /// `sent`, `success`, `cancelled`, `expired`, `failed` or `timeout`.
    pub status: String,
    /// Whether the machine was given it.
    pub handed_out: bool,
    /// When it was created.
    pub started: String,
    /// When it reached its last status.
    pub finished: Option<String>,
    /// Whether its result found something.
    pub found: Option<bool>,
    /// The results of its operations in their order, in MIG's format; absent without a result, or when not asked for.
    /// In the text in which the machine sent them: they may be long, and most who pass them on do not read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub results: Option<Box<RawValue>>,
    /// The machine's signature over the results, if it made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<ResultProof>,
}

/// What proves that results are a machine's, whatever became of them on their way.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ResultProof {
    /// The machine's signature: ECDSA over P-256 with SHA-256, ASN.1 in base64.
    pub signature: String,
    /// The machine's public key, DER in base64. The machine's id is the beginning of its SHA-256.
    pub key: String,
}

/// Which commands a list holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct CommandQuery {
    /// Only with this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Only whose result found something (`true`) or nothing (`false`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<bool>,
    /// With results; without them unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results: Option<bool>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Rows on the page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Which results are wanted as lines of JSON, one command each: only of commands that are done.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ResultQuery {
    /// Only with this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Only whose result found something (`true`) or nothing (`false`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<bool>,
}

/// A result that came after the first one of its command, or after its end.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LateResultRow {
    /// The machine, 16 hexadecimal digits.
    pub agent: String,
    /// What it says.
    pub status: String,
    /// When it came.
    pub received: String,
    /// The results of its operations, in MIG's format.
    #[schema(value_type = serde_json::Value)]
    pub results: Box<RawValue>,
    /// What proves that they are the machine's; absent when it did not sign them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub proof: Option<ResultProof>,
}
