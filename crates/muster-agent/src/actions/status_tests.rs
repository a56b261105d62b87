//! What the owner of a machine is shown, whatever strangers wrote.

use super::*;
use crate::actions::html;
use crate::actions::ledger::{OrderLedger, Outcome};
use std::time::Duration;

const HOSTILE: &str = "<script>alert(1)</script>\u{1b}[2J\u{202e}\u{9b}31m\u{7f}\u{2066}";

fn refusal() -> RefusedOrder {
    RefusedOrder {
        at: Timestamp::from_secs(1_800_000_000),
        action_id: 7,
        name: HOSTILE.into(),
        code: "weight".into(),
        reason: "\"'&".into(),
    }
}

fn order(name: &str, modules: &[&str]) -> Order {
    let at = Timestamp::from_secs(1_800_000_000);
    Order {
        key: [7; 32],
        at,
        action_id: 5,
        command_id: 0,
        message: "00".into(),
        name: name.into(),
        target: format!("name = '{HOSTILE}'"),
        modules: modules.iter().map(|module| (*module).to_owned()).collect(),
        signers: vec!["8894E30A79A7CC6BBDCB080E5CA8F578DCAF275C".into()],
        valid_from: at,
        expire_after: at.plus(Duration::from_secs(100)),
        floor: at,
        outcome: None,
    }
}

fn config(directory: &std::path::Path) -> Config {
    let config = Config { state_dir: directory.into(), ..Config::default() };
    Config { keyring_dir: "".into(), acl_file: "".into(), administrators_dir: "".into(), ..config }
}

#[test]
fn what_ran_is_shown_with_its_purpose_its_result_and_who_signed_it() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let empty = Report::read(&config, Show::Latest).unwrap();
    assert!(empty.text().contains("orders that ran: none") && empty.agent.is_none());
    assert!(html::page(&empty).contains("Nothing was run yet."));
    let now = Timestamp::from_secs(1_800_000_000);
    let mut ledger = OrderLedger::open(&ledger_path(&config), false, now).unwrap();
    ledger.begin(order("look", &["file", "counting"]), Timestamp::EPOCH, &|_| true).unwrap();
    let running = Report::read(&config, Show::Latest).unwrap();
    assert_eq!(running.orders[0].outcome(), "running now");
    ledger
        .finish([7; 32], Outcome { at: now.plus(Duration::from_secs(2)), status: "success".into(), found: 1 })
        .unwrap();
    let report = Report::read(&config, Show::Latest).unwrap();
    assert_eq!(report.orders[0].outcome(), "found something in 1 of 2 parts");
    let text = report.text();
    for shown in [
        "2027-01-15T08:00:00Z  \"look\": found something in 1 of 2 parts\n",
        "      file: files by name, size, mode, time, content or hash\n",
        "      counting: a program that this agent's configuration names  [may change the machine]\n",
        "      signed by a key that no longer counts here (8894E30A79A7CC6B…)\n",
    ] {
        assert!(text.contains(shown), "{shown:?} in {text}");
    }
    let page = html::page(&report);
    for shown in ["<h3>look</h3>", "2027-01-15 08:00:02</time>", "may change the machine", "8894E30A79A7CC6BBDCB"] {
        assert!(page.contains(shown), "{shown:?} in {page}");
    }
}

#[test]
fn outcomes_are_told_in_words() {
    let told = |status: &str, found, modules: &[&str]| {
        let at = Timestamp::from_secs(0);
        let outcome = Some(Outcome { at, status: status.into(), found });
        ran(&Order { outcome, ..order("x", modules) }, &[]).outcome()
    };
    assert_eq!(told("success", 0, &["file"]), "found nothing");
    assert_eq!(told("success", 1, &["file"]), "found something");
    assert_eq!(told("timeout", 1, &["file", "file"]), "timeout; found something in 1 of 2 parts");
    assert_eq!(told("failed", 0, &["file"]), "failed; found nothing");
    assert_eq!(told("interrupted", 0, &["file"]), "interrupted: the agent ended while it ran");
}

#[test]
fn what_strangers_wrote_is_text_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let now = Timestamp::from_secs(1_800_000_000);
    let mut ledger = OrderLedger::open(&ledger_path(&config), false, now).unwrap();
    ledger.refuse(refusal()).unwrap();
    ledger.begin(order(HOSTILE, &[HOSTILE]), Timestamp::EPOCH, &|_| true).unwrap();
    let report = Report::read(&config, Show::Latest).unwrap();
    let (shown, page, json) = (report.text(), html::page(&report), report.json());
    for shown in [&shown, &page, &json] {
        let steers = shown.chars().find(|c| *c != '\n' && text::is_unseen(*c));
        assert_eq!(steers, None, "{shown}");
    }
    // It is the same value all the same.
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["refused"][0]["name"], HOSTILE);
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
    assert!(page.contains("&quot;&#39;&amp;"), "{page}");
    assert!(!page.contains(" style=") && !page.contains("http") && !page.contains(" src="), "it loads nothing: {page}");
    assert!(html::policy().starts_with("default-src 'none'; style-src 'sha256-"), "{}", html::policy());
}
