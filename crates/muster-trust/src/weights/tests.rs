//! The original's cases, by their names, and those it gets wrong.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A module, its minimum, and who brings what with which key.
type Entry<'a> = (&'a str, i64, &'a [(&'a str, char, i64)]);

fn key(digit: char) -> Fingerprint {
    digit.to_string().repeat(40).parse().unwrap()
}

fn signers(digits: &str) -> BTreeSet<Fingerprint> {
    digits.chars().map(key).collect()
}

/// `{module: (minimum, [(name, key, weight)])}` as a file.
fn acl(entries: &[Entry<'_>]) -> Acl {
    Acl::parse(text(entries).to_string().as_bytes()).unwrap()
}

fn text(entries: &[Entry<'_>]) -> Value {
    let entries = entries.iter().map(|(module, minimum, people)| {
        let people = people.iter().map(|(name, digit, weight)| {
            ((*name).to_owned(), json!({"fingerprint": digit.to_string().repeat(40), "weight": weight}))
        });
        let people: serde_json::Map<_, _> = people.collect();
        ((*module).to_owned(), json!({"minimumweight": minimum, "investigators": people}))
    });
    Value::Object(entries.collect())
}

fn permitted(acl: &Acl, modules: &[&str], by: &str) -> bool {
    acl.permit(modules.iter().map(|module| (*module, 1)), &signers(by)).is_ok()
}

const KELSO_AND_SMITH: &[(&str, char, i64)] = &[("Kelso", 'A', 2), ("Smith", 'B', 1)];

#[test]
fn the_documented_arithmetic_holds() {
    let acl = acl(&[("file", 2, KELSO_AND_SMITH)]);
    assert!(permitted(&acl, &["file"], "A"));
    assert!(!permitted(&acl, &["file"], "B"));
    assert!(permitted(&acl, &["file"], "AB"));
}

#[test]
fn the_nine_cases_of_the_originals_acl_test() {
    let alone: &[(&str, char, i64)] = &[("Kelso", 'A', 1)];
    let three: &[(&str, char, i64)] = &[("a", 'A', 1), ("b", 'B', 1), ("c", 'C', 1)];
    for (case, acl, by, want) in [
        ("valid single", acl(&[("file", 1, alone)]), "A", true),
        ("valid via default", acl(&[("default", 1, alone)]), "A", true),
        ("three investigators, one signs", acl(&[("file", 1, three)]), "B", true),
        ("three listed, two sign, minimum 2", acl(&[("file", 2, three)]), "BC", true),
        ("minimum 2, one known and one unknown", acl(&[("file", 2, three)]), "BF", false),
        ("signer not listed", acl(&[("file", 1, alone)]), "F", false),
        ("neither entry nor default", acl(&[("netstat", 1, alone)]), "A", false),
        ("weight 1 against minimum 2", acl(&[("file", 2, alone)]), "A", false),
        ("zero fingerprints", acl(&[("file", 1, alone)]), "", false),
    ] {
        assert_eq!(permitted(&acl, &["file"], by), want, "{case}");
    }
}

#[test]
fn every_operation_must_pass() {
    let one = acl(&[("file", 1, &[("Kelso", 'A', 1)])]);
    assert!(!permitted(&one, &["file", "netstat"], "A"));
    assert!(!permitted(&one, &["netstat", "file"], "A"));
    let both = acl(&[("file", 1, &[("Kelso", 'A', 1)]), ("netstat", 1, &[("Kelso", 'A', 1)])]);
    assert!(permitted(&both, &["file", "netstat"], "A"));
}

#[test]
fn an_entry_of_its_own_goes_before_the_default() {
    let acl = acl(&[("default", 1, &[("Kelso", 'A', 1)]), ("file", 2, &[("Kelso", 'A', 1)])]);
    assert!(!permitted(&acl, &["file"], "A"));
    assert!(permitted(&acl, &["netstat"], "A"));
}

#[test]
fn a_modules_own_demand_holds_under_the_default_and_yields_to_an_entry() {
    let acl = acl(&[("default", 1, KELSO_AND_SMITH), ("file", 1, KELSO_AND_SMITH)]);
    let need = |module, declared| acl.assess([(module, declared)], &signers("B"))[0].need;
    assert_eq!(need("agentdestroy", 3), Some(3));
    assert_eq!(need("agentdestroy", 0), Some(1));
    assert_eq!(need("file", 3), Some(1));
}

#[test]
fn refusals_say_what_is_missing_in_the_originals_words() {
    let acl = acl(&[("file", 2, KELSO_AND_SMITH)]);
    let error = |module, by| acl.permit([(module, 1)], &signers(by)).unwrap_err().to_string();
    assert_eq!(
        error("file", "B"),
        "permission denied for operation file, insufficient signatures weight (need 2, got 1)"
    );
    assert!(error("ping", "B").contains("operation ping, the module is not in the ACL"));
    assert_eq!(error("file", ""), "permission denied, no valid signature");
}

#[test]
fn nothing_is_permitted_by_an_empty_list() {
    assert!(!permitted(&Acl::default(), &["file"], "A"));
    assert!(!permitted(&Acl::parse(b"{}").unwrap(), &["file"], "A"));
    let nobody = Acl::parse(br#"{"default":{"minimumweight":1}}"#).unwrap();
    assert!(!permitted(&nobody, &["file"], "A"));
    assert_eq!(nobody, Acl::parse(br#"{"default":{"minimumweight":1,"investigators":null}}"#).unwrap());
}

#[test]
fn a_demand_of_nothing_is_never_met() {
    let passes = |need, have| Assessment { module: "file".into(), need, have }.passes();
    assert!(passes(Some(2), 2) && !passes(Some(2), 1));
    assert!(!passes(Some(0), 0) && !passes(Some(0), 5) && !passes(None, 5));
}

#[test]
fn one_person_with_two_keys_counts_once() {
    let json = json!({"file": {"minimumweight": 2, "investigators": {
        "Kelso": {"fingerprint": "A".repeat(40), "fingerprints": ["b".repeat(40)], "weight": 1},
        "Smith": {"fingerprint": "C".repeat(40), "weight": 1},
    }}});
    let acl = Acl::parse(json.to_string().as_bytes()).unwrap();
    assert!(!permitted(&acl, &["file"], "AB"));
    assert!(permitted(&acl, &["file"], "BC"));
    assert_eq!(Acl::parse(acl.to_json().as_bytes()), Ok(acl));
}

#[test]
fn a_key_under_two_names_is_refused_in_every_spelling() {
    for spelling in ["A".repeat(40), "a".repeat(40), format!("0x{}", "a".repeat(40)), ["AAAA"; 10].join(" ")] {
        let json = json!({"file": {"minimumweight": 2, "investigators": {
            "Kelso": {"fingerprint": "A".repeat(40), "weight": 1},
            "also Kelso": {"fingerprint": spelling, "weight": 1},
        }}});
        let error = Acl::parse(json.to_string().as_bytes());
        assert_eq!(error, Err(AclError::KeyTwice { module: "file".to_owned(), fingerprint: key('A') }));
    }
}

#[test]
fn weights_outside_their_range_are_refused() {
    for weight in [-1, 0, 1_000_001, i64::from(i32::MAX) + 1, i64::MIN] {
        let people = |weight| text(&[("file", 1, &[("Kelso", 'A', weight)])]);
        let error = Acl::parse(people(weight).to_string().as_bytes());
        let want = AclError::Weight { module: "file".to_owned(), what: "Kelso".to_owned(), have: weight };
        // A double holds the last one too.
        assert_eq!(error.map_err(|error| matches!(&error, AclError::Json(_)) || error == want), Err(true), "{weight}");
        let error = Acl::parse(text(&[("file", weight, &[])]).to_string().as_bytes());
        assert!(error.is_err(), "{weight}");
    }
    assert!(Acl::parse(text(&[("file", 1_000_000, &[("Kelso", 'A', 1_000_000)])]).to_string().as_bytes()).is_ok());
    // Weights that would overflow 32 bits together do not.
    let many: Vec<String> =
        (0..5000).map(|at| format!(r#""{at}":{{"fingerprint":"{at:040x}","weight":1000000}}"#)).collect();
    let acl =
        Acl::parse(format!(r#"{{"file":{{"minimumweight":1,"investigators":{{{}}}}}}}"#, many.join(",")).as_bytes());
    let all = (0..5000).map(|at| format!("{at:040x}").parse().unwrap()).collect();
    assert_eq!(acl.unwrap().assess([("file", 1)], &all)[0].have, 5_000_000_000);
}

#[test]
fn what_is_no_list_is_refused() {
    for (json, part) in [
        ("", "no value begins here"),
        ("[]", "invalid type"),
        (r#"{"file":{"investigators":{}}}"#, "minimumweight"),
        (r#"{"file":{"minimumweight":1.5}}"#, "floating point"),
        (r#"{"file":{"minimumweight":1,"minimumweigth":2}}"#, "minimumweigth"),
        (r#"{"file":{"minimumweight":1},"file":{"minimumweight":2}}"#, "stands twice"),
        (r#"{"file":{"minimumweight":1,"investigators":{"a":{"weight":1}}}}"#, "no usable key: there is none"),
        (r#"{"file":{"minimumweight":1,"investigators":{"a":{"weight":1,"fingerprint":"AB"}}}}"#, "no usable key"),
    ] {
        let error = Acl::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{json}: {error}");
    }
    assert!(Acl::parse(b"\xff").is_err());
    let long = vec![b' '; muster_core::limits::TRUST_DOCUMENT_BYTES_MAX + 1];
    assert_eq!(Acl::parse(&long), Err(AclError::TooLong { have: long.len() }));
    let full = [b"{}".to_vec(), long[3..].to_vec()].concat();
    assert!(Acl::parse(&full).is_ok());
}

#[test]
fn the_tables_of_the_server_make_one_list_for_each_agent() {
    let requirement = |module: &str, minimum_weight| Requirement { module: module.to_owned(), minimum_weight };
    let grant = |module: &str, who: &str, digit, weight| Grant {
        module: module.to_owned(),
        investigator: who.to_owned(),
        fingerprint: key(digit),
        weight,
    };
    let list = acl_of(
        &[requirement("file", 2), requirement("file", 1)],
        &[
            grant("file", "Kelso", 'A', 2),
            grant("file", "Smith", 'B', 2),
            grant("file", "Smith", 'C', 1),
            grant("file", "Smith", 'C', 1),
            grant("ping", "Kelso", 'A', 9),
        ],
    );
    let list = list.unwrap();
    assert_eq!(
        list,
        acl_of(
            &[requirement("file", 1), requirement("file", 2)],
            &[grant("file", "Smith", 'B', 1), grant("file", "Smith", 'C', 2), grant("file", "Kelso", 'A', 2),]
        )
        .unwrap()
    );
    assert!(permitted(&list, &["file"], "A"));
    assert!(!permitted(&list, &["file"], "BC"), "one person, two keys, the smaller weight");
    assert!(!permitted(&list, &["ping"], "A"), "a grant without a requirement");
    let shared = acl_of(&[requirement("file", 2)], &[grant("file", "a", 'A', 1), grant("file", "b", 'A', 1)]);
    assert!(matches!(shared, Err(AclError::KeyTwice { .. })));
    assert!(acl_of(&[requirement("file", 0)], &[]).is_err());
}

proptest! {
    #[test]
    fn more_signers_never_weigh_less_and_strangers_nothing(
        weights in prop::collection::vec(1_i64..5, 1..6),
        minimum in 1_i64..12,
        who in prop::collection::btree_set(0_usize..10, 0..10),
    ) {
        let digits: Vec<char> = "ABCDEF0123".chars().collect();
        let names: Vec<String> = digits.iter().map(char::to_string).collect();
        let people: Vec<_> = weights.iter().zip(&digits).zip(&names).map(|((w, d), n)| (n.as_str(), *d, *w)).collect();
        let acl = acl(&[("file", minimum, &people)]);
        let by: BTreeSet<_> = who.iter().map(|at| key(digits[*at])).collect();
        let want: i64 = weights.iter().enumerate().filter(|(at, _)| who.contains(at)).map(|(_, weight)| *weight).sum();
        let assessment = &acl.assess([("file", 1)], &by)[0];
        prop_assert_eq!(i64::try_from(assessment.have).unwrap(), want);
        prop_assert_eq!(assessment.passes(), want >= minimum);
        prop_assert_eq!(acl.permit([("file", 1)], &by).is_ok(), want >= minimum);
    }
}
