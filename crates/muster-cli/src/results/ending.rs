//! What is said when all answers were taken: the table, why nothing is shown, who is new, and what was left out.
//!
//! Stays true: results that are not their machines' fail the command, whatever else is printed; "nothing" is never said
//! without its reason.

use super::{CSV_HEAD, Counts, Sink};
use crate::output::{Format, Table, safe};
use crate::{Exit, Failure};
use muster_api::actions::ActionSummary;
use muster_core::limits::RESULT_VALUES_MAX;

impl Sink {
    /// Prints what is printed at the end; `action` is how the action stands.
    ///
    /// # Errors
    /// There were results that are not their machine's, that no machine signed, or of machines that nobody approved.
    pub(crate) fn end(mut self, action: &ActionSummary) -> Result<Ended, Failure> {
        self.print_end(action)?;
        self.end_of_book();
        self.check()?;
        let (asked, silent) = if self.is_late { (0, 0) } else { self.silent(action) };
        Ok(Ended { partial: self.counts.partial, asked, silent, is_full: self.is_full })
    }

    /// How many machines were asked, and how many of them have not answered: those that the server says so of, and those
    /// that it counts and shows no row of.
    fn silent(&self, action: &ActionSummary) -> (u64, u64) {
        // A server that contradicts itself is not believed where it says less.
        let counters = action.counters;
        let asked = counters.sent.max(counters.done + counters.inflight).max(self.counts.taken);
        (asked, self.counts.silent + (asked - self.counts.taken))
    }

    /// Says which machines are new, once: from then on they are in the book, and each row has their mark.
    fn end_of_book(&mut self) {
        let (new, named) = &self.new;
        if *new > 0 {
            let more = if *new > named.len() as u64 { " …" } else { "" };
            let (machines, are) = if *new == 1 { ("machine", "is") } else { ("machines", "are") };
            self.out.note(&safe(&format!(
                "{new} {machines} {are} new to your book ({}): {}{more}. Anybody who has the server can make such keys: compare \
                 the ids, then `{}`.",
                self.book.whose(),
                named.join(" "),
                self.book.command("add ID NAME")
            )));
        }
        if let Err(failure) = self.book.keep() {
            self.out.note(&safe(&format!("note: machines that are new were not kept in your book: {}", failure.why)));
        }
    }

    fn check(&self) -> Result<(), Failure> {
        let unsigned = if self.which.unproven { 0 } else { self.counts.unsigned };
        let (what, why, next) = match (self.counts.broken, unsigned, self.counts.unknown) {
            (0, 0, 0) => return Ok(()),
            (0, 0, unknown) => (
                "not all results are of machines that you know",
                format!("{unknown} results are of machines that nobody approved in your book, and were left out"),
                format!(
                    "compare the ids with those on the machines (`muster-agent status`), then: {}",
                    self.book.command("add ID NAME")
                ),
            ),
            (0, unsigned, _) => (
                "not all results are proven",
                format!("{unsigned} results are signed by no machine, and were left out"),
                "an agent that is too old to sign, or somebody on the way, leaves the signature out: --unproven prints them \
                 all the same"
                    .to_owned(),
            ),
            (broken, unsigned, _) => {
                let more = match unsigned {
                    0 => ", and were left out".to_owned(),
                    unsigned => format!(", {unsigned} are signed by no machine: they were left out"),
                };
                (
                    "results were changed on their way",
                    format!("{broken} results are not signed by machines that were asked, as they are{more}"),
                    "trust neither server nor database until you know why; `muster-agent status` on a machine shows what ran \
                     there"
                        .to_owned(),
                )
            }
        };
        Err(Failure::new(Exit::Failed, what, why).next(next))
    }

    fn print_end(&self, action: &ActionSummary) -> Result<(), Failure> {
        if self.counts.shown == 0 {
            self.out.note(&self.nothing(action));
        } else if self.counts.unanswered > 0 {
            self.out.note(&format!("{} machines have not answered, and are not listed.", self.counts.unanswered));
        }
        if self.counts.refused > 0 {
            let (refusals, are) = if self.counts.refused == 1 { ("refusal", "is") } else { ("refusals", "are") };
            self.out.note(&format!(
                "{} {refusals} {are} unproven: machines sign no refusal of a copy of the order that anybody could have spoiled. \
                 Whether the order ran there is not known from it.",
                self.counts.refused
            ));
        }
        match self.format {
            Format::Csv if !self.begun => return self.out.bytes(CSV_HEAD.as_bytes()),
            Format::Table if self.counts.shown > 0 => {}
            Format::Table | Format::Csv | Format::Jsonl => return Ok(()),
        }
        let mut table = Table::new(&["MACHINES", "VALUE", "SUCH AS"]);
        for (value, (count, named)) in self.sorted() {
            let more = if count > named.len() as u64 { " …" } else { "" };
            table.row([count.to_string(), value.clone(), format!("{}{more}", named.join(" "))]);
        }
        self.out.table(&table, "No results.")
    }

    /// Says why no result is shown: that differs much.
    pub(super) fn nothing(&self, action: &ActionSummary) -> String {
        let Counts { filtered, unanswered, missing, broken, unsigned, unknown, .. } = self.counts;
        let left_out = broken + unknown + if self.which.unproven { 0 } else { unsigned };
        let answered = filtered - unanswered;
        let mut said = Vec::new();
        if left_out > 0 {
            said.push(format!("{left_out} were left out"));
        }
        if answered > 0 && self.which.status.is_none() {
            let absent = match missing {
                0 => String::new(),
                missing => format!(", {missing} of them because a path of the question is not there"),
            };
            said.push(format!("{answered} machines answered and found nothing{absent}"));
        } else if answered > 0 {
            said.push(format!("{answered} answers are other ones than --status and --found ask for"));
        }
        if unanswered > 0 {
            said.push(format!("{unanswered} machines have not answered"));
        }
        if said.is_empty() && self.is_late {
            return "No result came late.".to_owned();
        }
        if said.is_empty() {
            said.push(match (action.matched.max(action.counters.sent), action.counters.sent, action.status.as_str()) {
                (_, _, "waiting") => "the action waits for signatures, and no machine was given it".to_owned(),
                (0, _, "pending" | "scheduled" | "preparing") => "no machine was given the action yet".to_owned(),
                // Only a standing one is in flight before any machine was given it.
                (0, _, "inflight") => "no machine was given the action yet: it waits for machines that match its \
                     target until its window ends"
                    .to_owned(),
                (0, _, "cancelled") => "the action was called back before any machine was given it".to_owned(),
                (0, _, "completed") => "no machine that matches the target came before its window ended".to_owned(),
                (0, _, _) if !action.reason.is_empty() => {
                    format!("no machine was given the action: {}", safe(&action.reason))
                }
                (0, _, _) => "no machine was given the action".to_owned(),
                (matched, 0, _) => format!("none of {matched} machines was given the action yet"),
                (_, sent, _) => format!("none of {sent} machines has answered yet"),
            });
        }
        format!("No results: {}.", said.join(", "))
    }
}

/// How the printing of results ended that are all their machines'.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    partial: u64,
    /// Machines that were given the action; 0 when there is none, or nobody counts them.
    asked: u64,
    /// Of these, those that have not answered.
    silent: u64,
    is_full: bool,
}

impl Ended {
    /// Fails when what was printed is not the whole of what was asked.
    pub(crate) fn check(self) -> Result<(), Failure> {
        const WHAT: &str = "not every answer is whole";
        if self.is_full {
            let why = format!(
                "there are more different values than a table holds ({RESULT_VALUES_MAX}): the others are missing"
            );
            return Err(Failure::new(Exit::Partial, WHAT, why).next("--format csv or jsonl prints all"));
        }
        match self.partial {
            0 if self.silent == 0 => Ok(()),
            0 => {
                let why = match (self.silent, self.asked) {
                    (1, 1) => "the machine that was asked has not answered".to_owned(),
                    (1, asked) => format!("1 of {asked} machines has not answered"),
                    (silent, asked) => format!("{silent} of {asked} machines have not answered"),
                };
                let why = format!("{why}: what is looked for may be there all the same");
                Err(Failure::new(Exit::Partial, WHAT, why)
                    .next("ask again when they are online; `--standing` waits for them"))
            }
            partial => {
                let (answers, have) = if partial == 1 { ("answer", "has") } else { ("answers", "have") };
                let why = format!(
                    "{partial} {answers} {have} errors or failed: what they did not find may be there all the same"
                );
                Err(Failure::new(Exit::Partial, WHAT, why).next("the errors stand among the results"))
            }
        }
    }
}
