//! The load program: many agents that speak the original's wire from one process.
//!
//! Stays true: an agent keeps every message until the server has acknowledged it, sends it again under the same name,
//! and counts the acknowledgements of a stream in order, as the original's client does. An agent that remembers runs a
//! command once, however often it comes, and says so to the server, as ours does; one that remembers nothing runs it each
//! time, and acknowledges it when it is done, as the original's does. What happened stands in the ledger.

mod agent;

pub use agent::SERVICE;

use crate::identity::Identity;
use crate::ledger::Ledger;
use agent::SwarmAgent;
use anyhow::{Context, Result, bail};
use muster_core::AgentId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How an agent of the swarm keeps in contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A connection with one request after the other.
    Poll,
    /// One open request.
    Stream,
}

/// What a swarm is like.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Agents that poll.
    pub polling: usize,
    /// Agents that hold a stream.
    pub streaming: usize,
    /// The agents' doors; an agent that fails at one tries the next.
    pub doors: Vec<SocketAddr>,
    /// Messages in one contact or record, at most.
    pub batch: usize,
    /// Pause between two contacts of one agent.
    pub pace: Duration,
    /// What the last so many agents of each style are like.
    pub forgetful: Forgetful,
}

/// Agents that remember nothing of what they were given.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forgetful {
    /// How many of those that poll, and how many of those that hold a stream.
    pub each: usize,
    /// How long each of their commands takes.
    pub work: Duration,
    /// How long they hold a stream before they end it in order and begin another.
    pub renew: Duration,
}

/// What the swarm does at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Makes new messages and sends them.
    Load,
    /// Makes none, sends what is left, keeps taking commands.
    Drain,
    /// Ends.
    Stop,
}

/// A running swarm.
#[derive(Debug)]
pub struct Swarm {
    phase: watch::Sender<Phase>,
    tasks: JoinSet<Result<()>>,
    ids: Vec<AgentId>,
    shared: Arc<Shared>,
}

/// What all agents of a swarm share.
#[derive(Debug)]
struct Shared {
    plan: Plan,
    ledger: Arc<Ledger>,
    connected: AtomicUsize,
    unsent: AtomicUsize,
}

impl Swarm {
    /// Draws the keys and starts the agents.
    pub fn start(plan: Plan, ledger: Arc<Ledger>) -> Result<Self> {
        let (phase, watching) = watch::channel(Phase::Load);
        let kept = |all: usize| all.saturating_sub(plan.forgetful.each);
        let polling = (0..plan.polling).map(|number| (Style::Poll, number < kept(plan.polling)));
        let streaming = (0..plan.streaming).map(|number| (Style::Stream, number < kept(plan.streaming)));
        let styles: Vec<(Style, bool)> = polling.chain(streaming).collect();
        let shared = Shared { plan, ledger, connected: AtomicUsize::new(0), unsent: AtomicUsize::new(0) };
        let shared = Arc::new(shared);
        let (mut tasks, mut ids) = (JoinSet::new(), Vec::new());
        for (number, (style, remembers)) in styles.into_iter().enumerate() {
            let identity = Identity::fresh()?;
            ids.push(identity.id);
            let agent = SwarmAgent::new(identity, style, number, Arc::clone(&shared), watching.clone());
            let agent = if remembers { agent } else { agent.forgetful() };
            tasks.spawn(agent.run());
        }
        Ok(Self { phase, tasks, ids, shared })
    }

    /// Returns the ids of all agents.
    pub fn ids(&self) -> &[AgentId] {
        &self.ids
    }

    /// Returns how many agents have had an answer on the connection they hold.
    pub fn connected(&self) -> usize {
        self.shared.connected.load(Ordering::Relaxed)
    }

    /// Lets the agents deliver what they hold and run what was ordered, without making more.
    pub async fn drain(&mut self, ceiling: Duration) -> Result<()> {
        self.phase.send_replace(Phase::Drain);
        let shared = Arc::clone(&self.shared);
        crate::wait::until_true("the swarm to deliver everything and run every command", ceiling, async || {
            let (unsent, open) = (shared.unsent.load(Ordering::Relaxed), shared.ledger.commands_open());
            if unsent > 0 || open > 0 {
                bail!("{unsent} messages wait to be acknowledged, {open} commands to run");
            }
            Ok(true)
        })
        .await
    }

    /// Makes messages again after a [`Self::drain`].
    pub fn resume(&self) {
        self.phase.send_replace(Phase::Load);
    }

    /// Ends every agent.
    pub async fn stop(mut self) -> Result<()> {
        self.phase.send_replace(Phase::Stop);
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("an agent of the swarm panicked")??;
        }
        Ok(())
    }
}
