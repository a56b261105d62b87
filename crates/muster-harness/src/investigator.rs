//! A person who signs orders, with a `gpg` of their own.

use crate::programs;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A person with a key that `gpg` keeps.
#[derive(Debug)]
pub struct Investigator {
    /// The person's name.
    pub name: String,
    // In the temporary directory itself: the sockets of gpg's agent bear no long paths.
    home: TempDir,
}

impl Investigator {
    /// Makes a person with an Ed25519 key.
    pub fn new(name: &str) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("muster-gpg-").tempdir().context("making a home for gpg")?;
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o700)).context("closing the home of gpg")?;
        let person = Self { name: name.to_owned(), home };
        let owner = format!("{name} <{}@example.com>", name.to_lowercase());
        let unlocked = ["--batch", "--pinentry-mode", "loopback", "--passphrase", ""];
        person.gpg(&[&unlocked[..], &["--quick-generate-key", &owner, "ed25519", "sign", "1y"]].concat(), b"")?;
        let public = person.gpg(&["--armor", "--export"], b"")?;
        std::fs::write(person.public_key(), public).context("writing the public key")?;
        Ok(person)
    }

    /// Returns the home of this person's `gpg`, for GNUPGHOME.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Returns the file with the public key.
    pub fn public_key(&self) -> PathBuf {
        self.home.path().join("public.asc")
    }

    /// Returns the fingerprint of the key.
    pub fn fingerprint(&self) -> Result<String> {
        let listed = String::from_utf8(self.gpg(&["--with-colons", "--list-keys"], b"")?)?;
        let line = listed.lines().find_map(|line| line.strip_prefix("fpr:")).context("gpg lists no fingerprint")?;
        Ok(line.trim_matches(':').to_owned())
    }

    /// Tells a server who this is.
    pub fn join(&self, server: &Server) -> Result<()> {
        let key = self.public_key().display().to_string();
        server.muster(&["investigator", "add", &self.name, "--key", &key, "--reason", "joins the team"]).map(drop)
    }

    /// Signs `text` with plain `gpg`. Returns the signature, armored.
    pub fn sign(&self, text: &[u8]) -> Result<String> {
        Ok(String::from_utf8(self.gpg(&["--batch", "--armor", "--detach-sign"], text)?)?)
    }

    /// Runs `muster` as an operator of `server` who signs with this key, and returns how it ended.
    pub fn muster_output(&self, server: &Server, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(programs::program("muster")?);
        server.operator(&mut command).env("GNUPGHOME", self.home.path());
        command.env("XDG_CONFIG_HOME", self.home.path().join("config")).args(args);
        command.output().context("starting muster")
    }

    /// Runs `muster` as [`Self::muster_output`] does, and returns what it printed.
    pub fn muster(&self, server: &Server, args: &[&str]) -> Result<String> {
        let output = self.muster_output(server, args)?;
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "muster {args:?} ended with {}:\n{text}{errors}", output.status);
        Ok(text.into_owned())
    }

    fn gpg(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let piped = [Stdio::piped(), Stdio::piped(), Stdio::piped()];
        let [stdin, stdout, stderr] = piped;
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.home.path()).args(args).stdin(stdin).stdout(stdout).stderr(stderr);
        let mut child = command.spawn().context("starting gpg: is gnupg installed?")?;
        child.stdin.take().context("gpg takes input")?.write_all(input).context("handing gpg its input")?;
        let output = child.wait_with_output().context("waiting for gpg")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "gpg {args:?} ended with {}: {errors}", output.status);
        Ok(output.stdout)
    }
}

impl Drop for Investigator {
    fn drop(&mut self) {
        // gpg started an agent for this home, which would outlive it.
        let home = [OsStr::new("--homedir"), self.home().as_os_str()];
        let _ = Command::new("gpgconf").args(home).args(["--kill", "all"]).output();
    }
}
