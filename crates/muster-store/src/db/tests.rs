//! What the writer of SQLite does with calls that end badly. (What both databases do is in the conformance suite.)

use super::value::params;
use crate::db::dialect::is_cancelled;
use crate::error::ErrorKind;
use crate::{ClusterStore, SqlStore, StoreError, StoreOptions};
use std::time::{Duration, Instant};

const PUT: &str = "INSERT INTO settings (name, value) VALUES ($1, $2)";

async fn store() -> (SqlStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("muster.db");
    let url = path.to_str().unwrap();
    SqlStore::migrate(url).await.unwrap();
    (SqlStore::open(url, &StoreOptions::default()).await.unwrap(), folder)
}

/// Puts a setting and then fails in the way that `how` says.
async fn put_and_fail(store: &SqlStore, how: ErrorKind) -> StoreError {
    let fail = store.write(how, |tx, how| {
        Box::pin(async move {
            tx.execute(PUT, params!["half", vec![1_u8]]).await?;
            match how {
                ErrorKind::Broken => Err(StoreError::Broken("the sync failed".into())),
                // The same name again: the statement itself fails.
                _ => tx.execute(PUT, params!["half", vec![2_u8]]).await.map(drop),
            }
        })
    });
    fail.await.unwrap_err()
}

#[tokio::test]
async fn a_statement_that_fails_takes_back_its_call_alone() {
    let (store, _folder) = store().await;
    let calls = (0..20_u8).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            if n % 3 == 0 {
                assert_eq!(put_and_fail(&store, ErrorKind::Statement).await.kind(), ErrorKind::Statement);
            } else {
                store.setting_init(&n.to_string(), vec![n]).await.unwrap();
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(store.setting_get("half").await.unwrap(), None);
    for n in 0..20_u8 {
        assert_eq!(store.setting_get(&n.to_string()).await.unwrap().is_some(), n % 3 != 0);
    }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_written_any_more() {
    let (store, _folder) = store().await;
    store.setting_init("before", vec![1]).await.unwrap();
    assert_eq!(put_and_fail(&store, ErrorKind::Broken).await.kind(), ErrorKind::Broken);
    assert!(store.broken().await.contains("the sync failed"));
    assert_eq!(store.ping().await.unwrap_err().kind(), ErrorKind::Broken);
    assert_eq!(store.setting_get("half").await.unwrap(), None);
    assert_eq!(store.setting_get("before").await.unwrap(), Some(vec![1]), "reading goes on");
}

#[tokio::test]
async fn a_body_that_panics_or_waits_fails_and_the_next_is_served() {
    let (store, _folder) = store().await;
    let panics: Result<(), StoreError> = store.write((), |_, ()| Box::pin(async { panic!("a defect") })).await;
    assert_eq!(panics.unwrap_err().kind(), ErrorKind::Statement);
    let waits: Result<(), StoreError> = store.write((), |_, ()| Box::pin(std::future::pending())).await;
    assert_eq!(waits.unwrap_err().kind(), ErrorKind::Statement);
    store.ping().await.unwrap();
}

#[tokio::test]
async fn readers_cannot_write() {
    let (store, _folder) = store().await;
    let write = store.read((), |tx, ()| Box::pin(async move { tx.execute(PUT, params!["x", vec![1_u8]]).await }));
    assert!(write.await.is_err());
    assert_eq!(store.setting_get("x").await.unwrap(), None);
}

#[tokio::test]
async fn a_statement_of_a_stranger_ends_when_its_time_is_over_and_the_reader_serves_on() {
    const FOR_EVER: &str =
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n > 0) SELECT count(*) FROM c";
    let (store, _folder) = store().await;
    let begun = Instant::now();
    let limit = Duration::from_millis(50);
    let slow = store.read(limit, |tx, limit| {
        Box::pin(async move { tx.query_once(FOR_EVER, params![], *limit).await.map(|rows| rows.len()) })
    });
    let error = slow.await.unwrap_err();
    assert!(is_cancelled(&error), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(store.setting_get("anything").await.unwrap(), None);
}
