//! From one key to the next: an operator demands a new key of a machine, and its old one vouches for the new.
//!
//! Stays true: each demand lets one key in; what was demanded, and who came of it, is decided by one guarded update of
//! the old machine's row, whichever server is asked.

use super::agents::{get, known_before, put_labels};
use super::mailbox::{addressees, store};
use super::message_rows::NewRow;
use super::states::{lock, not_found};
use super::{agents, effects, endpoints, journal};
use crate::StoreError;
use crate::agents::{Enrolled, Lookalike, Succeeded, Succession, Taken};
use crate::db::Tx;
use crate::db::value::params;
use muster_core::{AgentId, AgentState, Cause, Message, Timestamp, limits};
use serde_json::json;

const DEMAND: &str = "UPDATE machines SET rekey_demand = $2, rekey_asked = $3 WHERE agent_id = $1";
/// States 0, 4 and 5 are enrolled, rekeying and replaced.
const REPLACE: &str = "UPDATE machines SET state = 5, state_at = $4, state_note = '', successor = $5, \
     rekey_demand = NULL, rekey_asked = NULL, clone_suspected = NULL WHERE agent_id = $1 AND public_key = $2 \
     AND successor IS NULL AND ((state = 0 AND rekey_demand = $3) OR state = 4)";
/// The moment is that of a decision: the machine was let in before, whatever its machine id.
const SET_PREDECESSOR: &str = "UPDATE machines SET predecessor = $2, state_at = $3 WHERE agent_id = $1";
/// What goes over to the machine's new row, $1 from that of $2. Labels that it claims come with its contacts; of its
/// messages not the demand for a new key, which is answered.
const KEPT: [&str; 5] = [
    "INSERT INTO agent_labels (agent_id, service, label) SELECT CAST($1 AS BYTEA), service, label FROM agent_labels \
     WHERE agent_id = $2 AND service <> 'client' ON CONFLICT DO NOTHING",
    "INSERT INTO agtmodreq (moduleid, agentid, minimumweight) SELECT moduleid, (SELECT number FROM machines \
     WHERE agent_id = $1), minimumweight FROM agtmodreq WHERE agentid = (SELECT number FROM machines \
     WHERE agent_id = $2) ON CONFLICT DO NOTHING",
    "INSERT INTO invagtmodperm (investigatorid, agentid, moduleid, weight) SELECT investigatorid, (SELECT number \
     FROM machines WHERE agent_id = $1), moduleid, weight FROM invagtmodperm WHERE agentid = (SELECT number \
     FROM machines WHERE agent_id = $2) ON CONFLICT DO NOTHING",
    "UPDATE messages SET destination_agent = $1 WHERE destination_agent = $2 AND state = 0 \
     AND NOT (destination_service = 'system' AND message_type = 'RekeyRequest')",
    // Not what it was handed already: that is answered under the key that it reached.
    "UPDATE command_rows SET agent = (SELECT number FROM machines WHERE agent_id = $1) WHERE agent = (SELECT number \
     FROM machines WHERE agent_id = $2) AND state = 0",
];
const BROADCASTS_HAD: &str = "INSERT INTO broadcast_sent (agent_id, broadcast_id) SELECT CAST($1 AS BYTEA), broadcast_id \
     FROM broadcast_sent WHERE agent_id = $2 ON CONFLICT DO NOTHING";
const LOOKALIKES: &str = "SELECT other.agent_id, other.state, other.host_name, \
     (other.machine_id <> '' AND other.machine_id = m.machine_id), \
     (other.host_name <> '' AND other.host_name = m.host_name), other.last_contact FROM machines m JOIN machines other \
     ON other.agent_id <> m.agent_id AND ((other.machine_id <> '' AND other.machine_id = m.machine_id) \
     OR (other.host_name <> '' AND other.host_name = m.host_name)) WHERE m.agent_id = $1 AND other.state NOT IN (3, 5) \
     ORDER BY CASE WHEN other.state = 2 THEN 0 ELSE 1 END, other.id_text LIMIT $2";

/// What an operator demands of an agent.
pub(super) type Demand = (Message, Timestamp, Cause);

/// Demands a new key of a machine.
pub(super) async fn demand(tx: &mut Tx, (demand, now, cause): &Demand) -> Result<(), StoreError> {
    let agent = demand.destination.agent.ok_or_else(|| StoreError::Invalid("a demand goes to an agent".to_owned()))?;
    let state = lock(tx, agent).await?;
    match state {
        AgentState::Enrolled => {}
        AgentState::Deleted => return Err(not_found(agent)),
        _ => {
            let text = format!("agent {agent} is {state}: only an enrolled machine is asked for a new key");
            return Err(StoreError::Refused(text));
        }
    }
    addressees(tx, std::iter::once(demand)).await?;
    if store(tx, &[NewRow::waiting(demand, now.minus(limits::CLOCK_SKEW))], None).await? != [Taken::New] {
        return Err(StoreError::Exists { what: "message", id: demand.id.to_string() });
    }
    tx.execute(DEMAND, params![&agent, &demand.id, *now]).await?;
    let details = json!({ "message": demand.id.to_string() });
    journal::write(tx, *now, cause, "agent.rekey", &agent.to_string(), &details).await
}

/// Lets a machine go on under a new key.
pub(super) async fn succeed(tx: &mut Tx, (succession, now): &(Succession, Timestamp)) -> Result<Succeeded, StoreError> {
    let Succession { enrolment, old_key, demand } = succession;
    let (old, new) = (AgentId::of_key(old_key), enrolment.id);
    if let Some(known) = get(tx, &new).await? {
        return Ok(match known_before(known, enrolment) {
            Enrolled::Yes(known) => Succeeded::Yes(known),
            _ => Succeeded::Refused("the new key is no new one"),
        });
    }
    let known = match lock(tx, old).await {
        Err(StoreError::NotFound { .. }) => return Ok(Succeeded::Refused("the old key is not known")),
        known => known?,
    };
    if tx.execute(REPLACE, params![&old, old_key, demand, *now, &new]).await? == 0 {
        return Ok(Succeeded::Refused(match known {
            AgentState::Blocked => return Ok(Succeeded::Blocked),
            AgentState::Enrolled => "no new key was asked of the old one, or it vouched for one already",
            AgentState::Replaced => "the old key vouched for another one already",
            AgentState::Deleted => "the old key was deleted",
            AgentState::Waiting | AgentState::Rekeying => "the old key cannot vouch for another",
        }));
    }
    agents::insert(tx, enrolment, AgentState::Enrolled, *now).await?;
    tx.execute(SET_PREDECESSOR, params![&new, &old, *now]).await?;
    for kept in KEPT.into_iter().chain([BROADCASTS_HAD]) {
        tx.execute(kept, params![&new, &old]).await?;
    }
    put_labels(tx, &new, &enrolment.labels).await?;
    endpoints::enrolled(tx, new, &enrolment.labels, *now).await?;
    if !enrolment.facts.is_empty() {
        effects::set_facts(tx, new, &enrolment.facts, *now).await?;
    }
    let details = json!({ "from": old.to_string(), "to": new.to_string() });
    let cause =
        Cause { reason: "its old key vouched for the new one".to_owned(), ..Cause::new(format!("agent:{old}"), "") };
    journal::write(tx, *now, &cause, "agent.succeed", &new.to_string(), &details).await?;
    let agent = get(tx, &new).await?;
    let agent = agent.ok_or_else(|| StoreError::Statement("an agent that was inserted is not there".into()))?;
    Ok(Succeeded::Yes(Box::new(agent)))
}

/// Returns machines that look like one.
pub(super) async fn lookalikes(tx: &mut Tx, id: &AgentId) -> Result<Vec<Lookalike>, StoreError> {
    let mut found = Vec::new();
    for row in tx.query(LOOKALIKES, params![id, limits::LOOKALIKES_MAX]).await? {
        let mut fields = row.fields("machines");
        found.push(Lookalike {
            id: fields.take()?,
            state: fields.take()?,
            host_name: fields.take()?,
            same_machine_id: fields.take()?,
            same_host_name: fields.take()?,
            last_contact: fields.take()?,
        });
    }
    Ok(found)
}
