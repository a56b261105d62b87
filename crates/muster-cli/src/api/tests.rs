//! The client against a double that misbehaves in every way a server or something in between can.

use super::*;
use crate::list::{ListArgs, Rows};
use crate::{Context, Output};
use axum::Router;
use axum::extract::{Query, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use serde_json::json;
use std::collections::BTreeMap;

const WHAT: &str = "could not do it";

async fn double(routes: Router) -> Api {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    api(url)
}

fn api(url: Url) -> Api {
    let door = Door { url, token: Some("secret".to_owned()), trust: Trust::System };
    Api::new(door, Duration::from_secs(2)).unwrap()
}

async fn refused_with(status: u16, body: &'static str) -> Failure {
    let answer = move || async move { (StatusCode::from_u16(status).unwrap(), body) };
    let api = double(Router::new().route("/api/v1/agents", get(answer))).await;
    api.get(WHAT, &["agents"], &()).await.unwrap_err()
}

#[tokio::test]
async fn a_problem_document_gives_reason_and_exit_code() {
    let body = r#"{"type": "not_found", "title": "Not found", "status": 404, "detail": "there is no agent 1122", "request": "r1"}"#;
    let failure = refused_with(404, body).await;
    assert_eq!((failure.exit, failure.why.as_str()), (Exit::NotFound, "there is no agent 1122"));
    assert_eq!(failure.what, WHAT);
}

#[tokio::test]
async fn each_refusal_says_what_to_do_next() {
    assert!(refused_with(401, "").await.next.contains("muster token create"));
    assert!(refused_with(403, "").await.next.contains("muster token create"));
    assert!(refused_with(429, "").await.next.contains("wait"));
    assert!(refused_with(302, "").await.next.contains("redirects"));
    let body = r#"{"type": "x", "title": "x", "status": 500, "detail": "x", "request": "r77"}"#;
    assert!(refused_with(500, body).await.next.contains("r77"));
}

#[tokio::test]
async fn an_answer_that_is_no_problem_document_is_shown_cut() {
    let failure = refused_with(502, "<html>bad gateway</html>").await;
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.why.contains("502") && failure.why.contains("<html>"), "{failure}");
}

#[tokio::test]
async fn an_answer_that_is_no_json_is_told_as_such() {
    let api = double(Router::new().route("/api/v1/agents", get(|| async { "hello" }))).await;
    let failure = api.get(WHAT, &["agents"], &()).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Failed);
    assert!(failure.next.contains("Muster server"), "{failure}");
}

#[tokio::test]
async fn nobody_there_is_its_own_exit_code() {
    // A port that was free a moment ago: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let failure =
        api(format!("http://127.0.0.1:{port}").parse().unwrap()).get(WHAT, &["agents"], &()).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.why.to_lowercase().contains("refused"), "{failure}");
    assert!(failure.next.contains("muster doctor"), "{failure}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let door = Door { url, token: None, trust: Trust::System };
    let api = Api::new(door, Duration::from_millis(100)).unwrap();
    let failure = api.get(WHAT, &["agents"], &()).await.unwrap_err();
    assert_eq!((failure.exit, failure.why.as_str()), (Exit::Unreachable, "the time ran out"));
    assert!(failure.next.contains("--timeout"), "{failure}");
}

#[tokio::test]
async fn names_are_one_segment_and_the_token_is_sent() {
    let echo = |request: Request| async move {
        let token = request.headers().get(header::AUTHORIZATION).map(|token| token.to_str().unwrap().to_owned());
        Json(json!({ "path": request.uri().path(), "token": token })).into_response()
    };
    let api = double(Router::new().fallback(echo)).await;
    let seen = api.get(WHAT, &["files", "a b", "../x?y#z/%2e"], &()).await.unwrap();
    assert_eq!(seen["path"], "/api/v1/files/a%20b/..%2Fx%3Fy%23z%2F%252e");
    assert_eq!(seen["token"], "Bearer secret");
    for odd in ["", ".", ".."] {
        assert_eq!(api.get(WHAT, &["files", "a", odd], &()).await.unwrap_err().exit, Exit::Usage, "{odd}");
    }
}

async fn numbers(Query(query): Query<BTreeMap<String, String>>) -> Json<Value> {
    let from: u32 = query.get("cursor").map_or(0, |cursor| cursor.parse().unwrap());
    let limit: u32 = query["limit"].parse().unwrap();
    let to = (from + limit.min(1000)).min(2500);
    let items: Vec<_> = (from..to).map(|id| json!({ "id": id })).collect();
    Json(if to < 2500 { json!({ "items": items, "next": to.to_string() }) } else { json!({ "items": items }) })
}

#[tokio::test]
async fn lists_follow_cursors_as_far_as_wanted() {
    let api = double(Router::new().route("/api/v1/agents", get(numbers))).await;
    let context = Context { api, out: Output::new(true) };
    let list = |limit, all, cursor: Option<&str>| ListArgs { limit, all, cursor: cursor.map(str::to_owned) };
    for (list, rows, next) in [
        (list(1, false, None), 1, Some("1")),
        (list(1500, false, None), 1500, Some("1500")),
        (list(100, true, None), 2500, None),
        (list(2500, false, None), 2500, None),
        (list(10, false, Some("2495")), 5, None),
    ] {
        let got = Rows::fetch(&context, WHAT, &["agents"], &(), &list).await.unwrap();
        assert_eq!((got.items.len(), got.next.as_deref()), (rows, next), "{list:?}");
    }
}

#[tokio::test]
async fn a_cursor_that_leads_nowhere_ends_the_list() {
    let same = || async { Json(json!({ "items": [{ "id": 1 }], "next": "same" })) };
    let api = double(Router::new().route("/api/v1/agents", get(same))).await;
    let context = Context { api, out: Output::new(true) };
    let all = ListArgs { all: true, ..ListArgs::default() };
    assert_eq!(Rows::fetch(&context, WHAT, &["agents"], &(), &all).await.unwrap().items.len(), 2);
}

/// A body that never ends.
fn endless() -> axum::body::Body {
    let piece = || Ok::<_, std::convert::Infallible>(vec![b' '; 1024 * 1024]);
    axum::body::Body::from_stream(futures_util::stream::repeat_with(piece))
}

#[tokio::test]
async fn an_answer_without_an_end_is_refused_and_not_read_into_memory() {
    let routes = Router::new()
        .route("/api/v1/agents", get(|| async { endless() }))
        .route("/api/v1/actions", get(|| async { (StatusCode::FORBIDDEN, endless()) }));
    let api = double(routes).await;
    // What is read takes as long as it takes on a busy machine; without a ceiling it would end with the time.
    let api = Api { timeout: Duration::from_secs(60), ..api };
    let failure = api.get(WHAT, &["agents"], &()).await.unwrap_err();
    assert!(failure.exit == Exit::Failed && failure.why.contains("more than 67108864 bytes"), "{failure}");
    let refused = api.get(WHAT, &["actions"], &()).await.unwrap_err();
    assert_eq!(refused.exit, Exit::Refused, "{refused}");
}

#[tokio::test]
async fn a_list_without_an_end_is_refused() {
    let rows = muster_core::limits::LIST_ROWS_MAX / 2 + 1;
    let page = move |Query(query): Query<BTreeMap<String, String>>| async move {
        // Each page is another one, and says that there is more.
        let at = query.get("cursor").and_then(|at| at.parse::<u32>().ok()).unwrap_or_default();
        Json(json!({ "items": vec![1; rows], "next": (at + 1).to_string() }))
    };
    let api = double(Router::new().route("/api/v1/agents", get(page))).await;
    let context = Context {
        api: Api { timeout: Duration::from_secs(60), ..api },
        out: Output { json: true, terminal: false, color: false },
    };
    let all = ListArgs { all: true, ..ListArgs::default() };
    let failure = Rows::fetch(&context, WHAT, &["agents"], &(), &all).await.unwrap_err();
    assert!(failure.exit == Exit::Failed && failure.why.contains("more than 1000000 rows"), "{failure}");
}
