//! The gate: everything that is asked before an order may run, with what this machine knows of itself.
//!
//! Stays true: the judgement is made away from the agent's own thread, so that neither slow nor hostile bytes hold up
//! anything; a defect met in it is a refusal. Not here: the judgement itself (muster-trust), the ledger's file.

use super::ledger::Origin;
use super::{Actions, Came};
use crate::ids;
use muster_core::target::{OwnAnswer, OwnMachine, Target};
use muster_core::{Facts, Timestamp, limits};
use muster_modules::Effect;
use muster_trust::{Accepted, Authority, LedgerKey, Refusal, RefusalCode, Seen, TargetMatch, World, judge};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How old the facts may be that a target is compared with.
const FACTS_AGE_MAX: Duration = Duration::from_secs(30);

/// What was last seen of this machine.
#[derive(Debug, Default)]
pub(super) struct KnownFacts(tokio::sync::Mutex<Option<(Instant, Arc<Facts>)>>);

impl Actions {
    /// Asks everything that must be asked before an order may run.
    pub(super) async fn judge(self: &Arc<Self>, came: &Came) -> Result<Accepted, Refusal> {
        let facts = self.facts().await;
        let (service, json) = (Arc::clone(self), came.order.action.clone());
        let now = came.at;
        // Away from the agent's own thread: what a stranger sends may take time to look at, or hit a defect.
        let judged = tokio::task::spawn_blocking(move || service.judge_here(&json, now, &facts)).await;
        judged.unwrap_or_else(|_| {
            let text = "judging the action hit a defect of this program; it is not run".to_owned();
            Err(Refusal { code: RefusalCode::Malformed, text })
        })
    }

    fn judge_here(&self, json: &[u8], now: Timestamp, facts: &Facts) -> Result<Accepted, Refusal> {
        let believed = self.believed();
        let floor = self.floor();
        let accepted = judge(
            json,
            &World {
                now,
                floor,
                window_max: limits::ACTION_WINDOW_MAX,
                trust_expires: believed.expires,
                keyring: &believed.keyring,
                authority: Authority::Weights(&believed.acl),
                ledger: &|key| self.seen(key),
                target: &|target| self.matches(target, facts, now),
                module: &|name| self.module(name),
            },
        )?;
        self.newness_check(&accepted, now)?;
        self.memory_check(&accepted, now.max(floor))?;
        Ok(accepted)
    }

    /// What changes a machine does not run when it was valid before the machine had its identity: the machine may have
    /// been set up anew after it ran it. A question may be asked twice.
    fn newness_check(&self, accepted: &Accepted, now: Timestamp) -> Result<(), Refusal> {
        // A module that is not there is not run.
        let changes = |module: &str| self.runner.catalogue().facts(module).is_some_and(|f| f.effect == Effect::Changes);
        let Some(changing) = accepted.action.operations.iter().find(|operation| changes(&operation.module)) else {
            return Ok(());
        };
        let since = self.ledger().as_ref().map(|ledger| ledger.content().since().0);
        match since {
            Some(since) if accepted.action.valid_from >= since => Ok(()),
            // Signing again helps only when the clock gets there.
            Some(since) if since > now => {
                let text = format!(
                    "module {} changes the machine, which remembers since {since} what it ran, and its clock says {now}: the \
                     clock was {} min ahead when the agent began. If it is right now, `muster-agent clock reset` on the \
                     machine, or a document of administrators (`muster trust new clock`), makes it forget that",
                    changing.module,
                    since.since(now).as_secs().div_ceil(60),
                );
                Err(Refusal { code: RefusalCode::BeforeLedger, text })
            }
            _ => {
                let text = format!(
                    "module {} changes the machine, and the action was valid before this machine was enrolled: \
                     sign it again",
                    changing.module
                );
                Err(Refusal { code: RefusalCode::BeforeLedger, text })
            }
        }
    }

    fn seen(&self, key: &LedgerKey) -> Seen {
        let ledger = self.ledger();
        let Some(ledger) = ledger.as_ref() else { return Seen::Unreadable };
        let content = ledger.content();
        match content.order(key.as_bytes()) {
            Some(order) if order.outcome.is_some() => Seen::Finished,
            Some(_) => Seen::Started,
            None => match content.since() {
                (_, Origin::New) => Seen::Never { since: None },
                (since, Origin::Lost) => Seen::Never { since: Some(since) },
            },
        }
    }

    /// Whether a target means this machine. What only the server knows of it (its number, its state) is left open, and so
    /// is what it can change: by another key the machine's id, by another start its process.
    pub(super) fn matches(&self, target: &str, facts: &Facts, now: Timestamp) -> TargetMatch {
        let target = match Target::parse(target) {
            Ok(target) => target,
            Err(error) => return TargetMatch::Invalid(error.to_string()),
        };
        // The id first: one that takes its place meanwhile is in the list by then.
        let id = self.asked.identity.borrow().id;
        let former = ids::read(&self.asked.state_dir);
        let labels = self.asked.labels.iter().map(String::as_str);
        match OwnMachine::observed(id, &former, facts, labels).answer(&target, now) {
            OwnAnswer::Meant => TargetMatch::Matches,
            OwnAnswer::Open(questions) => TargetMatch::Open(questions),
            OwnAnswer::NotMeant => TargetMatch::Other,
        }
    }

    /// The facts of the machine, looked at anew when they are too old: by one, while the others wait for what it sees.
    pub(super) async fn facts(&self) -> Arc<Facts> {
        let mut known = self.facts.0.lock().await;
        if let Some((_, facts)) = known.as_ref().filter(|(at, _)| at.elapsed() < FACTS_AGE_MAX) {
            return Arc::clone(facts);
        }
        let observer = self.observer.clone();
        let facts = tokio::task::spawn_blocking(move || observer.observe()).await.unwrap_or_default();
        let facts = Arc::new(facts);
        *known = Some((Instant::now(), Arc::clone(&facts)));
        facts
    }
}
