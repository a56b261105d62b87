//! Who may keep orders from running on the real program, for how long, and that nobody else can.

use crate::agent::CEILING;
use crate::machine::{Draft, Machine, ONE, STRANGER, TWO, any, key, now, status};
use muster_core::{Action, Timestamp, limits, system};
use muster_proto::wire::actions::{self as wire, ResultStatus};
use muster_trust::{Cancellation, LedgerKey, signed_text};
use serde_json::json;
use std::time::Duration;

/// A machine that has the keys of three people: one weighs 2, two weighs 1, and the stranger nothing.
async fn a_machine() -> Machine {
    let machine = Machine::prepared("fleet = \"lab\"\n").await;
    std::fs::write(machine.agent.directory().join("agentkeys/stranger"), STRANGER.0).unwrap();
    machine.started().await
}

fn cancellation(order: [u8; 32], until: Timestamp, by: (&str, &str)) -> wire::ActionCancel {
    let said = Cancellation { fleet: "lab", order: &order, until };
    wire::ActionCancel {
        action_id: 70,
        signed_sha256: order.to_vec().into(),
        fleet: "lab".into(),
        until: until.to_parts().0,
        signature: key(by).sign(said.signing_text().as_bytes(), now()).unwrap(),
        reason: String::new(),
    }
}

fn digest(order: &[u8]) -> [u8; 32] {
    *LedgerKey::of(&signed_text(&Action::parse(order).unwrap()).unwrap()).as_bytes()
}

/// Sends a cancellation, and waits until the machine has written it.
async fn taken(machine: &Machine, cancel: &wire::ActionCancel) {
    let message = machine.fleet.send(system::ACTIONS, system::ACTION_CANCEL, Some(any("ActionCancel", cancel)));
    machine.fleet.wait_until(|seen| seen.acknowledged.contains(&message)).await;
}

/// Sends a cancellation, and waits until the machine refuses it; returns why.
async fn refused(machine: &Machine, cancel: &wire::ActionCancel) -> String {
    machine.fleet.forget();
    machine.fleet.send(system::ACTIONS, system::ACTION_CANCEL, Some(any("ActionCancel", cancel)));
    let error = machine.fleet.wait_for(system::MESSAGE_ERROR).await;
    String::from_utf8_lossy(error.body()).into_owned()
}

/// An order's digest that nobody ever signs.
fn nobodys(number: usize) -> [u8; 32] {
    let mut order = [0xAB; 32];
    order[..8].copy_from_slice(&number.to_be_bytes());
    order
}

/// Fills the room of a signer and one more, which ends at `until`.
async fn fill(machine: &Machine, until: Timestamp, by: (&str, &str)) {
    for number in 0..limits::CANCELS_PER_SIGNER_MAX {
        let cancel = cancellation(nobodys(number), until, by);
        machine.fleet.send(system::ACTIONS, system::ACTION_CANCEL, Some(any("ActionCancel", &cancel)));
    }
    taken(machine, &cancellation(nobodys(usize::MAX), until, by)).await;
}

/// Reads keys and weights again.
async fn reload(machine: &Machine) {
    machine.fleet.forget();
    machine.agent.signal(rustix::process::Signal::HUP);
    machine.fleet.wait_for(system::AGENT_TRUST).await;
}

async fn doctor(machine: &Machine) -> serde_json::Value {
    let (_, found) = machine.agent.output(&["doctor", "--json"]).await;
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    found.as_array().unwrap().iter().find(|one| one["name"] == "orders").unwrap().clone()
}

#[tokio::test]
async fn a_key_without_weight_keeps_nothing_from_running() {
    let machine = a_machine().await;
    let ledger = machine.agent.directory().join("state/orders");
    let before = std::fs::metadata(&ledger).unwrap().len();
    // Neither an order of others nor one that it signed beside them.
    let order = Draft::new("run all the same").signed(&[ONE]);
    let both = Draft::new("signed beside others").signed(&[ONE, STRANGER]);
    for one in [digest(&order), digest(&both), nobodys(1)] {
        let why = refused(&machine, &cancellation(one, now().plus(Duration::from_mins(5)), STRANGER)).await;
        assert!(why.contains("has no weight on this machine"), "{why}");
    }
    assert_eq!(std::fs::metadata(&ledger).unwrap().len(), before, "what was refused is not kept");
    for one in [order, both] {
        assert_eq!(status(&machine.asked(one).await), ResultStatus::Success);
    }
    assert_eq!(doctor(&machine).await["outcome"], "ok");
}

#[tokio::test]
async fn a_cancellation_names_an_end_that_an_order_of_today_could_have() {
    let machine = a_machine().await;
    let far = now().plus(limits::CANCEL_AHEAD_MAX).plus(Duration::from_mins(5));
    let why = refused(&machine, &cancellation(nobodys(1), far, ONE)).await;
    assert!(why.contains("sign it again"), "{why}");
    let week = now().plus(limits::ACTION_WINDOW_MAX);
    taken(&machine, &cancellation(nobodys(1), week, ONE)).await;
}

#[tokio::test]
async fn a_cancellation_of_what_ended_long_ago_is_refused_and_leaves_nothing_behind() {
    let machine = a_machine().await;
    let past = now().minus(limits::LEDGER_MEMORY).minus(Duration::from_hours(24));
    let ledger = machine.agent.directory().join("state/orders");
    let before = std::fs::metadata(&ledger).unwrap().len();
    let why = refused(&machine, &cancellation(nobodys(1), past, ONE)).await;
    assert!(why.contains("no such order begins here"), "{why}");
    assert_eq!(std::fs::metadata(&ledger).unwrap().len(), before, "what was refused is not kept");
}

#[tokio::test]
async fn a_signer_without_room_stops_orders_that_it_may_call_back_and_no_others() {
    let machine = a_machine().await;
    let (hour, named) = (now().plus(Duration::from_hours(1)), Draft::new("called back by name").signed(&[ONE, TWO]));
    taken(&machine, &cancellation(digest(&named), hour, TWO)).await;
    fill(&machine, hour, TWO).await;
    // Two weighs less than one: not an order of one alone.
    assert_eq!(status(&machine.asked(Draft::new("of one").signed(&[ONE])).await), ResultStatus::Success);
    let refusal = machine.asked(Draft::new("of both").signed(&[ONE, TWO])).await.refusal.unwrap();
    let fingerprint = key(TWO).signer().to_string();
    assert_eq!(refusal.code, "cancelled");
    for words in [&fingerprint, &hour.to_string(), "more orders than this machine remembers"] {
        assert!(refusal.reason.contains(words), "{}", refusal.reason);
    }
    let found = doctor(&machine).await;
    let says = found["found"].as_str().unwrap();
    assert_eq!(found["outcome"], "warning");
    assert!(says.contains(&fingerprint) && says.contains(&hour.to_string()), "{says}");
    assert!(found["advice"].as_str().unwrap().contains("take the key or its weight away"), "{found}");
    let (_, shown) = machine.agent.output(&["status"]).await;
    assert!(shown.contains("PROBLEM     no order runs that this signer may call back until"), "{shown}");

    // Without weight it stops nothing more; what it called back by name while it could stays called back.
    let weights = json!({"default": {"minimumweight": 1, "investigators": {
        "one": {"fingerprint": key(ONE).signer(), "weight": 1},
    }}});
    std::fs::write(machine.agent.directory().join("acl.cfg"), weights.to_string()).unwrap();
    reload(&machine).await;
    assert_eq!(status(&machine.asked(Draft::new("again").signed(&[ONE, TWO])).await), ResultStatus::Success);
    assert_eq!(doctor(&machine).await["outcome"], "ok");
    let without_its_signature = {
        let mut order: serde_json::Value = serde_json::from_slice(&named).unwrap();
        order["pgpsignatures"].as_array_mut().unwrap().pop();
        order.to_string().into_bytes()
    };
    for one in [named, without_its_signature] {
        assert_eq!(machine.refused(one).await, "cancelled");
    }
    // Nor is anything lost with the key.
    std::fs::remove_file(machine.agent.directory().join("agentkeys/two")).unwrap();
    reload(&machine).await;
    assert_eq!(status(&machine.asked(Draft::new("after it").signed(&[ONE])).await), ResultStatus::Success);
    assert_eq!(machine.runs(), 3);
}

#[tokio::test]
async fn where_the_heaviest_has_no_room_nothing_runs_and_doctor_says_until_when() {
    let mut machine = a_machine().await;
    let hour = now().plus(Duration::from_hours(1));
    fill(&machine, hour, ONE).await;
    let until = format!("nothing runs until {hour}");
    for _ in 0..2 {
        assert_eq!(machine.refused(Draft::new("of one").signed(&[ONE])).await, "cancelled");
        let (code, shown) = machine.agent.output(&["doctor"]).await;
        assert!(code == Some(1) && shown.contains(&until), "{shown}");
        // Nor after a restart.
        let stopped = tokio::time::timeout(CEILING, machine.agent.stop()).await;
        assert_eq!(stopped.unwrap(), Some(0));
        machine.restart().await;
    }
    assert_eq!(machine.runs(), 0);
}
