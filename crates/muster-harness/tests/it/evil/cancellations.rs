//! Cancellations that a server would like a machine to take: by number, made up, by others, for others, again.

use super::people::{Order, Person, now};
use super::{PEOPLE, Stage};
use muster_harness::evil::FLEET;
use muster_harness::wire;
use muster_harness::wire::actions::{self, ActionCancel, SUCCESS};
use sha2::{Digest, Sha256};

/// What is tried, in order.
pub(super) const NAMES: &[&str] = &[
    "cancellations by number, made in advance",
    "a cancellation that nobody signed",
    "ten thousand and one made-up cancellations",
    "a cancellation by a stranger",
    "a cancellation by somebody who weighs less",
    "a cancellation whose signer's key was revoked",
    "a cancellation for another fleet",
    "a cancellation of another order under a good signature",
    "a cancellation with another end than was signed",
    "an order's signature as that of a cancellation",
    "a document's signature as that of a cancellation",
    "a cancellation that wants to be remembered for ever",
    "a real cancellation, again and again",
];

/// Makes what a server tries with an order.
type CancelOf = fn(&Order) -> ActionCancel;

/// A cancellation, before it is signed; its text is written here a second time.
pub(super) struct Cancel {
    pub(super) fleet: String,
    pub(super) order: Vec<u8>,
    pub(super) until: i64,
}

impl Cancel {
    pub(super) fn of(order: &Order) -> Self {
        Self { fleet: FLEET.to_owned(), order: Sha256::digest(order.text()).to_vec(), until: order.until }
    }

    fn text(&self) -> String {
        format!("muster cancel 1\nfleet {}\norder {}\nuntil {}\n", self.fleet, hex::encode(&self.order), self.until)
    }

    pub(super) fn signed(&self, action_id: i64, by: &Person) -> ActionCancel {
        self.with(action_id, by.sign(&self.text()))
    }

    fn with(&self, action_id: i64, signature: String) -> ActionCancel {
        let (fleet, signed_sha256, until) = (self.fleet.clone(), self.order.clone(), self.until);
        ActionCancel { action_id, signed_sha256, fleet, until, signature }
    }
}

impl Stage {
    /// Hands out a cancellation; returns the message's id.
    pub(super) fn call_back(&self, cancel: &ActionCancel) -> Vec<u8> {
        self.evil.send(actions::SERVICE, actions::CANCEL, wire::any("muster.actions.ActionCancel", cancel))
    }
}

#[tokio::test]
async fn nobody_but_people_calls_back_what_people_ordered() {
    let mut stage = Stage::new().await;
    // Three numbers that are still to come, and any other that a server may give.
    for id in [2, 3, 4, i64::MAX] {
        stage.call_back(&ActionCancel { action_id: id, ..ActionCancel::default() });
    }
    stage.evil.is_answered().await.unwrap();
    for name in ["the next", "the one after", "the one after that"] {
        stage.a_good_order_runs(name).await;
    }
    let rows: &[(&str, CancelOf)] = &[
        ("a cancellation that nobody signed", |order| Cancel::of(order).with(9, String::new())),
        ("a cancellation by a stranger", |order| Cancel::of(order).signed(9, &PEOPLE.stranger)),
        ("a cancellation by somebody who weighs less", |order| Cancel::of(order).signed(9, &PEOPLE.bob)),
        ("a cancellation whose signer's key was revoked", |order| Cancel::of(order).signed(9, &PEOPLE.stolen)),
        ("a cancellation for another fleet", |order| {
            Cancel { fleet: "production".to_owned(), ..Cancel::of(order) }.signed(9, &PEOPLE.alice)
        }),
        ("a cancellation of another order under a good signature", |order| {
            let good = Cancel::of(&Order::new("another")).signed(9, &PEOPLE.alice);
            ActionCancel { signed_sha256: Cancel::of(order).order, ..good }
        }),
        ("a cancellation with another end than was signed", |order| ActionCancel {
            until: now() + 1,
            ..Cancel::of(order).signed(9, &PEOPLE.alice)
        }),
        ("an order's signature as that of a cancellation", |order| {
            Cancel::of(order).with(9, PEOPLE.alice.sign(&order.text()))
        }),
        ("a document's signature as that of a cancellation", |order| {
            let cancel = Cancel::of(order);
            let signature = PEOPLE.alice.sign(&muster_trust::document::signing_text(&cancel.text()));
            cancel.with(9, signature)
        }),
        ("a cancellation that wants to be remembered for ever", |order| {
            Cancel { until: now() + 500 * 86_400, ..Cancel::of(order) }.signed(9, &PEOPLE.alice)
        }),
    ];
    for (what, cancel) in rows {
        assert!(NAMES.contains(what), "{what:?} has no place in the list");
        let order = Order::new(what);
        stage.call_back(&cancel(&order));
        stage.evil.is_answered().await.unwrap();
        let result = stage.ordered(order.signed(&[&PEOPLE.alice]).as_bytes()).await;
        assert_eq!((result.status, result.refusal), (SUCCESS, None), "{what}");
        stage.runs += 1;
        stage.nothing_ran(what);
    }
    stage.end().await;
}

#[tokio::test]
async fn made_up_cancellations_flush_no_real_one_and_a_real_one_stays() {
    let mut stage = Stage::new().await;
    let order = Order::new("called back by Alice");
    let real = Cancel::of(&order).signed(5, &PEOPLE.alice);
    let message = stage.call_back(&real);
    stage.evil.wait("its acknowledgement", |seen| seen.acknowledged.contains(&message).then_some(())).await.unwrap();
    let ledger = || std::fs::metadata(stage.machine.state("orders")).unwrap().len();
    let before = ledger();
    for number in 0..10_001_u32 {
        let hash = Sha256::digest(number.to_be_bytes()).to_vec();
        stage.call_back(&ActionCancel { action_id: number.into(), signed_sha256: hash, ..ActionCancel::default() });
    }
    // The same one, as often as somebody likes.
    for _ in 0..50 {
        stage.call_back(&real);
    }
    stage.evil.is_answered().await.unwrap();
    assert_eq!(ledger(), before, "what does not count, and what is known, takes no room");
    let signed = order.signed(&[&PEOPLE.alice]);
    stage.refused("called back", signed.as_bytes(), "cancelled").await;
    stage.machine.kill().unwrap();
    stage.machine.start(&stage.evil).await.unwrap();
    stage.refused("called back, after a kill", signed.as_bytes(), "cancelled").await;
    // What ran is not undone by calling it back, and its place is not made free.
    let ran = Order::new("ran before");
    assert_eq!(stage.ordered(ran.signed(&[&PEOPLE.alice]).as_bytes()).await.status, SUCCESS);
    stage.runs += 1;
    stage.call_back(&Cancel::of(&ran).signed(6, &PEOPLE.alice));
    stage.evil.is_answered().await.unwrap();
    stage.refused("ran, and called back", ran.signed(&[&PEOPLE.alice]).as_bytes(), "already-run").await;
    stage.end().await;
}
