//! The end of old rows, a bounded number at a time.

use crate::StoreError;
use crate::cluster::Retention;
use crate::db::Tx;
use crate::db::value::params;
use muster_core::Timestamp;

/// Pieces of files (256 KiB each) deleted in one transaction.
const PIECES_MAX: u32 = 64;

/// A statement that deletes the oldest rows of a table, those before $1 and at most $2, and which moment $1 is.
type ByTime = (&'static str, fn(&Retention) -> Timestamp);

const BY_TIME: [ByTime; 3] = [
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
    (
        "DELETE FROM messages WHERE number IN \
         (SELECT number FROM messages WHERE created < $1 AND state <> 0 ORDER BY created LIMIT $2)",
        |retention| retention.messages_before,
    ),
];
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

pub(super) async fn sweep(tx: &mut Tx, (retention, limit): &(Retention, u32)) -> Result<u64, StoreError> {
    let mut deleted = 0;
    for (statement, before) in BY_TIME {
        deleted += tx.execute(statement, params![before(retention), *limit]).await?;
    }
    deleted += contents(tx, retention.contents_before, *limit).await?;
    deleted += broadcasts(tx, retention.broadcasts_before, *limit).await?;
    Ok(deleted)
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
