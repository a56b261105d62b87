//! Targets made by chance, from values that the fleet of the comparisons has and from such as it almost has.

use super::{MINUTE, TARGETS};
use crate::stage::at;
use muster_core::target::{
    Case, Column, Comparison, Document, Form, Interval, Operand, Path, Shift, Step, Target, Test,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

fn texts() -> impl Strategy<Value = String> {
    let seen = vec![
        "web1.example.org",
        "WEB2.example.org",
        "db_1",
        "été",
        "É",
        "O'Brien",
        "a\\b",
        "x\ny",
        "linux",
        "darwin",
        "amd64",
        "true",
        "false",
        "IT",
        "3",
        "12",
        "007",
        "",
        "10.0.0.1",
        "it's",
        "online",
        "idle",
        "offline",
        "[]",
        "d",
        "web",
        "0000000000000003",
        "000000000000000C",
        "000000000000000c",
    ];
    prop_oneof![6 => prop::sample::select(seen).prop_map(str::to_owned), 1 => "[a-z%_'\\\\é\"]{0,4}"]
}

fn steps() -> impl Strategy<Value = Step> {
    let keys = vec![
        "os",
        "arch",
        "ident",
        "addresses",
        "isproxied",
        "proxy",
        "operator",
        "size",
        "été",
        "quote",
        "linux",
        "x'",
    ];
    prop_oneof![
        4 => prop::sample::select(keys).prop_map(|key| Step::Key(key.to_owned())),
        1 => (-3..3_i32).prop_map(Step::Index)
    ]
}

fn paths() -> impl Strategy<Value = Operand> {
    let deep = vec!["os", "addresses", "0", "1", "-1", "isproxied", "operator", "size", "été"];
    let form = prop_oneof![
        4 => steps().prop_map(Form::Text),
        1 => Just(Form::Raw),
        2 => prop::collection::vec(prop::sample::select(deep).prop_map(str::to_owned), 0..3).prop_map(Form::Deep),
    ];
    let document = prop_oneof![Just(Document::Environment), Just(Document::Tags)];
    (document, prop::collection::vec(steps(), 0..2), form)
        .prop_map(|(document, steps, form)| Operand::Path(Path { document, steps, form }))
}

fn text_values() -> impl Strategy<Value = Operand> {
    let columns = vec![
        Column::AgentId,
        Column::Name,
        Column::QueueLoc,
        Column::Mode,
        Column::Version,
        Column::Status,
        Column::LoaderName,
        Column::PublicIp,
    ];
    prop_oneof![prop::sample::select(columns).prop_map(Operand::Column), paths()]
}

fn comparisons() -> impl Strategy<Value = Comparison> {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    prop::sample::select(vec![Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual])
}

/// Comparisons of numbers and of times.
fn measured() -> impl Strategy<Value = Test> {
    let numbers = prop_oneof![
        prop::sample::select(vec![Column::Id, Column::Pid]).prop_map(Operand::Column),
        paths().prop_map(|path| Operand::Cast(Box::new(path))),
    ];
    let number = || prop_oneof![(-4..40_i32).prop_map(f64::from), (-8..8_i32).prop_map(|n| f64::from(n) / 4.0)];
    let times = vec![Column::StartTime, Column::DestructionTime, Column::HeartbeatTime, Column::RefreshTime];
    let shift = (any::<bool>(), 0..3_u32, 0..4_u32, 0..20_000_u64)
        .prop_map(|(back, months, days, seconds)| Shift { back, interval: Interval { months, days, seconds } });
    let time = prop_oneof![
        prop::collection::vec(shift, 0..3).prop_map(Operand::Now),
        (0..100_i64).prop_map(|n| Operand::Moment(at(n * MINUTE))),
    ];
    prop_oneof![
        (numbers, comparisons(), number(), number(), 0..3_u8, any::<bool>()).prop_map(
            |(value, comparison, low, high, form, negated)| {
                let (low, high) = (Operand::Number(low), Operand::Number(high));
                match form {
                    0 => Test::Compare { left: value, comparison, right: low },
                    1 => Test::Between { value, low, high, negated },
                    _ => Test::In { value, list: vec![low, high], negated },
                }
            }
        ),
        (prop::sample::select(times), comparisons(), time).prop_map(|(column, comparison, right)| Test::Compare {
            left: Operand::Column(column),
            comparison,
            right
        }),
    ]
}

fn patterns() -> impl Strategy<Value = String> {
    let seen = vec![
        "%",
        "",
        "web%",
        "%.example.org",
        "WEB_.%",
        "db\\_1",
        "db_1",
        "db\\%1",
        "%é%",
        "É",
        "O'B%",
        "a\\\\b",
        "x_y",
        "l%x",
        "\\%",
        "%\\_%",
        "%1%",
        "_",
        "__",
    ];
    prop::sample::select(seen).prop_map(str::to_owned)
}

fn regexes() -> impl Strategy<Value = String> {
    let seen = vec![
        "^web",
        "[0-9]+",
        "é",
        "É",
        "^(?:db|web)[_%]?1",
        "\\.org$",
        "x.y",
        "^x$",
        "O'Brien",
        "\\\\",
        "\\d{1,2}",
        "^$",
        "w+",
        "[[:upper:]]",
        "[^a-z]",
        "\\s",
        "\\W",
        "a|b",
        "^.{3,5}$",
        "linux|darwin",
    ];
    prop::sample::select(seen).prop_map(str::to_owned)
}

fn tests(action: u64) -> impl Strategy<Value = Test> {
    let case = || prop_oneof![Just(Case::Counts), Just(Case::Ignored)];
    prop_oneof![
        3 => (text_values(), comparisons(), texts(), any::<bool>()).prop_map(|(value, comparison, text, turned)| {
            let text = Operand::Text(text);
            let (left, right) = if turned { (text, value) } else { (value, text) };
            Test::Compare { left, comparison, right }
        }),
        1 => (text_values(), comparisons(), text_values())
            .prop_map(|(left, comparison, right)| Test::Compare { left, comparison, right }),
        3 => measured(),
        1 => (text_values(), prop::collection::vec(texts().prop_map(Operand::Text), 1..4), any::<bool>())
            .prop_map(|(value, list, negated)| Test::In { value, list, negated }),
        1 => (text_values(), texts(), texts(), any::<bool>()).prop_map(|(value, low, high, negated)| Test::Between {
            value, low: Operand::Text(low), high: Operand::Text(high), negated,
        }),
        1 => (text_values(), any::<bool>()).prop_map(|(value, negated)| Test::IsNull { value, negated }),
        2 => (text_values(), patterns(), case(), any::<bool>())
            .prop_map(|(value, pattern, case, negated)| Test::Like { value, pattern, case, negated }),
        2 => (text_values(), regexes(), case(), any::<bool>())
            .prop_map(|(value, pattern, case, negated)| Test::Matches { value, pattern, case, negated }),
        1 => (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(move |(other, found, negated)| Test::Found {
            action: action + u64::from(other), found, negated,
        }),
    ]
}

fn targets(action: u64) -> impl Strategy<Value = Target> {
    let leaf = prop_oneof![1 => any::<bool>().prop_map(Target::Literal), 12 => tests(action).prop_map(Target::Test)];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Target::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Target::Or),
            inner.prop_map(|part| Target::Not(Box::new(part))),
        ]
    })
}

/// The same targets for both databases, so that what agrees with the evaluator agrees with each other.
pub(super) fn generated(action: u64) -> Vec<Target> {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
    let strategy = targets(action);
    (0..TARGETS).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}
