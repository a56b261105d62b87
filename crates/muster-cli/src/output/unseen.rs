//! Names that cannot be taken for anything else.
//!
//! Stays true: a name of a machine is one word on one line, and holds neither a blank nor a bracket unless it is quoted; so is a
//! label.

use muster_core::text::{cut, is_unseen};
use std::fmt::Write as _;

/// Characters that are shown of a machine's name.
const NAME_SHOWN_CHARS_MAX: usize = 64;

/// Returns a machine's name for people: as it is when it holds nothing but letters, digits, `.`, `-` and `_` of ASCII, else
/// in quotes, with its blanks shown and without its end when it is long. Quotes in it are escaped, so that nothing that
/// stands behind a name can be a part of it.
pub(crate) fn machine_name(name: &str) -> String {
    let name = cut(name.trim(), NAME_SHOWN_CHARS_MAX);
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if is_plain { name } else { quoted(&name) }
}

/// Returns labels for people, with a blank between them: each as it is when it holds nothing but letters, digits and
/// `.-_:/@+=` of ASCII, else in quotes and whole.
pub(crate) fn label_names<'a>(labels: impl IntoIterator<Item = &'a String>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_:/@+=".contains(c);
    let shown = |label: &String| {
        if !label.is_empty() && label.chars().all(is_plain) { label.clone() } else { quoted(label) }
    };
    labels.into_iter().map(shown).collect::<Vec<_>>().join(" ")
}

/// Returns a name in quotes, with its blanks shown and its quotes escaped.
fn quoted(name: &str) -> String {
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

    #[test]
    fn a_list_of_labels_has_as_many_words_as_labels() {
        let labels =
            ["client:web", "operator:rack/7", "operator:a operator:b", "operator:x\u{34f}", ""].map(str::to_owned);
        let shown = label_names(&labels);
        assert_eq!(shown, "client:web operator:rack/7 \"operator:a␣operator:b\" \"operator:x\\u{34f}\" \"\"");
        assert_eq!(shown.split(' ').count(), labels.len());
        assert_eq!(label_names(&[]), "");
    }
}
