//! One run: all searches, and what they found so far.
//!
//! Stays true: a file is read at most twice, for content and for hashes, however many searches there are, and only when
//! its metadata leaves a search interested; errors end nothing but the check they befell.

use super::FilesFound;
use super::check::{Check, Test, checks};
use super::content::{self, Expression, View};
use super::hashes::{self, Algorithm};
use super::parameters::{DEPTH_DEFAULT, ERRORS_DEFAULT, MATCHES_DEFAULT, Parameters, Search};
use crate::gotext;
use crate::module::{Context, Refused, Stop};
use crate::reading;
use muster_core::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

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
#[derive(Debug)]
pub(super) struct Running {
    pub(super) label: String,
    pub(super) search: Search,
    pub(super) checks: Vec<Check>,
    /// The deepest directory, counted from 1, the search's path itself.
    pub(super) depth_max: u64,
    matches_max: u64,
    matches: u64,
    /// What was found: one list for all checks together, or one for each.
    pub(super) hits: Vec<Vec<Hit>>,
}

impl Running {
    fn new(label: String, search: Search, now: Timestamp) -> Result<Self, Refused> {
        let checks = checks(&search, now)?;
        let lists = if search.options.matchall { 1 } else { checks.len() };
        let (depth_max, matches_max) =
            (count(search.options.maxdepth, DEPTH_DEFAULT), count(search.options.matchlimit, MATCHES_DEFAULT));
        Ok(Self { label, search, checks, depth_max, matches_max, matches: 0, hits: vec![Vec::new(); lists] })
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

/// All searches of one question.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) searches: Vec<Running>,
    pub(super) files: u64,
    pub(super) open_failed: u64,
    /// The first errors; `errors_max` of them are kept.
    pub(super) errors: Vec<String>,
    pub(super) errors_seen: u64,
    pub(super) errors_max: u64,
    pub(super) stop: Stop,
    pub(super) begun: Instant,
}

impl Run {
    pub(super) fn new(parameters: Parameters, context: &Context) -> Result<Self, Refused> {
        let begun = Instant::now();
        let wished = parameters.searches.values().map(|search| search.options.maxerrors.unwrap_or(ERRORS_DEFAULT));
        let errors_max = wished.map(|most| if most > 0.0 { count(most, 0.0) } else { 0 }).max().unwrap_or_default();
        let now = context.clock.now();
        let running = parameters.searches.into_iter().map(|(label, search)| Running::new(label, search, now));
        Ok(Self {
            searches: running.collect::<Result<_, _>>()?,
            files: 0,
            open_failed: 0,
            errors: Vec::new(),
            errors_seen: 0,
            errors_max,
            stop: context.stop.clone(),
            begun,
        })
    }

    /// Keeps an error, or counts it.
    pub(super) fn error(&mut self, text: impl FnOnce() -> String) {
        self.errors_seen += 1;
        if self.errors_seen <= self.errors_max {
            self.errors.push(text());
        }
    }

    /// Keeps that something could not be opened.
    pub(super) fn not_opened(&mut self, path: &Path, error: &io::Error) {
        self.open_failed += 1;
        self.error(|| format!("ERROR: {}", reading::open_error(path, error)));
    }

    /// Judges one file for the searches that are interested in it.
    pub(super) fn evaluate(&mut self, path: &Path, searches: impl Iterator<Item = usize>) {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return,
            Err(error) => return self.not_opened(path, &error),
        };
        self.files += 1;
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
        let wanted = candidate.wanted.iter().map(|wanted| *wanted == Some(true));
        if search.search.options.matchall {
            if wanted.into_iter().all(|wanted| wanted) {
                search.hits[0].push(hit);
                search.matches += 1;
            }
            return;
        }
        for (check, _) in wanted.enumerate().filter(|(_, wanted)| *wanted) {
            if search.matches < search.matches_max {
                search.hits[check].push(hit.clone());
                search.matches += 1;
            }
        }
    }

    /// Returns the files found, each once, and what could not be read.
    pub(super) fn into_found(mut self) -> FilesFound {
        self.tell_hidden_errors();
        let found: BTreeSet<_> =
            self.searches.into_iter().flat_map(|search| search.hits).flatten().map(|hit| hit.path).collect();
        FilesFound { files: found.into_iter().collect(), errors: self.errors }
    }

    /// Says how many errors were only counted.
    pub(super) fn tell_hidden_errors(&mut self) {
        if self.errors_seen > self.errors_max {
            let hidden = self.errors_seen - self.errors_max;
            self.errors.push(format!("{hidden} errors were not returned (max errors = {})", self.errors_max));
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
