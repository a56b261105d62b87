//! The end of old rows, a bounded number at a time.

use crate::StoreError;
use crate::cluster::{MessagesSwept, Retention};
use crate::db::Tx;
use crate::db::value::params;
use crate::messages::MessageState;
use muster_core::Timestamp;

/// Pieces of files (256 KiB each) deleted in one transaction.
const PIECES_MAX: u32 = 64;

/// A statement that deletes the oldest rows of a table, those before $1 and at most $2, and which moment $1 is.
type ByTime = (&'static str, fn(&Retention) -> Timestamp);

const BY_TIME: [ByTime; 2] = [
    (
        // In the order in which they came: an index on the time alone would cost every contact a page.
        "DELETE FROM contacts WHERE at < $1 AND contact_id IN \
         (SELECT contact_id FROM contacts ORDER BY contact_id LIMIT $2)",
        |retention| retention.contacts_before,
    ),
    (
        "DELETE FROM usage_records WHERE number IN \
         (SELECT number FROM usage_records WHERE received < $1 ORDER BY received LIMIT $2)",
        |retention| retention.contacts_before,
    ),
];
const MESSAGES: &str = "SELECT number, state, created FROM messages WHERE number > $1 ORDER BY number LIMIT $2";
const DELETE_MESSAGES: &str = "DELETE FROM messages WHERE number = ANY($1) AND state <> 0";
const UNNAMED: &str =
    "SELECT content FROM contents WHERE named = 0 AND begun < $1 ORDER BY begun LIMIT $2 FOR UPDATE SKIP LOCKED";
const DELETE_PIECES: &str = "DELETE FROM file_chunks WHERE (content, piece) IN (SELECT content, piece \
     FROM file_chunks WHERE content = ANY($1) ORDER BY content, piece LIMIT $2)";
const DELETE_CONTENTS: &str = "DELETE FROM contents WHERE content = ANY($1) AND NOT EXISTS \
     (SELECT 1 FROM file_chunks WHERE file_chunks.content = contents.content)";
const ENDED: &str = "SELECT broadcast_id FROM broadcasts WHERE (expires < $1 OR (sent >= limit_count AND created < $1)) \
     AND NOT EXISTS (SELECT 1 FROM allocations WHERE allocations.broadcast_id = broadcasts.broadcast_id) \
     ORDER BY broadcast_id LIMIT $2 FOR UPDATE SKIP LOCKED";
const DELETE_SENT: &str = "DELETE FROM broadcast_sent WHERE (agent_id, broadcast_id) IN (SELECT agent_id, \
     broadcast_id FROM broadcast_sent WHERE broadcast_id = ANY($1) LIMIT $2)";
const DELETE_BROADCASTS: &str = "DELETE FROM broadcasts WHERE broadcast_id = ANY($1) AND NOT EXISTS \
     (SELECT 1 FROM broadcast_sent WHERE broadcast_sent.broadcast_id = broadcasts.broadcast_id) AND NOT EXISTS \
     (SELECT 1 FROM allocations WHERE allocations.broadcast_id = broadcasts.broadcast_id)";

/// No deletion, but a mark that is over: the other machine of the same key was not seen for long.
const CLONES: &str = "UPDATE machines SET clone_suspected = NULL WHERE agent_id IN (SELECT agent_id FROM machines \
     WHERE clone_suspected IS NOT NULL AND clone_suspected < $1 LIMIT $2)";

pub(super) async fn sweep(tx: &mut Tx, (retention, limit): &(Retention, u32)) -> Result<u64, StoreError> {
    let mut deleted = tx.execute(CLONES, params![retention.clones_before, *limit]).await?;
    for (statement, before) in BY_TIME {
        deleted += tx.execute(statement, params![before(retention), *limit]).await?;
    }
    deleted += contents(tx, retention.contents_before, *limit).await?;
    deleted += broadcasts(tx, retention.broadcasts_before, *limit).await?;
    Ok(deleted)
}

/// Walks `limit` messages in the order in which they came, and deletes the old ones that are not pending.
pub(super) async fn messages(
    tx: &mut Tx,
    (before, after, limit): &(Timestamp, i64, u32),
) -> Result<MessagesSwept, StoreError> {
    let (mut old, mut next, mut seen) = (Vec::new(), None, 0);
    for row in tx.query(MESSAGES, params![*after, *limit]).await? {
        let mut fields = row.fields("messages");
        let (number, state): (i64, MessageState) = (fields.take()?, fields.take()?);
        let is_old = fields.take::<Timestamp>()? < *before;
        if is_old && state != MessageState::Pending {
            old.push(number);
        }
        next = is_old.then_some(number);
        seen += 1;
    }
    // Past the last that is old enough, or past the last of all, there is nothing more.
    let next = next.filter(|_| seen == *limit);
    let deleted = if old.is_empty() { 0 } else { tx.execute(DELETE_MESSAGES, params![old]).await? };
    Ok(MessagesSwept { deleted, next })
}

async fn contents(tx: &mut Tx, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
    let rows = tx.query(UNNAMED, params![before, limit]).await?;
    let contents: Vec<i64> = rows.into_iter().map(|row| row.only("contents")).collect::<Result<_, _>>()?;
    if contents.is_empty() {
        return Ok(0);
    }
    let pieces = tx.execute(DELETE_PIECES, params![contents.clone(), limit.min(PIECES_MAX)]).await?;
    Ok(pieces + tx.execute(DELETE_CONTENTS, params![contents]).await?)
}

async fn broadcasts(tx: &mut Tx, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
    let rows = tx.query(ENDED, params![before, limit]).await?;
    let ids: Vec<Vec<u8>> = rows.into_iter().map(|row| row.only("broadcasts")).collect::<Result<_, _>>()?;
    let ids: Vec<&[u8]> = ids.iter().map(Vec::as_slice).collect();
    if ids.is_empty() {
        return Ok(0);
    }
    let sent = tx.execute(DELETE_SENT, params![ids.clone(), limit]).await?;
    Ok(sent + tx.execute(DELETE_BROADCASTS, params![ids]).await?)
}
