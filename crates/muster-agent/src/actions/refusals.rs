//! What is reported of an order that is refused, and which refusals the machine signs.
//!
//! Stays true: a refusal is signed only where it says something of the order itself: the copy that came was signed well
//! enough to be run, or the machine's own ledger knows the order. A server can spoil any copy, take signatures away or add
//! one; what the machine says of such a copy carries no signature. What is signed begins with words of its own, so that no
//! refusal is taken for a result. Not here: why orders are refused (gate, muster-trust), how results travel (report).

use super::ledger::{Order, OrderLedger, RefusedOrder};
use super::report::{Says, signed};
use super::{Actions, Came};
use muster_core::action::refused_results;
use muster_core::{Action, Timestamp, limits};
use muster_modules::Effect;
use muster_proto::wire::actions::{self as wire, ResultStatus};
use muster_trust::{Authority, LedgerKey, Module, Refusal, RefusalCode, is_signed, signed_text};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// What is known of an order that is refused, whoever sent its copy.
#[derive(Debug, Default)]
struct Known {
    /// What its author calls it.
    name: String,
    /// Its name in the ledger, as far as the copy could be read.
    key: Option<LedgerKey>,
    /// Whether the copy was signed well enough to be run.
    is_signed: bool,
    /// What became of it here, if it was taken.
    taken: Option<Order>,
}

impl Actions {
    /// Writes that an order was refused, and returns what is reported of it.
    pub(super) async fn refuse(self: &Arc<Self>, came: &Came, refusal: Refusal) -> wire::ActionResult {
        let Refusal { code, mut text } = refusal;
        tracing::warn!(action.id = came.order.action_id, code = code.as_str(), "an order is refused");
        let (service, json, now) = (Arc::clone(self), came.order.action.clone(), came.at);
        // Away from the agent's own thread, as the order itself was looked at. A defect met in it leaves it unsigned.
        let known = tokio::task::spawn_blocking(move || service.known(&json, now)).await.unwrap_or_default();
        if let (RefusalCode::AlreadyRun, Some(order)) = (code, &known.taken) {
            text = already(order);
        }
        let refused = RefusedOrder {
            at: came.at,
            action_id: came.order.action_id,
            name: muster_core::text::cut(&known.name, 200),
            code: code.as_str().to_owned(),
            reason: muster_core::text::cut(&text, 500),
        };
        self.with_ledger(|ledger| ledger.refuse(refused));
        let status = match code {
            RefusalCode::Expired => ResultStatus::Expired,
            RefusalCode::Cancelled => ResultStatus::Cancelled,
            _ => ResultStatus::Failed,
        };
        let reason = muster_core::text::cut(&text, limits::FAILED_REASON_CHARS_MAX);
        let results = Sha256::digest(refused_results(code.as_str(), &reason)).into();
        let answer = wire::ActionResult {
            signed_sha256: known.key.map_or_else(Vec::new, |key| key.as_bytes().to_vec()).into(),
            refusal: Some(wire::Refusal { code: code.as_str().to_owned(), reason }),
            ..came.answer(status, self.clock.now())
        };
        let is_of_order = known.is_signed || (code == RefusalCode::AlreadyRun && known.taken.is_some());
        let says = if is_of_order { Says::Refusal } else { Says::Nothing };
        signed(answer, says, &results, &came.reached)
    }

    /// Returns what is known of a module of this machine; `None`: there is none.
    pub(super) fn module(&self, name: &str) -> Option<Module> {
        let facts = self.runner.catalogue().facts(name)?;
        Some(Module { minimum_weight: facts.weight_min, changes: facts.effect == Effect::Changes })
    }

    fn is_signed(&self, action: &Action, now: Timestamp) -> bool {
        let believed = self.believed();
        let trusted = (&believed.keyring, Authority::Weights(&believed.acl));
        is_signed(action, trusted, &|name| self.module(name), now.max(self.floor()))
    }

    fn known(&self, json: &[u8], now: Timestamp) -> Known {
        let Ok(action) = Action::parse(json) else { return Known::default() };
        let key = signed_text(&action).ok().map(|text| LedgerKey::of(&text));
        let ledger = self.ledger();
        let content = ledger.as_ref().map(OrderLedger::content);
        let taken = key.and_then(|key| content?.order(key.as_bytes()).cloned());
        drop(ledger);
        Known { name: action.name.clone(), key, is_signed: self.is_signed(&action, now), taken }
    }
}

/// Says what became of an order that is here once more.
fn already(order: &Order) -> String {
    let began = order.at;
    match &order.outcome {
        None => format!("the action was begun before, at {began}, and has not ended yet"),
        Some(outcome) => {
            let (ended, status, all) = (outcome.at, &outcome.status, order.modules.len());
            let found = outcome.found;
            format!(
                "the action was run before: it began at {began} and ended at {ended} ({status}); {found} of its {all} parts \
                 found something"
            )
        }
    }
}
