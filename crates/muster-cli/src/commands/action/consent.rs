//! What stands before every signature: the checks, what the person is shown, and the person's own yes.
//!
//! Stays true: nothing is signed before its person agreed to the very text that is signed; where there is no terminal to
//! agree at, the command line says so itself, and for what a server wrote it names the digest; a text that cannot be shown
//! whole needs a word of its own.

use super::decidable;
use super::shown::Shown;
use crate::{Exit, Failure};
use muster_core::action::Action;
use std::io::{IsTerminal as _, Write as _};
use tokio::signal::unix::{SignalKind, signal};

const NOTHING: &str = "nothing was done";

/// How a person agrees to what they wrote themselves.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ConsentArgs {
    /// Do not ask; without a terminal nothing that may change machines is signed or launched unless this is given
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// How a person agrees to what cannot be shown.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct UnseenArgs {
    /// Sign also what cannot be shown whole: parameters that cannot be unpacked here, or more than anybody reads
    #[arg(long)]
    pub(crate) yes_unseen: bool,
}

/// Where what is to be signed comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// From the words of this very command line, or a file of the person's that nobody signed yet.
    Own,
    /// From a server, or from a file that somebody signed.
    Elsewhere(&'a UnseenArgs),
}

/// Refuses what must not be signed whoever asks for it. Returns what the person should know besides.
pub(crate) fn checks_before_signing(
    action: &Action,
    shown: &Shown,
    origin: Origin<'_>,
) -> Result<Vec<String>, Failure> {
    decidable::check(NOTHING, action)?;
    let mut notes: Vec<String> = decidable::warning(action).into_iter().collect();
    notes.extend(unseen_check(shown, origin)?);
    Ok(notes)
}

/// Refuses to sign what a person could not see whole, unless the person wrote it or said so. Returns what the person should
/// know besides.
pub(crate) fn unseen_check(shown: &Shown, origin: Origin<'_>) -> Result<Option<String>, Failure> {
    match &shown.unseen {
        Some(why) if matches!(origin, Origin::Elsewhere(unseen) if !unseen.yes_unseen) => {
            let next = "look at it another way, then pass --yes-unseen if you want to sign it all the same";
            Err(Failure::new(Exit::Refused, NOTHING, format!("it cannot be shown whole: {why}")).next(next))
        }
        Some(why) => Ok(Some(format!("Not shown whole: {why}."))),
        None => Ok(None),
    }
}

/// Shows on standard error what a signature will cover, also to whoever asked for JSON on standard output.
pub(crate) fn show(shown: &Shown, notes: &[String]) {
    let mut errors = std::io::stderr().lock();
    // Whoever closed standard error sees nothing, and is asked nothing there either.
    let _ = errors.write_all(shown.text.as_bytes());
    for note in notes {
        let _ = writeln!(errors, "{}", crate::output::safe(note));
    }
}

/// Says something that must be known before anybody agrees, also to whoever asked for JSON on standard output.
pub(crate) fn say(lines: &[String]) {
    let mut errors = std::io::stderr().lock();
    for line in lines {
        let _ = writeln!(errors, "{line}");
    }
}

/// Asks the person to agree to what they wrote themselves. Without a terminal, what only looks is agreed to by the command
/// line that says it, unless a no stands on standard input; what may change machines needs a yes there.
pub(crate) async fn agree(question: &str, consent: &ConsentArgs, changes: bool) -> Result<(), Failure> {
    if consent.yes {
        return Ok(());
    }
    if changes || std::io::stdin().is_terminal() {
        return ask(question, "pass --yes").await;
    }
    if is_no(&crate::terminal::waiting()) {
        return Err(unconfirmed());
    }
    Ok(())
}

/// Whether somebody wrote a no, and nothing else.
fn is_no(waiting: &[u8]) -> bool {
    let waiting = waiting.trim_ascii();
    ["n", "no"].iter().any(|no| waiting.eq_ignore_ascii_case(no.as_bytes()))
}

fn unconfirmed() -> Failure {
    Failure::new(Exit::Failed, NOTHING, "it was not confirmed").next("answer y, or pass --yes")
}

/// Asks the person to agree to what a server wrote. A yes on the command line says nothing of a text that its writer did
/// not know: only the digest of it does.
pub(crate) async fn agree_to_servers(question: &str, given: Option<&str>, shown: &Shown) -> Result<(), Failure> {
    match given {
        Some(given) if given.eq_ignore_ascii_case(&shown.digest) => Ok(()),
        Some(given) => {
            let why = format!("the SHA-256 of what would be signed is {}, not {given}", shown.digest);
            Err(Failure::new(Exit::Refused, NOTHING, why).next("whoever wrote the action knows its digest"))
        }
        None => {
            let next = format!(
                "read what is above; if it is what you mean to sign, or its writer told you this digest: --digest {}",
                shown.digest
            );
            ask(question, &next).await
        }
    }
}

/// Asks at the terminal, and nowhere else.
pub(crate) async fn ask(question: &str, without_terminal: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        let why = "somebody must agree to it, and there is no terminal to ask at";
        return Err(Failure::usage(NOTHING, why).on(question).next(without_terminal));
    }
    // A terminal that cannot be read has not said yes.
    let question = format!("{question} [y/N] ");
    let answer = uninterrupted(async { Ok(crate::terminal::ask(&question).await.unwrap_or_default()) }).await?;
    if ["y", "yes"].iter().any(|yes| answer.trim().eq_ignore_ascii_case(yes)) {
        return Ok(());
    }
    Err(unconfirmed())
}

/// Does something of this machine's own. Who interrupts it is told that nothing was ordered by it.
pub(crate) async fn uninterrupted<T>(doing: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut interrupts = signal(SignalKind::interrupt())
        .map_err(|error| Failure::new(Exit::Failed, "could not listen for Ctrl-C", error.to_string()))?;
    tokio::select! {
        // The end of a program that was interrupted too is no news.
        biased;
        Some(()) = interrupts.recv() => {
            Err(Failure::new(Exit::Interrupted, "interrupted", "nothing was signed, and no machine was asked anything"))
        }
        result = doing => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(unseen: Option<&str>) -> Shown {
        Shown { text: String::new(), digest: "ab".repeat(32), unseen: unseen.map(str::to_owned), changes: false }
    }

    fn action() -> Action {
        Action::parse(br#"{"operations": [{"module": "timedrift"}]}"#).unwrap()
    }

    #[test]
    fn what_cannot_be_shown_needs_a_word_of_its_own() {
        let (no, yes) = (UnseenArgs::default(), UnseenArgs { yes_unseen: true });
        assert!(checks_before_signing(&action(), &shown(None), Origin::Elsewhere(&no)).unwrap().is_empty());
        let packed = shown(Some("it is packed"));
        let refused = checks_before_signing(&action(), &packed, Origin::Elsewhere(&no)).unwrap_err();
        assert!(refused.why.contains("it is packed") && refused.next.contains("--yes-unseen"), "{refused}");
        for origin in [Origin::Elsewhere(&yes), Origin::Own] {
            let notes = checks_before_signing(&action(), &packed, origin).unwrap();
            assert!(notes[0].contains("it is packed"), "{notes:?}");
        }
    }

    #[test]
    fn only_a_lone_no_is_one() {
        for no in ["n", "N\n", "no\n", " NO \r\n"] {
            assert!(is_no(no.as_bytes()), "{no:?}");
        }
        for other in ["", "\n", "y\n", "n\nm\n", "nginx\n", "no such host\n"] {
            assert!(!is_no(other.as_bytes()), "{other:?}");
        }
    }

    #[tokio::test]
    async fn only_the_digest_of_what_is_signed_agrees_to_it() {
        let shown = shown(None);
        agree_to_servers("Sign?", Some(&"AB".repeat(32)), &shown).await.unwrap();
        let refused = agree_to_servers("Sign?", Some(&"cd".repeat(32)), &shown).await.unwrap_err();
        assert!(refused.exit == Exit::Refused && refused.why.contains(&shown.digest), "{refused}");
    }
}
