//! Why the program ends, and what it ends with.
//!
//! Stays true: a single call ends with 0 only when a server that has let this machine in took all that there was.

use crate::chain::Chain;
use crate::comms::ContactError;
use crate::presence::Presence;
use crate::standing::{Outcome, Standing, advice_about};
use http::StatusCode;
use std::process::ExitCode;
use std::time::Duration;

/// A server told the program to end.
const EXIT_DIE: u8 = 7;
/// The server knows this machine, and nobody has approved it yet.
const EXIT_WAITING: u8 = 3;
/// The server refuses this machine: it is blocked, deleted, or its enrolment token is used up.
const EXIT_REFUSED: u8 = 4;

/// A single call was cut short by a signal: what there was to take or deliver may still wait.
const EXIT_CUT_SHORT: u8 = 5;
/// A single call came to no end in [`CALL_MAX`].
const EXIT_ENDLESS: u8 = 6;
/// How long a single call may take, with all that comes of it. A server that never acknowledges, or always has more, would
/// keep it from ending.
const CALL_MAX: Duration = Duration::from_hours(1);

/// Why the program ends.
#[derive(Debug)]
pub(crate) enum Why {
    /// By a signal.
    Signal,
    /// By a signal, before a single call had done all that there was to do.
    CutShort,
    /// A single call had not done all that there was to do when its time was over.
    Endless,
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

    /// Waits for the end of a single call, but no longer than [`CALL_MAX`]; `latest` is asked then for the last contact that
    /// was answered.
    ///
    /// # Errors
    /// Those of `call`.
    pub(crate) async fn of_whole_call<E>(
        call: impl Future<Output = Result<Result<(), ContactError>, E>>,
        latest: impl FnOnce() -> Option<Standing>,
    ) -> Result<Self, E> {
        match tokio::time::timeout(CALL_MAX, call).await {
            Ok(called) => Ok(Self::of_call(called?, latest())),
            Err(_) => Ok(Self::Endless),
        }
    }

    /// What it is for a program that was started so: a single call that a signal ends has not done what it was for.
    pub(crate) fn when(self, presence: Presence) -> Self {
        match (self, presence) {
            (Self::Signal, Presence::CheckIn) => Self::CutShort,
            (why, _) => why,
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
            Self::CutShort => {
                tracing::error!(
                    "a signal ended this call before all was taken and delivered: what waits is kept for the next call"
                );
                ExitCode::from(EXIT_CUT_SHORT)
            }
            Self::Endless => {
                tracing::error!(
                    "not all was taken, done and delivered within {} min: what waits is kept for the next call; a server \
                     that acknowledges nothing, or always has more, is broken or hostile (`muster-agent doctor`)",
                    CALL_MAX.as_secs() / 60
                );
                ExitCode::from(EXIT_ENDLESS)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_ends_is_ended_and_is_no_success() {
        let started = tokio::time::Instant::now();
        let never = std::future::pending::<Result<_, Infallible>>();
        let why = Why::of_whole_call(never, || None).await.unwrap();
        assert!(matches!(why, Why::Endless), "{why:?}");
        assert!(started.elapsed() >= CALL_MAX);
        assert_eq!(why.code(), ExitCode::from(6));
        let done = Why::of_whole_call(async { Ok::<_, Infallible>(Ok(())) }, || None).await.unwrap();
        assert_eq!(done.code(), ExitCode::SUCCESS);
    }

    #[test]
    fn a_signal_is_a_success_for_one_that_stays_alone() {
        assert_eq!(Why::Signal.when(Presence::Daemon).code(), ExitCode::SUCCESS);
        assert_eq!(Why::Signal.when(Presence::CheckIn).code(), ExitCode::from(5));
        assert_eq!(Why::Done.when(Presence::CheckIn).code(), ExitCode::SUCCESS);
    }
}
