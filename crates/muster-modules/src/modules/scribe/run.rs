//! Running a document: objects are looked at once, tests after the tests they need.

use super::document::{
    CHAIN_ROOT, Document, Evr, FileContent, FileName, HasLine, Object, Package, Source, Test, Variable,
};
use super::versions::Order;
use super::{SubResult, TestResult};
use crate::module::Context;
use crate::modules::file::{FileSearch, Search};
use crate::modules::packages::{Inventory, NameRegex, full_name};
use crate::pattern;
use crate::reading;
use muster_core::limits::MODULE_FOUND_MAX;
use regex::Regex;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Directories entered below an object's path.
const DEPTH: f64 = 10.0;
/// Files that one object looks at.
const FILES_MAX: f64 = 10_000.0;

/// Errors that are returned, beside those of tests; the others are counted.
const ERRORS_MAX: usize = 30;

/// A value that an object found, and where.
#[derive(Debug, Clone)]
struct Seen {
    identifier: String,
    value: String,
    /// How it compares as a version.
    order: Order,
}

impl Seen {
    fn new(identifier: impl Into<String>, value: impl Into<String>) -> Self {
        Self { identifier: identifier.into(), value: value.into(), order: Order::default() }
    }
}

/// What files are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Content,
    Names,
}

/// What an object gives to its tests, or why it gives nothing.
type Prepared = Result<Vec<Seen>, String>;

/// Runs a document; returns what came of its tests, in order, errors of none of them, and what was not looked at to its end.
pub(super) fn run(document: &Document, context: &Context) -> (Vec<TestResult>, Vec<String>, Vec<String>) {
    let (errors, known_errors, cuts) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut machine = Machine { context, document, packages: None, errors, known_errors, cuts };
    let mut objects: BTreeMap<&str, Prepared> = BTreeMap::new();
    for object in &document.objects {
        // Of several objects with one name, the first counts.
        if !objects.contains_key(object.id.as_str()) {
            objects.insert(&object.id, machine.prepare(object));
        }
    }
    let mut results: Vec<Option<TestResult>> = vec![None; document.tests.len()];
    for number in 0..document.tests.len() {
        evaluate(document, number, &objects, &mut results);
    }
    let results = results.into_iter().flatten().map(|mut result| {
        // What is not in the list of results stays out: an error has none.
        if result.iserror {
            result.results = None;
        }
        result
    });
    let cuts = std::mem::take(&mut machine.cuts).into_iter().collect();
    (results.collect(), machine.into_errors(), cuts)
}

/// Runs a test and those it needs before it. They are put off on a list, not called, so that no chain is too long.
fn evaluate(
    document: &Document,
    number: usize,
    objects: &BTreeMap<&str, Prepared>,
    results: &mut [Option<TestResult>],
) {
    let mut under_way = vec![number];
    while let Some(&number) = under_way.last() {
        if results[number].is_some() {
            under_way.pop();
            continue;
        }
        let test = &document.tests[number];
        let needs: Vec<_> = test.needs.iter().filter_map(|need| document.test(need)).collect();
        let open = needs.iter().find(|need| results[**need].is_none());
        match open {
            Some(open) if under_way.contains(open) => {
                results[number] =
                    Some(failed(test, format!("a test dependency failed (\"{}\")", document.tests[*open].id)));
            }
            Some(open) => under_way.push(*open),
            None => {
                let needs = needs.iter().filter_map(|need| results[*need].as_ref());
                let result = judge(test, needs, objects);
                results[number] = Some(result);
            }
        }
    }
}

fn described(test: &Test) -> TestResult {
    TestResult {
        testid: test.id.clone(),
        name: test.name.clone(),
        description: test.description.clone(),
        tags: test.tags.clone(),
        ..TestResult::default()
    }
}

fn failed(test: &Test, error: String) -> TestResult {
    TestResult { iserror: true, error, ..described(test) }
}

fn judge<'a>(
    test: &Test,
    needs: impl Iterator<Item = &'a TestResult>,
    objects: &BTreeMap<&str, Prepared>,
) -> TestResult {
    let mut needed = true;
    for need in needs {
        if need.iserror {
            return failed(test, format!("a test dependency failed (\"{}\")", need.testid));
        }
        needed &= need.masterresult;
    }
    let values = match objects.get(test.object.as_str()) {
        None => return failed(test, format!("unknown object \"{}\"", test.object)),
        Some(Err(error)) => return failed(test, error.clone()),
        Some(Ok(values)) => values,
    };
    let compared: Result<Vec<_>, String> = comparison(test).and_then(|matches| {
        let one = |value: &Seen| Ok(SubResult { result: matches(value)?, identifier: value.identifier.clone() });
        values.iter().map(one).collect()
    });
    match compared {
        Err(error) => failed(test, error),
        Ok(results) => {
            let hastrueresults = results.iter().any(|result| result.result);
            let masterresult = hastrueresults && needed;
            let results = (!results.is_empty()).then_some(results);
            TestResult { masterresult, hastrueresults, results, ..described(test) }
        }
    }
}

type Comparison<'a> = Box<dyn Fn(&Seen) -> Result<bool, String> + 'a>;

/// Returns what a test compares with; a test that compares with nothing is true of everything.
fn comparison(test: &Test) -> Result<Comparison<'_>, String> {
    if let Some(Evr { operation, value }) = test.evr.as_ref().filter(|evr| !evr.value.is_empty()) {
        let wanted: fn(std::cmp::Ordering) -> bool = match operation.as_str() {
            "<" => std::cmp::Ordering::is_lt,
            "=" => std::cmp::Ordering::is_eq,
            ">" => std::cmp::Ordering::is_gt,
            other => return Err(format!("invalid evr operation {other}")),
        };
        return Ok(Box::new(move |have| Ok(wanted(have.order.compare(&have.value, value)))));
    }
    if let Some(expression) = test.regexp.as_ref().filter(|regexp| !regexp.value.is_empty()) {
        let regex = pattern::compile(&expression.value)?;
        return Ok(Box::new(move |have| Ok(regex.is_match(&have.value))));
    }
    if let Some(exact) = test.exactmatch.as_ref().filter(|exact| !exact.value.is_empty()) {
        return Ok(Box::new(move |have| Ok(have.value == exact.value)));
    }
    Ok(Box::new(|_| Ok(true)))
}

struct Machine<'a> {
    context: &'a Context,
    document: &'a Document,
    /// The installed packages, once somebody asked.
    packages: Option<Inventory>,
    errors: Vec<String>,
    /// Errors that were met, each once: many objects look at the same files.
    known_errors: BTreeSet<String>,
    /// What was not looked at to its end: a test over it may be false for that reason alone.
    cuts: BTreeSet<String>,
}

impl Machine<'_> {
    fn prepare(&mut self, object: &Object) -> Prepared {
        let source = object.source().ok_or("object has no valid interface")?;
        if source.is_link() {
            return Err(format!(
                "object not prepared: its path begins with ${{{CHAIN_ROOT}}}, so only an import-chain leads to it"
            ));
        }
        let variables: Vec<_> = self.document.variables.iter().collect();
        let mut values = self.values(&source, &variables)?;
        if values.len() > MODULE_FOUND_MAX {
            let (id, count) = (&object.id, values.len());
            self.cuts.insert(format!("{id}: only the first {MODULE_FOUND_MAX} of {count} values were compared"));
            values.truncate(MODULE_FOUND_MAX);
        }
        Ok(values)
    }

    fn values(&mut self, source: &Source<'_>, variables: &[&Variable]) -> Prepared {
        if self.context.stop.is_asked() {
            return Err("the run was stopped before its end".to_owned());
        }
        match source {
            Source::Package(package) => self.package(package, variables),
            Source::FileContent(content) => self.file_content(source, content, variables),
            Source::FileName(name) => self.file_name(source, name, variables),
            Source::HasLine(line) => self.has_line(line, variables),
            Source::Raw(raw) => Ok(raw.identifiers.iter().map(|raw| Seen::new(&raw.identifier, &raw.value)).collect()),
        }
    }

    fn package(&mut self, package: &Package, variables: &[&Variable]) -> Prepared {
        if self.packages.is_none() {
            let mut inventory = Inventory::read(self.context);
            self.errors.append(&mut inventory.errors);
            self.packages = Some(inventory);
        }
        let Some(packages) = self.packages.as_ref().filter(|have| have.is_known).map(|have| &have.packages) else {
            return Err("no list of packages could be read".to_owned());
        };
        let name = expand(&package.name, variables);
        let collected =
            (!package.collectmatch.is_empty()).then(|| NameRegex::compile(&package.collectmatch)).transpose()?;
        let mut found = Vec::new();
        for have in packages {
            // An architecture counts only where one is asked for: without a colon, names are meant.
            let identifier = match &collected {
                Some(collected) => collected.name_of(have),
                None if have.name == name => Some(Cow::Borrowed(have.name.as_str())),
                None => Some(Cow::Owned(full_name(have))).filter(|full| **full == name),
            };
            let Some(identifier) = identifier else { continue };
            found.push(Seen { order: Order::of(&have.kind), ..Seen::new(identifier, &have.version) });
        }
        if package.onlynewest {
            found = found.into_iter().max_by(|a, b| a.order.compare(&a.value, &b.value)).into_iter().collect();
        }
        Ok(found)
    }

    fn file_content(&mut self, source: &Source<'_>, content: &FileContent, variables: &[&Variable]) -> Prepared {
        let expression = pattern::compile(&content.expression)?;
        group_check(&expression, source, "filecontent expression")?;
        let (mut values, mut found) = (Vec::new(), Vec::new());
        for path in self.files((&content.path, &content.file), variables, For::Content)? {
            let identifier = path.to_string_lossy().into_owned();
            let mut has_match = false;
            self.lines(&path, |line| {
                let Some(groups) = expression.captures(line) else { return true };
                has_match = true;
                values.extend(groups.iter().skip(1).map(|group| {
                    let value = group.map(|group| group.as_str()).unwrap_or_default();
                    Seen::new(&identifier, value)
                }));
                values.len() <= MODULE_FOUND_MAX
            });
            if has_match {
                found.push(path);
            }
        }
        values.extend(self.chained(source, &found, variables)?);
        Ok(if content.concat.is_empty() { values } else { concatenated(values, &content.concat) })
    }

    fn file_name(&mut self, source: &Source<'_>, name: &FileName, variables: &[&Variable]) -> Prepared {
        let expression = pattern::compile(&expand(&name.file, variables))?;
        group_check(&expression, source, "filename file")?;
        let files = self.files((&name.path, &name.file), variables, For::Names)?;
        let named = |path: &PathBuf| {
            let file_name = path.file_name().unwrap_or_default().to_string_lossy();
            let groups = expression.captures(&file_name)?;
            let value = groups.iter().nth(1)?.map(|group| group.as_str().to_owned()).unwrap_or_default();
            Some(Seen::new(path.to_string_lossy(), value))
        };
        let mut values: Vec<_> = files.iter().filter_map(named).collect();
        values.extend(self.chained(source, &files, variables)?);
        Ok(values)
    }

    /// Follows the import chain of an object for each of the files that it found. What is found there counts as found in
    /// the file.
    fn chained(&mut self, source: &Source<'_>, files: &[PathBuf], variables: &[&Variable]) -> Prepared {
        let mut values = Vec::new();
        if source.import_chain().is_empty() {
            return Ok(values);
        }
        for file in files {
            let directory = file.parent().unwrap_or(Path::new("/")).to_string_lossy();
            let value = if directory.ends_with('/') { directory.into_owned() } else { format!("{directory}/") };
            let root = Variable { key: CHAIN_ROOT.to_owned(), value };
            let variables: Vec<_> = std::iter::once(&root).chain(variables.iter().copied()).collect();
            for id in source.import_chain() {
                let linked = self.document.object(id).and_then(Object::source);
                let linked = linked.ok_or_else(|| format!("unknown object \"{id}\""))?;
                let found = self.values(&linked, &variables)?;
                let identifier = file.to_string_lossy();
                values
                    .extend(found.into_iter().map(|seen| Seen { identifier: identifier.clone().into_owned(), ..seen }));
            }
            if values.len() > MODULE_FOUND_MAX {
                break;
            }
        }
        Ok(values)
    }

    fn has_line(&mut self, line: &HasLine, variables: &[&Variable]) -> Prepared {
        let expression = pattern::compile(&line.expression)?;
        let mut values = Vec::new();
        for path in self.files((&line.path, &line.file), variables, For::Content)? {
            let mut found = false;
            let was_read = self.lines(&path, |line| {
                found = expression.is_match(line);
                !found
            });
            if was_read {
                values.push(Seen::new(path.to_string_lossy(), found.to_string()));
            }
        }
        Ok(values)
    }

    /// Returns the files below a path whose name matches.
    fn files(
        &mut self,
        (path, name): (&str, &str),
        variables: &[&Variable],
        purpose: For,
    ) -> Result<Vec<PathBuf>, String> {
        let path = expand(path, variables);
        // What is not on this machine has no files; that is an answer.
        if std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Ok(Vec::new());
        }
        let mut search =
            Search { paths: vec![path.clone()], names: vec![expand(name, variables)], ..Search::default() };
        (search.options.maxdepth, search.options.matchlimit, search.options.matchall) = (DEPTH, FILES_MAX, true);
        let search = match purpose {
            For::Content => FileSearch::from(search),
            For::Names => FileSearch::from(search).of_names(),
        };
        let found = search.find(self.context).map_err(|refused| refused.0)?;
        if !found.cuts.is_empty() {
            self.cuts.insert(format!("{path}: no more than the first {} files were looked at", found.files.len()));
        }
        if found.not_entered > 0 {
            let deep = found.not_entered;
            self.cuts.insert(format!("{path}: {deep} directories more than {DEPTH} deep were not entered"));
        }
        found.errors.into_iter().for_each(|error| self.error(error));
        if found.has_searched { Ok(found.files) } else { Err(format!("{path} could not be looked at")) }
    }

    /// Hands the lines of a file to `see` until it has seen enough. Tells whether the file could be read.
    fn lines(&mut self, path: &Path, see: impl FnMut(&str) -> bool) -> bool {
        match reading::text(path) {
            Ok(text) => {
                let _ = text.lines().all(see);
                true
            }
            Err(error) => {
                self.error(reading::open_error(path, &error));
                false
            }
        }
    }

    /// Keeps that something could not be looked at: a test over it may be false for that reason alone.
    fn error(&mut self, text: String) {
        if self.known_errors.insert(text.clone()) && self.known_errors.len() <= ERRORS_MAX {
            self.errors.push(text);
        }
    }

    fn into_errors(mut self) -> Vec<String> {
        let hidden = self.known_errors.len().saturating_sub(ERRORS_MAX);
        if hidden > 0 {
            self.errors.push(format!("{hidden} errors were not returned (max errors = {ERRORS_MAX})"));
        }
        self.errors
    }
}

/// Refuses an expression that captures nothing, of an object that has nothing else to give.
fn group_check(expression: &Regex, source: &Source<'_>, what: &str) -> Result<(), String> {
    if expression.captures_len() > 1 || !source.import_chain().is_empty() {
        return Ok(());
    }
    Err(format!("the {what} has no group in parentheses, so there is nothing to compare"))
}

/// Puts the values of each file together.
fn concatenated(values: Vec<Seen>, with: &str) -> Vec<Seen> {
    let mut all: Vec<Seen> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for next in values {
        match places.get(&next.identifier) {
            Some(&place) if all[place].value.is_empty() => all[place].value = next.value,
            Some(&place) => {
                all[place].value.push_str(with);
                all[place].value.push_str(&next.value);
            }
            None => {
                places.insert(next.identifier.clone(), all.len());
                all.push(next);
            }
        }
    }
    all
}

fn expand(text: &str, variables: &[&Variable]) -> String {
    variables
        .iter()
        .fold(text.to_owned(), |text, variable| text.replace(&format!("${{{}}}", variable.key), &variable.value))
}
