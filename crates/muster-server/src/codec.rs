//! What the engine's built-in services say, in the wire's words.
//!
//! Stays true: whatever an agent sends decodes to a word or to a reason; the reason fails that one message.
//! Not here: what a message does (muster-engine), the wire types themselves (muster-proto).

use muster_core::system::{SystemMessage, SystemOrder};
use muster_core::{Facts, Message, Payload, text};
use muster_engine::SystemCodec;
use muster_proto::system;

/// The codec that every server uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct WireCodec;

impl SystemCodec for WireCodec {
    fn decode(&self, message: &Message) -> Result<SystemMessage, String> {
        let decoded = system::decode(message)?;
        if let SystemMessage::Usage(usage) = &decoded
            && (usage.process_start.is_none() || usage.measured.is_none())
        {
            return Err("a usage record must have process_start_time and data_timestamp".into());
        }
        Ok(decoded)
    }

    fn decode_facts(&self, message: &Message) -> Result<Facts, String> {
        let facts = system::facts_decode(message)?;
        for (name, value) in &facts {
            text::name("a fact's name", name).map_err(|error| error.to_string())?;
            check_fact(name, value)?;
        }
        Ok(facts)
    }

    fn encode(&self, order: &SystemOrder) -> Option<Payload> {
        system::order_encode(order)
    }
}

/// A fact is a text, a number, a truth value, or a list of these.
fn check_fact(name: &str, value: &serde_json::Value) -> Result<(), String> {
    use serde_json::Value;
    match value {
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => Ok(()),
        Value::Array(values) if values.iter().all(|value| !value.is_array() && !value.is_object()) => {
            values.iter().try_for_each(|value| check_fact(name, value))
        }
        Value::Array(_) | Value::Object(_) => {
            Err(format!("fact {name} must be a text, a number, a truth value or a list of these"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::{Address, AgentId, MessageId, Timestamp};
    use muster_proto::wire;
    use prost::Message as _;

    fn message(kind: &str, payload: Payload) -> Message {
        let from = Address::agent(AgentId::from_bytes([1; 8]), "system");
        let empty = Message::new(MessageId::from_bytes([0; 32]), from, Address::server("system"), Timestamp::EPOCH);
        Message { message_type: kind.into(), payload: Some(payload), ..empty }
    }

    #[test]
    fn a_usage_record_without_its_times_fails_before_the_store_sees_it() {
        let time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
        let whole = wire::monitoring::ResourceUsageData {
            process_start_time: time,
            data_timestamp: time,
            ..Default::default()
        };
        let decode = |usage| WireCodec.decode(&message("ResourceUsage", system::pack(&usage)));
        assert!(decode(wire::monitoring::ResourceUsageData { data_timestamp: None, ..whole.clone() }).is_err());
        assert!(decode(wire::monitoring::ResourceUsageData { process_start_time: None, ..whole.clone() }).is_err());
        assert!(matches!(decode(whole), Ok(SystemMessage::Usage(_))));
    }

    #[test]
    fn facts_are_flat_and_bounded() {
        let facts = |json: &str| {
            let value = json.as_bytes().to_vec().encode_to_vec();
            let type_url = "type.googleapis.com/google.protobuf.BytesValue".into();
            WireCodec.decode_facts(&message("Facts", Payload { type_url, value }))
        };
        assert_eq!(facts(r#"{"hostname":"a","disks":["x",1,true]}"#).unwrap().len(), 2);
        for wrong in ["[]", "{", r#"{"a":{"b":1}}"#, r#"{"a":[[1]]}"#, r#"{"a":"\u0000"}"#, r#"{"a\n":1}"#, r#"{"":1}"#]
        {
            assert!(facts(wrong).is_err(), "{wrong}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(facts(&deep).is_err());
    }

    #[test]
    fn an_order_says_what_it_means() {
        let die = WireCodec.encode(&SystemOrder::Die { force: true }).unwrap();
        assert_eq!(die.type_url, "type.googleapis.com/fleetspeak.DieRequest");
        assert!(wire::DieRequest::decode(die.value.as_slice()).unwrap().force);
        assert_eq!(WireCodec.encode(&SystemOrder::Rekey), None);
    }
}
