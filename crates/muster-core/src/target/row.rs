//! The row of one machine, as the server knows it and as the machine knows itself.

use super::{Column, Document, Endpoint};
use crate::{AgentId, Timestamp};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What stands in a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    /// Nothing.
    Null,
    /// Text.
    Text(Cow<'a, str>),
    /// A number.
    Number(f64),
    /// A moment.
    Time(Timestamp),
    /// Something that only the server knows.
    Unseen,
}

/// What targets look at.
pub trait Row {
    /// Returns what stands in a column.
    fn cell(&self, column: Column) -> Cell<'_>;
    /// Returns a document.
    fn document(&self, document: Document) -> &Value;
    /// Whether an operation of `action` said of this machine that it found something (or that it did not, for `found`
    /// false). `None`: only the server knows.
    fn found(&self, action: u64, found: bool) -> Option<bool>;
}

/// A machine as it knows itself.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnRow {
    /// The hash of its key.
    pub id: AgentId,
    /// What it made of its facts.
    pub endpoint: Endpoint,
    /// What [`super::tags`] makes of the labels it claims.
    pub tags: Value,
}

impl Row for OwnRow {
    fn cell(&self, column: Column) -> Cell<'_> {
        let text = |text| Cell::Text(Cow::Borrowed(text));
        match column {
            Column::AgentId => Cell::Text(Cow::Owned(self.id.to_string())),
            Column::Name => text(&*self.endpoint.name),
            Column::QueueLoc => text(&self.endpoint.queueloc),
            Column::Mode => text(&self.endpoint.mode),
            Column::Version => text(&self.endpoint.version),
            Column::Pid => self.endpoint.pid.map_or(Cell::Null, number),
            // The server puts the machine's enrolment in the place of a start that it was not told.
            Column::StartTime => self.endpoint.started.map_or(Cell::Unseen, Cell::Time),
            Column::LoaderName => Cell::Null,
            _ => Cell::Unseen,
        }
    }

    fn document(&self, document: Document) -> &Value {
        match document {
            Document::Environment => &self.endpoint.environment,
            Document::Tags => &self.tags,
        }
    }

    fn found(&self, _action: u64, _found: bool) -> Option<bool> {
        None
    }
}

/// A machine as the server knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetRow {
    /// Its number.
    pub number: i64,
    /// Columns that hold text: agentid, name, queueloc, mode, version, status, loadername and the address of the last contact.
    pub agent_id: String,
    /// See `agent_id`.
    pub name: String,
    /// See `agent_id`.
    pub queueloc: String,
    /// See `agent_id`.
    pub mode: String,
    /// See `agent_id`.
    pub version: String,
    /// See `agent_id`.
    pub status: String,
    /// See `agent_id`.
    pub loader_name: Option<String>,
    /// See `agent_id`.
    pub public_ip: Option<String>,
    /// The agent's process.
    pub pid: Option<i64>,
    /// When that process started, else when the machine was first seen.
    pub started: Timestamp,
    /// When it was told to remove itself.
    pub destroyed: Option<Timestamp>,
    /// Its last contact.
    pub last_contact: Timestamp,
    /// When environment or tags last changed.
    pub refreshed: Timestamp,
    /// Its environment.
    pub environment: Value,
    /// Its tags.
    pub tags: Value,
    /// What the actions that a target names found here. An action that is not in it found nothing and denied nothing.
    pub found: BTreeMap<(u64, bool), bool>,
}

impl Row for FleetRow {
    fn cell(&self, column: Column) -> Cell<'_> {
        let text = |text| Cell::Text(Cow::Borrowed(text));
        match column {
            Column::Id => number(self.number),
            Column::AgentId => text(&*self.agent_id),
            Column::Name => text(&*self.name),
            Column::QueueLoc => text(&self.queueloc),
            Column::Mode => text(&self.mode),
            Column::Version => text(&self.version),
            Column::Status => text(&self.status),
            Column::LoaderName => self.loader_name.as_deref().map_or(Cell::Null, text),
            Column::PublicIp => self.public_ip.as_deref().map_or(Cell::Null, text),
            Column::Pid => self.pid.map_or(Cell::Null, number),
            Column::StartTime => Cell::Time(self.started),
            Column::DestructionTime => Cell::Time(self.destroyed.unwrap_or(Timestamp::MAX)),
            Column::HeartbeatTime => Cell::Time(self.last_contact),
            Column::RefreshTime => Cell::Time(self.refreshed),
        }
    }

    fn document(&self, document: Document) -> &Value {
        match document {
            Document::Environment => &self.environment,
            Document::Tags => &self.tags,
        }
    }

    fn found(&self, action: u64, found: bool) -> Option<bool> {
        Some(self.found.get(&(action, found)).copied().unwrap_or(false))
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of machines and processes stay far below 2^53")]
fn number(number: i64) -> Cell<'static> {
    Cell::Number(number as f64)
}
