//! What those may take out of mailboxes who only clear them.

use super::recalls::{cancelled, handed_out};
use crate::OperatorError;
use crate::access::{Caller, Permission, Permissions};
use crate::testing::{World, caller, machine};
use muster_core::system;

#[tokio::test]
async fn who_clears_mailboxes_keeps_no_order_and_no_cancellation_from_machines() {
    let world = World::new().await;
    let engine = world.plain();
    let id = handed_out(&engine, &world).await;
    let agent = machine(1).agent();
    cancelled(&world, &engine, id, 0, "").await;
    for (number, service) in [(1, system::SERVICE), (2, "other")] {
        let message = world.message_to(number, agent, service);
        engine.message_send(message, crate::MessageOrigin::Person, &caller()).await.unwrap();
    }
    let waiting = engine.store().message_pending(&[agent], 0, 0, false).await.unwrap();
    let of =
        |service: &str| waiting.iter().filter(|message| message.destination.service == service).collect::<Vec<_>>();
    assert_eq!((of(system::ACTIONS).len(), of(system::SERVICE).is_empty(), of("other").len()), (1, false, 1));
    let with = |more: &[Permission]| {
        let clears = Permissions::of(&[Permission::MessagesCancel]).union(Permissions::of(more));
        Caller::new("clears", clears, "")
    };
    for (service, needed) in [(system::ACTIONS, Permission::AgentsRekey), (system::SERVICE, Permission::ActionsCancel)]
    {
        let refused = engine.message_cancel(of(service)[0].id, &with(&[needed])).await.unwrap_err();
        assert!(matches!(refused, OperatorError::Denied(_)), "{service}: {refused}");
    }
    assert_eq!(engine.message_pending_delete(&[agent], &with(&[])).await.unwrap(), 1);
    let count = async || engine.store().message_pending_count(&[agent]).await.unwrap();
    let rest = u64::try_from(waiting.len()).unwrap() - 1;
    assert_eq!(count().await, rest, "they wait as before");
    assert!(engine.message_cancel(of(system::ACTIONS)[0].id, &with(&[Permission::ActionsCancel])).await.unwrap());
    assert_eq!(engine.message_pending_delete(&[agent], &with(&[Permission::AgentsRekey])).await.unwrap(), rest - 1);
    assert_eq!(count().await, 0);
}
