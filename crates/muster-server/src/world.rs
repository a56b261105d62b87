//! The world as a server has it: the system's clock and its source of random bytes. Tests hand in their own.

use muster_core::{Clock, Timestamp};
use muster_engine::Random;
use std::time::{SystemTime, UNIX_EPOCH};

/// The system's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one clock that is handed in everywhere else")]
    fn now(&self) -> Timestamp {
        let now = SystemTime::now();
        let nanos = match now.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
        };
        Timestamp::from_nanos(nanos)
    }
}

/// The system's random bytes, through a generator that is seeded from it.
#[derive(Debug, Clone, Copy)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[expect(clippy::disallowed_methods, reason = "this is the one source that is handed in everywhere else")]
    fn fill(&self, bytes: &mut [u8]) {
        rand::Rng::fill_bytes(&mut rand::rng(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_from_the_present() {
        let first = SystemClock.now();
        assert!(first > Timestamp::from_secs(1_700_000_000) && SystemClock.now() >= first);
    }

    #[test]
    fn two_draws_differ() {
        let draw = || {
            let mut bytes = [0; 32];
            SystemRandom.fill(&mut bytes);
            bytes
        };
        assert_ne!(draw(), draw());
    }
}
