//! One walk for all searches.
//!
//! Stays true: each search finds what it would find alone. A directory carries the searches that reach it from their
//! own paths, with how deep each has come; a path that lies below another is not walked twice, unless the walk of the
//! other could not reach it (behind a link, too deep, or below what cannot be read). A path that is itself a link to a
//! directory means that directory; no other link to one is followed. Nothing of a far or automounted file
//! system is touched for a search that does not ask for them, nor the kernel's own file systems for one that names no path
//! in them; what was left out is told. Those that are far are walked last, so that one that hangs costs nothing of the
//! machine's own; what is about to be touched is noted.

use super::evaluate::Run;
use crate::filesystems::{Blocked, Class, Mount};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirEntry, ReadDir};
use std::io;
use std::path::{Path, PathBuf};

/// Directories that are kept open at once; deeper ones are listed before they are entered.
const OPEN_MAX: usize = 64;
/// Names of directories so deep that are kept at once.
const LISTED_MAX: usize = 500_000;

/// The searches in a directory, and how deep each has come: 1 in its own path.
type Active = Vec<(usize, u64)>;

/// The paths of all searches.
struct Roots {
    searches: BTreeMap<PathBuf, Vec<usize>>,
    reached: BTreeSet<PathBuf>,
    /// Directories of far file systems that were met, each with the searches of its parent.
    put_off: Vec<(PathBuf, Active, Class)>,
    /// Links into far file systems that were met, each with the searches that follow it.
    links: Vec<(PathBuf, Vec<usize>)>,
}

impl Roots {
    /// Returns the searches that begin at `path`, and remembers that it was reached.
    fn reach(&mut self, path: &Path) -> &[usize] {
        let Some(searches) = self.searches.get(path) else { return &[] };
        self.reached.insert(path.to_owned());
        searches
    }
}

/// What a directory holds.
enum Listing {
    Open(ReadDir),
    Whole(std::vec::IntoIter<io::Result<DirEntry>>),
}

impl Listing {
    /// Returns how many names are kept of it.
    fn kept(&self) -> usize {
        if let Self::Whole(entries) = self { entries.len() } else { 0 }
    }

    fn next(&mut self) -> Option<io::Result<DirEntry>> {
        match self {
            Self::Open(entries) => entries.next(),
            Self::Whole(entries) => entries.next(),
        }
    }
}

/// A directory that is being walked.
struct Level {
    path: PathBuf,
    listing: Listing,
    active: Active,
    class: Class,
}

/// Where a path leads.
enum Way {
    /// To this path without links, in a file system of this class.
    To(PathBuf, Class),
    /// Into this far file system; what is behind is not touched by looking.
    Into(Mount),
}

impl Way {
    fn class(&self) -> Class {
        match self {
            Self::To(_, class) => *class,
            Self::Into(mount) => mount.class(),
        }
    }
}

fn is_away(class: Class) -> bool {
    matches!(class, Class::Far | Class::Automounted)
}

impl Run {
    /// Walks through all paths of all searches.
    pub(super) fn walk(&mut self) {
        let mut roots =
            Roots { searches: BTreeMap::new(), reached: BTreeSet::new(), put_off: Vec::new(), links: Vec::new() };
        let all = self.searches.iter().enumerate();
        let asked: Vec<_> = all
            .flat_map(|(number, search)| search.search.paths.iter().map(move |path| (number, path.clone())))
            .collect();
        for (number, path) in asked {
            let place = self.place(Path::new(&path));
            let searches = roots.searches.entry(place.clone()).or_default();
            if !searches.contains(&number) {
                searches.push(number);
            }
            self.asked.entry(place).or_insert_with(|| (path, Vec::new())).1.push(number);
        }
        let mut paths: Vec<_> = roots.searches.keys().cloned().collect();
        // What lies above comes first, so that what lies below is reached from there.
        paths.sort_by_key(|path| path.components().count());
        let (far, near): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| is_away(self.way(path).class()));
        self.walk_all(&near, &mut roots);
        self.evaluate_late();
        for (path, active, class) in std::mem::take(&mut roots.put_off) {
            if !self.is_over() {
                self.walk_directory(&path, (Some(&active), class), &path, &mut roots);
            }
        }
        self.walk_all(&far, &mut roots);
        for (link, searches) in std::mem::take(&mut roots.links) {
            if !self.is_over() {
                self.follow(&link, searches);
            }
        }
        self.evaluate_late();
        if self.stop.is_asked() {
            let why = format!("the search was stopped before its end, {}", self.doing());
            self.kept.lock().ended(why);
        }
    }

    /// Returns where a path of the question lies: behind the link, when it is one to a directory of this machine.
    fn place(&self, path: &Path) -> PathBuf {
        self.note("looking at", path);
        match self.way(path) {
            Way::To(real, class) if !is_away(class) => {
                // Without a slash at its end, which would lead behind the link.
                let bare: PathBuf = path.components().collect();
                let is_link = std::fs::symlink_metadata(bare).is_ok_and(|found| found.is_symlink());
                let leads_to_one = is_link && std::fs::metadata(&real).is_ok_and(|found| found.is_dir());
                if leads_to_one { real } else { path.to_owned() }
            }
            _ => path.to_owned(),
        }
    }

    fn walk_all(&mut self, paths: &[PathBuf], roots: &mut Roots) {
        for path in paths {
            if self.is_over() {
                return;
            }
            if !roots.reached.contains(path) {
                self.walk_from(path, roots);
            }
        }
    }

    fn way(&self, path: &Path) -> Way {
        match self.table.real_path(path, Mount::may_hang) {
            Ok(real) => {
                let class = self.table.holding(&real).map_or(Class::Near, Mount::class);
                Way::To(real, class)
            }
            Err(Blocked::By(mount)) => Way::Into(mount.clone()),
            // What fails is said by whoever opens it.
            Err(Blocked::Failed(_)) => Way::To(path.to_owned(), Class::Near),
        }
    }

    /// Tells whether to end although something is left to look at.
    pub(super) fn is_over(&self) -> bool {
        if self.stop.is_asked() {
            return true;
        }
        let is_full = self.searches.iter().all(super::evaluate::Running::is_full);
        if is_full {
            let mut kept = self.kept.lock();
            (0..self.searches.len()).for_each(|search| kept.is_full(search));
        }
        is_full
    }

    fn walk_from(&mut self, root: &Path, roots: &mut Roots) {
        self.note("looking at", root);
        let way = self.way(root);
        let class = way.class();
        let asking = roots.searches.get(root).cloned().unwrap_or_default();
        let searches = self.willing(&asking, class);
        if let Way::Into(mount) = &way
            && searches.len() < asking.len()
        {
            self.leave_out(mount, root);
        }
        if searches.is_empty() {
            return;
        }
        let kind = match std::fs::symlink_metadata(root) {
            Ok(metadata) => metadata.file_type(),
            Err(error) => return self.not_opened(root, &error),
        };
        self.kept.lock().has_searched(&searches);
        if kind.is_dir() {
            let real = if let Way::To(real, _) = way { real } else { root.to_owned() };
            return self.walk_directory(root, (None, class), &real, roots);
        }
        roots.reach(root);
        if kind.is_file() {
            return self.evaluate(root, searches.into_iter());
        }
        if !kind.is_symlink() {
            let why = format!("ERROR: {} is neither a directory nor a plain file, and was not read", root.display());
            return self.not_looked_at(root, why);
        }
        match std::fs::canonicalize(root) {
            Err(error) => self.not_opened(root, &error),
            Ok(target) if target.is_file() => {
                // What cannot be read of it is what was asked for.
                let asked = self.asked.get(root).cloned().unwrap_or_default();
                self.asked.insert(target.clone(), asked);
                self.evaluate(&target, searches.into_iter());
            }
            Ok(target) => {
                let (root_shown, target) = (root.display(), target.display());
                let why = format!("ERROR: {root_shown} is a link to {target} and was not followed: search there");
                self.not_looked_at(root, why);
            }
        }
    }

    /// Returns those of the searches that look into file systems of this class.
    fn willing(&self, searches: &[usize], class: Class) -> Vec<usize> {
        let is_willing = |search: &&usize| !is_away(class) || self.searches[**search].search.options.remotefs;
        searches.iter().filter(is_willing).copied().collect()
    }

    /// Walks through a directory. `above` is what comes down from its parent, and the class of the file system it is in;
    /// `real` is its path without links, by which mounts are known.
    fn walk_directory(&mut self, root: &Path, above: (Option<&Active>, Class), real: &Path, roots: &mut Roots) {
        let mut levels: Vec<Level> = Vec::new();
        self.enter(root.to_owned(), above, roots, &mut levels);
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.listing.next() else {
                levels.pop();
                continue;
            };
            if self.is_over() {
                return;
            }
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let path = level.path.clone();
                    levels.pop();
                    self.not_opened(&path, &error);
                    continue;
                }
            };
            let path = entry.path();
            let (active, class) = (level.active.clone(), level.class);
            let mounted = if root == real {
                self.table.at(&path).cloned()
            } else {
                path.strip_prefix(root).ok().and_then(|below| self.table.at(&real.join(below)).cloned())
            };
            if let Some(mount) = &mounted
                && !self.may_touch(mount, &path, &active, class, roots)
            {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    let above = class;
                    let class = mounted.map_or(above, |mount| mount.class());
                    if is_away(class) && !is_away(above) {
                        roots.put_off.push((path, active, class));
                        continue;
                    }
                    self.enter(path, (Some(&active), class), roots, &mut levels);
                }
                Ok(kind) => self.meet(&path, kind, &active, roots),
                Err(error) => self.not_opened(&path, &error),
            }
        }
    }

    /// Tells whether any search wants to look at what is mounted at `path`; tells of what is left out.
    fn may_touch(&mut self, mount: &Mount, path: &Path, active: &Active, above: Class, roots: &Roots) -> bool {
        let class = mount.class();
        let begin = roots.searches.get(path).cloned().unwrap_or_default();
        let mut asking: Vec<_> = active.iter().map(|&(search, _)| search).chain(begin.iter().copied()).collect();
        asking.sort_unstable();
        asking.dedup();
        // Whoever is in one of the kernel's file systems asked for it, and for those below.
        let willing =
            if class == Class::Kernel && above != Class::Kernel { begin } else { self.willing(&asking, class) };
        if willing.len() < asking.len() {
            self.leave_out(mount, path);
        }
        !willing.is_empty()
    }

    /// Begins with a directory, unless no search is interested in it. `above` is what comes down from its parent, and the
    /// class of the file system that the directory is in.
    fn enter(&mut self, path: PathBuf, above: (Option<&Active>, Class), roots: &mut Roots, levels: &mut Vec<Level>) {
        let (parent, class) = above;
        let begin = roots.reach(&path).to_owned();
        let begin = self.willing(&begin, class);
        let mut active: Active = begin.iter().map(|&search| (search, 1)).collect();
        let mut too_deep = Vec::new();
        let is_new_kernel = class == Class::Kernel && levels.last().is_some_and(|level| level.class != Class::Kernel);
        if !is_new_kernel {
            for &(search, depth) in parent.into_iter().flatten() {
                if begin.contains(&search) || self.willing(&[search], class).is_empty() {
                    continue;
                }
                if depth < self.searches[search].depth_max {
                    active.push((search, depth + 1));
                } else {
                    too_deep.push(search);
                }
            }
        }
        self.kept.lock().not_entered(&too_deep);
        active.retain(|&(search, _)| {
            let is_full = self.searches[search].is_full();
            if is_full {
                self.kept.lock().is_full(search);
            }
            !is_full
        });
        if active.is_empty() {
            return;
        }
        self.note("listing", &path);
        match std::fs::read_dir(&path) {
            Ok(entries) => {
                self.kept.lock().has_searched(&begin);
                let listing = if levels.len() < OPEN_MAX {
                    Listing::Open(entries)
                } else {
                    let room = LISTED_MAX.saturating_sub(levels.iter().map(|level| level.listing.kept()).sum());
                    self.list(entries, &path, room)
                };
                levels.push(Level { path, listing, active, class });
            }
            Err(error) => self.not_opened(&path, &error),
        }
    }

    /// Lists a directory that is too deep to be kept open, as far as there is room for its names.
    fn list(&self, mut entries: ReadDir, path: &Path, room: usize) -> Listing {
        let listed: Vec<_> = entries.by_ref().take(room).take_while(|_| !self.stop.is_asked()).collect();
        if entries.next().is_some() {
            self.kept.lock().open_failed += 1;
            self.error(|| {
                let shown = path.display();
                format!("ERROR: {shown}: only {room} names of it were looked at, so deep there is no room for more")
            });
        }
        Listing::Whole(listed.into_iter())
    }

    /// Looks at what is no directory.
    fn meet(&mut self, path: &Path, kind: std::fs::FileType, active: &Active, roots: &mut Roots) {
        let mut searches: BTreeSet<usize> = active.iter().map(|&(search, _)| search).collect();
        if kind.is_file() {
            searches.extend(roots.reach(path));
        }
        if searches.is_empty() || !(kind.is_file() || kind.is_symlink()) {
            return;
        }
        if kind.is_file() {
            return self.evaluate(path, searches.into_iter());
        }
        let asking: Vec<_> = searches.into_iter().collect();
        // A link may lead where its search does not look.
        let Err(Blocked::By(mount)) = self.table.real_path(path, Mount::may_hang) else {
            return self.follow(path, asking);
        };
        let willing = self.willing(&asking, mount.class());
        if willing.len() < asking.len() {
            self.leave_out(mount, path);
        }
        if !willing.is_empty() {
            roots.links.push((path.to_owned(), willing));
        }
    }

    /// Looks at the file that a link leads to.
    fn follow(&mut self, link: &Path, searches: Vec<usize>) {
        self.note("following", link);
        self.evaluate(link, searches.into_iter());
    }
}
