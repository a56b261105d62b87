//! Broadcasts: which are active, this server's shares of their limits, and who is given one.
//!
//! Stays true: a machine is given a broadcast only after the store has counted it against a share; at most one share is
//! asked for at a time for each broadcast; a share that is used up or lapsed is ended once nobody uses it.

use crate::engine::{Chain, Inner, OperatorError, lock};
use crate::registry::{Stream, wake};
use metrics::{counter, gauge};
use muster_core::{
    Address, AgentId, AgentState, AllocationId, Broadcast, BroadcastId, BroadcastLimit, Cause, ContactId, Label,
    Message, MessageId, Timestamp, label, limits, text,
};
use muster_store::broadcasts::BroadcastSent;
use muster_store::cluster::ServerRow;
use muster_store::{ErrorKind, StoreError};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, Semaphore};
use tracing::warn;

/// How many shares one machine may find used up before it is left to the next look.
const SHARES_TRIED_MAX: u32 = 64;

/// What this server knows of broadcasts.
#[derive(Debug)]
pub(crate) struct Broadcasts {
    active: Mutex<Arc<Vec<Arc<Active>>>>,
    /// Grows with each broadcast that is new to this server, or can be had again.
    number: AtomicU64,
    changed: Notify,
    sends: Semaphore,
    servers: Mutex<Vec<ServerRow>>,
    /// Shares that are no longer given out, with the broadcasts they are of.
    retired: Mutex<Vec<(BroadcastId, Arc<Share>)>>,
}

impl Default for Broadcasts {
    fn default() -> Self {
        Self {
            active: Mutex::default(),
            number: AtomicU64::new(0),
            changed: Notify::new(),
            sends: Semaphore::new(limits::BROADCAST_SENDS_MAX),
            servers: Mutex::default(),
            retired: Mutex::default(),
        }
    }
}

/// An active broadcast.
#[derive(Debug)]
struct Active {
    broadcast: Broadcast,
    /// Streams that were given broadcasts up to a smaller number have not been asked for this one.
    number: u64,
    held: tokio::sync::Mutex<Hold>,
}

#[derive(Debug)]
enum Hold {
    /// No share yet.
    None,
    Some(Arc<Share>),
    /// Nothing was left to take.
    Dry,
}

/// A share of a broadcast's limit.
#[derive(Debug)]
struct Share {
    /// `None` for a broadcast without a limit.
    id: Option<AllocationId>,
    expires: Timestamp,
    sent: AtomicU64,
}

/// One unit of a share, for as long as it is not known whether it was sent.
///
/// Of a share with a limit it is counted from the start. Where there is no limit it is counted when it was sent, and the
/// counter can be taken away at any time.
struct Counted<'a>(&'a Share);

impl<'a> Counted<'a> {
    fn new(share: &'a Share) -> Self {
        if share.id.is_some() {
            share.sent.fetch_add(1, Ordering::AcqRel);
        }
        Self(share)
    }

    fn keep(self) {
        if self.0.id.is_none() {
            self.0.sent.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn take_back(self) {
        if self.0.id.is_some() {
            self.0.sent.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Broadcasts {
    /// Makes the job look for changed broadcasts now.
    pub(crate) fn look_again(&self) {
        self.changed.notify_one();
    }

    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The servers that lived at the last heartbeat.
    pub(crate) fn servers(&self) -> Vec<ServerRow> {
        lock(&self.servers).clone()
    }

    pub(crate) fn servers_note(&self, servers: Vec<ServerRow>) {
        *lock(&self.servers) = servers;
    }

    fn active(&self) -> Arc<Vec<Arc<Active>>> {
        Arc::clone(&lock(&self.active))
    }

    fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn retire(&self, broadcast: BroadcastId, share: Arc<Share>) {
        lock(&self.retired).push((broadcast, share));
    }

    /// Takes the retired shares that nobody uses any more.
    fn retired_take(&self) -> Vec<(BroadcastId, Arc<Share>)> {
        lock(&self.retired).extract_if(.., |(_, share)| Arc::strong_count(share) == 1).collect()
    }
}

impl Active {
    /// Whether this broadcast could be for a machine with these labels.
    fn is_for(&self, labels: &[Label], now: Timestamp) -> bool {
        self.broadcast.expires.is_none_or(|expires| expires > now)
            && label::all_present(&self.broadcast.required_labels, labels)
    }
}

/// Whether units are neither sent nor promised.
fn has_some_left(broadcast: &Broadcast) -> bool {
    match broadcast.limit {
        BroadcastLimit::Unlimited => true,
        BroadcastLimit::Machines(limit) => broadcast.sent.saturating_add(broadcast.allocated) < limit,
    }
}

/// Whether two rows of one broadcast say the same but for their counters.
fn is_same(one: &Broadcast, other: &Broadcast) -> bool {
    one.limit == other.limit && one.expires == other.expires && one.created == other.created
}

impl Inner {
    /// Looks which broadcasts are active, and wakes all streams when there is one that they may not have had.
    pub(crate) async fn broadcasts_refresh(&self) -> Result<(), StoreError> {
        let rows = self.store.broadcast_active(None, self.now()).await?;
        let before = self.broadcasts.active();
        let mut known: HashMap<BroadcastId, &Arc<Active>> =
            before.iter().map(|active| (active.broadcast.id, active)).collect();
        let (mut active, mut is_new) = (Vec::with_capacity(rows.len()), false);
        for row in rows {
            let there = known.remove(&row.id);
            if let Some(there) = there
                && is_same(&there.broadcast, &row)
                && !(has_some_left(&row) && matches!(*there.held.lock().await, Hold::Dry))
            {
                active.push(Arc::clone(there));
                continue;
            }
            if let Some(there) = there {
                self.hold_drop(there).await;
            }
            is_new = true;
            let number = self.broadcasts.next_number();
            active.push(Arc::new(Active { broadcast: row, number, held: tokio::sync::Mutex::new(Hold::None) }));
        }
        for gone in known.into_values() {
            self.hold_drop(gone).await;
        }
        #[expect(clippy::cast_precision_loss, reason = "there are far fewer than 2^52 broadcasts")]
        gauge!("muster_engine_broadcasts_active").set(active.len() as f64);
        *lock(&self.broadcasts.active) = Arc::new(active);
        if is_new {
            self.streams.wake_all(wake::BROADCASTS);
        }
        Ok(())
    }

    async fn hold_drop(&self, active: &Active) {
        if let Hold::Some(share) = std::mem::replace(&mut *active.held.lock().await, Hold::Dry) {
            self.broadcasts.retire(active.broadcast.id, share);
        }
    }

    /// Ends the shares that are no longer used, and adds up what was sent without a limit.
    pub(crate) async fn shares_end(&self) -> Result<(), StoreError> {
        for active in self.broadcasts.active().iter() {
            if let Hold::Some(share) = &*active.held.lock().await
                && share.id.is_none()
            {
                self.unlimited_count(active.broadcast.id, share).await?;
            }
        }
        let mut unused = self.broadcasts.retired_take().into_iter();
        while let Some((broadcast, share)) = unused.next() {
            let ended = match share.id {
                None => self.unlimited_count(broadcast, &share).await,
                id => self.store.allocation_end(broadcast, id, share.sent.load(Ordering::Acquire)).await,
            };
            if let Err(failure) = ended {
                let mut retired = lock(&self.broadcasts.retired);
                retired.push((broadcast, share));
                retired.extend(unused);
                return Err(failure);
            }
        }
        Ok(())
    }

    async fn unlimited_count(&self, broadcast: BroadcastId, share: &Share) -> Result<(), StoreError> {
        let sent = share.sent.swap(0, Ordering::AcqRel);
        if sent == 0 {
            return Ok(());
        }
        let added = self.store.allocation_end(broadcast, None, sent).await;
        if added.is_err() {
            share.sent.fetch_add(sent, Ordering::AcqRel);
        }
        added
    }

    /// Gives up all shares, at the end of this server.
    pub(crate) async fn shares_end_all(&self) -> Result<(), StoreError> {
        for active in self.broadcasts.active().iter() {
            self.hold_drop(active).await;
        }
        self.shares_end().await
    }

    /// The broadcasts that a poll takes home, at most `room`. What the store refuses is left for the next contact.
    pub(crate) async fn broadcasts_take(
        &self,
        agent: AgentId,
        labels: &[Label],
        had: &[BroadcastId],
        contact: ContactId,
        room: usize,
    ) -> Vec<Message> {
        let now = self.now();
        let mut messages = Vec::new();
        for active in self.broadcasts.active().iter() {
            if messages.len() >= room {
                break;
            }
            if had.contains(&active.broadcast.id) || !active.is_for(labels, now) {
                continue;
            }
            match self.broadcast_send(active, agent, contact).await {
                Ok(message) => messages.extend(message),
                Err(failure) => {
                    self.saw(&failure);
                    warn!(error = %Chain(&failure), agent.id = %agent, "could not give a broadcast, it waits");
                    break;
                }
            }
        }
        messages
    }

    /// The broadcasts that a stream has not been given, at most `room`, and whether that is all.
    pub(crate) async fn broadcasts_stream(
        &self,
        stream: &Stream,
        room: usize,
    ) -> Result<(Vec<Message>, bool), StoreError> {
        let active = self.broadcasts.active();
        let seen = stream.broadcasts_seen();
        let newest = active.iter().map(|active| active.number).max().unwrap_or(0);
        let mut fresh: Vec<&Arc<Active>> = active.iter().filter(|active| active.number > seen).collect();
        if fresh.is_empty() {
            return Ok((Vec::new(), true));
        }
        fresh.sort_unstable_by_key(|active| active.number);
        let _permit = self.broadcasts.sends.acquire().await.expect("the semaphore is never closed");
        let agent = self.store.agent_get(stream.agent).await?;
        let Some(agent) = agent.filter(|agent| agent.state == AgentState::Enrolled) else {
            return Ok((Vec::new(), true));
        };
        let had = self.store.broadcast_had(stream.agent).await?;
        let (mut messages, now) = (Vec::new(), self.now());
        for active in fresh {
            if messages.len() >= room {
                return Ok((messages, false));
            }
            if !had.contains(&active.broadcast.id) && active.is_for(&agent.labels, now) {
                match self.broadcast_send(active, stream.agent, stream.contact).await {
                    Ok(message) => messages.extend(message),
                    // What was stored is sent first; the rest is asked for again.
                    Err(failure) if messages.is_empty() => return Err(failure),
                    Err(failure) => {
                        self.saw(&failure);
                        return Ok((messages, false));
                    }
                }
            }
            stream.broadcasts_note(active.number);
        }
        stream.broadcasts_note(newest.max(seen));
        Ok((messages, true))
    }

    /// Counts one machine against a broadcast and returns its message. `None`: it had it, or nothing is left.
    async fn broadcast_send(
        &self,
        active: &Active,
        agent: AgentId,
        contact: ContactId,
    ) -> Result<Option<Message>, StoreError> {
        let broadcast = &active.broadcast;
        let now = self.now();
        let message = self.broadcast_message(broadcast, agent, now);
        let mut used_up = None;
        for _ in 0..SHARES_TRIED_MAX {
            let Some(share) = self.share(active, used_up.as_ref(), now).await? else {
                return Ok(None);
            };
            // Counted before it is tried: an attempt that is given up half-way may have been stored all the same, and
            // one unit too many is never above the limit.
            let counted = Counted::new(&share);
            let sent = self.store.broadcast_send(broadcast.id, share.id, message.clone(), Some(contact), now).await;
            match sent {
                Ok(BroadcastSent::Yes) => {
                    counted.keep();
                    counter!("muster_engine_messages_out_total", "kind" => "broadcast").increment(1);
                    return Ok(Some(message));
                }
                Ok(BroadcastSent::Before) => {
                    counted.take_back();
                    return Ok(None);
                }
                Ok(BroadcastSent::Disabled | BroadcastSent::Exhausted) => {
                    counted.take_back();
                    used_up = Some(share);
                }
                Err(failure) => {
                    if failure.kind() != ErrorKind::Unknown {
                        counted.take_back();
                    }
                    return Err(failure);
                }
            }
        }
        Ok(None)
    }

    fn broadcast_message(&self, broadcast: &Broadcast, agent: AgentId, now: Timestamp) -> Message {
        let destination = Address::agent(agent, broadcast.destination_service.clone());
        Message {
            message_type: broadcast.message_type.clone(),
            payload: broadcast.payload.clone(),
            expires: Some(now.plus(self.config.message_life)),
            ..Message::new(self.message_id(now), broadcast.source.clone(), destination, now)
        }
    }

    /// Returns this server's share of a broadcast, and takes one when there is none or when it is the `spent` one.
    async fn share(
        &self,
        active: &Active,
        spent: Option<&Arc<Share>>,
        now: Timestamp,
    ) -> Result<Option<Arc<Share>>, StoreError> {
        let mut held = active.held.lock().await;
        match &*held {
            Hold::Dry => return Ok(None),
            Hold::Some(share) => {
                let is_spent = spent.is_some_and(|spent| Arc::ptr_eq(spent, share)) || share.expires <= now;
                if !is_spent {
                    return Ok(Some(Arc::clone(share)));
                }
            }
            Hold::None => {}
        }
        if let Hold::Some(share) = std::mem::replace(&mut *held, Hold::None) {
            self.broadcasts.retire(active.broadcast.id, share);
        }
        let id = AllocationId::from_bytes(self.random());
        let expires = now.plus(limits::ALLOCATION_LIFE);
        let fraction = self.config.broadcast_fraction;
        let taken = self.store.allocation_take(active.broadcast.id, id, fraction, expires).await?;
        let Some(taken) = taken else {
            *held = Hold::Dry;
            return Ok(None);
        };
        let share = Arc::new(Share { id: taken.id, expires: taken.expires, sent: AtomicU64::new(0) });
        *held = Hold::Some(Arc::clone(&share));
        Ok(Some(share))
    }

    pub(crate) async fn broadcast_create(
        &self,
        broadcast: Broadcast,
        cause: &Cause,
    ) -> Result<BroadcastId, OperatorError> {
        let broadcast = broadcast_check(broadcast).map_err(OperatorError::Invalid)?;
        let id = broadcast.id;
        let created = self.store.broadcast_create(broadcast, self.now(), cause).await;
        created.map_err(|failure| self.operator_error("create a broadcast", failure))?;
        self.broadcasts.look_again();
        self.broadcasts_tell();
        Ok(id)
    }

    pub(crate) async fn broadcast_disable(&self, ids: &[BroadcastId], cause: &Cause) -> Result<(), OperatorError> {
        let disabled = self.store.broadcast_disable(ids, self.now(), cause).await;
        disabled.map_err(|failure| self.operator_error("switch broadcasts off", failure))?;
        self.broadcasts.look_again();
        self.broadcasts_tell();
        Ok(())
    }
}

/// Checks a new broadcast. Without a destination it goes to the service of the same name as its source.
fn broadcast_check(broadcast: Broadcast) -> Result<Broadcast, String> {
    let mut broadcast = broadcast;
    if broadcast.source.agent.is_some() {
        return Err("a broadcast comes from a service of the server, not from a machine".to_owned());
    }
    if broadcast.destination_service.is_empty() {
        broadcast.destination_service.clone_from(&broadcast.source.service);
    }
    // One machine's copy is checked, so that no machine is ever refused its own.
    let copy = Message {
        message_type: broadcast.message_type.clone(),
        payload: broadcast.payload.clone(),
        ..Message::new(
            MessageId::from_bytes([0; 32]),
            broadcast.source.clone(),
            Address::agent(AgentId::from_bytes([0; 8]), broadcast.destination_service.clone()),
            broadcast.created,
        )
    };
    copy.check_text().map_err(|error| error.to_string())?;
    let (bytes, max) = (crate::mailbox::message_bytes(&copy), limits::MESSAGE_BYTES_MAX);
    if bytes > max {
        return Err(format!("broadcast of {bytes} bytes exceeds the {max}-byte limit"));
    }
    if broadcast.required_labels.len() > limits::AGENT_LABELS_MAX {
        return Err(format!("a broadcast requires at most {} labels", limits::AGENT_LABELS_MAX));
    }
    for label in &broadcast.required_labels {
        text::name("label service", &label.service).map_err(|error| error.to_string())?;
        text::name("label", &label.label).map_err(|error| error.to_string())?;
    }
    text::free("group", &broadcast.group, limits::NAME_BYTES_MAX).map_err(|error| error.to_string())?;
    broadcast.required_labels.sort();
    broadcast.required_labels.dedup();
    Ok(broadcast)
}

#[cfg(test)]
mod tests;
