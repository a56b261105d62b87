//! Random calls on the store and on a model of it, which must give the same.
//!
//! A failure prints the shortest list of calls that was found to differ.

use crate::broadcasts::{aid, bid, broadcast};
use crate::model::{Bring, EXPIRING, FROM_AGENTS, LIFE_MS, Model, OF_BROADCASTS, Op, addressee};
use crate::stage::*;
use muster_core::{AgentState, BroadcastLimit, Label, Message, MessageId, MessageResult, ServerId, Timestamp};
use muster_store::agents::{AgentFilter, ContactPut, ContactTaken, Effect, Enrolled};
use muster_store::{AgentStore, BroadcastStore, ClusterStore, ErrorKind, MessageStore, SqlStore, StoreError};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::collections::BTreeSet;

/// Calls in one list.
const CALLS: std::ops::Range<usize> = 1..60;

fn one_agent() -> impl Strategy<Value = u8> {
    1..=3_u8
}

fn message() -> impl Strategy<Value = u8> {
    0..24_u8
}

fn any_message() -> impl Strategy<Value = u8> {
    prop_oneof![4 => message(), 1 => FROM_AGENTS..FROM_AGENTS + 6, 1 => OF_BROADCASTS..OF_BROADCASTS + 6]
}

fn limit() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(2), Just(5), Just(BroadcastLimit::UNLIMITED)]
}

fn state() -> impl Strategy<Value = AgentState> {
    use AgentState::{Blocked, Deleted, Enrolled, Rekeying, Waiting};
    prop_oneof![4 => Just(Enrolled), 1 => Just(Blocked), 2 => Just(Rekeying), 1 => Just(Waiting), 1 => Just(Deleted)]
}

fn bring() -> impl Strategy<Value = Bring> {
    prop_oneof![Just(Bring::Deliver), btree_set(any_message(), 0..6).prop_map(Bring::Acknowledge)]
}

fn contact_op() -> impl Strategy<Value = Op> {
    let brings = vec((FROM_AGENTS..FROM_AGENTS + 6, bring()), 0..4);
    (one_agent(), brings, 0..4_u32).prop_map(|(agent, mut brings, claim)| {
        // One message does one thing.
        let mut seen = BTreeSet::new();
        brings.retain(|(n, _)| seen.insert(*n));
        Op::Contact { agent, brings, claim }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let agents = || vec(one_agent(), 0..3);
    let (b, a) = (|| 1..=2_u8, || 1..=4_u8);
    let some = || proptest::option::weighted(0.8, a());
    prop_oneof![
        6 => prop_oneof![Just(1), Just(1_000), Just(61_000), Just(900_001)].prop_map(Op::Wait),
        6 => one_agent().prop_map(Op::Enrol),
        2 => (one_agent(), state()).prop_map(|(n, state)| Op::State(n, state)),
        1 => (one_agent(), 0..3_u8).prop_map(|(n, label)| Op::LabelPut(n, label)),
        1 => (one_agent(), 0..3_u8).prop_map(|(n, label)| Op::LabelDelete(n, label)),
        8 => vec(message(), 0..5).prop_map(Op::Put),
        3 => (any_message(), any::<bool>()).prop_map(|(n, done)| Op::Result(n, done)),
        5 => (one_agent(), 0..4_u32).prop_map(|(n, limit)| Op::Claim(n, limit)),
        3 => (0..4_u32).prop_map(Op::ClaimOverdue),
        2 => any_message().prop_map(Op::Cancel),
        2 => any_message().prop_map(Op::Unpark),
        2 => Just(Op::ParkExpired),
        2 => one_agent().prop_map(Op::Release),
        1 => (agents(), 0..2_u64, 0..3_u64).prop_map(|(agents, offset, limit)| Op::Pending(agents, offset, limit)),
        1 => agents().prop_map(Op::PendingDelete),
        6 => contact_op(),
        2 => (b(), limit()).prop_map(|(b, limit)| Op::Create(b, limit)),
        1 => (b(), limit()).prop_map(|(b, limit)| Op::LimitSet(b, limit)),
        1 => b().prop_map(Op::Disable),
        4 => (b(), a(), prop_oneof![Just(0.1), Just(0.5), Just(1.0)]).prop_map(|(b, a, part)| Op::Take(b, a, part)),
        6 => (b(), some(), OF_BROADCASTS..OF_BROADCASTS + 6, one_agent())
            .prop_map(|(b, a, n, to)| Op::Send(b, a, n, to)),
        2 => (b(), some(), 0..3_u64).prop_map(|(b, a, sent)| Op::End(b, a, sent)),
        1 => Just(Op::Reclaim),
        2 => (1..=2_u8).prop_map(Op::Lease),
        1 => (0..2_u8).prop_map(Op::SettingInit),
    ]
}

fn last(id: &MessageId) -> u8 {
    id.as_bytes()[31]
}

fn label(n: u8) -> Label {
    Label::client(n.to_string())
}

fn numbers(messages: &[Message]) -> Vec<u8> {
    messages.iter().map(|message| last(&message.id)).collect()
}

/// Message `n` as the model has it.
fn put(n: u8, now: Timestamp) -> Message {
    let message = match addressee(n) {
        Some(to) => to_agent(n, agent(to), "s"),
        None => to_server(n, agent(1), "s"),
    };
    Message { created: now, expires: (n >= EXPIRING).then(|| at(LIFE_MS)), ..message }
}

async fn call(store: &SqlStore, op: &Op, now: Timestamp) -> Result<String, StoreError> {
    let agents = |agents: &[u8]| agents.iter().map(|n| agent(*n)).collect::<Vec<_>>();
    Ok(match op {
        Op::Wait(_) => "()".to_owned(),
        Op::Enrol(n) => match store.agent_enrol(enrolment(*n, AgentState::Enrolled, &[]), now).await? {
            Enrolled::Yes(agent) => format!("{:?}", agent.state),
            other => format!("{other:?}"),
        },
        Op::State(n, state) => format!("{:?}", store.agent_state_set(agent(*n), *state, now, &cause()).await?),
        Op::LabelPut(n, l) => format!("{:?}", store.agent_label_put(agent(*n), label(*l), now, &cause()).await?),
        Op::LabelDelete(n, l) => format!("{:?}", store.agent_label_delete(agent(*n), label(*l), now, &cause()).await?),
        Op::Put(ids) => {
            let put = store.message_put(ids.iter().map(|n| put(*n, now)).collect(), NO_CONTACT, now).await?;
            // Words, as the model says them.
            format!("{:?}", put.iter().map(|put| format!("{:?}", put.taken)).collect::<Vec<_>>())
        }
        Op::Result(n, done) => {
            let result = if *done { MessageResult::done(now) } else { MessageResult::failed(now, "no") };
            format!("{:?}", store.message_result_put(vec![(id(*n), result)]).await?)
        }
        Op::Claim(n, limit) => {
            let claim = muster_store::agents::Claim { limit: *limit, ..all() };
            format!("{:?}", numbers(&store.message_claim_due(agent(*n), claim, NO_CONTACT, now).await?))
        }
        Op::ClaimOverdue(limit) => {
            let claimed = store.message_claim_overdue(&["s".to_owned()], *limit, 0.0, now).await?;
            format!("{:?}", claimed.iter().map(|(message, tries)| (last(&message.id), *tries)).collect::<Vec<_>>())
        }
        Op::Cancel(n) => store.message_cancel(id(*n), now, &cause()).await?.to_string(),
        Op::Unpark(n) => {
            let expires = now.plus(std::time::Duration::from_millis(LIFE_MS.unsigned_abs()));
            store.message_unpark(id(*n), expires, now, &cause()).await?.to_string()
        }
        Op::ParkExpired => store.message_park_expired(now, 100).await?.to_string(),
        Op::Release(n) => store.message_release(agent(*n), now).await?.to_string(),
        Op::Pending(of, offset, limit) => {
            format!("{:?}", numbers(&store.message_pending(&agents(of), *offset, *limit, false).await?))
        }
        Op::PendingDelete(of) => store.message_pending_delete(&agents(of), &[], now, &cause()).await?.to_string(),
        Op::Contact { agent, brings, claim } => contact_call(store, *agent, brings, *claim, now).await?,
        Op::Lease(owner) => {
            let lease = store.lease_claim("job", ServerId::from_bytes([*owner; 8]), LEASE, now).await?;
            format!("{:?}", lease.map(|lease| lease.fence))
        }
        Op::SettingInit(value) => format!("{:?}", store.setting_init("s", vec![*value]).await?),
        op => broadcast_call(store, op, now).await?,
    })
}

async fn contact_call(
    store: &SqlStore,
    n: u8,
    brings: &[(u8, Bring)],
    claim: u32,
    now: Timestamp,
) -> Result<String, StoreError> {
    let intakes = brings.iter().map(|(m, bring)| {
        let effect = match bring {
            Bring::Deliver => Effect::Deliver { due: now },
            Bring::Acknowledge(ids) => Effect::Acknowledge(ids.iter().map(|n| id(*n)).collect()),
        };
        intake(to_server(*m, agent(n), "s"), effect)
    });
    let claim = Some(muster_store::agents::Claim { limit: claim, ..all() });
    let put = ContactPut { intake: intakes.collect(), claim, ..contact(n, now) };
    Ok(match store.contact_put(put).await? {
        ContactTaken::Recorded(recorded) => {
            let taken: Vec<_> = recorded.taken.iter().map(|taken| format!("{taken:?}")).collect();
            let foreign: Vec<u8> = recorded.foreign.iter().map(last).collect();
            let had: Vec<u8> = recorded.broadcasts_had.iter().map(|id| id.as_bytes()[7]).collect();
            let had = if recorded.state == AgentState::Waiting {
                "[]".to_owned()
            } else {
                format!("{:?}", had.into_iter().collect::<BTreeSet<_>>())
            };
            format!("{:?} {taken:?} {foreign:?} {:?} {had}", recorded.state, numbers(&recorded.claimed))
        }
        other => format!("{other:?}"),
    })
}

async fn broadcast_call(store: &SqlStore, op: &Op, now: Timestamp) -> Result<String, StoreError> {
    let none = "()".to_owned();
    Ok(match op {
        Op::Create(b, limit) => {
            store.broadcast_create(broadcast(*b, *limit), now, &cause()).await?;
            none
        }
        Op::LimitSet(b, limit) => {
            let limit = BroadcastLimit::from_number(*limit).unwrap();
            store.broadcast_limit_set(bid(*b), limit, now, &cause()).await?;
            none
        }
        Op::Disable(b) => {
            store.broadcast_disable(&[bid(*b)], now, &cause()).await?;
            none
        }
        Op::Take(b, a, part) => match store.allocation_take(bid(*b), aid(*a), *part, now.plus(LEASE)).await? {
            None => "None".to_owned(),
            Some(share) if share.id.is_none() => "all".to_owned(),
            Some(share) => share.limit.to_number().to_string(),
        },
        Op::Send(b, a, n, to) => {
            let message = to_agent(*n, agent(*to), "s");
            format!("{:?}", store.broadcast_send(bid(*b), a.map(aid), message, NO_CONTACT, now).await?)
        }
        Op::End(b, a, sent) => {
            store.allocation_end(bid(*b), a.map(aid), *sent).await?;
            none
        }
        Op::Reclaim => store.allocation_reclaim(now).await?.to_string(),
        other => unreachable!("{other:?} is no call on broadcasts"),
    })
}

/// Everything that is to be seen, in the words of the model.
async fn seen(store: &SqlStore) -> Vec<String> {
    let mut seen = Vec::new();
    for n in 1..=3 {
        if let Some(agent) = store.agent_get(agent(n)).await.unwrap() {
            let labels: BTreeSet<u8> = agent.labels.iter().map(|label| label.label.parse().unwrap()).collect();
            seen.push(format!("agent {n} {:?} {labels:?}", agent.state));
        }
    }
    for row in store.message_get(&(0..=255).map(id).collect::<Vec<_>>(), false).await.unwrap() {
        let processed = row.message.result.map(|result| result.processed);
        seen.push(format!(
            "message {} {:?} {} {:?} {:?} {processed:?}",
            last(&row.message.id),
            row.state,
            row.attempts,
            row.due,
            row.message.expires
        ));
    }
    for b in 1..=2 {
        if let Some(row) = store.broadcast_get(bid(b)).await.unwrap() {
            seen.push(format!("broadcast {b} {} {} {}", row.limit.to_number(), row.sent, row.allocated));
        }
    }
    seen
}

async fn agrees(store: &SqlStore, ops: &[Op]) -> Result<(), String> {
    let mut model = Model::default();
    for (n, op) in ops.iter().enumerate() {
        let now = model.now();
        let told: Result<String, ErrorKind> = call(store, op, now).await.map_err(|error| error.kind());
        let wanted = model.call(op);
        if told != wanted {
            return Err(format!("call {n}, {op:?}: the store says {told:?}, the model {wanted:?}"));
        }
    }
    let (seen, wanted) = (seen(store).await, model.seen());
    if seen != wanted {
        return Err(format!("the store holds {seen:#?}, the model {wanted:#?}"));
    }
    let listed = store.agent_page(AgentFilter::default(), None, 9).await.unwrap().len();
    let wanted = model.seen().iter().filter(|row| row.starts_with("agent") && !row.contains("Deleted")).count();
    if listed == wanted { Ok(()) } else { Err(format!("{listed} agents are listed, not {wanted}")) }
}

fn check(backend: Backend, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&vec(op(), CALLS), |ops| {
        let case = async {
            let place = Place::new(backend).await;
            SqlStore::migrate(&place.url).await.unwrap();
            let outcome = agrees(&open(&place.url).await, &ops).await;
            place.remove().await;
            outcome
        };
        runtime.block_on(case).map_err(TestCaseError::fail)
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn random_calls_give_what_the_model_gives_on_sqlite() {
    check(Backend::Sqlite, 64);
}

#[test]
fn random_calls_give_what_the_model_gives_on_postgresql() {
    check(Backend::Postgres, 4);
}
