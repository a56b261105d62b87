//! What targets look at, kept as facts and labels come in.
//!
//! Stays true: columns and documents are what [`Endpoint::observed`] and [`target::tags`] make of the same facts and
//! labels that the transaction stores; an agent makes the same of its own.

use crate::StoreError;
use crate::db::Tx;
use crate::db::value::params;
use muster_core::target::{self, Endpoint};
use muster_core::{AgentId, Facts, Label, Timestamp, label};

const INSERT: &str = "INSERT INTO machine_environments (machine, environment) \
     SELECT number, '{}' FROM machines WHERE agent_id = $1";
const SET_COLUMNS: &str = "UPDATE machines SET name = $2, queueloc = $3, mode = $4, version = $5, pid = $6, \
     started = $7, os = $8, arch = $9, ident = $10, init = $11 WHERE agent_id = $1";
const SET_ENVIRONMENT: &str = "UPDATE machine_environments SET environment = $2 \
     WHERE machine = (SELECT number FROM machines WHERE agent_id = $1) AND environment <> $2";
const SET_TAGS: &str = "UPDATE machines SET tags = $2, refreshed = $3 WHERE agent_id = $1 AND tags <> $2";
const SET_REFRESHED: &str = "UPDATE machines SET refreshed = $2 WHERE agent_id = $1";

/// Begins with a machine that was just enrolled.
pub(super) async fn enrolled(tx: &mut Tx, agent: AgentId, labels: &[Label], now: Timestamp) -> Result<(), StoreError> {
    tx.execute(INSERT, params![&agent]).await?;
    observed(tx, agent, &Facts::new(), now).await?;
    let claimed = labels.iter().filter(|label| label.service == label::CLIENT);
    tagged(tx, agent, claimed.map(|label| label.label.as_str()), now).await
}

/// Takes over the facts of a machine, or the lack of them.
pub(super) async fn observed(tx: &mut Tx, agent: AgentId, facts: &Facts, now: Timestamp) -> Result<(), StoreError> {
    let endpoint = Endpoint::observed(agent, facts);
    let common = endpoint.common;
    let columns = params![
        &agent,
        &endpoint.name,
        &endpoint.queueloc,
        &endpoint.mode,
        &endpoint.version,
        endpoint.pid,
        endpoint.started,
        common.os.as_ref(),
        common.arch.as_ref(),
        common.ident.as_ref(),
        common.init.as_ref(),
    ];
    tx.execute(SET_COLUMNS, columns).await?;
    if tx.execute(SET_ENVIRONMENT, params![&agent, endpoint.environment.to_string()]).await? > 0 {
        tx.execute(SET_REFRESHED, params![&agent, now]).await?;
        let modules = endpoint.environment.get("modules").and_then(serde_json::Value::as_array);
        let names = modules.into_iter().flatten().filter_map(serde_json::Value::as_str);
        super::modules::register(tx, names.collect()).await?;
    }
    Ok(())
}

/// Takes over the labels that a machine claims.
pub(super) async fn tagged<'a>(
    tx: &mut Tx,
    agent: AgentId,
    labels: impl IntoIterator<Item = &'a str>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let tags = target::tags(labels).to_string();
    tx.execute(SET_TAGS, params![&agent, tags, now]).await.map(drop)
}
