//! Reaching a server: TCP or a proxy's CONNECT, TLS with the pinned authority, then HTTP/1.1 or HTTP/2.

use crate::chain::Chain;
use crate::config::{Config, Proxy, split_host_port};
use crate::keys::Identity;
use crate::pinned::PinnedVerifier;
use crate::world::TlsTime;
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use muster_core::{Clock, limits, text};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long TCP may take to be there.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a peer may be silent before it is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_mins(1);
/// How long what was sent may go unconfirmed by the peer's machine.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(30);
/// Bytes of a proxy's answer.
const PROXY_ANSWER_MAX: usize = 8192;

/// What requests carry.
#[derive(Debug)]
pub(crate) struct Body(BoxBody<Bytes, Infallible>);

impl Body {
    /// Nothing.
    pub(crate) fn empty() -> Self {
        Self(Empty::new().boxed())
    }

    /// All at once.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self(Full::new(bytes).boxed())
    }

    /// Piece by piece, as they are handed in.
    pub(crate) fn pieces(pieces: mpsc::Receiver<Bytes>) -> Self {
        let stream = futures_util::stream::unfold(pieces, |mut pieces| async {
            pieces.recv().await.map(|piece| (Ok(Frame::data(piece)), pieces))
        });
        Self(BodyExt::boxed(StreamBody::new(stream)))
    }
}

/// Why no server could be reached, or one could not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The TLS library refused the settings.
    #[error("the TLS settings cannot be used: {0}")]
    Settings(#[from] rustls::Error),
    /// The name cannot be one.
    #[error("{0:?} is not a name that a certificate can carry")]
    Name(String),
    /// No connection.
    #[error("cannot connect to {to}")]
    Connect {
        /// To whom.
        to: String,
        /// Why not.
        source: io::Error,
    },
    /// The proxy refused.
    #[error("the proxy {proxy} did not connect to {to}: {answer}")]
    Proxy {
        /// Which proxy.
        proxy: String,
        /// To whom.
        to: String,
        /// What it said.
        answer: String,
    },
    /// TLS failed.
    #[error("TLS with {to} failed")]
    Tls {
        /// With whom.
        to: String,
        /// Why.
        source: io::Error,
    },
    /// HTTP failed.
    #[error("HTTP with {to} failed")]
    Http {
        /// With whom.
        to: String,
        /// Why.
        source: hyper::Error,
    },
    /// Several servers, each with its reason.
    #[error("{0}")]
    All(String),
}

/// Reaches servers.
#[derive(Debug)]
pub(crate) struct Dialer {
    servers: Mutex<Vec<String>>,
    server_name: String,
    proxy: Option<Proxy>,
    http2: bool,
    header: Option<HeaderName>,
    provider: Arc<CryptoProvider>,
    verifier: Arc<PinnedVerifier>,
    clock: Arc<dyn Clock>,
}

impl Dialer {
    /// Puts one together from the configuration, which was checked before.
    pub(crate) fn new(config: &Config, verifier: PinnedVerifier, clock: Arc<dyn Clock>) -> Self {
        Self {
            servers: Mutex::new(config.servers.clone()),
            server_name: config.server_name.clone(),
            proxy: Proxy::read(&config.proxy).ok().flatten(),
            http2: config.http2,
            header: HeaderName::from_bytes(config.client_certificate_header.as_bytes()).ok(),
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            verifier: Arc::new(verifier),
            clock,
        }
    }

    /// Reaches the first server that can be reached, and puts it at the front of the list.
    pub(crate) async fn dial(&self, identity: &Identity) -> Result<Connection, DialError> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut failures = Vec::new();
        for server in servers {
            match self.dial_one(&server, identity).await {
                Ok(connection) => {
                    let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(place) = servers.iter().position(|known| *known == server) {
                        servers[..=place].rotate_right(1);
                    }
                    return Ok(connection);
                }
                Err(error) => failures.push(error),
            }
        }
        match failures.len() {
            1 => Err(failures.remove(0)),
            _ => Err(DialError::All(
                failures.iter().map(|error| Chain(error).to_string()).collect::<Vec<_>>().join("; "),
            )),
        }
    }

    /// Puts a server last that was reached and was of no use, so that the others are tried before it.
    pub(crate) fn put_last(&self, server: &str) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = servers.iter().position(|known| known == server) {
            servers[place..].rotate_left(1);
        }
    }

    /// Returns how many servers there are.
    pub(crate) fn servers(&self) -> usize {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Reaches one server.
    pub(crate) async fn dial_one(&self, server: &str, identity: &Identity) -> Result<Connection, DialError> {
        let tls = self.dial_tls(server, identity).await?;
        self.speak(server, tls, identity).await
    }

    /// Begins to speak HTTP over a connection that was made.
    pub(crate) async fn speak(
        &self,
        server: &str,
        tls: TlsStream<TcpStream>,
        identity: &Identity,
    ) -> Result<Connection, DialError> {
        let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let http = |source| DialError::Http { to: server.to_owned(), source };
        let (sender, driver) = if is_http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(UNCONFIRMED_MAX)
                .initial_stream_window_size(256 * 1024)
                .initial_connection_window_size(512 * 1024)
                .handshake(TokioIo::new(tls))
                .await
                .map_err(http)?;
            (Sender::Two(sender), drive(connection))
        } else {
            let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(tls)).await.map_err(http)?;
            (Sender::One(sender), drive(connection))
        };
        let header = self.header.clone().map(|name| (name, certificate_header(identity)));
        Ok(Connection { server: server.to_owned(), sender, driver, header })
    }

    /// Reaches one server as far as TLS, for [`Dialer::dial_one`] and for looking at what is wrong.
    pub(crate) async fn dial_tls(&self, server: &str, identity: &Identity) -> Result<TlsStream<TcpStream>, DialError> {
        let (host, _) = split_host_port(server).ok_or_else(|| DialError::Name(server.to_owned()))?;
        let name = if self.server_name.is_empty() { host } else { &self.server_name };
        let name = ServerName::try_from(name.to_owned()).map_err(|_| DialError::Name(name.to_owned()))?;
        let connector = TlsConnector::from(Arc::new(self.tls_config(identity)?));
        let stream = match &self.proxy {
            None => connect(server).await?,
            Some(proxy) => connect_through(proxy, server).await?,
        };
        let tls = |source| DialError::Tls { to: server.to_owned(), source };
        tokio::time::timeout(limits::HANDSHAKE, connector.connect(name, stream))
            .await
            .map_err(|_| tls(io::ErrorKind::TimedOut.into()))?
            .map_err(tls)
    }

    fn tls_config(&self, identity: &Identity) -> Result<rustls::ClientConfig, rustls::Error> {
        let time = Arc::new(TlsTime(Arc::clone(&self.clock)));
        let mut config = rustls::ClientConfig::builder_with_details(Arc::clone(&self.provider), time)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier) as _)
            .with_client_auth_cert(vec![identity.certificate.clone()], identity.key())?;
        // A resumed session would skip the check of a certificate that was revoked in between.
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols =
            if self.http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
        Ok(config)
    }
}

async fn connect(to: &str) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::Connect { to: to.to_owned(), source };
    let stream = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(to))
        .await
        .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    tune(&stream).map_err(failed)?;
    Ok(stream)
}

/// Makes small records leave at once, and a peer that is gone be noticed.
fn tune(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    let unconfirmed_ms = u32::try_from(UNCONFIRMED_MAX.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, unconfirmed_ms)?;
    Ok(())
}

async fn connect_through(proxy: &Proxy, to: &str) -> Result<TcpStream, DialError> {
    let mut stream = connect(&proxy.address).await?;
    let refused = |answer: String| DialError::Proxy { proxy: proxy.address.clone(), to: to.to_owned(), answer };
    let login = proxy.login.as_ref().map_or_else(String::new, |login| {
        let login = base64::engine::general_purpose::STANDARD.encode(&login.0);
        format!("Proxy-Authorization: Basic {login}\r\n")
    });
    let ask = async {
        stream.write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{login}\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        // Byte by byte: what follows the empty line belongs to TLS.
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= PROXY_ANSWER_MAX {
                return Err(io::Error::other("its answer has no end"));
            }
            answer.push(stream.read_u8().await?);
        }
        Ok(answer)
    };
    let answer = tokio::time::timeout(CONNECT_MAX, ask)
        .await
        .map_err(|_| refused("no answer in time".into()))?
        .map_err(|error| refused(error.to_string()))?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = text::cut(&text::plain(&String::from_utf8_lossy(line)), 200);
    match line.split(' ').nth(1) {
        Some("200") => Ok(stream),
        _ => Err(refused(line)),
    }
}

fn certificate_header(identity: &Identity) -> HeaderValue {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let text = base64::engine::general_purpose::STANDARD.encode(&identity.certificate);
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    let escaped = utf8_percent_encode(&pem, NON_ALPHANUMERIC).to_string();
    HeaderValue::try_from(escaped).expect("letters, digits and percent signs are a header's value")
}

fn drive<F>(connection: F) -> JoinHandle<()>
where
    F: Future<Output = Result<(), hyper::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            // Whoever waits for an answer on this connection reports the failure.
            tracing::debug!(%error, "a connection ended");
        }
    })
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Connection {
    server: String,
    sender: Sender,
    driver: JoinHandle<()>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Connection {
    /// The server, as it is configured.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Whether HTTP/2 is spoken, and not HTTP/1.1.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Two(_))
    }

    /// Whether another request can be sent.
    pub(crate) fn is_open(&self) -> bool {
        match &self.sender {
            Sender::One(sender) => !sender.is_closed(),
            Sender::Two(sender) => !sender.is_closed(),
        }
    }

    /// Starts a request.
    pub(crate) fn request(&self, method: Method, path: &str, body: Body) -> Request<Body> {
        let target = match self.sender {
            Sender::One(_) => path.to_owned(),
            Sender::Two(_) => format!("https://{}{path}", self.server),
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().expect("a checked address and a fixed path are a URI");
        let headers = request.headers_mut();
        if matches!(self.sender, Sender::One(_)) {
            let host = HeaderValue::from_str(&self.server).expect("a checked address is a header's value");
            headers.insert(http::header::HOST, host);
        }
        let agent = concat!("muster-agent/", env!("CARGO_PKG_VERSION"));
        headers.insert(http::header::USER_AGENT, HeaderValue::from_static(agent));
        if let Some((name, value)) = &self.header {
            headers.insert(name.clone(), value.clone());
        }
        request
    }

    /// Sends a request and returns the head of the answer.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.0.size_hint()
    }
}
