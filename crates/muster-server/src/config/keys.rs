//! How keys are defined: once, with their documentation and their default, from which the types, the sample file and
//! the names of environment variables all follow.

/// A key of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its section; empty for the keys at the top.
    pub section: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// What it means, a line a sentence or more.
    pub doc: &'static str,
    /// Its default as TOML, or an example where it has none.
    pub value: &'static str,
    /// Whether `value` is its default.
    pub is_default: bool,
}

impl Key {
    /// Its name with its section, such as `agents.address`.
    pub fn path(&self) -> String {
        if self.section.is_empty() { self.name.to_owned() } else { format!("{}.{}", self.section, self.name) }
    }

    /// The environment variable that sets it, such as `MUSTER_AGENTS_ADDRESS`.
    pub fn variable(&self) -> String {
        format!("MUSTER_{}", self.path().replace('.', "_").to_uppercase())
    }
}

/// A section of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub doc: &'static str,
    /// Its keys, in the order of the sample file.
    pub keys: &'static [Key],
}

/// Defines a section: `key: Type, default "TOML"` or `key: Type, example "TOML"` for a key that has no value unless set.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident in $section:literal { $($(#[doc = $doc:literal])+ $key:ident: $type:ty, $kind:ident $value:literal;)+ }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[doc = $doc])+ pub $key: $type,)+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $crate::config::keys::value!($kind $value),)+ }
            }
        }

        impl $name {
            /// The section as the sample file shows it.
            pub const SECTION: $crate::config::keys::Section = $crate::config::keys::Section {
                name: $section,
                doc: concat!($($about, "\n"),+),
                keys: &[$($crate::config::keys::Key {
                    section: $section,
                    name: stringify!($key),
                    doc: concat!($($doc, "\n"),+),
                    value: $value,
                    is_default: $crate::config::keys::is_default!($kind),
                }),+],
            };
        }
    };
}

macro_rules! value {
    (default $value:literal) => {
        $crate::config::keys::parse_default($value)
    };
    (example $value:literal) => {
        Default::default()
    };
}

macro_rules! is_default {
    (default) => {
        true
    };
    (example) => {
        false
    };
}

pub(crate) use {is_default, section, value};

/// Reads a default from its TOML text.
pub(crate) fn parse_default<T: serde::de::DeserializeOwned>(value: &str) -> T {
    T::deserialize(toml::de::ValueDeserializer::parse(value).expect("a default is TOML, as a test shows"))
        .expect("a default has the type of its key, as a test shows")
}
