//! `muster journal`: who did what.

use crate::list::{ListArgs, Rows};
use crate::output::{Table, time};
use crate::{Context, Failure};
use muster_api::server::JournalRow;

/// `muster journal`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster journal list
  muster journal list --all --json")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List changes, newest first
    List(ListArgs),
}

impl Args {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        const WHAT: &str = "could not list the journal";
        let Command::List(list) = self.command;
        let rows = Rows::fetch(context, WHAT, &["journal"], &(), &list).await?;
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
