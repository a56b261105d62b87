//! Which modules there are.

use crate::module::Module;
use crate::modules;

/// The modules built in, by name.
static BUILT_IN: &[&dyn Module] = &[
    &modules::agentdestroy::Agentdestroy,
    &modules::file::File,
    &modules::mounts::Mounts,
    &modules::netstat::Netstat,
    &modules::ping::Ping,
    &modules::pkg::Pkg,
    &modules::process::Process,
    &modules::scribe::Scribe,
    &modules::services::Services,
    &modules::sshkey::Sshkey,
    &modules::sysinfo::Sysinfo,
    &modules::timedrift::Timedrift,
    &modules::users::Users,
];

/// Returns the modules built in, in the order of their names.
pub fn built_in() -> &'static [&'static dyn Module] {
    BUILT_IN
}

/// Returns the module called `name`.
pub fn find(name: &str) -> Option<&'static dyn Module> {
    BUILT_IN.iter().find(|module| module.info().name == name).copied()
}

/// Returns what is said of a module that is not there, in MIG's words.
pub fn missing(name: &str) -> String {
    let name: String = name.chars().take(64).collect();
    format!("module '{name}' is not available")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Effect;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_in_order_and_are_names() {
        let names: Vec<_> = built_in().iter().map(|module| module.info().name).collect();
        let sorted: BTreeSet<_> = names.iter().copied().collect();
        assert_eq!(names, sorted.into_iter().collect::<Vec<_>>());
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_lowercase())));
    }

    #[test]
    fn a_module_that_changes_something_needs_more_than_one_signature_of_weight_one() {
        for module in built_in() {
            let info = module.info();
            assert!(info.weight_min >= 1, "{} can be asked by nobody", info.name);
            assert!(info.effect == Effect::Reads || info.weight_min >= 2, "{} changes too easily", info.name);
        }
    }

    #[test]
    fn a_module_that_is_not_there_is_said_in_migs_words() {
        let fixture: serde_json::Value = serde_json::from_str(include_str!("../fixtures/unknown_module.json")).unwrap();
        assert!(find("nosuch").is_none());
        assert_eq!(fixture["errors"][0], missing("nosuch"));
    }
}
