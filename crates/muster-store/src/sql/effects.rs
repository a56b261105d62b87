//! What messages from an agent do, in the transaction that stores them.

use super::endpoints;
use super::mailbox::{set_results, store};
use super::message_rows::NewRow;
use super::{results, sessions, trust};
use crate::StoreError;
use crate::actions::ResultPut;
use crate::agents::{DeadLetter, Effect, Intake, Taken};
use crate::db::Tx;
use crate::db::dialect::{Insert, Kind};
use crate::db::value::{Value, params};
use muster_core::{
    AgentId, AgentState, ContactId, Facts, MessageId, MessageResult, ResourceUsage, Timestamp, handover, label, limits,
};

const SET_ACKNOWLEDGED: &str = "UPDATE messages SET state = 1, due = NULL, type_url = NULL, data = NULL, \
     processed = $3, failure = NULL WHERE message_id = ANY($1) AND destination_agent = $2 AND state <> 1";
const SET_REFUSED: &str = "UPDATE messages SET state = 2, due = NULL, type_url = NULL, data = NULL, \
     processed = $3, failure = $4 WHERE message_id = $1 AND destination_agent = $2 AND state = 0";
const SELECT_FOREIGN: &str = "SELECT message_id FROM messages WHERE message_id = ANY($1) \
     AND destination_agent IS DISTINCT FROM $2 ORDER BY message_id";
const SELECT_CLIENT_LABELS: &str = "SELECT label FROM agent_labels WHERE agent_id = $1 AND service = $2";
const DELETE_CLIENT_LABELS: &str = "DELETE FROM agent_labels WHERE agent_id = $1 AND service = $2 AND label = ANY($3)";
const PREDECESSOR: &str = "SELECT predecessor FROM machines WHERE agent_id = $1";
const DELETE_FACTS: &str = "DELETE FROM agent_facts WHERE agent_id = $1";
const SET_FACTS: &str = "UPDATE machines SET host_name = $2, machine_id = $4, facts_at = $3 WHERE agent_id = $1";
/// Whether this key came after the machine id was blocked under another one (state 2), and no person has looked at it yet.
/// Of deleted machines (state 3) only those that were blocked until then have a machine id.
const BLOCKED_BEFORE: &str = "SELECT other.id_text, other.host_name, other.state FROM machines m JOIN machines other \
     ON other.machine_id = m.machine_id AND other.agent_id <> m.agent_id WHERE m.agent_id = $1 AND m.machine_id <> '' \
     AND m.state_at IS NULL AND other.state IN (2, 3) AND m.created >= other.state_at \
     ORDER BY other.id_text LIMIT 1";
const SET_WAITING: &str = "UPDATE machines SET state = 1, state_note = $2 WHERE agent_id = $1 AND state IN (0, 1)";

/// The fact that lists of machines show and search.
const HOST_NAME: &str = "hostname";
/// Letters of a machine id that are kept.
const MACHINE_ID_CHARS_MAX: usize = 128;

pub(super) static LABELS: Insert = Insert {
    table: "agent_labels",
    columns: &[("agent_id", Kind::Bytes), ("service", Kind::Text), ("label", Kind::Text)],
    skip_known: true,
};
static FACTS: Insert = Insert {
    table: "agent_facts",
    columns: &[("agent_id", Kind::Bytes), ("name", Kind::Text), ("value", Kind::Text)],
    skip_known: false,
};
static DEAD_LETTERS: Insert = Insert {
    table: "dead_letters",
    columns: &[
        ("at", Kind::Int),
        ("agent_id", Kind::Bytes),
        ("service", Kind::Text),
        ("reason", Kind::Text),
        ("sha256", Kind::Bytes),
        ("head", Kind::Bytes),
    ],
    skip_known: false,
};

/// Whose messages they are, and where they came from.
pub(super) struct Sender {
    pub(super) agent: AgentId,
    pub(super) state: AgentState,
    pub(super) contact: ContactId,
    pub(super) at: Timestamp,
}

/// Stores what a contact brings, does what is new of it, and returns how each was taken and which ids of other agents
/// were named.
pub(super) async fn take_in(
    tx: &mut Tx,
    sender: &Sender,
    intake: &[Intake],
) -> Result<(Vec<Taken>, Vec<MessageId>), StoreError> {
    let rows: Vec<NewRow<'_>> = intake.iter().map(|intake| new_row(sender, intake)).collect();
    let taken = store(tx, &rows, Some(sender.contact)).await?;
    let pairs = || intake.iter().zip(&taken);
    let again = pairs().filter(|(_, taken)| **taken == Taken::Again);
    let results: Vec<_> =
        again.filter_map(|(intake, _)| Some((&intake.message.id, intake.message.result.as_ref()?))).collect();
    set_results(tx, results.into_iter()).await?;
    let new = || pairs().filter(|(_, taken)| **taken == Taken::New).map(|(intake, _)| &intake.effect);
    let foreign = answers(tx, sender, &new().collect::<Vec<_>>()).await?;
    if sender.state == AgentState::Enrolled {
        for effect in new().collect::<Vec<_>>() {
            match effect {
                Effect::ClientLabels(labels) => set_client_labels(tx, sender.agent, labels, sender.at).await?,
                Effect::Usage(usage) if usage_fault(usage).is_none() => {
                    put_usage(tx, sender.agent, usage, sender.at).await?;
                }
                Effect::Facts(facts) => set_facts(tx, sender.agent, facts, sender.at).await?,
                Effect::Trust(told) => trust::put(tx, sender.agent, told, sender.at).await?,
                _ => {}
            }
        }
        let ended: Vec<&ResultPut> =
            new().filter_map(|effect| if let Effect::Result(put) = effect { Some(&**put) } else { None }).collect();
        let ended = own_results(tx, sender.agent, ended).await?;
        if !ended.is_empty() {
            results::put(tx, &ended.iter().collect::<Vec<_>>(), sender.at).await?;
        }
    }
    Ok((taken, foreign))
}

/// Returns results as those of the sender, or of the machine that it was before it got its new key: an order is answered
/// under the key that it reached. Whoever claims to be another machine is itself.
async fn own_results(tx: &mut Tx, sender: AgentId, ended: Vec<&ResultPut>) -> Result<Vec<ResultPut>, StoreError> {
    let predecessor: Option<AgentId> = if ended.iter().all(|put| put.agent == sender) {
        None
    } else {
        tx.query_opt(PREDECESSOR, params![&sender]).await?.map(|row| row.only("machines")).transpose()?.flatten()
    };
    let own = |put: &ResultPut| {
        let is_own = Some(put.agent) == predecessor;
        ResultPut { agent: if is_own { put.agent } else { sender }, ..put.clone() }
    };
    Ok(ended.into_iter().map(own).collect())
}

fn new_row<'a>(sender: &Sender, intake: &'a Intake) -> NewRow<'a> {
    let message = &intake.message;
    let (due, done) = match &intake.effect {
        Effect::Deliver { due } => (*due, None),
        Effect::Fail(reason) => (sender.at, Some(MessageResult::failed(sender.at, reason))),
        Effect::Usage(usage) => {
            let fault = usage_fault(usage).map(|fault| MessageResult::failed(sender.at, fault));
            (sender.at, Some(fault.unwrap_or_else(|| MessageResult::done(sender.at))))
        }
        _ => (sender.at, Some(MessageResult::done(sender.at))),
    };
    NewRow {
        message,
        due,
        attempts: 0,
        result: message.result.clone().or(done),
        keeps_body: intake.effect == Effect::Keep,
        from_blocked: message.from_blocked || sender.state.owes_key(),
    }
}

/// Does the acknowledgements and refusals, and returns the ids among them that belong to others.
async fn answers(tx: &mut Tx, sender: &Sender, effects: &[&Effect]) -> Result<Vec<MessageId>, StoreError> {
    let mut acknowledged: Vec<&[u8]> = Vec::new();
    let mut refused: Vec<&[u8]> = Vec::new();
    let mut reached = 0;
    for effect in effects {
        match effect {
            Effect::Acknowledge(ids) => acknowledged.extend(ids.iter().map(|id| &id.as_bytes()[..])),
            Effect::Refuse { id, reason } => {
                let result = MessageResult::failed(sender.at, reason);
                let refusal = params![id, &sender.agent, sender.at, result.failure.as_ref()];
                reached += tx.execute(SET_REFUSED, refusal).await?;
                refused.push(id.as_bytes());
            }
            _ => {}
        }
    }
    if !acknowledged.is_empty() {
        let all = params![acknowledged.clone(), &sender.agent, sender.at];
        reached += tx.execute(SET_ACKNOWLEDGED, all).await?;
    }
    let named = acknowledged.len() + refused.len();
    if usize::try_from(reached).is_ok_and(|reached| reached >= named) {
        return Ok(Vec::new());
    }
    acknowledged.append(&mut refused);
    let rows = tx.query(SELECT_FOREIGN, params![acknowledged, &sender.agent]).await?;
    rows.into_iter().map(|row| row.only("messages")).collect()
}

async fn set_client_labels(tx: &mut Tx, agent: AgentId, labels: &[String], now: Timestamp) -> Result<(), StoreError> {
    let rows = tx.query(SELECT_CLIENT_LABELS, params![&agent, label::CLIENT]).await?;
    let have: Vec<String> = rows.into_iter().map(|row| row.only("agent_labels")).collect::<Result<_, _>>()?;
    let gone: Vec<&str> = have.iter().filter(|label| !labels.contains(label)).map(String::as_str).collect();
    if !gone.is_empty() {
        tx.execute(DELETE_CLIENT_LABELS, params![&agent, label::CLIENT, gone]).await?;
    }
    let mut rows: Vec<Value<'_>> = Vec::new();
    for label in labels.iter().filter(|label| !have.contains(label)) {
        rows.extend([Value::from(&agent), Value::from(label::CLIENT), Value::from(label)]);
    }
    tx.insert_many(&LABELS, &rows).await?;
    endpoints::tagged(tx, agent, labels.iter().map(String::as_str), now).await
}

pub(super) async fn set_facts(tx: &mut Tx, agent: AgentId, facts: &Facts, now: Timestamp) -> Result<(), StoreError> {
    tx.execute(DELETE_FACTS, params![&agent]).await?;
    let mut rows: Vec<Value<'_>> = Vec::new();
    for (name, value) in facts {
        rows.extend([Value::from(&agent), Value::from(name), Value::from(value.to_string())]);
    }
    tx.insert_many(&FACTS, &rows).await?;
    // In lower case, because the two databases do not agree on what that is.
    let host_name = facts.get(HOST_NAME).and_then(serde_json::Value::as_str).unwrap_or_default().to_lowercase();
    let host_name = muster_core::text::without_nul(host_name.trim_end_matches('.'));
    let machine_id = facts.get(handover::MACHINE_ID).and_then(serde_json::Value::as_str).unwrap_or_default();
    // Longer than any that is one, and it is looked for.
    let machine_id = muster_core::text::cut(&muster_core::text::without_nul(machine_id), MACHINE_ID_CHARS_MAX);
    tx.execute(SET_FACTS, params![&agent, host_name, now, machine_id]).await?;
    endpoints::observed(tx, agent, facts, now).await?;
    hold_if_blocked(tx, agent).await?;
    sessions::facts_note(tx, agent, facts, now).await
}

/// Has a new key wait whose machine was blocked under another one.
async fn hold_if_blocked(tx: &mut Tx, agent: AgentId) -> Result<(), StoreError> {
    let Some(row) = tx.query_opt(BLOCKED_BEFORE, params![&agent]).await? else { return Ok(()) };
    let mut fields = row.fields("machines");
    let (id, host, state): (String, String, AgentState) = (fields.take()?, fields.take()?, fields.take()?);
    let host = if host.is_empty() { host } else { format!(" ({host})") };
    let why = if state == AgentState::Deleted { "was blocked and then deleted" } else { "is blocked" };
    let note = format!("it has the machine id of agent {id}{host}, which {why}");
    tx.execute(SET_WAITING, params![&agent, note]).await.map(drop)
}

/// Says what is wrong with a usage record.
pub(super) fn usage_fault(usage: &ResourceUsage) -> Option<&'static str> {
    let rates = [usage.mean_user_cpu, usage.max_user_cpu, usage.mean_system_cpu, usage.max_system_cpu];
    if usage.process_start.is_none() || usage.measured.is_none() {
        return Some("a usage record needs the start of its process and the moment it was measured");
    }
    (!rates.iter().all(|rate| rate.is_finite())).then_some("a usage record's rates must be finite numbers")
}

/// Keeps a usage record that has no fault.
pub(super) async fn put_usage(
    tx: &mut Tx,
    agent: AgentId,
    usage: &ResourceUsage,
    now: Timestamp,
) -> Result<(), StoreError> {
    const INSERT: &str = "INSERT INTO usage_records (agent_id, scope, pid, process_start, measured, received, \
         mean_user_cpu, max_user_cpu, mean_system_cpu, max_system_cpu, mean_memory_mib, max_memory_mib, mean_fds, \
         max_fds, terminated) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
    let row = params![
        &agent,
        &usage.scope,
        usage.pid,
        usage.process_start,
        usage.measured,
        now,
        usage.mean_user_cpu,
        usage.max_user_cpu,
        usage.mean_system_cpu,
        usage.max_system_cpu,
        usage.mean_memory_mib,
        usage.max_memory_mib,
        usage.mean_fds,
        usage.max_fds,
        usage.terminated,
    ];
    tx.execute(INSERT, row).await?;
    sessions::usage_note(tx, agent, usage, now).await
}

/// Keeps traces of messages that could not be accepted; the oldest go.
pub(super) async fn put_dead_letters(tx: &mut Tx, letters: &[DeadLetter]) -> Result<(), StoreError> {
    const TRIM: &str = "DELETE FROM dead_letters WHERE number <= (SELECT max(number) FROM dead_letters) - $1";
    if letters.is_empty() {
        return Ok(());
    }
    let mut rows: Vec<Value<'_>> = Vec::new();
    for letter in letters {
        let head = &letter.head[..letter.head.len().min(limits::DEAD_LETTER_BYTES_MAX)];
        let reason = muster_core::text::without_nul(&letter.reason);
        let service = muster_core::text::without_nul(&letter.service);
        rows.extend([
            Value::from(letter.at),
            Value::from(&letter.agent),
            Value::from(service),
            Value::from(reason),
            Value::from(&letter.sha256),
            Value::from(head),
        ]);
    }
    tx.insert_many(&DEAD_LETTERS, &rows).await?;
    let kept = i64::try_from(limits::DEAD_LETTERS_MAX).unwrap_or(i64::MAX);
    tx.execute(TRIM, params![kept]).await.map(drop)
}
