//! Tokens of the doors and of enrolment. Only their hashes are kept.

use super::journal;
use super::message_rows::{from_json, json};
use crate::StoreError;
use crate::cluster::{EnrolTokenRow, TokenRow};
use crate::db::Tx;
use crate::db::value::{Row, number, params};
use muster_core::{Cause, Timestamp};

const INSERT: &str = "INSERT INTO tokens (name, sha256, role, created, expires) VALUES ($1, $2, $3, $4, $5) \
     ON CONFLICT (name) DO NOTHING";
const SELECT: &str = "SELECT name, sha256, role, created, expires FROM tokens";
const DELETE: &str = "DELETE FROM tokens WHERE name = $1";
const INSERT_ENROL: &str = "INSERT INTO enrol_tokens (name, sha256, uses_left, labels, created, expires) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO NOTHING";
const SELECT_ENROL: &str = "SELECT name, sha256, uses_left, labels, created, expires FROM enrol_tokens ORDER BY name";
const DELETE_ENROL: &str = "DELETE FROM enrol_tokens WHERE name = $1";

fn read(row: Row) -> Result<TokenRow, StoreError> {
    let mut fields = row.fields("tokens");
    Ok(TokenRow {
        name: fields.take()?,
        sha256: fields.take()?,
        role: fields.take()?,
        created: fields.take()?,
        expires: fields.take()?,
    })
}

pub(super) async fn put(tx: &mut Tx, (token, cause): &(TokenRow, Cause)) -> Result<(), StoreError> {
    let row = params![&token.name, &token.sha256, &token.role, token.created, token.expires];
    if tx.execute(INSERT, row).await? == 0 {
        return Err(StoreError::Exists { what: "token", id: token.name.clone() });
    }
    let details = serde_json::json!({ "role": token.role });
    journal::write(tx, token.created, cause, "token.create", &token.name, &details).await
}

pub(super) async fn find(tx: &mut Tx, sha256: &[u8; 32]) -> Result<Option<TokenRow>, StoreError> {
    let sql = format!("{SELECT} WHERE sha256 = $1 ORDER BY name LIMIT 1");
    tx.query_opt(sql, params![sha256]).await?.map(read).transpose()
}

pub(super) async fn list(tx: &mut Tx, (): &()) -> Result<Vec<TokenRow>, StoreError> {
    tx.query(format!("{SELECT} ORDER BY name"), &[]).await?.into_iter().map(read).collect()
}

/// Which token is withdrawn, when and by whom.
pub(super) type Withdrawal = (String, Timestamp, Cause);

pub(super) async fn delete(tx: &mut Tx, withdrawal: &Withdrawal) -> Result<bool, StoreError> {
    withdraw(tx, withdrawal, DELETE, "token.delete").await
}

pub(super) async fn delete_enrol(tx: &mut Tx, withdrawal: &Withdrawal) -> Result<bool, StoreError> {
    withdraw(tx, withdrawal, DELETE_ENROL, "enrol_token.delete").await
}

async fn withdraw(
    tx: &mut Tx,
    (name, now, cause): &Withdrawal,
    sql: &'static str,
    action: &str,
) -> Result<bool, StoreError> {
    if tx.execute(sql, params![name]).await? == 0 {
        return Ok(false);
    }
    journal::write(tx, *now, cause, action, name, &serde_json::json!({})).await?;
    Ok(true)
}

pub(super) async fn put_enrol(tx: &mut Tx, (token, cause): &(EnrolTokenRow, Cause)) -> Result<(), StoreError> {
    let uses = number("uses", token.uses_left)?;
    let row = params![&token.name, &token.sha256, uses, json(&token.labels), token.created, token.expires];
    if tx.execute(INSERT_ENROL, row).await? == 0 {
        return Err(StoreError::Exists { what: "enrolment token", id: token.name.clone() });
    }
    let details = serde_json::json!({ "uses": token.uses_left, "labels": token.labels });
    journal::write(tx, token.created, cause, "enrol_token.create", &token.name, &details).await
}

pub(super) async fn list_enrol(tx: &mut Tx, (): &()) -> Result<Vec<EnrolTokenRow>, StoreError> {
    let mut tokens = Vec::new();
    for row in tx.query(SELECT_ENROL, &[]).await? {
        let mut fields = row.fields("enrol_tokens");
        let (name, sha256, uses_left) = (fields.take()?, fields.take()?, fields.take()?);
        let labels: String = fields.take()?;
        let labels = from_json(&fields, &labels)?;
        tokens.push(EnrolTokenRow {
            name,
            sha256,
            uses_left,
            labels,
            created: fields.take()?,
            expires: fields.take()?,
        });
    }
    Ok(tokens)
}
