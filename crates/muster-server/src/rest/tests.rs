//! What holds for all routes together. Each route's own tests stand beside it; tests with a database and sockets are in
//! `live`.

use super::{openapi, permission};
use muster_engine::access::Role;
use std::collections::BTreeSet;
use std::path::Path;
use utoipa::openapi::OpenApi;

pub(crate) mod live;

/// Compares a text with the one kept in `golden/`; with `UPDATE_GOLDEN` set, keeps it instead.
pub(crate) fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "golden/{name} is not what the code says: look at the change, then run with UPDATE_GOLDEN=1");
}

/// Every method and path of the document.
fn documented(document: &OpenApi) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for (path, item) in &document.paths.paths {
        let operations = [("GET", &item.get), ("PUT", &item.put), ("POST", &item.post), ("DELETE", &item.delete)];
        let there = operations.into_iter().filter(|(_, operation)| operation.is_some());
        all.extend(there.map(|(method, _)| (method.to_owned(), path.clone())));
    }
    all
}

/// Every method and path of the permission table, but the document's own.
fn tabled() -> BTreeSet<(String, String)> {
    let all = permission::TABLE.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()));
    all.filter(|(_, path)| path != "/api/openapi.json").collect()
}

#[test]
fn every_route_has_a_line_in_the_permission_table_and_every_line_a_route() {
    // Routes enter the router and the document together (`routes!`), so the document stands for the router.
    let (_, document) = openapi::routes();
    assert_eq!(documented(&document), tabled());
    assert_eq!(tabled().len() + 1, permission::TABLE.len(), "a line stands twice");
}

#[test]
fn what_anybody_may_is_a_short_list() {
    let open = permission::TABLE.iter().filter(|(_, _, need)| *need == permission::Need::Nothing);
    let open: Vec<_> = open.map(|(method, path, _)| format!("{method} {path}")).collect();
    assert_eq!(open, ["GET /healthz", "GET /readyz", "GET /metrics", "GET /api/openapi.json"]);
    // Checking a target and a preview are asking, with a question that may be too long for an address.
    let asking = ["/api/v1/targets/check", "/api/v1/actions/preview"];
    let changing = permission::TABLE.iter().filter(|(method, path, _)| *method != "GET" && !asking.contains(path));
    for (method, path, need) in changing {
        let permission::Need::Permission(permission) = need else { panic!("{method} {path} asks for nothing") };
        assert!(!Role::Auditor.permissions().contains(*permission), "{method} {path} changes something");
    }
}

#[test]
fn the_document_is_the_one_that_is_kept() {
    let (_, document) = openapi::routes();
    golden("openapi.json", &openapi::text(&document));
}

#[test]
fn the_document_says_what_every_route_does() {
    let (_, document) = openapi::routes();
    let document: serde_json::Value = serde_json::from_str(&openapi::text(&document)).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let summary = operation["summary"].as_str().unwrap_or_default();
            assert!(summary.ends_with('.'), "{method} {path} has no summary: {summary:?}");
            assert!(operation["responses"]["default"].is_object(), "{method} {path} does not say how it fails");
            let secured = operation["security"].is_array();
            assert_eq!(secured, path.starts_with("/api/v1/"), "{method} {path}");
        }
    }
}
