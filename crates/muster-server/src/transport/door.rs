//! The door itself: listening, letting in, and closing in time.

use super::answer::Answer;
use super::body::{Body, Budget};
use super::connection::Connection;
use super::identity::Presented;
use super::io::{HeadGuard, Prefixed, Watched};
use super::proxy::{self, Start};
use super::signatures::Signers;
use super::{files, message, streaming, wake};
use crate::config::{Frontend, ProxyIdentity};
use bytes::{Bytes, BytesMut};
use http::{HeaderName, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use metrics::{counter, gauge};
use muster_core::limits;
use muster_engine::Engine;
use rustls::ServerConfig;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// Memory for bodies that are being read, all connections together.
const BODIES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long the door waits after it could not accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often connections are looked at.
const SWEEP: Duration = Duration::from_secs(5);
/// Bytes that HTTP reads at once, at most.
const READ_BYTES_MAX: usize = 64 * 1024;
/// Requests under way at once on one HTTP/2 connection: of an agent, and of a proxy that carries many.
const H2_REQUESTS_MAX: u32 = 32;
const H2_PROXY_REQUESTS_MAX: u32 = 1024;

/// How a door behaves.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the configuration")]
pub struct Options {
    /// Who supplies an agent's certificate.
    pub frontend: Frontend,
    /// Who may supply it in a header.
    pub proxies: Vec<ProxyIdentity>,
    /// The header with the certificate.
    pub certificate_header: HeaderName,
    /// The header with its checksum.
    pub checksum_header: HeaderName,
    /// Whether connections may start with a PROXY header.
    pub proxy_protocol: bool,
    /// Whether streams are offered.
    pub streaming: bool,
    /// Whether files are given out without a certificate.
    pub files_public: bool,
    /// Who vouches for extra signatures over contacts.
    pub signers: Option<Signers>,
    /// Whether the door answers wake-ups of other servers only.
    pub wakeups_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            frontend: Frontend::Mtls,
            proxies: Vec::new(),
            certificate_header: HeaderName::from_static("x-forwarded-client-cert"),
            checksum_header: HeaderName::from_static("x-forwarded-client-cert-checksum"),
            proxy_protocol: false,
            streaming: true,
            files_public: false,
            signers: None,
            wakeups_only: false,
        }
    }
}

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The configuration names something that cannot be a header.
    #[error("{0:?} in the configuration cannot be the name of a header")]
    Header(String),
    /// The authorities of extra signatures cannot be used.
    #[error("{path} in agents.signature_authorities cannot be used: {reason}", path = path.display())]
    Signers {
        /// The file that the configuration names.
        path: PathBuf,
        /// Why, for people.
        reason: String,
    },
}

impl Options {
    /// Takes what the configuration says of the agents' door.
    pub fn of(agents: &crate::config::Agents) -> Result<Self, DoorError> {
        let header = |name: &str| name.parse().map_err(|_| DoorError::Header(name.to_owned()));
        let signers = agents.signature_authorities.as_ref().map(|path| {
            let pem = std::fs::read(path).map_err(|error| error.to_string());
            pem.and_then(|pem| Signers::of_pem(&pem, agents.signatures_required))
                .map_err(|reason| DoorError::Signers { path: path.clone(), reason })
        });
        let signers = signers.transpose()?;
        Ok(Self {
            frontend: agents.frontend,
            proxies: agents.proxies.clone(),
            certificate_header: header(&agents.certificate_header)?,
            checksum_header: header(&agents.checksum_header)?,
            proxy_protocol: agents.proxy_protocol,
            streaming: agents.streaming,
            files_public: agents.files_public,
            signers,
            wakeups_only: false,
        })
    }

    /// A door that answers wake-ups of other servers only, without TLS: they authenticate themselves.
    pub fn wakeups() -> Self {
        Self { frontend: Frontend::CleartextHeader, wakeups_only: true, ..Self::default() }
    }
}

/// Where a door listens.
#[derive(Debug)]
pub enum Listener {
    /// An address.
    Tcp(TcpListener),
    /// A local socket, for a proxy on the same machine.
    Unix(UnixListener),
}

type Socket = Either<TcpStream, UnixStream>;

impl Listener {
    async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                socket.set_nodelay(true)?;
                // A machine that vanished is noticed, though nothing was to be sent to it.
                rustix::net::sockopt::set_socket_keepalive(&socket, true)?;
                rustix::net::sockopt::set_tcp_keepidle(&socket, Duration::from_mins(1))?;
                Ok((Either::Left(socket), Some(peer)))
            }
            Self::Unix(listener) => Ok((Either::Right(listener.accept().await?.0), None)),
        }
    }
}

/// What all connections of a door share.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) options: Options,
    pub(super) budget: Arc<Budget>,
    /// Ends streams.
    pub(super) stop: CancellationToken,
    tls: Option<TlsAcceptor>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    next_connection: AtomicU64,
}

/// The agents' door, or the door for other servers.
#[derive(Clone)]
pub struct Door {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Door {
    /// Makes a door that ends when `stop` resolves. `tls` is left unused where the options say that a proxy or another
    /// server speaks without TLS.
    pub fn new(engine: Engine, options: Options, tls: Arc<ServerConfig>, stop: CancellationToken) -> Self {
        let tls = options.frontend.is_tls().then(|| TlsAcceptor::from(tls));
        let shared = Shared {
            engine,
            options,
            budget: Budget::new(BODIES_BYTES_MAX),
            stop,
            tls,
            connections: Mutex::new(HashMap::new()),
            next_connection: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Serves until the door is stopped: then every stream is told to end, and after [`limits::DRAIN`] at most what is
    /// still open is closed.
    pub async fn serve(&self, listener: Listener) {
        let tasks = TaskTracker::new();
        let sweeper = tokio::spawn(Arc::clone(&self.shared).sweep());
        self.accept(listener, &tasks).await;
        tasks.close();
        // A little of the time is left for closing what would not end.
        let patience = limits::DRAIN.saturating_sub(Duration::from_millis(300));
        if timeout(patience, tasks.wait()).await.is_err() {
            let left = self.shared.each(Connection::kill);
            warn!(connections = left, "closing {left} connections that did not end in time");
            // Every connection looks at its end next, so this is a matter of milliseconds.
            let _ = timeout(Duration::from_millis(300), tasks.wait()).await;
        }
        sweeper.abort();
    }

    async fn accept(&self, listener: Listener, tasks: &TaskTracker) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shared.stop.cancelled() => return,
            };
            match accepted {
                Ok((socket, peer)) => {
                    counter!("muster_transport_connections_total").increment(1);
                    drop(tasks.spawn(Arc::clone(&self.shared).connection(socket, peer)));
                }
                Err(error) if is_one_connection(&error) => debug!(%error, "a connection ended before it was accepted"),
                Err(error) => {
                    counter!("muster_transport_accept_failures_total").increment(1);
                    warn!(%error, "could not accept a connection, trying again in 100 ms: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Whether a failure to accept is about one connection and not about the listener.
fn is_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected)
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn each(&self, what: impl Fn(&Connection)) -> usize {
        let connections = self.lock();
        connections.values().for_each(|connection| what(connection));
        connections.len()
    }

    /// Closes connections that neither give nor take.
    async fn sweep(self: Arc<Self>) {
        loop {
            sleep(SWEEP).await;
            self.each(|connection| {
                if let Some(why) = connection.overdue() {
                    counter!("muster_transport_connections_closed_total", "why" => why).increment(1);
                    connection.kill();
                }
            });
        }
    }

    async fn connection(self: Arc<Self>, socket: Socket, peer: Option<SocketAddr>) {
        // Boxed, so that what only the handshake needs is freed after it.
        let begun = Box::pin(timeout(limits::HANDSHAKE, self.begin(socket, peer))).await;
        let Begun { io, connection, protocol } = match begun {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => {
                counter!("muster_transport_handshakes_failed_total").increment(1);
                return debug!(error = %error, peer = ?peer, "a connection was not agreed on");
            }
            Err(_) => {
                counter!("muster_transport_handshakes_slow_total").increment(1);
                return debug!(peer = ?peer, "a connection was not agreed on in time");
            }
        };
        if self.options.frontend.is_header() {
            connection.carries_many();
        }
        let number = self.next_connection.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::clone(&connection));
        let open = gauge!("muster_transport_connections_open");
        open.increment(1.0);
        let head = if protocol == Protocol::Http2 { HeadGuard::off() } else { HeadGuard::default() };
        let io = TokioIo::new(Watched { io, connection: Arc::clone(&connection), head });
        // Boxed, so that a connection holds what its protocol needs and not what the larger one does.
        match protocol {
            Protocol::Http1 => Box::pin(self.http1(io, &connection)).await,
            Protocol::Http2 => Box::pin(self.http2(io, &connection)).await,
        }
        open.decrement(1.0);
        self.lock().remove(&number);
    }

    async fn begin(&self, mut socket: Socket, peer: Option<SocketAddr>) -> io::Result<Begun> {
        let mut address = peer;
        let mut prefix = Bytes::new();
        if self.options.proxy_protocol {
            let (start, rest) = proxy::header_read(&mut socket).await.map_err(io::Error::other)?;
            prefix = rest;
            match start {
                Start::Header(source) => address = source.or(peer),
                Start::Nothing => {
                    let source = peer.map(text).unwrap_or_default();
                    if let Some(more) = self.engine.line("proxy.no_header", &source) {
                        warn!(peer = ?peer, more, "a connection came without a PROXY header");
                    }
                }
            }
        }
        let address = address.map_or_else(|| "local".to_owned(), text);
        let peer = peer.map(|peer| peer.ip());
        let Some(tls) = &self.tls else {
            let (protocol, prefix) = protocol_spoken(&mut socket, prefix).await?;
            let connection = Connection::new(Presented::Nothing, address, peer);
            return Ok(Begun { io: Either::Right(Prefixed { prefix, io: socket }), connection, protocol });
        };
        let socket = Prefixed { prefix, io: socket };
        let stream = tls.accept(socket).await?;
        let session = stream.get_ref().1;
        let presented = Presented::of(session.peer_certificates()).map_err(io::Error::other)?;
        let protocol = if session.alpn_protocol() == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 };
        let connection = Connection::new(presented, address, peer);
        Ok(Begun { io: Either::Left(Box::new(stream)), connection, protocol })
    }

    async fn http1<I>(self: &Arc<Self>, io: TokioIo<I>, connection: &Arc<Connection>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let serving = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::SLOW_READ)
            .max_headers(limits::HEADERS_MAX)
            .max_header_size(limits::HEADER_BYTES_MAX)
            .max_buf_size(READ_BYTES_MAX)
            .serve_connection(io, service_fn(|request| self.handle(connection, request)));
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            served = serving.as_mut() => return log(served.err()),
            () = connection.killed() => return,
            () = self.stop.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            served = serving.as_mut() => log(served.err()),
            () = connection.killed() => {}
        }
    }

    async fn http2<I>(self: &Arc<Self>, io: TokioIo<I>, connection: &Arc<Connection>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let is_proxy = self.options.frontend.is_header();
        let shared = Arc::clone(self);
        let of_connection = Arc::clone(connection);
        let service = service_fn(move |request| {
            let (shared, connection) = (Arc::clone(&shared), Arc::clone(&of_connection));
            async move { shared.handle(&connection, request).await }
        });
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(if is_proxy { H2_PROXY_REQUESTS_MAX } else { H2_REQUESTS_MAX })
            .max_header_list_size(u32::try_from(limits::HEADER_BYTES_MAX).expect("32 KiB fit 32 bits"))
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_send_buf_size(READ_BYTES_MAX)
            .keep_alive_interval(Duration::from_mins(1))
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(io, service);
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            served = serving.as_mut() => return log(served.err()),
            () = connection.killed() => return,
            () = self.stop.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            served = serving.as_mut() => log(served.err()),
            () = connection.killed() => {}
        }
    }

    async fn handle(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let flight = connection.request();
        let started = Instant::now();
        if hyper::body::Body::is_end_stream(request.body()) {
            connection.head_expect();
        }
        // Boxed, because hyper keeps room for this future as long as the connection lives.
        let (door, answered) = Box::pin(self.route(connection, request)).await;
        let response = answered.unwrap_or_else(Response::from);
        let status = response.status();
        let code = status.as_str().to_owned();
        counter!("muster_transport_requests_total", "door" => door, "status" => code).increment(1);
        metrics::histogram!("muster_transport_answer_seconds", "door" => door).record(started.elapsed());
        Ok(response.map(|body| body.watched(connection, flight)))
    }

    async fn route(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
    ) -> (&'static str, Result<Response<Body>, Answer>) {
        let path = request.uri().path();
        match path {
            wake::PATH => ("wake", wake::answer(self, connection, request).await),
            _ if self.options.wakeups_only => ("other", Err(not_found())),
            "/message" => ("message", message::answer(self, connection, request).await),
            "/streaming-message" if self.options.streaming => {
                ("streaming-message", streaming::answer(self, connection, request).await)
            }
            _ if path.starts_with("/files/") => ("files", files::answer(self, connection, &request).await),
            _ => ("other", Err(not_found())),
        }
    }
}

fn not_found() -> Answer {
    Answer::new(StatusCode::NOT_FOUND, "404 page not found")
}

fn log(error: Option<hyper::Error>) {
    if let Some(error) = error {
        debug!(%error, "a connection ended with an error");
    }
}

/// Writes an address as `ip:port`, an IPv4 address as such even when it came through an IPv6 socket.
fn text(address: SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

/// What HTTP/2 begins with, where it was not agreed on in TLS (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads as much as tells which HTTP is spoken without TLS. `start` was read already; what was read is returned.
async fn protocol_spoken(io: &mut (impl AsyncRead + Unpin), start: Bytes) -> io::Result<(Protocol, Bytes)> {
    let mut start = BytesMut::from(start);
    loop {
        let known = start.len().min(PREFACE.len());
        if start[..known] != PREFACE[..known] {
            return Ok((Protocol::Http1, start.freeze()));
        }
        if known == PREFACE.len() {
            return Ok((Protocol::Http2, start.freeze()));
        }
        if io.read_buf(&mut start).await? == 0 {
            // Too short for either; HTTP/1 says so.
            return Ok((Protocol::Http1, start.freeze()));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// A connection on which HTTP can begin.
struct Begun {
    /// TLS is boxed, because every layer above it moves what it wraps.
    io: Either<Box<tokio_rustls::server::TlsStream<Prefixed<Socket>>>, Prefixed<Socket>>,
    connection: Arc<Connection>,
    protocol: Protocol,
}
