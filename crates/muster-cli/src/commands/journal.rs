//! `muster journal`: who did what.

use crate::list::{ListArgs, Rows};
use crate::output::{Table, time};
use crate::{Context, Exit, Failure};
use muster_api::reports::{JournalVerified, JournalVerifyQuery};
use muster_api::server::JournalRow;
use serde::Serialize;

/// `muster journal`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster journal list
  muster journal list --all --json
  muster journal verify

The journal is a chain: each line holds the hash of the line before. Keep the number and hash that `verify` prints
elsewhere: with them it shows later whether lines were changed, taken away, or the whole was replaced.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List changes, newest first
    List(ListArgs),
    /// Look whether lines were changed, taken away or put in
    Verify {
        /// Demand that the line of this number is there, as kept from an earlier verification
        #[arg(long, value_name = "NUMBER")]
        at_least: Option<i64>,
    },
}

impl Args {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::List(list) => Self::list(context, &list).await,
            Command::Verify { at_least } => verify(context, at_least).await,
        }
    }

    async fn list(context: &Context, list: &ListArgs) -> Result<(), Failure> {
        const WHAT: &str = "could not list the journal";
        let rows = Rows::fetch(context, WHAT, &["journal"], &(), list).await?;
        if context.out.json {
            return rows.json(context);
        }
        let mut table = Table::new(&["AT", "WHO", "WHAT", "TO", "WHY"]);
        for row in rows.read::<JournalRow>(context, WHAT)? {
            table.row([time(&row.at), row.actor, row.action, row.subject, row.reason]);
        }
        context.out.table(&table, "Nothing was changed yet.")?;
        rows.note_more(context);
        Ok(())
    }
}

/// What came of verifying all of it.
#[derive(Debug, Serialize)]
struct Whole {
    lines: u64,
    unchained: u64,
    head: i64,
    head_sha256: String,
    fault: Option<muster_api::reports::JournalFault>,
}

async fn verify(context: &Context, at_least: Option<i64>) -> Result<(), Failure> {
    const WHAT: &str = "could not verify the journal";
    let mut query = JournalVerifyQuery::default();
    let mut whole = Whole { lines: 0, unchained: 0, head: 0, head_sha256: String::new(), fault: None };
    loop {
        let answer = context.api.get(WHAT, &["journal", "verify"], &query).await?;
        let part: JournalVerified = context.api.read(WHAT, &answer)?;
        whole.lines += part.lines;
        whole.unchained += part.unchained;
        (whole.head, whole.head_sha256, whole.fault) = (part.head, part.head_sha256, part.fault);
        // A server that repeats a cursor would be followed for ever.
        if part.next.is_none() || part.next == query.cursor || whole.fault.is_some() {
            break;
        }
        query.cursor = part.next;
    }
    if context.out.json {
        context.out.json(&whole)?;
    } else {
        context.out.pairs(&[
            ("Verified", format!("{} lines", whole.lines)),
            ("Older", format!("{} lines from before there was a chain", whole.unchained)),
            ("Last line", whole.head.to_string()),
            ("SHA-256", whole.head_sha256),
        ])?;
    }
    let broken = |why: String| Failure::new(Exit::Failed, "the journal is not what was written", why);
    if let Some(fault) = whole.fault {
        let next = "keep the database as it is, and compare it with a backup";
        return Err(broken(format!("line {}: {}", fault.number, fault.what)).next(next));
    }
    match at_least {
        Some(number) if whole.head < number => {
            Err(broken(format!("it ends at line {}, line {number} was there before", whole.head)))
        }
        _ => Ok(()),
    }
}
