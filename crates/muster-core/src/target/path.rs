//! Places in a document, with the meaning they have in PostgreSQL.

use super::Document;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;

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

/// Reads as much of a document as [`take`] looks at on this path: one entry of an object, or all of it. The rest must be
/// JSON too, but nothing is made of it, which takes half the time.
pub fn read(document: &str, steps: &[Step], form: &Form) -> serde_json::Result<Value> {
    let key = match (steps, form) {
        ([Step::Key(key), ..], _) | ([], Form::Text(Step::Key(key))) => key,
        // What could be an index is looked up in lists too.
        ([], Form::Deep(steps)) => match steps.first() {
            Some(key) if key.parse::<i32>().is_err() => key,
            _ => return serde_json::from_str(document),
        },
        _ => return serde_json::from_str(document),
    };
    let mut reader = serde_json::Deserializer::from_str(document);
    let value = Entry(key).deserialize(&mut reader)?;
    reader.end().map(|()| value)
}

/// Makes an object with one entry of the one that is read; null of anything else.
struct Entry<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(is_wanted) = entries.next_key_seed(Same(self.0))? {
            if is_wanted {
                object.insert(self.0.to_owned(), entries.next_value()?);
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Object(object))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// Whether a key is the one that is wanted.
struct Same<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Same<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Same<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

fn plain(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(Cow::Borrowed(text)),
        other => Some(Cow::Owned(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_for_a_path_answers_it_as_the_whole_document_does() {
        let documents = [
            r#"{"a":{"b":[1,"two",null]},"c":"text","d":null,"0":7,"a\u0062":true,"a":{"b":["last"],"z":1.50}}"#,
            "{}",
            r#"[["a"],{"a":1}]"#,
            r#""a""#,
            "17",
            "-1.5e3",
            "true",
            "null",
        ];
        let key = |name: &str| Step::Key(name.to_owned());
        let deep = |steps: &[&str]| Form::Deep(steps.iter().map(|step| (*step).to_owned()).collect());
        let mut paths = vec![(vec![], Form::Raw), (vec![Step::Index(0)], Form::Text(Step::Index(-1)))];
        for name in ["a", "c", "d", "0", "ab", "none"] {
            paths.extend([
                (vec![], Form::Text(key(name))),
                (vec![key(name)], Form::Json),
                (vec![key(name)], Form::Text(key("b"))),
                (vec![key(name), key("b")], Form::Text(Step::Index(0))),
                (vec![], deep(&[name])),
                (vec![], deep(&[name, "b", "-1"])),
            ]);
        }
        for document in documents {
            let whole: Value = serde_json::from_str(document).unwrap();
            for (steps, form) in &paths {
                let part = read(document, steps, form).unwrap();
                assert_eq!(take(&part, steps, form), take(&whole, steps, form), "{document} {steps:?} {form:?}");
            }
        }
    }

    #[test]
    fn what_is_no_json_is_an_error_wherever_it_is_broken() {
        for broken in ["", "{", r#"{"a":1,}"#, r#"{"b":[1,}]}"#, r#"{"a":1} x"#, r#"{"b":tru}"#] {
            assert!(read(broken, &[Step::Key("a".to_owned())], &Form::Json).is_err(), "{broken}");
        }
    }
}
