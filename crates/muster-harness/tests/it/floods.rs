//! Floods: thousands of silent connections, bombs, and HTTP/2 that only costs. Others are served meanwhile, memory stays
//! bounded, and whoever does it is sent away. Names that start with `r` are rows of docs/develop/bad-input.md.

use crate::scene::Scene;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use muster_harness::admin::Admin;
use muster_harness::identity::Identity;
use muster_harness::link::Link;
use muster_harness::server::Server;
use muster_harness::wire::actions::{self, ActionResult, SUCCESS};
use muster_harness::wire::{self, Address, ContactData, Message};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls_pki_types::ServerName;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const MIB: u64 = 1024 * 1024;
const CONNECTIONS: u64 = 5000;
/// The server's own ceiling for agreeing on TLS, and time for a busy machine to act on it.
const SILENT_CEILING: Duration = Duration::from_secs(10 + 5);
/// What a flood may take of the memory of an unoptimised build.
const FLOOD_BYTES_MAX: u64 = 64 * MIB;
const CEILING: Duration = Duration::from_secs(30);

/// Lets this process open `count` files; the server does so for itself.
fn files_allow(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(count, |maximum| maximum.min(count));
    assert!(current >= count, "this test needs {count} open files, the machine allows {current}: raise `ulimit -Hn`");
    if limit.current.is_some_and(|have| have < count) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum: limit.maximum }).unwrap();
    }
}

/// How long contacts of a new connection each take, the slowest of a hundred left out.
async fn contact_time(server: &Server, identity: &Identity) -> Duration {
    let mut times = Vec::new();
    for _ in 0..100 {
        let started = Instant::now();
        let mut link = Link::open(server.addresses.agents, &identity.tls).await.unwrap();
        assert_eq!(link.post("", &[]).await.unwrap().status, 200);
        times.push(started.elapsed());
    }
    times.sort_unstable();
    times[98]
}

#[tokio::test]
async fn r29_five_thousand_silent_connections_are_sent_away_and_hold_up_nobody() {
    files_allow(CONNECTIONS + 500);
    let scene = Scene::new().await;
    let door = scene.server.addresses.agents;
    let identity = Identity::fresh().unwrap();
    let before = contact_time(&scene.server, &identity).await;
    let resident = scene.server.process.resident_bytes_peak().unwrap();

    let mut silent = Vec::new();
    for number in 0..CONNECTIONS {
        let mut socket = TcpStream::connect(door).await.unwrap();
        if number % 2 == 0 {
            // The beginning of a greeting that never ends.
            socket.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await.unwrap();
        }
        silent.push(socket);
    }
    let opened = tokio::time::Instant::now();
    let meanwhile = contact_time(&scene.server, &identity).await;
    let slow = before * 2 + Duration::from_millis(100);
    assert!(meanwhile <= slow, "contacts took {before:?} before and {meanwhile:?} meanwhile");

    for socket in &mut silent {
        let mut rest = [0; 64];
        let ended = async { while socket.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
        tokio::time::timeout_at(opened + SILENT_CEILING, ended).await.expect("a silent connection is closed in time");
    }
    let grown = scene.server.process.resident_bytes_peak().unwrap() - resident;
    assert!(grown <= CONNECTIONS * 32 * 1024, "{} KiB for each connection", grown / CONNECTIONS / 1024);
    contact_time(&scene.server, &identity).await;
}

#[tokio::test]
async fn r03_bombs_of_many_machines_at_once_take_little_memory() {
    let scene = Scene::new().await;
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; usize::try_from(MIB).unwrap()];
    for _ in 0..256 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = Arc::new(encoder.finish().unwrap());
    let identity = Identity::fresh().unwrap();
    contact_time(&scene.server, &identity).await;
    let resident = scene.server.process.resident_bytes_peak().unwrap();
    let mut bombers = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (bomb, tls, door) = (Arc::clone(&bomb), Arc::clone(&identity.tls), scene.server.addresses.agents);
        bombers.spawn(async move {
            let mut link = Link::open(door, &tls).await.unwrap();
            // The server may answer and close before all of it is sent.
            let _ = link
                .send_raw(
                    format!(
                        "POST /message HTTP/1.1\r\nHost: a\r\nContent-Encoding: deflate\r\nContent-Length: {}\r\n\r\n",
                        bomb.len()
                    )
                    .as_bytes(),
                )
                .await;
            let _ = link.send_raw(&bomb).await;
            link.answer().await.map(|answer| answer.status)
        });
    }
    while let Some(status) = bombers.join_next().await {
        // A connection that is reset with bytes still on their way may lose its answer.
        let status = status.unwrap();
        assert!(status.as_ref().is_ok_and(|status| *status == 413) || status.is_err(), "{status:?}");
    }
    let grown = scene.server.process.resident_bytes_peak().unwrap() - resident;
    // Each inflates one mebibyte while it comes, doubled while its buffer grows; beyond that, two at a time.
    assert!(grown <= FLOOD_BYTES_MAX + 32 * 2 * MIB, "{} MiB", grown / MIB);
    contact_time(&scene.server, &identity).await;
}

#[tokio::test]
async fn r03_results_that_are_bombs_take_little_memory_however_many_come_at_once() {
    let scene = Scene::new().await;
    // White space between brackets, which packs well.
    let bytes = muster_core::limits::RESULT_BYTES_MAX;
    let mut plain = vec![b' '; usize::try_from(bytes).unwrap()];
    let mut state = 1_u32;
    for piece in plain.chunks_mut(128) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        piece[usize::try_from(state >> 25).unwrap()] = b'\n';
    }
    (plain[0], *plain.last_mut().unwrap()) = (b'[', b']');
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&plain).unwrap();
    let packed = encoder.finish().unwrap();
    assert!((20..150).contains(&(plain.len() / packed.len())), "{} bytes", packed.len());
    let bomb = ActionResult {
        action_id: 1,
        status: SUCCESS,
        results: packed,
        results_packing: 1,
        results_bytes: bytes,
        ..ActionResult::default()
    };
    let ends = Some(Address { client_id: Vec::new(), service_name: "actions".into() });
    let message = |n: u8| Message {
        source: ends.clone(),
        destination: ends.clone(),
        source_message_id: vec![n],
        message_type: actions::RESULT.into(),
        data: Some(wire::any("muster.actions.ActionResult", &bomb)),
        ..Message::default()
    };
    let contact = Arc::new(ContactData { messages: (0..20).map(message).collect(), ..ContactData::default() });
    let identities: Vec<Identity> = (0..4).map(|_| Identity::fresh().unwrap()).collect();
    contact_time(&scene.server, &identities[0]).await;
    let resident = scene.server.process.resident_bytes_peak().unwrap();
    let mut bombers = tokio::task::JoinSet::new();
    for identity in &identities {
        let (contact, tls, door) = (Arc::clone(&contact), Arc::clone(&identity.tls), scene.server.addresses.agents);
        bombers.spawn(async move {
            let mut link = Link::open(door, &tls).await.unwrap();
            link.poll(&contact, &[]).await.unwrap();
        });
    }
    while let Some(done) = bombers.join_next().await {
        done.unwrap();
    }
    let grown = scene.server.process.resident_bytes_peak().unwrap() - resident;
    let unpacked = u64::try_from(muster_core::limits::UNPACKED_BYTES_MAX).unwrap();
    // Each is read once while it is unpacked, and its buffer doubles; together they would be 1.3 GiB.
    assert!(grown <= FLOOD_BYTES_MAX + 3 * unpacked, "{} MiB", grown / MIB);
    contact_time(&scene.server, &identities[0]).await;
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A header block: a method and scheme from the static table, a path and an authority in plain.
fn head(method: u8, scheme: u8, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    [&[method, scheme, 4, length], path.as_bytes(), &[1, 1, b'a']].concat()
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

struct Flood {
    name: &'static str,
    bytes: Vec<u8>,
    /// Whether it must be ended by the server, with a word.
    goes_away: bool,
}

/// `scheme` is that of the door, `path` one that takes posts.
fn floods(scheme: u8, path: &str) -> Vec<Flood> {
    let stream = |number: u32| number * 2 + 1;
    let head = head(POST, scheme, path);
    let asked = |number| frame(HEADERS, END_STREAM | END_HEADERS, stream(number), &head);
    let resets = (0..20_000).flat_map(|n| [asked(n), frame(RESET, 0, stream(n), &[0, 0, 0, 8])].concat());
    let header = [b"\x00\x04name\x7f\xff\x03".to_vec(), vec![b'a'; 8000]].concat();
    let continued = [frame(HEADERS, END_STREAM, 1, &head), frame(CONTINUATION, 0, 1, &header).repeat(2000)].concat();
    let empty = [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, 0, 1, &[]).repeat(1_000_000)].concat();
    let empty_continued =
        [frame(HEADERS, END_STREAM, 1, &head), frame(CONTINUATION, 0, 1, &[]).repeat(1_000_000)].concat();
    let setting = [0, 4, 0, 1, 0, 0];
    vec![
        Flood { name: "resets", bytes: resets.collect(), goes_away: true },
        Flood { name: "continuations", bytes: continued, goes_away: true },
        Flood { name: "empty continuations", bytes: empty_continued, goes_away: true },
        Flood { name: "empty data", bytes: empty, goes_away: false },
        Flood { name: "settings", bytes: frame(SETTINGS, 0, 0, &setting).repeat(300_000), goes_away: false },
        Flood { name: "pings", bytes: frame(PING, 0, 0, &[0; 8]).repeat(300_000), goes_away: false },
        Flood { name: "windows", bytes: frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(300_000), goes_away: false },
    ]
}

/// What a server said, frame by frame: the kinds.
fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        kinds.push(head[3]);
        bytes = rest.get(length..).unwrap_or_default();
    }
    kinds
}

/// Begins HTTP/2 with `settings`, sends `bytes`, and returns what was answered until the server closed or had nothing
/// more to say.
async fn pour(stream: impl AsyncRead + AsyncWrite, settings: &[u8], bytes: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let start = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, settings)[..]].concat();
    // A connection that is closed in the middle of its flood is what is wished for.
    let sending = async {
        let _ = write.write_all(&start).await;
        let _ = write.write_all(bytes).await;
        let _ = write.shutdown().await;
    };
    let mut answer = Vec::new();
    let reading = async { drop(read.read_to_end(&mut answer).await) };
    let both = async { tokio::join!(sending, reading) };
    tokio::time::timeout(CEILING, both).await.expect("the flood and its answer end");
    answer
}

async fn agents_http2(server: &Server, identity: &Identity) -> impl AsyncRead + AsyncWrite + use<> {
    let mut tls = (*identity.tls).clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(server.addresses.agents).await.unwrap();
    let name = ServerName::IpAddress(server.addresses.agents.ip().into());
    TlsConnector::from(Arc::new(tls)).connect(name, socket).await.unwrap()
}

fn flood_check(flood: &Flood, door: &str, answer: &[u8], server: &Server, before: u64) {
    let (name, kinds) = (flood.name, kinds(answer));
    if flood.goes_away {
        assert!(kinds.contains(&GO_AWAY), "{door}, {name}: no word of an end among {} frames", kinds.len());
    }
    assert!(kinds.len() <= 700_000, "{door}, {name}: {} frames in answer", kinds.len());
    let grown = server.process.resident_bytes_peak().unwrap() - before;
    assert!(grown <= FLOOD_BYTES_MAX, "{door}, {name}: {} MiB", grown / MIB);
}

#[tokio::test]
async fn r33_floods_of_http2_frames_take_bounded_memory_at_the_agents_door() {
    let scene = Scene::new().await;
    let identity = Identity::fresh().unwrap();
    contact_time(&scene.server, &identity).await;
    let before = scene.server.process.resident_bytes_peak().unwrap();
    for flood in floods(0x87, "/message") {
        let answer = pour(agents_http2(&scene.server, &identity).await, &[], &flood.bytes).await;
        flood_check(&flood, "agents", &answer, &scene.server, before);
        let mut link = Link::open(scene.server.addresses.agents, &identity.tls).await.unwrap();
        assert_eq!(link.post("", &[]).await.unwrap().status, 200, "{}", flood.name);
    }
}

#[tokio::test]
async fn r33_floods_of_http2_frames_take_bounded_memory_at_the_admin_door() {
    let scene = Scene::new().await;
    let door = scene.server.addresses.admin;
    let before = scene.server.process.resident_bytes_peak().unwrap();
    for flood in floods(0x86, "/fleetspeak.server.Admin/KeepAlive") {
        let answer = pour(TcpStream::connect(door).await.unwrap(), &[], &flood.bytes).await;
        flood_check(&flood, "admin", &answer, &scene.server, before);
        let mut client = Admin::connect(&door.to_string()).await.unwrap();
        let refused = format!("{:#}", client.insert(Message::default()).await.unwrap_err());
        assert!(refused.contains("message must have Destination"), "{}: {refused}", flood.name);
    }
}

#[tokio::test]
async fn r33_readers_that_open_no_window_take_bounded_memory() {
    const REQUESTS: u32 = 32;
    let scene = Scene::new().await;
    let identity = Identity::fresh().unwrap();
    let path = scene.path("large");
    std::fs::write(&path, vec![7; 16 * usize::try_from(MIB).unwrap()]).unwrap();
    let path = path.display().to_string();
    scene.server.muster(&["file", "put", "system", &path, "--name", "RevokedCertificates"]).unwrap();
    contact_time(&scene.server, &identity).await;
    let before = scene.server.process.resident_bytes_peak().unwrap();
    let settings = [0, 4, 0, 0, 0, 0];
    let head = head(GET, 0x87, "/files/system/RevokedCertificates");
    let asked = (0..REQUESTS).flat_map(|n| frame(HEADERS, END_STREAM | END_HEADERS, n * 2 + 1, &head));
    let start = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &settings)[..]].concat();
    let bytes = [start, asked.collect()].concat();
    let mut readers = Vec::new();
    for _ in 0..10 {
        let mut stream = Box::pin(agents_http2(&scene.server, &identity).await);
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        // Every answer has begun once its head is there; none may go on.
        let (mut answer, mut begun) = (Vec::new(), 0);
        while begun < REQUESTS as usize {
            let read =
                tokio::time::timeout(CEILING, stream.read_buf(&mut answer)).await.expect("answers begin").unwrap();
            assert!(read > 0, "the connection ended: {:?}", kinds(&answer));
            begun = kinds(&answer).into_iter().filter(|kind| *kind == HEADERS).count();
        }
        assert!(!kinds(&answer).contains(&DATA));
        readers.push(stream);
    }
    contact_time(&scene.server, &identity).await;
    let grown = scene.server.process.resident_bytes_peak().unwrap() - before;
    assert!(grown <= FLOOD_BYTES_MAX, "{} readers take {} MiB", readers.len(), grown / MIB);
}
