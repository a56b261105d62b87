//! Answers of machines: read as they come, and printed grouped by value, as JSON lines or as CSV.
//!
//! Stays true: an answer is taken once, however often it is read; which answers are shown is decided here, by what the
//! machines signed, so that a server that leaves out a flag leaves out no finding; memory holds what is printed at the
//! end, and the numbers of answers that were taken.

mod answer;
mod ending;
mod late;

pub(crate) use ending::Ended;
pub(crate) use late::{Late, of_command};

use crate::commands::action::order::Order;
use crate::known::{Book, Standing};
use crate::output::{Format, machine_name, safe};
use crate::proof::{self, Proof};
use crate::{Context, Exit, Failure, Output};
use answer::Answer;
use futures_util::StreamExt as _;
use muster_api::actions::{CommandRow, ResultQuery};
use muster_core::AgentId;
use muster_core::limits::{RESULT_VALUES_BYTES_MAX, RESULT_VALUES_MAX, RESULTS_READ_MAX};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;

/// Machines that are named for one value, or in one note.
const NAMED_MAX: usize = 5;
/// Bytes of one line of results; an action's results are bounded by the server below this.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The first line of CSV.
const CSV_HEAD: &str = "agent,hostname,status,found,value,known\r\n";

/// Which answers were taken already.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    taken: BTreeSet<i64>,
}

impl Answers {
    /// Reads all answers, and hands those that are new to `sink`.
    ///
    /// Everything is asked for, whatever is shown of it: what a server leaves out of an answer is not there to be verified.
    pub(crate) async fn read(
        &mut self,
        context: &Context,
        what: &str,
        id: i64,
        sink: &mut Sink,
    ) -> Result<(), Failure> {
        let path = ["actions", &id.to_string(), "results"];
        let answer = context.api.lines(what, &path, &ResultQuery::default()).await?;
        let mut pieces = answer.bytes_stream();
        let mut rest = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| {
                Failure::new(Exit::Unreachable, what, crate::failure::chain(&error))
                    .on(context.api.url())
                    .next("try again")
            })?;
            rest.extend_from_slice(&piece);
            let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
                if rest.len() > LINE_BYTES_MAX {
                    return Err(Failure::new(Exit::Failed, what, "a line of results has no end").on(context.api.url()));
                }
                continue;
            };
            let lines: Vec<u8> = rest.drain(..=end).collect();
            for line in lines.split(|byte| *byte == b'\n') {
                self.take(context, what, line, sink)?;
            }
        }
        self.take(context, what, &rest, sink)
    }

    fn take(&mut self, context: &Context, what: &str, line: &[u8], sink: &mut Sink) -> Result<(), Failure> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let failed = |why: String| Failure::new(Exit::Failed, what, why).on(context.api.url());
        // What a machine found stays the text that it signed, and may be nested as it likes.
        let row: CommandRow = serde_json::from_slice(line)
            .map_err(|error| failed(format!("a line of results cannot be read: {error}")))?;
        if self.taken.len() >= RESULTS_READ_MAX && !self.taken.contains(&row.id) {
            return Err(failed(format!("it gives more than {RESULTS_READ_MAX} results")));
        }
        if self.taken.insert(row.id) { sink.take(&row) } else { Ok(()) }
    }
}

/// Which answers are shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    /// Only those that found something; those that have errors or are cut are shown with them.
    pub(crate) found: bool,
    /// Only those with this status.
    pub(crate) status: Option<String>,
    /// Also those that no machine signed.
    pub(crate) unproven: bool,
    /// None of machines that nobody approved in the book.
    pub(crate) known_only: bool,
}

/// How many answers there were, and what became of them.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// All.
    taken: u64,
    /// Shown.
    shown: u64,
    /// Passed over because they are not what was asked to be shown.
    filtered: u64,
    /// Of these, rows of machines that have not answered.
    unanswered: u64,
    /// Of these, answers of machines without a path of the question.
    missing: u64,
    /// Rows of machines that have not answered, shown or not.
    silent: u64,
    /// Shown, with errors, or not to the end.
    partial: u64,
    /// Left out: not their machine's.
    broken: u64,
    /// Signed by no machine.
    unsigned: u64,
    /// Said to be refusals of copies of the order, which machines do not sign.
    refused: u64,
    /// Left out: of machines that nobody approved.
    unknown: u64,
}

/// Whose word a row is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// The machine's, which signed it.
    Machines,
    /// The server's.
    Servers,
    /// The server's, that the machine refused a copy of the order, for this reason.
    RefusedCopy(String),
}

/// Where answers go.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each says one thing of what was printed, or is to be")]
pub(crate) struct Sink {
    out: Output,
    format: Format,
    /// What is answered. Without its digest nothing is checked.
    order: Order,
    which: Shown,
    book: Book,
    /// What machines said after their command had ended.
    late: BTreeMap<String, Late>,
    /// Whether it takes nothing else: of these a machine may have sent several.
    is_late: bool,
    /// Of every value, the machines that gave it: how many, and some of them.
    groups: BTreeMap<String, (u64, Vec<String>)>,
    group_bytes: usize,
    /// Whether there were more values than are kept.
    is_full: bool,
    begun: bool,
    /// Whether a value that nobody gave before is told at once.
    tells_news: bool,
    /// The machines whose signed results were taken: each answers an order once.
    proven: BTreeSet<String>,
    /// Some of the machines that are new to the book, and how many there are.
    new: (u64, Vec<String>),
    counts: Counts,
}

impl Sink {
    /// `book` is whom this person knows; `order` says by what results are verified.
    pub(crate) fn new(out: Output, format: Format, order: Order, which: Shown, book: Book) -> Self {
        Self {
            out,
            format,
            order,
            which,
            book,
            late: BTreeMap::new(),
            is_late: false,
            groups: BTreeMap::new(),
            group_bytes: 0,
            is_full: false,
            begun: false,
            tells_news: false,
            proven: BTreeSet::new(),
            new: (0, Vec::new()),
            counts: Counts::default(),
        }
    }

    /// Tells new values at once from now on, if somebody looks, or no longer.
    pub(crate) fn tell_news(&mut self, tell: bool) {
        self.tells_news = tell && std::io::stderr().is_terminal();
    }

    /// Takes the answer of one machine.
    pub(crate) fn take(&mut self, row: &CommandRow) -> Result<(), Failure> {
        self.counts.taken += 1;
        let Some(word) = self.verified(row) else { return Ok(()) };
        let is_proven = word == Word::Machines;
        if is_proven {
            self.meet(row);
        }
        let late = self.late.get(&row.agent).cloned();
        let refused = if let Word::RefusedCopy(why) = word { Some(why) } else { None };
        let answer = Answer::new(row, is_proven, &self.book).with_late(late).with_refusal(refused);
        self.take_verified(&answer)
    }

    /// Whose word a result is; `None` when it is left out.
    fn verified(&mut self, row: &CommandRow) -> Option<Word> {
        let Some(order) = self.order.digest else { return Some(Word::Servers) };
        if row.agent.parse::<AgentId>().is_ok_and(|id| self.order.excludes(id)) {
            return self.leave_out(row, "the action that people signed is not for this machine");
        }
        match proof::check(row, &order) {
            Proof::Broken(why) => self.leave_out(row, why),
            Proof::Holds if !self.has_known_key(row) => {
                self.leave_out(row, "its key is another than the one that your book of machines has for this id")
            }
            Proof::Holds if !self.is_late && !self.proven.insert(row.agent.clone()) => {
                self.leave_out(row, "its machine has answered before")
            }
            Proof::Holds | Proof::Copy(_)
                if self.which.known_only && self.book.standing(&row.agent) != Standing::Approved =>
            {
                self.counts.unknown += 1;
                self.note_left_out(row, "nobody approved this machine in your book");
                None
            }
            Proof::Holds => Some(Word::Machines),
            // Whoever passes the order on can spoil a copy, and a machine signs no refusal of one: it is shown as what it is.
            Proof::Copy(why) => {
                self.counts.refused += 1;
                Some(Word::RefusedCopy(why))
            }
            Proof::None if Answer::new(row, false, &self.book).is_of_machine() => {
                self.counts.unsigned += 1;
                self.which.unproven.then_some(Word::Servers)
            }
            Proof::None => Some(Word::Servers),
        }
    }

    /// An id is the beginning of a key's digest; the book has the whole of it.
    fn has_known_key(&self, row: &CommandRow) -> bool {
        let known = self.book.machine(&row.agent).and_then(|machine| machine.key_sha256.as_ref());
        known.is_none_or(|known| proof::key_sha256(row).as_ref() == Some(known))
    }

    fn meet(&mut self, row: &CommandRow) {
        if self.book.standing(&row.agent) == Standing::New {
            self.new.0 += 1;
            if self.new.1.len() < NAMED_MAX {
                self.new.1.push(row.agent.clone());
            }
        }
        if let Some(key) = proof::key_sha256(row) {
            self.book.meet(&row.agent, &key, row.hostname.as_deref().unwrap_or_default());
        }
    }

    /// Takes an answer that is not left out: shows it, if it is one of those that are shown.
    fn take_verified(&mut self, answer: &Answer<'_>) -> Result<(), Failure> {
        if let Some(other) = answer.other_name() {
            self.out.note(&safe(&other));
        }
        if let Some(stolen) = answer.stolen_name() {
            self.out.note(&safe(&stolen));
        }
        self.counts.silent += u64::from(!answer.is_of_machine());
        let has_status = self.which.status.as_ref().is_none_or(|status| *status == answer.row.status);
        // An answer that is not whole may have missed what is looked for: it is never passed over as one that found nothing.
        let is_found =
            !self.which.found || (answer.is_of_machine() && (answer.found() == Some(true) || !answer.is_whole()));
        if !(has_status && is_found) {
            self.counts.filtered += 1;
            self.counts.unanswered += u64::from(!answer.is_of_machine());
            self.counts.missing += u64::from(!answer.missing().is_empty());
            return Ok(());
        }
        self.counts.shown += 1;
        self.counts.partial += u64::from(answer.is_of_machine() && !answer.is_whole());
        match self.format {
            Format::Jsonl => {
                let text = answer.json(&self.order);
                let text = text.map_err(|error| Failure::local("could not write the result", "JSON", &error))?;
                self.out.json_text(&text)
            }
            Format::Csv => {
                let text = self.csv(answer);
                self.out.bytes(text.as_bytes())
            }
            Format::Table => {
                self.group(answer);
                Ok(())
            }
        }
    }

    fn leave_out(&mut self, row: &CommandRow, why: &str) -> Option<Word> {
        self.counts.broken += 1;
        self.note_left_out(row, why);
        None
    }

    fn note_left_out(&self, row: &CommandRow, why: &str) {
        self.out.note(&safe(&format!("{}: the result is left out, {why}", self.host_of(row))));
    }

    /// Returns how a machine is named whose result is not shown.
    fn host_of(&self, row: &CommandRow) -> String {
        let answer = Answer::new(row, false, &self.book);
        match (answer.host(), answer.stolen_name()) {
            ("", _) => row.agent.clone(),
            (_, Some(stolen)) => stolen,
            (host, None) => format!("{} ({})", machine_name(host), row.agent),
        }
    }

    /// Returns the groups, the largest first.
    fn sorted(&self) -> Vec<(&String, (u64, &[String]))> {
        let mut groups: Vec<_> =
            self.groups.iter().map(|(value, (count, named))| (value, (*count, named.as_slice()))).collect();
        groups.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        groups
    }

    #[cfg(test)]
    pub(crate) fn counts(&self) -> Vec<(String, u64)> {
        self.groups.iter().map(|(value, (count, _))| (value.clone(), *count)).collect()
    }

    /// Counts the values of a machine.
    fn group(&mut self, answer: &Answer<'_>) {
        let name = answer.name();
        for value in answer.values(&self.order.modules) {
            if !self.groups.contains_key(&value) {
                let has_room = self.groups.len() < RESULT_VALUES_MAX
                    && self.group_bytes.saturating_add(value.len()) <= RESULT_VALUES_BYTES_MAX;
                if !has_room {
                    self.is_full = true;
                    continue;
                }
                self.group_bytes += value.len();
                if self.tells_news {
                    self.out.note(&format!("{}  {}", safe(&name), safe(&value)));
                }
            }
            let (count, named) = self.groups.entry(value).or_default();
            *count += 1;
            if named.len() < NAMED_MAX {
                named.push(name.clone());
            }
        }
    }

    fn csv(&mut self, answer: &Answer<'_>) -> String {
        let mut text = String::new();
        if !std::mem::replace(&mut self.begun, true) {
            text.push_str(CSV_HEAD);
        }
        let found = answer.found().map(|found| found.to_string()).unwrap_or_default();
        let mark = answer.mark();
        for value in answer.values(&self.order.modules) {
            let row = answer.row;
            let fields = [row.agent.as_str(), answer.host(), &row.status, &found, &value, &mark];
            let shown = |field: &&str| cell(if self.out.terminal { safe(field) } else { (*field).to_owned() });
            text.push_str(&fields.iter().map(shown).collect::<Vec<_>>().join(","));
            text.push_str("\r\n");
        }
        text
    }
}

/// Returns a field of CSV. Text of machines is kept from being taken for a formula by a spreadsheet, which passes over what
/// is blank before one.
fn cell(text: String) -> String {
    let first = text.trim_start_matches(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}');
    let is_formula = first.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']) || text.starts_with(['\t', '\r']);
    let text = if is_formula { format!("'{text}") } else { text };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests;
