//! `muster db create`.
//!
//! Stays true: no password stands on the command line or comes back from a file that somebody named; one that is made
//! here is printed once, or written to a file that only its owner reads, which is there before anything is changed.

use super::{Which, failed};
use muster_cli::save::{Readers, ReplaceArgs, Save, is_standard};
use muster_cli::{Exit, Failure, Globals, Output};
use muster_server::config::Database;
use muster_server::offline::{self, Created, CreatedRole, NewRole, NewRoles, PasswordIs, RolePassword};
use muster_server::world::SystemRandom;
use serde_json::json;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt as _;

const WHAT: &str = "could not make the database";
/// Bytes of a file that holds a password, at most.
const PASSWORD_FILE_BYTES_MAX: u64 = 4096;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster db create --data /var/lib/muster
  muster db create --database postgresql://postgres@db1/muster
  muster db create --database postgresql://postgres@db1/muster --out /etc/muster/roles.env
  muster db create --database postgresql://postgres@db1/muster --server-password-file server.pass --json

For PostgreSQL, --database names a database that is there and somebody who may make roles in it. The owner changes the
schema (`muster db migrate`, `muster restore`); the server reads and writes rows, and of the journal only adds to it; the
reader sees what MIG's tables show. Twice is once: a role that is there keeps its password unless a file is named.")]
pub(super) struct CreateArgs {
    #[command(flatten)]
    which: Which,
    /// The role that owns the tables; muster_owner unless told
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// The role that serves; muster_server unless told
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// The role that only reads; muster_reader unless told
    #[arg(long, value_name = "NAME")]
    reader: Option<String>,
    /// The schema that holds the tables; muster unless told
    #[arg(long, value_name = "NAME")]
    schema: Option<String>,
    /// A file whose first line becomes the owner's password
    #[arg(long, value_name = "FILE", conflicts_with = "keep_passwords")]
    owner_password_file: Option<PathBuf>,
    /// A file whose first line becomes the server's password
    #[arg(long, value_name = "FILE", conflicts_with = "keep_passwords")]
    server_password_file: Option<PathBuf>,
    /// A file whose first line becomes the reader's password
    #[arg(long, value_name = "FILE", conflicts_with = "keep_passwords")]
    reader_password_file: Option<PathBuf>,
    /// Set no passwords: the roles sign in another way
    #[arg(long)]
    keep_passwords: bool,
    /// Write the URLs with their passwords into this new file, for its owner only, instead of printing passwords
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl CreateArgs {
    pub(super) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        let config = self.which.config(globals)?;
        let roles = if let Database::Postgres(_) = config.database {
            Some(self.roles()?)
        } else {
            self.refuse_roles()?;
            None
        };
        let secrets = match &self.out {
            Some(path) => Some(Secrets::open(path).await?),
            None => None,
        };
        let made = offline::create(&config, roles, &SystemRandom).await.map_err(|error| failed(WHAT, &error))?;
        let is_kept = secrets.is_some();
        if let Some(secrets) = secrets {
            secrets.write(&made.roles).await?;
        }
        if self.out.as_deref().is_some_and(is_standard) {
            return Ok(());
        }
        self.tell(Output::new(globals.json), &made, is_kept)
    }

    fn roles(&self) -> Result<NewRoles, Failure> {
        let role = |name: &Option<String>, usual: &str, file: &Option<PathBuf>| {
            let password = match file {
                _ if self.keep_passwords => RolePassword::Kept,
                None => RolePassword::Made,
                Some(path) => RolePassword::Given(first_line(path)?),
            };
            Ok::<_, Failure>(NewRole { name: name.clone().unwrap_or_else(|| usual.to_owned()), password })
        };
        let roles = NewRoles {
            owner: role(&self.owner, "muster_owner", &self.owner_password_file)?,
            server: role(&self.server, "muster_server", &self.server_password_file)?,
            reader: role(&self.reader, "muster_reader", &self.reader_password_file)?,
            schema: self.schema.clone().unwrap_or_else(|| "muster".to_owned()),
        };
        names_check(&roles)?;
        Ok(roles)
    }

    /// A file has no roles, and nobody shall believe that it has.
    fn refuse_roles(&self) -> Result<(), Failure> {
        let names = [&self.owner, &self.server, &self.reader, &self.schema].into_iter().any(Option::is_some);
        let files = [&self.owner_password_file, &self.server_password_file, &self.reader_password_file, &self.out];
        if names || self.keep_passwords || files.into_iter().any(Option::is_some) {
            return Err(Failure::usage(WHAT, "roles and passwords are PostgreSQL's, and this database is a file")
                .next("name one with --database postgresql://…, or leave these flags out"));
        }
        Ok(())
    }

    fn tell(&self, out: Output, made: &Created, is_kept: bool) -> Result<(), Failure> {
        let url = |role: &CreatedRole| {
            // What was given in a file is known to whoever gave it.
            let is_told = role.password == PasswordIs::Made && !is_kept;
            if is_told { role.secret_url.clone() } else { role.url.clone() }
        };
        if out.json {
            let roles = made.roles.iter().map(|role| {
                json!({ "role": role.purpose, "name": role.name, "new": role.is_new,
                    "password": role.password.word(), "url": url(role) })
            });
            let file = self.out.as_ref().map(|path| path.display().to_string());
            return out.json(&json!({ "database": made.location, "from": made.from, "to": made.to,
                "roles": roles.collect::<Vec<_>>(), "file": file }));
        }
        out.line(&match made.from {
            None => format!("{}: made, schema {}", made.location, made.to),
            Some(from) if from == made.to => format!("{}: schema {} already", made.location, made.to),
            Some(from) => format!("{}: schema {from} brought to {}", made.location, made.to),
        })?;
        let urls: Vec<_> = made.roles.iter().map(|role| (role.purpose, url(role))).collect();
        out.pairs(&urls)?;
        match &self.out {
            Some(path) => out.note(&format!("{}  holds the URLs with their passwords", path.display())),
            None if made.roles.iter().any(|role| role.password == PasswordIs::Made) => {
                out.note("Passwords are shown this once. Write the server's URL into muster.toml, as `database`.");
            }
            None => {}
        }
        Ok(())
    }
}

/// Refuses names that no database would take from here, before one is asked.
fn names_check(roles: &NewRoles) -> Result<(), Failure> {
    let NewRoles { owner, server, reader, schema } = roles;
    let names =
        [("--owner", &owner.name), ("--server", &server.name), ("--reader", &reader.name), ("--schema", schema)];
    for (flag, name) in names {
        offline::name_check(name).map_err(|why| Failure::usage(WHAT, why).next(format!("give {flag} another name")))?;
    }
    let mut seen = std::collections::BTreeSet::new();
    match names.iter().take(3).find(|(_, name)| !seen.insert(*name)) {
        None => Ok(()),
        Some((flag, name)) => {
            let why = format!("{name} would be two roles in one: owner, server and reader are three");
            Err(Failure::usage(WHAT, why).next(format!("give {flag} another name")))
        }
    }
}

fn first_line(path: &Path) -> Result<String, Failure> {
    const WHAT: &str = "could not read the password";
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(PASSWORD_FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| Failure::local(WHAT, path.display(), &error))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(Failure::usage(WHAT, "its first line is empty").on(path.display())),
    }
}

/// The file that passwords are written to. What another run wrote there may be needed: it is never replaced.
struct Secrets {
    save: Save,
    file: tokio::fs::File,
}

impl Secrets {
    /// Makes the file, before anything needs it. It has its name once it holds them.
    async fn open(path: &Path) -> Result<Self, Failure> {
        let save = Save::begin(WHAT, path, Readers::Owner, ReplaceArgs::default()).map_err(|failure| {
            if failure.exit != Exit::Conflict {
                return failure;
            }
            failure.next("name a file that is not there: what it holds may be needed")
        })?;
        let file = save.file().await?;
        Ok(Self { save, file })
    }

    async fn write(mut self, roles: &[CreatedRole]) -> Result<(), Failure> {
        let line = |role: &CreatedRole| {
            format!("{}_URL='{}'\n", role.purpose.to_uppercase(), role.secret_url.replace('\'', "%27"))
        };
        let text: String = roles.iter().map(line).collect();
        let written = match self.file.write_all(text.as_bytes()).await {
            Ok(()) => self.save.finish(self.file).await,
            Err(error) => Err(self.save.failed(&error)),
        };
        written.map_err(|failure| Failure {
            what: "the database is made, but its passwords were not kept".to_owned(),
            next: "run it again with a file for each password: roles that are there take them".to_owned(),
            ..failure
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles([owner, server, reader, schema]: [&str; 4]) -> NewRoles {
        let role = |name: &str| NewRole { name: name.to_owned(), password: RolePassword::Kept };
        NewRoles { owner: role(owner), server: role(server), reader: role(reader), schema: schema.to_owned() }
    }

    #[test]
    fn names_that_no_database_takes_are_refused_with_the_flag_that_gave_them() {
        assert!(names_check(&roles(["a", "_b1", "c", "a"])).is_ok());
        let long = "x".repeat(64);
        for (names, flag) in [
            (["o2", "o2", "c", "m"], "--server"),
            (["a", "b", "a", "m"], "--reader"),
            (["a", "b", "c", "we'ird"], "--schema"),
            (["A", "b", "c", "m"], "--owner"),
            (["a", "1b", "c", "m"], "--server"),
            (["a", "b", "", "m"], "--reader"),
            (["a", "b", "c", &long], "--schema"),
        ] {
            let failure = names_check(&roles(names)).unwrap_err();
            assert!(failure.exit == Exit::Usage && failure.next.contains(flag), "{names:?}: {failure}");
        }
    }
}
