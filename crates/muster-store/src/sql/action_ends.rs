//! How actions end: expired, called back, or never begun; and how old commands are forgotten.

use super::action_cancels::{Notice, notices};
use super::action_rows::status_number;
use super::action_work::{Work, worked};
use super::commands::{message, order_id};
use super::mailbox::{set_results, store};
use super::message_rows::NewRow;
use crate::StoreError;
use crate::actions::{ActionRetention, Next, Worked};
use crate::db::Tx;
use crate::db::value::params;
use muster_core::action::{ActionId, ActionStatus};
use muster_core::{AgentId, Message, MessageId, MessageResult, Payload, system};
use sha2::{Digest, Sha256};
use std::time::Duration;

const END: &str = "UPDATE action_rows SET status = $2, reason = $3, finished = $4, updated = $4, expanded = 1 \
     WHERE number = $1 AND finished IS NULL";
const DELETE_JOB: &str = "DELETE FROM action_jobs WHERE action = $1";
const LAST: &str = "SELECT COALESCE(max(agent), 0) FROM command_rows WHERE action = $1";
const NEXT_OPEN: &str =
    "SELECT COALESCE(min(agent), 0) FROM command_rows WHERE action = $1 AND agent > $2 AND state < 2";
/// Those, and those that ended here without an answer: their machines may have the order.
const NEXT_UNANSWERED: &str = "SELECT COALESCE(min(agent), 0) FROM command_rows WHERE action = $1 AND agent > $2 \
     AND (state < 2 OR state IN (5, 6))";
const EXPIRE: &str = "UPDATE command_rows SET state = 5, at = $4 WHERE action = $1 AND agent > $2 AND agent <= $3 \
     AND state < 2";
const CANCEL: &str = "UPDATE command_rows SET state = 6, at = $4 WHERE action = $1 AND agent > $2 AND agent <= $3 \
     AND state < 2";
const SET_ENDED: &str = "UPDATE action_jobs SET ended = $2 WHERE action = $1";
const COUNT_EXPIRED: &str = "UPDATE action_rows SET expired = expired + $2, updated = $3 WHERE number = $1";
const COUNT_CANCELLED: &str = "UPDATE action_rows SET cancelled = cancelled + $2, updated = $3 WHERE number = $1";
const COMPLETE: &str =
    "UPDATE action_rows SET status = 5, finished = $2, updated = $2, expanded = 1 WHERE number = $1 AND status < 5";
const HANDED_OUT: &str = "SELECT machines.agent_id, machines.number, machines.streaming_to FROM command_rows \
     JOIN machines ON machines.number = command_rows.agent WHERE command_rows.action = $1 AND command_rows.agent > $2 \
     AND command_rows.agent <= $3 AND command_rows.state IN (1, 5, 6) AND machines.state <> 3 ORDER BY machines.number";

/// How long a cancellation waits for an agent at least: what was begun before the order's time was over may still run.
const CALLBACK_LIFE_MIN: Duration = Duration::from_hours(1);
/// Cancellations that are stored in one step, of one agent or of several.
const CANCEL_ROWS_MAX: u32 = 1000;

/// Ends an action that has no open commands.
pub(super) async fn finish(tx: &mut Tx, work: &Work, status: ActionStatus, reason: &str) -> Result<Worked, StoreError> {
    tx.execute(END, params![work.id, status_number(status), reason, work.now]).await?;
    tx.execute(DELETE_JOB, params![work.id]).await?;
    Ok(worked(status, 0, Next::Never))
}

/// Expires a page of commands, and completes the action behind the last.
pub(super) async fn expire_step(tx: &mut Tx, work: &Work) -> Result<Worked, StoreError> {
    let page = page(tx, work, NEXT_OPEN, work.limits.rows).await?;
    let expired = tx.execute(EXPIRE, params![work.id, page.after, page.upto, work.now]).await?;
    tx.execute(SET_ENDED, params![work.id, page.upto]).await?;
    if expired > 0 {
        tx.execute(COUNT_EXPIRED, params![work.id, expired.cast_signed(), work.now]).await?;
    }
    if page.upto < page.last {
        return Ok(worked(work.status, expired, Next::Now));
    }
    tx.execute(COMPLETE, params![work.id, work.now]).await?;
    tx.execute(DELETE_JOB, params![work.id]).await?;
    Ok(worked(ActionStatus::Completed, expired, Next::Never))
}

/// A part of an action's commands, by their machines' numbers.
struct Page {
    /// It begins behind this one.
    after: i64,
    /// It ends with this one.
    upto: i64,
    /// All end with this one.
    last: i64,
}

/// The next part that holds open commands.
async fn page(tx: &mut Tx, work: &Work, next: &'static str, rows: u32) -> Result<Page, StoreError> {
    let last: i64 = tx.query_one(LAST, params![work.id]).await?.only("command_rows")?;
    let open: i64 = tx.query_one(next, params![work.id, work.ended]).await?.only("command_rows")?;
    if open == 0 {
        return Ok(Page { after: last, upto: last, last });
    }
    let after = open - 1;
    Ok(Page { after, upto: last.min(after.saturating_add(i64::from(rows.max(1)))), last })
}

/// Ends a page of commands that were called back. Their orders are withdrawn; agents that may have one are sent every
/// cancellation that people signed: without one they would believe nobody, and which one counts they decide.
pub(super) async fn cancel_step(tx: &mut Tx, work: &Work) -> Result<Worked, StoreError> {
    let notices = notices(tx, work.id).await?;
    let next = if notices.is_empty() { NEXT_OPEN } else { NEXT_UNANSWERED };
    let most = CANCEL_ROWS_MAX / u32::try_from(notices.len().max(1)).unwrap_or(CANCEL_ROWS_MAX);
    let page = page(tx, work, next, work.limits.rows.min(most)).await?;
    let mut holders: Vec<(AgentId, i64, String)> = Vec::new();
    for row in tx.query(HANDED_OUT, params![work.id, page.after, page.upto]).await? {
        let mut fields = row.fields("machines");
        holders.push((fields.take()?, fields.take()?, fields.take()?));
    }
    withdraw(tx, work, &holders, &notices).await?;
    if notices.is_empty() {
        holders.clear();
    }
    let each = holders.iter().flat_map(|holder| notices.iter().map(move |notice| (holder, notice)));
    let messages: Vec<Message> =
        each.map(|((agent, number, _), notice)| callback(work, *agent, *number, &notice.body)).collect();
    let due = work.now.minus(Duration::from_nanos(1));
    let rows: Vec<NewRow<'_>> = messages.iter().map(|message| NewRow::waiting(message, due)).collect();
    store(tx, &rows, None).await?;
    let cancelled = tx.execute(CANCEL, params![work.id, page.after, page.upto, work.now]).await?;
    tx.execute(SET_ENDED, params![work.id, page.upto]).await?;
    if cancelled > 0 {
        tx.execute(COUNT_CANCELLED, params![work.id, cancelled.cast_signed(), work.now]).await?;
    }
    let next = if page.upto < page.last { Next::Now } else { Next::Never };
    if next == Next::Never {
        tx.execute(DELETE_JOB, params![work.id]).await?;
    }
    let mut done = worked(work.status, cancelled, next);
    done.wake = holders.into_iter().filter(|(.., url)| !url.is_empty()).map(|(agent, _, url)| (agent, url)).collect();
    Ok(done)
}

/// What is left to do for an action that completed: machines that did not answer may have its order, and are sent what people
/// signed since.
pub(super) async fn completed_step(tx: &mut Tx, work: &Work) -> Result<Worked, StoreError> {
    if notices(tx, work.id).await?.is_empty() {
        return finish(tx, work, work.status, "").await;
    }
    cancel_step(tx, work).await
}

/// Takes the orders of these agents out of the mailbox, and cancellations that their signers replaced.
async fn withdraw(
    tx: &mut Tx,
    work: &Work,
    holders: &[(AgentId, i64, String)],
    notices: &[Notice],
) -> Result<(), StoreError> {
    let replaced: Vec<&[u8]> = notices.iter().filter_map(|notice| notice.replaced.as_deref()).collect();
    let order = MessageResult::failed(work.now, "The action was called back.");
    let earlier = MessageResult::failed(work.now, "The signer called the action back again.");
    let orders: Vec<_> = holders.iter().map(|(_, number, _)| order_id(work.id, *number, work.created)).collect();
    let of = |number: i64| replaced.iter().map(move |body| callback_id(work, number, body));
    let those: Vec<_> = holders.iter().flat_map(|(_, number, _)| of(*number)).collect();
    let results = orders.iter().map(|id| (id, &order)).chain(those.iter().map(|id| (id, &earlier)));
    set_results(tx, results).await
}

/// A cancellation that is signed again is another message.
fn callback_id(work: &Work, number: i64, body: &[u8]) -> MessageId {
    let mut hash = Sha256::new();
    hash.update(b"muster callback\n");
    hash.update(order_id(work.id, number, work.created).as_bytes());
    hash.update(body);
    let digest: [u8; 32] = hash.finalize().into();
    let mut random = [0; 24];
    random.copy_from_slice(&digest[..24]);
    MessageId::ordered(work.created, random)
}

fn callback(work: &Work, agent: AgentId, number: i64, body: &Payload) -> Message {
    let id = callback_id(work, number, &body.value);
    let message = message(system::ACTION_CANCEL, id, agent, body.clone(), work.now);
    // An agent that comes back when the order's time is over does not begin it anyway.
    Message { expires: Some(work.expire_after.max(work.now.plus(CALLBACK_LIFE_MIN))), ..message }
}

const OLD_RESULTS: &str = "SELECT number FROM action_rows WHERE finished < $1 AND (EXISTS (SELECT 1 FROM result_rows \
     WHERE result_rows.action = action_rows.number AND late = 0) OR EXISTS (SELECT 1 FROM result_rows \
     WHERE result_rows.action = action_rows.number AND late = 1)) ORDER BY finished LIMIT 1";
const OLD_COMMANDS: &str = "SELECT number FROM action_rows WHERE finished < $1 AND EXISTS (SELECT 1 FROM command_rows \
     WHERE command_rows.action = action_rows.number) AND NOT EXISTS (SELECT 1 FROM result_rows \
     WHERE result_rows.action = action_rows.number AND late = 0) AND NOT EXISTS (SELECT 1 FROM result_rows \
     WHERE result_rows.action = action_rows.number AND late = 1) ORDER BY finished LIMIT 1";
const DELETE_RESULTS: &str = "DELETE FROM result_rows WHERE number IN (SELECT number FROM result_rows \
     WHERE action = $1 AND late = $2 LIMIT $3)";
const DELETE_COMMANDS: &str = "DELETE FROM command_rows WHERE action = $1 AND agent IN (SELECT agent \
     FROM command_rows WHERE action = $1 ORDER BY agent LIMIT $2)";
const DELETE_SESSIONS: &str = "DELETE FROM agent_sessions WHERE session IN (SELECT session FROM agent_sessions \
     WHERE is_current = 0 AND last_seen < $1 ORDER BY session LIMIT $2)";
const DELETE_STATS: &str = "DELETE FROM fleet_counts WHERE at IN (SELECT at FROM fleet_counts WHERE at < $1 \
     ORDER BY at LIMIT $2)";

/// Forgets what is old: the results of one action at a time, and the commands of one that has no results any more.
pub(super) async fn sweep(tx: &mut Tx, (retention, limit): &(ActionRetention, u32)) -> Result<u64, StoreError> {
    let mut deleted = tx.execute(DELETE_SESSIONS, params![retention.sessions_before, *limit]).await?;
    deleted += tx.execute(DELETE_STATS, params![retention.stats_before, *limit]).await?;
    // Results do not outlive their commands.
    let results_before = retention.results_before.max(retention.commands_before);
    if let Some(row) = tx.query_opt(OLD_RESULTS, params![results_before]).await? {
        let action: ActionId = row.only("action_rows")?;
        deleted += tx.execute(DELETE_RESULTS, params![action, false, *limit]).await?;
        deleted += tx.execute(DELETE_RESULTS, params![action, true, *limit]).await?;
    }
    if let Some(row) = tx.query_opt(OLD_COMMANDS, params![retention.commands_before]).await? {
        let action: ActionId = row.only("action_rows")?;
        deleted += tx.execute(DELETE_COMMANDS, params![action, *limit]).await?;
    }
    Ok(deleted)
}
