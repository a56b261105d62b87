//! Keyrings, weights and administrators that a server would like a machine to believe.

use super::people::{Order, People, Person, now};
use super::{PEOPLE, Stage};
use muster_core::Timestamp;
use muster_harness::evil::FLEET;
use muster_harness::wire::actions::AgentTrust;
use muster_trust::document::{envelope, signing_text};
use serde_json::{Value, json};

/// What is tried, a word of the reason it is refused with, and the document.
pub(super) type Row = (&'static str, &'static str, fn(&People) -> Vec<u8>);

/// The version in force, and one that was before it.
const IN_FORCE: u64 = 7;
const BEFORE: u64 = 5;

/// A document, before it is signed.
pub(super) struct Draft {
    pub(super) kind: &'static str,
    pub(super) version: Value,
    pub(super) fleet: &'static str,
    pub(super) target: &'static str,
    pub(super) issued: i64,
    pub(super) expires: i64,
    pub(super) content: Value,
}

impl Draft {
    /// Weights under which Bob's signature alone is enough.
    pub(super) fn light(people: &People) -> Self {
        let content = people.believed(1);
        let (issued, expires) = (now() - 60, now() + 3600);
        Self {
            kind: "investigators",
            version: json!(IN_FORCE + 1),
            fleet: FLEET,
            target: "true",
            issued,
            expires,
            content,
        }
    }

    pub(super) fn payload(&self) -> String {
        json!({
            "kind": self.kind, "version": self.version, "content": self.content,
            "fleet": self.fleet, "target": self.target,
            "issued": Timestamp::from_secs(self.issued).to_string(),
            "expires": Timestamp::from_secs(self.expires).to_string(),
        })
        .to_string()
    }

    pub(super) fn signed(&self, people: &[&Person]) -> Vec<u8> {
        signed(&self.payload(), people)
    }
}

pub(super) fn signed(payload: &str, people: &[&Person]) -> Vec<u8> {
    let signatures: Vec<String> = people.iter().map(|person| person.sign(&signing_text(payload))).collect();
    envelope(payload, &signatures).into_bytes()
}

/// Signed by both administrators, with something wrong in it.
fn both(people: &People, change: impl FnOnce(&mut Draft)) -> Vec<u8> {
    let mut draft = Draft::light(people);
    change(&mut draft);
    draft.signed(&[&people.dora, &people.emil])
}

fn light(people: &People, signers: &[&Person]) -> Vec<u8> {
    Draft::light(people).signed(signers)
}

/// Administrators, of whom one is the stranger.
fn administrators(people: &People, threshold: u64) -> Draft {
    let keys = [people.dora.armored(), people.stranger.armored()];
    let content = json!({"keys": keys, "threshold": threshold});
    Draft { kind: "administrators", version: json!(1), content, ..Draft::light(people) }
}

pub(super) const ROWS: &[Row] = &[
    ("weights of an older version", "nothing older", |p| both(p, |draft| draft.version = json!(IN_FORCE - 1))),
    ("weights of the version in force that say something else", "says something else", |p| {
        both(p, |draft| draft.version = json!(IN_FORCE))
    }),
    ("weights of version 0", "out of range", |p| both(p, |draft| draft.version = json!(0))),
    ("weights of the last version there is", "out of range", |p| both(p, |draft| draft.version = json!(u64::MAX))),
    ("weights of a version far ahead", "out of range", |p| {
        both(p, |draft| draft.version = json!(IN_FORCE + 1_000_001))
    }),
    ("weights of a version below 0", "cannot be read", |p| both(p, |draft| draft.version = json!(-8))),
    ("weights of a version with a fraction", "cannot be read", |p| both(p, |draft| draft.version = json!(8.5))),
    ("weights that have expired", "expired", |p| both(p, |draft| draft.expires = now() - 30)),
    ("weights from the future", "issued", |p| both(p, |draft| draft.issued = now() + 1800)),
    ("weights that one administrator signed", "1 of 2", |p| light(p, &[&p.dora])),
    ("weights that one administrator signed twice", "1 of 2", |p| light(p, &[&p.dora, &p.dora])),
    ("weights that an administrator and an investigator signed", "1 of 2", |p| light(p, &[&p.dora, &p.alice])),
    ("weights that a stranger signed", "0 of 2", |p| light(p, &[&p.stranger])),
    ("weights that nobody signed", "0 of 2", |p| light(p, &[])),
    ("weights under signatures of others", "0 of 2", |p| {
        let good: Value = serde_json::from_slice(&in_force(p, BEFORE)).unwrap();
        let signatures: Vec<String> = serde_json::from_value(good["signatures"].clone()).unwrap();
        envelope(&Draft::light(p).payload(), &signatures).into_bytes()
    }),
    ("weights signed as an order would be", "0 of 2", |p| {
        let payload = Draft::light(p).payload();
        envelope(&payload, &[p.dora.sign(&payload), p.emil.sign(&payload)]).into_bytes()
    }),
    ("weights with a byte changed", "0 of 2", |p| {
        let text = String::from_utf8(light(p, &[&p.dora, &p.emil])).unwrap();
        text.replacen("\\\"minimumweight\\\":1", "\\\"minimumweight\\\":0", 1).into_bytes()
    }),
    ("weights with seventeen signatures", "17 signatures", |p| light(p, &[&p.dora; 17])),
    ("a document of no kind", "cannot be read", |p| both(p, |draft| draft.kind = "modules")),
    ("weights with a key twice", "cannot be read", |p| {
        let payload = Draft::light(p).payload().replacen('{', "{\"kind\":\"administrators\",", 1);
        signed(&payload, &[&p.dora, &p.emil])
    }),
    ("weights with a word more", "cannot be read", |p| {
        let payload = Draft::light(p).payload().replacen('{', "{\"machine\":\"all\",", 1);
        signed(&payload, &[&p.dora, &p.emil])
    }),
    ("weights of less than nothing", "weight", |p| {
        both(p, |draft| draft.content["weights"]["default"]["minimumweight"] = json!(-1))
    }),
    ("weights of nothing", "weight", |p| {
        both(p, |draft| draft.content["weights"]["default"]["minimumweight"] = json!(0))
    }),
    ("weights in which a key counts twice", "twice", |p| {
        both(p, |draft| {
            let again = draft.content["weights"]["default"]["investigators"]["bob"].clone();
            draft.content["weights"]["default"]["investigators"]["bob's other name"] = again;
        })
    }),
    ("a keyring that one administrator signed", "1 of 2", |p| {
        let content = json!({"keys": [p.stranger.armored()], "weights": p.weights(1)});
        Draft { content, ..Draft::light(p) }.signed(&[&p.dora])
    }),
    ("a keyring with a key that is none", "key 2 of the document", |p| {
        let content = json!({"keys": [p.alice.armored(), "Alice"], "weights": p.weights(1)});
        Draft { content, ..Draft::light(p) }.signed(&[&p.dora, &p.emil])
    }),
    ("new administrators that the old ones did not sign", "1 of 2", |p| {
        administrators(p, 2).signed(&[&p.dora, &p.stranger])
    }),
    ("new administrators that did not sign themselves", "1 of 2", |p| administrators(p, 2).signed(&[&p.dora, &p.emil])),
    ("administrators of whom none must sign", "threshold", |p| administrators(p, 0).signed(&[&p.dora, &p.emil])),
    ("administrators of whom more must sign than there are", "threshold", |p| {
        administrators(p, 3).signed(&[&p.dora, &p.emil])
    }),
    ("a document that is no JSON", "cannot be read", |_| b"weights".to_vec()),
    ("a document of more than 4 MiB", "at most", |_| vec![b' '; 4 * 1024 * 1024 + 1]),
    ("an order as a document", "cannot be read", |p| Order::new("a document").signed(&[&p.alice]).into_bytes()),
];

/// Weights as they should be.
fn in_force(people: &People, version: u64) -> Vec<u8> {
    both(people, |draft| (draft.version, draft.content) = (json!(version), people.believed(2)))
}

/// Hands out a document, and returns what the machine says of it.
pub(super) async fn told(stage: &Stage, document: &[u8]) -> AgentTrust {
    let before = stage.evil.seen().trust.len();
    stage.evil.document(document);
    stage.evil.wait("the machine's word of a document", |seen| seen.trust.get(before).cloned()).await.unwrap()
}

#[tokio::test]
async fn documents_that_administrators_did_not_sign_for_now_change_not_a_byte() {
    let mut stage = Stage::new().await;
    // A real document of before is kept by the server, to be shown again later.
    let (before, current) = (in_force(&PEOPLE, BEFORE), in_force(&PEOPLE, IN_FORCE));
    for (document, version) in [(&before, BEFORE), (&current, IN_FORCE)] {
        let trust = told(&stage, document).await;
        assert_eq!((trust.acl_version, trust.document_refusal), (version, None));
    }
    let files = stage.machine.trust_files().unwrap();
    let replayed: (&str, &str, Vec<u8>) = ("the real weights of before", "nothing older", before);
    let rows = ROWS.iter().map(|(what, word, document)| (*what, *word, document(&PEOPLE)));
    for (what, word, document) in rows.chain([replayed]) {
        let trust = told(&stage, &document).await;
        let refusal = trust.document_refusal.unwrap_or_else(|| panic!("{what}: it was taken"));
        assert!(refusal.code == "document" && refusal.reason.contains(word), "{what}: {}", refusal.reason);
        assert_eq!((trust.acl_version, trust.keyring_version), (IN_FORCE, IN_FORCE), "{what}");
        assert_eq!(stage.machine.trust_files().unwrap(), files, "{what}: something is left of it");
        stage.refused(what, Order::new(what).signed(&[&PEOPLE.bob]).as_bytes(), "weight").await;
    }
    // Nor after the agent was started again.
    stage.machine.kill().unwrap();
    stage.machine.start(&stage.evil).await.unwrap();
    stage.refused("started again", Order::new("again").signed(&[&PEOPLE.bob]).as_bytes(), "weight").await;
    stage.refused("started again", Order::new("again").signed(&[&PEOPLE.stranger]).as_bytes(), "key-unknown").await;
    let trust = told(&stage, &in_force(&PEOPLE, IN_FORCE - 1)).await;
    assert_eq!(trust.acl_version, IN_FORCE);
    assert_eq!(stage.machine.trust_files().unwrap(), files);
    // What both signed is taken, so all of the above could have been.
    let trust = told(&stage, &light(&PEOPLE, &[&PEOPLE.emil, &PEOPLE.dora])).await;
    assert_eq!((trust.acl_version, trust.document_refusal), (IN_FORCE + 1, None));
    let result = stage.ordered(Order::new("light").signed(&[&PEOPLE.bob]).as_bytes()).await;
    assert_eq!(result.refusal, None);
    stage.runs += 1;
    stage.end().await;
}
