//! Reports about the fleet, and whether the journal is whole.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A line of a report.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReportRow {
    /// The name of the machine; in the report of versions, the version.
    pub name: String,
    /// MIG's name of the place, such as `linux.0011223344556677`; empty where there are several or none.
    pub queueloc: String,
    /// The machine, 16 hexadecimal digits; absent where there are several.
    pub agent: Option<String>,
    /// How many agents.
    pub count: u64,
    /// When it was last heard of.
    pub last_seen: String,
}

/// Where the journal is to be verified from.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct JournalVerifyQuery {
    /// Where the last part ended; from the beginning unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Lines to verify, 1 to 1000; 1000 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// What verifying a part of the journal found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JournalVerified {
    /// Lines that were verified.
    pub lines: u64,
    /// Lines from before there was a chain; only told with the first part.
    pub unchained: u64,
    /// The first fault. Nothing behind it was verified.
    pub fault: Option<JournalFault>,
    /// Give this as `cursor` to go on; absent at the end and after a fault.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
    /// The number of the last line. Kept elsewhere with its hash, it shows later whether the whole was replaced.
    pub head: i64,
    /// Its SHA-256.
    pub head_sha256: String,
}

/// A line of the journal that is not what was written.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JournalFault {
    /// The number of the line, or of the line that is missing.
    pub number: i64,
    /// What is wrong with it.
    pub what: String,
}
