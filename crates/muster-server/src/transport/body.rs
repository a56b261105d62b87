//! Bodies: reading those of strangers within limits, and writing ours without holding more than a piece.
//!
//! Stays true: a request's body is read no faster than it is bounded, and no slower than a floor; all bodies together
//! take no more memory than was set aside for them.

use super::answer::Answer;
use super::connection::{Connection, Flight, Stall};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::body::{Frame, SizeHint};
use muster_core::limits;
use muster_engine::Handed;
use muster_proto::inflate::{InflateError, Inflater, More};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Bytes of one piece of a ready-made body.
const PIECE_BYTES: usize = 64 * 1024;
/// Slowest speed at which a body may come, once [`limits::SLOW_READ`] is over: bytes per second.
const SLOW_BYTES_PER_SECOND: u64 = 1024;
/// Bytes that a body may inflate to while it still comes. What is beyond is inflated once all of it is there: then nobody
/// can hold much memory with little on its way.
const INFLATED_AT_ONCE: usize = 1024 * 1024;
/// Bodies that are inflated beyond that at the same time.
const INFLATING_MAX: usize = 2;
/// Steps of inflating after which others have their turn.
const INFLATE_STEPS: usize = 16;

/// Memory set aside for bodies that are being read, all connections together.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicUsize,
    /// Taken by whoever inflates a body beyond its first bytes.
    inflating: Semaphore,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes), inflating: Semaphore::new(INFLATING_MAX) })
    }

    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), bytes: 0 }
    }
}

/// What one body has of the budget; given back on drop.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Answer> {
        let taken = self.budget.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(bytes));
        taken.map_err(|_| {
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, "too much is being received right now, come again")
                .retry_after(Duration::from_secs(1))
                .closing()
        })?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives all of it back.
    pub(super) fn release(&mut self) {
        self.budget.left.fetch_add(std::mem::take(&mut self.bytes), Ordering::AcqRel);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
    }
}

/// Checks the announced length of a body and how it is encoded; returns whether it is deflated.
pub(super) fn announced(headers: &HeaderMap) -> Result<Encoding, Answer> {
    if let Some(length) = headers.get(CONTENT_LENGTH) {
        let length = length.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        let length = length.ok_or_else(|| Answer::bad_request("content length is no number").closing())?;
        if length > limits::CONTACT_BYTES_MAX as u64 {
            return Err(too_large(&format!("content length too large: {length}")));
        }
    }
    encoding(headers)
}

/// How a request's body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Deflate,
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Answer> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let Some(value) = values.next() else { return Ok(Encoding::Plain) };
    let text = String::from_utf8_lossy(value.as_bytes());
    if values.next().is_none() {
        match text.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => return Ok(Encoding::Plain),
            "deflate" => return Ok(Encoding::Deflate),
            _ => {}
        }
    }
    let text: String = text.chars().take(64).collect();
    Err(Answer::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("unsupported content encoding: {text}")).closing())
}

fn too_large(text: &str) -> Answer {
    Answer::new(StatusCode::PAYLOAD_TOO_LARGE, text).closing()
}

fn too_long() -> Answer {
    too_large(&format!("the body is longer than {} bytes", limits::CONTACT_BYTES_MAX))
}

fn too_slow() -> Answer {
    Answer::new(StatusCode::REQUEST_TIMEOUT, "the body comes too slowly").closing()
}

pub(super) fn inflate_answer(error: &InflateError) -> Answer {
    if error.is_size() { too_large(&error.to_string()) } else { Answer::bad_request(error.to_string()).closing() }
}

/// A floor under the speed of something that is being read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    started: Instant,
    bytes: u64,
}

impl Pace {
    pub(super) fn start() -> Self {
        Self { started: Instant::now(), bytes: 0 }
    }

    pub(super) fn came(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// By when more must have come.
    pub(super) fn deadline(&self) -> Instant {
        self.started + limits::SLOW_READ + Duration::from_secs(self.bytes / SLOW_BYTES_PER_SECOND)
    }
}

/// The next piece of a request's body; `None` at its end.
pub(super) async fn piece(incoming: &mut Incoming) -> Result<Option<Bytes>, Answer> {
    loop {
        let Some(frame) = incoming.frame().await else { return Ok(None) };
        let frame = frame.map_err(|_| Answer::bad_request("error reading body").closing())?;
        // Trailers say nothing here.
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
}

/// Reads a whole body, inflated.
pub(super) async fn read_all(mut incoming: Incoming, encoding: Encoding, share: &mut Share) -> Result<Bytes, Answer> {
    let mut pace = Pace::start();
    let mut whole = Whole::new(encoding);
    loop {
        let next = timeout_at(pace.deadline(), piece(&mut incoming)).await.map_err(|_| too_slow())??;
        let Some(next) = next else { return whole.finish(share).await };
        pace.came(next.len());
        whole.add(next, share)?;
    }
}

enum Whole {
    /// Nothing came yet, or one piece: most contacts are one, and need no copy.
    Piece(Bytes),
    Pieces(BytesMut),
    Deflated(Box<Deflated>),
}

/// A deflated body.
struct Deflated {
    inflater: Inflater,
    read: usize,
    output: Vec<u8>,
    /// What has come and is inflated at the end.
    rest: BytesMut,
}

impl Deflated {
    fn new() -> Self {
        let inflater = Inflater::new(limits::CONTACT_BYTES_MAX as u64);
        Self { inflater, read: 0, output: Vec::new(), rest: BytesMut::new() }
    }

    fn add(&mut self, piece: &[u8], share: &mut Share) -> Result<(), Answer> {
        self.read += piece.len();
        if self.read > limits::CONTACT_BYTES_MAX {
            return Err(too_long());
        }
        let mut left = piece;
        while self.output.len() < INFLATED_AT_ONCE {
            match self.step(left, share)? {
                (rest, More::Maybe) => left = rest,
                (_, More::No) => return Ok(()),
            }
        }
        append(&mut self.rest, left, share)
    }

    fn step<'a>(&mut self, input: &'a [u8], share: &mut Share) -> Result<(&'a [u8], More), Answer> {
        let before = self.output.len();
        let step = self.inflater.step(input, &mut self.output).map_err(|error| inflate_answer(&error))?;
        share.take(self.output.len() - before)?;
        Ok(step)
    }

    async fn finish(mut self, share: &mut Share) -> Result<Bytes, Answer> {
        if self.output.len() >= INFLATED_AT_ONCE {
            let budget = Arc::clone(&share.budget);
            let _turn = budget.inflating.acquire().await.expect("it is never closed");
            // Once, instead of twice as much again and again; what is not written to takes no memory.
            self.output.reserve_exact(limits::CONTACT_BYTES_MAX.saturating_sub(self.output.len()));
            let rest = std::mem::take(&mut self.rest).freeze();
            let mut left = &rest[..];
            for steps in 1.. {
                match self.step(left, share)? {
                    (rest, More::Maybe) => left = rest,
                    (_, More::No) => break,
                }
                if steps % INFLATE_STEPS == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        self.inflater.finish().map_err(|error| inflate_answer(&error))?;
        Ok(self.output.into())
    }
}

impl Whole {
    fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Plain => Self::Piece(Bytes::new()),
            Encoding::Deflate => Self::Deflated(Box::new(Deflated::new())),
        }
    }

    fn add(&mut self, piece: Bytes, share: &mut Share) -> Result<(), Answer> {
        match self {
            Self::Piece(first) if first.is_empty() => {
                share.take(piece.len())?;
                *first = piece;
            }
            Self::Piece(first) => {
                let mut pieces = BytesMut::from(std::mem::take(first));
                append(&mut pieces, &piece, share)?;
                *self = Self::Pieces(pieces);
            }
            Self::Pieces(pieces) => {
                if pieces.len() + piece.len() > limits::CONTACT_BYTES_MAX {
                    return Err(too_long());
                }
                append(pieces, &piece, share)?;
            }
            Self::Deflated(deflated) => deflated.add(&piece, share)?,
        }
        Ok(())
    }

    async fn finish(self, share: &mut Share) -> Result<Bytes, Answer> {
        match self {
            Self::Piece(piece) => Ok(piece),
            Self::Pieces(pieces) => Ok(pieces.freeze()),
            // Boxed, because most bodies need no room for it.
            Self::Deflated(deflated) => Box::pin(deflated.finish(share)).await,
        }
    }
}

fn append(pieces: &mut BytesMut, piece: &[u8], share: &mut Share) -> Result<(), Answer> {
    share.take(piece.len())?;
    pieces.extend_from_slice(piece);
    Ok(())
}

/// Why an answer broke off in the middle.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub(super) struct BrokenOff;

/// Where a body's work puts the next piece. It holds one piece, and whoever puts a second waits until the first was taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Outlet(Arc<Mutex<Option<Put>>>);

/// A piece that waits to be taken.
#[derive(Debug)]
struct Put {
    piece: Result<Bytes, BrokenOff>,
    /// Noted when it is taken: from then on it may arrive.
    handed: Option<Handed>,
}

impl Outlet {
    /// Puts a piece, as soon as there is room. May only be awaited in the work of the body it belongs to.
    pub(super) async fn put(&self, piece: Bytes) {
        self.put_in(Put { piece: Ok(piece), handed: None }).await;
    }

    /// The same of a piece that holds messages.
    pub(super) async fn put_noted(&self, piece: Bytes, handed: Handed) {
        self.put_in(Put { piece: Ok(piece), handed: Some(handed) }).await;
    }

    async fn put_in(&self, put: Put) {
        let mut piece = Some(put);
        std::future::poll_fn(|_| {
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.is_some() {
                // Whoever takes the piece polls the work again, so nobody needs to be woken.
                return Poll::Pending;
            }
            *slot = piece.take();
            Poll::Ready(())
        })
        .await;
    }

    /// Waits until the piece that was put is taken and more is asked for, so that nothing is made ahead. As `put`, for
    /// the work of the body only.
    pub(super) async fn taken(&self) {
        let is_taken = || self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        std::future::poll_fn(|_| if is_taken() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Breaks the body off, so that its reader notices.
    pub(super) fn break_off(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Put { piece: Err(BrokenOff), handed: None });
    }

    fn take(&self) -> Option<Result<Bytes, BrokenOff>> {
        let put = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        if let Some(handed) = put.handed {
            handed.note();
        }
        Some(put.piece)
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

enum Content {
    Full(Bytes),
    Work { outlet: Outlet, work: Option<Work>, left: Option<u64> },
}

/// The body of an answer.
pub(super) struct Body {
    content: Content,
    /// Notices when nobody takes what is ready.
    stall: Option<Stall>,
    /// The request that it answers, which is over when the body is.
    flight: Option<Flight>,
}

impl Body {
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self { content: Content::Full(bytes.into()), stall: None, flight: None }
    }

    /// A body that `work` makes piece by piece, on the connection's own task.
    pub(super) fn work(outlet: Outlet, length: Option<u64>, work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { content: Content::Work { outlet, work: Some(Box::pin(work)), left: length }, stall: None, flight: None }
    }

    /// The same body, watched for a reader that takes nothing.
    pub(super) fn watched(mut self, connection: &Arc<Connection>, flight: Flight) -> Self {
        self.flight = Some(flight);
        let is_small = matches!(&self.content, Content::Full(bytes) if bytes.len() <= PIECE_BYTES);
        if !is_small {
            self.stall = Some(connection.stall());
        }
        self
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        match &mut self.content {
            Content::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Full(bytes) => Poll::Ready(Some(Ok(bytes.split_to(bytes.len().min(PIECE_BYTES))))),
            Content::Work { outlet, work, left } => {
                let mut taken = outlet.take();
                if taken.is_none() {
                    if let Some(running) = work
                        && running.as_mut().poll(cx).is_ready()
                    {
                        *work = None;
                    }
                    taken = outlet.take();
                }
                match (taken, work) {
                    (Some(Ok(piece)), _) => {
                        *left = left.map(|left| left.saturating_sub(piece.len() as u64));
                        Poll::Ready(Some(Ok(piece)))
                    }
                    (Some(Err(broken)), _) => Poll::Ready(Some(Err(broken))),
                    (None, None) => Poll::Ready(None),
                    (None, Some(_)) => Poll::Pending,
                }
            }
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let polled = self.poll_content(cx);
        if let Some(stall) = &self.stall {
            stall.polled(polled.is_ready());
        }
        Poll::Ready(ready!(polled).map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Work { left: Some(left), .. } => SizeHint::with_exact(*left),
            Content::Work { .. } => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn lengths_and_encodings_are_judged_before_a_byte_is_read() {
        let status = |pairs: &[_]| announced(&headers(pairs)).map_err(|answer| answer.status.as_u16());
        assert_eq!(status(&[]), Ok(Encoding::Plain));
        assert_eq!(status(&[(CONTENT_LENGTH, "20971520")]), Ok(Encoding::Plain));
        assert_eq!(status(&[(CONTENT_LENGTH, "20971521")]), Err(413));
        assert_eq!(status(&[(CONTENT_ENCODING, "Deflate")]), Ok(Encoding::Deflate));
        assert_eq!(status(&[(CONTENT_ENCODING, "gzip")]), Err(415));
        assert_eq!(status(&[(CONTENT_ENCODING, "br")]), Err(415));
        assert_eq!(status(&[(CONTENT_ENCODING, "deflate, deflate")]), Err(415));
        let mut twice = headers(&[(CONTENT_ENCODING, "deflate")]);
        twice.append(CONTENT_ENCODING, HeaderValue::from_static("deflate"));
        assert_eq!(announced(&twice).map_err(|answer| answer.status.as_u16()), Err(415));
    }

    #[test]
    fn bodies_share_one_budget_and_give_back() {
        let budget = Budget::new(10);
        let (mut one, mut other) = (budget.share(), budget.share());
        assert_eq!(one.take(8), Ok(()));
        assert_eq!(other.take(3).map_err(|answer| answer.status.as_u16()), Err(503));
        assert_eq!(other.take(2), Ok(()));
        drop(one);
        assert_eq!(other.take(8), Ok(()));
    }

    #[tokio::test]
    async fn work_puts_its_pieces_one_by_one() {
        let outlet = Outlet::default();
        let sender = outlet.clone();
        let body = Body::work(outlet, Some(6), async move {
            for piece in ["ab", "cd", "ef"] {
                sender.put(Bytes::from_static(piece.as_bytes())).await;
            }
        });
        assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(6));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcdef");
        let outlet = Outlet::default();
        let sender = outlet.clone();
        let broken = Body::work(outlet, Some(6), async move { sender.break_off() });
        assert!(broken.collect().await.is_err());
    }
}
