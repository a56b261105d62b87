//! `muster action launch|preview|list|show|cancel|resume`.

use super::file::{self, Place};
use crate::commands::{ReasonArgs, Stake, confirm};
use crate::list::{ListArgs, Rows};
use crate::output::{Table, safe, time, time_or_dash, yes};
use crate::{Context, Exit, Failure, Globals};
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
    /// Do not ask; without a terminal nothing that changes machines is launched unless this is given
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
        self.how.check(context.out)?;
        let action = here(WHAT, &self.action)?.read(globals, WHAT).await?;
        let request = self.spread.request(&action, &self.reason);
        let foreseen = preview(&context, &request).await?;
        show_preview(&context, &foreseen);
        confirm("Launch it?", self.yes, stake(&action, &foreseen)).await?;
        let (answer, launched) = launch(&context, &request).await?;
        let summary = &launched.action.summary;
        if launched.again {
            context.out.note(&safe(&again(summary)));
        }
        if self.watch {
            return self.how.follow(&context, summary.id, &action).await;
        }
        if context.out.json {
            context.out.json(&answer)?;
        } else {
            context.out.line(&format!("{}  {}", summary.id, safe(&summary.status)))?;
        }
        match summary.status.as_str() {
            "waiting" if launched.again => Err(waits(summary.id)),
            "waiting" => {
                let next = format!("muster action sign {}", summary.id);
                context.out.note(&format!("It waits for signatures; another investigator adds one: {next}"));
                Ok(())
            }
            _ => Ok(()),
        }
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

/// What launching an action puts at stake, by what is known of its modules here and by what the machines said.
pub(crate) fn stake(action: &Action, foreseen: &Preview) -> Stake {
    Stake::of_action(foreseen.changes || file::changes_machines(action))
}

/// Says how an action stands that was launched before. Signatures that it had not yet may have been added to it.
pub(crate) fn again(summary: &ActionSummary) -> String {
    let stands = match summary.status.as_str() {
        _ if summary.halted.is_some() => "it halted between two shares",
        "waiting" => "it still waits for signatures",
        "completed" => "it is completed, and not run again",
        "cancelled" => "it was called back, and is not run again",
        "invalid" => "it is invalid, and not run",
        other => return format!("The same action was launched before: it is {other} now."),
    };
    format!("The same action was launched before: {stands}.")
}

/// The failure of an action that nobody answers, because it waits.
pub(crate) fn waits(id: i64) -> Failure {
    Failure::new(Exit::Refused, format!("action {id} is not done"), "it waits for more signatures")
        .next(format!("another investigator adds one: muster action sign {id}; then muster action watch {id}"))
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
    if let Some(outlook) = outlook(preview) {
        context.out.note(&safe(&outlook));
    }
}

/// Says what keeps an action from starting at once.
fn outlook(preview: &Preview) -> Option<String> {
    match preview.problems.as_slice() {
        [] if preview.signers.is_empty() => Some("It needs signatures before it can be launched.".to_owned()),
        [] if preview.ready => None,
        [] => Some("It would wait for more signatures.".to_owned()),
        // One signature that does not count spoils the whole: the server takes an action as it is, or not at all.
        problems => Some(format!("Launching it would be refused: {}.", problems.join("; "))),
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
                if row.halted.is_some() { "halted".to_owned() } else { row.status },
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

#[cfg(test)]
mod tests {
    use super::*;

    fn preview(change: impl FnOnce(&mut Preview)) -> Preview {
        let mut preview = Preview {
            signers: vec![muster_api::actions::Signer {
                investigator: 1,
                name: "Ann".into(),
                fingerprint: "AA".into(),
            }],
            problems: Vec::new(),
            matched: 3,
            asked: 3,
            willing: 3,
            unknown: 0,
            noted: 0,
            refusals: Vec::new(),
            demands: Vec::new(),
            ready: true,
            changes: false,
        };
        change(&mut preview);
        preview
    }

    #[test]
    fn a_preview_promises_nothing_that_launching_refuses() {
        let said = |change: fn(&mut Preview)| outlook(&preview(change));
        assert_eq!(said(|_| {}), None);
        let waits = said(|preview| preview.ready = false).unwrap();
        assert_eq!(waits, "It would wait for more signatures.");
        let refused = said(|preview| {
            (preview.ready, preview.signers) = (false, Vec::new());
            preview.problems = vec!["signature 1 does not count: nobody has the key AA".into()];
        });
        let refused = refused.unwrap();
        assert_eq!(refused, "Launching it would be refused: signature 1 does not count: nobody has the key AA.");
        let unsigned = said(|preview| (preview.ready, preview.signers) = (false, Vec::new())).unwrap();
        assert!(unsigned.contains("needs signatures"), "{unsigned}");
    }

    #[test]
    fn an_action_that_was_launched_before_is_told_as_it_stands() {
        let said = |status: &str, halted: Option<&str>| {
            let summary = serde_json::json!({
                "id": 7, "name": "q", "target": "true", "status": status, "reason": "", "valid_from": "",
                "expire_after": "", "created": "", "started": null, "finished": null, "updated": "", "halted": halted,
                "matched": 1, "late": 0, "counters": muster_api::actions::ActionCounters::default(),
            });
            again(&serde_json::from_value(summary).unwrap())
        };
        for (status, wanted) in [("waiting", "still waits"), ("pending", "pending now"), ("completed", "not run again")]
        {
            assert!(said(status, None).contains(wanted), "{status}");
        }
        assert!(said("inflight", Some("2026-01-02T03:04:05Z")).contains("halted"));
        assert_eq!(waits(7).exit, Exit::Refused);
    }
}
