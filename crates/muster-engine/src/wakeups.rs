//! Wake-ups: telling other servers that something is due for agents whose streams they hold.
//!
//! Stays true: a wake-up is a hint and may be lost, because every server looks for itself every few seconds; a server
//! that does not answer holds up nobody but its own wake-ups; what waits for one server is bounded; who lacks the
//! cluster's secret wakes nobody, and a wake-up that was overheard wakes nobody again, here or elsewhere.

use crate::engine::{Inner, LOCAL, lock};
use crate::{WakeRefusal, WakeUp};
use hmac::{Hmac, KeyInit, Mac};
use metrics::counter;
use muster_core::{AgentId, Timestamp, limits};
use muster_store::StoreError;
use sha2::Sha256;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, OnceCell};
use tokio::time::timeout;

/// The setting that holds the secret with which servers tell each other apart from strangers.
const SECRET: &str = "cluster.wake_secret";

/// Wake-ups on their way.
#[derive(Debug, Default)]
pub(crate) struct Wakeups {
    waiting: Mutex<HashMap<String, Waiting>>,
    added: Notify,
    secret: OnceCell<Vec<u8>>,
    believed: Mutex<Believed>,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: BTreeSet<AgentId>,
    labels: BTreeSet<AgentId>,
    broadcasts: bool,
    /// Whether a call to this server is under way; what is added meanwhile goes with the next one.
    calling: bool,
}

impl Waiting {
    fn is_some(&self) -> bool {
        self.broadcasts || !self.messages.is_empty() || !self.labels.is_empty()
    }

    /// Takes what waits, for a call that is under way from now on.
    fn take(&mut self) -> Vec<WakeUp> {
        let taken = std::mem::replace(self, Self { calling: true, ..Self::default() });
        let list = |agents: BTreeSet<AgentId>| agents.into_iter().collect();
        let mut calls = Vec::new();
        if !taken.messages.is_empty() {
            calls.push(WakeUp::Messages(list(taken.messages)));
        }
        if !taken.labels.is_empty() {
            calls.push(WakeUp::Labels(list(taken.labels)));
        }
        if taken.broadcasts {
            calls.push(WakeUp::Broadcasts);
        }
        calls
    }
}

/// Wake-ups that were believed lately, so that none is believed twice.
#[derive(Debug)]
struct Believed {
    known: BTreeSet<(Timestamp, [u8; 32])>,
    /// Nothing that was sent then or before is believed any more.
    floor: Timestamp,
}

impl Default for Believed {
    fn default() -> Self {
        Self { known: BTreeSet::new(), floor: Timestamp::from_nanos(i64::MIN) }
    }
}

impl Believed {
    fn take(&mut self, sent: Timestamp, authenticator: [u8; 32], now: Timestamp) -> Result<(), WakeRefusal> {
        if now.since(sent).max(sent.since(now)) > limits::WAKE_AGE_MAX {
            return Err(WakeRefusal::Old);
        }
        // What is older is refused for its age.
        self.known = self.known.split_off(&(now.minus(limits::WAKE_AGE_MAX), [0; 32]));
        if sent <= self.floor || !self.known.insert((sent, authenticator)) {
            return Err(WakeRefusal::Replayed);
        }
        if self.known.len() > limits::WAKES_REMEMBERED
            && let Some((oldest, _)) = self.known.pop_first()
        {
            self.floor = oldest;
        }
        Ok(())
    }
}

impl Wakeups {
    /// Notes that something is due for an agent whose stream the server at `url` holds.
    pub(crate) fn add(&self, url: &str, agent: AgentId) {
        self.note(url, agent, |there| &mut there.messages);
    }

    /// Notes that the labels of an agent changed whose stream the server at `url` holds.
    pub(crate) fn add_labels(&self, url: &str, agent: AgentId) {
        self.note(url, agent, |there| &mut there.labels);
    }

    fn note(&self, url: &str, agent: AgentId, list: impl Fn(&mut Waiting) -> &mut BTreeSet<AgentId>) {
        let mut waiting = lock(&self.waiting);
        let agents = list(waiting.entry(url.to_owned()).or_default());
        if agents.len() < limits::WAKE_AGENTS_MAX {
            agents.insert(agent);
        } else {
            counter!("muster_engine_wakeups_total", "way" => "dropped").increment(1);
        }
        drop(waiting);
        self.added.notify_one();
    }

    /// Notes that broadcasts have changed, for the server at `url`.
    pub(crate) fn add_broadcasts(&self, url: &str) {
        lock(&self.waiting).entry(url.to_owned()).or_default().broadcasts = true;
        self.added.notify_one();
    }

    /// Takes what waits for servers that no call is under way to.
    fn take(&self) -> Vec<(String, Vec<WakeUp>)> {
        let mut waiting = lock(&self.waiting);
        waiting.retain(|_, there| there.calling || there.is_some());
        let ready = waiting.iter_mut().filter(|(_, there)| !there.calling);
        ready.map(|(url, there)| (url.clone(), there.take())).collect()
    }

    fn called(&self, url: &str) {
        if let Some(there) = lock(&self.waiting).get_mut(url) {
            there.calling = false;
        }
        self.added.notify_one();
    }
}

impl Inner {
    /// Calls other servers, at their own pace, until it is dropped.
    pub(crate) async fn wakeups_send(self: &Arc<Self>) {
        loop {
            self.wakeups.added.notified().await;
            for (url, calls) in self.wakeups.take() {
                let inner = Arc::clone(self);
                self.tasks.spawn(async move {
                    inner.server_wake(&url, &calls).await;
                    inner.wakeups.called(&url);
                });
            }
        }
    }

    async fn server_wake(&self, url: &str, calls: &[WakeUp]) {
        let call = async {
            for what in calls {
                self.outside.waker.wake(url, what).await;
            }
        };
        let way = if timeout(limits::WAKE_CALL_MAX, call).await.is_ok() { "sent" } else { "timed_out" };
        counter!("muster_engine_wakeups_total", "way" => way).increment(1);
    }

    /// Tells every other living server that broadcasts have changed.
    pub(crate) fn broadcasts_tell(&self) {
        for server in self.broadcasts.servers() {
            if server.id != self.server && server.wake_url != LOCAL && !server.wake_url.is_empty() {
                self.wakeups.add_broadcasts(&server.wake_url);
            }
        }
    }

    async fn secret(&self) -> Result<&Vec<u8>, StoreError> {
        let init = || async {
            let mine: [u8; 32] = self.random();
            self.store.setting_init(SECRET, mine.to_vec()).await
        };
        self.wakeups.secret.get_or_try_init(init).await.inspect_err(|failure| self.saw(failure))
    }

    async fn mac(&self, url: &str, body: &[u8]) -> Result<Hmac<Sha256>, StoreError> {
        let mac = Hmac::<Sha256>::new_from_slice(self.secret().await?).expect("HMAC takes keys of any length");
        Ok(mac.chain_update(url).chain_update([0]).chain_update(body))
    }

    pub(crate) async fn wake_believe(
        &self,
        sent: Timestamp,
        body: &[u8],
        authenticator: &[u8],
    ) -> Result<(), WakeRefusal> {
        // Without the database nothing can be told apart, nor handed out.
        let mac = self.mac(&self.streaming_to, body).await.map_err(|_| WakeRefusal::Stranger)?;
        mac.verify_slice(authenticator).map_err(|_| WakeRefusal::Stranger)?;
        let whole = authenticator.try_into().map_err(|_| WakeRefusal::Stranger)?;
        lock(&self.wakeups.believed).take(sent, whole, self.now())
    }

    pub(crate) async fn wake_authenticator(&self, url: &str, body: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(self.mac(url, body).await?.finalize().into_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_wake_up_is_believed_once_and_only_while_it_is_young() {
        let now = Timestamp::from_secs(1_000_000);
        let mut believed = Believed::default();
        assert_eq!(believed.take(now, [1; 32], now), Ok(()));
        assert_eq!(believed.take(now, [2; 32], now), Ok(()));
        let later = now.plus(limits::WAKE_AGE_MAX);
        for (sent, at) in [(now, now), (now, later)] {
            assert_eq!(believed.take(sent, [1; 32], at), Err(WakeRefusal::Replayed));
        }
        for at in [later.plus(Duration::from_nanos(1)), now.minus(limits::WAKE_AGE_MAX * 2)] {
            assert_eq!(believed.take(now, [1; 32], at), Err(WakeRefusal::Old));
        }
    }

    #[test]
    fn what_is_forgotten_for_want_of_room_is_not_believed_again() {
        let now = Timestamp::from_secs(1_000_000);
        let at = |n: usize| now.plus(Duration::from_nanos(n as u64));
        let mut believed = Believed::default();
        for n in 0..=limits::WAKES_REMEMBERED {
            believed.take(at(n), [0; 32], now).unwrap();
        }
        assert_eq!(believed.known.len(), limits::WAKES_REMEMBERED);
        assert_eq!(believed.take(at(0), [0; 32], now), Err(WakeRefusal::Replayed));
        assert_eq!(believed.take(at(limits::WAKES_REMEMBERED + 1), [0; 32], now), Ok(()));
    }
}
