//! For build scripts of the programs: tells the compiler which commit is built, as the variable `MUSTER_COMMIT`.
//!
//! A packager who builds without the repository sets that variable; without both it is "unknown".

use std::path::Path;
use std::process::Command;

const VARIABLE: &str = "MUSTER_COMMIT";
/// Digits of a commit's name.
const DIGITS: &str = "--short=12";

/// Sets the variable, and has it set again when another commit is checked out.
pub(crate) fn tell() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let given = std::env::var(VARIABLE).ok().filter(|commit| !commit.is_empty());
    for name in ["HEAD", "logs/HEAD", "packed-refs"] {
        let path = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists());
        if let Some(path) = path {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let commit = given.or_else(|| git(&["rev-parse", DIGITS, "HEAD"])).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env={VARIABLE}={commit}");
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
