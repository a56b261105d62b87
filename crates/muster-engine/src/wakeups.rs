//! Wake-ups: telling other servers that something is due for agents whose streams they hold.
//!
//! Stays true: a wake-up is a hint and may be lost, because every server looks for itself every few seconds; a server
//! that does not answer holds up nobody but its own wake-ups; what waits for one server is bounded.

use crate::engine::{Inner, LOCAL, lock};
use hmac::{Hmac, KeyInit, Mac};
use metrics::counter;
use muster_core::{AgentId, limits};
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
}

#[derive(Debug, Default)]
struct Waiting {
    agents: BTreeSet<AgentId>,
    broadcasts: bool,
    /// Whether a call to this server is under way; what is added meanwhile goes with the next one.
    calling: bool,
}

impl Wakeups {
    /// Notes that something is due for an agent whose stream the server at `url` holds.
    pub(crate) fn add(&self, url: &str, agent: AgentId) {
        let mut waiting = lock(&self.waiting);
        let there = waiting.entry(url.to_owned()).or_default();
        if there.agents.len() < limits::WAKE_AGENTS_MAX {
            there.agents.insert(agent);
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
    fn take(&self) -> Vec<(String, Vec<AgentId>, bool)> {
        let mut waiting = lock(&self.waiting);
        waiting.retain(|_, there| there.calling || there.broadcasts || !there.agents.is_empty());
        let ready = waiting.iter_mut().filter(|(_, there)| !there.calling);
        ready
            .map(|(url, there)| {
                there.calling = true;
                let agents = std::mem::take(&mut there.agents).into_iter().collect();
                (url.clone(), agents, std::mem::take(&mut there.broadcasts))
            })
            .collect()
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
            for (url, agents, broadcasts) in self.wakeups.take() {
                let inner = Arc::clone(self);
                self.tasks.spawn(async move {
                    inner.server_wake(&url, &agents, broadcasts).await;
                    inner.wakeups.called(&url);
                });
            }
        }
    }

    async fn server_wake(&self, url: &str, agents: &[AgentId], broadcasts: bool) {
        let call = async {
            if !agents.is_empty() {
                self.outside.waker.wake(url, agents).await;
            }
            if broadcasts {
                self.outside.waker.wake(url, &[]).await;
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

    async fn mac(&self, body: &[u8]) -> Result<Hmac<Sha256>, StoreError> {
        let mac = Hmac::<Sha256>::new_from_slice(self.secret().await?).expect("HMAC takes keys of any length");
        Ok(mac.chain_update(body))
    }

    pub(crate) async fn wake_authentic(&self, body: &[u8], authenticator: &[u8]) -> bool {
        match self.mac(body).await {
            Ok(mac) => mac.verify_slice(authenticator).is_ok(),
            Err(_) => false,
        }
    }

    pub(crate) async fn wake_authenticator(&self, body: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(self.mac(body).await?.finalize().into_bytes().to_vec())
    }
}
