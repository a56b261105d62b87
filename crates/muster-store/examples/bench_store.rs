//! Measures the store: how many message rows a second are put, claimed and acknowledged, durably, on both databases.
//!
//! `bench_store [--rows N] [--only TEXT] [--dir DIR]`. SQLite's file lies in DIR; PostgreSQL is the one that
//! `MUSTER_BENCH_POSTGRES` names (its schema `muster_bench` is dropped and made anew), else a private one in DIR with the
//! default settings, `fsync` on. Each line of the output is a JSON object; the table for people goes to the standard
//! error.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

mod cluster;

use cluster::Postgres;
use muster_core::{Address, AgentId, AgentState, Message, MessageId, Payload, Timestamp};
use muster_store::agents::{Claim, ContactPut, ContactTaken, Effect, Enrolment, Intake};
use muster_store::{AgentStore, ClusterStore, MessageStore, SqlStore, StoreOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Agents that messages come from and go to.
const AGENTS: u64 = 10_000;
/// Rows in one batch.
const BATCH: u64 = 1_000;
/// Bytes of a body.
const BODY: usize = 200;

struct Options {
    rows: u64,
    only: String,
    dir: PathBuf,
}

/// What is measured: its name, how many callers do it at once, and how many rows one call brings.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    callers: u64,
    rows: u64,
    /// The part of the rows of a run that this case takes: slow ones take fewer.
    share: u64,
    run: Run,
}

#[derive(Clone, Copy)]
enum Run {
    Put { to_agents: bool, ordered: bool },
    Contact,
    ClaimAndAcknowledge,
    Ping,
}

const CASES: [Case; 10] = [
    put("put 1,000 to the server, ordered ids, 1 caller", 1, BATCH, 1, false, true),
    put("put 1,000 to the server, ordered ids", 2, BATCH, 1, false, true),
    put("put 1,000 to the server, random ids", 2, BATCH, 1, false, false),
    put("put 1,000 to agents, ordered ids", 2, BATCH, 1, true, true),
    put("put 1,000 to agents, random ids", 2, BATCH, 1, true, false),
    put("put 1 to an agent, ordered ids", 8, 1, 20, true, true),
    Case { name: "contact of 100 messages, derived ids", callers: 4, rows: 100, share: 2, run: Run::Contact },
    Case { name: "contact of 1 message, derived ids", callers: 4, rows: 1, share: 20, run: Run::Contact },
    Case { name: "claim 100 and acknowledge", callers: 4, rows: 100, share: 4, run: Run::ClaimAndAcknowledge },
    Case { name: "smallest durable write", callers: 1, rows: 1, share: 100, run: Run::Ping },
];

const fn put(name: &'static str, callers: u64, rows: u64, share: u64, to_agents: bool, ordered: bool) -> Case {
    Case { name, callers, rows, share, run: Run::Put { to_agents, ordered } }
}

/// Greater than the number of any other case's message; its moment can still be written in nanoseconds.
const PAST_ALL: u64 = 1 << 50;

/// Numbers without pattern that are the same in every run (SplitMix64).
fn random(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn agent(n: u64) -> AgentId {
    AgentId::from_bytes(random(n % AGENTS).to_be_bytes())
}

fn at(n: u64) -> Timestamp {
    Timestamp::from_nanos(1_800_000_000_000_000_000 + i64::try_from(n).unwrap() * 1_000)
}

fn message(n: u64, to_agents: bool, ordered: bool) -> Message {
    let mut bytes = [0; 32];
    for (index, part) in (0..).zip(bytes.chunks_exact_mut(8)) {
        part.copy_from_slice(&random(n * 4 + index).to_be_bytes());
    }
    let (created, whose) = (at(n), agent(random(n)));
    let id = if ordered {
        MessageId::ordered(created, bytes[..24].try_into().unwrap())
    } else {
        MessageId::from_bytes(bytes)
    };
    let ends = if to_agents {
        (Address::server("service"), Address::agent(whose, "service"))
    } else {
        (Address::agent(whose, "service"), Address::server("service"))
    };
    let value = bytes.iter().copied().cycle().take(BODY).collect();
    let payload = Some(Payload { type_url: "type.googleapis.com/google.protobuf.BytesValue".into(), value });
    let source_message_id = bytes[..16].to_vec();
    Message { payload, source_message_id, message_type: "Result".into(), ..Message::new(id, ends.0, ends.1, created) }
}

fn contact(whose: AgentId, now: Timestamp, intake: Vec<Intake>, claim: Option<Claim>) -> ContactPut {
    ContactPut {
        agent: whose,
        key: whose.as_bytes().to_vec(),
        at: now,
        address: "192.0.2.1:40000".into(),
        streaming_to: String::new(),
        sent_nonce: now.as_nanos().cast_unsigned(),
        received_nonce: 0,
        clock: Some(now),
        intake,
        rejected: Vec::new(),
        claim,
    }
}

async fn call(store: &SqlStore, case: Case, n: u64) {
    let first = n * case.rows;
    match case.run {
        Run::Put { to_agents, ordered } => {
            let messages = (first..first + case.rows).map(|n| message(n, to_agents, ordered)).collect();
            store.message_put(messages, None, at(first)).await.unwrap();
        }
        Run::Contact => {
            let whose = agent(n);
            let deliver = |n| {
                let message = message(n, false, false);
                let id = MessageId::derive(whose, "service", &message.source_message_id);
                let source = Address::agent(whose, "service");
                Intake { message: Message { id, source, ..message }, effect: Effect::Deliver { due: at(first) } }
            };
            let intake = (first..first + case.rows).map(deliver).collect();
            let put = contact(whose, at(first), intake, None);
            assert!(matches!(store.contact_put(put).await.unwrap(), ContactTaken::Recorded(_)));
        }
        Run::ClaimAndAcknowledge => {
            let whose = agent(n);
            let claim = Claim { limit: 100, per_service: None, lease: Duration::from_secs(900) };
            let now = at(first + 1_000_000_000);
            let ContactTaken::Recorded(recorded) =
                store.contact_put(contact(whose, now, vec![], Some(claim))).await.unwrap()
            else {
                panic!("the agent is enrolled")
            };
            let ids: Vec<MessageId> = recorded.claimed.iter().map(|message| message.id).collect();
            assert_eq!(ids.len(), 100);
            let message = message(PAST_ALL + n, false, false);
            let effect = Effect::Acknowledge(ids);
            let answer = contact(whose, now.plus(Duration::from_secs(1)), vec![Intake { message, effect }], None);
            store.contact_put(answer).await.unwrap();
        }
        Run::Ping => store.ping().await.unwrap(),
    }
}

async fn prepare(store: &SqlStore, case: Case, calls: u64) {
    for n in 0..AGENTS {
        let id = agent(n);
        let key = id.as_bytes().to_vec();
        let (facts, note) = (muster_core::Facts::new(), String::new());
        let enrolment =
            Enrolment { id, key, labels: Vec::new(), state: AgentState::Enrolled, token: None, facts, note };
        store.agent_enrol(enrolment, at(0)).await.unwrap();
    }
    if matches!(case.run, Run::ClaimAndAcknowledge) {
        for n in 0..calls {
            let to = |index: u64| {
                let message = message(n * 100 + index, true, true);
                Message { destination: Address::agent(agent(n), "service"), ..message }
            };
            store.message_put((0..100).map(to).collect(), None, at(0)).await.unwrap();
        }
    }
}

async fn measure(database: &'static str, url: &str, case: Case, rows: u64) -> String {
    let options = StoreOptions::default();
    SqlStore::migrate(url).await.unwrap();
    let store = SqlStore::open(url, &options).await.unwrap();
    let calls = (rows / case.share / case.rows).max(1);
    prepare(&store, case, calls).await;
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let callers: Vec<_> = (0..case.callers)
        .map(|_| {
            let (store, next) = (store.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut longest = Duration::ZERO;
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= calls {
                        return longest;
                    }
                    let began = Instant::now();
                    call(&store, case, n).await;
                    longest = longest.max(began.elapsed());
                }
            })
        })
        .collect();
    let mut longest = Duration::ZERO;
    for caller in callers {
        longest = longest.max(caller.await.unwrap());
    }
    let took = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let per_second = (calls * case.rows) as f64 / took;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let calls_per_second = calls as f64 / took;
    let longest_ms = longest.as_secs_f64() * 1e3;
    println!(
        "{{\"bench\":\"store\",\"database\":\"{database}\",\"case\":\"{}\",\"callers\":{},\"rows\":{},\
         \"rows_per_second\":{per_second:.0},\"calls_per_second\":{calls_per_second:.0},\"longest_ms\":{longest_ms:.1}}}",
        case.name,
        case.callers,
        calls * case.rows,
    );
    format!(
        "{database:<11} {:<48} {:>2} callers {per_second:>9.0} rows/s {calls_per_second:>7.0} calls/s, longest {longest_ms:>6.1} ms",
        case.name, case.callers
    )
}

fn options() -> Options {
    let mut options = Options { rows: 500_000, only: String::new(), dir: std::env::temp_dir() };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{name} needs a value"));
        match name.as_str() {
            "--rows" => options.rows = value.parse().unwrap(),
            "--only" => options.only = value,
            "--dir" => options.dir = PathBuf::from(value),
            other => panic!("{other} is not known: --rows N, --only TEXT, --dir DIR"),
        }
    }
    options
}

#[tokio::main]
async fn main() {
    let options = options();
    let picked = |database: &str, case: &Case| format!("{database} {}", case.name).contains(&options.only);
    let mut table = Vec::new();
    for case in CASES.into_iter().filter(|case| picked("sqlite", case)) {
        let folder = tempfile::tempdir_in(&options.dir).unwrap();
        let url = format!("sqlite:{}", folder.path().join("bench.db").display());
        table.push(measure("sqlite", &url, case, options.rows).await);
    }
    let cases: Vec<_> = CASES.into_iter().filter(|case| picked("postgresql", case)).collect();
    if !cases.is_empty() {
        let postgres = Postgres::start(&options.dir);
        for case in cases {
            let url = postgres.fresh_schema("muster_bench").await;
            table.push(measure("postgresql", &url, case, options.rows).await);
        }
    }
    for line in table {
        eprintln!("{line}");
    }
}
