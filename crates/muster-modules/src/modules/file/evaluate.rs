//! One run: all searches, and what they found so far.
//!
//! Stays true: a file is read at most twice, for content and for hashes, however many searches there are, and only when
//! its metadata leaves a search interested; errors end nothing but the check they befell. Files that are large are read
//! when all others were looked at, so that one that takes for ever costs none of them; one that grows while it is read is
//! not followed for ever.

use super::check::{Check, Test, checks};
use super::content::{self, Expression, View};
use super::hashes::{self, Algorithm};
use super::kept::{Found, Hit, Kept, Shared};
use super::parameters::{DEPTH_DEFAULT, ERRORS_DEFAULT, MATCHES_DEFAULT, Parameters, Search};
use crate::filesystems::{Mount, Table};
use crate::gotext;
use crate::module::{Context, Progress, Refused, Stop};
use crate::modules::list::matches_bytes;
use crate::reading;
use crate::result::to_value;
use muster_core::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The table of all mounts, which says what a search stays out of.
const MOUNTS: &str = "/proc/self/mountinfo";
/// Larger files are read when all others were looked at.
const LARGE_BYTES: u64 = 256 * 1024 * 1024;
/// Large files that are put off, at most; more are read where they are met.
const LATE_MAX: usize = 10_000;

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
    /// Bytes of JSON that the search takes beside each of its files.
    echo_bytes: usize,
}

impl Running {
    fn new(label: String, search: Search, now: Timestamp) -> Result<Self, Refused> {
        let checks = checks(&search, now)?;
        let (depth_max, matches_max) =
            (count(search.options.maxdepth, DEPTH_DEFAULT), count(search.options.matchlimit, MATCHES_DEFAULT));
        let echo_bytes = to_value(&search).to_string().len();
        Ok(Self { label, search, checks, depth_max, matches_max, matches: 0, echo_bytes })
    }

    fn begin(&self) -> Found {
        let is_depth_ours = self.depth_max >= count(DEPTH_DEFAULT, DEPTH_DEFAULT);
        let depth = (self.depth_max, is_depth_ours);
        Found::new(self.label.clone(), self.lists(), self.matches_max, depth)
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

/// Reads a number of MIG's, where zero means "unless told". A part of one counts as one.
fn count(given: f64, otherwise: f64) -> u64 {
    let number = if given > 0.0 { given.ceil() } else { otherwise };
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

    /// Whether the search finds it by what is known, whatever else it is like.
    fn is_found(&self, search: &Running) -> bool {
        let is_wanted = |wanted: &Option<bool>| *wanted == Some(true);
        if search.search.options.matchall {
            self.wanted.iter().all(is_wanted)
        } else {
            self.wanted.iter().any(is_wanted)
        }
    }
}

/// Whether links that lead nowhere can be what is searched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LostLinks {
    /// A search may find them by their own names and metadata, which is answered by an error: there is no file.
    Interesting,
    /// Only the content of files counts, and there is none.
    Uninteresting,
}

/// All searches of one question.
#[derive(Debug)]
pub(super) struct Run {
    lost_links: LostLinks,
    pub(super) searches: Vec<Running>,
    pub(super) kept: Shared,
    /// What is mounted where.
    pub(super) table: Table,
    pub(super) stop: Stop,
    /// The paths of the question by where they lie, each as it was asked for.
    pub(super) asked: BTreeMap<PathBuf, (String, Vec<usize>)>,
    /// Large files that wait for the others, smallest first, each with its searches.
    late: BTreeMap<(u64, PathBuf), Vec<usize>>,
    progress: Progress,
    pub(super) begun: Instant,
}

impl Run {
    pub(super) fn new(parameters: Parameters, lost_links: LostLinks, context: &Context) -> Result<Self, Refused> {
        let begun = Instant::now();
        let wished = parameters.searches.values().map(|search| search.options.maxerrors.unwrap_or(ERRORS_DEFAULT));
        let errors_max = wished.map(|most| if most > 0.0 { count(most, 0.0) } else { 0 }).max().unwrap_or_default();
        let now = context.clock.now();
        let running = parameters.searches.into_iter().map(|(label, search)| Running::new(label, search, now));
        let searches = running.collect::<Result<Vec<_>, _>>()?;
        let mut kept = Kept::new(searches.iter().map(Running::begin).collect(), errors_max);
        let table = Table::read(Path::new(MOUNTS)).unwrap_or_else(|error| {
            let why = reading::open_error(Path::new(MOUNTS), &error);
            kept.error(|| format!("{why}: which file systems are far is not known, and none was left out"));
            Table::default()
        });
        let (kept, stop, progress) = (Shared::new(kept), context.stop.clone(), context.progress.clone());
        let (asked, late) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { lost_links, searches, kept, table, stop, asked, late, progress, begun })
    }

    /// Returns what was noted last.
    pub(super) fn doing(&self) -> String {
        self.progress.now()
    }

    /// Notes what is about to be touched.
    pub(super) fn note(&self, what: &'static str, path: &Path) {
        self.progress.doing(|| format!("{what} {}", path.display()));
    }

    /// Keeps an error, or counts it.
    pub(super) fn error(&self, text: impl FnOnce() -> String) {
        self.kept.lock().error(text);
    }

    /// Keeps that something could not be opened. Where that is a path of the question, it is not on this machine, or the
    /// question was not answered.
    pub(super) fn not_opened(&self, path: &Path, error: &io::Error) {
        if let Some((shown, searches)) = self.asked.get(path) {
            let is_missing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
            if !is_missing {
                return self.not_looked_at(path, format!("ERROR: {}", reading::open_error(path, error)));
            }
            if shown.contains(['*', '?', '[', '{']) {
                let why = "there is no such path, and its letters stand for themselves: search the directory above, with a name";
                return self.not_looked_at(path, format!("ERROR: open {shown}: {why}"));
            }
            let mut kept = self.kept.lock();
            kept.has_searched(searches);
            kept.missing.insert(shown.clone());
            return;
        }
        let mut kept = self.kept.lock();
        kept.open_failed += 1;
        kept.error(|| format!("ERROR: {}", reading::open_error(path, error)));
    }

    /// Keeps that a path of the question was not looked at.
    pub(super) fn not_looked_at(&self, path: &Path, why: String) {
        let shown = self.asked.get(path).map_or_else(|| path.display().to_string(), |(shown, _)| shown.clone());
        let mut kept = self.kept.lock();
        kept.open_failed += 1;
        kept.unread.entry(shown).or_insert(why);
    }

    /// Keeps that a file system was not looked into, which `path` leads to. One of another machine is an error too: what
    /// was asked for may lie there.
    pub(super) fn leave_out(&self, mount: &Mount, path: &Path) {
        let mut kept = self.kept.lock();
        let Some(named) = kept.leave_out(mount) else { return };
        if mount.may_hang() {
            let at = if path == mount.path { String::new() } else { format!(", where {} leads,", path.display()) };
            kept.error(|| format!("{named}{at} was left out: it is of another machine, or mounted when it is looked at; remotefs looks into it"));
        }
    }

    /// Judges one file for the searches that are interested in it, or puts it off when it is large.
    pub(super) fn evaluate(&mut self, path: &Path, searches: impl Iterator<Item = usize>) {
        self.note("reading", path);
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return,
            Err(error) => {
                if self.asked.contains_key(path) || self.is_missed(path, &error, searches) {
                    self.not_opened(path, &error);
                }
                return;
            }
        };
        self.kept.lock().files += 1;
        let candidates = self.candidates(path, Some(&metadata), searches);
        let is_read = candidates.iter().any(|candidate| {
            candidate.wanted.contains(&None) || self.searches[candidate.search].search.options.returnsha256
        });
        if is_read && metadata.len() > LARGE_BYTES && self.late.len() < LATE_MAX {
            let searches = candidates.iter().map(|candidate| candidate.search).collect();
            self.late.insert((metadata.len(), path.to_owned()), searches);
            return;
        }
        self.judge(path, &metadata, candidates);
    }

    /// Judges the large files that were put off.
    pub(super) fn evaluate_late(&mut self) {
        while !(self.late.is_empty() || self.is_over()) {
            let Some(((_, path), searches)) = self.late.pop_first() else { return };
            self.note("reading", &path);
            match std::fs::metadata(&path) {
                Ok(metadata) => {
                    let candidates = self.candidates(&path, Some(&metadata), searches.into_iter());
                    self.judge(&path, &metadata, candidates);
                }
                Err(error) => self.not_opened(&path, &error),
            }
        }
        if self.stop.is_asked()
            && let Some((_, first)) = self.late.keys().next()
        {
            let (count, first) = (self.late.len(), first.display());
            self.kept
                .lock()
                .ended(format!("{count} files of more than {LARGE_BYTES} bytes were not read, such as {first}"));
        }
    }

    /// Whether a search may miss something because `path` could not be looked at. Where the name alone answers every search,
    /// nothing is missing. Behind a link that leads nowhere there is no content, whatever is searched for in it: it is missed
    /// where it would be found by its own name and metadata.
    fn is_missed(&self, path: &Path, error: &io::Error, searches: impl Iterator<Item = usize>) -> bool {
        match lost_link(path, error) {
            None => !self.candidates(path, None, searches).is_empty(),
            Some(_) if self.lost_links == LostLinks::Uninteresting => false,
            Some(link) => {
                let candidates = self.candidates(path, Some(&link), searches);
                candidates.iter().any(|candidate| candidate.is_found(&self.searches[candidate.search]))
            }
        }
    }

    /// Returns the searches that the file's name and metadata, as far as these are known, leave interested.
    fn candidates(
        &self,
        path: &Path,
        metadata: Option<&Metadata>,
        searches: impl Iterator<Item = usize>,
    ) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for search in searches {
            let running = &self.searches[search];
            if running.is_full() {
                self.kept.lock().is_full(search);
                continue;
            }
            let wanted = running.checks.iter().map(|check| metadata_test(check, path, metadata)).collect();
            let candidate = Candidate { search, wanted };
            if !running.checks.is_empty() && !candidate.is_out(running) {
                candidates.push(candidate);
            }
        }
        candidates
    }

    fn judge(&mut self, path: &Path, metadata: &Metadata, mut candidates: Vec<Candidate>) {
        self.read_content(path, &mut candidates);
        candidates.retain(|candidate| !candidate.is_out(&self.searches[candidate.search]));
        let known = self.read_hashes(path, &mut candidates);
        for candidate in candidates {
            self.keep(&candidate, path, metadata, &known);
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
                    // What was seen before it broke off stays seen.
                    for (&(at, check), expression) in places.iter().zip(&expressions) {
                        let have = &self.searches[candidates[at].search].checks[check];
                        candidates[at].wanted[check] = Some(expression.is_certain() && have.wants(true));
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
        let mut kept = self.kept.lock();
        let lists: Vec<_> = if search.search.options.matchall {
            wanted.into_iter().all(|wanted| wanted).then_some(0).into_iter().collect()
        } else {
            wanted.enumerate().filter_map(|(check, wanted)| wanted.then_some(check)).collect()
        };
        for list in lists {
            if search.is_full() {
                kept.is_full(candidate.search);
            } else if kept.hit(candidate.search, list, hit.clone(), search.echo_bytes) {
                search.matches += 1;
            } else {
                search.matches = search.matches_max;
            }
        }
    }
}

fn opened(path: &Path, view: View) -> io::Result<Box<dyn io::Read>> {
    let (file, metadata) = reading::open(path)?;
    content::view(content::Whole::of(file, metadata.len()), view)
}

/// Returns what is known of a link that could not be followed because what it leads to is not there; `None` for all else.
fn lost_link(path: &Path, error: &io::Error) -> Option<Metadata> {
    let leads_nowhere = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
    leads_nowhere.then(|| std::fs::symlink_metadata(path).ok())?.filter(Metadata::is_symlink)
}

fn algorithm(test: &Test) -> Option<Algorithm> {
    if let Test::Hash(algorithm, _) = test { Some(*algorithm) } else { None }
}

/// Judges what needs no reading. `None` when the check needs it.
fn metadata_test(check: &Check, path: &Path, metadata: Option<&Metadata>) -> Option<bool> {
    let matched = match &check.test {
        Test::Name(regex) => matches_bytes(regex, path.file_name().unwrap_or_default().as_bytes()),
        Test::Mode(regex) => regex.is_match(&gotext::mode(metadata?.mode())),
        // What a link is long is no size of a file.
        Test::Size(least, most) => metadata.map(|file| !file.is_symlink() && (*least..=*most).contains(&file.len()))?,
        Test::Mtime(after, before) => {
            let mtime = mtime(metadata?);
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
