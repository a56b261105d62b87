//! One stream: records up, each acknowledged in its turn, messages down, until one side says that it is done.
//!
//! Stays true: the n-th acknowledgement is for the n-th record, whatever its number says; a record that is not
//! acknowledged when the stream ends goes back to the outbox.

use super::connect::{Body, Connection};
use super::{ContactError, Ended, Introducer, Link};
use crate::config::Compression;
use crate::hub::Tokens;
use crate::outbox::Outbox;
use crate::spool::{Outgoing, SpoolId};
use bytes::{Bytes, BytesMut};
use flate2::write::ZlibEncoder;
use http::header::{CONNECTION, CONTENT_ENCODING, HeaderValue};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use muster_core::{AgentId, limits, text};
use muster_proto::framing::{self, FrameReader};
use muster_proto::wire;
use prost::Message as _;
use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long messages are gathered after a record, so that many small ones share the next.
const GATHER: Duration = Duration::from_millis(10);
/// Bytes of messages in one record.
const RECORD_BYTES_MAX: usize = 7 * 1024 * 1024 + 512 * 1024;
/// Records that may wait for their acknowledgement.
const UNACKNOWLEDGED_MAX: usize = 8;
/// How long the first answer, or an acknowledgement, may take. The original gives a contact five minutes, and uses them
/// when the service behind it is slow; a connection that is dead is noticed sooner, by TCP.
const ANSWER_MAX: Duration = Duration::from_secs(330);
/// How long a stream lives when the server does not end it (as the original: 12 min).
const LIFE_MAX: Duration = Duration::from_mins(12);
/// How long the end of a stream may take.
const CLOSE_MAX: Duration = Duration::from_secs(30);
/// How long it may take when the agent itself stops.
const STOP_MAX: Duration = Duration::from_secs(2);

/// Streams once.
pub(super) async fn session(link: &Link, revoked_due: &mut Instant, contacts: &mut u32) -> Result<Ended, ContactError> {
    let mut identity = link.identity.clone();
    let current = identity.borrow_and_update().clone();
    let mut connection = link.dialer.dial(&current).await.map_err(ContactError::Dial)?;
    if *revoked_due <= Instant::now() {
        // What the list says of this server counts for the next connection.
        link.fetch_revoked(&mut connection, revoked_due).await?;
        // The list may name this very server, or the server closes after each answer.
        connection = link.dialer.dial(&current).await.map_err(ContactError::Dial)?;
    }
    let server = connection.server().to_owned();
    let mut stream = tokio::select! {
        stream = Stream::open(link, &mut connection, current.id) => stream?,
        () = link.stop.cancelled() => return Ok(Ended::Stopping),
    };
    *contacts += 1;
    link.introducer.is_taken(current.id);
    tracing::info!(server, http2 = connection.is_http2(), agent = %current.id, "streaming");
    loop {
        let step = tokio::select! {
            step = stream.step(link) => step?,
            _ = identity.changed(), if !stream.closing => Step::Close,
            () = link.stop.cancelled(), if !stream.stopping => Step::Stop,
        };
        match step {
            Step::Done => break,
            Step::Again => {}
            Step::Close => stream.close(CLOSE_MAX),
            Step::Stop => {
                stream.stopping = true;
                stream.leave(link)?;
                stream.close(STOP_MAX);
            }
        }
    }
    Ok(if stream.stopping { Ended::Stopping } else { Ended::InOrder })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Again,
    Close,
    Stop,
    Done,
}

/// What makes records smaller, or not.
enum Packer {
    Plain,
    Deflate(Box<ZlibEncoder<Vec<u8>>>),
}

impl Packer {
    fn pack(&mut self, bytes: BytesMut) -> std::io::Result<Bytes> {
        match self {
            Self::Plain => Ok(bytes.freeze()),
            Self::Deflate(encoder) => {
                encoder.write_all(&bytes)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()).into())
            }
        }
    }
}

/// Messages on their way. What is left in it when it is dropped goes back to the outbox.
struct Flight {
    outbox: Outbox,
    records: VecDeque<Vec<SpoolId>>,
}

impl Flight {
    fn acknowledge_first(&mut self) -> bool {
        let Some(ids) = self.records.pop_front() else { return false };
        self.outbox.acknowledge(&ids);
        true
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        for ids in &self.records {
            self.outbox.release(ids);
        }
    }
}

struct Stream {
    server: String,
    /// Who this machine is to the server, for as long as the connection lasts.
    me: AgentId,
    /// `None` once this side has ended.
    pieces: Option<mpsc::Sender<Bytes>>,
    packer: Packer,
    answer: Incoming,
    records: FrameReader,
    flight: Flight,
    tokens: Tokens,
    /// Something is to be sent when the time of gathering is over.
    wants: bool,
    gather_until: Instant,
    /// When the oldest unacknowledged record must be acknowledged.
    answer_due: Instant,
    /// When the stream must be over, whatever happens.
    over: Instant,
    closing: bool,
    stopping: bool,
}

impl Stream {
    /// Sends the first record and waits for what answers it.
    async fn open(link: &Link, connection: &mut Connection, me: AgentId) -> Result<Self, ContactError> {
        let server = connection.server().to_owned();
        let outbox = link.hub.outbox().clone();
        let messages = outbox.take(limits::CONTACT_MESSAGES_MAX, RECORD_BYTES_MAX);
        let mut flight = Flight { outbox, records: VecDeque::new() };
        flight.records.push_back(messages.iter().map(|message| message.id).collect());
        let (tokens, free) = link.hub.tokens_at_start();

        let mut packer = match link.config.compression {
            Compression::None => Packer::Plain,
            Compression::Deflate => {
                Packer::Deflate(Box::new(ZlibEncoder::new(Vec::new(), flate2::Compression::fast())))
            }
        };
        let mut bytes = BytesMut::from(&framing::MAGIC[..]);
        framing::record_put(&link.contact(&messages, free), &mut bytes);
        drop(messages);
        let (pieces, body) = mpsc::channel(UNACKNOWLEDGED_MAX + 2);
        let mut request = connection.request(http::Method::POST, "/streaming-message", Body::pieces(body));
        if !connection.is_http2() {
            // The original's server reads an HTTP/1.1 request to its end before it answers, unless the connection is
            // to be closed after the answer. A stream has no end.
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if matches!(packer, Packer::Deflate(_)) {
            request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("deflate"));
        }
        let first = packer.pack(bytes).map_err(|error| ContactError::broken(&server, "packing", error))?;
        pieces.try_send(first).expect("the channel is new and has room");

        let now = Instant::now();
        let response = tokio::time::timeout(ANSWER_MAX, connection.send(request))
            .await
            .map_err(|_| ContactError::Slow { server: server.clone(), after: ANSWER_MAX })?
            .map_err(|error| ContactError::broken(&server, "opening the stream", error))?;
        let status = response.status();
        link.standing.head(response.headers());
        if status != http::StatusCode::OK {
            let text = first_words(response.into_body()).await;
            return Err(ContactError::Refused { server, status, text });
        }
        let mut stream = Self {
            server,
            me,
            pieces: Some(pieces),
            packer,
            answer: response.into_body(),
            records: FrameReader::without_magic(limits::CONTACT_BYTES_MAX),
            flight,
            tokens,
            wants: true,
            gather_until: now,
            answer_due: now + ANSWER_MAX,
            over: now + LIFE_MAX,
            closing: false,
            stopping: false,
        };
        stream.first_answer(link).await?;
        Ok(stream)
    }

    /// Takes the answer to the first record: it has the nonce, and no number.
    async fn first_answer(&mut self, link: &Link) -> Result<(), ContactError> {
        let contact = loop {
            if let Some(record) = self.next_record()? {
                break record;
            }
            let frame = tokio::time::timeout_at(self.answer_due, self.answer.frame())
                .await
                .map_err(|_| ContactError::Slow { server: self.server.clone(), after: ANSWER_MAX })?;
            match frame {
                None => return Err(ContactError::Silent { server: self.server.clone() }),
                Some(frame) => self.push(frame)?,
            }
        };
        link.state.set_nonce(contact.sequencing_nonce);
        link.standing.good(&self.server);
        self.flight.acknowledge_first();
        self.closing |= contact.done_sending;
        link.take_in(self.me, &self.server, contact);
        // What came in the same piece is not kept waiting for the next one.
        self.take_records(link)
    }

    /// Waits for one thing to happen, and deals with it.
    async fn step(&mut self, link: &Link) -> Result<Step, ContactError> {
        self.end_if_possible();
        let unacknowledged = self.flight.records.len();
        let may_send = !self.closing && unacknowledged < UNACKNOWLEDGED_MAX;
        tokio::select! {
            frame = self.answer.frame() => return self.take_frame(link, frame),
            () = link.hub.outbox().ready(), if may_send && !self.wants => self.wants = true,
            () = link.hub.places_freed(), if may_send && !self.wants => self.wants = link.hub.should_tell(&self.tokens),
            () = tokio::time::sleep_until(self.gather_until), if may_send && self.wants => self.send(link)?,
            () = tokio::time::sleep_until(self.answer_due), if unacknowledged > 0 => {
                return Err(ContactError::Slow { server: self.server.clone(), after: ANSWER_MAX });
            }
            () = tokio::time::sleep_until(self.over) => {
                // The first time this is the stream's natural end, the second time the other side never ended.
                return Ok(if self.closing { Step::Done } else { Step::Close });
            }
        }
        Ok(Step::Again)
    }

    fn take_frame(
        &mut self,
        link: &Link,
        frame: Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>,
    ) -> Result<Step, ContactError> {
        let Some(frame) = frame else {
            if self.closing && self.flight.records.is_empty() && self.records.finish().is_ok() {
                return Ok(Step::Done);
            }
            let early = "the server ended the stream without a word";
            return Err(ContactError::broken(&self.server, "streaming", early));
        };
        if self.closing && self.pieces.is_none() && frame.is_err() {
            // Both sides had said all they had to say.
            return Ok(Step::Done);
        }
        self.push(frame)?;
        self.take_records(link)?;
        Ok(Step::Again)
    }

    /// Takes the whole records that are there.
    fn take_records(&mut self, link: &Link) -> Result<(), ContactError> {
        while let Some(contact) = self.next_record()? {
            if contact.ack_index != 0 {
                if !self.flight.acknowledge_first() {
                    let reason = "it acknowledged more records than it was sent".to_owned();
                    return Err(ContactError::Unreadable { server: self.server.clone(), reason });
                }
                self.answer_due = Instant::now() + ANSWER_MAX;
                link.standing.good(&self.server);
            }
            let done = contact.done_sending;
            link.take_in(self.me, &self.server, contact);
            if done {
                self.close(CLOSE_MAX);
            }
        }
        Ok(())
    }

    /// Says that the agent stops, with what is left to say; a stream that ends anyway says no more.
    fn leave(&mut self, link: &Link) -> Result<(), ContactError> {
        if self.closing {
            return Ok(());
        }
        let messages = link.hub.outbox().take(limits::CONTACT_MESSAGES_MAX, RECORD_BYTES_MAX);
        self.put_record(link, &messages, Introducer::last_words())
    }

    fn send(&mut self, link: &Link) -> Result<(), ContactError> {
        let messages = link.hub.outbox().take(limits::CONTACT_MESSAGES_MAX, RECORD_BYTES_MAX);
        if messages.is_empty() && !link.hub.should_tell(&self.tokens) {
            self.wants = false;
            return Ok(());
        }
        self.put_record(link, &messages, Bytes::new())
    }

    fn put_record(&mut self, link: &Link, messages: &[Outgoing], shows: Bytes) -> Result<(), ContactError> {
        let now = Instant::now();
        if self.flight.records.is_empty() {
            self.answer_due = now + ANSWER_MAX;
        }
        self.flight.records.push_back(messages.iter().map(|message| message.id).collect());
        let freed = link.hub.tokens_since(&mut self.tokens);
        let full = messages.len() == limits::CONTACT_MESSAGES_MAX;
        let mut bytes = BytesMut::new();
        let contact = link.contact(messages, freed);
        let contact = wire::WrappedContactData { muster_introduction: shows, ..contact };
        framing::record_put(&contact, &mut bytes);
        let broken = |error: std::io::Error| ContactError::broken(&self.server, "packing", error);
        let piece = self.packer.pack(bytes).map_err(broken)?;
        if let Some(pieces) = &self.pieces {
            // Whatever is unacknowledged fits into the channel, so it is full only when the connection is gone; then
            // the answer side says so.
            let _ = pieces.try_send(piece);
        }
        self.gather_until = if full { now } else { now + GATHER };
        Ok(())
    }

    /// Sends no more, and gives the other side some time for what it owes.
    fn close(&mut self, within: Duration) {
        self.closing = true;
        self.over = self.over.min(Instant::now() + within);
    }

    /// Ends this side once nothing is owed to it.
    fn end_if_possible(&mut self) {
        if self.closing && self.flight.records.is_empty() {
            if let (Some(pieces), Packer::Deflate(encoder)) = (&self.pieces, &mut self.packer)
                && encoder.try_finish().is_ok()
            {
                let _ = pieces.try_send(std::mem::take(encoder.get_mut()).into());
            }
            self.pieces = None;
        }
    }

    fn push(&mut self, frame: Result<hyper::body::Frame<Bytes>, hyper::Error>) -> Result<(), ContactError> {
        let frame = frame.map_err(|error| ContactError::broken(&self.server, "streaming", error))?;
        if let Ok(data) = frame.into_data() {
            self.records.push(data);
        }
        Ok(())
    }

    fn next_record(&mut self) -> Result<Option<wire::ContactData>, ContactError> {
        let unreadable = |reason: String| ContactError::Unreadable { server: self.server.clone(), reason };
        let Some(record) = self.records.record_next().map_err(|error| unreadable(error.to_string()))? else {
            return Ok(None);
        };
        wire::ContactData::decode(record).map(Some).map_err(|error| unreadable(error.to_string()))
    }
}

/// Returns the beginning of a refusal, for people.
pub(super) async fn first_words(body: Incoming) -> String {
    let limited = Limited::new(body, 4096).collect();
    match tokio::time::timeout(Duration::from_secs(5), limited).await {
        Ok(Ok(body)) => {
            let words = text::plain(String::from_utf8_lossy(&body.to_bytes()).trim());
            text::cut(&words.replace('\n', " "), 200)
        }
        _ => "(no readable reason)".to_owned(),
    }
}
