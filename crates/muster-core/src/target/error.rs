//! What is wrong with a target, and where.

use std::fmt;

/// Characters shown on either side of the place of an error.
const AROUND_CHARS: usize = 48;

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetError {
    /// What is wrong.
    pub message: String,
    /// Where: characters before the place.
    pub position: usize,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
}

impl TargetError {
    pub(super) fn new(position: usize, message: impl Into<String>) -> Self {
        Self { message: message.into(), position, hint: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Returns two lines: the part of `text` around the place, and a caret under it.
    pub fn pointed(&self, text: &str) -> String {
        let start = self.position.saturating_sub(AROUND_CHARS);
        let shown = text.chars().skip(start).take(2 * AROUND_CHARS);
        let shown: String = shown.map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        format!("{shown}\n{}^", " ".repeat(self.position - start))
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at character {})", self.message, self.position + 1)?;
        match &self.hint {
            Some(hint) => write!(f, ": {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for TargetError {}
