//! Values on the command line: how they are written and checked before anything is sent.

use crate::Failure;
use muster_core::Timestamp;
use std::time::{Duration, SystemTime};

/// The longest length of time that is taken, as in the configuration: 100 years.
const DURATION_MAX: Duration = Duration::from_hours(100 * 366 * 24);

/// Reads a length of time as the configuration does: `500ms`, `30s`, `1h 30m`, `5 minutes`, `30d`, `2w`. A day has 24 hours;
/// months and years have no fixed length and are refused, as are negative lengths.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        let text = muster_core::text::cut(text, 64);
        format!("write a number and a unit (ms, s, m, h, d, w), such as 30s or 2h, not {text:?}")
    };
    let span: jiff::Span = text.trim().parse().map_err(|_| wrong())?;
    let length = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    let length = Duration::try_from(length).map_err(|_| wrong())?;
    if length > DURATION_MAX { Err(wrong()) } else { Ok(length) }
}

/// Checks the name of a fleet.
pub fn fleet(text: &str) -> Result<String, String> {
    muster_core::text::fleet(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

/// Checks a length of time that travels as it was written.
pub fn duration_text(text: &str) -> Result<String, String> {
    duration(text).map(|_| text.to_owned())
}

/// Reads a moment (RFC 3339), or a length of time that is taken as so long ago; returns RFC 3339.
pub fn moment(text: &str) -> Result<String, String> {
    if let Ok(ago) = duration(text) {
        return Ok(now().minus(ago).to_string());
    }
    text.parse::<Timestamp>()
        .map(|moment| moment.to_string())
        .map_err(|error| format!("{error}; or how long ago, such as 2h"))
}

/// Returns the present moment by this machine's clock.
#[expect(clippy::disallowed_methods, reason = "the one place where the command line reads the clock")]
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::EPOCH.plus(since)
}

/// Reads `KEY=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("write KEY=VALUE, not {text:?}")),
    }
}

/// Bytes that a body on the command line may have; the server accepts no more in one message.
const BODY_BYTES_MAX: usize = muster_core::limits::MESSAGE_BYTES_MAX;

/// Reads a body: the text itself, `@FILE` for the content of a file, `-` or `@-` for standard input, `@@…` for a text
/// that begins with an at sign. Absent: no body.
pub fn body(argument: Option<&str>) -> Result<Option<Vec<u8>>, Failure> {
    use std::io::Read;
    const WHAT: &str = "could not read the data to send";
    let Some(argument) = argument else { return Ok(None) };
    let mut bytes = Vec::new();
    let most = BODY_BYTES_MAX as u64 + 1;
    if argument == "-" || argument == "@-" {
        let read = std::io::stdin().lock().take(most).read_to_end(&mut bytes);
        read.map_err(|error| Failure::local(WHAT, "standard input", &error))?;
    } else if let Some(text) = argument.strip_prefix("@@") {
        bytes = format!("@{text}").into_bytes();
    } else if let Some(path) = argument.strip_prefix('@') {
        let read = std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
        read.map_err(|error| {
            Failure::local(WHAT, path, &error).next("write @@ for a text that begins with an at sign")
        })?;
    } else {
        bytes = argument.as_bytes().to_vec();
    }
    if bytes.len() > BODY_BYTES_MAX {
        let why = format!("a message holds at most {BODY_BYTES_MAX} bytes");
        return Err(Failure::usage(WHAT, why).next("send a file: `muster file put`, and its name in the message"));
    }
    Ok(Some(bytes))
}

/// Returns bytes as the API takes them.
pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Returns the bytes that the API wrote as `text`; `None` when that is no base64.
pub(crate) fn unbase64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
        assert_eq!(duration("30d"), Ok(Duration::from_hours(720)));
        assert_eq!(duration("2w"), Ok(Duration::from_hours(336)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert_eq!(duration("5 minutes"), Ok(Duration::from_mins(5)));
        for wrong in ["", "30", "s", "-1s", "99999999999999999d", "1y", "1mo", "٣s", "101 years"] {
            assert!(duration(wrong).unwrap_err().contains("30s or 2h"), "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        assert_eq!(moment("2026-01-02T03:04:05Z").unwrap(), "2026-01-02T03:04:05Z");
        assert!(moment("1h").unwrap() < now().to_string());
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn a_body_is_text_or_a_file_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("body");
        std::fs::write(&path, [0, 159, 146]).unwrap();
        assert_eq!(body(None).unwrap(), None);
        assert_eq!(body(Some("hello")).unwrap().unwrap(), b"hello");
        assert_eq!(body(Some("@@home")).unwrap().unwrap(), b"@home");
        assert_eq!(body(Some(&format!("@{}", path.display()))).unwrap().unwrap(), [0, 159, 146]);
        assert!(body(Some("@/no/such/file")).unwrap_err().to_string().contains("/no/such/file"));
    }

    #[test]
    fn a_body_beyond_the_ceiling_is_refused_before_it_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        std::fs::File::create(&path).unwrap().set_len(BODY_BYTES_MAX as u64 + 1).unwrap();
        let failure = body(Some(&format!("@{}", path.display()))).unwrap_err();
        assert_eq!(failure.exit, crate::Exit::Usage);
    }
}
