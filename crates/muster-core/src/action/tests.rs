use super::*;
use crate::limits;

fn json(changes: &[(&str, &str)]) -> String {
    let mut members = vec![
        ("name", r#""find it""#),
        ("target", r#""status='online'""#),
        ("validfrom", r#""2026-11-20T13:36:39.987818747Z""#),
        ("expireafter", r#""2026-11-20T15:06:39+01:00""#),
        ("operations", r#"[{"module":"file","parameters":{"b": 1.0, "a": [] }}]"#),
        ("pgpsignatures", r#"["wsBc=Fzi+"]"#),
        ("syntaxversion", "2"),
    ];
    for (key, value) in changes {
        members.retain(|(have, _)| have != key);
        members.push((key, value));
    }
    let members: Vec<String> = members.iter().map(|(key, value)| format!("{key:?}:{value}")).collect();
    format!("{{{}}}", members.join(","))
}

fn parsed(changes: &[(&str, &str)]) -> Result<Action, ActionError> {
    Action::parse(json(changes).as_bytes())
}

/// Within the window of [`json`].
const NOW: Timestamp = Timestamp::from_secs(1_795_182_000);

fn checked(changes: &[(&str, &str)]) -> Result<(), ActionError> {
    parsed(changes).and_then(|action| action.check(NOW))
}

#[test]
fn an_action_keeps_what_its_author_wrote() {
    let action =
        parsed(&[("description", r#"{"author":"me","revision":2}"#), ("threat", r#"{"family":"compliance"}"#)]);
    let action = action.unwrap();
    assert_eq!(action.name, "find it");
    assert_eq!(action.valid_from.to_parts(), (1_795_181_799, 987_818_747));
    assert_eq!(action.expire_after.to_parts(), (1_795_183_599, 0));
    assert_eq!(action.operations[0].parameters.as_str(), r#"{"b": 1.0, "a": [] }"#);
    assert_eq!((action.description.revision, action.threat.family.as_str()), (2.0, "compliance"));
    assert_eq!(action.check(NOW), Ok(()));
    let written = serde_json::to_string(&action).unwrap();
    assert_eq!(Action::parse(written.as_bytes()), Ok(action));
    assert!(written.starts_with(r#"{"id":0,"name":"find it","target":"#), "{written}");
    assert!(
        written.ends_with(r#""lastupdatetime":"0001-01-01T00:00:00Z","counters":{},"syntaxversion":2}"#),
        "{written}"
    );
}

#[test]
fn keys_are_read_in_any_case_and_only_once() {
    let text = json(&[]).replace("\"name\"", "\"Name\"").replace("\"module\"", "\"MODULE\"");
    let action = Action::parse(text.as_bytes()).unwrap();
    assert_eq!((action.name.as_str(), action.operations[0].module.as_str()), ("find it", "file"));
    let twice = text.replace("\"Name\"", "\"name\":\"a\",\"NAME\"");
    let error = Action::parse(twice.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("\"NAME\" stands twice"), "{error}");
}

#[test]
fn what_only_a_server_knows_is_not_taken() {
    let action = parsed(&[("status", "\"completed\""), ("starttime", "7"), ("nobody", "[]")]);
    assert_eq!(action, parsed(&[]));
}

#[test]
fn what_nobody_signs_holds_no_zero_byte_and_is_bounded() {
    let long = "x".repeat(2049);
    for (of, keys) in
        [("description", &["author", "email", "url"][..]), ("threat", &["ref", "level", "family", "type"])]
    {
        for key in keys {
            for (value, problem) in [("a\\u0000", "zero byte"), (&*long, "at most 2048 characters")] {
                let error = checked(&[(of, &format!("{{\"{key}\":\"{value}\"}}"))]).unwrap_err().to_string();
                assert!(error.contains(&format!("{of} {key}")) && error.contains(problem), "{error}");
            }
            assert_eq!(checked(&[(of, &format!("{{\"{key}\":\"{}\"}}", &long[1..]))]), Ok(()));
        }
    }
}

#[test]
fn each_fault_has_its_message_in_order() {
    let faults: &[(&str, &str, &str)] = &[
        ("name", "\"\"", "action name is empty"),
        ("target", "null", "action target is empty"),
        ("syntaxversion", "1", "wring syntax version, expected 2"),
        ("validfrom", "\"2026-11-20T15:06:40+01:00\"", "action expireafter is set before action validfrom"),
        ("expireafter", "\"2026-11-20T13:39:59Z\"", "action expireafter is in the past"),
        ("operations", "null", "action operations is empty"),
        ("pgpsignatures", "[]", "action pgpsignatures is empty"),
    ];
    for (at, (key, value, message)) in faults.iter().enumerate() {
        assert_eq!(checked(&[(key, value)]).unwrap_err().to_string(), *message);
        // Of two faults, the earlier in the list is named. (The two about the window touch the same fields.)
        for (key_later, value_later, _) in &faults[at + 1..] {
            if !(key.contains('f') && key_later.contains('f')) {
                let error = checked(&[(key, value), (key_later, value_later)]).unwrap_err();
                assert_eq!(error.to_string(), *message, "{key} and {key_later}");
            }
        }
    }
    assert_eq!(checked(&[("operations", "[]")]), Err(ActionError::OperationsEmpty));
    assert_eq!(checked(&[]), Ok(()));
}

#[test]
fn the_last_second_counts_and_the_one_after_does_not() {
    let action = parsed(&[]).unwrap();
    let second = std::time::Duration::from_nanos(1);
    assert_eq!(action.check(action.expire_after), Ok(()));
    assert_eq!(action.check(action.expire_after.plus(second)), Err(ActionError::Expired));
    // What was signed are whole seconds; the fraction behind them is nobody's word.
    let (first, last) = action.signed_window();
    assert_eq!(action.window_check(first), Ok(()));
    assert_eq!(action.window_check(first.minus(second)), Err(ActionError::TooEarly));
    assert_eq!(action.window_check(last), Ok(()));
    assert_eq!(action.window_check(last.plus(second)), Err(ActionError::Expired));
    assert_eq!(action.window_length_check(std::time::Duration::from_secs(1800)), Ok(()));
    let error = action.window_length_check(std::time::Duration::from_secs(1799));
    assert_eq!(error, Err(ActionError::WindowTooLong { have_secs: 1800, max_secs: 1799 }));
}

#[test]
fn names_that_make_the_signed_text_ambiguous_are_refused() {
    for marker in MARKERS {
        for key in ["name", "target"] {
            let error = checked(&[(key, &format!("\"a{marker}b\""))]).unwrap_err();
            assert!(matches!(error, ActionError::Ambiguous { .. }), "{key} {marker}: {error}");
        }
    }
    assert_eq!(checked(&[("name", "\"target=; a;target =b\"")]), Ok(()));
}

#[test]
fn texts_are_bounded() {
    let long = |chars: usize| format!("\"{}\"", "é".repeat(chars));
    assert_eq!(checked(&[("name", &long(2048)), ("target", &long(2048))]), Ok(()));
    assert!(checked(&[("name", &long(2049))]).is_err());
    assert!(checked(&[("target", &long(2049))]).is_err());
    assert!(checked(&[("name", r#""a\nb""#)]).is_err());
    assert!(checked(&[("target", r#""a\u0000b""#)]).is_err());
    assert_eq!(checked(&[("target", r#""a\nb""#)]), Ok(()));
    assert!(checked(&[("operations", r#"[{"module":""}]"#)]).is_err());
    assert!(checked(&[("operations", r#"[{"module":"a\nb"}]"#)]).is_err());
}

#[test]
fn lists_are_bounded() {
    let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
    let operation = r#"{"module":"ping"}"#;
    assert_eq!(checked(&[("operations", &list(operation, limits::ACTION_OPERATIONS_MAX))]), Ok(()));
    let error = checked(&[("operations", &list(operation, limits::ACTION_OPERATIONS_MAX + 1))]);
    assert!(matches!(error, Err(ActionError::TooMany { what: "operations", .. })));
    assert_eq!(checked(&[("pgpsignatures", &list("\"a=b\"", limits::ACTION_SIGNATURES_MAX))]), Ok(()));
    let error = checked(&[("pgpsignatures", &list("\"a=b\"", limits::ACTION_SIGNATURES_MAX + 1))]);
    assert!(matches!(error, Err(ActionError::TooMany { what: "signatures", .. })));
    let long = vec![b' '; limits::ACTION_BYTES_MAX + 1];
    assert!(matches!(Action::parse(&long), Err(ActionError::TooMany { what: "bytes", .. })));
}

#[test]
fn nesting_is_bounded_and_brackets_in_texts_do_not_count() {
    let nested =
        |levels: usize| format!(r#"[{{"module":"x","parameters":{}1{}}}]"#, "[".repeat(levels), "]".repeat(levels));
    // The action, its list of operations and the operation are three levels.
    assert_eq!(checked(&[("operations", &nested(limits::ACTION_DEPTH_MAX - 3))]), Ok(()));
    assert!(matches!(
        checked(&[("operations", &nested(limits::ACTION_DEPTH_MAX - 2))]),
        Err(ActionError::TooMany { .. })
    ));
    assert!(Action::parse("[".repeat(100_000).as_bytes()).is_err());
    let text = format!(r#""\"{}\\""#, "[".repeat(100));
    assert_eq!(checked(&[("name", &text)]), Ok(()));
}

#[test]
fn what_is_no_action_is_refused_with_its_place() {
    for (json, part) in [
        ("", "EOF"),
        ("[]", "an object"),
        ("{\"name\":7}", "name: "),
        ("{\"operations\":[7]}", "operations: "),
        ("{\"validfrom\":\"now\"}", "validfrom must be written like"),
        ("{\"syntaxversion\":-2}", "syntaxversion: "),
        ("{\"id\":1.5}", "an action id must be"),
        ("{\"id\":-1}", "an action id must be"),
        ("{\"id\":9007199254740992}", "an action id must be"),
    ] {
        let error = Action::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{json}: {error}");
    }
    assert!(Action::parse(b"{\"name\":\"\xff\"}").is_err());
    let action = Action::parse(b"{\"id\":9007199254740991}").unwrap();
    assert_eq!(action.id.map(ActionId::get), Some(ActionId::MAX));
}

#[test]
fn times_are_strictly_rfc_3339() {
    for text in [
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.5+02:00",
        "0001-01-01T00:00:00Z",
        "9998-01-11T11:11:11.000000011Z",
    ] {
        assert!(moment(text).is_some(), "{text}");
    }
    for text in [
        "",
        "2026-01-02",
        "2026-01-02 03:04:05Z",
        "2026-01-02t03:04:05Z",
        "2026-01-02T03:04:05",
        "2026-01-02T23:59:60Z",
        "2026-02-30T03:04:05Z",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05Z[UTC]",
        "2026-01-02T24:00:00Z",
        "+002026-01-02T03:04:05Z",
        "é026-01-02T03:04:05Z",
        "2026-01-02T03:04:05+0200",
    ] {
        assert_eq!(moment(text), None, "{text}");
    }
    assert_eq!(moment(UNSET).unwrap().as_nanos(), i64::MIN);
    assert_eq!(moment(START_NONE).unwrap().as_nanos(), i64::MIN);
    assert_eq!(moment(FINISH_NONE).unwrap(), Timestamp::MAX);
    assert_eq!(moment("1969-12-31T23:59:59.5Z").unwrap().to_parts(), (-1, 500_000_000));
}

#[test]
fn counters_are_sums_of_commands() {
    let mut counters = Counters::default();
    for (status, count) in CommandStatus::ALL.iter().zip([1, 2, 4, 8, 16, 32]) {
        counters.add(*status, count);
    }
    assert_eq!((counters.sent, counters.done, counters.inflight), (63, 62, 1));
    let json = serde_json::to_string(&Counters { sent: 1, inflight: 1, ..Counters::default() }).unwrap();
    assert_eq!(json, r#"{"sent":1,"inflight":1}"#);
}

#[test]
fn every_status_reads_back_and_others_are_refused() {
    for status in ActionStatus::ALL {
        assert_eq!(status.as_str().parse(), Ok(*status));
        assert_eq!(serde_json::to_string(status).unwrap(), format!("\"{status}\""));
    }
    let error = "done".parse::<CommandStatus>().unwrap_err().to_string();
    assert!(error.contains("sent, success, cancelled, expired, failed, timeout"), "{error}");
    let last: Vec<_> = ActionStatus::ALL.iter().filter(|status| status.is_final()).collect();
    assert_eq!(last, [&ActionStatus::Completed, &ActionStatus::Invalid, &ActionStatus::Cancelled]);
    let targets: Vec<_> = AgentStatus::ALL.iter().filter(|status| status.is_target()).collect();
    assert_eq!(targets, [&AgentStatus::Online, &AgentStatus::Idle]);
}

#[test]
fn ids_are_whole_numbers_that_a_double_holds() {
    assert!(ActionId::new(0).is_err());
    assert!(ActionId::new(1 << 53).is_err());
    assert_eq!("17".parse::<CommandId>().map(CommandId::get), Ok(17));
    for text in ["", "+1", "-1", "1.0", "9007199254740992", "99999999999999999999"] {
        assert!(text.parse::<ActionId>().is_err(), "{text}");
    }
    assert!(serde_json::from_str::<InvestigatorId>("0").is_err());
}

#[test]
fn names_and_targets_read_as_they_are_written() {
    for c in ["\\u202e", "\\u202a", "\\u2066", "\\u2069", "\\u200f", "\\u061c", "\\u2028"] {
        for field in ["name", "target"] {
            let refused = checked(&[(field, &format!("\"name = 'a{c}b'\""))]).unwrap_err();
            assert!(matches!(refused, ActionError::Text { field: of, .. } if of == field), "{c}: {refused}");
        }
        let author = format!("{{\"author\": \"a{c}b\"}}");
        assert!(checked(&[("description", &author)]).is_err(), "{c}");
    }
    assert_eq!(checked(&[("name", "\"שלום\"")]), Ok(()));
}
