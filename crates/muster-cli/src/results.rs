//! Answers of machines: read as they come, and printed grouped by value, as JSON lines or as CSV.
//!
//! Stays true: an answer is taken once, however often it is read; memory holds what is printed at the end, and the
//! numbers of answers that were taken.

use crate::output::{Format, Table, safe};
use crate::proof::{self, Proof};
use crate::{Context, Exit, Failure, Output};
use futures_util::StreamExt as _;
use muster_api::actions::{CommandRow, ResultQuery};
use muster_modules::{Lines, ModuleResult, registry};
use serde::Deserialize as _;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;

/// Machines that are named for one value.
const NAMED_MAX: usize = 5;
/// Bytes of one line of results; an action's results are bounded by the server below this.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The first line of CSV.
const CSV_HEAD: &str = "agent,hostname,status,found,value\r\n";

/// Which answers were taken already.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    taken: BTreeSet<i64>,
}

impl Answers {
    /// Reads all answers, and hands those that are new to `sink`.
    pub(crate) async fn read(
        &mut self,
        context: &Context,
        what: &str,
        id: i64,
        query: &ResultQuery,
        sink: &mut Sink,
    ) -> Result<(), Failure> {
        let answer = context.api.lines(what, &["actions", &id.to_string(), "results"], query).await?;
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
        // What a machine found stays the text that it signed, and may be nested as it likes.
        let row: CommandRow = serde_json::from_slice(line).map_err(|error| {
            Failure::new(Exit::Failed, what, format!("a line of results cannot be read: {error}")).on(context.api.url())
        })?;
        if self.taken.insert(row.id) { sink.take(&row, &String::from_utf8_lossy(line)) } else { Ok(()) }
    }
}

/// Where answers go.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    out: Output,
    format: Format,
    /// The modules of the operations, in their order.
    modules: Vec<String>,
    /// Of every value, the machines that gave it: how many, and some of them.
    groups: BTreeMap<String, (u64, Vec<String>)>,
    begun: bool,
    /// Whether a value that nobody gave before is told at once.
    tells_news: bool,
    /// The SHA-256 of what people signed, under which machines sign their results; without it nothing is checked.
    order: Option<[u8; 32]>,
    /// Whether every result must be signed.
    is_strict: bool,
    /// The machines whose signed results were taken: each answers an order once.
    proven: BTreeSet<String>,
    /// Results that are not their machine's, and results that no machine signed.
    broken: u64,
    unsigned: u64,
}

impl Sink {
    pub(crate) fn new(out: Output, format: Format, modules: Vec<String>) -> Self {
        Self {
            out,
            format,
            modules,
            groups: BTreeMap::new(),
            begun: false,
            tells_news: false,
            order: None,
            is_strict: false,
            proven: BTreeSet::new(),
            broken: 0,
            unsigned: 0,
        }
    }

    /// Checks that results of the order with this digest are signed by their machines; `is_strict`: all of them.
    pub(crate) fn checked(self, order: [u8; 32], is_strict: bool) -> Self {
        Self { order: Some(order), is_strict, ..self }
    }

    /// Tells new values at once from now on, if somebody looks, or no longer.
    pub(crate) fn tell_news(&mut self, tell: bool) {
        self.tells_news = tell && std::io::stderr().is_terminal();
    }

    /// Takes the answer of one machine, which stands in `line` as the API gave it.
    pub(crate) fn take(&mut self, row: &CommandRow, line: &str) -> Result<(), Failure> {
        match self.order.map(|order| proof::check(row, &order)) {
            Some(Proof::Broken(why)) => {
                self.leave_out(row, why);
                return Ok(());
            }
            Some(Proof::Holds) if !self.proven.insert(row.agent.clone()) => {
                self.leave_out(row, "its machine has answered before");
                return Ok(());
            }
            Some(Proof::Copy(why)) => {
                let note =
                    format!("{}: the machine refused a copy of the order, which proves nothing: {why}", name_of(row));
                self.out.note(&safe(&note));
                self.unsigned += 1;
                if self.is_strict {
                    return Ok(());
                }
            }
            Some(Proof::None) if is_of_machine(row) => {
                self.unsigned += 1;
                if self.is_strict {
                    return Ok(());
                }
            }
            _ => {}
        }
        match self.format {
            Format::Jsonl => self.out.json_text(line.trim_end()),
            Format::Csv => {
                let text = self.csv(row);
                self.out.bytes(text.as_bytes())
            }
            Format::Table => {
                self.group(row);
                Ok(())
            }
        }
    }

    fn leave_out(&mut self, row: &CommandRow, why: &str) {
        self.broken += 1;
        self.out.note(&safe(&format!("{}: the result is left out, {why}", name_of(row))));
    }

    /// Prints what is printed at the end. An error: there were results that are not their machine's.
    pub(crate) fn end(self) -> Result<(), Failure> {
        self.print_end()?;
        let unsigned = if self.is_strict { self.unsigned } else { 0 };
        let why = match (self.broken, unsigned) {
            (0, 0) => return Ok(()),
            (0, unsigned) => {
                let why = format!("{unsigned} results are signed by no machine, and were left out");
                let next = "an agent that is too old to sign, or somebody on the way, leaves the signature out: --unproven \
                            prints them all the same";
                return Err(Failure::new(Exit::Failed, "not all results are proven", why).next(next));
            }
            (broken, 0) => format!("{broken} results are not signed by their machines as they are, and were left out"),
            (broken, unsigned) => format!(
                "{broken} results are not signed by their machines as they are, {unsigned} are signed by no machine: they \
                 were left out"
            ),
        };
        let next = "trust neither server nor database until you know why; `muster-agent status` on a machine tells what \
                    ran there";
        Err(Failure::new(Exit::Failed, "results were changed on their way", why).next(next))
    }

    fn print_end(&self) -> Result<(), Failure> {
        match self.format {
            Format::Table => {}
            Format::Csv if !self.begun => return self.out.bytes(CSV_HEAD.as_bytes()),
            Format::Csv | Format::Jsonl => return Ok(()),
        }
        let mut table = Table::new(&["MACHINES", "VALUE", "SUCH AS"]);
        for (value, (count, named)) in self.sorted() {
            let more = if count > named.len() as u64 { " …" } else { "" };
            table.row([count.to_string(), value.clone(), format!("{}{more}", named.join(" "))]);
        }
        self.out.table(&table, "No results.")
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
    fn group(&mut self, row: &CommandRow) {
        let name = name_of(row);
        for value in values(row, &self.modules) {
            let (count, named) = self.groups.entry(value.clone()).or_default();
            *count += 1;
            if named.len() < NAMED_MAX {
                named.push(name.clone());
            }
            if *count == 1 && self.tells_news {
                self.out.note(&format!("{}  {}", safe(&name), safe(&value)));
            }
        }
    }

    fn csv(&mut self, row: &CommandRow) -> String {
        let mut text = String::new();
        if !std::mem::replace(&mut self.begun, true) {
            text.push_str(CSV_HEAD);
        }
        let found = found(row).map(|found| found.to_string()).unwrap_or_default();
        for value in values(row, &self.modules) {
            let host = row.hostname.clone().unwrap_or_default();
            let fields = [row.agent.as_str(), &host, &row.status, &found, &value];
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

/// Returns how the machine of a row is shown: by its id, which its signature proves, and by the name that the server has
/// of it.
pub(crate) fn name_of(row: &CommandRow) -> String {
    match row.hostname.as_deref() {
        Some(name) if !name.is_empty() => format!("{name} ({})", row.agent),
        _ => row.agent.clone(),
    }
}

/// Whether a row claims to be a machine's word. That a machine has not answered is the server's.
fn is_of_machine(row: &CommandRow) -> bool {
    row.results.is_some() || !matches!(row.status.as_str(), "sent" | "expired" | "cancelled")
}

/// Whether something was found: by the results, which the machine signed, and not by what the server says of them.
fn found(row: &CommandRow) -> Option<bool> {
    #[derive(serde::Deserialize)]
    struct Finding {
        #[serde(default)]
        foundanything: bool,
    }
    let results: Vec<Finding> = serde_json::from_str(row.results.as_ref()?.get()).ok()?;
    Some(results.iter().any(|finding| finding.foundanything))
}

/// Returns what a machine answered, one text for each thing it found, each once.
fn values(row: &CommandRow, modules: &[String]) -> BTreeSet<String> {
    let mut values = BTreeSet::new();
    if row.status != "success" {
        values.insert(format!("({})", row.status));
    }
    let results = row.results.as_ref().map(|text| serde_json::from_str::<Vec<serde_json::Value>>(text.get()));
    let results = results.transpose().unwrap_or_else(|error| {
        values.insert(format!("(unreadable: {error})"));
        None
    });
    for (at, result) in results.iter().flatten().enumerate() {
        let Ok(read) = ModuleResult::deserialize(result) else {
            values.insert(result.to_string());
            continue;
        };
        values.extend(read.errors().iter().map(|error| format!("(error) {error}")));
        let module = modules.get(at).and_then(|module| registry::find(module));
        match module {
            Some(module) => values.extend(module.lines(&read, Lines::Found)),
            None if read.foundanything => _ = values.insert(read.elements.to_string()),
            None => {}
        }
    }
    if values.is_empty() {
        values.insert("(nothing found)".to_owned());
    }
    values
}

#[cfg(test)]
mod tests;
