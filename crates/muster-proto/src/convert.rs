//! Wire types to words, and back.
//!
//! Stays true: a word made here is well formed (ids have their length, times are moments), and a time that is none is
//! left out instead of failing what carries it. Not here: whether names and sizes are acceptable (muster-core's
//! checks, called by muster-engine).

use crate::wire;
use crate::wire::server as admin;
use bytes::Bytes;
use muster_core::{
    Address, Agent, AgentId, AgentState, Broadcast, BroadcastId, BroadcastLimit, Contact, IdError, Label, Message,
    MessageId, MessageResult, Payload, Priority, ResourceUsage, Timestamp,
};

/// Why something from the wire is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A field that must be there is not.
    #[error("{what} must have {field}")]
    Missing {
        /// What lacks it.
        what: &'static str,
        /// What is lacking.
        field: &'static str,
    },
    /// An identifier of another length.
    #[error("error parsing {field}: {source}")]
    Id {
        /// Where it stands.
        field: &'static str,
        /// What is wrong with it.
        source: IdError,
    },
    /// A broadcast's limit beyond 2^63 - 1.
    #[error("a broadcast limit must be at most 9223372036854775807, this one is {0}")]
    Limit(u64),
    /// A broadcast to one machine.
    #[error("a broadcast's destination must not name a client")]
    BroadcastToClient,
}

fn missing(what: &'static str, field: &'static str) -> ConvertError {
    ConvertError::Missing { what, field }
}

/// Reads a time; one that is no moment, or that is not there, is `None`.
pub fn time_from_wire(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    time.and_then(|time| Timestamp::from_parts(time.seconds, time.nanos))
}

/// Writes a time.
pub fn time_to_wire(time: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = time.to_parts();
    prost_types::Timestamp { seconds, nanos }
}

/// Reads an agent's id; `field` names it in the error.
pub fn agent_id_from_wire(field: &'static str, bytes: &[u8]) -> Result<AgentId, ConvertError> {
    AgentId::from_slice(bytes).map_err(|source| ConvertError::Id { field, source })
}

/// Reads a message's id; `field` names it in the error.
pub fn message_id_from_wire(field: &'static str, bytes: &[u8]) -> Result<MessageId, ConvertError> {
    MessageId::from_slice(bytes).map_err(|source| ConvertError::Id { field, source })
}

/// Reads a broadcast's id; `field` names it in the error.
pub fn broadcast_id_from_wire(field: &'static str, bytes: &[u8]) -> Result<BroadcastId, ConvertError> {
    BroadcastId::from_slice(bytes).map_err(|source| ConvertError::Id { field, source })
}

/// Reads one end of a message; no client id means the server. `field` names it in the error.
pub fn address_from_wire(field: &'static str, address: wire::Address) -> Result<Address, ConvertError> {
    let named = Some(&address.client_id).filter(|id| !id.is_empty());
    let agent = named.map(|id| agent_id_from_wire(field, id)).transpose()?;
    Ok(Address { agent, service: address.service_name })
}

/// Writes one end of a message.
pub fn address_to_wire(address: Address) -> wire::Address {
    let client_id = address.agent.map_or_else(Bytes::new, |agent| Bytes::copy_from_slice(agent.as_bytes()));
    wire::Address { client_id, service_name: address.service }
}

/// Reads a label.
pub fn label_from_wire(label: wire::Label) -> Label {
    Label::new(label.service_name, label.label)
}

/// Writes a label.
pub fn label_to_wire(label: Label) -> wire::Label {
    wire::Label { service_name: label.service, label: label.label }
}

/// Reads a typed body.
pub fn payload_from_wire(any: prost_types::Any) -> Payload {
    Payload { type_url: any.type_url, value: any.value }
}

/// Writes a typed body.
pub fn payload_to_wire(payload: Payload) -> prost_types::Any {
    prost_types::Any { type_url: payload.type_url, value: payload.value }
}

/// Reads what became of a message. Without a time of its own it was processed at `now`.
pub fn result_from_wire(result: &wire::MessageResult, now: Timestamp) -> MessageResult {
    let processed = time_from_wire(result.processed_time.as_ref()).unwrap_or(now);
    if result.failed { MessageResult::failed(processed, &result.failed_reason) } else { MessageResult::done(processed) }
}

/// Writes what became of a message.
pub fn result_to_wire(result: MessageResult) -> wire::MessageResult {
    wire::MessageResult {
        processed_time: Some(time_to_wire(result.processed)),
        failed: result.failure.is_some(),
        failed_reason: result.failure.unwrap_or_default(),
    }
}

/// What a message on the wire may lack, and what stands in for it.
#[derive(Debug, Clone, Copy)]
pub struct Lacking {
    /// The id of a message that has none; `None` makes that an error.
    pub id: Option<MessageId>,
    /// The creation time of a message without one.
    pub now: Timestamp,
}

/// Reads a message as it stands: its source is whoever it says, so this is for peers that are trusted to say it
/// (operators, and a server as seen by its agent). The wire has no expiry; it comes back as `None`.
pub fn message_from_wire(message: wire::Message, lacking: Lacking) -> Result<Message, ConvertError> {
    let id = match (message.message_id.is_empty(), lacking.id) {
        (true, Some(id)) => id,
        _ => message_id_from_wire("message_id", &message.message_id)?,
    };
    let destination = message.destination.filter(|address| !address.service_name.is_empty());
    let destination = destination.ok_or(missing("message", "Destination"))?;
    let source = message.source.filter(|address| !address.service_name.is_empty());
    let source = source.ok_or(missing("message", "Source"))?;
    let created = time_from_wire(message.creation_time.as_ref()).unwrap_or(lacking.now);
    let annotations = message.annotations.map(|annotations| annotations.entries).unwrap_or_default();
    Ok(Message {
        source: address_from_wire("source.client_id", source)?,
        destination: address_from_wire("destination.client_id", destination)?,
        source_message_id: message.source_message_id.into(),
        message_type: message.message_type,
        payload: message.data.map(payload_from_wire),
        validation: message.validation_info.map(|info| info.tags).unwrap_or_default(),
        result: message.result.map(|result| result_from_wire(&result, lacking.now)),
        priority: Priority::from_number(message.priority),
        background: message.background,
        annotations: annotations.into_iter().map(|entry| (entry.key, entry.value)).collect(),
        from_blocked: message.is_blocklisted_source,
        ..Message::new(id, Address::default(), Address::default(), created)
    })
}

/// Writes a message, all but its expiry, which the wire does not know.
pub fn message_to_wire(message: Message) -> wire::Message {
    let entries = message.annotations.into_iter().map(|(key, value)| wire::annotations::Entry { key, value });
    let entries: Vec<_> = entries.collect();
    wire::Message {
        message_id: Bytes::copy_from_slice(message.id.as_bytes()),
        source: Some(address_to_wire(message.source)),
        source_message_id: message.source_message_id.into(),
        destination: Some(address_to_wire(message.destination)),
        message_type: message.message_type,
        creation_time: Some(time_to_wire(message.created)),
        data: message.payload.map(payload_to_wire),
        validation_info: (!message.validation.is_empty()).then_some(wire::ValidationInfo { tags: message.validation }),
        result: message.result.map(result_to_wire),
        priority: message.priority as i32,
        background: message.background,
        annotations: (!entries.is_empty()).then_some(wire::Annotations { entries }),
        is_blocklisted_source: message.from_blocked,
    }
}

/// Reads a broadcast for whoever may create one. `id` is for a broadcast that brings none.
pub fn broadcast_from_wire(
    broadcast: admin::Broadcast,
    limit: u64,
    id: BroadcastId,
    now: Timestamp,
) -> Result<Broadcast, ConvertError> {
    let named = Some(&broadcast.broadcast_id).filter(|id| !id.is_empty());
    let named = named.map(|id| broadcast_id_from_wire("broadcast_id", id)).transpose()?;
    let id = named.unwrap_or(id);
    let source = broadcast.source.filter(|address| !address.service_name.is_empty());
    let source = source.ok_or(missing("broadcast", "a source service name"))?;
    let source = address_from_wire("source.client_id", source)?;
    let destination = match broadcast.destination {
        Some(address) if !address.client_id.is_empty() => return Err(ConvertError::BroadcastToClient),
        Some(address) if !address.service_name.is_empty() => address.service_name,
        // Without one of its own, a broadcast goes to the service of the same name.
        _ => source.service.clone(),
    };
    let mut required_labels: Vec<_> = broadcast.required_labels.into_iter().map(label_from_wire).collect();
    required_labels.sort();
    required_labels.dedup();
    Ok(Broadcast {
        id,
        source,
        destination_service: destination,
        message_type: broadcast.message_type,
        required_labels,
        expires: time_from_wire(broadcast.expiration_time.as_ref()),
        payload: broadcast.data.map(payload_from_wire),
        group: broadcast.group_name,
        limit: BroadcastLimit::from_number(limit).ok_or(ConvertError::Limit(limit))?,
        sent: 0,
        allocated: 0,
        created: now,
    })
}

/// Writes a broadcast; the wire has no place for its limit and counters.
pub fn broadcast_to_wire(broadcast: Broadcast) -> admin::Broadcast {
    admin::Broadcast {
        broadcast_id: Bytes::copy_from_slice(broadcast.id.as_bytes()),
        source: Some(address_to_wire(broadcast.source)),
        message_type: broadcast.message_type,
        required_labels: broadcast.required_labels.into_iter().map(label_to_wire).collect(),
        expiration_time: broadcast.expires.map(time_to_wire),
        data: broadcast.payload.map(payload_to_wire),
        destination: Some(address_to_wire(Address::server(broadcast.destination_service))),
        group_name: broadcast.group,
    }
}

/// Writes a machine as tools of the original see it.
pub fn agent_to_wire(agent: Agent) -> admin::Client {
    admin::Client {
        client_id: Bytes::copy_from_slice(agent.id.as_bytes()),
        labels: agent.labels.into_iter().map(label_to_wire).collect(),
        last_contact_time: Some(time_to_wire(agent.last_contact)),
        last_contact_address: agent.last_address,
        last_clock: agent.last_clock.map(time_to_wire),
        blacklisted: agent.state == AgentState::Blocked || agent.state.owes_key(),
        last_contact_streaming_to: agent.streaming_to,
    }
}

/// Writes a contact of the past.
pub fn contact_to_wire(contact: Contact) -> admin::ClientContact {
    admin::ClientContact {
        sent_nonce: contact.sent_nonce,
        received_nonce: contact.received_nonce,
        observed_address: contact.address,
        timestamp: Some(time_to_wire(contact.at)),
    }
}

/// Reads what a process used, as its machine reports it: rates lose precision, bytes become whole MiB, numbers of
/// files whole numbers. `received` is left to the store.
#[expect(clippy::cast_possible_truncation, reason = "kept in single precision and whole numbers, as the tools read it")]
pub fn usage_from_wire(usage: wire::monitoring::ResourceUsageData) -> ResourceUsage {
    const MIB: f64 = 1024.0 * 1024.0;
    let measured = usage.resource_usage.unwrap_or_default();
    ResourceUsage {
        scope: usage.scope,
        pid: usage.pid,
        process_start: time_from_wire(usage.process_start_time.as_ref()),
        measured: time_from_wire(usage.data_timestamp.as_ref()),
        received: None,
        mean_user_cpu: measured.mean_user_cpu_rate as f32,
        max_user_cpu: measured.max_user_cpu_rate as f32,
        mean_system_cpu: measured.mean_system_cpu_rate as f32,
        max_system_cpu: measured.max_system_cpu_rate as f32,
        mean_memory_mib: (measured.mean_resident_memory / MIB) as i32,
        max_memory_mib: i32::try_from(measured.max_resident_memory / (1024 * 1024)).unwrap_or(i32::MAX),
        mean_fds: measured.mean_num_fds as i32,
        max_fds: measured.max_num_fds,
        terminated: usage.process_terminated,
    }
}

/// Writes what a process used, as tools read it.
pub fn usage_to_wire(usage: ResourceUsage) -> admin::ClientResourceUsageRecord {
    admin::ClientResourceUsageRecord {
        scope: usage.scope,
        pid: usage.pid,
        process_start_time: usage.process_start.map(time_to_wire),
        client_timestamp: usage.measured.map(time_to_wire),
        server_timestamp: usage.received.map(time_to_wire),
        mean_user_cpu_rate: usage.mean_user_cpu,
        max_user_cpu_rate: usage.max_user_cpu,
        mean_system_cpu_rate: usage.mean_system_cpu,
        max_system_cpu_rate: usage.max_system_cpu,
        mean_resident_memory_mib: usage.mean_memory_mib,
        max_resident_memory_mib: usage.max_memory_mib,
        process_terminated: usage.terminated,
        mean_num_fds: usage.mean_fds,
        max_num_fds: usage.max_fds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    const NOW: Timestamp = Timestamp::from_secs(1000);
    const AGENT: AgentId = AgentId::from_bytes([7; 8]);

    fn full() -> Message {
        Message {
            source_message_id: vec![1, 2],
            message_type: "T".into(),
            payload: Some(Payload { type_url: "type.googleapis.com/x".into(), value: vec![0, 255] }),
            validation: [("k".to_owned(), "v".to_owned())].into(),
            result: Some(MessageResult::failed(Timestamp::from_nanos(-1), "why")),
            priority: Priority::High,
            background: true,
            annotations: vec![("b".into(), "1".into()), ("a".into(), "2".into()), ("b".into(), "3".into())],
            from_blocked: true,
            ..Message::new(
                MessageId::from_bytes([9; 32]),
                Address::server("S"),
                Address::agent(AGENT, "D"),
                Timestamp::from_nanos(1_500_000_000_123_456_789),
            )
        }
    }

    #[test]
    fn a_message_comes_back_with_every_field() {
        let lacking = Lacking { id: None, now: NOW };
        for message in [full(), Message::new(full().id, full().source, full().destination, NOW)] {
            let bytes = message_to_wire(message.clone()).encode_to_vec();
            let read = wire::Message::decode(&bytes[..]).unwrap();
            assert_eq!(message_from_wire(read, lacking), Ok(message));
        }
    }

    #[test]
    fn what_a_trusted_message_lacks_is_given_or_named() {
        let read = |change: fn(&mut wire::Message), id| {
            let mut message = message_to_wire(full());
            change(&mut message);
            message_from_wire(message, Lacking { id, now: NOW }).map_err(|error| error.to_string())
        };
        let spare = MessageId::from_bytes([3; 32]);
        assert_eq!(read(|m| m.message_id.clear(), Some(spare)).unwrap().id, spare);
        assert_eq!(read(|_| (), Some(spare)).unwrap().id, full().id);
        assert_eq!(read(|m| m.creation_time = None, None).unwrap().created, NOW);
        let bad = |error: Result<Message, String>| error.unwrap_err();
        assert!(bad(read(|m| m.message_id.clear(), None)).contains("must be 32 bytes, this one has 0"));
        assert_eq!(bad(read(|m| m.destination = None, None)), "message must have Destination");
        assert_eq!(bad(read(|m| m.source.as_mut().unwrap().service_name.clear(), None)), "message must have Source");
        let short = read(|m| m.destination.as_mut().unwrap().client_id = Bytes::from_static(b"x"), None);
        assert!(bad(short).starts_with("error parsing destination.client_id"));
    }

    #[test]
    fn a_time_that_is_none_is_left_out() {
        for (seconds, nanos) in [(-62_135_596_800, 0), (9_404_000_000_000, 0), (0, 2_000_000_000), (0, -1)] {
            assert_eq!(time_from_wire(Some(&prost_types::Timestamp { seconds, nanos })), None, "{seconds} {nanos}");
        }
        assert_eq!(
            time_from_wire(Some(&prost_types::Timestamp { seconds: -1, nanos: 5 })).unwrap().to_parts(),
            (-1, 5)
        );
    }

    #[test]
    fn a_broadcast_comes_back_and_its_limit_is_checked() {
        let broadcast = Broadcast {
            id: BroadcastId::from_bytes([4; 8]),
            source: Address::server("S"),
            destination_service: "S".into(),
            message_type: "T".into(),
            required_labels: vec![Label::client("a"), Label::client("b")],
            expires: Some(NOW),
            payload: None,
            group: "g".into(),
            limit: BroadcastLimit::Unlimited,
            sent: 0,
            allocated: 0,
            created: NOW,
        };
        let mut wire = broadcast_to_wire(broadcast.clone());
        wire.destination = None;
        wire.required_labels.reverse();
        let read = |limit| broadcast_from_wire(wire.clone(), limit, BroadcastId::from_bytes([0; 8]), NOW);
        assert_eq!(read(i64::MAX as u64), Ok(broadcast));
        assert_eq!(read(u64::MAX), Err(ConvertError::Limit(u64::MAX)));
    }

    #[test]
    fn usage_is_cut_to_whole_numbers_and_never_wraps() {
        let usage = usage_from_wire(wire::monitoring::ResourceUsageData {
            resource_usage: Some(wire::monitoring::AggregatedResourceUsage {
                mean_resident_memory: 1.9 * 1024.0 * 1024.0,
                max_resident_memory: i64::MAX,
                mean_num_fds: f64::NAN,
                ..Default::default()
            }),
            ..Default::default()
        });
        assert_eq!((usage.mean_memory_mib, usage.max_memory_mib, usage.mean_fds), (1, i32::MAX, 0));
        assert_eq!((usage.process_start, usage.measured), (None, None));
    }
}
