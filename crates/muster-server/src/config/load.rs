//! How a configuration comes together: file, environment, flags; and where each value came from, for errors.

use super::keys::Key;
use super::{Config, SECTIONS, check};
use crate::ownership;
use muster_modules::place::Keeper;
use serde::de::IntoDeserializer;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// What flags say. They win over the environment and the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--data`
    pub data: Option<PathBuf>,
    /// `--database`
    pub database: Option<String>,
    /// `--agents`
    pub agents: Option<String>,
    /// `--operators`
    pub operators: Option<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--fleetspeak-services`
    pub fleetspeak_services: Option<PathBuf>,
    /// What the configuration is read for.
    pub purpose: Purpose,
}

/// What a configuration is read for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Purpose {
    /// A server runs by it, or what is written follows from it.
    #[default]
    Use,
    /// Somebody looks at it and at what it names. Root may look at what belongs to the account that has the data directory.
    Look,
}

impl Overrides {
    /// Returns flag, key and value of what is set.
    fn set(&self) -> Vec<(&'static str, &'static str, String)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        [
            ("--data", "data", path(&self.data)),
            ("--database", "database", self.database.clone()),
            ("--agents", "agents.address", self.agents.clone()),
            ("--operators", "operators.address", self.operators.clone()),
            ("--admin", "admin.address", self.admin.clone()),
            ("--fleetspeak-services", "fleetspeak_services", path(&self.fleetspeak_services)),
        ]
        .into_iter()
        .filter_map(|(flag, key, value)| Some((flag, key, value?)))
        .collect()
    }
}

/// What is wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it was said: a file and line, a variable, a flag; or that it is the default.
    pub origin: String,
    /// Which key, such as `admin.address`; empty when the text itself cannot be read.
    pub key: String,
    /// Why it is wrong.
    pub why: String,
    /// What to do about it.
    pub advice: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, key, why, advice } = self;
        write!(f, "{origin}: ")?;
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        write!(f, "{why}")?;
        if advice.is_empty() { Ok(()) } else { write!(f, ". {advice}") }
    }
}

/// Everything that is wrong with a configuration; at least one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

/// Where each key was said, by its path.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<String, String>);

impl Origins {
    /// Returns where `key`, or else the section around it, was said.
    pub(super) fn of(&self, key: &str) -> String {
        let mut key = key;
        loop {
            if let Some(origin) = self.0.get(key) {
                return origin.clone();
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return "the default configuration".to_owned(),
            }
        }
    }
}

impl Config {
    /// Reads `file` (when there is one), the variables of `environment` whose names start with `MUSTER_`, and flags;
    /// then checks that everything goes together.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &Overrides,
    ) -> Result<Self, ConfigErrors> {
        let is_ours = |keeper: &Keeper| match file {
            Some(path) => ownership::configuration_check(keeper, path).map_err(|error| not_ours(path, &error)),
            None => Ok(()),
        };
        let refused = is_ours(&Keeper::this_process()).err();
        if let Some(refused) = &refused
            && flags.purpose == Purpose::Use
        {
            return Err(refused.clone().into());
        }
        let text = match file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| ConfigError {
                origin: path.display().to_string(),
                key: String::new(),
                why: format!("the file cannot be read: {error}"),
                advice: "Name another file with --config, or see `muster config show --defaults` for one to start \
                         from."
                    .into(),
            })?,
        };
        let name = file.map(|path| path.display().to_string()).unwrap_or_default();
        let config = Self::from_parts(&text, &name, environment, flags)?;
        if refused.is_some() {
            // Whose it may be follows from the data directory, which it names itself.
            is_ours(&ownership::keeper_of(&config.data.0))?;
        }
        Ok(config)
    }

    /// As [`Config::load`], with the text of the file and its name for errors.
    pub fn from_parts(
        text: &str,
        name: &str,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &Overrides,
    ) -> Result<Self, ConfigErrors> {
        let mut origins = Origins::default();
        let mut values = file_values(text, name, &mut origins)?;
        for (variable, value) in environment {
            if let Some(key) = key_of_variable(&variable)? {
                let value = value_of_variable(key, &variable, value)?;
                put(&mut values, key, value, format!("environment variable {variable}"), &mut origins)?;
            }
        }
        for (flag, path, value) in flags.set() {
            let key = all_keys().find(|key| key.path() == path).expect("a flag sets a key that there is");
            put(&mut values, key, Value::String(value), format!("flag {flag}"), &mut origins)?;
        }
        let deserializer = Value::Table(values).into_deserializer();
        let config: Self = serde_path_to_error::deserialize(deserializer).map_err(|error| refused(&error, &origins))?;
        check::check(&config, &origins)?;
        Ok(config)
    }
}

fn not_ours(path: &Path, error: &ownership::OwnershipError) -> ConfigError {
    ConfigError {
        origin: path.display().to_string(),
        key: String::new(),
        why: format!("the file decides what the server is: {}", crate::observe::Chain(error)),
        advice: "Run this as the server's user; let the file belong to that user or root, and nobody else write it."
            .into(),
    }
}

fn all_keys() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().filter(|section| section.name != "services").flat_map(|section| section.keys)
}

/// Reads the file and notes on which line each key stands.
fn file_values(text: &str, name: &str, origins: &mut Origins) -> Result<Table, ConfigError> {
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let broken = |error: &toml::de::Error| ConfigError {
        origin: format!("{name}:{}", line(error.span().map_or(0, |span| span.start))),
        key: String::new(),
        why: format!("this is not TOML: {}", error.message()),
        advice: "See `muster config show --defaults` for how a file looks.".into(),
    };
    let spans = toml::de::DeTable::parse(text).map_err(|error| broken(&error))?;
    note_table(spans.get_ref(), "", &|at| format!("{name}:{}", line(at)), origins);
    text.parse().map_err(|error| broken(&error))
}

fn note_table(table: &toml::de::DeTable<'_>, prefix: &str, origin: &dyn Fn(usize) -> String, origins: &mut Origins) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        origins.0.insert(path.clone(), origin(key.span().start));
        note_value(value.get_ref(), &path, origin, origins);
    }
}

fn note_value(value: &toml::de::DeValue<'_>, path: &str, origin: &dyn Fn(usize) -> String, origins: &mut Origins) {
    if let Some(table) = value.as_table() {
        note_table(table, path, origin, origins);
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}[{index}]");
        origins.0.insert(path.clone(), origin(item.span().start));
        note_value(item.get_ref(), &path, origin, origins);
    }
}

/// Finds the key that a variable sets. A variable that looks like a key of a section and is none is an error, because
/// it would otherwise be passed over in silence.
fn key_of_variable(variable: &str) -> Result<Option<&'static Key>, ConfigError> {
    if let Some(key) = all_keys().find(|key| key.variable() == variable) {
        return Ok(Some(key));
    }
    let section = SECTIONS.iter().find(|section| {
        !section.name.is_empty() && variable.starts_with(&format!("MUSTER_{}_", section.name.to_uppercase()))
    });
    match section {
        None => Ok(None),
        Some(section) => Err(ConfigError {
            origin: format!("environment variable {variable}"),
            key: section.name.to_owned(),
            why: "there is no such key in this section".into(),
            advice: match section.name {
                "services" => "Services are set in the file only.".into(),
                _ => format!("Its keys are: {}.", names(section.keys)),
            },
        }),
    }
}

fn names(keys: &[Key]) -> String {
    keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

/// Gives the text of a variable the type that its key has: lists are parted by commas, or written as TOML.
fn value_of_variable(key: &Key, variable: &str, text: String) -> Result<Value, ConfigError> {
    let like: Value = super::keys::parse_default(key.value);
    let parsed = || {
        super::load::toml_value(&text).ok_or_else(|| ConfigError {
            origin: format!("environment variable {variable}"),
            key: key.path(),
            why: format!("{text:?} is not a value such as {}", key.value),
            advice: "Write it as it would stand in the file.".into(),
        })
    };
    match like {
        Value::String(_) => Ok(Value::String(text)),
        Value::Array(_) if !text.trim_start().starts_with('[') => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
        _ => parsed(),
    }
}

fn toml_value(text: &str) -> Option<Value> {
    let deserializer = toml::de::ValueDeserializer::parse(text.trim()).ok()?;
    serde::Deserialize::deserialize(deserializer).ok()
}

fn put(values: &mut Table, key: &Key, value: Value, origin: String, origins: &mut Origins) -> Result<(), ConfigError> {
    let table = match key.section {
        "" => values,
        section => {
            let entry = values.entry(section).or_insert_with(|| Value::Table(Table::new()));
            entry.as_table_mut().ok_or_else(|| ConfigError {
                origin: origins.of(section),
                key: section.to_owned(),
                why: "this must be a section".into(),
                advice: format!("Write [{section}] on a line of its own and its keys below it."),
            })?
        }
    };
    table.insert(key.name.to_owned(), value);
    origins.0.insert(key.path(), origin);
    Ok(())
}

/// Words what serde found.
fn refused(error: &serde_path_to_error::Error<toml::de::Error>, origins: &Origins) -> ConfigErrors {
    let path = error.path().to_string();
    let message = error.inner().message().trim().to_owned();
    let mut key = if path == "." { String::new() } else { path };
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()).map(str::to_owned);
    let (why, advice) = match unknown {
        Some(field) => {
            // serde names the section, or the key itself when it stands at the top.
            if key.rsplit('.').next() != Some(field.as_str()) {
                key = if key.is_empty() { field } else { format!("{key}.{field}") };
            }
            let section = key.rsplit_once('.').map_or("", |(section, _)| section.split('[').next().unwrap_or(""));
            let keys = SECTIONS.iter().find(|known| known.name == section).map_or("", |_| section);
            let names = SECTIONS.iter().find(|known| known.name == keys).map(|known| names(known.keys));
            let sections = SECTIONS.iter().map(|section| section.name).filter(|name| !name.is_empty());
            let advice = match (section, names) {
                ("", Some(names)) => {
                    format!("At the top stand {names}; sections are {}.", sections.collect::<Vec<_>>().join(", "))
                }
                (_, Some(names)) => format!("Keys of this section are: {names}."),
                (_, None) => "See `muster config show --defaults` for all keys.".into(),
            };
            ("there is no such key".into(), advice)
        }
        None => (message, "See `muster config show --defaults` for what the key means.".into()),
    };
    ConfigError { origin: origins.of(&key), key, why, advice }.into()
}
