//! What a start needs before anything runs: directory, limits, database, services, TLS.

use super::{ServeError, Step};
use crate::config::{self, Config, Policy};
use crate::listener_certificates::FileCertificate;
use crate::offline;
use crate::ownership;
use crate::pki::{self, CertificateFiles};
use crate::services::{self, GrpcSecurity, ServiceKind, ServiceSpec};
use anyhow::{Context, anyhow, bail};
use muster_core::label::LabelPattern;
use muster_core::{Clock, system};
use muster_engine::{Engine, EngineConfig, EnrolmentPolicy, Outside, Service};
use muster_modules::place::Keeper;
use muster_store::reports::AgentTimes;
use muster_store::{SqlStore, Store, StoreOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::server::ResolvesServerCert;
use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Below this, a server soon runs out of files.
const FILES_WANTED: u64 = 1024;
/// The file by whose lock a second server on the same data directory is noticed.
const LOCK: &str = "server.lock";

/// Raises the number of files that may be open to what the system allows.
pub(super) fn files_raise() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(error = %error, "could not raise the number of open files");
    }
    if limit.maximum.is_some_and(|most| most < FILES_WANTED) {
        let most = limit.maximum.unwrap_or_default();
        tracing::warn!(most, "only {most} files may be open, and each connection is one: raise the hard limit");
    }
}

/// Makes sure that the data directory is this process's user's alone, and locks it for this process.
pub(super) fn data_directory(data: &Path) -> Result<File, ServeError> {
    let step = Step(format!("use the data directory {}", data.display()));
    step.run(|| {
        ownership::directory_take(data)?;
        let lock = File::options().create(true).truncate(false).write(true).open(data.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => bail!("another server uses it: stop that one, or name another directory"),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    })
}

/// Makes sure that nobody else can change the files that the configuration names, or read the keys among them.
pub(super) fn configured_files(config: &Config) -> Result<(), ServeError> {
    let step = Step("use the files that the configuration names".into());
    step.run(|| {
        let found: Vec<_> =
            ownership::configured(&Keeper::this_process(), config).iter().map(ToString::to_string).collect();
        anyhow::ensure!(found.is_empty(), "{}", found.join("; "));
        Ok(())
    })
}

/// Opens the database. A file that is not there yet is created; anything else has to be migrated on purpose.
pub(super) async fn store_open(config: &Config) -> Result<SqlStore, ServeError> {
    let url = offline::database_url(config);
    let step = Step(format!("open the database {}", offline::location(config)));
    if let Some(path) = config.database.sqlite_path(&config.data.0)
        && let Err(error) = ownership::database_check(&Keeper::this_process(), &path)
    {
        return Err(step.failed(error));
    }
    let opened = async {
        if let Some(path) = config.database.sqlite_path(&config.data.0)
            && !path.exists()
        {
            SqlStore::migrate(&url).await?;
        }
        SqlStore::open(&url, &StoreOptions::default()).await
    };
    opened.await.map_err(|error| step.failed(error))
}

/// Binds a door.
pub(super) async fn bind(door: &str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    let step = Step(format!("open {door} at {address}"));
    TcpListener::bind(address).await.map_err(|error| step.failed(error))
}

/// Names and kinds of services, as operators see them.
pub(super) type Shown = Vec<(String, &'static str)>;

/// Sets the services up that the configuration and an existing Fleetspeak file name.
pub(super) fn services(config: &Config, clock: &Arc<dyn Clock>) -> Result<(Vec<Arc<dyn Service>>, Shown), ServeError> {
    let mut specs: Vec<_> = config.services.iter().map(spec).collect();
    if let Some(path) = &config.fleetspeak_services {
        let step = Step(format!("read the services file {}", path.display()));
        let read = step.run(|| Ok(services::read_fleetspeak(&std::fs::read_to_string(path)?)?))?;
        specs.extend(read.services);
    }
    let kind = |spec: &ServiceSpec| match spec.kind {
        ServiceKind::Grpc { .. } => "grpc",
        ServiceKind::Noop => "noop",
        ServiceKind::Spool { .. } => "spool",
    };
    let built_in = [system::SERVICE, system::MUSTER].map(|name| (name.to_owned(), "built-in"));
    let shown = built_in.into_iter().chain(specs.iter().map(|spec| (spec.name.clone(), kind(spec)))).collect();
    let step = Step("set up the services".into());
    Ok((services::factory(&specs, clock).map_err(|error| step.failed(error))?, shown))
}

fn spec(service: &config::Service) -> ServiceSpec {
    let kind = match service.kind {
        config::ServiceKind::Noop => ServiceKind::Noop,
        config::ServiceKind::Spool => ServiceKind::Spool { directory: path(service.directory.as_ref()) },
        config::ServiceKind::Grpc => ServiceKind::Grpc {
            target: service.target.clone().unwrap_or_default(),
            security: match &service.cert_file {
                Some(authority) => GrpcSecurity::Tls { authority: authority.clone() },
                None => GrpcSecurity::Insecure,
            },
        },
    };
    ServiceSpec { name: service.name.clone(), parallelism: service.parallelism, kind }
}

/// A path that the check of the configuration has found to be there.
fn path(path: Option<&PathBuf>) -> PathBuf {
    path.cloned().unwrap_or_default()
}

/// Reads a label that is an expression; the check of the configuration has found that it can be read.
fn pattern(label: &str) -> Option<LabelPattern> {
    LabelPattern::parse(label.strip_prefix(LabelPattern::PREFIX)?).ok()
}

/// What the engine is told.
pub(super) fn engine_config(config: &Config, wake_url: String) -> EngineConfig {
    EngineConfig {
        enrolment: match config.enrolment.policy {
            Policy::Open => EnrolmentPolicy::Open,
            Policy::Token => EnrolmentPolicy::Token,
            Policy::Label => EnrolmentPolicy::Label,
            Policy::Approval => EnrolmentPolicy::Approval,
            Policy::Closed => EnrolmentPolicy::Closed,
        },
        enrolment_labels: config.enrolment.labels.iter().cloned().collect(),
        enrolment_label_patterns: config.enrolment.labels.iter().filter_map(|label| pattern(label)).collect(),
        enrolments_per_minute: config.enrolment.per_minute,
        required_label: config.enrolment.required_label.clone(),
        agent_messages_per_second: config.limits.agent_messages_per_second,
        wake_url,
        stream_life: config.limits.stream_life.0,
        message_life: config.limits.message_life.0,
        contact_retention: config.retention.contacts.0,
        message_retention: config.retention.messages.0,
        agent_times: AgentTimes::of(config.fleet.heartbeat.0, config.fleet.timeout.0),
        statistics_every: config.fleet.statistics.0,
        command_retention: config.retention.commands.0,
        result_retention: config.retention.results.0,
        session_retention: config.retention.sessions.0,
        statistics_retention: config.retention.statistics.0,
        ..EngineConfig::default()
    }
}

/// Puts an engine together whose database knows this server's times.
pub(super) async fn engine(
    store: Arc<dyn Store>,
    outside: Outside,
    config: EngineConfig,
    services: Vec<Arc<dyn Service>>,
) -> Result<Engine, ServeError> {
    let engine = Engine::new(store, outside, config, services);
    let applied = engine.agent_times_apply().await;
    applied.map_err(|error| Step("keep the times after which agents are idle and offline".into()).failed(error))?;
    Ok(engine)
}

/// Where other servers reach this one.
pub(super) fn wake_url(config: &Config, addresses: &super::Addresses) -> String {
    if let Some(url) = &config.cluster.wake_url {
        return url.clone();
    }
    let agents = addresses.agents.filter(|_| config.is_woken_at_agents_door());
    match (addresses.cluster, agents) {
        (Some(bound), _) => format!("http://{bound}/"),
        (None, Some(bound)) => format!("https://{}/", reachable(bound)),
        (None, None) => String::new(),
    }
}

/// The address under which others reach a door: where it listens everywhere, the one that this machine reaches them from.
fn reachable(bound: SocketAddr) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    // A door on all IPv6 addresses takes IPv4 too.
    let mut outward = pki::outward_addresses().filter(|address| bound.is_ipv6() || address.is_ipv4());
    SocketAddr::new(outward.next().unwrap_or(Ipv4Addr::LOCALHOST.into()), bound.port())
}

/// Reads the certificate of a door that has its own.
pub(super) fn file_certificate(
    door: &str,
    certificate: Option<&PathBuf>,
    key: Option<&PathBuf>,
) -> Result<Option<FileCertificate>, ServeError> {
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
    let files = CertificateFiles { certificate: certificate.clone(), key: key.clone(), authority: None };
    let step = Step(format!("read the certificate of {door}"));
    FileCertificate::open(files).map(Some).map_err(|error| step.failed(error))
}

/// The TLS settings of the operators' door.
pub(super) fn operators_tls(certificate: Arc<dyn ResolvesServerCert>) -> Arc<rustls::ServerConfig> {
    let mut config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider speaks both versions")
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Reads the authority of the admin door's clients.
pub(super) fn client_authority(path: Option<&PathBuf>) -> Result<Option<String>, ServeError> {
    let Some(path) = path else { return Ok(None) };
    let step = Step(format!("read the client authority {}", path.display()));
    step.run(|| {
        let text = std::fs::read_to_string(path)?;
        if text.contains("BEGIN CERTIFICATE") { Ok(Some(text)) } else { Err(anyhow!("it holds no certificate")) }
    })
}

/// Makes sure that TLS has its one provider of cryptography in this process.
pub(super) fn cryptography() {
    // The only error is that another part of the process was first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Writes where the doors are, for programs on this machine.
pub(super) fn addresses_write(data: &Path, addresses: &super::Addresses) -> Result<(), ServeError> {
    let step = Step(format!("write {}", data.join(super::ADDRESSES).display()));
    step.run(|| {
        let text = serde_json::to_string(addresses).context("the addresses")?;
        let path = data.join(super::ADDRESSES);
        Ok(crate::private_file::write(&path, (text + "\n").as_bytes(), crate::private_file::Readers::All)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_data_directory_is_private_and_one_servers() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("a/b");
        let lock = data_directory(&data).unwrap();
        assert_eq!(mode(&data), 0o700);
        let error = data_directory(&data).unwrap_err();
        assert!(crate::observe::Chain(&error).to_string().contains("another server uses it"));
        drop(lock);
        std::fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
        data_directory(&data).unwrap();
        assert_eq!(mode(&data), 0o700);
    }

    #[test]
    fn other_servers_wake_this_one_where_they_can_reach_and_trust_it() {
        let url = |text: &str, agents: &str, cluster: Option<&str>| {
            let text = format!("database = \"postgresql://db/muster\"\n{text}");
            let config = Config::from_parts(&text, "test.toml", [], &config::Overrides::default()).unwrap();
            let is_opened = config.cluster_listen() != config::Listen::Off;
            let addresses = super::super::Addresses {
                agents: Some(agents.parse().unwrap()),
                operators: None,
                operators_url: None,
                operators_certificate: None,
                admin: None,
                cluster: cluster.map(|address| address.parse().unwrap()),
            };
            (wake_url(&config, &addresses), is_opened)
        };
        let own = |url: &str| (url.to_owned(), true);
        let agents_door = |url: &str| (url.to_owned(), false);
        assert_eq!(url("", "10.0.0.7:4443", None), agents_door("https://10.0.0.7:4443/"));
        assert_eq!(url("", "[::1]:4443", None), agents_door("https://[::1]:4443/"));
        let (everywhere, _) = url("", "0.0.0.0:4443", None);
        assert!(everywhere.starts_with("https://") && everywhere.ends_with(":4443/"), "{everywhere}");
        assert!(!everywhere.contains("0.0.0.0"), "{everywhere}");
        let proxied = "[agents]\nproxy_protocol = true\n";
        assert_eq!(url(proxied, "0.0.0.0:1", Some("127.0.0.1:2")), own("http://127.0.0.1:2/"));
        let files = "[agents]\ncertificate = \"/a\"\nkey = \"/b\"\n";
        assert_eq!(url(files, "0.0.0.0:1", Some("127.0.0.1:2")), own("http://127.0.0.1:2/"));
        let door = "[cluster]\naddress = \"10.0.0.7:4444\"\n";
        assert_eq!(url(door, "0.0.0.0:1", Some("10.0.0.7:4444")), own("http://10.0.0.7:4444/"));
        let named = "[cluster]\nwake_url = \"https://one.example:4443/\"\n";
        assert_eq!(url(named, "0.0.0.0:1", None), agents_door("https://one.example:4443/"));
    }

    #[test]
    fn a_directory_of_other_things_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        std::fs::write(root.path().join("thesis.txt"), "").unwrap();
        let error = data_directory(root.path()).unwrap_err();
        assert!(crate::observe::Chain(&error).to_string().contains("not Muster's"));
        assert_eq!(mode(root.path()), 0o755);
    }
}
