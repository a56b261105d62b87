//! How the fleet stands. A machine counts with its current session, heard of at the machine's last contact, and with
//! those of its other sessions that are kept.

use super::message_rows::{from_json, json};
use super::{journal, sessions};
use crate::db::Tx;
use crate::db::value::{Row, Value, number, params};
use crate::reports::{AgentSession, AgentTimes, AgentsStats, Report, ReportRow, ReportStore};
use crate::{SqlStore, StoreError};
use async_trait::async_trait;
use muster_core::{AgentId, Cause, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

const TIMES: &str = "SELECT idle_after, offline_after FROM agent_times WHERE one = 1";
const SET_TIMES: &str = "UPDATE agent_times SET idle_after = $1, offline_after = $2 WHERE one = 1";
const DESTROY: &str = "UPDATE agent_sessions SET destroyed = $3 WHERE agent = (SELECT number FROM machines \
     WHERE agent_id = $1) AND pid = $2 AND destroyed IS NULL";
const NUMBERS: &str = "SELECT agent_id, number FROM machines WHERE agent_id = ANY($1) ORDER BY agent_id";
const BY_NUMBER: &str = "SELECT agent_id FROM machines WHERE number = $1";

const OFFLINE: &str = "SELECT name, min(id_text), count(*), max(last_contact) FROM machines WHERE state IN (0, 2, 4) \
     GROUP BY name HAVING max(last_contact) >= $1 AND max(last_contact) < $2 ORDER BY name COLLATE \"C\" \
     LIMIT $3 OFFSET $4";
/// Names under which several machines were heard of since $1, one line for each of these machines: they share a host name,
/// or a machine id, which is not what their makers and administrators meant.
const DOUBLE: &str = "SELECT word, id_text, count, last_contact, queueloc FROM (SELECT 0 AS kind, host_name AS word, \
     id_text, count(*) OVER (PARTITION BY host_name) AS count, last_contact, queueloc FROM machines \
     WHERE state IN (0, 1, 2, 4) AND last_contact >= $1 AND left_at IS NULL AND host_name <> '' UNION ALL SELECT 1 AS kind, \
     'machine id ' || machine_id AS word, id_text, count(*) OVER (PARTITION BY machine_id) AS count, last_contact, \
     queueloc FROM machines WHERE state IN (0, 1, 2, 4) AND last_contact >= $1 AND left_at IS NULL \
     AND machine_id <> '') AS doubles \
     WHERE count > 1 ORDER BY kind, count DESC, word COLLATE \"C\", id_text LIMIT $2 OFFSET $3";
/// Machines with other sessions heard of since $1, besides a last contact since then.
const SEVERAL: &str = "FROM machines JOIN (SELECT agent, count(*) AS others FROM agent_sessions WHERE is_current = 0 \
     AND destroyed IS NULL AND last_seen >= $1 GROUP BY agent) AS more ON more.agent = machines.number \
     WHERE machines.state IN (0, 2, 4) AND machines.last_contact >= $1 AND machines.left_at IS NULL \
     ORDER BY others DESC, id_text LIMIT $2 OFFSET $3";
const DISAPPEARED: &str = "FROM machines WHERE state IN (0, 2, 4) AND last_contact >= $1 \
     AND (last_contact < $2 OR left_at IS NOT NULL) ORDER BY last_contact DESC, id_text LIMIT $3 OFFSET $4";
const VERSIONS: &str = "SELECT COALESCE(agent_sessions.version, ''), '', count(*), max(last_contact) FROM machines \
     LEFT JOIN agent_sessions ON agent_sessions.agent = machines.number AND is_current = 1 \
     WHERE state IN (0, 2, 4) AND last_contact >= $1 AND left_at IS NULL AND agent_sessions.destroyed IS NULL \
     GROUP BY COALESCE(agent_sessions.version, '') \
     ORDER BY count(*) DESC, COALESCE(agent_sessions.version, '') COLLATE \"C\" LIMIT $2 OFFSET $3";

/// Every session with the moment it was heard of last.
const HEARD: &str = "WITH heard AS (SELECT machines.number AS machine, COALESCE(agent_sessions.version, '') AS version, \
     last_contact AS at, (left_at IS NULL) AS here, COALESCE(agent_sessions.started, machines.created) AS started FROM machines \
     LEFT JOIN agent_sessions ON agent_sessions.agent = machines.number AND is_current = 1 \
     WHERE state IN (0, 2, 4) AND agent_sessions.destroyed IS NULL UNION ALL \
     SELECT agent, agent_sessions.version, last_seen, (left_at IS NULL), agent_sessions.started FROM agent_sessions \
     JOIN machines ON machines.number = agent WHERE state IN (0, 2, 4) AND is_current = 0 \
     AND agent_sessions.destroyed IS NULL)";
const ONLINE_VERSIONS: &str = "SELECT version, count(*) FROM heard WHERE here AND at >= $1 GROUP BY version";
const IDLE_VERSIONS: &str = "SELECT version, count(*) FROM heard WHERE here AND at >= $2 AND at < $1 AND machine NOT IN \
     (SELECT machine FROM heard WHERE here AND at >= $1) GROUP BY version";
const ENDPOINTS: &str = "SELECT count(CASE WHEN online > 0 THEN 1 END), \
     count(CASE WHEN online = 0 AND active > 0 THEN 1 END), \
     count(CASE WHEN newest >= $3 AND before = 0 THEN 1 END), count(CASE WHEN online > 1 THEN 1 END), \
     count(CASE WHEN active = 0 AND last >= $4 THEN 1 END), count(CASE WHEN active > 1 THEN 1 END) \
     FROM (SELECT machine, count(CASE WHEN here AND at >= $1 THEN 1 END) AS online, \
     count(CASE WHEN here AND at >= $2 THEN 1 END) AS active, max(at) AS last, max(started) AS newest, \
     count(CASE WHEN at >= $4 AND at < $3 THEN 1 END) AS before FROM heard GROUP BY machine) AS endpoints";
const PUT: &str = "INSERT INTO fleet_counts (at, online_agents, online_agents_by_version, online_endpoints, \
     idle_agents, idle_agents_by_version, idle_endpoints, new_endpoints, multi_agents_endpoints, \
     disappeared_endpoints, flapping_endpoints) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
     ON CONFLICT (at) DO NOTHING";
const LAST: &str = "SELECT at, online_agents, online_agents_by_version, online_endpoints, idle_agents, \
     idle_agents_by_version, idle_endpoints, new_endpoints, multi_agents_endpoints, disappeared_endpoints, \
     flapping_endpoints FROM fleet_counts ORDER BY at DESC LIMIT 1";

const MINUTE: u64 = 60;
const DAY: u64 = 86_400;

fn before(now: Timestamp, secs: u64) -> Timestamp {
    now.minus(Duration::from_secs(secs))
}

async fn times(tx: &mut Tx, (): &()) -> Result<AgentTimes, StoreError> {
    let mut fields = tx.query_one(TIMES, &[]).await?.fields("agent_times");
    let (idle, offline) = (fields.take()?, fields.take()?);
    Ok(AgentTimes { idle_after: Duration::from_nanos(idle), offline_after: Duration::from_nanos(offline) })
}

async fn times_set(tx: &mut Tx, (times, now, cause): &(AgentTimes, Timestamp, Cause)) -> Result<(), StoreError> {
    if times.idle_after.is_zero() || times.offline_after < times.idle_after {
        return Err(StoreError::Invalid("agents are idle after some time, and offline not sooner".to_owned()));
    }
    let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    tx.execute(SET_TIMES, params![nanos(times.idle_after), nanos(times.offline_after)]).await?;
    let details = serde_json::json!({ "idle_after_secs": times.idle_after.as_secs(),
        "offline_after_secs": times.offline_after.as_secs() });
    journal::write(tx, *now, cause, "agents.times", "", &details).await
}

type Destroy = (AgentId, i64, Timestamp, Cause);

async fn destroy(tx: &mut Tx, (agent, pid, now, cause): &Destroy) -> Result<bool, StoreError> {
    if tx.execute(DESTROY, params![agent, *pid, *now]).await? == 0 {
        return Ok(false);
    }
    let details = serde_json::json!({ "pid": pid });
    journal::write(tx, *now, cause, "agent.destroy", &agent.to_string(), &details).await?;
    Ok(true)
}

async fn numbers(tx: &mut Tx, agents: &[AgentId]) -> Result<Vec<(AgentId, i64)>, StoreError> {
    let ids: Vec<&[u8]> = agents.iter().map(|agent| &agent.as_bytes()[..]).collect();
    let mut numbers = Vec::with_capacity(ids.len());
    for row in tx.query(NUMBERS, params![ids]).await? {
        let mut fields = row.fields("machines");
        numbers.push((fields.take()?, fields.take()?));
    }
    Ok(numbers)
}

fn read_line(row: Row, is_of_machines: bool) -> Result<ReportRow, StoreError> {
    let mut fields = row.fields("machines");
    let (name, id): (String, String) = (fields.take()?, fields.take()?);
    let (count, last_seen) = (fields.take()?, fields.take()?);
    let one = is_of_machines.then(|| id.parse().ok()).flatten();
    let queueloc = if is_of_machines { fields.take()? } else { String::new() };
    Ok(ReportRow { name, queueloc, agent: one, count, last_seen })
}

type Asked = (Report, Timestamp, i64, u32);

async fn report(tx: &mut Tx, (report, now, offset, limit): &Asked) -> Result<Vec<ReportRow>, StoreError> {
    let (now, offset, limit) = (*now, Value::from(*offset), Value::from(*limit));
    let times = times(tx, &()).await?;
    let active_since = now.minus(times.offline_after);
    let columns = |count: &str| {
        format!("SELECT machines.name, machines.id_text, {count}, machines.last_contact, machines.queueloc")
    };
    let (sql, values, is_of_machines) = match report {
        Report::Offline => {
            let values = vec![before(now, 30 * DAY).into(), before(now, 5 * MINUTE).into(), limit, offset];
            (OFFLINE.to_owned(), values, false)
        }
        Report::Double => (DOUBLE.to_owned(), vec![active_since.into(), limit, offset], true),
        Report::Flapping => {
            (format!("{} {SEVERAL}", columns("others + 1")), vec![active_since.into(), limit, offset], true)
        }
        Report::Disappeared => {
            let values = vec![before(now, 7 * DAY).into(), active_since.into(), limit, offset];
            (format!("{} {DISAPPEARED}", columns("1")), values, true)
        }
        Report::Versions => (VERSIONS.to_owned(), vec![active_since.into(), limit, offset], false),
    };
    tx.query(sql, &values).await?.into_iter().map(|row| read_line(row, is_of_machines)).collect()
}

async fn versions(tx: &mut Tx, of: &'static str, values: &[Value<'_>]) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut versions = BTreeMap::new();
    for row in tx.query(format!("{HEARD} {of}"), values).await? {
        let mut fields = row.fields("agent_sessions");
        versions.insert(fields.take()?, fields.take()?);
    }
    Ok(versions)
}

async fn count(tx: &mut Tx, now: &Timestamp) -> Result<AgentsStats, StoreError> {
    let times = times(tx, &()).await?;
    let (online, active) = (now.minus(times.idle_after), now.minus(times.offline_after));
    let online_agents_by_version = versions(tx, ONLINE_VERSIONS, params![online]).await?;
    let idle_agents_by_version = versions(tx, IDLE_VERSIONS, params![online, active]).await?;
    let moments = params![online, active, before(*now, DAY), before(*now, 7 * DAY)];
    let mut fields = tx.query_one(format!("{HEARD} {ENDPOINTS}"), moments).await?.fields("machines");
    Ok(AgentsStats {
        at: *now,
        online_agents: online_agents_by_version.values().sum(),
        online_agents_by_version,
        online_endpoints: fields.take()?,
        idle_agents: idle_agents_by_version.values().sum(),
        idle_agents_by_version,
        idle_endpoints: fields.take()?,
        new_endpoints: fields.take()?,
        multi_agents_endpoints: fields.take()?,
        disappeared_endpoints: fields.take()?,
        flapping_endpoints: fields.take()?,
    })
}

async fn put(tx: &mut Tx, stats: &AgentsStats) -> Result<(), StoreError> {
    let row = params![
        stats.at,
        number("online_agents", stats.online_agents)?,
        json(&stats.online_agents_by_version),
        number("online_endpoints", stats.online_endpoints)?,
        number("idle_agents", stats.idle_agents)?,
        json(&stats.idle_agents_by_version),
        number("idle_endpoints", stats.idle_endpoints)?,
        number("new_endpoints", stats.new_endpoints)?,
        number("multi_agents_endpoints", stats.multi_agents_endpoints)?,
        number("disappeared_endpoints", stats.disappeared_endpoints)?,
        number("flapping_endpoints", stats.flapping_endpoints)?,
    ];
    tx.execute(PUT, row).await.map(drop)
}

async fn last(tx: &mut Tx, (): &()) -> Result<Option<AgentsStats>, StoreError> {
    let Some(row) = tx.query_opt(LAST, &[]).await? else { return Ok(None) };
    let mut fields = row.fields("fleet_counts");
    let (at, online_agents) = (fields.take()?, fields.take()?);
    let online: String = fields.take()?;
    let (online_endpoints, idle_agents) = (fields.take()?, fields.take()?);
    let idle: String = fields.take()?;
    Ok(Some(AgentsStats {
        at,
        online_agents,
        online_agents_by_version: from_json(&fields, &online)?,
        online_endpoints,
        idle_agents,
        idle_agents_by_version: from_json(&fields, &idle)?,
        idle_endpoints: fields.take()?,
        new_endpoints: fields.take()?,
        multi_agents_endpoints: fields.take()?,
        disappeared_endpoints: fields.take()?,
        flapping_endpoints: fields.take()?,
    }))
}

async fn by_number(tx: &mut Tx, number: &i64) -> Result<Option<AgentId>, StoreError> {
    tx.query_opt(BY_NUMBER, params![*number]).await?.map(|row| row.only("machines")).transpose()
}

#[async_trait]
impl ReportStore for SqlStore {
    async fn agent_times_get(&self) -> Result<AgentTimes, StoreError> {
        self.read((), |tx, args| Box::pin(times(tx, args))).await
    }

    async fn agent_times_set(&self, times: AgentTimes, now: Timestamp, cause: &Cause) -> Result<(), StoreError> {
        self.write((times, now, cause.clone()), |tx, args| Box::pin(times_set(tx, args))).await
    }

    async fn agent_sessions(&self, agent: AgentId) -> Result<Vec<AgentSession>, StoreError> {
        self.read(agent, |tx, agent| Box::pin(sessions::list(tx, agent))).await
    }

    async fn agent_session_destroy(
        &self,
        agent: AgentId,
        pid: i64,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<bool, StoreError> {
        self.write((agent, pid, now, cause.clone()), |tx, args| Box::pin(destroy(tx, args))).await
    }

    async fn agent_numbers(&self, agents: &[AgentId]) -> Result<Vec<(AgentId, i64)>, StoreError> {
        self.read(agents.to_vec(), |tx, agents| Box::pin(numbers(tx, agents))).await
    }

    async fn agent_by_number(&self, number: i64) -> Result<Option<AgentId>, StoreError> {
        self.read(number, |tx, number| Box::pin(by_number(tx, number))).await
    }

    async fn report(
        &self,
        report: Report,
        now: Timestamp,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<ReportRow>, StoreError> {
        let args = (report, now, number("offset", offset)?, limit);
        self.read(args, |tx, args| Box::pin(self::report(tx, args))).await
    }

    async fn agents_stats_put(&self, now: Timestamp) -> Result<AgentsStats, StoreError> {
        // Counted by a reader, because it walks all machines and whoever writes meanwhile should not wait.
        let stats = self.read(now, |tx, now| Box::pin(count(tx, now))).await?;
        self.write(stats.clone(), |tx, stats| Box::pin(put(tx, stats))).await?;
        Ok(stats)
    }

    async fn agents_stats_last(&self) -> Result<Option<AgentsStats>, StoreError> {
        self.read((), |tx, args| Box::pin(last(tx, args))).await
    }
}
