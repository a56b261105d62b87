//! `muster report`: what stands out among the machines.

use crate::list::{ListArgs, Rows};
use crate::output::{Table, time};
use crate::{Context, Failure};
use muster_api::reports::ReportRow;

/// `muster report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster report offline
  muster report double --json
  muster report versions")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Machines that are no longer heard of
    Offline(ListArgs),
    /// Host names and machine ids under which several machines speak
    Double(ListArgs),
    /// Machines that come and go
    Flapping(ListArgs),
    /// Machines that were heard of in the last weeks and then no more
    Disappeared(ListArgs),
    /// Versions of the agent, and how many machines have each
    Versions(ListArgs),
}

impl Args {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let (name, list) = match self.command {
            Command::Offline(list) => ("offline", list),
            Command::Double(list) => ("double", list),
            Command::Flapping(list) => ("flapping", list),
            Command::Disappeared(list) => ("disappeared", list),
            Command::Versions(list) => ("versions", list),
        };
        let what = format!("could not make the report {name}");
        let rows = Rows::fetch(context, &what, &["reports", name], &(), &list).await?;
        if context.out.json {
            return rows.json(context);
        }
        let found = rows.read::<ReportRow>(context, &what)?;
        if name == "versions" {
            context.out.table(&versions(found), "No machines.")?;
        } else {
            context.out.table(&machines(found), "Nothing stands out.")?;
        }
        rows.note_more(context);
        Ok(())
    }
}

/// A version is of many machines in many places.
fn versions(rows: Vec<ReportRow>) -> Table {
    let mut table = Table::new(&["VERSION", "MACHINES", "LAST SEEN"]);
    for row in rows {
        table.row([row.name, row.count.to_string(), time(&row.last_seen)]);
    }
    table
}

fn machines(rows: Vec<ReportRow>) -> Table {
    let mut table = Table::new(&["NAME", "PLACE", "AGENT", "COUNT", "LAST SEEN"]);
    for row in rows {
        let agent = row.agent.unwrap_or_else(|| "-".to_owned());
        table.row([row.name, row.queueloc, agent, row.count.to_string(), time(&row.last_seen)]);
    }
    table
}
