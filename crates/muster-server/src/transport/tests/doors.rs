use super::client::{Agent, Streamer, contact, message, poll, way};
use super::world::{World, soon, world, world_with};
use crate::config::{Frontend, ProxyIdentity};
use crate::pki::{CERTIFICATE_LIFE, Certificates, PkiOptions};
use crate::transport::{Door, HttpWaker, Listener, Options};
use crate::world::SystemClock;
use base64::Engine as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use muster_core::{Address, AgentId, Message, MessageId};
use muster_engine::{EngineConfig, WakeUp, Waker as _};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Posts an empty contact without TLS and returns the answer's status.
async fn plain(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    start: &str,
    headers: &str,
) -> u16 {
    let request =
        format!("{start}POST /message HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer[9..12]).parse().unwrap()
}

fn certificate_header(agent: &Agent) -> String {
    let base64 = base64::engine::general_purpose::STANDARD.encode(&agent.certificate);
    format!("x-forwarded-client-cert: -----BEGIN%20CERTIFICATE-----%0A{base64}%0A-----END%20CERTIFICATE-----%0A\r\n")
}

fn behind_a_proxy(proxy: &str) -> Options {
    let proxies = vec![ProxyIdentity::Address(proxy.parse().unwrap())];
    Options { frontend: Frontend::CleartextHeader, proxies, ..Options::default() }
}

#[tokio::test]
async fn a_proxy_speaks_for_agents_without_tls() {
    let world = world_with(behind_a_proxy("127.0.0.1"), EngineConfig::default()).await;
    let agent = Agent::new();
    let connect = async || TcpStream::connect(world.address).await.unwrap();
    assert_eq!(plain(connect().await, "", &certificate_header(&agent)).await, 200);
    assert!(world.engine.store().agent_get(agent.id()).await.unwrap().is_some());
    assert_eq!(plain(connect().await, "", "").await, 400);
    let twice = certificate_header(&agent).repeat(2);
    assert_eq!(plain(connect().await, "", &twice).await, 400);
    let folded = certificate_header(&agent).replace("%0A", "\r\n ");
    assert_eq!(plain(connect().await, "", &folded).await, 400);
}

#[tokio::test]
async fn a_proxy_may_speak_http2_without_tls() {
    let world = world_with(behind_a_proxy("127.0.0.1"), EngineConfig::default()).await;
    let agent = Agent::new();
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let header = certificate_header(&agent);
        let (name, value) = header.trim_end().split_once(": ").unwrap();
        let request = http::Request::post(format!("http://{}/message", world.address)).header(name, value);
        let answer = soon(sender.send_request(request.body(String::new()).unwrap())).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (http::StatusCode::OK, http::Version::HTTP_2));
    }
    // What only begins like it is HTTP/1, and none.
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test]
async fn s05_a_stranger_does_not_speak_for_agents() {
    let world = world_with(behind_a_proxy("192.0.2.1"), EngineConfig::default()).await;
    let agent = Agent::new();
    let stream = TcpStream::connect(world.address).await.unwrap();
    assert_eq!(plain(stream, "", &certificate_header(&agent)).await, 403);
    assert!(world.engine.store().agent_get(agent.id()).await.unwrap().is_none());
}

#[tokio::test]
async fn the_proxy_protocol_names_the_agents_address_and_not_the_proxys() {
    let options = Options { proxy_protocol: true, ..behind_a_proxy("127.0.0.1") };
    let world = world_with(options, EngineConfig::default()).await;
    let agent = Agent::new();
    let start = "PROXY TCP6 2001:db8::1 2001:db8::2 5000 443\r\n";
    let stream = TcpStream::connect(world.address).await.unwrap();
    assert_eq!(plain(stream, start, &certificate_header(&agent)).await, 200);
    let known = world.engine.store().agent_get(agent.id()).await.unwrap().unwrap();
    assert_eq!(known.last_address, "[2001:db8::1]:5000");
}

/// A second door of the same server.
fn open(world: &World, options: Options, listener: Listener) {
    let certificate = Arc::new(rustls::server::ResolvesServerCertUsingSni::new());
    let tls = Arc::new(crate::tls::agents_config(certificate));
    let door = Door::new(world.engine.clone(), options, tls, world.stop.clone());
    tokio::spawn(async move { door.serve(listener).await });
}

#[tokio::test]
async fn a_local_socket_is_a_proxy_by_itself() {
    let world = world().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("door");
    let options = Options { frontend: Frontend::CleartextHeader, ..Options::default() };
    open(&world, options, Listener::Unix(UnixListener::bind(&path).unwrap()));
    let agent = Agent::new();
    assert_eq!(plain(UnixStream::connect(&path).await.unwrap(), "", &certificate_header(&agent)).await, 200);
}

/// Stores a message as another server would, of which this one hears by the wake-up only, and wakes it.
async fn wakes(world: &World, stream: &mut Streamer, url: &str, authorities: &[&str], agent: AgentId) {
    let ends = (Address::server("sink"), Address::agent(agent, "client-service"));
    let now = super::world::now();
    let stored = Message::new(MessageId::ordered(now, [7; 24]), ends.0, ends.1, now);
    world.engine.store().message_put(vec![stored], None, now).await.unwrap();
    // What a program does once at its start.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let waker = HttpWaker::new(Arc::new(SystemClock), authorities).unwrap();
    waker.attach(world.engine.clone());
    let started = tokio::time::Instant::now();
    waker.wake(url, &WakeUp::Messages(vec![agent])).await;
    assert_eq!(stream.next().await.unwrap().messages.len(), 1);
    assert!(started.elapsed() < std::time::Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn servers_wake_each_other_over_tls_when_they_share_an_authority() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let config = EngineConfig { wake_url: url.clone(), ..EngineConfig::default() };
    let world = world_with(Options::default(), config).await;
    let data = tempfile::tempdir().unwrap();
    let names = vec!["127.0.0.1".to_owned()];
    let options = PkiOptions { data: data.path().into(), names, life: CERTIFICATE_LIFE, files: None };
    let certificates =
        Certificates::open(world.engine.store().as_ref(), &options, Arc::new(SystemClock)).await.unwrap();
    let tls = Arc::new(crate::tls::agents_config(certificates.slot()));
    let door = Door::new(world.engine.clone(), Options::default(), tls, world.stop.clone());
    tokio::spawn(async move { door.serve(Listener::Tcp(listener)).await });
    let agent = Agent::new();
    let (mut stream, _) = Streamer::open(&world, &way(&agent), vec![]).await;
    wakes(&world, &mut stream, &url, &[certificates.authority_pem()], agent.id()).await;
}

#[tokio::test]
async fn servers_wake_each_other_and_nobody_else_wakes_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("http://{address}/");
    let config = EngineConfig { wake_url: url.clone(), ..EngineConfig::default() };
    let world = world_with(Options::default(), config).await;
    open(&world, Options::wakeups(), Listener::Tcp(listener));
    let agent = Agent::new();
    poll(&world, &way(&agent), contact(vec![message(b"1")])).await.contact();
    let (mut stream, _) = Streamer::open(&world, &way(&agent), vec![]).await;

    wakes(&world, &mut stream, &url, &[], agent.id()).await;

    let ask = async |request: String| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer[9..12]).into_owned()
    };
    let post = |headers: &str| {
        format!(
            "POST /muster/wake HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n{headers}\r\n\0\0\0\0\0\0\0\0\0"
        )
    };
    assert_eq!(ask(post("")).await, "401");
    assert_eq!(ask(post(&format!("Muster-Authenticator: {}\r\n", "00".repeat(32)))).await, "401");
    let old = hex::encode(world.engine.wake_authenticator(&url, &[0; 9]).await.unwrap());
    let head = format!("POST /muster/wake HTTP/1.1\r\nHost: a\r\nConnection: close\r\nMuster-Authenticator: {old}\r\n");
    let zeros = "\0".repeat(9);
    assert_eq!(ask(format!("{head}Content-Length: 9\r\n\r\n{zeros}")).await, "401");
    assert_eq!(ask("GET /muster/wake HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into()).await, "405");
    assert_eq!(
        ask("POST /message HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into()).await,
        "404"
    );
}
