//! Requests, read with suspicion: bodies, queries and names from the path.
//!
//! Stays true: a body is bounded in bytes, time, depth and numbers; a key that comes twice, an unknown field or a zero
//! byte is refused with a text that names it. A number beyond 2^53 is refused, because half the world's JSON readers
//! would change it; ids are texts.

use super::problem::Failure;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::request::Parts;
use http::{HeaderMap, header};
use muster_core::limits;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;
use std::time::{Duration, Instant};

/// How deep a body may nest.
const DEPTH_MAX: u32 = 32;
/// The largest whole number that every JSON reader keeps.
const WHOLE_MAX: u64 = 1 << 53;

/// A JSON body.
pub(crate) struct Json<T>(pub(crate) T);

/// A JSON body that may be left out.
pub(crate) struct JsonOr<T>(pub(crate) T);

/// The query.
pub(crate) struct Args<T>(pub(crate) T);

/// Names in the path, decoded.
pub(crate) struct Names<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failure;
    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let headers = request.headers().clone();
        let bytes = read(request.into_body(), limits::REST_BODY_BYTES_MAX).await?;
        is_json(&headers)?;
        parse(&bytes).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for JsonOr<T> {
    type Rejection = Failure;
    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let headers = request.headers().clone();
        let bytes = read(request.into_body(), limits::REST_BODY_BYTES_MAX).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        is_json(&headers)?;
        parse(&bytes).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Args<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let query = Query::try_from_uri(&parts.uri)
            .map_err(|error| Failure::invalid(format!("the query cannot be read: {}", error.body_text())))?;
        Ok(Self(query.0))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Names<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(names)| Self(names))
            .map_err(|error| Failure::invalid(format!("the path cannot be read: {}", error.body_text())))
    }
}

/// Reads a body of at most `bytes_max`, at the pace of [`Pieces`].
pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Bytes, Failure> {
    let mut pieces = Pieces::new(body);
    let mut all = BytesMut::new();
    while let Some(piece) = pieces.next().await? {
        if all.len() + piece.len() > bytes_max {
            return Err(Failure::too_large(bytes_max));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// A body as it comes in. Its sender is given up after a pause of [`limits::SLOW_READ`], and once it has been waited
/// for that long in all, when it brings less than [`BYTES_PER_SECOND_MIN`]. The time that we take ourselves is not
/// held against it.
pub(crate) struct Pieces {
    stream: axum::body::BodyDataStream,
    waited: Duration,
    bytes: u64,
}

impl Pieces {
    pub(crate) fn new(body: Body) -> Self {
        Self { stream: body.into_data_stream(), waited: Duration::ZERO, bytes: 0 }
    }

    /// Waits for the next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let begun = Instant::now();
        let piece = tokio::time::timeout(limits::SLOW_READ, self.stream.next()).await;
        self.waited += begun.elapsed();
        match piece {
            Err(_) => Err(Failure::timeout()),
            Ok(None) => Ok(None),
            Ok(Some(Err(_))) => Err(Failure::invalid("the body broke off before its end")),
            Ok(Some(Ok(piece))) => {
                self.bytes += piece.len() as u64;
                if is_too_slow(self.bytes, self.waited) { Err(Failure::timeout()) } else { Ok(Some(piece)) }
            }
        }
    }
}

/// Bytes that a body must bring in a second, on average.
const BYTES_PER_SECOND_MIN: u64 = 1024;

fn is_too_slow(bytes: u64, waited: Duration) -> bool {
    waited > limits::SLOW_READ && bytes < waited.as_secs().saturating_mul(BYTES_PER_SECOND_MIN)
}

fn is_json(headers: &HeaderMap) -> Result<(), Failure> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Failure::unsupported("send JSON, with the header `content-type: application/json`"))
}

/// Reads a JSON body into its type.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict(DEPTH_MAX)
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| Failure::invalid(format!("the body is not acceptable JSON: {error}")))?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let at = if path == "." { "the body".to_owned() } else { format!("the field {path}") };
        Failure::invalid(format!("{at}: {}", error.into_inner()))
    })
}

/// Reads any JSON that keeps the rules at the top of this file, as deep as its number says.
struct Strict(u32);

impl Strict {
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom(format!("it nests deeper than {DEPTH_MAX}")))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

fn text<E: serde::de::Error>(text: &str) -> Result<String, E> {
    if text.contains('\0') { Err(E::custom("a text holds a zero byte")) } else { Ok(text.to_owned()) }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        if value > WHOLE_MAX {
            return Err(E::custom("a number is beyond 2^53"));
        }
        Ok(value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > WHOLE_MAX {
            return Err(E::custom("a number is beyond 2^53"));
        }
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        text(value).map(Value::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self.deeper()?)? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let key = text(&key)?;
            let value = entries.next_value_seed(self.deeper()?)?;
            if all.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} comes twice")));
            }
            all.insert(key, value);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_api::messages::MessageRequest;

    fn refused(body: &[u8]) -> String {
        parse::<Value>(body).unwrap_err().detail
    }

    #[test]
    fn hostile_json_is_refused_with_its_reason() {
        assert!(refused(br#"{"a":1,"a":2}"#).contains("comes twice"));
        assert!(refused(br#"{"a":{"b":[{"c":1,"c":1}]}}"#).contains("comes twice"));
        assert!(refused(b"{\"a\":\"x\\u0000y\"}").contains("zero byte"));
        assert!(refused(b"{\"x\\u0000\":1}").contains("zero byte"));
        assert!(refused("[".repeat(10_000).as_bytes()).contains("deeper"));
        let deep = format!("{}{}", "{\"a\":".repeat(33), "1");
        assert!(refused(deep.as_bytes()).contains("deeper"));
        assert!(refused(b"9007199254740993").contains("2^53"));
        assert!(refused(b"-9007199254740993").contains("2^53"));
        for body in [&b"1e400"[..], b"NaN", b"\"\\ud800\"", b"\xef\xbb\xbf{}", b"\"\xff\"", b"{} x", b"", b"{'a':1}"] {
            refused(body);
        }
    }

    #[test]
    fn a_body_that_trickles_is_given_up() {
        let seconds = Duration::from_secs;
        assert!(!is_too_slow(1, seconds(15)), "the first moments are free");
        assert!(is_too_slow(20, seconds(20)));
        assert!(!is_too_slow(20 * 1024, seconds(20)));
    }

    #[test]
    fn honest_json_passes() {
        let value: Value = parse(br#"{"a":[1,-2,3.5,null,true,"\ud83d\ude00"],"b":{}}"#).unwrap();
        assert_eq!(value["a"][5], "\u{1F600}");
        assert_eq!(parse::<Value>(b"9007199254740992").unwrap(), 1_u64 << 53);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let refused = |body: &str| parse::<MessageRequest>(body.as_bytes()).unwrap_err().detail;
        assert!(refused(r#"{"service":"a","annotations":[{"key":1}]}"#).starts_with("the field annotations[0].key: "));
        assert!(refused(r#"{"service":"a","from_blocked":true}"#).contains("unknown field `from_blocked`"));
        assert!(refused("{}").contains("missing field `service`"));
    }
}
