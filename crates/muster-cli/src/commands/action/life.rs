//! `muster action launch|preview|list|show|cancel|resume`.

use super::file::{self, Place};
use crate::commands::{ReasonArgs, confirm};
use crate::list::{ListArgs, Rows};
use crate::output::{Table, safe, time, time_or_dash, yes};
use crate::{Context, Failure, Globals};
use muster_api::actions::{
    ActionDetail, ActionLaunched, ActionQuery, ActionRequest, ActionSummary, Preview, PreviewDemand,
};
use muster_core::Action;
use reqwest::Method;

/// How an action is spread over the machines.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct SpreadArgs {
    /// Also for machines that are offline now, and for those first seen before it expires
    #[arg(long)]
    pub(crate) standing: bool,
    /// If it matches more machines than this, none is given it
    #[arg(long, value_name = "N")]
    pub(crate) hosts_max: Option<u64>,
    /// Shares of the machines that get it one after the other, in rising per cent; the others come last. Unless told,
    /// 1,10 for modules that change something, and 100 (all at once) for others
    #[arg(long, value_name = "PERCENT", value_delimiter = ',')]
    pub(crate) rings: Vec<u8>,
    /// Halt before the next share when more than so many per cent failed; 10 unless told
    #[arg(long, value_name = "PERCENT")]
    pub(crate) halt_percent: Option<u8>,
}

impl SpreadArgs {
    pub(crate) fn request(&self, action: &Action, reason: &ReasonArgs) -> ActionRequest {
        ActionRequest {
            action: file::to_json(action),
            standing: self.standing,
            hosts_max: self.hosts_max,
            rings: self.rings.clone(),
            halt_percent: self.halt_percent,
            reason: reason.reason.clone(),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct LaunchArgs {
    /// The signed action: a file, or - for standard input
    action: String,
    #[command(flatten)]
    spread: SpreadArgs,
    #[command(flatten)]
    reason: ReasonArgs,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Stay, and print results as they arrive
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    how: super::results::HowArgs,
}

impl LaunchArgs {
    pub(super) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        const WHAT: &str = "could not launch the action";
        let context = Context::new(globals)?;
        let action = here(WHAT, &self.action)?.read(globals, WHAT).await?;
        let request = self.spread.request(&action, &self.reason);
        show_preview(&context, &preview(&context, &request).await?);
        confirm("Launch it?", self.yes)?;
        let (answer, launched) = launch(&context, &request).await?;
        if !self.watch {
            return if context.out.json { context.out.json(&answer) } else { tell(&context, &launched) };
        }
        self.how.follow(&context, launched.action.summary.id, &action).await
    }
}

fn here(what: &str, text: &str) -> Result<Place, Failure> {
    match Place::of(text) {
        Place::Server(id) => {
            Err(Failure::usage(what, format!("action {id} is on the server already")).next("name a file; ./12 is one"))
        }
        place => Ok(place),
    }
}

/// Launches an action; returns the answer as it was, and read.
pub(crate) async fn launch(
    context: &Context,
    request: &ActionRequest,
) -> Result<(serde_json::Value, ActionLaunched), Failure> {
    const WHAT: &str = "could not launch the action";
    let answer = context.api.send(WHAT, Method::POST, &["actions"], request).await?;
    let launched = context.api.read(WHAT, &answer)?;
    Ok((answer, launched))
}

/// Says which number an action got, and what it waits for.
pub(crate) fn tell(context: &Context, launched: &ActionLaunched) -> Result<(), Failure> {
    let summary = &launched.action.summary;
    if launched.again {
        context.out.note("The same action was launched before: nothing was done.");
    }
    if summary.status == "waiting" {
        let next = format!("muster action sign {}", summary.id);
        context.out.note(&format!("It waits for signatures; another investigator adds one: {next}"));
    }
    context.out.line(&format!("{}  {}", summary.id, safe(&summary.status)))
}

/// Asks what would come of an action.
pub(crate) async fn preview(context: &Context, request: &ActionRequest) -> Result<Preview, Failure> {
    const WHAT: &str = "could not preview the action";
    let answer = context.api.send(WHAT, Method::POST, &["actions", "preview"], request).await?;
    context.api.read(WHAT, &answer)
}

/// Shows a preview on standard error.
pub(crate) fn show_preview(context: &Context, preview: &Preview) {
    let Preview { matched, willing, unknown, .. } = preview;
    let signers: Vec<_> = preview.signers.iter().map(|signer| signer.name.as_str()).collect();
    let signed = match (signers.is_empty(), preview.problems.is_empty()) {
        (true, true) => "nobody yet".to_owned(),
        (true, false) => "nobody that the server knows".to_owned(),
        (false, _) => signers.join(", "),
    };
    context.out.note(&format!("Signed by {}.", safe(&signed)));
    for problem in &preview.problems {
        context.out.note(&format!("  {}", safe(problem)));
    }
    let asked = if preview.asked < *matched { format!(", {} of them looked at", preview.asked) } else { String::new() };
    let machines = if *matched == 1 { "machine matches" } else { "machines match" };
    context
        .out
        .note(&format!("{matched} {machines}{asked}: {willing} would run it, {unknown} never said what they demand."));
    for refusal in &preview.refusals {
        let examples = refusal.examples.join(" ");
        context.out.note(&format!(
            "  {} would refuse: {} ({})",
            refusal.agents,
            safe(&refusal.reason),
            safe(&examples)
        ));
    }
    if preview.changes {
        context.out.note("It changes machines: unless --rings says otherwise it goes to 1 %, to 10 %, then to all.");
    }
    for demand in preview.demands.iter().filter(|demand| !demand.met) {
        context.out.note(&format!("  {}", demanded(demand)));
    }
    if preview.signers.is_empty() && preview.problems.is_empty() {
        context.out.note("It needs signatures before it can be launched.");
    } else if !preview.ready {
        context.out.note("It would wait for more signatures.");
    }
}

/// Words what machines demand, and that a note of the server is not the machine's word.
fn demanded(demand: &PreviewDemand) -> String {
    let operations = demand.operations.iter().map(|operation| match operation.need {
        Some(need) => format!("{} weight {need} (has {})", operation.module, operation.have),
        None => format!("{} permitted by nobody", operation.module),
    });
    let operations = operations.collect::<Vec<_>>().join(", ");
    let (agents, examples) = (demand.agents, demand.examples.join(" "));
    let who = match demand.said_by.as_str() {
        "server" => format!("{agents} never said; the server notes of them, which they need not share,"),
        _ => format!("{agents} demand"),
    };
    format!("{who} {} ({})", safe(&operations), safe(&examples))
}

#[derive(Debug, clap::Args)]
pub(super) struct PreviewArgs {
    /// The action, signed or not: a file, - for standard input, or the number of one on the server
    action: String,
    #[command(flatten)]
    spread: SpreadArgs,
}

impl PreviewArgs {
    pub(super) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        const WHAT: &str = "could not preview the action";
        let context = Context::new(globals)?;
        let answer = match Place::of(&self.action) {
            Place::Server(id) => context.api.get(WHAT, &["actions", &id.to_string(), "preview"], &()).await?,
            place => {
                let action = place.read(globals, WHAT).await?;
                let request = self.spread.request(&action, &ReasonArgs::default());
                context.api.send(WHAT, Method::POST, &["actions", "preview"], &request).await?
            }
        };
        if context.out.json {
            return context.out.json(&answer);
        }
        show_preview(&context, &context.api.read(WHAT, &answer)?);
        Ok(())
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct ListCommand {
    #[command(flatten)]
    list: ListArgs,
    /// Only with this status: waiting, pending, scheduled, preparing, inflight, completed, invalid, cancelled
    #[arg(long)]
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
            table.row([
                row.id.to_string(),
                row.name,
                row.target,
                row.status,
                row.counters.done.to_string(),
                row.counters.sent.to_string(),
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

/// Asks for an action; returns the answer as it was, and read.
pub(crate) async fn detail(
    context: &Context,
    what: &str,
    id: i64,
) -> Result<(serde_json::Value, ActionDetail), Failure> {
    let answer = context.api.get(what, &["actions", &id.to_string()], &()).await?;
    let detail = context.api.read(what, &answer)?;
    Ok((answer, detail))
}

pub(super) async fn show(context: &Context, id: i64, raw: bool) -> Result<(), Failure> {
    let (answer, detail) = detail(context, &format!("could not show action {id}"), id).await?;
    if raw {
        return context.out.line(&detail.action);
    }
    if context.out.json {
        return context.out.json(&answer);
    }
    let ActionDetail { summary, signers, .. } = detail;
    let counters = summary.counters;
    let signers: Vec<_> = signers.iter().map(|signer| format!("{} ({})", signer.name, signer.fingerprint)).collect();
    let per_cent = |shares: &[u8]| shares.iter().map(|share| format!("{share} %")).collect::<Vec<_>>().join(", ");
    context.out.pairs(&[
        ("Id", summary.id.to_string()),
        ("Name", summary.name),
        ("Target", summary.target),
        ("Status", summary.status),
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

/// Orders something of an action that needs only a reason.
pub(super) async fn order(context: &Context, id: i64, verb: &str, reason: &ReasonArgs) -> Result<(), Failure> {
    let what = format!("could not {verb} action {id}");
    let answer = context.api.send(&what, Method::POST, &["actions", &id.to_string(), verb], &reason.body()).await?;
    if context.out.json {
        return context.out.json(&answer);
    }
    context.out.note(&format!("action {id}  {verb}: done"));
    Ok(())
}
