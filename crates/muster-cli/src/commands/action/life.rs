//! `muster action launch|resume`: what is given to the server, and how it stands afterwards.

use super::consent::{self, ConsentArgs};
use super::file::{self, Place};
use super::order::Order;
use super::preview::{Signed, signers_of};
use super::shown::Shown;
use super::spread::SpreadArgs;
use crate::commands::ReasonArgs;
use crate::output::safe;
use crate::{Context, Exit, Failure, Globals, values};
use muster_api::actions::{ActionLaunched, ActionRequest, ActionSummary};
use reqwest::Method;
use serde_json::Value;

#[derive(Debug, clap::Args)]
pub(super) struct LaunchArgs {
    /// The signed action: a file, or - for standard input
    action: String,
    #[command(flatten)]
    spread: SpreadArgs,
    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    consent: ConsentArgs,
    /// Stay, and print results as they arrive
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    how: super::results::HowArgs,
}

impl LaunchArgs {
    pub(super) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        const WHAT: &str = "could not launch the action";
        self.spread.check(WHAT)?;
        let context = Context::new(globals)?;
        self.how.check(context.out)?;
        if !self.watch {
            self.how.check_unused(WHAT)?;
        }
        let action = here(WHAT, &self.action)?.read(globals, WHAT).await?;
        let text = file::check(WHAT, &action, values::now())?;
        file::window_check(WHAT, &action)?;
        if action.pgp_signatures.is_empty() {
            let next = format!("muster action sign {}", self.action);
            return Err(Failure::usage(WHAT, "nobody has signed it").on(&self.action).next(next));
        }
        let shown = Shown::of(&action, &text);
        consent::show(&shown, &[]);
        let preview = self.spread.preview(&context, &action, signers_of(&action)?).await?;
        self.spread.foresee(&context, &action, &preview, Signed::Already).await?;
        consent::agree("Launch it?", &self.consent, shown.changes || preview.changes).await?;
        let (answer, launched) = launch(&context, &self.spread.request(&action, &self.reason)).await?;
        let summary = &launched.action.summary;
        if launched.again {
            context.out.note(&safe(&again(summary)));
        }
        if self.watch {
            return self.how.follow(&context, summary.id, &Order::own(&action)).await;
        }
        if context.out.json {
            context.out.json(&answer)?;
        } else {
            context.out.line(&format!("{}  {}", summary.id, safe(&summary.status)))?;
        }
        match summary.status.as_str() {
            "waiting" if launched.again => Err(waits(summary.id)),
            "waiting" => {
                let next = format!("muster action sign {}", summary.id);
                context.out.note(&format!("It waits for signatures; another investigator adds one: {next}"));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn here(what: &str, text: &str) -> Result<Place, Failure> {
    match Place::of(text) {
        Place::Server(id) => {
            Err(Failure::usage(what, format!("action {id} is on the server already")).next("name a file; ./12 is one"))
        }
        place => Ok(place),
    }
}

/// Launches an action; returns the answer as it was, and read.
pub(crate) async fn launch(context: &Context, request: &ActionRequest) -> Result<(Value, ActionLaunched), Failure> {
    const WHAT: &str = "could not launch the action";
    let answer = context.api.send(WHAT, Method::POST, &["actions"], request).await?;
    let launched = context.api.read(WHAT, &answer)?;
    Ok((answer, launched))
}

/// Says how an action stands that was launched before. Signatures that it had not yet may have been added to it.
pub(crate) fn again(summary: &ActionSummary) -> String {
    let stands = match summary.status.as_str() {
        _ if summary.halted.is_some() => "it halted between two shares",
        "waiting" => "it still waits for signatures",
        "completed" => "it is completed, and not run again",
        "cancelled" => "it was called back, and is not run again",
        "invalid" => "it is invalid, and not run",
        other => return format!("The same action was launched before: it is {other} now."),
    };
    format!("The same action was launched before: {stands}.")
}

/// The failure of an action that nobody answers, because it waits.
pub(crate) fn waits(id: i64) -> Failure {
    Failure::new(Exit::Refused, format!("action {id} is not done"), "it waits for more signatures")
        .next(format!("another investigator adds one: muster action sign {id}; then muster action watch {id}"))
}

/// Orders something of an action that needs only a reason.
pub(super) async fn order(context: &Context, id: i64, verb: &str, reason: &ReasonArgs) -> Result<(), Failure> {
    let what = format!("could not {verb} action {id}");
    let answer = context.api.send(&what, Method::POST, &["actions", &id.to_string(), verb], &reason.body()).await?;
    if context.out.json {
        return context.out.json(&answer);
    }
    context.out.note(&format!("action {id}  {verb}: done"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_that_was_launched_before_is_told_as_it_stands() {
        let said = |status: &str, halted: Option<&str>| {
            let summary = serde_json::json!({
                "id": 7, "name": "q", "target": "true", "status": status, "reason": "", "valid_from": "",
                "expire_after": "", "created": "", "started": null, "finished": null, "updated": "", "halted": halted,
                "matched": 1, "late": 0, "counters": muster_api::actions::ActionCounters::default(),
            });
            again(&serde_json::from_value(summary).unwrap())
        };
        for (status, wanted) in [("waiting", "still waits"), ("pending", "pending now"), ("completed", "not run again")]
        {
            assert!(said(status, None).contains(wanted), "{status}");
        }
        assert!(said("inflight", Some("2026-01-02T03:04:05Z")).contains("halted"));
        assert_eq!(waits(7).exit, Exit::Refused);
    }
}
