//! The moves of messages that several methods make: storing, setting results, claiming.

use super::message_rows::{COLUMNS, INSERT, NewRow, read_message};
use crate::StoreError;
use crate::agents::{Claim, Taken};
use crate::db::Tx;
use crate::db::value::{Value, params};
use muster_core::{AgentId, ContactId, Message, MessageId, MessageResult, Timestamp, system};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

const SELECT_DIGESTS: &str = "SELECT message_id, digest FROM messages WHERE message_id = ANY($1)";
const SET_DONE: &str = "UPDATE messages SET state = 1, due = NULL, type_url = NULL, data = NULL, processed = $2, \
     failure = NULL WHERE message_id = ANY($1)";
const SET_FAILED: &str = "UPDATE messages SET state = 2, due = NULL, type_url = NULL, data = NULL, processed = $2, \
     failure = $3 WHERE message_id = ANY($1) AND state = 0";
const CLAIM: &str = "UPDATE messages SET attempts = attempts + 1, due = $2, contact_id = COALESCE($3, contact_id) \
     WHERE number = ANY($1)";
const CLAIM_LAST: &str = "UPDATE messages SET attempts = attempts + 1, state = 1, due = NULL, type_url = NULL, \
     data = NULL, processed = $2, contact_id = COALESCE($3, contact_id) WHERE number = ANY($1)";
const ANY_DUE: &str = "SELECT number FROM messages WHERE destination_agent = $1 AND state = 0 AND due < $2 LIMIT 1";

/// Stores rows by id and says how each was taken. A known row is left as it is.
pub(super) async fn store(
    tx: &mut Tx,
    rows: &[NewRow<'_>],
    contact: Option<ContactId>,
) -> Result<Vec<Taken>, StoreError> {
    let mut values = Vec::with_capacity(rows.len() * INSERT.columns.len());
    for row in rows {
        row.write(contact, &mut values);
    }
    let new = tx.insert_many(&INSERT, &values).await?;
    drop(values);
    if new.iter().all(|new| *new) {
        return Ok(vec![Taken::New; rows.len()]);
    }
    let known: Vec<&[u8]> =
        rows.iter().zip(&new).filter(|(_, new)| !**new).map(|(row, _)| &row.message.id.as_bytes()[..]).collect();
    let mut digests = HashMap::with_capacity(known.len());
    for row in tx.query(SELECT_DIGESTS, params![known]).await? {
        let mut fields = row.fields("messages");
        digests.insert(fields.take::<MessageId>()?, fields.take::<i64>()?);
    }
    let judge = |(row, new): (&NewRow<'_>, bool)| match digests.get(&row.message.id) {
        _ if new => Taken::New,
        Some(digest) if *digest == row.message.digest() => Taken::Again,
        _ => Taken::Conflict,
    };
    Ok(rows.iter().zip(new).map(judge).collect())
}

/// Sets results: a success replaces anything, a failure only "none". Unknown ids are passed over.
pub(super) async fn set_results<'a>(
    tx: &mut Tx,
    results: impl Iterator<Item = (&'a MessageId, &'a MessageResult)> + Send,
) -> Result<(), StoreError> {
    let mut alike: BTreeMap<(Timestamp, Option<&str>), Vec<&[u8]>> = BTreeMap::new();
    // Failures come first where they are equal in time, so that a success in the same call stays.
    for (id, result) in results {
        alike.entry((result.processed, result.failure.as_deref())).or_default().push(id.as_bytes());
    }
    let (done, failed): (Vec<_>, Vec<_>) = alike.into_iter().partition(|((_, failure), _)| failure.is_none());
    for ((processed, failure), ids) in failed {
        tx.execute(SET_FAILED, params![ids, processed, failure]).await?;
    }
    for ((processed, _), ids) in done {
        tx.execute(SET_DONE, params![ids, processed]).await?;
    }
    Ok(())
}

/// A message that is due, with what orders it.
struct Picked {
    number: i64,
    due: Timestamp,
    message: Message,
}

/// Picks what is due for an agent, oldest first: of all services, of one, or its death alone.
static DUE: LazyLock<String> = LazyLock::new(|| due_statement(""));
static DUE_OF_SERVICE: LazyLock<String> = LazyLock::new(|| due_statement("AND destination_service = $4"));
/// In the words of the index that holds nothing else, so that a machine whose tokens are used up costs no walk through
/// all that waits for it.
static DUE_LAST: LazyLock<String> =
    LazyLock::new(|| due_statement("AND destination_service = 'system' AND message_type = 'Die'"));

fn due_statement(of: &'static str) -> String {
    format!(
        "SELECT {COLUMNS}, number, due FROM messages WHERE destination_agent = $1 AND state = 0 AND due < $2 \
         AND (expires IS NULL OR expires > $2) {of} ORDER BY due, number LIMIT $3 FOR UPDATE SKIP LOCKED"
    )
}

async fn pick(
    tx: &mut Tx,
    statement: &'static LazyLock<String>,
    params: &[Value<'_>],
    into: &mut Vec<Picked>,
) -> Result<(), StoreError> {
    for row in tx.query(statement.as_str(), params).await? {
        let mut fields = row.fields("messages");
        let message = read_message(&mut fields)?;
        into.push(Picked { message, number: fields.take()?, due: fields.take()? });
    }
    Ok(())
}

/// Takes up to `claim.limit` messages that are due for `agent`, whose state the caller has judged.
pub(super) async fn claim_due(
    tx: &mut Tx,
    agent: AgentId,
    claim: &Claim,
    contact: Option<ContactId>,
    now: Timestamp,
) -> Result<Vec<Message>, StoreError> {
    if claim.limit == 0 {
        return Ok(Vec::new());
    }
    let mut picked = Vec::new();
    match &claim.per_service {
        None => pick(tx, &DUE, params![&agent, now, claim.limit], &mut picked).await?,
        Some(shares) => {
            if tx.query_opt(ANY_DUE, params![&agent, now]).await?.is_none() {
                return Ok(Vec::new());
            }
            for (service, share) in shares {
                let limit = claim.limit.min(u32::try_from(*share).unwrap_or(u32::MAX));
                if limit > 0 {
                    pick(tx, &DUE_OF_SERVICE, params![&agent, now, limit, service], &mut picked).await?;
                }
            }
            pick(tx, &DUE_LAST, params![&agent, now, claim.limit], &mut picked).await?;
        }
    }
    picked.sort_by_key(|due| (due.due, due.number));
    picked.dedup_by_key(|due| due.number);
    picked.truncate(claim.limit as usize);
    hide(tx, &picked, claim, contact, now).await?;
    Ok(picked.into_iter().map(|due| due.message).collect())
}

async fn hide(
    tx: &mut Tx,
    picked: &[Picked],
    claim: &Claim,
    contact: Option<ContactId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let is_last =
        |due: &&Picked| due.message.destination.service == system::SERVICE && due.message.message_type == system::DIE;
    let (last, others): (Vec<&Picked>, Vec<&Picked>) = picked.iter().partition(is_last);
    let numbers = |dues: Vec<&Picked>| dues.iter().map(|due| due.number).collect::<Vec<_>>();
    if !last.is_empty() {
        tx.execute(CLAIM_LAST, params![numbers(last), now, contact]).await?;
    }
    if !others.is_empty() {
        tx.execute(CLAIM, params![numbers(others), now.plus(claim.lease), contact]).await?;
    }
    Ok(())
}

/// Returns where the streams of the agents that messages are addressed to are held. Not found: one of them is not known,
/// or was deleted. They stay as they are until this transaction ends.
pub(super) async fn addressees(
    tx: &mut Tx,
    messages: impl Iterator<Item = &Message> + Send,
) -> Result<HashMap<AgentId, String>, StoreError> {
    const SELECT: &str =
        "SELECT agent_id, streaming_to FROM machines WHERE agent_id = ANY($1) AND state <> 3 FOR KEY SHARE";
    let wanted: HashSet<AgentId> = messages.filter_map(|message| message.destination.agent).collect();
    let mut found = HashMap::with_capacity(wanted.len());
    if wanted.is_empty() {
        return Ok(found);
    }
    // In one order, so that two puts do not wait for each other.
    let mut ids: Vec<&[u8]> = wanted.iter().map(|agent| &agent.as_bytes()[..]).collect();
    ids.sort_unstable();
    for row in tx.query(SELECT, params![ids]).await? {
        let mut fields = row.fields("machines");
        found.insert(fields.take()?, fields.take()?);
    }
    match wanted.iter().find(|agent| !found.contains_key(agent)) {
        Some(missing) => Err(StoreError::NotFound { what: "agent", id: missing.to_string() }),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_for_the_last_message_uses_the_words_of_the_wire() {
        assert!(DUE_LAST.contains(&format!("'{}' AND message_type = '{}'", system::SERVICE, system::DIE)));
    }
}
