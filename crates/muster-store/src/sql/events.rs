//! What happened at the agents' door and is worth a look: events, and messages that could not be accepted.

use crate::StoreError;
use crate::agents::{DeadLetter, DeadLetterCount, EventFilter, EventRow};
use crate::db::Tx;
use crate::db::value::{Value, params};
use muster_core::{Timestamp, limits, text};

const INSERT: &str = "INSERT INTO events (at, agent_id, address, code, reason) VALUES ($1, $2, $3, $4, $5)";
const TRIM: &str = "DELETE FROM events WHERE number <= (SELECT max(number) FROM events) - $1";
const DEAD_LETTERS: &str = "SELECT number, at, agent_id, service, reason, sha256, head FROM dead_letters WHERE number < $1 \
     ORDER BY number DESC LIMIT $2";
/// The last of each service has the largest number.
const DEAD_LETTER_COUNTS: &str = "SELECT last.service, g.letters, g.machines, last.at, last.reason FROM \
     (SELECT max(number) AS number, count(*) AS letters, count(DISTINCT agent_id) AS machines FROM dead_letters \
     WHERE at >= $1 GROUP BY service) g JOIN dead_letters last ON last.number = g.number \
     ORDER BY g.letters DESC, last.service LIMIT $2";

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
        let letter = DeadLetter {
            at: fields.take()?,
            agent: fields.take()?,
            service: fields.take()?,
            reason: fields.take()?,
            sha256: fields.take()?,
            head: fields.take()?,
        };
        letters.push((number, letter));
    }
    Ok(letters)
}

/// Counts the messages that could not be accepted since a moment, by service.
pub(super) async fn dead_letter_counts(tx: &mut Tx, since: &Timestamp) -> Result<Vec<DeadLetterCount>, StoreError> {
    let mut counts = Vec::new();
    for row in tx.query(DEAD_LETTER_COUNTS, params![*since, limits::DEAD_LETTER_SERVICES_MAX]).await? {
        let mut fields = row.fields("dead_letters");
        counts.push(DeadLetterCount {
            service: fields.take()?,
            letters: fields.take()?,
            machines: fields.take()?,
            last: fields.take()?,
            reason: fields.take()?,
        });
    }
    Ok(counts)
}
