//! Kinds: what may be compared with what, and literals that take the kind of their other side.

use super::interval::moment;
use super::{Column, Kind, Operand, TargetError, evaluate};

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a number",
            Self::Time => "a time",
            Self::Json => "a piece of a document",
        }
    }
}

/// Accepts two values for a comparison at `position`. A text literal beside a number or a time is read as one.
pub(super) fn pair(position: usize, left: &mut Operand, right: &mut Operand) -> Result<(), TargetError> {
    not_json(position, left)?;
    not_json(position, right)?;
    fit(position, left, right.kind())?;
    fit(position, right, left.kind())?;
    if left.kind() == right.kind() {
        return Ok(());
    }
    let (left, right) = (left.kind(), right.kind());
    let message = format!("{} cannot be compared with {}", left.word(), right.word());
    let error = TargetError::new(position, message);
    Err(match (left, right) {
        (Kind::Text, Kind::Number) | (Kind::Number, Kind::Text) => {
            error.hint("write the number between quotes, or read the text as a number: (tags->>'size')::numeric")
        }
        (Kind::Time, _) | (_, Kind::Time) => {
            error.hint("write a time as NOW() - INTERVAL '5 minutes' or '2026-01-02T03:04:05Z'")
        }
        _ => error,
    })
}

/// Reads a text literal as `kind` wants it.
fn fit(position: usize, operand: &mut Operand, kind: Kind) -> Result<(), TargetError> {
    let Operand::Text(text) = operand else { return Ok(()) };
    *operand = match kind {
        Kind::Number => {
            let number = evaluate::number(text).ok_or_else(|| {
                TargetError::new(position, format!("{text:?} is compared with a number, and is none"))
            })?;
            Operand::Number(number)
        }
        Kind::Time => {
            let moment = moment(text).ok_or_else(|| {
                let error = TargetError::new(position, format!("{text:?} is compared with a time, and is none"));
                error.hint("write a time as '2026-01-02T03:04:05Z' or '2026-01-02', or as NOW() - INTERVAL '1 day'")
            })?;
            Operand::Moment(moment)
        }
        Kind::Text | Kind::Json => return Ok(()),
    };
    Ok(())
}

pub(super) fn not_json(position: usize, operand: &Operand) -> Result<(), TargetError> {
    if operand.kind() != Kind::Json {
        return Ok(());
    }
    let error = TargetError::new(position, "a piece of a document cannot be compared");
    Err(error.hint("take it as text with ->> in place of the last ->, such as environment->>'os'"))
}

pub(super) fn text(position: usize, operand: &Operand) -> Result<(), TargetError> {
    not_json(position, operand)?;
    if operand.kind() == Kind::Text {
        return Ok(());
    }
    Err(TargetError::new(position, format!("this takes a text, and not {}", operand.kind().word())))
}

/// Refuses a text that no machine has as its `agentid`: such a question would find nothing, and look like an answer.
pub(super) fn agent_id(position: usize, value: &Operand, other: &Operand) -> Result<(), TargetError> {
    let (Operand::Column(Column::AgentId), Operand::Text(text)) = (value, other) else { return Ok(()) };
    if text.len() == 16 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    let error = TargetError::new(position, format!("{text:?} is the id of no machine"));
    Err(error.hint("an agentid is 16 hexadecimal digits in lower case, such as '0011223344556677'"))
}
