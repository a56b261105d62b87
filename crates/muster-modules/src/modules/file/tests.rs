use super::File;
use crate::module::{Context, Lines, Module as _, Stop, Typed};
use crate::modules::testing::{context, fixture, same_form};
use crate::{ModuleResult, params_from_args};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

/// A tree with a bit of everything.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("etc/deep/deeper")).unwrap();
    fs::create_dir_all(at("etcetera")).unwrap();
    fs::write(at("etc/passwd"), "root:x:0:0\nnobody:x:65534:65534\n").unwrap();
    fs::write(at("etc/shadow"), "root:$1$10CXRS19$/h:1\n").unwrap();
    fs::write(at("etc/empty"), "").unwrap();
    fs::write(at("etc/deep/dump.sql"), "select 1;\r\nselect 2;\r\n").unwrap();
    fs::write(at("etc/deep/deeper/big.bin"), vec![0xfe; 3000]).unwrap();
    fs::write(at("etcetera/passwd"), "no\n").unwrap();
    fs::set_permissions(at("etc/shadow"), fs::Permissions::from_mode(0o4600)).unwrap();
    dir
}

/// Runs searches whose paths are relative to the tree.
fn run(dir: &Path, mut searches: Value) -> ModuleResult {
    for search in searches.as_object_mut().unwrap().values_mut() {
        for path in search["paths"].as_array_mut().unwrap() {
            *path = json!(dir.join(path.as_str().unwrap()));
        }
    }
    File.run(&json!({"searches": searches}), &here())
}

fn here() -> Context {
    context(Path::new("/"))
}

/// Returns the files a search found, relative to the tree.
fn found(dir: &Path, result: &ModuleResult, label: &str) -> BTreeSet<String> {
    let elements = result.elements[label].as_array().unwrap_or_else(|| panic!("{result:#?}"));
    let files = elements.iter().map(|element| element["file"].as_str().unwrap()).filter(|file| !file.is_empty());
    files.map(|file| Path::new(file).strip_prefix(dir).map_or(file.into(), |f| f.display().to_string())).collect()
}

/// Runs one search with matchall below `etc`.
fn find(search: Value) -> Vec<String> {
    let dir = tree();
    find_in(dir.path(), search)
}

fn find_in(dir: &Path, mut search: Value) -> Vec<String> {
    search["paths"] = json!(["etc"]);
    search["options"]["matchall"] = json!(true);
    let result = run(dir, json!({"s": search}));
    assert!(result.success, "{result:#?}");
    found(dir, &result, "s").into_iter().map(|file| file.trim_start_matches("etc/").to_owned()).collect()
}

#[test]
fn a_search_finds_by_name_size_mode_content_and_hash() {
    let md5 = "68b329da9893e34099c7d8ad5cb9c940";
    assert_eq!(find(json!({"names": ["^passwd$"]})), ["passwd"]);
    assert_eq!(find(json!({"names": ["!^(passwd|shadow|dump.sql|big.bin)$"]})), ["empty"]);
    assert_eq!(find(json!({"names": ["s"], "sizes": ["<30"]})), ["deep/dump.sql", "shadow"]);
    assert_eq!(find(json!({"sizes": [">2k"]})), ["deep/deeper/big.bin"]);
    assert_eq!(find(json!({"sizes": ["0"]})), ["empty"]);
    assert_eq!(find(json!({"modes": ["^urw-------$"]})), ["shadow"]);
    assert_eq!(find(json!({"contents": ["^root:\\$1\\$10CXRS19\\$/h"]})), ["shadow"]);
    assert_eq!(find(json!({"contents": ["^root", "^nobody"]})), ["passwd"]);
    assert_eq!(find(json!({"names": ["."], "contents": ["!root"]})), ["deep/deeper/big.bin", "deep/dump.sql", "empty"]);
    assert!(find(json!({"md5": [md5]})).is_empty());
    assert_eq!(find(json!({"md5": ["D41D8CD98F00B204E9800998ECF8427E"]})), ["empty"]);
    assert_eq!(find(json!({"sha1": ["da39a3ee5e6b4b0d3255bfef95601890afd80709"]})), ["empty"]);
}

#[test]
fn every_hash_of_sha2_and_sha3_is_known() {
    for (kind, hash) in [
        ("sha2", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("sha2", "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b"),
        (
            "sha2",
            "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
        ),
        ("sha3", "6b4e03423667dbb73b6e15454f0eb1abd4597f9a1b078e3f5b5a6bc7"),
        ("sha3", "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"),
        ("sha3", "0c63a75b845e4f7d01107d852e4c2485c51a50aaaa94fc61995e71bbee983a2ac3713831264adb47fb6bd1e058d5f004"),
        (
            "sha3",
            "a69f73cca23a9ac5c8b567dc185a756e97c982164fe25859e0d1dcc1475c80a615b2123af1f5f94c11e3e9402c3ac558f500199d95b6d3e301758586281dcd26",
        ),
    ] {
        assert_eq!(find(json!({(kind): [hash]})), ["empty"], "{hash}");
        assert_eq!(find(json!({(kind): [hash], "options": {"mismatch": [kind]}})).len(), 4, "{hash}");
    }
}

#[test]
fn match_inverse_and_mismatch_are_an_exclusive_or() {
    // A file whose name matches, and one whose name does not.
    for (inverse, mismatch, want) in
        [(false, false, "passwd"), (false, true, "empty"), (true, false, "empty"), (true, true, "passwd")]
    {
        let name = format!("{}^passwd$", if inverse { "!" } else { "" });
        let mismatch = if mismatch { json!(["name"]) } else { json!([]) };
        let search = json!({"names": [name], "sizes": ["<40"], "options": {"mismatch": mismatch}});
        assert!(find(search).contains(&want.to_owned()), "{name} {mismatch}");
    }
    let search = json!({"contents": ["root"], "options": {"mismatch": ["content"]}});
    assert_eq!(find(search), ["deep/deeper/big.bin", "deep/dump.sql", "empty"]);
}

#[test]
fn with_macroal_every_line_counts() {
    let macroal = |contents: Value, mismatch: Value| {
        find(json!({"contents": contents, "options": {"macroal": true, "mismatch": mismatch}}))
    };
    assert_eq!(macroal(json!(["^select .;$"]), json!([])), ["deep/dump.sql"]);
    assert_eq!(macroal(json!([":"]), json!([])), ["passwd", "shadow"]);
    assert_eq!(macroal(json!([":", "!nobody"]), json!([])), ["shadow"]);
    assert_eq!(macroal(json!([":"]), json!(["content"])), ["deep/deeper/big.bin", "deep/dump.sql", "empty"]);
    assert_eq!(macroal(json!(["!:"]), json!([])), ["deep/deeper/big.bin", "deep/dump.sql", "empty"]);
}

#[test]
fn times_are_within_or_before() {
    let dir = tree();
    let file = fs::File::options().write(true).open(dir.path().join("etc/passwd")).unwrap();
    // The moment of the test's clock is 2026-11-20T13:39:47Z.
    let now = std::time::UNIX_EPOCH + Duration::from_secs(1_795_181_987);
    for (back, within, before) in [(60, "<2m", ">30m"), (7200, "<1d", ">1h"), (86_400 * 89, "<90d", ">88d")] {
        file.set_modified(now - Duration::from_secs(back)).unwrap();
        let find = |value: &str| find_in(dir.path(), json!({"names": ["^passwd$"], "mtimes": [value]}));
        assert_eq!(find(within), ["passwd"], "{within}");
        assert_eq!(find(before).is_empty(), back == 60, "{before}");
    }
}

#[test]
fn a_search_that_finds_any_tells_for_each_check_what_it_found() {
    let dir = tree();
    let search = json!({"s1": {"paths": ["etc"], "names": ["^passwd$", "nothere"], "sizes": [">2000"]}});
    let result = run(dir.path(), search);
    same_form(&result, &fixture("file_matchany"));
    let files: Vec<_> = result.elements["s1"].as_array().unwrap().iter().map(|e| e["file"].clone()).collect();
    let at = |name: &str| json!(dir.path().join(name));
    assert_eq!(files, [at("etc/passwd"), json!(""), at("etc/deep/deeper/big.bin")]);
    assert_eq!(result.elements["s1"][0]["search"]["paths"], json!([dir.path().join("etc")]));
    assert_eq!(result.statistics["totalhits"], json!(2));
    assert_eq!(result.statistics["filescount"], json!(5));
}

#[test]
fn results_have_the_form_of_the_originals() {
    let dir = tree();
    let hash =
        json!({"s1": {"paths": ["etc"], "names": ["^passwd$"], "options": {"matchall": true, "returnsha256": true}}});
    let result = run(dir.path(), hash);
    same_form(&result, &fixture("file_matchall"));
    assert_eq!(result.elements["s1"][0]["fileinfo"]["sha256"].as_str().unwrap().len(), 64);
    let none = json!({"s1": {"paths": ["etc"], "names": ["nothere"], "options": {"matchall": true}}});
    let none = run(dir.path(), none);
    let want = fixture("file_none");
    same_form(&none, &want);
    assert_eq!(none.elements["s1"][0]["fileinfo"], want.elements["s1"][0]["fileinfo"]);
    let invalid = File.run(&json!({"searches": {"s1": {"names": ["x"]}}}), &here());
    assert_eq!(invalid, fixture("file_invalid"));
}

#[test]
fn results_are_printed_as_the_originals_are() {
    let lines = |name: &str, lines| <File as Typed>::lines(&fixture(name), lines);
    let found = "/srv/sample/hello.txt [lastmodified:2026-11-20 13:15:47.723216207 +0000 UTC, mode:-rw-r--r--, size:10";
    assert_eq!(
        lines("file_matchall", Lines::Found),
        [format!("{found}, sha256:edb2c904417598ae7b33075c00339db4af76a9e9b20c40bb630cedfe635e541d] in search 's1'")]
    );
    assert_eq!(
        lines("file_matchany", Lines::All),
        [
            format!("{found}] in search 's1' on checks name='hello'"),
            "0 match found in search 's1' on checks name='nothere'".to_owned(),
            format!("{found}] in search 's1' on checks size='>1'"),
            "Statistics: 1 files checked, 0 failed to open, 2 matched, ran in 318.324µs.".to_owned(),
        ]
    );
    assert!(lines("file_none", Lines::Found).is_empty());
}

#[test]
fn depth_and_matches_have_limits() {
    let depth = |depth: u32| find(json!({"sizes": ["<1g"], "options": {"maxdepth": depth}}));
    assert_eq!(depth(1), ["empty", "passwd", "shadow"]);
    assert_eq!(depth(2), ["deep/dump.sql", "empty", "passwd", "shadow"]);
    assert_eq!(depth(0).len(), 5, "unless told, deep enough");
    assert_eq!(find(json!({"sizes": ["<1g"], "options": {"matchlimit": 2}})).len(), 2);
    let dir = tree();
    // One search that has found enough does not end another.
    let limited = json!({
        "a": {"paths": ["etc"], "names": ["."], "options": {"matchall": true, "matchlimit": 1}},
        "b": {"paths": ["etc"], "names": ["."], "options": {"matchall": true}},
    });
    let result = run(dir.path(), limited);
    assert_eq!((found(dir.path(), &result, "a").len(), found(dir.path(), &result, "b").len()), (1, 5));
}

#[test]
fn packed_files_are_looked_into_when_asked() {
    use std::io::Write as _;
    let dir = tree();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"secret\n").unwrap();
    fs::write(dir.path().join("etc/log.gz"), packed.finish().unwrap()).unwrap();
    fs::write(dir.path().join("etc/broken.gz"), [0x1f, 0x8b, 8, 0, 1]).unwrap();
    let search = |decompress: bool| {
        let options = json!({"decompress": decompress});
        find_in(dir.path(), json!({"contents": ["^secret$"], "options": options}))
    };
    assert!(search(false).is_empty());
    assert_eq!(search(true), ["log.gz"]);
    let hash = "b37e50cedcd3e3f1ff64f4afc0422084ae694253cf399326868e07a35f4a45fb";
    let hashed = json!({"sha2": [hash], "options": {"decompress": true}});
    assert_eq!(find_in(dir.path(), hashed), ["log.gz"]);
}

#[test]
fn links_pipes_and_what_cannot_be_read_end_nothing() {
    let dir = tree();
    let at = |name: &str| dir.path().join("etc").join(name);
    symlink(dir.path().join("etc"), at("loop")).unwrap();
    symlink(at("passwd"), at("link")).unwrap();
    symlink(at("gone"), at("broken")).unwrap();
    symlink(at("circle"), at("circle")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RWXU).unwrap();
    symlink(at("fifo"), at("fifolink")).unwrap();
    let search = json!({"paths": ["etc", "etc/fifo", "etc/loop", "nosuch", "etc/link"], "contents": ["root"]});
    let result = run(dir.path(), json!({"s": search}));
    let want = ["etc/link", "etc/passwd", "etc/shadow"].map(String::from);
    assert_eq!(found(dir.path(), &result, "s"), BTreeSet::from(want));
    assert_eq!(result.statistics["openfailed"], json!(2), "{:#?}", result.errors());
    let said = |text: &str| result.errors().iter().any(|error| error.contains(text));
    assert!(!result.success && said("is neither a directory nor a plain file"), "a pipe was asked for");
    assert!(said("too many levels of symbolic links") && !said("broken"), "{result:#?}");
    assert_eq!(result.statistics["missing"], json!([dir.path().join("nosuch")]));
}

#[test]
fn only_so_many_errors_are_returned() {
    let dir = tree();
    for number in 0..40 {
        let circle = format!("etc/circle{number}");
        symlink(dir.path().join(&circle), dir.path().join(&circle)).unwrap();
    }
    let errors = |options: Value| {
        let result = run(dir.path(), json!({"s": {"paths": ["etc"], "names": ["x"], "options": options}}));
        (result.errors().len(), result.errors().last().unwrap().clone())
    };
    assert_eq!(errors(json!({})), (31, "10 errors were not returned (max errors = 30)".into()));
    assert_eq!(errors(json!({"maxerrors": 0})), (1, "40 errors were not returned (max errors = 0)".into()));
    assert_eq!(errors(json!({"maxerrors": 50})).0, 40);
}

#[test]
fn files_of_the_kernel_do_not_hold_a_search() {
    // The test's own program, and a table of all its memory, would take a while.
    let search = json!({"searches": {"s": {"paths": ["/proc/self"], "names": ["!^(exe|pagemap)$"],
        "contents": ["no such lin[e]$"], "options": {"maxdepth": 1, "matchall": true}}}});
    let result = File.run(&search, &Context { stop: Stop::after(Duration::from_secs(60)), ..here() });
    assert!(result.success && !result.foundanything, "{result:#?}");
}

#[test]
fn a_search_that_is_stopped_says_so() {
    let dir = tree();
    let context = here();
    context.stop.ask();
    let search = json!({"searches": {"s": {"paths": [dir.path()], "names": ["."]}}});
    let result = File.run(&search, &context);
    assert!(!result.success && !result.foundanything);
    let said = format!("the search was stopped before its end, looking at {}", dir.path().display());
    assert_eq!(result.errors(), [said]);
}

#[test]
fn very_long_lines_and_binary_content_are_searched() {
    let dir = tree();
    let mut long = vec![b'a'; 5 * 1024 * 1024];
    long.extend_from_slice(b"needle");
    fs::write(dir.path().join("etc/long"), long).unwrap();
    fs::write(dir.path().join("etc/binary"), b"\x00\xff\xfeneedle\xff\n").unwrap();
    assert_eq!(find_in(dir.path(), json!({"contents": ["needle"]})), ["binary", "long"]);
}

#[test]
fn a_match_that_lies_across_pieces_of_a_long_line_is_found() {
    let dir = tree();
    for (name, cut, fill) in [("a", 1, b'A'), ("b", 2, 0xFF), ("c", 3, b'A')] {
        for back in [0, 3, 6] {
            let mut line = vec![fill; cut * 1024 * 1024 - back];
            line.extend_from_slice(b"marker end\nlast");
            fs::write(dir.path().join("etc").join(format!("{name}{back}")), line).unwrap();
        }
    }
    let all = ["a0", "a3", "a6", "b0", "b3", "b6", "c0", "c3", "c6"];
    for pattern in ["marker", "marker end$", "^[^x]+marker", "r e"] {
        assert_eq!(find_in(dir.path(), json!({"contents": [pattern]})), all, "{pattern}");
    }
    for pattern in ["^marker", "marker$", "^ end", "^A{3}$"] {
        assert!(find_in(dir.path(), json!({"contents": [pattern]})).is_empty(), "{pattern}: a piece is no line");
    }
    let both = json!({"contents": ["(marker|last)"], "names": ["^a"], "options": {"macroal": true}});
    assert_eq!(find_in(dir.path(), both), ["a0", "a3", "a6"], "each line counts once");
}

/// The first operation's parameters of an action as published, as the case has them.
fn case_15(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases/15-mig-actions-published").join(name);
    let action: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    action["operations"].as_array().unwrap().last().unwrap()["parameters"].clone()
}

#[test]
fn case_15_keys_that_mean_nothing_are_refused_by_name() {
    for (name, why) in [
        (
            "a-old-key-of-searches.json",
            "searches: up: there is no key \"regexes\"; it is called \"contents\" now; there are ",
        ),
        ("b-no-searches-level.json", "there is no key \"passwd\"; there are searches"),
        ("i-numbers-as-words.json", "searches: s: "),
        ("l-relative-and-empty.json", "the path 'etc' must begin with /"),
    ] {
        let refused = File.validate(&case_15(name)).unwrap_err().0;
        let refused = refused.strip_prefix("ReadInputParameters() -> ").unwrap_or(&refused);
        assert!(refused.starts_with(why), "{name}: {refused}");
        let answered = File.run(&case_15(name), &here());
        assert!(!answered.success && answered.errors()[0].contains(why), "{name}: the machine says it too");
    }
    for name in [
        "c-module-that-is-gone.json",
        "d-year-one-and-null-signatures.json",
        "e-star-in-path.json",
        "h-many-searches-over-all.json",
    ] {
        assert_eq!(File.validate(&case_15(name)), Ok(()), "{name}");
    }
}

#[test]
fn parameters_are_read_as_mig_reads_them_or_refused() {
    let dir = tree();
    let paths = [dir.path().join("etc")];
    let capitals = json!({"Searches": {"S": {"Paths": paths, "NAMES": ["^passwd$"], "Options": {"MatchAll": true}}}});
    let result = File.run(&capitals, &here());
    assert_eq!(found(dir.path(), &result, "S").into_iter().collect::<Vec<_>>(), ["etc/passwd"]);
    for list in [json!([{"s1": {"paths": ["/etc"], "names": ["x"]}}]), json!({"searches": {"s": [["/etc"], ["x"]]}})] {
        assert!(File.validate(&list).unwrap_err().0.contains("there must be an object"), "{list}");
    }
}

#[test]
fn what_is_no_search_is_refused_in_migs_words() {
    let refused = |search: Value| File.validate(&json!({"searches": {"s1": search}})).unwrap_err().0;
    let with = |field: &str, value: &str| refused(json!({"paths": ["/"], (field): [value]}));
    assert_eq!(refused(json!({})), "invalid empty search path, must have at least one search path");
    assert_eq!(with("names", ""), "Empty values are not permitted");
    assert!(with("contents", "(").starts_with("Invalid regexp '('. Must be a regexp. Compilation failed with '"));
    assert_eq!(with("sizes", "10x"), "Invalid size format for size '10x'. Must match regex ^(<|>)?[0-9]*(k|m|g|t)?$");
    assert_eq!(with("mtimes", "90d"), "Invalid mtime format for mtime '90d'. Must match regex ^(<|>)[0-9]*(d|h|m)$");
    assert_eq!(with("md5", "xyz"), "Invalid checksum format for hash 'XYZ'. Must match regex ^[A-F0-9]{32}$");
    assert!(with("sha2", &"a".repeat(65)).ends_with("Must match regex ^[A-F0-9]{64}$"));
    let mismatch = refused(json!({"paths": ["/"], "options": {"mismatch": ["path"]}}));
    assert!(
        mismatch.starts_with("The syntax of filter 'path' is invalid. Must match regex ^(name|size|"),
        "{mismatch}"
    );
    let label = |label: &str| File.validate(&json!({"searches": {(label): {"paths": ["/"], "names": ["x"]}}}));
    assert_eq!(label("").unwrap_err().0, "empty labels are not permitted");
    assert!(label(&"x".repeat(65)).unwrap_err().0.starts_with("The syntax of label 'xxx"));
    assert_eq!(label("a b/ü"), Ok(()));
    for size in ["99999999999999999999", "k", "<", "20000000000t", "1é", "é"] {
        assert!(with("sizes", size).starts_with("Invalid size format"), "{size}");
        assert!(with("mtimes", size).starts_with("Invalid mtime format"), "{size}");
    }
    let nulls = json!({"paths": ["/"], "names": null, "sizes": ["1"], "options": null});
    assert_eq!(File.validate(&json!({"searches": {"s1": nulls}})), Ok(()));
    let without = refused(json!({"paths": ["/"], "options": {"matchall": true}}));
    assert_eq!(without, "without a check no file is found; say which, such as -name . for every file");
    for path in ["etc", "./etc", "~/x"] {
        let relative = refused(json!({"paths": ["/", path], "names": ["x"]}));
        assert_eq!(relative, format!("the path '{path}' must begin with /"));
    }
    for nothing in [json!({}), json!({"searches": {}})] {
        assert!(File.validate(&nothing).unwrap_err().0.starts_with("there is no search"), "{nothing}");
    }
    let many = json!({"paths": ["/"], "names": vec!["a"; 1001]});
    assert_eq!(refused(many), "a search has more than 1000 values of one kind");
    assert!(File.validate(&json!({"searches": []})).is_err());
}

#[test]
fn a_command_line_asks_as_migs_does() {
    let words = ["-path", "/etc", "--name", "^passwd$", "-size=<10k", "-mismatch=content", "-returnsha256"];
    let parameters = params_from_args("file", &words.map(String::from)).unwrap();
    let want = json!({"searches": {"s1": {
        "paths": ["/etc"], "names": ["^passwd$"], "sizes": ["<10k"],
        "options": {"maxdepth": 1000, "maxerrors": 30, "matchall": true, "macroal": false, "mismatch": ["content"],
            "matchlimit": 1000, "returnsha256": true},
    }}});
    assert_eq!(parameters, want);
    let nothing = params_from_args("file", &["-path", "/", "-returnsha256"].map(String::from)).unwrap_err();
    assert!(nothing.to_string().contains("without a check no file is found"), "{nothing}");
    let any = params_from_args("file", &["-path", "/", "-name", "x", "-matchany"].map(String::from)).unwrap();
    assert_eq!(any["searches"]["s1"]["options"]["matchall"], json!(false));
    let error = params_from_args("file", &["-name", "x"].map(String::from)).unwrap_err().to_string();
    assert_eq!(error, "module file: invalid empty search path, must have at least one search path");
}

/// Directories and files of generated trees; the names nest.
fn a_path() -> impl Strategy<Value = String> {
    proptest::collection::vec("[ab]", 1..4).prop_map(|parts| parts.join("/"))
}

#[derive(Debug, Clone)]
enum Thing {
    File(String),
    Link(String),
    Plain,
}

fn a_thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        4 => "[xy]{0,3}".prop_map(Thing::File),
        1 => a_path().prop_map(Thing::Link),
        1 => Just(Thing::Plain),
    ]
}

fn a_search() -> impl Strategy<Value = Value> {
    let paths = proptest::collection::vec(prop_oneof![a_path(), Just(String::new())], 1..4);
    let check = prop_oneof![
        Just(json!({"names": ["f"]})),
        Just(json!({"names": ["0$"], "sizes": [">1"]})),
        Just(json!({"contents": ["x"]})),
        Just(json!({"contents": ["!y"], "names": ["."]})),
        Just(json!({"sha1": ["11f6ad8ec52a2984abaafd7c3b516503785c2072"]})),
    ];
    (paths, check, 0..4_u32, any::<bool>(), any::<bool>()).prop_map(|(paths, mut search, depth, all, macroal)| {
        search["paths"] = json!(paths);
        search["options"] = json!({"maxdepth": depth, "matchall": all, "macroal": macroal});
        search
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn one_walk_finds_what_single_walks_find(
        things in proptest::collection::vec((a_path(), a_thing()), 0..12),
        searches in proptest::collection::vec(a_search(), 1..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        for (number, (place, thing)) in things.iter().enumerate() {
            let place = dir.path().join(place);
            // A directory may be in the way of a link, or a link in that of a directory; such a thing is left out.
            if fs::create_dir_all(&place).is_err() {
                continue;
            }
            match thing {
                Thing::File(text) => fs::write(place.join(format!("f{number}")), text).unwrap(),
                Thing::Link(target) => { let _ = symlink(dir.path().join(target), place.join("a")); }
                Thing::Plain => fs::write(place.join("locked"), "x").unwrap(),
            }
        }
        let named: Vec<_> = searches.iter().enumerate().map(|(n, search)| (format!("s{n}"), search.clone())).collect();
        let together = run(dir.path(), named.iter().cloned().collect());
        for (label, search) in named {
            let alone = run(dir.path(), json!({(&*label): search}));
            prop_assert_eq!(&together.elements[&label], &alone.elements[&label]);
        }
    }

    #[test]
    fn no_parameters_make_the_module_panic(text in "[a-z<>!0-9(\\[]{0,6}", number in -5.0..1e30_f64) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "x").unwrap();
        let search = json!({"paths": [dir.path()], "names": [&text], "sizes": [&text], "mtimes": [&text],
            "modes": [&text], "contents": [&text],
            "options": {"maxdepth": number, "maxerrors": number, "matchlimit": number}});
        for field in ["names", "sizes", "mtimes", "modes", "contents"] {
            let one = json!({"paths": search["paths"], (field): search[field], "options": search["options"]});
            let _ = File.run(&json!({"searches": {"s": one}}), &here());
        }
    }
}
