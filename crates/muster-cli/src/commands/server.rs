//! `muster server`: how the server stands.

use crate::output::{Table, time, yes};
use crate::{Context, Failure};
use muster_api::server::ServerStatus;

/// `muster server`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster server status
  muster server status --json")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show version, database, machines and all living servers
    Status,
}

impl Args {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        const WHAT: &str = "could not show the server's status";
        let Command::Status = self.command;
        let answer = context.api.get(WHAT, &["server"], &()).await?;
        if context.out.json {
            return context.out.json(&answer);
        }
        let status: ServerStatus = context.api.read(WHAT, &answer)?;
        let agents: Vec<_> = status.agents.iter().map(|count| format!("{} {}", count.count, count.name)).collect();
        context.out.pairs(&[
            ("Address", context.api.url().to_string()),
            ("Version", status.version),
            ("Started", time(&status.started)),
            ("Database", status.database),
            ("Agents", agents.join(", ")),
            ("Streams", status.streams.to_string()),
        ])?;
        let mut table = Table::new(&["SERVER", "WAKE-UPS TO", "STARTED", "LAST SIGN", "ANSWERING"]);
        for row in status.servers {
            let wake = if row.wake_url.is_empty() { "-".to_owned() } else { row.wake_url };
            table.row([row.id, wake, time(&row.started), time(&row.beat), yes(row.this)]);
        }
        context.out.line("")?;
        context.out.table(&table, "No server has said that it lives.")
    }
}
