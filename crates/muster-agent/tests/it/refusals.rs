//! What the real program signs of orders that it refuses.

use crate::machine::{Draft, Machine, ONE, TWO, now, status};
use crate::orders::says;
use muster_core::action::{refusal_text, refused_results, result_text};
use muster_proto::wire::actions::{self as wire, ResultStatus};
use serde_json::json;
use std::time::Duration;

const HOUR: Duration = Duration::from_hours(1);

/// What a test does to an order.
type Change<T> = fn(&mut T);

/// The machine's public key, DER SubjectPublicKeyInfo.
fn public_key(machine: &Machine) -> Vec<u8> {
    let pem = std::fs::read_to_string(machine.agent.directory().join("state/agent.key")).unwrap();
    rcgen::PublicKeyData::subject_public_key_info(&rcgen::KeyPair::from_pem(&pem).unwrap())
}

#[tokio::test]
async fn a_refusal_is_signed_where_it_is_about_the_order_and_never_as_a_result() {
    let machine = Machine::new("").await;
    let key = public_key(&machine);
    let is_refusal = |answer: &wire::ActionResult| {
        let wire::Refusal { code, reason } = answer.refusal.as_ref().unwrap();
        let results = refused_results(code, reason);
        assert!(!says(&key, answer, result_text, results.as_bytes()), "a refusal counts as what came of an order");
        says(&key, answer, refusal_text, results.as_bytes())
    };
    // Copies that a server spoiled: a signature taken away, one added, a description that cannot be.
    let both = Draft::new("of two").signed(&[ONE, TWO]);
    let spoiled = |change: fn(&mut serde_json::Value)| {
        let mut copy: serde_json::Value = serde_json::from_slice(&both).unwrap();
        change(&mut copy);
        copy.to_string().into_bytes()
    };
    let spoils: [(&str, Change<serde_json::Value>); 4] = [
        ("invalid", |copy| copy["pgpsignatures"] = json!([])),
        ("weight", |copy| _ = copy["pgpsignatures"].as_array_mut().unwrap().remove(0)),
        ("signature-malformed", |copy| copy["pgpsignatures"].as_array_mut().unwrap().push("x".into())),
        ("invalid", |copy| copy["description"] = json!({"author": "a\u{202e}b"})),
    ];
    for (code, change) in spoils {
        let answer = machine.asked(spoiled(change)).await;
        assert_eq!(answer.refusal.as_ref().unwrap().code, code);
        assert!(answer.signature.is_empty() && !is_refusal(&answer), "{code}");
    }
    // The order itself, for other reasons.
    let other = |change: fn(&mut Draft)| {
        let mut draft = Draft::new("refused");
        change(&mut draft);
        draft.signed(&[ONE])
    };
    let others: [(&str, Change<Draft>); 3] = [
        ("not-for-this-agent", |draft| draft.target = "name = 'somebody else'".into()),
        ("expired", |draft| (draft.from, draft.until) = (now().minus(HOUR), now().minus(HOUR / 2))),
        ("unknown-module", |draft| draft.module = "nosuch".into()),
    ];
    for (code, change) in others {
        let answer = machine.asked(other(change)).await;
        assert_eq!(answer.refusal.as_ref().unwrap().code, code);
        assert!(is_refusal(&answer), "{code}");
    }
    // What ran is said of every copy, by what this machine knows itself.
    assert_eq!(status(&machine.asked(both.clone()).await), ResultStatus::Success);
    let stripped = spoiled(|copy| _ = copy["pgpsignatures"].as_array_mut().unwrap().remove(0));
    for copy in [both.clone(), stripped] {
        let answer = machine.asked(copy).await;
        let refusal = answer.refusal.clone().unwrap();
        assert_eq!(refusal.code, "already-run");
        assert!(refusal.reason.contains("(success); 1 of its 1 parts found something"), "{}", refusal.reason);
        assert!(is_refusal(&answer));
    }
}
