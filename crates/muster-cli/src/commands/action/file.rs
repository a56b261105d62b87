//! Actions as files, and what a person is shown of one before signing it.

use super::packing;
use crate::commands::target::holds_names;
use crate::save::{self, ReplaceArgs};
use crate::signing::read_file;
use crate::{Context, Exit, Failure, Globals, Output};
use muster_core::Timestamp;
use muster_core::action::{Action, ActionError, Operation};
use muster_core::target::{Target, TargetError};
use muster_modules::message::unpacked;
use muster_modules::{Effect, Refused, registry};
use muster_trust::signed_text;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// Characters of an operation's parameters that are shown.
const PARAMETERS_SHOWN: usize = 600;

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
    for operation in &action.operations {
        parameters_check(operation).map_err(|Refused(why)| failure(format!("module {}: {why}", operation.module)))?;
    }
    signed_text(action).map_err(|error| failure(error.to_string()))
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

/// Shows on standard error what a signature will cover.
pub(crate) fn show(out: Output, action: &Action, text: &str) {
    let mut lines = vec![
        ("Name", action.name.clone()),
        ("Target", action.target.clone()),
        ("Valid from", crate::output::time(&action.valid_from.to_string())),
        ("Expires", crate::output::time(&action.expire_after.to_string())),
    ];
    for operation in &action.operations {
        let parameters = muster_core::text::cut(operation.parameters.as_str(), PARAMETERS_SHOWN);
        lines.push(("Runs", format!("{} {parameters}{}", operation.module, changes(&operation.module))));
    }
    lines.push(("SHA-256", sha256(text)));
    for (name, value) in lines {
        out.note(&format!("{name:<12}{}", crate::output::safe(&value)));
    }
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

/// Whether an operation changes machines, as far as its module is known here.
pub(crate) fn changes_machines(action: &Action) -> bool {
    let changes = |operation: &Operation| {
        registry::find(&operation.module).is_some_and(|module| module.info().effect == Effect::Changes)
    };
    action.operations.iter().any(changes)
}

fn changes(module: &str) -> &'static str {
    match registry::find(module) {
        Some(module) if module.info().effect == Effect::Changes => "  [changes the machine]",
        Some(_) => "",
        None => "  [a module of another program]",
    }
}

/// Says what an action of the server must not be when somebody is to sign it.
pub(crate) fn refuse_done(what: &str, status: &str) -> Result<(), Failure> {
    if matches!(status, "waiting" | "pending") {
        return Ok(());
    }
    let why = format!("it is {status}: further signatures change nothing");
    Err(Failure::new(Exit::Conflict, what, why))
}
