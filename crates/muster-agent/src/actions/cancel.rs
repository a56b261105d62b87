//! Cancellations that come: what was signed by somebody who may keeps an order from beginning, or ends it.
//!
//! Stays true: a server's word alone does nothing here, whatever number it names, nor does a key without weight on this
//! machine; a cancellation is on the disk before it is acknowledged. Not here: how cancellations are remembered (recalls), what is signed (muster-trust).

use super::objections::who;
use super::recalls::Canceller;
use super::{Actions, body};
use crate::hub::Delivery;
use muster_core::action::Fingerprint;
use muster_core::{Timestamp, limits};
use muster_proto::wire::actions as wire;
use muster_trust::Cancellation;
use muster_trust::ledger::keep_until;
use prost::Message as _;
use std::sync::Arc;

impl Actions {
    pub(super) async fn take_cancel(self: &Arc<Self>, delivery: Delivery) {
        let Ok(cancel) = wire::ActionCancel::decode(&body(&delivery)[..]) else {
            return delivery.fail("the body is no ActionCancel").await;
        };
        let (service, action_id) = (Arc::clone(self), cancel.action_id);
        // Away from the agent's own thread: anybody could have written it.
        let taken = tokio::task::spawn_blocking(move || service.cancel_here(&cancel)).await;
        match taken {
            Ok(Ok(())) => {
                tracing::info!(action.id = action_id, "an order is called back");
                delivery.done();
            }
            Ok(Err(NotCancelled::Refused(why))) => {
                tracing::warn!(action.id = action_id, why, "a cancellation is refused");
                delivery.fail(&why).await;
            }
            Ok(Err(NotCancelled::Disk(error))) => {
                tracing::error!(%error, "cannot write the ledger of orders; the server will cancel again");
            }
            Err(_) => delivery.fail("looking at the cancellation hit a defect of this program").await,
        }
    }

    fn cancel_here(&self, cancel: &wire::ActionCancel) -> Result<(), NotCancelled> {
        let refuse = |why: &str| Err(NotCancelled::Refused(why.to_owned()));
        let Ok(key) = <[u8; 32]>::try_from(&cancel.signed_sha256[..]) else {
            return refuse("the cancellation does not name an order by the SHA-256 of what was signed");
        };
        if cancel.signature.is_empty() {
            return refuse(
                "nobody signed the cancellation: a machine does not call back on a server's word what people signed; \
                 `muster action cancel` signs one",
            );
        }
        if !cancel.fleet.is_empty() && cancel.fleet != self.asked.fleet {
            let machine = if self.asked.fleet.is_empty() { "none" } else { &self.asked.fleet };
            return refuse(&format!(
                "the cancellation is for the fleet {}, and this machine belongs to {machine}",
                cancel.fleet
            ));
        }
        let until = Timestamp::from_secs(cancel.until);
        let now = self.clock.now().max(self.floor());
        if until > now.plus(limits::CANCEL_AHEAD_MAX) {
            return refuse(&format!(
                "the cancellation is for an order that ends at {until}, and this machine takes those of \
                 orders that end within {} days: sign it again when the order's window is open",
                limits::CANCEL_AHEAD_MAX.as_secs() / 86_400
            ));
        }
        let said = Cancellation { fleet: &cancel.fleet, order: &key, until };
        let believed = self.believed();
        let verified = said.verify(&believed.keyring, &cancel.signature, now);
        let signature =
            verified.map_err(|error| NotCancelled::Refused(format!("the cancellation does not count: {error}")))?;
        let weight = believed.acl.heaviest(&signature.signer);
        // Whatever it is about: a key that may order nothing must not keep anything from running.
        if weight == 0 {
            let who = who(&believed, &signature.signer.to_string());
            return refuse(&format!(
                "{who} has no weight on this machine for any module, so no cancellation of that key counts"
            ));
        }
        let signer = signature.signer.to_string();
        if let Some(order) = self.ledger().as_ref().and_then(|ledger| ledger.content().order(&key).cloned()) {
            if !self.may_cancel(&order.modules, &order.signers, &signature.signer) {
                return refuse(&format!(
                    "{signer} may not call this order back: neither one of those who signed it nor of their weight"
                ));
            }
            if order.outcome.is_some() {
                return Ok(());
            }
        }
        // What is forgotten again at once would have the ledger refuse every order of as early an end, if the clock is reset.
        if keep_until(until) < self.floor() {
            self.stop_recalled(&key, &signature.signer);
            return refuse(&format!(
                "the cancellation is for an order that ended at {until}, long before the time that this machine knows ({}): \
                 no such order begins here. Should the machine's clock be reset, sign the cancellation again",
                self.floor()
            ));
        }
        // Written first: an order that begins now is either seen below, or finds this.
        let by = Canceller { signer: &signer, weight };
        match self.ledger().as_mut() {
            Some(ledger) => ledger.recall(key, by, until).map_err(NotCancelled::Disk)?,
            None => return refuse("the ledger of orders cannot be used: nothing runs here"),
        }
        if signature.made <= now {
            self.with_ledger(|ledger| ledger.raise_floor(signature.made));
        }
        self.stop_recalled(&key, &signature.signer);
        Ok(())
    }

    /// Ends an order that runs, if whoever called it back may. It may have begun after it was looked for.
    fn stop_recalled(&self, key: &super::OrderKey, signer: &Fingerprint) {
        let order = self.ledger().as_ref().and_then(|ledger| ledger.content().order(key).cloned());
        let may = order.is_some_and(|order| self.may_cancel(&order.modules, &order.signers, signer));
        if may && let Some(running) = self.running().get(key) {
            running.stop.ask();
        }
    }
}

/// Why nothing was called back.
enum NotCancelled {
    /// It does not count, for this reason.
    Refused(String),
    /// It counts, and could not be written.
    Disk(std::io::Error),
}
