//! muster-yara: YARA rules held against a machine's files, as a module that an agent's owner may add.
//!
//! Stays true: it speaks MIG's module protocol on standard input and output, so that `muster-agent`, `muster-module` and
//! MIG's own programs can host it; it never reads more than its limits, whatever rules and files it is given.
//! Not here: choosing files (the file module of muster-modules), what its process may do (whoever hosts it).

mod module;
mod rules;

use module::Yara;
use muster_core::{Clock, Timestamp};
use muster_modules::{ArgumentError, Context, Lines, Module, arguments, help, run, run_here};
use serde_json::{Value, json};
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the program's one clock")]
    fn now(&self) -> Timestamp {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::EPOCH.plus(now)
    }
}

const USAGE: &str = "\
muster-yara: YARA rules held against the files of a machine

As a module, started by an agent (also with `-m yara`, as MIG starts modules):
  muster-yara                                    reads one line of parameters, writes one line of result

By hand:
  muster-yara run -rules FILE -files SEARCH        searches this machine
  muster-yara operation -rules FILE -files SEARCH  prints the operation, for `muster action new --operation @FILE`
  muster-yara help                                 explains both flags

The names of rules that match are reported, never what is in a file.
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] if io::stdin().is_terminal() => said(USAGE),
        [] | ["-m", "yara"] => serve(),
        ["run", flags @ ..] => by_hand(flags, search),
        ["operation", flags @ ..] => {
            by_hand(flags, |parameters| said(&format!("{}\n", json!({"module": "yara", "parameters": parameters}))))
        }
        ["help" | "-h" | "--help", ..] => said(&format!("{USAGE}\n{}", help(&Yara))),
        ["-V" | "--version"] => said(concat!("muster-yara ", env!("CARGO_PKG_VERSION"), "\n")),
        _ => failed(USAGE),
    }
}

fn context() -> Context {
    Context::new(Arc::new(SystemClock))
}

fn serve() -> ExitCode {
    match run(&Yara, io::stdin(), io::stdout().lock(), &context()) {
        Ok(_) => ExitCode::SUCCESS,
        // Nobody is left to read the answer.
        Err(_) => ExitCode::FAILURE,
    }
}

fn by_hand(flags: &[&str], then: impl FnOnce(&Value) -> ExitCode) -> ExitCode {
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    match arguments::parameters_of(&Yara, &flags) {
        Ok(parameters) => then(&parameters),
        Err(ArgumentError::Help(text)) => said(&text),
        Err(error) => failed(&format!("muster-yara: {error}\nmuster-yara help explains the flags\n")),
    }
}

fn search(parameters: &Value) -> ExitCode {
    let result = run_here(&Yara, parameters, &context());
    let lines = Yara.lines(&result, Lines::All).into_iter().map(|line| {
        // Names of files are whatever strangers made them.
        line.chars()
            .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
            .chain(['\n'])
            .collect::<String>()
    });
    let printed = said(&lines.collect::<String>());
    if result.success { printed } else { ExitCode::FAILURE }
}

fn said(text: &str) -> ExitCode {
    let told = io::stdout().lock().write_all(text.as_bytes());
    if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn failed(text: &str) -> ExitCode {
    // Nobody is left to be told when standard error is gone.
    let _ = io::stderr().lock().write_all(text.as_bytes());
    ExitCode::from(2)
}
