//! An action as JSON, with MIG's keys in MIG's order.

use super::{Action, Description, Operation, Threat, UNSET};
use serde::ser::{Serialize, SerializeMap, Serializer};

impl Serialize for Action {
    /// Writes what its author sent: no status, no counters, unset server times. What a server adds, it adds itself.
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("id", &self.id.map_or(0, super::ActionId::get))?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("target", &self.target)?;
        map.serialize_entry("description", &self.description)?;
        map.serialize_entry("threat", &self.threat)?;
        map.serialize_entry("validfrom", &self.valid_from.to_string())?;
        map.serialize_entry("expireafter", &self.expire_after.to_string())?;
        map.serialize_entry("operations", &self.operations)?;
        map.serialize_entry("pgpsignatures", &self.pgp_signatures)?;
        for unset in ["starttime", "finishtime", "lastupdatetime"] {
            map.serialize_entry(unset, UNSET)?;
        }
        map.serialize_entry("counters", &super::Counters::default())?;
        map.serialize_entry("syntaxversion", &self.syntax_version)?;
        map.end()
    }
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("module", &self.module)?;
        map.serialize_entry("parameters", &self.parameters)?;
        if self.is_compressed {
            map.serialize_entry("is_compressed", &true)?;
        }
        if self.want_compressed {
            map.serialize_entry("want_compressed", &true)?;
        }
        map.end()
    }
}

impl Serialize for Description {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        texts(&mut map, &[("author", &self.author), ("email", &self.email), ("url", &self.url)])?;
        if self.revision != 0.0 {
            map.serialize_entry("revision", &self.revision)?;
        }
        map.end()
    }
}

impl Serialize for Threat {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        let parts = [("ref", &self.reference), ("level", &self.level), ("family", &self.family), ("type", &self.kind)];
        texts(&mut map, &parts)?;
        map.end()
    }
}

fn texts<M: SerializeMap>(map: &mut M, parts: &[(&str, &String)]) -> Result<(), M::Error> {
    for (key, text) in parts {
        if !text.is_empty() {
            map.serialize_entry(key, text)?;
        }
    }
    Ok(())
}
