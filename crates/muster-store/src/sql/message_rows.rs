//! How a message lies in its table.

use crate::StoreError;
use crate::db::dialect::{Insert, Kind};
use crate::db::value::{Field, Fields, Row, Value};
use crate::messages::{MessageRow, MessageState};
use muster_core::{Address, AgentId, ContactId, Message, MessageResult, Payload, Priority, Timestamp};
use std::collections::BTreeMap;

const TABLE: &str = "messages";

/// The columns of a message, in the order that [`read_message`] reads.
pub(super) const COLUMNS: &str = "message_id, source_agent, source_service, source_message_id, destination_agent, \
     destination_service, message_type, created, type_url, data, validation, priority, background, annotations, \
     from_blocked, expires, processed, failure";

/// The same without the body.
pub(super) const COLUMNS_WITHOUT_DATA: &str = "message_id, source_agent, source_service, source_message_id, \
     destination_agent, destination_service, message_type, created, CAST(NULL AS TEXT), CAST(NULL AS BYTEA), \
     validation, priority, background, annotations, from_blocked, expires, processed, failure";

/// What an operator sees besides, in the order that [`read_row`] reads.
pub(super) const COLUMNS_OF_ROW: &str = ", state, attempts, due, last_error, contact_id, number";

pub(super) static INSERT: Insert = Insert {
    table: TABLE,
    columns: &[
        ("message_id", Kind::Bytes),
        ("state", Kind::Int),
        ("due", Kind::Int),
        ("attempts", Kind::Int),
        ("digest", Kind::Int),
        ("source_agent", Kind::Bytes),
        ("source_service", Kind::Text),
        ("source_message_id", Kind::Bytes),
        ("destination_agent", Kind::Bytes),
        ("destination_service", Kind::Text),
        ("message_type", Kind::Text),
        ("created", Kind::Int),
        ("type_url", Kind::Text),
        ("data", Kind::Bytes),
        ("validation", Kind::Text),
        ("priority", Kind::Int),
        ("background", Kind::Int),
        ("annotations", Kind::Text),
        ("from_blocked", Kind::Int),
        ("expires", Kind::Int),
        ("processed", Kind::Int),
        ("failure", Kind::Text),
        ("contact_id", Kind::Int),
    ],
    skip_known: true,
};

/// A message that is to be stored, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct NewRow<'a> {
    pub(super) message: &'a Message,
    /// When it falls due, if it stays pending.
    pub(super) due: Timestamp,
    /// How often it was handed out already.
    pub(super) attempts: u32,
    /// What became of it; `None` leaves it pending.
    pub(super) result: Option<MessageResult>,
    /// Whether its body is kept although there is a result.
    pub(super) keeps_body: bool,
    /// Whether its sender is blocked.
    pub(super) from_blocked: bool,
}

impl<'a> NewRow<'a> {
    /// A message that waits until `due`, unless it brings a result.
    pub(super) fn waiting(message: &'a Message, due: Timestamp) -> Self {
        Self {
            message,
            due,
            attempts: 0,
            result: message.result.clone(),
            keeps_body: false,
            from_blocked: message.from_blocked,
        }
    }

    fn state(&self) -> MessageState {
        match &self.result {
            None => MessageState::Pending,
            Some(MessageResult { failure: None, .. }) => MessageState::Done,
            Some(_) => MessageState::Failed,
        }
    }

    /// Appends the columns of [`INSERT`].
    pub(super) fn write(&'a self, contact: Option<ContactId>, out: &mut Vec<Value<'a>>) {
        let message = self.message;
        let pending = self.result.is_none();
        let payload = message.payload.as_ref().filter(|_| pending || self.keeps_body);
        out.extend([
            Value::from(&message.id),
            Value::from(self.state() as i32),
            Value::from(pending.then_some(self.due)),
            Value::from(self.attempts),
            Value::from(message.digest()),
            Value::from(message.source.agent.as_ref()),
            Value::from(&message.source.service),
            Value::from(&message.source_message_id),
            Value::from(message.destination.agent.as_ref()),
            Value::from(&message.destination.service),
            Value::from(&message.message_type),
            Value::from(message.created),
            Value::from(payload.map(|payload| &payload.type_url)),
            Value::from(payload.map(|payload| &payload.value)),
            Value::from((!message.validation.is_empty()).then(|| json(&message.validation))),
            Value::from(message.priority as i32),
            Value::from(message.background),
            Value::from((!message.annotations.is_empty()).then(|| json(&message.annotations))),
            Value::from(self.from_blocked),
            Value::from(message.expires),
            Value::from(self.result.as_ref().map(|result| result.processed)),
            Value::from(self.result.as_ref().and_then(|result| result.failure.as_ref())),
            Value::from(contact),
        ]);
    }
}

/// The ids of agents, for `= ANY($n)`.
pub(super) fn agent_list(ids: &[AgentId]) -> Vec<&[u8]> {
    ids.iter().map(|id| &id.as_bytes()[..]).collect()
}

/// Writes a value that has no keys but text as JSON.
pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("text, lists and maps with text keys have a JSON form")
}

/// Reads JSON that this program wrote.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(fields: &Fields, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| fields.unfit(&error.to_string()))
}

/// Reads [`COLUMNS`].
pub(super) fn read_message(fields: &mut Fields) -> Result<Message, StoreError> {
    let id = fields.take()?;
    let source = Address { agent: fields.take()?, service: fields.take()? };
    let source_message_id = fields.take()?;
    let destination = Address { agent: fields.take()?, service: fields.take()? };
    let message_type = fields.take()?;
    let created = fields.take()?;
    let type_url: Option<String> = fields.take()?;
    let data: Option<Vec<u8>> = fields.take()?;
    let validation: Option<String> = fields.take()?;
    let priority = Priority::from_number(fields.take()?);
    let background = fields.take()?;
    let annotations: Option<String> = fields.take()?;
    let from_blocked = fields.take()?;
    let expires = fields.take()?;
    let processed: Option<Timestamp> = fields.take()?;
    let failure = fields.take()?;
    Ok(Message {
        id,
        source,
        source_message_id,
        destination,
        message_type,
        created,
        payload: type_url.zip(data).map(|(type_url, value)| Payload { type_url, value }),
        validation: validation.map_or_else(|| Ok(BTreeMap::new()), |text| from_json(fields, &text))?,
        result: processed.map(|processed| MessageResult { processed, failure }),
        priority,
        background,
        annotations: annotations.map_or_else(|| Ok(Vec::new()), |text| from_json(fields, &text))?,
        from_blocked,
        expires,
    })
}

/// Reads [`COLUMNS`] and [`COLUMNS_OF_ROW`].
pub(super) fn read_row(row: Row) -> Result<MessageRow, StoreError> {
    let mut fields = row.fields(TABLE);
    Ok(MessageRow {
        message: read_message(&mut fields)?,
        state: fields.take()?,
        attempts: fields.take()?,
        due: fields.take()?,
        last_error: fields.take()?,
        contact: fields.take()?,
        number: fields.take()?,
    })
}

impl Field for MessageState {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        match i64::read(value)? {
            0 => Some(Self::Pending),
            1 => Some(Self::Done),
            2 => Some(Self::Failed),
            3 => Some(Self::Parked),
            _ => None,
        }
    }
}
