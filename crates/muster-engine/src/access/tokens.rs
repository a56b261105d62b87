//! Tokens: access tokens of people and programs, and tokens with which machines enrol.
//!
//! Stays true: only hashes of tokens are kept and compared, so no comparison gives a token away by its time; a token
//! that was withdrawn is accepted for at most [`limits::TOKEN_MEMORY`]; nobody makes or withdraws a token that holds more
//! than they do.

use super::{AccessDenied, Caller, Grant, Permission};
use crate::engine::{Engine, Inner, OperatorError, lock};
use muster_core::{Label, Timestamp, limits, text};
use muster_store::StoreError;
use muster_store::cluster::{EnrolTokenRow, TokenRow};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Somebody whose token was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token's name, which the journal shows.
    pub name: String,
    /// What it gives.
    pub grant: Grant,
    /// When it ends, if ever.
    pub ends: Option<Timestamp>,
}

impl Principal {
    /// The caller in the request `request`.
    pub fn caller(&self, request: &str) -> Caller {
        Caller::of_token(&self.name, &self.grant, self.ends, request)
    }
}

/// How old the answer to whether a token is valid may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Up to [`limits::TOKEN_MEMORY`], for requests that read or come by the thousand.
    Remembered,
    /// The database is asked, for requests that change something.
    Now,
}

/// An access token that is to be made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its name, which the journal shows.
    pub name: String,
    /// What it gives.
    pub grant: Grant,
    /// How long it lasts; `None` for ever.
    pub life: Option<Duration>,
}

/// An enrolment token that is to be made.
#[derive(Debug, Clone)]
pub struct NewEnrolToken {
    /// Its name.
    pub name: String,
    /// How many machines it lets in, 1 at least.
    pub uses: u64,
    /// Labels that each of them is given, at most [`limits::AGENT_LABELS_MAX`].
    pub labels: Vec<Label>,
    /// How long it lasts; `None` for ever.
    pub life: Option<Duration>,
}

/// Tokens that were found in the database a moment ago.
#[derive(Debug, Default)]
pub(crate) struct TokenMemory {
    found: Mutex<HashMap<[u8; 32], (TokenRow, Instant)>>,
}

impl TokenMemory {
    fn recall(&self, sha256: &[u8; 32]) -> Option<TokenRow> {
        let found = lock(&self.found);
        let (row, at) = found.get(sha256)?;
        (at.elapsed() < limits::TOKEN_MEMORY).then(|| row.clone())
    }

    fn forget(&self, sha256: &[u8; 32]) {
        lock(&self.found).remove(sha256);
    }

    fn keep(&self, row: TokenRow) {
        let mut found = lock(&self.found);
        if found.len() >= limits::TOKENS_REMEMBERED {
            found.clear();
        }
        found.insert(row.sha256, (row, Instant::now()));
    }
}

impl Engine {
    /// Checks a bearer token. `None`: unknown or expired. What was found is remembered for [`limits::TOKEN_MEMORY`], so that
    /// a token that was withdrawn at another server may read for that long; nothing is changed by `Freshness::Now`.
    ///
    /// # Errors
    ///
    /// When the store cannot be asked.
    pub async fn token_check(&self, token: &str, freshness: Freshness) -> Result<Option<Principal>, StoreError> {
        let sha256 = hash(token);
        let now = self.now();
        let inner = &self.inner;
        if freshness == Freshness::Remembered
            && let Some(row) = inner.tokens.recall(&sha256)
        {
            return Ok(principal(&row, now));
        }
        let Some(row) = inner.store.token_find(sha256).await.inspect_err(|error| inner.saw(error))? else {
            inner.tokens.forget(&sha256);
            return Ok(None);
        };
        let principal = principal(&row, now);
        inner.tokens.keep(row);
        Ok(principal)
    }

    /// Makes an access token, and returns its secret, of which only the hash is kept.
    ///
    /// # Errors
    ///
    /// When the caller does not hold all that the token would, a token of this name exists, or the name or life is wrong.
    pub async fn token_create(&self, new: NewToken, caller: &Caller) -> Result<String, OperatorError> {
        let cause = caller.require(Permission::TokensWrite)?;
        caller.may_grant(&new.grant)?;
        let now = self.now();
        let (name, expires) = (actor_name(new.name)?, ends(now, new.life)?);
        caller.may_last(expires)?;
        let token = self.inner.token_draw();
        let row = TokenRow { name, sha256: hash(&token), role: new.grant.to_string(), created: now, expires };
        let put = self.inner.store.token_put(row, cause).await;
        put.map_err(|error| self.inner.operator_error("make the token", error))?;
        Ok(token)
    }

    /// Withdraws an access token that holds no more than the caller.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or it holds more than the caller.
    pub async fn token_delete(&self, name: &str, caller: &Caller) -> Result<(), OperatorError> {
        let cause = caller.require(Permission::TokensWrite)?;
        let missing = || OperatorError::NotFound(format!("there is no token {name:?}"));
        let rows = self.inner.store.token_list().await;
        let rows = rows.map_err(|error| self.inner.operator_error("look up the token", error))?;
        let row = rows.into_iter().find(|row| row.name == name).ok_or_else(missing)?;
        // What an unknown grant holds cannot be known, so only somebody with everything may touch it.
        let held = row.role.parse::<Grant>().unwrap_or_else(|_| super::Role::Admin.into());
        caller.may_grant(&held)?;
        let deleted = self.inner.store.token_delete(name, self.now(), cause).await;
        let deleted = deleted.map_err(|error| self.inner.operator_error("withdraw the token", error))?;
        self.inner.tokens.forget(&row.sha256);
        if deleted { Ok(()) } else { Err(missing()) }
    }

    /// Makes a token with which machines enrol, and returns its secret, of which only the hash is kept. One that gives
    /// labels needs the permission to give labels, too.
    ///
    /// # Errors
    ///
    /// When a token of this name exists, or the name, uses, labels or life are wrong.
    pub async fn enrol_token_create(&self, new: NewEnrolToken, caller: &Caller) -> Result<String, OperatorError> {
        let cause = caller.require(Permission::EnrolmentWrite)?;
        if !new.labels.is_empty() {
            caller.require(Permission::LabelsWrite)?;
        }
        let invalid = |text: &str| Err(OperatorError::Invalid(text.to_owned()));
        if new.uses == 0 {
            return invalid("a token with 0 uses lets nobody in: leave `uses` out for 1");
        }
        if new.labels.len() > limits::AGENT_LABELS_MAX {
            return invalid(&format!("at most {} labels can be given", limits::AGENT_LABELS_MAX));
        }
        let now = self.now();
        let (name, expires) = (checked_name(new.name)?, ends(now, new.life)?);
        let token = self.inner.token_draw();
        let row = EnrolTokenRow {
            name,
            sha256: hash(&token),
            uses_left: new.uses,
            labels: new.labels.iter().map(ToString::to_string).collect(),
            created: now,
            expires,
        };
        let put = self.inner.store.enrol_token_put(row, cause).await;
        put.map_err(|error| self.inner.operator_error("make the enrolment token", error))?;
        Ok(token)
    }

    /// Withdraws an enrolment token. Machines that it let in stay.
    ///
    /// # Errors
    ///
    /// When there is none of this name.
    pub async fn enrol_token_delete(&self, name: &str, caller: &Caller) -> Result<(), OperatorError> {
        let cause = caller.require(Permission::EnrolmentWrite)?;
        let deleted = self.inner.store.enrol_token_delete(name, self.now(), cause).await;
        let deleted = deleted.map_err(|error| self.inner.operator_error("withdraw the enrolment token", error))?;
        if deleted { Ok(()) } else { Err(OperatorError::NotFound(format!("there is no enrolment token {name:?}"))) }
    }
}

impl Inner {
    /// Draws a token: `muster_` and 64 hexadecimal digits, 256 bits.
    fn token_draw(&self) -> String {
        token_text(self.random())
    }
}

/// Writes 256 random bits as a token.
pub fn token_text(random: [u8; 32]) -> String {
    format!("muster_{}", hex::encode(random))
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn checked_name(name: String) -> Result<String, OperatorError> {
    text::name("the token's name", &name).map_err(|error| OperatorError::Invalid(error.to_string()))?;
    Ok(name)
}

/// Checks the name of an access token, which the journal shows as who did something: nothing in it looks like another
/// name, and none is a name under which the server itself writes.
fn actor_name(name: String) -> Result<String, OperatorError> {
    let name = checked_name(name)?;
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@+".contains(&byte));
    if !is_plain || RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(OperatorError::Invalid(format!(
            "a token cannot be called {name:?}: the journal shows the name as who did something, so it is made of letters, \
             digits and . _ - @ +, and is none of {}",
            RESERVED.join(", ")
        )));
    }
    Ok(name)
}

/// Names under which the server writes into the journal.
const RESERVED: [&str; 5] = ["local", "server", "spool", "certificate", "investigator"];

fn ends(now: Timestamp, life: Option<Duration>) -> Result<Option<Timestamp>, OperatorError> {
    match life {
        Some(Duration::ZERO) => Err(OperatorError::Invalid("expires_in must be greater than zero".into())),
        life => Ok(life.map(|life| now.plus(life))),
    }
}

fn principal(row: &TokenRow, now: Timestamp) -> Option<Principal> {
    if row.expires.is_some_and(|expires| expires <= now) {
        return None;
    }
    // A grant that this version cannot read gives nothing, rather than a part of what was meant.
    let grant: Grant = row.role.parse().ok()?;
    Some(Principal { name: row.name.clone(), grant, ends: row.expires })
}

impl From<AccessDenied> for OperatorError {
    fn from(denied: AccessDenied) -> Self {
        Self::Denied(denied)
    }
}
