//! Connections to the admin door: accepted, agreed in TLS where that is asked for, and bound to who made them.

use super::{AdminAccess, AdminError};
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
use tokio::net::{TcpListener, TcpStream};
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
    /// Somebody on this machine, through a loopback address.
    Local,
    /// The holder of a certificate of the configured authority.
    Certificate(String),
    /// Somebody over TLS, who will have to show a token.
    Stranger,
}

impl Peer {
    pub(super) fn principal(&self) -> Option<Principal> {
        match self {
            Self::Local => Some(Principal { name: "local".into(), role: Role::Admin }),
            Self::Certificate(name) => Some(Principal { name: format!("certificate {name}"), role: Role::Admin }),
            Self::Stranger => None,
        }
    }
}

/// A listener, and how its connections become known.
pub(super) struct Accepting {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Accepting {
    pub(super) fn new(listener: TcpListener, access: &AdminAccess) -> Result<Self, AdminError> {
        let tls = match access {
            AdminAccess::Loopback => None,
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
                Some(TlsAcceptor::from(Arc::new(config)))
            }
        };
        Ok(Self { listener, tls })
    }

    /// Accepts until `stop`. A handshake that takes its time holds up nobody else.
    pub(super) fn run(self, stop: CancellationToken) -> ReceiverStream<io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.accept(sender) => {}
            }
        });
        ReceiverStream::new(receiver)
    }

    async fn accept(self, sender: mpsc::Sender<io::Result<Connection>>) {
        let permits = Arc::new(Semaphore::new(limits::ADMIN_CONNECTIONS_MAX));
        while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "admin: could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Without this, small answers wait for the acknowledgement of what went before.
            let _ = stream.set_nodelay(true);
            let (tls, sender) = (self.tls.clone(), sender.clone());
            tokio::spawn(async move {
                if let Some(connection) = Connection::agree(stream, tls, permit).await {
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
    /// Agrees on TLS where `tls` asks for it. `None`: the other end failed, which is nobody's problem but its own.
    async fn agree(stream: TcpStream, tls: Option<TlsAcceptor>, permit: OwnedSemaphorePermit) -> Option<Self> {
        let Some(tls) = tls else {
            return Some(Self { bytes: Bytes::Plain(stream), peer: Peer::Local, _permit: permit });
        };
        let agreed = tokio::time::timeout(limits::HANDSHAKE, tls.accept(stream)).await;
        let stream = agreed.ok()?.inspect_err(|error| tracing::debug!(%error, "admin: TLS was not agreed")).ok()?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = certificate.map_or(Peer::Stranger, |certificate| Peer::Certificate(holder(certificate)));
        Some(Self { bytes: Bytes::Tls(Box::new(stream)), peer, _permit: permit })
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
            Bytes::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Bytes::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Bytes::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Bytes::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
