//! The window of an action that is signed from a file: published actions come without one.

use super::new::{EARLY, moment};
use crate::values::duration;
use crate::{Exit, Failure};
use muster_core::{Action, Timestamp};
use std::time::Duration;

/// A window to fill in before the signature.
#[derive(Debug, clap::Args)]
pub(super) struct WindowArgs {
    /// Fill in how long machines may start it, from now or from --valid-from; for a file that carries no signatures
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires_in: Option<Duration>,
    /// Fill in when machines may start it first (RFC 3339); a minute ago unless told, for clocks that are behind
    #[arg(long, value_name = "TIME", value_parser = moment, requires = "expires_in")]
    valid_from: Option<Timestamp>,
}

impl WindowArgs {
    /// Tells whether a window is given.
    pub(super) fn is_given(&self) -> bool {
        self.expires_in.is_some()
    }

    /// Fills in the window.
    ///
    /// # Errors
    /// The action has no window and none is given, or its signatures cover the one that it has.
    pub(super) fn fill(&self, what: &str, action: &mut Action, now: Timestamp) -> Result<(), Failure> {
        // A time that was never set, or one that stands for it, lies before every other.
        let has_none = action.expire_after <= Timestamp::EPOCH;
        let Some(expires_in) = self.expires_in else {
            if !has_none {
                return Ok(());
            }
            let why = "it has no window (validfrom and expireafter), as actions that are published have none";
            return Err(Failure::usage(what, why).next("say how long machines may start it, such as --expires-in 1h"));
        };
        if !action.pgp_signatures.is_empty() {
            let why = "its signatures cover the window that it has";
            return Err(Failure::new(Exit::Conflict, what, why)
                .next("take a copy without signatures, or leave --expires-in out"));
        }
        // Signatures cover whole seconds, so that nothing else is promised.
        let whole = |moment: Timestamp| Timestamp::from_secs(moment.to_parts().0);
        action.valid_from = whole(self.valid_from.unwrap_or_else(|| now.minus(EARLY)));
        action.expire_after = whole(now.max(action.valid_from).plus(expires_in));
        Ok(())
    }
}
