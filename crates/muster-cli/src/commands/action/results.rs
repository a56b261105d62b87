//! `muster action results|watch`: what machines answered, at once or as it arrives.
//!
//! Stays true: each machine's answer is printed once; what machines answered cannot steer the terminal.

use super::life::detail;
use crate::output::{Bar, Format};
use crate::results::{Answers, Sink};
use crate::values::duration;
use crate::{Context, Exit, Failure};
use muster_api::actions::{ActionDetail, ResultQuery};
use muster_core::Action;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// The shortest and the longest time between two looks.
const LOOK: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];
/// A look that reads all results is worth so many times its own length of waiting.
const PATIENCE: u32 = 4;

/// How results are printed, and how long they are waited for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct HowArgs {
    /// How to print results: grouped by value, or each machine's as JSON lines or CSV
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Print only results that found something
    #[arg(long)]
    pub(crate) found: bool,
    /// How long to wait for results
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    pub(crate) wait: Duration,
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
    /// Wait for further results
    #[arg(long)]
    follow: bool,
}

impl ResultsArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let what = format!("could not show the results of action {}", self.id);
        let (_, detail) = detail(context, &what, self.id).await?;
        let action = super::file::parse(&what, &format!("action {}", self.id), detail.action.as_bytes())?;
        if self.follow {
            return self.how.follow(context, self.id, &action).await;
        }
        let mut sink = self.how.sink(context, &action);
        let query = ResultQuery { status: self.status, found: self.how.found.then_some(true) };
        Answers::default().read(context, &what, self.id, &query, &mut sink).await?;
        sink.end()
    }
}

impl HowArgs {
    fn sink(&self, context: &Context, action: &Action) -> Sink {
        let format = if context.out.json { Format::Jsonl } else { self.format };
        let modules = action.operations.iter().map(|operation| operation.module.clone()).collect();
        Sink::new(context.out, format, modules)
    }

    /// Prints results as they arrive, until the action is over.
    pub(crate) async fn follow(&self, context: &Context, id: i64, action: &Action) -> Result<(), Failure> {
        let what = format!("could not watch action {id}");
        let mut sink = self.sink(context, action);
        let until = Instant::now() + self.wait;
        let query = ResultQuery { status: None, found: self.found.then_some(true) };
        let (mut answers, mut bar, mut known) = (Answers::default(), Bar::new(context.out.json), None);
        let mut pause = LOOK[0];
        let last = loop {
            let (_, detail) = detail(context, &what, id).await?;
            let done = detail.summary.counters.done;
            let over = is_over(&detail);
            if over || known != Some(done) {
                let began = Instant::now();
                bar.clear();
                answers.read(context, &what, id, &query, &mut sink).await?;
                known = Some(done);
                pause = (began.elapsed() * PATIENCE).clamp(LOOK[0], LOOK[1]);
            } else {
                pause = (pause * 2).min(LOOK[1]);
            }
            if over || Instant::now() >= until {
                break detail;
            }
            bar.show(done, detail.summary.counters.sent.max(detail.summary.matched), &progress(&detail));
            tokio::time::sleep(pause).await;
        };
        bar.clear();
        sink.end()?;
        ended(context, &last)
    }
}

fn is_over(detail: &ActionDetail) -> bool {
    matches!(detail.summary.status.as_str(), "completed" | "invalid" | "cancelled" | "waiting")
        || detail.summary.halted.is_some()
}

fn progress(detail: &ActionDetail) -> String {
    let counters = detail.summary.counters;
    let mut text = detail.summary.status.clone();
    for (name, number) in [("failed", counters.failed), ("timed out", counters.timeout), ("expired", counters.expired)]
    {
        if number > 0 {
            let _ = write!(text, ", {number} {name}");
        }
    }
    text
}

/// Says how an action stands when nobody waits any longer.
fn ended(context: &Context, detail: &ActionDetail) -> Result<(), Failure> {
    let summary = &detail.summary;
    let (id, counters) = (summary.id, summary.counters);
    let not =
        |exit, why: String, next: String| Err(Failure::new(exit, format!("action {id} is not done"), why).next(next));
    context.out.note(&format!("action {id}: {} of {} done, {}", counters.done, counters.sent, progress(detail)));
    match summary.status.as_str() {
        _ if summary.halted.is_some() => {
            let why = format!("it halted between two shares: {}", summary.reason);
            not(Exit::Failed, why, format!("muster action results {id}; then `muster action resume` or `cancel`"))
        }
        "completed" => Ok(()),
        "waiting" => not(Exit::Refused, "it waits for more signatures".into(), format!("muster action sign {id}")),
        "invalid" | "cancelled" => not(Exit::Failed, format!("{}: {}", summary.status, summary.reason), String::new()),
        _ => {
            let why = format!("{} of {} machines have not answered yet", counters.inflight, counters.sent);
            not(Exit::TimedOut, why, format!("muster action results {id}, or allow more time with --wait"))
        }
    }
}

#[cfg(test)]
mod tests;
