//! Signed actions: coming in, signed further, called back.

use super::action_rows::{Parts, rings_text, select, status_number};
use super::{action_cancels, action_ends, action_work, commands, journal, results};
use crate::actions::{
    ActionFilter, ActionJob, ActionMark, ActionPut, ActionRetention, ActionRow, ActionStore, ActionTaken, CancelPut,
    CancelTaken, CommandFilter, CommandPage, CommandRow, LatePage, ResultPut, ResultTaken, SignaturePut, WorkLimits,
    Worked,
};
use crate::db::Tx;
use crate::db::value::{Value, number, params};
use crate::{SqlStore, StoreError};
use async_trait::async_trait;
use muster_core::action::{ActionId, ActionStatus, CommandId, InvestigatorId};
use muster_core::{Cause, ServerId, Timestamp};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

const TAKE_NUMBER: &str = "UPDATE action_numbers SET next = next + 1 WHERE one = 1 RETURNING next - 1";
const INSERT: &str = "INSERT INTO action_rows (signed, name, target, description, threat, operations, \
     syntax_version, valid_from, expire_after, status, created, updated, reason, type_url, data, standing, hosts_max, \
     rings, halt_percent, number, matched, expanded, sent, success, failed, timeout, \
     expired, cancelled, late) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, '', $12, $13, $14, $15, $16, $17, $18, 0, 0, 0, 0, 0, 0, \
     0, 0, 0) ON CONFLICT DO NOTHING RETURNING number";
const KNOWN: &str = "SELECT number FROM action_rows WHERE signed = $1";
const SIGNERS: &str = "SELECT id FROM investigators WHERE id = ANY($1) AND status = 'active' ORDER BY id FOR KEY SHARE";
const SIGN: &str = "INSERT INTO signatures (actionid, investigatorid, pgpsignature, created) \
     VALUES ($1, $2, $3, $4) ON CONFLICT (actionid, investigatorid) DO NOTHING";
const INSERT_JOB: &str = "INSERT INTO action_jobs (action, due, fence, ring, after, upto, ended) \
     VALUES ($1, $2, 0, 0, 0, 0, 0)";
const LOCK: &str = "SELECT status, valid_from, expire_after, halted FROM action_rows WHERE number = $1 FOR UPDATE";
const COUNT_SIGNATURES: &str = "SELECT count(*) FROM signatures WHERE actionid = $1 AND investigatorid <> $2";
const SET_ORDER: &str = "UPDATE action_rows SET status = $2, type_url = $3, data = $4, updated = $5 WHERE number = $1";
const SET_DUE: &str = "UPDATE action_jobs SET due = $2 WHERE action = $1";
const RESUME: &str = "UPDATE action_rows SET halted = NULL, reason = '', status = 3, updated = $2 WHERE number = $1";
/// Two walks of two indexes, each of them short.
const MARKS: &str = "SELECT number, status, updated FROM action_rows WHERE status < 5 AND number < $2 UNION \
     SELECT number, status, updated FROM action_rows WHERE finished IS NOT NULL AND finished >= $1 AND number < $2 \
     ORDER BY number DESC LIMIT $3";
const NEXT_RING: &str = "UPDATE action_jobs SET ring = ring + 1, due = $2, \
     ring_sent = (SELECT sent FROM action_rows WHERE number = $1) WHERE action = $1";

/// Commands have room for so many actions: see the schema on their ids.
const ACTIONS_MAX: i64 = (1 << 27) - 1;

struct Put {
    what: ActionPut,
    now: Timestamp,
    cause: Cause,
}

async fn put(tx: &mut Tx, Put { what: put, now, cause }: &Put) -> Result<ActionTaken, StoreError> {
    let (action, spread) = (&put.action, &put.spread);
    let id = action.id.ok_or_else(|| StoreError::Invalid("an action is stored with its id".to_owned()))?;
    let status = if put.is_ready { ActionStatus::Pending } else { ActionStatus::Waiting };
    let parts = Parts::of(action);
    let hosts_max = spread.hosts_max.map(|hosts| number("hosts_max", hosts)).transpose()?;
    let row = params![
        &put.signed,
        &action.name,
        &action.target,
        &parts.description,
        &parts.threat,
        &parts.operations,
        i32::from(action.syntax_version),
        action.valid_from,
        action.expire_after,
        status_number(status),
        *now,
        &put.order.type_url,
        &put.order.value,
        spread.standing,
        hosts_max,
        rings_text(spread),
        i32::from(spread.halt_percent),
        id,
    ];
    if tx.query_opt(INSERT, row).await?.is_none() {
        let known = tx.query_opt(KNOWN, params![&put.signed]).await?;
        let known = known.ok_or_else(|| StoreError::Exists { what: "action", id: id.to_string() })?;
        return Ok(ActionTaken::Again(known.only("action_rows")?));
    }
    if id.get() > ACTIONS_MAX {
        return Err(StoreError::Refused(format!("there is room for {ACTIONS_MAX} actions, and all is taken")));
    }
    let signers: Vec<InvestigatorId> = put.signatures.iter().map(|(who, _)| *who).collect();
    signers_check(tx, &signers).await?;
    for (who, signature) in &put.signatures {
        tx.execute(SIGN, params![id, *who, signature, *now]).await?;
    }
    let due = if put.is_ready { action.valid_from } else { action.expire_after };
    tx.execute(INSERT_JOB, params![id, due]).await?;
    let details = json!({ "name": action.name, "target": action.target, "signed": hex::encode(put.signed),
        "signers": signers, "status": status });
    journal::write(tx, *now, cause, "action.create", &id.to_string(), &details).await?;
    Ok(ActionTaken::New(id))
}

/// Refuses signers that are not known, not active, or named twice.
pub(super) async fn signers_check(tx: &mut Tx, signers: &[InvestigatorId]) -> Result<(), StoreError> {
    let distinct: BTreeSet<InvestigatorId> = signers.iter().copied().collect();
    if distinct.len() != signers.len() {
        return Err(StoreError::Refused("an investigator signed twice: each signature must be another's".to_owned()));
    }
    let rows = tx.query(SIGNERS, params![distinct.iter().map(|id| id.get()).collect::<Vec<_>>()]).await?;
    let active: BTreeSet<InvestigatorId> =
        rows.into_iter().map(|row| row.only("investigators")).collect::<Result<_, _>>()?;
    match distinct.difference(&active).next() {
        None => Ok(()),
        Some(who) => Err(StoreError::Refused(format!("investigator {who} is not known or not active"))),
    }
}

fn not_found(id: ActionId) -> StoreError {
    StoreError::NotFound { what: "action", id: id.to_string() }
}

/// An action that nobody else changes until the transaction ends.
pub(super) struct Locked {
    pub(super) status: ActionStatus,
    valid_from: Timestamp,
    pub(super) expire_after: Timestamp,
    halted: Option<Timestamp>,
}

pub(super) async fn lock(tx: &mut Tx, id: ActionId) -> Result<Locked, StoreError> {
    let row = tx.query_opt(LOCK, params![id]).await?.ok_or_else(|| not_found(id))?;
    let mut fields = row.fields("action_rows");
    let (status, valid_from, expire_after) = (fields.take()?, fields.take()?, fields.take()?);
    Ok(Locked { status, valid_from, expire_after, halted: fields.take()? })
}

struct Sign {
    put: SignaturePut,
    now: Timestamp,
    cause: Cause,
}

async fn sign(tx: &mut Tx, Sign { put, now, cause }: &Sign) -> Result<ActionStatus, StoreError> {
    let (id, who) = (put.action, put.investigator);
    let locked = lock(tx, id).await?;
    if locked.status != ActionStatus::Waiting {
        return Err(StoreError::Refused(format!("action {id} is {}: it does not wait for signatures", locked.status)));
    }
    signers_check(tx, &[who]).await?;
    if tx.execute(SIGN, params![id, who, &put.signature, *now]).await? == 0 {
        return Err(StoreError::Exists { what: "signature of investigator", id: who.to_string() });
    }
    let others: i64 = tx.query_one(COUNT_SIGNATURES, params![id, who]).await?.only("signatures")?;
    if others != i64::from(put.others) {
        return Err(StoreError::Refused(format!(
            "action {id} was signed by somebody else at the same time: try again"
        )));
    }
    let status = if put.is_ready { ActionStatus::Pending } else { ActionStatus::Waiting };
    let order = params![id, status_number(status), &put.order.type_url, &put.order.value, *now];
    tx.execute(SET_ORDER, order).await?;
    if put.is_ready {
        tx.execute(SET_DUE, params![id, locked.valid_from]).await?;
    }
    let details = json!({ "investigator": who, "status": status });
    journal::write(tx, *now, cause, "action.sign", &id.to_string(), &details).await?;
    Ok(status)
}

/// A change of an action, and who makes it.
pub(super) struct Change {
    pub(super) id: ActionId,
    pub(super) now: Timestamp,
    pub(super) cause: Cause,
}

async fn resume(tx: &mut Tx, Change { id, now, cause }: &Change) -> Result<bool, StoreError> {
    let locked = lock(tx, *id).await?;
    if locked.halted.is_none() || locked.status != ActionStatus::Inflight {
        return Ok(false);
    }
    tx.execute(RESUME, params![*id, *now]).await?;
    tx.execute(NEXT_RING, params![*id, *now]).await?;
    journal::write(tx, *now, cause, "action.resume", &id.to_string(), &json!({})).await?;
    Ok(true)
}

async fn get(tx: &mut Tx, id: &ActionId) -> Result<Option<ActionRow>, StoreError> {
    Ok(select(tx, "WHERE number = $1".to_owned(), params![*id]).await?.pop())
}

async fn find(tx: &mut Tx, signed: &[u8; 32]) -> Result<Option<ActionRow>, StoreError> {
    Ok(select(tx, "WHERE signed = $1".to_owned(), params![signed]).await?.pop())
}

type Page = (ActionFilter, Option<ActionId>, u32);

async fn page(tx: &mut Tx, (filter, before, limit): &Page) -> Result<Vec<ActionRow>, StoreError> {
    let mut values: Vec<Value<'_>> = vec![before.map_or(i64::MAX, ActionId::get).into()];
    let mut wheres = vec!["number < $1".to_owned()];
    if let Some(status) = filter.status {
        values.push(status_number(status).into());
        wheres.push(format!("status = ${}", values.len()));
    }
    if let Some(who) = filter.investigator {
        values.push(who.into());
        let n = values.len();
        wheres.push(format!(
            "EXISTS (SELECT 1 FROM signatures WHERE actionid = action_rows.number AND investigatorid = ${n})"
        ));
    }
    if !filter.name.is_empty() {
        values.push(super::agents::pattern(&filter.name).into());
        wheres.push(format!("lower(name) LIKE ${} ESCAPE '!'", values.len()));
    }
    values.push((*limit).into());
    let of = format!("WHERE {} ORDER BY number DESC LIMIT ${}", wheres.join(" AND "), values.len());
    select(tx, of, &values).await
}

type MarksOf = (Timestamp, Option<ActionId>, u32);

async fn marks(tx: &mut Tx, (since, before, limit): &MarksOf) -> Result<Vec<ActionMark>, StoreError> {
    let before = before.map_or(i64::MAX, ActionId::get);
    let mut marks = Vec::new();
    for row in tx.query(MARKS, params![*since, before, *limit]).await? {
        let mut fields = row.fields("action_rows");
        marks.push(ActionMark { id: fields.take()?, status: fields.take()?, updated: fields.take()? });
    }
    Ok(marks)
}

async fn take_number(tx: &mut Tx, (): &()) -> Result<ActionId, StoreError> {
    tx.query_one(TAKE_NUMBER, &[]).await?.only("action_numbers")
}

#[async_trait]
impl ActionStore for SqlStore {
    async fn action_id_take(&self) -> Result<ActionId, StoreError> {
        self.write((), |tx, args| Box::pin(take_number(tx, args))).await
    }

    async fn action_put(&self, put: ActionPut, now: Timestamp, cause: &Cause) -> Result<ActionTaken, StoreError> {
        let args = Put { what: put, now, cause: cause.clone() };
        self.write(args, |tx, args| Box::pin(self::put(tx, args))).await
    }

    async fn action_signature_put(
        &self,
        put: SignaturePut,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<ActionStatus, StoreError> {
        let args = Sign { put, now, cause: cause.clone() };
        self.write(args, |tx, args| Box::pin(sign(tx, args))).await
    }

    async fn action_get(&self, id: ActionId) -> Result<Option<ActionRow>, StoreError> {
        self.read(id, |tx, id| Box::pin(get(tx, id))).await
    }

    async fn action_find(&self, signed: [u8; 32]) -> Result<Option<ActionRow>, StoreError> {
        self.read(signed, |tx, signed| Box::pin(find(tx, signed))).await
    }

    async fn action_page(
        &self,
        filter: ActionFilter,
        before: Option<ActionId>,
        limit: u32,
    ) -> Result<Vec<ActionRow>, StoreError> {
        self.read((filter, before, limit), |tx, args| Box::pin(page(tx, args))).await
    }

    async fn action_marks(
        &self,
        since: Timestamp,
        before: Option<ActionId>,
        limit: u32,
    ) -> Result<Vec<ActionMark>, StoreError> {
        self.read((since, before, limit), |tx, args| Box::pin(marks(tx, args))).await
    }

    async fn action_cancel(
        &self,
        id: ActionId,
        signed: Option<CancelPut>,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<CancelTaken, StoreError> {
        let change = Change { id, now, cause: cause.clone() };
        self.write((change, signed), |tx, args| Box::pin(action_cancels::cancel(tx, args))).await
    }

    async fn action_resume(&self, id: ActionId, now: Timestamp, cause: &Cause) -> Result<bool, StoreError> {
        let change = Change { id, now, cause: cause.clone() };
        self.write(change, |tx, change| Box::pin(resume(tx, change))).await
    }

    async fn action_claim_due(
        &self,
        owner: ServerId,
        lease: Duration,
        now: Timestamp,
    ) -> Result<Option<ActionJob>, StoreError> {
        self.write((owner, lease, now), |tx, args| Box::pin(action_work::claim(tx, args))).await
    }

    async fn action_work(&self, job: ActionJob, limits: WorkLimits, now: Timestamp) -> Result<Worked, StoreError> {
        self.write((job, limits, now), |tx, args| Box::pin(action_work::work(tx, args))).await
    }

    async fn command_get(&self, id: CommandId) -> Result<Option<CommandRow>, StoreError> {
        self.read(id, |tx, id| Box::pin(commands::get(tx, id))).await
    }

    async fn command_page(
        &self,
        filter: CommandFilter,
        after: Option<CommandId>,
        limit: u32,
        want_results: bool,
    ) -> Result<CommandPage, StoreError> {
        let args = commands::Page { filter, after, limit, want_results };
        self.read(args, |tx, args| Box::pin(commands::page(tx, args))).await
    }

    async fn command_result_put(
        &self,
        results: Vec<ResultPut>,
        now: Timestamp,
    ) -> Result<Vec<ResultTaken>, StoreError> {
        if results.is_empty() {
            return Ok(Vec::new());
        }
        self.write((results, now), |tx, (results, now)| {
            Box::pin(async { results::put(tx, &results.iter().collect::<Vec<_>>(), *now).await })
        })
        .await
    }

    async fn command_late(&self, action: ActionId, before: Option<i64>, limit: u32) -> Result<LatePage, StoreError> {
        self.read((action, before, limit), |tx, args| Box::pin(results::late(tx, args))).await
    }

    async fn action_retention_sweep(&self, retention: ActionRetention, limit: u32) -> Result<u64, StoreError> {
        self.write((retention, limit), |tx, args| Box::pin(action_ends::sweep(tx, args))).await
    }
}
