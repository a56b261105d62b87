//! Services that live outside of the server: what the configuration calls them, and how they are reached.
//!
//! Stays true: a service has a name of its own that no built-in service has; what cannot be set up stops the start,
//! with the service's name in the error.
//! Not here: when a message is tried again (muster-engine), built-in services (muster-engine, `codec`).

mod fleetspeak;
mod grpc;
mod noop;
mod spool;

pub use fleetspeak::{FleetspeakServices, FleetspeakServicesFound, read_fleetspeak, read_fleetspeak_known};
pub use grpc::GrpcService;
pub use noop::NoopService;
pub use spool::SpoolService;

use muster_core::{Clock, limits, system, text};
use muster_engine::Service;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// What a service is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// A program that speaks `fleetspeak.grpcservice.Processor`.
    Grpc {
        /// Where: `host:port`, or `unix:PATH`. The prefixes `dns:` and `passthrough:` of gRPC names are understood.
        target: String,
        /// How its other end is known.
        security: GrpcSecurity,
    },
    /// Takes every message and forgets it.
    Noop,
    /// Writes every message as a line of JSON into files of a directory.
    Spool {
        /// Which directory; it is made if it is not there.
        directory: PathBuf,
    },
}

/// How the program at the other end is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrpcSecurity {
    /// It is not.
    Insecure,
    /// By TLS, with a certificate of an authority in this file (PEM), or equal to a certificate in it.
    Tls {
        /// The file.
        authority: PathBuf,
    },
}

/// A service as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// The name that messages are addressed to.
    pub name: String,
    /// Calls under way at once, at most; 0 for [`limits::SERVICE_PARALLELISM`].
    pub parallelism: u32,
    /// What it is made of.
    pub kind: ServiceKind,
}

/// Why a service cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ServiceSetupError {
    /// The name is not one.
    #[error("a service has a name that cannot be: {0}")]
    Name(text::TextError),
    /// The name is a built-in service's.
    #[error("service {0:?}: this name is built in; choose another")]
    Reserved(String),
    /// Two services have this name.
    #[error("service {0:?} is configured twice; messages could not be told apart")]
    Duplicate(String),
    /// Something about it is wrong.
    #[error("service {name:?}: {problem}")]
    Invalid {
        /// Which service.
        name: String,
        /// What, and what to do.
        problem: String,
    },
    /// A file or directory of it is not usable.
    #[error("service {name:?}: could not use {path}")]
    File {
        /// Which service.
        name: String,
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The services file is not one.
    #[error("the services file cannot be read: {0}")]
    ServicesFile(muster_proto::text::TextError),
}

/// Names that no configured service may take: those of the built-in services, and the one that labels use.
const RESERVED: [&str; 3] = [system::SERVICE, system::CLIENT, system::MUSTER];

/// Sets all services up. Nothing is connected before the first message.
pub fn factory(specs: &[ServiceSpec], clock: &Arc<dyn Clock>) -> Result<Vec<Arc<dyn Service>>, ServiceSetupError> {
    let mut names = BTreeSet::new();
    for spec in specs {
        name_check(&spec.name)?;
        if !names.insert(spec.name.as_str()) {
            return Err(ServiceSetupError::Duplicate(spec.name.clone()));
        }
    }
    specs.iter().map(|spec| set_up(spec, clock)).collect()
}

/// Refuses a name that no service of the configuration can have.
fn name_check(name: &str) -> Result<(), ServiceSetupError> {
    text::name("service name", name).map_err(ServiceSetupError::Name)?;
    if RESERVED.contains(&name) { Err(ServiceSetupError::Reserved(name.to_owned())) } else { Ok(()) }
}

fn set_up(spec: &ServiceSpec, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Service>, ServiceSetupError> {
    let name = spec.name.clone();
    let parallelism = match spec.parallelism {
        0 => limits::SERVICE_PARALLELISM,
        some => some,
    };
    Ok(match &spec.kind {
        ServiceKind::Noop => Arc::new(NoopService::new(name)),
        ServiceKind::Grpc { target, security } => Arc::new(GrpcService::new(name, target, security, parallelism)?),
        ServiceKind::Spool { directory } => {
            Arc::new(SpoolService::new(name, directory.clone(), Arc::clone(clock), parallelism)?)
        }
    })
}

#[cfg(test)]
mod tests;
