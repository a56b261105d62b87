//! What a module answers with: MIG's result, field by field.

use serde::{Deserialize, Serialize};
use serde_json::Value;

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

    /// Returns the errors; none when there is no list.
    pub fn errors(&self) -> &[String] {
        self.errors.as_deref().unwrap_or_default()
    }
}

/// Makes JSON of a module's own types, which hold nothing that JSON cannot write.
pub(crate) fn to_value(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("elements have text as keys and finite numbers")
}
