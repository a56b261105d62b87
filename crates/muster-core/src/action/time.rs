//! Times in MIG's JSON: RFC 3339, and far-off dates where nothing has happened.

use crate::Timestamp;

/// What stands in JSON for a time that was never set.
pub const UNSET: &str = "0001-01-01T00:00:00Z";
/// When an action that has not begun begins, says MIG.
pub const START_NONE: &str = "0009-01-11T11:11:11.000000011Z";
/// When what has not finished finishes, says MIG.
pub const FINISH_NONE: &str = "9998-01-11T11:11:11.000000011Z";
/// When an agent that lives is destroyed, says MIG.
pub const DESTRUCTION_NONE: &str = FINISH_NONE;

/// Reads a time as MIG's programs write it: strictly RFC 3339, with any offset, without leap seconds.
///
/// Dates beyond what a [`Timestamp`] holds (before 1678, after 2261) become the first or last moment it can hold: such
/// dates stand for "never" and "always", and no signature over one can verify, because the signed second is another.
pub fn moment(text: &str) -> Option<Timestamp> {
    if !is_rfc_3339(text) {
        return None;
    }
    let nanos = text.parse::<jiff::Timestamp>().ok()?.as_nanosecond();
    let edge = if nanos < 0 { i64::MIN } else { i64::MAX };
    Some(Timestamp::from_nanos(i64::try_from(nanos).unwrap_or(edge)))
}

/// Compares with the shape `dddd-dd-ddTdd:dd:dd[.d…](Z|±dd:dd)`; whether the digits name a moment is asked elsewhere.
fn is_rfc_3339(text: &str) -> bool {
    let fits = |text: &[u8], shape: &[u8]| {
        text.len() == shape.len()
            && text.iter().zip(shape).all(|(byte, want)| match want {
                b'd' => byte.is_ascii_digit(),
                want => byte == want,
            })
    };
    let Some((head, tail)) = text.as_bytes().split_at_checked(19) else { return false };
    let zone = match tail.strip_prefix(b".") {
        None => tail,
        Some(rest) => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return false;
            }
            &rest[digits..]
        }
    };
    fits(head, b"dddd-dd-ddTdd:dd:dd")
        && &head[17..] < b"60".as_slice()
        && (zone == b"Z" || fits(zone, b"+dd:dd") || fits(zone, b"-dd:dd"))
}
