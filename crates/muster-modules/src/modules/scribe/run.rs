//! Running a document: objects are looked at once, tests after the tests they need.

use super::document::{Document, Evr, FileContent, FileName, HasLine, Identifier, Package, Source, Test, Variable};
use super::versions::compare;
use super::{SubResult, TestResult};
use crate::module::Context;
use crate::modules::file::{FileSearch, Search};
use crate::modules::packages::{self, installed};
use crate::pattern;
use crate::reading;
use muster_core::limits::MODULE_FOUND_MAX;
use regex::Regex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Directories entered below an object's path.
const DEPTH: f64 = 10.0;
/// Files that one object looks at.
const FILES_MAX: f64 = 10_000.0;

/// What an object gives to its tests, or why it gives nothing.
type Prepared = Result<Vec<Identifier>, String>;

/// Runs a document; returns what came of its tests, in order, and errors of none of them.
pub(super) fn run(document: &Document, context: &Context) -> (Vec<TestResult>, Vec<String>) {
    let mut machine = Machine { context, packages: None, errors: Vec::new() };
    let mut objects = BTreeMap::new();
    for object in &document.objects {
        let prepared = object.source().map_or_else(
            || Err("object has no valid interface".to_owned()),
            |source| machine.prepare(&source, &document.variables),
        );
        // Of several objects with one name, the first counts.
        objects.entry(object.id.as_str()).or_insert(prepared);
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
    (results.collect(), machine.errors)
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
        let one =
            |value: &Identifier| Ok(SubResult { result: matches(&value.value)?, identifier: value.identifier.clone() });
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

type Comparison<'a> = Box<dyn Fn(&str) -> Result<bool, String> + 'a>;

/// Returns what a test compares with; a test that compares with nothing is true of everything.
fn comparison(test: &Test) -> Result<Comparison<'_>, String> {
    if let Some(Evr { operation, value }) = test.evr.as_ref().filter(|evr| !evr.value.is_empty()) {
        let wanted: fn(std::cmp::Ordering) -> bool = match operation.as_str() {
            "<" => std::cmp::Ordering::is_lt,
            "=" => std::cmp::Ordering::is_eq,
            ">" => std::cmp::Ordering::is_gt,
            other => return Err(format!("invalid evr operation {other}")),
        };
        return Ok(Box::new(move |have| Ok(wanted(compare(have, value)))));
    }
    if let Some(expression) = test.regexp.as_ref().filter(|regexp| !regexp.value.is_empty()) {
        let regex = pattern::compile(&expression.value)?;
        return Ok(Box::new(move |have| Ok(regex.is_match(have))));
    }
    if let Some(exact) = test.exactmatch.as_ref().filter(|exact| !exact.value.is_empty()) {
        return Ok(Box::new(move |have| Ok(have == exact.value)));
    }
    Ok(Box::new(|_| Ok(true)))
}

struct Machine<'a> {
    context: &'a Context,
    /// The installed packages, once somebody asked.
    packages: Option<Vec<packages::Package>>,
    errors: Vec<String>,
}

impl Machine<'_> {
    fn prepare(&mut self, source: &Source<'_>, variables: &[Variable]) -> Prepared {
        if self.context.stop.is_asked() {
            return Err("the run was stopped before its end".to_owned());
        }
        let mut values = match source {
            Source::Package(package) => self.package(package, variables)?,
            Source::FileContent(content) => self.file_content(content, variables)?,
            Source::FileName(name) => self.file_name(name, variables)?,
            Source::HasLine(line) => self.has_line(line, variables)?,
            Source::Raw(raw) => raw.identifiers.clone(),
        };
        values.truncate(MODULE_FOUND_MAX);
        Ok(values)
    }

    fn package(&mut self, package: &Package, variables: &[Variable]) -> Prepared {
        if self.packages.is_none() {
            self.packages = Some(installed(self.context, &mut self.errors));
        }
        let name = expand(&package.name, variables);
        let collected =
            (!package.collectmatch.is_empty()).then(|| pattern::compile(&package.collectmatch)).transpose()?;
        let wanted = |have: &&packages::Package| {
            collected.as_ref().map_or_else(|| have.name == name, |collected| collected.is_match(&have.name))
        };
        let found = self.packages.iter().flatten().filter(wanted);
        let mut found: Vec<_> = found
            .map(|package| Identifier { identifier: package.name.clone(), value: package.version.clone() })
            .collect();
        if package.onlynewest {
            found = found.into_iter().max_by(|a, b| compare(&a.value, &b.value)).into_iter().collect();
        }
        Ok(found)
    }

    fn file_content(&self, content: &FileContent, variables: &[Variable]) -> Prepared {
        let expression = pattern::compile(&content.expression)?;
        let mut values = Vec::new();
        for path in self.files(&content.path, &content.file, variables)? {
            let identifier = path.to_string_lossy().into_owned();
            lines(&path, |line| {
                let groups = expression.captures(line);
                values.extend(groups.iter().flat_map(|groups| groups.iter().skip(1)).map(|group| Identifier {
                    identifier: identifier.clone(),
                    value: group.map(|group| group.as_str().to_owned()).unwrap_or_default(),
                }));
                values.len() <= MODULE_FOUND_MAX
            });
        }
        Ok(if content.concat.is_empty() { values } else { concatenated(values, &content.concat) })
    }

    fn file_name(&self, name: &FileName, variables: &[Variable]) -> Prepared {
        let expression = pattern::compile(&expand(&name.file, variables))?;
        let files = self.files(&name.path, &name.file, variables)?;
        Ok(files.iter().filter_map(|path| named(path, &expression)).collect())
    }

    fn has_line(&self, line: &HasLine, variables: &[Variable]) -> Prepared {
        let expression = pattern::compile(&line.expression)?;
        let files = self.files(&line.path, &line.file, variables)?;
        let judged = files.iter().filter_map(|path| {
            let mut found = false;
            let read = lines(path, |line| {
                found = expression.is_match(line);
                !found
            });
            read.then(|| Identifier { identifier: path.to_string_lossy().into_owned(), value: found.to_string() })
        });
        Ok(judged.collect())
    }

    /// Returns the files below a path whose name matches.
    fn files(&self, path: &str, name: &str, variables: &[Variable]) -> Result<Vec<PathBuf>, String> {
        let mut search =
            Search { paths: vec![expand(path, variables)], names: vec![expand(name, variables)], ..Search::default() };
        (search.options.maxdepth, search.options.matchlimit, search.options.matchall) = (DEPTH, FILES_MAX, true);
        FileSearch::from(search).find(self.context).map(|found| found.files).map_err(|refused| refused.0)
    }
}

/// Hands the lines of a file to `see` until it has seen enough. Tells whether the file could be read.
fn lines(path: &Path, see: impl FnMut(&str) -> bool) -> bool {
    let Ok(text) = reading::text(path) else { return false };
    let _ = text.lines().all(see);
    true
}

fn named(path: &Path, expression: &Regex) -> Option<Identifier> {
    let identifier = path.to_string_lossy().into_owned();
    let value = expression.captures(&identifier)?.get(1)?.as_str().to_owned();
    Some(Identifier { identifier, value })
}

fn concatenated(values: Vec<Identifier>, with: &str) -> Vec<Identifier> {
    let mut values = values.into_iter();
    let Some(first) = values.next() else { return Vec::new() };
    let mut all = Identifier { identifier: format!("concat:{}", first.identifier), value: first.value };
    for next in values {
        all.identifier = format!("{},{}", all.identifier, next.identifier);
        all.value = format!("{}{with}{}", all.value, next.value);
    }
    vec![all]
}

fn expand(text: &str, variables: &[Variable]) -> String {
    variables
        .iter()
        .fold(text.to_owned(), |text, variable| text.replace(&format!("${{{}}}", variable.key), &variable.value))
}
