//! Broadcasts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A broadcast to create.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BroadcastRequest {
    /// 16 hexadecimal digits; made by the server unless given.
    #[serde(default)]
    pub id: Option<String>,
    /// The service on the machines.
    pub service: String,
    /// The service it comes from; `service` unless told.
    #[serde(default)]
    pub source_service: Option<String>,
    /// What it is.
    #[serde(default)]
    pub message_type: String,
    /// As in a message.
    #[serde(default)]
    pub type_url: Option<String>,
    /// The body, base64.
    #[serde(default)]
    pub data: Option<String>,
    /// Labels that a machine must have, all of them, as `service:label`.
    #[serde(default)]
    pub labels: Vec<String>,
    /// How many machines at most; without it all.
    #[serde(default)]
    pub limit: Option<u64>,
    /// How long it is active, such as `2h`; without end unless told.
    #[serde(default)]
    pub expires_in: Option<String>,
    /// Replaces active broadcasts of this group with the same source, service and labels.
    #[serde(default)]
    pub group: Option<String>,
}

/// A broadcast.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BroadcastRow {
    /// 16 hexadecimal digits.
    pub id: String,
    /// The service it comes from.
    pub source_service: String,
    /// The service on the machines.
    pub service: String,
    /// What it is.
    pub message_type: String,
    /// Labels that a machine must have.
    pub labels: Vec<String>,
    /// How many machines at most; absent: all.
    pub limit: Option<u64>,
    /// How many it has reached.
    pub sent: u64,
    /// Whether it may still reach more.
    pub active: bool,
    /// When it was created.
    pub created: String,
    /// When it ends.
    pub expires: Option<String>,
    /// Its group.
    pub group: String,
}
