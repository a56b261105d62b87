//! Lists that are empty, huge or repeated, texts with a zero byte, and messages within messages.

use super::client::{Agent, Streamer, ack, contact, data, message, poll, way, wrapped};
use super::world::{World, world};
use bytes::Bytes;
use muster_core::{AgentId, Payload, limits, system};
use muster_proto::system::{ACK_IDS_MAX, INFO_LABELS_MAX, pack};
use muster_proto::{convert, wire};
use prost::Message as _;

/// A message to a built-in service.
fn say(id: &[u8], service: &str, message_type: &str, payload: Payload) -> wire::Message {
    let address = |service: &str| Some(wire::Address { client_id: Bytes::new(), service_name: service.into() });
    wire::Message {
        source: address("system"),
        destination: address(service),
        message_type: message_type.into(),
        data: Some(convert::payload_to_wire(payload)),
        ..message(id)
    }
}

/// Whether the message of that id is there, and the reason for which it failed.
async fn fate(world: &World, agent: AgentId, id: &[u8]) -> Option<Result<(), String>> {
    let messages = world.messages_of(agent).await;
    let found = messages.into_iter().find(|message| message.source_message_id == id)?;
    Some(found.result.and_then(|result| result.failure).map_or(Ok(()), Err))
}

/// `levels` messages, each the only field of the next: a length-delimited field `number` around another.
fn nested(number: u8, levels: usize) -> Vec<u8> {
    // Built from the inside and from the end, because each level's length stands before it.
    let mut reversed = Vec::new();
    for _ in 0..levels {
        let mut head = vec![number << 3 | 2];
        prost::encoding::encode_varint(reversed.len() as u64, &mut head);
        head.reverse();
        reversed.extend(head);
    }
    reversed.reverse();
    reversed
}

#[tokio::test]
async fn r09_messages_within_messages_end_in_an_answer() {
    let world = world().await;
    let agent = Agent::new();
    for levels in [100, 100_000] {
        for field in 1..=3 {
            // Fields 1 and 3 are bytes and text, field 2 a signature without a certificate.
            let answer = poll(&world, &way(&agent), nested(field, levels)).await;
            assert_eq!(answer.status, 400, "{levels} levels of field {field}");
        }
        let inner = |bytes: Vec<u8>| {
            let wrapped = wire::WrappedContactData { contact_data: bytes.into(), ..Default::default() };
            wrapped.encode_to_vec()
        };
        for groups in [[0x0b].repeat(levels), [0x7b].repeat(levels), [&[0x12, 0x80][..], &[0x0b].repeat(128)].concat()]
        {
            assert_eq!(poll(&world, &way(&agent), groups.clone()).await.status, 400);
            assert_eq!(poll(&world, &way(&agent), inner(groups)).await.status, 400);
        }
        // What a message carries is bytes to us, however deep; what we read ourselves fails alone.
        let any = Payload { type_url: "type.googleapis.com/google.protobuf.Any".into(), value: nested(2, levels) };
        let json = format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        let deep = |id: &str| format!("{id}-{levels}").into_bytes();
        let groups = Payload { value: [0x7b].repeat(levels), ..pack(&wire::MessageAckData::default()) };
        let said = vec![
            say(&deep("any"), "sink", "Test", any),
            say(&deep("ack"), system::SERVICE, system::MESSAGE_ACK, groups),
            say(&deep("facts"), system::MUSTER, system::FACTS, pack(&json.into_bytes())),
        ];
        poll(&world, &way(&agent), contact(said)).await.contact();
        assert_eq!(fate(&world, agent.id(), &deep("any")).await, Some(Ok(())));
        assert!(matches!(fate(&world, agent.id(), &deep("ack")).await, Some(Err(_))), "{levels}");
        assert!(matches!(fate(&world, agent.id(), &deep("facts")).await, Some(Err(_))), "{levels}");
    }
}

#[tokio::test]
async fn labels_of_a_contact_may_be_none_many_or_the_same() {
    let world = world().await;
    let labels = |agent: &Agent, labels: Vec<String>| {
        let way = way(agent);
        let body = wire::WrappedContactData { client_labels: labels, ..wrapped(&data(vec![])) }.encode_to_vec();
        let world = &world;
        async move { poll(world, &way, body).await.status.as_u16() }
    };
    let numbered = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
    let same = Agent::new();
    assert_eq!(labels(&same, vec!["Linux".to_owned(); 1000]).await, 200);
    let known = world.engine.store().agent_get(same.id()).await.unwrap().unwrap();
    assert_eq!(known.labels, [muster_core::Label::client("Linux")]);
    assert_eq!(labels(&Agent::new(), vec![]).await, 200);
    assert_eq!(labels(&Agent::new(), numbered(limits::AGENT_LABELS_MAX)).await, 200);
    // What is no list of labels is left out, and keeps no machine away; what would take memory does.
    for none in [numbered(limits::AGENT_LABELS_MAX + 1), vec!["a\0".to_owned()], vec![String::new()]] {
        let agent = Agent::new();
        assert_eq!(labels(&agent, none).await, 200);
        let known = world.engine.store().agent_get(agent.id()).await.unwrap().unwrap();
        assert_eq!(known.labels, []);
    }
    let agent = Agent::new();
    assert_eq!(labels(&agent, vec!["x".to_owned(); 1_000_000]).await, 400);
    assert!(world.engine.store().agent_get(agent.id()).await.unwrap().is_none());
}

#[tokio::test]
async fn r54_labels_of_a_machine_are_compared_byte_by_byte_and_bounded() {
    let world = world().await;
    let agent = Agent::new();
    let info = |labels: Vec<String>| {
        let label = |label| wire::Label { service_name: "client".into(), label };
        pack(&wire::ClientInfoData { labels: labels.into_iter().map(label).collect(), services: vec![] })
    };
    // One letter in two spellings of Unicode, and one in two cases.
    let spelled = ["\u{e9}", "e\u{301}", "Web", "web"].map(str::to_owned).to_vec();
    let many = (0..=limits::AGENT_LABELS_MAX).map(|number| number.to_string()).collect();
    let flood = Payload { value: [0x0a, 0].repeat(INFO_LABELS_MAX + 1), ..info(vec![]) };
    let said = vec![
        say(b"spelled", system::SERVICE, system::CLIENT_INFO, info(spelled.clone())),
        say(b"many", system::SERVICE, system::CLIENT_INFO, info(many)),
        say(b"flood", system::SERVICE, system::CLIENT_INFO, flood),
    ];
    poll(&world, &way(&agent), contact(said)).await.contact();
    let known = world.engine.store().agent_get(agent.id()).await.unwrap().unwrap();
    let mut labels: Vec<_> = known.labels.into_iter().map(|label| label.label).collect();
    let mut want = spelled;
    labels.sort_unstable();
    want.sort_unstable();
    assert_eq!(labels, want);
    for refused in [&b"many"[..], b"flood"] {
        assert!(matches!(fate(&world, agent.id(), refused).await, Some(Err(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn acknowledgements_may_be_empty_huge_or_repeated() {
    let world = world().await;
    let agent = Agent::new();
    poll(&world, &way(&agent), "").await.contact();
    let id = world.send(agent.id(), "hello").await;
    let taken = Bytes::copy_from_slice(id.as_bytes());
    let unknown = |number: usize| Bytes::from([&number.to_be_bytes()[..], &[0xee; 24]].concat());
    let mut most: Vec<_> = (1..ACK_IDS_MAX).map(unknown).collect();
    let too_many: Vec<_> = (0..=ACK_IDS_MAX).map(unknown).collect();
    poll(&world, &way(&agent), contact(vec![ack(&[], b"none"), ack(&too_many, b"too many")])).await.contact();
    assert_eq!(fate(&world, agent.id(), b"none").await, Some(Ok(())));
    assert!(matches!(fate(&world, agent.id(), b"too many").await, Some(Err(_))));
    let pending = world.engine.store().message_get(&[id], false).await.unwrap();
    assert_eq!(pending[0].message.result, None);
    most.push(taken.clone());
    poll(&world, &way(&agent), contact(vec![ack(&most, b"most"), ack(&vec![taken; 1000], b"same")])).await.contact();
    let done = world.engine.store().message_get(&[id], false).await.unwrap();
    assert!(done[0].message.result.as_ref().is_some_and(|result| result.failure.is_none()));
}

#[tokio::test]
async fn r21_tokens_without_end_stay_without_end() {
    let world = world().await;
    let agent = Agent::new();
    let endless =
        || wire::ContactData { allowed_messages: [("client-service".to_owned(), u64::MAX)].into(), ..data(vec![]) };
    // The same service twice in one map: the later entry stands for both.
    let twice = [endless().encode_to_vec(), endless().encode_to_vec()].concat();
    let twice = wire::WrappedContactData { contact_data: twice.into(), ..Default::default() };
    poll(&world, &way(&agent), twice.encode_to_vec()).await.contact();
    let (mut stream, _) = Streamer::open(&world, &way(&agent), vec![]).await;
    for number in 1..=3 {
        stream.send_bytes(muster_proto::framing::record_bytes(&wrapped(&endless()))).await;
        assert_eq!(stream.next().await.unwrap().ack_index, number);
    }
    world.send(agent.id(), "hello").await;
    assert_eq!(stream.next().await.unwrap().messages.len(), 1);
}

#[tokio::test]
async fn r52_a_zero_byte_in_any_text_puts_its_message_aside_alone() {
    let world = world().await;
    let agent = Agent::new();
    let address = |service: &str| Some(wire::Address { client_id: Bytes::new(), service_name: service.into() });
    let annotated = |key: &str, value: &str| {
        let entry = wire::annotations::Entry { key: key.into(), value: value.into() };
        Some(wire::Annotations { entries: vec![entry] })
    };
    let bad = || message(b"bad");
    let any = Some(prost_types::Any { type_url: "a\0b".into(), value: vec![0] });
    let said = vec![
        wire::Message { source: address("a\0b"), ..bad() },
        wire::Message { destination: address("sink\0"), ..bad() },
        wire::Message { message_type: "\0".into(), ..bad() },
        wire::Message { data: any, ..bad() },
        wire::Message { annotations: annotated("a\0", "b"), ..bad() },
        wire::Message { annotations: annotated("a", "\0b"), ..bad() },
        // Ids and bodies are bytes, and may hold any.
        message(b"a\0b"),
    ];
    let count = said.len() - 1;
    poll(&world, &way(&agent), contact(said)).await.contact();
    let stored: Vec<_> = world.messages_of(agent.id()).await.into_iter().map(|one| one.source_message_id).collect();
    assert_eq!(stored, [b"a\0b".to_vec()]);
    assert_eq!(world.engine.store().dead_letter_page(None, 100).await.unwrap().len(), count);
}

#[tokio::test]
async fn s01_the_same_id_from_two_machines_or_services_is_two_messages() {
    let world = world().await;
    let (one, other) = (Agent::new(), Agent::new());
    let from = |service: &str, id: &[u8]| {
        let source = Some(wire::Address { client_id: Bytes::new(), service_name: service.into() });
        wire::Message { source, ..message(id) }
    };
    let said = || contact(vec![from("a", b"b\0c"), from("a\0b", b"c"), from("ab", b"\0c"), from("a", b"b\0c")]);
    let mut ids = Vec::new();
    for agent in [&one, &other] {
        poll(&world, &way(agent), said()).await.contact();
        let messages = world.messages_of(agent.id()).await;
        // A name with a zero byte could be read as another name and id, so it is none.
        assert_eq!(messages.len(), 2, "{messages:?}");
        ids.extend(messages.into_iter().map(|message| message.id));
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}
