//! `muster action sign`: one more signature, of a file or of an action that waits on the server.

use super::consent::{Origin, UnseenArgs, agree_to_servers, checks_before_signing, show, uninterrupted};
use super::file::{self, Place};
use super::packing;
use super::shown::Shown;
use super::window::WindowArgs;
use crate::commands::ReasonArgs;
use crate::output::safe;
use crate::save::{self, ReplaceArgs};
use crate::signing::{SignArgs, Signer, WHAT};
use crate::{Context, Exit, Failure, Globals, Output, values};
use muster_api::actions::{ActionDetail, SignatureRequest};
use muster_core::Action;
use reqwest::Method;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct SignCommand {
    /// The action: a file, - for standard input, or the number of one that waits for signatures on the server
    action: String,
    #[command(flatten)]
    with: SignArgs,
    #[command(flatten)]
    window: WindowArgs,
    /// Write the signed action here instead of into the same file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    replace: ReplaceArgs,
    /// Sign only what has this SHA-256. Without a terminal, what comes from the server is signed only so
    #[arg(long, value_name = "SHA256")]
    digest: Option<String>,
    #[command(flatten)]
    unseen: UnseenArgs,
    #[command(flatten)]
    reason: ReasonArgs,
}

impl SignCommand {
    pub(super) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        match Place::of(&self.action) {
            Place::Server(_) if self.window.is_given() => {
                let why = "an action of the server has its window, and its signatures cover it";
                Err(Failure::usage(WHAT, why).next("leave --expires-in and --valid-from out"))
            }
            Place::Server(id) => self.sign_there(&Context::new(globals)?, id).await,
            place => self.sign_here(globals, &place).await,
        }
    }

    async fn sign_here(&self, globals: &Globals, place: &Place) -> Result<(), Failure> {
        let out = Output::new(globals.json);
        let mut action = place.read(globals, WHAT).await?;
        self.window.fill(WHAT, &mut action, values::now())?;
        if action.pgp_signatures.is_empty() {
            action.operations = action.operations.into_iter().map(packing::pack).collect();
        }
        let text = file::check(WHAT, &action, values::now())?;
        // What nobody signed yet is the person's own; what somebody did may be anybody's.
        let origin = if action.pgp_signatures.is_empty() { Origin::Own } else { Origin::Elsewhere(&self.unseen) };
        let shown = shown(&action, &text, origin)?;
        if let Some(given) = &self.digest {
            agree_to_servers("Sign this?", Some(given), &shown).await?;
        }
        let signer = self.with.signer().await?;
        sign(&self.with, &signer, &mut action, &text).await?;
        let (path, replace) = match (&self.out, place) {
            (Some(path), _) => (save::named(Some(path)), self.replace),
            // The file gains a signature, and loses nothing.
            (None, Place::File(path)) => (Some(path.as_path()), ReplaceArgs { replace: true }),
            (None, _) => (None, self.replace),
        };
        file::write(out, WHAT, path, &action, replace).await?;
        let where_to = path.map(|path| path.display().to_string()).unwrap_or_default();
        out.note(&format!("{where_to}  signed by {}, {} in all", safe(&signer.name()), action.pgp_signatures.len()));
        Ok(())
    }

    async fn sign_there(&self, context: &Context, id: i64) -> Result<(), Failure> {
        let path = id.to_string();
        let answer = context.api.get(WHAT, &["actions", &path], &()).await?;
        let detail: ActionDetail = context.api.read(WHAT, &answer)?;
        file::refuse_done(WHAT, &detail.summary.status)?;
        let action = file::parse(WHAT, &format!("action {id}"), detail.action.as_bytes())?;
        // What is signed is worked out here: the server must not choose it.
        let text = file::check(WHAT, &action, values::now())?;
        let shown = shown(&action, &text, Origin::Elsewhere(&self.unseen))?;
        let signer = self.with.signer().await?;
        let question = format!("Sign this as {}?", signer.name());
        agree_to_servers(&question, self.digest.as_deref(), &shown).await?;
        let after = "let another investigator sign it";
        let made = uninterrupted(self.with.sign_as(&signer, &text, &action.pgp_signatures, after)).await?;
        let request = SignatureRequest { signature: made.line, reason: self.reason.reason.clone() };
        let answer = context.api.send(WHAT, Method::POST, &["actions", &path, "sign"], &request).await?;
        if context.out.json {
            return context.out.json(&answer);
        }
        let status = answer.get("status").and_then(serde_json::Value::as_str).unwrap_or_default();
        context.out.note(&format!("action {id}  signed by {}, now {}", safe(&made.signer), safe(status)));
        Ok(())
    }
}

/// Shows what would be signed, unless it must not be.
fn shown(action: &Action, text: &str, origin: Origin<'_>) -> Result<Shown, Failure> {
    let shown = Shown::of(action, text);
    let notes = checks_before_signing(action, &shown, origin);
    show(&shown, notes.as_deref().unwrap_or_default());
    notes.map(|_| shown)
}

/// Adds a signature to an action that was shown as `text`.
pub(crate) async fn sign(with: &SignArgs, signer: &Signer, action: &mut Action, text: &str) -> Result<(), Failure> {
    let after = "let another investigator sign it, or launch it";
    let made = uninterrupted(with.sign_as(signer, text, &action.pgp_signatures, after)).await?;
    action.pgp_signatures.push(made.line);
    // The file is read elsewhere: what it says there must be what was signed.
    let again = file::parse(WHAT, "the signed action", file::to_json(action).as_bytes())?;
    if file::check(WHAT, &again, values::now())? != text {
        let why = "written to a file, it would say something else than what was signed";
        return Err(Failure::new(Exit::Failed, WHAT, why).next("write its times and numbers in a simpler form"));
    }
    Ok(())
}
