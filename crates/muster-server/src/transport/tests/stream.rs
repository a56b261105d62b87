use super::client::{Agent, Streamer, ack, ask, contact, full, http2, message, pieces, post, request, way};
use super::hostile::packed;
use super::world::{World, soon, world, world_with};
use crate::transport::Options;
use bytes::Bytes;
use muster_core::limits;
use muster_engine::EngineConfig;
use muster_engine::access::Caller;
use muster_proto::framing::MAGIC;
use muster_proto::inflate::Deflater;
use muster_proto::wire;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn records_are_acknowledged_one_by_one_in_order() {
    let world = world().await;
    for (is_http2, is_deflated) in [(false, false), (false, true), (true, false), (true, true)] {
        let agent = Agent::new();
        let way = if is_http2 { http2(&agent) } else { way(&agent) };
        let deflater = is_deflated.then(Deflater::default);
        let (mut stream, first) = Streamer::open_with(&world, &way, vec![message(b"0")], deflater).await;
        assert_ne!(first.sequencing_nonce, 0);
        assert_eq!((first.ack_index, first.done_sending), (0, false));
        for number in 1..=5_u8 {
            // An empty record hands out tokens and is acknowledged like any other.
            stream.send(if number == 3 { vec![] } else { vec![message(&[number])] }).await;
        }
        for number in 1..=5 {
            let record = stream.next().await.unwrap();
            assert_eq!((record.ack_index, record.messages.len()), (number, 0));
        }
        assert_eq!(world.messages_of(agent.id()).await.len(), 5);
        stream.finish().await;
        assert_eq!(stream.next().await, None);
    }
}

#[tokio::test]
async fn a_record_is_refused_for_its_size_and_never_for_packing_well() {
    let world = world().await;
    let agent = Agent::new();
    let zeros = |id: &[u8], bytes: usize| {
        let payload = prost_types::Any { type_url: "t".into(), value: vec![0; bytes] };
        wire::Message { data: Some(payload), ..message(id) }
    };
    let mut body = MAGIC.to_vec();
    for record in [
        contact(vec![zeros(b"0", 1_900_000)]),
        contact(vec![zeros(b"1", 1 << 20)]),
        contact((2..11_u8).map(|number| zeros(&[number], 1_900_000)).collect()),
    ] {
        prost::encode_length_delimiter(record.len(), &mut body).unwrap();
        body.extend_from_slice(&record);
    }
    let packed = packed(&body);
    assert!(packed.len() < body.len() / 500, "{}", packed.len());
    let request = post("/streaming-message", &[("content-encoding", "deflate")], full(packed));
    assert_eq!(ask(&world, &way(&agent), request).await.status, 200);
    assert_eq!(world.messages_of(agent.id()).await.len(), 11);
}

#[tokio::test]
async fn a_record_that_fails_ends_the_stream_before_any_later_acknowledgement() {
    let world = world().await;
    let agent = Agent::new();
    let (mut stream, _) = Streamer::open(&world, &way(&agent), vec![]).await;
    stream.send(vec![message(b"1")]).await;
    stream.send((0..101_u8).map(|number| message(&[number])).collect()).await;
    stream.send(vec![message(b"3")]).await;
    let acks: Vec<_> = stream.rest().await.iter().map(|record| record.ack_index).collect();
    assert_eq!(acks, [1]);
    assert_eq!(world.messages_of(agent.id()).await.len(), 1);
}

async fn status_of_start(world: &World, start: &[u8], headers: &[(&str, &str)]) -> u16 {
    let (sender, body) = pieces();
    sender.send(Bytes::copy_from_slice(start)).await.unwrap();
    let agent = Agent::new();
    let response = request(world, &way(&agent), post("/streaming-message", headers, body)).await.unwrap();
    drop(sender);
    response.status().as_u16()
}

#[tokio::test]
async fn r08_r10_r11_broken_starts_are_refused_before_the_answer_begins() {
    let world = world().await;
    let after_magic = |bytes: &[u8]| [&MAGIC[..], bytes].concat();
    for start in [
        b"\x01\x10\xee\xf2".to_vec(),
        b"GET ".to_vec(),
        after_magic(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        after_magic(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        after_magic(b"\x81\x80\x80\x0a"),
        after_magic(b"\x02\xff\xff"),
    ] {
        assert_eq!(status_of_start(&world, &start, &[]).await, 400, "{start:x?}");
    }
    assert_eq!(status_of_start(&world, b"plain", &[("content-encoding", "deflate")]).await, 400);
    assert_eq!(status_of_start(&world, b"plain", &[("content-encoding", "gzip")]).await, 415);
    let ended = ask(&world, &way(&Agent::new()), post("/streaming-message", &[], full(""))).await;
    assert_eq!(ended.status, 400);
    let closed = Options { streaming: false, ..Options::default() };
    let world = world_with(closed, EngineConfig::default()).await;
    assert_eq!(status_of_start(&world, &MAGIC, &[]).await, 404);
}

#[tokio::test]
async fn r12_single_bytes_are_enough() {
    let world = world().await;
    let agent = Agent::new();
    let (sender, body) = pieces();
    let record = contact(vec![message(b"1")]);
    let length = u8::try_from(record.len()).unwrap();
    let (low, high) = (length & 0x7f | 0x80, length >> 7);
    let start = [&MAGIC[..], &[low, high], &record].concat();
    let feeding = tokio::spawn(async move {
        for byte in start {
            sender.send(Bytes::copy_from_slice(&[byte])).await.unwrap();
            tokio::task::yield_now().await;
        }
        sender
    });
    let response = request(&world, &way(&agent), post("/streaming-message", &[], body)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(world.messages_of(agent.id()).await.len(), 1);
    drop(feeding.await.unwrap());
}

#[tokio::test]
async fn a_message_wakes_its_stream_at_once() {
    let world = world().await;
    let agent = Agent::new();
    let (mut stream, first) = Streamer::open(&world, &way(&agent), vec![]).await;
    for text in ["one", "two"] {
        let started = Instant::now();
        let id = world.send(agent.id(), text).await;
        let record = stream.next().await.unwrap();
        assert_eq!(record.messages[0].message_type, text);
        assert_eq!(record.sequencing_nonce, first.sequencing_nonce);
        assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
        stream.send(vec![ack(&[Bytes::copy_from_slice(id.as_bytes())], text.as_bytes())]).await;
        assert_ne!(stream.next().await.unwrap().ack_index, 0);
    }
}

#[tokio::test]
async fn a_demand_reaches_an_open_stream_which_ends_when_the_new_key_is_taken() {
    let world = world().await;
    let agent = Agent::new();
    let (mut stream, _) = Streamer::open(&world, &way(&agent), vec![]).await;
    let started = Instant::now();
    world.engine.agent_blacklist(agent.id(), &Caller::server()).await.unwrap();
    let record = stream.next().await.unwrap();
    assert_eq!(record.messages[0].message_type, "RekeyRequest");
    assert!(started.elapsed() < Duration::from_secs(5));
    stream.send(vec![ack(&[record.messages[0].message_id.clone()], b"rekeyed")]).await;
    let rest = stream.rest().await;
    assert_eq!(rest.iter().map(|record| record.ack_index).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_block_ends_an_open_stream_at_once() {
    let world = world().await;
    let agent = Agent::new();
    let (mut stream, _) = Streamer::open(&world, &way(&agent), vec![]).await;
    let started = Instant::now();
    world.engine.agent_block(agent.id(), &Caller::server()).await.unwrap();
    assert!(stream.rest().await.is_empty(), "nothing is asked of it");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_second_stream_of_an_agent_replaces_the_first() {
    let world = world().await;
    let agent = Agent::new();
    let (mut first, _) = Streamer::open(&world, &way(&agent), vec![]).await;
    let (mut second, _) = Streamer::open(&world, &way(&agent), vec![]).await;
    assert!(first.next().await.unwrap().done_sending);
    first.finish().await;
    assert_eq!(first.next().await, None);
    world.send(agent.id(), "hello").await;
    assert_eq!(second.next().await.unwrap().messages.len(), 1);
}

#[tokio::test]
async fn a_stream_says_that_it_ends_and_still_acknowledges() {
    let config = EngineConfig { stream_life: Duration::from_millis(600), ..EngineConfig::default() };
    let world = world_with(Options::default(), config).await;
    let agent = Agent::new();
    let (mut stream, _) = Streamer::open(&world, &way(&agent), vec![]).await;
    assert!(stream.next().await.unwrap().done_sending);
    stream.send(vec![message(b"late")]).await;
    assert_eq!(stream.next().await.unwrap().ack_index, 1);
    stream.finish().await;
    assert_eq!(stream.next().await, None);
    assert_eq!(world.messages_of(agent.id()).await.len(), 1);
}

#[tokio::test]
async fn two_hundred_streams_end_with_the_server_within_three_seconds() {
    let world = world().await;
    let mut streams = Vec::new();
    for number in 0..200 {
        let agent = Agent::new();
        let way = if number % 2 == 0 { way(&agent) } else { http2(&agent) };
        streams.push(Streamer::open(&world, &way, vec![]).await.0);
    }
    // Every other agent ends its side as it is told to; the others never do.
    let readers = streams.into_iter().enumerate().map(|(number, mut stream)| {
        tokio::spawn(async move {
            let done = stream.next().await.is_some_and(|record| record.done_sending);
            if number % 4 < 2 {
                stream.finish().await;
            }
            let rest = stream.rest().await;
            assert_eq!(rest, Vec::<wire::ContactData>::new());
            done
        })
    });
    let readers: Vec<_> = readers.collect();
    let took = world.stopped().await;
    assert!(took <= limits::DRAIN + Duration::from_millis(300), "{took:?}");
    for reader in readers {
        assert!(soon(reader).await.unwrap());
    }
}
