//! A look at the database itself, for those who ask whether it can be relied on.

use crate::StoreError;
use crate::cluster::{DatabaseLook, Soundness};
use crate::db::Tx;
use crate::db::dialect::sqlite_error;
use crate::db::value::params;
use muster_core::limits;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::Path;
use std::time::{Duration, Instant};

/// Findings that are told, at most.
const FINDINGS_MAX: u32 = 20;
/// Steps of SQLite's between two looks at the time.
const STEPS: i32 = 10_000;

const CLOCK: &str = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000000 AS BIGINT)";
const ROOM_MISSING: &str = "SELECT to_regclass('pg_temp.muster_room') IS NULL";
const ROOM_CREATE: &str = "CREATE TEMPORARY TABLE muster_room (text TEXT) ON COMMIT DELETE ROWS";
/// Rows that are too short to be packed or moved elsewhere.
const ROOM_TAKE: &str = "INSERT INTO pg_temp.muster_room SELECT repeat('x', 1900) FROM generate_series(1, $1)";
/// What each of them takes.
const ROOM_ROW_BYTES: u64 = 2048;
const SETTINGS: &str = "SELECT CAST(name AS TEXT), CAST(setting AS TEXT) FROM pg_settings \
     WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off' ORDER BY 1";

/// Looks at PostgreSQL.
pub(super) async fn postgres(tx: &mut Tx, (): &()) -> Result<DatabaseLook, StoreError> {
    let clock = tx.query_one(CLOCK, &[]).await?.only("clock")?;
    let mut careless = Vec::new();
    for row in tx.query(SETTINGS, &[]).await? {
        let mut fields = row.fields("pg_settings");
        let (name, value): (String, String) = (fields.take()?, fields.take()?);
        careless.push(format!("{name}={value}"));
    }
    Ok(DatabaseLook { clock: Some(clock), careless, soundness: None })
}

/// Takes room on the disk of PostgreSQL, and gives it back at the end of the transaction. The table is the connection's own:
/// what is written to it needs room each time, and no log.
pub(super) async fn postgres_room(tx: &mut Tx) -> Result<(), StoreError> {
    let is_missing: bool = tx.query_one(ROOM_MISSING, &[]).await?.only("pg_class")?;
    if is_missing {
        tx.execute(ROOM_CREATE, &[]).await?;
    }
    let rows = i64::try_from(limits::ROOM_BYTES_MIN / ROOM_ROW_BYTES).unwrap_or(i64::MAX);
    tx.execute(ROOM_TAKE, params![rows]).await.map(drop)
}

/// Looks at the disk that an SQLite file lies on.
pub(super) fn sqlite_room(path: &Path) -> Result<(), StoreError> {
    let unknown = |error: rustix::io::Errno| StoreError::Unavailable(error.to_string().into());
    let found = rustix::fs::statvfs(path).map_err(unknown)?;
    // What is set aside for root is room for root.
    let blocks = if rustix::process::geteuid().is_root() { found.f_bfree } else { found.f_bavail };
    let free = blocks.saturating_mul(found.f_frsize);
    if free < limits::ROOM_BYTES_MIN {
        return Err(StoreError::Full(format!("{free} bytes are left beside {}", path.display()).into()));
    }
    Ok(())
}

/// Looks at an SQLite file for at most `patience`, beside whoever uses it. Unavailable: it cannot be opened.
pub fn sqlite_soundness(path: &Path, patience: Duration) -> Result<Soundness, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(sqlite_error)?;
    let started = Instant::now();
    connection.progress_handler(STEPS, Some(move || started.elapsed() > patience)).map_err(sqlite_error)?;
    let lines = || {
        let mut statement = connection.prepare(&format!("PRAGMA quick_check({FINDINGS_MAX})"))?;
        let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
        lines.collect::<Result<Vec<_>, _>>()
    };
    match lines() {
        Ok(lines) if lines == ["ok"] => Ok(Soundness::Sound),
        Ok(lines) => Ok(Soundness::Damaged(lines)),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => Ok(Soundness::Unfinished),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Ok(Soundness::Damaged(vec![error.to_string()]))
            }
            _ => Err(sqlite_error(error)),
        },
    }
}
