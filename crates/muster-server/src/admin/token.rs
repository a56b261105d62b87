//! The first admin token: made at the first start, kept in a file that only the server's user can read.

use crate::private_file::{self, Readers};
use muster_core::{Cause, Timestamp};
use muster_engine::Random;
use muster_engine::access::{self, Role};
use muster_store::cluster::TokenRow;
use muster_store::{ErrorKind, Store, StoreError};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The name of the file in the data directory.
pub const FILE: &str = "admin.token";
/// What the token is called in the journal.
const NAME: &str = "admin";

/// Why there is no admin token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file could not be read or written.
    #[error("could not {doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The database did not take the token.
    #[error("could not store the admin token in the database")]
    Store(#[source] StoreError),
}

/// Draws a new token: `muster_` and 64 hexadecimal digits.
pub fn draw(random: &dyn Random) -> String {
    let mut bytes = [0; 32];
    random.fill(&mut bytes);
    access::token_text(bytes)
}

/// Returns what is kept of a token.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Makes sure that the file `admin.token` of the data directory holds a token that works, and returns its path.
///
/// A token that was withdrawn or has lapsed is replaced by a new one: whoever can write this directory owns the server
/// anyway. The file is written before the database knows the token, so a crash between the two leaves a token that
/// nobody accepts, which the next start replaces.
pub async fn ensure(
    directory: &Path,
    store: &dyn Store,
    random: &dyn Random,
    now: Timestamp,
) -> Result<PathBuf, TokenError> {
    let path = directory.join(FILE);
    let file = |doing, source| TokenError::File { doing, path: path.clone(), source };
    let present = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(file("read", error)),
    };
    if let Some(token) = present {
        let row = store.token_find(hash(token.trim())).await.map_err(TokenError::Store)?;
        if row.is_some_and(|row| row.role == Role::Admin.as_str() && row.expires.is_none_or(|expires| expires > now)) {
            return Ok(path);
        }
    }
    let token = draw(random);
    private_file::write(&path, format!("{token}\n").as_bytes(), Readers::Owner)
        .map_err(|error| file("write", error))?;
    put(store, hash(&token), now).await.map_err(TokenError::Store)?;
    Ok(path)
}

/// Stores the token under a name of its own: other servers on the same database have theirs, and one whose file was
/// lost leaves its old name behind, with a token that nobody has any more.
async fn put(store: &dyn Store, sha256: [u8; 32], now: Timestamp) -> Result<(), StoreError> {
    let cause = Cause::server();
    let row = |name: String| TokenRow { name, sha256, role: Role::Admin.as_str().into(), created: now, expires: None };
    match store.token_put(row(NAME.into()), &cause).await {
        Err(error) if error.kind() == ErrorKind::Exists => {}
        other => return other,
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    store.token_put(row(format!("{NAME}@{host}-{}", hex::encode(&sha256[..4]))), &cause).await
}
