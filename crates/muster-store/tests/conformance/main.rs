//! The conformance suite of the store: every case on SQLite and on PostgreSQL, with time handed in.
//!
//! A PostgreSQL that is missing fails the suite; nothing is skipped.
#![expect(clippy::unwrap_used, reason = "a case that cannot go on fails")]

mod actions;
mod agents;
mod broadcasts;
mod cluster;
mod connections;
mod contacts;
mod files;
mod fleet;
mod messages;
mod model;
mod parity;
mod postgres;
mod properties;
mod proxy;
mod races;
mod schema;
mod searches;
mod servers;
mod stage;
mod tables;
mod targets;
mod who;

/// The page that says where each case is names only cases that are there.
#[test]
fn the_page_of_cases_names_cases() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../../docs/develop/store-cases.md")).unwrap();
    let named: Vec<_> = page.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::")).collect();
    assert!(named.len() > 30, "the page names {} cases", named.len());
    for (module, case) in named {
        let source = std::fs::read_to_string(root.join(format!("tests/conformance/{module}.rs"))).unwrap_or_default();
        assert!(source.contains(&format!("fn {case}(")), "{module}::{case} is no case");
    }
}
