//! Lengths of time as SQL writes them, and moving moments by them.

use super::Shift;
use crate::Timestamp;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span};
use std::fmt;

/// A length of time. A month is as long as it is in the calendar; a day has 24 hours, because all times are UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interval {
    /// Months, and years of twelve.
    pub months: u32,
    /// Days, and weeks of seven.
    pub days: u32,
    /// Seconds, minutes and hours.
    pub seconds: u64,
}

/// The greatest number before a unit: 10,000 years of days fit, and nothing overflows.
const NUMBER_MAX: u32 = 9_999_999;

impl Interval {
    /// Reads `30 days`, `1 hour 30 minutes` and the like. `None` when it is no length of time.
    pub fn parse(text: &str) -> Option<Self> {
        let mut interval = Self::default();
        let mut words = text.split_ascii_whitespace().peekable();
        words.peek()?;
        while let Some(number) = words.next() {
            // A unit may stand right after its number.
            let digits = number.len() - number.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
            let (number, unit) = number.split_at(digits);
            let unit = if unit.is_empty() { words.next()? } else { unit };
            interval.add(number.parse().ok().filter(|number| *number <= NUMBER_MAX)?, unit)?;
        }
        Some(interval)
    }

    fn add(&mut self, number: u32, unit: &str) -> Option<()> {
        let unit = unit.to_ascii_lowercase();
        let seconds = |each: u64| u64::from(number) * each;
        match unit.as_str() {
            "s" | "sec" | "secs" | "second" | "seconds" => self.seconds = self.seconds.checked_add(seconds(1))?,
            "min" | "mins" | "minute" | "minutes" => self.seconds = self.seconds.checked_add(seconds(60))?,
            "h" | "hour" | "hours" => self.seconds = self.seconds.checked_add(seconds(3600))?,
            "d" | "day" | "days" => self.days = self.days.checked_add(number)?,
            "w" | "week" | "weeks" => self.days = self.days.checked_add(number.checked_mul(7)?)?,
            "mon" | "mons" | "month" | "months" => self.months = self.months.checked_add(number)?,
            "y" | "year" | "years" => self.months = self.months.checked_add(number.checked_mul(12)?)?,
            _ => return None,
        }
        Some(())
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(u64::from(self.months), "months"), (u64::from(self.days), "days"), (self.seconds, "seconds")];
        let mut words = Vec::new();
        for (mut number, unit) in parts {
            while number > 0 {
                let part = number.min(u64::from(NUMBER_MAX));
                words.push(format!("{part} {unit}"));
                number -= part;
            }
        }
        if words.is_empty() { f.write_str("0 seconds") } else { f.write_str(&words.join(" ")) }
    }
}

/// Returns `now` moved by `shifts`, one after the other: first months, then days, then seconds, as PostgreSQL does.
/// What cannot be written as a moment is the first or the last that can.
pub(super) fn moved(now: Timestamp, shifts: &[Shift]) -> Timestamp {
    shifts.iter().fold(now, |moment, shift| {
        let end = if shift.back { Timestamp::from_nanos(i64::MIN) } else { Timestamp::MAX };
        step(moment, *shift).unwrap_or(end)
    })
}

fn step(moment: Timestamp, Shift { back, interval }: Shift) -> Option<Timestamp> {
    let sign: i64 = if back { -1 } else { 1 };
    let start = jiff::Timestamp::from_nanosecond(i128::from(moment.as_nanos())).ok()?;
    let calendar = Span::new()
        .try_months(sign * i64::from(interval.months))
        .and_then(|span| span.try_days(sign * i64::from(interval.days)))
        .ok()?;
    let day = start.to_zoned(TimeZone::UTC).checked_add(calendar).ok()?.timestamp();
    let seconds = SignedDuration::from_secs(sign * i64::try_from(interval.seconds).ok()?);
    i64::try_from(day.checked_add(seconds).ok()?.as_nanosecond()).ok().map(Timestamp::from_nanos)
}

/// Reads a moment as SQL writes it: RFC 3339, or a date, or a date and a time of day in UTC.
pub(super) fn moment(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(moment) = text.parse() {
        return Some(moment);
    }
    let date_time = text.parse::<jiff::civil::DateTime>().ok()?;
    let moment = date_time.to_zoned(TimeZone::UTC).ok()?.timestamp();
    i64::try_from(moment.as_nanosecond()).ok().map(Timestamp::from_nanos)
}
