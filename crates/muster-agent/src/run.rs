//! The program while it runs: everything is put together here, and taken apart in order.

use crate::actions::ledger::OrderLedger;
use crate::actions::status::Remembered;
use crate::actions::{Actions, Asked, Believed, Runner, page, read_catalogue, status};
use crate::chain::Chain;
use crate::comms::{Dialer, Introducer, Link, claimed_labels};
use crate::config::{Config, Proxy};
use crate::hub::{Hub, Mail, Wait, ack_mail, any};
use crate::ids::IdsError;
use crate::keys::{self, Identity, KeyError};
use crate::ledger::Ledger;
use crate::module_doctor;
use crate::outbox::{Durability, Outbox};
use crate::pinned::PinnedVerifier;
use crate::pins::read_pins;
use crate::presence::Presence;
use crate::requests::RequestBook;
use crate::rest::{self, Rest, Woken};
use crate::revocations::Revocations;
use crate::revoked::{Revoked, RevokedList};
use crate::services::{
    self, Context, FactsTeller, Found, Order, RESPAWN_EVERY, Services, Tell, read_definitions, restart_asked,
};
use crate::spool::{Spool, SpoolLimits};
use crate::standing::StandingBook;
use crate::state::StateFile;
use crate::vouched::Vouched;
use crate::why::Why;
use crate::world::Random;
use crate::{facts, private, usage};
use anyhow::Context as _;
use muster_core::{Clock, Facts, Priority, handover, label, system};
use muster_modules::foreign::Catalogue;
use muster_proto::wire;
use std::fs::File;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long the demand for a new key waits to be acknowledged under the old one.
const REKEY_ACK_MAX: Duration = Duration::from_secs(30);
/// How long the last words to the server may take at the end.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// Everything that lives as long as the program does.
struct Agent {
    hub: Arc<Hub>,
    services: Arc<Services>,
    facts: Arc<FactsTeller>,
    actions: Arc<Actions>,
    requests: Arc<RequestBook>,
    identity: watch::Sender<Arc<Identity>>,
    stop_services: CancellationToken,
    stop_link: CancellationToken,
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    /// Held so that no second agent works in the same directory.
    _lock: File,
}

/// Runs the agent until a signal or a server ends it. `reread` gives the configuration as it is now.
pub(crate) async fn run(
    config: Config,
    presence: Presence,
    clock: Arc<dyn Clock>,
    random: Arc<Random>,
    reread: impl Fn() -> anyhow::Result<Config>,
) -> anyhow::Result<ExitCode> {
    let config = Arc::new(config);
    // A process may ask for the signals only once; a service started by them must not miss one.
    let mut ends = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let mut reload = signal(SignalKind::hangup())?;
    let lock = private::take(&config.state_dir)?;
    if let Some(left) = Rest::left(&config.state_dir, clock.now()) {
        if presence == Presence::CheckIn {
            tracing::warn!("{}", left.says());
            return Ok(ExitCode::SUCCESS);
        }
        notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&left.says())]);
        if rest::wait(&config.state_dir, &*clock, &mut ends, &mut reload).await == Woken::Signal {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let (agent, link, unknown) = prepare(&config, presence, (clock, random), lock)?;
    let (orders, mut ordered) = mpsc::channel(16);
    let built_in = (Arc::clone(&agent.facts), Arc::clone(&agent.actions), Arc::clone(&agent.requests));
    agent.services.start_built_in(orders, built_in);
    agent.start_background(presence);
    agent.hub.report_unknown(unknown).await;
    agent.apply_services(&config).await;
    agent.say_who_we_are().await;
    agent.facts.tell(Tell::Always).await;

    let standing = Arc::clone(&link.standing);
    let mut link_task = tokio::spawn(async move {
        match presence {
            Presence::Daemon => {
                link.run().await;
                Ok(())
            }
            Presence::CheckIn => link.check_in().await,
        }
    });
    notify(&[sd_notify::NotifyState::Ready]);
    let id = agent.identity.borrow().id;
    tracing::info!(agent = %id, version = env!("CARGO_PKG_VERSION"), "agent {id} is running");
    let why = tokio::select! {
        why = agent.take_orders(&mut ordered, &mut ends, &mut reload, reread) => why,
        called = Why::of_whole_call(&mut link_task, || standing.latest()), if presence == Presence::CheckIn => {
            called.context("calling the server broke off")?
        }
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    Ok(agent.end(why.when(presence), &mut link_task).await)
}

/// Opens everything on the disk and puts the parts together. `lock` is that of the state directory.
fn prepare(
    config: &Arc<Config>,
    presence: Presence,
    (clock, random): (Arc<dyn Clock>, Arc<Random>),
    lock: File,
) -> anyhow::Result<(Agent, Link, Vec<crate::ledger::LedgerId>)> {
    let directory = config.state_dir.as_path();
    let state = Arc::new(StateFile::open(&directory.join("state.json")).context("cannot read the state file")?);
    let revoked: Revoked = Arc::new(RwLock::new(RevokedList::load(directory)));
    let vouched = Arc::new(Vouched::default());
    let believed = Believed::load(config, &status::documents_path(config));
    believed.log_problems();
    let for_good = Revocations::new(Arc::clone(&believed.revocations));
    let dialer = dialer_of(config, (&revoked, &for_good), &vouched, &clock)?;
    let recovered = keys::recover(directory)?;
    let now = clock.now();
    let orders = OrderLedger::open(&status::ledger_path(config), recovered.is_some(), now);
    let orders = orders.and_then(|orders| orders.vouched(vouched.certified())).inspect_err(|error| {
        tracing::error!(error = %Chain(error), "every order is refused until the ledger of orders can be used");
    });
    let identity = keys::or_make(recovered, directory)?;

    let limits = SpoolLimits { bytes_max: config.spool_bytes_max, messages_max: config.spool_messages_max };
    let spool = Spool::open(&directory.join("spool"), limits, Arc::clone(&random))?;
    let outbox = Outbox::start(spool, Arc::clone(&clock), Arc::clone(&random)).context("cannot start the spool")?;
    let (ledger, unknown) = Ledger::open(&directory.join("ledger")).context("cannot read the ledger")?;
    let hub = Hub::new(ledger, outbox, Arc::clone(&clock));

    let (identity, identity_seen) = watch::channel(Arc::new(identity));
    let (stop_services, stop_link) = (CancellationToken::new(), CancellationToken::new());
    let services = services_of(config, &hub, &identity_seen, &stop_services, &clock);
    let requests = Arc::new(RequestBook::open(directory, config.server_may.clone(), Arc::clone(&clock)));
    requests.recover(identity_seen.borrow().id);
    let catalogue = catalogue_of(config)?;
    let observer = facts::Observer::new(Arc::clone(&clock)).knowing(of_ourselves(config, presence, &catalogue));
    let runner = Runner::new(catalogue, config.module_timeout.0).private(config.extra_privacy_mode);
    let old = keys::old(directory).map(|(old, since)| (Arc::new(old), since));
    let (labels, state_dir, fleet) = (claimed_labels(&config.labels), directory.to_owned(), config.fleet.clone());
    let asked = Asked { identity: identity_seen.clone(), old, state_dir, labels, fleet };
    let world = (Arc::clone(&clock), observer.clone(), vouched, Arc::clone(&for_good));
    let actions = Actions::new(Arc::clone(&hub), world, runner, asked, (believed, orders.ok()));
    let facts = Arc::new(FactsTeller::new(Arc::clone(&hub), observer.clone()));
    let link = Link {
        config: Arc::clone(config),
        identity: identity_seen,
        hub: Arc::clone(&hub),
        state,
        revoked,
        for_good,
        standing: Arc::new(StandingBook::open(directory, Arc::clone(&clock))),
        dialer,
        clock,
        random,
        stop: stop_link.clone(),
        introducer: Introducer::new(directory, &observer, identity.clone()),
        plain_polls: AtomicBool::new(false),
    };
    let config = Arc::clone(config);
    let clock = Arc::clone(&link.clock);
    let agent = Agent {
        hub,
        services,
        facts,
        actions,
        requests,
        identity,
        stop_services,
        stop_link,
        config,
        clock,
        _lock: lock,
    };
    Ok((agent, link, unknown))
}

/// Puts together what reaches servers, and trusts none but the pinned ones.
fn dialer_of(
    config: &Config,
    (revoked, for_good): (&Revoked, &Arc<Revocations>),
    vouched: &Arc<Vouched>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Dialer> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let pins = read_pins(&config.trusted_pem()?)?;
    let verifier = PinnedVerifier::new(pins, &provider, Arc::clone(revoked))?.vouching(Arc::clone(vouched));
    let verifier = verifier.heeding(Arc::clone(for_good));
    Ok(Dialer::new(config, verifier, Arc::clone(clock)))
}

/// Puts together what runs services.
fn services_of(
    config: &Config,
    hub: &Arc<Hub>,
    identity: &watch::Receiver<Arc<Identity>>,
    stop: &CancellationToken,
    clock: &Arc<dyn Clock>,
) -> Arc<Services> {
    Arc::new(Services::new(Context {
        name: String::new(),
        hub: Arc::clone(hub),
        identity: identity.clone(),
        stop: stop.clone(),
        clock: Arc::clone(clock),
        stdin_timeout: config.stdin_timeout.0,
        environment: Arc::new(services::environment(&config.services_environment)),
        respawn_every: RESPAWN_EVERY,
    }))
}

/// Reads which modules there are, and says what keeps them from running.
fn catalogue_of(config: &Config) -> anyhow::Result<Catalogue> {
    let users = config.module_users.parse().map_err(anyhow::Error::from)?;
    let catalogue = read_catalogue(&config.modules_file)?.with_users(users);
    module_doctor::log(&catalogue);
    Ok(catalogue)
}

/// What the program knows of itself.
fn of_ourselves(config: &Config, presence: Presence, catalogue: &Catalogue) -> Facts {
    let pid = i32::try_from(std::process::id()).unwrap_or_default();
    let mut facts = Facts::from([
        ("agent_mode".to_owned(), presence.word().into()),
        (handover::VOUCHES.to_owned(), true.into()),
        ("agent_pid".to_owned(), pid.into()),
        ("agent_modules".to_owned(), catalogue.names().into()),
    ]);
    if let Some(started) = usage::started(pid) {
        let started = muster_core::Timestamp::from_secs(started.to_parts().0);
        facts.insert("agent_start_time".to_owned(), started.to_string().into());
    }
    if !config.fleet.is_empty() {
        facts.insert("agent_fleet".to_owned(), config.fleet.as_str().into());
    }
    if let Ok(Some(proxy)) = Proxy::read(&config.proxy) {
        facts.insert("agent_proxy".to_owned(), format!("http://{}", proxy.address).into());
    }
    facts
}

/// Takes the state directory for this process alone.
/// Makes the ledger of orders believe the clock as it is `now`. The agent must not run meanwhile.
pub(crate) fn reset_clock(config: &Config, now: muster_core::Timestamp) -> anyhow::Result<Remembered> {
    let _lock = private::lock(&config.state_dir)?;
    let path = status::ledger_path(config);
    anyhow::ensure!(path.exists(), "there is no ledger of orders {} yet: nothing is remembered", path.display());
    let mut orders = OrderLedger::open(&path, true, now)?;
    orders.reset_clock(now).with_context(|| format!("cannot write {}", path.display()))?;
    Remembered::read(config, now)
}

impl Agent {
    /// Starts what runs beside services and connection. It ends with the runtime.
    fn start_background(&self, presence: Presence) {
        let (hub, clock) = (Arc::clone(&self.hub), Arc::clone(&self.clock));
        tokio::spawn(async move { hub.acknowledge_forever().await });
        tokio::spawn(usage::report_self_forever(Arc::clone(&self.hub), clock));
        let page = self.config.status_page_address().filter(|_| presence == Presence::Daemon);
        if let Some(address) = page {
            tokio::spawn(page::serve(address, Arc::clone(&self.config)));
        }
        let (facts, every) = (Arc::clone(&self.facts), self.config.facts_every.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                facts.tell(Tell::WhenChanged).await;
            }
        });
    }

    async fn take_orders(
        &self,
        ordered: &mut mpsc::Receiver<Order>,
        ends: &mut [Signal; 2],
        reload: &mut Signal,
        reread: impl Fn() -> anyhow::Result<Config>,
    ) -> Why {
        let [terminate, interrupt] = ends;
        loop {
            tokio::select! {
                order = ordered.recv() => match order {
                    Some(Order::Die { force }) => return Why::Die { force },
                    Some(Order::Restart { name, answer }) => restart_asked(&self.services, &self.requests, name, answer),
                    Some(Order::Rekey(delivery)) => self.rekey(*delivery).await,
                    None => return Why::Signal,
                },
                _ = terminate.recv() => return Why::Signal,
                _ = interrupt.recv() => return Why::Signal,
                _ = reload.recv() => self.reload(&reread).await,
            }
        }
    }

    /// Ends everything in order, unless the server wants it at once. Returns what the program ends with.
    async fn end<T>(&self, why: Why, link_task: &mut JoinHandle<T>) -> ExitCode {
        if matches!(why, Why::Die { .. }) {
            self.begin_rest();
        }
        let code = why.code();
        if matches!(why, Why::Die { force: true }) {
            return code;
        }
        self.actions.stop_all().await;
        self.services.stop_all().await;
        self.stop_services.cancel();
        self.hub.flush_acks().await;
        self.stop_link.cancel();
        if !link_task.is_finished() && tokio::time::timeout(FAREWELL_MAX, &mut *link_task).await.is_err() {
            link_task.abort();
        }
        tracing::info!(unsent = self.hub.outbox().len(), "stopped; what is unsent is kept for the next start");
        code
    }

    /// Writes that the agent stays away, for whoever starts it again.
    fn begin_rest(&self) {
        if let Err(error) = Rest::begin(&self.config.state_dir, self.requests.absence(), self.clock.now()) {
            tracing::error!(%error, "cannot write that the agent stays away: it comes back as soon as it is started");
        }
    }

    /// Makes a new key. It is on the disk before the demand is acknowledged, which still happens under the old one.
    async fn rekey(&self, delivery: crate::hub::Delivery) {
        let directory = &self.config.state_dir;
        let asked = delivery.message.message_id.clone();
        let old = Arc::clone(&self.identity.borrow());
        if !self.requests.is_unfinished(&asked, old.id) {
            return delivery.done();
        }
        let next = match keys::make_next(directory, &old, (&asked, self.clock.now())) {
            Ok(next) => next,
            Err(error @ KeyError::Ids(IdsError::Full)) => return delivery.fail(&error.to_string()).await,
            Err(error) => {
                // Unsettled: the server asks again. Without its old key's word the new one may be refused.
                tracing::error!(error = %Chain(&error), "cannot make the new key that the server demands");
                return;
            }
        };
        self.requests.rekeyed(&asked, next.id);
        delivery.done_silently();
        let id = self.hub.outbox().new_id();
        let delivered = self.hub.outbox().delivery_of(id);
        let ack = Mail { id: Some(id), ..ack_mail(vec![asked], Wait::No) };
        if let Err(error) = self.hub.send(ack, Durability::Disk).await {
            tracing::warn!(%error, "the demand for a new key cannot be acknowledged");
        } else if tokio::time::timeout(REKEY_ACK_MAX, delivered).await.is_err() {
            // The new identity may say it too.
            tracing::warn!("the demand for a new key was not acknowledged in time under the old one");
        }
        if let Err(error) = keys::adopt_next(directory) {
            tracing::error!(error = %Chain(&error), "the new key takes over at the next start only");
            return;
        }
        tracing::warn!(old = %old.id, new = %next.id, "this machine has a new key and a new id, as the server demanded");
        self.identity.send_replace(Arc::new(next));
        self.say_who_we_are().await;
        self.facts.tell(Tell::Always).await;
        self.actions.tell_trust().await;
    }

    /// Reads the configuration again. Services follow at once; the rest counts from the next start on.
    async fn reload(&self, reread: &impl Fn() -> anyhow::Result<Config>) {
        let config = match reread() {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the configuration cannot be read again; nothing changes"
                );
                return;
            }
        };
        tracing::info!("configuration read again");
        let connection = |config: &Config| Config { services_dir: "".into(), ..config.clone() };
        if connection(&config) != connection(&self.config) {
            tracing::warn!("settings besides services changed; they count from the next start on");
        }
        self.actions.reload(&config).await;
        self.apply_services(&config).await;
        self.say_who_we_are().await;
        self.facts.tell(Tell::WhenChanged).await;
    }

    async fn apply_services(&self, config: &Config) {
        let mut found = Found::default();
        if !config.services_dir.as_os_str().is_empty() {
            found = read_definitions(&config.services_dir);
        }
        for error in &found.broken {
            tracing::error!("{}", Chain(error));
        }
        for path in &found.left_out {
            tracing::warn!("{} is left out: it looks like what an editor left behind", path.display());
        }
        self.services.apply(found.definitions, &claimed_labels(&config.labels)).await;
    }

    /// Tells the server the labels and services of this machine.
    async fn say_who_we_are(&self) {
        let labels = claimed_labels(&self.config.labels);
        let label = |text: String| wire::Label { service_name: label::CLIENT.into(), label: text };
        let mut signatures = self.services.signatures();
        let service = |name: String| {
            let signature = signatures.remove(&name).unwrap_or_default();
            wire::client_info_data::ServiceId { name, signature }
        };
        let data = wire::ClientInfoData {
            labels: labels.into_iter().map(label).collect(),
            services: self.hub.services().into_iter().map(service).collect(),
        };
        let mail = Mail {
            from: system::SERVICE.into(),
            to: system::SERVICE.into(),
            message_type: system::CLIENT_INFO.into(),
            data: Some(any("fleetspeak.ClientInfoData", &data)),
            priority: Priority::High,
            background: true,
            ..Mail::default()
        };
        self.hub.send_or_count(mail).await;
    }
}

/// Tells the service manager, if there is one.
fn notify(state: &[sd_notify::NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot tell the service manager");
    }
}
