//! How the fleet stands: agents online, idle and offline, their sessions, and what catches the eye.

use crate::StoreError;
use async_trait::async_trait;
use muster_core::action::AgentStatus;
use muster_core::{AgentId, Cause, Timestamp, limits};
use std::collections::BTreeMap;
use std::time::Duration;

/// After how long without a contact an agent is what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentTimes {
    /// Longer than this: idle.
    pub idle_after: Duration,
    /// Longer than this: offline. Not shorter than `idle_after`.
    pub offline_after: Duration,
}

impl Default for AgentTimes {
    /// MIG's: idle after 25 minutes, offline 87 seconds later.
    fn default() -> Self {
        Self::of(limits::AGENT_HEARTBEAT, limits::AGENT_TIMEOUT)
    }
}

impl AgentTimes {
    /// Returns MIG's times: idle after five heartbeats that did not come; offline after `timeout`, and not before MIG
    /// would have looked once more, because only what is idle becomes offline.
    pub fn of(heartbeat: Duration, timeout: Duration) -> Self {
        let idle_after = heartbeat.saturating_mul(limits::AGENT_HEARTBEATS_MISSED);
        Self { idle_after, offline_after: timeout.max(idle_after.saturating_add(limits::AGENT_IDLE_MIN)) }
    }

    /// Returns what an agent is that was last heard of at `heard` and was not destroyed.
    pub fn status(self, heard: Timestamp, now: Timestamp) -> AgentStatus {
        let silence = now.since(heard);
        if silence <= self.idle_after {
            AgentStatus::Online
        } else if silence <= self.offline_after {
            AgentStatus::Idle
        } else {
            AgentStatus::Offline
        }
    }
}

/// One run of one agent program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSession {
    /// Its process; 0 when not told.
    pub pid: i64,
    /// When it started.
    pub started: Timestamp,
    /// When it was last heard of.
    pub last_seen: Timestamp,
    /// The agent's version; empty when not told.
    pub version: String,
    /// When it was ordered to end itself.
    pub destroyed: Option<Timestamp>,
    /// Whether it is the machine's present one.
    pub is_current: bool,
}

/// Sessions kept for each machine.
pub const SESSIONS_MAX: u32 = 16;

/// What a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// Names heard of within 30 days, but not within five minutes, by name.
    Offline,
    /// Host names and machine ids under which several machines speak that are online or idle, each of the machines on a line:
    /// host names first, those of most machines first. A machine whose agent was started again is one machine.
    Double,
    /// Machines with more than one agent that is online or idle, most agents first.
    Flapping,
    /// Machines heard of within seven days that are neither online nor idle, latest heard first.
    Disappeared,
    /// Versions of the agents that are online or idle, most agents first.
    Versions,
}

/// A line of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportRow {
    /// The name of the machine, or the version; of a double what the machines share, their host name or their machine id.
    pub name: String,
    /// MIG's name of the place, such as `linux.0011223344556677`; empty where there are several or none.
    pub queueloc: String,
    /// The machine; `None` where there are several.
    pub agent: Option<AgentId>,
    /// How many agents.
    pub count: u64,
    /// When it was last heard of.
    pub last_seen: Timestamp,
}

/// How the fleet stood at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentsStats {
    /// When.
    pub at: Timestamp,
    /// Agents that are online.
    pub online_agents: u64,
    /// The same by version.
    pub online_agents_by_version: BTreeMap<String, u64>,
    /// Machines with an agent that is online.
    pub online_endpoints: u64,
    /// Agents that are idle on machines where none is online.
    pub idle_agents: u64,
    /// The same by version.
    pub idle_agents_by_version: BTreeMap<String, u64>,
    /// Machines where an agent is idle and none is online.
    pub idle_endpoints: u64,
    /// Machines with an agent that started within 24 hours and none heard of between seven days and 24 hours ago.
    pub new_endpoints: u64,
    /// Machines with more than one agent that is online.
    pub multi_agents_endpoints: u64,
    /// Machines heard of within seven days that are neither online nor idle.
    pub disappeared_endpoints: u64,
    /// Machines with more than one agent that is online or idle.
    pub flapping_endpoints: u64,
}

/// How the fleet stands.
#[async_trait]
pub trait ReportStore: Send + Sync {
    /// Returns after how long an agent is what.
    async fn agent_times_get(&self) -> Result<AgentTimes, StoreError>;

    /// Sets it. Invalid: offline before idle, or idle at once.
    async fn agent_times_set(&self, times: AgentTimes, now: Timestamp, cause: &Cause) -> Result<(), StoreError>;

    /// Returns the sessions of a machine, newest first.
    async fn agent_sessions(&self, agent: AgentId) -> Result<Vec<AgentSession>, StoreError>;

    /// Notes that the session with process `pid` was ordered to end itself. `false`: there is none.
    async fn agent_session_destroy(
        &self,
        agent: AgentId,
        pid: i64,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<bool, StoreError>;

    /// Returns the machines' numbers, which MIG calls agents' ids, of those of `agents` that are known.
    async fn agent_numbers(&self, agents: &[AgentId]) -> Result<Vec<(AgentId, i64)>, StoreError>;

    /// Returns the machine with this number.
    async fn agent_by_number(&self, number: i64) -> Result<Option<AgentId>, StoreError>;

    /// Returns a part of a report: `limit` lines after the first `offset`.
    async fn report(
        &self,
        report: Report,
        now: Timestamp,
        offset: u64,
        limit: u32,
    ) -> Result<Vec<ReportRow>, StoreError>;

    /// Counts how the fleet stands, and keeps the row.
    async fn agents_stats_put(&self, now: Timestamp) -> Result<AgentsStats, StoreError>;

    /// Returns the last row of statistics.
    async fn agents_stats_last(&self) -> Result<Option<AgentsStats>, StoreError>;
}
