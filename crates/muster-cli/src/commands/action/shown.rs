//! What a person is shown of an action before signing it: the text that the signature covers, unpacked, whole.
//!
//! Stays true: everything shown comes from the canonical text, never from what somebody wrote around it; nothing of it is
//! cut unless the person is told so; no character of it can steer the terminal, hide or turn its neighbours.

use super::file::sha256;
use crate::output::{is_unseen, time};
use muster_core::action::{Action, Operation};
use muster_modules::{Effect, registry};
use muster_trust::go_json;
use serde_json::Value;
use std::fmt::Write as _;

/// Bytes of an action that a person can be expected to read.
const SHOWN_BYTES_MAX: usize = 256 * 1024;
/// Blanks in a row that are shown as they are. Longer rows push what follows them out of sight.
const BLANKS_MAX: usize = 8;

/// What is shown of an action.
#[derive(Debug)]
pub(crate) struct Shown {
    /// What is shown, in lines.
    pub(crate) text: String,
    /// SHA-256 of what the signature covers.
    pub(crate) digest: String,
    /// Why it is not shown whole; `None` when it is.
    pub(crate) unseen: Option<String>,
    /// Whether it may change machines, as far as this program knows: a module that is unknown here may do anything.
    pub(crate) changes: bool,
}

impl Shown {
    /// Returns what is shown of `action`, of which signatures cover `signed`.
    pub(crate) fn of(action: &Action, signed: &str) -> Self {
        let mut shown = Self {
            text: String::new(),
            digest: sha256(signed),
            unseen: None,
            changes: action.operations.iter().any(|operation| !effect(&operation.module).is_empty()),
        };
        // Signatures cover whole seconds, so that these are what is signed.
        let moment = |at: muster_core::Timestamp| time(&at.to_string());
        shown.pair("Name", &action.name);
        shown.pair("Target", &action.target);
        shown.pair("Valid from", &moment(action.valid_from));
        shown.pair("Expires", &moment(action.expire_after));
        for operation in &action.operations {
            shown.operation(operation);
        }
        shown.bound();
        let digest = shown.digest.clone();
        shown.pair("SHA-256", &digest);
        shown
    }

    fn pair(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.text, "{name:<12}{}", plain(value));
    }

    fn operation(&mut self, operation: &Operation) {
        let (value, is_packed) = match unpacked(operation) {
            Ok(value) => value,
            Err(why) => {
                self.unseen.get_or_insert(format!("the parameters of module {} {why}", operation.module));
                (Value::String(operation.parameters.as_str().to_owned()), true)
            }
        };
        let packed = if is_packed { "  [packed]" } else { "" };
        self.pair("Runs", &format!("{}{}{packed}", operation.module, effect(&operation.module)));
        let text = serde_json::to_string_pretty(&value).expect("what was read as JSON can be written");
        for line in text.lines() {
            let indent = line.len() - line.trim_start().len();
            let _ = writeln!(self.text, "            {}{}", &line[..indent], plain(&line[indent..]));
        }
    }

    /// Cuts what nobody could read, and says so.
    fn bound(&mut self) {
        let bytes = self.text.len();
        if bytes <= SHOWN_BYTES_MAX {
            return;
        }
        let end = (0..=SHOWN_BYTES_MAX).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0);
        self.text.truncate(end);
        let _ = writeln!(self.text, "\n… {} more bytes", bytes - end);
        self.unseen.get_or_insert(format!("it has {bytes} bytes, of which the first {end} are shown"));
    }
}

/// Returns the parameters as they are signed, unpacked when they are packed, and whether they were.
fn unpacked(operation: &Operation) -> Result<(Value, bool), String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("cannot be read: {error}");
    let canonical = go_json(operation.parameters.as_str()).map_err(|error| unreadable(&error))?;
    let value: Value = serde_json::from_str(&canonical).map_err(|error| unreadable(&error))?;
    if !operation.is_compressed {
        return Ok((value, false));
    }
    let no = |error: &dyn std::fmt::Display| format!("cannot be unpacked: {error}");
    let text = value.as_str().ok_or_else(|| no(&"they are no text"))?;
    muster_modules::message::unpacked(text).map(|value| (value, true)).map_err(|muster_modules::Refused(why)| no(&why))
}

/// Says that a module changes machines, or may: nothing for one that only looks. Of one that is unknown here, nobody can say that it changes nothing.
fn effect(module: &str) -> &'static str {
    match registry::find(module) {
        Some(module) if module.info().effect == Effect::Changes => "  [changes the machine]",
        Some(_) => "",
        None => "  [unknown here: it may change the machine]",
    }
}

/// Returns a text with everything escaped that is not seen or not seen where it stands, and with long rows of blanks
/// counted.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut blanks = 0;
    for c in text.chars().map(Some).chain([None]) {
        if c == Some(' ') {
            blanks += 1;
            continue;
        }
        if blanks > BLANKS_MAX {
            let _ = write!(plain, "[{blanks} blanks]");
        } else {
            plain.extend(std::iter::repeat_n(' ', blanks));
        }
        blanks = 0;
        match c {
            Some(c) if is_unseen(c) => plain.extend(c.escape_unicode()),
            Some(c) => plain.push(c),
            None => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_trust::signed_text;

    fn action(operations: &str) -> Action {
        let json = format!(
            r#"{{"name": "q", "target": "os='linux'", "validfrom": "2026-01-02T03:04:05Z",
                "expireafter": "2026-01-02T04:04:05Z", "operations": {operations}, "syntaxversion": 2}}"#
        );
        Action::parse(json.as_bytes()).unwrap()
    }

    fn shown(operations: &str) -> Shown {
        let action = action(operations);
        Shown::of(&action, &signed_text(&action).unwrap())
    }

    #[test]
    fn blanks_around_and_within_hide_nothing() {
        let blanks = " ".repeat(5000);
        let shown = shown(&format!(
            r#"[{{"module": "file", "parameters": {{"searches": {{"a": {{"paths": ["/etc{blanks}/x"]}},{blanks}
                "b": {{"contents": ["PRIVATE KEY"]}}}}}}}}]"#
        ));
        assert!(shown.text.contains("PRIVATE KEY") && shown.text.len() < 1500, "{}", shown.text);
        assert!(shown.text.contains("/etc[5000 blanks]/x"), "{}", shown.text);
        assert!(shown.unseen.is_none() && !shown.text.contains("changes the machine"));
    }

    #[test]
    fn packed_parameters_are_unpacked_and_what_cannot_be_is_unseen() {
        let secret = muster_modules::message::packed(r#"{"searches": {"b": {"paths": ["/root"]}}}"#);
        let good = shown(&format!(r#"[{{"module": "file", "is_compressed": true, "parameters": "{secret}"}}]"#));
        assert!(good.text.contains("/root") && good.unseen.is_none(), "{}", good.text);
        for bad in ["\"AAAA\"", "{}", "\"%\""] {
            let bad = shown(&format!(r#"[{{"module": "file", "is_compressed": true, "parameters": {bad}}}]"#));
            assert!(bad.unseen.unwrap().contains("cannot be unpacked"));
        }
    }

    #[test]
    fn an_unknown_module_may_change_the_machine() {
        let unknown = shown(r#"[{"module": "timedrift"}, {"module": "their-own"}]"#);
        assert!(unknown.changes && !shown(r#"[{"module": "timedrift"}]"#).changes);
        assert!(unknown.text.contains("their-own  [unknown here: it may change the machine]"), "{}", unknown.text);
        assert!(unknown.text.contains("timedrift\n"), "{}", unknown.text);
        let ends = shown(r#"[{"module": "agentdestroy"}]"#);
        assert!(ends.text.contains("agentdestroy  [changes the machine]"), "{}", ends.text);
    }

    #[test]
    fn what_is_too_long_to_be_read_is_said_to_be_unseen() {
        let long = "x".repeat(SHOWN_BYTES_MAX);
        let shown = shown(&format!(r#"[{{"module": "scribe", "parameters": "{long}"}}]"#));
        assert!(shown.unseen.unwrap().contains("bytes") && shown.text.len() < SHOWN_BYTES_MAX + 1000);
    }

    #[test]
    fn nothing_unseen_is_left_in_what_is_shown() {
        for c in [
            '\u{61c}',
            '\u{1bca0}',
            '\u{1d173}',
            '\u{fff0}',
            '\u{301}',
            '\u{20dd}',
            '\u{600}',
            '\u{16fe4}',
            '\u{e0fff}',
        ] {
            let text = plain(&format!("a{c}b"));
            assert!(text.starts_with("a\\u{"), "{text}");
        }
        for c in ['\u{202e}', '\u{200b}', '\u{a0}', '\u{e0041}', '\u{1b}', '\u{9b}', '\u{2800}', '\u{3000}', '\t'] {
            let text = plain(&format!("a{c}b"));
            assert!(text.starts_with("a\\u{"), "{text}");
        }
        assert_eq!(plain("a  b שלום 漢字 é"), "a  b שלום 漢字 é");
    }
}
