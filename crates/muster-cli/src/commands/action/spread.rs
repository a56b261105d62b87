//! How an action is spread over the machines, and whether it could run at all.
//!
//! Stays true: what could not run is neither signed nor launched; signatures are not shown to whoever only says what would
//! come of them.

use super::file;
use super::preview::{Signed, show_preview};
use crate::commands::ReasonArgs;
use crate::commands::target::{case_hint, why_nobody};
use crate::output::safe;
use crate::{Context, Exit, Failure, values};
use muster_api::actions::{ActionRequest, Beyond, Preview, PreviewRequest};
use muster_core::Action;
use reqwest::Method;
use serde_json::Value;

/// How an action is spread over the machines.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct SpreadArgs {
    /// Also for machines that are offline now, and for those that are enrolled, approved or unblocked, or come to match,
    /// before it expires
    #[arg(long)]
    pub(crate) standing: bool,
    /// If it matches more machines than this, none is given it
    #[arg(long, value_name = "N")]
    pub(crate) hosts_max: Option<u64>,
    /// Shares of the machines that get it one after the other, in rising per cent; the others come last. Unless told,
    /// 1,10 for modules that change something, and 100 (all at once) for others
    #[arg(long, value_name = "PERCENT", value_delimiter = ',')]
    pub(crate) rings: Vec<u8>,
    /// Halt before the next share when more than so many per cent failed; 10 unless told
    #[arg(long, value_name = "PERCENT")]
    pub(crate) halt_percent: Option<u8>,
}

/// Shares of the machines, at most.
const RINGS_MAX: usize = 16;

impl SpreadArgs {
    /// Checks what the flags say, before any key is asked for.
    pub(crate) fn check(&self, what: &str) -> Result<(), Failure> {
        let wrong = |why: String, flag: &str| Err(Failure::usage(what, why).on(flag));
        if self.hosts_max == Some(0) {
            return wrong("it must be at least 1; leave it out for any number of machines".to_owned(), "--hosts-max 0");
        }
        if self.rings.len() > RINGS_MAX {
            return wrong(format!("there are at most {RINGS_MAX} shares"), "--rings");
        }
        let is_share = |share: &u8| (1..=100).contains(share);
        if !self.rings.iter().all(is_share) || self.rings.windows(2).any(|pair| pair[0] >= pair[1]) {
            return wrong("shares must rise and lie between 1 and 100 per cent".to_owned(), "--rings");
        }
        if self.halt_percent.is_some_and(|percent| percent > 100) {
            return wrong("it must be at most 100".to_owned(), "--halt-percent");
        }
        Ok(())
    }

    pub(crate) fn request(&self, action: &Action, reason: &ReasonArgs) -> ActionRequest {
        ActionRequest {
            action: file::to_json(action),
            standing: self.standing,
            hosts_max: self.hosts_max,
            rings: self.rings.clone(),
            halt_percent: self.halt_percent,
            reason: reason.reason.clone(),
        }
    }

    /// Asks what would come of an action that `signers` sign. The signatures that it has stay here: who answers need not
    /// be who may have them.
    pub(super) async fn ask(&self, context: &Context, action: &Action, signers: Vec<String>) -> Result<Value, Failure> {
        let unsigned = Action { pgp_signatures: Vec::new(), ..action.clone() };
        let request = PreviewRequest {
            action: file::to_json(&unsigned),
            signers,
            standing: self.standing,
            hosts_max: self.hosts_max,
            rings: self.rings.clone(),
            halt_percent: self.halt_percent,
            reason: String::new(),
        };
        context.api.send(PREVIEW, Method::POST, &["actions", "preview"], &request).await
    }

    /// Asks what would come of an action that `signers` sign.
    pub(crate) async fn preview(
        &self,
        context: &Context,
        action: &Action,
        signers: Vec<String>,
    ) -> Result<Preview, Failure> {
        let answer = self.ask(context, action, signers).await?;
        context.api.read(PREVIEW, &answer)
    }

    /// Shows what would come of an action, and refuses one that could not run: nobody is asked to sign or to launch it.
    pub(crate) async fn foresee(
        &self,
        context: &Context,
        action: &Action,
        preview: &Preview,
        signed: Signed,
    ) -> Result<(), Failure> {
        show_preview(context, preview, &self.rings, signed);
        // What was launched before is only looked at again.
        if preview.known.is_some() {
            return Ok(());
        }
        match self.feasible(action, preview) {
            Err(mut failure) if preview.matched == 0 => {
                if let Some(why) = why_nobody(context, &action.target).await {
                    failure.why = format!("{}: {}", failure.why, safe(&why));
                }
                // Where others match, the text of the target is not what keeps them away.
                let hint =
                    if preview.beyond == Beyond::default() { case_hint(context, &action.target).await } else { None };
                Err(match hint {
                    Some(hint) => failure.next(hint),
                    None => failure,
                })
            }
            other => other,
        }
    }

    fn feasible(&self, action: &Action, preview: &Preview) -> Result<(), Failure> {
        const WHAT: &str = "the action would not run";
        let no = |exit, why: String| Err(Failure::new(exit, WHAT, why).on(&action.target));
        if let Some(most) = self.hosts_max.filter(|most| preview.matched > *most && !self.standing) {
            let why = format!("it matches {} machines, and --hosts-max allows {most}", preview.matched);
            return no(Exit::Conflict, why).map_err(|failure| failure.next("choose a narrower target, or allow more"));
        }
        if !preview.problems.is_empty() {
            return no(Exit::Refused, format!("the server would refuse it: {}", preview.problems.join("; ")));
        }
        if self.standing || action.valid_from > values::now() {
            return Ok(());
        }
        if preview.matched == 0 {
            return no(Exit::NotFound, nobody(&preview.beyond)).map_err(|failure| {
                failure.next(
                    "muster agent list; or --standing, which also reaches those that are offline now, or are approved, \
                     unblocked or enrolled while it lasts",
                )
            });
        }
        let waits = preview.refusals.iter().any(|refusal| refusal.code == WEIGHT);
        if preview.willing == 0 && preview.unknown == 0 && !waits {
            let why = preview.refusals.iter().map(|refusal| refusal.reason.as_str()).collect::<Vec<_>>().join("; ");
            return no(Exit::Refused, format!("every machine that it means would refuse it: {why}"));
        }
        Ok(())
    }
}

/// How many machines match and are not given an action that is not standing, by how they stand; empty when there is none.
pub(super) fn not_reached(beyond: &Beyond) -> String {
    let kinds = [
        (beyond.waiting, "waiting for approval"),
        (beyond.blocked, "blocked"),
        (beyond.rekeying, "asked for a new key"),
        (beyond.offline, "offline"),
    ];
    let kinds: Vec<_> =
        kinds.iter().filter(|(agents, _)| *agents > 0).map(|(agents, word)| format!("{word}: {agents}")).collect();
    kinds.join(", ")
}

/// Why no machine would be given an action: an action that is not standing reaches enrolled machines that are online or idle.
fn nobody(beyond: &Beyond) -> String {
    match not_reached(beyond).as_str() {
        "" => "no machine matches".to_owned(),
        kinds => format!("no machine matches that it would be given to: all that do are beyond its reach ({kinds})"),
    }
}

pub(super) const PREVIEW: &str = "could not preview the action";
/// The word for machines that would run it if others signed it too.
const WEIGHT: &str = "weight";

#[cfg(test)]
mod tests {
    use super::super::preview::{outlook, spread_of};
    use super::*;

    fn preview(change: impl FnOnce(&mut Preview)) -> Preview {
        let mut preview = Preview {
            signers: vec![muster_api::actions::Signer {
                investigator: 1,
                name: "Ann".into(),
                fingerprint: "AA".into(),
            }],
            problems: Vec::new(),
            known: None,
            matched: 3,
            beyond: Beyond::default(),
            asked: 3,
            willing: 3,
            unknown: 0,
            noted: 0,
            refusals: Vec::new(),
            demands: Vec::new(),
            ready: true,
            changes: false,
        };
        change(&mut preview);
        preview
    }

    #[test]
    fn a_preview_promises_nothing_that_launching_refuses() {
        let said = |change: fn(&mut Preview)| outlook(&preview(change));
        assert_eq!(said(|_| {}), None);
        let waits = said(|preview| preview.ready = false).unwrap();
        assert_eq!(waits, "It would wait for more signatures.");
        let refused = said(|preview| {
            (preview.ready, preview.signers) = (false, Vec::new());
            preview.problems = vec!["signature 1 does not count: nobody has the key AA".into()];
        });
        let refused = refused.unwrap();
        assert_eq!(refused, "Launching it would be refused: signature 1 does not count: nobody has the key AA.");
        let unsigned = said(|preview| (preview.ready, preview.signers) = (false, Vec::new())).unwrap();
        assert!(unsigned.contains("needs signatures"), "{unsigned}");
    }

    fn action() -> Action {
        Action::parse(br#"{"target": "true", "operations": [{"module": "timedrift"}]}"#).unwrap()
    }

    #[test]
    fn flags_that_cannot_work_are_refused_before_any_key_is_asked_for() {
        let with = |change: fn(&mut SpreadArgs)| {
            let mut spread = SpreadArgs::default();
            change(&mut spread);
            spread.check("x").map_err(|failure| failure.on)
        };
        assert!(with(|_| {}).is_ok() && with(|spread| spread.rings = vec![1, 10, 100]).is_ok());
        for rings in [vec![0], vec![101], vec![10, 1], vec![5, 5], vec![1; 17]] {
            assert!(SpreadArgs { rings, ..SpreadArgs::default() }.check("x").is_err());
        }
        assert_eq!(with(|spread| spread.halt_percent = Some(101)).unwrap_err(), "--halt-percent");
        assert_eq!(with(|spread| spread.hosts_max = Some(0)).unwrap_err(), "--hosts-max 0");
    }

    #[test]
    fn what_could_not_run_is_neither_signed_nor_launched() {
        let refused = |spread: SpreadArgs, change: fn(&mut Preview)| {
            spread.feasible(&action(), &preview(change)).map_err(|failure| (failure.exit, failure.why))
        };
        let plain = SpreadArgs::default;
        assert!(refused(plain(), |_| {}).is_ok());
        let few = SpreadArgs { hosts_max: Some(2), ..plain() };
        assert_eq!(refused(few, |_| {}).unwrap_err().0, Exit::Conflict);
        assert!(refused(SpreadArgs { hosts_max: Some(3), ..plain() }, |_| {}).is_ok());
        let problem = refused(plain(), |preview| preview.problems = vec!["nobody has the key".into()]);
        assert_eq!(problem.unwrap_err().0, Exit::Refused);
        let nobody: fn(&mut Preview) = |preview| (preview.matched, preview.willing) = (0, 0);
        assert_eq!(refused(plain(), nobody).unwrap_err(), (Exit::NotFound, "no machine matches".to_owned()));
        let beyond: fn(&mut Preview) = |preview| {
            (preview.matched, preview.willing) = (0, 0);
            preview.beyond = Beyond { waiting: 2, blocked: 1, ..Beyond::default() };
        };
        let (exit, why) = refused(plain(), beyond).unwrap_err();
        assert_eq!(exit, Exit::NotFound);
        assert!(why.ends_with("beyond its reach (waiting for approval: 2, blocked: 1)"), "{why}");
        assert!(refused(SpreadArgs { standing: true, ..plain() }, nobody).is_ok());
        let all_refuse = |code: &str| {
            let refusal = muster_api::actions::PreviewRefusal {
                code: code.into(),
                reason: "why".into(),
                agents: 3,
                examples: Vec::new(),
            };
            let preview = preview(|preview| (preview.willing, preview.refusals) = (0, vec![refusal]));
            plain().feasible(&action(), &preview).map_err(|failure| failure.exit)
        };
        assert_eq!(all_refuse("unknown-module"), Err(Exit::Refused));
        assert_eq!(all_refuse("weight"), Ok(()), "it waits for more signatures");
    }

    #[test]
    fn shares_are_told_as_they_were_asked_for() {
        assert!(spread_of(&[]).contains("1 %, to 10 %"));
        assert!(spread_of(&[5, 50]).contains("goes to 5 %, to 50 %, then"));
        assert!(spread_of(&[100]).contains("all at once"));
    }
}
