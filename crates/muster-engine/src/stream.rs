//! Streams: contacts that stay open.
//!
//! Stays true: a stream is registered before it first looks for messages, so that nothing falls between; what was
//! taken from the store for a stream and never left falls due at once when the stream breaks; what may have arrived falls
//! due within seconds for an agent that remembers what it was given, and for any other after its whole lease, because that
//! one would run it twice; a stream that waits holds no task and no timer of the engine's, only those of whoever waits in
//! [`StreamOut::next`].

use crate::contact::{
    Admitted, ContactFrom, Kind, Refusal, RefusalCode, blocked, deleted, rate_refusal, shape_check, too_many_services,
};
use crate::engine::{Chain, Inner};
use crate::handing::{Claimed, Unsent};
use crate::intake::Judged;
use crate::jobs::{Ended, Over};
use crate::portion::Portion;
use crate::registry::{Held, Stream, wake};
use metrics::{counter, gauge};
use muster_core::contact::{ContactAnswer, ContactData};
use muster_core::{AgentId, AgentState, ContactId, Message, Timestamp, limits, retry, system};
use muster_store::StoreError;
use muster_store::agents::{Claim, Effect, Intake, RecordPut};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

pub use crate::handing::Handed;

/// What a stream has to send.
#[derive(Debug)]
pub enum StreamEvent {
    /// Messages for the agent, at most 100.
    Messages(Vec<Message>),
    /// The stream must end: say `done_sending`, wait for outstanding records, close.
    End(StreamEnd),
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// Its time is over.
    Life,
    /// The server stops.
    Stopping,
    /// Another stream of the same agent has taken its place.
    Replaced,
    /// The agent was deleted or blocked, or has acknowledged that it makes a new key: close at once.
    Gone,
}

/// An open stream, as [`crate::Engine::stream_open`] gives it.
#[derive(Debug)]
pub struct OpenStream {
    /// The first answer.
    pub answer: ContactAnswer,
    /// For the side that reads.
    pub incoming: StreamIn,
    /// For the side that writes.
    pub outgoing: StreamOut,
}

/// The reading side of a stream. Dropping both sides ends the stream for the engine.
pub struct StreamIn {
    held: Arc<Held>,
}

impl fmt::Debug for StreamIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamIn").field("stream", &self.held.stream).finish_non_exhaustive()
    }
}

impl StreamIn {
    /// Stores a further record; acknowledge it only when this returns `Ok`, and close the stream when it does not.
    ///
    /// An agent that sends more than it may is not refused at once: this waits, and so does the agent.
    pub async fn record(&mut self, from: &ContactFrom, data: ContactData) -> Result<(), Refusal> {
        let Held { inner, stream } = &*self.held;
        let recorded = inner.stream_record(stream, from, data).await;
        inner.contact_judged(Kind::Record, from, stream.agent, recorded).await
    }
}

/// The writing side of a stream.
pub struct StreamOut {
    held: Arc<Held>,
    /// What is being taken from the store: a task of its own, so that a wait that is given up loses nothing, and that a
    /// stream whose reader is slow holds nothing that others wait for.
    work: Option<JoinHandle<Collected>>,
    ends: Instant,
    /// When to look again without being woken, and for what.
    later: Option<(Instant, u8)>,
    failures: u32,
    /// What was given out last, until it is known to be the connection's.
    claimed: Vec<Claimed>,
}

impl fmt::Debug for StreamOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamOut").field("stream", &self.held.stream).finish_non_exhaustive()
    }
}

impl StreamOut {
    /// Waits until there is something to send. Dropping the future loses nothing.
    pub async fn next(&mut self) -> StreamEvent {
        loop {
            if let Some(end) = self.lost_end() {
                return StreamEvent::End(end);
            }
            if let Some(work) = &mut self.work {
                // Only a defect or the end of the process ends a task without its result.
                let collected =
                    work.await.unwrap_or_else(|_| Collected { failed: wake::MESSAGES, ..Collected::default() });
                self.work = None;
                let messages = self.collected(collected);
                if !messages.is_empty() {
                    return StreamEvent::Messages(messages);
                }
                continue;
            }
            if let Some(end) = self.timely_end() {
                return StreamEvent::End(end);
            }
            let wanted = self.held.stream.take_work() | self.take_later();
            if wanted != 0 {
                self.work = Some(tokio::spawn(collect(Arc::clone(&self.held), wanted)));
                continue;
            }
            let until = self.later.map_or(self.ends, |(at, _)| at.min(self.ends));
            tokio::select! {
                () = self.held.stream.rung() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// The mark of the messages that were given out last: note it when their bytes are the connection's. What is never
    /// noted is taken for unsent once the stream is dropped.
    pub fn handed(&self) -> Handed {
        self.claimed.last().map_or_else(Handed::default, |claimed| claimed.handed.clone())
    }

    /// When the stream's time is over: [`StreamEnd::Life`] comes then.
    pub fn ends(&self) -> Instant {
        self.ends
    }

    /// An end that makes what is still on its way worthless.
    fn lost_end(&self) -> Option<StreamEnd> {
        let stream = &self.held.stream;
        if stream.is_marked(wake::GONE) {
            return Some(StreamEnd::Gone);
        }
        stream.is_marked(wake::REPLACED).then_some(StreamEnd::Replaced)
    }

    /// An end that waits for what was taken from the store already.
    fn timely_end(&self) -> Option<StreamEnd> {
        if self.held.inner.stopping.is_cancelled() {
            return Some(StreamEnd::Stopping);
        }
        (Instant::now() >= self.ends).then_some(StreamEnd::Life)
    }

    fn take_later(&mut self) -> u8 {
        match self.later {
            Some((at, wanted)) if at <= Instant::now() => {
                self.later = None;
                wanted
            }
            _ => 0,
        }
    }

    fn collected(&mut self, Collected { messages, again, failed, claimed }: Collected) -> Vec<Message> {
        self.claimed.retain(|earlier| !earlier.handed.is_noted());
        self.claimed.extend(claimed);
        self.held.stream.mark(again);
        if failed == 0 {
            self.failures = 0;
        } else {
            let jitter = self.held.inner.outside.random.unit();
            let wait = retry::backoff(Duration::from_millis(200), Duration::from_secs(5), self.failures, jitter);
            self.failures = self.failures.saturating_add(1);
            self.look_later(Instant::now() + wait, failed);
        }
        messages
    }

    fn look_later(&mut self, at: Instant, wanted: u8) {
        self.later = Some(self.later.map_or((at, wanted), |(then, also)| (then.min(at), also | wanted)));
    }
}

/// What was taken from the store for a stream.
#[derive(Debug, Default)]
struct Collected {
    messages: Vec<Message>,
    /// What there is more of.
    again: u8,
    /// What did not work.
    failed: u8,
    /// Gives the messages back when they never leave.
    claimed: Option<Claimed>,
}

/// Takes from the store what a stream was woken for. The stream stays registered until that is done, so that its end
/// lets everything fall due again that it was given.
async fn collect(held: Arc<Held>, wanted: u8) -> Collected {
    let mut collected = held.inner.stream_collect(&held.stream, wanted).await;
    if !collected.messages.is_empty() {
        collected.claimed = Some(Claimed::new(&held, &collected.messages));
    }
    counter!("muster_engine_messages_out_total", "kind" => "stream").increment(collected.messages.len() as u64);
    collected
}

impl Inner {
    pub(crate) async fn stream_open(
        self: &Arc<Self>,
        from: ContactFrom,
        data: ContactData,
    ) -> Result<OpenStream, Refusal> {
        let agent = from.agent();
        let (tokens, remembers) = (data.allowed.clone(), data.remembers);
        let admitted = self.contact_admit(Kind::Stream, &from, data).await;
        let Admitted { now, nonce, recorded, rest } = self.contact_judged(Kind::Stream, &from, agent, admitted).await?;
        let stream = Stream::new(agent, recorded.contact, recorded.state, tokens).of_one_that(remembers);
        let stream = Arc::new(stream);
        self.streams.register(&stream);
        self.streams_gauge();
        let held = Arc::new(Held { inner: Arc::clone(self), stream: Arc::clone(&stream) });
        let mut outgoing = StreamOut {
            held: Arc::clone(&held),
            work: None,
            ends: Instant::now() + self.config.stream_life,
            later: None,
            failures: 0,
            claimed: Vec::new(),
        };
        // Only now, when the stream is one that ends: the database has it as held here already.
        self.stream_portions(&stream, &from, rest, now).await?;
        if remembers {
            self.earlier_release(agent, now, &mut outgoing).await;
        }
        let first = match recorded.state {
            AgentState::Enrolled => wake::MESSAGES,
            AgentState::Rekeying | AgentState::Replaced => wake::REKEY,
            AgentState::Waiting | AgentState::Blocked | AgentState::Deleted => 0,
        };
        let messages = outgoing.collected(collect(Arc::clone(&held), first).await);
        if recorded.state == AgentState::Enrolled {
            stream.mark(wake::BROADCASTS);
        }
        let answer = ContactAnswer { nonce, messages, state: recorded.state };
        Ok(OpenStream { answer, incoming: StreamIn { held }, outgoing })
    }

    /// Lets what an earlier contact was handed, and the acknowledgements of this one did not name, come again soon.
    async fn earlier_release(&self, agent: AgentId, now: Timestamp, outgoing: &mut StreamOut) {
        match self.store.message_release(agent, now.plus(limits::STREAM_RELEASE)).await {
            Ok(0) => {}
            Ok(_) => outgoing.look_later(Instant::now() + limits::STREAM_RELEASE, wake::MESSAGES),
            Err(failure) => {
                self.saw(&failure);
                warn!(error = %Chain(&failure), agent.id = %agent, "could not release messages of an earlier contact");
            }
        }
    }

    /// Takes from the store what a stream was woken for.
    async fn stream_collect(&self, stream: &Stream, wanted: u8) -> Collected {
        let mut collected = Collected::default();
        if wanted & wake::REKEY != 0 && stream.state().owes_key() {
            match self.rekey_order(stream.agent, stream.contact).await {
                Some(order) => {
                    stream.rekey_note(order.id);
                    collected.messages.push(order);
                }
                None => collected.failed |= wake::REKEY,
            }
            return collected;
        }
        if stream.state() != AgentState::Enrolled {
            return collected;
        }
        if wanted & wake::MESSAGES != 0 {
            self.stream_claim(stream, &mut collected).await;
        }
        if wanted & wake::BROADCASTS != 0 {
            let room = limits::CONTACT_MESSAGES_MAX - collected.messages.len();
            match self.broadcasts_stream(stream, room).await {
                Ok((messages, true)) => collected.messages.extend(messages),
                Ok((messages, false)) => {
                    collected.messages.extend(messages);
                    collected.again |= wake::BROADCASTS;
                }
                Err(failure) => {
                    self.collect_failed("give broadcasts to a stream", stream, &failure);
                    collected.failed |= wake::BROADCASTS;
                }
            }
        }
        collected
    }

    async fn stream_claim(&self, stream: &Stream, collected: &mut Collected) {
        let limit = u32::try_from(limits::CONTACT_MESSAGES_MAX).expect("100 fits 32 bits");
        let offered = stream.tokens();
        let claim = Claim { limit, per_service: offered.clone(), lease: limits::AGENT_RETRY };
        match self.store.message_claim_due(stream.agent, claim, Some(stream.contact), self.now()).await {
            Ok(messages) => {
                let allowed_more = stream.tokens_spend(&messages, offered.as_ref());
                let is_rekey = |message: &&Message| {
                    message.destination.service == system::SERVICE && message.message_type == system::REKEY_REQUEST
                };
                if let Some(rekey) = messages.iter().rfind(is_rekey) {
                    stream.rekey_note(rekey.id);
                }
                if allowed_more || messages.len() >= limits::CONTACT_MESSAGES_MAX {
                    collected.again |= wake::MESSAGES;
                }
                collected.messages = messages;
            }
            Err(failure) => {
                self.collect_failed("take messages for a stream", stream, &failure);
                collected.failed |= wake::MESSAGES;
            }
        }
    }

    fn collect_failed(&self, doing: &'static str, stream: &Stream, failure: &StoreError) {
        self.saw(failure);
        counter!("muster_engine_stream_failures_total").increment(1);
        // The jobs say it once, loudly; here it may happen to thousands of streams in the same second.
        debug!(error = %Chain(failure), agent.id = %stream.agent, "could not {doing}, trying again");
    }

    async fn stream_record(&self, stream: &Stream, from: &ContactFrom, data: ContactData) -> Result<(), Refusal> {
        let agent = stream.agent;
        if from.agent() != agent {
            return Err(self.key_mismatch(agent, from));
        }
        shape_check(&data)?;
        self.rate_wait(stream, data.messages.len()).await?;
        let portions = self.portions(data.messages);
        self.stream_portions(stream, from, portions, self.now()).await?;
        if from.leaving {
            self.leaving_note(agent, stream.contact).await;
        }
        stream.tokens_add(data.allowed).map_err(|_| too_many_services())
    }

    /// Stores what a stream brings, and does what that means for it.
    async fn stream_portions(
        &self,
        stream: &Stream,
        from: &ContactFrom,
        portions: Vec<Portion>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let agent = stream.agent;
        let mut speaks = Speaks::default();
        for portion in portions {
            let _room = self.room_for(&portion).await;
            let judged = self.intake(agent, from, portion.messages, now);
            speaks.hear(&judged.intake, stream);
            let stored = self.record_store(agent, from, stream.contact, (judged, now)).await;
            match &stored {
                Ok(state) => stream.state_note(*state),
                Err(refusal) if refusal.code == RefusalCode::Deleted => stream.state_note(AgentState::Deleted),
                Err(refusal) if refusal.code == RefusalCode::Blocked => stream.state_note(AgentState::Blocked),
                Err(_) => {}
            }
            stored?;
        }
        if speaks.labels {
            stream.broadcasts_again();
        }
        if speaks.took_rekey {
            // The agent has its new key now; what comes under the old one is over.
            stream.wake(wake::GONE);
        }
        Ok(())
    }

    /// Stores what was judged besides a contact. Returns the agent's state.
    pub(crate) async fn record_store(
        &self,
        agent: AgentId,
        from: &ContactFrom,
        contact: ContactId,
        (Judged { intake, rejected, after }, at): (Judged, Timestamp),
    ) -> Result<AgentState, Refusal> {
        let recorded = self.store.record_put(RecordPut { agent, contact, at, intake, rejected }).await;
        let recorded = recorded.map_err(|failure| self.refusal_of("store a record", &failure))?.ok_or_else(deleted)?;
        if recorded.state == AgentState::Blocked {
            return Err(blocked());
        }
        self.intake_done(agent, from, &recorded, after).await;
        Ok(recorded.state)
    }

    /// Waits until the agent may send so many messages, or refuses when that would take too long.
    async fn rate_wait(&self, stream: &Stream, messages: usize) -> Result<(), Refusal> {
        if messages == 0 {
            return Ok(());
        }
        let start = Instant::now();
        while let Err(wait) = self.gates.agent(stream.agent, messages) {
            if start.elapsed() + wait > limits::RATE_WAIT_MAX {
                return Err(rate_refusal(wait));
            }
            if self.stopping.run_until_cancelled(sleep(wait)).await.is_none() {
                return Err(Refusal::new(RefusalCode::Stopping, "this server is stopping, come again"));
            }
        }
        Ok(())
    }

    pub(crate) fn stream_closed(&self, stream: &Arc<Stream>) {
        let replaced = !self.streams.remove(stream);
        self.streams_gauge();
        self.ends_open.fetch_add(1, Ordering::AcqRel);
        // Without a receiver the server is past its end; the next contact of the agent sets things right.
        let Stream { agent, contact, remembers, .. } = **stream;
        let _ = self.ended.send(Over::Stream(Ended { agent, contact, replaced, remembers }));
    }

    /// Gives back messages that never left, on the way on which ends of streams are told to the store.
    pub(crate) fn unsent_give_back(&self, unsent: Unsent) {
        self.ends_open.fetch_add(1, Ordering::AcqRel);
        // Without a receiver they fall due when their lease is over.
        let _ = self.ended.send(Over::Unsent(unsent));
    }

    fn streams_gauge(&self) {
        #[expect(clippy::cast_precision_loss, reason = "a server holds far fewer than 2^52 streams")]
        gauge!("muster_engine_streams_open").set(self.streams.len() as f64);
    }
}

/// What in a record changes how its stream goes on.
#[derive(Default)]
struct Speaks {
    labels: bool,
    took_rekey: bool,
}

impl Speaks {
    fn hear(&mut self, intake: &[Intake], stream: &Stream) {
        let rekey = stream.rekey();
        let takes = |effect: &Effect| matches!((effect, &rekey), (Effect::Acknowledge(ids), Some(rekey)) if ids.contains(rekey));
        self.labels |= intake.iter().any(|one| matches!(one.effect, Effect::ClientLabels(_)));
        self.took_rekey |= intake.iter().any(|one| takes(&one.effect));
    }
}
