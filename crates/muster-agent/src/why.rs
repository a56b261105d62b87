//! Why the program ends, and what it ends with.
//!
//! Stays true: a single call ends with 0 only when a server that has let this machine in took all that there was.

use crate::chain::Chain;
use crate::comms::ContactError;
use crate::standing::{Outcome, Standing, advice_about};
use http::StatusCode;
use std::process::ExitCode;

/// A server told the program to end.
const EXIT_DIE: u8 = 7;
/// The server knows this machine, and nobody has approved it yet.
const EXIT_WAITING: u8 = 3;
/// The server refuses this machine: it is blocked, deleted, or its enrolment token is used up.
const EXIT_REFUSED: u8 = 4;

/// Why the program ends.
#[derive(Debug)]
pub(crate) enum Why {
    /// By a signal.
    Signal,
    /// A server wants it.
    Die {
        /// Without ending anything in order.
        force: bool,
    },
    /// All is done that there was to do.
    Done,
    /// This server knows the machine, and an operator must approve it first.
    Waiting(String),
    /// The last server that was tried refused this machine.
    Refused {
        /// Which.
        server: String,
        /// In its words.
        reason: String,
    },
    /// No server could be used, for this reason.
    NoContact(String),
}

impl Why {
    /// Why a single call ended, by what came of it; `latest` is the last contact that was answered.
    pub(crate) fn of_call(called: Result<(), ContactError>, latest: Option<Standing>) -> Self {
        match called {
            Ok(()) => match latest.filter(|latest| latest.outcome == Outcome::Waiting) {
                Some(latest) => Self::Waiting(latest.server),
                None => Self::Done,
            },
            Err(ContactError::Refused { server, status, text })
                if [StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED].contains(&status) =>
            {
                Self::Refused { server, reason: muster_core::text::plain(&text) }
            }
            Err(error) => Self::NoContact(Chain(&error).to_string()),
        }
    }

    /// Logs it, and returns what the program ends with.
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Die { force } => {
                let how = if *force { " at once" } else { "" };
                tracing::warn!("the server had this agent end{how}");
                ExitCode::from(EXIT_DIE)
            }
            Self::Signal => {
                tracing::info!("stopping");
                ExitCode::SUCCESS
            }
            Self::Done => {
                tracing::info!("everything is taken and delivered");
                ExitCode::SUCCESS
            }
            Self::Waiting(server) => {
                tracing::warn!(
                    server,
                    "{server} lets this machine wait, and gives it nothing: `muster agent approve` with its id lets it in"
                );
                ExitCode::from(EXIT_WAITING)
            }
            Self::Refused { server, reason } => {
                tracing::error!(server, "{server} refuses this machine: {reason} ({})", advice_about(reason));
                ExitCode::from(EXIT_REFUSED)
            }
            Self::NoContact(error) => {
                tracing::error!("no server could be used: {error}");
                ExitCode::FAILURE
            }
        }
    }
}
