//! Dispatch: how messages reach the services of the server that live outside of the engine.
//!
//! Stays true: a message is stored before a service sees it, and stays due in the store until its result is; a slow
//! service holds up neither contacts nor other services; what waits in memory is bounded in number and bytes, and what
//! finds no room is taken from the store later; what waits in memory is kept from falling due for others, and what another
//! server may have is not called here. Not here: how services stand (condition).

use crate::condition::Watch;
use crate::engine::{Chain, Inner, lock};
use crate::mailbox::{message_weight, reason};
use crate::pace::Pace;
use async_trait::async_trait;
use futures_util::FutureExt;
use metrics::{counter, gauge, histogram};
use muster_core::{Message, MessageId, MessageResult, Timestamp, limits, retry, system};
use muster_store::StoreError;
use muster_store::messages::TryFailed;
use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

/// Why a service did not take a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// It may take it later: the message falls due again.
    #[error("{0}")]
    Passing(String),
    /// It never will: the message fails.
    #[error("{0}")]
    Permanent(String),
}

/// A service of the server.
#[async_trait]
pub trait Service: Send + Sync {
    /// Its name, which messages are addressed to.
    fn name(&self) -> &str;

    /// Calls under way at once, at most.
    fn parallelism(&self) -> u32;

    /// Whether every message is simply done with (NOOP); such messages are never dispatched.
    fn discards(&self) -> bool {
        false
    }

    /// Takes a message; may see the same message again (at least once). The caller bounds its time by
    /// [`muster_core::limits::SERVICE_CALL_MAX`].
    async fn process(&self, message: &Message) -> Result<(), ServiceError>;
}

/// The services of this server, and what waits in memory for them.
pub(crate) struct Dispatch {
    queues: HashMap<String, Arc<Queue>>,
    discarded: HashSet<String>,
    outcomes: mpsc::UnboundedSender<Outcome>,
    outcomes_waiting: Mutex<Option<mpsc::UnboundedReceiver<Outcome>>>,
    /// Lines about services, by name and word.
    lines: Pace<(String, &'static str)>,
}

/// What waits in memory for one service. The channel has no bound of its own: whoever sends has a [`Place`].
pub(crate) struct Queue {
    service: Arc<dyn Service>,
    pub(crate) name: String,
    items: mpsc::UnboundedSender<Item>,
    items_waiting: Mutex<Option<mpsc::UnboundedReceiver<Item>>>,
    room: Mutex<Room>,
    /// How its service takes messages.
    pub(crate) watch: Mutex<Watch>,
}

impl Queue {
    /// How many messages have a place.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.room).ids.len()
    }

    /// The messages that fall due before `moment`, with the numbers of their tries.
    fn due_before(&self, moment: Timestamp) -> Vec<(MessageId, u32)> {
        let room = lock(&self.room);
        let held = room.ids.iter().filter_map(|(id, lease)| Some((*id, (*lease)?)));
        held.filter(|(_, lease)| lease.until < moment).map(|(id, lease)| (id, lease.attempts)).collect()
    }

    /// Takes note of which of `asked` fall due at `until` now. The others are somebody else's, or done.
    fn kept(&self, asked: &[(MessageId, u32)], kept: &HashSet<MessageId>, until: Timestamp) {
        let mut room = lock(&self.room);
        for (id, attempts) in asked {
            // What was claimed again meanwhile has another number.
            let Some(lease) = room.ids.get_mut(id).filter(|lease| lease.is_some_and(|it| it.attempts == *attempts))
            else {
                continue;
            };
            *lease = kept.contains(id).then_some(Lease { attempts: *attempts, until });
        }
    }
}

/// Until when a message in memory is this server's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    /// How often the message was claimed: another number in the store means that somebody else has it.
    pub(crate) attempts: u32,
    /// When it falls due.
    pub(crate) until: Timestamp,
}

#[derive(Default)]
struct Room {
    /// The messages that have a place, so that none is in memory twice; `None`: it is not this server's any more.
    ids: HashMap<MessageId, Option<Lease>>,
    bytes: usize,
}

impl Room {
    fn has_some(&self) -> bool {
        self.ids.len() < limits::DISPATCH_MESSAGES_MAX && self.bytes < limits::DISPATCH_BYTES_MAX
    }
}

/// A place in a service's queue, until the result of the message is stored.
pub(crate) struct Place {
    queue: Arc<Queue>,
    id: MessageId,
    bytes: usize,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("id", &self.id).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Place {
    /// Until when the message is this server's.
    fn lease(&self) -> Option<Lease> {
        lock(&self.queue.room).ids.get(&self.id).copied().flatten()
    }

    /// Whether a call that begins now ends before anybody else may begin one.
    fn may_begin(&self, now: Timestamp) -> bool {
        let end = now.plus(limits::SERVICE_CALL_MAX).plus(limits::CLOCK_SKEW);
        self.lease().is_some_and(|lease| lease.until >= end)
    }

    /// Gives the message of this place to its service.
    pub(crate) fn hand_over(self, message: Message) {
        let queue = Arc::clone(&self.queue);
        // Only a service whose worker has ended takes nothing; then the message waits in the store.
        let _ = queue.items.send(Item { message, place: self });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut room = lock(&self.queue.room);
        room.ids.remove(&self.id);
        room.bytes = room.bytes.saturating_sub(self.bytes);
    }
}

struct Item {
    message: Message,
    place: Place,
}

/// How a call ended.
struct Outcome {
    id: MessageId,
    result: Result<(), ServiceError>,
    at: Timestamp,
    /// Held until the result is stored, so that services that are faster than the database are held back.
    place: Place,
}

impl Dispatch {
    pub(crate) fn new(services: Vec<Arc<dyn Service>>) -> Self {
        let (outcomes, outcomes_waiting) = mpsc::unbounded_channel();
        let (mut queues, mut discarded) = (HashMap::new(), HashSet::new());
        for service in services {
            let name = service.name().to_owned();
            if [system::SERVICE, system::CLIENT, system::MUSTER].contains(&name.as_str()) {
                error!(service = name, "a configured service has a name that is built in, it is left out");
            } else if service.discards() {
                discarded.insert(name);
            } else {
                let (items, items_waiting) = mpsc::unbounded_channel();
                let queue = Queue {
                    service,
                    name: name.clone(),
                    items,
                    items_waiting: Mutex::new(Some(items_waiting)),
                    room: Mutex::default(),
                    watch: Mutex::default(),
                };
                queues.insert(name, Arc::new(queue));
            }
        }
        let outcomes_waiting = Mutex::new(Some(outcomes_waiting));
        Self { queues, discarded, outcomes, outcomes_waiting, lines: Pace::new(limits::LINE_EVERY) }
    }

    pub(crate) fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.queues.values()
    }

    /// Whether `word` of a service is worth a line, and how often it was not since the last one.
    pub(crate) fn line(&self, service: &str, word: &'static str) -> Option<u64> {
        self.lines.line((service.to_owned(), word))
    }

    /// The services that do not take messages and have none in memory.
    pub(crate) fn away_and_idle(&self) -> Vec<String> {
        let is_it = |queue: &&Arc<Queue>| lock(&queue.watch).is_away() && queue.waiting() == 0;
        self.queues().filter(is_it).map(|queue| queue.name.clone()).collect()
    }

    pub(crate) fn knows(&self, service: &str) -> bool {
        self.queues.contains_key(service)
    }

    pub(crate) fn discards(&self, service: &str) -> bool {
        self.discarded.contains(service)
    }

    /// Takes a place for a message that is new, with its service; it falls due at `until`. `None`: there is no room, or it
    /// has one.
    pub(crate) fn reserve(&self, message: &Message, until: Timestamp) -> Option<Place> {
        let queue = self.queues.get(&message.destination.service)?;
        let mut room = lock(&queue.room);
        if !room.has_some() || room.ids.contains_key(&message.id) {
            return None;
        }
        Some(place(queue, &mut room, message, Lease { attempts: 0, until }))
    }

    /// Takes a place for a message that this server has claimed. `None`: it is in memory already, and stays there alone.
    fn place_claimed(&self, message: &Message, lease: Lease) -> Option<Place> {
        let queue = self.queues.get(&message.destination.service)?;
        let mut room = lock(&queue.room);
        if let Some(held) = room.ids.get_mut(&message.id) {
            *held = Some(lease);
            return None;
        }
        Some(place(queue, &mut room, message, lease))
    }

    /// The services that have room, by name.
    fn with_room(&self) -> Vec<String> {
        let queues = self.queues.values().filter(|queue| lock(&queue.room).has_some());
        let mut names: Vec<String> = queues.map(|queue| queue.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Whether nothing waits in memory and no call is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.queues.values().all(|queue| lock(&queue.room).ids.is_empty())
    }

    pub(crate) fn gauges(&self) {
        for queue in self.queues.values() {
            #[expect(clippy::cast_precision_loss, reason = "a queue holds far fewer than 2^52 messages")]
            let waiting = lock(&queue.room).ids.len() as f64;
            gauge!("muster_engine_service_queue_messages", "service" => queue.name.clone()).set(waiting);
        }
    }
}

fn place(queue: &Arc<Queue>, room: &mut Room, message: &Message, lease: Lease) -> Place {
    let bytes = message_weight(message);
    room.ids.insert(message.id, Some(lease));
    room.bytes += bytes;
    Place { queue: Arc::clone(queue), id: message.id, bytes }
}

impl Inner {
    /// Runs the services until `hard_stop`: one worker for each, and one that stores results.
    pub(crate) fn dispatch_start(self: &Arc<Self>, hard_stop: &CancellationToken) {
        for queue in self.dispatch.queues.values() {
            let Some(items) = lock(&queue.items_waiting).take() else {
                continue;
            };
            let (inner, queue, stop) = (Arc::clone(self), Arc::clone(queue), hard_stop.clone());
            self.tasks.spawn(async move { inner.service_work(queue, items, stop).await });
        }
        if let Some(outcomes) = lock(&self.dispatch.outcomes_waiting).take() {
            let (inner, stop) = (Arc::clone(self), hard_stop.clone());
            self.tasks.spawn(async move { inner.outcomes_store(outcomes, stop).await });
        }
    }

    async fn service_work(
        self: Arc<Self>,
        queue: Arc<Queue>,
        mut items: mpsc::UnboundedReceiver<Item>,
        stop: CancellationToken,
    ) {
        let permits = Arc::new(Semaphore::new(usize::try_from(queue.service.parallelism().max(1)).unwrap_or(1)));
        let work = async {
            while let Some(item) = items.recv().await {
                let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
                if !item.place.may_begin(self.now()) {
                    // It falls due, or another server has it; here it would be a second time.
                    counter!("muster_engine_service_shed_total", "service" => queue.name.clone()).increment(1);
                    continue;
                }
                let (inner, queue) = (Arc::clone(&self), Arc::clone(&queue));
                let call = async move {
                    inner.service_call(&queue, item).await;
                    drop(permit);
                };
                let stop = stop.clone();
                self.tasks.spawn(async move { stop.run_until_cancelled(call).await });
            }
        };
        stop.run_until_cancelled(work).await;
    }

    async fn service_call(self: &Arc<Self>, queue: &Queue, Item { message, place }: Item) {
        let start = Instant::now();
        let call = AssertUnwindSafe(queue.service.process(&message)).catch_unwind();
        let result = match timeout(limits::SERVICE_CALL_MAX, call).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ServiceError::Passing("the service's handler ended abnormally".to_owned())),
            Err(_) => Err(ServiceError::Passing(format!("no answer within {} s", limits::SERVICE_CALL_MAX.as_secs()))),
        };
        let word = match &result {
            Ok(()) => "done",
            Err(ServiceError::Passing(_)) => "passing",
            Err(ServiceError::Permanent(_)) => "permanent",
        };
        counter!("muster_engine_service_calls_total", "service" => queue.name.clone(), "outcome" => word).increment(1);
        histogram!("muster_engine_service_call_seconds", "service" => queue.name.clone())
            .record(start.elapsed().as_secs_f64());
        self.service_note(queue, &message, &result, start.elapsed());
        if let Err(failure) = &result {
            debug!(service = queue.name, message.id = %message.id, outcome = word, "a service did not take a message: {failure}");
        }
        let outcome = Outcome { id: message.id, result, at: self.now(), place };
        // Without a receiver the server is past its end, and the message stays due.
        let _ = self.dispatch.outcomes.send(outcome);
    }

    /// Stores results, as many at once as have come.
    async fn outcomes_store(self: Arc<Self>, mut outcomes: mpsc::UnboundedReceiver<Outcome>, stop: CancellationToken) {
        let mut batch = Vec::new();
        let batch_max = usize::try_from(limits::BATCH_ROWS).expect("500 fits any usize");
        loop {
            batch.clear();
            let came = stop.run_until_cancelled(outcomes.recv_many(&mut batch, batch_max)).await;
            if came.is_none_or(|count| count == 0) {
                return;
            }
            if stop.run_until_cancelled(self.batch_store(&batch)).await.is_none() {
                return;
            }
        }
    }

    /// Stores a batch of results, again and again until it is stored.
    async fn batch_store(&self, batch: &[Outcome]) {
        let (mut results, mut failures) = (Vec::new(), Vec::new());
        for outcome in batch {
            debug_assert_eq!(outcome.id, outcome.place.id);
            match &outcome.result {
                Ok(()) => results.push((outcome.id, MessageResult::done(outcome.at))),
                Err(ServiceError::Permanent(why)) => {
                    results.push((outcome.id, MessageResult::failed(outcome.at, why)));
                }
                Err(ServiceError::Passing(why)) => failures.extend(self.try_failed(outcome, why)),
            }
        }
        let mut attempts = 0;
        while let Err(failure) = self.batch_try(&results, &failures).await {
            self.saw(&failure);
            warn!(error = %Chain(&failure), attempts, "could not store the results of services, trying again");
            let jitter = self.outside.random.unit();
            sleep(retry::backoff(Duration::from_millis(100), Duration::from_secs(10), attempts, jitter)).await;
            attempts += 1;
        }
    }

    /// What is stored of a try that failed; nothing when the message is somebody else's by now.
    fn try_failed(&self, outcome: &Outcome, why: &str) -> Option<TryFailed> {
        let Lease { attempts, .. } = outcome.place.lease()?;
        // The first two tries are both the first: from memory, and from the store.
        let due = retry::service_due(outcome.at, attempts.saturating_sub(1), self.outside.random.unit());
        Some(TryFailed { id: outcome.id, attempts, reason: reason(why), due })
    }

    async fn batch_try(
        &self,
        results: &[(MessageId, MessageResult)],
        failures: &[TryFailed],
    ) -> Result<(), StoreError> {
        if !results.is_empty() {
            self.store.message_result_put(results.to_vec()).await?;
        }
        if !failures.is_empty() {
            self.store.message_try_failed(failures.to_vec()).await?;
        }
        Ok(())
    }

    /// Takes overdue messages from the store for services that have room. Returns how many.
    pub(crate) async fn overdue_scan(&self) -> Result<usize, StoreError> {
        let mut taken = 0;
        loop {
            let services = self.dispatch.with_room();
            if services.is_empty() || self.stopping.is_cancelled() {
                return Ok(taken);
            }
            let limit = u32::try_from(limits::CONTACT_MESSAGES_MAX).expect("100 fits 32 bits");
            let jitter = self.outside.random.unit();
            let now = self.now();
            let claimed = self.store.message_claim_overdue(&services, limit, jitter, now).await?;
            let count = claimed.len();
            taken += count;
            for (message, tries) in claimed {
                // What was claimed gets its place even when there is none left, so the bound is passed by at most one
                // batch; what is in memory already stays there alone.
                let lease = Lease { attempts: tries + 1, until: retry::service_due(now, tries, jitter) };
                if let Some(place) = self.dispatch.place_claimed(&message, lease) {
                    place.hand_over(message);
                }
            }
            if count < limits::CONTACT_MESSAGES_MAX {
                return Ok(taken);
            }
        }
    }
}

impl Inner {
    /// Keeps what waits in memory from falling due while it waits, so that no other server gives it to the same service.
    pub(crate) async fn services_keep(&self) -> Result<(), StoreError> {
        let batch = usize::try_from(limits::BATCH_ROWS).expect("500 fits any usize");
        for queue in self.dispatch.queues() {
            for held in queue.due_before(self.now().plus(limits::SERVICE_KEEP_BEFORE)).chunks(batch) {
                let until = self.service_due(self.now());
                let kept = self.store.message_service_keep(held.to_vec(), until).await?;
                queue.kept(held, &kept.into_iter().collect(), until);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::{Address, Payload};

    const LATER: Timestamp = Timestamp::MAX;

    struct Nobody(&'static str, bool);

    #[async_trait]
    impl Service for Nobody {
        fn name(&self) -> &str {
            self.0
        }
        fn parallelism(&self) -> u32 {
            1
        }
        fn discards(&self) -> bool {
            self.1
        }
        async fn process(&self, _: &Message) -> Result<(), ServiceError> {
            Ok(())
        }
    }

    fn message(number: u32, bytes: usize) -> Message {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let ends = (Address::server("a"), Address::server("s"));
        let message = Message::new(MessageId::from_bytes(id), ends.0, ends.1, Timestamp::EPOCH);
        Message { payload: Some(Payload { type_url: String::new(), value: vec![0; bytes] }), ..message }
    }

    fn dispatch() -> Dispatch {
        Dispatch::new(vec![
            Arc::new(Nobody("s", false)),
            Arc::new(Nobody("noop", true)),
            Arc::new(Nobody("system", false)),
        ])
    }

    #[test]
    fn a_queue_is_bounded_in_number() {
        let dispatch = dispatch();
        let count = u32::try_from(limits::DISPATCH_MESSAGES_MAX).unwrap();
        let mut places: Vec<Place> = (0..count).map(|n| dispatch.reserve(&message(n, 0), LATER).unwrap()).collect();
        assert!(dispatch.reserve(&message(count, 0), LATER).is_none());
        assert!(dispatch.with_room().is_empty());
        places.pop();
        assert!(dispatch.reserve(&message(count, 0), LATER).is_some());
        drop(places);
        assert!(dispatch.is_idle());
    }

    #[test]
    fn a_queue_is_bounded_in_bytes() {
        let dispatch = dispatch();
        let one = dispatch.reserve(&message(1, limits::DISPATCH_BYTES_MAX), LATER).unwrap();
        assert!(dispatch.reserve(&message(2, 0), LATER).is_none());
        drop(one);
        assert!(dispatch.reserve(&message(2, 0), LATER).is_some());
    }

    #[test]
    fn a_message_is_in_memory_once() {
        let dispatch = dispatch();
        let place = dispatch.reserve(&message(1, 0), LATER).unwrap();
        assert!(dispatch.reserve(&message(1, 0), LATER).is_none());
        let claimed = Lease { attempts: 1, until: LATER };
        assert!(dispatch.place_claimed(&message(1, 0), claimed).is_none());
        assert_eq!(place.lease(), Some(claimed), "the claim is that of the message in memory");
        drop(place);
        assert!(dispatch.reserve(&message(1, 0), LATER).is_some());
    }

    #[test]
    fn what_another_server_may_have_is_not_begun() {
        let (dispatch, at) = (dispatch(), Timestamp::from_secs);
        let [kept, lost, again] = [1, 2, 3].map(|n| dispatch.reserve(&message(n, 0), at(60)).unwrap());
        assert!(kept.may_begin(at(0)) && !kept.may_begin(at(40)), "a call takes up to 30 s");
        let queue = &dispatch.queues["s"];
        let mut asked = queue.due_before(at(61));
        asked.sort_unstable();
        assert_eq!(asked, [(kept.id, 0), (lost.id, 0), (again.id, 0)]);
        assert_eq!(queue.due_before(at(60)), []);
        // One was claimed again by this server meanwhile.
        assert!(dispatch.place_claimed(&message(3, 0), Lease { attempts: 1, until: at(90) }).is_none());
        queue.kept(&asked, &[kept.id].into(), at(120));
        assert!(kept.may_begin(at(80)) && !lost.may_begin(at(0)) && again.may_begin(at(50)));
        assert_eq!((lost.lease(), queue.waiting()), (None, 3));
    }

    #[test]
    fn services_that_discard_have_no_queue_and_built_in_names_are_not_taken() {
        let dispatch = dispatch();
        assert!(dispatch.discards("noop") && !dispatch.knows("noop"));
        assert!(!dispatch.knows("system") && !dispatch.discards("system"));
        assert_eq!(dispatch.with_room(), ["s"]);
    }
}
