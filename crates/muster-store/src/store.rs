//! [`SqlStore`]: the store on SQLite or on PostgreSQL.

use crate::StoreError;
use crate::db::create::{self, Created, Roles};
use crate::db::postgres::{self, Target};
use crate::db::sqlite::{self, FileLock, Use};
use crate::db::{Body, durability, schema, threads};
use crate::error::SchemaError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Connections to PostgreSQL at most. SQLite has one that writes and a few that read.
    pub connections: usize,
    /// How long one call to PostgreSQL may take in all. A call to SQLite takes as long as the disk does.
    pub call_limit: Duration,
    /// How long a call goes on trying when PostgreSQL cannot be reached.
    pub retry_for: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { connections: 16, call_limit: Duration::from_secs(30), retry_for: Duration::from_secs(2) }
    }
}

/// Which database a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseKind {
    /// A file of this machine.
    Sqlite(PathBuf),
    /// A server, or several.
    Postgres,
}

impl DatabaseKind {
    /// Reads a database URL: `postgres://…` or `postgresql://…`; `sqlite:PATH`, `sqlite://PATH` or a plain path.
    pub fn of(url: &str) -> Result<Self, StoreError> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres);
        }
        let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or(url);
        if path.is_empty() || path.starts_with(':') || (path == url && url.contains("://")) {
            let hint = "write sqlite:PATH or postgres://USER@HOST/NAME";
            // What stands before the colon holds no password.
            let scheme = url.split(':').next().unwrap_or_default();
            return Err(StoreError::Refused(format!("a database URL of the kind {scheme:?} is not known: {hint}")));
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

/// The store. Cheap to clone; the database is closed when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct SqlStore {
    database: Arc<Database>,
    broken: watch::Receiver<Option<String>>,
    weaknesses: Arc<[String]>,
}

#[derive(Debug)]
enum Database {
    Sqlite { path: PathBuf, threads: threads::Database },
    Postgres(postgres::Database),
}

impl SqlStore {
    /// Opens a database whose schema is this program's. Nothing is changed.
    ///
    /// Schema: it has none, an older one, or a newer one. Refused: another process has the SQLite file. Unavailable:
    /// PostgreSQL cannot be reached.
    pub async fn open(url: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        let (say_broken, broken) = watch::channel(None);
        let mut weaknesses = Vec::new();
        let database = match DatabaseKind::of(url)? {
            DatabaseKind::Sqlite(path) => {
                let open = move || Self::open_sqlite(path, say_broken);
                tokio::task::spawn_blocking(open).await.map_err(|error| StoreError::Statement(error.into()))??
            }
            DatabaseKind::Postgres => {
                let target = Target::parse(url, options)?;
                let client = target.connect().await?;
                let version = schema::postgres_version(&client).await?;
                if version.is_none() {
                    schema::postgres_elsewhere(&client).await?;
                }
                schema::check(version)?;
                weaknesses = durability::weaknesses(&client).await?;
                Database::Postgres(postgres::Database::new(&target, options, say_broken)?)
            }
        };
        for weakness in &weaknesses {
            tracing::warn!("{weakness}");
        }
        Ok(Self { database: Arc::new(database), broken, weaknesses: weaknesses.into() })
    }

    fn open_sqlite(path: PathBuf, broken: threads::Broken) -> Result<Database, StoreError> {
        if !path.exists() {
            return Err(SchemaError::Empty.into());
        }
        let lock = FileLock::take(&path)?;
        let connection = sqlite::connect(&path, Use::Write)?;
        schema::check(schema::sqlite_version(&connection)?)?;
        let threads = threads::Database::start(&path, connection, lock, broken)?;
        Ok(Database::Sqlite { path, threads })
    }

    /// Brings a database to this program's schema, and creates the SQLite file if there is none. Returns the version it
    /// had before; `None` for an empty one. Schema: it is newer than this program. Refused: a server has the file.
    pub async fn migrate(url: &str) -> Result<Option<i64>, StoreError> {
        match DatabaseKind::of(url)? {
            DatabaseKind::Sqlite(path) => {
                let migrate = move || migrate_sqlite(&path);
                tokio::task::spawn_blocking(migrate).await.map_err(|error| StoreError::Statement(error.into()))?
            }
            DatabaseKind::Postgres => {
                // A migration takes as long as it takes.
                let options = StoreOptions { call_limit: Duration::from_hours(24), ..StoreOptions::default() };
                schema::postgres_migrate(&Target::parse(url, &options)?).await
            }
        }
    }

    /// Makes a database, or brings one to this program's schema: for SQLite the file; for PostgreSQL, in a database that
    /// is there already, the roles, their schema, the tables and the rights. `url` names somebody who may make roles.
    /// Twice is once. Refused: roles without PostgreSQL, or the other way
    /// round; a name that cannot be; a server has the file.
    pub async fn create(url: &str, roles: Option<&Roles>) -> Result<Created, StoreError> {
        match (DatabaseKind::of(url)?, roles) {
            (DatabaseKind::Sqlite(_), None) => Ok(Created { had: Self::migrate(url).await?, ..Created::default() }),
            (DatabaseKind::Postgres, Some(roles)) => {
                let options = StoreOptions { call_limit: Duration::from_hours(24), ..StoreOptions::default() };
                create::postgres_create(&Target::parse(url, &options)?, roles).await
            }
            (DatabaseKind::Sqlite(_), Some(_)) => {
                Err(StoreError::Refused("a SQLite file has no roles: leave them out".to_owned()))
            }
            (DatabaseKind::Postgres, None) => {
                Err(StoreError::Refused("a PostgreSQL database needs the names of its three roles".to_owned()))
            }
        }
    }

    /// The version of the schema that this program speaks.
    pub const SCHEMA_VERSION: i64 = schema::VERSION;

    /// Waits until writing has failed for good, and says why. Then nothing is written any more and the process must end:
    /// after a failed sync, a second one would claim success for what was lost.
    pub async fn broken(&self) -> String {
        let mut broken = self.broken.clone();
        match broken.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(Some(reason)) => reason,
            // The sender lives as long as the database does, and the database as long as `self`.
            _ => std::future::pending().await,
        }
    }

    /// What of the database server's settings endangers what is acknowledged, and what to do about it; logged when the
    /// store was opened. Empty for SQLite, whose settings are ours.
    pub fn weaknesses(&self) -> &[String] {
        &self.weaknesses
    }

    /// The file, for SQLite.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self.database.as_ref() {
            Database::Sqlite { path, .. } => Some(path),
            Database::Postgres(_) => None,
        }
    }

    /// Runs a method that changes something.
    pub(crate) async fn write<A, T>(&self, args: A, body: Body<A, T>) -> Result<T, StoreError>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.call(Use::Write, args, body).await
    }

    /// Runs a method that only reads.
    pub(crate) async fn read<A, T>(&self, args: A, body: Body<A, T>) -> Result<T, StoreError>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.call(Use::Read, args, body).await
    }

    /// Runs a method that may take long and sees one moment.
    pub(crate) async fn copy<A, T>(&self, args: A, body: Body<A, T>) -> Result<T, StoreError>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        self.call(Use::Copy, args, body).await
    }

    async fn call<A, T>(&self, purpose: Use, args: A, body: Body<A, T>) -> Result<T, StoreError>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        match self.database.as_ref() {
            Database::Sqlite { threads, .. } => threads.call(purpose, args, body).await,
            Database::Postgres(database) => database.call(purpose, args, body).await,
        }
    }
}

fn migrate_sqlite(path: &Path) -> Result<Option<i64>, StoreError> {
    let lock = FileLock::take(path)?;
    let mut connection = sqlite::connect(path, Use::Write)?;
    let have = schema::sqlite_migrate(&mut connection)?;
    connection.close().map_err(|(_, error)| crate::db::dialect::sqlite_error(error))?;
    drop(lock);
    Ok(have)
}
