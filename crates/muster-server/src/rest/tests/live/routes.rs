//! Each route does what it says.

use super::{Live, is, problem};
use crate::world::SystemClock;
use muster_api::Page;
use muster_api::agents::{AgentDetail, AgentSummary, EnrolTokenRow, Secret};
use muster_api::broadcasts::BroadcastRow;
use muster_api::files::FileRow;
use muster_api::messages::{MessageRow, ServiceRow};
use muster_api::server::{Check, JournalRow, ServerStatus, TokenRow};
use muster_api::targets::{NamedTargetRow, TargetCheck};
use muster_core::{Clock, ResourceUsage};
use muster_store::AgentStore;
use muster_store::agents::EventRow;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_listed_page_by_page_and_each_is_there_once() {
    let live = Live::start().await;
    let mut all = Vec::new();
    for key in 0..7_u8 {
        all.push(live.an_agent(&[key]).await.to_string());
    }
    all.sort();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page: Page<AgentSummary> = live.get(&format!("/api/v1/agents?limit=3{cursor}")).await;
        seen.extend(page.items.into_iter().map(|agent| agent.id));
        let Some(next) = page.next else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, all);
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_labelled_blocked_unblocked_and_deleted_with_reasons() {
    let live = Live::start().await;
    let id = live.an_agent(b"key").await;
    let path = |rest: &str| format!("/api/v1/agents/{id}{rest}");
    live.done(Method::PUT, &path("/labels/web"), None).await;
    live.done(Method::PUT, &path("/labels/team%3Ared%2Fblue"), None).await;
    let refused = problem(live.admin(Method::PUT, &path("/labels/client:linux"))).await;
    is(&refused, StatusCode::BAD_REQUEST, "invalid_request");
    let agent: AgentDetail = live.get(&path("")).await;
    assert_eq!(agent.summary.labels, ["operator:web", "team:red/blue"]);
    assert!(agent.public_key.starts_with("-----BEGIN PUBLIC KEY-----\n"));
    let listed: Page<AgentSummary> = live.get("/api/v1/agents?labels=web,team:red/blue").await;
    assert_eq!(listed.items.len(), 1);
    live.done(Method::DELETE, &path("/labels/web"), None).await;
    let blocked: AgentDetail = live.post(&path("/block"), json!({ "reason": "stolen" })).await;
    assert_eq!(blocked.summary.state, "blocked");
    assert_eq!(blocked.summary.state_note, "stolen");
    is(&problem(live.admin(Method::POST, &path("/rekey"))).await, StatusCode::CONFLICT, "conflict");
    let open: AgentDetail = live.done(Method::POST, &path("/unblock"), None).await.json().await.unwrap();
    assert_eq!(open.summary.state, "enrolled");
    let order: MessageRow = live.post(&path("/rekey"), json!({ "reason": "copied", "force": true })).await;
    assert_eq!(order.message_type, "RekeyRequest");
    let asked: AgentDetail = live.post(&path("/clone-clear"), json!({})).await;
    assert!(asked.summary.rekey_asked.is_some() && asked.lookalikes.is_empty());
    live.done(Method::DELETE, &path(""), Some(json!({ "reason": "gone" }))).await;
    let listed: Page<AgentSummary> = live.get("/api/v1/agents").await;
    assert!(listed.items.is_empty());
    let journal: Page<JournalRow> = live.get("/api/v1/journal").await;
    let stolen = journal.items.iter().find(|line| line.reason == "stolen").unwrap();
    assert!(stolen.actor.starts_with("admin") && stolen.subject == id.to_string(), "{stolen:?}");
    assert_eq!(stolen.request.len(), 16);
    is(&problem(live.admin(Method::POST, &path("/block"))).await, StatusCode::CONFLICT, "conflict");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_a_machine_waits_and_can_be_cancelled_once() {
    let live = Live::start().await;
    let id = live.an_agent(b"key").await;
    let body = json!({ "agent": id.to_string(), "service": "muster", "message_type": "Echo", "data": "aGk=",
        "annotations": [{ "key": "k", "value": "v" }], "expires_in": "2h", "priority": "high" });
    let sent: MessageRow = live.post("/api/v1/messages", body).await;
    assert_eq!((sent.state.as_str(), sent.data.as_deref()), ("pending", Some("aGk=")));
    assert_eq!((sent.source_service.as_str(), sent.annotations.len()), ("operator", 1));
    let again: MessageRow = live.get(&format!("/api/v1/messages/{}", sent.id)).await;
    assert_eq!(again.data, sent.data);
    let detail: AgentDetail = live.get(&format!("/api/v1/agents/{id}")).await;
    assert_eq!(detail.pending_messages, 1);
    let listed: Page<MessageRow> = live.get(&format!("/api/v1/messages?agent={id}&state=pending")).await;
    assert_eq!(listed.items.iter().map(|row| &row.id).collect::<Vec<_>>(), [&sent.id]);
    let answers = live.get::<Page<MessageRow>>(&format!("/api/v1/messages/{}/answers", sent.id)).await.items;
    assert!(answers.is_empty());
    let cancel = format!("/api/v1/messages/{}/cancel", sent.id);
    let cancelled: MessageRow = live.post(&cancel, json!({ "reason": "not any more" })).await;
    assert_eq!(cancelled.state, "failed");
    is(&problem(live.admin(Method::POST, &cancel)).await, StatusCode::CONFLICT, "conflict");
    let retry = format!("/api/v1/messages/{}/retry", sent.id);
    is(&problem(live.admin(Method::POST, &retry)).await, StatusCode::CONFLICT, "conflict");
    let unknown = json!({ "agent": "0000000000000000", "service": "muster" });
    let refused = problem(live.admin(Method::POST, "/api/v1/messages").json(&unknown)).await;
    is(&refused, StatusCode::NOT_FOUND, "not_found");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_message_twice_is_one_and_another_of_its_id_is_refused() {
    let live = Live::start().await;
    let id = live.an_agent(b"key").await;
    let message = |data: &str| json!({ "id": "ab".repeat(32), "agent": id.to_string(), "service": "s", "data": data });
    let first: MessageRow = live.post("/api/v1/messages", message("YQ==")).await;
    let second: MessageRow = live.post("/api/v1/messages", message("YQ==")).await;
    assert_eq!((&first.id, &first.created), (&second.id, &second.created));
    let refused = problem(live.admin(Method::POST, "/api/v1/messages").json(&message("Yg=="))).await;
    is(&refused, StatusCode::CONFLICT, "conflict");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_a_service_of_the_server_is_processed_at_once() {
    let live = Live::start().await;
    let sent: MessageRow = live.post("/api/v1/messages", json!({ "service": "sink", "data": "aGk=" })).await;
    let path = format!("/api/v1/messages/{}", sent.id);
    let done = tokio::time::timeout(Duration::from_secs(5), async {
        while live.get::<MessageRow>(&path).await.state != "done" {
            tokio::task::yield_now().await;
        }
    });
    done.await.expect("the message is processed");
    let services = live.get::<Page<ServiceRow>>("/api/v1/services").await.items;
    let names: Vec<_> = services.iter().map(|row| (row.name.as_str(), row.kind.as_str())).collect();
    assert_eq!(names, [("system", "built-in"), ("muster", "built-in"), ("sink", "noop")]);
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_are_created_shown_and_switched_off() {
    let live = Live::start().await;
    let body = json!({ "service": "muster", "message_type": "FactsRequest", "labels": ["client:linux"], "limit": 5,
        "expires_in": "1h", "group": "daily" });
    let made: BroadcastRow = live.post("/api/v1/broadcasts", body.clone()).await;
    assert_eq!((made.active, made.limit, made.sent), (true, Some(5), 0));
    let newer: BroadcastRow = live.post("/api/v1/broadcasts", body).await;
    let older: BroadcastRow = live.get(&format!("/api/v1/broadcasts/{}", made.id)).await;
    assert!(!older.active, "a newer one of its group has replaced it");
    let off: BroadcastRow = live.post(&format!("/api/v1/broadcasts/{}/disable", newer.id), json!({})).await;
    assert!(!off.active);
    let listed: Page<BroadcastRow> = live.get("/api/v1/broadcasts").await;
    assert_eq!(listed.items.len(), 2);
    let unknown = live.admin(Method::POST, "/api/v1/broadcasts/0000000000000000/disable");
    is(&problem(unknown).await, StatusCode::NOT_FOUND, "not_found");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_any_size_go_in_and_come_out_unchanged() {
    let live = Live::start().await;
    let pattern: Vec<u8> = (0..3_000_001_u32).map(|index| (index % 251) as u8).collect();
    for (name, content) in
        [("big", &pattern[..]), ("empty", b""), ("a%2Fb%20%C3%A9", b"x"), ("exact", &pattern[..262_144])]
    {
        let path = format!("/api/v1/files/tools/{name}");
        let put = live.admin(Method::PUT, &path).body(content.to_vec()).send().await.unwrap();
        let row: FileRow = put.json().await.unwrap();
        assert_eq!(row.bytes, content.len() as u64, "{name}");
        let got = live.done(Method::GET, &path, None).await;
        assert_eq!(got.headers()["content-length"], content.len().to_string().as_str());
        assert!(got.headers()["content-disposition"].to_str().unwrap().starts_with("attachment; filename*=UTF-8''"));
        let etag = got.headers()["etag"].clone();
        assert_eq!(etag, format!("\"{}\"", row.sha256).as_str());
        assert!(got.bytes().await.unwrap() == content, "{name} came back changed");
        let same = live.admin(Method::GET, &path).header("if-none-match", etag).send().await.unwrap();
        assert_eq!(same.status(), 304);
    }
    let listed: Page<FileRow> = live.get("/api/v1/files?service=tools&limit=2").await;
    let next = listed.next.unwrap();
    let rest: Page<FileRow> = live.get(&format!("/api/v1/files?service=tools&limit=2&cursor={next}")).await;
    let names: Vec<_> = listed.items.into_iter().chain(rest.items).map(|row| row.name).collect();
    assert_eq!(names, ["a/b é", "big", "empty", "exact"]);
    live.done(Method::DELETE, "/api/v1/files/tools/big", None).await;
    let gone = live.admin(Method::GET, "/api/v1/files/tools/big");
    is(&problem(gone).await, StatusCode::NOT_FOUND, "not_found");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_shown_without_their_secret_and_withdrawn() {
    let live = Live::start().await;
    let body = json!({ "name": "ci", "role": "reader", "expires_in": "90d" });
    let secret: Secret = live.post("/api/v1/tokens", body.clone()).await;
    is(&problem(live.admin(Method::POST, "/api/v1/tokens").json(&body)).await, StatusCode::CONFLICT, "conflict");
    let listed = live.done(Method::GET, "/api/v1/tokens", None).await.text().await.unwrap();
    assert!(!listed.contains(&secret.token), "{listed}");
    let rows = serde_json::from_str::<Page<TokenRow>>(&listed).unwrap().items;
    let row = rows.iter().find(|row| row.name == "ci").unwrap();
    assert!(row.role == "auditor" && row.expires.is_some(), "the name of the version before is taken: {row:?}");
    live.done(Method::DELETE, "/api/v1/tokens/ci", None).await;
    let again = live.admin(Method::DELETE, "/api/v1/tokens/ci");
    is(&problem(again).await, StatusCode::NOT_FOUND, "not_found");
    let lapsed = tokio::time::timeout(Duration::from_secs(10), async {
        let ask = || live.anonymous(Method::GET, "/api/v1/server").bearer_auth(&secret.token).send();
        while ask().await.unwrap().status() != 401 {
            tokio::task::yield_now().await;
        }
    });
    lapsed.await.expect("a withdrawn token is refused within seconds");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_makes_and_withdraws_no_token_that_holds_more() {
    let live = Live::start().await;
    let maker = live.token_of("viewer,tokens.write,enrolment.write").await;
    let make = |role: &str| {
        let body = json!({ "name": role, "role": role });
        live.anonymous(Method::POST, "/api/v1/tokens").bearer_auth(&maker).json(&body)
    };
    assert_eq!(make("viewer").send().await.unwrap().status(), 201);
    for more in ["operator", "admin", "viewer,agents.block", "reader"] {
        let refused = problem(make(more)).await;
        is(&refused, StatusCode::FORBIDDEN, "forbidden");
        assert!(refused.detail.contains("you cannot grant permissions you do not have"), "{}", refused.detail);
    }
    is(&problem(make("root")).await, StatusCode::BAD_REQUEST, "invalid_request");
    let delete = |name| live.anonymous(Method::DELETE, name).bearer_auth(&maker);
    is(&problem(delete("/api/v1/tokens/admin")).await, StatusCode::FORBIDDEN, "forbidden");
    assert_eq!(delete("/api/v1/tokens/viewer").send().await.unwrap().status(), 204);
    let token = live
        .post::<Secret>("/api/v1/tokens", json!({ "name": "short", "role": "admin", "expires_in": "1h" }))
        .await
        .token;
    let longer = |life: &str| {
        let body = json!({ "name": "child", "role": "admin", "expires_in": life });
        live.anonymous(Method::POST, "/api/v1/tokens").bearer_auth(&token).json(&body)
    };
    is(&problem(longer("2h")).await, StatusCode::FORBIDDEN, "forbidden");
    assert_eq!(longer("30m").send().await.unwrap().status(), 201);
    live.done(Method::DELETE, "/api/v1/tokens/short", None).await;
    let refused = problem(longer("10m").header("x-again", "1")).await;
    is(&refused, StatusCode::UNAUTHORIZED, "unauthorized");
    for name in ["local", "Server", "admin ", "investigator 1 (alice)", "\u{430}dmin"] {
        let body = json!({ "name": name, "role": "viewer" });
        let refused = problem(live.admin(Method::POST, "/api/v1/tokens").json(&body)).await;
        is(&refused, StatusCode::BAD_REQUEST, "invalid_request");
    }
    // An enrolment token that gives labels moves machines into targets.
    let body = json!({ "name": "web", "labels": ["web"] });
    let labels = live.anonymous(Method::POST, "/api/v1/enrol-tokens").bearer_auth(&maker).json(&body);
    let refused = problem(labels).await;
    assert!(refused.detail.contains("labels.write"), "{}", refused.detail);
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_permission_of_its_own_is_not_reached_around_it() {
    let live = Live::start().await;
    let agent = live.an_agent(b"key").await.to_string();
    let token = live.token_of("messages.send,broadcasts.write,files.write,actions.read,agents.read").await;
    let ask = |method: Method, path: &str| live.anonymous(method, path).bearer_auth(&token);
    let denied = async |request: RequestBuilder, needs: &str| {
        let refused = problem(request).await;
        is(&refused, StatusCode::FORBIDDEN, "forbidden");
        assert!(refused.detail.contains(needs), "{needs}: {}", refused.detail);
    };
    let cases = [
        ("system", "Die", "agents.control"),
        ("system", "RestartService", "agents.control"),
        ("system", "RekeyRequest", "agents.rekey"),
        ("actions", "Action", "actions.launch"),
        ("actions", "TrustDocument", "trust.write"),
    ];
    for (service, kind, needs) in cases {
        let message = json!({ "agent": agent, "service": service, "message_type": kind });
        denied(ask(Method::POST, "/api/v1/messages").json(&message), needs).await;
        let broadcast = json!({ "service": service, "message_type": kind });
        denied(ask(Method::POST, "/api/v1/broadcasts").json(&broadcast), needs).await;
    }
    let list = "/api/v1/files/system/RevokedCertificates";
    denied(ask(Method::PUT, list).body("x"), "trust.write").await;
    denied(ask(Method::DELETE, list), "trust.write").await;
    for query in ["results=true", "found=true"] {
        denied(ask(Method::GET, &format!("/api/v1/actions/1/commands?{query}")), "results.read").await;
    }
    let target = "id IN (SELECT agentid FROM commands, json_array_elements(commands.results) AS r \
                  WHERE actionid = 1 AND r#>>'{foundanything}' = 'true')";
    let check = json!({ "target": target });
    denied(ask(Method::POST, "/api/v1/targets/check").json(&check), "results.read").await;
    let only = live.token_of("broadcasts.write").await;
    let broadcast = json!({ "service": "shell", "message_type": "Run" });
    denied(live.anonymous(Method::POST, "/api/v1/broadcasts").bearer_auth(&only).json(&broadcast), "messages.send")
        .await;
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_tokens_are_made_and_withdrawn() {
    let live = Live::start().await;
    let body = json!({ "name": "web", "uses": 3, "labels": ["web", "site:berlin"], "expires_in": "2h" });
    let secret: Secret = live.post("/api/v1/enrol-tokens", body).await;
    assert!(secret.token.len() > 40);
    let rows = live.get::<Page<EnrolTokenRow>>("/api/v1/enrol-tokens").await.items;
    assert_eq!(
        (rows[0].uses_left, rows[0].labels.as_slice()),
        (3, ["operator:web".to_owned(), "site:berlin".to_owned()].as_slice())
    );
    let claimed =
        live.admin(Method::POST, "/api/v1/enrol-tokens").json(&json!({ "name": "x", "labels": ["client:web"] }));
    is(&problem(claimed).await, StatusCode::BAD_REQUEST, "invalid_request");
    let none = live.admin(Method::POST, "/api/v1/enrol-tokens").json(&json!({ "name": "x", "uses": 0 }));
    is(&problem(none).await, StatusCode::BAD_REQUEST, "invalid_request");
    live.done(Method::DELETE, "/api/v1/enrol-tokens/web", None).await;
    assert!(live.get::<Page<EnrolTokenRow>>("/api/v1/enrol-tokens").await.items.is_empty());
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_tells_how_it_stands() {
    let live = Live::start().await;
    live.an_agent(b"key").await;
    let status: ServerStatus = live.get("/api/v1/server").await;
    assert_eq!((status.database.as_str(), status.servers.len(), status.streams), ("sqlite", 1, 0));
    assert!(status.servers[0].this);
    assert!(status.agents.iter().any(|count| count.name == "enrolled" && count.count == 1), "{:?}", status.agents);
    let checks = live.get::<Page<Check>>("/api/v1/doctor").await.items;
    let bad: Vec<_> = checks.iter().filter(|check| check.outcome == "failed").collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(checks.iter().any(|check| check.name == "certificate names"));
    for path in ["/api/v1/events", "/api/v1/dead-letters"] {
        assert_eq!(live.get::<Value>(path).await, json!({ "items": [] }));
    }
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_and_events_come_in_pages() {
    let live = Live::start().await;
    let (agent, now) = (live.an_agent(b"key").await, SystemClock.now());
    for n in 0..5 {
        let at = now.minus(Duration::from_secs(n));
        let usage = ResourceUsage { process_start: Some(at), measured: Some(at), ..ResourceUsage::default() };
        live.store().usage_put(agent, usage, at).await.unwrap();
        let code = if n % 2 == 0 { "clone" } else { "malformed" }.to_owned();
        let (address, reason) = ("192.0.2.1:1".to_owned(), format!("number {n}"));
        live.store().event_put(EventRow { number: 0, at, agent: Some(agent), address, code, reason }).await.unwrap();
    }
    let all = async |path: String| {
        let (mut rows, mut next) = (Vec::new(), String::new());
        loop {
            let page: Page<Value> = live.get(&format!("{path}limit=2{next}")).await;
            assert!(page.items.len() <= 2);
            rows.extend(page.items);
            let Some(cursor) = page.next else { return rows };
            next = format!("&cursor={cursor}");
        }
    };
    let usage = all(format!("/api/v1/agents/{agent}/usage?")).await;
    let moments: Vec<_> = usage.iter().map(|row| row["received"].as_str().unwrap().to_owned()).collect();
    assert_eq!(moments.len(), 5);
    assert!(moments.is_sorted(), "{moments:?}");
    let reasons = async |path: &str| {
        let rows = all(path.to_owned()).await;
        rows.iter().map(|row| row["reason"].as_str().unwrap()["number ".len()..].to_owned()).collect::<String>()
    };
    assert_eq!(reasons("/api/v1/events?").await, "43210");
    assert_eq!(reasons(&format!("/api/v1/events?code=clone&agent={agent}&")).await, "420");
    assert_eq!(reasons("/api/v1/events?agent=0000000000000000&").await, "");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_told_what_to_trust() {
    let live = Live::start().await;
    let trust = live.done(Method::GET, "/api/v1/agent-trust", None).await.text().await.unwrap();
    assert_eq!(trust, std::fs::read_to_string(live.data.path().join("ca.pem")).unwrap());
    // What a machine does and for whom is none of a server's business.
    let refused = problem(live.admin(Method::POST, "/api/v1/agent-configs").json(&json!({}))).await;
    is(&refused, StatusCode::NOT_FOUND, "not_found");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_a_database_and_leaves_nothing_behind() {
    let live = Live::start().await;
    let response = live.done(Method::POST, "/api/v1/backup", None).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.sqlite3");
    let copy = response.bytes().await.unwrap();
    assert!(copy.starts_with(b"SQLite format 3\0"));
    let left = std::fs::read_dir(live.data.path()).unwrap().flatten();
    assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with(".backup")));
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_checked_kept_and_deleted() {
    let live = Live::start().await;
    let (id, reader) = (live.an_agent(b"key").await, live.reader().await);
    let ask = async |body: Value| -> TargetCheck {
        let request = live.anonymous(Method::POST, "/api/v1/targets/check").bearer_auth(&reader);
        request.json(&body).send().await.unwrap().json().await.unwrap()
    };
    // A machine that said nothing of itself has its id as its name.
    let checked = ask(json!({ "target": format!("name = '{id}' AND tags->>'a' = 'b' OR status='offline'") })).await;
    assert_eq!((checked.matched, checked.reached, checked.error.is_none()), (1, 0, true));
    let [machine] = &checked.machines[..] else { panic!("{:?}", checked.machines) };
    assert_eq!((&machine.agent, &*machine.status, machine.picked), (&id.to_string(), "offline", true));
    let answers: Vec<_> = machine.questions.iter().map(|asked| (asked.answer, asked.value.as_deref())).collect();
    assert_eq!(answers, [(Some(true), Some(&*id.to_string())), (None, None), (Some(true), Some("offline"))]);
    assert_eq!(machine.questions[2].question, "status = 'offline'");

    // Where none matches, those that come nearest say which part is not true.
    live.an_agent(b"another").await;
    let none = ask(json!({ "target": format!("fleet = 'wrong' AND status = 'offline' AND name = '{id}'") })).await;
    assert_eq!((none.matched, none.enrolled, none.compared, none.machines.len()), (0, 2, 2, 2));
    let near = &none.machines[0];
    assert_eq!((&near.agent, near.picked), (&id.to_string(), false), "it comes nearest: {none:?}");
    let untrue: Vec<_> = near.questions.iter().filter(|asked| asked.answer != Some(true)).collect();
    assert_eq!(
        untrue.iter().map(|asked| asked.question.as_str()).collect::<Vec<_>>(),
        ["environment->>'fleet' = 'wrong'"]
    );
    let counted = ask(json!({ "target": "false", "limit": 0 })).await;
    assert_eq!((counted.enrolled, counted.compared, counted.machines.len()), (2, 0, 0));

    let wrong = ask(json!({ "target": "name == 'x'" })).await;
    let mistake = wrong.error.unwrap();
    assert_eq!((mistake.position, mistake.hint.is_some(), wrong.machines.len()), (5, true, 0));

    let path = "/api/v1/named-targets/quiet";
    let body = json!({ "expression": "status = 'offline' OR status = 'idle'", "description": "not here" });
    let kept: NamedTargetRow = live.done(Method::PUT, path, Some(body)).await.json().await.unwrap();
    assert!(kept.name == "quiet" && kept.changed_by.starts_with("admin"), "{kept:?}");
    let checked = ask(json!({ "target": "@quiet AND true", "agents": [id.to_string()], "limit": 0 })).await;
    assert_eq!(checked.target, "(status = 'offline' OR status = 'idle') AND true");
    assert_eq!((checked.matched, checked.machines.len()), (2, 1));
    for (name, expression) in [("a b", "true"), ("web", "name ="), ("web", "@quiet")] {
        let request = live.admin(Method::PUT, &format!("/api/v1/named-targets/{name}"));
        let refused = problem(request.json(&json!({ "expression": expression }))).await;
        is(&refused, StatusCode::BAD_REQUEST, "invalid_request");
    }
    let unknown = live.admin(Method::POST, "/api/v1/targets/check");
    let unknown = problem(unknown.json(&json!({ "target": "true", "agents": ["00000000000000ff"] }))).await;
    is(&unknown, StatusCode::NOT_FOUND, "not_found");
    let all = live.get::<Page<NamedTargetRow>>("/api/v1/named-targets").await.items;
    assert_eq!(all.len(), 1);
    live.done(Method::DELETE, path, None).await;
    is(&problem(live.admin(Method::DELETE, path)).await, StatusCode::NOT_FOUND, "not_found");
    assert!(ask(json!({ "target": "@quiet" })).await.error.unwrap().message.contains("no target has the name"));
    live.server.stop().await;
}
