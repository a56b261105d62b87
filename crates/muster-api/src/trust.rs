//! Documents of trust, and what machines believe.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A document of trust to send: to one machine, or to all that have the labels, now and as long as it counts.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustDocumentRequest {
    /// The document with its signatures, as a text.
    pub document: String,
    /// The one machine, 16 hexadecimal digits.
    #[serde(default)]
    pub agent: Option<String>,
    /// Labels that a machine must have, all of them, as `service:label`; none means every machine.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Why; kept in the journal.
    #[serde(default)]
    pub reason: String,
}

/// How a document of trust was sent.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TrustDocumentSent {
    /// What it is about: `keyring`, `acl` or `administrators`.
    pub kind: String,
    /// Its version.
    pub version: u64,
    /// When it stops counting, and is sent no more.
    pub expires: String,
    /// The message to the one machine.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// The broadcast to all others.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub broadcast: Option<String>,
}

/// Which machines are looked at.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct TrustQuery {
    /// Only those that this target picks; all unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Machines that believe the same. The server repeats what they say, and decides nothing by it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TrustRow {
    /// How many machines.
    pub agents: u64,
    /// One of them.
    pub example: String,
    /// What they say; absent when they never said anything, or say what too few others say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub told: Option<TrustTold>,
}

/// What machines say that they believe.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TrustTold {
    /// Version of the keyring; 0: the files of their configuration.
    pub keyring_version: u64,
    /// Fingerprints of its keys.
    pub keyring: Vec<String>,
    /// Version of the weights; 0: the file of their configuration.
    pub acl_version: u64,
    /// The weights, in the format of MIG's `acl.cfg`.
    pub acl: String,
    /// Names of their modules.
    pub modules: Vec<String>,
    /// Why they did not take the last document that they were sent; absent when they did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refusal: Option<String>,
    /// What administrators revoked there; absent when their agent does not report it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub revocations: Option<TrustRevocations>,
}

/// The document of revocations in force.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TrustRevocations {
    /// Its version; 0: there is none.
    pub version: u64,
    /// Serial numbers of certificates that it revokes.
    pub serials: u32,
    /// Fingerprints of certificates that it revokes.
    pub fingerprints: u32,
}
