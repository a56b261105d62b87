//! The door itself: start, stop, health, and who may.

use super::{Live, client, config, is, problem};
use crate::observe::Chain;
use crate::rest::permission::{Need, TABLE};
use crate::rest::tests::golden;
use crate::serve::{Addresses, Server};
use muster_engine::access::Role;
use reqwest::{Method, StatusCode};
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_ready_where_it_says_and_gone_when_it_stopped() {
    let live = Live::start().await;
    let written = std::fs::read_to_string(live.data.path().join("addresses.json")).unwrap();
    assert_eq!(serde_json::from_str::<Addresses>(&written).unwrap(), *live.server.addresses());
    let mode = |name: &str| std::fs::metadata(live.data.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("admin.token"), mode("ca.pem")), (0o700, 0o600, 0o644));
    for path in ["/healthz", "/readyz", "/metrics", "/api/openapi.json"] {
        let response = live.anonymous(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
    }
    let begun = Instant::now();
    live.server.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(!live.data.path().join("addresses.json").exists());
    assert!(client().get(format!("{}/healthz", live.url)).send().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_there_after_a_restart() {
    let live = Live::start().await;
    let reader = live.reader().await;
    let Live { server, data, token, .. } = live;
    server.stop().await;
    let server = Server::start(config(&data, "")).await.unwrap();
    let url = format!("http://{}/api/v1/server", server.addresses().operators.unwrap());
    for token in [token, reader] {
        assert_eq!(client().get(&url).bearer_auth(token).send().await.unwrap().status(), 200);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_directory_is_refused() {
    let live = Live::start().await;
    let error = Server::start(config(&live.data, "")).await.unwrap_err();
    assert!(Chain(&error).to_string().contains("another server uses it"), "{}", Chain(&error));
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_at_which_step() {
    let data = tempfile::tempdir().unwrap();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(&data, "");
    config.agents.address = crate::config::Listen::At(held.local_addr().unwrap());
    let error = Chain(&Server::start(config).await.unwrap_err()).to_string();
    assert!(error.starts_with("could not open the agents' door at 127.0.0.1:"), "{error}");
    std::fs::write(data.path().join("muster.db"), "").unwrap();
    let error = Chain(&Server::start(super::config(&data, "")).await.unwrap_err()).to_string();
    assert!(error.contains("muster db migrate"), "{error}");
}

/// A path of the table with its names filled in by ones that are not there.
fn filled(path: &str) -> String {
    let id = if path.contains("/messages/") { "0".repeat(64) } else { "0".repeat(16) };
    path.replace("{id}", &id).replace("{label}", "web").replace("{name}", "none").replace("{service}", "none")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_what_the_matrix_says_and_nothing_else() {
    let live = Live::with("[limits]\nwrong_tokens_per_minute = 1000\n").await;
    let mut callers = vec![("anonymous", None), ("wrong token", Some("muster_0000".to_owned()))];
    for role in Role::ALL {
        callers.push((role.as_str(), Some(live.token_of(role.as_str()).await)));
    }
    let names: Vec<_> = callers.iter().map(|(name, _)| *name).collect();
    let mut matrix = format!("# method path: {}\n", names.join(", "));
    for (method, path, need) in TABLE {
        let method: Method = method.parse().unwrap();
        write!(matrix, "{method} {path}:").unwrap();
        for (name, token) in &callers {
            let request = live.anonymous(method.clone(), &filled(path));
            let request = token.iter().fold(request, reqwest::RequestBuilder::bearer_auth);
            let status = request.send().await.unwrap().status();
            write!(matrix, " {}", status.as_u16()).unwrap();
            // What the golden file shows is also what the table and the roles say.
            if let (Need::Permission(permission), Some(role)) = (need, Role::from_name(name)) {
                let may = role.permissions().contains(permission);
                assert_eq!(status != StatusCode::FORBIDDEN, may, "{method} {path} as {name}: {status}");
            }
        }
        matrix.push('\n');
    }
    golden("permissions.txt", &matrix);
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_looks_like_everything_else_to_a_stranger() {
    let live = Live::start().await;
    let paths =
        ["/setup", "//api/v1/agents", "/api/v1/agents/", "/api/v1/x/..;/agents", "/api/v2/agents", "/", "/admin"];
    for path in paths {
        is(&problem(live.anonymous(Method::GET, path)).await, StatusCode::UNAUTHORIZED, "unauthorized");
        is(&problem(live.admin(Method::GET, path)).await, StatusCode::NOT_FOUND, "not_found");
    }
    let known = live.anonymous(Method::PATCH, "/api/v1/agents");
    is(&problem(known).await, StatusCode::UNAUTHORIZED, "unauthorized");
    for (method, path) in
        [(Method::PATCH, "/api/v1/agents"), (Method::OPTIONS, "/api/v1/journal"), (Method::POST, "/healthz")]
    {
        let refused = problem(live.admin(method, path)).await;
        is(&refused, StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
        assert!(refused.detail.contains("GET"), "{}", refused.detail);
    }
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_only_looks() {
    let live = Live::start().await;
    let reader = live.reader().await;
    let request = live.anonymous(Method::POST, "/api/v1/tokens").bearer_auth(&reader);
    is(&problem(request).await, StatusCode::FORBIDDEN, "forbidden");
    let request = live.anonymous(Method::HEAD, "/api/v1/agents").bearer_auth(&reader);
    assert_eq!(request.send().await.unwrap().status(), 200);
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_carries_the_same_headers() {
    let live = Live::start().await;
    for (method, path) in [(Method::GET, "/healthz"), (Method::GET, "/api/v1/agents"), (Method::POST, "/nowhere")] {
        let response = live.anonymous(method, path).send().await.unwrap();
        for (name, value) in crate::rest::layers::ANSWER_HEADERS {
            assert_eq!(response.headers()[name], value, "{path}");
        }
        assert_eq!(response.headers()["x-request-id"].len(), 16);
        assert!(response.headers().get("access-control-allow-origin").is_none());
    }
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_bounded_labels() {
    let live = Live::start().await;
    for index in 0..20 {
        let path = format!("/api/v1/agents/{index:016x}");
        live.admin(Method::GET, &path).send().await.unwrap();
        live.admin(Method::GET, &format!("/{index}")).send().await.unwrap();
        live.admin("FOO".parse().unwrap(), "/healthz").send().await.unwrap();
    }
    let page = live.anonymous(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    let series: Vec<_> = page.lines().filter(|line| line.starts_with("muster_rest_requests_total{")).collect();
    assert!(
        series.iter().any(|line| line.contains("route=\"/api/v1/agents/{id}\"") && line.ends_with(" 20")),
        "{page}"
    );
    assert!(series.iter().any(|line| line.contains("route=\"unmatched\"")), "{page}");
    assert!(series.iter().any(|line| line.contains("method=\"other\"")), "{page}");
    assert!(series.len() <= 4, "{series:?}");
    assert!(page.contains("muster_certificate_remaining_seconds{listener=\"agents\"} "), "{page}");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_page_can_ask_for_a_token() {
    let live = Live::with("[metrics]\ntoken = true\n").await;
    is(&problem(live.anonymous(Method::GET, "/metrics")).await, StatusCode::UNAUTHORIZED, "unauthorized");
    let reader = live.reader().await;
    let page = live.anonymous(Method::GET, "/metrics").bearer_auth(reader).send().await.unwrap();
    assert_eq!(page.status(), 200);
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_answered_429_after_a_while_and_good_ones_still_work() {
    let live = Live::with("[limits]\nwrong_tokens_per_minute = 3\n").await;
    let wrong = |index: u32| live.anonymous(Method::GET, "/api/v1/server").bearer_auth(format!("wrong{index}"));
    live.get::<serde_json::Value>("/api/v1/server").await;
    for index in 0..3 {
        is(&problem(wrong(index)).await, StatusCode::UNAUTHORIZED, "unauthorized");
    }
    let response = wrong(3).send().await.unwrap();
    assert_eq!(response.status(), 429);
    let after: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    live.get::<serde_json::Value>("/api/v1/server").await;
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_made_to_mean_this_machine_gets_nothing() {
    let live = Live::with("[operators]\nnames = [\"muster.example.org\"]\n").await;
    let get = |path: &str, host: &str| live.anonymous(Method::GET, path).header("host", host);
    for path in ["/healthz", "/metrics", "/api/openapi.json", "/mig/api/v1/"] {
        let refused = get(path, "evil.example:8080").send().await.unwrap();
        assert_eq!(refused.status(), 403, "{path}");
        assert!(!refused.text().await.unwrap().contains("muster_"), "{path}");
        for host in ["localhost:1", "127.0.0.1", "muster.example.org"] {
            assert_ne!(get(path, host).send().await.unwrap().status(), 403, "{path} of {host}");
        }
    }
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_of_a_neighbour_keep_nobody_out() {
    let live = Live::with("[limits]\nwrong_tokens_per_minute = 2\n").await;
    let wrong = || live.anonymous(Method::GET, "/api/v1/server").bearer_auth("wrong").send();
    assert_eq!([wrong().await.unwrap().status(), wrong().await.unwrap().status()], [401, 401]);
    for _ in 0..3 {
        assert_eq!(wrong().await.unwrap().status(), 429);
    }
    // A token that this server was never shown before.
    let reader = live.reader().await;
    let page = live.anonymous(Method::GET, "/api/v1/server").bearer_auth(reader).send().await.unwrap();
    assert_eq!(page.status(), 200);
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_speaks_tls_with_its_own_certificate() {
    let files = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (files.path().join("c.pem"), files.path().join("k.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    crate::private_file::write(&key, made.signing_key.serialize_pem().as_bytes(), crate::private_file::Readers::Owner)
        .unwrap();
    let text = format!("[operators]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    let live = Live::with(&text).await;
    let trusted = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([trusted]).no_proxy().build().unwrap();
    let url = live.server.addresses().operators_url.clone().unwrap();
    let response = client.get(format!("{url}/healthz")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, reqwest::Version::HTTP_2));
    // Plain HTTP is no TLS: the connection ends without an answer.
    assert!(live.anonymous(Method::GET, "/healthz").send().await.is_err());
    live.server.certificates_reload();
    assert_eq!(client.get(format!("{url}/healthz")).send().await.unwrap().status(), 200);
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_headers_are_refused_and_smuggling_ends_the_connection() {
    let live = Live::start().await;
    let address = live.server.addresses().operators.unwrap();
    let many = "x-many: 1\r\n".repeat(muster_core::limits::HEADERS_MAX + 1);
    let long = format!("x-long: {}\r\n", "a".repeat(64 * 1024));
    for (head, status) in [
        (format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{many}\r\n"), "431"),
        (format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{long}\r\n"), "431"),
        ("POST /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx".into(), "400"),
        ("POST /healthz HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\nxx".into(), "400"),
        ("GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n".into(), "400"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(read.is_ok(), "the connection stays open: {answer}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head:.60}: {answer}");
    }
    live.server.stop().await;
}
