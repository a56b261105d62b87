//! What machines say of themselves: usage records and facts. They come in with contacts (`effects.rs`).

use super::effects::put_usage;
use super::message_rows::{agent_list, from_json};
use crate::StoreError;
use crate::db::Tx;
use crate::db::value::params;
use muster_core::{AgentId, Facts, ResourceUsage, Timestamp};

const USAGE: &str = "SELECT scope, pid, process_start, measured, received, mean_user_cpu, max_user_cpu, \
     mean_system_cpu, max_system_cpu, mean_memory_mib, max_memory_mib, mean_fds, max_fds, terminated \
     FROM usage_records WHERE agent_id = $1 AND received >= $2 AND received < $3 ORDER BY received, number";
const FACTS_AT: &str = "SELECT facts_at FROM machines WHERE agent_id = $1 AND facts_at IS NOT NULL";
const FACTS: &str = "SELECT name, value FROM agent_facts WHERE agent_id = $1";
const FACT_OF: &str =
    "SELECT agent_id, value FROM agent_facts WHERE agent_id = ANY($1) AND name = $2 ORDER BY agent_id";

/// Keeps a usage record that has no fault.
pub(super) async fn usage_put(
    tx: &mut Tx,
    (id, usage, now): &(AgentId, ResourceUsage, Timestamp),
) -> Result<(), StoreError> {
    put_usage(tx, *id, usage, *now).await
}

/// Returns the usage records that came from the start of a range to before its end.
pub(super) async fn usage_list(
    tx: &mut Tx,
    (id, start, end): &(AgentId, Timestamp, Timestamp),
) -> Result<Vec<ResourceUsage>, StoreError> {
    let mut records = Vec::new();
    for row in tx.query(USAGE, params![id, *start, *end]).await? {
        let mut fields = row.fields("usage_records");
        records.push(ResourceUsage {
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
        });
    }
    Ok(records)
}

/// Returns the facts of a machine and when they came.
pub(super) async fn facts(tx: &mut Tx, id: &AgentId) -> Result<Option<(Facts, Timestamp)>, StoreError> {
    let Some(row) = tx.query_opt(FACTS_AT, params![id]).await? else { return Ok(None) };
    let at = row.only("machines")?;
    let mut facts = Facts::new();
    for row in tx.query(FACTS, params![id]).await? {
        let mut fields = row.fields("agent_facts");
        let name = fields.take()?;
        let text: String = fields.take()?;
        facts.insert(name, from_json(&fields, &text)?);
    }
    Ok(Some((facts, at)))
}

/// Returns one fact of several machines.
pub(super) async fn fact_of(
    tx: &mut Tx,
    (ids, name): &(Vec<AgentId>, String),
) -> Result<Vec<(AgentId, serde_json::Value)>, StoreError> {
    let mut facts = Vec::new();
    for row in tx.query(FACT_OF, params![agent_list(ids), name]).await? {
        let mut fields = row.fields("agent_facts");
        let id = fields.take()?;
        let text: String = fields.take()?;
        facts.push((id, from_json(&fields, &text)?));
    }
    Ok(facts)
}
