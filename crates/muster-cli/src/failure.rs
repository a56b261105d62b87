//! What a person is told when a command did not do what it was asked: what failed, on what, why, and what to do next;
//! and the exit code that scripts go by.

use serde::Serialize;
use std::fmt;

/// How a command ended, as the exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Done = 0,
    /// It was tried and did not work.
    Failed = 1,
    /// The command line, or a value in it, is wrong.
    Usage = 2,
    /// What the command is about is not there.
    NotFound = 3,
    /// The token is missing, unknown or does not allow it; a signature does not count; or the server refuses by its rules.
    Refused = 4,
    /// The server cannot be reached, or is not ready.
    Unreachable = 5,
    /// It contradicts what is there, such as a name that is taken.
    Conflict = 6,
    /// The time to wait ran out. What was asked may still happen.
    TimedOut = 7,
    /// It was done in part: machines have not answered, or answers carry errors or are not whole.
    Partial = 8,
    /// Somebody ended it with Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    /// Every code with its meaning, as the manual prints them.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::Done, "everything was done"),
        (
            Self::Failed,
            "it was tried and did not work; also: a check of `doctor` failed, a message failed or was parked; every machine \
             refused or failed; the action that was launched or watched halted, was called back or is invalid",
        ),
        (Self::Usage, "the command line, or a value in it, is wrong"),
        (Self::NotFound, "what the command is about is not there"),
        (
            Self::Refused,
            "the token is missing, unknown or does not allow it, or the server refuses; also: a signature does not \
             count, the action that was launched or watched waits for further signatures",
        ),
        (Self::Unreachable, "the server cannot be reached, or is not ready"),
        (Self::Conflict, "it contradicts what is there, such as a name that is taken"),
        (Self::TimedOut, "the time to wait ran out; what was asked may still happen"),
        (
            Self::Partial,
            "it was done in part: some machines have not answered, or their answers carry errors, failed or were cut; what is not \
             among them may be there all the same",
        ),
        (Self::Interrupted, "it was ended with Ctrl-C; what was asked may still happen"),
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The exit code that goes with an HTTP status.
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            400 | 405 | 411 | 413 | 414 | 415 | 431 => Self::Usage,
            401 | 403 | 422 | 429 => Self::Refused,
            404 | 410 => Self::NotFound,
            409 | 412 => Self::Conflict,
            408 | 502..=504 => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// The exit code.
    #[serde(serialize_with = "code")]
    pub exit: Exit,
    /// What failed, such as `could not block agent 1122334455667788`.
    pub what: String,
    /// On what: the server, the file.
    pub on: String,
    /// Why.
    pub why: String,
    /// What to do next.
    pub next: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands the field by reference")]
fn code<S: serde::Serializer>(exit: &Exit, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u8(exit.code())
}

impl Failure {
    /// Starts a failure; `on` and `next` are filled by [`Failure::on`] and [`Failure::next`].
    pub fn new(exit: Exit, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { exit, what: what.into(), on: String::new(), why: why.into(), next: String::new() }
    }

    /// A value on the command line is wrong.
    pub fn usage(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, why)
    }

    /// Something on this machine failed while doing `what` on `on`; the whole chain of causes is told.
    pub fn local(what: impl Into<String>, on: impl fmt::Display, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(Exit::Failed, what, chain(error)).on(on)
    }

    /// Says on what.
    #[must_use]
    pub fn on(mut self, on: impl fmt::Display) -> Self {
        self.on = on.to_string();
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// The end of a command whose reader went away, such as `muster agent list | head -1`: nothing to tell.
    pub(crate) fn reader_gone() -> Self {
        Self::new(Exit::Done, "", "")
    }

    /// Whether there is nothing to tell.
    pub fn is_silent(&self) -> bool {
        self.exit == Exit::Done
    }
}

/// Returns an error and its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Characters of each part that people are shown: values come back in errors, however long they are.
const SHOWN_CHARS_MAX: usize = 1000;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", crate::output::safe(&self.what))?;
        for (name, text) in [("on:  ", &self.on), ("why: ", &self.why), ("next:", &self.next)] {
            if !text.is_empty() {
                let shown = muster_core::text::cut(text, SHOWN_CHARS_MAX);
                write!(f, "\n  {name} {}", crate::output::safe(&shown))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_on_what_why_and_what_next() {
        let failure =
            Failure::new(Exit::NotFound, "could not show agent 1122", "no id begins so").on("http://a").next("list");
        assert_eq!(
            failure.to_string(),
            "error: could not show agent 1122\n  on:   http://a\n  why:  no id begins so\n  next: list"
        );
        assert_eq!(serde_json::to_value(&failure).unwrap()["exit"], 3);
    }

    #[test]
    fn the_codes_are_the_ones_that_scripts_go_by() {
        assert_eq!(Exit::ALL.map(|(exit, _)| exit.code()), [0, 1, 2, 3, 4, 5, 6, 7, 8, 130]);
    }

    #[test]
    fn each_kind_of_refusal_has_its_own_code() {
        let of = |status| Exit::of_status(status).code();
        assert_eq!([of(400), of(401), of(403), of(404), of(409), of(422), of(500), of(503)], [2, 4, 4, 3, 6, 4, 1, 5]);
    }

    #[test]
    fn a_value_of_any_length_does_not_come_back_whole() {
        let failure = Failure::new(Exit::Usage, "x", "y".repeat(5000)).next("z");
        assert!(failure.to_string().len() < 1100 && failure.to_string().ends_with("...\n  next: z"), "{failure}");
    }

    #[test]
    fn a_reason_from_elsewhere_cannot_steer_the_terminal() {
        let failure = Failure::new(Exit::Failed, "x", "\u{1b}[2J\nerror: all is well");
        assert_eq!(failure.to_string(), "error: x\n  why:  \\u{1b}[2J\\nerror: all is well");
    }
}
