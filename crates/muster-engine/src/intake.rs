//! Intake: what an agent's messages are, and what they do.
//!
//! Stays true: one bad message spoils no other; an id is derived from who sent it, so a message sent again is the same
//! one; what a message does is decided before it is stored, and done in the transaction that stores it.

use crate::contact::ContactFrom;
use crate::dispatch::Place;
use crate::engine::Inner;
use crate::gates::Network;
use metrics::counter;
use muster_core::contact::IncomingMessage;
use muster_core::system::{self, SystemMessage};
use muster_core::{Address, AgentId, AgentState, Message, MessageId, ResourceUsage, Timestamp, limits, retry, text};
use muster_store::agents::{DeadLetter, Effect, Intake, Recorded, Taken};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use tracing::{info, warn};

/// Characters kept of the name of a service that a message is lost to.
const SERVICE_CHARS_SHOWN: usize = 128;

/// The messages of one contact, judged.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// What is stored, with its effects.
    pub(crate) intake: Vec<Intake>,
    /// What could not be accepted.
    pub(crate) rejected: Vec<DeadLetter>,
    /// What follows once it is stored.
    pub(crate) after: After,
}

/// What follows once an intake is stored.
#[derive(Debug, Default)]
pub(crate) struct After {
    /// What has a place in memory and is handed to its service.
    deliveries: Vec<Delivery>,
    /// What an honest machine does not do: word and text of the event.
    odd: BTreeSet<(&'static str, &'static str)>,
    /// What its sender takes for delivered and no service will ever see, with how often.
    lost: BTreeMap<Loss, u64>,
}

/// Why a message is lost.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Loss {
    /// [`DEAD_LETTER`] or [`FAILED`].
    code: &'static str,
    service: String,
    reason: String,
}

/// The word for messages that could not be accepted, among events.
const DEAD_LETTER: &str = "dead_letter";
/// The word for messages that failed as soon as they came.
const FAILED: &str = "message_failed";

/// A message that has a place in its service's queue.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Which of the intake it is.
    index: usize,
    message: Message,
    place: Place,
}

impl Judged {
    fn reject(&mut self, letter: DeadLetter) {
        self.after.lose(DEAD_LETTER, &letter.service, &letter.reason);
        self.rejected.push(letter);
    }
}

impl After {
    fn lose(&mut self, code: &'static str, service: &str, reason: &str) {
        let loss = Loss { code, service: service.to_owned(), reason: reason.to_owned() };
        *self.lost.entry(loss).or_default() += 1;
    }
}

impl Inner {
    /// Judges what an agent sends.
    pub(crate) fn intake(
        &self,
        agent: AgentId,
        from: &ContactFrom,
        messages: Vec<IncomingMessage>,
        now: Timestamp,
    ) -> Judged {
        let mut judged = Judged::default();
        for incoming in messages {
            if !incoming.claimed_agent.is_empty() && incoming.claimed_agent != agent.as_bytes() {
                judged.after.odd.insert(("foreign_source", "a message claims to come from another machine"));
            }
            if let Err(reason) = acceptable(&incoming) {
                if !incoming.destination_agent.is_empty() || incoming.destination_service == system::CLIENT {
                    judged.after.odd.insert(("misaddressed", reason));
                }
                judged.reject(dead_letter(agent, &incoming, reason.to_owned(), now));
                continue;
            }
            let expires = Some(now.plus(self.config.message_life));
            let message = Message { expires, ..message_of(agent, from, incoming, now) };
            if let Err(reason) = message.check_text() {
                judged.reject(dead_letter_of(agent, &message, reason.to_string(), now));
                continue;
            }
            let (effect, place) = self.effect(&message, now);
            if let Effect::Fail(reason) = &effect {
                judged.after.lose(FAILED, &message.destination.service, reason);
            }
            if let Some(place) = place {
                judged.after.deliveries.push(Delivery { index: judged.intake.len(), message: message.clone(), place });
            }
            judged.intake.push(Intake { message, effect });
        }
        counter!("muster_engine_dead_letters_total").increment(judged.rejected.len() as u64);
        judged
    }

    /// Decides what a message does, and takes a place for it when it goes to a service outside.
    fn effect(&self, message: &Message, now: Timestamp) -> (Effect, Option<Place>) {
        match message.destination.service.as_str() {
            system::SERVICE => (self.system_effect(message), None),
            service @ (system::MUSTER | system::ACTIONS) if message.source.service != service => {
                let source = &message.source.service;
                // What a machine says of itself and of its orders is the agent's word, and no other program's there.
                (Effect::Fail(format!("service {service} listens to its own name only, not to {source:?}")), None)
            }
            system::MUSTER => (self.muster_effect(message), None),
            system::ACTIONS => (self.actions_effect(message), None),
            service if self.dispatch.discards(service) => (Effect::Nothing, None),
            service if self.dispatch.knows(service) => {
                let due = self.service_due(now);
                let place = self.dispatch.reserve(message, due);
                // Without a place in memory, whichever server finds one first takes it from the database.
                let due = if place.is_some() { due } else { now };
                (Effect::Deliver { due }, place)
            }
            service => (Effect::Fail(format!("unknown service {service:?}")), None),
        }
    }

    /// When another server may take a message that is delivered from memory here.
    pub(crate) fn service_due(&self, now: Timestamp) -> Timestamp {
        retry::service_due(now, 0, self.outside.random.unit())
    }

    fn system_effect(&self, message: &Message) -> Effect {
        match self.outside.codec.decode(message) {
            Err(reason) => Effect::Fail(reason),
            Ok(SystemMessage::Ack(ids)) => Effect::Acknowledge(ids),
            Ok(SystemMessage::Error { id, reason }) => Effect::Refuse { id, reason: tame(&reason) },
            Ok(SystemMessage::ClientInfo(labels)) => match claimed_labels(labels) {
                Ok(labels) => Effect::ClientLabels(labels),
                Err(reason) => Effect::Fail(reason),
            },
            Ok(SystemMessage::Usage(usage)) => match usage_check(&usage) {
                Ok(()) => Effect::Usage(usage),
                Err(reason) => Effect::Fail(reason.to_owned()),
            },
            Ok(SystemMessage::Kill { service, reason }) => {
                counter!("muster_engine_kills_total").increment(1);
                let agent = message.source.agent.map(tracing::field::display);
                info!(agent.id = agent, service, reason, "an agent ended a daemon");
                Effect::Nothing
            }
        }
    }

    /// Does what follows once an intake is stored: deliveries, and reports of what should not be.
    pub(crate) async fn intake_done(&self, agent: AgentId, from: &ContactFrom, recorded: &Recorded, after: After) {
        let After { deliveries, mut odd, lost } = after;
        for delivery in deliveries {
            if recorded.taken.get(delivery.index) == Some(&Taken::New) {
                let from_blocked = recorded.state.owes_key();
                delivery.place.hand_over(Message { from_blocked, ..delivery.message });
            }
        }
        let count = |which: Taken| recorded.taken.iter().filter(|taken| **taken == which).count() as u64;
        counter!("muster_engine_messages_in_total", "taken" => "new").increment(count(Taken::New));
        counter!("muster_engine_messages_in_total", "taken" => "again").increment(count(Taken::Again));
        let conflicts = count(Taken::Conflict);
        counter!("muster_engine_messages_in_total", "taken" => "conflict").increment(conflicts);
        if conflicts > 0 {
            odd.insert(("message_conflict", "a message came again with other content, the first one stays"));
        }
        if !recorded.foreign.is_empty() {
            odd.insert(("foreign_acknowledgement", "a machine acknowledged messages of another one"));
        }
        for (code, text) in odd {
            self.security_event(code, agent, &from.address, text).await;
        }
        // Of a machine that waits nothing is kept, and nothing is expected to be.
        if recorded.state != AgentState::Waiting {
            self.losses_note(agent, from, lost).await;
        }
    }

    /// Makes news of messages that are lost: their sender was told that they have arrived, so nobody else says it.
    async fn losses_note(&self, agent: AgentId, from: &ContactFrom, lost: BTreeMap<Loss, u64>) {
        for (Loss { code, service, reason }, messages) in lost {
            if let Some(more) = self.gates.loss_line(&service, &reason) {
                warn!(
                    agent.id = %agent, service, code, messages, more,
                    "messages of agent {agent} to service {service:?} are lost: {reason}"
                );
            }
            if self.gates.loss(agent, &reason) && self.gates.event_row(Network::of(&from.address)) {
                let text = format!("messages to service {service:?} are lost: {reason}");
                self.event_keep(Some(agent), &from.address, code, &text).await;
            }
        }
    }

    fn muster_effect(&self, message: &Message) -> Effect {
        if message.message_type != system::FACTS {
            // Answers to operators: nobody else reads them, so the row itself is what they read.
            return Effect::Keep;
        }
        match self.outside.codec.decode_facts(message) {
            Ok(facts) => Effect::Facts(facts),
            Err(reason) => Effect::Fail(reason),
        }
    }
}

/// What can be said of a message before it has a shape.
fn acceptable(incoming: &IncomingMessage) -> Result<(), &'static str> {
    if !incoming.has_destination {
        return Err("the message says not where it goes");
    }
    if !incoming.destination_agent.is_empty() {
        return Err("the message is addressed to a machine, and machines do not write to each other");
    }
    if incoming.destination_service.is_empty() {
        return Err("the message names no service of the server");
    }
    if incoming.destination_service == system::CLIENT {
        return Err("no service of the server is named client");
    }
    if incoming.source_service.is_empty() {
        return Err("the message names no service that it comes from");
    }
    match incoming.source_message_id.len() {
        0 => Err("the message has no id of its sender"),
        1..=limits::SOURCE_MESSAGE_ID_BYTES_MAX => Ok(()),
        _ => Err("the message's id of its sender is longer than 128 bytes"),
    }
}

fn message_of(agent: AgentId, from: &ContactFrom, incoming: IncomingMessage, now: Timestamp) -> Message {
    let id = MessageId::derive(agent, &incoming.source_service, &incoming.source_message_id);
    let source = Address::agent(agent, incoming.source_service);
    Message {
        source_message_id: incoming.source_message_id,
        message_type: incoming.message_type,
        payload: incoming.payload,
        validation: from.validation.clone(),
        priority: incoming.priority,
        background: incoming.background,
        annotations: incoming.annotations,
        ..Message::new(id, source, Address::server(incoming.destination_service), now)
    }
}

fn dead_letter(agent: AgentId, incoming: &IncomingMessage, reason: String, at: Timestamp) -> DeadLetter {
    let head = format!(
        "{} -> {} {} {}\n",
        incoming.source_service,
        incoming.destination_service,
        incoming.message_type,
        hex::encode(&incoming.source_message_id[..incoming.source_message_id.len().min(64)])
    );
    let body = incoming.payload.as_ref().map_or(&[][..], |payload| &payload.value);
    let service = service_shown(&incoming.destination_service);
    DeadLetter { service, ..letter(agent, head.into_bytes(), body, reason, at) }
}

fn dead_letter_of(agent: AgentId, message: &Message, reason: String, at: Timestamp) -> DeadLetter {
    let head = format!("{} -> {} {}\n", message.source.service, message.destination.service, message.message_type);
    let body = message.payload.as_ref().map_or(&[][..], |payload| &payload.value);
    let service = service_shown(&message.destination.service);
    DeadLetter { service, ..letter(agent, head.into_bytes(), body, reason, at) }
}

/// A service's name as it came, made fit to be shown.
fn service_shown(name: &str) -> String {
    text::cut(&name.replace(char::is_control, "\u{FFFD}"), SERVICE_CHARS_SHOWN)
}

fn letter(agent: AgentId, mut head: Vec<u8>, body: &[u8], reason: String, at: Timestamp) -> DeadLetter {
    let sha256 = Sha256::new().chain_update(&head).chain_update(body).finalize().into();
    head.truncate(limits::DEAD_LETTER_BYTES_MAX);
    head.extend_from_slice(&body[..body.len().min(limits::DEAD_LETTER_BYTES_MAX - head.len())]);
    DeadLetter { at, agent, service: String::new(), reason, sha256, head }
}

fn tame(reason: &str) -> String {
    text::cut(&text::without_nul(reason), limits::FAILED_REASON_CHARS_MAX)
}

/// Returns the labels that a machine claims: sorted, each once, without enrolment tokens.
pub(crate) fn claimed_labels(labels: Vec<String>) -> Result<Vec<String>, String> {
    let is_label = |label: &String| !label.starts_with(system::ENROL_TOKEN_PREFIX);
    let labels: BTreeSet<String> = labels.into_iter().filter(is_label).collect();
    if labels.len() > limits::AGENT_LABELS_MAX {
        return Err(format!("a machine claims at most {} labels, not {}", limits::AGENT_LABELS_MAX, labels.len()));
    }
    for label in &labels {
        text::name("label", label).map_err(|error| error.to_string())?;
    }
    Ok(labels.into_iter().collect())
}

fn usage_check(usage: &ResourceUsage) -> Result<(), &'static str> {
    if usage.process_start.is_none() || usage.measured.is_none() {
        return Err("the usage record has no valid times");
    }
    if text::free("scope", &usage.scope, limits::NAME_BYTES_MAX).is_err() {
        return Err("the usage record's scope is not a name");
    }
    let rates = [usage.mean_user_cpu, usage.max_user_cpu, usage.mean_system_cpu, usage.max_system_cpu];
    if rates.iter().any(|rate| !rate.is_finite()) {
        return Err("the usage record holds a rate that is no number");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::Payload;

    fn good() -> IncomingMessage {
        IncomingMessage {
            source_service: "a".into(),
            source_message_id: vec![1],
            has_destination: true,
            destination_service: "b".into(),
            ..IncomingMessage::default()
        }
    }

    #[test]
    fn each_fault_of_a_message_has_its_reason() {
        assert_eq!(acceptable(&good()), Ok(()));
        let long = IncomingMessage { source_message_id: vec![0; 129], ..good() };
        let faults = [
            (IncomingMessage { has_destination: false, ..good() }, "not where"),
            (IncomingMessage { destination_agent: vec![1; 8], ..good() }, "each other"),
            (IncomingMessage { destination_agent: vec![1], ..good() }, "each other"),
            (IncomingMessage { destination_service: String::new(), ..good() }, "no service of the server"),
            (IncomingMessage { destination_service: "client".into(), ..good() }, "client"),
            (IncomingMessage { source_service: String::new(), ..good() }, "comes from"),
            (IncomingMessage { source_message_id: vec![], ..good() }, "no id"),
            (long, "128"),
        ];
        for (message, part) in faults {
            let reason = acceptable(&message).unwrap_err();
            assert!(reason.contains(part), "{reason} holds {part}");
        }
        assert_eq!(acceptable(&IncomingMessage { source_message_id: vec![0; 128], ..good() }), Ok(()));
    }

    #[test]
    fn as_many_annotations_as_fit_into_a_message_are_acceptable() {
        // What GRR puts on a message that carries a hundred of its own, and ten times that.
        for count in [65, 100, 1000] {
            let data_id = |n| ("data_ids".to_owned(), format!("F00000000:{n:08x}:00000000"));
            let message = IncomingMessage { annotations: (0..count).map(data_id).collect(), ..good() };
            assert_eq!(acceptable(&message), Ok(()), "{count}");
            let from = crate::testing::machine(1);
            let message = message_of(AgentId::from_bytes([1; 8]), &from, message, Timestamp::EPOCH);
            assert_eq!(message.check_text(), Ok(()), "{count}");
        }
    }

    #[test]
    fn a_dead_letter_keeps_a_bounded_head_and_tells_bodies_apart() {
        let agent = AgentId::from_bytes([1; 8]);
        let body = |byte, len| {
            let payload = Some(Payload { type_url: "t".into(), value: vec![byte; len] });
            dead_letter(agent, &IncomingMessage { payload, ..good() }, "why".into(), Timestamp::EPOCH)
        };
        assert_eq!(body(1, 5000).head.len(), limits::DEAD_LETTER_BYTES_MAX);
        assert_ne!(body(1, 5000).sha256, body(2, 5000).sha256);
        assert_ne!(body(1, 5000).sha256, body(1, 5001).sha256);
        let endless = IncomingMessage { message_type: "x".repeat(5000), ..good() };
        let letter = dead_letter(agent, &endless, "why".into(), Timestamp::EPOCH);
        assert_eq!(letter.head.len(), limits::DEAD_LETTER_BYTES_MAX);
    }

    #[test]
    fn claimed_labels_are_bounded_and_hold_no_tokens() {
        let claim = |labels: &[&str]| claimed_labels(labels.iter().map(|l| (*l).to_owned()).collect());
        assert_eq!(claim(&["linux", "enrol-token:x", "amd64", "linux"]), Ok(vec!["amd64".into(), "linux".into()]));
        assert!(claim(&["a\0"]).is_err() && claim(&[""]).is_err());
        let many = |count| claimed_labels((0..count).map(|n| n.to_string()).collect());
        assert!(many(limits::AGENT_LABELS_MAX).is_ok() && many(limits::AGENT_LABELS_MAX + 1).is_err());
    }

    #[test]
    fn a_usage_record_needs_times_and_numbers() {
        let now = Some(Timestamp::EPOCH);
        let usage = || ResourceUsage { process_start: now, measured: now, ..ResourceUsage::default() };
        assert_eq!(usage_check(&usage()), Ok(()));
        assert!(usage_check(&ResourceUsage { measured: None, ..usage() }).is_err());
        assert!(usage_check(&ResourceUsage { max_user_cpu: f32::NAN, ..usage() }).is_err());
        assert!(usage_check(&ResourceUsage { scope: "\0".into(), ..usage() }).is_err());
    }
}
