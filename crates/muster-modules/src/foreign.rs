//! Which modules an agent has: those built in, and programs of others that its configuration names.
//!
//! Stays true: a foreign module is any program that speaks the protocol (one line of parameters in, one line of result
//! out); it can never take the name of a module built in; when a hash is told, what runs is what was hashed.

use crate::confine::Limits;
use crate::module::{Asker, Effect, Privilege};
use crate::place::{Absent, PlaceError, owner_check, place_check};
use crate::registry;
use crate::sandbox::{ForeignNeeds, Walls};
use crate::user::Users;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::PathBuf;

/// A program that is a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignModule {
    /// The program, as an absolute path.
    pub path: PathBuf,
    /// What it is started with, such as `-m file` for MIG's own agent.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// The SHA-256 of the program in hexadecimal; another program is not run.
    #[serde(default)]
    pub sha256: Option<String>,
    /// The least weight that signatures must have together.
    #[serde(default = "weight_min_default")]
    pub weight_min: u32,
    /// Whether it changes anything; assumed unless told.
    #[serde(default = "effect_default")]
    pub effect: Effect,
    /// What its process keeps of the agent's privileges.
    #[serde(default = "privilege_default")]
    pub privilege: Privilege,
    /// Below which absolute paths it reads and executes files, beside its own program and what programs are loaded with;
    /// everywhere unless told. Counts where the kernel has Landlock.
    #[serde(default)]
    pub reads: Option<Vec<PathBuf>>,
    /// Whether it speaks with other machines.
    #[serde(default = "network_default")]
    pub network: bool,
    /// Whether it connects to Unix sockets of this machine that have a path, such as those of D-Bus, of a container engine,
    /// of services that resolve names, or the agent's own. Not unless said.
    #[serde(default)]
    pub local_sockets: bool,
}

impl ForeignModule {
    /// Returns what the kernel keeps from the program; `None` for one that changes the machine with all that the agent may
    /// and says nothing of what it needs. Called by a process of the agent's user.
    pub(crate) fn walls(&self) -> Option<Walls> {
        let writes = self.effect == Effect::Changes;
        let keeps_user = self.privilege == Privilege::Agent;
        let (reads, network, local_sockets) = (self.reads.as_deref(), self.network, self.local_sockets);
        let is_free = writes && keeps_user && reads.is_none() && network;
        // Only root can give it a user of its own.
        let is_alone = !keeps_user && rustix::process::geteuid().is_root();
        let needs = ForeignNeeds { reads, writes, network, local_sockets, is_alone };
        (!is_free).then(|| Walls::of_foreign(&self.path, needs))
    }

    /// Makes sure that nobody but root and this process's user can put another program where this one is: neither by
    /// writing to it, nor by exchanging it or a directory above it.
    ///
    /// # Errors
    /// What others could change, and what to do about it.
    pub fn place_check(&self) -> Result<(), String> {
        place_check(&self.path, Absent::Refused).map_err(|error| match error {
            PlaceError::Look { path, source } => crate::reading::open_error(&path, &source),
            other => other.to_string(),
        })
    }
}

fn network_default() -> bool {
    true
}

fn weight_min_default() -> u32 {
    2
}

fn effect_default() -> Effect {
    Effect::Changes
}

fn privilege_default() -> Privilege {
    Privilege::None
}

/// Why foreign modules cannot be configured so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// A module built in has that name.
    #[error("module {0:?} is built in; give the program another name")]
    BuiltIn(String),
    /// The name is none.
    #[error("a module's name has 1 to 64 characters of a-z, 0-9, '_' and '-', not {0:?}")]
    Name(String),
    /// The path is not absolute.
    #[error("the program of module {name:?} must be an absolute path, not {path:?}")]
    Path {
        /// The module.
        name: String,
        /// What was given.
        path: PathBuf,
    },
    /// A path that it reads below is not absolute.
    #[error("the paths that module {name:?} reads must be absolute, not {path:?}")]
    Reads {
        /// The module.
        name: String,
        /// What was given.
        path: PathBuf,
    },
    /// The hash is none.
    #[error("the sha256 of module {0:?} must have 64 hexadecimal digits")]
    Hash(String),
    /// Nobody would have to sign.
    #[error("the weight_min of module {0:?} must be 1 or more")]
    Weight(String),
}

/// What is known of a module, whoever wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ModuleFacts<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it answers.
    pub summary: &'a str,
    /// The least weight that signatures must have together.
    pub weight_min: u32,
    /// Whether it changes anything.
    pub effect: Effect,
    /// What its process keeps of the agent's privileges.
    pub privilege: Privilege,
}

/// The modules of one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    foreign: BTreeMap<String, ForeignModule>,
    users: Users,
}

impl Catalogue {
    /// Returns the modules built in and these.
    ///
    /// # Errors
    /// A name, path, hash or weight that cannot be.
    pub fn new(foreign: BTreeMap<String, ForeignModule>) -> Result<Self, CatalogueError> {
        for (name, module) in &foreign {
            let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
            if !(1..=64).contains(&name.len()) || !name.chars().all(letter) {
                return Err(CatalogueError::Name(name.clone()));
            }
            if registry::find(name).is_some() {
                return Err(CatalogueError::BuiltIn(name.clone()));
            }
            if !module.path.is_absolute() {
                return Err(CatalogueError::Path { name: name.clone(), path: module.path.clone() });
            }
            if let Some(path) = module.reads.iter().flatten().find(|path| !path.is_absolute()) {
                return Err(CatalogueError::Reads { name: name.clone(), path: path.clone() });
            }
            let is_hash = |hash: &String| hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit());
            if module.sha256.as_ref().is_some_and(|hash| !is_hash(hash)) {
                return Err(CatalogueError::Hash(name.clone()));
            }
            if module.weight_min == 0 {
                return Err(CatalogueError::Weight(name.clone()));
            }
        }
        Ok(Self { foreign, users: Users::default() })
    }

    /// Lets programs of others run as these users.
    #[must_use]
    pub fn with_users(self, users: Users) -> Self {
        Self { users, ..self }
    }

    /// Returns the modules of others, by name.
    pub fn foreign(&self) -> &BTreeMap<String, ForeignModule> {
        &self.foreign
    }

    /// Returns what is known of the module called `name`.
    pub fn facts<'a>(&'a self, name: &str) -> Option<ModuleFacts<'a>> {
        if let Some(module) = registry::find(name) {
            let info = module.info();
            return Some(ModuleFacts {
                name: info.name,
                summary: info.summary,
                weight_min: info.weight_min,
                effect: info.effect,
                privilege: info.privilege,
            });
        }
        let (name, module) = self.foreign.get_key_value(name)?;
        let ForeignModule { weight_min, effect, privilege, .. } = *module;
        Some(ModuleFacts { name, summary: "a program named in the configuration", weight_min, effect, privilege })
    }

    /// Returns the names of all modules, in order.
    pub fn names(&self) -> Vec<&str> {
        let built_in = registry::built_in().iter().map(|module| module.info().name);
        let mut names: Vec<_> = built_in.chain(self.foreign.keys().map(String::as_str)).collect();
        names.sort_unstable();
        names
    }

    /// Returns what a child process has to know to be the module called `name`.
    pub fn plan(&self, name: &str, limits: Limits, asker: Option<Asker>) -> Option<Plan> {
        let facts = self.facts(name)?;
        let foreign = self.foreign.get(name).cloned();
        Some(Plan { module: facts.name.to_owned(), foreign, limits, asker, users: self.users })
    }
}

/// What a child process has to know to be a module. It travels as its last argument, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The module's name.
    pub module: String,
    /// The program, when it is not built in.
    pub foreign: Option<ForeignModule>,
    /// What the process may use.
    pub limits: Limits,
    /// The agent that asks.
    pub asker: Option<Asker>,
    /// The users for programs of others.
    #[serde(default)]
    pub users: Users,
}

/// Opens a foreign module's program, and checks that it is the one that was meant.
pub(crate) fn open_program(module: &ForeignModule) -> Result<File, String> {
    let shown = module.path.display();
    let refused = |why| format!("{shown} is not run: {why}");
    let mut file = File::open(&module.path).map_err(|error| crate::reading::open_error(&module.path, &error))?;
    module.place_check().map_err(refused)?;
    // What was opened may be another file than the one that was looked at.
    let opened = file.metadata().map_err(|error| crate::reading::open_error(&module.path, &error))?;
    if !opened.is_file() {
        return Err(refused("it is no file".to_owned()));
    }
    owner_check(&module.path, &opened).map_err(|error| refused(error.to_string()))?;
    let Some(want) = &module.sha256 else { return Ok(file) };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let read_error = |error: std::io::Error| format!("read {shown}: {}", crate::gotext::reason(&error));
    loop {
        let bytes = file.read(&mut buffer).map_err(read_error)?;
        if bytes == 0 {
            break;
        }
        hash.update(&buffer[..bytes]);
    }
    let have = hex::encode(hash.finalize());
    if !have.eq_ignore_ascii_case(want) {
        return Err(format!("{shown} has SHA-256 {have}, not {want}: it is not the program that was configured"));
    }
    file.rewind().map_err(read_error)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::geteuid;
    use std::path::Path;

    #[test]
    fn a_program_that_others_could_exchange_is_not_run() {
        use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (inner, program) = (dir.path().join("inner"), dir.path().join("inner/program"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        let set =
            |path: &Path, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let hash = Some(hex::encode(Sha256::digest(b"#!/bin/sh\n")));
        let module = ForeignModule { sha256: hash, ..module(program.to_str().unwrap()) };
        set(&program, 0o755);
        assert!(open_program(&module).is_ok());
        for (path, mode) in [(&program, 0o757), (&inner, 0o757), (&inner, 0o777)] {
            set(path, mode);
            let why = open_program(&module).unwrap_err();
            assert!(why.contains(&format!("{} can be written by others", path.display())), "{why}");
            set(path, 0o755);
        }
        set(&inner, 0o1777);
        assert!(open_program(&module).is_ok(), "in a sticky directory nobody exchanges it");
        set(&inner, 0o755);
        let (elsewhere, link) = (dir.path().join("elsewhere"), dir.path().join("link"));
        std::fs::create_dir(&elsewhere).unwrap();
        symlink(&inner, &link).unwrap();
        let linked = ForeignModule { path: link.join("program"), ..module.clone() };
        assert!(open_program(&linked).is_ok());
        set(&inner, 0o777);
        assert!(open_program(&linked).is_err(), "where a link leads to counts");
        set(&inner, 0o755);
        if geteuid().is_root() {
            for path in [&program, &inner] {
                chown(path, Some(1000), None).unwrap();
                let why = open_program(&module).unwrap_err();
                assert!(why.contains(&format!("{} belongs to user 1000", path.display())), "{why}");
                chown(path, Some(0), None).unwrap();
            }
            set(&program, 0o775);
            chown(&program, None, Some(1000)).unwrap();
            assert!(open_program(&module).unwrap_err().contains("can be written by others"), "by a group");
        }
    }

    fn module(path: &str) -> ForeignModule {
        serde_json::from_value(serde_json::json!({"path": path})).unwrap()
    }

    fn catalogue(name: &str, module: ForeignModule) -> Result<Catalogue, CatalogueError> {
        Catalogue::new(BTreeMap::from([(name.to_owned(), module)]))
    }

    #[test]
    fn a_program_becomes_a_module_that_is_taken_to_change_something() {
        let catalogue = catalogue("yara", module("/usr/bin/muster-yara")).unwrap();
        let facts = catalogue.facts("yara").unwrap();
        assert_eq!((facts.weight_min, facts.effect, facts.privilege), (2, Effect::Changes, Privilege::None));
        assert!(catalogue.names().contains(&"yara") && catalogue.names().contains(&"timedrift"));
        assert_eq!(catalogue.plan("yara", Limits::default(), None).unwrap().module, "yara");
        assert!(catalogue.plan("nosuch", Limits::default(), None).is_none());
    }

    #[test]
    fn what_cannot_be_a_module_is_refused() {
        let refused = |name: &str, module| catalogue(name, module).unwrap_err();
        assert_eq!(refused("timedrift", module("/x")), CatalogueError::BuiltIn("timedrift".into()));
        for name in ["", "a b", "Ä", &"x".repeat(65)] {
            assert_eq!(refused(name, module("/x")), CatalogueError::Name(name.into()));
        }
        assert!(matches!(refused("a", module("x")), CatalogueError::Path { .. }));
        let hash = ForeignModule { sha256: Some("12".into()), ..module("/x") };
        assert_eq!(refused("a", hash), CatalogueError::Hash("a".into()));
        assert_eq!(refused("a", ForeignModule { weight_min: 0, ..module("/x") }), CatalogueError::Weight("a".into()));
    }

    #[test]
    fn only_the_program_that_was_hashed_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        let right = hex::encode(Sha256::digest(b"#!/bin/sh\n")).to_uppercase();
        let mut module = ForeignModule { sha256: Some(right), ..module(path.to_str().unwrap()) };
        assert!(open_program(&module).is_ok());
        module.sha256 = Some("0".repeat(64));
        assert!(open_program(&module).unwrap_err().contains("not the program that was configured"));
        module.path = dir.path().join("gone");
        assert!(open_program(&module).unwrap_err().ends_with("gone: no such file or directory"));
    }
}
