//! A module that writes down each of its starts before anything else, and then what it was told: the one witness of
//! what ran that does not have to believe agent or server.

use anyhow::{Context, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The module's name.
pub const MODULE: &str = "recorder";
/// Another name for the same program.
pub const OTHER_MODULE: &str = "recorder-too";
/// The line of an agent's configuration that names its modules.
pub const SETTING: &str = "modules_file = \"modules/modules.toml\"\n";

/// What was written down.
#[derive(Debug, Clone)]
pub struct Recorder {
    runs: PathBuf,
}

impl Recorder {
    /// Puts the module beside an agent's configuration in `directory`; [`SETTING`] makes the agent have it.
    pub fn install(directory: &Path) -> Result<Self> {
        let (folder, runs) = (directory.join("modules"), directory.join("runs"));
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let path = folder.join("recorder.sh");
        let answer = r#"{"foundanything":true,"success":true,"elements":"ran"}"#;
        // The first line is written before anything is read, so that whatever starts it is seen.
        let script = format!(
            "#!/bin/sh\necho started >> '{runs}'\nread line\necho \"told $line\" >> '{runs}'\nexec echo '{answer}'\n",
            runs = runs.display()
        );
        std::fs::write(&path, script)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        let table = |name| format!("[{name}]\npath = \"{}\"\nprivilege = \"agent\"\nweight_min = 1\n", path.display());
        std::fs::write(folder.join("modules.toml"), [MODULE, OTHER_MODULE].map(table).concat())?;
        Ok(Self { runs })
    }

    /// Where it writes.
    pub fn path(&self) -> &Path {
        &self.runs
    }

    /// How often it was started ever.
    pub fn starts(&self) -> usize {
        self.count(|line| line == "started")
    }

    /// How often it was told something with these words in it.
    pub fn told(&self, words: &str) -> usize {
        self.count(|line| line.starts_with("told ") && line.contains(words))
    }

    fn count(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let text = std::fs::read_to_string(&self.runs).unwrap_or_default();
        text.lines().filter(|line| wanted(line)).count()
    }
}
