//! The journal: the line that commits with each change by a person.

use crate::StoreError;
use crate::db::Tx;
use crate::db::value::params;
use muster_core::{Cause, Timestamp};

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
    const INSERT: &str = "INSERT INTO journal (at, actor, request, reason, action, subject, details) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let line = params![at, &cause.actor, &cause.request, &cause.reason, action, subject, details];
    tx.execute(INSERT, line).await.map(drop)
}
