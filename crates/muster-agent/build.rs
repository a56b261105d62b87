//! Tells the agent when it was made, because no clock that stands before that is right, and from which commit.
//!
//! `SOURCE_DATE_EPOCH` says when for whoever builds packages; otherwise it is the date of the commit. Where neither is known
//! it is 0, which means nothing.

#[path = "../commit.rs"]
mod commit;

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
    let seconds = std::env::var("SOURCE_DATE_EPOCH").ok().or_else(committed);
    let seconds: Option<u64> = seconds.and_then(|text| text.trim().parse().ok());
    println!("cargo::rustc-env=MUSTER_BUILT={}", seconds.unwrap_or(0));
    commit::tell();
}

/// The date of the commit that is built, in seconds since 1970.
fn committed() -> Option<String> {
    let said = Command::new("git").args(["log", "-1", "--format=%ct"]).output().ok()?;
    String::from_utf8(said.stdout).ok().filter(|_| said.status.success())
}
