//! The `system` service: orders of the server to the agent itself.

use crate::hub::Delivery;
use muster_core::system;
use muster_proto::wire;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

/// What the server wants of the agent. Whoever carries it out settles the message.
#[derive(Debug)]
pub(crate) enum Order {
    /// End the program.
    Die {
        /// At once, without an orderly stop.
        force: bool,
    },
    /// Stop and start a service; the answer tells whether there is one of this name.
    Restart {
        /// Its name.
        name: String,
        /// Where the answer goes.
        answer: oneshot::Sender<bool>,
    },
    /// Make a new key.
    Rekey(Box<Delivery>),
}

/// Takes orders until the agent ends.
pub(super) async fn run(mut inbox: mpsc::Receiver<Delivery>, orders: mpsc::Sender<Order>) {
    while let Some(delivery) = inbox.recv().await {
        take(delivery, &orders).await;
    }
}

async fn take(delivery: Delivery, orders: &mpsc::Sender<Order>) {
    let body = delivery.message.data.as_ref().map_or(&[][..], |data| &data.value).to_vec();
    match delivery.message.message_type.as_str() {
        system::DIE => {
            let force = wire::DieRequest::decode(&body[..]).is_ok_and(|request| request.force);
            // Never acknowledged: the server takes it for done when it is handed out.
            delivery.done_silently();
            let _ = orders.send(Order::Die { force }).await;
        }
        system::REKEY_REQUEST => {
            let _ = orders.send(Order::Rekey(Box::new(delivery))).await;
        }
        system::RESTART_SERVICE => {
            let name = wire::RestartServiceRequest::decode(&body[..]).map(|request| request.name);
            let Ok(name) = name else { return delivery.fail("the body is no RestartServiceRequest").await };
            let (answer, answered) = oneshot::channel();
            let _ = orders.send(Order::Restart { name: name.clone(), answer }).await;
            match answered.await {
                Ok(true) => delivery.done(),
                _ => {
                    delivery.fail(&format!("there is no service {name:?} on this machine that can be restarted")).await;
                }
            }
        }
        other => {
            let reason = format!("the agent knows no system message {other:?}");
            delivery.fail(&reason).await;
        }
    }
}
