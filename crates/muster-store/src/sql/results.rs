//! Results: the first one of a command ends it and counts, later ones are kept as such.

use super::action_rows::end_number;
use super::commands::{Room, proof};
use crate::StoreError;
use crate::actions::{LATE_RESULTS_MAX, LatePage, LateResult, ResultPut, ResultTaken};
use crate::db::Tx;
use crate::db::dialect::{Insert, Kind};
use crate::db::value::{Value, params};
use muster_core::action::{ActionId, CommandStatus};
use muster_core::{AgentId, Timestamp, limits};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};

const NUMBERS: &str = "SELECT agent_id, number FROM machines WHERE agent_id = ANY($1)";
/// The number of the machine that each went on from, of those that went on under a new key.
const PREDECESSORS: &str = "SELECT m.agent_id, p.number FROM machines m JOIN machines p ON p.agent_id = m.predecessor \
     WHERE m.agent_id = ANY($1)";
/// A command that reached the machine under its new key, though it was given to the old one: it is the new one's.
const MOVE: &str = "UPDATE command_rows SET agent = $3 WHERE action = $1 AND agent = $2 AND state = 1 AND NOT EXISTS \
     (SELECT 1 FROM command_rows own WHERE own.action = $1 AND own.agent = $3)";
const END: &str = "UPDATE command_rows SET state = $3, at = $4 WHERE action = $1 AND agent = ANY($2) AND state < 2 \
     RETURNING agent";
const KNOWN: &str = "SELECT agent FROM command_rows WHERE action = $1 AND agent = ANY($2)";
const STORED: &str = "SELECT agent, late, digest FROM result_rows WHERE action = $1 AND agent = ANY($2)";
const COUNT: &str = "UPDATE action_rows SET success = success + $2, failed = failed + $3, timeout = timeout + $4, \
     cancelled = cancelled + $5, expired = expired + $6, late = late + $7, updated = $8 WHERE number = $1";
const COMPLETE: &str = "UPDATE action_rows SET status = 5, finished = $2, updated = $2 WHERE number = $1 \
     AND status = 4 AND expanded = 1 AND sent = success + failed + timeout + expired + cancelled";
const DELETE_JOB: &str = "DELETE FROM action_jobs WHERE action = $1";
const LATE: &str = "SELECT machines.agent_id, result_rows.status, result_rows.received, result_rows.number, \
     octet_length(result_rows.results), result_rows.signature, machines.public_key FROM result_rows JOIN machines ON machines.number = result_rows.agent \
     WHERE result_rows.action = $1 AND late = 1 AND result_rows.number < $3 ORDER BY result_rows.number DESC \
     LIMIT $2";

static INSERT: Insert = Insert {
    table: "result_rows",
    columns: &[
        ("action", Kind::Int),
        ("agent", Kind::Int),
        ("late", Kind::Int),
        ("status", Kind::Int),
        ("found", Kind::Int),
        ("received", Kind::Int),
        ("digest", Kind::Int),
        ("results", Kind::Text),
        ("signature", Kind::Bytes),
    ],
    skip_known: false,
};

/// A result whose agent's number is known.
#[derive(Clone, Copy)]
struct Incoming<'a> {
    index: usize,
    agent: i64,
    put: &'a ResultPut,
    digest: i64,
}

/// What results add to the counts of one action.
#[derive(Default)]
pub(super) struct Counts {
    success: i64,
    failed: i64,
    timeout: i64,
    cancelled: i64,
    expired: i64,
    late: i64,
}

impl Counts {
    pub(super) fn add(&mut self, status: CommandStatus) {
        match status {
            CommandStatus::Success => self.success += 1,
            CommandStatus::Timeout => self.timeout += 1,
            CommandStatus::Cancelled => self.cancelled += 1,
            CommandStatus::Expired => self.expired += 1,
            _ => self.failed += 1,
        }
    }
}

pub(super) async fn put(tx: &mut Tx, puts: &[&ResultPut], now: Timestamp) -> Result<Vec<ResultTaken>, StoreError> {
    for put in puts {
        if put.status == CommandStatus::Sent {
            return Err(StoreError::Invalid(format!("a result cannot say {}", put.status)));
        }
    }
    let numbers = numbers(tx, puts).await?;
    let mut taken = vec![ResultTaken::Unknown; puts.len()];
    let mut waiting: Vec<Incoming<'_>> = Vec::with_capacity(puts.len());
    for (index, put) in puts.iter().enumerate() {
        if let Some(agent) = numbers.get(&put.agent) {
            waiting.push(Incoming { index, agent: *agent, put, digest: digest(put) });
        }
    }
    commands_move(tx, &waiting).await?;
    let mut counts: BTreeMap<ActionId, Counts> = BTreeMap::new();
    // Of results of one command that come together, each is taken after the one before.
    while !waiting.is_empty() {
        let mut seen = HashSet::with_capacity(waiting.len());
        let (round, rest): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|incoming| seen.insert((incoming.put.action, incoming.agent)));
        take(tx, &round, now, &mut taken, &mut counts).await?;
        waiting = rest;
    }
    // In one order, so that two batches do not wait for each other.
    for (action, counts) in counts {
        count(tx, action, &counts, now).await?;
    }
    Ok(taken)
}

async fn numbers(tx: &mut Tx, puts: &[&ResultPut]) -> Result<HashMap<AgentId, i64>, StoreError> {
    let agents: HashSet<AgentId> = puts.iter().map(|put| put.agent).collect();
    let ids: Vec<&[u8]> = agents.iter().map(|agent| &agent.as_bytes()[..]).collect();
    let mut numbers = HashMap::with_capacity(ids.len());
    for row in tx.query(NUMBERS, params![ids]).await? {
        let mut fields = row.fields("machines");
        numbers.insert(fields.take()?, fields.take()?);
    }
    Ok(numbers)
}

/// Moves commands to the machines that answer them, where these were handed them under a newer key than they were for.
async fn commands_move(tx: &mut Tx, incoming: &[Incoming<'_>]) -> Result<(), StoreError> {
    let ids: Vec<&[u8]> = incoming.iter().map(|incoming| &incoming.put.agent.as_bytes()[..]).collect();
    let mut predecessors: HashMap<AgentId, i64> = HashMap::new();
    for row in tx.query(PREDECESSORS, params![ids]).await? {
        let mut fields = row.fields("machines");
        predecessors.insert(fields.take()?, fields.take()?);
    }
    for incoming in incoming {
        if let Some(old) = predecessors.get(&incoming.put.agent) {
            tx.execute(MOVE, params![incoming.put.action, *old, incoming.agent]).await?;
        }
    }
    Ok(())
}

fn digest(put: &ResultPut) -> i64 {
    let mut hash = Sha256::new();
    hash.update([u8::from(put.found)]);
    hash.update(put.status.as_str());
    hash.update([0]);
    hash.update(&put.results);
    i64::from_le_bytes(hash.finalize()[..8].try_into().expect("a SHA-256 has 32 bytes"))
}

/// Takes results of as many commands as there are results.
async fn take(
    tx: &mut Tx,
    round: &[Incoming<'_>],
    now: Timestamp,
    taken: &mut [ResultTaken],
    counts: &mut BTreeMap<ActionId, Counts>,
) -> Result<(), StoreError> {
    let mut alike: BTreeMap<(ActionId, CommandStatus), Vec<Incoming<'_>>> = BTreeMap::new();
    for incoming in round {
        alike.entry((incoming.put.action, incoming.put.status)).or_default().push(*incoming);
    }
    let mut rows: Vec<Value<'_>> = Vec::with_capacity(round.len() * INSERT.columns.len());
    for ((action, status), incoming) in alike {
        let mut agents: Vec<i64> = incoming.iter().map(|incoming| incoming.agent).collect();
        agents.sort_unstable();
        let ended = tx.query(END, params![action, agents, end_number(status), now]).await?;
        let ended: HashSet<i64> = ended.into_iter().map(|row| row.only("command_rows")).collect::<Result<_, _>>()?;
        let (first, others): (Vec<_>, Vec<_>) =
            incoming.into_iter().partition(|incoming| ended.contains(&incoming.agent));
        for incoming in first {
            taken[incoming.index] = ResultTaken::First;
            counts.entry(action).or_default().add(status);
            push(&mut rows, incoming, false, now);
        }
        for (incoming, answer) in judge(tx, action, others).await? {
            taken[incoming.index] = answer;
            if answer == ResultTaken::Late {
                counts.entry(action).or_default().late += 1;
                push(&mut rows, incoming, true, now);
            }
        }
    }
    tx.insert_many(&INSERT, &rows).await.map(drop)
}

fn push<'a>(rows: &mut Vec<Value<'a>>, incoming: Incoming<'a>, late: bool, now: Timestamp) {
    rows.extend([
        Value::from(incoming.put.action),
        Value::from(incoming.agent),
        Value::from(late),
        Value::from(end_number(incoming.put.status)),
        Value::from(incoming.put.found),
        Value::from(now),
        Value::from(incoming.digest),
        Value::from(&incoming.put.results),
        Value::from(&incoming.put.signature),
    ]);
}

/// Says of results of commands that were not open what they are. A late one for which there is no room is passed over
/// as one that came again.
async fn judge<'a>(
    tx: &mut Tx,
    action: ActionId,
    incoming: Vec<Incoming<'a>>,
) -> Result<Vec<(Incoming<'a>, ResultTaken)>, StoreError> {
    if incoming.is_empty() {
        return Ok(Vec::new());
    }
    let agents: Vec<i64> = incoming.iter().map(|incoming| incoming.agent).collect();
    let rows = tx.query(KNOWN, params![action, agents.clone()]).await?;
    let known: HashSet<i64> = rows.into_iter().map(|row| row.only("command_rows")).collect::<Result<_, _>>()?;
    let mut stored: HashMap<i64, Vec<(i64, i64)>> = HashMap::new();
    for row in tx.query(STORED, params![action, agents]).await? {
        let mut fields = row.fields("result_rows");
        let agent = fields.take()?;
        stored.entry(agent).or_default().push((fields.take()?, fields.take()?));
    }
    let answer = |incoming: &Incoming<'_>| {
        let before = stored.get(&incoming.agent).map_or(&[][..], Vec::as_slice);
        let late = before.iter().filter(|(late, _)| *late == 1).count();
        if !known.contains(&incoming.agent) {
            ResultTaken::Unknown
        } else if before.iter().any(|(_, digest)| *digest == incoming.digest) || late >= LATE_RESULTS_MAX as usize {
            ResultTaken::Again
        } else {
            ResultTaken::Late
        }
    };
    Ok(incoming.into_iter().map(|incoming| (incoming, answer(&incoming))).collect())
}

pub(super) async fn count(tx: &mut Tx, action: ActionId, counts: &Counts, now: Timestamp) -> Result<(), StoreError> {
    let Counts { success, failed, timeout, cancelled, expired, late } = *counts;
    tx.execute(COUNT, params![action, success, failed, timeout, cancelled, expired, late, now]).await?;
    complete(tx, action, now).await.map(drop)
}

/// Completes an action whose last command is done. `true`: it is complete now.
pub(super) async fn complete(tx: &mut Tx, action: ActionId, now: Timestamp) -> Result<bool, StoreError> {
    if tx.execute(COMPLETE, params![action, now]).await? == 0 {
        return Ok(false);
    }
    tx.execute(DELETE_JOB, params![action]).await?;
    Ok(true)
}

pub(super) async fn late(
    tx: &mut Tx,
    (action, before, limit): &(ActionId, Option<i64>, u32),
) -> Result<LatePage, StoreError> {
    let mut room = Room::new(limits::PAGE_RESULT_BYTES_MAX);
    let mut late = Vec::new();
    let mut is_full = false;
    for row in tx.query(LATE, params![*action, *limit, before.unwrap_or(i64::MAX)]).await? {
        let mut fields = row.fields("result_rows");
        let (agent, status, received) = (fields.take()?, fields.take()?, fields.take()?);
        let (number, bytes) = (fields.take()?, fields.take()?);
        let proof = proof(&mut fields)?;
        is_full = !room.takes(number, bytes);
        if is_full {
            break;
        }
        late.push(LateResult { number, agent, status, received, results: String::new(), proof });
    }
    let mut texts = room.texts(tx).await?;
    for one in &mut late {
        one.results = texts.remove(&one.number).unwrap_or_default();
    }
    Ok(LatePage { late, is_full })
}
