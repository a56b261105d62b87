//! Actions that several people sign: what waits, and what further signatures do.

use super::actions::{demands_two, launch, order, orders, people, row, signature, status};
use crate::OperatorError;
use crate::testing::{World, caller, machine, poll, tell};
use muster_core::action::{Action, ActionStatus};
use muster_store::actions::{ActionTaken, Spread};
use muster_trust::signed_text;
use std::time::Duration;

#[tokio::test]
async fn an_action_of_two_people_waits_for_the_second() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    tell(&engine, &machine(1), vec![demands_two(1)]).await;
    let json = order(&world, "look", &[0]);
    let preview = engine.action_preview(&json, Spread::default(), &[]).await.unwrap();
    assert_eq!((preview.matched, preview.willing, preview.unknown), (1, 0, 0));
    assert_eq!(preview.refusals[0].code.as_str(), "weight");
    assert_eq!((preview.refusals[0].agents, preview.refusals[0].examples[0]), (1, machine(1).agent()));
    let id = launch(&engine, &json).await;
    engine.inner.actions_work().await.unwrap();
    assert_eq!(status(&engine, id).await, ActionStatus::Waiting);
    assert_eq!(poll(&engine, &machine(1)).await.messages, []);
    let action = row(&engine, id).await.action;
    let same = engine.action_sign(id, &signature(&world, &action, 0), &caller()).await.unwrap_err();
    assert!(same.to_string().contains("has signed before"), "{same}");
    let other = Action { name: "other".into(), ..action.clone() };
    let foreign = engine.action_sign(id, &signature(&world, &other, 1), &caller()).await.unwrap_err();
    assert!(matches!(foreign, OperatorError::Signature(_)), "{foreign}");
    let second = signature(&world, &action, 1);
    assert_eq!(engine.action_sign(id, &second, &caller()).await.unwrap(), ActionStatus::Pending);
    assert_eq!(engine.action_preview_stored(id).await.unwrap().willing, 1);
    let late = engine.action_sign(id, &second, &caller()).await.unwrap_err();
    assert!(matches!(late, OperatorError::Conflict(_)), "{late}");
    engine.inner.actions_work().await.unwrap();
    let got = poll(&engine, &machine(1)).await.messages;
    let handed = Action::parse(&orders(&got)[0].payload.as_ref().unwrap().value).unwrap();
    assert_eq!(handed.pgp_signatures.len(), 2);
    assert_eq!(signed_text(&handed).unwrap(), signed_text(&action).unwrap());
}

#[tokio::test]
async fn an_action_that_comes_again_with_a_further_signature_is_signed_further() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    tell(&engine, &machine(1), vec![demands_two(1)]).await;
    let first = order(&world, "look", &[0]);
    let id = launch(&engine, &first).await;
    let action = row(&engine, id).await.action;
    let again = async |lines: &[&str]| {
        let action = Action {
            id: None,
            pgp_signatures: lines.iter().map(|line| (*line).to_owned()).collect(),
            ..action.clone()
        };
        let json = serde_json::to_vec(&action).unwrap();
        engine.action_launch(&json, Spread::default(), &caller()).await
    };
    let there = &*action.pgp_signatures[0];
    let foreign = signature(&world, &Action { name: "other".into(), ..action.clone() }, 1);
    for wrong in ["AAAA=bbbb", &foreign] {
        for lines in [vec![wrong], vec![there, wrong]] {
            assert!(matches!(again(&lines).await, Err(OperatorError::Signature(_))), "{lines:?}");
        }
    }
    world.clock.advance(Duration::from_secs(1));
    let twice = signature(&world, &action, 0);
    assert_ne!(twice, there);
    for lines in [vec![there], vec![&*twice]] {
        assert_eq!(again(&lines).await.unwrap(), ActionTaken::Again(id));
        assert_eq!((status(&engine, id).await, row(&engine, id).await.signers.len()), (ActionStatus::Waiting, 1));
    }
    let second = signature(&world, &action, 1);
    for _ in 0..2 {
        assert_eq!(again(&[there, &second]).await.unwrap(), ActionTaken::Again(id));
        assert_eq!((status(&engine, id).await, row(&engine, id).await.signers.len()), (ActionStatus::Pending, 2));
    }
    assert!(matches!(again(&["AAAA=bbbb"]).await, Err(OperatorError::Signature(_))));
}
