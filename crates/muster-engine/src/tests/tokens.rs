//! Investigators at MIG's API: signed tokens and API keys.

use super::actions::{PEOPLE, people};
use crate::testing::{World, caller};
use crate::{ApiKey, Engine, InvestigatorUpdate, TokenRefusal, TokenRules};
use muster_core::Timestamp;
use muster_core::action::{InvestigatorId, InvestigatorStatus};
use muster_store::agents::EventFilter;
use muster_trust::SecretKey;
use std::time::Duration;

/// A token of MIG's API, made at the present moment.
fn token(world: &World, nonce: &str, who: usize) -> String {
    let now = muster_core::Clock::now(&*world.clock);
    let text = format!("1;{};{nonce}", Timestamp::from_secs(now.to_parts().0));
    let mut key = SecretKey::open(PEOPLE[who].0.as_bytes(), None, now).unwrap();
    format!("{text};{}", key.sign(format!("{text}\n").as_bytes(), now).unwrap())
}

#[tokio::test]
async fn a_signed_token_is_believed_once_near_its_time_and_while_its_signer_is_active() {
    const WINDOW: Duration = Duration::from_mins(10);
    let world = World::new().await;
    let (engine, other) = (world.plain(), world.plain());
    people(&engine).await;
    let rules = TokenRules { window: WINDOW, may_repeat: false, request: None };
    let ask = async |engine: &Engine, token: &str| engine.investigator_by_token(token, "192.0.2.1:5", rules).await;
    let first = token(&world, "1", 0);
    assert_eq!(ask(&engine, &first).await.unwrap().name, "person 1");
    for engine in [&engine, &other] {
        let refused = ask(engine, &first).await.unwrap_err();
        assert!(matches!(refused, TokenRefusal::Replayed), "{refused}");
    }
    let again = TokenRules { may_repeat: true, ..rules };
    assert_eq!(engine.investigator_by_token(&first, "192.0.2.1:5", again).await.unwrap().name, "person 1");
    let events = world.store.event_page(EventFilter::default(), None, 10).await.unwrap();
    assert_eq!((events.len(), events[0].code.as_str(), events[0].agent), (2, "token_replayed", None));
    assert_eq!(ask(&other, &token(&world, "2", 1)).await.unwrap().name, "person 2");
    let late = token(&world, "3", 0);
    world.clock.advance(WINDOW + Duration::from_secs(2));
    assert!(matches!(ask(&engine, &late).await.unwrap_err(), TokenRefusal::Age { .. }));
    let changed = token(&world, "4", 0).replace(";4;", ";5;");
    assert!(matches!(ask(&engine, &changed).await.unwrap_err(), TokenRefusal::Signature(_)));
    let id = InvestigatorId::new(1).unwrap();
    let disable = InvestigatorUpdate { status: Some(InvestigatorStatus::Disabled), ..InvestigatorUpdate::default() };
    engine.investigator_update(id, disable, &caller()).await.unwrap();
    assert!(matches!(ask(&engine, &token(&world, "6", 0)).await.unwrap_err(), TokenRefusal::Signature(_)));
}

#[tokio::test]
async fn an_api_key_is_shown_once_replaced_withdrawn_and_of_no_use_to_the_disabled() {
    let world = World::new().await;
    let engine = world.plain();
    people(&engine).await;
    let id = InvestigatorId::new(1).unwrap();
    let update = |api_key| InvestigatorUpdate { api_key: Some(api_key), ..InvestigatorUpdate::default() };
    let issue = async || engine.investigator_update(id, update(ApiKey::Issue), &caller()).await.unwrap().unwrap();
    let whose = async |key: &str| engine.investigator_by_api_key(key).await.unwrap().map(|row| row.id);
    let (old, key) = (issue().await, issue().await);
    assert_eq!((whose(&old).await, whose(&key).await, whose("").await), (None, Some(id), None));
    for (status, want) in [(InvestigatorStatus::Disabled, None), (InvestigatorStatus::Active, Some(id))] {
        let change = InvestigatorUpdate { status: Some(status), ..InvestigatorUpdate::default() };
        assert_eq!(engine.investigator_update(id, change, &caller()).await.unwrap(), None);
        assert_eq!(whose(&key).await, want);
    }
    assert_eq!(engine.investigator_update(id, update(ApiKey::Withdraw), &caller()).await.unwrap(), None);
    assert_eq!(whose(&key).await, None);
}
