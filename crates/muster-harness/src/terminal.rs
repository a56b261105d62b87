//! A terminal at which nobody sits: what is typed is typed beforehand.

use anyhow::{Context, Result};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;

/// The side of the terminal at which a person would sit. The terminal is there as long as this lives.
#[derive(Debug)]
pub struct Terminal {
    person: File,
}

impl Terminal {
    /// Opens a terminal at which `typed` was typed. Returns it, and what a program has as its standard input.
    pub fn typed(typed: &str) -> Result<(Self, File)> {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("opening a terminal")?;
        grantpt(&person).context("granting a terminal")?;
        unlockpt(&person).context("unlocking a terminal")?;
        let name = OsString::from_vec(ptsname(&person, Vec::new()).context("naming a terminal")?.into_bytes());
        let program = File::options().read(true).write(true).open(&name).context("opening the program's side")?;
        let mut person = File::from(person);
        person.write_all(typed.as_bytes()).context("typing")?;
        Ok((Self { person }, program))
    }

    /// Types more.
    pub fn say(&mut self, text: &str) -> Result<()> {
        self.person.write_all(text.as_bytes()).context("typing")
    }
}
