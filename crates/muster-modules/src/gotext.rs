//! Texts in the form Go writes them, because MIG's results hold them and MIG's users read them.

use muster_core::Timestamp;
use std::io;
use std::time::Duration;

/// Writes a length of time as Go does: `674.206µs`, `19.237512ms`, `1m0.5s`.
pub fn duration(length: Duration) -> String {
    signed_duration(i128::try_from(length.as_nanos()).unwrap_or(i128::MAX))
}

/// Writes a length of time in nanoseconds, which may be negative, as Go does.
pub fn signed_duration(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let text = match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let seconds = format!("{}s", fraction(rest, 1_000_000_000));
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

fn fraction(value: u128, unit: u128) -> String {
    let digits = unit.ilog10() as usize;
    let text = format!("{}.{:0digits$}", value / unit, value % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Reads a length of time as Go does: `300ms`, `1.5h`, `2h45m`. Negative ones are refused.
///
/// # Errors
/// The text is no length of time, or one of more than 290 years.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration \"{}\"", text.chars().take(64).collect::<String>());
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..letters] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(invalid()),
            };
        rest = &rest[letters..];
    }
    // Beyond this, nanoseconds do not fit 63 bits, which is where Go ends too.
    if seconds > 9.2e9 {
        return Err(invalid());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| invalid())
}

/// Writes a moment as Go's `String` does in UTC: `2026-11-20 13:15:47.723216207 +0000 UTC`.
pub fn moment(at: Timestamp) -> String {
    // RFC 3339 differs in two letters and the zone's name only.
    format!("{} +0000 UTC", at.to_string().replacen('T', " ", 1).trim_end_matches('Z'))
}

/// Writes a file's mode as Go does: letters for what the file is (`-` when plain), then `rwxrwxrwx`.
pub fn mode(mode: u32) -> String {
    let mut text = String::with_capacity(12);
    let kind = mode & 0o170_000;
    text.push_str(match kind {
        0o040_000 => "d",
        0o120_000 => "L",
        0o060_000 | 0o020_000 => "D",
        0o010_000 => "p",
        0o140_000 => "S",
        _ => "",
    });
    for (bit, letter) in [(0o4000, 'u'), (0o2000, 'g')] {
        if mode & bit != 0 {
            text.push(letter);
        }
    }
    if kind == 0o020_000 {
        text.push('c');
    }
    if mode & 0o1000 != 0 {
        text.push('t');
    }
    if text.is_empty() {
        text.push('-');
    }
    for (place, letter) in "rwxrwxrwx".chars().enumerate() {
        text.push(if mode & (0o400 >> place) == 0 { '-' } else { letter });
    }
    text
}

/// Writes why something of the system failed, in Go's letters: `permission denied`.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Numbers of MIG are floats; the whole ones are written without a point.
pub mod number {
    use serde::Serializer;

    /// Writes a number as Go does.
    ///
    /// # Errors
    /// What the writer answers.
    pub fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number of 53 bits")]
        if value.fract() == 0.0 && value.abs() < 9e15 {
            to.serialize_i64(*value as i64)
        } else {
            to.serialize_f64(*value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_written_as_go_writes_them() {
        for (nanos, want) in [
            (0, "0s"),
            (7, "7ns"),
            (674_206, "674.206µs"),
            (19_237_512, "19.237512ms"),
            (500_000_000, "500ms"),
            (1_500_000_000, "1.5s"),
            (60_500_000_000, "1m0.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (-2_000_000, "-2ms"),
        ] {
            assert_eq!(signed_duration(nanos), want);
        }
    }

    #[test]
    fn lengths_of_time_are_read_as_go_reads_them() {
        for (text, millis) in [("5s", 5000), ("300ms", 300), ("1.5h", 5_400_000), ("2h45m", 9_900_000), ("0", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "5x", "-5s", "1e3s", "..s", "9999999999999h", "5 s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn modes_are_written_as_go_writes_them() {
        for (bits, want) in [
            (0o100_644, "-rw-r--r--"),
            (0o104_755, "urwxr-xr-x"),
            (0o041_777, "dtrwxrwxrwx"),
            (0o120_777, "Lrwxrwxrwx"),
            (0o020_620, "Dcrw--w----"),
            (0o060_660, "Drw-rw----"),
            (0o010_600, "prw-------"),
        ] {
            assert_eq!(mode(bits), want);
        }
    }

    #[test]
    fn moments_are_written_as_go_writes_them() {
        let at = |text: &str| moment(text.parse().unwrap());
        assert_eq!(at("2026-11-20T13:15:47.723216207Z"), "2026-11-20 13:15:47.723216207 +0000 UTC");
        assert_eq!(at("2026-11-20T13:15:47Z"), "2026-11-20 13:15:47 +0000 UTC");
    }

    proptest::proptest! {
        #[test]
        fn a_length_that_was_written_reads_the_same(millis in 0_u64..100_000_000) {
            let length = Duration::from_millis(millis);
            let read = parse_duration(&duration(length)).unwrap();
            proptest::prop_assert!(read.abs_diff(length) < Duration::from_micros(1));
        }
    }
}
