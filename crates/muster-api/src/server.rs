//! The server itself: how it stands, who may use it, what was done with it.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// How a server stands.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServerStatus {
    /// The program's version.
    pub version: String,
    /// When it started.
    pub started: String,
    /// `sqlite` or `postgresql`.
    pub database: String,
    /// Streams that this server holds.
    pub streams: u64,
    /// Machines by state.
    pub agents: Vec<Count>,
    /// All living servers.
    pub servers: Vec<ServerRow>,
}

/// A number under a name.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Count {
    /// The name.
    pub name: String,
    /// The number.
    pub count: u64,
}

/// A living server.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServerRow {
    /// 16 hexadecimal digits, new at each start.
    pub id: String,
    /// Where other servers wake it.
    pub wake_url: String,
    /// When it started.
    pub started: String,
    /// When it last said that it lives.
    pub beat: String,
    /// Whether it is the one that answers.
    pub this: bool,
}

/// One thing that `muster doctor` looked at.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// `ok`, `warning` or `failed`.
    pub outcome: String,
    /// What was found.
    pub found: String,
    /// What to do, when it is not `ok`.
    pub advice: Option<String>,
}

/// An access token, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenRow {
    /// Its name, which the journal shows.
    pub name: String,
    /// What it gives: roles (`viewer`, `operator`, `investigator`, `auditor`, `admin`) and permissions such as
    /// `labels.write`, with commas between them.
    pub role: String,
    /// When it was made.
    pub created: String,
    /// When it lapses.
    pub expires: Option<String>,
}

/// An access token to make.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Its name.
    pub name: String,
    /// What it gives: roles (`viewer`, `operator`, `investigator`, `auditor`, `admin`) and permissions such as
    /// `labels.write`, with commas between them; no more than the token that makes it has. `reader` is an older name of
    /// `auditor`.
    pub role: String,
    /// How long it lasts, such as `90d`; without end unless told.
    #[serde(default)]
    pub expires_in: Option<String>,
}

/// A line of the journal.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JournalRow {
    /// Its number.
    pub number: i64,
    /// When.
    pub at: String,
    /// Who: the name of a token, `local`, or `server`.
    pub actor: String,
    /// The request, as the log has it.
    pub request: String,
    /// The reason that was given.
    pub reason: String,
    /// What was done, such as `agent.block`.
    pub action: String,
    /// To what.
    pub subject: String,
    /// Details.
    pub details: serde_json::Value,
}

/// A page of a list without filters.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Rows on the page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}
