//! The way into the spool for everything that runs: many callers, one writer, one wait for the disk for all of them.
//!
//! Stays true: [`Outbox::put`] with [`Durability::Disk`] returns only when the message survives a loss of power. The
//! writer has a thread of its own, because waiting for a disk would hold up everything else.

use crate::spool::{Outgoing, Spool, SpoolCounts, SpoolError, SpoolId};
use crate::world::Random;
use muster_core::Clock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc, oneshot};

/// Messages that may wait for the writer.
const WAITING_MAX: usize = 256;
/// Messages that one wait for the disk covers at most.
const GROUP_MAX: usize = 256;

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The message survives a loss of power.
    Disk,
    /// The message survives the end of this process.
    Process,
}

struct Job {
    message: Outgoing,
    durability: Durability,
    answer: oneshot::Sender<Result<(), SpoolError>>,
}

#[derive(Debug)]
struct Shared {
    spool: Mutex<Spool>,
    /// Something is to be sent.
    ready: Notify,
    /// Something was acknowledged, so there is room.
    room: Notify,
    waiting: Mutex<HashMap<SpoolId, oneshot::Sender<()>>>,
}

impl Shared {
    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outbox. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    clock: Arc<dyn Clock>,
    random: Arc<Random>,
}

impl Outbox {
    /// Starts the writer of `spool`.
    pub(crate) fn start(spool: Spool, clock: Arc<dyn Clock>, random: Arc<Random>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            spool: Mutex::new(spool),
            ready: Notify::new(),
            room: Notify::new(),
            waiting: Mutex::default(),
        });
        let (jobs, inbox) = mpsc::channel(WAITING_MAX);
        let writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("spool".into())
            .stack_size(256 * 1024)
            .spawn(move || write_groups(&writer, inbox))?;
        Ok(Self { shared, jobs, clock, random })
    }

    /// Returns a new name for a message: 8 bytes of time, 8 random ones.
    pub(crate) fn new_id(&self) -> SpoolId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.clock.now().as_nanos().to_be_bytes());
        id[8..].copy_from_slice(&self.random.bytes::<8>());
        id
    }

    /// Accepts a message.
    pub(crate) async fn put(&self, message: Outgoing, durability: Durability) -> Result<(), SpoolError> {
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job { message, durability, answer }).await.map_err(|_| SpoolError::Closed)?;
        answered.await.map_err(|_| SpoolError::Closed)?
    }

    /// Accepts a message, waiting for room as long as it takes: for senders that can be held up.
    pub(crate) async fn put_when_there_is_room(&self, message: Outgoing) -> Result<(), SpoolError> {
        loop {
            let room = self.room();
            match self.put(message.clone(), Durability::Disk).await {
                Err(SpoolError::Full { .. }) => room.await,
                other => return other,
            }
        }
    }

    /// Waits until the server has something that took room. Also sees what happens after this call and before the wait.
    pub(crate) fn room(&self) -> impl Future<Output = ()> {
        self.shared.room.notified()
    }

    /// Returns a receiver that is told when the server has the message `id`. To be asked before the message is put.
    pub(crate) fn delivery_of(&self, id: SpoolId) -> oneshot::Receiver<()> {
        let (told, receiver) = oneshot::channel();
        self.waiting().insert(id, told);
        receiver
    }

    /// Takes messages to send.
    pub(crate) fn take(&self, messages_max: usize, bytes_max: usize) -> Vec<Outgoing> {
        self.shared.spool().take(messages_max, bytes_max)
    }

    /// Gives back messages that were not delivered.
    pub(crate) fn release(&self, ids: &[SpoolId]) {
        if !ids.is_empty() {
            self.shared.spool().release(ids);
            self.shared.ready.notify_one();
        }
    }

    /// Forgets messages that the server has.
    pub(crate) fn acknowledge(&self, ids: &[SpoolId]) {
        if ids.is_empty() {
            return;
        }
        self.shared.spool().acknowledge(ids);
        self.shared.room.notify_waiters();
        let mut waiting = self.waiting();
        for id in ids {
            if let Some(told) = waiting.remove(id) {
                // Whoever asked may have given up; then there is nobody to tell.
                let _ = told.send(());
            }
        }
    }

    /// Waits until there may be something to send.
    pub(crate) async fn ready(&self) {
        self.shared.ready.notified().await;
    }

    /// Whether there is something to send; `urgent_only` leaves out what may wait for a contact that happens anyway.
    pub(crate) fn has_ready(&self, urgent_only: bool) -> bool {
        self.shared.spool().has_ready(urgent_only)
    }

    /// Returns how many messages wait or are on their way.
    pub(crate) fn len(&self) -> usize {
        self.shared.spool().len()
    }

    /// Returns what went wrong so far.
    pub(crate) fn counts(&self) -> SpoolCounts {
        self.shared.spool().counts()
    }

    /// Takes note of a message that had to be given up.
    pub(crate) fn count_dropped(&self) {
        self.shared.spool().count_dropped();
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<SpoolId, oneshot::Sender<()>>> {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_groups(shared: &Shared, mut inbox: mpsc::Receiver<Job>) {
    while let Some(first) = inbox.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP_MAX
            && let Ok(job) = inbox.try_recv()
        {
            group.push(job);
        }
        write_group(shared, group);
    }
}

fn write_group(shared: &Shared, group: Vec<Job>) {
    let mut written = Vec::with_capacity(group.len());
    let mut spool = shared.spool();
    for job in group {
        match spool.append(&job.message) {
            Ok(()) => written.push(job),
            Err(error) => drop(job.answer.send(Err(error))),
        }
    }
    let file = spool.active_file();
    drop(spool);

    let ids: Vec<SpoolId> = written.iter().map(|job| job.message.id).collect();
    let must_wait = written.iter().any(|job| job.durability == Durability::Disk);
    let outcome = if must_wait { file.sync_data() } else { Ok(()) };
    match &outcome {
        Ok(()) => shared.spool().confirm(&ids),
        // After a failed wait nobody knows what is on the disk: none of the group counts, and the file is left.
        Err(_) => shared.spool().withdraw(&ids),
    }
    for job in written {
        let answer = match &outcome {
            Ok(()) => Ok(()),
            Err(error) => Err(SpoolError::Disk {
                path: "spool".into(),
                source: std::io::Error::new(error.kind(), error.to_string()),
            }),
        };
        // A caller that went away does not take its message with it.
        let _ = job.answer.send(answer);
    }
    shared.ready.notify_one();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::SpoolLimits;
    use crate::world::SystemClock;
    use muster_core::Priority;

    fn outbox(directory: &std::path::Path, messages_max: usize) -> Outbox {
        let limits = SpoolLimits { bytes_max: 1 << 22, messages_max };
        let spool = Spool::open(directory, limits, Arc::new(Random::from_number(2))).unwrap();
        Outbox::start(spool, Arc::new(SystemClock), Arc::new(Random::from_number(1))).unwrap()
    }

    fn message(outbox: &Outbox) -> Outgoing {
        Outgoing { id: outbox.new_id(), priority: Priority::Medium, background: false, body: vec![1; 10] }
    }

    #[tokio::test]
    async fn many_callers_share_the_writer_and_all_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path(), 1000);
        let puts = (0..300).map(|_| outbox.put(message(&outbox), Durability::Disk));
        for put in futures_util::future::join_all(puts).await {
            put.unwrap();
        }
        assert_eq!(outbox.take(1000, usize::MAX).len(), 300);
    }

    #[tokio::test]
    async fn whoever_asked_is_told_of_the_delivery() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path(), 1000);
        let message = message(&outbox);
        let delivered = outbox.delivery_of(message.id);
        outbox.put(message.clone(), Durability::Process).await.unwrap();
        outbox.ready().await;
        outbox.take(1, 1);
        outbox.acknowledge(&[message.id]);
        delivered.await.unwrap();
    }

    #[tokio::test]
    async fn a_patient_sender_waits_for_room() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path(), 1);
        let first = message(&outbox);
        outbox.put(first.clone(), Durability::Disk).await.unwrap();
        let second = outbox.put_when_there_is_room(message(&outbox));
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        let make_room = async {
            while outbox.take(1, 1).is_empty() {
                outbox.ready().await;
            }
            outbox.acknowledge(&[first.id]);
        };
        let (put, ()) = tokio::join!(second, make_room);
        put.unwrap();
    }

    #[test]
    fn names_sort_by_time() {
        let directory = tempfile::tempdir().unwrap();
        let outbox = outbox(directory.path(), 1);
        let names: Vec<_> = (0..100).map(|_| outbox.new_id()).collect();
        assert!(names.windows(2).all(|pair| pair[0][..8] <= pair[1][..8]));
    }
}
