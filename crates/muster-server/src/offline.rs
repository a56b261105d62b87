//! The database without a server: looking at its schema, migrating, copying and restoring it.
//!
//! Stays true: nothing here starts a door; an embedded database that a server holds is refused by the store's lock.
//! Not here: what a schema is (muster-store), and how results are shown (program `muster`).

mod create;

pub use create::{Created, CreatedRole, NewRole, NewRoles, PasswordIs, RolePassword, create, name_check};

use crate::Config;
use crate::config::Database;
use crate::ownership::{self, OwnershipError};
use muster_modules::place::{Keeper, way_check};
use muster_store::{ClusterStore as _, ErrorKind, SchemaError, SqlStore, StoreError, StoreOptions};
use std::path::Path;

/// The kind of an [`OfflineError`], for the exit code and the advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfflineErrorKind {
    /// The schema is not this program's.
    Schema,
    /// A server holds the database, or it is not empty.
    Refused,
    /// PostgreSQL cannot be reached.
    Unreachable,
    /// The backup is none, or damaged, or of another schema; the database was not touched.
    Backup,
    /// Anything else, such as a missing permission.
    Other,
}

/// Why something was not done with a database.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct OfflineError {
    /// The kind.
    pub kind: OfflineErrorKind,
    /// Which database, without its password, or which file.
    pub location: String,
    /// What was tried.
    pub doing: &'static str,
    /// Why it failed.
    #[source]
    pub source: StoreError,
}

/// How a database's schema stands to this program's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaState {
    /// It is this program's.
    Current,
    /// There is none.
    Empty,
    /// The tables are in a schema that the URL does not look into.
    Elsewhere {
        /// The schema.
        schema: String,
        /// A URL that reaches them, without a password.
        url: String,
    },
    /// It is this older one.
    Old(i64),
    /// It is this newer one.
    New(i64),
}

/// A database and its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseStatus {
    /// Which database, without its password.
    pub location: String,
    /// How its schema stands.
    pub state: SchemaState,
    /// The schema that this program speaks.
    pub wanted: i64,
}

impl DatabaseStatus {
    /// The schema that the database has.
    pub fn have(&self) -> Option<i64> {
        match self.state {
            SchemaState::Current => Some(self.wanted),
            SchemaState::Empty | SchemaState::Elsewhere { .. } => None,
            SchemaState::Old(have) | SchemaState::New(have) => Some(have),
        }
    }
}

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Which database, without its password.
    pub location: String,
    /// The schema it had; `None` when it was empty.
    pub from: Option<i64>,
    /// The schema it has.
    pub to: i64,
}

/// What a restore filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Which database, without its password.
    pub location: String,
}

/// Returns the URL of the configured database as the store takes it, password included.
pub fn database_url(config: &Config) -> String {
    match (&config.database, config.database.sqlite_path(&config.data.0)) {
        (Database::Postgres(url), _) => url.clone(),
        (_, Some(path)) => format!("sqlite:{}", path.display()),
        (_, None) => unreachable!("a database that is no file is a URL"),
    }
}

/// Returns the configured database for people, without its password.
pub fn location(config: &Config) -> String {
    match config.database.sqlite_path(&config.data.0) {
        Some(path) => path.display().to_string(),
        None => config.database.to_string(),
    }
}

/// Returns the URL of a database with another role in it.
fn url_of(location: &str, role: &str) -> String {
    let Some((scheme, rest)) = location.split_once("://") else { return location.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    format!("{scheme}://{role}@{hosts}{path}")
}

fn failed(config: &Config, doing: &'static str) -> impl FnOnce(StoreError) -> OfflineError {
    let location = location(config);
    move |source| {
        let kind = match source.kind() {
            ErrorKind::Schema => OfflineErrorKind::Schema,
            ErrorKind::Refused | ErrorKind::Exists => OfflineErrorKind::Refused,
            ErrorKind::Unavailable | ErrorKind::Unknown => OfflineErrorKind::Unreachable,
            _ => OfflineErrorKind::Other,
        };
        OfflineError { kind, location, doing, source }
    }
}

/// Looks at the schema of the configured database. Nothing is changed.
pub async fn status(config: &Config) -> Result<DatabaseStatus, OfflineError> {
    ownership(config, &ownership::keeper_of(&config.data.0))?;
    let opened = SqlStore::open(&database_url(config), &StoreOptions::default()).await;
    let state = match opened {
        Ok(_) => SchemaState::Current,
        Err(StoreError::Schema(SchemaError::Empty)) => SchemaState::Empty,
        Err(StoreError::Schema(SchemaError::Elsewhere { schema, owner })) => {
            SchemaState::Elsewhere { url: url_of(&location(config), &owner), schema }
        }
        Err(StoreError::Schema(SchemaError::Old { have, .. })) => SchemaState::Old(have),
        Err(StoreError::Schema(SchemaError::New { have, .. })) => SchemaState::New(have),
        Err(error) => return Err(failed(config, "the database could not be opened")(error)),
    };
    Ok(DatabaseStatus { location: location(config), state, wanted: SqlStore::SCHEMA_VERSION })
}

/// Brings the configured database to this program's schema, or makes it.
pub async fn migrate(config: &Config) -> Result<Migrated, OfflineError> {
    data_directory(config)?;
    let from = SqlStore::migrate(&database_url(config))
        .await
        .map_err(failed(config, "the schema could not be brought to this program's"))?;
    Ok(Migrated { location: location(config), from, to: SqlStore::SCHEMA_VERSION })
}

/// Copies the configured database into a new file.
pub async fn backup(config: &Config, file: &Path) -> Result<(), OfflineError> {
    let store = open(config).await?;
    store.backup(file).await.map_err(failed(config, "the database could not be copied"))
}

/// Fills the configured database from a copy; it is made first if there is none.
pub async fn restore(config: &Config, file: &Path) -> Result<Restored, OfflineError> {
    // Before anything is made: what is wrong with the file is no fault of the database.
    SqlStore::backup_check(file).await.map_err(|source| OfflineError {
        kind: OfflineErrorKind::Backup,
        location: file.display().to_string(),
        doing: "the backup cannot be used",
        source,
    })?;
    // Looking is for root, too; what is filled is not.
    ownership(config, &Keeper::this_process())?;
    let state = status(config).await?.state;
    if matches!(state, SchemaState::Empty | SchemaState::Elsewhere { .. }) {
        migrate(config).await?;
    }
    let store = open(config).await?;
    store.restore(file).await.map_err(failed(config, "the database could not be filled from the backup"))?;
    Ok(Restored { location: location(config) })
}

async fn open(config: &Config) -> Result<SqlStore, OfflineError> {
    ownership(config, &Keeper::this_process())?;
    let options = StoreOptions::default();
    SqlStore::open(&database_url(config), &options).await.map_err(failed(config, "the database could not be opened"))
}

/// Makes the directory of an embedded database, for its owner only; nobody else may change it or what lies in it.
fn data_directory(config: &Config) -> Result<(), OfflineError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let Some(file) = config.database.sqlite_path(&config.data.0) else { return Ok(()) };
    let Some(directory) = file.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return ownership(config, &Keeper::this_process());
    };
    if matches!(config.database, Database::Embedded) {
        return ownership::directory_take(directory).map_err(|error| not_ours(config, &error));
    }
    way_check(directory).map_err(|error| not_ours(config, &error.into()))?;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| failed(config, "the data directory could not be made")(StoreError::Statement(error.into())))?;
    ownership(config, &Keeper::this_process())
}

/// Makes sure that nobody but root and `keeper` can change the file of an embedded database, or the data directory in which
/// it lies.
fn ownership(config: &Config, keeper: &Keeper) -> Result<(), OfflineError> {
    let Some(file) = config.database.sqlite_path(&config.data.0) else { return Ok(()) };
    let looked = match file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        // There is no database either, and whoever makes one asks again.
        Some(directory) if !directory.exists() => {
            return way_check(directory).map_err(|error| not_ours(config, &error.into()));
        }
        Some(data) if matches!(config.database, Database::Embedded) => ownership::directory_check(keeper, data),
        _ => Ok(()),
    };
    looked.and_then(|()| ownership::database_check(keeper, &file)).map_err(|error| not_ours(config, &error))
}

fn not_ours(config: &Config, error: &OwnershipError) -> OfflineError {
    let source = StoreError::Statement(crate::observe::Chain(error).to_string().into());
    OfflineError { kind: OfflineErrorKind::Other, ..failed(config, "others could change the database")(source) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    #[test]
    fn a_url_gets_another_role_and_keeps_the_rest() {
        for (url, wanted) in [
            (
                "postgresql://postgres@127.0.0.1:5432/muster?sslmode=disable",
                "postgresql://o@127.0.0.1:5432/muster?sslmode=disable",
            ),
            ("postgres://a:***@h1,h2/m", "postgres://o@h1,h2/m"),
            ("postgres://h", "postgres://o@h"),
        ] {
            assert_eq!(url_of(url, "o"), wanted);
        }
    }

    fn config(data: &Path) -> Config {
        let flags = Overrides { data: Some(data.to_owned()), ..Overrides::default() };
        Config::load(None, [], &flags).unwrap()
    }

    #[tokio::test]
    async fn a_database_is_made_looked_at_copied_and_restored() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (config(&dir.path().join("one")), config(&dir.path().join("two")));
        assert_eq!(status(&one).await.unwrap().state, SchemaState::Empty);
        assert_eq!(migrate(&one).await.unwrap().from, None);
        assert_eq!(migrate(&one).await.unwrap().from, Some(SqlStore::SCHEMA_VERSION));
        assert_eq!(status(&one).await.unwrap().state, SchemaState::Current);
        let store = open(&one).await.unwrap();
        store.setting_init("probe", b"kept".to_vec()).await.unwrap();
        drop(store);
        let copy = dir.path().join("copy.db");
        backup(&one, &copy).await.unwrap();
        restore(&two, &copy).await.unwrap();
        let store = open(&two).await.unwrap();
        assert_eq!(store.setting_get("probe").await.unwrap().as_deref(), Some(&b"kept"[..]));
    }

    #[tokio::test]
    async fn a_damaged_backup_is_blamed_itself_and_no_database_is_made_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (config(&dir.path().join("one")), config(&dir.path().join("two")));
        migrate(&one).await.unwrap();
        let copy = dir.path().join("copy.db");
        backup(&one, &copy).await.unwrap();
        let good = std::fs::read(&copy).unwrap();
        let mut damaged = good.clone();
        // Pages behind the first one hold tables; their heads say so.
        damaged[4096..].chunks_mut(4096).for_each(|page| page[..64].fill(0xff));
        for bad in [&b"hello"[..], b"", &good[..good.len() / 2], &damaged] {
            std::fs::write(&copy, bad).unwrap();
            let error = restore(&two, &copy).await.unwrap_err();
            assert_eq!(error.kind, OfflineErrorKind::Backup, "{} bytes: {error:?}", bad.len());
            assert_eq!(error.location, copy.display().to_string());
            assert_eq!(status(&two).await.unwrap().state, SchemaState::Empty);
        }
    }

    #[tokio::test]
    async fn a_database_that_a_server_holds_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        migrate(&config).await.unwrap();
        let held = open(&config).await.unwrap();
        for result in [status(&config).await.map(|_| ()), backup(&config, &dir.path().join("copy")).await] {
            assert_eq!(result.unwrap_err().kind, OfflineErrorKind::Refused);
        }
        drop(held);
    }

    #[tokio::test]
    async fn a_database_that_is_not_there_is_said_so_without_its_password() {
        let flags = Overrides {
            database: Some("postgresql://muster:secret@127.0.0.1:1/muster".into()),
            ..Overrides::default()
        };
        let config = Config::load(None, [], &flags).unwrap();
        let error = status(&config).await.unwrap_err();
        assert_eq!(error.kind, OfflineErrorKind::Unreachable);
        assert!(!format!("{error:?} {}", error.location).contains("secret"), "{error:?}");
    }
}
