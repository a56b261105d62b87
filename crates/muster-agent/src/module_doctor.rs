//! What keeps modules from running, or from being kept in bounds, on this machine.
//!
//! Stays true: what is looked at here is looked at again whenever a module runs; nothing here lets one run.

use crate::actions::read_catalogue;
use crate::config::Config;
use crate::doctor::{Check, failed, ok, warning};
use muster_modules::foreign::Catalogue;
use muster_modules::sandbox;

/// What a check of these is called.
const WHAT: &str = "modules";
/// What to do about a program that is not run.
const ADVICE: &str = "put it right, or take it out of modules_file";

/// Looks at the programs of others that are modules, and at what the kernel can keep from modules. The agent starts without a
/// program that is not run, and runs the others; without a list that can be read it does not start.
pub(crate) fn look_at_modules(config: &Config) -> Vec<Check> {
    let programs = match read_catalogue(&config.modules_file) {
        Err(error) => vec![failed(WHAT, format!("{error:#}"), ADVICE)],
        Ok(catalogue) => problems(&catalogue).into_iter().map(|found| warning(WHAT, found, ADVICE)).collect(),
    };
    let kernel = match sandbox::support().missing() {
        None => ok(WHAT, "the kernel keeps from modules what they do not need"),
        Some(missing) => {
            let found = format!("this kernel cannot keep from modules: {missing}; users and limits hold all the same");
            warning(WHAT, found, "a newer kernel does more")
        }
    };
    programs.into_iter().chain([kernel]).collect()
}

/// Says at the start what would keep modules from running.
pub(crate) fn log(catalogue: &Catalogue) {
    for problem in problems(catalogue) {
        tracing::warn!("{problem}");
    }
    if let Some(missing) = sandbox::support().missing() {
        tracing::info!(missing, "this kernel cannot keep everything from modules that they do not need");
    }
}

/// Programs that are not run where they are.
fn problems(catalogue: &Catalogue) -> Vec<String> {
    let problems = catalogue.foreign().iter().filter_map(|(name, module)| {
        module.place_check().err().map(|why| format!("module {name} ({}) is not run: {why}", module.path.display()))
    });
    problems.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_program_that_others_can_write_is_found_before_it_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let (program, list) = (directory.path().join("program"), directory.path().join("modules.toml"));
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        std::fs::write(&list, format!("[count]\npath = {:?}\n", program.display().to_string())).unwrap();
        let config = Config { modules_file: list.clone(), ..Config::default() };
        let found = |outcome: Outcome| {
            let found = look_at_modules(&config).into_iter().filter(|check| check.outcome == outcome);
            found.map(|check| check.found).filter(|found| !found.contains("this kernel cannot")).collect::<Vec<_>>()
        };
        let bad = || {
            assert!(found(Outcome::Failed).is_empty(), "the agent starts without it");
            found(Outcome::Warning)
        };
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(bad().is_empty(), "{:?}", bad());
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(bad()[0].contains("can be written by others"), "{:?}", bad());
        std::fs::remove_file(&program).unwrap();
        assert!(bad()[0].contains("no such file"), "{:?}", bad());
        assert!(bad()[0].contains("module count") && bad()[0].contains("is not run"), "{:?}", bad());
        std::fs::write(&list, "[count]\n").unwrap();
        assert!(found(Outcome::Failed)[0].contains("path"), "without a list it does not");
    }

    #[test]
    fn users_that_modules_cannot_have_are_refused() {
        let right = || Config { servers: vec!["a:1".into()], trusted_certs: "x".into(), ..Config::default() };
        assert!(right().check().is_ok());
        let wrong = Config { module_users: "0-10".into(), ..right() };
        assert!(wrong.check().unwrap_err().to_string().contains("module_users"));
    }
}
