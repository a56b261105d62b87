//! Things as MIG's programs read them: names, types and far-off dates that they insist on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_core::Timestamp;
use muster_core::action::{Counters, Description, FINISH_NONE, InvestigatorId, Operation, START_NONE, Threat, UNSET};
use muster_core::target::FleetRow;
use muster_engine::access::MIG_PERMISSIONS;
use muster_store::actions::ActionRow;
use muster_store::investigators::InvestigatorRow;
use muster_store::searches::{CommandFound, mig_word};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Signers by their ids.
pub(super) type People<'a> = HashMap<InvestigatorId, &'a InvestigatorRow>;

/// Returns the signers by their ids.
pub(super) fn by_id(signers: &[InvestigatorRow]) -> People<'_> {
    signers.iter().map(|row| (row.id, row)).collect()
}

fn moment(at: Option<Timestamp>, none: &str) -> String {
    at.map_or_else(|| none.to_owned(), |at| at.to_string())
}

/// An action with its signers and counts.
#[derive(Serialize)]
pub(super) struct ShownAction<'a> {
    id: i64,
    name: &'a str,
    target: &'a str,
    description: &'a Description,
    threat: &'a Threat,
    validfrom: String,
    expireafter: String,
    operations: &'a [Operation],
    pgpsignatures: &'a [String],
    investigators: Vec<ShownInvestigator<'a>>,
    status: &'static str,
    starttime: String,
    finishtime: String,
    lastupdatetime: String,
    counters: Counters,
    syntaxversion: u16,
}

impl<'a> ShownAction<'a> {
    pub(super) fn of(row: &'a ActionRow, people: &People<'a>) -> Self {
        let action = &row.action;
        Self {
            id: number(row),
            name: &action.name,
            target: &action.target,
            description: &action.description,
            threat: &action.threat,
            validfrom: action.valid_from.to_string(),
            expireafter: action.expire_after.to_string(),
            operations: &action.operations,
            pgpsignatures: &action.pgp_signatures,
            investigators: row.signers.iter().filter_map(|id| people.get(id)).map(|row| person(row)).collect(),
            status: mig_word(row.status),
            starttime: moment(row.started, START_NONE),
            finishtime: moment(row.finished, FINISH_NONE),
            lastupdatetime: row.updated.to_string(),
            counters: row.counters,
            syntaxversion: action.syntax_version,
        }
    }
}

/// Returns the number of an action; the store gives none without.
pub(super) fn number(row: &ActionRow) -> i64 {
    row.action.id.map_or(0, muster_core::action::ActionId::get)
}

/// An investigator.
#[derive(Serialize)]
pub(super) struct ShownInvestigator<'a> {
    id: i64,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pgpfingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    publickey: Option<String>,
    status: &'static str,
    createdat: String,
    lastmodified: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    apikey: Option<&'a str>,
    permissions: Value,
}

/// An investigator among others, without the key.
pub(super) fn person(row: &InvestigatorRow) -> ShownInvestigator<'_> {
    let permissions =
        MIG_PERMISSIONS.iter().map(|(name, bit, _)| ((*name).to_owned(), (row.permissions & bit != 0).into()));
    ShownInvestigator {
        id: row.id.get(),
        name: &row.name,
        pgpfingerprint: row.fingerprint.as_ref().map(ToString::to_string),
        publickey: None,
        status: row.status.as_str(),
        createdat: row.created.to_string(),
        lastmodified: row.modified.to_string(),
        apikey: None,
        permissions: Value::Object(permissions.collect::<Map<_, _>>()),
    }
}

/// An investigator alone: with the public key, and whether there is an API key, or the key itself when it was just made.
pub(super) fn person_alone<'a>(row: &'a InvestigatorRow, key: Option<&'a str>) -> ShownInvestigator<'a> {
    ShownInvestigator {
        publickey: row.public_key.as_ref().map(|key| STANDARD.encode(key)),
        apikey: key.or_else(|| row.has_api_key.then_some("set")),
        ..person(row)
    }
}

/// An agent, or the part of one that comes with a command; what is not told there is empty.
#[derive(Serialize)]
pub(super) struct ShownAgent<'a> {
    id: i64,
    name: &'a str,
    queueloc: &'a str,
    mode: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    loadername: &'a str,
    starttime: String,
    destructiontime: String,
    heartbeatts: String,
    refreshts: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    status: &'a str,
    environment: Value,
    tags: &'a Value,
}

/// Every agent runs as a daemon unless it says otherwise.
fn mode(mode: &str) -> &str {
    if mode.is_empty() { "daemon" } else { mode }
}

/// An environment as MIG writes it: without what is empty, with the address that the machine comes from.
fn environment(stored: &Value, public_ip: Option<&str>) -> Value {
    let mut environment = stored.as_object().cloned().unwrap_or_default();
    environment.retain(|_, value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    });
    environment.entry("isproxied").or_insert(false.into());
    environment.insert("aws".to_owned(), json!({}));
    if let Some(ip) = public_ip {
        environment.insert("publicip".to_owned(), ip.into());
    }
    Value::Object(environment)
}

/// An agent.
pub(super) fn agent(row: &FleetRow) -> ShownAgent<'_> {
    ShownAgent {
        id: row.number,
        name: &row.name,
        queueloc: &row.queueloc,
        mode: mode(&row.mode),
        version: &row.version,
        pid: row.pid,
        loadername: row.loader_name.as_deref().unwrap_or_default(),
        starttime: row.started.to_string(),
        destructiontime: moment(row.destroyed, UNSET),
        heartbeatts: row.last_contact.to_string(),
        refreshts: row.refreshed.to_string(),
        status: &row.status,
        environment: environment(&row.environment, row.public_ip.as_deref()),
        tags: &row.tags,
    }
}

/// A command with its action and its agent.
#[derive(Serialize)]
pub(super) struct ShownCommand<'a> {
    id: i64,
    action: &'a ShownAction<'a>,
    agent: ShownAgent<'a>,
    status: &'static str,
    results: Box<RawValue>,
    starttime: String,
    finishtime: String,
}

impl<'a> ShownCommand<'a> {
    pub(super) fn of(found: &'a CommandFound, action: &'a ShownAction<'a>) -> Self {
        let command = &found.command;
        let unset = || UNSET.to_owned();
        Self {
            id: command.id.get(),
            action,
            agent: ShownAgent {
                id: command.agent_number,
                name: &found.name,
                queueloc: &found.queueloc,
                mode: mode(&found.mode),
                version: &found.version,
                pid: None,
                loadername: "",
                starttime: unset(),
                destructiontime: unset(),
                heartbeatts: unset(),
                refreshts: unset(),
                status: "",
                environment: environment(&found.environment, None),
                tags: &found.tags,
            },
            status: command.status.as_str(),
            results: results(found),
            starttime: command.started.to_string(),
            finishtime: moment(command.finished, FINISH_NONE),
        }
    }
}

/// The results in the text that the machine sent; where they were too long, a result that says so.
fn results(found: &CommandFound) -> Box<RawValue> {
    let text = match (&found.command.results, found.left_out_bytes) {
        (Some(text), _) => text.clone(),
        (None, None) => "[]".to_owned(),
        (None, Some(bytes)) => {
            let error = format!(
                "the results of {bytes} bytes are too long for this answer: ask for this command alone, or for fewer at once"
            );
            json!([{ "foundanything": found.command.found.unwrap_or(false), "success": true, "elements": null,
                "statistics": null, "errors": [error] }])
            .to_string()
        }
    };
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
