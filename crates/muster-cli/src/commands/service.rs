//! `muster service`: services of the server.

use crate::output::{Table, time};
use crate::{Context, Failure};
use muster_api::Page;
use muster_api::messages::ServiceRow;

/// `muster service`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster service list
  muster message list --service GRR --state parked")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List services: how they take messages, what waits, was parked or lost, and the last error
    List,
}

impl Args {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        const WHAT: &str = "could not list services";
        let Command::List = self.command;
        let answer = context.api.get(WHAT, &["services"], &()).await?;
        if context.out.json {
            return context.out.json(&answer);
        }
        let mut table = Table::new(&["SERVICE", "KIND", "STATE", "PENDING", "LAG", "PARKED", "LOST", "LAST ERROR"]);
        for row in context.api.read::<Page<ServiceRow>>(WHAT, &answer)?.items {
            table.row([
                row.name,
                row.kind,
                state(row.state.as_deref(), row.since.as_deref()),
                row.pending.to_string(),
                row.lag_seconds.map_or_else(|| "-".to_owned(), |lag| format!("{lag:.1} s")),
                row.parked.to_string(),
                row.lost.to_string(),
                row.last_error.or(row.lost_reason).unwrap_or_default(),
            ]);
        }
        context.out.table(&table, "No services.")
    }
}

fn state(word: Option<&str>, since: Option<&str>) -> String {
    match (word, since) {
        (Some(word), Some(since)) => format!("{word} since {}", time(since)),
        (Some(word), None) => word.to_owned(),
        (None, _) => "-".to_owned(),
    }
}
