//! Keys and weights with which no order can run, each with what is said of it.

use super::*;
use crate::doctor::{Outcome, has_failed};
use serde_json::{Value, json};
use std::path::PathBuf;

const ONE: &str = include_str!("../../tests/it/keys/one.asc");
const TWO: &str = include_str!("../../tests/it/keys/two.asc");
/// When both keys may sign.
const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn fingerprint(key: &str) -> String {
    muster_trust::Certificate::parse(key.as_bytes()).unwrap().fingerprint().to_string()
}

struct Machine {
    directory: tempfile::TempDir,
    config: Config,
}

impl Machine {
    fn new(keys: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["agentkeys", "administrators"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        for (number, key) in keys.iter().enumerate() {
            std::fs::write(at(&format!("agentkeys/{number}.asc")), key).unwrap();
        }
        let config = Config {
            keyring_dir: at("agentkeys"),
            acl_file: at("acl.cfg"),
            administrators_dir: at("administrators"),
            modules_file: PathBuf::new(),
            fleet: "lab".into(),
            ..Config::default()
        };
        Self { directory, config }
    }

    fn weights(&self, weights: &Value) {
        std::fs::write(&self.config.acl_file, weights.to_string()).unwrap();
    }

    fn looks(&self) -> Vec<Check> {
        look(&self.config, Path::new(""), NOW)
    }

    /// What must be changed, as one text.
    fn failed(&self) -> String {
        let checks = self.looks();
        assert!(has_failed(&checks), "{checks:?}");
        assert!(checks.iter().all(|check| check.advice.is_some()), "{checks:?}");
        let failed = checks.into_iter().filter(|check| check.outcome == Outcome::Failed);
        failed.map(|check| check.found).collect::<Vec<_>>().join("\n")
    }

    /// What is worth looking at, of a machine of which nothing must be changed.
    fn warned(&self) -> String {
        let checks = self.looks();
        assert!(!has_failed(&checks), "{checks:?}");
        let warned = checks.into_iter().filter(|check| check.outcome == Outcome::Warning);
        warned.map(|check| check.found).collect::<Vec<_>>().join("\n")
    }
}

fn entry(minimum: u32, people: &[(&str, u32)]) -> Value {
    let one =
        |(key, weight): &(&str, u32)| (fingerprint(key), json!({"fingerprint": fingerprint(key), "weight": weight}));
    let people: serde_json::Map<String, Value> = people.iter().map(one).collect();
    json!({"minimumweight": minimum, "investigators": people})
}

#[test]
fn weights_that_everybody_together_reaches_are_well() {
    let machine = Machine::new(&[ONE, TWO]);
    machine.weights(&json!({"default": entry(2, &[(ONE, 1), (TWO, 1)])}));
    let checks = machine.looks();
    assert_eq!((checks.len(), checks[0].outcome), (1, Outcome::Ok), "{checks:?}");
    assert!(checks[0].found.contains("2 keys"), "{checks:?}");
}

#[test]
fn a_machine_on_which_no_order_can_ever_run_is_not_well() {
    let machine = Machine::new(&[ONE, TWO]);
    machine.weights(&json!({"default": entry(1, &[])}));
    assert!(machine.failed().contains("name no investigator"));
    machine.weights(&json!({"default": entry(3, &[(ONE, 1), (TWO, 1)])}));
    let found = machine.failed();
    assert!(
        found.contains("no order can ever run here") && found.contains("file asks for 3, and 2 can be had"),
        "{found}"
    );
    machine.weights(&json!({}));
    assert!(machine.failed().contains("name no investigator"));
    // A list that names people for nothing that there is here.
    machine.weights(&json!({"nosuch": entry(1, &[(ONE, 1)])}));
    assert!(machine.failed().contains("has no entry, and there is no default"));
    let machine = Machine::new(&[]);
    machine.weights(&json!({"default": entry(1, &[(ONE, 1), (TWO, 1)])}));
    let found = machine.failed();
    assert!(found.contains("none counts (2 listed not in the keyring)"), "{found}");
    let named = machine.looks().iter().map(|check| check.found.clone()).collect::<Vec<_>>().join("\n");
    assert!(named.contains(&fingerprint(ONE)) && named.contains(&fingerprint(TWO)), "both are named: {named}");
}

#[test]
fn a_key_that_cannot_sign_reaches_no_weight() {
    let machine = Machine::new(&[ONE, TWO]);
    machine.weights(&json!({"default": entry(1, &[(ONE, 2), (TWO, 1)])}));
    // Before the keys were made they sign as little as after their end.
    let early = look(&machine.config, Path::new(""), Timestamp::from_secs(1_000_000_000));
    assert!(has_failed(&early), "{early:?}");
    let found: Vec<_> = early.iter().map(|check| check.found.as_str()).collect();
    assert!(found.iter().any(|found| found.contains(&fingerprint(ONE)) && found.contains("do not count")), "{found:?}");
    assert!(found.iter().any(|found| found.contains("2 listed not able to sign")), "{found:?}");
}

#[test]
fn a_module_beyond_reach_is_named_with_what_it_asks_for() {
    let machine = Machine::new(&[ONE]);
    // One investigator: what changes something asks for two by itself.
    machine.weights(&json!({"default": entry(1, &[(ONE, 1)])}));
    let found = machine.warned();
    assert!(found.contains("agentdestroy asks for 2, and 1 can be had") && !found.contains("file"), "{found}");
    // An entry with people in it is meant to be had; one without is a way to forbid the module. All others run all the same.
    machine.weights(&json!({"default": entry(1, &[(ONE, 2)]), "file": entry(5, &[(ONE, 4)])}));
    let found = machine.warned();
    assert!(found.contains("name with people") && found.contains("file asks for 5, and 4 can be had"), "{found}");
    machine.weights(&json!({"default": entry(1, &[(ONE, 2)]), "file": entry(1, &[])}));
    assert!(machine.warned().contains("file asks for 1, and 0 can be had"));
    // A program of others, with what its own entry asks for.
    let list = machine.directory.path().join("modules.toml");
    std::fs::write(&list, "[count]\npath = \"/bin/true\"\nweight_min = 9\n").unwrap();
    machine.weights(&json!({"default": entry(1, &[(ONE, 2)])}));
    let machine = Machine { config: Config { modules_file: list, ..machine.config.clone() }, ..machine };
    assert!(machine.warned().contains("count asks for 9, and 2 can be had"));
}

#[test]
fn a_machine_without_orders_or_that_waits_for_a_document_is_warned_of_and_valid() {
    let machine = Machine::new(&[]);
    assert!(machine.warned().contains("no order ever runs"));
    std::fs::write(machine.config.administrators_dir.join("one.asc"), ONE).unwrap();
    std::fs::write(machine.config.administrators_dir.join("two.asc"), TWO).unwrap();
    assert!(machine.warned().contains("documents of administrators, which are not looked at here"));
    let checks = look(&machine.config, &machine.directory.path().join("documents.json"), NOW);
    assert!(checks.iter().any(|check| check.found.contains("none came yet")), "{checks:?}");
    // What lies in the files counts until one comes.
    std::fs::write(machine.config.keyring_dir.join("one.asc"), ONE).unwrap();
    machine.weights(&json!({"default": entry(3, &[(ONE, 1)])}));
    assert!(machine.failed().contains("no order can ever run here"));
}
