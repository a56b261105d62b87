//! Calls about messages.

use super::*;
use muster_core::MessageId;
use muster_proto::wire::server as admin;
use prost::Message as _;
use tonic::codec::Codec;

fn message(agent: AgentId, id: u8) -> wire::Message {
    let address = |client_id: Bytes, service: &str| Some(wire::Address { client_id, service_name: service.into() });
    wire::Message {
        message_id: vec![id; 32].into(),
        source: address(Bytes::new(), "GRR"),
        destination: address(id_bytes(agent), "GRR"),
        message_type: "GrrMessage".into(),
        data: Some(prost_types::Any { type_url: "type.googleapis.com/GrrMessage".into(), value: vec![1, 2, 3] }),
        ..Default::default()
    }
}

async fn status(door: &Door, id: u8) -> admin::GetMessageStatusResponse {
    let request = admin::GetMessageStatusRequest { message_id: vec![id; 32].into() };
    door.client().get_message_status(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_message_is_taken_once_and_another_of_its_id_is_not() {
    let door = Door::local().await;
    let agent = door.agent(1).await;
    let mut client = door.client();
    client.insert_message(message(agent, 7)).await.unwrap();
    client.insert_message(message(agent, 7)).await.unwrap();
    let other = wire::Message { message_type: "Other".into(), ..message(agent, 7) };
    refused(client.insert_message(other).await, Code::AlreadyExists, "exists already");
    let without_id = wire::Message { message_id: Bytes::new(), ..message(agent, 0) };
    client.insert_message(without_id).await.unwrap();
    let request = admin::GetPendingMessageCountRequest { client_ids: vec![id_bytes(agent); 2] };
    assert_eq!(client.get_pending_message_count(request).await.unwrap().into_inner().count, 2);
    let state = status(&door, 7).await;
    assert_eq!(state.creation_time.unwrap().seconds, 1_800_000_000);
    assert_eq!(state.result, None);
    assert_eq!(status(&door, 99).await, admin::GetMessageStatusResponse::default());
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_in_the_words_that_tools_know() {
    let door = Door::local().await;
    let agent = door.agent(1).await;
    let good = || message(agent, 7);
    let ends = |client_id: Vec<u8>, service: &str| {
        Some(wire::Address { client_id: client_id.into(), service_name: service.into() })
    };
    let any = |bytes: usize| Some(prost_types::Any { type_url: "t".into(), value: vec![0; bytes] });
    let cases = [
        (wire::Message { destination: None, ..good() }, Code::InvalidArgument, "message must have Destination"),
        (wire::Message { source: None, ..good() }, Code::InvalidArgument, "message must have Source"),
        (wire::Message { source: ends(vec![1; 8], "GRR"), ..good() }, Code::InvalidArgument, "source.client_id"),
        (
            wire::Message { destination: ends(vec![1; 7], "GRR"), ..good() },
            Code::InvalidArgument,
            "error parsing destination.client_id (",
        ),
        (
            wire::Message { destination: ends(vec![9; 8], "GRR"), ..good() },
            Code::NotFound,
            "expected 1 destination client result, got 0",
        ),
        (wire::Message { destination: ends(vec![], "a\0b"), ..good() }, Code::InvalidArgument, "zero byte"),
        (wire::Message { message_id: vec![1; 31].into(), ..good() }, Code::InvalidArgument, "32 bytes"),
        (wire::Message { result: Some(wire::MessageResult::default()), ..good() }, Code::InvalidArgument, "result"),
        (
            wire::Message { validation_info: Some(wire::ValidationInfo::default()), ..good() },
            Code::InvalidArgument,
            "validation_info",
        ),
        (wire::Message { is_blocklisted_source: true, ..good() }, Code::InvalidArgument, "is_blocklisted_source"),
        (
            wire::Message { creation_time: Some(prost_types::Timestamp { seconds: 1, nanos: -1 }), ..good() },
            Code::InvalidArgument,
            "creation_time",
        ),
        (wire::Message { data: any(2 << 20), ..good() }, Code::ResourceExhausted, "exceeds the 2097152-byte limit"),
        (wire::Message { data: any(5 << 20), ..good() }, Code::ResourceExhausted, "too large"),
    ];
    for (wrong, code, text) in cases {
        refused(door.client().insert_message(wrong).await, code, text);
    }
    let request = admin::GetPendingMessageCountRequest { client_ids: vec![id_bytes(agent)] };
    assert_eq!(door.client().get_pending_message_count(request).await.unwrap().into_inner().count, 0);
}

#[tokio::test]
async fn a_message_has_as_many_annotations_as_fit_into_it() {
    let door = Door::local().await;
    let agent = door.agent(1).await;
    let entry = |n| wire::annotations::Entry { key: "data_ids".into(), value: format!("F0000:{n:08x}:00000000") };
    for (id, count) in [(1, 100), (2, 1000)] {
        let entries = (0..count).map(entry).collect();
        let annotated = wire::Message { annotations: Some(wire::Annotations { entries }), ..message(agent, id) };
        door.client().insert_message(annotated).await.unwrap();
    }
    let entries = (0..60_000).map(entry).collect();
    let annotated = wire::Message { annotations: Some(wire::Annotations { entries }), ..message(agent, 3) };
    refused(door.client().insert_message(annotated).await, Code::ResourceExhausted, "exceeds the 2097152-byte limit");
}

#[tokio::test]
async fn pending_messages_are_listed_in_order_and_deleted_with_the_known_words() {
    let door = Door::local().await;
    let agent = door.agent(1).await;
    let mut client = door.client();
    for id in [3, 1, 2] {
        client.insert_message(message(agent, id)).await.unwrap();
    }
    let ask = |offset, limit, want_data| admin::GetPendingMessagesRequest {
        client_ids: vec![id_bytes(agent)],
        offset,
        limit,
        want_data,
    };
    let all = client.get_pending_messages(ask(0, 0, true)).await.unwrap().into_inner().messages;
    assert_eq!(all.iter().map(|message| message.message_id[0]).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(all[0].data.as_ref().unwrap().value, [1, 2, 3]);
    let some = client.get_pending_messages(ask(1, 1, false)).await.unwrap().into_inner().messages;
    assert_eq!((some.len(), some[0].message_id[0], &some[0].data), (1, 2, &None));
    refused(client.get_pending_messages(ask(1, 0, false)).await, Code::InvalidArgument, "limit");
    refused(client.get_pending_messages(ask(u64::MAX, 1, false)).await, Code::InvalidArgument, "");

    let delete = admin::DeletePendingMessagesRequest { client_ids: vec![id_bytes(agent)] };
    client.delete_pending_messages(delete).await.unwrap();
    let result = status(&door, 1).await.result.unwrap();
    assert!(result.failed);
    assert_eq!(result.failed_reason, "Removed by admin action.");
    assert_eq!(door.journal().await[0].cause.actor, "local");
    client.delete_pending_messages(admin::DeletePendingMessagesRequest::default()).await.unwrap();
}

#[tokio::test]
async fn an_order_to_an_agent_program_stands_in_the_journal() {
    let door = Door::local().await;
    let agent = door.agent(1).await;
    let mut order = message(agent, 7);
    order.destination.as_mut().unwrap().service_name = "system".into();
    order.message_type = "Die".into();
    order.data = None;
    door.client().insert_message(message(agent, 8)).await.unwrap();
    let before = door.journal().await.len();
    door.client().insert_message(order).await.unwrap();
    let journal = door.journal().await;
    assert_eq!(journal.len(), before + 1);
    assert_eq!((journal[0].action.as_str(), journal[0].subject.clone()), ("agent.order", agent.to_string()));
    assert!(journal[0].details.contains("Die"), "{}", journal[0].details);
}

#[tokio::test]
async fn a_message_to_no_service_of_the_server_fails_where_it_can_be_seen() {
    let door = Door::local().await;
    let mut lost = message(AgentId::from_bytes([0; 8]), 5);
    lost.destination = Some(wire::Address { client_id: Bytes::new(), service_name: "nowhere".into() });
    door.client().insert_message(lost).await.unwrap();
    let result = status(&door, 5).await.result.unwrap();
    assert!(result.failed && result.failed_reason.contains("unknown service"), "{result:?}");
    assert!(
        door.store.message_get(&[MessageId::from_bytes([5; 32])], true).await.unwrap()[0].message.payload.is_none()
    );
}

/// Sends bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = wire::EmptyMessage;
    type Encoder = RawEncoder;
    type Decoder = <tonic_prost::ProstCodec<wire::EmptyMessage, wire::EmptyMessage> as Codec>::Decoder;

    fn encoder(&mut self) -> RawEncoder {
        RawEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        tonic_prost::ProstCodec::<wire::EmptyMessage, wire::EmptyMessage>::default().decoder()
    }
}

struct RawEncoder;

impl tonic::codec::Encoder for RawEncoder {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

#[tokio::test]
async fn what_does_not_decode_is_the_callers_mistake() {
    let door = Door::local().await;
    let path = http::uri::PathAndQuery::from_static("/fleetspeak.server.Admin/InsertMessage");
    let nested = (0..200).fold(Vec::new(), |inner: Vec<u8>, _| {
        let any = prost_types::Any { type_url: String::new(), value: inner };
        wire::Message { data: Some(any), ..Default::default() }.encode_to_vec()
    });
    let not_utf8 = vec![0x2a, 2, 0xc3, 0x28];
    let cases =
        [vec![0xff; 20], vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], vec![0x00], vec![0x0b], vec![0x08, 1], not_utf8];
    for wrong in cases {
        let mut grpc = tonic::client::Grpc::new(door.channel());
        grpc.ready().await.unwrap();
        let outcome = grpc.unary(tonic::Request::new(wrong.clone()), path.clone(), Raw).await;
        assert_eq!(outcome.unwrap_err().code(), Code::InvalidArgument, "{wrong:x?}");
    }
    // Bodies within bodies are bytes to us, however deep.
    let mut grpc = tonic::client::Grpc::new(door.channel());
    grpc.ready().await.unwrap();
    let outcome = grpc.unary(tonic::Request::new(nested), path, Raw).await;
    refused(outcome, Code::InvalidArgument, "Destination");
}
