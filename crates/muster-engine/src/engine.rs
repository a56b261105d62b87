//! The engine: one per server, shared by all doors.

use crate::access::{AccessDenied, Caller, Permission, TokenMemory};
use crate::actions::{ActionPreview, Actions, InvestigatorUpdate, NewInvestigator, TokenRefusal, TokenRules};
use crate::broadcasts::Broadcasts;
use crate::contact::{ContactFrom, Refusal};
use crate::disk::Disk;
use crate::dispatch::Dispatch;
use crate::gates::Gates;
use crate::jobs::Over;
use crate::mailbox::command_check;
use crate::registry::{Streams, wake};
use crate::stream::OpenStream;
use crate::targets::TargetChecked;
use crate::wakeups::Wakeups;
use crate::{EngineConfig, Outside, Service, WakeRefusal, WakeUp};
use muster_core::action::{ActionId, ActionStatus, InvestigatorId};
use muster_core::contact::{ContactAnswer, ContactData};
use muster_core::target::{Target, TargetError};
use muster_core::{AgentId, Broadcast, BroadcastId, Label, MessageId, ServerId, Timestamp, limits};
use muster_store::actions::{ActionTaken, CancelTaken, Spread};
use muster_store::investigators::{InvestigatorRow, TrustGroup};
use muster_store::targets::NamedTarget;
use muster_store::{ErrorKind, Store, StoreError};
use std::collections::HashSet;
use std::error::Error;
use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

/// Why an operator's request was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The request itself is wrong; the text says what and what to do.
    #[error("{0}")]
    Invalid(String),
    /// Whoever asked does not hold what it needs.
    #[error(transparent)]
    Denied(AccessDenied),
    /// A signature does not count: by whom it is, or over what.
    #[error("{0}")]
    Signature(String),
    /// What it is about is not there.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// The store failed.
    #[error("could not {doing}")]
    Store {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: StoreError,
    },
}

/// What the server does.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("server", &self.inner.server).finish_non_exhaustive()
    }
}

/// What all rooms of the engine share.
pub(crate) struct Inner {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) outside: Outside,
    pub(crate) config: EngineConfig,
    /// This run of this process.
    pub(crate) server: ServerId,
    pub(crate) started: Timestamp,
    /// What agents' rows say about streams held here: the wake-up URL, or [`LOCAL`] for a server alone.
    pub(crate) streaming_to: String,
    pub(crate) streams: Streams,
    pub(crate) gates: Gates,
    /// Agents that this server has seen lately, so that they are known or were.
    pub(crate) known: Mutex<HashSet<AgentId>>,
    pub(crate) tokens: TokenMemory,
    pub(crate) dispatch: Dispatch,
    pub(crate) disk: Disk,
    pub(crate) broadcasts: Broadcasts,
    pub(crate) actions: Actions,
    /// Bytes of memory for results that are unpacked.
    pub(crate) unpacking: Semaphore,
    pub(crate) wakeups: Wakeups,
    /// Streams that ended, on their way to the job that says so to the store.
    pub(crate) ended: mpsc::UnboundedSender<Over>,
    pub(crate) ended_waiting: Mutex<Option<mpsc::UnboundedReceiver<Over>>>,
    /// How many of them are on their way.
    pub(crate) ends_open: AtomicUsize,
    pub(crate) stopping: CancellationToken,
    broken: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// What stands for the wake-up URL of a server that no other needs to reach.
pub(crate) const LOCAL: &str = "local";

impl Inner {
    pub(crate) fn now(&self) -> Timestamp {
        self.outside.clock.now()
    }

    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.outside.random.fill(&mut bytes);
        bytes
    }

    pub(crate) fn message_id(&self, now: Timestamp) -> MessageId {
        MessageId::ordered(now, self.random())
    }

    /// Looks at every error of the store: after one that says that nothing can be written durably any more, the
    /// process has to end.
    pub(crate) fn saw(&self, failure: &StoreError) {
        if failure.kind() == ErrorKind::Broken && !self.broken.is_cancelled() {
            error!(error = %Chain(failure), "the database cannot write durably, this server has to end");
            self.broken.cancel();
        }
        if failure.kind() == ErrorKind::Full {
            self.disk_full_note(failure);
        }
    }

    /// Turns an error of the store into what an operator is told.
    pub(crate) fn operator_error(&self, doing: &'static str, failure: StoreError) -> OperatorError {
        self.saw(&failure);
        match failure.kind() {
            ErrorKind::NotFound => OperatorError::NotFound(failure.to_string()),
            ErrorKind::Exists | ErrorKind::Refused => OperatorError::Conflict(failure.to_string()),
            ErrorKind::Invalid => OperatorError::Invalid(failure.to_string()),
            _ => OperatorError::Store { doing, source: failure },
        }
    }
}

/// Locks, whatever became of the last holder: what is guarded here is whole after every statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error with all its causes, for one field of a log line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

impl Engine {
    /// The time, by the clock that the engine was given.
    pub fn now(&self) -> Timestamp {
        self.inner.now()
    }

    /// Puts an engine together. Nothing runs until [`Engine::run`].
    pub fn new(store: Arc<dyn Store>, outside: Outside, config: EngineConfig, services: Vec<Arc<dyn Service>>) -> Self {
        let mut server = [0; ServerId::BYTES];
        outside.random.fill(&mut server);
        let (ended, ended_waiting) = mpsc::unbounded_channel();
        let streaming_to = if config.wake_url.is_empty() { LOCAL } else { &config.wake_url }.to_owned();
        let inner = Inner {
            store,
            server: ServerId::from_bytes(server),
            started: outside.clock.now(),
            streaming_to,
            streams: Streams::default(),
            gates: Gates::new(config.agent_messages_per_second, config.enrolments_per_minute),
            known: Mutex::default(),
            tokens: TokenMemory::default(),
            dispatch: Dispatch::new(services),
            disk: Disk::default(),
            broadcasts: Broadcasts::default(),
            actions: Actions::default(),
            unpacking: Semaphore::new(limits::UNPACKED_BYTES_MAX),
            wakeups: Wakeups::default(),
            ended,
            ended_waiting: Mutex::new(Some(ended_waiting)),
            ends_open: AtomicUsize::new(0),
            stopping: CancellationToken::new(),
            broken: CancellationToken::new(),
            tasks: TaskTracker::new(),
            outside,
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The store, for reading what needs no rule (pages of agents, messages, broadcasts, files).
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// This run of this server.
    pub fn server(&self) -> ServerId {
        self.inner.server
    }

    /// When this server started, as other servers see it.
    pub fn started(&self) -> Timestamp {
        self.inner.started
    }

    /// Runs everything that happens without a request (dispatch, sweeps for lost wake-ups, broadcasts, retention,
    /// heartbeats) until `stop` resolves, then drains for at most [`muster_core::limits::DRAIN`]. To be called once.
    pub async fn run(&self, stop: CancellationToken) {
        self.inner.run(stop).await;
    }

    /// Counts how the fleet stands now. (The servers do so by themselves every
    /// [`EngineConfig::statistics_every`]; when another one is at it, nothing is done.)
    pub async fn fleet_count(&self) -> Result<(), StoreError> {
        self.inner.stats_note().await
    }

    /// Makes the times after which agents are idle and offline those of the configuration, for all servers.
    pub async fn agent_times_apply(&self) -> Result<(), StoreError> {
        self.inner.agent_times_apply().await
    }

    /// Resolves when the database cannot write durably any more: the process must end with an error, and recover when
    /// it starts again.
    pub async fn broken(&self) {
        self.inner.broken.cancelled().await;
    }

    /// Handles a poll.
    pub async fn contact_poll(&self, from: ContactFrom, data: ContactData) -> Result<ContactAnswer, Refusal> {
        self.inner.contact_poll(from, data).await
    }

    /// Handles the first record of a stream and registers it; an older stream of the same agent ends.
    pub async fn stream_open(&self, from: ContactFrom, data: ContactData) -> Result<OpenStream, Refusal> {
        self.inner.stream_open(from, data).await
    }

    /// Notes a contact that the edge refused before the engine saw it (no certificate, unreadable body).
    pub async fn refusal_note(&self, agent: Option<AgentId>, address: &str, refusal: &Refusal) {
        self.inner.refusal_note(agent, address, refusal).await;
    }

    /// Does what another server asks for: wakes streams that this server holds.
    pub fn wake_here(&self, what: &WakeUp) {
        match what {
            WakeUp::Messages(agents) => _ = self.inner.streams.wake(agents, wake::MESSAGES),
            WakeUp::Labels(agents) => {
                for stream in agents.iter().filter_map(|agent| self.inner.streams.get(*agent)) {
                    stream.broadcasts_again();
                }
            }
            WakeUp::Broadcasts => self.inner.broadcasts.look_again(),
        }
    }

    /// Checks a wake-up from another server that says it was `sent` then: its authenticator (HMAC-SHA256 with the
    /// cluster's secret, over this server's wake-up URL, a zero byte and `body`), its age, and that it did not come
    /// before.
    pub async fn wake_believe(&self, sent: Timestamp, body: &[u8], authenticator: &[u8]) -> Result<(), WakeRefusal> {
        self.inner.wake_believe(sent, body, authenticator).await
    }

    /// Makes the authenticator for a wake-up to the server at `url`.
    pub async fn wake_authenticator(&self, url: &str, body: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.inner.wake_authenticator(url, body).await
    }

    /// Makes a parked message wait again, for another [`EngineConfig::message_life`]. `false`: it is not parked.
    pub async fn message_unpark(&self, id: MessageId, caller: &Caller) -> Result<bool, OperatorError> {
        self.inner.message_unpark(id, caller.require(Permission::MessagesSend)?).await
    }

    /// Blocks an agent; its open stream learns of it within 5 s, on whichever server.
    pub async fn agent_block(&self, id: AgentId, caller: &Caller) -> Result<(), OperatorError> {
        self.inner.agent_block(id, caller.require(Permission::AgentsBlock)?).await
    }

    /// Takes a block back.
    pub async fn agent_unblock(&self, id: AgentId, caller: &Caller) -> Result<(), OperatorError> {
        self.inner.agent_unblock(id, caller.require(Permission::AgentsBlock)?).await
    }

    /// Approves an agent that waits, and asks it for its facts, because nothing of what it told so far was kept.
    pub async fn agent_approve(&self, id: AgentId, caller: &Caller) -> Result<(), OperatorError> {
        self.inner.agent_approve(id, caller.require(Permission::AgentsApprove)?).await
    }

    /// Deletes an agent and leaves a tombstone.
    pub async fn agent_delete(&self, id: AgentId, caller: &Caller) -> Result<(), OperatorError> {
        self.inner.agent_delete(id, caller.require(Permission::AgentsDelete)?).await
    }

    /// Gives an agent a label, and its stream the broadcasts that ask for it.
    pub async fn agent_label_put(&self, id: AgentId, label: Label, caller: &Caller) -> Result<(), OperatorError> {
        self.inner.agent_label_put(id, label, caller.require(Permission::LabelsWrite)?).await
    }

    /// Takes a label from an agent.
    pub async fn agent_label_delete(&self, id: AgentId, label: Label, caller: &Caller) -> Result<(), OperatorError> {
        self.inner.agent_label_delete(id, label, caller.require(Permission::LabelsWrite)?).await
    }

    /// Demands a new key of an agent that must have one, as Fleetspeak's blacklist does: until then it is given nothing
    /// else, and what it sends is flagged. A blocked one stays blocked.
    pub async fn agent_blacklist(&self, id: AgentId, caller: &Caller) -> Result<(), OperatorError> {
        self.inner.agent_blacklist(id, caller.require(Permission::AgentsRekey)?).await
    }

    /// Forgets that two machines seemed to share an agent's key, and lets it come at its own pace.
    pub async fn agent_clone_clear(&self, id: AgentId, caller: &Caller) -> Result<(), OperatorError> {
        self.inner.agent_clone_clear(id, caller.require(Permission::AgentsRekey)?).await
    }

    /// Asks an agent for a new key. It comes back as a new agent, which keeps labels and weights when its old key vouches
    /// for it; one that cannot do that is asked only by force, where the policy would keep it out. Returns the order's
    /// message id.
    pub async fn agent_rekey(&self, id: AgentId, force: bool, caller: &Caller) -> Result<MessageId, OperatorError> {
        self.inner.agent_rekey(id, force, caller.require(Permission::AgentsRekey)?).await
    }

    /// Creates a broadcast and tells every server.
    pub async fn broadcast_create(&self, broadcast: Broadcast, caller: &Caller) -> Result<BroadcastId, OperatorError> {
        let cause = caller.require(Permission::BroadcastsWrite)?;
        caller.require(Permission::MessagesSend)?;
        let (source, destination) = (&broadcast.source.service, &broadcast.destination_service);
        let service = if destination.is_empty() { source } else { destination };
        command_check(service, &broadcast.message_type, caller)?;
        self.inner.broadcast_create(broadcast, cause).await
    }

    /// Says what a text means as a target: whom it picks, or what is wrong with it. Shown are `agents`, or if there are
    /// none the first `limit` that match.
    pub async fn target_check(
        &self,
        text: &str,
        agents: &[AgentId],
        limit: u32,
        caller: &Caller,
    ) -> Result<TargetChecked, OperatorError> {
        if let (_, Ok(target)) = self.inner.target_read(text).await?
            && !target.findings().is_empty()
        {
            caller.require(Permission::ResultsRead)?;
        }
        self.inner.target_check(text, agents, limit).await
    }

    /// Writes out the names of targets (`@web`) in `text`, and reads it. The place of an error counts in the text that is
    /// returned.
    pub async fn target_read(&self, text: &str) -> Result<(String, Result<Target, TargetError>), OperatorError> {
        self.inner.target_read(text).await
    }

    /// Keeps a target under a name, in the place of an older one.
    pub async fn named_target_put(
        &self,
        name: &str,
        expression: &str,
        description: &str,
        caller: &Caller,
    ) -> Result<NamedTarget, OperatorError> {
        self.inner.named_target_put(name, expression, description, caller.require(Permission::TargetsWrite)?).await
    }

    /// Deletes a named target.
    pub async fn named_target_delete(&self, name: &str, caller: &Caller) -> Result<(), OperatorError> {
        self.inner.named_target_delete(name, caller.require(Permission::TargetsWrite)?).await
    }

    /// Switches broadcasts off.
    pub async fn broadcast_disable(&self, ids: &[BroadcastId], caller: &Caller) -> Result<(), OperatorError> {
        self.inner.broadcast_disable(ids, caller.require(Permission::BroadcastsWrite)?).await
    }

    /// Takes a signed action, as JSON, and launches it; it waits if no machine would run it for want of signatures.
    /// The same signed bytes again are the same action.
    pub async fn action_launch(
        &self,
        json: &[u8],
        spread: Spread,
        caller: &Caller,
    ) -> Result<ActionTaken, OperatorError> {
        self.inner.action_launch(json, spread, caller.require(Permission::ActionsLaunch)?).await
    }

    /// Adds a signature, armored or as one line, to an action that waits for signatures. Returns where it stands.
    pub async fn action_sign(
        &self,
        id: ActionId,
        signature: &str,
        caller: &Caller,
    ) -> Result<ActionStatus, OperatorError> {
        self.inner.action_sign(id, signature, caller.require(Permission::ActionsLaunch)?).await
    }

    /// Hands an action out no more. `signed` is the fleet and the signature of a cancellation: with it, machines that may
    /// have the action are sent that, and none without. Each signer's counts beside those of others.
    pub async fn action_cancel(
        &self,
        id: ActionId,
        signed: Option<(&str, &str)>,
        caller: &Caller,
    ) -> Result<CancelTaken, OperatorError> {
        self.inner.action_cancel(id, signed, caller.require(Permission::ActionsCancel)?).await
    }

    /// Lets an action that halted between two shares go on. `false`: it is not halted.
    pub async fn action_resume(&self, id: ActionId, caller: &Caller) -> Result<bool, OperatorError> {
        self.inner.action_resume(id, caller.require(Permission::ActionsLaunch)?).await
    }

    /// Says what would come of an action, as JSON, if it were launched now, signed by those who signed it and by those of
    /// whom the caller says so.
    pub async fn action_preview(
        &self,
        json: &[u8],
        spread: Spread,
        signers: &[String],
    ) -> Result<ActionPreview, OperatorError> {
        self.inner.action_preview(json, &spread, signers).await
    }

    /// Says what would come of a stored action if it were launched now.
    pub async fn action_preview_stored(&self, id: ActionId) -> Result<ActionPreview, OperatorError> {
        self.inner.action_preview_stored(id).await
    }

    /// Says what the machines that a target picks believe, grouped by what they say, most machines first.
    pub async fn trust_status(&self, target: &str) -> Result<Vec<TrustGroup>, OperatorError> {
        self.inner.trust_status(target).await
    }

    /// Adds an investigator. Their key must be able to sign now and belong to nobody else.
    pub async fn investigator_add(
        &self,
        new: NewInvestigator,
        caller: &Caller,
    ) -> Result<InvestigatorId, OperatorError> {
        let cause = caller.require(Permission::InvestigatorsAdd)?;
        caller.may_grant_mig(new.permissions)?;
        self.inner.investigator_add(new, cause).await
    }

    /// Replaces an investigator's key.
    pub async fn investigator_key_set(
        &self,
        id: InvestigatorId,
        public_key: String,
        caller: &Caller,
    ) -> Result<(), OperatorError> {
        self.inner.investigator_key_set(id, public_key, caller.require(Permission::InvestigatorsChange)?).await
    }

    /// Says which active investigator signed a token of MIG's API that came from `address`.
    pub async fn investigator_by_token(
        &self,
        token: &str,
        address: &str,
        rules: TokenRules,
    ) -> Result<InvestigatorRow, TokenRefusal> {
        self.inner.investigator_by_token(token, address, rules).await
    }

    /// Says which active investigator has this API key; `None`: nobody.
    pub async fn investigator_by_api_key(&self, key: &str) -> Result<Option<InvestigatorRow>, StoreError> {
        self.inner.investigator_by_api_key(key).await
    }

    /// Changes an investigator. Returns a key that was issued; only its hash is kept.
    pub async fn investigator_update(
        &self,
        id: InvestigatorId,
        update: InvestigatorUpdate,
        caller: &Caller,
    ) -> Result<Option<String>, OperatorError> {
        let cause = caller.require(Permission::InvestigatorsChange)?;
        caller.may_grant_mig(update.permissions.unwrap_or(0))?;
        self.inner.investigator_update(id, update, cause).await
    }
}
