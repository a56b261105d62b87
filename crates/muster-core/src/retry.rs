//! When something that did not work is tried again.

use crate::{Timestamp, limits};
use std::time::Duration;

/// When a message to a service of the server falls due again after `attempts` tries: 60 s × 1.1^attempts × (1 + jitter)
/// (Fleetspeak's rule). `jitter` is drawn from 0 (included) to 1 (excluded) by the caller.
pub fn service_due(now: Timestamp, attempts: u32, jitter: f64) -> Timestamp {
    let factor = 1.1_f64.powi(attempts.min(100).cast_signed()) * (1.0 + jitter.clamp(0.0, 1.0));
    now.plus(limits::SERVICE_RETRY.mul_f64(factor))
}

/// How long to wait before try number `attempts` (0 for the first repeat): doubling from `first` to `most`, of which
/// `jitter` (0 to 1) takes up to half away, so that many who failed together do not return together. Tries never end.
pub fn backoff(first: Duration, most: Duration, attempts: u32, jitter: f64) -> Duration {
    let full = first.saturating_mul(1_u32.checked_shl(attempts).unwrap_or(u32::MAX)).min(most);
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_tried_again_after_one_to_two_minutes_and_then_less_often() {
        let after = |attempts, jitter| service_due(Timestamp::EPOCH, attempts, jitter).since(Timestamp::EPOCH);
        assert_eq!(after(0, 0.0), Duration::from_secs(60));
        assert_eq!(after(0, 1.0), Duration::from_secs(120));
        assert!(after(10, 0.0) > Duration::from_secs(155) && after(10, 0.0) < Duration::from_secs(156));
        assert!(after(u32::MAX, 1.0) < Duration::from_secs(86_400 * 365));
    }

    #[test]
    fn a_backoff_doubles_up_to_its_ceiling_and_never_ends() {
        let wait = |attempts| backoff(Duration::from_secs(1), Duration::from_secs(60), attempts, 0.0).as_secs();
        assert_eq!(
            [wait(0), wait(1), wait(5), wait(6), wait(31), wait(32), wait(u32::MAX)],
            [1, 2, 32, 60, 60, 60, 60]
        );
        assert_eq!(backoff(Duration::from_secs(8), Duration::MAX, 0, 1.0), Duration::from_secs(4));
    }
}
