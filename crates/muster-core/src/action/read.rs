//! An action out of JSON: bounded, with keys in any case (old files use capitals), each at most once.

use super::{Action, ActionError, ActionId, Description, Json, Operation, Threat, moment};
use crate::{Timestamp, limits};
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;

type Raw = Box<RawValue>;

/// An object's members, by their names in lower case.
#[derive(Default)]
struct Members(BTreeMap<String, Raw>);

impl Action {
    /// Reads an action from JSON of at most [`limits::ACTION_BYTES_MAX`] bytes. Keys that are not known are passed over,
    /// as are those that only a server may fill in; a known key that stands twice is refused, because readers differ in
    /// which of the two they take.
    pub fn parse(json: &[u8]) -> Result<Self, ActionError> {
        if json.len() > limits::ACTION_BYTES_MAX {
            return Err(ActionError::TooMany { what: "bytes", have: json.len(), max: limits::ACTION_BYTES_MAX });
        }
        let text = std::str::from_utf8(json).map_err(|error| bad(format!("it is not UTF-8: {error}")))?;
        depth_check(text)?;
        Self::of(serde_json::from_str(text).map_err(|error| bad(error.to_string()))?)
    }

    fn of(mut members: Members) -> Result<Self, ActionError> {
        let operations: Vec<Members> = members.take("operations")?;
        Ok(Self {
            id: id(&mut members)?,
            name: members.take("name")?,
            target: members.take("target")?,
            description: description(members.take("description")?)?,
            threat: threat(members.take("threat")?)?,
            valid_from: time(&mut members, "validfrom")?,
            expire_after: time(&mut members, "expireafter")?,
            operations: operations.into_iter().map(operation).collect::<Result<_, _>>()?,
            pgp_signatures: members.take("pgpsignatures")?,
            syntax_version: members.take("syntaxversion")?,
        })
    }
}

/// Clients send 0, and old ones the number as a floating point.
fn id(members: &mut Members) -> Result<Option<ActionId>, ActionError> {
    let number: f64 = members.take("id")?;
    if number == 0.0 {
        return Ok(None);
    }
    // A double prints as a whole number without a point, or is not one.
    let id = number.to_string().parse().map_err(|error| bad(format!("{error}")))?;
    Ok(Some(id))
}

fn time(members: &mut Members, key: &'static str) -> Result<Timestamp, ActionError> {
    let text: String = members.take(key)?;
    if text.is_empty() {
        // A time that was never set lies before every other.
        return Ok(Timestamp::from_nanos(i64::MIN));
    }
    let shown: String = text.chars().take(64).collect();
    moment(&text).ok_or_else(|| bad(format!("{key} must be written like 2026-01-02T03:04:05Z, not {shown:?}")))
}

fn operation(mut members: Members) -> Result<Operation, ActionError> {
    Ok(Operation {
        module: members.take("module")?,
        parameters: members.take::<Option<Json>>("parameters")?.unwrap_or_else(Json::null),
        is_compressed: members.take("is_compressed")?,
        want_compressed: members.take("want_compressed")?,
    })
}

fn description(mut members: Members) -> Result<Description, ActionError> {
    Ok(Description {
        author: members.take("author")?,
        email: members.take("email")?,
        url: members.take("url")?,
        revision: members.take("revision")?,
    })
}

fn threat(mut members: Members) -> Result<Threat, ActionError> {
    Ok(Threat {
        reference: members.take("ref")?,
        level: members.take("level")?,
        family: members.take("family")?,
        kind: members.take("type")?,
    })
}

impl Members {
    /// Takes out a member; what is not there or `null` is its type's empty value.
    fn take<T: DeserializeOwned + Default>(&mut self, key: &'static str) -> Result<T, ActionError> {
        let Some(raw) = self.0.remove(key) else { return Ok(T::default()) };
        let value: Option<T> = serde_json::from_str(raw.get()).map_err(|error| bad(format!("{key}: {error}")))?;
        Ok(value.unwrap_or_default())
    }
}

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((key, raw)) = map.next_entry::<String, Raw>()? {
                    if members.insert(key.to_ascii_lowercase(), raw).is_some() {
                        let key: String = key.chars().take(64).collect();
                        return Err(A::Error::custom(format!("the key {key:?} stands twice")));
                    }
                }
                Ok(Members(members))
            }
        }
        d.deserialize_map(Reader)
    }
}

/// Refuses deep nesting before a reader that calls itself sees it.
fn depth_check(text: &str) -> Result<(), ActionError> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limits::ACTION_DEPTH_MAX {
            return Err(ActionError::TooMany { what: "levels of nesting", have: depth, max: limits::ACTION_DEPTH_MAX });
        }
    }
    Ok(())
}

fn bad(problem: String) -> ActionError {
    ActionError::Json { problem }
}
