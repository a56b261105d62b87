//! Measures actions in the store, on both databases: how many commands a second a fan-out makes, how long picking
//! machines by a target takes, how many results a second are taken durably, and what open commands cost while nothing happens.
//!
//! `bench_actions [--agents N] [--dir DIR]`. SQLite's file lies in DIR; PostgreSQL is the one that
//! `MUSTER_BENCH_POSTGRES` names (its schema `muster_bench_actions` is dropped and made anew), else a private one in DIR. Each line of the output is a JSON object.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

mod cluster;

use cluster::{Postgres, run_sql};
use muster_core::action::{Action, ActionId, ActionStatus, CommandStatus};
use muster_core::target::Target;
use muster_core::{AgentId, Cause, Payload, ServerId, Timestamp};
use muster_store::actions::{ActionPut, Next, ResultPut, ResultTaken, Spread, WorkLimits};
use muster_store::agents::Claim;
use muster_store::targets::{Reach, TargetQuery};
use muster_store::{ActionStore, DatabaseKind, MessageStore, SqlStore, StoreOptions, TargetStore};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TARGET: &str = "name LIKE '%'";
/// Targets that pick all machines, some, and none: by columns, by a tag, in the document beside the row, by a pattern.
const PICKED: [&str; 9] = [
    "status = 'online'",
    "environment->>'os' = 'linux' AND name LIKE 'host9%'",
    "tags->>'operator' = 'IT'",
    "environment->'addresses'->>0 = '192.0.2.7'",
    "environment->>'addresses' LIKE '%192.0.2.7%'",
    "environment::text ILIKE '%192.0.2.7%' OR name = 'none'",
    "name ~* '^HOST[0-9]{2}7'",
    "heartbeattime > NOW() - INTERVAL '5 minutes' AND os IN ('linux', 'darwin')",
    "name = 'none'",
];
const PICKS: u32 = 5;
/// Results in one call, and calls under way at once.
const BATCH: u64 = 500;
const CALLERS: u64 = 4;
/// Calls of which the idle cost is the mean.
const IDLE_CALLS: u32 = 2_000;
const RUNS: u8 = 5;

fn now() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

fn agent(n: u64) -> AgentId {
    AgentId::from_bytes(n.to_be_bytes())
}

/// Puts machines into the database past the store, which would take its time.
async fn furnish(url: &str, agents: u64) {
    let columns = "agent_id, id_text, public_key, state, created, last_contact, last_address, streaming_to, \
         nonce_splits, nonce_skips, host_name, name, os, tags";
    let environment = concat!(
        r#"{"addresses":["192.0.2.7","10.0.0.1"],"arch":"amd64","ident":"Debian GNU/Linux 12 (bookworm)","#,
        r#""init":"systemd","isproxied":false,"modules":["file","pkg"],"os":"linux","proxy":""}"#
    );
    let told = r#"'linux', '{"operator":"IT","role":"web"}'"#;
    let environments =
        format!("INSERT INTO machine_environments (machine, environment) SELECT number, '{environment}' FROM machines");
    let at = now().as_nanos();
    match DatabaseKind::of(url).unwrap() {
        DatabaseKind::Sqlite(path) => {
            let connection = rusqlite::Connection::open(path).unwrap();
            let sql = format!(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {agents}) \
                 INSERT INTO machines ({columns}, number) SELECT unhex(printf('%016x', i)), printf('%016x', i), \
                 randomblob(91), 0, {at}, {at}, '192.0.2.1:4000', '', 0, 0, 'host' || i, 'host' || i, \
                 {told}, i FROM n; {environments}"
            );
            connection.execute_batch(&sql).unwrap();
        }
        DatabaseKind::Postgres => {
            let sql = format!(
                "INSERT INTO machines ({columns}) SELECT decode(lpad(to_hex(i), 16, '0'), 'hex'), \
                 lpad(to_hex(i), 16, '0'), decode(repeat('00', 91), 'hex'), 0, {at}, {at}, '192.0.2.1:4000', '', 0, 0, \
                 'host' || i, 'host' || i, {told} FROM generate_series(1, {agents}) AS i; {environments}; \
                 ANALYZE machines; ANALYZE machine_environments"
            );
            run_sql(url, &sql).await;
        }
    }
}

async fn launch(store: &SqlStore, n: u8) -> ActionId {
    let json = br#"{"name":"bench","target":"x","operations":[{"module":"file"}],"syntaxversion":2}"#;
    let action = Action::parse(json).unwrap();
    let id = store.action_id_take().await.unwrap();
    let (valid_from, expire_after) = (now(), now().plus(Duration::from_secs(3600)));
    let payload = Payload { type_url: "t".into(), value: vec![0; 1700] };
    let put = ActionPut {
        action: Action { id: Some(id), target: TARGET.into(), valid_from, expire_after, ..action },
        signed: [n; 32],
        signatures: Vec::new(),
        is_ready: true,
        order: payload,
        spread: Spread::default(),
    };
    store.action_put(put, now(), &Cause::server()).await.unwrap().id()
}

async fn fan_out(store: &SqlStore, id: ActionId) -> (Duration, Duration) {
    let start = Instant::now();
    let mut longest = Duration::ZERO;
    let job = store.action_claim_due(ServerId::from_bytes([1; 8]), Duration::from_secs(60), now()).await.unwrap();
    let job = job.unwrap();
    assert_eq!(job.action, id);
    loop {
        let step = Instant::now();
        let worked = store.action_work(job, WorkLimits::default(), now()).await.unwrap();
        longest = longest.max(step.elapsed());
        if worked.next != Next::Now {
            assert_eq!(worked.status, ActionStatus::Inflight);
            return (start.elapsed(), longest);
        }
    }
}

async fn results(store: &SqlStore, id: ActionId, agents: u64) -> Duration {
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (store, next) = (store.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let first = next.fetch_add(BATCH, Ordering::Relaxed);
                    if first >= agents {
                        return;
                    }
                    let put = |n| ResultPut {
                        action: id,
                        // In another order than that of the commands.
                        agent: agent((n * 7919) % agents + 1),
                        status: CommandStatus::Success,
                        found: n % 10 == 0,
                        results: format!("[{{\"foundanything\":true,\"elements\":{{\"s1\":[{{\"file\":\"{n}\"}}]}}}}]"),
                        signature: vec![7; 71],
                    };
                    let batch = (first..(first + BATCH).min(agents)).map(put).collect();
                    let taken = store.command_result_put(batch, now()).await.unwrap();
                    assert!(taken.iter().all(|taken| *taken == ResultTaken::First));
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    start.elapsed()
}

/// The mean of a look for work and of a claim of an agent without commands.
async fn idle(store: &SqlStore) -> (Duration, Duration) {
    let owner = ServerId::from_bytes([1; 8]);
    let start = Instant::now();
    for _ in 0..IDLE_CALLS {
        assert_eq!(store.action_claim_due(owner, Duration::from_secs(60), now()).await.unwrap(), None);
    }
    let look = start.elapsed() / IDLE_CALLS;
    let claim = Claim { limit: 100, per_service: None, lease: Duration::from_secs(900) };
    let start = Instant::now();
    for _ in 0..IDLE_CALLS {
        let claimed = store.message_claim_due(agent(u64::MAX / 2), claim.clone(), None, now()).await.unwrap();
        assert_eq!(claimed, []);
    }
    (look, start.elapsed() / IDLE_CALLS)
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
async fn measure(database: &str, url: &str, agents: u64) {
    SqlStore::migrate(url).await.unwrap();
    furnish(url, agents).await;
    let store = SqlStore::open(url, &StoreOptions::default()).await.unwrap();
    let (look_without, claim_without) = idle(&store).await;
    let line = |case: &str, value: f64, unit: &str, note: String| {
        println!(
            "{{\"bench\":\"actions\",\"database\":\"{database}\",\"agents\":{agents},\"case\":\"{case}\",\
             \"{unit}\":{value:.1}{note}}}"
        );
    };
    for text in PICKED {
        let target = Target::parse(text).unwrap();
        let query = TargetQuery { target, now: now(), reach: Reach::Active };
        let picked = store.target_count(query.clone()).await.unwrap();
        let start = Instant::now();
        for _ in 0..PICKS {
            assert_eq!(store.target_count(query.clone()).await.unwrap(), picked);
        }
        let took = start.elapsed() / PICKS;
        let note = format!(",\"picked\":{picked},\"target\":{text:?}");
        line("target", took.as_secs_f64() * 1e3, "ms", note);
    }
    let mut last = None;
    for n in 1..=RUNS {
        let id = launch(&store, n).await;
        let (took, longest) = fan_out(&store, id).await;
        let note = format!(",\"longest_step_ms\":{:.1}", longest.as_secs_f64() * 1e3);
        line("fan-out", agents as f64 / took.as_secs_f64(), "commands_per_second", note);
        last = Some(id);
    }
    let (look_with, claim_with) = idle(&store).await;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let note = |without: Duration| format!(",\"without_us\":{:.1}", micros(without));
    line("look for work, all commands open", micros(look_with), "us", note(look_without));
    line("claim of nothing, all commands open", micros(claim_with), "us", note(claim_without));
    let took = results(&store, last.unwrap(), agents).await;
    line("results", agents as f64 / took.as_secs_f64(), "results_per_second", String::new());
    let row = store.action_get(last.unwrap()).await.unwrap().unwrap();
    assert_eq!((row.status, row.counters.success), (ActionStatus::Completed, agents));
}

#[tokio::main]
async fn main() {
    let mut agents = 100_000;
    let mut dir = std::env::temp_dir();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--agents" => agents = value.parse().unwrap(),
            "--dir" => dir = PathBuf::from(value),
            other => panic!("{other} is not known: --agents N, --dir DIR"),
        }
    }
    let folder = tempfile::tempdir_in(&dir).unwrap();
    measure("sqlite", &format!("sqlite:{}", folder.path().join("bench.db").display()), agents).await;
    let postgres = Postgres::start(&dir);
    measure("postgresql", &postgres.fresh_schema("muster_bench_actions").await, agents).await;
}
