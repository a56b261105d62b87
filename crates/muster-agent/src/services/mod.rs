//! The services of this machine: what messages of the server are for, and who answers them.
//!
//! Definitions are the original's, so that existing ones work as they are. Three services are built in:
//! `system` (orders to the agent itself), `muster` (facts and echo) and `actions` (signed orders).

mod channel;
mod daemon;
mod definition;
mod environment;
mod link;
mod muster;
mod spawn;
mod stdin;
mod system;
#[path = "socket.rs"]
mod unix_socket;

pub(crate) use definition::{Definition, Found, Kind, definition_directories, read_definitions};
pub(crate) use environment::{Environment, environment};
pub(crate) use muster::{FactsTeller, Tell};
pub(crate) use system::{Order, restart_asked};

use crate::actions::Actions;
use crate::hub::Hub;
use crate::keys::Identity;
use crate::requests::RequestBook;
use muster_core::{Clock, system as words};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Shortest time between two starts of one daemon (as the original).
pub(crate) const RESPAWN_EVERY: Duration = Duration::from_mins(1);
/// How long a service may take to end in order.
const STOP_MAX: Duration = Duration::from_secs(10);

/// What the services that are built in work with.
pub(crate) type BuiltIn = (Arc<FactsTeller>, Arc<Actions>, Arc<RequestBook>);

/// What every service has.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Its name.
    pub(crate) name: String,
    /// Where messages come from and go to.
    pub(crate) hub: Arc<Hub>,
    /// Who this machine is.
    pub(crate) identity: watch::Receiver<Arc<Identity>>,
    /// Cancelled when it shall end.
    pub(crate) stop: CancellationToken,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
    /// How long one command may run.
    pub(crate) stdin_timeout: Duration,
    /// What services have of the agent's environment.
    pub(crate) environment: Arc<Environment>,
    /// Shortest time between two starts of one daemon.
    pub(crate) respawn_every: Duration,
}

#[derive(Debug)]
struct Running {
    definition: Definition,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts and stops services.
#[derive(Debug)]
pub(crate) struct Services {
    context: Context,
    running: Mutex<BTreeMap<String, Running>>,
}

impl Services {
    /// Puts an empty set together. `context` is what each service gets a copy of.
    pub(crate) fn new(context: Context) -> Self {
        Self { context, running: Mutex::default() }
    }

    /// Starts the services that are built in.
    pub(crate) fn start_built_in(&self, orders: mpsc::Sender<Order>, (facts, actions, requests): BuiltIn) {
        tokio::spawn(actions.run(self.context.hub.install(words::ACTIONS)));
        let requests = (requests, self.context.identity.clone());
        tokio::spawn(system::run(self.context.hub.install(words::SERVICE), orders, requests));
        tokio::spawn(muster::run(self.context.hub.install(words::MUSTER), Arc::clone(&self.context.hub), facts));
    }

    /// Makes the running services those that are defined: stops what is gone or changed, starts what is new.
    pub(crate) async fn apply(&self, definitions: Vec<Definition>, labels: &[String]) {
        let mut wanted = BTreeMap::new();
        for definition in definitions {
            if let Some(missing) = definition.required_labels.iter().find(|label| !labels.contains(label)) {
                tracing::info!(service = definition.name, label = missing, "a service is left out for want of a label");
                continue;
            }
            if wanted.contains_key(&definition.name) {
                tracing::error!(service = definition.name, "a service is defined twice; the first definition counts");
                continue;
            }
            wanted.insert(definition.name.clone(), definition);
        }
        let gone: Vec<String> = {
            let running = self.running();
            let changed = running.iter().filter(|(name, running)| wanted.get(*name) != Some(&running.definition));
            changed.map(|(name, _)| name.clone()).collect()
        };
        for name in gone {
            self.stop(&name).await;
            self.context.hub.remove(&name);
        }
        for (name, definition) in wanted {
            if !self.running().contains_key(&name) {
                self.start(definition);
            }
        }
    }

    /// Whether a service of this name runs that was not built in.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.running().contains_key(name)
    }

    /// Stops and starts a service. Returns whether there is one of this name.
    pub(crate) async fn restart(&self, name: &str) -> bool {
        let Some(definition) = self.stop(name).await else { return false };
        self.start(definition);
        true
    }

    /// Returns the signature that came with each running service's definition, by name; empty for unsigned ones.
    pub(crate) fn signatures(&self) -> BTreeMap<String, bytes::Bytes> {
        let signature = |running: &Running| running.definition.signature.clone();
        self.running().iter().map(|(name, running)| (name.clone(), signature(running))).collect()
    }

    /// Stops all services, each in its own time but all at once.
    pub(crate) async fn stop_all(&self) {
        let names: Vec<String> = self.running().keys().cloned().collect();
        futures_util::future::join_all(names.iter().map(|name| self.stop(name))).await;
    }

    fn start(&self, definition: Definition) {
        let name = definition.name.clone();
        let stop = self.context.stop.child_token();
        let context = Context { name: name.clone(), stop: stop.clone(), ..self.context.clone() };
        let inbox = context.hub.install(&name);
        let task = match definition.kind.clone() {
            Kind::Noop => tokio::spawn(run_noop(inbox, context)),
            Kind::Stdin(config) => tokio::spawn(stdin::run(config, inbox, context)),
            Kind::Daemon(config) => tokio::spawn(daemon::run(config, inbox, context)),
            Kind::Socket(config) => tokio::spawn(unix_socket::run(config, inbox, context)),
        };
        tracing::info!(service = name, "service started");
        if let Some(warning) = definition.warning() {
            tracing::warn!(service = name, "{warning}");
        }
        self.running().insert(name, Running { definition, stop, task });
    }

    async fn stop(&self, name: &str) -> Option<Definition> {
        let mut running = self.running().remove(name)?;
        running.stop.cancel();
        if tokio::time::timeout(STOP_MAX, &mut running.task).await.is_err() {
            tracing::warn!(service = name, "a service did not end in time and was cut off");
            running.task.abort();
        }
        Some(running.definition)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run_noop(mut inbox: mpsc::Receiver<crate::hub::Delivery>, context: Context) {
    loop {
        tokio::select! {
            delivery = inbox.recv() => match delivery {
                Some(delivery) => delivery.done(),
                None => return,
            },
            () = context.stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
pub(crate) mod tests;
