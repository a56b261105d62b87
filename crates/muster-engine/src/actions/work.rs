//! The work on actions: whichever server finds one due takes it under a lease, and does step after step.
//!
//! Stays true: a step that is lost is done by the next holder; agents that something waits for are woken after the step
//! is committed, and a wake-up that is lost is found by the sweep.

use crate::engine::Inner;
use crate::jobs::Failures;
use metrics::counter;
use muster_core::{Cause, limits};
use muster_store::StoreError;
use muster_store::actions::{ActionJob, ActionRetention, Next, WorkLimits};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// After how long a server looks for actions that fell due, unless it is told at once.
const POLL: Duration = Duration::from_secs(1);

impl Inner {
    /// Works on whatever action is due, until it is dropped.
    pub(crate) async fn actions_follow(self: Arc<Self>) {
        let mut failures = Failures::default();
        loop {
            failures.note(&self, "work on actions", self.actions_work().await);
            // A time-out is the usual case: it only sets the pace.
            let _ = timeout(POLL, self.actions.changed.notified()).await;
        }
    }

    /// Works on every action that is due.
    pub(crate) async fn actions_work(&self) -> Result<(), StoreError> {
        let lease = WorkLimits::default().lease;
        while let Some(job) = self.store.action_claim_due(self.server, lease, self.now()).await? {
            self.action_work(job).await?;
        }
        Ok(())
    }

    async fn action_work(&self, job: ActionJob) -> Result<(), StoreError> {
        loop {
            let worked = self.store.action_work(job, WorkLimits::default(), self.now()).await?;
            counter!("muster_engine_action_commands_total").increment(worked.commands);
            for (agent, streaming_to) in &worked.wake {
                self.agent_wake(*agent, Some(streaming_to));
            }
            if worked.next != Next::Now {
                return Ok(());
            }
        }
    }

    /// Deletes a portion of what is older than its retention. Returns how many rows there were.
    pub(crate) async fn actions_retention(&self) -> Result<u64, StoreError> {
        let now = self.now();
        let retention = ActionRetention {
            results_before: now.minus(self.config.result_retention),
            commands_before: now.minus(self.config.command_retention),
            sessions_before: now.minus(self.config.session_retention),
            stats_before: now.minus(self.config.statistics_retention),
        };
        self.store.action_retention_sweep(retention, limits::BATCH_ROWS).await
    }

    /// Makes the times after which agents are idle and offline those of the configuration. They are the database's, so
    /// that its views tell the same: of servers that disagree, the last one that starts decides.
    pub(crate) async fn agent_times_apply(&self) -> Result<(), StoreError> {
        let wanted = self.config.agent_times;
        if self.store.agent_times_get().await? == wanted {
            return Ok(());
        }
        let cause = Cause { reason: "as this server is configured".to_owned(), ..Cause::server() };
        self.store.agent_times_set(wanted, self.now(), &cause).await
    }

    /// Counts how the fleet stands, on one server.
    pub(crate) async fn stats_note(&self) -> Result<(), StoreError> {
        let lease = self.store.lease_claim("agents_stats", self.server, limits::JOB_LEASE, self.now()).await?;
        if let Some(lease) = lease {
            self.store.agents_stats_put(self.now()).await?;
            self.store.lease_release(&lease).await?;
        }
        Ok(())
    }
}
