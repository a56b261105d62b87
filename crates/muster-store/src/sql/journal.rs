//! The journal: the line that commits with each change by a person, and the chain that its lines make.
//!
//! Stays true: lines are numbered without gaps in the order of their commits, because whoever writes one holds the row
//! of the chain's end until it commits. Nothing here changes or removes a line.

use crate::db::Tx;
use crate::db::value::params;
use crate::journal::{JournalFault, JournalPoint, JournalStore, JournalVerified};
use crate::{SqlStore, StoreError};
use async_trait::async_trait;
use muster_core::{Cause, Timestamp};
use sha2::{Digest, Sha256};

const HEAD: &str = "SELECT number, hash FROM journal_head WHERE one = 1 FOR UPDATE";
const INSERT: &str = "INSERT INTO journal (number, at, actor, request, reason, action, subject, details, hash) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
const SET_HEAD: &str = "UPDATE journal_head SET number = $1, hash = $2 WHERE one = 1";
const READ_HEAD: &str = "SELECT since, number, hash FROM journal_head WHERE one = 1";
const UNCHAINED: &str = "SELECT count(*) FROM journal WHERE number < $1";
const LINES: &str = "SELECT number, at, actor, request, reason, action, subject, details, hash FROM journal \
     WHERE number > $1 ORDER BY number LIMIT $2";

/// Writes a line.
pub(super) async fn write(
    tx: &mut Tx,
    at: Timestamp,
    cause: &Cause,
    action: &str,
    subject: &str,
    details: &serde_json::Value,
) -> Result<(), StoreError> {
    write_text(tx, at, cause, action, subject, &details.to_string()).await
}

/// Writes a line whose details are text already.
pub(super) async fn write_text(
    tx: &mut Tx,
    at: Timestamp,
    cause: &Cause,
    action: &str,
    subject: &str,
    details: &str,
) -> Result<(), StoreError> {
    let mut head = tx.query_one(HEAD, &[]).await?.fields("journal_head");
    let number = head.take::<i64>()? + 1;
    let before: Vec<u8> = head.take()?;
    let hash = chain(&before, number, at, [&cause.actor, &cause.request, &cause.reason, action, subject, details]);
    let line = params![number, at, &cause.actor, &cause.request, &cause.reason, action, subject, details, &hash];
    tx.execute(INSERT, line).await?;
    tx.execute(SET_HEAD, params![number, &hash]).await.map(drop)
}

/// The hash of a line: over the hash of the line before and every column, each with its length in front.
fn chain(before: &[u8], number: i64, at: Timestamp, texts: [&str; 6]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"muster journal 1\n");
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(before);
    part(&number.to_be_bytes());
    part(&at.as_nanos().to_be_bytes());
    for text in texts {
        part(text.as_bytes());
    }
    hash.finalize().into()
}

async fn verify(tx: &mut Tx, (after, limit): &(Option<JournalPoint>, u32)) -> Result<JournalVerified, StoreError> {
    let mut fields = tx.query_one(READ_HEAD, &[]).await?.fields("journal_head");
    let since: i64 = fields.take()?;
    let head = JournalPoint { number: fields.take()?, hash: fields.take()? };
    let mut verified = JournalVerified { lines: 0, unchained: 0, fault: None, next: None, head };
    let mut last = if let Some(point) = after {
        point.clone()
    } else {
        verified.unchained = tx.query_one(UNCHAINED, params![since]).await?.only("journal")?;
        JournalPoint { number: since - 1, hash: Vec::new() }
    };
    let rows = tx.query(LINES, params![last.number, *limit]).await?;
    let is_full = rows.len() == *limit as usize;
    for row in rows {
        let mut fields = row.fields("journal");
        let (number, at): (i64, Timestamp) = (fields.take()?, fields.take()?);
        let texts: [String; 6] =
            [fields.take()?, fields.take()?, fields.take()?, fields.take()?, fields.take()?, fields.take()?];
        let hash: Option<Vec<u8>> = fields.take()?;
        if number != last.number + 1 {
            verified.fault = Some(fault(last.number + 1, "the line is missing"));
            return Ok(verified);
        }
        let want = chain(&last.hash, number, at, texts.each_ref().map(String::as_str));
        if hash.as_deref() != Some(&want[..]) {
            verified.fault = Some(fault(number, "the line, or the one before it, is not what was written"));
            return Ok(verified);
        }
        verified.lines += 1;
        last = JournalPoint { number, hash: want.to_vec() };
    }
    if is_full {
        verified.next = Some(last);
    } else if last.number < verified.head.number {
        verified.fault = Some(fault(last.number + 1, "the line and all behind it are missing"));
    } else if last != verified.head {
        verified.fault = Some(fault(last.number, "the chain does not end where it was left"));
    }
    Ok(verified)
}

fn fault(number: i64, what: &str) -> JournalFault {
    JournalFault { number, what: what.to_owned() }
}

#[async_trait]
impl JournalStore for SqlStore {
    async fn journal_verify(&self, after: Option<JournalPoint>, limit: u32) -> Result<JournalVerified, StoreError> {
        self.read((after, limit.max(1)), |tx, args| Box::pin(verify(tx, args))).await
    }
}
