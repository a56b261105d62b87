//! Broadcasts: one message for every machine with certain labels.

use super::Rest;
use super::agents::label;
use super::input::{Args, Json as Body, JsonOr, Names};
use super::messages::payload;
use super::pages::{Paging, moment_key};
use super::problem::{Doing, Failure};
use super::tokens::life;
use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use muster_api::broadcasts::{BroadcastRequest, BroadcastRow};
use muster_api::server::PageQuery;
use muster_api::{Page, Reason};
use muster_core::{Address, Broadcast, BroadcastId, BroadcastLimit, Timestamp, limits, text};
use muster_engine::access::Caller;

/// Lists broadcasts, newest first.
#[utoipa::path(get, path = "/api/v1/broadcasts", tag = "broadcasts", params(PageQuery), responses((status = 200, body = Page<BroadcastRow>)))]
pub(crate) async fn broadcast_list(
    State(rest): State<Rest>,
    Args(query): Args<PageQuery>,
) -> Result<Json<Page<BroadcastRow>>, Failure> {
    let paging = Paging::new("broadcasts", query.cursor.as_deref(), query.limit)?;
    let rows = rest.engine.store().broadcast_page(paging.after_moment()?, paging.rows()).await;
    let page = paging.cut(rows.doing("list broadcasts")?, |row| moment_key(row.created, row.id));
    let now = rest.clock.now();
    Ok(Json(Paging::map(page, |row| show(row, now))))
}

/// Creates a broadcast; every connected machine that matches gets it within seconds.
#[utoipa::path(post, path = "/api/v1/broadcasts", tag = "broadcasts", request_body = BroadcastRequest, responses((status = 201, body = BroadcastRow)))]
pub(crate) async fn broadcast_create(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Body(request): Body<BroadcastRequest>,
) -> Result<(StatusCode, Json<BroadcastRow>), Failure> {
    let broadcast = broadcast(&rest, request)?;
    let id = rest.engine.broadcast_create(broadcast, &caller).await?;
    Ok((StatusCode::CREATED, Json(find(&rest, id).await?)))
}

/// Shows a broadcast and how many machines it has reached.
#[utoipa::path(get, path = "/api/v1/broadcasts/{id}", tag = "broadcasts", params(("id" = String, Path, description = "16 hexadecimal digits")),
    responses((status = 200, body = BroadcastRow)))]
pub(crate) async fn broadcast_get(
    State(rest): State<Rest>,
    Names(id): Names<String>,
) -> Result<Json<BroadcastRow>, Failure> {
    find(&rest, broadcast_id(&id)?).await.map(Json)
}

/// Switches a broadcast off. Machines that had it keep it.
#[utoipa::path(post, path = "/api/v1/broadcasts/{id}/disable", tag = "broadcasts", params(("id" = String, Path, description = "16 hexadecimal digits")),
    request_body = Option<Reason>, responses((status = 200, body = BroadcastRow)))]
pub(crate) async fn broadcast_disable(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Extension(caller): Extension<Caller>,
    JsonOr(reason): JsonOr<Reason>,
) -> Result<Json<BroadcastRow>, Failure> {
    let id = broadcast_id(&id)?;
    find(&rest, id).await?;
    rest.engine.broadcast_disable(&[id], &caller.because(&reason.reason)).await?;
    find(&rest, id).await.map(Json)
}

fn broadcast_id(text: &str) -> Result<BroadcastId, Failure> {
    text.parse().map_err(|error: muster_core::IdError| Failure::invalid(error.to_string()))
}

async fn find(rest: &Rest, id: BroadcastId) -> Result<BroadcastRow, Failure> {
    let broadcast = rest.engine.store().broadcast_get(id).await.doing("look up the broadcast")?;
    let broadcast = broadcast.ok_or_else(|| Failure::not_found(format!("broadcast {id} is not known")))?;
    Ok(show(broadcast, rest.clock.now()))
}

fn broadcast(rest: &Rest, request: BroadcastRequest) -> Result<Broadcast, Failure> {
    let id = if let Some(text) = request.id.as_deref() {
        broadcast_id(text)?
    } else {
        let mut id = [0; BroadcastId::BYTES];
        rest.random.fill(&mut id);
        BroadcastId::from_bytes(id)
    };
    let source = request.source_service.unwrap_or_else(|| request.service.clone());
    let invalid = |error: text::TextError| Failure::invalid(error.to_string());
    text::name("service", &request.service).map_err(invalid)?;
    text::name("source_service", &source).map_err(invalid)?;
    text::free("message_type", &request.message_type, limits::NAME_BYTES_MAX).map_err(invalid)?;
    let group = request.group.unwrap_or_default();
    text::free("group", &group, limits::NAME_BYTES_MAX).map_err(invalid)?;
    let mut required_labels = request.labels.iter().map(|text| label(text)).collect::<Result<Vec<_>, _>>()?;
    required_labels.sort();
    required_labels.dedup();
    if required_labels.len() > limits::AGENT_LABELS_MAX {
        return Err(Failure::invalid(format!("at most {} labels can be asked for", limits::AGENT_LABELS_MAX)));
    }
    let now = rest.clock.now();
    Ok(Broadcast {
        id,
        source: Address::server(source),
        destination_service: request.service,
        message_type: request.message_type,
        required_labels,
        expires: life(request.expires_in.as_deref())?.map(|life| now.plus(life)),
        payload: payload(request.type_url, request.data.as_deref())?,
        group,
        limit: request.limit.map_or(BroadcastLimit::Unlimited, BroadcastLimit::Machines),
        sent: 0,
        allocated: 0,
        created: now,
    })
}

fn show(row: Broadcast, now: Timestamp) -> BroadcastRow {
    let (limit, left) = match row.limit {
        BroadcastLimit::Unlimited => (None, true),
        BroadcastLimit::Machines(limit) => (Some(limit), row.sent < limit),
    };
    BroadcastRow {
        id: row.id.to_string(),
        source_service: row.source.service,
        service: row.destination_service,
        message_type: row.message_type,
        labels: row.required_labels.iter().map(ToString::to_string).collect(),
        limit,
        sent: row.sent,
        active: left && row.expires.is_none_or(|expires| expires > now),
        created: row.created.to_string(),
        expires: row.expires.map(|at| at.to_string()),
        group: row.group,
    }
}
