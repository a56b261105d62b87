//! Investigators, and what is said of modules.

use super::modules::{minimum_set, rules, weight_set};
use super::{journal, trust};
use crate::db::Tx;
use crate::db::value::{Field, Row, Value, params};
use crate::investigators::{
    ApiKeyChange, InvestigatorChange, InvestigatorPut, InvestigatorRow, InvestigatorStore, ModuleRule, ModuleWeight,
    NotedMachines, PERMISSIONS_ADMIN, PERMISSIONS_ALL, TokenUse, TokenUsed, TrustGroup, TrustTold,
};
use crate::targets::TargetQuery;
use crate::{SqlStore, StoreError};
use async_trait::async_trait;
use muster_core::action::{Fingerprint, InvestigatorId, InvestigatorStatus};
use muster_core::{AgentId, Cause, Timestamp};
use serde_json::json;

pub(super) const COLUMNS: &str = "id, name, pgpfingerprint, publickey, status, permissions, created, modified, \
     CASE WHEN apikey_sha256 IS NULL THEN 0 ELSE 1 END";
const INSERT: &str = "INSERT INTO investigators (name, pgpfingerprint, publickey, status, permissions, created, \
     modified) VALUES ($1, $2, $3, 'active', $4, $5, $5) ON CONFLICT DO NOTHING RETURNING id";
const LOCK: &str = "SELECT status, permissions FROM investigators WHERE id = $1 FOR UPDATE";
/// In one order, so that of two who take away an administrator's rights at once the second sees what the first did.
const LOCK_ADMINS: &str = "SELECT id FROM investigators WHERE status = 'active' AND (permissions & $1) = $1 \
     ORDER BY id FOR UPDATE";
const SET_STATUS: &str = "UPDATE investigators SET status = $2, modified = $3 WHERE id = $1";
const SET_PERMISSIONS: &str = "UPDATE investigators SET permissions = $2, modified = $3 WHERE id = $1";
const HELD: &str = "SELECT id FROM investigators WHERE upper(pgpfingerprint) = $1 AND id <> $2";
const SET_KEY: &str = "UPDATE investigators SET pgpfingerprint = $2, publickey = $3, modified = $4 WHERE id = $1";
const SET_API_KEY: &str = "UPDATE investigators SET apikey_sha256 = $2, modified = $3 WHERE id = $1";
const USE_TOKEN: &str = "INSERT INTO used_tokens (digest, expires, request) VALUES ($1, $2, $3) \
     ON CONFLICT (digest) DO NOTHING";
const TOKEN_REQUEST: &str = "SELECT request FROM used_tokens WHERE digest = $1";
/// More than are used at a time, so that what has lapsed goes as fast as it comes.
const FORGET_TOKENS: &str = "DELETE FROM used_tokens WHERE digest IN (SELECT digest FROM used_tokens \
     WHERE expires < $1 ORDER BY expires LIMIT 16 FOR UPDATE SKIP LOCKED)";

impl Field for InvestigatorStatus {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        String::read(value)?.parse().ok()
    }
}

fn not_found(id: InvestigatorId) -> StoreError {
    StoreError::NotFound { what: "investigator", id: id.to_string() }
}

pub(super) fn read(row: Row) -> Result<InvestigatorRow, StoreError> {
    let mut fields = row.fields("investigators");
    let (id, name) = (fields.take()?, fields.take()?);
    let fingerprint: Option<String> = fields.take()?;
    // A person may have inserted the row by hand; every spelling of a fingerprint is one, and the database sees to it
    // that it is one. If not, that person has no key, and everybody else is left alone.
    let fingerprint = fingerprint.and_then(|text| text.parse().ok());
    Ok(InvestigatorRow {
        id,
        name,
        fingerprint,
        public_key: fields.take()?,
        status: fields.take()?,
        permissions: fields.take()?,
        created: fields.take()?,
        modified: fields.take()?,
        has_api_key: fields.take()?,
    })
}

struct Put {
    what: InvestigatorPut,
    now: Timestamp,
    cause: Cause,
}

async fn put(tx: &mut Tx, args: &Put) -> Result<InvestigatorId, StoreError> {
    let Put { what: put, now, cause } = args;
    if put.name.trim().is_empty() {
        return Err(StoreError::Invalid("an investigator needs a name".to_owned()));
    }
    bits(put.permissions)?;
    let fingerprint = put.fingerprint.as_ref().map(Fingerprint::to_string);
    let row = params![&put.name, fingerprint.as_ref(), put.public_key.as_ref(), put.permissions, *now];
    let Some(row) = tx.query_opt(INSERT, row).await? else {
        return Err(StoreError::Exists { what: "investigator", id: fingerprint.unwrap_or_default() });
    };
    let id: InvestigatorId = row.only("investigators")?;
    let details = json!({ "name": put.name, "fingerprint": fingerprint, "permissions": put.permissions });
    journal::write(tx, *now, cause, "investigator.create", &id.to_string(), &details).await?;
    Ok(id)
}

fn bits(permissions: u32) -> Result<(), StoreError> {
    if permissions & !PERMISSIONS_ALL == 0 {
        return Ok(());
    }
    Err(StoreError::Invalid(format!("permissions have bits up to {PERMISSIONS_ALL}, not {permissions}")))
}

async fn one(tx: &mut Tx, of: &'static str, value: Value<'_>) -> Result<Option<InvestigatorRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM investigators WHERE {of}");
    tx.query_opt(sql, &[value]).await?.map(read).transpose()
}

type Page = (Option<InvestigatorStatus>, Option<InvestigatorId>, u32);

async fn page(tx: &mut Tx, (status, after, limit): &Page) -> Result<Vec<InvestigatorRow>, StoreError> {
    let of = if status.is_some() { "AND status = $3" } else { "" };
    let mut values = vec![after.map_or(0, InvestigatorId::get).into(), (*limit).into()];
    values.extend(status.map(|status| Value::from(status.as_str())));
    let sql = format!("SELECT {COLUMNS} FROM investigators WHERE id > $1 {of} ORDER BY id LIMIT $2");
    tx.query(sql, &values).await?.into_iter().map(read).collect()
}

/// A change of one investigator by somebody.
struct Change<T> {
    id: InvestigatorId,
    to: T,
    now: Timestamp,
    cause: Cause,
}

impl<T> Change<T> {
    async fn note(&self, tx: &mut Tx, action: &str, details: &serde_json::Value) -> Result<(), StoreError>
    where
        T: Sync,
    {
        journal::write(tx, self.now, &self.cause, action, &self.id.to_string(), details).await
    }
}

async fn lock(tx: &mut Tx, id: InvestigatorId) -> Result<(InvestigatorStatus, u32), StoreError> {
    let row = tx.query_opt(LOCK, params![id]).await?.ok_or_else(|| not_found(id))?;
    let mut fields = row.fields("investigators");
    Ok((fields.take()?, fields.take()?))
}

/// Refuses when nobody else is an active administrator.
async fn keep_an_admin(tx: &mut Tx, id: InvestigatorId) -> Result<(), StoreError> {
    let rows = tx.query(LOCK_ADMINS, params![PERMISSIONS_ADMIN]).await?;
    let admins: Vec<InvestigatorId> =
        rows.into_iter().map(|row| row.only("investigators")).collect::<Result<_, _>>()?;
    if admins == [id] { Err(StoreError::Refused("will not remove last admin".to_owned())) } else { Ok(()) }
}

async fn status_set(tx: &mut Tx, change: &Change<InvestigatorStatus>) -> Result<(), StoreError> {
    if change.to == InvestigatorStatus::Disabled {
        keep_an_admin(tx, change.id).await?;
    }
    let (before, _) = lock(tx, change.id).await?;
    if before == change.to {
        return Ok(());
    }
    tx.execute(SET_STATUS, params![change.id, change.to.as_str(), change.now]).await?;
    change.note(tx, "investigator.status", &json!({ "from": before, "to": change.to })).await
}

async fn permissions_set(tx: &mut Tx, change: &Change<u32>) -> Result<(), StoreError> {
    bits(change.to)?;
    if change.to & PERMISSIONS_ADMIN != PERMISSIONS_ADMIN {
        keep_an_admin(tx, change.id).await?;
    }
    let (_, before) = lock(tx, change.id).await?;
    if before == change.to {
        return Ok(());
    }
    tx.execute(SET_PERMISSIONS, params![change.id, change.to, change.now]).await?;
    change.note(tx, "investigator.permissions", &json!({ "from": before, "to": change.to })).await
}

async fn key_set(tx: &mut Tx, change: &Change<(Fingerprint, String)>) -> Result<(), StoreError> {
    lock(tx, change.id).await?;
    let (fingerprint, key) = (change.to.0.to_string(), &change.to.1);
    if tx.query_opt(HELD, params![&fingerprint, change.id]).await?.is_some() {
        return Err(StoreError::Exists { what: "investigator", id: fingerprint });
    }
    tx.execute(SET_KEY, params![change.id, &fingerprint, key, change.now]).await?;
    change.note(tx, "investigator.key", &json!({ "fingerprint": fingerprint })).await
}

async fn api_key_set(tx: &mut Tx, change: &Change<Option<[u8; 32]>>) -> Result<(), StoreError> {
    lock(tx, change.id).await?;
    tx.execute(SET_API_KEY, params![change.id, change.to.as_ref(), change.now]).await?;
    let action = if change.to.is_some() { "investigator.api_key" } else { "investigator.api_key_withdraw" };
    change.note(tx, action, &json!({})).await
}

async fn several(tx: &mut Tx, change: &Change<InvestigatorChange>) -> Result<(), StoreError> {
    fn one<T>(change: &Change<InvestigatorChange>, to: T) -> Change<T> {
        Change { id: change.id, to, now: change.now, cause: change.cause.clone() }
    }
    // Also who changes nothing learns that there is nobody of this id.
    lock(tx, change.id).await?;
    let InvestigatorChange { status, permissions, api_key } = change.to;
    if let Some(status) = status {
        status_set(tx, &one(change, status)).await?;
    }
    if let Some(permissions) = permissions {
        permissions_set(tx, &one(change, permissions)).await?;
    }
    match api_key {
        ApiKeyChange::Keep => Ok(()),
        ApiKeyChange::Set(sha256) => api_key_set(tx, &one(change, Some(sha256))).await,
        ApiKeyChange::Withdraw => api_key_set(tx, &one(change, None)).await,
    }
}

type TokenShown = (TokenUse, Timestamp, Timestamp);

async fn token_use(tx: &mut Tx, (shown, expires, now): &TokenShown) -> Result<TokenUsed, StoreError> {
    tx.execute(FORGET_TOKENS, params![*now]).await?;
    let request = shown.request.as_ref().map(|request| &request[..]);
    if tx.execute(USE_TOKEN, params![&shown.digest[..], *expires, request]).await? == 1 {
        return Ok(TokenUsed::First);
    }
    let first = tx.query_one(TOKEN_REQUEST, params![&shown.digest[..]]).await?;
    let first: Option<Vec<u8>> = first.only("used_tokens")?;
    Ok(if request.is_some() && first.as_deref() == request { TokenUsed::Same } else { TokenUsed::Other })
}

#[async_trait]
impl InvestigatorStore for SqlStore {
    async fn investigator_put(
        &self,
        put: InvestigatorPut,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<InvestigatorId, StoreError> {
        let args = Put { what: put, now, cause: cause.clone() };
        self.write(args, |tx, args| Box::pin(self::put(tx, args))).await
    }

    async fn investigator_get(&self, id: InvestigatorId) -> Result<Option<InvestigatorRow>, StoreError> {
        self.read(id, |tx, id| Box::pin(one(tx, "id = $1", (*id).into()))).await
    }

    async fn investigator_find(&self, fingerprint: &Fingerprint) -> Result<Option<InvestigatorRow>, StoreError> {
        let of = fingerprint.to_string();
        self.read(of, |tx, of| Box::pin(one(tx, "upper(pgpfingerprint) = $1", of.into()))).await
    }

    async fn investigator_find_api_key(&self, sha256: [u8; 32]) -> Result<Option<InvestigatorRow>, StoreError> {
        self.read(sha256, |tx, of| Box::pin(one(tx, "apikey_sha256 = $1", of.into()))).await
    }

    async fn investigator_page(
        &self,
        status: Option<InvestigatorStatus>,
        after: Option<InvestigatorId>,
        limit: u32,
    ) -> Result<Vec<InvestigatorRow>, StoreError> {
        self.read((status, after, limit), |tx, args| Box::pin(page(tx, args))).await
    }

    async fn investigator_status_set(
        &self,
        id: InvestigatorId,
        status: InvestigatorStatus,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError> {
        let change = Change { id, to: status, now, cause: cause.clone() };
        self.write(change, |tx, change| Box::pin(status_set(tx, change))).await
    }

    async fn investigator_permissions_set(
        &self,
        id: InvestigatorId,
        permissions: u32,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError> {
        let change = Change { id, to: permissions, now, cause: cause.clone() };
        self.write(change, |tx, change| Box::pin(permissions_set(tx, change))).await
    }

    async fn investigator_key_set(
        &self,
        id: InvestigatorId,
        fingerprint: &Fingerprint,
        public_key: &str,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError> {
        let change = Change { id, to: (fingerprint.clone(), public_key.to_owned()), now, cause: cause.clone() };
        self.write(change, |tx, change| Box::pin(key_set(tx, change))).await
    }

    async fn investigator_api_key_set(
        &self,
        id: InvestigatorId,
        sha256: Option<[u8; 32]>,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError> {
        let change = Change { id, to: sha256, now, cause: cause.clone() };
        self.write(change, |tx, change| Box::pin(api_key_set(tx, change))).await
    }

    async fn investigator_change(
        &self,
        id: InvestigatorId,
        change: InvestigatorChange,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError> {
        let change = Change { id, to: change, now, cause: cause.clone() };
        self.write(change, |tx, change| Box::pin(several(tx, change))).await
    }

    async fn signed_token_use(
        &self,
        shown: TokenUse,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<TokenUsed, StoreError> {
        self.write((shown, expires, now), |tx, args| Box::pin(token_use(tx, args))).await
    }

    async fn module_minimum_set(
        &self,
        agent: AgentId,
        module: &str,
        minimum: Option<i64>,
        now: Timestamp,
        cause: &Cause,
    ) -> Result<(), StoreError> {
        let args = (agent, module.to_owned(), minimum, now, cause.clone());
        self.write(args, |tx, args| Box::pin(minimum_set(tx, args))).await
    }

    async fn module_weight_set(&self, weight: ModuleWeight, now: Timestamp, cause: &Cause) -> Result<(), StoreError> {
        self.write((weight, now, cause.clone()), |tx, args| Box::pin(weight_set(tx, args))).await
    }

    async fn module_rules(&self, agents: &[AgentId]) -> Result<Vec<ModuleRule>, StoreError> {
        self.read(agents.to_vec(), |tx, agents| Box::pin(rules(tx, agents))).await
    }

    async fn trust_get(&self, agent: AgentId) -> Result<Option<(TrustTold, Timestamp)>, StoreError> {
        self.read(agent, |tx, agent| Box::pin(trust::get(tx, agent))).await
    }

    async fn trust_groups(&self, query: TargetQuery) -> Result<Vec<TrustGroup>, StoreError> {
        self.read(query, |tx, query| Box::pin(trust::groups(tx, query))).await
    }

    async fn trust_noted(&self, query: TargetQuery, limit: u32) -> Result<NotedMachines, StoreError> {
        self.read((query, limit), |tx, args| Box::pin(trust::noted(tx, args))).await
    }
}
