//! `muster broadcast`: messages to every machine with certain labels.

use super::ReasonArgs;
use super::agent::label;
use crate::list::{ListArgs, Rows};
use crate::output::{Table, safe, time, time_or_dash, yes};
use crate::values::{base64, body, duration_text};
use crate::{Context, Failure, resolve};
use muster_api::broadcasts::{BroadcastRequest, BroadcastRow};
use reqwest::Method;
use serde_json::Value;

/// `muster broadcast`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster broadcast create --service Collector --type Run --label client:web --limit 10 @run.json
  muster broadcast create --service muster --type FactsRequest --expires-in 1h
  muster broadcast list
  muster broadcast disable 17aa")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Send a message to every machine that has all the labels, now and later
    Create(CreateCommand),
    /// List broadcasts, newest first
    List(ListArgs),
    /// Show one broadcast
    Show {
        /// Its id
        id: String,
    },
    /// Switch broadcasts off: they reach no further machine
    Disable {
        /// Their ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// Why
        #[command(flatten)]
        reason: ReasonArgs,
    },
}

#[derive(Debug, clap::Args)]
struct CreateCommand {
    /// The data: a text, @FILE, or - for standard input
    #[arg(id = "body", value_name = "DATA")]
    data: Option<String>,
    /// The service on the machines
    #[arg(long)]
    service: String,
    /// What it is, in the words of the service
    #[arg(long = "type", value_name = "TYPE", default_value = "", hide_default_value = true)]
    message_type: String,
    /// What the bytes of the data are; without it they travel as plain bytes
    #[arg(long, value_name = "URL")]
    type_url: Option<String>,
    /// The service it comes from; the same as --service unless told
    #[arg(long, value_name = "SERVICE")]
    source_service: Option<String>,
    /// A label that a machine must have (SERVICE:LABEL); several must all be there, none means every machine
    #[arg(long = "label", value_name = "LABEL", value_parser = label)]
    labels: Vec<String>,
    /// How many machines at most; all unless told
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// How long it is active; without end unless told
    #[arg(long, value_name = "DURATION", value_parser = duration_text)]
    expires_in: Option<String>,
    /// Replaces active broadcasts of this group that have the same source, service and labels
    #[arg(long)]
    group: Option<String>,
    /// Its id, 16 hexadecimal digits
    #[arg(long)]
    id: Option<String>,
}

impl Args {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Create(create) => create.run(context).await,
            Command::List(list) => run_list(context, &list).await,
            Command::Show { id } => show(context, &id).await,
            Command::Disable { ids, reason } => disable(context, &ids, &reason).await,
        }
    }
}

impl CreateCommand {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let data = body(self.data.as_deref())?;
        let request = BroadcastRequest {
            id: self.id,
            service: self.service,
            source_service: self.source_service,
            message_type: self.message_type,
            type_url: self.type_url,
            data: data.as_deref().map(base64),
            labels: self.labels,
            limit: self.limit,
            expires_in: self.expires_in,
            group: self.group,
        };
        let made = context.api.send("could not create the broadcast", Method::POST, &["broadcasts"], &request).await?;
        if context.out.json {
            return context.out.json(&made);
        }
        context.out.line(&safe(made.get("id").and_then(Value::as_str).unwrap_or_default()))
    }
}

async fn run_list(context: &Context, list: &ListArgs) -> Result<(), Failure> {
    const WHAT: &str = "could not list broadcasts";
    let rows = Rows::fetch(context, WHAT, &["broadcasts"], &(), list).await?;
    if context.out.json {
        return rows.json(context);
    }
    let head = ["ID", "SERVICE", "TYPE", "LABELS", "SENT", "LIMIT", "ACTIVE", "CREATED", "EXPIRES", "GROUP"];
    let mut table = Table::new(&head);
    for row in rows.read::<BroadcastRow>(context, WHAT)? {
        table.row([
            row.id,
            row.service,
            row.message_type,
            crate::output::label_names(&row.labels),
            row.sent.to_string(),
            row.limit.map_or_else(|| "all".to_owned(), |limit| limit.to_string()),
            yes(row.active),
            time(&row.created),
            time_or_dash(row.expires.as_ref()),
            row.group,
        ]);
    }
    context.out.table(&table, "No broadcasts.")?;
    rows.note_more(context);
    Ok(())
}

async fn show(context: &Context, id: &str) -> Result<(), Failure> {
    let id = resolve::broadcast(context, id).await?;
    let what = format!("could not show broadcast {id}");
    let answer = context.api.get(&what, &["broadcasts", &id], &()).await?;
    if context.out.json {
        return context.out.json(&answer);
    }
    let row: BroadcastRow = context.api.read(&what, &answer)?;
    context.out.pairs(&[
        ("Id", row.id),
        ("From", row.source_service),
        ("Service", row.service),
        ("Type", row.message_type),
        ("Labels", crate::output::label_names(&row.labels)),
        (
            "Sent to",
            format!("{} of {}", row.sent, row.limit.map_or_else(|| "all".to_owned(), |limit| limit.to_string())),
        ),
        ("Active", yes(row.active)),
        ("Created", time(&row.created)),
        ("Expires", time_or_dash(row.expires.as_ref())),
        ("Group", row.group),
    ])
}

async fn disable(context: &Context, ids: &[String], reason: &ReasonArgs) -> Result<(), Failure> {
    let mut answers = Vec::new();
    for text in ids {
        let id = resolve::broadcast(context, text).await?;
        let what = format!("could not disable broadcast {id}");
        let path = ["broadcasts", &id, "disable"];
        answers.push(context.api.send(&what, Method::POST, &path, &reason.body()).await?);
        context.out.note(&format!("{id}  disabled"));
    }
    if context.out.json { super::agent::one_or_all(context, answers) } else { Ok(()) }
}
