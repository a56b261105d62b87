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
    /// Names of machines that were heard of within 30 days, and not within the last 5 minutes
    Offline(ListArgs),
    /// Machines that are online or idle and share a host name or a machine id with another one
    Double(ListArgs),
    /// Machines whose agent was started again lately, or runs more than once
    Flapping(ListArgs),
    /// Machines that were heard of within 7 days, and are neither online nor idle
    Disappeared(ListArgs),
    /// Versions of the agents that are online or idle, and how many machines have each
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
        let (table, empty, note) = shown(name, found);
        let is_empty = rows.items.is_empty();
        context.out.table(&table, empty)?;
        if !(is_empty || note.is_empty()) {
            context.out.note(note);
        }
        rows.note_more(context);
        Ok(())
    }
}

/// Returns a report as a table, what is said where it is empty, and what to know about its lines.
fn shown(report: &str, rows: Vec<ReportRow>) -> (Table, &'static str, &'static str) {
    let agent = |row: &ReportRow| row.agent.clone().unwrap_or_else(|| "-".to_owned());
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    let (head, empty, note): (&[&'static str], _, _) = match report {
        "versions" => (&["VERSION", "MACHINES", "LAST SEEN"], "No machine is online or idle.", ""),
        "offline" => (&["NAME", "MACHINES", "LAST SEEN"], "Every machine was heard of within the last 5 minutes.", ""),
        "double" => (
            &["THEY SHARE", "AGENT", "MACHINES", "LAST SEEN"],
            "No two machines that are online or idle share a host name or a machine id.",
            "A machine has a line for each thing that it shares. Machines with one machine id are mostly copies of one \
             disk, or two agents on one machine: give each its own /etc/machine-id, or end the agent that is not needed.",
        ),
        "flapping" => (
            &["NAME", "AGENT", "STARTS", "LAST SEEN"],
            "No agent that is online or idle was started again lately, or runs more than once.",
            "Many starts within minutes: the agent crashes (its log says why), or two agents run with one key.",
        ),
        _ => (
            &["NAME", "AGENT", "LAST SEEN"],
            "No machine that was heard of within 7 days is offline.",
            "A machine that is gone for good: `muster agent delete`.",
        ),
    };
    let mut table = Table::new(head);
    for row in rows {
        let (count, seen) = (row.count.to_string(), time(&row.last_seen));
        match report {
            "versions" => table.row([or(&row.name, "(it did not say)"), count, seen]),
            "offline" => table.row([or(&row.name, "(no name)"), count, seen]),
            "double" | "flapping" => table.row([or(&row.name, "(no name)"), agent(&row), count, seen]),
            _ => table.row([or(&row.name, "(no name)"), agent(&row), seen]),
        }
    }
    (table, empty, note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_report_has_columns_of_its_own_and_says_what_it_looked_for_when_it_is_empty() {
        let row = |name: &str, agent: Option<&str>| ReportRow {
            name: name.to_owned(),
            queueloc: "linux.1122334455667788".to_owned(),
            agent: agent.map(str::to_owned),
            count: 2,
            last_seen: "2026-01-02T03:04:05Z".to_owned(),
        };
        let text = |report: &str, rows: Vec<ReportRow>| shown(report, rows).0.plain();
        let twins = vec![row("web-1", Some("1122334455667788")), row("machine id ab", Some("1122334455667788"))];
        let double = text("double", twins);
        assert!(double.contains("THEY SHARE") && double.contains("machine id ab  1122334455667788"), "{double}");
        assert!(text("versions", vec![row("", None)]).contains("(it did not say)"));
        for report in ["offline", "disappeared", "versions"] {
            assert!(!text(report, vec![row("x", None)]).contains("linux."), "{report}");
        }
        let mut said: Vec<_> = ["offline", "double", "flapping", "disappeared", "versions"]
            .into_iter()
            .map(|report| shown(report, Vec::new()).1)
            .collect();
        said.dedup();
        assert_eq!(said.len(), 5, "each says what it did not find: {said:?}");
    }
}
