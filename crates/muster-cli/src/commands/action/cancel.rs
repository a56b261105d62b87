//! `muster action cancel`: an action is called back, by the word of somebody who could have ordered it.
//!
//! Stays true: what is signed names the action by what people signed, which is worked out on this machine; without a key
//! the server only hands it out no more, and what is printed says exactly that. Not here: whose word counts, which each
//! machine decides.

use super::consent::{Origin, UnseenArgs, agree_to_servers, show, uninterrupted, unseen_check};
use super::file;
use super::shown::Shown;
use crate::commands::ReasonArgs;
use crate::output::safe;
use crate::signing::SignArgs;
use crate::{Context, Failure, values};
use muster_api::actions::{ActionDetail, CancelRequest};
use muster_core::{Action, Timestamp, limits};
use muster_trust::{Cancellation, LedgerKey, signed_text};
use reqwest::Method;

#[derive(Debug, clap::Args)]
pub(super) struct CancelArgs {
    /// Its number
    id: i64,
    /// Sign nothing: the server hands the action out no more, and machines that have it run it
    #[arg(long)]
    server_only: bool,
    /// Only in this fleet; an action with the same text in another one goes on
    #[arg(long, env = "MUSTER_FLEET", value_name = "NAME", value_parser = values::fleet)]
    fleet: Option<String>,
    #[command(flatten)]
    with: SignArgs,
    /// Call back only the action whose signed text has this SHA-256. Without a terminal, nothing is signed but so
    #[arg(long, value_name = "SHA256")]
    digest: Option<String>,
    #[command(flatten)]
    unseen: UnseenArgs,
    #[command(flatten)]
    reason: ReasonArgs,
}

impl CancelArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let what = format!("could not call action {} back", self.id);
        let mut request = CancelRequest { reason: self.reason.reason.clone(), ..CancelRequest::default() };
        let mut again = None;
        if !self.server_only {
            request.fleet = self.fleet.clone().unwrap_or_default();
            (request.signature, again) = self.sign(context, &what, &request.fleet).await?;
        }
        let path = ["actions", &self.id.to_string(), "cancel"];
        let answer = context.api.send(&what, Method::POST, &path, &request).await?;
        if context.out.json {
            if let Some(again) = again {
                context.out.note(&again);
            }
            return context.out.json(&answer);
        }
        let detail: ActionDetail = context.api.read(&what, &answer)?;
        let sent = detail.summary.counters.sent;
        context.out.note(&outcome(self.id, sent, self.server_only));
        if let Some(again) = again {
            context.out.note(&again);
        }
        Ok(())
    }

    /// Shows what is called back, asks, and signs. Returns the signature, and when and how that is to be repeated.
    async fn sign(&self, context: &Context, what: &str, fleet: &str) -> Result<(String, Option<String>), Failure> {
        let action = file::fetch(context, what, self.id).await?;
        // Worked out here: a server must not choose what is called back.
        let text = signed_text(&action).map_err(|error| Failure::usage(what, error.to_string()))?;
        let key = LedgerKey::of(&text);
        let said = Cancellation::of(&key, fleet, action.expire_after);
        let shown = self.shown(&action, &text, fleet)?;
        let signer = self.with.signer().await.map_err(|failure| {
            let is_told = !failure.next.is_empty();
            let next = "without a key: `--server-only`, which keeps the server from handing it out any further";
            if is_told { failure } else { failure.next(next) }
        })?;
        let question = format!("Sign as {} that this is called back?", signer.name());
        agree_to_servers(&question, self.digest.as_deref(), &shown).await?;
        let said = said.signing_text();
        let made = uninterrupted(self.with.sign_as(&signer, &said, &[], "send it again")).await?;
        let out = context.out;
        out.note(&format!("signed by {}", safe(&made.signer)));
        Ok((made.line, again((self.id, fleet, &shown.digest), action.expire_after, values::now())))
    }

    /// Shows what would be called back, unless it cannot be shown whole: a person who saw only its beginning does not know
    /// which order a signature would keep from running.
    fn shown(&self, action: &Action, text: &str, fleet: &str) -> Result<Shown, Failure> {
        let shown = Shown::of(action, text);
        let fleets = if fleet.is_empty() { "in every fleet" } else { fleet };
        let mut notes = vec![format!("This is called back: {fleets}.")];
        notes.extend(too_early(action.expire_after, values::now()));
        let unseen = unseen_check(&shown, Origin::Elsewhere(&self.unseen));
        notes.extend(unseen.as_ref().ok().cloned().flatten());
        show(&shown, &notes);
        unseen.map(|_| shown)
    }
}

/// From when on machines take the cancellation of an order that ends at `until`, if they do not take it `now`.
fn taken_from(until: Timestamp, now: Timestamp) -> Option<Timestamp> {
    Some(until.minus(limits::CANCEL_AHEAD_MAX)).filter(|from| now < *from)
}

/// Says when machines take the cancellation of an order that ends at `until`, if they do not take it `now`.
fn too_early(until: Timestamp, now: Timestamp) -> Option<String> {
    taken_from(until, now).map(|from| {
        format!(
            "Machines refuse this before {from}, because its window ends late: the server stops now, sign again then."
        )
    })
}

/// Returns the command with which the cancellation of action `id` with this digest is repeated, and when, if machines refuse
/// what is signed `now`.
fn again((id, fleet, digest): (i64, &str, &str), until: Timestamp, now: Timestamp) -> Option<String> {
    let from = taken_from(until, now)?;
    let fleet = if fleet.is_empty() { String::new() } else { format!(" --fleet '{fleet}'") };
    Some(format!(
        "action {id}  machines refuse this cancellation before {from}, because the action's window ends only at {until}. The \
         server hands the action out no more; for machines that have it, sign again from {from} on:\n    muster action cancel \
         {id}{fleet} --digest {digest}"
    ))
}

/// Says what was done, and what was not.
fn outcome(id: i64, sent: u64, server_only: bool) -> String {
    if server_only {
        return format!(
            "action {id}  the server hands it out no more. Machines that were given it before (at most {sent}) run it to its \
             end: they call back only on the word of somebody who signed it, or of that weight (`muster action cancel {id}` with \
             a key)"
        );
    }
    format!(
        "action {id}  called back: the server hands it out no more, and machines that were given it are sent your signature; \
         one that did not hear of it yet still runs it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Exit;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        cancel: CancelArgs,
    }

    #[test]
    fn what_was_not_seen_whole_is_called_back_only_with_a_word_of_its_own() {
        let action = |bytes: usize| {
            let json = format!(
                r#"{{"name": "q", "target": "true", "validfrom": "2026-01-02T03:04:05Z", "syntaxversion": 2,
                    "expireafter": "2026-01-02T04:04:05Z",
                    "operations": [{{"module": "scribe", "parameters": "{}"}}]}}"#,
                "x".repeat(bytes)
            );
            Action::parse(json.as_bytes()).unwrap()
        };
        let shown = |words: &[&str], action: &Action| {
            let line = Line::try_parse_from([&["cancel", "7"], words].concat()).unwrap();
            line.cancel.shown(action, &signed_text(action).unwrap(), "lab")
        };
        let (short, long) = (action(10), action(700_000));
        assert!(shown(&[], &short).is_ok());
        let refused = shown(&[], &long).unwrap_err();
        assert!(refused.exit == Exit::Refused && refused.why.contains("cannot be shown whole"), "{refused}");
        assert!(refused.next.contains("--yes-unseen"), "{refused}");
        assert!(shown(&["--yes-unseen"], &long).unwrap().unseen.is_some());
    }

    #[test]
    fn who_calls_back_an_order_of_later_hears_when_machines_listen() {
        let now = Timestamp::from_secs(1_800_000_000);
        let soon = now.plus(limits::CANCEL_AHEAD_MAX);
        assert_eq!(too_early(soon, now), None);
        let said = too_early(soon.plus(std::time::Duration::from_secs(60)), now).unwrap();
        assert!(said.contains(&now.plus(std::time::Duration::from_secs(60)).to_string()), "{said}");
    }

    #[test]
    fn the_command_that_repeats_what_was_signed_too_early_is_printed() {
        let now = Timestamp::from_secs(1_800_000_000);
        let soon = now.plus(limits::CANCEL_AHEAD_MAX);
        let minute = std::time::Duration::from_secs(60);
        assert_eq!(again((7, "lab", "5c1f"), soon, now), None, "machines take it now");
        let said = again((7, "lab", "5c1f"), soon.plus(minute), now).unwrap();
        assert!(said.ends_with("muster action cancel 7 --fleet 'lab' --digest 5c1f"), "{said}");
        assert!(said.contains(&format!("sign again from {} on", now.plus(minute))), "{said}");
        let everywhere = again((7, "", "5c1f"), soon.plus(minute), now).unwrap();
        assert!(everywhere.ends_with("muster action cancel 7 --digest 5c1f"), "{everywhere}");
        // At that moment it is not too early any more.
        assert_eq!(again((7, "lab", "5c1f"), soon.plus(minute), now.plus(minute)), None);
    }

    #[test]
    fn without_a_signature_nothing_more_is_promised_than_happens() {
        let said = outcome(7, 3, true);
        assert!(said.contains("(at most 3) run it to its end") && !said.contains("called back:"), "{said}");
        assert!(outcome(7, 3, false).contains("called back:"));
    }
}
