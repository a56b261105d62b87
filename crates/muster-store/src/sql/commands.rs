//! Commands: handed to agents that ask what is due, and shown to people.
//!
//! Stays true: what an agent receives is put together when it is handed out, from its action's row; in the same
//! transaction the command is marked, so that there is one message of each command, ever.

use super::action_rows::{HANDED_OUT, READY, end_number};
use super::mailbox::store;
use super::message_rows::NewRow;
use crate::StoreError;
use crate::actions::{CommandFilter, CommandPage, CommandRow, ResultProof};
use crate::agents::{Claim, Taken};
use crate::db::Tx;
use crate::db::value::{Fields, Row, Value, params};
use muster_core::action::{ActionId, CommandId, CommandStatus};
use muster_core::{Address, AgentId, ContactId, Message, MessageId, Payload, Timestamp, limits, system};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// How many bits of a command's id are its machine's number; the others are its action's. The views of the schema
/// multiply by the same.
const AGENT_BITS: u32 = 26;

const DUE: &str = "SELECT command_rows.action, command_rows.agent, type_url, data, action_rows.created, expire_after \
     FROM command_rows JOIN action_rows ON action_rows.number = command_rows.action \
     WHERE command_rows.agent = (SELECT number FROM machines WHERE agent_id = $1) AND command_rows.state < 2 \
     AND command_rows.state = 0 AND expire_after > $2 AND status IN (3, 4) ORDER BY command_rows.action LIMIT $3";
const HAND_OUT: &str = "UPDATE command_rows SET state = 1, at = $3 WHERE agent = $1 AND action = ANY($2) \
     AND state = 0 RETURNING action";
pub(super) const COLUMNS: &str = "command_rows.action, command_rows.agent, machines.agent_id, machines.host_name, command_rows.state, \
     command_rows.created, command_rows.at, result_rows.found";
/// What proves whose a result is.
const PROOF: &str = "result_rows.signature, machines.public_key";
const FROM: &str = "FROM command_rows JOIN machines ON machines.number = command_rows.agent LEFT JOIN result_rows \
     ON result_rows.action = command_rows.action AND result_rows.agent = command_rows.agent AND result_rows.late = 0";

/// The part of a statement on machines that says whether a command waits for one.
pub(super) const WAITING: &str = "EXISTS (SELECT 1 FROM command_rows WHERE command_rows.agent = machines.number \
     AND command_rows.state < 2 AND command_rows.state = 0)";

/// The id of the command of `action` on the machine numbered `agent`.
pub(super) fn command_id(action: ActionId, agent: i64) -> Result<CommandId, StoreError> {
    let id = (action.get() << AGENT_BITS).checked_add(agent).filter(|_| (1..1 << AGENT_BITS).contains(&agent));
    id.and_then(|id| CommandId::new(id).ok()).ok_or_else(|| StoreError::Inconsistent {
        table: "command_rows",
        id: format!("{action}, {agent}: numbers beyond what a command's id can hold"),
    })
}

/// The action and the machine's number of a command; the first is `None` for an id that no command can have.
pub(super) fn parts(id: CommandId) -> (Option<ActionId>, i64) {
    (ActionId::new(id.get() >> AGENT_BITS).ok(), id.get() & ((1 << AGENT_BITS) - 1))
}

/// The id of the message that hands a command out: the same however often it is made.
pub(super) fn order_id(action: ActionId, agent: i64, created: Timestamp) -> MessageId {
    let mut hash = Sha256::new();
    hash.update(b"muster command\n");
    hash.update(action.get().to_be_bytes());
    hash.update(agent.to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut random = [0; 24];
    random.copy_from_slice(&digest[..24]);
    MessageId::ordered(created, random)
}

/// A message about an action to an agent.
pub(super) fn message(kind: &str, id: MessageId, to: AgentId, payload: Payload, now: Timestamp) -> Message {
    let ends = (Address::server(system::ACTIONS), Address::agent(to, system::ACTIONS));
    Message { message_type: kind.to_owned(), payload: Some(payload), ..Message::new(id, ends.0, ends.1, now) }
}

/// Makes messages of the commands that wait for `agent`, due at once, as many as `claim` has room for. The claim of what
/// is due, which follows in the same transaction, finds them.
pub(super) async fn hand_out(
    tx: &mut Tx,
    to: AgentId,
    claim: &Claim,
    contact: Option<ContactId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let room = claim.per_service.as_ref().map_or(u64::MAX, |shares| shares.get(system::ACTIONS).copied().unwrap_or(0));
    let limit = claim.limit.min(u32::try_from(room).unwrap_or(u32::MAX));
    if limit == 0 {
        return Ok(());
    }
    let mut orders: Vec<(ActionId, Message)> = Vec::new();
    let mut number = 0;
    for row in tx.query(DUE, params![&to, now, limit]).await? {
        let mut fields = row.fields("command_rows");
        let action: ActionId = fields.take()?;
        number = fields.take()?;
        let payload = Payload { type_url: fields.take()?, value: fields.take()? };
        let id = order_id(action, number, fields.take()?);
        let order = message(system::ACTION, id, to, payload, now);
        orders.push((action, Message { expires: Some(fields.take()?), ..order }));
    }
    if orders.is_empty() {
        return Ok(());
    }
    let actions: Vec<i64> = orders.iter().map(|(action, _)| action.get()).collect();
    let marked = tx.query(HAND_OUT, params![number, actions, now]).await?;
    let marked: HashSet<ActionId> = marked.into_iter().map(|row| row.only("command_rows")).collect::<Result<_, _>>()?;
    orders.retain(|(action, _)| marked.contains(action));
    let due = now.minus(Duration::from_nanos(1));
    let rows: Vec<NewRow<'_>> = orders.iter().map(|(_, order)| NewRow::waiting(order, due)).collect();
    let taken = store(tx, &rows, contact).await?;
    debug_assert!(taken.iter().all(|taken| *taken == Taken::New), "a command is marked once");
    Ok(())
}

/// Numbers of results, as long as what they hold fits; the first one always does.
pub(super) struct Room {
    left: u64,
    numbers: Vec<i64>,
}

impl Room {
    pub(super) fn new(bytes: u64) -> Self {
        Self { left: bytes, numbers: Vec::new() }
    }

    /// Whether the result `number`, which has `bytes`, is among those that fit.
    pub(super) fn takes(&mut self, number: i64, bytes: u64) -> bool {
        let left = self.left.checked_sub(bytes);
        let fits = left.is_some() || self.numbers.is_empty();
        if fits {
            self.left = left.unwrap_or(0);
            self.numbers.push(number);
        }
        fits
    }

    /// Reads the results.
    pub(super) async fn texts(self, tx: &mut Tx) -> Result<HashMap<i64, String>, StoreError> {
        const RESULTS: &str = "SELECT number, results FROM result_rows WHERE number = ANY($1)";
        let mut texts = HashMap::with_capacity(self.numbers.len());
        if !self.numbers.is_empty() {
            for row in tx.query(RESULTS, params![self.numbers]).await? {
                let mut fields = row.fields("result_rows");
                texts.insert(fields.take()?, fields.take()?);
            }
        }
        Ok(texts)
    }
}

/// Reads [`COLUMNS`].
pub(super) fn read_bare(fields: &mut Fields) -> Result<CommandRow, StoreError> {
    let (action, agent_number): (ActionId, i64) = (fields.take()?, fields.take()?);
    let (agent, host_name) = (fields.take()?, fields.take()?);
    let state: i64 = fields.take()?;
    let status = CommandStatus::ALL.iter().copied().find(|status| end_number(*status) == state);
    let status = if state == READY { Some(CommandStatus::Sent) } else { status };
    let status = status.ok_or_else(|| fields.unfit("a state that there is not"))?;
    let started = fields.take()?;
    let at: Option<Timestamp> = fields.take()?;
    Ok(CommandRow {
        id: command_id(action, agent_number)?,
        action,
        agent,
        agent_number,
        host_name,
        status,
        is_handed_out: state >= HANDED_OUT,
        started,
        finished: at.filter(|_| status.is_final()),
        found: fields.take()?,
        results: None,
        proof: None,
    })
}

/// Reads [`PROOF`].
pub(super) fn proof(fields: &mut Fields) -> Result<Option<ResultProof>, StoreError> {
    let (signature, key): (Option<Vec<u8>>, Vec<u8>) = (fields.take()?, fields.take()?);
    Ok(signature.filter(|signature| !signature.is_empty()).map(|signature| ResultProof { signature, key }))
}

pub(super) async fn get(tx: &mut Tx, id: &CommandId) -> Result<Option<CommandRow>, StoreError> {
    let (Some(action), agent) = parts(*id) else { return Ok(None) };
    let sql = format!(
        "SELECT {COLUMNS}, {PROOF}, result_rows.results {FROM} WHERE command_rows.action = $1 AND command_rows.agent = $2"
    );
    let read = |row: Row| {
        let mut fields = row.fields("command_rows");
        let command = read_bare(&mut fields)?;
        Ok(CommandRow { proof: proof(&mut fields)?, results: fields.take()?, ..command })
    };
    tx.query_opt(sql, params![action, agent]).await?.map(read).transpose()
}

pub(super) struct Page {
    pub(super) filter: CommandFilter,
    pub(super) after: Option<CommandId>,
    pub(super) limit: u32,
    pub(super) want_results: bool,
}

pub(super) async fn page(tx: &mut Tx, page: &Page) -> Result<CommandPage, StoreError> {
    let filter = &page.filter;
    let mut values: Vec<Value<'_>> = Vec::new();
    let mut wheres: Vec<String> = Vec::new();
    let mut place = |value: Value<'static>| {
        values.push(value);
        values.len()
    };
    if filter.action.is_none() && filter.agent.is_none() {
        return Err(StoreError::Invalid("commands are listed of an action or of an agent: name one".to_owned()));
    }
    if let Some(agent) = filter.agent {
        let n = place(Value::from(agent.as_bytes().to_vec()));
        wheres.push(format!("command_rows.agent = (SELECT number FROM machines WHERE agent_id = ${n})"));
    }
    let after = page.after.map(parts);
    let order = if let Some(action) = filter.action {
        let n = place(action.into());
        wheres.push(format!("command_rows.action = ${n}"));
        if let Some((_, agent)) = after {
            let n = place(agent.into());
            wheres.push(format!("command_rows.agent > ${n}"));
        }
        "command_rows.agent"
    } else {
        if let Some((action, _)) = after {
            let n = place(action.map_or(0, ActionId::get).into());
            wheres.push(format!("command_rows.action < ${n}"));
        }
        // Walks the actions and looks for the machine's command of each: there is no index by machine, because it
        // would cost every command and serve few questions.
        wheres.push("command_rows.action IN (SELECT number FROM action_rows)".to_owned());
        "command_rows.action DESC"
    };
    match filter.status {
        Some(CommandStatus::Sent) => wheres.push("command_rows.state < 2".to_owned()),
        Some(status) => {
            let n = place(end_number(status).into());
            wheres.push(format!("command_rows.state = ${n}"));
        }
        None => {}
    }
    if let Some(found) = filter.found {
        let n = place(found.into());
        wheres.push(format!("result_rows.found = ${n}"));
    }
    let limit = place(page.limit.into());
    let results = if page.want_results {
        format!(", {PROOF}, result_rows.number, octet_length(result_rows.results)")
    } else {
        String::new()
    };
    let wheres = wheres.join(" AND ");
    let sql = format!("SELECT {COLUMNS}{results} {FROM} WHERE {wheres} ORDER BY {order} LIMIT ${limit}");
    let rows = tx.query(sql, &values).await?;
    if page.want_results {
        return with_results(tx, rows).await;
    }
    let bare = |row: Row| read_bare(&mut row.fields("command_rows"));
    Ok(CommandPage { commands: rows.into_iter().map(bare).collect::<Result<_, _>>()?, is_full: false })
}

/// Takes as many rows as have room for their results.
async fn with_results(tx: &mut Tx, rows: Vec<Row>) -> Result<CommandPage, StoreError> {
    let mut room = Room::new(limits::PAGE_RESULT_BYTES_MAX);
    let mut taken = Vec::with_capacity(rows.len());
    let mut is_full = false;
    for row in rows {
        let mut fields = row.fields("command_rows");
        let command = read_bare(&mut fields)?;
        let command = CommandRow { proof: proof(&mut fields)?, ..command };
        let (number, bytes): (Option<i64>, Option<u64>) = (fields.take()?, fields.take()?);
        is_full = number.zip(bytes).is_some_and(|(number, bytes)| !room.takes(number, bytes));
        if is_full {
            break;
        }
        taken.push((number, command));
    }
    let mut texts = room.texts(tx).await?;
    let whole = |(number, command): (Option<i64>, CommandRow)| {
        let results = number.and_then(|number| texts.remove(&number));
        CommandRow { results, ..command }
    };
    Ok(CommandPage { commands: taken.into_iter().map(whole).collect(), is_full })
}
