//! What text from outside may hold, the same for both databases: no NUL, and bounded.

use crate::limits;
use unicode_width::UnicodeWidthChar as _;

/// Why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing stands where a name must.
    #[error("{what} must not be empty")]
    Empty {
        /// What the text is for.
        what: &'static str,
    },
    /// The text is longer than its ceiling.
    #[error("{what} must be at most {max} bytes, this one has {have}")]
    TooLong {
        /// What the text is for.
        what: &'static str,
        /// Bytes allowed.
        max: usize,
        /// Bytes found.
        have: usize,
    },
    /// A zero byte, which PostgreSQL cannot store and SQLite would.
    #[error("{what} must not hold a zero byte")]
    Nul {
        /// What the text is for.
        what: &'static str,
    },
    /// A control character such as a line break, in a name that ends up in headers and logs.
    #[error("{what} must not hold control characters")]
    Control {
        /// What the text is for.
        what: &'static str,
    },
    /// A character that turns the direction of writing, so that people read another name than programs do.
    #[error("{what} must not hold characters that turn the direction of writing, such as U+{:04X}", u32::from(*.found))]
    Direction {
        /// What the text is for.
        what: &'static str,
        /// The first of them.
        found: char,
    },
    /// Something else than letters and digits of ASCII, `_`, `-` and `.`.
    #[error("{what} holds letters, digits, '_', '-' and '.', not {letter:?}")]
    Letter {
        /// What the text is for.
        what: &'static str,
        /// What it holds.
        letter: char,
    },
}

/// Returns whether a character turns the direction of writing or begins a line unseen (Unicode's bidirectional controls
/// and its separators of lines and paragraphs): what people see around it need not be what is there.
pub fn turns_writing(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns whether a character could steer a terminal or change how its neighbours read.
pub fn steers(c: char) -> bool {
    c.is_control() || turns_writing(c)
}

/// Accepts a text that people read as it is: without characters that turn the direction of writing.
pub fn direction(what: &'static str, text: &str) -> Result<(), TextError> {
    text.chars().find(|c| turns_writing(*c)).map_or(Ok(()), |found| Err(TextError::Direction { what, found }))
}

/// Accepts free text of at most `max` bytes without a zero byte.
pub fn free(what: &'static str, text: &str, max: usize) -> Result<(), TextError> {
    if text.len() > max {
        return Err(TextError::TooLong { what, max, have: text.len() });
    }
    if text.contains('\0') {
        return Err(TextError::Nul { what });
    }
    Ok(())
}

/// Accepts a name: not empty, at most [`limits::NAME_BYTES_MAX`] bytes, no control characters, none that turn the
/// direction of writing.
pub fn name(what: &'static str, text: &str) -> Result<(), TextError> {
    bounded_name(what, text, limits::NAME_BYTES_MAX)
}

/// Accepts a file's name: not empty, at most [`limits::FILE_NAME_BYTES_MAX`] bytes, no control characters. Slashes and
/// dots are plain characters here: a file is a row, its name never becomes a path.
pub fn file_name(text: &str) -> Result<(), TextError> {
    bounded_name("file name", text, limits::FILE_NAME_BYTES_MAX)
}

/// Accepts the name of a fleet: letters and digits of ASCII, `_`, `-` and `.`, at most [`limits::FLEET_BYTES_MAX`] bytes. It
/// is signed with what administrators and investigators sign, so it can be written in one way only.
pub fn fleet(text: &str) -> Result<(), TextError> {
    bounded_name("fleet", text, limits::FLEET_BYTES_MAX)?;
    let strange = text.chars().find(|letter| !(letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.')));
    strange.map_or(Ok(()), |letter| Err(TextError::Letter { what: "fleet", letter }))
}

fn bounded_name(what: &'static str, text: &str, max: usize) -> Result<(), TextError> {
    if text.is_empty() {
        return Err(TextError::Empty { what });
    }
    free(what, text, max)?;
    if text.chars().any(char::is_control) {
        return Err(TextError::Control { what });
    }
    direction(what, text)
}

/// Returns the first `max` characters of `text`; when it was longer, the last three of them are dots.
pub fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(3)).chain("...".chars()).collect()
}

/// Returns `text` without zero bytes, for text that nobody can be asked to write again (an error's message).
pub fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

/// Whether a character is not seen where it stands, or changes how its neighbours are: controls, marks that turn the
/// direction of writing, every blank but the plain one, fillers, joiners, selectors, tags, marks that are set onto the
/// character before them, and all else that has no width. Every program shows such characters in another form: they would
/// steer what shows them, or deceive whoever reads it.
pub fn is_unseen(c: char) -> bool {
    steers(c) || (c.is_whitespace() && c != ' ') || c.width().unwrap_or(0) == 0 || is_ignorable(c)
}

/// Unicode's formats (Cf) and what may be left out on a screen (`Default_Ignorable_Code_Point`), with the two blanks that
/// are not called so.
fn is_ignorable(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{16fe4}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d159}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Returns `text` for a terminal: what [`is_unseen`] is replaced; line ends stay.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && is_unseen(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Returns JSON with every character that [`is_unseen`] written as an escape, so that the same value can be shown on a terminal.
/// A writer of JSON escapes only the first 32 control characters. Line ends and blanks between values stay.
pub fn json_escaped(json: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if matches!(c, '\n' | '\t' | '\r') || !is_unseen(c) {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut units) {
            // Writing into a string cannot fail.
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped
}

/// The levels that a log may have.
const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Accepts what says how much is logged: a level, or directives such as `info,muster_agent=debug`. A word that is no
/// level would be taken for the name of a part of the program, and silence all others. The error says what to write.
pub fn log_level(text: &str) -> Result<(), String> {
    let is_level = |word: &str| LOG_LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
    if text.trim().is_empty() {
        return Err(format!("no level is given; write one of {}", LOG_LEVELS.join(", ")));
    }
    for directive in text.split(',').map(str::trim) {
        // A directive for spans, in brackets, always has a level behind its last equals sign, too.
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level.trim());
        if !is_level(level) {
            return Err(format!(
                "{:?} is not a level; write one of {}, or directives such as info,muster_agent=debug",
                cut(level, 60),
                LOG_LEVELS.join(", ")
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_known_and_all_else_is_left() {
        for range in [
            '\u{0}'..='\u{1f}',
            '\u{7f}'..='\u{a0}',
            '\u{ad}'..='\u{ad}',
            '\u{300}'..='\u{36f}',
            '\u{600}'..='\u{605}',
            '\u{61c}'..='\u{61c}',
            '\u{115f}'..='\u{1160}',
            '\u{17b4}'..='\u{17b5}',
            '\u{180b}'..='\u{180f}',
            '\u{2000}'..='\u{200f}',
            '\u{2028}'..='\u{202f}',
            '\u{205f}'..='\u{206f}',
            '\u{20d0}'..='\u{20f0}',
            '\u{2800}'..='\u{2800}',
            '\u{3000}'..='\u{3000}',
            '\u{3164}'..='\u{3164}',
            '\u{fe00}'..='\u{fe0f}',
            '\u{feff}'..='\u{feff}',
            '\u{ffa0}'..='\u{ffa0}',
            '\u{fff0}'..='\u{fffb}',
            '\u{1bca0}'..='\u{1bca3}',
            '\u{1d173}'..='\u{1d17a}',
            '\u{e0000}'..='\u{e0fff}',
        ] {
            for c in range {
                assert!(is_unseen(c), "U+{:04X}", u32::from(c));
            }
        }
        for c in " ~aéÜßשלוםعربيдкΩ漢字かなカ한글€→🦀\u{fffd}".chars() {
            assert!(!is_unseen(c), "U+{:04X}", u32::from(c));
        }
    }

    #[test]
    fn json_for_a_terminal_is_the_same_value_without_anything_that_steers() {
        let json = json_escaped("[\n\t\"a\u{7f}b\u{9b}31mc\u{202e}d\u{2066}e\u{e0041}f\u{feff}\u{1b}é\"]");
        assert!(!json.chars().any(|c| c != '\n' && c != '\t' && is_unseen(c)), "{json:?}");
        assert_eq!(json_escaped("\"\u{9b}\u{e0041}é\""), "\"\\u009b\\udb40\\udc41é\"");
        assert_eq!(plain("a\u{7f}\u{9b}\u{202e}\nb"), "a\u{fffd}\u{fffd}\u{fffd}\nb");
        assert_eq!(plain("a\u{34f}\u{3164}\u{2800}\u{fe0f}b"), "a\u{fffd}\u{fffd}\u{fffd}\u{fffd}b");
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for good in ["info", "WARN", "off", "info,muster_agent=debug", "muster=trace", "warn, [span{a=1}]=debug"] {
            assert_eq!(log_level(good), Ok(()), "{good}");
        }
        for bad in ["warning", "loud", "", "info,loud", "muster=loud", "info,,debug", "muster_agent", "5"] {
            assert!(log_level(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_bounded_and_free_of_control_characters() {
        assert_eq!(name("x", "Über café"), Ok(()));
        assert_eq!(name("x", ""), Err(TextError::Empty { what: "x" }));
        assert_eq!(name("x", "a\0"), Err(TextError::Nul { what: "x" }));
        assert_eq!(name("x", "a\r\nSet-Cookie: b"), Err(TextError::Control { what: "x" }));
        // What a column of 128 characters of the original holds, and no more.
        assert_eq!(name("x", &"\u{1F980}".repeat(128)), Ok(()));
        assert!(matches!(name("x", &"a".repeat(513)), Err(TextError::TooLong { have: 513, .. })));
    }

    #[test]
    fn names_read_as_they_are_written() {
        for c in
            "\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{200e}\u{200f}\u{61c}\u{2028}"
                .chars()
        {
            let refused = name("x", &format!("photo{c}gnp.exe")).unwrap_err();
            assert_eq!(refused, TextError::Direction { what: "x", found: c });
            assert!(refused.to_string().contains(&format!("U+{:04X}", u32::from(c))), "{refused}");
        }
        // Letters that are written from right to left are letters like others.
        assert_eq!(name("x", "שלום"), Ok(()));
        assert_eq!(name("x", "می\u{200c}خواهم"), Ok(()));
    }

    #[test]
    fn a_fleet_can_be_written_in_one_way() {
        assert_eq!(fleet("lab-1_b.example"), Ok(()));
        assert_eq!(fleet(&"a".repeat(64)), Ok(()));
        assert!(matches!(fleet(&"a".repeat(65)), Err(TextError::TooLong { have: 65, .. })));
        assert_eq!(fleet(""), Err(TextError::Empty { what: "fleet" }));
        for (text, letter) in [("a b", ' '), ("é", 'é'), ("a/b", '/')] {
            assert_eq!(fleet(text), Err(TextError::Letter { what: "fleet", letter }), "{text}");
        }
    }

    #[test]
    fn a_long_reason_ends_in_dots() {
        let reason = cut(&"é".repeat(901), 900);
        assert_eq!(reason.chars().count(), 900);
        assert!(reason.ends_with("é..."));
        assert_eq!(cut("short", 900), "short");
    }
}
