//! Watching an action on a double of the server.

use super::*;
use crate::connect::{Door, Trust};
use crate::{Api, Output};
use axum::Router;
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const ACTION: &str =
    r#"{"name": "q", "target": "os='linux'", "operations": [{"module": "memory"}], "syntaxversion": 2}"#;
const TIME: &str = "2026-01-02T03:04:05Z";

fn row(status: &str, sent: u64, done: u64) -> Value {
    json!({
        "id": 7, "name": "q", "target": "os='linux'", "status": status, "reason": "because",
        "valid_from": TIME, "expire_after": TIME, "created": TIME, "started": null, "finished": null, "updated": TIME,
        "halted": null, "matched": sent, "late": 0,
        "counters": {"sent": sent, "done": done, "inflight": sent - done, "success": done, "cancelled": 0,
            "expired": 0, "failed": 0, "timeout": 0},
        "signers": [], "standing": false, "hosts_max": null, "rings": [], "halt_percent": 10,
        "action": ACTION, "signed_text": "", "signed_sha256": "",
    })
}

fn line(id: u64) -> String {
    let result = json!([{"foundanything": true, "success": true, "elements": id, "statistics": {}, "errors": null}]);
    let row = json!({"id": id, "action": 7, "agent": "1122334455667788", "hostname": "a", "status": "success",
        "handed_out": true, "started": TIME, "finished": TIME, "found": true, "results": result});
    format!("{row}\n")
}

/// A server that tells one state after the other, the last one for ever; it counts how often results were read.
async fn double(states: Vec<Value>) -> (Context, Arc<AtomicUsize>) {
    let (at, reads) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&reads);
    let state = move || {
        let at = at.fetch_add(1, Ordering::SeqCst).min(states.len() - 1);
        let state = states[at].clone();
        // A state that is none stands for a server that starts again.
        async move { if state.is_null() { Err(StatusCode::SERVICE_UNAVAILABLE) } else { Ok(Json(state)) } }
    };
    let results = move || {
        let seen = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move { (1..=seen as u64).map(line).collect::<String>() }
    };
    let routes = Router::new().route("/api/v1/actions/7", get(state)).route("/api/v1/actions/7/results", get(results));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let api = Api::new(Door { url, token: None, trust: Trust::System }, Duration::from_secs(5)).unwrap();
    (Context { api, out: Output { json: false, terminal: false, color: false } }, reads)
}

fn order() -> Order {
    Order::own(&muster_core::Action::parse(ACTION.as_bytes()).unwrap())
}

fn how(format: Option<Format>, unproven: bool) -> HowArgs {
    let book = BookArgs::default();
    HowArgs { format, found: false, wait: Some(Duration::ZERO), unproven, known_only: false, book, proven: false }
}

async fn follow(states: Vec<Value>, wait: Duration) -> (Result<(), Failure>, usize) {
    let (context, reads) = double(states).await;
    let how = HowArgs { wait: Some(wait), ..how(Some(Format::Csv), true) };
    let outcome = how.follow(&context, 7, &order()).await;
    (outcome, reads.load(Ordering::SeqCst))
}

#[tokio::test]
async fn results_are_read_again_only_when_more_are_there_and_until_all_are() {
    let states = vec![row("inflight", 2, 1), row("inflight", 2, 1), row("completed", 2, 2)];
    let (outcome, reads) = follow(states, Duration::from_secs(60)).await;
    outcome.unwrap();
    assert_eq!(reads, 2);
}

#[tokio::test]
async fn how_watching_ended_is_the_exit_code() {
    let long = Duration::from_secs(60);
    let exit = async |state: Value, wait| follow(vec![state], wait).await.0.unwrap_err().exit;
    assert_eq!(exit(row("inflight", 2, 1), Duration::ZERO).await, Exit::TimedOut);
    assert_eq!(exit(row("waiting", 0, 0), long).await, Exit::Refused);
    assert_eq!(exit(row("cancelled", 2, 2), long).await, Exit::Failed);
    // Every machine refused or failed: nothing was answered.
    let mut failed = row("completed", 2, 2);
    failed["counters"]["success"] = 0.into();
    failed["counters"]["failed"] = 1.into();
    failed["counters"]["expired"] = 1.into();
    let failure = follow(vec![failed.clone()], long).await.0.unwrap_err();
    assert_eq!((failure.exit, failure.why.as_str()), (Exit::Failed, "no machine did it: 1 failed, 1 expired"));
    let mut silent = row("completed", 2, 2);
    silent["counters"]["success"] = 0.into();
    silent["counters"]["expired"] = 2.into();
    let failure = follow(vec![silent], long).await.0.unwrap_err();
    assert_eq!((failure.exit, failure.why.as_str()), (Exit::Failed, "no machine answered: 2 expired"));
    failed["counters"]["success"] = 1.into();
    let failure = follow(vec![failed], long).await.0.unwrap_err();
    assert_eq!(failure.exit, Exit::Partial, "one has not answered: {failure}");
    follow(vec![row("completed", 1, 1)], long).await.0.unwrap();
    // A standing one that no machine came for is done, too.
    follow(vec![row("completed", 0, 0)], long).await.0.unwrap();
    let mut halted = row("inflight", 9, 1);
    halted["halted"] = TIME.into();
    assert_eq!(exit(halted, long).await, Exit::Failed);
}

#[test]
fn json_and_a_format_that_is_none_contradict_each_other() {
    let how = |format| how(format, false);
    let out = |json| Output { json, terminal: false, color: false };
    for format in [Format::Csv, Format::Table] {
        let failure = how(Some(format)).check(out(true)).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{failure}");
        how(Some(format)).check(out(false)).unwrap();
    }
    how(Some(Format::Jsonl)).check(out(true)).unwrap();
    how(None).check(out(true)).unwrap();
}

#[tokio::test]
async fn an_answer_is_taken_once_however_often_it_is_read() {
    let (context, _) = double(vec![row("completed", 2, 2)]).await;
    let mut sink = how(None, true).sink(&context, &order(), None).unwrap();
    let mut answers = Answers::default();
    for _ in 0..3 {
        answers.read(&context, "could not read", 7, &mut sink).await.unwrap();
    }
    assert_eq!(sink.counts(), [("1", 1), ("2", 1), ("3", 1)].map(|(value, count)| (value.to_owned(), count)));
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_for_a_moment_does_not_end_the_watch() {
    let states = vec![row("inflight", 2, 1), Value::Null, row("completed", 2, 2)];
    let (outcome, reads) = follow(states, Duration::from_secs(60)).await;
    outcome.unwrap();
    assert_eq!(reads, 2);
}

#[tokio::test]
async fn whoever_stops_watching_is_told_how_to_go_on() {
    let failure = follow(vec![Value::Null], Duration::ZERO).await.0.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.next.contains("muster action watch 7") && failure.next.contains("cancel 7"), "{failure}");
    let failure = follow(vec![row("inflight", 2, 1)], Duration::ZERO).await.0.unwrap_err();
    assert!(failure.next.contains("muster action watch 7") && failure.next.contains("cancel 7"), "{failure}");
}

#[test]
fn what_is_waited_for_is_said_as_it_is() {
    let said = |change: fn(&mut Value)| {
        let mut state = row("inflight", 2, 1);
        change(&mut state);
        awaited(&serde_json::from_value(state).unwrap())
    };
    assert_eq!(said(|_| {}), "1 of 2 machines have not answered yet");
    let pending = said(|state| {
        state["counters"]["sent"] = 0.into();
        state["counters"]["inflight"] = 0.into();
        state["status"] = "pending".into();
    });
    assert_eq!(pending, "it is pending: no machine was given it yet");
    let standing = said(|state| {
        state["counters"]["inflight"] = 0.into();
        state["standing"] = true.into();
    });
    assert_eq!(
        standing,
        "every machine that was given it has answered; it is standing, for machines that come until 2026-01-02 03:04:05Z"
    );
}

#[tokio::test]
async fn a_result_without_its_machines_word_is_no_result_unless_that_is_wanted() {
    let (context, _) = double(vec![row("completed", 1, 1)]).await;
    for (unproven, seen) in [(false, 0), (true, 1)] {
        let mut sink = how(None, unproven).sink(&context, &order(), None).unwrap();
        Answers::default().read(&context, "x", 7, &mut sink).await.unwrap();
        assert_eq!(sink.counts().is_empty(), seen == 0, "{unproven}");
        let detail: ActionDetail = serde_json::from_value(row("completed", 1, 1)).unwrap();
        assert_eq!(sink.end(&detail.summary).is_ok(), unproven);
    }
}

#[test]
fn what_is_about_results_is_refused_where_none_are_printed() {
    let none = HowArgs { wait: None, ..how(None, false) };
    none.check_unused("x").unwrap();
    let wait = HowArgs { wait: Some(Duration::ZERO), ..none.clone() };
    let failure = wait.check_unused("x").unwrap_err();
    assert!(failure.exit == Exit::Usage && failure.on == "--wait" && failure.next.contains("--watch"), "{failure}");
    let many = HowArgs { found: true, known_only: true, ..none };
    assert_eq!(many.check_unused("x").unwrap_err().on, "--found, --known-only");
}
