//! One agent of the swarm.

use super::{Phase, Shared, Style};
use crate::identity::Identity;
use crate::link::{Down, Link, Up};
use crate::wire::{self, Address, AggregatedResourceUsage, ContactData, Message, MessageAckData, ResourceUsageData};
use anyhow::{Result, bail};
use muster_core::MessageId;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// The service that the swarm's messages come from, and that takes commands. The server needs one of this name.
pub const SERVICE: &str = "load";

const SYSTEM: &str = "system";
/// A killed server is back within this, so a longer pause would only make the runs longer.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// A request that a killed machine's connection swallowed is given up after this.
const ANSWER_CEILING: Duration = Duration::from_secs(20);
/// Records on their way at once on a stream.
const RECORDS_OPEN_MAX: usize = 4;
/// How many commands each agent takes at once.
const TOKENS: u64 = 100;

/// An agent with what it has not yet delivered.
pub(super) struct SwarmAgent {
    identity: Identity,
    style: Style,
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
    door: usize,
    nonce: u64,
    made: u64,
    /// Oldest first; what is on its way stays here until it is acknowledged.
    outbox: VecDeque<Outgoing>,
    tokens: u64,
    connected: bool,
    remembers: bool,
    /// Commands that are being run, and until when: by one that remembers nothing.
    working: Vec<(Instant, MessageId)>,
}

#[derive(Debug, Clone)]
struct Outgoing {
    id: MessageId,
    message: Message,
}

/// How one connection ended.
enum Ended {
    /// The swarm stops.
    Stop,
    /// The server said that it has nothing more to say.
    Done,
}

impl SwarmAgent {
    pub(super) fn new(
        identity: Identity,
        style: Style,
        number: usize,
        shared: Arc<Shared>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let door = number % shared.plan.doors.len();
        Self {
            identity,
            style,
            shared,
            phase,
            door,
            nonce: 0,
            made: 0,
            outbox: VecDeque::new(),
            tokens: 0,
            connected: false,
            remembers: true,
            working: Vec::new(),
        }
    }

    /// Makes it one that remembers nothing of what it was given.
    pub(super) fn forgetful(self) -> Self {
        Self { remembers: false, ..self }
    }

    /// Keeps in contact until the swarm stops. Fails only when the ledger cannot be written.
    pub(super) async fn run(mut self) -> Result<()> {
        loop {
            let contact = match self.style {
                Style::Poll => self.poll_on_one_connection().await,
                Style::Stream => self.hold_one_stream().await,
            };
            self.set_connected(false);
            match contact {
                Ok(Ended::Stop) => return Ok(()),
                Ok(Ended::Done) => {}
                Err(_) => {
                    self.door = (self.door + 1) % self.shared.plan.doors.len();
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
            if *self.phase.borrow() == Phase::Stop {
                return Ok(());
            }
        }
    }

    async fn open(&self) -> Result<Link> {
        timeout(ANSWER_CEILING, Link::open(self.shared.plan.doors[self.door], &self.identity.tls)).await?
    }

    async fn poll_on_one_connection(&mut self) -> Result<Ended> {
        let mut link = self.open().await?;
        loop {
            self.make_messages(self.shared.plan.batch)?;
            self.finish_work()?;
            let count = self.outbox.len().min(100);
            let contact = self.contact(0..count, TOKENS);
            let answer = timeout(ANSWER_CEILING, link.poll(&contact, &labels())).await??;
            self.set_connected(true);
            self.nonce = answer.sequencing_nonce;
            self.acknowledged(count)?;
            self.take_commands(&answer)?;
            if self.pause().await == Phase::Stop {
                return Ok(Ended::Stop);
            }
        }
    }

    async fn hold_one_stream(&mut self) -> Result<Ended> {
        let link = self.open().await?;
        self.make_messages(self.shared.plan.batch)?;
        let count = self.outbox.len().min(100);
        let first = self.contact(0..count, TOKENS);
        let (mut up, mut down, initial) = timeout(ANSWER_CEILING, link.stream(&first, &labels())).await??;
        self.set_connected(true);
        self.nonce = initial.sequencing_nonce;
        self.tokens = 0;
        self.acknowledged(count)?;
        self.take_commands(&initial)?;
        self.talk(&mut up, &mut down).await
    }

    async fn talk(&mut self, up: &mut Up, down: &mut Down) -> Result<Ended> {
        let mut open_records: VecDeque<usize> = VecDeque::new();
        let mut next_send = Instant::now() + self.shared.plan.pace;
        let mut may_send = true;
        let renew = self.renew_at();
        loop {
            tokio::select! {
                record = down.next() => {
                    let Some(record) = record? else { return Ok(Ended::Done) };
                    if record.ack_index != 0 {
                        let Some(count) = open_records.pop_front() else { bail!("an acknowledgement too many") };
                        self.acknowledged(count)?;
                    }
                    self.take_commands(&record)?;
                    if record.done_sending {
                        may_send = false;
                    }
                    if !may_send && open_records.is_empty() {
                        up.finish().await?;
                        return Ok(Ended::Done);
                    }
                }
                () = sleep_until(renew), if may_send => {
                    may_send = false;
                    if open_records.is_empty() {
                        up.finish().await?;
                        return Ok(Ended::Done);
                    }
                }
                () = sleep_until(next_send), if may_send && open_records.len() < RECORDS_OPEN_MAX => {
                    if *self.phase.borrow() == Phase::Stop {
                        up.finish().await?;
                        return Ok(Ended::Stop);
                    }
                    let on_their_way: usize = open_records.iter().sum();
                    self.make_messages(on_their_way + self.shared.plan.batch)?;
                    self.finish_work()?;
                    let count = (self.outbox.len() - on_their_way).min(100);
                    if count > 0 || self.tokens > 0 {
                        let tokens = std::mem::take(&mut self.tokens);
                        up.send(&self.contact(on_their_way..on_their_way + count, tokens)).await?;
                        open_records.push_back(count);
                    }
                    next_send = Instant::now() + self.shared.plan.pace;
                }
            }
        }
    }

    /// When a stream that begins now is renewed.
    fn renew_at(&self) -> Instant {
        const NEVER: Duration = Duration::from_secs(86_400);
        let after = if self.remembers { NEVER } else { self.shared.plan.forgetful.renew };
        Instant::now() + if after.is_zero() { NEVER } else { after }
    }

    /// Waits one pace, or less when the swarm stops; returns the phase.
    async fn pause(&mut self) -> Phase {
        let pace = self.shared.plan.pace;
        let stopping = self.phase.wait_for(|phase| *phase == Phase::Stop);
        // Either way the phase is read again; a swarm that is gone has stopped.
        drop(timeout(pace, stopping).await);
        *self.phase.borrow()
    }

    fn set_connected(&mut self, connected: bool) {
        if self.connected != connected {
            self.connected = connected;
            if connected {
                self.shared.connected.fetch_add(1, Ordering::Relaxed);
            } else {
                self.shared.connected.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Fills the outbox up to `count` messages, while there is load.
    fn make_messages(&mut self, count: usize) -> Result<()> {
        if *self.phase.borrow() != Phase::Load {
            return Ok(());
        }
        while self.outbox.len() < count {
            self.made += 1;
            let number = i64::try_from(self.made).expect("nobody makes 2^63 messages");
            // Every other message has an effect on the server that can be counted.
            let with_effect = self.made.is_multiple_of(2);
            let name = self.made.to_be_bytes().to_vec();
            let id = if with_effect {
                let usage = AggregatedResourceUsage { mean_user_cpu_rate: 1.0, max_resident_memory: 1 << 20 };
                // Any moment will do, but a report without its times is refused by the original.
                let moment = Some(prost_types::Timestamp { seconds: 1_700_000_000 + number, nanos: 0 });
                let report = ResourceUsageData {
                    process_start_time: moment,
                    data_timestamp: moment,
                    scope: SERVICE.to_owned(),
                    pid: number,
                    resource_usage: Some(usage),
                };
                let data = wire::any("fleetspeak.monitoring.ResourceUsageData", &report);
                self.push(name, (SYSTEM, SYSTEM), "ResourceUsage", data)
            } else {
                let data = wire::any("google.protobuf.BytesValue", &vec![7_u8; 200]);
                self.push(name, (SERVICE, SERVICE), "Load", data)
            };
            self.shared.ledger.sent(id, with_effect.then_some((self.identity.id, number)))?;
        }
        Ok(())
    }

    /// Queues a message from `ends.0` to `ends.1` under the agent's own name for it.
    fn push(&mut self, name: Vec<u8>, ends: (&str, &str), message_type: &str, data: prost_types::Any) -> MessageId {
        let id = MessageId::derive(self.identity.id, ends.0, &name);
        let end = |service: &str| Some(Address { client_id: Vec::new(), service_name: service.to_owned() });
        let message = Message {
            source: end(ends.0),
            destination: end(ends.1),
            source_message_id: name,
            message_type: message_type.to_owned(),
            data: Some(data),
            ..Message::default()
        };
        self.outbox.push_back(Outgoing { id, message });
        self.shared.unsent.fetch_add(1, Ordering::Relaxed);
        id
    }

    fn contact(&self, range: std::ops::Range<usize>, tokens: u64) -> ContactData {
        ContactData {
            sequencing_nonce: self.nonce,
            messages: self.outbox.range(range).map(|outgoing| outgoing.message.clone()).collect(),
            allowed_messages: HashMap::from([(SERVICE.to_owned(), tokens), (SYSTEM.to_owned(), tokens)]),
            remembers: self.remembers,
            ..ContactData::default()
        }
    }

    fn acknowledged(&mut self, count: usize) -> Result<()> {
        for outgoing in self.outbox.drain(..count) {
            self.shared.ledger.acked(outgoing.id)?;
            self.shared.unsent.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Runs what has not run yet and queues the acknowledgement of everything.
    fn take_commands(&mut self, record: &ContactData) -> Result<()> {
        let (mut ids, mut first_time) = (Vec::new(), Vec::new());
        for message in &record.messages {
            let id = MessageId::from_slice(&message.message_id)?;
            let is_first = self.shared.ledger.delivered(id)?;
            if !self.remembers {
                self.working.push((Instant::now() + self.shared.plan.forgetful.work, id));
                continue;
            }
            if is_first {
                first_time.push(id);
            }
            ids.push(message.message_id.clone());
        }
        self.acknowledge_commands(ids)?;
        // Only now, so that a swarm without an open command has no acknowledgement still to make either.
        first_time.into_iter().try_for_each(|id| self.shared.ledger.ran(id))
    }

    /// Ends the commands whose time is over, each as often as it came, and queues their acknowledgement.
    fn finish_work(&mut self) -> Result<()> {
        let now = Instant::now();
        let done: Vec<_> = self.working.extract_if(.., |(until, _)| *until <= now).map(|(_, id)| id).collect();
        self.acknowledge_commands(done.iter().map(|id| id.as_bytes().to_vec()).collect())?;
        done.into_iter().try_for_each(|id| self.shared.ledger.ran(id))
    }

    /// Queues the acknowledgement of commands, and gives back the places they had.
    fn acknowledge_commands(&mut self, ids: Vec<Vec<u8>>) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        self.tokens += ids.len() as u64;
        self.made += 1;
        let name = self.made.to_be_bytes().to_vec();
        let data = wire::any("fleetspeak.MessageAckData", &MessageAckData { message_ids: ids });
        let id = self.push(name, (SYSTEM, SYSTEM), "MessageAck", data);
        self.shared.ledger.sent(id, None)
    }
}

fn labels() -> Vec<String> {
    vec!["swarm".to_owned(), "linux".to_owned()]
}
