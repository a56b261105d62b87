//! What this machine believes, while the agent runs: documents that come, files that are read anew, and what the server
//! is told of it.
//!
//! Stays true: whoever changes what is believed holds it from before reading until after writing. Not here: what makes a
//! document good (muster-trust), what is read and kept (believed).

use super::believed::{self, Believed};
use super::ledger::{self, OrderLedger};
use super::status::documents_path;
use super::{Actions, body, mail};
use crate::chain::Chain;
use crate::hub::{Delivery, Mail, any};
use muster_core::{Timestamp, limits, system};
use muster_modules::Effect;
use muster_proto::convert::time_to_wire;
use muster_proto::wire::actions as wire;
use muster_trust::RefusalCode;
use muster_trust::document::Kind;
use prost::Message as _;
use std::sync::{Arc, PoisonError};

impl Actions {
    /// Reads keys and weights again.
    pub(crate) async fn reload(self: &Arc<Self>, config: &crate::config::Config) {
        let (service, config) = (Arc::clone(self), config.clone());
        let read = tokio::task::spawn_blocking(move || {
            // Held while the files are read: a document that is taken meanwhile waits, and is not forgotten again.
            let mut believed = service.believed_mut();
            *believed = Believed::load_after(Some(&*believed), &config, &documents_path(&config));
            believed.log_problems();
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
        // A clock may stand behind: then the floor is nearer to the truth, and what expired before it stays expired.
        let floor = self.ledger().as_ref().map_or(Timestamp::EPOCH, |ledger| ledger.content().floor());
        let (service, now) = (Arc::clone(self), self.clock.now().max(floor));
        // Away from the agent's own thread, as orders are: anybody could have written it.
        let taken = tokio::task::spawn_blocking(move || service.believed_mut().take(&document.document, now)).await;
        let taken = taken.unwrap_or(Err(believed::NotTaken::Defect));
        let refusal = match taken {
            Ok(kind) => {
                tracing::info!(?kind, "a document of administrators is in force");
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

    /// Tells the server what this machine believes and can do.
    pub(crate) async fn tell_trust(&self) {
        let said = {
            let believed = self.believed.read().unwrap_or_else(PoisonError::into_inner);
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
                keyring_version: believed.version(Kind::Keyring),
                keyring,
                acl_version: believed.version(Kind::Acl),
                acl: believed.acl_text.clone().into(),
                modules: modules.collect(),
                time_floor: floor.map(time_to_wire),
                ledger_entries: entries,
                ledger_sha256: head.to_vec().into(),
                document_refusal: self.document_refusal.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            }
        };
        let data = Some(any("muster.actions.AgentTrust", &said));
        self.hub.send_or_count(Mail { data, ..mail(system::AGENT_TRUST) }).await;
    }
}
