//! What the searches of a question have come to, kept where another thread can make a result of it.
//!
//! Stays true: a path of the question that could not be looked at, and whatever ended a search before its end, is said
//! however many errors there are; a path that is not on the machine is an answer, and is said too.

use super::FilesFound;
use crate::filesystems::Mount;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// File systems that are named as left out, at most.
const LEFT_OUT_MAX: usize = 100;
/// Bytes of JSON that the files found may take. What hosts a module takes 8 MiB of answer, and nothing of a longer one.
const HITS_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Bytes of JSON that errors may take: names of files may be long, and letters of theirs six bytes each.
const ERRORS_BYTES_MAX: usize = 1024 * 1024;

/// A file that was found.
#[derive(Debug, Clone)]
pub(super) struct Hit {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) mode: String,
    pub(super) mtime: String,
    pub(super) sha256: Option<String>,
}

/// What ended a search while there was more to look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    None,
    /// It found as many as it may.
    Full,
    /// What was found fills an answer.
    Heavy,
}

/// What one search has come to.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    label: String,
    matches_max: u64,
    depth_max: u64,
    /// Nobody chose the depth: not to go deeper is a ceiling, and no part of the question.
    is_depth_ours: bool,
    /// Lists of files found: one for all checks together, or one for each.
    pub(super) hits: Vec<Vec<Hit>>,
    /// At least one of its paths was looked at, or is not on this machine.
    has_searched: bool,
    end: End,
    /// Directories that lie too deep.
    not_entered: u64,
}

impl Found {
    /// Returns a search that found nothing yet in any of its `lists`. `depth` is how deep it goes, and whether nobody chose
    /// that.
    pub(super) fn new(label: String, lists: usize, matches_max: u64, depth: (u64, bool)) -> Self {
        let (depth_max, is_depth_ours) = depth;
        Self { label, matches_max, depth_max, is_depth_ours, hits: vec![Vec::new(); lists], ..Self::default() }
    }

    fn cuts(&self) -> Vec<String> {
        let Self { label, matches_max, depth_max, not_entered, .. } = self;
        let mut cuts = Vec::new();
        match self.end {
            End::None => {}
            End::Full => cuts.push(format!("search '{label}' stopped at matchlimit {matches_max}: there may be more")),
            End::Heavy => cuts.push(format!(
                "search '{label}' stopped at {HITS_BYTES_MAX} bytes of answer: there may be more, so ask for fewer"
            )),
        }
        if self.is_depth_ours && *not_entered > 0 {
            cuts.push(format!(
                "search '{label}' stopped at maxdepth {depth_max}: {not_entered} directories below were not entered"
            ));
        }
        cuts
    }
}

/// What the searches have come to.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) searches: Vec<Found>,
    pub(super) files: u64,
    pub(super) open_failed: u64,
    /// Paths of the question that are not on this machine.
    pub(super) missing: BTreeSet<String>,
    /// Paths of the question that could not be looked at, each with the reason.
    pub(super) unread: BTreeMap<String, String>,
    /// The first errors; `errors_max` of them are kept.
    errors: Vec<String>,
    errors_seen: u64,
    errors_bytes: usize,
    errors_max: u64,
    /// What ended the walk before its end.
    ended: Vec<String>,
    hits_bytes: usize,
    /// Directories that lie too deep for a search.
    pub(super) not_entered: u64,
    /// File systems that were not looked into, and how many more there are.
    left_out: BTreeSet<String>,
    left_out_more: u64,
}

impl Kept {
    pub(super) fn new(searches: Vec<Found>, errors_max: u64) -> Self {
        Self { searches, errors_max, ..Self::default() }
    }

    pub(super) fn error(&mut self, text: impl FnOnce() -> String) {
        self.errors_seen += 1;
        if self.errors.len() as u64 >= self.errors_max || self.errors_bytes >= ERRORS_BYTES_MAX {
            return;
        }
        let text = text();
        self.errors_bytes += bytes(&text);
        self.errors.push(text);
    }

    /// Keeps that a file system was not looked into; tells whether that is new.
    pub(super) fn leave_out(&mut self, mount: &Mount) -> Option<String> {
        let named = format!("{} ({})", mount.path.display(), mount.kind);
        if self.left_out.contains(&named) {
            return None;
        }
        if self.left_out.len() >= LEFT_OUT_MAX {
            self.left_out_more += 1;
        } else {
            self.left_out.insert(named.clone());
        }
        Some(named)
    }

    /// Returns the file systems that were not looked into.
    pub(super) fn left_out(&self) -> Vec<String> {
        let more = (self.left_out_more > 0).then(|| format!("{} more", self.left_out_more));
        self.left_out.iter().cloned().chain(more).collect()
    }

    /// Keeps that paths of these searches were looked at, or are not there.
    pub(super) fn has_searched(&mut self, searches: &[usize]) {
        for search in searches {
            self.searches[*search].has_searched = true;
        }
    }

    /// Keeps that a search has found as many as it may, while there was more to look at.
    pub(super) fn is_full(&mut self, search: usize) {
        let end = &mut self.searches[search].end;
        if *end == End::None {
            *end = End::Full;
        }
    }

    /// Keeps that a directory lies too deep for these searches.
    pub(super) fn not_entered(&mut self, searches: &[usize]) {
        self.not_entered += u64::from(!searches.is_empty());
        for search in searches {
            self.searches[*search].not_entered += 1;
        }
    }

    /// Keeps what ended the walk before its end.
    pub(super) fn ended(&mut self, why: String) {
        self.ended.push(why);
    }

    /// Keeps a file of a search, whose search takes so many bytes beside it. Tells whether the answer has room for more.
    pub(super) fn hit(&mut self, search: usize, list: usize, hit: Hit, beside: usize) -> bool {
        // What is said of a file beside its path takes so many bytes, and its hash.
        const INFO_BYTES: usize = 256;
        let more = self.hits_bytes + beside + bytes(&hit.path.to_string_lossy()) + INFO_BYTES;
        if more > HITS_BYTES_MAX {
            self.searches[search].end = End::Heavy;
            return false;
        }
        self.hits_bytes = more;
        self.searches[search].hits[list].push(hit);
        true
    }

    /// Returns what ended searches before their end.
    pub(super) fn cuts(&self) -> Vec<String> {
        self.searches.iter().flat_map(Found::cuts).collect()
    }

    /// Tells whether all that was asked for was looked at, as far as it is on this machine.
    pub(super) fn is_looked_at(&self) -> bool {
        self.unread.is_empty() && self.ended.is_empty() && self.searches.iter().all(|search| search.has_searched)
    }

    /// Returns the errors, with how many were only counted. Those of the question's own paths come first.
    pub(super) fn errors(&self) -> Vec<String> {
        let mut errors: Vec<_> = self.unread.values().chain(&self.ended).chain(&self.errors).cloned().collect();
        let hidden = self.errors_seen - self.errors.len() as u64;
        if hidden > 0 {
            errors.push(format!("{hidden} errors were not returned (max errors = {})", self.errors_max));
        }
        errors
    }

    /// Returns the files found, each once, and what could not be read.
    fn found(&self) -> FilesFound {
        let hits = self.searches.iter().flat_map(|search| &search.hits).flatten();
        let files: BTreeSet<_> = hits.map(|hit| hit.path.clone()).collect();
        FilesFound {
            files: files.into_iter().collect(),
            errors: self.errors(),
            cuts: self.cuts(),
            missing: self.missing.iter().cloned().collect(),
            not_entered: self.not_entered,
            has_searched: self.is_looked_at(),
        }
    }
}

/// Returns how many bytes of JSON a text takes.
fn bytes(text: &str) -> usize {
    let letter = |letter: char| match letter {
        '"' | '\\' => 2,
        letter if letter.is_control() => 6,
        letter => letter.len_utf8(),
    };
    text.chars().map(letter).sum::<usize>() + 2
}

/// What the searches have come to, shared with whoever answers when the walk hangs. It is locked for moments only.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<Kept>>);

impl Shared {
    pub(super) fn new(kept: Kept) -> Self {
        Self(Arc::new(Mutex::new(kept)))
    }

    /// Returns what is kept by now.
    pub(super) fn now(&self) -> Kept {
        self.lock().clone()
    }

    /// Returns the files found by now.
    pub(super) fn found(&self) -> FilesFound {
        self.lock().found()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
