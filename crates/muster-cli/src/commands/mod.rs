//! One file per noun.

pub mod action;
pub mod agent;
pub mod ask;
pub mod backup;
pub mod broadcast;
pub mod doctor;
pub mod enrol_token;
pub mod event;
pub mod file;
pub mod investigator;
pub mod journal;
pub mod message;
pub mod module;
pub(crate) mod named;
pub mod report;
pub mod server;
pub mod service;
pub mod target;
pub mod token;
pub mod trust;

use crate::{Context, Exit, Failure};
use std::io::IsTerminal as _;
use std::time::Duration;

/// The commands that speak with a server.
#[derive(Debug, clap::Subcommand)]
pub enum Operator {
    /// Machines: look, label, block, configure
    Agent(agent::Args),
    /// Messages to machines and services: send, look, cancel
    Message(message::Args),
    /// Messages to every machine with certain labels
    Broadcast(broadcast::Args),
    /// Targets, which pick machines: check, keep under names
    Target(target::Args),
    /// Files that machines fetch
    File(file::Args),
    /// Services of the server: lag, parked messages, last error
    Service(service::Args),
    /// Access tokens of people and scripts
    Token(token::Args),
    /// Tokens that let machines enrol
    EnrolToken(enrol_token::Args),
    /// What happened at the agents' door: refused contacts, cloned keys
    Event(event::Args),
    /// People whose signatures make machines act
    Investigator(investigator::Args),
    /// Ask machines a question, signed here, and print their answers
    Ask(Box<ask::Args>),
    /// Reports about the machines: offline, double, flapping, disappeared, versions
    Report(report::Args),
    /// Who did what
    Journal(journal::Args),
    /// How the server stands
    Server(server::Args),
}

impl Operator {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Agent(args) => args.run(context).await,
            Self::Message(args) => args.run(context).await,
            Self::Broadcast(args) => args.run(context).await,
            Self::Target(args) => args.run(context).await,
            Self::File(args) => args.run(context).await,
            Self::Service(args) => args.run(context).await,
            Self::Token(args) => args.run(context).await,
            Self::EnrolToken(args) => args.run(context).await,
            Self::Event(args) => args.run(context).await,
            Self::Investigator(args) => args.run(context).await,
            Self::Ask(args) => args.run(context).await,
            Self::Report(args) => args.run(context).await,
            Self::Journal(args) => args.run(context).await,
            Self::Server(args) => args.run(context).await,
        }
    }
}

/// Why a change is made.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ReasonArgs {
    /// Why; kept in the journal
    #[arg(long, env = "MUSTER_REASON", value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
}

impl ReasonArgs {
    fn body(&self) -> muster_api::Reason {
        muster_api::Reason { reason: self.reason.clone() }
    }
}

/// What a command does when nobody holds it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stake {
    /// It changes machines, or deletes them: somebody must say yes.
    Machines,
    /// Nothing of a machine is at stake: scripts need not say yes, but a no is a no.
    Else,
}

/// How long an answer that does not come from a terminal is waited for: whoever writes one into a pipe does it at once.
const PIPED_ANSWER: Duration = Duration::from_secs(5);

/// Asks a person at a terminal whether to go on. Without a terminal, whatever stands on standard input is the answer; where
/// there is nothing, only what has no machine at stake goes on. What is signed is agreed to elsewhere (`action::consent`).
async fn confirm(question: &str, yes: bool, stake: Stake) -> Result<(), Failure> {
    const WHAT: &str = "nothing was done";
    if yes {
        return Ok(());
    }
    if std::io::stdin().is_terminal() {
        // A terminal that cannot be read has not said yes.
        return decided(&crate::terminal::ask(&format!("{question} [y/N] ")).await.unwrap_or_default());
    }
    let unasked = |why: &str| Err(Failure::usage(WHAT, why).on(question).next("pass --yes"));
    if stake == Stake::Machines {
        return unasked("machines are changed only when somebody says so, and there is no terminal to ask at");
    }
    match tokio::time::timeout(PIPED_ANSWER, crate::terminal::line_or_end()).await {
        Err(_) => unasked("there is no terminal to ask at, and standard input gave no answer"),
        Ok(Ok(Some(answer))) => decided(&answer),
        // A standard input that is closed is one that says nothing.
        Ok(Ok(None) | Err(_)) => Ok(()),
    }
}

fn decided(answer: &str) -> Result<(), Failure> {
    if ["y", "yes"].iter().any(|yes| answer.trim().eq_ignore_ascii_case(yes)) {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "nothing was done", "it was not confirmed").next("answer y, or pass --yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        for yes in ["y", "Y", "yes", " YES "] {
            assert!(decided(yes).is_ok(), "{yes}");
        }
        for no in ["", "n", "no", "yesterday", "ja", "y n"] {
            assert_eq!(decided(no).unwrap_err().exit, Exit::Failed, "{no}");
        }
    }
}
