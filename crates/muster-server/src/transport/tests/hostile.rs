use super::client::{Agent, Way, ask, connect, contact, full, message, pieces, poll, post, request, way};
use super::files::put;
use super::world::{World, soon, world, world_with};
use crate::transport::Options;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use muster_core::limits;
use muster_engine::EngineConfig;
use muster_proto::wire;
use std::io::Write as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Sends bytes as they are and returns everything that is answered until the server closes.
async fn raw(world: &World, way: &Way, bytes: &[u8]) -> String {
    let mut stream = connect(world, way).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    // A server that closes on a broken request does not always say goodbye in TLS.
    let _ = soon(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn r01_a_long_body_is_refused_by_its_announcement() {
    let world = world().await;
    let head =
        format!("POST /message HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", limits::CONTACT_BYTES_MAX + 1);
    let answer = raw(&world, &way(&Agent::new()), head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.ends_with("content length too large: 20971521\n"), "{answer}");
}

#[tokio::test]
async fn r02_a_long_body_without_a_length_is_refused_at_the_limit() {
    let world = world().await;
    let (sender, body) = pieces();
    let feeding = tokio::spawn(async move {
        let piece = Bytes::from(vec![0x1a; 64 * 1024]);
        let mut sent = 0;
        while sender.send(piece.clone()).await.is_ok() {
            sent += piece.len();
        }
        sent
    });
    let way = Way { http2: true, ..way(&Agent::new()) };
    let response = request(&world, &way, post("/message", &[], body)).await.unwrap();
    assert_eq!(response.status(), 413);
    drop(response);
    let sent = soon(feeding).await.unwrap();
    assert!(sent < limits::CONTACT_BYTES_MAX + 4 * 1024 * 1024, "{sent}");
}

#[tokio::test]
async fn r03_a_bomb_is_refused() {
    let world = world().await;
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..64 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let answer =
        ask(&world, &way(&Agent::new()), post("/message", &[("content-encoding", "deflate")], full(bomb))).await;
    assert_eq!(answer.status, 413, "{}", answer.text());
}

/// Packs as well as zlib can.
pub(super) fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Zeros in a message: a thousand to one, and still less than a contact may have.
#[tokio::test]
async fn a_contact_is_refused_for_its_size_and_never_for_packing_well() {
    let world = world().await;
    let agent = Agent::new();
    for (number, bytes) in [(1, 1 << 20), (2, 1_900_000), (3, 19 << 20)] {
        let payload = prost_types::Any { type_url: "t".into(), value: vec![0; bytes] };
        let big = wire::Message { data: Some(payload), ..message(&[number]) };
        let packed = packed(&contact(vec![big]));
        assert!(packed.len() < bytes / 200, "{}", packed.len());
        for is_http2 in [false, true] {
            let way = Way { http2: is_http2, ..way(&agent) };
            let request = post("/message", &[("content-encoding", "deflate")], full(packed.clone()));
            let answer = ask(&world, &way, request).await;
            assert_eq!(answer.status, 200, "{bytes} bytes: {}", answer.text());
        }
    }
    assert_eq!(world.messages_of(agent.id()).await.len(), 3);
}

#[tokio::test]
async fn r29_who_says_nothing_is_sent_away_within_ten_seconds() {
    let world = world().await;
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    let mut half = TcpStream::connect(world.address).await.unwrap();
    half.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    // A contact of somebody else is answered meanwhile.
    assert_eq!(poll(&world, &way(&Agent::new()), "").await.status, 200);
    tokio::time::pause();
    let started = Instant::now();
    for socket in [&mut silent, &mut half] {
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
    }
    assert!(started.elapsed() <= limits::HANDSHAKE + Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn r30_slow_heads_and_slow_bodies_are_cut_off() {
    let world = world().await;
    let agent = Agent::new();
    let mut head = connect(&world, &way(&agent)).await.unwrap();
    head.write_all(b"POST /mess").await.unwrap();
    let mut body = connect(&world, &way(&agent)).await.unwrap();
    body.write_all(b"POST /message HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc").await.unwrap();
    let mut stream = connect(&world, &way(&agent)).await.unwrap();
    let start =
        b"POST /streaming-message HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\x01\x10\xee\xf1\r\n";
    stream.write_all(start).await.unwrap();
    // All three have arrived once a later contact was answered.
    assert_eq!(poll(&world, &way(&agent), "").await.status, 200);
    tokio::time::pause();
    let started = Instant::now();
    let mut answers = Vec::new();
    for stream in [&mut head, &mut body, &mut stream] {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answers.push(String::from_utf8_lossy(&answer).into_owned());
    }
    assert!(started.elapsed() <= limits::SLOW_READ + Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(answers[1].starts_with("HTTP/1.1 408 "), "{answers:?}");
    assert!(answers[2].starts_with("HTTP/1.1 408 "), "{answers:?}");
}

#[tokio::test]
async fn r31_long_heads_are_refused() {
    let world = world().await;
    let agent = Agent::new();
    let long = format!("POST /message HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(limits::HEADER_BYTES_MAX));
    let answer = raw(&world, &way(&agent), long.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many = format!("POST /message HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: a\r\n".repeat(limits::HEADERS_MAX));
    let answer = raw(&world, &way(&agent), many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn r32_requests_that_can_be_read_in_two_ways_are_refused() {
    let world = world().await;
    let agent = Agent::new();
    let start = "POST /message HTTP/1.1\r\nHost: a\r\n";
    for request in [
        format!("{start}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{start}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        format!("{start}Content-Length: 0\r\nContent-Length: 5\r\n\r\nabcde"),
        format!("{start}Content-Length: 0\r\nContent-Length: 0\r\n\r\n"),
        format!("{start}Content-Length: +5\r\n\r\nabcde"),
        format!("{start}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        "POST /message HTTP/1.1\nHost: a\nContent-Length: 0\n\n".to_owned(),
        format!("{start}X: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let answer = raw(&world, &way(&agent), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request:?}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer:?}");
    }
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let world = world().await;
    let body = contact(vec![]);
    let one = format!("POST /message HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut requests = Vec::new();
    for _ in 0..3 {
        requests.extend_from_slice(one.as_bytes());
        requests.extend_from_slice(&body);
    }
    requests.extend_from_slice(b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = raw(&world, &way(&Agent::new()), &requests).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 404 ").count(), 1, "{answer}");
}

#[tokio::test]
async fn an_agent_that_waits_for_100_continue_gets_it_and_then_its_answer() {
    let world = world().await;
    let agent = Agent::new();
    let mut stream = connect(&world, &way(&agent)).await.unwrap();
    let head =
        "POST /streaming-message HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = [0; 25];
    soon(stream.read_exact(&mut buffer)).await.unwrap();
    assert_eq!(&buffer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"4\r\n\x01\x10\xee\xf1\r\n1\r\n\x00\r\n").await.unwrap();
    let mut buffer = [0; 15];
    soon(stream.read_exact(&mut buffer)).await.unwrap();
    assert_eq!(&buffer, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn the_proxy_protocol_names_the_source() {
    let options = Options { proxy_protocol: true, ..Options::default() };
    let world = world_with(options, EngineConfig::default()).await;
    // A connection without the header is served, too.
    let agent = Agent::new();
    assert_eq!(poll(&world, &way(&agent), "").await.status, 200);
    let mut broken = TcpStream::connect(world.address).await.unwrap();
    broken.write_all(b"PROXY TCP4 nonsense\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = soon(broken.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_let_go() {
    let world = world().await;
    put(&world, "system", "RevokedCertificates", &vec![7; 64 * limits::FILE_CHUNK_BYTES]).await;
    let mut stream = connect(&world, &way(&Agent::new())).await.unwrap();
    stream.write_all(b"GET /files/system/RevokedCertificates HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    soon(stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    // Both sides' buffers are full when no more arrives while somebody else is served.
    let waiting = || rustix::io::ioctl_fionread(stream.get_ref().0).unwrap();
    let mut before = 0;
    while waiting() == 0 || waiting() != before {
        before = waiting();
        assert_eq!(poll(&world, &way(&Agent::new()), "").await.status, 200);
    }
    tokio::time::pause();
    tokio::time::sleep(limits::SLOW_WRITE + Duration::from_secs(11)).await;
    tokio::time::resume();
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(rest.len() < 64 * limits::FILE_CHUNK_BYTES, "{}", rest.len());
}

#[tokio::test]
async fn r65_the_door_opens_again_after_file_descriptors_ran_out() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let world = world().await;
    let agent = Agent::new();
    assert_eq!(poll(&world, &way(&agent), "").await.status, 200);
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let before = getrlimit(Resource::Nofile);
    // Each connection takes two here: the client's end and the server's.
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + 8), maximum: before.maximum }).unwrap();
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect(world.address).await {
        clients.push(client);
        tokio::task::yield_now().await;
    }
    assert!(clients.len() >= 4, "{}", clients.len());
    drop(clients);
    setrlimit(Resource::Nofile, before).unwrap();
    assert_eq!(poll(&world, &way(&agent), "").await.status, 200);
    assert!(!world.door.is_finished());
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

/// A header block for `POST /message` without a body: two indexed fields, and a path and authority in plain.
fn header_block() -> Vec<u8> {
    [&b"\x83\x87\x04\x08/message\x01\x01a"[..]].concat()
}

#[tokio::test]
async fn r33_floods_of_http2_frames_end_the_connection_and_nothing_else() {
    let world = world().await;
    let agent = Agent::new();
    let way = Way { http2: true, ..way(&agent) };
    let reset = |number: u32| {
        let stream = number * 2 + 1;
        [frame(1, 5, stream, &header_block()), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
    };
    let floods: [(&str, Vec<u8>); 4] = [
        ("resets", (0..5000).flat_map(reset).collect()),
        ("continuations", {
            let start = frame(1, 1, 1, &header_block());
            let more = frame(9, 0, 1, &[b"\x00\x04name\x7f\xff\x03".to_vec(), vec![b'a'; 8000]].concat());
            [start, more.repeat(100)].concat()
        }),
        ("settings", frame(4, 0, 0, &[]).repeat(50_000)),
        ("pings", frame(6, 0, 0, &[0; 8]).repeat(50_000)),
    ];
    for (name, flood) in floods {
        let mut stream = connect(&world, &way).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        // A connection that is closed in the middle of its flood is what is wished for.
        let _ = stream.write_all(&flood).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = soon(stream.read_to_end(&mut answer)).await;
        assert!(answer.len() < 4 << 20, "{name}: {}", answer.len());
        assert_eq!(poll(&world, &way, "").await.status, 200, "{name}");
    }
}

#[tokio::test]
async fn r33_a_reader_that_opens_no_window_is_let_go() {
    let world = world().await;
    put(&world, "system", "RevokedCertificates", &vec![7; 4 * limits::FILE_CHUNK_BYTES]).await;
    let agent = Agent::new();
    let mut stream = connect(&world, &Way { http2: true, ..way(&agent) }).await.unwrap();
    let path = "/files/system/RevokedCertificates";
    let head = [b"\x82\x87\x04", &[u8::try_from(path.len()).unwrap()][..], path.as_bytes(), b"\x01\x01a"].concat();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
    stream.write_all(&frame(1, 5, 1, &head)).await.unwrap();
    // The answer has begun once its head is there (a frame of kind 1).
    let mut answer = Vec::new();
    let begun = |mut bytes: &[u8]| loop {
        let Some((head, rest)) = bytes.split_at_checked(9) else { break false };
        if head[3] == 1 {
            break true;
        }
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        bytes = rest.get(length..).unwrap_or_default();
    };
    while !begun(&answer) {
        assert!(soon(stream.read_buf(&mut answer)).await.unwrap() > 0, "{answer:x?}");
    }
    // A write that begins to wait only after the clock was moved has its whole time before it: the clock is moved again.
    let let_go = async {
        while let Err(_elapsed) = timeout(Duration::from_millis(50), stream.read_to_end(&mut answer)).await {
            tokio::time::pause();
            tokio::time::sleep(limits::SLOW_WRITE + Duration::from_secs(11)).await;
            tokio::time::resume();
        }
    };
    let_go.await;
    assert!(answer.len() < 64 * 1024, "{}", answer.len());
    assert_eq!(poll(&world, &way(&agent), "").await.status, 200);
}
