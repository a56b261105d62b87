//! Places in a document, with the meaning they have in PostgreSQL.

use super::Document;
use serde_json::Value;
use std::borrow::Cow;

/// A place in a document and how what stands there is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Which document.
    pub document: Document,
    /// Steps that give pieces of the document (`->`).
    pub steps: Vec<Step>,
    /// How the last piece is taken.
    pub form: Form,
}

/// One step into a document.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Step {
    /// Into an object.
    Key(String),
    /// Into a list, from 0; from the end when negative.
    Index(i32),
}

/// How the last piece of a path is taken.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Form {
    /// As a piece of a document.
    Json,
    /// As the text of the document (`::text`).
    Raw,
    /// One step further, and as a text (`->>`).
    Text(Step),
    /// Some steps further, and as a text (`#>>`); a step is a key or an index, as what stands there wants it.
    Deep(Vec<String>),
}

impl Step {
    fn into<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        match (self, value) {
            (Self::Key(key), Value::Object(object)) => object.get(key),
            (Self::Index(index), Value::Array(list)) => at(list, *index),
            _ => None,
        }
    }
}

fn at(list: &[Value], index: i32) -> Option<&Value> {
    let distance = usize::try_from(index.unsigned_abs()).ok()?;
    if index < 0 { list.len().checked_sub(distance).and_then(|index| list.get(index)) } else { list.get(distance) }
}

impl Path {
    /// Returns how many steps it has.
    pub(super) fn length(&self) -> usize {
        let last = match &self.form {
            Form::Json | Form::Raw => 0,
            Form::Text(_) => 1,
            Form::Deep(steps) => steps.len(),
        };
        self.steps.len() + last
    }

    /// Returns what stands there, as text; `None` for NULL. `Form::Json` is taken as its raw text.
    pub fn text<'a>(&self, document: &'a Value) -> Option<Cow<'a, str>> {
        take(document, &self.steps, &self.form)
    }
}

/// See [`Path::text`]; for who has the parts of a path only.
pub fn take<'a>(document: &'a Value, steps: &[Step], form: &Form) -> Option<Cow<'a, str>> {
    let piece = steps.iter().try_fold(document, |piece, step| step.into(piece))?;
    match form {
        Form::Json | Form::Raw => Some(Cow::Owned(piece.to_string())),
        Form::Text(step) => plain(step.into(piece)?),
        Form::Deep(steps) => plain(steps.iter().try_fold(piece, |piece, step| match piece {
            Value::Object(object) => object.get(step),
            Value::Array(list) => at(list, step.parse().ok()?),
            _ => None,
        })?),
    }
}

fn plain(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(Cow::Borrowed(text)),
        other => Some(Cow::Owned(other.to_string())),
    }
}
