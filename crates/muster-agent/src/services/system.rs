//! The `system` service: orders of the server to the agent itself.

use super::Services;
use crate::hub::Delivery;
use crate::keys::Identity;
use crate::requests::{Decided, Request, RequestBook};
use muster_core::system;
use muster_proto::wire;
use prost::Message as _;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// What the server wants of the agent. Whoever carries it out settles the message.
#[derive(Debug)]
pub(crate) enum Order {
    /// End the program.
    Die {
        /// At once, without an orderly stop.
        force: bool,
    },
    /// Stop and start a service, if there is one of this name and the server may.
    Restart {
        /// Its name.
        name: String,
        /// Where the answer goes: why it was not done.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Make a new key.
    Rekey(Box<Delivery>),
}

/// Takes orders until the agent ends.
pub(super) async fn run(
    mut inbox: mpsc::Receiver<Delivery>,
    orders: mpsc::Sender<Order>,
    (requests, identity): (Arc<RequestBook>, watch::Receiver<Arc<Identity>>),
) {
    while let Some(delivery) = inbox.recv().await {
        take(delivery, &orders, &requests, &identity).await;
    }
}

async fn take(
    delivery: Delivery,
    orders: &mpsc::Sender<Order>,
    requests: &RequestBook,
    identity: &watch::Receiver<Arc<Identity>>,
) {
    let body = delivery.message.data.as_ref().map_or(&[][..], |data| &data.value).to_vec();
    match delivery.message.message_type.as_str() {
        system::DIE => {
            let force = wire::DieRequest::decode(&body[..]).is_ok_and(|request| request.force);
            if let Err(reason) = requests.decide(&Request::Die) {
                return delivery.fail(&reason).await;
            }
            // Never acknowledged: the server takes it for done when it is handed out.
            delivery.done_silently();
            let _ = orders.send(Order::Die { force }).await;
        }
        system::REKEY_REQUEST => {
            let demand = delivery.message.message_id.to_vec();
            let from = identity.borrow().id;
            match requests.decide(&Request::Rekey { demand, from }) {
                Ok(Decided::Do) => _ = orders.send(Order::Rekey(Box::new(delivery))).await,
                Ok(Decided::DoneBefore) => delivery.done(),
                Err(reason) => delivery.fail(&reason).await,
            }
        }
        system::RESTART_SERVICE => {
            let name = wire::RestartServiceRequest::decode(&body[..]).map(|request| request.name);
            let Ok(name) = name else { return delivery.fail("the body is no RestartServiceRequest").await };
            let (answer, answered) = oneshot::channel();
            let _ = orders.send(Order::Restart { name, answer }).await;
            match answered.await.unwrap_or_else(|_| Err("the agent ends".to_owned())) {
                Ok(()) => delivery.done(),
                Err(reason) => delivery.fail(&reason).await,
            }
        }
        other => {
            let reason = format!("the agent knows no system message {other:?}");
            delivery.fail(&reason).await;
        }
    }
}

/// Stops and starts a service, if there is one of this name that was not built in and the server may. It does not hold up
/// other orders.
pub(crate) fn restart_asked(
    services: &Arc<Services>,
    requests: &RequestBook,
    name: String,
    answer: oneshot::Sender<Result<(), String>>,
) {
    let missing = format!("there is no service {name:?} on this machine that can be restarted");
    let decided =
        if services.has(&name) { requests.decide(&Request::Restart(name.clone())) } else { Err(missing.clone()) };
    if let Err(reason) = decided {
        // Whoever asked may be gone.
        _ = answer.send(Err(reason));
        return;
    }
    let services = Arc::clone(services);
    tokio::spawn(async move { answer.send(if services.restart(&name).await { Ok(()) } else { Err(missing) }) });
}
