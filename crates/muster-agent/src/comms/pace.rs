//! When to poll next. Pure: time and randomness are arguments.

use std::time::Duration;
use tokio::time::Instant;

/// Shortest pause between polls while something is going on.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// The state of a polling agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Longest pause, before it is stretched.
    pub(crate) longest: Duration,
    /// How long background messages may wait, before it is stretched.
    pub(crate) buffer: Duration,
    /// When the last poll was.
    pub(crate) polled: Instant,
    /// When something was last said or heard that is not background.
    pub(crate) active: Option<Instant>,
}

impl Pace {
    /// Returns when the next poll is due. `background_since` tells since when background messages wait; `jitter` is
    /// drawn from 0 to 1 once per poll.
    pub(crate) fn due(&self, background_since: Option<Instant>, jitter: f64) -> Instant {
        let stretch = 1.0 + jitter.clamp(0.0, 1.0) / 2.0;
        let idle = self.polled + self.longest.mul_f64(stretch);
        let busy = self.active.map(|active| {
            // The longer nothing happens, the longer the pauses: a tenth of the silence.
            let silence = self.polled.saturating_duration_since(active);
            self.polled + BUSY_PAUSE + silence / 10
        });
        let buffered = background_since.map(|since| since + self.buffer.mul_f64(stretch));
        [busy, buffered].into_iter().flatten().fold(idle, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn pace(start: Instant, polled: f64, active: Option<f64>) -> Pace {
        Pace {
            longest: seconds(300.0),
            buffer: seconds(5.0),
            polled: start + seconds(polled),
            active: active.map(|active| start + seconds(active)),
        }
    }

    #[tokio::test]
    async fn a_quiet_machine_polls_after_the_longest_pause_stretched_by_up_to_half() {
        let start = Instant::now();
        assert_eq!(pace(start, 10.0, None).due(None, 0.0), start + seconds(310.0));
        assert_eq!(pace(start, 10.0, None).due(None, 1.0), start + seconds(460.0));
    }

    #[tokio::test]
    async fn pauses_grow_with_the_silence_and_never_beyond_the_longest() {
        let start = Instant::now();
        assert_eq!(pace(start, 10.0, Some(10.0)).due(None, 0.5), start + seconds(10.2));
        assert_eq!(pace(start, 20.0, Some(10.0)).due(None, 0.5), start + seconds(21.2));
        assert_eq!(pace(start, 9010.0, Some(10.0)).due(None, 0.0), start + seconds(9310.0));
    }

    #[tokio::test]
    async fn background_messages_wait_for_their_own_time_only() {
        let start = Instant::now();
        let background = Some(start + seconds(11.0));
        assert_eq!(pace(start, 10.0, None).due(background, 0.0), start + seconds(16.0));
        assert_eq!(pace(start, 10.0, Some(10.0)).due(background, 0.0), start + seconds(10.2));
    }
}
