//! What whoever runs a server sees of it.

use crate::scene::{CEILING, Scene};
use muster_api::messages::ServiceRow;
use muster_harness::identity::Identity;
use muster_harness::link::Link;
use muster_harness::wait;
use muster_harness::wire::{self, Address, ContactData, Message};
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
        let rows: Vec<ServiceRow> = scene.server.rest.get("/services").await?;
        let row = rows.into_iter().find(|row| row.name == "absent");
        Ok(row.is_some_and(|row| row.pending == 10 && row.lag_seconds.is_some()))
    })
    .await
    .unwrap();
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
