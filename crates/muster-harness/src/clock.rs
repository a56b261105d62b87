//! A clock that a test moves under a program while it runs, with libfaketime. Only the wall clock moves: timers go on.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Where Debian keeps the library, below the directory of an architecture.
const LIBRARY: &str = "faketime/libfaketime.so.1";

/// The clock of whatever is started behind [`MovedClock::wrapper`].
#[derive(Debug)]
pub struct MovedClock {
    library: PathBuf,
    offset: PathBuf,
}

impl MovedClock {
    /// A clock that shows the time, steered by a file in `directory`.
    pub fn new(directory: &Path) -> Result<Self> {
        let architectures = std::fs::read_dir("/usr/lib").context("reading /usr/lib")?.flatten();
        let found = architectures.map(|entry| entry.path().join(LIBRARY)).find(|path| path.is_file());
        let library = found.with_context(|| format!("no /usr/lib/*/{LIBRARY}: is libfaketime installed?"))?;
        let clock = Self { library, offset: directory.join("clock") };
        clock.set(0)?;
        Ok(clock)
    }

    /// Lets the clock stand so many seconds before or behind the time, from now on.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // In one step, because the program reads it whenever it asks for the time.
        let new = self.offset.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).with_context(|| format!("writing {}", new.display()))?;
        std::fs::rename(&new, &self.offset).with_context(|| format!("moving {}", new.display()))
    }

    /// What stands in front of the program that has this clock.
    pub fn wrapper(&self) -> Vec<String> {
        vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", self.library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.offset.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "DONT_FAKE_MONOTONIC=1".to_owned(),
        ]
    }
}
