//! The tables of MIG: what a person at `psql` or `sqlite3` sees and does, and what was done behind the store's back.

use crate::actions::{investigator, launch, order, work};
use crate::stage::*;
use muster_core::action::CommandStatus;
use muster_core::{AgentState, Timestamp};
use muster_store::actions::ResultPut;
use muster_store::agents::{ContactPut, Effect};
use muster_store::{
    ActionStore, AgentStore, ClusterStore, DatabaseKind, ErrorKind, InvestigatorStore, JournalStore, Password,
    ReportStore, Role, Roles, SqlStore,
};
use std::collections::BTreeMap;

/// Runs a query past the store and returns its rows as text.
pub(crate) async fn ask(url: &str, sql: &str) -> Vec<Vec<String>> {
    try_ask(url, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The same of a query that may be refused, with the reason.
async fn try_ask(url: &str, sql: &str) -> Result<Vec<Vec<String>>, String> {
    match DatabaseKind::of(url).unwrap() {
        DatabaseKind::Sqlite(path) => {
            let connection = rusqlite::Connection::open(path).unwrap();
            let mut statement = connection.prepare(sql).unwrap();
            let columns = statement.column_count();
            let text = |value| match value {
                rusqlite::types::Value::Null => "NULL".to_owned(),
                rusqlite::types::Value::Integer(n) => n.to_string(),
                rusqlite::types::Value::Real(n) => n.to_string(),
                rusqlite::types::Value::Text(text) => text,
                rusqlite::types::Value::Blob(bytes) => format!("{bytes:?}"),
            };
            let rows = statement.query_map([], |row| (0..columns).map(|n| row.get(n).map(text)).collect()).unwrap();
            rows.collect::<Result<_, _>>().map_err(|error| error.to_string())
        }
        DatabaseKind::Postgres => {
            let config: tokio_postgres::Config = url.parse().unwrap();
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
            let connection = tokio::spawn(connection);
            let answer = client.simple_query(sql).await;
            let rows = answer.map(|answer| {
                let rows = answer.iter().filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => {
                        Some((0..row.len()).map(|n| row.get(n).unwrap_or("NULL").to_owned()).collect())
                    }
                    _ => None,
                });
                rows.collect()
            });
            let rows = rows.map_err(|error| error.as_db_error().map_or(error.to_string(), ToString::to_string));
            drop(client);
            connection.await.unwrap().unwrap();
            rows
        }
    }
}

async fn on_both(case: impl AsyncFn(Stage, Place)) {
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let place = Place::new(backend).await;
        SqlStore::migrate(&place.url).await.unwrap();
        let stage = Stage { store: open(&place.url).await, url: place.url.clone() };
        case(stage, place).await;
    }
}

fn moment(backend: Backend, ago: &str) -> String {
    match backend {
        Backend::Sqlite => format!("datetime('now', '-{ago}')"),
        Backend::Postgres => format!("NOW() - INTERVAL '{ago}'"),
    }
}

fn now() -> Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    Timestamp::EPOCH.plus(since)
}

fn minutes_ago(minutes: u64) -> Timestamp {
    now().minus(std::time::Duration::from_secs(minutes * 60))
}

#[tokio::test]
async fn the_three_documented_queries_work() {
    on_both(async |stage, place| {
        let backend = stage.backend();
        ask(&place.url, "INSERT INTO investigators (name, pgpfingerprint) VALUES ('Bob Kelso', 'e60892bb9bd89a69f759a1a0a3d652173b763e8f')").await;
        let found = stage.store.investigator_find(&"E60892BB9BD89A69F759A1A0A3D652173B763E8F".parse().unwrap()).await;
        assert_eq!(found.unwrap().unwrap().name, "Bob Kelso");

        for (n, minutes) in [(1, 1), (2, 60), (3, 60 * 24 * 31), (4, 2)] {
            stage.agent(n).await;
            stage.contact(contact(n, minutes_ago(minutes))).await;
        }
        stage.agent_in(9, AgentState::Waiting, &[]).await;
        for pid in [7, 8] {
            let usage = muster_core::ResourceUsage { pid, process_start: Some(minutes_ago(9)), ..usage() };
            stage.store.usage_put(agent(4), usage, minutes_ago(1)).await.unwrap();
        }
        let (month, five, ten) = (moment(backend, "30 days"), moment(backend, "5 minutes"), moment(backend, "10 minutes"));
        let offline = format!(
            "SELECT DISTINCT(agents.name) FROM agents WHERE agents.heartbeattime >= {month} AND agents.name NOT IN \
             (SELECT DISTINCT(agents.name) FROM agents WHERE agents.heartbeattime >= {five}) ORDER BY name"
        );
        assert_eq!(ask(&place.url, &offline).await, [["0000000000000002"]]);
        let double = format!(
            "SELECT COUNT(agents.id), agents.queueloc FROM agents WHERE agents.heartbeattime > {ten} \
             GROUP BY agents.queueloc HAVING COUNT(agents.queueloc) > 1 ORDER BY COUNT(agents.queueloc) DESC"
        );
        assert_eq!(ask(&place.url, &double).await, [["2", "agent.0000000000000004"]]);
        drop(stage);
        place.remove().await;
    })
    .await;
}

#[tokio::test]
async fn an_investigator_that_a_person_inserts_has_a_time() {
    on_both(async |stage, place| {
        let before = minutes_ago(1);
        ask(&place.url, "INSERT INTO investigators (name, pgpfingerprint) VALUES ('Bob Kelso', 'e60892bb9bd89a69f759a1a0a3d652173b763e8f')").await;
        let row = stage.store.investigator_page(None, None, 9).await.unwrap().remove(0);
        for time in [row.created, row.modified] {
            assert!(time > before && time < now().plus(std::time::Duration::from_secs(60)), "{time}");
        }
        drop(stage);
        place.remove().await;
    })
    .await;
}

#[tokio::test]
async fn modules_are_registered_from_what_machines_have() {
    on_both(async |stage, place| {
        stage.agent(1).await;
        stage.agent(2).await;
        let tell = async |n: u8, of: u8, modules: serde_json::Value| {
            let facts = BTreeMap::from([("agent_modules".to_owned(), modules)]);
            let put = ContactPut {
                intake: vec![intake(to_server(n, agent(of), "muster"), Effect::Facts(facts))],
                ..contact(of, now())
            };
            stage.contact(put).await;
        };
        tell(1, 1, serde_json::json!(["pkg", "file"])).await;
        tell(2, 2, serde_json::json!(["file", "yara", "no name", "", "x".repeat(65), 7])).await;
        tell(3, 1, serde_json::json!("file")).await;
        let names = ask(&place.url, "SELECT name FROM modules ORDER BY name").await;
        assert_eq!(names, [["file"], ["pkg"], ["yara"]]);
        drop(stage);
        place.remove().await;
    })
    .await;
}

#[tokio::test]
async fn agents_stats_has_migs_columns_and_shapes() {
    on_both(async |stage, place| {
        stage.agent(1).await;
        stage.contact(contact(1, now())).await;
        let facts = BTreeMap::from([("agent_version".to_owned(), "0.1.0".into())]);
        let put = ContactPut {
            intake: vec![intake(to_server(1, agent(1), "muster"), Effect::Facts(facts))],
            ..contact(1, now())
        };
        stage.contact(put).await;
        let stats = stage.store.agents_stats_put(now()).await.unwrap();
        let row = ask(
            &place.url,
            "SELECT \"timestamp\", online_agents, online_agents_by_version, online_endpoints, idle_agents, \
             idle_agents_by_version, idle_endpoints, new_endpoints, multi_agents_endpoints, disappeared_endpoints, \
             flapping_endpoints FROM agents_stats",
        )
        .await
        .remove(0);
        let (month, _) = row[0].split_at(7);
        assert!(now().to_string().starts_with(month), "{row:?}");
        assert_eq!((row[1].as_str(), row[4].as_str(), row[5].as_str()), ("1", "0", "[]"));
        let versions: serde_json::Value = serde_json::from_str(&row[2]).unwrap();
        assert_eq!(
            versions,
            serde_json::json!([{"version": "0.1.0", "count": 1}]),
            "{:?}",
            stats.online_agents_by_version
        );
        drop(stage);
        place.remove().await;
    })
    .await;
}

#[tokio::test]
async fn a_fingerprint_that_is_none_is_refused_whoever_writes_it() {
    on_both(async |stage, place| {
        let insert =
            |text: &str| format!("INSERT INTO investigators (name, pgpfingerprint) VALUES ('Bob Kelso', '{text}')");
        for wrong in ["", "A3D652173B763E8F", "zz not hex", "0x", &"g".repeat(40), &"a".repeat(41)] {
            let refused = try_ask(&place.url, &insert(wrong)).await.unwrap_err();
            assert!(refused.contains("hexadecimal"), "{wrong}: {refused}");
        }
        for good in ["0xE60892BB9BD89A69F759A1A0A3D652173B763E8F", "e608 92BB:9BD8 9A69 F759 A1A0 A3D6 5217 3B76 3E80"]
        {
            ask(&place.url, &insert(good)).await;
        }
        ask(&place.url, &insert(&"ab".repeat(32))).await;
        ask(&place.url, "INSERT INTO investigators (name) VALUES ('Nobody yet')").await;
        let change = "UPDATE investigators SET pgpfingerprint = 'A3D652173B763E8F' WHERE name = 'Nobody yet'";
        assert!(try_ask(&place.url, change).await.unwrap_err().contains("hexadecimal"));
        let people = stage.store.investigator_page(None, None, 9).await.unwrap();
        let known: Vec<bool> = people.iter().map(|row| row.fingerprint.is_some()).collect();
        assert_eq!(known, [true, true, true, false]);
        drop(stage);
        place.remove().await;
    })
    .await;
}

#[tokio::test]
async fn what_no_older_tool_knows_is_in_no_view_of_sqlite() {
    let place = Place::new(Backend::Sqlite).await;
    SqlStore::migrate(&place.url).await.unwrap();
    let views = ask(&place.url, "SELECT name, sql FROM sqlite_master WHERE type = 'view'").await;
    assert!(views.len() >= 3, "{views:?}");
    for view in views {
        // 'subsec' came with SQLite 3.42, octet_length with 3.43: distributions have older ones.
        assert!(!view[1].contains("subsec") && !view[1].contains("octet_length"), "{}", view[0]);
    }
    place.remove().await;
}

#[tokio::test]
async fn the_file_of_sqlite_and_those_beside_it_are_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("muster.db");
    let url = path.to_str().unwrap();
    SqlStore::migrate(url).await.unwrap();
    let store = SqlStore::open(url, &muster_store::StoreOptions::default()).await.unwrap();
    store.setting_init("kept", vec![1]).await.unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        files += 1;
    }
    assert!(files >= 3, "{files}");
}

#[tokio::test]
async fn d16_facts_that_change_refresh_the_environment() {
    on_both(async |stage, place| {
        stage.agent(1).await;
        let tell = async |n: u8, minutes: u64, kernel: &str| {
            let facts = BTreeMap::from([("kernel".to_owned(), kernel.into())]);
            let now = minutes_ago(minutes);
            let put = ContactPut {
                intake: vec![intake(to_server(n, agent(1), "muster"), Effect::Facts(facts))],
                ..contact(1, now)
            };
            stage.contact(put).await;
            ask(&place.url, "SELECT os, refreshtime FROM agents").await.remove(0)
        };
        let first = tell(1, 60, "Linux").await;
        assert_eq!(first[0], "linux");
        assert_eq!(tell(2, 50, "Linux").await, first, "the same facts are no news");
        let other = tell(3, 40, "FreeBSD").await;
        assert!(other[0] == "freebsd" && other[1] > first[1], "{first:?} {other:?}");
        drop(stage);
        place.remove().await;
    })
    .await;
}

#[tokio::test]
async fn the_eight_tables_have_their_columns() {
    on_both(async |stage, place| {
        let one = stage.agent(1).await;
        let who = investigator(&stage, 1).await;
        let id = launch(&stage, order(&stage, 1, &[who]).await).await;
        work(&stage.store, at(1)).await;
        let put = ResultPut {
            action: id,
            agent: one,
            status: CommandStatus::Success,
            found: true,
            results: "[{}]".into(),
            signature: Vec::new(),
        };
        stage.store.command_result_put(vec![put], at(2)).await.unwrap();
        stage.store.module_minimum_set(one, "file", Some(1), at(1), &cause()).await.unwrap();
        let weight = muster_store::investigators::ModuleWeight {
            investigator: who,
            agent: one,
            module: "file".into(),
            weight: Some(1),
        };
        stage.store.module_weight_set(weight, at(1), &cause()).await.unwrap();
        let tables = [
            (
                "actions",
                "id, name, target, description, threat, operations, validfrom, expireafter, starttime, \
              finishtime, lastupdatetime, status, sentctr, returnedctr, donectr, cancelledctr, failedctr, timeoutctr, \
              pgpsignatures, syntaxversion",
            ),
            (
                "agents",
                "id, name, queueloc, os, version, pid, starttime, destructiontime, heartbeattime, status, \
              environment, tags",
            ),
            ("commands", "id, actionid, agentid, status, results, starttime, finishtime"),
            ("investigators", "id, name, pgpfingerprint, publickey"),
            ("signatures", "actionid, investigatorid, pgpsignature"),
            ("modules", "id, name"),
            ("agtmodreq", "moduleid, agentid, minimumweight"),
            ("invagtmodperm", "investigatorid, agentid, moduleid, weight"),
        ];
        for (table, columns) in tables {
            let rows = ask(&place.url, &format!("SELECT {columns} FROM {table}")).await;
            assert_eq!(rows.len(), 1, "{table}");
            assert_eq!(rows[0].len(), columns.split(',').count(), "{table}");
        }
        let join = "SELECT actions.status, commands.status, agents.name, commands.results, actions.donectr \
             FROM commands JOIN actions ON actions.id = commands.actionid JOIN agents ON agents.id = commands.agentid";
        assert_eq!(ask(&place.url, join).await, [["completed", "success", "0000000000000001", "[{}]", "1"]]);
        let command =
            stage.store.command_get(ask(&place.url, "SELECT id FROM commands").await[0][0].parse().unwrap()).await;
        assert_eq!(command.unwrap().unwrap().agent, one);
        drop(stage);
        place.remove().await;
    })
    .await;
}

#[tokio::test]
async fn a_journal_that_was_touched_says_where() {
    let tampers = [
        ("UPDATE journal SET reason = 'another' WHERE number = 3", 3),
        ("UPDATE journal SET at = at + 1 WHERE number = 3", 3),
        ("UPDATE journal SET hash = NULL WHERE number = 3", 3),
        ("DELETE FROM journal WHERE number = 3", 3),
        ("DELETE FROM journal WHERE number >= 5", 5),
        ("UPDATE journal SET number = 99 WHERE number = 5", 5),
        ("UPDATE journal SET actor = actor || request, request = '' WHERE number = 4", 4),
    ];
    on_both(async |stage, place| {
        drop(stage);
        for (tamper, number) in tampers {
            let fresh =
                Place::new(if place.url.starts_with("sqlite") { Backend::Sqlite } else { Backend::Postgres }).await;
            SqlStore::migrate(&fresh.url).await.unwrap();
            let store = open(&fresh.url).await;
            for n in 0..5 {
                store.setting_put(&format!("s{n}"), vec![], at(n), &cause()).await.unwrap();
            }
            drop(store);
            ask(&fresh.url, tamper).await;
            let store = open(&fresh.url).await;
            let verified = store.journal_verify(None, 100).await.unwrap();
            assert_eq!(verified.fault.map(|fault| fault.number), Some(number), "{tamper}");
            drop(store);
            fresh.remove().await;
        }
        place.remove().await;
    })
    .await;
}

#[tokio::test]
async fn roles_may_do_what_they_are_for() {
    let place = Place::new(Backend::Postgres).await;
    let tag = std::process::id();
    let role = |kind: &str| Role { name: format!("case_{kind}_{tag}"), password: Password::Set("it's".into()) };
    let schema = format!("case_schema_{tag}");
    let roles = Roles { owner: role("owner"), server: role("server"), reader: role("reader"), schema: schema.clone() };
    let admin_url = crate::postgres::url();
    let made = SqlStore::create(&admin_url, Some(&roles)).await.unwrap();
    assert_eq!((made.had, made.new_roles.len()), (None, 3));
    let again = SqlStore::create(&admin_url, Some(&roles)).await.unwrap();
    assert_eq!((again.had, again.new_roles.len()), (Some(SqlStore::SCHEMA_VERSION), 0));
    let as_role = |role: &Role| {
        let (protocol, rest) = admin_url.split_once("://postgres@").expect("the suite signs in as postgres");
        format!("{protocol}://{}@{rest}", role.name)
    };
    let server_url = as_role(&roles.server);
    let store = open(&server_url).await;
    store.setting_put("x", vec![], at(0), &cause()).await.unwrap();
    store.agent_enrol(enrolment(1, AgentState::Enrolled, &[]), at(0)).await.unwrap();
    let fault = store.journal_verify(None, 9).await.unwrap().fault;
    assert_eq!(fault, None);
    let refused = async |url: &str, sql: &str| {
        let config: tokio_postgres::Config = url.parse().unwrap();
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let code = client.batch_execute(sql).await.unwrap_err().code().map(|code| code.code().to_owned());
        drop(client);
        connection.await.unwrap().unwrap();
        assert_eq!(code.as_deref(), Some("42501"), "{sql}");
    };
    for sql in
        ["UPDATE journal SET reason = ''", "DELETE FROM journal", "DROP TABLE machines", "DELETE FROM muster_schema"]
    {
        refused(&server_url, sql).await;
    }
    let reader_url = as_role(&roles.reader);
    assert_eq!(ask(&reader_url, "SELECT count(*) FROM agents").await, [["1"]]);
    ask(&reader_url, "SELECT name, permissions FROM investigators").await;
    for sql in ["SELECT apikey_sha256 FROM investigators", "SELECT * FROM settings", "DELETE FROM signatures"] {
        refused(&reader_url, sql).await;
    }
    let twins = Roles { reader: roles.server.clone(), ..roles.clone() };
    assert_eq!(SqlStore::create(&admin_url, Some(&twins)).await.unwrap_err().kind(), ErrorKind::Refused);
    drop(store);
    admin(&format!("DROP SCHEMA {schema} CASCADE")).await;
    for role in [&roles.owner, &roles.server, &roles.reader] {
        admin(&format!("DROP OWNED BY {0}; DROP ROLE {0}", role.name)).await;
    }
    place.remove().await;
}
