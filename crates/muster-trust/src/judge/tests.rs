//! Every refusal beside what is accepted, and what a deliverer may try.

use super::*;
use crate::testing::{Person, at, keyring};
use muster_core::action::Json;
use proptest::prelude::*;
use serde_json::json;
use std::cell::Cell;
use std::sync::LazyLock;

/// Two people, and a stranger: keys are costly to make.
static KELSO: LazyLock<Person> = LazyLock::new(Person::new);
static SMITH: LazyLock<Person> = LazyLock::new(Person::with_subkey);
static STRANGER: LazyLock<Person> = LazyLock::new(Person::new);
static RING: LazyLock<Keyring> = LazyLock::new(|| keyring(&[&KELSO, &SMITH]));
/// Kelso brings 2, Smith 1; `file` takes 2, `ping` 1, everything else is denied.
static ACL: LazyLock<Acl> = LazyLock::new(|| {
    let people = json!({
        "Kelso": {"fingerprint": KELSO.fingerprint(), "weight": 2},
        "Smith": {"fingerprint": SMITH.fingerprint(), "weight": 1},
    });
    let list = json!({
        "file": {"minimumweight": 2, "investigators": people},
        "ping": {"minimumweight": 1, "investigators": people},
    });
    Acl::parse(list.to_string().as_bytes()).unwrap()
});

const NOW: i64 = 2000;

/// An order that is valid from 1000 to 3000 seconds after keys were made.
fn order() -> Action {
    let operations = r#"[{"module":"file","parameters":{"b":1.0,"a":[]}}]"#;
    let (from, to) = (at(1000), at(3000));
    let json = format!(
        r#"{{"name":"find it","target":"status='online'","validfrom":"{from}","expireafter":"{to}",
            "operations":{operations},"syntaxversion":2,"description":{{"author":"x"}}}}"#
    );
    Action::parse(json.as_bytes()).unwrap()
}

fn signed_by(mut action: Action, people: &[&Person]) -> Vec<u8> {
    let text = signed_text(&action).unwrap();
    action.pgp_signatures = people.iter().map(|person| person.sign(text.as_bytes(), 1500)).collect();
    serde_json::to_vec(&action).unwrap()
}

fn never(_: &LedgerKey) -> Seen {
    Seen::Never { since: None }
}

fn everyone(_: &str) -> TargetMatch {
    TargetMatch::Matches
}

fn known(name: &str) -> Option<Module> {
    ["file", "ping"].contains(&name).then_some(Module { minimum_weight: 1, changes: false })
}

fn world() -> World<'static> {
    World {
        now: at(NOW),
        floor: Timestamp::EPOCH,
        window_max: limits::ACTION_WINDOW_MAX,
        trust_expires: None,
        keyring: &RING,
        authority: Authority::Weights(&ACL),
        ledger: &never,
        target: &everyone,
        module: &known,
    }
}

fn code(json: &[u8], world: &World<'_>) -> Result<(), RefusalCode> {
    judge(json, world).map(|_| ()).map_err(|refusal| refusal.code)
}

#[test]
fn a_good_order_is_accepted_as_it_was_signed() {
    let accepted = judge(&signed_by(order(), &[&KELSO]), &world()).unwrap();
    assert_eq!(accepted.parameters, [r#"{"a":[],"b":1}"#]);
    assert_eq!(accepted.key, LedgerKey::of(&signed_text(&order()).unwrap()));
    assert_eq!(accepted.signers.len(), 1);
    assert_eq!(accepted.signers[0].signer, KELSO.fingerprint());
    assert_eq!(accepted.floor, at(1500), "the signature's time is past");
    assert_eq!(accepted.action.name, "find it");
}

#[test]
fn two_people_reach_together_what_one_does_not() {
    let action = order();
    let refusal = judge(&signed_by(action.clone(), &[&SMITH]), &world()).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Weight);
    assert_eq!(
        refusal.to_string(),
        "permission denied for operation file, insufficient signatures weight (need 2, got 1)"
    );
    assert_eq!(code(&signed_by(action, &[&SMITH, &KELSO]), &world()), Ok(()));
}

#[test]
fn no_key_counts_twice() {
    let mut action = order();
    let text = signed_text(&action).unwrap();
    let by_primary = SMITH.sign(text.as_bytes(), 1500);
    let later = SMITH.sign(text.as_bytes(), 1501);
    let by_subkey = SMITH.sign_as(1, text.as_bytes(), 1500, |builder| builder);
    for signatures in
        [vec![by_primary.clone(), by_primary.clone()], vec![by_primary.clone(), later], vec![by_primary, by_subkey]]
    {
        action.pgp_signatures = signatures;
        assert_eq!(code(&serde_json::to_vec(&action).unwrap(), &world()), Err(RefusalCode::Weight));
        let any = World { authority: Authority::AnyKey, ..world() };
        assert_eq!(judge(&serde_json::to_vec(&action).unwrap(), &any).unwrap().signers.len(), 1);
    }
}

#[test]
fn one_bad_signature_spoils_the_order() {
    let mut action = order();
    action.pgp_signatures = Action::parse(&signed_by(order(), &[&KELSO, &STRANGER])).unwrap().pgp_signatures;
    let refusal = judge(&serde_json::to_vec(&action).unwrap(), &world()).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::KeyUnknown);
    assert_eq!(refusal.to_string(), "signature 2: the signature is by a key that is not in the keyring");
}

#[test]
fn the_originals_cases_of_orders() {
    // A key outside of the keyring; with the key, the list still says no; a list with one of two modules; nobody.
    let any = World { authority: Authority::AnyKey, ..world() };
    let nobody = Keyring::default();
    assert_eq!(code(&signed_by(order(), &[&STRANGER]), &any), Err(RefusalCode::KeyUnknown));
    let with_stranger = keyring(&[&KELSO, &SMITH, &STRANGER]);
    assert_eq!(code(&signed_by(order(), &[&STRANGER]), &World { keyring: &with_stranger, ..any }), Ok(()));
    let listed = World { keyring: &with_stranger, ..world() };
    assert_eq!(code(&signed_by(order(), &[&STRANGER]), &listed), Err(RefusalCode::Weight));
    let mut two = order();
    two.operations.push(two.operations[0].clone());
    two.operations[1].module = "ping".to_owned();
    assert_eq!(code(&signed_by(two.clone(), &[&KELSO]), &world()), Ok(()));
    assert_eq!(code(&signed_by(two.clone(), &[&SMITH]), &world()), Err(RefusalCode::Weight));
    two.operations.swap(0, 1);
    assert_eq!(code(&signed_by(two, &[&SMITH]), &world()), Err(RefusalCode::Weight));
    for world in [world(), any] {
        assert_eq!(code(&signed_by(order(), &[]), &world), Err(RefusalCode::Invalid));
        assert_eq!(
            code(&signed_by(order(), &[&KELSO]), &World { keyring: &nobody, ..world }),
            Err(RefusalCode::KeyUnknown)
        );
    }
    let empty = Acl::default();
    let denied = World { authority: Authority::Weights(&empty), ..world() };
    assert_eq!(code(&signed_by(order(), &[&KELSO]), &denied), Err(RefusalCode::Weight));
}

#[test]
fn an_order_outside_of_its_window_is_refused() {
    let json = signed_by(order(), &[&KELSO]);
    for (now, want) in [
        (999, Err(RefusalCode::NotYetValid)),
        (1000, Err(RefusalCode::SignatureFuture)),
        (1200, Ok(())),
        (3000, Ok(())),
        (3001, Err(RefusalCode::Expired)),
    ] {
        assert_eq!(code(&json, &World { now: at(now), ..world() }), want, "{now}");
    }
    // The second in which it ends is signed, a fraction behind it is not: whoever delivers it may write what they like.
    let half = Duration::from_millis(500);
    let text = String::from_utf8(json.clone()).unwrap();
    let (from, to) = (at(1000).to_string(), at(3000).to_string());
    let stretched =
        text.replace(&to, &to.replace('Z', ".999999999Z")).replace(&from, &from.replace('Z', ".999999999Z"));
    assert_ne!(stretched, text);
    assert_eq!(code(stretched.as_bytes(), &World { now: at(3000), ..world() }), Ok(()));
    assert_eq!(code(stretched.as_bytes(), &World { now: at(3000).plus(half), ..world() }), Err(RefusalCode::Expired));
    assert_eq!(code(&json, &World { now: at(3000).plus(half), ..world() }), Err(RefusalCode::Expired));
    assert_eq!(code(&json, &World { now: at(1000).minus(half), ..world() }), Err(RefusalCode::NotYetValid));
    let narrow = World { window_max: Duration::from_secs(1999), ..world() };
    assert_eq!(code(&json, &narrow), Err(RefusalCode::WindowTooLong));
    let narrow = World { window_max: Duration::from_secs(2000), ..world() };
    assert_eq!(code(&json, &narrow), Ok(()));
    // Seven days unless told, and dates that stand for never.
    let mut long = order();
    long.expire_after = long.valid_from.plus(Duration::from_secs(7 * 86_400));
    assert_eq!(code(&signed_by(long.clone(), &[&KELSO]), &world()), Ok(()));
    long.expire_after = long.expire_after.plus(Duration::from_secs(1));
    assert_eq!(code(&signed_by(long, &[&KELSO]), &world()), Err(RefusalCode::WindowTooLong));
    let json = String::from_utf8(json).unwrap();
    let (from, to) = (at(1000).to_string(), at(3000).to_string());
    for (old, new, want) in [
        (&to, "9998-01-11T11:11:11.000000011Z", RefusalCode::WindowTooLong),
        (&to, "0000-01-01T00:00:00Z", RefusalCode::Invalid),
        (&to, "2026-12-31T23:59:60Z", RefusalCode::Malformed),
        (&from, "9998-01-11T11:11:11Z", RefusalCode::Invalid),
    ] {
        assert_eq!(code(json.replace(old, new).as_bytes(), &world()), Err(want), "{new}");
    }
}

#[test]
fn a_clock_that_was_set_back_brings_nothing_to_life() {
    let json = signed_by(order(), &[&KELSO]);
    let floor = |now, floor| code(&json, &World { now: at(now), floor: at(floor), ..world() });
    assert_eq!(floor(2000, 2600), Ok(()), "ten minutes behind");
    assert_eq!(floor(2000, 2601), Err(RefusalCode::ClockBehind));
    assert_eq!(floor(2900, 3001), Err(RefusalCode::Expired), "by the floor, which is nearer to the truth");
    assert_eq!(floor(999, 1200), Ok(()));
}

#[test]
fn case_20_a_refusal_for_the_clock_says_by_how_much_and_what_to_do() {
    let json = signed_by(order(), &[&KELSO]);
    let text = |now, floor| judge(&json, &World { now: at(now), floor: at(floor), ..world() }).unwrap_err().text;
    let behind = text(2000, 2000 + 3 * 86_400);
    assert!(behind.contains("at least 3 days behind") && behind.contains("muster-agent clock reset"), "{behind}");
    let clock = at(3000 + 7200).to_string();
    let expired = text(3000 + 7200, 0);
    assert!(expired.contains("2 h ago") && expired.contains(&clock), "{expired}");
    let early = text(700, 0);
    assert!(early.contains("in 5 min") && early.contains(&at(700).to_string()), "{early}");
}

#[test]
fn the_floor_rises_to_what_was_signed() {
    let json = signed_by(order(), &[&KELSO]);
    let floor = |now, floor| judge(&json, &World { now: at(now), floor: at(floor), ..world() }).unwrap().floor;
    assert_eq!(floor(2000, 0), at(1500));
    assert_eq!(floor(2000, 1800), at(1500), "what the floor was the ledger knows");
    assert_eq!(floor(1500, 0), at(1500));
    assert_eq!(floor(1499, 0), Timestamp::EPOCH, "the signer's clock runs ahead");
}

#[test]
fn expired_trust_permits_nothing() {
    let json = signed_by(order(), &[&KELSO]);
    let until = |secs| code(&json, &World { trust_expires: Some(at(secs)), ..world() });
    assert_eq!(until(NOW), Ok(()));
    assert_eq!(until(NOW - 1), Err(RefusalCode::TrustExpired));
}

#[test]
fn what_was_run_is_not_run_again() {
    let json = signed_by(order(), &[&KELSO]);
    for (seen, want) in [
        (Seen::Never { since: None }, Ok(())),
        (Seen::Never { since: Some(at(1000)) }, Ok(())),
        (Seen::Never { since: Some(at(1001)) }, Err(RefusalCode::BeforeLedger)),
        (Seen::Started, Err(RefusalCode::AlreadyRun)),
        (Seen::Finished, Err(RefusalCode::AlreadyRun)),
        (Seen::Cancelled, Err(RefusalCode::Cancelled)),
        (Seen::Unreadable, Err(RefusalCode::LedgerUnreadable)),
    ] {
        assert_eq!(code(&json, &World { ledger: &|_| seen, ..world() }), want, "{seen:?}");
    }
}

#[test]
fn dressing_an_order_up_does_not_make_it_another() {
    let key = judge(&signed_by(order(), &[&KELSO]), &world()).unwrap().key;
    let mut other = order();
    other.id = Some(muster_core::ActionId::new(77).unwrap());
    other.description.author = "somebody else".to_owned();
    other.threat.family = "compliance".to_owned();
    other.operations[0].parameters = Json::parse(r#"{ "a" : [ ], "b" : 1e0 }"#.to_owned()).unwrap();
    other.valid_from = other.valid_from.plus(Duration::from_nanos(1));
    assert_eq!(judge(&signed_by(other.clone(), &[&SMITH, &KELSO]), &world()).unwrap().key, key);
    other.operations[0].want_compressed = true;
    assert_ne!(judge(&signed_by(other, &[&KELSO]), &world()).unwrap().key, key);
}

#[test]
fn an_order_for_others_is_not_run_here() {
    let json = signed_by(order(), &[&KELSO]);
    let asked = Cell::new(String::new());
    let answer = |answer: TargetMatch| {
        let target = |text: &str| {
            asked.set(text.to_owned());
            answer.clone()
        };
        code(&json, &World { target: &target, ..world() })
    };
    assert_eq!(answer(TargetMatch::Other), Err(RefusalCode::NotForThisAgent));
    assert_eq!(answer(TargetMatch::Invalid("no".to_owned())), Err(RefusalCode::TargetInvalid));
    assert_eq!(answer(TargetMatch::Matches), Ok(()));
    assert_eq!(asked.take(), "status='online'", "what was signed is what is asked");
}

#[test]
fn what_changes_a_machine_runs_only_where_the_machine_knows_that_it_is_meant() {
    let open = |_: &str| TargetMatch::Open(vec!["id = 7".to_owned()]);
    let json = signed_by(order(), &[&KELSO]);
    let with = |module: &dyn Fn(&str) -> Option<Module>| judge(&json, &World { target: &open, module, ..world() });
    assert!(with(&|_| Some(Module { minimum_weight: 1, changes: false })).is_ok(), "a question may be asked anywhere");
    let refusal = with(&|_| Some(Module { minimum_weight: 1, changes: true })).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::TargetUndecidable);
    assert!(refusal.text.contains("(id = 7)") && refusal.text.contains("agentid = "), "{refusal}");
    // One operation of several is enough.
    let mut two = order();
    two.operations.insert(0, two.operations[0].clone());
    two.operations[0].module = "ping".to_owned();
    let json = signed_by(two, &[&KELSO]);
    let module = |name: &str| Some(Module { minimum_weight: 1, changes: name == "file" });
    assert_eq!(code(&json, &World { target: &open, module: &module, ..world() }), Err(RefusalCode::TargetUndecidable));
    assert_eq!(code(&json, &World { module: &module, ..world() }), Ok(()), "where it matches, it runs");
}

#[test]
fn an_order_of_unknown_modules_alone_is_refused_before_anything_is_verified() {
    let mut action = order();
    for operation in &mut action.operations {
        operation.module = "connected".to_owned();
    }
    let refusal = judge(&signed_by(action, &[&STRANGER]), &world()).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::UnknownModule);
    assert_eq!(refusal.to_string(), "there is no module \"connected\" on this machine");
}

#[test]
fn case_15_a_module_that_is_gone_does_not_take_the_others_along() {
    let mut action = order();
    action.operations.push(action.operations[0].clone());
    action.operations[1].module = "connected".to_owned();
    let known = action.operations[0].module.clone();
    let module = |name: &str| (name == known).then_some(Module { minimum_weight: 1, changes: false });
    // No entry of the list is for the module that is gone: it is not run, so it needs none.
    let list = json!({&known: {"minimumweight": 1, "investigators": {"K": {"fingerprint": KELSO.fingerprint(), "weight": 1}}}});
    let acl = Acl::parse(list.to_string().as_bytes()).unwrap();
    let world = World { module: &module, authority: Authority::Weights(&acl), ..world() };
    let accepted = judge(&signed_by(action.clone(), &[&KELSO]), &world).unwrap();
    assert_eq!((accepted.action.operations.len(), accepted.parameters.len()), (2, 2));
    assert_eq!(code(&signed_by(action, &[&STRANGER]), &world), Err(RefusalCode::KeyUnknown));
}

#[test]
fn what_a_module_demands_counts_under_the_default() {
    let list = json!({"default": {"minimumweight": 1, "investigators": {"K": {"fingerprint": KELSO.fingerprint(), "weight": 2}}}});
    let acl = Acl::parse(list.to_string().as_bytes()).unwrap();
    let json = signed_by(order(), &[&KELSO]);
    let demands = |minimum_weight| {
        let module = |_: &str| Some(Module { minimum_weight, changes: false });
        code(&json, &World { authority: Authority::Weights(&acl), module: &module, ..world() })
    };
    assert_eq!(demands(2), Ok(()));
    assert_eq!(demands(3), Err(RefusalCode::Weight));
}

#[test]
fn malformed_orders_have_codes_of_their_own() {
    let json = |changes: fn(&mut Action)| {
        let mut action = order();
        changes(&mut action);
        signed_by(action, &[&KELSO])
    };
    let cases: &[(Vec<u8>, RefusalCode)] = &[
        (vec![b' '; limits::ACTION_BYTES_MAX + 1], RefusalCode::TooLarge),
        (b"{".to_vec(), RefusalCode::Malformed),
        ("[".repeat(1000).into_bytes(), RefusalCode::Malformed),
        (json(|action| action.name.clear()), RefusalCode::Invalid),
        (json(|action| action.syntax_version = 1), RefusalCode::Invalid),
        (json(|action| action.operations.clear()), RefusalCode::Invalid),
        (json(|action| action.operations = vec![action.operations[0].clone(); 65]), RefusalCode::Invalid),
        (json(|action| action.name = "a;target=b".to_owned()), RefusalCode::Ambiguous),
        (json(|action| action.target = "a;validfrom=1".to_owned()), RefusalCode::Ambiguous),
    ];
    for (json, want) in cases {
        assert_eq!(code(json, &world()), Err(*want), "{:.80}", String::from_utf8_lossy(json));
    }
    let mut twice = order();
    twice.pgp_signatures = vec!["x".to_owned()];
    twice.operations[0].parameters = Json::parse(r#"{"a":1,"a":2}"#.to_owned()).unwrap();
    assert_eq!(code(&serde_json::to_vec(&twice).unwrap(), &world()), Err(RefusalCode::Parameters));
}

#[test]
fn cheap_questions_come_first() {
    // An order with every fault at once; each fault that is mended brings the next refusal to light.
    let verified = Cell::new(false);
    let ledger = |_: &LedgerKey| {
        verified.set(true);
        Seen::Finished
    };
    let mut action = order();
    action.operations[0].module = "nothing".to_owned();
    let json = signed_by(action, &[&STRANGER]);
    let other = |_: &str| TargetMatch::Other;
    let mut world = World {
        floor: at(3000),
        trust_expires: Some(at(0)),
        window_max: Duration::ZERO,
        ledger: &ledger,
        target: &other,
        ..world()
    };
    assert_eq!(code(&json, &world), Err(RefusalCode::ClockBehind));
    world.floor = at(0);
    assert_eq!(code(&json, &world), Err(RefusalCode::TrustExpired));
    world.trust_expires = None;
    assert_eq!(code(&json, &world), Err(RefusalCode::WindowTooLong));
    assert!(!verified.get(), "the ledger was asked too early");
    world.window_max = limits::ACTION_WINDOW_MAX;
    assert_eq!(code(&json, &world), Err(RefusalCode::AlreadyRun));
    world.ledger = &never;
    assert_eq!(code(&json, &world), Err(RefusalCode::NotForThisAgent));
    world.target = &everyone;
    assert_eq!(code(&json, &world), Err(RefusalCode::UnknownModule));
    world.module = &|_| Some(Module { minimum_weight: 1, changes: false });
    assert_eq!(code(&json, &world), Err(RefusalCode::KeyUnknown));
    let keyring = keyring(&[&STRANGER]);
    world.keyring = &keyring;
    assert_eq!(code(&json, &world), Err(RefusalCode::Weight));
    world.authority = Authority::AnyKey;
    assert_eq!(code(&json, &world), Ok(()));
}

#[test]
fn no_tampered_byte_changes_what_runs() {
    let json = signed_by(order(), &[&KELSO]);
    let good = judge(&json, &world()).unwrap();
    let mut accepted = 0;
    for place in 0..json.len() {
        let mut bad = json.clone();
        bad[place] ^= 1;
        // What is not signed may change: it neither runs nor names the order.
        if let Ok(other) = judge(&bad, &world()) {
            accepted += 1;
            assert_eq!((&other.key, &other.parameters, &other.signers), (&good.key, &good.parameters, &good.signers));
            assert_eq!(other.action.target, good.action.target);
        }
    }
    assert!(accepted < json.len() / 2, "{accepted} of {} flips were accepted", json.len());
    let text = signed_text(&order()).unwrap().into_bytes();
    let signature = KELSO.sign(&text, 1500);
    for place in 0..text.len() {
        let mut bad = text.clone();
        bad[place] ^= 1;
        assert!(verify(&RING, &signature, &bad, at(NOW)).is_err(), "byte {place}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_delivered_nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), place in 0_usize..400, byte: u8) {
        let _ = judge(&bytes, &world());
        let mut json = signed_by(order(), &[&SMITH]);
        let place = place % json.len();
        json[place] = byte;
        prop_assert!(judge(&json, &world()).is_err(), "Smith alone is never enough");
    }

    #[test]
    fn nothing_runs_outside_of_its_window(now in 0_i64..5000, floor in 0_i64..5000) {
        let json = signed_by(order(), &[&KELSO]);
        let outcome = judge(&json, &World { now: at(now), floor: at(floor), ..world() });
        let truth = now.max(floor);
        prop_assert_eq!(outcome.is_ok(), (1200..=3000).contains(&truth) && floor - now <= 600);
        if let Ok(accepted) = outcome {
            // What the floor was the ledger knows; this is what the signers add to it.
            let signed = if truth < 1500 { Timestamp::EPOCH } else { at(1500) };
            prop_assert_eq!(accepted.floor, signed);
        }
    }
}

#[test]
fn only_a_copy_that_is_signed_well_enough_to_be_run_is_the_order_itself() {
    let is_so = |json: &[u8], now: i64| {
        let (action, world) = (Action::parse(json).unwrap(), world());
        is_signed(&action, (world.keyring, world.authority), world.module, at(now))
    };
    let good = signed_by(order(), &[&KELSO]);
    assert!(is_so(&good, NOW));
    let spoiled = |change: &dyn Fn(&mut Action)| {
        let mut action = Action::parse(&good).unwrap();
        change(&mut action);
        is_so(&serde_json::to_vec(&action).unwrap(), NOW)
    };
    assert!(spoiled(&|_| {}) && !is_so(&signed_by(order(), &[&SMITH]), NOW), "too light");
    assert!(!spoiled(&|action| action.pgp_signatures.clear()), "taken away");
    assert!(!spoiled(&|action| action.pgp_signatures.push("x".to_owned())), "one more");
    assert!(!spoiled(&|action| action.syntax_version = 7), "what nobody signed");
    assert!(!spoiled(&|action| action.name.push('x')), "what was signed");
    // When it came does not spoil it.
    assert!(is_so(&good, 100_000_000));
}
