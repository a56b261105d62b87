//! What came of an action on each machine: pages of commands, lines of results, results that came late.

use super::Rest;
use super::actions::{action_id, word};
use super::input::{Args, Names};
use super::pages::Paging;
use super::problem::{Doing, Failure};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use http::header;
use muster_api::Page;
use muster_api::actions::{CommandQuery, CommandRow, LateResultRow, ResultProof, ResultQuery};
use muster_api::server::PageQuery;
use muster_core::action::{ActionId, CommandId};
use muster_engine::access::{Caller, Permission};
use muster_store::StoreError;
use muster_store::actions::{self, CommandFilter, CommandPage, LatePage};
use serde_json::value::RawValue;

/// Commands read at once for the lines of results.
const LINES_AT_ONCE: u32 = 50;

/// Lists the machines that were given an action, and how each stands.
#[utoipa::path(get, path = "/api/v1/actions/{id}/commands", tag = "actions", params(("id" = i64, Path, description = "Its number"), CommandQuery),
    responses((status = 200, body = Page<CommandRow>)))]
pub(crate) async fn command_list(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Extension(caller): Extension<Caller>,
    Args(query): Args<CommandQuery>,
) -> Result<Json<Page<CommandRow>>, Failure> {
    if query.results.is_some() || query.found.is_some() {
        caller.require(Permission::ResultsRead)?;
    }
    let action = known(&rest, action_id(&id)?).await?;
    let paging = Paging::new("commands", query.cursor.as_deref(), query.limit)?;
    let filter = CommandFilter {
        action: Some(action),
        agent: None,
        status: query.status.as_deref().map(word).transpose()?,
        found: query.found,
    };
    let wants = query.results.unwrap_or(false);
    let found = rest.engine.store().command_page(filter, paging.after()?, paging.rows(), wants).await;
    let CommandPage { commands, is_full } = found.doing("list commands")?;
    let page = paging.cut_full(commands, is_full, |row| row.id.to_string());
    Ok(Json(Paging::map(page, show)))
}

/// Gives the results of an action as lines of JSON, a command each, in the order of the machines.
#[utoipa::path(get, path = "/api/v1/actions/{id}/results", tag = "actions", params(("id" = i64, Path, description = "Its number"), ResultQuery),
    responses((status = 200, description = "Commands, a line each", content_type = "application/x-ndjson", body = CommandRow)))]
pub(crate) async fn result_list(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Args(query): Args<ResultQuery>,
) -> Result<Response, Failure> {
    let action = known(&rest, action_id(&id)?).await?;
    let status = query.status.as_deref().map(word).transpose()?;
    let filter = CommandFilter { action: Some(action), agent: None, status, found: query.found };
    // A failure in the middle breaks the body off, so that nobody takes a part for the whole.
    let lines = stream::unfold(Some(None), move |after: Option<Option<CommandId>>| {
        let (rest, filter) = (rest.clone(), filter.clone());
        async move {
            let after = after?;
            match lines(&rest, filter, after).await {
                Ok((lines, next)) => Some((Ok(lines), next.map(Some))),
                Err(error) => {
                    tracing::error!(error = %crate::observe::Chain(&error), "could not read results");
                    Some((Err(error), None))
                }
            }
        }
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// Lists results that came after the first one of their command, or after its end, newest first.
#[utoipa::path(get, path = "/api/v1/actions/{id}/late-results", tag = "actions", params(("id" = i64, Path, description = "Its number"), PageQuery),
    responses((status = 200, body = Page<LateResultRow>)))]
pub(crate) async fn late_result_list(
    State(rest): State<Rest>,
    Names(id): Names<String>,
    Args(query): Args<PageQuery>,
) -> Result<Json<Page<LateResultRow>>, Failure> {
    let action = known(&rest, action_id(&id)?).await?;
    let paging = Paging::new("late results", query.cursor.as_deref(), query.limit)?;
    let found = rest.engine.store().command_late(action, paging.after()?, paging.rows()).await;
    let LatePage { late, is_full } = found.doing("list late results")?;
    let page = paging.cut_full(late, is_full, |row| row.number.to_string());
    let show = |row: actions::LateResult| LateResultRow {
        agent: row.agent.to_string(),
        status: row.status.to_string(),
        received: row.received.to_string(),
        results: json(row.results),
        proof: row.proof.map(proof),
    };
    Ok(Json(Paging::map(page, show)))
}

/// Returns the lines of the next commands that are done, and after which command to go on.
async fn lines(
    rest: &Rest,
    filter: CommandFilter,
    after: Option<CommandId>,
) -> Result<(Bytes, Option<CommandId>), StoreError> {
    let CommandPage { commands, is_full } =
        rest.engine.store().command_page(filter, after, LINES_AT_ONCE, true).await?;
    let has_more = is_full || commands.len() >= LINES_AT_ONCE as usize;
    let next = commands.last().filter(|_| has_more).map(|row| row.id);
    let mut bytes = Vec::new();
    for row in commands.into_iter().filter(|row| row.status.is_final()) {
        serde_json::to_writer(&mut bytes, &show(row)).expect("a row can always be written as JSON");
        bytes.push(b'\n');
    }
    Ok((bytes.into(), next))
}

async fn known(rest: &Rest, id: ActionId) -> Result<ActionId, Failure> {
    let row = rest.engine.store().action_get(id).await.doing("look up the action")?;
    row.map(|_| id).ok_or_else(|| Failure::not_found(format!("action {id} is not known")))
}

/// The results as they were sent, on one line: in JSON a line break can only be white space, and no agent writes one.
fn json(text: String) -> Box<RawValue> {
    let text = if text.contains(['\n', '\r']) { text.replace(['\n', '\r'], " ") } else { text };
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn show(row: actions::CommandRow) -> CommandRow {
    CommandRow {
        id: row.id.get(),
        action: row.action.get(),
        agent: row.agent.to_string(),
        hostname: Some(row.host_name).filter(|name| !name.is_empty()),
        status: row.status.to_string(),
        handed_out: row.is_handed_out,
        started: row.started.to_string(),
        finished: row.finished.map(|at| at.to_string()),
        found: row.found,
        results: row.results.map(json),
        proof: row.proof.map(proof),
    }
}

fn proof(proof: actions::ResultProof) -> ResultProof {
    ResultProof { signature: STANDARD.encode(proof.signature), key: STANDARD.encode(proof.key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_found_is_one_line_however_it_is_written() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for (text, shown) in [
            ("[ {\"a\":\"b\\n\"} ]", "[ {\"a\":\"b\\n\"} ]"),
            ("[\n{}\r\n]", "[ {}  ]"),
            (&deep, &deep),
            ("[", "null"),
            ("", "null"),
        ] {
            assert_eq!(json(text.to_owned()).get(), shown);
        }
    }
}
