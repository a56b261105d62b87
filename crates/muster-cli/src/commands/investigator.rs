//! `muster investigator`: people whose signatures make machines act.
//!
//! Stays true: only public keys go to the server; a name that fits two people is refused.

use super::ReasonArgs;
use crate::list::{ListArgs, Rows};
use crate::output::{Table, safe, time};
use crate::signing::read_file;
use crate::{Context, Exit, Failure, resolve};
use muster_api::investigators::{
    InvestigatorQuery, InvestigatorRequest, InvestigatorRow, KeyRequest, PermissionsRequest, WeightRequest,
};
use muster_core::limits::PGP_KEY_BYTES_MAX;
use muster_trust::Certificate;
use reqwest::Method;
use std::path::{Path, PathBuf};

/// `muster investigator`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster investigator add Alice --key alice.pub.asc
  muster investigator list
  muster investigator show Alice
  muster investigator weight Alice --agent 17aa --module file 1
  muster investigator key Alice alice.new.asc --reason 'a new smartcard'
  muster investigator disable Alice --reason 'left the team'

`gpg --armor --export alice@example.com > alice.pub.asc` writes the public key. Machines decide by the keyring and the
weights that they hold themselves; the server notes weights for previews.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Add a person
    Add {
        /// The person's name
        name: String,
        /// The person's OpenPGP public key; without it the person can sign nothing
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// What the person may do in MIG's API: the sum of MIG's bits, also as 0x3f
        #[arg(long, value_name = "BITS", value_parser = bits)]
        permissions: Option<u32>,
        #[command(flatten)]
        reason: ReasonArgs,
    },
    /// List people
    List {
        #[command(flatten)]
        list: ListArgs,
        /// Only `active` or only `disabled` ones
        #[arg(long, value_parser = ["active", "disabled"])]
        status: Option<String>,
    },
    /// Show a person, with the public key
    Show {
        /// The person's name, number or fingerprint
        who: String,
    },
    /// Make a person's signatures count no more at the server
    Disable {
        /// The person's name, number or fingerprint
        who: String,
        #[command(flatten)]
        reason: ReasonArgs,
    },
    /// Make a person's signatures count again
    Enable {
        /// The person's name, number or fingerprint
        who: String,
        #[command(flatten)]
        reason: ReasonArgs,
    },
    /// Give a person another key: signatures by the old one count no more at the server
    Key {
        /// The person's name, number or fingerprint
        who: String,
        /// The person's new OpenPGP public key
        #[arg(value_name = "FILE")]
        key: PathBuf,
        #[command(flatten)]
        reason: ReasonArgs,
    },
    /// Set what a person may do in MIG's API
    Permissions {
        /// The person's name, number or fingerprint
        who: String,
        /// The sum of MIG's bits: 63 (or 0x3f) to search and act, 524287 for everything
        #[arg(value_parser = bits)]
        permissions: u32,
        #[command(flatten)]
        reason: ReasonArgs,
    },
    /// Note what a person's signature is worth on a machine
    Weight {
        /// The person's name, number or fingerprint
        who: String,
        /// How much; 0 takes the note away
        #[arg(value_parser = clap::value_parser!(i64).range(0..))]
        weight: i64,
        /// On which machine
        #[arg(long, value_name = "ID")]
        agent: String,
        /// For which module
        #[arg(long, default_value = "default")]
        module: String,
        #[command(flatten)]
        reason: ReasonArgs,
    },
}

/// Reads a sum of bits, as `investigator show` prints it (0x3f) or in plain digits.
fn bits(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        // A sign would be taken by the parser, and stand in no number.
        Some(digits) if digits.starts_with('+') => None,
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    number.ok_or_else(|| format!("write a number such as 63 or 0x3f, not {text:?}"))
}

impl Args {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Add { name, key, permissions, reason } => {
                let public_key = key.as_deref().map(read_key).transpose()?.map(|key| key.to_armored());
                let request = InvestigatorRequest { name, public_key, permissions, reason: reason.reason };
                add(context, &request).await
            }
            Command::List { list, status } => run_list(context, &list, status).await,
            Command::Show { who } => show(context, &who).await,
            Command::Disable { who, reason } => status_set(context, &who, "disable", &reason).await,
            Command::Enable { who, reason } => status_set(context, &who, "enable", &reason).await,
            Command::Key { who, key, reason } => {
                let id = find(context, &who).await?.to_string();
                let what = format!("could not replace the key of investigator {id}");
                let request = KeyRequest { public_key: read_key(&key)?.to_armored(), reason: reason.reason };
                let answer = context.api.send(&what, Method::PUT, &["investigators", &id, "key"], &request).await?;
                show_changed(context, &what, &answer)
            }
            Command::Permissions { who, permissions, reason } => {
                let id = find(context, &who).await?.to_string();
                let what = format!("could not set the permissions of investigator {id}");
                let request = PermissionsRequest { permissions, reason: reason.reason };
                let path = ["investigators", &id, "permissions"];
                let answer = context.api.send(&what, Method::PUT, &path, &request).await?;
                show_changed(context, &what, &answer)
            }
            Command::Weight { who, weight, agent, module, reason } => {
                let id = find(context, &who).await?.to_string();
                let agent = resolve::agent(context, &agent).await?;
                let what = format!("could not note the weight of investigator {id}");
                let weight = Some(weight).filter(|weight| *weight > 0);
                let request = WeightRequest { agent, module, weight, reason: reason.reason };
                let path = ["investigators", &id, "weight"];
                let answer = context.api.send(&what, Method::PUT, &path, &request).await?;
                let noted = weight.map_or_else(|| "no weight".to_owned(), |weight| format!("weight {weight}"));
                context.out.note(&format!("{}  {noted} noted for {}", safe(&who), safe(&request.module)));
                if context.out.json { context.out.json(&answer) } else { Ok(()) }
            }
        }
    }
}

async fn status_set(context: &Context, who: &str, to: &str, reason: &ReasonArgs) -> Result<(), Failure> {
    let id = find(context, who).await?.to_string();
    let what = format!("could not {to} investigator {id}");
    let answer = context.api.send(&what, Method::POST, &["investigators", &id, to], &reason.body()).await?;
    context.out.note(&format!("{}  {to}d", safe(who)));
    if context.out.json { context.out.json(&answer) } else { Ok(()) }
}

/// Reads a public key, and refuses a secret one before it leaves this machine.
pub(super) fn read_key(path: &Path) -> Result<Certificate, Failure> {
    const WHAT: &str = "could not read the public key";
    let bytes = read_file(WHAT, path, PGP_KEY_BYTES_MAX)?;
    Certificate::parse(&bytes).map_err(|error| Failure::usage(WHAT, error.to_string()).on(path.display()))
}

async fn add(context: &Context, request: &InvestigatorRequest) -> Result<(), Failure> {
    let what = format!("could not add investigator {}", request.name);
    let answer = context.api.send(&what, Method::POST, &["investigators"], request).await?;
    show_changed(context, &what, &answer)
}

/// Shows who was added or changed.
fn show_changed(context: &Context, what: &str, answer: &serde_json::Value) -> Result<(), Failure> {
    if context.out.json {
        return context.out.json(answer);
    }
    let row: InvestigatorRow = context.api.read(what, answer)?;
    context.out.line(&format!("{}  {}  {}", row.id, safe(&row.name), row.fingerprint.unwrap_or_default()))
}

async fn run_list(context: &Context, list: &ListArgs, status: Option<String>) -> Result<(), Failure> {
    const WHAT: &str = "could not list investigators";
    let filter = InvestigatorQuery { status, ..InvestigatorQuery::default() };
    let rows = Rows::fetch(context, WHAT, &["investigators"], &filter, list).await?;
    if context.out.json {
        return rows.json(context);
    }
    let mut table = Table::new(&["ID", "NAME", "FINGERPRINT", "STATUS", "CREATED"]);
    for row in rows.read::<InvestigatorRow>(context, WHAT)? {
        let fingerprint = row.fingerprint.unwrap_or_else(|| "-".to_owned());
        table.row([row.id.to_string(), row.name, fingerprint, row.status, time(&row.created)]);
    }
    context.out.table(&table, "No investigators: add one with `muster investigator add`.")?;
    rows.note_more(context);
    Ok(())
}

async fn show(context: &Context, who: &str) -> Result<(), Failure> {
    let id = find(context, who).await?.to_string();
    let what = format!("could not show investigator {id}");
    let answer = context.api.get(&what, &["investigators", &id], &()).await?;
    if context.out.json {
        return context.out.json(&answer);
    }
    let row: InvestigatorRow = context.api.read(&what, &answer)?;
    context.out.pairs(&[
        ("Id", row.id.to_string()),
        ("Name", row.name),
        ("Fingerprint", row.fingerprint.unwrap_or_default()),
        ("Status", row.status),
        ("Permissions", format!("{:#x}", row.permissions)),
        ("Created", time(&row.created)),
        ("Modified", time(&row.modified)),
    ])?;
    row.public_key.map_or(Ok(()), |key| {
        context.out.bytes(key.lines().map(|line| safe(line) + "\n").collect::<String>().as_bytes())
    })
}

/// Returns the number of the person that `who` names.
async fn find(context: &Context, who: &str) -> Result<i64, Failure> {
    const WHAT: &str = "could not look up the investigator";
    if let Ok(number) = who.parse() {
        return Ok(number);
    }
    let all = ListArgs { all: true, ..ListArgs::default() };
    let rows = Rows::fetch(context, WHAT, &["investigators"], &(), &all).await?;
    pick(who, &rows.read::<InvestigatorRow>(context, WHAT)?)
}

fn pick(who: &str, rows: &[InvestigatorRow]) -> Result<i64, Failure> {
    let key: Option<muster_core::action::Fingerprint> = who.parse().ok();
    let fits = |row: &&InvestigatorRow| {
        row.name == who
            || key
                .as_ref()
                .is_some_and(|key| row.fingerprint.as_deref().and_then(|text| text.parse().ok()).as_ref() == Some(key))
    };
    let found: Vec<_> = rows.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok(one.id),
        [] => Err(Failure::new(
            Exit::NotFound,
            format!("there is no investigator {who}"),
            "no name or fingerprint is this",
        )
        .next("see `muster investigator list`")),
        several => {
            let named = several.iter().map(|row| row.id.to_string()).collect::<Vec<_>>().join(", ");
            Err(Failure::usage(format!("{who} is not one investigator"), format!("the name fits the numbers {named}"))
                .next("write the number"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, name: &str, fingerprint: Option<&str>) -> InvestigatorRow {
        InvestigatorRow {
            id,
            name: name.into(),
            fingerprint: fingerprint.map(str::to_owned),
            status: "active".into(),
            permissions: 0,
            created: String::new(),
            modified: String::new(),
            public_key: None,
        }
    }

    #[test]
    fn a_person_is_named_by_name_or_fingerprint_and_never_two_at_once() {
        let key = "8894E30A79A7CC6BBDCB080E5CA8F578DCAF275C";
        let rows = [row(1, "Alice", Some(key)), row(2, "Bob", None), row(3, "Bob", None)];
        assert_eq!(pick("Alice", &rows).unwrap(), 1);
        assert_eq!(pick("0x8894e30a79a7cc6bbdcb080e5ca8f578dcaf275c", &rows).unwrap(), 1);
        assert_eq!(pick("alice", &rows).unwrap_err().exit, Exit::NotFound);
        let two = pick("Bob", &rows).unwrap_err();
        assert!(two.exit == Exit::Usage && two.why.contains("2, 3"), "{two}");
    }

    #[test]
    fn bits_are_read_as_they_are_shown() {
        assert_eq!([bits("63"), bits("0x3f"), bits("0X3F")], [Ok(63), Ok(63), Ok(63)]);
        for wrong in ["", "0x", "0x+3", "3f", "-1", "0x100000000"] {
            assert!(bits(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_public_key_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nxx\n-----END PGP PRIVATE KEY BLOCK-----\n")
            .unwrap();
        assert!(read_key(&path).unwrap_err().why.contains("secret key"));
    }
}
