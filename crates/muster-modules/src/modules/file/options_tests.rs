//! Every search option of MIG's file module, a table each.

use super::File;
use super::check::{size, time};
use crate::module::Module as _;
use crate::modules::testing::context;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

/// Two files: `old`, of 100 bytes, mode 0600, two hours old; and `new`, of 5000 bytes, mode 0755, ten minutes old.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    // The moment of the test's clock is 2026-11-20T13:39:47Z.
    let now = std::time::UNIX_EPOCH + Duration::from_secs(1_795_181_987);
    for (name, byte, bytes, mode, minutes) in [("old", b'o', 100, 0o600, 120), ("new", b'n', 5000, 0o755, 10)] {
        let path = dir.path().join(name);
        fs::write(&path, vec![byte; bytes]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(now - Duration::from_secs(minutes * 60)).unwrap();
    }
    dir
}

fn found(dir: &Path, mut search: Value) -> Vec<String> {
    search["paths"] = json!([dir]);
    if search["options"]["matchall"].is_null() {
        search["options"]["matchall"] = json!(true);
    }
    let result = File.run(&json!({"searches": {"s": search}}), &context(Path::new("/")));
    assert!(result.success, "{result:#?}");
    let elements = result.elements["s"].as_array().unwrap().clone();
    let files = elements.iter().map(|element| element["file"].as_str().unwrap()).filter(|file| !file.is_empty());
    files.map(|file| file.rsplit('/').next().unwrap().to_owned()).collect()
}

#[test]
fn sizes_are_exact_below_or_above_in_powers_of_1024() {
    for (text, want) in [
        ("0", (0, 0)),
        ("4096", (4096, 4096)),
        ("<10", (0, 10)),
        (">10", (10, u64::MAX)),
        ("1k", (1 << 10, 1 << 10)),
        ("<2m", (0, 2 << 20)),
        (">3g", (3 << 30, u64::MAX)),
        ("<4t", (0, 4 << 40)),
    ] {
        assert_eq!(size(text), Ok(want), "{text}");
    }
    for text in ["", "<", ">k", "-1", "<-1", "1K", "1 k", "1kb", "=1", "<>1", "1.5m", "0x10", "16777216t"] {
        assert!(size(text).is_err(), "{text}");
    }
    let dir = tree();
    for (text, want) in [("100", vec!["old"]), ("<1k", vec!["old"]), (">1k", vec!["new"]), ("<100", vec!["old"])] {
        assert_eq!(found(dir.path(), json!({"sizes": [text]})), want, "{text}");
    }
}

#[test]
fn times_are_days_hours_and_minutes() {
    for (text, want) in
        [("<90d", (true, 90 * 86_400)), (">5h", (false, 5 * 3600)), ("<7m", (true, 7 * 60)), (">0m", (false, 0))]
    {
        assert_eq!(time(text), Ok((want.0, Duration::from_secs(want.1))), "{text}");
    }
    for text in ["", "<", "<d", "5h", "=5h", "<5", "<5s", "<5y", "<-5h", "< 5h", "<1.5h", "<99999999999999999999d"] {
        assert!(time(text).is_err(), "{text}");
    }
    let dir = tree();
    // Were m months, both files would be within and none before.
    for (text, want) in [
        ("<11m", vec!["new"]),
        (">11m", vec!["old"]),
        ("<121m", vec!["new", "old"]),
        ("<1h", vec!["new"]),
        (">1h", vec!["old"]),
        ("<1d", vec!["new", "old"]),
        (">1d", vec![]),
    ] {
        assert_eq!(found(dir.path(), json!({"mtimes": [text]})), want, "{text}");
    }
}

#[test]
fn modes_are_expressions_over_letters() {
    let dir = tree();
    for (mode, want) in [
        ("^-rw-------$", vec!["old"]),
        ("^-rwxr-xr-x$", vec!["new"]),
        ("x", vec!["new"]),
        ("^-r(w|-)", vec!["new", "old"]),
        ("^d", vec![]),
    ] {
        assert_eq!(found(dir.path(), json!({"modes": [mode]})), want, "{mode}");
    }
    let setuid = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    std::fs::set_permissions(dir.path().join("new"), setuid).unwrap();
    for (mode, want) in [("^u", vec!["new"]), ("^urwxr-xr-x$", vec!["new"]), ("s", vec![]), ("^-", vec!["old"])] {
        assert_eq!(found(dir.path(), json!({"modes": [mode]})), want, "{mode}");
    }
}

#[test]
fn every_kind_of_check_can_be_turned_round() {
    let dir = tree();
    for (kind, field, value) in [
        ("name", "names", "^old$"),
        ("size", "sizes", "100"),
        ("mode", "modes", "^-rw-------$"),
        ("mtime", "mtimes", ">1h"),
        ("content", "contents", "^o+$"),
        ("md5", "md5", "f49c7fb73d2e0efa5dbcfbb6a37ecc94"),
        ("sha1", "sha1", "2b84f621c0fd4ba8bd514c5c43ab9a897c8c014e"),
        ("sha2", "sha2", "OLD"),
        ("sha3", "sha3", "OLD"),
    ] {
        let value = match (value, kind) {
            ("OLD", "sha2") => hex::encode(<sha2::Sha256 as sha2::Digest>::digest(vec![b'o'; 100])),
            ("OLD", _) => hex::encode(<sha3::Sha3_256 as sha3::Digest>::digest(vec![b'o'; 100])),
            (_, "md5") => hex::encode(<md5::Md5 as md5::Digest>::digest(vec![b'o'; 100])),
            (_, "sha1") => hex::encode(<sha1::Sha1 as sha1::Digest>::digest(vec![b'o'; 100])),
            (value, _) => value.to_owned(),
        };
        let with =
            |mismatch: Value| found(dir.path(), json!({(field): [value.clone()], "options": {"mismatch": mismatch}}));
        assert_eq!(with(json!([])), ["old"], "{kind}");
        assert_eq!(with(json!([kind])), ["new"], "{kind} turned round");
        let other = if kind == "name" { "size" } else { "name" };
        assert_eq!(with(json!([other])), ["old"], "another kind is none of its business");
    }
}

#[test]
fn a_leading_mark_turns_names_and_contents_round_and_nothing_else() {
    let dir = tree();
    assert_eq!(found(dir.path(), json!({"names": ["!^old$"]})), ["new"]);
    assert_eq!(found(dir.path(), json!({"contents": ["!^o+$"]})), ["new"]);
    assert_eq!(found(dir.path(), json!({"names": ["!^old$", "!^new$"]})), Vec::<String>::new());
    assert_eq!(found(dir.path(), json!({"modes": ["!x"]})), Vec::<String>::new());
    assert_eq!(found(dir.path(), json!({"names": ["!"]})), Vec::<String>::new(), "alone it is a letter");
}

#[test]
fn all_checks_together_or_each_by_itself() {
    let dir = tree();
    let search = |all: bool| json!({"names": ["^old$"], "sizes": [">1k"], "options": {"matchall": all}});
    assert_eq!(found(dir.path(), search(true)), Vec::<String>::new());
    assert_eq!(found(dir.path(), search(false)), ["old", "new"], "in the order of the checks");
}

#[test]
fn hashes_are_compared_in_any_case_and_shown_in_capitals() {
    let dir = tree();
    let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(vec![b'o'; 100]));
    for written in [hash.clone(), hash.to_uppercase()] {
        assert_eq!(found(dir.path(), json!({"sha2": [written]})), ["old"]);
    }
    let search = json!({"paths": [dir.path()], "sha2": [hash], "options": {"returnsha256": true}});
    let result = File.run(&json!({"searches": {"s": search}}), &context(Path::new("/")));
    let element = &result.elements["s"][0];
    assert_eq!(element["search"]["sha2"], json!([hash.to_uppercase()]));
    assert_eq!(element["fileinfo"]["sha256"], json!(hash.to_uppercase()));
    assert_eq!(element["fileinfo"]["lastmodified"], json!("2026-11-20 11:39:47 +0000 UTC"));
    assert_eq!((&element["fileinfo"]["mode"], &element["fileinfo"]["size"]), (&json!("-rw-------"), &json!(100)));
}

#[test]
fn options_that_old_actions_hold_are_taken_and_change_nothing() {
    let dir = tree();
    let options = json!({"remotefs": true, "debug": "print", "mismatch": null, "maxerrors": null});
    assert_eq!(found(dir.path(), json!({"names": ["^old$"], "description": "words", "options": options})), ["old"]);
}
