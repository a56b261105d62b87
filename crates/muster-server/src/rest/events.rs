//! What happened at the agents' door and is worth a look: events, and messages that could not be accepted.

use super::Rest;
use super::agents::agent_id;
use super::input::Args;
use super::pages::Paging;
use super::problem::{Doing, Failure};
use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_api::Page;
use muster_api::agents::{DeadLetterRow, EventQuery, EventRow};
use muster_api::server::PageQuery;
use muster_core::text;
use muster_store::agents::EventFilter;

/// Lists refused contacts and what an honest machine does not do, newest first.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(EventQuery), responses((status = 200, body = Page<EventRow>)))]
pub(crate) async fn event_list(
    State(rest): State<Rest>,
    Args(query): Args<EventQuery>,
) -> Result<Json<Page<EventRow>>, Failure> {
    if let Some(code) = &query.code {
        text::name("code", code).map_err(|error| Failure::invalid(error.to_string()))?;
    }
    let filter = EventFilter { agent: query.agent.as_deref().map(agent_id).transpose()?, code: query.code };
    let paging = Paging::new("events", query.cursor.as_deref(), query.limit)?;
    let rows = rest.engine.store().event_page(filter, paging.after()?, paging.rows()).await.doing("list events")?;
    let page = paging.cut(rows, |row| row.number.to_string());
    Ok(Json(Paging::map(page, |row| EventRow {
        at: row.at.to_string(),
        agent: row.agent.map(|agent| agent.to_string()),
        address: row.address,
        code: row.code,
        reason: row.reason,
    })))
}

/// Lists messages that could not be accepted, newest first.
#[utoipa::path(get, path = "/api/v1/dead-letters", tag = "events", params(PageQuery), responses((status = 200, body = Page<DeadLetterRow>)))]
pub(crate) async fn dead_letter_list(
    State(rest): State<Rest>,
    Args(query): Args<PageQuery>,
) -> Result<Json<Page<DeadLetterRow>>, Failure> {
    let paging = Paging::new("dead-letters", query.cursor.as_deref(), query.limit)?;
    let rows = rest.engine.store().dead_letter_page(paging.after()?, paging.rows()).await.doing("list dead letters")?;
    let page = paging.cut(rows, |(number, _)| number.to_string());
    Ok(Json(Paging::map(page, |(_, row)| DeadLetterRow {
        at: row.at.to_string(),
        agent: row.agent.to_string(),
        reason: row.reason,
        sha256: hex::encode(row.sha256),
        head: STANDARD.encode(row.head),
    })))
}
