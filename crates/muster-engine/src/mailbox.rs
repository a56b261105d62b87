//! Mailbox: messages that operators and services of the server write.
//!
//! Stays true: a message is stored before anybody is told of it; the same message again is accepted again, another one
//! of the same id is not.

use crate::engine::{Chain, Inner, LOCAL, OperatorError};
use crate::registry::wake;
use metrics::counter;
use muster_core::system;
use muster_core::{AgentId, Cause, Message, MessageId, MessageResult, limits, text};
use muster_store::StoreError;
use muster_store::agents::Taken;
use muster_store::messages::Put;
use tracing::warn;

impl Inner {
    pub(crate) async fn message_insert(&self, message: Message) -> Result<MessageId, OperatorError> {
        let message = self.insertable(message)?;
        let id = message.id;
        match message.destination.agent {
            Some(agent) => self.insert_for_agent(agent, message).await?,
            None => self.insert_for_service(message).await?,
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

    async fn insert_for_agent(&self, agent: AgentId, message: Message) -> Result<(), OperatorError> {
        // Due a little before now, because the server that hands it out may have a clock that is a little behind.
        let put = self.put(message, self.now().minus(limits::CLOCK_SKEW)).await?;
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

    async fn insert_for_service(&self, message: Message) -> Result<(), OperatorError> {
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
            self.put(Message { result, ..message }, now).await?;
            return Ok(());
        }
        let due = self.service_due(now);
        let place = self.dispatch.reserve(&message, due);
        let due = if place.is_some() { due } else { now };
        let copy = place.is_some().then(|| message.clone());
        let put = self.put(message, due).await?;
        if let (Some(place), Some(message), Taken::New) = (place, copy, put.taken) {
            place.hand_over(message);
        }
        Ok(())
    }

    async fn put(&self, message: Message, server_due: muster_core::Timestamp) -> Result<Put, OperatorError> {
        let id = message.id;
        let puts = self.store.message_put(vec![message], None, server_due).await;
        let puts = puts.map_err(|failure| self.operator_error("store a message", failure))?;
        let put = puts.into_iter().next().expect("the store answers for each message that was put");
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
