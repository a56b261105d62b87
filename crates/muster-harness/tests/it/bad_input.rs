//! What strangers send, over real sockets: answered as promised, and the server stays up.

use crate::scene::Scene;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use muster_harness::identity::{Identity, certificate};
use muster_harness::link::Link;
use muster_harness::wire::{self, Address, ContactData, Message};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use std::io::Write;

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn messages(count: u64) -> Vec<u8> {
    let end = |service: &str| Some(Address { client_id: Vec::new(), service_name: service.into() });
    let message = |number: u64| Message {
        source: end("sink"),
        destination: end("sink"),
        source_message_id: number.to_be_bytes().to_vec(),
        ..Message::default()
    };
    wire::wrap(&ContactData { messages: (0..count).map(message).collect(), ..ContactData::default() }, &[])
}

#[tokio::test]
async fn bodies_are_answered_as_promised() {
    let scene = Scene::new().await;
    let identity = Identity::fresh().unwrap();
    let good = messages(1);
    let zeros = vec![0; 64 * 1024 * 1024];
    let mut truncated = deflated(&good);
    truncated.truncate(truncated.len() - 3);
    let mut bad_sum = deflated(&good);
    *bad_sum.last_mut().unwrap() ^= 1;
    let cases: &[(&str, &str, Vec<u8>, u16)] = &[
        ("an empty body", "", Vec::new(), 200),
        ("one message", "", good.clone(), 200),
        ("one message, deflated", "Content-Encoding: deflate\r\n", deflated(&good), 200),
        ("garbage", "", b"\xff\xff\xff\xff".to_vec(), 400),
        ("a hundred messages", "", messages(100), 200),
        ("a hundred and one messages", "", messages(101), 400),
        ("gzip", "Content-Encoding: gzip\r\n", good.clone(), 415),
        ("deflate twice", "Content-Encoding: deflate, deflate\r\n", good.clone(), 415),
        ("a truncated deflate", "Content-Encoding: deflate\r\n", truncated, 400),
        ("a wrong checksum", "Content-Encoding: deflate\r\n", bad_sum, 400),
        ("not deflated at all", "Content-Encoding: deflate\r\n", good, 400),
        ("a bomb", "Content-Encoding: deflate\r\n", deflated(&zeros), 413),
    ];
    for (what, headers, body, want) in cases {
        let mut link = Link::open(scene.server.addresses.agents, &identity.tls).await.unwrap();
        let answer = link.post(headers, body).await.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        assert_eq!(answer.status, *want, "{what}: {}", String::from_utf8_lossy(&answer.body));
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_before_it_is_read() {
    let scene = Scene::new().await;
    let identity = Identity::fresh().unwrap();
    let mut link = Link::open(scene.server.addresses.agents, &identity.tls).await.unwrap();
    link.send_raw(b"POST /message HTTP/1.1\r\nHost: a\r\nContent-Length: 20971521\r\n\r\n").await.unwrap();
    assert_eq!(link.answer().await.unwrap().status, 413);
}

#[tokio::test]
async fn certificates_must_be_one_and_fit_the_key() {
    let scene = Scene::new().await;
    let door = scene.server.addresses.agents;
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let (first, second) = (key(), key());
    let (id, shown) = certificate(&first).unwrap();
    let (_, other) = certificate(&second).unwrap();

    let none = Identity::anonymous().unwrap();
    let answer = Link::open(door, &none.tls).await.unwrap().post("", &[]).await.unwrap();
    assert_eq!(answer.status, 401);
    let two = Identity::with(id, vec![shown.clone(), other], &first).unwrap();
    let answer = Link::open(door, &two.tls).await.unwrap().post("", &[]).await.unwrap();
    assert_eq!(answer.status, 400);
    // Somebody who has seen a certificate cannot use it without its key. With TLS 1.3 the refusal comes after the
    // client's own part of the handshake, so it shows at the first request.
    let stolen = Identity::with(id, vec![shown], &second).unwrap();
    let used = match Link::open(door, &stolen.tls).await {
        Ok(mut link) => link.post("", &[]).await,
        Err(error) => Err(error),
    };
    assert!(used.is_err(), "a stolen certificate was accepted: {used:?}");
    assert!(scene.server.rest.agents().await.unwrap().is_empty(), "somebody enrolled");
}

#[tokio::test]
async fn a_stream_that_starts_wrong_is_refused_and_closed() {
    let scene = Scene::new().await;
    let identity = Identity::fresh().unwrap();
    for opening in
        [&b"\0\0\0\0"[..], &[0x01, 0x10, 0xEE, 0xF1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]]
    {
        let mut link = Link::open(scene.server.addresses.agents, &identity.tls).await.unwrap();
        let head = "POST /streaming-message HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = [format!("{:x}\r\n", opening.len()).as_bytes(), opening, b"\r\n"].concat();
        link.send_raw(&[head.as_bytes(), &chunk].concat()).await.unwrap();
        assert_eq!(link.answer().await.unwrap().status, 400, "{opening:?}");
        assert!(link.answer().await.is_err(), "the connection stayed open");
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_accepted_is_put_aside_and_the_rest_goes_on() {
    let scene = Scene::new().await;
    let identity = Identity::fresh().unwrap();
    let end = |service: &str, client: &[u8]| Some(Address { client_id: client.to_vec(), service_name: service.into() });
    let message = |name: &[u8], destination| Message {
        source: end("sink", &[]),
        destination,
        source_message_id: name.to_vec(),
        ..Message::default()
    };
    let messages = vec![
        message(b"", end("sink", &[])),
        message(b"to-another-machine", end("sink", &[9; 8])),
        message(b"to-nobody", end("", &[])),
        message(&[7; 129], end("sink", &[])),
        message(b"good", end("sink", &[])),
    ];
    let contact = ContactData { messages, ..ContactData::default() };
    let mut link = Link::open(scene.server.addresses.agents, &identity.tls).await.unwrap();
    link.poll(&contact, &[]).await.unwrap();
    let kept: Vec<muster_api::messages::MessageRow> = scene.server.rest.all("/messages?service=sink").await.unwrap();
    assert_eq!(kept.len(), 1);
    let aside: Vec<muster_api::agents::DeadLetterRow> = scene.server.rest.all("/dead-letters?").await.unwrap();
    assert_eq!(aside.len(), 4, "{aside:?}");
}
