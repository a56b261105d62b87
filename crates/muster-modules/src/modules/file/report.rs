//! What the file module answers, and how it reads.

use super::evaluate::{Hit, Run, Running};
use super::parameters::{Options, Search};
use crate::gotext::{self, number};
use crate::module::Lines;
use crate::result::ModuleResult;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Statistics {
    filescount: u64,
    openfailed: u64,
    totalhits: u64,
    exectime: String,
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

impl Run {
    /// Makes the result.
    pub(super) fn report(mut self) -> ModuleResult {
        let mut elements = BTreeMap::new();
        let mut hits = 0;
        for search in &mut self.searches {
            search.hits.iter_mut().for_each(|hits| hits.sort_by(|a, b| a.path.cmp(&b.path)));
            hits += search.hits.iter().map(|hits| hits.len() as u64).sum::<u64>();
            elements.insert(search.label.clone(), search.elements());
        }
        self.tell_hidden_errors();
        let statistics = Statistics {
            filescount: self.files,
            openfailed: self.open_failed,
            totalhits: hits,
            exectime: gotext::duration(self.begun.elapsed()),
        };
        let mut result = ModuleResult::ran(hits > 0, elements, statistics).with_errors(self.errors);
        result.success = !self.stop.is_asked();
        result
    }
}

impl Running {
    fn elements(&self) -> Vec<MatchedFile> {
        if self.search.options.matchall {
            let mut search = self.search.clone();
            search.options = Options { maxdepth: 0.0, matchlimit: 0.0, maxerrors: None, ..search.options };
            return or_none(self.hits[0].iter().map(|hit| hit.element(search.clone())).collect(), search);
        }
        let mut elements = Vec::new();
        for (check, hits) in self.checks.iter().zip(&self.hits) {
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
        let Statistics { filescount, openfailed, totalhits, exectime } =
            serde_json::from_value(result.statistics.clone()).unwrap_or_default();
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
