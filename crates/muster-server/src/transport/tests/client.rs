//! A small agent: a key, a certificate of year one, and the wire.

use super::world::{World, now, soon};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use muster_core::{AgentId, limits};
use muster_proto::framing::{FrameReader, MAGIC, record_bytes};
use muster_proto::inflate::Deflater;
use muster_proto::{convert, wire};
use prost::Message as _;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

pub(super) struct Agent {
    pub(super) pair: KeyPair,
    pub(super) certificate: CertificateDer<'static>,
}

impl Agent {
    pub(super) fn new() -> Self {
        Self::of(KeyPair::generate().unwrap())
    }

    pub(super) fn of(pair: KeyPair) -> Self {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(1, 1, 1);
        params.not_after = rcgen::date_time_ymd(1, 1, 1);
        params.serial_number = Some(1_u64.into());
        let certificate = params.self_signed(&pair).unwrap().der().clone();
        Self { pair, certificate }
    }

    pub(super) fn id(&self) -> AgentId {
        AgentId::of_key(&self.pair.subject_public_key_info())
    }

    /// What it shows and signs with.
    pub(super) fn shows(&self) -> Shows {
        Shows { chain: vec![self.certificate.clone()], key: self.pair.serialize_der() }
    }
}

/// A certificate chain and the key to sign with, which need not belong together.
#[derive(Debug, Clone)]
pub(super) struct Shows {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: Vec<u8>,
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        let key = crate::tls::provider().key_provider.load_private_key(key).unwrap();
        Some(Arc::new(CertifiedKey::new(self.chain.clone(), key)))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// TLS 1.3 and nothing else, and the same for 1.2.
pub(super) const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
pub(super) const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// How to connect.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) shows: Option<Shows>,
    pub(super) http2: bool,
    pub(super) versions: &'static [&'static SupportedProtocolVersion],
}

pub(super) fn way(agent: &Agent) -> Way {
    Way { shows: Some(agent.shows()), http2: false, versions: rustls::ALL_VERSIONS }
}

pub(super) fn http2(agent: &Agent) -> Way {
    Way { http2: true, ..way(agent) }
}

pub(super) fn stranger() -> Way {
    Way { shows: None, http2: false, versions: rustls::ALL_VERSIONS }
}

pub(super) async fn connect(world: &World, way: &Way) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(world.authority.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(way.versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match &way.shows {
        Some(shows) => builder.with_client_cert_resolver(Arc::new(shows.clone())),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![if way.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let socket = TcpStream::connect(world.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

pub(super) type ClientBody = BoxBody<Bytes, Infallible>;

pub(super) fn full(bytes: impl Into<Bytes>) -> ClientBody {
    Full::new(bytes.into()).boxed()
}

/// A body that is sent piece by piece, without a length.
pub(super) fn pieces() -> (mpsc::Sender<Bytes>, ClientBody) {
    let (sender, receiver) = mpsc::channel(16);
    (sender, BodyExt::boxed(StreamBody::new(ReceiverStream::new(receiver).map(|piece| Ok(Frame::data(piece))))))
}

/// Sends one request on a connection of its own.
pub(super) async fn request(
    world: &World,
    way: &Way,
    request: Request<ClientBody>,
) -> Result<http::Response<Incoming>, Box<dyn std::error::Error>> {
    let io = TokioIo::new(connect(world, way).await?);
    let sent = async {
        if way.http2 {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            sender.send_request(request).await
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(connection);
            sender.send_request(request).await
        }
    };
    // Both kinds of connection make a large future, which every test that asks would carry.
    Ok(soon(Box::pin(sent)).await?)
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(super) fn contact(&self) -> wire::ContactData {
        assert_eq!(self.status, 200, "{:?}", self.body);
        wire::ContactData::decode(self.body.clone()).unwrap()
    }
}

pub(super) async fn ask(world: &World, way: &Way, asked: Request<ClientBody>) -> Answer {
    let response = request(world, way, asked).await.unwrap();
    let (head, body) = response.into_parts();
    let body = soon(body.collect()).await.unwrap().to_bytes();
    Answer { status: head.status, headers: head.headers, body }
}

pub(super) fn post(path: &str, headers: &[(&str, &str)], body: ClientBody) -> Request<ClientBody> {
    let builder = Request::post(format!("https://localhost{path}")).header("host", "localhost");
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(body).unwrap()
}

pub(super) async fn poll(world: &World, way: &Way, body: impl Into<Bytes>) -> Answer {
    ask(world, way, post("/message", &[], full(body))).await
}

/// A message to the service that takes everything.
pub(super) fn message(source_message_id: &[u8]) -> wire::Message {
    let address = |service: &str| Some(wire::Address { client_id: Bytes::new(), service_name: service.into() });
    wire::Message {
        source: address("client-service"),
        destination: address("sink"),
        source_message_id: Bytes::copy_from_slice(source_message_id),
        message_type: "Test".into(),
        ..wire::Message::default()
    }
}

pub(super) fn wrapped(data: &wire::ContactData) -> wire::WrappedContactData {
    let client_labels = vec!["linux".to_owned()];
    wire::WrappedContactData { contact_data: data.encode_to_vec().into(), client_labels, ..Default::default() }
}

pub(super) fn data(messages: Vec<wire::Message>) -> wire::ContactData {
    wire::ContactData { messages, client_clock: Some(convert::time_to_wire(now())), ..Default::default() }
}

pub(super) fn contact(messages: Vec<wire::Message>) -> Vec<u8> {
    wrapped(&data(messages)).encode_to_vec()
}

/// An acknowledgement of these ids, as an agent's `system` sends it.
pub(super) fn ack(ids: &[Bytes], source_message_id: &[u8]) -> wire::Message {
    let payload = muster_proto::system::pack(&wire::MessageAckData { message_ids: ids.to_vec() });
    let system = |name: &str| Some(wire::Address { client_id: Bytes::new(), service_name: name.into() });
    wire::Message {
        source: system("system"),
        destination: system("system"),
        message_type: "MessageAck".into(),
        data: Some(convert::payload_to_wire(payload)),
        ..message(source_message_id)
    }
}

/// An open stream.
pub(super) struct Streamer {
    sender: Option<mpsc::Sender<Bytes>>,
    deflater: Option<Deflater>,
    incoming: Incoming,
    frames: FrameReader,
}

impl Streamer {
    /// Starts a stream with a first contact of `messages`, and returns its first answer too.
    pub(super) async fn open(world: &World, way: &Way, messages: Vec<wire::Message>) -> (Self, wire::ContactData) {
        Self::open_with(world, way, messages, None).await
    }

    pub(super) async fn open_with(
        world: &World,
        way: &Way,
        messages: Vec<wire::Message>,
        mut deflater: Option<Deflater>,
    ) -> (Self, wire::ContactData) {
        let (sender, body) = pieces();
        let encoding: &[_] = if deflater.is_some() { &[("content-encoding", "deflate")] } else { &[] };
        let start = [&MAGIC[..], &record_bytes(&wrapped(&data(messages)))].concat();
        let start = deflater.as_mut().map_or(start.clone(), |deflater| deflater.piece(&start));
        sender.send(start.into()).await.unwrap();
        let response = request(world, way, post("/streaming-message", encoding, body)).await.unwrap();
        assert_eq!(response.status(), 200);
        let frames = FrameReader::without_magic(limits::CONTACT_BYTES_MAX);
        let mut stream = Self { sender: Some(sender), deflater, incoming: response.into_body(), frames };
        let first = stream.next().await.expect("the first answer");
        (stream, first)
    }

    pub(super) async fn send(&mut self, messages: Vec<wire::Message>) {
        self.send_bytes(record_bytes(&wrapped(&data(messages)))).await;
    }

    pub(super) async fn send_bytes(&mut self, bytes: Bytes) {
        let bytes = self.deflater.as_mut().map_or(bytes.clone(), |deflater| deflater.piece(&bytes).into());
        // The server may have closed the stream; then there is nobody to take it.
        let _ = self.sender.as_ref().unwrap().send(bytes).await;
    }

    /// Ends the agent's side.
    pub(super) async fn finish(&mut self) {
        let sender = self.sender.take().unwrap();
        if let Some(deflater) = self.deflater.take() {
            sender.send(deflater.finish().into()).await.unwrap();
        }
    }

    /// The next record; `None` when the server has ended the stream.
    pub(super) async fn next(&mut self) -> Option<wire::ContactData> {
        loop {
            if let Some(record) = self.frames.record_next().unwrap() {
                return Some(wire::ContactData::decode(record).unwrap());
            }
            match soon(self.incoming.frame()).await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.frames.push(data);
                    }
                }
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// All records until the server ends the stream.
    pub(super) async fn rest(&mut self) -> Vec<wire::ContactData> {
        let mut records = Vec::new();
        while let Some(record) = self.next().await {
            records.push(record);
        }
        records
    }
}
