//! The book of machines that a person knows: which ids exist, with which keys, and what the machines are called.
//!
//! A result proves that the key behind an id made it, and anybody who has a server can make keys. So this machine keeps a book
//! of its own: an id that was never seen before is said to be new, and one that a person approved keeps its name whatever a
//! server calls it.
//!
//! Stays true: only a person's own word approves a machine, and only under a name; what a first answer brings in is marked
//! as such until then; a name that is in the book is changed by no server, and no server names what is approved or takes its room; the file is its owner's alone, and whole at any moment, also when
//! several commands write at once. Not here: whether a result is its machine's (`proof`).

use crate::output::is_unseen;
use crate::{Context, Exit, Failure, own, values};
use muster_core::AgentId;
use muster_core::limits::{KNOWN_FILE_BYTES_MAX, KNOWN_MACHINES_MAX, KNOWN_NAME_CHARS_MAX, KNOWN_UNAPPROVED_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const WHAT: &str = "could not read the book of machines";

/// Which book is read and written.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct BookArgs {
    /// The fleet whose book of known machines counts, and for whose machines alone a question is signed; without it, the book
    /// of the server that is asked
    #[arg(long, env = "MUSTER_FLEET", value_name = "NAME", value_parser = values::fleet)]
    pub(crate) fleet: Option<String>,
}

/// What the book has of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Its id: 16 hexadecimal digits.
    pub(crate) id: String,
    /// What it is called; empty when nobody said so.
    pub(crate) name: String,
    /// SHA-256 of its public key in hexadecimal, of which the id is the beginning; absent until it first answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_sha256: Option<String>,
    /// When it came into the book (RFC 3339).
    pub(crate) since: String,
    /// Whether a person said that this id is the machine of this name. Else a first answer brought it in.
    pub(crate) approved: bool,
}

/// How a machine stands in the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is not in it.
    New,
    /// A first answer brought it in; nobody said that it is a machine of theirs.
    Seen,
    /// A person approved it.
    Approved,
}

impl Standing {
    /// The word for it, as CSV and JSON have it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Seen => "unapproved",
            Self::Approved => "approved",
        }
    }
}

/// One book.
#[derive(Debug, Clone)]
pub(crate) struct Book {
    /// Whose machines: the fleet, or the server.
    whose: String,
    /// The fleet, where it is that of one.
    fleet: Option<String>,
    /// Where it lies; `None` where there is no home directory: then every machine is new.
    path: Option<PathBuf>,
    machines: BTreeMap<String, Machine>,
    /// Of every name that a person approved, in the form of [`alike`], the ids.
    approved: BTreeMap<String, Vec<String>>,
    /// What answers brought since it was read.
    met: BTreeMap<String, Machine>,
}

impl Book {
    /// Reads the book of the fleet, or that of the server.
    ///
    /// # Errors
    /// The file cannot be read, or holds what this program did not write.
    pub(crate) fn of(context: &Context, with: &BookArgs) -> Result<Self, Failure> {
        let (whose, file) = if let Some(fleet) = &with.fleet {
            (format!("fleet {fleet}"), format!("fleet-{fleet}"))
        } else {
            let url = context.api.url();
            let port = url.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
            let server = format!("{}{port}", url.host_str().unwrap_or_default());
            (format!("server {server}"), format!("server-{server}"))
        };
        let path = directory().map(|directory| directory.join(file_name(&file)));
        let machines = path.as_deref().map(read).transpose()?.unwrap_or_default();
        let approved = approved(&machines);
        Ok(Self { whose, fleet: with.fleet.clone(), path, machines, approved, met: BTreeMap::new() })
    }

    /// Reads the book that lies at `path`.
    #[cfg(test)]
    pub(crate) fn at(path: &Path) -> Result<Self, Failure> {
        let machines = read(path)?;
        let approved = approved(&machines);
        let (whose, path) = ("test".to_owned(), Some(path.to_owned()));
        Ok(Self { whose, fleet: None, path, machines, approved, met: BTreeMap::new() })
    }

    /// The same, as the book of a fleet.
    #[cfg(test)]
    pub(crate) fn of_fleet(self, fleet: &str) -> Self {
        Self { fleet: Some(fleet.to_owned()), ..self }
    }

    /// Whose machines it holds, for people.
    pub(crate) fn whose(&self) -> &str {
        &self.whose
    }

    /// Returns the command line that does this with the same book: without its fleet it would mean another.
    pub(crate) fn command(&self, verb: &str) -> String {
        let (verb, rest) =
            verb.split_once(' ').map_or((verb, String::new()), |(verb, rest)| (verb, format!(" {rest}")));
        let fleet = self.fleet.as_ref().map(|fleet| format!(" --fleet {fleet}")).unwrap_or_default();
        format!("muster agent known {verb}{fleet}{rest}")
    }

    /// Returns the machines, by their ids.
    pub(crate) fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.machines.values()
    }

    /// Returns what the book had of a machine when it was read.
    pub(crate) fn machine(&self, id: &str) -> Option<&Machine> {
        self.machines.get(id)
    }

    /// Returns how a machine stood when the book was read.
    pub(crate) fn standing(&self, id: &str) -> Standing {
        let standing = |machine: &Machine| if machine.approved { Standing::Approved } else { Standing::Seen };
        self.machine(id).map_or(Standing::New, standing)
    }

    /// Returns the id of another machine that a person approved under this name.
    pub(crate) fn other_of_name(&self, id: &str, name: &str) -> Option<&str> {
        self.approved.get(&alike(name))?.iter().map(String::as_str).find(|other| *other != id)
    }

    /// Notes that a machine proved an answer with its key; `name` is the server's word for it.
    pub(crate) fn meet(&mut self, id: &str, key_sha256: &str, name: &str) {
        let has_name = |machine: &Machine| name.is_empty() || machine.approved || !machine.name.is_empty();
        let has_all = |machine: &Machine| machine.key_sha256.is_some() && has_name(machine);
        let has_room = self.met.len() < KNOWN_UNAPPROVED_MAX || self.standing(id) == Standing::Approved;
        if self.machines.get(id).is_some_and(has_all) || !has_room {
            return;
        }
        let machine = Machine {
            id: id.to_owned(),
            // The name of a machine that a person approved is kept for no other.
            name: if self.other_of_name(id, name).is_some() { String::new() } else { plain(name) },
            key_sha256: Some(key_sha256.to_owned()),
            since: values::now().to_string(),
            approved: false,
        };
        self.met.entry(id.to_owned()).or_insert(machine);
    }

    /// Writes what was met. What somebody else wrote in the meantime stays.
    pub(crate) fn keep(&mut self) -> Result<(), Failure> {
        let met = std::mem::take(&mut self.met);
        if met.is_empty() || self.path.is_none() {
            return Ok(());
        }
        self.change(|machines| {
            let approved = approved(machines);
            for (id, mut new) in met {
                // Somebody may have approved another machine of this name in the meantime.
                if approved.get(&alike(&new.name)).is_some_and(|ids| ids.iter().any(|other| *other != id)) {
                    new.name.clear();
                }
                let machine = machines.entry(id).or_insert_with(|| new.clone());
                machine.key_sha256.get_or_insert_with(|| new.key_sha256.unwrap_or_default());
                // What is approved is called as its person says, also where that was said while the answers came in.
                if machine.name.is_empty() && !machine.approved {
                    machine.name = new.name;
                }
            }
            Ok(())
        })
    }

    /// Takes a person's word for machines: their ids and names.
    ///
    /// # Errors
    /// One of the names is empty once what steers a terminal is taken out of it: then none is approved, since whatever name a
    /// server gives would stand for the machine.
    pub(crate) fn approve(&mut self, approved: &[(AgentId, String)]) -> Result<(), Failure> {
        if let Some((id, _)) = approved.iter().find(|(_, name)| plain(name).is_empty()) {
            let why = "its name is empty, or holds nothing that can be read";
            return Err(Failure::usage(format!("could not approve machine {id}"), why)
                .on(&self.whose)
                .next(format!("say what it is called: {}", self.command(&format!("add {id} NAME")))));
        }
        let since = values::now().to_string();
        self.change(|machines| {
            for (id, name) in approved {
                let id = id.to_string();
                let machine = machines.entry(id.clone()).or_insert_with(|| Machine {
                    id,
                    name: String::new(),
                    key_sha256: None,
                    since: since.clone(),
                    approved: true,
                });
                machine.approved = true;
                machine.name = plain(name);
            }
            Ok(())
        })
    }

    /// Takes machines out.
    ///
    /// # Errors
    /// One of them is not in the book: then none is taken out.
    pub(crate) fn forget(&mut self, ids: &[AgentId]) -> Result<(), Failure> {
        let (whose, list) = (self.whose.clone(), self.command("list"));
        self.change(|machines| {
            if let Some(id) = ids.iter().find(|id| !machines.contains_key(&id.to_string())) {
                let what = format!("could not forget machine {id}");
                return Err(Failure::new(Exit::NotFound, what, "it is not in the book").on(whose).next(list));
            }
            for id in ids {
                machines.remove(&id.to_string());
            }
            Ok(())
        })
    }

    /// Takes out all that nobody approved, and returns how many that were.
    pub(crate) fn forget_unapproved(&mut self) -> Result<usize, Failure> {
        let mut taken_out = 0;
        self.change(|machines| {
            let before = machines.len();
            machines.retain(|_, machine| machine.approved);
            taken_out = before - machines.len();
            Ok(())
        })?;
        Ok(taken_out)
    }

    /// Changes the file under its lock: read, changed, written beside it, renamed.
    fn change(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<String, Machine>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        const WHAT: &str = "could not write the book of machines";
        let Some(path) = &self.path else {
            return Err(
                Failure::usage(WHAT, "there is no home directory to keep it in").next("set HOME or XDG_CONFIG_HOME")
            );
        };
        let failed = |error: &std::io::Error| Failure::local(WHAT, path.display(), error);
        let directory = path.parent().unwrap_or(Path::new("/"));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| failed(&error))?;
        // The lock is a file of its own: the book itself is replaced, and a lock on what was replaced holds nobody back.
        let lock = path.with_extension("lock");
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(lock);
        let lock = lock.and_then(|lock| lock.lock().map(|()| lock)).map_err(|error| failed(&error))?;
        let mut machines = read(path)?;
        change(&mut machines)?;
        bound(&mut machines);
        if machines.values().filter(|machine| machine.approved).count() > KNOWN_MACHINES_MAX {
            let why = format!("it would hold more than {KNOWN_MACHINES_MAX} machines");
            let next =
                format!("take out machines that are gone: {}, {}", self.command("list"), self.command("forget ID"));
            return Err(Failure::new(Exit::Failed, WHAT, why).on(path.display()).next(next));
        }
        write(path, &machines).map_err(|error| failed(&error))?;
        drop(lock);
        self.approved = approved(&machines);
        self.machines = machines;
        Ok(())
    }
}

/// Takes out the oldest of what nobody approved, as far as there is too much of it: anybody who has a server can make as
/// many keys as there is room for.
fn bound(machines: &mut BTreeMap<String, Machine>) {
    let unapproved = machines.values().filter(|machine| !machine.approved);
    let mut unapproved: Vec<_> = unapproved.map(|machine| (machine.since.clone(), machine.id.clone())).collect();
    unapproved.sort();
    for (_, id) in unapproved.iter().take(unapproved.len().saturating_sub(KNOWN_UNAPPROVED_MAX)) {
        machines.remove(id);
    }
}

/// Returns the ids of approved machines by their names, in the form of [`alike`].
fn approved(machines: &BTreeMap<String, Machine>) -> BTreeMap<String, Vec<String>> {
    let mut approved = BTreeMap::<String, Vec<String>>::new();
    for machine in machines.values().filter(|machine| machine.approved) {
        approved.entry(alike(&machine.name)).or_default().push(machine.id.clone());
    }
    approved
}

/// Returns a name in a form that is the same for names that people take for the same: host names know no upper and lower
/// case, and a dot behind them means nothing.
pub(crate) fn alike(name: &str) -> String {
    plain(name).trim_end_matches('.').to_lowercase()
}

/// The person's directory of books.
fn directory() -> Option<PathBuf> {
    crate::commands::named::config_directory().map(|config| config.join("machines"))
}

/// Returns a name of a file that no other book has.
fn file_name(book: &str) -> String {
    let mut name = String::new();
    for byte in book.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => name.push(char::from(byte)),
            other => _ = write!(name, "%{other:02X}"),
        }
    }
    name + ".jsonl"
}

/// Returns a name as the book keeps it: short, without what nobody sees, and nothing in it steers a terminal. It may be
/// empty.
pub(crate) fn plain(name: &str) -> String {
    let name: String = name.chars().filter(|c| !is_unseen(*c)).collect();
    muster_core::text::cut(name.trim(), KNOWN_NAME_CHARS_MAX)
}

fn read(path: &Path) -> Result<BTreeMap<String, Machine>, Failure> {
    let failed = |error: &std::io::Error| Failure::local(WHAT, path.display(), error);
    own::check(WHAT, path)?;
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        file => file.map_err(|error| failed(&error))?,
    };
    let mut machines = BTreeMap::new();
    let mut rest = BufReader::new(file.take(KNOWN_FILE_BYTES_MAX + 1));
    let (mut line, mut bytes, mut number) = (String::new(), 0, 0);
    loop {
        line.clear();
        bytes += rest.read_line(&mut line).map_err(|error| failed(&error))? as u64;
        number += 1;
        if line.is_empty() {
            return Ok(machines);
        }
        let wrong = |why: String| {
            Failure::usage(WHAT, why)
                .on(format!("{}, line {number}", path.display()))
                .next("mend the line, or take it out")
        };
        if bytes > KNOWN_FILE_BYTES_MAX {
            return Err(wrong(format!("it has more than {KNOWN_FILE_BYTES_MAX} bytes")));
        }
        if line.trim().is_empty() {
            continue;
        }
        let mut machine: Machine = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
        machine.name = plain(&machine.name);
        // Without a name it would be shown under whatever name a server gives it.
        machine.approved &= !machine.name.is_empty();
        let id: AgentId = machine.id.parse().map_err(|error: muster_core::IdError| wrong(error.to_string()))?;
        if machine.key_sha256.as_ref().is_some_and(|key| !key.starts_with(&id.to_string())) {
            return Err(wrong("the id is not the beginning of the key's SHA-256".to_owned()));
        }
        machines.insert(id.to_string(), machine);
    }
}

fn write(path: &Path, machines: &BTreeMap<String, Machine>) -> std::io::Result<()> {
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let written = (|| {
        // A part that a command left behind which was killed is in nobody's way: the lock is held.
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        let mut text = String::new();
        for machine in machines.values() {
            text.push_str(&serde_json::to_string(machine)?);
            text.push('\n');
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    })();
    written.inspect_err(|_| _ = std::fs::remove_file(&part))
}

#[cfg(test)]
mod tests;
