//! A service that is a program of its own and speaks `fleetspeak.grpcservice.Processor`.
//!
//! Stays true: a call ends within [`limits::SERVICE_CALL_MAX`]; the program's word decides whether a message failed for
//! good or falls due again; once the program is back, the next call reaches it, without any pause of the connection's
//! own.

use super::{GrpcSecurity, ServiceSetupError};
use async_trait::async_trait;
use muster_core::{Message, limits};
use muster_engine::{Service, ServiceError};
use muster_proto::convert;
use muster_proto::wire::grpcservice::processor_client::ProcessorClient;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a call is repeated while the program cannot be reached: it may be starting again.
const REPEAT_FOR: Duration = Duration::from_secs(10);
/// The first and the longest pause between such repetitions.
const REPEAT_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// How much sooner than the engine's own limit a call ends, so that its error is the one that is kept.
const MARGIN: Duration = Duration::from_millis(500);
/// An idle connection is asked so often whether it still lives.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A program that takes messages.
#[derive(Debug)]
pub struct GrpcService {
    name: String,
    parallelism: u32,
    target: String,
    client: ProcessorClient<Channel>,
}

impl GrpcService {
    /// Prepares the way to a program; it need not run yet. To be called within the runtime that will call it.
    pub fn new(
        name: String,
        target: &str,
        security: &GrpcSecurity,
        parallelism: u32,
    ) -> Result<Self, ServiceSetupError> {
        let authority = match security {
            GrpcSecurity::Insecure => None,
            GrpcSecurity::Tls { authority } => Some(trusted(&name, authority)?),
        };
        match endpoint(target, authority) {
            Ok(endpoint) => {
                let client = ProcessorClient::new(endpoint.connect_lazy());
                Ok(Self { name, parallelism, target: target.to_owned(), client })
            }
            Err(problem) => Err(ServiceSetupError::Invalid { name, problem }),
        }
    }

    async fn deliver(&self, message: &Message) -> Result<(), Status> {
        let begun = Instant::now();
        let end = begun + limits::SERVICE_CALL_MAX.saturating_sub(MARGIN);
        let mut pause = REPEAT_PAUSE.0;
        loop {
            let request = convert::message_to_wire(message.clone());
            let mut client = self.client.clone();
            let outcome = tokio::time::timeout_at(end, client.process(request)).await;
            let status = match outcome {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(status)) => status,
                Err(_) => return Err(Status::deadline_exceeded("it did not answer in time")),
            };
            if status.code() != Code::Unavailable || begun.elapsed() + pause > REPEAT_FOR {
                return Err(status);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REPEAT_PAUSE.1);
        }
    }
}

/// Reads gRPC's names: `host:port`, `dns:///host:port`, `dns://resolver/host:port`, `passthrough:///host:port`,
/// `unix:path`.
fn endpoint(target: &str, authority: Option<Arc<dyn ServerCertVerifier>>) -> Result<Endpoint, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("target {target:?} must be host:port or unix:PATH ({error})");
    let address = match target.split_once(':') {
        Some(("dns" | "passthrough", rest)) => match rest.strip_prefix("//") {
            Some(rest) => rest.split_once('/').map_or(rest, |(_, address)| address),
            None => rest,
        },
        _ => target,
    };
    if address.is_empty() {
        return Err(wrong(&"it is empty"));
    }
    let uri = match (address.starts_with("unix:"), &authority) {
        (true, None) => address.to_owned(),
        (true, Some(_)) => return Err("a Unix socket needs no TLS: set insecure instead of cert_file".into()),
        (false, None) => format!("http://{address}"),
        (false, Some(_)) => format!("https://{address}"),
    };
    let endpoint = Endpoint::new(uri).map_err(|error| wrong(&error))?;
    if !address.starts_with("unix:") && endpoint.uri().port_u16().is_none() {
        return Err(wrong(&"the port is missing"));
    }
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(CONNECT)
        .keep_alive_while_idle(true);
    match authority {
        None => Ok(endpoint),
        Some(verifier) => {
            endpoint.tls_config_with_verifier(ClientTlsConfig::new(), verifier).map_err(|error| wrong(&error))
        }
    }
}

#[async_trait]
impl Service for GrpcService {
    fn name(&self) -> &str {
        &self.name
    }

    fn parallelism(&self) -> u32 {
        self.parallelism
    }

    async fn process(&self, message: &Message) -> Result<(), ServiceError> {
        self.deliver(message).await.map_err(|status| failure(&self.target, &status))
    }
}

/// Sorts a refusal into passing and permanent ones, by the original's list.
fn failure(target: &str, status: &Status) -> ServiceError {
    let text = format!("{target} answered {:?}: {}", status.code(), said(status));
    match status.code() {
        Code::DeadlineExceeded
        | Code::Unavailable
        | Code::Aborted
        | Code::Cancelled
        | Code::Unauthenticated
        | Code::PermissionDenied => ServiceError::Passing(text),
        _ => ServiceError::Permanent(text),
    }
}

/// Returns a status's text; for a connection that failed, with the reasons below it.
fn said(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Believes a chain to one of the authorities in a file, or exactly one of the certificates in it: programs often
/// show a certificate that they signed themselves, which is then what the file holds.
#[derive(Debug)]
struct Trusted {
    exact: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

fn trusted(name: &str, path: &Path) -> Result<Arc<dyn ServerCertVerifier>, ServiceSetupError> {
    let file = |source| ServiceSetupError::File { name: name.to_owned(), path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(file)?;
    let problem = |problem: String| ServiceSetupError::Invalid {
        name: name.to_owned(),
        problem: format!("cert_file {} {problem}", path.display()),
    };
    let exact: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| problem(format!("is not PEM ({error})")))?;
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(exact.iter().cloned());
    if usable == 0 {
        return Err(problem("holds no certificate".into()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| problem(format!("is not usable ({error})")))?;
    Ok(Arc::new(Trusted { exact, chains }))
}

/// Whether a certificate names whom we wanted to reach.
fn names(certificate: &CertificateDer<'_>, server: &ServerName<'_>) -> bool {
    rustls::server::ParsedCertificate::try_from(certificate)
        .is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, server).is_ok())
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chains.verify_server_cert(end_entity, intermediates, server, ocsp, now);
        verified.or_else(|error| {
            // One that ended or is not valid yet fails before its chain is looked at, and stays refused.
            let about_the_chain = matches!(
                error,
                rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_))
            );
            if about_the_chain && self.exact.contains(&end_entity.clone().into_owned()) && names(end_entity, server) {
                return Ok(ServerCertVerified::assertion());
            }
            Err(error)
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
