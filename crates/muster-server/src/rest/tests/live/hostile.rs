//! What strangers and careless programs send.

use super::{Live, is, problem};
use muster_api::Page;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const BAD: StatusCode = StatusCode::BAD_REQUEST;

#[tokio::test(flavor = "multi_thread")]
async fn hostile_json_is_refused() {
    let live = Live::start().await;
    let deep = format!("{{\"service\":{}", "[".repeat(10_000));
    for body in [
        "{\"service\":\"sink\",\"service\":\"sink\"}",
        &deep,
        "{\"service\":\"sink\",\"expires_in\":1e400}",
        "{\"service\":NaN}",
        "{\"service\":\"\\ud800\"}",
        "\u{feff}{\"service\":\"sink\"}",
        "{\"service\":\"a\\u0000b\"}",
        "{\"service\":\"sink\",\"message_type\":\"a\\u0000b\"}",
        "{\"service\":\"\"}",
        "{\"service\":\"sink\",\"data\":\"%%%\"}",
        "{\"service\":\"sink\",\"id\":\"zz\"}",
        "{\"service\":\"sink\",\"agent\":\"../clients/server\"}",
        "[]",
        "",
    ] {
        let request = live.admin(Method::POST, "/api/v1/messages").header("content-type", "application/json");
        is(&problem(request.body(body.to_owned())).await, BAD, "invalid_request");
    }
    let request = live.admin(Method::POST, "/api/v1/messages").header("content-type", "text/plain");
    let refused = problem(request.body("{\"service\":\"sink\"}")).await;
    is(&refused, StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
    let request = live.admin(Method::POST, "/api/v1/messages").header("content-type", "application/json");
    let refused = problem(request.body(vec![b' '; 4 * 1024 * 1024 + 1])).await;
    is(&refused, StatusCode::PAYLOAD_TOO_LARGE, "too_large");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_only_the_store_knows_is_refused() {
    let live = Live::start().await;
    let fields = ["state", "attempts", "due", "created", "sent", "allocated", "sha256", "from_blocked", "processed"];
    let bodies = [
        ("/api/v1/messages", json!({ "service": "sink" })),
        ("/api/v1/broadcasts", json!({ "service": "sink" })),
        ("/api/v1/tokens", json!({ "name": "a", "role": "reader" })),
        ("/api/v1/enrol-tokens", json!({ "name": "a" })),
    ];
    for (path, body) in bodies {
        for field in fields {
            let mut body: Value = body.clone();
            body[field] = json!(1);
            let refused = problem(live.admin(Method::POST, path).json(&body)).await;
            is(&refused, BAD, "invalid_request");
            assert!(refused.detail.contains(&format!("unknown field `{field}`")), "{}", refused.detail);
        }
    }
    assert_eq!(live.get::<Value>("/api/v1/messages").await["items"], json!([]));
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_and_queries_are_refused() {
    let live = Live::start().await;
    for path in [
        "/api/v1/agents/%00",
        "/api/v1/agents/nil",
        "/api/v1/agents/..%2fserver",
        "/api/v1/agents/0000000000000000%0a",
        "/api/v1/agents?text=%00",
        "/api/v1/agents?limit=-1",
        "/api/v1/agents?limit=99999999999",
        "/api/v1/agents?limit=1&limit=2",
        "/api/v1/agents?no_such=1",
        "/api/v1/agents?state=gone",
        "/api/v1/agents?contact_after=yesterday",
        "/api/v1/agents?cursor=%%%",
        "/api/v1/agents?cursor=AAAA",
        "/api/v1/messages?service=%00",
        "/api/v1/files?service=%00",
        "/api/v1/files/a/%00",
        "/api/v1/files/a%0d%0ax:%201/b",
        "/api/v1/files/a/%ff%fe",
        "/api/v1/messages/0",
        "/api/v1/broadcasts/x",
    ] {
        let refused = problem(live.admin(Method::GET, path)).await;
        assert_eq!((refused.status, refused.kind.as_str()), (400, "invalid_request"), "{path}: {}", refused.detail);
    }
    for text in ["' OR '1'='1", "%", "_", "a\\", "x'; DROP TABLE agents;--", "\u{202e}", "😀"] {
        let text = percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
        assert_eq!(live.get::<Value>(&format!("/api/v1/agents?text={text}")).await["items"], json!([]), "{text}");
    }
    // A number of rows beyond the ceiling is moved to it.
    live.get::<Value>("/api/v1/agents?limit=1000000000").await;
    live.get::<Value>("/api/v1/agents?limit=0").await;
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_becomes_somebody_by_a_header() {
    let live = Live::start().await;
    for name in [
        "x-muster-user",
        "x-muster-role",
        "grpc-metadata-user",
        "x-forwarded-user",
        "x-remote-user",
        "x-forwarded-for",
        "x-forwarded-client-cert",
        "x-request-id",
        "x-original-url",
        "x-rewrite-url",
        "x-http-method-override",
        "cookie",
    ] {
        let request = live.anonymous(Method::GET, "/api/v1/agents").header(name, "admin");
        is(&problem(request).await, StatusCode::UNAUTHORIZED, "unauthorized");
    }
    let named = live.anonymous(Method::GET, "/healthz").header("x-request-id", "mine").send().await.unwrap();
    assert_ne!(named.headers()["x-request-id"], "mine");
    for authorization in ["Basic YWRtaW46YWRtaW4=", "Bearer", "Bearer ", "bearer\tx", "Token x"] {
        let request = live.anonymous(Method::GET, "/api/v1/agents").header("authorization", authorization);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 401, "{authorization}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_changes_nothing() {
    let live = Live::start().await;
    for (name, value) in [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        let request = live.admin(Method::POST, "/api/v1/tokens").header(name, value);
        let refused = problem(request.json(&json!({ "name": "a", "role": "admin" }))).await;
        is(&refused, StatusCode::FORBIDDEN, "forbidden");
    }
    let names = live.get::<Page<Value>>("/api/v1/tokens").await.items;
    assert_eq!(names.len(), 1, "{names:?}");
    live.server.stop().await;
}
