//! What machines say that they believe and can do. Only shown and counted: a machine decides for itself.

use super::modules;
use super::targets::{Matching, in_time, matching};
use crate::StoreError;
use crate::db::Tx;
use crate::db::value::params;
use crate::investigators::{NotedMachines, TRUST_GROUPS_MAX, TrustGroup, TrustTold};
use crate::targets::TargetQuery;
use muster_core::{AgentId, Timestamp, limits};
use sha2::{Digest, Sha256};

const PUT: &str = "INSERT INTO agent_trust (agent, digest, at, body) SELECT number, $2, $3, $4 FROM machines \
     WHERE agent_id = $1 ON CONFLICT (agent) DO UPDATE SET digest = excluded.digest, at = excluded.at, \
     body = excluded.body";
const GET: &str = "SELECT body, at FROM agent_trust WHERE agent = (SELECT number FROM machines WHERE agent_id = $1)";
const BODY: &str = "SELECT body FROM agent_trust WHERE agent = $1";
const AGENT: &str = "SELECT agent_id FROM machines WHERE number = $1";

/// Keeps what a machine says, in the place of what it said before.
pub(super) async fn put(tx: &mut Tx, agent: AgentId, told: &TrustTold, now: Timestamp) -> Result<(), StoreError> {
    let body = serde_json::to_string(told).expect("texts and numbers can always be written as JSON");
    let digest: [u8; 32] = Sha256::digest(body.as_bytes()).into();
    tx.execute(PUT, params![&agent, &digest, now, body]).await.map(drop)
}

fn read(body: &str) -> Result<TrustTold, StoreError> {
    serde_json::from_str(body)
        .map_err(|error| StoreError::Inconsistent { table: "agent_trust", id: format!("a body that is none: {error}") })
}

pub(super) async fn get(tx: &mut Tx, agent: &AgentId) -> Result<Option<(TrustTold, Timestamp)>, StoreError> {
    let Some(row) = tx.query_opt(GET, params![agent]).await? else { return Ok(None) };
    let mut fields = row.fields("agent_trust");
    let body: String = fields.take()?;
    Ok(Some((read(&body)?, fields.take()?)))
}

pub(super) async fn groups(tx: &mut Tx, query: &TargetQuery) -> Result<Vec<TrustGroup>, StoreError> {
    let Matching { from, condition, values } = matching(tx, &query.target, query.reach, query.now, Vec::new()).await?;
    let sql = format!(
        "SELECT count(*), min(machines.number) FROM {from} LEFT JOIN agent_trust \
         ON agent_trust.agent = machines.number WHERE {condition} \
         GROUP BY agent_trust.digest ORDER BY count(*) DESC, min(machines.number)"
    );
    let mut groups = Vec::new();
    for row in in_time(tx.query_once(&sql, &values, limits::TARGET_TIME_MAX).await)? {
        let mut fields = row.fields("machines");
        let (agents, number): (u64, i64) = (fields.take()?, fields.take()?);
        let body = if groups.len() < TRUST_GROUPS_MAX { tx.query_opt(BODY, params![number]).await? } else { None };
        let body: Option<String> = body.map(|row| row.only("agent_trust")).transpose()?;
        let told = body.as_deref().map(read).transpose()?;
        let example = tx.query_one(AGENT, params![number]).await?.only("machines")?;
        groups.push(TrustGroup { told, agents, example });
    }
    Ok(groups)
}

pub(super) async fn noted(tx: &mut Tx, (query, limit): &(TargetQuery, u32)) -> Result<NotedMachines, StoreError> {
    let values = vec![(*limit).into()];
    let Matching { from, condition, values } = matching(tx, &query.target, query.reach, query.now, values).await?;
    let sql = format!(
        "SELECT machines.agent_id FROM {from} WHERE {condition} AND NOT EXISTS (SELECT 1 FROM agent_trust \
         WHERE agent_trust.agent = machines.number) AND (EXISTS (SELECT 1 FROM agtmodreq \
         WHERE agtmodreq.agentid = machines.number) OR EXISTS (SELECT 1 FROM invagtmodperm \
         WHERE invagtmodperm.agentid = machines.number)) ORDER BY machines.number LIMIT $1"
    );
    let mut agents: Vec<AgentId> = Vec::new();
    for row in in_time(tx.query_once(&sql, &values, limits::TARGET_TIME_MAX).await)? {
        agents.push(row.only("machines")?);
    }
    Ok(NotedMachines { machines: agents.len() as u64, rules: modules::rules(tx, &agents).await? })
}
