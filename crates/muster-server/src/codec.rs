//! What the engine's built-in services say, in the wire's words.
//!
//! Stays true: whatever an agent sends decodes to a word or to a reason; the reason fails that one message.
//! Not here: what a message does (muster-engine), the wire types themselves (muster-proto).

use muster_core::system::{self, SystemMessage, SystemOrder};
use muster_core::{Facts, Message, MessageId, Payload, limits};
use muster_engine::SystemCodec;
use muster_proto::{convert, wire};

/// The codec that every server uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct WireCodec;

impl SystemCodec for WireCodec {
    fn decode(&self, message: &Message) -> Result<SystemMessage, String> {
        match message.message_type.as_str() {
            system::MESSAGE_ACK => {
                let data: wire::MessageAckData = body(message, "fleetspeak.MessageAckData")?;
                // What has not the length of an id is no id that this server gave out.
                Ok(SystemMessage::Ack(
                    data.message_ids.iter().filter_map(|id| MessageId::from_slice(id).ok()).collect(),
                ))
            }
            system::MESSAGE_ERROR => {
                let data: wire::MessageErrorData = body(message, "fleetspeak.MessageErrorData")?;
                let id = convert::message_id_from_wire("message_id", &data.message_id).map_err(|e| e.to_string())?;
                Ok(SystemMessage::Error { id, reason: data.error })
            }
            system::CLIENT_INFO => {
                let data: wire::ClientInfoData = body(message, "fleetspeak.ClientInfoData")?;
                let own = data.labels.into_iter().filter(|label| label.service_name == muster_core::label::CLIENT);
                Ok(SystemMessage::ClientInfo(own.map(|label| label.label).collect()))
            }
            system::RESOURCE_USAGE => {
                let data: wire::monitoring::ResourceUsageData =
                    body(message, "fleetspeak.monitoring.ResourceUsageData")?;
                let usage = convert::usage_from_wire(data);
                match (usage.process_start, usage.measured) {
                    (Some(_), Some(_)) => Ok(SystemMessage::Usage(Box::new(usage))),
                    _ => Err("a usage record must have process_start_time and data_timestamp".into()),
                }
            }
            system::KILL_NOTIFICATION => {
                let data: wire::monitoring::KillNotification = body(message, "fleetspeak.monitoring.KillNotification")?;
                let reason = data.reason().as_str_name().to_ascii_lowercase();
                Ok(SystemMessage::Kill { service: data.service, reason })
            }
            unknown => Err(format!("service system does not know messages of type {unknown:?}")),
        }
    }

    fn decode_facts(&self, message: &Message) -> Result<Facts, String> {
        let bytes: Vec<u8> = body(message, "google.protobuf.BytesValue")?;
        if bytes.len() > limits::FACTS_BYTES_MAX {
            return Err(format!("facts must be at most {} bytes, these have {}", limits::FACTS_BYTES_MAX, bytes.len()));
        }
        let facts: Facts =
            serde_json::from_slice(&bytes).map_err(|error| format!("facts must be a JSON object: {error}"))?;
        for (name, value) in &facts {
            muster_core::text::name("a fact's name", name).map_err(|error| error.to_string())?;
            check_fact(name, value)?;
        }
        Ok(facts)
    }

    fn encode(&self, order: &SystemOrder) -> Option<Payload> {
        match order {
            SystemOrder::Rekey => None,
            SystemOrder::Die { force } => Some(any("fleetspeak.DieRequest", &wire::DieRequest { force: *force })),
            SystemOrder::RestartService(name) => {
                Some(any("fleetspeak.RestartServiceRequest", &wire::RestartServiceRequest { name: name.clone() }))
            }
        }
    }
}

/// Decodes the message's body, which must be there and must be called `name`.
fn body<M: prost::Message + Default>(message: &Message, name: &str) -> Result<M, String> {
    let payload = message.payload.as_ref().ok_or("a message to a built-in service must have data")?;
    let have = payload.type_url.rsplit('/').next().unwrap_or_default();
    if have != name {
        return Err(format!("{} carries {have:?}, not {name}", message.message_type));
    }
    M::decode(payload.value.as_slice()).map_err(|error| format!("{} does not decode: {error}", message.message_type))
}

fn any(name: &str, message: &impl prost::Message) -> Payload {
    Payload { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

/// A fact is a text, a number, a truth value, or a list of these, free of zero bytes.
fn check_fact(name: &str, value: &serde_json::Value) -> Result<(), String> {
    use serde_json::Value;
    match value {
        Value::String(text) if text.contains('\0') => Err(format!("fact {name} holds a zero byte")),
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
    use muster_core::{Address, AgentId, Timestamp};
    use prost::Message as _;

    fn message(kind: &str, payload: Option<Payload>) -> Message {
        let from = Address::agent(AgentId::from_bytes([1; 8]), "system");
        let empty = Message::new(MessageId::from_bytes([0; 32]), from, Address::server("system"), Timestamp::EPOCH);
        Message { message_type: kind.into(), payload, ..empty }
    }

    fn decode(kind: &str, name: &str, data: &impl prost::Message) -> Result<SystemMessage, String> {
        WireCodec.decode(&message(kind, Some(any(name, data))))
    }

    #[test]
    fn an_acknowledgement_passes_over_what_is_no_id() {
        let ids = vec![vec![1; 32].into(), vec![2; 31].into(), vec![].into()];
        let decoded = decode("MessageAck", "fleetspeak.MessageAckData", &wire::MessageAckData { message_ids: ids });
        assert_eq!(decoded, Ok(SystemMessage::Ack(vec![MessageId::from_bytes([1; 32])])));
    }

    #[test]
    fn labels_of_other_services_are_not_a_machines_to_claim() {
        let label = |service: &str, label: &str| wire::Label { service_name: service.into(), label: label.into() };
        let labels = vec![label("client", "linux"), label("operator", "trusted")];
        let data = wire::ClientInfoData { labels, ..Default::default() };
        let decoded = decode("ClientInfo", "fleetspeak.ClientInfoData", &data);
        assert_eq!(decoded, Ok(SystemMessage::ClientInfo(vec!["linux".into()])));
    }

    #[test]
    fn what_cannot_be_read_fails_with_a_reason() {
        let reason = |result: Result<SystemMessage, String>| result.unwrap_err();
        let ack = wire::MessageAckData::default();
        assert!(reason(WireCodec.decode(&message("MessageAck", None))).contains("must have data"));
        assert!(reason(decode("MessageAck", "fleetspeak.DieRequest", &ack)).contains("carries"));
        assert!(reason(decode("Surprise", "fleetspeak.MessageAckData", &ack)).contains("Surprise"));
        let broken = Payload { type_url: "x/fleetspeak.MessageAckData".into(), value: vec![0x0f] };
        assert!(reason(WireCodec.decode(&message("MessageAck", Some(broken)))).contains("does not decode"));
        let error = wire::MessageErrorData { message_id: vec![1].into(), error: "no".into() };
        assert!(reason(decode("MessageError", "fleetspeak.MessageErrorData", &error)).contains("32 bytes"));
        let usage = wire::monitoring::ResourceUsageData::default();
        let usage = decode("ResourceUsage", "fleetspeak.monitoring.ResourceUsageData", &usage);
        assert!(reason(usage).contains("process_start_time"));
    }

    #[test]
    fn facts_are_flat_and_bounded() {
        let facts = |json: &str| {
            let value = json.as_bytes().to_vec().encode_to_vec();
            let payload = Payload { type_url: "type.googleapis.com/google.protobuf.BytesValue".into(), value };
            WireCodec.decode_facts(&message("Facts", Some(payload)))
        };
        assert_eq!(facts(r#"{"hostname":"a","disks":["x",1,true]}"#).unwrap().len(), 2);
        for wrong in ["[]", "{", r#"{"a":{"b":1}}"#, r#"{"a":[[1]]}"#, r#"{"a":"\u0000"}"#, r#"{"a\u0000":1}"#] {
            assert!(facts(wrong).is_err(), "{wrong}");
        }
        assert!(facts(&format!("{{\"a\":\"{}\"}}", "x".repeat(limits::FACTS_BYTES_MAX))).is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(facts(&deep).is_err());
    }

    #[test]
    fn orders_say_what_they_mean() {
        assert_eq!(WireCodec.encode(&SystemOrder::Rekey), None);
        let die = WireCodec.encode(&SystemOrder::Die { force: true }).unwrap();
        assert_eq!(die.type_url, "type.googleapis.com/fleetspeak.DieRequest");
        assert!(wire::DieRequest::decode(die.value.as_slice()).unwrap().force);
        let restart = WireCodec.encode(&SystemOrder::RestartService("sh".into())).unwrap();
        assert_eq!(wire::RestartServiceRequest::decode(restart.value.as_slice()).unwrap().name, "sh");
    }
}
