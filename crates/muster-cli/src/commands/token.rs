//! `muster token`: access tokens of people and scripts.

use super::{Stake, confirm};
use crate::output::{Table, safe, time, time_or_dash};
use crate::values::{self, duration_text};
use crate::{Context, Failure};
use muster_api::Page;
use muster_api::agents::Secret;
use muster_api::server::{TokenRequest, TokenRow};
use muster_core::Timestamp;
use reqwest::Method;

/// `muster token`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster token create grafana --role viewer --expires-in 90d
  muster token create alice --role investigator
  muster token create labeller --role agents.read,labels.write
  muster token list
  muster token delete grafana

The secret is printed once, when the token is made; the server keeps only its hash.
Roles: viewer (sees the fleet), operator (runs it), investigator (asks it, with signed actions),
auditor (sees everything, changes nothing), admin. docs/reference/permissions.md says what each holds.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a token and print its secret
    Create {
        /// Its name, which the journal shows
        name: String,
        /// What it may do: viewer, operator, investigator, auditor, admin, or permissions by name
        ///
        /// Several with commas between them, such as viewer,labels.write
        #[arg(long, value_name = "ROLES")]
        role: String,
        /// How long it lasts; without end unless told
        #[arg(long, value_name = "DURATION", value_parser = duration_text)]
        expires_in: Option<String>,
    },
    /// List tokens, without their secrets
    List,
    /// Withdraw a token
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
            Command::Create { name, role, expires_in } => {
                let what = format!("could not create token {name}");
                let request = TokenRequest { name, role, expires_in };
                let answer = context.api.send(&what, Method::POST, &["tokens"], &request).await?;
                tell_secret(context, &what, &answer)
            }
            Command::List => run_list(context).await,
            Command::Delete { name, yes } => delete(context, &name, yes).await,
        }
    }
}

/// What to know before nobody has a token of an administrator any more.
const LAST: &str = "It is the last valid token of an administrator. Without one, whoever is root or the server's user on its \
                    machine restarts the server, which leaves a new one in admin.token of its data directory.";

async fn delete(context: &Context, name: &str, yes: bool) -> Result<(), Failure> {
    const WHAT: &str = "could not list tokens";
    let rows = context.api.read::<Page<TokenRow>>(WHAT, &context.api.get(WHAT, &["tokens"], &()).await?)?;
    if is_last(&rows.items, name, values::now()) {
        context.out.note(LAST);
    }
    withdraw(context, "token", name, yes).await
}

/// Whether no other token of an administrator is valid than this one. An end that cannot be read counts as past.
fn is_last(rows: &[TokenRow], name: &str, now: Timestamp) -> bool {
    let lasts = |end: &String| end.parse::<Timestamp>().is_ok_and(|end| end > now);
    let valid =
        |row: &&TokenRow| row.role.split(',').any(|role| role == "admin") && row.expires.as_ref().is_none_or(lasts);
    let valid: Vec<_> = rows.iter().filter(valid).collect();
    valid.len() == 1 && valid[0].name == name
}

/// Withdraws a token of either kind, whose list is called as its kind with an s.
pub(super) async fn withdraw(context: &Context, kind: &str, name: &str, yes: bool) -> Result<(), Failure> {
    confirm(&format!("Withdraw {kind} {name}?"), yes, Stake::Else).await?;
    let what = format!("could not withdraw {kind} {name}");
    context.api.order(&what, Method::DELETE, &[&format!("{kind}s"), name]).await?;
    context.out.note(&safe(&format!("{name}  withdrawn")));
    Ok(())
}

/// Prints a secret alone on standard output, so that it can be taken from there.
pub(super) fn tell_secret(context: &Context, what: &str, answer: &serde_json::Value) -> Result<(), Failure> {
    if context.out.json {
        return context.out.json(answer);
    }
    let secret: Secret = context.api.read(what, answer)?;
    context.out.note(&format!("Token {}, shown this once:", safe(&secret.name)));
    context.out.line(&safe(&secret.token))
}

async fn run_list(context: &Context) -> Result<(), Failure> {
    const WHAT: &str = "could not list tokens";
    let answer = context.api.get(WHAT, &["tokens"], &()).await?;
    if context.out.json {
        return context.out.json(&answer);
    }
    let mut table = Table::new(&["NAME", "ROLE", "CREATED", "EXPIRES"]);
    for row in context.api.read::<Page<TokenRow>>(WHAT, &answer)?.items {
        table.row([row.name, row.role, time(&row.created), time_or_dash(row.expires.as_ref())]);
    }
    context.out.table(&table, "No tokens.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_token_of_an_administrator_is_known() {
        let row = |name: &str, role: &str, expires: Option<&str>| TokenRow {
            name: name.into(),
            role: role.into(),
            created: "2026-01-01T00:00:00Z".into(),
            expires: expires.map(str::to_owned),
        };
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let (ann, reader) = (row("ann", "admin", None), row("grafana", "reader", None));
        let past = row("old", "admin", Some("2026-05-01T00:00:00Z"));
        let later = row("new", "admin", Some("2026-07-01T00:00:00Z"));
        assert!(is_last(&[ann.clone(), reader.clone(), past.clone()], "ann", now));
        assert!(!is_last(&[ann.clone(), reader.clone()], "grafana", now));
        assert!(!is_last(&[ann.clone(), past.clone()], "old", now), "it counts no more");
        assert!(!is_last(&[ann, later.clone()], "ann", now));
        assert!(is_last(&[past, later], "new", now));
    }
}
