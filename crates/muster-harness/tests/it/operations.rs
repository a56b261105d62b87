//! What whoever runs a server sees of it.

use crate::scene::{CEILING, Scene, mentions};
use muster_api::messages::ServiceRow;
use muster_harness::identity::Identity;
use muster_harness::link::Link;
use muster_harness::wait;
use muster_harness::wire::{self, Address, Annotation, Annotations, ContactData, Message};
use reqwest::StatusCode;
use std::time::Duration;
use tokio::time::Instant;

fn to(service: &str, number: u64) -> ContactData {
    let end = |service: &str| Some(Address { client_id: Vec::new(), service_name: service.into() });
    let message = Message {
        source: end(service),
        destination: end(service),
        source_message_id: number.to_be_bytes().to_vec(),
        data: Some(wire::any("google.protobuf.BytesValue", &vec![7_u8; 20])),
        ..Message::default()
    };
    ContactData { messages: vec![message], ..ContactData::default() }
}

#[tokio::test]
async fn health_metrics_and_the_document_are_open_and_the_rest_is_not() {
    let scene = Scene::new().await;
    let rest = &scene.server.rest;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(rest.outside(path).await.unwrap().0, StatusCode::OK, "{path}");
    }
    let (status, metrics) = rest.outside("/metrics").await.unwrap();
    assert!(status.is_success() && metrics.contains("muster_"), "{status} {metrics}");
    let (status, document) = rest.outside("/api/openapi.json").await.unwrap();
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert!(status.is_success() && document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(rest.outside("/api/v1/agents").await.unwrap().0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_absent_service_holds_no_contact_and_shows_its_lag() {
    let grpc = "type.googleapis.com/fleetspeak.grpcservice.Config";
    let absent = format!(
        "services {{ name: \"absent\" factory: \"GRPC\" config {{ [{grpc}] {{ target: \"127.0.0.1:1\" insecure: true }} }} }}\n"
    );
    let scene = Scene::with(&absent).await;
    let identity = Identity::fresh().unwrap();
    let mut link = Link::open(scene.server.addresses.agents, &identity.tls).await.unwrap();
    let began = Instant::now();
    for number in 0..10 {
        link.poll(&to("absent", number), &[]).await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(5), "ten contacts took {:?}", began.elapsed());
    wait::until_true("the lag of the absent service", CEILING, async || {
        let rows: Vec<ServiceRow> = scene.server.rest.all("/services").await?;
        let row = rows.into_iter().find(|row| row.name == "absent");
        Ok(row.is_some_and(|row| row.pending == 10 && row.lag_seconds.is_some()))
    })
    .await
    .unwrap();
}

/// What GRR sends: one annotation for each of the messages that it packs into one, and ten times as many.
#[tokio::test]
async fn messages_reach_their_service_however_many_annotations_they_have() {
    let scene = Scene::new().await;
    let identity = Identity::fresh().unwrap();
    let mut link = Link::open(scene.server.addresses.agents, &identity.tls).await.unwrap();
    for (number, count) in [(1, 65), (2, 100), (3, 1000)] {
        let mut contact = to("out", number);
        let entry = |n| Annotation { key: "data_ids".into(), value: format!("F00000000:{n:08x}:{number:08x}") };
        contact.messages[0].annotations = Some(Annotations { entries: (0..count).map(entry).collect() });
        link.poll(&contact, &[]).await.unwrap();
        let last = format!("F00000000:{:08x}:{number:08x}", count - 1);
        scene.written(|line| mentions(line, &last)).await;
    }
    // A whole contact of them.
    let many: Vec<_> = (0..100)
        .map(|number| {
            let mut contact = to("sink", number);
            let entry = |n| Annotation { key: "data_ids".into(), value: format!("F00000000:{n:08x}:{number:08x}") };
            contact.messages[0].annotations = Some(Annotations { entries: (0..1000).map(entry).collect() });
            contact.messages.remove(0)
        })
        .collect();
    link.poll(&ContactData { messages: many, ..ContactData::default() }, &[]).await.unwrap();
    let lost: muster_api::Page<muster_api::agents::DeadLetterRow> =
        scene.server.rest.get("/dead-letters").await.unwrap();
    assert!(lost.items.is_empty(), "{:?}", lost.items);
}

#[tokio::test]
async fn messages_that_are_lost_are_news_everywhere_somebody_looks() {
    let scene = Scene::new().await;
    let identity = Identity::fresh().unwrap();
    let mut link = Link::open(scene.server.addresses.agents, &identity.tls).await.unwrap();
    for _ in 0..20 {
        let mut contact = to("out", 1);
        contact.messages[0].source_message_id.clear();
        link.poll(&contact, &[]).await.unwrap();
    }
    let rows: Vec<ServiceRow> = scene.server.rest.all("/services").await.unwrap();
    let out = rows.iter().find(|row| row.name == "out").unwrap();
    assert_eq!(out.lost, 20);
    assert!(out.lost_reason.as_deref().unwrap().contains("no id"), "{out:?}");
    let list = scene.server.muster(&["service", "list"]).unwrap();
    assert!(
        list.lines().any(|line| line.starts_with("out ") && line.contains(" 20 ") && line.contains("no id")),
        "{list}"
    );
    let events = scene.server.muster(&["event", "list"]).unwrap();
    assert_eq!(events.matches("dead_letter").count(), 1, "{events}");
    let doctor = scene.server.muster(&["doctor"]).unwrap();
    assert!(
        doctor.lines().any(|line| line.contains("lost messages") && line.contains("20 in the last day")),
        "{doctor}"
    );
    let log = scene.server.process.log();
    assert_eq!(log.matches("to service \"out\" are lost").count(), 1, "{log}");
}

#[tokio::test]
async fn what_a_stranger_repeats_is_one_line_in_the_log() {
    let scene = Scene::new().await;
    let identity = Identity::fresh().unwrap();
    let mut link = Link::open(scene.server.addresses.agents, &identity.tls).await.unwrap();
    for number in 0..50 {
        let mut contact = to("sink", number);
        // It claims to be another machine.
        contact.messages[0].source.as_mut().unwrap().client_id = vec![9; 8];
        link.poll(&contact, &[]).await.unwrap();
    }
    let log = scene.server.process.log();
    assert_eq!(log.matches("claims to come from another machine").count(), 1, "{log}");
}

#[tokio::test]
async fn logs_hold_neither_bodies_nor_secrets() {
    let scene = Scene::new().await;
    let identity = Identity::fresh().unwrap();
    let mut link = Link::open(scene.server.addresses.agents, &identity.tls).await.unwrap();
    link.poll(&ContactData::default(), &[]).await.unwrap();
    scene
        .server
        .rest
        .send(&identity.id.to_string(), "load", "Command", b"body-that-is-nobodys-business")
        .await
        .unwrap();
    let (log, token) = (scene.server.process.log(), &scene.server.token);
    assert!(
        !log.contains("nobodys-business") && !log.contains("Ym9keS10aGF0") && !log.contains(token.as_str()),
        "{log}"
    );
}
