//! What a module answers with: MIG's result, field by field.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What statistics call the list of what ended an answer before it was whole.
const CUT: &str = "cut";
/// What statistics call the paths of a question that are not on the machine.
const MISSING: &str = "missing";

/// The answer of one operation on one machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModuleResult {
    /// Whether something was found.
    #[serde(deserialize_with = "null_is_default")]
    pub foundanything: bool,
    /// Whether the module ran without an error that ended it.
    #[serde(deserialize_with = "null_is_default")]
    pub success: bool,
    /// What was found; its form is the module's.
    pub elements: Value,
    /// How the module ran; its form is the module's.
    pub statistics: Value,
    /// Errors, also those that ended nothing. `None` travels as `null`, as MIG writes it.
    pub errors: Option<Vec<String>>,
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

impl ModuleResult {
    /// Returns the result of a module that was ended by `error`.
    pub fn failed(error: impl Into<String>) -> Self {
        Self { errors: Some(vec![error.into()]), ..Self::default() }
    }

    /// Returns the result of a module that ran, with what it found.
    pub fn ran(found: bool, elements: impl Serialize, statistics: impl Serialize) -> Self {
        Self {
            foundanything: found,
            success: true,
            elements: to_value(elements),
            statistics: to_value(statistics),
            errors: None,
        }
    }

    /// Adds errors that ended nothing.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<String>) -> Self {
        if !errors.is_empty() {
            self.errors.get_or_insert_default().extend(errors);
        }
        self
    }

    /// Says what ended the answer before it was whole, such as a ceiling: among the errors, for people, and in the
    /// statistics (`cut`), for programs. What was found is right, and there may be more.
    #[must_use]
    pub fn with_cuts(mut self, cuts: Vec<String>) -> Self {
        self.count(CUT, &cuts);
        self.with_errors(cuts)
    }

    /// Says which paths of the question are not on this machine, in the statistics (`missing`): nothing is to be found there,
    /// and that is an answer.
    #[must_use]
    pub fn with_missing(mut self, paths: &[String]) -> Self {
        self.count(MISSING, paths);
        self
    }

    /// Returns the line that says which paths of the question are not on this machine; nothing when all are.
    pub fn missing_line(&self) -> Option<String> {
        let paths = missing(&self.statistics);
        (!paths.is_empty()).then(|| format!("Not on this machine: {}", paths.join(", ")))
    }

    /// Returns the paths of the question that are not on this machine.
    pub fn missing(&self) -> Vec<&str> {
        missing(&self.statistics)
    }

    fn count(&mut self, name: &str, values: &[String]) {
        if values.is_empty() {
            return;
        }
        if self.statistics.is_null() {
            self.statistics = Value::Object(serde_json::Map::new());
        }
        if let Some(statistics) = self.statistics.as_object_mut() {
            statistics.insert(name.to_owned(), to_value(values));
        }
    }

    /// Returns the errors; none when there is no list.
    pub fn errors(&self) -> &[String] {
        self.errors.as_deref().unwrap_or_default()
    }
}

/// Returns the paths of the question that are not on the machine whose statistics these are.
pub fn missing(statistics: &Value) -> Vec<&str> {
    let paths = statistics.get(MISSING).and_then(Value::as_array);
    paths.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Makes JSON of a module's own types, which hold nothing that JSON cannot write.
pub(crate) fn to_value(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("elements have text as keys and finite numbers")
}
