//! Investigators: people whose signatures make machines act, and what they are worth.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// An investigator to add.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvestigatorRequest {
    /// The person's name.
    pub name: String,
    /// The person's OpenPGP public key, armored; without it the person can sign nothing.
    #[serde(default)]
    pub public_key: Option<String>,
    /// What the person may do in MIG's API, as the sum of MIG's bits; what a new investigator may there unless told.
    #[serde(default)]
    pub permissions: Option<u32>,
    /// Why; kept in the journal.
    #[serde(default)]
    pub reason: String,
}

/// An investigator.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InvestigatorRow {
    /// The number.
    pub id: i64,
    /// The person's name.
    pub name: String,
    /// The fingerprint of the person's primary key, in hexadecimal; absent for somebody who only asks.
    pub fingerprint: Option<String>,
    /// `active` or `disabled`.
    pub status: String,
    /// What the person may do in MIG's API, as the sum of MIG's bits.
    pub permissions: u32,
    /// When the person was added.
    pub created: String,
    /// When anything of this changed last.
    pub modified: String,
    /// The public key, armored; only when one investigator is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

/// Which investigators a list holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct InvestigatorQuery {
    /// Only `active` or only `disabled` ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Rows on the page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// What an investigator may do from now on.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PermissionsRequest {
    /// The sum of MIG's bits.
    pub permissions: u32,
    /// Why; kept in the journal.
    #[serde(default)]
    pub reason: String,
}

/// A new key for an investigator.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// The OpenPGP public key, armored.
    pub public_key: String,
    /// Why; kept in the journal.
    #[serde(default)]
    pub reason: String,
}

/// What an investigator is worth on a machine, as the server notes it for previews. Machines decide by what they hold
/// themselves.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// On which machine, 16 hexadecimal digits.
    pub agent: String,
    /// For which module; `default` for all that are not named.
    pub module: String,
    /// How much; absent takes the note away.
    #[serde(default)]
    pub weight: Option<i64>,
    /// Why; kept in the journal.
    #[serde(default)]
    pub reason: String,
}

/// The least weight that a machine demands for a module, as the server notes it for previews.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MinimumRequest {
    /// How much; absent takes the note away.
    #[serde(default)]
    pub minimum: Option<i64>,
    /// Why; kept in the journal.
    #[serde(default)]
    pub reason: String,
}

/// What is noted of a module on a machine.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ModuleRuleRow {
    /// The module.
    pub module: String,
    /// The least weight that signatures must have together; absent: not said.
    pub minimum: Option<i64>,
    /// Who is worth how much.
    pub weights: Vec<WeightRow>,
}

/// What an investigator is worth.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WeightRow {
    /// The investigator's number.
    pub investigator: i64,
    /// How much.
    pub weight: i64,
}
