//! The admin door: gRPC `fleetspeak.server.Admin`, which Fleetspeak's own tools, its Python connector and GRR speak,
//! with health and reflection beside it.
//!
//! Stays true: every call is in one table with the right it needs, and what is not in the table is not answered; who
//! calls is known from the connection or from a token, never from what a request says of itself; without TLS the door
//! opens on loopback only; a list that streams is read page by page.
//! Not here: what calls do (muster-engine), the same things for people (`rest`).

mod access;
mod calls;
mod incoming;
mod local;
mod status;
pub mod token;

use access::GateLayer;
use calls::AdminCalls;
use incoming::Accepting;
use muster_core::{Clock, limits};
use muster_engine::{Engine, Random};
use muster_proto::wire;
use muster_proto::wire::server::admin_server::AdminServer;
use rustls::server::ResolvesServerCert;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;

/// How often the health answer is compared with the database.
const HEALTH_CHECK: Duration = Duration::from_secs(5);
/// A peer that does not answer a ping for this long is gone.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Who may come in, and how.
#[derive(Debug, Clone)]
pub enum AdminAccess {
    /// Over a loopback address, without TLS, as Fleetspeak's own tools expect it. Whoever brings a token is who the token
    /// says; whoever brings none is known by the account, and is `local` and may do everything where that is let in.
    Loopback(Local),
    /// Over TLS, with a token or a certificate.
    Tls {
        /// The server's certificate.
        certificate: Arc<dyn ResolvesServerCert>,
        /// PEM: the authority whose client certificates may do everything. `None`: only tokens.
        client_authority: Option<String>,
    },
}

/// Which accounts of this machine are let in without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// Root, and the account that the server runs as.
    Owner,
    /// Every account.
    Anybody,
}

/// Whether calls must bring a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// Callers that the connection tells are let in without one.
    Optional,
    /// Every call brings one, whatever the connection tells.
    Required,
}

/// How the door is opened.
#[derive(Debug, Clone)]
pub struct AdminOptions {
    /// Who may come in.
    pub access: AdminAccess,
    /// Whether they must bring a token.
    pub tokens: Tokens,
    /// Bytes of one request; [`limits::ADMIN_REQUEST_BYTES_MAX`] unless configured. Bounds what `StoreFile` can carry.
    pub request_bytes_max: usize,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where new ids come from.
    pub random: Arc<dyn Random>,
}

impl AdminOptions {
    /// The defaults: loopback, gRPC's own limit on requests.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        let request_bytes_max = limits::ADMIN_REQUEST_BYTES_MAX;
        Self { access: AdminAccess::Loopback(Local::Owner), tokens: Tokens::Optional, request_bytes_max, clock, random }
    }
}

/// Why the door does not open, or shut early.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Others could come in without saying who they are.
    #[error(
        "the admin door at {0} can be reached from other machines but asks nobody who they are: switch its TLS on \
         (tokens, or admin.client_ca for certificates), or listen on 127.0.0.1"
    )]
    Exposed(SocketAddr),
    /// The configured client authority is not usable.
    #[error("admin.client_ca is not usable: {0}")]
    ClientAuthority(String),
    /// The listener is not usable.
    #[error("could not use the admin door's socket")]
    Socket(#[source] std::io::Error),
    /// The transport gave up.
    #[error("the admin door failed")]
    Transport(#[source] tonic::transport::Error),
}

/// Checks that a door at `address` would know who comes in.
pub fn check_exposure(address: SocketAddr, access: &AdminAccess) -> Result<(), AdminError> {
    match access {
        AdminAccess::Loopback(_) if !address.ip().to_canonical().is_loopback() => Err(AdminError::Exposed(address)),
        AdminAccess::Loopback(_) | AdminAccess::Tls { .. } => Ok(()),
    }
}

/// Where calls come in.
#[derive(Debug)]
pub struct AdminSockets {
    /// The listener for programs here and elsewhere.
    pub tcp: Option<TcpListener>,
    /// A socket in the file system, for programs of this machine, and which accounts need no token there.
    pub unix: Option<(UnixListener, Local)>,
}

/// Answers calls until `stop`, then lets calls under way finish for [`limits::DRAIN`].
pub async fn serve(
    sockets: AdminSockets,
    engine: Engine,
    options: AdminOptions,
    stop: CancellationToken,
) -> Result<(), AdminError> {
    let mut all = Vec::new();
    if let Some(listener) = sockets.tcp {
        check_exposure(listener.local_addr().map_err(AdminError::Socket)?, &options.access)?;
        all.push(Accepting::new(listener, &options.access)?);
    }
    all.extend(sockets.unix.map(|(listener, local)| Accepting::unix(listener, local)));
    let incoming = Accepting::run(all, &stop);

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AdminServer<AdminCalls>>().await;
    let watch = health_watch(health.clone(), engine.clone(), stop.clone());

    let calls = AdminCalls::new(engine.clone(), Arc::clone(&options.clock), Arc::clone(&options.random));
    let calls = AdminServer::new(calls).max_decoding_message_size(options.request_bytes_max);
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(limits::ADMIN_CALLS_MAX)
        .http2_max_header_list_size(u32::try_from(limits::HEADER_BYTES_MAX).ok())
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .layer(GateLayer::new(engine, options.tokens))
        .add_service(calls)
        .add_service(health_service)
        .add_service(reflection().build_v1().expect("the build wrote these descriptors"))
        .add_service(reflection().build_v1alpha().expect("the build wrote these descriptors"))
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());

    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(limits::DRAIN).await;
    };
    tokio::select! {
        result = server => result.map_err(AdminError::Transport),
        () = drained => Ok(()),
        () = watch => Ok(()),
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Keeps the health answer true: serving while the database answers and the server does not stop. Never ends.
async fn health_watch(health: tonic_health::server::HealthReporter, engine: Engine, stop: CancellationToken) {
    let name = <AdminServer<AdminCalls> as tonic::server::NamedService>::NAME;
    let mut timer = tokio::time::interval(HEALTH_CHECK);
    let mut shown = ServingStatus::Serving;
    loop {
        // A stop is noticed while the database is asked, too.
        let asked = async {
            timer.tick().await;
            engine.store().ping().await
        };
        let status = tokio::select! {
            () = stop.cancelled() => break,
            answer = asked => match answer {
                Ok(()) => ServingStatus::Serving,
                Err(_) => ServingStatus::NotServing,
            },
        };
        // Whoever watches is told of changes only.
        if status != shown {
            health.set_service_status("", status).await;
            health.set_service_status(name, status).await;
            shown = status;
        }
    }
    health.set_service_status("", ServingStatus::NotServing).await;
    health.set_service_status(name, ServingStatus::NotServing).await;
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests;
