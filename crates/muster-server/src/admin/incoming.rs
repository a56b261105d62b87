//! Connections to the admin door: accepted, agreed in TLS where that is asked for, and bound to who made them.

use super::{AdminAccess, AdminError, Local, local};
use muster_core::limits;
use muster_engine::access::{Principal, Role};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

/// How long accepting rests after it failed, for lack of file descriptors usually.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection, as far as the connection tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Peer {
    /// Root or the server's own account on this machine, or any account where that is configured.
    Local,
    /// Another account of this machine, with its number as far as the kernel names it. It has to show a token.
    Account(Option<u32>),
    /// The holder of a certificate of the configured authority.
    Certificate(String),
    /// Somebody over TLS, who will have to show a token.
    Stranger,
}

impl Peer {
    pub(super) fn principal(&self) -> Option<Principal> {
        match self {
            Self::Local => Some(Principal { name: "local".into(), grant: Role::Admin.into(), ends: None }),
            Self::Certificate(name) => {
                Some(Principal { name: format!("certificate {name}"), grant: Role::Admin.into(), ends: None })
            }
            Self::Account(_) | Self::Stranger => None,
        }
    }

    /// Says what the other end has to do.
    pub(super) fn refusal(&self) -> String {
        match self {
            Self::Account(user) => local::refusal(*user),
            _ => "say who you are, with metadata `authorization: Bearer TOKEN`".to_owned(),
        }
    }

    /// Judges an account of this machine.
    fn account(user: Option<u32>, local: Local) -> Self {
        match local {
            Local::Anybody => Self::Local,
            Local::Owner if user.is_some_and(local::is_owner) => Self::Local,
            Local::Owner => Self::Account(user),
        }
    }
}

/// A listener, and how its connections become known.
pub(super) struct Accepting {
    listener: Socket,
    how: How,
}

/// Where connections come in.
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// How the other end becomes known.
#[derive(Clone)]
enum How {
    /// By its account on this machine.
    Account(Local),
    /// By its certificate, or not at all.
    Tls(TlsAcceptor),
}

impl Accepting {
    pub(super) fn new(listener: TcpListener, access: &AdminAccess) -> Result<Self, AdminError> {
        let how = match access {
            AdminAccess::Loopback(local) => How::Account(*local),
            AdminAccess::Tls { certificate, client_authority } => {
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                    .with_safe_default_protocol_versions()
                    .expect("the provider has suites for TLS 1.2 and 1.3");
                let builder = match client_authority {
                    None => builder.with_no_client_auth(),
                    Some(pem) => {
                        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pem)?), provider)
                            .allow_unauthenticated()
                            .build()
                            .map_err(|error| AdminError::ClientAuthority(error.to_string()))?;
                        builder.with_client_cert_verifier(verifier)
                    }
                };
                let mut config = builder.with_cert_resolver(Arc::clone(certificate));
                config.alpn_protocols = vec![b"h2".to_vec()];
                How::Tls(TlsAcceptor::from(Arc::new(config)))
            }
        };
        Ok(Self { listener: Socket::Tcp(listener), how })
    }

    /// Takes connections through a socket in the file system.
    pub(super) fn unix(listener: UnixListener, local: Local) -> Self {
        Self { listener: Socket::Unix(listener), how: How::Account(local) }
    }

    /// Accepts until `stop`. A handshake that takes its time holds up nobody else.
    pub(super) fn run(all: Vec<Self>, stop: &CancellationToken) -> ReceiverStream<io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(1);
        let permits = Arc::new(Semaphore::new(limits::ADMIN_CONNECTIONS_MAX));
        for accepting in all {
            let (stop, sender, permits) = (stop.clone(), sender.clone(), Arc::clone(&permits));
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = accepting.accept(sender, permits) => {}
                }
            });
        }
        ReceiverStream::new(receiver)
    }

    async fn next(&self) -> io::Result<Bytes> {
        match &self.listener {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Without this, small answers wait for the acknowledgement of what went before.
                let _ = stream.set_nodelay(true);
                Ok(Bytes::Plain(stream))
            }
            Socket::Unix(listener) => Ok(Bytes::Unix(listener.accept().await?.0)),
        }
    }

    async fn accept(self, sender: mpsc::Sender<io::Result<Connection>>, permits: Arc<Semaphore>) {
        while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
            let bytes = match self.next().await {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::warn!(%error, "admin: could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (how, sender) = (self.how.clone(), sender.clone());
            tokio::spawn(async move {
                if let Some(connection) = Connection::agree(bytes, how, permit).await {
                    let _ = sender.send(Ok(connection)).await;
                }
            });
        }
    }
}

fn roots(pem: &str) -> Result<RootCertStore, AdminError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| AdminError::ClientAuthority(error.to_string()))?;
        roots.add(certificate).map_err(|error| AdminError::ClientAuthority(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(AdminError::ClientAuthority("no certificate in PEM form".into()));
    }
    Ok(roots)
}

enum Bytes {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// An agreed connection.
pub(super) struct Connection {
    bytes: Bytes,
    peer: Peer,
    /// Held for as long as the connection lives.
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Agrees on TLS where that is asked for. `None`: the other end failed, which is nobody's problem but its own.
    async fn agree(bytes: Bytes, how: How, permit: OwnedSemaphorePermit) -> Option<Self> {
        let (stream, tls) = match (bytes, how) {
            (Bytes::Plain(stream), How::Tls(tls)) => (stream, tls),
            (bytes, How::Account(local)) => {
                let peer = Peer::account(account(&bytes, local).await, local);
                return Some(Self { bytes, peer, _permit: permit });
            }
            (Bytes::Unix(_) | Bytes::Tls(_), How::Tls(_)) => return None,
        };
        let agreed = tokio::time::timeout(limits::HANDSHAKE, tls.accept(stream)).await;
        let stream = agreed.ok()?.inspect_err(|error| tracing::debug!(%error, "admin: TLS was not agreed")).ok()?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = certificate.map_or(Peer::Stranger, |certificate| Peer::Certificate(holder(certificate)));
        Some(Self { bytes: Bytes::Tls(Box::new(stream)), peer, _permit: permit })
    }
}

/// Asks the kernel whose the other end is, unless that does not matter.
async fn account(bytes: &Bytes, local: Local) -> Option<u32> {
    if local == Local::Anybody {
        return None;
    }
    match bytes {
        Bytes::Unix(stream) => stream.peer_cred().ok().map(|peer| peer.uid()),
        Bytes::Plain(stream) => {
            let (peer, own) = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
            // The kernel's table may be long.
            tokio::task::spawn_blocking(move || local::account(peer, own)).await.ok()?
        }
        Bytes::Tls(_) => None,
    }
}

/// Returns what the journal calls the holder of a certificate: its common name, else its whole subject.
fn holder(certificate: &CertificateDer<'_>) -> String {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return "?".into() };
    let subject = certificate.subject();
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned);
    let name = name.unwrap_or_else(|| subject.to_string());
    let shown: String = name.chars().filter(|c| !c.is_control()).take(limits::NAME_BYTES_MAX / 4).collect();
    if shown.is_empty() { "?".into() } else { shown }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Bytes::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Bytes::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Bytes::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Bytes::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Bytes::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Bytes::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Bytes::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Bytes::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
