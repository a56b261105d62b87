//! A module as a process: `muster-module -m NAME` reads one line of parameters and writes one line of result.
//!
//! Stays true: it speaks MIG's module protocol and nothing else, so that other programs can use the modules too.

use muster_core::{Clock, Timestamp};
use muster_modules::{Context, ModuleResult, child, registry, run};
use std::io::Write as _;
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

fn main() -> ExitCode {
    let clock = Arc::new(SystemClock);
    if let Some(code) = child::entry(std::env::args_os(), clock.clone()) {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [flag, name] = arguments.as_slice() else { return usage() };
    if flag != "-m" {
        return usage();
    }
    let Some(module) = registry::find(name) else {
        // Whoever started this reads one line of result, as from any module.
        let line = serde_json::to_string(&ModuleResult::failed(registry::missing(name))).expect("it is text");
        // An answer that cannot be written has nobody left to read it.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
        return ExitCode::FAILURE;
    };
    match run(module, std::io::stdin(), std::io::stdout().lock(), &Context::new(clock)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn usage() -> ExitCode {
    let names: Vec<_> = registry::built_in().iter().map(|module| module.info().name).collect();
    // Nobody is left to be told when standard error is gone.
    let _ = writeln!(std::io::stderr(), "usage: muster-module -m NAME\nmodules: {}", names.join(", "));
    ExitCode::from(2)
}
