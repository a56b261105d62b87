//! The middle of the agent: messages of the server go to services, what services say goes to the outbox.
//!
//! Stays true: a message is with one service at a time and is not handed over again once that service is done with it;
//! it is acknowledged only then. A service's places are counted, and the server is told how many are free.
//! Not here: connections (comms), what services do (services).

use crate::chain::Chain;
use crate::ledger::{BeginError, Ledger, LedgerId};
use crate::outbox::{Durability, Outbox};
use crate::spool::{Outgoing, SpoolError, SpoolId};
use muster_core::{AgentId, Clock, Priority, Timestamp, limits, system, text};
use muster_proto::{convert, wire};
use prost::Message as _;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Messages that may be with one service at once: its places.
pub(crate) const PLACES: u64 = 100;
/// How many of a service's messages are done before the server is told of free places without being asked.
const TELL_AFTER: u64 = 32;
/// Room for messages that came without a place, such as broadcasts.
const INBOX_MAX: usize = 200;
/// How long acknowledgements are gathered.
const ACK_GATHER: Duration = Duration::from_millis(10);
/// Acknowledgements in one message.
const ACKS_MAX: usize = 1000;

/// Something a service says to the server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mail {
    /// Its name, if it must have a certain one; else one is made.
    pub(crate) id: Option<SpoolId>,
    /// The service of this machine that speaks.
    pub(crate) from: String,
    /// The service of the server that is spoken to.
    pub(crate) to: String,
    /// What it is.
    pub(crate) message_type: String,
    /// Its body.
    pub(crate) data: Option<prost_types::Any>,
    /// How much it hurries.
    pub(crate) priority: Priority,
    /// Whether it may wait for a contact that happens anyway.
    pub(crate) background: bool,
    /// Pairs attached to it.
    pub(crate) annotations: Vec<(String, String)>,
}

/// Puts a message's bytes under its type's name.
pub(crate) fn any(type_name: &str, message: &impl prost::Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{type_name}"), value: message.encode_to_vec() }
}

#[derive(Debug)]
struct Slot {
    inbox: mpsc::Sender<Delivery>,
    accepted: u64,
    processed: u64,
}

impl Slot {
    fn free(&self) -> u64 {
        PLACES.saturating_sub(self.accepted.saturating_sub(self.processed))
    }
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<String, Slot>,
    under_way: HashSet<LedgerId>,
    acks: Vec<Vec<u8>>,
}

/// The hub.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    ledger: Mutex<Ledger>,
    outbox: Outbox,
    clock: Arc<dyn Clock>,
    acks_waiting: Notify,
    places_free: Notify,
}

/// A message in the hands of a service. Dropping it without [`Delivery::done`] or [`Delivery::fail`] leaves it to the
/// server to send it again.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The message.
    pub(crate) message: wire::Message,
    hub: Arc<Hub>,
    service: String,
    key: LedgerId,
    settled: bool,
}

/// The server's promise of places, as one connection keeps count of it.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    told: BTreeMap<String, u64>,
}

impl Hub {
    /// Puts a hub together.
    pub(crate) fn new(ledger: Ledger, outbox: Outbox, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            ledger: Mutex::new(ledger),
            outbox,
            clock,
            acks_waiting: Notify::new(),
            places_free: Notify::new(),
        })
    }

    /// The outbox below.
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Adds or exchanges a service; messages arrive at the receiver that is returned. Counts go on where they were.
    pub(crate) fn install(&self, service: &str) -> mpsc::Receiver<Delivery> {
        let (inbox, receiver) = mpsc::channel(INBOX_MAX);
        let mut state = self.state();
        if let Some(slot) = state.services.get_mut(service) {
            slot.inbox = inbox;
        } else {
            state.services.insert(service.to_owned(), Slot { inbox, accepted: 0, processed: 0 });
        }
        receiver
    }

    /// Takes a service away.
    pub(crate) fn remove(&self, service: &str) {
        self.state().services.remove(service);
    }

    /// Returns the names of the services, sorted.
    pub(crate) fn services(&self) -> Vec<String> {
        self.state().services.keys().cloned().collect()
    }

    /// Takes a message that came over a connection of the machine `me`. One that is addressed to another machine is
    /// refused and not remembered: it is that machine's. The original's server, and ours, write the address into each
    /// message, also into each copy of a broadcast; one without is for whoever is connected.
    pub(crate) fn receive_for(self: &Arc<Self>, me: AgentId, message: wire::Message) {
        let to = message.destination.as_ref().map_or(&[][..], |to| &to.client_id);
        if to.is_empty() || to == me.as_bytes() {
            return self.receive(message);
        }
        let reason = format!("this message is for machine {}, and this is {me}", text::cut(&hex::encode(to), 64));
        self.refuse(&message.message_id, reason);
    }

    /// Takes a message of the server.
    pub(crate) fn receive(self: &Arc<Self>, message: wire::Message) {
        let key = ledger_id(&message.message_id);
        let service = message.destination.as_ref().map_or_else(String::new, |to| to.service_name.clone());
        let mut state = self.state();
        if state.under_way.contains(&key) {
            tracing::debug!(message.id = %hex::encode(&message.message_id), "a message came again while it is worked on");
            return;
        }
        // What was begun in an earlier life was reported at the start, and is not done again.
        if self.ledger().get(&key).is_some() {
            Self::queue_ack(&mut state, &message.message_id);
            drop(state);
            self.acks_waiting.notify_one();
            return;
        }
        let Some(slot) = state.services.get_mut(&service) else {
            drop(state);
            let reason = format!("there is no service {service:?} on this machine");
            self.note_finished(key);
            self.refuse(&message.message_id, reason);
            return;
        };
        let Ok(place) = slot.inbox.try_reserve() else {
            tracing::warn!(service, "a service has no room for another message; the server will send it again");
            return;
        };
        slot.accepted += 1;
        place.send(Delivery { message, hub: Arc::clone(self), service, key, settled: false });
        state.under_way.insert(key);
    }

    /// Accepts what a service says. Returns its name once it survives what `durability` promises.
    pub(crate) async fn send(&self, mail: Mail, durability: Durability) -> Result<SpoolId, SpoolError> {
        let message = self.outgoing(mail);
        let id = message.id;
        self.outbox.put(message, durability).await.map(|()| id)
    }

    /// Accepts what a service says; what cannot be accepted is counted and logged, for speakers that cannot wait.
    pub(crate) async fn send_or_count(&self, mail: Mail) {
        let what = format!("{} of {}", mail.message_type, mail.from);
        if let Err(error) = self.send(mail, Durability::Disk).await {
            self.outbox.count_dropped();
            tracing::warn!(error = %Chain(&error), "message {what} is lost");
        }
    }

    /// Accepts a message that a local process wrote, waiting for room. Its source is what it may speak for. However much
    /// it hurries, it takes no room from what the agent itself has to say.
    pub(crate) async fn forward(&self, service: &str, mut message: wire::Message) -> Result<(), SpoolError> {
        let id = if message.source_message_id.is_empty() {
            let id = self.outbox.new_id();
            message.source_message_id = id.to_vec().into();
            id
        } else {
            let digest = Sha256::digest([service.as_bytes(), b"\0", &message.source_message_id].concat());
            digest[..16].try_into().expect("a SHA-256 has 32 bytes")
        };
        message.source = Some(wire::Address { service_name: service.to_owned(), ..wire::Address::default() });
        message.message_id = bytes::Bytes::new();
        message.result = None;
        message.validation_info = None;
        if message.creation_time.is_none() {
            message.creation_time = Some(convert::time_to_wire(self.clock.now()));
        }
        let outgoing = Outgoing {
            id,
            priority: match Priority::from_number(message.priority) {
                Priority::High => Priority::Medium,
                other => other,
            },
            background: message.background,
            body: message.encode_to_vec(),
        };
        self.outbox.put_when_there_is_room(outgoing).await
    }

    /// Whether no message is with a service, and no acknowledgement waits to be said.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state();
        state.under_way.is_empty() && state.acks.is_empty()
    }

    /// Returns the free places of every service, for the first record of a connection.
    pub(crate) fn tokens_at_start(&self) -> (Tokens, BTreeMap<String, u64>) {
        let state = self.state();
        let told = state.services.iter().map(|(name, slot)| (name.clone(), slot.processed)).collect();
        let free = state.services.iter().map(|(name, slot)| (name.clone(), slot.free())).collect();
        (Tokens { told }, free)
    }

    /// Returns how many places each service freed since this connection was told last.
    pub(crate) fn tokens_since(&self, tokens: &mut Tokens) -> BTreeMap<String, u64> {
        let mut freed = BTreeMap::new();
        for (name, slot) in &self.state().services {
            let count = match tokens.told.insert(name.clone(), slot.processed) {
                Some(told) => slot.processed.saturating_sub(told),
                // A service that came while the connection was open brings all its free places.
                None => slot.free(),
            };
            if count > 0 {
                freed.insert(name.clone(), count);
            }
        }
        freed
    }

    /// Whether some service freed so many places that the server should be told without being asked.
    pub(crate) fn should_tell(&self, tokens: &Tokens) -> bool {
        self.state().services.iter().any(|(name, slot)| {
            tokens.told.get(name).is_none_or(|told| slot.processed.saturating_sub(*told) >= TELL_AFTER)
        })
    }

    /// Waits until some service freed places.
    pub(crate) async fn places_freed(&self) {
        self.places_free.notified().await;
    }

    /// Reports what was begun and not finished before the agent ended, and closes those entries.
    pub(crate) async fn report_unknown(&self, unknown: Vec<LedgerId>) {
        for key in unknown {
            self.note_finished(key);
            let reason = "the agent ended while this was worked on; what came of it is unknown";
            self.send_or_count(error_mail(&key, reason)).await;
        }
    }

    /// Sends acknowledgements as they come, gathered for a moment. Runs until it is dropped.
    pub(crate) async fn acknowledge_forever(&self) {
        loop {
            self.acks_waiting.notified().await;
            tokio::time::sleep(ACK_GATHER).await;
            self.flush_acks().await;
        }
    }

    /// Sends the acknowledgements gathered so far.
    pub(crate) async fn flush_acks(&self) {
        let mut acks = std::mem::take(&mut self.state().acks);
        if acks.is_empty() {
            return;
        }
        self.sync_ledger().await;
        while !acks.is_empty() {
            let rest = acks.split_off(acks.len().min(ACKS_MAX));
            let ids = std::mem::replace(&mut acks, rest).into_iter().map(Into::into).collect();
            if let Err(error) = self.send(ack_mail(ids, Wait::Background), Durability::Process).await {
                tracing::warn!(error = %Chain(&error), "acknowledgements are lost; the server will send those messages again");
            }
        }
    }

    /// Waits until the disk has the ledger, so that what is acknowledged is not done again after a loss of power.
    async fn sync_ledger(&self) {
        let Ok(file) = self.ledger().sync_handle() else { return };
        let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
        if let Ok(Err(error)) = synced {
            tracing::error!(%error, "cannot write the ledger to the disk");
        }
    }

    fn refuse(self: &Arc<Self>, id: &bytes::Bytes, reason: String) {
        let (hub, id) = (Arc::clone(self), id.clone());
        tracing::warn!(message.id = %hex::encode(&id), "{reason}");
        tokio::spawn(async move { hub.send_or_count(error_mail(&id, &reason)).await });
    }

    fn note_finished(&self, key: LedgerId) {
        if let Err(error) = self.ledger().finish(key) {
            tracing::error!(%error, "cannot write the ledger");
        }
    }

    fn settle(&self, service: &str, key: &LedgerId) {
        let mut state = self.state();
        state.under_way.remove(key);
        if let Some(slot) = state.services.get_mut(service) {
            slot.processed += 1;
        }
        drop(state);
        self.places_free.notify_one();
    }

    fn queue_ack(state: &mut State, id: &[u8]) {
        if !id.is_empty() && !state.acks.iter().any(|known| known == id) {
            state.acks.push(id.to_vec());
        }
    }

    fn outgoing(&self, mail: Mail) -> Outgoing {
        let id = mail.id.unwrap_or_else(|| self.outbox.new_id());
        let entries = mail.annotations.into_iter().map(|(key, value)| wire::annotations::Entry { key, value });
        let entries: Vec<_> = entries.collect();
        let message = wire::Message {
            source: Some(wire::Address { service_name: mail.from, ..wire::Address::default() }),
            source_message_id: id.to_vec().into(),
            destination: Some(wire::Address { service_name: mail.to, ..wire::Address::default() }),
            message_type: mail.message_type,
            creation_time: Some(convert::time_to_wire(self.clock.now())),
            data: mail.data,
            priority: mail.priority as i32,
            background: mail.background,
            annotations: (!entries.is_empty()).then_some(wire::Annotations { entries }),
            ..wire::Message::default()
        };
        Outgoing { id, priority: mail.priority, background: mail.background, body: message.encode_to_vec() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivery {
    /// Writes to the disk that work on this message begins, for work that must not happen twice.
    pub(crate) async fn begin(&self) -> Result<(), BeginError> {
        let made = self.message.creation_time.and_then(|made| Timestamp::from_parts(made.seconds, made.nanos));
        // A server whose clock is ahead makes nothing older than it is.
        let made = made.unwrap_or(Timestamp::EPOCH).min(self.hub.clock.now());
        self.hub.ledger().begin(self.key, made)?;
        self.hub.sync_ledger().await;
        Ok(())
    }

    /// The service is done with the message: it is acknowledged.
    pub(crate) fn done(mut self) {
        self.settled = true;
        self.hub.note_finished(self.key);
        Hub::queue_ack(&mut self.hub.state(), &self.message.message_id);
        self.hub.settle(&self.service, &self.key);
        self.hub.acks_waiting.notify_one();
    }

    /// The service is done with the message, and whoever took it acknowledges it by other means.
    pub(crate) fn done_silently(mut self) {
        self.settled = true;
        self.hub.note_finished(self.key);
        self.hub.settle(&self.service, &self.key);
    }

    /// The message failed for good, for a reason that is told to its sender.
    pub(crate) async fn fail(mut self, reason: &str) {
        self.settled = true;
        // The reason is for the sender; it may have words of a command's output, which are not for logs.
        let id = hex::encode(&self.message.message_id);
        tracing::warn!(service = self.service, message.id = id, "message {id} failed for good, its sender is told why");
        self.hub.note_finished(self.key);
        self.hub.settle(&self.service, &self.key);
        self.hub.send_or_count(error_mail(&self.message.message_id, reason)).await;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.settled {
            self.hub.settle(&self.service, &self.key);
        }
    }
}

/// Whether a message may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For a contact that happens anyway.
    Background,
    /// For nothing.
    No,
}

/// Puts an acknowledgement together.
pub(crate) fn ack_mail(ids: Vec<bytes::Bytes>, wait: Wait) -> Mail {
    Mail {
        from: system::SERVICE.into(),
        to: system::SERVICE.into(),
        message_type: system::MESSAGE_ACK.into(),
        data: Some(any("fleetspeak.MessageAckData", &wire::MessageAckData { message_ids: ids })),
        priority: Priority::High,
        background: wait == Wait::Background,
        ..Mail::default()
    }
}

fn error_mail(id: &[u8], reason: &str) -> Mail {
    let error = muster_core::text::cut(reason, limits::FAILED_REASON_CHARS_MAX);
    let data = wire::MessageErrorData { message_id: id.to_vec().into(), error };
    Mail {
        from: system::SERVICE.into(),
        to: system::SERVICE.into(),
        message_type: system::MESSAGE_ERROR.into(),
        data: Some(any("fleetspeak.MessageErrorData", &data)),
        priority: Priority::High,
        background: true,
        ..Mail::default()
    }
}

/// A message's name for the ledger. Servers use 32 bytes; of another length the hash is taken.
fn ledger_id(id: &[u8]) -> LedgerId {
    id.try_into().unwrap_or_else(|_| Sha256::digest(id).into())
}

#[cfg(test)]
#[path = "hub_tests.rs"]
pub(crate) mod tests;
