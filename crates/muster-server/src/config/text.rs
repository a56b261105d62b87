//! The configuration as text: the sample with every key, and what a server really uses.

use super::keys::{Key, Section};
use super::{Config, SECTIONS};
use std::fmt::Write as _;

impl Config {
    /// Returns the sample file: every key with its meaning and its default.
    pub fn defaults_text() -> String {
        SECTIONS.iter().map(|section| sample(section, None)).collect::<Vec<_>>().join("\n")
    }

    /// Returns this configuration in the form of the sample file, with its own values. A database's password is left
    /// out.
    pub fn to_text(&self) -> String {
        let values = toml::Value::try_from(self).expect("a configuration is made of plain values");
        let (services, sections) = SECTIONS.split_last().expect("there are sections");
        let mut parts: Vec<_> = sections
            .iter()
            .map(|section| {
                let of = if section.name.is_empty() { Some(&values) } else { values.get(section.name) };
                sample(section, of)
            })
            .collect();
        let list = values.get("services").and_then(toml::Value::as_array);
        parts.extend(list.into_iter().flatten().map(|service| sample(services, Some(service))));
        parts.join("\n")
    }
}

/// Writes a section with `values`, or with the defaults. What has no value is commented out.
fn sample(section: &Section, values: Option<&toml::Value>) -> String {
    let is_list = section.name == "services";
    let hidden = is_list && values.is_none();
    let mut text = comment(section.doc);
    let mark = if hidden { "#" } else { "" };
    match (section.name, is_list) {
        ("", _) => {}
        (name, true) => writeln!(text, "{mark}[[{name}]]").expect("writing to a string"),
        (name, false) => writeln!(text, "[{name}]").expect("writing to a string"),
    }
    for key in section.keys {
        text.push('\n');
        text.push_str(&line(key, values, hidden));
    }
    text
}

fn line(key: &Key, values: Option<&toml::Value>, hidden: bool) -> String {
    let own = values.map(|values| values.get(key.name));
    let (value, is_set) = match own {
        Some(Some(value)) => (value.to_string(), true),
        Some(None) => (key.value.to_owned(), false),
        None => (key.value.to_owned(), key.is_default),
    };
    let mark = if hidden || !is_set { "#" } else { "" };
    format!("{}{mark}{} = {value}\n", comment(key.doc), key.name)
}

fn comment(doc: &str) -> String {
    let mut text = String::new();
    for line in doc.lines() {
        writeln!(text, "#{}", line.trim_end()).expect("writing to a string");
    }
    text
}
