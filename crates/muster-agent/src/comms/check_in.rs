//! Calling once: taking what waits, and staying until all that came of it is delivered.

use super::connect::Connection;
use super::{ContactError, Link, poll};
use crate::chain::Chain;
use muster_core::AgentId;
use std::time::Duration;
use tokio::time::Instant;

/// Calls in a row that bring nothing, with nothing under way, before all is said. A server hands out what it has for a
/// machine that is new, or whose facts are, a moment after it has seen them.
const QUIET_CALLS: u32 = 3;
/// The pause between calls that bring nothing.
const QUIET_PAUSE: Duration = Duration::from_secs(1);
/// How long the last call may take, which only says that this machine is gone.
const LAST_CALL_MAX: Duration = Duration::from_secs(5);
/// The pause between calls while something is worked on.
const BUSY_PAUSE: Duration = Duration::from_secs(10);

impl Link {
    /// Calls until nothing is left to take, to do or to deliver, and says at last that this machine is gone. The error is
    /// why no server could be used.
    pub(crate) async fn check_in(&self) -> Result<(), ContactError> {
        let mut connection = None;
        let mut revoked_due = Instant::now();
        let mut quiet = 0;
        while quiet < QUIET_CALLS && !self.stop.is_cancelled() {
            self.hub.flush_acks().await;
            let brought = self.call(&mut connection, &mut revoked_due).await?;
            let is_busy = !self.hub.is_idle();
            if brought || is_busy || self.hub.outbox().len() > 0 {
                quiet = 0;
            } else {
                quiet += 1;
            }
            if self.hub.outbox().has_ready(false) {
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(if is_busy { BUSY_PAUSE } else { QUIET_PAUSE }) => {}
                () = self.hub.outbox().ready(), if is_busy => {}
                () = self.hub.places_freed(), if is_busy => {}
                () = self.stop.cancelled() => {}
            }
        }
        self.say_gone(connection, &mut revoked_due).await;
        Ok(())
    }

    /// Says that this machine is gone until it calls again, so that it does not count as online. What is under way is
    /// delivered already: a failure here costs nothing else.
    async fn say_gone(&self, kept: Option<(AgentId, Connection)>, revoked_due: &mut Instant) {
        let identity = self.identity.borrow().clone();
        let mut connection = kept.filter(|(as_whom, _)| *as_whom == identity.id).map(|(_, connection)| connection);
        let last = poll::poll(self, &identity, &mut connection, (revoked_due, true));
        match tokio::time::timeout(LAST_CALL_MAX, last).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = %Chain(&error), "the server may not know that this machine is gone");
            }
            Err(_) => tracing::debug!("the server did not answer in time that it knows that this machine is gone"),
        }
    }

    /// Calls once, at each server in turn until one is of use. Returns whether it had messages, or may have more.
    async fn call(
        &self,
        kept: &mut Option<(AgentId, Connection)>,
        revoked_due: &mut Instant,
    ) -> Result<bool, ContactError> {
        let mut tries = self.dialer.servers();
        loop {
            let identity = self.identity.borrow().clone();
            // Another key needs another connection.
            if kept.as_ref().is_some_and(|(as_whom, _)| *as_whom != identity.id) {
                *kept = None;
            }
            let mut connection = kept.take().map(|(_, connection)| connection);
            let polled = poll::poll(self, &identity, &mut connection, (&mut *revoked_due, false)).await;
            *kept = connection.map(|connection| (identity.id, connection));
            match polled {
                Ok(polled) => return Ok(polled.brought_messages || polled.more_waits),
                Err(error) => {
                    self.standing_bad(&error);
                    tries = tries.saturating_sub(1);
                    let Some(server) = error.server().filter(|_| tries > 0) else { return Err(error) };
                    self.dialer.put_last(server);
                }
            }
        }
    }
}
