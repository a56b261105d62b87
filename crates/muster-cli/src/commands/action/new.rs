//! `muster action new`: an action of version 2 from flags.

use super::{file, packing};
use crate::commands::named::{of_fleet, written_out};
use crate::save::{self, ReplaceArgs};
use crate::values::duration;
use crate::{Context, Exit, Failure, Globals, Output, values};
use muster_core::action::{Action, Description, Json, Operation, SYNTAX_VERSION, Threat};
use muster_core::{Timestamp, limits};
use muster_modules::{ArgumentError, params_from_args, registry};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

const WHAT: &str = "could not write the action";
/// How long before now an action is valid, for machines whose clocks are behind.
pub(super) const EARLY: Duration = Duration::from_secs(60);
/// Parts operations.
pub(crate) const PART: &str = "--";

#[derive(Debug, clap::Args)]
pub(super) struct NewArgs {
    /// What it is for, in your words; signed
    #[arg(long)]
    name: String,
    /// Which machines it is for: an expression such as os='linux', @NAME for one that you keep (`muster target save`);
    /// signed as written out
    #[arg(long, value_name = "EXPRESSION")]
    target: String,
    /// Only machines of this fleet: `fleet = 'NAME'` is added to the target, and signed
    #[arg(long, env = "MUSTER_FLEET", value_name = "NAME", value_parser = values::fleet)]
    fleet: Option<String>,
    /// How long machines may start it, from now or from --valid-from
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    expires_in: Duration,
    /// When machines may start it first (RFC 3339); a minute ago unless told, for clocks that are behind
    #[arg(long, value_name = "TIME", value_parser = moment)]
    valid_from: Option<Timestamp>,
    /// Who writes it
    #[arg(long, default_value = "", hide_default_value = true)]
    author: String,
    /// Where to ask
    #[arg(long, default_value = "", hide_default_value = true)]
    email: String,
    /// Where to read on
    #[arg(long = "read-on", value_name = "URL", default_value = "", hide_default_value = true)]
    read_on: String,
    /// Which version of the file it is
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, hide_default_value = true)]
    revision: f64,
    /// What it looks for: what it is called elsewhere
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    threat_ref: String,
    /// What it looks for: how bad it is
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    threat_level: String,
    /// What it looks for: its family; `compliance` marks a question of compliance
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    threat_family: String,
    /// What it looks for: its type
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    threat_type: String,
    /// An operation as JSON, such as {"module":"x","parameters":{}}, or @FILE; also for modules of other programs
    #[arg(long = "operation", value_name = "JSON")]
    operations: Vec<String>,
    /// The file to write; standard output unless told
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    replace: ReplaceArgs,
    /// A module and its own arguments (`muster module help NAME` explains them); `--` parts several
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "MODULE ARGUMENTS")]
    words: Vec<String>,
}

pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    muster_core::action::moment(text)
        .ok_or_else(|| format!("a time must be written like 2026-01-02T03:04:05Z, not {text:?}"))
}

impl NewArgs {
    pub(super) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let out = Output::new(globals.json);
        let mut operations = parsed(&self.operations)?;
        match of_words(&self.words) {
            Ok(more) => operations.extend(more),
            Err(Words::Help(text)) => return out.help(&text),
            Err(Words::Wrong(failure)) => return Err(*failure),
        }
        let now = values::now();
        let name = self.name;
        let target = written_out(WHAT, self.target, || Context::new(globals)).await?;
        let target = of_fleet(target, self.fleet.as_deref());
        let mut action = draft(Draft { name, target, operations, expires_in: self.expires_in }, self.valid_from, now)?;
        action.description =
            Description { author: self.author, email: self.email, url: self.read_on, revision: self.revision };
        action.threat = Threat {
            reference: self.threat_ref,
            level: self.threat_level,
            family: self.threat_family,
            kind: self.threat_type,
        };
        if let Err(error) = action.window_length_check(limits::ACTION_WINDOW_MAX) {
            out.note(&format!("note: unless machines are configured otherwise they will refuse it: {error}"));
        }
        let path = save::named(self.out.as_deref());
        file::write(out, WHAT, path, &action, self.replace).await?;
        if let Some(path) = path {
            out.note(&format!("{}  written; next: muster action sign {}", path.display(), path.display()));
        }
        Ok(())
    }
}

/// What an action must be told.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) operations: Vec<Operation>,
    pub(crate) expires_in: Duration,
}

/// Makes an action without signatures, and checks it.
pub(crate) fn draft(draft: Draft, from: Option<Timestamp>, now: Timestamp) -> Result<Action, Failure> {
    // Signatures cover whole seconds, so that nothing else is promised.
    let whole = |moment: Timestamp| Timestamp::from_secs(moment.to_parts().0);
    let until = now.plus(draft.expires_in);
    // What is allowed at most from now on is allowed, too, when the window begins earlier by itself.
    let early = now.minus(EARLY).max(until.minus(limits::ACTION_WINDOW_MAX)).min(now);
    let valid_from = whole(from.unwrap_or(early));
    let action = Action {
        id: None,
        name: draft.name,
        target: draft.target,
        description: Description::default(),
        threat: Threat::default(),
        valid_from,
        expire_after: whole(now.max(valid_from).plus(draft.expires_in)),
        operations: draft.operations,
        pgp_signatures: Vec::new(),
        syntax_version: SYNTAX_VERSION,
    };
    file::check(WHAT, &action, now)?;
    Ok(action)
}

/// Why words make no operations.
#[derive(Debug)]
pub(crate) enum Words {
    /// Help was asked for; this is it.
    Help(String),
    /// They are wrong.
    Wrong(Box<Failure>),
}

/// Makes operations of a module and its arguments; [`PART`] parts several.
pub(crate) fn of_words(words: &[String]) -> Result<Vec<Operation>, Words> {
    let parts = words.split(|word| word == PART).filter(|part| !part.is_empty());
    let one = |part: &[String]| {
        let parameters = params_from_args(&part[0], &part[1..]).map_err(|error| match error {
            ArgumentError::Help(text) => Words::Help(text),
            other => {
                let what = "could not make the module's parameters";
                let failure = match registry::find(&part[0]) {
                    Some(_) => Failure::usage(what, other.to_string()).next(format!("muster module help {}", part[0])),
                    None => Failure::new(Exit::NotFound, what, other.to_string())
                        .next("muster module list; --operation for modules of other programs"),
                };
                Words::Wrong(Box::new(failure))
            }
        })?;
        let parameters = Json::parse(parameters.to_string()).expect("what was written as JSON reads as JSON");
        let module = part[0].clone();
        Ok(packing::pack(Operation { module, parameters, is_compressed: false, want_compressed: false }))
    };
    parts.map(one).collect()
}

fn parsed(texts: &[String]) -> Result<Vec<Operation>, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Given {
        module: String,
        #[serde(default = "Json::null")]
        parameters: Json,
        #[serde(default)]
        is_compressed: bool,
    }
    let one = |text: &String| {
        let text = match text.strip_prefix('@') {
            None => text.clone(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Failure::local("could not read the operation", path, &error))?,
        };
        let given: Given = serde_json::from_str(&text).map_err(|error| {
            Failure::usage("could not read the operation", error.to_string())
                .next("write it like {\"module\":\"file\",\"parameters\":{}}")
        })?;
        let Given { module, parameters, is_compressed } = given;
        Ok(packing::pack(Operation { module, parameters, is_compressed, want_compressed: false }))
    };
    texts.iter().map(one).collect()
}
