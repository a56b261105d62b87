//! Whose orders count, and whether any order can ever run here: what is wrong with keys and weights, in a person's words.
//!
//! Stays true: it says that all is well only where some module can be had by the keys that are here and may sign now, with
//! the weights that are in force; it asks the very lists that decide about orders. Not here: deciding (muster-trust).

use super::{Check, failed, ok, warning};
use crate::actions::{Believed, Problem, read_catalogue};
use crate::config::Config;
use muster_core::Timestamp;
use muster_core::action::Fingerprint;
use muster_modules::foreign::Catalogue;
use muster_trust::{Assessment, SignatureError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const NAME: &str = "investigators";
/// Modules or keys that are named when there are many.
const NAMED_MAX: usize = 5;
const STATUS: &str = "`muster-agent status` shows whose orders count";
const ADD: &str = "put the keys of investigators into keyring_dir and their weights into acl_file (`muster agent config --trust` \
                   writes both), or send a document: `muster trust send`";
const LOWER: &str = "have more investigators in acl_file, or ask for less: minimumweight, or for a module of others weight_min \
                     in modules_file";

/// Looks at keys and weights: those of files, and of the documents at `documents`, if that is no empty path.
pub(super) fn look(config: &Config, documents: &Path, now: Timestamp) -> Vec<Check> {
    let believed = Believed::load(config, documents);
    let mut checks: Vec<Check> = without_weights(config, &believed).into_iter().collect();
    let named: Vec<String> = believed.problems.iter().map(|problem| problem.text.clone()).collect();
    checks.extend(believed.problems.iter().map(|Problem { is_grave, text }| {
        if *is_grave { failed(NAME, text, STATUS) } else { warning(NAME, text, STATUS) }
    }));
    let keys = Keys::of(&believed, now);
    checks.extend(keys.checks(&named));
    if checks.iter().all(|check| check.outcome != super::Outcome::Failed) {
        // A module list that cannot be read is reported with the modules.
        let catalogue = read_catalogue(&config.modules_file).unwrap_or_default();
        checks.extend(reach(config, &believed, &catalogue, &keys, documents));
    }
    if let Some(expired) =
        believed.expires.filter(|end| *end <= now && !believed.problems.iter().any(|one| one.is_grave))
    {
        let found = format!("the document of keys and weights in force expired at {expired}: every order is refused");
        checks.push(failed(NAME, found, "have administrators sign and send a new one: `muster trust send`"));
    }
    if checks.is_empty() {
        let count = keys.usable.len();
        checks.push(ok(NAME, format!("acts for {count} key{}", if count == 1 { "" } else { "s" })));
    }
    checks
}

/// Whether keys are here and nothing says what their signatures are worth. Then no number of signatures is enough.
pub(crate) fn without_weights(config: &Config, believed: &Believed) -> Option<Check> {
    let has_keys = !believed.keyring.certificates().is_empty();
    let has_weights = believed.acl_version() > 0 || config.acl_file.exists();
    if !has_keys || has_weights {
        return None;
    }
    let shown = if config.acl_file.as_os_str().is_empty() {
        "acl_file names no file".to_owned()
    } else {
        format!("{} is missing", config.acl_file.display())
    };
    let found = format!("{shown}, so nothing says what signatures are worth: every order is refused");
    Some(failed(NAME, found, "install the weights (acl.cfg), or send them as a document: `muster trust send`"))
}

/// The keys to which the weights in force give something.
struct Keys {
    /// Those that are here and may sign.
    usable: BTreeSet<Fingerprint>,
    /// Those that are not in the keyring.
    missing: BTreeSet<Fingerprint>,
    /// Those that may not sign now, and why.
    unusable: BTreeMap<Fingerprint, SignatureError>,
}

impl Keys {
    fn of(believed: &Believed, now: Timestamp) -> Self {
        let mut keys = Self { usable: BTreeSet::new(), missing: BTreeSet::new(), unusable: BTreeMap::new() };
        let people = believed.acl.modules().values().flat_map(|permission| permission.investigators.values());
        for key in people.flat_map(|investigator| &investigator.fingerprints) {
            match believed.keyring.get(key).map(|certificate| certificate.signing_keys(now)) {
                None => _ = keys.missing.insert(key.clone()),
                Some(Ok(_)) => _ = keys.usable.insert(key.clone()),
                Some(Err(why)) => _ = keys.unusable.insert(key.clone(), why),
            }
        }
        keys
    }

    /// Names keys that have a weight and cannot sign, unless one of `reported` names them already.
    fn checks(&self, reported: &[String]) -> Vec<Check> {
        let is_reported = |key: &Fingerprint| reported.iter().any(|text| text.contains(&key.to_string()));
        let missing = self.missing.iter().filter(|key| !is_reported(key)).map(|key| {
            let found =
                format!("the key {key} has a weight and is not in the keyring: its signatures count for nothing");
            warning(NAME, found, "put it into keyring_dir, or take it out of acl_file")
        });
        let unusable = self.unusable.iter().map(|(key, why)| {
            let found = format!("the key {key} has a weight, and its signatures do not count: {why}");
            warning(NAME, found, "put a renewed copy into keyring_dir, or take the key out of acl_file")
        });
        missing.chain(unusable).collect()
    }

    /// Says why there are not more keys, for the end of a sentence.
    fn lacking(&self) -> String {
        let parts = [(self.missing.len(), "not in the keyring"), (self.unusable.len(), "not able to sign")];
        let parts = parts.into_iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts.map(|(count, what)| format!("{count} listed {what}")).collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
    }
}

/// Asks for each module whether everybody together could have it run.
fn reach(config: &Config, believed: &Believed, catalogue: &Catalogue, keys: &Keys, documents: &Path) -> Vec<Check> {
    let is_listed = believed.acl.modules().values().any(|permission| !permission.investigators.is_empty());
    let has_document = believed.acl_version() > 0;
    let has_administrators = std::fs::read_dir(&config.administrators_dir).is_ok_and(|mut keys| keys.next().is_some());
    if has_administrators && !has_document {
        if is_listed && !keys.usable.is_empty() {
            return unreachable_checks(believed, catalogue, keys);
        }
        // Those that came are not looked at without the state.
        let came = if documents.as_os_str().is_empty() { "which are not looked at here" } else { "and none came yet" };
        let found = format!("keys and weights come by documents of administrators, {came}; without one no order runs");
        return vec![warning(NAME, found, "`muster trust send` sends one; `muster-agent doctor` sees what came")];
    }
    let is_without = believed.keyring.certificates().is_empty() && !has_document && !config.acl_file.exists();
    if is_without {
        let found = "no key of an investigator is here, so no order ever runs on this machine";
        return vec![warning(NAME, found, format!("if it shall run orders: {ADD}"))];
    }
    unreachable_checks(believed, catalogue, keys)
}

fn unreachable_checks(believed: &Believed, catalogue: &Catalogue, keys: &Keys) -> Vec<Check> {
    let names = catalogue.names();
    let modules = names.iter().filter_map(|name| Some((*name, catalogue.facts(name)?.weight_min)));
    let all = believed.acl.assess(modules, &keys.usable);
    let beyond: Vec<&Assessment> = all.iter().filter(|one| !one.passes()).collect();
    if beyond.is_empty() {
        return Vec::new();
    }
    let lacking = keys.lacking();
    if beyond.len() == all.len() {
        let found = match keys.usable.len() {
            0 if keys.missing.is_empty() && keys.unusable.is_empty() => {
                "no order can ever run here: the weights name no investigator".to_owned()
            }
            0 => format!("no order can ever run here: of the keys that have a weight none counts{lacking}"),
            _ => format!("no order can ever run here, no matter who signs{lacking}: {}", listed(&beyond)),
        };
        return vec![failed(NAME, found, if keys.usable.is_empty() { ADD } else { LOWER })];
    }
    // The agent starts and runs the others. An entry with people in it is meant to be had; under the default a module asks
    // for more by itself.
    let is_meant = |one: &&Assessment| {
        believed.acl.modules().get(&one.module).is_some_and(|permission| !permission.investigators.is_empty())
    };
    let (meant, others): (Vec<&Assessment>, Vec<&Assessment>) = beyond.into_iter().partition(is_meant);
    let mut checks = Vec::new();
    if !meant.is_empty() {
        let found = format!(
            "modules that the weights name with people and that never run here, no matter who signs{lacking}: {}",
            listed(&meant)
        );
        checks.push(warning(NAME, found, LOWER));
    }
    if !others.is_empty() {
        let found = format!("modules that never run here, no matter who signs{lacking}: {}", listed(&others));
        checks.push(warning(NAME, found, format!("if they shall run: {LOWER}")));
    }
    checks
}

/// Names modules with what they ask for and what there is.
fn listed(modules: &[&Assessment]) -> String {
    let one = |module: &&Assessment| match module.need {
        Some(need) => format!("{} asks for {need}, and {} can be had", module.module, module.have),
        None => format!("{} has no entry, and there is no default", module.module),
    };
    let shown: Vec<String> = modules.iter().take(NAMED_MAX).map(one).collect();
    let more = modules.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{more}", shown.join("; "))
}

#[cfg(test)]
#[path = "investigators_tests.rs"]
mod tests;
