//! Mailbox: messages that operators and services of the server write.
//!
//! Stays true: a message is stored before anybody is told of it; the same message again is accepted again, another one
//! of the same id is not.

use crate::access::{AccessDenied, Caller, Permission};
use crate::engine::{Chain, Engine, Inner, LOCAL, OperatorError};
use crate::registry::wake;
use metrics::counter;
use muster_core::system;
use muster_core::{AgentId, Cause, Message, MessageId, MessageResult, Timestamp, limits, text};
use muster_store::StoreError;
use muster_store::agents::Taken;
use muster_store::cluster::JournalRow;
use muster_store::messages::Put;
use serde_json::json;
use tracing::warn;

/// Whose message it is, which decides whether the journal has a line about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageOrigin {
    /// A person's: the journal has a line for each.
    Person,
    /// The traffic of a program that uses this server as its transport: only commands to the agent program itself (end,
    /// restart a service, make a new key) stand in the journal.
    Program,
}

/// A line of the journal in the making: what was done, and details as JSON. What it is about is added by what does it.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) cause: &'a Cause,
    pub(crate) action: &'static str,
    pub(crate) subject: String,
    pub(crate) details: serde_json::Value,
}

impl Line<'_> {
    pub(crate) fn row(self, at: Timestamp) -> JournalRow {
        let Self { cause, action, subject, details } = self;
        let (action, details) = (action.to_owned(), details.to_string());
        JournalRow { number: 0, at, cause: cause.clone(), action, subject, details }
    }
}

impl Engine {
    /// Accepts a message from an operator or a service: checks it, stores it, wakes the agent's stream or hands it to
    /// its service at once. A message of the same id and content again is accepted again.
    ///
    /// # Errors
    ///
    /// When the caller may not send messages, the message is not one that a server may send, its agent is not known, or
    /// another message has its id.
    pub async fn message_send(
        &self,
        message: Message,
        origin: MessageOrigin,
        caller: &Caller,
    ) -> Result<MessageId, OperatorError> {
        let cause = caller.require(Permission::MessagesSend)?;
        if message.destination.agent.is_some() {
            command_check(&message.destination.service, &message.message_type, caller)?;
        }
        let line = sent_line(&message, origin, cause);
        self.inner.message_insert(message, line).await
    }

    /// Cancels a message that is pending or parked. `false`: it was done with before.
    ///
    /// # Errors
    ///
    /// When the caller may not, or there is no such message. Orders and their cancellations take `actions.cancel` as well,
    /// messages of the system `agents.rekey`: what people signed, or what ends an agent's key, is not kept from machines by
    /// who only clears mailboxes.
    pub async fn message_cancel(&self, id: MessageId, caller: &Caller) -> Result<bool, OperatorError> {
        let cause = caller.require(Permission::MessagesCancel)?;
        let rows = self.inner.store.message_get(&[id], false).await;
        let rows = rows.map_err(|failure| self.inner.operator_error("look up the message", failure))?;
        for row in &rows {
            let service = row.message.destination.service.as_str();
            if let Some((_, needed)) = GUARDED.into_iter().find(|(guarded, _)| *guarded == service) {
                caller.require(needed)?;
            }
        }
        let cancelled = self.inner.store.message_cancel(id, self.now(), cause).await;
        cancelled.map_err(|failure| self.inner.operator_error("cancel the message", failure))
    }

    /// Deletes what waits for these agents. Returns how many messages that were. What the caller could not cancel alone
    /// stands: see [`Engine::message_cancel`].
    ///
    /// # Errors
    ///
    /// When the caller may not.
    pub async fn message_pending_delete(&self, agents: &[AgentId], caller: &Caller) -> Result<u64, OperatorError> {
        let cause = caller.require(Permission::MessagesCancel)?;
        let stands = GUARDED.into_iter().filter(|(_, needed)| !caller.may(*needed));
        let keep: Vec<&str> = stands.map(|(service, _)| service).collect();
        let deleted = self.inner.store.message_pending_delete(agents, &keep, self.now(), cause).await;
        deleted.map_err(|failure| self.inner.operator_error("delete pending messages", failure))
    }
}

/// Checks that a caller may send messages of this kind to this service of agents: what has a command of its own is not
/// reached around it.
pub(crate) fn command_check(service: &str, message_type: &str, caller: &Caller) -> Result<(), AccessDenied> {
    let needs = match (service, message_type) {
        (system::SERVICE, system::REKEY_REQUEST) => Permission::AgentsRekey,
        (system::SERVICE, _) => Permission::AgentsControl,
        (system::ACTIONS, system::TRUST_DOCUMENT) => Permission::TrustWrite,
        (system::ACTIONS, _) => Permission::ActionsLaunch,
        _ => return Ok(()),
    };
    caller.require(needs).map(drop)
}

/// Services whose messages take a further permission to cancel.
const GUARDED: [(&str, Permission); 2] =
    [(system::ACTIONS, Permission::ActionsCancel), (system::SERVICE, Permission::AgentsRekey)];

/// What the journal says about a message that somebody sends.
fn sent_line<'a>(message: &Message, origin: MessageOrigin, cause: &'a Cause) -> Option<Line<'a>> {
    let (id, agent) = (message.id, message.destination.agent);
    let (service, kind) = (&message.destination.service, &message.message_type);
    if let Some(agent) = agent.filter(|_| service == system::SERVICE && origin == MessageOrigin::Program) {
        let details = json!({ "type": kind, "message": id });
        return Some(Line { cause, action: "agent.order", subject: agent.to_string(), details });
    }
    if origin == MessageOrigin::Program {
        return None;
    }
    let agent = agent.map_or_else(String::new, |agent| agent.to_string());
    let details = json!({ "service": service, "type": kind, "agent": agent });
    Some(Line { cause, action: "message.send", subject: id.to_string(), details })
}

impl Inner {
    /// Accepts a message, and writes `line` in the transaction that stores it.
    pub(crate) async fn message_insert(
        &self,
        message: Message,
        line: Option<Line<'_>>,
    ) -> Result<MessageId, OperatorError> {
        let message = self.insertable(message)?;
        let id = message.id;
        match message.destination.agent {
            Some(agent) => self.insert_for_agent(agent, message, line).await?,
            None => self.insert_for_service(message, line).await?,
        }
        Ok(id)
    }

    /// Checks a message, and sets what its writer has no say in.
    fn insertable(&self, message: Message) -> Result<Message, OperatorError> {
        let invalid = |reason: String| Err(OperatorError::Invalid(reason));
        if let Some(agent) = message.source.agent {
            return invalid(format!("a message made on the server must not name the machine {agent} as its source"));
        }
        if let Err(reason) = message.check_text() {
            return invalid(reason.to_string());
        }
        if message.source_message_id.len() > limits::SOURCE_MESSAGE_ID_BYTES_MAX {
            return invalid("source_message_id must be at most 128 bytes".to_owned());
        }
        let (bytes, max) = (message_bytes(&message), limits::MESSAGE_BYTES_MAX);
        if message.destination.agent.is_some() && bytes > max {
            return invalid(format!("message of {bytes} bytes exceeds the {max}-byte limit"));
        }
        let expires = message.expires.unwrap_or_else(|| self.now().plus(self.config.message_life));
        Ok(Message { expires: Some(expires), result: None, from_blocked: false, ..message })
    }

    async fn insert_for_agent(
        &self,
        agent: AgentId,
        message: Message,
        line: Option<Line<'_>>,
    ) -> Result<(), OperatorError> {
        // Due a little before now, because the server that hands it out may have a clock that is a little behind.
        let put = self.put(message, self.now().minus(limits::CLOCK_SKEW), line).await?;
        if put.taken == Taken::New {
            self.agent_wake(agent, put.streaming_to.as_deref());
        }
        Ok(())
    }

    /// Tells whoever holds the stream of an agent that something is due for it.
    pub(crate) fn agent_wake(&self, agent: AgentId, streaming_to: Option<&str>) {
        if self.streams.wake(&[agent], wake::MESSAGES) > 0 {
            counter!("muster_engine_wakeups_total", "way" => "here").increment(1);
        }
        if let Some(url) = streaming_to
            && self.is_other_server(url)
        {
            self.wakeups.add(url, agent);
        }
    }

    /// Whether this is where another server can be woken, as agents' rows say it.
    pub(crate) fn is_other_server(&self, url: &str) -> bool {
        url != self.streaming_to && url != LOCAL && !url.is_empty()
    }

    async fn insert_for_service(&self, message: Message, line: Option<Line<'_>>) -> Result<(), OperatorError> {
        let now = self.now();
        let service = message.destination.service.as_str();
        let result = match service {
            system::SERVICE | system::MUSTER | system::CLIENT | system::ACTIONS => {
                Some(MessageResult::failed(now, &format!("service {service:?} takes messages of agents only")))
            }
            _ if self.dispatch.discards(service) => Some(MessageResult::done(now)),
            _ if self.dispatch.knows(service) => None,
            _ => Some(MessageResult::failed(now, &format!("unknown service {service:?}"))),
        };
        if result.is_some() {
            self.put(Message { result, ..message }, now, line).await?;
            return Ok(());
        }
        let due = self.service_due(now);
        let place = self.dispatch.reserve(&message, due);
        let due = if place.is_some() { due } else { now };
        let copy = place.is_some().then(|| message.clone());
        let put = self.put(message, due, line).await?;
        if let (Some(place), Some(message), Taken::New) = (place, copy, put.taken) {
            place.hand_over(message);
        }
        Ok(())
    }

    async fn put(&self, message: Message, server_due: Timestamp, line: Option<Line<'_>>) -> Result<Put, OperatorError> {
        let id = message.id;
        let put = if let Some(line) = line {
            self.store.message_send(message, server_due, line.row(self.now())).await
        } else {
            let puts = self.store.message_put(vec![message], None, server_due).await;
            puts.map(|puts| puts.into_iter().next().expect("the store answers for each message that was put"))
        };
        let put = put.map_err(|failure| self.operator_error("store a message", failure))?;
        if put.taken == Taken::Conflict {
            return Err(OperatorError::Conflict(format!("message {id} exists already with other content")));
        }
        Ok(put)
    }

    async fn addressee_wake(&self, id: MessageId) -> Result<(), StoreError> {
        let rows = self.store.message_get(&[id], false).await?;
        let Some(agent) = rows.first().and_then(|row| row.message.destination.agent) else {
            return Ok(());
        };
        let known = self.store.agent_get(agent).await?;
        self.agent_wake(agent, known.map(|agent| agent.streaming_to).as_deref());
        Ok(())
    }

    pub(crate) async fn message_unpark(&self, id: MessageId, cause: &Cause) -> Result<bool, OperatorError> {
        let now = self.now();
        let unparked = self.store.message_unpark(id, now.plus(self.config.message_life), now, cause).await;
        let unparked = unparked.map_err(|failure| self.operator_error("send a message again", failure))?;
        if unparked {
            // It is stored: whatever fails from here on, the next sweep finds it.
            if let Err(failure) = self.addressee_wake(id).await {
                self.saw(&failure);
                warn!(error = %Chain(&failure), message.id = %id, "could not wake the addressee of a message");
            }
        }
        Ok(unparked)
    }
}

/// About as many bytes as a message has on the wire: those of its parts, and a few for each.
pub(crate) fn message_bytes(message: &Message) -> usize {
    const PART: usize = 8;
    let payload = message.payload.as_ref().map_or(0, |payload| payload.type_url.len() + payload.value.len() + PART);
    let pairs = message.annotations.iter().map(|(key, value)| key.len() + value.len() + PART).sum::<usize>();
    let ends = message.source.service.len() + message.destination.service.len() + AgentId::BYTES + PART;
    let rest = MessageId::BYTES + message.source_message_id.len() + message.message_type.len() + 4 * PART;
    payload + pairs + ends + rest
}

/// Bytes that a message occupies while it waits in memory.
pub(crate) fn message_weight(message: &Message) -> usize {
    message_bytes(message) + std::mem::size_of::<Message>()
}

/// Cuts a service's reason to what a row keeps.
pub(crate) fn reason(reason: &str) -> String {
    text::cut(&text::without_nul(reason), limits::FAILED_REASON_CHARS_MAX)
}
