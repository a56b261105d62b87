//! `muster action`: signed orders, from the first word to the last result.
//!
//! Stays true: what is signed is worked out on this machine from the action itself, never taken from the server; the
//! commands that take a file ask no server, but for what named targets stand for.

mod cancel;
pub(crate) mod consent;
mod decidable;
pub(crate) mod file;
mod late;
pub(crate) mod life;
mod listing;
pub(crate) mod new;
pub(crate) mod order;
pub(crate) mod packing;
pub(crate) mod preview;
pub(crate) mod results;
pub(crate) mod shown;
pub(crate) mod sign;
pub(crate) mod spread;
pub(crate) mod verify;
mod window;

#[cfg(test)]
mod tests;

use super::ReasonArgs;
use crate::{Context, Failure, Globals};

/// `muster action`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster action new --name passwd --target \"os='linux'\" --out q.json file -path /etc -name '^passwd$'
  muster action new --name webs --target \"@web AND status='online'\" --out q.json timedrift
  muster action new --name two --target \"os='linux'\" --out q.json ping -d 10.0.0.1 -p icmp -- timedrift
  muster action sign q.json                                by gpg, with its default key
  muster action sign q.json --local-user alice@example.com
  muster action sign q.json --key alice.key --passphrase-file alice.pass
  muster action sign published.json --expires-in 1h       one that says no time when it may run
  muster action verify q.json --keyring /etc/muster-agent/keys --acl acl.cfg
  muster action preview q.json
  muster action launch q.json --rings 1,10 --reason 'ticket 7'
  muster action sign 12                                    one that waits for signatures
  muster action watch 12
  muster action results 12 --found --format csv
  muster action cancel 12                                  signs that it is called back
  muster action cancel 12 --server-only                    without a key: it is handed out no more

Actions are JSON in MIG's format of version 2. Each signs on their own machine; the server never sees a secret key.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write an action, without signatures
    New(Box<new::NewArgs>),
    /// Add your signature
    Sign(sign::SignCommand),
    /// Say who signed an action, whether machines would take the signatures, and what they weigh
    Verify(verify::VerifyArgs),
    /// Say what would come of an action, signed or not: which machines it means, what they demand, who would refuse it
    Preview(preview::PreviewArgs),
    /// Give a signed action to the server
    Launch(Box<life::LaunchArgs>),
    /// List actions, newest first
    List(listing::ListCommand),
    /// Show one action
    Show {
        /// Its number
        id: i64,
        /// Print its file, with all signatures
        #[arg(long)]
        file: bool,
    },
    /// Wait for results, and print them as they arrive
    Watch {
        /// The number of the action
        id: i64,
        #[command(flatten)]
        how: results::HowArgs,
        #[command(flatten)]
        order: order::OrderArgs,
    },
    /// Print results
    Results(results::ResultsArgs),
    /// Call an action back: sign that it is not to be run, also by machines that have it already
    Cancel(cancel::CancelArgs),
    /// Go on with an action that halted between two shares
    Resume {
        /// Its number
        id: i64,
        #[command(flatten)]
        reason: ReasonArgs,
    },
}

impl Args {
    /// Runs the command.
    pub async fn run(self, globals: &Globals) -> Result<(), Failure> {
        match self.command {
            Command::New(args) => args.run(globals).await,
            Command::Sign(args) => args.run(globals).await,
            Command::Verify(args) => args.run(globals).await,
            Command::Preview(args) => args.run(globals).await,
            Command::Launch(args) => args.run(globals).await,
            Command::List(args) => args.run(&Context::new(globals)?).await,
            Command::Show { id, file } => listing::show(&Context::new(globals)?, id, file).await,
            Command::Watch { id, how, order } => {
                let context = Context::new(globals)?;
                how.check(context.out)?;
                let action = file::fetch(&context, &format!("could not watch action {id}"), id).await?;
                let order = order::Order::of_server(&context, (id, &action), &order, how.unproven).await?;
                how.follow(&context, id, &order).await
            }
            Command::Results(args) => args.run(&Context::new(globals)?).await,
            Command::Cancel(args) => args.run(&Context::new(globals)?).await,
            Command::Resume { id, reason } => life::order(&Context::new(globals)?, id, "resume", &reason).await,
        }
    }
}
