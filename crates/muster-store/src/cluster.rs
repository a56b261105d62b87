//! What servers share: who is alive, settings, leases, access tokens, the journal, and the end of old rows.

use crate::StoreError;
use async_trait::async_trait;
use muster_core::{Cause, ServerId, Timestamp};
use std::time::Duration;

/// A server that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRow {
    /// Which run of which process.
    pub id: ServerId,
    /// Where other servers can wake it.
    pub wake_url: String,
    /// When it started.
    pub started: Timestamp,
    /// When it last said that it lives.
    pub beat: Timestamp,
}

/// A right to do a job alone for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The job.
    pub job: String,
    /// Who holds it.
    pub owner: ServerId,
    /// Until when.
    pub until: Timestamp,
    /// Grows with each new holder; a holder with an old number has lost the job.
    pub fence: i64,
}

/// A bearer token of the operators' or admin door. Only its hash is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its name, which the journal shows.
    pub name: String,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
    /// What it may do, as the engine writes it: roles and permissions.
    pub role: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it lapses, if ever.
    pub expires: Option<Timestamp>,
}

/// A token that lets machines enrol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolTokenRow {
    /// Its name.
    pub name: String,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
    /// How many machines it may still let in.
    pub uses_left: u64,
    /// Labels of service `operator` that each of them is given.
    pub labels: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it lapses, if ever.
    pub expires: Option<Timestamp>,
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRow {
    /// Its number; grows.
    pub number: i64,
    /// When.
    pub at: Timestamp,
    /// Who, with which request and why.
    pub cause: Cause,
    /// What was done, such as `agent.block`.
    pub action: String,
    /// To what, such as an agent's id.
    pub subject: String,
    /// The details, as JSON.
    pub details: String,
}

/// How old rows may become before retention deletes them.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Contacts and usage records created before this moment go.
    pub contacts_before: Timestamp,
    /// File contents that no name leads to and that were begun before this moment go.
    pub contents_before: Timestamp,
    /// Broadcasts that ended before this moment go.
    pub broadcasts_before: Timestamp,
    /// That two machines seemed to share a key is forgotten when it was last so before this moment.
    pub clones_before: Timestamp,
}

/// What a step of the walk through old messages did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessagesSwept {
    /// How many were deleted.
    pub deleted: u64,
    /// After which number the walk goes on; `None` when it came to messages that are not old.
    pub next: Option<i64>,
}

/// What a look at the database itself found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DatabaseLook {
    /// What its clock said during the look; `None` for one that has none of its own.
    pub clock: Option<Timestamp>,
    /// Settings under which a crash of its machine loses what was acknowledged, each as `name=value`.
    pub careless: Vec<String>,
    /// What SQLite's own check said; `None` for a database that does not offer one.
    pub soundness: Option<Soundness>,
}

/// What SQLite's own check of a file said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Soundness {
    /// Nothing is wrong.
    Sound,
    /// Something is: the first findings.
    Damaged(Vec<String>),
    /// Nothing was found in the time that was given.
    Unfinished,
}

/// What servers share.
#[async_trait]
pub trait ClusterStore: Send + Sync {
    /// Succeeds when the database answers and a write could be committed now.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Fails with [`StoreError::Full`] when the disk of the database has less room than
    /// [`muster_core::limits::ROOM_BYTES_MIN`]. Where that cannot be found out, it fails otherwise.
    async fn room_check(&self) -> Result<(), StoreError>;

    /// Looks at the database itself: its clock, its settings, and for at most `patience` at its soundness. Changes
    /// nothing.
    async fn database_look(&self, patience: Duration) -> Result<DatabaseLook, StoreError>;

    /// Returns a setting.
    async fn setting_get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Sets a setting if it is not set, and returns what it is now: of two that race, both get the winner's.
    async fn setting_init(&self, name: &str, value: Vec<u8>) -> Result<Vec<u8>, StoreError>;

    /// Sets a setting.
    async fn setting_put(&self, name: &str, value: Vec<u8>, now: Timestamp, cause: &Cause) -> Result<(), StoreError>;

    /// Says that a server lives, and forgets those that did not since `dead_before`. Returns the living, by id.
    async fn server_beat(&self, server: ServerRow, dead_before: Timestamp) -> Result<Vec<ServerRow>, StoreError>;

    /// Returns the servers that said so at `dead_before` or later, by id. Writes nothing.
    async fn server_list(&self, dead_before: Timestamp) -> Result<Vec<ServerRow>, StoreError>;

    /// Says that a server has stopped.
    async fn server_end(&self, id: ServerId) -> Result<(), StoreError>;

    /// Takes or keeps a job until `now + life`. `None`: another server holds it.
    async fn lease_claim(
        &self,
        job: &str,
        owner: ServerId,
        life: Duration,
        now: Timestamp,
    ) -> Result<Option<Lease>, StoreError>;

    /// Gives a job back, if it is still held under this fence.
    async fn lease_release(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Keeps a token. Exists: the name.
    async fn token_put(&self, token: TokenRow, cause: &Cause) -> Result<(), StoreError>;

    /// Returns the token of this hash, lapsed or not.
    async fn token_find(&self, sha256: [u8; 32]) -> Result<Option<TokenRow>, StoreError>;

    /// Returns all tokens by name.
    async fn token_list(&self) -> Result<Vec<TokenRow>, StoreError>;

    /// Withdraws a token. `false`: there was none.
    async fn token_delete(&self, name: &str, now: Timestamp, cause: &Cause) -> Result<bool, StoreError>;

    /// Keeps an enrolment token. Exists: the name.
    async fn enrol_token_put(&self, token: EnrolTokenRow, cause: &Cause) -> Result<(), StoreError>;

    /// Returns all enrolment tokens by name.
    async fn enrol_token_list(&self) -> Result<Vec<EnrolTokenRow>, StoreError>;

    /// Withdraws an enrolment token. `false`: there was none.
    async fn enrol_token_delete(&self, name: &str, now: Timestamp, cause: &Cause) -> Result<bool, StoreError>;

    /// Writes a line of the journal for a change that has no row of its own (an order given as a message).
    /// `number` is ignored.
    async fn journal_put(&self, row: JournalRow) -> Result<(), StoreError>;

    /// Returns lines of the journal, newest first, below `before`.
    async fn journal_page(&self, before: Option<i64>, limit: u32) -> Result<Vec<JournalRow>, StoreError>;

    /// Looks at up to `limit` messages with numbers greater than `after`, in their order, and deletes those that are
    /// done, failed or parked and were created before `before`. Pending ones stay, however old.
    async fn messages_sweep(&self, before: Timestamp, after: i64, limit: u32) -> Result<MessagesSwept, StoreError>;

    /// Deletes up to `limit` old rows of each kind but messages. Returns how many; 0 when nothing is left to delete.
    async fn retention_sweep(&self, retention: Retention, limit: u32) -> Result<u64, StoreError>;

    /// Writes a consistent copy of everything into a new SQLite file at `path`, whichever database this is.
    async fn backup(&self, path: &std::path::Path) -> Result<(), StoreError>;

    /// Fills this empty database from a copy that [`ClusterStore::backup`] wrote, and raises the setting `epoch` by one.
    /// Refused: the database holds agents. Schema: the copy is of another version.
    async fn restore(&self, path: &std::path::Path) -> Result<(), StoreError>;
}
