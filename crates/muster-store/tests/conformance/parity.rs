//! What both databases must answer alike: hostile values, limits, and one long script of calls.

use crate::broadcasts::{aid, bid, broadcast};
use crate::for_each_backend;
use crate::stage::*;
use muster_core::{AgentState, BroadcastLimit, Label, Message, MessageResult, Payload, ServerId};
use muster_store::agents::{AgentFilter, ContactPut, Effect, EventFilter, EventRow};
use muster_store::cluster::{JournalRow, Retention, ServerRow, TokenRow};
use muster_store::messages::MessageFilter;
use muster_store::{AgentStore, BroadcastStore, ClusterStore, ErrorKind, FileStore, MessageStore, StoreError};
use std::collections::BTreeMap;
use std::fmt::Debug;

/// Text that has hurt databases before.
const HOSTILE: [&str; 9] = [
    "'; DROP TABLE agents; --",
    "\" OR 1=1",
    "%_\\!",
    "$1 ?1 :x @y",
    "Zażółć gęślą jaźń 漢字 🦀 e\u{301}",
    "\u{feff}\u{202e}\u{2028}",
    "\\x00 \\u0000",
    "line\nbreak\ttab\r",
    "NULL",
];

fn kind<T>(result: Result<T, StoreError>) -> ErrorKind {
    match result {
        Ok(_) => panic!("nothing was refused"),
        Err(error) => error.kind(),
    }
}

for_each_backend! {
    async fn a_zero_byte_in_any_text_is_invalid(stage) {
        let one = stage.agent(1).await;
        let (store, nul) = (&stage.store, "a\0b");
        let put = async |message: Message| kind(store.message_put(vec![message], NO_CONTACT, at(0)).await);
        let plain = || to_agent(1, one, "s");
        let mut refused = vec![
            put(to_agent(1, one, nul)).await,
            put(Message { message_type: nul.into(), ..plain() }).await,
            put(Message { payload: Some(Payload { type_url: nul.into(), value: vec![0] }), ..plain() }).await,
        ];
        let label = Label::new("operator", nul);
        refused.push(kind(store.agent_label_put(one, label.clone(), at(0), &cause()).await));
        refused.push(kind(store.agent_enrol(enrolment(2, AgentState::Enrolled, &[label]), at(0)).await));
        refused.push(kind(store.contact_put(ContactPut { address: nul.into(), ..contact(1, at(1)) }).await));
        refused.push(kind(store.setting_init(nul, vec![0]).await));
        refused.push(kind(store.setting_get(nul).await));
        refused.push(kind(store.file_get(nul, "x").await));
        refused.push(kind(store.agent_page(AgentFilter { text: nul.into(), ..AgentFilter::default() }, None, 1).await));
        refused.push(kind(store.message_claim_overdue(&[nul.to_owned()], 1, 0.0, at(1)).await));
        let group = muster_core::Broadcast { group: nul.into(), ..broadcast(1, 1) };
        refused.push(kind(store.broadcast_create(group, at(0), &cause()).await));
        let usage = muster_core::ResourceUsage { scope: nul.into(), ..usage() };
        refused.push(kind(store.usage_put(one, usage, at(0)).await));
        assert!(refused.iter().all(|kind| *kind == ErrorKind::Invalid), "{refused:?}");
        assert_eq!(store.message_get(&[id(1)], true).await.unwrap(), []);
        // Inside JSON a zero byte is six plain letters, and bytes may be zero.
        let annotations = vec![("k".to_owned(), nul.to_owned())];
        let message = Message { annotations, payload: Some(Payload { type_url: "t".into(), value: vec![0; 9] }), ..plain() };
        stage.put(message.clone()).await;
        assert_eq!(stage.row(id(1)).await.message, message);
    }

    async fn hostile_text_is_only_text(stage) {
        for (n, text) in (1..).zip(HOSTILE) {
            let one = stage.agent_in(n, AgentState::Enrolled, &[Label::new(text, text)]).await;
            let message = Message {
                message_type: text.into(),
                annotations: vec![(text.into(), text.into())],
                validation: BTreeMap::from([(text.into(), text.into())]),
                payload: Some(Payload { type_url: text.into(), value: text.as_bytes().to_vec() }),
                ..to_agent(n, one, text)
            };
            stage.put(message.clone()).await;
            assert_eq!(stage.row(id(n)).await.message, message);
            let filter = AgentFilter { labels: vec![Label::new(text, text)], ..AgentFilter::default() };
            assert_eq!(stage.store.agent_page(filter, None, 9).await.unwrap().len(), 1);
            let filter = MessageFilter { service: Some(text.into()), ..MessageFilter::default() };
            assert_eq!(stage.store.message_page(filter, None, 9).await.unwrap().len(), 1);
            let facts = BTreeMap::from([("hostname".to_owned(), text.into()), (text.to_owned(), serde_json::json!([text]))]);
            let put = ContactPut {
                intake: vec![intake(to_server(n + 100, one, text), Effect::Facts(facts.clone()))],
                ..contact(n, at(1))
            };
            stage.contact(put).await;
            assert_eq!(stage.store.facts_get(one).await.unwrap().unwrap().0, facts);
            let filter = AgentFilter { text: text.into(), ..AgentFilter::default() };
            let found = stage.store.agent_page(filter, None, 9).await.unwrap();
            assert!(found.iter().any(|row| row.id == one), "{text:?}");
        }
        assert_eq!(stage.store.agent_page(AgentFilter::default(), None, 99).await.unwrap().len(), HOSTILE.len());
    }

    async fn whatever_may_be_empty_is_empty(stage) {
        let one = stage.agent(1).await;
        let bare = Message { payload: None, ..to_agent(1, one, "s") };
        stage.put(bare.clone()).await;
        assert_eq!(stage.row(id(1)).await.message, bare);
        let alone = Message { payload: None, source: muster_core::Address::server("x"), ..to_server(2, one, "s") };
        stage.put(alone.clone()).await;
        assert_eq!(stage.row(id(2)).await.message, alone);
        stage.store.event_put(EventRow {
            number: 0, at: at(0), agent: None, address: String::new(), code: String::new(), reason: String::new(),
        }).await.unwrap();
        assert_eq!(stage.store.event_page(EventFilter::default(), None, 9).await.unwrap()[0].agent, None);
        assert_eq!(stage.store.message_get(&[], true).await.unwrap(), []);
        stage.store.message_result_put(Vec::new()).await.unwrap();
        stage.store.message_try_failed(Vec::new()).await.unwrap();
        assert_eq!(stage.store.message_claim_overdue(&[], 9, 0.0, at(1)).await.unwrap(), []);
        stage.store.broadcast_disable(&[], at(0), &cause()).await.unwrap();
        assert_eq!(stage.store.agent_states(&[]).await.unwrap(), []);
    }

    async fn moments_and_numbers_reach_their_ends(stage) {
        let one = stage.agent(1).await;
        let (first, last) = (muster_core::Timestamp::from_nanos(i64::MIN), muster_core::Timestamp::MAX);
        for (n, moment) in [(1, first), (2, last)] {
            let message = Message { created: moment, expires: Some(last), ..to_agent(n, one, "s") };
            stage.put(message.clone()).await;
            assert_eq!(stage.row(id(n)).await.message, message);
        }
        assert_eq!(stage.claim(one, at(0)).await, [1, 2], "the future is due at once as well");
        let put = ContactPut { sent_nonce: 1 << 63, received_nonce: u64::MAX, clock: Some(first), ..contact(1, at(1)) };
        stage.contact(put).await;
        let contact = stage.store.contact_page(one, None, 1).await.unwrap().remove(0);
        assert_eq!((contact.sent_nonce, contact.received_nonce), (1 << 63, u64::MAX));
        assert_eq!(stage.store.message_pending_count(&[one]).await.unwrap(), 2);
        assert_eq!(stage.store.agent_page(AgentFilter::default(), None, u32::MAX).await.unwrap().len(), 1);
        assert_eq!(stage.store.agent_page(AgentFilter::default(), None, 0).await.unwrap().len(), 0);
    }
}

/// What a call gave, in words that do not differ unless the databases do.
/// Writes down what a call gave, without the numbers of messages: PostgreSQL passes one over for a row that it had
/// already.
fn told<T: Debug>(log: &mut Vec<String>, what: &str, result: Result<T, StoreError>) {
    log.push(match result {
        Ok(value) => {
            let text = format!("{what}: {value:?}");
            let mut parts = text.split(", number: ");
            let first = parts.next().unwrap_or_default().to_owned();
            parts.fold(first, |told, part| told + part.trim_start_matches(|digit: char| digit.is_ascii_digit()))
        }
        Err(error) => format!("{what}: {:?}: {error}", error.kind()),
    });
}

/// One call of everything, good and bad.
#[expect(clippy::too_many_lines, reason = "a script is read from its first line to its last")]
async fn script(stage: Stage) -> Vec<String> {
    let (store, mut log) = (&stage.store, Vec::new());
    let log = &mut log;
    let label = || Label::client("Zürich");
    for n in 1..=4 {
        let starts = if n == 4 { AgentState::Waiting } else { AgentState::Enrolled };
        told(log, "enrol", store.agent_enrol(enrolment(n, starts, &[label()]), at(n.into())).await);
    }
    for n in 1..=6 {
        let message = to_agent(n, agent(n), "s");
        told(log, "put", store.message_put(vec![message.clone(), message], NO_CONTACT, at(0)).await);
    }
    let effects = [
        Effect::Acknowledge(vec![id(1), id(2), id(3)]),
        Effect::Refuse { id: id(1), reason: "no".into() },
        Effect::ClientLabels(vec!["b".into(), "a".into(), "É".into()]),
        Effect::Usage(Box::new(usage())),
        Effect::Facts(BTreeMap::from([("hostname".into(), "Host".into()), ("x".into(), 1.5.into())])),
        Effect::Deliver { due: at(5) },
    ];
    let messages: Vec<_> = (50..).zip(effects).map(|(n, effect)| intake(to_server(n, agent(1), "s"), effect)).collect();
    let put = ContactPut { intake: messages, claim: Some(all()), received_nonce: 9, ..contact(1, at(20)) };
    for n in 0..3 {
        told(log, "contact", store.contact_put(ContactPut { sent_nonce: 100 + n, ..put.clone() }).await);
    }
    told(log, "contact", store.contact_put(contact(9, at(1))).await);
    told(log, "contact", store.contact_put(ContactPut { claim: Some(all()), ..contact(4, at(1)) }).await);
    told(log, "claim", store.message_claim_due(agent(2), all(), NO_CONTACT, at(3)).await);
    told(log, "overdue", store.message_claim_overdue(&["s".into()], 9, 0.25, at(9)).await);
    told(
        log,
        "result",
        store
            .message_result_put(vec![(id(2), MessageResult::failed(at(4), "é")), (id(99), MessageResult::done(at(4)))])
            .await,
    );
    told(log, "get", store.message_get(&[id(55), id(2), id(1), id(99)], true).await);
    told(log, "page", store.message_page(MessageFilter::default(), Some(i64::MAX), 5).await);
    told(log, "pending", store.message_pending(&[agent(3), agent(2)], 0, 0, true).await);
    told(log, "pending", store.message_pending(&[], 3, 0, true).await);
    told(log, "cancel", store.message_cancel(id(3), at(5), &cause()).await);
    told(log, "cancel", store.message_cancel(id(99), at(5), &cause()).await);
    told(log, "backlog", store.message_backlog().await);
    told(log, "agents", store.agent_page(AgentFilter { text: "HOST".into(), ..AgentFilter::default() }, None, 9).await);
    told(
        log,
        "agents",
        store.agent_page(AgentFilter { labels: vec![label()], ..AgentFilter::default() }, None, 9).await,
    );
    told(log, "label", store.agent_label_put(agent(9), label(), at(1), &cause()).await);
    told(log, "state", store.agent_state_set(agent(3), AgentState::Deleted, at(1), &cause()).await);
    told(log, "state", store.agent_state_set(agent(3), AgentState::Enrolled, at(1), &cause()).await);
    told(log, "facts", store.facts_get(agent(1)).await);
    told(log, "usage", store.usage_list(agent(1), at(0), at(99)).await);
    for n in 1..=3 {
        let group = muster_core::Broadcast { group: "g".into(), ..broadcast(n, 7) };
        told(log, "create", store.broadcast_create(group, at(1), &cause()).await);
        told(log, "take", store.allocation_take(bid(n), aid(n), 0.4, at(9)).await);
        told(log, "take", store.allocation_take(bid(n), aid(1), 0.4, at(9)).await);
        told(
            log,
            "send",
            store.broadcast_send(bid(n), Some(aid(n)), to_agent(n + 30, agent(2), "s"), NO_CONTACT, at(2)).await,
        );
    }
    told(log, "limit", store.broadcast_limit_set(bid(3), BroadcastLimit::Machines(1), at(1), &cause()).await);
    told(log, "limit", store.broadcast_limit_set(bid(3), BroadcastLimit::Machines(1 << 63), at(1), &cause()).await);
    told(log, "broadcasts", store.broadcast_page(None, 9).await);
    told(log, "reclaim", store.allocation_reclaim(at(10)).await);
    let server = ServerRow { id: ServerId::from_bytes([1; 8]), wake_url: "u".into(), started: at(0), beat: at(1) };
    told(log, "beat", store.server_beat(server, at(0)).await);
    let token = TokenRow { name: "t".into(), sha256: [1; 32], role: "r".into(), created: at(0), expires: None };
    told(log, "token", store.token_put(token.clone(), &cause()).await);
    told(log, "token", store.token_put(token, &cause()).await);
    let line = JournalRow {
        number: 0,
        at: at(1),
        cause: cause(),
        action: "a".into(),
        subject: "s".into(),
        details: "{}".into(),
    };
    told(log, "journal", store.journal_put(line).await);
    told(log, "journal", store.journal_page(None, 99).await);
    let old =
        Retention { clones_before: at(-1), contacts_before: at(9), contents_before: at(9), broadcasts_before: at(9) };
    told(log, "sweep", store.retention_sweep(old, 3).await);
    told(log, "sweep", store.retention_sweep(old, 300).await);
    told(log, "sweep", store.messages_sweep(at(9), 0, 300).await);
    told(log, "chunk", store.file_chunk_put(7, 0, bytes::Bytes::new()).await);
    told(log, "page", store.message_page(MessageFilter::default(), None, 99).await);
    std::mem::take(log)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_script_gives_one_log_on_both_databases() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let tell = tell.clone();
        run_with(backend, move |stage| async move { tell.send(script(stage).await).unwrap() }).await;
    }
    let (sqlite, postgres) = (told.recv().await.unwrap(), told.recv().await.unwrap());
    assert!(sqlite.len() > 50);
    for (one, other) in sqlite.iter().zip(&postgres) {
        assert_eq!(one, other);
    }
    assert_eq!(sqlite.len(), postgres.len());
}
