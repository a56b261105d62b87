//! A machine's directory: which files set-up writes there, and what may lie there already.
//!
//! Stays true: the names are a fixed list of this program's, whatever anybody answers; what lies there and is not of the
//! list is never left beside what is written, because a machine might obey it; nothing of a person's is overwritten
//! unasked; nothing is written where others than root and this user could change it; the state of an earlier agent, which
//! holds its key and whom it believes, is not taken over unasked; files are readable by their owner only, because some hold
//! secrets.

use crate::{Exit, Failure};
use muster_modules::place::{Absent, place_check};
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
    /// Where the agent keeps its state, if that is elsewhere on this machine.
    pub(super) state: Option<PathBuf>,
}

/// What may happen to what lies there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Existing {
    /// What an earlier set-up wrote is replaced.
    pub(super) is_replaced: bool,
    /// The state of an earlier agent stays.
    pub(super) is_state_kept: bool,
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
    /// Writes everything below `out`, where `existing` says what may happen to what lies there. Returns the paths of the
    /// files.
    pub(super) fn write(&self, out: &Path, existing: Existing) -> Result<Vec<PathBuf>, Failure> {
        safe_place(out, Absent::Made)?;
        let found = self.survey(out)?;
        found.check(out, existing.is_replaced)?;
        if !existing.is_state_kept {
            self.state_check(out)?;
        }
        let failed = |path: &Path, error: &std::io::Error| Failure::local(WHAT, path.display(), error);
        for name in &found.left {
            let path = out.join(name);
            std::fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
        }
        for path in [out.to_owned()].into_iter().chain(self.directories.iter().map(|name| out.join(name))) {
            make_dir(&path).map_err(|error| failed(&path, &error))?;
            // Somebody else may have made it meanwhile. The agent looks at its state by itself.
            if !self.kept.iter().any(|name| out.join(name) == path) {
                safe_place(&path, Absent::Refused)?;
            }
        }
        let put = |(name, text): &(String, String)| {
            let path = out.join(name);
            write_private(&path, text.as_bytes()).map_err(|error| failed(&path, &error))?;
            Ok(path)
        };
        self.files.iter().map(put).collect()
    }

    /// Refuses to set up a machine on the state of another agent.
    fn state_check(&self, out: &Path) -> Result<(), Failure> {
        let kept = self.kept.iter().map(|name| out.join(name));
        for path in kept.chain(self.state.clone()) {
            let held = held(&path).map_err(|error| Failure::local(WHAT, path.display(), &error))?;
            if let Some(held) = held {
                let why = format!("there is the state of an earlier agent, or what somebody put there: {held}");
                let next = "--keep-state goes on with it: the machine keeps that key, what it ran, and whom documents there have \
                            it believe; or move it away";
                return Err(Failure::new(Exit::Conflict, WHAT, why).on(path.display()).next(next));
            }
        }
        Ok(())
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
            safe_place(&out.join(&below), Absent::Refused)?;
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

/// Refuses a place that others than root and this user could change, since that decides whom the machine obeys.
fn safe_place(path: &Path, absent: Absent) -> Result<(), Failure> {
    place_check(path, absent).map_err(|error| {
        let next = "what lies there decides whom the machine obeys: do as it says, or name a directory of \
                    your own with --out";
        Failure::new(Exit::Conflict, WHAT, error.to_string()).on(path.display()).next(next)
    })
}

/// Names what lies in a state directory, or that a state file is not empty; `None` where there is nothing.
fn held(path: &Path) -> std::io::Result<Option<String>> {
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if found.is_file() {
        return Ok((found.len() > 0).then(|| "a file that is not empty".to_owned()));
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok((!names.is_empty()).then(|| named(&names)))
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
            state: None,
        }
    }

    const KEEPING: Existing = Existing { is_replaced: true, is_state_kept: true };
    const REPLACING: Existing = Existing { is_replaced: true, is_state_kept: false };
    const NEW: Existing = Existing { is_replaced: false, is_state_kept: false };

    fn put(out: &Path, name: &str, text: &str) {
        let path = out.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn files_and_directories_are_made_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        let written = plan(&[("config.toml", "one"), (KEY, "key")]).write(&out, NEW).unwrap();
        assert_eq!(written, [out.join("config.toml"), out.join(KEY)]);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&written[0]), mode(&out), mode(&out.join("services"))), (0o600, 0o700, 0o700));
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 4);
        plan(&[("config.toml", "one"), (KEY, "key")]).write(&out, NEW).unwrap();
    }

    #[test]
    fn what_this_command_does_not_write_is_refused_by_name_whatever_is_said() {
        for name in ["services/evil.textproto", "agentkeys/mallory.asc", "modules.toml", "notes.txt", "other/x"] {
            let dir = tempfile::tempdir().unwrap();
            put(dir.path(), name, "planted");
            for existing in [NEW, REPLACING, KEEPING] {
                let refused = plan(&[("config.toml", "one")]).write(dir.path(), existing).unwrap_err();
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
            let refused = plan(&[("config.toml", "one")]).write(dir.path(), REPLACING).unwrap_err();
            assert!(refused.why.contains(name), "{refused}");
        }
    }

    #[test]
    fn nothing_is_overwritten_unasked_and_no_key_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        plan(&[("config.toml", "one"), (KEY, "key"), (WEIGHTS, "{}")]).write(dir.path(), NEW).unwrap();
        put(dir.path(), "state/key", "identity");
        let kept = Existing { is_state_kept: true, ..NEW };
        let other = plan(&[("config.toml", "two")]);
        let refused = other.write(dir.path(), kept).unwrap_err();
        assert!(refused.why.contains("config.toml") && refused.next.contains("--replace"), "{refused}");
        let fewer = plan(&[("config.toml", "one")]);
        let refused = fewer.write(dir.path(), kept).unwrap_err();
        assert!(refused.why.contains(KEY) && refused.why.contains(WEIGHTS), "{refused}");
        other.write(dir.path(), KEEPING).unwrap();
        assert!(!dir.path().join(KEY).exists() && !dir.path().join(WEIGHTS).exists());
        assert_eq!(std::fs::read_to_string(dir.path().join("config.toml")).unwrap(), "two");
        assert_eq!(std::fs::read_to_string(dir.path().join("state/key")).unwrap(), "identity");
    }

    #[test]
    fn the_state_of_an_earlier_agent_is_not_taken_over_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        let (out, other) = (dir.path().join("out"), dir.path().join("other"));
        let beside = plan(&[("config.toml", "one")]);
        let apart = Plan { state: Some(elsewhere.clone()), kept: Vec::new(), ..plan(&[("config.toml", "one")]) };
        beside.write(&out, NEW).unwrap();
        beside.write(&out, NEW).unwrap();
        apart.write(&other, NEW).unwrap();
        put(&out, "state/documents.json", "[]");
        put(&elsewhere, "agent.key", "identity");
        for (plan, out, name) in [(&beside, &out, "documents.json"), (&apart, &other, "agent.key")] {
            for existing in [NEW, REPLACING] {
                let refused = plan.write(out, existing).unwrap_err();
                assert!(refused.why.contains(name) && refused.next.contains("--keep-state"), "{refused}");
                assert_eq!(refused.exit, Exit::Conflict);
            }
            plan.write(out, KEEPING).unwrap();
        }
        let client = dir.path().join("client");
        let original = Plan { kept: vec!["client.state".into()], ..plan(&[("config.textproto", "one")]) };
        put(&client, "client.state", "");
        original.write(&client, NEW).unwrap();
        put(&client, "client.state", "key");
        assert!(original.write(&client, NEW).unwrap_err().on.contains("client.state"));
    }

    #[test]
    fn nothing_is_written_where_others_could_change_it() {
        let dir = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let (above, out) = (dir.path().join("above"), dir.path().join("above/out"));
        let one = plan(&[("config.toml", "one"), (KEY, "key")]);
        let refused = |word: &str| {
            for existing in [NEW, KEEPING] {
                let refused = one.write(&out, existing).unwrap_err();
                assert_eq!(refused.exit, Exit::Conflict, "{refused}");
                assert!(refused.why.contains(word) && refused.next.contains("--out"), "{word}: {refused}");
                assert!(!out.join("config.toml").exists());
            }
        };
        for name in ["", "services", KEYRING] {
            std::fs::create_dir_all(out.join(name)).unwrap();
            for mode in [0o777, 0o1777, 0o757] {
                set(&out.join(name), mode);
                refused(&format!("mode {mode:04o}"));
            }
            if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&above).unwrap()) == 0 {
                set(&out.join(name), 0o755);
                std::os::unix::fs::chown(out.join(name), Some(1000), None).unwrap();
                refused("belongs to user 1000");
            }
            std::fs::remove_dir_all(&out).unwrap();
        }
        // Above it as well, unless nobody can exchange there what others own.
        set(&above, 0o777);
        refused("above can be written by others");
        std::fs::create_dir(&out).unwrap();
        refused("above can be written by others");
        set(&above, 0o1777);
        one.write(&out, NEW).unwrap();
    }
}
