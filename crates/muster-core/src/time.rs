//! Time as a value: nanoseconds since 1970 in UTC, handed in by whoever has a clock.
//!
//! Nanoseconds, because a message's times travel as seconds and nanoseconds and must come back as they were sent.

use std::fmt;
use std::time::Duration;

/// A moment: nanoseconds since 1970-01-01T00:00:00Z, from the year 1678 to 2261.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

const NANOS_PER_SECOND: i64 = 1_000_000_000;

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);
    /// The last moment that can be written.
    pub const MAX: Self = Self(i64::MAX);

    /// Takes nanoseconds since 1970.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Takes whole seconds since 1970, cut to what can be written.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(NANOS_PER_SECOND))
    }

    /// Takes the pair that travels on the wire. `None` when the pair is no moment: nanoseconds outside 0…999,999,999,
    /// or a year that 64 bits of nanoseconds cannot hold.
    pub fn from_parts(seconds: i64, nanos: i32) -> Option<Self> {
        if !(0..1_000_000_000).contains(&nanos) {
            return None;
        }
        seconds.checked_mul(NANOS_PER_SECOND)?.checked_add(i64::from(nanos)).map(Self)
    }

    /// Returns seconds and the nanoseconds beyond them (0…999,999,999).
    pub fn to_parts(self) -> (i64, i32) {
        let nanos = self.0.rem_euclid(NANOS_PER_SECOND);
        let nanos = i32::try_from(nanos).expect("a remainder below 10^9 fits 31 bits");
        (self.0.div_euclid(NANOS_PER_SECOND), nanos)
    }

    /// Returns nanoseconds since 1970.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Returns the moment `later` after this one, cut to what can be written.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(later.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// Returns the moment `earlier` before this one, cut to what can be written.
    #[must_use]
    pub fn minus(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(earlier.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// Returns how long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    /// Writes RFC 3339 in UTC, such as `2026-01-02T03:04:05.000000006Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = jiff::Timestamp::from_nanosecond(i128::from(self.0)).map_err(|_| fmt::Error)?;
        write!(f, "{moment}")
    }
}

/// Why a text is not a moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time must be written like 2026-01-02T03:04:05Z, not {0:?}")]
pub struct TimestampError(String);

impl std::str::FromStr for Timestamp {
    type Err = TimestampError;
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let error = || TimestampError(text.chars().take(64).collect());
        let moment: jiff::Timestamp = text.parse().map_err(|_| error())?;
        i64::try_from(moment.as_nanosecond()).map(Self).map_err(|_| error())
    }
}

/// Who knows what time it is. A server has one; a test has one that it moves by hand.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Returns the present moment.
    fn now(&self) -> Timestamp;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_as_they_were() {
        for (seconds, nanos) in [(0, 0), (1, 999_999_999), (-1, 1), (-62, 0)] {
            assert_eq!(Timestamp::from_parts(seconds, nanos).unwrap().to_parts(), (seconds, nanos));
        }
    }

    #[test]
    fn what_is_no_moment_is_none() {
        // Year 300000, negative nanoseconds, nanoseconds beyond a second.
        for (seconds, nanos) in [(9_404_000_000_000, 0), (0, -1), (0, 2_000_000_000), (i64::MIN, 0)] {
            assert_eq!(Timestamp::from_parts(seconds, nanos), None);
        }
    }

    #[test]
    fn text_is_rfc_3339() {
        let moment = Timestamp::from_parts(1_767_323_045, 6).unwrap();
        assert_eq!(moment.to_string(), "2026-01-02T03:04:05.000000006Z");
        assert_eq!(moment.to_string().parse(), Ok(moment));
        assert!("yesterday".parse::<Timestamp>().is_err());
    }
}
