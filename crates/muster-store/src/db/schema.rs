//! The schema and its versions. Opening never changes it; migrating does, in one transaction per version.

use super::dialect;
use super::postgres::Target;
use crate::StoreError;
use crate::error::SchemaError;
use rusqlite::{Connection, OptionalExtension};

/// What leads from one version to the next: first what both databases take, then what each writes in its own way.
#[derive(Debug, Clone, Copy)]
struct Step {
    both: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

/// The steps, in their order: step n leads from version n to n + 1. A released step never changes.
const STEPS: [Step; 15] = [
    Step { both: include_str!("../migrations/0001.sql"), sqlite: "", postgres: "" },
    Step {
        both: include_str!("../migrations/0002.sql"),
        sqlite: include_str!("../migrations/0002.sqlite.sql"),
        postgres: include_str!("../migrations/0002.postgres.sql"),
    },
    Step {
        both: include_str!("../migrations/0003.sql"),
        sqlite: include_str!("../migrations/0003.sqlite.sql"),
        postgres: include_str!("../migrations/0003.postgres.sql"),
    },
    Step { both: include_str!("../migrations/0004.sql"), sqlite: "", postgres: "" },
    Step { both: include_str!("../migrations/0005.sql"), sqlite: "", postgres: "" },
    Step { both: include_str!("../migrations/0006.sql"), sqlite: "", postgres: "" },
    Step { both: include_str!("../migrations/0007.sql"), sqlite: "", postgres: "" },
    Step {
        both: include_str!("../migrations/0008.sql"),
        sqlite: "",
        postgres: include_str!("../migrations/0008.postgres.sql"),
    },
    Step { both: include_str!("../migrations/0009.sql"), sqlite: "", postgres: "" },
    Step {
        both: include_str!("../migrations/0010.sql"),
        sqlite: include_str!("../migrations/0010.sqlite.sql"),
        postgres: include_str!("../migrations/0010.postgres.sql"),
    },
    Step {
        both: include_str!("../migrations/0011.sql"),
        sqlite: include_str!("../migrations/0011.sqlite.sql"),
        postgres: include_str!("../migrations/0011.postgres.sql"),
    },
    Step { both: include_str!("../migrations/0012.sql"), sqlite: "", postgres: "" },
    Step {
        both: include_str!("../migrations/0013.sql"),
        sqlite: include_str!("../migrations/0013.sqlite.sql"),
        postgres: include_str!("../migrations/0013.postgres.sql"),
    },
    Step { both: include_str!("../migrations/0014.sql"), sqlite: "", postgres: "" },
    Step { both: include_str!("../migrations/0015.sql"), sqlite: "", postgres: "" },
];

/// The version this program speaks.
#[expect(clippy::cast_possible_wrap, reason = "a handful of steps")]
pub(crate) const VERSION: i64 = STEPS.len() as i64;

const CREATE: &str = "CREATE TABLE muster_schema (version BIGINT NOT NULL PRIMARY KEY)";
const INSERT: &str = "INSERT INTO muster_schema (version) VALUES";
const SELECT: &str = "SELECT max(version) FROM muster_schema";
/// Any number that no other program is likely to lock: "muster" in ASCII.
pub(crate) const LOCK: &str = "SELECT pg_advisory_xact_lock(120368472843634)";

/// Accepts the version of this program.
pub(crate) fn check(have: Option<i64>) -> Result<(), SchemaError> {
    match have {
        None => Err(SchemaError::Empty),
        Some(have) if have < VERSION => Err(SchemaError::Old { have, want: VERSION }),
        Some(have) if have > VERSION => Err(SchemaError::New { have, want: VERSION }),
        Some(_) => Ok(()),
    }
}

/// The steps that lead from `have` to this program's version, with the versions they lead to.
fn missing(have: Option<i64>) -> Result<impl Iterator<Item = (i64, Step)>, SchemaError> {
    match check(have) {
        Err(error @ SchemaError::New { .. }) => Err(error),
        _ => Ok((1..).zip(STEPS).skip_while(move |(version, _)| *version <= have.unwrap_or(0))),
    }
}

/// Returns the version of a SQLite database; `None` when it has no tables.
pub(crate) fn sqlite_version(connection: &Connection) -> Result<Option<i64>, StoreError> {
    let known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'muster_schema'";
    let known: Option<i64> = connection.query_row(known, [], |row| row.get(0)).optional().map_err(refuse)?;
    if known.is_none() {
        return Ok(None);
    }
    connection.query_row(SELECT, [], |row| row.get(0)).map_err(refuse)
}

fn refuse(error: rusqlite::Error) -> StoreError {
    dialect::sqlite_error(error)
}

/// Brings a SQLite database to this program's version. Returns the version it had.
pub(crate) fn sqlite_migrate(connection: &mut Connection) -> Result<Option<i64>, StoreError> {
    let have = sqlite_version(connection)?;
    for (version, step) in missing(have)? {
        let transaction = connection.transaction().map_err(refuse)?;
        if version == 1 {
            transaction.execute_batch(&dialect::sqlite(CREATE)).map_err(refuse)?;
        }
        transaction.execute_batch(&dialect::sqlite(step.both)).map_err(refuse)?;
        transaction.execute_batch(step.sqlite).map_err(refuse)?;
        transaction.execute_batch(&format!("{INSERT} ({version})")).map_err(refuse)?;
        transaction.commit().map_err(refuse)?;
    }
    Ok(have)
}

/// Returns the version of a PostgreSQL database; `None` when it has no tables.
pub(crate) async fn postgres_version(client: &tokio_postgres::Client) -> Result<Option<i64>, StoreError> {
    let known = client.query_one("SELECT to_regclass('muster_schema') IS NOT NULL", &[]).await;
    if !known.map_err(dialect::postgres_error)?.get::<_, bool>(0) {
        return Ok(None);
    }
    Ok(client.query_one(SELECT, &[]).await.map_err(dialect::postgres_error)?.get(0))
}

/// Tables of an installation in a schema that is not looked into, where nobody said which schemas are.
const ELSEWHERE: &str = "SELECT n.nspname::TEXT, pg_get_userbyid(c.relowner)::TEXT FROM pg_class c \
     JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relname = 'muster_schema' AND c.relkind = 'r' AND NOT pg_table_is_visible(c.oid) \
         AND EXISTS (SELECT 1 FROM pg_settings WHERE name = 'search_path' AND source IN ('default', 'configuration file')) \
     ORDER BY n.nspname LIMIT 1";

/// Says where the tables are, of a database that seems to have none. Whoever names a schema means it.
pub(crate) async fn postgres_elsewhere(client: &tokio_postgres::Client) -> Result<(), StoreError> {
    match client.query_opt(ELSEWHERE, &[]).await.map_err(dialect::postgres_error)? {
        Some(row) => Err(SchemaError::Elsewhere { schema: row.get(0), owner: row.get(1) }.into()),
        None => Ok(()),
    }
}

/// Brings a PostgreSQL database to this program's version; of two that try at once, one waits. Returns the version it
/// had.
pub(crate) async fn postgres_migrate(target: &Target) -> Result<Option<i64>, StoreError> {
    let mut client = target.connect().await?;
    let transaction = client.transaction().await.map_err(dialect::postgres_error)?;
    transaction.batch_execute(LOCK).await.map_err(dialect::postgres_error)?;
    if postgres_version(transaction.client()).await?.is_none() {
        // A second set of tables beside the first would be served empty.
        postgres_elsewhere(transaction.client()).await?;
    }
    let have = postgres_steps(&transaction).await?;
    transaction.commit().await.map_err(dialect::postgres_error)?;
    Ok(have)
}

/// Takes the steps that are missing. Returns the version before them.
pub(crate) async fn postgres_steps(transaction: &tokio_postgres::Transaction<'_>) -> Result<Option<i64>, StoreError> {
    let have = postgres_version(transaction.client()).await?;
    for (version, step) in missing(have)? {
        if version == 1 {
            transaction.batch_execute(CREATE).await.map_err(dialect::postgres_error)?;
        }
        transaction.batch_execute(step.both).await.map_err(dialect::postgres_error)?;
        transaction.batch_execute(step.postgres).await.map_err(dialect::postgres_error)?;
        transaction.batch_execute(&format!("{INSERT} ({version})")).await.map_err(dialect::postgres_error)?;
    }
    Ok(have)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::test_schema::TestSchema;
    use crate::{ClusterStore, InvestigatorStore, SqlStore, StoreOptions};

    const FILL: &str = "INSERT INTO settings (name, value) VALUES ('kept', 'x')";
    /// What a person may have written, before there was a rule for it.
    const SHORT: &str =
        "INSERT INTO investigators (name, pgpfingerprint) VALUES ('short', 'A3D652173B763E8F'), ('none', NULL)";

    /// Whether a database of that version has investigators whose fingerprints nobody looks at.
    fn has_short(version: i64) -> bool {
        (2..10).contains(&version)
    }

    /// What the schema of version `have` is made with, in the words of the database that `words` knows.
    fn of_version(have: i64, words: impl Fn(Step) -> [String; 2]) -> Vec<String> {
        let steps = STEPS.into_iter().take(usize::try_from(have).unwrap()).flat_map(words);
        let mut all: Vec<String> = std::iter::once(CREATE.to_owned()).chain(steps).collect();
        all.extend((1..=have).map(|version| format!("{INSERT} ({version})")));
        all
    }

    async fn is_brought_up(url: &str, have: i64) {
        assert_eq!(SqlStore::migrate(url).await.unwrap(), Some(have));
        let store = SqlStore::open(url, &StoreOptions::default()).await.unwrap();
        assert!(store.setting_get("kept").await.unwrap().is_some());
        if has_short(have) {
            let people = store.investigator_page(None, None, 9).await.unwrap();
            assert_eq!(people.iter().filter(|row| row.fingerprint.is_none()).count(), 2);
            let (who, cause) = (people[0].id, muster_core::Cause::server());
            let disabled = muster_core::action::InvestigatorStatus::Disabled;
            store.investigator_status_set(who, disabled, muster_core::Timestamp::EPOCH, &cause).await.unwrap();
            let folder = tempfile::tempdir().unwrap();
            let (copy, other) = (folder.path().join("copy"), folder.path().join("other"));
            store.backup(&copy).await.unwrap();
            SqlStore::migrate(other.to_str().unwrap()).await.unwrap();
            let other = SqlStore::open(other.to_str().unwrap(), &StoreOptions::default()).await.unwrap();
            other.restore(&copy).await.unwrap();
            assert_eq!(other.investigator_page(None, None, 9).await.unwrap().len(), 2);
        }
    }

    #[tokio::test]
    async fn a_database_of_any_earlier_version_is_brought_to_this_one() {
        for have in 1..=VERSION {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("muster.db");
            let file = Connection::open(&path).unwrap();
            for statement in of_version(have, |step| [dialect::sqlite(step.both), step.sqlite.to_owned()]) {
                file.execute_batch(&statement).unwrap();
            }
            file.execute_batch(&FILL.replace("'x'", "x'00'")).unwrap();
            if has_short(have) {
                file.execute_batch(SHORT).unwrap();
            }
            drop(file);
            is_brought_up(path.to_str().unwrap(), have).await;

            let schema = TestSchema::new(&format!("version_{have}")).await;
            for statement in of_version(have, |step| [step.both.to_owned(), step.postgres.to_owned()]) {
                schema.run(&statement).await;
            }
            schema.run(FILL).await;
            if has_short(have) {
                schema.run(SHORT).await;
            }
            is_brought_up(&schema.url, have).await;
            schema.remove().await;
        }
    }
}
