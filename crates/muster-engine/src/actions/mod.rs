//! Signed actions: taken in, signed further, called back, and what machines say of them.
//!
//! Stays true: what is stored was signed by active investigators over exactly what each machine will read; one action
//! for the same signed bytes, however often it is sent; whether enough people signed is only foreseen here, and decided
//! by each machine for itself. Not here: what signatures are (muster-trust), and what an action does to its commands
//! (the store).

mod access;
mod documents;
mod keys;
mod noted;
mod preview;
mod weights;
mod work;

pub use access::{ApiKey, InvestigatorUpdate, TokenRefusal, TokenRules};
pub use documents::{TrustDocument, TrustRecipients, TrustSent};
pub use keys::NewInvestigator;
pub use preview::{ActionPreview, OperationDemand, PreviewDemand, PreviewRefusal, SaidBy};

use crate::engine::{Inner, OperatorError};
use crate::outside::SignedCancel;
use keys::Keys;
use muster_core::action::{Action, ActionError, ActionId, ActionStatus, CommandStatus, Fingerprint, refused_results};
use muster_core::{Cause, Message, Timestamp, limits, system, text};
use muster_store::actions::{
    ActionPut, ActionRow, ActionTaken, CancelPut, CancelTaken, ResultPut, SignaturePut, Spread,
};
use muster_store::agents::Effect;
use muster_store::investigators::InvestigatorRow;
use muster_store::{ErrorKind, StoreError};
use muster_trust::signature;
use preview::Detail;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// What came of an order on one machine, as the machine says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionOutcome {
    /// Of which action.
    pub action: ActionId,
    /// How it ended, anything but sent.
    pub status: CommandStatus,
    /// Why the machine did not act: a word and a sentence.
    pub refusal: Option<(String, String)>,
    /// The results of its operations, a JSON array; empty when nothing ran.
    pub results: String,
    /// The machine's signature over them; empty without one.
    pub signature: Vec<u8>,
    /// Whose key signed, when it is not the sender's present one: the order reached the machine under its key before.
    pub signed_as: Option<muster_core::AgentId>,
}

/// What this server keeps of actions.
#[derive(Debug, Default)]
pub(crate) struct Actions {
    keys: Mutex<Option<Arc<Keys>>>,
    changed: Notify,
}

/// Returns the text that signatures of an action cover; empty for parameters that nobody can sign.
pub fn signed_text(action: &Action) -> String {
    muster_trust::signed_text(action).unwrap_or_default()
}

/// How often a signature is put again when others sign at the same moment.
const SIGN_TRIES: u32 = 8;
/// Shares of the machines, at most.
const RINGS_MAX: usize = 16;
/// Shares of an action that changes machines, unless told: a mistake meets a few of them first.
const RINGS_OF_CHANGES: [u8; 2] = [1, 10];
/// The share that is all machines: given alone, it means no shares.
const RING_OF_ALL: u8 = 100;

/// An action that was read and can be taken, but for its signatures.
struct Read {
    action: Action,
    text: String,
    signed: [u8; 32],
}

/// Whether an action may come without signatures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unsigned {
    Refused,
    Taken,
}

fn read(json: &[u8], now: Timestamp, unsigned: Unsigned) -> Result<Read, OperatorError> {
    let invalid = |reason: String| OperatorError::Invalid(reason);
    let action = Action::parse(json).map_err(|error| invalid(error.to_string()))?;
    match action.check(now) {
        Ok(()) => {}
        Err(ActionError::SignaturesEmpty) if unsigned == Unsigned::Taken => {}
        Err(error) => return Err(invalid(error.to_string())),
    }
    action.window_length_check(limits::ACTION_WINDOW_MAX).map_err(|error| invalid(error.to_string()))?;
    let text =
        muster_trust::signed_text(&action).map_err(|error| invalid(format!("the action cannot be signed: {error}")))?;
    let signed = Sha256::digest(text.as_bytes()).into();
    Ok(Read { action, text, signed })
}

fn spread_check(spread: &Spread) -> Result<(), OperatorError> {
    let invalid = |reason: &str| Err(OperatorError::Invalid(reason.to_owned()));
    if spread.hosts_max == Some(0) {
        return invalid("hosts_max must be at least 1: leave it out for any number of machines");
    }
    if spread.rings.len() > RINGS_MAX {
        return invalid("there are at most 16 shares");
    }
    let is_share = |share: &u8| (1..=RING_OF_ALL).contains(share);
    if !spread.rings.iter().all(is_share) || spread.rings.windows(2).any(|pair| pair[0] >= pair[1]) {
        return invalid("shares must rise and lie between 1 and 100 per cent; the others come last by themselves");
    }
    if spread.halt_percent > 100 {
        return invalid("halt_percent must be at most 100");
    }
    Ok(())
}

/// Returns the shares as the store takes them: without the last one, which is all the others.
fn rings(asked: Vec<u8>, changes: bool) -> Vec<u8> {
    match &asked[..] {
        [] if changes => RINGS_OF_CHANGES.to_vec(),
        [shares @ .., RING_OF_ALL] => shares.to_vec(),
        _ => asked,
    }
}

/// Who signed, and what was wrong with signatures that do not count.
struct Signatures {
    signers: Vec<InvestigatorRow>,
    /// When the latest of them that counts was made.
    made: Option<Timestamp>,
    problems: Vec<String>,
}

impl Signatures {
    fn fingerprints(&self) -> BTreeSet<Fingerprint> {
        self.signers.iter().filter_map(|signer| signer.fingerprint.clone()).collect()
    }
}

impl Inner {
    /// Takes an action and launches it, or lets it wait for signatures. One that is there takes the signatures that it
    /// has not, as long as it waits for some.
    pub(crate) async fn action_launch(
        &self,
        json: &[u8],
        mut spread: Spread,
        cause: &Cause,
    ) -> Result<ActionTaken, OperatorError> {
        let now = self.now();
        let Read { mut action, text, signed } = read(json, now, Unsigned::Refused)?;
        spread_check(&spread)?;
        let known = self.store.action_find(signed).await;
        if let Some(row) = known.map_err(|failure| self.operator_error("look for the action", failure))? {
            return self.launch_again(&row, (&text, &action.pgp_signatures), cause).await;
        }
        let mut signatures = self.signatures_verify(&text, &action.pgp_signatures, now).await?;
        self.signatures_explain(&mut signatures, &action.pgp_signatures).await?;
        if let Some(problem) = signatures.problems.first() {
            return Err(OperatorError::Signature(problem.clone()));
        }
        let preview = self.preview_of(&action, &signatures, (spread.standing, Detail::Verdict), now).await?;
        // Nobody's signature is spent on what cannot run.
        if let Some(problem) = preview.impossible(&action, &spread, now) {
            return Err(OperatorError::Conflict(format!("nothing was taken: {problem}")));
        }
        spread.rings = rings(spread.rings, preview.changes);
        let id = self.store.action_id_take().await;
        let id = id.map_err(|failure| self.operator_error("number the action", failure))?;
        action.id = Some(id);
        let lines = action.pgp_signatures.iter().cloned();
        let put = ActionPut {
            signatures: signatures.signers.iter().map(|signer| signer.id).zip(lines).collect(),
            is_ready: preview.is_ready(),
            order: self.outside.codec.encode_action(id, json),
            action,
            signed,
            spread,
        };
        let taken = self.store.action_put(put, now, cause).await;
        let taken = taken.map_err(|failure| self.operator_error("store the action", failure))?;
        self.actions.changed.notify_one();
        Ok(taken)
    }

    /// What comes with the same signed bytes again. A signature that does not count refuses it, as it would have at first.
    async fn launch_again(
        &self,
        row: &ActionRow,
        (text, lines): (&str, &[String]),
        cause: &Cause,
    ) -> Result<ActionTaken, OperatorError> {
        let id = row.action.id.ok_or_else(|| nameless(row))?;
        let mut further = Vec::new();
        for line in lines.iter().filter(|line| !row.action.pgp_signatures.contains(line)) {
            let mut signatures = self.signatures_verify(text, std::slice::from_ref(line), self.now()).await?;
            self.signatures_explain(&mut signatures, std::slice::from_ref(line)).await?;
            if let Some(problem) = signatures.problems.first() {
                return Err(OperatorError::Signature(problem.clone()));
            }
            // Who signs twice adds nothing.
            if signatures.signers.iter().all(|signer| !row.signers.contains(&signer.id)) {
                further.push(line);
            }
        }
        for line in further.into_iter().filter(|_| row.status == ActionStatus::Waiting) {
            match self.action_sign(id, line, cause).await {
                Err(error) if !matches!(error, OperatorError::Conflict(_)) => return Err(error),
                // In case of a conflict enough have signed by now, or the same person did: the next may still be wanted.
                _ => {}
            }
        }
        Ok(ActionTaken::Again(id))
    }

    /// Adds a signature to an action that waits for signatures.
    pub(crate) async fn action_sign(
        &self,
        id: ActionId,
        signature: &str,
        cause: &Cause,
    ) -> Result<ActionStatus, OperatorError> {
        let line = signature::one_line(signature.trim().as_bytes());
        let line = line.map_err(|error| OperatorError::Invalid(error.to_string()))?;
        for _ in 0..SIGN_TRIES {
            if let Some(status) = self.signature_put(id, &line, cause).await? {
                self.actions.changed.notify_one();
                return Ok(status);
            }
        }
        Err(OperatorError::Conflict(format!("others sign action {id} all the time: try again")))
    }

    /// Puts a signature under what is there now. `None`: somebody else signed meanwhile.
    async fn signature_put(
        &self,
        id: ActionId,
        line: &str,
        cause: &Cause,
    ) -> Result<Option<ActionStatus>, OperatorError> {
        let now = self.now();
        let row = self.action_row(id).await?;
        if row.status != ActionStatus::Waiting {
            let text = format!("action {id} is {}: it does not wait for signatures", row.status);
            return Err(OperatorError::Conflict(text));
        }
        let others = row.action.pgp_signatures.len();
        let mut action = row.action.clone();
        action.pgp_signatures.push(line.to_owned());
        // What machines will read is written anew, and must still be what was signed.
        let json = serde_json::to_vec(&action).expect("texts and numbers can always be written as JSON");
        let Read { text, signed, .. } = read(&json, now, Unsigned::Refused)?;
        if signed != row.signed {
            return Err(nameless(&row));
        }
        let mut signatures = self.signatures_verify(&text, &action.pgp_signatures, now).await?;
        self.signatures_explain(&mut signatures, &action.pgp_signatures).await?;
        if let Some(problem) = signatures.problems.first() {
            return Err(OperatorError::Signature(problem.clone()));
        }
        let signer = signatures.signers.last().expect("as many signers as signatures without a problem");
        let preview = self.preview_of(&action, &signatures, (row.spread.standing, Detail::Verdict), now).await?;
        if let Some(problem) = preview.impossible(&action, &row.spread, now) {
            return Err(OperatorError::Conflict(format!("the signature was not taken: {problem}")));
        }
        let put = SignaturePut {
            action: id,
            investigator: signer.id,
            signature: line.to_owned(),
            others: u32::try_from(others).expect("16 fits 32 bits"),
            is_ready: preview.is_ready(),
            order: self.outside.codec.encode_action(id, &json),
        };
        match self.store.action_signature_put(put, now, cause).await {
            Ok(status) => Ok(Some(status)),
            Err(failure) if failure.kind() == ErrorKind::Refused => {
                let there = self.action_row(id).await?.action.pgp_signatures.len();
                if there == others { Err(self.operator_error("store the signature", failure)) } else { Ok(None) }
            }
            Err(failure) => Err(self.operator_error("store the signature", failure)),
        }
    }

    pub(crate) async fn action_row(&self, id: ActionId) -> Result<ActionRow, OperatorError> {
        let row = self.store.action_get(id).await;
        let row = row.map_err(|failure| self.operator_error("look up the action", failure))?;
        row.ok_or_else(|| OperatorError::NotFound(format!("action {id} is not known")))
    }

    /// Hands an action out no more. With a signature over its cancellation, machines that may have it are sent that; they
    /// believe nobody without one.
    pub(crate) async fn action_cancel(
        &self,
        id: ActionId,
        signed: Option<(&str, &str)>,
        cause: &Cause,
    ) -> Result<CancelTaken, OperatorError> {
        let put = match signed {
            Some((fleet, signature)) => Some(self.cancel_put(id, fleet, (signature, &cause.reason)).await?),
            None => None,
        };
        let done = self.store.action_cancel(id, put, self.now(), cause).await;
        let done = done.map_err(|failure| self.operator_error("call the action back", failure))?;
        self.actions.changed.notify_one();
        Ok(done)
    }

    /// Puts a signed cancellation into a message's words. A signature that no machine could take is refused here already;
    /// whether the signer may call this order back each machine decides.
    async fn cancel_put(
        &self,
        id: ActionId,
        fleet: &str,
        (signature, reason): (&str, &str),
    ) -> Result<CancelPut, OperatorError> {
        if !fleet.is_empty() {
            muster_core::text::fleet(fleet).map_err(|error| OperatorError::Invalid(error.to_string()))?;
        }
        let row = self.action_row(id).await?;
        let text = muster_trust::signed_text(&row.action).map_err(|_| nameless(&row))?;
        let key = muster_trust::LedgerKey::of(&text);
        let said = muster_trust::Cancellation::of(&key, fleet, row.action.expire_after);
        let signatures = self.signatures_verify(&said.signing_text(), &[signature.to_owned()], self.now()).await?;
        if let Some(problem) = signatures.problems.first() {
            return Err(OperatorError::Signature(format!("the cancellation does not count: {problem}")));
        }
        let (Some(signer), Some(made)) = (signatures.signers.first(), signatures.made) else {
            return Err(OperatorError::Signature("the cancellation does not count: nobody signed it".to_owned()));
        };
        let body = self.outside.codec.encode_cancel(id, &SignedCancel { said, signature, reason });
        Ok(CancelPut { investigator: signer.id, fleet: fleet.to_owned(), made, body })
    }

    pub(crate) async fn action_resume(&self, id: ActionId, cause: &Cause) -> Result<bool, OperatorError> {
        let done = self.store.action_resume(id, self.now(), cause).await;
        let done = done.map_err(|failure| self.operator_error("let the action go on", failure))?;
        self.actions.changed.notify_one();
        Ok(done)
    }

    /// Says what would come of an action that is not launched; nobody needs to have signed it.
    pub(crate) async fn action_preview(
        &self,
        json: &[u8],
        spread: &Spread,
        signers: &[String],
    ) -> Result<ActionPreview, OperatorError> {
        let now = self.now();
        let Read { action, text, signed } = read(json, now, Unsigned::Taken)?;
        spread_check(spread)?;
        let known = self.store.action_find(signed).await;
        let known = known.map_err(|failure| self.operator_error("look for the action", failure))?;
        let mut signatures = self.signatures_verify(&text, &action.pgp_signatures, now).await?;
        self.signatures_explain(&mut signatures, &action.pgp_signatures).await?;
        self.signers_add(&mut signatures, signers).await?;
        let mut preview = self.preview_of(&action, &signatures, (spread.standing, Detail::Whole), now).await?;
        match known {
            Some(row) => preview.known = row.action.id,
            None => preview.problems.extend(preview.impossible(&action, spread, now)),
        }
        Ok(preview)
    }

    /// Says what would come of an action that is stored, if it were launched now.
    pub(crate) async fn action_preview_stored(&self, id: ActionId) -> Result<ActionPreview, OperatorError> {
        let now = self.now();
        let row = self.action_row(id).await?;
        let text = muster_trust::signed_text(&row.action).map_err(|_| nameless(&row))?;
        let mut signatures = self.signatures_verify(&text, &row.action.pgp_signatures, now).await?;
        self.signatures_explain(&mut signatures, &row.action.pgp_signatures).await?;
        self.preview_of(&row.action, &signatures, (row.spread.standing, Detail::Whole), now).await
    }

    /// Decides what a message to service `actions` does.
    pub(crate) fn actions_effect(&self, message: &Message) -> Effect {
        let Some(agent) = message.source.agent else {
            return Effect::Fail("only machines say what came of an action".to_owned());
        };
        match message.message_type.as_str() {
            system::ACTION_RESULT => {
                let put = self.outside.codec.decode_outcome(message).and_then(|outcome| result_put(agent, outcome));
                put.map_or_else(Effect::Fail, |put| Effect::Result(Box::new(put)))
            }
            system::AGENT_TRUST => {
                let told = self.outside.codec.decode_trust(message);
                told.map_or_else(Effect::Fail, |told| Effect::Trust(Box::new(told)))
            }
            other => Effect::Fail(format!("unknown message type {:?}", text::cut(other, limits::NAME_BYTES_MAX))),
        }
    }
}

/// A row that cannot be: it was stored with an id, and what was signed reads back as it was.
fn nameless(row: &ActionRow) -> OperatorError {
    let id = format!("{} does not read back as it was signed", hex::encode(row.signed));
    OperatorError::Store { doing: "read the action", source: StoreError::Inconsistent { table: "action_rows", id } }
}

/// The part of a result that is looked at.
#[derive(Deserialize)]
struct Finding {
    #[serde(default)]
    foundanything: bool,
}

fn result_put(agent: muster_core::AgentId, outcome: ActionOutcome) -> Result<ResultPut, String> {
    let results = match (&outcome.refusal, outcome.results.is_empty()) {
        (_, false) => outcome.results,
        (None, true) => "[]".to_owned(),
        (Some((code, reason)), true) => refused_results(code, reason),
    };
    let findings: Vec<Finding> =
        serde_json::from_str(&results).map_err(|error| format!("the results are no list of results: {error}"))?;
    let found = findings.iter().any(|finding| finding.foundanything);
    let ActionOutcome { action, status, signature, signed_as, .. } = outcome;
    Ok(ResultPut { action, agent: signed_as.unwrap_or(agent), status, found, results, signature })
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::AgentId;

    #[test]
    fn shares_rise_and_stay_below_all() {
        let rings = |rings: &[u8]| spread_check(&Spread { rings: rings.to_vec(), ..Spread::default() }).is_ok();
        assert!(rings(&[]) && rings(&[1, 10]) && rings(&[100]) && rings(&[5, 100]));
        assert!(!rings(&[10, 1]) && !rings(&[1, 1]) && !rings(&[0]) && !rings(&[101]) && !rings(&[1; 17]));
        assert!(spread_check(&Spread { hosts_max: Some(0), ..Spread::default() }).is_err());
        assert!(spread_check(&Spread { halt_percent: 101, ..Spread::default() }).is_err());
    }

    #[test]
    fn what_changes_machines_reaches_a_few_first_unless_told_otherwise() {
        assert_eq!(rings(vec![], true), RINGS_OF_CHANGES);
        assert!(rings(vec![], false).is_empty());
        assert!(rings(vec![100], true).is_empty());
        assert_eq!(rings(vec![5, 100], true), [5]);
        assert_eq!(rings(vec![20], true), [20]);
    }

    #[test]
    fn a_refusal_becomes_a_result_that_says_why() {
        let outcome = |results: &str, refusal: Option<(&str, &str)>| ActionOutcome {
            action: ActionId::new(1).unwrap(),
            status: CommandStatus::Failed,
            refusal: refusal.map(|(code, reason)| (code.to_owned(), reason.to_owned())),
            results: results.to_owned(),
            signature: Vec::new(),
            signed_as: None,
        };
        let put = |outcome| result_put(AgentId::from_bytes([1; 8]), outcome);
        let refused = put(outcome("", Some(("weight", "too little")))).unwrap();
        assert!(refused.results.contains("refused (weight): too little"), "{}", refused.results);
        assert!(!refused.found);
        assert!(put(outcome(r#"[{"foundanything":false},{"foundanything":true}]"#, None)).unwrap().found);
        assert_eq!(put(outcome("", None)).unwrap().results, "[]");
        for wrong in ["{}", "[1]", "[", r#"[{"foundanything":1}]"#] {
            assert!(put(outcome(wrong, None)).is_err(), "{wrong}");
        }
    }
}
