//! What text from outside may hold, the same for both databases: no NUL, and bounded.

use crate::limits;

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

/// Accepts a name: not empty, at most [`limits::NAME_BYTES_MAX`] bytes, no control characters.
pub fn name(what: &'static str, text: &str) -> Result<(), TextError> {
    bounded_name(what, text, limits::NAME_BYTES_MAX)
}

/// Accepts a file's name: not empty, at most [`limits::FILE_NAME_BYTES_MAX`] bytes, no control characters. Slashes and
/// dots are plain characters here: a file is a row, its name never becomes a path.
pub fn file_name(text: &str) -> Result<(), TextError> {
    bounded_name("file name", text, limits::FILE_NAME_BYTES_MAX)
}

fn bounded_name(what: &'static str, text: &str, max: usize) -> Result<(), TextError> {
    if text.is_empty() {
        return Err(TextError::Empty { what });
    }
    free(what, text, max)?;
    if text.chars().any(char::is_control) {
        return Err(TextError::Control { what });
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_free_of_control_characters() {
        assert_eq!(name("x", "Über café"), Ok(()));
        assert_eq!(name("x", ""), Err(TextError::Empty { what: "x" }));
        assert_eq!(name("x", "a\0"), Err(TextError::Nul { what: "x" }));
        assert_eq!(name("x", "a\r\nSet-Cookie: b"), Err(TextError::Control { what: "x" }));
        assert!(matches!(name("x", &"a".repeat(129)), Err(TextError::TooLong { have: 129, .. })));
    }

    #[test]
    fn a_long_reason_ends_in_dots() {
        let reason = cut(&"é".repeat(901), 900);
        assert_eq!(reason.chars().count(), 900);
        assert!(reason.ends_with("é..."));
        assert_eq!(cut("short", 900), "short");
    }
}
