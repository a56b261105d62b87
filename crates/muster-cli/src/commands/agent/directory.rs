//! A machine's directory: which files set-up writes there, and what may lie there already.
//!
//! Stays true: the names are a fixed list of this program's, whatever anybody answers; what lies there and is not of the
//! list is never left beside what is written, because a machine might obey it; nothing of a person's is overwritten
//! unasked; files are readable by their owner only, because some hold secrets.

use crate::{Exit, Failure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const WHAT: &str = "could not write the agent's configuration";
/// Where an agent looks for keys, beside its configuration.
pub(super) const KEYRING: &str = "agentkeys";
/// Where it looks for the keys of administrators.
pub(super) const ADMINISTRATORS: &str = "administrators";
/// Where it looks for weights.
pub(super) const WEIGHTS: &str = "acl.cfg";
/// Files that are named when there are many.
const NAMED_MAX: usize = 10;

/// What is to lie in a machine's directory when it is set up.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Files in the order in which they are told, each with its text; names are below the directory.
    pub(super) files: Vec<(String, String)>,
    /// Directories to make, which may hold nothing but these files.
    pub(super) directories: Vec<String>,
    /// What a running agent keeps there, which nobody looks into.
    pub(super) kept: Vec<String>,
}

/// What lies in a directory before anything is written.
#[derive(Debug, Default)]
struct Found {
    /// What is of nobody's list.
    foreign: Vec<String>,
    /// What would be overwritten with something else.
    differs: Vec<String>,
    /// What an earlier set-up wrote and this one would not.
    left: Vec<String>,
}

impl Plan {
    /// Writes everything below `out`. `is_replacing`: also in the place of what an earlier set-up wrote there. Returns
    /// the paths of the files.
    pub(super) fn write(&self, out: &Path, is_replacing: bool) -> Result<Vec<PathBuf>, Failure> {
        let found = self.survey(out)?;
        found.check(out, is_replacing)?;
        let failed = |path: &Path, error: &std::io::Error| Failure::local(WHAT, path.display(), error);
        for name in &found.left {
            let path = out.join(name);
            std::fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
        }
        for path in [out.to_owned()].into_iter().chain(self.directories.iter().map(|name| out.join(name))) {
            make_dir(&path).map_err(|error| failed(&path, &error))?;
        }
        let put = |(name, text): &(String, String)| {
            let path = out.join(name);
            write_private(&path, text.as_bytes()).map_err(|error| failed(&path, &error))?;
            Ok(path)
        };
        self.files.iter().map(put).collect()
    }

    fn survey(&self, out: &Path) -> Result<Found, Failure> {
        let mut found = Found::default();
        let texts: BTreeMap<&str, &str> =
            self.files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let mut open = vec![String::new()];
        while let Some(below) = open.pop() {
            let failed = |error| Failure::local(WHAT, out.join(&below).display(), &error);
            let entries = match std::fs::read_dir(out.join(&below)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.map_err(failed)?,
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let kind = entry.file_type().map_err(failed)?;
                let own = entry.file_name().to_string_lossy().into_owned();
                let name = if below.is_empty() { own } else { format!("{below}/{own}") };
                if self.kept.contains(&name) && !kind.is_symlink() {
                    continue;
                }
                match texts.get(name.as_str()) {
                    // A link is where somebody else wants it written.
                    Some(text) if kind.is_file() => {
                        let is_same = std::fs::read(entry.path()).map_err(failed)? == text.as_bytes();
                        found.differs.extend((!is_same).then_some(name));
                    }
                    None if kind.is_dir() && self.is_directory(&name) => open.push(name),
                    None if kind.is_file() && is_own(&name) => found.left.push(name),
                    _ => found.foreign.push(name),
                }
            }
        }
        for names in [&mut found.foreign, &mut found.differs, &mut found.left] {
            names.sort();
        }
        Ok(found)
    }

    /// Whether what lies in this directory is looked at one by one. Those of keys are so also when no key is written.
    fn is_directory(&self, name: &str) -> bool {
        [KEYRING, ADMINISTRATORS].contains(&name) || self.directories.iter().any(|one| one == name)
    }
}

impl Found {
    fn check(&self, out: &Path, is_replacing: bool) -> Result<(), Failure> {
        let conflict = |why: String| Failure::new(Exit::Conflict, WHAT, why).on(out.display());
        if !self.foreign.is_empty() {
            let why = format!("there is what this command does not write: {}", named(&self.foreign));
            let next = "name another directory, or move it away: what lies there may decide whom the machine obeys";
            return Err(conflict(why).next(next));
        }
        if is_replacing {
            return Ok(());
        }
        if !self.differs.is_empty() {
            let why = format!("there are other files of these names: {}", named(&self.differs));
            return Err(conflict(why).next("--replace writes them anew; or name another directory"));
        }
        if !self.left.is_empty() {
            let why = format!("an earlier set-up wrote what this one would not: {}", named(&self.left));
            return Err(conflict(why).next("--replace takes it away; or name another directory"));
        }
        Ok(())
    }
}

fn named(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names[..names.len().min(NAMED_MAX)].join(", "))
}

/// Whether a file has a name that set-up gives: one of a key, which bears its fingerprint, or one of the fixed list.
fn is_own(name: &str) -> bool {
    if name == WEIGHTS || name == super::files::COMMUNICATOR {
        return true;
    }
    let Some((directory, file)) = name.split_once('/') else { return false };
    let fingerprint = file.strip_suffix(".asc").unwrap_or_default();
    [KEYRING, ADMINISTRATORS].contains(&directory)
        && fingerprint.len() >= 40
        && fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn make_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Puts a file in the place of an older one in one step, so that a reader sees the old one or the new one whole.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    write().inspect_err(|_| _ = std::fs::remove_file(&part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const KEY: &str = "agentkeys/8894E30A79A7CC6BBDCB080E5CA8F578DCAF275C.asc";

    fn plan(files: &[(&str, &str)]) -> Plan {
        Plan {
            files: files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
            directories: vec!["services".into(), "state".into(), KEYRING.into()],
            kept: vec!["state".into()],
        }
    }

    fn put(out: &Path, name: &str, text: &str) {
        let path = out.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn files_and_directories_are_made_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        let written = plan(&[("config.toml", "one"), (KEY, "key")]).write(&out, false).unwrap();
        assert_eq!(written, [out.join("config.toml"), out.join(KEY)]);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&written[0]), mode(&out), mode(&out.join("services"))), (0o600, 0o700, 0o700));
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 4);
        plan(&[("config.toml", "one"), (KEY, "key")]).write(&out, false).unwrap();
    }

    #[test]
    fn what_this_command_does_not_write_is_refused_by_name_whatever_is_said() {
        for name in ["services/evil.textproto", "agentkeys/mallory.asc", "modules.toml", "notes.txt", "other/x"] {
            let dir = tempfile::tempdir().unwrap();
            put(dir.path(), name, "planted");
            for is_replacing in [false, true] {
                let refused = plan(&[("config.toml", "one")]).write(dir.path(), is_replacing).unwrap_err();
                assert_eq!(refused.exit, Exit::Conflict, "{name}");
                assert!(refused.why.contains(name.split_once("/x").map_or(name, |(first, _)| first)), "{refused}");
                assert!(!dir.path().join("config.toml").exists(), "{name}");
            }
        }
    }

    #[test]
    fn links_are_foreign_wherever_they_stand() {
        for name in ["config.toml", "services", "state"] {
            let dir = tempfile::tempdir().unwrap();
            std::os::unix::fs::symlink("/nonexistent", dir.path().join(name)).unwrap();
            let refused = plan(&[("config.toml", "one")]).write(dir.path(), true).unwrap_err();
            assert!(refused.why.contains(name), "{refused}");
        }
    }

    #[test]
    fn nothing_is_overwritten_unasked_and_no_key_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        plan(&[("config.toml", "one"), (KEY, "key"), (WEIGHTS, "{}")]).write(dir.path(), false).unwrap();
        put(dir.path(), "state/key", "identity");
        let other = plan(&[("config.toml", "two")]);
        let refused = other.write(dir.path(), false).unwrap_err();
        assert!(refused.why.contains("config.toml") && refused.next.contains("--replace"), "{refused}");
        let fewer = plan(&[("config.toml", "one")]);
        let refused = fewer.write(dir.path(), false).unwrap_err();
        assert!(refused.why.contains(KEY) && refused.why.contains(WEIGHTS), "{refused}");
        other.write(dir.path(), true).unwrap();
        assert!(!dir.path().join(KEY).exists() && !dir.path().join(WEIGHTS).exists());
        assert_eq!(std::fs::read_to_string(dir.path().join("config.toml")).unwrap(), "two");
        assert_eq!(std::fs::read_to_string(dir.path().join("state/key")).unwrap(), "identity");
    }
}
