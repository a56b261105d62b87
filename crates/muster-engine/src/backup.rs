//! Backups that a person asks for.

use crate::access::{Caller, Permission};
use crate::engine::{Engine, OperatorError};
use crate::mailbox::Line;
use serde_json::json;
use std::path::Path;

impl Engine {
    /// Writes a consistent copy of everything to `path`, as a SQLite file, whichever the database, and a line about it into
    /// the journal. It holds the authority's key. Without the line the copy must not be handed out: then this fails, and
    /// the caller deletes it.
    ///
    /// # Errors
    ///
    /// When the caller may not take backups, or the store fails.
    pub async fn backup(&self, path: &Path, caller: &Caller) -> Result<(), OperatorError> {
        let cause = caller.require(Permission::BackupTake)?;
        let inner = &self.inner;
        let failed = |failure| inner.operator_error("write the backup", failure);
        inner.store.backup(path).await.map_err(failed)?;
        let line = Line { cause, action: "server.backup", subject: String::new(), details: json!({}) };
        inner.store.journal_put(line.row(self.now())).await.map_err(failed)
    }
}
