//! yara: which rules match which files of a machine.
//!
//! Stays true: parameters and result are MIG's, down to the capitals of its keys; a file that cannot be judged is named
//! with its reason, and ends nothing but itself; an answer that does not cover all files found says that it does not.

use crate::rules::{NotHeld, Rules};
use muster_core::limits::{YARA_BYTES_MAX, YARA_FILE_BYTES_MAX, YARA_FILE_TIME_S};
use muster_modules::arguments::{Flag, Given};
use muster_modules::files::{FileSearch, open};
use muster_modules::{
    ArgumentError, Context, Effect, Lines, ModuleInfo, ModuleResult, Needs, Privilege, Refused, Stop, Typed, gotext,
};
use serde::{Deserialize, Serialize};
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

/// The module.
#[derive(Debug)]
pub(crate) struct Yara;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    yara: String,
    /// A command line of the file module; nothing is searched when it is empty.
    filesearch: String,
}

/// No match at all is `null`, as MIG writes it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Elements {
    matches: Option<Vec<Match>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Match {
    object: String,
    matched_rules: Vec<String>,
}

impl Typed for Yara {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "yara",
        summary: "files that YARA rules match",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::ReadFiles,
        needs: Needs::FILES,
    };
    const EXAMPLE: &'static str = "-rules rules.yar -files '-path /usr/bin -size <10m'";
    const FLAGS: &'static [Flag] = &[
        Flag::text("rules", "FILE", "the file with the YARA rules; its text becomes part of the parameters"),
        Flag::text("files", "SEARCH", "which files: flags of the file module, such as '-path /usr/bin -size <10m'"),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        let refused = |why: &str| ArgumentError::Refused { module: Self::INFO.name, why: why.to_owned() };
        let path = given.text("rules").ok_or_else(|| refused("-rules FILE is missing"))?;
        let filesearch = given.text("files").ok_or_else(|| refused("-files SEARCH is missing"))?;
        let yara = std::fs::read_to_string(&path)
            .map_err(|error| ArgumentError::File { path, reason: gotext::reason(&error) })?;
        Ok(Parameters { yara, filesearch })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        Rules::compile(&parameters.yara)?;
        search(parameters).map(drop)
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let mut rules = Rules::compile(&parameters.yara)?;
        let Some(search) = search(&parameters)? else { return Ok(result(Vec::new(), Vec::new())) };
        let found = search.find(context)?;
        let (mut matches, mut errors) = (Vec::new(), found.errors);
        let mut left = YARA_BYTES_MAX;
        let (count, mut judged) = (found.files.len(), 0);
        for path in &found.files {
            if context.stop.is_asked() || left == 0 {
                break;
            }
            judged += 1;
            match read(path, left).map_err(|error| gotext::reason(&error)).and_then(|bytes| {
                left -= bytes.len() as u64;
                hold(&mut rules, &bytes, &context.stop)
            }) {
                Ok(matched_rules) if matched_rules.is_empty() => {}
                Ok(matched_rules) => {
                    matches.push(Match { object: path.to_string_lossy().into_owned(), matched_rules });
                }
                Err(why) => errors.push(format!("{}: {why}", path.display())),
            }
        }
        let mut result = result(matches, errors).with_missing(&found.missing).with_cuts(found.cuts);
        // Where files could not be looked for, no match does not mean that there is none.
        result.success = found.has_searched;
        if judged < count || context.stop.is_asked() {
            result.success = false;
            let why = if left == 0 { format!("{YARA_BYTES_MAX} bytes were read") } else { "it was stopped".to_owned() };
            result = result.with_errors(vec![format!("only {judged} of {count} files were judged: {why}")]);
        }
        Ok(result)
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let matches = elements.matches.unwrap_or_default();
        let mut out: Vec<_> =
            matches.iter().map(|one| format!("{} [{}]", one.object, one.matched_rules.join(","))).collect();
        if lines == Lines::All {
            out.extend(result.errors().iter().cloned());
            out.extend(result.missing_line());
        }
        out
    }
}

/// Returns the search for files; `None` when there is none.
fn search(parameters: &Parameters) -> Result<Option<FileSearch>, Refused> {
    if parameters.filesearch.is_empty() {
        return Ok(None);
    }
    // Help is for people, and this line came from afar.
    let search = FileSearch::of_line(&parameters.filesearch).map_err(|error| match error {
        ArgumentError::Help(_) => Refused("filesearch asks for help, and for no files".to_owned()),
        other => Refused(format!("filesearch: {other}")),
    });
    search.map(Some)
}

fn result(matches: Vec<Match>, errors: Vec<String>) -> ModuleResult {
    let found = !matches.is_empty();
    ModuleResult::ran(found, Elements { matches: found.then_some(matches) }, ()).with_errors(errors)
}

/// Reads a whole file of at most [`YARA_FILE_BYTES_MAX`] bytes, and of `left` bytes.
fn read(path: &Path, left: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open(path)?;
    let most = left.min(YARA_FILE_BYTES_MAX);
    let too_large = || io::Error::other(format!("it has more than the {most} bytes that are read of it"));
    if metadata.len() > most {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // Files of the kernel have no length before they are read, and others may grow.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_large()) } else { Ok(bytes) }
}

fn hold(rules: &mut Rules, bytes: &[u8], stop: &Stop) -> Result<Vec<String>, String> {
    let time = Duration::from_secs(YARA_FILE_TIME_S);
    let time = stop.remaining().map_or(time, |left| left.min(time));
    rules.matching(bytes, time).map_err(|error| match error {
        NotHeld::TooSlow => format!("the rules took longer than {}", gotext::duration(time)),
        NotHeld::Other(why) => why,
    })
}

#[cfg(test)]
mod tests;
