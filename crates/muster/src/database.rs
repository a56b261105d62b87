//! Commands on a database itself, without a server: its schema, a backup, a restore.

mod create;

use crate::config::load;
use crate::serve::ConfigFile;
use muster_cli::save::{Readers, ReplaceArgs, Save};
use muster_cli::{Context, Exit, Failure, Globals, Output, commands};
use muster_server::Config;
use muster_server::config::{Overrides, Purpose};
use muster_server::offline::{self, OfflineError, OfflineErrorKind, SchemaState};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Which database.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Which {
    /// Where the configuration stands
    #[command(flatten)]
    file: ConfigFile,
    /// The database: a PostgreSQL URL, or sqlite:PATH; the one of the configuration or data directory unless told
    #[arg(long, env = "MUSTER_DATABASE", value_name = "URL", hide_env_values = true)]
    database: Option<String>,
}

impl Which {
    fn config(&self, globals: &Globals) -> Result<Config, Failure> {
        self.config_for(Purpose::Use, globals)
    }

    fn config_for(&self, purpose: Purpose, globals: &Globals) -> Result<Config, Failure> {
        let (data, database) = (globals.data.clone(), self.database.clone());
        load(&self.file, &Overrides { data, database, purpose, ..Overrides::default() })
    }
}

/// `muster db`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster db status --data /var/lib/muster
  muster db migrate --database postgresql://muster@db1/muster
  muster db create --database postgresql://postgres@db1/muster --out muster-roles.env

An embedded database is made by the first `muster serve`; it is never migrated by opening it. A PostgreSQL database is
made by `muster db migrate`, or with a role for each purpose by `muster db create`. Back up before migrating.")]
pub(crate) struct DbArgs {
    #[command(subcommand)]
    command: DbCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DbCommand {
    /// Say which schema the database has, and which one this program speaks
    Status(Which),
    /// Bring the database to this program's schema, or make it
    Migrate(Which),
    /// Make a database: a local file, or roles, schema and tables in a PostgreSQL database that is there
    Create(Box<create::CreateArgs>),
}

impl DbArgs {
    /// Runs the command.
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let out = Output::new(globals.json);
        match self.command {
            DbCommand::Status(which) => status(out, &which.config_for(Purpose::Look, globals)?).await,
            DbCommand::Migrate(which) => migrate(out, &which.config(globals)?).await,
            DbCommand::Create(args) => args.run(globals).await,
        }
    }
}

async fn status(out: Output, config: &Config) -> Result<(), Failure> {
    const WHAT: &str = "could not look at the database";
    let status = offline::status(config).await.map_err(|error| failed(WHAT, &error))?;
    let (state, next) = match &status.state {
        SchemaState::Current => ("current", String::new()),
        SchemaState::Empty => ("empty", "run `muster db migrate` once".to_owned()),
        SchemaState::Elsewhere { schema, url } => {
            ("elsewhere", format!("the tables are in the schema {schema}: use {url}, with that role's password"))
        }
        SchemaState::Old(_) => ("old", "back up, then run `muster db migrate`".to_owned()),
        SchemaState::New(_) => ("new", "install a newer Muster".to_owned()),
    };
    let have = status.have();
    if out.json {
        let wanted = status.wanted;
        out.json(&json!({ "database": status.location, "state": state, "schema": have, "wanted": wanted }))?;
    } else {
        out.pairs(&[
            ("Database", status.location.clone()),
            ("Schema", have.map_or_else(|| "none".to_owned(), |have| have.to_string())),
            ("This program's", status.wanted.to_string()),
            ("State", state.to_owned()),
            ("Next", next.clone()),
        ])?;
    }
    if status.state == SchemaState::Current {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "the database is not ready for this program", format!("its schema is {state}"))
        .on(status.location)
        .next(next))
}

async fn migrate(out: Output, config: &Config) -> Result<(), Failure> {
    let done = offline::migrate(config).await.map_err(|error| failed("could not migrate the database", &error))?;
    if out.json {
        return out.json(&json!({ "database": done.location, "from": done.from, "to": done.to }));
    }
    out.line(&match done.from {
        None => format!("{}: made, schema {}", done.location, done.to),
        Some(from) if from == done.to => format!("{}: schema {} already", done.location, done.to),
        Some(from) => format!("{}: schema {from} brought to {}", done.location, done.to),
    })
}

/// `muster backup`.
#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    /// The file to write, or - for standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    replace: ReplaceArgs,
    /// Open the database itself: for an embedded one, no server may run
    #[arg(long)]
    offline: bool,
    /// Which database, with --offline
    #[command(flatten)]
    which: Which,
}

impl BackupArgs {
    /// Runs the command.
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        const WHAT: &str = "could not take a backup";
        if !self.offline {
            return commands::backup::run(&Context::new(globals)?, &self.out, self.replace).await;
        }
        let config = self.which.config(globals)?;
        let save = Save::begin(WHAT, &self.out, Readers::Owner, self.replace)?;
        let Some(part) = save.part() else { return through(&config, save).await };
        offline::backup(&config, part).await.map_err(|error| failed(WHAT, &error))?;
        secret(part).map_err(|error| save.failed(&error))?;
        save.finish_part()?;
        told(Output::new(globals.json), &self.out)
    }
}

/// Writes a backup through what is no regular file. The copy is made in a directory of its own, for its owner only: a
/// database can be copied into a file alone.
async fn through(config: &Config, save: Save) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    let directory = std::env::temp_dir().join(format!("muster-backup-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&directory).map_err(|error| save.failed(&error))?;
    let _removed = Removed(directory.clone());
    let part = directory.join("backup");
    offline::backup(config, &part).await.map_err(|error| failed("could not take a backup", &error))?;
    let mut from = tokio::fs::File::open(&part).await.map_err(|error| save.failed(&error))?;
    let mut to = save.file().await?;
    tokio::io::copy(&mut from, &mut to).await.map_err(|error| save.failed(&error))?;
    save.finish(to).await
}

/// A directory that is gone when the command ends.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // What cannot be removed lies in a directory that only its owner reads.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn secret(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

fn told(out: Output, path: &Path) -> Result<(), Failure> {
    let about =
        std::fs::metadata(path).map_err(|error| Failure::local("could not look at it", path.display(), &error))?;
    let bytes = about.len();
    if out.json {
        return out.json(&json!({ "file": path.display().to_string(), "bytes": bytes }));
    }
    out.line(&format!("{}  {}", path.display(), muster_cli::output::size(bytes)))
}

/// `muster restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    file: PathBuf,
    /// Which database to fill
    #[command(flatten)]
    which: Which,
}

impl RestoreArgs {
    /// Runs the command.
    pub(crate) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        const WHAT: &str = "could not restore the backup";
        if let Err(error) = std::fs::File::open(&self.file) {
            let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
            return Err(Failure::new(exit, WHAT, error.to_string()).on(self.file.display()));
        }
        let config = self.which.config(globals)?;
        let done = offline::restore(&config, &self.file).await.map_err(|error| failed(WHAT, &error))?;
        let out = Output::new(globals.json);
        if out.json {
            return out.json(&json!({ "database": done.location, "file": self.file.display().to_string() }));
        }
        out.line(&format!("{}: filled from {}", done.location, self.file.display()))?;
        out.note(
            "Start the server: agents find it again by themselves, because its authority came back with the rest.",
        );
        Ok(())
    }
}

fn failed(what: &str, error: &OfflineError) -> Failure {
    let (exit, next) = match error.kind {
        OfflineErrorKind::Schema => (Exit::Failed, "see `muster db status`"),
        OfflineErrorKind::Refused => (Exit::Conflict, "stop the server that uses it, or choose another database"),
        OfflineErrorKind::Unreachable => (Exit::Unreachable, "is the database running, and the URL right?"),
        OfflineErrorKind::Backup => (
            Exit::Failed,
            "no database was touched; take another copy, or restore this one with the program of its version, then `muster db migrate`",
        ),
        OfflineErrorKind::Other => (Exit::Failed, "is the path right, and is there room and permission?"),
    };
    Failure::new(exit, what, muster_cli::failure::chain(error)).on(&error.location).next(next)
}
