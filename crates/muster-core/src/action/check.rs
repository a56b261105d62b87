//! What an action must be before anybody looks at its signatures.

use super::{Action, ActionError, SYNTAX_VERSION};
use crate::{Timestamp, limits, text};
use std::time::Duration;

/// What parts the fields of the signed text. A name or a target that holds one could be read as another pair of name and
/// target with the very same signature.
pub const MARKERS: &[&str] = &[";target=", ";validfrom=", ";expireafter=", ";operations="];

/// Accepts a name: one line, bounded, without [`MARKERS`] and without characters that turn the direction of writing.
pub fn name_check(name: &str) -> Result<(), ActionError> {
    if name.is_empty() {
        return Err(ActionError::NameEmpty);
    }
    if name.chars().any(char::is_control) {
        return Err(ActionError::Text { field: "name", problem: "must not hold control characters".to_owned() });
    }
    field_check("name", name)
}

/// Accepts a target's text: bounded, without [`MARKERS`] and without characters that turn the direction
/// of writing. Whether it is an expression is asked elsewhere.
pub fn target_check(target: &str) -> Result<(), ActionError> {
    if target.is_empty() {
        return Err(ActionError::TargetEmpty);
    }
    field_check("target", target)
}

fn text_check(field: &'static str, value: &str) -> Result<(), ActionError> {
    let problem = |problem: String| ActionError::Text { field, problem };
    if value.chars().count() > limits::ACTION_NAME_CHARS_MAX {
        return Err(problem(format!("must be at most {} characters", limits::ACTION_NAME_CHARS_MAX)));
    }
    if value.contains('\0') {
        return Err(problem("must not hold a zero byte".to_owned()));
    }
    Ok(())
}

fn field_check(field: &'static str, value: &str) -> Result<(), ActionError> {
    text_check(field, value)?;
    direction_check(field, value)?;
    match MARKERS.iter().find(|marker| value.contains(**marker)) {
        Some(marker) => Err(ActionError::Ambiguous { field, marker }),
        None => Ok(()),
    }
}

/// Who signs must read what is there.
fn direction_check(field: &'static str, value: &str) -> Result<(), ActionError> {
    match value.chars().find(|c| text::turns_writing(*c)) {
        None => Ok(()),
        Some(found) => {
            let problem = format!(
                "must not hold characters that turn the direction of writing, such as U+{:04X}",
                u32::from(found)
            );
            Err(ActionError::Text { field, problem })
        }
    }
}

impl Action {
    /// Checks everything but signatures, in MIG's order. The server asks when an action comes in, and the agent again.
    ///
    /// Whether the window has begun is asked apart ([`Action::window_check`]): a server takes an action that begins
    /// later.
    pub fn check(&self, now: Timestamp) -> Result<(), ActionError> {
        name_check(&self.name)?;
        target_check(&self.target)?;
        if self.syntax_version != SYNTAX_VERSION {
            return Err(ActionError::SyntaxVersion);
        }
        if self.valid_from > self.expire_after {
            return Err(ActionError::WindowReversed);
        }
        if now > self.signed_window().1 {
            return Err(ActionError::Expired);
        }
        if self.operations.is_empty() {
            return Err(ActionError::OperationsEmpty);
        }
        bound("operations", self.operations.len(), limits::ACTION_OPERATIONS_MAX)?;
        for operation in &self.operations {
            text::name("module", &operation.module)
                .map_err(|error| ActionError::Text { field: "operation", problem: format!("is wrong: {error}") })?;
        }
        for (field, value) in self.notes() {
            text_check(field, value)?;
            direction_check(field, value)?;
        }
        if self.pgp_signatures.is_empty() {
            return Err(ActionError::SignaturesEmpty);
        }
        bound("signatures", self.pgp_signatures.len(), limits::ACTION_SIGNATURES_MAX)
    }

    /// What its author says of it besides, which nobody signs. A zero byte in it would be one that PostgreSQL cannot read
    /// out of JSON, in every search that looks there.
    fn notes(&self) -> [(&'static str, &str); 7] {
        let (description, threat) = (&self.description, &self.threat);
        [
            ("description author", &description.author),
            ("description email", &description.email),
            ("description url", &description.url),
            ("threat ref", &threat.reference),
            ("threat level", &threat.level),
            ("threat family", &threat.family),
            ("threat type", &threat.kind),
        ]
    }

    /// Checks that the window is no longer than `longest`; its two ends are compared in whole seconds, as signed.
    pub fn window_length_check(&self, longest: Duration) -> Result<(), ActionError> {
        let secs = |moment: Timestamp| moment.to_parts().0;
        let have = u64::try_from(secs(self.expire_after).saturating_sub(secs(self.valid_from))).unwrap_or(0);
        if have > longest.as_secs() {
            return Err(ActionError::WindowTooLong { have_secs: have, max_secs: longest.as_secs() });
        }
        Ok(())
    }

    /// Returns the first and the last moment of the window as they were signed: in whole seconds. Whoever delivers an action
    /// can write any fraction behind them without breaking a signature.
    pub fn signed_window(&self) -> (Timestamp, Timestamp) {
        let second = |moment: Timestamp| Timestamp::from_secs(moment.to_parts().0);
        (second(self.valid_from), second(self.expire_after))
    }

    /// Checks that `now` lies within the window, as it was signed.
    pub fn window_check(&self, now: Timestamp) -> Result<(), ActionError> {
        let (first, last) = self.signed_window();
        if now < first {
            return Err(ActionError::TooEarly);
        }
        if now > last {
            return Err(ActionError::Expired);
        }
        Ok(())
    }
}

fn bound(what: &'static str, have: usize, max: usize) -> Result<(), ActionError> {
    if have > max {
        return Err(ActionError::TooMany { what, have, max });
    }
    Ok(())
}
