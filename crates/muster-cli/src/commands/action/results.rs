//! `muster action results|watch`: what machines answered, at once or as it arrives.
//!
//! Stays true: each machine's answer is printed once; what machines answered cannot steer the terminal.

use super::late;
use super::life::stands;
use super::listing::detail;
use super::order::{Order, OrderArgs};
use crate::known::{Book, BookArgs};
use crate::output::{Bar, Format, machine_name, safe};
use crate::results::{Answers, Ended, Shown, Sink};
use crate::values::duration;
use crate::{Context, Exit, Failure};
use muster_api::Page;
use muster_api::actions::{ActionCounters, ActionDetail, ActionSummary, CommandQuery, CommandRow};
use std::fmt::Write as _;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// The shortest and the longest time between two looks.
const LOOK: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];
/// A look that reads all results is worth so many times its own length of waiting.
const PATIENCE: u32 = 4;
/// Looks that may fail one after the other because the server cannot be reached: some minutes of them.
const FAILURES_MAX: u32 = 30;
/// The longest pause between two looks that fail.
const PAUSE_UNREACHED_MAX: Duration = Duration::from_secs(10);
/// How long results are waited for by default.
const WAIT: Duration = Duration::from_mins(5);
/// Machines that are named because they have not answered.
const SILENT_NAMED_MAX: u32 = 10;

/// How results are printed, and how long they are waited for.
#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct HowArgs {
    /// How to print results: grouped by value (unless told), or each machine's as JSON lines or CSV
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Print only results that found something, by what the machines signed; those with errors, or that are not whole, too
    #[arg(long)]
    pub(crate) found: bool,
    /// How long to wait for results; 5m by default
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    /// Print also results that no machine signed, as old agents send them; else they are left out, and the command ends
    /// with 1 (one whose signature does not hold is always left out)
    #[arg(long)]
    pub(crate) unproven: bool,
    /// Leave out results of machines that nobody approved in your book (`muster agent known`), and end with 1
    #[arg(long, conflicts_with = "unproven")]
    pub(crate) known_only: bool,
    #[command(flatten)]
    pub(crate) book: BookArgs,
    /// What goes without saying now
    #[arg(long, hide = true, conflicts_with = "unproven")]
    proven: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct ResultsArgs {
    /// The number of the action
    id: i64,
    /// Only with this status: success, failed, timeout, cancelled, expired
    #[arg(long)]
    status: Option<String>,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    order: OrderArgs,
    /// Wait for further results
    #[arg(long)]
    follow: bool,
    /// Print what came after the action had ended or was called back, verified as other results are
    #[arg(long, conflicts_with = "follow")]
    late: bool,
}

impl ResultsArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        self.how.check(context.out)?;
        let what = format!("could not show the results of action {}", self.id);
        let (_, detail) = detail(context, &what, self.id).await?;
        let action = super::file::parse(&what, &format!("action {}", self.id), detail.action.as_bytes())?;
        let order = Order::of_server(context, (self.id, &action), &self.order, self.how.unproven).await?;
        let mut sink = self.how.sink(context, &order, self.status)?;
        if self.late {
            return late::print(context, (&what, self.id), sink, &detail.summary).await;
        }
        if self.follow {
            return self.how.follow_into(context, self.id, sink, None).await;
        }
        if detail.summary.late > 0 {
            sink.came_late(late::rows(context, &what, self.id).await?);
        }
        Answers::default().read(context, &what, self.id, &mut sink).await?;
        let ended = sink.end(&detail.summary)?;
        silent(context, &detail).await;
        ended.check()
    }
}

impl HowArgs {
    /// Refuses `--json` together with a format that is not JSON: one of the two would be passed over in silence.
    pub(crate) fn check(&self, out: crate::Output) -> Result<(), Failure> {
        let format = match self.format {
            Some(Format::Table) if out.json => "table",
            Some(Format::Csv) if out.json => "csv",
            _ => return Ok(()),
        };
        let why = format!("--json and --format {format} contradict each other");
        Err(Failure::usage("could not choose how to print results", why)
            .next("leave one of them out (MUSTER_JSON counts as --json); --json prints JSON lines"))
    }

    /// Refuses what only counts for results where none are printed: it would be passed over in silence.
    pub(crate) fn check_unused(&self, what: &str) -> Result<(), Failure> {
        let given = [
            ("--wait", self.wait.is_some()),
            ("--format", self.format.is_some()),
            ("--found", self.found),
            ("--unproven", self.unproven),
            ("--known-only", self.known_only),
        ];
        let given: Vec<_> = given.into_iter().filter(|(_, is_given)| *is_given).map(|(flag, _)| flag).collect();
        if given.is_empty() {
            return Ok(());
        }
        let why = "it is about results, and without --watch none are waited for or printed";
        Err(Failure::usage(what, why).on(given.join(", ")).next("add --watch, or leave it out"))
    }

    fn sink(&self, context: &Context, order: &Order, status: Option<String>) -> Result<Sink, Failure> {
        let format = if context.out.json { Format::Jsonl } else { self.format.unwrap_or(Format::Table) };
        let which = Shown { found: self.found, status, unproven: self.unproven, known_only: self.known_only };
        Ok(Sink::new(context.out, format, order.clone(), which, Book::of(context, &self.book)?))
    }

    /// Prints results as they arrive, until the action is over.
    pub(crate) async fn follow(&self, context: &Context, id: i64, order: &Order) -> Result<(), Failure> {
        self.follow_noted(context, id, order, None).await
    }

    /// The same after a note, from which on an interrupt says how to go on.
    pub(crate) async fn follow_noted(
        &self,
        context: &Context,
        id: i64,
        order: &Order,
        note: Option<&str>,
    ) -> Result<(), Failure> {
        self.follow_into(context, id, self.sink(context, order, None)?, note).await
    }

    async fn follow_into(&self, context: &Context, id: i64, sink: Sink, note: Option<&str>) -> Result<(), Failure> {
        let mut interrupts = signal(SignalKind::interrupt())
            .map_err(|error| Failure::new(Exit::Failed, "could not listen for Ctrl-C", error.to_string()))?;
        if let Some(note) = note {
            context.out.note(note);
        }
        let mut watch = Watch {
            context,
            id,
            what: format!("could not watch action {id}"),
            answers: Answers::default(),
            known: None,
            bar: Bar::new(context.out.json),
            last: None,
            sink,
        };
        let outcome = tokio::select! {
            // Whoever holds the program back knows less of what goes on than this.
            biased;
            outcome = watch.run(Instant::now() + self.wait.unwrap_or(WAIT)) => outcome,
            Some(()) = interrupts.recv() => {
                let what = format!("interrupted while action {id} goes on");
                Err(Failure::new(Exit::Interrupted, what, "it is not called back by this"))
            }
        };
        let Watch { sink, mut bar, last, .. } = watch;
        bar.clear();
        // What came before the watching ended is printed, however it ended.
        let printed = last.map(|summary| sink.end(&summary)).transpose()?;
        match outcome {
            Ok(detail) => {
                ended(context, &detail).await?;
                printed.map_or(Ok(()), Ended::check)
            }
            Err(failure) if failure.exit == Exit::NotFound => Err(failure),
            Err(failure) => Err(going_on(failure, id)),
        }
    }
}

/// Says how to go on with an action that is no longer watched.
fn going_on(failure: Failure, id: i64) -> Failure {
    let how = format!("`muster action watch {id}` waits on, `muster action cancel {id}` calls it back");
    let next = if failure.next.is_empty() { how } else { format!("{}; {how}", failure.next) };
    failure.next(next)
}

/// What watching an action needs from one look to the next.
struct Watch<'a> {
    context: &'a Context,
    id: i64,
    what: String,
    answers: Answers,
    /// How many machines were done when all answers were read last.
    known: Option<u64>,
    bar: Bar,
    /// How the action stood when all answers were read last.
    last: Option<ActionSummary>,
    sink: Sink,
}

impl Watch<'_> {
    /// Looks until the action is over or the time has run out. A server that cannot be reached is tried again.
    async fn run(&mut self, until: Instant) -> Result<ActionDetail, Failure> {
        let (mut pause, mut failures) = (LOOK[0], 0);
        loop {
            let late = |now: Instant| now >= until;
            match self.look().await {
                Ok((detail, _)) if is_over(&detail) || late(Instant::now()) => return Ok(detail),
                Ok((detail, read)) => {
                    if std::mem::take(&mut failures) > 0 {
                        self.note("The server answers again.");
                    }
                    pause = match read {
                        Some(took) => (took * PATIENCE).clamp(LOOK[0], LOOK[1]),
                        None => (pause * 2).min(LOOK[1]),
                    };
                    let of = detail.summary.counters.sent.max(detail.summary.matched);
                    self.bar.show(detail.summary.counters.done, of, &progress(&detail));
                }
                Err(failure)
                    if failure.exit == Exit::Unreachable && failures < FAILURES_MAX && !late(Instant::now()) =>
                {
                    if failures == 0 {
                        self.note(&format!("The server cannot be reached, and is tried again: {}", failure.why));
                    }
                    failures += 1;
                    pause = (pause * 2).min(PAUSE_UNREACHED_MAX);
                }
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Looks once. When there may be new answers, all are read; then how long that took is told.
    async fn look(&mut self) -> Result<(ActionDetail, Option<Duration>), Failure> {
        let (_, detail) = detail(self.context, &self.what, self.id).await?;
        let done = detail.summary.counters.done;
        let over = is_over(&detail);
        if !over && self.known == Some(done) {
            return Ok((detail, None));
        }
        let began = Instant::now();
        self.bar.clear();
        // What the table shows in a moment need not be told before it.
        self.sink.tell_news(!over);
        self.answers.read(self.context, &self.what, self.id, &mut self.sink).await?;
        self.known = Some(done);
        self.last = Some(detail.summary.clone());
        Ok((detail, Some(began.elapsed())))
    }

    fn note(&mut self, text: &str) {
        self.bar.clear();
        self.context.out.note(&safe(text));
    }
}

fn is_over(detail: &ActionDetail) -> bool {
    matches!(detail.summary.status.as_str(), "completed" | "invalid" | "cancelled" | "waiting")
        || detail.summary.halted.is_some()
}

fn progress(detail: &ActionDetail) -> String {
    let mut text = if detail.summary.halted.is_some() { "halted".to_owned() } else { detail.summary.status.clone() };
    let failures = failures(detail.summary.counters);
    if !failures.is_empty() {
        let _ = write!(text, ", {failures}");
    }
    text
}

/// Says how many machines did not do it, and how that came; empty when all that ended did it.
fn failures(counters: ActionCounters) -> String {
    let counts = [
        ("failed", counters.failed),
        ("timed out", counters.timeout),
        ("expired", counters.expired),
        ("cancelled", counters.cancelled),
    ];
    let told = counts.iter().filter(|(_, number)| *number > 0).map(|(name, number)| format!("{number} {name}"));
    told.collect::<Vec<_>>().join(", ")
}

/// Says how an action stands when nobody waits any longer.
async fn ended(context: &Context, detail: &ActionDetail) -> Result<(), Failure> {
    let summary = &detail.summary;
    let (id, counters) = (summary.id, summary.counters);
    let not = |exit, why: String| Failure::new(exit, format!("action {id} is not done"), why);
    let of = counters.sent.max(summary.matched);
    context.out.note(&format!("action {id}: {} of {of} done, {}", counters.done, progress(detail)));
    silent(context, detail).await;
    stands(summary)?;
    if summary.status != "completed" {
        return Err(going_on(not(Exit::TimedOut, awaited(detail)).next("allow more time with --wait"), id));
    }
    if counters.done > 0 && counters.success == 0 {
        let what = if counters.failed + counters.timeout > 0 { "no machine did it" } else { "no machine answered" };
        let why = format!("{what}: {}", failures(counters));
        return Err(not(Exit::Failed, why).next(format!("muster action results {id}")));
    }
    Ok(())
}

/// Says what an action waits for that is still under way.
fn awaited(detail: &ActionDetail) -> String {
    let summary = &detail.summary;
    let (sent, inflight) = (summary.counters.sent, summary.counters.inflight);
    let mut why = match (inflight, sent) {
        (0, 0) if detail.standing => "no machine was given it yet".to_owned(),
        (0, 0) => format!("it is {}: no machine was given it yet", summary.status),
        (0, _) if detail.standing => "every machine that was given it has answered".to_owned(),
        (0, _) => "every machine that was given it has answered, and others come next".to_owned(),
        (1, 1) => "the machine has not answered yet".to_owned(),
        _ => format!("{inflight} of {sent} machines have not answered yet"),
    };
    if detail.standing {
        let expires = crate::output::time(&summary.expire_after);
        let _ = write!(why, "; it is standing, for machines that come until {expires}");
    }
    why
}

/// Names machines that have not answered.
async fn silent(context: &Context, detail: &ActionDetail) {
    let summary = &detail.summary;
    let is_asked = matches!(summary.status.as_str(), "preparing" | "inflight");
    if !is_asked || summary.counters.inflight == 0 || context.out.json {
        return;
    }
    let query =
        CommandQuery { status: Some("sent".to_owned()), limit: Some(SILENT_NAMED_MAX), ..CommandQuery::default() };
    let what = "could not look who has not answered";
    let path = ["actions", &summary.id.to_string(), "commands"];
    // Whoever is told this was told how many already: that it cannot be had is no failure.
    let Ok(answer) = context.api.get(what, &path, &query).await else { return };
    let Ok(page) = context.api.read::<Page<CommandRow>>(what, &answer) else { return };
    if !page.items.is_empty() {
        let named: Vec<_> = page.items.iter().map(named).collect();
        let more = summary.counters.inflight.saturating_sub(named.len() as u64);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        context.out.note(&safe(&format!("not answered: {}{more}", named.join(" "))));
    }
}

/// Returns how the server names a machine that has not answered.
fn named(row: &CommandRow) -> String {
    match row.hostname.as_deref() {
        Some(name) if !name.is_empty() => format!("{} ({})", machine_name(name), row.agent),
        _ => row.agent.clone(),
    }
}

#[cfg(test)]
mod tests;
