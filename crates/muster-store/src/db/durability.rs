//! Whether PostgreSQL keeps what it says it has committed. SQLite's settings are ours (see `sqlite.rs`).

use super::dialect::postgres_error;
use crate::StoreError;

const SETTINGS: &str = "SELECT current_setting('synchronous_commit'), current_setting('fsync'), \
     current_setting('full_page_writes')";

/// Says which settings of the server, as this program's sessions see them, endanger what is acknowledged.
pub(crate) async fn weaknesses(client: &tokio_postgres::Client) -> Result<Vec<String>, StoreError> {
    let row = client.query_one(SETTINGS, &[]).await.map_err(postgres_error)?;
    let setting = |index| row.try_get::<_, String>(index).map_err(postgres_error);
    Ok(judge(&setting(0)?, &setting(1)?, &setting(2)?))
}

fn judge(synchronous_commit: &str, fsync: &str, full_page_writes: &str) -> Vec<String> {
    let mut weaknesses = Vec::new();
    let mut weak = |setting: &str, what: &str, remedy: &str| {
        weaknesses.push(format!("PostgreSQL runs with {setting}=off: {what}; {remedy}"));
    };
    if synchronous_commit == "off" {
        let lost = "a crash of its machine can lose what was acknowledged a moment before";
        weak("synchronous_commit", lost, "take it out of the options of the database URL");
    }
    if fsync == "off" {
        let lost = "a crash of its machine can lose what was acknowledged and damage the database";
        weak("fsync", lost, "set fsync = on in postgresql.conf");
    }
    if full_page_writes == "off" {
        let lost = "a crash of its machine can damage the database";
        weak(
            "full_page_writes",
            lost,
            "set full_page_writes = on in postgresql.conf, unless its file system never tears pages",
        );
    }
    weaknesses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::test_schema::TestSchema;
    use crate::{SqlStore, StoreOptions};

    #[test]
    fn what_endangers_acknowledged_messages_is_named_with_its_remedy() {
        assert_eq!(judge("on", "on", "on"), [] as [&str; 0]);
        assert_eq!(judge("remote_apply", "on", "on"), [] as [&str; 0]);
        let all = judge("off", "off", "off");
        assert_eq!(all.len(), 3);
        for (said, setting) in all.iter().zip(["synchronous_commit", "fsync", "full_page_writes"]) {
            assert!(said.contains(&format!("{setting}=off")) && said.contains("; "), "{said}");
        }
    }

    async fn synchronous_commit(store: &SqlStore) -> String {
        let show = store.write((), |tx, ()| {
            Box::pin(async move { tx.query_one("SELECT current_setting('synchronous_commit')", &[]).await?.only("-") })
        });
        show.await.unwrap()
    }

    #[tokio::test]
    async fn sessions_commit_durably_even_where_that_is_not_usual() {
        let schema = TestSchema::new("durable").await;
        SqlStore::migrate(&schema.url).await.unwrap();
        let role = format!("careless_{}", std::process::id());
        schema
            .run(&format!("CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET synchronous_commit = off"))
            .await;
        let url = schema.url.replacen("postgres@", &format!("{role}@"), 1);
        assert_ne!(url, schema.url, "the tests' server is used as postgres");
        let store = SqlStore::open(&url, &StoreOptions::default()).await.unwrap();
        assert_eq!(synchronous_commit(&store).await, "on");
        assert!(!store.weaknesses().iter().any(|said| said.contains("synchronous_commit")), "{:?}", store.weaknesses());

        let url = format!("{}%20-c%20synchronous_commit%3Doff", schema.url);
        let store = SqlStore::open(&url, &StoreOptions::default()).await.unwrap();
        assert_eq!(synchronous_commit(&store).await, "off", "who asks for it in the URL gets it");
        assert!(
            store.weaknesses().iter().any(|said| said.contains("synchronous_commit=off")),
            "{:?}",
            store.weaknesses()
        );
        schema.run(&format!("DROP ROLE {role}")).await;
        schema.remove().await;
    }
}
