//! Targets that a person keeps under names, on the person's own machine: what `@web` means is said by whoever signs it.
//!
//! Stays true: a name that is kept here means what is kept here, whatever a server says; what a server says that a name
//! means is shown, and taken only when the person agrees to it; nothing is read that another account could have written.

use super::action::consent;
use crate::output::safe;
use crate::{Context, Exit, Failure};
use muster_api::Page;
use muster_api::targets::NamedTargetRow;
use muster_core::target::{self, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

const WHAT: &str = "could not read the targets that you keep";
/// Bytes that the file may have.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Returns the person's own directory of configuration; `None` without a home directory.
pub(crate) fn config_directory() -> Option<PathBuf> {
    let of = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = of("XDG_CONFIG_HOME").or_else(|| of("HOME").map(|home| home.join(".config")))?;
    Some(config.join("muster"))
}

/// The targets that are kept, and where.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
    targets: BTreeMap<String, String>,
}

impl Kept {
    /// Reads them from the person's directory of configuration.
    pub(crate) fn read() -> Result<Self, Failure> {
        let config = config_directory().ok_or_else(|| {
            Failure::usage(WHAT, "there is no home directory to keep them in").next("set HOME or XDG_CONFIG_HOME")
        })?;
        Self::at(config.join("targets.toml"))
    }

    fn at(path: PathBuf) -> Result<Self, Failure> {
        crate::own::check(WHAT, &path)?;
        let text = match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Failure::local(WHAT, path.display(), &error)),
            Ok(_) => {
                let bytes = crate::signing::read_file(WHAT, &path, FILE_BYTES_MAX)?;
                String::from_utf8(bytes).map_err(|error| Failure::local(WHAT, path.display(), &error))?
            }
        };
        let targets = toml::from_str(&text).map_err(|error| {
            Failure::usage(WHAT, error.to_string())
                .on(path.display())
                .next("a line is written: web = \"name LIKE 'web%'\"")
        })?;
        Ok(Self { path, targets })
    }

    /// Returns what is kept, by name.
    pub(crate) fn targets(&self) -> &BTreeMap<String, String> {
        &self.targets
    }

    /// Returns where they are kept.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps a target under a name, in the place of an older one.
    pub(crate) fn save(mut self, name: &str, expression: &str) -> Result<Self, Failure> {
        let what = format!("could not keep target {name}");
        target::check_name(name).map_err(|error| Failure::usage(&what, error.to_string()).on(name))?;
        muster_core::action::target_check(expression)
            .map_err(|error| Failure::usage(&what, error.to_string()).on(expression))?;
        Target::parse(expression).map_err(|error| Failure::usage(&what, error.to_string()).on(expression))?;
        self.targets.insert(name.to_owned(), expression.to_owned());
        self.write(&what)?;
        Ok(self)
    }

    /// Forgets a name.
    pub(crate) fn forget(mut self, name: &str) -> Result<(), Failure> {
        let what = format!("could not forget target {name}");
        if self.targets.remove(name).is_none() {
            let why = "no target is kept under this name";
            return Err(Failure::new(Exit::NotFound, what, why).on(self.path.display()).next("muster target saved"));
        }
        self.write(&what)
    }

    fn write(&self, what: &str) -> Result<(), Failure> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        let text = toml::to_string_pretty(&self.targets).expect("texts under texts are always TOML");
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let part = self.path.with_extension(format!("{}.part", std::process::id()));
        let written = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).and_then(|()| {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&part, &self.path)
        });
        written
            .inspect_err(|_| _ = std::fs::remove_file(&part))
            .map_err(|error| Failure::local(what, self.path.display(), &error))
    }
}

/// Returns a target with its names written out: by what is kept here, else by what the server says, if the person agrees
/// to it. All else stays as it was written, byte by byte. Nobody is asked for what is kept here.
pub(crate) async fn written_out(
    what: &str,
    text: String,
    server: impl FnOnce() -> Result<Context, Failure>,
) -> Result<String, Failure> {
    let (written, said) = looked_up(what, text, server).await?;
    if let Some((name, meaning)) = said.first() {
        let next = format!(
            "if that is what you mean, keep it on your side: muster target save {} {}; or write it out",
            safe(name),
            safe(&quoted(meaning))
        );
        consent::ask("Is this what you mean?", &next).await?;
    }
    Ok(written)
}

/// Returns a target with its names written out as [`written_out`] does, and those names whose meaning is the server's word,
/// for a command that signs nothing: they are shown, and nobody is asked.
pub(crate) async fn looked_up(
    what: &str,
    text: String,
    server: impl FnOnce() -> Result<Context, Failure>,
) -> Result<(String, Vec<(String, String)>), Failure> {
    let names = names_of(&text);
    if names.is_empty() {
        return Ok((text, Vec::new()));
    }
    let kept = Kept::read()?;
    let mut meanings = kept.targets.clone();
    let missing: Vec<_> = names.iter().filter(|name| !meanings.contains_key(*name)).collect();
    let mut said = Vec::new();
    if !missing.is_empty() {
        let context = server()?;
        let known = of_server(&context, what).await?;
        for name in missing {
            if let Some(meaning) = known.get(name) {
                said.push((name.clone(), meaning.clone()));
                meanings.insert(name.clone(), meaning.clone());
            }
        }
    }
    let written = target::expand(&text, |name| meanings.get(name).cloned()).map_err(|error| {
        let next = "`muster target saved` shows the names that you keep, `muster target list` those of the server";
        let next = error.hint.clone().filter(|hint| !hint.contains("target list")).unwrap_or_else(|| next.to_owned());
        consent::say(&error.pointed(&text).lines().map(safe).collect::<Vec<_>>());
        Failure::usage("could not read the target", error.message).on(&text).next(next)
    })?;
    let mut lines: Vec<_> =
        said.iter().map(|(name, meaning)| format!("The server says that @{name} means: {}", safe(meaning))).collect();
    lines.push(format!("With names written out: {}", safe(&written)));
    consent::say(&lines);
    Ok((written, said))
}

/// Returns a target that means machines of this fleet alone, which a machine knows of itself. The rest stays as it was
/// written.
pub(crate) fn of_fleet(target: String, fleet: Option<&str>) -> String {
    match fleet {
        Some(fleet) => format!("({target}) AND fleet = '{}'", fleet.replace('\'', "''")),
        None => target,
    }
}

/// Asks the server what its names mean.
pub(crate) async fn of_server(context: &Context, what: &str) -> Result<BTreeMap<String, String>, Failure> {
    let answer = context.api.get(what, &["named-targets"], &()).await?;
    let known: Page<NamedTargetRow> = context.api.read(what, &answer)?;
    Ok(known.items.into_iter().map(|row| (row.name, row.expression)).collect())
}

/// Writes a text as a shell takes it for one word.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Whether a target holds names, so that it must be written out before it is signed.
pub(crate) fn holds_names(text: &str) -> bool {
    !names_of(text).is_empty()
}

fn names_of(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    // What cannot be read is told by whoever reads it next.
    let _ = target::expand(text, |name| {
        names.insert(name.to_owned());
        Some("true".to_owned())
    });
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_at_signs_in_text() {
        for with in ["@web", "status = 'online' AND @web", "NOT (@a OR @b)"] {
            assert!(holds_names(with), "{with}");
        }
        for without in ["", "name = 'a@b'", "name = '@web'", "true", "name ="] {
            assert!(!holds_names(without), "{without}");
        }
    }

    #[test]
    fn a_fleet_is_added_to_the_whole_of_a_target() {
        let target = of_fleet("name = 'a' OR name = 'b'".to_owned(), Some("lab"));
        assert_eq!(target, "(name = 'a' OR name = 'b') AND fleet = 'lab'");
        assert!(Target::parse(&target).is_ok() && Target::parse(&of_fleet("true".to_owned(), Some("it's"))).is_ok());
        assert_eq!(of_fleet("true".to_owned(), None), "true");
    }

    #[test]
    fn what_is_kept_is_read_again_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/targets.toml");
        let kept = || Kept::at(path.clone()).unwrap();
        assert!(kept().targets().is_empty());
        kept().save("web", "name LIKE 'web%'").unwrap();
        kept().save("db.1", "true").unwrap();
        kept().save("db.1", "false").unwrap();
        assert_eq!(kept().targets()["web"], "name LIKE 'web%'");
        assert_eq!(kept().targets()["db.1"], "false");
        kept().forget("web").unwrap();
        assert_eq!(kept().forget("web").unwrap_err().exit, Exit::NotFound);
        for (name, expression) in [("a b", "true"), ("a", "@web"), ("a", "name ="), ("a", "name = '\u{202e}x'")] {
            assert!(kept().save(name, expression).is_err(), "{name}: {expression}");
        }
        std::fs::write(&path, "web = 1").unwrap();
        assert!(Kept::at(path).unwrap_err().next.contains("web ="));
    }

    #[test]
    fn targets_of_another_account_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/targets.toml");
        Kept::at(path.clone()).unwrap().save("web", "true").unwrap();
        crate::own::tests::refuses_what_others_wrote(&path, &|| Kept::at(path.clone()).map(drop));
    }

    #[test]
    fn a_target_for_a_shell_is_one_word() {
        assert_eq!(quoted("name = 'x'"), r"'name = '\''x'\'''");
    }
}
