//! Where the programs under test lie.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Names another directory with the programs under test, such as that of a release build.
pub const DIRECTORY_VARIABLE: &str = "MUSTER_PROGRAMS";

/// Returns the path of a program of this workspace that was built before.
///
/// It is looked for in the directory of the running program and above, which is where Cargo puts both.
pub fn program(name: &str) -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) {
        let path = Path::new(&directory).join(name);
        return if path.is_file() { Ok(path) } else { bail!("{DIRECTORY_VARIABLE} names a directory without {name}") };
    }
    let here = std::env::current_exe().context("asking for the path of the running program")?;
    let found = here.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("{name} is not built beside {}: run `cargo build --workspace --bins` first", here.display())
    })
}

/// Returns the root of the workspace, for the tests that read its sources.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate lies two levels below the root")
}
