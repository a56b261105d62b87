//! Sessions: the runs of an agent program, as far as facts and usage records tell them apart.
//!
//! Stays true: a machine has one current session at most and a bounded number of others, however often it starts.

use crate::StoreError;
use crate::db::Tx;
use crate::db::value::params;
use crate::reports::{AgentSession, SESSIONS_MAX};
use muster_core::{AgentId, Facts, ResourceUsage, Timestamp};
use std::time::Duration;

const NUMBER: &str = "SELECT number FROM machines WHERE agent_id = $1";
const SESSIONS: &str = "SELECT session, pid, started, version, is_current FROM agent_sessions WHERE agent = $1 \
     ORDER BY session DESC";
const INSERT: &str = "INSERT INTO agent_sessions (agent, pid, started, last_seen, version, is_current) \
     VALUES ($1, $2, $3, $4, $5, 1)";
const LEAVE: &str = "UPDATE agent_sessions SET is_current = 0, last_seen = $2 WHERE agent = $1 AND is_current = 1";
const ENTER: &str = "UPDATE agent_sessions SET is_current = 1, pid = $2, started = $3, version = $4 WHERE session = $1";
const PRUNE: &str = "DELETE FROM agent_sessions WHERE agent = $1 AND is_current = 0 AND session NOT IN (SELECT session \
     FROM agent_sessions WHERE agent = $1 ORDER BY session DESC LIMIT $2)";
const LIST: &str = "SELECT agent_sessions.pid, agent_sessions.started, CASE WHEN is_current = 1 THEN last_contact \
     ELSE last_seen END, agent_sessions.version, agent_sessions.destroyed, is_current FROM agent_sessions \
     JOIN machines ON machines.number = agent_sessions.agent WHERE machines.agent_id = $1 ORDER BY session DESC";

/// Two times of one start, by different clocks and roundings, are at most so far apart.
const SAME_START: Duration = Duration::from_secs(2);

/// What is told of a run.
struct Told<'a> {
    process: Option<(i64, Timestamp)>,
    version: Option<&'a str>,
}

struct Known {
    session: i64,
    pid: i64,
    started: Timestamp,
    version: String,
    is_current: bool,
}

impl Known {
    fn is_run_of(&self, pid: i64, started: Timestamp) -> bool {
        let apart = self.started.since(started).max(started.since(self.started));
        self.pid == pid && apart <= SAME_START
    }
}

/// Takes note of what facts tell of the run.
pub(super) async fn facts_note(tx: &mut Tx, agent: AgentId, facts: &Facts, now: Timestamp) -> Result<(), StoreError> {
    let text = |name: &str| facts.get(name).and_then(serde_json::Value::as_str);
    let started = text("agent_start_time").and_then(|text| text.parse().ok());
    let pid = facts.get("agent_pid").and_then(serde_json::Value::as_i64);
    let version = text("agent_version").map(muster_core::text::without_nul);
    note(tx, agent, Told { process: pid.zip(started), version: version.as_deref() }, now).await
}

/// Takes note of what a usage record of the agent itself tells of the run.
pub(super) async fn usage_note(
    tx: &mut Tx,
    agent: AgentId,
    usage: &ResourceUsage,
    now: Timestamp,
) -> Result<(), StoreError> {
    if usage.scope != muster_core::system::SERVICE || usage.terminated {
        return Ok(());
    }
    let process = usage.process_start.map(|started| (usage.pid, started));
    note(tx, agent, Told { process, version: None }, now).await
}

async fn note(tx: &mut Tx, agent: AgentId, told: Told<'_>, now: Timestamp) -> Result<(), StoreError> {
    let Some(row) = tx.query_opt(NUMBER, params![&agent]).await? else { return Ok(()) };
    let number: i64 = row.only("machines")?;
    let mut known = Vec::new();
    for row in tx.query(SESSIONS, params![number]).await? {
        let mut fields = row.fields("agent_sessions");
        known.push(Known {
            session: fields.take()?,
            pid: fields.take()?,
            started: fields.take()?,
            version: fields.take()?,
            is_current: fields.take()?,
        });
    }
    let current = known.iter().find(|known| known.is_current);
    let (pid, started) = told.process.unwrap_or_else(|| current.map_or((0, now), |known| (known.pid, known.started)));
    let same = known.iter().find(|known| known.is_run_of(pid, started));
    // Of the first run only its version may be known when its process is told.
    let same = same.or_else(|| current.filter(|known| known.pid == 0));
    let version = told.version.or_else(|| same.or(current).map(|known| known.version.as_str())).unwrap_or_default();
    if let Some(same) = same {
        if same.is_current && same.pid == pid && same.version == version {
            return Ok(());
        }
        if !same.is_current {
            tx.execute(LEAVE, params![number, now]).await?;
        }
        let started = if same.pid == pid { same.started } else { started };
        return tx.execute(ENTER, params![same.session, pid, started, version]).await.map(drop);
    }
    tx.execute(LEAVE, params![number, now]).await?;
    tx.execute(INSERT, params![number, pid, started, now, version]).await?;
    if known.len() >= SESSIONS_MAX as usize {
        tx.execute(PRUNE, params![number, SESSIONS_MAX]).await?;
    }
    Ok(())
}

pub(super) async fn list(tx: &mut Tx, agent: &AgentId) -> Result<Vec<AgentSession>, StoreError> {
    let mut sessions = Vec::new();
    for row in tx.query(LIST, params![agent]).await? {
        let mut fields = row.fields("agent_sessions");
        sessions.push(AgentSession {
            pid: fields.take()?,
            started: fields.take()?,
            last_seen: fields.take()?,
            version: fields.take()?,
            destroyed: fields.take()?,
            is_current: fields.take()?,
        });
    }
    Ok(sessions)
}
