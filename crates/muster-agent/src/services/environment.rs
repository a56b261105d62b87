//! What services have of the agent's environment.
//!
//! Stays true: the agent's own variables, of which one holds a token, never reach a service, and neither does anything that
//! nobody named.

use std::ffi::OsString;
use tokio::process::Command;

/// Variables that every service has, when the agent has them: where programs and files are, and in which language and zone
/// of time.
const USUAL: [&str; 10] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_RUNTIME_DIR"];
/// What variables of the language begin with.
const LOCALE: &str = "LC_";

/// Variables with their values.
pub(crate) type Environment = Vec<(OsString, OsString)>;

/// Returns the usual variables and those that are named in `more`, as the agent has them.
pub(crate) fn environment(more: &[String]) -> Environment {
    let passes = |name: &OsString| {
        let Some(name) = name.to_str() else { return false };
        USUAL.contains(&name) || name.starts_with(LOCALE) || more.iter().any(|more| more == name)
    };
    std::env::vars_os().filter(|(name, _)| passes(name)).collect()
}

/// Gives a command this environment and no other.
pub(super) fn give(command: &mut Command, environment: &Environment) {
    command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_usual_or_named_passes() {
        // Cargo sets these for tests.
        let names = |more: &[&str]| -> Vec<OsString> {
            let more: Vec<_> = more.iter().map(|name| (*name).to_owned()).collect();
            environment(&more).into_iter().map(|(name, _)| name).collect()
        };
        let has = |names: &[OsString], name: &str| names.iter().any(|have| have == name);
        assert!(has(&names(&[]), "PATH") && !has(&names(&[]), "CARGO_MANIFEST_DIR"));
        assert!(has(&names(&["CARGO_MANIFEST_DIR"]), "CARGO_MANIFEST_DIR"));
    }
}
