//! `muster enrol-token`: tokens that let machines enrol.

use super::agent::label;
use super::token::{tell_secret, withdraw};
use crate::output::{Table, time, time_or_dash};
use crate::values::duration_text;
use crate::{Context, Failure};
use muster_api::Page;
use muster_api::agents::{EnrolTokenRequest, EnrolTokenRow};
use reqwest::Method;

/// `muster enrol-token`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster enrol-token create berlin --uses 40 --expires-in 2d --label site:berlin
  muster agent config --format muster --server muster.example:4443 --enrol-token @berlin.token --out ./agent
  muster enrol-token delete berlin

The secret is printed once, when the token is made; the server keeps only its hash.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make an enrolment token and print its secret
    Create {
        /// Its name
        name: String,
        /// How many machines it lets in
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        uses: u64,
        /// How long it lasts; without end unless told
        #[arg(long, value_name = "DURATION", value_parser = duration_text)]
        expires_in: Option<String>,
        /// A label (LABEL or SERVICE:LABEL) that each machine is given
        #[arg(long = "label", value_name = "LABEL", value_parser = label)]
        labels: Vec<String>,
    },
    /// List enrolment tokens, without their secrets
    List,
    /// Withdraw an enrolment token; machines that are in stay in
    Delete {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

impl Args {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Create { name, uses, expires_in, labels } => {
                let what = format!("could not create enrolment token {name}");
                let request = EnrolTokenRequest { name, uses: Some(uses), expires_in, labels };
                let answer = context.api.send(&what, Method::POST, &["enrol-tokens"], &request).await?;
                tell_secret(context, &what, &answer)
            }
            Command::List => run_list(context).await,
            Command::Delete { name, yes } => withdraw(context, "enrol-token", &name, yes).await,
        }
    }
}

async fn run_list(context: &Context) -> Result<(), Failure> {
    const WHAT: &str = "could not list enrolment tokens";
    let answer = context.api.get(WHAT, &["enrol-tokens"], &()).await?;
    if context.out.json {
        return context.out.json(&answer);
    }
    let mut table = Table::new(&["NAME", "USES LEFT", "LABELS", "CREATED", "EXPIRES"]);
    for row in context.api.read::<Page<EnrolTokenRow>>(WHAT, &answer)?.items {
        let labels = crate::output::label_names(&row.labels);
        let uses = row.uses_left.to_string();
        table.row([row.name, uses, labels, time(&row.created), time_or_dash(row.expires.as_ref())]);
    }
    context.out.table(&table, "No enrolment tokens.")
}
