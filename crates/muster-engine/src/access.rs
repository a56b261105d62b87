//! Who may do what at the operators' and the admin door.
//!
//! Stays true: only hashes of tokens are kept and compared, so no comparison gives a token away by its time; a token
//! that was withdrawn is believed for at most [`limits::TOKEN_MEMORY`].

use crate::engine::{Inner, lock};
use muster_core::{Timestamp, limits};
use muster_store::StoreError;
use muster_store::cluster::TokenRow;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Mutex;
use tokio::time::Instant;

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looking.
    Reader,
    /// Looking and changing.
    Admin,
}

impl Role {
    /// Reads the stored word.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "reader" => Some(Self::Reader),
            "admin" => Some(Self::Admin),
            _ => None,
        }
    }

    /// The word as it is stored and shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Admin => "admin",
        }
    }
}

/// Somebody whose token was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The token's name, which the journal shows.
    pub name: String,
    /// What it allows.
    pub role: Role,
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

    fn keep(&self, row: TokenRow) {
        let mut found = lock(&self.found);
        if found.len() >= limits::TOKENS_REMEMBERED {
            found.clear();
        }
        found.insert(row.sha256, (row, Instant::now()));
    }
}

impl Inner {
    pub(crate) async fn token_check(&self, token: &str) -> Result<Option<Principal>, StoreError> {
        let sha256: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = self.now();
        if let Some(row) = self.tokens.recall(&sha256) {
            return Ok(principal(&row, now));
        }
        let Some(row) = self.store.token_find(sha256).await.inspect_err(|error| self.saw(error))? else {
            return Ok(None);
        };
        let principal = principal(&row, now);
        self.tokens.keep(row);
        Ok(principal)
    }
}

fn principal(row: &TokenRow, now: Timestamp) -> Option<Principal> {
    if row.expires.is_some_and(|expires| expires <= now) {
        return None;
    }
    Some(Principal { name: row.name.clone(), role: Role::from_word(&row.role)? })
}
