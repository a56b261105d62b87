//! What targets mean, and what is refused.

use super::*;
use crate::{AgentId, Facts, Timestamp};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

const NOW: Timestamp = Timestamp::from_secs(1_767_323_045);

fn row() -> FleetRow {
    FleetRow {
        number: 7,
        agent_id: "0011223344556677".into(),
        name: "web1.example.org".into(),
        queueloc: "linux.0011223344556677".into(),
        mode: "daemon".into(),
        version: "0.1.0".into(),
        status: "online".into(),
        loader_name: None,
        public_ip: Some("192.0.2.1".into()),
        pid: Some(42),
        started: Timestamp::from_secs(1_767_000_000),
        destroyed: None,
        last_contact: Timestamp::from_secs(1_767_323_000),
        refreshed: Timestamp::from_secs(1_767_100_000),
        environment: json!({"os": "linux", "arch": "amd64", "ident": "Debian GNU/Linux 12", "isproxied": false,
            "proxy": "", "addresses": ["10.0.0.1", "10.0.0.2"], "modules": [], "aws": null}),
        tags: json!({"operator": "IT", "size": "12", "weight": "1.50", "empty": ""}),
        found: BTreeMap::from([((5, true), true)]),
    }
}

fn own() -> OwnRow {
    let facts = Facts::from([("kernel".to_owned(), "Linux".into()), ("fqdn".to_owned(), "web1.example.org".into())]);
    let endpoint = Endpoint::observed(AgentId::from_bytes([0, 17, 34, 51, 68, 85, 102, 119]), &facts);
    OwnRow { id: AgentId::from_bytes([0, 17, 34, 51, 68, 85, 102, 119]), endpoint, tags: json!({"operator": "IT"}) }
}

fn truth(text: &str) -> Option<bool> {
    let target = Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let again = Target::parse(&target.to_string()).unwrap_or_else(|error| panic!("{text}: {target}: {error}"));
    assert_eq!(again, target, "{text} is printed as {target}");
    let truths = target.evaluate(&row(), NOW);
    match (truths.may_hold, truths.may_fail, truths.may_be_null) {
        (true, false, false) => Some(true),
        (false, true, false) => Some(false),
        (false, false, true) => None,
        _ => panic!("{text}: the server knows everything, and not {truths:?}"),
    }
}

#[test]
fn what_is_seen_in_documents_and_actions_of_mig_is_understood() {
    let found = "id IN (select agentid from commands, json_array_elements(commands.results) as r where \
                 actionid=5 and r#>>'{foundanything}' = 'true')";
    let other = "id in (SELECT commands.agentid FROM commands, JSON_ARRAY_ELEMENTS(results) x WHERE \
                 x->>'foundanything' = 'false' AND commands.actionid=5)";
    let holding = [
        "status='online'",
        "status='online' OR status='idle'",
        "name='web1.example.org'",
        "name like '%example%'",
        "queueloc LIKE 'linux.%'",
        "agents.queueloc like 'linux.%'",
        "mode='daemon'",
        "name ~* '^WEB'",
        "environment->>'os'='linux'",
        "agents.environment->>'os' <> 'windows'",
        "environment->>'isproxied' = 'false'",
        "environment->>'ident' ILIKE '%debian%'",
        "environment->>'os' IN ('linux','darwin')",
        "environment#>>'{os}'='linux'",
        "os = 'linux'",
        "agentid = '0011223344556677'",
        "agents.agentid IN ('0011223344556677')",
        "agentid < '8' AND agentid ~ '^0011'",
        "fleet IS NULL",
        "tags->>'operator'='IT'",
        "tags#>>'{operator}'='IT'",
        "starttime < NOW() - INTERVAL '1 day'",
        "heartbeattime > NOW() - interval '1 minute'",
        "version='0.1.0'",
        found,
        "environment->>'publicip' = '192.0.2.1'",
        "destructiontime > NOW()",
        "true",
        "1=1",
        "id = 7 and pid = '42'",
    ];
    for text in holding {
        assert_eq!(truth(text), Some(true), "{text}");
    }
    assert_eq!(truth(other), Some(false));
    assert_eq!(truth(&other.replace("id in", "id NOT IN")), Some(true));
}

#[test]
fn null_is_neither_true_nor_false() {
    for (text, expected) in [
        ("tags->>'none' = 'x'", None),
        ("NOT tags->>'none' = 'x'", None),
        ("tags->>'none' = 'x' OR true", Some(true)),
        ("tags->>'none' = 'x' AND false", Some(false)),
        ("tags->>'none' = 'x' AND true", None),
        ("tags->>'none' IS NULL", Some(true)),
        ("tags->>'empty' IS NULL", Some(false)),
        ("tags->>'none' IN ('x')", None),
        ("tags->>'none' NOT LIKE 'x'", None),
        ("tags->>'none' !~ 'x'", None),
        ("loadername IS NOT NULL", Some(false)),
        ("environment->'aws' IS NULL", Some(false)),
        ("environment->>'aws' IS NULL", Some(true)),
        ("environment->'gone' IS NULL", Some(true)),
        ("(tags->>'operator')::int > 0", None),
        ("starttime BETWEEN '2025-12-29' AND NOW()", Some(true)),
    ] {
        assert_eq!(truth(text), expected, "{text}");
    }
}

#[test]
fn paths_casts_and_patterns_mean_what_they_mean_in_postgresql() {
    for (text, expected) in [
        ("environment->'addresses'->>0 = '10.0.0.1'", true),
        ("environment->'addresses'->>-1 = '10.0.0.2'", true),
        ("environment#>>'{addresses,1}' = '10.0.0.2'", true),
        ("environment->'addresses'->>'0' IS NULL", true),
        ("(environment->'addresses')::text = '[\"10.0.0.1\",\"10.0.0.2\"]'", true),
        ("(environment->'os')::text = '\"linux\"'", true),
        ("tags::text LIKE '%\"operator\":\"IT\"%'", true),
        ("(tags->>'size')::int > 9", true),
        ("tags->>'size' > '9'", false),
        ("(tags->>'weight')::numeric = 1.5", true),
        ("(tags->>'size')::double precision BETWEEN 12 AND 12", true),
        ("pid NOT IN (1, 2, 41)", true),
        ("name LIKE 'web_.%'", true),
        ("name LIKE 'WEB%'", false),
        ("name ILIKE 'WEB%'", true),
        ("name LIKE '%web1'", false),
        ("'50%' LIKE '50\\%'", true),
        ("'50x' LIKE '50\\%'", false),
        ("'50%' LIKE '50#%' ESCAPE '#'", true),
        ("'5\\x' LIKE '5\\%' ESCAPE ''", true),
        ("'É' ILIKE 'é'", false),
        ("name ~ 'web[0-9]+\\.example'", true),
        ("name !~* 'WEB[[:digit:]]{2,}'", true),
        ("'a\nb' ~ '^a.b$'", true),
        ("'it''s' = 'it''s'", true),
        ("name < 'x' AND name >= 'web1'", true),
        ("starttime < NOW() + INTERVAL '1 month 2 hours' - INTERVAL '3d'", true),
    ] {
        assert_eq!(truth(text), Some(expected), "{text}");
    }
}

#[test]
fn and_binds_closer_than_or_and_not_closer_than_and() {
    assert_eq!(truth("true OR true AND false"), Some(true));
    assert_eq!(truth("(true OR true) AND false"), Some(false));
    assert_eq!(truth("NOT false AND false"), Some(false));
    assert_eq!(truth("NOT (false AND false)"), Some(true));
    // What the client of MIG puts before an expression does not reach beyond its OR.
    assert_eq!(truth("id IN (1) AND name = 'x' OR status='online'"), Some(true));
}

/// What must be refused: the text, where, and a word of the message or the hint.
const REFUSED: [(&str, usize, &str); 50] = [
    ("", 0, "the end"),
    ("1=1; DROP TABLE agents", 3, "one condition"),
    ("' OR '1'='1", 0, "no condition"),
    ("x) UNION SELECT 1", 0, "no column"),
    ("true) UNION SELECT 1", 4, "has no ("),
    ("pg_sleep(10)", 0, "no functions"),
    ("name = pg_sleep(10)", 7, "no functions"),
    ("load_extension('x')", 0, "no column"),
    ("true -- or not", 5, "no comments"),
    ("true /* or not */", 5, "no comments"),
    ("name = \u{2018}web\u{2019}", 7, "plain single quotes"),
    ("name = \"web\"", 7, "single quotes"),
    ("name = 'web", 7, "no end"),
    ("name = 'a\0b'", 7, "zero byte"),
    ("name = $1", 7, "no parameters"),
    ("name = E'x'", 7, "no column"),
    ("name", 0, "no condition"),
    ("name = ", 7, "the end"),
    ("name = 'x' AND", 14, "the end"),
    ("name = 'x' name", 11, "AND, OR"),
    ("name == 'x'", 5, "one sign"),
    ("name = 5", 5, "quotes"),
    ("pid = 'x'", 4, "is none"),
    ("starttime > 'yesterday'", 10, "NOW()"),
    ("starttime > 5", 10, "NOW()"),
    ("environment = 'x'", 12, "->>"),
    ("environment->'os' = 'x'", 18, "->>"),
    ("environment->'os' LIKE 'x'", 18, "->>"),
    ("tags->>'n'::int > 5", 10, "parentheses"),
    ("name = NULL", 7, "IS NULL"),
    ("name = true", 7, "'true'"),
    ("name LIKE 'x\\'", 10, "escape"),
    ("name LIKE name", 10, "a text"),
    ("pid LIKE '4%'", 4, "takes a text"),
    ("name IN ()", 9, "a column, a text"),
    ("name IN (name)", 9, "texts and numbers"),
    ("name IN (SELECT name FROM agents)", 5, "only id"),
    ("id IN (SELECT id FROM agents)", 14, "only this one"),
    ("id IN (SELECT agentid FROM commands, json_array_elements(commands.results) AS r WHERE actionid = 1)", 98, "AND"),
    ("heartbeattime > NOW() - INTERVAL 'soon'", 33, "5 minutes"),
    ("NOW()", 0, "no condition"),
    ("name ~ '(?=x)'", 7, "(?:"),
    ("name ~ '(a{255}){255}'", 7, "written out"),
    ("@web AND true", 0, "written out"),
    ("env#>>'{os}' = 'x'", 0, "environment"),
    ("label = 'lab'", 0, "known to the server alone"),
    ("environment#>>'os' = 'x'", 14, "braces"),
    ("agentid = '0011AABBCCDDEEFF'", 8, "lower case"),
    ("'web1' <> agentid", 7, "16 hexadecimal"),
    ("agentid IN ('0011223344556677', '7')", 32, "16 hexadecimal"),
];

#[test]
fn everything_else_is_refused_with_its_place_and_a_hint() {
    let mut wrong = Vec::new();
    for (text, position, word) in REFUSED {
        let error = Target::parse(text).expect_err(text);
        if error.position != position || !error.to_string().contains(word) {
            wrong.push(format!("{text:?}: {} {error}", error.position));
        }
        let pointed = error.pointed(text);
        assert_eq!(pointed.lines().last().map(str::trim_start), Some("^"), "{pointed}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn size_depth_and_lists_are_bounded() {
    let deep = |n: usize| format!("{}true{}", "(".repeat(n), ")".repeat(n));
    assert!(Target::parse(&deep(64)).is_ok());
    assert!(Target::parse(&deep(65)).unwrap_err().to_string().contains("deeper than 64"));
    assert!(Target::parse(&format!("{}true", "NOT ".repeat(65))).unwrap_err().to_string().contains("deeper"));
    let long = format!("name = '{}'", "é".repeat(2039));
    assert!(Target::parse(&long).is_ok());
    let error = Target::parse(&format!("{long} ")).unwrap_err();
    assert!(error.to_string().contains("at most 2048 characters, this one 2049"), "{error}");
    assert!(Target::parse(&"AND ".repeat(300_000)).is_err());
    let list = |n: usize| format!("id IN ({})", vec!["1"; n].join(","));
    assert!(parse::parse(&list(10_000), usize::MAX).is_ok());
    assert!(parse::parse(&list(10_001), usize::MAX).unwrap_err().to_string().contains("10000"));
    let path = |n: usize| format!("environment{}->>'a' = 'x'", "->'a'".repeat(n));
    assert!(Target::parse(&path(15)).is_ok());
    assert!(Target::parse(&path(16)).unwrap_err().to_string().contains("16 steps"));
}

#[test]
fn a_machine_refuses_what_cannot_be_meant_for_it() {
    for (text, expected) in [
        ("name = 'web1.example.org'", Verdict::Matches),
        ("name = 'other'", Verdict::DoesNotMatch),
        ("status = 'online'", Verdict::MayMatch),
        ("status = 'online' AND tags->>'operator' = 'IT'", Verdict::MayMatch),
        ("status = 'online' AND tags->>'operator' = 'HR'", Verdict::DoesNotMatch),
        ("status = 'online' OR tags->>'operator' = 'IT'", Verdict::Matches),
        ("NOT id = 5", Verdict::MayMatch),
        ("id IS NULL AND tags->>'operator' = 'HR'", Verdict::DoesNotMatch),
        ("tags->>'none' = 'x'", Verdict::DoesNotMatch),
        ("queueloc = 'linux.0011223344556677'", Verdict::Matches),
    ] {
        assert_eq!(Target::parse(text).unwrap().evaluate(&own(), NOW).verdict(), expected, "{text}");
    }
}

#[test]
fn each_question_is_answered_with_what_the_machine_has() {
    let target = Target::parse("name LIKE 'db%' OR (tags->>'none') IS NULL AND 'linux' = os").unwrap();
    let leaves = target.explain(&row(), NOW);
    let told: Vec<_> = leaves.iter().map(|leaf| (&*leaf.text, leaf.truths.verdict(), leaf.value.as_deref())).collect();
    let expected = [
        ("name LIKE 'db%'", Verdict::DoesNotMatch, Some("web1.example.org")),
        ("tags->>'none' IS NULL", Verdict::Matches, None),
        ("'linux' = environment->>'os'", Verdict::Matches, Some("linux")),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_target_is_as_far_from_a_machine_as_parts_of_it_are_not_true() {
    for (text, distance) in [
        ("true", 0),
        ("false", 1),
        ("os = 'linux'", 0),
        ("os = 'bsd'", 1),
        ("os = 'bsd' AND name = 'x' AND os = 'linux'", 2),
        ("(os = 'bsd' AND name = 'x') OR name = 'y'", 1),
        ("NOT (os = 'linux')", 1),
        ("tags->>'none' = 'x'", 1),
    ] {
        let target = Target::parse(text).unwrap();
        assert_eq!(target.distance(&row(), NOW), distance, "{text}");
        assert_eq!(distance == 0, target.evaluate(&row(), NOW).verdict() == Verdict::Matches, "{text}");
    }
}

#[test]
fn names_are_written_out_in_parentheses_and_texts_are_left_alone() {
    let lookup = |name: &str| match name {
        "web" => Some("name LIKE 'web%' OR name LIKE 'www%'".to_owned()),
        "nested" => Some("@web".to_owned()),
        _ => None,
    };
    let expanded = expand("os = '@web' AND\t@web", lookup).unwrap();
    assert_eq!(expanded, "os = '@web' AND\t(name LIKE 'web%' OR name LIKE 'www%')");
    assert!(Target::parse(&expanded).is_ok());
    assert_eq!(expand("true", lookup).unwrap(), "true");
    let unknown = expand("true AND @db", lookup).unwrap_err();
    assert_eq!((unknown.position, unknown.message.as_str()), (9, "no target has the name \"db\""));
    assert!(expand("@nested", lookup).unwrap_err().to_string().contains("cannot be used"));
    assert!(check_name("web-1.eu").is_ok() && check_name("a b").is_err() && check_name("").is_err());
}

#[test]
fn regular_expressions_are_those_that_both_engines_know() {
    for good in ["^web[0-9]+$", "a|b", "(?:ab)*c?", "\\.\\d{1,3}", "[^a-z_.\\-]", "[[:alpha:]x]", "é+", "a{0}b"] {
        assert!(regex(good, Case::Counts).is_ok(), "{good}: {:?}", regex(good, Case::Counts));
    }
    for bad in [
        "",
        "a||b",
        "(",
        ")",
        "[",
        "[]",
        "[a",
        "a**",
        "a*?",
        "*a",
        "^*",
        "a{",
        "a{3,2}",
        "a{256}",
        "\\b",
        "\\1",
        "(?i)a",
        "(?P<n>a)",
        "[[:word:]]",
        "[a&&b]",
        "[z-a]",
        "[\\D]",
        "a\\",
        "***:a",
        "[a-\\d]",
        "}",
        "]",
        "()",
        "a{1}{2}",
    ] {
        assert!(regex(bad, Case::Counts).is_err(), "{bad} is refused");
    }
}

pub(crate) fn texts() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,6}", "[ -~]{0,8}", "[a-zA-Z%_'\\\\é漢\n]{0,8}"]
}

fn keys() -> impl Strategy<Value = Step> {
    prop_oneof![texts().prop_map(Step::Key), (-3..3_i32).prop_map(Step::Index)]
}

fn paths() -> impl Strategy<Value = Operand> {
    let form = prop_oneof![
        Just(Form::Raw),
        keys().prop_map(Form::Text),
        prop::collection::vec("[a-z0-9]{1,5}", 0..3)
            .prop_filter("NULL is no key", |steps| !steps.iter().any(|step| step == "null"))
            .prop_map(Form::Deep),
    ];
    let document = prop_oneof![Just(Document::Environment), Just(Document::Tags)];
    (document, prop::collection::vec(keys(), 0..3), form)
        .prop_map(|(document, steps, form)| Operand::Path(Path { document, steps, form }))
        .prop_filter("the address has a column", |path| !path.to_string().contains("publicip"))
}

fn text_values() -> impl Strategy<Value = Operand> {
    prop_oneof![Just(Operand::Column(Column::Name)), Just(Operand::Column(Column::PublicIp)), paths()]
}

fn tests() -> impl Strategy<Value = Test> {
    let comparison = prop_oneof![Just(Comparison::Equal), Just(Comparison::Less), Just(Comparison::GreaterOrEqual)];
    let case = prop_oneof![Just(Case::Counts), Just(Case::Ignored)];
    let number = (-999_999..999_999_i32).prop_map(|number| Operand::Number(f64::from(number) / 8.0));
    let shift = (any::<bool>(), 0..50_u32, 0..50_u32, 0..99_999_999_u64)
        .prop_map(|(back, months, days, seconds)| Shift { back, interval: Interval { months, days, seconds } });
    let now = prop::collection::vec(shift, 0..3).prop_map(Operand::Now);
    let pattern = texts().prop_filter_map("ends in a backslash", |text| like::with_backslashes(&text, None));
    prop_oneof![
        (text_values(), comparison.clone(), texts()).prop_map(|(left, comparison, text)| Test::Compare {
            left,
            comparison,
            right: Operand::Text(text)
        }),
        (paths(), number.clone(), number, any::<bool>()).prop_map(|(path, low, high, negated)| Test::Between {
            value: Operand::Cast(Box::new(path)),
            low,
            high,
            negated
        }),
        (now, comparison).prop_map(|(right, comparison)| Test::Compare {
            left: Operand::Column(Column::HeartbeatTime),
            comparison,
            right
        }),
        (text_values(), prop::collection::vec(texts().prop_map(Operand::Text), 1..4), any::<bool>())
            .prop_map(|(value, list, negated)| Test::In { value, list, negated }),
        (text_values(), any::<bool>()).prop_map(|(value, negated)| Test::IsNull { value, negated }),
        (text_values(), pattern, case, any::<bool>()).prop_map(|(value, pattern, case, negated)| Test::Like {
            value,
            pattern,
            case,
            negated
        }),
        (1..99_u64, any::<bool>(), any::<bool>()).prop_map(|(action, found, negated)| Test::Found {
            action,
            found,
            negated
        }),
    ]
}

fn targets() -> impl Strategy<Value = Target> {
    let leaf = prop_oneof![any::<bool>().prop_map(Target::Literal), tests().prop_map(Target::Test)];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Target::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Target::Or),
            inner.prop_map(|part| Target::Not(Box::new(part))),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_parses_to_the_same_tree(target in targets()) {
        let text = target.to_string();
        let again = parse::parse(&text, usize::MAX);
        prop_assert_eq!(again.as_ref(), Ok(&target), "{}", text);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[ -~é\n]{0,80}") {
        if let Ok(target) = Target::parse(&text) {
            prop_assert_eq!(parse::parse(&target.to_string(), usize::MAX), Ok(target));
        }
    }

    #[test]
    fn a_machine_never_contradicts_the_server(target in targets()) {
        let (fleet, own) = (row(), OwnRow { id: own().id, tags: row().tags, endpoint: Endpoint {
            name: row().name, environment: row().environment, ..own().endpoint } });
        let (server, machine) = (target.evaluate(&fleet, NOW), target.evaluate(&own, NOW));
        prop_assert!(machine.may_hold || !server.may_hold, "{}", target);
        prop_assert!(machine.may_fail || !server.may_fail, "{}", target);
        // A start that was not told is the one thing that a machine may lack and that is not the server's.
        let own = OwnRow { endpoint: Endpoint { started: Some(row().started), ..own.endpoint }, ..own };
        let machine = target.evaluate(&own, NOW).verdict();
        prop_assert!(machine != Verdict::MayMatch || !target.open_questions().is_empty(), "{}", target);
    }
}
