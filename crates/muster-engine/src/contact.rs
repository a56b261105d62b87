//! Contacts: what happens between an agent's request and the answer.
//!
//! A contact is judged in this order: rate of its agent, required label, known or to be enrolled, key equal to the
//! stored one, state. What it brings is stored with its effects, and what is due for it is claimed, in one transaction.
//! Not here: what single messages mean (intake), and what happens while a stream is open (stream).

use crate::engine::{Chain, Inner, lock};
use crate::gates::Network;
use crate::intake::Judged;
use crate::portion::Portion;
use bytes::Bytes;
use metrics::counter;
use muster_core::contact::{ContactAnswer, ContactData};
use muster_core::nonce::Link;
use muster_core::{AgentId, AgentState, ContactId, Message, Timestamp, limits};
use muster_store::agents::{Claim, CloneSeen, ContactPut, ContactTaken, EventRow, Recorded};
use muster_store::{ErrorKind, StoreError};
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::{debug, error, warn};

pub use crate::stream::{Handed, OpenStream, StreamEnd, StreamEvent, StreamIn, StreamOut};

/// Who is in contact, and how.
#[derive(Debug, Clone)]
pub struct ContactFrom {
    /// The whole public key that was proven (DER SubjectPublicKeyInfo).
    pub key: Vec<u8>,
    /// From where, as `ip:port` (IPv6 in brackets).
    pub address: String,
    /// Labels it claims, as they came; enrolment tokens among them.
    pub labels: Vec<String>,
    /// What the edge found out about extra signatures, put on each message as its validation.
    pub validation: BTreeMap<String, String>,
    /// What it shows of itself, as it came; read only when its key is not known. Empty: nothing.
    pub introduction: Bytes,
    /// Whether it says that it stops.
    pub leaving: bool,
}

impl ContactFrom {
    /// Returns whose key it is.
    pub fn agent(&self) -> AgentId {
        AgentId::of_key(&self.key)
    }
}

/// What kind of refusal; each has one HTTP status at the edge and one word in logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// Another key has this id (403, a security event).
    KeyMismatch,
    /// The id was deleted (403).
    Deleted,
    /// The id is blocked (403).
    Blocked,
    /// Two machines share this key, and each is to wait for a growing time (429).
    CloneWait,
    /// Enrolment is closed to this key: no token, no label (403).
    EnrolmentRefused,
    /// Too many new machines from one network (429).
    EnrolmentRate,
    /// The agent sends more than it may (429).
    AgentRate,
    /// The required label is missing (503, as the original answers).
    NotAuthorized,
    /// The contact breaks a limit or a rule (400).
    Malformed,
    /// The database cannot be reached or is full (503).
    Unavailable,
    /// The server is stopping (503).
    Stopping,
}

impl RefusalCode {
    /// The word in logs, metrics and refusal rows.
    pub fn word(self) -> &'static str {
        match self {
            Self::KeyMismatch => "key_mismatch",
            Self::Deleted => "deleted",
            Self::Blocked => "blocked",
            Self::CloneWait => "clone_wait",
            Self::EnrolmentRefused => "enrolment_refused",
            Self::EnrolmentRate => "enrolment_rate",
            Self::AgentRate => "agent_rate",
            Self::NotAuthorized => "not_authorized",
            Self::Malformed => "malformed",
            Self::Unavailable => "unavailable",
            Self::Stopping => "stopping",
        }
    }
}

/// Why a contact was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What kind.
    pub code: RefusalCode,
    /// For people; says nothing that the agent should not know.
    pub reason: String,
    /// When to come again, where that is known.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that does not say when to come again.
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), retry_after: None }
    }

    pub(crate) fn again_after(code: RefusalCode, reason: impl Into<String>, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..Self::new(code, reason) }
    }
}

/// How a contact came in, as the metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Poll,
    Stream,
    Record,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Stream => "stream",
            Self::Record => "record",
        }
    }
}

/// A contact that was recorded.
pub(crate) struct Admitted {
    pub(crate) now: Timestamp,
    pub(crate) nonce: u64,
    pub(crate) recorded: Recorded,
    /// What it brought besides, still to be stored.
    pub(crate) rest: Vec<Portion>,
}

impl Inner {
    pub(crate) async fn contact_poll(&self, from: ContactFrom, data: ContactData) -> Result<ContactAnswer, Refusal> {
        let agent = from.agent();
        let admitted = self.contact_admit(Kind::Poll, &from, data).await;
        let Admitted { now, nonce, recorded, rest } = self.contact_judged(Kind::Poll, &from, agent, admitted).await?;
        // What was stored before one of them fails comes again, and is known then.
        for portion in rest {
            let _room = self.room_for(&portion).await;
            let judged = self.intake(agent, &from, portion.messages, now);
            self.record_store(agent, &from, recorded.contact, (judged, now)).await?;
        }
        let state = recorded.state;
        let messages = match state {
            AgentState::Enrolled => self.poll_messages(agent, recorded).await,
            AgentState::Rekeying | AgentState::Replaced => {
                self.rekey_order(agent, recorded.contact).await.into_iter().collect()
            }
            AgentState::Waiting | AgentState::Blocked | AgentState::Deleted => Vec::new(),
        };
        counter!("muster_engine_messages_out_total", "kind" => "poll").increment(messages.len() as u64);
        Ok(ContactAnswer { nonce, messages, state })
    }

    /// What a poll takes home: what was claimed for it, and the broadcasts that fit beside it.
    async fn poll_messages(&self, agent: AgentId, recorded: Recorded) -> Vec<Message> {
        let Recorded { claimed: mut messages, labels, broadcasts_had, contact, .. } = recorded;
        let room = limits::CONTACT_MESSAGES_MAX.saturating_sub(messages.len());
        messages.extend(self.broadcasts_take(agent, &labels, &broadcasts_had, contact, room).await);
        messages
    }

    /// Counts a contact, and keeps a trace when it was refused.
    pub(crate) async fn contact_judged<T>(
        &self,
        kind: Kind,
        from: &ContactFrom,
        agent: AgentId,
        judged: Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let outcome = judged.as_ref().map_or_else(|refusal| refusal.code.word(), |_| "taken");
        counter!("muster_engine_contacts_total", "kind" => kind.word(), "outcome" => outcome).increment(1);
        if let Err(refusal) = &judged {
            self.refusal_note(Some(agent), &from.address, refusal).await;
        }
        judged
    }

    /// Judges a contact and records it with what it brings. A poll claims what is due in the same transaction.
    pub(crate) async fn contact_admit(
        &self,
        kind: Kind,
        from: &ContactFrom,
        data: ContactData,
    ) -> Result<Admitted, Refusal> {
        let agent = from.agent();
        self.contact_check(agent, from, &data)?;
        let now = self.now();
        self.enrol_unless_known(agent, from, now).await?;
        let mut portions = self.portions(data.messages).into_iter();
        let first = portions.next().unwrap_or_default();
        let room = self.room_for(&first).await;
        let Judged { intake, rejected, after } = self.intake(agent, from, first.messages, now);
        let nonce = self.nonce();
        let claim = (kind == Kind::Poll).then_some(Claim {
            limit: u32::try_from(limits::CONTACT_MESSAGES_MAX).expect("100 fits 32 bits"),
            per_service: data.allowed,
            lease: limits::AGENT_RETRY,
        });
        let put = ContactPut {
            agent,
            key: from.key.clone(),
            at: now,
            address: from.address.clone(),
            streaming_to: if kind == Kind::Poll { String::new() } else { self.streaming_to.clone() },
            sent_nonce: nonce,
            received_nonce: data.nonce,
            clock: data.clock,
            intake,
            rejected,
            claim,
        };
        let taken = self.store.contact_put(put).await;
        drop(room);
        match taken.map_err(|failure| self.refusal_of("record a contact", &failure))? {
            ContactTaken::Recorded(recorded) => {
                self.chain_note(agent, from, &recorded).await;
                self.intake_done(agent, from, &recorded, after).await;
                if from.leaving {
                    self.leaving_note(agent, recorded.contact).await;
                }
                // Of a machine that waits only the contact is kept.
                let rest = portions.filter(|_| recorded.state != AgentState::Waiting).collect();
                Ok(Admitted { now, nonce, recorded: *recorded, rest })
            }
            ContactTaken::OtherKey => Err(self.key_mismatch(agent, from)),
            ContactTaken::Deleted => Err(deleted()),
            ContactTaken::Blocked => Err(blocked()),
            ContactTaken::Unknown => {
                // It was known a moment ago; whoever took it away from the database did so outside of this program.
                lock(&self.known).remove(&agent);
                Err(Refusal::new(RefusalCode::Unavailable, "this machine is no longer known, come again"))
            }
        }
    }

    /// Notes that a machine said that it stops. Whoever asks for it meanwhile waits longer, and that is all.
    pub(crate) async fn leaving_note(&self, agent: AgentId, contact: ContactId) {
        if let Err(failure) = self.store.agent_left(agent, contact, self.now()).await {
            self.saw(&failure);
            warn!(error = %Chain(&failure), agent.id = %agent, "could not note that a machine stops");
        }
    }

    /// Checks what can be checked without the database.
    fn contact_check(&self, agent: AgentId, from: &ContactFrom, data: &ContactData) -> Result<(), Refusal> {
        if self.stopping.is_cancelled() {
            return Err(Refusal::new(RefusalCode::Stopping, "this server is stopping, come again"));
        }
        self.gates.agent(agent, data.messages.len()).map_err(rate_refusal)?;
        self.gates.clone_wait(agent).map_err(|wait| {
            let reason = "two machines share this key and come in turns: each has to wait; give each a key of its own";
            Refusal::again_after(RefusalCode::CloneWait, reason, wait)
        })?;
        let required = &self.config.required_label;
        if !required.is_empty() && !from.labels.contains(required) {
            return Err(Refusal::new(RefusalCode::NotAuthorized, "not authorized"));
        }
        shape_check(data)
    }

    /// Turns an error of the store into what an agent is told.
    pub(crate) fn refusal_of(&self, doing: &'static str, failure: &StoreError) -> Refusal {
        self.saw(failure);
        if failure.is_passing() {
            // It happens to every agent that comes meanwhile; of a full disk there is a line already.
            let is_said = failure.kind() == ErrorKind::Full;
            let line = if is_said { None } else { self.gates.trouble_line(doing) };
            if let Some(more) = line {
                warn!(error = %Chain(failure), more, "could not {doing}: contacts are refused, agents are asked to come again");
            } else {
                debug!(error = %Chain(failure), "could not {doing}, the agent is asked to come again");
            }
        } else {
            error!(error = %Chain(failure), "could not {doing}");
        }
        Refusal::new(RefusalCode::Unavailable, "the database of this server cannot be used now, come again later")
    }

    fn nonce(&self) -> u64 {
        // Zero is what a machine without a past says, so it is never given out.
        u64::from_le_bytes(self.random()).max(1)
    }

    pub(crate) async fn refusal_note(&self, agent: Option<AgentId>, address: &str, refusal: &Refusal) {
        let word = refusal.code.word();
        counter!("muster_engine_refusals_total", "code" => word).increment(1);
        debug!(agent.id = agent.map(tracing::field::display), address, code = word, "contact refused: {refusal}");
        // A database that cannot be used takes no row either.
        if matches!(refusal.code, RefusalCode::Unavailable | RefusalCode::Stopping) {
            return;
        }
        // That two machines share the key is an event already.
        if refusal.code == RefusalCode::CloneWait {
            return;
        }
        if !self.gates.event_row(Network::of(address)) {
            return;
        }
        self.event_keep(agent, address, word, &refusal.reason).await;
    }

    /// Reports something that an honest machine does not do, and keeps it.
    pub(crate) async fn security_event(&self, code: &'static str, agent: AgentId, address: &str, text: &str) {
        self.security_log(code, agent, address, text);
        if self.gates.event_row(Network::of(address)) {
            self.event_keep(Some(agent), address, code, text).await;
        }
    }

    /// Tells the log of something that an honest machine does not do: one line for each code and source, then the others
    /// are counted for a while.
    pub(crate) fn security_log(&self, event: &'static str, agent: AgentId, address: &str, text: &str) {
        counter!("muster_engine_security_events_total", "event" => event).increment(1);
        if let Some(more) = self.gates.line(event, address) {
            warn!(target: "muster::security", event, agent.id = %agent, address, more, "{text}");
        }
    }

    /// The same of somebody who is no machine.
    pub(crate) fn security_log_of_person(&self, event: &'static str, address: &str, text: &str) {
        counter!("muster_engine_security_events_total", "event" => event).increment(1);
        if let Some(more) = self.gates.line(event, address) {
            warn!(target: "muster::security", event, address, more, "{text}");
        }
    }

    pub(crate) fn key_mismatch(&self, agent: AgentId, from: &ContactFrom) -> Refusal {
        self.security_log("key_mismatch", agent, &from.address, "another key has the id of this one");
        Refusal::new(RefusalCode::KeyMismatch, "this machine's id belongs to another key")
    }

    pub(crate) async fn event_keep(&self, agent: Option<AgentId>, address: &str, code: &str, reason: &str) {
        let row = EventRow {
            number: 0,
            at: self.now(),
            agent,
            address: muster_core::text::cut(&muster_core::text::without_nul(address), 128),
            code: code.to_owned(),
            reason: muster_core::text::without_nul(reason),
        };
        if let Err(failure) = self.store.event_put(row).await {
            self.saw(&failure);
            warn!(error = %Chain(&failure), code, "could not keep the trace of an event");
        }
    }

    /// Counts how contacts follow each other, and reports a key that two machines share. A chain that only splits is
    /// no news: every answer that is lost does that, and after a crash of a server there are many.
    async fn chain_note(&self, agent: AgentId, from: &ContactFrom, recorded: &Recorded) {
        match recorded.link {
            Link::Next | Link::Fresh => {}
            Link::Skip => counter!("muster_engine_nonce_skips_total").increment(1),
            Link::Split => counter!("muster_engine_nonce_splits_total").increment(1),
        }
        if recorded.clone.is_some() && !recorded.state.owes_key() {
            self.gates.clone_seen(agent);
        }
        if recorded.clone == Some(CloneSeen::News) {
            const TEXT: &str = "two machines share this key: their contacts come in turns; give each a key of its own";
            self.security_event(CLONE, agent, &from.address, TEXT).await;
        }
    }
}

/// The word for two machines under one key, in logs, metrics and events.
const CLONE: &str = "clone";

pub(crate) fn deleted() -> Refusal {
    Refusal::new(RefusalCode::Deleted, "this machine was deleted; it must make a new key to come back")
}

/// Says nothing of why: whoever holds the machine reads it.
pub(crate) fn blocked() -> Refusal {
    let reason = "this machine is blocked on this server, until an operator unblocks it";
    Refusal::new(RefusalCode::Blocked, reason)
}

pub(crate) fn rate_refusal(wait: Duration) -> Refusal {
    Refusal::again_after(RefusalCode::AgentRate, "this machine sends more messages than it may", wait)
}

/// Checks the numbers of a contact's parts.
pub(crate) fn shape_check(data: &ContactData) -> Result<(), Refusal> {
    let (messages, services) = (data.messages.len(), data.allowed.as_ref().map_or(0, BTreeMap::len));
    if messages > limits::CONTACT_MESSAGES_MAX {
        let max = limits::CONTACT_MESSAGES_MAX;
        let reason = format!("a contact holds at most {max} messages, this one has {messages}");
        return Err(Refusal::new(RefusalCode::Malformed, reason));
    }
    if services > limits::CONTACT_SERVICES_MAX {
        return Err(too_many_services());
    }
    Ok(())
}

pub(crate) fn too_many_services() -> Refusal {
    let max = limits::CONTACT_SERVICES_MAX;
    Refusal::new(RefusalCode::Malformed, format!("flow control names more than {max} services"))
}
