//! `muster event`: what happened at the agents' door and is worth a look.

use crate::list::{ListArgs, Rows};
use crate::output::{Table, time};
use crate::{Context, Failure, resolve};
use muster_api::agents::{EventQuery, EventRow};

/// `muster event`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster event list
  muster event list --code enrolment_refused
  muster event list --agent 1122 --all --json

Codes: key_mismatch, deleted, blocked, enrolment_refused, enrolment_rate, agent_rate, not_authorized and
malformed for refused contacts; clone, looks_blocked, misaddressed, foreign_source, foreign_acknowledgement
and message_conflict for what an honest machine does not do; succession for a machine with a new key.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List refused contacts and what an honest machine does not do, newest first
    List {
        /// Only of this machine: its id, or the first digits of it
        #[arg(long, value_name = "ID")]
        agent: Option<String>,
        /// Only of this code
        #[arg(long, value_name = "CODE")]
        code: Option<String>,
        /// How many
        #[command(flatten)]
        list: ListArgs,
    },
}

impl Args {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        const WHAT: &str = "could not list events";
        let Command::List { agent, code, list } = self.command;
        let agent = match agent {
            Some(id) => Some(resolve::agent(context, &id).await?),
            None => None,
        };
        let query = EventQuery { agent, code, ..EventQuery::default() };
        let rows = Rows::fetch(context, WHAT, &["events"], &query, &list).await?;
        if context.out.json {
            return rows.json(context);
        }
        let mut table = Table::new(&["AT", "AGENT", "ADDRESS", "CODE", "WHAT"]);
        for row in rows.read::<EventRow>(context, WHAT)? {
            table.row([time(&row.at), row.agent.unwrap_or_else(|| "-".to_owned()), row.address, row.code, row.reason]);
        }
        context.out.table(&table, "Nothing happened that is worth a look.")?;
        rows.note_more(context);
        Ok(())
    }
}
