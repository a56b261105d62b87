//! What machines say of themselves: facts. They come in with contacts (`effects.rs`).

use super::message_rows::{agent_list, from_json};
use crate::StoreError;
use crate::db::Tx;
use crate::db::value::params;
use muster_core::{AgentId, Facts, Timestamp};

const FACTS_AT: &str = "SELECT facts_at FROM machines WHERE agent_id = $1 AND facts_at IS NOT NULL";
const FACTS: &str = "SELECT name, value FROM agent_facts WHERE agent_id = $1";
const FACT_OF: &str =
    "SELECT agent_id, value FROM agent_facts WHERE agent_id = ANY($1) AND name = $2 ORDER BY agent_id";

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
