//! How an action lies in its table.

use super::message_rows::{from_json, json};
use crate::StoreError;
use crate::actions::{ActionRow, Spread};
use crate::db::Tx;
use crate::db::value::{Field, Row, Value, params};
use muster_core::Timestamp;
use muster_core::action::{Action, ActionId, ActionStatus, CommandStatus, Counters, InvestigatorId};
use std::collections::HashMap;
use std::time::Duration;

pub(super) const TABLE: &str = "action_rows";

const COLUMNS: &str = "number, signed, name, target, description, threat, operations, syntax_version, valid_from, \
     expire_after, status, reason, created, started, finished, updated, standing, hosts_max, rings, halt_percent, \
     halted, matched, sent, success, cancelled, expired, failed, timeout, late";
const SIGNATURES: &str = "SELECT actionid, investigatorid, pgpsignature FROM signatures WHERE actionid = ANY($1) \
     ORDER BY actionid, created, investigatorid";

/// Numbers of states, as the views of the schema read them.
pub(super) fn status_number(status: ActionStatus) -> i64 {
    match status {
        ActionStatus::Waiting => 0,
        ActionStatus::Pending => 1,
        ActionStatus::Scheduled => 2,
        ActionStatus::Preparing => 3,
        ActionStatus::Inflight => 4,
        ActionStatus::Completed => 5,
        ActionStatus::Invalid => 6,
        ActionStatus::Cancelled => 7,
    }
}

impl Field for ActionStatus {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        let number = i64::read(value)?;
        Self::ALL.iter().copied().find(|status| status_number(*status) == number)
    }
}

/// The state of a command that waits to be handed out. It is [`CommandStatus::Sent`] in MIG's words, as is the next.
pub(super) const READY: i64 = 0;
/// The state of a command that its agent was handed.
pub(super) const HANDED_OUT: i64 = 1;

/// The number of an end.
pub(super) fn end_number(status: CommandStatus) -> i64 {
    match status {
        CommandStatus::Sent => HANDED_OUT,
        CommandStatus::Success => 2,
        CommandStatus::Failed => 3,
        CommandStatus::Timeout => 4,
        CommandStatus::Expired => 5,
        CommandStatus::Cancelled => 6,
    }
}

impl Field for CommandStatus {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        let number = i64::read(value)?;
        if number == READY {
            return Some(Self::Sent);
        }
        Self::ALL.iter().copied().find(|status| end_number(*status) == number)
    }
}

/// How the rings of a [`Spread`] are written.
pub(super) fn rings_text(spread: &Spread) -> String {
    json(&spread.rings)
}

/// The author's parts of an action, as they are stored.
pub(super) struct Parts {
    pub(super) description: String,
    pub(super) threat: String,
    pub(super) operations: String,
}

impl Parts {
    pub(super) fn of(action: &Action) -> Self {
        Self {
            description: json(&action.description),
            threat: json(&action.threat),
            operations: json(&action.operations),
        }
    }
}

/// Returns the actions that `of` picks, with their signatures.
pub(super) async fn select(tx: &mut Tx, of: String, values: &[Value<'_>]) -> Result<Vec<ActionRow>, StoreError> {
    let rows = tx.query(format!("SELECT {COLUMNS} FROM action_rows {of}"), values).await?;
    signed(tx, rows).await
}

/// The same, with a text that is made of data's shape and may take `limit`.
pub(super) async fn select_once(
    tx: &mut Tx,
    of: &str,
    values: &[Value<'_>],
    limit: Duration,
) -> Result<Vec<ActionRow>, StoreError> {
    let rows = tx.query_once(&format!("SELECT {COLUMNS} FROM action_rows {of}"), values, limit).await?;
    signed(tx, rows).await
}

async fn signed(tx: &mut Tx, rows: Vec<Row>) -> Result<Vec<ActionRow>, StoreError> {
    let mut actions = rows.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let numbers: Vec<i64> = actions.iter().filter_map(|row| Some(row.action.id?.get())).collect();
    if numbers.is_empty() {
        return Ok(actions);
    }
    let mut signed: HashMap<ActionId, Vec<(InvestigatorId, String)>> = HashMap::new();
    for row in tx.query(SIGNATURES, params![numbers]).await? {
        let mut fields = row.fields("signatures");
        let action = fields.take()?;
        signed.entry(action).or_default().push((fields.take()?, fields.take()?));
    }
    for row in &mut actions {
        let of = row.action.id.and_then(|id| signed.remove(&id)).unwrap_or_default();
        (row.signers, row.action.pgp_signatures) = of.into_iter().unzip();
    }
    Ok(actions)
}

fn read(row: Row) -> Result<ActionRow, StoreError> {
    let mut fields = row.fields(TABLE);
    let id: ActionId = fields.take()?;
    let signed = fields.take()?;
    let (name, target): (String, String) = (fields.take()?, fields.take()?);
    let [description, threat, operations]: [String; 3] = [fields.take()?, fields.take()?, fields.take()?];
    let syntax_version: u32 = fields.take()?;
    let (valid_from, expire_after): (Timestamp, Timestamp) = (fields.take()?, fields.take()?);
    let parts = format!(
        "{{\"description\":{description},\"threat\":{threat},\"operations\":{operations},\"syntaxversion\":0}}"
    );
    let parts = Action::parse(parts.as_bytes()).map_err(|error| fields.unfit(&error.to_string()))?;
    let action = Action {
        id: Some(id),
        name,
        target,
        valid_from,
        expire_after,
        syntax_version: u16::try_from(syntax_version).map_err(|_| fields.unfit("a syntax version"))?,
        ..parts
    };
    let status = fields.take()?;
    let reason = fields.take()?;
    let (created, started, finished, updated) = (fields.take()?, fields.take()?, fields.take()?, fields.take()?);
    let (standing, hosts_max, rings) = (fields.take()?, fields.take()?, fields.take::<String>()?);
    let rings = from_json(&fields, &rings)?;
    let halt_percent: u32 = fields.take()?;
    let halt_percent = u8::try_from(halt_percent).map_err(|_| fields.unfit("a share in per cent"))?;
    let (halted, matched): (Option<Timestamp>, u64) = (fields.take()?, fields.take()?);
    let counters = Counters {
        sent: fields.take()?,
        success: fields.take()?,
        cancelled: fields.take()?,
        expired: fields.take()?,
        failed: fields.take()?,
        timeout: fields.take()?,
        ..Counters::default()
    };
    let done = counters.success + counters.cancelled + counters.expired + counters.failed + counters.timeout;
    Ok(ActionRow {
        action,
        signed,
        signers: Vec::new(),
        status,
        reason,
        created,
        started,
        finished,
        updated,
        spread: Spread { standing, hosts_max, rings, halt_percent },
        halted,
        matched,
        counters: Counters { done, inflight: counters.sent.saturating_sub(done), ..counters },
        late: fields.take()?,
    })
}
