//! Calls about broadcasts and files.

use super::*;
use muster_proto::wire::server as admin;
use sha2::{Digest, Sha256};

fn broadcast(id: u8, group: &str) -> admin::Broadcast {
    admin::Broadcast {
        broadcast_id: vec![id; 8].into(),
        source: Some(wire::Address { client_id: Bytes::new(), service_name: "ops".into() }),
        message_type: "Hello".into(),
        required_labels: vec![wire::Label { service_name: "client".into(), label: "linux".into() }],
        group_name: group.into(),
        ..Default::default()
    }
}

async fn active(door: &Door, service: &str) -> Vec<u8> {
    let request = admin::ListActiveBroadcastsRequest { service_name: service.into() };
    let listed = door.client().list_active_broadcasts(request).await.unwrap().into_inner().broadcasts;
    listed.iter().map(|broadcast| broadcast.broadcast_id[0]).collect()
}

#[tokio::test]
async fn broadcasts_are_created_replaced_by_their_group_and_disabled() {
    let door = Door::local().await;
    let create = |broadcast, limit| {
        let mut client = door.client();
        async move { client.create_broadcast(admin::CreateBroadcastRequest { broadcast: Some(broadcast), limit }).await }
    };
    create(broadcast(1, "news"), 5).await.unwrap();
    create(broadcast(2, ""), i64::MAX as u64).await.unwrap();
    assert_eq!(active(&door, "").await, [1, 2]);
    assert_eq!(active(&door, "ops").await, [1, 2]);
    assert!(active(&door, "other").await.is_empty());
    create(broadcast(3, "news"), 5).await.unwrap();
    assert_eq!(active(&door, "").await, [2, 3]);
    create(broadcast(4, ""), 0).await.unwrap();
    assert_eq!(active(&door, "").await, [2, 3]);

    let mut client = door.client();
    let broadcast_ids = vec![vec![2; 8].into(), vec![9; 8].into()];
    client.disable_broadcasts(admin::DisableBroadcastsRequest { broadcast_ids }).await.unwrap();
    assert_eq!(active(&door, "").await, [3]);
    client.disable_broadcasts(admin::DisableBroadcastsRequest::default()).await.unwrap();
    let short = admin::DisableBroadcastsRequest { broadcast_ids: vec![Bytes::from_static(b"x")] };
    refused(client.disable_broadcasts(short).await, Code::InvalidArgument, "8 bytes");

    let refuse = |outcome, text: &str| refused(outcome, Code::InvalidArgument, text);
    refuse(create(admin::Broadcast { source: None, ..broadcast(5, "") }, 1).await, "source");
    refuse(create(broadcast(5, ""), u64::MAX).await, "limit");
    let never = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 });
    refuse(create(admin::Broadcast { expiration_time: never, ..broadcast(5, "") }, 1).await, "expiration_time");
    refuse(client.create_broadcast(admin::CreateBroadcastRequest::default()).await, "broadcast");
    assert_eq!(active(&door, "").await, [3]);
    assert!(door.journal().await.iter().all(|row| row.cause.actor == "local"));
}

#[tokio::test]
async fn a_file_is_stored_in_pieces_replaced_and_deleted() {
    let door = Door::local().await;
    let mut client = door.client();
    let file = |name: &str, data: Vec<u8>| admin::StoreFileRequest {
        service_name: "system".into(),
        file_name: name.into(),
        data: data.into(),
    };
    let long: Vec<u8> = (0..limits::FILE_CHUNK_BYTES * 2 + 17).map(|i| u8::try_from(i % 251).unwrap()).collect();
    client.store_file(file("a/../b", vec![1])).await.unwrap();
    client.store_file(file("a/../b", long.clone())).await.unwrap();
    let info = door.store.file_get("system", "a/../b").await.unwrap().unwrap();
    assert_eq!((info.bytes, info.sha256), (long.len() as u64, Sha256::digest(&long).into()));
    let mut read = Vec::new();
    for index in 0.. {
        let Some(piece) = door.store.file_chunk_get(info.content, index).await.unwrap() else { break };
        read.extend_from_slice(&piece);
    }
    assert_eq!(read, long);
    client.store_file(file("empty", Vec::new())).await.unwrap();
    assert_eq!(door.store.file_get("system", "empty").await.unwrap().unwrap().bytes, 0);

    let delete = |name: &str| admin::DeleteFileRequest { service_name: "system".into(), file_name: name.into() };
    client.delete_file(delete("a/../b")).await.unwrap();
    client.delete_file(delete("a/../b")).await.unwrap();
    assert_eq!(door.store.file_get("system", "a/../b").await.unwrap(), None);
    for wrong in ["", "a\nb", "a\0b", &"x".repeat(limits::FILE_NAME_BYTES_MAX + 1)] {
        refused(client.store_file(file(wrong, vec![1])).await, Code::InvalidArgument, "file name");
        refused(client.delete_file(delete(wrong)).await, Code::InvalidArgument, "file name");
    }
    let nameless = admin::StoreFileRequest { service_name: String::new(), ..file("a", vec![]) };
    refused(client.store_file(nameless).await, Code::InvalidArgument, "service name");
    refused(client.store_file(file("big", vec![0; 5 << 20])).await, Code::ResourceExhausted, "");
}

#[tokio::test]
async fn the_first_token_works_and_is_replaced_when_it_does_not() {
    use std::os::unix::fs::PermissionsExt;
    let door = Door::local().await;
    let directory = tempfile::tempdir().unwrap();
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap().trim().to_owned();
    let ensure = |directory: std::path::PathBuf| {
        let store = Arc::clone(&door.store);
        async move { token::ensure(&directory, store.as_ref(), &SystemRandom, NOW).await.unwrap() }
    };
    let path = ensure(directory.path().into()).await;
    let first = read(&path);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(door.store.token_find(token::hash(&first)).await.unwrap().unwrap().name, "admin");
    ensure(directory.path().into()).await;
    assert_eq!(read(&path), first);
    // Another server on the same database has its own.
    let elsewhere = tempfile::tempdir().unwrap();
    let second = read(&ensure(elsewhere.path().into()).await);
    let name = door.store.token_find(token::hash(&second)).await.unwrap().unwrap().name;
    assert!(name.starts_with("admin@"), "{name}");
    // One that was withdrawn is replaced.
    door.store.token_delete("admin", NOW, &Cause::server()).await.unwrap();
    ensure(directory.path().into()).await;
    let third = read(&path);
    assert_ne!(third, first);
    assert!(door.store.token_find(token::hash(&third)).await.unwrap().is_some());
}
