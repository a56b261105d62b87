//! Condition: how each service of the server takes what it is given, and what follows when it does so again.
//!
//! Stays true: a service that does not take messages has a line in the log and a state that people can ask for; as soon as
//! a call succeeds again, what waits is due at once; while none is made, one of the messages that wait is tried every few
//! seconds.

use crate::dispatch::{Queue, ServiceError};
use crate::engine::{Chain, Engine, Inner, lock};
use metrics::{counter, gauge};
use muster_core::{Message, Timestamp, limits};
use muster_store::StoreError;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// How a service takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Its last call succeeded, or there was none.
    Ok,
    /// It answers, or its address does, and does not take messages now.
    Refusing,
    /// It does not answer in time.
    Hanging,
}

impl Condition {
    /// The word for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refusing => "refusing",
            Self::Hanging => "hanging",
        }
    }
}

/// How a service stands, as this server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceState {
    /// The service.
    pub service: String,
    /// How it takes messages.
    pub condition: Condition,
    /// Since when it does not; `None` while it does.
    pub since: Option<Timestamp>,
    /// What its last failed call said, while it does not.
    pub reason: Option<String>,
}

/// What a queue knows of its service.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Whether a call has succeeded since this server runs: what an earlier run left behind waits until then.
    proven: bool,
    away: Option<Away>,
}

#[derive(Debug, Clone)]
struct Away {
    condition: Condition,
    since: Timestamp,
    reason: String,
}

/// How a call ended, seen from whether its service can be reached at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// As before.
    None,
    /// It does not take messages.
    Away(Condition),
    /// It takes messages, as nobody knew before, or as it did not for so long.
    Back(Option<Duration>),
}

impl Watch {
    fn note(&mut self, result: &Result<(), ServiceError>, took: Duration, now: Timestamp) -> Change {
        let Err(ServiceError::Passing(reason)) = result else {
            // A service that refuses one message for good can be reached.
            let away = self.away.take();
            let is_news = !std::mem::replace(&mut self.proven, true);
            return match away {
                Some(away) => Change::Back(Some(now.since(away.since))),
                None if is_news => Change::Back(None),
                None => Change::None,
            };
        };
        // A call ends a little before its limit, when its service can say so itself.
        let is_slow = took >= limits::SERVICE_CALL_MAX / 10 * 9;
        let condition = if is_slow { Condition::Hanging } else { Condition::Refusing };
        let since = self.away.as_ref().map_or(now, |away| away.since);
        self.away = Some(Away { condition, since, reason: reason.clone() });
        Change::Away(condition)
    }

    pub(crate) fn is_away(&self) -> bool {
        self.away.is_some()
    }

    fn state(&self, service: &str) -> ServiceState {
        let away = self.away.as_ref();
        ServiceState {
            service: service.to_owned(),
            condition: away.map_or(Condition::Ok, |away| away.condition),
            since: away.map(|away| away.since),
            reason: away.map(|away| away.reason.clone()),
        }
    }
}

impl Inner {
    /// Takes note of how a call ended: in the log, in the state that people see, and for what waits.
    pub(crate) fn service_note(
        self: &Arc<Self>,
        queue: &Queue,
        message: &Message,
        result: &Result<(), ServiceError>,
        took: Duration,
    ) {
        let service = queue.name.as_str();
        let change = lock(&queue.watch).note(result, took, self.now());
        if let Err(ServiceError::Permanent(reason)) = result
            && let Some(more) = self.dispatch.line(service, "refused")
        {
            warn!(
                service, message.id = %message.id, more,
                "service {service} refused message {} for good, it is lost to it: {reason}", message.id
            );
        }
        match (change, result) {
            (Change::Away(condition), Err(reason)) => {
                gauge!("muster_engine_service_away", "service" => service.to_owned()).set(1.0);
                if let Some(more) = self.dispatch.line(service, condition.word()) {
                    let (word, waiting) = (condition.word(), queue.waiting());
                    warn!(
                        service,
                        condition = word,
                        waiting,
                        more,
                        "service {service} is {word}, its messages wait and are tried again: {reason}"
                    );
                }
            }
            (Change::Back(away), _) => {
                gauge!("muster_engine_service_away", "service" => service.to_owned()).set(0.0);
                if let Some(away) = away {
                    let seconds = away.as_secs();
                    info!(service, seconds, "service {service} takes messages again, after {seconds} s");
                }
                let (inner, service) = (Arc::clone(self), service.to_owned());
                self.tasks.spawn(async move { inner.service_wake(&service).await });
            }
            _ => {}
        }
    }

    /// Makes due what waits for a service since it did not take it.
    async fn service_wake(&self, service: &str) {
        loop {
            match self.store.message_service_wake(service, limits::BATCH_ROWS, self.now()).await {
                Ok(woken) => {
                    counter!("muster_engine_service_woken_total", "service" => service.to_owned()).increment(woken);
                    if woken < u64::from(limits::BATCH_ROWS) || self.stopping.is_cancelled() {
                        return;
                    }
                }
                Err(failure) => {
                    self.saw(&failure);
                    return warn!(error = %Chain(&failure), service, "could not wake what waits for a service, it falls due later");
                }
            }
        }
    }

    /// Tries services that do not take messages with one of those that wait, so that their return is noticed soon.
    pub(crate) async fn services_try(&self) -> Result<(), StoreError> {
        for service in self.dispatch.away_and_idle() {
            self.store.message_service_wake(&service, 1, self.now()).await?;
        }
        Ok(())
    }

    /// How the services outside of the engine stand, as this server sees them, by name.
    pub(crate) fn service_states(&self) -> Vec<ServiceState> {
        let mut states: Vec<_> = self.dispatch.queues().map(|queue| lock(&queue.watch).state(&queue.name)).collect();
        states.sort_by(|one, other| one.service.cmp(&other.service));
        states
    }
}

impl Engine {
    /// How the services outside of the engine take messages, as this server sees them, by name.
    pub fn service_states(&self) -> Vec<ServiceState> {
        self.inner.service_states()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_away_until_a_call_reaches_it() {
        let (mut watch, at) = (Watch::default(), Timestamp::from_secs);
        let (soon, late) = (Duration::from_secs(1), limits::SERVICE_CALL_MAX);
        let passing = || Err(ServiceError::Passing("no".into()));
        assert_eq!(watch.note(&passing(), soon, at(1)), Change::Away(Condition::Refusing));
        assert_eq!(watch.note(&passing(), late, at(2)), Change::Away(Condition::Hanging));
        let state = watch.state("s");
        assert_eq!(
            (state.condition, state.since, state.reason.as_deref()),
            (Condition::Hanging, Some(at(1)), Some("no"))
        );
        assert_eq!(watch.note(&Ok(()), soon, at(11)), Change::Back(Some(Duration::from_secs(10))));
        assert_eq!(watch.state("s").condition, Condition::Ok);
        assert_eq!(watch.note(&Ok(()), soon, at(12)), Change::None);
        assert_eq!(watch.note(&passing(), soon, at(13)), Change::Away(Condition::Refusing));
        let permanent = Err(ServiceError::Permanent("bad".into()));
        assert_eq!(watch.note(&permanent, soon, at(14)), Change::Back(Some(Duration::from_secs(1))));
    }

    #[test]
    fn the_first_call_of_a_run_that_succeeds_wakes_what_an_earlier_run_left() {
        let mut watch = Watch::default();
        assert_eq!(watch.note(&Ok(()), Duration::ZERO, Timestamp::EPOCH), Change::Back(None));
        assert_eq!(watch.note(&Ok(()), Duration::ZERO, Timestamp::EPOCH), Change::None);
    }
}
