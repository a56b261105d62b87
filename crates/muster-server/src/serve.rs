//! A server's life: everything is put together here, in one flat list, and taken apart again at the end.
//!
//! Stays true: nothing is announced before every door is open; a start that fails says at which step and why; after a
//! failure to write durably, the process ends instead of acknowledging anything more.

mod admin_socket;
mod reload;
mod setup;
mod spool;

use self::reload::Reload;
use crate::admin;
use crate::auth::Gate;
use crate::codec::WireCodec;
use crate::config::Config;
use crate::doctor::Doctor;
use crate::listener_certificates::{FileCertificate, ListenerCertificates};
use crate::observe;
use crate::pki::{self, CertificateFiles, Certificates, PkiOptions};
use crate::rest::door::Door as OperatorsDoor;
use crate::rest::{self, Health, Rest};
use crate::transport::{self, HttpWaker, Listener};
use crate::world::{SystemClock, SystemRandom};
use anyhow::anyhow;
use muster_core::{Clock, limits};
use muster_engine::{Engine, Outside, Random};
use muster_store::{SqlStore, Store};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// The file of the data directory that names the addresses of a running server.
pub const ADDRESSES: &str = "addresses.json";
/// How often the certificate's age is looked at.
const RENEWAL_CHECK: Duration = Duration::from_hours(1);
/// How often old figures are folded away.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long a server that failed lets things end: nothing can be acknowledged any more, so there is little to wait for.
const FAILED_DRAIN: Duration = Duration::from_millis(500);

/// Why a server did not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[error("could not {doing}")]
pub struct ServeError {
    /// What was tried.
    pub doing: String,
    /// Why it failed.
    #[source]
    pub source: anyhow::Error,
}

/// A step of the start, for the error that it may end in.
struct Step(String);

impl Step {
    fn failed(self, source: impl Into<anyhow::Error>) -> ServeError {
        ServeError { doing: self.0, source: source.into() }
    }

    fn run<T>(self, work: impl FnOnce() -> anyhow::Result<T>) -> Result<T, ServeError> {
        work().map_err(|error| self.failed(error))
    }
}

/// Where the doors of a server are; `None` for one that is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The agents' door.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agents: Option<SocketAddr>,
    /// The operators' door.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operators: Option<SocketAddr>,
    /// How to reach the operators' door under a name that its certificate has; only when it speaks TLS.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operators_url: Option<String>,
    /// The file of that certificate, when it is not of the server's own authority.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operators_certificate: Option<PathBuf>,
    /// The admin door.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub admin: Option<SocketAddr>,
    /// The door for other servers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cluster: Option<SocketAddr>,
}

impl std::fmt::Display for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let doors =
            [("agents", self.agents), ("operators", self.operators), ("admin", self.admin), ("cluster", self.cluster)];
        let doors = doors.into_iter().filter_map(|(name, address)| Some(format!("{name} {}", address?)));
        f.write_str(&doors.collect::<Vec<_>>().join(", "))
    }
}

/// Runs a server until SIGTERM or SIGINT; returns once everything that was acknowledged is durable and every door is
/// closed, [`limits::DRAIN`] later at most. SIGHUP reads certificates and, by `read_again`, the configuration anew; of
/// that, the log level counts at once, and what else has changed is named in the log. The addresses that were bound
/// stand in `DATA/addresses.json` while it runs.
///
/// Needs a running tokio runtime. Starts log lines and the process-wide provider of cryptography, where there are none.
pub async fn run(config: Config, read_again: impl Fn() -> Result<Config, String>) -> Result<(), ServeError> {
    let logs = observe::logs_start(&config.logs);
    let logs = logs.map_err(|error| Step("start log lines".into()).failed(anyhow!(error)))?;
    let mut reload = Reload { logs, config: config.clone() };
    let handler = |kind| signal(kind).map_err(|error| Step("listen for signals".into()).failed(error));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    let mut hangup = handler(SignalKind::hangup())?;
    let mut server = Server::start(config).await?;
    // Outside of a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => {
                server.certificates_reload();
                reload.configuration(read_again());
            }
            failure = server.failed() => break Err(failure),
        }
    };
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    let patience = if ended.is_ok() { limits::DRAIN } else { FAILED_DRAIN };
    server.stop_within(patience).await;
    ended
}

/// A server that runs.
pub struct Server {
    addresses: Addresses,
    data: PathBuf,
    engine: Engine,
    store: SqlStore,
    waker: Arc<HttpWaker>,
    listener_certificates: Arc<ListenerCertificates>,
    running: Arc<AtomicBool>,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), ServeError>>,
    /// Holds the lock of the data directory.
    _lock: File,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// What the start has opened so far.
struct Opened {
    config: Arc<Config>,
    engine: Engine,
    certificates: Arc<Certificates>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    running: Arc<AtomicBool>,
    stop: CancellationToken,
    listener_certificates: Arc<ListenerCertificates>,
    tasks: JoinSet<Result<(), ServeError>>,
}

impl Server {
    /// Starts a server; it is ready when this returns.
    pub async fn start(config: Config) -> Result<Self, ServeError> {
        let config = Arc::new(config);
        let data = config.data.0.clone();
        let (clock, random): (Arc<dyn Clock>, Arc<dyn Random>) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        setup::cryptography();
        setup::files_raise();
        let lock = setup::data_directory(&data)?;
        setup::configured_files(&config)?;
        rest::copies_sweep(&data);
        let store = setup::store_open(&config).await?;
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        let certificates = certificates(&config, shared.as_ref(), &clock).await?;
        admin::token::ensure(&data, shared.as_ref(), random.as_ref(), clock.now())
            .await
            .map_err(|error| Step("make the first admin token".into()).failed(error))?;
        let listeners = Listeners::bind(&config).await?;
        let mut addresses = listeners.addresses()?;
        let wake_url = setup::wake_url(&config, &addresses);
        let (services, shown) = setup::services(&config, &clock)?;
        let authorities = [certificates.authority_pem(), certificates.trust_pem()];
        let waker = HttpWaker::new(Arc::clone(&clock), &authorities);
        let waker = Arc::new(waker.map_err(|error| Step("make wake-ups".into()).failed(error))?);
        let outside = Outside {
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
            codec: Arc::new(WireCodec),
            waker: Arc::clone(&waker) as _,
        };
        let engine = setup::engine(shared, outside, setup::engine_config(&config, wake_url), services).await?;
        waker.attach(engine.clone());
        let mut opened = Opened {
            config,
            engine: engine.clone(),
            certificates: Arc::clone(&certificates),
            clock,
            random,
            running: Arc::new(AtomicBool::new(true)),
            stop: CancellationToken::new(),
            listener_certificates: Arc::new(ListenerCertificates::new(certificates)),
            tasks: JoinSet::new(),
        };
        opened.engine_run();
        opened.doors(listeners, shown)?;
        opened.upkeep();
        opened.spool().await?;
        addresses.operators_url = opened.operators_url(addresses.operators)?;
        let certificate = opened.config.operators.certificate.as_ref().filter(|_| addresses.operators.is_some());
        addresses.operators_certificate = certificate.and_then(|path| std::path::absolute(path).ok());
        setup::addresses_write(&data, &addresses)?;
        info!("ready: {addresses}");
        let Opened { running, stop, listener_certificates, tasks, .. } = opened;
        Ok(Self { addresses, data, engine, store, waker, listener_certificates, running, stop, tasks, _lock: lock })
    }

    /// Where the doors are.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What is remembered, for tests that put something there.
    #[cfg(test)]
    pub(crate) fn store(&self) -> &SqlStore {
        &self.store
    }

    /// Waits until something fails that a server cannot go on without.
    pub async fn failed(&mut self) -> ServeError {
        let failure = tokio::select! {
            () = self.engine.broken() => Step("write durably".into()).failed(anyhow!(
                "the database failed to keep what it was given; start the server again when its disk is in order"
            )),
            reason = self.store.broken() => Step("write durably".into()).failed(anyhow!(reason)),
            Some(ended) = self.tasks.join_next() => ended_early(ended),
        };
        error!(error = %observe::Chain(&failure), "the server ends");
        failure
    }

    /// Reads certificates again; a listener whose files cannot be used keeps the one that it has, which is logged as an
    /// error and found by `muster doctor`.
    pub fn certificates_reload(&self) {
        if self.listener_certificates.reload() {
            info!("the certificates of all listeners were read again");
        } else {
            error!("not every certificate could be read again: `muster doctor` shows which, and why");
        }
    }

    /// Closes every door, lets what is under way finish, and returns, after [`limits::DRAIN`] at most.
    pub async fn stop(self) {
        self.stop_within(limits::DRAIN).await;
    }

    async fn stop_within(mut self, patience: Duration) {
        info!("stopping");
        self.running.store(false, Ordering::Relaxed);
        // Whoever looks for a server now shall not find this one.
        let _ = std::fs::remove_file(self.data.join(ADDRESSES));
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, ended).await.is_err() {
            warn!("not everything ended in time; what was not acknowledged falls due again");
        }
        self.tasks.shutdown().await;
        self.waker.detach();
        info!("stopped");
    }
}

/// Words the end of a task that should have gone on.
fn ended_early(ended: Result<Result<(), ServeError>, tokio::task::JoinError>) -> ServeError {
    match ended {
        Ok(Err(failure)) => failure,
        Ok(Ok(())) => Step("keep every door open".into()).failed(anyhow!("one ended before it was told to")),
        Err(panic) => Step("keep every door open".into()).failed(panic),
    }
}

/// Doors that are bound and do not answer yet.
struct Listeners {
    agents: Option<tokio::net::TcpListener>,
    operators: Option<tokio::net::TcpListener>,
    admin: Option<tokio::net::TcpListener>,
    admin_socket: Option<tokio::net::UnixListener>,
    cluster: Option<tokio::net::TcpListener>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, ServeError> {
        let one = async |door: &str, listen: crate::config::Listen| match listen.address() {
            Some(address) => setup::bind(door, address).await.map(Some),
            None => Ok(None),
        };
        Ok(Self {
            agents: one("the agents' door", config.agents.address).await?,
            operators: one("the operators' door", config.operators.address).await?,
            admin: one("the admin door", config.admin.address).await?,
            admin_socket: admin_socket::open(&config.admin)?,
            cluster: one("the door for other servers", config.cluster_listen()).await?,
        })
    }

    fn addresses(&self) -> Result<Addresses, ServeError> {
        let of = |listener: &Option<tokio::net::TcpListener>| {
            let address = listener.as_ref().map(tokio::net::TcpListener::local_addr).transpose();
            address.map_err(|error| Step("find out where a door is".into()).failed(error))
        };
        Ok(Addresses {
            agents: of(&self.agents)?,
            operators: of(&self.operators)?,
            operators_url: None,
            operators_certificate: None,
            admin: of(&self.admin)?,
            cluster: of(&self.cluster)?,
        })
    }
}

async fn certificates(
    config: &Config,
    store: &dyn Store,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<Certificates>, ServeError> {
    let agents = &config.agents;
    let files = agents.certificate.clone().zip(agents.key.clone());
    // Other servers may come to this very address.
    let bound = agents.address.address().filter(|address| !address.ip().is_unspecified());
    let options = PkiOptions {
        data: config.data.0.clone(),
        names: agents.names.iter().cloned().chain(bound.map(|address| address.ip().to_string())).collect(),
        life: pki::CERTIFICATE_LIFE,
        files: files.map(|(certificate, key)| CertificateFiles {
            certificate,
            key,
            authority: agents.authority.clone(),
        }),
    };
    let opened = Certificates::open(store, &options, Arc::clone(clock)).await;
    opened.map(Arc::new).map_err(|error| Step("make the server's certificate".into()).failed(error))
}

impl Opened {
    fn engine_run(&mut self) {
        let (engine, stop) = (self.engine.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            engine.run(stop).await;
            Ok(())
        });
    }

    /// Lets every door answer.
    fn doors(&mut self, listeners: Listeners, shown: setup::Shown) -> Result<(), ServeError> {
        let tls = Arc::new(crate::tls::agents_config(self.certificates.slot()));
        if let Some(listener) = listeners.agents {
            let step = Step("open the agents' door".into());
            let options = transport::Options::of(&self.config.agents).map_err(|error| step.failed(error))?;
            self.agents_door(listener, options, Arc::clone(&tls));
        }
        if let Some(listener) = listeners.cluster {
            self.agents_door(listener, transport::Options::wakeups(), tls);
        }
        if listeners.admin.is_some() || listeners.admin_socket.is_some() {
            self.admin_door(listeners.admin, listeners.admin_socket)?;
        }
        if let Some(listener) = listeners.operators {
            let operators = &self.config.operators;
            let own =
                setup::file_certificate("the operators' door", operators.certificate.as_ref(), operators.key.as_ref())?;
            // Without one of its own, TLS uses the certificate of this server's authority, which is renewed by itself.
            let authoritys = operators.tls.then(|| self.certificates.slot());
            let slot = own.as_ref().map(FileCertificate::slot).or(authoritys);
            let tls = slot.map(|slot| setup::operators_tls(slot));
            if let Some(own) = own {
                self.listener_certificates.add("operators", own);
            }
            let door = OperatorsDoor { listener, tls, router: self.rest(shown).router() };
            let stop = self.stop.clone();
            self.tasks.spawn(async move {
                door.serve(stop).await;
                Ok(())
            });
        }
        Ok(())
    }

    /// How programs on this machine reach an operators' door with TLS.
    fn operators_url(&self, bound: Option<SocketAddr>) -> Result<Option<String>, ServeError> {
        let Some(bound) = bound else { return Ok(None) };
        let names = match &self.config.operators.certificate {
            Some(path) => {
                let step = Step(format!("read the names in the certificate {}", path.display()));
                pki::file_names(path).map_err(|error| step.failed(error))?
            }
            None if self.config.operators.tls => vec!["localhost".to_owned()],
            None => return Ok(None),
        };
        let name = names.into_iter().find(|name| !name.starts_with('*'));
        let url = |name: String| {
            format!("https://{}:{}", if name.contains(':') { format!("[{name}]") } else { name }, bound.port())
        };
        Ok(name.map(url))
    }

    fn agents_door(
        &mut self,
        listener: tokio::net::TcpListener,
        options: transport::Options,
        tls: Arc<rustls::ServerConfig>,
    ) {
        let door = transport::Door::new(self.engine.clone(), options, tls, self.stop.clone());
        self.tasks.spawn(async move {
            door.serve(Listener::Tcp(listener)).await;
            Ok(())
        });
    }

    fn rest(&self, services: setup::Shown) -> Rest {
        let (dates, names) = (Arc::clone(&self.certificates), Arc::clone(&self.certificates));
        let presented = Arc::clone(&self.listener_certificates);
        let has_door = self.config.agents.address.address().is_some();
        Rest::new(rest::Parts {
            engine: self.engine.clone(),
            clock: Arc::clone(&self.clock),
            random: Arc::clone(&self.random),
            config: Arc::clone(&self.config),
            services,
            metrics: observe::metrics_start(),
            health: Health {
                running: Arc::clone(&self.running),
                certificate: Arc::new(move || {
                    let present = has_door.then(|| dates.present());
                    present.map(|present| (present.not_before, present.not_after))
                }),
                presented: Arc::new(move || presented.presented()),
            },
            trust_pem: self.certificates.trust_pem().to_owned(),
            started: self.engine.started(),
            doctor: Doctor { certificate_names: Arc::new(move || names.present().names) },
            gate: Gate::new(self.config.limits.wrong_tokens_per_minute),
            backup: tokio::sync::Mutex::new(()),
        })
    }

    /// What happens now and then: certificates are renewed or read again, figures folded.
    fn upkeep(&mut self) {
        let (certificates, stop) = (Arc::clone(&self.listener_certificates), self.stop.clone());
        let metrics = observe::metrics_start();
        self.tasks.spawn(async move {
            let (mut renewal, mut fold) = (tokio::time::interval(RENEWAL_CHECK), tokio::time::interval(UPKEEP));
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    _ = fold.tick() => metrics.run_upkeep(),
                    _ = renewal.tick() => { certificates.reload(); }
                }
            }
        });
    }
}
