//! Fuzzing: every target of the fuzz workspace, or one, for so many seconds each.
//!
//! Stays true: what is found out stays out of git (fuzz/corpus), what a run starts from is in it (fuzz/seeds); a run that
//! finds something fails and names the input.

use crate::install;
use crate::run::{cargo, check, workspace};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Bytes of an input, at most: long enough for every ceiling but those of megabytes, which the tests look at.
const INPUT_BYTES_MAX: u32 = 64 * 1024;
/// Memory of a target, in MiB. The sanitizer's own part is counted.
const MEMORY_MIB_MAX: u32 = 1024;
/// Seconds for one input, at most.
const INPUT_SECONDS_MAX: u32 = 5;

/// Fuzzes `target`, or all of them, for `seconds` each.
pub(crate) fn run(target: Option<&str>, seconds: u32) -> Result<()> {
    install::cargo_fuzz()?;
    let known = targets()?;
    let chosen = match target {
        None => known,
        Some(target) if known.iter().any(|name| name == target) => vec![target.to_owned()],
        Some(target) => bail!("there is no target {target}; there are {}", known.join(", ")),
    };
    let mut failed = Vec::new();
    for target in &chosen {
        let corpus = format!("fuzz/corpus/{target}");
        std::fs::create_dir_all(workspace().join(&corpus)).with_context(|| format!("creating {corpus}"))?;
        let mut fuzz = fuzz(&["run", target, &corpus]);
        let seeds = format!("fuzz/seeds/{target}");
        if workspace().join(&seeds).is_dir() {
            fuzz.arg(seeds);
        }
        fuzz.arg("--").args([
            format!("-max_total_time={seconds}"),
            format!("-max_len={INPUT_BYTES_MAX}"),
            format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
            format!("-timeout={INPUT_SECONDS_MAX}"),
            "-print_final_stats=1".to_owned(),
        ]);
        if let Err(error) = check(&mut fuzz) {
            eprintln!("xtask: {target}: {error:#}");
            failed.push(target.as_str());
        }
    }
    println!("{} passed, {} failed", chosen.len() - failed.len(), failed.len());
    if !failed.is_empty() {
        bail!("found something: {}. The inputs lie in fuzz/artifacts; make each a test", failed.join(", "));
    }
    Ok(())
}

fn fuzz(args: &[&str]) -> Command {
    let mut command = cargo(&["fuzz"]);
    // The instrumentation needs flags that are unstable; this makes the pinned toolchain take them.
    command.env("RUSTC_BOOTSTRAP", "1").args(args);
    command
}

/// The names of all targets, in order.
fn targets() -> Result<Vec<String>> {
    let directory = workspace().join("fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.context("reading the folder of targets")?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().and_then(|stem| Path::new(stem).to_str()).map(str::to_owned));
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_is_built_and_has_seeds() {
        let manifest = std::fs::read_to_string(super::workspace().join("fuzz/Cargo.toml")).unwrap();
        let targets = super::targets().unwrap();
        assert!(targets.len() >= 5, "{targets:?}");
        for target in targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target} is in no [[bin]]");
            let seeds = std::fs::read_dir(super::workspace().join("fuzz/seeds").join(&target));
            assert!(seeds.is_ok_and(|mut seeds| seeds.next().is_some()), "{target} has no fuzz/seeds/{target}");
        }
    }
}
