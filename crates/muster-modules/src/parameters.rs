//! Parameters out of JSON: keys in any case, as Go reads them, and nothing that means nothing.
//!
//! Stays true: a key that a module does not know, a key that stands twice in two spellings, and a list where an object
//! belongs are refused with their place. A question that says something else than its author meant would be answered
//! with "nothing found". Keys that are themselves values, such as the labels of searches, keep their spelling.

use muster_core::text::cut;
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Value};

/// Characters of a key that are repeated in an error.
const KEY_CHARS_SHOWN: usize = 64;
/// Keys of old files, and what is written for them since.
const RENAMED: [(&str, &str); 4] =
    [("regexes", "contents"), ("filenames", "names"), ("filename", "names"), ("content", "contents")];

/// Reads parameters.
///
/// # Errors
/// Where they are not what `T` takes, and what is wrong there.
pub(crate) fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(Reader(value))
}

struct Reader<'de>(&'de Value);

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(members) => visitor.visit_map(Members::as_they_are(members)),
            Value::Array(values) => visitor.visit_seq(Items { values: values.iter(), at: 0 }),
            leaf => leaf.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Value::Object(members) = self.0 else {
            let kind = kind(self.0);
            return Err(Error::custom(format!("there must be an object with keys ({}), not {kind}", known.join(", "))));
        };
        visitor.visit_map(Members::of(members, known)?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The members of an object under the names that they are read by.
struct Members<'de> {
    members: std::vec::IntoIter<(&'de str, &'de Value)>,
    next: Option<(&'de str, &'de Value)>,
}

impl<'de> Members<'de> {
    fn as_they_are(members: &'de Map<String, Value>) -> Self {
        let members: Vec<_> = members.iter().map(|(key, value)| (key.as_str(), value)).collect();
        Self { members: members.into_iter(), next: None }
    }

    fn of(members: &'de Map<String, Value>, known: &'static [&'static str]) -> Result<Self, Error> {
        let mut read: Vec<(&'de str, &'de Value)> = Vec::with_capacity(members.len());
        for (key, value) in members {
            let name = known.iter().find(|name| name.eq_ignore_ascii_case(key)).ok_or_else(|| unknown(key, known))?;
            if read.iter().any(|(have, _)| have == name) {
                return Err(Error::custom(format!("the key {name:?} stands twice, in two spellings")));
            }
            read.push((name, value));
        }
        Ok(Self { members: read.into_iter(), next: None })
    }
}

fn unknown(key: &str, known: &[&str]) -> Error {
    let renamed = RENAMED.iter().find(|(old, new)| *old == key && known.contains(new));
    let hint = renamed.map(|(_, new)| format!("; it is called {new:?} now")).unwrap_or_default();
    let known = if known.is_empty() { "no keys".to_owned() } else { known.join(", ") };
    Error::custom(format!("there is no key {:?}{hint}; there are {known}", cut(key, KEY_CHARS_SHOWN)))
}

impl<'de> MapAccess<'de> for Members<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.next = self.members.next();
        self.next.map(|(key, _)| seed.deserialize(BorrowedStrDeserializer::new(key))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.next.take().expect("a value follows its key");
        let at = |error: Error| Error::custom(format!("{}: {error}", cut(key, KEY_CHARS_SHOWN)));
        seed.deserialize(Reader(value)).map_err(at)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.members.len())
    }
}

/// The values of a list.
struct Items<'de> {
    values: std::slice::Iter<'de, Value>,
    at: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.at += 1;
        let at = |error: Error| Error::custom(format!("number {}: {error}", self.at));
        self.values.next().map(|value| seed.deserialize(Reader(value)).map_err(at)).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.values.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Asked {
        searches: BTreeMap<String, Search>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Search {
        paths: Vec<String>,
        contents: Vec<String>,
        #[serde(rename = "import-chain")]
        chain: Option<Vec<String>>,
        depth: f64,
    }

    fn asked(value: &Value) -> Result<Asked, String> {
        read(value).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_are_read_in_any_case_and_labels_as_they_are() {
        let value = json!({"SEARCHES": {"Up": {"Paths": ["/"], "depth": 3, "Import-Chain": ["x"]}, "up": {}}});
        let read = asked(&value).unwrap();
        assert_eq!(read.searches.keys().collect::<Vec<_>>(), ["Up", "up"]);
        let up = &read.searches["Up"];
        assert_eq!(
            (&up.paths[..], up.depth, up.chain.as_deref()),
            (&["/".to_owned()][..], 3.0, Some(&["x".to_owned()][..]))
        );
    }

    #[test]
    fn what_means_nothing_is_refused_with_its_place() {
        for (value, why) in [
            (json!({"passwd": {}}), "there is no key \"passwd\"; there are searches"),
            (
                json!({"searches": {"up": {"paths": [], "regexes": []}}}),
                "searches: up: there is no key \"regexes\"; it is called \"contents\" now; there are paths, contents, import-chain, depth",
            ),
            (
                json!({"searches": {"s": {"paths": [], "Paths": []}}}),
                "searches: s: the key \"paths\" stands twice, in two spellings",
            ),
            (json!([{}]), "there must be an object with keys (searches), not a list"),
            (
                json!({"searches": {"s": [["/etc"]]}}),
                "searches: s: there must be an object with keys (paths, contents, import-chain, depth), not a list",
            ),
            (
                json!({"searches": {"s": {"paths": ["/", 3]}}}),
                "searches: s: paths: number 2: invalid type: integer `3`, expected a string",
            ),
            (
                json!({"searches": {"s": {"depth": "3"}}}),
                "searches: s: depth: invalid type: string \"3\", expected f64",
            ),
        ] {
            assert_eq!(asked(&value).unwrap_err(), why, "{value}");
        }
        let long = json!({"x".repeat(100_000): 1});
        assert!(asked(&long).unwrap_err().len() < 200);
    }

    proptest::proptest! {
        #[test]
        fn no_json_makes_the_reader_panic(text in "[\\[\\]{}\",:a-z0-9 ]{0,64}") {
            if let Ok(value) = serde_json::from_str(&text) {
                let _ = asked(&value);
            }
        }
    }
}
