//! What people met with neighbouring programs, as one suite: every test of the workspace whose name holds `case_NN_`.
//!
//! Stays true: a case without a test is a failure, and so is a test of a case that is not listed here.

use crate::install;
use crate::run::{Profile, built, cargo, in_path, watched, workspace};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::process::Command;

/// The cases, each by its number with what it is about.
const CASES: &[(u8, &str)] = &[
    (1, "dpkg packages that are neither installed nor gone"),
    (2, "a package database and nothing to read it"),
    (3, "mount tables as they really are"),
    (4, "neighbours without a six-byte address"),
    (5, "a bad row in the socket table"),
    (6, "names of processes"),
    (8, "walking into automounted and far file systems"),
    (9, "systemctl that speaks otherwise"),
    (11, "the same machine twice, two machines as one"),
    (14, "scribe documents as published"),
    (15, "MIG actions as published"),
    (16, "keys of unusual shape"),
    (19, "Fleetspeak configurations as people have them"),
    (20, "clocks that are wrong at start"),
];

/// Builds what the tests need and runs them, all or those of `numbers`.
pub(crate) fn run(numbers: &[u8]) -> Result<()> {
    if let Some(unknown) = numbers.iter().find(|number| title(**number).is_none()) {
        let known: Vec<_> = CASES.iter().map(|(number, _)| format!("{number:02}")).collect();
        bail!("there is no case {unknown:02}; there are {}", known.join(", "));
    }
    install::test_tools()?;
    crate::run::check(&mut cargo(&["build", "-q", "--workspace", "--bins"])).context("building the programs")?;
    let mut tally = Tally::default();
    let succeeded = watched(&mut tests(numbers), |line| tally.hear(line))?;
    let wanted = CASES.iter().filter(|(number, _)| numbers.is_empty() || numbers.contains(number));
    let (lines, passed, mut failed) = tally.report(wanted.copied());
    println!("\n{}", lines.join("\n"));
    // A run that failed without naming a test, such as one that did not build, is a failure too.
    failed += u64::from(!succeeded && failed == 0);
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!(
            "{failed} failed: a case that no test covers needs one whose name begins with its number, such as case_01_"
        );
    }
    Ok(())
}

fn title(number: u8) -> Option<&'static str> {
    CASES.iter().find(|(known, _)| *known == number).map(|(_, title)| *title)
}

/// The tests under the runner that is there, with a private PostgreSQL around them.
fn tests(numbers: &[u8]) -> Command {
    let mut command = Command::new(built(Profile::Dev, "muster-harness"));
    command.current_dir(workspace()).args(["with-postgres", "--", "cargo"]);
    if in_path("cargo-nextest") {
        let numbers: Vec<_> = numbers.iter().map(|number| format!("{number:02}")).collect();
        let numbers = if numbers.is_empty() { "[0-9][0-9]".to_owned() } else { format!("({})", numbers.join("|")) };
        let filter = format!("test(/case_{numbers}_/)");
        command.args(["nextest", "run", "--workspace", "--no-fail-fast", "-E", &filter]);
    } else {
        command.args(["test", "--workspace", "--all-targets", "--no-fail-fast", "case_"]);
    }
    command
}

/// Which tests ran, and whether they passed.
#[derive(Debug, Default)]
struct Tally(BTreeMap<String, bool>);

impl Tally {
    /// Hears a line of nextest or of libtest. A runner may say the same of a test twice.
    fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.split_whitespace().collect();
        let Some(name) = words.iter().find(|word| number_of(word).is_some()) else { return };
        let passed = match words[..] {
            ["test", _, "...", outcome, ..] => outcome == "ok",
            ["PASS" | "LEAK" | "FLAKY", ..] => true,
            ["FAIL" | "TIMEOUT" | "ABORT" | "TMT", ..] => false,
            [first, ..] if first.starts_with("SIG") => false,
            _ => return,
        };
        let entry = self.0.entry((*name).to_owned()).or_insert(passed);
        *entry &= passed;
    }

    /// Returns a line for each case, and how many tests passed and failed.
    fn report(&self, wanted: impl Iterator<Item = (u8, &'static str)>) -> (Vec<String>, u64, u64) {
        let (mut lines, mut passed, mut failed) = (Vec::new(), 0, 0);
        let count = |number: u8, outcome: bool| {
            let all = self.0.iter().filter(|(name, passed)| number_of(name) == Some(number) && **passed == outcome);
            u64::try_from(all.count()).unwrap_or(u64::MAX)
        };
        for (number, title) in wanted {
            let (good, mut bad) = (count(number, true), count(number, false));
            let what = if good + bad == 0 { "no test".to_owned() } else { format!("{good} passed, {bad} failed") };
            bad += u64::from(good + bad == 0);
            lines.push(format!("case {number:02}  {title}: {what}"));
            (passed, failed) = (passed + good, failed + bad);
        }
        for name in self.0.keys().filter(|name| number_of(name).and_then(title).is_none()) {
            lines.push(format!("{name}: its case is not in the list of xtask/src/cases.rs"));
            failed += 1;
        }
        (lines, passed, failed)
    }
}

/// Returns the number of the case that a test is named after.
fn number_of(test: &str) -> Option<u8> {
    let (_, rest) = test.split_once("case_")?;
    let (number, _) = rest.split_once('_')?;
    (number.len() == 2).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::{CASES, Tally, number_of};

    #[test]
    fn outcomes_of_both_runners_are_counted_once_and_a_case_without_a_test_fails() {
        let mut tally = Tally::default();
        for line in [
            "        PASS [   0.004s] (1/9) muster-modules modules::pkg::tests::case_01_whatever_has_files",
            "        FAIL [   0.004s] (2/9) muster-modules modules::pkg::tests::case_02_a_database",
            "        SLOW [> 60.000s] muster-modules modules::pkg::tests::case_02_slow",
            "     SIGKILL [   0.004s] muster-modules modules::pkg::tests::case_02_slow",
            "        FAIL [   0.004s] (2/9) muster-modules modules::pkg::tests::case_02_a_database",
            "test modules::pkg::tests::case_01_other ... ok",
            "test modules::pkg::tests::case_01_third ... FAILED",
            "thread 'case_01_fourth' panicked",
            "        PASS [   0.004s] x case_99_unknown",
            "        PASS [   0.004s] x case_in_point",
        ] {
            tally.hear(line);
        }
        let (lines, passed, failed) = tally.report([(1, "one"), (2, "two"), (3, "three")].into_iter());
        assert_eq!(
            lines,
            [
                "case 01  one: 2 passed, 1 failed",
                "case 02  two: 0 passed, 2 failed",
                "case 03  three: no test",
                "case_99_unknown: its case is not in the list of xtask/src/cases.rs",
            ]
        );
        assert_eq!((passed, failed), (2, 5));
    }

    #[test]
    fn numbers_are_two_digits_and_in_order() {
        assert_eq!(
            ["case_04_x", "a::case_11_y", "case_4_x", "case_x", "x"].map(number_of),
            [Some(4), Some(11), None, None, None]
        );
        assert!(CASES.is_sorted_by_key(|(number, _)| number));
    }
}
