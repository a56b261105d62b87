//! `muster agent`: machines.

mod approve;
mod config;
mod directory;
mod enrolment;
mod files;
mod known;
mod show;
mod trust;
mod weights;

pub use config::config_write;
pub use trust::TrustArgs;

use super::{ReasonArgs, Stake, confirm};
use crate::list::{ListArgs, Rows};
use crate::output::{Table, label_names, machine_name, time, yes};
use crate::{Context, Exit, Failure, resolve, values};
use muster_api::agents::{
    AgentDetail, AgentQuery, AgentSummary, ContactRow, DeadLetterRow, RekeyRequest, UsageQuery, UsageRow,
};
use muster_core::Label;
use reqwest::Method;
use serde_json::Value;

/// `muster agent`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster agent list --label client:web --contact-after 1h
  muster agent show 1122
  muster agent label 1122 rack:7 canary
  muster agent block 1122 --reason \"laptop stolen\"
  muster agent config --format muster --server muster.example:4443 --out /etc/muster-agent
  muster agent config --format muster --server muster.example:4443 --out ./agent --trust alice.asc --trust bob.asc

An agent's id may be cut to its first 4 or more digits, as long as it is the only one that begins so.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List machines
    List(ListCommand),
    /// Show one machine with its facts
    Show {
        /// Its id
        id: String,
    },
    /// Put labels on a machine
    Label {
        /// Its id
        id: String,
        /// LABEL or SERVICE:LABEL; without a service it belongs to `operator`
        #[arg(required = true, value_parser = label)]
        labels: Vec<String>,
    },
    /// Take labels off a machine
    Unlabel {
        /// Its id
        id: String,
        /// LABEL or SERVICE:LABEL
        #[arg(required = true, value_parser = label)]
        labels: Vec<String>,
    },
    /// Keep machines out: their keys are refused, and new keys of theirs wait for approval
    Block(Change),
    /// Let blocked machines in again
    Unblock(Change),
    /// Let waiting machines in, after a look at what they say they are
    Approve {
        /// Which, and why
        #[command(flatten)]
        change: Change,
        /// Do not ask; without a terminal nobody is asked
        #[arg(long, short)]
        yes: bool,
    },
    /// Have machines make a new key; each goes on under a new id, with its labels and weights
    Rekey {
        /// Which, and why
        #[command(flatten)]
        change: Change,
        /// Ask also a machine that would not be let in under its new key: it may be lost until somebody visits it
        #[arg(long)]
        force: bool,
    },
    /// Forget that two machines seemed to share a key
    CloneClear(Change),
    /// Delete machines for good; their keys are never let in again
    Delete {
        /// Which, and why
        #[command(flatten)]
        change: Change,
        /// Do not ask; without a terminal nothing is deleted unless this is given
        #[arg(long, short)]
        yes: bool,
    },
    /// List the contacts of a machine, newest first
    Contacts {
        /// Its id
        id: String,
        /// How many
        #[command(flatten)]
        list: ListArgs,
    },
    /// List what a machine's processes used
    Usage(UsageCommand),
    /// List messages that could not be accepted, newest first
    DeadLetters(ListArgs),
    /// List what is noted of the weights that a machine demands of signatures
    Weights {
        /// Its id
        id: String,
    },
    /// Note the least weight that a machine demands of signatures
    Minimum(weights::MinimumCommand),
    /// The machines that you know: your own book of ids and names, by which answers are compared
    Known(known::KnownArgs),
    /// Write what an agent needs to trust and find this server
    Config(Box<config::ConfigCommand>),
}

#[derive(Debug, clap::Args)]
struct ListCommand {
    /// Only in this state; without it: any but deleted
    #[arg(long, value_parser = ["enrolled", "waiting", "blocked", "deleted", "rekeying", "replaced"])]
    state: Option<String>,
    /// Only with this label (SERVICE:LABEL); several must all be there
    #[arg(long = "label", value_name = "LABEL", value_parser = label)]
    labels: Vec<String>,
    /// Only where the id, the host name or the address contains this
    #[arg(long)]
    text: Option<String>,
    /// Only with a contact after this time, or within so long (2h)
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    contact_after: Option<String>,
    /// Only where two machines seem to share a key
    #[arg(long)]
    clones: bool,
    /// How many
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, clap::Args)]
struct Change {
    /// Their ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Why
    #[command(flatten)]
    reason: ReasonArgs,
}

#[derive(Debug, clap::Args)]
struct UsageCommand {
    /// Its id
    id: String,
    /// Received at or after this time, or within so long; a day unless told
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    start: Option<String>,
    /// Received before this time, or so long ago; now unless told
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    end: Option<String>,
    /// How many
    #[command(flatten)]
    list: ListArgs,
}

/// Checks a label and gives it the service it has when none is written.
pub(crate) fn label(text: &str) -> Result<String, String> {
    let label = Label::parse(text).map_err(|error| error.to_string())?;
    Ok(format!("{}:{}", label.service, label.label))
}

impl Args {
    /// Runs the command without a server; `None`: it needs one.
    pub fn run_offline(&self, out: crate::Output) -> Option<Result<(), Failure>> {
        match &self.command {
            Command::Config(command) if command.is_offline() => Some(command.run_offline(out)),
            _ => None,
        }
    }

    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::List(list) => list.run(context).await,
            Command::Show { id } => show::run(context, &id).await,
            Command::Label { id, labels } => set_labels(context, &id, &labels, &Method::PUT).await,
            Command::Unlabel { id, labels } => set_labels(context, &id, &labels, &Method::DELETE).await,
            Command::Block(change) => change.run(context, "block").await,
            Command::Unblock(change) => change.run(context, "unblock").await,
            Command::Approve { change, yes } => approve::run(context, &change, yes).await,
            Command::Rekey { change, force } => change.rekey(context, force).await,
            Command::CloneClear(change) => change.run(context, "clone-clear").await,
            Command::Delete { change, yes } => change.delete(context, yes).await,
            Command::Contacts { id, list } => contacts(context, &id, &list).await,
            Command::Usage(usage) => usage.run(context).await,
            Command::DeadLetters(list) => dead_letters(context, &list).await,
            Command::Weights { id } => weights::list(context, &id).await,
            Command::Minimum(minimum) => minimum.run(context).await,
            Command::Known(known) => known.run(context).await,
            Command::Config(config) => config.run(context).await,
        }
    }
}

impl ListCommand {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        const WHAT: &str = "could not list agents";
        let filter = AgentQuery {
            state: self.state,
            labels: (!self.labels.is_empty()).then(|| self.labels.join(",")),
            text: self.text,
            contact_after: self.contact_after,
            clones: self.clones.then_some(true),
            ..AgentQuery::default()
        };
        let rows = Rows::fetch(context, WHAT, &["agents"], &filter, &self.list).await?;
        if context.out.json {
            return rows.json(context);
        }
        let mut table = Table::new(&["ID", "HOST", "STATE", "LABELS", "LAST CONTACT", "ADDRESS", "STREAM"]);
        for row in rows.read::<AgentSummary>(context, WHAT)? {
            let state = state(&row);
            table.row([
                row.id,
                row.hostname.as_deref().map_or_else(|| "-".to_owned(), machine_name),
                state,
                label_names(&row.labels),
                time(&row.last_contact),
                row.last_address,
                yes(row.streaming),
            ]);
        }
        context.out.table(&table, "No agents.")?;
        rows.note_more(context);
        Ok(())
    }
}

/// How a machine stands, in few words.
fn state(row: &AgentSummary) -> String {
    let mut state = row.state.clone();
    if let Some(successor) = &row.successor {
        state = format!("{state} by {successor}");
    }
    if let Some(predecessor) = &row.predecessor {
        state = format!("{state} (was {predecessor})");
    }
    if row.rekey_asked.is_some() {
        state.push_str(" (new key asked)");
    }
    if row.clone_suspected.is_some() {
        state.push_str(" (cloned?)");
    }
    state
}

async fn set_labels(context: &Context, id: &str, labels: &[String], method: &Method) -> Result<(), Failure> {
    let id = resolve::agent(context, id).await?;
    let is_given = *method == Method::PUT;
    let verb = if is_given { "label" } else { "unlabel" };
    let detail = context.api.get("could not show the agent", &["agents", &id], &()).await?;
    let before = context.api.read::<AgentDetail>("could not show the agent", &detail)?.summary.labels;
    for label in labels {
        if let Some(note) = idle(&id, &before, label, is_given) {
            context.out.note(&crate::output::safe(&note));
        }
        let what = format!("could not {verb} agent {id} with {label}");
        context.api.order(&what, method.clone(), &["agents", &id, "labels", label]).await?;
    }
    let detail = context.api.get("could not show the agent", &["agents", &id], &()).await?;
    if context.out.json {
        return context.out.json(&detail);
    }
    let detail: AgentDetail = context.api.read("could not show the agent", &detail)?;
    context.out.line(&crate::output::safe(&format!("{id}  {}", label_names(&detail.summary.labels))))
}

/// Says that a machine has a label already that is given to it, or has none that is taken away; `None` where it changes.
fn idle(id: &str, before: &[String], label: &str, is_given: bool) -> Option<String> {
    match (before.iter().any(|has| has == label), is_given) {
        (true, true) => Some(format!("{id}  has the label {label} already")),
        (false, false) => Some(format!("{id}  has no label {label}: nothing was taken away")),
        _ => None,
    }
}

/// Says that a machine is as it was; `None` where that changed, or is not known.
fn unchanged(id: &str, before: &str, answer: &Value) -> Option<String> {
    let state = answer.get("state").and_then(Value::as_str)?;
    (state == before).then(|| format!("{id}  was {state} before: nothing changed"))
}

impl Change {
    async fn run(self, context: &Context, verb: &str) -> Result<(), Failure> {
        let mut answers = Vec::new();
        for text in &self.ids {
            let id = resolve::agent(context, text).await?;
            let what = format!("could not {verb} agent {id}");
            let detail = context.api.get(&what, &["agents", &id], &()).await?;
            let before = context.api.read::<AgentDetail>(&what, &detail)?.summary.state;
            let answer = context.api.send(&what, Method::POST, &["agents", &id, verb], &self.reason.body()).await?;
            // What clears a suspicion changes no state.
            if verb != "clone-clear"
                && let Some(note) = unchanged(&id, &before, &answer)
            {
                context.out.note(&crate::output::safe(&note));
            }
            if !context.out.json {
                let state = answer.get("state").and_then(Value::as_str).unwrap_or_default();
                context.out.line(&crate::output::safe(&format!("{id}  {state}")))?;
            }
            answers.push(answer);
        }
        if context.out.json { one_or_all(context, answers) } else { Ok(()) }
    }

    async fn rekey(self, context: &Context, force: bool) -> Result<(), Failure> {
        let mut answers = Vec::new();
        for text in &self.ids {
            let id = resolve::agent(context, text).await?;
            let what = format!("could not rekey agent {id}");
            let request = RekeyRequest { reason: self.reason.body().reason, force };
            let answer = context.api.send(&what, Method::POST, &["agents", &id, "rekey"], &request).await?;
            if !context.out.json {
                context.out.line(&format!("{id}  asked for a new key"))?;
            }
            answers.push(answer);
        }
        if context.out.json { one_or_all(context, answers) } else { Ok(()) }
    }

    async fn delete(self, context: &Context, yes: bool) -> Result<(), Failure> {
        let mut ids = Vec::new();
        for text in &self.ids {
            ids.push(resolve::agent(context, text).await?);
        }
        confirm(&format!("Delete {} for good?", ids.join(", ")), yes, Stake::Machines).await?;
        for id in &ids {
            let what = format!("could not delete agent {id}");
            context.api.send(&what, Method::DELETE, &["agents", id], &self.reason.body()).await?;
            context.out.note(&format!("{id}  deleted"));
        }
        Ok(())
    }
}

/// Writes the answer to one id as it is, the answers to several as a list.
pub(crate) fn one_or_all(context: &Context, mut answers: Vec<Value>) -> Result<(), Failure> {
    if answers.len() == 1 { context.out.json(&answers.remove(0)) } else { context.out.json(&answers) }
}

async fn contacts(context: &Context, id: &str, list: &ListArgs) -> Result<(), Failure> {
    const WHAT: &str = "could not list contacts";
    let id = resolve::agent(context, id).await?;
    let rows = Rows::fetch(context, WHAT, &["agents", &id, "contacts"], &(), list).await?;
    if context.out.json {
        return rows.json(context);
    }
    let mut table = Table::new(&["AT", "ADDRESS", "SENT NONCE", "RECEIVED NONCE"]);
    for row in rows.read::<ContactRow>(context, WHAT)? {
        table.row([time(&row.at), row.address, row.sent_nonce, row.received_nonce]);
    }
    context.out.table(&table, "No contacts are kept.")?;
    rows.note_more(context);
    Ok(())
}

impl UsageCommand {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        const WHAT: &str = "could not list usage";
        let id = resolve::agent(context, &self.id).await?;
        if let (Some(start), Some(end)) = (&self.start, &self.end)
            && start > end
        {
            return Err(Failure::usage(WHAT, "--start lies after --end"));
        }
        let query = UsageQuery { start: self.start, end: self.end, ..UsageQuery::default() };
        let rows = Rows::fetch(context, WHAT, &["agents", &id, "usage"], &query, &self.list).await?;
        if context.out.json {
            return rows.json(context);
        }
        let head = ["RECEIVED", "SCOPE", "PID", "USER MS/S", "SYSTEM MS/S", "MEMORY MIB", "FILES", "ENDED"];
        let mut table = Table::new(&head);
        for row in rows.read::<UsageRow>(context, WHAT)? {
            table.row([
                crate::output::time_or_dash(row.received.as_ref()),
                row.scope,
                row.pid.to_string(),
                format!("{:.1} / {:.1}", row.mean_user_cpu, row.max_user_cpu),
                format!("{:.1} / {:.1}", row.mean_system_cpu, row.max_system_cpu),
                format!("{} / {}", row.mean_memory_mib, row.max_memory_mib),
                format!("{} / {}", row.mean_fds, row.max_fds),
                yes(row.terminated),
            ]);
        }
        context.out.table(&table, "No usage was told in this time.")?;
        rows.note_more(context);
        Ok(())
    }
}

async fn dead_letters(context: &Context, list: &ListArgs) -> Result<(), Failure> {
    const WHAT: &str = "could not list dead letters";
    let rows = Rows::fetch(context, WHAT, &["dead-letters"], &(), list).await?;
    if context.out.json {
        return rows.json(context);
    }
    let mut table = Table::new(&["AT", "AGENT", "REASON", "SHA-256"]);
    for row in rows.read::<DeadLetterRow>(context, WHAT)? {
        table.row([time(&row.at), row.agent, row.reason, row.sha256.chars().take(16).collect()]);
    }
    context.out.table(&table, "Every message was accepted.")?;
    rows.note_more(context);
    Ok(())
}

/// The failure of a wait that ran out.
pub(crate) fn timed_out(what: impl Into<String>, why: impl Into<String>) -> Failure {
    Failure::new(Exit::TimedOut, what, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_nothing_says_so() {
        let before = ["operator:web".to_owned()];
        assert_eq!(idle("ab", &before, "operator:web", true).unwrap(), "ab  has the label operator:web already");
        assert!(idle("ab", &before, "operator:db", false).unwrap().contains("has no label operator:db"));
        assert_eq!(idle("ab", &before, "operator:web", false), None);
        assert_eq!(idle("ab", &before, "client:web", true), None, "another service's label is another");
        let answer = serde_json::json!({"state": "enrolled"});
        assert_eq!(unchanged("ab", "enrolled", &answer).unwrap(), "ab  was enrolled before: nothing changed");
        assert_eq!(unchanged("ab", "waiting", &answer), None);
    }
}
