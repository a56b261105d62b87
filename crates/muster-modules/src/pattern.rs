//! Regular expressions as MIG's users write them: Go's language, matched in linear time.
//!
//! Stays true: an expression means what it means to Go where both libraries can say it: `\d`, `\w`, `\s` and `\b` are
//! ASCII, `[` inside a class is a letter, `\Q…\E` quotes.

use muster_core::limits::{PATTERN_BYTES_MAX, PATTERN_COMPILED_BYTES_MAX};
use regex::{Regex, RegexBuilder};

/// Compiles an expression.
///
/// # Errors
/// Why the expression is none, in one line.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    build(pattern, RegexBuilder::case_insensitive, false)
}

/// Compiles an expression over something that strangers name, such as a file: `.` is any letter, a line's end too, so that
/// no name hides behind one.
///
/// # Errors
/// Why the expression is none, in one line.
pub(crate) fn compile_name(pattern: &str) -> Result<Regex, String> {
    build(pattern, RegexBuilder::dot_matches_new_line, true)
}

/// Compiles an expression that takes upper and lower case for the same.
pub(crate) fn compile_any_case(pattern: &str) -> Result<Regex, String> {
    build(pattern, RegexBuilder::case_insensitive, true)
}

type Setting = fn(&mut RegexBuilder, bool) -> &mut RegexBuilder;

fn build(pattern: &str, setting: Setting, is_set: bool) -> Result<Regex, String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("the expression is longer than {PATTERN_BYTES_MAX} bytes"));
    }
    let mut builder = RegexBuilder::new(&translate(pattern));
    setting(builder.size_limit(PATTERN_COMPILED_BYTES_MAX), is_set);
    builder.build().map_err(|error| {
        let text = error.to_string();
        text.lines().last().unwrap_or(&text).trim_start_matches("error: ").to_owned()
    })
}

/// Writes Go's expression in the words of the library that is used here.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut class = Class::Outside;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix('\\') {
            rest = escape(after, class != Class::Outside, &mut out);
            class = class.after_item();
            continue;
        }
        rest = &rest[first.len_utf8()..];
        match (class, first) {
            (Class::Outside, '[') => {
                out.push('[');
                class = Class::Begins;
            }
            (Class::Outside, _) => out.push(first),
            (Class::Begins, '^') => {
                out.push('^');
                class = Class::BeginsNegated;
            }
            (Class::Begins | Class::BeginsNegated, ']') => {
                out.push_str("\\]");
                class = Class::Inside;
            }
            (Class::Inside, ']') => {
                out.push(']');
                class = Class::Outside;
            }
            (_, '[') => {
                rest = named_class(rest, &mut out);
                class = Class::Inside;
            }
            (_, '&' | '~') => {
                out.push('\\');
                out.push(first);
                class = Class::Inside;
            }
            (_, '-') if rest.starts_with('-') => {
                out.push_str("\\-");
                class = Class::Inside;
            }
            _ => {
                out.push(first);
                class = Class::Inside;
            }
        }
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Outside,
    /// Right after `[`, where `^` negates and `]` is a letter.
    Begins,
    BeginsNegated,
    Inside,
}

impl Class {
    fn after_item(self) -> Self {
        if self == Self::Outside { Self::Outside } else { Self::Inside }
    }
}

/// Writes `[` inside a class: the beginning of `[:name:]`, or a letter. Returns what follows.
fn named_class<'a>(rest: &'a str, out: &mut String) -> &'a str {
    if let Some(end) = rest.starts_with(':').then(|| rest.find(":]")).flatten() {
        out.push('[');
        out.push_str(&rest[..end + 2]);
        return &rest[end + 2..];
    }
    out.push_str("\\[");
    rest
}

/// Writes what a backslash and the text after it mean. Returns what follows.
fn escape<'a>(after: &'a str, in_class: bool, out: &mut String) -> &'a str {
    let Some(first) = after.chars().next() else {
        out.push('\\');
        return after;
    };
    let rest = &after[first.len_utf8()..];
    match first {
        'Q' if !in_class => {
            let (quoted, rest) = rest.split_once("\\E").unwrap_or((rest, ""));
            out.push_str(&regex::escape(quoted));
            return rest;
        }
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        's' => out.push_str("[\\t\\n\\f\\r ]"),
        'S' => out.push_str("[^\\t\\n\\f\\r ]"),
        'w' => out.push_str("[0-9A-Za-z_]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        'b' if !in_class => out.push_str("(?-u:\\b)"),
        'B' if !in_class => out.push_str("(?-u:\\B)"),
        '<' | '>' => out.push(first),
        _ => {
            out.push('\\');
            out.push(first);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        compile(pattern).unwrap().is_match(text)
    }

    #[test]
    fn expressions_mean_what_they_mean_to_go() {
        for (pattern, text, want) in [
            ("^passwd$", "passwd", true),
            ("^passwd$", "passwd\n", false),
            (r"\.sql$", "dump.sql", true),
            (r"\d", "٣", false),
            (r"[\d.]+$", "10.5", true),
            (r"[^\d]", "7", false),
            (r"[\D]", "x", true),
            (r"^\w+$", "naïve", false),
            (r"\bx\b", "éxé", true),
            (r"a\/b", "a/b", true),
            (r"\<a\>", "<a>", true),
            ("[[a]", "[", true),
            ("[]a]", "]", true),
            ("[^]a]", "]", false),
            ("[a&&b]", "&", true),
            ("[[:alpha:]]", "x", true),
            (r"\Qa.b\E.", "a.bc", true),
            (r"\Qa.b\E.", "axbc", false),
            ("(?i)ROOT", "root", true),
            ("^root:\\$1\\$10CXRS19\\$/h", "root:$1$10CXRS19$/h", true),
            ("-r(w|-)xr-x---", "-rwxr-x---", true),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} on {text}");
        }
    }

    #[test]
    fn what_is_no_expression_says_why_in_one_line() {
        for pattern in ["(", "[a", "*", "a{2000}{2000}", &"a".repeat(PATTERN_BYTES_MAX + 1)] {
            let error = compile(pattern).unwrap_err();
            assert!(!error.is_empty() && !error.contains('\n'), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_compiler_panic(pattern in ".{0,64}") {
            let _ = compile(&pattern);
        }

        #[test]
        fn a_quoted_text_matches_itself(text in "[a-z.*+?^$\\[\\]()|-]{1,20}") {
            let quoted = format!("^\\Q{text}\\E$");
            proptest::prop_assert!(matches(&quoted, &text));
        }
    }
}
