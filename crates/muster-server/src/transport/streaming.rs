//! `POST /streaming-message`: a contact that stays open.
//!
//! Stays true: every record is answered by one acknowledgement, in order, once it is durable; after a record that
//! failed nothing is acknowledged any more, because agents count acknowledgements instead of reading them. Nothing is
//! sent after `done_sending` but acknowledgements. The first record is read before the answer begins: an agent that
//! waits for `100 Continue` gets it only when its body is read before there is an answer.

use super::answer::Answer;
use super::body::{self, Body, Encoding, Outlet, Pace, Share};
use super::connection::Connection;
use super::door::Shared;
use super::message::{begin, decode, octets, with_state};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use metrics::counter;
use muster_core::limits;
use muster_engine::{OpenStream, StreamEnd, StreamEvent, StreamIn, StreamOut};
use muster_proto::contact::answer_to_wire;
use muster_proto::framing::{FrameError, FrameReader, record_bytes};
use muster_proto::inflate::{Inflater, More};
use muster_proto::wire;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

/// How long a stream that was told to end waits for the agent to end it, when the agent is replaced or the server
/// stops; at the end of a stream's life it is [`limits::STREAM_CLOSING`].
const CLOSING_SOON: Duration = Duration::from_secs(2);

/// Answers the start of a stream, and leaves the rest to the answer's body.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Answer> {
    let (key, encoding, incoming) = begin(shared, connection, request).await?;
    let mut records = Records::new(incoming, encoding, shared.budget.share());
    let first = records.first().await?;
    let (from, data) = decode(shared, connection, &key, first, &mut records.share).await?;
    let OpenStream { answer, incoming, outgoing } = shared.engine.stream_open(from, data).await?;
    // Only now: what was read stays in memory until it is stored.
    records.share.release();

    let outlet = Outlet::default();
    let stream = Stream {
        shared: Arc::clone(shared),
        connection: Arc::clone(connection),
        key,
        nonce: answer.nonce,
        outlet: outlet.clone(),
        storing: AtomicBool::new(false),
    };
    let state = answer.state;
    let start = record_bytes(&answer_to_wire(answer.nonce, answer.messages));
    let work = async move { stream.run(start, records, incoming, outgoing).await };
    Ok(with_state(octets(Body::work(outlet, None, work)), state))
}

/// A stream's body, taken apart into records.
struct Records {
    incoming: Incoming,
    inflater: Option<Box<Inflater>>,
    /// A piece that is not inflated to its end.
    deflated: Bytes,
    frames: FrameReader,
    share: Share,
    /// Runs while a record is on its way.
    pace: Option<Pace>,
}

impl Records {
    fn new(incoming: Incoming, encoding: Encoding, share: Share) -> Self {
        let inflater = (encoding == Encoding::Deflate).then(|| Box::new(Inflater::new(u64::MAX)));
        let frames = FrameReader::new(limits::CONTACT_BYTES_MAX);
        Self { incoming, inflater, deflated: Bytes::new(), frames, share, pace: None }
    }

    async fn first(&mut self) -> Result<Bytes, Answer> {
        self.pace = Some(Pace::start());
        let first = timeout_at(Instant::now() + limits::STREAM_FIRST_RECORD, self.next()).await;
        let first =
            first.unwrap_or_else(|_| Err(Answer::bad_request("the first record did not come in time").closing()));
        first?.ok_or_else(|| Answer::bad_request("the stream ended before its first record").closing())
    }

    /// The next record; `None` when the agent has ended the stream between two.
    ///
    /// Dropping the future loses nothing but the wait.
    async fn next(&mut self) -> Result<Option<Bytes>, Answer> {
        loop {
            if let Some(record) = self.frames.record_next().map_err(|error| frame_answer(&error))? {
                self.pace = None;
                return Ok(Some(record));
            }
            if self.inflate()? {
                continue;
            }
            if self.frames.finish().is_err() {
                // The time for a record starts with its first byte.
                self.pace.get_or_insert_with(Pace::start);
            }
            let piece = match self.pace {
                Some(pace) => {
                    timeout_at(pace.deadline(), body::piece(&mut self.incoming)).await.map_err(|_| slow())??
                }
                None => body::piece(&mut self.incoming).await?,
            };
            let Some(piece) = piece else {
                self.frames.finish().map_err(|error| frame_answer(&error))?;
                return Ok(None);
            };
            if let Some(pace) = &mut self.pace {
                pace.came(piece.len());
            }
            self.share.take(piece.len())?;
            match &self.inflater {
                Some(_) => self.deflated = piece,
                None => self.frames.push(piece),
            }
        }
    }

    /// Inflates one step of what is there. Returns whether that gave something.
    fn inflate(&mut self) -> Result<bool, Answer> {
        let Some(inflater) = &mut self.inflater else { return Ok(false) };
        let mut output = Vec::new();
        let (rest, more) = inflater.step(&self.deflated, &mut output).map_err(|error| body::inflate_answer(&error))?;
        let left = rest.len();
        self.deflated = self.deflated.split_off(self.deflated.len() - left);
        if more == More::No {
            self.deflated = Bytes::new();
        }
        if output.is_empty() {
            return Ok(more == More::Maybe);
        }
        self.share.take(output.len())?;
        self.frames.push(output.into());
        Ok(true)
    }
}

fn slow() -> Answer {
    Answer::new(http::StatusCode::REQUEST_TIMEOUT, "the record comes too slowly").closing()
}

fn frame_answer(error: &FrameError) -> Answer {
    Answer::bad_request(error.to_string()).closing()
}

/// An open stream, seen from the wire.
struct Stream {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    key: Vec<u8>,
    nonce: u64,
    outlet: Outlet,
    /// Whether a record is being stored, whose acknowledgement must not be cut off.
    storing: AtomicBool,
}

impl Stream {
    async fn run(self, start: Bytes, mut records: Records, mut incoming: StreamIn, mut outgoing: StreamOut) {
        self.outlet.put_noted(start, outgoing.handed()).await;
        tokio::select! {
            // In this order: what was stored is acknowledged before anything ends the stream.
            biased;
            () = self.read(&mut records, &mut incoming) => {}
            () = self.write(&mut outgoing) => {}
        }
        self.connection.head_expect();
    }

    /// Stores records and acknowledges them, until one fails or the agent ends the stream.
    async fn read(&self, records: &mut Records, incoming: &mut StreamIn) {
        let mut ack_index = 0;
        loop {
            let record = match records.next().await {
                Ok(Some(record)) => record,
                Ok(None) => return,
                Err(answer) => return self.failed(&answer.text),
            };
            self.storing.store(true, Ordering::Relaxed);
            // Boxed, because a stream that waits needs no room for it.
            if let Err(reason) = Box::pin(self.take(record, &mut records.share, incoming)).await {
                return self.failed(&reason);
            }
            records.share.release();
            ack_index += 1;
            let ack = wire::ContactData { ack_index, ..wire::ContactData::default() };
            self.outlet.put(record_bytes(&ack)).await;
            self.storing.store(false, Ordering::Relaxed);
        }
    }

    /// Stores one record. The error is the reason why it was not stored.
    async fn take(&self, record: Bytes, share: &mut Share, incoming: &mut StreamIn) -> Result<(), String> {
        let decoded = decode(&self.shared, &self.connection, &self.key, record, share).await;
        let (from, data) = decoded.map_err(|answer| answer.text)?;
        incoming.record(&from, data).await.map_err(|refusal| refusal.reason)
    }

    fn failed(&self, reason: &str) {
        counter!("muster_transport_streams_failed_total").increment(1);
        debug!(peer = %self.connection.address, reason, "a stream ends at a record that was refused");
    }

    /// Sends what the engine has, and returns when the stream must be closed.
    async fn write(&self, outgoing: &mut StreamOut) {
        let closing = closing_at(outgoing.ends());
        let end = loop {
            let event = tokio::select! {
                event = outgoing.next() => event,
                () = tokio::time::sleep_until(closing) => StreamEvent::End(StreamEnd::Life),
                () = self.shared.stop.cancelled() => StreamEvent::End(StreamEnd::Stopping),
            };
            match event {
                StreamEvent::Messages(messages) => {
                    let record = record_bytes(&answer_to_wire(self.nonce, messages));
                    self.outlet.put_noted(record, outgoing.handed()).await;
                }
                StreamEvent::End(end) => break end,
            }
        };
        counter!("muster_transport_streams_ended_total", "why" => word(end)).increment(1);
        if end != StreamEnd::Gone {
            let done = wire::ContactData { done_sending: true, ..wire::ContactData::default() };
            self.outlet.put(record_bytes(&done)).await;
        }
        let wait = match end {
            StreamEnd::Life => limits::STREAM_CLOSING,
            StreamEnd::Stopping | StreamEnd::Replaced => CLOSING_SOON,
            StreamEnd::Gone => Duration::ZERO,
        };
        sleep(wait).await;
        // A record that is being stored still gets its acknowledgement.
        let patience = Instant::now() + CLOSING_SOON;
        while self.storing.load(Ordering::Relaxed) && Instant::now() < patience {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// When a stream that ends at `ends` stops sending: [`limits::STREAM_CLOSING`] before, or half-way when it is that short.
fn closing_at(ends: Instant) -> Instant {
    let life = ends.saturating_duration_since(Instant::now());
    ends - limits::STREAM_CLOSING.min(life / 2)
}

fn word(end: StreamEnd) -> &'static str {
    match end {
        StreamEnd::Life => "life",
        StreamEnd::Stopping => "stopping",
        StreamEnd::Replaced => "replaced",
        StreamEnd::Gone => "gone",
    }
}
