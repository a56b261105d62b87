//! Results that came after their command had ended, as the server lists them: every page, as it was sent.

use crate::results::{Sink, of_command};
use crate::{Context, Exit, Failure};
use muster_api::Page;
use muster_api::actions::{ActionSummary, LateResultRow};
use muster_api::server::PageQuery;
use muster_core::limits::{LIST_ROWS_MAX, PAGE_ROWS_MAX};

/// Asks for what came late, newest first. The text of each result is the one that its machine signed.
pub(super) async fn rows(context: &Context, what: &str, id: i64) -> Result<Vec<LateResultRow>, Failure> {
    let (id, mut rows) = (id.to_string(), Vec::new());
    let mut cursor: Option<String> = None;
    loop {
        let query = PageQuery { cursor: cursor.clone(), limit: Some(PAGE_ROWS_MAX) };
        let page: Page<LateResultRow> =
            context.api.get_as_sent(what, &["actions", &id, "late-results"], &query).await?;
        rows.extend(page.items);
        if rows.len() > LIST_ROWS_MAX {
            let why = format!("there are more than {LIST_ROWS_MAX} late results");
            return Err(Failure::new(Exit::Failed, what, why).on(context.api.url()));
        }
        // A server that repeats a cursor would be followed for ever.
        if page.next.is_none() || page.next == cursor {
            return Ok(rows);
        }
        cursor = page.next;
    }
}

/// Prints them, verified as other results are.
pub(super) async fn print(
    context: &Context,
    (what, id): (&str, i64),
    sink: Sink,
    action: &ActionSummary,
) -> Result<(), Failure> {
    let mut sink = sink.of_late();
    let rows = rows(context, what, id).await?;
    let times = rows.last().zip(rows.first()).map(|(first, last)| (first.received.clone(), last.received.clone()));
    for row in rows {
        sink.take(&of_command(row))?;
    }
    let ended = sink.end(action);
    if let Some((first, last)) = times {
        context.out.note(&crate::output::safe(&format!("By the server's word they came from {first} to {last}.")));
    }
    ended?.check()
}
