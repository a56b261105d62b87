//! Orders that ran, or were called back, delivered again in every way.

use super::cancellations::Cancel;
use super::people::{Order, now};
use super::{PEOPLE, Stage};
use muster_harness::evil::{CEILING, Machine};
use muster_harness::wait;
use muster_harness::wire;
use muster_harness::wire::actions::{self, SUCCESS};
use serde_json::{Value, json};

/// What is tried, in order.
pub(super) const NAMES: &[&str] = &[
    "in the same message again",
    "in another message",
    "with another description",
    "with its signature in another form",
    "with its signatures in another order",
    "a hundred times",
    "a hundred times before the first was done",
    "after a reconnection",
    "after a restart",
    "after a kill",
    "over polls",
    "under a new key of the machine",
    "after the server ended the agent",
    "to a machine that was set up later",
    "called back before it came",
    "called back, after a restart",
    "called back, under another number",
];

/// How often at once: as many as a service has places.
const TIMES: usize = 100;

/// Waits until the present second is later than that from which an order is valid.
pub(super) async fn later_than(order: &str) {
    let order: Value = serde_json::from_str(order).unwrap();
    let from: muster_core::Timestamp = order["validfrom"].as_str().unwrap().parse().unwrap();
    wait::until_true("the next second", CEILING, async || Ok(now() > from.to_parts().0)).await.unwrap();
}

fn changed(order: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut json: Value = serde_json::from_str(order).unwrap();
    change(&mut json);
    json.to_string()
}

impl Stage {
    async fn replayed(&mut self, what: &str, order: &str) {
        assert!(NAMES.contains(&what), "{what:?} has no place in the list");
        self.refused(what, order.as_bytes(), "already-run").await;
    }
}

#[tokio::test]
async fn an_order_that_ran_is_not_run_again() {
    let mut stage = Stage::new().await;
    let order = Order::new("once").signed(&[&PEOPLE.alice]);
    let message = stage.evil.order(order.as_bytes(), 50);
    assert_eq!(stage.evil.result(&message).await.unwrap().status, SUCCESS);
    stage.runs += 1;
    // The very same message is acknowledged again, and that is all.
    let body = actions::ActionOrder { action: order.clone().into_bytes(), action_id: 50, command_id: 0 };
    let body = wire::any("muster.actions.ActionOrder", &body);
    stage.evil.send_again(&message, actions::SERVICE, actions::ORDER, Some(body));
    stage.evil.is_answered().await.unwrap();
    stage.nothing_ran(NAMES[0]);
    stage.replayed("in another message", &order).await;
    let described = changed(&order, |json| json["description"] = json!({"author": "the server"}));
    stage.replayed("with another description", &described).await;
    let armored = changed(&order, |json| {
        let line = json["pgpsignatures"][0].as_str().unwrap().to_owned();
        let (data, sum) = line.rsplit_once('=').unwrap();
        let block = format!("-----BEGIN PGP SIGNATURE-----\n\n{data}\n={sum}\n-----END PGP SIGNATURE-----\n");
        json["pgpsignatures"][0] = block.into();
    });
    stage.replayed("with its signature in another form", &armored).await;

    let both = Order::new("twice signed").signed(&[&PEOPLE.alice, &PEOPLE.bob]);
    assert_eq!(stage.ordered(both.as_bytes()).await.status, SUCCESS);
    stage.runs += 1;
    let swapped = changed(&both, |json| json["pgpsignatures"].as_array_mut().unwrap().reverse());
    stage.replayed("with its signatures in another order", &swapped).await;
    stage.end().await;
}

#[tokio::test]
async fn an_order_that_comes_a_hundred_times_is_run_once() {
    let mut stage = Stage::new().await;
    for (what, already) in [("a hundred times before the first was done", 0), ("a hundred times", 1)] {
        assert!(NAMES.contains(&what));
        let order = Order::new(what).signed(&[&PEOPLE.alice]);
        if already > 0 {
            assert_eq!(stage.ordered(order.as_bytes()).await.status, SUCCESS);
        }
        let messages: Vec<_> =
            (0..TIMES).map(|id| stage.evil.order(order.as_bytes(), id.try_into().unwrap())).collect();
        let mut ran = already;
        for message in messages {
            let result = stage.evil.result(&message).await.unwrap();
            match result.refusal {
                None => ran += 1,
                Some(refusal) => assert_eq!(refusal.code, "already-run", "{what}"),
            }
        }
        assert_eq!(ran, 1, "{what}");
        stage.runs += 1;
        stage.nothing_ran(what);
    }
    stage.end().await;
}

#[tokio::test]
async fn an_order_that_ran_is_not_run_again_by_an_agent_that_was_started_again() {
    let mut stage = Stage::new().await;
    let order = stage.a_good_order_runs("once for all").await;
    let streams = stage.evil.seen().streams;
    stage.evil.cut();
    stage.evil.wait("another stream", |seen| (seen.streams > streams).then_some(())).await.unwrap();
    stage.replayed("after a reconnection", &order).await;
    assert_eq!(stage.machine.stop().await.unwrap(), Some(0));
    stage.machine.start(&stage.evil).await.unwrap();
    stage.replayed("after a restart", &order).await;
    stage.machine.kill().unwrap();
    stage.machine.start(&stage.evil).await.unwrap();
    stage.replayed("after a kill", &order).await;

    let agents = stage.evil.seen().agents.len();
    stage.evil.send("system", "RekeyRequest", None);
    stage.evil.wait("the machine under a new key", |seen| (seen.agents.len() > agents).then_some(())).await.unwrap();
    stage.evil.is_answered().await.unwrap();
    stage.replayed("under a new key of the machine", &order).await;
    for force in [false, true] {
        stage.evil.send("system", "Die", Some(wire::any("fleetspeak.DieRequest", &actions::DieRequest { force })));
        assert_eq!(stage.machine.ended().await.unwrap(), Some(7));
        // It stays away until its owner removes the note of it, or an hour is over.
        std::fs::remove_file(stage.machine.state("resting.json")).unwrap();
        stage.machine.start(&stage.evil).await.unwrap();
        stage.replayed("after the server ended the agent", &order).await;
    }
    assert_eq!(stage.machine.stop().await.unwrap(), Some(0));
    stage.machine.configure("mode = \"stream\"", "mode = \"poll\"").unwrap();
    stage.machine.start(&stage.evil).await.unwrap();
    stage.replayed("over polls", &order).await;
    assert!(stage.evil.seen().polls > 0);
    stage.end().await;
}

#[tokio::test]
async fn an_order_of_before_is_not_run_by_a_machine_that_was_set_up_later() {
    let mut stage = Stage::new().await;
    let order = stage.a_good_order_runs("before").await;
    assert_eq!(stage.machine.stop().await.unwrap(), Some(0));
    later_than(&order).await;
    let directory = tempfile::tempdir().unwrap();
    stage.machine = Machine::prepare(directory.path(), &stage.evil, "stream", &PEOPLE.belief()).unwrap();
    stage.machine.start(&stage.evil).await.unwrap();
    stage.runs = 0;
    stage.refused("to a machine that was set up later", order.as_bytes(), "before-ledger").await;
    stage.end().await;
}

#[tokio::test]
async fn an_order_that_was_called_back_never_begins_however_it_is_named() {
    let mut stage = Stage::new().await;
    let order = Order::new("called back");
    let signed = order.signed(&[&PEOPLE.alice]);
    let message = stage.call_back(&Cancel::of(&order).signed(77, &PEOPLE.alice));
    stage.evil.wait("its acknowledgement", |seen| seen.acknowledged.contains(&message).then_some(())).await.unwrap();
    for (what, action_id) in [("called back before it came", 77), ("called back, under another number", 78)] {
        assert!(NAMES.contains(&what));
        let result = stage.evil.result(&stage.evil.order(signed.as_bytes(), action_id)).await.unwrap();
        assert_eq!(result.refusal.unwrap().code, "cancelled", "{what}");
        stage.nothing_ran(what);
    }
    stage.machine.kill().unwrap();
    stage.machine.start(&stage.evil).await.unwrap();
    stage.refused("called back, after a restart", signed.as_bytes(), "cancelled").await;
    // Calling back an order that nobody has seen starts nothing, and calling back without a name is none.
    for (id, hash) in [(1_000_000, Vec::new()), (i64::MIN, vec![7; 32]), (0, vec![7; 31]), (0, Vec::new())] {
        stage.call_back(&actions::ActionCancel {
            action_id: id,
            signed_sha256: hash,
            ..actions::ActionCancel::default()
        });
    }
    stage.evil.is_answered().await.unwrap();
    stage.nothing_ran("called back without a name");
    stage.end().await;
}
