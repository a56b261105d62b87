use super::*;
use crate::spool::{Spool, SpoolLimits};
use crate::world::{Random, SystemClock};
use std::path::Path;

/// A hub on a directory, with what an earlier life left unfinished.
pub(crate) fn a_hub(directory: &Path) -> (Arc<Hub>, Vec<LedgerId>) {
    a_small_hub(directory, 1000)
}

/// A hub whose spool has room for so many messages.
pub(crate) fn a_small_hub(directory: &Path, messages_max: usize) -> (Arc<Hub>, Vec<LedgerId>) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let random = Arc::new(Random::from_number(7));
    let limits = SpoolLimits { bytes_max: 1 << 24, messages_max };
    let spool = Spool::open(&directory.join("spool"), limits, Arc::clone(&random)).unwrap();
    let outbox = Outbox::start(spool, Arc::clone(&clock), random).unwrap();
    let (ledger, unknown) = Ledger::open(&directory.join("ledger")).unwrap();
    (Hub::new(ledger, outbox, clock), unknown)
}

/// A message of the server to `service`.
pub(crate) fn to_service(number: u8, service: &str) -> wire::Message {
    wire::Message {
        message_id: vec![number; 32].into(),
        destination: Some(wire::Address { service_name: service.into(), ..wire::Address::default() }),
        ..wire::Message::default()
    }
}

/// Takes everything that the hub wants to send.
pub(crate) async fn sent(hub: &Hub) -> Vec<wire::Message> {
    while !hub.outbox().has_ready(false) {
        hub.outbox().ready().await;
    }
    let taken = hub.outbox().take(1000, usize::MAX);
    hub.outbox().acknowledge(&taken.iter().map(|message| message.id).collect::<Vec<_>>());
    taken.iter().map(|message| wire::Message::decode(&message.body[..]).unwrap()).collect()
}

fn acked_ids(messages: &[wire::Message]) -> Vec<bytes::Bytes> {
    messages
        .iter()
        .filter(|message| message.message_type == system::MESSAGE_ACK)
        .flat_map(|ack| wire::MessageAckData::decode(&ack.data.as_ref().unwrap().value[..]).unwrap().message_ids)
        .collect()
}

#[tokio::test]
async fn a_message_is_handed_over_once_and_acknowledged_each_time_it_comes() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let mut inbox = hub.install("s");
    hub.receive(to_service(1, "s"));
    hub.receive(to_service(1, "s"));
    inbox.try_recv().unwrap().done();
    assert!(inbox.try_recv().is_err());
    hub.flush_acks().await;
    assert_eq!(acked_ids(&sent(&hub).await), [vec![1; 32]]);

    hub.receive(to_service(1, "s"));
    assert!(inbox.try_recv().is_err());
    hub.flush_acks().await;
    assert_eq!(acked_ids(&sent(&hub).await), [vec![1; 32]]);
}

#[tokio::test]
async fn a_message_done_before_a_crash_is_not_handed_over_after_it() {
    let directory = tempfile::tempdir().unwrap();
    {
        let (hub, _) = a_hub(directory.path());
        let mut inbox = hub.install("s");
        hub.receive(to_service(1, "s"));
        inbox.try_recv().unwrap().done();
    }
    let (hub, _) = a_hub(directory.path());
    let mut inbox = hub.install("s");
    hub.receive(to_service(1, "s"));
    assert!(inbox.try_recv().is_err());
    hub.flush_acks().await;
    assert_eq!(acked_ids(&sent(&hub).await).len(), 1);
}

#[tokio::test]
async fn what_was_begun_before_a_crash_is_reported_as_unknown_and_not_done_again() {
    let directory = tempfile::tempdir().unwrap();
    {
        let (hub, _) = a_hub(directory.path());
        let mut inbox = hub.install("s");
        hub.receive(to_service(1, "s"));
        let delivery = inbox.try_recv().unwrap();
        delivery.begin().await.unwrap();
        std::mem::forget(delivery);
    }
    let (hub, unknown) = a_hub(directory.path());
    let mut inbox = hub.install("s");
    hub.report_unknown(unknown).await;
    let told = sent(&hub).await;
    let error = wire::MessageErrorData::decode(&told[0].data.as_ref().unwrap().value[..]).unwrap();
    assert_eq!(error.message_id, vec![1; 32]);
    assert!(error.error.contains("unknown"));
    hub.receive(to_service(1, "s"));
    assert!(inbox.try_recv().is_err());
}

#[tokio::test]
async fn a_delivery_that_is_dropped_may_come_again() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let mut inbox = hub.install("s");
    hub.receive(to_service(1, "s"));
    drop(inbox.try_recv().unwrap());
    hub.receive(to_service(1, "s"));
    assert!(inbox.try_recv().is_ok());
}

#[tokio::test]
async fn a_message_for_a_service_that_is_not_here_fails_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    hub.receive(to_service(1, "nosuch"));
    let told = sent(&hub).await;
    assert_eq!(told[0].message_type, system::MESSAGE_ERROR);
    let error = wire::MessageErrorData::decode(&told[0].data.as_ref().unwrap().value[..]).unwrap();
    assert!(error.error.contains("\"nosuch\""), "{}", error.error);
}

#[tokio::test]
async fn places_are_counted_per_connection() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let mut inbox = hub.install("s");
    for number in 0..10 {
        hub.receive(to_service(number, "s"));
    }
    let (mut tokens, free) = hub.tokens_at_start();
    assert_eq!(free["s"], 90);
    for _ in 0..4 {
        inbox.try_recv().unwrap().done();
    }
    assert!(!hub.should_tell(&tokens));
    assert_eq!(hub.tokens_since(&mut tokens)["s"], 4);
    assert!(hub.tokens_since(&mut tokens).is_empty());
    for number in 10..50 {
        hub.receive(to_service(number, "s"));
        inbox.try_recv().unwrap().done();
    }
    assert!(hub.should_tell(&tokens));
    // Another connection starts from what is free now.
    assert_eq!(hub.tokens_at_start().1["s"], 94);
}

#[tokio::test]
async fn a_service_that_comes_later_brings_all_its_places() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let (mut tokens, free) = hub.tokens_at_start();
    assert!(free.is_empty());
    let _inbox = hub.install("late");
    assert!(hub.should_tell(&tokens));
    assert_eq!(hub.tokens_since(&mut tokens)["late"], PLACES);
    assert!(!hub.should_tell(&tokens));
}

#[tokio::test]
async fn a_local_process_speaks_only_for_its_own_service() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_hub(directory.path());
    let mut forged = to_service(1, "server");
    forged.source = Some(wire::Address { service_name: "system".into(), client_id: vec![1; 8].into() });
    hub.forward("daemon", forged).await.unwrap();
    let told = sent(&hub).await;
    let source = told[0].source.as_ref().unwrap();
    assert_eq!((source.service_name.as_str(), source.client_id.len()), ("daemon", 0));
    assert!(told[0].message_id.is_empty() && told[0].source_message_id.len() == 16);
    assert!(told[0].creation_time.is_some());
}

#[tokio::test]
async fn a_local_process_takes_no_room_from_what_the_agent_says() {
    let directory = tempfile::tempdir().unwrap();
    let (hub, _) = a_small_hub(directory.path(), 3);
    for number in 0..3 {
        let hurried = wire::Message { priority: Priority::High as i32, ..to_service(number, "server") };
        hub.forward("daemon", hurried).await.unwrap();
    }
    let own = Mail { priority: Priority::High, message_type: "own".into(), ..Mail::default() };
    hub.send(own, Durability::Disk).await.unwrap();
    let told = sent(&hub).await;
    assert_eq!((told.len(), told[0].message_type.as_str()), (3, "own"));
    assert_eq!(told[1].priority, Priority::High as i32, "its server sees what it wrote");
}
