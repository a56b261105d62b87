//! What the databases walk for a page.

use super::*;
use crate::db::test_schema::TestSchema;
use crate::db::value::Row;
use crate::{DatabaseKind, SqlStore, StoreOptions};
use muster_core::AgentId;

/// Messages of other agents, and those that wait for services.
const OTHERS: u32 = 20_000;
const WAITING: u32 = 20;

/// Rows of many agents, most of them done; the agent that is asked for has three.
fn fill(series: &str, bytes: fn(&str) -> String) -> [String; 2] {
    let columns = "message_id, state, attempts, digest, source_agent, destination_agent, source_service, \
         source_message_id, destination_service, message_type, created, priority, background, from_blocked";
    let of = |id: &str, state: &str, from: &str, to: &str, created: &str| {
        format!("{id}, {state}, 0, 0, {from}, {to}, 's', {id}, 's', 't', {created}, 0, 0, 0")
    };
    let agent = bytes("'agent' || n % 500");
    let waits = format!("CASE WHEN n <= {WAITING} THEN 0 ELSE 1 END");
    let others = [
        of(&bytes("'from-' || n"), &waits, &agent, "NULL", "n"),
        of(&bytes("'to-' || n"), &waits, "NULL", &agent, "n"),
    ];
    let others = others.map(|row| format!("SELECT {row} FROM {series}")).join(" UNION ALL ");
    let quiet = bytes("'quietone'");
    let own = [
        of(&bytes("'own-1'"), "1", &quiet, "NULL", "5"),
        of(&bytes("'own-2'"), "2", "NULL", &quiet, "6"),
        of(&bytes("'own-3'"), "0", "NULL", &quiet, "7"),
    ];
    let own = own.map(|row| format!("({row})")).join(", ");
    [format!("INSERT INTO messages ({columns}) {others}"), format!("INSERT INTO messages ({columns}) VALUES {own}")]
}

fn args(agent: [u8; 8], state: Option<MessageState>) -> PageArgs {
    let filter = MessageFilter { agent: Some(AgentId::from_bytes(agent)), service: None, state };
    PageArgs { filter, before: Some(i64::MAX), limit: 10 }
}

/// How the database gets at the page, one step a line.
async fn plan(store: &SqlStore, explain: &'static str, state: Option<MessageState>) -> Vec<String> {
    let explained = store.write((explain, args(*b"quietone", state)), |tx, (explain, args)| {
        Box::pin(async move {
            let (sql, values) = statement(args);
            tx.query(format!("{explain} {sql}"), &values).await
        })
    });
    let last = |row: Row| match row.0.into_iter().next_back() {
        Some(Value::Text(text)) => text.into_owned(),
        other => panic!("{other:?}"),
    };
    explained.await.unwrap().into_iter().map(last).collect()
}

const STATES: [Option<MessageState>; 3] = [None, Some(MessageState::Pending), Some(MessageState::Done)];

#[tokio::test]
async fn a_page_of_a_quiet_agent_walks_its_own_rows_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("muster.db").display());
    SqlStore::migrate(&url).await.unwrap();
    let DatabaseKind::Sqlite(path) = DatabaseKind::of(&url).unwrap() else { unreachable!() };
    let series = format!(
        "(WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {OTHERS}) SELECT n FROM s)"
    );
    let file = rusqlite::Connection::open(path).unwrap();
    for statement in fill(&series, |text| format!("CAST({text} AS BLOB)")) {
        file.execute_batch(&statement).unwrap();
    }
    drop(file);
    let store = SqlStore::open(&url, &StoreOptions::default()).await.unwrap();
    for state in STATES {
        let plan = plan(&store, "EXPLAIN QUERY PLAN", state).await;
        let walks: Vec<&String> = plan.iter().filter(|step| step.contains(" messages ")).collect();
        assert_eq!(walks.len(), parts(state).len(), "{plan:#?}");
        for walk in walks {
            let by_agent = ["messages_from ", "messages_to ", "messages_between ", "messages_agent_due "];
            let own = by_agent.iter().any(|index| walk.contains(index)) && walk.contains("agent=?");
            let waiting = walk.contains("messages_service_due (destination_service>?)");
            assert!(walk.starts_with("SEARCH") && (own || waiting), "{plan:#?}");
        }
    }
}

#[tokio::test]
async fn a_page_of_a_quiet_agent_walks_its_own_rows_on_postgresql() {
    let schema = TestSchema::new("page").await;
    SqlStore::migrate(&schema.url).await.unwrap();
    let series = format!("generate_series(1, {OTHERS}) AS s (n)");
    for statement in fill(&series, |text| format!("convert_to({text}, 'UTF8')")) {
        schema.run(&statement).await;
    }
    schema.run("ANALYZE messages").await;
    let store = SqlStore::open(&schema.url, &StoreOptions::default()).await.unwrap();
    for state in STATES {
        let plan = plan(&store, "EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF)", state).await;
        let passed = plan.iter().filter(|step| step.contains("Rows Removed by "));
        let passed: u32 = passed.map(|step| step.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum();
        assert!(!plan.iter().any(|step| step.contains("Seq Scan")), "{plan:#?}");
        assert!(passed <= 2 * WAITING, "{passed} rows were passed over: {plan:#?}");
        assert!(!plan.iter().any(|step| step.contains("messages_pkey")), "{plan:#?}");
    }
    drop(store);
    schema.remove().await;
}
