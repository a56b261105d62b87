//! SQLite's threads: one that writes and commits for all, a few that read, one that empties the log.
//!
//! The writer takes whatever waits, runs it in one transaction and commits once; when a call fails, they are run again
//! with a savepoint for each. Nobody is answered before that commit. Stays true: a call whose caller went away before it
//! was begun is not begun; one that was begun is done whole. After a failed sync nothing is written any more, because a
//! second sync would claim success.

use super::sqlite::{self, FileLock, Session, Use};
use super::{Body, Tx};
use crate::StoreError;
use crate::error::ErrorKind;
use rusqlite::Connection;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot, watch};

/// Calls that may wait for the writer, and for the readers.
const QUEUE_CALLS_MAX: usize = 4096;
/// Calls in one commit.
const GROUP_CALLS_MAX: usize = 256;
/// Threads that read.
const READERS: usize = 4;
/// Bytes that the log grows by until the background thread is told to empty it. A page that changes at every commit is
/// moved once for all of them: a quarter of this cost a fifth of the server's processor time, measured.
const LOG_BYTES_BEHIND: u32 = 32 * 1024 * 1024;
/// Bytes that the log grows by until the writer empties it without waiting for the background thread. A server that was
/// killed reads the whole log before it is ready again, so it stays below 64 MiB.
const LOG_BYTES_MAX: u32 = 56 * 1024 * 1024;

/// Why the store does not write any more; empty while it does.
pub(crate) type Broken = watch::Sender<Option<String>>;

/// The kind of an error and its text with all causes: what is left of it once its caller has the error itself.
type Failed = (ErrorKind, String);

/// What became of the transaction that a call was part of: an error if nothing of the group was kept.
type Ending = Result<(), Failed>;

/// A call that waits.
trait Call: Send {
    /// Whether somebody still waits for the answer.
    fn is_wanted(&self) -> bool;
    /// Runs the body. An error means that what it did must be undone.
    fn run(&mut self, tx: &mut Tx) -> Result<(), Failed>;
    /// Tells the caller.
    fn answer(self: Box<Self>, ending: &Ending);
}

struct Waiting<A, T> {
    args: A,
    body: Body<A, T>,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<A: Send, T: Send> Call for Waiting<A, T> {
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn run(&mut self, tx: &mut Tx) -> Result<(), Failed> {
        let run = AssertUnwindSafe(|| {
            let mut body = (self.body)(tx, &self.args);
            match body.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => result,
                Poll::Pending => Err(StoreError::Statement("a statement on SQLite did not end at once".into())),
            }
        });
        let result = std::panic::catch_unwind(run)
            .unwrap_or_else(|_| Err(StoreError::Statement("the method panicked; see the log".into())));
        let ran = result.as_ref().map(drop).map_err(failed);
        self.outcome = Some(result);
        ran
    }

    fn answer(self: Box<Self>, ending: &Ending) {
        let answer = match (self.outcome, ending) {
            (Some(Err(error)), _) => Err(error),
            (Some(outcome), Ok(())) => outcome,
            (_, Err((kind, text))) => Err(lost(*kind, text)),
            (None, Ok(())) => Err(StoreError::Statement("the call was not run".into())),
        };
        // A caller that went away wants no answer.
        let _ = self.reply.send(answer);
    }
}

fn failed(error: &StoreError) -> Failed {
    (error.kind(), chain(error))
}

/// Makes one error for each call of a lost group.
fn lost(kind: ErrorKind, text: &str) -> StoreError {
    match kind {
        ErrorKind::Full => StoreError::Full(text.into()),
        ErrorKind::Broken => StoreError::Broken(text.into()),
        ErrorKind::Unavailable => StoreError::Unavailable(text.into()),
        _ => StoreError::Statement(text.into()),
    }
}

type Queue = mpsc::Sender<Box<dyn Call>>;
type Waiters = mpsc::Receiver<Box<dyn Call>>;

/// An open SQLite database.
pub(crate) struct Database {
    /// `None` only while it is being closed.
    queues: Option<Queues>,
    threads: Vec<JoinHandle<()>>,
}

struct Queues {
    write: Queue,
    read: Queue,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("sqlite::Database").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Database {
    /// Starts the threads on the file at `path`, whose lock and first connection are handed in.
    pub(crate) fn start(
        path: &Path,
        connection: Connection,
        lock: FileLock,
        broken: Broken,
    ) -> Result<Self, StoreError> {
        let lock = Arc::new(lock);
        let (write, write_queue) = mpsc::channel(QUEUE_CALLS_MAX);
        let (read, read_queue) = mpsc::channel(QUEUE_CALLS_MAX);
        let (full, nearly_full) = std::sync::mpsc::sync_channel(1);
        let emptied = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();

        let mut connection = connection;
        let pages = Arc::new(AtomicI32::new(0));
        let counter = Arc::clone(&pages);
        let count = move |_: &mut rusqlite::hooks::Wal, pages| {
            counter.store(pages, Ordering::Relaxed);
            Ok(())
        };
        connection.wal_hook(Some(count)).map_err(super::dialect::sqlite_error)?;
        let session = Box::new(Session::new(connection));
        let log = Log::new(sqlite::page_bytes(&session.connection)?, pages, full, Arc::clone(&emptied));
        let writer = Writer { tx: Tx::Sqlite(session), log, broken: broken.clone() };
        threads.push(start("muster-store-writer", &lock, move || writer.serve(write_queue))?);

        let read_queue = Arc::new(Mutex::new(read_queue));
        for _ in 0..READERS {
            let session = Box::new(Session::new(sqlite::connect(path, Use::Read)?));
            let queue = Arc::clone(&read_queue);
            threads.push(start("muster-store-reader", &lock, move || serve_reads(Tx::Sqlite(session), &queue))?);
        }
        let connection = sqlite::connect(path, Use::Write)?;
        threads.push(start("muster-store-log", &lock, move || {
            while nearly_full.recv().is_ok() {
                checkpoint(&connection, &broken);
                emptied.store(true, Ordering::Release);
            }
        })?);
        Ok(Self { queues: Some(Queues { write, read }), threads })
    }

    /// Runs a method on the writer's (or a reader's) connection and waits for its commit.
    pub(crate) async fn call<A, T>(&self, purpose: Use, args: A, body: Body<A, T>) -> Result<T, StoreError>
    where
        A: Send + 'static,
        T: Send + 'static,
    {
        let closed = || StoreError::Unavailable("the store was closed".into());
        let queues = self.queues.as_ref().ok_or_else(closed)?;
        let queue = if purpose == Use::Read { &queues.read } else { &queues.write };
        let (reply, answer) = oneshot::channel();
        queue.send(Box::new(Waiting { args, body, outcome: None, reply })).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.queues = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so in the log.
            let _ = thread.join();
        }
    }
}

fn start(name: &str, lock: &Arc<FileLock>, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let lock = Arc::clone(lock);
    let run = move || {
        run();
        drop(lock);
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|error| StoreError::Unavailable(error.into()))
}

fn session(tx: &Tx) -> &Session {
    match tx {
        Tx::Sqlite(session) => session,
        Tx::Postgres(_) => unreachable!("the threads of SQLite hold its sessions only"),
    }
}

fn serve_reads(mut tx: Tx, queue: &Mutex<Waiters>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(mut call) = next else { return };
        if !call.is_wanted() {
            continue;
        }
        let ending = session(&tx).run("BEGIN").map_err(|error| failed(&error));
        if ending.is_ok() {
            // Its error, if any, is in its outcome.
            let _ = call.run(&mut tx);
        }
        // A read leaves nothing to keep.
        if !session(&tx).connection.is_autocommit() && session(&tx).run("ROLLBACK").is_err() {
            tracing::warn!("a read transaction could not be ended");
        }
        call.answer(&ending);
    }
}

/// What keeps a call that fails from spoiling the others of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// Nothing: the first failure ends the transaction.
    None,
    /// A savepoint for each call, so that only what failed is undone.
    Savepoints,
}

struct Writer {
    tx: Tx,
    log: Log,
    broken: Broken,
}

/// How full the log is, and who empties it.
///
/// Most of it is moved in the background while the writer goes on; the writer then moves the little that came meanwhile,
/// so that the log is empty for a moment and begins anew in the same file. A log that is only ever emptied beside a busy
/// writer never begins anew: it grows, and every commit waits for the file system to note how long it is.
struct Log {
    /// Pages in it after the last commit.
    pages: Arc<AtomicI32>,
    /// Tells the background thread.
    full: std::sync::mpsc::SyncSender<()>,
    /// Set by the background thread when it is done.
    emptied: Arc<AtomicBool>,
    /// Whether it was told and is not done.
    is_told: bool,
    /// Pages that were moved when the log was last emptied, and are there only because a reader looks at them.
    known: i32,
    /// Pages that it grows by until the background thread is told, and until the writer does it.
    behind: i32,
    here: i32,
}

/// What is to be done about the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emptying {
    Nothing,
    /// The background thread is to be told.
    Behind,
    /// The writer does it.
    Here,
}

impl Log {
    fn new(
        page_bytes: u32,
        pages: Arc<AtomicI32>,
        full: std::sync::mpsc::SyncSender<()>,
        emptied: Arc<AtomicBool>,
    ) -> Self {
        let count = |bytes: u32| i32::try_from(bytes / page_bytes).unwrap_or(i32::MAX);
        let (behind, here) = (count(LOG_BYTES_BEHIND), count(LOG_BYTES_MAX));
        Self { pages, full, emptied, is_told: false, known: 0, behind, here }
    }

    /// Decides what is to be done after a commit.
    fn look(&mut self) -> Emptying {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < self.known {
            // It has begun anew.
            self.known = 0;
        }
        if self.is_told && self.emptied.swap(false, Ordering::Acquire) {
            self.is_told = false;
            return Emptying::Here;
        }
        match pages - self.known {
            grown if grown >= self.here => Emptying::Here,
            grown if grown >= self.behind && !self.is_told => Emptying::Behind,
            _ => Emptying::Nothing,
        }
    }

    /// Notes that the writer has emptied it.
    fn note_emptied(&mut self) {
        self.known = self.pages.load(Ordering::Relaxed);
    }
}

impl Writer {
    fn serve(mut self, mut queue: Waiters) {
        let mut group = Vec::with_capacity(GROUP_CALLS_MAX);
        while let Some(first) = queue.blocking_recv() {
            group.push(first);
            while group.len() < GROUP_CALLS_MAX {
                let Ok(next) = queue.try_recv() else { break };
                group.push(next);
            }
            group.retain(|call| call.is_wanted());
            match self.commit(&mut group) {
                // One call may have spoilt the transaction for all: each gets one of its own.
                Err((ErrorKind::Full | ErrorKind::Statement, _)) if group.len() > 1 => {
                    for mut call in group.drain(..) {
                        let ending = self.commit(std::slice::from_mut(&mut call));
                        call.answer(&ending);
                    }
                }
                ending => group.drain(..).for_each(|call| call.answer(&ending)),
            }
            self.empty_log();
        }
        checkpoint(&session(&self.tx).connection, &self.broken);
    }

    /// Runs the calls in one transaction.
    fn commit(&mut self, group: &mut [Box<dyn Call>]) -> Ending {
        if group.is_empty() {
            return Ok(());
        }
        if let Some(reason) = self.broken.borrow().clone() {
            return Err((ErrorKind::Broken, reason));
        }
        // A call rarely fails. A savepoint for each copies every page that it touches, so there are none until one does.
        let mut result = self.try_commit(group, Guard::None);
        if group.len() > 1 && matches!(&result, Err((kind, _)) if *kind != ErrorKind::Broken) {
            self.roll_back();
            result = self.try_commit(group, Guard::Savepoints);
        }
        self.roll_back();
        if let Err((ErrorKind::Broken, text)) = &result {
            say_broken(&self.broken, text);
        }
        result
    }

    fn roll_back(&self) {
        if !session(&self.tx).connection.is_autocommit() && session(&self.tx).run("ROLLBACK").is_err() {
            tracing::warn!("a transaction could not be rolled back");
        }
    }

    fn try_commit(&mut self, group: &mut [Box<dyn Call>], guard: Guard) -> Ending {
        self.run("BEGIN IMMEDIATE")?;
        for call in group {
            if guard == Guard::None {
                // Its error, if any, is in its outcome; what it did goes with the transaction.
                call.run(&mut self.tx)?;
                continue;
            }
            self.run("SAVEPOINT call")?;
            if let Err((kind, text)) = call.run(&mut self.tx) {
                // SQLite itself rolls back the whole transaction when the disk is full or fails.
                if kind == ErrorKind::Broken || session(&self.tx).connection.is_autocommit() {
                    return Err((kind, text));
                }
                self.run("ROLLBACK TO call")?;
            }
            self.run("RELEASE call")?;
        }
        self.run("COMMIT")
    }

    fn run(&self, sql: &'static str) -> Ending {
        session(&self.tx).run(sql).map_err(|error| failed(&error))
    }

    fn empty_log(&mut self) {
        match self.log.look() {
            Emptying::Nothing => {}
            // A thread that has ended takes nothing, and then the writer does it in time.
            Emptying::Behind => self.log.is_told = self.log.full.try_send(()).is_ok(),
            Emptying::Here => {
                checkpoint(&session(&self.tx).connection, &self.broken);
                self.log.note_emptied();
            }
        }
    }
}

/// Moves what is in the log into the database, as far as no reader needs it.
fn checkpoint(connection: &Connection, broken: &Broken) {
    let run = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    if let Err(error) = run.map_err(super::dialect::sqlite_error) {
        match error.kind() {
            ErrorKind::Broken => say_broken(broken, &chain(&error)),
            kind => tracing::warn!(?kind, error = %chain(&error), "the log of the database could not be emptied"),
        }
    }
}

fn say_broken(broken: &Broken, text: &str) {
    tracing::error!(error = %text, "writing to the database failed for good, nothing is written any more");
    broken.send_replace(Some(text.to_owned()));
}

/// The error with its causes, on one line.
pub(crate) fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_emptied_behind_the_writer_and_then_to_its_end_by_it() {
        let (full, told) = std::sync::mpsc::sync_channel(1);
        let (pages, emptied) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicBool::new(false)));
        let mut log = Log::new(4096, Arc::clone(&pages), full, Arc::clone(&emptied));
        let (behind, here) = (log.behind, log.here);
        assert_eq!((behind, here), (8192, 14_336));
        let look = |log: &mut Log, count| {
            pages.store(count, Ordering::Relaxed);
            log.look()
        };
        assert_eq!(look(&mut log, behind - 1), Emptying::Nothing);
        assert_eq!(look(&mut log, behind), Emptying::Behind);
        log.is_told = log.full.try_send(()).is_ok();
        assert_eq!(look(&mut log, behind + 9), Emptying::Nothing, "it was told");
        assert!(told.try_recv().is_ok());
        emptied.store(true, Ordering::Release);
        assert_eq!(look(&mut log, behind + 10), Emptying::Here, "what came meanwhile");
        log.note_emptied();
        // A reader kept it from beginning anew: what was moved is not moved again.
        assert_eq!(look(&mut log, behind + 11), Emptying::Nothing);
        assert_eq!(look(&mut log, 2 * behind + 10), Emptying::Behind);
        // Now it begins anew.
        assert_eq!(look(&mut log, 12), Emptying::Nothing);
        assert_eq!(look(&mut log, behind), Emptying::Behind);
        log.is_told = log.full.try_send(()).is_ok();
        assert_eq!(look(&mut log, here), Emptying::Here, "nobody came");
    }
}
