//! Usage records: what processes on machines used, by when it was received.

use super::effects::put_usage;
use crate::StoreError;
use crate::db::Tx;
use crate::db::value::params;
use muster_core::{AgentId, ResourceUsage, Timestamp};
use std::ops::Range;

const PAGE: &str = "SELECT number, scope, pid, process_start, measured, received, mean_user_cpu, max_user_cpu, \
     mean_system_cpu, max_system_cpu, mean_memory_mib, max_memory_mib, mean_fds, max_fds, terminated \
     FROM usage_records WHERE agent_id = $1 AND received >= $2 AND received < $3 AND (received, number) > ($4, $5) \
     ORDER BY received, number LIMIT $6";

/// Keeps a record.
pub(super) async fn put(tx: &mut Tx, (id, usage, now): &(AgentId, ResourceUsage, Timestamp)) -> Result<(), StoreError> {
    put_usage(tx, *id, usage, *now).await
}

/// What a page of records is of: whose, of which span of time, after which record, and how many at most.
pub(super) type PageArgs = (AgentId, Range<Timestamp>, Option<(Timestamp, i64)>, u32);

/// Returns records with their numbers, in the order they were received.
pub(super) async fn page(
    tx: &mut Tx,
    (id, span, after, limit): &PageArgs,
) -> Result<Vec<(i64, ResourceUsage)>, StoreError> {
    let (received, number) = after.unwrap_or((Timestamp::from_nanos(i64::MIN), i64::MIN));
    let mut records = Vec::new();
    for row in tx.query(PAGE, params![id, span.start, span.end, received, number, *limit]).await? {
        let mut fields = row.fields("usage_records");
        let number = fields.take()?;
        let record = ResourceUsage {
            scope: fields.take()?,
            pid: fields.take()?,
            process_start: fields.take()?,
            measured: fields.take()?,
            received: fields.take()?,
            mean_user_cpu: fields.take()?,
            max_user_cpu: fields.take()?,
            mean_system_cpu: fields.take()?,
            max_system_cpu: fields.take()?,
            mean_memory_mib: fields.take()?,
            max_memory_mib: fields.take()?,
            mean_fds: fields.take()?,
            max_fds: fields.take()?,
            terminated: fields.take()?,
        };
        records.push((number, record));
    }
    Ok(records)
}
