//! A contact's bytes: what an agent sends in a poll or in one record of a stream, and what it is answered.
//!
//! Stays true: lists are counted before they are decoded, so that a small body cannot take much memory; what comes out
//! is believed by nobody yet.

use crate::convert::{message_to_wire, payload_from_wire, time_from_wire, time_to_wire};
use crate::scan::{Bound, ScanError, Shape, scan};
use crate::wire;
use bytes::Bytes;
use muster_core::contact::{ContactData, IncomingMessage};
use muster_core::{Message, Priority, Timestamp, limits};
use prost::Message as _;

/// Labels claimed in one contact that are still read. More than [`limits::AGENT_LABELS_MAX`] are not kept, but a few
/// too many shall not keep a machine away.
pub const CLAIMED_LABELS_MAX: usize = 4096;

const PAIRS: Shape = Shape { counted: &[(1, 2)], entered: &[] };
const MESSAGE: Shape = Shape { counted: &[], entered: &[(8, &PAIRS), (12, &PAIRS)] };
const CONTACT: Shape = Shape { counted: &[(2, 0), (6, 1)], entered: &[(2, &MESSAGE)] };
const SIGNATURE: Shape = Shape { counted: &[(1, 1)], entered: &[] };
const WRAPPED: Shape = Shape { counted: &[(2, 0), (3, 2)], entered: &[(2, &SIGNATURE)] };

/// Why a contact's bytes are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContactError {
    /// The outer frame cannot be read.
    #[error("error parsing body: {0}")]
    Wrapped(String),
    /// The contact inside the frame cannot be read.
    #[error("error parsing contact_data: {0}")]
    Data(String),
    /// A list is longer than its ceiling.
    #[error("the contact contains more {what} than allowed: at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// An extra signature with all its certificates is longer than [`limits::SIGNATURE_BYTES_MAX`].
    #[error("a signature has {0} bytes with its certificates, only {max} allowed", max = limits::SIGNATURE_BYTES_MAX)]
    SignatureBytes(usize),
    /// An extra signature without a certificate cannot be checked.
    #[error("a signature comes without a certificate")]
    SignatureBare,
}

/// A contact as it came.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Received {
    /// What it says.
    pub data: ContactData,
    /// Labels it claims, in its order.
    pub labels: Vec<String>,
    /// Extra signatures over `signed`, not checked.
    pub signatures: Vec<wire::Signature>,
    /// The bytes that extra signatures cover.
    pub signed: Bytes,
    /// What our own agent shows of itself, not read yet ([`crate::introduction`]); empty for others.
    pub introduction: Bytes,
}

/// A contact whose lists were counted, and that is still bytes: what it takes in memory can be set aside before it does.
#[derive(Debug)]
pub struct Counted {
    wrapped: wire::WrappedContactData,
    pairs: usize,
}

impl Counted {
    /// Bytes of memory that reading takes beyond the bytes of the body: a list of empty annotations costs little on the
    /// wire, and much once it is read.
    pub fn bytes_more(&self) -> usize {
        self.pairs * limits::PAIR_BYTES
    }

    /// Reads the contact.
    pub fn read(self) -> Result<Received, ContactError> {
        let Self { wrapped, .. } = self;
        let signed = wrapped.contact_data;
        let data = data_read(signed.clone())?;
        Ok(Received {
            data,
            labels: wrapped.client_labels,
            signatures: wrapped.signatures,
            signed,
            introduction: wrapped.muster_introduction,
        })
    }
}

/// Reads a contact: a serialized `WrappedContactData` with a `ContactData` inside. No bytes at all are a contact, too.
pub fn contact_decode(body: Bytes) -> Result<Received, ContactError> {
    contact_count(body)?.read()
}

/// Counts the lists of a contact, and reads its frame only.
pub fn contact_count(body: Bytes) -> Result<Counted, ContactError> {
    let mut bounds = [
        Bound::new("signatures", limits::CONTACT_SIGNATURES_MAX),
        Bound::new("certificates", limits::CONTACT_SIGNATURES_MAX * limits::SIGNATURE_CERTIFICATES_MAX),
        Bound::new("labels", CLAIMED_LABELS_MAX),
    ];
    scan(&body, &WRAPPED, &mut bounds).map_err(|error| refused(error, ContactError::Wrapped))?;
    let wrapped = wire::WrappedContactData::decode(body).map_err(|error| ContactError::Wrapped(error.to_string()))?;
    for signature in &wrapped.signatures {
        signature_check(signature)?;
    }
    let pairs = data_count(&wrapped.contact_data)?;
    Ok(Counted { wrapped, pairs })
}

/// Reads the inner part of a contact: a serialized `ContactData`.
pub fn data_decode(body: Bytes) -> Result<ContactData, ContactError> {
    data_count(&body)?;
    data_read(body)
}

/// Counts the lists of a contact's inner part. Returns how many annotations and validation tags it has.
fn data_count(body: &[u8]) -> Result<usize, ContactError> {
    let mut bounds = [
        Bound::new("messages", limits::CONTACT_MESSAGES_MAX),
        Bound::new("services with tokens", limits::CONTACT_SERVICES_MAX),
        Bound::new("annotations", limits::CONTACT_PAIRS_MAX),
    ];
    scan(body, &CONTACT, &mut bounds).map_err(|error| refused(error, ContactError::Data))?;
    Ok(bounds[2].have())
}

fn data_read(body: Bytes) -> Result<ContactData, ContactError> {
    let data = wire::ContactData::decode(body).map_err(|error| ContactError::Data(error.to_string()))?;
    Ok(ContactData {
        nonce: data.sequencing_nonce,
        clock: time_from_wire(data.client_clock.as_ref()),
        allowed: Some(data.allowed_messages).filter(|allowed| !allowed.is_empty()),
        messages: data.messages.into_iter().map(incoming_from_wire).collect(),
        remembers: data.remembers,
    })
}

fn refused(error: ScanError, malformed: fn(String) -> ContactError) -> ContactError {
    match error {
        ScanError::Malformed => malformed(error.to_string()),
        ScanError::TooMany { what, max } => ContactError::TooMany { what, max },
    }
}

fn signature_check(signature: &wire::Signature) -> Result<(), ContactError> {
    if signature.certificate.is_empty() {
        return Err(ContactError::SignatureBare);
    }
    let max = limits::SIGNATURE_CERTIFICATES_MAX;
    if signature.certificate.len() > max {
        return Err(ContactError::TooMany { what: "certificates in a signature", max });
    }
    let bytes = signature.signature.len() + signature.certificate.iter().map(Bytes::len).sum::<usize>();
    if bytes > limits::SIGNATURE_BYTES_MAX {
        return Err(ContactError::SignatureBytes(bytes));
    }
    Ok(())
}

fn incoming_from_wire(message: wire::Message) -> IncomingMessage {
    let source = message.source.unwrap_or_default();
    let has_destination = message.destination.is_some();
    let destination = message.destination.unwrap_or_default();
    let annotations = message.annotations.map(|annotations| annotations.entries).unwrap_or_default();
    IncomingMessage {
        claimed_agent: source.client_id.into(),
        source_service: source.service_name,
        source_message_id: message.source_message_id.into(),
        has_destination,
        destination_agent: destination.client_id.into(),
        destination_service: destination.service_name,
        message_type: message.message_type,
        payload: message.data.map(payload_from_wire),
        priority: Priority::from_number(message.priority),
        background: message.background,
        annotations: annotations.into_iter().map(|entry| (entry.key, entry.value)).collect(),
    }
}

/// Writes what a server sends: messages under the nonce of the contact.
pub fn answer_to_wire(nonce: u64, messages: Vec<Message>) -> wire::ContactData {
    wire::ContactData {
        sequencing_nonce: nonce,
        messages: messages.into_iter().map(message_to_wire).collect(),
        ..wire::ContactData::default()
    }
}

/// Writes what an agent sends at `clock`: `messages`, its flow-control tokens, and the labels it claims.
pub fn contact_to_wire(
    nonce: u64,
    clock: Timestamp,
    messages: Vec<Message>,
    allowed: impl IntoIterator<Item = (String, u64)>,
    labels: Vec<String>,
) -> wire::WrappedContactData {
    let data = wire::ContactData {
        client_clock: Some(time_to_wire(clock)),
        allowed_messages: allowed.into_iter().collect(),
        ..answer_to_wire(nonce, messages)
    };
    wire::WrappedContactData {
        contact_data: data.encode_to_vec().into(),
        signatures: Vec::new(),
        client_labels: labels,
        muster_introduction: Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::{Address, AgentId, MessageId};
    use proptest::prelude::*;

    fn wrap(data: &wire::ContactData) -> Bytes {
        let contact_data = data.encode_to_vec().into();
        wire::WrappedContactData { contact_data, ..Default::default() }.encode_to_vec().into()
    }

    fn messages(count: usize) -> wire::ContactData {
        wire::ContactData { messages: vec![wire::Message::default(); count], ..Default::default() }
    }

    #[test]
    fn what_an_agent_writes_a_server_reads() {
        let agent = AgentId::from_bytes([7; 8]);
        let ends = (Address::agent(agent, "client-service"), Address::server("service"));
        let mut message = Message::new(MessageId::from_bytes([1; 32]), ends.0, ends.1, Timestamp::EPOCH);
        message.source_message_id = b"own".to_vec();
        let clock = Timestamp::from_nanos(5);
        let wire = contact_to_wire(u64::MAX, clock, vec![message], [("s".to_owned(), u64::MAX)], vec!["linux".into()]);
        let received = contact_decode(wire.encode_to_vec().into()).unwrap();
        assert_eq!((received.data.nonce, received.data.clock), (u64::MAX, Some(clock)));
        assert_eq!(received.data.allowed.unwrap()["s"], u64::MAX);
        assert_eq!(received.labels, ["linux"]);
        let message = &received.data.messages[0];
        assert_eq!(message.claimed_agent, agent.as_bytes());
        assert_eq!(
            (message.source_service.as_str(), message.destination_service.as_str()),
            ("client-service", "service")
        );
        assert!(message.has_destination && message.destination_agent.is_empty());
    }

    #[test]
    fn no_bytes_are_a_contact() {
        assert_eq!(contact_decode(Bytes::new()), Ok(Received::default()));
    }

    #[test]
    fn lists_are_bounded_before_they_are_decoded() {
        assert_eq!(contact_decode(wrap(&messages(100))).unwrap().data.messages.len(), 100);
        let too_many = |what, max| Err(ContactError::TooMany { what, max });
        assert_eq!(contact_decode(wrap(&messages(101))), too_many("messages", 100));
        // Twenty MiB of empty messages would be gigabytes once decoded.
        let flood = Bytes::from([0x12, 0].repeat(10 * 1024 * 1024));
        assert_eq!(data_decode(flood.clone()), too_many("messages", 100).map(|_: Received| ContactData::default()));
        assert_eq!(contact_decode(flood), too_many("signatures", 8));
        assert_eq!(contact_decode(Bytes::from([0x1a, 0].repeat(1_000_000))), too_many("labels", CLAIMED_LABELS_MAX));
        let allowed_messages = (0..=limits::CONTACT_SERVICES_MAX).map(|n| (n.to_string(), u64::MAX)).collect();
        let services = wire::ContactData { allowed_messages, ..Default::default() };
        assert_eq!(contact_decode(wrap(&services)), too_many("services with tokens", limits::CONTACT_SERVICES_MAX));
        let empty = wire_field(12, &[0x0a, 0].repeat(limits::CONTACT_PAIRS_MAX + 1));
        let data = wire_field(2, &empty);
        assert_eq!(
            data_decode(data.into()),
            Err(ContactError::TooMany { what: "annotations", max: limits::CONTACT_PAIRS_MAX })
        );
    }

    #[test]
    fn annotations_are_bounded_by_bytes_and_what_they_take_is_known_before() {
        let entry =
            |n: usize| wire::annotations::Entry { key: "data_ids".into(), value: format!("F0000:{n:08x}:00000000") };
        let annotated = |messages: usize, entries: usize| wire::ContactData {
            messages: vec![
                wire::Message {
                    annotations: Some(wire::Annotations { entries: (0..entries).map(entry).collect() }),
                    ..wire::Message::default()
                };
                messages
            ],
            ..Default::default()
        };
        for (messages, entries) in [(1, 65), (1, 1000), (100, 100), (1, 50_000)] {
            let body = wrap(&annotated(messages, entries));
            let counted = contact_count(body).unwrap();
            assert_eq!(counted.bytes_more(), messages * entries * limits::PAIR_BYTES);
            let received = counted.read().unwrap();
            assert_eq!(received.data.messages[messages - 1].annotations.len(), entries);
        }
    }

    #[test]
    fn extra_signatures_are_bounded() {
        let with = |signatures| {
            let wrapped = wire::WrappedContactData { signatures, ..Default::default() };
            contact_decode(wrapped.encode_to_vec().into()).map(drop)
        };
        let signature = |certificates: usize, bytes: usize| wire::Signature {
            certificate: vec![Bytes::from_static(b"c"); certificates],
            algorithm: 4,
            signature: vec![0; bytes].into(),
        };
        assert_eq!(with(vec![signature(8, 100); 8]), Ok(()));
        assert_eq!(with(vec![signature(0, 0)]), Err(ContactError::SignatureBare));
        assert!(matches!(with(vec![signature(1, 0); 9]), Err(ContactError::TooMany { max: 8, .. })));
        assert!(matches!(with(vec![signature(9, 0)]), Err(ContactError::TooMany { max: 8, .. })));
        assert!(matches!(with(vec![signature(1000, 0)]), Err(ContactError::TooMany { max: 64, .. })));
        assert!(matches!(with(vec![signature(1, 10 << 20)]), Err(ContactError::SignatureBytes(_))));
    }

    #[test]
    fn broken_bytes_are_refused_whatever_is_broken() {
        let groups = [0x0b_u8].repeat(100_000);
        for body in [&b"\xff\xff"[..], b"\x00\x00", b"\x08\x01", b"\x0a\x02\x08", b"\x1a\x01\xff", &groups] {
            assert!(matches!(contact_decode(Bytes::copy_from_slice(body)), Err(ContactError::Wrapped(_))), "{body:x?}");
        }
        for data in [&b"\xff"[..], b"\x0a\x01x", b"\x12\x02\x0a\xff", b"\x0b", b"\x12\x03\x2a\x01\xff"] {
            let contact_data = Bytes::copy_from_slice(data);
            let body = wire::WrappedContactData { contact_data, ..Default::default() }.encode_to_vec();
            assert!(matches!(contact_decode(body.into()), Err(ContactError::Data(_))), "{data:x?}");
        }
    }

    #[test]
    fn nesting_ends_in_an_error_and_not_in_the_stack() {
        // Unknown groups inside a known message are where prost itself would recurse.
        let groups = [0x7b_u8].repeat(100_000);
        let message = wire_field(2, &groups);
        assert!(data_decode(message.into()).is_err());
        // An Any inside an Any inside … is bytes inside bytes: nobody looks inside.
        let any = (0..1000).fold(Vec::new(), |inner: Vec<u8>, _| {
            prost_types::Any { type_url: "type.googleapis.com/google.protobuf.Any".into(), value: inner }
                .encode_to_vec()
        });
        let mut data = messages(1);
        data.messages[0].data = Some(prost_types::Any { type_url: "x".into(), value: any });
        assert!(contact_decode(wrap(&data)).is_ok());
    }

    fn wire_field(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        prost::encoding::encode_varint(body.len() as u64, &mut out);
        out.extend_from_slice(body);
        out
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            drop(contact_decode(bytes.clone().into()));
            drop(data_decode(bytes.into()));
        }
    }
}
