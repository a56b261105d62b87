//! Actions that are called back, and the cancellations that people signed.
//!
//! Stays true: a cancellation takes the place of none but its own signer's, so that nobody's keeps another's from machines
//! that may have the order; of one signer and fleet the one that was made last is kept. Not here: whose cancellation
//! counts, which each machine decides.

use super::actions::{Change, Locked, lock, signers_check};
use super::journal;
use crate::StoreError;
use crate::actions::{CancelPut, CancelTaken};
use crate::db::Tx;
use crate::db::value::params;
use muster_core::action::{ActionId, ActionStatus, InvestigatorId};
use muster_core::{Payload, Timestamp, limits};
use serde_json::json;

const CANCEL: &str =
    "UPDATE action_rows SET status = 7, reason = $2, finished = $3, updated = $3, expanded = 1 WHERE number = $1";
const TOUCH: &str = "UPDATE action_rows SET updated = $2 WHERE number = $1";
const BEGIN_AGAIN: &str = "INSERT INTO action_jobs (action, due, fence, ring, after, upto, ended) \
     VALUES ($1, $2, 0, 0, 0, 0, 0) ON CONFLICT (action) DO UPDATE SET due = excluded.due, ended = 0";
/// Machines that were given it and did not answer in time, and those of whom nobody asks an answer any more.
const UNANSWERED: &str = "SELECT count(*) FROM (SELECT 1 FROM command_rows WHERE action = $1 \
     AND (state < 2 OR state IN (5, 6)) LIMIT 1) AS those";
const KEPT: &str = "SELECT fleet, made FROM cancellations WHERE action = $1 AND investigator = $2 ORDER BY made, fleet";
const SIGNED_ORDER: &str = "SELECT count(*) FROM signatures WHERE actionid = $1 AND investigatorid = $2";
const OF_OTHERS: &str = "SELECT count(*) FROM cancellations WHERE action = $1 AND investigator NOT IN \
     (SELECT investigatorid FROM signatures WHERE actionid = $1)";
const INSERT: &str = "INSERT INTO cancellations (action, investigator, fleet, made, type_url, data) \
     VALUES ($1, $2, $3, $4, $5, $6)";
const REPLACE: &str = "UPDATE cancellations SET fleet = $4, made = $5, type_url = $6, replaced = data, data = $7 \
     WHERE action = $1 AND investigator = $2 AND fleet = $3";
const ALL: &str = "SELECT type_url, data, replaced FROM cancellations WHERE action = $1 ORDER BY investigator, fleet";

/// A cancellation as machines are sent it.
pub(super) struct Notice {
    /// What they are sent.
    pub(super) body: Payload,
    /// The content of the one that it replaced, which need not reach anybody any more.
    pub(super) replaced: Option<Vec<u8>>,
}

/// Returns every cancellation of an action that people signed.
pub(super) async fn notices(tx: &mut Tx, id: ActionId) -> Result<Vec<Notice>, StoreError> {
    let mut notices = Vec::new();
    for row in tx.query(ALL, params![id]).await? {
        let mut fields = row.fields("cancellations");
        let body = Payload { type_url: fields.take()?, value: fields.take()? };
        notices.push(Notice { body, replaced: fields.take()? });
    }
    Ok(notices)
}

pub(super) async fn cancel(
    tx: &mut Tx,
    (change, signed): &(Change, Option<CancelPut>),
) -> Result<CancelTaken, StoreError> {
    let Change { id, now, cause } = change;
    let locked = lock(tx, *id).await?;
    let is_new = !locked.status.is_final();
    if !is_new && !may_be_there(tx, *id, &locked, *now).await? {
        return Ok(CancelTaken::Over);
    }
    let is_kept = match signed {
        Some(put) => keep(tx, *id, put).await?,
        None => false,
    };
    if is_new {
        let reason = if cause.reason.is_empty() { "called back" } else { &cause.reason };
        tx.execute(CANCEL, params![*id, reason, *now]).await?;
    } else if is_kept {
        tx.execute(TOUCH, params![*id, *now]).await?;
    } else {
        return Ok(CancelTaken::Known);
    }
    // From the first machine on: those that were passed over before may have the order as well.
    tx.execute(BEGIN_AGAIN, params![*id, *now]).await?;
    let mut details = json!({ "from": locked.status, "signed": signed.is_some() });
    if let Some(put) = signed {
        details["investigator"] = json!(put.investigator);
        details["fleet"] = json!(put.fleet);
    }
    journal::write(tx, *now, cause, "action.cancel", &id.to_string(), &details).await?;
    Ok(CancelTaken::Taken)
}

/// Whether a machine may have the order of an action that reached its last status, and may take a cancellation of it.
async fn may_be_there(tx: &mut Tx, id: ActionId, locked: &Locked, now: Timestamp) -> Result<bool, StoreError> {
    if locked.status == ActionStatus::Cancelled && now < locked.expire_after {
        return Ok(true);
    }
    if now >= locked.expire_after.plus(limits::LEDGER_MEMORY) {
        return Ok(false);
    }
    Ok(tx.query_one(UNANSWERED, params![id]).await?.only::<i64>("command_rows")? > 0)
}

/// Keeps a cancellation. `false`: it is known, or one that the signer made later is.
async fn keep(tx: &mut Tx, id: ActionId, put: &CancelPut) -> Result<bool, StoreError> {
    let who = put.investigator;
    signers_check(tx, &[who]).await?;
    let mut kept: Vec<(String, Timestamp)> = Vec::new();
    for row in tx.query(KEPT, params![id, who]).await? {
        let mut fields = row.fields("cancellations");
        kept.push((fields.take()?, fields.take()?));
    }
    let of_fleet = kept.iter().find(|(fleet, _)| *fleet == put.fleet);
    if of_fleet.is_some_and(|(_, made)| *made >= put.made) {
        return Ok(false);
    }
    let is_full = kept.len() >= limits::ACTION_CANCELS_PER_SIGNER_MAX;
    // The signer's own oldest one makes room.
    let gives_way = of_fleet.or_else(|| kept.first().filter(|_| is_full));
    let Some((fleet, made)) = gives_way else {
        has_room(tx, id, who).await?;
        let row = params![id, who, &put.fleet, put.made, &put.body.type_url, &put.body.value];
        tx.execute(INSERT, row).await?;
        return Ok(true);
    };
    if *made >= put.made {
        return Err(StoreError::Refused(format!(
            "investigator {who} signed {} cancellations of action {id} for other fleets after this one: sign it again",
            kept.len()
        )));
    }
    let row = params![id, who, fleet, &put.fleet, put.made, &put.body.type_url, &put.body.value];
    tx.execute(REPLACE, row).await?;
    Ok(true)
}

/// Refuses one more cancellation of somebody who did not sign the order, when there are as many of those as are kept.
async fn has_room(tx: &mut Tx, id: ActionId, who: InvestigatorId) -> Result<(), StoreError> {
    if tx.query_one(SIGNED_ORDER, params![id, who]).await?.only::<i64>("signatures")? > 0 {
        return Ok(());
    }
    let others: i64 = tx.query_one(OF_OTHERS, params![id]).await?.only("cancellations")?;
    let most = limits::ACTION_CANCELS_OF_OTHERS_MAX;
    if usize::try_from(others).is_ok_and(|others| others < most) {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "action {id} has {most} cancellations by people who did not sign it, and no more are kept: those who signed it can \
         still call it back"
    )))
}
