//! `POST /message`: one poll, one answer.

use super::answer::Answer;
use super::body::{self, Body, Encoding};
use super::connection::Connection;
use super::door::Shared;
use super::identity::agent_key;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use muster_core::AgentId;
use muster_core::contact::ContactData;
use muster_engine::contact::ContactFrom;
use muster_engine::{Refusal, RefusalCode};
use muster_proto::contact::{ContactError, Received, answer_to_wire, contact_decode};
use prost::Message as _;
use rustls_pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes from which on decoding leaves the tasks that serve connections.
const DECODE_APART_BYTES: usize = 512 * 1024;
/// Numbers of signature algorithms that the wire knows (those of Go's x509 package).
const SIGNATURE_ALGORITHMS: std::ops::RangeInclusive<i32> = 1..=15;

/// Answers a poll.
pub(super) async fn answer(
    shared: &Shared,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Answer> {
    let (key, encoding, incoming) = begin(shared, connection, request).await?;
    let mut share = shared.budget.share();
    let body = body::read_all(incoming, encoding, &mut share).await?;
    connection.head_expect();
    let (from, data) = decode(shared, connection, &key, body).await?;
    share.release();
    let answer = shared.engine.contact_poll(from, data).await?;
    let wire = answer_to_wire(answer.nonce, answer.messages);
    Ok(octets(Body::full(wire.encode_to_vec())))
}

/// Checks all that can be checked before the body: method, key, length and encoding.
pub(super) async fn begin(
    shared: &Shared,
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<(Vec<u8>, Encoding, Incoming), Answer> {
    let (head, incoming) = request.into_parts();
    if head.method != Method::POST {
        return Err(Answer::bad_request(format!("{} not supported", head.method)).closing());
    }
    let encoding = body::announced(&head.headers)?;
    match agent_key(&shared.options, connection, &head.headers) {
        Ok(key) => Ok((key, encoding, incoming)),
        Err(answer) => {
            note(shared, connection, None, &answer).await;
            Err(answer)
        }
    }
}

/// Reads a contact out of its bytes.
pub(super) async fn decode(
    shared: &Shared,
    connection: &Connection,
    key: &[u8],
    body: Bytes,
) -> Result<(ContactFrom, ContactData), Answer> {
    let received = if body.len() >= DECODE_APART_BYTES {
        let decoded = tokio::task::spawn_blocking(move || contact_decode(body)).await;
        decoded.unwrap_or_else(|_| Err(ContactError::Wrapped("decoding failed".into())))
    } else {
        contact_decode(body)
    };
    let checked = received.map_err(|error| error.to_string()).and_then(|received| {
        let validation = signatures_check(&received)?;
        Ok((received, validation))
    });
    match checked {
        Ok((received, validation)) => {
            let Received { data, labels, .. } = received;
            Ok((ContactFrom { key: key.to_vec(), address: connection.address.clone(), labels, validation }, data))
        }
        Err(reason) => {
            let answer = Answer::bad_request(reason);
            note(shared, connection, Some(AgentId::of_key(key)), &answer).await;
            Err(answer)
        }
    }
}

/// Checks the form of extra signatures: every certificate can be read, every algorithm is known. Nobody asks for such
/// signatures yet, so whether they hold is not found out, and nothing is said of them.
fn signatures_check(received: &Received) -> Result<BTreeMap<String, String>, String> {
    for signature in &received.signatures {
        if !SIGNATURE_ALGORITHMS.contains(&signature.algorithm) {
            return Err(format!("signature algorithm {} is not known", signature.algorithm));
        }
        for certificate in &signature.certificate {
            let certificate = CertificateDer::from(&certificate[..]);
            rustls::server::ParsedCertificate::try_from(&certificate)
                .map_err(|_| "a certificate of a signature cannot be read".to_owned())?;
        }
    }
    Ok(BTreeMap::new())
}

/// Keeps the trace of a contact that was refused here.
async fn note(shared: &Shared, connection: &Connection, agent: Option<AgentId>, answer: &Answer) {
    let refusal = Refusal { code: RefusalCode::Malformed, reason: answer.text.clone(), retry_after: None };
    shared.engine.refusal_note(agent, &connection.address, &refusal).await;
}

/// A good answer of plain bytes.
pub(super) fn octets(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}
