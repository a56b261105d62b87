//! Parameters that are packed before they are signed, as MIG's clients do it, so that a large document fits into an action.
//!
//! Stays true: nothing is packed that carries a signature; what is packed unpacks to the same text; parameters that are no
//! smaller packed stay as they are.

use muster_core::action::{Json, Operation};
use muster_core::limits::{ACTION_BYTES_MAX, MODULE_PARAMETERS_BYTES_MAX};
use muster_modules::message::packed;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Bytes of parameters that are signed as they are, so that people and programs read them without unpacking.
pub(crate) const PLAIN_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a file with an action whose parameters are still to be packed.
pub(crate) const FILE_BYTES_MAX: usize = ACTION_BYTES_MAX + 4 * MODULE_PARAMETERS_BYTES_MAX;

/// Packs the parameters of an operation that are large, or that its author wants packed.
pub(crate) fn pack(operation: Operation) -> Operation {
    if operation.is_compressed {
        return operation;
    }
    let is_wanted = operation.want_compressed || operation.parameters.as_str().len() > PLAIN_BYTES_MAX;
    match is_wanted.then(|| smaller(operation.parameters.as_str())).flatten() {
        Some(parameters) => Operation { parameters, is_compressed: true, want_compressed: false, ..operation },
        None => Operation { want_compressed: false, ..operation },
    }
}

/// Returns parameters packed, when that makes them smaller. Blanks between values are left out first.
fn smaller(parameters: &str) -> Option<Json> {
    let plain: serde_json::Value = serde_json::from_str(parameters).ok()?;
    // The signed text has its numbers as doubles anyway, so reading them as values loses nothing that is signed.
    let text = serde_json::to_string(&packed(&plain.to_string())).ok()?;
    (text.len() < parameters.len()).then(|| Json::parse(text).ok()).flatten()
}

/// Packs the large parameters of an action that is too large to be read as one. What is no such action is returned as it
/// is: whoever reads it says why.
pub(crate) fn shrunk(json: Vec<u8>) -> Vec<u8> {
    if json.len() <= ACTION_BYTES_MAX {
        return json;
    }
    shrink(&json).unwrap_or(json)
}

type Members = BTreeMap<String, Box<RawValue>>;

fn shrink(json: &[u8]) -> Option<Vec<u8>> {
    let mut action: Members = serde_json::from_slice(json).ok()?;
    let key = |members: &Members, name: &str| members.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned();
    let is_signed = key(&action, "pgpsignatures").is_some_and(|key| !matches!(action[&key].get(), "null" | "[]"));
    if is_signed {
        return None;
    }
    let operations = key(&action, "operations")?;
    let mut list: Vec<Members> = serde_json::from_str(action[&operations].get()).ok()?;
    for operation in &mut list {
        let is_packed = key(operation, "is_compressed").is_some_and(|key| operation[&key].get() == "true");
        let Some(parameters) = key(operation, "parameters").filter(|_| !is_packed) else { continue };
        if operation[&parameters].get().len() <= PLAIN_BYTES_MAX {
            continue;
        }
        let text = smaller(operation[&parameters].get())?;
        operation.insert(parameters, RawValue::from_string(text.as_str().to_owned()).ok()?);
        if let Some(wish) = key(operation, "want_compressed") {
            operation.remove(&wish);
        }
        operation.insert("is_compressed".to_owned(), RawValue::from_string("true".to_owned()).ok()?);
    }
    action.insert(operations, serde_json::value::to_raw_value(&list).ok()?);
    serde_json::to_vec(&action).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::Action;
    use muster_modules::message::unpacked;
    use serde_json::{Value, json};

    fn operation(parameters: &Value) -> Operation {
        let parameters = Json::parse(parameters.to_string()).unwrap();
        Operation { module: "scribe".into(), parameters, is_compressed: false, want_compressed: false }
    }

    /// A document as large as a year of a distribution's notices.
    fn large() -> Value {
        let tests: Vec<_> = (0..2700)
            .map(|n| {
                json!({"test": format!("test-{n}"), "object": format!("obj-{}", n / 2), "name": "N".repeat(500), "description": "D".repeat(500),
                    "evr": {"operation": "<", "value": format!("{n}.0-1ubuntu0.{n}")}})
            })
            .collect();
        json!({"scribedoc": {"objects": [], "tests": tests}})
    }

    fn plain(operation: &Operation) -> Value {
        unpacked(serde_json::from_str::<&str>(operation.parameters.as_str()).unwrap()).unwrap()
    }

    #[test]
    fn case_14_a_document_of_three_megabytes_is_packed_into_an_action() {
        let (large, small) = (large(), json!({"scribedoc": {}}));
        let whole = operation(&large);
        assert!(whole.parameters.as_str().len() > 2_900_000);
        let made = pack(whole);
        assert!(made.is_compressed && made.parameters.as_str().len() < 200_000, "{}", made.parameters.as_str().len());
        assert_eq!(plain(&made), large);
        assert_eq!(pack(made.clone()), made, "twice is once");
        let kept = pack(operation(&small));
        assert!(!kept.is_compressed && kept == operation(&small), "{kept:?}");
    }

    #[test]
    fn case_14_a_file_with_such_a_document_is_read() {
        let large = large();
        let mut action = json!({"name": "x", "target": "os='linux'", "syntaxversion": 2, "PgpSignatures": [],
            "operations": [{"module": "pkg", "parameters": {"a": 1}}, {"module": "scribe", "Parameters": large, "want_compressed": true}]});
        let file = serde_json::to_vec_pretty(&action).unwrap();
        assert!(Action::parse(&file).is_err());
        let read = Action::parse(&shrunk(file)).unwrap();
        assert_eq!(plain(&read.operations[1]), large);
        assert!(!read.operations[0].is_compressed, "what is small stays as it is");
        assert!(read.operations[1].is_compressed && !read.operations[1].want_compressed);
        action["PgpSignatures"] = json!(["x"]);
        let signed = serde_json::to_vec(&action).unwrap();
        assert_eq!(shrunk(signed.clone()), signed, "what was signed is not touched");
        let noise = vec![b'['; ACTION_BYTES_MAX + 1];
        assert_eq!(shrunk(noise.clone()), noise);
    }

    #[test]
    fn parameters_that_are_to_be_packed_are_whatever_their_size() {
        let wanted = Operation { want_compressed: true, ..operation(&json!({"a": "x".repeat(1000)})) };
        let made = pack(wanted);
        assert!(made.is_compressed && !made.want_compressed);
        let tiny = pack(Operation { want_compressed: true, ..operation(&json!({})) });
        assert!(!tiny.is_compressed && !tiny.want_compressed, "packed it would be larger");
    }
}
