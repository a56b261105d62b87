//! What can be asked of the file module, and what is refused, in MIG's words.

use super::check::{size, time};
use crate::arguments::{ArgumentError, Given};
use crate::gotext::number;
use crate::module::Refused;
use crate::pattern;
use muster_core::limits::{SEARCH_VALUES_MAX, SEARCHES_MAX};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;

/// Directories entered below a search's path unless told.
pub(super) const DEPTH_DEFAULT: f64 = 1000.0;
/// Files found by a search unless told.
pub(super) const MATCHES_DEFAULT: f64 = 1000.0;
/// Errors returned unless told.
pub(super) const ERRORS_DEFAULT: f64 = 30.0;

/// Searches by their labels.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Parameters {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) searches: BTreeMap<String, Search>,
}

/// Where to search and for what.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Search {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    pub(crate) paths: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) contents: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sizes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) modes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) mtimes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) md5: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sha1: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sha2: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sha3: Vec<String>,
    pub(crate) options: Options,
}

/// How to search.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the form of the options is MIG's")]
pub(crate) struct Options {
    #[serde(serialize_with = "number::serialize")]
    pub(crate) maxdepth: f64,
    #[serde(serialize_with = "number_or_zero")]
    pub(crate) maxerrors: Option<f64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) remotefs: bool,
    pub(crate) matchall: bool,
    pub(crate) macroal: bool,
    pub(crate) mismatch: Option<Vec<String>>,
    #[serde(serialize_with = "number::serialize")]
    pub(crate) matchlimit: f64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) debug: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) returnsha256: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) decompress: bool,
}

#[expect(clippy::ref_option, reason = "serde hands in a reference")]
fn number_or_zero<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    number::serialize(&value.unwrap_or(0.0), to)
}

/// Refuses what a person's own command line would not mean as MIG takes it: a number below one for "unless told", and
/// letters that stand for others in a shell and for themselves here.
pub(super) fn command_line_check(given: &Given) -> Result<(), ArgumentError> {
    given.at_least_one("maxdepth", "a whole number from 1, which is the path itself (without it, 1000)")?;
    given.at_least_one("matchlimit", "a whole number from 1 (without it, 1000)")?;
    paths_check(&given.texts("path"))
}

/// Refuses paths of a command line with letters that stand for others in a shell.
pub(in crate::modules) fn paths_check(paths: &[String]) -> Result<(), ArgumentError> {
    let wants =
        "a path whose letters stand for themselves (search the directory above, with -name REGEX where there is one)";
    match paths.iter().find(|path| path.contains(['*', '?'])) {
        Some(path) => Err(ArgumentError::WrongValue { flag: "path", wants, given: path.clone() }),
        None => Ok(()),
    }
}

impl Search {
    /// Returns what a command line asks for.
    pub(super) fn from_flags(given: &Given) -> Self {
        let mismatch = given.texts("mismatch");
        // `-matchall=false` and `-matchany` say the same.
        let matchall = given.text("matchall").is_none_or(|on| on == "true") && !given.is_on("matchany");
        Self {
            description: String::new(),
            paths: given.texts("path"),
            contents: given.texts("content"),
            names: given.texts("name"),
            sizes: given.texts("size"),
            modes: given.texts("mode"),
            mtimes: given.texts("mtime"),
            md5: given.texts("md5"),
            sha1: given.texts("sha1"),
            sha2: given.texts("sha2"),
            sha3: given.texts("sha3"),
            options: Options {
                maxdepth: given.number("maxdepth", DEPTH_DEFAULT),
                maxerrors: Some(given.number("maxerrors", ERRORS_DEFAULT)),
                matchlimit: given.number("matchlimit", MATCHES_DEFAULT),
                matchall,
                macroal: given.is_on("macroal"),
                mismatch: (!mismatch.is_empty()).then_some(mismatch),
                returnsha256: given.is_on("returnsha256"),
                decompress: given.is_on("decompress"),
                remotefs: given.is_on("remotefs"),
                ..Options::default()
            },
        }
    }

    /// Tells whether anything is asked of a file: without that, none is found.
    fn has_checks(&self) -> bool {
        let Self { contents, names, sizes, modes, mtimes, md5, sha1, sha2, sha3, .. } = self;
        [contents, names, sizes, modes, mtimes, md5, sha1, sha2, sha3].into_iter().any(|values| !values.is_empty())
    }

    fn validate(&self) -> Result<(), Refused> {
        if self.paths.is_empty() {
            return Err(Refused("invalid empty search path, must have at least one search path".to_owned()));
        }
        let mismatch = self.options.mismatch.as_deref().unwrap_or_default();
        for values in [
            &self.paths[..],
            &self.contents,
            &self.names,
            &self.sizes,
            &self.modes,
            &self.mtimes,
            &self.md5,
            &self.sha1,
            &self.sha2,
            &self.sha3,
            mismatch,
        ] {
            if values.len() > SEARCH_VALUES_MAX {
                return Err(Refused(format!("a search has more than {SEARCH_VALUES_MAX} values of one kind")));
            }
        }
        for path in &self.paths {
            filled(path)?;
            absolute(path)?;
        }
        for expression in self.contents.iter().chain(&self.names).chain(&self.modes) {
            regex(expression)?;
        }
        for value in &self.sizes {
            filled(value)?;
            size(value)?;
        }
        for value in &self.mtimes {
            filled(value)?;
            time(value)?;
        }
        for (hashes, lengths) in [
            (&self.md5, &[32][..]),
            (&self.sha1, &[40]),
            (&self.sha2, &[64, 96, 128]),
            (&self.sha3, &[56, 64, 96, 128]),
        ] {
            hashes.iter().try_for_each(|value| hash(value, lengths))?;
        }
        mismatch.iter().try_for_each(|check| mismatched(check))?;
        if !self.has_checks() {
            let why = "without a check no file is found; say which, such as -name . for every file";
            return Err(Refused(why.to_owned()));
        }
        Ok(())
    }
}

impl Parameters {
    /// Tells whether the parameters can be searched for.
    pub(super) fn validate(&self) -> Result<(), Refused> {
        if self.searches.is_empty() {
            let why = "there is no search: the parameters are {\"searches\": {\"LABEL\": {\"paths\": [...], \"names\": [...]}}}";
            return Err(Refused(why.to_owned()));
        }
        if self.searches.len() > SEARCHES_MAX {
            return Err(Refused(format!("there are more than {SEARCHES_MAX} searches")));
        }
        for (name, search) in &self.searches {
            label(name)?;
            search.validate()?;
        }
        Ok(())
    }
}

fn label(label: &str) -> Result<(), Refused> {
    const FORM: &str = "^([a-zA-Z0-9_-]|.){1,64}$";
    if label.is_empty() {
        return Err(Refused("empty labels are not permitted".to_owned()));
    }
    if label.chars().count() > 64 || label.contains('\n') {
        return Err(Refused(format!("The syntax of label '{label}' is invalid. Must match regex {FORM}")));
    }
    Ok(())
}

fn filled(value: &str) -> Result<(), Refused> {
    if value.is_empty() { Err(Refused("Empty values are not permitted".to_owned())) } else { Ok(()) }
}

/// A path that is not absolute would begin wherever a module's process happens to stand.
fn absolute(path: &str) -> Result<(), Refused> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(Refused(format!("the path '{}' must begin with /", muster_core::text::cut(path, 256))))
}

/// Splits a leading `!`, which inverts an expression. Alone, it is a letter.
pub(super) fn inverted(expression: &str) -> (bool, &str) {
    match expression.strip_prefix('!') {
        Some(rest) if !rest.is_empty() => (true, rest),
        _ => (false, expression),
    }
}

fn regex(expression: &str) -> Result<(), Refused> {
    filled(expression)?;
    let (_, expression) = inverted(expression);
    pattern::compile(expression).map(drop).map_err(|why| {
        let shown: String = expression.chars().take(256).collect();
        Refused(format!("Invalid regexp '{shown}'. Must be a regexp. Compilation failed with '{why}'"))
    })
}

fn hash(value: &str, lengths: &[usize]) -> Result<(), Refused> {
    filled(value)?;
    if lengths.contains(&value.len()) && value.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(());
    }
    // The form of the nearest hash is named, as MIG names that of the only one.
    let length = lengths.iter().min_by_key(|length| length.abs_diff(value.len())).copied().unwrap_or_default();
    let shown: String = value.chars().take(256).collect::<String>().to_uppercase();
    Err(Refused(format!("Invalid checksum format for hash '{shown}'. Must match regex ^[A-F0-9]{{{length}}}$")))
}

fn mismatched(check: &str) -> Result<(), Refused> {
    const FORM: &str = "^(name|size|mode|mtime|content|md5|sha1|sha2|sha3)$";
    if check.is_empty() {
        return Err(Refused("empty filters are not permitted".to_owned()));
    }
    if ["name", "size", "mode", "mtime", "content", "md5", "sha1", "sha2", "sha3"].contains(&check) {
        return Ok(());
    }
    Err(Refused(format!("The syntax of filter '{check}' is invalid. Must match regex {FORM}")))
}
