//! What the file module answers, and how it reads.

use super::evaluate::{Run, Running};
use super::kept::{Found, Hit, Kept};
use super::parameters::{Options, Search};
use crate::gotext::{self, number};
use crate::module::Lines;
use crate::result::ModuleResult;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Statistics {
    filescount: u64,
    openfailed: u64,
    totalhits: u64,
    exectime: String,
    /// File systems that were not looked into, with their kinds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    leftout: Vec<String>,
    /// Paths of the question that are not on this machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
    /// Paths of the question that could not be looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<String>,
    /// Directories that lie deeper than was asked for.
    #[serde(skip_serializing_if = "is_zero")]
    notentered: u64,
    /// What ended a search before it had looked at everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cut: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands in a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One file that a search, or one of its checks, found. No file: the search found none.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct MatchedFile {
    file: String,
    search: Search,
    fileinfo: FileInfo,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct FileInfo {
    #[serde(serialize_with = "number::serialize")]
    size: f64,
    mode: String,
    lastmodified: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sha256: String,
}

/// The part of a run that makes its result, at any time.
#[derive(Debug, Clone)]
pub(super) struct Reporter {
    searches: Vec<Running>,
    begun: Instant,
}

impl Reporter {
    pub(super) fn of(run: &Run) -> Self {
        Self { searches: run.searches.clone(), begun: run.begun }
    }

    /// Makes the result of what was kept. It is a success when the searches came to their end, and every path of the
    /// question was looked at or is not on this machine.
    pub(super) fn report(&self, mut kept: Kept, is_whole: bool) -> ModuleResult {
        let mut elements = BTreeMap::new();
        let mut found = 0;
        for (search, Found { hits, .. }) in self.searches.iter().zip(&mut kept.searches) {
            for list in hits.iter_mut() {
                list.sort_by(|a, b| a.path.cmp(&b.path));
            }
            found += hits.iter().map(|hits| hits.len() as u64).sum::<u64>();
            elements.insert(search.label.clone(), search.elements(hits));
        }
        let statistics = Statistics {
            filescount: kept.files,
            openfailed: kept.open_failed,
            totalhits: found,
            exectime: gotext::duration(self.begun.elapsed()),
            leftout: kept.left_out(),
            missing: kept.missing.iter().cloned().collect(),
            unread: kept.unread.keys().cloned().collect(),
            notentered: kept.not_entered,
            cut: Vec::new(),
        };
        let success = is_whole && kept.is_looked_at();
        let result = ModuleResult::ran(found > 0, elements, statistics).with_cuts(kept.cuts());
        ModuleResult { success, ..result }.with_errors(kept.errors())
    }
}

impl Running {
    fn elements(&self, lists: &[Vec<Hit>]) -> Vec<MatchedFile> {
        if self.search.options.matchall {
            let mut search = self.search.clone();
            search.options = Options { maxdepth: 0.0, matchlimit: 0.0, maxerrors: None, ..search.options };
            return or_none(lists[0].iter().map(|hit| hit.element(search.clone())).collect(), search);
        }
        let mut elements = Vec::new();
        for (check, hits) in self.checks.iter().zip(lists) {
            let mut search = Search { paths: self.search.paths.clone(), ..Search::default() };
            check.kind.put(&mut search, &check.value);
            let found = hits.iter().map(|hit| {
                let directory = hit.path.parent().unwrap_or(&hit.path).display().to_string();
                hit.element(Search { paths: vec![directory], ..search.clone() })
            });
            let found = found.collect();
            elements.extend(or_none(found, search));
        }
        elements
    }
}

fn or_none(found: Vec<MatchedFile>, search: Search) -> Vec<MatchedFile> {
    if found.is_empty() { vec![MatchedFile { search, ..MatchedFile::default() }] } else { found }
}

impl Hit {
    fn element(&self, search: Search) -> MatchedFile {
        #[expect(clippy::cast_precision_loss, reason = "sizes are floats in MIG's results")]
        let size = self.size as f64;
        let fileinfo = FileInfo {
            size,
            mode: self.mode.clone(),
            lastmodified: self.mtime.clone(),
            sha256: self.sha256.clone().unwrap_or_default(),
        };
        MatchedFile { file: self.path.to_string_lossy().into_owned(), search, fileinfo }
    }
}

/// Writes one line for each file found.
pub(super) fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
    let elements: BTreeMap<String, Vec<MatchedFile>> =
        serde_json::from_value(result.elements.clone()).unwrap_or_default();
    let mut out = Vec::new();
    for (label, files) in &elements {
        let shown = files.iter().filter(|file| lines == Lines::All || !file.file.is_empty());
        out.extend(shown.map(|file| file.line(label)));
    }
    if lines == Lines::All {
        out.extend(result.errors().iter().cloned());
        let Statistics { filescount, openfailed, totalhits, exectime, leftout, notentered, .. } =
            serde_json::from_value(result.statistics.clone()).unwrap_or_default();
        if !leftout.is_empty() {
            out.push(format!("Left out: {}", leftout.join(", ")));
        }
        out.extend(result.missing_line());
        if notentered > 0 {
            out.push(format!("Not entered: {notentered} directories deeper than maxdepth"));
        }
        out.push(format!(
            "Statistics: {filescount} files checked, {openfailed} failed to open, {totalhits} matched, ran in {exectime}."
        ));
    }
    out
}

impl MatchedFile {
    fn line(&self, label: &str) -> String {
        let mut line = if self.file.is_empty() {
            format!("0 match found in search '{label}'")
        } else {
            let FileInfo { size, mode, lastmodified, sha256 } = &self.fileinfo;
            let hash = if sha256.is_empty() { String::new() } else { format!(", sha256:{}", sha256.to_lowercase()) };
            let file = &self.file;
            format!("{file} [lastmodified:{lastmodified}, mode:{mode}, size:{size}{hash}] in search '{label}'")
        };
        if self.search.options.matchall {
            return line;
        }
        line.push_str(" on checks");
        let search = &self.search;
        for (name, values) in [
            ("name", &search.names),
            ("size", &search.sizes),
            ("mode", &search.modes),
            ("mtime", &search.mtimes),
            ("content", &search.contents),
            ("md5", &search.md5),
            ("sha1", &search.sha1),
            ("sha2", &search.sha2),
            ("sha3", &search.sha3),
        ] {
            for value in values {
                let _ = write!(line, " {name}='{value}'");
            }
        }
        line
    }
}
