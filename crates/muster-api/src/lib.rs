//! What the REST API says: one definition of every request and answer, used by the server, which generates the OpenAPI
//! document from it, and by the command line, which speaks it.
//!
//! Stays true: these types are never stored and stored types are never read from a request; an unknown field in a
//! request is refused; times are RFC 3339, ids are lower-case hexadecimal, bytes are standard base64.
//! Not here: routes (muster-server, `rest`) and HTTP (muster-cli, `connect`).

pub mod actions;
pub mod agents;
pub mod broadcasts;
pub mod files;
pub mod investigators;
pub mod messages;
pub mod reports;
pub mod server;
pub mod targets;
pub mod trust;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The root of all paths of the API.
pub const ROOT: &str = "/api/v1";

/// A page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Give this as `cursor` to get the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
}

/// The rows of a list that is never longer than a page.
impl<T> FromIterator<T> for Page<T> {
    fn from_iter<I: IntoIterator<Item = T>>(rows: I) -> Self {
        Self { items: rows.into_iter().collect(), next: None }
    }
}

/// Why a request was refused (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A stable word for the kind of problem, such as `not_found`; also the anchor in docs/reference/errors.md.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status again.
    pub status: u16,
    /// What failed, on what, why, and what to do next.
    pub detail: String,
    /// The id of the request, as the server's log has it.
    #[serde(default)]
    pub request: String,
}

/// The reason of a change, kept in the journal.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Why; may be empty.
    #[serde(default)]
    pub reason: String,
}
