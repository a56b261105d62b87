//! The service `actions`: signed orders of investigators, judged and run on this machine.
//!
//! Stays true: the server is believed in nothing; what runs was signed by people whom this machine trusts, with enough
//! weight, for this machine and this time, and it is in the ledger before it begins; its result is in the spool before
//! the order is acknowledged. Cancelling needs a signature, too: without one, a server could keep orders from ever running.
//! However many orders come, few are in memory: the rest is left to the server, and no cancellation waits behind them.
//! Not here: the judgement itself (muster-trust), what modules do (muster-modules).

mod believed;
mod cancel;
mod gate;
mod html;
pub(crate) mod ledger;
mod ledger_content;
mod ledger_line;
mod objections;
mod pack;
pub(crate) mod page;
mod recalls;
mod refusals;
mod report;
mod runner;
mod standstill;
pub(crate) mod status;
mod trust;
mod waiting;

pub(crate) use believed::{Believed, Problem};
pub(crate) use runner::{Runner, read_catalogue};
pub(crate) use standstill::{Standstill, standstills};

use crate::facts::Observer;
use crate::hub::{Delivery, Hub, Mail};
use crate::keys::Identity;
use crate::revocations::Revocations;
use crate::vouched::Vouched;
use ledger::{Order, OrderKey, OrderLedger, Outcome};
use muster_core::{Clock, Timestamp, system};
use muster_modules::Stop;
use muster_proto::convert::time_to_wire;
use muster_proto::wire::actions::{self as wire, ResultStatus};
use muster_trust::{Accepted, Refusal, RefusalCode};
use pack::Part;
use prost::Message as _;
use report::{AgentEnds, Says, signed};
use runner::{Call, Status, parameters, together};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use waiting::Waiting;

/// How long orders may take to end when the agent does.
const STOP_MAX: Duration = Duration::from_secs(3);
/// How often it is asked whether there is something to keep of the time.
const TIME_KEPT_EVERY: Duration = Duration::from_mins(1);
/// Orders judged at once.
const JUDGED_MAX: usize = 8;
/// Who this machine is, for targets.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Its key's hash is its id.
    pub(crate) identity: watch::Receiver<Arc<Identity>>,
    /// The key before the present one at the agent's start, and since when it was not used: it signs what came of orders
    /// that reached it.
    pub(crate) old: Option<(Arc<Identity>, Timestamp)>,
    /// Where the keys are.
    pub(crate) state_dir: PathBuf,
    /// Labels it claims.
    pub(crate) labels: Vec<String>,
    /// The fleet it belongs to; empty: none.
    pub(crate) fleet: String,
}

/// The service.
#[derive(Debug)]
pub(crate) struct Actions {
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    observer: Observer,
    runner: Runner,
    asked: Asked,
    /// Replaced as a whole: nobody holds it for longer than it takes to copy the pointer.
    believed: RwLock<Arc<Believed>>,
    /// Held by whoever changes it.
    changing: Mutex<()>,
    /// `None`: it cannot be used, so nothing runs.
    ledger: Mutex<Option<OrderLedger>>,
    running: Mutex<HashMap<OrderKey, Running>>,
    /// Told when an order has ended and is reported.
    ended: Notify,
    facts: gate::KnownFacts,
    judging: Arc<Semaphore>,
    /// Why the last document was not taken.
    document_refusal: Mutex<Option<wire::Refusal>>,
    vouched: Arc<Vouched>,
    /// What administrators revoked, for those who check servers.
    revocations: Arc<Revocations>,
}

#[derive(Debug)]
struct Running {
    stop: Stop,
}

/// An order as it came.
#[derive(Debug)]
struct Came {
    order: wire::ActionOrder,
    message: bytes::Bytes,
    at: Timestamp,
    /// The key that it reached, which signs what comes of it.
    reached: Arc<Identity>,
}

impl Came {
    /// Returns an answer with what is known of the order.
    fn answer(&self, status: ResultStatus, finished: Timestamp) -> wire::ActionResult {
        wire::ActionResult {
            action_id: self.order.action_id,
            command_id: self.order.command_id,
            order_message_id: self.message.clone(),
            status: status.into(),
            received: Some(time_to_wire(self.at)),
            finished: Some(time_to_wire(finished)),
            ..wire::ActionResult::default()
        }
    }
}

impl Actions {
    /// Puts the service together.
    pub(crate) fn new(
        hub: Arc<Hub>,
        (clock, observer, vouched, revocations): (Arc<dyn Clock>, Observer, Arc<Vouched>, Arc<Revocations>),
        runner: Runner,
        asked: Asked,
        (believed, ledger): (Believed, Option<OrderLedger>),
    ) -> Arc<Self> {
        Arc::new(Self {
            hub,
            clock,
            observer,
            runner,
            asked,
            believed: RwLock::new(Arc::new(believed)),
            changing: Mutex::default(),
            ledger: Mutex::new(ledger),
            running: Mutex::default(),
            ended: Notify::new(),
            facts: gate::KnownFacts::default(),
            judging: Arc::new(Semaphore::new(JUDGED_MAX)),
            document_refusal: Mutex::default(),
            vouched,
            revocations,
        })
    }

    /// Takes messages until the agent ends.
    pub(crate) async fn run(self: Arc<Self>, mut inbox: mpsc::Receiver<Delivery>) {
        let (service, interrupted) = (Arc::clone(&self), self.interrupted());
        // Beside the others: as long as the spool takes nothing, orders can still be called back.
        tokio::spawn(async move { service.report_interrupted(interrupted).await });
        self.tell_trust().await;
        let mut waiting = Waiting::default();
        let mut minute = tokio::time::interval(TIME_KEPT_EVERY);
        loop {
            let delivery = tokio::select! {
                _ = minute.tick() => {
                    self.keep_time();
                    continue;
                }
                place = Arc::clone(&self.judging).acquire_owned(), if !waiting.is_empty() => {
                    if let (Ok(place), Some(order)) = (place, waiting.take()) {
                        drop(tokio::spawn(Arc::clone(&self).take_order(order, place)));
                    }
                    continue;
                }
                delivery = inbox.recv() => delivery,
            };
            let Some(delivery) = delivery else { return };
            match delivery.message.message_type.as_str() {
                system::ACTION => waiting.put(delivery),
                // One after the other, in the order in which they came.
                system::ACTION_CANCEL => self.take_cancel(delivery).await,
                system::TRUST_DOCUMENT => self.take_document(delivery).await,
                system::TRUST_REQUEST => {
                    self.tell_trust().await;
                    delivery.done();
                }
                other => {
                    let reason = format!("the actions service knows no message {other:?}");
                    delivery.fail(&reason).await;
                }
            }
        }
    }

    /// Ends what runs, and gives each a moment to report what came of it.
    pub(crate) async fn stop_all(&self) {
        for running in self.running().values() {
            running.stop.ask();
        }
        let all_ended = async {
            while !self.running().is_empty() {
                self.ended.notified().await;
            }
        };
        if tokio::time::timeout(STOP_MAX, all_ended).await.is_err() {
            tracing::warn!("an order did not end in time; it is reported as interrupted at the next start");
        }
    }

    /// Judges an order in its place among those that are judged at once, and carries it out.
    async fn take_order(self: Arc<Self>, mut delivery: Delivery, place: OwnedSemaphorePermit) {
        // Whatever came, came over a link to a server whose certificate was verified.
        self.keep_time();
        let at = self.clock.now();
        // Taken out of the message, which is kept until the order has ended.
        let body = delivery.message.data.take().map_or_else(bytes::Bytes::new, |data| data.value.into());
        let Ok(order) = wire::ActionOrder::decode(body) else {
            return delivery.fail("the body is no ActionOrder").await;
        };
        let reached = Arc::clone(&self.asked.identity.borrow());
        let mut came = Came { order, message: delivery.message.message_id.clone(), at, reached };
        let judged = self.judge(&came).await;
        let begun = match judged {
            Ok(accepted) => self.begin(&came, &accepted).await.map(|()| accepted),
            Err(refusal) => Err(refusal),
        };
        let reported = match begun {
            Ok(accepted) => {
                // What was signed is known by now, as it was read.
                came.order.action = bytes::Bytes::new();
                drop(place);
                self.carry_out(&came, accepted).await
            }
            // It was taken from this very message before a crash; what came of it was reported then.
            Err(refusal) if refusal.code == RefusalCode::AlreadyRun && self.is_repeated(&came) => Ok(()),
            Err(refusal) => self.report(&self.refuse(&came, refusal).await).await,
        };
        // Without a result the order is not acknowledged: the server sends it again.
        if reported.is_ok() {
            delivery.done();
        }
    }

    /// Whether an order was taken from this very message before.
    fn is_repeated(&self, came: &Came) -> bool {
        let message = hex::encode(&came.message);
        self.ledger().as_ref().is_some_and(|ledger| ledger.content().orders().any(|order| order.message == message))
    }

    /// Writes the order into the ledger, on the disk.
    async fn begin(self: &Arc<Self>, came: &Came, accepted: &Accepted) -> Result<(), Refusal> {
        let action = &accepted.action;
        let order = Order {
            key: *accepted.key.as_bytes(),
            at: came.at,
            action_id: came.order.action_id,
            command_id: came.order.command_id,
            message: hex::encode(&came.message),
            name: action.name.clone(),
            target: action.target.clone(),
            modules: action.operations.iter().map(|operation| operation.module.clone()).collect(),
            signers: accepted.signers.iter().map(|signed| signed.signer.to_string()).collect(),
            valid_from: action.valid_from,
            expire_after: action.expire_after,
            floor: accepted.floor,
            outcome: None,
        };
        let key = order.key;
        // Once more, because looking at it took its time.
        let now = self.clock.now().max(self.floor());
        action.window_check(now).map_err(|error| Refusal { code: RefusalCode::Expired, text: error.to_string() })?;
        // Known as running before it is written: whoever calls it back finds it here, or is found by it there.
        match self.running().entry(key) {
            Entry::Occupied(_) => return Err(begun_before()),
            Entry::Vacant(free) => free.insert(Running { stop: Stop::default() }),
        };
        let service = Arc::clone(self);
        let begun = tokio::task::spawn_blocking(move || service.write_begun(order, now));
        let refused = match begun.await {
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(refusal))) => refusal,
            failed => {
                let why = failed.map_or_else(|error| error.to_string(), |begun| format!("{:?}", begun.err()));
                tracing::error!(why, "the ledger of orders cannot be written, so nothing is run");
                let text = "the ledger of what was run cannot be written: nothing runs".to_owned();
                Refusal { code: RefusalCode::LedgerUnreadable, text }
            }
        };
        self.running().remove(&key);
        Err(refused)
    }

    async fn carry_out(&self, came: &Came, accepted: Accepted) -> Result<(), AgentEnds> {
        let key = *accepted.key.as_bytes();
        let action = &accepted.action;
        let stop = self.running().get(&key).map(|running| running.stop.clone()).unwrap_or_default();
        tracing::info!(action.id = came.order.action_id, name = action.name, "an order is run");
        let started = self.clock.now();
        let calls = action.operations.iter().zip(&accepted.parameters).map(|(operation, signed)| {
            let parameters = parameters(signed, operation.is_compressed);
            Call { module: operation.module.clone(), parameters }
        });
        let left = action.signed_window().1.since(started);
        let ended = self.runner.run(calls.collect(), left, &stop).await;
        let status = together(&ended.iter().map(|(status, _)| *status).collect::<Vec<_>>());
        let parts: Vec<Part> = ended.into_iter().map(|(_, part)| part).collect();
        let found = parts.iter().filter(|part| part.found).count();
        let finished = self.clock.now();
        let packed = pack::pack(parts);
        let answer = wire::ActionResult {
            signed_sha256: key.to_vec().into(),
            results: packed.bytes,
            results_packing: packed.packing.into(),
            results_bytes: packed.plain_bytes,
            started: Some(time_to_wire(started)),
            signers: accepted.signers.iter().map(|signed| signed.signer.to_string()).collect(),
            ..came.answer(wire_status(status), finished)
        };
        let answer = signed(answer, Says::Result, &packed.plain_sha256, &came.reached);
        // The result first: a crash in between reports it again under the same name, and never as lost.
        self.report(&answer).await?;
        self.finish(key, Outcome { at: finished, status: status.word().into(), found });
        self.running().remove(&key);
        self.ended.notify_one();
        Ok(())
    }

    fn finish(&self, key: OrderKey, outcome: Outcome) {
        if let Some(Err(error)) = self.ledger().as_mut().map(|ledger| ledger.finish(key, outcome)) {
            tracing::error!(%error, "cannot write the ledger of orders");
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Option<OrderLedger>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<OrderKey, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn begun_before() -> Refusal {
    Refusal { code: RefusalCode::AlreadyRun, text: "the action was begun before".to_owned() }
}

fn wire_status(status: Status) -> ResultStatus {
    match status {
        Status::Success => ResultStatus::Success,
        Status::Failed => ResultStatus::Failed,
        Status::Timeout => ResultStatus::Timeout,
        Status::Cancelled => ResultStatus::Cancelled,
    }
}

fn body(delivery: &Delivery) -> Vec<u8> {
    delivery.message.data.as_ref().map_or_else(Vec::new, |data| data.value.clone())
}

fn mail(message_type: &str) -> Mail {
    Mail {
        from: system::ACTIONS.into(),
        to: system::ACTIONS.into(),
        message_type: message_type.into(),
        ..Mail::default()
    }
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
