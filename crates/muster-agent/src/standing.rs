//! How this machine stands with its server, for whoever looks at the machine while the agent runs or after it ended.
//!
//! Stays true: what a server said is kept as text of bounded length without anything that steers a terminal; the file is
//! written when something changed, and otherwise once in [`WRITE_EVERY`] at most. Not here: making contact (comms).

use crate::durable::{self, Sync};
use http::HeaderMap;
use muster_core::{Clock, Timestamp, system, text};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The file in the state directory.
const FILE: &str = "standing.json";
/// How often the file is written when nothing but the time changed.
const WRITE_EVERY: Duration = Duration::from_mins(1);
/// Characters of a reason.
const REASON_CHARS_MAX: usize = 400;
/// Clocks that are further apart than this are worth a word; certificates and the windows of orders go by them.
pub(crate) const CLOCKS_APART_MAX: Duration = Duration::from_mins(1);

/// What came of a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// The server took what this machine sent.
    Good,
    /// The server knows this machine, and an operator has not let it in yet.
    Waiting,
    /// The server refused this machine.
    Refused,
    /// There was no contact.
    Failed,
}

/// The latest contact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// When it was.
    pub(crate) at: Timestamp,
    /// What came of it.
    pub(crate) outcome: Outcome,
    /// Since when that is what comes of contacts.
    pub(crate) since: Timestamp,
    /// With which server, as configured; empty when none could be reached.
    pub(crate) server: String,
    /// Why it was not good.
    pub(crate) reason: String,
    /// When a contact was good last.
    pub(crate) good: Option<Timestamp>,
    /// Seconds by which the server's clock was ahead of this machine's; negative when it was behind.
    pub(crate) server_ahead_s: Option<i64>,
    /// Why the server's list of revoked certificates was ignored.
    pub(crate) list_ignored: Option<String>,
}

impl Standing {
    /// Reads what the agent wrote last. `None` when there was no contact yet, or the file cannot be used.
    pub(crate) fn read(directory: &Path) -> Option<Self> {
        let bytes = std::fs::read(directory.join(FILE)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Says it in one line for people, when the agent does not run: nothing of it holds any more but that it was so.
    pub(crate) fn says_of_stopped(&self) -> String {
        let (server, at) = (&self.server, second(self.at));
        match self.outcome {
            Outcome::Good => format!("the agent does not run; it was in contact with {server} until {at}"),
            Outcome::Waiting => format!("the agent does not run; {server} let this machine wait for approval at {at}"),
            Outcome::Refused => {
                format!("the agent does not run; {server} refused this machine at {at}: {}", self.reason)
            }
            Outcome::Failed => format!("the agent does not run; it had no contact at {at}: {}", self.reason),
        }
    }

    /// Says it in one line for people.
    pub(crate) fn says(&self) -> String {
        let since = second(self.since);
        let server = &self.server;
        match self.outcome {
            Outcome::Good => format!("in contact with {server} since {since}, last at {}", second(self.at)),
            Outcome::Waiting => format!("{server} lets this machine wait for approval since {since}"),
            Outcome::Refused => format!("{server} refuses this machine since {since}: {}", self.reason),
            Outcome::Failed => format!("no contact since {since}: {}", self.reason),
        }
    }

    /// Says what to do about it; `None` when all is well.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        match self.outcome {
            Outcome::Good => None,
            Outcome::Waiting => Some("have an operator approve it: `muster agent approve` with this machine's id"),
            Outcome::Refused => Some(advice_about(&self.reason)),
            Outcome::Failed => Some("look at the lines about the server and its certificate"),
        }
    }

    /// Says by how much the clocks are apart; `None` when that is not known.
    pub(crate) fn clocks(&self) -> Option<Clocks> {
        self.server_ahead_s.map(Clocks)
    }
}

/// Returns what to do about a refusal, from the server's own words.
pub(crate) fn advice_about(reason: &str) -> &'static str {
    let has = |word: &str| reason.contains(word);
    match () {
        () if has("token") => {
            "make a new token on the server (`muster enrol-token create`) and put it into `enrol_token` here"
        }
        () if has("deleted") => {
            "an operator deleted this machine: to enrol it as a new one, stop the agent, remove agent.key and start it"
        }
        () if has("blocked") => "an operator blocked this machine: `muster agent unblock` lets it in again",
        () if has("label") => "claim the label that the server asks of new machines in `labels`",
        () if has("takes no new machines") => "open enrolment on the server (`enrolment.policy`)",
        () if has("waiting") => "have an operator approve it: `muster agent approve` with this machine's id",
        () => "`muster event list` on the server says more",
    }
}

/// Seconds by which the server's clock is ahead of this machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clocks(pub(crate) i64);

impl Clocks {
    /// Compares an answer's date with this machine's clock; `None` when the answer has none.
    pub(crate) fn of(headers: &HeaderMap, now: Timestamp) -> Option<Self> {
        let date = headers.get(http::header::DATE)?.to_str().ok()?;
        let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second();
        Some(Self(theirs.saturating_sub(now.to_parts().0)))
    }

    /// Whether they are further apart than may be.
    pub(crate) fn are_apart(self) -> bool {
        self.0.unsigned_abs() > CLOCKS_APART_MAX.as_secs()
    }

    /// Says it for people.
    pub(crate) fn says(self) -> String {
        match self.0 {
            0 => "this machine's clock and the server's agree".to_owned(),
            ahead if ahead > 0 => format!("this machine's clock is {} behind the server's", span(ahead)),
            behind => format!("this machine's clock is {} ahead of the server's", span(behind)),
        }
    }
}

fn span(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A moment without its fraction.
fn second(moment: Timestamp) -> Timestamp {
    Timestamp::from_secs(moment.to_parts().0)
}

#[derive(Debug, Default)]
struct Kept {
    standing: Option<Standing>,
    written: Option<Timestamp>,
    server_ahead_s: Option<i64>,
    list_ignored: Option<String>,
    is_waiting: bool,
}

/// Keeps the latest contact, in memory and in the file.
#[derive(Debug)]
pub(crate) struct StandingBook {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    kept: Mutex<Kept>,
}

impl StandingBook {
    /// Goes on with what an earlier life wrote.
    pub(crate) fn open(directory: &Path, clock: Arc<dyn Clock>) -> Self {
        let kept = Kept { standing: Standing::read(directory), ..Kept::default() };
        Self { path: directory.join(FILE), clock, kept: Mutex::new(kept) }
    }

    /// Keeps what the head of a server's answer tells of it.
    pub(crate) fn head(&self, headers: &HeaderMap) {
        let now = self.clock.now();
        let mut kept = self.kept();
        if let Some(clocks) = Clocks::of(headers, now) {
            kept.server_ahead_s = Some(clocks.0);
        }
        let waiting = muster_core::AgentState::Waiting.word().as_bytes();
        kept.is_waiting = headers.get(system::AGENT_STATE_HEADER).is_some_and(|state| state.as_bytes() == waiting);
    }

    /// The server took what this machine sent.
    pub(crate) fn good(&self, server: &str) {
        let outcome = if self.kept().is_waiting { Outcome::Waiting } else { Outcome::Good };
        self.put(outcome, server, "");
    }

    /// What came of the latest contact; `None` when there was none yet.
    pub(crate) fn latest(&self) -> Option<Standing> {
        self.kept().standing.clone()
    }

    /// The server sent a message, so that this machine does not wait.
    pub(crate) fn heard(&self, server: &str) {
        let was_waiting = std::mem::take(&mut self.kept().is_waiting);
        if was_waiting {
            self.put(Outcome::Good, server, "");
        }
    }

    /// A contact failed, or was refused.
    pub(crate) fn bad(&self, outcome: Outcome, server: &str, reason: &str) {
        self.put(outcome, server, reason);
    }

    /// The server's list of revoked certificates is ignored for a reason, or counts.
    pub(crate) fn list(&self, ignored: Option<String>) {
        self.kept().list_ignored = ignored;
    }

    fn put(&self, outcome: Outcome, server: &str, reason: &str) {
        let now = self.clock.now();
        let mut kept = self.kept();
        let before = kept.standing.take();
        let is_same = before.as_ref().is_some_and(|before| before.outcome == outcome);
        let since = before.as_ref().filter(|_| is_same).map_or(now, |before| before.since);
        let good = if outcome == Outcome::Good { Some(now) } else { before.as_ref().and_then(|before| before.good) };
        let standing = Standing {
            at: now,
            outcome,
            since,
            server: text::plain(server),
            reason: text::cut(&text::plain(reason), REASON_CHARS_MAX),
            good,
            server_ahead_s: kept.server_ahead_s,
            list_ignored: kept.list_ignored.clone(),
        };
        // Two clocks differ by another second each time.
        let server_ahead_s = kept.server_ahead_s;
        if outcome == Outcome::Waiting && !is_same {
            tracing::warn!(server, "the server lets this machine wait: an operator must approve it");
        }
        let is_news = before.is_none_or(|before| Standing { at: now, good, server_ahead_s, ..before } != standing);
        let is_old = kept.written.is_none_or(|at| now.since(at).max(at.since(now)) >= WRITE_EVERY);
        if is_news || is_old {
            kept.written = Some(now);
            let bytes = serde_json::to_vec(&standing).expect("numbers and text are JSON");
            if let Err(error) = durable::replace(&self.path, &bytes, Sync::Process) {
                tracing::warn!(%error, path = %self.path.display(), "cannot write how this machine stands");
            }
        }
        kept.standing = Some(standing);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::tests::SetClock;
    use http::HeaderValue;

    #[test]
    fn what_came_of_the_latest_contact_is_on_the_disk_with_since_when() {
        let directory = tempfile::tempdir().unwrap();
        let clock = SetClock::at(1_800_000_000);
        let book = StandingBook::open(directory.path(), clock.clone());
        assert_eq!(Standing::read(directory.path()), None);
        book.bad(Outcome::Refused, "a:1", "403 the enrolment token is used up\u{1b}[2J");
        clock.set(1_800_000_100);
        book.bad(Outcome::Refused, "a:1", "403 the enrolment token is used up\u{1b}[2J");
        let read = Standing::read(directory.path()).unwrap();
        assert_eq!(
            (read.outcome, read.since, read.good),
            (Outcome::Refused, Timestamp::from_secs(1_800_000_000), None)
        );
        assert_eq!(read.at, Timestamp::from_secs(1_800_000_100));
        assert!(!read.reason.contains('\u{1b}') && read.advice().unwrap().contains("enrol-token create"));
        // Another life goes on with it.
        let book = StandingBook::open(directory.path(), clock.clone());
        clock.set(1_800_000_200);
        book.good("a:1");
        let read = Standing::read(directory.path()).unwrap();
        assert_eq!((read.outcome, read.good), (Outcome::Good, Some(Timestamp::from_secs(1_800_000_200))));
        assert_eq!(read.advice(), None);
    }

    #[test]
    fn a_machine_that_waits_is_told_so_until_it_is_let_in() {
        let directory = tempfile::tempdir().unwrap();
        let book = StandingBook::open(directory.path(), SetClock::at(1_800_000_000));
        let mut headers = HeaderMap::new();
        headers.insert(system::AGENT_STATE_HEADER, HeaderValue::from_static("waiting"));
        headers.insert(http::header::DATE, HeaderValue::from_static("Fri, 15 Jan 2027 10:00:00 GMT"));
        book.head(&headers);
        book.good("a:1");
        let read = Standing::read(directory.path()).unwrap();
        assert_eq!(read.outcome, Outcome::Waiting);
        let clocks = read.clocks().unwrap();
        assert!(clocks.are_apart() && clocks.says() == "this machine's clock is 2 h behind the server's", "{clocks:?}");
        book.heard("a:1");
        assert_eq!(Standing::read(directory.path()).unwrap().outcome, Outcome::Good);
    }
}
