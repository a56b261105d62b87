//! `GET /files/<service>/<name>`: files for agents, piece by piece.
//!
//! Stays true: a name never becomes a path; a download holds one piece; a file that is replaced while it is read is read
//! to its end as it was. Files are for machines that are enrolled, unless they are public.

use super::answer::Answer;
use super::body::{Body, Outlet};
use super::connection::Connection;
use super::door::Shared;
use super::identity::agent_key;
use crate::config::Frontend;
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use muster_core::file::FileInfo;
use muster_core::{AgentId, AgentState, Timestamp, limits, system, text};
use muster_store::Store;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tracing::warn;

/// Answers a request for a file.
pub(super) async fn answer<B>(
    shared: &Shared,
    connection: &Connection,
    request: &Request<B>,
) -> Result<Response<Body>, Answer> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Err(Answer::new(status, "files are read with GET").allowing("GET, HEAD").closing());
    }
    let (service, name) = parse(request.uri().path())?;
    let is_revoked_list = (service.as_str(), name.as_str()) == system::REVOKED_LIST;
    if !is_revoked_list && !shared.options.files_public {
        authorize(shared, connection, request.headers()).await?;
    }
    text::name("service", &service).map_err(|error| Answer::bad_request(error.to_string()))?;
    text::file_name(&name).map_err(|error| Answer::bad_request(error.to_string()))?;
    let store = shared.engine.store();
    let found = store.file_get(&service, &name).await.map_err(|error| {
        warn!(error = %error, "could not look up a file");
        Answer::new(StatusCode::SERVICE_UNAVAILABLE, "the file cannot be looked up right now")
    })?;
    let file = match found {
        Some(file) => file,
        // Agents take an empty list for what it is, and complain about a missing one.
        None if is_revoked_list => nothing_revoked(service, name),
        None => return Err(Answer::new(StatusCode::NOT_FOUND, "file not found")),
    };
    let source = Source { store: Arc::clone(store), turns: Arc::clone(&connection.files) };
    Ok(respond(source, &file, request.method(), request.headers()))
}

/// Takes a path apart: decoded once by HTTP's rules, then split, then each part decoded again, because agents escape
/// twice.
fn parse(path: &str) -> Result<(String, String), Answer> {
    let wrong = || {
        let shown: String = path.chars().take(256).collect();
        Answer::bad_request(format!("unable to parse files URI: {shown:?}"))
    };
    let decode = |text: &str| percent_decode_str(text).decode_utf8().map(String::from).map_err(|_| wrong());
    let once = decode(path)?;
    let mut parts = once.strip_prefix('/').unwrap_or(&once).split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("files"), Some(service), Some(name), None) => Ok((decode(service)?, decode(name)?)),
        _ => Err(wrong()),
    }
}

async fn authorize(shared: &Shared, connection: &Connection, headers: &HeaderMap) -> Result<(), Answer> {
    let line = |code| shared.engine.line(code, &connection.address);
    let key = agent_key(&shared.options, connection, headers, line).map_err(|answer| {
        // A proxy sends no header for an agent without a certificate.
        let is_missing =
            shared.options.frontend != Frontend::Mtls && !headers.contains_key(&shared.options.certificate_header);
        if is_missing { Answer::new(StatusCode::UNAUTHORIZED, "unauthorized") } else { answer }
    })?;
    let agent = shared.engine.store().agent_get(AgentId::of_key(&key)).await.map_err(|error| {
        warn!(error = %error, "could not look up an agent");
        Answer::new(StatusCode::SERVICE_UNAVAILABLE, "the file cannot be looked up right now")
    })?;
    match agent {
        Some(agent) if agent.key != key => Err(Answer::new(StatusCode::FORBIDDEN, "another key has this id")),
        Some(agent) if agent.state == AgentState::Enrolled => Ok(()),
        Some(agent) => Err(Answer::new(StatusCode::FORBIDDEN, format!("this machine is {}", agent.state))),
        None => Err(Answer::new(StatusCode::UNAUTHORIZED, "unauthorized: this machine has not been in contact yet")),
    }
}

fn nothing_revoked(service: String, name: String) -> FileInfo {
    // SHA-256 of nothing.
    let sha256 = *b"\xe3\xb0\xc4\x42\x98\xfc\x1c\x14\x9a\xfb\xf4\xc8\x99\x6f\xb9\x24\x27\xae\x41\xe4\x64\x9b\x93\x4c\xa4\x95\x99\x1b\x78\x52\xb8\x55";
    FileInfo { service, name, bytes: 0, sha256, modified: Timestamp::EPOCH, content: 0 }
}

/// Where a file's pieces come from, and whose turn it is to have one.
struct Source {
    store: Arc<dyn Store>,
    turns: Arc<Semaphore>,
}

fn respond(source: Source, file: &FileInfo, method: &Method, headers: &HeaderMap) -> Response<Body> {
    let etag = format!("\"{}\"", hex::encode(file.sha256));
    let modified = http_date(file.modified);
    let validators = [(ETAG, etag.as_str()), (LAST_MODIFIED, modified.as_str())];
    if is_unchanged(headers, &etag, file.modified) {
        let mut response = Response::new(Body::full(Bytes::new()));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        set(response.headers_mut(), &validators);
        return response;
    }
    let (status, range) = match wanted(headers, &etag, &modified, file.bytes) {
        Wanted::All => (StatusCode::OK, 0..file.bytes),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Beyond => {
            let mut response =
                Response::from(Answer::new(StatusCode::RANGE_NOT_SATISFIABLE, "the range is not in the file"));
            set(response.headers_mut(), &[(CONTENT_RANGE, &format!("bytes */{}", file.bytes))]);
            return response;
        }
    };
    let length = range.end - range.start;
    let content_range = format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), file.bytes);
    let body = if *method == Method::HEAD { Body::full(Bytes::new()) } else { content(source, file.content, range) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = mime_guess::from_path(&file.name).first_or_octet_stream();
    let headers = response.headers_mut();
    set(headers, &validators);
    set(headers, &[(CONTENT_TYPE, kind.essence_str()), (CONTENT_DISPOSITION, &disposition(&file.name))]);
    set(
        headers,
        &[(ACCEPT_RANGES, "bytes"), (X_CONTENT_TYPE_OPTIONS, "nosniff"), (CONTENT_LENGTH, &length.to_string())],
    );
    if status == StatusCode::PARTIAL_CONTENT {
        set(headers, &[(CONTENT_RANGE, &content_range)]);
    }
    response
}

fn set(headers: &mut HeaderMap, pairs: &[(HeaderName, &str)]) {
    for (name, value) in pairs {
        let value = HeaderValue::from_str(value).expect("made of digits, quotes, and escaped names");
        headers.insert(name.clone(), value);
    }
}

/// Names the file for whoever saves it, without letting the name become anything else (RFC 6266, RFC 5987).
fn disposition(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let fallback: String = name.chars().map(plain).collect();
    let fallback = fallback.trim_matches('.');
    format!("attachment; filename=\"{fallback}\"; filename*=UTF-8''{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

fn http_date(time: Timestamp) -> String {
    let time = jiff::Timestamp::from_second(time.to_parts().0).expect("64 bits of nanoseconds lie within its years");
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn read_http_date(text: &str) -> Option<Timestamp> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp::from_secs(time.as_second()))
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn is_unchanged(headers: &HeaderMap, etag: &str, modified: Timestamp) -> bool {
    if let Some(known) = header(headers, &IF_NONE_MATCH) {
        // Where there is a tag, the date does not count.
        return known.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == etag);
    }
    let since = header(headers, &IF_MODIFIED_SINCE).and_then(read_http_date);
    since.is_some_and(|since| Timestamp::from_secs(modified.to_parts().0) <= since)
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<u64>),
    /// Nothing that the file has.
    Beyond,
}

/// Reads which part is asked for. Several parts, and what is no range at all, are answered with the whole file.
fn wanted(headers: &HeaderMap, etag: &str, modified: &str, bytes: u64) -> Wanted {
    let Some(range) = header(headers, &RANGE).and_then(|range| range.strip_prefix("bytes=")) else {
        return Wanted::All;
    };
    if header(headers, &IF_RANGE).is_some_and(|condition| condition != etag && condition != modified) {
        return Wanted::All;
    }
    let number = |text: &str| -> Option<u64> {
        let text = text.trim();
        // More digits than 64 bits hold are a number beyond every file.
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let Some((first, last)) = range.split_once('-') else { return Wanted::All };
    let (start, end) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(bytes)),
        (Some(first), None) if last.trim().is_empty() => (first, bytes),
        (None, Some(last)) if first.trim().is_empty() && last > 0 => (bytes.saturating_sub(last), bytes),
        (None, Some(_)) if first.trim().is_empty() => return Wanted::Beyond,
        _ => return Wanted::All,
    };
    if start < end { Wanted::Part(start..end) } else { Wanted::Beyond }
}

/// The body: the file's bytes `range`, one piece at a time and none ahead: what nobody takes stays in memory, and one
/// connection may ask for many files.
fn content(source: Source, content: i64, range: Range<u64>) -> Body {
    let length = range.end - range.start;
    let outlet = Outlet::default();
    let pieces = outlet.clone();
    Body::work(outlet, Some(length), async move {
        let Source { store, turns } = source;
        let _turn = turns.acquire_owned().await.expect("turns are never closed");
        let piece_bytes = limits::FILE_CHUNK_BYTES as u64;
        let mut at = range.start;
        while at < range.end {
            let index = u32::try_from(at / piece_bytes);
            let piece = match index {
                Ok(index) => store.file_chunk_get(content, index).await,
                Err(_) => Ok(None),
            };
            let Ok(Some(piece)) = piece else {
                warn!(content, at, "a piece of a file could not be read");
                return pieces.break_off();
            };
            let from = at % piece_bytes;
            let to = (range.end - at + from).min(piece.len() as u64);
            if from >= to {
                warn!(content, at, "a piece of a file is shorter than it must be");
                return pieces.break_off();
            }
            let slice = |offset: u64| usize::try_from(offset).expect("within a piece");
            pieces.put(piece.slice(slice(from)..slice(to))).await;
            pieces.taken().await;
            at += to - from;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_twice_and_split_once() {
        let parsed = |path: &str| parse(path).ok();
        let is = |service: &str, name: &str| Some((service.to_owned(), name.to_owned()));
        assert_eq!(parsed("/files/a/b.txt"), is("a", "b.txt"));
        assert_eq!(parsed("/files/my%2520service/x"), is("my service", "x"));
        assert_eq!(parsed("/files/my%20service/"), is("my service", ""));
        assert_eq!(parsed("/files/a/%252e%252e%252fx"), is("a", "../x"));
        for path in
            ["/files/a", "/files/a/b/c", "/files/a/..%2fb", "/files/%2e%2e%2fa/b", "/files/a/%ff", "/files/a/%25ff"]
        {
            assert_eq!(parsed(path), None, "{path}");
        }
    }

    fn asking(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn one_range_is_a_part_and_anything_else_is_not() {
        let range = |text: &str| wanted(&asking(RANGE, text), "\"t\"", "d", 100);
        assert_eq!(range("bytes=0-0"), Wanted::Part(0..1));
        assert_eq!(range("bytes=10-"), Wanted::Part(10..100));
        assert_eq!(range("bytes=-10"), Wanted::Part(90..100));
        assert_eq!(range("bytes=-1000"), Wanted::Part(0..100));
        assert_eq!(range("bytes=50-99999999999999999999999"), Wanted::Part(50..100));
        for beyond in ["bytes=100-", "bytes=100-200", "bytes=99999999999999999999999-", "bytes=-0"] {
            assert_eq!(range(beyond), Wanted::Beyond, "{beyond}");
        }
        for all in ["bytes=0-1,2-3", "bytes=5-4", "bytes=a-b", "bytes=", "lines=0-1", "bytes=--1"] {
            assert_eq!(range(all), Wanted::All, "{all}");
        }
        let mut with_condition = asking(RANGE, "bytes=0-0");
        with_condition.insert(IF_RANGE, HeaderValue::from_static("\"other\""));
        assert_eq!(wanted(&with_condition, "\"t\"", "d", 100), Wanted::All);
        with_condition.insert(IF_RANGE, HeaderValue::from_static("\"t\""));
        assert_eq!(wanted(&with_condition, "\"t\"", "d", 100), Wanted::Part(0..1));
    }

    #[test]
    fn dates_have_whole_seconds_and_tags_win() {
        let modified = Timestamp::from_nanos(784_111_777_900_000_000);
        assert_eq!(http_date(modified), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(read_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Timestamp::from_secs(784_111_777)));
        let unchanged = |headers: &HeaderMap| is_unchanged(headers, "\"t\"", modified);
        assert!(unchanged(&asking(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT")));
        assert!(!unchanged(&asking(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:36 GMT")));
        assert!(!unchanged(&asking(IF_MODIFIED_SINCE, "yesterday")));
        assert!(unchanged(&asking(IF_NONE_MATCH, "\"x\", W/\"t\"")));
        let mut both = asking(IF_MODIFIED_SINCE, "Sun, 06 Nov 1994 08:49:37 GMT");
        both.insert(IF_NONE_MATCH, HeaderValue::from_static("\"x\""));
        assert!(!unchanged(&both));
    }

    #[test]
    fn a_name_stays_a_name_in_its_header() {
        assert_eq!(disposition("a.txt"), "attachment; filename=\"a.txt\"; filename*=UTF-8''a%2Etxt");
        let hostile = disposition("../\"x\"\u{202e}é;");
        assert!(hostile.is_ascii() && !hostile.contains('/'), "{hostile}");
        assert!(hostile.starts_with("attachment; filename=\"__x____\"; "), "{hostile}");
    }
}
