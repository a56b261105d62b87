//! The envelope of answers: Collection+JSON as MIG writes it.
//!
//! Stays true: `items` is absent when there are none, `error` is `{}` on success; an error's code is the request's id,
//! under which the log and the journal have it.

use crate::rest::layers::RequestId;
use crate::rest::problem::Failure;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use muster_engine::OperatorError;
use muster_store::StoreError;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::time::Duration;

/// A thing that was asked for.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Item {
    href: String,
    data: Vec<Datum>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    links: Vec<Link>,
}

#[derive(Debug, Clone, Serialize)]
struct Datum {
    name: String,
    value: Box<RawValue>,
}

#[derive(Debug, Clone, Serialize)]
struct Link {
    rel: &'static str,
    href: String,
}

impl Item {
    /// An item at `href` without data yet.
    pub(super) fn at(href: String) -> Self {
        Self { href, data: Vec::new(), links: Vec::new() }
    }

    /// Adds a value under a name.
    pub(super) fn with(mut self, name: impl Into<String>, value: &impl Serialize) -> Self {
        let value = to_raw_value(value).expect("texts, numbers and JSON that was read can be written");
        self.data.push(Datum { name: name.into(), value });
        self
    }

    /// Adds a link.
    pub(super) fn linked(mut self, rel: &'static str, href: String) -> Self {
        self.links.push(Link { rel, href });
        self
    }
}

/// An answer in the envelope. The layer of the API writes it, because it knows the request.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    status: StatusCode,
    items: Vec<Item>,
    /// Why the request was not done.
    message: Option<String>,
    retry_after: Option<Duration>,
}

impl Answer {
    /// What was asked for.
    pub(super) fn of(items: Vec<Item>) -> Self {
        Self { status: StatusCode::OK, items, message: None, retry_after: None }
    }

    /// One thing, under another status than 200.
    pub(super) fn done(status: StatusCode, item: Item) -> Self {
        Self { status, ..Self::of(vec![item]) }
    }
}

/// Why a request was not done.
#[derive(Debug, Clone)]
pub(super) struct Refused(Answer);

impl Refused {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self(Answer { status, items: Vec::new(), message: Some(message.into()), retry_after: None })
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub(super) fn too_many(after: Duration) -> Self {
        let message = format!("too many wrong tokens came from this address, try again in {} s", after.as_secs());
        let answer = Self::new(StatusCode::TOO_MANY_REQUESTS, message).0;
        Self(Answer { retry_after: Some(after), ..answer })
    }

    /// Shows items all the same.
    pub(super) fn with(self, items: Vec<Item>) -> Self {
        Self(Answer { items, ..self.0 })
    }

    /// Words a failure of the store while `doing` something.
    pub(super) fn of_store(doing: &'static str, error: &StoreError) -> Self {
        // A question that takes too long is the asker's to change, and nothing that is there contradicts it.
        if error.kind() == muster_store::ErrorKind::Refused {
            return Self::invalid(error.to_string());
        }
        Failure::of_store(doing, error).into()
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        let answer = Self::new(failure.status().0, failure.detail).0;
        Self(Answer { retry_after: failure.retry_after, ..answer })
    }
}

impl From<OperatorError> for Refused {
    fn from(error: OperatorError) -> Self {
        // MIG's programs know one answer to an action that is not taken.
        if let OperatorError::Signature(why) = error {
            return Self::invalid(why);
        }
        Failure::from(error).into()
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if let Some(after) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    collection: Collection<'a>,
}

#[derive(Serialize)]
struct Collection<'a> {
    version: &'static str,
    href: &'a str,
    #[serde(skip_serializing_if = "<[Item]>::is_empty")]
    items: &'a [Item],
    template: Nothing,
    error: Fault<'a>,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct Fault<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

fn written(href: &str, items: &[Item], error: Fault<'_>) -> String {
    let collection = Collection { version: "1.0", href, items, template: Nothing {}, error };
    serde_json::to_string(&Envelope { collection }).expect("texts and JSON that was written can be written")
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Writes the answer that a handler left, if it left one.
pub(super) fn write(response: &mut Response, href: &str, id: &RequestId) {
    let Some(answer) = response.extensions_mut().remove::<Answer>() else { return };
    let code = answer.message.as_ref().map(|_| id.0.as_str());
    let error = Fault { code, message: answer.message.as_deref() };
    *response.body_mut() = Body::from(written(href, &answer.items, error));
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, JSON);
}

/// An answer whose items are written as they are read. A failure in the middle breaks the body off, so that nobody takes
/// a part for the whole.
pub(super) fn streamed<E>(href: &str, pages: impl Stream<Item = Result<Vec<Item>, E>> + Send + 'static) -> Response
where
    E: std::error::Error + Send + Sync + 'static,
{
    // No text of an address holds the quotes of this one.
    let one = [Item::at(String::new())];
    let around = written(href, &one, Fault { code: None, message: None });
    let items = serde_json::to_string(&one).expect("an item can be written");
    let (before, after) = around.split_once(&items[1..items.len() - 1]).expect("the item is in what was written");
    let (before, after) = (before.to_owned(), after.to_owned());
    let mut comma = "";
    let pages = pages.map_ok(move |items| {
        let items = serde_json::to_string(&items).expect("texts and JSON that was written can be written");
        let items = &items[1..items.len() - 1];
        let comma = if items.is_empty() { "" } else { std::mem::replace(&mut comma, ",") };
        format!("{comma}{items}")
    });
    let whole = stream::once(async { Ok(before) }).chain(pages).chain(stream::once(async { Ok(after) }));
    ([(header::CONTENT_TYPE, JSON)], Body::from_stream(whole)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[tokio::test]
    async fn an_answer_that_is_streamed_reads_as_one_that_is_written_at_once() {
        let items: Vec<Item> = ["a", "b", "\"\"]"].map(|href| Item::at(href.to_owned()).with("n", &href)).into();
        let href = "http://h/search?x={\"href\":\"\",\"data\":[]}";
        let pages = [vec![], items[..1].to_vec(), vec![], items[1..].to_vec()].map(Ok::<_, Infallible>);
        let body = streamed(href, stream::iter(pages)).into_body();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        assert_eq!(body, written(href, &items, Fault { code: None, message: None }));
    }

    #[tokio::test]
    async fn an_answer_that_cannot_go_on_is_broken_off() {
        let pages = [Ok(vec![Item::at("a".to_owned())]), Err(std::io::Error::other("no"))];
        assert!(axum::body::to_bytes(streamed("h", stream::iter(pages)).into_body(), usize::MAX).await.is_err());
    }
}
