//! What stands in the mirror's files, and in which directory each belongs.

use super::desk::{Card, action_name};
use super::tree::Place;
use muster_core::Timestamp;
use muster_core::action::{ActionId, ActionStatus, CommandId, CommandStatus, Counters, Json};
use muster_store::actions::{ActionRow, CommandRow};
use serde::Serialize;
use std::ffi::OsString;

/// What MIG writes for a time that is not set.
const UNSET: &str = "0001-01-01T00:00:00Z";

/// Returns the directory of an action's file.
pub(super) fn action_place(status: ActionStatus) -> Place {
    match status {
        ActionStatus::Waiting | ActionStatus::Pending | ActionStatus::Scheduled | ActionStatus::Preparing => Place::New,
        ActionStatus::Inflight => Place::Inflight,
        ActionStatus::Completed | ActionStatus::Cancelled => Place::Done,
        ActionStatus::Invalid => Place::Invalid,
    }
}

/// Returns the directory of a command's file.
pub(super) fn command_place(command: &CommandRow, action: ActionStatus) -> Place {
    match command.status {
        CommandStatus::Sent if command.is_handed_out => Place::CommandInflight,
        CommandStatus::Sent => Place::CommandReady,
        CommandStatus::Expired | CommandStatus::Cancelled => Place::CommandDone,
        _ if action.is_final() => Place::CommandDone,
        _ => Place::CommandReturned,
    }
}

/// Returns the name of a command's file.
pub(super) fn command_name(action: ActionId, command: CommandId) -> OsString {
    format!("{action}-{command}.json").into()
}

/// An action as it was sent, with how it stands. It reads as an action again.
#[derive(Serialize)]
struct ActionFile<'a> {
    id: i64,
    name: &'a str,
    target: &'a str,
    description: &'a muster_core::action::Description,
    threat: &'a muster_core::action::Threat,
    validfrom: String,
    expireafter: String,
    operations: &'a [muster_core::action::Operation],
    pgpsignatures: &'a [String],
    status: ActionStatus,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    starttime: String,
    finishtime: String,
    lastupdatetime: String,
    counters: Counters,
    syntaxversion: u16,
}

fn moment(at: Option<Timestamp>) -> String {
    at.map_or_else(|| UNSET.to_owned(), |at| at.to_string())
}

fn lines(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("texts and numbers can always be written as JSON");
    text.push(b'\n');
    text
}

/// Makes an action's file.
pub(super) fn action_card(id: ActionId, row: &ActionRow) -> Card {
    let action = &row.action;
    let file = ActionFile {
        id: id.get(),
        name: &action.name,
        target: &action.target,
        description: &action.description,
        threat: &action.threat,
        validfrom: action.valid_from.to_string(),
        expireafter: action.expire_after.to_string(),
        operations: &action.operations,
        pgpsignatures: &action.pgp_signatures,
        status: row.status,
        reason: &row.reason,
        starttime: moment(row.started),
        finishtime: moment(row.finished),
        lastupdatetime: row.updated.to_string(),
        counters: row.counters,
        syntaxversion: action.syntax_version,
    };
    let place = action_place(row.status);
    let reason = (place == Place::Invalid).then(|| row.reason.clone());
    Card { place, name: action_name(id), content: lines(&file), reason }
}

/// One machine's copy of an action. What is ordered stands in the action's file.
#[derive(Serialize)]
struct CommandFile<'a> {
    id: i64,
    action: CommandAction<'a>,
    agent: CommandAgent<'a>,
    status: CommandStatus,
    results: Json,
    starttime: String,
    finishtime: String,
}

#[derive(Serialize)]
struct CommandAction<'a> {
    id: i64,
    name: &'a str,
}

#[derive(Serialize)]
struct CommandAgent<'a> {
    id: i64,
    name: &'a str,
    /// Its identity, which MIG does not have.
    agent: String,
}

/// Makes a command's file.
pub(super) fn command_card(command: &CommandRow, action_name: &str, place: Place) -> Card {
    let results = command.results.clone().and_then(|text| Json::parse(text).ok());
    let file = CommandFile {
        id: command.id.get(),
        action: CommandAction { id: command.action.get(), name: action_name },
        agent: CommandAgent { id: command.agent_number, name: &command.host_name, agent: command.agent.to_string() },
        status: command.status,
        results: results.unwrap_or_else(Json::null),
        starttime: command.started.to_string(),
        finishtime: moment(command.finished),
    };
    let name = command_name(command.action, command.id);
    Card { place, name, content: lines(&file), reason: None }
}
