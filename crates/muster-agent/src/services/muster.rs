//! The `muster` service: facts of this machine, and echo.

use crate::chain::Chain;
use crate::facts::{self, Observer};
use crate::hub::{Delivery, Hub, Mail, any};
use muster_core::{Facts, Priority, limits, system};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, mpsc};

/// Echoes answered at once: each holds its body twice.
const ECHOES_MAX: usize = 16;

/// Looks at the machine and tells the server what it is.
#[derive(Debug)]
pub(crate) struct FactsTeller {
    hub: Arc<Hub>,
    observer: Observer,
    told: Mutex<Option<Facts>>,
}

/// When facts are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tell {
    /// Whatever they are.
    Always,
    /// When one that counts is not as it was told last.
    WhenChanged,
}

impl FactsTeller {
    /// Puts one together.
    pub(crate) fn new(hub: Arc<Hub>, observer: Observer) -> Self {
        Self { hub, observer, told: Mutex::default() }
    }

    /// Looks at the machine and tells the server.
    pub(crate) async fn tell(&self, when: Tell) {
        let observer = self.observer.clone();
        // Looking reads files, which may take a while on a busy disk.
        let Ok(mut facts) = tokio::task::spawn_blocking(move || observer.observe()).await else { return };
        let counts = self.hub.outbox().counts();
        facts.insert(facts::SPOOL_DROPPED.into(), counts.dropped.into());
        facts.insert(facts::SPOOL_DAMAGED.into(), counts.damaged.into());
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let same = told.as_ref().is_some_and(|told| facts::same(told, &facts));
            if when == Tell::WhenChanged && same {
                return;
            }
            *told = Some(facts.clone());
        }
        let json = serde_json::to_vec(&facts).expect("facts are JSON");
        if json.len() > limits::FACTS_BYTES_MAX {
            tracing::error!(bytes = json.len(), "the facts of this machine are too large to be told");
            return;
        }
        self.hub.send_or_count(mail(system::FACTS, Some(bytes_value(&json)))).await;
    }
}

fn mail(message_type: &str, data: Option<prost_types::Any>) -> Mail {
    Mail {
        from: system::MUSTER.into(),
        to: system::MUSTER.into(),
        message_type: message_type.into(),
        data,
        ..Mail::default()
    }
}

fn bytes_value(value: &Vec<u8>) -> prost_types::Any {
    any("google.protobuf.BytesValue", value)
}

/// Takes messages until the agent ends.
pub(super) async fn run(mut inbox: mpsc::Receiver<Delivery>, hub: Arc<Hub>, facts: Arc<FactsTeller>) {
    let places = Arc::new(Semaphore::new(ECHOES_MAX));
    while let Some(delivery) = inbox.recv().await {
        match delivery.message.message_type.as_str() {
            system::ECHO => {
                let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
                let hub = Arc::clone(&hub);
                // Each waits for the disk by itself, so that many share one wait.
                tokio::spawn(async move {
                    echo(delivery, &hub).await;
                    drop(place);
                });
            }
            system::FACTS_REQUEST => {
                facts.tell(Tell::Always).await;
                delivery.done();
            }
            other => {
                let reason = format!("the muster service knows no message {other:?}");
                delivery.fail(&reason).await;
            }
        }
    }
}

async fn echo(delivery: Delivery, hub: &Hub) {
    let message = &delivery.message;
    // The answer's name follows from the question's, so that a question that is answered twice has one answer.
    let id = message.message_id.get(..16).and_then(|head| head.try_into().ok());
    let mail = Mail {
        id,
        // However much the server hurries, its echo takes no room from what the agent itself has to say.
        priority: match Priority::from_number(message.priority) {
            Priority::High => Priority::Medium,
            other => other,
        },
        annotations: vec![("in_reply_to".into(), hex::encode(&message.message_id))],
        ..mail(system::ECHO_REPLY, message.data.clone())
    };
    match hub.send(mail, crate::outbox::Durability::Disk).await {
        Ok(_) => delivery.done(),
        Err(error) => {
            let reason = format!("the answer could not be kept: {}", Chain(&error));
            delivery.fail(&reason).await;
        }
    }
}
