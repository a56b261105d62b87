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
pub mod report;
pub mod server;
pub mod service;
pub mod target;
pub mod token;
pub mod trust;

use crate::{Context, Failure};

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

/// Asks a person at a terminal whether to go on; scripts are not asked.
fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    use std::io::{BufRead, IsTerminal, Write};
    let stdin = std::io::stdin();
    if yes || !stdin.is_terminal() {
        return Ok(());
    }
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    // A terminal that cannot be read has not said yes.
    let _ = stdin.lock().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(crate::Exit::Failed, "nothing was done", "it was not confirmed").next("answer y, or add --yes"))
}
