//! Broadcasts and allocations. Whatever changes the counts of a broadcast holds its row; whatever counts a machine holds
//! the row of the allocation.

use super::contacts::broadcasts_had;
use super::journal;
use super::mailbox::{addressees, store};
use super::message_rows::{NewRow, from_json, json};
use crate::agents::Taken;
use crate::broadcasts::{BroadcastSent, BroadcastStore};
use crate::db::Tx;
use crate::db::value::{Row, Value, number, params};
use crate::{SqlStore, StoreError};
use async_trait::async_trait;
use muster_core::{
    Address, AgentId, Allocation, AllocationId, Broadcast, BroadcastId, BroadcastLimit, Cause, ContactId, Message,
    Payload, Timestamp, broadcast, limits,
};
use std::collections::BTreeSet;

/// The columns of a broadcast. The first place of `sent` is its own count.
const COLUMNS: &str = "broadcast_id, source_agent, source_service, destination_service, message_type, \
     required_labels, expires, type_url, data, group_name, limit_count, allocated, created, sent";
/// The units of open allocations, to be added to `sent`.
const IN_ALLOCATIONS: &str = "COALESCE((SELECT CAST(sum(allocations.sent) AS BIGINT) FROM allocations \
     WHERE allocations.broadcast_id = broadcasts.broadcast_id), 0)";

const INSERT: &str = "INSERT INTO broadcasts (broadcast_id, source_agent, source_service, destination_service, \
     message_type, required_labels, expires, type_url, data, group_name, limit_count, sent, allocated, created) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 0, 0, $12) ON CONFLICT (broadcast_id) DO NOTHING";
const LOCK_GROUP: &str = "INSERT INTO broadcast_groups (group_name) VALUES ($1) \
     ON CONFLICT (group_name) DO UPDATE SET group_name = excluded.group_name";
const REPLACED: &str = "SELECT broadcast_id FROM broadcasts WHERE group_name = $1 AND source_service = $2 \
     AND destination_service = $3 AND required_labels = $4 AND source_agent IS NOT DISTINCT FROM $5 \
     AND sent < limit_count AND (expires IS NULL OR expires > $6) ORDER BY broadcast_id";
const LOCK: &str = "SELECT limit_count, sent, allocated FROM broadcasts WHERE broadcast_id = $1 FOR UPDATE";
const SET_COUNTS: &str = "UPDATE broadcasts SET limit_count = $2, sent = $3, allocated = $4 WHERE broadcast_id = $1";
const DELETE_ALLOCATIONS: &str =
    "DELETE FROM allocations WHERE broadcast_id = $1 AND expires <= $2 RETURNING limit_count, sent";
const DELETE_ALLOCATION: &str =
    "DELETE FROM allocations WHERE allocation_id = $1 AND broadcast_id = $2 RETURNING limit_count, sent";
const LAPSED: &str = "SELECT DISTINCT broadcast_id FROM allocations WHERE expires < $1 ORDER BY broadcast_id";
const INSERT_ALLOCATION: &str = "INSERT INTO allocations (allocation_id, broadcast_id, limit_count, sent, expires) \
     VALUES ($1, $2, $3, 0, $4) ON CONFLICT (allocation_id) DO NOTHING";
const HAD: &str = "SELECT agent_id FROM broadcast_sent WHERE agent_id = $1 AND broadcast_id = $2";
const COUNT_SENT: &str = "UPDATE allocations SET sent = sent + 1 WHERE allocation_id = $1 AND broadcast_id = $2 \
     AND sent < limit_count AND expires > $3";
const TAKE_BACK: &str = "UPDATE allocations SET sent = sent - 1 WHERE allocation_id = $1";
const ALLOCATION: &str = "SELECT allocation_id FROM allocations WHERE allocation_id = $1 AND broadcast_id = $2";
const LIMIT: &str = "SELECT limit_count FROM broadcasts WHERE broadcast_id = $1 FOR KEY SHARE";
const MARK: &str = "INSERT INTO broadcast_sent (agent_id, broadcast_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";

/// The three numbers of a broadcast.
#[derive(Debug, Clone, Copy)]
struct Counts {
    limit: i64,
    sent: i64,
    allocated: i64,
}

impl Counts {
    /// Takes back what an allocation was promised, and counts what it sent. What lapses or is disabled must come to its
    /// end whatever the row says, so it never goes below nothing.
    fn end_allocation(&mut self, promised: i64, sent: i64) -> Result<(), StoreError> {
        let too_many = || StoreError::Invalid("a broadcast cannot reach more than 2^63 - 1 machines".to_owned());
        self.sent = self.sent.checked_add(sent).ok_or_else(too_many)?;
        self.allocated = self.allocated.saturating_sub(promised).max(0);
        Ok(())
    }
}

fn not_found(id: BroadcastId) -> StoreError {
    StoreError::NotFound { what: "broadcast", id: id.to_string() }
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

async fn lock(tx: &mut Tx, id: &BroadcastId) -> Result<Option<Counts>, StoreError> {
    let Some(row) = tx.query_opt(LOCK, params![id]).await? else { return Ok(None) };
    let mut fields = row.fields("broadcasts");
    Ok(Some(Counts { limit: fields.take()?, sent: fields.take()?, allocated: fields.take()? }))
}

async fn set_counts(tx: &mut Tx, id: &BroadcastId, counts: Counts) -> Result<(), StoreError> {
    tx.execute(SET_COUNTS, params![id, counts.limit, counts.sent, counts.allocated]).await.map(drop)
}

fn read(row: Row) -> Result<Broadcast, StoreError> {
    let mut fields = row.fields("broadcasts");
    let id = fields.take()?;
    let source = Address { agent: fields.take()?, service: fields.take()? };
    let destination_service = fields.take()?;
    let message_type = fields.take()?;
    let labels: String = fields.take()?;
    let expires = fields.take()?;
    let type_url: Option<String> = fields.take()?;
    let data: Option<Vec<u8>> = fields.take()?;
    let group = fields.take()?;
    let limit = BroadcastLimit::from_number(fields.take()?);
    Ok(Broadcast {
        id,
        source,
        destination_service,
        message_type,
        required_labels: from_json(&fields, &labels)?,
        expires,
        payload: type_url.zip(data).map(|(type_url, value)| Payload { type_url, value }),
        group,
        limit: limit.ok_or_else(|| fields.unfit("a limit beyond 2^63 - 1"))?,
        allocated: fields.take()?,
        created: fields.take()?,
        sent: fields.take()?,
    })
}

struct Create {
    broadcast: Broadcast,
    limit: i64,
    labels: String,
    now: Timestamp,
    cause: Cause,
}

impl Create {
    fn new(mut broadcast: Broadcast, now: Timestamp, cause: Cause) -> Result<Self, StoreError> {
        broadcast.required_labels.sort();
        broadcast.required_labels.dedup();
        (broadcast.sent, broadcast.allocated) = (0, 0);
        if broadcast.source.service.is_empty() {
            return Err(StoreError::Invalid("a broadcast needs a source service".to_owned()));
        }
        let limit = number("limit", broadcast.limit.to_number())?;
        Ok(Self { limit, labels: json(&broadcast.required_labels), broadcast, now, cause })
    }
}

async fn create(tx: &mut Tx, args: &Create) -> Result<(), StoreError> {
    let broadcast = &args.broadcast;
    let source = broadcast.source.agent.as_ref();
    if !broadcast.group.is_empty() {
        tx.execute(LOCK_GROUP, params![&broadcast.group]).await?;
    }
    let payload = broadcast.payload.as_ref();
    let row = params![
        &broadcast.id,
        source,
        &broadcast.source.service,
        &broadcast.destination_service,
        &broadcast.message_type,
        &args.labels,
        broadcast.expires,
        payload.map(|payload| &payload.type_url),
        payload.map(|payload| &payload.value),
        &broadcast.group,
        args.limit,
        broadcast.created,
    ];
    // What it replaces is looked for first, so that it does not replace itself.
    let mut replaced: Vec<BroadcastId> = Vec::new();
    if !broadcast.group.is_empty() {
        let like = params![
            &broadcast.group,
            &broadcast.source.service,
            &broadcast.destination_service,
            &args.labels,
            source,
            args.now
        ];
        let rows = tx.query(REPLACED, like).await?;
        replaced = rows.into_iter().map(|row| row.only("broadcasts")).collect::<Result<_, _>>()?;
    }
    if tx.execute(INSERT, row).await? == 0 {
        let known = get(tx, &broadcast.id).await?;
        let same = known.is_some_and(|known| {
            Broadcast { sent: 0, allocated: 0, created: broadcast.created, ..known } == *broadcast
        });
        return if same { Ok(()) } else { Err(StoreError::Exists { what: "broadcast", id: broadcast.id.to_string() }) };
    }
    for old in &replaced {
        disable_one(tx, old).await?;
    }
    let details = serde_json::json!({ "limit": args.limit, "replaces": replaced });
    journal::write(tx, args.now, &args.cause, "broadcast.create", &broadcast.id.to_string(), &details).await
}

struct SetLimit {
    id: BroadcastId,
    limit: i64,
    now: Timestamp,
    cause: Cause,
}

async fn limit_set(tx: &mut Tx, args: &SetLimit) -> Result<(), StoreError> {
    let mut counts = lock(tx, &args.id).await?.ok_or_else(|| not_found(args.id))?;
    counts.limit = args.limit.max(counts.sent.saturating_add(counts.allocated));
    set_counts(tx, &args.id, counts).await?;
    let details = serde_json::json!({ "asked": args.limit, "limit": counts.limit });
    journal::write(tx, args.now, &args.cause, "broadcast.limit", &args.id.to_string(), &details).await
}

/// Switches a broadcast off. `false`: it is not known.
async fn disable_one(tx: &mut Tx, id: &BroadcastId) -> Result<bool, StoreError> {
    let Some(mut counts) = lock(tx, id).await? else { return Ok(false) };
    end_allocations(tx, id, Timestamp::MAX, &mut counts).await?;
    (counts.limit, counts.allocated) = (0, 0);
    set_counts(tx, id, counts).await?;
    Ok(true)
}

/// Ends the allocations that lapse at `until` or before, each counting what its row says. Returns how many.
async fn end_allocations(
    tx: &mut Tx,
    id: &BroadcastId,
    until: Timestamp,
    counts: &mut Counts,
) -> Result<u64, StoreError> {
    let rows = tx.query(DELETE_ALLOCATIONS, params![id, until]).await?;
    let ended = rows.len() as u64;
    for row in rows {
        let mut fields = row.fields("allocations");
        counts.end_allocation(fields.take()?, fields.take()?)?;
    }
    Ok(ended)
}

async fn disable(tx: &mut Tx, (ids, now, cause): &(BTreeSet<BroadcastId>, Timestamp, Cause)) -> Result<(), StoreError> {
    for id in ids {
        if disable_one(tx, id).await? {
            journal::write(tx, *now, cause, "broadcast.disable", &id.to_string(), &serde_json::json!({})).await?;
        }
    }
    Ok(())
}

async fn active(tx: &mut Tx, (source, now): &(Option<String>, Timestamp)) -> Result<Vec<Broadcast>, StoreError> {
    let mut values: Vec<Value<'_>> = vec![(*now).into()];
    let mut of = "";
    if let Some(source) = source {
        values.push(source.into());
        of = "AND source_service = $2";
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM broadcasts WHERE sent < limit_count AND (expires IS NULL OR expires > $1) {of} \
         ORDER BY broadcast_id"
    );
    tx.query(sql, &values).await?.into_iter().map(read).collect()
}

async fn page(
    tx: &mut Tx,
    (before, limit): &(Option<(Timestamp, BroadcastId)>, u32),
) -> Result<Vec<Broadcast>, StoreError> {
    let (filter, values): (_, Vec<Value<'_>>) = match before {
        Some((created, id)) => {
            ("WHERE (created, broadcast_id) < ($2, $3)", vec![(*limit).into(), (*created).into(), id.into()])
        }
        None => ("", vec![(*limit).into()]),
    };
    let sql = format!(
        "SELECT {COLUMNS} + {IN_ALLOCATIONS} FROM broadcasts {filter} \
         ORDER BY created DESC, broadcast_id DESC LIMIT $1"
    );
    tx.query(sql, &values).await?.into_iter().map(read).collect()
}

async fn get(tx: &mut Tx, id: &BroadcastId) -> Result<Option<Broadcast>, StoreError> {
    let sql = format!("SELECT {COLUMNS} + {IN_ALLOCATIONS} FROM broadcasts WHERE broadcast_id = $1");
    tx.query_opt(sql, params![id]).await?.map(read).transpose()
}

struct Take {
    broadcast: BroadcastId,
    id: AllocationId,
    fraction: f32,
    expires: Timestamp,
}

async fn take(tx: &mut Tx, args: &Take) -> Result<Option<Allocation>, StoreError> {
    let Some(mut counts) = lock(tx, &args.broadcast).await? else { return Ok(None) };
    if counts.limit == 0 {
        return Ok(None);
    }
    if BroadcastLimit::from_number(unsigned(counts.limit)) == Some(BroadcastLimit::Unlimited) {
        return Ok(Some(Allocation { id: None, limit: BroadcastLimit::Unlimited, expires: args.expires }));
    }
    // What is sent and what is promised are different machines, so both are gone.
    let gone = unsigned(counts.sent.saturating_add(counts.allocated));
    let share = broadcast::share(unsigned(counts.limit), gone, 0, args.fraction);
    if share == 0 {
        return Ok(None);
    }
    let units = number("share", share)?;
    if tx.execute(INSERT_ALLOCATION, params![&args.id, &args.broadcast, units, args.expires]).await? == 0 {
        return Err(StoreError::Exists { what: "allocation", id: args.id.to_string() });
    }
    counts.allocated += units;
    set_counts(tx, &args.broadcast, counts).await?;
    let limit = BroadcastLimit::Machines(share);
    Ok(Some(Allocation { id: Some(args.id), limit, expires: args.expires }))
}

struct Send {
    broadcast: BroadcastId,
    allocation: Option<AllocationId>,
    message: Message,
    agent: AgentId,
    contact: Option<ContactId>,
    now: Timestamp,
}

async fn send(tx: &mut Tx, args: &Send) -> Result<BroadcastSent, StoreError> {
    addressees(tx, std::iter::once(&args.message)).await?;
    let mark = params![&args.agent, &args.broadcast];
    if tx.query_opt(HAD, mark).await?.is_some() {
        return Ok(BroadcastSent::Before);
    }
    if let Some(refusal) = count_one(tx, args).await? {
        return Ok(refusal);
    }
    if tx.execute(MARK, mark).await? == 0 {
        // Another server was faster.
        if let Some(allocation) = &args.allocation {
            tx.execute(TAKE_BACK, params![allocation]).await?;
        }
        return Ok(BroadcastSent::Before);
    }
    let due = args.now.plus(limits::AGENT_RETRY);
    let row = NewRow { attempts: 1, ..NewRow::waiting(&args.message, due) };
    match store(tx, &[row], args.contact).await?.as_slice() {
        [Taken::New] => Ok(BroadcastSent::Yes),
        _ => Err(StoreError::Exists { what: "message", id: args.message.id.to_string() }),
    }
}

/// Counts one machine, or says why it cannot be reached any more.
async fn count_one(tx: &mut Tx, args: &Send) -> Result<Option<BroadcastSent>, StoreError> {
    let Some(allocation) = &args.allocation else {
        let limit: Option<i64> =
            tx.query_opt(LIMIT, params![&args.broadcast]).await?.map(|row| row.only("broadcasts")).transpose()?;
        return Ok(match limit.and_then(|limit| BroadcastLimit::from_number(unsigned(limit))) {
            Some(BroadcastLimit::Unlimited) => None,
            None | Some(BroadcastLimit::Machines(0)) => Some(BroadcastSent::Disabled),
            Some(BroadcastLimit::Machines(_)) => Some(BroadcastSent::Exhausted),
        });
    };
    if tx.execute(COUNT_SENT, params![allocation, &args.broadcast, args.now]).await? == 1 {
        return Ok(None);
    }
    let known = tx.query_opt(ALLOCATION, params![allocation, &args.broadcast]).await?;
    Ok(Some(if known.is_some() { BroadcastSent::Exhausted } else { BroadcastSent::Disabled }))
}

struct End {
    broadcast: BroadcastId,
    allocation: Option<AllocationId>,
    sent: i64,
}

async fn end(tx: &mut Tx, args: &End) -> Result<(), StoreError> {
    let Some(mut counts) = lock(tx, &args.broadcast).await? else { return Ok(()) };
    match &args.allocation {
        None => counts.end_allocation(0, args.sent)?,
        Some(allocation) => {
            let ended = tx.query_opt(DELETE_ALLOCATION, params![allocation, &args.broadcast]).await?;
            let Some(row) = ended else { return Ok(()) };
            let promised = row.fields("allocations").take()?;
            if promised > counts.allocated {
                let id = format!("{}: {} allocated, an allocation has {promised}", args.broadcast, counts.allocated);
                return Err(StoreError::Inconsistent { table: "broadcasts", id });
            }
            counts.end_allocation(promised, args.sent)?;
        }
    }
    set_counts(tx, &args.broadcast, counts).await
}

async fn reclaim(tx: &mut Tx, now: &Timestamp) -> Result<u64, StoreError> {
    let mut reclaimed = 0;
    for row in tx.query(LAPSED, params![*now]).await? {
        let id: BroadcastId = row.only("allocations")?;
        if let Some(mut counts) = lock(tx, &id).await? {
            let before_now = now.minus(std::time::Duration::from_nanos(1));
            reclaimed += end_allocations(tx, &id, before_now, &mut counts).await?;
            set_counts(tx, &id, counts).await?;
        }
    }
    Ok(reclaimed)
}

#[async_trait]
impl BroadcastStore for SqlStore {
    async fn broadcast_create(&self, broadcast: Broadcast, now: Timestamp, cause: &Cause) -> Result<(), StoreError> {
        let args = Create::new(broadcast, now, cause.clone())?;
        self.write(args, |tx, args| Box::pin(create(tx, args))).await
    }

    async fn broadcast_limit_set(
        &self,
        id: BroadcastId,
        limit: BroadcastLimit,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError> {
        let args = SetLimit { id, limit: number("limit", limit.to_number())?, now, cause: cause.clone() };
        self.write(args, |tx, args| Box::pin(limit_set(tx, args))).await
    }

    async fn broadcast_disable(&self, ids: &[BroadcastId], now: Timestamp, cause: &Cause) -> Result<(), StoreError> {
        let args = (ids.iter().copied().collect(), now, cause.clone());
        self.write(args, |tx, args| Box::pin(disable(tx, args))).await
    }

    async fn broadcast_active(&self, source: Option<&str>, now: Timestamp) -> Result<Vec<Broadcast>, StoreError> {
        self.read((source.map(str::to_owned), now), |tx, args| Box::pin(active(tx, args))).await
    }

    async fn broadcast_page(
        &self,
        before: Option<(Timestamp, BroadcastId)>,
        limit: u32,
    ) -> Result<Vec<Broadcast>, StoreError> {
        self.read((before, limit), |tx, args| Box::pin(page(tx, args))).await
    }

    async fn broadcast_get(&self, id: BroadcastId) -> Result<Option<Broadcast>, StoreError> {
        self.read(id, |tx, args| Box::pin(get(tx, args))).await
    }

    async fn allocation_take(
        &self,
        broadcast: BroadcastId,
        id: AllocationId,
        fraction: f32,
        expires: Timestamp,
    ) -> Result<Option<Allocation>, StoreError> {
        let args = Take { broadcast, id, fraction, expires };
        self.write(args, |tx, args| Box::pin(take(tx, args))).await
    }

    async fn broadcast_send(
        &self,
        broadcast: BroadcastId,
        allocation: Option<AllocationId>,
        message: Message,
        contact: Option<ContactId>,
        now: Timestamp,
    ) -> Result<BroadcastSent, StoreError> {
        let agent = message.destination.agent;
        let agent = agent.ok_or_else(|| StoreError::Invalid("a broadcast goes to a machine".to_owned()))?;
        let args = Send { broadcast, allocation, message, agent, contact, now };
        self.write(args, |tx, args| Box::pin(send(tx, args))).await
    }

    async fn broadcast_had(&self, agent: AgentId) -> Result<Vec<BroadcastId>, StoreError> {
        self.read(agent, |tx, args| Box::pin(broadcasts_had(tx, *args))).await
    }

    async fn allocation_end(
        &self,
        broadcast: BroadcastId,
        allocation: Option<AllocationId>,
        sent: u64,
    ) -> Result<(), StoreError> {
        let args = End { broadcast, allocation, sent: number("sent", sent)? };
        self.write(args, |tx, args| Box::pin(end(tx, args))).await
    }

    async fn allocation_reclaim(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.write(now, |tx, args| Box::pin(reclaim(tx, args))).await
    }
}
