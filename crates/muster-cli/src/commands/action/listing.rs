//! `muster action list|show`.

use crate::list::{ListArgs, Rows};
use crate::output::{Table, time, time_or_dash, yes};
use crate::{Context, Failure};
use muster_api::actions::{ActionDetail, ActionQuery, ActionSummary};
use serde_json::Value;

#[derive(Debug, clap::Args)]
pub(super) struct ListCommand {
    #[command(flatten)]
    list: ListArgs,
    /// Only with this status; one that halted is inflight
    #[arg(long, value_parser = ["waiting", "pending", "scheduled", "preparing", "inflight", "completed", "invalid", "cancelled"])]
    status: Option<String>,
    /// Only signed by the investigator with this number
    #[arg(long, value_name = "ID")]
    investigator: Option<i64>,
    /// Only with a name that holds this
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
}

impl ListCommand {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        const WHAT: &str = "could not list actions";
        let filter = ActionQuery {
            status: self.status,
            investigator: self.investigator,
            name: self.name,
            ..ActionQuery::default()
        };
        let rows = Rows::fetch(context, WHAT, &["actions"], &filter, &self.list).await?;
        if context.out.json {
            return rows.json(context);
        }
        let head = ["ID", "NAME", "TARGET", "STATUS", "DONE", "OF", "FAILED", "CREATED", "EXPIRES"];
        let mut table = Table::new(&head);
        for row in rows.read::<ActionSummary>(context, WHAT)? {
            let failed = row.counters.failed + row.counters.timeout;
            let status = status_of(&row);
            table.row([
                row.id.to_string(),
                row.name,
                row.target,
                status,
                row.counters.done.to_string(),
                row.counters.sent.max(row.matched).to_string(),
                failed.to_string(),
                time(&row.created),
                time(&row.expire_after),
            ]);
        }
        context.out.table(&table, "No actions.")?;
        rows.note_more(context);
        Ok(())
    }
}

/// How an action stands, in one word for people.
fn status_of(summary: &ActionSummary) -> String {
    if summary.halted.is_some() { "halted".to_owned() } else { summary.status.clone() }
}

/// Asks for an action; returns the answer as it was, and read.
pub(crate) async fn detail(context: &Context, what: &str, id: i64) -> Result<(Value, ActionDetail), Failure> {
    let answer = context.api.get(what, &["actions", &id.to_string()], &()).await?;
    let detail = context.api.read(what, &answer)?;
    Ok((answer, detail))
}

pub(super) async fn show(context: &Context, id: i64, raw: bool) -> Result<(), Failure> {
    let (answer, detail) = detail(context, &format!("could not show action {id}"), id).await?;
    if raw {
        return context.out.foreign(format!("{}\n", detail.action).as_bytes());
    }
    if context.out.json {
        return context.out.json(&answer);
    }
    let ActionDetail { summary, signers, .. } = detail;
    let (counters, status) = (summary.counters, status_of(&summary));
    let signers: Vec<_> = signers.iter().map(|signer| format!("{} ({})", signer.name, signer.fingerprint)).collect();
    let per_cent = |shares: &[u8]| shares.iter().map(|share| format!("{share} %")).collect::<Vec<_>>().join(", ");
    context.out.pairs(&[
        ("Id", summary.id.to_string()),
        ("Name", summary.name),
        ("Target", summary.target),
        ("Status", status),
        ("Why", summary.reason),
        ("Signed by", signers.join(", ")),
        ("Valid from", time(&summary.valid_from)),
        ("Expires", time(&summary.expire_after)),
        ("Created", time(&summary.created)),
        ("Started", time_or_dash(summary.started.as_ref())),
        ("Finished", time_or_dash(summary.finished.as_ref())),
        ("Halted", summary.halted.as_deref().map(time).unwrap_or_default()),
        ("Standing", yes(detail.standing)),
        ("At most", detail.hosts_max.map(|most| format!("{most} machines")).unwrap_or_default()),
        ("Rings", per_cent(&detail.rings)),
        ("Machines", summary.matched.to_string()),
        ("Done", format!("{} of {}", counters.done, counters.sent)),
        ("Success", counters.success.to_string()),
        ("Failed", counters.failed.to_string()),
        ("Timed out", counters.timeout.to_string()),
        ("Expired", counters.expired.to_string()),
        ("Cancelled", counters.cancelled.to_string()),
        ("Late", summary.late.to_string()),
        ("SHA-256", detail.signed_sha256),
    ])
}
