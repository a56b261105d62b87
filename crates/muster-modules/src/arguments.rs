//! Parameters from a command line, in the form MIG's users type it.
//!
//! Stays true: `-path /etc`, `--path /etc` and `--path=/etc` are the same; a switch takes a value only after `=`; what a
//! module does not know is refused with the flags it does know.

use crate::module::{Effect, Module};
use crate::registry;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A text; the flag may be given once.
    Text,
    /// A text; the flag may be given again and again.
    Texts,
    /// A number.
    Number,
    /// Nothing, or `=true` or `=false`.
    Nothing,
}

/// One flag of a module.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// What stands for the value in the help, such as `REGEX`.
    pub value: &'static str,
    /// What it does.
    pub help: &'static str,
}

impl Flag {
    /// Returns a flag that takes one text.
    pub const fn text(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { name, takes: Takes::Text, value, help }
    }

    /// Returns a flag that takes a text, again and again.
    pub const fn texts(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self { name, takes: Takes::Texts, value, help }
    }

    /// Returns a flag that takes a number.
    pub const fn number(name: &'static str, help: &'static str) -> Self {
        Self { name, takes: Takes::Number, value: "N", help }
    }

    /// Returns a flag that is on or off.
    pub const fn switch(name: &'static str, help: &'static str) -> Self {
        Self { name, takes: Takes::Nothing, value: "", help }
    }
}

/// Why a command line makes no parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// There is no such module.
    #[error("{}; there are {}", registry::missing(.0), names())]
    NoModule(String),
    /// Help was asked for; this is it.
    #[error("{0}")]
    Help(String),
    /// A flag that the module does not have.
    #[error("module {module} has no flag {flag:?}; it has {known}")]
    UnknownFlag {
        /// The module.
        module: &'static str,
        /// The flags it has.
        known: String,
        /// What was given.
        flag: String,
    },
    /// A flag without its value.
    #[error("-{flag} needs a value: -{flag} {value}")]
    NoValue {
        /// The flag.
        flag: &'static str,
        /// What stands for the value in the help.
        value: &'static str,
    },
    /// A value that the flag does not take.
    #[error("-{flag} takes {wants}, not {given:?}")]
    WrongValue {
        /// The flag.
        flag: &'static str,
        /// What it takes.
        wants: &'static str,
        /// What was given.
        given: String,
    },
    /// A flag that may be given once.
    #[error("-{0} is given twice")]
    Twice(&'static str),
    /// A word that belongs to no flag.
    #[error("{0:?} belongs to no flag")]
    Stray(String),
    /// A quoted word without its end.
    #[error("the word that begins with {0} has no second {0} at its end")]
    Quote(char),
    /// A file that a flag names cannot be used.
    #[error("could not use {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The module does not accept what was given.
    #[error("module {module}: {why}")]
    Refused {
        /// The module.
        module: &'static str,
        /// Why not, in the module's words.
        why: String,
    },
}

fn names() -> String {
    registry::built_in().iter().map(|module| module.info().name).collect::<Vec<_>>().join(", ")
}

fn known(module: &dyn Module) -> String {
    if module.flags().is_empty() {
        return "none".to_owned();
    }
    module.flags().iter().map(|flag| format!("-{}", flag.name)).collect::<Vec<_>>().join(", ")
}

/// What a command line said.
#[derive(Debug, Clone, Default)]
pub struct Given {
    values: BTreeMap<&'static str, Vec<String>>,
}

impl Given {
    /// Returns the texts given with a flag, in order.
    pub fn texts(&self, flag: &str) -> Vec<String> {
        self.values.get(flag).cloned().unwrap_or_default()
    }

    /// Returns the text given with a flag.
    pub fn text(&self, flag: &str) -> Option<String> {
        self.values.get(flag).and_then(|texts| texts.last()).cloned()
    }

    /// Returns the number given with a flag, or `otherwise`.
    pub fn number(&self, flag: &str, otherwise: f64) -> f64 {
        self.text(flag).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    }

    /// Refuses a number below one, and one that is not whole: to MIG they mean "unless told", to nobody else.
    pub(crate) fn at_least_one(&self, flag: &'static str, wants: &'static str) -> Result<(), ArgumentError> {
        match self.text(flag) {
            Some(given) if !given.parse().is_ok_and(|number: u64| number > 0) => {
                Err(ArgumentError::WrongValue { flag, wants, given })
            }
            _ => Ok(()),
        }
    }

    /// Tells whether a switch is on.
    pub fn is_on(&self, flag: &str) -> bool {
        self.text(flag).is_some_and(|text| text == "true")
    }
}

/// Makes the parameters of `module` from a command line.
///
/// # Errors
/// No such module; `help` was asked for; the command line is not the module's; the module refuses the parameters.
pub fn params_from_args(module: &str, arguments: &[String]) -> Result<Value, ArgumentError> {
    let module = registry::find(module).ok_or_else(|| ArgumentError::NoModule(module.to_owned()))?;
    parameters_of(module, arguments)
}

/// Makes the parameters of a module that may be of another program, as [`params_from_args`] does.
///
/// # Errors
/// Those of [`params_from_args`] but the first.
pub fn parameters_of(module: &dyn Module, arguments: &[String]) -> Result<Value, ArgumentError> {
    module.parameters(&given(module, arguments)?)
}

/// Reads a command line of a module, and leaves what it means to the module.
pub(crate) fn given(module: &dyn Module, arguments: &[String]) -> Result<Given, ArgumentError> {
    let asks_help = |word: &String| matches!(word.as_str(), "help" | "-h" | "-help" | "--help");
    if arguments.first().is_some_and(asks_help) {
        return Err(ArgumentError::Help(help(module)));
    }
    parse(module, arguments)
}

/// Splits a command line that travels as one text into its words.
///
/// Words end at blanks. A word that begins with a quotation mark goes on to the same mark before the next blank; a
/// backslash is a letter, as expressions have many of them.
///
/// # Errors
/// A quoted word has no end.
pub fn words(text: &str) -> Result<Vec<String>, ArgumentError> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = if matches!(first, '\'' | '"') {
            let inside = &rest[1..];
            let ends = |at: &usize| inside[at + 1..].chars().next().is_none_or(char::is_whitespace);
            let end = inside.match_indices(first).map(|(at, _)| at).find(ends).ok_or(ArgumentError::Quote(first))?;
            (&inside[..end], &inside[end + 1..])
        } else {
            rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()))
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Ok(words)
}

fn parse(module: &dyn Module, arguments: &[String]) -> Result<Given, ArgumentError> {
    let mut given = Given::default();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|name| !name.is_empty())
        else {
            return Err(ArgumentError::Stray(word.clone()));
        };
        let (name, value) = name.split_once('=').map_or((name, None), |(name, value)| (name, Some(value.to_owned())));
        let unknown = || {
            let (module, known) = (module.info().name, known(module));
            ArgumentError::UnknownFlag { module, known, flag: word.clone() }
        };
        let flag = module.flags().iter().find(|flag| flag.name == name).ok_or_else(unknown)?;
        let value = match (flag.takes, value) {
            (Takes::Nothing, value) => value.unwrap_or_else(|| "true".to_owned()),
            (_, Some(value)) => value,
            (_, None) => words.next().cloned().ok_or(ArgumentError::NoValue { flag: flag.name, value: flag.value })?,
        };
        check(flag, &value)?;
        let values = given.values.entry(flag.name).or_default();
        if flag.takes != Takes::Texts && !values.is_empty() {
            return Err(ArgumentError::Twice(flag.name));
        }
        values.push(value);
    }
    Ok(given)
}

fn check(flag: &Flag, value: &str) -> Result<(), ArgumentError> {
    let wrong = |wants| Err(ArgumentError::WrongValue { flag: flag.name, wants, given: value.to_owned() });
    match flag.takes {
        Takes::Nothing if !matches!(value, "true" | "false") => wrong("true or false"),
        Takes::Number if !value.parse().is_ok_and(|number: f64| number.is_finite() && number >= 0.0) => {
            wrong("a number of 0 or more")
        }
        _ => Ok(()),
    }
}

/// Returns the help of a module's command line.
pub fn help(module: &dyn Module) -> String {
    let info = module.info();
    let effect = if info.effect == Effect::Reads { "It only looks" } else { "It CHANGES the machine" };
    let weight = format!(
        "{effect}. Signatures of weight {} are needed, unless a machine's own list of weights says otherwise.",
        info.weight_min
    );
    let mut text = format!("{}: {}\n{}\n\n", info.name, info.summary, wrapped(&weight, 0));
    if module.flags().is_empty() {
        text.push_str("It takes no parameters.\n");
        return text;
    }
    let left = |flag: &Flag| format!("-{} {}", flag.name, flag.value).trim_end().to_owned();
    let width = module.flags().iter().map(|flag| left(flag).len()).max().unwrap_or_default();
    for flag in module.flags() {
        let again = if flag.takes == Takes::Texts { '*' } else { ' ' };
        let help = wrapped(flag.help, width + 4);
        let _ = writeln!(text, "{again} {:width$}  {help}", left(flag));
    }
    if module.flags().iter().any(|flag| flag.takes == Takes::Texts) {
        text.push_str("\n* may be given again, for several values.\n");
    }
    let _ = writeln!(text, "\nExample: {} {}", info.name, module.example());
    text
}

/// Columns of help.
const HELP_COLUMNS: usize = 80;

/// Breaks a text into lines that begin after `indent` columns, the first of which is begun already.
fn wrapped(text: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut column = indent;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > indent && column + 1 + length > HELP_COLUMNS {
            let _ = write!(out, "\n{:indent$}", "");
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_help_of_a_module_fits_a_terminal_of_eighty_columns() {
        for module in crate::registry::built_in() {
            let text = help(*module);
            let wide: Vec<_> = text.lines().filter(|line| line.chars().count() > HELP_COLUMNS).collect();
            assert!(wide.is_empty(), "{wide:#?}");
            for flag in module.flags() {
                let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(words(&text).contains(&words(flag.help)), "{}", flag.help);
            }
        }
    }

    fn arguments(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn parameters(module: &str, words: &[&str]) -> Result<Value, ArgumentError> {
        params_from_args(module, &arguments(words))
    }

    #[test]
    fn one_dash_two_dashes_and_an_equals_sign_are_the_same() {
        for words in [&["-drift", "5s"][..], &["--drift", "5s"], &["-drift=5s"], &["--drift=5s"]] {
            assert_eq!(parameters("timedrift", words), Ok(serde_json::json!({"drift": "5s"})));
        }
    }

    #[test]
    fn what_a_module_does_not_take_is_refused_with_what_it_takes() {
        let error = |words: &[&str]| parameters("timedrift", words).unwrap_err().to_string();
        assert_eq!(error(&["-drfit", "5s"]), "module timedrift has no flag \"-drfit\"; it has -drift");
        assert_eq!(error(&["-drift"]), "-drift needs a value: -drift DURATION");
        assert_eq!(error(&["-drift", "5s", "-drift", "6s"]), "-drift is given twice");
        assert_eq!(error(&["drift", "5s"]), "\"drift\" belongs to no flag");
        assert!(error(&["-drift", "soon"]).contains("invalid duration"));
        let missing = parameters("nosuch", &[]).unwrap_err().to_string();
        assert!(missing.starts_with("module 'nosuch' is not available; there are "), "{missing}");
    }

    #[test]
    fn every_module_has_help_for_every_flag() {
        for module in registry::built_in() {
            let help = help(*module);
            for flag in module.flags() {
                assert!(help.contains(&format!(" -{}", flag.name)) && !flag.help.is_empty(), "{help}");
            }
            if *module.example() != *"-path policy.json -onlytrue" {
                let words = words(module.example()).unwrap();
                params_from_args(module.info().name, &words).unwrap_or_else(|error| panic!("the example: {error}"));
            }
            let asked = parameters(module.info().name, &["help"]);
            assert_eq!(asked, Err(ArgumentError::Help(help)));
        }
    }

    #[test]
    fn a_command_line_in_one_text_has_words_with_quotes_and_backslashes() {
        let split = |text: &str| words(text).unwrap();
        let want = ["-path", "/etc", "-name", r"\.so$", "-content", "it's a \"test\" file", ""];
        assert_eq!(split("  -path /etc\t-name \\.so$ -content 'it's a \"test\" file' \"\" "), want);
        assert_eq!(split("-name 'a' -name 'b'"), ["-name", "a", "-name", "b"], "one quote ends before the next begins");
        assert_eq!(split("x'y z\"é"), ["x'y", "z\"é"]);
        assert!(split(" \n").is_empty());
        for (text, quote) in [("'a", '\''), ("-name \"a b'", '"'), ("'", '\''), ("'a'b", '\'')] {
            assert_eq!(words(text), Err(ArgumentError::Quote(quote)), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn splitting_never_panics_and_quoting_is_undone(text in ".{0,20}", plain in "[^ \t\n'\"]{1,9}( [^ \t\n'\"]{1,9}){0,3}") {
            let _ = words(&text);
            proptest::prop_assert_eq!(words(&format!("x '{plain}'")), Ok(vec!["x".to_owned(), plain]));
        }

        #[test]
        fn no_command_line_makes_the_parser_panic(words in proptest::collection::vec("-{0,2}[a-z0-9=]{0,9}", 0..6)) {
            for module in registry::built_in() {
                let _ = params_from_args(module.info().name, &words);
            }
        }
    }
}
