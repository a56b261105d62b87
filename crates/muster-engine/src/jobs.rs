//! Jobs: what happens without anybody asking.
//!
//! Stays true: a job takes no hints but looks at what is, and running twice is harmless; what only one server should do
//! is done under a lease; a job that fails is tried again at its next turn.

use crate::engine::{Chain, Inner, lock};
use crate::handing::Unsent;
use crate::registry::wake;
use futures_util::{FutureExt, StreamExt, stream};
use metrics::counter;
use muster_core::{AgentId, ContactId, limits};
use muster_store::StoreError;
use muster_store::cluster::{Retention, ServerRow};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// How many ends of streams are told to the store at once.
const ENDS_AT_ONCE: usize = 32;

/// How old a file's content may become that has no name.
const CONTENT_LIFE: Duration = Duration::from_hours(1);

/// A stream that ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) agent: AgentId,
    pub(crate) contact: ContactId,
    /// Whether another stream of this server has taken its place.
    pub(crate) replaced: bool,
    /// Whether its agent knows a message that it was given before.
    pub(crate) remembers: bool,
}

/// What is to be told to the store of streams.
#[derive(Debug)]
pub(crate) enum Over {
    /// A stream ended.
    Stream(Ended),
    /// Messages that a stream claimed never left.
    Unsent(Unsent),
}

/// How often in a row a job has failed: only the first time is worth a warning.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    in_a_row: u64,
}

impl Failures {
    pub(crate) fn note(&mut self, inner: &Inner, doing: &'static str, done: Result<(), StoreError>) {
        match done {
            Ok(()) if self.in_a_row > 0 => {
                info!(failures = self.in_a_row, "could {doing} again");
                self.in_a_row = 0;
            }
            Ok(()) => {}
            Err(failure) if self.in_a_row == 0 => {
                inner.job_failed(doing, &failure);
                self.in_a_row = 1;
            }
            Err(failure) => {
                inner.saw(&failure);
                counter!("muster_engine_job_failures_total").increment(1);
                debug!(error = %Chain(&failure), failures = self.in_a_row, "could still not {doing}");
                self.in_a_row += 1;
            }
        }
    }
}

impl Inner {
    pub(crate) async fn run(self: &Arc<Self>, stop: CancellationToken) {
        let (jobs_stop, hard_stop) = (CancellationToken::new(), CancellationToken::new());
        if let Err(failure) = self.server_beat().await {
            self.job_failed("say that this server lives", &failure);
        }
        self.dispatch_start(&hard_stop);
        self.jobs_start(&jobs_stop);
        self.ends_start(&hard_stop);
        stop.cancelled().await;
        self.drain(&jobs_stop, &hard_stop).await;
    }

    /// Starts the jobs, each with its own pace.
    fn jobs_start(self: &Arc<Self>, stop: &CancellationToken) {
        self.job(
            stop,
            limits::SERVER_BEAT,
            "say that this server lives",
            |inner| async move { inner.server_beat().await },
        );
        self.job(stop, limits::STATE_CHECK, "look at the states of agents", |inner| async move {
            inner.states_sweep().await
        });
        self.job(stop, limits::WAKE_SWEEP, "look for lost wake-ups", |inner| async move { inner.wake_sweep().await });
        // Well before what is heard of so late would count as idle.
        let every = limits::HEARD_EVERY.min(self.config.agent_times.idle_after / 2);
        self.job(stop, every, "note whose streams are held", |inner| async move { inner.heard_note().await });
        self.job(stop, limits::OVERDUE_SCAN, "take overdue messages", |inner| async move {
            inner.overdue_scan().await.map(drop)
        });
        self.job(stop, limits::SERVICE_KEEP_EVERY, "keep messages for services", |inner| async move {
            inner.services_keep().await
        });
        self.job(stop, limits::SERVICE_TRY_EVERY, "try services that take nothing", |inner| async move {
            inner.services_try().await
        });
        self.job(stop, limits::ROOM_CHECK_EVERY, "look for room on the disk", |inner| async move {
            inner.room_look().await
        });
        self.job(stop, limits::PARK_EVERY, "park messages and take shares back", |inner| async move {
            inner.gates.forget();
            inner.dispatch.gauges();
            inner.park().await
        });
        self.job(stop, limits::RETENTION_EVERY, "delete old rows", |inner| async move { inner.retention().await });
        let (inner, token) = (Arc::clone(self), stop.clone());
        self.tasks.spawn(async move { token.run_until_cancelled(inner.broadcasts_follow()).await });
        let every = self.config.statistics_every;
        self.job(stop, every, "count how the fleet stands", |inner| async move { inner.stats_note().await });
        let (inner, token) = (Arc::clone(self), stop.clone());
        self.tasks.spawn(async move { token.run_until_cancelled(inner.actions_follow()).await });
        let (inner, token) = (Arc::clone(self), stop.clone());
        self.tasks.spawn(async move { token.run_until_cancelled(inner.wakeups_send()).await });
    }

    /// Runs `work` at once and then every `period`, until `stop`. A turn that takes longer than a period delays the
    /// next one.
    fn job<F, W>(self: &Arc<Self>, stop: &CancellationToken, period: Duration, doing: &'static str, work: W)
    where
        W: Fn(Arc<Inner>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), StoreError>> + Send,
    {
        let (inner, stop) = (Arc::clone(self), stop.clone());
        let turns = async move {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut failures = Failures::default();
            loop {
                ticks.tick().await;
                // A turn that panics is a defect, and still must not be the job's last.
                if let Ok(done) = AssertUnwindSafe(work(Arc::clone(&inner))).catch_unwind().await {
                    failures.note(&inner, doing, done);
                } else {
                    error!("a job of this server ended abnormally, it goes on: {doing}");
                }
            }
        };
        self.tasks.spawn(async move { stop.run_until_cancelled(turns).await });
    }

    fn job_failed(&self, doing: &'static str, failure: &StoreError) {
        self.saw(failure);
        counter!("muster_engine_job_failures_total").increment(1);
        // One for each stream that ends, for one.
        if let Some(more) = self.gates.trouble_line(doing) {
            warn!(error = %Chain(failure), more, "could not {doing}, trying again");
        } else {
            debug!(error = %Chain(failure), "could not {doing}, trying again");
        }
    }

    pub(crate) async fn server_beat(&self) -> Result<(), StoreError> {
        let now = self.now();
        let wake_url = self.streaming_to.clone();
        let row = ServerRow { id: self.server, wake_url, started: self.started, beat: now };
        let living = self.store.server_beat(row, now.minus(limits::SERVER_DEAD)).await?;
        self.broadcasts.servers_note(living);
        Ok(())
    }

    /// Brings the states of agents to their streams, whichever server changed them.
    pub(crate) async fn states_sweep(&self) -> Result<(), StoreError> {
        for page in self.streams.agents().chunks(page_len()) {
            let states = self.store.agent_states(page).await?;
            for (agent, state) in states {
                if let Some(stream) = self.streams.get(agent) {
                    stream.state_note(state);
                }
            }
        }
        Ok(())
    }

    /// Notes that the machines whose streams this server holds are in contact.
    pub(crate) async fn heard_note(&self) -> Result<(), StoreError> {
        for page in self.streams.agents().chunks(page_len()) {
            self.store.agents_heard(page, self.now()).await?;
        }
        Ok(())
    }

    /// Wakes the streams for which something is due of which no wake-up came.
    pub(crate) async fn wake_sweep(&self) -> Result<(), StoreError> {
        for page in self.streams.agents().chunks(page_len()) {
            let due = self.store.message_agents_due(page, self.now()).await?;
            let woken = self.streams.wake(&due, wake::MESSAGES);
            counter!("muster_engine_wakeups_total", "way" => "sweep").increment(woken as u64);
        }
        Ok(())
    }

    /// Follows the list of broadcasts: every few seconds, and at once when somebody says that it has changed.
    async fn broadcasts_follow(self: Arc<Self>) {
        let (mut looks, mut ends) = (Failures::default(), Failures::default());
        loop {
            looks.note(&self, "look for broadcasts", self.broadcasts_refresh().await);
            ends.note(&self, "end shares of broadcasts", self.shares_end().await);
            // A time-out is the usual case: it only sets the pace.
            let _ = timeout(limits::BROADCAST_POLL, self.broadcasts.changed()).await;
        }
    }

    /// Parks messages whose time is over and takes back what dead servers hold of broadcasts.
    pub(crate) async fn park(&self) -> Result<(), StoreError> {
        let Some(lease) = self.store.lease_claim("park", self.server, limits::JOB_LEASE, self.now()).await? else {
            return Ok(());
        };
        let reclaimed = self.store.allocation_reclaim(self.now()).await?;
        if reclaimed > 0 {
            info!(reclaimed, "took back shares of broadcasts that had lapsed");
            self.broadcasts.look_again();
        }
        loop {
            let parked = self.store.message_park_expired(self.now(), limits::BATCH_ROWS).await?;
            counter!("muster_engine_messages_parked_total").increment(parked);
            if parked < u64::from(limits::BATCH_ROWS) || !self.lease_keep("park").await? {
                break;
            }
        }
        self.store.lease_release(&lease).await
    }

    /// Deletes what is older than its retention, batch by batch, so that nobody waits long for the database.
    pub(crate) async fn retention(&self) -> Result<(), StoreError> {
        let Some(lease) = self.store.lease_claim("retention", self.server, limits::JOB_LEASE, self.now()).await? else {
            return Ok(());
        };
        let now = self.now();
        let retention = Retention {
            contacts_before: now.minus(self.config.contact_retention),
            contents_before: now.minus(CONTENT_LIFE),
            broadcasts_before: now.minus(self.config.message_retention),
            clones_before: now.minus(limits::CLONE_FORGOTTEN),
        };
        let messages_before = now.minus(self.config.message_retention);
        let (mut total, mut messages_after) = (0, Some(0));
        loop {
            let mut deleted = self.store.retention_sweep(retention, limits::BATCH_ROWS).await?;
            deleted += self.actions_retention().await?;
            if let Some(after) = messages_after {
                let swept = self.store.messages_sweep(messages_before, after, limits::BATCH_ROWS).await?;
                deleted += swept.deleted;
                messages_after = swept.next;
            }
            total += deleted;
            let is_done = deleted == 0 && messages_after.is_none();
            if is_done || !self.lease_keep("retention").await? {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        counter!("muster_engine_rows_deleted_total").increment(total);
        debug!(rows = total, "deleted old rows");
        self.store.lease_release(&lease).await
    }

    async fn lease_keep(&self, job: &'static str) -> Result<bool, StoreError> {
        Ok(self.store.lease_claim(job, self.server, limits::JOB_LEASE, self.now()).await?.is_some())
    }

    fn ends_start(self: &Arc<Self>, hard_stop: &CancellationToken) {
        let Some(ended) = lock(&self.ended_waiting).take() else {
            return;
        };
        let (inner, stop) = (Arc::clone(self), hard_stop.clone());
        self.tasks.spawn(async move { stop.run_until_cancelled(inner.ends_follow(ended)).await });
    }

    /// Tells the store of streams that ended, many at once.
    async fn ends_follow(self: Arc<Self>, ended: mpsc::UnboundedReceiver<Over>) {
        let (ended, inner) = (stream::unfold(ended, async |mut ended| Some((ended.recv().await?, ended))), &self);
        ended
            .for_each_concurrent(ENDS_AT_ONCE, |over| async move {
                let (doing, done) = match over {
                    Over::Stream(ended) => ("note the end of a stream", inner.stream_end(ended).await),
                    Over::Unsent(unsent) => ("give back what was not sent", inner.unsent_return(unsent).await),
                };
                if let Err(failure) = done {
                    inner.job_failed(doing, &failure);
                }
                inner.ends_open.fetch_sub(1, Ordering::AcqRel);
            })
            .await;
    }

    /// Makes messages due at once that a stream claimed and that never left.
    async fn unsent_return(&self, Unsent { agent, contact, ids }: Unsent) -> Result<(), StoreError> {
        let due = self.now().minus(limits::CLOCK_SKEW);
        let returned = self.store.message_unclaim(agent, contact, ids, due).await?;
        counter!("muster_engine_messages_unsent_total").increment(returned);
        // The agent may hold a newer stream already.
        self.streams.wake(&[agent], wake::MESSAGES);
        Ok(())
    }

    /// Notes the end of a stream. What it was handed and did not acknowledge falls due again soon when its agent knows what
    /// it was given; any other agent may be running it, and would run it a second time.
    pub(crate) async fn stream_end(&self, ended: Ended) -> Result<(), StoreError> {
        self.store.stream_end(ended.agent, ended.contact).await?;
        if !ended.remembers || ended.replaced || self.streams.get(ended.agent).is_some() {
            return Ok(());
        }
        // Another server may hold a newer stream by now, and what that one was handed is none of ours.
        let agent = self.store.agent_get(ended.agent).await?;
        if agent.is_some_and(|agent| agent.streaming_to.is_empty()) {
            self.store.message_release(ended.agent, self.now().plus(limits::STREAM_RELEASE)).await?;
        }
        Ok(())
    }

    /// Ends everything, within [`limits::DRAIN`]: streams are told, calls under way finish, shares and the server's
    /// own row are given back.
    async fn drain(&self, jobs_stop: &CancellationToken, hard_stop: &CancellationToken) {
        let deadline = Instant::now() + limits::DRAIN.mul_f32(0.8);
        self.stopping.cancel();
        jobs_stop.cancel();
        self.streams.wake_all(wake::LOOK);
        let is_quiet =
            || self.streams.len() == 0 && self.dispatch.is_idle() && self.ends_open.load(Ordering::Acquire) == 0;
        while Instant::now() < deadline && !is_quiet() {
            sleep(Duration::from_millis(10)).await;
        }
        let left = Instant::now() + limits::DRAIN.mul_f32(0.2);
        let farewell = async {
            if let Err(failure) = self.shares_end_all().await {
                self.job_failed("end shares of broadcasts", &failure);
            }
            if let Err(failure) = self.store.server_end(self.server).await {
                self.job_failed("say that this server ends", &failure);
            }
        };
        if timeout_at(left, farewell).await.is_err() {
            warn!("the database did not answer in time; what this server held lapses by itself");
        }
        hard_stop.cancel();
        self.tasks.close();
        if timeout_at(left, self.tasks.wait()).await.is_err() {
            warn!("some work of this server did not end in time; what it was about falls due again");
        }
    }
}

fn page_len() -> usize {
    usize::try_from(limits::PAGE_ROWS_MAX).expect("1000 fits any usize")
}
