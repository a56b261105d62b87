//! Bodies of requests: forms, encoded in the address's way or in parts.
//!
//! Stays true: a body is bounded in bytes, time, and the number of its parts.

use super::envelope::Refused;
use super::query::Params;
use crate::rest::input;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, header};
use muster_core::limits;
use std::convert::Infallible;

/// Parts of a form, at most.
const PARTS_MAX: usize = 64;

/// A form.
pub(super) struct Form(pub(super) Params);

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Refused;
    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        let kind = content_type(request.headers());
        let bytes = input::read(request.into_body(), limits::MIG_BODY_BYTES_MAX).await?;
        if let Ok(boundary) = multer::parse_boundary(&kind) {
            return parts(bytes, boundary).await.map(Self);
        }
        if kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Ok(Self(Params::parse(&bytes)));
        }
        Err(Refused::invalid("send a form: application/x-www-form-urlencoded or multipart/form-data"))
    }
}

fn content_type(headers: &HeaderMap) -> String {
    headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned()
}

async fn parts(bytes: Bytes, boundary: String) -> Result<Params, Refused> {
    let broken = |error: multer::Error| Refused::invalid(format!("the form cannot be read: {error}"));
    let mut form = multer::Multipart::new(stream::iter([Ok::<_, Infallible>(bytes)]), boundary);
    let mut params = Params::default();
    while let Some(field) = form.next_field().await.map_err(broken)? {
        if params.0.len() == PARTS_MAX {
            return Err(Refused::invalid(format!("a form has at most {PARTS_MAX} parts")));
        }
        let name = field.name().unwrap_or_default().to_owned();
        let value = field.bytes().await.map_err(broken)?;
        let value = String::from_utf8(value.into());
        let value = value.map_err(|_| Refused::invalid(format!("the part '{name}' of the form is no text")))?;
        params.0.push((name, value));
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    async fn read(kind: &str, body: &str) -> Result<Params, ()> {
        let request = Request::builder().header("content-type", kind).body(Body::from(body.to_owned())).unwrap();
        Form::from_request(request, &()).await.map(|form| form.0).map_err(drop)
    }

    #[tokio::test]
    async fn both_ways_of_writing_a_form_are_read() {
        let urlencoded = read("application/x-www-form-urlencoded; charset=utf-8", "action=%7B%7D&b=c+d").await.unwrap();
        assert_eq!((urlencoded.get("action"), urlencoded.get("b")), (Some("{}"), Some("c d")));
        let part = |head: &str, body: &str| format!("--x\r\nContent-Disposition: form-data; {head}\r\n\r\n{body}\r\n");
        let file = part("name=\"publickey\"; filename=\"publickey\"", "-----BEGIN\r\nkey");
        let body = format!("{}{file}--x--\r\n", part("name=\"name\"", "Ann"));
        let multipart = read("multipart/form-data; boundary=x", &body).await.unwrap();
        assert_eq!((multipart.get("name"), multipart.get("publickey")), (Some("Ann"), Some("-----BEGIN\r\nkey")));
        let many = part("name=\"a\"", "b").repeat(PARTS_MAX + 1) + "--x--\r\n";
        for (kind, body) in [
            ("application/json", "{}"),
            ("", "a=b"),
            ("multipart/form-data; boundary=x", "--x\r\nbroken"),
            ("multipart/form-data; boundary=x", many.as_str()),
        ] {
            assert!(read(kind, body).await.is_err(), "{kind}");
        }
    }
}
