//! What people who may order something could ask of a module, in anger or by mistake: it ends, within its limits, and
//! harms nothing else.

use super::people::Order;
use super::{PEOPLE, Stage};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_harness::wire::actions::ActionResult;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;

/// An order that asks the file module, its parameters written as they stand in the signed text.
fn ask(what: &str, parameters: &str) -> String {
    let change = |order: &mut Order| order.operations = vec![("file".to_owned(), parameters.to_owned())];
    Order::with(what, change).signed(&[&PEOPLE.alice])
}

fn search(paths: &[&str], contents: &str) -> String {
    json!({"searches": {"s": {"contents": [contents], "paths": paths}}}).to_string()
}

/// Parameters that are packed, as MIG packs long ones, with the member that says so behind them.
fn packed(json: &str) -> String {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(json.as_bytes()).unwrap();
    format!("{},\"is_compressed\":true", Value::from(STANDARD.encode(encoder.finish().unwrap())))
}

fn results(result: &ActionResult) -> Value {
    let mut plain = result.results.clone();
    if result.results_packing == 1 {
        plain.clear();
        flate2::read::ZlibDecoder::new(&result.results[..]).read_to_end(&mut plain).unwrap();
    }
    serde_json::from_slice(&plain).unwrap()
}

/// A directory with what keeps searches busy. Returns its path.
fn traps(directory: &Path) -> String {
    let at = |name: &str| directory.join("traps").join(name);
    std::fs::create_dir(at("")).unwrap();
    // Longer lines are judged in pieces, of which one could match.
    std::fs::write(at("letters"), [&b"a".repeat(512 * 1024)[..], b"!\n"].concat()).unwrap();
    symlink(at(""), at("loop")).unwrap();
    symlink(at("circle"), at("circle")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RWXU).unwrap();
    at("").display().to_string()
}

#[tokio::test]
async fn r48_hostile_parameters_are_refused_or_bounded_and_the_next_order_runs() {
    let mut stage = Stage::new().await;
    let traps = traps(stage.directory.path());
    let million = json!({"searches": {"s": {"names": ["x"], "paths": vec!["/a"; 1_000_000]}}}).to_string();
    let many = json!({"searches": {"s": {"names": ["x"], "paths": vec!["/a"; 100_000]}}}).to_string();
    // What is tried, its parameters, and a word of what comes back: an error's, or that nothing was found.
    let cases = [
        ("an expression that takes for ever elsewhere", search(&[&traps], "(a+)+$"), "\"foundanything\":false"),
        ("an expression that grows", search(&[&traps], "((a{1000}){1000}){1000}"), "regexp"),
        ("memory of a process", search(&["/proc/self/mem"], "x"), "\"foundanything\":false"),
        ("zeros without end", search(&["/dev/zero"], "x"), "\"foundanything\":false"),
        ("a pipe that nobody writes to", search(&[&format!("{traps}/fifo")], "x"), "\"foundanything\":false"),
        (
            "links in a circle",
            search(&[&format!("{traps}/loop"), &format!("{traps}/circle")], "x"),
            "\"foundanything\":false",
        ),
        ("a hundred thousand paths", many, "more than 1000 values"),
        ("a million paths, packed", packed(&million), "longer than"),
        ("a text in the place of a list", r#"{"searches":{"s":{"paths":"/etc"}}}"#.to_owned(), "\"success\":false"),
        ("a list in the place of parameters", "[1,2,3]".to_owned(), "\"success\":false"),
        ("no parameters", "null".to_owned(), "\"foundanything\":false"),
    ];
    for (what, parameters, words) in cases {
        let result = stage.ordered(ask(what, &parameters).as_bytes()).await;
        assert_eq!(result.refusal, None, "{what}");
        let text = results(&result).to_string();
        assert!(text.contains(words), "{what}: {text}");
        assert!(result.results.len() < 256 * 1024, "{what}: {} bytes came back", result.results.len());
        stage.nothing_ran(what);
    }
    stage.refused("a million paths", ask("a million paths", &million).as_bytes(), "too-large").await;
    stage.end().await;
}
