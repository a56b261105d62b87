//! Signed orders on the real program: what is run, what is refused, and that nothing is run twice.

use crate::agent::CEILING;
use crate::fleet::Seen;
use crate::machine::{Draft, Machine, ONE, STRANGER, TWO, any, key, later_than, now, second_over, status};
use muster_core::action::{CommandStatus, result_text};
use muster_core::system;
use muster_proto::wire::actions::{self as wire, ResultStatus};
use muster_trust::document;
use prost::Message as _;
use serde_json::json;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

#[tokio::test]
async fn a_signed_order_is_run_once_however_often_it_comes() {
    let mut machine = Machine::new("").await;
    let order = Draft::new("count").signed(&[ONE]);
    let message = machine.order(order.clone(), 7);
    let answer = machine.answer(&message).await;
    assert_eq!((status(&answer), answer.action_id, answer.signers.len()), (ResultStatus::Success, 7, 1));
    let results: serde_json::Value = serde_json::from_slice(&answer.results).unwrap();
    assert_eq!((&results[0]["elements"], &results[0]["foundanything"]), (&json!("here"), &json!(true)));
    let given = std::fs::read_to_string(machine.runs_file()).unwrap();
    assert_eq!(given, "{\"class\":\"parameters\",\"parameters\":{\"who\":\"asks\"}}\n");
    machine.fleet.wait_until(|seen| seen.acknowledged.contains(&message)).await;

    // Another message, another number: the signed text is the same.
    assert_eq!(machine.refused(order.clone()).await, "already-run");
    assert_eq!(machine.answer(&machine.order(order.clone(), 8)).await.refusal.unwrap().code, "already-run");
    machine.agent.kill().await;
    machine.restart().await;
    assert_eq!(machine.refused(order.clone()).await, "already-run");
    assert_eq!(machine.agent.stop().await, Some(0));
    later_than(&order).await;
    // Without its ledger the machine does not know what it ran, and runs nothing that it may have run.
    std::fs::remove_file(machine.agent.directory().join("state/orders")).unwrap();
    machine.restart().await;
    assert_eq!(machine.refused(order.clone()).await, "before-ledger");
    // Nor after it was set up anew, with another key.
    assert_eq!(machine.agent.stop().await, Some(0));
    std::fs::remove_dir_all(machine.agent.directory().join("state")).unwrap();
    machine.restart().await;
    assert_eq!(machine.refused(order).await, "before-ledger");
    assert_eq!(machine.runs(), 1);
}

#[tokio::test]
async fn in_extra_privacy_mode_files_are_counted_and_not_named() {
    let machine = Machine::new("extra_privacy_mode = true\n").await;
    let search = json!({ "paths": ["/etc"], "names": ["^passwd$"], "options": { "maxdepth": 1, "matchall": true } });
    let operations = json!([{ "module": "file", "parameters": { "searches": { "s1": search } } }]);
    let answer = machine.answer(&machine.order(Draft::new("private").signed_with(&operations, &[ONE]), 7)).await;
    assert_eq!(status(&answer), ResultStatus::Success);
    let results: serde_json::Value = serde_json::from_slice(&answer.results).unwrap();
    let found = &results[0]["elements"]["s1"][0];
    assert_eq!((&found["file"], &results[0]["foundanything"]), (&json!("masked"), &json!(true)));
    assert!(found["fileinfo"]["size"].as_f64().unwrap() > 0.0, "{results}");
}

#[tokio::test]
async fn what_is_not_signed_well_enough_for_this_machine_now_is_refused_with_a_code() {
    let machine = Machine::new("").await;
    let draft = Draft::new("refused");
    let changed = |change: fn(&mut Draft)| {
        let mut draft = draft.clone();
        change(&mut draft);
        draft.signed(&[ONE])
    };
    let good = draft.signed(&[ONE]);
    let mut without = serde_json::from_slice::<serde_json::Value>(&good).unwrap();
    without["pgpsignatures"] = json!([]);
    let mut renamed = serde_json::from_slice::<serde_json::Value>(&good).unwrap();
    renamed["name"] = json!("another name");
    let cases = [
        ("key-unknown", draft.signed(&[STRANGER])),
        ("key-unknown", draft.signed(&[ONE, STRANGER])),
        ("weight", draft.signed(&[TWO])),
        ("weight", draft.signed(&[TWO, TWO])),
        ("invalid", without.to_string().into_bytes()),
        ("signature-mismatch", renamed.to_string().into_bytes()),
        ("not-for-this-agent", changed(|draft| draft.target = "name = 'somebody else'".into())),
        ("target-invalid", changed(|draft| draft.target = "name = ".into())),
        ("not-for-this-agent", changed(|draft| draft.target = nested(64))),
        ("target-invalid", changed(|draft| draft.target = nested(65))),
        ("target-invalid", changed(|draft| draft.target = nested(900))),
        ("unknown-module", changed(|draft| draft.module = "nosuch".into())),
        ("expired", changed(|draft| (draft.from, draft.until) = (now().minus(HOUR), now().minus(HOUR / 2)))),
        ("not-yet-valid", changed(|draft| (draft.from, draft.until) = (now().plus(HOUR), now().plus(HOUR * 2)))),
        ("window-too-long", changed(|draft| draft.until = draft.from.plus(HOUR * 24 * 365))),
        ("malformed", b"{\"name\":".to_vec()),
        ("malformed", Vec::new()),
    ];
    for (code, order) in cases {
        assert_eq!(machine.refused(order).await, code);
    }
    assert_eq!(machine.runs(), 0);
    let (_, shown) = machine.agent.output(&["status"]).await;
    assert!(shown.contains("orders that ran: none") && shown.contains("not-for-this-agent"), "{shown}");
    // Two people together reach what one of them alone does not.
    let both = machine.asked(Draft::new("both").signed(&[TWO, ONE])).await;
    assert_eq!((status(&both), both.signers.len(), machine.runs()), (ResultStatus::Success, 2, 1));
    let (_, shown) = machine.agent.output(&["status", "--json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["orders"][0]["name"], &shown["orders"][0]["status"]), (&json!("both"), &json!("success")));
}

/// A target for another machine in so many parentheses: who reads it must not run out of stack.
fn nested(depth: usize) -> String {
    format!("{}name = 'x'{}", "(".repeat(depth), ")".repeat(depth))
}

const HOUR: Duration = Duration::from_hours(1);

/// Makes the text that a machine signs of an answer, of its id, the order, the status and the digest of the results.
pub(crate) type TextOf = fn(muster_core::AgentId, &[u8; 32], CommandStatus, &[u8; 32]) -> String;

/// Whether the key (DER SubjectPublicKeyInfo, on P-256) signed this result.
fn signed_by(key: &[u8], answer: &wire::ActionResult) -> bool {
    says(key, answer, result_text, &answer.results)
}

/// Whether the key signed this text of an answer with these results.
pub(crate) fn says(key: &[u8], answer: &wire::ActionResult, text: TextOf, results: &[u8]) -> bool {
    use sha2::{Digest as _, Sha256};
    let order = answer.signed_sha256[..].try_into().unwrap();
    let status = match answer.status() {
        ResultStatus::Success => CommandStatus::Success,
        ResultStatus::Cancelled => CommandStatus::Cancelled,
        ResultStatus::Expired => CommandStatus::Expired,
        _ => CommandStatus::Failed,
    };
    let text = text(muster_core::AgentId::of_key(key), order, status, &Sha256::digest(results).into());
    let known = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let scheme = rustls::SignatureScheme::ECDSA_NISTP256_SHA256;
    let kinds = known.mapping.iter().find(|(known, _)| *known == scheme).unwrap().1;
    // What comes before the point is as long in every such key.
    kinds.iter().any(|kind| kind.verify_signature(&key[26..], text.as_bytes(), &answer.signature).is_ok())
}

#[tokio::test]
async fn an_order_that_reached_the_old_key_is_answered_under_it() {
    for is_killed in [false, true] {
        let machine = Machine::prepared("").await;
        let (runs, go) = (machine.runs_file(), machine.agent.directory().join("go"));
        let answer = "{\"foundanything\":true,\"success\":true,\"elements\":\"here\"}";
        let wait = format!(
            "echo x >> {}\nwhile [ ! -e {} ]; do sleep 0.02; done\necho '{answer}'",
            runs.display(),
            go.display()
        );
        machine.script("waiting", &wait);
        let mut machine = machine.started().await;
        let mut draft = Draft::new("wait");
        draft.module = "waiting".into();
        let message = machine.order(draft.signed(&[ONE]), 7);
        machine.wait_for_runs(1).await;
        let old = *machine.fleet.seen().agents.first().unwrap();
        machine.fleet.send(system::SERVICE, system::REKEY_REQUEST, None);
        machine.fleet.wait_until(|seen| seen.agents.len() == 2).await;
        if is_killed {
            machine.agent.kill().await;
            machine.restart().await;
        } else {
            std::fs::write(&go, "").unwrap();
        }
        let answer = machine.answer(&message).await;
        assert_eq!(
            (answer.status() == ResultStatus::Success, &answer.signed_as[..]),
            (!is_killed, &old.as_bytes()[..])
        );
        let shown = machine.fleet.seen().introductions;
        let shown = shown.iter().find_map(|(_, words)| muster_proto::introduction::decode(words).handover);
        assert!(signed_by(&shown.unwrap().old_key, &answer));
        // The next order is answered under the new key.
        let next = machine.asked(Draft::new("count").signed(&[ONE])).await;
        assert_ne!(&next.signed_as[..], &old.as_bytes()[..]);
    }
}

#[tokio::test]
async fn an_order_that_a_crash_cut_short_is_reported_and_never_run_again() {
    let mut machine = Machine::new("").await;
    let mut draft = Draft::new("hang");
    draft.module = "hanging".into();
    let order = draft.signed(&[ONE]);
    let message = machine.order(order.clone(), 7);
    machine.wait_for_runs(1).await;
    let pid = std::fs::read_to_string(machine.runs_file()).unwrap();
    machine.agent.kill().await;
    // The module does not outlive the agent.
    let gone = async {
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        while !(state().is_empty() || state().contains(") Z")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(CEILING, gone).await.unwrap();
    machine.restart().await;
    let answer = machine.answer(&message).await;
    assert_eq!(status(&answer), ResultStatus::Failed);
    assert!(answer.problem.contains("the agent ended"), "{answer:?}");
    assert_eq!(machine.refused(order).await, "already-run");
    assert_eq!(machine.runs(), 1);
}

#[tokio::test]
async fn a_module_that_hangs_dies_or_floods_harms_nothing_else_and_can_be_called_back() {
    let machine = Machine::new("module_timeout = \"20s\"\nfleet = \"lab\"").await;
    let order = |module: &str| order_named(module, module);
    let hanging_order = order("hanging");
    let hanging = machine.order(hanging_order.clone(), 70);
    machine.wait_for_runs(1).await;
    let dead = machine.asked(order("dying")).await;
    let flood = machine.asked(order("flooding")).await;
    for (answer, words) in [(dead, "killed by signal 9"), (flood, "more than")] {
        assert_eq!(status(&answer), ResultStatus::Failed);
        let results: serde_json::Value = serde_json::from_slice(&answer.results).unwrap();
        assert!(results[0]["errors"][0].as_str().unwrap().contains(words), "{results}");
    }
    assert_eq!(status(&machine.asked(order("counting")).await), ResultStatus::Success);

    // The server's word alone ends nothing; that of somebody who signed it does.
    let unsigned = wire::ActionCancel { signature: String::new(), ..cancellation(&hanging_order, ONE) };
    machine.fleet.send(system::ACTIONS, system::ACTION_CANCEL, Some(any("ActionCancel", &unsigned)));
    machine.fleet.wait_for(system::MESSAGE_ERROR).await;
    assert_eq!(status(&machine.asked(order_named("counting", "still there")).await), ResultStatus::Success);
    let cancel = cancellation(&hanging_order, ONE);
    machine.fleet.send(system::ACTIONS, system::ACTION_CANCEL, Some(any("ActionCancel", &cancel)));
    let cancelled = machine.answer(&hanging).await;
    assert_eq!(status(&cancelled), ResultStatus::Cancelled);
    // What is called back before it comes never begins.
    let late = Draft::new("late").signed(&[ONE]);
    let message = machine.fleet.send(
        system::ACTIONS,
        system::ACTION_CANCEL,
        Some(any("ActionCancel", &cancellation(&late, ONE))),
    );
    machine.fleet.wait_until(|seen| seen.acknowledged.contains(&message)).await;
    let late = machine.order(late, 71);
    let late = machine.answer(&late).await;
    assert_eq!((status(&late), late.refusal.unwrap().code.as_str()), (ResultStatus::Cancelled, "cancelled"));
    assert_eq!(machine.runs(), 5);
}

/// An order of a module, signed by the first.
fn order_named(module: &str, name: &str) -> Vec<u8> {
    let mut draft = Draft::new(name);
    draft.module = module.into();
    draft.signed(&[ONE])
}

/// A cancellation of an order in the fleet "lab".
fn cancellation(order: &[u8], by: (&str, &str)) -> wire::ActionCancel {
    let action = muster_core::Action::parse(order).unwrap();
    let order = muster_trust::LedgerKey::of(&muster_trust::signed_text(&action).unwrap());
    let said = muster_trust::Cancellation::of(&order, "lab", action.expire_after);
    wire::ActionCancel {
        action_id: 70,
        signed_sha256: order.as_bytes().to_vec().into(),
        fleet: "lab".into(),
        until: said.until.to_parts().0,
        signature: key(by).sign(said.signing_text().as_bytes(), now()).unwrap(),
        reason: String::new(),
    }
}

#[tokio::test]
async fn an_operation_that_takes_too_long_is_ended() {
    let machine = Machine::new("module_timeout = \"1s\"").await;
    let mut draft = Draft::new("hang");
    draft.module = "hanging".into();
    let answer = machine.asked(draft.signed(&[ONE])).await;
    assert_eq!(status(&answer), ResultStatus::Timeout);
    let results: serde_json::Value = serde_json::from_slice(&answer.results).unwrap();
    let why = results[0]["errors"][1].as_str().unwrap();
    assert!(why.contains("gives an operation 1s (module_timeout)") && why.contains("ask for less"), "{results}");
}

/// What a module had when its time was nearly over is an answer, and says which setting cut it.
#[tokio::test]
async fn an_operation_that_ends_with_what_it_has_when_its_time_is_over_names_the_setting() {
    let machine = Machine::prepared("module_timeout = \"4s\"").await;
    let answer = |errors: &str| {
        format!(
            "read question; read stop; echo '{{\"foundanything\":true,\"success\":true,\"elements\":{{}},\
             \"statistics\":{{}},\"errors\":{errors}}}'"
        )
    };
    machine.script_with("cut", &answer("[\"stopped before its end\"]"), "effect = \"reads\"");
    machine.script_with("whole", &answer("null"), "effect = \"reads\"");
    let machine = machine.started().await;
    let operations = json!([{"module": "cut", "parameters": {}}, {"module": "whole", "parameters": {}}]);
    let answer = machine.asked(Draft::new("slow").signed_with(&operations, &[ONE])).await;
    let results: serde_json::Value = serde_json::from_slice(&answer.results).unwrap();
    assert_eq!(results[0]["errors"][0], json!("stopped before its end"), "{results}");
    assert!(results[0]["errors"][1].as_str().unwrap().contains("4s (module_timeout)"), "{results}");
    assert_eq!(results[1]["errors"], json!(null), "it came to its end: {results}");
}

/// The original hung on no operations, and after an unknown module it answered the next command with that one's error
/// and ended.
#[tokio::test]
async fn no_operations_and_unknown_modules_alone_are_refused_and_the_next_order_is_run() {
    let machine = Machine::new("").await;
    assert_eq!(machine.refused(Draft::new("nothing").signed_with(&json!([]), &[ONE])).await, "invalid");
    let known = json!({"module": "counting", "parameters": {}});
    let gone = json!({"module": "nosuch", "parameters": {}});
    for operations in [json!([gone]), json!([gone, gone]), json!([{"module": "", "parameters": {}}, known])] {
        let order = Draft::new("unknown").signed_with(&operations, &[ONE]);
        assert!(["unknown-module", "invalid"].contains(&machine.refused(order).await.as_str()), "{operations}");
    }
    assert_eq!(machine.runs(), 0);
    let next = machine.asked(Draft::new("ordinary").signed(&[ONE])).await;
    let results: serde_json::Value = serde_json::from_slice(&next.results).unwrap();
    assert_eq!((status(&next), &results[0]["errors"]), (ResultStatus::Success, &json!(null)), "{results}");
    assert_eq!(machine.runs(), 1);
}

#[tokio::test]
async fn case_15_each_operation_has_its_own_answer() {
    let machine = Machine::new("").await;
    let packed = json!({"module": "counting", "parameters": "no base64", "is_compressed": true});
    let known = json!({"module": "counting", "parameters": {}});
    let operations = json!([{"module": "connected", "parameters": {"far": ["192.0.2.1"]}}, packed, known]);
    let answer = machine.asked(Draft::new("gone").signed_with(&operations, &[ONE])).await;
    let results: serde_json::Value = serde_json::from_slice(&answer.results).unwrap();
    assert_eq!(status(&answer), ResultStatus::Failed);
    assert_eq!(results[0]["errors"], json!(["module 'connected' is not available"]));
    assert!(results[1]["errors"][0].as_str().unwrap().starts_with("the parameters are not base64"), "{results}");
    assert_eq!((&results[2]["success"], &results[2]["errors"]), (&json!(true), &json!(null)), "{results}");
    assert_eq!(machine.runs(), 1);
}

#[tokio::test]
async fn hostile_programs_are_bounded_and_reported_and_the_agent_goes_on() {
    let machine = Machine::prepared("module_timeout = \"3s\"").await;
    // As users of their own they must reach the directory.
    let open = || std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(machine.agent.directory(), open()).unwrap();
    for (name, body) in [
        // In a shell of its own, because a shell that cannot fork ends; the program itself stays.
        ("bomb", "(bomb() { bomb | bomb & }; bomb) & exec sleep 1000"),
        ("deaf", "trap '' TERM INT HUP; while :; do sleep 1000; done"),
        ("loud", "exec head -c 10G /dev/zero"),
        ("hog", "exec tail -n 1 /dev/zero"),
        ("broken", "kill -SEGV $$"),
        ("silent", "exit 0"),
    ] {
        machine.script_with(name, body, "effect = \"reads\"");
    }
    let machine = machine.started().await;
    let operations: Vec<_> = ["bomb", "deaf", "loud", "hog", "broken", "silent", "counting"]
        .map(|module| json!({"module": module, "parameters": {}}))
        .into();
    let answer = machine.asked(Draft::new("hostile").signed_with(&json!(operations), &[ONE])).await;
    let results: serde_json::Value = serde_json::from_slice(&answer.results).unwrap();
    let said = |at: usize| results[at]["errors"][0].as_str().unwrap_or_default().to_owned();
    for (at, words) in ["within 3s", "within 3s", "more than", "", "signal 11", "exit code was 0"].iter().enumerate() {
        assert!(!said(at).is_empty() && said(at).contains(words), "{at}: {results}");
    }
    assert_eq!(results[6]["success"], json!(true), "what is good beside them has its answer: {results}");
    assert_ne!(status(&answer), ResultStatus::Success);
    assert_eq!(status(&machine.asked(Draft::new("after").signed(&[ONE])).await), ResultStatus::Success);
    assert_eq!(machine.runs(), 2);
}

/// The program that holds YARA rules against files, which lies beside the agent when the workspace was built.
#[tokio::test]
async fn a_program_with_its_hash_is_a_module_and_an_exchanged_one_is_none() {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_muster-agent")).with_file_name("muster-yara");
    assert!(program.is_file(), "muster-yara is not built: run `cargo build --workspace --bins` first");
    let machine = Machine::prepared("").await;
    let directory = machine.agent.directory();
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.join("muster-yara");
    std::fs::copy(&program, &copy).unwrap();
    let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(std::fs::read(&copy).unwrap()));
    let table = format!(
        "[yara]\npath = \"{}\"\nsha256 = \"{hash}\"\nweight_min = 1\neffect = \"reads\"\nprivilege = \"read_files\"\n",
        copy.display()
    );
    let file = directory.join("modules.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, before + &table).unwrap();
    let secret = directory.join("secret");
    std::fs::write(&secret, "a needle").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let machine = machine.started().await;
    let rules = "rule needle { strings: $a = \"needle\" condition: $a }";
    let search = format!("-path {} -name ^secret$", machine.agent.directory().display());
    let operations = json!([{"module": "yara", "parameters": {"yara": rules, "filesearch": search}}]);
    let ask = async |name: &str| {
        let answer = machine.asked(Draft::new(name).signed_with(&operations, &[ONE])).await;
        serde_json::from_slice::<serde_json::Value>(&answer.results).unwrap()[0].clone()
    };
    let found = ask("yara").await;
    let want = json!({"Matches": [{"Object": secret, "MatchedRules": ["needle"]}]});
    assert_eq!((&found["foundanything"], &found["elements"]), (&json!(true), &want), "{found}");
    std::fs::write(&copy, "#!/bin/sh\necho '{\"success\":true}'\n").unwrap();
    let exchanged = ask("exchanged").await;
    assert!(exchanged["errors"][0].as_str().unwrap().contains("not the program that was configured"), "{exchanged}");
}

fn weights_document(version: u64, weight: u32, signers: &[(&str, &str)]) -> wire::TrustDocument {
    let weights = json!({"default": {"minimumweight": 2, "investigators": {
        "two": {"fingerprint": key(TWO).signer(), "weight": weight},
    }}});
    let payload = json!({
        "kind": "investigators", "version": version, "fleet": "lab", "target": "environment->>'os' = 'linux'",
        "content": {"keys": [ONE.0, TWO.0], "weights": weights},
        "issued": now().to_string(), "expires": now().plus(HOUR).to_string(),
    })
    .to_string();
    let text = document::signing_text(&payload);
    let signatures: Vec<_> = signers.iter().map(|of| key(*of).sign(text.as_bytes(), now()).unwrap()).collect();
    wire::TrustDocument { document: document::envelope(&payload, &signatures).into() }
}

#[tokio::test]
async fn weights_come_as_documents_that_administrators_signed_and_never_go_back() {
    let mut machine = Machine::prepared("administrators_min = 2\nfleet = \"lab\"").await;
    let directory = machine.agent.directory().join("administrators");
    std::fs::create_dir(&directory).unwrap();
    for (name, (public, _)) in [("one", ONE), ("stranger", STRANGER)] {
        std::fs::write(directory.join(name), public).unwrap();
    }
    machine = machine.started().await;
    let send = |document: &wire::TrustDocument| {
        machine.fleet.forget();
        machine.fleet.send(system::ACTIONS, system::TRUST_DOCUMENT, Some(any("TrustDocument", document)));
    };
    let told = async || {
        let told = machine.fleet.wait_for(system::AGENT_TRUST).await;
        wire::AgentTrust::decode(&told.body()[..]).unwrap()
    };
    assert_eq!(machine.refused(Draft::new("light").signed(&[TWO])).await, "weight");
    // One administrator is not two.
    send(&weights_document(5, 2, &[ONE]));
    let trust = told().await;
    assert!(trust.acl_version == 0 && trust.document_refusal.unwrap().reason.contains("1 of 2"));
    let fifth = weights_document(5, 2, &[ONE, STRANGER]);
    send(&fifth);
    let trust = told().await;
    assert_eq!((trust.acl_version, trust.document_refusal), (5, None));
    assert!(String::from_utf8_lossy(&trust.acl).contains("\"weight\":2"));
    assert_eq!(status(&machine.asked(Draft::new("heavy").signed(&[TWO])).await), ResultStatus::Success);
    // Older ones, and others of the same version, change nothing, also after a restart.
    send(&weights_document(4, 1, &[ONE, STRANGER]));
    assert!(told().await.document_refusal.unwrap().reason.contains("nothing older"));
    send(&weights_document(5, 1, &[ONE, STRANGER]));
    assert!(told().await.document_refusal.unwrap().reason.contains("something else"));
    let kept = std::fs::read(machine.agent.directory().join("state/documents.json")).unwrap();
    machine.agent.kill().await;
    machine.fleet.forget();
    machine = machine.started().await;
    let trust = machine.fleet.wait_for(system::AGENT_TRUST).await;
    assert_eq!(wire::AgentTrust::decode(&trust.body()[..]).unwrap().acl_version, 5);
    assert_eq!(std::fs::read(machine.agent.directory().join("state/documents.json")).unwrap(), kept);
    assert_eq!(machine.refused(Draft::new("gone").signed(&[ONE])).await, "weight");
    // A file that cannot be read permits nothing, rather than what the files of the configuration say.
    machine.agent.kill().await;
    std::fs::write(machine.agent.directory().join("state/documents.json"), "[").unwrap();
    machine.fleet.forget();
    machine = machine.started().await;
    assert_eq!(machine.refused(Draft::new("closed").signed(&[ONE])).await, "trust-expired");
}

#[tokio::test]
async fn weights_that_cannot_be_used_are_said_and_an_agent_that_runs_keeps_those_it_had() {
    let mut machine = Machine::new("").await;
    let file = machine.agent.directory().join("acl.cfg");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "xx").unwrap();
    machine.fleet.forget();
    machine.agent.signal(rustix::process::Signal::HUP);
    let told = machine.fleet.wait_for(system::AGENT_TRUST).await;
    assert_eq!(&wire::AgentTrust::decode(&told.body()[..]).unwrap().acl[..], &good[..]);
    assert_eq!(status(&machine.asked(Draft::new("kept").signed(&[ONE])).await), ResultStatus::Success);

    let (code, found) = machine.agent.output(&["doctor", "--json"]).await;
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let about = found.as_array().unwrap().iter().find(|one| one["name"] == "investigators").unwrap();
    assert_eq!((code, &about["outcome"]), (Some(1), &json!("failed")));
    assert!(about["found"].as_str().unwrap().contains("acl.cfg, cannot be used"), "{about}");
    assert_eq!(machine.agent.output(&["config", "check"]).await.0, Some(1));
    let (_, shown) = machine.agent.output(&["status"]).await;
    assert!(
        shown.contains("PROBLEM     the weights of acl_file, ") && shown.contains("acl.cfg, cannot be used"),
        "{shown}"
    );

    // At a start there are none to keep.
    assert_eq!(machine.agent.stop().await, Some(0));
    machine.restart().await;
    assert_eq!(machine.refused(Draft::new("none").signed(&[ONE])).await, "weight");
    std::fs::write(&file, good).unwrap();
    assert_eq!(machine.agent.output(&["config", "check"]).await.0, Some(0));
}

#[tokio::test]
async fn a_clock_that_was_set_back_brings_neither_orders_nor_documents_to_life() {
    let mut machine = Machine::prepared("administrators_min = 1\nfleet = \"lab\"").await;
    let directory = machine.agent.directory().join("administrators");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("one"), ONE.0).unwrap();
    machine = machine.started().await;
    assert_eq!(status(&machine.asked(Draft::new("now").signed(&[ONE])).await), ResultStatus::Success);
    assert_eq!(machine.agent.stop().await, Some(0));
    // The machine learns from an order of tomorrow what time it was then, and its clock is set back to today.
    let path = machine.agent.directory().join("state/orders");
    let mut ledger = std::fs::read_to_string(&path).unwrap();
    let begun = ledger.lines().find(|line| line.contains("\"event\":\"begun\"")).unwrap();
    let mut order: serde_json::Value = serde_json::from_str(&begun[9..]).unwrap();
    order["key"] = "5a".repeat(32).into();
    order["floor"] = serde_json::to_value(now().plus(HOUR * 24)).unwrap();
    let line = order.to_string();
    writeln!(ledger, "{:08x} {line}", crc32c::crc32c(line.as_bytes())).unwrap();
    std::fs::write(&path, ledger).unwrap();
    machine.fleet.forget();
    machine = machine.started().await;
    assert_eq!(machine.refused(Draft::new("today").signed(&[ONE])).await, "clock-behind");
    let mut long = Draft::new("this week");
    long.until = now().plus(HOUR * 48);
    assert_eq!(machine.refused(long.signed(&[ONE])).await, "clock-behind");
    machine.fleet.forget();
    let document = weights_document(1, 2, &[ONE]);
    machine.fleet.send(system::ACTIONS, system::TRUST_DOCUMENT, Some(any("TrustDocument", &document)));
    let told = machine.fleet.wait_for(system::AGENT_TRUST).await;
    let refusal = wire::AgentTrust::decode(&told.body()[..]).unwrap().document_refusal.unwrap();
    assert!(refusal.reason.contains("expired"), "{}", refusal.reason);
    assert_eq!(machine.runs(), 1);
}

#[tokio::test]
async fn a_cancellation_that_names_nothing_or_too_much_is_refused() {
    let machine = Machine::new("").await;
    let before = std::fs::metadata(machine.agent.directory().join("state/orders")).unwrap().len();
    for (action_id, bytes) in [(0, 0), (0, 31), (7, 31), (7, 33), (7, 100_000)] {
        let cancel =
            wire::ActionCancel { action_id, signed_sha256: vec![7; bytes].into(), ..wire::ActionCancel::default() };
        let message = machine.fleet.send(system::ACTIONS, system::ACTION_CANCEL, Some(any("ActionCancel", &cancel)));
        let failed = |seen: &Seen| seen.messages.iter().any(|one| one.message.message_type == system::MESSAGE_ERROR);
        machine.fleet.wait_until(failed).await;
        assert!(!machine.fleet.seen().acknowledged.contains(&message), "{action_id} {bytes}");
        machine.fleet.forget();
    }
    let after = std::fs::metadata(machine.agent.directory().join("state/orders")).unwrap().len();
    assert_eq!(after, before, "what was refused is not kept");
}

#[tokio::test]
async fn the_page_of_this_machine_shows_what_ran() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let machine = Machine::new(&format!("status_page = \"127.0.0.1:{port}\"")).await;
    machine.asked(Draft::new("shown <b>here</b>").signed(&[ONE])).await;
    let mut visit = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let ask = format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut visit, ask.as_bytes()).await.unwrap();
    let mut page = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut visit, &mut page).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("shown &lt;b&gt;here"), "{page}");
    assert!(page.contains("Content-Security-Policy: default-src 'none'; style-src 'sha256-"), "{page}");
    assert!(page.contains("Signed by") && page.contains("found something"), "{page}");
}

/// Changes the first line of the ledger of orders, which keeps its length.
fn ledger_header(machine: &Machine, change: impl FnOnce(&mut serde_json::Value)) {
    let path = machine.agent.directory().join("state/orders");
    let ledger = std::fs::read_to_string(&path).unwrap();
    let (header, rest) = ledger.split_once('\n').unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&header[9..]).unwrap();
    let promised = json["promised"].as_str().unwrap().parse::<usize>().unwrap() - header.len();
    change(&mut json);
    // Written twice: the number of bytes is always of one width.
    let length = 9 + json.to_string().len();
    json["promised"] = format!("{:020}", promised + length).into();
    let line = json.to_string();
    std::fs::write(&path, format!("{:08x} {line}\n{rest}", crc32c::crc32c(line.as_bytes()))).unwrap();
}

#[tokio::test]
async fn case_20_an_agent_that_first_started_in_2040_runs_what_changes_it_once_the_clock_is_right() {
    let in_2040 = serde_json::to_value(muster_core::Timestamp::from_secs(2_208_988_800)).unwrap();
    let mut machine = Machine::new("").await;
    assert_eq!(machine.agent.stop().await, Some(0));
    // As a start with such a clock leaves it: nobody was reached.
    ledger_header(&machine, |header| {
        header["since"] = in_2040.clone();
        header["in_contact"] = false.into();
    });
    machine.restart().await;
    assert_eq!(status(&machine.asked(Draft::new("right again").signed(&[ONE])).await), ResultStatus::Success);
    // One that an agent of before left behind is believed, and the refusal says what to do.
    assert_eq!(machine.agent.stop().await, Some(0));
    ledger_header(&machine, |header| {
        header["since"] = in_2040.clone();
        header.as_object_mut().unwrap().remove("in_contact");
    });
    machine.restart().await;
    let early = Draft::new("too early").signed(&[ONE]);
    let refusal = machine.asked(early.clone()).await.refusal.unwrap();
    assert_eq!(refusal.code, "before-ledger");
    assert!(refusal.reason.contains("min ahead") && refusal.reason.contains("clock reset"), "{}", refusal.reason);
    let (code, shown) = machine.agent.output(&["clock", "show"]).await;
    assert!(code == Some(0) && shown.contains("PROBLEM") && shown.contains("clock reset"), "{shown}");
    // Not under a running agent, which has it in memory.
    assert_eq!(machine.agent.output(&["clock", "reset"]).await.0, Some(1));
    assert_eq!(machine.agent.stop().await, Some(0));
    let (code, shown) = machine.agent.output(&["clock", "reset"]).await;
    assert!(code == Some(0) && !shown.contains("PROBLEM"), "{shown}");
    let reset = now();
    machine.restart().await;
    // The machine remembers from the second after the reset on: what was valid before it stays refused.
    assert_eq!(machine.refused(early).await, "before-ledger");
    second_over(reset).await;
    let order = Draft::new("after the reset").signed(&[ONE]);
    assert_eq!(status(&machine.asked(order.clone()).await), ResultStatus::Success);
    assert_eq!(machine.refused(order).await, "already-run");
}

#[tokio::test]
async fn case_20_administrators_can_say_that_a_clock_is_right_again() {
    let mut machine = Machine::prepared("administrators_min = 1\nfleet = \"lab\"").await;
    let directory = machine.agent.directory().join("administrators");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("one"), ONE.0).unwrap();
    machine = machine.started().await;
    assert_eq!(machine.agent.stop().await, Some(0));
    let tomorrow = serde_json::to_value(now().plus(HOUR * 24)).unwrap();
    ledger_header(&machine, |header| header["floor"] = tomorrow);
    machine.restart().await;
    let mut long = Draft::new("this week");
    long.until = now().plus(HOUR * 48);
    assert_eq!(machine.refused(long.signed(&[ONE])).await, "clock-behind");
    let document = |version: u64| {
        let payload = json!({
            "kind": "clock", "version": version, "fleet": "lab", "target": "environment->>'os' = 'linux'", "content": {},
            "issued": now().to_string(), "expires": now().plus(HOUR).to_string(),
        })
        .to_string();
        let signature = key(ONE).sign(document::signing_text(&payload).as_bytes(), now()).unwrap();
        wire::TrustDocument { document: document::envelope(&payload, &[signature]).into() }
    };
    let first = document(1);
    machine.fleet.forget();
    machine.fleet.send(system::ACTIONS, system::TRUST_DOCUMENT, Some(any("TrustDocument", &first)));
    let told = machine.fleet.wait_for(system::AGENT_TRUST).await;
    assert_eq!(wire::AgentTrust::decode(&told.body()[..]).unwrap().document_refusal, None);
    assert_eq!(status(&machine.asked(long.signed(&[ONE])).await), ResultStatus::Success);
    // The same one does it once: nobody turns the clock back with it later.
    assert_eq!(machine.agent.stop().await, Some(0));
    let tomorrow = serde_json::to_value(now().plus(HOUR * 24)).unwrap();
    ledger_header(&machine, |header| header["floor"] = tomorrow);
    machine.restart().await;
    machine.fleet.forget();
    machine.fleet.send(system::ACTIONS, system::TRUST_DOCUMENT, Some(any("TrustDocument", &first)));
    machine.fleet.wait_for(system::AGENT_TRUST).await;
    let mut again = Draft::new("again");
    again.until = now().plus(HOUR * 48);
    assert_eq!(machine.refused(again.signed(&[ONE])).await, "clock-behind");
}

#[tokio::test]
async fn weights_that_no_message_could_hold_are_reported_by_their_length_and_digest() {
    let machine = Machine::prepared("").await;
    let file = machine.agent.directory().join("acl.cfg");
    let long = std::fs::read_to_string(&file).unwrap() + &" ".repeat(2_500_000);
    std::fs::write(&file, &long).unwrap();
    let machine = machine.started().await;
    let told = machine.fleet.wait_for(system::AGENT_TRUST).await;
    let told = wire::AgentTrust::decode(&told.body()[..]).unwrap();
    let digest = <sha2::Sha256 as sha2::Digest>::digest(long.as_bytes()).to_vec();
    assert_eq!((told.acl.len(), told.acl_bytes, &told.acl_sha256[..]), (0, long.len() as u64, &digest[..]));
    assert_eq!((told.keyring.len(), told.keyring_keys), (2, 2));
    assert_eq!(status(&machine.asked(Draft::new("in force").signed(&[ONE])).await), ResultStatus::Success);
}
