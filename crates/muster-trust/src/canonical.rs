//! The text that signatures of MIG's version 2 cover, byte for byte, with its frozen mistake in the expiry.
//!
//! Stays true: what the text says is all that a module is given; whatever a reader could take in two ways (a key twice, a
//! lone surrogate, a number no double holds) is refused rather than chosen.

mod number;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::CanonicalError;

use muster_core::Action;
use muster_core::action::Operation;

/// Returns the text that the signers of an action sign.
///
/// That its name and target cannot be read as another pair is checked by [`Action::check`].
pub fn signed_text(action: &Action) -> Result<String, CanonicalError> {
    let (valid_from, _) = action.valid_from.to_parts();
    let (expire_after, _) = action.expire_after.to_parts();
    Ok(format!(
        "name={};target={};validfrom={valid_from};expireafter=%!s(int64={expire_after});operations={};",
        action.name,
        action.target,
        operations(&action.operations)?,
    ))
}

/// Returns JSON as Go's encoder prints it after a round trip through generic values: keys sorted by their bytes, every
/// number a double, no blanks. This is what is signed of an operation's parameters, and what its module is given.
pub fn go_json(json: &str) -> Result<String, CanonicalError> {
    let mut out = String::with_capacity(json.len());
    writer::value(&mut out, &reader::read(json)?);
    Ok(out)
}

fn operations(operations: &[Operation]) -> Result<String, CanonicalError> {
    let mut out = String::from("[");
    for (at, operation) in operations.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str("{\"module\":");
        writer::string(&mut out, &operation.module);
        out.push_str(",\"parameters\":");
        writer::value(&mut out, &reader::read(operation.parameters.as_str())?);
        if operation.is_compressed {
            out.push_str(",\"is_compressed\":true");
        }
        if operation.want_compressed {
            out.push_str(",\"want_compressed\":true");
        }
        out.push('}');
    }
    out.push(']');
    Ok(out)
}
