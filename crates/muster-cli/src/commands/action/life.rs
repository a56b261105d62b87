//! `muster action launch|preview|list|show|cancel|resume`.

use super::consent::{self, ConsentArgs};
use super::file::{self, Place};
use super::order::Order;
use super::shown::Shown;
use crate::commands::ReasonArgs;
use crate::list::{ListArgs, Rows};
use crate::output::{Table, safe, time, time_or_dash, yes};
use crate::{Context, Exit, Failure, Globals, values};
use muster_api::actions::{
    ActionDetail, ActionLaunched, ActionQuery, ActionRequest, ActionSummary, Preview, PreviewDemand, PreviewRequest,
    Signer,
};
use muster_core::Action;
use reqwest::Method;
use serde_json::Value;

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

/// Shares of the machines, at most.
const RINGS_MAX: usize = 16;

impl SpreadArgs {
    /// Checks what the flags say, before any key is asked for.
    pub(crate) fn check(&self, what: &str) -> Result<(), Failure> {
        let wrong = |why: String, flag: &str| Err(Failure::usage(what, why).on(flag));
        if self.hosts_max == Some(0) {
            return wrong("it must be at least 1; leave it out for any number of machines".to_owned(), "--hosts-max 0");
        }
        if self.rings.len() > RINGS_MAX {
            return wrong(format!("there are at most {RINGS_MAX} shares"), "--rings");
        }
        let is_share = |share: &u8| (1..=100).contains(share);
        if !self.rings.iter().all(is_share) || self.rings.windows(2).any(|pair| pair[0] >= pair[1]) {
            return wrong("shares must rise and lie between 1 and 100 per cent".to_owned(), "--rings");
        }
        if self.halt_percent.is_some_and(|percent| percent > 100) {
            return wrong("it must be at most 100".to_owned(), "--halt-percent");
        }
        Ok(())
    }

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

    /// Asks what would come of an action that `signers` sign. The signatures that it has stay here: who answers need not
    /// be who may have them.
    async fn ask(&self, context: &Context, action: &Action, signers: Vec<String>) -> Result<Value, Failure> {
        let unsigned = Action { pgp_signatures: Vec::new(), ..action.clone() };
        let request = PreviewRequest {
            action: file::to_json(&unsigned),
            signers,
            standing: self.standing,
            hosts_max: self.hosts_max,
            rings: self.rings.clone(),
            halt_percent: self.halt_percent,
            reason: String::new(),
        };
        context.api.send(PREVIEW, Method::POST, &["actions", "preview"], &request).await
    }

    /// Asks what would come of an action that `signers` sign.
    pub(crate) async fn preview(
        &self,
        context: &Context,
        action: &Action,
        signers: Vec<String>,
    ) -> Result<Preview, Failure> {
        let answer = self.ask(context, action, signers).await?;
        context.api.read(PREVIEW, &answer)
    }

    /// Shows what would come of an action, and refuses one that could not run: nobody is asked to sign or to launch it.
    pub(crate) fn foresee(&self, context: &Context, action: &Action, preview: &Preview) -> Result<(), Failure> {
        show_preview(context, preview, &self.rings);
        // What was launched before is only looked at again.
        if preview.known.is_some() { Ok(()) } else { self.feasible(action, preview) }
    }

    fn feasible(&self, action: &Action, preview: &Preview) -> Result<(), Failure> {
        const WHAT: &str = "the action would not run";
        let no = |exit, why: String| Err(Failure::new(exit, WHAT, why).on(&action.target));
        if let Some(most) = self.hosts_max.filter(|most| preview.matched > *most && !self.standing) {
            let why = format!("it matches {} machines, and --hosts-max allows {most}", preview.matched);
            return no(Exit::Conflict, why).map_err(|failure| failure.next("choose a narrower target, or allow more"));
        }
        if !preview.problems.is_empty() {
            return no(Exit::Refused, format!("the server would refuse it: {}", preview.problems.join("; ")));
        }
        if self.standing || action.valid_from > values::now() {
            return Ok(());
        }
        if preview.matched == 0 {
            return no(Exit::NotFound, "no machine matches that is reached".to_owned())
                .map_err(|failure| failure.next("muster agent list; or --standing, for those that come later"));
        }
        let waits = preview.refusals.iter().any(|refusal| refusal.code == WEIGHT);
        if preview.willing == 0 && preview.unknown == 0 && !waits {
            let why = preview.refusals.iter().map(|refusal| refusal.reason.as_str()).collect::<Vec<_>>().join("; ");
            return no(Exit::Refused, format!("every machine that it means would refuse it: {why}"));
        }
        Ok(())
    }
}

const PREVIEW: &str = "could not preview the action";
/// The word for machines that would run it if others signed it too.
const WEIGHT: &str = "weight";

#[derive(Debug, clap::Args)]
pub(super) struct LaunchArgs {
    /// The signed action: a file, or - for standard input
    action: String,
    #[command(flatten)]
    spread: SpreadArgs,
    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    consent: ConsentArgs,
    /// Stay, and print results as they arrive
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    how: super::results::HowArgs,
}

impl LaunchArgs {
    pub(super) async fn run(self, globals: &Globals) -> Result<(), Failure> {
        const WHAT: &str = "could not launch the action";
        self.spread.check(WHAT)?;
        let context = Context::new(globals)?;
        self.how.check(context.out)?;
        let action = here(WHAT, &self.action)?.read(globals, WHAT).await?;
        let text = file::check(WHAT, &action, values::now())?;
        file::window_check(WHAT, &action)?;
        if action.pgp_signatures.is_empty() {
            let next = format!("muster action sign {}", self.action);
            return Err(Failure::usage(WHAT, "nobody has signed it").on(&self.action).next(next));
        }
        let shown = Shown::of(&action, &text);
        consent::show(&shown, &[]);
        let preview = self.spread.preview(&context, &action, signers_of(&action)?).await?;
        self.spread.foresee(&context, &action, &preview)?;
        consent::agree("Launch it?", &self.consent, shown.changes || preview.changes).await?;
        let (answer, launched) = launch(&context, &self.spread.request(&action, &self.reason)).await?;
        let summary = &launched.action.summary;
        if launched.again {
            context.out.note(&safe(&again(summary)));
        }
        if self.watch {
            return self.how.follow(&context, summary.id, &Order::own(&action)).await;
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

/// Whose signatures an action says that it has: fingerprints or key ids.
fn signers_of(action: &Action) -> Result<Vec<String>, Failure> {
    let mut signers = Vec::new();
    for (number, line) in (1..).zip(&action.pgp_signatures) {
        let issuers = muster_trust::signature::issuers(line).map_err(|error| {
            Failure::usage("could not read the action", format!("signature {number} does not count: {error}"))
        })?;
        signers.extend(issuers.into_iter().next());
    }
    Ok(signers)
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
pub(crate) async fn launch(context: &Context, request: &ActionRequest) -> Result<(Value, ActionLaunched), Failure> {
    const WHAT: &str = "could not launch the action";
    let answer = context.api.send(WHAT, Method::POST, &["actions"], request).await?;
    let launched = context.api.read(WHAT, &answer)?;
    Ok((answer, launched))
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

/// Shows a preview on standard error.
fn show_preview(context: &Context, preview: &Preview, rings: &[u8]) {
    let Preview { matched, willing, unknown, .. } = preview;
    let name = |signer: &Signer| format!("{} ({})", signer.name, signer.fingerprint);
    let signed = match (preview.signers.is_empty(), preview.problems.is_empty()) {
        (true, true) => "nobody yet".to_owned(),
        (true, false) => "nobody that the server knows".to_owned(),
        (false, _) => preview.signers.iter().map(name).collect::<Vec<_>>().join(", "),
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
    for demand in preview.demands.iter().filter(|demand| !demand.met) {
        context.out.note(&format!("  {}", demanded(demand)));
    }
    if preview.changes {
        context.out.note(&spread_of(rings));
    }
    if let Some(outlook) = outlook(preview) {
        context.out.note(&safe(&outlook));
    }
}

/// Says in which shares an action reaches machines that it changes.
fn spread_of(rings: &[u8]) -> String {
    let shares: Vec<_> = rings.iter().filter(|share| **share < 100).map(|share| format!("{share} %")).collect();
    match (rings, shares.is_empty()) {
        ([], _) => "It changes machines: it goes to 1 %, to 10 %, then to all (--rings says otherwise).".to_owned(),
        (_, true) => "It changes machines: it goes to all at once, as --rings says.".to_owned(),
        (_, false) => {
            format!("It changes machines: it goes to {}, then to all, as --rings says.", shares.join(", to "))
        }
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
        self.spread.check(PREVIEW)?;
        let context = Context::new(globals)?;
        let answer = match Place::of(&self.action) {
            Place::Server(id) => context.api.get(PREVIEW, &["actions", &id.to_string(), "preview"], &()).await?,
            place => {
                let action = place.read(globals, PREVIEW).await?;
                let signers = signers_of(&action)?;
                self.spread.ask(&context, &action, signers).await?
            }
        };
        if context.out.json {
            return context.out.json(&answer);
        }
        show_preview(&context, &context.api.read(PREVIEW, &answer)?, &self.spread.rings);
        Ok(())
    }
}

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
            known: None,
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

    fn action() -> Action {
        Action::parse(br#"{"target": "true", "operations": [{"module": "timedrift"}]}"#).unwrap()
    }

    #[test]
    fn flags_that_cannot_work_are_refused_before_any_key_is_asked_for() {
        let with = |change: fn(&mut SpreadArgs)| {
            let mut spread = SpreadArgs::default();
            change(&mut spread);
            spread.check("x").map_err(|failure| failure.on)
        };
        assert!(with(|_| {}).is_ok() && with(|spread| spread.rings = vec![1, 10, 100]).is_ok());
        for rings in [vec![0], vec![101], vec![10, 1], vec![5, 5], vec![1; 17]] {
            assert!(SpreadArgs { rings, ..SpreadArgs::default() }.check("x").is_err());
        }
        assert_eq!(with(|spread| spread.halt_percent = Some(101)).unwrap_err(), "--halt-percent");
        assert_eq!(with(|spread| spread.hosts_max = Some(0)).unwrap_err(), "--hosts-max 0");
    }

    #[test]
    fn what_could_not_run_is_neither_signed_nor_launched() {
        let refused = |spread: SpreadArgs, change: fn(&mut Preview)| {
            spread.feasible(&action(), &preview(change)).map_err(|failure| (failure.exit, failure.why))
        };
        let plain = SpreadArgs::default;
        assert!(refused(plain(), |_| {}).is_ok());
        let few = SpreadArgs { hosts_max: Some(2), ..plain() };
        assert_eq!(refused(few, |_| {}).unwrap_err().0, Exit::Conflict);
        assert!(refused(SpreadArgs { hosts_max: Some(3), ..plain() }, |_| {}).is_ok());
        let problem = refused(plain(), |preview| preview.problems = vec!["nobody has the key".into()]);
        assert_eq!(problem.unwrap_err().0, Exit::Refused);
        let nobody: fn(&mut Preview) = |preview| (preview.matched, preview.willing) = (0, 0);
        assert_eq!(refused(plain(), nobody).unwrap_err().0, Exit::NotFound);
        assert!(refused(SpreadArgs { standing: true, ..plain() }, nobody).is_ok());
        let all_refuse = |code: &str| {
            let refusal = muster_api::actions::PreviewRefusal {
                code: code.into(),
                reason: "why".into(),
                agents: 3,
                examples: Vec::new(),
            };
            let preview = preview(|preview| (preview.willing, preview.refusals) = (0, vec![refusal]));
            plain().feasible(&action(), &preview).map_err(|failure| failure.exit)
        };
        assert_eq!(all_refuse("unknown-module"), Err(Exit::Refused));
        assert_eq!(all_refuse("weight"), Ok(()), "it waits for more signatures");
    }

    #[test]
    fn shares_are_told_as_they_were_asked_for() {
        assert!(spread_of(&[]).contains("1 %, to 10 %"));
        assert!(spread_of(&[5, 50]).contains("goes to 5 %, to 50 %, then"));
        assert!(spread_of(&[100]).contains("all at once"));
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
