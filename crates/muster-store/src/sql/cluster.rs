//! What servers share.

use super::{copy, journal, look, retention, tokens};
use crate::cluster::{
    ClusterStore, DatabaseLook, EnrolTokenRow, JournalRow, Lease, MessagesSwept, Retention, ServerRow, TokenRow,
};
use crate::db::Tx;
use crate::db::value::params;
use crate::{SqlStore, StoreError};
use async_trait::async_trait;
use muster_core::{Cause, ServerId, Timestamp};
use std::path::Path;
use std::time::Duration;

const PING: &str = "INSERT INTO settings (name, value) VALUES ('ping', $1) \
     ON CONFLICT (name) DO UPDATE SET value = excluded.value";
const GET: &str = "SELECT value FROM settings WHERE name = $1";
const INIT: &str = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
const PUT: &str = "INSERT INTO settings (name, value) VALUES ($1, $2) \
     ON CONFLICT (name) DO UPDATE SET value = excluded.value";
const BEAT: &str = "INSERT INTO servers (server_id, wake_url, started, beat) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (server_id) DO UPDATE SET wake_url = excluded.wake_url, beat = excluded.beat";
const FORGET: &str = "DELETE FROM servers WHERE beat < $1 AND server_id <> $2";
const LIVING: &str = "SELECT server_id, wake_url, started, beat FROM servers WHERE beat >= $1 ORDER BY server_id";
const END: &str = "DELETE FROM servers WHERE server_id = $1";
const CLAIM: &str = "INSERT INTO leases (job, owner, until, fence) VALUES ($1, $2, $3, 1) ON CONFLICT (job) \
     DO UPDATE SET owner = excluded.owner, until = excluded.until, fence = CASE WHEN leases.owner = excluded.owner \
     THEN leases.fence ELSE leases.fence + 1 END WHERE leases.owner = excluded.owner OR leases.until <= $4 \
     RETURNING fence";
const RELEASE: &str = "UPDATE leases SET until = $4 WHERE job = $1 AND owner = $2 AND fence = $3";
const JOURNAL: &str = "SELECT number, at, actor, request, reason, action, subject, details FROM journal \
     WHERE number < $1 ORDER BY number DESC LIMIT $2";

async fn ping(tx: &mut Tx, (): &()) -> Result<(), StoreError> {
    tx.execute(PING, params![Vec::<u8>::new()]).await.map(drop)
}

async fn setting_get(tx: &mut Tx, name: &String) -> Result<Option<Vec<u8>>, StoreError> {
    tx.query_opt(GET, params![name]).await?.map(|row| row.only("settings")).transpose()
}

async fn setting_init(tx: &mut Tx, (name, value): &(String, Vec<u8>)) -> Result<Vec<u8>, StoreError> {
    tx.execute(INIT, params![name, value]).await?;
    tx.query_one(GET, params![name]).await?.only("settings")
}

async fn setting_put(
    tx: &mut Tx,
    (name, value, now, cause): &(String, Vec<u8>, Timestamp, Cause),
) -> Result<(), StoreError> {
    tx.execute(PUT, params![name, value]).await?;
    // The value may be a secret.
    journal::write(tx, *now, cause, "setting.put", name, &serde_json::json!({})).await
}

async fn beat(tx: &mut Tx, (server, dead_before): &(ServerRow, Timestamp)) -> Result<Vec<ServerRow>, StoreError> {
    tx.execute(BEAT, params![&server.id, &server.wake_url, server.started, server.beat]).await?;
    tx.execute(FORGET, params![*dead_before, &server.id]).await?;
    living(tx, dead_before).await
}

async fn living(tx: &mut Tx, dead_before: &Timestamp) -> Result<Vec<ServerRow>, StoreError> {
    let mut living = Vec::new();
    for row in tx.query(LIVING, params![*dead_before]).await? {
        let mut fields = row.fields("servers");
        living.push(ServerRow {
            id: fields.take()?,
            wake_url: fields.take()?,
            started: fields.take()?,
            beat: fields.take()?,
        });
    }
    Ok(living)
}

async fn end(tx: &mut Tx, id: &ServerId) -> Result<(), StoreError> {
    tx.execute(END, params![id]).await.map(drop)
}

struct LeaseClaim {
    job: String,
    owner: ServerId,
    until: Timestamp,
    now: Timestamp,
}

async fn lease_claim(tx: &mut Tx, args: &LeaseClaim) -> Result<Option<Lease>, StoreError> {
    let row = tx.query_opt(CLAIM, params![&args.job, &args.owner, args.until, args.now]).await?;
    let Some(row) = row else { return Ok(None) };
    let fence = row.only("leases")?;
    Ok(Some(Lease { job: args.job.clone(), owner: args.owner, until: args.until, fence }))
}

async fn lease_release(tx: &mut Tx, lease: &Lease) -> Result<(), StoreError> {
    // The row stays, and its number with it.
    tx.execute(RELEASE, params![&lease.job, &lease.owner, lease.fence, i64::MIN]).await.map(drop)
}

async fn journal_put(tx: &mut Tx, row: &JournalRow) -> Result<(), StoreError> {
    journal::write_text(tx, row.at, &row.cause, &row.action, &row.subject, &row.details).await
}

async fn journal_page(tx: &mut Tx, (before, limit): &(Option<i64>, u32)) -> Result<Vec<JournalRow>, StoreError> {
    let mut lines = Vec::new();
    for row in tx.query(JOURNAL, params![before.unwrap_or(i64::MAX), *limit]).await? {
        let mut fields = row.fields("journal");
        lines.push(JournalRow {
            number: fields.take()?,
            at: fields.take()?,
            cause: Cause { actor: fields.take()?, request: fields.take()?, reason: fields.take()? },
            action: fields.take()?,
            subject: fields.take()?,
            details: fields.take()?,
        });
    }
    Ok(lines)
}

#[async_trait]
impl ClusterStore for SqlStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.write((), |tx, args| Box::pin(ping(tx, args))).await
    }

    async fn room_check(&self) -> Result<(), StoreError> {
        match self.path() {
            Some(path) => look::sqlite_room(path),
            None => self.write((), |tx, ()| Box::pin(look::postgres_room(tx))).await,
        }
    }

    async fn database_look(&self, patience: Duration) -> Result<DatabaseLook, StoreError> {
        let Some(path) = self.path().map(Path::to_owned) else {
            return self.read((), |tx, args| Box::pin(look::postgres(tx, args))).await;
        };
        let look = tokio::task::spawn_blocking(move || look::sqlite_soundness(&path, patience));
        let soundness = look.await.map_err(|error| StoreError::Statement(error.into()))??;
        Ok(DatabaseLook { soundness: Some(soundness), ..DatabaseLook::default() })
    }

    async fn setting_get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(name.to_owned(), |tx, args| Box::pin(setting_get(tx, args))).await
    }

    async fn setting_init(&self, name: &str, value: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        self.write((name.to_owned(), value), |tx, args| Box::pin(setting_init(tx, args))).await
    }

    async fn setting_put(&self, name: &str, value: Vec<u8>, now: Timestamp, cause: &Cause) -> Result<(), StoreError> {
        let args = (name.to_owned(), value, now, cause.clone());
        self.write(args, |tx, args| Box::pin(setting_put(tx, args))).await
    }

    async fn server_beat(&self, server: ServerRow, dead_before: Timestamp) -> Result<Vec<ServerRow>, StoreError> {
        self.write((server, dead_before), |tx, args| Box::pin(beat(tx, args))).await
    }

    async fn server_list(&self, dead_before: Timestamp) -> Result<Vec<ServerRow>, StoreError> {
        self.read(dead_before, |tx, args| Box::pin(living(tx, args))).await
    }

    async fn server_end(&self, id: ServerId) -> Result<(), StoreError> {
        self.write(id, |tx, args| Box::pin(end(tx, args))).await
    }

    async fn lease_claim(
        &self,
        job: &str,
        owner: ServerId,
        life: Duration,
        now: Timestamp,
    ) -> Result<Option<Lease>, StoreError> {
        let args = LeaseClaim { job: job.to_owned(), owner, until: now.plus(life), now };
        self.write(args, |tx, args| Box::pin(lease_claim(tx, args))).await
    }

    async fn lease_release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.write(lease.clone(), |tx, args| Box::pin(lease_release(tx, args))).await
    }

    async fn token_put(&self, token: TokenRow, cause: &Cause) -> Result<(), StoreError> {
        self.write((token, cause.clone()), |tx, args| Box::pin(tokens::put(tx, args))).await
    }

    async fn token_find(&self, sha256: [u8; 32]) -> Result<Option<TokenRow>, StoreError> {
        self.read(sha256, |tx, args| Box::pin(tokens::find(tx, args))).await
    }

    async fn token_list(&self) -> Result<Vec<TokenRow>, StoreError> {
        self.read((), |tx, args| Box::pin(tokens::list(tx, args))).await
    }

    async fn token_delete(&self, name: &str, now: Timestamp, cause: &Cause) -> Result<bool, StoreError> {
        self.write((name.to_owned(), now, cause.clone()), |tx, args| Box::pin(tokens::delete(tx, args))).await
    }

    async fn enrol_token_put(&self, token: EnrolTokenRow, cause: &Cause) -> Result<(), StoreError> {
        self.write((token, cause.clone()), |tx, args| Box::pin(tokens::put_enrol(tx, args))).await
    }

    async fn enrol_token_list(&self) -> Result<Vec<EnrolTokenRow>, StoreError> {
        self.read((), |tx, args| Box::pin(tokens::list_enrol(tx, args))).await
    }

    async fn enrol_token_delete(&self, name: &str, now: Timestamp, cause: &Cause) -> Result<bool, StoreError> {
        self.write((name.to_owned(), now, cause.clone()), |tx, args| Box::pin(tokens::delete_enrol(tx, args))).await
    }

    async fn journal_put(&self, row: JournalRow) -> Result<(), StoreError> {
        self.write(row, |tx, args| Box::pin(journal_put(tx, args))).await
    }

    async fn journal_page(&self, before: Option<i64>, limit: u32) -> Result<Vec<JournalRow>, StoreError> {
        self.read((before, limit), |tx, args| Box::pin(journal_page(tx, args))).await
    }

    async fn messages_sweep(&self, before: Timestamp, after: i64, limit: u32) -> Result<MessagesSwept, StoreError> {
        self.write((before, after, limit), |tx, args| Box::pin(retention::messages(tx, args))).await
    }

    async fn retention_sweep(&self, retention: Retention, limit: u32) -> Result<u64, StoreError> {
        self.write((retention, limit), |tx, args| Box::pin(retention::sweep(tx, args))).await
    }

    async fn backup(&self, path: &Path) -> Result<(), StoreError> {
        copy::backup(self, path).await
    }

    async fn restore(&self, path: &Path) -> Result<(), StoreError> {
        copy::restore(self, path).await
    }
}
