//! Starting programs and saying so.

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Which build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    pub(crate) fn flags(self) -> &'static [&'static str] {
        if self == Self::Release { &["--release"] } else { &[] }
    }

    fn directory(self) -> &'static str {
        if self == Self::Release { "release" } else { "debug" }
    }
}

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies one level below the root")
}

/// Where a program of the workspace is built.
pub(crate) fn built(profile: Profile, name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join(profile.directory()).join(name)
}

/// Prepares Cargo in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(workspace());
    cargo
}

/// Runs the test program of the workspace.
pub(crate) fn harness<'a>(profile: Profile, args: impl IntoIterator<Item = &'a str>) -> Result<()> {
    check(Command::new(built(profile, "muster-harness")).args(args).current_dir(workspace()))
}

/// Runs a command to its end; anything but success is an error that names it.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    eprintln!("xtask: {}", shown(command));
    let status = command.status().with_context(|| format!("starting {}", shown(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a command to its end, passes on what it prints and hands each line to `look` too. Returns whether it succeeded.
pub(crate) fn watched(command: &mut Command, mut look: impl FnMut(&str)) -> Result<bool> {
    eprintln!("xtask: {}", shown(command));
    // Both outputs in one pipe keep their order, and one reader cannot be starved by the other.
    let (reader, writer) = std::io::pipe().context("opening a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("sharing a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("starting {}", shown(command)))?;
    // The command holds the writing end; while it does, the reader below waits for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut out = std::io::stdout().lock();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("reading what it prints")?;
        let line = String::from_utf8_lossy(&line);
        writeln!(out, "{line}").context("passing a line on")?;
        look(&line);
    }
    Ok(child.wait().with_context(|| format!("waiting for {}", shown(command)))?.success())
}

/// Returns whether a program of this name can be started.
pub(crate) fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|directory| directory.join(name).is_file())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
