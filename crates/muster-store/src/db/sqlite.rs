//! SQLite: connections, their settings, and statements on them.
//!
//! Stays true: one process holds the file (a lock file beside it says so); what is committed is synced.

use super::dialect::{self, Insert, Singles};
use super::value::{Row, Value};
use super::{Sql, dialect::sqlite_error as refuse};
use crate::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSql, ToSqlOutput, Value as Owned, ValueRef};
use rusqlite::{CachedStatement, Connection, OpenFlags, Statement};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The first version without the bug that could damage a log that is reset while it is read.
const VERSION_MIN: i32 = 3_051_003;
/// Bytes of a page of a new file. A commit writes whole pages, and the ids of messages lie in random ones of their index:
/// twice as many bytes cost a quarter of the contacts, measured.
const PAGE_BYTES: u32 = 4096;
/// Memory for pages of each connection. No more, because SQLite looks through the whole of it at the end of a
/// transaction that parted a page of an index; a page that is not in it is in the system's cache. The writer's time for a
/// contact was a quarter longer with eight times as much, measured.
const CACHE_KIB: i64 = 8 * 1024;
/// Bytes of the log beyond which its file is cut when it starts anew: as much as a busy writer fills before that, because
/// a commit into a file that need not grow takes half the time.
const LOG_BYTES_KEPT: i64 = 64 * 1024 * 1024;
/// How long a statement waits for a lock that only a checkpoint or a backup can hold.
const LOCK_WAIT_MS: u64 = 5_000;
/// Steps of SQLite's machine between two looks at the clock, in statements that may not take long.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;
/// Statements kept ready on each connection.
const STATEMENTS_KEPT: usize = 256;

/// The mode of files that are made.
const PRIVATE: u32 = 0o600;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Write,
    Read,
    /// A long transaction that sees one moment: a backup, or its return.
    Copy,
}

/// The lock that tells a second server that the file is taken. Freed when the last holder goes.
#[derive(Debug)]
pub(crate) struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes the lock beside `path`. One that root makes is given to whom the database belongs, as SQLite does with its files:
    /// root's would lock that account out.
    pub(crate) fn take(path: &Path) -> Result<Self, StoreError> {
        let lock = lock_path(path);
        let file = open_lock(path, &lock).map_err(|error| {
            let text = format!("cannot open the lock file {}: {error}", lock.display());
            StoreError::Unavailable(text.into())
        })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::Refused(format!(
                "the database {} is in use by another process: one server may use a SQLite file (stop the other, or \
                 use PostgreSQL for several servers)",
                path.display()
            ))),
            Err(std::fs::TryLockError::Error(error)) => Err(StoreError::Unavailable(error.into())),
        }
    }
}

fn open_lock(path: &Path, lock: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    // A link is followed for nobody: it could lead root to a file of somebody else.
    let mut open = File::options();
    open.write(true).mode(PRIVATE).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    match open.clone().create_new(true).open(lock) {
        Ok(file) => {
            if rustix::process::geteuid().is_root()
                && let Ok(database) = std::fs::symlink_metadata(path)
            {
                fchown(&file, Some(database.uid()), Some(database.gid()))?;
            }
            Ok(file)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => open.open(lock),
        Err(error) => Err(error),
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Makes the file if it is not there, for its owner's eyes only: it holds the authority's key. SQLite gives the files
/// beside it the same mode.
fn make_private(path: &Path) -> Result<(), StoreError> {
    match File::options().write(true).create_new(true).mode(PRIVATE).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StoreError::Unavailable(format!("cannot make the database {}: {error}", path.display()).into()))
        }
        _ => Ok(()),
    }
}

/// Opens a connection and sets it up.
pub(crate) fn connect(path: &Path, purpose: Use) -> Result<Connection, StoreError> {
    let version = rusqlite::version_number();
    if version < VERSION_MIN {
        let text = format!("SQLite {} can damage its log: 3.51.3 or newer is needed", rusqlite::version());
        return Err(StoreError::Refused(text));
    }
    make_private(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(refuse)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    connection.busy_timeout(Duration::from_millis(LOCK_WAIT_MS)).map_err(refuse)?;
    let set = |name: &str, value: i64| connection.pragma_update(None, name, value).map_err(refuse);
    set("page_size", i64::from(PAGE_BYTES))?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)).map_err(refuse).and_then(
        |mode| if mode == "wal" { Ok(()) } else { Err(StoreError::Refused(format!("journal mode {mode}"))) },
    )?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(refuse)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(refuse)?;
    set("cache_size", -CACHE_KIB)?;
    set("journal_size_limit", LOG_BYTES_KEPT)?;
    // Checkpoints are made by hand, because SQLite passes over the errors of its own.
    set("wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(refuse)?;
    if purpose == Use::Read {
        connection.pragma_update(None, "query_only", true).map_err(refuse)?;
    }
    // Without this, a statement is planned anew whenever a value that its plan might depend on is bound: one sixth of the
    // writer's time, measured. The plans here depend on no value.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(refuse)?;
    rusqlite::vtab::array::load_module(&connection).map_err(refuse)?;
    super::functions::register(&connection)?;
    Ok(connection)
}

/// Returns how large the pages of an open file are, in bytes.
pub(crate) fn page_bytes(connection: &Connection) -> Result<u32, StoreError> {
    connection.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(refuse)
}

/// A connection with the statements it knows.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    texts: HashMap<(Sql, Singles), Box<str>>,
    inserts: HashMap<&'static str, Box<str>>,
}

impl Session {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection, texts: HashMap::new(), inserts: HashMap::new() }
    }

    /// Runs a statement that takes nothing and gives nothing.
    pub(crate) fn run(&self, sql: &'static str) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(refuse)?;
        statement.raw_execute().map(drop).map_err(refuse)
    }

    fn prepare(&mut self, sql: Sql, params: &[Value<'_>]) -> Result<CachedStatement<'_>, StoreError> {
        let singles = Singles::of(params);
        let key = (sql, singles);
        let text = self.texts.entry(key).or_insert_with_key(|(sql, singles)| dialect::sqlite_of(sql, *singles).into());
        let mut statement = self.connection.prepare_cached(text).map_err(refuse)?;
        bind(&mut statement, params, singles)?;
        Ok(statement)
    }

    pub(super) fn query(&mut self, sql: Sql, params: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let mut statement = self.prepare(sql, params)?;
        rows(&mut statement)
    }

    /// A statement that is not kept for good.
    fn made(&self, sql: &str, params: &[Value<'_>]) -> Result<CachedStatement<'_>, StoreError> {
        let singles = Singles::of(params);
        let mut statement = self.connection.prepare_cached(&dialect::sqlite_of(sql, singles)).map_err(refuse)?;
        bind(&mut statement, params, singles)?;
        Ok(statement)
    }

    pub(super) fn query_made(&mut self, sql: &str, params: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let mut statement = self.made(sql, params)?;
        rows(&mut statement)
    }

    pub(super) fn execute_made(&mut self, sql: &str, params: &[Value<'_>]) -> Result<u64, StoreError> {
        Ok(self.made(sql, params)?.raw_execute().map_err(refuse)? as u64)
    }

    /// Runs a statement for at most `limit` and keeps nothing of it.
    pub(super) fn query_once(
        &mut self,
        sql: &str,
        params: &[Value<'_>],
        limit: Duration,
    ) -> Result<Vec<Row>, StoreError> {
        let end = Instant::now() + limit;
        self.connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || Instant::now() > end)).map_err(refuse)?;
        let rows = self.query_made(sql, params);
        self.connection.progress_handler(0, None::<fn() -> bool>).map_err(refuse)?;
        rows
    }

    pub(super) fn execute(&mut self, sql: Sql, params: &[Value<'_>]) -> Result<u64, StoreError> {
        let mut statement = self.prepare(sql, params)?;
        Ok(statement.raw_execute().map_err(refuse)? as u64)
    }

    pub(super) fn insert_many(&mut self, insert: &'static Insert, rows: &[Value<'_>]) -> Result<Vec<bool>, StoreError> {
        let text = self.inserts.entry(insert.table).or_insert_with(|| insert.sqlite().into());
        let mut statement = self.connection.prepare_cached(text).map_err(refuse)?;
        let mut new = Vec::with_capacity(rows.len() / insert.columns.len());
        for row in rows.chunks_exact(insert.columns.len()) {
            bind(&mut statement, row, Singles::default())?;
            new.push(statement.raw_execute().map_err(refuse)? == 1);
        }
        Ok(new)
    }
}

fn rows(statement: &mut Statement<'_>) -> Result<Vec<Row>, StoreError> {
    let columns = statement.column_count();
    let mut rows = statement.raw_query();
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(refuse)? {
        let mut values = Vec::with_capacity(columns);
        for column in 0..columns {
            values.push(take(row.get_ref(column).map_err(refuse)?));
        }
        out.push(Row(values));
    }
    Ok(out)
}

fn bind(statement: &mut CachedStatement<'_>, params: &[Value<'_>], singles: Singles) -> Result<(), StoreError> {
    for (index, value) in params.iter().enumerate() {
        match value.single().filter(|_| singles.has(index)) {
            Some(single) => statement.raw_bind_parameter(index + 1, single),
            None => statement.raw_bind_parameter(index + 1, value),
        }
        .map_err(refuse)?;
    }
    Ok(())
}

/// Copies a column. Text that is no UTF-8 stays bytes, and then fits no text field.
pub(crate) fn take(value: ValueRef<'_>) -> Value<'static> {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::Text(Cow::Owned(text.to_owned())),
            Err(_) => Value::Bytes(Cow::Owned(bytes.to_vec())),
        },
        ValueRef::Blob(bytes) => Value::Bytes(Cow::Owned(bytes.to_vec())),
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let list = |values: Vec<Owned>| ToSqlOutput::from_rc(Rc::new(values), c"rarray");
        Ok(match self {
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Value::Int(number) => ToSqlOutput::Borrowed(ValueRef::Integer(*number)),
            Value::Real(number) => ToSqlOutput::Borrowed(ValueRef::Real(*number)),
            Value::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Value::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            Value::IntList(numbers) => list(numbers.iter().map(|number| Owned::Integer(*number)).collect()),
            Value::TextList(texts) => list(texts.iter().map(|text| Owned::Text((*text).to_owned())).collect()),
            Value::BytesList(items) => list(items.iter().map(|bytes| Owned::Blob(bytes.to_vec())).collect()),
        })
    }
}
