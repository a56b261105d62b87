//! Which modules an agent has: those built in, and programs of others that its configuration names.
//!
//! Stays true: a foreign module is any program that speaks the protocol (one line of parameters in, one line of result
//! out); it can never take the name of a module built in; when a hash is told, what runs is what was hashed.

use crate::confine::Limits;
use crate::module::{Asker, Effect, Privilege};
use crate::registry;
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
            let is_hash = |hash: &String| hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit());
            if module.sha256.as_ref().is_some_and(|hash| !is_hash(hash)) {
                return Err(CatalogueError::Hash(name.clone()));
            }
            if module.weight_min == 0 {
                return Err(CatalogueError::Weight(name.clone()));
            }
        }
        Ok(Self { foreign })
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
        Some(Plan { module: facts.name.to_owned(), foreign, limits, asker })
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
}

/// Opens a foreign module's program, and checks that it is the one that was meant.
pub(crate) fn open_program(module: &ForeignModule) -> Result<File, String> {
    let shown = module.path.display();
    let mut file = File::open(&module.path).map_err(|error| crate::reading::open_error(&module.path, &error))?;
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
