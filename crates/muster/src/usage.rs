//! Command lines that cannot be read, and help that was asked for: in the shape that was asked for.
//!
//! Stays true: a program that asked for JSON is answered in JSON, also when its command line is wrong.

use clap::error::ErrorKind;
use muster_cli::{Exit, Failure, Output, tell};
use std::ffi::OsString;
use std::process::ExitCode;

/// Characters of a line that are shown; values come back in errors, however long they are.
const LINE_CHARS_MAX: usize = 300;

/// Whether the words, or the environment, ask for JSON. What stands behind `--` is somebody else's.
pub(crate) fn is_json(words: &[OsString]) -> bool {
    let said = words.iter().skip(1).take_while(|word| *word != "--").any(|word| word == "--json");
    let falsy = ["", "0", "n", "no", "f", "false", "off"];
    let by_environment = || std::env::var_os("MUSTER_JSON").map(|value| value.to_string_lossy().to_lowercase());
    said || by_environment().is_some_and(|value| !falsy.contains(&value.as_str()))
}

/// Ends the program as clap would, in JSON where that was asked for.
pub(crate) fn end(error: &clap::Error, is_json: bool) -> ExitCode {
    let out = Output::new(is_json);
    let text = error.render().to_string();
    let written = match error.kind() {
        ErrorKind::DisplayHelp => {
            if is_json {
                out.help(&text)
            } else {
                return printed(error);
            }
        }
        ErrorKind::DisplayVersion if is_json => {
            let version = text.split_whitespace().nth(1).unwrap_or_default().to_owned();
            out.json(&std::collections::BTreeMap::from([("version", version)]))
        }
        ErrorKind::DisplayVersion => return printed(error),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !is_json => return printed(error),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(Failure::usage(WHAT, "a command is missing").next("see the same with --help"))
        }
        _ if is_json => Err(failure(&text)),
        _ => {
            eprint!("{}", shortened(&plainer(&text)));
            return ExitCode::from(Exit::Usage.code());
        }
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(tell(&failure, is_json)),
    }
}

const WHAT: &str = "could not read the command line";

/// Prints what clap has to say, with its emphasis.
fn printed(error: &clap::Error) -> ExitCode {
    // Where nobody listens nothing is lost.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()))
}

/// Reads clap's text: what is wrong, and behind an empty line what to do.
fn failure(text: &str) -> Failure {
    let text = plainer(text);
    let (why, next) = text.trim_end().split_once("\n\n").unwrap_or((text.trim_end(), ""));
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let why = one_line(why.strip_prefix("error: ").unwrap_or(why));
    Failure::usage(WHAT, why).next(one_line(next))
}

/// Words numbers that do not fit for people.
fn plainer(text: &str) -> String {
    let text = text
        .replace("invalid digit found in string", "it must be a whole number")
        .replace("cannot parse integer from empty string", "it must be a whole number")
        .replace("number too large to fit in target type", "the number is too large");
    let Some((before, range)) = text.split_once(" is not in ") else { return text };
    let (range, after) = range.split_at(range.find(char::is_whitespace).unwrap_or(range.len()));
    let Some((low, high)) = range.split_once("..") else { return text };
    let high = high.trim_start_matches('=');
    let is_end =
        [u64::MAX.to_string(), i64::MAX.to_string(), u32::MAX.to_string(), String::new()].contains(&high.to_owned());
    let limits = if is_end { format!("at least {low}") } else { format!("from {low} to {high}") };
    format!("{before} is out of range: it must be {limits}{after}")
}

/// Cuts lines that hold a value of any length.
fn shortened(text: &str) -> String {
    let mut short = String::new();
    for line in text.lines() {
        let cut = line.char_indices().nth(LINE_CHARS_MAX).map(|(at, _)| at);
        short.push_str(&muster_cli::output::safe(&line[..cut.unwrap_or(line.len())]));
        short.push_str(if cut.is_some() { " …\n" } else { "\n" });
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_do_not_fit_are_worded_for_people() {
        for (text, wanted) in [
            ("error: invalid value 'x' for '--limit <N>': invalid digit found in string", "a whole number"),
            (
                "error: invalid value '0' for '--limit <N>': 0 is not in 1..4294967295\n\nFor",
                "must be at least 1\n\nFor",
            ),
            ("error: x: 0 is not in 1..=100", "from 1 to 100"),
            ("error: x: 0 is not in 1..18446744073709551615", "at least 1"),
        ] {
            let text = plainer(text);
            assert!(text.contains(wanted), "{text}");
        }
    }

    #[test]
    fn a_long_value_does_not_come_back_whole() {
        let text = shortened(&format!("error: {}\n\nnext\n", "x".repeat(5000)));
        assert!(text.len() < 400 && text.ends_with(" …\n\nnext\n"), "{text}");
    }

    #[test]
    fn a_usage_error_says_why_and_what_next() {
        let failure = failure("error: unexpected argument '--x' found\n\n  tip: try y\n\nUsage: muster\n");
        assert_eq!((failure.exit, failure.why.as_str()), (Exit::Usage, "unexpected argument '--x' found"));
        assert_eq!(failure.next, "tip: try y Usage: muster");
    }

    #[test]
    fn json_is_asked_for_before_what_is_somebody_elses() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(is_json(&words(&["muster", "agent", "--json"])));
        assert!(!is_json(&words(&["muster", "ask", "x", "--", "--json"])));
    }
}
