//! What this machine believes, while the agent runs: documents that come, files that are read anew, and what the server
//! is told of it.
//!
//! Stays true: whoever changes what is believed is the only one, from before reading until after writing; nobody else waits
//! for it, however long a document takes to verify. Not here: what makes a
//! document good (muster-trust), what is read and kept (believed).

use super::believed::{self, Believed, Taken};
use super::ledger::{self, OrderLedger};
use super::status::documents_path;
use super::{Actions, body, mail};
use crate::chain::Chain;
use crate::hub::{Delivery, Mail, any};
use muster_core::{Facts, Timestamp, limits, system};
use muster_modules::Effect;
use muster_proto::convert::time_to_wire;
use muster_proto::wire::actions as wire;
use muster_trust::RefusalCode;
use muster_trust::document::Kind;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, MutexGuard, PoisonError};

impl Actions {
    /// Reads keys and weights again.
    pub(crate) async fn reload(self: &Arc<Self>, config: &crate::config::Config) {
        let (service, config) = (Arc::clone(self), config.clone());
        let read = tokio::task::spawn_blocking(move || {
            // A document that is taken meanwhile waits, and is not forgotten again.
            let _only = service.changing();
            let believed = Believed::load_after(Some(&*service.believed()), &config, &documents_path(&config));
            believed.log_problems();
            service.believe(believed);
        });
        if read.await.is_err() {
            tracing::error!(
                "reading keys and weights hit a defect of this program; what was read before stays in force"
            );
        }
        self.tell_trust().await;
    }

    pub(super) async fn take_document(self: &Arc<Self>, delivery: Delivery) {
        let Ok(document) = wire::TrustDocument::decode(&body(&delivery)[..]) else {
            return delivery.fail("the body is no TrustDocument").await;
        };
        let (service, facts) = (Arc::clone(self), self.facts().await);
        // Away from the agent's own thread, as orders are: anybody could have written it.
        let taken = tokio::task::spawn_blocking(move || service.take_here(&document.document, &facts)).await;
        let taken = taken.unwrap_or(Err(believed::NotTaken::Defect));
        let refusal = match taken {
            Ok(Taken { kind, .. }) => {
                tracing::info!(kind = kind.as_str(), "a document of administrators is in force");
                None
            }
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "a document of trust is refused");
                let reason = muster_core::text::cut(&error.to_string(), limits::FAILED_REASON_CHARS_MAX);
                Some(wire::Refusal { code: RefusalCode::Document.as_str().into(), reason })
            }
        };
        self.document_refusal.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&refusal);
        self.tell_trust().await;
        match refusal {
            None => delivery.done(),
            Some(refusal) => delivery.fail(&refusal.reason).await,
        }
    }

    /// Takes a document: verified on a copy, so that neither orders nor the agent's own thread wait for it.
    pub(super) fn take_here(&self, json: &[u8], facts: &Facts) -> Result<Taken, believed::NotTaken> {
        let _only = self.changing();
        let (clock, floor) = (self.clock.now(), self.floor());
        let mut believed = Believed::clone(&self.believed());
        let taken = believed.take(json, &|target| self.matches(target, facts, clock.max(floor)), (clock, floor))?;
        self.believe(believed);
        if taken.kind == Kind::Clock && taken.is_new {
            tracing::warn!(%clock, %floor, "administrators say that the clock is right: later times are forgotten");
            self.with_ledger(|ledger| ledger.reset_clock(clock));
        } else {
            self.with_ledger(|ledger| ledger.raise_floor(taken.floor));
        }
        Ok(taken)
    }

    /// Returns the time before which no clock is believed.
    pub(super) fn floor(&self) -> Timestamp {
        self.ledger().as_ref().map_or(Timestamp::EPOCH, |ledger| ledger.content().floor())
    }

    /// Writes something into the ledger that is worth a line in the log, and no more, when it fails.
    pub(super) fn with_ledger(&self, write: impl FnOnce(&mut OrderLedger) -> std::io::Result<()>) {
        if let Some(Err(error)) = self.ledger().as_mut().map(write) {
            tracing::error!(%error, "cannot write the ledger of orders");
        }
    }

    /// Keeps what is known of the time: what a certificate vouches for, and the clock of this machine while there is reason
    /// to believe it.
    pub(super) fn keep_time(&self) {
        let Some(known) = self.vouched.known(self.clock.now()) else { return };
        let content = |ledger: &OrderLedger| (ledger.content().was_in_contact(), ledger.content().floor());
        let Some((was_in_contact, floor)) = self.ledger().as_ref().map(content) else { return };
        if !was_in_contact {
            // Not the present moment: what was signed since a server was reached, and came only now, is not of before.
            self.with_ledger(|ledger| ledger.first_contact(known.reached));
        }
        let past = known.clock.max(known.certified);
        // Not at every turn: the disk need not know the minute.
        if past > floor.plus(limits::TIME_FLOOR_SLACK) {
            self.with_ledger(|ledger| ledger.raise_floor(past));
        }
    }

    /// Waits until nobody else changes what is believed.
    pub(super) fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is believed now.
    pub(super) fn believed(&self) -> Arc<Believed> {
        Arc::clone(&self.believed.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn believe(&self, believed: Believed) {
        self.revocations.replace(Arc::clone(&believed.revocations));
        *self.believed.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(believed);
    }

    /// Tells the server what this machine believes and can do.
    pub(crate) async fn tell_trust(&self) {
        let said = {
            let believed = self.believed();
            let mut keyring: Vec<String> =
                believed.keyring.certificates().iter().map(|key| key.fingerprint().to_string()).collect();
            keyring.sort();
            let catalogue = self.runner.catalogue();
            let modules = catalogue.names().into_iter().filter_map(|name| catalogue.facts(name));
            let modules = modules.map(|facts| wire::Module {
                name: facts.name.to_owned(),
                weight_min: facts.weight_min,
                changes: facts.effect == Effect::Changes,
            });
            let ledger = self.ledger();
            let content = ledger.as_ref().map(OrderLedger::content);
            let (entries, head) = content.map_or((0, [0; 32]), ledger::Content::head);
            let floor = content.map(ledger::Content::floor).filter(|floor| *floor > Timestamp::EPOCH);
            wire::AgentTrust {
                keyring_version: believed.keyring_version(),
                keyring,
                acl_version: believed.acl_version(),
                acl: reported(&believed.acl_text).into(),
                acl_bytes: believed.acl_text.len() as u64,
                acl_sha256: Sha256::digest(&believed.acl_text).to_vec().into(),
                keyring_keys: u32::try_from(believed.keyring.certificates().len()).unwrap_or(u32::MAX),
                modules: modules.collect(),
                time_floor: floor.map(time_to_wire),
                ledger_entries: entries,
                ledger_sha256: head.to_vec().into(),
                document_refusal: self.document_refusal.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                revocations: Some(in_force(&believed)),
            }
        };
        let data = Some(any("muster.actions.AgentTrust", &said));
        self.hub.send_or_count(Mail { data, ..mail(system::AGENT_TRUST) }).await;
    }
}

/// Returns the document of revocations in force as it is reported: its version, and how much it revokes.
fn in_force(believed: &Believed) -> wire::RevocationsInForce {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    wire::RevocationsInForce {
        version: believed.revocations_version(),
        serials: count(believed.revocations.serials().count()),
        fingerprints: count(believed.revocations.fingerprints().count()),
    }
}

/// Returns the weights as they are reported: whole, or not at all where they are longer than a message has room for.
fn reported(acl: &str) -> Vec<u8> {
    if acl.len() > limits::TRUST_REPORT_ACL_BYTES_MAX { Vec::new() } else { acl.into() }
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
