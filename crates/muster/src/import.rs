//! `muster import`: takes over the configuration of another system.

use muster_cli::{Exit, Failure, Globals, Output};
use muster_server::import::{self, Imported};
use std::path::{Path, PathBuf};

/// `muster import`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster import fleetspeak \\
      --components /etc/fleetspeak-server/server.components.config \\
      --services /etc/fleetspeak-server/server.services.config \\
      --out /etc/muster/muster.toml")]
pub(crate) struct ImportArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write a configuration that does what a Fleetspeak server's files say, and list what has no counterpart
    Fleetspeak {
        /// The server's components file (text proto)
        #[arg(long, value_name = "FILE")]
        components: PathBuf,
        /// The server's services file (text proto)
        #[arg(long, value_name = "FILE")]
        services: PathBuf,
        /// The configuration to write; a file that is there is not replaced
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

const WHAT: &str = "could not take over the configuration";

impl ImportArgs {
    /// Runs the command.
    pub(crate) fn run(self, globals: &Globals) -> Result<(), Failure> {
        let Command::Fleetspeak { components, services, out: path } = self.command;
        let read =
            |path: &Path| std::fs::read_to_string(path).map_err(|error| Failure::local(WHAT, path.display(), &error));
        let absolute = std::path::absolute(&path).map_err(|error| Failure::local(WHAT, path.display(), &error))?;
        let directory = absolute.parent().unwrap_or(Path::new("/"));
        let imported = import::fleetspeak(&read(&components)?, &read(&services)?, directory)
            .map_err(|error| Failure::new(Exit::Usage, WHAT, muster_cli::failure::chain(&error)).on(error.file()))?;
        for file in &imported.files {
            write_new(&file.path, &file.text)?;
        }
        write_new(&path, &imported.config.to_text())?;
        tell(Output::new(globals.json), &path, &imported)
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let new = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = new.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::new(Exit::Conflict, WHAT, "the file is there already")
            .on(path.display())
            .next("name another --out"),
        _ => Failure::local(WHAT, path.display(), &error),
    })
}

fn tell(out: Output, path: &Path, imported: &Imported) -> Result<(), Failure> {
    if out.json {
        let path = path.display().to_string();
        return out.json(&serde_json::json!({ "written": path, "notes": imported.notes }));
    }
    for path in imported.files.iter().map(|file| file.path.as_path()).chain([path]) {
        out.line(&path.display().to_string())?;
    }
    for note in &imported.notes {
        out.note(&format!("note: {note}"));
    }
    out.note(&format!("Look it over, then: muster config check --config {}", path.display()));
    Ok(())
}
