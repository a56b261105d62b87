//! file: which files of a machine have these names, sizes, modes, times, contents or hashes.
//!
//! Stays true: one walk serves all searches and finds what each alone would find; directories are not entered through
//! links; only plain files are read; a search never hands out content, only which file it was and its metadata. Far and
//! automounted file systems are left out unless asked for, and a walk that hangs keeps what it found.

mod check;
mod content;
mod evaluate;
mod hashes;
mod kept;
mod long_line;
mod parameters;
mod report;
mod walk;

use crate::arguments::{ArgumentError, Flag, Given};
use crate::module::{Context, Effect, Lines, ModuleInfo, Privilege, Refused, Typed};
use crate::result::{ModuleResult, to_value};
use crate::sandbox::Needs;
use evaluate::LostLinks;
pub(super) use parameters::paths_check;
pub(crate) use parameters::{Parameters, Search};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub(crate) struct File;

/// The label that the command line gives its one search.
const COMMAND_LINE_LABEL: &str = "s1";

impl Typed for File {
    type Parameters = Parameters;
    const INFO: ModuleInfo = ModuleInfo {
        name: "file",
        summary: "files by name, size, mode, time, content or hash",
        weight_min: 1,
        effect: Effect::Reads,
        privilege: Privilege::ReadFiles,
        needs: Needs::FILES,
    };
    const EXAMPLE: &'static str = "-path /etc -name '^passwd$' -content '^root:'";
    const FLAGS: &'static [Flag] = &[
        Flag::texts("path", "PATH", "where to search: a directory or a file; no letter stands for others"),
        Flag::texts("name", "REGEX", "the file's name matches; !REGEX: it does not"),
        Flag::texts("size", "SIZE", "the file's size, such as <10m, >1g or 4096; k, m, g and t are powers of 1024"),
        Flag::texts(
            "mode",
            "REGEX",
            "the file's mode matches, such as -r(w|-)xr-x---; instead of the first - a setuid file has u, a setgid one g, a sticky one t: ^u, ^u?g",
        ),
        Flag::texts("mtime", "TIME", "the file changed within (<90d) or before (>5h) a time; d, h and m (minutes)"),
        Flag::texts("content", "REGEX", "a line of the file matches; !REGEX: no line does"),
        Flag::texts("md5", "HASH", "the file's MD5"),
        Flag::texts("sha1", "HASH", "the file's SHA-1"),
        Flag::texts("sha2", "HASH", "the file's SHA-256, SHA-384 or SHA-512"),
        Flag::texts("sha3", "HASH", "the file's SHA3-224, SHA3-256, SHA3-384 or SHA3-512"),
        Flag::number("maxdepth", "how many directories deep to search: 1 is the path itself; 1000 unless told"),
        Flag::number("maxerrors", "how many errors to return; 30 unless told"),
        Flag::number("matchlimit", "how many files to find; 1000 unless told"),
        Flag::switch("matchall", "a file is found when all checks match; so unless -matchany is given"),
        Flag::switch("matchany", "every check finds files by itself"),
        Flag::switch("macroal", "a content matches when all lines of the file do"),
        Flag::texts(
            "mismatch",
            "CHECK",
            "turn a check round: name, size, mode, mtime, content, md5, sha1, sha2 or sha3",
        ),
        Flag::switch("returnsha256", "return the SHA-256 of the files found"),
        Flag::switch("decompress", "look into files that gzip packed"),
        Flag::switch("remotefs", "look into file systems of other machines and automounted ones, too"),
        Flag::switch("verbose", "taken for the sake of old scripts; changes nothing"),
    ];

    fn from_flags(given: &Given) -> Result<Parameters, ArgumentError> {
        parameters::command_line_check(given)?;
        let search = Search::from_flags(given);
        Ok(Parameters { searches: BTreeMap::from([(COMMAND_LINE_LABEL.to_owned(), search)]) })
    }

    fn validate(parameters: &Parameters) -> Result<(), Refused> {
        parameters.validate()
    }

    fn answer(parameters: Parameters, context: &Context) -> Result<ModuleResult, Refused> {
        let mut run = evaluate::Run::new(parameters, LostLinks::Interesting, context)?;
        let (reporter, kept) = (report::Reporter::of(&run), run.kept.clone());
        let so_far = reporter.clone();
        context.progress.so_far(move || so_far.report(kept.now(), false));
        run.walk();
        Ok(reporter.report(run.kept.now(), !run.stop.is_asked()))
    }

    fn lines(result: &ModuleResult, lines: Lines) -> Vec<String> {
        report::lines(result, lines)
    }

    fn failure(Refused(why): Refused) -> ModuleResult {
        let elements = to_value(BTreeMap::<String, ()>::new());
        ModuleResult { elements, statistics: to_value(report::Statistics::default()), ..ModuleResult::failed(why) }
    }
}

/// A search for files that another module looks into. A link that leads nowhere has no content that could be missed, and is
/// no error of it.
#[derive(Debug, Clone)]
pub struct FileSearch {
    parameters: Parameters,
    lost_links: LostLinks,
}

/// What such a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilesFound {
    /// The files, each once, in the order of their paths.
    pub files: Vec<PathBuf>,
    /// What could not be read on the way, as the file module reports it.
    pub errors: Vec<String>,
    /// What ended the search before it had looked at everything, such as how many files it may find.
    pub cuts: Vec<String>,
    /// Paths that are not on this machine.
    pub missing: Vec<String>,
    /// Directories that lie deeper than the search goes.
    pub not_entered: u64,
    /// Every path was looked at, or is not on this machine: without that, nothing found does not mean that nothing is there.
    pub has_searched: bool,
}

/// A search that is about to begin.
#[derive(Debug)]
pub(crate) struct Searching(evaluate::Run);

impl Searching {
    /// Returns what tells, from any thread, which files were found by then.
    pub(crate) fn so_far(&self) -> impl Fn() -> FilesFound + Send + Sync + 'static {
        let kept = self.0.kept.clone();
        move || kept.found()
    }

    /// Searches.
    pub(crate) fn walk(mut self) -> FilesFound {
        self.0.walk();
        self.0.kept.found()
    }
}

impl FileSearch {
    /// Returns the search that the file module makes of a command line, which is one text.
    ///
    /// # Errors
    /// The command line is none of the file module's.
    pub fn of_line(line: &str) -> Result<Self, ArgumentError> {
        // It comes from an action, so numbers and paths mean what they mean to MIG; a person's own line is held to more.
        let search = Search::from_flags(&crate::arguments::given(&File, &crate::arguments::words(line)?)?);
        let parameters = Parameters { searches: BTreeMap::from([(COMMAND_LINE_LABEL.to_owned(), search)]) };
        parameters.validate().map_err(|Refused(why)| ArgumentError::Refused { module: File::INFO.name, why })?;
        Ok(Self::from(parameters))
    }

    /// The same, for files that are found by their names alone: a link that leads nowhere is an error where it would be found.
    pub(crate) fn of_names(self) -> Self {
        Self { lost_links: LostLinks::Interesting, ..self }
    }

    /// Searches.
    ///
    /// # Errors
    /// There is more to search for than one may.
    pub fn find(self, context: &Context) -> Result<FilesFound, Refused> {
        self.begin(context).map(Searching::walk)
    }

    /// Prepares the search, for whoever wants to know what was found before its end.
    pub(crate) fn begin(self, context: &Context) -> Result<Searching, Refused> {
        self.parameters.validate()?;
        evaluate::Run::new(self.parameters, self.lost_links, context).map(Searching)
    }
}

impl From<Search> for FileSearch {
    fn from(search: Search) -> Self {
        Self::from(Parameters { searches: BTreeMap::from([(COMMAND_LINE_LABEL.to_owned(), search)]) })
    }
}

impl From<Parameters> for FileSearch {
    fn from(parameters: Parameters) -> Self {
        Self { parameters, lost_links: LostLinks::Uninteresting }
    }
}

#[cfg(test)]
mod looked_tests;
#[cfg(test)]
mod options_tests;
#[cfg(test)]
mod tests;
