//! Opening, migrating, copying, and what goes wrong below the store.

use crate::for_each_backend;
use crate::stage::*;
use muster_core::{AgentState, Label, Message};
use muster_store::agents::{ContactPut, Effect};
use muster_store::cluster::Soundness;
use muster_store::{
    AgentStore, BroadcastStore, ClusterStore, DatabaseKind, ErrorKind, FileStore, MessageStore, SchemaError, SqlStore,
    StoreError, StoreOptions, sqlite_soundness,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Runs statements on a database past the store, which must be closed if it is SQLite.
pub(crate) async fn past_the_store(url: &str, sql: &str) {
    match DatabaseKind::of(url).unwrap() {
        DatabaseKind::Sqlite(path) => rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap(),
        DatabaseKind::Postgres => admin_at(url, sql).await,
    }
}

pub(crate) async fn try_open(url: &str) -> Result<SqlStore, StoreError> {
    SqlStore::open(url, &StoreOptions::default()).await
}

pub(crate) async fn on_both(case: impl AsyncFn(Place)) {
    for backend in [Backend::Sqlite, Backend::Postgres] {
        case(Place::new(backend).await).await;
    }
}

#[tokio::test]
async fn opening_never_migrates() {
    on_both(async |place| {
        let want = SqlStore::SCHEMA_VERSION;
        for _ in 0..2 {
            let error = try_open(&place.url).await.unwrap_err();
            assert!(matches!(error, StoreError::Schema(SchemaError::Empty)), "{error:?}");
        }
        assert_eq!(SqlStore::migrate(&place.url).await.unwrap(), None);
        assert_eq!(SqlStore::migrate(&place.url).await.unwrap(), Some(want));
        drop(try_open(&place.url).await.unwrap());

        past_the_store(&place.url, &format!("DELETE FROM muster_schema WHERE version = {want}")).await;
        let error = try_open(&place.url).await.unwrap_err();
        assert!(matches!(error, StoreError::Schema(SchemaError::Old { have, .. }) if have == want - 1), "{error:?}");

        past_the_store(&place.url, &format!("INSERT INTO muster_schema VALUES ({})", want + 1)).await;
        for error in [try_open(&place.url).await.unwrap_err(), SqlStore::migrate(&place.url).await.unwrap_err()] {
            let newer = SchemaError::New { have: want + 1, want };
            assert!(matches!(&error, StoreError::Schema(schema) if *schema == newer), "{error:?}");
            assert!(error.to_string().contains("newer"), "{error}");
        }
        place.remove().await;
    })
    .await;
}

#[tokio::test]
async fn two_who_migrate_at_once_both_succeed() {
    let place = Place::new(Backend::Postgres).await;
    let (one, two) = tokio::join!(SqlStore::migrate(&place.url), SqlStore::migrate(&place.url));
    let mut had = [one.unwrap(), two.unwrap()];
    had.sort();
    assert_eq!(had, [None, Some(SqlStore::SCHEMA_VERSION)]);
    place.remove().await;
}

#[tokio::test]
async fn a_second_opener_of_a_sqlite_file_is_refused() {
    let place = Place::new(Backend::Sqlite).await;
    SqlStore::migrate(&place.url).await.unwrap();
    let store = open(&place.url).await;
    for error in [try_open(&place.url).await.unwrap_err(), SqlStore::migrate(&place.url).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("in use by another process"), "{error}");
    }
    let clone = store.clone();
    drop(store);
    assert!(try_open(&place.url).await.is_err());
    clone.ping().await.unwrap();
    drop(clone);
    try_open(&place.url).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn what_is_no_database_is_said_to_be_none() {
    for url in ["", "sqlite:", ":memory:", "sqlite::memory:", "mysql://u:secret@h/d", "postgres://h/d?nonsense=secret"]
    {
        let error = try_open(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{url}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let nowhere = try_open("postgres://nobody@127.0.0.1:1/none").await.unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::Unavailable);
    let folder = folder();
    let text = folder.path().join("text");
    std::fs::write(&text, "this is no database, but long enough to be taken for one").unwrap();
    let error = try_open(text.to_str().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Broken);
    assert_eq!(std::fs::read_to_string(&text).unwrap(), "this is no database, but long enough to be taken for one");
}

#[tokio::test]
async fn a_damaged_file_is_found_and_a_hurried_look_says_that_it_did_not_finish() {
    let place = Place::new(Backend::Sqlite).await;
    SqlStore::migrate(&place.url).await.unwrap();
    let rows = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 200000) \
         INSERT INTO settings (name, value) SELECT 'row ' || n, zeroblob(20) FROM n; PRAGMA wal_checkpoint(TRUNCATE)";
    past_the_store(&place.url, rows).await;
    let DatabaseKind::Sqlite(path) = DatabaseKind::of(&place.url).unwrap() else { panic!("it is a file") };
    let patience = Duration::from_secs(60);
    assert_eq!(sqlite_soundness(&path, patience).unwrap(), Soundness::Sound);
    assert_eq!(sqlite_soundness(&path, Duration::ZERO).unwrap(), Soundness::Unfinished);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 16_384].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let found = sqlite_soundness(&path, patience).unwrap();
    assert!(matches!(&found, Soundness::Damaged(lines) if !lines.is_empty()), "{found:?}");
    assert!(sqlite_soundness(&path.with_extension("none"), patience).is_err());
}

/// Fills a store with a row of every kind.
async fn furnish(stage: &Stage) {
    let one = stage.agent_in(1, AgentState::Enrolled, &[Label::client("a")]).await;
    let effects = [
        Effect::Facts(BTreeMap::from([("hostname".into(), "h".into())])),
        Effect::Usage(Box::new(usage())),
        Effect::Deliver { due: at(9) },
    ];
    let messages = (10..).zip(effects).map(|(n, effect)| intake(to_server(n, one, "s"), effect)).collect();
    stage.contact(ContactPut { intake: messages, sent_nonce: u64::MAX, ..contact(1, at(1)) }).await;
    for n in 100..200 {
        stage.put(Message { payload: body(&"x".repeat(usize::from(n))), ..to_agent(n, one, "s") }).await;
    }
    let broadcast = muster_core::Broadcast { group: "g".into(), ..crate::broadcasts::broadcast(1, 9) };
    stage.store.broadcast_create(broadcast, at(1), &cause()).await.unwrap();
    stage.store.allocation_take(crate::broadcasts::bid(1), crate::broadcasts::aid(1), 0.5, at(9)).await.unwrap();
    let content = stage.store.file_begin(at(1)).await.unwrap();
    for index in 0..20 {
        let piece = bytes::Bytes::from(vec![u8::try_from(index).unwrap(); 1000]);
        stage.store.file_chunk_put(content, index, piece).await.unwrap();
    }
    let info = muster_core::file::FileInfo {
        service: "s".into(),
        name: "f".into(),
        bytes: 20_000,
        sha256: [1; 32],
        modified: at(1),
        content,
    };
    stage.store.file_finish(info, &cause()).await.unwrap();
    stage.store.setting_init("ca", vec![0, 1, 2]).await.unwrap();
}

/// Everything that is to be seen of a store.
async fn seen(store: &SqlStore) -> Vec<String> {
    let file = store.file_get("s", "f").await.unwrap().unwrap();
    vec![
        format!("{:?}", store.agent_get(agent(1)).await.unwrap()),
        format!("{:?}", store.facts_get(agent(1)).await.unwrap()),
        format!("{:?}", store.usage_list(agent(1), at(0), at(99)).await.unwrap()),
        format!("{:?}", store.contact_page(agent(1), None, 99).await.unwrap()),
        format!("{:?}", store.message_get(&(0..=255).map(id).collect::<Vec<_>>(), true).await.unwrap()),
        format!("{:?}", store.broadcast_page(None, 99).await.unwrap()),
        format!("{:?}", store.file_chunk_get(file.content, 19).await.unwrap()),
        format!("{file:?} {:?}", store.setting_get("ca").await.unwrap()),
        format!("{:?}", store.journal_page(None, 99).await.unwrap()),
    ]
}

async fn copy_into(backend: Backend, copy: PathBuf, wanted: Vec<String>, epoch: &'static str) {
    run_with(backend, move |stage| async move {
        stage.store.restore(&copy).await.unwrap();
        assert_eq!(seen(&stage.store).await, wanted);
        assert_eq!(stage.store.setting_get("epoch").await.unwrap().unwrap(), epoch.as_bytes());
        // New rows are numbered after the old ones.
        let number = stage.store.journal_page(None, 1).await.unwrap()[0].number;
        stage.store.setting_put("x", vec![], at(1), &cause()).await.unwrap();
        assert!(stage.store.journal_page(None, 1).await.unwrap()[0].number > number);
        stage.put(to_agent(1, agent(1), "s")).await;
        stage.contact(contact(1, at(50))).await;
        assert_eq!(stage.store.restore(&copy).await.unwrap_err().kind(), ErrorKind::Refused);
    })
    .await;
}

for_each_backend! {
    async fn a_copy_can_be_brought_back_into_either_database(stage) {
        furnish(&stage).await;
        let folder = folder();
        let copy = folder.path().join("copy.db");
        stage.store.backup(&copy).await.unwrap();
        assert_eq!(stage.store.backup(&copy).await.unwrap_err().kind(), ErrorKind::Refused);
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["copy.db"], "one file, and nothing half done");
        let wanted = seen(&stage.store).await;
        copy_into(Backend::Sqlite, copy.clone(), wanted.clone(), "1").await;
        copy_into(Backend::Postgres, copy, wanted, "1").await;
    }

    async fn a_database_with_anything_in_it_is_not_replaced(stage) {
        let folder = folder();
        let copy = folder.path().join("copy.db");
        stage.store.backup(&copy).await.unwrap();
        stage.store.setting_init("ca", vec![9]).await.unwrap();
        let refused = stage.store.restore(&copy).await.unwrap_err();
        assert!(refused.kind() == ErrorKind::Refused && refused.to_string().contains("it holds settings"), "{refused}");
        assert_eq!(stage.store.setting_get("ca").await.unwrap().unwrap(), [9], "and it is left as it is");
    }

    async fn no_word_of_a_copy_gets_into_a_statement(stage) {
        let folder = folder();
        for (name, change) in [
            ("column", "ALTER TABLE named_targets ADD COLUMN \"x) VALUES (1); DROP TABLE machines; --\" TEXT"),
            ("renamed", "ALTER TABLE named_targets RENAME COLUMN description TO \"description, name\""),
            ("view", "DROP TABLE used_tokens; CREATE VIEW used_tokens AS SELECT 1 AS _rowid_"),
        ] {
            let copy = folder.path().join(name);
            stage.store.backup(&copy).await.unwrap();
            rusqlite::Connection::open(&copy).unwrap().execute_batch(change).unwrap();
            let refused = stage.store.restore(&copy).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Refused, "{name}: {refused}");
            assert!(refused.to_string().contains("is not one of this program"), "{name}: {refused}");
        }
        assert!(stage.store.setting_get("epoch").await.unwrap().is_none(), "nothing was brought back");
    }

    async fn a_copy_is_its_owners_alone_and_replaces_nothing(stage) {
        use std::os::unix::fs::{MetadataExt as _, symlink};
        furnish(&stage).await;
        let folder = folder();
        let (copy, other) = (folder.path().join("copy.db"), folder.path().join("other"));
        let (watched, ended) = (folder.path().to_owned(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let end = std::sync::Arc::clone(&ended);
        // Whatever appears there while the copy is written is looked at.
        let watch = std::thread::spawn(move || {
            let mut open = Vec::new();
            while !end.load(std::sync::atomic::Ordering::Relaxed) {
                for entry in std::fs::read_dir(&watched).unwrap().flatten() {
                    let mode = entry.metadata().map_or(0, |found| found.mode() & 0o077);
                    open.extend((mode != 0).then(|| entry.file_name()));
                }
            }
            open
        });
        stage.store.backup(&copy).await.unwrap();
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(watch.join().unwrap().is_empty(), "others could have read it");
        assert_eq!(std::fs::metadata(&copy).unwrap().mode() & 0o777, 0o600);
        let link = folder.path().join("link");
        symlink(&other, &link).unwrap();
        assert_eq!(stage.store.backup(&link).await.unwrap_err().kind(), ErrorKind::Refused);
        assert!(!other.exists(), "a link is not followed");
    }

    async fn a_copy_is_of_one_moment(stage) {
        let one = stage.agent(1).await;
        let store = stage.store.clone();
        let writer = tokio::spawn(async move {
            for n in 0..60 {
                let pair = vec![to_agent(n * 2, one, "s"), to_agent(n * 2 + 1, one, "s")];
                store.message_put(pair, NO_CONTACT, at(0)).await.unwrap();
            }
        });
        let folder = folder();
        let copy = folder.path().join("copy.db");
        stage.store.backup(&copy).await.unwrap();
        writer.await.unwrap();
        let copy = rusqlite::Connection::open(copy).unwrap();
        let rows: i64 = copy.query_row("SELECT count(*) FROM messages", [], |row| row.get(0)).unwrap();
        assert_eq!(rows % 2, 0, "a pair is put whole");
        let sound: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
    }

    async fn a_copy_of_another_schema_is_refused(stage) {
        let folder = folder();
        let copy = folder.path().join("copy.db");
        stage.store.backup(&copy).await.unwrap();
        rusqlite::Connection::open(&copy).unwrap().execute_batch("INSERT INTO muster_schema VALUES (99)").unwrap();
        assert_eq!(stage.store.restore(&copy).await.unwrap_err().kind(), ErrorKind::Schema);
        let missing = folder.path().join("missing.db");
        assert_eq!(stage.store.restore(&missing).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!missing.exists());
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_is_named() {
    on_both(async |place| {
        SqlStore::migrate(&place.url).await.unwrap();
        let store = open(&place.url).await;
        store.agent_enrol(enrolment(1, AgentState::Enrolled, &[]), at(0)).await.unwrap();
        drop(store);
        past_the_store(&place.url, "UPDATE machines SET state = 77").await;
        let store = open(&place.url).await;
        let error = store.agent_get(agent(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Inconsistent);
        assert!(error.to_string().contains("machines") && error.to_string().contains("0000000000000001"), "{error}");
        drop(store);
        place.remove().await;
    })
    .await;
}

/// Without room nothing is changed, reading works, and writing works again once there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_takes_nothing_and_recovers() {
    let folder = folder();
    let mount = folder.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        std::process::Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
    };
    let path = mount.to_str().unwrap().to_owned();
    assert!(
        run("mount", &["-t", "tmpfs", "-o", "size=4m", "tmpfs", &path]),
        "this test mounts a small disk: run as root"
    );
    let outcome = tokio::spawn({
        let path = path.clone();
        async move {
            let url = format!("sqlite:{path}/muster.db");
            SqlStore::migrate(&url).await.unwrap();
            let store = open(&url).await;
            store.agent_enrol(enrolment(1, AgentState::Enrolled, &[]), at(0)).await.unwrap();
            let filler = format!("{path}/filler");
            let put = async |n: u8| {
                let message = Message { payload: body(&"x".repeat(100_000)), ..to_agent(n, agent(1), "s") };
                store.message_put(vec![message], NO_CONTACT, at(0)).await
            };
            put(0).await.unwrap();
            // Whatever is left is taken, as far as the log has not been given it already.
            let mut size = 4 << 20;
            while size > 0 {
                if std::fs::write(&filler, vec![1; size]).is_ok() {
                    break;
                }
                size -= 64 << 10;
            }
            let mut stored = vec![0];
            let mut full = 0;
            for n in 1..40 {
                match put(n).await {
                    Ok(_) => stored.push(n),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
                        full += 1;
                    }
                }
            }
            assert!(full > 0, "the disk was never full");
            let known = store.message_get(&(0..40).map(id).collect::<Vec<_>>(), false).await.unwrap();
            assert_eq!(
                known.iter().map(|row| row.message.id).collect::<Vec<_>>(),
                stored.iter().map(|n| id(*n)).collect::<Vec<_>>()
            );
            std::fs::remove_file(&filler).unwrap();
            put(50).await.unwrap();
            let broken = tokio::time::timeout(Duration::ZERO, store.broken()).await;
            assert!(broken.is_err(), "a full disk is not a broken one");
        }
    })
    .await;
    assert!(run("umount", &[&path]));
    outcome.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_is_found_again() {
    let place = Place::new(Backend::Postgres).await;
    SqlStore::migrate(&place.url).await.unwrap();
    // Under a name of its own, so that no other test loses its connections.
    let name = format!("cut_{}", std::process::id());
    let store = open(&format!("{}&application_name={name}", place.url)).await;
    store.agent_enrol(enrolment(1, AgentState::Enrolled, &[]), at(0)).await.unwrap();
    let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'");
    for n in 0..5 {
        // All connections of the store are cut, as by a server that restarts.
        admin(&cut).await;
        store.message_put(vec![to_agent(n, agent(1), "s")], NO_CONTACT, at(0)).await.unwrap();
        assert_eq!(store.message_pending_count(&[agent(1)]).await.unwrap(), u64::from(n) + 1);
    }
    drop(store);
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_outlives_a_killed_process() {
    // The file is copied as a crash would leave it: with its log, while the store is open and busy.
    let place = Place::new(Backend::Sqlite).await;
    SqlStore::migrate(&place.url).await.unwrap();
    let store = open(&place.url).await;
    store.agent_enrol(enrolment(1, AgentState::Enrolled, &[]), at(0)).await.unwrap();
    let DatabaseKind::Sqlite(path) = DatabaseKind::of(&place.url).unwrap() else { unreachable!() };
    for n in 0..50 {
        store.message_put(vec![to_agent(n, agent(1), "s")], NO_CONTACT, at(0)).await.unwrap();
    }
    let folder = folder();
    let copy = folder.path().join("muster.db");
    for end in ["", "-wal"] {
        let with = |path: &std::path::Path| PathBuf::from(format!("{}{end}", path.display()));
        std::fs::copy(with(&path), with(&copy)).unwrap();
    }
    let revived = open(copy.to_str().unwrap()).await;
    assert_eq!(revived.message_pending_count(&[agent(1)]).await.unwrap(), 50);
    drop((store, revived));
}
