//! Calls about machines.

use super::*;
use futures_util::{StreamExt, TryStreamExt, stream};
use muster_proto::wire::server as admin;
use muster_store::agents::{ContactPut, ContactTaken};

#[tokio::test]
async fn machines_are_listed_with_their_labels_by_id_too() {
    let door = Door::local().await;
    let (one, other) = (door.agent(1).await, door.agent(2).await);
    let mut client = door.client();
    let all = client.list_clients(admin::ListClientsRequest::default()).await.unwrap().into_inner().clients;
    assert_eq!(all.len(), 2);
    let unknown = Bytes::from(vec![0xee; 8]);
    let request = admin::ListClientsRequest { client_ids: vec![id_bytes(one), id_bytes(one), unknown] };
    let some = client.list_clients(request).await.unwrap().into_inner().clients;
    assert_eq!(some.len(), 1);
    assert_eq!(some[0].labels, [wire::Label { service_name: "client".into(), label: "linux".into() }]);
    assert_eq!(some[0].last_contact_time.unwrap().seconds, 1_800_000_000);

    client.blacklist_client(admin::BlacklistClientRequest { client_id: id_bytes(other) }).await.unwrap();
    let request = admin::ListClientsRequest { client_ids: vec![id_bytes(other)] };
    assert!(client.list_clients(request).await.unwrap().into_inner().clients[0].blacklisted);
    let unknown = admin::BlacklistClientRequest { client_id: vec![0xee; 8].into() };
    refused(client.blacklist_client(unknown).await, Code::NotFound, "eeeeeeeeeeeeeeee");
    let short = admin::ListClientsRequest { client_ids: vec![Bytes::from_static(b"short")] };
    refused(client.list_clients(short).await, Code::InvalidArgument, "8 bytes");

    let ids = |request: admin::StreamClientIdsRequest| {
        let mut client = client.clone();
        async move {
            let answers = client.stream_client_ids(request).await.unwrap().into_inner();
            answers.map_ok(|answer| answer.client_id).try_collect::<Vec<_>>().await.unwrap()
        }
    };
    assert_eq!(ids(admin::StreamClientIdsRequest::default()).await, [id_bytes(one)]);
    let everybody = admin::StreamClientIdsRequest { include_blacklisted: true, last_contact_after: None };
    assert_eq!(ids(everybody).await.len(), 2);
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    let later = admin::StreamClientIdsRequest { last_contact_after: time(1_800_000_000, 0), ..Default::default() };
    assert!(ids(later).await.is_empty());
    let wrong = admin::StreamClientIdsRequest { last_contact_after: time(0, -1), ..Default::default() };
    refused(client.stream_client_ids(wrong).await, Code::InvalidArgument, "last_contact_after");
}

#[tokio::test]
async fn a_fleet_larger_than_a_page_is_listed_whole() {
    let door = Door::local().await;
    let count = u16::try_from(limits::PAGE_ROWS_MAX + 5).unwrap();
    let enrolled: Vec<_> =
        stream::iter(1..=count).map(|number| door.agent(number)).buffer_unordered(200).collect().await;
    let mut client = door.client();
    let all = client.list_clients(admin::ListClientsRequest::default()).await.unwrap().into_inner().clients;
    assert_eq!(all.len(), enrolled.len());
    let client_ids = enrolled.iter().copied().map(id_bytes).collect();
    let some = client.list_clients(admin::ListClientsRequest { client_ids }).await.unwrap().into_inner().clients;
    assert_eq!(some.len(), enrolled.len());
    let ids = client.stream_client_ids(admin::StreamClientIdsRequest::default()).await.unwrap().into_inner();
    assert_eq!(ids.try_collect::<Vec<_>>().await.unwrap().len(), enrolled.len());
}

#[tokio::test]
async fn contacts_are_listed_oldest_first_and_streamed_newest_first() {
    let door = Door::local().await;
    let agent = door.agent(1).await;
    for nonce in 1..=3 {
        let put = ContactPut {
            agent,
            key: 1_u16.to_be_bytes().to_vec(),
            at: Timestamp::from_secs(1_800_000_000 + i64::try_from(nonce).unwrap()),
            address: "10.0.0.1:5".into(),
            streaming_to: String::new(),
            sent_nonce: u64::MAX - nonce,
            received_nonce: nonce,
            clock: None,
            intake: Vec::new(),
            rejected: Vec::new(),
            claim: None,
        };
        assert!(matches!(door.store.contact_put(put).await.unwrap(), ContactTaken::Recorded(_)));
    }
    let mut client = door.client();
    let client_id = id_bytes(agent);
    let request = admin::ListClientContactsRequest { client_id: client_id.clone() };
    let listed = client.list_client_contacts(request).await.unwrap().into_inner().contacts;
    assert_eq!(listed.iter().map(|contact| contact.received_nonce).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((listed[0].sent_nonce, listed[0].observed_address.as_str()), (u64::MAX - 1, "10.0.0.1:5"));
    let request = admin::StreamClientContactsRequest { client_id };
    let streamed = client.stream_client_contacts(request).await.unwrap().into_inner();
    let streamed: Vec<_> = streamed.try_collect().await.unwrap();
    let nonces: Vec<_> = streamed.iter().map(|answer| answer.contact.as_ref().unwrap().received_nonce).collect();
    assert_eq!(nonces, [3, 2, 1]);
    let unknown = admin::ListClientContactsRequest { client_id: vec![0xee; 8].into() };
    assert!(client.list_client_contacts(unknown).await.unwrap().into_inner().contacts.is_empty());
}

#[tokio::test]
async fn usage_is_listed_from_a_start_to_before_an_end() {
    let door = Door::local().await;
    let agent = door.agent(1).await;
    let time = Some(NOW);
    let usage = muster_core::ResourceUsage {
        scope: "system".into(),
        process_start: time,
        measured: time,
        ..Default::default()
    };
    door.store.usage_put(agent, usage, NOW).await.unwrap();
    let seconds = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let ask = |start, end| admin::FetchClientResourceUsageRecordsRequest {
        client_id: id_bytes(agent),
        start_timestamp: start,
        end_timestamp: end,
    };
    let mut client = door.client();
    let (now, next) = (seconds(1_800_000_000), seconds(1_800_000_001));
    let records = client.fetch_client_resource_usage_records(ask(now, next)).await.unwrap().into_inner().records;
    assert_eq!((records.len(), records[0].scope.as_str()), (1, "system"));
    let none = client.fetch_client_resource_usage_records(ask(seconds(0), now)).await.unwrap().into_inner().records;
    assert!(none.is_empty());
    let refuse = |outcome, text: &str| refused(outcome, Code::InvalidArgument, text);
    refuse(client.fetch_client_resource_usage_records(ask(None, now)).await, "proto: invalid nil Timestamp");
    refuse(client.fetch_client_resource_usage_records(ask(next, now)).await, "");
}
