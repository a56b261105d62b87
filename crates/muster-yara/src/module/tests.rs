//! What is asked, what is found, and what is refused.

use super::*;
use muster_core::{Clock, Timestamp};
use muster_modules::{Module as _, arguments, run_here};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::sync::Arc;

#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }
}

const RULES: &str = r#"
    rule needle { strings: $a = "needle" condition: $a }
    rule large { condition: filesize > 100 }
"#;

fn context() -> Context {
    Context::new(Arc::new(Still))
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text).unwrap();
    write("hay", b"nothing here");
    write("one", b"a needle");
    write("two words", &[b"needle ".repeat(50), vec![0, 0xFF]].concat());
    dir
}

fn ask(parameters: &Value) -> ModuleResult {
    run_here(&Yara, parameters, &context())
}

fn below(dir: &Path, more: &str) -> Value {
    json!({"yara": RULES, "filesearch": format!("-path {} {more}", dir.display())})
}

#[test]
fn files_are_named_with_the_rules_that_match_under_migs_capital_keys() {
    let dir = tree();
    symlink("gone", dir.path().join("broken")).unwrap();
    symlink("circle", dir.path().join("circle")).unwrap();
    let result = ask(&below(dir.path(), "-size >0"));
    assert!(result.success && result.foundanything, "{result:#?}");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let want = json!({"Matches": [
        {"Object": at("one"), "MatchedRules": ["needle"]},
        {"Object": at("two words"), "MatchedRules": ["needle", "large"]},
    ]});
    assert_eq!((&result.elements, &result.statistics), (&want, &Value::Null));
    // A link that leads nowhere has no content; behind one that leads round there may be some.
    let errors = result.errors();
    assert!(errors.len() == 1 && errors[0].contains("circle: too many levels of symbolic links"), "{errors:?}");
    let printed = Yara.lines(&result, Lines::Found);
    assert_eq!(printed, [format!("{} [needle]", at("one")), format!("{} [needle,large]", at("two words"))]);
    assert_eq!(Yara.lines(&result, Lines::All).len(), 3);
}

#[test]
fn the_file_modules_search_chooses_the_files() {
    let dir = tree();
    let found = |more: &str| ask(&below(dir.path(), more)).elements["Matches"].as_array().map_or(0, Vec::len);
    assert_eq!(found("-name '^two words$'"), 1);
    assert_eq!(found("-name ^o -size <10k"), 1);
    assert_eq!(found("-name !^o -size <1k"), 1);
    assert_eq!(found("-name ^(one|two) -matchlimit 1"), 1);
}

#[test]
fn nothing_found_and_nothing_searched_are_answers() {
    let dir = tree();
    for parameters in
        [below(dir.path(), "-name ^hay$"), json!({"yara": RULES}), json!({"yara": RULES, "filesearch": null})]
    {
        let result = ask(&parameters);
        assert_eq!(result, ModuleResult::ran(false, json!({"Matches": null}), ()), "{parameters}");
        assert!(Yara.lines(&result, Lines::All).is_empty());
    }
}

#[test]
fn what_cannot_be_asked_is_refused_before_anything_is_read() {
    let refused = |parameters: Value| {
        let why = Yara.validate(&parameters).unwrap_err().0;
        assert_eq!(ask(&parameters).errors(), std::slice::from_ref(&why));
        why
    };
    assert_eq!(refused(json!({})), "yara rules are a required option");
    assert!(refused(json!({"yara": "rule"})).starts_with("the yara rules cannot be compiled: "));
    let search = |line: &str| refused(json!({"yara": RULES, "filesearch": line}));
    assert_eq!(
        search("-name x"),
        "filesearch: module file: invalid empty search path, must have at least one search path"
    );
    assert_eq!(search("-path '/etc"), "filesearch: the word that begins with ' has no second ' at its end");
    assert_eq!(search("help"), "filesearch asks for help, and for no files");
    assert!(search("-path /").contains("without a check no file is found"));
    assert!(search("-pth /").starts_with("filesearch: module file has no flag \"-pth\"; it has -path, "));
    assert!(refused(json!({"yara": [RULES]})).contains("invalid type"));
}

#[test]
fn a_file_that_is_too_large_is_named_and_ends_nothing() {
    let dir = tree();
    let sparse = std::fs::File::create(dir.path().join("giant")).unwrap();
    sparse.set_len(YARA_FILE_BYTES_MAX + 1).unwrap();
    let result = ask(&below(dir.path(), "-size >0"));
    assert!(result.success && result.foundanything);
    let giant = format!(
        "{}: it has more than the {YARA_FILE_BYTES_MAX} bytes that are read of it",
        dir.path().join("giant").display()
    );
    assert!(result.errors().contains(&giant), "{:?}", result.errors());
    // What grows while it is read, and what says that it is empty, is counted as it is read.
    let status = std::fs::read("/proc/self/status").unwrap().len() as u64;
    assert!(read(Path::new("/proc/self/status"), status - 100).is_err());
    assert!(!read(Path::new("/proc/self/status"), YARA_FILE_BYTES_MAX).unwrap().is_empty());
    assert!(read(dir.path(), 10).is_err() && read(&dir.path().join("one"), 8).is_ok());
    assert!(read(&dir.path().join("one"), 7).is_err());
}

#[test]
fn a_question_that_was_stopped_says_how_far_it_came() {
    let dir = tree();
    let context = context();
    context.stop.ask();
    let result = run_here(&Yara, &below(dir.path(), "-size >0"), &context);
    assert!(!result.success && !result.foundanything);
    assert!(result.errors().last().unwrap().ends_with("files were judged: it was stopped"), "{:?}", result.errors());
    let slow = "rule slow { condition: for all i in (1..4000000000) : (for all j in (1..4000000000) : (i + j > 0)) }";
    let mut rules = Rules::compile(slow).unwrap();
    let why = hold(&mut rules, b"x", &Stop::after(Duration::from_millis(100))).unwrap_err();
    assert!(why.starts_with("the rules took longer than "), "{why}");
}

#[test]
fn a_command_line_names_the_file_with_the_rules() {
    let dir = tree();
    let path = dir.path().join("rules.yar");
    std::fs::write(&path, RULES).unwrap();
    let line = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        arguments::parameters_of(&Yara, &words).map_err(|error| error.to_string())
    };
    let rules = path.to_str().unwrap();
    assert_eq!(
        line(&["-rules", rules, "-files", "-path /bin -name ssh"]),
        Ok(json!({"yara": RULES, "filesearch": "-path /bin -name ssh"}))
    );
    assert_eq!(line(&["-rules", rules]).unwrap_err(), "module yara: -files SEARCH is missing");
    assert_eq!(line(&["-files", "-path /"]).unwrap_err(), "module yara: -rules FILE is missing");
    assert_eq!(
        line(&["-rules", "/nonexistent", "-files", "-path /"]).unwrap_err(),
        "could not use /nonexistent: no such file or directory"
    );
    assert_eq!(line(&["-rule", rules]).unwrap_err(), "module yara has no flag \"-rule\"; it has -rules, -files");
}
