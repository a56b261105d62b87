//! Messages and services.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A message to send.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageRequest {
    /// 64 hexadecimal digits; made by the server unless given. The same id and content again is accepted again.
    #[serde(default)]
    pub id: Option<String>,
    /// The machine; without it the message goes to a service of the server.
    #[serde(default)]
    pub agent: Option<String>,
    /// The service that shall have it.
    pub service: String,
    /// The service it comes from; `operator` unless told.
    #[serde(default)]
    pub source_service: Option<String>,
    /// What it is, in the words of the service.
    #[serde(default)]
    pub message_type: String,
    /// What the bytes of `data` are; `type.googleapis.com/google.protobuf.BytesValue` around plain bytes unless told.
    #[serde(default)]
    pub type_url: Option<String>,
    /// The body, base64. With `type_url` it is taken as it is.
    #[serde(default)]
    pub data: Option<String>,
    /// How long it may wait before it is parked, such as `2h`.
    #[serde(default)]
    pub expires_in: Option<String>,
    /// `low`, `medium` or `high`.
    #[serde(default)]
    pub priority: Option<String>,
    /// Pairs to attach.
    #[serde(default)]
    pub annotations: Vec<Annotation>,
}

/// A pair attached to a message.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Annotation {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// A message.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MessageRow {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The machine it comes from; absent for a service of the server.
    pub source_agent: Option<String>,
    /// The service it comes from.
    pub source_service: String,
    /// The machine it goes to; absent for a service of the server.
    pub agent: Option<String>,
    /// The service it goes to.
    pub service: String,
    /// What it is.
    pub message_type: String,
    /// `pending`, `done`, `failed` or `parked`.
    pub state: String,
    /// When it came into being.
    pub created: String,
    /// When it falls due (again), while it is pending.
    pub due: Option<String>,
    /// When it is parked if it still waits then.
    pub expires: Option<String>,
    /// How often it was handed out or tried.
    pub attempts: u32,
    /// When it was done with.
    pub processed: Option<String>,
    /// Why it failed for good, or what the last try said.
    pub error: Option<String>,
    /// What the bytes of `data` are.
    pub type_url: Option<String>,
    /// The body, base64, where it was asked for and is still kept. A `BytesValue` or `StringValue` is unwrapped.
    pub data: Option<String>,
    /// Pairs attached to it.
    pub annotations: Vec<Annotation>,
    /// Whether its sender was blocked when it came.
    pub from_blocked: bool,
}

/// Which messages a list holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct MessageQuery {
    /// Only from or to this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Only to this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Rows on the page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// How a service of the server stands.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServiceRow {
    /// Its name.
    pub name: String,
    /// `built-in`, `grpc`, `noop`, `spool`, or `unknown` when messages wait for a service that this server lacks.
    pub kind: String,
    /// Messages that wait for it.
    pub pending: u64,
    /// Seconds since the oldest of them was created.
    pub lag_seconds: Option<f64>,
    /// Messages that were given up.
    pub parked: u64,
    /// What the last failed try said.
    pub last_error: Option<String>,
    /// How it takes messages, as the server that answers sees it: `ok`, `refusing`, or `hanging` when it does not answer in
    /// time. Absent where nothing is called.
    pub state: Option<String>,
    /// Since when it does not take messages.
    pub since: Option<String>,
    /// Messages of machines to it that could not be accepted in the last day, and are lost.
    pub lost: u64,
    /// Why the last of them was not accepted.
    pub lost_reason: Option<String>,
}
