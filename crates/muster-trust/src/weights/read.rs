//! An ACL from and to JSON, with nothing in it that two readers could take differently.

use super::{Acl, AclError, Permission, Weight, weight_check};
use crate::canonical::go_json;
use muster_core::limits;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PermissionJson {
    #[serde(alias = "MinimumWeight")]
    minimumweight: i64,
    #[serde(default, alias = "Investigators")]
    investigators: Option<BTreeMap<String, WeightJson>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightJson {
    #[serde(default, alias = "Fingerprint")]
    fingerprint: Option<String>,
    #[serde(default)]
    fingerprints: Vec<String>,
    #[serde(alias = "Weight")]
    weight: i64,
}

pub(super) fn parse(json: &[u8]) -> Result<Acl, AclError> {
    if json.len() > limits::TRUST_DOCUMENT_BYTES_MAX {
        return Err(AclError::TooLong { have: json.len() });
    }
    let text = std::str::from_utf8(json).map_err(|error| AclError::Json(error.to_string()))?;
    // The strict reader finds keys that stand twice, of which the other one would take the last in silence.
    let text = go_json(text).map_err(|error| AclError::Json(format!("{} at byte {}", error.problem, error.at)))?;
    let modules: BTreeMap<String, PermissionJson> =
        serde_json::from_str(&text).map_err(|error| AclError::Json(error.to_string()))?;
    let modules = modules.into_iter().map(|(module, json)| permission(&module, json).map(|read| (module, read)));
    Acl::new(modules.collect::<Result<_, _>>()?)
}

fn permission(module: &str, json: PermissionJson) -> Result<Permission, AclError> {
    let investigators = json.investigators.unwrap_or_default().into_iter();
    let investigators = investigators.map(|(name, json)| investigator(module, &name, json).map(|read| (name, read)));
    Ok(Permission {
        minimum_weight: weight(module, "the minimum", json.minimumweight)?,
        investigators: investigators.collect::<Result<_, _>>()?,
    })
}

fn investigator(module: &str, name: &str, json: WeightJson) -> Result<Weight, AclError> {
    let keys = json.fingerprint.into_iter().chain(json.fingerprints);
    let fingerprints = keys.map(|text| {
        text.parse().map_err(|error: muster_core::action::FingerprintError| AclError::Key {
            module: module.to_owned(),
            investigator: name.to_owned(),
            problem: error.to_string(),
        })
    });
    Ok(Weight { fingerprints: fingerprints.collect::<Result<_, _>>()?, weight: weight(module, name, json.weight)? })
}

fn weight(module: &str, what: &str, have: i64) -> Result<u32, AclError> {
    weight_check(module, what, have)?;
    u32::try_from(have).map_err(|_| AclError::Weight { module: module.to_owned(), what: what.to_owned(), have })
}

impl Acl {
    /// Writes the list in the form of `acl.cfg`. Who has several keys is written in a way that MIG does not read.
    pub fn to_json(&self) -> String {
        let modules = self.modules.iter().map(|(module, permission)| {
            let investigators = permission.investigators.iter();
            let investigators: Map<String, Value> =
                investigators.map(|(name, investigator)| (name.clone(), investigator_json(investigator))).collect();
            (module.clone(), json!({"minimumweight": permission.minimum_weight, "investigators": investigators}))
        });
        Value::Object(modules.collect()).to_string()
    }
}

fn investigator_json(investigator: &Weight) -> Value {
    match investigator.fingerprints.as_slice() {
        [one] => json!({"fingerprint": one, "weight": investigator.weight}),
        several => json!({"fingerprints": several, "weight": investigator.weight}),
    }
}
