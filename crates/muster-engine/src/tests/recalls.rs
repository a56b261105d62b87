//! Cancellations of several people, for several fleets, and again.

use super::actions::{PEOPLE, launch, order, people, row};
use crate::Engine;
use crate::testing::{World, caller, machine, poll, types};
use muster_core::action::{Action, ActionId};
use muster_core::{Message, system};
use muster_store::actions::CancelTaken;
use muster_trust::{Cancellation, LedgerKey, SecretKey, signed_text};
use std::time::Duration;

/// The signature of person `who` over the cancellation of an action in a fleet.
fn cancellation(world: &World, action: &Action, who: usize, fleet: &str) -> String {
    let now = muster_core::Clock::now(&*world.clock);
    let order = LedgerKey::of(&signed_text(action).unwrap());
    let text = Cancellation::of(&order, fleet, action.expire_after).signing_text();
    SecretKey::open(PEOPLE[who].0.as_bytes(), None, now).unwrap().sign(text.as_bytes(), now).unwrap()
}

/// Signs a cancellation and hands it in.
pub(super) async fn cancelled(
    world: &World,
    engine: &Engine,
    id: ActionId,
    who: usize,
    fleet: &str,
) -> (CancelTaken, String) {
    let signature = cancellation(world, &row(engine, id).await.action, who, fleet);
    let taken = engine.action_cancel(id, Some((fleet, &signature)), &caller()).await.unwrap();
    engine.inner.actions_work().await.unwrap();
    world.clock.advance(Duration::from_secs(2));
    (taken, signature)
}

/// Launches an action of the first person that the first machine has.
pub(super) async fn handed_out(engine: &Engine, world: &World) -> ActionId {
    people(engine).await;
    poll(engine, &machine(1)).await;
    let id = launch(engine, &order(world, "look", &[0])).await;
    engine.inner.actions_work().await.unwrap();
    assert_eq!(types(&poll(engine, &machine(1)).await.messages), [system::ACTION]);
    id
}

/// Whether one of the messages carries the signature.
fn carries(messages: &[Message], signature: &str) -> bool {
    let body = |message: &Message| message.payload.as_ref().map(|payload| payload.value.clone()).unwrap_or_default();
    let value = |message| serde_json::from_slice::<serde_json::Value>(&body(message)).unwrap();
    messages.iter().any(|message| value(message)["signature"] == signature)
}

#[tokio::test]
async fn who_signed_the_order_calls_it_back_though_others_and_slips_came_first() {
    let world = World::new().await;
    let engine = world.plain();
    let id = handed_out(&engine, &world).await;
    for (who, fleet) in [(1, ""), (0, "elsewhere"), (0, ""), (0, "")] {
        let (taken, signature) = cancelled(&world, &engine, id, who, fleet).await;
        assert_eq!(taken, CancelTaken::Taken, "{who} {fleet}");
        let messages = poll(&engine, &machine(1)).await.messages;
        assert!(types(&messages).iter().all(|kind| *kind == system::ACTION_CANCEL), "{messages:?}");
        assert!(carries(&messages, &signature), "{who} {fleet}: {messages:?}");
        // The same again is known, and no reason for another message.
        let again = engine.action_cancel(id, Some((fleet, &signature)), &caller()).await.unwrap();
        assert_eq!(again, CancelTaken::Known, "{who} {fleet}");
    }
}
