//! What callers of the admin door do wrong, and the door stays open.

use super::*;
use muster_proto::wire::server as admin;
use std::collections::BTreeSet;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

/// A call of this many of one connection at once would be the last, if calls that were given up were kept.
const MANY: usize = limits::ADMIN_CALLS_MAX as usize + 50;

fn keep_alive(metadata: MetadataMap) -> tonic::Request<wire::EmptyMessage> {
    let mut request = tonic::Request::new(wire::EmptyMessage::default());
    *request.metadata_mut() = metadata;
    request
}

fn with(key: &str, value: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    metadata
        .append(AsciiMetadataKey::from_bytes(key.as_bytes()).unwrap(), AsciiMetadataValue::try_from(value).unwrap());
    metadata
}

#[tokio::test]
async fn r62_a_deadline_that_is_over_is_answered_so() {
    let door = Door::local().await;
    let agent = door.agent(1).await;
    let mut client = door.client();
    let ended = [Code::Cancelled, Code::DeadlineExceeded];
    for deadline in ["0S", "0m", "0n", "1n"] {
        let mut request = tonic::Request::new(admin::StreamClientIdsRequest::default());
        *request.metadata_mut() = with("grpc-timeout", deadline);
        // The answer may be quicker than a nanosecond is noticed; what may not be is that it never comes.
        let outcome = client.stream_client_ids(request).await;
        let code = outcome.map_or_else(|status| status.code(), |_| Code::Ok);
        assert!(code == Code::Ok || ended.contains(&code), "{deadline}: {code:?}");
    }
    // A deadline that is none is passed over, as gRPC has it.
    for wrong in ["-1S", "soon", "999999999999S", ""] {
        client.keep_alive(keep_alive(with("grpc-timeout", wrong))).await.unwrap();
    }
    let request = admin::ListClientsRequest { client_ids: vec![id_bytes(agent)] };
    assert_eq!(client.list_clients(request).await.unwrap().into_inner().clients.len(), 1);
}

#[tokio::test]
async fn r62_metadata_beyond_its_ceiling_ends_its_call_alone() {
    let door = Door::local().await;
    let mut client = door.client();
    for (count, bytes) in [(1, limits::HEADER_BYTES_MAX), (1, 1 << 20), (2000, 100)] {
        let mut metadata = MetadataMap::new();
        for number in 0..count {
            let key = AsciiMetadataKey::from_bytes(format!("x-{number}").as_bytes()).unwrap();
            metadata.append(key, AsciiMetadataValue::try_from("a".repeat(bytes)).unwrap());
        }
        assert!(client.keep_alive(keep_alive(metadata)).await.is_err(), "{count} of {bytes}");
        door.client().keep_alive(keep_alive(MetadataMap::new())).await.unwrap();
    }
    client.keep_alive(keep_alive(with("x-small", &"a".repeat(1000)))).await.unwrap();
}

#[tokio::test]
async fn r62_answers_that_nobody_waits_for_make_room_for_others() {
    let door = Door::local().await;
    for number in 1..=20 {
        door.agent(number).await;
    }
    let mut client = door.client();
    for _ in 0..MANY {
        // Given up after the first piece.
        let mut answers =
            client.stream_client_ids(admin::StreamClientIdsRequest::default()).await.unwrap().into_inner();
        assert!(answers.message().await.unwrap().is_some());
        // Given up before any.
        let mut other = client.clone();
        let asked = other.list_clients(admin::ListClientsRequest::default());
        tokio::select! {
            biased;
            _ = asked => {}
            () = tokio::task::yield_now() => {}
        }
    }
    let all = client.list_clients(admin::ListClientsRequest::default());
    let all = tokio::time::timeout(Duration::from_secs(20), all).await.expect("there is room for a call").unwrap();
    assert_eq!(all.into_inner().clients.len(), 20);
}

#[tokio::test]
async fn lists_of_ids_may_be_empty_huge_or_repeated() {
    let door = Door::local().await;
    let agent = door.agent(1).await;
    let mut client = door.client();
    let many = |count: u64| (0..count).map(|number| Bytes::from(number.to_be_bytes().to_vec())).collect::<Vec<_>>();
    let same = vec![id_bytes(agent); 10_000];
    for client_ids in [many(50_000), same.clone(), vec![]] {
        let count = usize::from(!client_ids.is_empty());
        let request = admin::ListClientsRequest { client_ids: [client_ids, vec![id_bytes(agent)]].concat() };
        let clients = client.list_clients(request).await.unwrap().into_inner().clients;
        assert_eq!(clients.len(), 1, "{count}");
    }
    for client_ids in [many(50_000), same, vec![]] {
        let request = admin::GetPendingMessageCountRequest { client_ids };
        assert_eq!(client.get_pending_message_count(request).await.unwrap().into_inner().count, 0);
    }
    // An empty entry costs two bytes on the wire; the first of a million is refused.
    let empty = admin::ListClientsRequest { client_ids: vec![Bytes::new(); 1_000_000] };
    refused(client.list_clients(empty).await, Code::InvalidArgument, "8 bytes");
    let broadcast_ids = vec![Bytes::from(vec![9; 8]); 10_000];
    client.disable_broadcasts(admin::DisableBroadcastsRequest { broadcast_ids }).await.unwrap();
    let labels: BTreeSet<_> = (0..100_000).map(|number| number.to_string()).collect();
    let label = |label| wire::Label { service_name: "client".into(), label };
    let broadcast = admin::Broadcast {
        source: Some(wire::Address { client_id: Bytes::new(), service_name: "ops".into() }),
        required_labels: labels.into_iter().map(label).collect(),
        ..Default::default()
    };
    let outcome = client.create_broadcast(admin::CreateBroadcastRequest { broadcast: Some(broadcast), limit: 1 }).await;
    refused(outcome, Code::InvalidArgument, "labels");
}

#[tokio::test]
async fn r65_the_door_opens_again_after_file_descriptors_ran_out() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let door = Door::local().await;
    door.client().keep_alive(keep_alive(MetadataMap::new())).await.unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + 8), maximum: before.maximum }).unwrap();
    let mut connections = Vec::new();
    while let Ok(connection) = tokio::net::TcpStream::connect(door.address).await {
        connections.push(connection);
        tokio::task::yield_now().await;
    }
    drop(connections);
    setrlimit(Resource::Nofile, before).unwrap();
    door.client().keep_alive(keep_alive(MetadataMap::new())).await.unwrap();
    assert!(!door.served.is_finished());
}
