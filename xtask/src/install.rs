//! Installing what tests and benches need, where it is missing: Debian packages, and the original's programs from PyPI
//! into a Python environment in the user's cache folder.

use crate::run::{cargo, check, in_path};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release of the original that Muster is held against.
const ORIGINAL: &str = "0.1.19";
/// The oldest PostgreSQL that the store supports.
const POSTGRESQL_MIN: u32 = 15;
/// A network that fails once often works the next time.
const TRIES: u32 = 3;

/// PostgreSQL, a tracer, a clock that can be moved, GnuPG, and the original's programs.
pub(crate) fn test_tools() -> Result<()> {
    postgresql()?;
    let usr_lib = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let has_clock = usr_lib.map(|entry| entry.path()).any(|path| path.join("faketime/libfaketime.so.1").exists());
    packages(&[("strace", in_path("strace")), ("libfaketime", has_clock)])?;
    gnupg()?;
    original()
}

/// What the quick tests need.
pub(crate) fn quick_tools() -> Result<()> {
    postgresql()?;
    gnupg()
}

/// What investigators sign with.
pub(crate) fn gnupg() -> Result<()> {
    packages(&[("gnupg", in_path("gpg"))])
}

/// PostgreSQL's own programs.
pub(crate) fn postgresql() -> Result<()> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions = installed.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    packages(&[("postgresql", versions.any(|version| version >= POSTGRESQL_MIN))])
}

/// MariaDB, which the original's server needs.
pub(crate) fn mariadb() -> Result<()> {
    packages(&[("mariadb-server", Path::new("/usr/sbin/mariadbd").exists())])
}

/// What changes one thing at a time and sees whether a test notices.
pub(crate) fn cargo_mutants() -> Result<()> {
    if in_path("cargo-mutants") {
        return Ok(());
    }
    check(&mut cargo(&["install", "--locked", "cargo-mutants"]))
}

/// The fuzzer's front end.
pub(crate) fn cargo_fuzz() -> Result<()> {
    if in_path("cargo-fuzz") {
        return Ok(());
    }
    check(&mut cargo(&["install", "--locked", "cargo-fuzz"]))
}

/// The checker of licences and sources.
pub(crate) fn cargo_deny() -> Result<()> {
    if in_path("cargo-deny") {
        return Ok(());
    }
    check(&mut cargo(&["install", "--locked", "cargo-deny"]))
}

/// The original's server, client and connectors.
pub(crate) fn original() -> Result<()> {
    let root = peers()?;
    if root.join("installed").exists() {
        return Ok(());
    }
    packages(&[("python3", in_path("python3"))])?;
    if let Some(parent) = root.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    let venv = || Command::new("python3").args(["-m", "venv", "--clear"]).arg(&root).status();
    if !venv().context("starting python3")?.success() {
        // Debian keeps the part that makes environments in a package of its own.
        packages(&[("python3-venv", false)])?;
        if !venv().context("starting python3")?.success() {
            bail!("python3 cannot make an environment in {}", root.display());
        }
    }
    let wanted =
        ["fleetspeak", "fleetspeak-client-bin", "fleetspeak-server-bin"].map(|name| format!("{name}=={ORIGINAL}"));
    // The connectors need the last two without saying so.
    again(|| {
        let mut pip = Command::new(root.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(&wanted).args(["grpcio", "protobuf"]);
        check(&mut pip)
    })?;
    std::fs::write(root.join("installed"), ORIGINAL).context("marking the environment as whole")
}

fn peers() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|directory| !directory.is_empty()) {
        Some(directory) => PathBuf::from(directory),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache")
        }
    };
    Ok(cache.join("muster").join(format!("peers-{ORIGINAL}")))
}

/// Installs those packages whose flag says that they are missing.
pub(crate) fn packages(wanted: &[(&str, bool)]) -> Result<()> {
    let missing: Vec<&str> = wanted.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !in_path("apt-get") {
        bail!("{} missing, and there is no apt-get to install it: install it by hand", missing.join(", "));
    }
    again(|| check(as_root("apt-get").args(["-q", "update"])))?;
    again(|| {
        let mut install = as_root("apt-get");
        check(install.args(["-q", "install", "-y", "--no-install-recommends"]).args(&missing))
    })
}

fn as_root(program: &str) -> Command {
    let root = std::fs::metadata("/proc/self").is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0);
    let mut command = if root { Command::new(program) } else { Command::new("sudo") };
    if !root {
        // Passed through sudo, which clears the environment.
        command.args(["env", "DEBIAN_FRONTEND=noninteractive", program]);
    }
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn again(mut step: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 1..TRIES {
        match step() {
            Ok(()) => return Ok(()),
            Err(error) => eprintln!("xtask: {error:#}; trying again"),
        }
    }
    step()
}
