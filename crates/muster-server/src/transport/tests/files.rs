use super::client::{Agent, Answer, ClientBody, Way, ask, full, http2, poll, stranger, way};
use super::world::{World, now, world, world_with};
use crate::transport::Options;
use http::Request;
use muster_core::file::FileInfo;
use muster_core::{Cause, limits};
use muster_engine::EngineConfig;
use muster_engine::access::Caller;
use sha2::{Digest, Sha256};

/// Puts a file of that content.
pub(super) async fn put(world: &World, service: &str, name: &str, bytes: &[u8]) {
    let store = world.engine.store();
    let content = store.file_begin(now()).await.unwrap();
    for (index, piece) in bytes.chunks(limits::FILE_CHUNK_BYTES).enumerate() {
        let index = u32::try_from(index).unwrap();
        store.file_chunk_put(content, index, bytes::Bytes::copy_from_slice(piece)).await.unwrap();
    }
    let info = FileInfo {
        service: service.into(),
        name: name.into(),
        bytes: bytes.len() as u64,
        sha256: Sha256::digest(bytes).into(),
        modified: now(),
        content,
    };
    store.file_finish(info, &Cause::server()).await.unwrap();
}

fn get(path: &str, headers: &[(&str, &str)]) -> Request<ClientBody> {
    let builder = Request::get(format!("https://localhost{path}"));
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(full("")).unwrap()
}

async fn read(world: &World, way: &Way, path: &str, headers: &[(&str, &str)]) -> Answer {
    ask(world, way, get(path, headers)).await
}

async fn known(world: &World) -> Agent {
    let agent = Agent::new();
    poll(world, &way(&agent), "").await.contact();
    agent
}

fn content() -> Vec<u8> {
    (0..700_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[tokio::test]
async fn a_file_comes_whole_in_part_or_not_again() {
    let world = world().await;
    let agent = known(&world).await;
    let content = content();
    put(&world, "my service", "a b.txt", &content).await;
    let path = "/files/my%2520service/a%2520b.txt";
    for way in [way(&agent), http2(&agent)] {
        let whole = read(&world, &way, path, &[]).await;
        assert_eq!(whole.status, 200);
        assert_eq!(whole.body, content);
        assert_eq!(whole.headers["content-type"], "text/plain");
        assert_eq!(whole.headers["x-content-type-options"], "nosniff");
        assert!(whole.headers["content-disposition"].to_str().unwrap().starts_with("attachment"));
        assert_eq!(whole.headers["accept-ranges"], "bytes");
        let etag = whole.headers["etag"].to_str().unwrap();
        let modified = whole.headers["last-modified"].to_str().unwrap();

        for condition in [("if-none-match", etag), ("if-modified-since", modified)] {
            let again = read(&world, &way, path, &[condition]).await;
            assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{condition:?}");
        }
        let part = read(&world, &way, path, &[("range", "bytes=262140-262149")]).await;
        assert_eq!(part.status, 206);
        assert_eq!(part.body, content[262_140..262_150]);
        assert_eq!(part.headers["content-range"], "bytes 262140-262149/700000");
        let head = Request::head(format!("https://localhost{path}")).body(full("")).unwrap();
        let head = ask(&world, &way, head).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
        assert_eq!(head.headers["content-length"], "700000");
    }
}

#[tokio::test]
async fn r37_ranges_do_not_amplify() {
    let world = world().await;
    let agent = known(&world).await;
    put(&world, "s", "f", b"0123456789").await;
    let many = format!("bytes={}", vec!["0-9"; 100].join(","));
    for (range, status, length) in [
        (many.as_str(), 200, 10),
        ("bytes=5-2", 200, 10),
        ("bytes=0-0,5-5", 200, 10),
        ("bytes=3-99999999999999999999", 206, 7),
        ("bytes=-3", 206, 3),
        ("bytes=10-", 416, 0),
    ] {
        let answer = read(&world, &way(&agent), "/files/s/f", &[("range", range)]).await;
        assert_eq!(answer.status, status, "{range}");
        assert!(status == 416 || answer.body.len() == length, "{range}");
    }
}

#[tokio::test]
async fn r25_files_are_for_machines_that_are_known() {
    let world = world().await;
    put(&world, "s", "f", b"x").await;
    let revoked = "/files/system/RevokedCertificates";
    assert_eq!(read(&world, &stranger(), "/files/s/f", &[]).await.status, 401);
    assert_eq!(read(&world, &way(&Agent::new()), "/files/s/f", &[]).await.status, 401);
    let empty = read(&world, &stranger(), revoked, &[]).await;
    assert_eq!((empty.status.as_u16(), empty.body.len()), (200, 0));
    put(&world, "system", "RevokedCertificates", b"\x0a\x01\x05").await;
    assert_eq!(read(&world, &stranger(), revoked, &[]).await.body, b"\x0a\x01\x05"[..]);

    let agent = known(&world).await;
    assert_eq!(read(&world, &way(&agent), "/files/s/f", &[]).await.status, 200);
    world.engine.agent_block(agent.id(), &Caller::server()).await.unwrap();
    assert_eq!(read(&world, &way(&agent), "/files/s/f", &[]).await.status, 403);

    let public = Options { files_public: true, ..Options::default() };
    let world = world_with(public, EngineConfig::default()).await;
    put(&world, "s", "f", b"x").await;
    assert_eq!(read(&world, &stranger(), "/files/s/f", &[]).await.status, 200);
}

#[tokio::test]
async fn r36_r38_names_are_never_paths_and_never_headers() {
    let world = world().await;
    let agent = known(&world).await;
    put(&world, "s", "../etc/passwd", b"mine").await;
    put(&world, "s", "a\"b;é.svg", b"<svg/>").await;
    let status = async |path: &str| read(&world, &way(&agent), path, &[]).await.status.as_u16();
    for path in [
        "/files/s/..%2fx",
        "/files/s/a/../../b",
        "/files/s",
        "/files/",
        "/files/s/",
        "/files//f",
        "/files/s/%00",
        "/files/s/a%25E2%2580%25AEb",
        "/files/s/a%250d%250aSet-Cookie:%20x",
        "/files/s/%ff",
        "/files/s/%25ff",
        "/files/%25252e%25252e/x/y",
    ] {
        assert_eq!(status(path).await, 400, "{path}");
    }
    let long = format!("/files/s/{}", "a".repeat(4096));
    assert_eq!(status(&long).await, 400);
    for path in
        ["/files/s/.", "/files/s/..", "/files/s/%2e%2e", "/files/s/C:%5Cx", "/files/s/%5C%5Ch%5Cs", "/files/no/such"]
    {
        assert!([400, 404].contains(&status(path).await), "{path}");
    }
    let mine = read(&world, &way(&agent), "/files/s/%252e%252e%252fetc%252fpasswd", &[]).await;
    assert_eq!(mine.body, "mine");
    let named = read(&world, &way(&agent), "/files/s/a%2522b;%25C3%25A9.svg", &[]).await;
    assert_eq!(named.status, 200, "{:?}", named.text());
    let disposition = named.headers["content-disposition"].to_str().unwrap();
    assert!(disposition.ends_with("filename*=UTF-8''a%22b%3B%C3%A9%2Esvg"), "{disposition}");
    let missing = read(&world, &way(&agent), "/files/s/missing", &[]).await;
    assert_eq!((missing.status.as_u16(), missing.text()), (404, "file not found\n"));
}
