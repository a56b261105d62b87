//! The operators' door itself: connections, TLS, and the time each may take.
//!
//! Stays true: the loop that accepts never ends because of a connection or a lack of files; headers, handshakes and
//! silent connections have a time limit; a stop lets requests that are under way finish, for a bounded time.

use super::layers::Peer;
use super::patience::Patient;
use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use muster_core::limits;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, warn};

/// Connections at once, at most; more wait in the system's queue.
const CONNECTIONS_MAX: usize = 1024;
/// How long to pause after the system refused a connection, such as for a lack of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 64;

/// The door, ready to serve.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) router: Router,
}

impl Door {
    /// Serves until `stop`, then lets requests finish for [`limits::DRAIN`] at most.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let tasks = TaskTracker::new();
        let tls = self.tls.map(TlsAcceptor::from);
        loop {
            let place = Arc::clone(&places).acquire_owned();
            let accepted = async {
                let place = place.await.expect("the semaphore is never closed");
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (router, tls, stop) = (self.router.clone(), tls.clone(), stop.clone());
                    tasks.spawn(async move {
                        connection(stream, peer, tls, router, stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(error = %error, "the operators' door could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        tasks.close();
        // What has not finished by then is cut off when the process ends.
        let _ = tokio::time::timeout(limits::DRAIN, tasks.wait()).await;
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: CancellationToken,
) {
    // Answers are small and whole; waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = tls else {
        return serve_http1(stream, peer, router, stop).await;
    };
    match tokio::time::timeout(limits::HANDSHAKE, acceptor.accept(stream)).await {
        Err(_) => debug!(peer = %peer, "TLS was not agreed in time"),
        Ok(Err(error)) => debug!(peer = %peer, error = %error, "TLS was not agreed"),
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            serve_http2(stream, peer, router, stop).await;
        }
        Ok(Ok(stream)) => serve_http1(stream, peer, router, stop).await,
    }
}

/// Wraps the routes for hyper, and tells them who is there.
fn service(
    router: Router,
    peer: SocketAddr,
) -> TowerToHyperService<
    impl tower::Service<
        Request<Incoming>,
        Response = axum::response::Response,
        Error = std::convert::Infallible,
        Future: Send,
    > + Clone,
> {
    TowerToHyperService::new(router.map_request(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        request
    }))
}

async fn serve_http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::SLOW_READ)
        .max_headers(limits::HEADERS_MAX)
        .max_buf_size(limits::HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream)), service(router, peer));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(peer = %peer, error = %error, "a connection of the operators' door broke");
    }
}

async fn serve_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    let header_bytes = u32::try_from(limits::HEADER_BYTES_MAX).expect("the ceiling of headers fits 32 bits");
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(header_bytes)
        .keep_alive_interval(limits::SLOW_READ)
        .keep_alive_timeout(limits::SLOW_READ)
        .serve_connection(TokioIo::new(Patient::new(stream)), service(router, peer));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(peer = %peer, error = %error, "a connection of the operators' door broke");
    }
}
