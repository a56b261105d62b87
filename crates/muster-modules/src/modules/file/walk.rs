//! One walk for all searches.
//!
//! Stays true: each search finds what it would find alone. A directory carries the searches that reach it from their
//! own paths, with how deep each has come; a path that lies below another is not walked twice, unless the walk of the
//! other could not reach it (behind a link, too deep, or below what cannot be read).

use super::evaluate::Run;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// The searches in a directory, and how deep each has come: 1 in its own path.
type Active = Vec<(usize, u64)>;

/// The paths of all searches.
struct Roots {
    searches: BTreeMap<PathBuf, Vec<usize>>,
    reached: BTreeSet<PathBuf>,
}

impl Roots {
    /// Returns the searches that begin at `path`, and remembers that it was reached.
    fn reach(&mut self, path: &Path) -> &[usize] {
        let Some(searches) = self.searches.get(path) else { return &[] };
        self.reached.insert(path.to_owned());
        searches
    }
}

impl Run {
    /// Walks through all paths of all searches.
    pub(super) fn walk(mut self) -> Self {
        let mut roots = Roots { searches: BTreeMap::new(), reached: BTreeSet::new() };
        for (number, search) in self.searches.iter().enumerate() {
            for path in &search.search.paths {
                roots.searches.entry(PathBuf::from(path)).or_default().push(number);
            }
        }
        let mut paths: Vec<_> = roots.searches.keys().cloned().collect();
        // What lies above comes first, so that what lies below is reached from there.
        paths.sort_by_key(|path| path.components().count());
        for path in paths {
            if self.is_over() {
                break;
            }
            if !roots.reached.contains(&path) {
                self.walk_from(&path, &mut roots);
            }
        }
        if self.stop.is_asked() {
            self.error(|| "the search was stopped before its end".to_owned());
        }
        self
    }

    fn is_over(&self) -> bool {
        self.stop.is_asked() || self.searches.iter().all(super::evaluate::Running::is_full)
    }

    fn walk_from(&mut self, root: &Path, roots: &mut Roots) {
        let kind = match std::fs::symlink_metadata(root) {
            Ok(metadata) => metadata.file_type(),
            Err(error) => return self.not_opened(root, &error),
        };
        if kind.is_dir() {
            return self.walk_directory(root, roots);
        }
        let searches = roots.reach(root).to_owned();
        if kind.is_file() {
            return self.evaluate(root, searches.into_iter());
        }
        if !kind.is_symlink() {
            return self.error(|| format!("warning: {} is not a plain file and was not read", root.display()));
        }
        match std::fs::canonicalize(root) {
            Err(error) => self.not_opened(root, &error),
            Ok(target) if target.is_file() => self.evaluate(&target, searches.into_iter()),
            Ok(target) => self.error(|| {
                format!("warning: {} is a link to {} and was not followed", root.display(), target.display())
            }),
        }
    }

    fn walk_directory(&mut self, root: &Path, roots: &mut Roots) {
        let mut walk = WalkDir::new(root).follow_root_links(false).into_iter();
        let mut levels: Vec<Active> = Vec::new();
        while let Some(entry) = walk.next() {
            if self.is_over() {
                return;
            }
            match entry {
                Ok(entry) if entry.file_type().is_dir() => {
                    levels.truncate(entry.depth());
                    let active = self.enter(levels.last(), roots.reach(entry.path()));
                    if active.is_empty() {
                        walk.skip_current_dir();
                    }
                    levels.push(active);
                }
                Ok(entry) => {
                    levels.truncate(entry.depth());
                    self.meet(&entry, levels.last(), roots);
                }
                Err(error) => {
                    let path = error.path().unwrap_or(root).to_owned();
                    let reason = error.into_io_error().unwrap_or_else(|| std::io::ErrorKind::Other.into());
                    self.not_opened(&path, &reason);
                }
            }
        }
    }

    /// Returns the searches that are interested in a directory, given those of its parent and those that begin here.
    fn enter(&self, parent: Option<&Active>, begin: &[usize]) -> Active {
        let mut active: Active = begin.iter().map(|&search| (search, 1)).collect();
        for &(search, depth) in parent.into_iter().flatten() {
            if depth < self.searches[search].depth_max && !begin.contains(&search) {
                active.push((search, depth + 1));
            }
        }
        active.retain(|&(search, _)| !self.searches[search].is_full());
        active
    }

    /// Looks at what is no directory.
    fn meet(&mut self, entry: &DirEntry, directory: Option<&Active>, roots: &mut Roots) {
        let kind = entry.file_type();
        let mut searches: BTreeSet<usize> = directory.into_iter().flatten().map(|&(search, _)| search).collect();
        if kind.is_file() {
            searches.extend(roots.reach(entry.path()));
        }
        if searches.is_empty() || !(kind.is_file() || kind.is_symlink()) {
            return;
        }
        if kind.is_symlink() {
            match std::fs::metadata(entry.path()) {
                Ok(target) if target.is_file() => {}
                Ok(_) => return,
                Err(error) => return self.not_opened(entry.path(), &error),
            }
        }
        self.evaluate(entry.path(), searches.into_iter());
    }
}
