//! What is remembered of cancellations, held against an order: whose word counts, and what the refusal says.
//!
//! Stays true: nobody without weight on this machine keeps an order from running; what somebody called back rightly stays
//! called back after that person's weight is gone; that a signer's cancellations found no room counts only as long as this
//! machine's keys and weights have the signer. Not here: what is remembered (recalls), cancellations that come (cancel).

use super::ledger::{Begun, Order, OrderLedger};
use super::recalls::{Objection, Objects};
use super::{Actions, Believed, begun_before};
use muster_core::action::Fingerprint;
use muster_core::{Timestamp, limits};
use muster_trust::{Accepted, Refusal, RefusalCode, may_cancel};
use std::collections::BTreeSet;

/// Of an order: its modules, and the fingerprints of those who signed it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signed<'a> {
    pub(super) modules: &'a [String],
    pub(super) signers: &'a [String],
}

impl Signed<'_> {
    /// Whether `canceller`, who had the weight `had` when that was written down, may call it back.
    pub(super) fn may_be_called_back(&self, believed: &Believed, canceller: &Fingerprint, had: u32) -> bool {
        let signers: BTreeSet<Fingerprint> = self.signers.iter().filter_map(|signer| signer.parse().ok()).collect();
        may_cancel(&believed.acl, self.modules, &signers, canceller, had)
    }

    /// Whether an objection counts against it. Nobody vouches for what was remembered before it was written down whose it
    /// was, and it counts as it did then.
    fn is_met_by(&self, believed: &Believed, objection: &Objection) -> bool {
        if objection.signer.is_empty() {
            return true;
        }
        let Ok(signer) = objection.signer.parse() else { return false };
        match objection.what {
            Objects::Recalled { had } => self.may_be_called_back(believed, &signer, had),
            Objects::NoRoom { .. } => {
                believed.keyring.get(&signer).is_some() && self.may_be_called_back(believed, &signer, 0)
            }
        }
    }
}

impl Actions {
    /// Whether `canceller`, whose cancellation comes just now, may call back an order of these modules and signers.
    pub(super) fn may_cancel(&self, modules: &[String], signers: &[String], canceller: &Fingerprint) -> bool {
        Signed { modules, signers }.may_be_called_back(&self.believed(), canceller, 0)
    }

    fn forgotten_until(&self) -> Timestamp {
        self.ledger().as_ref().map_or(Timestamp::EPOCH, |ledger| ledger.content().forgotten_until())
    }

    /// Writes an order into the ledger, on the disk, or returns what speaks against it there.
    pub(super) fn write_begun(&self, order: Order, now: Timestamp) -> std::io::Result<Option<Refusal>> {
        let (modules, signers) = (order.modules.clone(), order.signers.clone());
        let (signed, believed) = (Signed { modules: &modules, signers: &signers }, self.believed());
        let begun = match self.ledger().as_mut() {
            Some(ledger) => ledger.begin(order, now, &|objection| signed.is_met_by(&believed, objection)),
            None => Err(std::io::Error::other("there is no ledger")),
        }?;
        Ok(match begun {
            Begun::Now => None,
            Begun::Before => Some(begun_before()),
            Begun::Forgotten => Some(forgotten(self.forgotten_until())),
            Begun::CalledBack(objection) => Some(refusal(&believed, &objection)),
        })
    }

    /// What was called back by somebody who may, or may have been, is not run, nor what may have been run and forgotten.
    pub(super) fn memory_check(&self, accepted: &Accepted, now: Timestamp) -> Result<(), Refusal> {
        let objections: Vec<Objection> = match self.ledger().as_ref().map(OrderLedger::content) {
            Some(content) if content.may_be_forgotten(accepted.action.expire_after) => {
                return Err(forgotten(content.forgotten_until()));
            }
            Some(content) => content.objections(accepted.key.as_bytes(), now).collect(),
            None => Vec::new(),
        };
        let operations = accepted.action.operations.iter();
        let modules: Vec<String> = operations.map(|operation| operation.module.clone()).collect();
        let signers: Vec<String> = accepted.signers.iter().map(|signed| signed.signer.to_string()).collect();
        let (signed, believed) = (Signed { modules: &modules, signers: &signers }, self.believed());
        let met = objections.iter().find(|objection| signed.is_met_by(&believed, objection));
        met.map_or(Ok(()), |objection| Err(refusal(&believed, objection)))
    }
}

fn forgotten(until: Timestamp) -> Refusal {
    let text = format!(
        "this machine has forgotten what it ran, and what was called back, with windows that ended until {until}, and this may \
         be one of those: sign it again with a later end"
    );
    Refusal { code: RefusalCode::BeforeLedger, text }
}

fn refusal(believed: &Believed, objection: &Objection) -> Refusal {
    let who = who(believed, &objection.signer);
    let text = match objection.what {
        Objects::Recalled { .. } => format!("the action was called back by {who}"),
        Objects::NoRoom { until } => format!(
            "{who} called back more orders than this machine remembers of one signer ({}): orders that this signer may call \
             back are refused until {until}, so that none of those runs. It ends at once where administrators, or the files \
             of the machine, take the key or its weight away",
            limits::CANCELS_PER_SIGNER_MAX
        ),
    };
    Refusal { code: RefusalCode::Cancelled, text }
}

/// Returns how to call a signer: the fingerprint, and the name on the key where the keyring has it.
pub(super) fn who(believed: &Believed, signer: &str) -> String {
    if signer.is_empty() {
        return "somebody".to_owned();
    }
    let key = signer.parse().ok().and_then(|signer: Fingerprint| believed.keyring.get(&signer));
    match key.and_then(|key| key.user_ids().into_iter().next()) {
        Some(name) => format!("{} ({signer})", muster_core::text::cut(&name, 200)),
        None => signer.to_owned(),
    }
}
