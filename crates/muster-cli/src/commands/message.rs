//! `muster message`: messages to machines and services.

use super::ReasonArgs;
use super::agent::timed_out;
use crate::list::{ListArgs, Rows};
use crate::output::{Table, time, time_or_dash};
use crate::values::{base64, body, duration, duration_text, pair, unbase64};
use crate::{Context, Exit, Failure, resolve};
use muster_api::Page;
use muster_api::messages::{Annotation, MessageQuery, MessageRequest, MessageRow};
use muster_core::retry::backoff;
use muster_core::system;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// Digits of a message's id that lists show; ids made by the server begin with the time, so they differ early.
const ID_DIGITS_SHOWN: usize = 20;
/// First and longest pause between two looks at a message that is waited for.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Bytes of a body shown that is no text.
const BINARY_BYTES_SHOWN: usize = 256;

/// `muster message`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  muster message send 1122 --service muster --type Echo --wait hello
  muster message send 1122 --service Collector --type Run --type-url type.googleapis.com/x.Run @run.bin
  echo '{\"a\": 1}' | muster message send server --service Importer -
  muster message list --state parked
  muster message retry 17f1

Data is the text itself, @FILE, or - for standard input; @@ begins a text that starts with an at sign.
A message's id may be cut to its first 4 or more digits, as long as it is the only one that begins so.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Send a message to a machine, or to a service of the server
    Send(Box<SendCommand>),
    /// List messages, newest first
    List(ListCommand),
    /// Show one message with its data and its answers
    Show {
        /// Its id
        id: String,
        /// Write the data alone, as it is, to standard output
        #[arg(long)]
        raw: bool,
    },
    /// Give up a message that still waits
    Cancel(Change),
    /// Try a parked or failed message again
    Retry(Change),
}

#[derive(Debug, clap::Args)]
struct SendCommand {
    /// The machine's id, or `server` for a service of the server
    to: String,
    /// The data: a text, @FILE, or - for standard input
    #[arg(id = "body", value_name = "DATA")]
    data: Option<String>,
    /// The service that shall have it
    #[arg(long)]
    service: String,
    /// What it is, in the words of the service
    #[arg(long = "type", value_name = "TYPE", default_value = "", hide_default_value = true)]
    message_type: String,
    /// What the bytes of the data are; without it they travel as plain bytes
    #[arg(long, value_name = "URL")]
    type_url: Option<String>,
    /// The service it comes from; `operator` unless told
    #[arg(long, value_name = "SERVICE")]
    source_service: Option<String>,
    /// How long it may wait before it is parked
    #[arg(long, value_name = "DURATION", value_parser = duration_text)]
    expires_in: Option<String>,
    /// How much it hurries
    #[arg(long, value_parser = ["low", "medium", "high"])]
    priority: Option<String>,
    /// A pair to attach
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = pair)]
    annotations: Vec<(String, String)>,
    /// Its id, 64 hexadecimal digits; sending the same again under the same id is harmless
    #[arg(long)]
    id: Option<String>,
    /// Wait until the machine or service has taken it, and for the answer to an Echo
    #[arg(long)]
    wait: bool,
    /// Wait for an answer: a message whose annotation in_reply_to names this one
    #[arg(long)]
    answer: bool,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    wait_max: Duration,
}

#[derive(Debug, clap::Args)]
struct ListCommand {
    /// Only from or to this machine
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Only to this service
    #[arg(long)]
    service: Option<String>,
    /// Only in this state
    #[arg(long, value_parser = ["pending", "done", "failed", "parked"])]
    state: Option<String>,
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

impl Args {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Send(send) => send.run(context).await,
            Command::List(list) => list.run(context).await,
            Command::Show { id, raw } => show(context, &id, raw).await,
            Command::Cancel(change) => change.run(context, "cancel").await,
            Command::Retry(change) => change.run(context, "retry").await,
        }
    }
}

impl SendCommand {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        const WHAT: &str = "could not send the message";
        let data = body(self.data.as_deref())?;
        let agent = match self.to.as_str() {
            "server" => None,
            text => Some(resolve::agent(context, text).await?),
        };
        let echo = self.service == system::MUSTER && self.message_type == system::ECHO;
        let to = match &agent {
            Some(agent) => format!("machine {agent} is online and has a service {:?}", self.service),
            None => format!("the server has a service {:?} that takes messages", self.service),
        };
        let request = MessageRequest {
            id: self.id,
            agent,
            service: self.service,
            source_service: self.source_service,
            message_type: self.message_type,
            type_url: self.type_url,
            data: data.as_deref().map(base64),
            expires_in: self.expires_in,
            priority: self.priority,
            annotations: self.annotations.into_iter().map(|(key, value)| Annotation { key, value }).collect(),
        };
        let sent = context.api.send(WHAT, Method::POST, &["messages"], &request).await?;
        if !self.wait && !self.answer {
            return if context.out.json { context.out.json(&sent) } else { context.out.line(&id_of(&sent)) };
        }
        let wait = Wait { id: id_of(&sent), to, answer: self.answer || echo, until: Instant::now() + self.wait_max };
        wait.run(context).await
    }
}

fn id_of(message: &Value) -> String {
    crate::output::safe(message.get("id").and_then(Value::as_str).unwrap_or_default())
}

/// A look at a message again and again until it is done with, and answered if an answer is wanted.
struct Wait {
    id: String,
    /// What must be so for it to be taken.
    to: String,
    answer: bool,
    until: Instant,
}

impl Wait {
    async fn run(&self, context: &Context) -> Result<(), Failure> {
        let what = format!("message {} is not done with", self.id);
        let mut looks = 0;
        loop {
            let message = context.api.get(&what, &["messages", &self.id], &()).await?;
            let state = message.get("state").and_then(Value::as_str).unwrap_or_default().to_owned();
            let answers = match state.as_str() {
                "pending" if !self.answer => Vec::new(),
                _ => answers_of(context, &what, &self.id).await?,
            };
            let answered = !answers.is_empty();
            let lost = matches!(state.as_str(), "failed" | "parked");
            let over = lost || if self.answer { answered } else { state != "pending" };
            if over {
                self.tell(context, &message, &answers)?;
                return if lost && !answered { Err(self.lost(&message)) } else { Ok(()) };
            }
            if Instant::now() >= self.until {
                return Err(self.timed_out(&state));
            }
            let pause = backoff(LOOK.0, LOOK.1, looks, 0.0);
            tokio::time::sleep_until((Instant::now() + pause).min(self.until)).await;
            looks += 1;
        }
    }

    fn tell(&self, context: &Context, message: &Value, answers: &[Value]) -> Result<(), Failure> {
        const WHAT: &str = "could not show the message";
        if context.out.json {
            return context.out.json(&json!({ "message": message, "answers": answers }));
        }
        if answers.is_empty() {
            return context.out.line(&format!("{}  {}", self.id, crate::output::safe(&state_of(message))));
        }
        for answer in answers {
            context.out.line(&data_text(&context.api.read(WHAT, answer)?))?;
        }
        Ok(())
    }

    fn lost(&self, message: &Value) -> Failure {
        let error = message.get("error").and_then(Value::as_str).unwrap_or("no reason is kept");
        Failure::new(Exit::Failed, format!("message {} is {}", self.id, state_of(message)), error)
            .next(format!("see `muster message show {0}`; try it again with `muster message retry {0}`", self.id))
    }

    fn timed_out(&self, state: &str) -> Failure {
        let (what, why) = match state {
            // Which services a machine has, only the machine knows: a server cannot refuse it before.
            "pending" => (
                "it still waits to be taken",
                format!("look whether {} (`muster agent list`, `muster service list`)", self.to),
            ),
            _ => ("it was taken, but no answer came", "does the service answer? see `muster message list`".to_owned()),
        };
        timed_out(format!("message {} was not done with in time", self.id), what)
            .next(format!("{why}; wait longer with --wait-max; look again with `muster message show {}`", self.id))
    }
}

fn state_of(message: &Value) -> String {
    message.get("state").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Returns a message's data for a terminal: text as text, all else as its first bytes in hexadecimal.
fn data_text(message: &MessageRow) -> String {
    let Some(bytes) = message.data.as_deref().and_then(unbase64) else { return String::new() };
    if let Ok(text) = std::str::from_utf8(&bytes) {
        return text.lines().map(crate::output::safe).collect::<Vec<_>>().join("\n");
    }
    let head = hex::encode(&bytes[..bytes.len().min(BINARY_BYTES_SHOWN)]);
    let more = if bytes.len() > BINARY_BYTES_SHOWN { "…" } else { "" };
    format!("{} bytes: {head}{more}", bytes.len())
}

/// Returns one end of a message: the machine and the service, or the service of the server alone.
fn end(agent: Option<&String>, service: &str) -> String {
    format!("{}/{service}", agent.map_or("server", String::as_str))
}

impl ListCommand {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        const WHAT: &str = "could not list messages";
        let agent = match &self.agent {
            Some(text) => Some(resolve::agent(context, text).await?),
            None => None,
        };
        let filter = MessageQuery { agent, service: self.service, state: self.state, ..MessageQuery::default() };
        let rows = Rows::fetch(context, WHAT, &["messages"], &filter, &self.list).await?;
        if context.out.json {
            return rows.json(context);
        }
        let mut table = Table::new(&["ID", "FROM", "TO", "TYPE", "STATE", "CREATED", "TRIES", "ERROR"]);
        for row in rows.read::<MessageRow>(context, WHAT)? {
            table.row([
                row.id.chars().take(ID_DIGITS_SHOWN).collect(),
                end(row.source_agent.as_ref(), &row.source_service),
                end(row.agent.as_ref(), &row.service),
                row.message_type,
                row.state,
                time(&row.created),
                row.attempts.to_string(),
                row.error.unwrap_or_default(),
            ]);
        }
        context.out.table(&table, "No messages.")?;
        rows.note_more(context);
        Ok(())
    }
}

async fn show(context: &Context, id: &str, raw: bool) -> Result<(), Failure> {
    let id = resolve::message(context, id).await?;
    let what = format!("could not show message {id}");
    let answer = context.api.get(&what, &["messages", &id], &()).await?;
    let row: MessageRow = context.api.read(&what, &answer)?;
    if raw {
        let Some(bytes) = row.data.as_deref().and_then(unbase64) else {
            let why = "the message has no data, or it is no longer kept";
            return Err(Failure::new(Exit::NotFound, format!("could not write the data of message {id}"), why));
        };
        return context.out.foreign(&bytes);
    }
    if context.out.json {
        return context.out.json(&answer);
    }
    context.out.pairs(&[
        ("Id", row.id.clone()),
        ("From", end(row.source_agent.as_ref(), &row.source_service)),
        ("To", end(row.agent.as_ref(), &row.service)),
        ("Type", row.message_type.clone()),
        ("State", row.state.clone()),
        ("Error", row.error.clone().unwrap_or_default()),
        ("Created", time(&row.created)),
        ("Due", row.due.as_deref().map(time).unwrap_or_default()),
        ("Expires", row.expires.as_deref().map(time).unwrap_or_default()),
        ("Tries", row.attempts.to_string()),
        ("Done", row.processed.as_deref().map(time).unwrap_or_default()),
        ("From a blocked machine", if row.from_blocked { "yes".to_owned() } else { String::new() }),
        ("Data is", row.type_url.clone().unwrap_or_default()),
    ])?;
    for pair in &row.annotations {
        context.out.line(&crate::output::safe(&format!("  {} = {}", pair.key, pair.value)))?;
    }
    if row.data.is_some() {
        context.out.line(&format!("\n{}", data_text(&row)))?;
    }
    answers(context, &what, &id).await
}

/// Fetches the answers to a message, oldest first.
async fn answers_of(context: &Context, what: &str, id: &str) -> Result<Vec<Value>, Failure> {
    let answers = context.api.get(what, &["messages", id, "answers"], &()).await?;
    Ok(context.api.read::<Page<Value>>(what, &answers)?.items)
}

async fn answers(context: &Context, what: &str, id: &str) -> Result<(), Failure> {
    for answer in answers_of(context, what, id).await? {
        let answer: MessageRow = context.api.read(what, &answer)?;
        let from = end(answer.source_agent.as_ref(), &answer.source_service);
        let at = time_or_dash(Some(&answer.created));
        context.out.line(&format!(
            "\n{}\n{}",
            crate::output::safe(&format!("Answer {at} from {from}")),
            data_text(&answer)
        ))?;
    }
    Ok(())
}

impl Change {
    async fn run(self, context: &Context, verb: &str) -> Result<(), Failure> {
        let mut answers = Vec::new();
        for text in &self.ids {
            let id = resolve::message(context, text).await?;
            let what = format!("could not {verb} message {id}");
            let answer = context.api.send(&what, Method::POST, &["messages", &id, verb], &self.reason.body()).await?;
            if !context.out.json {
                context.out.line(&crate::output::safe(&format!("{id}  {}", state_of(&answer))))?;
            }
            answers.push(answer);
        }
        if context.out.json { super::agent::one_or_all(context, answers) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_data(bytes: &[u8]) -> MessageRow {
        let row = json!({
            "id": "00", "source_service": "a", "service": "b", "message_type": "", "state": "done", "created": "",
            "attempts": 0, "data": base64(bytes), "annotations": [], "from_blocked": false
        });
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn data_is_shown_as_text_where_it_is_text_and_never_steers_the_terminal() {
        assert_eq!(data_text(&with_data(b"hello\nworld")), "hello\nworld");
        assert_eq!(data_text(&with_data(b"\x1b[2J")), "\\u{1b}[2J");
        assert_eq!(data_text(&with_data(&[0xff, 0])), "2 bytes: ff00");
        assert!(data_text(&with_data(&[0xff; 300])).ends_with('…'));
    }

    #[test]
    fn an_end_names_the_machine_or_the_server() {
        assert_eq!(end(Some(&"11".to_owned()), "x"), "11/x");
        assert_eq!(end(None, "x"), "server/x");
    }
}
