//! What could not be looked at, and what ended a search before its end: neither is "nothing found".

use super::content::Whole;
use super::{File, FileSearch};
use crate::module::{Context, Lines, Module as _, Stop};
use crate::modules::testing::context;
use crate::{ModuleResult, params_from_args};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn run(search: &Value) -> ModuleResult {
    File.run(&json!({"searches": {"s": search}}), &context(Path::new("/")))
}

fn names(path: &Path, name: &str, options: &Value) -> ModuleResult {
    let mut options = options.clone();
    options["matchall"] = json!(true);
    run(&json!({"paths": [path], "names": [name], "options": options}))
}

fn files(result: &ModuleResult) -> Vec<String> {
    let found = result.elements["s"].as_array().unwrap().iter();
    found.filter_map(|file| file["file"].as_str()).filter(|file| !file.is_empty()).map(str::to_owned).collect()
}

fn has_error(result: &ModuleResult, text: &str) -> bool {
    result.errors().iter().any(|error| error.contains(text))
}

/// A directory with a file `a`.
fn tree() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/a"), "needle\n").unwrap();
    (dir, root)
}

#[test]
fn a_path_that_is_not_there_is_an_answer_that_says_so() {
    let (_dir, root) = tree();
    for path in ["nosuch", "nosuch/deeper", "d/a/below", "dangling"] {
        symlink("nowhere", root.join("dangling")).ok();
        let result = names(&root.join(path), ".", &json!({}));
        assert!(result.success && !result.foundanything && result.errors().is_empty(), "{path}: {result:#?}");
        assert_eq!(result.statistics["missing"], json!([root.join(path)]), "{path}");
        let line = format!("Not on this machine: {}", root.join(path).display());
        assert!(File.lines(&result, Lines::All).contains(&line), "{path}");
    }
}

#[test]
fn a_link_that_leads_nowhere_is_an_error_only_where_it_would_itself_be_found() {
    let (_dir, root) = tree();
    symlink("nowhere", root.join("d/lost")).unwrap();
    symlink("a/below", root.join("d/lost-too")).unwrap();
    let other = names(&root, "^a$", &json!({}));
    assert!(other.success && other.errors().is_empty() && files(&other).len() == 1, "{other:#?}");
    let itself = names(&root, "^lost$", &json!({}));
    assert!(files(&itself).is_empty() && has_error(&itself, "lost"), "{itself:#?}");
    let search = |mut search: Value, options: Value| {
        (search["paths"], search["options"]) = (json!([root]), options);
        run(&search)
    };
    let all = json!({"matchall": true});
    // There is no content, no hash and no size that could be missed.
    for wanted in [
        json!({"contents": ["needle"]}),
        json!({"contents": ["!nowhere"]}),
        json!({"names": ["^(a|lost)"], "contents": ["needle"]}),
        json!({"sizes": ["<1m"]}),
        json!({"contents": ["needle"], "modes": ["."]}),
    ] {
        let result = search(wanted.clone(), all.clone());
        assert!(result.success && result.errors().is_empty() && files(&result).len() == 1, "{wanted}: {result:#?}");
    }
    for missed in [json!({"names": ["^lost$"], "mtimes": ["<90000d"]}), json!({"modes": ["^L"]})] {
        assert!(has_error(&search(missed.clone(), all.clone()), "lost"), "{missed}");
    }
    // Each check by itself: the name finds the link, whatever the content is.
    let any = search(json!({"names": ["^lost$"], "contents": ["needle"]}), json!({}));
    assert!(has_error(&any, "/lost:") && !has_error(&any, "lost-too"), "{any:#?}");
    // What may lie behind a circle is not known.
    symlink("circle", root.join("d/circle")).unwrap();
    let circle = search(json!({"contents": ["needle"]}), all);
    assert!(has_error(&circle, "circle") && circle.errors().len() == 1, "{circle:#?}");
}

#[test]
fn a_path_that_cannot_be_looked_at_is_no_answer() {
    let (_dir, root) = tree();
    symlink("circle", root.join("circle")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, root.join("fifo"), rustix::fs::Mode::RWXU).unwrap();
    symlink("fifo", root.join("tofifo")).unwrap();
    let long = "x".repeat(300);
    for (path, why) in [
        ("circle", "too many levels of symbolic links"),
        ("fifo", "is neither a directory nor a plain file"),
        ("tofifo", "was not followed"),
        (long.as_str(), "file name too long"),
        ("*/a", "its letters stand for themselves"),
        ("d/[a]", "its letters stand for themselves"),
        ("d/?", "its letters stand for themselves"),
    ] {
        // However few errors are asked for, and beside a search that is answered whole.
        let shown = root.join(path);
        let search = json!({"paths": [shown], "names": ["."], "options": {"maxerrors": 0, "matchall": true}});
        let other = json!({"paths": [root.join("d")], "names": ["."], "options": {"maxerrors": 0, "matchall": true}});
        let result = File.run(&json!({"searches": {"s": search, "t": other}}), &context(Path::new("/")));
        assert!(!result.success && result.foundanything && has_error(&result, why), "{path}: {result:#?}");
        assert_eq!((result.errors().len(), &result.statistics["unread"]), (1, &json!([shown])), "{path}");
    }
    // What has such a letter in its name is found.
    fs::write(root.join("d/*"), "").unwrap();
    let result = names(&root.join("d/*"), ".", &json!({}));
    assert!(result.success && files(&result).len() == 1, "{result:#?}");
}

#[test]
fn a_directory_that_may_not_be_read_is_no_answer() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_dir, root) = tree();
    fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o000)).unwrap();
    let result = names(&root.join("d"), ".", &json!({}));
    // Root reads whatever it likes.
    assert_eq!(result.success, fs::read_dir(root.join("d")).is_ok(), "{result:#?}");
    assert!(result.success || has_error(&result, "permission denied"), "{result:#?}");
    let below = names(&root, ".", &json!({}));
    assert!(below.success && (result.success || has_error(&below, "permission denied")), "a part costs itself");
    fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_path_that_is_a_link_to_a_directory_means_that_directory() {
    let (_dir, root) = tree();
    symlink("d", root.join("link")).unwrap();
    fs::create_dir(root.join("d/inner")).unwrap();
    symlink("..", root.join("d/inner/up")).unwrap();
    let paths = json!([root.join("link"), root.join("d"), root.join("link/")]);
    let result = run(&json!({"paths": paths, "names": ["^a$"], "options": {"matchall": true}}));
    assert_eq!(files(&result), [root.join("d/a").to_str().unwrap()], "each file once, where it lies");
    assert!(result.success && result.errors().is_empty(), "{result:#?}");
    assert_eq!(result.elements["s"][0]["search"]["paths"], paths, "what was asked comes back as it was asked");
}

#[test]
fn what_cannot_be_read_of_a_file_that_was_asked_for_is_no_answer() {
    let (_dir, root) = tree();
    fs::write(root.join("d/broken.gz"), [0x1f, 0x8b, 8, 0, 1]).unwrap();
    let search = |path: &str| {
        run(&json!({"paths": [root.join(path)], "contents": ["x"], "options": {"decompress": true, "matchall": true}}))
    };
    let result = search("d/broken.gz");
    assert!(!result.success && result.statistics["unread"].as_array().unwrap().len() == 1, "{result:#?}");
    let result = search("d");
    assert!(result.success && has_error(&result, "broken.gz") && result.statistics["openfailed"] == json!(1));
}

#[test]
fn a_line_that_was_seen_before_a_file_broke_off_counts() {
    let (_dir, root) = tree();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    packed.write_all(format!("needle\n{}", "other line\n".repeat(50_000)).as_bytes()).unwrap();
    let mut packed = packed.finish().unwrap();
    packed.truncate(packed.len() / 2);
    fs::write(root.join("d/cut.gz"), packed).unwrap();
    let find = |contents: Value| {
        let options = json!({"decompress": true, "matchall": true});
        run(&json!({"paths": [root.join("d")], "names": ["gz$"], "contents": contents, "options": options}))
    };
    let cut = [root.join("d/cut.gz").to_str().unwrap().to_owned()];
    assert_eq!(files(&find(json!(["^needle$"]))), cut);
    let both = find(json!(["^needle$", "never"]));
    assert!(!both.foundanything && has_error(&both, "cut.gz"), "{both:#?}");
    // That no line matches is known at the end alone.
    assert!(!find(json!(["!never"])).foundanything && !find(json!(["!needle"])).foundanything);
}

#[test]
fn an_answer_that_was_cut_says_so() {
    let (_dir, root) = tree();
    for name in ["b", "c"] {
        fs::write(root.join("d").join(name), "").unwrap();
    }
    let cut = json!(["search 's' stopped at matchlimit 2: there may be more"]);
    for all in [true, false] {
        let search = |limit: u32| {
            run(&json!({"paths": [root.join("d")], "names": ["."], "options": {"matchlimit": limit, "matchall": all}}))
        };
        let result = search(2);
        assert_eq!((files(&result).len(), &result.statistics["cut"]), (2, &cut), "{result:#?}");
        assert!(result.success && json!(result.errors()) == cut, "{result:#?}");
        assert!(File.lines(&result, Lines::All).iter().any(|line| json!([line]) == cut));
        let result = search(3);
        assert!(files(&result).len() == 3 && result.errors().is_empty(), "exactly so many is all: {result:#?}");
        assert_eq!(result.statistics.get("cut"), None);
    }
    // One that is full beside one that is not.
    let limited = json!({"paths": [root.join("d")], "names": ["."], "options": {"matchlimit": 2, "matchall": true}});
    let whole = json!({"paths": [root.join("d")], "names": ["."], "options": {"matchall": true}});
    let result = File.run(&json!({"searches": {"s": limited, "t": whole}}), &context(Path::new("/")));
    assert_eq!(result.statistics["cut"], cut, "{result:#?}");
}

#[test]
fn directories_that_lie_too_deep_are_counted() {
    let (_dir, root) = tree();
    fs::create_dir_all(root.join("d/e/f")).unwrap();
    fs::create_dir_all(root.join("d/g")).unwrap();
    let result = names(&root, ".", &json!({"maxdepth": 2}));
    assert_eq!((&result.statistics["notentered"], result.errors().len()), (&json!(2), 0), "{result:#?}");
    assert!(File.lines(&result, Lines::All).iter().any(|line| line.starts_with("Not entered: 2 directories")));
    // Nobody chose the depth: what lies below was asked for.
    let deep = (0..1001).map(|_| "x").collect::<PathBuf>();
    fs::create_dir_all(root.join(&deep)).unwrap();
    fs::write(root.join(&deep).join("treasure"), "").unwrap();
    let result = names(&root, "^treasure$", &json!({}));
    let cut = "search 's' stopped at maxdepth 1000: 1 directories below were not entered";
    assert!(!result.foundanything && result.errors() == [cut], "{result:#?}");
}

#[test]
fn names_of_files_cannot_make_an_answer_longer_than_is_taken() {
    let (_dir, root) = tree();
    let odd = "\u{1}".repeat(250);
    let deep: PathBuf = (0..14).map(|_| odd.as_str()).collect();
    fs::create_dir_all(root.join(&deep)).unwrap();
    for number in 0..400 {
        fs::write(root.join(&deep).join(number.to_string()), "").unwrap();
    }
    let result = names(&root, "^[0-9]+$", &json!({}));
    let bytes = serde_json::to_string(&result).unwrap().len();
    assert!((5_000_000..8 * 1024 * 1024).contains(&bytes), "{bytes}");
    assert!(result.foundanything && has_error(&result, "bytes of answer: there may be more"));
}

#[test]
fn a_file_without_end_costs_no_other_and_is_named() {
    let (_dir, root) = tree();
    for name in ["0", "m", "zz"] {
        let file = fs::File::create(root.join("d").join(name)).unwrap();
        file.set_len(1 << 42).unwrap();
    }
    fs::write(root.join("d/z"), "needle\n").unwrap();
    let begun = Instant::now();
    let search = json!({"searches": {"s": {"paths": [root], "contents": ["^needle$"], "options": {"matchall": true}}}});
    let context = Context { stop: Stop::after(Duration::from_millis(700)), ..context(Path::new("/")) };
    let result = File.run(&search, &context);
    assert!(begun.elapsed() < Duration::from_secs(20));
    let found = ["d/a", "d/z"].map(|name| root.join(name).display().to_string());
    assert_eq!(files(&result), found, "{result:#?}");
    assert!(!result.success && has_error(&result, "stopped before its end, reading"), "{result:#?}");
    assert!(has_error(&result, "2 files of more than"), "{result:#?}");
}

#[test]
fn a_file_that_grows_as_it_is_read_has_an_end() {
    let mut endless = Whole::of(fs::File::open("/dev/zero").unwrap(), 10);
    let error = std::io::copy(&mut endless, &mut std::io::sink()).unwrap_err();
    assert!(error.to_string().starts_with("it has no end: "), "{error}");
    let (_dir, root) = tree();
    let mut text = String::new();
    Whole::of(fs::File::open(root.join("d/a")).unwrap(), 0).read_to_string(&mut text).unwrap();
    assert_eq!(text, "needle\n");
}

#[test]
fn no_name_hides_behind_the_end_of_a_line_or_an_odd_letter() {
    let (_dir, root) = tree();
    for name in [&b"evil\nx.sh"[..], b"evil-\xe9.sh", b"\x1b[2Jevil.sh"] {
        fs::write(root.join("d").join(OsStr::from_bytes(name)), "").unwrap();
    }
    for (name, count) in [("^evil.*\\.sh$", 2), ("^evil-\\xe9", 1), ("^evil-.\\.sh$", 1), ("^\\x1b", 1)] {
        assert_eq!(files(&names(&root, name, &json!({}))).len(), count, "{name}");
    }
}

#[test]
fn a_command_line_does_not_mean_the_default_by_nothing() {
    let given = |words: &[&str]| {
        let words: Vec<_> = ["-path", "/etc", "-name", "x"].iter().chain(words).map(|w| (*w).to_owned()).collect();
        params_from_args("file", &words).map_err(|error| error.to_string())
    };
    for flag in ["-maxdepth", "-matchlimit"] {
        for number in ["0", "0.5"] {
            let error = given(&[flag, number]).unwrap_err();
            assert!(error.starts_with(&format!("{flag} takes a whole number from 1")), "{error}");
        }
        assert!(given(&[flag, "1"]).is_ok());
    }
    let error = given(&["-path", "/srv/*/.ssh"]).unwrap_err();
    assert!(error.contains("letters stand for themselves"), "{error}");
    // A line that came with an action is read as MIG reads it.
    assert!(FileSearch::of_line("-path /usr/* -name x -maxdepth 0 -matchlimit 0").is_ok());
    // Part of one is not none.
    let (_dir, root) = tree();
    let result = names(&root, ".", &json!({"matchlimit": 0.5, "maxdepth": 1.5}));
    assert_eq!(files(&result), [root.join("d/a").to_str().unwrap()], "{result:#?}");
}
