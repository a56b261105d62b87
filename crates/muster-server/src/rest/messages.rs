//! Messages: send, look at, cancel, send again.

use super::Rest;
use super::agents::agent_id;
use super::input::{Args, Json as Body, JsonOr, Names};
use super::pages::Paging;
use super::problem::{Doing, Failure};
use super::tokens::life;
use axum::extract::State;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use muster_api::messages::{Annotation, MessageQuery, MessageRequest, MessageRow};
use muster_api::{Page, Reason};
use muster_core::{Address, Message, MessageId, Payload, Priority, limits, system};
use muster_engine::MessageOrigin;
use muster_engine::access::Caller;
use muster_store::messages::{self, MessageFilter, MessageState};
use prost::Message as _;

/// The service that messages of operators come from, unless they say otherwise.
const OPERATOR: &str = "operator";
const BYTES_VALUE: &str = "type.googleapis.com/google.protobuf.BytesValue";
const STRING_VALUE: &str = "type.googleapis.com/google.protobuf.StringValue";
/// The annotation by which an answer names the message it answers.
const IN_REPLY_TO: &str = "in_reply_to";
/// Pages of messages that are searched for answers, at most.
const ANSWER_PAGES_MAX: usize = 20;

/// Lists messages without their bodies, newest first.
#[utoipa::path(get, path = "/api/v1/messages", tag = "messages", params(MessageQuery), responses((status = 200, body = Page<MessageRow>)))]
pub(crate) async fn message_list(
    State(rest): State<Rest>,
    Args(query): Args<MessageQuery>,
) -> Result<Json<Page<MessageRow>>, Failure> {
    let filter = MessageFilter {
        agent: query.agent.as_deref().map(agent_id).transpose()?,
        service: query.service,
        state: query.state.as_deref().map(state).transpose()?,
    };
    if let Some(service) = &filter.service {
        muster_core::text::name("service", service).map_err(|error| Failure::invalid(error.to_string()))?;
    }
    let paging = Paging::new("messages", query.cursor.as_deref(), query.limit)?;
    let rows = rest.engine.store().message_page(filter, paging.after()?, paging.rows()).await;
    let page = paging.cut(rows.doing("list messages")?, |row| row.number.to_string());
    Ok(Json(Paging::map(page, show)))
}

/// Accepts a message for a machine, or for a service of the server.
#[utoipa::path(post, path = "/api/v1/messages", tag = "messages", request_body = MessageRequest, responses((status = 201, body = MessageRow)))]
pub(crate) async fn message_create(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<MessageRequest>,
) -> Result<(StatusCode, Json<MessageRow>), Failure> {
    let message = message(&rest, request)?;
    let id = rest.engine.message_send(message, MessageOrigin::Person, &caller).await?;
    Ok((StatusCode::CREATED, Json(one_row(&rest, id).await?)))
}

/// Shows a message with its body, while that is kept.
#[utoipa::path(get, path = "/api/v1/messages/{id}", tag = "messages", params(("id" = String, Path, description = "64 hexadecimal digits")),
    responses((status = 200, body = MessageRow)))]
pub(crate) async fn message_get(
    State(rest): State<Rest>,
    Names(id): Names<String>,
) -> Result<Json<MessageRow>, Failure> {
    one_row(&rest, message_id(&id)?).await.map(Json)
}

/// Lists the answers to a message: messages of the same machine whose annotation `in_reply_to` names it, oldest first.
#[utoipa::path(get, path = "/api/v1/messages/{id}/answers", tag = "messages", params(("id" = String, Path, description = "64 hexadecimal digits")),
    responses((status = 200, body = Page<MessageRow>)))]
pub(crate) async fn message_answers(
    State(rest): State<Rest>,
    Names(id): Names<String>,
) -> Result<Json<Page<MessageRow>>, Failure> {
    let asked = find(&rest, message_id(&id)?).await?;
    let ids = answers(&rest, &asked).await?;
    let mut rows = rest.engine.store().message_get(&ids, true).await.doing("look up answers")?;
    rows.sort_by_key(|row| row.number);
    Ok(Json(rows.into_iter().map(show).collect()))
}

/// Cancels a message that is pending or parked.
#[utoipa::path(post, path = "/api/v1/messages/{id}/cancel", tag = "messages", params(("id" = String, Path, description = "64 hexadecimal digits")),
    request_body = Option<Reason>, responses((status = 200, body = MessageRow)))]
pub(crate) async fn message_cancel(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Extension(caller): Extension<Caller>,
    JsonOr(reason): JsonOr<Reason>,
) -> Result<Json<MessageRow>, Failure> {
    let id = message_id(&id)?;
    if !rest.engine.message_cancel(id, &caller.because(&reason.reason)).await? {
        return Err(Failure::conflict(format!("message {id} was done with before, it cannot be cancelled any more")));
    }
    one_row(&rest, id).await.map(Json)
}

/// Sends a parked message again.
#[utoipa::path(post, path = "/api/v1/messages/{id}/retry", tag = "messages", params(("id" = String, Path, description = "64 hexadecimal digits")),
    request_body = Option<Reason>, responses((status = 200, body = MessageRow)))]
pub(crate) async fn message_retry(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Extension(caller): Extension<Caller>,
    JsonOr(reason): JsonOr<Reason>,
) -> Result<Json<MessageRow>, Failure> {
    let id = message_id(&id)?;
    if !rest.engine.message_unpark(id, &caller.because(&reason.reason)).await? {
        return Err(Failure::conflict(format!("message {id} is not parked, only parked messages are sent again")));
    }
    one_row(&rest, id).await.map(Json)
}

fn message_id(text: &str) -> Result<MessageId, Failure> {
    text.parse().map_err(|error: muster_core::IdError| Failure::invalid(error.to_string()))
}

async fn find(rest: &Rest, id: MessageId) -> Result<messages::MessageRow, Failure> {
    let rows = rest.engine.store().message_get(&[id], true).await.doing("look up the message")?;
    rows.into_iter().next().ok_or_else(|| {
        Failure::not_found(format!("message {id} is not known: it was never sent, or retention has deleted it"))
    })
}

/// One message with its body.
pub(crate) async fn one_row(rest: &Rest, id: MessageId) -> Result<MessageRow, Failure> {
    find(rest, id).await.map(show)
}

/// Finds the messages that answer `asked`, among those of its agent that came after it.
async fn answers(rest: &Rest, asked: &messages::MessageRow) -> Result<Vec<MessageId>, Failure> {
    let Some(agent) = asked.message.destination.agent else { return Ok(Vec::new()) };
    let wanted = asked.message.id.to_string();
    let filter = MessageFilter { agent: Some(agent), ..MessageFilter::default() };
    let (mut found, mut before) = (Vec::new(), None);
    for _ in 0..ANSWER_PAGES_MAX {
        let page = rest.engine.store().message_page(filter.clone(), before, limits::PAGE_ROWS_DEFAULT).await;
        let page = page.doing("look for answers")?;
        let later = page.iter().filter(|row| row.number > asked.number);
        let is_answer = |row: &&messages::MessageRow| {
            let of_agent = row.message.source.agent == Some(agent);
            of_agent && row.message.annotations.iter().any(|(key, value)| key == IN_REPLY_TO && *value == wanted)
        };
        found.extend(later.filter(is_answer).map(|row| row.message.id));
        match page.last() {
            Some(last) if last.number > asked.number => before = Some(last.number),
            _ => break,
        }
    }
    Ok(found)
}

fn message(rest: &Rest, request: MessageRequest) -> Result<Message, Failure> {
    let now = rest.clock.now();
    let id = if let Some(text) = request.id.as_deref() {
        message_id(text)?
    } else {
        let mut random = [0; 24];
        rest.random.fill(&mut random);
        MessageId::ordered(now, random)
    };
    let source = Address::server(request.source_service.as_deref().unwrap_or(OPERATOR));
    let agent = request.agent.as_deref().map(agent_id).transpose()?;
    let destination = Address { agent, service: request.service };
    let message = Message {
        message_type: request.message_type,
        payload: payload(request.type_url, request.data.as_deref())?,
        priority: priority(request.priority.as_deref())?,
        annotations: request.annotations.into_iter().map(|pair| (pair.key, pair.value)).collect(),
        expires: life(request.expires_in.as_deref())?.map(|life| now.plus(life)),
        ..Message::new(id, source, destination, now)
    };
    message.check_text().map_err(|error| Failure::invalid(error.to_string()))?;
    let orders = [system::DIE, system::REKEY_REQUEST, system::RESTART_SERVICE];
    let known = message.destination.service != system::SERVICE || orders.contains(&message.message_type.as_str());
    if agent.is_some() && !known {
        return Err(Failure::invalid(format!("service system of an agent takes {} only", orders.join(", "))));
    }
    Ok(message)
}

/// Reads a body: bytes of their own type as they are, plain bytes wrapped in a `BytesValue`.
pub(crate) fn payload(type_url: Option<String>, data: Option<&str>) -> Result<Option<Payload>, Failure> {
    let bytes = data.map(|text| STANDARD.decode(text)).transpose();
    let bytes = bytes.map_err(|error| Failure::invalid(format!("data: it is not standard base64: {error}")))?;
    Ok(match (type_url, bytes) {
        (None, None) => None,
        (None, Some(bytes)) => Some(Payload { type_url: BYTES_VALUE.into(), value: bytes.encode_to_vec() }),
        (Some(type_url), bytes) => Some(Payload { type_url, value: bytes.unwrap_or_default() }),
    })
}

/// Takes the plain bytes out of a body that wraps them.
fn unwrapped(payload: &Payload) -> Vec<u8> {
    let plain = match payload.type_url.as_str() {
        BYTES_VALUE => Vec::<u8>::decode(&payload.value[..]).ok(),
        STRING_VALUE => String::decode(&payload.value[..]).ok().map(String::into_bytes),
        _ => None,
    };
    plain.unwrap_or_else(|| payload.value.clone())
}

fn priority(word: Option<&str>) -> Result<Priority, Failure> {
    match word {
        None | Some("medium") => Ok(Priority::Medium),
        Some("low") => Ok(Priority::Low),
        Some("high") => Ok(Priority::High),
        Some(other) => Err(Failure::invalid(format!("priority: {other:?} is none of low, medium and high"))),
    }
}

const STATES: [(MessageState, &str); 4] = [
    (MessageState::Pending, "pending"),
    (MessageState::Done, "done"),
    (MessageState::Failed, "failed"),
    (MessageState::Parked, "parked"),
];

fn state(word: &str) -> Result<MessageState, Failure> {
    let state = STATES.into_iter().find(|(_, known)| *known == word);
    state
        .map(|(state, _)| state)
        .ok_or_else(|| Failure::invalid(format!("state: {word:?} is none of pending, done, failed and parked")))
}

fn state_word(state: MessageState) -> String {
    STATES.into_iter().find(|(known, _)| *known == state).map_or("pending", |(_, word)| word).to_owned()
}

fn show(row: messages::MessageRow) -> MessageRow {
    let message = row.message;
    let failure = message.result.as_ref().and_then(|result| result.failure.clone());
    MessageRow {
        id: message.id.to_string(),
        source_agent: message.source.agent.map(|agent| agent.to_string()),
        source_service: message.source.service,
        agent: message.destination.agent.map(|agent| agent.to_string()),
        service: message.destination.service,
        message_type: message.message_type,
        state: state_word(row.state),
        created: message.created.to_string(),
        due: row.due.map(|at| at.to_string()),
        expires: message.expires.map(|at| at.to_string()),
        attempts: row.attempts,
        processed: message.result.map(|result| result.processed.to_string()),
        error: failure.or(row.last_error),
        type_url: message.payload.as_ref().map(|payload| payload.type_url.clone()),
        data: message.payload.as_ref().map(|payload| STANDARD.encode(unwrapped(payload))),
        annotations: message.annotations.into_iter().map(|(key, value)| Annotation { key, value }).collect(),
        from_blocked: message.from_blocked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_bytes_travel_wrapped_and_come_back_plain() {
        let wrapped = payload(None, Some("aGVsbG8=")).unwrap().unwrap();
        assert_eq!((wrapped.type_url.as_str(), &wrapped.value[..]), (BYTES_VALUE, &b"\x0a\x05hello"[..]));
        assert_eq!(unwrapped(&wrapped), b"hello");
        let text = Payload { type_url: STRING_VALUE.into(), value: "hé".to_owned().encode_to_vec() };
        assert_eq!(unwrapped(&text), "hé".as_bytes());
    }

    #[test]
    fn bytes_of_a_named_type_are_taken_as_they_are() {
        let own = payload(Some("t".into()), Some("AAE=")).unwrap().unwrap();
        assert_eq!(own, Payload { type_url: "t".into(), value: vec![0, 1] });
        assert_eq!(unwrapped(&own), [0, 1]);
        assert_eq!(payload(None, None).unwrap(), None);
        // A body that is not what its type says is shown as it is.
        assert_eq!(unwrapped(&Payload { type_url: BYTES_VALUE.into(), value: vec![255] }), [255]);
    }

    #[test]
    fn wrong_words_are_named() {
        assert!(payload(None, Some("%")).unwrap_err().detail.starts_with("data: "));
        assert!(priority(Some("urgent")).unwrap_err().detail.contains("low, medium and high"));
        assert!(state("lost").unwrap_err().detail.contains("pending, done, failed and parked"));
        for (state_, word) in STATES {
            assert_eq!((state(word).unwrap(), state_word(state_).as_str()), (state_, word));
        }
    }
}
