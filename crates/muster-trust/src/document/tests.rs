use super::*;
use crate::testing::{Person, at};
use serde_json::{Value, json};
use std::sync::LazyLock;

static ANN: LazyLock<Person> = LazyLock::new(Person::new);
static BOB: LazyLock<Person> = LazyLock::new(Person::new);
static EVE: LazyLock<Person> = LazyLock::new(Person::new);

fn administrators(people: &[&Person], threshold: usize) -> Administrators {
    Administrators::new(crate::testing::keyring(people), threshold).unwrap()
}

fn payload(kind: &str, version: u64, content: &Value) -> String {
    let (issued, expires) = (at(100).to_string(), at(1000).to_string());
    json!({
        "kind": kind, "version": version, "fleet": "lab", "target": "name = 'x'", "issued": issued, "expires": expires,
        "content": content,
    })
    .to_string()
}

fn weights(weights: &Value) -> Value {
    json!({"keys": [], "weights": weights})
}

fn acl(version: u64) -> String {
    payload("investigators", version, &weights(&json!({"file": {"minimumweight": 2}})))
}

fn signed(payload: &str, people: &[&Person]) -> Vec<u8> {
    let text = signing_text(payload);
    let signatures: Vec<_> = people.iter().map(|person| person.sign(text.as_bytes(), 150)).collect();
    envelope(payload, &signatures).into_bytes()
}

fn in_force(payload: &str) -> InForce {
    let version = serde_json::from_str::<Value>(payload).unwrap()["version"].as_u64().unwrap();
    InForce { version, digest: hex::encode(Sha256::digest(payload.as_bytes())) }
}

fn take(json: &[u8], current: Option<&InForce>, now: i64) -> Result<Document, DocumentError> {
    let receiver = Receiver { fleet: "lab", target: &|_| TargetMatch::Matches };
    take_as(&receiver, json, current, now)
}

fn take_as(
    receiver: &Receiver<'_>,
    json: &[u8],
    current: Option<&InForce>,
    now: i64,
) -> Result<Document, DocumentError> {
    let in_force = |kind| current.filter(|_| kind == Kind::Investigators).cloned();
    accept(json, &administrators(&[&ANN, &BOB], 2), in_force, receiver, at(now))
}

#[test]
fn a_document_that_enough_administrators_signed_is_taken() {
    let document = take(&signed(&acl(1), &[&ANN, &BOB]), None, 200).unwrap();
    assert_eq!((document.kind, document.expires), (Kind::Investigators, at(1000)));
    assert_eq!(document.floor, at(150), "the signatures are younger than the text");
    assert_eq!(document.in_force, in_force(&acl(1)));
    let Content::Investigators(_, list) = document.content else { panic!("not weights") };
    assert_eq!(list.modules()["file"].minimum_weight, 2);
}

#[test]
fn keys_travel_with_their_weights() {
    let of = |keys: Value| payload("investigators", 1, &json!({"keys": keys, "weights": {}}));
    let json = signed(&of(json!([EVE.armored(), ANN.armored()])), &[&ANN, &BOB]);
    let Content::Investigators(ring, _) = take(&json, None, 200).unwrap().content else { panic!("no keys") };
    assert!(ring.get(&EVE.fingerprint()).is_some() && ring.get(&BOB.fingerprint()).is_none());
    let error = take(&signed(&of(json!([EVE.armored(), "x"])), &[&ANN, &BOB]), None, 200).unwrap_err();
    assert!(matches!(error, DocumentError::Key { at: 2, .. }), "{error}");
    let taken = take(&signed(&of(json!([EVE.armored(), EVE.armored()])), &[&ANN, &BOB]), None, 200).unwrap();
    let Content::Investigators(ring, _) = taken.content else { panic!("no keys") };
    assert_eq!(ring.certificates().len(), 1);
    // Neither goes without the other.
    for content in [json!({"keys": []}), json!({"weights": {}})] {
        let error = take(&signed(&payload("investigators", 1, &content), &[&ANN, &BOB]), None, 200).unwrap_err();
        assert!(matches!(error, DocumentError::Malformed(_)), "{error}");
    }
}

#[test]
fn a_document_is_for_one_fleet_and_for_the_machines_of_its_target() {
    let json = signed(&acl(1), &[&ANN, &BOB]);
    let asked = std::cell::RefCell::new(String::new());
    let as_seen = |fleet: &str, answer: TargetMatch| {
        let target = |text: &str| {
            text.clone_into(&mut asked.borrow_mut());
            answer.clone()
        };
        take_as(&Receiver { fleet, target: &target }, &json, None, 200).map(|_| ())
    };
    assert_eq!(as_seen("lab", TargetMatch::Matches), Ok(()));
    assert_eq!(*asked.borrow(), "name = 'x'");
    let error = as_seen("production", TargetMatch::Matches).unwrap_err();
    assert_eq!(error, DocumentError::Fleet { document: "lab".into(), machine: "production".into() });
    let error = as_seen("", TargetMatch::Matches).unwrap_err();
    assert!(
        matches!(error, DocumentError::NoFleet(_)) && error.to_string().contains("write fleet = \"lab\""),
        "{error}"
    );
    assert_eq!(as_seen("lab", TargetMatch::Other).unwrap_err(), DocumentError::Other("name = 'x'".into()));
    let open = TargetMatch::Open(vec!["id = 7".into()]);
    assert_eq!(as_seen("lab", open).unwrap_err(), DocumentError::Open(vec!["id = 7".into()]));
    assert_eq!(as_seen("lab", TargetMatch::Invalid("no".into())).unwrap_err(), DocumentError::Target("no".into()));
}

#[test]
fn documents_of_before_are_not_taken_and_those_that_were_taken_are_read_again() {
    let before = |kind: &str, content: &Value| {
        let mut payload: Value = serde_json::from_str(&payload(kind, 3, content)).unwrap();
        payload.as_object_mut().unwrap().retain(|name, _| name != "fleet" && name != "target");
        payload.to_string()
    };
    let threshold = json!({"keys": [ANN.armored(), BOB.armored()], "threshold": 2});
    for (kind, content, error) in [
        ("acl", json!({"file": {"minimumweight": 2}}), DocumentError::Apart),
        ("keyring", json!({"keys": []}), DocumentError::Apart),
        ("administrators", threshold, DocumentError::Unaddressed),
    ] {
        let payload = before(kind, &content);
        let json = signed(&payload, &[&ANN, &BOB]);
        assert_eq!(take(&json, None, 200).unwrap_err(), error, "{kind}");
        assert!(error.to_string().contains("muster trust new"), "{error}");
        let again = |force: &InForce| reread(&json, &administrators(&[&ANN, &BOB], 2), force, "lab", at(200));
        assert!(again(&in_force(&payload)).is_ok(), "{kind}");
        assert!(again(&InForce { digest: "x".into(), ..in_force(&payload) }).is_err(), "{kind}");
    }
    // A keyring alone cannot be given a fleet to pass, either.
    let json = signed(&payload("keyring", 1, &json!({"keys": []})), &[&ANN, &BOB]);
    assert_eq!(take(&json, None, 200).unwrap_err(), DocumentError::Apart);
    let moved = |fleet| {
        reread(&signed(&acl(1), &[&ANN, &BOB]), &administrators(&[&ANN, &BOB], 2), &in_force(&acl(1)), fleet, at(200))
    };
    assert!(moved("lab").is_ok());
    assert!(matches!(moved("other").unwrap_err(), DocumentError::Fleet { .. }));
}

#[test]
fn too_few_or_other_signers_are_refused() {
    for (people, have) in [(&[&*ANN][..], 1), (&[&ANN, &ANN], 1), (&[&ANN, &EVE], 1), (&[&EVE], 0), (&[], 0)] {
        let error = take(&signed(&acl(1), people), None, 200).unwrap_err();
        assert!(matches!(&error, DocumentError::Quorum { have: got, need: 2, .. } if *got == have), "{error}");
    }
    assert!(take(&signed(&acl(1), &[&EVE, &ANN, &BOB]), None, 200).is_ok(), "a stranger's signature does no harm");
    let many = [&*ANN; 17];
    assert!(matches!(take(&signed(&acl(1), &many), None, 200), Err(DocumentError::TooManySignatures { have: 17 })));
    let sixteen: Vec<&Person> = [&*ANN; 15].into_iter().chain([&*BOB]).collect();
    assert!(take(&signed(&acl(1), &sixteen), None, 200).is_ok());
}

#[test]
fn signatures_over_something_else_do_not_count() {
    let text = signing_text(&acl(1));
    let of = |text: &str| vec![ANN.sign(text.as_bytes(), 150), BOB.sign(text.as_bytes(), 150)];
    assert!(take(envelope(&acl(1), &of(&text)).as_bytes(), None, 200).is_ok());
    for other in [acl(1), text.replace("trust.v1", "action.v1"), text.replace("DSSEv1 ", "")] {
        let error = take(envelope(&acl(1), &of(&other)).as_bytes(), None, 200).unwrap_err();
        assert!(matches!(error, DocumentError::Quorum { have: 0, .. }), "{error}");
    }
    let error = take(envelope(&acl(2), &of(&text)).as_bytes(), None, 200).unwrap_err();
    assert!(matches!(error, DocumentError::Quorum { .. }));
    assert_eq!(signing_text("ab"), "DSSEv1 36 application/vnd.muster.trust.v1+json 2 ab");
}

#[test]
fn nothing_is_rolled_back_forked_or_run_ahead() {
    let current = in_force(&acl(5));
    let take = |payload: &str| take(&signed(payload, &[&ANN, &BOB]), Some(&current), 200);
    assert!(take(&acl(6)).is_ok());
    assert!(take(&acl(5)).is_ok(), "the very same one");
    assert_eq!(take(&acl(4)).unwrap_err(), DocumentError::Older { have: 4, in_force: 5 });
    let fork = payload("investigators", 5, &weights(&json!({"file": {"minimumweight": 1}})));
    assert_eq!(take(&fork).unwrap_err(), DocumentError::Fork(5));
    assert!(take(&acl(5 + VERSION_STEP_MAX)).is_ok());
    for version in [0, 6 + VERSION_STEP_MAX, u64::MAX] {
        assert_eq!(take(&acl(version)).unwrap_err(), DocumentError::Version { have: version, in_force: 5 });
    }
    // Kinds have versions of their own.
    let administrators = json!({"keys": [ANN.armored(), BOB.armored()], "threshold": 2});
    assert!(take(&payload("administrators", 1, &administrators)).is_ok());
}

#[test]
fn documents_have_an_end_and_a_beginning() {
    let json = signed(&acl(1), &[&ANN, &BOB]);
    assert!(take(&json, None, 1000).is_ok());
    assert_eq!(take(&json, None, 1001).unwrap_err(), DocumentError::Expired(at(1000)));
    let issued = |secs: i64, ends: i64, now| {
        let text = acl(1).replace(&at(100).to_string(), &at(secs).to_string());
        take(&signed(&text.replace(&at(1000).to_string(), &at(ends).to_string()), &[&ANN, &BOB]), None, now).map(|_| ())
    };
    assert_eq!(issued(500, 1000, 200), Ok(()), "five minutes ahead");
    assert_eq!(issued(501, 1000, 200), Err(DocumentError::Issued(at(501))));
    assert_eq!(issued(400, 399, 200), Err(DocumentError::Issued(at(400))));
    assert_eq!(issued(400, 400, 400), Ok(()));
}

#[test]
fn administrators_hand_over_with_both_hands() {
    let content = json!({"keys": [EVE.armored(), BOB.armored()], "threshold": 2});
    let new = payload("administrators", 1, &content);
    assert!(take(&signed(&new, &[&ANN, &BOB, &EVE]), None, 200).is_ok());
    // The new ones alone, and the old ones alone.
    for people in [&[&*BOB, &*EVE], &[&*ANN, &*BOB]] {
        assert!(matches!(take(&signed(&new, people), None, 200), Err(DocumentError::Quorum { have: 1, .. })));
    }
    for threshold in [0, 3] {
        let content = json!({"keys": [EVE.armored(), BOB.armored()], "threshold": threshold});
        let error = take(&signed(&payload("administrators", 1, &content), &[&ANN, &BOB, &EVE]), None, 200).unwrap_err();
        assert_eq!(error, DocumentError::Threshold { threshold, keys: 2 });
    }
}

#[test]
fn what_is_not_of_the_form_is_refused() {
    let good = acl(1);
    for (payload, part) in [
        ("{}".to_owned(), "missing field"),
        (good.replace("\"investigators\"", "\"acls\""), "unknown variant"),
        (good.replace("\"version\":1", "\"version\":1,\"version\":2"), "stands twice"),
        (good.replace("\"version\":1", "\"version\":-1"), "invalid value"),
        (good.replace("\"version\":1", "\"version\":1,\"more\":2"), "unknown field"),
        (good.replace(&at(100).to_string(), "today"), "2026-01-02T03:04:05Z"),
    ] {
        let error = take(&signed(&payload, &[&ANN, &BOB]), None, 200).unwrap_err();
        assert!(matches!(&error, DocumentError::Malformed(problem) if problem.contains(part)), "{payload}: {error}");
    }
    for json in [&b"{}"[..], b"\xff", b"{\"payload\":\"\",\"payload\":\"\",\"signatures\":[]}"] {
        assert!(matches!(take(json, None, 200), Err(DocumentError::Malformed(_))));
    }
    let long = vec![b' '; limits::TRUST_DOCUMENT_BYTES_MAX + 1];
    assert_eq!(take(&long, None, 200).unwrap_err(), DocumentError::TooLong { have: long.len() });
    assert!(matches!(take(&long[1..], None, 200), Err(DocumentError::Malformed(_))));
    let weights = payload("investigators", 1, &weights(&json!({"file": {"minimumweight": 0}})));
    assert!(matches!(take(&signed(&weights, &[&ANN, &BOB]), None, 200), Err(DocumentError::Acl(_))));
}
