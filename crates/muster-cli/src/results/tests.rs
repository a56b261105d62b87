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

/// An order of one operation; `digest` is what its results are verified by.
fn order(target: &str, digest: Option<[u8; 32]>) -> Order {
    let json = json!({"name": "q", "target": target, "operations": [{"module": "memory"}]});
    Order { digest, ..Order::own(&muster_core::Action::parse(json.to_string().as_bytes()).unwrap()) }
}

fn sink(format: Format) -> Sink {
    sink_of(format, order("true", None), Shown::default())
}

/// A book that nobody has written yet, in a place of its own: what is met is kept there.
fn no_book() -> Book {
    Book::at(&tempfile::tempdir().unwrap().path().join("machines.toml")).unwrap()
}

fn sink_of(format: Format, order: Order, which: Shown) -> Sink {
    Sink::new(PLAIN, format, order, which, no_book())
}

/// How an action stands of which `sent` machines were given it.
fn stands(status: &str, sent: u64) -> muster_api::actions::ActionSummary {
    serde_json::from_value(json!({
        "id": 1, "name": "q", "target": "true", "status": status, "reason": "", "valid_from": "", "expire_after": "",
        "created": "", "started": null, "finished": null, "updated": "", "halted": null, "matched": sent, "late": 0,
        "counters": {"sent": sent, "done": 0, "inflight": sent, "success": 0, "cancelled": 0, "expired": 0, "failed": 0,
            "timeout": 0},
    }))
    .unwrap()
}

fn values(row: &CommandRow, modules: &[String]) -> BTreeSet<String> {
    Answer::new(row, false, &no_book()).values(modules)
}

#[test]
fn answers_are_grouped_by_value_the_commonest_first() {
    let mut sink = sink(Format::Table);
    for (id, value) in [(1, "a"), (2, "b"), (3, "b")] {
        sink.take(&row(id, &format!("host{id}"), &found(&json!(value)))).unwrap();
    }
    let shown: Vec<_> =
        sink.sorted().into_iter().map(|(value, (count, named))| (value.as_str(), count, named)).collect();
    assert_eq!(shown[0].0, "\"b\"");
    assert_eq!(
        (shown[0].1, shown[0].2),
        (2, &["host2 (0000000000000002, unproven)".to_owned(), "host3 (0000000000000003, unproven)".to_owned()][..])
    );
    assert_eq!((shown[1].0, shown[1].1), ("\"a\"", 1));
}

#[test]
fn a_machine_counts_once_for_a_value_that_it_gave_twice_and_is_named_by_its_id_without_a_host() {
    let two = Order { modules: vec!["memory".to_owned(); 2], ..order("true", None) };
    let mut sink = sink_of(Format::Table, two, Shown::default());
    let twice = json!([found(&json!(1))[0], found(&json!(1))[0]]);
    sink.take(&row(7, "", &twice)).unwrap();
    assert_eq!(sink.groups["1"], (1, vec!["(0000000000000007, unproven)".to_owned()]));
}

#[test]
fn failures_errors_and_nothing_are_values_too() {
    let modules = ["memory".to_owned()];
    let failed = CommandRow { status: "timeout".into(), results: None, ..row(1, "a", &json!([])) };
    assert_eq!(values(&failed, &modules), BTreeSet::from(["(timeout)".to_owned()]));
    assert_eq!(values(&row(1, "a", &json!([])), &modules), BTreeSet::from(["(nothing found)".to_owned()]));
    let error = json!([{"foundanything": false, "success": false, "elements": null, "errors": ["no such file"]}]);
    assert_eq!(values(&row(1, "a", &error), &modules), BTreeSet::from(["(error) no such file".to_owned()]));
    // What went wrong beside an answer does not say that nothing was found.
    let beside =
        json!([{"foundanything": false, "success": true, "elements": null, "errors": ["2 files were not read"]}]);
    let both = ["(error) 2 files were not read", "(nothing found)"].map(str::to_owned);
    assert_eq!(values(&row(1, "a", &beside), &modules), BTreeSet::from(both));
    // Why a machine refused says that it did.
    let refused = CommandRow { status: "failed".into(), ..row(1, "a", &error) };
    assert_eq!(values(&refused, &modules), BTreeSet::from(["(error) no such file".to_owned()]));
    assert_eq!(values(&row(1, "a", &json!([7])), &modules), BTreeSet::from(["7".to_owned()]));
}

#[test]
fn a_path_that_is_not_on_a_machine_is_named_beside_what_was_found() {
    let answer = |found: bool, missing: &serde_json::Value| {
        json!([{"foundanything": found, "success": true, "errors": null, "elements": "e",
            "statistics": {"missing": missing}}])
    };
    let modules = ["memory".to_owned()];
    let nothing = answer(false, &json!(["/nosuch", "/nor-this"]));
    let want = ["(nothing found)", "(not on this machine) /nor-this", "(not on this machine) /nosuch"];
    assert_eq!(values(&row(1, "a", &nothing), &modules), BTreeSet::from(want.map(str::to_owned)));
    let beside = values(&row(1, "a", &answer(true, &json!(["/nosuch"]))), &modules);
    assert_eq!(beside, BTreeSet::from(["\"e\"", "(not on this machine) /nosuch"].map(str::to_owned)));
    // What another module calls so is passed over.
    assert_eq!(values(&row(1, "a", &answer(true, &json!(7))), &modules), BTreeSet::from(["\"e\"".to_owned()]));
    let order = order("true", None);
    let json = |row: &CommandRow| -> serde_json::Value {
        let answer = Answer::new(row, false, &no_book());
        serde_json::from_str(&answer.json(&order).unwrap()).unwrap()
    };
    let line = json(&row(1, "a", &nothing));
    assert_eq!((&line["missing"], &line["whole"]), (&json!(["/nor-this", "/nosuch"]), &json!(true)));
    assert_eq!(json(&row(1, "a", &found(&json!(1)))).get("missing"), None);
    let mut asked = sink_of(Format::Table, order, Shown { found: true, ..Shown::default() });
    asked.take(&row(1, "a", &nothing)).unwrap();
    asked.take(&row(2, "b", &answer(false, &json!(null)))).unwrap();
    let said = asked.nothing(&stands("completed", 2));
    assert_eq!(
        said,
        "No results: 2 machines answered and found nothing, 1 of them because a path of the question is not there."
    );
    assert!(asked.end(&stands("completed", 2)).unwrap().check().is_ok(), "it is an honest nothing");
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
    let csv = |sink: &mut Sink, row: &CommandRow| {
        let answer = Answer::new(row, false, &sink.book);
        sink.csv(&answer)
    };
    let first = csv(&mut sink, &row(1, "a,b", &found(&json!("x\"y"))));
    assert_eq!(
        first,
        "agent,hostname,status,found,value,known\r\n0000000000000001,\"a,b\",success,true,\"\"\"x\\\"\"y\"\"\",unproven\r\n"
    );
    assert!(!csv(&mut sink, &row(2, "b", &json!([]))).contains("hostname"));
    assert_eq!(cell("=1+1".to_owned()), "'=1+1");
    for formula in [" =1+1", "\u{a0}=1", "\u{feff}@x", "\u{3000}+1", "\x0b-1", "\t1", "＝1"] {
        assert!(cell(formula.to_owned()).starts_with('\''), "{formula:?}");
    }
    assert_eq!(cell("\n=1".to_owned()), "\"'\n=1\"");
    assert_eq!(cell(" plain = 1".to_owned()), " plain = 1");
}

#[test]
fn a_result_that_is_not_its_machines_is_left_out_and_fails_the_command() {
    let checked = |format, is_strict: bool| {
        sink_of(format, order("true", Some([1; 32])), Shown { unproven: !is_strict, ..Shown::default() })
    };
    let results = found(&json!("x"));
    let signed = CommandRow {
        proof: Some(muster_api::actions::ResultProof { signature: "AAAA".into(), key: "AAAA".into() }),
        ..row(1, "a", &results)
    };
    for (format, strict) in [(Format::Table, false), (Format::Csv, false), (Format::Jsonl, true)] {
        let mut sink = checked(format, strict);
        sink.take(&row(2, "b", &results)).unwrap();
        sink.take(&signed).unwrap();
        if format == Format::Table {
            assert_eq!(sink.counts(), [("\"x\"".to_owned(), 1)]);
        }
        let failure = sink.end(&stands("completed", 2)).unwrap_err();
        assert!(failure.why.contains("1 results are not signed"), "{}", failure.why);
        assert_eq!(failure.why.contains("by no machine"), strict);
    }
    let mut plain = checked(Format::Table, false);
    plain.take(&row(2, "b", &results)).unwrap();
    plain.end(&stands("completed", 1)).unwrap().check().unwrap();
    let mut strict = checked(Format::Table, true);
    strict.take(&row(2, "b", &results)).unwrap();
    // That a machine answered, and what it found, is the machine's word; that it did not is the server's.
    let word = |status: &str| CommandRow { status: status.into(), results: None, ..row(3, "c", &json!([])) };
    strict.take(&word("success")).unwrap();
    strict.take(&word("expired")).unwrap();
    assert_eq!(strict.counts(), [("(expired)".to_owned(), 1)]);
    let failure = strict.end(&stands("completed", 1)).unwrap_err();
    assert!(failure.why.contains("2 results are signed by no machine"), "{failure}");
}

#[test]
fn a_refusal_that_no_machine_signed_is_shown_as_unproven_and_breaks_no_proof() {
    let refused: serde_json::Value =
        serde_json::from_str(&muster_core::action::refused_results("weight", "too light")).unwrap();
    let refused = CommandRow { status: "failed".into(), ..row(1, "a", &refused) };
    for which in
        [Shown::default(), Shown { unproven: true, ..Shown::default() }, Shown { found: true, ..Shown::default() }]
    {
        let mut sink = sink_of(Format::Table, order("true", Some([1; 32])), which);
        sink.take(&refused).unwrap();
        assert_eq!(sink.counts(), [("(refused, unproven: weight: too light)".to_owned(), 1)]);
        assert_eq!(sink.groups.values().next().unwrap().1, ["a (0000000000000001, unproven)"]);
        let failure = sink.end(&stands("completed", 1)).unwrap().check().unwrap_err();
        assert_eq!(failure.exit, Exit::Partial, "it has not answered: {failure}");
    }
    // Of a machine that nobody approved, it is left out like all else.
    let mut sink = sink_of(Format::Table, order("true", Some([1; 32])), Shown { known_only: true, ..Shown::default() });
    sink.take(&refused).unwrap();
    assert!(sink.counts().is_empty());
    assert_eq!(sink.end(&stands("completed", 1)).unwrap_err().exit, Exit::Failed);
}

#[test]
fn a_result_that_is_nested_too_deep_to_read_is_one_and_spoils_no_other() {
    let deep = format!("[{{\"elements\":{}{}}}]", "[".repeat(500), "]".repeat(500));
    let line = serde_json::to_string(&row(1, "a", &found(&json!("x")))).unwrap();
    let text = found(&json!("x")).to_string();
    let line = line.replace(&text, &deep);
    let row: CommandRow = serde_json::from_str(&line).unwrap();
    let mut sink = sink(Format::Table);
    sink.take(&row).unwrap();
    let counts = sink.counts();
    assert!(counts.len() == 1 && counts[0].0.contains("(unreadable: recursion limit"), "{counts:?}");
}

#[test]
fn the_servers_flag_hides_no_finding_and_errors_are_never_passed_over() {
    let only_found = Shown { found: true, ..Shown::default() };
    let head = |found: bool, success: bool, errors: serde_json::Value| json!([{"foundanything": found, "success": success, "elements": "x", "statistics": {}, "errors": errors}]);
    let mut sink = sink_of(Format::Table, order("true", None), only_found);
    let hidden = CommandRow { found: Some(false), ..row(1, "a", &head(true, true, json!(null))) };
    let nothing = CommandRow { found: Some(true), ..row(2, "b", &head(false, true, json!(null))) };
    let beside = row(3, "c", &head(false, true, json!(["1 file was not read"])));
    let ended = row(4, "d", &head(false, false, json!(null)));
    let silent = CommandRow { status: "expired".into(), results: None, ..row(5, "e", &json!([])) };
    for row in [&hidden, &nothing, &beside, &ended, &silent] {
        sink.take(row).unwrap();
    }
    let shown: BTreeSet<_> = sink.groups.values().flat_map(|(_, named)| named.clone()).collect();
    let shown: Vec<_> = shown.iter().map(|name| &name[..1]).collect();
    assert_eq!(shown, ["a", "c", "d"]);
    let failure = sink.end(&stands("completed", 5)).unwrap().check().unwrap_err();
    assert!(failure.exit == Exit::Partial && failure.why.starts_with("2 answers have errors"), "{failure}");
}

#[test]
fn who_was_asked_and_has_not_answered_is_never_a_nothing() {
    let nothing =
        json!([{"foundanything": false, "success": true, "elements": null, "statistics": {}, "errors": null}]);
    let expired = CommandRow { status: "expired".into(), results: None, ..row(2, "b", &json!([])) };
    for format in [Format::Table, Format::Csv, Format::Jsonl] {
        for found in [true, false] {
            let end = |rows: &[&CommandRow], sent| {
                let mut sink = sink_of(format, order("true", None), Shown { found, ..Shown::default() });
                for row in rows {
                    sink.take(row).unwrap();
                }
                sink.end(&stands("completed", sent)).unwrap().check()
            };
            let answered = row(1, "a", &nothing);
            end(&[&answered], 1).unwrap();
            // The server says that nobody was asked, and counts an answer all the same.
            let mut contradicts = stands("completed", 0);
            contradicts.counters.done = 1;
            let sink = sink_of(format, order("true", None), Shown { found, ..Shown::default() });
            assert_eq!(sink.end(&contradicts).unwrap().check().unwrap_err().exit, Exit::Partial);
            // One is known not to have answered; of one the server shows no row; the server shows none at all.
            for (rows, sent, why) in [
                (&[&answered, &expired][..], 2, "1 of 2 machines has not answered"),
                (&[&answered][..], 2, "1 of 2 machines has not answered"),
                (&[][..], 1, "the machine that was asked has not answered"),
            ] {
                let failure = end(rows, sent).unwrap_err();
                assert_eq!(failure.exit, Exit::Partial, "{failure}");
                assert!(failure.why.starts_with(why), "{failure}");
            }
        }
    }
}

#[test]
fn an_empty_answer_says_why_it_is_empty() {
    let said = |which: Shown, rows: &[CommandRow], summary: &muster_api::actions::ActionSummary| {
        let mut sink = sink_of(Format::Table, order("true", Some([1; 32])), which);
        for row in rows {
            sink.take(row).unwrap();
        }
        sink.nothing(summary)
    };
    let nothing = json!([{"foundanything": false, "success": true, "elements": null, "errors": null}]);
    let (nothing, silent) =
        (row(1, "a", &nothing), CommandRow { status: "expired".into(), results: None, ..row(2, "b", &json!([])) });
    let lax = |found, status: Option<&str>| Shown {
        found,
        status: status.map(str::to_owned),
        unproven: true,
        known_only: false,
    };
    let reason =
        "given to no machine: all that match its target are beyond its reach (waiting for approval: 1)\u{1b}[2J";
    let invalid = muster_api::actions::ActionSummary { reason: reason.to_owned(), ..stands("invalid", 0) };
    let invalid = said(lax(false, None), &[], &invalid);
    assert!(invalid.contains("(waiting for approval: 1)") && !invalid.contains('\u{1b}'), "{invalid}");
    for (status, why) in [
        ("cancelled", "called back before any machine was given it"),
        ("inflight", "it waits for machines that match its target until its window ends"),
        ("completed", "no machine that matches the target came before its window ended"),
        ("invalid", "no machine was given the action"),
    ] {
        let line = said(lax(false, None), &[], &stands(status, 0));
        assert!(line.contains(why) && !line.contains("no machine matched"), "{status}: {line}");
    }
    assert!(said(lax(false, None), &[], &stands("pending", 0)).contains("no machine was given the action yet"));
    assert!(said(lax(false, None), &[], &stands("waiting", 0)).contains("waits for signatures"));
    assert_eq!(said(lax(true, None), &[], &stands("inflight", 3)), "No results: none of 3 machines has answered yet.");
    let both = [nothing, silent];
    let filtered = said(lax(true, None), &both, &stands("completed", 2));
    assert_eq!(filtered, "No results: 1 machines answered and found nothing, 1 machines have not answered.");
    let other = said(lax(false, Some("timeout")), &both, &stands("completed", 2));
    assert!(other.contains("1 answers are other ones than --status"), "{other}");
    assert!(said(Shown::default(), &both[..1], &stands("completed", 1)).contains("1 were left out"));
}

#[test]
fn a_row_of_a_machine_that_the_signed_target_excludes_is_left_out_whatever_signed_it() {
    let named = "agentid = '0000000000000007' AND status = 'online'";
    let mut sink = sink_of(Format::Table, order(named, Some([1; 32])), Shown { unproven: true, ..Shown::default() });
    sink.take(&row(1, "vm", &found(&json!("x")))).unwrap();
    sink.take(&row(7, "vm", &found(&json!("y")))).unwrap();
    assert_eq!(sink.counts(), [("\"y\"".to_owned(), 1)]);
    let failure = sink.end(&stands("completed", 1)).unwrap_err();
    assert!(failure.exit == Exit::Failed && failure.why.contains("1 results"), "{failure}");
}

#[test]
fn more_values_than_a_table_holds_are_said_to_be_missing() {
    let mut sink = sink(Format::Table);
    sink.group_bytes = muster_core::limits::RESULT_VALUES_BYTES_MAX;
    sink.take(&row(1, "a", &found(&json!("x")))).unwrap();
    assert!(sink.counts().is_empty());
    let failure = sink.end(&stands("completed", 1)).unwrap().check().unwrap_err();
    assert!(failure.exit == Exit::Partial && failure.next.contains("csv"), "{failure}");
}

#[test]
fn json_says_what_the_machine_signed_and_apart_from_it_what_the_server_says() {
    let order = order("true", Some([1; 32])).signed_by(vec!["Alice (AA)".to_owned()]);
    let results = found(&json!("x"));
    let row = CommandRow { found: Some(false), ..row(1, "a", &results) };
    let book = no_book();
    let line = Answer::new(&row, false, &book).json(&order).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["found"], &line["server"]["found"]), (&json!(true), &json!(false)));
    assert_eq!((&line["proven"], &line["known"], &line["name"]), (&json!(false), &json!(false), &json!(null)));
    assert_eq!(line["order"], json!({"name": "q", "signed_sha256": "01".repeat(32), "signers": ["Alice (AA)"]}));
    assert_eq!((&line["results"], &line["server"]["hostname"]), (&results, &json!("a")));
    assert!(line.get("hostname").is_none(), "{line}");
}

#[test]
fn a_known_id_under_another_key_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.jsonl");
    let row = proof::tests::row(&[]);
    let taken = |which: Shown| {
        let order = order("true", Some(proof::tests::ORDER));
        let mut sink = Sink::new(PLAIN, Format::Table, order, which, Book::at(&path).unwrap());
        sink.take(&row).unwrap();
        let shown = sink.counts().len();
        (shown, sink.end(&stands("completed", 1)).map(drop).map_err(|failure| failure.why))
    };
    let known_only = || Shown { known_only: true, ..Shown::default() };
    let (shown, refused) = taken(known_only());
    assert!(shown == 0 && refused.unwrap_err().contains("nobody approved"));
    assert_eq!(taken(Shown::default()), (1, Ok(())), "it is written down as new");
    let (shown, refused) = taken(known_only());
    assert!(shown == 0 && refused.is_err(), "that it answered once approves nobody");
    Book::at(&path).unwrap().approve(&[(row.agent.parse().unwrap(), "web".into())]).unwrap();
    assert_eq!(taken(known_only()), (1, Ok(())));
    // The id is only the first eight bytes of the key's digest: the book has them all.
    let key = proof::key_sha256(&row).unwrap();
    let other = format!("{}{}", &key[..16], "0".repeat(48));
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace(&key, &other)).unwrap();
    let (shown, refused) = taken(Shown::default());
    assert!(shown == 0 && refused.unwrap_err().contains("1 results are not signed"));
}

#[test]
fn a_machine_that_was_called_back_and_ran_looks_otherwise_than_one_that_obeyed() {
    let book = no_book();
    let cancelled = |handed_out, results: Option<serde_json::Value>| CommandRow {
        status: "cancelled".into(),
        handed_out,
        results: results.map(|value| serde_json::value::to_raw_value(&value).unwrap()),
        ..row(1, "a", &json!([]))
    };
    let late = |status: &str| {
        Some(Late {
            status: status.into(),
            received: "2026-01-02T03:04:05Z".into(),
            is_refused: status == "failed",
            is_proven: false,
        })
    };
    let obeyed =
        json!([{"foundanything": false, "success": false, "elements": null, "errors": ["refused (cancelled): x"]}]);
    let (ran, has_obeyed) = ("and the machine ran it anyway: success came late", "and the machine obeyed");
    for (row, late, is_proven, word, words) in [
        (cancelled(true, None), late("success"), false, "ran", ran),
        (cancelled(true, None), late("cancelled"), false, "obeyed", has_obeyed),
        (cancelled(true, None), late("failed"), false, "obeyed", has_obeyed),
        (cancelled(true, Some(obeyed.clone())), None, false, "obeyed", has_obeyed),
        (cancelled(true, Some(obeyed)), None, true, "obeyed", has_obeyed),
        (cancelled(true, None), None, false, "unknown", "and the machine has not said what it did"),
        (cancelled(false, None), None, false, "not_handed_out", "before it was handed out"),
    ] {
        let answer = Answer::new(&row, is_proven, &book).with_late(late);
        // What no machine signed is the server's word, and marked as that.
        let words = if is_proven { format!("(cancelled, {words})") } else { format!("(cancelled, {words}; unproven)") };
        assert!(answer.values(&[]).contains(&words), "{words}: {:?}", answer.values(&[]));
        let line: serde_json::Value = serde_json::from_str(&answer.json(&order("true", None)).unwrap()).unwrap();
        assert_eq!((&line["cancelled"], &line["proven"]), (&json!(word), &json!(is_proven)), "{line}");
    }
    let expired = CommandRow { status: "expired".into(), ..cancelled(true, None) };
    let answer = Answer::new(&expired, false, &book).with_late(late("success"));
    assert_eq!(answer.values(&[]), BTreeSet::from(["(expired, success came late; unproven)".to_owned()]));
    // What the machine signed is its own word, also when it came late.
    let signed = |status: &str| late(status).map(|late| Late { is_proven: true, ..late });
    for (row, status, words) in [
        (cancelled(true, None), "success", format!("(cancelled, {ran})")),
        (cancelled(true, None), "failed", format!("(cancelled, {has_obeyed})")),
        (expired, "success", "(expired, success came late)".to_owned()),
    ] {
        let answer = Answer::new(&row, false, &book).with_late(signed(status));
        assert!(answer.values(&[]).contains(&words), "{words}: {:?}", answer.values(&[]));
        let line: serde_json::Value = serde_json::from_str(&answer.json(&order("true", None)).unwrap()).unwrap();
        assert_eq!(line["server"]["late"]["proven"], json!(true), "{line}");
    }
}

/// A late result, of the row whose proof holds, with `changes`.
fn late_row(changes: &[(&str, serde_json::Value)]) -> muster_api::actions::LateResultRow {
    let row = proof::tests::row(changes);
    muster_api::actions::LateResultRow {
        agent: row.agent,
        status: row.status,
        received: "2026-01-02T03:04:05Z".into(),
        results: row.results.unwrap(),
        proof: row.proof,
    }
}

#[test]
fn what_came_late_is_verified_as_every_other_result() {
    let verified = |rows: &[&[(&str, serde_json::Value)]], which: Shown| {
        let mut sink = sink_of(Format::Table, order("true", Some(proof::tests::ORDER)), which).of_late();
        for row in rows {
            sink.take(&of_command(late_row(row))).unwrap();
        }
        (sink.counts.shown, sink.end(&stands("cancelled", 1)).map(drop).map_err(|failure| failure.why))
    };
    assert_eq!(verified(&[&[]], Shown::default()).0, 1);
    // Several of one machine came late, and each of them is its.
    assert_eq!(verified(&[&[], &[]], Shown::default()), (2, verified(&[&[]], Shown::default()).1));
    let unsigned = [("proof", json!(null))];
    let (shown, refused) = verified(&[&unsigned], Shown::default());
    assert!(shown == 0 && refused.unwrap_err().contains("signed by no machine"));
    assert_eq!(verified(&[&unsigned], Shown { unproven: true, ..Shown::default() }).0, 1);
    // Another status than the one that was signed: it is never shown.
    let (shown, refused) = verified(&[&[("status", json!("failed"))]], Shown { unproven: true, ..Shown::default() });
    assert!(shown == 0 && refused.unwrap_err().contains("not signed by machines"));
    assert_eq!(verified(&[], Shown::default()), (0, Ok(())));
    let nothing = sink(Format::Table).of_late();
    assert_eq!(nothing.nothing(&stands("cancelled", 1)), "No result came late.");
}

#[test]
fn beside_a_command_stands_the_first_late_word_that_its_machine_signed() {
    let late = |rows: Vec<muster_api::actions::LateResultRow>| {
        let mut sink = sink_of(Format::Table, order("true", Some(proof::tests::ORDER)), Shown::default());
        sink.came_late(rows);
        let one = sink.late.values().next().map(|late| (late.status.clone(), late.is_proven));
        (one, sink.counts.broken)
    };
    let unsigned = || late_row(&[("proof", json!(null)), ("status", json!("cancelled"))]);
    let broken = || late_row(&[("status", json!("cancelled"))]);
    let proven = || late_row(&[]);
    let success = Some(("success".to_owned(), true));
    // Newest first, as the server lists them.
    assert_eq!(late(vec![proven(), unsigned()]), (success.clone(), 0));
    assert_eq!(late(vec![unsigned(), proven()]), (success.clone(), 0));
    assert_eq!(late(vec![proven(), broken()]), (success, 1));
    assert_eq!(late(vec![unsigned()]), (Some(("cancelled".to_owned(), false)), 0));
    assert_eq!(late(vec![broken()]), (None, 1));
}

#[test]
fn what_nobody_approved_never_looks_like_what_somebody_did() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("book.jsonl");
    let proven = |hostname: &str| CommandRow { hostname: Some(hostname.into()), ..proof::tests::row(&[]) };
    let id = proven("").agent;
    let shown = |row: &CommandRow| {
        let book = Book::at(&path).unwrap();
        let answer = Answer::new(row, true, &book);
        let line: serde_json::Value = serde_json::from_str(&answer.json(&order("true", None)).unwrap()).unwrap();
        let mut csv = Sink::new(PLAIN, Format::Csv, order("true", None), Shown::default(), book.clone());
        let csv = csv.csv(&answer).lines().nth(1).unwrap().to_owned();
        (answer.name(), csv, line["standing"].clone(), line["name_of"].clone(), answer.stolen_name())
    };
    let keep = |row: &CommandRow| {
        let order = order("true", Some(proof::tests::ORDER));
        let mut sink = Sink::new(PLAIN, Format::Table, order, Shown::default(), Book::at(&path).unwrap());
        sink.take(row).unwrap();
        sink.end(&stands("completed", 1)).unwrap();
    };
    let (name, csv, standing, ..) = shown(&proven("vm"));
    assert_eq!((name, standing), (format!("vm ({id}, new)"), json!("new")));
    assert!(csv.ends_with(",new"), "{csv}");
    keep(&proven("vm"));
    // That it has answered before makes it nobody's.
    let (name, csv, standing, name_of, stolen) = shown(&proven("vm"));
    assert_eq!((name, standing), (format!("vm ({id}, unapproved)"), json!("unapproved")));
    assert!(csv.ends_with(",unapproved") && name_of.is_null() && stolen.is_none(), "{csv}");
    Book::at(&path).unwrap().forget(&[id.parse().unwrap()]).unwrap();
    // The name of a machine that is approved is shown for no other without saying so, and not kept.
    let own = "00000000000000aa";
    Book::at(&path).unwrap().approve(&[(own.parse().unwrap(), "vm".into())]).unwrap();
    for (row, standing) in [(proven("VM."), "new"), (proven("vm"), "unapproved")] {
        let (name, csv, _, name_of, stolen) = shown(&row);
        assert!(name.ends_with(&format!("({id}, {standing}, name of {own})")), "{name}");
        assert!(csv.ends_with(&format!(",\"{standing}, name of {own}\"")), "{csv}");
        assert_eq!(name_of, json!(own));
        assert!(stolen.unwrap().contains(own));
        keep(&row);
        assert_eq!(Book::at(&path).unwrap().machine(&id).unwrap().name, "");
    }
    // A name that holds another row is a name all the same.
    let (name, ..) = shown(&proven(&format!("vm ({own}) x  y")));
    assert_eq!(name, format!("\"vm␣({own})␣x␣␣y\" ({id}, unapproved)"));
    Book::at(&path).unwrap().approve(&[(id.parse().unwrap(), "own".into())]).unwrap();
    let (name, csv, standing, name_of, _) = shown(&proven("vm"));
    assert_eq!((name, standing, name_of), (format!("own ({id})"), json!("approved"), json!(null)));
    assert!(csv.ends_with(",approved"), "{csv}");
}
