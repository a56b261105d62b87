//! The store as a few maps in memory: what its contract says, in the simplest words that say it.
//!
//! Not here: what only the databases can get wrong (races, crashes, pages). Message `n` below [`FROM_AGENTS`] goes to
//! service `s` of the server when `n % 4` is 0, else of agent `n % 4`.

use crate::stage::{LEASE, at};
use muster_core::{AgentState, BroadcastLimit, Timestamp, broadcast, limits, retry};
use muster_store::ErrorKind;
use muster_store::messages::MessageState;
use std::collections::{BTreeMap, BTreeSet};

/// Messages from this number on come with contacts, from [`OF_BROADCASTS`] on with broadcasts.
pub(crate) const FROM_AGENTS: u8 = 100;
pub(crate) const OF_BROADCASTS: u8 = 200;
/// Messages from this number on expire.
pub(crate) const EXPIRING: u8 = 16;
/// When they do, in milliseconds, and how long after being sent again.
pub(crate) const LIFE_MS: i64 = 60_000;

/// A call of the store.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Wait(i64),
    Enrol(u8),
    State(u8, AgentState),
    LabelPut(u8, u8),
    LabelDelete(u8, u8),
    Put(Vec<u8>),
    Result(u8, bool),
    Claim(u8, u32),
    ClaimOverdue(u32),
    Cancel(u8),
    Unpark(u8),
    ParkExpired,
    Release(u8),
    Pending(Vec<u8>, u64, u64),
    PendingDelete(Vec<u8>),
    Contact { agent: u8, brings: Vec<(u8, Bring)>, claim: u32 },
    Create(u8, u64),
    LimitSet(u8, u64),
    Disable(u8),
    Take(u8, u8, f32),
    Send(u8, Option<u8>, u8, u8),
    End(u8, Option<u8>, u64),
    Reclaim,
    Lease(u8),
    SettingInit(u8),
}

/// What a message of a contact does.
#[derive(Debug, Clone)]
pub(crate) enum Bring {
    Deliver,
    Acknowledge(BTreeSet<u8>),
}

#[derive(Debug, Clone)]
struct Agent {
    state: AgentState,
    labels: BTreeSet<u8>,
    had: BTreeSet<u8>,
}

#[derive(Debug, Clone)]
struct Stored {
    number: usize,
    /// `None`: the server.
    to: Option<u8>,
    state: MessageState,
    due: Option<Timestamp>,
    attempts: u32,
    expires: Option<Timestamp>,
    processed: Option<Timestamp>,
}

#[derive(Debug, Clone)]
struct Counted {
    limit: u64,
    sent: u64,
    allocated: u64,
}

#[derive(Debug, Clone)]
struct Share {
    of: u8,
    limit: u64,
    sent: u64,
    expires: Timestamp,
}

/// Everything that is remembered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    now_ms: i64,
    numbers: usize,
    agents: BTreeMap<u8, Agent>,
    messages: BTreeMap<u8, Stored>,
    broadcasts: BTreeMap<u8, Counted>,
    shares: BTreeMap<u8, Share>,
    lease: Option<(u8, Timestamp, i64)>,
    setting: Option<u8>,
}

type Told = Result<String, ErrorKind>;

fn just_before(moment: Timestamp) -> Timestamp {
    Timestamp::from_nanos(moment.as_nanos() - 1)
}

/// Where message `n` goes.
pub(crate) fn addressee(n: u8) -> Option<u8> {
    (!n.is_multiple_of(4) && n < FROM_AGENTS).then_some(n % 4)
}

impl Model {
    pub(crate) fn now(&self) -> Timestamp {
        at(self.now_ms)
    }

    /// Makes a call, whole or not at all, and says what it gives.
    pub(crate) fn call(&mut self, op: &Op) -> Told {
        let mut next = self.clone();
        let told = next.step(op);
        if told.is_ok() {
            *self = next;
        }
        told
    }

    fn step(&mut self, op: &Op) -> Told {
        let now = self.now();
        match op {
            Op::Wait(ms) => self.now_ms += ms,
            Op::Enrol(n) => return Ok(self.enrol(*n)),
            Op::State(n, state) => self.set_state(*n, *state)?,
            Op::LabelPut(n, label) => drop(self.known(*n)?.labels.insert(*label)),
            Op::LabelDelete(n, label) => drop(self.known(*n)?.labels.remove(label)),
            Op::Put(ids) => return self.put(ids),
            Op::Result(n, done) => self.set_result(*n, *done),
            Op::Claim(n, limit) => return Ok(format!("{:?}", self.claim(*n, *limit))),
            Op::ClaimOverdue(limit) => return Ok(format!("{:?}", self.claim_overdue(*limit))),
            Op::Cancel(n) => {
                let open = [MessageState::Pending, MessageState::Parked];
                return self.change(*n, &open, |row| row.end(MessageState::Failed, now));
            }
            Op::Unpark(n) => {
                let expires = at(self.now_ms + LIFE_MS);
                return self.change(*n, &[MessageState::Parked], |row| {
                    (row.state, row.due, row.processed) = (MessageState::Pending, Some(now), None);
                    row.expires = Some(expires);
                });
            }
            Op::ParkExpired => {
                let over = |row: &Stored| row.expires.is_some_and(|expires| expires <= now);
                return Ok(self.change_pending(over, |row| row.end(MessageState::Parked, now)));
            }
            Op::Release(n) => {
                let out = |row: &Stored| row.to == Some(*n) && row.attempts > 0 && row.due > Some(now);
                return Ok(self.change_pending(out, |row| row.due = Some(now)));
            }
            Op::Pending(agents, offset, limit) => return self.pending(agents, *offset, *limit),
            Op::PendingDelete(agents) => {
                let to = |row: &Stored| row.to.is_some_and(|to| agents.contains(&to));
                return Ok(self.change_pending(to, |row| row.end(MessageState::Failed, now)));
            }
            Op::Contact { agent, brings, claim } => return Ok(self.contact(*agent, brings, *claim)),
            Op::Lease(owner) => return Ok(self.claim_lease(*owner)),
            Op::SettingInit(value) => return Ok(format!("{:?}", [*self.setting.get_or_insert(*value)])),
            op => return self.step_broadcasts(op),
        }
        Ok("()".to_owned())
    }

    fn known(&mut self, n: u8) -> Result<&mut Agent, ErrorKind> {
        let known = self.agents.get_mut(&n).filter(|agent| agent.state != AgentState::Deleted);
        known.ok_or(ErrorKind::NotFound)
    }

    fn enrol(&mut self, n: u8) -> String {
        let new = Agent { state: AgentState::Enrolled, labels: BTreeSet::new(), had: BTreeSet::new() };
        let agent = self.agents.entry(n).or_insert(new);
        if agent.state == AgentState::Deleted { "Deleted".to_owned() } else { format!("{:?}", agent.state) }
    }

    fn set_state(&mut self, n: u8, to: AgentState) -> Result<(), ErrorKind> {
        let agent = self.agents.get_mut(&n).ok_or(ErrorKind::NotFound)?;
        // Owing a new key would let a blocked machine in under another.
        if agent.state == to || (agent.state == AgentState::Blocked && to == AgentState::Rekeying) {
            return Ok(());
        }
        if agent.state == AgentState::Deleted {
            return Err(ErrorKind::Refused);
        }
        agent.state = to;
        if to == AgentState::Deleted {
            agent.labels.clear();
            agent.had.clear();
            self.messages.retain(|_, row| row.to != Some(n) || row.state != MessageState::Pending);
        }
        Ok(())
    }

    fn insert(&mut self, n: u8, mut row: Stored) -> &'static str {
        self.numbers += 1;
        if self.messages.contains_key(&n) {
            return "Again";
        }
        row.number = self.numbers;
        self.messages.insert(n, row);
        "New"
    }

    fn put(&mut self, ids: &[u8]) -> Told {
        for n in ids {
            if let Some(to) = addressee(*n) {
                self.known(to)?;
            }
        }
        let now = self.now();
        let taken = ids.iter().map(|n| {
            let to = addressee(*n);
            let due = if to.is_some() { just_before(now) } else { now };
            let expires = (*n >= EXPIRING).then(|| at(LIFE_MS));
            self.insert(*n, Stored { expires, ..Stored::pending(to, due) })
        });
        Ok(format!("{:?}", taken.collect::<Vec<_>>()))
    }

    fn set_result(&mut self, n: u8, done: bool) {
        let now = self.now();
        match self.messages.get_mut(&n) {
            Some(row) if done => row.end(MessageState::Done, now),
            Some(row) if row.state == MessageState::Pending => row.end(MessageState::Failed, now),
            _ => {}
        }
    }

    /// The numbers of what is due and not over, oldest due first.
    fn due(&self, to: Option<u8>, limit: u32) -> Vec<u8> {
        let now = self.now();
        let due = |row: &&Stored| {
            row.to == to && row.due.is_some_and(|due| due < now) && row.expires.is_none_or(|expires| expires > now)
        };
        let mut found: Vec<_> = self.messages.iter().filter(|(_, row)| due(row)).collect();
        found.sort_by_key(|(_, row)| (row.due, row.number));
        found.into_iter().map(|(n, _)| *n).take(limit as usize).collect()
    }

    fn claim(&mut self, n: u8, limit: u32) -> Vec<u8> {
        if self.agents.get(&n).is_none_or(|agent| agent.state != AgentState::Enrolled) {
            return Vec::new();
        }
        let claimed = self.due(Some(n), limit);
        let until = self.now().plus(LEASE);
        for n in &claimed {
            self.row(*n).hide(until);
        }
        claimed
    }

    fn claim_overdue(&mut self, limit: u32) -> Vec<(u8, u32)> {
        let now = self.now();
        let due = self.due(None, limit);
        let hide = |n| {
            let row = self.row(n);
            let attempts = row.attempts;
            row.hide(retry::service_due(now, attempts, 0.0));
            (n, attempts)
        };
        due.into_iter().map(hide).collect()
    }

    fn row(&mut self, n: u8) -> &mut Stored {
        self.messages.get_mut(&n).expect("a row that was found")
    }

    fn change(&mut self, n: u8, from: &[MessageState], change: impl Fn(&mut Stored)) -> Told {
        let row = self.messages.get_mut(&n).ok_or(ErrorKind::NotFound)?;
        let changes = from.contains(&row.state);
        if changes {
            change(row);
        }
        Ok(changes.to_string())
    }

    fn change_pending(&mut self, of: impl Fn(&Stored) -> bool, change: impl Fn(&mut Stored)) -> String {
        let rows = self.messages.values_mut().filter(|row| row.state == MessageState::Pending && of(row));
        rows.map(change).count().to_string()
    }

    fn pending(&self, agents: &[u8], offset: u64, limit: u64) -> Told {
        if offset > 0 && limit == 0 {
            return Err(ErrorKind::Invalid);
        }
        let to = |row: &Stored| row.state == MessageState::Pending && row.to.is_some_and(|to| agents.contains(&to));
        let ids = self.messages.iter().filter(|(_, row)| to(row)).map(|(n, _)| *n);
        let most = if limit == 0 { u64::MAX } else { limit };
        let (offset, most) = (usize::try_from(offset).unwrap(), usize::try_from(most).unwrap());
        Ok(format!("{:?}", ids.skip(offset).take(most).collect::<Vec<_>>()))
    }

    fn contact(&mut self, n: u8, brings: &[(u8, Bring)], claim: u32) -> String {
        let now = self.now();
        let Some(agent) = self.agents.get(&n).cloned() else { return "Unknown".to_owned() };
        match agent.state {
            AgentState::Deleted => return "Deleted".to_owned(),
            AgentState::Waiting => return "Waiting [] [] [] []".to_owned(),
            AgentState::Blocked => return "Blocked".to_owned(),
            AgentState::Enrolled | AgentState::Rekeying | AgentState::Replaced => {}
        }
        let (mut taken, mut named) = (Vec::new(), BTreeSet::new());
        for (n, bring) in brings {
            let mut row = Stored::pending(None, now);
            if matches!(bring, Bring::Acknowledge(_)) {
                row.end(MessageState::Done, now);
            }
            taken.push(self.insert(*n, row));
            if let (Bring::Acknowledge(ids), Some(&"New")) = (bring, taken.last()) {
                named.extend(ids);
            }
        }
        let mut foreign = Vec::new();
        for named in named {
            match self.messages.get_mut(&named) {
                Some(row) if row.to != Some(n) => foreign.push(named),
                Some(row) if row.state != MessageState::Done => row.end(MessageState::Done, now),
                _ => {}
            }
        }
        let claimed = self.claim(n, claim);
        format!("{:?} {taken:?} {foreign:?} {claimed:?} {:?}", agent.state, agent.had)
    }

    fn claim_lease(&mut self, owner: u8) -> String {
        let now = self.now();
        let until = now.plus(LEASE);
        self.lease = match self.lease {
            None => Some((owner, until, 1)),
            Some((holder, _, fence)) if holder == owner => Some((owner, until, fence)),
            Some((_, lapses, fence)) if lapses <= now => Some((owner, until, fence + 1)),
            Some(_) => return "None".to_owned(),
        };
        format!("{:?}", self.lease.map(|(_, _, fence)| fence))
    }

    fn step_broadcasts(&mut self, op: &Op) -> Told {
        let now = self.now();
        match op {
            Op::Create(b, limit) => {
                let known = self.broadcasts.entry(*b).or_insert(Counted { limit: *limit, sent: 0, allocated: 0 });
                if known.limit != *limit {
                    return Err(ErrorKind::Exists);
                }
            }
            Op::LimitSet(b, limit) => {
                let counted = self.broadcasts.get_mut(b).ok_or(ErrorKind::NotFound)?;
                counted.limit = (*limit).max(counted.sent + counted.allocated);
            }
            Op::Disable(b) => {
                self.end_shares(|share| share.of == *b);
                if let Some(counted) = self.broadcasts.get_mut(b) {
                    (counted.limit, counted.allocated) = (0, 0);
                }
            }
            Op::Take(b, a, fraction) => return self.take(*b, *a, *fraction),
            Op::Send(b, a, n, to) => return self.send(*b, *a, *n, *to),
            Op::End(b, a, sent) => self.end(*b, *a, *sent),
            Op::Reclaim => return Ok(self.end_shares(|share| share.expires < now).to_string()),
            other => unreachable!("{other:?} is no call on broadcasts"),
        }
        Ok("()".to_owned())
    }

    fn take(&mut self, b: u8, a: u8, fraction: f32) -> Told {
        let expires = self.now().plus(LEASE);
        let Some(counted) = self.broadcasts.get_mut(&b) else { return Ok("None".to_owned()) };
        if counted.limit == BroadcastLimit::UNLIMITED {
            return Ok("all".to_owned());
        }
        let share = broadcast::share(counted.limit, counted.sent + counted.allocated, 0, fraction);
        if share == 0 {
            return Ok("None".to_owned());
        }
        if self.shares.contains_key(&a) {
            return Err(ErrorKind::Exists);
        }
        counted.allocated += share;
        self.shares.insert(a, Share { of: b, limit: share, sent: 0, expires });
        Ok(share.to_string())
    }

    fn send(&mut self, b: u8, a: Option<u8>, n: u8, to: u8) -> Told {
        let now = self.now();
        if self.known(to)?.had.contains(&b) {
            return Ok("Before".to_owned());
        }
        let limit = self.broadcasts.get(&b).map_or(0, |counted| counted.limit);
        match a {
            None if limit == 0 => return Ok("Disabled".to_owned()),
            None if limit != BroadcastLimit::UNLIMITED => return Ok("Exhausted".to_owned()),
            None => {}
            Some(a) => match self.shares.get_mut(&a).filter(|share| share.of == b) {
                None => return Ok("Disabled".to_owned()),
                Some(share) if share.sent >= share.limit || share.expires <= now => return Ok("Exhausted".to_owned()),
                Some(share) => share.sent += 1,
            },
        }
        self.known(to)?.had.insert(b);
        let row = Stored { attempts: 1, ..Stored::pending(Some(to), now.plus(limits::AGENT_RETRY)) };
        if self.insert(n, row) == "New" { Ok("Yes".to_owned()) } else { Err(ErrorKind::Exists) }
    }

    fn end(&mut self, b: u8, a: Option<u8>, sent: u64) {
        let Some(counted) = self.broadcasts.get_mut(&b) else { return };
        let promised = match a {
            None => 0,
            Some(a) if self.shares.get(&a).is_some_and(|share| share.of == b) => {
                self.shares.remove(&a).map_or(0, |share| share.limit)
            }
            Some(_) => return,
        };
        counted.sent += sent;
        counted.allocated -= promised;
    }

    fn end_shares(&mut self, which: impl Fn(&Share) -> bool) -> usize {
        let ended: Vec<(u8, u8, u64)> =
            self.shares.iter().filter(|(_, share)| which(share)).map(|(a, share)| (share.of, *a, share.sent)).collect();
        for (b, a, sent) in &ended {
            self.end(*b, Some(*a), *sent);
        }
        ended.len()
    }

    /// Everything that is to be seen.
    pub(crate) fn seen(&self) -> Vec<String> {
        let agents = self.agents.iter().map(|(n, agent)| format!("agent {n} {:?} {:?}", agent.state, agent.labels));
        let messages = self.messages.iter().map(|(n, row)| {
            format!("message {n} {:?} {} {:?} {:?} {:?}", row.state, row.attempts, row.due, row.expires, row.processed)
        });
        let broadcasts = self.broadcasts.iter().map(|(b, counted)| {
            let open: u64 = self.shares.values().filter(|share| share.of == *b).map(|share| share.sent).sum();
            format!("broadcast {b} {} {} {}", counted.limit, counted.sent + open, counted.allocated)
        });
        agents.chain(messages).chain(broadcasts).collect()
    }
}

impl Stored {
    fn pending(to: Option<u8>, due: Timestamp) -> Self {
        let state = MessageState::Pending;
        Self { number: 0, to, state, due: Some(due), attempts: 0, expires: None, processed: None }
    }

    fn hide(&mut self, until: Timestamp) {
        self.attempts += 1;
        self.due = Some(until);
    }

    fn end(&mut self, state: MessageState, now: Timestamp) {
        (self.state, self.due, self.processed) = (state, None, Some(now));
    }
}
