//! What people change about a machine's state, and what goes with a machine that is deleted.
//!
//! Stays true: a machine that is deleted stays deleted, and no open command of it is left behind; a blocked machine is let
//! in by nobody who only wants a new key of it.

use super::results::{Counts, count};
use super::{endpoints, journal};
use crate::StoreError;
use crate::db::Tx;
use crate::db::value::params;
use muster_core::action::{ActionId, CommandStatus};
use muster_core::{AgentId, AgentState, Cause, Facts, Timestamp};
use serde_json::json;
use std::collections::BTreeMap;

const LOCK_STATE: &str = "SELECT state FROM machines WHERE agent_id = $1 FOR UPDATE";
const SET_STATE: &str = "UPDATE machines SET state = $2, state_at = $3, state_note = $4, rekey_demand = NULL, \
     rekey_asked = NULL WHERE agent_id = $1";
/// A machine that was blocked (state 2 before, $2) keeps its machine id, so that deleting it does not let it in under
/// another key.
const FORGET: &str = "UPDATE machines SET last_address = '', last_clock = NULL, last_nonce = NULL, streaming_to = '', \
     contact_id = NULL, stream_contact = NULL, host_name = '', machine_id = CASE WHEN $2 = 2 THEN machine_id ELSE '' END, facts_at = NULL, clone_suspected = NULL, \
     left_at = NULL WHERE agent_id = $1";
const DELETED_WITH_AGENT: [&str; 6] = [
    "DELETE FROM agent_labels WHERE agent_id = $1",
    "DELETE FROM agent_facts WHERE agent_id = $1",
    "DELETE FROM messages WHERE destination_agent = $1 AND state = 0",
    // Along the chain, from the last.
    "DELETE FROM contacts WHERE contact_id IN (WITH RECURSIVE chain AS (SELECT contact_id, previous FROM contacts \
     WHERE agent_id = $1 AND contact_id = (SELECT contact_id FROM machines WHERE agent_id = $1) UNION ALL \
     SELECT c.contact_id, c.previous FROM chain JOIN contacts c ON c.contact_id = chain.previous \
     AND c.contact_id < chain.contact_id WHERE c.agent_id = $1) SELECT contact_id FROM chain)",
    "DELETE FROM usage_records WHERE agent_id = $1",
    "DELETE FROM broadcast_sent WHERE agent_id = $1",
];
const OPEN_COMMANDS: &str = "SELECT action FROM command_rows WHERE agent = (SELECT number FROM machines \
     WHERE agent_id = $1) AND state < 2 ORDER BY action";
/// State 6 is that of a command that was cancelled.
const END_COMMANDS: &str = "UPDATE command_rows SET state = 6, at = $3 WHERE agent = (SELECT number FROM machines \
     WHERE agent_id = $1) AND action = ANY($2) AND state < 2 RETURNING action";
const CLEAR_CLONE: &str =
    "UPDATE machines SET clone_suspected = NULL WHERE agent_id = $1 AND clone_suspected IS NOT NULL";

/// A change of one agent by somebody.
pub(super) struct Change<T> {
    pub(super) id: AgentId,
    pub(super) to: T,
    pub(super) now: Timestamp,
    pub(super) cause: Cause,
}

pub(super) fn not_found(id: AgentId) -> StoreError {
    StoreError::NotFound { what: "agent", id: id.to_string() }
}

/// Returns the agent's state and keeps others from changing it. Not found: it is not known.
pub(super) async fn lock(tx: &mut Tx, id: AgentId) -> Result<AgentState, StoreError> {
    let row = tx.query_opt(LOCK_STATE, params![&id]).await?.ok_or_else(|| not_found(id))?;
    row.only("machines")
}

pub(super) async fn note<T>(
    tx: &mut Tx,
    change: &Change<T>,
    action: &str,
    details: &serde_json::Value,
) -> Result<(), StoreError>
where
    T: Sync,
{
    journal::write(tx, change.now, &change.cause, action, &change.id.to_string(), details).await
}

pub(super) async fn set(tx: &mut Tx, change: &Change<AgentState>) -> Result<(), StoreError> {
    let before = lock(tx, change.id).await?;
    if before == change.to || (before == AgentState::Blocked && change.to == AgentState::Rekeying) {
        return Ok(());
    }
    match (before, change.to) {
        (AgentState::Deleted, _) => {
            return Err(StoreError::Refused(format!("agent {} was deleted, and its id stays taken", change.id)));
        }
        (AgentState::Replaced, AgentState::Enrolled | AgentState::Waiting) => {
            let text = format!("agent {} goes on under another key: look for the machine by its host name", change.id);
            return Err(StoreError::Refused(text));
        }
        // It is as blacklisted as it can be.
        (AgentState::Replaced, AgentState::Rekeying) => return Ok(()),
        _ => {}
    }
    let reason = muster_core::text::without_nul(&change.cause.reason);
    tx.execute(SET_STATE, params![&change.id, change.to as i32, change.now, reason]).await?;
    if change.to == AgentState::Deleted {
        commands_end(tx, change.id, change.now).await?;
        for delete in DELETED_WITH_AGENT {
            tx.execute(delete, params![&change.id]).await?;
        }
        tx.execute(FORGET, params![&change.id, before as i32]).await?;
        endpoints::observed(tx, change.id, &Facts::new(), change.now).await?;
        endpoints::tagged(tx, change.id, [], change.now).await?;
    }
    let action = match (before, change.to) {
        (AgentState::Waiting, AgentState::Enrolled) => "agent.approve",
        (_, AgentState::Enrolled) => "agent.unblock",
        (_, AgentState::Waiting) => "agent.hold",
        (_, AgentState::Blocked) => "agent.block",
        (_, AgentState::Deleted) => "agent.delete",
        (_, AgentState::Rekeying) => "agent.blacklist",
        (_, AgentState::Replaced) => "agent.replace",
    };
    note(tx, change, action, &json!({ "from": before, "to": change.to })).await
}

/// Ends what the machine was to run and did not answer. An action whose last command this was is complete.
async fn commands_end(tx: &mut Tx, id: AgentId, now: Timestamp) -> Result<(), StoreError> {
    let rows = tx.query(OPEN_COMMANDS, params![&id]).await?;
    let open: Vec<i64> = rows.into_iter().map(|row| row.only("command_rows")).collect::<Result<_, _>>()?;
    if open.is_empty() {
        return Ok(());
    }
    let mut counts: BTreeMap<ActionId, Counts> = BTreeMap::new();
    for row in tx.query(END_COMMANDS, params![&id, open, now]).await? {
        counts.entry(row.only("command_rows")?).or_default().add(CommandStatus::Cancelled);
    }
    for (action, counts) in counts {
        count(tx, action, &counts, now).await?;
    }
    Ok(())
}

/// Forgets that two machines seemed to share the key of one.
pub(super) async fn clone_clear(tx: &mut Tx, change: &Change<()>) -> Result<(), StoreError> {
    if lock(tx, change.id).await? == AgentState::Deleted {
        return Err(not_found(change.id));
    }
    if tx.execute(CLEAR_CLONE, params![&change.id]).await? == 0 {
        return Ok(());
    }
    note(tx, change, "agent.clone_clear", &json!({})).await
}
