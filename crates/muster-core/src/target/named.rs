//! Targets kept under a name, written `@name`.
//!
//! A name is written out before anything is signed, and only then: what an investigator signs holds no names, so that
//! nobody who can change a name can change what a signature means. A name stands for a whole condition in parentheses,
//! and for no other name.

use super::token::{TokenKind, tokens};
use super::{Target, TargetError};
use crate::text::{self, TextError};

/// Why a name is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty, too long or holds control characters.
    #[error(transparent)]
    Text(#[from] TextError),
    /// It holds something else than letters, digits, `_`, `-` and `.`.
    #[error("a target's name holds letters, digits, '_', '-' and '.', not {0:?}")]
    Letter(char),
}

/// Accepts the name of a target, without the at sign.
pub fn check_name(name: &str) -> Result<(), NameError> {
    text::name("target name", name)?;
    let strange = name.chars().find(|letter| !(letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.')));
    strange.map_or(Ok(()), |letter| Err(NameError::Letter(letter)))
}

/// Returns `text` with each `@name` replaced by what `lookup` gives for it, in parentheses. The rest stays byte by byte.
pub fn expand(text: &str, mut lookup: impl FnMut(&str) -> Option<String>) -> Result<String, TargetError> {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for token in tokens(text)? {
        let TokenKind::Named(name) = &token.kind else { continue };
        let meaning = lookup(name).ok_or_else(|| {
            let error = TargetError::new(token.position, format!("no target has the name {name:?}"));
            error.hint("`muster target list` shows those there are")
        })?;
        Target::parse(&meaning).map_err(|error| {
            TargetError::new(token.position, format!("the target named {name:?} cannot be used: {error}"))
        })?;
        out.push_str(&text[done..token.bytes.start]);
        out.push('(');
        out.push_str(&meaning);
        out.push(')');
        done = token.bytes.end;
    }
    out.push_str(&text[done..]);
    Ok(out)
}
