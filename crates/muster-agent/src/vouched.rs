//! What is known of the time besides the clock: dates of certificates that people gave or that were verified, and when the
//! clock was last in agreement with them.
//!
//! Stays true: a clock counts for nothing until a server's certificate was valid by it, so that one that says 2040 leaves no
//! trace; nor does it once it ran ahead of the time that passed since. Not here: what follows of it (actions).

use muster_core::{Timestamp, limits};
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// When this program was made, in seconds since 1970; 0 where that is not known.
const BUILT: &str = env!("MUSTER_BUILT");

/// What is known of the time.
#[derive(Debug)]
pub(crate) struct Vouched(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The latest date of a certificate that was believed, or of this program.
    certified: Timestamp,
    /// The last handshake that was verified: what the clock said, and the moment by a clock that nobody sets.
    handshake: Option<(Timestamp, Instant)>,
    /// What the clock said at the first of them.
    first: Option<Timestamp>,
}

/// What can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// A moment that is past, by certificates.
    pub(crate) certified: Timestamp,
    /// A moment that is past, by the clock of this machine.
    pub(crate) clock: Timestamp,
    /// When a server was first reached since the agent began, by the clock; not after `clock`.
    pub(crate) reached: Timestamp,
}

impl Default for Vouched {
    fn default() -> Self {
        let built = BUILT.parse().map_or(Timestamp::EPOCH, Timestamp::from_secs);
        Self(Mutex::new(State { certified: built, handshake: None, first: None }))
    }
}

impl Vouched {
    /// A certificate that is believed was made at `not_before`.
    pub(crate) fn certificate(&self, not_before: Timestamp) {
        let mut state = self.state();
        state.certified = state.certified.max(not_before);
    }

    /// A server's certificate, made at `not_before`, was verified by the clock, which said `now`.
    pub(crate) fn handshake(&self, not_before: Timestamp, now: Timestamp) {
        self.certificate(not_before);
        let mut state = self.state();
        state.handshake = Some((now, Instant::now()));
        state.first.get_or_insert(now);
    }

    /// Returns what may be kept, when the clock says `now`. `None` before the first handshake.
    pub(crate) fn known(&self, now: Timestamp) -> Option<Known> {
        let state = self.state();
        let (said, at) = state.handshake?;
        let expected = said.plus(at.elapsed());
        let clock = if now <= expected.plus(limits::TIME_FLOOR_SLACK) { now } else { expected };
        Some(Known { certified: state.certified, clock, reached: state.first.unwrap_or(clock).min(clock) })
    }

    /// Returns the latest date that certificates and this program vouch for.
    pub(crate) fn certified(&self) -> Timestamp {
        self.state().certified
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(1_900_000_000 + seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn case_20_a_clock_is_kept_only_where_a_certificate_agreed_with_it() {
        let vouched = Vouched::default();
        vouched.certificate(at(-1000));
        assert_eq!(vouched.known(at(500_000_000)), None, "nobody was reached");
        vouched.handshake(at(-500), at(0));
        assert_eq!(vouched.known(at(0)), Some(Known { certified: at(-500), clock: at(0), reached: at(0) }));
        tokio::time::advance(Duration::from_mins(60)).await;
        assert_eq!(vouched.known(at(3600)).unwrap().clock, at(3600));
        assert_eq!(vouched.known(at(3590)).unwrap().clock, at(3590));
        assert_eq!(vouched.known(at(500_000_000)).unwrap().clock, at(3600), "it ran ahead of the time that passed");
        vouched.handshake(at(-9000), at(3600));
        assert_eq!(vouched.certified(), at(-500), "it never sinks");
        assert_eq!(vouched.known(at(3600)).unwrap().reached, at(0), "the first time counts");
        assert_eq!(vouched.known(at(-60)).unwrap().reached, at(-60), "the clock was set back since");
    }

    #[test]
    fn this_program_knows_when_it_was_made() {
        let built: i64 = BUILT.parse().unwrap();
        assert!(built == 0 || built > 1_700_000_000, "{built}");
    }
}
