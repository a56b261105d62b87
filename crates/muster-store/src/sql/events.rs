//! What happened at the agents' door and is worth a look: events, and messages that could not be accepted.

use crate::StoreError;
use crate::agents::{DeadLetter, EventFilter, EventRow};
use crate::db::Tx;
use crate::db::value::{Value, params};
use muster_core::{limits, text};

const INSERT: &str = "INSERT INTO events (at, agent_id, address, code, reason) VALUES ($1, $2, $3, $4, $5)";
const TRIM: &str = "DELETE FROM events WHERE number <= (SELECT max(number) FROM events) - $1";
const DEAD_LETTERS: &str = "SELECT number, at, agent_id, reason, sha256, head FROM dead_letters WHERE number < $1 \
     ORDER BY number DESC LIMIT $2";

/// Keeps an event, and lets go of the oldest.
pub(super) async fn put(tx: &mut Tx, row: &EventRow) -> Result<(), StoreError> {
    let (address, reason) = (text::without_nul(&row.address), text::without_nul(&row.reason));
    tx.execute(INSERT, params![row.at, row.agent.as_ref(), address, &row.code, reason]).await?;
    let kept = i64::try_from(limits::EVENTS_MAX).unwrap_or(i64::MAX);
    tx.execute(TRIM, params![kept]).await.map(drop)
}

/// Returns events, newest first. There are few enough to look at each.
pub(super) async fn page(
    tx: &mut Tx,
    (filter, before, limit): &(EventFilter, Option<i64>, u32),
) -> Result<Vec<EventRow>, StoreError> {
    let mut wheres = vec!["number < $1".to_owned()];
    let mut values: Vec<Value<'_>> = vec![before.unwrap_or(i64::MAX).into()];
    if let Some(agent) = &filter.agent {
        values.push(agent.into());
        wheres.push(format!("agent_id = ${}", values.len()));
    }
    if let Some(code) = &filter.code {
        values.push(code.into());
        wheres.push(format!("code = ${}", values.len()));
    }
    values.push((*limit).into());
    let sql = format!(
        "SELECT number, at, agent_id, address, code, reason FROM events WHERE {} ORDER BY number DESC LIMIT ${}",
        wheres.join(" AND "),
        values.len()
    );
    let mut events = Vec::new();
    for row in tx.query(sql, &values).await? {
        let mut fields = row.fields("events");
        events.push(EventRow {
            number: fields.take()?,
            at: fields.take()?,
            agent: fields.take()?,
            address: fields.take()?,
            code: fields.take()?,
            reason: fields.take()?,
        });
    }
    Ok(events)
}

/// Returns messages that could not be accepted, newest first, with their numbers.
pub(super) async fn dead_letters(
    tx: &mut Tx,
    (before, limit): &(Option<i64>, u32),
) -> Result<Vec<(i64, DeadLetter)>, StoreError> {
    let mut letters = Vec::new();
    for row in tx.query(DEAD_LETTERS, params![before.unwrap_or(i64::MAX), *limit]).await? {
        let mut fields = row.fields("dead_letters");
        let number = fields.take()?;
        let (at, agent, reason) = (fields.take()?, fields.take()?, fields.take()?);
        letters.push((number, DeadLetter { at, agent, reason, sha256: fields.take()?, head: fields.take()? }));
    }
    Ok(letters)
}
