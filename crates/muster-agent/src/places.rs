//! Whether what decides whom and what this machine obeys is its owner's alone: the configuration and all that it names.
//!
//! Stays true: an agent starts only where nobody but root and its own user can change one of these files, put another into
//! their directories, or exchange a directory above them; nothing is changed here. Not here: what the files say.

use crate::config::Config;
use crate::services::definition_directories;
use muster_modules::place::{Absent, PlaceError, place_check, way_check};
use std::path::Path;

/// A place that others than its owner can change.
#[derive(Debug, thiserror::Error)]
#[error("`{}` in the configuration decides whom this machine obeys, and {source}", keys.join("`, `"))]
pub(crate) struct Unsafe {
    /// The keys that name it, or what lies in it; `config` for the configuration itself.
    keys: Vec<&'static str>,
    /// What others could change.
    source: PlaceError,
}

/// Looks at the configuration's own file and at everything that it names. Returns what others could change, at most one
/// place for each key, and each place once.
pub(crate) fn look(config: &Config) -> Vec<Unsafe> {
    let mut found: Vec<Unsafe> = Vec::new();
    let mut add = |key, looked: Result<(), PlaceError>| {
        let Err(source) = looked else { return };
        match found.iter_mut().find(|one| one.source.to_string() == source.to_string()) {
            Some(known) => known.keys.push(key),
            None => found.push(Unsafe { keys: vec![key], source }),
        }
    };
    if let Some(file) = &config.file {
        add("config", place_check(file, Absent::Refused));
    }
    if !config.trusted_certs.contains("-----BEGIN") && !config.trusted_certs.is_empty() {
        add("trusted_certs", place_check(Path::new(&config.trusted_certs), Absent::IfOurs));
    }
    for (key, directory) in [("keyring_dir", &config.keyring_dir), ("administrators_dir", &config.administrators_dir)] {
        add(key, directory_check(directory));
    }
    for (key, file) in [("acl_file", &config.acl_file), ("modules_file", &config.modules_file)] {
        if !file.as_os_str().is_empty() {
            add(key, place_check(file, Absent::IfOurs));
        }
    }
    if !config.services_dir.as_os_str().is_empty() {
        let directories = definition_directories(&config.services_dir);
        let looked = place_check(&config.services_dir, Absent::IfOurs);
        add("services_dir", directories.iter().fold(looked, |before, one| before.and_then(|()| directory_check(one))));
    }
    // The directory itself is looked at more closely where it is used.
    add("state_dir", way_check(&config.state_dir));
    found
}

/// Refuses a configuration of which others could change something. The error names each place, its owner and mode, and what
/// to do.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    let found = look(config);
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    anyhow::ensure!(found.is_empty(), "{}", texts.join("; "));
    Ok(())
}

/// Looks at a directory and at what lies in it. An empty name is none.
fn directory_check(directory: &Path) -> Result<(), PlaceError> {
    if directory.as_os_str().is_empty() {
        return Ok(());
    }
    place_check(directory, Absent::IfOurs)?;
    // One that cannot be read is reported where it is read.
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_file()).try_for_each(|path| place_check(&path, Absent::Refused))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::geteuid;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown};

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn whatever_others_can_change_is_named_with_its_key_owner_and_mode() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let files = ["agent.toml", "ca.pem", "agentkeys/one.asc", "acl.cfg", "administrators/a.asc", "modules.toml"];
        for name in files.into_iter().chain(["services/one.service", "fleetspeak/textservices/one.service"]) {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), "").unwrap();
            set(&at(name), 0o644);
            set(at(name).parent().unwrap(), 0o755);
        }
        set(&at("fleetspeak"), 0o755);
        std::fs::write(at("agent.toml"), "trusted_certs = \"ca.pem\"\nmodules_file = \"modules.toml\"\nservices_dir = \"services\"\nstate_dir = \"state\"\n").unwrap();
        let config = Config::read(&at("agent.toml")).unwrap();
        let fleetspeak = Config { services_dir: at("fleetspeak"), ..config.clone() };
        for config in [&config, &fleetspeak] {
            check(config).unwrap();
        }
        let open = [
            ("config", "agent.toml", &config),
            ("trusted_certs", "ca.pem", &config),
            ("keyring_dir", "agentkeys", &config),
            ("keyring_dir", "agentkeys/one.asc", &config),
            ("acl_file", "acl.cfg", &config),
            ("administrators_dir", "administrators", &config),
            ("administrators_dir", "administrators/a.asc", &config),
            ("modules_file", "modules.toml", &config),
            ("services_dir", "services", &config),
            ("services_dir", "services/one.service", &config),
            ("services_dir", "fleetspeak", &fleetspeak),
            ("services_dir", "fleetspeak/textservices", &fleetspeak),
            ("services_dir", "fleetspeak/textservices/one.service", &fleetspeak),
        ];
        for (key, name, config) in open {
            let right = std::fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
            // In a directory with the sticky bit others cannot exchange what is there, but add to it.
            for wrong in [right | 0o002, if at(name).is_dir() { 0o1777 } else { 0o666 }] {
                set(&at(name), wrong);
                let found = check(config).unwrap_err().to_string();
                assert!(found.contains(&format!("`{key}`")) && found.contains(name), "{name}: {found}");
                assert!(found.contains(&format!("mode {wrong:04o}")), "{name}: {found}");
            }
            set(&at(name), right);
            if geteuid().is_root() {
                chown(at(name), Some(1000), None).unwrap();
                let found = check(config).unwrap_err().to_string();
                assert!(
                    found.contains(&format!("`{key}`")) && found.contains("belongs to user 1000"),
                    "{name}: {found}"
                );
                chown(at(name), Some(0), None).unwrap();
            }
        }
        // Everything hangs on the directory above, and what is missing could be put there.
        set(directory.path(), 0o777);
        let found = look(&config);
        assert!(found.len() == 1 && found[0].keys.len() == 8, "it is said once, with all that hangs on it: {found:?}");
        set(directory.path(), 0o1777);
        check(&config).unwrap();
        std::fs::remove_file(at("acl.cfg")).unwrap();
        let found = check(&config).unwrap_err().to_string();
        assert!(found.contains("`acl_file`") && found.contains("could put it there"), "{found}");
        set(directory.path(), 0o755);
        check(&config).unwrap();
    }
}
