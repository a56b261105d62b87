//! A server that speaks as much of the wire as the agent needs, and keeps what it was told.

use crate::agent::CEILING;
use bytes::{Buf, Bytes, BytesMut};
use flate2::write::ZlibDecoder;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use muster_core::{AgentId, system};
use muster_proto::wire;
use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::DistinguishedName;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

/// The serial number of the server's certificate.
const SERIAL: u8 = 0xd7;

/// The header that names the agent's certificate, for servers behind a proxy.
pub(crate) const CERTIFICATE_HEADER: &str = "x-agent-certificate";

/// What is special about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// Answers 400 to deflated polls, as the original does.
    NoDeflate,
    /// Has a certificate that says CA:TRUE, as the original's configurator makes it.
    OddCertificate,
    /// Acknowledges no record after the first, until it is told to.
    NeverAcknowledges,
    /// Ends the first stream right after its first record.
    EndsStreams,
    /// Names its own certificate as revoked.
    RevokesItself,
    /// Refuses every key but the first that it saw.
    RefusesNewKeys,
    /// Shakes hands, and then cuts.
    Cuts,
    /// Answers everything with 500.
    Fails,
    /// Answers contacts with something that is none.
    Babbles,
    /// Gives out a list of revoked certificates that has no end.
    EndlessList,
    /// Refuses every contact, and knows the machine no more.
    Refuses,
    /// Has let the machine in, and not yet said yes.
    LetsWait,
}

/// A message with its sender.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) agent: AgentId,
    pub(crate) message: wire::Message,
}

impl Received {
    pub(crate) fn body(&self) -> &Vec<u8> {
        &self.message.data.as_ref().unwrap().value
    }
}

/// What the server was told so far.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each says one thing that a test asks for")]
pub(crate) struct Seen {
    pub(crate) messages: Vec<Received>,
    pub(crate) acknowledged: BTreeSet<Bytes>,
    pub(crate) acknowledged_by: BTreeMap<Bytes, AgentId>,
    pub(crate) agents: BTreeSet<AgentId>,
    /// What agents showed of themselves, where they showed something.
    pub(crate) introductions: Vec<(AgentId, Bytes)>,
    /// Labels of the last contact.
    pub(crate) labels: Vec<String>,
    /// The header for a certificate in each request, by path, and whether it named the certificate of the connection.
    pub(crate) certificate_headers: BTreeMap<String, bool>,
    /// How often the list of revoked certificates was asked for.
    pub(crate) revoked_asked: u32,
    pub(crate) streams: u32,
    /// Streams that have not ended.
    pub(crate) open_streams: u32,
    /// How often it was called and of no use.
    pub(crate) useless: u32,
    pub(crate) http2: bool,
    pub(crate) deflated: bool,
    pub(crate) streamed: bool,
    /// Most messages that were with one agent's service at once.
    pub(crate) most_in_places: u64,
    pending: VecDeque<wire::Message>,
    nonce: u64,
    silent: bool,
}

#[derive(Debug)]
struct Shared {
    kind: Kind,
    seen: Mutex<Seen>,
    changed: Notify,
    next: Mutex<u64>,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}

pub(crate) struct Fleet {
    pub(crate) address: String,
    authority: String,
    shared: Arc<Shared>,
}

impl Fleet {
    pub(crate) async fn start(kind: Kind) -> Self {
        let (authority, tls) = tls(kind);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Seen { silent: kind == Kind::NeverAcknowledges, ..Seen::default() };
        let shared = Arc::new(Shared { kind, seen: Mutex::new(seen), changed: Notify::new(), next: Mutex::default() });
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&serving));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    if shared.kind == Kind::Cuts {
                        shared.seen().useless += 1;
                        return;
                    }
                    let session = stream.get_ref().1;
                    let key = &session.peer_certificates().unwrap()[0];
                    let (_, certificate) = x509_parser::parse_x509_certificate(key).unwrap();
                    let agent = AgentId::of_key(certificate.public_key().raw);
                    let key = key.clone().into_owned();
                    let service = service_fn(move |request| {
                        let shared = Arc::clone(&shared);
                        note_header(&shared, &request, &key);
                        async move { Ok::<_, Infallible>(answer(shared, agent, request).await) }
                    });
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, authority, shared }
    }

    pub(crate) fn authority_pem(&self) -> &str {
        &self.authority
    }

    pub(crate) fn seen(&self) -> Seen {
        self.shared.seen().clone()
    }

    /// Sends a message to whichever agent is there. Returns its id.
    pub(crate) fn send(&self, service: &str, message_type: &str, data: Option<prost_types::Any>) -> Bytes {
        let mut next = self.shared.next.lock().unwrap();
        *next += 1;
        let id = Bytes::from([&next.to_be_bytes()[..], &[0xab; 24]].concat());
        self.send_again(&id, service, message_type, data);
        id
    }

    pub(crate) fn send_again(&self, id: &Bytes, service: &str, message_type: &str, data: Option<prost_types::Any>) {
        let message = wire::Message {
            message_id: id.clone(),
            source: Some(wire::Address { service_name: service.into(), ..wire::Address::default() }),
            destination: Some(wire::Address { service_name: service.into(), ..wire::Address::default() }),
            message_type: message_type.into(),
            data,
            ..wire::Message::default()
        };
        self.shared.seen().pending.push_back(message);
        self.shared.changed.notify_waiters();
    }

    pub(crate) fn forget(&self) {
        let mut seen = self.shared.seen();
        seen.messages.clear();
        seen.acknowledged.clear();
    }

    pub(crate) fn acknowledge_from_now_on(&self) {
        self.shared.seen().silent = false;
    }

    /// Waits until what was seen is as wanted.
    pub(crate) async fn wait_until(&self, wanted: impl Fn(&Seen) -> bool) {
        let waiting = async {
            loop {
                let changed = self.shared.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if wanted(&self.shared.seen()) {
                    return;
                }
                changed.await;
            }
        };
        assert!(tokio::time::timeout(CEILING, waiting).await.is_ok(), "it never happened; seen: {:#?}", self.seen());
    }

    /// Waits for a message of this type.
    pub(crate) async fn wait_for(&self, message_type: &str) -> Received {
        let is_it = |received: &&Received| received.message.message_type == message_type;
        self.wait_until(|seen| seen.messages.iter().any(|received| is_it(&received))).await;
        self.seen().messages.iter().find(is_it).unwrap().clone()
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    response
}

/// Reads the header as a server behind a proxy that ends TLS would.
fn note_header(shared: &Shared, request: &Request<Incoming>, certificate: &CertificateDer<'_>) {
    if let Some(value) = request.headers().get(CERTIFICATE_HEADER) {
        let pem = percent_encoding::percent_decode(value.as_bytes()).decode_utf8().unwrap();
        let named = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let is_ours = pem.matches("-----BEGIN CERTIFICATE-----").count() == 1 && named == *certificate;
        shared.seen().certificate_headers.insert(request.uri().path().to_owned(), is_ours);
    }
}

async fn answer(shared: Arc<Shared>, agent: AgentId, request: Request<Incoming>) -> Answer {
    shared.seen().http2 = request.version() == http::Version::HTTP_2;
    let is_new = shared.seen().agents.first().is_some_and(|first| *first != agent);
    if shared.kind == Kind::RefusesNewKeys && is_new {
        return plain(StatusCode::FORBIDDEN, "no new machines\n");
    }
    let deflated = request.headers().get("content-encoding").is_some();
    let is_contact = request.uri().path().ends_with("message");
    match shared.kind {
        Kind::Fails => {
            shared.seen().useless += 1;
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "something broke\n");
        }
        Kind::Babbles if is_contact => {
            shared.seen().useless += 1;
            return plain(StatusCode::OK, "<html>Welcome to the guest network!</html>");
        }
        Kind::Refuses if is_contact => return plain(StatusCode::FORBIDDEN, "this machine was deleted\n"),
        Kind::Refuses => return plain(StatusCode::FORBIDDEN, "this machine is deleted\n"),
        Kind::EndlessList if !is_contact => {
            shared.seen().revoked_asked += 1;
            return plain(StatusCode::OK, vec![0x0a; 5 * 1024 * 1024]);
        }
        Kind::LetsWait if is_contact => {
            let mut answer = Box::pin(contact(shared, agent, request, deflated)).await;
            let waiting = http::HeaderValue::from_static("waiting");
            answer.headers_mut().insert(system::AGENT_STATE_HEADER, waiting);
            return answer;
        }
        _ => {}
    }
    contact(shared, agent, request, deflated).await
}

async fn contact(shared: Arc<Shared>, agent: AgentId, request: Request<Incoming>, deflated: bool) -> Answer {
    match request.uri().path() {
        "/message" if deflated && shared.kind == Kind::NoDeflate => plain(StatusCode::BAD_REQUEST, "cannot read\n"),
        "/message" => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body = if deflated { inflate(&body) } else { body };
            shared.seen().deflated = deflated;
            let tokens = take(&shared, agent, body);
            let contact = give(&shared, &mut tokens.clone());
            plain(StatusCode::OK, contact.encode_to_vec())
        }
        // The original's server would read such a request to its end before it answered.
        "/streaming-message"
            if request.version() != http::Version::HTTP_2
                && request.headers().get("connection").is_none_or(|value| value != "close") =>
        {
            plain(StatusCode::BAD_REQUEST, "this would never be answered\n")
        }
        "/streaming-message" => stream(shared, agent, request.into_body(), deflated).await,
        "/files/system/RevokedCertificates" => {
            shared.seen().revoked_asked += 1;
            shared.changed.notify_waiters();
            let revokes = shared.kind == Kind::RevokesItself;
            let serials = if revokes { vec![Bytes::from_static(&[0, SERIAL])] } else { Vec::new() };
            plain(StatusCode::OK, wire::RevokedCertificateList { serials }.encode_to_vec())
        }
        _ => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn inflate(bytes: &[u8]) -> Bytes {
    let mut decoder = ZlibDecoder::new(Vec::new());
    decoder.write_all(bytes).unwrap();
    decoder.finish().unwrap().into()
}

/// Keeps what a contact brought. Returns its free places.
fn take(shared: &Shared, agent: AgentId, wrapped: Bytes) -> BTreeMap<String, u64> {
    let wrapped = wire::WrappedContactData::decode(wrapped).unwrap();
    let contact = wire::ContactData::decode(wrapped.contact_data).unwrap();
    assert!(contact.messages.len() <= 100 && contact.client_clock.is_some());
    let mut seen = shared.seen();
    seen.agents.insert(agent);
    seen.labels = wrapped.client_labels;
    if !wrapped.muster_introduction.is_empty() {
        seen.introductions.push((agent, wrapped.muster_introduction));
    }
    for message in contact.messages {
        assert_eq!(message.source_message_id.len(), 16);
        if message.message_type == system::MESSAGE_ACK {
            let ids = wire::MessageAckData::decode(&message.data.as_ref().unwrap().value[..]).unwrap().message_ids;
            for id in ids {
                seen.acknowledged_by.insert(id.clone(), agent);
                seen.acknowledged.insert(id);
            }
        }
        seen.messages.push(Received { agent, message });
    }
    drop(seen);
    shared.changed.notify_waiters();
    contact.allowed_messages
}

/// Hands out what waits, as far as there are places.
fn give(shared: &Shared, places: &mut BTreeMap<String, u64>) -> wire::ContactData {
    let mut seen = shared.seen();
    seen.nonce += 1;
    let mut messages = Vec::new();
    while messages.len() < 100
        && let Some(next) = seen.pending.front()
    {
        let to = next.destination.as_ref().unwrap().service_name.clone();
        let is_free = next.message_type == system::DIE;
        let Some(left) = places.get_mut(&to).filter(|left| **left > 0 || is_free) else { break };
        *left = left.saturating_sub(1);
        let used = 100 - (*left).min(100);
        messages.extend(seen.pending.pop_front());
        seen.most_in_places = seen.most_in_places.max(used);
    }
    wire::ContactData { sequencing_nonce: seen.nonce, messages, ..wire::ContactData::default() }
}

fn framed(contact: &wire::ContactData) -> Bytes {
    contact.encode_length_delimited_to_vec().into()
}

/// Counts a stream for as long as it is there to be given messages.
struct OpenStream(Arc<Shared>);

impl OpenStream {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.seen().open_streams += 1;
        Self(Arc::clone(shared))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        // A test that failed while it looked must not panic once more here.
        if let Ok(mut seen) = self.0.seen.lock() {
            seen.open_streams -= 1;
        }
        self.0.changed.notify_waiters();
    }
}

async fn stream(shared: Arc<Shared>, agent: AgentId, mut body: Incoming, deflated: bool) -> Answer {
    let (out, pieces) = mpsc::channel::<Bytes>(16);
    let mut records =
        Records { bytes: BytesMut::new(), decoder: deflated.then(|| ZlibDecoder::new(Vec::new())), magic: false };
    let Some(first) = records.next(&mut body).await else { return plain(StatusCode::OK, Bytes::new()) };
    let mut places = take(&shared, agent, first);
    let open = OpenStream::new(&shared);
    let mut contact = give(&shared, &mut places);
    let ends = {
        let mut seen = shared.seen();
        (seen.deflated, seen.streamed) = (deflated, true);
        seen.streams += 1;
        shared.kind == Kind::EndsStreams && seen.streams == 1
    };
    contact.done_sending = ends;
    out.send(framed(&contact)).await.unwrap();
    shared.changed.notify_waiters();
    tokio::spawn(async move {
        let _open = open;
        let mut index = 0;
        loop {
            let changed = shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let contact = give(&shared, &mut places);
            if !contact.messages.is_empty() && !ends {
                if out.send(framed(&contact)).await.is_err() {
                    return;
                }
                continue;
            }
            tokio::select! {
                () = changed => {}
                record = records.next(&mut body) => {
                    let Some(record) = record else { return };
                    for (service, freed) in take(&shared, agent, record) {
                        *places.entry(service).or_default() += freed;
                    }
                    index += 1;
                    let ack = wire::ContactData { ack_index: index, ..wire::ContactData::default() };
                    let silent = shared.seen().silent;
                    if !silent && out.send(framed(&ack)).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    let pieces = futures_util::stream::unfold(pieces, |mut pieces| async {
        pieces.recv().await.map(|piece| (Ok(Frame::data(piece)), pieces))
    });
    Response::new(BodyExt::boxed(StreamBody::new(pieces)))
}

struct Records {
    bytes: BytesMut,
    decoder: Option<ZlibDecoder<Vec<u8>>>,
    magic: bool,
}

impl Records {
    /// Cancel-safe: what was read stays here.
    async fn next(&mut self, body: &mut Incoming) -> Option<Bytes> {
        loop {
            if !self.magic && self.bytes.len() >= 4 {
                assert_eq!(self.bytes.split_to(4)[..], [0x01, 0x10, 0xee, 0xf1]);
                self.magic = true;
            }
            if self.magic {
                let mut head = &self.bytes[..];
                let before = head.len();
                if let Ok(length) = prost::decode_length_delimiter(&mut head)
                    && head.len() >= length
                {
                    let digits = before - head.len();
                    self.bytes.advance(digits);
                    return Some(self.bytes.split_to(length).freeze());
                }
            }
            let piece = body.frame().await?.ok()?.into_data().ok()?;
            match &mut self.decoder {
                None => self.bytes.extend_from_slice(&piece),
                Some(decoder) => {
                    decoder.write_all(&piece).unwrap();
                    decoder.flush().unwrap();
                    self.bytes.extend_from_slice(&std::mem::take(decoder.get_mut()));
                }
            }
        }
    }
}

fn tls(kind: Kind) -> (String, rustls::ServerConfig) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, "Test CA");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.serial_number = Some(u64::from(SERIAL).into());
    if kind == Kind::OddCertificate {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    } else {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap().der().clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyKey(provider)))
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (authority.pem(), config)
}

/// Believes any key that signs the handshake.
#[derive(Debug)]
struct AnyKey(Arc<rustls::crypto::CryptoProvider>);

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
