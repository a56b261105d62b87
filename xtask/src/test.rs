//! The whole test run: cheapest first, everything even when something failed, one line of figures at the end.

use crate::install;
use crate::run::{Profile, built, cargo, in_path, watched};
use anyhow::{Result, bail};
use std::process::Command;

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Without real peers and crash runs.
    Quick,
    /// Everything.
    Whole,
}

#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    failed: u64,
    failed_steps: Vec<&'static str>,
}

/// Runs everything.
pub(crate) fn run(extent: Extent) -> Result<()> {
    match extent {
        Extent::Quick => install::quick_tools()?,
        Extent::Whole => install::test_tools()?,
    }
    let mut tally = Tally::default();
    tally.step("formatting", &mut cargo(&["fmt", "--all", "--check"]))?;
    tally.step("tidiness", &mut cargo(&["test", "-q", "-p", "muster-harness", "--test", "tidy"]))?;
    let lints = &["clippy", "-q", "--workspace", "--all-targets", "--", "-D", "warnings"];
    tally.step("lints", &mut cargo(lints))?;
    if !tally.step("build", &mut cargo(&["build", "-q", "--workspace", "--bins"]))? {
        bail!("the programs do not build; nothing was tested");
    }
    tally.step("tests", &mut tests(extent))?;
    tally.step("examples in the documentation", &mut cargo(&["test", "-q", "--workspace", "--doc"]))?;
    if extent == Extent::Whole {
        for kind in SHORT_CRASH_RUNS {
            let mut crash = Command::new(built(Profile::Dev, "muster-harness"));
            tally.step("crash runs", crash.arg("crash").args(*kind))?;
        }
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if !tally.failed_steps.is_empty() {
        bail!("failed: {}", tally.failed_steps.join(", "));
    }
    Ok(())
}

/// Long enough to meet a fault that shows in one kill of ten; the long runs are `cargo xtask crash`.
const SHORT_CRASH_RUNS: &[&[&str]] = &[
    &["server", "--backend", "sqlite", "--cycles", "8", "--polling", "20", "--streaming", "20"],
    &["server", "--backend", "postgres", "--cycles", "6", "--polling", "20", "--streaming", "20"],
    &["database", "--cycles", "3", "--polling", "10", "--streaming", "10"],
    &["disk-full", "--cycles", "1", "--polling", "5", "--streaming", "5"],
    &["fsync", "--cycles", "2", "--polling", "5", "--streaming", "5"],
    &["agent", "--cycles", "5"],
    // Forty kills: of three cycles one kills a server, one an agent, one both.
    &["actions", "--backend", "sqlite", "--cycles", "18"],
    &["actions", "--backend", "postgres", "--cycles", "12"],
];

/// The tests under the runner that is there, with a private PostgreSQL around them.
fn tests(extent: Extent) -> Command {
    let mut command = Command::new(built(Profile::Dev, "muster-harness"));
    command.current_dir(crate::run::workspace()).args(["with-postgres", "--", "cargo"]);
    let nextest = in_path("cargo-nextest");
    command.args(if nextest {
        &["nextest", "run", "--workspace"][..]
    } else {
        &["test", "--workspace", "--all-targets"]
    });
    if extent == Extent::Quick {
        command.args(["--exclude", "muster-harness"]);
    }
    command
}

impl Tally {
    fn step(&mut self, name: &'static str, command: &mut Command) -> Result<bool> {
        let failed_before = self.failed;
        let succeeded = watched(command, |line| self.count(line))?;
        if !succeeded {
            // A step that failed without naming a test is a failure too.
            self.failed += u64::from(self.failed == failed_before);
            if !self.failed_steps.contains(&name) {
                self.failed_steps.push(name);
            }
        }
        Ok(succeeded)
    }

    /// Adds the figures of a summary line of nextest, of libtest or of a crash run.
    fn count(&mut self, line: &str) {
        let line = line.trim();
        let summary = line.starts_with("Summary [")
            || line.starts_with("test result: ")
            || line.ends_with(" failed") && line.contains(" passed, ");
        if summary {
            self.passed += number_before(line, "passed");
            self.failed += number_before(line, "failed") + number_before(line, "timed out");
        }
    }
}

fn number_before(line: &str, word: &str) -> u64 {
    let head = line.split_once(&format!(" {word}")).map_or("", |(head, _)| head);
    head.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn summaries_of_all_runners_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "     Summary [   3.053s] 20 tests run: 18 passed (1 slow), 1 failed, 1 timed out, 0 skipped",
            "     Summary [   3.053s] 20 tests run: 7 passed, 0 skipped",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "8 passed, 2 failed",
            "a test that says 100 passed",
        ] {
            tally.count(line);
        }
        assert_eq!((tally.passed, tally.failed), (18 + 7 + 3 + 8, 4));
    }
}
