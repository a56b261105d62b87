//! Causes: who changed something, how, and why. Every change by a person carries one into the journal.

/// Who is behind a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The person or program, by the name of its token, such as `admin` or `local`.
    pub actor: String,
    /// The request that asked for it, as the logs have it; empty outside a request.
    pub request: String,
    /// The reason the person gave; empty when none was asked for.
    pub reason: String,
}

impl Cause {
    /// A change by `actor` within the request `request`.
    pub fn new(actor: impl Into<String>, request: impl Into<String>) -> Self {
        Self { actor: actor.into(), request: request.into(), reason: String::new() }
    }

    /// A change that the server made by itself, such as an expiry.
    pub fn server() -> Self {
        Self::new("server", "")
    }
}
