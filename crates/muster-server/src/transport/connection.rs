//! One connection: who is at its other end, and whether they still take and give.

use super::identity::Presented;
use muster_core::limits;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// How long a connection may stay without a request.
const IDLE: Duration = Duration::from_secs(30);
/// Files that one agent reads at once; each holds a piece in memory, even when its reader takes nothing.
const FILES_AT_ONCE: usize = 4;
/// The same for a proxy that carries many agents.
const PROXY_FILES_AT_ONCE: usize = 128;

/// One connection, shared by its task, its requests and the sweep over all of them.
#[derive(Debug)]
pub(super) struct Connection {
    /// What it presented in the TLS handshake.
    pub(super) presented: Presented,
    /// Where its requests come from, as `ip:port`: what the PROXY protocol says, else the peer.
    pub(super) address: String,
    /// Who is really at the other end of the socket; `None` for a local socket.
    pub(super) peer: Option<IpAddr>,
    started: Instant,
    /// Since when a write waits, in milliseconds after `started`; 0 when none does.
    write_waits: AtomicU64,
    /// For each body that is watched: since when a piece is ready that nobody takes, in the same way.
    bodies: Mutex<Vec<Arc<AtomicU64>>>,
    requests: AtomicU32,
    /// When the last request was over, in the same way.
    last_request: AtomicU64,
    head_expected: AtomicBool,
    /// Turns of answers that give out a file.
    pub(super) files: Arc<Semaphore>,
    kill: Notify,
}

impl Connection {
    pub(super) fn new(presented: Presented, address: String, peer: Option<IpAddr>) -> Arc<Self> {
        Arc::new(Self {
            presented,
            address,
            peer,
            started: Instant::now(),
            write_waits: AtomicU64::new(0),
            bodies: Mutex::new(Vec::new()),
            requests: AtomicU32::new(0),
            last_request: AtomicU64::new(0),
            head_expected: AtomicBool::new(false),
            files: Arc::new(Semaphore::new(FILES_AT_ONCE)),
            kill: Notify::new(),
        })
    }

    /// Notes that a proxy is at the other end, and many agents behind it.
    pub(super) fn carries_many(&self) {
        self.files.add_permits(PROXY_FILES_AT_ONCE - FILES_AT_ONCE);
    }

    /// Milliseconds since the start, from 1 on, because 0 means "not".
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Notes that a write was or was not taken by the socket.
    pub(super) fn wrote(&self, done: bool) {
        if done {
            self.write_waits.store(0, Ordering::Relaxed);
        } else {
            let now = self.now_ms();
            // A failure means that it waits already, from an earlier moment.
            let _ = self.write_waits.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Starts the watch over a body.
    pub(super) fn stall(self: &Arc<Self>) -> Stall {
        let cell = Arc::new(AtomicU64::new(self.now_ms()));
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&cell));
        Stall { cell, connection: Arc::clone(self) }
    }

    /// Notes a request that begins; it is over when the returned value is dropped.
    pub(super) fn request(self: &Arc<Self>) -> Flight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Flight(Arc::clone(self))
    }

    /// Notes that what is read next is the head of a request.
    pub(super) fn head_expect(&self) {
        self.head_expected.store(true, Ordering::Relaxed);
    }

    /// Whether a head was announced; once.
    pub(super) fn head_expected(&self) -> bool {
        self.head_expected.swap(false, Ordering::Relaxed)
    }

    /// Why the connection should be closed, if it should.
    pub(super) fn overdue(&self) -> Option<&'static str> {
        let now = self.now_ms();
        let over = |since: u64, limit: Duration| since > 0 && Duration::from_millis(now.saturating_sub(since)) > limit;
        if over(self.write_waits.load(Ordering::Relaxed), limits::SLOW_WRITE) {
            return Some("slow_reader");
        }
        let bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        if bodies.iter().any(|cell| over(cell.load(Ordering::Relaxed), limits::SLOW_WRITE)) {
            return Some("slow_reader");
        }
        let idle_since = self.last_request.load(Ordering::Relaxed).max(1);
        (self.requests.load(Ordering::Relaxed) == 0 && over(idle_since, IDLE)).then_some("idle")
    }

    /// Ends the connection at once.
    pub(super) fn kill(&self) {
        self.kill.notify_one();
    }

    /// Waits until the connection must end at once.
    pub(super) async fn killed(&self) {
        self.kill.notified().await;
    }
}

/// The watch over one body.
#[derive(Debug)]
pub(super) struct Stall {
    cell: Arc<AtomicU64>,
    connection: Arc<Connection>,
}

impl Stall {
    /// Notes that the body was asked for a piece, and whether it had one: then it is on its reader to ask again.
    pub(super) fn polled(&self, ready: bool) {
        self.cell.store(if ready { self.connection.now_ms() } else { 0 }, Ordering::Relaxed);
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let mut bodies = self.connection.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.retain(|cell| !Arc::ptr_eq(cell, &self.cell));
    }
}

/// A request that is under way, until its answer is written.
#[derive(Debug)]
pub(super) struct Flight(Arc<Connection>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.last_request.store(self.0.now_ms(), Ordering::Relaxed);
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Arc<Connection> {
        Connection::new(Presented::Nothing, "127.0.0.1:1".into(), None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_noticed() {
        let connection = connection();
        let _flight = connection.request();
        connection.wrote(false);
        tokio::time::advance(limits::SLOW_WRITE).await;
        connection.wrote(false);
        assert_eq!(connection.overdue(), None);
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(connection.overdue(), Some("slow_reader"));
        connection.wrote(true);
        assert_eq!(connection.overdue(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_nobody_asks_for_is_noticed_and_one_that_waits_is_not() {
        let connection = connection();
        let _flight = connection.request();
        let stall = connection.stall();
        stall.polled(false);
        tokio::time::advance(limits::SLOW_WRITE * 100).await;
        assert_eq!(connection.overdue(), None);
        stall.polled(true);
        tokio::time::advance(limits::SLOW_WRITE * 2).await;
        assert_eq!(connection.overdue(), Some("slow_reader"));
        drop(stall);
        assert_eq!(connection.overdue(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_ends() {
        let connection = connection();
        let flight = connection.request();
        tokio::time::advance(IDLE * 2).await;
        assert_eq!(connection.overdue(), None);
        drop(flight);
        tokio::time::advance(IDLE).await;
        assert_eq!(connection.overdue(), None);
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(connection.overdue(), Some("idle"));
    }
}
