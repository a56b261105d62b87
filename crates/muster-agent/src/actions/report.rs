//! Results on their way into the spool, and those of orders that the agent's end cut short.
//!
//! Stays true: what ran has its result in the spool before it is finished in the ledger and acknowledged, however long the
//! spool takes nothing. Not here: how results are packed (pack).

use super::ledger::{Order, Outcome};
use super::pack::{self, Part};
use super::{Actions, mail};
use crate::chain::Chain;
use crate::hub::{Mail, any};
use crate::keys::{self, Identity};
use crate::outbox::Durability;
use crate::spool::SpoolError;
use muster_core::action::{CommandStatus, refusal_text, result_text};
use muster_core::{Priority, Timestamp, system};
use muster_modules::ModuleResult;
use muster_proto::convert::time_to_wire;
use muster_proto::wire::actions::{self as wire, ResultStatus};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

/// How long a result waits that the spool did not take, unless there is room before.
const REPORT_PAUSE: Duration = Duration::from_secs(2);

/// The agent is ending: nothing more can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AgentEnds;

impl Actions {
    /// Puts a result into the spool, however long it takes: what ran must not be without its result. Its name follows
    /// from the order's message, so that it counts once.
    pub(super) async fn report(&self, result: &wire::ActionResult) -> Result<(), AgentEnds> {
        let digest = Sha256::new().chain_update(b"result\0").chain_update(&result.order_message_id).finalize();
        let mail = Mail {
            id: digest[..16].try_into().ok(),
            data: Some(any("muster.actions.ActionResult", result)),
            priority: Priority::High,
            ..mail(system::ACTION_RESULT)
        };
        let mut is_told = false;
        loop {
            let room = self.hub.outbox().room();
            match self.hub.send(mail.clone(), Durability::Disk).await {
                Ok(_) => return Ok(()),
                Err(SpoolError::Closed) => return Err(AgentEnds),
                Err(error @ SpoolError::TooLarge { .. }) => {
                    self.hub.outbox().count_dropped();
                    tracing::error!(error = %Chain(&error), "the result of an order is lost");
                    return Ok(());
                }
                Err(error) if !is_told => {
                    is_told = true;
                    tracing::error!(error = %Chain(&error), "the result of an order waits until the spool takes it");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = room => {}
                () = tokio::time::sleep(REPORT_PAUSE) => {}
            }
        }
    }

    /// Returns what ran when the agent ended in the middle.
    pub(super) fn interrupted(&self) -> Vec<Order> {
        let ledger = self.ledger();
        let orders = ledger.as_ref().map(|ledger| ledger.content().orders().cloned().collect::<Vec<_>>());
        orders.unwrap_or_default().into_iter().filter(|order| order.outcome.is_none()).collect()
    }

    /// Reports what ran when the agent ended in the middle, and closes it.
    pub(super) async fn report_interrupted(&self, orders: Vec<Order>) {
        for order in orders {
            let now = self.clock.now();
            let (result, results) = interrupted(&order, now);
            let reached = self.reached(order.at);
            if self.report(&signed(result, Says::Result, &results, &reached)).await.is_err() {
                return;
            }
            self.finish(order.key, Outcome { at: now, status: "interrupted".into(), found: 0 });
        }
        // Whatever reached the old key is reported now.
        keys::old_forget(&self.asked.state_dir);
    }

    /// Returns the key that an order of an earlier life reached.
    fn reached(&self, at: Timestamp) -> Arc<Identity> {
        match &self.asked.old {
            Some((old, since)) if at < *since => Arc::clone(old),
            _ => Arc::clone(&self.asked.identity.borrow()),
        }
    }
}

/// What a machine signs of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// What came of the order.
    Result,
    /// That it refused the order.
    Refusal,
    /// Nothing: the answer is about a copy of the order that anybody could have spoiled.
    Nothing,
}

/// Signs an answer with the key that its order reached, if it is known which order it is; `results` is the digest of its
/// results as the server stores them.
pub(super) fn signed(
    result: wire::ActionResult,
    says: Says,
    results: &[u8; 32],
    reached: &Identity,
) -> wire::ActionResult {
    let status = match result.status() {
        ResultStatus::Unspecified => None,
        ResultStatus::Success => Some(CommandStatus::Success),
        ResultStatus::Failed => Some(CommandStatus::Failed),
        ResultStatus::Timeout => Some(CommandStatus::Timeout),
        ResultStatus::Cancelled => Some(CommandStatus::Cancelled),
        ResultStatus::Expired => Some(CommandStatus::Expired),
    };
    let order = <&[u8; 32]>::try_from(&result.signed_sha256[..]).ok();
    let text = order.zip(status).and_then(|(order, status)| match says {
        Says::Result => Some(result_text(reached.id, order, status, results)),
        Says::Refusal => Some(refusal_text(reached.id, order, status, results)),
        Says::Nothing => None,
    });
    let signature = text.and_then(|text| reached.sign(text.as_bytes()));
    // Said always: the machine may have another key by the time it is delivered.
    let signed_as = reached.id.as_bytes().to_vec().into();
    wire::ActionResult { signature: signature.unwrap_or_default().into(), signed_as, ..result }
}

/// Returns what is reported of an order that the agent's end cut short, and the digest of its results.
pub(super) fn interrupted(order: &Order, now: Timestamp) -> (wire::ActionResult, [u8; 32]) {
    let unknown = "the agent ended while this ran; what came of it is unknown";
    // One for each operation, as if each had answered.
    let failed = |module: &String| Part::of(&ModuleResult::failed(format!("module '{module}': {unknown}")));
    let packed = pack::pack(order.modules.iter().map(failed).collect());
    let result = wire::ActionResult {
        action_id: order.action_id,
        command_id: order.command_id,
        order_message_id: hex::decode(&order.message).unwrap_or_default().into(),
        signed_sha256: order.key.to_vec().into(),
        status: ResultStatus::Failed.into(),
        results: packed.bytes,
        results_packing: packed.packing.into(),
        results_bytes: packed.plain_bytes,
        problem: unknown.into(),
        received: Some(time_to_wire(order.at)),
        finished: Some(time_to_wire(now)),
        signers: order.signers.clone(),
        ..wire::ActionResult::default()
    };
    (result, packed.plain_sha256)
}
