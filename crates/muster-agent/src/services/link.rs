//! What daemon and socket services share: carrying messages between the hub and a process at the other end of a local
//! channel.

use super::Context;
use super::channel::{ChannelError, ChannelReader, ChannelWriter};
use crate::chain::Chain;
use crate::hub::{Delivery, any};
use crate::usage::{self, Report, Subject, Summary};
use muster_core::{Timestamp, system};
use muster_proto::wire::{self, channel};
use prost::Message as _;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How long local acknowledgements are gathered.
const ACK_GATHER: Duration = Duration::from_millis(20);

/// What is known of the process at the other end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// What it says its process id is.
    pub(crate) pid: Option<i64>,
    /// What it says its version is.
    pub(crate) version: String,
    /// When it last said anything.
    pub(crate) heard: Option<Instant>,
}

/// Hands messages over, until the channel fails. A message that was not written whole stays in `pending`.
pub(super) async fn feed<W: AsyncWrite + Unpin>(
    to: W,
    inbox: &mut mpsc::Receiver<Delivery>,
    pending: &mut Option<Delivery>,
    mut accepted: mpsc::Receiver<bytes::Bytes>,
) -> ChannelError {
    let mut writer = match ChannelWriter::open(to).await {
        Ok(writer) => writer,
        Err(error) => return error,
    };
    let mut acks_open = true;
    loop {
        if let Some(delivery) = pending {
            match writer.write(&delivery.message).await {
                Ok(()) => pending.take().expect("it was looked at just now").done(),
                Err(error) => return error,
            }
            continue;
        }
        let ack = tokio::select! {
            delivery = inbox.recv() => match delivery {
                Some(delivery) => {
                    *pending = Some(delivery);
                    continue;
                }
                // The service is being taken away; whoever does it ends this.
                None => std::future::pending().await,
            },
            ack = accepted.recv(), if acks_open => ack,
        };
        let Some(first) = ack else {
            acks_open = false;
            continue;
        };
        tokio::time::sleep(ACK_GATHER).await;
        let mut ids = vec![first];
        while let Ok(id) = accepted.try_recv() {
            ids.push(id);
        }
        if let Err(error) = writer.write(&local_ack(ids)).await {
            return error;
        }
    }
}

/// Takes what the process says, until the channel fails. Names of messages that were accepted go to `accepted`.
pub(super) async fn listen<R: AsyncRead + Unpin>(
    from: R,
    context: &Context,
    peer: &watch::Sender<Peer>,
    accepted: mpsc::Sender<bytes::Bytes>,
) -> ChannelError {
    let mut reader = match ChannelReader::open(from).await {
        Ok(reader) => reader,
        Err(error) => return error,
    };
    loop {
        let message = match reader.read().await {
            Ok(message) => message,
            Err(error) => return error,
        };
        peer.send_modify(|peer| peer.heard = Some(Instant::now()));
        let to = message.destination.as_ref().map_or("", |to| to.service_name.as_str());
        match (to, message.message_type.as_str()) {
            (system::SERVICE, "StartupData") => take_startup(&message, peer),
            (system::SERVICE, "Heartbeat") => {}
            // What the server's own services are told is the agent's to say: what an order found, what is believed here.
            (system::SERVICE | system::ACTIONS | system::MUSTER | "", other) => {
                tracing::warn!(service = context.name, "a local process sent {other:?}, which goes nowhere; dropped");
            }
            _ => {
                let id = message.source_message_id.clone();
                if let Err(error) = context.hub.forward(&context.name, message).await {
                    context.hub.outbox().count_dropped();
                    tracing::error!(service = context.name, error = %Chain(&error), "a message of a local process is lost");
                } else if !id.is_empty() {
                    // Nobody listens any more when the channel is about to end.
                    let _ = accepted.send(id).await;
                }
            }
        }
    }
}

/// How a process is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    /// Looks in one report.
    pub(super) samples: u32,
    /// Time between two looks, once the first few are over.
    pub(super) period: Duration,
    /// Bytes of resident memory it may use.
    pub(super) memory_max: Option<u64>,
}

/// Looks at a process now and then and tells the server what it uses. Returns when it uses too much memory.
pub(super) async fn watch_usage(
    context: &Context,
    peer: &watch::Receiver<Peer>,
    pid: i32,
    started: Option<Timestamp>,
    watch: &Watch,
) {
    let mut summary = Summary::default();
    for number in 0.. {
        tokio::time::sleep(usage::pause_before(number, watch.period)).await;
        let Ok(sample) = usage::sample(pid) else { continue };
        let count = summary.add(sample);
        let exceeded = watch.memory_max.is_some_and(|most| sample.memory > most);
        if count >= watch.samples || exceeded {
            let version = peer.borrow().version.clone();
            let subject = Subject { scope: context.name.clone(), pid, version };
            usage::report(&context.hub, &context.clock, &subject, started, Report::Usage(summary.take())).await;
        }
        if exceeded {
            return;
        }
    }
}

fn take_startup(message: &wire::Message, peer: &watch::Sender<Peer>) {
    let body = message.data.as_ref().map_or(&[][..], |data| &data.value);
    match channel::StartupData::decode(body) {
        Ok(startup) => peer.send_modify(|peer| {
            peer.pid = Some(startup.pid).filter(|pid| *pid > 0);
            peer.version = muster_core::text::cut(&startup.version, 64);
        }),
        Err(error) => tracing::warn!(%error, "a local process introduced itself with something unreadable"),
    }
}

fn local_ack(ids: Vec<bytes::Bytes>) -> wire::Message {
    wire::Message {
        source: Some(wire::Address { service_name: system::CLIENT.into(), ..wire::Address::default() }),
        message_type: "LocalAck".into(),
        data: Some(any("fleetspeak.MessageAckData", &wire::MessageAckData { message_ids: ids })),
        ..wire::Message::default()
    }
}
