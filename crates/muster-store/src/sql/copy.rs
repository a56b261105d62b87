//! Backup and its return: a copy is a SQLite file of the same schema, whichever database it was made from.

use crate::db::dialect::sqlite_error as refuse;
use crate::db::sqlite::{self, Use};
use crate::db::value::{Row, Value, params};
use crate::db::{Tx, schema};
use crate::error::SchemaError;
use crate::{SqlStore, StoreError};
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// All tables, those that others refer to first. What is said of living servers is not worth keeping.
const TABLES: [&str; 40] = [
    "machines",
    "agent_labels",
    "agent_facts",
    "machine_environments",
    "named_targets",
    "contacts",
    "usage_records",
    "messages",
    "dead_letters",
    "events",
    "broadcasts",
    "broadcast_groups",
    "allocations",
    "broadcast_sent",
    "contents",
    "file_chunks",
    "files",
    "settings",
    "servers",
    "leases",
    "tokens",
    "enrol_tokens",
    "journal",
    "journal_head",
    "agent_sessions",
    "agent_times",
    "agent_trust",
    "fleet_counts",
    "investigators",
    "used_tokens",
    "modules",
    "agtmodreq",
    "invagtmodperm",
    "action_numbers",
    "action_rows",
    "action_jobs",
    "cancellations",
    "signatures",
    "command_rows",
    "result_rows",
];
/// Tables whose rows are numbered by the database, and the column.
const NUMBERED: [(&str, &str); 12] = [
    ("machines", "number"),
    ("contacts", "contact_id"),
    ("usage_records", "number"),
    ("messages", "number"),
    ("dead_letters", "number"),
    ("events", "number"),
    ("contents", "content"),
    ("journal", "number"),
    ("agent_sessions", "session"),
    ("investigators", "id"),
    ("modules", "id"),
    ("result_rows", "number"),
];
/// Rows moved at once, and the same for rows that hold pieces of files.
const ROWS: usize = 400;
const ROWS_OF_PIECES: usize = 16;
/// The setting that is raised when a copy is brought back, as decimal digits: whoever remembers another number knows
/// that the past may have changed.
const EPOCH: &str = "epoch";

const GET_EPOCH: &str = "SELECT value FROM settings WHERE name = $1";
const SET_EPOCH: &str = "INSERT INTO settings (name, value) VALUES ($1, $2) \
     ON CONFLICT (name) DO UPDATE SET value = excluded.value";

fn rows_at_once(table: &str) -> usize {
    if table == "file_chunks" { ROWS_OF_PIECES } else { ROWS }
}

fn io(path: &Path, what: &str, error: &std::io::Error) -> StoreError {
    let text = format!("cannot {what} {}: {error}", path.display());
    if error.kind() == std::io::ErrorKind::StorageFull {
        StoreError::Full(text.into())
    } else {
        StoreError::Unavailable(text.into())
    }
}

async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(run).await.unwrap_or_else(|error| Err(StoreError::Statement(error.into())))
}

/// Writes a copy, readable by its owner alone from its first byte on: it holds the authority's key. It appears under its
/// name when it is whole and synced.
pub(super) async fn backup(store: &SqlStore, path: &Path) -> Result<(), StoreError> {
    let taken = || StoreError::Refused(format!("{} exists already: name a new file", path.display()));
    if path.symlink_metadata().is_ok() {
        return Err(taken());
    }
    let making = Making::begin(path)?;
    let partial = making.file();
    match store.path() {
        Some(database) => {
            let (database, partial) = (database.to_owned(), partial.clone());
            blocking(move || vacuum_into(&database, &partial)).await?;
        }
        None => store.copy(partial, |tx, args| Box::pin(dump(tx, args))).await?,
    }
    let path = path.to_owned();
    blocking(move || making.publish(&path)).await
}

/// A copy in the making, in a directory of its own beside the place where it is to be. Nobody else can look into the
/// directory or lay anything into it, whoever may write around it; whatever happens, it goes with what is in it.
struct Making(PathBuf);

/// Names that are tried for the directory.
const NAMES_MAX: u32 = 100;

impl Making {
    fn begin(path: &Path) -> Result<Self, StoreError> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        for number in 0..NAMES_MAX {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".partial-{}-{number}", std::process::id()));
            let making = match std::fs::DirBuilder::new().mode(0o700).create(&name) {
                Ok(()) => Self(name.into()),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(io(Path::new(&name), "make", &error)),
            };
            // SQLite takes an empty file, and gives its journals the file's mode.
            let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(making.file());
            return file.map(|_| making).map_err(|error| io(path, "write", &error));
        }
        Err(StoreError::Refused(format!("beside {} are too many copies that were never finished", path.display())))
    }

    fn file(&self) -> PathBuf {
        self.0.join("copy.db")
    }

    /// Puts the copy under its name, never in the place of something else.
    fn publish(self, path: &Path) -> Result<(), StoreError> {
        let (partial, sync) = (self.file(), |path: &Path| std::fs::File::open(path).and_then(|file| file.sync_all()));
        sync(&partial).map_err(|error| io(&partial, "sync", &error))?;
        let placed = std::fs::hard_link(&partial, path).or_else(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => Err(error),
            // A file system without such links.
            _ if path.symlink_metadata().is_err() => std::fs::rename(&partial, path),
            _ => Err(error),
        });
        placed.map_err(|error| io(path, "write", &error))?;
        drop(self);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync(folder).map_err(|error| io(folder, "sync", &error))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // What cannot be removed lies in a directory that nobody else can look into.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn vacuum_into(database: &Path, partial: &Path) -> Result<(), StoreError> {
    let target = partial
        .to_str()
        .ok_or_else(|| StoreError::Refused(format!("the path {} is not valid UTF-8", partial.display())))?;
    let connection = sqlite::connect(database, Use::Write)?;
    connection.execute("VACUUM INTO ?1", [target]).map(drop).map_err(refuse)
}

/// Copies every table of one moment into a new SQLite file.
async fn dump(tx: &mut Tx, partial: &Path) -> Result<(), StoreError> {
    let mut copy = Connection::open(partial).map_err(refuse)?;
    // Nobody reads the file before it is synced and renamed.
    copy.pragma_update(None, "synchronous", "OFF").map_err(refuse)?;
    schema::sqlite_migrate(&mut copy)?;
    copy.execute_batch("PRAGMA foreign_keys = OFF; BEGIN").map_err(refuse)?;
    // A new schema has rows of its own.
    for table in TABLES.iter().rev() {
        copy.execute(&format!("DELETE FROM {table}"), []).map_err(refuse)?;
    }
    for table in TABLES {
        // PostgreSQL keeps columns of its own, which are made of the others.
        let columns = columns(&copy, table)?.join(", ");
        tx.execute(format!("DECLARE copy_{table} NO SCROLL CURSOR FOR SELECT {columns} FROM {table}"), &[]).await?;
        let fetch = format!("FETCH {} FROM copy_{table}", rows_at_once(table));
        loop {
            let rows = tx.query(fetch.clone(), &[]).await?;
            if rows.is_empty() {
                break;
            }
            append(&copy, table, &columns, &rows)?;
        }
        tx.execute(format!("CLOSE copy_{table}"), &[]).await?;
    }
    copy.execute_batch("COMMIT").map_err(refuse)?;
    copy.close().map_err(|(_, error)| refuse(error))
}

fn places(columns: usize, rows: usize) -> String {
    let row = |row: usize| {
        let places = (1..=columns).map(|column| format!("${}", row * columns + column)).collect::<Vec<_>>().join(", ");
        format!("({places})")
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

fn columns(copy: &Connection, table: &str) -> Result<Vec<String>, StoreError> {
    let statement = copy.prepare(&format!("SELECT * FROM {table}")).map_err(refuse)?;
    Ok(statement.column_names().map(str::to_owned).collect())
}

fn append(copy: &Connection, table: &str, columns: &str, rows: &[Row]) -> Result<(), StoreError> {
    let width = rows.first().map_or(0, |row| row.0.len());
    let sql = format!("INSERT INTO {table} ({columns}) VALUES {}", places(width, 1).replace('$', "?"));
    let mut statement = copy.prepare_cached(&sql).map_err(refuse)?;
    for row in rows {
        statement.execute(rusqlite::params_from_iter(&row.0)).map_err(refuse)?;
    }
    Ok(())
}

/// Brings a copy back.
pub(super) async fn restore(store: &SqlStore, path: &Path) -> Result<(), StoreError> {
    SqlStore::backup_check(path).await?;
    store.copy(path.to_owned(), |tx, args| Box::pin(load(tx, args))).await
}

impl SqlStore {
    /// Checks that a file is a whole copy of a database of this program's schema. No database is looked at or changed.
    ///
    /// # Errors
    /// NotFound: there is no such file. Schema: it is that of another schema. Invalid: it is no copy, or is damaged.
    pub async fn backup_check(path: &Path) -> Result<(), StoreError> {
        if !path.exists() {
            return Err(StoreError::NotFound { what: "backup file", id: path.display().to_string() });
        }
        let path = path.to_owned();
        blocking(move || {
            let copy = whole(&path).map_err(|error| {
                let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                StoreError::Invalid(format!("it is no backup, or is damaged: {why}"))
            })?;
            match schema::check(schema::sqlite_version(&copy)?) {
                Err(SchemaError::Empty) => Err(StoreError::Invalid("it is no backup: it has no tables".to_owned())),
                checked => Ok(checked?),
            }
        })
        .await
    }
}

/// Opens a copy, if every page of it can be read.
fn whole(path: &Path) -> Result<Connection, StoreError> {
    let copy = open(path)?;
    let found: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(refuse)?;
    if found == "ok" { Ok(copy) } else { Err(StoreError::Invalid(found)) }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let copy = Connection::open_with_flags(path, flags).map_err(refuse)?;
    // What a file says of itself (views, expressions of its schema) runs nothing here.
    copy.pragma_update(None, "trusted_schema", "OFF").map_err(refuse)?;
    Ok(copy)
}

/// The schema of this program, without anything in it.
fn empty() -> Result<Connection, StoreError> {
    let mut empty = Connection::open_in_memory().map_err(refuse)?;
    schema::sqlite_migrate(&mut empty)?;
    Ok(empty)
}

/// Returns how many rows a new database has in each table.
fn rows_of_new() -> Result<Vec<(&'static str, i64)>, StoreError> {
    let new = empty()?;
    let rows = TABLES.into_iter().map(|table| {
        let count = format!("SELECT count(*) FROM {table}");
        Ok((table, new.query_row(&count, [], |row| row.get(0)).map_err(refuse)?))
    });
    rows.collect()
}

/// Refuses a database with anything in it but what a new one has: bringing a copy back replaces everything.
async fn emptiness_check(tx: &mut Tx) -> Result<(), StoreError> {
    for (table, new) in rows_of_new()? {
        // One more than a new database has is enough to know.
        let found = tx.query(format!("SELECT 1 FROM {table} LIMIT {}", new + 1), &[]).await?;
        if i64::try_from(found.len()).unwrap_or(i64::MAX) > new {
            let what = table.trim_end_matches("_rows").replace('_', " ");
            let text = format!("the database is not empty: it holds {what}; restore into a new one");
            return Err(StoreError::Refused(text));
        }
    }
    Ok(())
}

/// Returns the columns of a table as this program knows them, and makes sure that the copy has them and no others: no word
/// of the copy's gets into a statement.
fn known_columns(new: &Connection, copy: &Connection, table: &'static str) -> Result<Vec<String>, StoreError> {
    let odd = |what: String| StoreError::Refused(format!("the backup is not one of this program: {what}"));
    let kind = copy.query_row("SELECT type FROM sqlite_master WHERE name = ?1", [table], |row| row.get::<_, String>(0));
    if kind.as_deref().ok() != Some("table") {
        return Err(odd(format!("it has no table {table}")));
    }
    let (known, have) = (columns(new, table)?, columns(copy, table)?);
    let sorted = |columns: &[String]| columns.iter().cloned().collect::<BTreeSet<_>>();
    if known.len() != have.len() || sorted(&known) != sorted(&have) {
        return Err(odd(format!("its table {table} has other columns")));
    }
    Ok(known)
}

/// Returns the tables that are brought back, with their columns: what is said of living servers is not.
fn known_tables(copy: &Connection) -> Result<Vec<(&'static str, Vec<String>)>, StoreError> {
    let new = empty()?;
    let tables = TABLES.into_iter().filter(|table| *table != "servers");
    tables.map(|table| Ok((table, known_columns(&new, copy, table)?))).collect()
}

async fn load(tx: &mut Tx, path: &Path) -> Result<(), StoreError> {
    emptiness_check(tx).await?;
    let mut copy = open(path)?;
    let tables = known_tables(&copy)?;
    let before = epoch(tx).await?;
    for table in TABLES.iter().rev() {
        tx.execute(format!("DELETE FROM {table}"), &[]).await?;
    }
    for (table, known) in tables {
        load_table(tx, &mut copy, (table, &known)).await?;
    }
    for (table, column) in NUMBERED {
        tx.restart_numbers(table, column).await?;
    }
    let epoch = epoch(tx).await?.max(before) + 1;
    tx.execute(SET_EPOCH, params![EPOCH, epoch.to_string().into_bytes()]).await.map(drop)
}

async fn epoch(tx: &mut Tx) -> Result<u64, StoreError> {
    let Some(row) = tx.query_opt(GET_EPOCH, params![EPOCH]).await? else { return Ok(0) };
    let digits: Vec<u8> = row.only("settings")?;
    let number = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| StoreError::Inconsistent { table: "settings", id: format!("{EPOCH}: not a number") })
}

async fn load_table(
    tx: &mut Tx,
    copy: &mut Connection,
    (table, known): (&'static str, &[String]),
) -> Result<(), StoreError> {
    let (width, columns) = (known.len(), known.join(", "));
    let mut after = i64::MIN;
    loop {
        let page = read_page(copy, (table, known), after)?;
        let Some(last) = page.last else { return Ok(()) };
        after = last;
        let sql = format!("INSERT INTO {table} ({columns}) VALUES {}", places(width, page.values.len() / width));
        tx.execute(sql, &page.values).await?;
    }
}

/// Rows of a copy, one after the other.
struct Page {
    values: Vec<Value<'static>>,
    /// Where the next page starts; `None` after the last row.
    last: Option<i64>,
}

fn read_page(copy: &Connection, (table, columns): (&str, &[String]), after: i64) -> Result<Page, StoreError> {
    let sql = format!(
        "SELECT _rowid_, {} FROM {table} WHERE _rowid_ > ?1 ORDER BY _rowid_ LIMIT {}",
        columns.join(", "),
        rows_at_once(table)
    );
    let mut statement = copy.prepare_cached(&sql).map_err(refuse)?;
    let mut page = Page { values: Vec::new(), last: None };
    let mut rows = statement.query([after]).map_err(refuse)?;
    while let Some(row) = rows.next().map_err(refuse)? {
        page.last = Some(row.get(0).map_err(refuse)?);
        for column in 1..=columns.len() {
            page.values.push(sqlite::take(row.get_ref(column).map_err(refuse)?));
        }
    }
    Ok(page)
}
