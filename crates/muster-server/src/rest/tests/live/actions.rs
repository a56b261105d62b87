//! Investigators, actions and reports over REST: what is refused, and what is shown. An action's whole life is tested
//! where it is decided, in muster-engine.

use super::{Live, is, problem};
use muster_api::Page;
use muster_api::actions::ActionSummary;
use muster_api::investigators::{InvestigatorRow, ModuleRuleRow};
use muster_api::reports::{JournalVerified, ReportRow};
use muster_api::server::JournalRow;
use reqwest::{Method, StatusCode};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn an_investigator_is_added_weighed_disabled_and_enabled() {
    let live = Live::start().await;
    let agent = live.an_agent(b"key").await;
    let added: InvestigatorRow = live.post("/api/v1/investigators", json!({ "name": "Ann", "reason": "new" })).await;
    assert_eq!((added.name.as_str(), added.status.as_str(), added.fingerprint), ("Ann", "active", None));
    let path = |rest: &str| format!("/api/v1/investigators/{}{rest}", added.id);
    let disabled: InvestigatorRow = live.post(&path("/disable"), json!({})).await;
    assert_eq!(disabled.status, "disabled");
    let listed: Page<InvestigatorRow> = live.get("/api/v1/investigators?status=active").await;
    assert!(listed.items.is_empty());
    let enabled: InvestigatorRow = live.post(&path("/enable"), json!({})).await;
    assert_eq!(enabled.status, "active");
    let weight = json!({ "agent": agent.to_string(), "module": "file", "weight": 2 });
    live.done(Method::PUT, &path("/weight"), Some(weight)).await;
    let minimum = format!("/api/v1/agents/{agent}/modules/file");
    live.done(Method::PUT, &minimum, Some(json!({ "minimum": 3 }))).await;
    let rules = live.get::<Page<ModuleRuleRow>>(&format!("/api/v1/agents/{agent}/modules")).await.items;
    assert_eq!((rules[0].module.as_str(), rules[0].minimum, rules[0].weights[0].weight), ("file", Some(3), 2));
    let refused = problem(live.admin(Method::PUT, &minimum).json(&json!({ "minimum": 0 }))).await;
    is(&refused, StatusCode::BAD_REQUEST, "invalid_request");
    let wrong = live.admin(Method::POST, "/api/v1/investigators").json(&json!({ "name": "x", "public_key": "none" }));
    is(&problem(wrong).await, StatusCode::BAD_REQUEST, "invalid_request");
    let journal: Page<JournalRow> = live.get("/api/v1/journal").await;
    assert!(journal.items.iter().any(|line| line.action == "investigator.create" && line.reason == "new"));
    let verified: JournalVerified = live.get("/api/v1/journal/verify").await;
    assert!(verified.fault.is_none() && verified.lines >= 5 && verified.head_sha256.len() == 64, "{verified:?}");
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_signed_action_is_refused_and_unknown_ones_are_not_found() {
    let live = Live::start().await;
    let none: Page<ActionSummary> = live.get("/api/v1/actions").await;
    assert!(none.items.is_empty() && none.next.is_none());
    for action in ["", "{", "{}", r#"{"name":"x"}"#] {
        let request = live.admin(Method::POST, "/api/v1/actions").json(&json!({ "action": action }));
        is(&problem(request).await, StatusCode::BAD_REQUEST, "invalid_request");
    }
    for path in ["/7", "/7/preview", "/7/commands", "/7/results", "/7/late-results"] {
        let refused = problem(live.admin(Method::GET, &format!("/api/v1/actions{path}"))).await;
        is(&refused, StatusCode::NOT_FOUND, "not_found");
    }
    for path in ["/7/cancel", "/7/resume"] {
        let refused = problem(live.admin(Method::POST, &format!("/api/v1/actions{path}"))).await;
        is(&refused, StatusCode::NOT_FOUND, "not_found");
    }
    let wrong = problem(live.admin(Method::GET, "/api/v1/actions/x")).await;
    is(&wrong, StatusCode::BAD_REQUEST, "invalid_request");
    let wrong = problem(live.admin(Method::GET, "/api/v1/actions?status=lost")).await;
    assert!(wrong.detail.contains("inflight"), "{}", wrong.detail);
    live.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_report_is_a_page() {
    let live = Live::start().await;
    live.an_agent(b"key").await;
    for report in ["offline", "double", "flapping", "disappeared", "versions"] {
        let page: Page<ReportRow> = live.get(&format!("/api/v1/reports/{report}?limit=1")).await;
        assert!(page.items.len() <= 1, "{report}");
    }
    let unknown = problem(live.admin(Method::GET, "/api/v1/reports/lost")).await;
    is(&unknown, StatusCode::NOT_FOUND, "not_found");
    live.server.stop().await;
}
