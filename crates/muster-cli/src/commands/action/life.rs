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
        printed(&context, &answer, &launched)
    }
}

/// Prints a launched action that nobody watches.
fn printed(context: &Context, answer: &Value, launched: &ActionLaunched) -> Result<(), Failure> {
    let summary = &launched.action.summary;
    if context.out.json {
        context.out.json(answer)?;
    } else {
        context.out.line(&format!("{}  {}", summary.id, safe(&summary.status)))?;
    }
    stands(summary)
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

/// Says whether an action goes on or is done: the one rule for the exit codes of all that launch or watch one.
///
/// # Errors
/// It waits for signatures ([`Exit::Refused`]); it halted, was called back or is invalid ([`Exit::Failed`]): then machines
/// that have not answered yet are given it no more.
pub(crate) fn stands(summary: &ActionSummary) -> Result<(), Failure> {
    let id = summary.id;
    let not = |exit, why: String| Failure::new(exit, format!("action {id} is not done"), why);
    Err(match summary.status.as_str() {
        _ if summary.halted.is_some() => not(Exit::Failed, format!("it halted between two shares: {}", summary.reason))
            .next(format!("muster action results {id}; then `muster action resume {id}` or `cancel {id}`")),
        "waiting" => not(Exit::Refused, "it waits for more signatures".to_owned())
            .next(format!("another investigator adds one: muster action sign {id}; then muster action watch {id}")),
        "cancelled" => not(Exit::Failed, because("it was called back", &summary.reason)),
        "invalid" => not(Exit::Failed, because("it is invalid", &summary.reason)),
        _ => return Ok(()),
    })
}

fn because(what: &str, reason: &str) -> String {
    if reason.is_empty() { what.to_owned() } else { format!("{what}: {reason}") }
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

    fn summary(status: &str, halted: Option<&str>) -> ActionSummary {
        let summary = serde_json::json!({
            "id": 7, "name": "q", "target": "true", "status": status, "reason": "", "valid_from": "",
            "expire_after": "", "created": "", "started": null, "finished": null, "updated": "", "halted": halted,
            "matched": 1, "late": 0, "counters": muster_api::actions::ActionCounters::default(),
        });
        serde_json::from_value(summary).unwrap()
    }

    #[test]
    fn an_action_that_was_launched_before_is_told_as_it_stands() {
        let said = |status: &str, halted: Option<&str>| again(&summary(status, halted));
        for (status, wanted) in [("waiting", "still waits"), ("pending", "pending now"), ("completed", "not run again")]
        {
            assert!(said(status, None).contains(wanted), "{status}");
        }
        assert!(said("inflight", Some("2026-01-02T03:04:05Z")).contains("halted"));
    }

    #[test]
    fn how_an_action_stands_is_one_exit_code_whoever_looks() {
        let exit = |status: &str, halted: bool| {
            let halted = halted.then_some("2026-01-02T03:04:05Z");
            stands(&summary(status, halted)).map_err(|failure| failure.exit)
        };
        for status in ["pending", "scheduled", "preparing", "inflight", "completed"] {
            assert_eq!(exit(status, false), Ok(()), "{status}");
        }
        assert_eq!(exit("waiting", false), Err(Exit::Refused));
        for status in ["cancelled", "invalid"] {
            assert_eq!(exit(status, false), Err(Exit::Failed), "{status}");
        }
        assert_eq!(exit("inflight", true), Err(Exit::Failed));
    }

    #[tokio::test]
    async fn a_launch_that_does_not_go_on_is_no_success() {
        use axum::response::Json;
        use axum::routing::post;
        let launched = async |status: &str, again: bool, json: bool| {
            let mut detail = serde_json::to_value(summary(status, None)).unwrap();
            for (name, value) in [
                ("signers", serde_json::json!([])),
                ("standing", false.into()),
                ("hosts_max", Value::Null),
                ("rings", serde_json::json!([])),
                ("halt_percent", 10.into()),
                ("action", "{}".into()),
                ("signed_text", "".into()),
                ("signed_sha256", "".into()),
            ] {
                detail[name] = value;
            }
            let detail = serde_json::json!({"again": again, "action": detail});
            let routes = axum::Router::new().route("/api/v1/actions", post(move || async move { Json(detail) }));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
            tokio::spawn(async move { axum::serve(listener, routes).await });
            let door = crate::connect::Door { url, token: None, trust: crate::connect::Trust::System };
            let api = crate::Api::new(door, std::time::Duration::from_secs(5)).unwrap();
            let context = Context { api, out: crate::Output { json, terminal: false, color: false } };
            let (answer, launched) = launch(&context, &ActionRequest::default()).await.unwrap();
            printed(&context, &answer, &launched).map_err(|failure| failure.exit)
        };
        for (again, json) in [(false, false), (true, false), (false, true)] {
            assert_eq!(launched("waiting", again, json).await, Err(Exit::Refused), "{again} {json}");
            assert_eq!(launched("cancelled", again, json).await, Err(Exit::Failed), "{again} {json}");
            assert_eq!(launched("pending", again, json).await, Ok(()), "{again} {json}");
        }
    }
}
