//! Actions as files, and the checks that one must pass to be signed.

use super::{decidable, packing};
use crate::commands::named::holds_names;
use crate::save::{self, ReplaceArgs};
use crate::signing::read_file;
use crate::{Context, Exit, Failure, Globals, Output};
use muster_core::action::{Action, ActionError, Operation};
use muster_core::target::{Target, TargetError};
use muster_core::{Timestamp, limits};
use muster_modules::message::unpacked;
use muster_modules::{Refused, registry};
use muster_trust::signed_text;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// Where an action is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a file.
    File(PathBuf),
    /// On standard input, and then on standard output.
    Standard,
    /// On the server, under this number.
    Server(i64),
}

impl Place {
    /// A number is the server's; `./12` is a file of that name.
    pub(crate) fn of(text: &str) -> Self {
        match text.parse() {
            Ok(number) if number > 0 => Self::Server(number),
            _ if text == "-" => Self::Standard,
            _ => Self::File(text.into()),
        }
    }

    /// Fetches the action.
    pub(crate) async fn read(&self, globals: &Globals, what: &str) -> Result<Action, Failure> {
        match self {
            Self::Server(id) => fetch(&Context::new(globals)?, what, *id).await,
            _ => self.read_here(what),
        }
    }

    fn read_here(&self, what: &str) -> Result<Action, Failure> {
        let path = match self {
            Self::File(path) => path.as_path(),
            _ => Path::new("/dev/stdin"),
        };
        let bytes = read_file(what, path, packing::FILE_BYTES_MAX)?;
        parse(what, &path.display().to_string(), &packing::shrunk(bytes))
    }
}

/// Fetches an action of the server.
pub(crate) async fn fetch(context: &Context, what: &str, id: i64) -> Result<Action, Failure> {
    let answer = context.api.get(what, &["actions", &id.to_string()], &()).await?;
    let detail: muster_api::actions::ActionDetail = context.api.read(what, &answer)?;
    parse(what, &format!("action {id}"), detail.action.as_bytes())
}

pub(crate) fn parse(what: &str, on: &str, json: &[u8]) -> Result<Action, Failure> {
    Action::parse(json).map_err(|error| {
        Failure::usage(what, error.to_string()).on(on).next("`muster action new` writes actions of the right form")
    })
}

/// Returns an action as its file holds it.
pub(crate) fn to_json(action: &Action) -> String {
    let mut text = serde_json::to_string_pretty(action).expect("an action has text as keys and finite numbers");
    text.push('\n');
    text
}

/// Writes an action to a file, whole or not at all, or to standard output.
pub(crate) async fn write(
    out: Output,
    what: &str,
    path: Option<&Path>,
    action: &Action,
    replace: ReplaceArgs,
) -> Result<(), Failure> {
    save::write(out, what, path, &to_json(action), replace).await
}

/// Checks all but the signatures, and returns the text that signatures cover.
pub(crate) fn check(what: &str, action: &Action, now: Timestamp) -> Result<String, Failure> {
    let failure = |error: String| Failure::usage(what, error);
    match action.check(now) {
        Ok(()) | Err(ActionError::SignaturesEmpty) => {}
        Err(error) => return Err(failure(error.to_string())),
    }
    target_check(&action.target)?;
    decidable::check(what, action)?;
    for operation in &action.operations {
        parameters_check(operation).map_err(|Refused(why)| failure(format!("module {}: {why}", operation.module)))?;
    }
    signed_text(action).map_err(|error| failure(error.to_string()))
}

/// Refuses a window that machines refuse unless they are configured otherwise, and servers always.
pub(crate) fn window_check(what: &str, action: &Action) -> Result<(), Failure> {
    action
        .window_length_check(limits::ACTION_WINDOW_MAX)
        .map_err(|error| Failure::usage(what, error.to_string()).next("give a shorter --expires-in"))
}

/// What modules of other programs take is not known here.
fn parameters_check(operation: &Operation) -> Result<(), Refused> {
    let Some(module) = registry::find(&operation.module) else { return Ok(()) };
    let parameters: serde_json::Value =
        serde_json::from_str(operation.parameters.as_str()).map_err(|error| Refused(error.to_string()))?;
    if !operation.is_compressed {
        return module.validate(&parameters);
    }
    let packed = parameters.as_str().ok_or_else(|| Refused("packed parameters must be a text".to_owned()))?;
    module.validate(&unpacked(packed)?)
}

/// Returns the SHA-256 of a signed text, as the server shows it too.
pub(crate) fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// Refuses a target that no machine can read, such as one with names that were not written out.
fn target_check(target: &str) -> Result<(), Failure> {
    let refused = |error: TargetError| {
        let next = if holds_names(target) {
            "names are written out before anything is signed: `muster action new` and `muster ask` do that"
        } else {
            "docs/reference/targets.md lists what an expression may hold"
        };
        Failure::usage("could not read the target", error.to_string()).on(target).next(next)
    };
    Target::parse(target).map(drop).map_err(refused)
}

/// Says what an action of the server must not be when somebody is to sign it.
pub(crate) fn refuse_done(what: &str, status: &str) -> Result<(), Failure> {
    if matches!(status, "waiting" | "pending") {
        return Ok(());
    }
    let why = format!("it is {status}: further signatures change nothing");
    Err(Failure::new(Exit::Conflict, what, why))
}
