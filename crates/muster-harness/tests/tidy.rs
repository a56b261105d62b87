//! What no compiler checks: who may use whom, words that may not occur, how long files are.
//!
//! Stays true: every rule names its file and line and says what to do; an exception stands here with its reason, and one
//! that is no longer needed fails too.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use muster_harness::programs::workspace;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which room stands on which. An edge that is not here is forbidden; one that is here and not used is a mistake too.
const EDGES: &[(&str, &[&str])] = &[
    ("muster", &["muster-api", "muster-cli", "muster-server"]),
    ("muster-agent", &["muster-core", "muster-modules", "muster-proto", "muster-trust"]),
    ("muster-api", &[]),
    ("muster-cli", &["muster-api", "muster-core", "muster-modules", "muster-trust"]),
    ("muster-core", &[]),
    ("muster-engine", &["muster-core", "muster-store", "muster-trust"]),
    ("muster-harness", &["muster-api", "muster-core"]),
    ("muster-modules", &["muster-core"]),
    ("muster-proto", &["muster-core"]),
    (
        "muster-server",
        &["muster-api", "muster-core", "muster-engine", "muster-modules", "muster-proto", "muster-store"],
    ),
    ("muster-store", &["muster-core"]),
    ("muster-trust", &["muster-core"]),
    ("muster-yara", &["muster-core", "muster-modules"]),
    ("xtask", &[]),
];

/// Crates that only some rooms may name: SQL, HTTP, generated code and processes stay where they belong.
const FENCED: &[(&str, &[&str])] = &[
    ("rusqlite", &["muster-store", "muster-harness"]),
    ("tokio-postgres", &["muster-store", "muster-harness"]),
    ("axum", &["muster-server"]),
    ("utoipa-axum", &["muster-server"]),
    ("sequoia-openpgp", &["muster-trust"]),
    ("boreal", &["muster-yara"]),
    ("clap", &["muster", "muster-cli", "muster-agent", "muster-harness", "xtask"]),
];

/// Lines of production code in one file, at most.
const FILE_LINES_MAX: usize = 500;
/// Longer files, each with its reason.
const LONG_FILES: &[(&str, &str)] =
    &[("crates/muster-agent/src/spool.rs", "one file format with its reader, writer and repair, five lines over")];

/// Where the ceilings stand, and the page that compares each with its like in the originals.
const LIMITS: (&str, &str) = ("crates/muster-core/src/limits.rs", "docs/reference/limits.md");

#[test]
fn every_ceiling_is_on_the_page_of_limits_and_no_other() {
    let read = |path: &str| std::fs::read_to_string(workspace().join(path)).unwrap();
    let (source, page) = (read(LIMITS.0), read(LIMITS.1));
    let name = |line: &str| Some(line.strip_prefix("pub const ")?.split(':').next()?.to_owned());
    let there: BTreeSet<String> = source.lines().filter_map(name).collect();
    let row = |line: &str| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned());
    let told: BTreeSet<String> = page.lines().filter_map(row).collect();
    let missing: Vec<_> = there.difference(&told).collect();
    let extra: Vec<_> = told.difference(&there).collect();
    assert!(
        missing.is_empty(),
        "{}: add a row for {missing:?}, beside its like in Fleetspeak or MIG if it has one",
        LIMITS.1
    );
    assert!(extra.is_empty(), "{}: there is no {extra:?} in {}", LIMITS.1, LIMITS.0);
}

fn words() -> Vec<(String, &'static str)> {
    // Put together here, so that this file does not hold them itself.
    let joined = |parts: &[&str]| parts.concat();
    vec![
        (joined(&["to", "do!("]), "write it, or leave it out"),
        (joined(&["unimpl", "emented!("]), "write it, or leave it out"),
        (joined(&["#[ig", "nore"]), "a test runs, or is deleted"),
        (joined(&["#[al", "low("]), "say #[expect(…, reason = …)]"),
        (joined(&["#![al", "low("]), "say #![expect(…, reason = …)]"),
        (joined(&["un", "safe {"]), "there is a safe way, or a crate that has it"),
        (joined(&["un", "safe fn"]), "there is a safe way, or a crate that has it"),
        (joined(&["TO", "DO"]), "do it, or open an issue"),
        (joined(&["FIX", "ME"]), "do it, or open an issue"),
        (joined(&["db", "g!("]), "log it, or leave it out"),
        (joined(&["/ro", "ot/"]), "no paths of one machine"),
        (joined(&["/ho", "me/"]), "no paths of one machine"),
        (joined(&["/wo", "rk/"]), "no paths of one machine"),
        (joined(&["static.", "crates.io"]), "no hosts of registries"),
        (joined(&["index.", "crates.io"]), "no hosts of registries"),
        (joined(&["files.", "pythonhosted"]), "no hosts of registries"),
        (joined(&["pypi.", "org"]), "no hosts of registries"),
        (joined(&["proxy.", "golang"]), "no hosts of registries"),
    ]
}

fn relative(path: &Path) -> String {
    path.strip_prefix(workspace()).expect("only files of the workspace are read").display().to_string()
}

fn files_below(directory: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries.map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() {
            // What Cargo builds, not a module of that name.
            let is_built = name == "target" && path.join("CACHEDIR.TAG").exists();
            if !is_built && (!name.starts_with('.') || name == ".config" || name == ".ci") {
                files_below(&path, extensions, found);
            }
        } else if extensions.is_empty() || path.extension().is_some_and(|ext| extensions.iter().any(|e| ext == *e)) {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    files_below(workspace(), &["rs"], &mut files);
    files.sort();
    assert!(files.len() > 50, "only {} sources were found", files.len());
    files.iter().map(|path| (relative(path), std::fs::read_to_string(path).unwrap())).collect()
}

fn manifests() -> BTreeMap<String, (PathBuf, toml::Table)> {
    let mut files = Vec::new();
    files_below(&workspace().join("crates"), &["toml"], &mut files);
    files_below(&workspace().join("xtask"), &["toml"], &mut files);
    let manifests = files.into_iter().filter(|path| path.file_name().is_some_and(|name| name == "Cargo.toml"));
    manifests
        .map(|path| {
            let manifest: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
            let name = manifest["package"]["name"].as_str().unwrap().to_owned();
            (name, (path, manifest))
        })
        .collect()
}

fn dependencies(manifest: &toml::Table, kinds: &[&str]) -> BTreeSet<String> {
    let tables = kinds.iter().filter_map(|kind| manifest.get(*kind)?.as_table());
    tables.flat_map(|table| table.keys().cloned()).collect()
}

#[test]
fn rooms_stand_only_on_the_rooms_they_may() {
    let manifests = manifests();
    let known: Vec<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    assert_eq!(manifests.keys().collect::<Vec<_>>(), known, "a room was added or removed: say here what it stands on");
    for (name, want) in EDGES {
        let have: Vec<String> = dependencies(&manifests[*name].1, &["dependencies", "build-dependencies"])
            .into_iter()
            .filter(|dependency| known.contains(&dependency.as_str()))
            .collect();
        assert_eq!(have, *want, "the edges of {name}");
    }
}

#[test]
fn every_edge_is_used() {
    for (name, (path, manifest)) in manifests() {
        let mut files = Vec::new();
        files_below(path.parent().unwrap(), &["rs"], &mut files);
        let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        for dependency in dependencies(&manifest, &["dependencies"]) {
            if dependency.starts_with("muster-") {
                let word = dependency.replace('-', "_");
                assert!(text.contains(&word), "{name} depends on {dependency} and never names it: remove the edge");
            }
        }
    }
}

#[test]
fn fenced_crates_stay_behind_their_fence() {
    for (name, (_, manifest)) in manifests() {
        // Tests may name more: a command line is tested against a small server of its own.
        let have = dependencies(&manifest, &["dependencies", "build-dependencies"]);
        for (fenced, may) in FENCED {
            let allowed = may.contains(&name.as_str());
            assert!(!have.contains(*fenced) || allowed, "{name} may not depend on {fenced}; only {may:?} may");
        }
    }
}

/// `cargo xtask deny` looks at everything that is linked, and takes a program of its own.
#[test]
fn no_room_names_a_crate_that_may_not_be_linked() {
    let rules: toml::Table = std::fs::read_to_string(workspace().join("deny.toml")).unwrap().parse().unwrap();
    let banned = rules["bans"]["deny"].as_array().unwrap();
    // One with wrappers is there for these alone, and a fence of its own above.
    let banned = banned.iter().filter(|ban| ban.get("wrappers").is_none());
    let banned: BTreeSet<String> = banned.map(|ban| ban["crate"].as_str().unwrap().to_owned()).collect();
    assert!(banned.len() > 3, "{banned:?}");
    for (name, (_, manifest)) in manifests() {
        let have = dependencies(&manifest, &["dependencies", "build-dependencies", "dev-dependencies"]);
        let wrong: Vec<&String> = have.intersection(&banned).collect();
        assert!(wrong.is_empty(), "{name} names {wrong:?}, which deny.toml forbids");
    }
}

#[test]
fn every_room_takes_the_lints_and_the_version_of_the_workspace() {
    for (name, (_, manifest)) in manifests() {
        let inherited = |path: &[&str]| {
            let mut value = &toml::Value::Table(manifest.clone());
            for key in path {
                value = value.get(key)?;
            }
            value.as_bool()
        };
        assert_eq!(inherited(&["lints", "workspace"]), Some(true), "{name}: [lints] workspace = true is missing");
        for key in ["version", "edition", "rust-version", "license"] {
            assert_eq!(
                inherited(&["package", key, "workspace"]),
                Some(true),
                "{name}: {key}.workspace = true is missing"
            );
        }
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(kind).and_then(toml::Value::as_table) else { continue };
            for (dependency, value) in table {
                let shared = value.get("workspace").and_then(toml::Value::as_bool);
                assert_eq!(shared, Some(true), "{name}: {dependency} is not taken from the workspace's list");
            }
        }
    }
}

#[test]
fn forbidden_words_do_not_occur() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            for (word, advice) in words() {
                if line.contains(&word) {
                    faults.push(format!("{file}:{}: {word:?}: {advice}", number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn is_test(file: &str) -> bool {
    file.contains("/tests/") || file.ends_with("/tests.rs") || file.ends_with("_tests.rs")
}

#[test]
fn files_are_short() {
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    for (file, text) in sources() {
        let production = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        if is_test(&file) || production <= FILE_LINES_MAX {
            continue;
        }
        if LONG_FILES.iter().any(|(name, _)| *name == file) {
            used.insert(file);
        } else {
            faults.push(format!("{file} has {production} lines; past {FILE_LINES_MAX}, look for the missing word"));
        }
    }
    for (name, reason) in LONG_FILES {
        assert!(!reason.is_empty(), "{name} is excused without a reason");
        if !used.contains(*name) {
            faults.push(format!("{name} is short enough by now: take it off the list"));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_source_says_what_it_is_for() {
    let opens = |text: &str| text.starts_with("//!") || text.starts_with("#![");
    // Generated code has no opening, and lies in the build's output; a module of tests is told by what it tests.
    let mut sources = sources();
    sources.retain(|(file, text)| !opens(text) && !is_test(file));
    let silent: Vec<String> = sources.into_iter().map(|(file, _)| file).collect();
    assert!(silent.is_empty(), "these files do not open with what they are for (//!):\n{}", silent.join("\n"));
}

/// Whether a test's name says that it holds a row of the page of bad inputs.
fn is_row(name: &str) -> bool {
    let bytes = name.as_bytes();
    matches!(bytes, [b'r' | b's', tens, ones, b'_', ..] if tens.is_ascii_digit() && ones.is_ascii_digit())
}

/// The names of all functions.
fn functions() -> BTreeSet<String> {
    let mut functions = BTreeSet::new();
    for (_, text) in sources() {
        let found = text.split("fn ").skip(1).filter_map(|rest| rest.split_once('('));
        functions.extend(found.map(|(name, _)| name.to_owned()));
    }
    functions
}

/// What stands between backticks in the last column of a table's line.
fn named_in(line: &str) -> Vec<String> {
    let last = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    last.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_defect_of_the_original_names_tests_that_there_are() {
    let (tests, mut rows) = (functions(), 0);
    let page = std::fs::read_to_string(workspace().join("docs/develop/investigation-defects.md")).unwrap();
    for line in page.lines().filter(|line| line.starts_with("| D")) {
        let names = named_in(line);
        let unknown: Vec<_> = names.iter().filter(|name| !name.contains(' ') && !tests.contains(*name)).collect();
        assert!(unknown.is_empty(), "the page names {unknown:?}, and there are no such tests:\n{line}");
        assert!(!names.is_empty(), "nothing holds this row:\n{line}");
        rows += 1;
    }
    assert_eq!(rows, 16);
}

#[test]
fn every_row_of_bad_input_has_a_test_and_every_such_test_a_row() {
    let tests = functions();
    let page = std::fs::read_to_string(workspace().join("docs/develop/bad-input.md")).unwrap();
    let mut on_page = BTreeSet::new();
    let mut rows = 0;
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let names = named_in(line);
        for name in &names {
            assert!(tests.contains(name), "the page names {name}, and there is no such test:\n{line}");
        }
        let first = line.split(' ').nth(1).unwrap_or_default();
        if is_row(&format!("{first}_")) {
            assert!(!names.is_empty(), "no test holds this row:\n{line}");
            rows += 1;
        }
        on_page.extend(names);
    }
    assert!(rows > 40, "only {rows} rows were found");
    let silent: Vec<&String> = tests.iter().filter(|name| is_row(name) && !on_page.contains(*name)).collect();
    assert!(silent.is_empty(), "docs/develop/bad-input.md does not name {silent:?}");
}

#[test]
fn test_binaries_stay_few() {
    // Each links everything again. Further tests belong into tests/it.
    let mut files = Vec::new();
    let directory = workspace().join("crates/muster-harness/tests");
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        files.push(entry.file_name().to_string_lossy().into_owned());
    }
    files.sort();
    assert_eq!(files, ["it", "tidy.rs"]);
}
