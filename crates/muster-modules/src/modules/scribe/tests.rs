use super::versions::Order;
use super::*;
use crate::module::Module as _;
use crate::modules::testing::{context, fixture, same_form};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::fs;
use std::os::unix::fs::symlink;

const STATUS: &str = "\
Package: bash
Status: install ok installed
Version: 5.2.15-2+b8

Package: kernel
Status: install ok installed
Version: 2.6.32-573.8.1

Package: kernel
Status: install ok installed
Version: 2.6.32-573.12.1

Package: libbind
Status: install ok installed
Version: 1:9.9.5.dfsg-4.3
";

fn machine() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("var/lib/dpkg")).unwrap();
    fs::create_dir_all(dir.path().join("etc/app")).unwrap();
    fs::write(dir.path().join("var/lib/dpkg/status"), STATUS).unwrap();
    fs::write(dir.path().join("etc/app/a.conf"), "# x\nmajor = 2\nminor = 7\n").unwrap();
    fs::write(dir.path().join("etc/app/b.conf"), "nothing\n").unwrap();
    fs::write(dir.path().join("etc/app-1.4.jar"), "").unwrap();
    dir
}

fn run(mut document: Value) -> ModuleResult {
    let dir = machine();
    document["variables"] = json!([{"key": "root", "value": dir.path().join("etc")}]);
    Scribe.run(&json!({"scribedoc": document}), &context(dir.path()))
}

/// Runs one test over one object; returns its result and what each thing looked at came to.
fn one(object: Value, test: Value) -> (bool, Vec<bool>) {
    let (mut object, mut test) = (object, test);
    object["object"] = json!("o");
    test["object"] = json!("o");
    test["test"] = json!("t");
    let result = run(json!({"objects": [object], "tests": [test]}));
    let elements: Elements = serde_json::from_value(result.elements.clone()).unwrap();
    let [test] = &elements.results[..] else { panic!("{result:#?}") };
    assert!(!test.iserror, "{result:#?}");
    (test.masterresult, test.results.iter().flatten().map(|sub| sub.result).collect())
}

#[test]
fn packages_are_compared_by_version() {
    let bash = json!({"package": {"name": "bash"}});
    let evr = |operation: &str, value: &str| json!({"evr": {"operation": operation, "value": value}});
    assert_eq!(one(bash.clone(), json!({})), (true, vec![true]));
    assert_eq!(one(bash.clone(), evr("<", "5.3-1")), (true, vec![true]));
    assert_eq!(one(bash.clone(), evr(">", "5.3-1")), (false, vec![false]));
    assert_eq!(one(bash, evr("=", "5.2.15-2+b8")), (true, vec![true]));
    assert_eq!(one(json!({"package": {"name": "gone"}}), json!({})), (false, vec![]));
    let kernel = json!({"package": {"name": "kernel"}});
    assert_eq!(one(kernel, evr("<", "2.6.32-573.9")), (true, vec![true, false]));
    let newest = json!({"package": {"name": "kernel", "onlynewest": true}});
    assert_eq!(one(newest, evr("<", "2.6.32-573.9")), (false, vec![false]));
    let collected = json!({"package": {"name": "x", "collectmatch": "^(bash|libbind)$"}});
    assert_eq!(one(collected, json!({})).1.len(), 2);
}

#[test]
fn files_are_compared_by_content_line_and_name() {
    let content = |extra: Value| {
        let mut object = json!({"path": "${root}", "file": "\\.conf$", "expression": "^(?:major|minor) = (\\d+)"});
        object.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"filecontent": object})
    };
    let regexp = |value: &str| json!({"regexp": {"value": value}});
    assert_eq!(one(content(json!({})), regexp("^7$")), (true, vec![false, true]));
    assert_eq!(
        one(content(json!({"concat": "."})), json!({"evr": {"operation": "<", "value": "2.8"}})),
        (true, vec![true])
    );
    let line = json!({"hasline": {"path": "${root}/app", "file": "\\.conf$", "expression": "^minor"}});
    assert_eq!(one(line, json!({"exactmatch": {"value": "false"}})), (true, vec![false, true]));
    let name = json!({"filename": {"path": "${root}", "file": "app-(.+)\\.jar$"}});
    assert_eq!(one(name, json!({"evr": {"operation": "<", "value": "1.5"}})), (true, vec![true]));
    let raw = json!({"raw": {"identifiers": [{"identifier": "a", "value": "x"}, {"identifier": "b", "value": "y"}]}});
    assert_eq!(one(raw, json!({"exactmatch": {"value": "y"}})), (true, vec![false, true]));
}

#[test]
fn tests_follow_the_tests_they_need_and_fail_alone() {
    let raw = json!([{"object": "o", "raw": {"identifiers": [{"identifier": "a", "value": "x"}]}}]);
    let result = run(json!({"objects": raw, "tests": [
        {"test": "late", "object": "o", "if": ["no"]},
        {"test": "no", "object": "o", "exactmatch": {"value": "y"}},
        {"test": "yes", "name": "Yes", "object": "o", "tags": [{"key": "k", "value": "v"}]},
        {"test": "lost", "object": "nosuch"},
        {"test": "leans", "object": "o", "if": ["lost"]},
        {"test": "round", "object": "o", "if": ["about"]},
        {"test": "about", "object": "o", "if": ["round"]},
        {"test": "odd", "object": "o", "evr": {"operation": "~", "value": "1"}},
    ]}));
    let lines = <Scribe as Typed>::lines(&result, Lines::Found);
    let masters: Vec<_> = lines.iter().filter(|line| line.starts_with("master")).collect();
    assert_eq!(masters[0], "master [false] name:\"late\" id:\"late\" hastrue:true error:\"\"");
    assert_eq!(masters[1], "master [false] name:\"no\" id:\"no\" hastrue:false error:\"\"");
    assert_eq!(masters[2], "master [true] name:\"Yes\" id:\"yes\" hastrue:true error:\"\"");
    assert!(masters[3].ends_with("error:\"unknown object \"nosuch\"\""), "{}", masters[3]);
    assert!(masters[4].ends_with("error:\"a test dependency failed (\"lost\")\""), "{}", masters[4]);
    assert!(masters[5].starts_with("master [error]") && masters[6].starts_with("master [error]"));
    assert!(masters[7].ends_with("error:\"invalid evr operation ~\""));
    assert!(result.success && result.foundanything);
    assert_eq!(result.errors()[0], "Error: unknown object \"nosuch\" in \"lost\"");
    assert_eq!(result.errors().len(), 5);
}

#[test]
fn a_long_chain_of_needs_is_no_danger() {
    let count = 5000;
    let test = |number: usize| match number + 1 {
        next if next < count => json!({"test": number.to_string(), "object": "o", "if": [next.to_string()]}),
        _ => json!({"test": number.to_string(), "object": "o"}),
    };
    let raw = json!([{"object": "o", "raw": {"identifiers": [{"identifier": "a", "value": "x"}]}}]);
    let result = run(json!({"objects": raw, "tests": (0..count).map(test).collect::<Vec<_>>()}));
    assert_eq!(result.elements["results"][0]["masterresult"], json!(true));
}

#[test]
fn the_result_and_its_lines_are_those_of_the_original() {
    let want = fixture("scribe");
    let result = run(json!({
        "objects": [{"object": "bash", "package": {"name": "bash"}}],
        "tests": [{"test": "bash old", "object": "bash", "evr": {"operation": "<", "value": "9"}}],
    }));
    same_form(&result, &want);
    assert_eq!(result.elements, want.elements);
    let lines = <Scribe as Typed>::lines(&want, Lines::All);
    assert_eq!(
        lines,
        [
            "master [true] name:\"bash old\" id:\"bash old\" hastrue:true error:\"\"",
            "sub [true] name:\"bash old\" id:\"bash old\" identifier:\"bash\"",
            "Statistics: runtime 8.853165ms",
        ]
    );
    let mut human = want.clone();
    human.elements["humanoutput"] = json!(true);
    let lines = <Scribe as Typed>::lines(&human, Lines::Found);
    assert_eq!(lines, ["result for \"bash old\"\n\tmaster result: true\n\t[true] identifier: \"bash\""]);
}

#[test]
fn only_true_tests_are_returned_when_asked() {
    let document = json!({"objects": [{"object": "o", "raw": {"identifiers": [{"identifier": "a", "value": "x"}]}}],
        "tests": [{"test": "no", "object": "o", "regexp": {"value": "y"}}]});
    let parameters = json!({"scribedoc": document, "onlytrue": true});
    let result = Scribe.run(&parameters, &context(machine().path()));
    assert!(!result.foundanything && result.elements["results"] == json!([]), "{result:?}");
}

#[test]
fn what_is_no_document_is_refused() {
    let refused = |document: Value| Scribe.validate(&json!({"scribedoc": document})).unwrap_err().0;
    assert_eq!(refused(json!({"objects": [{}]})), "an object in document has no identifier");
    assert_eq!(refused(json!({"objects": [{"object": "o"}]})), "o: no valid source interface");
    let content = json!({"objects": [{"object": "o", "filecontent": {"path": "/", "file": "x"}}]});
    assert_eq!(refused(content), "o: filecontent expression must be set");
    let raw = json!({"objects": [{"object": "o", "raw": {"identifiers": [{"identifier": "a"}]}}]});
    assert_eq!(refused(raw), "o: identifier must include identifier and value");
    assert_eq!(refused(json!({"tests": [{}]})), "a test in document has no identifier");
    assert_eq!(refused(json!({"tests": [{"test": "t", "if": ["t"]}]})), "t: test cannot reference itself");
    assert_eq!(refused(json!({"tests": [{"test": "t", "if": ["u"]}]})), "t: unknown test \"u\"");
    let tag = json!({"tests": [{"test": "t", "tags": [{"key": "\""}]}]});
    assert_eq!(refused(tag), "t: test tag key cannot contain quote");
}

#[test]
fn a_command_line_names_a_document() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("document.json");
    fs::write(&path, r#"{"tests": [{"test": "t", "object": "o"}]}"#).unwrap();
    let arguments = ["-path", path.to_str().unwrap(), "-onlytrue"].map(String::from);
    let parameters = crate::params_from_args("scribe", &arguments).unwrap();
    assert_eq!(parameters["scribedoc"]["tests"][0]["test"], json!("t"));
    assert_eq!(parameters["onlytrue"], json!(true));
    let error = |words: &[&str]| {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        crate::params_from_args("scribe", &words).unwrap_err().to_string()
    };
    assert_eq!(error(&[]), "module scribe: -path option is required");
    assert_eq!(error(&["-path", "/nonexistent"]), "could not use /nonexistent: no such file or directory");
}

#[test]
fn a_value_of_a_file_name_is_captured_from_the_name() {
    let name = json!({"filename": {"path": "${root}", "file": "^(app.*)$"}});
    assert_eq!(one(name, json!({"exactmatch": {"value": "app-1.4.jar"}})), (true, vec![true]));
    let result = run(json!({"objects": [{"object": "o", "filename": {"path": "${root}", "file": "app.*"}}],
        "tests": [{"test": "t", "object": "o"}]}));
    let error = "Error: the filename file has no group in parentheses, so there is nothing to compare in \"t\"";
    assert_eq!(result.errors(), [error], "it could never be true");
}

#[test]
fn values_are_put_together_for_each_file() {
    let dir = machine();
    for file in ["x1", "x2"] {
        fs::write(dir.path().join("etc").join(file), "foo=bar\nfoo=baz\n").unwrap();
    }
    let document = json!({
        "objects": [{"object": "o", "filecontent":
            {"path": dir.path().join("etc"), "file": "^x\\d$", "expression": "^foo=(.*)$", "concat": ","}}],
        "tests": [{"test": "t", "object": "o", "exactmatch": {"value": "bar,baz"}}],
    });
    let result = Scribe.run(&json!({"scribedoc": document}), &context(dir.path()));
    let path = |name: &str| dir.path().join("etc").join(name).display().to_string();
    let both = json!([{"result": true, "identifier": path("x1")}, {"result": true, "identifier": path("x2")}]);
    assert_eq!(result.elements["results"][0]["results"], both);
}

#[test]
fn what_could_not_be_looked_at_is_said() {
    let dir = machine();
    symlink("nosuch", dir.path().join("etc/broken.conf")).unwrap();
    symlink("circle.conf", dir.path().join("etc/circle.conf")).unwrap();
    let root = dir.path().join("etc");
    let line = |name: &str, path: std::path::PathBuf| json!({"object": name, "hasline": {"path": path, "file": "\\.conf$", "expression": "^minor"}});
    let document = json!({
        "objects": [line("a", root.clone()), line("b", root.clone()), line("gone", dir.path().join("nosuch"))],
        "tests": [{"test": "t", "object": "a", "exactmatch": {"value": "true"}}],
    });
    let result = Scribe.run(&json!({"scribedoc": document}), &context(dir.path()));
    assert!(result.success && result.foundanything, "{result:?}");
    let error = format!("ERROR: open {}: too many levels of symbolic links", root.join("circle.conf").display());
    let want = [error];
    assert_eq!(result.errors(), want, "once, however many look there, and nothing of what is not on this machine");
    // What leads nowhere has no content, but it has a name.
    let named = |file: &str| {
        let object = json!({"object": "n", "filename": {"path": root, "file": file}});
        let document = json!({"objects": [object], "tests": [{"test": "t", "object": "n"}]});
        Scribe.run(&json!({"scribedoc": document}), &context(dir.path())).errors().to_vec()
    };
    assert!(named("^(broken)")[0].contains("broken.conf: no such file"), "{:?}", named("^(broken)"));
    assert!(named("^(a)\\.conf$").is_empty());
}

#[test]
fn a_test_that_could_not_be_decided_is_not_false() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("circle", dir.path().join("circle")).unwrap();
    let run = |object: Value, onlytrue: bool| {
        let mut object = object;
        object["object"] = json!("o");
        let raw = json!({"object": "raw", "raw": {"identifiers": [{"identifier": "i", "value": "v"}]}});
        let tests = json!([{"test": "t", "object": "o"}, {"test": "r", "object": "raw"}]);
        let document = json!({"objects": [object, raw], "tests": tests});
        Scribe.run(&json!({"scribedoc": document, "onlytrue": onlytrue}), &context(dir.path()))
    };
    let circle = dir.path().join("circle");
    for (object, why) in [
        (json!({"package": {"name": "bash"}}), "no list of packages could be read"),
        (json!({"hasline": {"path": circle, "file": ".", "expression": "x"}}), "circle could not be looked at"),
        (json!({"filename": {"path": circle, "file": "(.)"}}), "circle could not be looked at"),
    ] {
        let result = run(object.clone(), false);
        assert_eq!(result.elements["results"][0]["iserror"], json!(true), "{object}: {result:#?}");
        // Whoever asks for true tests alone hears of it too.
        let result = run(object.clone(), true);
        assert!(result.errors().iter().any(|error| error.contains(why) && error.contains("\"t\"")), "{result:#?}");
        assert!(result.success, "another test was decided");
    }
    let deep = dir.path().join("d").join((1..=10).map(|_| "x").collect::<std::path::PathBuf>());
    std::fs::create_dir_all(deep).unwrap();
    let result = run(json!({"hasline": {"path": dir.path().join("d"), "file": ".", "expression": "x"}}), false);
    let cut = result.statistics["cut"][0].as_str().unwrap();
    assert!(cut.ends_with("1 directories more than 10 deep were not entered"), "{result:#?}");
    let alone =
        json!({"objects": [{"object": "o", "package": {"name": "x"}}], "tests": [{"test": "t", "object": "o"}]});
    let result = Scribe.run(&json!({"scribedoc": alone, "onlytrue": true}), &context(dir.path()));
    assert!(!result.success && !result.foundanything && !result.errors().is_empty(), "{result:#?}");
}

#[test]
fn an_import_chain_looks_beside_each_file_that_was_found() {
    let dir = machine();
    let (root, at) = (dir.path().join("etc"), |name: &str| dir.path().join("etc").join(name));
    for (app, version) in [("one", "1.0"), ("two", "2.0")] {
        fs::create_dir_all(at(app)).unwrap();
        fs::write(at(app).join("app.name"), format!("name {app}\n")).unwrap();
        fs::write(at(app).join("VERSION"), format!("version {version}\n")).unwrap();
    }
    let document = json!({
        "objects": [
            {"object": "apps", "filecontent": {"path": root, "file": "^app\\.name$", "expression": "^name (.*)$",
                "concat": " ", "import-chain": ["version", "end"]}},
            {"object": "version", "filecontent":
                {"path": "${chain_root}", "file": "^VERSION$", "expression": "^version (.*)$"}},
            {"object": "end", "raw": {"identifiers": [{"identifier": "x", "value": "."}]}},
        ],
        "tests": [
            {"test": "both", "object": "apps", "regexp": {"value": "^(one 1.0|two 2.0) \\.$"}},
            {"test": "alone", "object": "version"},
        ],
    });
    let result = Scribe.run(&json!({"scribedoc": document}), &context(dir.path()));
    let want = ["one", "two"].map(|app| json!({"result": true, "identifier": at(app).join("app.name")}));
    assert_eq!(result.elements["results"][0]["results"], json!(want), "{result:#?}");
    assert!(result.elements["results"][1]["error"].as_str().unwrap().starts_with("object not prepared"));
    let chain = |ids: &[&str], last: &[&str]| {
        let link = |id: &str, chain: &[&str]| json!({"object": id, "filename": {"path": "/x", "file": "(.)", "import-chain": chain}});
        Scribe.validate(&json!({"scribedoc": {"objects": [link("a", ids), link("b", last)]}})).map_err(|why| why.0)
    };
    assert_eq!(chain(&["b"], &[]), Ok(()));
    assert_eq!(chain(&["c"], &[]), Err("a: import-chain: unknown object \"c\"".to_owned()));
    for (first, last) in [(&["a"][..], &[][..]), (&["b"], &["a"]), (&[], &["b"])] {
        assert!(chain(first, last).unwrap_err().ends_with("the import-chain leads back to the object itself"));
    }
}

#[test]
fn versions_are_ordered_as_rpm_orders_them() {
    for (a, b, want) in [
        ("1.0.1e", "1.0.1d", Ordering::Greater),
        ("1:9.9.5.dfsg-4.3", "1:9.9.5.dfsg-4.3", Ordering::Equal),
        ("2.02-beta2", "2.02-beta3", Ordering::Less),
        ("2.02-beta2", "2.01-beta9", Ordering::Greater),
        ("10", "9", Ordering::Greater),
        ("1.010", "1.10", Ordering::Equal),
        ("1:1", "2", Ordering::Greater),
        ("(none):1-1", "0:1-1", Ordering::Equal),
        ("1.a", "1.1", Ordering::Less),
        ("1.0", "1.0.1", Ordering::Less),
        ("7.000", "7.0", Ordering::Equal),
        ("2.6.32-573.8.1.el6.x86_64", "2.6.32-573.12.1.el6.x86_64", Ordering::Less),
        ("99999999999999999999999", "99999999999999999999998", Ordering::Greater),
        ("", "", Ordering::Equal),
        ("1.0", "1.0-0", Ordering::Less),
        ("1.0~rc1", "1.0", Ordering::Less),
        ("1.0~rc1", "1.0~rc2", Ordering::Less),
        ("1.0~~", "1.0~", Ordering::Less),
        ("1.0~", "1.0^", Ordering::Less),
        ("1.0^", "1.0", Ordering::Greater),
        ("1.0^git1", "1.0.1", Ordering::Less),
        ("1.0^git1", "1.0^git2", Ordering::Less),
        ("1.0^git1~pre", "1.0^git1", Ordering::Less),
        ("1.0^git1", "1.01", Ordering::Less),
    ] {
        assert_eq!(Order::Rpm.compare(a, b), want, "{a} and {b}");
        assert_eq!(Order::Rpm.compare(b, a), want.reverse(), "{b} and {a}");
    }
}

/// The inputs of the case, as they came from the field.
fn case_14(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases/14-scribe-published").join(name);
    fs::read_to_string(path).unwrap()
}

#[test]
fn case_14_versions_are_ordered_as_dpkg_orders_them() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("var/lib/dpkg")).unwrap();
    fs::write(dir.path().join("var/lib/dpkg/status"), case_14("status")).unwrap();
    let document: Value = serde_json::from_str(&case_14("versions.json")).unwrap();
    let result = Scribe.run(&json!({"scribedoc": document}), &context(dir.path()));
    assert!(result.success && result.errors().is_empty(), "{result:?}");
    let elements: Elements = serde_json::from_value(result.elements).unwrap();
    let is_true = |test: &str| elements.results.iter().find(|result| result.testid == test).unwrap().masterresult;
    let expected = case_14("expected.tsv");
    let rows: Vec<_> = expected.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>()).collect();
    assert_eq!(rows.len(), 30);
    for row in &rows {
        let [test, have, than, less] = row[..] else { panic!("{row:?}") };
        assert_eq!(is_true(test).to_string(), less, "{have} is less than {than}");
        assert_eq!(Order::Dpkg.compare(have, than), Order::Dpkg.compare(than, have).reverse(), "{have} and {than}");
    }
    assert!(is_true("with-architecture"), "pair-00:amd64 is installed");
}

#[test]
fn case_14_an_architecture_in_a_name_means_that_architecture() {
    let dir = machine();
    let status = |arch: &str, version: &str| {
        format!("Package: lib\nStatus: install ok installed\nArchitecture: {arch}\nVersion: {version}\n\n")
    };
    let list = [status("amd64", "2.0-1"), status("i386", "1.0-1")].concat();
    fs::write(dir.path().join("var/lib/dpkg/status"), list).unwrap();
    let seen = |package: Value| {
        let document = json!({"objects": [{"object": "o", "package": package}],
            "tests": [{"test": "t", "object": "o", "evr": {"operation": "<", "value": "2.0-1"}}]});
        let result = Scribe.run(&json!({"scribedoc": document}), &context(dir.path()));
        let test = &result.elements["results"][0];
        let subs: Vec<SubResult> = serde_json::from_value(test["results"].clone()).unwrap_or_default();
        subs.into_iter().map(|sub| (sub.identifier, sub.result)).collect::<Vec<_>>()
    };
    let sub = |name: &str, result: bool| (name.to_owned(), result);
    assert_eq!(seen(json!({"name": "lib"})), [sub("lib", false), sub("lib", true)]);
    assert_eq!(seen(json!({"name": "lib:i386"})), [sub("lib:i386", true)]);
    assert_eq!(seen(json!({"name": "lib:amd64"})), [sub("lib:amd64", false)]);
    assert!(seen(json!({"name": "lib:arm64"})).is_empty());
    assert_eq!(seen(json!({"name": "x", "collectmatch": "^lib:i"})), [sub("lib:i386", true)]);
    assert_eq!(seen(json!({"name": "x", "collectmatch": "^lib$"})).len(), 2);
    assert!(seen(json!({"name": "x", "collectmatch": "^(?:l).*64$"})).is_empty(), "the colon is the expression's own");
}

#[test]
fn case_14_a_chain_as_published_runs() {
    let dir = tempfile::tempdir().unwrap();
    for (process, libc) in [("1", "libc-2.36.so"), ("2", "nothing")] {
        fs::create_dir_all(dir.path().join("proc").join(process)).unwrap();
        fs::write(dir.path().join("proc").join(process).join("maps"), format!("7f00 /lib/{libc}\n")).unwrap();
        fs::write(dir.path().join("proc").join(process).join("status"), format!("Name:\tp{process}\n")).unwrap();
    }
    let mut document: Value = serde_json::from_str(&case_14("import-chain.json")).unwrap();
    document["variables"][0]["value"] = json!(dir.path().join("proc"));
    document["tests"] = json!([{"test": "t", "object": "maps", "exactmatch": {"value": "p1"}}]);
    let result = Scribe.run(&json!({"scribedoc": document}), &context(dir.path()));
    let at = dir.path().join("proc/1/maps");
    let want = json!([{"result": false, "identifier": at}, {"result": true, "identifier": at}]);
    assert_eq!(result.elements["results"][0]["results"], want, "{result:?}");
}
