//! The ledger of a fault run, and the one checker of what "lost" and "twice" mean.
//!
//! The load program writes down what it sent, what was acknowledged, which commands were accepted and which ran. After
//! the run the checker holds that against what the server has stored. It knows nothing of how either came about.

use anyhow::{Context, Result};
use muster_core::{AgentId, MessageId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

/// An effect that can be counted on the server: one usage record of one agent under one running number.
pub type EffectKey = (AgentId, i64);

#[derive(Debug, Default, Clone)]
struct Entries {
    sent: HashMap<MessageId, Option<EffectKey>>,
    acked: HashSet<MessageId>,
    commands: HashSet<MessageId>,
    deliveries: HashMap<MessageId, u32>,
    runs: HashMap<MessageId, u32>,
}

/// What happened on the agents' and the operator's side.
#[derive(Debug)]
pub struct Ledger {
    entries: Mutex<Entries>,
    file: Mutex<File>,
}

impl Ledger {
    /// Opens a ledger that also writes every line to `path`, for whoever has to find out what went wrong.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating the ledger {}", path.display()))?;
        Ok(Self { entries: Mutex::default(), file: Mutex::new(file) })
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().expect("no holder of the ledger panics")
    }

    fn line(&self, word: &str, id: MessageId) -> Result<()> {
        let mut file = self.file.lock().expect("no holder of the ledger's file panics");
        writeln!(file, "{word} {id}").context("writing the ledger")
    }

    /// Before a message leaves for the first time. `effect` names the row that it must make exactly once.
    pub fn sent(&self, id: MessageId, effect: Option<EffectKey>) -> Result<()> {
        self.line("sent", id)?;
        self.entries().sent.insert(id, effect);
        Ok(())
    }

    /// After the server has said that it has the message.
    pub fn acked(&self, id: MessageId) -> Result<()> {
        self.line("acked", id)?;
        self.entries().acked.insert(id);
        Ok(())
    }

    /// After the server has accepted a command to an agent.
    pub fn command_accepted(&self, id: MessageId) -> Result<()> {
        self.line("accepted", id)?;
        self.entries().commands.insert(id);
        Ok(())
    }

    /// Each time a command reaches an agent. Returns whether it is the first time, so that the agent shall run it.
    pub fn delivered(&self, id: MessageId) -> Result<bool> {
        self.line("delivered", id)?;
        let mut entries = self.entries();
        let deliveries = entries.deliveries.entry(id).or_default();
        *deliveries += 1;
        Ok(*deliveries == 1)
    }

    /// After an agent has run a command.
    pub fn ran(&self, id: MessageId) -> Result<()> {
        self.line("ran", id)?;
        *self.entries().runs.entry(id).or_default() += 1;
        Ok(())
    }

    /// Returns how many messages were sent and acknowledged so far.
    pub fn progress(&self) -> (usize, usize) {
        let entries = self.entries();
        (entries.sent.len(), entries.acked.len())
    }

    /// Returns how many accepted commands have not run yet.
    pub fn commands_open(&self) -> usize {
        let entries = self.entries();
        entries.commands.iter().filter(|id| !entries.runs.contains_key(id)).count()
    }

    /// Returns how many accepted commands have reached an agent.
    pub fn deliveries(&self) -> usize {
        let entries = self.entries();
        entries.commands.iter().filter(|id| entries.deliveries.contains_key(id)).count()
    }

    /// Returns whether a command has run.
    pub fn has_run(&self, id: MessageId) -> bool {
        self.entries().runs.contains_key(&id)
    }

    /// Returns what has been acknowledged up to now.
    pub fn acknowledged(&self) -> HashSet<MessageId> {
        self.entries().acked.clone()
    }

    /// Holds the ledger against what the server has stored. `acked` was taken before `stored` was asked for: what is
    /// acknowledged while the server is being asked need not be in its answer.
    pub fn check(&self, acked: &HashSet<MessageId>, stored: &Stored) -> Findings {
        let entries = self.entries();
        let mut findings = Findings {
            sent: entries.sent.len(),
            acked: entries.acked.len(),
            commands: entries.commands.len(),
            redelivered: entries.deliveries.values().filter(|times| **times > 1).count(),
            ..Findings::default()
        };
        findings.lost = missing(acked, |id| stored.messages.contains_key(id));
        findings.stored_twice =
            stored.messages.iter().filter(|(_, times)| **times > 1).map(|(id, _)| id.to_string()).collect();
        findings.invented = missing(stored.messages.keys(), |id| entries.sent.contains_key(id));
        findings.commands_lost = missing(&entries.commands, |id| entries.runs.contains_key(id));
        findings.commands_twice =
            entries.runs.iter().filter(|(_, times)| **times > 1).map(|(id, _)| id.to_string()).collect();
        // A stored message has had its effect, an effect belongs to a stored message: they commit together.
        for (id, key) in entries.sent.iter().filter_map(|(id, effect)| effect.as_ref().map(|key| (id, key))) {
            let effects = stored.effects.get(key).copied().unwrap_or(0);
            let want = u32::from(stored.messages.contains_key(id));
            if effects > want {
                findings.effects_twice.push(format!("{id}: {effects} effects, stored {want} times"));
            } else if effects < want {
                findings.effects_missing.push(id.to_string());
            }
        }
        findings
    }
}

fn missing<'a>(ids: impl IntoIterator<Item = &'a MessageId>, there: impl Fn(&MessageId) -> bool) -> Vec<String> {
    ids.into_iter().filter(|id| !there(id)).map(ToString::to_string).collect()
}

/// What the server has.
#[derive(Debug, Default, Clone)]
pub struct Stored {
    /// Messages from agents, and how often each was listed.
    pub messages: HashMap<MessageId, u32>,
    /// Effects, and how many rows each has.
    pub effects: BTreeMap<EffectKey, u32>,
}

/// What the checker found. Each list names the messages concerned.
#[derive(Debug, Default, Clone, serde::Serialize)]
pub struct Findings {
    /// Messages that left an agent.
    pub sent: usize,
    /// Messages that the server acknowledged.
    pub acked: usize,
    /// Commands that the server accepted.
    pub commands: usize,
    /// Commands that came more than once. Allowed: an acknowledgement may die with the server.
    pub redelivered: usize,
    /// Acknowledged, and not stored.
    pub lost: Vec<String>,
    /// Stored more than once.
    pub stored_twice: Vec<String>,
    /// Stored, and never sent.
    pub invented: Vec<String>,
    /// More effects than one, or an effect without a stored message.
    pub effects_twice: Vec<String>,
    /// Stored, without its effect.
    pub effects_missing: Vec<String>,
    /// Accepted, and never run.
    pub commands_lost: Vec<String>,
    /// Run more than once.
    pub commands_twice: Vec<String>,
}

impl Findings {
    /// Returns whether nothing is wrong.
    pub fn sound(&self) -> bool {
        self.faults() == 0
    }

    /// Returns how many things are wrong.
    pub fn faults(&self) -> usize {
        [
            &self.lost,
            &self.stored_twice,
            &self.invented,
            &self.effects_twice,
            &self.effects_missing,
            &self.commands_lost,
            &self.commands_twice,
        ]
        .iter()
        .map(|list| list.len())
        .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: AgentId = AgentId::from_bytes([1; 8]);

    fn id(number: u8) -> MessageId {
        MessageId::from_bytes([number; 32])
    }

    /// One acknowledged message with an effect, one that was only sent, one command that ran.
    fn ledger() -> Ledger {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::create(&directory.path().join("ledger")).unwrap();
        ledger.sent(id(1), Some((AGENT, 1))).unwrap();
        ledger.acked(id(1)).unwrap();
        ledger.sent(id(2), None).unwrap();
        ledger.command_accepted(id(9)).unwrap();
        assert!(ledger.delivered(id(9)).unwrap());
        assert!(!ledger.delivered(id(9)).unwrap());
        ledger.ran(id(9)).unwrap();
        ledger
    }

    fn stored(messages: &[(u8, u32)], effects: &[(i64, u32)]) -> Stored {
        Stored {
            messages: messages.iter().map(|(number, times)| (id(*number), *times)).collect(),
            effects: effects.iter().map(|(number, times)| ((AGENT, *number), *times)).collect(),
        }
    }

    #[test]
    fn a_sound_run_is_sound_whether_or_not_the_unacknowledged_arrived() {
        for messages in [&[(1, 1)][..], &[(1, 1), (2, 1)]] {
            let ledger = ledger();
            let findings = ledger.check(&ledger.acknowledged(), &stored(messages, &[(1, 1)]));
            assert!(findings.sound(), "{findings:?}");
            assert_eq!((findings.sent, findings.acked, findings.redelivered), (2, 1, 1));
        }
    }

    #[test]
    fn every_kind_of_fault_is_found_and_no_other() {
        let faults = |stored: Stored| {
            let ledger = ledger();
            let found = ledger.check(&ledger.acknowledged(), &stored);
            (
                found.lost.len(),
                found.stored_twice.len(),
                found.invented.len(),
                found.effects_twice.len(),
                found.effects_missing.len(),
            )
        };
        assert_eq!(faults(stored(&[], &[])), (1, 0, 0, 0, 0));
        assert_eq!(faults(stored(&[(1, 2)], &[(1, 1)])), (0, 1, 0, 0, 0));
        assert_eq!(faults(stored(&[(1, 1), (3, 1)], &[(1, 1)])), (0, 0, 1, 0, 0));
        assert_eq!(faults(stored(&[(1, 1)], &[(1, 2)])), (0, 0, 0, 1, 0));
        assert_eq!(faults(stored(&[(1, 1)], &[])), (0, 0, 0, 0, 1));
        assert_eq!(faults(stored(&[], &[(1, 1)])), (1, 0, 0, 1, 0));
    }

    #[test]
    fn commands_that_never_ran_or_ran_twice_are_found() {
        let ledger = ledger();
        let sound = stored(&[(1, 1)], &[(1, 1)]);
        ledger.command_accepted(id(8)).unwrap();
        assert_eq!(ledger.commands_open(), 1);
        assert_eq!(ledger.check(&ledger.acknowledged(), &sound).commands_lost, [id(8).to_string()]);
        ledger.ran(id(9)).unwrap();
        assert_eq!(ledger.check(&ledger.acknowledged(), &sound).commands_twice, [id(9).to_string()]);
    }
}
