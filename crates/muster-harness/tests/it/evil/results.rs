//! A server gone bad that makes up machines, or says of real ones what they did not say.

use super::command_line::{Stage, answers_of, signed_for};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_core::AgentId;
use muster_core::action::{CommandStatus, result_text};
use muster_harness::investigator::Investigator;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls::SignatureScheme;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A key that somebody made a minute ago, which is all that a machine is.
struct Machine {
    key: KeyPair,
}

impl Machine {
    fn new() -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    fn id(&self) -> AgentId {
        AgentId::of_key(&self.key.subject_public_key_info())
    }

    /// A result of the order with this digest that the machine signed; `number` and `host` are the server's words.
    fn row(&self, order: &[u8; 32], number: u64, host: &str, results: &Value) -> Value {
        let digest = Sha256::digest(results.to_string()).into();
        let text = result_text(self.id(), order, CommandStatus::Success, &digest);
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::default_provider().key_provider.load_private_key(secret).unwrap();
        let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
        let signature = STANDARD.encode(signer.sign(text.as_bytes()).unwrap());
        let public = STANDARD.encode(self.key.subject_public_key_info());
        json!({
            "id": number, "action": 7, "agent": self.id().to_string(), "hostname": host, "status": "success",
            "handed_out": true, "started": "2026-01-02T03:04:05Z", "finished": null, "found": false, "results": results,
            "proof": {"signature": signature, "key": public},
        })
    }
}

fn results(found: bool, what: &str, errors: &[&str]) -> Value {
    let errors = if errors.is_empty() { Value::Null } else { json!(errors) };
    json!([{"foundanything": found, "success": true, "elements": {"localtime": what}, "statistics": {}, "errors": errors}])
}

/// A server with these answers to an action for `target` that Alice signed.
async fn stage(target: &str, rows: impl Fn(&[u8; 32]) -> Vec<Value>) -> Stage {
    let alice = Investigator::new("Alice").unwrap();
    let (file, digest) = signed_for(&alice, target);
    answers_of(alice, file, rows(&digest)).await
}

const JSON: [&str; 4] = ["action", "results", "7", "--json"];
const CSV: [&str; 5] = ["action", "results", "7", "--format", "csv"];

#[tokio::test]
async fn a_machine_that_the_server_made_up_is_said_to_be_new_and_nobodys_until_somebody_approves_it() {
    let made_up = Machine::new();
    let stage = stage("true", |order| vec![made_up.row(order, 1, "vm", &results(true, "all is well", &[]))]).await;
    let id = made_up.id().to_string();
    // Who takes only known machines gets nothing of it.
    let ended = stage.piped("", &[&CSV[..], &["--known-only"]].concat()).await;
    assert!(ended.code == Some(1) && !ended.text.contains("all is well"), "{}", ended.text);
    assert!(ended.text.contains("nobody approved"), "{}", ended.text);
    let ended = stage.piped("", &["action", "results", "7"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    assert!(
        ended.text.contains(&format!("vm ({id}, new)")) && ended.text.contains("new to your book"),
        "{}",
        ended.text
    );
    // It was written down as one that nobody approved, and stays that.
    let ended = stage.piped("", &CSV).await;
    assert!(ended.code == Some(0) && ended.text.contains(",unapproved\r\n"), "{}", ended.text);
    assert!(!ended.text.contains("new to your book"), "it is said once: {}", ended.text);
    let line: Value = serde_json::from_str(&stage.piped("", &JSON).await.text).unwrap();
    assert_eq!((&line["known"], &line["approved"], &line["proven"]), (&json!(true), &json!(false), &json!(true)));
    assert_eq!(stage.piped("", &[&JSON[..], &["--known-only"]].concat()).await.code, Some(1));
    // Another fleet's book does not have it; a person's word puts it in.
    let fleet = ["--fleet", "lab"];
    let line: Value = serde_json::from_str(&stage.piped("", &[&JSON[..], &fleet].concat()).await.text).unwrap();
    assert_eq!(line["known"], json!(false), "{line}");
    let add = [&["agent", "known", "add", &id, "vm"][..], &fleet].concat();
    assert_eq!(stage.piped("", &add).await.code, Some(0));
    let ended = stage.piped("", &[&CSV[..], &["--known-only"], &fleet].concat()).await;
    assert!(ended.code == Some(0) && ended.text.contains(",approved\r\n"), "{}", ended.text);
    let listed = stage.piped("", &[&["agent", "known", "list"][..], &fleet].concat()).await;
    assert!(listed.text.contains(&id) && listed.text.contains("yes"), "{}", listed.text);
}

#[tokio::test]
async fn an_order_for_one_machine_is_answered_by_no_other_key() {
    let (meant, made_up) = (Machine::new(), Machine::new());
    let target = format!("agentid = '{}' AND status='online'", meant.id());
    let stage = stage(&target, |order| {
        vec![
            made_up.row(order, 1, "the-bank", &results(true, "forged", &[])),
            meant.row(order, 2, "the-bank", &results(true, "honest", &[])),
        ]
    })
    .await;
    for words in [&CSV[..], &["action", "watch", "7"], &["action", "results", "7", "--format", "csv", "--unproven"]] {
        let ended = stage.piped("", words).await;
        assert_eq!(ended.code, Some(1), "{}", ended.text);
        assert!(ended.text.contains("honest") && !ended.text.contains("forged"), "{words:?}: {}", ended.text);
        assert!(ended.text.contains("is not for this machine"), "{}", ended.text);
    }
}

#[tokio::test]
async fn names_of_two_known_machines_that_the_server_swaps_are_seen() {
    let (web, db) = (Machine::new(), Machine::new());
    let stage = stage("true", |order| {
        vec![
            web.row(order, 1, "db-1", &results(true, "of web", &[])),
            db.row(order, 2, "web-1", &results(true, "of db", &[])),
        ]
    })
    .await;
    let list = stage.directory().join("machines.txt");
    std::fs::write(&list, format!("# mine\n{} web-1\n{} db-1\n", web.id(), db.id())).unwrap();
    assert_eq!(stage.piped("", &["agent", "known", "add", "--file", list.to_str().unwrap()]).await.code, Some(0));
    let ended = stage.piped("", &CSV).await;
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    for (machine, own, servers, value) in [(&web, "web-1", "db-1", "of web"), (&db, "db-1", "web-1", "of db")] {
        let id = machine.id();
        let line = ended.text.lines().find(|line| line.contains(value)).unwrap();
        assert!(line.starts_with(&format!("{id},{own},")), "{line}");
        let warning = format!("{id}: the server calls it {servers}, known here as {own}");
        assert!(ended.text.contains(&warning), "{}", ended.text);
    }
    let lines = stage.piped("", &JSON).await.text;
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&first["name"], &first["server"]["hostname"]), (&json!("web-1"), &json!("db-1")));
}

#[tokio::test]
async fn a_finding_whose_flag_the_server_changed_is_found_all_the_same() {
    let (found, nothing, partly) = (Machine::new(), Machine::new(), Machine::new());
    // Every row says `found: false`.
    let stage = stage("true", |order| {
        vec![
            found.row(order, 1, "a", &results(true, "the finding", &[])),
            nothing.row(order, 2, "b", &results(false, "none", &[])),
            partly.row(order, 3, "c", &results(false, "none", &["2 files were not read"])),
        ]
    })
    .await;
    for command in ["results", "watch"] {
        let ended = stage.piped("", &["action", command, "7", "--found", "--format", "csv"]).await;
        assert_eq!(ended.code, Some(8), "an answer with errors is not the whole: {}", ended.text);
        assert!(ended.text.contains("the finding") && ended.text.contains("2 files were not read"), "{}", ended.text);
        let id = nothing.id().to_string();
        assert!(!ended.text.lines().any(|line| line.starts_with(&id)), "{}", ended.text);
        let asked = stage.asked().into_iter().filter(|line| line.contains("/results")).collect::<Vec<_>>();
        assert!(asked.iter().all(|line| !line.contains("found=")), "the server is not asked to choose: {asked:?}");
    }
    let line = stage.piped("", &[&JSON[..], &["--found"]].concat()).await.text;
    let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!((&line["found"], &line["server"]["found"]), (&json!(true), &json!(false)));
    assert_eq!(line["order"]["name"], json!("harmless"));
    assert!(line["order"]["signers"][0].as_str().unwrap().starts_with("Alice"), "{line}");
    assert_eq!(line["order"]["signed_sha256"].as_str().unwrap().len(), 64);
}
