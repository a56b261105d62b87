//! `muster import`: takes over the configuration of another system.

use muster_cli::{Exit, Failure, Globals, Output};
use muster_server::import::{self, Imported};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// `muster import`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster import fleetspeak \\
      --components /etc/fleetspeak-server/server.components.config \\
      --services /etc/fleetspeak-server/server.services.config \\
      --out /etc/muster/muster.toml
  muster import mig --whitelist /etc/mig/agents.whitelist --out /etc/muster/muster.toml")]
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
        /// The account that the server is to run as, which is given what is written; as root, `muster` where there is one
        #[arg(long, value_name = "ACCOUNT")]
        owner: Option<String>,
    },
    /// Write a configuration that lets in the machines of a MIG scheduler's white list
    Mig {
        /// The white list: queue locations, one a line, or re: and a regular expression
        #[arg(long, value_name = "FILE")]
        whitelist: PathBuf,
        /// The configuration to write; a file that is there is not replaced
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

const WHAT: &str = "could not take over the configuration";

impl ImportArgs {
    /// Runs the command.
    pub(crate) fn run(self, globals: &Globals) -> Result<(), Failure> {
        let read =
            |path: &Path| std::fs::read_to_string(path).map_err(|error| Failure::local(WHAT, path.display(), &error));
        let (components, services, path, owner) = match self.command {
            Command::Fleetspeak { components, services, out, owner } => (components, services, out, owner_of(owner)?),
            Command::Mig { whitelist, out } => {
                let imported = import::mig::white_list(&read(&whitelist)?)
                    .map_err(|error| Failure::new(Exit::Usage, WHAT, error.to_string()).on(whitelist.display()))?;
                let owner = owner_of(None)?;
                write_new(&out, &imported.config.to_text(), owner.as_ref())?;
                return tell(Output::new(globals.json), &out, &imported, owner.as_ref());
            }
        };
        let absolute = std::path::absolute(&path).map_err(|error| Failure::local(WHAT, path.display(), &error))?;
        let directory = absolute.parent().unwrap_or(Path::new("/"));
        let imported = import::fleetspeak(&read(&components)?, &read(&services)?, directory)
            .map_err(|error| Failure::new(Exit::Usage, WHAT, muster_cli::failure::chain(&error)).on(error.file()))?;
        way_check(&absolute, owner.as_ref())?;
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
        made.map_err(|error| Failure::local(WHAT, directory.display(), &error))?;
        for file in &imported.files {
            write_new(&file.path, &file.text, owner.as_ref())?;
        }
        write_new(&path, &imported.config.to_text(), owner.as_ref())?;
        tell(Output::new(globals.json), &path, &imported, owner.as_ref())
    }
}

/// The account that the packaged service runs as.
const SERVICE_ACCOUNT: &str = "muster";

/// An account of this machine.
struct Account {
    name: String,
    user: u32,
    group: u32,
}

/// Finds the account that is to own what is written; `None`: whoever runs the command.
fn owner_of(given: Option<String>) -> Result<Option<Account>, Failure> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    match given {
        None if rustix::process::geteuid().is_root() => Ok(account(&text, SERVICE_ACCOUNT)),
        None => Ok(None),
        Some(name) => account(&text, &name).map(Some).ok_or_else(|| {
            Failure::usage(WHAT, "there is no such account in /etc/passwd")
                .on(&name)
                .next("make it first, or name another --owner")
        }),
    }
}

fn account(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [have, _, user, group, ..] = fields[..] else { return None };
        (have == name).then_some(())?;
        Some(Account { name: name.to_owned(), user: user.parse().ok()?, group: group.parse().ok()? })
    })
}

/// Makes sure that what is given to another account is made where that account could not lead this process elsewhere by a link:
/// every directory on the way is root's or this user's.
fn way_check(path: &Path, owner: Option<&Account>) -> Result<(), Failure> {
    let other = owner.filter(|owner| owner.user != rustix::process::geteuid().as_raw());
    let Some(Account { name, .. }) = other else { return Ok(()) };
    import::way_check(path).map_err(|why| {
        Failure::new(Exit::Refused, WHAT, format!("what is written is to belong to {name}, and {why}"))
            .on(path.display())
            .next(format!(
                "name an --out that is root's, such as /etc/muster, or `runuser -u {name} -- muster import …`"
            ))
    })
}

fn write_new(path: &Path, text: &str, owner: Option<&Account>) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    way_check(path, owner)?;
    let new = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = new.and_then(|mut file| {
        if let Some(Account { user, group, .. }) = owner {
            std::os::unix::fs::fchown(&file, Some(*user), Some(*group))?;
        }
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all())
    });
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::new(Exit::Conflict, WHAT, "the file is there already")
            .on(path.display())
            .next("name another --out"),
        _ => Failure::local(WHAT, path.display(), &error),
    })
}

fn tell(out: Output, path: &Path, imported: &Imported, owner: Option<&Account>) -> Result<(), Failure> {
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
    match owner {
        Some(owner) => out.note(&format!("These belong to {}, as which the server is to run.", owner.name)),
        None => {
            out.note(
                "These belong to you: where the server runs as another account, chown them to it, or use --owner.",
            );
        }
    }
    out.note(&format!("Look it over, then: muster config check --config {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_account_is_found_by_its_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nodd\nmuster:x:990:985::/var/lib/muster:/usr/sbin/nologin\n";
        let found = account(passwd, "muster").unwrap();
        assert_eq!((found.user, found.group, found.name.as_str()), (990, 985, "muster"));
        assert!(account(passwd, "must").is_none() && account(passwd, "odd").is_none());
        assert!(owner_of(Some("no such account".to_owned())).is_err());
    }

    #[test]
    fn what_is_written_is_private_and_its_accounts() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("muster.toml");
        let is_root = rustix::process::geteuid().is_root();
        let (user, group) = if is_root {
            (990, 985)
        } else {
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
        };
        write_new(&path, "x", Some(&Account { name: "muster".into(), user, group })).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (user, group, 0o600));
        assert_eq!(write_new(&path, "y", None).unwrap_err().exit, Exit::Conflict);
    }

    #[test]
    fn nothing_is_given_to_an_account_where_that_account_could_lead_it_elsewhere() {
        use std::os::unix::fs::{MetadataExt as _, chown, lchown, symlink};
        assert!(rustix::process::geteuid().is_root(), "only root gives files to others: run the tests as root");
        let dir = tempfile::tempdir().unwrap();
        let (theirs, secret) = (dir.path().join("theirs"), dir.path().join("secret"));
        std::fs::create_dir(&theirs).unwrap();
        std::fs::create_dir(&secret).unwrap();
        symlink(&secret, theirs.join("link")).unwrap();
        chown(&theirs, Some(990), Some(985)).unwrap();
        lchown(theirs.join("link"), Some(990), Some(985)).unwrap();
        let account = Account { name: "muster".into(), user: 990, group: 985 };
        for path in [theirs.join("muster.toml"), theirs.join("link/muster.toml")] {
            let failure = write_new(&path, "x", Some(&account)).unwrap_err();
            assert!(failure.exit == Exit::Refused && failure.next.contains("runuser -u muster --"), "{failure}");
            assert!(!path.exists());
        }
        assert_eq!(std::fs::read_dir(&secret).unwrap().count(), 0);
        write_new(&secret.join("muster.toml"), "x", Some(&account)).unwrap();
        assert_eq!(std::fs::metadata(secret.join("muster.toml")).unwrap().uid(), 990);
    }
}
