//! `muster agent known`: the person's own book of machines.
//!
//! Stays true: machines are approved by what the person writes, or by a list of the server's that the person agreed to at a
//! terminal; no server chooses which id a name stands for.

use crate::commands::action::consent;
use crate::known::{Book, BookArgs, Machine, alike, plain};
use crate::list::{ListArgs, Rows};
use crate::output::{Table, machine_name, safe, time, yes};
use crate::{Context, Failure, signing};
use muster_api::agents::{AgentQuery, AgentSummary};
use muster_core::AgentId;
use muster_core::limits::KNOWN_FILE_BYTES_MAX;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const WHAT: &str = "could not approve machines";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster agent known list --unapproved
  muster agent known add 1122334455667788 web-1
  muster agent known add --file machines.txt      lines of an id and a name
  muster agent known add --from-server            shows what the server has, and asks
  muster agent known forget 1122334455667788
  muster agent known forget --unapproved

`muster-agent status` prints a machine's id on the machine itself: that is the one to write here. Machines that answer come into
the book by themselves, as ones that nobody approved; `--known-only` of `ask` and `action results` takes answers of approved
machines alone. The book lies in ~/.config/muster/machines, one file for each fleet or server.")]
pub(super) struct KnownArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the machines of the book
    List {
        #[command(flatten)]
        book: BookArgs,
        /// Only those that nobody approved
        #[arg(long)]
        unapproved: bool,
    },
    /// Approve machines: say which ids are yours, and what they are called
    Add {
        #[command(flatten)]
        book: BookArgs,
        /// Its id, 16 hexadecimal digits
        #[arg(requires = "name", conflicts_with_all = ["file", "from_server"])]
        id: Option<AgentId>,
        /// What it is called
        name: Option<String>,
        /// Take ids and names from this file, one machine a line: the id, a blank, the name
        #[arg(long, value_name = "FILE", conflicts_with = "from_server")]
        file: Option<PathBuf>,
        /// Take ids and names from the server, once you compared them with your own list and agreed at the terminal
        #[arg(long, required_unless_present_any = ["id", "file"])]
        from_server: bool,
    },
    /// Take machines out of the book
    Forget {
        #[command(flatten)]
        book: BookArgs,
        /// Their ids, 16 hexadecimal digits each
        #[arg(required_unless_present = "unapproved", conflicts_with = "unapproved", value_name = "ID")]
        ids: Vec<AgentId>,
        /// All that nobody approved
        #[arg(long)]
        unapproved: bool,
    },
}

impl KnownArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::List { book, unapproved } => list(context, &Book::of(context, &book)?, unapproved),
            Command::Add { book, id, name, file, .. } => {
                let mut book = Book::of(context, &book)?;
                let approved = match (id.zip(name), file) {
                    (Some(one), _) => vec![one],
                    (None, Some(path)) => of_file(&path)?,
                    (None, None) => of_server(context, &book).await?,
                };
                book.approve(&approved)?;
                for (id, name) in &approved {
                    if let Some(other) = book.other_of_name(&id.to_string(), name) {
                        let name = machine_name(name);
                        context
                            .out
                            .note(&safe(&format!("{id}: {name} is also the name of {other}, which is approved")));
                    }
                }
                context.out.note(&format!("{} approved in the book of {}", count(approved.len()), safe(book.whose())));
                Ok(())
            }
            Command::Forget { book, ids, unapproved } => {
                let mut book = Book::of(context, &book)?;
                let taken_out = if unapproved {
                    book.forget_unapproved()?
                } else {
                    book.forget(&ids)?;
                    ids.len()
                };
                context.out.note(&format!("{} taken out of the book of {}", count(taken_out), safe(book.whose())));
                Ok(())
            }
        }
    }
}

fn count(machines: usize) -> String {
    if machines == 1 { "1 machine".to_owned() } else { format!("{machines} machines") }
}

fn list(context: &Context, book: &Book, unapproved: bool) -> Result<(), Failure> {
    let machines: Vec<&Machine> = book.machines().filter(|machine| !(unapproved && machine.approved)).collect();
    if context.out.json {
        return context.out.items(&machines);
    }
    let mut table = Table::new(&["ID", "NAME", "APPROVED", "SINCE", "KEY SHA-256"]);
    for machine in machines {
        let key = machine.key_sha256.clone().unwrap_or_else(|| "-".to_owned());
        let other = book.other_of_name(&machine.id, &machine.name);
        let other = other.map(|other| format!(" (name of {other})")).unwrap_or_default();
        let name = format!("{}{other}", machine_name(&machine.name));
        table.row([machine.id.clone(), name, yes(machine.approved), time(&machine.since), key]);
    }
    context.out.table(&table, &format!("No such machines in the book of {}.", safe(book.whose())))
}

/// Reads a person's list.
fn of_file(path: &Path) -> Result<Vec<(AgentId, String)>, Failure> {
    let most = usize::try_from(KNOWN_FILE_BYTES_MAX).unwrap_or(usize::MAX);
    let bytes = signing::read_file(WHAT, path, most)?;
    let text = String::from_utf8(bytes).map_err(|error| Failure::local(WHAT, path.display(), &error))?;
    lines(&text).map_err(|(line, why)| {
        Failure::usage(WHAT, why)
            .on(format!("{}, line {line}", path.display()))
            .next("write an id of 16 hexadecimal digits, a blank, and a name")
    })
}

/// Reads lines of an id and a name; blank ones and those that begin with `#` are passed over.
fn lines(text: &str) -> Result<Vec<(AgentId, String)>, (usize, String)> {
    let mut machines = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (id, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let id = id.parse().map_err(|error: muster_core::IdError| (number, error.to_string()))?;
        if name.trim().is_empty() {
            return Err((number, "there is no name behind the id".to_owned()));
        }
        machines.push((id, name.trim().to_owned()));
    }
    Ok(machines)
}

/// Shows what the server has and the book has not, and asks.
async fn of_server(context: &Context, book: &Book) -> Result<Vec<(AgentId, String)>, Failure> {
    let filter = AgentQuery { state: Some("enrolled".to_owned()), ..AgentQuery::default() };
    let all = ListArgs { all: true, ..ListArgs::default() };
    let rows = Rows::fetch(context, WHAT, &["agents"], &filter, &all).await?;
    let (mut new, mut lines, mut unnamed, mut named) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
    for row in rows.read::<AgentSummary>(context, WHAT)? {
        let name = plain(&row.hostname.unwrap_or_default());
        let id: AgentId =
            row.id.parse().map_err(|error: muster_core::IdError| Failure::local(WHAT, &row.id, &error))?;
        if name.is_empty() {
            unnamed.push(id.to_string());
            continue;
        }
        let known = book.machine(&id.to_string());
        if known.is_some_and(|machine| machine.approved && machine.name == name) {
            continue;
        }
        let here = match known {
            Some(machine) if machine.name != name => format!("  known here as {}", machine_name(&machine.name)),
            Some(_) => "  has answered before".to_owned(),
            None => String::new(),
        };
        lines.push(safe(&format!("{id}  {}{here}{}", machine_name(&name), same_name(book, id, &name, &mut named))));
        new.push((id, name));
    }
    if !unnamed.is_empty() {
        lines.push(format!(
            "The server has no name for {} ({}): not approved here; `{}` approves one.",
            count(unnamed.len()),
            unnamed.join(" "),
            book.command("add ID NAME")
        ));
    }
    if new.is_empty() {
        consent::say(&lines);
        context.out.note("Every machine that the server names is in your book under its name.");
        return Ok(new);
    }
    consent::say(&lines);
    let question = format!("Are these {} yours, each under this id and this name, by your own list?", count(new.len()));
    consent::ask(&question, &format!("write them yourself: {}", book.command("add --file FILE"))).await?;
    Ok(new)
}

/// Says that a machine has the name of one that is approved, or of one that stands before it in the list.
fn same_name(book: &Book, id: AgentId, name: &str, before: &mut BTreeMap<String, AgentId>) -> String {
    if let Some(other) = book.other_of_name(&id.to_string(), name) {
        return format!("  THE NAME OF {other}, WHICH YOU APPROVED");
    }
    let twin = *before.entry(alike(name)).or_insert(id);
    if twin == id { String::new() } else { format!("  THE NAME OF {twin} ABOVE, TOO") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_of_the_servers_with_the_name_of_another_is_pointed_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Book::at(&dir.path().join("x.jsonl")).unwrap();
        let (own, one, two) = (1_u8, 2_u8, 3_u8);
        let id = |number: u8| format!("{number:016x}").parse::<AgentId>().unwrap();
        book.approve(&[(id(own), "web-1".into())]).unwrap();
        let mut before = BTreeMap::new();
        for name in ["web-1", "WEB-1", "web-1.", " web-1\u{200b} "] {
            let said = same_name(&book, id(one), name, &mut before);
            assert!(said.contains(&format!("{}, WHICH YOU APPROVED", id(own))), "{name:?}: {said}");
        }
        assert_eq!(same_name(&book, id(own), "web-1", &mut before), "");
        assert_eq!(same_name(&book, id(one), "db-1", &mut before), "");
        assert!(same_name(&book, id(two), "DB-1", &mut before).contains(&format!("{} ABOVE", id(one))));
    }

    #[test]
    fn a_list_of_machines_is_read_line_by_line_and_its_mistakes_are_named() {
        let read = lines("# mine\n\n1122334455667788  web-1\n\tAABBCCDDEEFF0011\tdb one \n").unwrap();
        let named: Vec<_> = read.iter().map(|(id, name)| (id.to_string(), name.as_str())).collect();
        assert_eq!(named, [("1122334455667788".to_owned(), "web-1"), ("aabbccddeeff0011".to_owned(), "db one")]);
        for (bad, line) in [("1122334455667788", 1), ("\n1122 web-1", 2), ("web-1 1122334455667788", 1)] {
            assert_eq!(lines(bad).unwrap_err().0, line, "{bad}");
        }
    }
}
