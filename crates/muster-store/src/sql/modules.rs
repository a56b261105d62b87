//! What agents demand for modules, and what investigators are worth there.

use super::journal;
use crate::StoreError;
use crate::db::Tx;
use crate::db::value::params;
use crate::investigators::{ModuleRule, ModuleWeight};
use muster_core::{AgentId, Cause, Timestamp};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Names of modules that are noted of what machines say, at most (as in [`NAMES`]); a fleet has some dozens.
const MODULES_MAX: usize = 1000;
/// Characters of a name that is noted.
const NAME_CHARS_MAX: usize = 64;

const NAMES: &str = "SELECT name FROM modules LIMIT 1000";
const NUMBER: &str = "SELECT number FROM machines WHERE agent_id = $1 AND state <> 3";
const MODULE: &str = "INSERT INTO modules (name) VALUES ($1) ON CONFLICT (name) DO NOTHING";
const MODULE_ID: &str = "SELECT id FROM modules WHERE name = $1";
const PUT_MINIMUM: &str = "INSERT INTO agtmodreq (moduleid, agentid, minimumweight) VALUES ($1, $2, $3) \
     ON CONFLICT (moduleid, agentid) DO UPDATE SET minimumweight = excluded.minimumweight";
const DELETE_MINIMUM: &str = "DELETE FROM agtmodreq WHERE moduleid = $1 AND agentid = $2";
const KNOWN: &str = "SELECT id FROM investigators WHERE id = $1";
const PUT_WEIGHT: &str = "INSERT INTO invagtmodperm (investigatorid, agentid, moduleid, weight) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (investigatorid, agentid, moduleid) DO UPDATE SET weight = excluded.weight";
const DELETE_WEIGHT: &str = "DELETE FROM invagtmodperm WHERE investigatorid = $1 AND agentid = $2 AND moduleid = $3";
const MINIMUMS: &str = "SELECT machines.agent_id, modules.name, agtmodreq.minimumweight FROM agtmodreq \
     JOIN machines ON machines.number = agtmodreq.agentid JOIN modules ON modules.id = agtmodreq.moduleid \
     WHERE machines.agent_id = ANY($1)";
const WEIGHTS: &str = "SELECT machines.agent_id, modules.name, invagtmodperm.investigatorid, invagtmodperm.weight \
     FROM invagtmodperm JOIN machines ON machines.number = invagtmodperm.agentid \
     JOIN modules ON modules.id = invagtmodperm.moduleid WHERE machines.agent_id = ANY($1)";

/// Notes the names of modules that a machine has. Strangers send them: what cannot be a name is left out, and beyond
/// [`MODULES_MAX`] nothing is added.
pub(super) async fn register(tx: &mut Tx, names: BTreeSet<&str>) -> Result<(), StoreError> {
    let mut known = BTreeSet::new();
    for row in tx.query(NAMES, params![]).await? {
        known.insert(row.only::<String>("modules")?);
    }
    let room = MODULES_MAX.saturating_sub(known.len());
    // In their order, so that two who add the same wait for each other once.
    let new = names.into_iter().filter(|name| is_name(name) && !known.contains(*name));
    for name in new.take(room) {
        tx.execute(MODULE, params![name]).await?;
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.chars().all(is_letter)
}

async fn ids(tx: &mut Tx, agent: AgentId, module: &str) -> Result<(i64, i64), StoreError> {
    let row = tx.query_opt(NUMBER, params![&agent]).await?;
    let row = row.ok_or_else(|| StoreError::NotFound { what: "agent", id: agent.to_string() })?;
    let number = row.only("machines")?;
    tx.execute(MODULE, params![module]).await?;
    Ok((number, tx.query_one(MODULE_ID, params![module]).await?.only("modules")?))
}

pub(super) type Minimum = (AgentId, String, Option<i64>, Timestamp, Cause);

pub(super) async fn minimum_set(tx: &mut Tx, args: &Minimum) -> Result<(), StoreError> {
    let (agent, module, minimum, now, cause) = args;
    let (number, id) = ids(tx, *agent, module).await?;
    match minimum {
        Some(minimum) => tx.execute(PUT_MINIMUM, params![id, number, *minimum]).await?,
        None => tx.execute(DELETE_MINIMUM, params![id, number]).await?,
    };
    let details = json!({ "module": module, "minimum": minimum });
    journal::write(tx, *now, cause, "agent.module_minimum", &agent.to_string(), &details).await
}

pub(super) async fn weight_set(
    tx: &mut Tx,
    (weight, now, cause): &(ModuleWeight, Timestamp, Cause),
) -> Result<(), StoreError> {
    let who = weight.investigator;
    if tx.query_opt(KNOWN, params![who]).await?.is_none() {
        return Err(StoreError::NotFound { what: "investigator", id: who.to_string() });
    }
    let (number, id) = ids(tx, weight.agent, &weight.module).await?;
    match weight.weight {
        Some(worth) => tx.execute(PUT_WEIGHT, params![who, number, id, worth]).await?,
        None => tx.execute(DELETE_WEIGHT, params![who, number, id]).await?,
    };
    let details = json!({ "agent": weight.agent, "module": weight.module, "weight": weight.weight });
    journal::write(tx, *now, cause, "investigator.weight", &who.to_string(), &details).await
}

pub(super) async fn rules(tx: &mut Tx, agents: &[AgentId]) -> Result<Vec<ModuleRule>, StoreError> {
    let ids: Vec<&[u8]> = agents.iter().map(|agent| &agent.as_bytes()[..]).collect();
    let mut rules: BTreeMap<(AgentId, String), ModuleRule> = BTreeMap::new();
    let rule = |(agent, module): &(AgentId, String)| ModuleRule {
        agent: *agent,
        module: module.clone(),
        minimum: None,
        weights: Vec::new(),
    };
    for row in tx.query(MINIMUMS, params![ids.clone()]).await? {
        let mut fields = row.fields("agtmodreq");
        let key = (fields.take()?, fields.take()?);
        let empty = rule(&key);
        rules.entry(key).or_insert(empty).minimum = Some(fields.take()?);
    }
    for row in tx.query(WEIGHTS, params![ids]).await? {
        let mut fields = row.fields("invagtmodperm");
        let key = (fields.take()?, fields.take()?);
        let empty = rule(&key);
        let rule = rules.entry(key).or_insert(empty);
        rule.weights.push((fields.take()?, fields.take()?));
    }
    for rule in rules.values_mut() {
        rule.weights.sort_unstable();
    }
    Ok(rules.into_values().collect())
}
