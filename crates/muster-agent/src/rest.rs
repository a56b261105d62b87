//! Staying away after the server told the agent to end: for a while, and not beyond the machine's next boot.
//!
//! The program ends, as Fleetspeak's does; what starts it again (the unit, a watchdog) finds it waiting here, without a
//! connection and without services, until the time is over. Its owner ends the wait with SIGHUP
//! (`systemctl reload muster-agent`), or by removing the file.

use crate::durable::{self, Sync};
use crate::server_may::Absence;
use muster_core::{Clock, Timestamp};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::time::Instant;

/// The file in the state directory.
const FILE: &str = "resting.json";
/// How often it is looked whether the time is over: a machine that slept does not count its sleep otherwise.
const LOOK_EVERY: Duration = Duration::from_secs(30);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Until when the agent stays away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rest {
    /// Since when.
    since: Timestamp,
    /// For how many seconds; `None`: until the machine boots again.
    seconds: Option<u64>,
    /// Which boot of the machine it belongs to.
    boot: String,
}

impl Rest {
    /// Writes that the agent stays away from `now` on.
    pub(crate) fn begin(directory: &Path, absence: Absence, now: Timestamp) -> io::Result<()> {
        let seconds = match absence {
            Absence::None => return Ok(()),
            Absence::For(span) => Some(span.0.as_secs()),
            Absence::UntilBoot => None,
        };
        let rest = Self { since: now, seconds, boot: boot() };
        let bytes = serde_json::to_vec(&rest).expect("text and numbers are JSON");
        durable::replace(&directory.join(FILE), &bytes, Sync::Power)
    }

    /// Reads what is left of a rest. `None` when it is over, or there is none. A damaged file is as none.
    pub(crate) fn left(directory: &Path, now: Timestamp) -> Option<Left> {
        let rest: Self = serde_json::from_slice(&std::fs::read(directory.join(FILE)).ok()?).ok()?;
        if rest.boot != boot() {
            return None;
        }
        let Some(seconds) = rest.seconds else { return Some(Left::UntilBoot) };
        // A clock that was set back lengthens nothing beyond the whole time.
        let whole = Duration::from_secs(seconds);
        let left = whole.checked_sub(now.since(rest.since))?;
        (!left.is_zero()).then_some(Left::For(left))
    }

    /// Ends the rest.
    fn end(directory: &Path) {
        let path = directory.join(FILE);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "cannot remove the note of a rest");
        }
    }
}

/// What is left of a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// So long.
    For(Duration),
    /// Until the machine boots again.
    UntilBoot,
}

impl Left {
    /// Says it for people.
    pub(crate) fn says(self) -> String {
        let until = match self {
            Self::For(left) => format!("for another {} min", left.as_secs().div_ceil(60)),
            Self::UntilBoot => "until the machine boots again".to_owned(),
        };
        format!("a server told this agent to end; it stays away {until}")
    }
}

/// Why the wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The time is over, or the machine's owner ended it.
    Over,
    /// The program shall end.
    Signal,
}

/// Waits until the rest that an earlier life of the agent began is over.
pub(crate) async fn wait(directory: &Path, clock: &dyn Clock, ends: &mut [Signal; 2], reload: &mut Signal) -> Woken {
    let [terminate, interrupt] = ends;
    let Some(left) = Rest::left(directory, clock.now()) else { return Woken::Over };
    tracing::warn!("{}; SIGHUP has it begin now", left.says());
    // However the clock is set meanwhile, the wait is not longer than it was at its beginning.
    let over = match left {
        Left::For(left) => Some(Instant::now() + left),
        Left::UntilBoot => None,
    };
    while let Some(left) = Rest::left(directory, clock.now()) {
        let nap = match left {
            Left::For(left) => left.min(LOOK_EVERY),
            Left::UntilBoot => LOOK_EVERY,
        };
        if over.is_some_and(|over| Instant::now() >= over) {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(nap) => {}
            _ = terminate.recv() => return Woken::Signal,
            _ = interrupt.recv() => return Woken::Signal,
            _ = reload.recv() => break,
        }
    }
    Rest::end(directory);
    Woken::Over
}

/// The machine's name for its present boot. A machine that has none boots never, as far as this goes.
fn boot() -> String {
    std::fs::read_to_string(BOOT_ID).map(|boot| boot.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    #[test]
    fn a_rest_lasts_as_long_as_it_was_meant_and_not_beyond_the_next_boot() {
        let directory = tempfile::tempdir().unwrap();
        let left = |at: Timestamp| Rest::left(directory.path(), at);
        assert_eq!(left(NOW), None);
        Rest::begin(directory.path(), Absence::For(Span::seconds(3600)), NOW).unwrap();
        assert_eq!(left(NOW.plus(Duration::from_secs(600))), Some(Left::For(Duration::from_secs(3000))));
        assert_eq!(left(NOW.plus(Duration::from_secs(3600))), None);
        // Set back by a day: the whole time again, and no more.
        assert_eq!(left(NOW.minus(Duration::from_secs(86_400))), Some(Left::For(Duration::from_secs(3600))));
        Rest::begin(directory.path(), Absence::UntilBoot, NOW).unwrap();
        assert_eq!(left(NOW.plus(Duration::from_secs(900_000))), Some(Left::UntilBoot));
        let path = directory.path().join(FILE);
        let other = std::fs::read_to_string(&path).unwrap().replace(&boot(), "another boot");
        std::fs::write(&path, other).unwrap();
        assert_eq!(left(NOW), None);
        Rest::begin(directory.path(), Absence::UntilBoot, NOW).unwrap();
        Rest::end(directory.path());
        assert_eq!(left(NOW), None);
    }
}
