//! One run: all searches, and what they found so far.
//!
//! Stays true: a file is read at most twice, for content and for hashes, however many searches there are, and only when
//! its metadata leaves a search interested; errors end nothing but the check they befell. What was found is kept where
//! another thread can make a result of it while this one hangs, so it is locked for moments only.

use super::FilesFound;
use super::check::{Check, Test, checks};
use super::content::{self, Expression, View};
use super::hashes::{self, Algorithm};
use super::parameters::{DEPTH_DEFAULT, ERRORS_DEFAULT, MATCHES_DEFAULT, Parameters, Search};
use crate::filesystems::{Mount, Table};
use crate::gotext;
use crate::module::{Context, Progress, Refused, Stop};
use crate::reading;
use muster_core::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The table of all mounts, which says what a search stays out of.
const MOUNTS: &str = "/proc/self/mountinfo";
/// File systems that are named as left out, at most.
const LEFT_OUT_MAX: usize = 100;

/// A file that was found.
#[derive(Debug, Clone)]
pub(super) struct Hit {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) mode: String,
    pub(super) mtime: String,
    pub(super) sha256: Option<String>,
}

/// A search on its way.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) label: String,
    pub(super) search: Search,
    pub(super) checks: Vec<Check>,
    /// The deepest directory, counted from 1, the search's path itself.
    pub(super) depth_max: u64,
    matches_max: u64,
    matches: u64,
}

impl Running {
    fn new(label: String, search: Search, now: Timestamp) -> Result<Self, Refused> {
        let checks = checks(&search, now)?;
        let (depth_max, matches_max) =
            (count(search.options.maxdepth, DEPTH_DEFAULT), count(search.options.matchlimit, MATCHES_DEFAULT));
        Ok(Self { label, search, checks, depth_max, matches_max, matches: 0 })
    }

    /// Returns how many lists its finds have: one for all checks together, or one for each.
    fn lists(&self) -> usize {
        if self.search.options.matchall { 1 } else { self.checks.len() }
    }

    /// Tells whether the search has found as much as it may.
    pub(super) fn is_full(&self) -> bool {
        self.matches >= self.matches_max
    }

    fn view(&self) -> View {
        if self.search.options.decompress { View::Unpacked } else { View::Raw }
    }
}

/// Reads a number of MIG's, where zero means "unless told".
fn count(given: f64, otherwise: f64) -> u64 {
    let number = if given > 0.0 { given } else { otherwise };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; a cast saturates")]
    let number = number as u64;
    number
}

/// What a search knows of the file at hand: for each check whether the file is wanted, once that is known.
struct Candidate {
    search: usize,
    wanted: Vec<Option<bool>>,
}

impl Candidate {
    fn is_out(&self, search: &Running) -> bool {
        search.search.options.matchall && self.wanted.contains(&Some(false))
    }
}

/// What the searches have come to.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    /// For each search its lists of files found.
    pub(super) hits: Vec<Vec<Vec<Hit>>>,
    pub(super) files: u64,
    pub(super) open_failed: u64,
    /// The first errors; `errors_max` of them are kept.
    errors: Vec<String>,
    errors_seen: u64,
    errors_max: u64,
    /// File systems that were not looked into, and how many more there are.
    pub(super) left_out: BTreeSet<String>,
    left_out_more: u64,
    /// At least one path was looked at.
    pub(super) has_searched: bool,
}

impl Kept {
    fn error(&mut self, text: impl FnOnce() -> String) {
        self.errors_seen += 1;
        if self.errors_seen <= self.errors_max {
            self.errors.push(text());
        }
    }

    /// Returns the errors, with how many were only counted.
    pub(super) fn into_errors(self) -> Vec<String> {
        let mut errors = self.errors;
        if self.errors_seen > self.errors_max {
            let hidden = self.errors_seen - self.errors_max;
            errors.push(format!("{hidden} errors were not returned (max errors = {})", self.errors_max));
        }
        errors
    }

    /// Returns the files found, each once, and what could not be read.
    fn into_found(mut self) -> FilesFound {
        let hits = std::mem::take(&mut self.hits);
        let found: BTreeSet<_> = hits.into_iter().flatten().flatten().map(|hit| hit.path).collect();
        let is_whole = self.has_searched;
        FilesFound { files: found.into_iter().collect(), errors: self.into_errors(), has_searched: is_whole }
    }
}

/// What the searches have come to, shared with whoever answers when the walk hangs.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<Kept>>);

impl Shared {
    /// Returns what is kept by now.
    pub(super) fn now(&self) -> Kept {
        self.lock().clone()
    }

    /// Returns the files found by now.
    pub(super) fn found(&self) -> FilesFound {
        self.now().into_found()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All searches of one question.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) searches: Vec<Running>,
    pub(super) kept: Shared,
    /// What is mounted where.
    pub(super) table: Table,
    pub(super) stop: Stop,
    progress: Progress,
    pub(super) begun: Instant,
}

impl Run {
    pub(super) fn new(parameters: Parameters, context: &Context) -> Result<Self, Refused> {
        let begun = Instant::now();
        let wished = parameters.searches.values().map(|search| search.options.maxerrors.unwrap_or(ERRORS_DEFAULT));
        let errors_max = wished.map(|most| if most > 0.0 { count(most, 0.0) } else { 0 }).max().unwrap_or_default();
        let now = context.clock.now();
        let running = parameters.searches.into_iter().map(|(label, search)| Running::new(label, search, now));
        let searches = running.collect::<Result<Vec<_>, _>>()?;
        let hits = searches.iter().map(|search| vec![Vec::new(); search.lists()]).collect();
        let mut kept = Kept { hits, errors_max, ..Kept::default() };
        let table = Table::read(Path::new(MOUNTS)).unwrap_or_else(|error| {
            let why = reading::open_error(Path::new(MOUNTS), &error);
            kept.error(|| format!("{why}: which file systems are far is not known, and none was left out"));
            Table::default()
        });
        let kept = Shared(Arc::new(Mutex::new(kept)));
        Ok(Self { searches, kept, table, stop: context.stop.clone(), progress: context.progress.clone(), begun })
    }

    /// Notes what is about to be touched.
    pub(super) fn note(&self, what: &'static str, path: &Path) {
        self.progress.doing(|| format!("{what} {}", path.display()));
    }

    /// Keeps an error, or counts it.
    pub(super) fn error(&self, text: impl FnOnce() -> String) {
        self.kept.lock().error(text);
    }

    /// Keeps that something could not be opened.
    pub(super) fn not_opened(&self, path: &Path, error: &io::Error) {
        let mut kept = self.kept.lock();
        kept.open_failed += 1;
        kept.error(|| format!("ERROR: {}", reading::open_error(path, error)));
    }

    /// Keeps that a path was looked at.
    pub(super) fn has_searched(&self) {
        self.kept.lock().has_searched = true;
    }

    /// Keeps that a file system was not looked into, which `path` leads to. One of another machine is an error too: what
    /// was asked for may lie there.
    pub(super) fn leave_out(&self, mount: &Mount, path: &Path) {
        let mut kept = self.kept.lock();
        let named = format!("{} ({})", mount.path.display(), mount.kind);
        if kept.left_out.contains(&named) {
            return;
        }
        if kept.left_out.len() >= LEFT_OUT_MAX {
            kept.left_out_more += 1;
        } else {
            kept.left_out.insert(named.clone());
        }
        if mount.may_hang() {
            let at = if path == mount.path { String::new() } else { format!(", where {} leads,", path.display()) };
            kept.error(|| format!("{named}{at} was left out: it is of another machine, or mounted when it is looked at; remotefs looks into it"));
        }
    }

    /// Judges one file for the searches that are interested in it.
    pub(super) fn evaluate(&mut self, path: &Path, searches: impl Iterator<Item = usize>) {
        self.note("reading", path);
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return,
            Err(error) => return self.not_opened(path, &error),
        };
        self.kept.lock().files += 1;
        let mut candidates = Vec::new();
        for search in searches {
            let running = &self.searches[search];
            if running.is_full() || running.checks.is_empty() {
                continue;
            }
            let wanted = running.checks.iter().map(|check| metadata_test(check, path, &metadata)).collect();
            let candidate = Candidate { search, wanted };
            if !candidate.is_out(running) {
                candidates.push(candidate);
            }
        }
        self.read_content(path, &mut candidates);
        candidates.retain(|candidate| !candidate.is_out(&self.searches[candidate.search]));
        let known = self.read_hashes(path, &mut candidates);
        for candidate in candidates {
            self.keep(&candidate, path, &metadata, &known);
        }
    }

    fn read_content(&mut self, path: &Path, candidates: &mut [Candidate]) {
        for view in [View::Raw, View::Unpacked] {
            let mut places = Vec::new();
            let mut expressions = Vec::new();
            for (at, candidate) in candidates.iter().enumerate() {
                let search = &self.searches[candidate.search];
                if search.view() != view {
                    continue;
                }
                for (check, have) in search.checks.iter().enumerate() {
                    if let Test::Content(regex) = &have.test {
                        places.push((at, check));
                        expressions.push(Expression::new(regex, search.search.options.macroal, have.inverse));
                    }
                }
            }
            if expressions.is_empty() {
                continue;
            }
            let scanned = opened(path, view).and_then(|file| content::scan(file, &mut expressions, &self.stop));
            let matched = scanned.map(|lines| expressions.iter().map(|e| e.matched(lines)).collect::<Vec<_>>());
            match matched {
                Ok(matched) => self.judge_content(candidates, &places, &matched),
                Err(error) => {
                    for (at, check) in places {
                        candidates[at].wanted[check] = Some(false);
                    }
                    self.not_opened(path, &error);
                }
            }
        }
    }

    fn judge_content(&self, candidates: &mut [Candidate], places: &[(usize, usize)], matched: &[bool]) {
        // With macroal, a file passes when each of its lines passes each content check of the search.
        let mut passes = vec![true; candidates.len()];
        for (&(at, _), matched) in places.iter().zip(matched) {
            passes[at] &= *matched;
        }
        for (&(at, check), matched) in places.iter().zip(matched) {
            let search = &self.searches[candidates[at].search];
            let have = &search.checks[check];
            let wanted = if search.search.options.macroal { passes[at] != have.mismatch } else { have.wants(*matched) };
            candidates[at].wanted[check] = Some(wanted);
        }
    }

    /// Computes what hashes are asked for; returns the SHA-256 by view, for the result.
    fn read_hashes(&mut self, path: &Path, candidates: &mut [Candidate]) -> BTreeMap<View, String> {
        let mut known = BTreeMap::new();
        for view in [View::Raw, View::Unpacked] {
            let mut asked = BTreeSet::new();
            for candidate in candidates.iter() {
                let search = &self.searches[candidate.search];
                if search.view() == view {
                    asked.extend(search.checks.iter().filter_map(|check| algorithm(&check.test)));
                    // A file that matched so far, and has no hash to fail yet, is going to be found.
                    if search.search.options.returnsha256
                        && candidate.wanted.iter().any(|wanted| *wanted != Some(false))
                    {
                        asked.insert(Algorithm::Sha256);
                    }
                }
            }
            if asked.is_empty() {
                continue;
            }
            let hashed = opened(path, view).and_then(|file| hashes::hash(file, asked, &self.stop));
            let hashed = hashed.unwrap_or_else(|error| {
                self.not_opened(path, &error);
                BTreeMap::new()
            });
            for candidate in candidates.iter_mut().filter(|c| self.searches[c.search].view() == view) {
                for (check, have) in self.searches[candidate.search].checks.iter().enumerate() {
                    if let Test::Hash(algorithm, want) = &have.test {
                        let matched = hashed.get(algorithm).map(|hash| have.wants(hash == want));
                        candidate.wanted[check] = Some(matched.unwrap_or(false));
                    }
                }
            }
            known.extend(hashed.get(&Algorithm::Sha256).map(|hash| (view, hash.clone())));
        }
        known
    }

    fn keep(&mut self, candidate: &Candidate, path: &Path, metadata: &Metadata, known: &BTreeMap<View, String>) {
        let search = &mut self.searches[candidate.search];
        let returned = search.search.options.returnsha256;
        let hit = Hit {
            path: path.to_owned(),
            size: metadata.len(),
            mode: gotext::mode(metadata.mode()),
            mtime: gotext::moment(mtime(metadata)),
            sha256: known.get(&search.view()).filter(|_| returned).cloned(),
        };
        let mut kept = self.kept.lock();
        let hits = &mut kept.hits[candidate.search];
        let wanted = candidate.wanted.iter().map(|wanted| *wanted == Some(true));
        if search.search.options.matchall {
            if wanted.into_iter().all(|wanted| wanted) {
                hits[0].push(hit);
                search.matches += 1;
            }
            return;
        }
        for (check, _) in wanted.enumerate().filter(|(_, wanted)| *wanted) {
            if search.matches < search.matches_max {
                hits[check].push(hit.clone());
                search.matches += 1;
            }
        }
    }
}

fn opened(path: &Path, view: View) -> io::Result<Box<dyn io::Read>> {
    content::view(reading::open(path)?.0, view)
}

fn algorithm(test: &Test) -> Option<Algorithm> {
    if let Test::Hash(algorithm, _) = test { Some(*algorithm) } else { None }
}

/// Judges what needs no reading. `None` when the check needs it.
fn metadata_test(check: &Check, path: &Path, metadata: &Metadata) -> Option<bool> {
    let matched = match &check.test {
        Test::Name(regex) => regex.is_match(&path.file_name().unwrap_or_default().to_string_lossy()),
        Test::Mode(regex) => regex.is_match(&gotext::mode(metadata.mode())),
        Test::Size(least, most) => (*least..=*most).contains(&metadata.len()),
        Test::Mtime(after, before) => {
            let mtime = mtime(metadata);
            after.is_none_or(|after| mtime > after) && before.is_none_or(|before| mtime < before)
        }
        Test::Content(_) | Test::Hash(..) => return None,
    };
    Some(check.wants(matched))
}

fn mtime(metadata: &Metadata) -> Timestamp {
    let nanos = i32::try_from(metadata.mtime_nsec()).unwrap_or_default();
    // A year that cannot be written is as far as can be.
    let far = if metadata.mtime() < 0 { Timestamp::from_nanos(i64::MIN) } else { Timestamp::MAX };
    Timestamp::from_parts(metadata.mtime(), nanos).unwrap_or(far)
}
