//! Stdin services: one command for each message, its input on standard input, its output as the answer.
//!
//! Stays true: a message that began to run is never run again; when the agent dies in between, the sender is told that
//! the outcome is unknown. Output and time are bounded.

use super::{Context, environment, spawn};
use crate::hub::{Delivery, Mail, any};
use crate::ledger::BeginError;
use muster_core::limits;
use muster_proto::convert;
use muster_proto::wire::stdinservice::{Config, InputMessage, OutputMessage};
use prost::Message as _;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Commands of one service that run at once.
const PARALLEL_MAX: usize = 5;
/// Bytes of output and of errors together that fit into one answer.
const OUTPUT_BYTES_MAX: usize = limits::MESSAGE_BYTES_MAX - 64 * 1024;
/// The type of what is taken.
const INPUT_TYPE: &str = "StdinServiceInputMessage";
/// The type of the answer.
const OUTPUT_TYPE: &str = "StdinServiceOutputMessage";

/// Runs the service until it is stopped.
pub(super) async fn run(config: Config, mut inbox: mpsc::Receiver<Delivery>, context: Context) {
    let config = Arc::new(config);
    let places = Arc::new(Semaphore::new(PARALLEL_MAX));
    let mut commands = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        tokio::select! {
            delivery = inbox.recv() => {
                let Some(delivery) = delivery else { break };
                let (config, context) = (Arc::clone(&config), context.clone());
                commands.spawn(async move {
                    answer(&config, delivery, &context).await;
                    drop(place);
                });
            }
            () = context.stop.cancelled() => break,
        }
        while commands.try_join_next().is_some() {}
    }
    // Those that run see the same stop and end.
    while commands.join_next().await.is_some() {}
}

async fn answer(config: &Config, delivery: Delivery, context: &Context) {
    let input = match read_input(&delivery) {
        Ok(input) => input,
        Err(reason) => return delivery.fail(&reason).await,
    };
    match delivery.begin().await {
        Ok(()) => {}
        Err(error @ BeginError::TooOld { .. }) => return delivery.fail(&error.to_string()).await,
        Err(error) => {
            // Nothing ran yet: the server will send it again.
            tracing::error!(service = context.name, %error, "nothing is run");
            return;
        }
    }
    match execute(config, input, context).await {
        Ok(output) => {
            let data = OutputMessage { timestamp: Some(convert::time_to_wire(context.clock.now())), ..output };
            let mail = Mail {
                from: context.name.clone(),
                to: context.name.clone(),
                message_type: OUTPUT_TYPE.into(),
                data: Some(any("fleetspeak.stdinservice.OutputMessage", &data)),
                ..Mail::default()
            };
            context.hub.send_or_count(mail).await;
            delivery.done();
        }
        Err(reason) => delivery.fail(&reason).await,
    }
}

fn read_input(delivery: &Delivery) -> Result<InputMessage, String> {
    let message = &delivery.message;
    if message.message_type != INPUT_TYPE {
        return Err(format!("a Stdin service takes {INPUT_TYPE}, not {:?}", message.message_type));
    }
    let body = message.data.as_ref().map_or(&[][..], |data| &data.value);
    InputMessage::decode(body).map_err(|error| format!("the message's body is no input: {error}"))
}

async fn execute(config: &Config, input: InputMessage, context: &Context) -> Result<OutputMessage, String> {
    let mut command = Command::new(&config.cmd);
    environment::give(&mut command, &context.environment);
    command.args(&config.args).args(&input.args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn::spawn(&mut command, &[]).map_err(|error| format!("cannot start {}: {error}", config.cmd))?;
    let pid = child.id();
    let outcome = tokio::select! {
        outcome = converse(&mut child, input.input) => outcome,
        () = tokio::time::sleep(context.stdin_timeout) => {
            Err(format!("{} ran longer than {} s and was ended", config.cmd, context.stdin_timeout.as_secs()))
        }
        () = context.stop.cancelled() => Err(format!("the agent stopped while {} ran", config.cmd)),
    };
    // Whatever it started and left behind ends with it.
    if let Some(pid) = pid {
        spawn::kill_group(pid);
    }
    outcome
}

async fn converse(child: &mut Child, input: bytes::Bytes) -> Result<OutputMessage, String> {
    let mut stdin = child.stdin.take().expect("it was asked for");
    let (mut stdout, mut stderr) =
        (child.stdout.take().expect("it was asked for"), child.stderr.take().expect("it was asked for"));
    let write = async move {
        // A command that does not read its input is no failure.
        let _ = stdin.write_all(&input).await;
        drop(stdin);
        Ok(())
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    tokio::try_join!(write, read(&mut stdout, &mut out), read(&mut stderr, &mut err))?;
    let status = child.wait().await.map_err(|error| format!("cannot wait for the command: {error}"))?;
    if !status.success() {
        let words = muster_core::text::cut(String::from_utf8_lossy(&err).trim(), 500);
        return Err(format!("the command ended with {status}: {words}"));
    }
    Ok(OutputMessage { stdout: out.into(), stderr: err.into(), timestamp: None })
}

async fn read(from: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> Result<(), String> {
    let most = OUTPUT_BYTES_MAX / 2;
    from.take(most as u64 + 1).read_to_end(into).await.map_err(|error| format!("cannot read the output: {error}"))?;
    if into.len() > most { Err(format!("the command wrote more than {most} bytes")) } else { Ok(()) }
}
