//! How results are shown: tables for people, the API's own JSON for programs.
//!
//! Stays true: text that came from a machine cannot steer the terminal ([`safe`]); a reader that goes away ends the
//! command quietly; secrets are printed only by the commands that make them.

mod table;
mod unseen;

use crate::Failure;
use muster_core::Timestamp;
pub(crate) use muster_core::text::is_unseen;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal, Write};

pub use table::Table;
pub(crate) use unseen::{label_names, machine_name};

/// Where results go, and in which shape.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Whether results are JSON.
    pub json: bool,
    /// Whether a person looks at standard output.
    pub terminal: bool,
    /// Whether it may be emphasised.
    pub color: bool,
}

impl Output {
    /// Looks at the flags, the terminal and `NO_COLOR`.
    pub fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|kind| kind == "dumb");
        Self { json, terminal, color: terminal && !plain }
    }

    /// Writes a line, as it is.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Writes bytes, as they are.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Failure::reader_gone(),
            _ => Failure::local("could not write the result", "standard output", &error),
        })
    }

    /// Writes `value` as JSON.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::local("could not write the result", "JSON", &error))?;
        self.json_text(&text)
    }

    /// Writes the rows of a list that comes whole as a page: the shape of every list.
    pub fn items(&self, rows: &impl Serialize) -> Result<(), Failure> {
        self.json(&serde_json::json!({ "items": rows }))
    }

    /// Writes help that was asked for.
    pub fn help(&self, text: &str) -> Result<(), Failure> {
        if self.json { self.json(&serde_json::json!({ "help": text })) } else { self.bytes(text.as_bytes()) }
    }

    /// Writes JSON that is text already. On a terminal it says the same in signs that cannot steer it.
    pub fn json_text(&self, text: &str) -> Result<(), Failure> {
        if self.terminal { self.line(&safe_json(text)) } else { self.line(text) }
    }

    /// Writes bytes of somebody else: as they are, and on a terminal as text that cannot steer it.
    pub fn foreign(&self, bytes: &[u8]) -> Result<(), Failure> {
        if self.terminal { self.bytes(safe_lines(bytes).as_bytes()) } else { self.bytes(bytes) }
    }

    /// Writes a note for people to standard error; programs that asked for JSON are spared.
    pub fn note(&self, text: &str) {
        if !self.json {
            let text = match errors_width() {
                Some(width) => table::folded(text, width),
                None => text.to_owned(),
            };
            // A note that cannot be written is no reason to fail.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Writes a table; an empty one as `nothing`. Text that would push its neighbours out of sight is cut.
    pub fn table(&self, table: &Table, nothing: &str) -> Result<(), Failure> {
        if table.is_empty() {
            self.note(nothing);
            return Ok(());
        }
        self.bytes(table.render(self.width(), self.color).as_bytes())?;
        if table.is_cut() {
            self.note(&format!("Text of more than {} characters is cut; --json has it whole.", table::CELL_CHARS_MAX));
        }
        Ok(())
    }

    /// Returns how wide a table may be; nothing when nobody says so.
    fn width(self) -> Option<usize> {
        let width = comfy_table::Table::new().width().filter(|width| *width > 0);
        width.filter(|_| self.terminal).map(usize::from)
    }

    /// Writes names and values below each other; values that are empty are left out.
    pub fn pairs(&self, pairs: &[(&str, String)]) -> Result<(), Failure> {
        let shown = || pairs.iter().filter(|(_, value)| !value.is_empty());
        let width = shown().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in shown() {
            let _ = writeln!(text, "{}{}  {}", safe(name), " ".repeat(width - name.chars().count()), safe(value));
        }
        self.bytes(text.as_bytes())
    }
}

/// How wide the terminal is that notes are written to; nothing when they are not, or nobody says so.
fn errors_width() -> Option<usize> {
    let width = comfy_table::Table::new().width().filter(|width| *width > 0);
    width.filter(|_| std::io::stderr().is_terminal()).map(usize::from)
}

/// Returns JSON that means the same and holds nothing that [`is_unseen`]: in its texts such characters are escaped, and
/// between them only blanks and line ends are left.
pub(crate) fn safe_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => safe.push(c),
            // In a text JSON does not allow these, and between texts they are blanks.
            _ if c.is_ascii_control() && c != '\u{7f}' => safe.push(' '),
            _ if is_unseen(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(safe, "\\u{unit:04x}");
                }
            }
            _ => safe.push(c),
        }
    }
    safe
}

/// Returns text with its lines and tabs, and all else escaped that [`is_unseen`].
fn safe_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = |line: &str| line.split('\t').map(safe).collect::<Vec<_>>().join("\t");
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Returns `text` with everything escaped that could steer a terminal, change how its neighbours read, or is not seen:
/// control characters, marks that turn the direction of writing or are set onto the character before them, and whatever has
/// no width or is blank and no plain blank.
pub fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Returns a time of the API (RFC 3339) to the second, in UTC and marked so; what is no time is shown as it is.
pub fn time(text: &str) -> String {
    let Ok(moment) = text.parse::<Timestamp>() else { return text.to_owned() };
    let whole = Timestamp::from_secs(moment.to_parts().0).to_string();
    whole.replace('T', " ")
}

/// As [`time`], with a dash for an absent one.
pub fn time_or_dash(text: Option<&String>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| time(text))
}

/// Returns a number of bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut number = bytes as f64 / 1024.0;
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    format!("{number:.1} {}", UNITS[unit])
}

/// Returns the word for a truth.
pub fn yes(truth: bool) -> String {
    if truth { "yes" } else { "no" }.to_owned()
}

/// How results of machines are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Grouped by value, at the end
    Table,
    /// Each machine's as a line of JSON, as they arrive
    Jsonl,
    /// Each value of each machine as a line of CSV, as they arrive
    Csv,
}

/// Characters of a full bar.
const BAR_WIDTH: u64 = 24;

/// How many machines have answered, as a bar on a terminal's standard error; nowhere else.
#[derive(Debug)]
pub(crate) struct Bar {
    on: bool,
    shown: bool,
}

impl Bar {
    /// Starts one; programs that asked for JSON are spared.
    pub(crate) fn new(json: bool) -> Self {
        Self { on: !json && std::io::stderr().is_terminal(), shown: false }
    }

    /// Draws it.
    pub(crate) fn show(&mut self, done: u64, of: u64, what: &str) {
        if self.on {
            self.shown = true;
            let _ = write!(std::io::stderr(), "\r{} {}\u{1b}[K", bar(done, of), safe(what));
        }
    }

    /// Takes it away, so that a line can be written.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr(), "\r\u{1b}[K");
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(done: u64, of: u64) -> String {
    let full = done.min(of).saturating_mul(BAR_WIDTH).checked_div(of).unwrap_or(0);
    let signs = |sign: &str, count: u64| sign.repeat(usize::try_from(count).unwrap_or(0));
    format!("[{}{}] {done} of {of}", signs("#", full), signs("-", BAR_WIDTH - full))
}

/// How far a transfer has come, on a terminal's standard error; nowhere else.
#[derive(Debug)]
pub struct Progress {
    name: String,
    total: Option<u64>,
    done: u64,
    shown: u64,
    on: bool,
}

/// Bytes between two pictures of a progress.
const PROGRESS_STEP: u64 = 1024 * 1024;

impl Progress {
    /// Starts one for `name`, of `total` bytes if that is known.
    pub fn new(name: &str, total: Option<u64>, json: bool) -> Self {
        let on = !json && std::io::stderr().is_terminal();
        Self { name: safe(name), total, done: 0, shown: 0, on }
    }

    /// Adds bytes that went through.
    pub fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        if self.on && self.done - self.shown >= PROGRESS_STEP {
            self.shown = self.done;
            let of = self.total.map(|total| format!(" of {}", size(total))).unwrap_or_default();
            let _ = write!(std::io::stderr(), "\r{}  {}{of}\u{1b}[K", self.name, size(self.done));
        }
    }

    /// Bytes so far.
    pub fn done(&self) -> u64 {
        self.done
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.on && self.shown > 0 {
            let _ = write!(std::io::stderr(), "\r\u{1b}[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_escaped_and_all_else_left() {
        assert_eq!(safe("Über\u{202e}fdp.exe\u{9b}2J"), "Über\\u{202e}fdp.exe\\u{9b}2J");
        assert_eq!(
            safe("a\u{200b}b\u{ad}c\u{301}\u{e0041} \u{a0}漢é"),
            "a\\u{200b}b\\u{ad}c\\u{301}\\u{e0041} \\u{a0}漢é"
        );
    }

    #[test]
    fn json_on_a_terminal_means_the_same_and_steers_nothing() {
        let value = serde_json::json!({ "a\u{7f}": "\u{202e}x\u{9b}2J\u{1b}[0m\u{2067}ü\u{e0041}\u{200b}e\u{301}", "b": [1, "\r\t"] });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap(), format!("{value}\r")] {
            let safe = safe_json(&text);
            assert!(!safe.chars().any(|c| is_unseen(c) && c != '\n'), "{safe:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }
    }

    #[test]
    fn bytes_of_others_keep_their_lines_and_lose_their_power() {
        assert_eq!(safe_lines(b"a\tb\n\x1b[2J\xff\n"), "a\tb\n\\u{1b}[2J\u{fffd}\n");
    }

    #[test]
    fn times_are_utc_and_say_so() {
        assert_eq!(time("2026-01-02T03:04:05.000000006Z"), "2026-01-02 03:04:05Z");
        assert_eq!(time("2026-01-02T05:04:05+02:00"), "2026-01-02 03:04:05Z");
        assert_eq!(time("never"), "never");
    }

    #[test]
    fn a_bar_is_as_full_as_what_is_done() {
        assert_eq!(bar(0, 0), format!("[{}] 0 of 0", "-".repeat(24)));
        assert_eq!(bar(5, 10), format!("[{}{}] 5 of 10", "#".repeat(12), "-".repeat(12)));
        assert_eq!(bar(11, 10), format!("[{}] 11 of 10", "#".repeat(24)));
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([size(0), size(1023), size(1536), size(u64::MAX)], ["0 B", "1023 B", "1.5 KiB", "16384.0 PiB"]);
    }
}
