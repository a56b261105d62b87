//! Services as a Fleetspeak services file has them (`fleetspeak.server.ServerConfig`, text form), read as they are.

use super::{GrpcSecurity, ServiceKind, ServiceSetupError, ServiceSpec};
use muster_proto::{text, wire};
use prost::Message as _;
use std::time::Duration;

/// What a services file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetspeakServices {
    /// Its services, in its order.
    pub services: Vec<ServiceSpec>,
    /// How often the original looks for new broadcasts. Muster is woken by them, so this is only for notes.
    pub broadcast_poll: Option<Duration>,
}

/// Reads a services file. A relative path in it is relative to the working directory, as for the original.
pub fn read_fleetspeak(content: &str) -> Result<FleetspeakServices, ServiceSetupError> {
    let config: wire::server::ServerConfig =
        text::parse("fleetspeak.server.ServerConfig", content).map_err(ServiceSetupError::ServicesFile)?;
    let services = config.services.into_iter().map(spec).collect::<Result<_, _>>()?;
    let broadcast_poll = config.broadcast_poll_time.and_then(|time| Duration::try_from(time).ok());
    Ok(FleetspeakServices { services, broadcast_poll })
}

/// What a services file says as far as it can be taken over, and what cannot, each a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetspeakServicesFound {
    /// Services that can be had, in the file's order.
    pub services: Vec<ServiceSpec>,
    /// What is left out, and why.
    pub notes: Vec<String>,
}

/// Reads a services file for a move: a service that cannot be had costs itself only, and is named.
///
/// # Errors
/// The text is no services file.
pub fn read_fleetspeak_known(content: &str) -> Result<FleetspeakServicesFound, ServiceSetupError> {
    let (config, unknown): (wire::server::ServerConfig, _) =
        text::parse_known("fleetspeak.server.ServerConfig", content).map_err(ServiceSetupError::ServicesFile)?;
    let mut found = FleetspeakServicesFound { services: Vec::new(), notes: Vec::new() };
    found.notes.extend(unknown.into_iter().map(|what| format!("the services file has {what}")));
    for service in config.services {
        let taken = spec(service).and_then(|spec| {
            super::name_check(&spec.name)?;
            if found.services.iter().any(|have| have.name == spec.name) {
                return Err(ServiceSetupError::Duplicate(spec.name));
            }
            Ok(spec)
        });
        match taken {
            Ok(spec) => found.services.push(spec),
            Err(error) => found.notes.push(format!("{error}: it is left out, and messages to it have no destination")),
        }
    }
    Ok(found)
}

fn spec(service: wire::server::ServiceConfig) -> Result<ServiceSpec, ServiceSetupError> {
    let name = service.name;
    let kind = match service.factory.as_str() {
        "NOOP" => Ok(ServiceKind::Noop),
        "GRPC" => grpc(service.config),
        "CPS" => {
            Err("factory CPS (Google Cloud Pub/Sub) is not built into Muster; let a program of factory GRPC take \
                      the messages and publish them"
                .into())
        }
        other => Err(format!("factory {other:?} is not known; there are GRPC and NOOP")),
    };
    match kind {
        Ok(kind) => Ok(ServiceSpec { name, parallelism: service.max_parallelism, kind }),
        Err(problem) => Err(ServiceSetupError::Invalid { name, problem }),
    }
}

fn grpc(config: Option<prost_types::Any>) -> Result<ServiceKind, String> {
    const TYPE: &str = "fleetspeak.grpcservice.Config";
    let any = config
        .ok_or_else(|| format!("factory GRPC needs config {{ [type.googleapis.com/{TYPE}] {{ target: … }} }}"))?;
    if any.type_url.rsplit('/').next() != Some(TYPE) {
        return Err(format!("factory GRPC needs a config of type {TYPE}, not {:?}", any.type_url));
    }
    let config = wire::grpcservice::Config::decode(any.value.as_slice())
        .map_err(|error| format!("its config does not decode: {error}"))?;
    let security = match (config.insecure, config.cert_file.is_empty()) {
        (true, true) => GrpcSecurity::Insecure,
        (false, false) => GrpcSecurity::Tls { authority: config.cert_file.into() },
        (true, false) => return Err("insecure and cert_file contradict each other: give one of them".into()),
        (false, true) => return Err("give one of insecure: true and cert_file: \"…\"".into()),
    };
    Ok(ServiceKind::Grpc { target: config.target, security })
}
