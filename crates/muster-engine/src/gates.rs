//! Gates: how much one agent may send, how many new machines one network may bring, and how many refusals it may leave
//! in the database and in the log.
//!
//! Stays true: a gate is asked before anything is written, and holds a few bytes for each name that was seen lately.

use crate::engine::{Engine, lock};
use crate::pace::Pace;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use muster_core::{AgentId, limits};
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// The network that an address counts for: an IPv4 /24 or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    V4([u8; 3]),
    V6([u8; 8]),
    /// What is no address: a local socket, or a name that a proxy made up.
    Other,
}

impl Network {
    /// Reads `ip:port`.
    pub(crate) fn of(address: &str) -> Self {
        let Ok(address) = address.parse::<SocketAddr>() else {
            return Self::Other;
        };
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.octets()[..3].try_into().expect("an IPv4 address has more than 3 bytes")),
            IpAddr::V6(ip) => Self::V6(ip.octets()[..8].try_into().expect("an IPv6 address has more than 8 bytes")),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4([a, b, c]) => write!(f, "{a}.{b}.{c}.0/24"),
            Self::V6(bytes) => {
                let mut whole = [0; 16];
                whole[..8].copy_from_slice(bytes);
                write!(f, "{}/64", std::net::Ipv6Addr::from(whole))
            }
            Self::Other => f.write_str("local programs"),
        }
    }
}

/// Time for the limiters: the runtime's, which tests can move and which never goes back.
#[derive(Debug, Clone)]
struct Ticks {
    start: Instant,
}

impl Clock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

struct Gate<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, DefaultKeyedStateStore<K>, Ticks, NoOpMiddleware<Duration>>,
    burst: u32,
    ticks: Ticks,
}

impl<K: Hash + Eq + Clone> Gate<K> {
    fn new(quota: Quota, ticks: &Ticks) -> Self {
        let limiter = RateLimiter::new(quota, DefaultKeyedStateStore::default(), ticks.clone());
        Self { limiter, burst: quota.burst_size().get(), ticks: ticks.clone() }
    }

    /// Takes `count` places (at most a whole burst), or says how long to wait until there are as many.
    fn pass(&self, key: &K, count: u32) -> Result<(), Duration> {
        let count = NonZeroU32::new(count.clamp(1, self.burst)).expect("at least 1 after clamping");
        match self.limiter.check_key_n(key, count) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => Err(not_until.wait_time_from(self.ticks.now())),
            Err(_) => Err(Duration::from_secs(1)),
        }
    }

    fn forget(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// The pauses between contacts of machines that share a key and push each other off.
#[derive(Debug, Default)]
struct Clones {
    /// When the next contact is taken, and how long the last pause was.
    waits: Mutex<HashMap<AgentId, (Instant, Duration)>>,
}

impl Clones {
    /// Without a sign for so long after its pause, a key is forgotten here.
    const FORGOTTEN: Duration = limits::CLONE_PAUSE_MAX;

    fn wait(&self, agent: AgentId, now: Instant) -> Result<(), Duration> {
        let until = lock(&self.waits).get(&agent).map_or(now, |(until, _)| *until);
        if until > now { Err(until - now) } else { Ok(()) }
    }

    fn seen(&self, agent: AgentId, now: Instant) {
        let mut waits = lock(&self.waits);
        let before = waits.get(&agent).filter(|(until, _)| now.saturating_duration_since(*until) < Self::FORGOTTEN);
        let pause = before.map_or(limits::CLONE_PAUSE_MIN, |(_, pause)| (*pause * 2).min(limits::CLONE_PAUSE_MAX));
        if waits.contains_key(&agent) || waits.len() < limits::CLONES_REMEMBERED {
            waits.insert(agent, (now + pause, pause));
        }
    }

    fn forget(&self, now: Instant) {
        lock(&self.waits).retain(|_, (until, _)| now.saturating_duration_since(*until) < Self::FORGOTTEN);
    }
}

/// All gates of one server.
pub(crate) struct Gates {
    clones: Clones,
    agents: Option<Gate<AgentId>>,
    enrolments: Option<Gate<Network>>,
    event_rows: Gate<Network>,
    /// Lines about what comes from a network, by their code.
    lines: Pace<(&'static str, Network)>,
    /// Lines about messages that are lost, by service and reason.
    loss_lines: Pace<(String, String)>,
    /// Events about them, by machine and reason.
    losses: Pace<(AgentId, String)>,
    /// Lines about what the database does not do, by what was tried.
    troubles: Pace<&'static str>,
}

impl Gates {
    /// Rates of 0 mean no limit.
    pub(crate) fn new(agent_messages_per_second: u32, enrolments_per_minute: u32) -> Self {
        let ticks = Ticks { start: Instant::now() };
        let agents = NonZeroU32::new(agent_messages_per_second).map(|rate| {
            // A burst below one whole contact could never be served.
            let contact = u32::try_from(limits::CONTACT_MESSAGES_MAX).expect("100 fits 32 bits");
            let burst = NonZeroU32::new(rate.get().saturating_mul(10).max(contact)).expect("at least 100");
            Gate::new(Quota::per_second(rate).allow_burst(burst), &ticks)
        });
        let enrolments = NonZeroU32::new(enrolments_per_minute).map(|rate| Gate::new(Quota::per_minute(rate), &ticks));
        let rows = NonZeroU32::new(limits::EVENT_ROWS_PER_MINUTE).expect("the ceiling is not zero");
        Self {
            clones: Clones::default(),
            agents,
            enrolments,
            event_rows: Gate::new(Quota::per_minute(rows), &ticks),
            lines: Pace::new(limits::LINE_EVERY),
            loss_lines: Pace::new(limits::LINE_EVERY),
            losses: Pace::new(limits::LOSS_EVERY),
            troubles: Pace::new(limits::LINE_EVERY),
        }
    }

    /// Lets an agent send `messages`, or says how long it must wait. An empty contact counts as one message.
    pub(crate) fn agent(&self, agent: AgentId, messages: usize) -> Result<(), Duration> {
        let count = u32::try_from(messages).unwrap_or(u32::MAX);
        self.agents.as_ref().map_or(Ok(()), |gate| gate.pass(&agent, count))
    }

    /// Lets one new machine in from a network, or says how long it must wait.
    pub(crate) fn enrolment(&self, network: Network) -> Result<(), Duration> {
        self.enrolments.as_ref().map_or(Ok(()), |gate| gate.pass(&network, 1))
    }

    /// Lets a contact of this key in, or says how long it must wait because two machines share it.
    pub(crate) fn clone_wait(&self, agent: AgentId) -> Result<(), Duration> {
        self.clones.wait(agent, Instant::now())
    }

    /// Notes a sign of two machines under one key: the next contact waits, twice as long as after the sign before.
    pub(crate) fn clone_seen(&self, agent: AgentId) {
        self.clones.seen(agent, Instant::now());
    }

    /// Forgets the pauses of this key.
    pub(crate) fn clone_clear(&self, agent: AgentId) {
        lock(&self.clones.waits).remove(&agent);
    }

    /// Whether one more refusal of this network is worth a row.
    pub(crate) fn event_row(&self, network: Network) -> bool {
        self.event_rows.pass(&network, 1).is_ok()
    }

    /// Whether one more occurrence of `code` from the source `address` is worth a line in the log, and how many were not
    /// since the last line.
    pub(crate) fn line(&self, code: &'static str, address: &str) -> Option<u64> {
        self.lines.line((code, Network::of(address)))
    }

    /// The same of a message to `service` that is lost for `reason`.
    pub(crate) fn loss_line(&self, service: &str, reason: &str) -> Option<u64> {
        self.loss_lines.line((service.to_owned(), reason.to_owned()))
    }

    /// Whether one more failure of what was tried is worth a line, and how many were not since the last one.
    pub(crate) fn trouble_line(&self, doing: &'static str) -> Option<u64> {
        self.troubles.line(doing)
    }

    /// Whether one more message of an agent that is lost for `reason` is worth an event.
    pub(crate) fn loss(&self, agent: AgentId, reason: &str) -> bool {
        self.losses.line((agent, reason.to_owned())).is_some()
    }

    /// Forgets everybody who has not come near a limit lately.
    pub(crate) fn forget(&self) {
        for ((code, network), more) in self.lines.forget() {
            info!(code, network = %network, more, "{code}: {more} more from {network} since the last line about it");
        }
        for ((service, reason), more) in self.loss_lines.forget() {
            warn!(service, reason, more, "{more} more messages to service {service:?} were lost: {reason}");
        }
        for (doing, more) in self.troubles.forget() {
            warn!(more, "could not {doing}, {more} more times since the last line about it");
        }
        self.losses.forget();
        if let Some(gate) = &self.agents {
            gate.forget();
        }
        if let Some(gate) = &self.enrolments {
            gate.forget();
        }
        self.event_rows.forget();
        self.clones.forget(Instant::now());
    }
}

impl fmt::Debug for Gates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gates")
    }
}

impl Engine {
    /// Whether one more occurrence of `code` that comes from `address` (`ip:port`) is worth a line in the log, and how many
    /// of the same network were not since the last line: for news that strangers can cause at will.
    pub fn line(&self, code: &'static str, address: &str) -> Option<u64> {
        self.inner.gates.line(code, address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_a_24_and_a_64() {
        assert_eq!(Network::of("192.0.2.7:443"), Network::of("192.0.2.200:1"));
        assert_ne!(Network::of("192.0.2.7:443"), Network::of("192.0.3.7:443"));
        assert_eq!(Network::of("[::ffff:192.0.2.7]:9"), Network::of("192.0.2.1:9"));
        assert_eq!(Network::of("[2001:db8::1]:9"), Network::of("[2001:db8::ffff:1]:9"));
        assert_ne!(Network::of("[2001:db8::1]:9"), Network::of("[2001:db8:0:1::1]:9"));
        assert_eq!(Network::of("unix"), Network::Other);
        let shown = ["192.0.2.7:443", "[2001:db8::1]:9", "unix"].map(|address| Network::of(address).to_string());
        assert_eq!(shown, ["192.0.2.0/24", "2001:db8::/64", "local programs"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_brings_so_many_machines_a_minute_and_others_are_not_touched() {
        let gates = Gates::new(0, 3);
        let (one, other) = (Network::of("192.0.2.7:1"), Network::of("198.51.100.7:1"));
        for _ in 0..3 {
            assert_eq!(gates.enrolment(one), Ok(()));
        }
        let wait = gates.enrolment(one).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(20), "{wait:?}");
        assert_eq!(gates.enrolment(other), Ok(()));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(gates.enrolment(one), Ok(()));
        assert!(gates.enrolment(one).is_err());
        gates.forget();
        assert!(gates.enrolment(one).is_err(), "somebody near the limit is not forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn case_11_machines_that_share_a_key_come_at_a_growing_distance() {
        let (gates, shared, other) = (Gates::new(0, 0), AgentId::from_bytes([1; 8]), AgentId::from_bytes([2; 8]));
        let (start, mut contacts) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_mins(1) {
            // Each of the pair comes every second, and every contact that is taken is a sign of the other.
            if gates.clone_wait(shared).is_ok() {
                contacts += 1;
                gates.clone_seen(shared);
            }
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert!((4..=6).contains(&contacts), "{contacts} contacts in a minute");
        assert_eq!(gates.clone_wait(other), Ok(()));
        tokio::time::advance(limits::CLONE_PAUSE_MAX * 3).await;
        gates.forget();
        gates.clone_seen(shared);
        assert_eq!(gates.clone_wait(shared), Err(limits::CLONE_PAUSE_MIN), "after a time of peace it begins anew");
        gates.clone_clear(shared);
        assert_eq!(gates.clone_wait(shared), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_holds_at_least_one_whole_contact() {
        let gates = Gates::new(1, 0);
        let agent = AgentId::from_bytes([1; 8]);
        assert_eq!(gates.agent(agent, 100), Ok(()));
        assert!(gates.agent(agent, 1).is_err());
        assert_eq!(gates.agent(AgentId::from_bytes([2; 8]), 1), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(gates.agent(agent, 0), Ok(()));
        assert!(gates.agent(agent, 0).is_err());
    }
}
