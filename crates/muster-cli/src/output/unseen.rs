//! Characters that nobody sees where they stand, and names that cannot be taken for anything else.
//!
//! Stays true: a name of a machine is one word on one line, and holds neither a blank nor a bracket unless it is quoted.

use muster_core::text::{cut, steers};
use std::fmt::Write as _;
use unicode_width::UnicodeWidthChar as _;

/// Characters that are shown of a machine's name.
const NAME_SHOWN_CHARS_MAX: usize = 64;

/// Whether a character is not seen where it stands, or changes how its neighbours are: controls, marks that turn the
/// direction of writing, every blank but the plain one, fillers, joiners, selectors, tags, marks that are set onto the
/// character before them, and all else that has no width.
pub(crate) fn is_unseen(c: char) -> bool {
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

/// Returns a machine's name for people: as it is when it holds nothing but letters, digits, `.`, `-` and `_` of ASCII, else
/// in quotes, with its blanks shown and without its end when it is long. Quotes in it are escaped, so that nothing that
/// stands behind a name can be a part of it.
pub(crate) fn machine_name(name: &str) -> String {
    let name = cut(name.trim(), NAME_SHOWN_CHARS_MAX);
    if name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
        return name;
    }
    let mut quoted = String::from('"');
    for c in name.chars() {
        match c {
            ' ' => quoted.push('␣'),
            '"' | '\\' => _ = write!(quoted, "\\{c}"),
            c if is_unseen(c) => quoted.extend(c.escape_default()),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
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
    fn a_name_ends_where_it_seems_to_end() {
        assert_eq!(machine_name("web-1.example_2"), "web-1.example_2");
        assert_eq!(machine_name("web-1 (1122334455667788) x"), "\"web-1␣(1122334455667788)␣x\"");
        assert_eq!(machine_name("a\" (1122) \\"), r#""a\"␣(1122)␣\\""#);
        assert_eq!(machine_name("wеb-1"), "\"wеb-1\"", "one letter of it is Cyrillic");
        assert_eq!(machine_name("  web-1\u{200b} "), "\"web-1\\u{200b}\"");
        let padded = machine_name(&format!("web-1{}evil", " ".repeat(200)));
        assert!(padded.chars().count() <= NAME_SHOWN_CHARS_MAX + 2 && !padded.contains(' '), "{padded}");
        assert_eq!(machine_name(""), "");
    }
}
