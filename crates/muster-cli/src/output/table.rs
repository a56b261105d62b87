//! Tables: rows under a head, as wide as the terminal.
//!
//! Stays true: a word (an id, an address, a fingerprint) is never broken over two lines as long as a line has room for it,
//! and a short text stays in one piece. Columns that find no place beside each other stand below their row, each with its
//! name.

use super::safe;
use std::fmt::Write as _;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr};

/// Characters of a cell that are shown.
pub(super) const CELL_CHARS_MAX: usize = 200;
/// What stands at the end of a cell that was cut.
const CUT: &str = " …";
/// Blanks between columns.
const GAP: usize = 2;
/// A text of so many columns stays in one piece, such as a time.
const WHOLE_MAX: usize = 24;
/// A word of so many columns stays in one piece: as long as the longest digest.
const WORD_MAX: usize = 64;
/// The least that a longer word gets.
const LONG_MIN: usize = 24;
/// Blanks before what stands below a row.
const INDENT: usize = 4;

/// Rows under a head.
#[derive(Debug, Default)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts a table.
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, as wide as the head.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.head.len(), "a row is as wide as the head");
        self.rows.push(cells.into());
    }

    /// Returns the table as it is written where no terminal is.
    #[cfg(test)]
    pub(crate) fn plain(&self) -> String {
        self.render(None, false)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether a text is longer than what is shown of it.
    pub(super) fn is_cut(&self) -> bool {
        self.rows.iter().flatten().any(|text| cut_at(&safe(text)).is_some())
    }

    /// Returns the lines of the table, for a terminal of `width` columns, or for anything that takes lines of any length.
    pub(super) fn render(&self, width: Option<usize>, is_bold: bool) -> String {
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(|text| shown(text)).collect()).collect();
        let plan = Plan::new(&self.head, &rows, width);
        let mut text = String::new();
        let beside = plan.widths.len();
        let head: Vec<_> = self.head[..beside].iter().map(|name| vec![(*name).to_owned()]).collect();
        plan.lines(&head, is_bold, &mut text);
        for row in &rows {
            let cells: Vec<_> = row.iter().zip(&plan.widths).map(|(cell, width)| wrapped(cell, *width)).collect();
            plan.lines(&cells, false, &mut text);
            below(&self.head[beside..], &row[beside..], width.unwrap_or(usize::MAX), &mut text);
        }
        text
    }
}

/// How wide each column is that stands beside the others; those behind them stand below.
struct Plan {
    widths: Vec<usize>,
}

impl Plan {
    fn new(head: &[&str], rows: &[Vec<String>], width: Option<usize>) -> Self {
        let widest = |at: usize, of: fn(&str) -> usize| {
            rows.iter().map(|row| of(&row[at])).chain([head[at].width()]).max().unwrap_or_default()
        };
        let natural: Vec<_> = (0..head.len()).map(|at| widest(at, UnicodeWidthStr::width)).collect();
        let gaps = |columns: usize| GAP * columns.saturating_sub(1);
        let Some(width) = width.filter(|width| natural.iter().sum::<usize>() + gaps(natural.len()) > *width) else {
            return Self { widths: natural };
        };
        let mut widths: Vec<_> = (0..head.len()).map(|at| widest(at, least)).collect();
        let fits = |columns: &usize| widths[..*columns].iter().sum::<usize>() + gaps(*columns) <= width;
        let beside = (1..=widths.len()).rev().find(fits).unwrap_or(1);
        widths.truncate(beside);
        // What is left goes round, to those that want more.
        let mut room = width.saturating_sub(widths.iter().sum::<usize>() + gaps(beside));
        while room > 0 && widths.iter().zip(&natural).any(|(have, want)| have < want) {
            for (have, want) in widths.iter_mut().zip(&natural) {
                if *have < *want && room > 0 {
                    *have += 1;
                    room -= 1;
                }
            }
        }
        widths[0] = widths[0].min(width);
        Self { widths }
    }

    /// Writes cells beside each other, each of one or more lines.
    fn lines(&self, cells: &[Vec<String>], is_bold: bool, out: &mut String) {
        let height = cells.iter().map(Vec::len).max().unwrap_or_default();
        for at in 0..height {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(&self.widths) {
                let text = cell.get(at).map_or("", String::as_str);
                let blanks = " ".repeat(width.saturating_sub(text.width()) + GAP);
                let _ = if is_bold && !text.is_empty() {
                    write!(line, "\u{1b}[1m{text}\u{1b}[0m{blanks}")
                } else {
                    write!(line, "{text}{blanks}")
                };
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
}

/// Writes what finds no place beside a row; what is empty is left out.
fn below(head: &[&str], cells: &[String], width: usize, out: &mut String) {
    let room = width.saturating_sub(INDENT).max(1);
    let mut line = String::new();
    let mut flush = |line: &mut String| {
        for part in wrapped(line, room).iter().filter(|part| !part.is_empty()) {
            let _ = writeln!(out, "{}{part}", " ".repeat(INDENT));
        }
        line.clear();
    };
    for (name, cell) in head.iter().zip(cells).filter(|(_, cell)| !matches!(cell.as_str(), "" | "-")) {
        let item = format!("{name} {cell}");
        if !line.is_empty() && line.width() + GAP + item.width() > room {
            flush(&mut line);
        }
        if !line.is_empty() {
            line.push_str("  ");
        }
        line.push_str(&item);
    }
    flush(&mut line);
}

/// The least width that a text can have.
fn least(text: &str) -> usize {
    let whole = text.width();
    if whole <= WHOLE_MAX {
        return whole;
    }
    let word = text.split(' ').map(UnicodeWidthStr::width).max().unwrap_or_default();
    if word > WORD_MAX { LONG_MIN } else { word }
}

/// Breaks a text at blanks into lines of `width`; a word that no line has room for is broken, too.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    if text.width() <= width {
        return vec![text.to_owned()];
    }
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in text.split(' ') {
        if !line.is_empty() && line.width() + 1 + word.width() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        for sign in word.chars() {
            if line.width() + sign.width().unwrap_or_default() > width && !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            line.push(sign);
        }
    }
    lines.push(line);
    lines
}

/// Breaks the lines of a text at blanks, so that none is wider than `width`; what follows is set in as far as its line.
pub(super) fn folded(text: &str, width: usize) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let (blanks, rest) = line.split_at(indent);
        let room = width.saturating_sub(indent).max(LONG_MIN);
        lines.extend(wrapped(rest, room).into_iter().map(|part| format!("{blanks}{part}")));
    }
    lines.join("\n")
}

/// Returns what a table shows of a text: its beginning, when it is long, so that it does not widen every row.
fn shown(text: &str) -> String {
    let mut text = safe(text);
    if let Some(end) = cut_at(&text) {
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}

fn cut_at(text: &str) -> Option<usize> {
    text.char_indices().nth(CELL_CHARS_MAX).map(|(end, _)| end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 80;

    fn agents(labels: &str, address: &str) -> Table {
        let mut table = Table::new(&["ID", "HOST", "STATE", "LABELS", "LAST CONTACT", "ADDRESS", "STREAM"]);
        for (id, host) in [("1122334455667788", "web-1"), ("aabbccddeeff0011", "database-2.berlin")] {
            let contact = "2026-01-02 03:04:05Z".to_owned();
            let cells = [id, host, "enrolled (cloned?)", labels].map(str::to_owned);
            let [id, host, state, labels] = cells;
            table.row([id, host, state, labels, contact, address.to_owned(), "yes".to_owned()]);
        }
        table
    }

    #[test]
    fn a_table_for_no_terminal_is_plain_text_in_columns() {
        let mut table = Table::new(&["ID", "HOST"]);
        table.row(["1122334455667788".into(), "alpha".into()]);
        table.row(["99".into(), "\u{1b}[31mred\nline".into()]);
        assert_eq!(
            table.render(None, false),
            "ID                HOST\n1122334455667788  alpha\n99                \\u{1b}[31mred\\nline\n"
        );
        assert!(
            table.render(Some(WIDTH), true).starts_with("\u{1b}[1mID\u{1b}[0m                \u{1b}[1mHOST\u{1b}[0m\n")
        );
    }

    #[test]
    fn a_long_text_does_not_widen_a_table_and_is_cut_before_its_end_only() {
        let mut table = Table::new(&["VALUE", "HOST"]);
        table.row(["ü".repeat(5000), "alpha".into()]);
        table.row(["x".repeat(CELL_CHARS_MAX), "beta".into()]);
        let rendered = table.render(None, false);
        let lines: Vec<_> = rendered.lines().collect();
        assert_eq!(lines[1], format!("{} …  alpha", "ü".repeat(CELL_CHARS_MAX)));
        assert_eq!(lines[2], format!("{}    beta", "x".repeat(CELL_CHARS_MAX)));
    }

    #[test]
    fn a_note_is_folded_at_blanks_and_keeps_its_words_and_its_indent() {
        let text = format!("one line\n  {}", "muster action cancel 12 ".repeat(10).trim_end());
        let folded = folded(&text, WIDTH);
        assert!(folded.lines().count() > 3 && folded.lines().all(|line| line.width() <= WIDTH), "{folded}");
        assert!(folded.lines().skip(1).all(|line| line.starts_with("  muster") || line.starts_with("  ")), "{folded}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&folded), words(&text));
    }

    #[test]
    fn a_table_fits_the_terminal_and_breaks_no_id() {
        for (labels, address) in [
            ("linux", "10.0.0.1:4433"),
            ("linux web berlin rack-7 production", "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535"),
            ("", ""),
        ] {
            let text = agents(labels, address).render(Some(WIDTH), false);
            for line in text.lines() {
                assert!(line.width() <= WIDTH, "{line:?}");
            }
            let words = ["1122334455667788", "aabbccddeeff0011", "database-2.berlin", "2026-01-02 03:04:05Z", address];
            for word in words.into_iter().chain(labels.split(' ')) {
                assert!(text.contains(word), "{word}:\n{text}");
            }
        }
    }

    #[test]
    fn columns_without_a_place_stand_below_with_their_names() {
        let text = agents("linux", "10.0.0.1:4433").render(Some(WIDTH), false);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "ID                HOST               STATE               LABELS");
        assert_eq!(lines[1], "1122334455667788  web-1              enrolled (cloned?)  linux");
        assert_eq!(lines[2], "    LAST CONTACT 2026-01-02 03:04:05Z  ADDRESS 10.0.0.1:4433  STREAM yes");
    }

    #[test]
    fn long_texts_are_wrapped_at_blanks_beside_digests_that_are_whole() {
        let digest = "ab".repeat(32);
        let mut table = Table::new(&["NAME", "SHA-256", "WHY"]);
        let why = "it was made in the future and nobody knows why that came about at all";
        table.row(["rules.bin".into(), digest.clone(), why.into()]);
        let text = table.render(Some(WIDTH), false);
        assert!(text.contains(&digest) && text.lines().all(|line| line.width() <= WIDTH), "{text}");
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefgh", 3), ["abc", "def", "gh"]);
    }
}
