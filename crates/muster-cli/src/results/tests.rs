use super::*;
use serde_json::json;

const PLAIN: Output = Output { json: false, terminal: false, color: false };

fn row(id: i64, host: &str, results: &serde_json::Value) -> CommandRow {
    serde_json::from_value(json!({
        "id": id, "action": 1, "agent": format!("{id:016x}"), "hostname": host, "status": "success",
        "handed_out": true, "started": "2026-01-02T03:04:05Z", "finished": null, "found": true, "results": results,
    }))
    .unwrap()
}

fn found(elements: &serde_json::Value) -> serde_json::Value {
    json!([{"foundanything": true, "success": true, "elements": elements, "statistics": {}, "errors": null}])
}

fn sink(format: Format) -> Sink {
    Sink::new(PLAIN, format, vec!["memory".to_owned()])
}

#[test]
fn answers_are_grouped_by_value_the_commonest_first() {
    let mut sink = sink(Format::Table);
    for (id, value) in [(1, "a"), (2, "b"), (3, "b")] {
        sink.take(&row(id, &format!("host{id}"), &found(&json!(value))), "{}").unwrap();
    }
    let shown: Vec<_> =
        sink.sorted().into_iter().map(|(value, (count, named))| (value.as_str(), count, named)).collect();
    assert_eq!(shown[0].0, "\"b\"");
    assert_eq!(
        (shown[0].1, shown[0].2),
        (2, &["host2 (0000000000000002)".to_owned(), "host3 (0000000000000003)".to_owned()][..])
    );
    assert_eq!((shown[1].0, shown[1].1), ("\"a\"", 1));
}

#[test]
fn a_machine_counts_once_for_a_value_that_it_gave_twice_and_is_named_by_its_id_without_a_host() {
    let mut sink = Sink::new(PLAIN, Format::Table, vec!["memory".to_owned(); 2]);
    let twice = json!([found(&json!(1))[0], found(&json!(1))[0]]);
    sink.take(&row(7, "", &twice), "{}").unwrap();
    assert_eq!(sink.groups["1"], (1, vec!["0000000000000007".to_owned()]));
}

#[test]
fn failures_errors_and_nothing_are_values_too() {
    let modules = ["memory".to_owned()];
    let failed = CommandRow { status: "timeout".into(), results: None, ..row(1, "a", &json!([])) };
    assert_eq!(values(&failed, &modules), BTreeSet::from(["(timeout)".to_owned()]));
    assert_eq!(values(&row(1, "a", &json!([])), &modules), BTreeSet::from(["(nothing found)".to_owned()]));
    let error = json!([{"foundanything": false, "success": false, "elements": null, "errors": ["no such file"]}]);
    assert_eq!(values(&row(1, "a", &error), &modules), BTreeSet::from(["(error) no such file".to_owned()]));
    assert_eq!(values(&row(1, "a", &json!([7])), &modules), BTreeSet::from(["7".to_owned()]));
}

#[test]
fn known_modules_write_their_own_lines() {
    let listed = json!([{"foundanything": true, "success": true, "errors": null, "statistics": {},
        "elements": {"s1": [{"file": "/etc/passwd", "fileinfo": {"size": 7.0, "mode": "-rw-r--r--", "lastmodified": "x"}}]}}]);
    let lines = values(&row(1, "a", &listed), &["file".to_owned()]);
    assert!(lines.iter().any(|line| line.starts_with("/etc/passwd")), "{lines:?}");
}

#[test]
fn csv_has_a_head_once_and_quotes_what_needs_it() {
    let mut sink = sink(Format::Csv);
    let first = sink.csv(&row(1, "a,b", &found(&json!("x\"y"))));
    assert_eq!(
        first,
        "agent,hostname,status,found,value\r\n0000000000000001,\"a,b\",success,true,\"\"\"x\\\"\"y\"\"\"\r\n"
    );
    assert!(!sink.csv(&row(2, "b", &json!([]))).contains("hostname"));
    assert_eq!(cell("=1+1".to_owned()), "'=1+1");
    for formula in [" =1+1", "\u{a0}=1", "\u{feff}@x", "\u{3000}+1", "\x0b-1", "\t1", "＝1"] {
        assert!(cell(formula.to_owned()).starts_with('\''), "{formula:?}");
    }
    assert_eq!(cell("\n=1".to_owned()), "\"'\n=1\"");
    assert_eq!(cell(" plain = 1".to_owned()), " plain = 1");
}

#[test]
fn a_result_that_is_not_its_machines_is_left_out_and_fails_the_command() {
    let results = found(&json!("x"));
    let signed = CommandRow {
        proof: Some(muster_api::actions::ResultProof { signature: "AAAA".into(), key: "AAAA".into() }),
        ..row(1, "a", &results)
    };
    for (format, strict) in [(Format::Table, false), (Format::Csv, false), (Format::Jsonl, true)] {
        let mut sink = sink(format).checked([1; 32], strict);
        sink.take(&row(2, "b", &results), "{}").unwrap();
        sink.take(&signed, "{}").unwrap();
        if format == Format::Table {
            assert_eq!(sink.counts(), [("\"x\"".to_owned(), 1)]);
        }
        let failure = sink.end().unwrap_err();
        assert!(failure.why.contains("1 results are not signed"), "{}", failure.why);
        assert_eq!(failure.why.contains("by no machine"), strict);
    }
    let mut plain = sink(Format::Table).checked([1; 32], false);
    plain.take(&row(2, "b", &results), "{}").unwrap();
    plain.end().unwrap();
    let mut strict = sink(Format::Table).checked([1; 32], true);
    strict.take(&row(2, "b", &results), "{}").unwrap();
    // That a machine answered, and what it found, is the machine's word; that it did not is the server's.
    let word = |status: &str| CommandRow { status: status.into(), results: None, ..row(3, "c", &json!([])) };
    strict.take(&word("success"), "{}").unwrap();
    strict.take(&word("expired"), "{}").unwrap();
    assert_eq!(strict.counts(), [("(expired)".to_owned(), 1)]);
    let failure = strict.end().unwrap_err();
    assert!(failure.why.contains("2 results are signed by no machine"), "{failure}");
}

#[test]
fn a_result_that_is_nested_too_deep_to_read_is_one_and_spoils_no_other() {
    let deep = format!("[{{\"elements\":{}{}}}]", "[".repeat(500), "]".repeat(500));
    let line = serde_json::to_string(&row(1, "a", &found(&json!("x")))).unwrap();
    let text = found(&json!("x")).to_string();
    let line = line.replace(&text, &deep);
    let row: CommandRow = serde_json::from_str(&line).unwrap();
    let mut sink = sink(Format::Table);
    sink.take(&row, &line).unwrap();
    let counts = sink.counts();
    assert!(counts.len() == 1 && counts[0].0.contains("(unreadable: recursion limit"), "{counts:?}");
}
