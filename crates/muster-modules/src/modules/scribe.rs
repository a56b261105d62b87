//! scribe: a document of tests over packages and files, such as "is a vulnerable version installed".
//!
//! Stays true: an object or a test that fails says so in its own result and ends no other; content of files is compared
//! here and never handed out, only which file it was.

mod document;
mod run;
mod versions;

use crate::arguments::{ArgumentError, Flag, Given};
use crate::gotext;
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::reading;
use crate::result::{ModuleResult, to_value};
use crate::sandbox::Needs;
use document::{Document, Tag};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

pub(crate) struct Scribe;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    scribedoc: Document,
    onlytrue: bool,
    humanoutput: bool,
    jsonoutput: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Elements {
    results: Vec<TestResult>,
    humanoutput: bool,
    jsonoutput: bool,
}

/// What came of one test.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct TestResult {
    testid: String,
    name: String,
    description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<Tag>,
    iserror: bool,
    error: String,
    masterresult: bool,
    hastrueresults: bool,
    /// `null` when nothing was tested, as the original writes it.
    results: Option<Vec<SubResult>>,
}

/// What came of one thing that a test looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct SubResult {
    result: bool,
    identifier: String,
}

impl Typed for Scribe {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "scribe",
        summary: "tests of a scribe document over packages and files",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::ReadFiles,
        needs: Needs::FILES_PROGRAMS,
    };
    const EXAMPLE: &'static str = "-path policy.json -onlytrue";
    const FLAGS: &'static [Flag] = &[
        Flag::text("path", "FILE", "the document, a file of JSON on this machine"),
        Flag::switch("onlytrue", "return only tests that are true"),
        Flag::switch("human", "print results at length"),
        Flag::switch("json", "print results as JSON"),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        let Some(path) = given.text("path") else {
            return Err(ArgumentError::Refused { module: "scribe", why: "-path option is required".to_owned() });
        };
        let read = reading::whole(Path::new(&path)).map_err(|error| gotext::reason(&error));
        let parsed = read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
        let scribedoc = parsed.map_err(|reason| ArgumentError::File { path, reason })?;
        let (onlytrue, humanoutput) = (given.is_on("onlytrue"), given.is_on("human"));
        Ok(Parameters { scribedoc, onlytrue, humanoutput, jsonoutput: given.is_on("json") })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        parameters.scribedoc.validate()
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let begun = Instant::now();
        let Parameters { scribedoc, onlytrue, humanoutput, jsonoutput } = parameters;
        let (mut results, mut errors, cuts) = run::run(&scribedoc, context);
        // A test that could not be decided is neither true nor false, whichever are returned.
        let failed: Vec<_> = results.iter().filter(|result| result.iserror).collect();
        let is_decided = failed.is_empty() || failed.len() < results.len();
        errors.extend(failed.iter().map(|result| format!("Error: {} in \"{}\"", result.error, result.testid)));
        results.retain(|result| result.masterresult || !onlytrue);
        let found = results.iter().any(|result| result.masterresult);
        let statistics = json!({"execruntime": gotext::duration(begun.elapsed())});
        let elements = Elements { results, humanoutput, jsonoutput };
        let result = ModuleResult::ran(found, elements, statistics).with_cuts(cuts);
        Ok(ModuleResult { success: is_decided, ..result }.with_errors(errors))
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap_or_default();
        let mut out = Vec::new();
        for test in &elements.results {
            if elements.humanoutput {
                out.push(test.at_length());
            } else if elements.jsonoutput {
                out.push(to_value(test).to_string());
            } else {
                out.extend(test.lines());
            }
        }
        if lines == Lines::All {
            out.extend(result.errors().iter().cloned());
            let runtime = result.statistics["execruntime"].as_str().unwrap_or_default();
            out.push(format!("Statistics: runtime {runtime}"));
        }
        out
    }
}

impl TestResult {
    fn shown_name(&self) -> &str {
        if self.name.is_empty() { &self.testid } else { &self.name }
    }

    fn lines(&self) -> Vec<String> {
        let Self { testid, hastrueresults, error, masterresult, .. } = self;
        let name = self.shown_name();
        let state = if self.iserror { "error".to_owned() } else { masterresult.to_string() };
        let mut out = vec![format!(
            "master [{state}] name:\"{name}\" id:\"{testid}\" hastrue:{hastrueresults} error:\"{error}\""
        )];
        out.extend(self.results.iter().flatten().map(|SubResult { result, identifier }| {
            format!("sub [{result}] name:\"{name}\" id:\"{testid}\" identifier:\"{identifier}\"")
        }));
        out
    }

    fn at_length(&self) -> String {
        let mut out = vec![format!("result for \"{}\"", self.testid)];
        if !self.name.is_empty() {
            out = vec![format!("result for \"{}\" ({})", self.name, self.testid)];
        }
        if !self.description.is_empty() {
            out.push(format!("\tdescription: {}", self.description));
        }
        let dependency = if self.hastrueresults && !self.masterresult {
            ", has true results, failure caused by dependency"
        } else {
            ""
        };
        out.push(format!("\tmaster result: {}{dependency}", self.masterresult));
        out.extend(self.tags.iter().map(|tag| format!("\ttag: {}: {}", tag.key, tag.value)));
        if self.iserror {
            out.push(format!("\t[error] error: {}", self.error));
        }
        let subs = self.results.iter().flatten();
        out.extend(subs.map(|SubResult { result, identifier }| format!("\t[{result}] identifier: \"{identifier}\"")));
        out.join("\n")
    }
}

#[cfg(test)]
mod tests;
