//! The mailbox.

use super::commands::{WAITING, hand_out};
use super::journal;
use super::mailbox::{addressees, claim_due, set_results, store};
use super::message_page::{PageArgs, page};
use super::message_rows::{COLUMNS, COLUMNS_OF_ROW, COLUMNS_WITHOUT_DATA, NewRow, agent_list, read_message, read_row};
use crate::agents::{Claim, Taken};
use crate::cluster::JournalRow;
use crate::db::Tx;
use crate::db::value::{number, params};
use crate::messages::{MessageFilter, MessageRow, MessageStore, Put, ServiceBacklog, TryFailed};
use crate::{SqlStore, StoreError};
use async_trait::async_trait;
use muster_core::{AgentId, Cause, ContactId, Message, MessageId, MessageResult, Timestamp, retry, text};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// The reason that tools of the original look for.
const REMOVED: &str = "Removed by admin action.";
/// The reason of a message that nobody took in time.
const EXPIRED: &str = "Not taken before it expired.";

const LINK: &str = "UPDATE messages SET contact_id = $2 WHERE message_id = ANY($1)";
const TRY_FAILED: &str = "UPDATE messages SET last_error = $2, tried = attempts, due = $4 \
     WHERE message_id = $1 AND state = 0 AND attempts = $3 AND destination_agent IS NULL";
const UNCLAIM: &str = "UPDATE messages SET due = $4 WHERE message_id = ANY($3) AND destination_agent = $1 \
     AND contact_id = $2 AND state = 0 AND attempts > 0 AND due > $4";
const SERVICE_KEEP: &str = "UPDATE messages SET due = $3 WHERE message_id = ANY($1) AND attempts = $2 AND state = 0 \
     AND destination_agent IS NULL RETURNING message_id";
/// A try that ended is the last one: nobody has the message.
const PICK_WAITING: &str = "SELECT number FROM messages WHERE destination_service = $1 AND state = 0 \
     AND destination_agent IS NULL AND due >= $2 AND tried = attempts ORDER BY due, number LIMIT $3 \
     FOR UPDATE SKIP LOCKED";
const SERVICE_WAKE: &str = "UPDATE messages SET due = $2 WHERE number = ANY($1)";
const RELEASE: &str =
    "UPDATE messages SET due = $2 WHERE destination_agent = $1 AND state = 0 AND due > $2 AND attempts > 0";
const PENDING_COUNT: &str = "SELECT count(*) FROM messages WHERE destination_agent = ANY($1) AND state = 0";
const PENDING_DELETE: &str = "UPDATE messages SET state = 2, due = NULL, type_url = NULL, data = NULL, \
     processed = $2, failure = $3 WHERE destination_agent = ANY($1) AND state = 0 \
     AND NOT (destination_service = ANY($4))";
const CANCEL: &str = "UPDATE messages SET state = 2, due = NULL, type_url = NULL, data = NULL, processed = $2, \
     failure = $3 WHERE message_id = $1 AND state IN (0, 3)";
const UNPARK: &str = "UPDATE messages SET state = 0, due = $2, expires = $3, processed = NULL, failure = NULL \
     WHERE message_id = $1 AND state = 3";
const KNOWN: &str = "SELECT number FROM messages WHERE message_id = $1";
const PICK_EXPIRED: &str = "SELECT number FROM messages WHERE state = 0 AND expires IS NOT NULL AND expires <= $1 \
     ORDER BY expires LIMIT $2 FOR UPDATE SKIP LOCKED";
const PARK: &str = "UPDATE messages SET state = 3, due = NULL, processed = $2, failure = $3 WHERE number = ANY($1)";
const CLAIM_OVERDUE: &str = "UPDATE messages SET attempts = attempts + 1, due = $2 WHERE number = ANY($1)";
const ANY_DUE: &str = "EXISTS (SELECT 1 FROM messages WHERE destination_agent = machines.agent_id \
     AND messages.state = 0 AND due < $2)";
const BACKLOG_PENDING: &str = "SELECT destination_service, count(*), min(created) FROM messages \
     WHERE state = 0 AND destination_agent IS NULL GROUP BY destination_service";
const BACKLOG_PARKED: &str = "SELECT destination_service, count(*) FROM messages \
     WHERE state = 3 AND destination_agent IS NULL GROUP BY destination_service";
const BACKLOG_ERROR: &str = "SELECT last_error FROM messages WHERE destination_service = $1 AND state = 0 \
     AND destination_agent IS NULL AND last_error IS NOT NULL ORDER BY due DESC LIMIT 1";

struct PutArgs {
    messages: Vec<Message>,
    contact: Option<ContactId>,
    server_due: Timestamp,
}

struct SendArgs {
    put: PutArgs,
    line: JournalRow,
}

async fn send(tx: &mut Tx, SendArgs { put: args, line }: &SendArgs) -> Result<Put, StoreError> {
    let taken = put(tx, args).await?.into_iter().next().expect("there is an answer for each message that was put");
    if taken.taken == Taken::New {
        journal::write_text(tx, line.at, &line.cause, &line.action, &line.subject, &line.details).await?;
    }
    Ok(taken)
}

async fn put(tx: &mut Tx, args: &PutArgs) -> Result<Vec<Put>, StoreError> {
    let streams = addressees(tx, args.messages.iter()).await?;
    let due = |message: &Message| match message.destination.agent {
        // At once, also for a claim of the same instant.
        Some(_) => message.created.min(args.server_due).minus(Duration::from_nanos(1)),
        None => args.server_due,
    };
    let rows: Vec<_> = args.messages.iter().map(|message| NewRow::waiting(message, due(message))).collect();
    let taken = store(tx, &rows, args.contact).await?;
    if taken.contains(&Taken::Again) {
        let again = || rows.iter().zip(&taken).filter(|(_, taken)| **taken == Taken::Again).map(|(row, _)| row.message);
        set_results(tx, again().filter_map(|message| Some((&message.id, message.result.as_ref()?)))).await?;
        if let Some(contact) = args.contact {
            let ids: Vec<&[u8]> = again().map(|message| &message.id.as_bytes()[..]).collect();
            tx.execute(LINK, params![ids, contact]).await?;
        }
    }
    let stream = |message: &Message| {
        let held = message.destination.agent.and_then(|agent| streams.get(&agent));
        held.filter(|url| !url.is_empty()).cloned()
    };
    let put = |(message, taken): (&Message, Taken)| Put { taken, streaming_to: stream(message) };
    Ok(args.messages.iter().zip(taken).map(put).collect())
}

fn columns(want_data: bool) -> &'static str {
    if want_data { COLUMNS } else { COLUMNS_WITHOUT_DATA }
}

fn id_list<'a>(ids: impl IntoIterator<Item = &'a MessageId>) -> Vec<&'a [u8]> {
    ids.into_iter().map(|id| &id.as_bytes()[..]).collect()
}

async fn get(tx: &mut Tx, (ids, want_data): &(Vec<MessageId>, bool)) -> Result<Vec<MessageRow>, StoreError> {
    let columns = columns(*want_data);
    let sql = format!("SELECT {columns}{COLUMNS_OF_ROW} FROM messages WHERE message_id = ANY($1) ORDER BY message_id");
    tx.query(sql, params![id_list(ids)]).await?.into_iter().map(read_row).collect()
}

struct ClaimArgs {
    agent: AgentId,
    claim: Claim,
    contact: Option<ContactId>,
    now: Timestamp,
}

async fn claim(tx: &mut Tx, args: &ClaimArgs) -> Result<Vec<Message>, StoreError> {
    let enrolled = format!("SELECT {WAITING} FROM machines WHERE agent_id = $1 AND state = 0");
    let Some(row) = tx.query_opt(enrolled, params![&args.agent]).await? else { return Ok(Vec::new()) };
    if row.only("machines")? {
        hand_out(tx, args.agent, &args.claim, args.contact, args.now).await?;
    }
    claim_due(tx, args.agent, &args.claim, args.contact, args.now).await
}

struct OverdueArgs {
    services: Vec<String>,
    limit: u32,
    jitter: f64,
    now: Timestamp,
}

async fn claim_overdue(tx: &mut Tx, args: &OverdueArgs) -> Result<Vec<(Message, u32)>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS}, number, due, attempts FROM messages WHERE destination_service = $1 AND state = 0 AND \
         destination_agent IS NULL AND due < $2 AND (expires IS NULL OR expires > $2) \
         ORDER BY due, number LIMIT $3 FOR UPDATE SKIP LOCKED"
    );
    let mut picked = Vec::new();
    // Each service by itself: what piles up for one that is not asked for is not walked past.
    for service in &args.services {
        for row in tx.query(sql.clone(), params![service, args.now, args.limit]).await? {
            let mut fields = row.fields("messages");
            let message = read_message(&mut fields)?;
            let number: i64 = fields.take()?;
            let due: Timestamp = fields.take()?;
            let attempts: u32 = fields.take()?;
            picked.push(((due, number), message, attempts));
        }
    }
    picked.sort_by_key(|(order, ..)| *order);
    picked.truncate(args.limit as usize);
    let mut alike: BTreeMap<u32, Vec<i64>> = BTreeMap::new();
    for ((_, number), _, attempts) in &picked {
        alike.entry(*attempts).or_default().push(*number);
    }
    for (attempts, numbers) in alike {
        let due = retry::service_due(args.now, attempts, args.jitter);
        tx.execute(CLAIM_OVERDUE, params![numbers, due]).await?;
    }
    Ok(picked.into_iter().map(|(_, message, attempts)| (message, attempts)).collect())
}

async fn try_failed(tx: &mut Tx, failures: &[TryFailed]) -> Result<(), StoreError> {
    for TryFailed { id, attempts, reason, due } in failures {
        tx.execute(TRY_FAILED, params![id, text::without_nul(reason), *attempts, *due]).await?;
    }
    Ok(())
}

struct UnclaimArgs {
    agent: AgentId,
    contact: ContactId,
    ids: Vec<MessageId>,
    due: Timestamp,
}

async fn unclaim(tx: &mut Tx, args: &UnclaimArgs) -> Result<u64, StoreError> {
    tx.execute(UNCLAIM, params![&args.agent, args.contact, id_list(&args.ids), args.due]).await
}

async fn service_keep(
    tx: &mut Tx,
    (held, due): &(Vec<(MessageId, u32)>, Timestamp),
) -> Result<Vec<MessageId>, StoreError> {
    let mut alike: BTreeMap<u32, Vec<&MessageId>> = BTreeMap::new();
    for (id, attempts) in held {
        alike.entry(*attempts).or_default().push(id);
    }
    let mut kept = Vec::new();
    for (attempts, ids) in alike {
        for row in tx.query(SERVICE_KEEP, params![id_list(ids), attempts, *due]).await? {
            kept.push(row.only("messages")?);
        }
    }
    Ok(kept)
}

async fn service_wake(tx: &mut Tx, (service, limit, now): &(String, u32, Timestamp)) -> Result<u64, StoreError> {
    let rows = tx.query(PICK_WAITING, params![service, *now, *limit]).await?;
    let numbers: Vec<i64> = rows.into_iter().map(|row| row.only("messages")).collect::<Result<_, _>>()?;
    if numbers.is_empty() {
        return Ok(0);
    }
    // What is due is due before the moment of a claim.
    tx.execute(SERVICE_WAKE, params![numbers, now.minus(Duration::from_nanos(1))]).await
}

async fn release(tx: &mut Tx, (agent, due): &(AgentId, Timestamp)) -> Result<u64, StoreError> {
    tx.execute(RELEASE, params![agent, *due]).await
}

struct PendingArgs {
    agents: Vec<AgentId>,
    offset: i64,
    limit: i64,
    want_data: bool,
}

async fn pending(tx: &mut Tx, args: &PendingArgs) -> Result<Vec<Message>, StoreError> {
    let columns = columns(args.want_data);
    let sql = format!(
        "SELECT {columns} FROM messages WHERE destination_agent = ANY($1) AND state = 0 \
         ORDER BY message_id LIMIT $2 OFFSET $3"
    );
    let limit = if args.limit == 0 { i64::MAX } else { args.limit };
    let rows = tx.query(sql, params![agent_list(&args.agents), limit, args.offset]).await?;
    rows.into_iter().map(|row| read_message(&mut row.fields("messages"))).collect()
}

async fn pending_count(tx: &mut Tx, agents: &[AgentId]) -> Result<u64, StoreError> {
    tx.query_one(PENDING_COUNT, params![agent_list(agents)]).await?.only("messages")
}

struct OfAgents {
    agents: Vec<AgentId>,
    keep: Vec<String>,
    now: Timestamp,
    cause: Cause,
}

async fn pending_delete(tx: &mut Tx, args: &OfAgents) -> Result<u64, StoreError> {
    let keep: Vec<&str> = args.keep.iter().map(String::as_str).collect();
    let failed = tx.execute(PENDING_DELETE, params![agent_list(&args.agents), args.now, REMOVED, keep]).await?;
    let subject = match args.agents.as_slice() {
        [one] => one.to_string(),
        several => format!("{} agents", several.len()),
    };
    let details = json!({ "agents": args.agents, "messages": failed });
    journal::write(tx, args.now, &args.cause, "message.delete_pending", &subject, &details).await?;
    Ok(failed)
}

struct OfMessage {
    id: MessageId,
    expires: Timestamp,
    now: Timestamp,
    cause: Cause,
}

/// Writes the journal when a row was changed; otherwise tells a row that is not there from one that stays.
async fn changed(tx: &mut Tx, args: &OfMessage, action: &str, rows: u64) -> Result<bool, StoreError> {
    if rows > 0 {
        journal::write(tx, args.now, &args.cause, action, &args.id.to_string(), &json!({})).await?;
        return Ok(true);
    }
    match tx.query_opt(KNOWN, params![&args.id]).await? {
        Some(_) => Ok(false),
        None => Err(StoreError::NotFound { what: "message", id: args.id.to_string() }),
    }
}

async fn cancel(tx: &mut Tx, args: &OfMessage) -> Result<bool, StoreError> {
    let rows = tx.execute(CANCEL, params![&args.id, args.now, REMOVED]).await?;
    changed(tx, args, "message.cancel", rows).await
}

async fn unpark(tx: &mut Tx, args: &OfMessage) -> Result<bool, StoreError> {
    let rows = tx.execute(UNPARK, params![&args.id, args.now, args.expires]).await?;
    changed(tx, args, "message.unpark", rows).await
}

async fn park_expired(tx: &mut Tx, (now, limit): &(Timestamp, u32)) -> Result<u64, StoreError> {
    let rows = tx.query(PICK_EXPIRED, params![*now, *limit]).await?;
    let numbers: Vec<i64> = rows.into_iter().map(|row| row.only("messages")).collect::<Result<_, _>>()?;
    if numbers.is_empty() {
        return Ok(0);
    }
    tx.execute(PARK, params![numbers, *now, EXPIRED]).await
}

async fn agents_due(tx: &mut Tx, (agents, now): &(Vec<AgentId>, Timestamp)) -> Result<Vec<AgentId>, StoreError> {
    let sql = format!(
        "SELECT agent_id FROM machines WHERE agent_id = ANY($1) AND state = 0 AND ({ANY_DUE} OR {WAITING}) \
         ORDER BY agent_id"
    );
    let rows = tx.query(sql, params![agent_list(agents), *now]).await?;
    rows.into_iter().map(|row| row.only("machines")).collect()
}

async fn backlog(tx: &mut Tx, (): &()) -> Result<Vec<ServiceBacklog>, StoreError> {
    let mut services: BTreeMap<String, ServiceBacklog> = BTreeMap::new();
    let empty = |service: String| ServiceBacklog { service, pending: 0, oldest: None, parked: 0, last_error: None };
    for row in tx.query(BACKLOG_PENDING, &[]).await? {
        let mut fields = row.fields("messages");
        let service: String = fields.take()?;
        let entry = services.entry(service.clone()).or_insert_with(|| empty(service));
        entry.pending = fields.take()?;
        entry.oldest = fields.take()?;
    }
    for row in tx.query(BACKLOG_PARKED, &[]).await? {
        let mut fields = row.fields("messages");
        let service: String = fields.take()?;
        services.entry(service.clone()).or_insert_with(|| empty(service)).parked = fields.take()?;
    }
    for (service, entry) in &mut services {
        let row = tx.query_opt(BACKLOG_ERROR, params![service]).await?;
        entry.last_error = row.map(|row| row.only("messages")).transpose()?;
    }
    Ok(services.into_values().collect())
}

#[async_trait]
impl MessageStore for SqlStore {
    async fn message_put(
        &self,
        messages: Vec<Message>,
        contact: Option<ContactId>,
        server_due: Timestamp,
    ) -> Result<Vec<Put>, StoreError> {
        self.write(PutArgs { messages, contact, server_due }, |tx, args| Box::pin(put(tx, args))).await
    }

    async fn message_send(&self, message: Message, server_due: Timestamp, line: JournalRow) -> Result<Put, StoreError> {
        let put = PutArgs { messages: vec![message], contact: None, server_due };
        self.write(SendArgs { put, line }, |tx, args| Box::pin(send(tx, args))).await
    }

    async fn message_get(&self, ids: &[MessageId], want_data: bool) -> Result<Vec<MessageRow>, StoreError> {
        self.read((ids.to_vec(), want_data), |tx, args| Box::pin(get(tx, args))).await
    }

    async fn message_page(
        &self,
        filter: MessageFilter,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<MessageRow>, StoreError> {
        self.read(PageArgs { filter, before, limit }, |tx, args| Box::pin(page(tx, args))).await
    }

    async fn message_result_put(&self, results: Vec<(MessageId, MessageResult)>) -> Result<(), StoreError> {
        self.write(results, |tx, args| Box::pin(set_results(tx, args.iter().map(|(id, result)| (id, result))))).await
    }

    async fn message_claim_due(
        &self,
        agent: AgentId,
        claim: Claim,
        contact: Option<ContactId>,
        now: Timestamp,
    ) -> Result<Vec<Message>, StoreError> {
        self.write(ClaimArgs { agent, claim, contact, now }, |tx, args| Box::pin(self::claim(tx, args))).await
    }

    async fn message_claim_overdue(
        &self,
        services: &[String],
        limit: u32,
        jitter: f64,
        now: Timestamp,
    ) -> Result<Vec<(Message, u32)>, StoreError> {
        let args = OverdueArgs { services: services.to_vec(), limit, jitter, now };
        self.write(args, |tx, args| Box::pin(claim_overdue(tx, args))).await
    }

    async fn message_try_failed(&self, failures: Vec<TryFailed>) -> Result<(), StoreError> {
        self.write(failures, |tx, args| Box::pin(try_failed(tx, args))).await
    }

    async fn message_unclaim(
        &self,
        agent: AgentId,
        contact: ContactId,
        ids: Vec<MessageId>,
        due: Timestamp,
    ) -> Result<u64, StoreError> {
        self.write(UnclaimArgs { agent, contact, ids, due }, |tx, args| Box::pin(unclaim(tx, args))).await
    }

    async fn message_service_keep(
        &self,
        held: Vec<(MessageId, u32)>,
        due: Timestamp,
    ) -> Result<Vec<MessageId>, StoreError> {
        self.write((held, due), |tx, args| Box::pin(service_keep(tx, args))).await
    }

    async fn message_service_wake(&self, service: &str, limit: u32, now: Timestamp) -> Result<u64, StoreError> {
        self.write((service.to_owned(), limit, now), |tx, args| Box::pin(service_wake(tx, args))).await
    }

    async fn message_release(&self, agent: AgentId, due: Timestamp) -> Result<u64, StoreError> {
        self.write((agent, due), |tx, args| Box::pin(release(tx, args))).await
    }

    async fn message_pending(
        &self,
        agents: &[AgentId],
        offset: u64,
        limit: u64,
        want_data: bool,
    ) -> Result<Vec<Message>, StoreError> {
        if offset > 0 && limit == 0 {
            return Err(StoreError::Invalid("an offset needs a limit".to_owned()));
        }
        let (offset, limit) = (number("offset", offset)?, number("limit", limit)?);
        let args = PendingArgs { agents: agents.to_vec(), offset, limit, want_data };
        self.read(args, |tx, args| Box::pin(pending(tx, args))).await
    }

    async fn message_pending_count(&self, agents: &[AgentId]) -> Result<u64, StoreError> {
        self.read(agents.to_vec(), |tx, args| Box::pin(pending_count(tx, args))).await
    }

    async fn message_pending_delete(
        &self,
        agents: &[AgentId],
        keep: &[&str],
        now: Timestamp,
        cause: &Cause,
    ) -> Result<u64, StoreError> {
        let keep = keep.iter().map(|service| (*service).to_owned()).collect();
        let args = OfAgents { agents: agents.to_vec(), keep, now, cause: cause.clone() };
        self.write(args, |tx, args| Box::pin(pending_delete(tx, args))).await
    }

    async fn message_cancel(&self, id: MessageId, now: Timestamp, cause: &Cause) -> Result<bool, StoreError> {
        let args = OfMessage { id, expires: now, now, cause: cause.clone() };
        self.write(args, |tx, args| Box::pin(cancel(tx, args))).await
    }

    async fn message_unpark(
        &self,
        id: MessageId,
        expires: Timestamp,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<bool, StoreError> {
        let args = OfMessage { id, expires, now, cause: cause.clone() };
        self.write(args, |tx, args| Box::pin(unpark(tx, args))).await
    }

    async fn message_park_expired(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.write((now, limit), |tx, args| Box::pin(park_expired(tx, args))).await
    }

    async fn message_agents_due(&self, agents: &[AgentId], now: Timestamp) -> Result<Vec<AgentId>, StoreError> {
        self.read((agents.to_vec(), now), |tx, args| Box::pin(agents_due(tx, args))).await
    }

    async fn message_backlog(&self) -> Result<Vec<ServiceBacklog>, StoreError> {
        self.read((), |tx, args| Box::pin(backlog(tx, args))).await
    }
}
