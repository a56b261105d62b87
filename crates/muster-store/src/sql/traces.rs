//! Traces of what was not accepted: refused contacts and dead letters. (Dead letters come in with contacts, `effects.rs`.)

use crate::StoreError;
use crate::agents::{DeadLetter, RefusalRow};
use crate::db::Tx;
use crate::db::value::params;
use muster_core::limits;

const REFUSAL: &str = "INSERT INTO refusals (at, agent_id, address, code, reason) VALUES ($1, $2, $3, $4, $5)";
const TRIM_REFUSALS: &str = "DELETE FROM refusals WHERE number <= (SELECT max(number) FROM refusals) - $1";
const REFUSALS: &str = "SELECT number, at, agent_id, address, code, reason FROM refusals WHERE number < $1 \
     ORDER BY number DESC LIMIT $2";
const DEAD_LETTERS: &str = "SELECT number, at, agent_id, reason, sha256, head FROM dead_letters WHERE number < $1 \
     ORDER BY number DESC LIMIT $2";

/// Keeps the trace of a refused contact; the oldest go.
pub(super) async fn refusal(tx: &mut Tx, row: &RefusalRow) -> Result<(), StoreError> {
    let (address, reason) = (muster_core::text::without_nul(&row.address), muster_core::text::without_nul(&row.reason));
    tx.execute(REFUSAL, params![row.at, row.agent.as_ref(), address, &row.code, reason]).await?;
    let kept = i64::try_from(limits::REFUSALS_MAX).unwrap_or(i64::MAX);
    tx.execute(TRIM_REFUSALS, params![kept]).await.map(drop)
}

/// Returns refused contacts, newest first.
pub(super) async fn refusals(tx: &mut Tx, (before, limit): &(Option<i64>, u32)) -> Result<Vec<RefusalRow>, StoreError> {
    let mut refusals = Vec::new();
    for row in tx.query(REFUSALS, params![before.unwrap_or(i64::MAX), *limit]).await? {
        let mut fields = row.fields("refusals");
        refusals.push(RefusalRow {
            number: fields.take()?,
            at: fields.take()?,
            agent: fields.take()?,
            address: fields.take()?,
            code: fields.take()?,
            reason: fields.take()?,
        });
    }
    Ok(refusals)
}

/// Returns dead letters, newest first.
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
