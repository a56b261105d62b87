//! Payloads of the built-in services: `system` of the wire, and our own `muster`.
//!
//! Stays true: a payload is read only under the type that its message promises; ids that are none are passed over in an
//! acknowledgement, because one of them must not hold up the others.

use crate::convert::{message_id_from_wire, usage_from_wire};
use crate::scan::{Bound, Shape, scan};
use crate::wire;
use bytes::Bytes;
use muster_core::system::{self as words, SystemMessage, SystemOrder};
use muster_core::{Facts, Message, MessageId, Payload, limits};
use prost::Name;

/// Ids in one acknowledgement.
pub const ACK_IDS_MAX: usize = 65_536;
/// Labels that a machine says of itself, of whichever service, that are still read; fewer are kept.
pub const INFO_LABELS_MAX: usize = 4096;
/// Services that a machine says it runs, which are passed over.
pub const INFO_SERVICES_MAX: usize = 4096;

const TYPE_PREFIX: &str = "type.googleapis.com/";

/// Puts a message into a payload.
pub fn pack<M: Name>(message: &M) -> Payload {
    Payload { type_url: format!("{TYPE_PREFIX}{}", M::full_name()), value: message.encode_to_vec() }
}

/// Takes a message out of a payload. The error is a reason for people.
pub fn unpack<M: Name + Default>(payload: Option<&Payload>) -> Result<M, String> {
    let want = M::full_name();
    let payload = payload.ok_or_else(|| format!("the message has no data, a {want} was expected"))?;
    let have = payload.type_url.rsplit_once('/').map_or("", |(_, name)| name);
    if have != want {
        let have: String = payload.type_url.chars().take(limits::NAME_BYTES_MAX).collect();
        return Err(format!("the message's data is a {have:?}, a {want} was expected"));
    }
    M::decode(&payload.value[..]).map_err(|error| format!("the message's data is no {want}: {error}"))
}

/// Reads a message to service `system`. The error is a reason for people; it is for good.
pub fn decode(message: &Message) -> Result<SystemMessage, String> {
    let payload = message.payload.as_ref();
    match message.message_type.as_str() {
        words::MESSAGE_ACK => ack_decode(payload),
        words::MESSAGE_ERROR => {
            let data: wire::MessageErrorData = unpack(payload)?;
            let id = message_id_from_wire("message_id", &data.message_id).map_err(|error| error.to_string())?;
            Ok(SystemMessage::Error { id, reason: data.error })
        }
        words::CLIENT_INFO => {
            const INFO: Shape = Shape { counted: &[(1, 0), (2, 1)], entered: &[] };
            let bounds = [Bound::new("labels", INFO_LABELS_MAX), Bound::new("services", INFO_SERVICES_MAX)];
            bounded(payload, &INFO, bounds)?;
            let data: wire::ClientInfoData = unpack(payload)?;
            let own = data.labels.into_iter().filter(|label| label.service_name == muster_core::label::CLIENT);
            Ok(SystemMessage::ClientInfo(own.map(|label| label.label).collect()))
        }
        words::RESOURCE_USAGE => Ok(SystemMessage::Usage(Box::new(usage_from_wire(unpack(payload)?)))),
        words::KILL_NOTIFICATION => {
            let data: wire::monitoring::KillNotification = unpack(payload)?;
            let reason = data.reason().as_str_name().to_lowercase();
            Ok(SystemMessage::Kill { service: data.service, reason })
        }
        unknown => {
            let unknown: String = unknown.chars().take(limits::NAME_BYTES_MAX).collect();
            Err(format!("unknown system message type {unknown:?}"))
        }
    }
}

/// Counts the lists of a payload before they take memory.
fn bounded<const N: usize>(payload: Option<&Payload>, shape: &Shape, mut bounds: [Bound; N]) -> Result<(), String> {
    let bytes = payload.map_or(&[][..], |payload| &payload.value);
    scan(bytes, shape, &mut bounds).map_err(|error| error.to_string())
}

fn ack_decode(payload: Option<&Payload>) -> Result<SystemMessage, String> {
    const ACK: Shape = Shape { counted: &[(1, 0)], entered: &[] };
    bounded(payload, &ACK, [Bound::new("message ids", ACK_IDS_MAX)])?;
    let data: wire::MessageAckData = unpack(payload)?;
    let mut ids: Vec<_> = data.message_ids.iter().filter_map(|id| MessageId::from_slice(id).ok()).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(SystemMessage::Ack(ids))
}

/// Writes what an agent tells `system`: the message's type and its payload. Usage is in whole MiB here, as servers
/// keep it; labels are those of service `client`.
pub fn encode(message: &SystemMessage) -> (&'static str, Payload) {
    match message {
        SystemMessage::Ack(ids) => {
            let message_ids = ids.iter().map(|id| Bytes::copy_from_slice(id.as_bytes())).collect();
            (words::MESSAGE_ACK, pack(&wire::MessageAckData { message_ids }))
        }
        SystemMessage::Error { id, reason } => {
            let message_id = Bytes::copy_from_slice(id.as_bytes());
            (words::MESSAGE_ERROR, pack(&wire::MessageErrorData { message_id, error: reason.clone() }))
        }
        SystemMessage::ClientInfo(labels) => {
            let labels = labels
                .iter()
                .map(|label| wire::Label { service_name: muster_core::label::CLIENT.to_owned(), label: label.clone() });
            let data = wire::ClientInfoData { labels: labels.collect(), services: Vec::new() };
            (words::CLIENT_INFO, pack(&data))
        }
        SystemMessage::Usage(usage) => (words::RESOURCE_USAGE, pack(&usage_to_report(usage))),
        SystemMessage::Kill { service, reason } => {
            let reason = wire::monitoring::kill_notification::Reason::from_str_name(&reason.to_uppercase());
            let data = wire::monitoring::KillNotification {
                service: service.clone(),
                reason: reason.unwrap_or_default().into(),
                ..Default::default()
            };
            (words::KILL_NOTIFICATION, pack(&data))
        }
    }
}

fn usage_to_report(usage: &muster_core::ResourceUsage) -> wire::monitoring::ResourceUsageData {
    const MIB: i64 = 1024 * 1024;
    let measured = wire::monitoring::AggregatedResourceUsage {
        mean_user_cpu_rate: usage.mean_user_cpu.into(),
        max_user_cpu_rate: usage.max_user_cpu.into(),
        mean_system_cpu_rate: usage.mean_system_cpu.into(),
        max_system_cpu_rate: usage.max_system_cpu.into(),
        mean_resident_memory: f64::from(usage.mean_memory_mib) * 1024.0 * 1024.0,
        max_resident_memory: i64::from(usage.max_memory_mib) * MIB,
        max_num_fds: usage.max_fds,
        mean_num_fds: usage.mean_fds.into(),
    };
    wire::monitoring::ResourceUsageData {
        scope: usage.scope.clone(),
        pid: usage.pid,
        process_start_time: usage.process_start.map(crate::convert::time_to_wire),
        data_timestamp: usage.measured.map(crate::convert::time_to_wire),
        resource_usage: Some(measured),
        debug_status: String::new(),
        process_terminated: usage.terminated,
        version: String::new(),
    }
}

/// Returns the message type of an order.
pub fn order_type(order: &SystemOrder) -> &'static str {
    match order {
        SystemOrder::Rekey => words::REKEY_REQUEST,
        SystemOrder::Die { .. } => words::DIE,
        SystemOrder::RestartService(_) => words::RESTART_SERVICE,
    }
}

/// Writes an order of the server to the agent program. A rekey has no payload.
pub fn order_encode(order: &SystemOrder) -> Option<Payload> {
    match order {
        SystemOrder::Rekey => None,
        SystemOrder::Die { force } => Some(pack(&wire::DieRequest { force: *force })),
        SystemOrder::RestartService(name) => Some(pack(&wire::RestartServiceRequest { name: name.clone() })),
    }
}

/// Reads an order of the server to the agent program. The error is a reason for people.
pub fn order_decode(message: &Message) -> Result<SystemOrder, String> {
    let payload = message.payload.as_ref();
    match message.message_type.as_str() {
        words::REKEY_REQUEST => Ok(SystemOrder::Rekey),
        // An order to die without data is an order to die in an orderly way.
        words::DIE if payload.is_none() => Ok(SystemOrder::Die { force: false }),
        words::DIE => unpack::<wire::DieRequest>(payload).map(|data| SystemOrder::Die { force: data.force }),
        words::RESTART_SERVICE => {
            unpack::<wire::RestartServiceRequest>(payload).map(|data| SystemOrder::RestartService(data.name))
        }
        unknown => {
            let unknown: String = unknown.chars().take(limits::NAME_BYTES_MAX).collect();
            Err(format!("unknown system order {unknown:?}"))
        }
    }
}

/// Writes the facts of a machine.
pub fn facts_encode(facts: &Facts) -> Payload {
    pack(&serde_json::to_vec(facts).expect("names are text and values are JSON"))
}

/// Reads the facts of a machine. The error is a reason for people; it is for good.
pub fn facts_decode(message: &Message) -> Result<Facts, String> {
    let json: Vec<u8> = unpack(message.payload.as_ref())?;
    if json.len() > limits::FACTS_BYTES_MAX {
        return Err(format!("facts have {} bytes, only {} allowed", json.len(), limits::FACTS_BYTES_MAX));
    }
    let facts: Facts = serde_json::from_slice(&json).map_err(|error| format!("facts are no JSON object: {error}"))?;
    if facts.iter().any(|(name, value)| name.contains('\0') || has_nul(value)) {
        return Err("facts must not hold a zero byte".to_owned());
    }
    Ok(facts)
}

/// Whether a text in `value` holds a zero byte. JSON nests 128 deep at most here, by its parser's limit.
fn has_nul(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(values) => values.iter().any(has_nul),
        serde_json::Value::Object(values) => values.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::{Address, ResourceUsage, Timestamp};

    fn message(message_type: &str, payload: Option<Payload>) -> Message {
        let ends = (Address::server("system"), Address::server("system"));
        let message = Message::new(MessageId::from_bytes([0; 32]), ends.0, ends.1, Timestamp::EPOCH);
        Message { message_type: message_type.into(), payload, ..message }
    }

    #[test]
    fn what_an_agent_says_comes_back() {
        let id = MessageId::from_bytes([1; 32]);
        let usage = ResourceUsage {
            scope: "system".into(),
            pid: 5,
            process_start: Some(Timestamp::from_secs(1)),
            measured: Some(Timestamp::from_secs(2)),
            mean_user_cpu: 1.5,
            mean_memory_mib: 3,
            max_memory_mib: 4,
            max_fds: 7,
            terminated: true,
            ..ResourceUsage::default()
        };
        for said in [
            SystemMessage::Ack(vec![id, MessageId::from_bytes([2; 32])]),
            SystemMessage::Error { id, reason: "no".into() },
            SystemMessage::ClientInfo(vec!["linux".into()]),
            SystemMessage::Usage(Box::new(usage)),
            SystemMessage::Kill { service: "s".into(), reason: "memory_exceeded".into() },
        ] {
            let (message_type, payload) = encode(&said);
            assert!(payload.type_url.starts_with("type.googleapis.com/fleetspeak."), "{}", payload.type_url);
            assert_eq!(decode(&message(message_type, Some(payload))), Ok(said));
        }
    }

    #[test]
    fn orders_come_back() {
        for order in [
            SystemOrder::Rekey,
            SystemOrder::Die { force: true },
            SystemOrder::Die { force: false },
            SystemOrder::RestartService("s".into()),
        ] {
            assert_eq!(order_decode(&message(order_type(&order), order_encode(&order))), Ok(order));
        }
        assert_eq!(order_decode(&message("Die", None)), Ok(SystemOrder::Die { force: false }));
        assert!(order_decode(&message("RemoveService", None)).unwrap_err().contains("RemoveService"));
    }

    #[test]
    fn labels_of_other_services_and_ids_that_are_none_are_passed_over() {
        let label = |service: &str, label: &str| wire::Label { service_name: service.into(), label: label.into() };
        let labels = vec![label("client", "a"), label("operator", "b"), label("", "c")];
        let info = pack(&wire::ClientInfoData { labels, services: vec![] });
        assert_eq!(decode(&message("ClientInfo", Some(info))), Ok(SystemMessage::ClientInfo(vec!["a".into()])));
        let id = Bytes::from_static(&[1; 32]);
        let message_ids = vec![id.clone(), Bytes::new(), id, Bytes::from_static(b"short")];
        let ack = pack(&wire::MessageAckData { message_ids });
        let read = decode(&message("MessageAck", Some(ack)));
        assert_eq!(read, Ok(SystemMessage::Ack(vec![MessageId::from_bytes([1; 32])])));
    }

    #[test]
    fn broken_payloads_fail_with_a_reason() {
        let reason = |message_type, payload| decode(&message(message_type, payload)).unwrap_err();
        assert!(reason("MessageAck", None).contains("no data"));
        assert!(reason("Nonsense", None).contains("Nonsense"));
        let other = pack(&wire::DieRequest { force: true });
        assert!(reason("MessageAck", Some(other.clone())).contains("fleetspeak.DieRequest"));
        let short = pack(&wire::MessageErrorData { message_id: Bytes::from_static(b"x"), error: String::new() });
        assert!(reason("MessageError", Some(short)).contains("32 bytes"));
        let broken = Payload { value: vec![0xff], ..pack(&wire::MessageErrorData::default()) };
        assert!(reason("MessageError", Some(broken)).contains("fleetspeak.MessageErrorData"));
        let flood = Payload { value: [0x0a, 0].repeat(ACK_IDS_MAX + 1), ..pack(&wire::MessageAckData::default()) };
        assert!(reason("MessageAck", Some(flood)).contains("65536"));
        // Two bytes each on the wire, fifty in memory.
        for (field, what) in [(0x0a, "labels"), (0x12, "services")] {
            let info =
                |count: usize| Payload { value: [field, 0].repeat(count), ..pack(&wire::ClientInfoData::default()) };
            assert_eq!(decode(&message("ClientInfo", Some(info(4096)))), Ok(SystemMessage::ClientInfo(vec![])));
            let refused = reason("ClientInfo", Some(info(1_000_000)));
            assert!(refused.contains("4096") && refused.contains(what), "{refused}");
        }
    }

    #[test]
    fn facts_come_back_and_are_bounded() {
        let facts: Facts = [("cpu.count".to_owned(), 4.into()), ("hostname".to_owned(), "a".into())].into();
        assert_eq!(facts_decode(&message("Facts", Some(facts_encode(&facts)))), Ok(facts));
        let with = |json: &str| facts_decode(&message("Facts", Some(pack(&json.as_bytes().to_vec()))));
        assert_eq!(with("{}"), Ok(Facts::new()));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(limits::FACTS_BYTES_MAX));
        for json in ["", "[]", "{\"a\":1e400}", "{\"a\":[\"\\u0000\"]}", "{\"\\u0000\":1}", &deep, &long] {
            assert!(with(json).is_err(), "{}", &json[..json.len().min(40)]);
        }
    }
}
