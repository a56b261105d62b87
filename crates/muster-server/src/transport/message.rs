//! `POST /message`: one poll, one answer.

use super::answer::Answer;
use super::body::{self, Body, Encoding, Share};
use super::connection::Connection;
use super::door::Shared;
use super::identity::agent_key;
use super::signatures::{self, SignatureError};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use muster_core::contact::ContactData;
use muster_core::{AgentId, AgentState, system};
use muster_engine::contact::ContactFrom;
use muster_engine::{Refusal, RefusalCode};
use muster_proto::contact::{ContactError, Received, answer_to_wire, contact_count};
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes from which on decoding leaves the tasks that serve connections.
const DECODE_APART_BYTES: usize = 512 * 1024;

/// Answers a poll.
pub(super) async fn answer(
    shared: &Shared,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Answer> {
    let (key, encoding, incoming) = begin(shared, connection, request).await?;
    // Until the end: what was read stays in memory until it is stored.
    let mut share = shared.budget.share();
    let body = body::read_all(incoming, encoding, &mut share).await?;
    connection.head_expect();
    let (from, data) = decode(shared, connection, &key, body, &mut share).await?;
    let answer = shared.engine.contact_poll(from, data).await?;
    let state = answer.state;
    let wire = answer_to_wire(answer.nonce, answer.messages);
    Ok(with_state(octets(Body::full(wire.encode_to_vec())), state))
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
    match agent_key(&shared.options, connection, &head.headers, |code| shared.engine.line(code, &connection.address)) {
        Ok(key) => Ok((key, encoding, incoming)),
        Err(answer) => {
            let refusal = Refusal { code: RefusalCode::Malformed, reason: answer.text.clone(), retry_after: None };
            shared.engine.refusal_note(None, &connection.address, &refusal).await;
            Err(answer)
        }
    }
}

/// Reads a contact out of its bytes. What it takes in memory beyond them is taken of the same `share`.
pub(super) async fn decode(
    shared: &Shared,
    connection: &Connection,
    key: &[u8],
    body: Bytes,
    share: &mut Share,
) -> Result<(ContactFrom, ContactData), Answer> {
    let is_large = body.len() >= DECODE_APART_BYTES;
    let received = match apart(is_large, move || contact_count(body)).await {
        Ok(counted) => {
            share.take(counted.bytes_more())?;
            apart(is_large, move || counted.read()).await
        }
        Err(error) => Err(error),
    };
    let refused = async |code, reason| {
        let refusal = Refusal { code, reason, retry_after: None };
        shared.engine.refusal_note(Some(AgentId::of_key(key)), &connection.address, &refusal).await;
        Answer::from(refusal)
    };
    let mut received = match received {
        Ok(received) => received,
        Err(error) => return Err(refused(RefusalCode::Malformed, error.to_string()).await),
    };
    let validation = match judge(shared, &mut received).await {
        Ok(validation) => validation,
        Err(error) => {
            let is_missing = error == SignatureError::Missing;
            let code = if is_missing { RefusalCode::NotAuthorized } else { RefusalCode::Malformed };
            return Err(refused(code, error.to_string()).await);
        }
    };
    let Received { data, labels, introduction, .. } = received;
    let leaving = !introduction.is_empty() && muster_proto::introduction::is_leaving(&introduction);
    let (key, address) = (key.to_vec(), connection.address.clone());
    Ok((ContactFrom { key, address, labels, validation, introduction, leaving }, data))
}

/// Does what takes long apart from the tasks that serve connections.
async fn apart<T: Send + 'static>(
    is_large: bool,
    work: impl FnOnce() -> Result<T, ContactError> + Send + 'static,
) -> Result<T, ContactError> {
    if !is_large {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(ContactError::Wrapped("decoding failed".into())))
}

/// Judges the extra signatures of a contact apart from the tasks that serve connections, when there are any.
async fn judge(shared: &Shared, received: &mut Received) -> Result<BTreeMap<String, String>, SignatureError> {
    let signers = shared.options.signers.clone();
    let (signatures, signed) = (std::mem::take(&mut received.signatures), received.signed.clone());
    let now = shared.engine.now();
    if signatures.is_empty() {
        return signatures::judge(signers.as_ref(), &[], &signed, now);
    }
    let judged = tokio::task::spawn_blocking(move || signatures::judge(signers.as_ref(), &signatures, &signed, now));
    judged.await.unwrap_or(Err(SignatureError::Certificate))
}

/// Tells our own agent what it is to this server.
pub(super) fn with_state(mut answer: Response<Body>, state: AgentState) -> Response<Body> {
    answer.headers_mut().insert(system::AGENT_STATE_HEADER, HeaderValue::from_static(state.word()));
    answer
}

/// A good answer of plain bytes.
pub(super) fn octets(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}
