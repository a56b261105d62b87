//! Protocol buffers as people meet them: the text form of Fleetspeak's configuration files, and JSON for looking at.
//!
//! Stays true: a field that the types do not know is an error, as it is for the original's own programs. What is
//! written here is for reading; nothing compares it byte by byte.

mod lenient;

use crate::wire::DESCRIPTORS;
use muster_core::Payload;
use prost::Message;
use prost_reflect::text_format::FormatOptions;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, Value};
use serde_json::Value as Json;
use std::sync::LazyLock;

/// What some editors put in front of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// How deep JSON for looking at goes; what lies deeper is left out.
const JSON_DEPTH_MAX: usize = 32;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("the build wrote its own descriptors"));

/// Why a text is not the message it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// There is no type of this name.
    #[error("{0} is not a known type")]
    Unknown(String),
    /// The text says something that the type cannot hold.
    #[error("not a text proto of type {name}: {problem}")]
    Malformed {
        /// The type.
        name: String,
        /// Where and what.
        problem: String,
    },
}

fn descriptor(name: &str) -> Result<MessageDescriptor, TextError> {
    POOL.get_message_by_name(name).ok_or_else(|| TextError::Unknown(name.to_owned()))
}

/// Reads the text form of the type called `name`, such as `fleetspeak.server.ServerConfig`, which must be the type `M`.
pub fn parse<M: Message + Default>(name: &str, text: &str) -> Result<M, TextError> {
    let malformed = |problem: String| TextError::Malformed { name: name.to_owned(), problem };
    let text = text.trim_start_matches(BYTE_ORDER_MARK);
    let message = DynamicMessage::parse_text_format(descriptor(name)?, text)
        .map_err(|error| malformed(error_with_place(&error, text)))?;
    message.transcode_to().map_err(|error| malformed(error.to_string()))
}

/// Reads the text form of the type called `name` as [`parse`] does, of a newer program too: fields that are not known are
/// passed over, and a type whose name is nearly a known one is taken for it. Returns what that was, each in some words.
pub fn parse_known<M: Message + Default>(name: &str, text: &str) -> Result<(M, Vec<String>), TextError> {
    let known = lenient::known(&POOL, &descriptor(name)?, text.trim_start_matches(BYTE_ORDER_MARK));
    Ok((parse(name, &known.text)?, known.notes))
}

/// Adds the line to what the parser says, when it names it.
fn error_with_place(error: &prost_reflect::text_format::ParseError, text: &str) -> String {
    let reason = error.to_string();
    // The parser shows the place only in its Debug form; the first word in quotes is what it stumbled over.
    let stumble = reason.split('\'').nth(1).filter(|word| !word.is_empty());
    let line = stumble.and_then(|word| text.lines().position(|line| line.contains(word)));
    line.map_or(reason.clone(), |line| format!("line {}: {reason}", line + 1))
}

/// Writes the text form of a message of the type called `name`, one field a line.
pub fn write<M: Message>(name: &str, message: &M) -> Result<String, TextError> {
    let mut dynamic = DynamicMessage::new(descriptor(name)?);
    let malformed =
        |error: prost::DecodeError| TextError::Malformed { name: name.to_owned(), problem: error.to_string() };
    dynamic.transcode_from(message).map_err(malformed)?;
    let mut text = dynamic.to_text_format_with_options(&FormatOptions::new().pretty(true));
    text.push('\n');
    Ok(text)
}

/// Shows a body as JSON: messages of this crate's types as objects by field name, the wrapper types as their values.
/// `None` for a type that is not known, or bytes that are not of that type. Bytes are shown as base64.
pub fn payload_json(payload: &Payload) -> Option<Json> {
    let name = payload.type_url.rsplit('/').next().unwrap_or_default();
    let bytes = payload.value.as_slice();
    match name {
        "google.protobuf.StringValue" => String::decode(bytes).ok().map(Json::from),
        "google.protobuf.BytesValue" => Vec::<u8>::decode(bytes).ok().map(|bytes| base64(&bytes)),
        "google.protobuf.BoolValue" => bool::decode(bytes).ok().map(Json::from),
        "google.protobuf.Int64Value" => i64::decode(bytes).ok().map(|number| number.to_string().into()),
        "google.protobuf.UInt64Value" => u64::decode(bytes).ok().map(|number| number.to_string().into()),
        "google.protobuf.Int32Value" => i32::decode(bytes).ok().map(Json::from),
        "google.protobuf.UInt32Value" => u32::decode(bytes).ok().map(Json::from),
        "google.protobuf.DoubleValue" => f64::decode(bytes).ok().map(float),
        "google.protobuf.FloatValue" => f32::decode(bytes).ok().map(|number| float(number.into())),
        _ => {
            let message = DynamicMessage::decode(POOL.get_message_by_name(name)?, bytes).ok()?;
            Some(message_json(&message, JSON_DEPTH_MAX))
        }
    }
}

fn base64(bytes: &[u8]) -> Json {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes).into()
}

/// JSON has no NaN and no infinities: they become text.
fn float(number: f64) -> Json {
    serde_json::Number::from_f64(number).map_or_else(|| number.to_string().into(), Json::Number)
}

fn message_json(message: &DynamicMessage, depth: usize) -> Json {
    if message.descriptor().full_name() == "google.protobuf.Timestamp"
        && let Some(text) = time_text(message)
    {
        return text.into();
    }
    if depth == 0 {
        return Json::Null;
    }
    let fields = message.fields().map(|(field, value)| {
        let kind = field.kind();
        (field.name().to_owned(), value_json(value, kind.as_enum(), depth - 1))
    });
    Json::Object(fields.collect())
}

fn time_text(message: &DynamicMessage) -> Option<String> {
    let seconds = message.get_field_by_name("seconds")?.as_i64()?;
    let nanos = message.get_field_by_name("nanos")?.as_i32()?;
    muster_core::Timestamp::from_parts(seconds, nanos).map(|time| time.to_string())
}

/// Numbers of 64 bits become text, because many readers of JSON cut them.
fn value_json(value: &Value, names: Option<&prost_reflect::EnumDescriptor>, depth: usize) -> Json {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::I32(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        Value::I64(value) => value.to_string().into(),
        Value::U64(value) => value.to_string().into(),
        Value::F32(value) => float((*value).into()),
        Value::F64(value) => float(*value),
        Value::String(value) => value.clone().into(),
        Value::Bytes(value) => base64(value),
        Value::EnumNumber(number) => {
            let name = names.and_then(|names| names.get_value(*number));
            name.map_or_else(|| (*number).into(), |value| value.name().to_owned().into())
        }
        Value::Message(message) => message_json(message, depth),
        Value::List(values) => values.iter().map(|value| value_json(value, names, depth)).collect(),
        Value::Map(entries) => {
            let mut entries: Vec<_> =
                entries.iter().map(|(key, value)| (key_text(key), value_json(value, None, depth))).collect();
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            Json::Object(entries.into_iter().collect())
        }
    }
}

fn key_text(key: &prost_reflect::MapKey) -> String {
    use prost_reflect::MapKey;
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;
    use prost_types::Any;

    const SERVICES: &str = r#"
        services {
            name: "GRR"
            factory: "GRPC"
            config {
                [type.googleapis.com/fleetspeak.grpcservice.Config] { target: "localhost:11111" insecure: true }
            }
        }
        services { name: "FRR", factory: "NOOP" max_parallelism: 7 }
        broadcast_poll_time { seconds: 1 }
    "#;

    #[test]
    fn a_services_file_of_the_original_is_read_as_it_is() {
        let config: wire::server::ServerConfig = parse("fleetspeak.server.ServerConfig", SERVICES).unwrap();
        assert_eq!(config.services.len(), 2);
        assert_eq!(config.services[1].max_parallelism, 7);
        let any = config.services[0].config.clone().unwrap();
        let grpc = wire::grpcservice::Config::decode(any.value.as_slice()).unwrap();
        assert_eq!((grpc.target.as_str(), grpc.insecure), ("localhost:11111", true));
        assert_eq!(config.broadcast_poll_time.unwrap().seconds, 1);
    }

    #[test]
    fn an_unknown_field_is_an_error_that_says_where() {
        let error = parse::<wire::server::ServerConfig>("fleetspeak.server.ServerConfig", "\nservces { }").unwrap_err();
        assert!(error.to_string().contains("servces"), "{error}");
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(matches!(parse::<Any>("no.such.Type", ""), Err(TextError::Unknown(_))));
    }

    #[test]
    fn what_is_written_reads_the_same() {
        let config = wire::client::generic::Config {
            trusted_certs: "-----BEGIN CERTIFICATE-----\nab\"c\\\n".into(),
            server: vec!["a:1".into(), "[::1]:2".into()],
            streaming: true,
            ..Default::default()
        };
        let text = write("fleetspeak.client.generic.Config", &config).unwrap();
        assert_eq!(parse::<wire::client::generic::Config>("fleetspeak.client.generic.Config", &text).unwrap(), config);
    }

    #[test]
    fn bodies_are_shown_as_json() {
        let show = |name: &str, value: Vec<u8>| {
            payload_json(&Payload { type_url: format!("type.googleapis.com/{name}"), value })
        };
        let text = String::from("hi").encode_to_vec();
        assert_eq!(show("google.protobuf.StringValue", text), Some("hi".into()));
        let ack = wire::MessageAckData { message_ids: vec![vec![255, 0].into()] };
        assert_eq!(
            show("fleetspeak.MessageAckData", ack.encode_to_vec()),
            Some(serde_json::json!({"message_ids": ["/wA="]}))
        );
        let kill = wire::monitoring::KillNotification {
            pid: 7,
            reason: 2,
            killed_when: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(
            show("fleetspeak.monitoring.KillNotification", kill.encode_to_vec()),
            Some(serde_json::json!({"pid": "7", "reason": "MEMORY_EXCEEDED", "killed_when": "1970-01-01T00:00:00Z"}))
        );
        assert_eq!(show("fleetspeak.MessageAckData", vec![0xff]), None);
        assert_eq!(show("GrrMessage", vec![]), None);
    }
}
