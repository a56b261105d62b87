//! How long the agent stays in touch.

/// How long the agent stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Until it is stopped.
    Daemon,
    /// Until what waits is taken, done and delivered.
    CheckIn,
}

impl Presence {
    /// MIG's word, as targets have it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::CheckIn => "checkin",
        }
    }
}
